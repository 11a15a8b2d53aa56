"""scipy.ndimage's correlations and the filters built on them: the result has the data's shape and dtype.

As in SciPy everything is computed in float64 and rounded once to the dtype of the output. Where data and output are
integers and the weights whole numbers, sums are exact and wrap.
"""

from __future__ import annotations  # of nested functions, else evaluated at each call

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from numbers import Integral
from operator import index
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ._pass import pass_of, run_pass

__all__ = [
    "convolve",
    "convolve1d",
    "correlate",
    "correlate1d",
    "gaussian_filter",
    "gaussian_filter1d",
    "gaussian_gradient_magnitude",
    "gaussian_laplace",
    "generic_gradient_magnitude",
    "generic_laplace",
    "laplace",
    "prewitt",
    "sobel",
]

_SLOPE, _CURVATURE, _THREE, _BINOMIAL = map(np.array, ([-1, 0, 1], [1, -2, 1], [1, 1, 1], [1, 2, 1]))

Output = NDArray[Any] | DTypeLike | None


# --- correlations -----------------------------------------------------------------------------------------------------


def correlate(
    input: ArrayLike,
    weights: ArrayLike,
    output: Output = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: int | Sequence[int] = 0,
    *,
    axes: int | Iterable[int] | None = None,
) -> NDArray[Any]:
    """scipy.ndimage.correlate: `input` against the conjugate of `weights`.

    Parameters
    ----------
    input : array_like
        Of any rank and dtype that has arithmetic, also those that SciPy does not take.
    weights : array_like
        With one axis per entry of `axes`, in ascending order of these.
    output : ndarray or dtype, optional
        Where the result goes, or its dtype. Default: the dtype of `input`; if only `weights` are complex the complex
        type that holds it. It may overlap `input`.
    mode : str, optional
        How `input` goes on past its ends: 'reflect' (also 'grid-mirror', fastcorr's symmetric), 'mirror' (reflect),
        'nearest' (edge), 'constant' (also 'grid-constant'), 'wrap' (also 'grid-wrap').
    cval : scalar, optional
        Value past the ends in mode 'constant'.
    origin : int or sequence of int, optional
        One for all or one per entry of `axes`: the tap ``n // 2 + origin`` of the weights lies on the output sample.
    axes : int or sequence of int, optional
        That the weights act on. Default: all.

    Returns
    -------
    ndarray
        `output`, or a new array of the shape of `input`.

    Raises
    ------
    RuntimeError
        If ranks, the length of `origin`, `mode` or `output` do not fit.
    ValueError
        If `axes` or `origin` is out of range, or `cval` is complex and `input` is not.
    TypeError
        If a dtype has no arithmetic.

    Notes
    -----
    SciPy leaves weights out that are smaller than 2.2e-16; here all count: one of zero turns a NaN under it into a NaN.

    Examples
    --------
    >>> from fastcorr.compat.ndimage import correlate
    >>> correlate([[1, 2, 3], [4, 5, 6]], [[1, 0], [0, 1]])
    array([[2, 3, 5],
           [5, 6, 8]])
    >>> correlate([[1, 2, 3], [4, 5, 6]], [1, 1], axes=0, output=float, mode="constant", origin=-1)
    array([[5., 7., 9.],
           [4., 5., 6.]])
    """
    return _filter("correlate", input, weights, output, mode, cval, origin, axes)


def convolve(
    input: ArrayLike,
    weights: ArrayLike,
    output: Output = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: int | Sequence[int] = 0,
    *,
    axes: int | Iterable[int] | None = None,
) -> NDArray[Any]:
    """scipy.ndimage.convolve: `correlate` with the weights flipped and not conjugated.

    Parameters
    ----------
    input, weights, output, mode, cval, origin, axes
        As in `correlate`.

    Returns
    -------
    ndarray
        As from `correlate`.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As in `correlate`.

    Examples
    --------
    >>> from fastcorr.compat.ndimage import convolve
    >>> convolve([[1, 2, 3], [4, 5, 6]], [[1, 0], [0, 1]])
    array([[ 6,  8,  9],
           [ 9, 11, 12]])
    """
    return _filter("convolve", input, weights, output, mode, cval, origin, axes)


