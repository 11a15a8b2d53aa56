"""The core's functions on PyTorch tensors, with gradients of every order: no copy on the way in, none on the way out.

    correlate, convolve, conv, conv_transpose, local_conv      names, options and results of fastcorr's own
      -> _call                   plain tensors go to _Face or straight to the core; what is traced, to fastcorr::face
           -> _run               the core on the tensors' memory
      <- _face_gradients         contractions of the gradient with the other tensor (contraction.py)
           -> _vjp_at_once       the core's gradients, where nobody asks for theirs
           -> _contract          one of the three contractions, whose gradients are _contract again

The three contractions of a trilinear form are closed under differentiation, so `_contract` is all that any derivative
of any order needs. Both steps exist twice, because a registered operator costs several times what a small correlation
does: as an `autograd.Function` for eager tensors, and as an operator (``torch.ops.fastcorr.face`` and ``.contract``)
for what looks at operators: torch.compile, torch.export, fake tensors. They share forward and backward. torch.func
takes the Functions: its grad, vjp, jvp and their like work, and vmap is a loop.

An operator's schema has no type for "an int, one per axis or one pair per axis", so options travel as the text of a
Python literal; ``fill`` may be a NaN, which has no literal, and is an argument of its own. What is traced holds
for the shapes it was traced with: other shapes are compiled anew.

The CPU computes, in as many threads as `fastcorr.set_num_threads` and `fastcorr.num_threads` allow;
``torch.set_num_threads`` has no say.
"""

from ast import literal_eval
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import numpy as np

from . import contraction, gradients, layer_methods, nn, planner, problem
from ._call import call as _call_core

try:
    import torch
    from torch import Tensor, is_grad_enabled
    from torch import from_numpy as _from_numpy
    from torch._C import _are_functorch_transforms_active, _len_torch_dispatch_stack
    from torch._C._functorch import unwrap_if_dead
    from torch.autograd import forward_ad
    from torch.compiler import is_compiling
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError('fastcorr.torch needs PyTorch, which is not installed: pip install "fastcorr[torch]"') from None

__all__ = ["conv", "conv_transpose", "convolve", "correlate", "local_conv"]

PerAxis = int | Sequence[int]
Pads = str | int | Sequence[int | tuple[int, int]]

# Of each face: its options in the core's order, which of them is `fill`, and the name of the second argument.
_OPTIONS: dict[str, tuple[str, ...]] = {"correlate": tuple(planner.OPTIONS), "convolve": tuple(planner.OPTIONS)}
_OPTIONS |= nn.OPTIONS
_FILL = {face: names.index("fill") if "fill" in names else None for face, names in _OPTIONS.items()}
_KERNEL = {face: "w" if face in nn.OPTIONS else "k" for face in _OPTIONS}

_NAMES: tuple[str, ...] = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
_NAMES += ("float16", "float32", "float64", "complex64", "complex128")
_NUMPY = {getattr(torch, name): np.dtype(name) for name in _NAMES}
_TORCH = {numpy: theirs for theirs, numpy in _NUMPY.items()}
_LITERAL = {type(None), bool, int, float, complex, str}
_OWN = (Tensor, torch.nn.Parameter)  # subclasses by others are theirs to interpret

PLAIN, RECORDED, FUNCTORCH, TRACED = range(4)  # ways to the core: `_route`


