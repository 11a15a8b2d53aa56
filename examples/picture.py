"""How the photograph of tour.py is read, and how its pictures go onto one sheet. Nothing here uses fastcorr."""

import matplotlib
import numpy as np
from PIL import Image, ImageOps

matplotlib.use("Agg")  # no display needed
import matplotlib.pyplot as plt

AMBER, SLATE, NIGHT = "#ffb000", "#5b6b8c", "#14161b"


def read(path, least):
    """The photograph as float32 colour planes, 0 to 1, turned the way its camera was held; without a path the default.

    Raises OSError or ValueError, which say why, if it is not a picture of at least `least` x `least` pixels.
    """
    if path is None:
        from skimage import data

        picture = data.astronaut()
    else:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
            picture = np.asarray(upright if upright.mode.startswith("I") else upright.convert("RGB"))
    height, width = picture.shape[:2]
    if min(height, width) < least:
        raise ValueError(f"{path} has {width} x {height} pixels, at least {least} x {least} are needed")
    planes = np.atleast_3d(picture).transpose(2, 0, 1) / np.float32(np.iinfo(picture.dtype).max)
    return np.ascontiguousarray(np.broadcast_to(planes, (3, height, width)))


def sheet(columns, times, note):
    """A figure with one column per (title, picture, {name: kernel}), and the times of each job below its column.

    `times` is {library: {job: seconds}}; the first column has no job, `note` stands there. Returns the figure and the
    axes of the pictures.
    """
    height, width = columns[0][1].shape[:2]
    rows = [4.2 * height / width, 1.5, 1.6]  # inches
    plt.style.use("dark_background")
    figure = plt.figure(figsize=(18, sum(rows) + 1.5), facecolor=NIGHT)
    total = figure.get_figheight()
    edges = {"left": 0.015, "right": 0.985, "top": 1 - 0.45 / total, "bottom": 0.15 / total}
    grid = figure.add_gridspec(3, len(columns), height_ratios=rows, wspace=0.04, hspace=1.1 / total, **edges)
    pictures = []
    for i, (title, picture, kernels) in enumerate(columns):
        pictures.append(show(figure.add_subplot(grid[0, i]), picture, title, 14, cmap="magma", vmin=0, vmax=1))
        for place, (name, kernel) in zip(grid[1, i].subgridspec(1, len(kernels)), kernels.items(), strict=True):
            show(figure.add_subplot(place), kernel, name, 11, cmap="gray")
    corner = figure.add_subplot(grid[2, 0])
    corner.axis("off")
    corner.text(0, 0.95, note, va="top", fontsize=11, linespacing=1.7)
    for i, job in enumerate(next(iter(times.values())), start=1):
        _, middle, _ = grid[2, i].subgridspec(1, 3, width_ratios=[0.26, 0.44, 0.3])  # names | bars | times
        race(figure.add_subplot(middle), {library: row[job] for library, row in times.items() if job in row})
    return figure, pictures


def show(axes, image, title, size, **options):
    axes.imshow(image, **options)
    axes.set_title(title, fontsize=size)
    axes.set(xticks=[], yticks=[])
    if image.size < 30:  # few enough to write the numbers down
        for (row, column), value in np.ndenumerate(image):
            axes.text(column, row, f"{value:.0f}", color="#2f8fff", ha="center", va="center", fontsize=16)
    return axes


def race(axes, seconds):
    """A bar per library on a logarithmic scale; the first one is highlighted, the others say how many times longer."""
    first, *others = seconds.values()
    bars = axes.barh(list(seconds), [first, *others], color=[AMBER, *[SLATE] * len(others)], height=0.7)
    axes.bar_label(bars, [f" {short(1e3 * first)} ms", *(f" {short(1e3 * s)} ms, {short(s / first)}x" for s in others)])
    axes.set(xscale="log", xlim=(min(seconds.values()) / 3, max(seconds.values())), frame_on=False)
    axes.invert_yaxis()
    axes.tick_params(which="both", length=0, labelbottom=False, labelsize=11)


def short(value):
    """Two digits at least, and no exponent."""
    return np.format_float_positional(value, precision=2, fractional=False, trim="-") if value < 10 else f"{value:.0f}"


def compass(across, down):
    """An RGB picture of a vector field: hue is its direction, brightness its length, full for the longest 1 %."""
    hue, length = np.arctan2(down, across) / (2 * np.pi) % 1, np.hypot(across, down)
    value = np.clip(length / max(np.percentile(length, 99), 1e-6), 0, 1)
    return matplotlib.colors.hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.55), value], axis=-1))


def frame(axes, corner, side, label):
    """A rectangle around the detail whose upper left pixel is `corner` (row, column)."""
    row, column = corner
    axes.add_patch(plt.Rectangle((column - 0.5, row - 0.5), side, side, fill=False, edgecolor=AMBER, linewidth=2))
    box = {"boxstyle": "square,pad=0.15", "facecolor": NIGHT, "edgecolor": "none", "alpha": 0.8}
    axes.annotate(label, (column, row), (0, 7), textcoords="offset points", color=AMBER, fontsize=12, bbox=box)
