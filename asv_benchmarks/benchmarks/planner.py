"""Whether `auto` takes the faster method: its time over that of the best method, in a seeded sweep of problems."""

from functools import partial
from time import perf_counter

import numpy as np

import fastcorr
from fastcorr import planner

METHODS = ("direct", "fft")
MOST_TAPS = {1: 4000, 2: 60, 3: 14}  # of a kernel along an axis, by rank
MOST_SAMPLES = 2_000_000
MOST_FLOPS = 5e9  # of the definition


def sweep(count, seed=0):
    """`count` problems of one, two and three axes as (x, k, options), kernels of all sizes, some axes far longer."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < count:
        rank = len(found) % 3 + 1
        samples = np.exp(rng.uniform(np.log(2000), np.log(MOST_SAMPLES)))
        share = rng.dirichlet(np.full(rank, 8.0))
        size = tuple(max(1, round(samples**part)) for part in share)
        taps = np.exp(rng.uniform(np.log(3), np.log(MOST_TAPS[rank]), 1 if rng.random() < 0.6 else rank))
        kernel = tuple(min(n, round(m)) for n, m in zip(size, np.broadcast_to(taps, rank), strict=True))
        dtype = rng.choice(["float32", "float32", "float64", "complex64"])
        options = {"mode": str(rng.choice(["valid", "same", "full"]))}
        if rng.random() < 0.2:
            options["stride"] = 2
        if rng.random() < 0.2:
            options |= {"boundary": "reflect", "mode": "same"}
        x, k = (rng.standard_normal(shape).astype(dtype) for shape in (size, kernel))
        if planner.resolve("correlate", x, k, **options).problem.flops < MOST_FLOPS:
            found.append((x, k, options))
    return found


def least_times(calls, rounds=7, patience=0.1):
    """Least seconds of each of `calls`, functions by name, which take turns."""
    least = dict.fromkeys(calls, np.inf)
    begun = perf_counter()
    for turn in range(1 + 10 * rounds):
        if turn > rounds and perf_counter() - begun > patience:
            break
        for name, call in calls.items():
            begin = perf_counter()
            call()
            least[name] = min(least[name], perf_counter() - begin)
    return least


def regrets(count=300, seed=0):
    """Per problem (regret of auto, seconds of the best method, what it is)."""
    for x, k, options in sweep(count, seed):
        calls = {name: partial(fastcorr.correlate, x, k, **options, method=name) for name in (*METHODS, "auto")}
        least = least_times(calls)
        best = min(METHODS, key=least.get)
        chosen = planner.resolve("correlate", x, k, **options).method
        # The chosen method by hand is the same code but for the look at the results: only the other one tells.
        mine = min(least["auto"], least[chosen]) if chosen != "fft" else least["auto"]
        yield max(1.0, mine / least[best]), least[best], f"{best} x{x.shape} k{k.shape} {x.dtype} {options}"


class AutoOverTheBestMethod:
    params = (50, 95, 100)
    param_names = ("percentile",)
    timeout = 600
    unit = "times the best method"

    def setup_cache(self):
        with fastcorr.num_threads(1):
            return [regret for regret, *_ in regrets(60)]

    def track_time_of_auto_over_the_best(self, found, percentile):
        return float(np.percentile(found, percentile))


SHAPES = [((1000,), (5,)), ((512, 512), (9, 9)), ((512, 512), (31, 31)), ((64, 64, 64), (7, 7, 7))]
# Here and not in a setup, with which asv would time every call by itself.
ARRAYS = {shapes: [np.empty(shape, np.float32) for shape in shapes] for shapes in SHAPES}


class Choose:
    """A problem that is met for the first time: checks, costs, the kernel's object."""

    params = (SHAPES,)
    param_names = ("shapes",)

    def time_resolve(self, shapes):
        planner.resolve("correlate", *ARRAYS[shapes])


def describe(count=300, seed=0):
    """Percentiles, and the problems in which auto does worst."""
    with fastcorr.num_threads(1):
        rows = sorted(regrets(count, seed), reverse=True)
    values = [row[0] for row in rows]
    yield ", ".join(f"{p} %: {np.percentile(values, p):.2f}" for p in (50, 90, 95, 99, 100))
    for regret, seconds, what in rows[:10]:
        yield f"{regret:.2f}  {seconds * 1e3:8.3f} ms  {what}"


if __name__ == "__main__":
    print(*describe(), sep="\n")
