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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from operator import add
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

try:
    import dask.array as da
    from dask.base import tokenize
    from dask.highlevelgraph import HighLevelGraph
except ImportError as error:
    raise ImportError(f'fastcorr.dask needs dask ({error}): pip install "fastcorr[dask]"') from error

from . import contraction, gradients, isa, layer_methods, nn, planner, problem, signal, template
from ._types import Boundary, DType, Mode, Padding, PerAxis, Scalar, Shape
from .boundary import source
from .contraction import Contraction
from .threads import num_threads

FAN_IN = 8  # partial gradients that one task adds

Reads = tuple[tuple[int, slice | None, slice], ...]
Gradients = tuple[da.Array | None, da.Array | None]


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
    return _result(_of_all(face, face.form), x, w, *biased)


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
    return _result(Face("match_template", _search, None, p, p.axes, p.out_shape, "mode", options, p.k_batched), *lazy)


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
    face = _layer(given["x"], given["w"], bias, result, options, method=method, dtype=_sum_dtype(result))
    gradients.check_gradient("conv", g, face.shape)
    gx, gw = _gradients(face, face.form, g, given["x"], given["w"], need[:2])
    return gx, gw, _bias_gradient(g, len(face.axes), result) if need[2] and bias is not None else None


# --- what is computed: a face of the core, with its geometry ----------------------------------------------------------


@dataclass(frozen=True)
class Face:
    """A call of the core for the whole arrays, and how it is called for a block of them."""

    name: str
    call: Callable[..., Any]
    vjp: Callable[..., Any] | None  # None where there are no gradients
    form: Any  # Problem or Contraction
    axes: Shape  # of x, that the kernel slides along
    shape: Shape  # of the result
    pads: str  # the name of its argument that takes (lo, hi) pairs
    options: dict[str, Any]
    batched: bool = False  # whether the kernel has the batch axes too
    channels: int | None = None  # the axis of channels

    def keywords(self, blocks: Sequence[Block]) -> dict[str, Any]:
        return {self.pads: tuple(blocks[axis].padding for axis in self.axes), **self.options}

    def paired(self, k: Any) -> list[int]:
        """Batch axes along which each block has a kernel of its own."""
        axes = range(k.ndim) if self.batched else ()
        return [axis for axis in axes if axis not in self.axes and k.shape[axis] > 1]

    def span(self, t: int) -> int:
        return problem.spans(self.form.kernel[t : t + 1], self.form.dilation[t : t + 1])[0]

    def kernel(self, k: NDArray[Any], blocks: Sequence[Block]) -> NDArray[Any]:
        return k[tuple(block.part or slice(None) for block in blocks)] if self.batched else k

    def result(self, x: NDArray[Any], blocks: Sequence[Block], k: NDArray[Any], *more: Any) -> NDArray[Any]:
        return self.call(x, *(self.kernel(a, blocks) for a in (k, *more)), **self.keywords(blocks))

    def gradient(self, which: int, blocks: Sequence[Block], *arrays: Any, **rule: Any) -> Any:
        need = tuple(i == which for i in range(3 if self.channels is not None else 2))
        assert self.vjp is not None
        return self.vjp(*arrays, need=need, **self.keywords(blocks) | rule)[which]

    def input_gradient(
        self, dtype: DType, x_dtype: DType, g: NDArray[Any], blocks: Sequence[Block], k: NDArray[Any]
    ) -> NDArray[Any]:
        """Of one block of x, from the part `g` of the result that reads it; the values of x have no part in it."""
        shape = tuple(block.outputs for block in blocks)
        if 0 in g.shape or 0 in shape:
            return np.zeros(shape, dtype)
        x = np.broadcast_to(np.zeros((), x_dtype), shape)
        return self.gradient(0, blocks, g, x, self.kernel(k, blocks), boundary="constant")  # others are folded later

    def kernel_gradient(
        self, k_dtype: DType, k_shape: Shape, dtype: DType, x: NDArray[Any], blocks: Sequence[Block], g: NDArray[Any]
    ) -> NDArray[Any]:
        """What one block adds to the gradient of the kernel; the values of the kernel have no part in it."""
        k = self.kernel(np.broadcast_to(np.zeros((), k_dtype), k_shape), blocks)
        if 0 in g.shape:
            return np.zeros(k.shape, dtype)
        return self.gradient(1, blocks, g, x, k)


