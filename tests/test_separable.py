"""method="separable": kernels of low rank, axis by axis, are the definition; auto takes them by their values.

Kernels of whole numbers have whole factors, so that results of whole data are compared bit for bit; all others may
be off by BOUND eps max|x| sum|k|, the maximum over the window. Budget: 30 seconds.
"""

import pickle

import numpy as np
import pytest
from common import FACES, LEVELS, definition, laid_out, random_case, run, same_bits, whole, wide
from hypothesis import given, settings
from hypothesis import strategies as st

import fastcorr
from fastcorr import planner

BOUND = 4.0
FLOATS = ("float32", "float64", "complex64", "complex128", "float16")
LOW_RANK = "not a product of one per axis"


def product(rng, shape, dtype, factor=lambda rng, n: rng.integers(1, 3, n) * rng.choice([-1, 1], n)):
    """A kernel of rank one, of whole numbers unless `factor` makes others."""
    k = np.ones((), int)
    for n in shape:
        k = k[..., None] * factor(rng, n)
    return (abs(k) if np.dtype(dtype).kind in "ub" else k).astype(dtype)


def uneven(rng, n):
    return rng.standard_normal(n)


def gaussian(n, sigma, dtype="float32"):
    g = np.exp(-((np.arange(n) - n // 2) ** 2) / (2 * sigma**2))
    k = np.outer(g, g)
    return (k / k.sum()).astype(dtype)


def eps(dtype):
    return float(np.finfo(np.float32 if dtype == "float16" else dtype).eps)


def largest_under(x, kernel):
    """max|x| over each output's window: mode "same" with boundary "reflect"."""
    padded = np.pad(abs(x), [(n // 2, n - 1 - n // 2) for n in kernel], "reflect")
    return np.lib.stride_tricks.sliding_window_view(padded, kernel).max(tuple(range(x.ndim, 2 * x.ndim)))


class TestDefinition:
    """By hand, on whole numbers: bit for bit the definition, whatever is asked for."""

    @settings(max_examples=200)
    @given(st.randoms(use_true_random=False))
    def test_any_call(self, rng):
        case = random_case(rng)
        options = {name: value for name, value in case.options.items() if name != "method"}
        x, k_dtype = case.x.make(), np.dtype(case.k.dtype)
        task = planner.resolve(case.face, x, np.empty(case.k.shape, k_dtype), **options).task
        signless = task.problem.dtype.kind in "ub"  # modulo 2**bits too little is known of a product
        k = product(np.random.default_rng(case.k.seed), case.k.shape, "uint8" if signless else k_dtype).astype(k_dtype)
        k = laid_out(np.asarray(k), case.k.layout)
        p, case.options["method"] = task.problem, "separable"
        if p.k_batched or task.k_parts == 2 or sum(n > 1 for n in p.kernel) < 2 or p.dtype.char in "gG":
            with pytest.raises(ValueError, match="'separable' cannot serve this call"):
                run(case.face, x, k, case.level, case.threads, **case.options)
            return
        got = run(case.face, x, k, case.level, case.threads, **case.options)
        want = definition(case.face, x, k, **options)
        assert got.dtype == want.dtype
        assert np.array_equal(got, want), repr(case)

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "complex64", "uint8"])
    @pytest.mark.parametrize("face", FACES)
    def test_many_strips_chains_and_blocks(self, face, dtype, level):
        """The direct method, which other tests hold to the definition, is far faster than the definition here."""
        rng = np.random.default_rng(1)
        k_dtype = "float32" if dtype == "complex64" else dtype
        for x, k, options in (
            ((200, 1500), (9, 17), {"mode": "same", "boundary": "reflect"}),
            ((180, 400), (70, 45), {"mode": "same", "boundary": ("wrap", "edge")}),
            ((60, 900), (3, 130), {"mode": "full"}),
            ((150, 170), (33, 5), {"stride": (2, 3), "dilation": (3, 2), "mode": "same", "boundary": "symmetric"}),
            ((40, 50, 60), (7, 5, 9), {"mode": "same", "fill": 2}),
            ((9, 40, 50, 20), (4, 9, 5, 3), {"mode": "same", "boundary": "wrap"}),
            ((3, 90, 110), (8, 8), {"mode": ((-2, 30), (3, -1)), "fill": 1}),
            ((90, 80, 3), (6, 7), {"axes": (0, 1), "mode": "same", "boundary": "edge"}),
            ((90, 80), (5, 6), {"axes": (1, 0), "mode": "same"}),
            ((30, 8), (6, 6), {"mode": "full"}),
        ):
            x, k = whole(rng, x, dtype, "small"), product(rng, k, k_dtype)
            if np.dtype(dtype).kind == "u":
                k = np.minimum(k, 1)
            got = run(face, x, k, level, 2, method="separable", **options)
            assert np.array_equal(got, run(face, x, k, level, 2, method="direct", **options)), (
                x.shape,
                k.shape,
                options,
            )

    def test_factors_of_whole_numbers_are_whole(self):
        """Powers of two apart, which are exact: thirds and tenths would not be."""
        x = np.zeros((40, 40), np.float32)
        x[20, 20] = 1
        u, v = np.float32([6, 10, 15, 21]), np.float32([9, 33, 15, 3, 21]) / 1024
        got = fastcorr.convolve(x, np.outer(u, v), "same", method="separable")
        assert np.array_equal(got, fastcorr.convolve(x, np.outer(u, v), "same", method="direct"))

    def test_out_may_be_any_array(self):
        rng = np.random.default_rng(0)
        x, k = wide(rng, (90, 90)), product(rng, (9, 9), "float32", uneven)
        want = fastcorr.correlate(x, k, "same", method="separable")
        out = np.zeros((180, 270), np.float32)[::2, ::3]
        assert fastcorr.correlate(x, k, "same", method="separable", out=out) is out
        assert np.array_equal(out, want)
        assert np.array_equal(fastcorr.correlate(x, k, "same", method="separable", out=x), want)


class TestRank:
    """What is run axis by axis, and what is not."""

    x = wide(np.random.default_rng(5), (60, 70), decades=2)

    def refuses(self, k, x=x, **options):
        out = np.full(planner.resolve("correlate", x, k, **options).problem.out_shape, 7, np.result_type(x, k))
        with pytest.raises(ValueError, match=f"'separable' cannot serve this call: .*{options.pop('why', LOW_RANK)}"):
            fastcorr.correlate(x, k, method="separable", out=out, **options)
        assert (out == 7).all()
        with pytest.raises(ValueError, match="'separable' cannot serve this call"):
            fastcorr.plan(fastcorr.correlate, x, k, method="separable", **options)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("terms", [1, 2, 3, 4])
    def test_low_rank(self, terms, dtype):
        rng = np.random.default_rng(terms)
        x, k = self.x.astype(dtype), sum(product(rng, (11, 13), dtype, uneven) for _ in range(terms))
        got = fastcorr.correlate(x, k, "same", boundary="edge", method="separable")
        want = definition("correlate", x, k, np.longdouble, mode="same", boundary="edge")
        assert (abs(got - want) <= BOUND * eps(dtype) * abs(x).max() * abs(k).sum()).all()

    def test_gaussians_differences_and_boxes(self):
        for k in (
            gaussian(31, 5),
            gaussian(31, 1.5),  # its corners are subnormal or zero
            gaussian(9, 3, "float64"),
            gaussian(21, 3) - gaussian(21, 5),
            np.full((7, 7), 1 / 49, np.float32),
            np.float32([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]),
        ):
            got = fastcorr.correlate(self.x, k, "same", method="separable")
            want = definition("correlate", self.x, k, np.longdouble, mode="same")
            assert (abs(got - want) <= BOUND * eps(k.dtype) * abs(self.x).max() * abs(k).sum()).all()

    def test_full_rank(self):
        rng = np.random.default_rng(0)
        for shape in ((9, 9), (15, 7), (5, 5, 5)):
            self.refuses(rng.standard_normal(shape).astype("float32"), wide(rng, (20,) * len(shape)))
        self.refuses(np.zeros((4, 4), np.float32))
        self.refuses(np.full((4, 4), np.nan, np.float32))
        self.refuses(np.float32([[1, 1], [1, np.inf]]))

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_nearly_low_rank(self, dtype):
        """A part in 2 eps of sum|k| that is no product is none of the kernel's rounding."""
        k = gaussian(15, 4, dtype)
        fastcorr.correlate(self.x.astype(dtype), k, method="separable")
        noise = np.random.default_rng(1).choice([-1, 1], k.shape)
        self.refuses((k * (1 + 6 * eps(dtype) * noise)).astype(dtype), self.x.astype(dtype))

    def test_terms_that_cancel(self):
        """a b - a' b' with a' near a: sums of terms would err by far more than those of the kernel."""
        rng = np.random.default_rng(3)
        a, b, c, d = (rng.standard_normal(9) for _ in range(4))
        k = np.outer(a, b) - np.outer(a + 1e-3 * c, b + 1e-3 * d)
        self.refuses(k, self.x.astype(float))

    def test_integers_must_be_products(self):
        k = product(np.random.default_rng(0), (6, 6), "int32")
        k[2, 3] += 1
        self.refuses(k, np.ones((20, 20), np.int32))

    def test_other_calls_are_refused(self):
        x = np.ones((5, 20, 30))
        for k, options, why in (
            (np.ones((4, 4)) * 1j, {}, "complex"),
            (np.ones((5, 4, 4)), {"axes": (1, 2)}, "own"),
            (np.ones((4,)), {}, "single axis"),
            (np.ones((1, 4, 1)), {}, "single axis"),
            (np.ones((4, 4), np.longdouble), {}, "no kernel"),
            (np.ones((2, 2)), {"dilation": 600, "mode": "same"}, "larger"),
        ):
            with pytest.raises(ValueError, match=f"'separable' cannot serve this call: .*{why}"):
                fastcorr.correlate(x, k, method="separable", **options)


class TestBound:
    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "float16"])
    @pytest.mark.parametrize("kernel", [(3, 3), (7, 7), (15, 15), (31, 31), (40, 6), (5, 6, 7)], ids=str)
    def test_follows_the_window(self, kernel, dtype, level):
        rng = np.random.default_rng(sum(kernel))
        x = wide(rng, (50, 70) if len(kernel) == 2 else (12, 13, 40), dtype)
        k = product(rng, kernel, np.float64 if dtype == "float16" else np.empty(0, dtype).real.dtype, uneven)
        if dtype == "float16":  # its rounding is no product, so that the kernel is float32
            k = product(rng, kernel, "float16")
        got = run("correlate", x, k, level, mode="same", boundary="reflect", method="separable")
        longest = np.clongdouble if dtype == "complex64" else np.longdouble
        want = definition("correlate", x, k, longest, mode="same", boundary="reflect")
        allowed = BOUND * eps(dtype) * largest_under(x, kernel).astype(float) * abs(k).astype(float).sum()
        if dtype == "float16":
            allowed = allowed + np.finfo(np.float16).eps * abs(want)
        worst = float((abs(got - want) / allowed).max())
        assert worst <= 1, worst

    @pytest.mark.parametrize("decades", [2, 8])
    def test_of_auto(self, decades):
        """eps log2(N) max|x| sum|k|, N the points of a tile of the transform, as wherever auto takes another method."""
        rng = np.random.default_rng(decades)
        for x, k in (((100, 120), (6, 6)), ((300, 200), (9, 15)), ((20, 30, 40), (4, 5, 6)), ((90, 80), (31, 31))):
            x, k = wide(rng, x, decades=decades), product(rng, k, "float32", uneven)
            points = np.prod([n + m for n, m in zip(x.shape, k.shape, strict=True)])
            want = definition("correlate", x.astype(float), k.astype(float), mode="same")
            allowed = eps("float32") * np.log2(points) * abs(x).max() * abs(k).sum()
            got = fastcorr.correlate(x, k, "same", method="separable")
            assert (abs(got - want) <= allowed).all()


class TestAuto:
    """`auto` runs by the kernel's values, and changes nothing that a caller relies on."""

    def test_each_kernel_by_itself(self):
        """Calls of the same shapes, which share what was resolved."""
        rng = np.random.default_rng(0)
        x = wide(rng, (200, 300), decades=2)
        low, full = product(rng, (9, 9), "float32", uneven), wide(rng, (9, 9), decades=1)
        other = planner.resolve("correlate", x, full).method
        for k, method in ((low, "separable"), (full, other), (low.copy(), "separable"), (low[::-1], "separable")):
            plan = fastcorr.plan(fastcorr.correlate, x, k)
            assert plan.method == method
            assert f"-> {method}" in str(plan)
            want = fastcorr.correlate(x, k, method=method)
            assert same_bits(fastcorr.correlate(x, k), want)
            assert same_bits(plan(x), want)
            assert same_bits(pickle.loads(pickle.dumps(plan))(x), want)
            assert same_bits(plan.run(x, full), fastcorr.correlate(x, full, method=other))
        assert LOW_RANK in str(fastcorr.plan(fastcorr.correlate, x, full))

    def test_few_terms(self):
        rng = np.random.default_rng(1)
        x = wide(rng, (900, 900), decades=2)
        two = gaussian(9, 1) - gaussian(9, 2)
        plan = fastcorr.plan(fastcorr.correlate, x, two, "same")
        assert plan.method == "separable"
        assert plan.costs["separable"] > 1.5 * planner.Separable.cost(plan.task)
        assert same_bits(fastcorr.correlate(x, two, "same"), plan(x))
        many = sum(product(rng, (15, 15), "float32", uneven) for _ in range(7))
        assert fastcorr.plan(fastcorr.correlate, x, many, "same").method != "separable"

    def test_few_taps_stay_exact(self):
        """Fewer than 32 are run axis by axis only where products of the factors are the kernel to the last bit."""
        rng = np.random.default_rng(2)
        x = whole(rng, (700, 700), "float32")
        uneven_k, whole_k = product(rng, (5, 6), "float32", uneven), product(rng, (5, 6), "float32")
        assert fastcorr.plan(fastcorr.correlate, x, uneven_k).method == "direct"
        assert fastcorr.plan(fastcorr.correlate, x, whole_k / 64).method == "separable"
        assert same_bits(fastcorr.correlate(x, uneven_k), fastcorr.correlate(x, uneven_k, method="direct"))
        assert np.array_equal(fastcorr.correlate(x, whole_k), definition("correlate", x, whole_k))

    @pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int32", "int64", "uint64"])
    def test_integers_are_exact(self, dtype):
        rng = np.random.default_rng(3)
        x, k = whole(rng, (300, 310), dtype), product(rng, (9, 11), dtype)
        assert fastcorr.plan(fastcorr.correlate, x, k).method == "separable"
        assert same_bits(fastcorr.correlate(x, k), fastcorr.correlate(x, k, method="direct"))

    @pytest.mark.parametrize("dtype", ["int64", "uint64"])
    def test_integers_beyond_those_of_a_double_are_exact(self, dtype):
        """The factors are found in doubles, which would round these samples to a kernel of rank one."""
        rng = np.random.default_rng(3)
        x, k = whole(rng, (300, 310), dtype), np.full((9, 11), 2**62, dtype)
        k[3, 4] += 1
        assert same_bits(fastcorr.correlate(x, k), fastcorr.correlate(x, k, method="direct"))
        with pytest.raises(ValueError, match="separable"):
            fastcorr.correlate(x, k, method="separable")

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("terms", [1, 2])
    def test_what_is_not_finite_stays_local(self, terms, dtype, value, level):
        for shape, kernel, options in (
            ((90, 200), (9, 7), {"mode": "same", "boundary": "wrap"}),
            ((90, 100), (12, 33), {"mode": "same", "stride": (1, 2)}),
            ((9, 30, 40), (4, 5, 6), {"dilation": (2, 1, 1)}),
        ):
            rng = np.random.default_rng(4)
            real = np.empty(0, dtype).real.dtype
            k = product(rng, kernel, real)
            if terms == 2 and len(kernel) == 2:
                k = k + product(rng, kernel, real)
            k.flat[:: kernel[-1]] *= 0  # zero taps cover samples too
            x = wide(rng, shape, dtype, 2)
            bad = np.zeros(shape, bool)
            bad[tuple(rng.integers(0, n, 4) for n in shape)] = True
            clean, dirty = np.where(bad, 0, x).astype(dtype), np.where(bad, value, x).astype(dtype)
            covered = fastcorr.correlate(bad.astype(int), np.ones(kernel, int), **options) > 0
            want, got = (run("correlate", x, k, level, method="separable", **options) for x in (clean, dirty))
            assert covered.any()
            assert not covered.all()
            np.testing.assert_array_equal(~np.isfinite(got), covered)
            assert same_bits(got[~covered], want[~covered])

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_nothing_overflows_on_the_way(self, dtype):
        large = np.finfo(dtype).max / 4
        x = np.full((100, 100), large, dtype)
        for scale in (1e-30, 1.0, 1e30):  # of the factors, whose product stays the same
            k = (np.outer(np.full(9, scale), np.linspace(1, 2, 11) / scale) / 200).astype(dtype)
            got = fastcorr.correlate(x, k, method="separable")
            np.testing.assert_allclose(got / large, np.float64(k).sum(), rtol=10 * eps(dtype))
        k = np.ones((7, 7), dtype)
        assert (fastcorr.correlate(x, k) == np.inf).all()

    def test_in_fill(self):
        x, k = np.ones((40, 50), np.float32), product(np.random.default_rng(0), (7, 6), "float32")
        got = fastcorr.correlate(x, k, "full", fill=np.nan, method="separable")
        inside = np.zeros(got.shape, bool)
        inside[6:-6, 5:-5] = True
        np.testing.assert_array_equal(np.isfinite(got), inside)
        assert np.isfinite(fastcorr.correlate(x, k, "same", boundary="edge", fill=np.nan, method="separable")).all()


class TestSameBits:
    """Any number of threads, any layout, any batch, any position: on data of which every order of summation tells."""

    CASES = (
        ((300, 500), (9, 15), {"mode": "same", "boundary": "reflect"}),
        ((200, 300), (60, 3), {}),
        ((100, 1300), (5, 90), {"mode": "full"}),
        ((400, 450), (7, 6), {"stride": (2, 3), "dilation": (3, 2), "mode": "same", "boundary": "wrap"}),
        ((30, 40, 80), (4, 5, 6), {"mode": "same", "boundary": "symmetric"}),
        ((200, 300, 3), (7, 7), {"axes": (0, 1), "mode": "same"}),
        ((60, 50, 70), (8, 8), {"mode": "same"}),
    )

    @pytest.mark.parametrize("dtype", ["float32", "complex128", "float64"])
    @pytest.mark.parametrize(("shape", "kernel", "options"), CASES, ids=str)
    def test_threads_and_layouts(self, shape, kernel, options, dtype):
        rng = np.random.default_rng(0)
        x, k = wide(rng, shape, dtype), product(rng, kernel, np.empty(0, dtype).real.dtype, uneven)
        options = {**options, "method": "separable"}
        want = run("correlate", x, k, None, 1, **options)
        for threads in (2, 3, 5):
            assert same_bits(run("correlate", x, k, None, threads, **options), want)
        for layout in ("F", "reversed", "strided", "misaligned", "swapped"):
            other = fastcorr.correlate(laid_out(x.copy(), layout), laid_out(k.copy(), layout), **options)
            assert same_bits(other, want), layout
            out = laid_out(np.empty_like(want), layout)
            fastcorr.correlate(x, k, **options, out=out)
            assert same_bits(np.array(out, want.dtype, order="C"), want), layout
        if "axes" not in options:
            assert same_bits(fastcorr.correlate(np.stack([x[::-1], x]), k, **options)[1], want)

    @pytest.mark.parametrize("rule", ["constant", "edge", "wrap"])
    def test_any_position(self, rule):
        """An output, at the border too, has the bits of the same window in a padded array."""
        rng = np.random.default_rng(1)
        x, k = wide(rng, (70, 90)), product(rng, (8, 11), "float32", uneven)
        want = fastcorr.correlate(x, k, "same", boundary=rule, method="separable")
        padded = np.pad(x, ((4, 3), (5, 5)), mode=rule)
        assert same_bits(fastcorr.correlate(padded, k, method="separable"), want)
        part = fastcorr.correlate(padded[13:60, 21:80].copy(), k, method="separable")
        assert same_bits(part, want[13:53, 21:70].copy())
