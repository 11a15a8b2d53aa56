"""method="fft": the transform of tiles is the discrete Fourier transform, and overlap-save is the definition.

The transform is compared with numpy.fft; where it leaves each frequency is read off the transforms of single samples.
Results may differ from the definition by eps log2(N) max|x| sum|k|, N the points of a tile. Budget: 60 seconds.
"""

import pickle

import numpy as np
import pytest
from common import FACES, LEVELS, RULES, Array, Case, definition, random_case, run, same_bits, succeeds, wide
from hypothesis import given, settings
from hypothesis import strategies as st

import fastcorr
from fastcorr import kernels, planner

FLOATS = ("float16", "float32", "float64", "complex64", "complex128")
ELEMENTS = ("float32", "float64")


def module(element, level):
    return kernels.load(kernels.find("spectrum", np.dtype(element)), level)


def eps(dtype):
    """Of the type that results of `dtype` are computed in."""
    return float(np.finfo(np.float32 if dtype == np.float16 else dtype).eps)


def bound(problem, x, k, fill=0):
    """What a result may be off by."""
    largest = max(np.abs(x).max(initial=0), abs(fill))
    axes = tuple(range(-problem.rank, 0)) if problem.rank else ()
    taps = np.abs(problem.canonical(k, kernel=True)).sum(axes).max(initial=0)
    points = np.prod([n + m for n, m in zip(problem.span, problem.out_size, strict=True)], initial=2.0)
    return eps(problem.dtype) * max(4, np.log2(points)) * largest * taps


def check(case, make=None):
    """The result of `case` by method="fft" is the definition's, but for rounding."""
    x, k, options = case.data(make)
    if "dtype" in case.options:
        options["dtype"] = case.options["dtype"]
    got = run(case.face, x, k, case.level, case.threads, **options, method="fft")
    want = definition(case.face, x, k, **options)
    problem = planner.resolve(case.face, x, k, **options).problem
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert got.flags.c_contiguous
    x, k = (a.astype(np.promote_types(problem.dtype, np.float32)) for a in (x, k))
    allowed = bound(problem, x, k, options.get("fill", 0))
    if problem.dtype == np.float16:
        allowed = allowed + np.finfo(np.float16).eps * np.abs(want.astype(np.float32))
    error = np.abs(got.astype(problem.dtype if problem.dtype.kind == "c" else float) - want)
    assert (error <= allowed).all(), f"error {error.max()} of {np.max(allowed)}: {case!r}"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("element", ELEMENTS)
class TestTransform:
    """`Transform`: the discrete Fourier transform, frequencies in an order of its own."""

    # Every radix first and last, single points, rows that make no whole group of vectors, blocks of a long last axis.
    SHAPES = (
        *((16,), (48,), (80,), (256,), (1024,), (3840,), (4096,), (30720,), (65536,)),
        *((1, 16), (4, 64), (5, 16), (8, 32), (12, 80), (16, 48), (25, 32), (27, 16), (64, 96), (600, 64), (4096, 32)),
        *((2, 1280), (3, 8192), (2, 2, 4096), (1, 1, 256), (3, 4, 32), (9, 5, 64), (10, 12, 16), (2, 3, 4, 48)),
    )

    def forward(self, transform, z):
        both = transform.planes(z)
        transform.run(both)
        return both[0].astype(float) + 1j * both[1]

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_is_the_fourier_transform(self, shape, element, level):
        transform = module(element, level).Transform(shape)
        frequency = []
        for axis, n in enumerate(shape):
            z = np.zeros(shape)
            z[tuple(1 % n if a == axis else 0 for a in range(len(shape)))] = 1
            turned = self.forward(transform, z)
            used = np.abs(turned) > 0.5  # the rest is between the rows
            frequency.append(np.rint(-np.angle(turned[used]) * n / (2 * np.pi)).astype(int) % n)
        assert used.sum() == np.prod(shape)
        assert len(np.unique(np.ravel_multi_index(frequency, shape))) == np.prod(shape)
        rng = np.random.default_rng(0)
        z = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
        want = np.fft.fftn(z)
        error = self.forward(transform, z)[used] - want[tuple(frequency)]
        assert np.abs(error).max() <= 6 * eps(element) * np.abs(want).max()

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_products_are_circular_convolutions(self, shape, element, level):
        transform = module(element, level).Transform(shape)
        rng = np.random.default_rng(0)
        z, k = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape) for _ in range(2))
        spectrum, both = transform.planes(k / z.size), transform.planes(z)
        transform.run(spectrum)
        transform.run(both, spectrum)
        want = np.fft.ifftn(np.fft.fftn(z) * np.fft.fftn(k))
        got = transform.view(both[0]) + 1j * transform.view(both[1])
        assert np.abs(got - want).max() <= 8 * eps(element) * np.abs(want).max()

    @pytest.mark.parametrize("shape", [(7 * 256,), (11, 32), (32, 8 * 13), (0, 16), (16, 0)], ids=str)
    def test_other_sizes_are_refused(self, shape, element, level):
        with pytest.raises(ValueError, match="points"):
            module(element, level).Transform(shape)