def correlate1d(
    input: ArrayLike,
    weights: ArrayLike,
    axis: int = -1,
    output: Output = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: int = 0,
) -> NDArray[Any]:
    """scipy.ndimage.correlate1d: every line along one axis against the same weights.

    Parameters
    ----------
    input : array_like
        As in `correlate`.
    weights : array_like, shape (n,)
        The kernel; it is conjugated.
    axis : int, optional
        That the lines run along.
    output, mode, cval, origin
        As in `correlate`.

    Returns
    -------
    ndarray
        As from `correlate`.

    Raises
    ------
    RuntimeError
        If `weights` is empty or not 1-D, or `mode` or `output` does not fit.
    ValueError
        If `axis` or `origin` is out of range, or `cval` is complex and `input` is not.
    TypeError
        If a dtype has no arithmetic.

    Examples
    --------
    >>> from fastcorr.compat.ndimage import correlate1d
    >>> correlate1d([2, 8, 0, 4, 1, 9, 9, 0], weights=[1, 3])
    array([ 8, 26,  8, 12,  7, 28, 36,  9])
    """
    return _filter1d("correlate", input, weights, axis, output, mode, cval, origin)


def convolve1d(
    input: ArrayLike,
    weights: ArrayLike,
    axis: int = -1,
    output: Output = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: int = 0,
) -> NDArray[Any]:
    """scipy.ndimage.convolve1d: `correlate1d` with the weights flipped and not conjugated.

    Parameters
    ----------
    input, weights, axis, output, mode, cval, origin
        As in `correlate1d`.

    Returns
    -------
    ndarray
        As from `correlate`.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As in `correlate1d`.

    Examples
    --------
    >>> from fastcorr.compat.ndimage import convolve1d
    >>> convolve1d([2, 8, 0, 4, 1, 9, 9, 0], weights=[1, 3])
    array([14, 24,  4, 13, 12, 36, 27,  0])
    """
    return _filter1d("convolve", input, weights, axis, output, mode, cval, origin)


def _filter(
    face: str, input: Any, weights: Any, output: Any, mode: Any, cval: Any, origin: Any, axes: Any
) -> NDArray[Any]:
    input, weights = np.asarray(input), np.asarray(weights)
    cval = _number(cval, input)
    acting = _axes(axes, input.ndim)
    if weights.ndim != len(acting) or weights.size == 0:
        raise RuntimeError(
            f"weights.ndim ({weights.ndim}) must match len(axes) ({len(acting)}), and none of its lengths be 0:"
            f" its shape is {weights.shape}"
        )
    if not isinstance(mode, str):
        raise RuntimeError(f"A sequence of modes is not supported: {mode!r}")
    origins = tuple(map(index, _sequence("origin", origin, len(acting))))
    if axes is not None:  # the weights' axes ascend, whatever the order of `axes`
        by_axis = dict(zip(acting, origins, strict=True))
        acting = tuple(sorted(acting))
        origins = tuple([by_axis[a] for a in acting])
    dtype, output = _output(output, input, input.dtype.kind == "c" or weights.dtype.kind == "c")
    return run_pass(
        face, input, weights, output, pass_of(input.dtype, input.ndim, weights, dtype, acting, mode, cval, origins)
    )


def _filter1d(
    face: str, input: Any, weights: Any, axis: Any, output: Any, mode: Any, cval: Any, origin: Any
) -> NDArray[Any]:
    input, weights = np.asarray(input), np.asarray(weights)
    cval = _number(cval, input)
    if weights.ndim != 1 or weights.size == 0:
        raise RuntimeError(f"no filter weights given: weights must be 1-D and not empty, its shape is {weights.shape}")
    axes = (normalize_axis_index(axis, input.ndim),)
    dtype, output = _output(output, input, input.dtype.kind == "c" or weights.dtype.kind == "c")
    how = pass_of(input.dtype, input.ndim, weights, dtype, axes, mode, cval, (index(origin),))
    return run_pass(face, input, weights, output, how)


def _number(cval: Any, input: NDArray[Any]) -> complex:
    if type(cval) is float:
        return cval
    if not np.iscomplexobj(cval):
        return float(cval)
    if input.dtype.kind != "c":
        raise ValueError(f"Cannot provide a complex-valued cval when the input is real: {cval!r}")
    return complex(cval)


