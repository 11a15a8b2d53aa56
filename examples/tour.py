"""A tour of fastcorr on a photograph: find its edges, blur it, find a detail in it, and race other libraries.

    python examples/tour.py [PICTURE] [--output tour.png] [--threads N]

The three jobs are written once, over a function ``correlate(x, k)``, and every library runs them. fastcorr's results
are checked against the definition, its times stand beside those of the libraries that are installed, and the pictures
go side by side into one PNG. Without PICTURE the photograph is one that scikit-image carries with it.
"""

import argparse
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
from picture import compass, frame, read, sheet
from tqdm import tqdm

import fastcorr

SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32) / 8  # gradient from left to right, per pixel
BELL = np.exp(-0.5 * (np.arange(-15, 16) / 6) ** 2)
GAUSSIAN = np.float32(np.outer(BELL, BELL) / BELL.sum() ** 2)  # as one plain 31 x 31 kernel
SIDE = 25  # of the detail that is cut out and looked for


def edges(correlate, grey, **_):
    """The gradient (right, down): its length is the strength of an edge, its angle the direction."""
    return np.array([correlate(grey, SOBEL), correlate(grey, SOBEL.T.copy())])


def blur(correlate, planes, **_):
    """Each colour plane under the large kernel."""
    return np.array([correlate(plane, GAUSSIAN) for plane in planes])


def find(correlate, grey, detail, **_):
    """How alike `detail` and the patch around each pixel are; 1 means equal up to brightness and contrast.

    A bare correlation is largest where the picture is bright. So the detail loses its mean, and the result is divided
    by the contrast of the patch, which takes two more correlations. Patches flatter than 1 % are like nothing.
    """
    template = (detail - detail.mean()) / (detail.std() * detail.size)
    average = np.full_like(template, 1 / detail.size)
    variance = correlate(grey * grey, average) - correlate(grey, average) ** 2
    return correlate(grey, template) / np.sqrt(np.maximum(variance, 1e-4))


JOBS = {"edges, 3 x 3": edges, "blur, 31 x 31": blur, f"find, {SIDE} x {SIDE}": find}

# Every library's correlate(x, k) returns a result as large as x and sees x mirrored at its border.
fast = partial(fastcorr.correlate, mode="same", boundary="reflect")


def checked(x, k, errors):
    """`fast`, compared with the definition in float64; appends the error as a fraction of the documented bound.

    The definition takes its time, so a large job is checked on a grid of pixels: `stride` computes no others. The step
    is odd, so that each lane of a vector register has its turn.
    """
    y = fast(x, k)
    step = int(np.sqrt(x.size * k.size / 2e7)) | 1
    exact = fast(x.astype(np.float64), k.astype(np.float64), stride=step, method="reference")
    bound = np.finfo(y.dtype).eps * np.log2(x.size) * np.abs(x).max() * np.abs(k).sum()
    errors.append(np.abs(y[::step, ::step] - exact).max() / bound)
    return y


