"""
Heartbeats in an electrocardiogram
==================================

A matched filter: to find a shape in a noisy signal, correlate the signal with the shape. The lag of the largest answer
says where it is. Of all linear filters this one has the best ratio of signal to noise, if the noise is white.
"""

# %%
# The electrocardiogram comes with PyWavelets, 1024 samples. The second of its three beats is the template. Without its
# mean it does not answer to a constant, such as the drift of the baseline.

import matplotlib.pyplot as plt
import numpy as np
import pywt

from fastcorr import correlate, correlation_lags

ecg = pywt.data.ecg().astype(float)
beat = slice(500, 535)
template = ecg[beat] - ecg[beat].mean()
template /= np.linalg.norm(template)

# %%
# Noise hides the beats from the eye, and a threshold on the samples would find none of them reliably.

noise = np.random.default_rng(0).normal(scale=80, size=ecg.shape)
noisy = ecg + noise
answer = correlate(noisy, template, "same", boundary="edge")

# %%
# Peaks are where the answer is larger than anywhere within half a heartbeat. That is a maximum over windows, no
# correlation: NumPy's views of windows do.

reach = 120
padded = np.pad(answer, reach, constant_values=-np.inf)
windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
is_peak = (answer == windows.max(axis=-1)) & (answer > 4 * np.median(np.abs(answer)))
found = np.flatnonzero(is_peak)
print("beats at samples", found)

signals = {"electrocardiogram": ecg, "with noise": noisy, "correlation with one beat": answer}
figure, axes = plt.subplots(3, 1, figsize=(9, 6), sharex=True, layout="constrained")
for place, (title, signal) in zip(axes, signals.items(), strict=True):
    place.plot(signal, lw=1)
    place.set_title(title, loc="left")
    place.margins(x=0.01)
axes[0].axvspan(beat.start, beat.stop, color="tab:orange", alpha=0.3)
axes[2].plot(found, answer[found], "o", color="tab:red")
axes[2].set_xlabel("sample")

# %%
# How far from one beat to the next? The signal correlated with itself has its second peak there.

centred = ecg - ecg.mean()
own = correlate(centred, centred, "full")
lags = correlation_lags(len(ecg), len(ecg), "full")
later = lags > 100
period = lags[later][own[later].argmax()]
print("from beat to beat:", period, "samples; between the peaks:", np.diff(found))

figure, axes = plt.subplots(figsize=(9, 2.4), layout="constrained")
axes.plot(lags, own, lw=1)
axes.axvline(period, color="tab:red", lw=1)
axes.set(title="autocorrelation", xlabel="lag in samples", xlim=(-1023, 1023))

# %%
# The three beats were found within the noise, and no others.

clean = correlate(ecg, template, "same", boundary="edge")
assert len(found) == 3
assert all(abs(clean[i - 10 : i + 11].argmax() - 10) <= 5 for i in found)
