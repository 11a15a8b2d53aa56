"""Correlate a volume that is larger than the memory it is given, from one file on disk to another.

    python examples/out_of_core.py [--side 512] [--budget 256] [--threads 2] [--picture out_of_core.png]

A .npy file holds the volume, side x side x side in float32: 512 MiB. The process gets a budget of 256 MiB beside what
its libraries take (Linux enforces it), and whoever asks for more gets a MemoryError: loading the file does.
fastcorr.dask differentiates it all the same, by a Gaussian derivative of 9 x 9 x 9, slab by slab with what each needs
of its neighbours, and dask writes the slabs as they come. A picture shows a section before and after, and the memory.

The volume is made here, by a seeded generator: a gyroid, the surface that separates the pores of a foam or of a
butterfly's wing, under noise. No package carries a real volume of that size.
"""

import argparse
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import dask
import dask.array as da
import numpy as np
from dask.diagnostics import ProgressBar

import fastcorr
import fastcorr.dask

MIB = 1 << 20
SIGMA, REACH, PLANES = 1.5, 4, 8  # of the kernel, in samples; of a slab


class Npy:
    """A .npy file as dask reads and writes it: mapped for as long as one block takes, so no page of it stays."""

    def __init__(self, path, shape=None):
        self.path = path
        mapped = np.lib.format.open_memmap(path, "r" if shape is None else "w+", np.float32, shape)
        self.shape, self.dtype, self.ndim = mapped.shape, mapped.dtype, mapped.ndim

    def __getitem__(self, index):
        return np.array(np.load(self.path, "r")[index])

    def __setitem__(self, index, block):
        np.load(self.path, "r+")[index] = block


class Memory(threading.Thread):
    """Samples the resident memory of this process, in MiB, until it is stopped."""

    def __init__(self):
        super().__init__(daemon=True)
        self.seconds, self.mib, self.over = [], [], threading.Event()

    def run(self):
        start = time.perf_counter()
        while not self.over.wait(0.02):
            self.seconds.append(time.perf_counter() - start)
            self.mib.append(status("VmRSS"))


def status(name):
    """A line of Linux's account of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / 1024


@contextmanager
def budget(mib):
    """No more than `mib` of memory beyond what is taken now: who asks for more gets a MemoryError."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int((status("VmData") + mib) * MIB), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def foam(side):
    """The volume, lazy: sin x cos y + sin y cos z + sin z cos x, and noise that depends on the slab alone."""

    def slab(block_info):
        (first, last), *_ = block_info[None]["array-location"]
        z, y, x = (np.arange(n, dtype=np.float32) * np.float32(0.11) for n in (side, side, side))
        z = z[first:last, None, None]
        y = y[:, None] * (1 + x / 200)  # the pores become narrower
        wave = np.sin(x) * np.cos(y) + np.sin(y) * np.cos(z) + np.sin(z) * np.cos(x)
        noise = np.random.default_rng((0, first)).standard_normal(wave.shape, np.float32)
        return np.tanh(4 * wave, out=wave) + 0.5 * noise

    return da.map_blocks(slab, chunks=((PLANES,) * (side // PLANES), side, side), dtype=np.float32)


def derivative():
    """Of a Gaussian along the first axis, as a kernel."""
    u = np.arange(-REACH, REACH + 1)
    gauss = np.exp(-(u**2) / (2 * SIGMA**2))
    gauss /= gauss.sum()
    return np.einsum("i,j,k->ijk", u / SIGMA**2 * gauss, gauss, gauss).astype(np.float32)


def main(side=512, mib=256, threads=2, picture="out_of_core.png"):
    """Make the volume, differentiate it within the budget, check and show it: the peak of memory, in MiB."""
    size, kernel = 4 * side**3 / MIB, derivative()
    with dask.config.set(scheduler="threads", num_workers=threads), TemporaryDirectory(dir=".") as folder, budget(mib):
        source = Npy(f"{folder}/volume.npy", (side, side, side))
        target = Npy(f"{folder}/derivative.npy", source.shape)
        print(f"volume: {side}^3 float32, {size:.0f} MiB; budget: {mib} MiB, {threads} threads")
        da.store(foam(side), source, lock=False)
        try:
            np.load(source.path)
            print("np.load of the whole: fits into the budget")
        except MemoryError:
            print("np.load of the whole: MemoryError")

        before = status("VmRSS")
        memory = Memory()
        memory.start()
        volume = da.from_array(source, chunks=(PLANES, side, side))
        y = fastcorr.dask.correlate(volume, kernel, "same", boundary="reflect", method="direct")
        with ProgressBar():
            da.store(y, target, lock=False)
        memory.over.set()
        memory.join()
        peak = max(memory.mib) - before
        print(
            f"peak memory: {peak:.0f} MiB beside the {before:.0f} of Python and its libraries; result: {size:.0f} MiB"
        )

        middle = side // 2
        box = slice(middle - 20, middle + 20), slice(0, 30), slice(side - 30, side)  # over slabs, at two ends
        near = slice(box[0].start - REACH, box[0].stop + REACH), slice(0, 30 + REACH), slice(side - 30 - REACH, side)
        padding = (0, 0), (REACH, 0), (0, REACH)
        want = fastcorr.correlate(source[near], kernel, padding, boundary="reflect", method="direct")
        assert np.array_equal(target[box], want), "a block differs from the result in memory"
        print("a box across slabs and ends of the volume: bit for bit the result in memory")
        sections = source[:, middle], target[:, middle]
    if picture:
        draw(*sections, memory, before, size, mib, picture)
    return peak


def draw(section, slope, memory, before, size, mib, path):
    """The section, its derivative along the vertical, and the memory beside what is the budget."""
    from picture import AMBER, NIGHT, SLATE, plt

    plt.style.use("dark_background")
    figure, (left, right, line) = plt.subplots(1, 3, figsize=(18, 6.2), facecolor=NIGHT, layout="constrained")
    left.imshow(section, cmap="gray", vmin=-2, vmax=2)
    left.set_title("a section of the volume")
    limit = np.percentile(np.abs(slope), 99.5)
    right.imshow(slope, cmap="RdBu_r", vmin=-limit, vmax=limit)
    right.set_title("its derivative along the vertical axis, 9 x 9 x 9")
    for axes in (left, right):
        axes.set(xticks=[], yticks=[])
    line.fill_between(memory.seconds, np.subtract(memory.mib, before), color=AMBER, lw=0)
    for level, name in ((size, "volume"), (mib, "budget")):
        line.axhline(level, color=SLATE, ls="--")
        line.text(0, level, f" {name}, {level:.0f} MiB", va="bottom", fontsize=12)
    peak = max(memory.mib) - before
    line.set(
        xlabel="seconds",
        ylabel="MiB",
        ylim=(0, 1.1 * max(size, mib)),
        title=f"memory while it runs: at most {peak:.0f} MiB",
    )
    line.set(facecolor=NIGHT, xlim=(0, max(memory.seconds)))
    line.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=80)
    print(f"picture: {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=512, help="of the volume, in samples, a multiple of 8")
    parser.add_argument("--budget", type=int, default=256, help="of memory, in MiB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--picture", default="out_of_core.png", help="'' for none")
    given = parser.parse_args()
    main(given.side, given.budget, given.threads, given.picture)
