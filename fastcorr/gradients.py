"""Gradients of every face by one rule: ``f_vjp(g, *arrays of f, **options of f, need=...)``, one for each array.

`g` is the gradient of some number with respect to the result of f. The gradient with respect to one array is the
contraction of `g` with the other one (contraction.py), so it is planned and run like any result, and since these
functions are bilinear as well, a gradient of a gradient is a call of the same functions.

Complex numbers follow PyTorch: g = dL/d(Re y) + 1j * dL/d(Im y), so a product y = a b gives a the gradient g conj(b).
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _call, layer_methods, planner
from . import problem as problems
from ._types import Array, Boundary, DType, Mode, Padding, PerAxis, Scalar, Shape
from .contraction import Contraction, layer
from .nn import KINDS, OPTIONS, result_shape


def correlate_vjp(
    g: ArrayLike,
    x: ArrayLike,
    k: ArrayLike,
    mode: Mode = "valid",
    *,
    axes: PerAxis | None = None,
    boundary: Boundary = "constant",
    fill: Scalar = 0,
    anchor: PerAxis | None = None,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    method: str = "auto",
    dtype: DTypeLike | None = None,
    need: Sequence[bool] = (True, True),
) -> tuple[Array | None, Array | None]:
    """Gradients of ``correlate(x, k, mode, ...)``, given the gradient `g` of its result.

    Parameters
    ----------
    g : array_like
        Of the shape of the result.
    x, k, mode, axes, boundary, fill, anchor, stride, dilation, method, dtype : optional
        The arguments of `correlate`.
    need : (bool, bool), optional
        Which of the two gradients to compute.

    Returns
    -------
    gx, gk : ndarray or None
        Of the shapes of `x` and `k`, None where not needed. dtype ``numpy.result_type(g, x, k)``, integers exact.
        What a boundary rule repeats goes back to the sample it repeats; what falls on ``fill`` is dropped. Axes that
        broadcast are summed over.

    Raises
    ------
    ValueError
        As in `correlate`, and if `g` has another shape than the result.
    TypeError
        As in `correlate`, and for bool, which has no gradient.

    Examples
    --------
    >>> from fastcorr import correlate_vjp
    >>> gx, gk = correlate_vjp([1, 10], [1, 2, 3, 4], [5, 6, 7])
    >>> gx
    array([ 5, 56, 67, 70])
    >>> gk
    array([21, 32, 43])

    With a reflecting boundary, the end sample next to the mirror is read twice:

    >>> correlate_vjp([1, 0, 0], [1, 2, 3], [1, 0, 1], "same", boundary="reflect", need=(True, False))
    (array([0, 2, 0]), None)
    """
    options = mode, axes, boundary, fill, anchor, stride, dilation, method, dtype
    return _signal_vjp("correlate", g, x, k, need, options)


def convolve_vjp(
    g: ArrayLike,
    x: ArrayLike,
    k: ArrayLike,
    mode: Mode = "valid",
    *,
    axes: PerAxis | None = None,
    boundary: Boundary = "constant",
    fill: Scalar = 0,
    anchor: PerAxis | None = None,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    method: str = "auto",
    dtype: DTypeLike | None = None,
    need: Sequence[bool] = (True, True),
) -> tuple[Array | None, Array | None]:
    """Gradients of ``convolve(x, k, mode, ...)``, given the gradient `g` of its result.

    Parameters
    ----------
    g : array_like
        Of the shape of the result.
    x, k, mode, axes, boundary, fill, anchor, stride, dilation, method, dtype : optional
        The arguments of `convolve`.
    need : (bool, bool), optional
        Which of the two gradients to compute.

    Returns
    -------
    gx, gk : ndarray or None
        As in `correlate_vjp`.

    Raises
    ------
    ValueError, TypeError
        As in `correlate_vjp`.

    Examples
    --------
    >>> from fastcorr import convolve_vjp
    >>> gx, gk = convolve_vjp([1, 10], [1, 2, 3, 4], [5, 6, 7])
    >>> gx
    array([ 7, 76, 65, 50])
    >>> gk
    array([43, 32, 21])
    """
    options = mode, axes, boundary, fill, anchor, stride, dilation, method, dtype
    return _signal_vjp("convolve", g, x, k, need, options)


def conv_vjp(
    g: ArrayLike,
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
    need: Sequence[bool] = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of ``conv(x, w, bias, ...)``, given the gradient `g` of its result.

    Parameters
    ----------
    g : array_like
        Of the shape of the result.
    x, w, bias, stride, padding, dilation, groups, boundary, fill, flip, method, dtype : optional
        The arguments of `conv`.
    need : (bool, bool, bool), optional
        Which of the three gradients to compute.

    Returns
    -------
    gx, gw, gbias : ndarray or None
        Of the shapes of `x`, `w` and `bias`, None where not needed or where there is no `bias`. dtype
        ``numpy.result_type(g, x, w, bias)``, integers exact. What a boundary rule repeats goes back to the sample it
        repeats; what falls on ``fill`` is dropped.

    Raises
    ------
    ValueError
        As in `conv`, and if `g` has another shape than the result.
    TypeError
        As in `conv`, and for bool, which has no gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import conv, conv_vjp
    >>> conv_vjp([[1, 10]], [[1, 2, 3, 4]], [[[5, 6, 7]]], [0])
    (array([[ 5, 56, 67, 70]]), array([[[21, 32, 43]]]), array([11]))

    One step of gradient descent towards a target:

    >>> x, w, target = np.ones((4, 1, 6, 6)), np.zeros((2, 1, 3, 3)), np.ones((4, 2, 4, 4))
    >>> _, gw, _ = conv_vjp(conv(x, w) - target, x, w, need=(False, True, False))
    >>> w -= gw / gw.size
    """
    options = stride, padding, dilation, groups, boundary, fill, flip, method, dtype
    return _layer_vjp("conv", g, x, w, bias, need, options)


