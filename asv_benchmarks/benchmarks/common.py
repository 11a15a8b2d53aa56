"""What workloads of all kinds share: the data, and the check of a result against the definition."""

from functools import lru_cache
from itertools import product
from math import prod

import numpy as np


class Checked:
    """The part of a workload that checks results: `shape` and `dtype` are theirs, `expected` knows them in places."""

    @property
    def looks(self):
        """Places to look at: fewer where a result has so many products that they take longer than the work."""
        return max(8, min(200, 4_000_000 * prod(self.shape) // self.flops))

    @property
    def effort(self):
        """What a peer's time grows with, roughly: its rate on one workload tells whether the next is too long."""
        return self.bytes if self.group in ("large", "template") else self.flops

    def places(self):
        """Where results are looked at: `looks` places anywhere, and every corner."""
        anywhere = np.random.default_rng(1).integers(0, self.shape, (self.looks, len(self.shape)))
        return tuple(np.vstack([anywhere, list(product(*((0, n - 1) for n in self.shape)))]).T)

    def fault(self, y):
        """(what is wrong with the result or "", largest error in units of eps sum |x||k|)."""
        if y.shape != self.shape or y.dtype != self.dtype:
            return f"is {y.dtype} of shape {y.shape}", np.inf
        return self.sample_fault(y[self.places()])

    def sample_fault(self, samples):
        """`fault` of the samples at `places`. FFT methods may err by some eps of the largest result."""
        exact, scale = self.expected()
        error = np.abs(samples - exact)
        if samples.dtype.kind in "iu":
            return ("" if (error == 0).all() else "differs from the definition"), 0.0
        eps = np.finfo(samples.dtype).eps
        wrong = not (error <= 32 * eps * scale.max()).all()  # a NaN is wrong too
        relative = error / np.maximum(scale, np.finfo(scale.dtype).tiny)  # a strided gradient has sums of nothing
        return ("differs from the definition" if wrong else ""), float(relative.max() / eps)


def array_of(result):
    """The one array of a result; of several gradients all others are None."""
    if isinstance(result, tuple):
        result = next(part for part in result if part is not None)
    return np.asarray(result)


def beside_defaults(**options):
    """{option: value} of those (value, default) that differ."""
    return {name: value for name, (value, default) in options.items() if value != default}


@lru_cache(3)
def noise(shape, dtype, seed=0):
    """Seeded values without a pattern: floats in -1 to 1, small integers, complex numbers."""
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    if dtype.kind in "iu":
        return rng.integers(0 if dtype.kind == "u" else -100, 100, shape, dtype)
    if dtype.kind == "c":
        return (rng.uniform(-1, 1, shape) + 1j * rng.uniform(-1, 1, shape)).astype(dtype)
    return rng.uniform(-1, 1, shape).astype(dtype)