def _output(output: Any, input: NDArray[Any], complex_result: bool) -> tuple[np.dtype[Any], NDArray[Any] | None]:
    """The dtype that the argument `output` asks for, and the array, if it is one."""
    if output is None:
        dtype = input.dtype
        if complex_result:
            dtype = np.promote_types(dtype, np.complex64)
        # Not always newbyteorder: it makes dtypes that are equal, but with which NumPy takes longer.
        return dtype if dtype.isnative else dtype.newbyteorder("="), None
    if isinstance(output, (str, type, np.dtype)):
        dtype = np.dtype(output)
        if complex_result and dtype.kind != "c":
            if isinstance(output, str):
                raise RuntimeError(f"output must have complex dtype, not {dtype}")
            warnings.warn("promoting specified output dtype to complex", stacklevel=4)
            dtype = np.promote_types(dtype, np.complex64)
        if isinstance(output, str) and dtype.kind not in "iufc":
            raise RuntimeError(f"output must have numeric dtype, not {dtype}")
        return dtype, None
    output = np.asarray(output)
    if output.shape != input.shape:
        raise RuntimeError(f"output shape not correct: {output.shape}, the input has {input.shape}")
    if complex_result and output.dtype.kind != "c":
        raise RuntimeError(f"output must have complex dtype, not {output.dtype}")
    return output.dtype, output


def _axes(axes: Any, ndim: int) -> tuple[int, ...]:
    """The axes that an argument `axes` of an array of `ndim` axes names."""
    if axes is None:
        return tuple(range(ndim))
    named = tuple(index(a) for a in (axes if np.iterable(axes) else (axes,)))
    for a in named:
        if not -ndim <= a < ndim:
            raise ValueError(f"specified axis: {a} is out of range, the input has {ndim} axes")
    named = tuple(a % ndim for a in named)
    if len(set(named)) != len(named):
        raise ValueError(f"axes must be unique: {axes!r}")
    return named


def _sequence(name: str, value: Any, n: int) -> list[Any]:
    """`value` as `n` of them."""
    if isinstance(value, (str, int, float)) or not np.iterable(value):
        return [value] * n
    values = list(value)
    if len(values) != n:
        raise RuntimeError(f"sequence argument must have length equal to input rank: {name}={value!r}, rank {n}")
    return values


# --- filters ----------------------------------------------------------------------------------------------------------


def gaussian_filter1d(
    input: ArrayLike,
    sigma: float,
    axis: int = -1,
    order: int = 0,
    output: Output = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    truncate: float = 4.0,
    *,
    radius: int | None = None,
) -> NDArray[Any]:
    """scipy.ndimage.gaussian_filter1d: every line along one axis under a Gaussian or one of its derivatives.

    Parameters
    ----------
    input : array_like
        As in `correlate`.
    sigma : float
        Standard deviation, in samples.
    axis : int, optional
        That the lines run along.
    order : int, optional
        Of the derivative.
    output, mode, cval
        As in `correlate`.
    truncate : float, optional
        The weights end at this many standard deviations.
    radius : int, optional
        They end here instead, in samples.

    Returns
    -------
    ndarray
        As from `correlate`.

    Raises
    ------
    ValueError
        If `order` or `radius` is negative, or `axis` is out of range.
    RuntimeError, TypeError
        As in `correlate1d`.

    Examples
    --------
    >>> from fastcorr.compat.ndimage import gaussian_filter1d
    >>> gaussian_filter1d([1.0, 2.0, 3.0, 4.0, 5.0], 1).round(6)
    array([1.427041, 2.067822, 3.      , 3.932178, 4.572959])
    """
    radius = int(truncate * float(sigma) + 0.5) if radius is None else radius
    return correlate1d(input, _gaussian(float(sigma), order, radius), axis, output, mode, cval)


@lru_cache(128)
def _gaussian(sigma: float, order: int, radius: int) -> NDArray[np.float64]:
    """Weights of a correlation: the sampled Gaussian, of sum 1, times the Hermite polynomial of its derivative."""
    if order < 0:
        raise ValueError(f"order must be non-negative, not {order}")
    if not isinstance(radius, Integral) or radius < 0:
        raise ValueError(f"Radius must be a nonnegative integer, not {radius}")
    x = np.arange(-radius, radius + 1) / sigma
    weights = np.exp(-0.5 * x * x)
    weights *= np.polynomial.hermite_e.hermeval(x, [0] * order + [1]) / sigma**order / weights.sum()
    weights.flags.writeable = False
    return weights


