"""scipy.signal's correlations and convolutions: both arrays of one rank, either may be the larger one.

All of them are a window of the full convolution, `_window`; the smaller array becomes the kernel of the core.
"""

import warnings
from collections.abc import Iterable
from functools import lru_cache
from math import prod
from operator import index
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import signal as core

__all__ = ["convolve", "convolve2d", "correlate", "correlate2d", "correlation_lags", "fftconvolve", "oaconvolve"]

_BOUNDARIES = {
    "fill": "constant",
    "pad": "constant",
    "wrap": "wrap",
    "circular": "wrap",
    "symm": "symmetric",
    "symmetric": "symmetric",
}


def correlate(in1: ArrayLike, in2: ArrayLike, mode: str = "full", method: str = "auto") -> NDArray[Any]:
    """scipy.signal.correlate: `in1` against the conjugate of `in2`, arrays of any one rank.

    Parameters
    ----------
    in1, in2 : array_like
        Of the same rank.
    mode : {'full', 'valid', 'same'}, optional
        All positions of overlap; those of full overlap, for which one array must be as long as the other along
        every axis; or as many as `in1` has samples, from the centre of 'full'.
    method : {'auto', 'direct', 'fft'}, optional
        'fft' and 'auto' are exact for integers, and 'direct' serves every dtype.

    Returns
    -------
    ndarray
        Of dtype ``numpy.result_type(in1, in2)``.

    Raises
    ------
    ValueError
        If ranks differ, an array is empty, or `mode` or `method` is unknown or impossible.
    TypeError
        If a dtype has no arithmetic; object arrays are among those.

    Warns
    -----
    RuntimeWarning
        If ``method='fft'`` and the result has a NaN or Inf, which may have spread; 'auto' keeps it local.

    Examples
    --------
    >>> from fastcorr.compat.signal import correlate
    >>> correlate([1, 2, 3, 4], [1, 2])
    array([ 2,  5,  8, 11,  4])
    >>> correlate([1, 2], [1, 2, 3, 4], "valid")
    array([11,  8,  5])
    """
    return _combine(np.asarray(in1), np.asarray(in2), mode, method, True)


def convolve(in1: ArrayLike, in2: ArrayLike, mode: str = "full", method: str = "auto") -> NDArray[Any]:
    """scipy.signal.convolve: the product of polynomials, in any number of variables.

    Parameters
    ----------
    in1, in2, mode, method
        As in `correlate`.

    Returns
    -------
    ndarray
        Of dtype ``numpy.result_type(in1, in2)``.

    Raises
    ------
    ValueError, TypeError
        As in `correlate`.

    Examples
    --------
    >>> from fastcorr.compat.signal import convolve
    >>> convolve([3, 4, 5], [1, 2, 3, 4], "same")
    array([10, 22, 34])
    >>> convolve([[1, 1]], [[1], [-1]])
    array([[ 1,  1],
           [-1, -1]])
    """
    return _combine(np.asarray(in1), np.asarray(in2), mode, method, False)


def fftconvolve(in1: ArrayLike, in2: ArrayLike, mode: str = "full", axes: Any = None) -> NDArray[Any]:
    """scipy.signal.fftconvolve: `convolve` in floating point along some axes; the others broadcast.

    It need not be a Fourier transform: what is faster is taken, and a NaN or Inf stays local.

    Parameters
    ----------
    in1, in2 : array_like
        Of the same rank. Along an axis that is not convolved their lengths are equal, or one is 1.
    mode : {'full', 'valid', 'same'}, optional
        As in `correlate`.
    axes : int or sequence of int, optional
        To convolve along. Default: all.

    Returns
    -------
    ndarray
        Of the type that numbers of both have in floating point: integers and bool count as float64, float16 as
        float32. As in SciPy, arrays that only broadcast keep their types.

    Raises
    ------
    ValueError
        If ranks, lengths or `axes` do not fit, or `mode` is unknown or impossible.
    TypeError
        If a dtype has no arithmetic; object arrays are among those.

    Examples
    --------
    >>> from fastcorr.compat.signal import fftconvolve
    >>> fftconvolve([[1, 2], [3, 4]], [[1, 1]], axes=1)
    array([[1., 3., 2.],
           [3., 7., 4.]])
    """
    return _floating(np.asarray(in1), np.asarray(in2), mode, axes)


