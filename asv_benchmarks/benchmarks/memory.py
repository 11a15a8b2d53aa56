"""Peak memory of a process that makes one call. Data without noise: to make that takes more memory than the call."""

import numpy as np

import fastcorr

from .layer_workloads import layers


class Layer:
    def setup(self):
        fastcorr.set_num_threads(1)
        work = next(work for work in layers() if work.group == "memory")
        self.x, self.w = (np.ones(work.shapes[role], work.dtype) for role in "xw")

    def peakmem_conv(self):
        fastcorr.conv(self.x, self.w, padding=1)


class Picture:
    def setup(self):
        fastcorr.set_num_threads(1)
        self.x = np.ones((2048, 2048), np.float32)

    def peakmem_small_kernel(self):
        fastcorr.correlate(self.x, np.ones((5, 5), np.float32))

    def peakmem_large_kernel(self):
        fastcorr.correlate(self.x, np.ones((63, 63), np.float32), method="fft")

    def peakmem_match_template(self):
        fastcorr.match_template(self.x, np.arange(1024, dtype=np.float32).reshape(32, 32))
