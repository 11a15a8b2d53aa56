"""method="fft" for layers and gradients: what kernels/frequency.pyx sums per frequency is the contraction's definition.

The bound is that of method="fft": eps log2(N) max|x| sum|w|, where the sum is over all that is added up. Budget: 40
seconds.
"""

import numpy as np
import pytest
from common import LEVELS, same_bits, succeeds
from test_layer_kernels import RESULTS, operands, random_depthwise, random_options, real, shared

import fastcorr
from fastcorr import layer_methods

FLOATS = ("float16", "float32", "float64", "complex64", "complex128")


def allowed(form, a, b, bias):
    """What each result may be off by: the largest sum of all products, and the largest of tiles."""
    eps = float(np.finfo(np.float32 if form.dtype == np.float16 else form.dtype).eps)
    sums = layer_methods.contract(
        form.part("real"), *(np.abs(v).astype(form.part("real").dtype) for v in (a, b)), "direct"
    )
    largest = sums.astype(float).max(initial=0) + (0 if bias is None else np.abs(bias).max(initial=0))
    data = a if form.result != "w" else b
    taps = b if form.result != "w" else a
    axes = tuple(range(2, taps.ndim)) if form.result != "x" else (1, *range(3, taps.ndim))
    bound = max(np.abs(data).max(initial=0), abs(form.fill)) * np.abs(taps).astype(float).sum(axes).max(initial=0)
    return eps * 20 * max(bound, largest) * (form.batch if form.result == "w" else 1)


def check(form, level, a, b, bias):
    want = layer_methods.contract(form, a, b, "reference", bias)
    one = layer_methods.contract(form, a, b, "fft", bias, level=level, count=1)
    assert one.dtype == want.dtype
    wide = form.dtype if form.dtype.kind == "c" else float
    error = np.abs(one.astype(wide) - want.astype(wide))
    more = np.finfo(np.float16).eps * np.abs(want.astype(float)) if form.dtype == np.float16 else 0
    assert (error <= allowed(form, a, b, bias) + more).all(), f"{error.max()} off: {form}"
    assert same_bits(layer_methods.contract(form, a, b, "fft", bias, level=level, count=2), one)


@pytest.mark.parametrize("make", [random_options, random_depthwise])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_random(dtype, level, make):
    rng, done = np.random.default_rng(FLOATS.index(dtype)), 0
    while done < 12:
        x, w, options = make(rng)
        try:
            form = shared(x, w, dtype, fill=int(rng.integers(3)), **options)
        except ValueError:
            continue
        for result in RESULTS:
            check(form.siblings[result], level, *operands(form.siblings[result], done))
        done += 1


# Each has more than one of something: tiles, rounds of tiles, parts of the channels.
LARGE = {
    "one-channel": ((1, 1, 300, 200), (1, 1, 21, 17), {"padding": "same", "boundary": "reflect"}),
    "long": ((3, 2, 3000), (3, 2, 400), {"padding": 300, "stride": 3, "flip": True}),
    "volume": ((2, 2, 30, 31, 40), (3, 2, 5, 6, 7), {"padding": 3, "dilation": (1, 2, 1)}),
    "more-channels-than-fit": ((2, 40, 30, 20), (41, 40, 7, 5), {"padding": 3}),
    "more-data-than-fit": ((2, 3, 500, 500), (2, 3, 15, 15), {"stride": 2}),
    "groups": ((2, 12, 90, 20), (8, 3, 13, 5), {"groups": 4, "dilation": (2, 1), "stride": (1, 4)}),
    "tall": ((2, 2, 900, 2), (2, 2, 200, 1), {}),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", LARGE)
def test_large(name, level):
    x, w, options = LARGE[name]
    form = shared(x, w, "float32", **options)
    for result in RESULTS:
        one = form.siblings[result]
        a, b, bias = operands(one, make=real)
        want = layer_methods.contract(one, *(v.astype(float) for v in (a, b)), "direct", bias)
        got = layer_methods.contract(one, a, b, "fft", bias, level=level, count=1)
        assert (np.abs(got - want) <= allowed(one, a, b, bias)).all()
        assert same_bits(layer_methods.contract(one, a, b, "fft", bias, level=level, count=2), got)
        if result != "w":  # an entry by itself is what it is in a batch
            alone = shared((1, *x[1:]), w, "float32", **options).siblings[result]
            assert same_bits(layer_methods.contract(alone, a[-1:], b, "fft", bias, level=level), got[-1:])


class TestAuto:
    """`auto` takes the transform where it is cheaper, and nothing but rounding changes."""

    FORMS = (
        ((2, 3, 90, 80), (3, 3, 21, 21), {"padding": "same"}),
        ((1, 1, 9000), (1, 1, 901), {"stride": 2}),
        ((2, 2, 20, 21, 22), (2, 2, 9, 9, 9), {"padding": "same", "boundary": "wrap"}),
    )

    def test_takes_the_cheapest(self):
        for x, w, options in self.FORMS:
            for result in RESULTS:
                form = shared(x, w, "float32", **options).siblings[result]
                method, costs = layer_methods.choose(form, "auto", fastcorr.isa.LEVEL)
                assert method == "fft"
                assert costs["fft"] < costs["direct"]
        for x, w in (
            ((1, 64, 56, 56), (64, 64, 1, 1)),
            ((1, 8, 56, 56), (8, 8, 3, 3)),
            ((1, 1, 9000), (1, 1, 31)),
            ((1, 4, 50), (4, 4, 40)),
        ):
            assert layer_methods.choose(shared(x, w), "auto", fastcorr.isa.LEVEL)[0] == "direct"

    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("result", RESULTS)
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_what_is_not_finite_is_computed_directly(self, result, dtype, value):
        for x, w, options in self.FORMS:
            form = shared(x, w, dtype, **options).siblings[result]
            a, b, bias = operands(form, make=real)
            (a if result != "w" else b)[(0,) * (a.ndim - 1) + (3,)] = value
            got = layer_methods.contract(form, a, b, "auto", bias)
            want = layer_methods.contract(form, a, b, "direct", bias)
            assert not np.isfinite(want).all()
            if result != "w":
                assert np.isfinite(want).any()
            assert same_bits(np.isfinite(got), np.isfinite(want))
            if form.dtype.kind != "c":
                assert same_bits(got, want)

    def test_gradients_of_a_large_correlation(self):
        rng = np.random.default_rng(0)
        x, k = rng.standard_normal((2, 90, 100)), rng.standard_normal((30, 31))
        for options in ({}, {"mode": "same", "boundary": "reflect"}, {"mode": "full", "dilation": (2, 1)}):
            g = rng.standard_normal(fastcorr.correlate(x, k, **options).shape)
            for face in (fastcorr.correlate_vjp, fastcorr.convolve_vjp):
                got, want = (face(g, x, k, **options, method=method) for method in ("auto", "direct"))
                for one, other in zip(got, want, strict=True):
                    np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * np.abs(other).max())
                    assert not same_bits(one, other)  # another method