def oaconvolve(in1: ArrayLike, in2: ArrayLike, mode: str = "full", axes: Any = None) -> NDArray[Any]:
    """scipy.signal.oaconvolve: here the same as `fftconvolve`, which works on overlapping blocks already.

    Parameters
    ----------
    in1, in2, mode, axes
        As in `fftconvolve`.

    Returns
    -------
    ndarray
        As from `fftconvolve`.

    Raises
    ------
    ValueError, TypeError
        As in `fftconvolve`.

    Examples
    --------
    >>> from fastcorr.compat.signal import oaconvolve
    >>> oaconvolve([1, 2, 3, 4], [1, 1], "valid")
    array([3., 5., 7.])
    """
    return _floating(np.asarray(in1), np.asarray(in2), mode, axes)


def correlate2d(
    in1: ArrayLike, in2: ArrayLike, mode: str = "full", boundary: str = "fill", fillvalue: ArrayLike = 0
) -> NDArray[Any]:
    """scipy.signal.correlate2d: pictures, with a rule for what lies past their ends.

    Parameters
    ----------
    in1, in2 : array_like
        Both 2-D.
    mode : {'full', 'valid', 'same'}, optional
        As in `correlate`, except that in mode 'same' the centre of a kernel of even length is ``(n - 1) // 2``.
    boundary : {'fill', 'wrap', 'symm'}, optional
        How `in1` goes on past its ends; also 'pad' (fill), 'circular' (wrap), 'symmetric' (symm).
    fillvalue : scalar, optional
        For ``boundary='fill'``, cast to the result's dtype.

    Returns
    -------
    ndarray
        Of dtype ``numpy.result_type(in1, in2)``.

    Raises
    ------
    ValueError
        If an array is empty or not 2-D, or `mode`, `boundary` or `fillvalue` does not fit.
    TypeError
        If a dtype has no arithmetic; object arrays are among those.

    Notes
    -----
    In mode 'valid' a larger `in2` makes SciPy swap the arrays and forget to conjugate the result; here complex
    results equal those of `correlate`.

    Examples
    --------
    >>> from fastcorr.compat.signal import correlate2d
    >>> correlate2d([[1, 2, 3]], [[1, 1, 1]], "same", "symm")
    array([[4, 6, 8]])
    """
    return _combine2d(np.asarray(in1), np.asarray(in2), mode, boundary, fillvalue, True)


def convolve2d(
    in1: ArrayLike, in2: ArrayLike, mode: str = "full", boundary: str = "fill", fillvalue: ArrayLike = 0
) -> NDArray[Any]:
    """scipy.signal.convolve2d: pictures, with a rule for what lies past their ends.

    Parameters
    ----------
    in1, in2, mode, boundary, fillvalue
        As in `correlate2d`.

    Returns
    -------
    ndarray
        Of dtype ``numpy.result_type(in1, in2)``.

    Raises
    ------
    ValueError, TypeError
        As in `correlate2d`.

    Examples
    --------
    >>> from fastcorr.compat.signal import convolve2d
    >>> convolve2d([[1, 2, 3]], [[1, 0]], "same", "wrap")
    array([[1, 2, 3]])
    """
    return _combine2d(np.asarray(in1), np.asarray(in2), mode, boundary, fillvalue, False)


def correlation_lags(in1_len: int, in2_len: int, mode: str = "full") -> NDArray[np.int_]:
    """scipy.signal.correlation_lags: the lag of each sample of ``correlate(in1, in2, mode)`` of 1-D arrays.

    Parameters
    ----------
    in1_len, in2_len : int
        Lengths of both.
    mode : {'full', 'valid', 'same'}, optional
        That of `correlate`.

    Returns
    -------
    ndarray of int
        Where ``in2[0]`` lies on `in1`.

    Raises
    ------
    ValueError
        If `mode` is unknown.

    Notes
    -----
    For 'same', odd `in1_len` and even `in2_len` those of SciPy are one off its own `correlate`; these are not.

    Examples
    --------
    >>> from fastcorr.compat.signal import correlation_lags
    >>> correlation_lags(3, 2)
    array([-1,  0,  1,  2])
    >>> correlation_lags(2, 4, "valid")
    array([-2, -1,  0])
    """
    if mode not in ("full", "valid", "same"):
        raise ValueError(f"Mode {mode} is invalid; it must be 'full', 'valid' or 'same'")
    start, length = _window(index(in1_len), index(in2_len), mode)
    return np.arange(start, start + length) - (in2_len - 1)