def gaussian_filter(
    input: ArrayLike,
    sigma: float | Sequence[float],
    order: int | Sequence[int] = 0,
    output: Output = None,
    mode: str | Sequence[str] = "reflect",
    cval: complex = 0.0,
    truncate: float = 4.0,
    *,
    radius: int | Sequence[int] | None = None,
    axes: int | Iterable[int] | None = None,
) -> NDArray[Any]:
    """scipy.ndimage.gaussian_filter: `gaussian_filter1d` along one axis after the other.

    Parameters
    ----------
    input : array_like
        As in `correlate`.
    sigma, order, mode, radius
        As in `gaussian_filter1d`: one for all or one per entry of `axes`. An axis with `sigma` 0 is left alone.
    output, cval, truncate
        As in `gaussian_filter1d`. Results between two axes have the dtype of the output too.
    axes : int or sequence of int, optional
        To filter along. Default: all.

    Returns
    -------
    ndarray
        As from `correlate`.

    Raises
    ------
    RuntimeError
        If a sequence has not one entry per axis, or `mode` or `output` does not fit.
    ValueError
        If `axes` is out of range, or `order` or `radius` is negative.
    TypeError
        If a dtype has no arithmetic.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr.compat.ndimage import gaussian_filter
    >>> gaussian_filter(np.arange(0, 50, 2).reshape(5, 5), sigma=1)[0]
    array([ 4,  6,  8,  9, 11])
    """
    input = np.asarray(input)
    dtype, output = _output(output, input, input.dtype.kind == "c")
    acting = _axes(axes, input.ndim)
    named = {"sigma": sigma, "order": order, "mode": mode, "radius": radius}
    columns = [_sequence(name, value, len(acting)) for name, value in named.items()]
    steps: list[tuple[int, NDArray[Any], str]] = []
    for axis, s, n, rule, r in zip(acting, *columns, strict=True):
        if s > 1e-15:
            steps.append((axis, _gaussian(float(s), n, int(truncate * float(s) + 0.5) if r is None else r), rule))
    return _passes(input, steps, dtype, output, cval)


def prewitt(
    input: ArrayLike,
    axis: int = -1,
    output: Output = None,
    mode: str | Sequence[str] = "reflect",
    cval: complex = 0.0,
) -> NDArray[Any]:
    """scipy.ndimage.prewitt: differences along one axis, sums of three along all others.

    Parameters
    ----------
    input : array_like
        As in `correlate`.
    axis : int, optional
        Of the differences.
    output, mode, cval
        As in `correlate`; `mode` may be one per axis.

    Returns
    -------
    ndarray
        As from `correlate`.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As in `correlate1d`.

    Examples
    --------
    >>> from fastcorr.compat.ndimage import prewitt
    >>> prewitt([[1, 2, 4], [1, 2, 4]])
    array([[3, 9, 6],
           [3, 9, 6]])
    """
    return _differences(input, _THREE, axis, output, mode, cval)


def sobel(
    input: ArrayLike,
    axis: int = -1,
    output: Output = None,
    mode: str | Sequence[str] = "reflect",
    cval: complex = 0.0,
) -> NDArray[Any]:
    """scipy.ndimage.sobel: differences along one axis, sums weighted 1, 2, 1 along all others.

    Parameters
    ----------
    input, axis, output, mode, cval
        As in `prewitt`.

    Returns
    -------
    ndarray
        As from `correlate`.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As in `correlate1d`.

    Examples
    --------
    >>> from fastcorr.compat.ndimage import sobel
    >>> sobel([[1, 2, 4], [1, 2, 4]])
    array([[ 4, 12,  8],
           [ 4, 12,  8]])
    """
    return _differences(input, _BINOMIAL, axis, output, mode, cval)


def _differences(input: Any, smooth: NDArray[Any], axis: int, output: Any, mode: Any, cval: Any) -> NDArray[Any]:
    input = np.asarray(input)
    axis = normalize_axis_index(axis, input.ndim)
    modes = _sequence("mode", mode, input.ndim)
    steps = [(axis, _SLOPE, modes[axis])]
    steps += [(a, smooth, modes[a]) for a in range(input.ndim) if a != axis]
    return _passes(input, steps, *_output(output, input, input.dtype.kind == "c"), cval)


