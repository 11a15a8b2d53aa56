import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ._types import Array, Boundary, Mode, PerAxis, Scalar

def correlate(
    x: ArrayLike,
    k: ArrayLike,
    mode: Mode = "valid",
    *,
    axes: PerAxis | None = None,
    boundary: Boundary = "constant",
    fill: Scalar = 0,
    anchor: PerAxis | None = None,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    method: str = "auto",
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> Array: ...
def convolve(
    x: ArrayLike,
    k: ArrayLike,
    mode: Mode = "valid",
    *,
    axes: PerAxis | None = None,
    boundary: Boundary = "constant",
    fill: Scalar = 0,
    anchor: PerAxis | None = None,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    method: str = "auto",
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> Array: ...
def correlation_lags(n: int, m: int, mode: Mode = "valid") -> NDArray[np.int_]: ...
