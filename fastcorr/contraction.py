"""What the layer face and every gradient compute: one of the three contractions of a trilinear form.

A convolution with batch and channels is ``<y, conv(x, w)>``, linear in each of its three arrays:

    sum over n, g, o, c, i, j of   y[n, g, o, i]  *  w[g, o, c, j]  *  X[n, g, c, s*i + d*j - lo]

n batch, g group, o output and c input channel of the group, i output and j kernel position, X is x extended past its
ends. Leaving one array out and summing over the indices it does not have gives the three contractions:

    result "y"   y[n, g, o, i] = sum over c, j  of  w[g, o, c, j] X[n, g, c, s*i + d*j - lo]    the convolution
    result "x"   x[n, g, c, u] = sum over o, i, j that read u  of  w[g, o, c, j] y[n, g, o, i]  conv_transpose
    result "w"   w[g, o, c, j] = sum over n, i  of  y[n, g, o, i] X[n, g, c, s*i + d*j - lo]    the weight gradient

Each is bilinear, and its derivative with respect to one of its arrays, applied to a third, is the form with that array
left out instead: one of the three again. So gradients are `dataclasses.replace(result=...)`, gradients of gradients
too, and no order of derivative needs code of its own. Only ``fill`` stands apart: it is a constant and no part of x.
"y" and "w" read it as data, "x" drops what falls on it, and how "y" and "w" change with x is computed with fill 0.

The two operands come in the order (x, w), (y, w), (y, x). With ``local``, w has a kernel of its own for each output
position, w[i, g, o, c, j].
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import prod
from operator import attrgetter, index
from typing import Any

import numpy as np

from . import problem
from ._types import DType, Pairs, Shape

OPERANDS = {"y": ("x", "w"), "x": ("y", "w"), "w": ("y", "x")}


@dataclass(frozen=True)
class Contraction:
    """One of the three arrays computed from the other two. Sequences have one entry per spatial axis."""

    result: str  # "y", "x" or "w"
    batch: int
    groups: int
    channels: int  # of x per group
    features: int  # of y per group
    size: Shape  # of x
    kernel: Shape
    out_size: Shape  # of y
    stride: Shape
    dilation: Shape
    padding: Pairs  # (lo, hi), in samples; negative crops
    boundary: tuple[str, ...]  # names in boundary.RULES
    fill: Any  # a scalar of dtype
    flip: bool  # true convolution: tap j of the formula is w[..., kernel - 1 - j]
    dtype: DType  # of the result, native byte order
    local: bool = False

    @property
    def rank(self) -> int:
        return len(self.size)

    @property
    def operands(self) -> tuple[str, str]:
        """Names of the two arrays the result is computed from, in their order."""
        return OPERANDS[self.result]

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Of the canonical arrays by name."""
        positions = self.out_size if self.local else ()
        return {
            "x": (self.batch, self.groups, self.channels, *self.size),
            "w": (*positions, self.groups, self.features, self.channels, *self.kernel),
            "y": (self.batch, self.groups, self.features, *self.out_size),
        }

    @property
    def out_shape(self) -> Shape:
        return self.shapes[self.result]

    @cached_property
    def flops(self) -> int:
        """Multiplications and additions of the definition, complex arithmetic counted in reals."""
        return (8 if self.dtype.kind == "c" else 2) * prod(self.shapes["y"]) * self.channels * prod(self.kernel)

    @cached_property
    def _hash(self) -> int:
        return hash(_VALUES(self))

    def __hash__(self) -> int:
        return self._hash  # kernels are found by it, and a small layer has no time to compute it again

    @cached_property
    def siblings(self) -> dict[str, Contraction]:
        """The three contractions by result."""
        return {result: self if result == self.result else self.but(result=result) for result in OPERANDS}

    def but(self, **changes: Any) -> Contraction:
        """`dataclasses.replace` in a third of its time: what a new small layer costs is made of such things."""
        changed = object.__new__(Contraction)
        changed.__dict__.update(zip(_NAMES, _VALUES(self), strict=True), **changes)
        return changed

    def forward(self) -> Contraction:
        """Its sibling that computes y from (x, w)."""
        return self.siblings["y"]

    def input_grad(self) -> Contraction:
        """Its sibling that computes x from (y, w)."""
        return self.siblings["x"]

    def weight_grad(self) -> Contraction:
        """Its sibling that computes w from (y, x)."""
        return self.siblings["w"]

    def part(self, name: str) -> Contraction:
        """The real Contraction for the `name` ("real", "imag") part of a complex operand beside a real one."""
        return replace(self, dtype=np.empty(0, self.dtype).real.dtype, fill=getattr(self.fill, name))


