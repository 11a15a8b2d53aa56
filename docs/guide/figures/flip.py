"""One bright sample under correlate and under convolve."""

import matplotlib.pyplot as plt
import numpy as np

import fastcorr

picture = np.zeros((5, 5), int)
picture[2, 2] = 1
kernel = np.arange(1, 10).reshape(3, 3)
panels = {
    "x": picture,
    "k": kernel,
    'correlate(x, k, "same")': fastcorr.correlate(picture, kernel, "same"),
    'convolve(x, k, "same")': fastcorr.convolve(picture, kernel, "same"),
}
figure, axes = plt.subplots(1, 4, figsize=(9, 2.6), width_ratios=[5, 3, 5, 5])
for place, (title, values) in zip(axes, panels.items(), strict=True):
    place.imshow(values, cmap="viridis", vmin=0, vmax=9)
    for (row, column), value in np.ndenumerate(values):
        place.text(column, row, value, ha="center", va="center", color="white" if value < 6 else "black")
    place.set_title(title, family="monospace", fontsize=9)
    place.set(xticks=[], yticks=[])
