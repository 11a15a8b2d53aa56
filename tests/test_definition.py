"""The definition is right: `fastcorr.reference` and `fastcorr.boundary` against NumPy and SciPy.

Everything else in this suite trusts these two modules, so here they are compared with code that shares nothing with
them: numpy.pad, numpy.correlate and numpy.convolve, scipy.signal, scipy.ndimage, and `windows`, which spells the
formula out with an explicitly padded array. Data are integer-valued and comparisons exact. Budget: 10 seconds.
"""

import itertools
import random
from typing import ClassVar

import numpy as np
import pytest
from common import COMPLEX, DTYPES, FACES, INTEGERS, RULES, SLOW, definition, random_case, whole
from numpy.lib.stride_tricks import sliding_window_view

from fastcorr import boundary


def windows(face, x, k, padding, rules, fill=0, stride=None, dilation=None):
    """The formula on an explicitly padded array, for a kernel that acts on all axes of `x`."""
    if face == "convolve":
        k = np.flip(k)
    elif k.dtype.kind == "c":
        k = k.conj()
    if isinstance(fill, complex):
        x = x.astype(complex)
    for axis, ((lo, hi), rule) in enumerate(zip(padding, rules, strict=True)):
        width = [(0, 0)] * x.ndim
        width[axis] = (max(lo, 0), max(hi, 0))
        x = np.pad(x, width, rule, **({"constant_values": fill} if rule == "constant" else {}))
        x = np.take(x, range(max(-lo, 0), x.shape[axis] - max(-hi, 0)), axis)
    spread = [d * (n - 1) + 1 for n, d in zip(k.shape, dilation, strict=True)]
    view = sliding_window_view(x, spread)
    view = view[tuple(slice(None, None, s) for s in stride) + tuple(slice(None, None, d) for d in dilation)]
    return np.tensordot(view, k, x.ndim)


class TestBoundary:
    """`boundary.source` is numpy.pad, however far it reaches."""

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
    def test_is_numpy_pad(self, rule, n):
        reach = 4 * n + 3
        options = {"constant_values": -1} if rule == "constant" else {}
        want = np.pad(np.arange(n), reach, rule, **options)
        np.testing.assert_array_equal(boundary.source(np.arange(-reach, n + reach), n, rule), want)

    @pytest.mark.parametrize(
        ("rule", "picture"),
        [("edge", "11112344 44"), ("reflect", "4321234321"), ("symmetric", "3211234432"), ("wrap", "2341234123")],
    )
    def test_is_the_picture_in_its_docstring(self, rule, picture):
        want = [int(c) for c in picture.replace(" ", "")]
        got = np.arange(1, 5)[boundary.source(np.arange(-3, 7), 4, rule)]
        assert got.tolist() == want

    def test_knows_every_rule_and_synonym_of_the_contract(self):
        assert set(boundary.RULES) == set(RULES)
        assert {
            **dict.fromkeys(("nearest", "replicate", "extend"), "edge"),
            "mirror": "reflect",
            **dict.fromkeys(("circular", "periodic"), "wrap"),
        } == boundary.SYNONYMS


class TestNumPy:
    """1-D, the default anchor: numpy.correlate and numpy.convolve, wherever `x` is not the shorter one."""

    @pytest.mark.parametrize("mode", ["valid", "same", "full"])
    @pytest.mark.parametrize("dtype", [*DTYPES, *SLOW])
    @pytest.mark.parametrize("face", FACES)
    def test_is_numpy(self, face, dtype, mode):
        if dtype == "float16":
            pytest.skip("NumPy rounds a float16 sum after each tap")
        rng = np.random.default_rng(1)
        for n, m in itertools.product(range(1, 9), range(1, 9)):
            if n >= m:
                x, k = whole(rng, n, dtype), whole(rng, m, dtype)
                want = getattr(np, face)(x, k, mode)
                got = definition(face, x, k, mode=mode)
                assert got.dtype == want.dtype
                np.testing.assert_array_equal(got, want, err_msg=f"{n} {m}")


