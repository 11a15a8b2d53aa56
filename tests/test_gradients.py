"""Every gradient of every face: adjoint to its function to the last bit, and PyTorch's and JAX's where they have it.

A function that is linear in an array is pinned down by ``<g, f(x)> = <gx, x>`` for random g and x: on integers, modulo
2**64, that is exact for any order of summation. Double backward calls the same functions again. Budget: 25 seconds.
"""

import random
from itertools import product

import numpy as np
import pytest
from common import COMPLEX, FLOATS, INTEGERS, LAYOUTS, RULES, laid_out, random_case, whole
from common import FACES as SIGNAL_FACES
from layer_cases import FACES, METHODS, LayerCase, call, random_layer

import fastcorr
from fastcorr import gradients, nn


def dot(a, b):
    """The sum of products, in a and b's own arithmetic."""
    return np.add.reduce((a * b).ravel(), dtype=a.dtype)


def signal_vjp(face):
    return getattr(gradients, f"{face}_vjp")


@pytest.mark.parametrize("method", METHODS)
class TestAdjoint:
    """<g, f(x, w, bias)> is <gx, x> and <gw, w> and, for the part of the bias, <gbias, bias>."""

    @pytest.mark.parametrize("face", FACES)
    @pytest.mark.parametrize("block", range(6))
    def test_layers(self, face, block, method):
        rng = random.Random(f"{face} {block}")
        for _ in range(40):
            self.check(random_layer(rng, (face,)), method)

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("face", ["conv", "local_conv"])
    def test_product_of_options(self, face, rule, method):
        """Each stride with each dilation, padding, grouping, flip and rank."""
        paddings = [(2, 2), (0, 3), (3, -1), (-1, -2), (9, 8)]
        for stride, dilation, padding, flip, rank in product((1, 2, 3), (1, 2), paddings, (False, True), (1, 2)):
            groups, c, o = (1, 2, 3) if rank == 1 else (3, 1, 1)
            size, kernel = (8, 6)[:rank], (3, 2)[:rank]
            pairs = (padding, (1, 0))[:rank]
            spans = [dilation * (k - 1) + 1 for k in kernel]
            places = [(n + lo + hi - k) // stride + 1 for n, (lo, hi), k in zip(size, pairs, spans, strict=True)]
            w = (*(places if face == "local_conv" else ()), o * groups, c, *kernel)
            options = {"stride": stride, "dilation": dilation, "padding": pairs, "groups": groups, "boundary": rule}
            case = LayerCase(face, (2, c * groups, *size), w, (o * groups,), {**options, "flip": flip}, values="full")
            self.check(case, method)

    @pytest.mark.parametrize("rank", range(6))
    @pytest.mark.parametrize("face", FACES)
    def test_every_rank(self, face, rank, method):
        rng = random.Random(f"{face} {rank}")
        for _ in range(6):
            self.check(random_layer(rng, (face,), ranks=(rank,)), method)

    @staticmethod
    def check(case, method):
        x, w, bias = case.arrays()
        zero = {} if case.face == "conv_transpose" else {"fill": 0}
        y = case.run(x, w, method=method)
        g = whole(np.random.default_rng(case.seed), y.shape, case.dtype)
        gx, gw, gbias = case.vjp(g, x, w, bias, method=method)
        for gradient, array in ((gx, x), (gw, w), (gbias, bias)):
            if array is None:
                assert gradient is None
                continue
            assert gradient.shape == array.shape, repr(case)
            assert gradient.dtype == array.dtype, repr(case)
        assert dot(gw, w) == dot(g, y), repr(case)
        assert dot(gx, x) == dot(g, case.run(x, w, method=method, **zero)), repr(case)
        if bias is not None:
            assert dot(gbias, bias) == dot(g, case.run(x, w, bias, method=method) - y), repr(case)

    @pytest.mark.parametrize("face", SIGNAL_FACES)
    @pytest.mark.parametrize("block", range(4))
    def test_signals(self, face, block, method):
        """Axes, batched kernels, axes that broadcast, anchors: the random calls of the signal face."""
        rng = random.Random(f"{face} {block}")
        for _ in range(50):
            case = random_case(rng, dtypes=("int64",))
            x, k = np.asarray(case.x.make()), np.asarray(case.k.make())
            options = {name: value for name, value in case.options.items() if name != "method"}
            y, zero = (getattr(fastcorr, face)(x, k, **options | more) for more in ({}, {"fill": 0}))
            g = whole(np.random.default_rng(case.x.seed), y.shape, "int64")
            gx, gk = call(signal_vjp(face), g, x, k, method=method, **options)
            assert gx.shape == x.shape, repr(case)
            assert gk.shape == k.shape, repr(case)
            assert dot(gk, k) == dot(g, y), repr(case)
            assert dot(gx, x) == dot(g, zero), repr(case)


@pytest.mark.parametrize("method", METHODS)
class TestTorch:
    """PyTorch's autograd: first and second derivatives, real and complex."""

    DTYPES = ("float32", "float64", "complex64", "complex128")

    @staticmethod
    def function(torch, case):
        """The same function in torch, on tensors, for padding that torch can do."""
        f = torch.nn.functional
        stride, dilation, groups = (case.options[name] for name in ("stride", "dilation", "groups"))
        pads, extra = case.pairs(), case.options.get("output_padding", 0)

        def forward(x, w, bias=None):
            if case.options.get("flip"):
                w = w.flip(tuple(range(2, w.ndim)))
            if case.face == "conv_transpose":
                g = getattr(f, f"conv_transpose{case.rank}d")
                return g(x, w, bias, stride, [lo for lo, _ in pads], extra, groups, dilation)
            return getattr(f, f"conv{case.rank}d")(x, w, bias, stride, [lo for lo, _ in pads], dilation, groups)

        return forward

    @classmethod
    def cases(cls, face, count, dtypes=DTYPES):
        """Random layers whose padding torch has too, not empty."""
        rng = random.Random(f"{face} torch")
        while count:
            case = random_layer(rng, (face,), dtypes, (1, 2, 3), ("constant",))
            even = all(lo == hi >= 0 for lo, hi in case.pairs())
            transposed_same = face == "conv_transpose" and str(case.options.get("padding")).startswith("same")
            if even and 0 not in case.x and not transposed_same:
                case.options.pop("fill", None)
                count -= 1
                yield case

    @pytest.mark.parametrize("face", ["conv", "conv_transpose"])
    def test_first(self, face, method):
        torch = pytest.importorskip("torch")
        for case in self.cases(face, 60):
            arrays = case.arrays()
            g = case.gradient()
            tensors = [None if a is None else torch.from_numpy(a).requires_grad_() for a in arrays]
            y = self.function(torch, case)(*tensors)
            want = torch.autograd.grad(y, [t for t in tensors if t is not None], torch.from_numpy(g))
            got = [a for a in case.vjp(g, *arrays, method=method) if a is not None]
            for a, b in zip(got, want, strict=True):
                np.testing.assert_array_equal(a, b.resolve_conj().numpy(), err_msg=repr(case))

    @pytest.mark.parametrize("face", ["conv", "conv_transpose"])
    def test_second(self, face, method):
        """The derivative of (gx, gw) along (ggx, ggw): ggO = f(ggx, w) + f(x, ggw) and two mixed terms, no new code."""
        torch = pytest.importorskip("torch")
        for case in self.cases(face, 40, ("float64", "complex128")):
            x, w, _ = case.arrays()
            g = case.gradient()
            rng = np.random.default_rng(case.seed)
            ggx, ggw = (whole(rng, a.shape, case.dtype) for a in (x, w))
            tensors = [torch.from_numpy(a).requires_grad_() for a in (x, w, g)]
            y = self.function(torch, case)(*tensors[:2])
            first = torch.autograd.grad(y, tensors[:2], tensors[2], create_graph=True)
            want = torch.autograd.grad(first, tensors, [torch.from_numpy(a) for a in (ggx, ggw)])

            gg_out = case.run(ggx, w, method=method) + case.run(x, ggw, method=method)
            mixed_x = case.vjp(g, x, ggw, method=method, need=(True, False, False))[0]
            mixed_w = case.vjp(g, ggx, w, method=method, need=(False, True, False))[1]
            for got, expected in zip((mixed_x, mixed_w, gg_out), want, strict=True):
                np.testing.assert_array_equal(got, expected.resolve_conj().numpy(), err_msg=repr(case))

    def test_gradgradcheck(self, method):
        """conv and conv_vjp as torch functions pass torch's own check by finite differences, twice."""
        torch = pytest.importorskip("torch")
        options = {"stride": 2, "padding": [(1, 2), (0, 1)], "groups": 2, "boundary": "reflect"}

        class Conv(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, w):
                ctx.save_for_backward(x, w)
                return torch.from_numpy(call(nn.conv, x.numpy(), w.numpy(), method=method, **options))

            @staticmethod
            def backward(ctx, g):
                return ConvBackward.apply(g, *ctx.saved_tensors)

        class ConvBackward(torch.autograd.Function):
            @staticmethod
            def forward(ctx, g, x, w):
                ctx.save_for_backward(g, x, w)
                gx, gw, _ = call(gradients.conv_vjp, g.numpy(), x.numpy(), w.numpy(), method=method, **options)
                return torch.from_numpy(gx), torch.from_numpy(gw)

            @staticmethod
            def backward(ctx, ggx, ggw):
                g, x, w = ctx.saved_tensors
                mixed_x, mixed_w = ConvBackward.apply(g, x, ggw)[0], ConvBackward.apply(g, ggx, w)[1]
                return Conv.apply(ggx, w) + Conv.apply(x, ggw), mixed_x, mixed_w

        generator = torch.Generator().manual_seed(0)
        for dtype in (torch.float64, torch.complex128):
            x, w = (
                torch.randn(shape, dtype=dtype, generator=generator, requires_grad=True)
                for shape in ((1, 2, 4, 3), (2, 1, 3, 2))
            )
            assert torch.autograd.gradcheck(Conv.apply, (x, w))
            assert torch.autograd.gradgradcheck(Conv.apply, (x, w))

    @pytest.mark.parametrize("rule", ["replicate", "reflect", "circular"])
    def test_boundaries(self, rule, method):
        torch = pytest.importorskip("torch")
        rng = np.random.default_rng(0)
        for rank in (1, 2, 3):
            shapes = ((2, 3, 5, 6, 4), (4, 3, 3, 2, 3))
            x, w = (whole(rng, shape[: rank + 2], "float64") for shape in shapes)
            pairs = ((2, 3), (0, 1), (3, 2))[:rank]
            tensors = [torch.from_numpy(a).requires_grad_() for a in (x, w)]
            spread = torch.nn.functional.pad(tensors[0], [n for pair in reversed(pairs) for n in pair], mode=rule)
            y = getattr(torch.nn.functional, f"conv{rank}d")(spread, tensors[1], stride=2)
            g = whole(rng, tuple(y.shape), "float64")
            want = torch.autograd.grad(y, tensors, torch.from_numpy(g))
            got = call(gradients.conv_vjp, g, x, w, method=method, stride=2, padding=pairs, boundary=rule)
            for a, b in zip(got, want, strict=False):
                np.testing.assert_array_equal(a, b.numpy())

    @pytest.mark.parametrize("face", SIGNAL_FACES)
    @pytest.mark.parametrize(("x_type", "k_type"), [("complex128", "complex128"), ("float64", "complex128"),
                                                    ("complex128", "float64"), ("float64", "float64")])  # fmt: skip
    def test_signals(self, face, x_type, k_type, method):
        """correlate conjugates its kernel, convolve flips it; a real array gets the real part in torch."""
        torch = pytest.importorskip("torch")
        rng = np.random.default_rng(0)
        x, k = whole(rng, (2, 9), x_type), whole(rng, 4, k_type)
        tensors = [torch.from_numpy(a).requires_grad_() for a in (x, k)]
        both = torch.promote_types(tensors[0].dtype, tensors[1].dtype)
        a, b = (t.to(both) for t in tensors)
        y = torch.nn.functional.conv1d(
            a[:, None], (b.conj() if face == "correlate" else b.flip(0))[None, None], padding=3
        )
        y = y[:, 0]
        g = whole(rng, tuple(y.shape), str(both).removeprefix("torch."))
        want = torch.autograd.grad(y, tensors, torch.from_numpy(g))
        got = call(signal_vjp(face), g, x, k, "full", method=method)
        for gradient, expected in zip(got, want, strict=True):
            assert gradient.dtype == g.dtype
            expected = expected.resolve_conj().numpy()
            np.testing.assert_array_equal(gradient if expected.dtype.kind == "c" else gradient.real, expected)

    def test_fill_is_data_to_the_weights(self, method):
        torch = pytest.importorskip("torch")
        rng = np.random.default_rng(0)
        for dtype, w_type, fill in product(("float64", "complex128"), ("float64", "complex128"), (3.0, 3.0 - 2j)):
            if dtype == "float64" and isinstance(fill, complex):
                continue
            x, w = whole(rng, (2, 3, 6), dtype), whole(rng, (4, 3, 3), w_type)
            tensors = [torch.from_numpy(a.astype(np.result_type(x, w))).requires_grad_() for a in (x, w)]
            ends = [torch.full((2, 3, n), fill, dtype=tensors[0].dtype) for n in (2, 1)]
            y = torch.nn.functional.conv1d(torch.cat((ends[0], tensors[0], ends[1]), 2), tensors[1])
            g = whole(rng, tuple(y.shape), np.result_type(x, w))
            want = torch.autograd.grad(y, tensors, torch.from_numpy(g))
            got = call(gradients.conv_vjp, g, x, w, method=method, padding=[(2, 1)], fill=fill)
            for a, b in zip(got, want, strict=False):
                np.testing.assert_array_equal(a, b.resolve_conj().numpy())


@pytest.mark.parametrize("method", METHODS)
class TestJax:
    """JAX's vjp: rank 4 and 5, and kernels that are not shared."""

    @pytest.mark.parametrize("rank", [4, 5])
    def test_conv(self, rank, method):
        jax = pytest.importorskip("jax")
        rng = np.random.default_rng(0)
        shapes = ((2, 4, 6, 5, 4, 3, 3), (4, 2, 3, 2, 2, 1, 2))
        x, w = (whole(rng, shape[: rank + 2], "float32") for shape in shapes)
        pairs = [(2, -1), (0, 1), (1, 0), (2, 2), (0, 0)][:rank]

        def f(x, w):
            return jax.lax.conv_general_dilated(x, w, (2,) * rank, pairs, feature_group_count=2)

        y, pull = jax.vjp(f, x, w)
        g = whole(rng, y.shape, "float32")
        got = call(gradients.conv_vjp, g, x, w, method=method, stride=2, padding=pairs, groups=2)
        for a, b in zip(got, pull(g), strict=False):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("rank", [1, 2])
    def test_local_conv(self, rank, method):
        jax = pytest.importorskip("jax")
        rng = np.random.default_rng(0)
        x, kernel = whole(rng, (2, 3, 6, 5)[: rank + 2], "float32"), (2, 3)[:rank]
        pairs = [(1, 2), (0, 1)][:rank]
        places = [(n + sum(p) - k) // 2 + 1 for n, p, k in zip(x.shape[2:], pairs, kernel, strict=True)]
        w = whole(rng, (*places, 4, 3, *kernel), "float32")

        def f(x, w):
            flat = jax.numpy.moveaxis(w.reshape(*places, 4, -1), (-2, -1), (0, 1))
            return jax.lax.conv_general_dilated_local(x, flat, (2,) * rank, pairs, kernel)

        y, pull = jax.vjp(f, x, w)
        g = whole(rng, y.shape, "float32")
        got = call(gradients.local_conv_vjp, g, x, w, method=method, stride=2, padding=pairs)
        for a, b in zip(got, pull(g), strict=False):
            np.testing.assert_array_equal(a, b)


CALLS = {
    "conv": LayerCase("conv", (2, 4, 6, 5), (6, 2, 3, 2), (6,), {"groups": 2, "padding": 1, "boundary": "wrap"}),
    "conv_transpose": LayerCase("conv_transpose", (2, 4, 6, 5), (4, 3, 3, 2), (6,), {"groups": 2, "stride": 2}),
    "local_conv": LayerCase("local_conv", (2, 4, 6, 5), (4, 4, 6, 2, 3, 2), (6, 4, 4), {"groups": 2}),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CALLS.values(), ids=CALLS)
class TestArrays:
    """What goes in and comes out."""

    def test_need(self, case, method):
        g, arrays = case.gradient(), case.arrays()
        every = case.vjp(g, *arrays, method=method)
        for need in product((True, False), repeat=3):
            for needed, got, want in zip(need, case.vjp(g, *arrays, method=method, need=need), every, strict=True):
                assert (got is not None) == needed
                if needed:
                    np.testing.assert_array_equal(got, want)
        assert case.vjp(g, *arrays[:2], method=method)[2] is None

    @pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, *COMPLEX, "longdouble"])
    def test_dtypes(self, case, dtype, method):
        if method == "direct" and dtype == "longdouble":
            pytest.skip("no kernel")
        g, arrays = case.gradient(), case.arrays()
        exact = case.vjp(g, *arrays)
        for got, want in zip(case.vjp(g.astype(dtype), *(a.astype(dtype) for a in arrays), method=method), exact,
                             strict=True):  # fmt: skip
            assert got.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(got, want.astype(dtype))

    def test_type_is_numpys_of_all_arrays(self, case, method):
        g, (x, w, bias) = case.gradient(), case.arrays()
        for types in [("float32", "int16", "int8", "bool"), ("int8", "bool", "int16", "int8"),
                      ("float16", "float32", "float16", "float16"), ("complex64", "float32", "int8", "float64"),
                      ("float32", "float32", "complex64", "float32"), ("bool", "int8", "int8", "int8")]:  # fmt: skip
            cast = [a.astype(t) for a, t in zip((g, x, w, bias), types, strict=True)]
            want = case.vjp(*(a.astype(np.result_type(*cast)) for a in cast))
            for a, b in zip(case.vjp(*cast, method=method), want, strict=True):
                assert a.dtype == b.dtype == np.result_type(*cast)
                np.testing.assert_array_equal(a, b, err_msg=str(types))

    def test_dtype_casts_the_arrays(self, case, method):
        g, arrays = case.gradient().astype("int8"), case.arrays()
        got = case.vjp(g, *arrays, method=method, dtype="int16")
        for a, b in zip(got, case.vjp(g, *(a.astype("int16") for a in arrays)), strict=True):
            assert a.dtype == "int16"
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_any_layout(self, case, layout, method):
        arrays = (case.gradient(), *case.arrays())
        for position in range(4):
            mixed = [laid_out(np.array(a), layout) if i == position else a for i, a in enumerate(arrays)]
            want = case.vjp(*(np.array(a, np.int64) for a in mixed))
            for a, b in zip(case.vjp(*mixed, method=method), want, strict=True):
                np.testing.assert_array_equal(a, b)

    def test_any_layout_has_the_same_bits(self, case, method):
        """Real numbers of many sizes: the order of summation does not depend on memory."""
        rng = np.random.default_rng(0)
        for dtype in ("float32", "complex64"):
            arrays = [rng.normal(size=a.shape).astype(dtype) for a in (case.gradient(), *case.arrays())]
            want = case.vjp(*arrays, method=method)
            for layout in ("F", "reversed", "strided", "misaligned", "swapped"):
                for a, b in zip(case.vjp(*(laid_out(a, layout) for a in arrays), method=method), want, strict=True):
                    assert a.tobytes() == b.tobytes()

    def test_plain_arrays_out(self, case, method):
        for got in case.vjp(case.gradient(), *case.arrays(), method=method):
            assert type(got) is np.ndarray
            assert got.flags.c_contiguous
            assert got.flags.writeable

    def test_unbatched_is_a_batch_of_one(self, case, method):
        g, (x, w, bias) = case.gradient(), case.arrays()
        want = case.vjp(g[:1], x[:1], w, bias)
        got = case.vjp(g[0], x[0], w, bias, method=method)
        np.testing.assert_array_equal(got[0], want[0][0])
        np.testing.assert_array_equal(got[1], want[1])
        np.testing.assert_array_equal(got[2], want[2])

    def test_empty_batch(self, case, method):
        g, (x, w, bias) = case.gradient(), case.arrays()
        gx, gw, gbias = case.vjp(g[:0], x[:0], w, bias, method=method)
        assert gx.shape == (0, *x.shape[1:])
        np.testing.assert_array_equal(gw, np.zeros_like(w))
        np.testing.assert_array_equal(gbias, np.zeros_like(bias))

    def test_errors(self, case, method):
        g, (x, w, bias) = case.gradient(), case.arrays()
        for arguments, more, exception, message in [
            ((g[:, :, 1:], x, w, bias), {}, ValueError, rf"g .*{case.face}.*axis 2.*\(2, 6, "),
            ((g[0], x, w, bias), {}, ValueError, rf"g has shape \(6, .*{case.face}.*\(2, 6, "),
            ((g.astype(object), x, w, bias), {}, TypeError, "g.*object"),
            ((g, *(a.astype(bool) for a in (x, w, bias))), {}, TypeError, rf"{case.face}.*bool.*no gradient"),
            ((g, x, w, bias), {"need": (True, True)}, ValueError, rf"need has 2 entries.*{case.face}.*x, w, bias"),
            ((g, x, w, bias), {"need": True}, TypeError, "need.*x, w, bias.*True"),
            ((g, x, w, bias), {"out": g}, TypeError, "out"),
        ]:
            with pytest.raises(exception, match=message):
                case.vjp(*arguments, method=method, **more)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("face", SIGNAL_FACES)
