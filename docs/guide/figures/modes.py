"""Where the kernel may lie in each mode."""

import matplotlib.pyplot as plt
import numpy as np

import fastcorr

n, m = 8, 3
figure, axes = plt.subplots(3, 1, figsize=(7, 5.4), sharex=True)
for place, mode in zip(axes, ("valid", "same", "full"), strict=True):
    lags = fastcorr.correlation_lags(n, m, mode)
    place.bar(np.arange(n), np.ones(n), 0.92, color="tab:blue")
    outside = [i for i in range(lags[0], lags[-1] + m) if not 0 <= i < n]
    place.bar(outside, np.ones(len(outside)), 0.92, color="white", edgecolor="tab:blue", linestyle="--")
    for lag, y in ((lags[0], 1.5), (lags[-1], 2.6)):
        place.bar(np.arange(lag, lag + m), 0.8 * np.ones(m), 0.92, bottom=y - 0.4, color="tab:orange")
    place.text(n + 2.7, 1.5, f"first lag {lags[0]}", va="center")
    place.text(n + 2.7, 2.6, f"last lag {lags[-1]}", va="center")
    place.set_title(f'"{mode}": {len(lags)} results', loc="left", fontsize=10)
    place.set(yticks=[], xticks=range(-2, n + 2), xlim=(-3, n + 6), ylim=(0, 3.1), frame_on=False)
