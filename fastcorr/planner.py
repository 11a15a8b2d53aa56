"""Problem -> Plan: every method says whether it can serve the call and what it would cost; the cheapest wins.

A new method joins by one class and one entry of `METHODS`. Those of layers and gradients are in layer_methods.py.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from math import ceil, prod
from operator import mul
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import _call, contraction, isa, kernels, problem, reference, threads, tuning
from ._types import Array, DType, Shape
from .boundary import RULES
from .kernels import Kernel
from .problem import Problem

OPTIONS = {
    "mode": "valid",
    "axes": None,
    "boundary": "constant",
    "fill": 0,
    "anchor": None,
    "stride": 1,
    "dilation": 1,
    "method": "auto",
    "dtype": None,
}


class Direct:
    """The compiled multiply loop of kernels/plane.pyx."""

    name = "direct"

    @staticmethod
    def refuse(task: Task) -> str | None:
        """Why this method cannot serve the call; None if it can."""
        if kernels.find("plane", task.problem.dtype) is None:
            return f"no kernel for {task.problem.dtype}"
        return None

    @staticmethod
    def decline(task: Task) -> str | None:
        """Why `auto` leaves it alone all the same; None if it does not."""

    @classmethod
    def cost(cls, task: Task) -> float:
        """Estimated seconds of one batch entry on one thread: the batch has no say in what is chosen."""
        element = kernels.find("plane", task.problem.dtype).element
        return float(sum(map(mul, cls.work(task), tuning.DIRECT[element][task.level].values())))

    @staticmethod
    def work(task: Task) -> tuple[float, ...]:
        """What one batch entry is made of, in the order of tuning.DIRECT."""
        p = task.problem
        if p.rank == 0:
            return task.x_parts, task.x_parts * task.k_parts, 0, 0, 0, 0, 0, 0
        parts, taps = task.x_parts * task.k_parts, prod(p.kernel)
        lanes = task.lanes
        width, lines = p.out_size[-1], prod(p.out_size[:-1])
        products = lines * -(-width // lanes) * lanes * taps * parts
        # Lines of x that a line of outputs is the first to meet, for each tap of the axes before the last two.
        met = lines * prod(p.kernel[:-2]) * task.x_parts * (min(p.stride[-2], p.kernel[-2]) if p.rank > 1 else 1)
        reach = min((width - 1) * p.stride[-1] + p.span[-1], width * p.kernel[-1])
        gathered = met * reach if p.stride[-1] > 1 else 0
        outside = met * sum(max(0, n) for n in p.padding[-1]) if p.boundary[-1] != "constant" else 0
        alone = products if p.rank == 1 else 0
        outputs = lines * width * task.x_parts
        return outputs, products, alone, lines * taps * parts, met, gathered, outside, taps * parts

    @classmethod
    def build(cls, task: Task, promised: bool = False) -> Any:
        """The object that runs: pack(k), run(x, k, y, threads, packed, fresh). `promised`: as `auto` promises."""
        row = kernels.find("plane", task.problem.dtype)
        rules = [RULES.index(rule) for rule in task.problem.boundary]
        module = kernels.load(row, task.level)
        return module.Plane(task.problem, row.element, rules, task.x_parts, task.k_parts)


def not_transformed(dtype: DType) -> str:
    """Why no Fourier transform serves results of `dtype`."""
    return f"{dtype} is {'exact' if dtype.kind in 'biu' else 'finer than float64'}, a Fourier transform is not"


def too_few_taps(kernel: Shape) -> str | None:
    """Why `auto` does not transform a `kernel` of these sizes; None if it may."""
    return (
        f"fewer than {tuning.SPECTRUM_TAPS} taps: whole numbers stay exact"
        if prod(kernel) < tuning.SPECTRUM_TAPS
        else None
    )


class Spectrum:
    """Overlap-save by the Fourier transform, kernels/spectrum.pyx."""

    name = "fft"

    @staticmethod
    def refuse(task: Task) -> str | None:
        return None if kernels.find("spectrum", task.problem.dtype) else not_transformed(task.problem.dtype)

    @staticmethod
    def decline(task: Task) -> str | None:
        return too_few_taps(task.problem.kernel)

    @staticmethod
    def cost(task: Task) -> float:
        return float(task.tiles[2][2])

    @staticmethod
    def build(task: Task, promised: bool = False) -> Any:
        row, module, (points, seconds, _) = task.tiles
        rules = [RULES.index(rule) for rule in task.problem.boundary]
        parts = task.x_parts, task.k_parts
        tiles = module.Spectrum(task.problem, row.element, rules, *parts, points, seconds, promised)
        return Local(task, tiles) if promised else tiles


class Local:
    """The method "fft" as `auto` runs it: tiles that an Inf, a NaN or an overflow spread over are computed directly."""

    def __init__(self, task: Task, tiles: Any) -> None:
        self.task, self.tiles = task, tiles

    def _kernel_reals(self) -> int:
        p = self.task.problem
        return prod(p.k_shape) * self.task.k_parts

    def pack(self, k: Array) -> Array:
        """The spectra, and behind them the samples of `k`."""
        reals = np.empty(0, self.task.k_dtype).real.dtype
        packed: Array = self.tiles.pack(k, self._kernel_reals())
        packed[packed.size - self._kernel_reals() :] = k.reshape(-1).view(reals)
        return packed

    def run(self, x: Array, k: Array, y: Array, threads: int | None, packed: bool, fresh: bool) -> Any:
        spread = self.tiles.run(x, k, y, threads, packed, fresh)
        if spread is None:
            return
        p, task = self.task.problem, self.task
        if packed:
            samples = k[k.size - self._kernel_reals() :].astype(np.empty(0, task.k_dtype).real.dtype)
            shape = (*p.k_batch, *p.kernel) if p.k_batched else p.kernel
            k = samples.view(task.k_dtype).reshape(shape)
        if len(spread) == self.tiles.tiles:  # at once: a part takes 100 us to prepare
            Direct.build(task).run(x, k, y, threads, False, False)
            return
        x, y = p.canonical(x), p.canonical(y)
        for tile in spread:
            for entry, start, outputs in self.tiles.boxes(tile):
                self._direct(x, k, y, threads, entry, start, outputs)

    def _direct(
        self, x: Array, k: Array, y: Array, threads: int | None, entry: Shape, start: Shape, outputs: Shape
    ) -> None:
        """`outputs` of them from `start` on, per kernel axis, of one batch entry; all arrays canonical."""
        p = self.task.problem
        rows = zip(p.size, p.padding, start, outputs, p.span, p.stride, strict=True)
        padding = tuple((lo - i * s, (m - 1) * s + k - n - lo + i * s) for n, (lo, _), i, m, k, s in rows)
        axes = tuple(range(p.rank))
        box = replace(p, x_shape=p.size, k_shape=p.kernel, axes=axes, padding=padding)
        x = x[tuple(0 if n == 1 else i for i, n in zip(entry, x.shape, strict=False))]
        y = y[tuple(entry) + tuple(slice(i, i + m) for i, m in zip(start, outputs, strict=True))]
        if p.k_batched:
            k = k[tuple(0 if n == 1 else i for i, n in zip(entry, k.shape, strict=False))]
        Direct.build(replace(self.task, problem=box)).run(x, k, y, threads, False, False)


class Separable:
    """Kernels of low rank, axis by axis, kernels/separable.pyx. The only method that looks at the kernel's values."""

    name = "separable"

    @staticmethod
    def refuse(task: Task) -> str | None:
        p = task.problem
        if kernels.find("separable", p.dtype) is None:
            return f"no kernel for {p.dtype}"
        if task.k_parts == 2:
            return "the kernel is complex"
        if p.k_batched:
            return "each batch entry has a kernel of its own"
        if sum(n > 1 for n in p.kernel) < 2:
            return "the kernel has a single axis"
        most = tuning.SEPARABLE_SPAN
        if p.span[-1] > most["lane"] or p.span[Separable._row(task)] > most["row"]:
            return f"the kernel's window is larger than {most['row']} rows of {most['lane']}"
        return None

    @staticmethod
    def decline(task: Task) -> str | None:
        return None

    @staticmethod
    def _row(task: Task) -> int:
        """The kernel axis that is summed last: of most taps, but not the last one."""
        *others, _ = task.problem.kernel
        return len(others) - 1 - others[::-1].index(max(others))

    @classmethod
    def cost(cls, task: Task, terms: int = 1) -> float:
        """Estimated seconds for one batch entry of a kernel of `terms` terms."""
        once, each = task.axis_by_axis
        return once + terms * each

    @classmethod
    def seconds(cls, task: Task) -> tuple[float, float]:
        """(of a call, of each term)"""
        p, row = task.problem, cls._row(task)
        direct = tuning.DIRECT[kernels.find("separable", p.dtype).element][task.level]
        model = tuning.SEPARABLE
        lanes = task.lanes
        width = -(-p.out_size[-1] // lanes) * lanes
        others = prod(p.kernel[:-1]) // p.kernel[row]
        lines = prod(p.out_size[:-1]) // max(1, p.out_size[row])
        made = lines * p.out_size[row]
        rows = lines * min((p.out_size[row] - 1) * p.stride[row] + p.span[row], p.out_size[row] * p.kernel[row])
        # No load is shared under a dilation, nor under a stride, whose lines are gathered too.
        along, down = (1 + (p.dilation[i] > 1) + 2 * (p.stride[i] > 1) for i in (-1, row))
        products = width * (p.kernel[-1] * along * rows + p.kernel[row] * down * made)
        samples = rows * (width + p.span[-1]) + made * width
        sums = 2 * (width + p.span[-1]) * others * rows if others > 1 else 0
        apart = samples if p.axes[-1] != len(p.x_shape) - 1 or task.x_parts == 2 else 0
        lines = rows * others if others > 1 else 0
        once = direct["product"] * sums + model["line"] * lines + direct["output"] * samples + model["apart"] * apart
        each = direct["product"] * products + model["line"] * rows
        return model["call"] + task.x_parts * once, model["tap"] * prod(p.kernel) + task.x_parts * each

    @classmethod
    def suits(cls, task: Task, k: Array, auto: bool) -> float | str:
        """Estimated seconds for the kernel `k`, or why it is none for this method."""
        factors = cls.build(task, auto).factor(np.ascontiguousarray(k, task.k_dtype))
        if factors is None:
            return UNSUITED
        return cls.cost(task, terms=factors.size // cls._weights(task))

    @classmethod
    def _weights(cls, task: Task) -> int:
        p, row = task.problem, cls._row(task)
        return p.kernel[-1] + p.kernel[row] + prod(p.kernel[:-1]) // p.kernel[row]

    @classmethod
    def build(cls, task: Task, promised: bool = False, otherwise: Any = None, limit: float = 0.0) -> Any:
        """The object that runs: `otherwise`, which costs `limit`, serves kernels that this method does not."""
        p = task.problem
        row = kernels.find("separable", p.dtype)
        rules = [RULES.index(rule) for rule in p.boundary]
        passes = kernels.load(row, task.level).Separable(p, row.element, rules, task.x_parts, cls._row(task))
        exact = p.dtype.kind in "biu" or (promised and prod(p.kernel) < tuning.SPECTRUM_TAPS)
        most = tuning.SEPARABLE_TERMS
        if otherwise:
            once, each = task.axis_by_axis
            most = min(most, ceil((limit - once) / each) - 1)
        return ByValue(passes, exact, most, otherwise)


UNSUITED = "the kernel's values are not a product of one per axis, nor a sum of few"


class ByValue:
    """Separable as it runs: whether it can is seen from the kernel's values, call by call."""

    def __init__(self, passes: Any, exact: bool, most: int, otherwise: Any) -> None:
        self.passes, self.exact, self.most, self.otherwise = passes, exact, most, otherwise

    def factor(self, k: Array) -> Any:
        """The factors of `k`, or None."""
        return self.passes.factor(k, self.exact, self.most)

    def pack(self, k: Array) -> Array:
        factors: Array | None = self.factor(k)
        if factors is None:
            raise ValueError(f"method='separable' cannot serve this call: {UNSUITED}")
        return factors

    def run(self, x: Array, k: Array, y: Array, threads: int | None, packed: bool, fresh: bool) -> Any:
        if packed:
            self.passes.run(x, k, y, threads)
            return
        factors = self.factor(k) if self.otherwise else self.pack(k)
        if factors is None:
            self.otherwise.run(x, k, y, threads, False, fresh)
        else:
            self.passes.run(x, factors, y, threads)


class Reference:
    """The definition, reference.py."""

    name = "reference"

    def __init__(self, task: Task) -> None:
        self.problem = task.problem

    @staticmethod
    def refuse(task: Task) -> str | None:
        return None

    @staticmethod
    def decline(task: Task) -> str | None:
        return None

    @staticmethod
    def cost(task: Task) -> float:
        taps = prod(task.problem.kernel)
        return taps * (tuning.REFERENCE_CALL + prod(task.problem.out_size) * tuning.REFERENCE_TAP)

    @classmethod
    def build(cls, task: Task, promised: bool = False) -> Any:
        return cls(task)

    def pack(self, k: Array) -> Array:
        return k.copy()

    def run(self, x: Array, k: Array, y: Array, threads: int | None, packed: bool, fresh: bool) -> Any:
        y[...] = reference.correlate(self.problem, x, self.problem.uncanonical(k) if self.problem.k_batched else k)


METHODS = (Direct, Spectrum, Separable, Reference)


@dataclass(frozen=True)
class Task:
    """A Problem with what else decides how it is run: dtypes of the arrays (after casting), the level."""

    problem: problem.Problem
    x_dtype: DType
    k_dtype: DType
    level: str
    x_parts: int = field(init=False)  # real and imaginary
    k_parts: int = field(init=False)
    lanes: int = field(init=False)  # reals of the result in a vector

    def __post_init__(self) -> None:
        dtype = self.problem.dtype
        real = dtype.itemsize // (2 if dtype.kind == "c" else 1)
        self.__dict__.update(
            x_parts=2 if self.x_dtype.kind == "c" else 1,
            k_parts=2 if self.k_dtype.kind == "c" else 1,
            lanes=tuning.VECTOR_BYTES[self.level] // real,
        )

    @cached_property
    def tiles(self) -> tuple[Kernel, Any, Any]:
        """(row of the table of kernels, module, its choice of tiles) of the method "fft"."""
        row = kernels.find("spectrum", self.problem.dtype)
        module = kernels.load(row, self.level)
        pair = self.problem.dtype.kind != "c"
        return row, module, module.choose(self.problem, pair, tuning.SPECTRUM[row.element][self.level])

    @cached_property
    def axis_by_axis(self) -> tuple[float, float]:
        """Seconds of the method "separable": of a call, of each term."""
        return Separable.seconds(self)


class Plan(ABC):
    """A call resolved once: what will run, why, and its kernel, prepared. Made by `plan`.

    ``plan(x)`` runs it on new data of the same shape and dtype. Immutable, picklable, safe to share between threads.

    Attributes
    ----------
    method : str
        What was chosen.
    costs : mapping of str to float or str
        Of each method: estimated seconds on one thread, or the reason against it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcorr
    >>> smooth = fastcorr.plan(fastcorr.correlate, np.zeros(100), np.ones(5))
    >>> smooth.method
    'direct'
    >>> smooth(np.arange(100.0))[:3]
    array([10., 15., 20.])
    """

    arrays: tuple[tuple[Shape, DType], ...]  # shape and dtype of x, as the caller gave it, first
    method: str
    costs: Mapping[str, Any]

    @abstractmethod
    def __call__(self, x: ArrayLike, *, out: Array | None = None) -> Array:
        """Run it on new data.

        Parameters
        ----------
        x : array_like
            Of the shape and dtype that the plan was made for.
        out : ndarray, optional
            Where the result goes, as in the function that was planned.

        Returns
        -------
        ndarray
            The result of the function that was planned for `x`.

        Raises
        ------
        ValueError, TypeError
            If the shape or the dtype of `x` is another one.

        Examples
        --------
        >>> import numpy as np
        >>> import fastcorr
        >>> fastcorr.plan(fastcorr.correlate, np.zeros(4), [1, 1])(np.arange(4.0))
        array([1., 3., 5.])
        """

    def _checked(self, x: ArrayLike) -> Array:
        x = np.asarray(x)
        shape, dtype = self.arrays[0]
        if x.shape != shape:
            raise ValueError(f"x has shape {x.shape}, the plan was made for {shape}")
        if x.dtype != dtype:
            raise TypeError(f"x has dtype {x.dtype}, the plan was made for {dtype}")
        return x

    def _lines(self, level: str) -> Iterator[str]:
        """The method with what it runs on, and what each would cost."""
        n = threads.get_num_threads() if self.costs[self.method] > tuning.SERIAL else 1
        yield f"  method {self.method}: ISA {level}, threads {n}"
        for name, cost in self.costs.items():
            mark = "->" if name == self.method else "  "
            why = cost if isinstance(cost, str) else f"{cost * 1e3:.4g} ms estimated on one thread"
            if not isinstance(cost, str) and name != self.method:
                times = cost / self.costs[self.method]
                why += f", {times:.3g} times as long" if times >= 1 else "; not asked for"
            yield f"  {mark} {name:<10} {why}"


@dataclass(frozen=True, eq=False)
class SignalPlan(Plan):
    """The Plan of a call of `correlate` or `convolve`."""

    task: Task
    arrays: tuple[tuple[Shape, DType], ...] = field(repr=False)  # shapes and dtypes of x and k as the caller gave them
    asked: str  # the method that the caller named, or "auto"
    method: str  # unless the kernel is known: what serves any; one of low rank may be run axis by axis
    costs: Mapping[str, Any] = field(repr=False)  # method -> estimated seconds on one thread, or the reason against it
    runner: _call.Runner = field(repr=False)
    k: Array | None = field(default=None, repr=False)
    packed: Array | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "costs", MappingProxyType(dict(self.costs)))
        for array in (self.k, self.packed):
            if array is not None:
                array.flags.writeable = False

    @property
    def problem(self) -> Problem:
        return self.task.problem

    def run(self, x: Array, k: Array, out: Array | None = None, threads: int | None = None) -> Any:
        """The result for any `x` and `k` of the planned shapes and dtypes."""
        return self.runner.run(x, k, out, threads or 0, False)

    def __call__(self, x: ArrayLike, *, out: Array | None = None) -> Array:
        """The result for new data `x` and the kernel given to `plan`."""
        x = self._checked(x)
        return self.runner.run(x, self.packed, out, 0, True)

    def __reduce__(self) -> tuple[Any, ...]:
        (_, x_dtype), _ = self.arrays
        return _rebuild, (self.task.problem, x_dtype, self.k, self.asked)

    def __str__(self) -> str:
        p = self.problem
        lines = [
            f"{'convolve' if p.flip else 'correlate'} x{p.x_shape} with k{p.k_shape} -> {p.dtype}{p.out_shape}",
            f"  padding {p.padding}, stride {p.stride}, dilation {p.dilation}, boundary {p.boundary}",
        ]
        return "\n".join([*lines, *self._lines(self.task.level)])


@dataclass(frozen=True, eq=False)
class LayerPlan(Plan):
    """The Plan of a call of `conv`, `conv_transpose` or `local_conv`."""

    face: str
    arrays: tuple[tuple[Shape, DType], ...] = field(repr=False)  # shape and dtype of x, as the caller gave it
    w: Array = field(repr=False)
    bias: Array | None = field(repr=False)
    options: Mapping[str, Any]
    method: str
    costs: Mapping[str, Any] = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "costs", MappingProxyType(dict(self.costs)))
        for array in (self.w, self.bias):
            if array is not None:
                array.flags.writeable = False

    def __call__(self, x: ArrayLike, *, out: Array | None = None) -> Array:
        """The result for new data `x` and the weights given to `plan`."""
        return _layer_faces()[self.face](self._checked(x), self.w, self.bias, **self.options, out=out)

    def __reduce__(self) -> tuple[Any, ...]:
        return _layer_plan, (self.face, *self.arrays[0], self.w, self.bias, dict(self.options))

    def __str__(self) -> str:
        (shape, dtype), *_ = self.arrays
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        first = f"{self.face} x{shape} of {dtype} with w{self.w.shape} of {self.w.dtype}{options}"
        return "\n".join([first, *self._lines(isa.LEVEL)])


