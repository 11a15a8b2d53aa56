"""Winograd's layers and gradients: equal to the definition, the same bits anyhow, within their bound, and local.

Data are integer-valued where results are compared with `np.array_equal`: the transform multiplies by 1, 1/2 and 1/4.
Budget: 30 seconds.
"""

from dataclasses import replace

import numpy as np
import pytest
from common import LEVELS, RULES, laid_out, same_bits, whole, wide
from test_layer_kernels import operands, real

import fastcorr
from fastcorr import layer_methods
from fastcorr.contraction import layer

DTYPES = ("float16", "float32", "float64", "complex64", "complex128")


def forms(x, w, dtype="float32", **options):
    """The result and the gradients of a `conv`."""
    form, _ = layer(x, w, None, np.dtype(dtype), **options)
    return form, form.input_grad(), form.weight_grad()


def random_options(rng):
    """Shapes and options of any layer that the method serves; some kernels do not fit."""
    rank, groups = int(rng.choice([2, 2, 2, 3, 4])), int(rng.integers(1, 4))
    leading = rng.integers(1, 4, rank - 2)
    size = rng.integers(1, 24 if rank == 2 else 7, rank)
    x = (int(rng.integers(1, 4)), groups * int(rng.integers(1, 12)), *map(int, size))
    w = (groups * int(rng.integers(1, 23)), x[1] // groups, *map(int, leading), 3, 3)
    dilation = (*map(int, rng.integers(1, 4, rank - 2)), 1, 1)
    padding = [tuple(map(int, rng.integers(-2, 6, 2))) for _ in range(rank)]
    boundary = tuple(rng.choice(RULES, rank))
    options = {"groups": groups, "padding": padding, "boundary": boundary, "flip": bool(rng.integers(2))}
    return x, w, {**options, "dilation": dilation, "fill": int(rng.integers(3))}


def check(form, level, counts=(1, 2, 3)):
    a, b, bias = operands(form)
    want = layer_methods.contract(form, a, b, "reference", bias)
    for count in counts:
        got = layer_methods.contract(form, a, b, "winograd", bias, level=level, count=count)
        assert got.dtype == want.dtype
        assert np.array_equal(got, want), f"{count} threads: {form}"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_random(dtype, level):
    rng, done = np.random.default_rng(DTYPES.index(dtype)), 0
    while done < (4 if dtype.startswith("complex") else 10):
        x, w, options = random_options(rng)
        try:
            all_three = forms(x, w, dtype, **options)
        except ValueError:
            continue
        for form in all_three:
            check(form, level, (1, 2))
        done += 1


# Each is larger than a block of its kind: tiles of a line and of several, images, chunks, output channels.
LARGE = {
    "lines-longer-than-a-block": ((1, 3, 5, 300), (9, 3, 3, 3)),
    "blocks-that-end-within-lines": ((2, 40, 21, 37), (17, 40, 3, 3)),
    "small-pictures": ((7, 5, 5, 6), (9, 5, 3, 3)),
    "many-images": ((2, 300, 5, 7), (6, 300, 3, 3)),
    "many-rows": ((1, 6, 9, 9), (300, 6, 3, 3)),
    "many-of-both": ((1, 70, 8, 9), (131, 70, 3, 3)),
    "patches-of-several-pictures": ((9, 33, 7, 7), (5, 33, 3, 3)),
    "lines-in-patches": ((1, 66, 61, 40), (3, 66, 3, 3)),
    "rank-3": ((2, 9, 5, 12, 13), (10, 9, 3, 3, 3)),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LARGE)
class TestLarge:
    def test_definition(self, name, dtype, level):
        for form in forms(*LARGE[name], dtype, padding=1):
            check(form, level)

    def test_the_same_bits_for_any_threads_and_any_batch(self, name, dtype, level):
        (_, *shape), w = LARGE[name]
        for form in forms((5, *shape), w, dtype, padding=1):
            a, b, bias = operands(form, make=real)
            want = layer_methods.contract(form, a, b, "winograd", bias, level=level, count=1)
            for count in (2, 3, 7):
                assert same_bits(layer_methods.contract(form, a, b, "winograd", bias, level=level, count=count), want)
            for some in (slice(0, 1), slice(2, 5)) if form.result != "w" else ():  # which sums over the batch
                entries = replace(form, batch=some.stop - some.start)
                got = layer_methods.contract(entries, a[some], b, "winograd", bias, level=level)
                assert same_bits(got, want[some])


def test_kernels_that_are_transformed_slab_by_slab():
    for form in forms((1, 250, 11, 11), (700, 250, 3, 3), padding=1):
        a, b, bias = operands(form)
        want = layer_methods.contract(form, a, b, "direct", bias)
        for count in (1, 2, 7):
            assert np.array_equal(layer_methods.contract(form, a, b, "winograd", bias, count=count), want)


@pytest.mark.parametrize("layout", ["F", "reversed", "strided", "misaligned", "swapped"])
def test_layouts(layout):
    for form in forms((2, 6, 12, 13), (9, 6, 3, 3), padding=1):
        a, b, _ = operands(form, make=real)
        want = layer_methods.contract(form, a, b, "winograd")
        assert same_bits(layer_methods.contract(form, laid_out(a, layout), laid_out(b, layout), "winograd"), want)


def test_channels_last():
    x, w = (whole(np.random.default_rng(0), shape, "float32") for shape in ((2, 12, 13, 5), (9, 5, 3, 3)))
    out = np.empty((2, 10, 11, 9), np.float32).transpose(0, 3, 1, 2)
    fastcorr.conv(x.transpose(0, 3, 1, 2), w, method="winograd", out=out)
    assert np.array_equal(out, fastcorr.conv(x.transpose(0, 3, 1, 2), w, method="direct"))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [1, 5, 40, 300])
