"""fastcorr.compat against the libraries it stands in for: drawn calls, both sides, equal to the last bit where data are
whole numbers; errors of the same type. Differences that are meant have a test of their own. Budget: 20 seconds.
"""

import importlib
import warnings

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from common import laid_out, same_bits, succeeds, whole, wide
from hypothesis import given, settings
from hypothesis import strategies as st
from peer_plugin import PEERS

import fastcorr
from fastcorr.compat import ndimage, numpy, signal

draws = st.randoms(use_true_random=False)
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
SCIPY = (*INTEGERS, "float32", "float64", "complex64", "complex128")
FLAT = ("bool", "float16", "longdouble", *SCIPY)
LAYOUTS = ("C", "F", "reversed", "strided", "broadcast", "misaligned", "swapped", "readonly", "C", "C")
MODES = ("valid", "same", "full")


def drawn(rng, shape, dtype, values="small"):
    data = whole(np.random.default_rng(rng.randint(0, 999)), shape, dtype, values)
    return np.asarray(laid_out(np.asarray(data), rng.choice(LAYOUTS)))


def pair(rng, n, m, dtypes):
    """Two arrays of these shapes whose products and sums are exact in their common type."""
    first = rng.choice(dtypes)
    second = first if rng.random() < 0.5 else rng.choice(dtypes)
    values = "natural" if np.result_type(first, second).kind == "u" else "small"
    return drawn(rng, n, first, values), drawn(rng, m, second, values)


def plain(a):
    """`a` for the peer: SciPy misreads strides of 0, and its transforms refuse other byte orders."""
    return np.array(a, a.dtype.newbyteorder("="), order="C")


def equal(got, want, call):
    assert type(got) is np.ndarray or np.ndim(want) == 0, call
    assert (got.dtype, got.shape) == (want.dtype, want.shape), call
    np.testing.assert_array_equal(got, want, str(call))


def close(got, want, call, eps=64):
    assert (got.dtype, got.shape) == (want.dtype, want.shape), call
    atol = eps * np.finfo(want.dtype).eps * (np.abs(want).max(initial=0) + 1)
    np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=str(call))


class TestSurface:
    @pytest.mark.parametrize("name", PEERS)
    def test_signatures_are_the_peers(self, name):
        import inspect

        theirs = importlib.import_module(PEERS[name].module)
        for function in PEERS[name].ours.__all__:
            ours = inspect.signature(getattr(PEERS[name].ours, function)).parameters
            want = inspect.signature(getattr(theirs, function)).parameters
            assert [(p.name, p.kind, p.default) for p in ours.values()] == [
                (p.name, p.kind, p.default) for p in want.values()
            ], function

    def test_docstring_examples_and_no_scipy(self):
        code = """
import doctest, sys
from fastcorr.compat import ndimage, numpy, signal
results = [doctest.testmod(m) for m in (ndimage, numpy, signal)]
assert sum(r.attempted for r in results) > 30
assert "scipy" not in sys.modules
sys.exit(sum(r.failed for r in results))
"""
        succeeds(code)


class TestNumpy:
    @given(draws)
    def test_any_call(self, rng):
        a, v = pair(rng, rng.randint(1, 30), rng.randint(1, 30), FLAT)
        mode = rng.choice((*MODES, 0, 1, 2))
        for ours, theirs in ((numpy.correlate, np.correlate), (numpy.convolve, np.convolve)):
            equal(ours(a, v, mode), theirs(a, v, mode), (ours.__name__, a, v, mode))
            equal(ours(a.tolist(), v), theirs(a.tolist(), v), (ours.__name__, a, v))

    def test_full_range_integers_wrap(self):
        rng = np.random.default_rng(0)
        for dtype in INTEGERS:
            a, v = whole(rng, 50, dtype), whole(rng, 20, dtype)
            equal(numpy.correlate(v, a, "full"), np.correlate(v, a, "full"), dtype)

    def test_scalars(self):
        equal(numpy.convolve(3, [1, 2]), np.convolve(3, [1, 2]), "scalar")


