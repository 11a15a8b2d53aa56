"""
Larger than memory, with dask
=============================

A volume lies in a file and is never loaded as a whole. :func:`fastcorr.dask.correlate` is lazy: it notes for each block
of the result which samples of which chunks its windows read, and dask reads, computes and writes block by block.
"""

# %%
# The volume is made by ``examples/out_of_core.py``: a gyroid, the surface that separates the pores of a foam, under
# noise. That program does this with a limit on memory that the operating system enforces.

from pathlib import Path
from tempfile import TemporaryDirectory

import dask
import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
from out_of_core import PLANES, Memory, Npy, derivative, foam, status

import fastcorr
import fastcorr.dask

side = 256
folder = TemporaryDirectory()
dask.config.set(scheduler="threads", num_workers=2)
source = Npy(Path(folder.name, "volume.npy"), (side, side, side))
target = Npy(Path(folder.name, "derivative.npy"), source.shape)
da.store(foam(side), source, lock=False)
print(f"{source.shape} {source.dtype}, {Path(source.path).stat().st_size >> 20} MiB on disk")

# %%
# The kernel is a Gaussian derivative of 9 x 9 x 9. The call returns at once, with a graph of what is to be done:

kernel = derivative()
volume = da.from_array(source, chunks=(PLANES, side, side))
y = fastcorr.dask.correlate(volume, kernel, "same", boundary="reflect")
print(y)

# %%
# ``store`` does it, slab by slab. Meanwhile a thread looks at how much memory the process has:

before, memory = status("VmRSS"), Memory()
memory.start()
da.store(y, target, lock=False)
memory.over.set()
memory.join()

sections = {"a section": source[:, side // 2], "its derivative, downwards": target[:, side // 2]}
figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
for place, (title, section) in zip(axes, sections.items(), strict=False):
    limit = np.percentile(np.abs(section), 99)
    place.imshow(section, cmap="RdBu", vmin=-limit, vmax=limit)
    place.set(title=title, xticks=[], yticks=[])
axes[2].plot(memory.seconds, np.subtract(memory.mib, before))
axes[2].axhline(4 * side**3 / 2**20, color="tab:red", ls="--", label="the whole volume")
axes[2].set(title="memory while it runs", xlabel="seconds", ylabel="MiB")
axes[2].legend()

# %%
# A part of the result, computed in memory, is the same:

part = fastcorr.correlate(source[:40], kernel, "same", boundary="reflect")
print("largest difference:", np.abs(target[:36] - part[:36]).max())
assert np.allclose(target[:36], part[:36], atol=1e-5)
folder.cleanup()
