"""Whether the machine is ours alone: on a shared one, two threads of a 2-core machine say little while others run."""

import os
from pathlib import Path
from time import perf_counter, sleep

STAT = Path("/proc/stat")
TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def seconds_of_others(ours):
    """CPU seconds since the start of the machine that neither idled nor went to this process or the pids `ours`."""
    if not STAT.exists():  # not Linux: as if nobody else ran
        return 0.0
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, STAT.read_text().split(None, 11)[1:11])
    own = sum(os.times()[:4])  # with what children used that have ended
    for pid in ours:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        own += (int(fields[11]) + int(fields[12])) / TICK
    return (user + nice + system + irq + softirq + steal) / TICK - own


def wait(patience, ours, share=0.1, look=0.25):
    """Wait, at most `patience` seconds, for a moment in which others use less than `share` of one CPU."""
    end = perf_counter() + patience
    while perf_counter() < end:
        before = seconds_of_others(ours)
        sleep(look)
        if seconds_of_others(ours) - before < share * look:
            return