def _window(n: int, m: int, mode: str) -> tuple[int, int]:
    """(start, length) of the result of arrays of lengths `n` and `m` within their full convolution."""
    if mode == "full":
        return 0, n + m - 1
    if mode == "same":
        return (m - 1) // 2, n
    return min(n, m) - 1, abs(n - m) + 1


@lru_cache(1024)
def _padding(n: tuple[int, ...], m: tuple[int, ...], swapped: bool, mode: str) -> tuple[tuple[int, int], ...]:
    """(lo, hi) per axis that make the core give `_window`; `swapped`: the array of lengths `n` is the kernel.

    The tuple is kept, because the core finds a repeated call again by the address of its options.
    """
    windows = [_window(*lengths, mode) for lengths in zip(n, m, strict=True)]
    data, kernel = (m, n) if swapped else (n, m)
    rows = zip(data, kernel, windows, strict=True)
    return tuple((k - 1 - start, length - x + start) for x, k, (start, length) in rows)


def _larger_first(n: Iterable[int], m: Iterable[int]) -> bool:
    """Whether mode 'valid' has to swap arrays of these lengths; ValueError if neither contains the other."""
    pairs = list(zip(n, m, strict=True))
    if all(a >= b for a, b in pairs):
        return False
    if all(a <= b for a, b in pairs):
        return True
    raise ValueError("For 'valid' mode, one must be at least as large as the other in every dimension")


def _check(in1: NDArray[Any], in2: NDArray[Any], mode: str) -> None:
    for name, array in (("in1", in1), ("in2", in2)):
        if array.size == 0:
            raise ValueError(f"{name} cannot be empty, its shape is {array.shape}")
    if not isinstance(mode, str) or mode not in ("full", "valid", "same"):
        raise ValueError(f"acceptable mode flags are 'valid', 'same', or 'full', not {mode!r}")


def _reversed(a: NDArray[Any]) -> NDArray[Any]:
    """The kernel that makes a convolution of a correlation."""
    return np.flip(a).conj()


def _combine(in1: NDArray[Any], in2: NDArray[Any], mode: str, method: str, correlation: bool) -> NDArray[Any]:
    if in1.ndim != in2.ndim:
        raise ValueError(f"in1 and in2 should have the same dimensionality, not {in1.ndim} and {in2.ndim}")
    if in1.ndim == 0:
        return in1 * (in2.conj() if correlation else in2)
    _check(in1, in2, mode)
    if method not in ("auto", "direct", "fft"):
        raise ValueError(f"acceptable method flags are 'auto', 'direct', or 'fft', not {method!r}")
    swap = _larger_first(in1.shape, in2.shape) if mode == "valid" else in2.size > in1.size
    asked, method = method, _served(method, in1, in2)
    padding = _padding(in1.shape, in2.shape, swap, mode)
    if swap:
        result = core.convolve(_reversed(in2) if correlation else in2, in1, padding, method=method)
    else:
        result = (core.correlate if correlation else core.convolve)(in1, in2, padding, method=method)
    if asked == "fft" and not np.isfinite(result).all():
        message = "the result of method='fft' has NaN or Inf, which may have spread; method='auto' keeps them local"
        warnings.warn(f"Use of fft convolution: {message}", RuntimeWarning, stacklevel=3)
    return result


def _served(method: str, in1: NDArray[Any], in2: NDArray[Any]) -> str:
    """`method`, or "auto" for a dtype that it does not serve: SciPy's names are no promise of how."""
    dtype = np.result_type(in1, in2)
    if dtype.char in "gG" or (method == "fft" and dtype.kind not in "fc"):
        return "auto"
    return method


