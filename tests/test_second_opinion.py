"""The public functions against SciPy and NumPy on real-valued random data, in the words of a user who comes from there.

Tolerances are a few eps of sum |x||k|: these libraries sum in another order, SciPy's ndimage in float64. Budget: 10 s.
"""

import itertools

import numpy as np
import pytest
from common import FACES

import fastcorr

signal = pytest.importorskip("scipy.signal")
ndimage = pytest.importorskip("scipy.ndimage")

NDIMAGE = {"constant": "constant", "edge": "nearest", "reflect": "mirror", "symmetric": "reflect", "wrap": "wrap"}
SHAPES = [((50,), (7,)), ((50,), (4,)), ((20, 31), (5, 3)), ((20, 31), (4, 6)), ((9, 10, 21), (3, 4, 5))]


def normal(seed, *shapes, dtype="float64"):
    rng = np.random.default_rng(seed)
    for shape in shapes:
        a = rng.standard_normal(shape)
        if np.dtype(dtype).kind == "c":
            a = a + 1j * rng.standard_normal(shape)
        yield a.astype(dtype)


def close(got, want, x, k, factor=8):
    """Within `factor` eps of the largest sum |x||k| there can be."""
    assert got.shape == want.shape
    eps = np.finfo(got.dtype).eps
    np.testing.assert_allclose(got, want, rtol=0, atol=factor * eps * np.abs(x).max() * np.abs(k).sum())


class TestNumPy:
    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
    @pytest.mark.parametrize("mode", ["valid", "same", "full"])
    @pytest.mark.parametrize("face", FACES)
    def test_1d(self, face, mode, dtype):
        for n, m in ((1000, 5), (1000, 64), (300, 300), (70, 1)):
            x, k = normal(n + m, n, m, dtype=dtype)
            close(getattr(fastcorr, face)(x, k, mode), getattr(np, face)(x, k, mode), x, k, 8 + np.sqrt(m))

    def test_sliding_windows(self):
        x, k = normal(1, (40, 50), (6, 7))
        view = np.lib.stride_tricks.sliding_window_view(x, k.shape)
        close(fastcorr.correlate(x, k), np.einsum("ijab,ab->ij", view, k), x, k)
        close(fastcorr.correlate(x, k, stride=(2, 3)), np.einsum("ijab,ab->ij", view[::2, ::3], k), x, k)

    def test_fft(self):
        """The circular convolution theorem."""
        x, k = normal(2, (32, 48), (5, 6))
        want = np.fft.irfft2(np.fft.rfft2(x) * np.fft.rfft2(k, x.shape), x.shape)
        got = fastcorr.convolve(x, k, "same", boundary="wrap", anchor=(0, 0))
        close(got, want, x, k, 50)


class TestSignal:
    @pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
    @pytest.mark.parametrize("mode", ["valid", "same", "full"])
    @pytest.mark.parametrize("face", FACES)
    def test_nd(self, face, mode, dtype):
        for x_shape, k_shape in SHAPES:
            x, k = normal(3, x_shape, k_shape, dtype=dtype)
            close(getattr(fastcorr, face)(x, k, mode), getattr(signal, face)(x, k, mode, "direct"), x, k)

    @pytest.mark.parametrize(("boundary", "word"), [("constant", "fill"), ("wrap", "wrap"), ("symmetric", "symm")])
    @pytest.mark.parametrize("mode", ["valid", "same", "full"])
    @pytest.mark.parametrize("face", FACES)
    def test_2d(self, face, mode, boundary, word):
        for k_shape in ((3, 3), (1, 5), (4, 5), (8, 2)):
            x, k = normal(4, (17, 23), k_shape)
            want = getattr(signal, face + "2d")(x, k, mode, word, 0.3)
            anchor = tuple((n - 1) // 2 for n in k_shape)
            close(getattr(fastcorr, face)(x, k, mode, boundary=boundary, fill=0.3, anchor=anchor), want, x, k)

    @pytest.mark.parametrize("mode", ["valid", "same", "full"])
    @pytest.mark.parametrize("axes", [None, (0,), (0, 2), (1, 2)])
    def test_fftconvolve(self, mode, axes):
        x = next(normal(5, (8, 9, 40)))
        shape = [n if axes and axis not in axes else 5 for axis, n in enumerate(x.shape)]
        k = next(normal(6, shape))
        want = signal.fftconvolve(x, k, mode, axes)
        got = fastcorr.convolve(x, k, mode, axes=axes)
        close(got, want, x, k, 50)

    def test_upfirdn(self):
        x, k = normal(7, 300, 21)
        close(fastcorr.convolve(x, k, "full", stride=3), signal.upfirdn(k, x, 1, 3), x, k)


class TestNdimage:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("boundary", NDIMAGE)
    @pytest.mark.parametrize("face", FACES)
    def test_modes(self, face, boundary, dtype):
        for x_shape, k_shape in SHAPES:
            x, k = normal(8, x_shape, k_shape, dtype=dtype)
            want = getattr(ndimage, face)(x, k, mode=NDIMAGE[boundary], cval=0.3)
            anchor = tuple(n // 2 for n in k_shape)
            got = getattr(fastcorr, face)(x, k, "same", boundary=boundary, fill=0.3, anchor=anchor)
            close(got, want, x, k)

    @pytest.mark.parametrize("boundary", NDIMAGE)
    @pytest.mark.parametrize("face", FACES)
    def test_origin(self, face, boundary):
        x, k = normal(9, (15, 16), (5, 7))
        for origin in itertools.product((-2, 0, 1, 2), (-3, -1, 0, 3)):
            want = getattr(ndimage, face)(x, k, mode=NDIMAGE[boundary], cval=-1.5, origin=origin)
            anchor = tuple(n // 2 + o for n, o in zip(k.shape, origin, strict=True))
            got = getattr(fastcorr, face)(x, k, "same", boundary=boundary, fill=-1.5, anchor=anchor)
            close(got, want, x, k)

    @pytest.mark.parametrize("boundary", NDIMAGE)
    def test_kernels_beyond_the_image(self, boundary):
        x, k = normal(10, (4, 5), (15, 21))
        want = ndimage.correlate(x, k, mode=NDIMAGE[boundary])
        close(fastcorr.correlate(x, k, "same", boundary=boundary), want, x, k)

    @pytest.mark.parametrize("axis", [0, 1, 2, -1])
    @pytest.mark.parametrize("face", FACES)
    def test_along_one_axis(self, face, axis):
        x, k = normal(11, (9, 10, 11), 5)
        want = getattr(ndimage, face + "1d")(x, k, axis, mode="mirror")
        close(getattr(fastcorr, face)(x, k, "same", axes=axis, boundary="reflect"), want, x, k)

    def test_gaussian(self):
        x = next(normal(12, (60, 70)))
        radius = 6
        g = np.exp(-0.5 * (np.arange(-radius, radius + 1) / 1.5) ** 2)
        g /= g.sum()
        want = ndimage.gaussian_filter(x, 1.5, mode="nearest", radius=radius)
        rows = fastcorr.correlate(x, g, "same", axes=0, boundary="edge")
        close(fastcorr.correlate(rows, g, "same", axes=1, boundary="edge"), want, x, g)
        close(fastcorr.correlate(x, np.outer(g, g), "same", boundary="edge"), want, x, g)

    def test_colour_image(self):
        x, k = normal(13, (30, 40, 3), (5, 5))
        want = ndimage.convolve(x, k[:, :, None], mode="wrap")
        close(fastcorr.convolve(x, k, "same", axes=(0, 1), boundary="wrap"), want, x, k)
