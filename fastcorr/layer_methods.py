"""Contraction -> method: every method of layers and gradients says whether it can serve one and what it would cost.

The signals' are in planner.py. A new method joins by one class and one entry of `LAYER_METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import prod
from operator import mul
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from . import _call, isa, kernels, problem, reference, tuning
from ._types import Array, DType, Shape
from .boundary import RULES, source
from .contraction import Contraction
from .kernels import Kernel
from .planner import _available_threads, _loads, not_transformed, too_few_taps


class _Method:
    @staticmethod
    def decline(form: Contraction) -> str | None:
        """Why `auto` leaves a method alone that could serve; None if it does not."""
        return None


class Layers(_Method):
    """The compiled loops of kernels/dense.pyx, kernels/depth.pyx, kernels/weights.pyx and kernels/local.pyx."""

    name = "direct"

    @staticmethod
    def refuse(form: Contraction) -> str | None:
        """Why this method cannot serve the Contraction; None if it can."""
        if kernels.find("dense", form.dtype) is None:
            return f"no kernel for {form.dtype}"
        return None

    @staticmethod
    def row(form: Contraction) -> Kernel:
        """Of the table of kernels."""
        family = "weights" if form.result == "w" else "dense"
        if form.local:
            family = "local"
        elif form.channels == 1 and form.groups >= tuning.DEPTHWISE[form.result]:
            family = "depth"
        return kernels.find(family, form.dtype)

    @classmethod
    def cost(cls, form: Contraction, level: str) -> float:
        """Estimated seconds on one thread; where each output is made of few products, memory has its part."""
        row = cls.row(form)
        outputs = prod(form.out_shape) if row.family == "depth" else 0
        return tuning.CALL + outputs * tuning.OUTPUT + form.flops / 2 / tuning.RATE[row.element][level]

    @staticmethod
    @lru_cache(1024)
    def build(form: Contraction, level: str) -> Any:
        """The object that runs: run(a, b, out, bias, threads)."""
        row = Layers.row(form)
        fill = np.asarray(form.fill).astype(row.element)[()]
        rules = [RULES.index(rule) for rule in form.boundary]
        return getattr(kernels.load(row, level), row.family.title())(form, rules, fill)


class Winograd(_Method):
    """Fewer products for kernels of 3 x 3 positions, kernels/winograd.pyx."""

    name = "winograd"

    @staticmethod
    def refuse(form: Contraction) -> str | None:
        """Why this method cannot serve the Contraction; None if it can."""
        if Winograd.row(form) is None:
            exact = form.dtype.kind in "biu"
            return f"{form.dtype} is {'exact, the transform halves' if exact else 'finer than float64'}"
        if form.local:
            return "each output position has kernels of its own"
        if form.kernel[-2:] != (3, 3):
            return f"the kernel is {form.kernel}, the last two axes must have 3 positions each"
        if set(form.stride) != {1} or form.dilation[-2:] != (1, 1):
            return f"stride is {form.stride}, dilation {form.dilation}: all must be 1"
        return None

    @staticmethod
    def row(form: Contraction) -> Kernel:
        """Of the table of kernels."""
        return kernels.find("winograd", form.dtype)

    @staticmethod
    def cost(form: Contraction, level: str) -> float:
        """Estimated seconds on one thread; each batch entry bears the kernels: the batch has no say in the method."""
        row = Winograd.row(form)
        lanes = tuning.VECTOR_BYTES[level] // np.dtype(row.element).itemsize
        rows, channels, size = form.features, form.channels, form.out_size
        if form.result == "x":
            rows, channels, size = channels, rows, form.size
        images = channels * prod(form.kernel[:-2])
        tiles = -(-(prod(size[:-2]) * -(-size[-2] // 2) * -(-size[-1] // 2)) // lanes) * lanes
        work = tiles * rows * images * 16, tiles * images, tiles * rows, rows * images
        times = tuning.WINOGRAD.values()
        parts = 4 if form.dtype.kind == "c" else 1
        entry: float = parts * form.groups * sum(map(mul, work, times)) / tuning.RATE[row.element][level]
        return tuning.CALL + form.batch * entry

    @staticmethod
    @lru_cache(1024)
    def build(form: Contraction, level: str) -> Any:
        """The object that runs: run(w, x, y, bias, watched, threads)."""
        row = Winograd.row(form)
        fill = np.asarray(form.fill).astype(row.element)[()]
        rules = [RULES.index(rule) for rule in form.boundary]
        if form.result == "w":
            return kernels.load(kernels.find("weights", form.dtype), level).WinogradWeights(form, rules, fill)
        return kernels.load(row, level).Winograd(form, rules, fill)

    @classmethod
    def repair(
        cls,
        form: Contraction,
        a: Array,
        b: Array,
        bias: Array | None,
        out: Array,
        level: str,
        count: int | None,
        bad: Array,
    ) -> None:
        """Computes directly, of each batch entry, what lies between its first and last bad line; all of a w."""
        if form.result == "w":
            _run(Layers, form, a, b, bias, out, level, count)
            return
        step = 2 if form.rank == 2 else 1
        lines: Any = bad.reshape(form.batch, -(-out.shape[3] // step), -1).any(2)
        for n in np.flatnonzero(lines.any(1)):
            found = np.flatnonzero(lines[n])
            begin, end = step * found[0], min(step * (found[-1] + 1), out.shape[3])
            box = _box(form, int(begin), int(end))
            _run(Layers, box, a[n : n + 1], b, bias, out[n : n + 1, :, :, begin:end], level, count)


def _box(form: Contraction, begin: int, end: int) -> Contraction:
    """One batch entry of `form`, and of its result positions `begin` to `end` along the first spatial axis."""
    lo, hi = form.padding[0]
    if form.result == "y":
        pads = lo - begin, hi - (form.out_size[0] - end)
        sizes: dict[str, Any] = {"out_size": (end - begin, *form.out_size[1:])}
    else:
        pads = lo + begin, hi + (form.size[0] - end)
        sizes = {"size": (end - begin, *form.size[1:])}
    return replace(form, batch=1, padding=(pads, *form.padding[1:]), **sizes)


class Frequencies(_Method):
    """Overlap-save with sums over channels or blocks per frequency, kernels/frequency.pyx."""

    name = "fft"

    @staticmethod
    def refuse(form: Contraction) -> str | None:
        if form.local:
            return "each output has a kernel of its own"
        if not form.rank:
            return "there is no axis to transform"
        if Frequencies.row(form) is None:
            return not_transformed(form.dtype)
        return None

    @staticmethod
    def decline(form: Contraction) -> str | None:
        return too_few_taps(form.kernel)

    @staticmethod
    def row(form: Contraction) -> Kernel:
        """Of the table of kernels."""
        return kernels.find("frequency", form.dtype)

    @staticmethod
    @lru_cache(1024)
    def _choice(form: Contraction, level: str) -> tuple[Any, Any, float, float]:
        """(points of a tile per axis, axes in its order, seconds of one tile, seconds of it all)."""
        row = kernels.find("spectrum", form.dtype)
        module = kernels.load(row, level)
        pairs = form.channels * form.features
        transforms = (form.channels + form.features) / 2 + tuning.FREQUENCY_PRODUCT * (pairs - 1)
        tiles = SimpleNamespace(rank=form.rank, stride=(1,) * form.rank)
        tiles.span = problem.spans(form.kernel, form.dilation)
        if form.result == "y":
            tiles.out_size, tiles.stride = form.out_size, form.stride
        elif form.result == "x":
            tiles.out_size = form.size
        else:
            tiles.out_size = tuple((m - 1) * s + 1 for m, s in zip(form.out_size, form.stride, strict=True))
        rates = tuning.SPECTRUM[row.element][level]
        points, seconds, entry = module.choose(tiles, True, rates, transforms, pairs)
        return points, module.axes_of_tile(tiles), seconds, form.groups * entry

    @classmethod
    def cost(cls, form: Contraction, level: str) -> float:
        entries = form.batch if form.result == "w" else 1  # as if one entry were all, like the choice of tiles
        parts = 4 if form.dtype.kind == "c" else 1
        return tuning.CALL + parts * entries * cls._choice(form, level)[3]

    @classmethod
    @lru_cache(256)
    def build(cls, form: Contraction, level: str) -> Any:
        row = cls.row(form)
        points, order, seconds, _ = cls._choice(form, level)
        fill = np.asarray(form.fill).astype(row.element)[()]
        rules = [RULES.index(rule) for rule in form.boundary]
        return kernels.load(row, level).Frequency(form, rules, fill, points, order, seconds, tuning.FREQUENCY_PRODUCT)

    @staticmethod
    def repair(
        form: Contraction,
        a: Array,
        b: Array,
        bias: Array | None,
        out: Array,
        level: str,
        count: int | None,
        bad: Array,
    ) -> None:
        """Computes all directly."""
        _run(Layers, form, a, b, bias, out, level, count)


class Definition(_Method):
    """reference.py."""

    name = "reference"

    @staticmethod
    def refuse(form: Contraction) -> str | None:
        return None

    @staticmethod
    def cost(form: Contraction, level: str) -> float:
        taps = prod(form.kernel) * form.channels
        return taps * (tuning.REFERENCE_CALL + prod(form.shapes["y"]) * tuning.REFERENCE_TAP)


LAYER_METHODS = (Layers, Winograd, Frequencies, Definition)
_LAYER_METHODS: dict[str, Any] = {m.name: m for m in LAYER_METHODS}


@lru_cache(1024)
def choose(form: Contraction, method: str, level: str) -> tuple[str, dict[str, Any]]:
    """(name of the method, cost of each or the reason against it) for a Contraction."""
    names = [m.name for m in LAYER_METHODS]
    if method != "auto" and method not in names:
        raise ValueError(f"method={method!r} is not one of 'auto', {', '.join(map(repr, names))}")
    auto = method == "auto"
    entries = form.batch if form.result != "w" else 1  # of a batch, which has no say
    one = form.but(batch=1) if entries != 1 else form
    costs: dict[str, Any] = {
        m.name: m.refuse(form) or (auto and m.decline(form)) or m.cost(one, level) for m in LAYER_METHODS
    }
    if not auto and isinstance(costs[method], str):
        raise ValueError(f"method={method!r} cannot serve this call: {costs[method]}")
    if auto:
        method = min((name for name in names if not isinstance(costs[name], str)), key=costs.__getitem__)
    return method, {name: cost if isinstance(cost, str) else entries * cost for name, cost in costs.items()}


def contract(
    form: Contraction,
    a: Array,
    b: Array,
    method: str = "auto",
    bias: Array | None = None,
    out: Array | None = None,
    *,
    level: str | None = None,
    count: int | None = None,
) -> Array:
    """The result of a Contraction on its canonical operands; `bias`, one number per output channel, is added last."""
    level = level or isa.LEVEL
    chosen, _ = choose(form, method, level)
    if out is None:
        out = np.empty(form.out_shape, form.dtype)
    how = chosen, method == "auto", level, count
    if chosen == "reference":
        out[...] = reference.contract(form, a, b, bias)
    elif form.result == "x" and set(form.boundary) - {"constant"}:
        folded = _fold(form, contract(unfolded(form), a, b, method, level=level, count=count))
        out[...] = folded if bias is None else folded + bias.astype(folded.dtype)
    elif form.dtype.kind != "c":
        _contract_real(form, a, b, bias, out, *how)
    else:
        _contract_parts(form, a, b, out, *how)
        if bias is not None:
            out += bias
    return out


def runner(
    form: Contraction, method: str, result_shape: Shape | None = None, bias_shape: Shape = ()
) -> _call.LayerRunner:
    """`contract` bound to a Contraction, for many calls: ``run(a, b, bias, out)`` of operands in any shape.

    `result_shape` is what the result is returned in, `bias_shape` that of a canonical bias.
    """
    chosen, _ = choose(form, method, isa.LEVEL)
    shapes = (
        *(form.shapes[role] for role in form.operands),
        bias_shape,
        (form.out_shape if result_shape is None else result_shape),
    )
    found = _LAYER_METHODS[chosen]
    folds = form.result == "x" and set(form.boundary) != {"constant"} and form.rank
    if chosen == "reference" or folds or form.dtype.kind == "c" or form.dtype != found.row(form).element:
        return _call.LayerRunner(form, method, shapes, contract, None, False, True, (), None, None)
    ready = _ready(found, form, isa.LEVEL, method == "auto")

    def repair(form: Contraction, a: Array, b: Array, bias: Array | None, out: Array, bad: Array) -> None:
        found.repair(form, a, b, bias, out, isa.LEVEL, None, bad)

    how = ready.run, ready.weights_first, ready.serial, ready.watched, repair, _available_threads
    return _call.LayerRunner(form, method, shapes, contract, *how)


def _contract_parts(form: Contraction, a: Array, b: Array, out: Array, *how: Any) -> None:
    """(ar + i ai)(br + i bi) part by part, a real operand having one; past its ends x is as complex as inside."""
    if form.result == "y" and a.dtype.kind != "c" and form.fill.imag != 0:
        a = a.astype(form.dtype)
    if form.result == "w" and b.dtype.kind != "c" and form.fill.imag != 0:
        b = b.astype(form.dtype)
    out[...] = 0
    for i, p in enumerate((a.real, a.imag) if a.dtype.kind == "c" else (a,)):
        for j, q in enumerate((b.real, b.imag) if b.dtype.kind == "c" else (b,)):
            part = form.part("imag" if (i if form.result == "y" else j) else "real")
            product = np.empty(part.out_shape, part.dtype)
            _contract_real(part, p, q, None, product, *how)
            target = out.real if i == j else out.imag
            target += -product if i and j else product


def _contract_real(form: Contraction, a: Array, b: Array, bias: Array | None, out: Array, *how: Any) -> None:
    if a.dtype != form.dtype and not _loads(form.dtype, a.dtype):
        a = a.astype(form.dtype)
    if b.dtype != form.dtype and not _loads(form.dtype, b.dtype):
        b = b.astype(form.dtype)
    name, promised, level, count = how
    method = _LAYER_METHODS[name]
    bad = _run(method, form, a, b, bias, out, level, count, promised)
    if bad is not None:
        method.repair(form, a, b, bias, out, level, count, bad)


class _Ready(NamedTuple):
    """A kernel for a Contraction, and how it is called."""

    run: Callable[..., Any]
    element: DType  # of what is read as it is: weights of a layer, bias
    weights_first: bool
    serial: bool  # not worth a second thread
    watched: tuple[bool, ...]


@lru_cache(1024)
def _ready(method: Any, form: Contraction, level: str, promised: bool) -> _Ready:
    return _Ready(
        method.build(form, level).run,
        np.dtype(method.row(form).element),
        form.result != "w" and not form.local,
        method.cost(form, level) <= tuning.SERIAL,
        () if method is Layers else (promised,),
    )


def _run(
    method: Any,
    form: Contraction,
    a: Array,
    b: Array,
    bias: Array | None,
    out: Array,
    level: str,
    count: int | None,
    promised: bool = False,
) -> Any:
    """`out` = the result of real operands, with `count` threads, or as many as the work is worth.

    Where results are `promised` as `auto` does, what is not finite among them; None where there is nothing.
    """
    run, element, weights_first, serial, watched = _ready(method, form, level, promised)
    if weights_first:
        a, b = np.ascontiguousarray(b, element), a
    if bias is not None:
        bias = np.ascontiguousarray(bias, element)
    if count is None and not serial:
        return _call.claim(_available_threads, run, a, b, out, bias, *watched)
    return run(a, b, out, bias, *watched, count or 1)


def unfolded(form: Contraction) -> Contraction:
    """The gradient of x as its rule extends it: the same, of a longer x that is only read inside."""
    rows = zip(form.out_size, form.stride, form.kernel, form.dilation, strict=True)
    size = tuple(s * (m - 1) + d * (k - 1) + 1 for m, s, k, d in rows)
    padding, boundary = ((0, 0),) * form.rank, ("constant",) * form.rank
    dtype = np.dtype(np.float32) if form.dtype == np.float16 else form.dtype  # shares are rounded once, when added
    return replace(form, size=size, dtype=dtype, padding=padding, boundary=boundary)


def _fold(form: Contraction, gradient: Array) -> Array:
    """`gradient` of the extended x as that of x: each sample's share goes to the one that it repeats."""
    for axis, ((lo, _), n, rule) in enumerate(zip(form.padding, form.size, form.boundary, strict=True), start=3):
        to = source(np.arange(gradient.shape[axis]) - lo, n, rule)
        gradient = fold_axis(gradient, axis, to, n)
    return gradient


def fold_axis(gradient: Array, axis: int, to: Array, n: int) -> Array:
    """`gradient` with sample i along `axis` added to place `to[i]` of `n`, in order; -1 is dropped."""
    kept = np.flatnonzero(to >= 0)
    folded = np.zeros((*gradient.shape[:axis], n, *gradient.shape[axis + 1 :]), gradient.dtype)
    where: Any = (*(slice(None),) * axis, to[kept])
    np.add.at(folded, where, np.take(gradient, kept, axis))
    return folded
