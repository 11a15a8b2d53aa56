"""Times of correlate on the workloads that compare.py's hurried run keeps.

On one thread: asv compares commits, and two threads on a shared machine are not steady enough for that.
"""

import fastcorr

from .common import workloads

WORKLOADS = {
    f"{work.group} {work.name}": work for work in workloads() if work.quick and work.flops < 2e9 and not work.out
}


class Correlate:
    params = (list(WORKLOADS),)
    param_names = ("workload",)

    def setup_cache(self):
        """Once, before anything is timed: the results are right."""
        for name, work in WORKLOADS.items():
            x, k = work.arrays()
            fault, _ = work.fault(fastcorr.correlate(x, k, **work.options))
            if fault:
                raise AssertionError(f"{name}: the result {fault}")

    def setup(self, name):
        fastcorr.set_num_threads(1)
        self.arrays, self.options = WORKLOADS[name].arrays(), WORKLOADS[name].options
        self.time_correlate(name)  # so that even one sample (--quick) is not of the first call

    def time_correlate(self, name):
        fastcorr.correlate(*self.arrays, **self.options)