def _passes(
    input: NDArray[Any],
    steps: Sequence[tuple[int, NDArray[Any], str]],
    dtype: np.dtype[Any],
    output: NDArray[Any] | None,
    cval: Any,
) -> NDArray[Any]:
    """`input` under one correlation after the other, each (axis, weights, mode), all checked before the first."""
    if not steps:
        output = np.empty(input.shape, dtype) if output is None else output
        output[...] = input
        return output
    cval = _number(cval, input)
    given = [input.dtype] + [dtype] * (len(steps) - 1)
    passes = [
        (weights, pass_of(x, input.ndim, weights, dtype, (axis,), mode, cval, (0,)))
        for x, (axis, weights, mode) in zip(given, steps, strict=True)
    ]
    for weights, how in passes[:-1]:
        input = run_pass("correlate", input, weights, None, how)
    weights, how = passes[-1]
    return run_pass("correlate", input, weights, output, how)


def generic_laplace(
    input: ArrayLike,
    derivative2: Callable[..., NDArray[Any]],
    output: Output = None,
    mode: str | Sequence[str] = "reflect",
    cval: complex = 0.0,
    extra_arguments: Sequence[Any] = (),
    extra_keywords: Mapping[str, Any] | None = None,
    *,
    axes: int | Iterable[int] | None = None,
) -> NDArray[Any]:
    """scipy.ndimage.generic_laplace: the sum of a second derivative along each axis.

    Parameters
    ----------
    input : array_like
        As in `correlate`.
    derivative2 : callable
        ``derivative2(input, axis, output, mode, cval, *extra_arguments, **extra_keywords)``; it returns its result,
        which it writes to `output` if that is an array.
    output, cval
        As in `correlate`.
    mode : str or sequence of str, optional
        As in `correlate`, or one per entry of `axes`.
    extra_arguments, extra_keywords : optional
        For `derivative2`.
    axes : int or sequence of int, optional
        To sum over. Default: all.

    Returns
    -------
    ndarray
        As from `correlate`.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As in `correlate`, and what `derivative2` raises.

    Examples
    --------
    >>> from fastcorr.compat.ndimage import convolve1d, generic_laplace
    >>> def second(input, axis, output, mode, cval):
    ...     return convolve1d(input, [1, -2, 1], axis, output, mode, cval)
    >>> generic_laplace([[0, 0, 0], [0, 1, 0], [0, 0, 0]], second)
    array([[ 0,  1,  0],
           [ 1, -4,  1],
           [ 0,  1,  0]])
    """
    return _over_axes(input, derivative2, output, mode, cval, extra_arguments, extra_keywords, axes)


def _second_difference(input: Any, axis: int, output: Output, mode: str, cval: complex) -> NDArray[Any]:
    return _filter1d("correlate", input, _CURVATURE, axis, output, mode, cval, 0)


def laplace(
    input: ArrayLike,
    output: Output = None,
    mode: str | Sequence[str] = "reflect",
    cval: complex = 0.0,
    *,
    axes: int | Iterable[int] | None = None,
) -> NDArray[Any]:
    """scipy.ndimage.laplace: the sum of second differences 1, -2, 1 along each axis.

    Parameters
    ----------
    input, output, mode, cval, axes
        As in `generic_laplace`.

    Returns
    -------
    ndarray
        As from `correlate`.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As in `correlate`.

    Examples
    --------
    >>> from fastcorr.compat.ndimage import laplace
    >>> laplace([0, 0, 1, 0, 0])
    array([ 0,  1, -2,  1,  0])
    """

    return _over_axes(input, _second_difference, output, mode, cval, (), None, axes)


def gaussian_laplace(
    input: ArrayLike,
    sigma: float | Sequence[float],
    output: Output = None,
    mode: str | Sequence[str] = "reflect",
    cval: complex = 0.0,
    *,
    axes: int | Iterable[int] | None = None,
    **kwargs: Any,
) -> NDArray[Any]:
    """scipy.ndimage.gaussian_laplace: the sum of second derivatives under a Gaussian.

    Parameters
    ----------
    input, output, mode, cval, axes
        As in `generic_laplace`.
    sigma : float or sequence of float
        Standard deviation in samples, one for all or one per entry of `axes`.
    **kwargs
        For `gaussian_filter`.

    Returns
    -------
    ndarray
        As from `correlate`.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As in `gaussian_filter`.

    Examples
    --------
    >>> from fastcorr.compat.ndimage import gaussian_laplace
    >>> gaussian_laplace([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0], 1)[2:5].round(2) + 0.0
    array([ 0. , -0.4,  0. ])
    """
    derivative = _derivative(2, sigma, input, axes)
    return _over_axes(input, derivative, output, mode, cval, (), kwargs, axes)