def _signal(face: str, x: Any, k: Any, out: Any, **options: Any) -> da.Array:
    _no_out(out)
    known = not isinstance(k, da.Array)
    kernel = np.asarray(k) if known else k
    x, k = _arrays(x=x, k=kernel)
    plan = planner.resolve_options(face, x, kernel, tuple(options[name] for name in planner.OPTIONS), known=known)
    # One decision for all blocks, if it is one of those whose bits do not depend on the block.
    method = plan.method if plan.method in ("direct", "separable") else options["method"]
    return _result(_signal_face(face, plan.problem, method=method, dtype=options["dtype"]), x, k)


def _signal_face(name: str, p: problem.Problem, **options: Any) -> Face:
    options |= {"axes": p.axes, "boundary": p.boundary, "fill": p.fill, "stride": p.stride, "dilation": p.dilation}
    call, vjp = getattr(signal, name), getattr(gradients, name + "_vjp")
    return Face(name, call, vjp, p, p.axes, p.out_shape, "mode", options, p.k_batched)


def _of_all(face: Face, form: Contraction) -> Face:
    """`face` with the method for all blocks, if `auto` runs the whole `form` directly; else each chooses for itself."""
    method = face.options["method"]
    if form.result == "x" and set(form.boundary) - {"constant"}:
        form = layer_methods.unfolded(form)
    chosen, _ = layer_methods.choose(form, method, isa.LEVEL)
    return replace(face, options=face.options | {"method": "direct" if chosen == "direct" else method})


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
    face = _signal_face(name, p, method=method, dtype=_sum_dtype(result))
    return _gradients(face, gradients.as_contraction(p)[0], g, given["x"], given["k"], need)


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


def _sum_dtype(dtype: DType) -> DType | None:
    """What parts of a gradient are computed in before they are added: the `dtype` of a call, None for its own."""
    return np.dtype(np.float32) if dtype == np.float16 else None


# --- where it is computed: blocks along an axis -----------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """One block of a result, along one axis."""

    outputs: int  # its length
    length: int  # of what it reads
    reads: Reads  # (chunk, slice of it or None for all of it, slice of what is read), which make up that length
    padding: tuple[int, int] = (0, 0)  # in samples, of what is read
    part: Any = None  # of the kernel: a slice, None for all of it; where gradients are folded, the places they go to


def _reads(index: NDArray[Any], chunks: Shape) -> Reads:
    """How the samples `index` of an axis in `chunks` are copied one after the other: by slices of constant step."""
    ends = np.cumsum(chunks)
    chunk = np.searchsorted(ends, index, side="right")
    place = index - (ends - chunks)[chunk]
    step = np.where(chunk[1:] == chunk[:-1], np.diff(place), index.size + ends[-1])  # the last: no run goes on
    turns = np.append(np.flatnonzero(step[1:] != step[:-1]) + 1, step.size)
    reads, i = [], 0
    while i < index.size:
        j = i + 1
        if j < index.size and chunk[j] == chunk[i]:
            j = int(turns[np.searchsorted(turns, i, side="right")]) + 1
        first, last, by = int(place[i]), int(place[j - 1]), int(step[i]) if j > i + 1 else 1
        stop = last + (by > 0) - (by < 0)
        cut = slice(first, stop if stop >= 0 else None, by) if by else slice(first, first + 1)  # copied again and again
        whole = by == 1 and j - i == chunks[chunk[i]]
        reads.append((int(chunk[i]), None if whole else cut, slice(i, j)))
        i = j
    return tuple(reads)


