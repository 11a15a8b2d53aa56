"""The layer face is right: conv, conv_transpose and local_conv against plain loops, PyTorch and JAX; errors; layers.

`loops` spells the formula of contraction.py out in Python integers on an explicitly padded array and shares nothing
with fastcorr. Data are integer-valued and comparisons exact. Budget: 25 seconds.
"""

import random
from itertools import product
from math import prod

import numpy as np
import pytest
from common import COMPLEX, DTYPES, LAYOUTS, RULES, SLOW, laid_out, whole
from layer_cases import FACES, METHODS, LayerCase, call, random_layer

from fastcorr import contraction, gradients, layers, nn

SYNONYM = {"edge": "replicate", "reflect": "mirror", "wrap": "circular"}


def padded(x, pairs, rules, fill):
    """`x` extended and cropped along its last axes, by numpy.pad one axis after the other."""
    first = x.ndim - len(pairs)
    for axis, ((lo, hi), rule) in enumerate(zip(pairs, rules, strict=True), first):
        width = [(0, 0)] * x.ndim
        width[axis] = (max(lo, 0), max(hi, 0))
        x = np.pad(x, width, rule, **({"constant_values": fill} if rule == "constant" else {}))
        x = np.take(x, range(max(-lo, 0), x.shape[axis] - max(-hi, 0)), axis)
    if x.dtype == object:  # numpy.pad fills with numbers of its own
        x = np.frompyfunc(lambda v: getattr(v, "item", lambda: v)(), 1, 1)(x)
    return x


def loops(case):
    """The formula, one multiplication at a time, in Python's own numbers."""
    x, w, bias = (None if a is None else a.astype(object) for a in case.arrays())
    rank, groups, local = case.rank, case.options.get("groups", 1), case.face == "local_conv"
    if x.ndim == rank + 1:
        return loops_of(case, x[None], w, bias, rank, groups, local)[0]
    return loops_of(case, x, w, bias, rank, groups, local)