_NAMES = [field.name for field in fields(Contraction)]
_VALUES = attrgetter(*_NAMES)


def layer(
    x_shape: Shape,
    w_shape: Shape,
    bias_shape: Shape | None,
    dtype: DType,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    boundary: Any = "constant",
    fill: Any = 0,
    flip: bool = False,
    transposed: bool = False,
    output_padding: Any = 0,
    local: bool = False,
) -> tuple[Contraction, bool]:
    """(Contraction, whether x has no batch axis) of a call of `conv`, `conv_transpose` or `local_conv`.

    Parameters
    ----------
    x_shape, w_shape : tuple of int
        As the caller gave them: (N, C, *S) or (C, *S), and (O, C/groups, *K) for conv, (C, O/groups, *K) if
        `transposed`, out_spatial + (O, C/groups) + K if `local`.
    bias_shape : tuple of int or None
        (O,), or (O, *out_spatial) if `local`.
    dtype : dtype
        Of the result, native.
    transposed, local : bool, optional
        Which of the three faces it is; neither is conv.
    stride, padding, dilation, groups, boundary, fill, flip, output_padding : optional
        The caller's, unchecked.

    Raises
    ------
    ValueError, TypeError
        For everything the caller can get wrong about shapes and options.

    Examples
    --------
    >>> import numpy as np
    >>> options = {"groups": 2, "padding": "same", "stride": 2}
    >>> form, unbatched = layer((1, 4, 9, 9), (6, 2, 3, 3), (6,), np.dtype("float32"), **options)
    >>> form.shapes
    {'x': (1, 2, 2, 9, 9), 'w': (2, 3, 2, 3, 3), 'y': (1, 2, 3, 5, 5)}
    >>> form.weight_grad().out_shape
    (2, 3, 2, 3, 3)
    """
    kernel, channels = _kernel_and_channels(w_shape, local)
    rank = len(kernel)
    unbatched = len(x_shape) == rank + 1
    if not unbatched and len(x_shape) != rank + 2:
        needs = f"{rank + 2}, (N, C, *S), or {rank + 1}, (C, *S)"
        raise ValueError(f"x has {len(x_shape)} axes, w of shape {tuple(w_shape)} needs {needs}")
    axis = len(x_shape) - rank - 1
    groups = _groups(groups, x_shape[axis], axis, channels, transposed)
    stride = problem.per_axis("stride", stride, rank)
    dilation = problem.per_axis("dilation", dilation, rank)
    boundary = problem.boundary_names(boundary, rank)
    spatial = tuple(x_shape[len(x_shape) - rank :])
    span = problem.spans(kernel, dilation)
    if transposed:
        extra = problem.per_axis("output_padding", output_padding, rank, minimum=0)
        size, padding = _transposed_size(spatial, padding, extra, span, stride, dilation)
        out_size = spatial
    else:
        size, padding = spatial, _padding(padding, spatial, span, stride)
        problem.fit("spatial axis", range(rank), size, padding, boundary, span, "padding='same'")
        out_size = problem.out_sizes(size, padding, span, stride)
    if local:
        for axis, (given, needed) in enumerate(zip(w_shape[:rank], out_size, strict=True)):
            if given != needed:
                raise ValueError(f"w has kernels for {given} positions along axis {axis}, the result has {needed}")
    if bias_shape is not None:
        _check_bias(tuple(bias_shape), channels[1] * groups if transposed else channels[0], out_size, local)
    form = Contraction(
        result="x" if transposed else "y",
        batch=1 if unbatched else x_shape[0],
        groups=groups,
        channels=channels[1],
        features=channels[0] // groups,
        size=size,
        kernel=kernel,
        out_size=out_size,
        stride=stride,
        dilation=dilation,
        padding=padding,
        boundary=boundary,
        fill=problem.fill_scalar(fill, dtype),
        flip=bool(flip),
        dtype=dtype,
        local=bool(local),
    )
    return form, unbatched


def _kernel_and_channels(w_shape: Shape, local: bool) -> tuple[Shape, Shape]:
    """(kernel, (rows, columns)) of w: its spatial axes and the two channel axes before them."""
    if len(w_shape) < 2 or (local and len(w_shape) % 2):
        needs = "an even number, out_spatial + (O, C/groups) + K" if local else "2 channel axes and the kernel's"
        raise ValueError(f"w has {len(w_shape)} axes, it needs {needs}")
    first = (len(w_shape) - 2) // 2 if local else 0
    if 0 in w_shape[first:]:
        axis = first + w_shape[first:].index(0)
        raise ValueError(f"w has no elements along axis {axis}: its shape is {tuple(w_shape)}")
    return tuple(w_shape[first + 2 :]), tuple(w_shape[first : first + 2])