class TestPlanner:
    @pytest.mark.parametrize("dtype", ["int32", "longdouble"])
    def test_types_without_a_kernel_are_refused(self, dtype):
        with pytest.raises(ValueError, match=f"'fft' cannot serve this call: {np.dtype(dtype)}"):
            fastcorr.conv(np.ones((1, 9), dtype), np.ones((1, 1, 3), dtype), method="fft")

    def test_a_dense_layer_is_refused(self):
        with pytest.raises(ValueError, match="no axis to transform"):
            fastcorr.conv(np.ones((2, 3)), np.ones((4, 3)), method="fft")

    def test_a_plan_shows_it(self):
        x, w = np.zeros((1, 4, 200, 150), np.float32), np.ones((4, 4, 21, 21), np.float32)
        plan = fastcorr.plan(fastcorr.conv, x, w)
        assert "-> fft" in str(plan)
        assert same_bits(plan(x), fastcorr.conv(x, w))
        assert "fewer than 32 taps" in str(fastcorr.plan(fastcorr.conv, x, w[..., :3, :3]))

    def test_nothing_in_it(self):
        assert fastcorr.conv(np.ones((0, 2, 50)), np.ones((3, 2, 40)), method="fft").shape == (0, 3, 11)
        arrays = np.ones((0, 3, 11)), np.ones((0, 2, 50)), np.ones((3, 2, 40)), np.ones(3)
        _, gw, gb = fastcorr.conv_vjp(*arrays, method="fft")
        assert not gw.any()
        assert not gb.any()


def test_memory():
    """Beyond the arrays: at most 64 MiB."""
    code = """
import resource
import numpy as np
import fastcorr
cases = ((1, 32, 300, 300), (32, 32, 31, 31)), ((1, 1, 3000, 3000), (1, 1, 63, 63)), ((1, 1, 4000000), (1, 1, 9999))
for x, w in cases:
    x, w = np.ones(x, np.float32), np.ones(w, np.float32)
    size = [n - k + 1 for n, k in zip(x.shape[2:], w.shape[2:])]
    y = np.ones((1, len(w), *size), np.float32)
    fastcorr.conv(x[:, :, :99], w[:, :, :9], method="fft")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fastcorr.conv(x, w, out=y)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    assert all(int(mib) <= 64 for mib in succeeds(code).split())


def test_can_be_interrupted():
    code = """
import signal, time
import numpy as np
import fastcorr
x, w = np.ones((1, 64, 512, 512), np.float32), np.ones((64, 64, 40, 40), np.float32)
y = np.ones((1, 64, 473, 473), np.float32)
def stop(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, stop)
for call in (lambda: fastcorr.conv(x, w, method="fft"), lambda: fastcorr.conv_vjp(y, x, w, method="fft")):
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    begin = time.perf_counter()
    try:
        call()
    except KeyboardInterrupt:
        print(time.perf_counter() - begin - 0.3)
"""
    delays = [float(line) for line in succeeds(code).split()]
    assert len(delays) == 2
    assert max(delays) < 0.2  # 50 ms on a quiet machine
