"""The lecture on convolution that fastcorr grew from, as a program: every step prints what it shows and asserts it.

    python examples/lecture.py

From sliding a 2 x 2 kernel over a 3 x 3 array to why a convolutional layer has 9 parameters where a dense one would
have 144 million million. Each step is a function below, and its docstring is the text. The time series and the volume
are real ones, which matplotlib and scikit-image carry with them; where these are not installed, those two steps are
left out.
"""

import inspect
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np

import fastcorr

EDGE = np.array([[1.0, -1.0]])
CORRELATE = fastcorr.correlate, fastcorr.correlate_vjp
CONVOLVE = fastcorr.convolve, fastcorr.convolve_vjp


def same_bits(a, b):
    """Whether two arrays of floats are equal to the last bit, the sign of zero included."""
    bits = f"u{a.itemsize}"
    return a.dtype == b.dtype and np.array_equal(a.view(bits), b.view(bits))


def stripes():
    """The 6 x 8 picture: white, with four black columns in the middle."""
    picture = np.ones((6, 8))
    picture[:, 2:6] = 0
    return picture


def learn(face, x, y, k, *, steps=10, rate=1 / 36):
    """Gradient descent on ``sum((face(x, k) - y)**2)`` over `k`, all of it: (the learned kernel, the losses)."""
    forward, vjp = face
    losses = []
    for _ in range(steps):
        error = forward(x, k) - y
        losses.append((error**2).sum())
        _, gradient = vjp(2 * error, x, k, need=(False, True))
        k = k - rate * gradient
    return k, [*losses, ((forward(x, k) - y) ** 2).sum()]


def sliding_window():
    """Cross-correlation slides the kernel over the array; each output is the sum of products under the kernel.

    The lecture calls it corr2d. The top left output is 0*0 + 1*1 + 3*2 + 4*3 = 19.
    """
    x, k = np.arange(9).reshape(3, 3), np.arange(4).reshape(2, 2)
    y = fastcorr.correlate(x, k)
    print(y)
    assert np.array_equal(y, [[19, 25], [37, 43]])
    assert all(y[i, j] == (x[i : i + 2, j : j + 2] * k).sum() for i, j in np.ndindex(y.shape))


def edge_detection():
    """The kernel [1, -1] answers where neighbours in a row differ: 1 from white to black, -1 from black to white.

    It sees no edge that runs along the row: on the picture lying on its side it is silent.
    """
    x = stripes()
    y = fastcorr.correlate(x, EDGE)
    print(y.astype(int))
    assert np.array_equal(y, np.tile([0, 1, 0, 0, 0, -1, 0], (6, 1)))
    assert not fastcorr.correlate(x.T, EDGE).any()


def learning():
    """Nobody has to design the kernel: the picture and its edges suffice to learn it, in ten steps.

    The loss is a bowl, a parabola of curvature 60 along [1, 1] and of curvature 12 along [1, -1]. So the best rate is
    2 / (60 + 12) = 1 / 36, where each step takes a third off the error in both directions. A smaller rate crawls along
    the second, and one above 2 / 60 overshoots along the first by more at every step.
    """
    x, start = stripes(), np.random.default_rng(4).normal(size=EDGE.shape)
    for direction, curvature in (np.array([[1.0, 1.0]]), 60), (np.array([[1.0, -1.0]]), 12):
        _, bend = fastcorr.correlate_vjp(2 * fastcorr.correlate(x, direction), x, direction)
        assert np.array_equal(bend, curvature * direction)

    y = fastcorr.correlate(x, EDGE)
    k, losses = learn(CORRELATE, x, y, start)
    for step, loss in enumerate(losses):
        print(f"after {step:2} steps: loss {loss:.6f}")
    print("learned:", k.round(3))
    assert all(after < before for before, after in pairwise(losses))
    assert np.allclose(k - EDGE, (2 / 3) ** 10 * (start - EDGE))
    assert np.abs(k - EDGE).max() < 0.1
    (_, slow), (_, wild) = (learn(CORRELATE, x, y, start, rate=rate) for rate in (1 / 100, 1 / 25))
    assert losses[-1] < slow[-1] / 10
    assert wild[-1] > wild[0]
    return k


