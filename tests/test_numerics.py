"""How exact results are: the error bound, float16, integers modulo 2**bits, bool, subnormals.

Errors of the direct method are counted in eps sum |x||k|, for 2-D kernels up to 15x15. On data of eight decades under a
kernel of one scale they stay below 3 (2.8 is the worst of a million outputs); where the kernel spans
eight decades too, or both are sorted so that small values come last, below 4. The exact sums are the definition in
longdouble. Budget: 15 seconds.
"""

from functools import cache

import numpy as np
import pytest
from common import FACES, INTEGERS, LEVELS, definition, run, same_bits, whole, wide

import fastcorr

BOUND = 3.0
HARD_BOUND = 4.0
SIZES = [(m, n) for m in range(1, 16) for n in range(1, 16)]


def _positive(rng, shape):
    return 10 ** rng.uniform(-4, 4, shape)


def _ascending(rng, shape):
    """Large values first along every row and column of a window, the small ones lost if summed one after the other."""
    return np.sort(np.sort(wide(rng, shape, "float64"), -1), -2)


def _rough_constant(rng, shape):
    """All samples nearly alike: rounding errors have one sign and add up."""
    return np.full(shape, 0.7) + rng.random(shape) * 1e-3


def _checkered(rng, shape):
    """Huge values that cancel, between small ones."""
    data = wide(rng, shape, "float64", 1)
    data[..., ::3] *= 1e8
    return data


DATA = {
    "wide": lambda rng, shape: wide(rng, shape, "float64"),
    "positive": _positive,
    "ascending": _ascending,
    "rough-constant": _rough_constant,
    "checkered": _checkered,
}


@cache
def exact(kind, size, dtype, rough_kernel):
    """(x, k, result in longdouble, sum |x||k|) of a 2-D problem."""
    rng = np.random.default_rng(size)
    make = DATA[kind]
    x, k = make(rng, (30, 50)), (make if rough_kernel else np.random.Generator.standard_normal)(rng, size)
    if np.dtype(dtype).kind == "c":
        x, k = x + 1j * make(rng, x.shape), k - 1j * k[::-1, ::-1]
    x, k = x.astype(dtype), k.astype(dtype)
    longest = np.clongdouble if np.dtype(dtype).kind == "c" else np.longdouble
    return x, k, definition("correlate", x, k, longest), definition("correlate", abs(x), abs(k), np.longdouble)


def error(y, want, scale):
    return float(np.max(abs(y - want) / (np.finfo(y.dtype).eps * scale)))


@pytest.mark.parametrize("level", LEVELS)
class TestBound:
    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
    @pytest.mark.parametrize(("rough_kernel", "bound"), [(False, BOUND), (True, HARD_BOUND)], ids=["even", "rough"])
    @pytest.mark.parametrize("kind", DATA)
    def test_2d_kernels_to_15x15(self, kind, rough_kernel, bound, dtype, level):
        sizes = SIZES if kind == "wide" else [*SIZES[::7], (15, 15), (1, 15), (15, 1), (14, 15), (15, 14)]
        worst = {}
        for size in sizes:
            x, k, want, scale = exact(kind, size, dtype, rough_kernel)
            worst[size] = error(run("correlate", x, k, level, method="direct"), want, scale)
        size = max(worst, key=worst.get)
        assert worst[size] <= bound, f"{worst[size]:.2f} eps sum|x||k| for {size}"

    @pytest.mark.parametrize("taps", [100, 1000, 10000])
    def test_long_1d_kernels_grow_slowly(self, taps, level):
        """No bound is promised here; a plain sum would be far beyond this one."""
        rng = np.random.default_rng(taps)
        x, k = rng.random(taps + 300, np.float32) + 1, rng.random(taps, np.float32) + 1
        want = np.convolve(x.astype(float), k.astype(float)[::-1], "valid")
        y = run("correlate", x, k, level)
        assert error(y, want, want) <= BOUND * max(1, np.log2(taps) / 5)


class TestHalf:
    """float16 is summed in float32 and rounded once."""

    @pytest.mark.parametrize("level", LEVELS)
    def test_is_float32_rounded_once(self, level):
        rng = np.random.default_rng(1)
        for shape, kernel, options in [
            ((40, 300), (5, 7), {}),
            ((2000,), (50,), {"mode": "same", "boundary": "edge"}),
            ((40, 30), (3, 3), {"stride": 2}),
        ]:
            x, k = wide(rng, shape, "float16"), wide(rng, kernel, "float16")
            with np.errstate(over="ignore"):
                want = run("correlate", x.astype("float32"), k.astype("float32"), level, **options).astype("float16")
            assert same_bits(run("correlate", x, k, level, **options), want)

    @pytest.mark.parametrize("level", LEVELS)
    def test_every_value_survives(self, level):
        x = np.arange(2**16, dtype="uint16").view("float16")
        y = run("correlate", x, np.ones(1, "float16"), level)
        np.testing.assert_array_equal(y, x)
        nan = np.isnan(x)
        assert np.isnan(y[nan]).all()
        assert same_bits(y[~nan & (x != 0)], x[~nan & (x != 0)])

    @pytest.mark.parametrize("level", LEVELS)
    def test_rounds_to_nearest_even(self, level):
        """Sums of two halves: halfway cases, overflow to inf, subnormal results."""
        rng = np.random.default_rng(2)
        big = rng.integers(0, 2**16, 200000, "uint16").view("float16")
        x = big[np.isfinite(big)][:100000].reshape(-1, 2)
        y = run("correlate", x, np.ones(2, "float16"), level)[:, 0]
        with np.errstate(over="ignore"):
            want = (x[:, 0].astype("float32") + x[:, 1]).astype("float16")
            np.testing.assert_array_equal(y, want)
            ulp = np.spacing(np.float16(1))
            for tail in (0.5, 0.5 + 2**-10, 0.5 - 2**-10, 1.5, 0.25):  # of an ulp, around 1
                got = run("correlate", np.array([1, ulp], "float16"), np.array([1, tail], "float16"), level)
                assert got[0] == np.float16(np.float32(1) + np.float32(ulp) * np.float32(tail))
            products = np.array([6e-8, 1e-7, 3e-6, 5.9e-5], "float16")
            got = run("correlate", products, np.array([0.3], "float16"), level)
            np.testing.assert_array_equal(
                got, (products.astype("float32") * np.float32(np.float16(0.3))).astype("float16")
            )
            assert run("correlate", np.array([65504, 16], "float16"), np.ones(2, "float16"), level)[0] == np.inf


