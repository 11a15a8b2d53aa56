"""
A volume: scan of a head
========================

Three dimensions need no other function. The scan is a magnetic resonance image that nibabel carries for its own tests,
128 x 96 x 24 voxels of 2 x 2 x 2.2 mm, as int16.
"""

# %%
# A kernel of equal width in millimetres has different widths in voxels.

from pathlib import Path

import matplotlib.pyplot as plt
import nibabel
import numpy as np

from fastcorr import correlate, plan

image = nibabel.load(Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz")
scan = np.asarray(image.dataobj[..., 0])
spacing = np.array(image.header.get_zooms()[:3])
print(scan.shape, scan.dtype, "voxels of", spacing.round(1), "mm")


def gaussian(width):
    """A kernel of standard deviation `width`, in mm, along the three axes, of sum 1."""
    bells = []
    for step in spacing:
        reach = int(np.ceil(3 * width / step))
        bells.append(np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / width) ** 2))
    kernel = np.einsum("i,j,k", *bells)
    return np.float32(kernel / kernel.sum())


# %%
# int16 voxels and a float32 kernel have a float32 result; no copy of the scan is converted first. The plan says what
# the call will do.

fine, coarse = gaussian(2), gaussian(5)
print(plan(correlate, scan, coarse, "same", boundary="edge"))
blurred = {"2 mm": correlate(scan, fine, "same", boundary="edge")}
blurred["5 mm"] = correlate(scan, coarse, "same", boundary="edge")

# %%
# The difference of the two keeps what is larger than 2 mm and smaller than 5: the folds of the brain and its outline.

pictures = {"scan": scan, **blurred, "2 mm - 5 mm": blurred["2 mm"] - blurred["5 mm"]}
ratios = [96 * spacing[1], 24 * spacing[2]]
figure, axes = plt.subplots(2, 4, figsize=(11, 3.1), layout="constrained", height_ratios=ratios)
for column, (title, volume) in zip(axes.T, pictures.items(), strict=True):
    slices = volume[:, :, 12], volume[:, 48, :]
    for place, picture, height in zip(column, slices, spacing[1:], strict=True):
        place.imshow(picture.T, origin="lower", cmap="gray", aspect=height / spacing[0])
        place.set(xticks=[], yticks=[])
    column[0].set_title(title)
    column[0].axhline(48, color="tab:orange", lw=0.7)
axes[0, 0].set_ylabel("slice 12")
axes[1, 0].set_ylabel("cut")

# %%
# The scan has two volumes, one after the other. The kernel has three axes, so a fourth one is batch.

both = np.moveaxis(np.asarray(image.dataobj), -1, 0)
result = correlate(both, fine, "same", boundary="edge")
print(both.shape, "->", result.shape)
assert np.array_equal(result[0], blurred["2 mm"])