class TestSignal:
    @given(draws)
    def test_correlate_and_convolve(self, rng):
        rank = rng.choice((1, 2, 2, 3))
        longest = {1: 40, 2: 9, 3: 5}[rank]
        n, m = ([rng.randint(1, longest) for _ in range(rank)] for _ in range(2))
        mode = rng.choice(MODES)
        if mode == "valid":  # one inside the other
            n, m = rng.choice(((np.maximum(n, m), np.minimum(n, m)), (np.minimum(n, m), np.maximum(n, m))))
        in1, in2 = pair(rng, tuple(n), tuple(m), (*SCIPY, "longdouble"))
        method = rng.choice(("direct", "auto", "fft"))
        for name in ("correlate", "convolve"):
            got = getattr(signal, name)(in1, in2, mode, method)
            want = getattr(scipy.signal, name)(in1, in2, mode, "direct")
            call = (name, in1, in2, mode, method)
            if got.dtype.kind in "iu" or method == "direct" or got.dtype.char in "gG":
                equal(got, want, call)
            else:
                close(got, want, call, 1000)

    def test_defaults(self):
        x, k = np.arange(12.0).reshape(3, 4), np.arange(6.0).reshape(2, 3)
        for name in ("correlate", "convolve", "fftconvolve", "oaconvolve", "correlate2d", "convolve2d"):
            close(getattr(signal, name)(x, k), getattr(scipy.signal, name)(x, k), name)

    @pytest.mark.parametrize("name", ["fftconvolve", "oaconvolve"])
    @given(rng=draws)
    def test_fourier_named(self, name, rng):
        rank = rng.choice((1, 2, 3))
        axes = rng.sample(range(rank), rng.randint(1, rank))
        mode = rng.choice(MODES)
        n, m = ([rng.randint(1, 7) for _ in range(rank)] for _ in range(2))
        for axis in range(rank):
            if axis not in axes:
                n[axis], m[axis] = rng.choice(((n[axis], n[axis]), (1, m[axis]), (n[axis], 1)))
            elif mode == "valid":
                n[axis], m[axis] = max(n[axis], m[axis]), min(n[axis], m[axis])
        n, m = rng.choice(((n, m), (m, n)))
        in1, in2 = pair(rng, tuple(n), tuple(m), FLAT)
        asked = [axis - rank if rng.random() < 0.3 else axis for axis in axes]
        asked = asked[0] if len(asked) == 1 and rng.random() < 0.5 else asked
        want = getattr(scipy.signal, name)(plain(in1), plain(in2), mode, asked)
        got = getattr(signal, name)(in1, in2, mode, asked)
        if got.dtype.kind in "fc":
            # SciPy transforms each array in a precision of its own, and those finer than double no better.
            kinds = [a.dtype for a in (in1, in2) if a.dtype.kind in "fc"] + [np.dtype(float)]
            eps = max(np.finfo(np.float32 if kind.char == "e" else kind).eps for kind in kinds)
            close(got, want, (name, in1, in2, mode, asked), 300 * eps / np.finfo(want.dtype).eps)
        else:
            equal(got, want, (name, in1, in2, mode, asked))

    @given(draws)
    def test_pictures(self, rng):
        n, m = ((rng.randint(1, 8), rng.randint(1, 8)) for _ in range(2))
        mode = rng.choice(MODES)
        if mode == "valid":
            n, m = rng.choice(((np.maximum(n, m), np.minimum(n, m)), (np.minimum(n, m), np.maximum(n, m))))
        in1, in2 = pair(rng, tuple(n), tuple(m), (*SCIPY, "longdouble"))
        boundary = rng.choice(("fill", "pad", "wrap", "circular", "symm", "symmetric"))
        fill = rng.choice((0, 3, [2], 2.0))
        swapped = mode == "valid" and tuple(n) != tuple(np.maximum(n, m))
        for name in ("correlate2d", "convolve2d"):
            got = getattr(signal, name)(in1, in2, mode, boundary, fill)
            want = getattr(scipy.signal, name)(in1, in2, mode, boundary, fill)
            if name == "correlate2d" and swapped:
                want = want.conj()  # SciPy forgets it
                equal(got, signal.correlate(in1, in2, mode, "direct"), (in1, in2))
            equal(got, want, (name, in1, in2, mode, boundary, fill))

    def test_lags_are_those_of_correlate(self):
        """A spike against a spike: the result is 1 at the lag between them, for 'same' too."""
        for n in range(1, 8):
            for m in range(1, 8):
                for mode in MODES:
                    lags = signal.correlation_lags(n, m, mode)
                    for i, j in np.ndindex(n, m):
                        y = signal.correlate(np.eye(n, dtype=int)[i], np.eye(m, dtype=int)[j], mode)
                        np.testing.assert_array_equal(y, lags == i - j)
                    if mode != "same" or n % 2 == m % 2:
                        equal(lags, scipy.signal.correlation_lags(n, m, mode), (n, m, mode))

    def test_a_nan_stays_local_unless_fft_is_asked_for(self):
        x, k = np.ones(5000), np.ones(200)
        x[1000] = np.nan
        assert np.isnan(signal.fftconvolve(x, k)).sum() == np.isnan(signal.convolve(x, k)).sum() == 200
        with pytest.warns(RuntimeWarning, match="Use of fft convolution"):
            signal.convolve(x, k, method="fft")