def _cuts(chunks: Shape, place: Callable[[int], int], n: int, most: int) -> list[int]:
    """Ends of the blocks of a result of length `n`: where chunks end, and every `most` samples past x's own ends.

    `place` is the first position of the result that belongs to a sample of x or to a later one.
    """
    *inner, size = np.cumsum(chunks)
    ends = [place(int(end)) for end in inner]
    for end, step in ((0, -most), (size, most)):
        while place(end := end + step) > 0 if step < 0 else place(end := end + step) < n:
            ends.append(place(end))
    return [0, *sorted({end for end in ends if 0 < end < n}), n]


def _windows(face: Face, t: int, chunks: Shape) -> list[Block]:
    """Blocks of the result along kernel axis `t` of x."""
    form = face.form
    n, m, s, (lo, hi), rule = form.size[t], form.out_size[t], form.stride[t], form.padding[t], form.boundary[t]
    span = face.span(t)
    middle = lo if m == -(-n // s) else span // 2
    cuts = _cuts(chunks, lambda sample: -(-(sample + lo - middle) // s), m, max(span, *chunks))
    blocks = []
    for i, j in pairwise(cuts):
        first, last = s * i - lo, s * (j - 1) - lo + span if j else n + hi
        start, stop = min(max(first, 0), max(n - 1, 0)), max(min(last, n), min(n, 1))  # one sample at least
        index, padding = np.arange(start, stop), (start - first, last - stop)
        mirrored = rule in ("reflect", "symmetric") and max(padding) < index.size
        if max(padding) > 0 and not (rule in ("constant", "edge") or mirrored or index.size == n):
            index, padding = source(np.arange(first, last), n, rule), (0, 0)
        blocks.append(Block(j - i, index.size, _reads(index, chunks), padding))
    return blocks


def _slabs(lengths: Shape, chunks: Shape, part: bool = False) -> list[Block]:
    """Blocks of `lengths` along an axis without kernel, each from the same samples in `chunks` or the only one."""
    blocks, start = [], 0
    alone = sum(chunks) == 1
    for length in lengths:
        index = np.arange(1) if alone else np.arange(start, start + length)
        of_kernel = slice(start, start + length) if part else None
        blocks.append(Block(length, index.size, _reads(index, chunks), part=of_kernel))
        start += length
    return blocks


def _all(chunks: Shape, outputs: int) -> list[Block]:
    """One block that reads a whole axis."""
    return [Block(outputs, sum(chunks), _reads(np.arange(sum(chunks)), chunks))]


def _blocks(face: Face, x: da.Array, k: da.Array) -> list[list[Block]]:
    """Of the result, along each axis of x."""
    axes = []
    for axis, chunks in enumerate(x.chunks):
        if axis in face.axes:
            axes.append(_windows(face, face.axes.index(axis), chunks))
        elif axis == face.channels:
            axes.append(_all(chunks, face.shape[axis]))
        else:
            lengths = chunks if x.shape[axis] == face.shape[axis] else k.chunks[axis]
            axes.append(_slabs(lengths, chunks, axis in face.paired(k)))
    return axes


def _touched(face: Face, t: int, cuts: Sequence[int], chunks: Shape) -> list[Block]:
    """Blocks of the gradient of x along kernel axis `t`, read from the gradient of the result in `chunks`.

    `cuts` are the ends of the blocks, counted from the first sample that the result reads.
    """
    m, s, span = face.form.out_size[t], face.form.stride[t], face.span(t)
    blocks = []
    for p, q in pairwise(cuts):
        i, j = max(0, -((span - 1 - p) // s)), min(m, (q - 1) // s + 1)  # outputs that read some of it
        lo = p - s * i
        index = np.arange(i, max(i, j))
        blocks.append(Block(q - p, index.size, _reads(index, chunks), (lo, s * (j - 1 - i) + span - (q - p) - lo)))
    return blocks


def _folds(to: NDArray[Any], chunks: Shape, given: Shape) -> list[Block]:
    """Blocks of an axis in `chunks`, each from the samples, in chunks `given`, that `to` sends there; -1 is nowhere."""
    blocks, start = [], 0
    for length in chunks:
        index = np.flatnonzero((to >= start) & (to < start + length))
        blocks.append(Block(length, index.size, _reads(index, given), part=to[index] - start))
        start += length
    return blocks


# --- how it is computed: graphs ---------------------------------------------------------------------------------------


def _run(call: Callable[..., NDArray[Any]], dtype: DType, blocks: Sequence[Block], *arrays: Any) -> NDArray[Any]:
    """``call(x, blocks, *others)`` with the pieces of x put together; they come first among `arrays`."""
    places = list(product(*([to for _, _, to in block.reads] for block in blocks)))
    shape = tuple(block.length for block in blocks)
    pieces, others = arrays[: len(places)], arrays[len(places) :]
    if len(places) == 1 and pieces[0].shape == shape:
        x = pieces[0]
    else:
        x = np.empty(shape, dtype)
        for place, piece in zip(places, pieces, strict=True):
            x[place] = piece
    with num_threads(1):
        return call(x, blocks, *others)


def _cut(chunk: NDArray[Any], cuts: Any) -> NDArray[Any]:
    """A piece of a chunk: a copy if it is small, so that it does not keep the whole chunk in memory."""
    piece = chunk[cuts]
    return piece if 2 * piece.size > chunk.size else piece.copy()


def _tasks(
    name: str, x: da.Array, axes: Sequence[list[Block]], call: Callable[..., NDArray[Any]], *others: Any
) -> dict[Any, Any]:
    """The graph of ``call(part of x, blocks, *others)`` for every block; `others` are keys, or made from its place."""
    graph: dict[Any, Any] = {}
    parts: dict[str, Any] = {}
    for place in product(*(range(len(blocks)) for blocks in axes)):
        blocks = tuple(along[i] for along, i in zip(axes, place, strict=True))
        keys = []
        for reads in product(*(block.reads for block in blocks)):
            key = (x.name, *(chunk for chunk, _, _ in reads))
            if any(cut is not None for _, cut, _ in reads):
                cuts = tuple(cut or slice(None) for _, cut, _ in reads)
                known = repr((key, cuts))
                if known not in parts:
                    parts[known] = (f"{name}-read", len(parts))
                    graph[parts[known]] = (_cut, key, cuts)
                key = parts[known]
            keys.append(key)
        more = (other(place) if callable(other) else other for other in others)
        graph[(name, *place)] = (partial(_run, call, x.dtype, blocks), *keys, *more)
    return graph


def _array(name: str, graph: Any, sources: Any, chunks: tuple[Shape, ...], dtype: DType) -> da.Array:
    graph = HighLevelGraph.from_collections(name, graph, dependencies=sources)
    return da.Array(graph, name, chunks, meta=np.empty((0,) * len(chunks), dtype))


def _chunks(axes: Sequence[list[Block]]) -> tuple[Shape, ...]:
    return tuple(tuple(block.outputs for block in blocks) for blocks in axes)


def _whole(k: da.Array) -> tuple[da.Array, Any]:
    """(`k` in one chunk, its key)."""
    k = k.rechunk(-1)
    return k, (k.name, *(0,) * k.ndim)


def _result(face: Face, x: da.Array, k: da.Array, *more: Any) -> da.Array:
    axes = _blocks(face, x, k)
    name = f"{face.name}-{tokenize(face, x, k, more)}"
    sources, keys = zip(*(_whole(a) for a in (k, *more)), strict=True)
    graph = _tasks(name, x, axes, face.result, *keys)
    return _array(name, graph, (x, *sources), _chunks(axes), face.form.dtype)


def _gradients(face: Face, form: Contraction, g: da.Array, x: da.Array, k: da.Array, need: Any) -> Gradients:
    gx = _input_gradient(_of_all(face, form.input_grad()), g, x, k) if need[0] else None
    return gx, _kernel_gradient(_of_all(face, form.weight_grad()), g, x, k) if need[1] else None


def _input_gradient(face: Face, g: da.Array, x: da.Array, k: da.Array) -> da.Array:
    """Of the chunks of x; where a rule repeats samples, of those of the extended x, and then folded."""
    form, dtype = face.form, face.form.dtype
    sums = _sum_dtype(dtype) or dtype
    axes, folds = [], {}
    for axis, chunks in enumerate(x.chunks):
        n, from_g = x.shape[axis], g.chunks[axis]
        if axis in face.axes:
            t = face.axes.index(axis)
            (lo, _), rule, s = form.padding[t], form.boundary[t], form.stride[t]
            span = face.span(t)
            read = s * (form.out_size[t] - 1) + span
            if rule == "constant" or (lo <= 0 and read - lo <= n):
                cuts = [lo, *(lo + int(end) for end in np.cumsum(chunks))]
            else:
                cuts = _cuts(chunks, partial(add, lo), read, max(span, *chunks))
                folds[axis] = source(np.arange(read) - lo, n, rule)
            axes.append(_touched(face, t, cuts, from_g))
        elif axis == face.channels:
            axes.append(_all(from_g, n))
        elif n != face.shape[axis]:
            axes.append(_all(from_g, 1))
        else:
            axes.append(_slabs(chunks, from_g, axis in face.paired(k)))
    name = f"{face.name}-gx-{tokenize(face, g, x.chunks, x.dtype, k)}"
    k, key = _whole(k)
    call = partial(face.input_gradient, sums, x.dtype)
    gx = _array(name, _tasks(name, g, axes, call, key), (g, k), _chunks(axes), sums)
    if folds:
        chunks = enumerate(zip(x.chunks, gx.chunks, strict=True))
        axes = [_folds(folds[axis], *both) if axis in folds else _slabs(*both) for axis, both in chunks]
        fold = partial(_fold, [axis for axis in face.axes if axis in folds])
        name += "-folded"
        gx = _array(name, _tasks(name, gx, axes, fold), (gx,), _chunks(axes), sums)
    return gx.astype(dtype)


def _fold(axes: Sequence[int], g: NDArray[Any], blocks: Sequence[Block]) -> NDArray[Any]:
    for axis in axes:
        g = layer_methods.fold_axis(g, axis, blocks[axis].part, blocks[axis].outputs)
    return g


def _kernel_gradient(face: Face, g: da.Array, x: da.Array, k: da.Array) -> da.Array:
    """A partial gradient for each block of the result, and their sum by a tree."""
    axes = _blocks(face, x, k)
    g = g.rechunk(_chunks(axes))
    dtype = face.form.dtype
    call = partial(face.kernel_gradient, k.dtype, k.shape, _sum_dtype(dtype) or dtype)
    name = f"{face.name}-gk-{tokenize(face, g, x, k.dtype, k.chunks)}"
    graph = _tasks(f"{name}-part", x, axes, call, lambda place: (g.name, *place))
    paired = face.paired(k)
    chunks: list[Shape] = [(n,) for n in k.shape]
    for axis in paired:
        chunks[axis] = _chunks(axes)[axis]
    parts: dict[Any, list[Any]] = {}
    for place in product(*(range(len(blocks)) for blocks in axes)):
        kept = tuple(place[axis] if axis in paired else 0 for axis in range(k.ndim))
        parts.setdefault(kept, []).append((f"{name}-part", *place))
    for kept, keys in parts.items():
        level = 0
        while len(keys) > FAN_IN:
            sums = [(f"{name}-sum-{level}", i, *kept) for i in range(-(-len(keys) // FAN_IN))]
            graph |= {key: (_total, None, *keys[FAN_IN * i : FAN_IN * (i + 1)]) for i, key in enumerate(sums)}
            keys, level = sums, level + 1
        graph[(name, *kept)] = (_total, dtype, *keys)
    return _array(name, graph, (x, g), tuple(chunks), dtype)


def _total(dtype: DType | None, *parts: Any) -> NDArray[Any]:
    """Their sum in the order given, at last as `dtype`."""
    total = np.array(parts[0])
    for part in parts[1:]:
        total += part
    return total if dtype is None else total.astype(dtype, copy=False)


def _bias_gradient(g: da.Array, rank: int, dtype: DType) -> da.Array:
    channels = g.ndim - rank - 1
    sums = _sum_dtype(dtype) or dtype
    axes = tuple(axis for axis in range(g.ndim) if axis != channels)
    return g.sum(axis=axes, dtype=sums).astype(dtype)