@pytest.mark.parametrize("data", ["eight decades", "three decades", "one sign", "nearly equal"])
def test_error(data, channels, dtype, level):
    """At most eps log2(N) max|x| sum|w|, N = 16 points of each image."""
    rng = np.random.default_rng(channels)

    def make(shape):
        if data.endswith("decades"):
            return wide(rng, shape, dtype, 8 if data.startswith("eight") else 3)
        return (rng.random(shape) if data == "one sign" else 1 + 1e-3 * rng.random(shape)).astype(dtype)

    result, *_ = forms((1, channels, 9, 10), (6, channels, 3, 3), dtype, padding=1)
    _, gradient, _ = forms((1, 6, 9, 10), (channels, 6, 3, 3), dtype, padding=1)
    for form in (result, gradient):
        a, b = (make(form.shapes[name]) for name in form.operands)
        fine = replace(form, dtype=np.dtype(np.longdouble))
        want = layer_methods.contract(fine, a.astype(np.longdouble), b.astype(np.longdouble), "reference")
        got = layer_methods.contract(form, a, b, "winograd", level=level)
        kernels = np.abs(b).sum(axis=(1 if form.result == "x" else 2, 3, 4), dtype=float)
        bound = np.finfo(dtype).eps * np.log2(16 * channels) * np.abs(a).max() * kernels[:, :, None, None]
        assert (np.abs(got - want) <= bound[None]).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [(2, 2), (9, 10), (40, 41)])
@pytest.mark.parametrize("data", ["eight decades", "three decades", "one sign"])
def test_error_of_a_weight_gradient(data, size, dtype, level):
    """At most eps log2(N) max|x| sum|g|, N = 4 points for each position that is summed."""
    rng = np.random.default_rng(size[0])
    form = forms((5, 7, *size), (6, 7, 3, 3), dtype, padding=1)[2]
    make = {"eight decades": lambda *a: wide(rng, *a, 8), "three decades": lambda *a: wide(rng, *a, 3)}
    make = make.get(data, lambda shape, dtype: rng.random(shape).astype(dtype))
    g, x = (make(form.shapes[name], dtype) for name in form.operands)
    fine = replace(form, dtype=np.dtype(np.longdouble))
    want = layer_methods.contract(fine, g.astype(np.longdouble), x.astype(np.longdouble), "reference")
    got = layer_methods.contract(form, g, x, "winograd", level=level)
    sums = np.abs(g).sum(axis=(0, 3, 4), dtype=float)
    bound = np.finfo(dtype).eps * np.log2(4 * 5 * size[0] * size[1]) * np.abs(x).max() * sums
    assert (np.abs(got - want) <= bound[:, :, None, None, None]).all()


