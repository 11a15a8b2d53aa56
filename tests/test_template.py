"""`match_template` is Pearson's coefficient of each window, whatever the data. Budget: 25 seconds."""

import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from common import LAYOUTS, LEVELS, RULES, laid_out, same_bits, succeeds
from hypothesis import given, settings
from hypothesis import strategies as st

import fastcorr
from fastcorr import kernels, match_template, planner, reference, template

TYPES = (
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
)


def wanted(x, t, mask=None, flat=0.0, **options):
    """The definition, in long double."""
    plan = template.prepare(x.shape, x.dtype, t, mask, flat=flat, **options)
    return reference.match_template(plan.problem, x, t, mask, flat)


def check(x, t, atol=None, **options):
    """A call is the definition, from -1 to 1, NaN where it is NaN; returns it."""
    got = match_template(x, t, **options)
    want = wanted(np.asarray(x), np.asarray(t), **options)
    assert got.shape == want.shape
    assert got.flags.c_contiguous
    inside = (np.abs(got) <= 1) | np.isnan(got) | (got == options.get("flat", 0))
    assert inside.all()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want, rtol=0, atol=atol or (2e-7 if got.dtype == np.float32 else 1e-9))
    return got


def samples(rng, shape, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    return rng.normal(3, 2, shape).astype(dtype)


def random_call(rng):
    """(x, t, options) of any rank, drawn from a `random.Random`."""
    rank = rng.choice((1, 1, 2, 2, 2, 3, 3, 4))
    longest = {1: 300, 2: 40, 3: 12, 4: 7}[rank]
    shape = [rng.randint(1, longest) for _ in range(rank)]
    acting = rng.choice((rank, rank, rng.randint(0, rank)))
    axes = rng.sample(range(rank), acting)
    options = {"axes": tuple(a - rank if rng.random() < 0.3 else a for a in axes)}
    style = rng.choice(("valid", "same", "full", "pairs"))
    kernel, pairs = [], []
    for axis in axes:
        n = shape[axis]
        k = rng.randint(1, min(n if style == "valid" else n + 2, {1: 80, 2: 12, 3: 6, 4: 4}[max(acting, 1)]))
        lo = rng.randint(-min(n // 2, 2), n + 3)
        kernel.append(k)
        pairs.append((lo, max(rng.randint(-min(n // 2, 2), n + 3), k - n - lo)))
    options["mode"] = tuple(pairs) if style == "pairs" else style
    t_shape = kernel
    if acting < rank and rng.random() < 0.4:  # a template for each batch entry
        t_shape = [rng.choice((n, n, 1)) for n in shape]
        for axis, k in zip(axes, kernel, strict=True):
            t_shape[axis] = k
    elif axes == sorted(axes) and axes == list(range(rank - acting, rank)) and rng.random() < 0.5:
        del options["axes"]
    options["boundary"] = rng.choice((rng.choice(RULES), tuple(rng.choice(RULES) for _ in axes)))
    options["fill"] = rng.choice((0, 2, 3))
    options["flat"] = rng.choice((0.0, 0.5, -1.0))
    data = np.random.default_rng(rng.getrandbits(32))
    x, t = (samples(data, s, rng.choice(TYPES)) for s in (shape, t_shape))
    if rng.random() < 0.4:
        mask = np.less(data.random(t_shape), 0.6) * data.choice([1.0, 0.5, 2], t_shape)
        taps = tuple(axes) if t_shape is not kernel else None
        mask = np.where(mask.any(taps, keepdims=True), mask, 1)
        options["mask"] = mask
    return x, t, options


class TestDefinition:
    @settings(max_examples=200, deadline=None)
    @given(st.randoms(use_true_random=False))
    def test_any_call(self, rng):
        x, t, options = random_call(rng)
        check(x, t, **options)

    @pytest.mark.parametrize(
        ("shape", "window"),
        [
            ((1500,), (70,)),
            ((800,), (700,)),
            ((90, 80), (64, 63)),
            ((90, 30), (9, 3)),
            ((12, 600), (9, 513)),
            ((400, 9), (300, 3)),
            ((2, 30, 45), (20, 30)),
            ((18, 15, 16), (11, 12, 9)),
            ((6, 6, 6, 6), (4, 3, 2, 4)),
            ((9, 10), ()),
        ],
    )
    def test_more_than_one_block(self, shape, window):
        rng = np.random.default_rng(0)
        x, t = rng.random(shape), rng.random(window)
        check(x, t)
        check(x.astype(np.float32), t.astype(np.float32))

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("k", range(1, 40))
    def test_every_length_of_a_window(self, k, level):
        x = np.random.default_rng(k).random((50, 61))
        for shape in ((k, 3), (3, k)):
            t = x[: shape[0], : shape[1]]
            for data in (x, (255 * x).astype(np.uint8)):  # in float64, in int32
                plan = template.prepare(data.shape, data.dtype, t, level=level)
                np.testing.assert_allclose(plan(data), wanted(data, plan.t), rtol=0, atol=1e-10)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_any_layout(self, layout):
        rng = np.random.default_rng(3)
        x, t = rng.random((40, 50)), rng.random((7, 6))
        if layout == "broadcast":
            x[...] = x[:1]
        want = match_template(x, t, mode="same")
        assert same_bits(
            match_template(laid_out(x, layout), laid_out(t, layout if layout != "broadcast" else "C"), mode="same"),
            want,
        )

    @pytest.mark.parametrize("x", TYPES)
    @pytest.mark.parametrize("t", ["uint8", "float32", "int32"])
    def test_result_is_float32_if_that_holds_the_samples(self, x, t):
        small = np.result_type(x, t, np.float32) == np.float32
        assert match_template(np.ones(9, x), np.ones(3, t)).dtype == (np.float32 if small else np.float64)

    def test_longdouble_is_computed_in_float64(self):
        x = np.random.default_rng(0).random(50)
        got = match_template(x.astype(np.longdouble), x[:9])
        assert same_bits(got, match_template(x, x[:9]))


class TestAccuracy:
    """No data make digits vanish that the window itself has."""

    @pytest.mark.parametrize("shape", [(5, 5), (40, 30)])
    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("dtype", ["float64", "float32", "int32"])
    def test_offset(self, dtype, masked, shape):
        rng = np.random.default_rng(1)
        x = rng.integers(0, 256, (150, 160)).astype(dtype)
        t = x[20 : 20 + shape[0], 30 : 30 + shape[1]]
        mask = rng.random(shape) if masked else None
        want = match_template(x, t, mask=mask)
        far = np.asarray(1e6, dtype)
        for got in (match_template(x + far, t, mask=mask), match_template(x + far, t + far, mask=mask)):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("masked", [False, True])
    def test_fractions_on_an_offset(self, masked):
        rng = np.random.default_rng(1)
        x = rng.random((50, 60)) + 1e6
        check(x, x[9:40, 9:40], atol=1e-8, mask=rng.random((31, 31)) if masked else None)

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("shape", [(5, 4), (33, 30)])
    @pytest.mark.parametrize("huge", [1e12, 1e25])
    def test_one_huge_sample_stays_in_its_windows(self, shape, masked, huge):
        rng = np.random.default_rng(2)
        x, t = rng.random((140, 150), dtype=np.float32), rng.random(shape)
        mask = rng.random(shape) if masked else None
        want = match_template(x, t, mask=mask)
        x[70, 71] = huge
        got = match_template(x, t, mask=mask)
        apart = np.ones(got.shape, bool)
        apart[71 - shape[0] : 71, 72 - shape[1] : 72] = False
        np.testing.assert_allclose(got[apart], want[apart], rtol=0, atol=1e-6)
        assert not np.isnan(got).any()

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("shape", [(5, 4), (33, 30)])
    def test_wide_range(self, shape, masked):
        """Neighbouring patches of very different contrast, on offsets of their own."""
        rng = np.random.default_rng(3)
        scale = 10.0 ** np.repeat(np.arange(-4, 4), 20)
        x = scale * (50 + rng.random((45, 160)))
        check(x, rng.random(shape), atol=1e-6, mask=rng.random(shape) if masked else None)

    @pytest.mark.parametrize("dtype", ["int64", "uint64"])
    def test_integers_beyond_float64(self, dtype):
        far = np.array(2**62, dtype)
        rng = np.random.default_rng(4)
        x = rng.integers(0, 100, (60, 70)).astype(dtype)
        t = x[10:20, 10:22]
        want = match_template(x, t, mode="same", fill=3)
        got = match_template(x + far, t + far, mode="same", fill=2**62 + 3)
        np.testing.assert_allclose(got[10:-10, 10:-10], want[10:-10, 10:-10], rtol=0, atol=1e-12)
        assert got[15, 16] == pytest.approx(1, abs=1e-12)

    @pytest.mark.parametrize("size", [1e-30, 1e30])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_scale(self, size, dtype):
        rng = np.random.default_rng(5)
        x, t = rng.random((80, 90)).astype(dtype), rng.random((12, 13)).astype(dtype)
        want = match_template(x, t)
        np.testing.assert_allclose(
            match_template(x * dtype_of(size, dtype), t * dtype_of(size, dtype)), want, atol=1e-6
        )

    def test_planted(self):
        rng = np.random.default_rng(6)
        for dtype in ("uint8", "float32", "float64"):
            x = rng.integers(0, 100, (200, 210)).astype(dtype)
            for m in (3, 8, 40):
                got = match_template(x, 2 * x[50 : 50 + m, 60 : 60 + m] + np.asarray(7, dtype))
                assert np.unravel_index(got.argmax(), got.shape) == (50, 60)
                assert got[50, 60] == pytest.approx(1, abs=1e-6)
                assert match_template(x, 120 - x[50 : 50 + m, 60 : 60 + m])[50, 60] == pytest.approx(-1, abs=1e-6)


def dtype_of(value, dtype):
    return np.dtype(dtype).type(value)


class TestEightBits:
    """Sums in int32, which are exact; in float64 where they would not fit."""

    @pytest.mark.parametrize("side", [181, 182])
    @pytest.mark.parametrize(("dtype", "least", "most"), [("uint8", 0, 255), ("int8", -128, 127), ("bool", 0, 1)])
    def test_largest_sums(self, dtype, least, most, side):
        assert (255**2 * side**2 < 2**31) == (side == 181)
        rng = np.random.default_rng(7)
        x = np.full((184, 184), most if abs(most) > abs(least) else least, dtype)
        x[0, 0] = x[183, 183] = least if x[1, 0] == most else most
        t = rng.random((side, side))
        got = match_template(x, t, flat=0.25)
        np.testing.assert_allclose(got, match_template(x.astype(float), t, flat=0.25), rtol=0, atol=1e-9)
        assert (got == 0.25).any()  # windows that hold neither
        assert (got != 0.25).any()

    @pytest.mark.parametrize("fill", [0, 255, -300, 0.5, 1e6, np.nan])
    @pytest.mark.parametrize("shape", [(3, 4), (35, 30)])
    def test_fill(self, shape, fill):
        rng = np.random.default_rng(8)
        x, t = rng.integers(0, 256, (70, 60), np.uint8), rng.integers(0, 256, shape, np.uint8)
        got = match_template(x, t, mode="same", fill=fill)
        want = match_template(x.astype(np.float32), t, mode="same", fill=fill)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("t", ["uint8", "float64"])
    @pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed", "swapped", "misaligned"])
    def test_out(self, layout, t):
        rng = np.random.default_rng(9)
        x = rng.integers(0, 256, (3, 30, 40), np.uint8)
        want = match_template(x, x[0, :4, :5].astype(t))
        out = laid_out(np.zeros_like(want), layout)
        assert match_template(x, x[0, :4, :5].astype(t), out=out) is out
        np.testing.assert_array_equal(out, want)


class TestFlat:
    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("value", [0, 7, 0.1, 1e6 + 0.1, -1e-3])
    @pytest.mark.parametrize("shape", [(3, 3), (20, 23)])
    def test_flat_windows(self, value, shape, masked):
        rng = np.random.default_rng(0)
        x = rng.normal(value, 1, (100, 110))
        x[30:80, 40:95] = value
        t = rng.random(shape)
        got = check(x, t, atol=1e-7, flat=0.25, mask=(rng.random(shape) < 0.8) * 1.0 if masked else None)
        assert (got[30 : 81 - shape[0], 40 : 96 - shape[1]] == 0.25).all()

    def test_flat_may_be_any_number(self):
        assert np.isnan(match_template(np.ones(5), [1.0, 2], flat=np.nan)).all()
        assert (match_template(np.ones(5), [1.0, 2], flat=-7) == -7).all()

    def test_a_flat_template_is_like_nothing(self):
        x = np.random.default_rng(0).random((3, 30))
        x[1, 9] = np.nan
        got = match_template(x, np.full(4, 0.1), flat=0.5)
        want = np.full((3, 27), 0.5)
        want[1, 6:10] = np.nan
        np.testing.assert_array_equal(got, want)
        each = match_template(x, np.array([[1, 2.0], [3, 3], [1, 0]]), axes=1, flat=0.5)
        assert (each[1, :8] == 0.5).all()
        assert (each[0] != 0.5).all()

    def test_one_sample(self):
        assert (match_template(np.arange(5.0), [3.0], flat=0.5) == 0.5).all()
        assert match_template(np.arange(5.0), 3.0, flat=0.5).tolist() == [0.5] * 5


class TestLocal:
    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("shape", [(4, 5), (30, 40)])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_nan(self, shape, bad, dtype, masked):
        rng = np.random.default_rng(0)
        x, t = rng.random((150, 160)).astype(dtype), rng.random(shape).astype(dtype)
        mask = rng.random(shape) + 0.1 if masked else None
        want = match_template(x, t, mask=mask)
        x[70, 80] = bad
        got = match_template(x, t, mask=mask)
        covered = np.zeros(got.shape, bool)
        covered[71 - shape[0] : 71, 81 - shape[1] : 81] = True
        np.testing.assert_array_equal(np.isnan(got), covered)
        np.testing.assert_allclose(got[~covered], want[~covered], rtol=0, atol=1e-6)

    def test_nan_in_a_template(self):
        x = np.random.default_rng(0).random((2, 50))
        t = np.array([[1, np.nan, 2], [1, 5, 2]])
        got = match_template(x, t, axes=1)
        assert np.isnan(got[0]).all()
        np.testing.assert_array_equal(got[1], match_template(x[1], t[1]))


class TestBits:
    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("window", [(5, 5), (31, 40)])
    def test_threads_batch_and_layout(self, window, masked):
        rng = np.random.default_rng(0)
        x, t = rng.random((3, 300, 310)), rng.random(window)
        plan = template.prepare(x.shape, x.dtype, t, rng.random(window) if masked else None)
        want = plan.run(x, threads=1)
        for threads in (2, 3):
            assert same_bits(plan.run(x, threads=threads), want)
        assert same_bits(plan(np.asfortranarray(x)), want)
        for one, many in zip(x, want, strict=True):
            alone = match_template(one, t, mask=plan.weights)
            assert same_bits(alone, many)


class TestOut:
    def test_out_is_written(self):
        x = np.random.default_rng(0).random((30, 40))
        want = match_template(x, x[:4, :5])
        for layout in ("C", "F", "strided", "reversed", "swapped", "misaligned"):
            out = laid_out(np.zeros_like(want), layout)
            assert match_template(x, x[:4, :5], out=out) is out
            np.testing.assert_array_equal(out, want)

    def test_out_may_overlap(self):
        x = np.random.default_rng(0).random((30, 40))
        want = match_template(x, x[:4, :5], mode="same")
        assert match_template(x, x[:4, :5], mode="same", out=x) is x
        np.testing.assert_array_equal(x, want)

    def test_empty(self):
        assert match_template(np.ones((0, 9)), np.ones(3)).shape == (0, 7)
        assert match_template(np.ones((2, 0)), np.ones(1)).shape == (2, 0)


class TestPlan:
    @settings(max_examples=60, deadline=None)
    @given(st.randoms(use_true_random=False))
    def test_is_the_call(self, rng):
        x, t, options = random_call(rng)
        want = match_template(x, t, **options)
        plan = fastcorr.plan(match_template, x, t, **options)
        assert same_bits(plan(x), want)
        assert same_bits(pickle.loads(pickle.dumps(plan))(x), want)
        assert plan.method in str(plan)

    def test_arguments_are_copied_and_frozen(self):
        x, t = np.random.default_rng(0).random(50), np.random.default_rng(1).random(5)
        mask = np.ones(5)
        plan = fastcorr.plan(match_template, x, t=t, mask=mask)
        want = plan(x)
        t[...], mask[...] = 0, 0
        assert same_bits(plan(x), want)
        with pytest.raises(AttributeError):
            plan.flat = 1
        with pytest.raises(ValueError, match="read-only"):
            plan.t[0] = 1
        with pytest.raises(ValueError, match="shape"):
            plan(x[1:])
        with pytest.raises(TypeError, match="float32"):
            plan(x.astype(np.float32))
        with pytest.raises(TypeError, match="no out"):
            fastcorr.plan(match_template, x, mask, out=x)

    def test_shared_between_threads(self):
        x = np.random.default_rng(0).random((200, 200))
        plan = fastcorr.plan(match_template, x, x[:40, :40])
        want, wrong = plan(x), []

        def work():
            for _ in range(5):
                if not same_bits(plan(x), want):
                    wrong.append(1)

        team = [threading.Thread(target=work) for _ in range(4)]
        for one in team:
            one.start()
        for one in team:
            one.join()
        assert not wrong


class TestErrors:
    @pytest.mark.parametrize(
        ("args", "options", "error", "words"),
        [
            ((np.ones((5, 5)), np.ones((2, 9))), {}, ValueError, r"longer than x along axis 1: 9 > 5; use mode='same'"),
            ((np.ones(5), np.ones((2, 2))), {}, ValueError, "t has more axes than x: 2 > 1"),
            ((np.ones(5), np.ones(0)), {}, ValueError, "t has no elements"),
            ((np.ones(5), np.ones(2)), {"mask": np.ones(3)}, ValueError, r"mask has shape \(3,\), t has \(2,\)"),
            ((np.ones(5), np.ones(2)), {"mask": [1, -1]}, ValueError, "negative"),
            ((np.ones(5), np.ones(2)), {"mask": [1, np.nan]}, ValueError, "not finite"),
            ((np.ones(5), np.ones(2)), {"mask": [0, 0]}, ValueError, "zero everywhere"),
            ((np.ones(5), np.ones(2)), {"mask": [1j, 0]}, TypeError, "complex128"),
            ((np.ones(5, complex), np.ones(2)), {}, TypeError, "x has dtype complex128"),
            ((np.ones(5), np.ones(2, complex)), {}, TypeError, "t has dtype complex128"),
            ((np.array(["a"] * 5), np.ones(2)), {}, TypeError, "x has dtype"),
            ((np.ones(5), np.array([None, 1])), {}, TypeError, "t has dtype object"),
            ((np.ones(5), np.ones(2)), {"flat": "no"}, TypeError, "flat"),
            ((np.ones(5), np.ones(2)), {"flat": 1j}, TypeError, "flat"),
            ((np.ones(5), np.ones(2)), {"boundary": "sideways"}, ValueError, "sideways"),
            ((np.ones(5), np.ones(2)), {"mode": "some"}, ValueError, "mode"),
            ((np.ones(5), np.ones(2)), {"out": np.ones(3)}, ValueError, r"out has shape \(3,\)"),
            ((np.ones(5), np.ones(2)), {"out": np.ones(4, np.float32)}, TypeError, "out has dtype float32"),
        ],
    )
    def test_says_what_is_wrong(self, args, options, error, words):
        with pytest.raises(error, match=words):
            match_template(*args, **options)


class TestPeers:
    """Second opinions."""

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_opencv(self, dtype, masked):
        cv2 = pytest.importorskip("cv2")
        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (120, 130)).astype(dtype)
        t = rng.integers(0, 256, (21, 17)).astype(dtype)
        mask = rng.random(t.shape).astype(np.float32) if masked else None
        if masked:
            x, t = x.astype(np.float32), t.astype(np.float32)
        want = cv2.matchTemplate(x, t, cv2.TM_CCOEFF_NORMED, mask=mask)
        np.testing.assert_allclose(match_template(x, t, mask=mask), want, rtol=0, atol=2e-5)

    @pytest.mark.parametrize(("shape", "window"), [((90, 100), (11, 14)), ((30, 25, 28), (5, 6, 7))])
    def test_skimage(self, shape, window):
        feature = pytest.importorskip("skimage.feature")
        rng = np.random.default_rng(0)
        x, t = rng.random(shape), rng.random(window)
        np.testing.assert_allclose(match_template(x, t), feature.match_template(x, t), rtol=0, atol=1e-9)


class TestScratch:
    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read in /proc")
    def test_does_not_grow_with_the_data(self):
        """Beside the result a search holds what tiles and windows take, whatever the picture."""
        out = succeeds(
            """
import numpy as np, fastcorr
from pathlib import Path
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) << 10
fastcorr.set_num_threads(1)
x = np.random.default_rng(0).integers(0, 256, (3000, 3000), np.uint8)
fastcorr.match_template(x[:400, :400], x[:31, :31])
out = np.ones((2970, 2970), np.float32)
before = peak()
fastcorr.match_template(x, x[:31, :31], out=out)
print(peak() - before)
"""
        )
        assert int(out) < 8 << 20


def test_a_kernel_for_every_level():
    for dtype in (np.float64, np.int32):
        row = kernels.find("windows", np.dtype(dtype))
        assert all(kernels.load(row, level).Windows for level in LEVELS)
    assert planner.plan(match_template, np.ones(5), np.ones(2)).method == "direct"


def test_masks_and_templates_of_a_batch_whose_axes_come_last():
    x, t = np.array([[0, 1, 1, 1], [0, 0, 0, 0]]), np.array([[0, 0, 0, 1], [0, 1, 0, 1]])
    mask = np.array([[0, 0.5, 2, 0.5], [0.5, 2, 0, 0]])
    np.testing.assert_allclose(match_template(x, t, axes=0, mask=mask), [[0, -1, 0, 0]], atol=1e-9)