def correlate(
    x: Tensor,
    k: Tensor,
    mode: str | Sequence[tuple[int, int]] = "valid",
    *,
    axes: PerAxis | None = None,
    boundary: str | Sequence[str] = "constant",
    fill: complex = 0,
    anchor: PerAxis | None = None,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    method: str = "auto",
    dtype: "torch.dtype | None" = None,
    out: Tensor | None = None,
) -> Tensor:
    """`fastcorr.correlate` of CPU tensors, differentiable any number of times.

    Parameters
    ----------
    x, k : Tensor
        Data and kernel, of any strides; their memory is read where it is.
    mode, axes, boundary, fill, anchor, stride, dilation, method : optional
        As in `fastcorr.correlate`. Gradients are computed by the same method, or 'auto' where
        it does not serve them all: 'separable', 'winograd'.
    dtype : torch.dtype, optional
        Cast `x` and `k` to this first. Default: NumPy's promotion of both, in which an int64 beside a float32 makes a
        float64.
    out : Tensor, optional
        Where the result goes, of its exact shape and dtype. It has no gradient.

    Returns
    -------
    Tensor
        Its gradients follow PyTorch: those of complex tensors are conjugated, those of real ones real, each of the
        dtype of its tensor. `fill` and `dtype` have none.

    Raises
    ------
    ValueError
        As in `fastcorr.correlate`; if a tensor is not on the CPU; if `out` is given where a gradient is asked for.
    TypeError
        As in `fastcorr.correlate`; if an argument is no tensor, or of a type that NumPy does not have (bfloat16).

    Examples
    --------
    >>> import torch
    >>> from fastcorr.torch import correlate
    >>> x, k = torch.tensor([1.0, 2, 3, 4], requires_grad=True), torch.tensor([1.0, 1, 1])
    >>> y = correlate(x, k, "same", boundary="reflect")
    >>> y.detach()
    tensor([ 5.,  6.,  9., 10.])
    >>> y.sum().backward()
    >>> x.grad
    tensor([2., 4., 4., 2.])
    """
    options = mode, axes, boundary, fill, anchor, stride, dilation, method, None if dtype is None else _name(dtype)
    return _call("correlate", x, k, None, options, out)


def convolve(
    x: Tensor,
    k: Tensor,
    mode: str | Sequence[tuple[int, int]] = "valid",
    *,
    axes: PerAxis | None = None,
    boundary: str | Sequence[str] = "constant",
    fill: complex = 0,
    anchor: PerAxis | None = None,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    method: str = "auto",
    dtype: "torch.dtype | None" = None,
    out: Tensor | None = None,
) -> Tensor:
    """`fastcorr.convolve` of CPU tensors, differentiable any number of times.

    Parameters
    ----------
    x, k : Tensor
        Data and kernel, as in `correlate`.
    mode, axes, boundary, fill, anchor, stride, dilation, method : optional
        As in `fastcorr.convolve`.
    dtype, out : optional
        As in `correlate`.

    Returns
    -------
    Tensor
        As in `correlate`.

    Raises
    ------
    ValueError, TypeError
        As in `correlate`.

    Examples
    --------
    >>> import torch
    >>> from fastcorr.torch import convolve
    >>> convolve(torch.tensor([1, 1]), torch.tensor([1, -1]), "full")
    tensor([ 1,  0, -1])
    """
    options = mode, axes, boundary, fill, anchor, stride, dilation, method, None if dtype is None else _name(dtype)
    return _call("convolve", x, k, None, options, out)


def conv(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    stride: PerAxis = 1,
    padding: Pads = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    boundary: str | Sequence[str] = "constant",
    fill: complex = 0,
    flip: bool = False,
    method: str = "auto",
    dtype: "torch.dtype | None" = None,
    out: Tensor | None = None,
) -> Tensor:
    """`fastcorr.conv` of CPU tensors: torch.nn.functional.conv1d, conv2d, conv3d in any number of dimensions.

    Parameters
    ----------
    x : Tensor, shape (N, C, *S) or (C, *S)
        The batch, or one element of it. Any strides.
    w : Tensor, shape (O, C/groups, *K)
        The kernels.
    bias : Tensor, shape (O,), optional
        Added to each output channel.
    stride, padding, dilation, groups, boundary, fill, flip, method : optional
        As in `fastcorr.conv`: the first four mean what they mean to PyTorch.
    dtype, out : optional
        As in `correlate`.

    Returns
    -------
    Tensor, shape (N, O, *T) or (O, *T)
        Gradients as in `correlate`.

    Raises
    ------
    ValueError, TypeError
        As in `correlate`.

    Examples
    --------
    Four spatial axes, of which PyTorch knows three at most:

    >>> import torch
    >>> from fastcorr.torch import conv
    >>> w = torch.ones(2, 3, 2, 2, 2, 2, requires_grad=True)
    >>> y = conv(torch.ones(1, 3, 5, 5, 5, 5), w, stride=2)
    >>> y.shape
    torch.Size([1, 2, 2, 2, 2, 2])
    >>> y.sum().backward()
    >>> w.grad.unique()
    tensor([16.])
    """
    options = stride, padding, dilation, groups, boundary, fill, flip, method, None if dtype is None else _name(dtype)
    return _call("conv", x, w, bias, options, out)


