"""The core's functions on dask arrays: lazy, in chunks, on any of its schedulers. Needs ``fastcorr[dask]``.

A block of the result is one call of the core on the samples that its windows read, along each axis:

    x          |  chunk 0  |  chunk 1  |  chunk 2  |      outputs i0 to i1-1 read X[s*i0 - lo : s*(i1-1) - lo + span]
    block 1             <= read ==========>               pieces of chunks, as many as the window reaches over
    block 0 (past it)<=|= read =====>                     at a true end only, X goes on by the boundary rule

Geometry comes from the core's Problem or Contraction of the whole arrays, which also raises every error before a graph
is made. Past a true end the block has the padding and the rule of the whole, unless that rule repeats samples that the
block does not have ("wrap", a far reach of "reflect" and "symmetric"): then it reads them, in whatever chunk they are.
So a result has the bits of the one in memory, whether summed directly or, with a kernel of low rank, axis by axis.

The gradient of x is computed the same way from the gradient of the result; with a rule that repeats samples, first that
of the extended x, then folded back. The gradient of a kernel is one small array per block, added up by a tree whose
order is that of the blocks, whatever order a scheduler runs them in.

Each block runs on one thread of the scheduler's: blocks are what is parallel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

try:
    import dask.array as da
except ImportError as error:
    raise ImportError(f'fastcorr.dask needs dask ({error}): pip install "fastcorr[dask]"') from error

from . import contraction, gradients, nn, planner, problem, signal, template
from ._types import Boundary, DType, Mode, Padding, PerAxis, Scalar
from .blocks import Face, Gradients, bias_gradient, lazy_gradients, lazy_result, of_all, sum_dtype


def correlate(
    x: Any,
    k: Any,
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
    out: None = None,
) -> da.Array:
    """`fastcorr.correlate` on a dask array: lazy, chunk by chunk, each read with the border that its windows need.

    Parameters
    ----------
    x : dask.array.Array, shape (*batch, *n)
        The data, in chunks of any size along every axis: smaller than the kernel, or uneven. Any other array is first
        made one, as by ``dask.array.asarray``.
    k : array_like or dask.array.Array
        The kernel, which every block has whole.
    mode, axes, boundary, fill, anchor, stride, dilation, dtype : optional
        As in `fastcorr.correlate`. A boundary begins at the ends of `x`, never at those of a chunk.
    method : str, optional
        As in `fastcorr.correlate`. 'auto' is decided for the whole: if that is 'direct' or, for the values of a `k`
        that is not lazy, 'separable', it is for every block, and the result is bit for bit that of
        `fastcorr.correlate`. If it is 'fft', each block takes what is faster for it.
    out : None
        A lazy result has nowhere to go before it is computed: ``dask.array.store(y, out)`` writes it.

    Returns
    -------
    dask.array.Array
        Chunks are those of `x` divided by the stride, if it is as long as ``x[::stride]``; else each output is with the
        sample in the middle of its window.

    Raises
    ------
    ValueError
        As in `fastcorr.correlate`, at once; and for chunks of unknown size.
    TypeError
        As in `fastcorr.correlate`, and for any `out`.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastcorr.dask import correlate
    >>> x = da.arange(10, chunks=4)
    >>> y = correlate(x, [1, 1, 1], "same", boundary="wrap")
    >>> y
    dask.array<correlate, shape=(10,), dtype=int64, chunksize=(4,), chunktype=numpy.ndarray>
    >>> y.compute()
    array([10,  3,  6,  9, 12, 15, 18, 21, 24, 17])

    dask's own progress bar, and a cluster, serve as for any dask array:

    >>> from dask.diagnostics import ProgressBar
    >>> with ProgressBar():     # doctest: +SKIP
    ...     y.compute()
    """
    options: dict[str, Any] = {
        "mode": mode,
        "axes": axes,
        "boundary": boundary,
        "fill": fill,
        "anchor": anchor,
        "stride": stride,
    }
    return _signal("correlate", x, k, out, **options, dilation=dilation, method=method, dtype=dtype)


def convolve(
    x: Any,
    k: Any,
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
    out: None = None,
) -> da.Array:
    """`fastcorr.convolve` on a dask array: lazy, chunk by chunk.

    Parameters
    ----------
    x, k, mode, axes, boundary, fill, anchor, stride, dilation, method, dtype, out : optional
        As in `correlate`, with the defaults of `fastcorr.convolve`.

    Returns
    -------
    dask.array.Array
        As in `correlate`.

    Raises
    ------
    ValueError, TypeError
        As in `correlate`.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastcorr.dask import convolve
    >>> convolve(da.ones(5, chunks=2), [1, -1], "full").compute()
    array([ 1.,  0.,  0.,  0.,  0., -1.])
    """
    options: dict[str, Any] = {
        "mode": mode,
        "axes": axes,
        "boundary": boundary,
        "fill": fill,
        "anchor": anchor,
        "stride": stride,
    }
    return _signal("convolve", x, k, out, **options, dilation=dilation, method=method, dtype=dtype)


def conv(
    x: Any,
    w: Any,
    bias: Any = None,
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
    out: None = None,
) -> da.Array:
    """`fastcorr.conv` on a dask array: lazy, chunk by chunk of batch and space.

    Parameters
    ----------
    x : dask.array.Array, shape (N, C, *S) or (C, *S)
        In chunks of any size along the batch and every spatial axis. Chunks of channels are put together, since each
        output needs all of them.
    w, bias : array_like or dask.array.Array
        Which every block has whole.
    stride, padding, dilation, groups, boundary, fill, flip, method, dtype : optional
        As in `fastcorr.conv`. A boundary begins at the ends of `x`, never at those of a chunk.
    out : None
        As in `correlate`.

    Returns
    -------
    dask.array.Array, shape (N, O, *T) or (O, *T)
        Its chunks of batch and space as in `correlate`; all channels are in one.

    Raises
    ------
    ValueError, TypeError
        As in `fastcorr.conv`, at once; and as in `correlate`.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from fastcorr.dask import conv
    >>> x = da.ones((2, 3, 64, 64), chunks=(1, 3, 32, 32))
    >>> conv(x, np.ones((8, 3, 3, 3)), padding="same", stride=2).chunks
    ((1, 1), (8,), (16, 16), (16, 16))
    """
    _no_out(out)
    x, w, bias = _arrays(x=x, w=w, bias=bias)
    options: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "boundary": boundary,
    }
    options |= {"fill": fill, "flip": flip}
    biased = () if bias is None else (bias,)
    result = problem.result_dtype(dtype, x=x.dtype, w=w.dtype, **({} if bias is None else {"bias": bias.dtype}))
    face = _layer(x, w, bias, result, options, method=method, dtype=dtype)
    return lazy_result(of_all(face, face.form), x, w, *biased)


def match_template(
    x: Any,
    t: Any,
    *,
    mode: Mode = "valid",
    axes: PerAxis | None = None,
    boundary: Boundary = "constant",
    fill: Scalar = 0,
    mask: Any = None,
    flat: float = 0.0,
    out: None = None,
) -> da.Array:
    """`fastcorr.match_template` on a dask array: lazy, chunk by chunk.

    Parameters
    ----------
    x : dask.array.Array, shape (*batch, *n)
        Where to search, in chunks of any size along every axis.
    t, mask : array_like or dask.array.Array
        The template and its weights, which every block has whole.
    mode, axes, boundary, fill, flat : optional
        As in `fastcorr.match_template`. A boundary begins at the ends of `x`, never at those of a chunk.
    out : None
        As in `correlate`.

    Returns
    -------
    dask.array.Array
        Within 1e-6 of `fastcorr.match_template`: each block sums by the method that is fastest for it. Chunks as in
        `correlate`.

    Raises
    ------
    ValueError, TypeError
        As in `fastcorr.match_template`, at once; and as in `correlate`. What is wrong with the weights of a `mask` that
        is a dask array is found when it is computed.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastcorr.dask import match_template
    >>> x = da.from_array([5.0, 1, 2, 4, 5, 5, 5, 0], chunks=3)
    >>> match_template(x, [20.0, 30, 50]).compute().round(3)
    array([-0.577,  1.   ,  0.929,  0.756,  0.   , -0.945])
    """
    _no_out(out)
    known: list[Any] = [a if a is None or isinstance(a, da.Array) else np.asarray(a) for a in (t, mask)]
    lazy = _arrays(x=x, t=t, **({} if mask is None else {"mask": mask}))
    kernel, weights = (np.ones(a.shape, a.dtype) if isinstance(a, da.Array) else a for a in known)
    options: dict[str, Any] = {"mode": mode, "axes": axes, "boundary": boundary, "fill": fill, "flat": flat}
    plan = template.prepare(lazy[0].shape, lazy[0].dtype, kernel, weights, **options)
    p = replace(plan.problem, dtype=plan.dtype)
    options |= {"axes": p.axes, "boundary": p.boundary}
    del options["mode"]
    face = Face("match_template", _search, None, p, p.axes, p.out_shape, "mode", options, p.k_batched)
    return lazy_result(face, *lazy)


def _search(x: NDArray[Any], t: NDArray[Any], *mask: Any, **options: Any) -> NDArray[Any]:
    return template.match_template(x, t, mask=mask[0] if mask else None, **options)


def correlate_vjp(
    g: Any,
    x: Any,
    k: Any,
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
) -> tuple[da.Array | None, ...]:
    """`fastcorr.correlate_vjp` on dask arrays: lazy, chunk by chunk.

    Parameters
    ----------
    g : dask.array.Array or array_like
        Of the shape of the result, in any chunks.
    x, k, mode, axes, boundary, fill, anchor, stride, dilation, method, dtype : optional
        The arguments of `correlate`.
    need : (bool, bool), optional
        Which of the two gradients to make.

    Returns
    -------
    gx, gk : dask.array.Array or None
        As in `fastcorr.correlate_vjp`. `gx` has the chunks of `x`. `gk` is the sum of one partial gradient per block,
        added in the order of the blocks: the same bits on every scheduler, which for floats are not those of the sum in
        memory. Integers are exact.

    Raises
    ------
    ValueError, TypeError
        As in `fastcorr.correlate_vjp`, at once; and for chunks of unknown size.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastcorr.dask import correlate_vjp
    >>> gx, gk = correlate_vjp([1, 10], da.arange(1, 5, chunks=2), [5, 6, 7])
    >>> gx.compute(), gk.compute()
    (array([ 5, 56, 67, 70]), array([21, 32, 43]))
    """
    options: dict[str, Any] = {
        "mode": mode,
        "axes": axes,
        "boundary": boundary,
        "fill": fill,
        "anchor": anchor,
        "stride": stride,
    }
    return _signal_vjp("correlate", g, x, k, method, dtype, need, **options, dilation=dilation)


def convolve_vjp(
    g: Any,
    x: Any,
    k: Any,
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
) -> tuple[da.Array | None, ...]:
    """`fastcorr.convolve_vjp` on dask arrays: lazy, chunk by chunk.

    Parameters
    ----------
    g, x, k, mode, axes, boundary, fill, anchor, stride, dilation, method, dtype, need : optional
        As in `correlate_vjp`, for a call of `convolve`.

    Returns
    -------
    gx, gk : dask.array.Array or None
        As in `correlate_vjp`.

    Raises
    ------
    ValueError, TypeError
        As in `correlate_vjp`.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastcorr.dask import convolve_vjp
    >>> gx, gk = convolve_vjp([1, 10], da.arange(1, 5, chunks=2), [5, 6, 7])
    >>> gx.compute(), gk.compute()
    (array([ 7, 76, 65, 50]), array([43, 32, 21]))
    """
    options: dict[str, Any] = {
        "mode": mode,
        "axes": axes,
        "boundary": boundary,
        "fill": fill,
        "anchor": anchor,
        "stride": stride,
    }
    return _signal_vjp("convolve", g, x, k, method, dtype, need, **options, dilation=dilation)


def conv_vjp(
    g: Any,
    x: Any,
    w: Any,
    bias: Any = None,
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
) -> tuple[da.Array | None, ...]:
    """`fastcorr.conv_vjp` on dask arrays: lazy, chunk by chunk of batch and space.

    Parameters
    ----------
    g : dask.array.Array or array_like
        Of the shape of the result, in any chunks.
    x, w, bias, stride, padding, dilation, groups, boundary, fill, flip, method, dtype : optional
        The arguments of `conv`.
    need : (bool, bool, bool), optional
        Which of the three gradients to make.

    Returns
    -------
    gx, gw, gbias : dask.array.Array or None
        As in `fastcorr.conv_vjp`, and as in `correlate_vjp`: `gw` and `gbias` are added up in a fixed order.

    Raises
    ------
    ValueError, TypeError
        As in `fastcorr.conv_vjp`, at once; and for chunks of unknown size.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastcorr.dask import conv_vjp
    >>> x = da.arange(1, 5, chunks=2).reshape(1, 4)
    >>> [gradient.compute() for gradient in conv_vjp([[1, 10]], x, [[[5, 6, 7]]], [0])]
    [array([[ 5, 56, 67, 70]]), array([[[21, 32, 43]]]), array([11])]
    """
    g, x, w, bias = _arrays(g=g, x=x, w=w, bias=bias)
    given = {"x": x, "w": w} | ({} if bias is None else {"bias": bias})
    need = gradients.needed(need, "conv", ("x", "w", "bias"))
    given, fill, result = _cast("conv", g, dtype, fill, **given)
    options: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "boundary": boundary,
    }
    options |= {"fill": fill, "flip": flip}
    g = g.astype(result)  # to which bias may have contributed, which a block does not see
    face = _layer(given["x"], given["w"], bias, result, options, method=method, dtype=sum_dtype(result))
    gradients.check_gradient("conv", g, face.shape)
    gx, gw = lazy_gradients(face, face.form, g, given["x"], given["w"], need[:2])
    return gx, gw, bias_gradient(g, len(face.axes), result) if need[2] and bias is not None else None


def _signal(face: str, x: Any, k: Any, out: Any, **options: Any) -> da.Array:
    _no_out(out)
    known = not isinstance(k, da.Array)
    kernel = np.asarray(k) if known else k
    x, k = _arrays(x=x, k=kernel)
    plan = planner.resolve_options(face, x, kernel, tuple(options[name] for name in planner.OPTIONS), known=known)
    # One decision for all blocks, if it is one of those whose bits do not depend on the block.
    method = plan.method if plan.method in ("direct", "separable") else options["method"]
    return lazy_result(_signal_face(face, plan.problem, method=method, dtype=options["dtype"]), x, k)


def _signal_face(name: str, p: problem.Problem, **options: Any) -> Face:
    options |= {"axes": p.axes, "boundary": p.boundary, "fill": p.fill, "stride": p.stride, "dilation": p.dilation}
    call, vjp = getattr(signal, name), getattr(gradients, name + "_vjp")
    return Face(name, call, vjp, p, p.axes, p.out_shape, "mode", options, p.k_batched)


def _layer(
    x: da.Array,
    w: da.Array,
    bias: da.Array | None,
    result: DType,
    options: dict[str, Any],
    *,
    method: str,
    dtype: DTypeLike | None,
) -> Face:
    form, unbatched = contraction.layer(x.shape, w.shape, None if bias is None else bias.shape, result, **options)
    axes = tuple(range(x.ndim - form.rank, x.ndim))
    shape = nn.result_shape(form, unbatched)
    options = {name: value for name, value in options.items() if name != "padding"} | {"fill": form.fill}
    options |= {"method": method, "dtype": dtype}
    return Face(
        "conv", nn.conv, gradients.conv_vjp, form, axes, shape, "padding", options, channels=x.ndim - 1 - len(axes)
    )


def _signal_vjp(
    name: str, g: Any, x: Any, k: Any, method: str, dtype: Any, need: Any, fill: Any, **options: Any
) -> Gradients:
    g, x, k = _arrays(g=g, x=x, k=k)
    need = gradients.needed(need, name, ("x", "k"))
    given, fill, result = _cast(name, g, dtype, fill, x=x, k=k)
    p = problem.signal(x.shape, k.shape, result, flip=name == "convolve", fill=fill, **options)
    gradients.check_gradient(name, g, p.out_shape)
    face = _signal_face(name, p, method=method, dtype=sum_dtype(result))
    return lazy_gradients(face, gradients.as_contraction(p)[0], g, given["x"], given["k"], need)


def _arrays(**given: Any) -> list[Any]:
    """Each as a dask array, or None; ValueError for chunks of unknown size."""
    arrays = []
    for name, a in given.items():
        if a is not None or name != "bias":
            a = da.asarray(a)
            for axis, n in enumerate(a.shape):
                if np.isnan(n):
                    raise ValueError(
                        f"{name} has chunks of unknown size along axis {axis}; {name}.compute_chunk_sizes() finds them"
                    )
        arrays.append(a)
    return arrays


def _no_out(out: Any) -> None:
    if out is not None:
        raise TypeError("a lazy result takes no out; dask.array.store(y, out) computes it and writes it there")


def _cast(name: str, g: da.Array, dtype: Any, fill: Any, **given: Any) -> tuple[dict[str, Any], Any, DType]:
    """(arrays by name, cast to `dtype` if given; `fill` as the face itself casts it; dtype of the gradients)."""
    forward, result = gradients.dtypes(name, dtype, g.dtype, **{role: a.dtype for role, a in given.items()})
    if dtype is not None:
        given = {role: a.astype(forward) for role, a in given.items()}
    return given, problem.fill_scalar(fill, forward), result
