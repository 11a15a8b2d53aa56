"""The part of every benchmark that makes a call and, before anything is timed, checks its result."""

from functools import lru_cache, partial
from time import perf_counter, thread_time

import fastcorr

from .common import array_of


def named(works):
    """{what asv calls it: workload} of the workloads that compare.py's hurried run keeps."""
    return {f"{work.group} {work.name}": work for work in works if work.quick}


def check(work, result):
    fault, _ = work.fault(array_of(result))
    if fault:
        raise AssertionError(f"{work.name}: the result {fault}")


@lru_cache(1)  # asv repeats the setup before every sample
def checked(work, threads):
    """The call of a workload, made once: its result is right, and no sample, even of --quick, is of the first call."""
    fastcorr.set_num_threads(threads)
    call = partial(getattr(fastcorr, work.function), *work.arrays(), **work.options)
    check(work, call())
    return call


class Timed:
    """A subclass has its `works` by name, and `params`: their names, the numbers of threads."""

    param_names = ("workload", "threads")
    repeat = (2, 50, 0.1)
    warmup_time = 0.01  # `checked` has made the call

    def setup(self, name, threads):
        self.call = checked(self.works[name], threads)
        self.timer = thread_time if threads == 1 else perf_counter  # the first does not count what others take