def conv_transpose(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    stride: PerAxis = 1,
    padding: Pads = 0,
    output_padding: PerAxis = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    flip: bool = False,
    method: str = "auto",
    dtype: "torch.dtype | None" = None,
    out: Tensor | None = None,
) -> Tensor:
    """`fastcorr.conv_transpose` of CPU tensors: torch.nn.functional.conv_transpose1d to 3d in any number of dimensions.

    Parameters
    ----------
    x : Tensor, shape (N, C, *S) or (C, *S)
        The batch, or one element of it. Any strides.
    w : Tensor, shape (C, O/groups, *K)
        The kernels.
    bias : Tensor, shape (O,), optional
        Added to each output channel.
    stride, padding, output_padding, dilation, groups, flip, method : optional
        As in `fastcorr.conv_transpose`.
    dtype, out : optional
        As in `correlate`.

    Returns
    -------
    Tensor, shape (N, O, *T) or (O, *T)
        Gradients as in `correlate`.

    Raises
    ------
    ValueError, TypeError
        As in `correlate`.

    Examples
    --------
    >>> import torch
    >>> from fastcorr.torch import conv_transpose
    >>> conv_transpose(torch.tensor([[1, 2, 3]]), torch.tensor([[[1, 10]]]), stride=2)
    tensor([[ 1, 10,  2, 20,  3, 30]])
    """
    options = stride, padding, output_padding, dilation, groups, flip, method, None if dtype is None else _name(dtype)
    return _call("conv_transpose", x, w, bias, options, out)


def local_conv(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    stride: PerAxis = 1,
    padding: Pads = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    boundary: str | Sequence[str] = "constant",
    fill: complex = 0,
    flip: bool = False,
    dtype: "torch.dtype | None" = None,
    out: Tensor | None = None,
) -> Tensor:
    """`fastcorr.local_conv` of CPU tensors: `conv` with a kernel of its own at each output position.

    Parameters
    ----------
    x : Tensor, shape (N, C, *S) or (C, *S)
        The batch, or one element of it. Any strides.
    w : Tensor, shape (*T, O, C/groups, *K)
        The kernels of each output position.
    bias : Tensor, shape (O,) or (O, *T), optional
        Added to each output channel, or to each output.
    stride, padding, dilation, groups, boundary, fill, flip : optional
        As in `fastcorr.local_conv`.
    dtype, out : optional
        As in `correlate`.

    Returns
    -------
    Tensor, shape (N, O, *T) or (O, *T)
        Gradients as in `correlate`.

    Raises
    ------
    ValueError, TypeError
        As in `correlate`.

    Examples
    --------
    >>> import torch
    >>> from fastcorr.torch import local_conv
    >>> local_conv(torch.tensor([[1, 2, 3]]), torch.tensor([[[[1, 0]]], [[[0, 5]]]]))
    tensor([[ 1, 15]])
    """
    options = stride, padding, dilation, groups, boundary, fill, flip, None if dtype is None else _name(dtype)
    return _call("local_conv", x, w, bias, options, out)


# --- forward ----------------------------------------------------------------------------------------------------------


def _call(face: str, x: Tensor, w: Tensor, bias: Tensor | None, options: Any, out: Tensor | None) -> Tensor:
    """The result of a face; `options` in the core's order."""
    route = _route(x, w, bias)
    if route >= FUNCTORCH:
        for name, tensor in (("x", x), (_KERNEL[face], w), ("bias", bias)):
            if tensor is not None or name != "bias":
                _check(name, tensor)
    if out is not None:
        return _into(out, route, face, x, w, bias, options)
    if route is PLAIN:
        return _run(face, x, w, bias, options)
    if route is RECORDED:
        bias = bias if bias is None else unwrap_if_dead(bias)
        return _apply_face(face, unwrap_if_dead(x), unwrap_if_dead(w), bias, options)
    if route is FUNCTORCH:
        return _Face.apply(face, x, w, bias, options)
    named = dict(zip(_OPTIONS[face], _frozen(options), strict=True))
    fill = named.pop("fill", None)
    return torch.ops.fastcorr.face.default(face, x, w, bias, repr(named), fill)