def loops_of(case, x, w, bias, rank, groups, local):
    stride, dilation, pairs, span = case.each("stride", 1), case.each("dilation", 1), case.pairs(), case.span()
    if case.options.get("flip"):
        w = np.flip(w, tuple(range(w.ndim - rank, w.ndim)))
    rows, columns = w.shape[rank if local else 0 :][:2]
    kernel = w.shape[w.ndim - rank :]
    size = x.shape[2:]
    if case.face == "conv_transpose":
        extra = case.each("output_padding", 0)
        whole_size = [(n - 1) * s + k + e for n, s, k, e in zip(size, stride, span, extra, strict=True)]
        if case.options.get("padding") in ("same", "same_lower"):
            whole_size = [n * s + lo + hi for n, s, (lo, hi) in zip(size, stride, pairs, strict=True)]
        y = np.zeros((len(x), columns * groups, *whole_size), object)
        for n, c, o in product(range(len(x)), range(rows), range(columns)):
            target = c // (rows // groups) * columns + o
            for i, j in product(np.ndindex(size), np.ndindex(kernel)):
                u = [s * a + d * b for s, a, d, b in zip(stride, i, dilation, j, strict=True)]
                y[(n, target, *u)] += x[(n, c, *i)] * w[(c, o, *j)]
        return finished(case, padded(y, [(-lo, -hi) for lo, hi in pairs], ("constant",) * rank, 0), bias)
    synonyms = {"nearest": "edge", "mirror": "reflect", "circular": "wrap"}
    rules = [synonyms.get(rule, rule) for rule in case.each("boundary", "constant")]
    x = padded(x, pairs, rules, case.options.get("fill", 0))
    out = [(n - k) // s + 1 for n, k, s in zip(x.shape[2:], span, stride, strict=True)]
    y = np.zeros((len(x), rows, *out), object)
    for n, o, c in product(range(len(x)), range(rows), range(columns)):
        source = o // (rows // groups) * columns + c
        for i, j in product(np.ndindex(*out), np.ndindex(kernel)):
            u = [s * a + d * b for s, a, d, b in zip(stride, i, dilation, j, strict=True)]
            y[(n, o, *i)] += w[(*(i if local else ()), o, c, *j)] * x[(n, source, *u)]
    return finished(case, y, bias)


def finished(case, y, bias):
    """`y` with its bias, as numbers of the case's dtype."""
    if bias is not None:
        y = y + bias.reshape(bias.shape + (1,) * (y.ndim - 1 - bias.ndim))
    dtype = np.dtype(case.dtype)
    if dtype.kind in "iu":
        bits = 8 * dtype.itemsize
        y = np.array([int(v) % 2**bits for v in y.ravel()], f"u{dtype.itemsize}").reshape(y.shape).view(dtype)
    return y.astype(dtype)


@pytest.mark.parametrize("method", METHODS)
class TestDefinition:
    """Random layers of every kind against the loops."""

    @pytest.mark.parametrize("face", FACES)
    @pytest.mark.parametrize("block", range(4))
    def test_random_layers(self, face, block, method):
        rng = random.Random(f"{face} {block}")
        for _ in range(25):
            case = random_layer(rng, faces=(face,))
            got = case.run(method=method)
            assert got.dtype == case.dtype
            np.testing.assert_array_equal(got, loops(case), err_msg=repr(case))

    @pytest.mark.parametrize("dtype", [*DTYPES, *SLOW])
    @pytest.mark.parametrize("face", FACES)
    def test_dtypes(self, face, dtype, method):
        if method == "direct" and dtype in SLOW:
            pytest.skip("no kernel")
        rng = random.Random(f"{face} {dtype}")
        for _ in range(4):
            case = random_layer(rng, (face,), (dtype,), ranks=(1, 2), rules=("constant", "reflect"))
            got = case.run(method=method)
            assert got.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(got, loops(case), err_msg=repr(case))

    @pytest.mark.parametrize("face", FACES)
    def test_types_mix_as_numpy_does(self, face, method):
        rng = np.random.default_rng(1)
        w = (4, 4, 2, 3) if face == "local_conv" else (4, 2, 3)
        case = LayerCase(face, (2, 4, 6), w, (4,), {"groups": 2})
        types = ("bool", "int8", "uint16", "int64", "float16", "float32", "complex64", "complex128")
        for x_type, w_type, bias_type in product(types, types, ("bool", "float32", "complex64")):
            pairs = ((case.x, x_type), (case.w, w_type), (case.bias, bias_type))
            arrays = [whole(rng, shape, dtype, "natural") for shape, dtype in pairs]
            got = case.run(*arrays, method=method)
            assert got.dtype == np.result_type(*arrays)
            want = case.run(*(a.astype(got.dtype) for a in arrays))
            np.testing.assert_array_equal(got, want, err_msg=f"{x_type} {w_type} {bias_type}")

    def test_dtype_casts_first(self, method):
        x, w = np.array([[200, 100, 50]], np.uint8), np.array([[[2, 2]]], np.uint8)
        assert call(nn.conv, x, w, method=method).tolist() == [[88, 44]]
        got = call(nn.conv, x, w, [1.9], method=method, dtype=np.int32)
        assert got.dtype == np.int32
        assert got.tolist() == [[601, 301]]

    def test_float16_is_rounded_once(self, method):
        x, w = np.array([[2048, 1, 0, 1]], np.float16), np.ones((1, 1, 3), np.float16)
        assert call(nn.conv, x, w, np.array([1], np.float16), method=method).tolist() == [[2050, 3]]  # not 2048 + 1 + 1
        assert call(nn.conv, x, w, method=method, padding=[(0, -1)], fill=1).tolist() == [[2048]]
        assert call(nn.conv, x, w[..., 1:], method=method, dilation=3).tolist() == [[2048]]  # 2049, to even
        assert call(nn.conv, x[:, [0, 1, 3]], w, method=method).tolist() == [[2050]]

    @pytest.mark.parametrize("dtype", COMPLEX)
    def test_real_arrays_keep_the_parts_of_complex_ones_apart(self, dtype, method):
        part = np.empty(0, dtype).real.dtype
        infinite, real = np.array([[complex(np.inf, 1), complex(0, 2)]], dtype), np.array([[[3]]], part)
        for got in (
            call(nn.conv, infinite, real, method=method),
            call(nn.conv, real[0], infinite.reshape(2, 1, 1), method=method).T,
            call(nn.conv_transpose, infinite, real, method=method),
        ):
            assert got.dtype == dtype
            assert got.real.tolist() == [[np.inf, 0]]
            assert got.imag.tolist() == [[3, 6]]

    def test_fill_is_complex_where_only_the_kernel_is(self, method):
        x, w = np.ones((1, 3)), np.array([[[1, 2, 4j]]])
        got = call(nn.conv, x, w, method=method, padding=1, fill=2 + 1j)
        assert got.tolist() == [[(2 + 1j) + 2 + 4j, 3 + 4j, 3 + 4j * (2 + 1j)]]

    def test_fill_is_complex_where_only_the_data_or_the_bias_are(self, method):
        x, w, fill = np.ones((1, 3)), np.array([[[1, 2, 4]]]), 2 + 1j
        got = call(nn.conv, 1j * x, w, method=method, padding=1, fill=fill)
        assert got.tolist() == [[fill + 6j, 7j, 3j + 4 * fill]]
        got = call(nn.conv, x, w, [1j], method=method, padding=1, fill=fill)
        assert got.tolist() == [[fill + 6 + 1j, 7 + 1j, 3 + 4 * fill + 1j]]

    def test_a_nan_reaches_only_its_windows(self, method):
        x, w = np.ones((2, 2, 7)), np.zeros((2, 1, 3))
        x[0, 1, 3] = np.nan
        bad = np.isnan(call(nn.conv, x, w, method=method, groups=2))
        assert np.argwhere(bad).tolist() == [[0, 1, 1], [0, 1, 2], [0, 1, 3]]


class TestGeometry:
    """Padding and sizes."""

    @pytest.mark.parametrize("padding", ["same", "same_lower"])
    def test_same(self, padding):
        for n, k, s, d in product(range(8), range(1, 5), range(1, 5), range(1, 3)):
            form, _ = contraction.layer((1, n), (1, 1, k), None, np.dtype(float), padding=padding, stride=s, dilation=d)
            total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n) if n else d * (k - 1)
            less, more = total // 2, total - total // 2
            assert form.out_size == (-(-n // s),)
            assert form.padding == ((less, more) if padding == "same" else (more, less),)

    def test_ways_to_say_it(self):
        x, w = whole(np.random.default_rng(0), (2, 7, 8), "int64"), np.arange(24).reshape(2, 2, 2, 3)
        for one, *others in [
            (2, (2, 2), [2, 2], ((2, 2), (2, 2)), np.int8(2), np.array([2, 2]), (2, (2, 2)), np.full((2, 2), 2)),
            (((0, 1), (1, 1)), "same", [(0, 1), 1]),
            (((1, 0), (1, 1)), "same_lower"),
            (0, "valid", ((0, 0), (0, 0))),
            (-1, ((-1, -1), -1)),
        ]:
            want = nn.conv(x, w, padding=one)
            for other in others:
                np.testing.assert_array_equal(nn.conv(x, w, padding=other), want)
        for rule, word in SYNONYM.items():
            want = nn.conv(x, w, padding=9, boundary=rule)
            np.testing.assert_array_equal(nn.conv(x, w, padding=9, boundary=(word, rule)), want)

    def test_crops_read_the_middle(self):
        x, w = whole(np.random.default_rng(0), (2, 9), "int64"), np.arange(6).reshape(1, 2, 3)
        np.testing.assert_array_equal(nn.conv(x, w, padding=[(-2, -1)]), nn.conv(x[:, 2:8], w))
        got = nn.conv(x, w, padding=[(-2, 4)], boundary="reflect")
        np.testing.assert_array_equal(got, nn.conv(np.pad(x, ((0, 0), (0, 4)), "reflect")[:, 2:], w))

    def test_rank_0_is_a_matrix_product(self):
        rng = np.random.default_rng(0)
        x, w = whole(rng, (5, 6), "int64"), whole(rng, (4, 6), "int64")
        np.testing.assert_array_equal(nn.conv(x, w), x @ w.T)
        np.testing.assert_array_equal(nn.conv(x[0], w, np.arange(4)), w @ x[0] + np.arange(4))
        np.testing.assert_array_equal(nn.local_conv(x, w), x @ w.T)
        np.testing.assert_array_equal(nn.conv_transpose(x, w.T), x @ w.T)

    def test_transpose_is_the_input_gradient(self):
        rng = random.Random(0)
        for _ in range(60):
            case = random_layer(rng, ("conv",), rules=("constant",))
            case.options.pop("fill", None)
            case.options.pop("boundary", None)
            x, w, _ = case.arrays()
            g = case.gradient()
            pads = {"padding": tuple(case.pairs())}
            sizes = (a.shape[a.ndim - case.rank :] for a in (x, g))
            rows = zip(*sizes, case.each("stride", 1), case.span(), case.pairs(), strict=True)
            extra = tuple(n - ((m - 1) * s + k - lo - hi) for n, m, s, k, (lo, hi) in rows)
            got = nn.conv_transpose(g, w, output_padding=extra, **case.options | pads)
            np.testing.assert_array_equal(got, case.vjp(g, x, w)[0], err_msg=repr(case))

    def test_local_is_conv_where_the_kernels_are_equal(self):
        rng = random.Random(0)
        for _ in range(60):
            case = random_layer(rng, ("conv",))
            x, w, bias = case.arrays()
            want = case.run()
            w = np.broadcast_to(w, want.shape[want.ndim - case.rank :] + w.shape)
            np.testing.assert_array_equal(nn.local_conv(x, w, bias, **case.options), want, err_msg=repr(case))

    def test_empty(self):
        w = np.ones((4, 2, 3))
        assert nn.conv(np.ones((0, 2, 5)), w).shape == (0, 4, 3)
        assert nn.conv(np.ones((3, 2, 0)), w, padding=1).shape == (3, 4, 0)
        assert nn.conv(np.ones((3, 2, 0)), w, padding="same", stride=2).shape == (3, 4, 0)
        assert nn.conv(np.ones((2, 0)), w, [1, 2, 3, 4], padding=2, fill=1).tolist() == [[v] * 2 for v in (7, 8, 9, 10)]
        assert nn.conv_transpose(np.ones((0, 4, 5)), w).shape == (0, 2, 7)
        assert nn.conv_transpose(np.ones((3, 4, 0)), w, padding=1).shape == (3, 2, 0)
        assert nn.local_conv(np.ones((0, 2, 5)), np.ones((3, 4, 2, 3))).shape == (0, 4, 3)
        assert nn.local_conv(np.ones((3, 2, 0)), np.ones((0, 4, 2, 3)), padding=1).shape == (3, 4, 0)

    def test_contractions_know_each_other(self):
        form, unbatched = contraction.layer((2, 9, 8), (4, 1, 3, 3), (4,), np.dtype("c8"), groups=2, stride=2, fill=1j)
        assert unbatched
        assert form.shapes == {"x": (1, 2, 1, 9, 8), "w": (2, 2, 1, 3, 3), "y": (1, 2, 2, 4, 3)}
        assert form.flops == 8 * (4 * 4 * 3) * 9
        assert form.input_grad().operands == ("y", "w")
        assert form.weight_grad().operands == ("y", "x")
        assert form.input_grad().weight_grad().forward() == form
        assert hash(form.weight_grad().forward()) == hash(form)
        assert form.part("imag").fill == np.float32(1)
        assert form.part("real").dtype == np.float32


@pytest.mark.parametrize("method", METHODS)
class TestTorch:
    """PyTorch, ranks 1 to 3: on arrays padded before, with padding of its own, with its boundaries."""

    def test_conv(self, method):
        torch = pytest.importorskip("torch")
        f = torch.nn.functional
        rng = random.Random(0)
        for _ in range(60):
            case = random_layer(rng, ("conv",), ("float32", "float64", *COMPLEX), (1, 2, 3))
            x, w, bias = case.arrays()
            if 0 in x.shape:
                continue
            x = padded(x, case.pairs(), case.each("boundary", "constant"), case.options.get("fill", 0))
            x, w, bias = (None if a is None else torch.from_numpy(a) for a in (x, w, bias))
            if case.options.get("flip"):
                w = w.flip(tuple(range(2, w.ndim)))
            conv = getattr(f, f"conv{case.rank}d")
            stride, dilation, groups = (case.options[name] for name in ("stride", "dilation", "groups"))
            want = conv(x, w, bias, stride, 0, dilation, groups)
            np.testing.assert_array_equal(case.run(method=method), want.numpy(), err_msg=repr(case))

    @pytest.mark.filterwarnings("ignore:Using padding='same'")
    def test_paddings_of_its_own(self, method):
        torch = pytest.importorskip("torch")
        rng = np.random.default_rng(0)
        for k, d, p in product(range(1, 5), (1, 2), ("same", "valid", 0, 2, (1, 3))):
            x, w = whole(rng, (2, 3, 9, 8), "float64"), whole(rng, (4, 3, k, 2), "float64")
            want = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(w), None, 1, p, d)
            np.testing.assert_array_equal(call(nn.conv, x, w, method=method, padding=p, dilation=d), want.numpy())

    @pytest.mark.parametrize("rule", ["replicate", "reflect", "circular"])
    def test_boundaries(self, rule, method):
        torch = pytest.importorskip("torch")
        f = torch.nn.functional
        rng = np.random.default_rng(0)
        for rank in (1, 2, 3):
            x, w = (
                whole(rng, (2, 3, 5, 6, 4)[: rank + 2], "float64"),
                whole(rng, (4, 3, 3, 2, 3)[: rank + 2], "float64"),
            )
            pairs = ((2, 3), (0, 1), (3, 2))[:rank]
            spread = f.pad(torch.from_numpy(x), [n for pair in reversed(pairs) for n in pair], mode=rule)
            want = getattr(f, f"conv{rank}d")(spread, torch.from_numpy(w), stride=2)
            got = call(nn.conv, x, w, method=method, stride=2, padding=pairs, boundary=rule)
            np.testing.assert_array_equal(got, want.numpy())

    def test_conv_transpose(self, method):
        torch = pytest.importorskip("torch")
        rng = random.Random(0)
        seen = 0
        while seen < 60:
            case = random_layer(rng, ("conv_transpose",), ("float32", "float64", "complex128"), (1, 2, 3))
            pads = case.pairs()
            same = case.options.get("padding") in ("same", "same_lower")
            if same or 0 in case.x or any(lo != hi or lo < 0 for lo, hi in pads):
                continue
            x, w, bias = (None if a is None else torch.from_numpy(a) for a in case.arrays())
            if case.options.get("flip"):
                w = w.flip(tuple(range(2, w.ndim)))
            stride, dilation, groups = (case.options[name] for name in ("stride", "dilation", "groups"))
            extra = case.options.get("output_padding", 0)
            f = getattr(torch.nn.functional, f"conv_transpose{case.rank}d")
            want = f(x, w, bias, stride, [lo for lo, _ in pads], extra, groups, dilation)
            np.testing.assert_array_equal(case.run(method=method), want.numpy(), err_msg=repr(case))
            seen += 1


@pytest.mark.parametrize("method", METHODS)
class TestJax:
    """JAX: rank 4 and 5, "same" with a stride, and kernels that are not shared."""

    @pytest.mark.parametrize("rank", [1, 4, 5])
    @pytest.mark.parametrize("padding", ["valid", "same", "same_lower", "pairs"])
    def test_conv(self, rank, padding, method):
        lax = pytest.importorskip("jax.lax")
        rng = np.random.default_rng(0)
        x, w = (
            whole(rng, (2, 4, 6, 5, 4, 3, 3)[: rank + 2], "float32"),
            whole(rng, (4, 2, 3, 2, 2, 1, 2)[: rank + 2], "float32"),
        )
        pairs = [(2, -1), (0, 1), (1, 0), (2, 2), (0, 0)][:rank]
        want = lax.conv_general_dilated(x, w, (2,) * rank, pairs if padding == "pairs" else padding.upper(),
                                        rhs_dilation=(1,) * rank, feature_group_count=2)  # fmt: skip
        got = call(nn.conv, x, w, method=method, stride=2, padding=pairs if padding == "pairs" else padding, groups=2)
        np.testing.assert_array_equal(got, want)

    @pytest.mark.parametrize("rank", [1, 2, 3])
    def test_local_conv(self, rank, method):
        lax = pytest.importorskip("jax.lax")
        rng = np.random.default_rng(0)
        x, kernel = whole(rng, (2, 3, 6, 5, 4)[: rank + 2], "float32"), (2, 3, 2)[:rank]
        for stride, pairs in ((1, [(0, 0)] * rank), (2, [(1, 2), (0, 1), (2, 0)][:rank])):
            places = [(n + sum(p) - k) // stride + 1 for n, p, k in zip(x.shape[2:], pairs, kernel, strict=True)]
            w = whole(rng, (*places, 4, 3, *kernel), "float32")
            flat = np.moveaxis(w.reshape(*places, 4, -1), -2, 0)  # (O, *places, C * K)
            flat = np.moveaxis(flat, -1, 1)
            want = lax.conv_general_dilated_local(x, flat, (stride,) * rank, pairs, kernel)
            np.testing.assert_array_equal(call(nn.local_conv, x, w, method=method, stride=stride, padding=pairs), want)


CALLS = {
    "conv": LayerCase("conv", (2, 4, 6, 5), (6, 2, 3, 2), (6,), {"groups": 2, "padding": 1}),
    "conv_transpose": LayerCase("conv_transpose", (2, 4, 6, 5), (4, 3, 3, 2), (6,), {"groups": 2, "stride": 2}),
    "local_conv": LayerCase("local_conv", (2, 4, 6, 5), (4, 4, 6, 2, 3, 2), (6, 4, 4), {"groups": 2}),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CALLS.values(), ids=CALLS)
class TestArrays:
    """What goes in and comes out."""

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_any_layout_in(self, case, layout, method):
        for position in range(3):
            arrays = list(case.arrays())
            arrays[position] = laid_out(arrays[position], layout)
            want = case.run(*(np.array(a, np.int64) for a in arrays))
            np.testing.assert_array_equal(case.run(*arrays, method=method), want)

    def test_plain_arrays_out(self, case, method):
        for arrays in (case.arrays(), [np.ma.masked_array(a) for a in case.arrays()]):
            y = case.run(*arrays, method=method)
            assert type(y) is np.ndarray
            assert y.flags.c_contiguous
            assert y.flags.writeable

    def test_unbatched_is_a_batch_of_one(self, case, method):
        x, w, bias = case.arrays()
        want = case.run(x[1:], w, bias)
        np.testing.assert_array_equal(case.run(x[1], w, bias, method=method), want[0])

    @pytest.mark.parametrize("layout", ["C", "F", "reversed", "strided", "misaligned", "swapped"])
    def test_out(self, case, layout, method):
        want = case.run()
        out = laid_out(np.zeros(want.shape, want.dtype), layout)
        assert case.run(method=method, out=out) is out
        np.testing.assert_array_equal(out, want)

    def test_out_may_overlap(self, case, method):
        x, w, bias = case.arrays()
        want = case.run()
        room = np.zeros(max(x.size, want.size) + 7, np.int64)
        for offset in (0, 3, 7):
            for position, a in enumerate((x, w, bias)):
                room = np.zeros(max(a.size, want.size) + 7, np.int64)
                out, shared = room[offset : offset + want.size].reshape(want.shape), room[: a.size].reshape(a.shape)
                shared[...] = a
                arrays = [shared if i == position else b for i, b in enumerate((x, w, bias))]
                np.testing.assert_array_equal(case.run(*arrays, method=method, out=out), want)

    def test_out_that_does_not_fit(self, case, method):
        want = case.run()
        for out, exception, message in [
            (np.empty(want.shape[1:], want.dtype), ValueError, r"out has shape \(.*the result has"),
            (np.empty(want.shape, "float64"), TypeError, "out.*float64.*int64"),
            (want.tolist(), TypeError, "out.*list"),
            (np.broadcast_to(np.zeros(1, want.dtype), want.shape), ValueError, "out.*read-only"),
        ]:
            with pytest.raises(exception, match=message):
                case.run(method=method, out=out)

    def test_inputs_are_left_alone(self, case, method):
        arrays = case.arrays()
        case.run(*arrays, method=method)
        for a, b in zip(arrays, case.arrays(), strict=True):
            np.testing.assert_array_equal(a, b)


X, W = np.ones((2, 4, 6, 5)), np.ones((6, 2, 3, 2))
V = np.ones((4, 4, 6, 2, 3, 2))
TWO = {"groups": 2}

ARGUMENTS = [
    # dtypes
    ("x-object", "conv", np.full(X.shape, None), W, None, TWO, TypeError, "x.*object"),
    ("w-strings", "conv", X, np.full(W.shape, "a"), None, TWO, TypeError, "w.*<U1"),
    ("bias-dates", "conv", X, W, np.zeros(6, "M8[D]"), TWO, TypeError, "bias.*datetime64"),
    ("x-none", "conv", None, W, None, TWO, TypeError, "x.*object"),
    ("dtype-object", "conv", X, W, None, {**TWO, "dtype": object}, TypeError, "dtype.*object"),
    ("dtype-real-for-complex-bias", "conv", X, W, 1j * np.ones(6), {**TWO, "dtype": float}, TypeError,
     "float64.*bias.*complex128"),
    # shapes of w
    ("w-vector", "conv", X, np.ones(3), None, {}, ValueError, "w has 1 axes.*2"),
    ("w-empty-kernel", "conv", X, np.ones((6, 2, 3, 0)), None, TWO, ValueError, r"w.*axis 3.*\(6, 2, 3, 0\)"),
    ("w-empty-channels", "conv", np.ones((2, 0, 5)), np.ones((6, 0, 3)), None, {}, ValueError, "w.*axis 1"),
    ("local-w-odd", "local_conv", X, np.ones((4, 6, 2, 3, 2)), None, TWO, ValueError, "w has 5 axes.*even"),
    ("local-w-empty", "local_conv", X, np.ones((4, 4, 0, 2, 3, 2)), None, TWO, ValueError, "w.*axis 2"),
    ("local-w-positions", "local_conv", X, np.ones((4, 5, 6, 2, 3, 2)), None, TWO, ValueError,
     "w.*5 positions along axis 1.*4"),
    # shapes of x
    ("x-too-few", "conv", X[0, 0], W, None, TWO, ValueError, "x has 2 axes.*4.*3"),
    ("x-too-many", "conv", X[None], W, None, TWO, ValueError, "x has 5 axes.*4.*3"),
    ("x-channels", "conv", X, W, None, {}, ValueError, "x has 4 channels along axis 1.*groups=1.*2"),
    ("x-channels-unbatched", "conv", X[0], W, None, {"groups": 3}, ValueError, "x has 4 channels along axis 0.*6"),
    ("x-channels-transpose", "conv_transpose", X, W, None, {}, ValueError, "x has 4 channels along axis 1.*6"),
    ("x-channels-local", "local_conv", X, V, None, {}, ValueError, "x has 4 channels along axis 1.*2"),
    ("kernel-longer", "conv", X, np.ones((6, 4, 3, 7)), None, {}, ValueError,
     "kernel is longer than x along spatial axis 1: 7 > 5; use padding='same'"),
    ("kernel-longer-dilated", "conv", X, np.ones((6, 4, 3, 2)), None, {"dilation": (3, 1)}, ValueError,
     "spatial axis 0: 7 > 6"),
    ("kernel-longer-padded", "conv", X, np.ones((6, 4, 9, 1)), None, {"padding": (1, 0)}, ValueError,
     r"longer than the padded x along spatial axis 0: 9 > 1 \+ 6 \+ 1"),
    ("cropped-away", "conv", X, np.ones((6, 4, 1, 1)), None, {"padding": [(-3, -3), 0]}, ValueError,
     "spatial axis 0: 1 > -3"),
    ("kernel-longer-local", "local_conv", X, np.ones((1, 1, 6, 4, 3, 7)), None, {}, ValueError, "axis 1: 7 > 5"),
    ("empty-x-wrap", "conv", np.ones((2, 0)), np.ones((1, 2, 1)), None, {"padding": 1, "boundary": "wrap"}, ValueError,
     "boundary='wrap'.*spatial axis 0.*empty"),
    # bias
    ("bias-length", "conv", X, W, np.ones(5), TWO, ValueError, "bias has 5 entries along axis 0.*6 channels"),
    ("bias-scalar", "conv", X, W, 1.0, TWO, ValueError, r"bias has shape \(\).*\(6,\)"),
    ("bias-rank", "conv", X, W, np.ones((6, 4, 4)), TWO, ValueError, r"bias has shape \(6, 4, 4\).*\(6,\)"),
    ("bias-transpose", "conv_transpose", X, np.ones((4, 3, 3, 2)), np.ones(4), TWO, ValueError,
     "bias has 4.*6 channels"),
    ("bias-local", "local_conv", X, V, np.ones((6, 4, 5)), TWO, ValueError,
     r"bias has shape \(6, 4, 5\).*\(6,\) or \(6, 4, 4\)"),
    # groups
    ("groups-zero", "conv", X, W, None, {"groups": 0}, ValueError, "groups is 0"),
    ("groups-float", "conv", X, W, None, {"groups": 2.0}, TypeError, r"groups.*2\.0"),
    ("groups-do-not-divide", "conv", X, np.ones((5, 2, 3, 2)), None, TWO, ValueError, "groups=2.*5 output channels"),
    ("groups-do-not-divide-transpose", "conv_transpose", X, W[:5], None, TWO, ValueError, "groups=2.*5 input channels"),
    # options per axis
    ("stride-zero", "conv", X, W, None, {**TWO, "stride": (1, 0)}, ValueError, "stride.*axis 1 is 0"),
    ("stride-float", "conv", X, W, None, {**TWO, "stride": 1.5}, TypeError, r"stride.*1\.5"),
    ("stride-many", "conv", X, W, None, {**TWO, "stride": (1, 1, 1)}, ValueError, "stride has 3 entries.*2 axes"),
    ("dilation-zero", "conv", X, W, None, {**TWO, "dilation": 0}, ValueError, "dilation.*axis 0 is 0"),
    ("dilation-none", "conv_transpose", X, W[:4], None, {"dilation": None}, TypeError, "dilation.*None"),
    ("boundary-unknown", "conv", X, W, None, {**TWO, "boundary": "zero"}, ValueError, "boundary='zero'.*'reflect'"),
    ("boundary-many", "local_conv", X, V, None, {**TWO, "boundary": ("wrap",)}, ValueError, "boundary has 1.*2"),
    ("fill-array", "conv", X, W, None, {**TWO, "fill": [1]}, TypeError, r"fill.*\[1\]"),
    ("fill-complex", "conv", X, W, None, {**TWO, "fill": 1j}, TypeError, "fill=1j.*float64"),
    # padding
    ("padding-unknown", "conv", X, W, None, {**TWO, "padding": "full"}, ValueError, "padding.*'same_lower'.*'full'"),
    ("padding-unknown-transpose", "conv_transpose", X, W[:4], None, {"padding": "full"}, ValueError, "padding.*'full'"),
    ("padding-none", "conv", X, W, None, {**TWO, "padding": None}, TypeError, "padding.*None"),
    ("padding-float", "conv", X, W, None, {**TWO, "padding": 1.5}, TypeError, r"padding.*1\.5"),
    ("padding-float-in-pair", "conv", X, W, None, {**TWO, "padding": [(1, 0.5), 0]}, TypeError, r"padding.*0\.5"),
    ("padding-triple", "conv", X, W, None, {**TWO, "padding": [(1, 1, 1), 0]}, ValueError, "padding.*1, 1, 1"),
    ("padding-many", "conv", X, W, None, {**TWO, "padding": (1, 1, 1)}, ValueError, "padding has 3 entries.*2 axes"),
    ("padding-one-pair-flat", "conv", X[..., 0], W[..., 0], None, {**TWO, "padding": (1, 1)}, ValueError,
     "padding has 2 entries.*1 axes"),
    # conv_transpose
    ("transpose-crops-all", "conv_transpose", np.ones((4, 2)), np.ones((4, 1, 3)), None, {"padding": 3}, ValueError,
     r"padding.*spatial axis 0: 3 \+ 3 > 4"),
    ("output-padding-large", "conv_transpose", X, W[:4], None, {"stride": (2, 3), "output_padding": (1, 3)}, ValueError,
     "output_padding.*axis 1 is 3.*less than 3"),
    ("output-padding-negative", "conv_transpose", X, W[:4], None, {"output_padding": -1}, ValueError,
     "output_padding.*axis 0 is -1"),
    ("output-padding-same", "conv_transpose", X, W[:4], None,
     {"stride": 2, "output_padding": (0, 1), "padding": "same"}, ValueError,
     "output_padding.*axis 1 is 1.*0 with padding='same'"),
    ("transpose-boundary", "conv_transpose", X, W[:4], None, {"boundary": "wrap"}, TypeError, "boundary"),
    # method and unknown options
    ("method-unknown", "conv", X, W, None, {**TWO, "method": "quick"}, ValueError, "method='quick'.*'auto'"),
    ("method-cannot", "conv", X.astype("g"), W, None, {**TWO, "method": "direct"}, ValueError, "method='direct'"),
    ("local-has-no-method", "local_conv", X, V, None, {**TWO, "method": "auto"}, TypeError, "method"),
    ("unknown-option", "conv", X, W, None, {**TWO, "strides": 2}, TypeError, "strides"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("face", "x", "w", "bias", "options", "exception", "message"),
    [pytest.param(*row[1:], id=row[0]) for row in ARGUMENTS],
)
class TestErrors:
    """Each message names the argument, the axis and the numbers; forward and gradient say the same."""

    def test_message(self, face, x, w, bias, options, exception, message):
        with pytest.raises(exception, match=f"(?s){message}") as caught:
            getattr(nn, face)(x, w, bias, **options)
        assert "\n" not in str(caught.value)
        assert 8 < len(str(caught.value)) < 250

    def test_gradient_says_it_too(self, face, x, w, bias, options, exception, message):
        shape = (2, 6, 4, 4) if "method" in options else (1,)
        with pytest.raises(exception, match=f"(?s){message}"):
            getattr(gradients, f"{face}_vjp")(np.ones(shape), x, w, bias, **options)

    def test_leaves_out_alone(self, face, x, w, bias, options, exception, message):
        out = np.full((2, 6, 4, 4), 7.25)
        with pytest.raises((exception, TypeError)):  # `out` may be the first to be refused
            getattr(nn, face)(x, w, bias, **options, out=out)
        assert (out == 7.25).all()


class TestLayers:
    """layers.Conv and layers.LocalConv: the faces with parameters."""

    def test_conv(self):
        options = {"stride": 2, "padding": "same", "groups": 2, "boundary": "reflect"}
        layer = layers.Conv(4, 6, (3, 5), rng=0, **options)
        x = np.random.default_rng(1).normal(size=(3, 4, 9, 8)).astype(np.float32)
        assert layer.weight.shape == (6, 2, 3, 5)
        assert layer.weight.dtype == layer.bias.dtype == np.float32
        assert not layer.bias.any()
        layer.bias[:] = range(6)
        y = layer(x)
        np.testing.assert_array_equal(y, nn.conv(x, layer.weight, layer.bias, **options))
        gx = layer.backward(y)
        expected = gradients.conv_vjp(y, x, layer.weight, layer.bias, **options)
        for got, want in zip((gx, layer.weight_grad, layer.bias_grad), expected, strict=True):
            np.testing.assert_array_equal(got, want)
        assert layer(x[0]).shape == y.shape[1:]
        assert layer.backward(y[0]).shape == x.shape[1:]

    def test_local_conv(self):
        options = {"stride": 2, "padding": [(1, 0), (0, 2)], "groups": 2}
        layer = layers.LocalConv(4, 6, 3, (9, 8), rank=2, rng=0, dtype="float64", **options)
        assert layer.weight.shape == (4, 4, 6, 2, 3, 3)
        assert layer.bias.shape == (6, 4, 4)
        x = np.random.default_rng(1).normal(size=(3, 4, 9, 8))
        layer.bias += 1
        y = layer(x)
        np.testing.assert_array_equal(y, nn.local_conv(x, layer.weight, layer.bias, **options))
        gx = layer.backward(y)
        expected = gradients.local_conv_vjp(y, x, layer.weight, layer.bias, **options)
        for got, want in zip((gx, layer.weight_grad, layer.bias_grad), expected, strict=True):
            np.testing.assert_array_equal(got, want)

    @pytest.mark.parametrize("rank", range(6))
    def test_ranks(self, rank):
        layer = layers.Conv(2, 3, 2, rank=rank, bias=False, rng=0)
        x = np.ones((2, 2, *(3,) * rank), np.float32)
        assert layer(x).shape == (2, 3, *(2,) * rank)
        assert layer.backward(layer(x)).shape == x.shape
        assert layer.bias is None
        assert layer.bias_grad is None
        local = layers.LocalConv(2, 3, 2, 3, rank=rank, rng=0)
        assert local(x).shape == (2, 3, *(2,) * rank)
        assert local.backward(local(x)).shape == x.shape
        assert local.weight_grad.shape == local.weight.shape

    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
    def test_he_initialisation(self, dtype):
        weight = layers.Conv(32, 64, (5, 5), groups=2, dtype=dtype, rng=np.random.default_rng(7)).weight
        assert weight.dtype == dtype
        assert abs(weight.mean()) < 0.002
        assert np.mean(np.abs(weight) ** 2) == pytest.approx(2 / (16 * 25), rel=0.03)
        np.testing.assert_array_equal(weight, layers.Conv(32, 64, (5, 5), groups=2, dtype=dtype, rng=7).weight)
        assert np.any(weight != layers.Conv(32, 64, (5, 5), groups=2, dtype=dtype).weight)

    def test_parameters_may_be_replaced(self):
        layer = layers.Conv(1, 1, (2,), rng=0)
        layer.weight, layer.bias = np.array([[[1, -1]]]), None
        assert layer([[3, 5, 4]]).tolist() == [[-2, 1]]
        assert layer.backward([[1, 2]]).tolist() == [[1, 1, -2]]
        assert layer.weight_grad.tolist() == [[[13, 13]]]
        assert layer.bias_grad is None

    def test_learns(self):
        """The edge kernel of a picture, by gradient descent."""
        x = np.ones((1, 1, 6, 8), np.float32)
        x[..., 2:6] = 0
        want = nn.conv(x, np.array([[[[1, -1]]]], np.float32))
        layer = layers.Conv(1, 1, (1, 2), bias=False, rng=0)
        for _ in range(20):
            layer.backward(2 * (layer(x) - want))
            layer.weight -= 0.03 * layer.weight_grad
        np.testing.assert_allclose(layer.weight.ravel(), [1, -1], atol=0.05)

    def test_errors(self):
        for make, exception, message in [
            (lambda: layers.Conv(2, 3, 3), ValueError, "kernel_size=3.*rank="),
            (lambda: layers.Conv(2, 3, (3, 3), rank=1), ValueError, "kernel_size has 2 entries.*1 spatial"),
            (lambda: layers.Conv(2, 3, (3, 0)), ValueError, "kernel_size along axis 1 is 0"),
            (lambda: layers.Conv(2, 3, (3, 1.5)), TypeError, r"kernel_size.*1\.5"),
            (lambda: layers.Conv(0, 3, (3,)), ValueError, "in_channels is 0"),
            (lambda: layers.Conv(2, -1, (3,)), ValueError, "out_channels is -1"),
            (lambda: layers.Conv(4, 6, (3,), groups=3), ValueError, "groups=3.*in_channels=4"),
            (lambda: layers.Conv(6, 4, (3,), groups=3), ValueError, "groups=3.*out_channels=4"),
            (lambda: layers.Conv(2, 3, (3,), dtype=int), TypeError, "dtype=int64"),
            (lambda: layers.Conv(2, 3, (3,), strides=2), TypeError, "Conv has no option strides"),
            (lambda: layers.LocalConv(2, 3, (3,), (5,), method="auto"), TypeError, "LocalConv has no option method"),
            (lambda: layers.LocalConv(2, 3, (3,), (5, 5)), ValueError, "in_size has 2 entries.*1 spatial"),
            (lambda: layers.LocalConv(2, 3, (3,), (2,)), ValueError, "spatial axis 0: 3 > 2"),
            (lambda: layers.Conv(2, 3, (3,)).backward(np.ones((3, 1))), ValueError, "backward"),
        ]:
            with pytest.raises(exception, match=message):
                make()

    def test_parameter_counts(self):
        """12 megapixels to 12 megapixels: dense, local and shared weights."""
        size, taps = (3000, 4000), (3, 3)
        form, _ = contraction.layer((1, *size), (1, 1, *taps), None, np.dtype("float32"), padding="same")
        assert prod(form.shapes["x"]) * prod(form.shapes["y"]) == 144 * 10**12
        assert prod(contraction.replace(form, local=True).shapes["w"]) == 108 * 10**6
        assert prod(form.shapes["w"]) == 9


def test_every_rule_is_drawn():
    """The random layers cover what they claim to."""
    rng = random.Random(0)
    cases = [random_layer(rng) for _ in range(400)]
    assert {case.face for case in cases} == set(FACES)
    assert {case.rank for case in cases} == set(range(6))
    assert {rule for case in cases for rule in case.each("boundary", "constant")} == set(RULES)
    assert {case.options.get("padding") for case in cases} >= {"same", "same_lower", "valid", -1, 2}
    assert any(case.x[0] == 0 for case in cases)
    assert any(len(case.x) == case.rank + 1 for case in cases)
    assert any(case.options.get("output_padding", ()) and max(case.options["output_padding"]) for case in cases)


def test_options_that_are_equal_but_not_alike():
    """A call is found again by how its options are written: 2.0 is no stride, though it equals 2."""
    x, w = np.ones((1, 1, 9)), np.ones((1, 1, 3))
    nn.conv(x, w, stride=2, padding=(1,))
    for options in ({"stride": 2.0}, {"padding": (1.0,)}, {"padding": 1.5}):
        with pytest.raises(TypeError):
            nn.conv(x, w, **{"stride": 2, "padding": (1,), **options})
