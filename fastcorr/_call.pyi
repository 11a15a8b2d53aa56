from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

class Runner:
    def __init__(
        self,
        kernel: Any,
        problem: Any,
        x_dtype: np.dtype[Any] | None,
        k_dtype: np.dtype[Any],
        seconds: float,
        serial: float,
        current_threads: Callable[[int], int],
    ) -> None: ...
    def pack(self, k: NDArray[Any]) -> Any: ...
    def run(
        self, x: NDArray[Any], k: Any, out: NDArray[Any] | None, threads: int, packed: bool, rounded: bool = False
    ) -> NDArray[Any]: ...

class LayerRunner:
    def __init__(
        self,
        form: Any,
        method: str,
        shapes: tuple[tuple[int, ...], ...],
        contract: Callable[..., Any],
        kernel_run: Callable[..., Any] | None,
        weights_first: bool,
        serial: bool,
        watched: tuple[bool, ...],
        repair: Callable[..., None] | None,
        current_threads: Callable[[int], int] | None,
    ) -> None: ...
    def __call__(
        self, a: NDArray[Any], b: NDArray[Any], bias: NDArray[Any] | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]: ...

def truncated(y: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]: ...
def claim(current_threads: Callable[[int], int], run: Callable[..., Any], *args: Any) -> Any: ...
def channel_sums(g: NDArray[Any], dtype: np.dtype[Any], channels: int, batch: int) -> NDArray[Any]: ...
def resolved(
    make: Callable[[str, tuple[Any, ...], tuple[Any, ...]], Any],
    face: str,
    arrays: tuple[NDArray[Any] | None, ...],
    options: tuple[Any, ...],
) -> Any: ...
def call(
    face: str, x: ArrayLike, k: ArrayLike, out: NDArray[Any] | None, options: tuple[Any, ...], rounded: bool = False
) -> NDArray[Any]: ...
