"""Edges of a photograph, for the start page."""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import fastcorr

photo = np.float32(data.camera()) / 255
sobel = np.float32([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
across, down = (fastcorr.correlate(photo, k, "same", boundary="reflect") for k in (sobel, sobel.T))
pictures = {"photo": photo, "correlate(photo, sobel)": across, "correlate(photo, sobel.T)": down}
pictures["hypot of both"] = np.hypot(across, down)
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2))
for place, (title, picture) in zip(axes, pictures.items(), strict=True):
    low, high = np.percentile(picture, [1, 99])
    place.imshow(picture, cmap="gray", vmin=low, vmax=high)
    place.set_title(title, family="monospace", fontsize=9)
    place.set(xticks=[], yticks=[])