class TestAuto:
    """What `auto` promises where it takes the method."""

    SHAPES = (3, 40, 20, 21), (36, 40, 3, 3)

    def chosen(self, results="yx", **options):
        for form in forms(*self.SHAPES, padding=1, **options):
            if form.result not in results:
                continue
            assert layer_methods.choose(form, "auto", LEVELS[-1])[0] == "winograd"
            yield form

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("place", [(0, 3, 0, 0), (1, 39, 9, 10), (2, 0, 19, 20)])
    def test_what_is_not_finite_stays_local(self, place, value):
        for form in self.chosen():
            a, b, bias = operands(form)
            place = tuple(np.minimum(place, np.array(a[:, 0].shape) - 1))
            a[:, 0][place] = value
            with np.errstate(invalid="ignore"):
                want = layer_methods.contract(form, a, b, "reference", bias)
            for count in (1, 2):
                got = layer_methods.contract(form, a, b, "auto", bias, level=LEVELS[-1], count=count)
                assert np.array_equal(got, want, equal_nan=True)
            if np.isinf(value):  # the method itself makes a NaN of it
                assert not np.array_equal(layer_methods.contract(form, a, b, "winograd", bias), want, equal_nan=True)

    @pytest.mark.parametrize("operand", [0, 1])
    @pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**127])
    def test_a_weight_gradient_with_what_is_not_finite(self, value, operand):
        (form,) = self.chosen("w")
        arrays = operands(form)[:2]
        arrays[operand][1, 0, 3, 0, 0] = value
        want = layer_methods.contract(form, *arrays, "direct")
        for count in (1, 2):
            got = layer_methods.contract(form, *arrays, "auto", level=LEVELS[-1], count=count)
            assert np.array_equal(got, want, equal_nan=True)
        if operand or not np.isnan(value):  # in a corner of g it meets all, the fill as well
            assert not np.array_equal(layer_methods.contract(form, *arrays, "winograd"), want, equal_nan=True)

    def test_a_kernel_that_is_not_finite(self):
        for form in self.chosen():
            a, b, bias = operands(form)
            b[0, 7, 5, 1, 2] = np.inf
            want = layer_methods.contract(form, a, b, "direct", bias)
            assert np.array_equal(layer_methods.contract(form, a, b, "auto", bias), want, equal_nan=True)
            assert not np.array_equal(layer_methods.contract(form, a, b, "winograd", bias), want, equal_nan=True)

    def test_no_overflow_on_the_way(self):
        for form in self.chosen():
            a, b, _ = operands(form)
            a[:, 0, 5] = 2.0**126
            b[...] = 0
            b[:, :, :, 1, 1] = 2.0**-40
            assert not np.isfinite(layer_methods.contract(form, a, b, "winograd")).all()
            got = layer_methods.contract(form, a, b, "auto")
            assert np.array_equal(got, layer_methods.contract(form, a, b, "direct"))
            assert np.isfinite(got).all()

    def test_repair_does_not_depend_on_the_batch(self):
        for form in self.chosen():
            a, b, _ = operands(form, make=real)
            a[1, 0, 3, 4, 5] = np.nan
            together = layer_methods.contract(form, a, b, "auto")
            for n in range(3):
                alone = layer_methods.contract(replace(form, batch=1), a[n : n + 1], b, "auto")
                assert same_bits(alone, together[n : n + 1])

    def test_choice(self):
        level = LEVELS[-1]
        for channels, size, method in ((8, 56, "direct"), (64, 56, "winograd"), (256, 14, "winograd")):
            form, _ = layer((1, channels, size, size), (channels, channels, 3, 3), None, np.dtype("f4"), padding=1)
            for batch in (1, 64):
                assert layer_methods.choose(replace(form, batch=batch), "auto", level)[0] == method


REFUSED = {
    "kernel": ((1, 2, 9, 9), (2, 2, 3, 5), {}, r"kernel is \(3, 5\)"),
    "rank": ((1, 2, 9), (2, 2, 3), {}, r"kernel is \(3,\)"),
    "stride": ((1, 2, 9, 9), (2, 2, 3, 3), {"stride": (1, 2)}, r"stride is \(1, 2\)"),
    "dilation": ((1, 2, 9, 9), (2, 2, 3, 3), {"dilation": 2}, r"dilation \(2, 2\)"),
    "dtype": ((1, 2, 9, 9), (2, 2, 3, 3), {"dtype": "int32"}, "int32 is exact"),
    "longdouble": ((1, 2, 9, 9), (2, 2, 3, 3), {"dtype": "longdouble"}, "finer than float64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why(name):
    x, w, options, why = REFUSED[name]
    x, w = np.ones(x), np.ones(w)
    with pytest.raises(ValueError, match=f"method='winograd' cannot serve this call: .*{why}"):
        fastcorr.conv(x, w, method="winograd", **options)
    assert why.replace("\\", "") in str(fastcorr.plan(fastcorr.conv, x, w, **options))


def test_all_gradients_at_once():
    x, w = np.ones((1, 2, 9, 9)), np.ones((4, 2, 3, 3))
    g = fastcorr.conv(x, w)
    want = fastcorr.conv_vjp(g, x, w, method="direct")
    for got, one in zip(fastcorr.conv_vjp(g, x, w, method="winograd"), want, strict=True):
        assert np.array_equal(got, one)


def test_plan():
    x, w = np.ones((1, 64, 30, 30), np.float32), np.ones((64, 64, 3, 3), np.float32)
    made = fastcorr.plan(fastcorr.conv, x, w, padding=1)
    assert made.method == "winograd"
    assert "-> winograd" in str(made)
    assert same_bits(made(x), fastcorr.conv(x, w, padding=1))
    assert fastcorr.plan(fastcorr.conv, x, w, method="direct").method == "direct"