def _groups(asked: Any, given: int, axis: int, channels: Shape, transposed: bool) -> int:
    """`groups` as an int that divides the channels of w; `given` is the length of x along its channel `axis`."""
    try:
        groups = index(asked)
    except TypeError:
        raise TypeError(f"groups must be an int, not {asked!r}") from None
    if groups < 1:
        raise ValueError(f"groups is {groups}, it must be at least 1")
    if channels[0] % groups:
        kind = "input" if transposed else "output"
        raise ValueError(f"groups={groups} does not divide the {channels[0]} {kind} channels of w")
    needed = channels[0] if transposed else channels[1] * groups
    if given != needed:
        raise ValueError(f"x has {given} channels along axis {axis}, w with groups={groups} acts on {needed}")
    return groups


def _check_bias(shape: Shape, channels: int, out_size: Shape, local: bool) -> None:
    if shape == (channels,) or (local and shape == (channels, *out_size)):
        return
    if len(shape) == 1:
        raise ValueError(f"bias has {shape[0]} entries along axis 0, the result has {channels} channels")
    needed = f"({channels},)" + (f" or {(channels, *out_size)}" if local else "")
    raise ValueError(f"bias has shape {shape}, it must have {needed}")


def _padding(padding: Any, size: Shape, span: Shape, stride: Shape) -> Pairs:
    """(lo, hi) per axis; "same" gives ceil(size / stride) outputs."""
    if type(padding) is int:  # nearly always
        return ((padding, padding),) * len(span)
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * len(span)
        if padding in ("same", "same_lower"):
            pairs = []
            for n, k, s in zip(size, span, stride, strict=True):
                out = -(-n // s)
                total = max(0, (max(out, 1) - 1) * s + k - max(n, 1))  # an empty axis stays empty
                less, more = total // 2, total - total // 2
                pairs.append((less, more) if padding == "same" else (more, less))
            return tuple(pairs)
    elif isinstance(padding, (tuple, list)) or np.ndim(padding):
        if len(padding) != len(span):
            raise ValueError(f"padding has {len(padding)} entries, the kernel acts on {len(span)} axes")
        return tuple(_pair(padding, entry) for entry in padding)
    else:
        return (_pair(padding, padding),) * len(span)
    raise _not_a_padding(ValueError, padding)


def _pair(padding: Any, entry: Any) -> tuple[int, int]:
    """(lo, hi) from an int or a pair of ints."""
    try:
        lo, hi = entry if np.ndim(entry) else (entry, entry)
        return index(lo), index(hi)
    except (TypeError, ValueError) as error:
        raise _not_a_padding(type(error), padding) from None


def _not_a_padding(kind: type[Exception], padding: Any) -> Exception:
    known = "'valid', 'same', 'same_lower', an int, or one int or (lo, hi) pair per axis"
    return kind(f"padding must be {known}, not {padding!r}")


def _transposed_size(
    spatial: Shape, padding: Any, extra: Shape, span: Shape, stride: Shape, dilation: Shape
) -> tuple[Shape, Pairs]:
    """(size, padding) of the conv whose input gradient maps `spatial` to `size`; "same" gives spatial * stride."""
    for axis, (e, s, d) in enumerate(zip(extra, stride, dilation, strict=True)):
        if e >= max(s, d):
            raise ValueError(
                f"output_padding along kernel axis {axis} is {e}, it must be less than {max(s, d)}, "
                "the larger of stride and dilation"
            )
    if isinstance(padding, str) and padding != "valid":
        for axis, e in enumerate(extra):
            if e:
                raise ValueError(f"output_padding along kernel axis {axis} is {e}, it must be 0 with {padding=}")
        size = tuple(n * s for n, s in zip(spatial, stride, strict=True))
        return size, _padding(padding, size, span, stride)
    pads = _padding(padding, spatial, span, stride)
    sizes = []
    for axis, (n, (lo, hi), k, s, e) in enumerate(zip(spatial, pads, span, stride, extra, strict=True)):
        full = (n - 1) * s + k + e
        if full < lo + hi and n:
            raise ValueError(f"padding is longer than the result along spatial axis {axis}: {lo} + {hi} > {full}")
        sizes.append(max(full - lo - hi, 0))
    return tuple(sizes), pads