class TestSciPySignal:
    """N-d: scipy.signal, which never swaps in "same" and "full" and agrees in "valid"."""

    @pytest.mark.parametrize("mode", ["valid", "same", "full"])
    @pytest.mark.parametrize("face", FACES)
    @pytest.mark.parametrize("dtype", ["int64", "float64", "complex128"])
    def test_correlate_and_convolve(self, face, mode, dtype):
        signal = pytest.importorskip("scipy.signal")
        rng = np.random.default_rng(2)
        for x_shape, k_shape in [
            ((9,), (4,)),
            ((9,), (5,)),
            ((7, 8), (3, 4)),
            ((4, 5), (4, 5)),
            ((5, 4, 6), (2, 3, 4)),
        ]:
            x, k = whole(rng, x_shape, dtype, "small"), whole(rng, k_shape, dtype, "small")
            want = getattr(signal, face)(x, k, mode, method="direct")
            np.testing.assert_array_equal(definition(face, x, k, mode=mode), want)

    @pytest.mark.parametrize(("rule", "word"), [("constant", "fill"), ("wrap", "wrap"), ("symmetric", "symm")])
    @pytest.mark.parametrize("mode", ["same", "full"])
    @pytest.mark.parametrize("face", FACES)
    def test_2d_boundaries(self, face, mode, rule, word):
        signal = pytest.importorskip("scipy.signal")
        rng = np.random.default_rng(3)
        for k_shape in [(1, 1), (2, 3), (3, 4), (5, 5)]:
            x, k = whole(rng, (6, 7), "float64"), whole(rng, k_shape, "float64")
            want = getattr(signal, face + "2d")(x, k, mode, word, fillvalue=3)
            anchor = tuple((n - 1) // 2 for n in k_shape)  # of correlate2d, unlike signal.correlate
            got = definition(face, x, k, mode=mode, boundary=rule, fill=3, anchor=anchor)
            np.testing.assert_array_equal(got, want)


class TestSciPyNdimage:
    """Filters: scipy.ndimage's modes, and its `origin` as our `anchor`."""

    MODES: ClassVar = [("constant", "constant"), ("edge", "nearest"), ("reflect", "mirror"), ("symmetric", "reflect"),
             ("wrap", "wrap")]  # fmt: skip

    @pytest.mark.parametrize(("rule", "word"), MODES)
    @pytest.mark.parametrize("face", FACES)
    def test_modes_and_origins(self, face, rule, word):
        ndimage = pytest.importorskip("scipy.ndimage")
        rng = np.random.default_rng(4)
        for x_shape, k_shape in [
            ((9,), (4,)),
            ((9,), (5,)),
            ((6, 7), (3, 4)),
            ((5, 4, 6), (2, 3, 4)),
            ((2, 3), (7, 8)),
        ]:
            x, k = whole(rng, x_shape, "float64"), whole(rng, k_shape, "float64")
            for shift in (0, -1, 1):
                origin = tuple(shift if n > 2 else 0 for n in k_shape)
                if shift > 0:  # an even kernel has no tap there
                    origin = tuple(o if n % 2 else 0 for o, n in zip(origin, k_shape, strict=True))
                anchor = tuple(n // 2 + o for n, o in zip(k_shape, origin, strict=True))
                want = getattr(ndimage, face)(x, k, mode=word, cval=2, origin=origin)
                got = definition(face, x, k, mode="same", boundary=rule, fill=2, anchor=anchor)
                np.testing.assert_array_equal(got, want, err_msg=f"{x_shape} {k_shape} {origin}")


class TestFormula:
    """Random problems of every kind against `windows`: padding, cropping, boundaries, strides, dilations, flips."""

    @pytest.mark.parametrize("block", range(8))
    def test_random_problems(self, block):
        for seed in range(block * 40, block * 40 + 40):
            case = random_case(random.Random(seed), dtypes=("int64", "float64", "complex128"))
            x, k, options = np.asarray(case.x.make()), np.asarray(case.k.make()), case.options
            np.testing.assert_array_equal(
                definition(case.face, x, k, **options), batched_windows(case.face, x, k, **options), err_msg=repr(case)
            )


def batched_windows(face, x, k, *, mode, axes=None, boundary="constant", fill=0, anchor=None, stride=1, dilation=1,
                    dtype=None, method=None):  # fmt: skip
    """`windows` for each element of the batch, the options spelt out anew."""
    if dtype is not None:
        x, k = x.astype(dtype), k.astype(dtype)
    axes = range(x.ndim - k.ndim, x.ndim) if axes is None else [a % x.ndim for a in axes]
    rank, others = len(axes), [a for a in range(x.ndim) if a not in axes]
    every = [v if isinstance(v, tuple) else (v,) * rank for v in (boundary, stride, dilation)]
    x = x.transpose(*others, *axes)
    k = k.transpose(*others, *axes) if k.ndim > rank else k.reshape((1,) * len(others) + k.shape)
    batch = np.broadcast_shapes(x.shape[: x.ndim - rank], k.shape[: k.ndim - rank])
    x, k = (np.broadcast_to(a, batch + a.shape[len(others) :]) for a in (x, k))
    padding = _padding(face, mode, k.shape[len(batch) :], every[2], anchor)
    synonyms = {"nearest": "edge", "mirror": "reflect", "circular": "wrap"}
    rules = [synonyms.get(rule, rule) for rule in every[0]]
    results = {b: windows(face, x[b], k[b], padding, rules, fill, *every[1:]) for b in np.ndindex(batch)}
    if not results:
        pytest.skip("an empty batch")
    y = np.array([results[b] for b in np.ndindex(batch)])
    y = y.reshape(batch + y.shape[1:])
    return y.transpose(np.argsort([*others, *axes]))


def _padding(face, mode, kernel, dilation, anchor):
    pairs = []
    for t, (n, d) in enumerate(zip(kernel, dilation, strict=True)):
        a = anchor[t] if anchor is not None else n // 2 if face == "correlate" else (n - 1) // 2
        a, reach = a * d, d * (n - 1)
        same = (a, reach - a) if face == "correlate" else (reach - a, a)
        pairs.append(
            {"valid": (0, 0), "full": (reach, reach), "same": same}[mode] if isinstance(mode, str) else mode[t]
        )
    return pairs


class TestSums:
    """What is summed in which type."""

    @pytest.mark.parametrize("dtype", INTEGERS)
    def test_integers_wrap(self, dtype):
        rng = np.random.default_rng(5)
        x, k = whole(rng, 20, dtype), whole(rng, 7, dtype)
        modulus = 2 ** (8 * np.dtype(dtype).itemsize)
        exact = [sum(int(x[i + j]) * int(k[j]) for j in range(7)) for i in range(14)]
        got = definition("correlate", x, k)
        assert got.dtype == dtype
        assert [int(v) % modulus for v in got] == [v % modulus for v in exact]

    def test_bool_is_or_of_ands(self):
        x, k = np.array([0, 1, 1, 0, 0, 0, 1], bool), np.array([1, 1, 0], bool)
        want = [any(x[i + j] and k[j] for j in range(3)) for i in range(5)]
        assert definition("correlate", x, k).tolist() == want

    def test_float16_is_summed_in_float32(self):
        x = np.array([2048, 1, 1], "float16")
        assert definition("correlate", x, np.ones(3, "float16")).tolist() == [2050]  # 2048 if rounded at each tap

    def test_sum_type_is_the_callers(self):
        x = np.array([2.0**60, 1, -(2.0**60)])
        assert definition("correlate", x, np.ones(3)).tolist() == [0]
        assert definition("correlate", x, np.ones(3), np.longdouble).tolist() == [1]

    @pytest.mark.parametrize("dtype", COMPLEX)
    def test_a_real_kernel_keeps_the_parts_apart(self, dtype):
        x = np.array([complex(np.inf, 1), complex(0, 2)], dtype)
        got = definition("correlate", x, np.array([3], x.real.dtype))
        assert got.real.tolist() == [np.inf, 0]
        assert got.imag.tolist() == [3, 6]

    @pytest.mark.parametrize("x_dtype", ["bool", "uint8", "int64", "float32"])
    def test_fill_is_complex_where_only_the_kernel_is(self, x_dtype):
        x, k = np.ones(3, x_dtype), np.array([1, 2, 4], complex)
        got = definition("correlate", x, k, mode="same", fill=300.5 - 2j)
        assert got.tolist() == [300.5 - 2j + 6, 7, 3 + 4 * (300.5 - 2j)]
