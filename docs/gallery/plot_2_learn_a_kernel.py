"""
Learning a kernel
=================

A photograph was filtered; the filter is not known. From the photograph and the result, gradient descent finds it: the
error tells how the result should change, and :func:`fastcorr.correlate_vjp` tells what that means for the kernel.
"""

# %%
# The secret kernel sharpens.

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

from fastcorr import correlate, correlate_vjp

photo = data.camera()[::4, ::4] / 255
photo -= photo.mean()
secret = np.array([[0.0, -1, 0], [-1, 5, -1], [0, -1, 0]])
result = correlate(photo, secret)

# %%
# The descent starts from a 5 x 5 kernel of zeros; how large the secret one is, it does not know. ``need=(False, True)``
# asks for the gradient of the kernel alone. Neighbouring pixels of a photograph are alike, so that the loss is a long
# narrow valley; momentum goes along it.

wanted = result[1:-1, 1:-1]  # where a 5 x 5 kernel fits, too
kernel, velocity = np.zeros((5, 5)), np.zeros((5, 5))
losses, seen = [], {}
for step in range(401):
    error = correlate(photo, kernel) - wanted
    losses.append((error**2).mean())
    if step in (0, 10, 100, 400):
        seen[step] = kernel.copy()
    _, gradient = correlate_vjp(2 * error / error.size, photo, kernel, need=(False, True))
    velocity = 0.95 * velocity - 0.15 * gradient
    kernel = kernel + velocity

print(kernel.round(2) + 0)
print("largest error of a weight:", np.abs(kernel - np.pad(secret, 1)).max().round(3))

# %%
# The kernel after so many steps, and the loss:

widths = [1, 1, 1, 1, 1.8]
figure, axes = plt.subplots(1, 5, figsize=(11, 2.4), layout="constrained", width_ratios=widths)
for place, (step, values) in zip(axes, seen.items(), strict=False):
    place.imshow(values, cmap="RdBu", vmin=-5, vmax=5)
    place.set_title(f"after {step}")
    place.set(xticks=[], yticks=[])
axes[-1].semilogy(losses)
axes[-1].set(title="mean squared error", xlabel="step")

# %%
# The outer weights are zero: the descent found out by itself that the secret kernel is 3 x 3.

assert np.abs(kernel - np.pad(secret, 1)).max() < 0.01
