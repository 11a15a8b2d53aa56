"""What is to be computed, and nothing else: a frozen, hashable Problem. Every error a caller can make is raised here.

A Problem knows shapes and rules but no data, no memory layout and no method. Faces build it from their arguments,
the planner chooses a method for it, the kernels read their geometry from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from operator import index
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ._types import Array, DType, Mode, Pairs, Shape
from .boundary import RULES, SYNONYMS


@dataclass(frozen=True)
class Problem:
    """One correlation: ``y[b, i] = sum over j of k[b, j] * X[b, s*i + d*j - lo]``.

    Sequences have one entry per axis the kernel acts on (`axes`, in the kernel's order). ``canonical`` views have
    all other axes, the batch, first.
    """

    x_shape: Shape
    k_shape: Shape
    dtype: DType  # of the result, native byte order
    axes: Shape  # of x, one per kernel axis, non-negative
    stride: Shape
    dilation: Shape
    padding: Pairs  # (lo, hi), in samples; negative crops
    boundary: tuple[str, ...]  # names in boundary.RULES
    fill: Any  # a scalar of dtype
    flip: bool  # true convolution
    conj: bool

    # What follows from these, all at once: most of the time of a new problem is spent on geometry.
    rank: int = field(init=False, repr=False, compare=False)
    batch_axes: Shape = field(init=False, repr=False, compare=False)
    k_batched: bool = field(
        init=False, repr=False, compare=False
    )  # whether the kernel has the batch axes too (of size 1 where it broadcasts)
    x_batch: Shape = field(init=False, repr=False, compare=False)
    k_batch: Shape = field(init=False, repr=False, compare=False)
    batch_shape: Shape = field(init=False, repr=False, compare=False)
    size: Shape = field(init=False, repr=False, compare=False)  # of x along each kernel axis
    kernel: Shape = field(init=False, repr=False, compare=False)  # taps along each kernel axis
    span: Shape = field(init=False, repr=False, compare=False)  # samples a dilated kernel covers along each axis
    out_size: Shape = field(init=False, repr=False, compare=False)  # of y along each kernel axis
    out_shape: Shape = field(init=False, repr=False, compare=False)  # of y, axes where the caller's x has them

    def __post_init__(self) -> None:
        x, k, axes = self.x_shape, self.k_shape, self.axes
        k_batched = len(k) > len(axes)
        batch_axes = tuple([axis for axis in range(len(x)) if axis not in axes])
        x_batch = tuple([x[axis] for axis in batch_axes])
        k_batch = tuple([k[axis] for axis in batch_axes]) if k_batched else (1,) * len(batch_axes)
        batch_shape = tuple([n if m == 1 else m for n, m in zip(x_batch, k_batch, strict=True)])
        size = tuple([x[axis] for axis in axes])
        kernel = tuple([k[axis] for axis in axes]) if k_batched else k
        span = spans(kernel, self.dilation)
        out_size = out_sizes(size, self.padding, span, self.stride)
        shape = dict(zip(batch_axes + axes, batch_shape + out_size, strict=True))
        self.__dict__.update(
            rank=len(axes),
            batch_axes=batch_axes,
            k_batched=k_batched,
            x_batch=x_batch,
            k_batch=k_batch,
            batch_shape=batch_shape,
            size=size,
            kernel=kernel,
            span=span,
            out_size=out_size,
            out_shape=tuple([shape[axis] for axis in range(len(x))]),
        )

    @cached_property
    def flops(self) -> int:
        """Multiplications and additions of the definition, complex arithmetic counted in reals."""
        return (8 if self.dtype.kind == "c" else 2) * prod(self.out_shape) * prod(self.kernel)

    def canonical(self, a: Array, kernel: bool = False) -> Array:
        """View of x, y or k with batch axes first, then the kernel's axes in its order."""
        if kernel and not self.k_batched:
            return a
        return a.transpose(self.batch_axes + self.axes)

    def uncanonical(self, y: Array) -> Array:
        """The inverse of `canonical`."""
        return y.transpose(tuple(np.argsort(self.batch_axes + self.axes)))

    def part(self, name: str) -> Problem:
        """The real Problem for the `name` ("real", "imag") part of complex data under a real kernel."""
        real = np.empty(0, self.dtype).real.dtype
        return replace(self, dtype=real, fill=getattr(self.fill, name), conj=False)


def per_axis(name: str, value: Any, rank: int, minimum: int | None = 1) -> Shape:
    """`value` as one int per kernel axis."""
    if type(value) is int and (minimum is None or value >= minimum):
        return (value,) * rank
    values = value if isinstance(value, (tuple, list, np.ndarray)) and np.ndim(value) else (value,) * rank
    if len(values) != rank:
        raise ValueError(f"{name} has {len(values)} entries, the kernel acts on {rank} axes")
    try:
        values = tuple(index(v) for v in values)
    except TypeError:
        raise TypeError(f"{name} must be an int or one int per axis, not {value!r}") from None
    for axis, v in enumerate(values):
        if minimum is not None and v < minimum:
            raise ValueError(f"{name} along kernel axis {axis} is {v}, it must be at least {minimum}")
    return values


def spans(kernel: Shape, dilation: Shape) -> Shape:
    """Samples a dilated kernel covers along each axis."""
    return tuple([d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)])


