"""The compiled kernels: one row here per module, read by setup.py, the planner and the tests.

A family is one ``.pyx``. It is cythonized once and its C compiled once per instruction-set level and element type,
with ``-DREAL=<ctype>``. What is compiled for one level and element is one library, ``<level>/<element>``, with a module
per family. This file imports nothing of fastcorr, so setup.py can run it before anything is built.
"""

from functools import cache
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from os.path import dirname, join
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

# Flags of each level, lowest first. One that the compiler does not know is left out of the build.
LEVELS = {
    "baseline": [],
    "x86_64_v3": ["-march=x86-64-v3"],
    "x86_64_v4": ["-march=x86-64-v4"],
}
# What _cpu.X86_LEVEL has to be for each.
NEEDS = {"baseline": 0, "x86_64_v3": 3, "x86_64_v4": 4}


class Kernel(NamedTuple):
    """A family compiled for one element type, and the result dtypes it serves."""

    family: str
    element: str
    ctype: str
    dtypes: tuple[str, ...]


_FLOATS = (
    ("float32", "float", ("float16", "float32", "complex64")),
    ("float64", "double", ("float64", "complex128")),
)
_INTEGERS = (
    ("int32", "int32_t", ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32")),
    ("int64", "int64_t", ("int64", "uint64")),
)
KERNELS = tuple(
    Kernel(family, *rest)
    for family, elements in (
        ("plane", _FLOATS + _INTEGERS),
        ("dense", _FLOATS + _INTEGERS),
        ("depth", _FLOATS + _INTEGERS),
        ("weights", _FLOATS + _INTEGERS),
        ("local", _FLOATS + _INTEGERS),
        ("spectrum", _FLOATS),
        ("frequency", _FLOATS),
        ("separable", _FLOATS + _INTEGERS),
        ("windows", (("float64", "double", ("float64",)), ("int32", "int32_t", ("int32",)))),
        ("winograd", _FLOATS),
    )
    for rest in elements
)


@cache
def find(family: str, dtype: np.dtype[Any]) -> Kernel | Any:
    """The row of `family` that serves results of `dtype`, or None, which no caller meets that asked before."""
    kind = f"{dtype.kind}{dtype.itemsize}" if dtype.isnative else None
    for row in KERNELS:
        if row.family == family and kind in _CODES[row]:
            return row
    return None


@cache
def load(row: Kernel, level: str) -> Any:
    """The module of `row` built for `level`."""
    with _LOADING:  # one that another thread is making has no classes yet
        return _load(row, level)


@cache
def _load(row: Kernel, level: str) -> Any:
    library = f"{__name__}.{level}.{row.element}"
    found: Any = PathFinder.find_spec(library, [join(dirname(__file__), level)])
    spec: Any = spec_from_file_location(f"{library}.{row.family}", found.origin)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _codes(row: Kernel) -> set[str]:
    """Kind and size of each dtype: names differ between platforms (long, longlong), these do not."""
    bits = {"bool": "b1"}
    for name in row.dtypes:
        kind, size = name.rstrip("0123456789"), name.lstrip("abcdefghijklmnopqrstuvwxyz")
        if size:
            bits[name] = f"{kind[0]}{int(size) // 8}"
    return {bits[name] for name in row.dtypes}


_CODES = {row: _codes(row) for row in KERNELS}
_LOADING = Lock()
