"""The roofs this machine gives: multiply-adds per second, and bytes copied per second, for a number of threads."""

import ctypes
import platform
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from time import perf_counter

import numpy as np

WIDTH = {"baseline": 16, "x86_64_v3": 32, "x86_64_v4": 64}  # bytes of a vector
KINDS = {"float32": ctypes.c_float, "float64": ctypes.c_double}


@cache
def compiled(dtype, level):
    """roof.c for this element and level as a function of a step count, or None without a working compiler."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    march = ["-march=" + ("x86-64" if level == "baseline" else level.replace("_", "-", 1).replace("_", "-"))]
    real = {"float32": "float", "float64": "double"}[dtype]
    library = Path(tempfile.mkdtemp(prefix="roof-"), f"{dtype}-{level}.so")
    command = ["cc", "-O3", "-shared", "-fPIC", "-ffp-contract=fast", *(march if x86 else []), f"-DREAL={real}"]
    source = Path(__file__).with_name("roof.c")
    try:
        subprocess.run([*command, f"-DBYTES={WIDTH[level]}", source, "-o", library], check=True, capture_output=True)
        roof = ctypes.CDLL(library).roof
    except (OSError, subprocess.CalledProcessError):
        return None
    roof.argtypes, roof.restype = [ctypes.c_long], ctypes.c_double
    return roof


def fma(dtype, level, threads, seconds=0.01):
    """Flops per second of `threads` threads at once. Without a compiler it is NumPy's matrix product, somewhat less."""
    roof = compiled(dtype, level)
    if roof is None:
        a = np.ones((1500, 1500), dtype)
        start = perf_counter()
        a @ a
        return 2 * 1500**3 / (perf_counter() - start)
    steps = int(seconds * 2.5e8)  # about: a dozen multiply-adds take 6 to 12 cycles
    return together(threads, lambda _: roof(steps))


def copy(threads, nbytes=1 << 26):
    """Bytes per second, read and written, of copying `nbytes` with `threads` threads: far more than the caches hold."""
    source, target = buffers(nbytes)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))

    def part(i):
        np.copyto(parts[i][1], parts[i][0])
        return 2 * parts[i][0].nbytes

    return together(threads, part)


@cache
def buffers(nbytes):
    return np.ones(nbytes, np.uint8), np.zeros(nbytes, np.uint8)


def together(threads, work):
    """Total of ``work(0) ... work(threads - 1)``, run at once, per second. The pool's threads are awake before."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: None, range(4 * threads)))
        start = perf_counter()
        total = sum(pool.map(work, range(threads)))
        return total / (perf_counter() - start)
