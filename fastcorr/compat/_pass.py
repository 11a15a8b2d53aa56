"""How one correlation of ndimage runs on the core: what dtypes and arguments say of it, kept, and the call."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._call import call, truncated
from ..threads import get_num_threads

_BOUNDARIES = {
    "reflect": "symmetric",
    "grid-mirror": "symmetric",
    "mirror": "reflect",
    "nearest": "edge",
    "constant": "constant",
    "grid-constant": "constant",
    "wrap": "wrap",
    "grid-wrap": "wrap",
}

_CACHED = 1 << 17  # samples of a slab per thread


class Pass(NamedTuple):
    """How one correlation is run: what follows from dtypes and arguments, whatever the lengths of the data."""

    call: Callable[..., NDArray[Any]]  # the core, or what rounds its result as SciPy does
    options: tuple[Any, ...]  # of the core, all in order
    weights: np.dtype[Any]  # what they are converted to
    early: np.dtype[Any]  # what data are converted to before the core sees them
    most: float  # as many samples at once
    along: int | None  # the axis to cut into slabs where more than the cache holds are converted
    dtype: np.dtype[Any]  # of the output
    stored: bool  # as that dtype, of floats: into an array that exists


def pass_of(
    x: np.dtype[Any],
    ndim: int,
    weights: NDArray[Any],
    y: np.dtype[Any],
    axes: tuple[int, ...],
    mode: str,
    cval: complex,
    origins: tuple[int, ...],
) -> Pass:
    """How `weights` on `axes` of data of type `x` are run."""
    exact = y.kind in "iu" and x.kind in "biu" and _whole(weights)
    return _settled(x, ndim, weights.dtype, weights.shape, y, axes, mode, cval, origins, exact)


@lru_cache(1024)
def _settled(
    x: np.dtype[Any],
    ndim: int,
    w: np.dtype[Any],
    shape: tuple[int, ...],
    y: np.dtype[Any],
    axes: tuple[int, ...],
    mode: str,
    fill: Any,
    origins: tuple[int, ...],
    exact: bool,
) -> Pass:
    """`pass_of`, kept: it takes longer than a small filter, and the core finds a call again by its options' addresses.

    x, w and y are the dtypes of input, weights and output; `exact`: they are integers, and the weights are whole.
    """
    if mode not in _BOUNDARIES:
        raise RuntimeError(f"boundary mode not supported: {mode!r} is not one of {', '.join(map(repr, _BOUNDARIES))}")
    for axis, n, origin in zip(axes, shape, origins, strict=True):
        if not -(n // 2) <= origin <= (n - 1) // 2:
            raise ValueError(
                f"Invalid origin; along axis {axis} it is {origin}, for {n} weights it must be"
                f" from {-(n // 2)} to {(n - 1) // 2}"
            )
    boundary = _BOUNDARIES[mode]
    fill = fill if boundary == "constant" else 0.0
    exact = exact and fill.is_integer() and abs(fill) < 2.0**63
    anchor = tuple(n // 2 + origin for n, origin in zip(shape, origins, strict=True))
    options = "same", axes, boundary, int(fill) if exact else fill, anchor, 1, 1, "auto", y if exact else None
    computed = y if exact else np.result_type(x, np.float64)
    weights = np.dtype(np.int64) if w.kind == "f" else w
    if not exact:
        weights = np.dtype(np.complex128 if w.kind == "c" else np.float64)
    rounded = y.kind in "iu" and not exact
    way = _to_bool if y.kind == "b" else _quietly if computed.char in "gG" else _truncated if rounded else _core
    along = next((a for a in range(ndim if rounded else ndim - 1) if a not in axes), None)
    most = 0 if x == computed or computed.char not in "dD" or ndim - 1 in axes else _CACHED
    along = along if rounded or most else None
    stored = (y != computed and way in (_core, _quietly)) or not y.isnative
    return Pass(way, options, weights, computed, most, along, y, stored)


def _to_bool(
    face: str, input: NDArray[Any], weights: NDArray[Any], output: NDArray[Any] | None, how: Pass
) -> NDArray[Any]:
    """SciPy's cast goes by way of an integer: 0.5 is False."""
    return np.not_equal(np.trunc(call(face, input, weights, None, how.options)), 0, out=output)


def _core(
    face: str, input: NDArray[Any], weights: NDArray[Any], output: NDArray[Any] | None, how: Pass
) -> NDArray[Any]:
    """The core's result, in `output` or an array of its own."""
    return call(face, input, weights, output, how.options, True)


def _truncated(
    face: str, input: NDArray[Any], weights: NDArray[Any], output: NDArray[Any] | None, how: Pass
) -> NDArray[Any]:
    """The core's result in float64 as integers."""
    y = call(face, input, weights, output, how.options, True)
    return truncated(y, how.dtype) if output is None else y


# Where NumPy computes or casts: without a warning of what has no value there.
_quietly = np.errstate(invalid="ignore")(_core)


def run_pass(
    face: str, input: NDArray[Any], weights: NDArray[Any], output: NDArray[Any] | None, how: Pass
) -> NDArray[Any]:
    """`input` under `weights` by the core's `face`, into `output` or a new array.

    At once, or slab by slab within the cache where conversion costs as much as a short filter: of integers from
    float64, which takes an array of its own, and of data that are not filtered along their last axis, which the core
    converts anew for every block of rows. 128^3 bytes, 33 weights along axis 1: 42 ms at once, 16 to 23 with slabs of
    0.5 to 4 MB (Zen 4, one thread). 700^2 bytes, 9 weights along axis 0: 8 ms at once, 1.6 so (Zen 3): the system
    clears large arrays that come and go page by page.
    """
    size = input.size
    along = how.along if size > _CACHED else None
    if output is None and (along is not None or how.stored or not size):
        output = np.empty(input.shape, how.dtype)
    if output is not None and not size:
        return output
    if weights.dtype != how.weights:
        weights = weights.astype(how.weights)
    if along is None or output is None:
        return how.call(face, input.astype(how.early) if size <= how.most else input, weights, output, how)
    if np.may_share_memory(input, output):
        input = input.copy()
    n = input.shape[along]
    step = max(1, _CACHED * get_num_threads() * n // size)
    for i in range(0, n, step):
        part = (slice(None),) * along + (slice(i, i + step),)
        data = input[part].astype(how.early) if how.most else input[part]
        how.call(face, data, weights, output[part], how)
    return output


def _whole(a: NDArray[Any]) -> bool:
    """Whether all are whole numbers that an int64 holds."""
    if a.dtype.kind != "f":
        return a.dtype.kind in "biu"
    if not a.item(0).is_integer():  # most that are not are seen by the first
        return False
    values = (a if a.dtype.char in "efd" else a.astype(np.float64)).ravel().tolist()
    return all(map(float.is_integer, values)) and min(values) > -(2.0**63) and max(values) < 2.0**63