def _run(face: str, x: Tensor, w: Tensor, bias: Tensor | None, options: Any, out: Any = None) -> Tensor:
    """The core on the memory of tensors. What of it cannot be an array is an error here."""
    try:
        a, b, c = x.numpy(force=True), w.numpy(force=True), None if bias is None else bias.numpy(force=True)
    except TypeError:
        a, b, c = _array("x", x), _array(_KERNEL[face], w), None if bias is None else _array("bias", bias)
    if face in nn.OPTIONS:
        return _from_numpy(nn.forward(face, a, b, c, out, options))
    return _from_numpy(_call_core(face, a, b, out, options))


def _into(out: Tensor, route: int, face: str, x: Tensor, w: Tensor, bias: Tensor | None, options: Any) -> Tensor:
    _check("out", out)
    route = max(route, _route(out, out, None))
    if route >= FUNCTORCH:
        raise ValueError("out is for plain tensors outside torch.compile and torch.func: leave it away")
    if route is RECORDED:
        raise ValueError("out has no gradient, but an argument requires one: leave out away, or call under no_grad()")
    _run(face, x, w, bias, options, _array("out", out))
    torch.autograd.graph.increment_version(out)  # autograd does not see what NumPy writes
    return out


def _array(name: str, tensor: Tensor) -> Any:
    """The tensor's memory as an ndarray; a copy only where it is conjugated or negated lazily."""
    try:
        return tensor.numpy(force=True)
    except TypeError:
        if tensor.layout is not torch.strided:
            raise TypeError(
                f"{name} has layout {tensor.layout}, which NumPy does not have: {name}.to_dense()"
            ) from None
        raise TypeError(f"{name} has dtype {tensor.dtype}, which NumPy does not have: {name}.float()") from None


def _name(dtype: "torch.dtype") -> str:
    """Of a torch dtype, as NumPy knows it."""
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype, not {dtype!r}")
    if dtype not in _NUMPY:
        raise TypeError(f"dtype={dtype} is a type that NumPy does not have; torch.float32 is one it has")
    return _NUMPY[dtype].name


def _check(name: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {type(tensor).__name__}: torch.as_tensor({name})")
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} is on {tensor.device}, fastcorr computes on the CPU: {name}.cpu()")
    if tensor.dtype not in _NUMPY:
        raise TypeError(f"{name} has dtype {tensor.dtype}, which NumPy does not have: {name}.float()")


def _route(x: Tensor, w: Tensor, bias: Tensor | None) -> int:
    """How to reach the core: at once, by way of autograd or of torch.func, or as an operator that can be traced."""
    if (
        is_compiling()
        or _len_torch_dispatch_stack()
        or not (type(x) in _OWN and type(w) in _OWN and x.is_cpu and w.is_cpu)
        or not (bias is None or (type(bias) in _OWN and bias.is_cpu))
    ):
        return TRACED
    if _are_functorch_transforms_active():
        return FUNCTORCH
    if forward_ad._current_level >= 0:
        return RECORDED
    if is_grad_enabled() and (x.requires_grad or w.requires_grad or (bias is not None and bias.requires_grad)):
        return RECORDED
    return PLAIN


def _frozen(options: tuple[Any, ...]) -> tuple[Any, ...]:
    """`options` made of nothing but tuples, strings and numbers of Python: they last, and their repr can be read."""
    return options if _LITERAL.issuperset(map(type, options)) else _literal(options)