def _floating(in1: NDArray[Any], in2: NDArray[Any], mode: str, axes: Any) -> NDArray[Any]:
    if in1.ndim != in2.ndim:
        raise ValueError(f"in1 and in2 should have the same dimensionality, not {in1.ndim} and {in2.ndim}")
    if in1.ndim == 0:
        return in1 * in2
    if in1.size == 0 or in2.size == 0:
        return np.array([])
    _check(in1, in2, mode)
    # An axis of length 1 only broadcasts, even if it is named: SciPy's dtypes and shapes follow from that.
    acting = tuple(a for a in sorted(_named(axes, in1.ndim)) if in1.shape[a] != 1 and in2.shape[a] != 1)
    others = [a for a in range(in1.ndim) if a not in acting]
    if any(in1.shape[a] != in2.shape[a] and 1 not in (in1.shape[a], in2.shape[a]) for a in others):
        raise ValueError(f"incompatible shapes for in1 and in2: {in1.shape} and {in2.shape}")
    if mode == "same":  # as long as in1 along the axes that broadcast too
        for a in others:
            if in1.shape[a] == 1:
                in2 = in2.take([(in2.shape[a] - 1) // 2], a)
    if not acting:
        return in1 * in2
    n, m = (tuple(array.shape[a] for a in acting) for array in (in1, in2))
    swap = _larger_first(n, m) if mode == "valid" else prod(m) > prod(n)
    dtype = np.result_type(*map(_float_type, (in1.dtype, in2.dtype)))
    data, kernel = (in2, in1) if swap else (in1, in2)
    return core.convolve(data, kernel, _padding(n, m, swap, mode), axes=acting, dtype=dtype)


def _named(axes: Any, ndim: int) -> tuple[int, ...]:
    """The axes that an argument `axes` of arrays of `ndim` axes names."""
    if axes is None:
        return tuple(range(ndim))
    try:
        named = tuple(index(a) for a in (axes if np.iterable(axes) else (axes,)))
    except TypeError:
        raise ValueError(f"axes must be a scalar or iterable of integers, not {axes!r}") from None
    if not named:
        raise ValueError("when provided, axes cannot be empty")
    if any(not -ndim <= a < ndim for a in named):
        raise ValueError(f"axes exceeds dimensionality of input: {axes!r}, of {ndim} axes")
    if len({a % ndim for a in named}) != len(named):
        raise ValueError(f"all axes must be unique: {axes!r}")
    return tuple(a % ndim for a in named)


def _float_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What a Fourier transform computes `dtype` in."""
    if dtype.kind in "biu":
        return np.dtype(np.float64)
    return np.dtype(np.float32) if dtype.char == "e" else dtype


def _combine2d(
    in1: NDArray[Any], in2: NDArray[Any], mode: str, boundary: str, fillvalue: ArrayLike, correlation: bool
) -> NDArray[Any]:
    if in1.ndim != 2 or in2.ndim != 2:
        raise ValueError(f"in1 and in2 must both be 2-D, not {in1.ndim}-D and {in2.ndim}-D")
    _check(in1, in2, mode)
    if boundary not in _BOUNDARIES:
        raise ValueError(f"boundary={boundary!r} is not one of {', '.join(map(repr, _BOUNDARIES))}")
    fill = _fill(fillvalue, np.result_type(in1, in2))
    if mode == "valid" and _larger_first(in1.shape, in2.shape):
        return core.convolve(_reversed(in2) if correlation else in2, in1)
    face, centre = (core.correlate if correlation else core.convolve), _centre(in2.shape)
    return face(in1, in2, mode, boundary=_BOUNDARIES[boundary], fill=fill, anchor=centre)


@lru_cache(1024)
def _centre(shape: tuple[int, ...]) -> tuple[int, ...]:
    """That of correlate2d and convolve2d; kept for the same reason as `_padding`."""
    return tuple((n - 1) // 2 for n in shape)


def _fill(fillvalue: ArrayLike, dtype: np.dtype[Any]) -> Any:
    fill = np.asarray(fillvalue)
    if fill.size != 1:
        raise ValueError(f"`fillvalue` must be scalar or an array with one element, not {fillvalue!r}")
    value = fill.item()
    fits = fill.dtype.kind in "biufc" and (fill.dtype.kind != "c" or dtype.kind == "c")
    if fits and dtype.kind in "iu":
        fits = np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    if not fits:
        raise ValueError(f"could not cast `fillvalue` directly to the output type {dtype}: {fillvalue!r}")
    return value
