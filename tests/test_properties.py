"""What holds for every call: drawn problems against the definition, and identities that need no oracle.

hypothesis draws whole calls - rank, mode, boundary, axes, anchor, stride, dilation, dtypes, layouts, level, threads -
from the same generator as fuzz.py. Integer-valued data make the comparison exact; where data are real, the claim is
about bits: the same sums in the same order. Budget: 30 seconds.
"""

from dataclasses import replace

import numpy as np
import pytest
from common import COMPLEX, FACES, LAYOUTS, RULES, definition, laid_out, random_case, same_bits, whole, wide
from hypothesis import given, settings
from hypothesis import strategies as st

import fastcorr
from fastcorr import planner

draws = st.randoms(use_true_random=False)


class TestDefinition:
    """Any call is the definition, exactly."""

    @settings(max_examples=600)
    @given(draws)
    def test_any_call(self, rng):
        random_case(rng).check()

    @settings(max_examples=200)
    @given(draws)
    def test_any_longdouble_call(self, rng):
        random_case(rng, dtypes=("longdouble", "clongdouble", "float64", "bool")).check()

    @given(draws)
    def test_a_repeated_call_is_the_same_call(self, rng):
        """The call path remembers problems: the second call, and one on other data, must not be fooled by that."""
        case = random_case(rng)
        case.check()
        case.check()
        replace(case, x=replace(case.x, seed=case.x.seed + 1)).check()


class TestRepeatedCalls:
    """The memory of the call path is keyed by values, not by objects that may change or be reused."""

    def test_lists_that_change_between_calls(self):
        x, k = np.arange(60), np.arange(3)
        stride, axes, mode, rule = [1], [0], [(0, 0)], ["edge"]
        for s in (1, 2, 3):
            for lo in (0, 4):
                stride[0], mode[0] = s, (lo, lo)
                got = fastcorr.correlate(x, k, mode, stride=stride, axes=axes, boundary=rule)
                want = fastcorr.correlate(x, k, ((lo, lo),), stride=(s,), axes=(0,), boundary=("edge",))
                np.testing.assert_array_equal(got, want)

    def test_arrays_that_change_between_calls(self):
        x, k = np.arange(60), np.arange(3)
        stride, fill = np.array([1]), np.array(0)
        for value in (1, 2, 3):
            stride[0], fill[...] = value, value
            got = fastcorr.correlate(x, k, "full", stride=stride, fill=fill)
            np.testing.assert_array_equal(got, fastcorr.correlate(x, k, "full", stride=value, fill=value))

    def test_tuples_of_lists_that_change(self):
        x, k = np.arange(60), np.arange(3)
        mode = ([0, 0],)
        for lo in (0, 1, 5):
            mode[0][0] = lo
            assert len(fastcorr.correlate(x, k, mode)) == 58 + lo

    def test_short_lived_options(self):
        x, k = np.arange(2000), np.arange(3)
        for s in range(300, 500):  # fresh ints, tuples and floats, whose addresses are used again and again
            assert len(fastcorr.correlate(x, k, stride=int(str(s)))) == 1997 // s + 1
            assert fastcorr.correlate(x, k, [(s, 0)], fill=float(str(s)))[0] == 3 * s

    def test_many_problems(self):
        for n in range(3, 2500):
            assert fastcorr.correlate(np.ones(n), [1.0, 1.0]).shape == (n - 1,)
        assert fastcorr.correlate(np.ones(3), [1.0, 1.0]).tolist() == [2, 2]

    def test_equal_options_of_other_types(self):
        x, k = np.arange(9), np.arange(3)
        for stride in (2, np.int8(2), np.uint64(2), True + True, (2,), [2], np.array([2]), (np.int64(2),)):
            np.testing.assert_array_equal(fastcorr.correlate(x, k, stride=stride), fastcorr.correlate(x, k)[::2])

    def test_fills_that_are_equal_but_not_the_same(self):
        x, k = np.ones(3), np.ones(1)
        for fill in (0.0, -0.0, 0, False, 1, True, 1.0, np.float32(1), np.nan):
            got = fastcorr.correlate(x, k, [(1, 0)], fill=fill)
            np.testing.assert_array_equal(got, [fill, 1, 1, 1])

    def test_dtypes_that_are_equal(self):
        x = np.arange(9, dtype="int16")
        for dtype in ("int32", "i4", ">i4", np.int32, np.dtype("int32"), np.dtype(">i4")):
            got = fastcorr.correlate(x, x[:2], dtype=dtype)
            assert got.dtype == np.int32
            assert got.dtype.isnative