class TestNdimage:
    MODES = ("reflect", "grid-mirror", "mirror", "nearest", "constant", "grid-constant", "wrap", "grid-wrap")

    @staticmethod
    def call(rng, rank, dtypes=SCIPY):
        """(input, output dtype or None, keywords) that any of the four functions takes."""
        shape = tuple(rng.randint(1, {1: 40, 2: 9, 3: 6}[rank]) for _ in range(rank))
        dtype = rng.choice(dtypes)
        output = None if rng.random() < 0.5 else rng.choice(("uint8", "int16", "uint64", "int32", "float32", "float64"))
        values = "natural" if "u" in (np.dtype(dtype).kind, np.dtype(output or dtype).kind) else "small"
        return (
            drawn(rng, shape, dtype, values),
            output,
            {"mode": rng.choice(TestNdimage.MODES), "cval": rng.choice((0.0, 2, 1.5))},
        )

    @staticmethod
    def weights(rng, shape, input, output):
        """Quarters, so that sums are exact in every type; none negative where the result has no sign."""
        unsigned = "u" in (input.dtype.kind, np.dtype(output or "f").kind)
        w = drawn(rng, shape, rng.choice(("int32", "float64", "float32", "bool")), "natural" if unsigned else "small")
        if w.dtype.kind == "f" and rng.random() < 0.7:
            w = w / 4
        return w + 1j * drawn(rng, shape, "int8") if rng.random() < 0.2 else w

    @staticmethod
    def check(name, input, weights, output, keywords):
        if output and "c" in (input.dtype.kind, np.asarray(weights).dtype.kind):
            output = np.promote_types(output, np.complex64)
        want = getattr(scipy.ndimage, name)(plain(input), weights, output=output, **keywords)
        got = getattr(ndimage, name)(input, weights, output=output, **keywords)
        equal(got, want, (name, input, weights, output, keywords))
        given = np.zeros([2 * n for n in input.shape], want.dtype.newbyteorder(">"))
        given = given[(slice(None, None, 2),) * input.ndim]  # neither contiguous nor native
        assert getattr(ndimage, name)(input, weights, output=given, **keywords) is given
        np.testing.assert_array_equal(given, want)

    @settings(max_examples=300)
    @given(draws)
    def test_correlate_and_convolve(self, rng):
        rank = rng.choice((1, 2, 3))
        input, output, keywords = self.call(rng, rank)
        axes = rng.sample(range(rank), rng.randint(1, rank))
        shape = tuple(rng.randint(1, 5 if len(axes) < 3 else 3) for _ in axes)  # less than 32 taps: exact
        if len(axes) < rank or rng.random() < 0.5:
            keywords["axes"] = tuple(axes) if len(axes) < rank else tuple(sorted(axes))
        if rng.random() < 0.5:
            # By entry of `axes`; the weights' axes are in ascending order.
            sizes = dict(zip(sorted(axes), shape, strict=True))
            order = keywords.get("axes", range(rank))
            keywords["origin"] = [rng.randint(-(sizes[a] // 2), (sizes[a] - 1) // 2) for a in order]
        weights = self.weights(rng, shape, input, output)
        self.check(rng.choice(("correlate", "convolve")), input, weights, output, keywords)

    @settings(max_examples=300)
    @given(draws)
    def test_along_one_axis(self, rng):
        rank = rng.choice((1, 2, 3))
        input, output, keywords = self.call(rng, rank)
        n = rng.randint(1, 12)
        keywords |= {"axis": rng.randint(-rank, rank - 1), "origin": rng.randint(-(n // 2), (n - 1) // 2)}
        weights = self.weights(rng, n, input, output)
        self.check(rng.choice(("correlate1d", "convolve1d")), input, weights, output, keywords)

    @given(draws)
    def test_filters(self, rng):
        rank = rng.choice((1, 2, 3))
        input, output, keywords = self.call(rng, rank, ("uint8", "int32", "float32", "float64", "complex64"))
        if output and input.dtype.kind == "c":
            output = np.promote_types(output, np.complex64)
        sigma = [rng.choice((0, 0.5, 1.0, 2)) for _ in range(rank)]
        order = [rng.randint(0, 3) for _ in range(rank)]
        modes = [rng.choice(self.MODES) for _ in range(rank)]
        axis = rng.randint(-rank, rank - 1)
        calls = {
            "sobel": ((axis,), {}),
            "prewitt": ((axis,), {"mode": modes}),
            "laplace": ((), {"mode": modes}),
            "gaussian_filter1d": ((rng.choice((0.5, 1.0, 2)), axis, order[0]), {"radius": rng.choice((None, 2))}),
            "gaussian_filter": ((sigma, order), {"mode": modes, "truncate": rng.choice((4.0, 2.0))}),
            "gaussian_laplace": ((sigma,), {"mode": modes}),
            "gaussian_gradient_magnitude": ((1.0,), {}),
        }
        for name, (arguments, more) in calls.items():
            call = (name, input, arguments, output, {**keywords, **more})
            if name == "gaussian_gradient_magnitude" and input.dtype.kind == "c":
                continue  # the last bit chooses the branch of the root
            if output == "uint64" or (output and np.dtype(output).kind == "u" and input.dtype.kind != "u"):
                continue  # C leaves the cast of a negative float to it undefined
            want = getattr(scipy.ndimage, name)(plain(input), *arguments, output=output, **{**keywords, **more})
            got = getattr(ndimage, name)(input, *arguments, output=output, **{**keywords, **more})
            if want.dtype.kind in "fc":
                close(got, want, call)
            elif "gaussian" not in name:
                equal(got, want, call)
            elif name != "gaussian_gradient_magnitude" and want.dtype.kind != "u":
                assert (got.dtype, got.shape) == (want.dtype, want.shape), call
                assert np.abs(got.astype(float) - want).max(initial=0) <= rank, (
                    call
                )  # a whole sum may be cut either way

    def test_gaussian_of_bytes(self):
        image = np.random.default_rng(0).integers(0, 256, (60, 50), np.uint8)
        for sigma in (0.7, 1, 3):
            got, want = ndimage.gaussian_filter(image, sigma), scipy.ndimage.gaussian_filter(image, sigma)
            assert got.dtype == np.uint8
            assert np.abs(got.astype(int) - want).max() <= 1

    def test_computed_in_float64_and_rounded_once(self):
        """float32 data are the double result rounded, not a sum of floats; slabs and threads change nothing."""
        rng = np.random.default_rng(0)
        x = wide(rng, (40, 50, 300), "float32")
        k = wide(rng, 9, "float64", 2)
        for axis in range(3):
            full = fastcorr.correlate(x.astype(float), k, "same", axes=axis, boundary="symmetric")
            assert same_bits(ndimage.correlate1d(x, k, axis), full.astype(np.float32))
            with np.errstate(invalid="ignore"):
                cut = (full / 1e9).astype(np.int32)
            assert same_bits(ndimage.correlate1d(x, k / 1e9, axis, np.int32), cut)
            with fastcorr.num_threads(1):
                assert same_bits(ndimage.correlate1d(x, k, axis), full.astype(np.float32))

    @pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int32"])
    def test_output_may_be_the_input(self, dtype, monkeypatch):
        monkeypatch.setattr("fastcorr.compat._pass._CACHED", 512)  # several slabs
        x = whole(np.random.default_rng(0), (30, 20, 10), dtype, "natural")
        for weights in ([1, 2, 3], [0.25, 0.5, 0.25]):
            for axis in range(3):
                want = ndimage.correlate1d(x, weights, axis)
                for shift in (0, 1):
                    y = np.concatenate([x, x[:1]])
                    y[: len(x)] = x
                    given = y[shift : len(x) + shift]
                    ndimage.correlate1d(y[: len(x)], weights, axis, given)
                    np.testing.assert_array_equal(given, want)
        y = x.copy()
        np.testing.assert_array_equal(ndimage.laplace(y, y), ndimage.laplace(x))

    @pytest.mark.parametrize("dtype", INTEGERS)
    def test_results_become_integers_toward_zero(self, dtype):
        """Modulo their length what int32 or, to types with more values, int64 holds; never with a warning."""

        def wrapped(values):
            return np.array([int(v) % 2**64 for v in values], np.uint64).astype(dtype)

        last = 2.0 ** (31 if dtype in INTEGERS[:5] else 63)
        x = np.array([0.9, -0.9, 99.5, -99.5, last - 1024, 1024 - last, -last, last / 2])
        none = np.array([np.nan, np.inf, -np.inf, 1e300, -1e300])
        big = np.zeros(8, np.dtype(dtype).newbyteorder())
        with warnings.catch_warnings(action="error"):
            for output in (dtype, np.zeros(8, dtype), np.zeros(16, dtype)[::2], big):
                np.testing.assert_array_equal(ndimage.correlate1d(x, [1.0], output=output), wrapped(x))
            np.testing.assert_array_equal(ndimage.correlate1d(none, [1.0], output=dtype), wrapped([-last] * 5))
        top = np.array([2.0**64 - 2048, 2.0**63])
        if dtype == "uint64":
            np.testing.assert_array_equal(ndimage.correlate1d(top, [1.0], output=dtype), wrapped(top))

    def test_more_dtypes_than_scipy(self):
        x = np.arange(6)
        for dtype in ("float16", "longdouble"):
            equal(
                ndimage.correlate1d(x.astype(dtype), [0.5, 1]),
                ndimage.correlate1d(x.astype(float), [0.5, 1]).astype(dtype),
                dtype,
            )
        assert ndimage.correlate1d(x[:3], [0.5], output=bool).tolist() == [False, False, True]

    def test_integers_are_exact_and_wrap(self):
        big = np.array([2**62, 3, 2**62 + 1])
        assert ndimage.correlate1d(big, [1, 1, 1], mode="constant").tolist() == [2**62 + 3, -(2**63) + 4, 2**62 + 4]

    def test_small_weights_count(self):
        """SciPy leaves out weights below 2.2e-16, and does not see a NaN under a weight of zero."""
        x, k = np.array([1e20, 0, np.nan]), [1e-20, 0.0, 0.0]
        assert ndimage.correlate(x, k, mode="constant").tolist()[0] == 0
        assert ndimage.correlate([1e20, 0.0], [1e-20, 0.0, 0.0], mode="constant")[1] == 1
        assert scipy.ndimage.correlate([1e20, 0.0], [1e-20, 0.0, 0.0], mode="constant")[1] == 0
        assert np.isnan(ndimage.correlate(x, k, mode="constant")[2])
        assert not np.isnan(scipy.ndimage.correlate(x, k, mode="constant")[2])


X, K = np.arange(6.0), np.arange(3.0)
ERRORS = [
    ("numpy", "correlate", ([], [1]), {}),
    ("numpy", "convolve", ([1], []), {}),
    ("numpy", "correlate", (3, [1]), {}),
    ("numpy", "convolve", ([[1, 2]], [1]), {}),
    ("numpy", "correlate", (X, K, "v"), {}),
    ("numpy", "correlate", (X, K, 3), {}),
    ("numpy", "convolve", (X, K, None), {}),
    ("numpy", "convolve", (X, K, 1.0), {}),
    *[
        ("signal", name, *call)
        for name in ("correlate", "convolve")
        for call in [
            ((X, [K]), {}),
            ((X, 1), {}),
            ((X, K, "half"), {}),
            ((X, K), {"method": "magic"}),
            ((np.ones((2, 3)), np.ones((3, 2)), "valid"), {}),
            (([], K), {}),
            ((X, []), {}),
        ]
    ],
    *[
        ("signal", name, *call)
        for name in ("fftconvolve", "oaconvolve")
        for call in [
            ((X, [K]), {}),
            ((X, K, "half"), {}),
            ((X, K), {"axes": []}),
            ((X, K), {"axes": 1}),
            ((X, K), {"axes": (0, -1)}),
            ((X, K), {"axes": 0.5}),
            ((np.ones((2, 3)), np.ones((3, 3))), {"axes": 1}),
            ((np.ones((2, 3)), np.ones((3, 2)), "valid"), {}),
        ]
    ],
    *[
        ("signal", name, *call)
        for name in ("correlate2d", "convolve2d")
        for call in [
            ((X, K), {}),
            (([X], [K], "half"), {}),
            (([X], [K], "full", "mirror"), {}),
            (([X], [K]), {"fillvalue": [1, 2]}),
            (([[1]], [[2]]), {"fillvalue": 300.5j}),
            ((np.ones((2, 2), np.uint8), np.ones((2, 2), np.uint8)), {"fillvalue": 300}),
            ((np.ones((2, 3)), np.ones((3, 2)), "valid"), {}),
        ]
    ],
    ("signal", "correlation_lags", (3, 2, "half"), {}),
    *[
        ("ndimage", name, *call)
        for name in ("correlate", "convolve")
        for call in [
            ((X, [K]), {}),
            ((X, []), {}),
            ((X, K), {"mode": "half"}),
            ((X, K), {"mode": ["wrap"]}),
            ((X, K), {"origin": 2}),
            ((X, K), {"origin": (0, 0)}),
            ((X, K), {"output": np.zeros(5)}),
            ((X, K), {"output": "bool"}),
            ((X, K * 1j), {"output": np.zeros(6)}),
            ((X, K * 1j), {"output": "float32"}),
            ((X, K * 1j), {"cval": 1j, "mode": "constant"}),
            (([X], K), {"axes": (2,)}),
            (([X], K), {"axes": (0.5,)}),
            (([X], [K]), {"axes": (1, -1)}),
        ]
    ],
    *[
        ("ndimage", name, *call)
        for name in ("correlate1d", "convolve1d")
        for call in [
            ((X, K, 1), {}),
            ((X, []), {}),
            ((X, [K]), {}),
            ((X, K), {"origin": -2}),
            ((X, K), {"mode": "half"}),
        ]
    ],
    ("ndimage", "gaussian_filter", ([X], [1, 2, 3]), {}),
    ("ndimage", "gaussian_filter", (X, 1, -1), {}),
    ("ndimage", "gaussian_filter1d", (X, 1), {"radius": -1}),
    ("ndimage", "sobel", (X, 1), {}),
    ("ndimage", "prewitt", (X,), {"mode": ["wrap", "wrap"]}),
    ("ndimage", "laplace", (X,), {"axes": (3,)}),
]


@pytest.mark.parametrize(("module", "name", "args", "kwargs"), ERRORS)
@pytest.mark.filterwarnings("ignore")
def test_errors_have_the_peers_type(module, name, args, kwargs):
    with pytest.raises((ValueError, TypeError, RuntimeError, IndexError)) as theirs:
        getattr(importlib.import_module(PEERS[module].module), name)(*args, **kwargs)
    with pytest.raises((ValueError, TypeError, RuntimeError)) as ours:
        getattr(PEERS[module].ours, name)(*args, **kwargs)
    assert isinstance(ours.value, theirs.type) or theirs.type is IndexError, (ours.value, theirs.value)


@pytest.mark.parametrize("array", [np.array([1, 2], object), np.array(["a", "b"])])
def test_arrays_without_arithmetic(array):
    for call in (numpy.correlate, numpy.convolve, signal.correlate, signal.fftconvolve, ndimage.correlate1d):
        with pytest.raises(TypeError):
            call(array, [1, 2])


def test_a_complex_result_needs_a_complex_output():
    with pytest.warns(UserWarning, match="promoting specified output dtype to complex"):
        assert ndimage.correlate1d(X, 1j * K, output=np.float32).dtype == np.complex64
