"""How a signal continues past its ends: one rule, one picture each.

    constant    f f f | 1 2 3 4 | f f f      f is ``fill``
    edge        1 1 1 | 1 2 3 4 | 4 4 4
    reflect     4 3 2 | 1 2 3 4 | 3 2 1
    symmetric   3 2 1 | 1 2 3 4 | 4 3 2
    wrap        2 3 4 | 1 2 3 4 | 1 2 3

The words are numpy.pad's and so is the reach: a rule goes on as far past the end as asked. `source` is the
definition; ``kernels/line.pxd`` holds its compiled twin, and the tests compare both with numpy.pad.
"""

import numpy as np

RULES = ("constant", "edge", "reflect", "symmetric", "wrap")  # the index is the code the kernels use

SYNONYMS = {
    "nearest": "edge",
    "replicate": "edge",
    "extend": "edge",
    "mirror": "reflect",
    "circular": "wrap",
    "periodic": "wrap",
}


def source(u, n, rule):
    """Index into a signal of length `n` of each extended position `u`; -1 where the signal is ``fill``."""
    u = np.asarray(u)
    if rule == "constant":
        return np.where((u >= 0) & (u < n), u, -1)
    if rule == "edge":
        return np.clip(u, 0, n - 1)
    if rule == "wrap":
        return u % n
    if rule == "symmetric":
        u = u % (2 * n)
        return np.where(u < n, u, 2 * n - 1 - u)
    u = u % max(2 * (n - 1), 1)
    return np.where(u < n, u, 2 * (n - 1) - u)
