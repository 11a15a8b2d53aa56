"""Times of conv and conv_transpose, and the memory of one call. Commits are best compared on one thread."""

import numpy as np

import fastcorr

from .layer_workloads import layers
from .timed import Timed, named


class Forward(Timed):
    works = named(work for work in layers() if work.function != "conv_vjp" and work.group != "memory")
    params = (list(works), (1, 2))

    def time_forward(self, name, threads):
        self.call()


class Memory:
    """Data without noise: to make that takes more memory than the call."""

    def setup(self):
        fastcorr.set_num_threads(1)
        work = next(work for work in layers() if work.group == "memory")
        self.x, self.w = (np.ones(work.shapes[role], work.dtype) for role in "xw")

    def peakmem_conv(self):
        fastcorr.conv(self.x, self.w, padding=1)