class TestIdentities:
    """Exact on integer-valued data, directly: convolution is correlation, linear in both arguments, with adjoints."""

    @pytest.mark.parametrize("dtype", ["int64", "uint8", "float32", "complex128"])
    @given(draws)
    @settings(max_examples=60)
    def test_convolve_is_correlate_with_the_kernel_turned_round(self, dtype, rng):
        case = random_case(rng, dtypes=(dtype,))
        x, k, options = case.data()
        options["method"] = "direct"
        acting = kernel_axes(planner.resolve("convolve", x, k, **options).problem)
        turned = np.flip(k, acting).conj()
        taps = [k.shape[axis] for axis in acting]
        anchor = options.pop("anchor", [(n - 1) // 2 for n in taps])
        turned_anchor = [n - 1 - a for n, a in zip(taps, anchor, strict=True)]
        np.testing.assert_array_equal(
            fastcorr.convolve(x, k, **options, anchor=anchor),
            fastcorr.correlate(x, turned, **options, anchor=turned_anchor),
            err_msg=repr(case),
        )

    @pytest.mark.parametrize("dtype", ["int32", "float64", "complex64"])
    @given(draws)
    @settings(max_examples=40)
    def test_linear_in_the_data(self, dtype, rng):
        case = random_case(rng, dtypes=(dtype,))
        x, k, options = case.data()
        options["method"] = "direct"
        f, options["fill"] = getattr(fastcorr, case.face), 0
        other = whole(np.random.default_rng(7), x.shape, dtype, case.x.values)
        want = f(x, k, **options) + 3 * f(other, k, **options)
        np.testing.assert_array_equal(f(x + 3 * other, k, **options), want, err_msg=repr(case))

    @pytest.mark.parametrize("dtype", ["int32", "float64", "complex64"])
    @given(draws)
    @settings(max_examples=40)
    def test_linear_in_the_kernel(self, dtype, rng):
        case = random_case(rng, dtypes=(dtype,))
        x, k, options = case.data()
        options["method"] = "direct"
        f = getattr(fastcorr, case.face)
        other = whole(np.random.default_rng(8), k.shape, dtype, case.k.values)
        want = f(x, k, **options) + 3 * f(x, other, **options)
        np.testing.assert_array_equal(f(x, k + 3 * other, **options), want, err_msg=repr(case))

    @pytest.mark.parametrize(("x_shape", "k_shape"), [((40,), (7,)), ((9, 20), (3, 4)), ((5, 6, 7), (2, 3, 4))])
    def test_adjoints(self, x_shape, k_shape):
        """<g, correlate(x, k)> = <convolve(g, k, "full"), x> = <correlate(x, g), k>."""
        rng = np.random.default_rng(9)
        x, k = whole(rng, x_shape, "int64", "small"), whole(rng, k_shape, "int64", "small")
        y = fastcorr.correlate(x, k)
        g = whole(rng, y.shape, "int64", "small")
        assert (g * y).sum() == (fastcorr.convolve(g, k, "full") * x).sum() == (fastcorr.correlate(x, g) * k).sum()

    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
    @given(draws)
    @settings(max_examples=60)
    def test_stride_keeps_every_sth_sample(self, dtype, rng):
        """To the last bit: a strided result is samples of the unstrided one."""
        case = random_case(rng, dtypes=(dtype,))
        x, k, options = case.data(wide)
        options["method"] = "direct"
        f = getattr(fastcorr, case.face)
        axes = planner.resolve(case.face, x, k, **options).problem.axes
        stride = options.pop("stride", (rng.randint(2, 5),) * len(axes))
        keep = [slice(None)] * x.ndim
        for axis, s in zip(axes, stride, strict=True):
            keep[axis] = slice(None, None, s)
        want = np.ascontiguousarray(f(x, k, **options)[tuple(keep)])
        assert same_bits(f(x, k, **options, stride=stride), want), repr(case)

    @pytest.mark.parametrize("dtype", ["int16", "float64"])
    @given(draws)
    @settings(max_examples=60)
    def test_dilation_spreads_the_taps(self, dtype, rng):
        case = random_case(rng, dtypes=(dtype,))
        x, k, options = case.data()
        options["method"] = "direct"
        problem = planner.resolve(case.face, x, k, **options).problem
        acting, shape = kernel_axes(problem), list(k.shape)
        for axis, span in zip(acting, problem.span, strict=True):
            shape[axis] = span
        steps = dict(zip(acting, problem.dilation, strict=True))
        spread = np.zeros(shape, k.dtype)
        spread[tuple(slice(None, None, steps.get(axis, 1)) for axis in range(k.ndim))] = k
        options = {**options, "mode": problem.padding}
        options.pop("anchor", None)
        options.pop("dilation")
        f = getattr(fastcorr, case.face)
        np.testing.assert_array_equal(
            f(x, k, **options, dilation=problem.dilation), f(x, spread, **options), err_msg=repr(case)
        )


def kernel_axes(problem):
    """Axes of k that act, in the order of per-axis options."""
    return problem.axes if problem.k_batched else tuple(range(problem.rank))


class TestTranslation:
    """Promise 1: an output depends, bit for bit, on the samples in its window and on nothing else."""

    @pytest.mark.parametrize("face", FACES)
    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "float16"])
    @given(draws)
    @settings(max_examples=60)
    def test_border_is_the_window_in_a_padded_array(self, dtype, face, rng):
        case = random_case(rng, dtypes=(dtype,) if dtype != "complex64" else ("complex64", "float32"))
        x, k, options = case.data(wide)
        options["fill"] = options.get("fill", 0) * 0.3
        if np.result_type(x, k).kind != "c":
            options["fill"] = options["fill"].real
        if x.size:
            self.check(face, x, k, options, case)

    @pytest.mark.parametrize("fill", [0, 1, 0.3, 1j, 2 - 0.1j])
    @pytest.mark.parametrize("kinds", ["cc", "cr", "rc"])
    @pytest.mark.parametrize("taps", [3, 17, 40])
    def test_whatever_the_fill(self, taps, kinds, fill):
        rng = np.random.default_rng(10)
        x = wide(rng, 300, "complex64" if kinds[0] == "c" else "float32")
        k = wide(rng, taps, "complex64" if kinds[1] == "c" else "float32")
        self.check("correlate", x, k, {"mode": "same", "fill": fill}, (taps, kinds, fill))

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize(("shape", "kernel"), [((700, 500), (5, 7)), ((200000,), (33,)), ((3, 2000), (3, 9))])
    def test_large_arrays(self, shape, kernel, rule):
        rng = np.random.default_rng(11)
        x, k = wide(rng, shape), wide(rng, kernel)
        self.check("correlate", x, k, {"mode": "full", "boundary": rule, "fill": 0.7}, rule)

    @staticmethod
    def check(face, x, k, options, label):
        options = {**options, "method": "direct"}  # the promise is its alone
        problem = planner.resolve(face, x, k, **options).problem
        padded = x.astype(problem.dtype) if problem.dtype.kind == "c" and problem.fill.imag else x
        for axis, (lo, hi), rule in zip(problem.axes, problem.padding, problem.boundary, strict=True):
            width = [(0, 0)] * x.ndim
            width[axis] = (max(lo, 0), max(hi, 0))
            fill = problem.fill if padded.dtype.kind == problem.dtype.kind else problem.fill.real
            padded = np.pad(padded, width, rule, **({"constant_values": fill} if rule == "constant" else {}))
            padded = np.take(padded, range(max(-lo, 0), padded.shape[axis] - max(-hi, 0)), axis)
        got = getattr(fastcorr, face)(x, k, **options)
        rest = {name: value for name, value in options.items() if name in ("axes", "stride", "dilation", "method")}
        want = getattr(fastcorr, face)(padded, k, **rest)
        assert same_bits(got, want), f"{np.sum(got != want)} of {got.size} samples differ: {label}"

    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "float16"])
    def test_a_part_of_the_data_gives_a_part_of_the_result(self, dtype):
        rng = np.random.default_rng(12)
        x, k = wide(rng, (40, 400), dtype, 3), wide(rng, (5, 9), dtype, 3)
        y = fastcorr.correlate(x, k, method="direct")
        for top, left, height, width in [
            (0, 0, 5, 9),
            (3, 1, 6, 10),
            (7, 17, 20, 33),
            (11, 250, 29, 150),
            (1, 399 - 90, 39, 91),
        ]:
            part = fastcorr.correlate(x[top : top + height, left : left + width], k, method="direct")
            want = y[top : top + height - 4, left : left + width - 8]
            assert same_bits(part, np.ascontiguousarray(want)), (top, left, height, width)