class TestMethod:
    """`method="fft"` is the definition: all that a call may ask for."""

    @settings(max_examples=600)
    @given(st.randoms(use_true_random=False))
    def test_any_call(self, rng):
        check(random_case(rng, FLOATS, LEVELS))

    @settings(max_examples=100)
    @given(st.randoms(use_true_random=False))
    def test_any_call_on_wide_data(self, rng):
        check(random_case(rng, FLOATS, LEVELS), lambda rng, shape, dtype: wide(rng, shape, dtype, 3))

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("face", FACES)
    def test_many_blocks(self, face, dtype, level):
        for i, (x, k, options) in enumerate(
            (
                ((9001,), (97,), {"mode": "same"}),
                ((3, 20011), (1500,), {"mode": "full", "boundary": "wrap", "stride": 3}),
                ((203, 307), (23, 41), {"mode": "same", "boundary": "symmetric", "dilation": (2, 1)}),
                ((5, 90, 110), (13, 8), {"mode": "full", "boundary": ("edge", "reflect"), "stride": (2, 3)}),
                ((31, 40, 50), (7, 5, 9), {"mode": "same", "fill": 2}),
                ((1, 4001), (1, 313), {"boundary": "edge", "mode": "same"}),
                ((4001, 2), (313, 2), {"mode": "same"}),
                ((4, 300, 3), (4, 57, 1), {"axes": 1, "mode": "full"}),
                ((300, 40), (290, 31), {}),
                ((40, 50), (81, 77), {"mode": "full"}),
            )
        ):
            case = Case(face, Array(x, dtype, "C", i, "small"), Array(k, dtype, "C", i, "small"), options, level, 2)
            check(case, lambda rng, shape, dtype: rng.standard_normal(shape).astype(dtype))

    @pytest.mark.parametrize("rule", RULES)
    def test_prime_lengths(self, rule):
        for n, taps in ((997, 499), (1009, 1013), (2003, 3)):
            check(
                Case("correlate", Array((n,), "float64"), Array((taps,), "float64"), {"mode": "same", "boundary": rule})
            )

    def test_a_kernel_of_no_axes(self):
        x = np.arange(24.0).reshape(2, 3, 4)
        np.testing.assert_allclose(fastcorr.correlate(x, 3.0, axes=(), method="fft"), 3 * x, atol=1e-13)

    @pytest.mark.parametrize("dtype", ["float32", "complex128"])
    def test_long_by_long(self, dtype):
        """One tile, far larger than a cache: its steps run in parallel."""
        rng = np.random.default_rng(0)
        x, k = (rng.standard_normal(n).astype(dtype) for n in (200_001, 150_001))
        got = [run("correlate", x, k, None, threads, mode="full", method="fft") for threads in (1, 2, 3)]
        n = 350_001
        want = np.fft.ifft(np.fft.fft(x.astype(complex), n) * np.fft.fft(k.conj()[::-1].astype(complex), n))
        problem = planner.resolve("correlate", x, k, mode="full").problem
        assert np.abs(got[0] - want).max() <= bound(problem, x, k)
        assert same_bits(got[0], got[1])
        assert same_bits(got[0], got[2])

    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
    @pytest.mark.parametrize(
        ("x", "k", "options"),
        [
            ((900, 800), (401, 300), {"mode": "same"}),
            ((60, 70, 80), (31, 30, 29), {"mode": "full", "boundary": "wrap"}),
            ((2, 300_000), (2, 40_000), {"axes": 1}),
            ((700, 900), (17, 17), {"mode": "same"}),
            ((40, 90, 90), (9, 9), {"mode": "same", "stride": 2}),
        ],
        ids=str,
    )
    def test_is_the_same_for_every_number_of_threads(self, x, k, options, dtype):
        rng = np.random.default_rng(1)
        x, k = rng.standard_normal(x).astype(dtype), rng.standard_normal(k).astype(dtype)
        want = run("correlate", x, k, None, 1, method="fft", **options)
        for threads in (2, 3, 5):
            assert same_bits(run("correlate", x, k, None, threads, method="fft", **options), want)

    def test_out_may_be_any_array(self):
        x, k = (wide(np.random.default_rng(seed), shape) for seed, shape in ((0, (90, 90)), (1, (20, 20))))
        want = fastcorr.correlate(x, k, "same", method="fft")
        out = np.zeros((180, 270), np.float32)[::2, ::3]
        assert fastcorr.correlate(x, k, "same", method="fft", out=out) is out
        assert np.array_equal(out, want)
        assert np.array_equal(fastcorr.correlate(x, k, "same", method="fft", out=x), want)