def _literal(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    return tuple(map(_literal, value)) if isinstance(value, (tuple, list)) else value


# --- backward ---------------------------------------------------------------------------------------------------------


@lru_cache(1024)
def _resolve(face: str, shapes: Any, dtype: "torch.dtype", options: tuple[Any, ...]) -> gradients.Resolved:
    """`shapes` of x, w and bias (or None), `dtype` of the result; `options` of a call that has been computed."""
    described: Any = dict(zip(_OPTIONS[face], options, strict=True))
    method = described.pop("method", "auto")
    del described["dtype"]
    call = gradients.resolve(face, shapes, _NUMPY[dtype], method, described)
    serves_all = method in ("direct", "fft", "reference") and call.form.rank
    return call if serves_all else call._replace(method="auto")


@lru_cache(1024)
def _runners(face: str, shapes: Any, dtype: Any, options: Any, need: tuple[bool, bool]) -> gradients.Runners:
    return gradients.runners(_resolve(face, shapes, dtype, options), need)


def _known(shapes: Iterable[Any]) -> tuple[Any, ...]:
    """`shapes` whose traced lengths have become constants."""
    return tuple([shape if shape is None else tuple(map(int, shape)) for shape in shapes])


def _keep_face(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """What the gradients need: one tensor is kept for the other's gradient."""
    face, x, w, bias, options = inputs[:5]
    options = _frozen(options) if len(inputs) == 5 else _parsed(face, options, inputs[5])
    if bias is None:
        shapes, ctx.dtypes = (x.shape, w.shape, None), (x.dtype, w.dtype, None)
    else:
        shapes, ctx.dtypes = (x.shape, w.shape, bias.shape), (x.dtype, w.dtype, bias.dtype)
    ctx.call = face, shapes, output.dtype, options
    need = ctx.needs_input_grad
    ctx.save_for_backward(x if need[2] else None, w if need[1] else None)


def _face_gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, w = ctx.saved_tensors
    route = _route(g, g if x is None else x, w)
    vjp = _vjp_at_once if route is PLAIN else _vjp_recorded
    return None, *vjp(ctx, g, x, w), None, None


def _vjp_at_once(ctx: Any, g: Tensor, x: Tensor | None, w: Tensor | None) -> list[Tensor | None]:
    """Gradients of x, w and bias that nobody differentiates: the core's, without a tensor on the way."""
    need = ctx.needs_input_grad
    found = _runners(*ctx.call, need[1:3])
    a = g.numpy(force=True)
    b, c = None if x is None else x.numpy(force=True), None if w is None else w.numpy(force=True)
    gx, gw = gradients.bilinear_vjp(found, a, b, c)
    gbias = gradients.bias_gradient(found.call.form, a, found.call.shapes[2]) if need[3] else None
    x_dtype, w_dtype, bias_dtype = ctx.dtypes
    return [
        gx if gx is None else _cast(_from_numpy(gx), x_dtype),
        gw if gw is None else _cast(_from_numpy(gw), w_dtype),
        gbias if gbias is None else _cast(_from_numpy(gbias), bias_dtype),
    ]


def _vjp_recorded(ctx: Any, g: Tensor, x: Tensor | None, w: Tensor | None) -> list[Tensor | None]:
    """The same, made of contractions that have gradients themselves; that of bias may be rounded otherwise."""
    face, shapes, *described = ctx.call
    call = _resolve(face, _known(shapes), *described)
    _, need_x, need_w, need_bias, *_ = ctx.needs_input_grad
    form = call.form
    if call.conj and w is not None:
        w = w.conj()
    y_shape, x_shape, w_shape = (form.shapes[role] for role in (form.result, *form.operands))
    operands = _to(g, call.order, y_shape), _to(x, call.order, x_shape), _to(w, call.k_order, w_shape)
    gx, gw = _bilinear(form, call.method, *operands, (need_x, need_w), ctx.dtypes)
    gx, gw = _from(gx, call.order, call.shapes[0]), _from(gw, call.k_order, call.shapes[1])
    gbias = _cast(_bias_gradient(form, g, call.shapes[2]), ctx.dtypes[2]) if need_bias else None
    return [gx, gw.conj() if call.conj and gw is not None else gw, gbias]


def _to(tensor: Tensor | None, order: Any, shape: tuple[int, ...]) -> Tensor | None:
    if tensor is None:
        return None
    return (tensor if order is None else tensor.permute(order)).reshape(shape)


def _from(gradient: Tensor | None, order: Any, shape: tuple[int, ...]) -> Tensor | None:
    """The inverse of `_to`: a gradient as its tensor has its axes."""
    if gradient is None:
        return None
    if order is None:
        return gradient.reshape(shape)
    return gradient.reshape([shape[axis] for axis in order]).permute([order.index(axis) for axis in range(len(order))])


def _bias_gradient(form: contraction.Contraction, g: Tensor, shape: tuple[int, ...]) -> Tensor:
    if len(shape) > 1:
        return g.reshape(form.batch, *shape).sum(0)
    others = [axis for axis in range(g.ndim) if axis != g.ndim - form.rank - 1]
    return g.sum(others) if others else g  # no axes would mean all of them


def _bilinear(form: Any, method: str, g: Any, a: Any, b: Any, need: Any, dtypes: Any) -> list[Tensor | None]:
    """Gradients of ``form(a, b)``; conjugated as a whole, so that `fill` meets x as it was.

    Only the tensors that a gradient asked for is made of have to be there.
    """
    arrays = dict(zip((form.result, *form.operands), (g.conj(), a, b), strict=True))
    found: list[Tensor | None] = []
    for role, needed, dtype in zip(form.operands, need, dtypes, strict=False):
        gradient = None
        if needed:
            sibling = form.siblings[role]
            one, other = sibling.operands
            gradient = _cast(_contract(arrays[one], arrays[other], sibling, method).conj(), dtype)
        found.append(gradient)
    return found


def _cast(gradient: Tensor, dtype: "torch.dtype") -> Tensor:
    """As PyTorch expects the gradient of a tensor of `dtype`: real for what is real."""
    if gradient.dtype == dtype:
        return gradient
    if gradient.is_complex() and not dtype.is_complex:
        gradient = gradient.real
    return gradient.to(dtype)


# --- contractions -----------------------------------------------------------------------------------------------------


def _contract(a: Tensor, b: Tensor, form: Any, method: str) -> Tensor:
    """`layer_methods.contract` on canonical tensors, differentiable."""
    route = _route(a, b, None)
    if route is PLAIN:
        return _run_contraction(a, b, form, method)
    if route is RECORDED:
        return _apply_contraction(unwrap_if_dead(a), unwrap_if_dead(b), form, method)
    if route is FUNCTORCH:
        return _Contraction.apply(a, b, form, method)
    return torch.ops.fastcorr.contract.default(a, b, _description(form, method), form.fill.item())


def _run_contraction(a: Tensor, b: Tensor, form: contraction.Contraction, method: str) -> Tensor:
    first, second = form.operands
    return _from_numpy(layer_methods.contract(form, _array(first, a), _array(second, b), method))


def _keep_contraction(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, b, *described = inputs
    ctx.form, ctx.method = described if isinstance(described[0], contraction.Contraction) else _form(*described)
    ctx.dtypes = a.dtype, b.dtype
    need_a, need_b = ctx.needs_input_grad[:2]
    ctx.save_for_backward(a if need_b else None, b if need_a else None)


def _contraction_gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    """`form` of x dropped what fell on `fill`, so there is none in the two forms that read x."""
    form = _filled(ctx.form, 0) if ctx.form.result == "x" else ctx.form
    a, b = ctx.saved_tensors
    found = _bilinear(form, ctx.method, g, a, b, ctx.needs_input_grad[:2], ctx.dtypes)
    return *found, None, None


def _filled(form: contraction.Contraction, fill: complex) -> contraction.Contraction:
    return form if form.fill == fill else replace(form, fill=problem.fill_scalar(fill, form.dtype))


@lru_cache(1024)
def _description(form: contraction.Contraction, method: str) -> str:
    """All of `form` but `fill`, as a literal."""
    values = {field.name: getattr(form, field.name) for field in fields(form) if field.name != "fill"}
    return repr(values | {"dtype": form.dtype.name, "method": method})


def _form(description: str, fill: complex) -> tuple[contraction.Contraction, str]:
    form, method = _described(description)
    return _filled(form, fill), method


@lru_cache(1024)
def _described(description: str) -> tuple[contraction.Contraction, str]:
    values = literal_eval(description)
    method, dtype = values.pop("method"), np.dtype(values.pop("dtype"))
    return contraction.Contraction(**values, dtype=dtype, fill=dtype.type(0)), method


# --- what autograd and the dispatcher call ----------------------------------------------------------------------------


class _Face(torch.autograd.Function):
    @staticmethod
    def forward(face: str, x: Tensor, w: Tensor, bias: Tensor | None, options: Any) -> Tensor:
        return _run(face, x, w, bias, options)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _keep_face(ctx, inputs, output)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(*inputs[1:3])

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Any:
        return _face_gradients(ctx, *g)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        face, (*_, bias_shape), dtype, options = ctx.call
        (_, dx, dw, dbias, _), (x, w) = tangents, ctx.saved_tensors
        unfilled = _with_fill(face, options, 0)  # it is no part of x
        terms = [] if dx is None else [_call(face, dx, w, None, unfilled, None)]
        terms += [] if dw is None else [_call(face, x, dw, None, options, None)]
        if dbias is not None:
            rank = (w.ndim - 2) // 2 if face == "local_conv" else w.ndim - 2
            terms.append(dbias.reshape(*dbias.shape, *(1,) * rank) if len(bias_shape) == 1 else dbias)
        return sum(terms[1:], terms[0]).to(dtype)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        return _one_by_one(_Face, info, in_dims, inputs)


class _Contraction(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor, form: contraction.Contraction, method: str) -> Tensor:
        return _run_contraction(a, b, form, method)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _keep_contraction(ctx, inputs, output)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Any:
        return _contraction_gradients(ctx, *g)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        terms = []
        for place, role in enumerate(ctx.form.operands):
            if tangents[place] is not None:
                a, b = (tangents[n] if n == place else tensor for n, tensor in enumerate(ctx.saved_tensors))
                form = _filled(ctx.form, 0) if role == "x" else ctx.form
                terms.append(_contract(a, b, form, ctx.method))
        return sum(terms[1:], terms[0])

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        return _one_by_one(_Contraction, info, in_dims, inputs)


def _one_by_one(function: Any, info: Any, in_dims: Any, inputs: Any) -> tuple[Tensor, int]:
    """torch.func.vmap as a loop: what it maps over may be an axis of either tensor, or of both."""
    pairs = list(zip(inputs, in_dims, strict=True))
    rows = [[a.select(axis, i) if isinstance(axis, int) else a for a, axis in pairs] for i in range(info.batch_size)]
    return torch.stack([function.apply(*row) for row in rows]), 0


# Function.apply is a method of Python around one of C that decides what functorch has to see. `_route` has done that,
# and unwrap_if_dead is the rest of it: for small tensors `apply` takes a third less time without it.
_apply_face, _apply_contraction = (super(torch.autograd.Function, f).apply for f in (_Face, _Contraction))  # type: ignore[misc]

_library = torch.library.Library("fastcorr", "DEF")
_library.define("face(str face, Tensor x, Tensor w, Tensor? bias, str options, Scalar? fill) -> Tensor")
_library.define("contract(Tensor a, Tensor b, str form, Scalar fill) -> Tensor")


def _parsed(face: str, options: str, fill: complex | None) -> tuple[Any, ...]:
    return _with_fill(face, _read(face, options), fill)


def _with_fill(face: str, options: tuple[Any, ...], fill: complex | None) -> tuple[Any, ...]:
    place = _FILL[face]
    return options if place is None else (*options[:place], fill, *options[place + 1 :])


@lru_cache(1024)
def _read(face: str, options: str) -> tuple[Any, ...]:
    named = literal_eval(options)
    return tuple([named.get(name) for name in _OPTIONS[face]])


def _face_operator(face: str, x: Tensor, w: Tensor, bias: Tensor | None, options: str, fill: complex | None) -> Tensor:
    return _run(face, x, w, bias, _parsed(face, options, fill))


def _face_shape(face: str, x: Tensor, w: Tensor, bias: Tensor | None, options: str, fill: complex | None) -> Tensor:
    parsed = _parsed(face, options, fill)
    given = {"x": x, _KERNEL[face]: w} | ({} if bias is None else {"bias": bias})
    dtype = problem.result_dtype(parsed[-1], **{name: _NUMPY[tensor.dtype] for name, tensor in given.items()})
    shapes = _known((x.shape, w.shape, None if bias is None else bias.shape))
    shape = _resolve(face, shapes, _TORCH[dtype], parsed).shape
    return x.new_empty(shape, dtype=_TORCH[dtype])


def _contract_operator(a: Tensor, b: Tensor, form: str, fill: complex) -> Tensor:
    return _run_contraction(a, b, *_form(form, fill))


def _contract_shape(a: Tensor, b: Tensor, form: str, fill: complex) -> Tensor:
    described, _ = _described(form)
    return a.new_empty(described.out_shape, dtype=_TORCH[described.dtype])


_library.impl("face", _face_operator, "CPU")
_library.impl("contract", _contract_operator, "CPU")
torch.library.register_fake("fastcorr::face", _face_shape, lib=_library)
torch.library.register_fake("fastcorr::contract", _contract_shape, lib=_library)
torch.library.register_autograd("fastcorr::face", _face_gradients, setup_context=_keep_face, lib=_library)
torch.library.register_autograd(
    "fastcorr::contract", _contraction_gradients, setup_context=_keep_contraction, lib=_library
)