class TestSignals:
    """correlate_vjp and convolve_vjp beyond the adjoint identity."""

    def test_need(self, face, method):
        rng = np.random.default_rng(0)
        x, k, g = whole(rng, (3, 8), "int64"), whole(rng, 3, "int64"), whole(rng, (3, 6), "int64")
        every = call(signal_vjp(face), g, x, k, method=method)
        for need in product((True, False), repeat=2):
            got = call(signal_vjp(face), g, x, k, method=method, need=need)
            for needed, a, b in zip(need, got, every, strict=True):
                assert (a is not None) == needed
                if needed:
                    np.testing.assert_array_equal(a, b)

    def test_axes_in_any_order(self, face, method):
        rng = np.random.default_rng(0)
        x, k = whole(rng, (5, 4, 6), "complex128"), whole(rng, (2, 3), "complex128")
        y = getattr(fastcorr, face)(x, k, axes=(2, 0))
        g = whole(rng, y.shape, "complex128")
        gx, gk = call(signal_vjp(face), g, x, k, method=method, axes=(2, 0))
        turned = [np.moveaxis(a, 1, 0) for a in (g, x)]
        want_x, want_k = call(signal_vjp(face), *turned, k.T, method=method)
        np.testing.assert_array_equal(gx, np.moveaxis(want_x, 0, 1))
        np.testing.assert_array_equal(gk, want_k.T)
        assert gx.flags.c_contiguous
        assert gk.flags.c_contiguous

    def test_sums_over_what_broadcasts(self, face, method):
        rng = np.random.default_rng(0)
        x, k = whole(rng, (3, 1, 2, 7), "int64"), whole(rng, (1, 4, 2, 3), "int64")
        y = getattr(fastcorr, face)(x, k, axes=3)
        assert y.shape == (3, 4, 2, 5)
        g = whole(rng, y.shape, "int64")
        gx, gk = call(signal_vjp(face), g, x, k, method=method, axes=3)
        wide = [np.broadcast_to(a, (3, 4, 2, a.shape[-1])) for a in (x, k)]
        want_x, want_k = call(signal_vjp(face), g, *wide, method=method, axes=3)
        np.testing.assert_array_equal(gx, want_x.sum(1, keepdims=True))
        np.testing.assert_array_equal(gk, want_k.sum(0, keepdims=True))

    def test_empty_batch(self, face, method):
        gx, gk = call(signal_vjp(face), np.ones((0, 3)), np.ones((0, 5)), np.ones(3), method=method)
        assert gx.shape == (0, 5)
        assert gk.tolist() == [0, 0, 0]
        arrays = (np.ones((0, 3)), np.ones((1, 5)), np.ones((0, 3)))
        gx, gk = call(signal_vjp(face), *arrays, method=method, axes=1)
        assert gx.tolist() == [[0] * 5]
        assert gk.shape == (0, 3)

    def test_errors(self, face, method):
        x, k, g = np.ones((3, 8)), np.ones(3), np.ones((3, 6))
        for arguments, more, exception, message in [
            ((g[:, 1:], x, k), {}, ValueError, rf"g .*{face}.*axis 1.*\(3, 5\).*\(3, 6\)"),
            ((g[0], x, k), {}, ValueError, rf"g has shape \(6,\).*{face}.*\(3, 6\)"),
            ((g, x.astype(bool), k.astype(bool)), {}, TypeError, f"{face}.*bool.*no gradient"),
            ((g, x, np.ones(9)), {}, ValueError, "kernel is longer than x along axis 1: 9 > 8"),
            ((g, x, k), {"mode": "all"}, ValueError, "mode.*'all'"),
            ((g, x, k), {"need": (True,) * 3}, ValueError, "need has 3 entries.*x, k"),
            ((g.astype("M8[s]"), x, k), {}, TypeError, "g.*datetime64"),
            ((g, x, k), {"fill": 1j}, TypeError, "fill=1j"),
            ((g, x, k), {"out": g}, TypeError, "out"),
        ]:
            with pytest.raises(exception, match=message):
                call(signal_vjp(face), *arguments, method=method, **more)
        with pytest.raises(ValueError, match="method='quick'"):
            signal_vjp(face)(g, x, k, method="quick")