class TestPlan:
    """The kernel's spectrum is kept, and the planner knows the method."""

    @pytest.mark.parametrize(("k", "options"), [((30, 31), {}), ((3, 30, 31), {"axes": (1, 2)})], ids=str)
    def test_keeps_the_spectrum(self, k, options):
        rng = np.random.default_rng(0)
        x, k = rng.standard_normal((3, 100, 120)), rng.standard_normal(k)
        want = fastcorr.correlate(x, k, method="fft", **options)
        plan = fastcorr.plan(fastcorr.correlate, x, k, method="fft", **options)
        assert same_bits(plan(x), want)
        assert same_bits(pickle.loads(pickle.dumps(plan))(x), want)
        assert "-> fft" in str(plan)

    @pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "longdouble", "clongdouble"])
    def test_types_without_a_kernel_are_refused(self, dtype):
        with pytest.raises(ValueError, match=f"'fft' cannot serve this call: {np.dtype(dtype)}"):
            fastcorr.correlate(np.ones(9, dtype), np.ones(3, dtype), method="fft")

    @pytest.mark.parametrize("x", [(100,), (5_000_000,), (512, 512), (1, 4096), (4096, 3), (200, 200, 200)], ids=str)
    def test_tiles_hold_the_kernel_and_little_else(self, x):
        for share in (1, 3, 20):
            k = tuple(max(1, n // share) for n in x)
            plan = planner.resolve("correlate", np.empty(x, np.float32), np.empty(k, np.float32), mode="full")
            _, _, (points, tile, total) = plan.task.tiles
            assert 0 < tile <= total
            for n, m, span in zip(points, plan.problem.out_size, k, strict=True):
                assert span <= n <= max(2 * (m + span), 256)


class TestAuto:
    """`auto` takes the transform where it is cheaper, and nothing but rounding changes."""

    LARGE = (
        ((300, 400), (33, 35), {"mode": "same"}),
        ((30_000,), (1501,), {"mode": "full", "boundary": "wrap", "stride": 3}),
        ((3, 20_000), (400,), {"mode": "same", "boundary": "reflect"}),
        ((40, 50, 60), (13, 11, 12), {}),
        ((900, 2), (300,), {"axes": 0, "mode": "same", "fill": 1}),
        ((2, 200, 210), (2, 41, 40), {"axes": (1, 2), "mode": "same"}),
        ((90, 80), (70, 70), {"mode": "full", "boundary": "edge"}),
    )

    def arrays(self, x, k, dtype, decades=3):
        return (wide(np.random.default_rng(seed), shape, dtype, decades) for seed, shape in enumerate((x, k)))

    def test_takes_the_cheapest(self):
        for x, k, options in self.LARGE:
            plan = planner.resolve("correlate", np.empty(x), np.empty(k), **options)
            assert plan.method == "fft"
            assert plan.costs["fft"] < plan.costs["direct"]
        for x, k in (((2000, 2000), (3, 3)), ((10_000,), (31,)), ((100, 100, 100), (3, 3, 3)), ((50,), (50,))):
            assert planner.resolve("correlate", np.empty(x), np.empty(k)).method == "direct"

    def test_few_taps_stay_exact(self):
        plan = planner.resolve("correlate", np.empty((500, 9)), np.empty((6, 5)))
        assert plan.method == "direct"
        assert "fewer than 32 taps" in str(fastcorr.plan(fastcorr.correlate, np.empty((500, 9)), np.empty((6, 5))))

    @pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "int64", "bool"])
    def test_integers_are_exact(self, dtype):
        rng = np.random.default_rng(0)
        x, k = (rng.integers(0, 2 if dtype == "bool" else 120, n).astype(dtype) for n in (3000, 900))
        assert planner.resolve("correlate", x, k).method == "direct"
        assert same_bits(fastcorr.correlate(x, k), definition("correlate", x, k))

    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("decades", [3, 8])
    @pytest.mark.parametrize(("x", "k", "options"), LARGE, ids=str)
    def test_bound(self, x, k, options, decades, dtype):
        x, k = self.arrays(x, k, dtype, decades)
        problem = planner.resolve("correlate", x, k, **options).problem
        got = fastcorr.correlate(x, k, **options)
        x, k = (a.astype(np.promote_types(a.dtype, np.float64)) for a in (x, k))
        want = fastcorr.correlate(x, k, **options, method="direct")
        allowed = bound(problem, x, k, options.get("fill", 0))
        if dtype == "float16":
            allowed = allowed + np.finfo(np.float16).eps * np.abs(want)
        assert (np.abs(got - want) <= allowed).all()

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize(("x", "k", "options"), LARGE, ids=str)
    def test_what_is_not_finite_stays_local(self, x, k, options, dtype, value, level):
        x, k = self.arrays(x, k, dtype, 2)
        clean = fastcorr.correlate(x, k, **options, method="direct").astype("complex128")
        bad = np.zeros(x.shape, int)
        bad[tuple(n // 3 for n in x.shape)] = bad[tuple(n - 1 for n in x.shape)] = 1
        x[bad > 0] = value
        covered = fastcorr.correlate(bad, np.ones(k.shape, int), **{**options, "fill": 0}) > 0
        got = run("correlate", x, k, level, **options)
        assert covered.any()
        assert not covered.all()
        np.testing.assert_array_equal(~np.isfinite(got), covered)
        problem = planner.resolve("correlate", x, k, **options).problem
        x = np.where(bad, 0, x).astype(np.promote_types(dtype, np.float32))
        allowed = bound(problem, x, k.astype(x.dtype), 1)
        if dtype == "float16":
            allowed = allowed + 1e-3 * np.abs(clean)
        assert (np.abs(got - clean) <= 2 * allowed)[~covered].all()

    @pytest.mark.parametrize("dtype", ["float32", "complex64"])
    def test_a_kernel_that_is_not_finite(self, dtype):
        x, k = self.arrays((300, 400), (33, 35), dtype)
        k[4, 5] = np.nan
        assert np.isnan(fastcorr.correlate(x, k)).all()
        k[4, 5] = np.inf
        assert same_bits(fastcorr.correlate(x, k), fastcorr.correlate(x, k, method="direct"))

    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
    def test_nothing_overflows_on_the_way(self, dtype):
        x, k = (np.ones(n, dtype) for n in (100_000, 2000))
        large = np.finfo(dtype).max / 4
        x[::5000] = large
        k[:] = 1e-3
        k[7] = 1
        assert planner.resolve("correlate", x, k).method == "fft"
        got = fastcorr.correlate(x, k)
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got, fastcorr.correlate(x, k, method="direct"), rtol=0, atol=1e-5 * large)
        x[50_000:52_000] = large
        k[:] = 1
        got, want = fastcorr.correlate(x, k), fastcorr.correlate(x, k, method="direct")
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))

    def test_by_hand_nothing_is_checked(self):
        x, k = self.arrays((300, 400), (33, 35), "float32")
        x[7, 8] = np.nan
        assert np.isnan(fastcorr.correlate(x, k, method="fft")).sum() > 33 * 35

    @pytest.mark.parametrize("dtype", ["float32", "complex64"])
    @pytest.mark.parametrize(("x", "k", "options"), LARGE, ids=str)
    def test_batch_threads_and_layout_change_no_bit(self, x, k, options, dtype):
        x, k = self.arrays(x, k, dtype)
        x[..., 1] = np.nan
        axes = options.get("axes", tuple(range(x.ndim - k.ndim, x.ndim)))
        axes = tuple(axis + 1 for axis in np.atleast_1d(axes))
        want = run("correlate", x, k, None, 1, **options)
        assert same_bits(run("correlate", x, k, None, 2, **options), want)
        assert same_bits(fastcorr.correlate(np.asfortranarray(x), np.asfortranarray(k), **options), want)
        batch = np.stack([np.zeros_like(x), x, x[::-1], x, np.ones_like(x)])
        kernel = k[None] if k.ndim == x.ndim and len(axes) < k.ndim else k
        for few in (batch, batch[1:4], batch[1:2]):
            got = fastcorr.correlate(few, kernel, **{**options, "axes": axes})
            assert same_bits(got[1 if len(few) == 5 else 0], want)

    def test_a_plan_checks_too(self):
        for k_shape, options in (((33, 35), {}), ((2, 33, 35), {"axes": (1, 2)})):
            for dtype in ("float16", "float32", "complex64"):
                x, k = self.arrays((2, 300, 400), k_shape, dtype, 1)
                plan = fastcorr.plan(fastcorr.correlate, x, k, **options)
                assert "-> fft" in str(plan)
                assert "times as long" in str(plan)
                x[1, 7, 8] = np.inf
                want = fastcorr.correlate(x, k, **options)
                assert same_bits(plan(x), want)
                assert same_bits(pickle.loads(pickle.dumps(plan))(x), want)