def resolve(
    face: str, x: ArrayLike, k: ArrayLike, *, level: str | None = None, known: bool = False, **options: Any
) -> SignalPlan:
    """The Plan of one call of `face` ("correlate", "convolve"), without its kernel prepared.

    `known`: for this kernel alone, whose values then have a say in the method.
    """
    unknown = options.keys() - OPTIONS.keys()
    if unknown:
        raise TypeError(f"{face} has no option {', '.join(sorted(unknown))}")
    x, k = np.asarray(x), np.asarray(k)
    return resolve_options(face, x, k, tuple({**OPTIONS, **options}.values()), level, known)


def resolve_options(
    face: str, x: Array, k: Array, options: tuple[Any, ...], level: str | None = None, known: bool = False
) -> SignalPlan:
    """`resolve` for arrays and all options in the order of OPTIONS."""
    named = dict(zip(OPTIONS, options, strict=True))
    method = named.pop("method")
    dtype = problem.result_dtype(named.pop("dtype"), x=x.dtype, k=k.dtype)
    p = problem.signal(x.shape, k.shape, dtype, flip=face == "convolve", **named)
    return _plan(p, x.dtype, k.dtype, method, level or isa.LEVEL, k if known else None)


def _plan(p: Problem, x_dtype: DType, k_dtype: DType, method: str, level: str, k: Array | None = None) -> SignalPlan:
    names = [m.name for m in METHODS]
    if method != "auto" and method not in names:
        raise ValueError(f"method={method!r} is not one of 'auto', {', '.join(map(repr, names))}")
    task = Task(p, *_cast(p, x_dtype, k_dtype), level)
    entries = prod(p.batch_shape)
    auto = method == "auto"
    costs: dict[str, Any] = {m.name: m.refuse(task) or (auto and m.decline(task)) or m.cost(task) for m in METHODS}
    if k is not None and not isinstance(costs[Separable.name], str):
        costs[Separable.name] = Separable.suits(task, k, auto)
    possible = {name: cost for name, cost in costs.items() if not isinstance(cost, str)}
    chosen = method
    if auto:  # what serves any kernel, and before it what depends on the kernel's values
        by_value = possible.pop(Separable.name, float("inf"))
        chosen = min(possible, key=possible.__getitem__)
    elif method not in possible:
        raise ValueError(f"method={method!r} cannot serve this call: {costs[method]}")
    kernel = METHODS[names.index(chosen)].build(task, auto)
    if auto and by_value < possible[chosen]:
        kernel = Separable.build(task, auto, kernel, possible[chosen])
        chosen = chosen if k is None else Separable.name
    costs = {name: cost if isinstance(cost, str) else tuning.CALL + entries * cost for name, cost in costs.items()}
    x_cast = None if _loads(task.x_dtype, x_dtype) else task.x_dtype
    runner = _call.Runner(kernel, p, x_cast, task.k_dtype, costs[chosen], tuning.SERIAL, _available_threads)
    return SignalPlan(task, ((p.x_shape, x_dtype), (p.k_shape, k_dtype)), method, chosen, costs, runner)


