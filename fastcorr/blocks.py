"""What the blocks of a lazy result read, and the graph that computes them: the machinery of `fastcorr.dask`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from operator import add
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from . import isa, layer_methods, problem
from ._types import DType, Shape
from .boundary import source
from .contraction import Contraction
from .threads import num_threads

FAN_IN = 8  # partial gradients that one task adds

Reads = tuple[tuple[int, slice | None, slice], ...]
Gradients = tuple[da.Array | None, da.Array | None]


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


def of_all(face: Face, form: Contraction) -> Face:
    """`face` with the method for all blocks, if `auto` runs the whole `form` directly; else each chooses for itself."""
    method = face.options["method"]
    if form.result == "x" and set(form.boundary) - {"constant"}:
        form = layer_methods.unfolded(form)
    chosen, _ = layer_methods.choose(form, method, isa.LEVEL)
    return replace(face, options=face.options | {"method": "direct" if chosen == "direct" else method})


def sum_dtype(dtype: DType) -> DType | None:
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


def lazy_result(face: Face, x: da.Array, k: da.Array, *more: Any) -> da.Array:
    axes = _blocks(face, x, k)
    name = f"{face.name}-{tokenize(face, x, k, more)}"
    sources, keys = zip(*(_whole(a) for a in (k, *more)), strict=True)
    graph = _tasks(name, x, axes, face.result, *keys)
    return _array(name, graph, (x, *sources), _chunks(axes), face.form.dtype)


def lazy_gradients(face: Face, form: Contraction, g: da.Array, x: da.Array, k: da.Array, need: Any) -> Gradients:
    gx = _input_gradient(of_all(face, form.input_grad()), g, x, k) if need[0] else None
    return gx, _kernel_gradient(of_all(face, form.weight_grad()), g, x, k) if need[1] else None


def _input_gradient(face: Face, g: da.Array, x: da.Array, k: da.Array) -> da.Array:
    """Of the chunks of x; where a rule repeats samples, of those of the extended x, and then folded."""
    form, dtype = face.form, face.form.dtype
    sums = sum_dtype(dtype) or dtype
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
    call = partial(face.kernel_gradient, k.dtype, k.shape, sum_dtype(dtype) or dtype)
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


def bias_gradient(g: da.Array, rank: int, dtype: DType) -> da.Array:
    channels = g.ndim - rank - 1
    sums = sum_dtype(dtype) or dtype
    axes = tuple(axis for axis in range(g.ndim) if axis != channels)
    return g.sum(axis=axes, dtype=sums).astype(dtype)