class TestPromises:
    @pytest.mark.parametrize("method", ["fft", "auto"])
    def test_memory(self, method):
        """Beyond x, k and y: at most 64 MiB where the kernel fits a block."""
        code = f"""
import resource
import numpy as np
import fastcorr
for x, k in (((3000, 3000), (63, 63)), ((4_000_000,), (100_000,)), ((160, 160, 160), (15, 15, 15))):
    x, k = np.ones(x, np.float32), np.ones(k, np.float32)
    y = np.ones_like(x)
    fastcorr.correlate(x[:50], k[:9], "same", method={method!r})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fastcorr.correlate(x, k, "same", method={method!r}, out=y)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
        assert all(int(mib) <= 64 for mib in succeeds(code).split())

    @pytest.mark.parametrize("method", ["fft", "auto"])
    @pytest.mark.parametrize("shapes", [((6000, 6000), (500, 500)), ((20_000_000,), (10_000_000,))], ids=str)
    def test_can_be_interrupted(self, shapes, method):
        code = f"""
import signal, time
import numpy as np
import fastcorr
fastcorr.correlate(np.ones(9), np.ones(3), method="fft")
x, k = (np.ones(shape, np.float32) for shape in {shapes})
def stop(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, stop)
for threads in (1, 2):
    with fastcorr.num_threads(threads):
        signal.setitimer(signal.ITIMER_REAL, 0.15)
        begin = time.perf_counter()
        try:
            fastcorr.correlate(x, k, "same", method={method!r})
        except KeyboardInterrupt:
            print(time.perf_counter() - begin - 0.15)
"""
        delays = [float(line) for line in succeeds(code).split()]
        assert max(delays, default=0) < 0.2  # 50 ms on a quiet machine