def generic_gradient_magnitude(
    input: ArrayLike,
    derivative: Callable[..., NDArray[Any]],
    output: Output = None,
    mode: str | Sequence[str] = "reflect",
    cval: complex = 0.0,
    extra_arguments: Sequence[Any] = (),
    extra_keywords: Mapping[str, Any] | None = None,
    *,
    axes: int | Iterable[int] | None = None,
) -> NDArray[Any]:
    """scipy.ndimage.generic_gradient_magnitude: the root of the sum of squares of a derivative along each axis.

    Parameters
    ----------
    input, output, mode, cval, extra_arguments, extra_keywords, axes
        As in `generic_laplace`.
    derivative : callable
        As ``derivative2`` of `generic_laplace`.

    Returns
    -------
    ndarray
        As from `correlate`.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As in `generic_laplace`.

    Examples
    --------
    >>> from fastcorr.compat.ndimage import generic_gradient_magnitude, sobel
    >>> generic_gradient_magnitude([[0, 3], [4, 7]], sobel)
    array([[20, 20],
           [20, 20]])
    """
    return _over_axes(input, derivative, output, mode, cval, extra_arguments, extra_keywords, axes, magnitude=True)


def gaussian_gradient_magnitude(
    input: ArrayLike,
    sigma: float | Sequence[float],
    output: Output = None,
    mode: str | Sequence[str] = "reflect",
    cval: complex = 0.0,
    *,
    axes: int | Iterable[int] | None = None,
    **kwargs: Any,
) -> NDArray[Any]:
    """scipy.ndimage.gaussian_gradient_magnitude: the length of the gradient under a Gaussian.

    Parameters
    ----------
    input, sigma, output, mode, cval, axes
        As in `gaussian_laplace`.
    **kwargs
        For `gaussian_filter`.

    Returns
    -------
    ndarray
        As from `correlate`.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As in `gaussian_filter`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr.compat.ndimage import gaussian_gradient_magnitude
    >>> slope = 3.0 * np.arange(20)[:, None] + 4.0 * np.arange(20)
    >>> gaussian_gradient_magnitude(slope, 1)[10, 10].round(3)
    np.float64(5.0)
    """
    derivative = _derivative(1, sigma, input, axes)
    return _over_axes(input, derivative, output, mode, cval, (), kwargs, axes, magnitude=True)


def _derivative(order: int, sigma: Any, input: ArrayLike, axes: Any) -> Callable[..., NDArray[Any]]:
    """That of `order` along one axis, smoothed along all `axes`."""
    ndim = np.ndim(input)
    acting = _axes(axes, ndim)
    sigmas = dict(zip(acting, _sequence("sigma", sigma, len(acting)), strict=True))

    def derivative(
        input: NDArray[Any], axis: int, output: Output, mode: str, cval: complex, **kwargs: Any
    ) -> NDArray[Any]:
        orders = [order if a == axis else 0 for a in range(ndim)]
        return gaussian_filter(input, [sigmas.get(a, 0) for a in range(ndim)], orders, output, mode, cval, **kwargs)

    return derivative


def _over_axes(
    input: Any,
    derivative: Callable[..., NDArray[Any]],
    output: Any,
    mode: Any,
    cval: Any,
    arguments: Sequence[Any],
    keywords: Mapping[str, Any] | None,
    axes: Any,
    magnitude: bool = False,
) -> NDArray[Any]:
    """The sum over `axes` of a derivative, or the root of that of its squares."""
    input = np.asarray(input)
    fresh = output is None or isinstance(output, (str, type, np.dtype))
    dtype, output = _output(output, input, input.dtype.kind == "c")
    output = np.empty(input.shape, dtype) if fresh else output
    acting = _axes(axes, input.ndim)
    modes = _sequence("mode", mode, len(acting))
    if not acting:
        output[...] = input
        return output
    if not fresh and np.may_share_memory(input, output):
        input = input.copy()  # it is read again after the first axis is written
    for n, (axis, rule) in enumerate(zip(acting, modes, strict=True)):
        part = derivative(input, axis, output.dtype if n else output, rule, cval, *arguments, **(keywords or {}))
        if magnitude:
            np.multiply(part, part, part)
        if n:
            output += part
    if magnitude:
        np.sqrt(output, output, casting="unsafe")
    return output
