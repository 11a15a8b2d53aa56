"""
Find Waldo
==========

Where is a detail in a picture, if it is darker there, has less contrast, and is noisy? A bare correlation is largest
where the picture is bright. :func:`fastcorr.match_template` takes the mean of each window away and divides by its
spread: 1 means equal up to brightness and contrast.
"""

# %%
# The scene comes with scikit-image: a stereo pair of photographs of a garage. Waldo is cut out of the right photograph,
# dimmed to 40 % of his contrast and put under noise. He is looked for in the left one, where the measured parallax
# says where he ought to be. ``examples/find_waldo.py`` prepares all this.

import matplotlib.pyplot as plt
import numpy as np
from find_waldo import SIDE, garage, peak

from fastcorr import correlate, match_template

photograph, grey, detail, waldo, truth = garage()
print("to be found at row {}, column {}".format(*truth))

# %%
# Both kinds of correlation, and the place of their largest value:

plain = correlate(grey.astype(np.float32), waldo.astype(np.float32))
alike = match_template(grey, waldo)
print("plain correlation: row {}, column {}".format(*peak(plain)))
print("match_template:    row {}, column {}: {:.2f}".format(*peak(alike), alike.max()))


def show(place, picture, title, **options):
    """A picture without axes."""
    place.imshow(picture, **options)
    place.set_title(title)
    place.set(xticks=[], yticks=[])


figure, axes = plt.subplots(1, 2, figsize=(5, 2.8), layout="constrained")
show(axes[0], detail, "Waldo")
show(axes[1], waldo, "as he is sought", cmap="gray", vmin=0, vmax=255)

# %%
# Plain correlation is large all over the bright wall; the normalised one has a single peak.

figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
show(axes[0], plain, "plain correlation", cmap="magma")
show(axes[1], alike, "match_template", cmap="magma", vmin=0)
for place, scores in zip(axes, (plain, alike), strict=True):
    place.plot(*peak(scores)[::-1], "o", ms=22, mfc="none", mec="white", mew=2)

# %%
# There he is:

figure, place = plt.subplots(figsize=(9, 6), layout="constrained")
show(place, photograph, f"Waldo, {alike.max():.2f}")
row, column = peak(alike)
place.add_patch(plt.Rectangle((column, row), SIDE, SIDE, fill=False, ec="orange", lw=3))

assert max(abs(a - b) for a, b in zip(peak(alike), truth, strict=True)) <= 2
