"""The definition, in plain NumPy: specification, oracle of the tests, and the last-resort method.

    y[i] = sum over j of  k[j] * X[s*i + d*j - lo]            X is x extended past its ends by the boundary rule

One pass over the whole output per kernel tap, taps in C order, so a reader can check it by eye. It is what runs
for longdouble, and what every faster method is compared with.
"""

import numpy as np

from . import boundary


def correlate(problem, x, k, dtype=None):
    """The result of `problem` on arrays `x` and `k`, summed in `dtype` (default: the result's own type).

    float16 is summed in float32 and rounded once; bool is OR of ANDs; integers wrap. A real kernel acts on the
    real and imaginary parts of complex data separately, so an Inf in one does not make a NaN of the other.
    """
    if x.dtype.kind == "c" and k.dtype.kind != "c":
        y = np.empty(problem.out_shape, problem.dtype if dtype is None else dtype)
        part = y.real.dtype
        y.real = correlate(problem.part("real"), x.real, k, part)
        y.imag = correlate(problem.part("imag"), x.imag, k, part)
        return y
    sum_type = np.dtype(dtype or problem.dtype)
    if sum_type == np.float16:
        sum_type = np.dtype(np.float32)
    x = problem.canonical(x)
    k = problem.canonical(k, kernel=True)
    x, k = (a if a.dtype.kind != "c" and sum_type.kind == "c" else a.astype(sum_type, copy=False) for a in (x, k))
    if problem.conj:
        k = k.conj()
    if problem.flip:
        k = np.flip(k, tuple(range(-problem.rank, 0)) if problem.rank else ())
    y = np.zeros(problem.batch_shape + problem.out_size, sum_type)
    if y.size:
        for j in np.ndindex(problem.kernel):
            y += k[(..., *j)].reshape(k.shape[: k.ndim - problem.rank] + (1,) * problem.rank) * _window(problem, x, j)
    return problem.uncanonical(y).astype(dtype or problem.dtype, copy=False)


def _window(problem, x, j):
    """X[s*i + d*j - lo] for every output position i: what the tap `j` sees."""
    outside = np.zeros((1,) * problem.rank, bool)
    first = x.ndim - problem.rank
    for axis in range(problem.rank):
        lo, _ = problem.padding[axis]
        u = problem.stride[axis] * np.arange(problem.out_size[axis]) + problem.dilation[axis] * j[axis] - lo
        index = boundary.source(u, problem.size[axis], problem.boundary[axis])
        if problem.size[axis]:
            x = np.take(x, np.maximum(index, 0), axis=first + axis)
        else:
            x = np.zeros((*x.shape[: first + axis], u.size, *x.shape[first + axis + 1 :]), x.dtype)
        outside = outside | (index < 0).reshape((-1,) + (1,) * (problem.rank - 1 - axis))
    if not outside.any():
        return x
    fill = problem.fill.real if x.dtype.kind != "c" and problem.fill.imag == 0 else problem.fill
    return np.where(outside, fill, x)
