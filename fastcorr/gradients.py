"""Gradients of every face by one rule: ``f_vjp(g, *arrays of f, **options of f, need=...)``, one for each array.

`g` is the gradient of some number with respect to the result of f. The gradient with respect to one array is the
contraction of `g` with the other one (contraction.py), so it is planned and run like any result, and since these
functions are bilinear as well, a gradient of a gradient is a call of the same functions.

Complex numbers follow PyTorch: g = dL/d(Re y) + 1j * dL/d(Im y), so a product y = a b gives a the gradient g conj(b).
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _call, layer_methods, planner
from . import problem as problems
from ._types import Array, Boundary, DType, Mode, Padding, PerAxis, Scalar, Shape
from .contraction import Contraction, layer
from .nn import KINDS, OPTIONS, result_shape, shapes


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


def bilinear_vjp(
    form: Contraction, g: Array, a: Array, b: Array, need: Sequence[bool], method: str
) -> list[Array | None]:
    """Gradients of ``form(a, b)`` on canonical arrays; conjugated as a whole, so that `fill` meets x as it was."""
    arrays = dict(zip((form.result, *form.operands), (g.conj(), a, b), strict=True))
    gradients = []
    for role, needed in zip(form.operands, need, strict=True):
        gradient = None
        if needed:
            sibling = form.siblings[role]
            left, right = (arrays[name] for name in sibling.operands)
            gradient = layer_methods.contract(sibling, left, right, method)
            if gradient.dtype.kind == "c":
                np.conjugate(gradient, out=gradient)
        gradients.append(gradient)
    return gradients


class _Resolved(NamedTuple):
    """What a call of a gradient is, whatever the numbers in its arrays."""

    form: Contraction
    method: str
    cast: DType | None  # of the arrays of the face, if asked for
    order: Shape | None = None  # of the axes of x and of the result in `form`, where they move
    k_order: Shape | None = None
    conj: bool = False  # k is conjugated before it is correlated


def _resolve(face: str, arrays: tuple[Any, ...], options: tuple[Any, ...]) -> _Resolved:
    signal = face in ("correlate", "convolve")
    named: dict[str, Any] = dict(zip(planner.OPTIONS if signal else OPTIONS[face], options, strict=True))
    named |= {} if signal else KINDS[face]
    method, asked = named.pop("method", "auto"), named.pop("dtype")
    given = dict(zip("gxk" if signal else ("g", "x", "w", "bias"), arrays, strict=True))
    found = {name: a.dtype for name, a in given.items() if a is not None}
    g: Any = given.pop("g")
    forward, dtype = dtypes(face, asked, found.pop("g"), **found)
    named["fill"] = problems.fill_scalar(named.get("fill", 0), forward)  # as the face itself casts it
    cast = None if asked is None else forward
    if not signal:
        if face == "conv_transpose":
            del named["fill"]
        form, unbatched = layer(*shapes(given), dtype, **named)
        check_gradient(face, g, result_shape(form, unbatched))
        return _Resolved(form, method, cast)
    x, k = arrays[1:]
    problem = problems.signal(x.shape, k.shape, dtype, flip=face == "convolve", **named)
    check_gradient(face, g, problem.out_shape)
    form, order = as_contraction(problem)
    return _Resolved(form, method, cast, order, order if problem.k_batched else None, problem.conj)


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
    need = needed(need, face, ("x", "w", "bias"))
    call = _call.resolved(_resolve, face, (g, x, w, bias), options)
    gx, gw = _of_arrays(call, g, x, w, need[:2])
    return gx, gw, None if bias is None or not need[2] else _bias_gradient(call.form, g, bias.shape)


def _bias_gradient(form: Contraction, g: Array, shape: Shape) -> Array:
    """Sum of `g` over the batch and what else `bias` is repeated over.

    Each row is summed in pairs, then rows in order; NumPy would sum an array of another layout in another order.
    """
    sum_type = np.dtype(np.float32) if form.dtype == np.float16 else form.dtype
    batch, groups, channels, *size = form.out_shape
    g = np.require(g, sum_type, ["C", "A"]).reshape(batch, groups * channels, prod(size))
    if len(shape) == 1:
        g = np.add.reduce(g, 2, sum_type)
    total: Array = np.add.reduce(g, 0, sum_type)
    return total.reshape(shape).astype(form.dtype, copy=False)


def _signal_vjp(
    face: str, g: ArrayLike, x: ArrayLike, k: ArrayLike, need: Sequence[bool], options: tuple[Any, ...]
) -> tuple[Array | None, Array | None]:
    g, x, k = np.asarray(g), np.asarray(x), np.asarray(k)
    need = needed(need, face, ("x", "k"))
    return _of_arrays(_call.resolved(_resolve, face, (g, x, k), options), g, x, k, need)


def _of_arrays(
    call: _Resolved, g: Array, x: Array, k: Array, need: Sequence[bool]
) -> tuple[Array | None, Array | None]:
    """The gradients of x and k."""
    form = call.form
    if call.cast is not None:
        x, k = x.astype(call.cast, copy=False), k.astype(call.cast, copy=False)
    y_shape, x_shape, k_shape = (form.shapes[role] for role in (form.result, *form.operands))
    a, b = _to(x, call.order, x_shape), _to(k.conj() if call.conj else k, call.k_order, k_shape)
    gx, gk = bilinear_vjp(form, _to(g, call.order, y_shape), a, b, need, call.method)
    if gx is not None:
        gx = _from(gx, call.order, x.shape)
    if gk is not None:
        gk = _from(gk, call.k_order, k.shape)
        if call.conj:
            np.conjugate(gk, out=gk)
    return gx, gk


def _to(a: Array, order: Shape | None, shape: Shape) -> Array:
    return (a if order is None else a.transpose(order)).reshape(shape)


def _from(gradient: Array, order: Shape | None, shape: Shape) -> Array:
    """The inverse of `_to`: a gradient as its array has its axes."""
    if order is None:
        return gradient.reshape(shape)
    moved = gradient.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))
    return np.asarray(moved, order="C")


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