class TestOut:
    """`out=` may overlap any input in any way; the result is as if it did not."""

    @given(draws)
    @settings(max_examples=300)
    def test_overlap(self, rng):
        """x, k and out at random places, with random strides, of one small block of memory."""
        dtype = np.dtype(rng.choice(("int8", "uint16", "int32", "float32", "float64", "complex64")))
        rank = rng.randint(1, 2)
        x_shape = [rng.randint(1, 12) for _ in range(rank)]
        k_shape = [rng.randint(1, n) for n in x_shape]
        mode = rng.choice(("valid", "same", "full"))
        grow = {"valid": -1, "same": 0, "full": 1}[mode]
        y_shape = [n + grow * (m - 1) for n, m in zip(x_shape, k_shape, strict=True)]
        data = whole(np.random.default_rng(rng.randint(0, 999)), 2200, dtype)
        raw = np.empty(data.nbytes + 8, np.uint8)
        block = raw[: data.nbytes].view(dtype)
        block[...] = data
        x = _somewhere(rng, block, x_shape)
        k = _somewhere(rng, block, k_shape)
        y = _somewhere(rng, block, y_shape)
        face = rng.choice(FACES)
        want = getattr(fastcorr, face)(x.copy(), k.copy(), mode)
        got = getattr(fastcorr, face)(x, k, mode, out=y)
        assert got is y
        np.testing.assert_array_equal(y, want)

    @pytest.mark.parametrize("shape", [(100000,), (500, 400)])
    @pytest.mark.parametrize("shift", [-3, -1, 0, 1, 3])
    def test_a_large_array_onto_itself(self, shape, shift):
        n = int(np.prod(shape))
        block = whole(np.random.default_rng(13), n + 6, "float32")
        x, out = block[3 : 3 + n].reshape(shape), block[3 + shift : 3 + shift + n].reshape(shape)
        k = whole(np.random.default_rng(14), (3,) * len(shape), "float32")
        want = fastcorr.correlate(x.copy(), k, "same")
        assert fastcorr.correlate(x, k, "same", out=out) is out
        np.testing.assert_array_equal(out, want)

    @pytest.mark.parametrize("dtype", ["int32", "uint8"])
    def test_bytes_of_another_type(self, dtype):
        block = whole(np.random.default_rng(15), 4000, "uint8")
        x, out = block[100:900], block[:3200].view("int32")[:798]
        want = fastcorr.correlate(x.copy(), [1, 2, 3], dtype="int32")
        fastcorr.correlate(x, np.array([1, 2, 3], "int16"), dtype="int32", out=out)
        np.testing.assert_array_equal(out, want)

    @pytest.mark.parametrize("layout", LAYOUTS[:-2])
    @pytest.mark.parametrize("dtype", ["float32", "uint8", "complex128", "float16", "bool", "longdouble"])
    def test_any_layout(self, dtype, layout):
        if layout == "broadcast":
            pytest.skip("not an array one can write to")
        rng = np.random.default_rng(16)
        x, k = whole(rng, (20, 70), dtype), whole(rng, (3, 4), dtype)
        for options in ({}, {"stride": (1, 2), "boundary": "wrap"}, {"dilation": 2}):
            want = definition("correlate", x, k, mode="same", **options)
            out = laid_out(np.ones_like(want), layout)
            assert fastcorr.correlate(x, k, "same", out=out, **options) is out
            np.testing.assert_array_equal(out, want)

    def test_nothing_around_out_is_touched(self):
        rng = np.random.default_rng(17)
        for width in range(1, 80):
            x, k = whole(rng, (4, width), "float32"), whole(rng, (3, 3), "float32")
            block = np.full((6, width + 40), np.float32(77))
            fastcorr.correlate(x, k, "same", out=block[1:5, 20 : 20 + width])
            np.testing.assert_array_equal(block[1:5, 20 : 20 + width], definition("correlate", x, k, mode="same"))
            block[1:5, 20 : 20 + width] = 77
            assert (block == 77).all()

    def test_out_of_zero_dimensions(self):
        out = np.empty((), complex)
        assert fastcorr.correlate(2j, 3j, out=out) is out
        assert out == 6