@pytest.mark.parametrize("method", METHODS)
class TestSums:
    """How gradients are summed."""

    def test_float16_is_rounded_once(self, method):
        x, w = np.ones((1, 4), np.float16), np.ones((1, 1, 1), np.float16)
        g = np.array([[2048, 1, 1, 1]], np.float16)  # 2051, to even
        gx, gw, gbias = call(gradients.conv_vjp, g, x, w, np.zeros(1, np.float16), method=method)
        assert gx.tolist() == g.tolist()
        assert gw.tolist() == [[[2052]]]
        assert gbias.tolist() == [2052]
        g, x, w = g.reshape(4, 1, 1).repeat(2, 1), x.reshape(4, 1, 1), w.repeat(2, 0)
        gx, gw, gbias = call(gradients.conv_vjp, g, x, w, np.zeros(2, np.float16), method=method)
        assert gx.ravel().tolist() == [4096, 2, 2, 2]
        assert gw.ravel().tolist() == [2052, 2052]
        assert gbias.tolist() == [2052, 2052]

    @pytest.mark.parametrize("rule", ["edge", "reflect", "symmetric", "wrap"])
    def test_float16_shares_of_one_sample_are_rounded_once(self, rule, method):
        x, w = np.ones((1, 1), np.float16), np.ones((1, 1, 1), np.float16)
        g = np.array([[2048, 1, 1, 1]], np.float16)
        gx, _, _ = call(gradients.conv_vjp, g, x, w, method=method, padding=[(1, 2)], boundary=rule)
        assert gx.tolist() == [[2052]]

    def test_bias_has_the_same_bits_in_any_layout(self, method):
        """Also where NumPy would sum through a buffer."""
        rng = np.random.default_rng(0)
        g, x, w, bias = rng.normal(size=(2, 1, 20000)), np.ones((2, 1, 20000)), np.ones((1, 1, 1)), np.ones(1)
        arrays = [a.astype(np.float32) for a in (g, x, w, bias)]
        want = call(gradients.conv_vjp, *arrays, method=method, need=(False, False, True))[2]
        for layout in ("F", "reversed", "strided", "misaligned", "swapped"):
            mixed = [laid_out(arrays[0], layout), *arrays[1:]]
            got = call(gradients.conv_vjp, *mixed, method=method, need=(False, False, True))[2]
            assert got.tobytes() == want.tobytes()


