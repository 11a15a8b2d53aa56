"""A photograph past its edges: a kernel of one tap and room around it return the extended picture itself."""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import fastcorr
from fastcorr.boundary import RULES

face = data.astronaut()[20:180, 150:310]
rows, columns = face.shape[:2]
figure, axes = plt.subplots(1, 5, figsize=(11, 2.6))
for place, rule in zip(axes, RULES, strict=True):
    wide = fastcorr.correlate(face, np.ones((1, 1), np.uint8), [(90, 90)] * 2, axes=(0, 1), boundary=rule, fill=200)
    place.imshow(wide)
    place.add_patch(plt.Rectangle((90, 90), columns, rows, fill=False, ec="tab:red", lw=1.5))
    place.set_title(rule)
    place.set(xticks=[], yticks=[])
