"""The part of every benchmark that makes a call and, before anything is timed, checks its result."""

from functools import partial

import fastcorr

from .common import array_of


def named(works):
    """{what asv calls it: workload} of the workloads that compare.py's hurried run keeps."""
    return {f"{work.group} {work.name}": work for work in works if work.quick}


class Timed:
    """A subclass has its `works` by name, and `params`: their names, the numbers of threads."""

    param_names = ("workload", "threads")

    def setup(self, name, threads):
        work = self.works[name]
        fastcorr.set_num_threads(threads)
        self.call = partial(getattr(fastcorr, work.function), *work.arrays(), **work.options)
        fault, _ = work.fault(array_of(self.call()))  # so even one sample (--quick) is not of the first call
        if fault:
            raise AssertionError(f"{name}: the result {fault}")
