"""Search: zero-normalised cross-correlation. A correlation with a template of mean 0, divided by each window's spread.

    r[i] = sum over j of (t[j] - mean t) * x[i + j]  /  (norm of t - mean t) / (norm of x - its mean over the window)

The numerator is a float64 `correlate` by whatever method is cheapest, written straight into the result; kernels/windows
then measures every window and divides in place. Where another method than the sum itself may have lost digits that a
window of small spread needs, the numerator is computed again directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from math import log2, prod
from typing import Any, cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from . import _call, isa, kernels, nn, planner, problem, tuning
from ._types import Array, Boundary, DType, Mode, PerAxis, Scalar, Shape
from .boundary import RULES, source
from .problem import Problem
from .signal import correlate
from .threads import get_num_threads, num_threads

FLOAT64 = np.dtype(np.float64)
EPS: float = float(np.finfo(FLOAT64).eps)

# Most that a result may err by because the numerator was not summed directly. A tenth of what is promised.
DOUBT = 1e-7

# Under a mask: outputs of a block, whose moments are correlations; their error as a part of the largest square, that of
# a transform of 2**25 points at most, twice.
BLOCK = 1 << 16
MOMENTS = 50 * EPS


def match_template(
    x: ArrayLike,
    t: ArrayLike,
    *,
    mode: Mode = "valid",
    axes: PerAxis | None = None,
    boundary: Boundary = "constant",
    fill: Scalar = 0,
    mask: ArrayLike | None = None,
    flat: float = 0.0,
    out: Array | None = None,
) -> Array:
    """Search `x` for `t` by zero-normalised cross-correlation: 1 where it is there, in any brightness and contrast.

    Each result is the correlation coefficient (Pearson's) of `t` with the window of `x` under it.

    Parameters
    ----------
    x : array_like, shape (*batch, *n)
        Where to search. Any layout, any real dtype.
    t : array_like, shape (*m,)
        The template. It acts on the last ``t.ndim`` axes of `x`; the axes before are batch.
    mode, axes, boundary, fill : optional
        As in `correlate`: windows that reach past the end of `x` see it go on by that rule.
    mask : array_like, shape of `t`, optional
        Weights of the samples of the template, 0 where it does not matter. Deviations are from the weighted mean and
        are multiplied by the weight, in `t` and in the window (OpenCV's TM_CCOEFF_NORMED with a mask).
    flat : float, optional
        The result where a window has no contrast, or `t` has none.
    out : ndarray, optional
        Where the result goes, of its exact shape and dtype. May overlap any input.

    Returns
    -------
    ndarray
        From -1 to 1, of the shape `correlate` has. float32 if float32 holds all samples of `x` and `t` exactly (bool,
        integers of 16 bits and less, float16, float32), otherwise float64.

    Raises
    ------
    ValueError
        If shapes, modes, axes, `mask` or `out` do not fit; the message names the argument, the axis and the numbers.
    TypeError
        If a dtype is complex or has no arithmetic.

    Notes
    -----
    Means and spreads are computed in float64 whatever the dtype, sums of integers exactly, and without differences of
    large numbers: an offset of 1e6 changes a result by less than 1e-6 (``docs/numerics.md``). A NaN or Inf makes NaN of
    the windows that cover it, and of no others. The bits are the same for any number of threads, batch or layout.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import match_template
    >>> match_template([5.0, 1, 2, 4, 5, 5, 5, 0], [20.0, 30, 50]).round(3)
    array([-0.577,  1.   ,  0.929,  0.756,  0.   , -0.945])

    The place of a detail, darker and with less contrast than in the picture:

    >>> picture = np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8)
    >>> detail = picture[20:35, 30:50] // 2 + 10
    >>> found = match_template(picture, detail)
    >>> found.dtype, np.unravel_index(found.argmax(), found.shape)
    (dtype('float32'), (np.int64(20), np.int64(30)))
    """
    x = np.asarray(x)
    options: dict[str, Any] = {"mode": mode, "axes": axes, "boundary": boundary, "fill": fill, "flat": flat}
    return prepare(x.shape, x.dtype, t, mask, **options)(x, out=out)


def prepare(
    x_shape: Shape,
    x_dtype: DType,
    t: ArrayLike,
    mask: Any = None,
    *,
    mode: Any = "valid",
    axes: Any = None,
    boundary: Any = "constant",
    fill: Any = 0,
    flat: Any = 0.0,
    level: str = isa.LEVEL,
) -> TemplatePlan:
    """The Plan of a search for `t` in arrays of this shape and dtype."""
    t = np.asarray(t)
    dtype = _result_dtype(x_dtype, t.dtype)
    if axes is None and t.ndim > len(x_shape):
        raise ValueError(f"t has more axes than x: {t.ndim} > {len(x_shape)}")
    if t.size == 0:
        raise ValueError(f"t has no elements: its shape is {t.shape}")
    options: dict[str, Any] = {"flip": False, "anchor": None, "stride": 1, "dilation": 1}
    p = problem.signal(x_shape, t.shape, dtype, mode=mode, axes=axes, boundary=boundary, fill=fill, **options)
    p = replace(p, dtype=FLOAT64, fill=float(p.fill))
    if np.ndim(flat) or np.asarray(flat).dtype.kind not in "biuf":
        raise TypeError(f"flat must be a real number, not {flat!r}")
    flat = float(flat)
    t, _ = _distances(p.canonical(t, kernel=True))
    weights = None if mask is None else _weights(mask, t.shape, p)
    if p.rank == 0:  # windows of one sample are flat under any weight
        weights = None
    return TemplatePlan(p, ((p.x_shape, x_dtype),), dtype, np.array(t, FLOAT64), weights, flat, level)


def _result_dtype(x: DType, t: DType) -> DType:
    dtype = problem.result_dtype(x=x, t=t)
    for name, given in (("x", x), ("t", t)):
        if given.kind == "c":
            raise TypeError(f"{name} has dtype {given}, match_template takes real numbers")
    return np.dtype(np.float32) if np.result_type(dtype, np.float32) == np.float32 else FLOAT64


def _weights(mask: ArrayLike, shape: Shape, p: Problem) -> Array:
    """`mask` as canonical float64, its largest weight 1: the result is that of any multiple."""
    mask = np.asarray(mask)
    if mask.dtype.kind not in "biuf":
        raise TypeError(f"mask has dtype {mask.dtype}, weights are real numbers")
    if mask.shape != p.k_shape:
        raise ValueError(f"mask has shape {mask.shape}, t has {p.k_shape}")
    weights = p.canonical(mask, kernel=True).astype(FLOAT64)
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("mask has weights that are negative or not finite")
    most = weights.max(_taps(p), keepdims=True)
    if not most.all():
        raise ValueError("mask is zero everywhere")
    normed: Array = weights / most
    return normed


def _taps(p: Problem) -> Shape:
    """The axes of a canonical kernel that it acts on."""
    return tuple(range(-p.rank, 0))


def _distances(a: Array) -> tuple[Array, int]:
    """(`a`, 0); but 64-bit integers beyond float64's 2**53 as distances from the least of them, and that one."""
    if a.dtype.kind not in "iu" or a.itemsize < 8 or a.size == 0:
        return a, 0
    least, most = int(a.min()), int(a.max())
    if max(-least, most) <= 2**53:
        return a, 0
    return (a.astype(np.uint64) - np.uint64(least % 2**64)).astype(FLOAT64), least


def _kernel(t: Array, weights: Array | None, p: Problem, tolerance: float) -> tuple[Array, Array]:
    """(kernel of the numerator over the norm of `t` and the root of its taps, which templates have no contrast).

    The mean is taken away twice: what rounding leaves of it the first time would meet the offset of the data.
    """
    axes = _taps(p)
    w = np.ones(t.shape) if weights is None else weights
    total, squares = w.sum(axes, keepdims=True), (w * w).sum(axes, keepdims=True)
    t = t / np.maximum(np.abs(t).max(axes, keepdims=True), np.finfo(FLOAT64).tiny)  # or squares might overflow
    mean = (w * t).sum(axes, keepdims=True) / total
    d = t - mean
    d = w * (d - (w * d).sum(axes, keepdims=True) / total)
    norm = np.sqrt((d * d).sum(axes, keepdims=True))
    flat = norm <= tolerance * np.abs(mean) * np.sqrt(squares)
    k = w * d
    for _ in range(2):  # of a window its weighted mean is to be taken away: from the kernel just as well
        k = k - w * (k.sum(axes, keepdims=True) / total)
    k = np.where(flat, 0, k / np.where(flat, 1, norm * np.sqrt(squares)))
    return np.ascontiguousarray(k), flat  # of other axes in front it would keep their order, which no kernel does


def _largest(x: Array, p: Problem) -> Array:
    """max |x| of the finite samples of each batch entry, `fill` among them where it is used."""
    if x.dtype.kind == "b" or (x.dtype.kind in "iu" and x.itemsize <= 2):
        most = float(np.iinfo(x.dtype).max) + 1 if x.dtype.kind != "b" else 1.0
    else:
        most = np.maximum(x.max(p.axes), -x.min(p.axes).astype(FLOAT64), dtype=FLOAT64)
        if not np.isfinite(most).all():
            most = np.abs(x).max(p.axes, where=np.isfinite(x), initial=0).astype(FLOAT64)
    fill = abs(p.fill) if "constant" in p.boundary and np.isfinite(p.fill) else 0
    largest: Array = np.maximum(most, fill)
    return largest


@lru_cache(64)
def _search(p: Problem, x_dtype: DType, level: str) -> tuple[planner.SignalPlan, Any, Any]:
    """(Plan of the numerator, what runs it, the compiled windows) of a Problem."""
    numerator = planner._plan(p, x_dtype, p.dtype, "auto", level)
    method = next(m for m in planner.METHODS if m.name == numerator.method)
    windows = kernels.load(kernels.find("windows", np.dtype(np.int32) if _sums_fit(p, x_dtype) else FLOAT64), level)
    rules = [RULES.index(rule) for rule in p.boundary]
    return numerator, method.build(numerator.task, True), windows.Windows(p, rules, _tolerance(p))


def _sums_fit(p: Problem, x_dtype: DType) -> bool:
    """Whether squares of samples of this dtype add up in int32 in every window."""
    fills = p.fill if "constant" in p.boundary else 0.0
    small = x_dtype.kind in "biu" and x_dtype.itemsize == 1
    return small and float(fills).is_integer() and prod(p.kernel) * max(abs(fills), 255) ** 2 < 2**31


def _tolerance(p: Problem) -> float:
    """Rounding may give a flat window this spread, as a part of its mean: sums run along each axis in turn."""
    return EPS * (4 + sum(p.kernel))


def _own(entry: Shape, a: Array) -> Shape:
    """Index of a batch entry in `a`, whose batch may broadcast."""
    return tuple(0 if n == 1 else i for i, n in zip(entry, a.shape, strict=False))


def _extended(x: Array, p: Problem, box: Sequence[slice]) -> Array:
    """The samples under a box of outputs, as float64."""
    for axis, (part, k, (lo, _), n, rule) in enumerate(zip(box, p.kernel, p.padding, p.size, p.boundary, strict=True)):
        index = source(np.arange(part.start - lo, part.stop - lo + k - 1), n, rule)
        inside = (index >= 0).reshape((-1,) + (1,) * (p.rank - 1 - axis))
        if n:
            x = np.take(x, np.maximum(index, 0), axis)
        else:
            x = np.full((*x.shape[:axis], index.size, *x.shape[axis + 1 :]), p.fill)
        x = x.astype(FLOAT64, copy=False)
        if not inside.all():
            x = np.where(inside, x, p.fill)
    return x.astype(FLOAT64, copy=False)


def _masked(x: Array, numerator: Array, k: Array, w: Array, flat: float, doubt: Any, tolerance: float) -> Array:
    """Numerators over the weighted spread of their windows in `x`.

    Moments are those of distances from the mean of the block. What they lose where the spread is small beside these
    distances, and numerators in `doubt`, are summed anew window by window, deviations from the window's own mean.
    """
    total, squares = w.sum(), (w * w).sum()
    finite = np.isfinite(x)
    middle = x.mean(where=finite) if finite.any() else 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        z = x - middle
        mean, first = correlate(z, w) / total, correlate(z, w * w)
        spread = (correlate(z * z, w * w) - mean * (2 * first - mean * squares)) / squares
        lost = MOMENTS * np.square(z).max(where=finite, initial=0) / DOUBT
        result = _quotient(numerator, spread, mean + middle, flat, tolerance)
    again = np.flatnonzero(spread < max(lost, doubt**2))
    windows = sliding_window_view(x, k.shape)
    some_at_a_time = max(1, BLOCK // k.size)
    for i in range(0, again.size, some_at_a_time):
        some = np.unravel_index(again[i : i + some_at_a_time], numerator.shape)
        d = windows[some].reshape(-1, k.size)
        mean = d @ w.ravel() / total
        d = d - mean[:, None]
        d -= (d @ w.ravel() / total)[:, None]  # what rounding left of the mean
        spread = np.square(d * w.ravel()).sum(-1) / squares
        result[some] = _quotient(d @ k.ravel(), spread, mean, flat, tolerance)
    return result


def _quotient(numerator: Array, spread: Array, mean: Array, flat: float, tolerance: float) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        result = np.clip(numerator / np.sqrt(np.maximum(spread, 0)), -1, 1)
        return np.where((spread <= np.square(tolerance * mean)) & np.isfinite(mean), flat, result)


@dataclass(frozen=True, eq=False)
class TemplatePlan(planner.Plan):
    """The Plan of a call of `match_template`."""

    problem: Problem  # of the numerator
    arrays: tuple[tuple[Shape, DType], ...] = field(repr=False)  # shape and dtype of x, as the caller gave it
    dtype: DType  # of the result
    t: Array = field(repr=False)  # canonical, float64; so are the weights
    weights: Array | None = field(repr=False)
    flat: float
    level: str = field(repr=False)
    k: Array = field(init=False, repr=False)
    packed: Array = field(init=False, repr=False)
    hopeless: Array | None = field(init=False, repr=False)  # result of templates without contrast; nan: of others

    def __post_init__(self) -> None:
        p = self.problem
        finite = np.isfinite(self.t).all(_taps(p), keepdims=True)
        k, flat = _kernel(np.where(finite, self.t, 0), self.weights, p, _tolerance(p))
        _, kernel, _ = self._parts(p)
        prepared = {"k": k, "packed": kernel.pack(k), "hopeless": None}
        if flat.any():
            prepared["hopeless"] = np.where(finite, self.flat, np.nan), flat
        for name, value in prepared.items():
            object.__setattr__(self, name, value)
        for array in (self.t, self.weights, self.k, self.packed):
            if array is not None:
                array.flags.writeable = False

    def _parts(self, p: Problem) -> tuple[planner.SignalPlan, Any, Any]:
        ((_, x_dtype),) = self.arrays
        return _search(p, x_dtype, self.level)

    @property
    def method(self) -> str:  # type: ignore[override]  # all of a Plan is read-only
        return self._parts(self.problem)[0].method

    @property
    def costs(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Of the numerator."""
        return self._parts(self.problem)[0].costs

    def __call__(self, x: ArrayLike, *, out: Array | None = None) -> Array:
        """The result for new data `x` and the template given to `plan`."""
        return self.run(self._checked(x), out)

    def run(self, x: Array, out: Array | None = None, threads: int | None = None) -> Array:
        """The result for `x` of the planned shape and dtype."""
        p = self.problem
        straight = out is not None and nn._check_out(out, p.out_shape, self.dtype, (x,))
        y = out if out is not None and straight else np.empty(p.out_shape, self.dtype)
        if threads is None and self.costs[self.method] <= tuning.SERIAL:
            threads = 1
        if y.size:
            self._search(x, y, threads)
        if out is None or straight:
            return y
        np.copyto(out, y)
        return out

    def _search(self, x: Array, y: Array, threads: int | None) -> None:
        x, least = _distances(x)
        p = replace(self.problem, fill=float(self.problem.fill - least)) if least else self.problem
        if not planner._loads(FLOAT64, x.dtype):
            x = x.astype(FLOAT64)
        _, kernel, windows = self._parts(p)
        doubt = np.zeros(p.batch_shape)
        if isinstance(kernel, planner.Local):  # a transform errs by as much as the largest sample in its reach allows
            noise = EPS * log2(prod(kernel.tiles.points)) * np.abs(self.k).sum(_taps(p)) * _largest(x, p)
            doubt = np.broadcast_to(noise / DOUBT, p.batch_shape)
        whole = self.weights is None
        jobs: list[Any] = [(self._correlate, kernel), (self._divide, p, kernel, windows, doubt)]
        for f, *args in jobs if whole else jobs[:1]:
            if threads is None:
                _call.claim(planner._available_threads, f, x, y, *args)
            else:
                f(x, y, *args, threads)
        if not whole:
            with num_threads(threads or get_num_threads()):
                self._divide_masked(x, y, p, doubt)
        if self.hopeless is not None:
            value, where = (a.reshape(a.shape[: a.ndim - p.rank] + (1,) * p.rank) for a in self.hopeless)
            canonical = p.canonical(y)
            np.copyto(canonical, value, where=where & ~np.isnan(canonical), casting="same_kind")

    def _correlate(self, x: Array, y: Array, kernel: Any, threads: int) -> None:
        kernel.run(x, self.packed, y, threads, True, True)

    def _divide(self, x: Array, y: Array, p: Problem, kernel: Any, windows: Any, doubt: Array, threads: int) -> None:
        """Numerators by the spread of their windows; where that is below `doubt` they are summed anew."""
        doubted = windows.run(x, y, self.flat, doubt, None, threads)
        for unit in doubted:
            entry, box = windows.box(unit)
            start, outputs = zip(*(box[axis] for axis in p.axes), strict=True)
            kernel._direct(p.canonical(x), self.k, p.canonical(y), threads, entry, start, outputs)
        if doubted.size:
            windows.run(x, y, self.flat, doubt, doubted, threads)

    def _divide_masked(self, x: Array, y: Array, p: Problem, doubt: Array) -> None:
        """The same under a mask: moments of the window are correlations with it, block by block."""
        x, y = p.canonical(x), p.canonical(y)
        side = max(1, round(BLOCK ** (1 / max(p.rank, 1))))
        blocks = [range(0, m, max(side, k)) for m, k in zip(p.out_size, p.kernel, strict=True)]
        for entry in np.ndindex(p.batch_shape):
            k, w = (a[_own(entry, a)] if p.k_batched else a for a in (self.k, cast(Array, self.weights)))
            for start in product(*blocks):
                rows = zip(start, blocks, p.out_size, strict=True)
                box = tuple(slice(i, min(i + r.step, m)) for i, r, m in rows)
                samples = _extended(x[_own(entry, x)], p, box)
                out = y[(*entry, *box)]
                out[...] = _masked(samples, out.astype(FLOAT64), k, w, self.flat, doubt[entry], _tolerance(p))

    def __reduce__(self) -> tuple[Any, ...]:
        return TemplatePlan, (self.problem, self.arrays, self.dtype, self.t, self.weights, self.flat, isa.LEVEL)

    def __str__(self) -> str:
        p = self.problem
        ((_, x_dtype),) = self.arrays
        mask = "" if self.weights is None else " and its mask"
        lines = [
            f"match_template x{p.x_shape} of {x_dtype} with t{p.k_shape}{mask} -> {self.dtype}{p.out_shape}",
            f"  padding {p.padding}, boundary {p.boundary}; numerator:",
        ]
        return "\n".join([*lines, *self._lines(self.level)])
