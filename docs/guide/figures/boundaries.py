"""A signal past its ends under each rule, from the function that the tests compare the kernels with."""

import matplotlib.pyplot as plt
import numpy as np

from fastcorr.boundary import RULES, source

signal, reach = np.array([1, 2, 3, 4]), 6
place = np.arange(-reach, len(signal) + reach)
figure, axes = plt.subplots(figsize=(8, 3))
for row, rule in enumerate(RULES):
    at = source(place, len(signal), rule)
    for i, j in zip(place, at, strict=True):
        inside = 0 <= i < len(signal)
        height = 0 if j < 0 else signal[j]
        face = plt.cm.viridis(height / 5) if height else "white"
        alpha = 1 if inside else 0.5
        axes.add_patch(plt.Rectangle((i - 0.46, row - 0.4), 0.92, 0.8, fc=face, ec="black", alpha=alpha))
        ink = "white" if inside and height < 4 else "black"
        axes.text(i, row, height or "fill", ha="center", va="center", color=ink, size=9)
axes.vlines([-0.5, len(signal) - 0.5], -0.55, len(RULES) - 0.45, color="tab:red")
axes.set(xlim=(place[0] - 0.7, place[-1] + 0.7), ylim=(len(RULES) - 0.4, -0.6), xticks=place, frame_on=False)
axes.set_yticks(range(len(RULES)), RULES)
axes.tick_params(length=0)
