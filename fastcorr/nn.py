"""The layer face: batch and channels, any rank. Arguments in, a Contraction and the method that runs it do the rest."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _call, layer_methods, problem
from ._types import Array, Boundary, DType, Padding, PerAxis, Scalar, Shape
from .contraction import Contraction, layer

# Of each face, in the order of its signature; and which layer of contraction.py it is.
OPTIONS = {
    "conv": ("stride", "padding", "dilation", "groups", "boundary", "fill", "flip", "method", "dtype"),
    "conv_transpose": ("stride", "padding", "output_padding", "dilation", "groups", "flip", "method", "dtype"),
    "local_conv": ("stride", "padding", "dilation", "groups", "boundary", "fill", "flip", "dtype"),
}
KINDS: dict[str, dict[str, Any]] = {"conv": {}, "conv_transpose": {"transposed": True}, "local_conv": {"local": True}}


def conv(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    boundary: Boundary = "constant",
    fill: Scalar = 0,
    flip: bool = False,
    method: str = "auto",
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> Array:
    """Convolutional layer: ``y[n, o, i] = bias[o] + sum over c, j of w[o, c, j] * x[n, c, s*i + d*j - lo]``.

    Cross-correlation without conjugation, as in every deep-learning library, in any number of spatial dimensions.

    Parameters
    ----------
    x : array_like, shape (N, C, *S) or (C, *S)
        The batch, or one element of it. Any layout.
    w : array_like, shape (O, C/groups, *K)
        The kernels. The number of spatial axes is that of `K`; with none this is a dense layer.
    bias : array_like, shape (O,), optional
        Added to each output channel.
    stride, dilation : int or sequence of int, optional
        Step between output positions, and between kernel taps, along each spatial axis.
    padding : int, sequence of int or of (int, int), or {'valid', 'same', 'same_lower'}, optional
        Samples before and after each spatial axis: one number, one per axis, or one (lo, hi) pair per axis. Negative
        numbers crop. 'valid' is 0. 'same' gives ``ceil(S / stride)`` outputs, as TensorFlow, JAX and ONNX (SAME_UPPER)
        do: where the padding is odd the longer end is last; 'same_lower' puts it first.
    groups : int, optional
        Input and output channels fall into so many groups that do not see each other; `C` of them: depthwise.
    boundary : str or sequence of str, optional
        How `x` goes on past its ends, one for all spatial axes or one each: as in `correlate`.
    fill : scalar, optional
        Value past the ends for ``boundary='constant'``, cast to the dtype of the result.
    flip : bool, optional
        Flip the kernel along every spatial axis: convolution in the sense of mathematics.
    method : {'auto', 'direct', 'winograd', 'fft', 'reference'}, optional
        'winograd' needs 2.25 times fewer products, for kernels that end in 3 x 3 at stride 1, and rounds otherwise:
        errors stay below ``eps * log2(N) * max|x| * sum|w|``, N being 16 times the channels of a group. 'fft' sums over
        channels per frequency, with the same bound, N the points of a tile. 'auto' takes what is estimated to be the
        fastest, 'winograd' from about 17 channels on, 'fft' for large kernels, and keeps a NaN or an Inf to the outputs
        whose window covers it. Else as in `correlate`.
    dtype : dtype, optional
        Cast `x`, `w` and `bias` to this first. Default ``numpy.result_type(x, w, bias)``.
    out : ndarray, optional
        Where the result goes, of its exact shape and dtype. May overlap any of the arrays.

    Returns
    -------
    ndarray, shape (N, O, *T) or (O, *T)
        With ``T = (S + lo + hi - dilation*(K - 1) - 1) // stride + 1`` along each spatial axis.

    Raises
    ------
    ValueError
        If shapes or options do not fit; the message names the argument, the axis and the numbers.
    TypeError
        If a dtype has no arithmetic (object, strings, dates).

    See Also
    --------
    conv_vjp : its gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import conv
    >>> conv([[1, 2, 3, 4]], [[[1, 0, -1]]])
    array([[-2, -2]])

    Two pictures with three channels, four kernels, half as many rows and columns:

    >>> x, w = np.ones((2, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32)
    >>> conv(x, w, np.zeros(4, np.float32), stride=2, padding="same").shape
    (2, 4, 4, 4)

    Depthwise, in three dimensions, on a periodic volume:

    >>> x, w = np.ones((5, 4, 4, 4)), np.ones((5, 1, 3, 3, 3))
    >>> conv(x, w, groups=5, padding=1, boundary="wrap")[0, 0, 0]
    array([27., 27., 27., 27.])
    """
    options = stride, padding, dilation, groups, boundary, fill, flip, method, dtype
    return forward("conv", x, w, bias, out, options)


def conv_transpose(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    output_padding: PerAxis = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    flip: bool = False,
    method: str = "auto",
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> Array:
    """Transposed convolution, the input gradient of `conv` with the same options: each sample of `x` adds a kernel.

    Parameters
    ----------
    x : array_like, shape (N, C, *S) or (C, *S)
        The batch, or one element of it. Any layout.
    w : array_like, shape (C, O/groups, *K)
        The kernels: those of the `conv` that goes from O to C channels.
    bias : array_like, shape (O,), optional
        Added to each output channel.
    stride, padding, dilation, groups, flip : optional
        Those of the `conv`: `padding` crops here. 'same' and 'same_lower' give ``S * stride`` outputs.
    output_padding : int or sequence of int, optional
        Rows added at the end of each spatial axis, less than the larger of stride and dilation: `conv` with a stride
        takes inputs of several lengths to one.
    method, dtype, out : optional
        As in `conv`.

    Returns
    -------
    ndarray, shape (N, O, *T) or (O, *T)
        With ``T = (S - 1)*stride - lo - hi + dilation*(K - 1) + 1 + output_padding`` along each spatial axis.

    Raises
    ------
    ValueError, TypeError
        As in `conv`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import conv_transpose
    >>> conv_transpose([[1, 2, 3]], [[[1, 10]]], stride=2)
    array([[ 1, 10,  2, 20,  3, 30]])
    >>> conv_transpose(np.ones((1, 8, 5, 5)), np.ones((8, 4, 3, 3)), stride=2, padding=1, output_padding=1).shape
    (1, 4, 10, 10)
    """
    options = stride, padding, output_padding, dilation, groups, flip, method, dtype
    return forward("conv_transpose", x, w, bias, out, options)


def local_conv(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    boundary: Boundary = "constant",
    fill: Scalar = 0,
    flip: bool = False,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> Array:
    """Locally connected layer: `conv` with a kernel of its own at each output position, nothing shared.

    Parameters
    ----------
    x : array_like, shape (N, C, *S) or (C, *S)
        The batch, or one element of it. Any layout.
    w : array_like, shape (*T, O, C/groups, *K)
        The kernels of each output position. `conv` is the case where all are equal, ``broadcast_to(w, T + w.shape)``.
    bias : array_like, shape (O,) or (O, *T), optional
        Added to each output channel, or to each output.
    stride, padding, dilation, groups, boundary, fill, flip, dtype, out : optional
        As in `conv`.

    Returns
    -------
    ndarray, shape (N, O, *T) or (O, *T)
        `T` as in `conv`.

    Raises
    ------
    ValueError, TypeError
        As in `conv`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import conv, local_conv
    >>> x = np.arange(12.0).reshape(1, 3, 4)
    >>> local_conv(x, np.arange(6.0).reshape(2, 3, 1, 1, 1, 1) * np.ones((2, 2)))
    array([[[  0.,  14.,  36.],
            [ 78., 120., 170.]]])
    >>> w = np.ones((5, 1, 2, 2))
    >>> np.array_equal(local_conv(x, np.broadcast_to(w, (2, 3, 5, 1, 2, 2))), conv(x, w))
    True
    """
    options = stride, padding, dilation, groups, boundary, fill, flip, dtype
    return forward("local_conv", x, w, bias, out, options)


class _Layer(NamedTuple):
    """What a call of a face is, whatever the numbers in its arrays."""

    form: Contraction
    run: _call.LayerRunner
    shape: Shape  # of the result as the caller sees it
    cast: DType | None  # of all arrays, if asked for


def _resolve(face: str, arrays: tuple[Array | None, ...], options: tuple[Any, ...]) -> _Layer:
    named = dict(zip(OPTIONS[face], options, strict=True)) | KINDS[face]
    method, asked = named.pop("method", "auto"), named.pop("dtype")
    given = dict(zip(("x", "w", "bias"), arrays, strict=True))
    dtype = problem.result_dtype(asked, **{name: a.dtype for name, a in given.items() if a is not None})
    bias_shape = () if given["bias"] is None else given["bias"].shape
    form, unbatched = layer(*shapes(given), dtype, **named)
    canonical_bias = form.out_shape[1:3] + (bias_shape[1:] or (1,) * form.rank)
    shape = result_shape(form, unbatched)
    run = layer_methods.runner(form, method, shape, canonical_bias)
    return _Layer(form, run, shape, None if asked is None else dtype)


def forward(
    face: str, x: ArrayLike, w: ArrayLike, bias: ArrayLike | None, out: Array | None, options: tuple[Any, ...]
) -> Array:
    """The result of a face: `options` in the order of OPTIONS."""
    x, w, bias = np.asarray(x), np.asarray(w), None if bias is None else np.asarray(bias)
    call: _Layer = _call.resolved(_resolve, face, (x, w, bias), options)
    if call.cast is not None:
        x, w = x.astype(call.cast, copy=False), w.astype(call.cast, copy=False)
        bias = None if bias is None else bias.astype(call.cast, copy=False)
    if out is None:
        return call.run(x, w, bias)
    form = call.form
    if _check_out(out, call.shape, form.dtype, (x, w) if bias is None else (x, w, bias)):
        call.run(x, w, bias, out.reshape(form.out_shape))
    else:
        np.copyto(out, call.run(x, w, bias))
    return out


def as_arrays(dtype: DTypeLike | None, **given: ArrayLike | None) -> tuple[dict[str, Array], DType]:
    """(ndarrays by name, cast to `dtype` if given; the dtype of their result). A `bias` of None is left out."""
    arrays = {name: np.asarray(a) for name, a in given.items() if a is not None or name != "bias"}
    result = problem.result_dtype(dtype, **{name: a.dtype for name, a in arrays.items()})
    if dtype is not None:
        arrays = {name: a.astype(result, copy=False) for name, a in arrays.items()}
    return arrays, result


def shapes(arrays: Mapping[str, Any]) -> tuple[Shape, Shape, Shape | None]:
    """Of x, w and bias, as `contraction.layer` takes them."""
    bias = arrays.get("bias")
    return arrays["x"].shape, arrays["w"].shape, None if bias is None else bias.shape


def result_shape(form: Contraction, unbatched: bool) -> Shape:
    """Of the result of `form` as the caller sees it, groups and channels in one axis."""
    batch, groups, channels, *size = form.out_shape
    shape = (batch, groups * channels, *size)
    return shape[1:] if unbatched else shape


def _check_out(out: Any, shape: Shape, dtype: DType, arrays: Iterable[Array]) -> bool:
    """Whether a kernel may write straight to `out`, or the result has to be copied there."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an ndarray, not {type(out).__name__}")
    if out.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"out has dtype {out.dtype}, the result has {dtype}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, the result has {shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    plain = out.flags.aligned and out.dtype.isnative and 0 not in out.strides
    return plain and not any(np.may_share_memory(out, a) for a in arrays)