def _cast(p: Problem, x_dtype: DType, k_dtype: DType) -> tuple[DType, DType]:
    """What x and k are computed as: the result's dtype, or its real part for real arrays of a complex result.

    A complex `fill` under real data makes the data complex.
    """
    if p.dtype.kind != "c":
        return p.dtype, p.dtype
    real = np.empty(0, p.dtype).real.dtype
    x, k = (real if a.kind != "c" else p.dtype for a in (x_dtype, k_dtype))
    if p.fill.imag != 0:
        x = p.dtype
    if x.kind != "c" and k.kind != "c":
        k = p.dtype
    return x, k


def _loads(computed: DType, given: DType) -> bool:
    """Whether the gather turns samples of `given` into `computed` as NumPy's cast would."""
    if given.newbyteorder("=") == computed:
        return True
    if given.char in "gG" or computed.char in "?gG" or (given.kind == "c") != (computed.kind == "c"):
        return False
    if computed.kind in "iu":
        return given.kind in "biu"
    return computed.char != "e"


def _available_threads(busy: int) -> int:
    """Threads for one more parallel call while others hold `busy` of them."""
    n = threads.get_num_threads()
    return threads.obtainable(max(1, n - busy) if n > 1 else 1)


@cache
def _faces() -> dict[Callable[..., Array], str]:
    from . import signal

    return {signal.correlate: "correlate", signal.convolve: "convolve"}


