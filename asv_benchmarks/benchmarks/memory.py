"""Peak memory of a process that makes one call. Data without noise: to make that takes more memory than the call.

Each looks at its result where no border is met, which takes no memory.
"""

import numpy as np

import fastcorr

from .layer_workloads import layers


def check(result, right):
    least, greatest = result.min(), result.max()
    if not np.isclose((least, greatest), right).all():
        raise AssertionError(f"{least} to {greatest} instead of {right}")


class Layer:
    def setup(self):
        fastcorr.set_num_threads(1)
        work = next(work for work in layers() if work.group == "memory")
        self.x, self.w = (np.ones(work.shapes[role], work.dtype) for role in "xw")

    def peakmem_conv(self):
        check(fastcorr.conv(self.x, self.w, padding=1)[:, :, 1:-1, 1:-1], self.w[0].size)


class Picture:
    def setup(self):
        fastcorr.set_num_threads(1)
        self.x = np.ones((2048, 2048), np.float32)

    def peakmem_small_kernel(self):
        check(fastcorr.correlate(self.x, np.ones((5, 5), np.float32)), 25)

    def peakmem_large_kernel(self):
        check(fastcorr.correlate(self.x, np.ones((63, 63), np.float32), method="fft"), 63 * 63)

    def peakmem_match_template(self):
        check(fastcorr.match_template(self.x, np.arange(1024, dtype=np.float32).reshape(32, 32)), 0)
