"""A repeated call is found again by shapes, dtypes and options: what differs in any of them must never be taken for it.

All calls of this file go through one process-wide table; each is compared with what it gives alone. Budget: 5 seconds.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
import scipy.ndimage
from common import same_bits

import fastcorr
from fastcorr import _call
from fastcorr.compat import ndimage

X, K = np.arange(12.0).reshape(3, 4), np.array([1.0, 2.0, 4.0])
IMAGE, WEIGHTS = np.arange(64.0).reshape(1, 4, 4, 4), np.arange(64.0).reshape(4, 4, 2, 2)


class TestOptions:
    def test_equal_numbers_of_other_types(self):
        """1, 1.0 and True are equal and hash alike, but only an int is a stride."""
        for face, arrays in ((fastcorr.correlate, (X, K)), (fastcorr.conv, (IMAGE, WEIGHTS))):
            face(*arrays, stride=1)
            with pytest.raises(TypeError, match="stride"):
                face(*arrays, stride=1.0)
            with pytest.raises(TypeError, match="stride"):
                face(*arrays, stride=(1.0,) * (1 if face is fastcorr.correlate else 2))
            face(*arrays, stride=np.int64(1))

    def test_a_list_that_changes(self):
        pads, stride = [[1, 0]], [1]
        for lo, step in ((1, 1), (2, 1), (2, 2), (1, 1)):
            pads[0][0], stride[0] = lo, step
            want = fastcorr.correlate(X, K, ((lo, 0),), stride=(step,))
            assert same_bits(fastcorr.correlate(X, K, pads, stride=stride), want)
        padding = [0, 0]
        for n in (0, 1, 0, 2):
            padding[1] = n
            assert fastcorr.conv(IMAGE, WEIGHTS, padding=padding).shape == (1, 4, 3, 3 + 2 * n)
            assert fastcorr.conv_vjp(np.ones((1, 4, 3, 3 + 2 * n)), IMAGE, WEIGHTS, padding=padding)[0].shape[3] == 4

    def test_a_list_whose_names_are_replaced(self):
        """The table knows a name by its address, so it holds on to it: another may not move in there."""
        names = ["", ""]
        for rule in ("edge", "wrap", "reflect") * 5:
            names[:] = ["".join(rule), "".join([*rule])]
            want = fastcorr.correlate(X, np.outer(K, K), "same", boundary=rule)
            assert same_bits(fastcorr.correlate(X, np.outer(K, K), "same", boundary=names), want)

    def test_zeros_and_nans_of_fill(self):
        for fill in (0.0, -0.0, float("nan"), 0, 2, float("-inf"), True):
            got = fastcorr.correlate([1.0], [1.0], [(1, 0)], fill=fill)
            assert np.array_equal(got, [fill, 1.0], equal_nan=True)

    def test_equal_options_are_one_call(self):
        made = []

        def make(face, arrays, options):
            made.append(options)
            return object()

        def of(*options, x=X):
            return _call.resolved(make, "face", (x, None), options)

        pair = [1, 2]
        first = of((1, 2), None, [3.5])
        assert of(tuple(pair), None, [3.5]) is first
        swapped = X.astype(X.dtype.newbyteorder())
        assert of((1, 2), None, [3.5], x=swapped.astype(swapped.dtype.newbyteorder("="))) is first
        others = [((1, 2), None, (3.5,)), ((1, 2, None), [3.5]), ((1,), 2, [3.5]), ((True, 2), None, [3.5])]
        others += [((1, 2.0), None, [3.5]), ((1, 2**70), None, [3.5]), ((1, 2), 0, [3.5])]
        assert len({id(found) for found in [first, *(of(*options) for options in others)]}) == 1 + len(others)
        of((1, 2), None, [3.5], x=swapped)
        of((1, 2), None, [3.5], x=X[:, :3])
        assert len(made) == 3 + len(others)

    def test_what_may_change_unseen_is_resolved_anew(self):
        made = []
        for _ in range(2):
            _call.resolved(lambda *a: made.append(a), "face", (X,), (np.array([1]),))
        assert len(made) == 2

    def test_endless_options(self):
        """More than the table has room for: resolved, not remembered."""
        long = tuple(range(2000))
        made = [_call.resolved(lambda *_: object(), "face", (X,), (long,)) for _ in range(2)]
        assert made[0] is not made[1]


class TestArrays:
    def test_weights_that_change_in_place(self):
        x, k = np.arange(40.0).reshape(5, 8), np.ones((3, 3))
        w, image = WEIGHTS.copy(), IMAGE
        for step in range(4):
            k[:] = np.outer(K, K) if step % 2 else np.arange(9.0).reshape(3, 3) + step  # of rank 1 and 2 in turn
            w *= -1
            assert same_bits(fastcorr.correlate(x, k), fastcorr.correlate(x.copy(), k.copy(), method="reference"))
            assert same_bits(fastcorr.conv(image, w), fastcorr.conv(image, w, method="reference"))
            for weights in (k, k / 4):
                assert same_bits(
                    ndimage.correlate(x.astype(int), weights), scipy.ndimage.correlate(x.astype(int), weights)
                )

    def test_shapes_and_dtypes_in_turns(self):
        rng = np.random.default_rng(0)
        for _ in range(3):
            for dtype, n, output in product(("uint8", "int64", "float32", "float64"), (5, 9), (None, "int32", float)):
                x = rng.integers(0, 99, (n, n)).astype(dtype)
                for call in (
                    lambda m, x, y: m.sobel(x, output=y),
                    lambda m, x, y: m.laplace(x, y, "wrap"),
                    lambda m, x, y: m.correlate1d(x, [1, 0.5], 0, y, "constant", 3),
                    lambda m, x, y: m.convolve(x, [[1, 2], [3, 4]], y, origin=(0, -1)),
                    lambda m, x, y: m.prewitt(x, 0, y, ("mirror", "nearest")),
                ):
                    got, want = call(ndimage, x, output), call(scipy.ndimage, x, output)
                    assert got.dtype == want.dtype
                    assert np.array_equal(got, want)

    def test_every_overlap_of_out(self):
        buffer = np.arange(60.0)
        x = buffer[10:30].copy()
        want = fastcorr.correlate(x, K, "same")
        for start, step in product(range(31), (1, -1, 2)):
            memory = np.arange(60.0)
            out = memory[start : start + 20 * step : step] if step > 0 else memory[start : start + 20][::-1]
            if out.shape != (20,):
                continue
            assert np.array_equal(fastcorr.correlate(memory[10:30], K, "same", out=out), want)

    def test_threads(self):
        """Calls of all kinds from several threads, that fill the table and empty it."""

        def work(seed):
            for n in range(3, 200):
                x = np.arange(float(n + seed % 3))
                y = fastcorr.correlate(x, K, "same", stride=[1])
                assert y[1] == x[0] + 2 * x[1] + 4 * x[2]
                assert ndimage.correlate1d(x, K, mode="constant")[1] == y[1]
                assert fastcorr.conv(x[None], K[None, None])[0, 0] == y[1]
                assert fastcorr.conv_vjp(np.ones((1, len(x) - 2)), x[None], K[None, None])[0][0, 0] == 1
            return seed

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(work, range(4))) == [0, 1, 2, 3]


def test_errors_come_before_anything_is_written():
    """Of several passes the last is checked before the first is run."""
    x, y = np.ones((4, 5, 6)), np.full((4, 5, 6), 7.0)
    with pytest.raises(RuntimeError, match="mode"):
        ndimage.gaussian_filter(x, 1, output=y, mode=("wrap", "wrap", "nothing"))
    assert (y == 7).all()


class TestLayerRunner:
    """What its kernel takes as it is goes there at once, all else by way of `contract`: the results are the same."""

    def test_types_layouts_and_byte_orders(self):
        x, w, bias = IMAGE.astype(np.float32), WEIGHTS[:2].astype(np.float32), np.arange(2, dtype=np.float32)
        want = fastcorr.conv(x, w, bias)
        swapped = np.float32(0).dtype.newbyteorder()
        for arrays in (
            (x.astype(swapped), w, bias),
            (x, w.astype(swapped), bias),
            (x, w, bias.astype(swapped)),
            (x, np.asfortranarray(w), np.repeat(bias, 2)[::2]),
            (x[..., ::-1][..., ::-1], w[:, :, ::-1][:, :, ::-1], bias),
            (x.astype(np.int8), w, bias),
            (x, w.astype(np.int16), bias.astype(np.int16)),
        ):
            assert same_bits(fastcorr.conv(*arrays), want)

    def test_out_is_written_in_place_or_by_copy(self):
        x, w = IMAGE.astype(np.float32), WEIGHTS[:2].astype(np.float32)
        want = fastcorr.conv(x, w)
        wide = np.zeros((*want.shape[:-1], 2 * want.shape[-1]), np.float32)
        for out in (np.zeros_like(want), wide[..., ::2], np.zeros_like(want, order="F"), x[:, :2, :3, :3]):
            assert fastcorr.conv(x.copy() if out.base is not x else x, w, out=out) is out
            assert np.array_equal(out, want)
            x = IMAGE.astype(np.float32)

    def test_a_result_without_axes(self):
        gx, gk = fastcorr.correlate_vjp(np.array(3 + 1j), np.array(2j), np.array(4 - 1j), need=(True, True))
        assert (gx.shape, gk.shape) == ((), ())
        assert (gx, gk) == ((3 + 1j) * (4 - 1j), (3 + 1j).conjugate() * 2j)
