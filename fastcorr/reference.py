"""The definition, in plain NumPy: specification, oracle of the tests, and the last-resort method.

    y[i] = sum over j of  k[j] * X[s*i + d*j - lo]            X is x extended past its ends by the boundary rule

One pass over the whole output per kernel tap, taps in C order, so a reader can check it by eye. `correlate` is one
kernel on one array, `contract` the form with channels of contraction.py and its gradients. They are what runs for
longdouble, and what every faster method is compared with.
"""

from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike

from . import boundary
from ._types import Array, Shape
from .contraction import Contraction
from .problem import Problem


def correlate(problem: Problem, x: Array, k: Array, dtype: DTypeLike | None = None) -> Array:
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


def match_template(
    problem: Problem, x: Array, t: Array, mask: Array | None = None, flat: float = 0.0, dtype: DTypeLike = np.longdouble
) -> Array:
    """Pearson's coefficient of `t` and each window of `x`, their samples multiplied by `mask` once the mean is gone.

    `problem` is that of the correlation of `x` with `t`; everything is computed in `dtype`.
    """
    x = problem.canonical(x).astype(dtype)
    t, w = (problem.canonical(a, kernel=True).astype(dtype) for a in (t, np.ones(t.shape) if mask is None else mask))
    t, w = (a.reshape(a.shape[: a.ndim - problem.rank] + (1,) * problem.rank + (-1,)) for a in (t, w))
    v = np.stack([_window(problem, x, j) for j in np.ndindex(problem.kernel)], axis=-1)
    v, t, w = np.broadcast_arrays(v, t, w)
    a, b = (w * (s - (w * s).sum(-1, keepdims=True) / w.sum(-1, keepdims=True)) for s in (v, t))
    first = np.argmax(w, axis=-1)[..., None]
    alike = [((s == np.take_along_axis(s, first, -1)) | (w == 0)).all(-1) for s in (v, t)]
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    finite = np.isfinite(v).all(-1) & np.isfinite(t).all(-1)
    return problem.uncanonical(np.where(finite, np.where(alike[0] | alike[1], flat, r), np.nan))


def contract(
    contraction: Contraction, a: Array, b: Array, bias: Array | None = None, dtype: DTypeLike | None = None
) -> Array:
    """The result of `contraction` on its canonical operands, summed in `dtype` (default: the result's own type).

    Bilinear: nothing is conjugated. `bias`, broadcast over the result, is added last. Types are treated as in
    `correlate`, and a real operand acts on the real and imaginary parts of a complex one separately here too.
    """
    form = contraction
    arrays = dict(zip(form.operands, (a, b), strict=True))
    if "x" in arrays and arrays["x"].dtype.kind != "c" and form.fill.imag != 0:
        arrays["x"] = arrays["x"].astype(form.dtype)
    real = [name for name, array in arrays.items() if array.dtype.kind != "c"]
    if len(real) == 1:
        total = np.empty(form.out_shape, dtype or form.dtype)
        for name in ("real", "imag"):
            a, b = (array if role in real else getattr(array, name) for role, array in arrays.items())
            part = form.part("real" if "x" in real else name)
            setattr(total, name, contract(part, a, b, dtype=total.real.dtype))
        return total if bias is None else total + bias.astype(total.dtype)
    sum_type = np.dtype(dtype or form.dtype)
    if sum_type == np.float16:
        sum_type = np.dtype(np.float32)
    operand_type = np.empty(0, sum_type).real.dtype if real else sum_type
    arrays = {name: np.array(array, operand_type, order="C", copy=None) for name, array in arrays.items()}
    total = arrays[form.result] = np.zeros(form.out_shape, sum_type)
    x, y, w = arrays["x"], arrays["y"], _taps(form, arrays["w"])
    summed = (0,) if form.local else (0, *range(3, y.ndim))  # axes of y that a weight is used on
    for j in np.ndindex(form.kernel):
        if form.result == "x":
            seen = np.zeros((*form.shapes["y"][:2], form.channels, *form.out_size), sum_type)
            for o in range(form.features):
                seen += w[:, o, :, *j] * y[:, :, o, None]
            _scatter(form, seen, j, x)
        else:
            window = _window(form, x, j)
            for c in range(form.channels):
                if form.result == "y":
                    y += w[:, :, c, *j] * window[:, :, c, None]
                else:
                    product = y * window[:, :, c, None]
                    w[:, :, c, *j] = np.add.reduce(product, summed, sum_type, keepdims=True)[0]
    if bias is not None:
        total = total + bias.astype(sum_type)
    return total.astype(dtype or form.dtype, copy=False)


def _taps(form: Contraction, w: Array) -> Array:
    """View of canonical `w`: group, output and input channel, kernel position as in the formula, output position."""
    if form.flip:
        w = np.flip(w, tuple(range(w.ndim - form.rank, w.ndim)))
    if form.local:
        return np.moveaxis(w, range(form.rank), range(-form.rank, 0))
    return w.reshape(w.shape + (1,) * form.rank)


def _sources(problem: Problem | Contraction, j: Shape) -> list[Array]:
    """Per axis, the index into x of the sample that tap `j` sees from each output position; -1 where it is fill."""
    rows = zip(problem.out_size, problem.stride, problem.dilation, j, problem.padding, strict=True)
    reads = [s * np.arange(m) + d * tap - lo for m, s, d, tap, (lo, _) in rows]
    return [boundary.source(u, n, rule) for u, n, rule in zip(reads, problem.size, problem.boundary, strict=True)]


def _scatter(problem: Problem | Contraction, part: Array, j: Shape, x: Array) -> None:
    """Add what each output position gives to tap `j` to the sample of x that the tap saw; fill takes nothing."""
    sources = _sources(problem, j)
    inside = [index >= 0 for index in sources]
    places = np.ix_(*(index[keep] for index, keep in zip(sources, inside, strict=True)))
    to, seen = (..., *places), (..., *np.ix_(*inside))
    np.add.at(x, cast(Any, to), part[cast(Any, seen)])


def _window(problem: Problem | Contraction, x: Array, j: Shape) -> Array:
    """X[s*i + d*j - lo] for every output position i: what the tap `j` sees."""
    outside = np.zeros((1,) * problem.rank, bool)
    first = x.ndim - problem.rank
    for axis, index in enumerate(_sources(problem, j)):
        if problem.size[axis]:
            x = np.take(x, np.maximum(index, 0), axis=first + axis)
        else:
            x = np.zeros((*x.shape[: first + axis], index.size, *x.shape[first + axis + 1 :]), x.dtype)
        outside = outside | (index < 0).reshape((-1,) + (1,) * (problem.rank - 1 - axis))
    if not outside.any():
        return x
    fill = problem.fill.real if x.dtype.kind != "c" and problem.fill.imag == 0 else problem.fill
    return np.where(outside, fill, x)