@pytest.mark.parametrize("level", LEVELS)
class TestIntegers:
    @pytest.mark.parametrize("dtype", INTEGERS)
    @pytest.mark.parametrize("face", FACES)
    def test_wrap_modulo_2_to_the_bits(self, face, dtype, level):
        """Against Python's integers, which do not wrap."""
        rng = np.random.default_rng(3)
        x, k = whole(rng, (7, 90), dtype), whole(rng, (3, 5), dtype)
        got = run(face, x, k, level)
        kernel = k if face == "correlate" else np.flip(k)
        exact = sum(int(kernel[a, b]) * x[a : a + 5, b : b + 86].astype(object) for a in range(3) for b in range(5))
        bits = 8 * np.dtype(dtype).itemsize
        np.testing.assert_array_equal(got.astype(object) % 2**bits, exact % 2**bits)
        assert got.dtype == dtype

    @pytest.mark.parametrize("dtype", INTEGERS)
    def test_extremes(self, dtype, level):
        limits = np.iinfo(dtype)
        x = np.array([limits.min, limits.max] * 40, dtype)
        for k in ([limits.min, limits.max], [limits.max] * 3, [limits.min] * 2):
            k = np.array(k, dtype)
            np.testing.assert_array_equal(run("correlate", x, k, level), np.correlate(x, k))

    def test_bytes_in_int32_are_exact(self, level):
        rng = np.random.default_rng(4)
        x, k = whole(rng, (60, 200), "uint8"), whole(rng, (15, 15), "uint8")
        for kernel, dtype in ((k, "int32"), (k.astype("int8"), "int32"), (k, "uint32"), (k, "int64")):
            got = run("correlate", x, kernel, level, dtype=dtype)
            want = definition("correlate", x.astype("int64"), kernel.astype("int64"))
            assert got.dtype == dtype
            np.testing.assert_array_equal(got, want)

    def test_bool_is_or_of_ands(self, level):
        rng = np.random.default_rng(5)
        for taps in (3, 300, 70000):
            x, k = rng.random(taps + 200) < 1 / taps, rng.random(taps) < 0.5
            got = run("correlate", x, k, level)
            counts = np.correlate(x.astype(float), k.astype(float))
            assert got.dtype == bool
            np.testing.assert_array_equal(got, counts > 0)

    def test_a_bool_sum_of_256_is_true(self, level):
        for n in (255, 256, 257, 512, 65536):
            assert run("correlate", np.ones(n + 3, bool), np.ones(n, bool), level).tolist() == [True] * 4

    def test_bool_bytes_that_are_not_one(self, level):
        """Memory that NumPy calls bool may hold any byte; NumPy reads "not zero"."""
        x = np.array([0, 1, 2, 128, 255, 0, 0, 0], "uint8").view(bool)
        for options in ({}, {"dtype": "int32"}, {"dtype": "float32"}, {"dtype": "int64"}):
            got = run("correlate", x, np.ones(2, bool), level, **options)
            np.testing.assert_array_equal(
                got, run("correlate", x.view("uint8") != 0, np.ones(2, bool), level, **options)
            )


@pytest.mark.parametrize("level", LEVELS)
class TestFloats:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_subnormals_are_kept(self, dtype, level):
        tiny = np.finfo(dtype).smallest_subnormal
        x = (tiny * np.arange(1, 101, dtype=dtype)).astype(dtype)
        np.testing.assert_array_equal(run("correlate", x, np.ones(1, dtype), level), x)
        np.testing.assert_array_equal(run("correlate", x, np.ones(2, dtype), level), x[1:] + x[:-1])

    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
    def test_the_type_is_computed_in_its_own_precision(self, dtype, level):
        """Not in a wider one: 1 + eps/4 summed 4 times stays 1 in float32 as in float64."""
        eps = np.finfo(dtype).eps
        y = run("correlate", np.ones(20, dtype), np.array([1, eps / 4], dtype), level)
        assert (y == 1).all()
        assert y.dtype == dtype

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_overflow_is_inf(self, dtype, level):
        big = np.finfo(dtype).max
        assert run("correlate", np.array([big, big], dtype), np.ones(2, dtype), level).tolist() == [np.inf]

    def test_no_floating_point_warning(self, level):
        x = np.array([np.inf, -np.inf, np.nan, 1e38, 1e38], "float32")
        with np.errstate(all="raise"):
            run("correlate", x, np.ones(2, "float32"), level)


class TestReference:
    def test_longdouble_is_summed_in_longdouble(self):
        x = np.array([1, 2], np.longdouble) / 3
        assert fastcorr.correlate(x, np.ones(2, np.longdouble))[0] == x[0] + x[1]
