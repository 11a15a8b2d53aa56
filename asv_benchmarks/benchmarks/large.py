"""Times of large kernels, which `auto` computes by Fourier transform, and of searches."""

from .correlate_workloads import workloads
from .timed import Timed, named


class Large(Timed):
    works = named(work for work in workloads() if work.group in ("large", "template") and work.bytes < 4e7)
    params = (list(works), (1, 2))

    def time_large(self, name, threads):
        self.call()