def conv_transpose_vjp(
    g: ArrayLike,
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
    need: Sequence[bool] = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of ``conv_transpose(x, w, bias, ...)``, given the gradient `g` of its result.

    Parameters
    ----------
    g : array_like
        Of the shape of the result.
    x, w, bias, stride, padding, output_padding, dilation, groups, flip, method, dtype : optional
        The arguments of `conv_transpose`.
    need : (bool, bool, bool), optional
        Which of the three gradients to compute.

    Returns
    -------
    gx, gw, gbias : ndarray or None
        As in `conv_vjp`.

    Raises
    ------
    ValueError, TypeError
        As in `conv_vjp`.

    Examples
    --------
    >>> from fastcorr import conv_transpose_vjp
    >>> conv_transpose_vjp([[1, 2, 3, 4]], [[1, 10]], [[[5, 6, 7]]])
    (array([[38, 56]]), array([[[21, 32, 43]]]), None)
    """
    options = stride, padding, output_padding, dilation, groups, flip, method, dtype
    return _layer_vjp("conv_transpose", g, x, w, bias, need, options)


def local_conv_vjp(
    g: ArrayLike,
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
    need: Sequence[bool] = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of ``local_conv(x, w, bias, ...)``, given the gradient `g` of its result.

    Parameters
    ----------
    g : array_like
        Of the shape of the result.
    x, w, bias, stride, padding, dilation, groups, boundary, fill, flip, dtype : optional
        The arguments of `local_conv`.
    need : (bool, bool, bool), optional
        Which of the three gradients to compute.

    Returns
    -------
    gx, gw, gbias : ndarray or None
        As in `conv_vjp`.

    Raises
    ------
    ValueError, TypeError
        As in `conv_vjp`.

    Examples
    --------
    >>> from fastcorr import local_conv_vjp
    >>> local_conv_vjp([[1, 10]], [[1, 2, 3]], [[[[5, 6]]], [[[7, 8]]]])
    (array([[ 5, 76, 80]]), array([[[[ 1,  2]]],
    <BLANKLINE>
    <BLANKLINE>
           [[[20, 30]]]]), None)
    """
    options = stride, padding, dilation, groups, boundary, fill, flip, dtype
    return _layer_vjp("local_conv", g, x, w, bias, need, options)


class Resolved(NamedTuple):
    """A call of a face as a Contraction."""

    form: Contraction
    method: str
    shape: Shape  # of the result
    shapes: Any  # of x, the kernel and bias, or None
    order: Shape | None = None  # of the axes of x and of the result in `form`, where they move
    k_order: Shape | None = None
    conj: bool = False  # k is conjugated before it is correlated


class Runners(NamedTuple):
    """What computes the gradients of a call; None for one that is not needed."""

    call: Resolved
    x: _call.LayerRunner | None
    k: _call.LayerRunner | None
    cast: DType | None = None  # of the arrays of the face, if asked for


def resolve(face: str, shapes: Any, dtype: DType, method: str, options: Mapping[str, Any]) -> Resolved:
    """A call of `face` on `shapes` of x, the kernel and bias (or None), whose result, or gradients, are of `dtype`."""
    x_shape, k_shape, bias_shape = shapes
    if face in OPTIONS:
        form, unbatched = layer(x_shape, k_shape, bias_shape, dtype, **options, **KINDS[face])
        return Resolved(form, method, result_shape(form, unbatched), shapes)
    problem = problems.signal(x_shape, k_shape, dtype, flip=face == "convolve", **options)
    form, order = as_contraction(problem)
    moves = None if order == tuple(range(len(order))) else order
    return Resolved(form, method, problem.out_shape, shapes, moves, moves if problem.k_batched else None, problem.conj)


def runners(call: Resolved, need: Sequence[bool], cast: DType | None = None) -> Runners:
    """`need` says which of the gradients of x and of the kernel."""
    orders = call.order, call.k_order
    found: list[_call.LayerRunner | None] = []
    for role, shape, order, needed in zip(call.form.operands, call.shapes[:2], orders, need, strict=True):
        moved = shape if order is None else tuple([shape[axis] for axis in order])
        found.append(layer_methods.runner(call.form.siblings[role], call.method, moved) if needed else None)
    x, k = found
    return Runners(call, x, k, cast)


def bilinear_vjp(found: Runners, g: Array, x: Array | None, k: Array | None) -> tuple[Array | None, Array | None]:
    """Gradients of x and of the kernel; only the arrays that these are made of have to be there.

    They are conjugated as a whole, so that `fill` meets x as it was.
    """
    call, gx, gk = found.call, None, None
    g = _to(np.asarray(g.conj()), call.order)  # that of one number is no array
    if found.x is not None and k is not None:
        gx = _from(found.x(g, _to(np.asarray(k.conj()) if call.conj else k, call.k_order)), call.order)
    if found.k is not None and x is not None:
        operands = g, _to(x, call.order)
        gk = _from(found.k(*(operands if call.form.result == "y" else operands[::-1])), call.k_order)
    for gradient, conj in ((gx, True), (gk, not call.conj)):
        if gradient is not None and conj and gradient.dtype.kind == "c":
            np.conjugate(gradient, out=gradient)
    return gx, gk


def _to(a: Array, order: Shape | None) -> Array:
    return a if order is None else a.transpose(order)


def _from(gradient: Array, order: Shape | None) -> Array:
    """The inverse of `_to`."""
    return gradient if order is None else np.asarray(gradient.transpose(np.argsort(order)), order="C")


def _resolve(face: str, arrays: tuple[Any, ...], options: tuple[Any, ...]) -> Runners:
    *rest, need = options
    layers = face in OPTIONS
    named: dict[str, Any] = dict(zip(OPTIONS[face] if layers else planner.OPTIONS, rest, strict=True))
    method, asked = named.pop("method", "auto"), named.pop("dtype")
    names = ("x", "w", "bias") if layers else ("x", "k")
    need = needed(need, face, names)
    g, x, k, bias = (*arrays, None)[:4]
    given = dict(zip(names, arrays[1:], strict=True))
    forward, dtype = dtypes(face, asked, g.dtype, **{name: a.dtype for name, a in given.items() if a is not None})
    if "fill" in named:
        named["fill"] = problems.fill_scalar(named["fill"], forward)  # as the face itself casts it
    call = resolve(face, (x.shape, k.shape, None if bias is None else bias.shape), dtype, method, named)
    check_gradient(face, g, call.shape)
    return runners(call, need[:2], None if asked is None else forward)


def _layer_vjp(
    face: str,
    g: ArrayLike,
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None,
    need: Sequence[bool],
    options: tuple[Any, ...],
) -> tuple[Array | None, Array | None, Array | None]:
    g, x, w, bias = np.asarray(g), np.asarray(x), np.asarray(w), None if bias is None else np.asarray(bias)
    found: Runners = _call.resolved(_resolve, face, (g, x, w, bias), (*options, need))
    gx, gw = _of_arrays(found, g, x, w)
    return gx, gw, None if bias is None or not need[2] else bias_gradient(found.call.form, g, bias.shape)


def bias_gradient(form: Contraction, g: Array, shape: Shape) -> Array:
    """Sum of `g` over the batch and what else `bias` is repeated over.

    Each row is summed in pairs, then rows in order; NumPy would sum an array of another layout in another order.
    """
    dtype = form.dtype
    sum_type = np.dtype(np.float32) if dtype == np.float16 else dtype
    batch, groups, channels, *size = form.out_shape
    total: Array
    if len(shape) == 1 and sum_type.char in "fd":
        total = _call.channel_sums(g, sum_type, groups * channels, batch)
        return total if dtype is sum_type else total.astype(dtype)
    g = np.require(g, sum_type, ["C", "A"]).reshape(batch, groups * channels, prod(size))
    if len(shape) == 1:
        g = np.add.reduce(g, 2, sum_type)
    total = np.add.reduce(g, 0, sum_type)
    return total.reshape(shape).astype(dtype, copy=False)


def _signal_vjp(
    face: str, g: ArrayLike, x: ArrayLike, k: ArrayLike, need: Sequence[bool], options: tuple[Any, ...]
) -> tuple[Array | None, Array | None]:
    g, x, k = np.asarray(g), np.asarray(x), np.asarray(k)
    return _of_arrays(_call.resolved(_resolve, face, (g, x, k), (*options, need)), g, x, k)


def _of_arrays(found: Runners, g: Array, x: Array, k: Array) -> tuple[Array | None, Array | None]:
    if found.cast is not None:
        x, k = x.astype(found.cast, copy=False), k.astype(found.cast, copy=False)
    return bilinear_vjp(found, g, x, k)


def as_contraction(problem: problems.Problem) -> tuple[Contraction, Shape]:
    """(Contraction that is `problem`, order of the axes of x in it): one channel, and the batch axes by who has them.

    Axes that the kernel does not have are batch; those it shares with x are groups; those that only the kernel has
    are output channels. So every sum over an axis that broadcasts is one of the contraction's own.
    """
    sizes = list(zip(problem.batch_axes, problem.x_batch, problem.k_batch, strict=True))
    batch = [axis for axis, _, m in sizes if m == 1]
    groups = [axis for axis, n, m in sizes if m == n != 1]
    features = [axis for axis, n, m in sizes if m != n and m != 1]
    length = {axis: m if n == 1 else n for axis, n, m in sizes}
    form = Contraction(
        result="y",
        batch=prod(length[axis] for axis in batch),
        groups=prod(length[axis] for axis in groups),
        channels=1,
        features=prod(length[axis] for axis in features),
        size=problem.size,
        kernel=problem.kernel,
        out_size=problem.out_size,
        stride=problem.stride,
        dilation=problem.dilation,
        padding=problem.padding,
        boundary=problem.boundary,
        fill=problem.fill,
        flip=problem.flip,
        dtype=problem.dtype,
    )
    return form, (*batch, *groups, *features, *problem.axes)


def dtypes(face: str, dtype: DTypeLike | None, g: DType, **given: Any) -> tuple[DType, DType]:
    """(dtype of the result of `face`, dtype of its gradients), from those of `g` and the arrays `given`."""
    forward = problems.result_dtype(dtype, **given)
    if forward.kind == "b":
        raise TypeError(f"the result of {face} has dtype bool, which has no gradient")
    if dtype is not None:
        given = dict.fromkeys(given, forward)
    return forward, problems.result_dtype(g=g, **given)


def check_gradient(face: str, g: Array, shape: Shape) -> None:
    if g.shape == shape:
        return
    if g.ndim == len(shape):
        axis = next(axis for axis in range(g.ndim) if g.shape[axis] != shape[axis])
        raise ValueError(f"g and the result of {face} differ along axis {axis}: {g.shape} and {shape}")
    raise ValueError(f"g has shape {g.shape}, the result of {face} has {shape}")


def needed(need: Any, face: str, names: Sequence[str]) -> tuple[bool, ...]:
    if not isinstance(need, (tuple, list)):
        raise TypeError(f"need must be one bool for each of {', '.join(names)}, not {need!r}")
    if len(need) != len(names):
        raise ValueError(f"need has {len(need)} entries, {face} has the arrays {', '.join(names)}")
    return tuple(map(bool, need))