def out_sizes(size: Shape, padding: Pairs, span: Shape, stride: Shape) -> Shape:
    """Of the result along each axis: (N + lo + hi - span) // s + 1."""
    rows = zip(size, padding, span, stride, strict=True)
    return tuple([(n + lo + hi - k) // s + 1 for n, (lo, hi), k, s in rows])


def fit(
    kind: str, axes: Sequence[int], size: Shape, padding: Pairs, boundary: tuple[str, ...], span: Shape, advice: str
) -> None:
    """ValueError for an axis, one of `axes` of this `kind`, that the kernel does not fit into."""
    for axis, n, (lo, hi), rule, k in zip(axes, size, padding, boundary, span, strict=True):
        if n + lo + hi - k < (-1 if n == 0 else 0):
            if lo == hi == 0:
                raise ValueError(f"kernel is longer than x along {kind} {axis}: {k} > {n}; use {advice}")
            raise ValueError(f"kernel is longer than the padded x along {kind} {axis}: {k} > {lo} + {n} + {hi}")
        if n == 0 and lo + hi >= k and rule != "constant":
            raise ValueError(f"boundary={rule!r} cannot extend x along {kind} {axis}, which is empty")


def result_dtype(dtype: DTypeLike | None = None, **arrays: DType) -> DType:
    """The native dtype of the result of `arrays`, dtypes by name; TypeError for what has no arithmetic."""
    for name, a in arrays.items():
        if a.kind not in "biufc":
            raise TypeError(f"{name} has dtype {a}, which cannot be correlated")
    result = np.result_type(*arrays.values()) if dtype is None else np.dtype(dtype)
    if result.kind not in "biufc":
        raise TypeError(f"dtype={result} cannot be correlated")
    for name, a in arrays.items():
        if a.kind == "c" and result.kind != "c":
            raise TypeError(f"dtype={result} would discard the imaginary part of {name} ({a})")
    return result if result.isnative else result.newbyteorder("=")


def signal(
    x_shape: Shape,
    k_shape: Shape,
    dtype: DType,
    *,
    flip: bool,
    mode: Any,
    axes: Any,
    boundary: Any,
    fill: Any,
    anchor: Any,
    stride: Any,
    dilation: Any,
) -> Problem:
    """The Problem of `correlate` (``flip=False``) or `convolve` on arrays of these shapes."""
    axes, batched = _axes(axes, len(x_shape), len(k_shape))
    rank = len(axes)
    for axis in range(len(x_shape)) if batched else ():
        if axis not in axes and x_shape[axis] != k_shape[axis] and 1 not in (x_shape[axis], k_shape[axis]):
            raise ValueError(f"x and k do not broadcast along axis {axis}: {x_shape[axis]} and {k_shape[axis]}")
    kernel = tuple(k_shape[axis] for axis in axes) if batched else tuple(k_shape)
    if 0 in k_shape and 0 in kernel:
        raise ValueError(f"k has no elements along kernel axis {kernel.index(0)}: its shape is {tuple(k_shape)}")
    stride = per_axis("stride", stride, rank)
    dilation = per_axis("dilation", dilation, rank)
    padding = _padding(mode, flip, anchor, kernel, dilation)
    boundary = boundary_names(boundary, rank)
    problem = Problem(
        tuple(x_shape),
        tuple(k_shape),
        dtype,
        axes,
        stride,
        dilation,
        padding,
        boundary,
        fill_scalar(fill, dtype),
        flip,
        conj=not flip and dtype.kind == "c",
    )
    fit("axis", axes, problem.size, padding, boundary, problem.span, "mode='same' or 'full'")
    return problem


def lags(n: int, m: int, mode: Mode) -> tuple[int, int]:
    """(first lag, last lag + 1) of a 1-D correlation of lengths `n` and `m`."""
    for name, value in (("n", n), ("m", m)):
        if index(value) < 0:
            raise ValueError(f"{name} is {value}, a length cannot be negative")
    float64 = np.dtype(float)
    options = {"axes": None, "boundary": "constant", "fill": 0, "anchor": None, "stride": 1, "dilation": 1}
    problem = signal((index(n),), (index(m),), float64, flip=False, mode=mode, **options)
    ((lo, _),) = problem.padding
    return -lo, problem.out_size[0] - lo


def _axes(axes: Any, x_ndim: int, k_ndim: int) -> tuple[Shape, bool]:
    """(axes of x the kernel acts on, whether k has the batch axes too)."""
    if axes is None:
        if k_ndim > x_ndim:
            raise ValueError(f"k has more axes than x: {k_ndim} > {x_ndim}")
        return tuple(range(x_ndim - k_ndim, x_ndim)), False
    try:
        named = tuple(index(a) for a in (axes if np.ndim(axes) else (axes,)))
    except TypeError:
        raise TypeError(f"axes must be an int or a sequence of ints, not {axes!r}") from None
    for a in named:
        if not -x_ndim <= a < x_ndim:
            raise ValueError(f"axes names axis {a}, x has {x_ndim} axes")
    named = tuple(a % x_ndim for a in named)
    if len(set(named)) != len(named):
        raise ValueError(f"axes names an axis twice: {axes!r}")
    if len(named) == k_ndim:
        return named, False
    if k_ndim == x_ndim:
        return named, True
    raise ValueError(f"axes names {len(named)} axes, k has {k_ndim}; they must agree, or k must have x's {x_ndim}")


def _padding(mode: Any, flip: bool, anchor: Any, kernel: Shape, dilation: Shape) -> Pairs:
    """(lo, hi) per axis; API: "same" puts the kernel tap `anchor` on the output sample."""
    rank = len(kernel)
    if anchor is None:
        anchor = [(k - 1) // 2 if flip else k // 2 for k in kernel]
    else:
        anchor = per_axis("anchor", anchor, rank, minimum=None)
        for axis, (a, k) in enumerate(zip(anchor, kernel, strict=True)):
            if not 0 <= a < k:
                raise ValueError(f"anchor along kernel axis {axis} is {a}, the kernel has taps 0 to {k - 1}")
    if isinstance(mode, str):
        if mode == "valid":
            return ((0, 0),) * rank
        reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        if mode == "full":
            return tuple([(r, r) for r in reach])
        if mode == "same":
            before = [a * d for a, d in zip(anchor, dilation, strict=True)]
            return tuple([(r - b, b) if flip else (b, r - b) for r, b in zip(reach, before, strict=True)])
        raise ValueError(f"mode must be 'valid', 'same', 'full' or one (lo, hi) pair per axis, not {mode!r}")
    try:
        pairs = tuple((index(lo), index(hi)) for lo, hi in mode)
    except (TypeError, ValueError):
        raise ValueError(
            f"mode must be 'valid', 'same', 'full' or one (lo, hi) pair of ints per axis, not {mode!r}"
        ) from None
    if len(pairs) != rank:
        raise ValueError(f"mode has {len(pairs)} (lo, hi) pairs, the kernel acts on {rank} axes")
    return pairs


def boundary_names(boundary: Any, rank: int) -> tuple[str, ...]:
    """`boundary` as one name of boundary.RULES per kernel axis."""
    if isinstance(boundary, str):
        if boundary in RULES:
            return (boundary,) * rank
        boundary = (boundary,) * rank
    if not isinstance(boundary, (tuple, list)) or not all(isinstance(name, str) for name in boundary):
        raise TypeError(f"boundary must be a name or one name per axis, not {boundary!r}")
    names = tuple(boundary)
    if len(names) != rank:
        raise ValueError(f"boundary has {len(names)} entries, the kernel acts on {rank} axes")
    names = tuple(SYNONYMS.get(name, name) for name in names)
    for name in names:
        if name not in RULES:
            known = ", ".join(map(repr, (*RULES, *SYNONYMS)))
            raise ValueError(f"boundary={name!r} is not one of {known}")
    return names


def fill_scalar(fill: Any, dtype: DType) -> Any:
    """`fill` as a scalar of `dtype`, cast as numpy.pad casts constant_values."""
    if type(fill) is int and fill == 0:  # nearly always
        return dtype.type(0)
    value = np.asarray(fill)
    if value.ndim or value.dtype.kind not in "biufc":
        raise TypeError(f"fill must be a number, not {fill!r}")
    if value.dtype.kind == "c" and dtype.kind != "c":
        raise TypeError(f"fill={fill!r} is complex, the result is {dtype}")
    if dtype.kind in "iu" and value.dtype.kind == "f" and not np.isfinite(value):
        raise ValueError(f"fill={fill!r} has no value in the result's dtype {dtype}")
    with np.errstate(over="ignore"):
        return value.astype(dtype)[()]
