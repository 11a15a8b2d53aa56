"""How many threads a call may use: asked for per call, never set globally in the OpenMP runtime.

The limit is the smallest of what OpenMP gives (affinity, OMP_NUM_THREADS, threadpoolctl), the cgroup's CPU quota,
``FASTCORR_NUM_THREADS``, `set_num_threads`, and the innermost `num_threads` block of the current context.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from math import ceil
from operator import index
from typing import Any

from . import _cpu


def _checked(given: Any, name: str) -> int:
    try:
        n = index(given)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {given!r}") from None
    if n < 1:
        raise ValueError(f"{name} is {n}, it must be at least 1")
    return n


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()


def _quota(root: str = "/sys/fs/cgroup") -> int | None:
    """CPUs the cgroup grants, rounded up; None without a quota. libgomp does not look at it."""
    try:
        limit, period = _text(f"{root}/cpu.max").split()
    except (OSError, ValueError):
        try:
            limit = _text(f"{root}/cpu/cpu.cfs_quota_us")
            period = _text(f"{root}/cpu/cpu.cfs_period_us")
        except OSError:
            return None
    try:
        return max(1, ceil(int(limit) / int(period))) if int(limit) > 0 else None
    except ValueError:
        return None


def _affinity() -> int:
    """CPUs this process may run on. OpenMP forgets it when OMP_NUM_THREADS is set."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _from_environment() -> int | None:
    text = os.environ.get("FASTCORR_NUM_THREADS")
    if not text:
        return None
    try:
        return _checked(int(text), "FASTCORR_NUM_THREADS")
    except ValueError:
        raise ImportError(f"FASTCORR_NUM_THREADS={text} is not a number of threads") from None


_cgroup = _quota()
_process = _from_environment()
_context: ContextVar[int | None] = ContextVar("fastcorr.num_threads", default=None)


def get_num_threads() -> int:
    """Threads a large call in this context may use.

    Returns
    -------
    int
        At least 1; never more than OpenMP, the process's affinity or its cgroup allow.

    Examples
    --------
    >>> import fastcorr
    >>> with fastcorr.num_threads(1):
    ...     fastcorr.get_num_threads()
    1
    """
    limits = (_cpu.max_threads(), _affinity(), _cgroup, _process, _context.get())
    return min(limit for limit in limits if limit is not None)


def set_num_threads(n: int) -> None:
    """Set the most threads a call of this process may use.

    Parameters
    ----------
    n : int
        At least 1. What the machine does not allow is not reached: see `get_num_threads`.

    Raises
    ------
    ValueError
        If `n` is less than 1.
    TypeError
        If `n` is not an integer.

    Examples
    --------
    >>> import fastcorr
    >>> before = fastcorr.get_num_threads()
    >>> fastcorr.set_num_threads(1)
    >>> fastcorr.get_num_threads()
    1
    >>> fastcorr.set_num_threads(before)
    """
    global _process
    _process = _checked(n, "n")


def num_threads(n: int) -> AbstractContextManager[None]:
    """Context manager: at most `n` threads for calls of this thread and of the tasks it starts.

    Parameters
    ----------
    n : int
        At least 1. Blocks nest; the innermost counts.

    Returns
    -------
    context manager
        For a ``with`` block. It may be entered once.

    Raises
    ------
    ValueError
        If `n` is less than 1.
    TypeError
        If `n` is not an integer.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcorr
    >>> with fastcorr.num_threads(1):
    ...     fastcorr.correlate(np.arange(5.0), np.ones(3))
    array([3., 6., 9.])
    """
    return _limited(_checked(n, "n"))


@contextmanager
def _limited(n: int) -> Iterator[None]:
    token = _context.set(n)
    try:
        yield
    finally:
        _context.reset(token)


def obtainable(n: int) -> int:
    """How many of `n` threads the system will really give this thread's pool."""
    return _cpu.obtainable_threads(n) if n > 1 else 1
