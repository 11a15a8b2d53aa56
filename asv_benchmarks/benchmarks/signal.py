"""Times of correlate.

On one thread: asv compares commits, and two threads on a shared machine are not steady enough for that.
"""

from .correlate_workloads import workloads
from .timed import Timed, named


class Correlate(Timed):
    works = named(
        work
        for work in workloads()
        if work.flops < 2e9 and work.bytes < 1e8 and not work.out and work.group not in ("large", "template")
    )
    params = (list(works), (1,))

    def time_correlate(self, name, threads):
        self.call()