def mirrored(x, k):
    return np.pad(x, [(n // 2, n // 2) for n in k.shape], "reflect")


def opencv(threads):
    import cv2

    cv2.setNumThreads(threads)
    return lambda x, k: cv2.filter2D(x, -1, k, borderType=cv2.BORDER_REFLECT_101)


def pytorch(threads):
    import torch

    torch.set_num_threads(threads)
    return lambda x, k: torch.conv2d(*(torch.from_numpy(a)[None, None] for a in (mirrored(x, k), k)))[0, 0].numpy()


def scipy_signal(_):
    from scipy import signal

    return lambda x, k: signal.correlate(mirrored(x, k), k, "valid")


def scipy_ndimage(_):
    from scipy import ndimage

    return partial(ndimage.correlate, mode="mirror")


PEERS = {"OpenCV": opencv, "PyTorch": pytorch, "scipy.signal": scipy_signal, "scipy.ndimage": scipy_ndimage}


def race(scene, threads):
    """{library: {job: seconds}}, the least of some runs. What is missing or wrong is named and left out."""
    times, expected = {}, {}
    with tqdm(total=len(JOBS) * (1 + len(PEERS)), unit="job", leave=False) as bar:
        for library, load in {"fastcorr": lambda _: fast, **PEERS}.items():
            bar.set_description(library)
            try:
                correlate = load(threads)
            except ImportError as error:
                bar.write(f"{library} is left out: {error}")
                bar.update(len(JOBS))
                continue
            times[library] = {}
            for name, job in JOBS.items():
                runs = []
                while sum(runs) < 0.5:
                    start = perf_counter()
                    result = job(correlate, **scene)
                    runs.append(perf_counter() - start)
                if np.abs(result - expected.setdefault(name, result)).mean() < 1e-3:
                    times[library][name] = min(runs)
                else:
                    bar.write(f"{library} disagrees with fastcorr on {name}: its time does not count")
                bar.update()
    return times


def window(corner, margin=0):
    """Slices of the detail whose upper left pixel is `corner`, and some more around it."""
    return tuple(slice(max(0, i - margin), i + SIDE + margin) for i in corner)


def peak(scores):
    return tuple(int(i) for i in np.unravel_index(scores.argmax(), scores.shape))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("picture", nargs="?", type=Path, help="PNG, JPEG ... (default: an astronaut)")
    parser.add_argument("--output", type=Path, default=Path("tour.png"), help="the figure (default: tour.png)")
    parser.add_argument("--threads", type=int, default=fastcorr.get_num_threads(), help="for every library that can")
    options = parser.parse_args()
    try:
        planes = read(options.picture, 2 * SIDE)
        fastcorr.set_num_threads(options.threads)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    grey = np.tensordot(np.float32([0.299, 0.587, 0.114]), planes, 1)

    # The detail is cut out where edges are strongest, and made hard to recognise: half the contrast, and noise.
    cut = peak(fastcorr.correlate(np.hypot(*edges(fast, grey)), np.ones((SIDE, SIDE), np.float32)))
    noise = np.random.default_rng(0).normal(0, 0.08, (SIDE, SIDE))
    scene = {"grey": grey, "planes": planes, "detail": np.float32(0.25 + grey[window(cut)] / 2 + noise)}

    results, lines = [], []
    for name, job in JOBS.items():
        errors = []
        results.append(job(partial(checked, errors=errors), **scene))
        lines.append(f"{name}: error {max(errors):.3f} of the documented bound")
        if not max(errors) <= 1:
            raise SystemExit(f"{lines[-1]}: WRONG")
    gradient, blurred, likeness = results
    found = peak(likeness[SIDE // 2 : -(SIDE // 2), SIDE // 2 : -(SIDE // 2)])  # centres of whole patches
    lines.append("cut out at row {}, column {}, found at row {}, column {}".format(*cut, *found))
    lines += [] if found == cut else ["NOT where it was: is the picture flat or repeating?"]

    # The race is on the middle of the picture only, so that the slow ones finish on a large one too.
    middle = tuple(slice(max(0, n // 2 - 512), n // 2 + 512) for n in grey.shape)
    scene |= {"grey": grey[middle].copy(), "planes": planes[:, *middle].copy()}
    times, names = race(scene, options.threads), list(JOBS)
    lines.append("times: {1} x {0} pixels, {2} threads".format(*scene["grey"].shape, options.threads))
    print("\n".join(lines), f"\n{'milliseconds':<14}", *(f"{name:>18}" for name in names))
    for library, row in times.items():
        ratios = {name: row[name] / times["fastcorr"][name] for name in row}
        cells = [f"{1e3 * row[name]:.2f} ({ratios[name]:.1f}x)" if name in row else "-" for name in names]
        print(f"{library:<14}", *(f"{cell:>18}" for cell in cells))

    columns = [
        ("the photograph", planes.transpose(1, 2, 0), {"cut out": grey[window(cut)], "found": grey[window(found)]}),
        (f"{names[0]}: hue is direction", compass(*gradient), {"across, / 8": 8 * SOBEL, "down, / 8": 8 * SOBEL.T}),
        (names[1], np.clip(blurred, 0, 1).transpose(1, 2, 0), {"Gaussian": GAUSSIAN}),
        (f"{names[2]}: likeness", likeness, {"sought": scene["detail"], "likeness there": likeness[window(found, 12)]}),
    ]
    figure, pictures = sheet(columns, times, "\n".join(lines).replace(", found", ",\nfound"))
    frame(pictures[0], found, SIDE, "found")
    frame(pictures[3], found, SIDE, f"{likeness.max():.2f}")
    figure.savefig(options.output, dpi=110)
    print(f"\nwrote {options.output}")
    return found != cut


if __name__ == "__main__":
    raise SystemExit(main())
