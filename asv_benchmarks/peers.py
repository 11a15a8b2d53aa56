"""The libraries that are compared, one function each, and the worker process that runs one of them.

A peer is called with a Workload and a number of threads and returns the finished call without arguments, everything
prepared that is not correlation: arrays converted, borders made where the library has none of the kind. It raises
UnsupportedError where the library has no such call. Peers import only what they are.
"""

import os
import pickle
import sys
from functools import partial
from importlib import import_module
from time import perf_counter
from timeit import Timer

import numpy as np


class UnsupportedError(Exception):
    pass


def need(condition, reason):
    if not condition:
        raise UnsupportedError(reason)


def fastcorr(work, threads):
    import fastcorr

    fastcorr.set_num_threads(threads)
    options = work.options | ({"out": np.empty(work.y, work.dtype)} if work.out else {})
    return partial(fastcorr.correlate, *work.arrays(), **options)


def numpy(work, threads):
    need(len(work.x) == 1 and work.mode == "valid", "one axis only")
    return partial(np.correlate, *work.arrays(), "valid")


def opencv(work, threads):
    import cv2

    need(len(work.x) == 2 and work.dtype.startswith("float"), "pictures of float32 and float64 only")
    need(work.mode == "same", "results as large as the picture only")
    cv2.setNumThreads(threads)
    x, k = work.arrays()
    border = {"constant": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT_101}[work.boundary]
    options = {"dst": np.empty(work.y, work.dtype)} if work.out else {}
    return partial(cv2.filter2D, x, -1, k, borderType=border, **options)


def scipy_ndimage(work, threads):
    from scipy import ndimage

    x, k = work.arrays()
    options = {"mode": {"constant": "constant", "reflect": "mirror"}[work.boundary]}
    if work.out:
        options["output"] = np.empty(work.y, work.dtype)
    correlate = ndimage.correlate1d if x.ndim == 1 else ndimage.correlate
    if work.mode == "same":
        return partial(correlate, x, k, **options)
    inner = tuple(slice(m // 2, m // 2 + n) for m, n in zip(k.shape, work.y, strict=True))
    return lambda: correlate(x, k, **options)[inner]  # it has no "valid"


def scipy_signal(work, threads, name="correlate"):
    from scipy import fft, signal

    x, k = work.padded(), work.arrays()[1]
    if name == "oaconvolve":
        need(len(work.x) == 1, "one axis only")
        k = k[::-1].conj()

    def call():
        with fft.set_workers(threads):
            return getattr(signal, name)(x, k, "valid")

    return call


def torch(work, threads):
    import torch

    need(len(work.x) <= 3 and work.dtype.startswith("float"), "up to three axes of floats only")
    torch.set_num_threads(threads)
    x, k = (torch.from_numpy(a)[None, None] for a in (work.padded(), work.arrays()[1]))
    return partial(getattr(torch, f"conv{len(work.x)}d"), x, k)


PEERS = {
    "fastcorr": fastcorr,
    "numpy": numpy,
    "opencv": opencv,
    "scipy.ndimage": scipy_ndimage,
    "scipy.signal": scipy_signal,
    "scipy.oaconvolve": partial(scipy_signal, name="oaconvolve"),
    "torch": torch,
}
MODULES = {"opencv": "cv2", "scipy.oaconvolve": "scipy.signal"}  # where the name of the module differs
THREADED = {"fastcorr", "opencv", "scipy.signal", "scipy.oaconvolve", "torch"}


def look(work, result):
    """What is compared: samples against the definition, and the sum of all results against the other peers'."""
    y = np.asarray(result)
    y = y.reshape(y.shape[-len(work.y) :])  # without torch's batch and channel
    fault, eps = work.fault(y)
    return {"fault": fault, "eps": eps, "sum": y.sum(dtype=np.result_type(y, np.float64))}


def seconds(call, budget):
    """(least time of one call in this turn, the result): the least of some 30 ms of calls, or of one that is slow."""
    start = perf_counter()
    result = call()  # also wakes what slept while others had their turn
    once = perf_counter() - start
    if once > budget:
        return once, result
    timer = Timer(call)
    number = max(1, int(1e-3 / max(timer.timeit(1), 1e-7)))  # a sample is a millisecond at least
    repeats = max(3, int(0.03 / max(once, 1e-3)))
    return min(once, min(timer.repeat(repeats, number)) / number), result


def main():
    """Answer each (workload, threads, budget) from stdin with a dict, on the stdout this process was started with."""
    name = sys.argv[1].partition("@")[0]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not an answer

    def answer(**message):
        pickle.dump(message, answers)
        answers.flush()

    limit_memory()
    try:
        module = import_module(MODULES.get(name, name))
    except ImportError as error:
        return answer(error=str(error))
    version = getattr(module, "__version__", None) or import_module("scipy").__version__
    answer(version=version, level=getattr(sys.modules.get("fastcorr.isa"), "LEVEL", None))
    ready = call = None
    while True:
        try:
            work, threads, budget = request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return None
        try:
            if ready != (work, threads):
                call, ready = PEERS[name](work, threads), request[:2]
            least, result = seconds(call, budget)
            answer(seconds=least, **look(work, result))
        except Exception as error:  # any failure of a peer is an answer: it is named, and its time does not count
            answer(unsupported=isinstance(error, UnsupportedError), error=str(error).partition("\n")[0])


def limit_memory():
    """Let a peer that wants more memory than there is fail alone (torch's float64 unfolds the whole picture)."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    most = int(0.75 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main()
