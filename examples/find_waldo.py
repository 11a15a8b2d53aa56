"""Find Waldo: where in a cluttered garage is what another photograph shows, dimmed and noisy?

    python examples/find_waldo.py [--output waldo.png] [--threads N]

scikit-image carries a stereo pair of a motorcycle among tools and boxes, with the measured distance of each pixel.
"Waldo" is a detail of the right photograph, at 40 % of its contrast and under noise, and is looked for in the left one,
where the measured parallax says exactly where it ought to be. Plain correlation finds the brightest wall. The zero-
normalised one, `fastcorr.match_template`, finds Waldo; its time stands beside those of OpenCV and scikit-image.
"""

import argparse
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
from picture import AMBER, NIGHT, frame, plt, race, show

import fastcorr

SIDE = 48
CUT = 310, 300  # of the detail in the right photograph: the cover of the engine, with its badge


def garage():
    """(left photograph, that in shades of grey, Waldo as he is and as he is sought, where he is in the left one)."""
    from skimage import data

    left, right, parallax = data.stereo_motorcycle()
    grey, other = ((photo @ [0.299, 0.587, 0.114]).round().astype(np.uint8) for photo in (left, right))
    row, column = CUT
    detail = np.s_[row : row + SIDE, column : column + SIDE]
    noise = np.random.default_rng(0).normal(0, 8, (SIDE, SIDE))
    waldo = np.clip(20 + 0.4 * other[detail] + noise, 0, 255).astype(np.uint8)
    # A pixel of the left photograph lies its parallax further right than in the right one.
    columns = np.arange(grey.shape[1])[None, :] - parallax[row : row + SIDE]
    there = np.isfinite(columns) & (column <= columns) & (columns < column + SIDE)
    shift = np.median(parallax[row : row + SIDE][there])
    return left, grey, right[detail], waldo, (row, round(column + float(shift)))


def plain(picture, waldo):
    """Correlation as the lecture has it: large where the picture is bright."""
    return fastcorr.correlate(picture.astype(np.float32), waldo.astype(np.float32))


def peak(scores):
    return tuple(int(i) for i in np.unravel_index(scores.argmax(), scores.shape))


def opencv(threads):
    import cv2

    cv2.setNumThreads(threads)
    return lambda picture, waldo: cv2.matchTemplate(picture, waldo, cv2.TM_CCOEFF_NORMED)


def skimage(_):
    from skimage.feature import match_template

    return match_template


def times(picture, waldo, threads):
    """{library: seconds of a search}, the least of some; a peer that is missing or disagrees is named, and left out."""
    found = {}
    for library, load in {"fastcorr": lambda _: fastcorr.match_template, "OpenCV": opencv, "skimage": skimage}.items():
        try:
            search = partial(load(threads), picture, waldo)
        except ImportError as error:
            print(f"{library} is left out: {error}")
            continue
        runs, scores = [], search()
        if np.abs(scores - fastcorr.match_template(picture, waldo)).max() > 1e-4:
            print(f"{library} disagrees with fastcorr: its time does not count")
            continue
        while sum(runs) < 0.3 or len(runs) < 3:
            start = perf_counter()
            search()
            runs.append(perf_counter() - start)
        found[library] = min(runs)
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("waldo.png"), help="the figure (default: waldo.png)")
    parser.add_argument("--threads", type=int, default=fastcorr.get_num_threads(), help="for every library that can")
    options = parser.parse_args(arguments)
    fastcorr.set_num_threads(options.threads)
    photograph, grey, detail, waldo, truth = garage()
    maps = {"plain": plain(grey, waldo), "normalised": fastcorr.match_template(grey, waldo)}
    hits = {name: peak(scores) for name, scores in maps.items()}
    score = maps["normalised"].max()
    away = max(abs(a - b) for a, b in zip(hits["normalised"], truth, strict=True))
    seconds = times(grey, waldo, options.threads)
    lines = [
        "the parallax puts Waldo at row {}, column {}".format(*truth),
        "match_template finds him at row {}, column {}: {:.2f}".format(*hits["normalised"], score),
        "plain correlation says row {}, column {}".format(*hits["plain"]),
    ]
    print("\n".join(lines))
    for library, time in seconds.items():
        print(f"{library:<10} {1e3 * time:8.2f} ms {time / seconds['fastcorr']:6.1f}x")
    draw(photograph, detail, waldo, maps, hits, score, seconds, lines).savefig(options.output, dpi=110)
    print(f"wrote {options.output}")
    return away > 2


def draw(photograph, detail, waldo, maps, hits, score, seconds, lines):
    """The photograph with both hits, Waldo, both maps, the race."""
    plt.style.use("dark_background")
    figure = plt.figure(figsize=(17, 10), facecolor=NIGHT)
    edges = {"left": 0.012, "right": 0.988, "top": 0.958, "bottom": 0.03}
    grid = figure.add_gridspec(2, 2, width_ratios=[2.05, 1], height_ratios=[3.6, 1], wspace=0.03, hspace=0.14, **edges)
    scene = show(figure.add_subplot(grid[0, 0]), photograph, "where is Waldo?", 16)
    frame(scene, hits["normalised"], SIDE, f"Waldo, {score:.2f}")
    frame(scene, hits["plain"], SIDE, "")
    scene.patches[-1].set(edgecolor="white", linestyle="--")
    titles = {"plain": "plain correlation: where it is bright", "normalised": "zero-normalised: where it is alike"}
    for (name, scores), place in zip(maps.items(), grid[0, 1].subgridspec(2, 1, hspace=0.12), strict=True):
        least = {"vmin": 0, "vmax": score} if name == "normalised" else {}
        axes = show(figure.add_subplot(place), scores, titles[name], 14, cmap="magma", **least)
        color = AMBER if name == "normalised" else "white"
        axes.plot(*hits[name][::-1], "o", markersize=24, markerfacecolor="none", markeredgewidth=2, color=color)
    cards = grid[1, 0].subgridspec(1, 3, width_ratios=[1, 1, 3.4], wspace=0.05)
    show(figure.add_subplot(cards[0]), detail, "Waldo, from beside", 13)
    show(figure.add_subplot(cards[1]), waldo, "as he is sought", 13, cmap="gray", vmin=0, vmax=255)
    text = figure.add_subplot(cards[2])
    text.axis("off")
    text.text(0.04, 0.9, "\n".join(lines), va="top", fontsize=14, linespacing=2)
    _, bars, _ = grid[1, 1].subgridspec(1, 3, width_ratios=[0.2, 0.55, 0.25])  # names | bars | times
    race(figure.add_subplot(bars), seconds)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
