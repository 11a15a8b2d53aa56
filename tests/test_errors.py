"""Every error of the contract: its type, and a message that names the argument, the axis and the numbers.

Each row is (id, x, k, options, exception, regular expression). Whatever the error, `out` is left as it was, the inputs
too, and the next call works. Budget: 2 seconds.
"""

import numpy as np
import pytest
from common import FACES

import fastcorr


class Opaque:
    """Something that is no array."""


ROW = np.arange(5.0)
IMAGE = np.arange(20.0).reshape(4, 5)
THREE = np.ones(3)

ARGUMENTS = [
    # x and k: dtypes, and shapes that do not fit
    ("x-object", np.array([1, None]), THREE, {}, TypeError, "x.*object"),
    ("k-object", ROW, np.array([1, None]), {}, TypeError, "k.*object"),
    ("x-of-something", Opaque(), THREE, {}, TypeError, "x.*object"),
    ("x-strings", np.array(["a", "b"]), THREE, {}, TypeError, "x.*<U1"),
    ("k-bytes", ROW, np.array([b"a"]), {}, TypeError, r"k.*S1"),
    ("x-dates", np.array(["2026-01-01"], "M8[D]"), THREE, {}, TypeError, r"x.*datetime64"),
    ("k-timedelta", ROW, np.array([1], "m8[s]"), {}, TypeError, "k.*timedelta64"),
    ("x-structured", np.zeros(5, "i4,f4"), THREE, {}, TypeError, "x.*f0"),
    ("object-in-spite-of-dtype", np.array([1, 2, 3], object), THREE, {"dtype": float}, TypeError, "x.*object"),
    ("dtype-object", ROW, THREE, {"dtype": object}, TypeError, "dtype.*object"),
    ("dtype-string", ROW, THREE, {"dtype": "U3"}, TypeError, "dtype.*U3"),
    ("dtype-nonsense", ROW, THREE, {"dtype": "nonsense"}, TypeError, "nonsense"),
    ("dtype-real-for-complex-x", ROW * 1j, THREE, {"dtype": "float64"}, TypeError, "dtype=float64.*x.*complex128"),
    ("dtype-int-for-complex-k", ROW, THREE * 1j, {"dtype": "int32"}, TypeError, "dtype=int32.*k.*complex128"),
    ("ragged", [[1, 2], [3]], THREE, {}, ValueError, "sequence|shape"),
    ("k-longer", np.ones((4, 5)), np.ones((2, 9)), {}, ValueError, r"along axis 1: 9 > 5; use mode='same' or 'full'"),
    ("k-longer-first-axis", IMAGE, np.ones((7, 2)), {}, ValueError, r"kernel is longer than x along axis 0: 7 > 4"),
    ("k-longer-batch", np.ones((2, 3, 4)), np.ones(5), {}, ValueError, "along axis 2: 5 > 4"),
    ("k-longer-named-axis", IMAGE, np.ones(5), {"axes": 0}, ValueError, "along axis 0: 5 > 4"),
    ("k-longer-negative-axis", IMAGE, np.ones(6), {"axes": -1}, ValueError, "along axis 1: 6 > 5"),
    ("k-longer-dilated", ROW, THREE, {"dilation": 4}, ValueError, "along axis 0: 9 > 5"),
    ("k-longer-padded", ROW, np.ones(9), {"mode": [(1, 2)]}, ValueError, r"along axis 0: 9 > 1 \+ 5 \+ 2"),
    ("cropped-away", ROW, THREE, {"mode": [(-2, -1)]}, ValueError, r"along axis 0: 3 > -2 \+ 5 \+ -1"),
    ("cropped-below-zero", ROW, [1.0], {"mode": [(-9, 0)]}, ValueError, "axis 0"),
    ("empty-x-one-short", np.ones(0), [1.0, 2.0], {}, ValueError, "along axis 0: 2 > 0"),
    ("empty-after-crop", ROW, [1.0], {"mode": [(-5, 0)]}, ValueError, "axis 0"),
    ("k-empty", ROW, np.ones(0), {}, ValueError, r"k has no elements.*\(0,\)"),
    ("k-empty-2d", IMAGE, np.ones((2, 0)), {"mode": "full"}, ValueError, r"k has no elements.*\(2, 0\)"),
    ("k-of-higher-rank", ROW, np.ones((1, 3)), {}, ValueError, "k has more axes than x: 2 > 1"),
    ("x-scalar", 3.0, THREE, {}, ValueError, "k has more axes than x: 1 > 0"),
    # axes
    ("axes-too-large", IMAGE, THREE, {"axes": 2}, ValueError, "axes.*2.*2 axes"),
    ("axes-too-small", IMAGE, THREE, {"axes": (-3,)}, ValueError, "axes.*-3"),
    ("axes-twice", IMAGE, np.ones((2, 2)), {"axes": (1, -1)}, ValueError, "axes.*twice"),
    ("axes-too-many", np.ones((4, 5, 6)), THREE, {"axes": (0, 1)}, ValueError, "axes names 2 axes, k has 1"),
    ("axes-too-few", np.ones((4, 5, 6)), np.ones((2, 2)), {"axes": 0}, ValueError, "axes names 1 axes, k has 2"),
    ("axes-float", IMAGE, THREE, {"axes": 1.0}, TypeError, r"axes.*1\.0"),
    ("axes-string", IMAGE, THREE, {"axes": "01"}, TypeError, "axes"),
    ("batch-mismatch", np.ones((4, 9)), np.ones((3, 2)), {"axes": 1}, ValueError, "along axis 0: 4 and 3"),
    ("batch-mismatch-last", np.ones((9, 4)), np.ones((2, 3)), {"axes": 0}, ValueError, "along axis 1: 4 and 3"),
    # mode
    ("mode-unknown", ROW, THREE, {"mode": "Valid"}, ValueError, "mode.*'Valid'"),
    ("mode-none", ROW, THREE, {"mode": None}, ValueError, "mode.*None"),
    ("mode-int", ROW, THREE, {"mode": 2}, ValueError, "mode.*2"),
    ("mode-one-pair-flat", ROW, THREE, {"mode": (1, 1)}, ValueError, r"mode.*\(1, 1\)"),
    ("mode-too-many-pairs", ROW, THREE, {"mode": [(1, 1), (1, 1)]}, ValueError, "mode has 2.*1 axes"),
    ("mode-too-few-pairs", IMAGE, np.ones((2, 2)), {"mode": [(1, 1)]}, ValueError, "mode has 1.*2 axes"),
    ("mode-triple", ROW, THREE, {"mode": [(1, 1, 1)]}, ValueError, "mode"),
    ("mode-float", ROW, THREE, {"mode": [(1.5, 1)]}, ValueError, r"mode.*1\.5"),
    # stride, dilation, anchor
    ("stride-zero", ROW, THREE, {"stride": 0}, ValueError, "stride.*axis 0 is 0"),
    ("stride-negative", IMAGE, np.ones((2, 2)), {"stride": (1, -2)}, ValueError, "stride.*axis 1 is -2"),
    ("stride-float", ROW, THREE, {"stride": 1.5}, TypeError, r"stride.*1\.5"),
    ("stride-too-many", ROW, THREE, {"stride": (1, 2)}, ValueError, "stride has 2 entries.*1 axes"),
    ("stride-too-few", IMAGE, np.ones((2, 2)), {"stride": [2]}, ValueError, "stride has 1 entries.*2 axes"),
    ("stride-none", ROW, THREE, {"stride": None}, TypeError, "stride.*None"),
    ("dilation-zero", ROW, THREE, {"dilation": 0}, ValueError, "dilation.*axis 0 is 0"),
    ("dilation-negative", IMAGE, np.ones((2, 2)), {"dilation": (-1, 2)}, ValueError, "dilation.*axis 0 is -1"),
    ("dilation-float", ROW, THREE, {"dilation": 2.0}, TypeError, r"dilation.*2\.0"),
    ("dilation-too-many", ROW, THREE, {"dilation": (1, 2)}, ValueError, "dilation has 2 entries.*1 axes"),
    ("anchor-too-large", ROW, THREE, {"mode": "same", "anchor": 3}, ValueError, "anchor.*axis 0 is 3.*0 to 2"),
    ("anchor-negative", ROW, THREE, {"mode": "same", "anchor": -1}, ValueError, "anchor.*axis 0 is -1.*0 to 2"),
    ("anchor-second-axis", IMAGE, np.ones((2, 3)), {"mode": "same", "anchor": (1, 5)}, ValueError,
     "anchor.*axis 1 is 5.*2"),
    ("anchor-too-many", ROW, THREE, {"mode": "same", "anchor": (1, 1)}, ValueError, "anchor has 2 entries.*1 axes"),
    ("anchor-float", ROW, THREE, {"mode": "same", "anchor": 1.5}, TypeError, r"anchor.*1\.5"),
    # boundary and fill
    ("boundary-unknown", ROW, THREE, {"boundary": "zero"}, ValueError, "boundary='zero'.*'reflect'"),
    ("boundary-one-unknown", IMAGE, np.ones((2, 2)), {"boundary": ("wrap", "x")}, ValueError, "boundary='x'"),
    ("boundary-too-many", ROW, THREE, {"boundary": ("wrap", "wrap")}, ValueError, "boundary has 2 entries.*1 axes"),
    ("boundary-number", ROW, THREE, {"boundary": 3}, (TypeError, ValueError), "boundary.*3"),
    ("boundary-none", ROW, THREE, {"boundary": None}, (TypeError, ValueError), "boundary.*None"),
    ("boundary-list-of-lists", ROW, THREE, {"boundary": [["wrap"]]}, (TypeError, ValueError), "boundary"),
    ("boundary-of-empty-x", np.ones(0), THREE, {"mode": "full", "boundary": "wrap"}, ValueError,
     "boundary='wrap'.*axis 0.*empty"),
    ("fill-array", ROW, THREE, {"fill": [1, 2]}, TypeError, r"fill.*\[1, 2\]"),
    ("fill-string", ROW, THREE, {"fill": "edge"}, TypeError, "fill.*'edge'"),
    ("fill-none", ROW, THREE, {"fill": None}, TypeError, "fill.*None"),
    ("fill-complex", ROW, THREE, {"fill": 1j}, TypeError, "fill=1j.*float64"),
    ("fill-nan-for-int", np.arange(5), [1, 1], {"fill": np.nan}, ValueError, "fill=nan.*int"),
    ("fill-inf-for-int", np.arange(5), [1, 1], {"fill": np.inf}, ValueError, "fill=inf.*int"),
    # method and unknown options
    ("method-unknown", ROW, THREE, {"method": "quick"}, ValueError, "method='quick'.*'direct'"),
    ("method-of-a-later-version", ROW, THREE, {"method": "winograd"}, ValueError, "method='winograd'.*'auto'"),
    ("method-none", ROW, THREE, {"method": None}, (TypeError, ValueError), "method=None"),
    ("method-cannot", ROW.astype("g"), THREE, {"method": "direct"}, ValueError,
     "method='direct'.*(longdouble|float128)"),
    ("unknown-option", ROW, THREE, {"strides": 2}, TypeError, "strides"),
]  # fmt: skip

