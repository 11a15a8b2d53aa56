"""What the tests share: described arrays and calls, the oracle, other processes.

A `Case` is one call written down: which face, which arrays, which options, which level, how many threads. Its repr
is Python that runs it again, so a failing test prints its own reproduction:

    cd tests && python -c "from common import Array, Case; Case('correlate', Array((9, 9)), Array((3, 3))).check()"

Data are integer-valued (and small wherever a type could round), so that every partial sum is exact in every type and
every comparison is `np.array_equal`: any order of summation, instruction set and number of threads must agree.
"""

import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

import fastcorr
from fastcorr import isa, kernels, planner, reference, tuning

LEVELS = isa.usable()
FACES = ("correlate", "convolve")
RULES = ("constant", "edge", "reflect", "symmetric", "wrap")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
FLOATS = ("float16", "float32", "float64")
COMPLEX = ("complex64", "complex128")
SLOW = ("longdouble", "clongdouble")
DTYPES = ("bool", *INTEGERS, *FLOATS, *COMPLEX)  # all that have a compiled kernel
LAYOUTS = ("C", "F", "reversed", "strided", "broadcast", "misaligned", "swapped", "readonly", "list")

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(fastcorr.__file__)))


# --- data -------------------------------------------------------------------------------------------------------------


def whole(rng, shape, dtype, values="full"):
    """Integer-valued data: integers of the full range of `dtype`, floats from -4 to 4, complex with such parts.

    "small" keeps integers small too, for sums in floating point; "natural" draws 0 to 8, for casts to unsigned.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.3
    if dtype.kind in "iu" and values == "full":
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    least = 0 if dtype.kind == "u" or values == "natural" else -4
    data = rng.integers(least, least + 9, shape)
    return (data + 1j * rng.integers(least, least + 9, shape) if dtype.kind == "c" else data).astype(dtype)


def wide(rng, shape, dtype="float32", decades=8):
    """Real-valued data of random sign over `decades` decades (three for float16)."""
    dtype = np.dtype(dtype)
    decades = min(decades, 3) if dtype == np.float16 else decades
    data = rng.choice([-1.0, 1.0], shape) * 10 ** rng.uniform(-decades / 2, decades / 2, shape)
    if dtype.kind == "c":
        data = data * np.exp(2j * np.pi * rng.random(shape))
    return data.astype(dtype)


def laid_out(a, layout):
    """An array-like equal to `a` whose memory is laid out otherwise; "broadcast" repeats part of `a`."""
    if layout == "F":
        return np.array(a, order="F")
    if layout == "reversed":
        every = (..., *(slice(None, None, -1),) * a.ndim)
        return a[every].copy()[every]
    if layout == "strided":
        view = np.zeros([3 * n for n in a.shape], a.dtype)[(..., *(slice(1, None, 3),) * a.ndim)]
        view[...] = a
        return view
    if layout == "broadcast":
        part = tuple(slice(None, 1) if n and axis % 2 == 0 else slice(None) for axis, n in enumerate(a.shape))
        return np.broadcast_to(a[(..., *part)], a.shape)
    if layout == "misaligned":
        view = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
        view[...] = a
        return view
    if layout == "swapped":
        return a.astype(a.dtype.newbyteorder("S"))
    if layout == "readonly":
        a.flags.writeable = False
        return a
    return a.tolist() if layout == "list" else a


@dataclass(frozen=True)
class Array:
    """An array described: `make` makes the same one every time."""

    shape: tuple
    dtype: str = "float32"
    layout: str = "C"
    seed: int = 0
    values: str = "full"

    def make(self):
        data = whole(np.random.default_rng(self.seed), self.shape, self.dtype, self.values)
        return laid_out(np.asarray(data), self.layout)


# --- calls ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One call of the signal face, with the oracle beside it."""

    face: str
    x: Array
    k: Array
    options: dict = field(default_factory=dict)
    level: str | None = None
    threads: int | None = None

    def data(self, make=None):
        """(x, k, options) of a call of `make`-d data in the place of its own, without `dtype` and `method`."""
        arrays = []
        for a in (self.x, self.k):
            rng = np.random.default_rng(a.seed)
            arrays.append(np.asarray(laid_out(np.asarray(make(rng, a.shape, a.dtype)), a.layout) if make else a.make()))
        return (*arrays, {name: value for name, value in self.options.items() if name not in ("dtype", "method")})

    def run(self):
        return run(self.face, self.x.make(), self.k.make(), self.level, self.threads, **self.options)

    def check(self):
        """The result is the definition's, to the last bit, and a fresh C-contiguous ndarray of the right type."""
        got = self.run()
        want = _expected(repr(replace(self, level=None, threads=None)))
        plain = type(got) is np.ndarray and got.flags.c_contiguous and got.flags.writeable and got.dtype.isnative
        assert plain, f"{type(got)}, {got.dtype}, {got.flags}: {self}"
        assert got.dtype == want.dtype, f"dtype {got.dtype}, not {want.dtype}: {self}"
        assert got.shape == want.shape, f"shape {got.shape}, not {want.shape}: {self}"
        if not np.array_equal(got, want):
            wrong = np.argwhere(got != want)
            first = tuple(int(i) for i in wrong[0])
            raise AssertionError(
                f"{len(wrong)} of {got.size} samples differ, first at {first}: {got[first]} not {want[first]}\n{self!r}"
            )


