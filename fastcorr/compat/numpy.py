"""numpy.correlate and numpy.convolve: 1-D, the longer array is the data whichever comes first."""

from operator import index
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import signal as core

__all__ = ["convolve", "correlate"]

_MODES = ("valid", "same", "full")  # numpy takes the index as well


def correlate(a: ArrayLike, v: ArrayLike, mode: str | int = "valid") -> NDArray[Any]:
    """numpy.correlate: ``c[n] = sum over k of a[n + k] * conj(v[k])``.

    Parameters
    ----------
    a, v : array_like, shapes (N,) and (M,)
        Neither may be empty.
    mode : {'valid', 'same', 'full'}, optional
        The result has length ``max(N, M) - min(N, M) + 1``, ``max(N, M)`` or ``N + M - 1``.

    Returns
    -------
    ndarray
        Of dtype ``numpy.result_type(a, v)``.

    Raises
    ------
    ValueError
        If an array is empty or not 1-D, or `mode` is unknown.
    TypeError
        If `mode` is neither a string nor an int, or a dtype has no arithmetic; object arrays are among those.

    Examples
    --------
    >>> from fastcorr.compat.numpy import correlate
    >>> correlate([1, 2, 3], [0, 1, 0.5], "same")
    array([2. , 3.5, 3. ])
    >>> correlate([0, 1j], [1, 2, 3], "full")           # the shorter one first: lags run the other way round
    array([0.+0.j, 0.+3.j, 0.+2.j, 0.+1.j])
    """
    data, kernel, mode = _vector("a", np.asarray(a)), _vector("v", np.asarray(v)), _mode(mode)
    if data.size < kernel.size:
        # Reversed, the sum over v slides `data` over it: sum over j of data[j] * conj(v)[::-1][i - j + ...].
        return core.convolve(kernel[::-1].conj(), data, mode, anchor=data.size // 2)
    return core.correlate(data, kernel, mode)


def convolve(a: ArrayLike, v: ArrayLike, mode: str | int = "full") -> NDArray[Any]:
    """numpy.convolve: ``c[n] = sum over k of a[k] * v[n - k]``.

    Parameters
    ----------
    a, v : array_like, shapes (N,) and (M,)
        Neither may be empty; scalars are arrays of length 1.
    mode : {'full', 'valid', 'same'}, optional
        As in `correlate`.

    Returns
    -------
    ndarray
        Of dtype ``numpy.result_type(a, v)``.

    Raises
    ------
    ValueError, TypeError
        As in `correlate`.

    Examples
    --------
    >>> from fastcorr.compat.numpy import convolve
    >>> convolve([1, 2, 3], [0, 1, 0.5])
    array([0. , 1. , 2.5, 4. , 1.5])
    >>> convolve([0, 1, 0.5], [1, 2, 3, 4], "valid")
    array([2.5, 4. ])
    """
    data, kernel = _vector("a", np.atleast_1d(np.asarray(a))), _vector("v", np.atleast_1d(np.asarray(v)))
    if data.size < kernel.size:
        data, kernel = kernel, data
    return core.convolve(data, kernel, _mode(mode))


def _vector(name: str, a: NDArray[Any]) -> NDArray[Any]:
    if a.ndim != 1:
        raise ValueError(f"{name} must be 1-D, its shape is {a.shape}")
    if a.size == 0:
        raise ValueError(f"{name} cannot be empty")
    return a


def _mode(mode: str | int) -> str:
    if not isinstance(mode, str):
        try:
            mode = dict(enumerate(_MODES)).get(index(mode), "")
        except TypeError:
            raise TypeError(f"mode must be one of {_MODES}, not {mode!r}") from None
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {_MODES}, not {mode!r}")
    return mode