def _somewhere(rng, block, shape):
    """A view of `shape` at a random place of `block`, with random strides of either sign."""
    strides, reach = [], 1
    for n in reversed(shape):
        step = reach * rng.choice((1, 1, 2))
        strides.insert(0, step)
        reach = step * n
    start = rng.randint(0, block.size - reach)  # an error where it does not fit: a view past the block would corrupt it
    view = np.lib.stride_tricks.as_strided(block[start:], shape, [s * block.itemsize for s in strides])
    return view[tuple(slice(None, None, rng.choice((1, 1, -1))) for _ in shape)]


class TestResult:
    """Results are new arrays that own nothing of the caller's."""

    @pytest.mark.parametrize("dtype", ["float32", *COMPLEX, "bool", "longdouble"])
    def test_is_fresh(self, dtype):
        x, k = whole(np.random.default_rng(18), (5, 6), dtype), np.ones((1, 1), dtype)
        y = fastcorr.correlate(x, k)
        assert not np.may_share_memory(x, y)
        assert y.flags.owndata
        assert y.flags.c_contiguous
        assert y.flags.writeable

    def test_inputs_are_left_alone(self):
        x, k = (
            whole(np.random.default_rng(19), (50, 60), "complex64"),
            whole(np.random.default_rng(20), (3, 3), "complex64"),
        )
        before = x.copy(), k.copy()
        for face in FACES:
            getattr(fastcorr, face)(x, k, "full", boundary="wrap", dilation=2)
        assert same_bits(x, before[0])
        assert same_bits(k, before[1])

    def test_zero_dimensional_results_are_arrays(self):
        for y in (fastcorr.correlate(3, 4), fastcorr.convolve(np.float32(3), np.float32(4))):
            assert isinstance(y, np.ndarray)
            assert y.shape == ()
            assert y == 12