@cache
def _layer_faces() -> dict[str, Callable[..., Array]]:
    from . import nn

    return {"conv": nn.conv, "conv_transpose": nn.conv_transpose, "local_conv": nn.local_conv}


def plan(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Plan:
    """Resolve a call once, with its kernel prepared, to run it again and again.

    Parameters
    ----------
    f : function
        `correlate`, `convolve`, `conv`, `conv_transpose`, `local_conv` or `match_template`.
    *args, **kwargs
        Its arguments. Of the first array, the one that varies, only shape and dtype count; the others are copied.

    Returns
    -------
    Plan
        ``plan(x)`` is ``f(x, *rest)`` for any `x` of the same shape and dtype; ``plan(x, out=y)`` writes to `y`.
        ``print(plan)`` says which method, instruction set and threads, and what each method would cost.

    Raises
    ------
    ValueError, TypeError
        What `f` itself would raise; TypeError for any other `f`, or for ``out`` among its arguments.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcorr
    >>> smooth = fastcorr.plan(fastcorr.correlate, np.zeros(5), np.ones(3), "same")
    >>> smooth(np.arange(5.0))
    array([1., 3., 6., 9., 7.])
    """
    from . import template

    layers = {face: name for name, face in _layer_faces().items()}
    if f not in _faces() and f not in layers and f is not template.match_template:
        raise TypeError(
            f"plan takes correlate, convolve, conv, conv_transpose, local_conv or match_template, not {f!r}"
        )
    given = inspect.signature(f).bind(*args, **kwargs).arguments
    if "out" in given:
        raise TypeError("plan takes no out; give it to the plan: plan(x, out=y)")
    if f in layers:
        x, w, bias = np.asarray(given.pop("x")), np.array(given.pop("w")), given.pop("bias", None)
        return _layer_plan(layers[f], x.shape, x.dtype, w, None if bias is None else np.array(bias), given)
    if f is template.match_template:
        x = np.asarray(given.pop("x"))
        return template.prepare(x.shape, x.dtype, **given)
    x, k = np.asarray(given.pop("x")), np.array(given.pop("k"))
    return _bind(resolve(_faces()[f], x, k, known=True, **given), k)


def _layer_plan(
    face: str, x_shape: Shape, x_dtype: DType, w: Array, bias: Array | None, options: Mapping[str, Any]
) -> LayerPlan:
    from . import layer_methods, nn

    described = dict(options) | nn.KINDS[face]
    method, dtype = described.pop("method", "auto"), described.pop("dtype", None)
    arrays, result = nn.as_arrays(dtype, x=np.broadcast_to(np.empty((), x_dtype), x_shape), w=w, bias=bias)
    form, _ = contraction.layer(*nn.shapes(arrays), result, **described)
    chosen, costs = layer_methods.choose(form, method, isa.LEVEL)
    w = np.ascontiguousarray(w)
    return LayerPlan(face, ((x_shape, x_dtype),), w, bias, MappingProxyType(dict(options)), chosen, costs)


def _bind(found: SignalPlan, k: Array) -> SignalPlan:
    described = found.task, found.arrays, found.asked, found.method, found.costs
    return SignalPlan(*described, found.runner, k, found.runner.pack(k))


def _rebuild(p: Problem, x_dtype: DType, k: Array, method: str) -> SignalPlan:
    return _bind(_plan(p, x_dtype, k.dtype, method, isa.LEVEL, k), k)