def test_fill_is_cast_as_in_the_function():
    """An int result has an int fill, also where the gradient is of another type."""
    g, x, w = np.array([[0.5, 1, 2]]), np.array([[1, 2]]), np.array([[[1, 1]]])
    assert nn.conv(x, w, padding=1, fill=2.7).tolist() == [[3, 3, 4]]
    _, gw, _ = gradients.conv_vjp(g, x, w, padding=1, fill=2.7)
    assert gw.tolist() == [[[2 * 0.5 + 1 + 4, 0.5 + 2 + 4]]]


class TestBiasGradient:
    """It is summed by a loop of fastcorr's own where results are float32 or float64, or float16 in float32."""

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_is_the_sum_of_each_channel(self, dtype):
        rng = np.random.default_rng(0)
        for batch, channels, n in [
            (1, 1, 1),
            (3, 2, 15),
            (2, 5, 16),
            (1, 3, 257),
            (2, 1, 1000),
            (0, 2, 4),
            (1, 1, 4099),
        ]:
            g = rng.integers(-9, 10, (batch, channels, n)).astype(dtype)
            x, w = np.zeros((batch, 1, n), dtype), np.zeros((channels, 1, 1), dtype)
            _, _, gbias = fastcorr.conv_vjp(g, x, w, np.zeros(channels, dtype), need=(False, False, True))
            assert gbias.dtype == dtype
            assert np.array_equal(gbias, g.astype(np.int64).sum((0, 2)).astype(dtype))

    def test_error_and_every_layout(self):
        """An error of log2(n) roundings at most, and the same bits from any memory."""
        rng = np.random.default_rng(1)
        g = np.float32(rng.standard_normal((2, 3, 5000)) * 10 ** rng.uniform(-4, 4, (2, 3, 5000)))
        x, w, bias = np.zeros((2, 1, 5000), np.float32), np.zeros((3, 1, 1), np.float32), np.zeros(3, np.float32)
        same = [laid_out(g, layout) for layout in LAYOUTS if layout not in ("broadcast", "list")]  # these are others
        found = [fastcorr.conv_vjp(a, x, w, bias, need=(False, False, True))[2] for a in same]
        assert all(np.array_equal(other, found[0]) for other in found)
        bound = (np.log2(5000) + 16) * np.finfo(np.float32).eps * np.abs(g).astype(float).sum((0, 2))
        assert (np.abs(found[0] - g.astype(float).sum((0, 2))) <= bound).all()
