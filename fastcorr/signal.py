"""The signal face: one kernel, any rank. Arguments in, a Problem and its Plan do the rest."""

import numpy as np

from ._call import call
from .problem import lags


def correlate(
    x,
    k,
    mode="valid",
    *,
    axes=None,
    boundary="constant",
    fill=0,
    anchor=None,
    stride=1,
    dilation=1,
    method="auto",
    dtype=None,
    out=None,
):
    """Cross-correlate data with a kernel: ``y[i] = sum over j of conj(k[j]) * x[i + j]``, in any number of dimensions.

    Parameters
    ----------
    x : array_like, shape (*batch, *n)
        The data. Any layout: Fortran order, negative strides, misaligned, big-endian, read-only.
    k : array_like, shape (*m,)
        The kernel, never swapped with `x`. It acts on the last ``k.ndim`` axes of `x`; the axes before are batch.
    mode : {'valid', 'same', 'full'} or sequence of (int, int), optional
        Samples added before and after each axis: none; so many that the result has the length of `x`; one less
        than the dilated kernel has taps on either side; or one (lo, hi) pair per kernel axis. Negative values crop.
    axes : int or sequence of int, optional
        Kernel axis t acts on ``axes[t]`` of `x`. With ``k.ndim == x.ndim`` and fewer `axes` the remaining axes of
        `x` and `k` broadcast: every batch entry may have a kernel of its own.
    boundary : str or sequence of str, optional
        How `x` goes on past its ends, in numpy.pad's words: 'constant' (with `fill`), 'edge', 'reflect',
        'symmetric', 'wrap'. Also known as: nearest, replicate, extend (edge); mirror (reflect); circular,
        periodic (wrap). One for all axes or one per kernel axis.
    fill : scalar, optional
        Value past the ends for ``boundary='constant'``, cast to the dtype of the result.
    anchor : int or sequence of int, optional
        The kernel tap that lies on the output sample in mode 'same'. Default ``m // 2``.
    stride : int or sequence of int, optional
        Keep every stride-th sample of the result, from the first on.
    dilation : int or sequence of int, optional
        Samples from one kernel tap to the next.
    method : {'auto', 'direct', 'fft', 'separable', 'reference'}, optional
        'direct' is the compiled multiply loop, 'fft' the Fourier transform of overlapping blocks: floats only, far
        faster for large kernels, but an error of up to ``eps * log2(N) * max|x| * sum|k|`` anywhere, and a NaN or Inf
        spreads. 'separable' runs a real kernel that is a product of one per axis, or for two axes a sum of up to four
        of these, axis by axis: an error of up to ``4 * eps * max|x| * sum|k|``, the maximum over the window.
        'reference' is the definition in plain NumPy (slow, any dtype). 'auto' takes 'fft' for floats under 32 taps and
        more where that is faster, and keeps a NaN or Inf where it belongs; it takes 'separable' where the values of
        `k` allow it, with fewer taps or integers only where nothing is rounded. `plan` shows the choice.
    dtype : dtype, optional
        Cast `x` and `k` to this first. Default ``numpy.result_type(x, k)``.
    out : ndarray, optional
        Where the result goes, of its exact shape and dtype. May overlap `x` or `k`.

    Returns
    -------
    ndarray
        Along each kernel axis of length ``(n + lo + hi - d*(m - 1) - 1) // stride + 1``. Integers wrap modulo
        2**bits, bool is OR of ANDs, float16 is summed in float32 and rounded once.

    Raises
    ------
    ValueError
        If shapes, modes, axes or `out` do not fit; the message names the argument, the axis and the numbers.
    TypeError
        If a dtype has no arithmetic (object, strings, dates).

    Notes
    -----
    float32, float64 and complex results have an error below ``3 eps sum |x||k|`` for kernels up to 15x15, on data of
    eight decades (2.0 at 15x15, 2.8 the worst of a million outputs; up to 4 where the kernel spans eight decades too).
    They are bit for bit the same for any number of threads, memory layout, batch and position; a NaN or Inf reaches
    only the outputs whose window covers it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import correlate
    >>> correlate([1, 2, 3, 4], [1, 0, -1])
    array([-2, -2])
    >>> correlate([1, 2, 3, 4], [1, 1, 1], "same")
    array([3, 6, 9, 7])
    >>> correlate([1, 2, 3, 4], [1, 1, 1], "same", boundary="reflect")
    array([ 5,  6,  9, 10])

    Edges of a picture with one dark column:

    >>> picture = np.array([[1, 1, 0, 1], [1, 1, 0, 1]])
    >>> correlate(picture, [[1, -1]])
    array([[ 0,  1, -1],
           [ 0,  1, -1]])

    A kernel over rows and columns of a colour picture (height, width, 3):

    >>> correlate(np.ones((6, 5, 3), np.float32), np.ones((3, 3), np.float32), axes=(0, 1)).shape
    (4, 3, 3)
    """
    return call("correlate", x, k, out, (mode, axes, boundary, fill, anchor, stride, dilation, method, dtype))


def convolve(
    x,
    k,
    mode="valid",
    *,
    axes=None,
    boundary="constant",
    fill=0,
    anchor=None,
    stride=1,
    dilation=1,
    method="auto",
    dtype=None,
    out=None,
):
    """Convolve data with a kernel: ``y[i] = sum over j of k[j] * x[i - j]``, in any number of dimensions.

    This is `correlate` with the kernel flipped along every axis it acts on, and without conjugation.

    Parameters
    ----------
    x : array_like, shape (*batch, *n)
        The data, as in `correlate`.
    k : array_like, shape (*m,)
        The kernel, never swapped with `x`.
    mode : {'valid', 'same', 'full'} or sequence of (int, int), optional
        As in `correlate`. The default differs from numpy.convolve's, which is 'full'.
    axes, boundary, fill, stride, dilation, method, dtype, out : optional
        As in `correlate`.
    anchor : int or sequence of int, optional
        The kernel tap that lies on the output sample in mode 'same'. Default ``(m - 1) // 2``.

    Returns
    -------
    ndarray
        As in `correlate`.

    Raises
    ------
    ValueError, TypeError
        As in `correlate`.

    Examples
    --------
    >>> from fastcorr import convolve
    >>> convolve([1, 2, 3], [0, 1, 0.5], "full")
    array([0. , 1. , 2.5, 4. , 1.5])
    >>> convolve([1, 2, 3], [0, 1, 0.5], "same")
    array([1. , 2.5, 4. ])

    Polynomials multiply by full convolution, (1 + x)(1 - x) = 1 - x**2:

    >>> convolve([1, 1], [1, -1], "full")
    array([ 1,  0, -1])
    """
    return call("convolve", x, k, out, (mode, axes, boundary, fill, anchor, stride, dilation, method, dtype))


def correlation_lags(n, m, mode="valid"):
    """The lag of each sample of a 1-D ``correlate(x, k, mode)``.

    Parameters
    ----------
    n, m : int
        Lengths of `x` and `k`.
    mode : {'valid', 'same', 'full'} or ((int, int),), optional
        As in `correlate`.

    Returns
    -------
    ndarray of int
        Sample t of the result has ``k[0]`` on ``x[lag[t]]``.

    Raises
    ------
    ValueError
        If a length is negative, `m` is 0, or the kernel is longer than the padded data.

    Examples
    --------
    >>> from fastcorr import correlation_lags
    >>> correlation_lags(4, 3, "full")
    array([-2, -1,  0,  1,  2,  3])
    """
    return np.arange(*lags(n, m, mode))
