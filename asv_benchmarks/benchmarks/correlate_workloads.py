"""The workloads of one kernel on one array, each named once: asv and compare.py time and check the same ones."""

from dataclasses import dataclass, field
from functools import cache, lru_cache, reduce
from itertools import product
from math import prod

import numpy as np

from .common import Checked, beside_defaults, noise


@dataclass(frozen=True)
class Workload(Checked):
    """One call of correlate; `quick` says whether a hurried run keeps it."""

    function = "correlate"
    channels = 1

    group: str
    x: tuple
    k: tuple
    dtype: str = "float32"
    mode: str = "valid"
    boundary: str = "constant"
    data: str = None  # dtype of the data where it is another; then the call says dtype=
    out: bool = False  # the result goes into an array that already exists
    method: str = "auto"
    quick: bool = field(default=True, compare=False)

    @property
    def name(self):
        shape, kernel = ("x".join(map(str, a)) for a in (self.x, self.k))
        return " ".join([shape, "*", kernel, f"{self.data}->{self.dtype}" if self.data else self.dtype])

    @property
    def shape(self):
        """Of the result."""
        sign = {"valid": -1, "same": 0, "full": 1}[self.mode]
        return tuple(n + sign * (m - 1) for n, m in zip(self.x, self.k, strict=True))

    @property
    def flops(self):
        """Multiplications and additions of the definition; a complex tap has eight."""
        return (8 if self.dtype.startswith("complex") else 2) * prod(self.shape) * prod(self.k)

    @property
    def bytes(self):
        """Every sample read once, every result written once."""
        arrays = (self.data or self.dtype, self.x), (self.dtype, self.shape)
        return sum(np.dtype(dtype).itemsize * prod(shape) for dtype, shape in arrays)

    @property
    def options(self):
        """What the call says beside the arrays: no defaults, as a user would write it."""
        cast = {"dtype": self.dtype} if self.data else {}
        words = {"mode": (self.mode, "valid"), "boundary": (self.boundary, "constant"), "method": (self.method, "auto")}
        return beside_defaults(**words) | cast

    def arrays(self):
        return noise(self.x, self.data or self.dtype), noise(self.k, self.dtype)

    @lru_cache(1)  # noqa: B019  a Workload holds no arrays
    def padded(self):
        """The data with a border made by numpy.pad: "valid" on this is the workload, for libraries without borders."""
        x = self.arrays()[0].astype(self.dtype, copy=False)
        if self.mode == "valid":
            return x
        before = [m // 2 if self.mode == "same" else m - 1 for m in self.k]
        after = [m - 1 - (a if self.mode == "same" else 0) for m, a in zip(self.k, before, strict=True)]
        return np.pad(x, list(zip(before, after, strict=True)), self.boundary)

    @lru_cache(1)  # noqa: B019
    def expected(self):
        """(the definition, sum of |x||k|) at `places`, in long double or exactly."""
        k = self.arrays()[1].conj()
        windows = np.lib.stride_tricks.sliding_window_view(self.padded(), k.shape)[self.places()].reshape(-1, k.size)
        wide = {"f": np.longdouble, "c": np.clongdouble}.get(k.dtype.kind, np.int64)
        windows, k = windows.astype(wide), k.astype(wide).ravel()
        return windows @ k, np.abs(windows) @ np.abs(k)


@dataclass(frozen=True)
class Separable(Workload):
    """A kernel that is a product of one vector per axis, as those of blurs are; peers are given the vectors."""

    def factors(self):
        return [noise((m,), self.dtype, axis) for axis, m in enumerate(self.k)]

    def arrays(self):
        return noise(self.x, self.dtype), reduce(np.multiply.outer, self.factors())


@dataclass(frozen=True)
class Search(Workload):
    """One call of match_template; results of peers may differ by what rounding in float32 makes of them."""

    function = "match_template"

    @property
    def name(self):
        x, _, t, dtype = super().name.split()
        return f"search {x} for {t} {dtype}"

    @property
    def options(self):
        return {}

    def arrays(self):
        """Data with an offset, as pictures have, and a detail of them as the template."""
        x = noise(self.x, self.data or self.dtype)
        x = x if self.data else x + 2
        return x, np.ascontiguousarray(x[tuple(slice(n // 3, n // 3 + m) for n, m in zip(self.x, self.k, strict=True))])

    @lru_cache(1)  # noqa: B019
    def expected(self):
        x, t = (a.astype(np.longdouble) for a in self.arrays())
        windows = np.lib.stride_tricks.sliding_window_view(x, t.shape)[self.places()].reshape(-1, t.size)
        windows, t = windows - windows.mean(1, keepdims=True), t.ravel() - t.mean()
        return windows @ t / np.sqrt((windows**2).sum(1) * (t @ t)), np.full(len(windows), 1000.0)


def grid(group, sizes, kernels, dtypes=("float32",), quick=((), ()), kind=Workload, **options):
    """Every size with every kernel and dtype; `quick` are (sizes, kernels) a hurried run leaves out."""
    for dtype, x, m in product(dtypes, sizes, kernels):
        keep = x not in quick[0] and m not in quick[1]
        yield kind(group, x, (m,) * len(x), dtype, quick=keep, **options)


@cache
def workloads():
    """All of them, in the order of the groups."""
    floats = ("float32", "float64")
    like_a_filter = {"mode": "same", "boundary": "reflect"}
    images = [(n, n) for n in (256, 512, 1024, 2048, 4096)]
    exact = ("float32", "float64", "int32", "int64", "float16", "complex64", "complex128")
    return [
        Workload("small", (1000,), (5,)),
        *(Workload("small", (n, n), (m, m), **like_a_filter) for n, m in ((28, 3), (64, 5))),
        *grid("image", images, (3, 5, 7, 9, 11, 15), floats, ([(512, 512), (2048, 2048)], (5, 7, 11)), **like_a_filter),
        *(Workload("copy", (4096, 4096), (3, 3), dtype, **like_a_filter, out=True) for dtype in floats),
        *grid("signal", [(10**n,) for n in (3, 4, 5, 6)], (3, 8, 16, 64, 256), floats, ([(10**4,)], (8, 64))),
        *grid("volume", [(n,) * 3 for n in (64, 128, 200)], (3, 5, 7), ("float32",), ([(128,) * 3], (5,)), mode="same"),
        *grid("separable", images[1:4], (5, 9, 15, 31), floats, ([], (5, 15)), Separable, **like_a_filter),
        *grid("separable", [(128,) * 3], (5, 9), ("float32",), ([], (5,)), Separable, **like_a_filter),
        *grid("dtypes", [(1024, 1024)], (5, 9), exact, ([], (5,)), mode="same"),
        *(Workload("dtypes", (1024, 1024), (m, m), "int32", "same", data="uint8", quick=m == 9) for m in (5, 9)),
        *grid("large", images[1:], (17, 31, 63, 255), floats, ([(1024,) * 2], (17, 63)), mode="same"),
        *grid("large", [(10**5,), (10**6,), (5 * 10**6,)], (500, 20000), floats, ([(10**5,)], ())),
        *grid("large", [(10**6,), (5 * 10**6,)], (200000,), ("float32",), ([(10**6,)], ())),
        *grid("large", [(128,) * 3, (200,) * 3], (9, 31), ("float32",), ([(200,) * 3], ()), mode="same"),
        *(Workload("large", (n,), (n,), dtype, "full", quick=n == 10**5) for n in (10**5, 10**6) for dtype in floats),
        *(
            Search("template", (n, n), (m, m), data=data, quick=(n, m) in ((512, 16), (2048, 31)))
            for data in ("uint8", None)
            for n, sizes in ((512, (16, 64)), (2048, (15, 31, 64, 128)))
            for m in sizes
        ),
        *grid("incache", [(128, 512), (256, 256)], (5, 7, 9, 11, 15), floats, ([(256, 256)], (7, 11)), method="direct"),
        # The call that is least more than the tile: nearly every row of x meets a full tile, all lanes full, all in L1.
        *(Workload("tile", (300, 287), (64, 32), dtype, method="direct") for dtype in floats),
    ]
