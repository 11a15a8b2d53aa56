"""The compiled loops of layers against the definition: every result, level, element type and number of threads.

Data are integer-valued, so results are compared with `np.array_equal`; where bits are compared with bits, they are not.
Budget: 30 seconds.
"""

from dataclasses import replace

import numpy as np
import pytest
from common import DTYPES, LEVELS, RULES, laid_out, same_bits, whole

import fastcorr
from fastcorr import layer_methods
from fastcorr.contraction import layer

RESULTS = ("y", "x", "w")


def operands(form, seed=0, make=whole):
    """Arrays for `form`, and a bias where it takes one."""
    rng = np.random.default_rng(seed)
    values = ("small",) if make is whole else ()
    a, b = (make(rng, form.shapes[name], form.dtype, *values) for name in form.operands)
    bias = None
    if form.result != "w" and form.dtype.kind != "b":
        bias = make(rng, (*form.out_shape[1:3], *(1,) * form.rank), form.dtype, *values)
    return a, b, bias


def real(rng, shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


def shared(x, w, dtype="float32", local=False, **options):
    """The Contraction of a `conv`; if `local`, with as many such kernels as it has output positions."""
    return replace(layer(x, w, None, np.dtype(dtype), **options)[0], local=local)


def check(x, w, dtype, level, counts=(1, 2, 3), results=RESULTS, **options):
    form = shared(x, w, dtype, **options)
    for result in results:
        one = replace(form, result=result)
        a, b, bias = operands(one)
        want = layer_methods.contract(one, a, b, "reference", bias)
        for count in counts:
            got = layer_methods.contract(one, a, b, "direct", bias, level=level, count=count)
            assert got.dtype == want.dtype
            assert np.array_equal(got, want), f"result {result}, {count} threads: {one}"


def random_options(rng):
    """Shapes and options of any kind; some kernels do not fit."""
    rank, groups = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    kernel = rng.integers(1, 5 if rank < 3 else 3, rank)
    size = rng.integers(1, 30 if rank == 1 else 13 if rank == 2 else 6, rank)
    x = (int(rng.integers(1, 4)), groups * int(rng.integers(1, 5)), *map(int, size))
    w = (groups * int(rng.integers(1, 9)), x[1] // groups, *map(int, kernel))
    steps = {name: tuple(map(int, rng.integers(1, 5, rank))) for name in ("stride", "dilation")}
    padding = [tuple(map(int, rng.integers(-2, 6, 2))) for _ in range(rank)]
    boundary = tuple(rng.choice(RULES, rank))
    return x, w, {"groups": groups, "padding": padding, "boundary": boundary, "flip": bool(rng.integers(2)), **steps}


def random_depthwise(rng):
    """The same with one channel per group, and groups that fill blocks of lanes or do not."""
    x, w, options = random_options(rng)
    groups = int(rng.choice((4, 16, 17, 24, 33)))
    return (x[0], groups, *x[2:]), (groups * int(rng.integers(1, 4)), 1, *w[2:]), {**options, "groups": groups}


@pytest.mark.parametrize("make", [random_options, random_depthwise])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("local", [False, True])
def test_random(local, dtype, level, make):
    if local and make is random_depthwise:
        return
    rng, done = np.random.default_rng(DTYPES.index(dtype)), 0
    while done < 25:
        x, w, options = make(rng)
        if local:  # few batch entries, a vector or more, more than a block of them, more than a chunk
            x, options["local"] = (int(rng.choice([1, 2, 3, 5, 17, 70, 140])), *x[1:]), True
        fill = bool(rng.integers(2)) if dtype == "bool" else int(rng.integers(3))
        try:
            form = shared(x, w, dtype, **options)
        except ValueError:
            continue
        if form.flops > 3e5 and local:
            continue
        results = ("y",) if dtype == "bool" else RESULTS
        check(x, w, dtype, level, (1, 2), results, fill=fill, **options)
        done += 1


# Each is larger than a block of its kind: lanes, lines, rows, channels, taps, kernel positions, slices.
LARGE = {
    "few-channels-long-kernel": ((2, 2, 5, 60), (40, 2, 2, 9), {"dilation": (1, 2), "padding": 1}),
    "lanes-in-segments": ((1, 3, 3000), (4, 3, 5), {"stride": 2}),
    "lines-in-blocks": ((1, 2, 90, 60), (3, 2, 3, 3), {"padding": 1}),
    "many-rows": ((1, 2, 9, 9), (700, 2, 3, 3), {}),
    "many-rows-of-few-taps": ((3, 3, 9, 9), (45, 3, 1, 3), {}),
    "channels-in-strips": ((2, 75, 9, 30), (7, 75, 2, 3), {"padding": 1, "stride": (1, 2)}),
    "patches-of-several-pictures": ((40, 20, 7, 5), (6, 20, 3, 3), {"padding": 1}),
    "patches-of-several-planes": ((3, 18, 9, 8, 6), (5, 18, 2, 3, 2), {"padding": (2, 1, 0), "stride": (2, 1, 1)}),
    "many-channels": ((2, 300, 7, 9), (7, 300, 3, 3), {"padding": "same"}),
    "channels-that-fill-no-tile": ((1, 100, 6, 6), (5, 100, 1, 3), {}),
    "a-kernel-of-many-taps": ((1, 2, 40, 40), (3, 2, 21, 23), {}),
    "a-long-kernel": ((1, 1, 1500), (2, 1, 700), {}),
    "a-tall-kernel": ((1, 1, 1500, 2), (2, 1, 700, 1), {}),
    "a-dilated-kernel-of-many-taps": ((1, 2, 30, 60), (2, 2, 3, 17), {"dilation": (2, 3)}),
    "many-positions": ((5, 2, 70, 60), (3, 2, 3, 3), {"padding": 1}),
    "strides-past-the-kernel": ((1, 2, 40, 40), (3, 2, 2, 2), {"stride": (3, 5)}),
    "strides-past-lines-of-one-sample": ((1, 20, 12, 1), (5, 20, 3, 1), {"stride": (1, 7)}),
    "far-apart": ((1, 2, 70, 80), (3, 2, 3, 4), {"dilation": (30, 20)}),
    "far-apart-with-strides": ((1, 2, 70, 80), (3, 2, 3, 4), {"dilation": (11, 9), "stride": (2, 7), "padding": 9}),
    "rank-3": ((1, 3, 9, 20, 31), (4, 3, 3, 3, 3), {"padding": 1, "stride": (1, 2, 1)}),
    # Input gradients, several residues of two axes at a time: with gaps, without a tap, more of them than samples.
    "strides-as-the-kernel": ((2, 20, 30, 70), (9, 20, 2, 2), {"stride": 2}),
    "strides-in-blocks": ((1, 40, 75, 131), (33, 40, 3, 3), {"stride": 2, "padding": (1, 0)}),
    "strides-past-the-width": (
        (2, 5, 41, 2),
        (4, 5, 3, 4),
        {"stride": 3, "dilation": (1, 2), "padding": ((4, 0), (2, 3))},
    ),
    "strides-past-the-lines": ((2, 5, 2, 41), (4, 5, 3, 3), {"stride": (3, 2), "padding": 1}),
    "strides-odd-sizes": ((2, 9, 21, 75), (140, 9, 3, 3), {"stride": 2, "padding": ((0, 1), (2, 0))}),
    "strides-that-dilation-skips": ((1, 3, 30, 61), (5, 3, 3, 4), {"stride": 2, "dilation": (3, 2), "padding": (2, 3)}),
    "strides-and-dilation": ((1, 3, 30, 61), (5, 3, 3, 4), {"stride": 3, "dilation": (2, 4), "padding": 5}),
    "strides-past-the-size": ((1, 3, 9, 5), (4, 3, 2, 3), {"stride": (2, 7), "padding": ((0, 1), (3, 9))}),
    "many-residues": ((1, 150, 19, 70), (4, 150, 3, 16), {"stride": (3, 16), "padding": (0, 7)}),
    "many-residues-far-apart": ((1, 3, 8, 300), (4, 3, 2, 9), {"stride": (1, 5), "dilation": (1, 23), "padding": 4}),
    "rank-3-strides": ((2, 17, 8, 9, 37), (4, 17, 2, 3, 3), {"stride": 2, "padding": (0, 1, 1)}),
    "depthwise": ((2, 9, 14, 15), (18, 1, 5, 5), {"groups": 9, "padding": 2}),
    "depthwise-blocks-of-groups": ((2, 35, 14, 15), (70, 1, 5, 5), {"groups": 35, "padding": 2}),
    "depthwise-strides": ((2, 18, 41, 44), (18, 1, 3, 5), {"groups": 18, "padding": 1, "stride": (2, 3)}),
    "depthwise-strides-past-the-kernel": ((1, 17, 40, 40), (17, 1, 2, 2), {"groups": 17, "stride": (3, 5)}),
    "depthwise-many-taps": ((1, 17, 24, 600), (17, 1, 9, 50), {"groups": 17, "flip": True}),
    "depthwise-many-positions": ((5, 16, 70, 60), (32, 1, 3, 3), {"groups": 16, "padding": 1}),
    "depthwise-far-apart": ((1, 16, 70, 80), (16, 1, 3, 4), {"groups": 16, "dilation": (30, 20), "stride": (1, 3)}),
    "depthwise-rank-1": ((2, 33, 2000), (33, 1, 9), {"groups": 33, "dilation": 2, "padding": "same"}),
    "depthwise-rank-3": ((2, 20, 7, 9, 10), (60, 1, 3, 2, 3), {"groups": 20, "padding": 1, "stride": (2, 1, 2)}),
    "depthwise-pointwise": ((1, 16, 3, 45), (16, 1, 1, 1), {"groups": 16}),
    "depthwise-2-lines": ((1, 17, 9, 70), (17, 1, 2, 3), {"groups": 17, "dilation": (1, 3), "boundary": "wrap"}),
    "depthwise-3-short-lines": ((3, 16, 11, 10), (16, 1, 3, 3), {"groups": 16, "padding": 1}),
    "depthwise-4-lines": ((1, 16, 8, 53), (32, 1, 4, 3), {"groups": 16, "boundary": "reflect", "padding": 2}),
    "depthwise-6-lines": ((1, 16, 12, 41), (16, 1, 6, 2), {"groups": 16, "flip": True}),
    "depthwise-7-lines": ((2, 16, 28, 28), (16, 1, 7, 7), {"groups": 16, "padding": 3}),
    "depthwise-9-lines-stride-2": ((2, 16, 37, 99), (16, 1, 9, 4), {"groups": 16, "padding": 4, "stride": 2}),
    "depthwise-dilated-lines": ((2, 16, 40, 33), (32, 1, 4, 3), {"groups": 16, "dilation": (3, 2), "padding": (7, 2)}),
    "depthwise-fill-past-the-kernel": ((1, 16, 5, 30), (16, 1, 3, 3), {"groups": 16, "padding": ((9, 4), (1, 1))}),
    "depthwise-tall-kernel-few-lines": ((2, 19, 3, 40), (19, 1, 9, 3), {"groups": 19, "padding": (4, 1)}),
    "depthwise-stride-2-wide": ((2, 16, 31, 131), (16, 1, 5, 5), {"groups": 16, "padding": 2, "stride": 2}),
    "depthwise-segments": ((1, 16, 9, 700), (16, 1, 3, 5), {"groups": 16, "padding": (1, 2)}),
    "depthwise-blocks-of-lines": ((1, 16, 151, 90), (16, 1, 5, 3), {"groups": 16, "padding": 1}),
    "no-axes": ((6, 70), (80, 70), {}),
    "axes-that-follow-on": ((2, 3, 10, 3, 4), (5, 3, 1, 1, 1), {}),
    "one-line-for-all-threads": ((1, 600, 7, 7), (200, 600, 1, 1), {}),
}


# The same for kernels of their own: lanes, rows, channels, boxes, chunks, with few batch entries and with many.
LOCAL = {
    "few-entries": ((2, 3, 12, 40), (17, 3, 3, 3), {"padding": 1}),
    "few-channels": ((1, 1, 40, 30), (1, 1, 3, 3), {"padding": 1}),
    "a-batch": ((21, 3, 9, 18), (7, 3, 3, 3), {"padding": 1}),
    "a-batch-in-blocks": ((130, 2, 6, 7), (3, 2, 2, 3), {}),
    "many-rows": ((2, 3, 4, 5), (300, 3, 3, 3), {}),
    "many-rows-in-a-batch": ((9, 3, 4, 5), (150, 3, 3, 3), {}),
    "many-channels": ((3, 150, 5, 5), (9, 150, 3, 3), {}),
    "many-channels-in-a-batch": ((30, 150, 5, 5), (4, 150, 3, 3), {}),
    "boxes-that-overlap": ((40, 3, 70, 66), (2, 3, 3, 5), {"padding": 2}),
    "a-long-line": ((3, 1, 9000), (2, 1, 5), {"stride": 2}),
    "a-kernel-of-many-taps": ((2, 2, 24, 25), (9, 2, 20, 21), {"padding": (0, 1)}),
    "residues": ((3, 4, 20, 23), (9, 4, 3, 3), {"dilation": (4, 3), "stride": (6, 2), "padding": 3}),
    "rank-3": ((5, 2, 6, 7, 9), (6, 2, 2, 3, 2), {"padding": 1, "stride": (1, 2, 1)}),
    "depthwise": ((4, 9, 8, 9), (18, 1, 3, 3), {"groups": 9, "padding": 1}),
    "no-axes": ((6, 70), (80, 70), {}),
}
LOCAL = {f"local-{name}": (x, w, {**options, "local": True}) for name, (x, w, options) in LOCAL.items()}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int8", "complex64"])
@pytest.mark.parametrize("name", LARGE | LOCAL)
def test_large(name, dtype, level):
    x, w, options = (LARGE | LOCAL)[name]
    if dtype == "complex64" and name not in ("lines-in-blocks", "depthwise", "local-depthwise"):
        pytest.skip("parts are real contractions")
    if dtype == "int8" and name not in ("lines-in-blocks", "axes-that-follow-on", "depthwise", "local-depthwise"):
        pytest.skip("results of another type than sums")
    check(x, w, dtype, level, **options)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_slices_one_after_the_other(dtype, level):
    """A weight gradient that is too large to keep many: slices add to the sums of those before."""
    form, _ = layer((1, 64, 9000), (64, 64, 70), None, np.dtype(dtype))
    form = form.weight_grad()
    g, x, _ = operands(form)
    windows = np.lib.stride_tricks.sliding_window_view(x[0, 0].astype(np.float64), 70, axis=1)
    want = np.tensordot(g[0, 0].astype(np.float64), windows, ([1], [1]))
    for count in (1, 2):
        assert np.array_equal(layer_methods.contract(form, g, x, "direct", level=level, count=count)[0], want)


@pytest.mark.parametrize("groups", [1, 32])
@pytest.mark.parametrize("layout", ["F", "reversed", "strided", "misaligned", "swapped"])
@pytest.mark.parametrize(("local", "batch"), [(False, 2), (True, 2), (True, 19)])
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_layouts(dtype, local, batch, layout, groups):
    shapes = (batch, 6, 12, 13), (9, 6, 3, 4)
    if groups > 1:
        shapes = (batch, groups, 12, 23), (groups, 1, 3, 4)
    form = shared(*shapes, dtype, padding=1, stride=2, local=local, groups=groups)
    for result in RESULTS:
        one = replace(form, result=result)
        a, b, _ = operands(one)
        want = layer_methods.contract(one, a, b, "direct")
        assert np.array_equal(layer_methods.contract(one, laid_out(a, layout), laid_out(b, layout), "direct"), want)


def test_local_kernels_that_are_one():
    """Weights may be a broadcast view: kernels that repeat along positions, channels that repeat within one."""
    form = shared((2, 6, 12, 13), (9, 6, 3, 4), padding=1, local=True)
    x, w, _ = operands(form)
    for repeated in (w[:1, :1], w[..., :1, :, :], w[..., :1]):
        repeated = np.broadcast_to(repeated, w.shape)
        want = layer_methods.contract(form, x, repeated, "reference")
        assert np.array_equal(layer_methods.contract(form, x, repeated, "direct"), want)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", LARGE | LOCAL)
class TestSameBits:
    def test_any_number_of_threads(self, name, level):
        x, w, options = (LARGE | LOCAL)[name]
        form = shared(x, w, **options)
        for result in RESULTS:
            one = replace(form, result=result)
            a, b, bias = operands(one, make=real)
            want = layer_methods.contract(one, a, b, "direct", bias, level=level, count=1)
            for count in (2, 3, 7):
                got = layer_methods.contract(one, a, b, "direct", bias, level=level, count=count)
                assert same_bits(got, want), f"result {result}, {count} threads"

    def test_any_batch(self, name, level):
        x, w, options = (LARGE | LOCAL)[name]
        batch = 20 if options.get("local") else 3
        form = shared((batch, *x[1:]), w, **options)
        for result in ("y", "x"):
            one = replace(form, result=result)
            a, b, _ = operands(one, make=real)
            whole_batch = layer_methods.contract(one, a, b, "direct", level=level)
            for some in (slice(0, 1), slice(batch - 1, batch), slice(1, 3), slice(0, batch - 1)):
                entries = a[some]
                got = layer_methods.contract(replace(one, batch=len(entries)), entries, b, "direct", level=level)
                assert same_bits(got, whole_batch[some])


@pytest.mark.parametrize("groups", [1, 20])
def test_the_same_window_anywhere(groups):
    """A picture moved by any number of samples gives the result moved by as many, to the last bit."""
    rng = np.random.default_rng(0)
    x, w = real(rng, (1, 5, 40, 90), "float32"), real(rng, (7, 5, 3, 3), "float32")
    if groups > 1:
        x, w = real(rng, (1, groups, 40, 290), "float32"), real(rng, (groups, 1, 3, 3), "float32")
    want = fastcorr.conv(x, w, groups=groups)
    for top in (1, 2, 5):
        for left in (1, 3, 17, 40):
            got = fastcorr.conv(x[:, :, top:, left:].copy(), w, groups=groups)
            assert same_bits(got, want[:, :, top:, left:])


@pytest.mark.parametrize("result", ["y", "x"])
@pytest.mark.parametrize("name", [name for name in LARGE if name.startswith("depthwise")])
def test_channels_last(name, result):
    """Operand and result with all channels of a position side by side: the same bits, though lanes are other ones."""
    x, w, options = LARGE[name]
    form = replace(shared(x, w, **options), result=result)
    a, b, bias = operands(form, make=real)
    want = layer_methods.contract(form, a, b, "direct", bias)
    axes = 0, a.ndim - 2, a.ndim - 1, *range(1, a.ndim - 2)
    last = np.ascontiguousarray(a.transpose(np.argsort(axes))).transpose(axes)
    batch, groups, rows, *size = want.shape
    out = np.empty((batch, *size, groups, rows), np.float32).transpose(axes)
    layer_methods.contract(form, last, b, "direct", bias, out=out)
    assert same_bits(out, want)


@pytest.mark.parametrize("name", [name for name in LARGE if name.startswith("depthwise")])
def test_a_result_inside_an_array(name):
    """Nothing is written beside it."""
    x, w, options = LARGE[name]
    form = shared(x, w, **options)
    a, b, bias = operands(form)
    around = np.full([n + 2 for n in form.out_shape], 7, np.float32)
    inside = tuple(slice(1, -1) for _ in form.out_shape)
    layer_methods.contract(form, a, b, "direct", bias, out=around[inside])
    assert np.array_equal(around[inside], layer_methods.contract(form, a, b, "reference", bias))
    around[inside] = 7
    assert (around == 7).all()


@pytest.mark.parametrize("groups", [1, 19])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize(("local", "batch"), [(False, 2), (True, 2), (True, 19)])
def test_nan_stays_local(local, batch, result, value, groups):
    """It reaches what the definition says, and no lane that is computed only to fill a tile."""
    shapes = (batch, 3, 9, 21), (9, 3, 3, 3)
    if groups > 1:
        shapes = (batch, groups, 9, 21), (2 * groups, 1, 3, 3)
    form = shared(*shapes, padding=1, stride=(1, 2), local=local, groups=groups)
    one = replace(form, result=result)
    for which in (0, 1):
        arrays = operands(one)[:2]
        arrays[which].reshape(-1)[13] = value
        with np.errstate(invalid="ignore"):
            want = layer_methods.contract(one, *arrays, "reference")
        assert not np.isfinite(want).all()
        assert np.array_equal(layer_methods.contract(one, *arrays, "direct"), want, equal_nan=True)


@pytest.mark.parametrize("level", LEVELS)
def test_a_last_segment_of_one_position(level):
    """Of a depthwise line; what its vector leaves past the end must not stay."""
    form = shared((1, 16, 2, 255 * 256 + 3), (16, 1, 1, 3), groups=16)
    a, b, _ = operands(form)
    want = layer_methods.contract(form, a, b, "reference")
    assert np.array_equal(layer_methods.contract(form, a, b, "direct", level=level, count=1), want)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", RULES)
def test_every_second_sample(rule, kernel, level):
    """Strides of 2 part lines into samples of even and of odd number, a vector of each at a time."""
    for size in (2, 15, 16, 17, 33, 70):
        padding = [(1, 0), (kernel + 1, 3 * kernel)]
        options = {"stride": 2, "padding": padding, "boundary": rule}
        check((2, 3, 4, size), (9, 3, min(kernel, 3), kernel), "float32", level, (1,), ("y",), **options)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("channels", [8, 15, 24, 32, 40, 49, 56, 64, 80, 88])
def test_channels_as_lanes(channels, level):
    """Any number of vectors of output channels, in tiles of three and four; runs of positions of any length."""
    for size in ((1, 5), (3, 3), (7, 7), (5, 19), (9, 130)):
        check((2, 40, *size), (channels, 40, 1, 1), "float32", level, (1, 2), ("y",))
        check((2, 20, *size), (channels, 20, 3, 3), "float32", level, (1, 2), ("y",), padding=1, stride=2)


def test_a_refusal_says_why():
    x, w = np.ones((1, 1, 4), np.longdouble), np.ones((1, 1, 2), np.longdouble)
    with pytest.raises(ValueError, match="no kernel for"):
        fastcorr.conv(x, w, method="direct")
    assert fastcorr.conv(x, w).dtype == np.longdouble
