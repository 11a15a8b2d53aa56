"""The same blur of a picture's corner under each rule."""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import fastcorr
from fastcorr.boundary import RULES

corner = data.camera()[300:360, :60] / 255
mean = np.full((15, 15), 1 / 225)
figure, axes = plt.subplots(1, 6, figsize=(11, 2.2))
pictures = {"the picture": corner}
pictures |= {rule: fastcorr.correlate(corner, mean, "same", boundary=rule) for rule in RULES}
for place, (title, picture) in zip(axes, pictures.items(), strict=True):
    place.imshow(picture, cmap="gray", vmin=0, vmax=corner.max())
    place.set_title(title)
    place.set(xticks=[], yticks=[])
