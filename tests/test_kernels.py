"""Every compiled kernel computes the definition: KERNELS x usable levels x result dtypes x designed geometries.

Data are integer-valued, so partial sums are exact and results must equal `fastcorr.reference` bit for bit whatever the
order, level or number of threads. The geometries are chosen to reach every branch of a blocked, gathered, multi-axis
loop: each group below says what it is after. A failure prints the call that reproduces it. The oracle is computed
once per geometry and dtype and shared by all levels. Budget: 60 seconds.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from common import COMPLEX, FACES, LAYOUTS, LEVELS, RULES, Array, Case, rows, run, whole

import fastcorr
from fastcorr import kernels, planner

STEPS = range(1, 5)


def call(x, k, face="correlate", **options):
    """One geometry: shapes, options, face. `threads`, `kx` (dtype of k) and layouts are taken out by `cases`."""
    return (tuple(x), tuple(k), face, options)


def alternate(geometries):
    """Every second one as a convolution: the flip crosses with everything at no cost."""
    return [(x, k, FACES[i % 2], options) for i, (x, k, _, options) in enumerate(geometries)]


# Each group: a list of geometries. Names are the test ids.
GROUPS = {
    # 1-D kernels of 1 to 40 taps, on rows from one output to several vectors and a rest.
    "taps-1-to-40": [
        call((k + extra,), (k,)) for k in range(1, 41) for extra in ((0, 15, 71) if k % 2 else (14, 16, 3 * k))
    ],
    # 1 to 20 kernel rows, which share each load, and outputs of 1 to many rows.
    "kernel-rows-1-to-20": [
        call((rows + extra, 37), (rows, columns))
        for rows in range(1, 21)
        for extra, columns in ((0, 3), (1, 1), (4, 5), (17, 2))
    ],
    "kernel-rows-of-a-wide-image": [call((k + 9, 300), (k, 3), mode="same") for k in (1, 2, 3, 5, 6, 7, 12, 13)],
    # Rows narrower than a vector, and every width up to a few panels.
    "widths-1-to-140": [call((3, w), (2, min(w, 3)), mode="same") for w in range(1, 141)],
    "widths-about-a-panel": [
        call((h, (1 << p) + e), k, mode=mode)
        for p in (8, 9, 10, 12)
        for e in (-1, 0, 1, 17)
        for h, k, mode in ((4, (3, 3), "same"), (1, (7,), "valid"), (7, (5, 2), "full"))
    ],
    "very-long-rows": [
        call((1, 70001), (5,)),
        call((2, 40003), (2, 3), mode="same", boundary="wrap"),
        call((99999,), (40,)),
    ],
    "heights-1-to-40": [call((h, 20), (3, 3), mode="same", boundary="edge") for h in range(1, 41)],
    # Padding much larger than the data, and kernels larger than the data.
    "big-padding": [
        call((n, m), (3, 4), mode=((lo, hi), (hi, lo)), boundary=rule, fill=1)
        for rule in RULES
        for n, m, lo, hi in ((5, 40, 30, 3), (2, 3, 50, 60), (1, 1, 20, 0), (30, 17, 0, 70))
    ],
    "kernel-larger-than-x": [
        call(x, k, mode=mode, boundary=rule)
        for rule in RULES
        for mode in ("same", "full")
        for x, k in (((3,), (20,)), ((2, 30), (9, 40)), ((5, 1), (4, 7)))
    ],
    "boundaries": [
        call(x, k, mode="same", boundary=rule, fill=2)
        for rule in RULES
        for x, k in (
            ((50,), (9,)),
            ((9, 70), (5, 6)),
            ((90, 90), (3, 3)),
            ((4, 6, 20), (3, 3, 3)),
            ((3, 4, 3, 20), (2, 3, 2, 5)),
        )
    ],
    "mixed-boundaries": [
        call((7, 33), (4, 5), mode="full", boundary=pair, fill=3) for pair in itertools.product(RULES, RULES)
    ],
    "synonyms": [
        call((20,), (7,), mode="full", boundary=b)
        for b in ("nearest", "replicate", "extend", "mirror", "circular", "periodic")
    ],
    "stride-and-dilation-1d": [
        call((90,), (k,), stride=s, dilation=d, mode=mode, boundary="reflect")
        for s, d, k, mode in itertools.product(STEPS, STEPS, (1, 2, 5, 8), ("valid", "same"))
    ],
    "stride-and-dilation-rows": [
        call((40, 21), (k, 3), stride=(s, 1), dilation=(d, 1), mode=mode, boundary="wrap")
        for s, d, k, mode in itertools.product(STEPS, STEPS, (1, 3, 7), ("valid", "full"))
    ],
    # A strided row axis splits the kernel's rows into classes of unequal size: their blocks differ too.
    "strided-tall-kernels": [
        call((2 * rows + 15, 50), (rows, 3), stride=(s, 1), dilation=(d, 1))
        for rows in range(8, 21)
        for s, d in ((2, 1), (3, 1), (4, 1), (5, 2))
    ],
    "stride-and-dilation-both": [
        call((31, 45), (3, 4), stride=(s, e), dilation=(d, f), mode="same", boundary="symmetric")
        for s, d, e, f in itertools.product(STEPS, STEPS, (1, 3, 4), (1, 2, 3))
    ],
    "strides-with-a-common-factor": [
        call((60, 61), (5, 4), stride=s, dilation=d, mode="full")
        for s, d in ((4, 6), (6, 4), (6, 9), (8, 4), (5, 10), (7, 7), (12, 8))
    ],
    "strides-longer-than-the-kernel-or-x": [
        call(x, k, stride=s, mode="same", boundary="edge")
        for x, k in (((30,), (3,)), ((20, 30), (2, 3)), ((5, 5, 40), (1, 3, 2)))
        for s in (5, 9, 50, 10**12)
    ],
    "dilations-longer-than-x": [
        call(x, k, dilation=d, mode="same", boundary=rule)
        for x, k in (((10,), (3,)), ((6, 40), (3, 2)))
        for d in (11, 53)
        for rule in RULES
    ],
    "axes-permuted": [
        call((5, 6, 7, 20), range(2, 2 + n), axes=axes, mode="same", boundary=RULES[sum(axes) % 5])
        for n in (1, 2, 3)
        for axes in itertools.permutations(range(4), n)
    ],
    "axes-of-rank-4": [call((4, 5, 6, 7), (3, 2, 4, 1), axes=axes) for axes in itertools.permutations(range(4))],
    # The batch lies last in memory: colour images, channels, columns.
    "batch-last": [
        call((*x, c), k, axes=tuple(range(len(k))), mode="same", **options)
        for c in (1, 3, 4, 15, 16, 17, 70)
        for x, k in (((12, 13), (3, 3)), ((40,), (7,)), ((7, 5, 6), (2, 3, 2)), ((9, 8), (1, 5)), ((9, 8), (5, 1)))
        for options in ({}, {"stride": 2, "boundary": "reflect"}, {"dilation": 2, "boundary": "wrap"})
    ],
    "batch-in-the-middle": [
        call((9, 4, 30), (3, 5), axes=(0, 2), mode="full", boundary="edge"),
        call((9, 4, 30), (3, 5), axes=(2, 0), mode="full", boundary="edge"),
        call((9, 40, 3, 2), (3, 5), axes=(1, 0), stride=(2, 1)),
        call((2, 9, 3, 40), (3,), axes=1, mode="same"),
    ],
    "batches": [
        call((*batch, *x), k, mode="same")
        for batch in ((1,), (7,), (2, 3), (3, 1, 2), (40,))
        for x, k in (((30,), (5,)), ((6, 8), (3, 3)), ((1, 70), (1, 4)))
    ],
    # One kernel per batch entry, x or k of size 1 where they broadcast.
    "kernel-batches": [
        call(x, k, axes=axes, mode="same", boundary="symmetric")
        for x, k, axes in (
            ((4, 30), (4, 5), 1),
            ((4, 30), (4, 5), (-1,)),
            ((3, 4, 9, 20), (3, 4, 3, 5), (2, 3)),
            ((3, 4, 9, 20), (3, 1, 3, 5), (2, 3)),
            ((3, 4, 9, 20), (1, 4, 3, 5), (3, 2)),
            ((3, 1, 9, 20), (1, 4, 3, 5), (2, 3)),
            ((1, 1, 9, 20), (3, 4, 3, 5), (2, 3)),
            ((1, 30), (6, 5), 1),
            ((30, 1), (5, 20), 0),
            ((30, 20), (5, 20), 0),
            ((12, 13, 3), (3, 3, 3), (0, 1)),
            ((12, 13, 1), (3, 3, 17), (1, 0)),
            ((12, 3, 13), (3, 1, 3), (0, 2)),
            ((5, 6, 7), (5, 6, 7), ()),
            ((5, 1, 7), (1, 6, 7), ()),
        )
    ],
    "batch-broadcasts-with-strides": [
        call((1, 17, 30), (5, 3, 4), axes=(1, 2), stride=(2, 3), dilation=(1, 2), mode="full", boundary="wrap"),
        call((5, 17, 1), (3, 1, 4), axes=0, dilation=2),
    ],
    "negative-padding": [
        call((20, 40), (3, 5), mode=mode, boundary="wrap", stride=s)
        for mode in (((-3, -4), (-5, -6)), ((-3, 8), (9, -2)), ((2, -9), (-30, 1)), ((-17, 0), (0, -35)))
        for s in (1, 2)
    ],
    # Far past the end, in either direction, on data the result may not even touch.
    "far-outside": [
        call((n,), (4,), mode=((lo, hi),), boundary=rule, fill=3)
        for rule in RULES
        for n in (1, 2, 3, 10)
        for lo, hi in ((400, 3), (3, 400), (-50, 90), (90, -50), (10**9, 30 - 10**9), (30 - 10**9, 10**9))
    ],
    "far-outside-rows": [
        call((n, 6), (3, 2), mode=((lo, hi), (1, 1)), boundary=rule, fill=3)
        for rule in RULES
        for n in (1, 2, 5)
        for lo, hi in ((40, 3), (-30, 60), (60, -30), (10**9, 10 - 10**9))
    ],
    "one-column": [call((30 + k, w), (k, 1), mode="same") for k in (1, 2, 3, 7, 16, 33) for w in (1, 5, 16, 50, 300)],
    "one-row": [call((h, 40 + k), (1, k)) for k in (1, 2, 3, 7, 16, 33) for h in (1, 2, 20)],
    "one-tap": [
        call((6, 50), (1, 1), mode=((1, 2), (3, 4)), fill=1),
        call((50,), (1,)),
        call((3, 4, 20), (1, 1, 1), stride=2),
    ],
    "single-axis-kernels-3d": [
        call((9, 10, 30), k, mode="same", boundary="reflect")
        for k in ((5, 1, 1), (1, 5, 1), (1, 1, 5), (5, 3, 1), (5, 1, 3), (1, 5, 3), (6, 6, 1))
    ],
    "long-1d-kernel": [
        call((5100,), (5000,)),
        call((5000,), (5000,)),
        call((300,), (1500,), mode="same", boundary="reflect"),
        call((3000,), (801,), stride=3, mode="same", boundary="wrap"),
        call((3000,), (601,), dilation=4),
        call((3, 1500), (700,), mode="same"),
    ],
    "long-1d-kernel-across-columns": [call((1100, 20), (1000,), axes=0), call((1100, 3), (1000,), axes=0)],
    "tall-kernel": [call((310, 25), (300, 3)), call((40, 20), (300, 3), mode="same", boundary="symmetric")],
    "tall-kernel-with-steps": [
        call((150, 20), (100, 2), stride=(3, 1), mode="same"),
        call((200, 9), (60, 3), dilation=(3, 1)),
    ],
    "wide-kernel": [call((12, 340), (3, 300)), call((33, 70), (31, 64), mode="same")],
    "large-kernels": [call((45, 60), (33, 35)), call((20, 20, 20), (9, 10, 11), mode="same")],
    "rank-3": [
        call((7, 8, 40), k, mode=mode, boundary=rule)
        for k in ((3, 3, 3), (2, 5, 4), (4, 1, 2))
        for mode, rule in (("valid", "constant"), ("same", "wrap"), ("full", "edge"))
    ],
    # Gathered lines stay for the next plane: windows that move by less, as much and more than they cover.
    "planes": [
        call((planes, 30, 45), (k, 3, 3), mode="same", boundary=rule, stride=(s, 1, 1), dilation=(d, 1, 1))
        for planes in (1, 12)
        for k, s, d in ((3, 1, 1), (2, 2, 1), (3, 4, 1), (3, 1, 2), (2, 3, 5), (1, 1, 1))
        for rule in ("constant", "reflect", "wrap")
    ]
    + [call((3, 9, 30, 45), (3, 4, 2), axes=(1, 2, 3), mode="full", boundary="edge", threads=n) for n in (1, 2)],
    "rank-4-and-5": [
        call((4, 5, 6, 20), (2, 3, 3, 4), mode="same", boundary="reflect"),
        call((4, 5, 6, 20), (3, 1, 2, 5), stride=(1, 2, 1, 3), dilation=(1, 1, 2, 2)),
        call((3, 4, 3, 4, 18), (2, 2, 3, 2, 3), mode="full"),
        call((3, 4, 3, 4, 18), (2, 2, 2), axes=(4, 0, 2), mode="same", boundary="wrap"),
        call((2, 3, 4, 3, 4), (3, 2, 2, 1, 3), axes=(4, 2, 1, 0, 3), boundary="edge", mode="same"),
    ],
    "rank-12": [call((1, 2) * 6, (1, 2) * 6), call((2,) * 12, (2,) * 3, mode="full"), call((2, 1) * 6, (2,), axes=4)],
    "rank-of-64": [call((1,) * 62 + (2, 9), (1,) * 62 + (2, 3)), call((1,) * 62 + (2, 9), (3,), mode="same")],
    "no-axes": [call((), ()), call((5,), ()), call((3, 40), (), stride=(), mode=()), call((3, 40), (1, 40), axes=())],
    "empty": [
        call((0, 9), (3,)),
        call((4, 0, 9), (3,), mode="same"),
        call((9, 0), (3,), axes=0),
        call((0, 9, 9), (1, 3, 3), axes=(1, 2)),
        call((1, 9, 9), (0, 3, 3), axes=(1, 2)),
        call((0,), (1,)),
        call((0,), (1,), mode="full"),
        call((0, 5), (1, 2)),
        call((0,), (3,), mode="full", fill=1),
        call((0, 5), (3, 2), mode="same"),
        call((4, 0), (2, 3), mode=((0, 0), (5, 6)), fill=2),
    ],
    "anchors": [
        call((9, 30), (4, 5), mode="same", anchor=(a, b), dilation=(1, 2), boundary="edge")
        for a in range(4)
        for b in range(5)
    ],
    # Enough work for threads to share it in different ways.
    "threads": [
        call(x, k, threads=n, **options)
        for n in (1, 2, 3, 5)
        for x, k, options in (
            ((300, 400), (5, 5), {"mode": "same", "boundary": "reflect"}),
            ((2, 90000), (9,), {}),
            ((500, 9, 9), (3, 3), {"mode": "same"}),
            ((3, 1000), (3, 5), {"mode": "full"}),
            ((200, 200, 3), (3, 3), {"axes": (0, 1), "stride": 2}),
            ((400, 200), (3, 3), {"dilation": 3, "stride": 2}),
            ((20, 30, 40), (3, 3, 3), {"mode": "same", "boundary": "wrap"}),
        )
    ],
    "layouts": [
        call(x, k, mode="same", boundary="reflect", x_layout=layout, k_layout=other, stride=s)
        for layout, other in zip(LAYOUTS[:-1], (*LAYOUTS[3:-1], *LAYOUTS[:3]), strict=True)
        for x, k, s in (((70,), (5,), 1), ((9, 50), (3, 4), 1), ((9, 50), (3, 4), 2), ((4, 5, 30), (2, 3, 3), 1))
    ],
}  # fmt: skip
GROUPS = {name: alternate(group) for name, group in GROUPS.items()}


def cases(group, dtype, level):
    for i, (x, k, face, options) in enumerate(GROUPS[group]):
        rest = {n: v for n, v in options.items() if n not in ("threads", "x_layout", "k_layout")}
        if dtype == "bool":
            rest["fill"] = bool(rest.get("fill"))
        x_dtype, k_dtype = dtype, dtype
        if dtype in COMPLEX:  # complex with complex, complex with real, real with complex
            real = "float32" if dtype == "complex64" else "float64"
            x_dtype, k_dtype = ((dtype, dtype), (dtype, real), (real, dtype))[i // 2 % 3]
            if "fill" in rest:
                rest["fill"] = complex(rest["fill"], i % 3 - 1)
        yield Case(
            face,
            Array(x, x_dtype, options.get("x_layout", "C"), 1),
            Array(k, k_dtype, options.get("k_layout", "C"), 2),
            rest,
            level,
            options.get("threads"),
        )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [dtype for _, dtype in rows()])
@pytest.mark.parametrize("group", GROUPS)
def test_geometry(group, dtype, level):
    for case in cases(group, dtype, level):
        replace(case, options={"method": "direct", **case.options}).check()


def castable():
    """(input dtype, result dtype) where `dtype=` casts: all that NumPy casts without a complaint."""
    names = [dtype for _, dtype in rows()] + ["longdouble", "clongdouble"]
    for given, wanted in itertools.product(names, [dtype for _, dtype in rows()]):
        if np.dtype(given).kind != "c" or np.dtype(wanted).kind == "c":
            yield given, wanted


@pytest.mark.parametrize("level", LEVELS)
class TestLargeOut:
    """Results over 8 MiB that go into an array which exists may be stored past the cache."""

    @pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint32", "int64", "uint8"])
    @pytest.mark.parametrize("size", [(2100, 1024), (1050, 2080), (1041, 2051)], ids=str)
    @pytest.mark.parametrize("options", [{}, {"dilation": (2, 1)}, {"mode": "same", "boundary": "wrap"}], ids=str)
    def test_is_the_same(self, size, options, dtype, level):
        x = whole(np.random.default_rng(1), (size[0] + 4, size[1] + 2), dtype, "small")
        k = whole(np.random.default_rng(2), (3, 3), dtype, "small")
        want = run("correlate", x, k, level, 2, **options)
        for start in (0, 1, 3, 8):  # samples past a cache line
            room = np.zeros(want.size + 64, dtype)
            start += -room.ctypes.data // room.itemsize % (64 // room.itemsize)
            out = room[start : start + want.size].reshape(want.shape)
            assert run("correlate", x, k, level, 2, out=out, **options) is out
            assert np.array_equal(out, want)
            assert not room[:start].any()
            assert not room[start + want.size :].any()


class TestCasts:
    """`dtype=` casts both inputs first; without it they meet in `np.result_type`."""

    @pytest.mark.parametrize("level", LEVELS)
    def test_dtype_casts_first(self, level):
        for given, wanted in castable():
            values = "full"
            if np.dtype(given).kind in "fc" or np.dtype(wanted).kind in "fc":
                values = "natural"
            for face, x, k, options in (
                ("correlate", (40,), (3,), {}),
                ("convolve", (5, 33), (3, 2), {"mode": "same"}),
            ):
                Case(
                    face,
                    Array(x, given, seed=3, values=values),
                    Array(k, given, seed=4, values=values),
                    {"dtype": wanted, **options},
                    level,
                ).check()

    @pytest.mark.parametrize("level", LEVELS)
    def test_dtypes_meet_in_result_type(self, level):
        names = [dtype for _, dtype in rows()]
        for given, other in itertools.product(names, names):
            result = np.result_type(np.dtype(given), np.dtype(other))
            values = "small" if result.kind in "fc" else "full"
            case = Case(
                "correlate", Array((3, 35), given, "C", 5, values), Array((2, 3), other, "C", 6, values), {}, level
            )
            case.check()
            assert case.run().dtype == result

    @pytest.mark.parametrize("wanted", ["float16", "float32", "int8", "uint16", "bool", "complex64"])
    def test_a_cast_rounds_before_the_sum(self, wanted):
        x = np.array([0.3, 2049.7, 1.0, 0.5, 300.2, 2047.9] * 7)
        k = np.array([1.25, 0.5, 2.0])
        got = fastcorr.correlate(x, k, dtype=wanted)
        want = fastcorr.correlate(x.astype(wanted), k.astype(wanted))
        assert got.dtype == want.dtype == wanted
        np.testing.assert_array_equal(got, want)

    @pytest.mark.parametrize("given", ["int16", "int64", "uint32"])
    def test_a_cast_to_float16_rounds_integers(self, given):
        x = np.arange(2040, 2060).astype(given)
        got = fastcorr.correlate(x, np.array([1, 1], given), dtype="float16")
        want = fastcorr.correlate(x.astype("float16"), np.array([1, 1], "float16"))
        np.testing.assert_array_equal(got, want)

    def test_big_integers_round_once(self):
        x = np.array([2**24 + 1, 2**53 + 1, 2**63 - 1, 2**62 + 2**38 + 1], "int64")
        for wanted in ("float32", "float64"):
            np.testing.assert_array_equal(fastcorr.correlate(x, [1], dtype=wanted), x.astype(wanted))


class TestTable:
    """The KERNELS table covers what it must, and what it lists is what runs."""

    def test_every_level_is_built_and_ordered(self):
        assert LEVELS
        assert list(LEVELS) == [level for level in kernels.LEVELS if level in LEVELS]

    def test_every_numeric_dtype_but_longdouble_has_a_kernel(self):
        served = [dtype for _, dtype in rows()]
        assert len(served) == len(set(served))
        assert {np.dtype(d) for d in served} == {np.dtype(c) for c in "?bBhHiIqQefdFD"}

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("dtype", [dtype for _, dtype in rows()])
    def test_auto_is_the_kernel(self, dtype, level):
        x, k = np.ones((30, 30), dtype), np.ones((3, 3), dtype)
        assert planner.resolve("correlate", x, k, level=level).method == "direct"
        assert planner.resolve("correlate", x, k, level=level, method="direct").method == "direct"
        assert planner.resolve("correlate", x, k, level=level, method="reference").method == "reference"

    @pytest.mark.parametrize("code", "lqLQpP")
    def test_platform_names_of_one_integer_are_one(self, code):
        x = np.arange(20).astype(code)
        got = fastcorr.correlate(x, x[:3])
        np.testing.assert_array_equal(got, np.correlate(x, x[:3]))
        assert got.dtype == x.dtype

    @pytest.mark.parametrize("dtype", ["longdouble", "clongdouble"])
    def test_longdouble_is_exact_beyond_float64(self, dtype):
        x = np.array([1, 2.0**-60, 1], dtype)
        got = fastcorr.correlate(x, np.ones(2, dtype))
        assert got.dtype == dtype
        assert (got == 1 + np.array(2, dtype) ** -60).all()
        assert (got != 1).all()
