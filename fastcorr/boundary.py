"""How a signal continues past its ends: one rule, one picture each.

    constant    f f f | 1 2 3 4 | f f f      f is ``fill``
    edge        1 1 1 | 1 2 3 4 | 4 4 4
    reflect     4 3 2 | 1 2 3 4 | 3 2 1
    symmetric   3 2 1 | 1 2 3 4 | 4 3 2
    wrap        2 3 4 | 1 2 3 4 | 1 2 3

The words are numpy.pad's and so is the reach: a rule goes on as far past the end as asked. `source` is the
definition; ``kernels/line.pxd`` holds its compiled twin, and the tests compare both with numpy.pad.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RULES = ("constant", "edge", "reflect", "symmetric", "wrap")  # the index is the code the kernels use

SYNONYMS = {
    "nearest": "edge",
    "replicate": "edge",
    "extend": "edge",
    "mirror": "reflect",
    "circular": "wrap",
    "periodic": "wrap",
}


def source(position: ArrayLike, n: int, rule: str) -> NDArray[Any]:
    """Index into a signal of length `n` of each extended `position`; -1 where the signal is ``fill``."""
    u: NDArray[Any] = np.asarray(position)
    if rule == "constant":
        return np.where((u >= 0) & (u < n), u, -1)
    if rule == "edge":
        u = np.clip(u, 0, n - 1)
    elif rule == "wrap":
        u = u % n
    elif rule == "symmetric":
        u = u % (2 * n)
        u = np.where(u < n, u, 2 * n - 1 - u)
    else:
        u = u % max(2 * (n - 1), 1)
        u = np.where(u < n, u, 2 * (n - 1) - u)
    return u