def flipping():
    """Cross-correlation or true convolution, which flips the kernel? To a network that learns it is all one.

    Both learn the same edges from the same start. They find different kernels, one the mirror of the other, and what
    they compute with them is the same.
    """
    x, start = stripes(), np.random.default_rng(1).normal(size=EDGE.shape)
    y = fastcorr.correlate(x, EDGE)
    k, _ = learn(CORRELATE, x, y, start, steps=50)
    flipped, _ = learn(CONVOLVE, x, y, start, steps=50)
    print("correlate learned", k.round(3), "and convolve", flipped.round(3))
    assert np.allclose(k, EDGE, atol=1e-6)
    assert np.allclose(flipped, k[:, ::-1], atol=1e-6)
    assert np.allclose(fastcorr.convolve(x, flipped), fastcorr.correlate(x, k), atol=1e-6)
    return k, flipped


def time_series():
    """One dimension: the price of Google's share on 1047 days from 2004 to 2008, which matplotlib carries with it.

    The edge kernel, [-1, 1] to make a rise positive, is the difference from day to day; of logarithms it is the growth.
    Its largest answer is the day after the results of the first quarter of 2008. A kernel of 21 equal taps is the mean
    over a month of trading.
    """
    from matplotlib.cbook import get_sample_data

    shares = get_sample_data("goog.npz")["price_data"]
    date, price = shares["date"], shares["adj_close"]
    growth = fastcorr.correlate(np.log(price), [-1.0, 1.0])
    best = growth.argmax()
    print(f"steepest rise: {np.expm1(growth[best]):.1%} on {date[best + 1]}")
    assert np.array_equal(growth, np.diff(np.log(price)))
    assert str(date[best + 1]) == "2008-04-18"

    month = fastcorr.correlate(price, np.full(21, 1 / 21), "same", boundary="edge")
    roughness = [np.abs(np.diff(a)).mean() for a in (price, month)]
    print("mean change from day to day: {:.2f} dollars, of the monthly mean {:.2f}".format(*roughness))
    assert month.shape == price.shape
    assert np.allclose(month[10:-10], np.lib.stride_tricks.sliding_window_view(price, 21).mean(axis=1))
    assert roughness[1] < roughness[0] / 3


def volume():
    """Three dimensions: a video is a volume of time, rows and columns. This one is tiny but real, from scikit-image.

    A 2 x 3 x 3 kernel, -1/9 in one frame and 1/9 in the next, is the edge kernel along time on patches of 3 x 3: it
    answers where something moves, and in the left third of the picture hardly anything does. The colours are no fourth
    axis to slide along but channels, which a layer sums over.
    """
    import skimage
    from PIL import Image, ImageSequence

    with Image.open(Path(skimage.__file__).parent / "data" / "no_time_for_that_tiny.gif") as file:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(file)]
    video = np.moveaxis(np.array(frames), -1, 0) / 255  # colour, time, row, column
    grey, k = video.mean(axis=0), np.array([-1 / 9, 1 / 9]).reshape(2, 1, 1) * np.ones((3, 3))
    motion = fastcorr.correlate(grey, k)
    time, row, column = np.unravel_index(np.abs(motion).argmax(), motion.shape)
    print(f"video {grey.shape}, motion {motion.shape}")
    print(f"most of it between frames {time} and {time + 1}, around row {row + 1}, column {column + 1}")
    assert motion.shape == (len(grey) - 1, grey.shape[1] - 2, grey.shape[2] - 2)
    assert np.abs(motion[..., :3]).max() < 0.1 * np.abs(motion).max()
    patches = fastcorr.correlate(grey, np.full((3, 3), 1 / 9))  # acts on the last two axes, frame by frame
    assert np.allclose(motion, np.diff(patches, axis=0), atol=1e-12)
    layer = fastcorr.conv(video, np.broadcast_to(k / 3, (1, 3, *k.shape)))  # one output channel from three colours
    assert np.allclose(layer, motion[None], atol=1e-12)


def parameters(height, width, taps):
    """How many numbers each layer learns that maps a picture to one hidden unit per pixel."""
    pixels = height * width
    return {"dense": pixels * pixels, "local": pixels * prod(taps), "shared": prod(taps)}


