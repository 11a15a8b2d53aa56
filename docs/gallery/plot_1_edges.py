"""
Edges of a photograph
=====================

An edge is where neighbouring pixels differ. The kernel [-1, 0, 1] measures how much, from left to right; Sobel's kernel
does the same and averages over three rows, so that it answers less to noise.
"""

# %%
# The photograph comes with scikit-image. Both kernels act on rows and columns; a picture in colour would need
# ``axes=(0, 1)`` and nothing else.

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

from fastcorr import convolve, correlate

photo = np.float32(data.coins()) / 255
sobel = np.float32([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
across = correlate(photo, sobel, "same", boundary="reflect")
down = correlate(photo, sobel.T, "same", boundary="reflect")


def show(*pictures, **options):
    """Pictures with their titles, side by side."""
    _, axes = plt.subplots(1, len(pictures), figsize=(10, 4), layout="constrained")
    for place, (title, picture) in zip(axes, pictures, strict=True):
        place.imshow(picture, **options)
        place.set_title(title)
        place.set(xticks=[], yticks=[])


grey = {"cmap": "gray", "vmin": -0.3, "vmax": 0.3}
show(("from left to right", across), ("from top to bottom", down), **grey)

# %%
# Together they are the gradient: its length is the strength of the edge, its angle the direction. Neither depends on
# how the edge lies.

strength, angle = np.hypot(across, down), np.arctan2(down, across)
show(("photo", photo), ("strength of edges", strength), cmap="gray")

# %%
# A blur before makes the kernel look for larger edges. Gaussian and Sobel kernel are convolved with each other first:
# one pass over the picture instead of two.

bell = np.exp(-0.5 * (np.arange(-9, 10) / 3) ** 2)
gaussian = np.float32(np.outer(bell, bell) / bell.sum() ** 2)

wide = convolve(gaussian, sobel[::-1, ::-1], "full")
coarse = np.hypot(*(correlate(photo, k, "same", boundary="reflect") for k in (wide, wide.T)))
show(("3 x 3", strength), (f"{wide.shape[0]} x {wide.shape[1]}", coarse), cmap="gray")
