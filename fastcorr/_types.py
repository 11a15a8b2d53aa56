"""Types that signatures share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
DType = np.dtype[Any]
Shape = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]  # (lo, hi) per axis

# What callers may write.
PerAxis = int | Sequence[int]
Mode = str | Sequence[tuple[int, int]]
Padding = str | int | Sequence[int | tuple[int, int]]
Boundary = str | Sequence[str]
Scalar = complex | np.number[Any]