def dense_to_shared():
    """From the dense layer to the convolution: rename its weights, drop the far ones, share the rest.

    1. Dense: each hidden unit (i, j) weighs each pixel (k, l), ``h[i, j] = sum of w[i, j, k, l] * x[k, l]``. Counting
       pixels from the unit, ``v[i, j, a, b] = w[i, j, i + a, j + b]``, only renames the weights: it is `local_conv`
       with a kernel larger than the picture.
    2. Locality: units see their neighbours only. The far weights are gone, and v is 3 x 3 at each position.
    3. Translation invariance: a pattern means the same everywhere, so all positions share one kernel. That is `conv`.

    A camera's 12 megapixels tell what it buys.
    """
    rng = np.random.default_rng(2)
    height, width = size = (6, 8)
    x = rng.integers(-9, 10, size)  # integers, so that equal means equal
    w = rng.integers(-9, 10, size + size)
    i, j, k, l = np.ogrid[:height, :width, :height, :width]  # noqa: E741 - the lecture's names

    def dense(w):
        return np.einsum("ijkl,kl->ij", w, x)

    def local(v):
        same = [n // 2 for n in v.shape[2:]]
        return fastcorr.local_conv(x[None], v[:, :, None, None], padding=same)[0]

    def seen_from_the_unit(w, reach):
        """v[i, j, a, b] for a, b from -reach to reach; no weight where (i + a, j + b) is outside the picture."""
        a, b = (np.arange(2 * r + 1) for r in reach)
        padded = np.pad(w, [(0, 0), (0, 0), *((r, r) for r in reach)])
        return padded[i, j, i + a[:, None], j + b]

    v = seen_from_the_unit(w, (height - 1, width - 1))
    assert np.array_equal(dense(w), local(v))

    near = np.where((abs(k - i) <= 1) & (abs(l - j) <= 1), w, 0)
    v = seen_from_the_unit(near, (1, 1))
    assert v.shape == (*size, 3, 3)
    assert np.array_equal(dense(near), local(v))

    kernel = rng.integers(-9, 10, (3, 3))
    v = np.broadcast_to(kernel, v.shape)
    shared = fastcorr.conv(x[None], kernel[None, None], padding=1)[0]
    assert np.array_equal(local(v), shared)
    assert parameters(*size, kernel.shape) == {"dense": w.size, "local": v.size, "shared": kernel.size}

    counts = parameters(3000, 4000, kernel.shape)
    for name, count in counts.items():
        print(f"{name:>6}: {count:>19,} parameters, {4 * count:>19,} bytes in float32")
    assert counts == {"dense": 12_000_000**2, "local": 108_000_000, "shared": 9}
    return counts


def translation_invariance():
    """Shift the picture and the result shifts with it. That is what sharing means, and here it holds to the last bit.

    Real numbers do not add up to the same in another order, so this is a promise about every direct kernel: an output
    depends on the pixels under its window, not on where in the picture the window lies. It is no matter of course. A
    Fourier transform mixes all pixels, and keeps it up to rounding only.
    """
    rng = np.random.default_rng(3)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 61, 83), (5, 3, 7, 7)))
    bias = rng.normal(size=5).astype(np.float32)
    whole = fastcorr.conv(x, w, bias, method="direct")
    shifts = [(down, right) for down in range(0, 21, 3) for right in range(20)]
    for down, right in shifts:
        shifted = fastcorr.conv(x[:, down : down + 40, right : right + 60], w, bias, method="direct")
        assert same_bits(shifted, whole[:, down : down + 34, right : right + 54])
    print(f"convolutional layer: {len(shifts)} shifts, every bit equal")

    def direct(x, k):
        return fastcorr.correlate(x, k, method="direct")

    def fourier(x, k):
        y = np.fft.irfft2(np.fft.rfft2(x) * np.fft.rfft2(k, x.shape).conj(), x.shape)
        return y[tuple(slice(n - m + 1) for n, m in zip(x.shape, k.shape, strict=True))]

    for correlate in (direct, fourier):
        whole, shifted = correlate(x[0], w[0, 0])[7:41, 5:59], correlate(x[0, 7:47, 5:65], w[0, 0])
        print(f"one channel, {correlate.__name__}: {(whole != shifted).mean():.0%} of the outputs change")
        assert same_bits(whole, shifted) or correlate is fourier
        assert np.allclose(whole, shifted, atol=1e-4)


STEPS = (
    sliding_window,
    edge_detection,
    learning,
    flipping,
    time_series,
    volume,
    dense_to_shared,
    translation_invariance,
)


def main():
    for number, step in enumerate(STEPS, start=1):
        print(f"--- {number}. {step.__name__.replace('_', ' ')} ---\n\n{inspect.getdoc(step)}\n")
        try:
            step()
        except (ImportError, FileNotFoundError) as error:  # only of the two with real data
            print(f"left out: {error}")
        print()


if __name__ == "__main__":
    main()