OUT = [
    ("shape", np.empty(4), ValueError, r"out.*\(4,\).*\(3,\)"),
    ("rank", np.empty((1, 3)), ValueError, r"out.*\(1, 3\).*\(3,\)"),
    ("narrow-dtype", np.empty(3, "float32"), TypeError, "out.*float32.*float64"),
    ("wide-dtype", np.empty(3, "complex128"), TypeError, "out.*complex128.*float64"),
    ("list", [0.0, 0.0, 0.0], TypeError, "out.*list"),
    ("number", 3, TypeError, "out.*int"),
    ("read-only", np.broadcast_to(np.zeros(1), 3), ValueError, "out.*read-only"),
]


def rows(table):
    return [pytest.param(*row[1:], id=row[0]) for row in table]


@pytest.mark.parametrize("face", FACES)
class TestArguments:
    @pytest.mark.parametrize(("x", "k", "options", "exception", "message"), rows(ARGUMENTS))
    def test_message(self, face, x, k, options, exception, message):
        with pytest.raises(exception, match=f"(?s){message}"):
            getattr(fastcorr, face)(x, k, **options)

    @pytest.mark.parametrize(("x", "k", "options", "exception", "message"), rows(ARGUMENTS))
    def test_leaves_out_and_inputs_alone(self, face, x, k, options, exception, message):
        out = np.full(3, 7.25)
        before = [np.array(a, copy=True) for a in (x, k) if isinstance(a, np.ndarray)]
        with pytest.raises(exception):
            getattr(fastcorr, face)(x, k, **options, out=out)
        assert (out == 7.25).all()
        for was, a in zip(before, (a for a in (x, k) if isinstance(a, np.ndarray)), strict=True):
            np.testing.assert_array_equal(was, a)

    @pytest.mark.parametrize(("x", "k", "options", "exception", "message"), rows(ARGUMENTS))
    def test_comes_again(self, face, x, k, options, exception, message):
        """An error is not remembered as a plan: the same call fails the same way, and a right one works."""
        texts = set()
        for _ in range(2):
            with pytest.raises(exception) as caught:
                getattr(fastcorr, face)(x, k, **options)
            texts.add(str(caught.value).replace(str(id(x)), "").split(" at 0x")[0])
        assert len(texts) == 1
        assert getattr(fastcorr, face)(ROW, THREE).tolist() == [3, 6, 9]

    @pytest.mark.parametrize(("out", "exception", "message"), rows(OUT))
    def test_out(self, face, out, exception, message):
        before = np.array(out)
        for _ in range(2):
            with pytest.raises(exception, match=message):
                getattr(fastcorr, face)(ROW, THREE, out=out)
        assert np.array_equal(out, before, equal_nan=True)

    def test_missing_arguments(self, face):
        for arguments in ((), (ROW,)):
            with pytest.raises(TypeError):
                getattr(fastcorr, face)(*arguments)

    def test_options_are_by_name(self, face):
        with pytest.raises(TypeError):
            getattr(fastcorr, face)(ROW, THREE, "same", None)

    def test_results_beyond_memory(self, face):
        with pytest.raises((MemoryError, ValueError)):
            getattr(fastcorr, face)(ROW, THREE, [(2**55, 2**55)])

    @pytest.mark.parametrize(
        "options", [{"stride": 2**70}, {"mode": [(2**70, 0)]}, {"mode": [(0, 2**63)]}, {"dilation": 2**70}]
    )
    def test_numbers_beyond_any_size(self, face, options):
        """Too large for an array index: an error like any other, or right; never a crash."""
        try:
            y = getattr(fastcorr, face)(ROW, THREE, **options)
        except (ValueError, MemoryError, OverflowError):
            return
        assert "stride" in options
        assert y.tolist() == [3]