@lru_cache(maxsize=512)
def _expected(text):
    """The oracle's result, once for all levels and thread counts."""
    case = eval(text)
    return definition(case.face, case.x.make(), case.k.make(), **case.options)


def run(face, x, k, level=None, threads=None, out=None, **options):
    """`fastcorr.correlate` or `convolve`, at a chosen level and number of threads."""
    if level is None and threads is None:
        return getattr(fastcorr, face)(x, k, out=out, **options)
    x, k = np.asarray(x), np.asarray(k)
    return planner.resolve(face, x, k, level=level, **options).run(x, k, out, threads)


def definition(face, x, k, sum_dtype=None, **options):
    """The oracle: `reference.correlate` on the Problem of this call."""
    x, k = np.asarray(x), np.asarray(k)
    problem = planner.resolve(face, x, k, **options).problem
    if options.get("dtype") is not None:
        x, k = x.astype(options["dtype"]), k.astype(options["dtype"])
    native = (a.astype(a.dtype.newbyteorder("=")) for a in (x, k))
    return np.array(reference.correlate(problem, *native, sum_dtype), order="C")


def same_bits(a, b):
    """Equal to the last bit, NaNs and signed zeros included."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


# --- random problems --------------------------------------------------------------------------------------------------


_LONGEST = {1: 90, 2: 24, 3: 10, 4: 6}  # of x along an axis, by rank
_TAPS = {1: 60, 2: 9, 3: 5, 4: 3}  # of k along an axis, by the number of axes it acts on
_WORK = 1_000_000  # multiplications the oracle may spend


def random_case(rng, dtypes=(*DTYPES, *SLOW), levels=(None, *LEVELS)):
    """Any valid call at all, drawn from a `random.Random`: hypothesis and fuzz.py both draw from here."""
    rank = rng.choice((1, 1, 2, 2, 2, 3, 3, 4))
    x_shape = [rng.randint(1, _LONGEST[rank]) for _ in range(rank)]
    if rng.random() < 0.15:
        x_shape[-1] = rng.randint(1, 400)
    acting = rng.choice((rank, rank, rank, rng.randint(0, rank)))
    axes = rng.sample(range(rank), acting) if rng.random() < 0.35 else list(range(rank - acting, rank))
    others = [axis for axis in range(rank) if axis not in axes]
    style = rng.choice(("valid", "same", "full", "pairs"))
    options, kernel, work = _random_geometry(rng, [x_shape[axis] for axis in axes], style)
    if work * np.prod([x_shape[axis] for axis in others]) > _WORK:
        return random_case(rng, dtypes, levels)

    k_shape = kernel
    if others and rng.random() < 0.3:  # the kernel has the batch axes too
        k_shape = [0] * rank
        for axis in others:
            n = x_shape[axis]
            x_shape[axis], k_shape[axis] = rng.choice(((n, n), (n, 1), (1, n)))
        for axis, taps in zip(axes, kernel, strict=True):
            k_shape[axis] = taps
    elif others and rng.random() < 0.05:  # an empty batch
        x_shape[others[0]] = 0
    if k_shape is not kernel or axes != list(range(rank - acting, rank)) or rng.random() < 0.2:
        options["axes"] = tuple(axis - rank if rng.random() < 0.3 else axis for axis in axes)

    x_layout, k_layout = rng.choice(LAYOUTS), rng.choice(LAYOUTS[:-1])
    x_dtype = rng.choice(dtypes)
    if x_layout == "list" and (0 in x_shape or x_dtype not in ("bool", "int64", "float64", "complex128")):
        x_layout = "C"  # a list keeps neither the shape of what is empty nor a narrow type
    k_dtype = x_dtype if rng.random() < 0.6 else rng.choice(dtypes)
    kinds = {np.dtype(x_dtype).kind, np.dtype(k_dtype).kind}
    if rng.random() < 0.2:
        options["dtype"] = rng.choice([name for name in dtypes if np.dtype(name).kind == "c" or "c" not in kinds])
    result = np.dtype(options.get("dtype") or np.result_type(np.dtype(x_dtype), np.dtype(k_dtype)))
    if result.kind in "fc":
        values = "small"
    else:
        values = ("natural" if result.kind == "u" else "small") if "f" in kinds else "full"
    fills = {"c": (1, 2 - 1j, -3j), "f": (-2, 1, 3.0), "i": (-2, 1, 3), "u": (1, 3), "b": (True, 1)}
    if rng.random() < 0.4:
        options["fill"] = rng.choice(fills[result.kind])
    level = rng.choice(levels) if result.char not in "gG" else None
    if rng.random() < 0.1:
        options["method"] = "direct" if result.char not in "gG" and rng.random() < 0.7 else "reference"
    elif result.kind in "fc" and result.char not in "gG" and np.prod(kernel) >= tuning.SPECTRUM_TAPS:
        options["method"] = "direct"  # `auto` may round

    x = Array(tuple(x_shape), x_dtype, x_layout, rng.randint(0, 999), values)
    k = Array(tuple(k_shape), k_dtype, k_layout, rng.randint(0, 999), values)
    return Case(rng.choice(FACES), x, k, options, level, rng.choice((None, 1, 2, 3)))


def _random_geometry(rng, sizes, style):
    """Options of a kernel acting on axes of these `sizes`, its shape, and the multiplications they ask for."""
    kernel, stride, dilation, pairs, anchor, work = [], [], [], [], [], 1
    for n in sizes:
        d, s = rng.choice((1, 1, 1, 2, 3, 4)), rng.choice((1, 1, 1, 2, 3, 4, 7))
        fits = (n - 1) // d + 1 if style == "valid" else n + 3
        taps = rng.randint(1, min(fits, _TAPS[len(sizes)]))
        reach = d * (taps - 1)
        lo = rng.randint(-min(n // 2, 3), n + 3) if rng.random() < 0.9 else rng.randint(-3 * n, 5 * n)
        hi = max(rng.randint(-min(n // 2, 3), n + 3), reach + 1 - n - lo)
        more = {"valid": 0, "same": reach, "full": 2 * reach, "pairs": lo + hi}[style]
        work *= taps * ((n + more - reach - 1) // s + 1)
        for column, value in zip(
            (kernel, stride, dilation, pairs, anchor), (taps, s, d, (lo, hi), rng.randint(0, taps - 1)), strict=True
        ):
            column.append(value)
    options = {"mode": tuple(pairs) if style == "pairs" else style}
    if rng.random() < 0.4:
        options["stride"] = tuple(stride)
    elif sizes:
        work *= np.prod(stride)
    options["dilation"] = tuple(dilation)
    if rng.random() < 0.3:
        options["anchor"] = tuple(anchor)
    if rng.random() < 0.7:
        same = rng.choice((*RULES, "nearest", "mirror", "circular"))
        options["boundary"] = same if rng.random() < 0.6 else tuple(rng.choice(RULES) for _ in sizes)
    return options, kernel, work


# --- other processes --------------------------------------------------------------------------------------------------


def environment(**env):
    """Of a child process: it finds this fastcorr and this directory, and NumPy starts no threads of its own."""
    path = os.pathsep.join((ROOT, os.path.dirname(os.path.abspath(__file__)), os.environ.get("PYTHONPATH", "")))
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", **env}


def python(code, timeout=60, **env):
    """Run `code` in a fresh interpreter; a hang is an error."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, env=environment(**env)
    )


def succeeds(code, timeout=60, **env):
    """The output of `code`, which must exit with 0."""
    done = python(code, timeout, **env)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def rows():
    """(row of KERNELS, result dtype) of all that serves the signal face."""
    return [(row, dtype) for row in kernels.KERNELS for dtype in row.dtypes if row.family == "plane"]