class TestMessagesAreOneLine:
    @pytest.mark.parametrize(("x", "k", "options", "exception", "message"), rows(ARGUMENTS))
    def test_and_short(self, x, k, options, exception, message):
        with pytest.raises(exception) as caught:
            fastcorr.correlate(x, k, **options)
        assert "\n" not in str(caught.value)
        assert 8 < len(str(caught.value)) < 250


class TestLags:
    def test_errors(self):
        for arguments, exception, message in [
            ((5, 3, "all"), ValueError, "'all'"),
            ((-1, 3), ValueError, "n.*-1"),
            ((5, -3), ValueError, "m.*-3"),
            ((5, 0), ValueError, "no elements"),
            ((3, 5), ValueError, "5 > 3"),
            ((5.5, 3), TypeError, "float"),
        ]:
            with pytest.raises(exception, match=message):
                fastcorr.correlation_lags(*arguments)


class TestPlanErrors:
    def test_function(self):
        for f in (np.convolve, "correlate", None, fastcorr.correlation_lags):
            with pytest.raises(TypeError, match="correlate"):
                fastcorr.plan(f, ROW, THREE)

    def test_arguments_as_in_the_call(self):
        for x, k, options, exception, message in (row[1:] for row in ARGUMENTS):
            with pytest.raises(exception, match=f"(?s){message}"):
                fastcorr.plan(fastcorr.correlate, x, k, **options)

    def test_new_data(self):
        plan = fastcorr.plan(fastcorr.correlate, np.ones((4, 5), "float32"), np.ones((2, 2), "float32"))
        out = np.full((3, 4), np.float32(7))
        for x, exception, message in [
            (np.ones((4, 6), "float32"), ValueError, r"x.*\(4, 6\).*\(4, 5\)"),
            (np.ones((1, 4, 5), "float32"), ValueError, r"x.*\(1, 4, 5\).*\(4, 5\)"),
            (np.ones((4, 5)), TypeError, "x.*float64.*float32"),
            (np.ones((4, 5), "int32"), TypeError, "x.*int32.*float32"),
        ]:
            with pytest.raises(exception, match=message):
                plan(x, out=out)
        with pytest.raises(ValueError, match="out"):
            plan(np.ones((4, 5), "float32"), out=np.empty((4, 5), "float32"))
        assert (out == 7).all()
