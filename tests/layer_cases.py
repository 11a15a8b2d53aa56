"""What the tests of layers share: a call of the layer face written down, its arrays, and random ones of every kind.

As with common.Case, the repr of a `LayerCase` is Python that makes it again:

    cd tests && python -c "from layer_cases import LayerCase; LayerCase('conv', (1, 2, 9), (3, 2, 3)).run()"

Data are integer-valued, so that every order of summation is exact and comparisons are `np.array_equal`.
"""

import inspect
from dataclasses import dataclass, field

import numpy as np
from common import RULES, whole

from fastcorr import gradients, nn

METHODS = ("reference", "direct")
FACES = ("conv", "conv_transpose", "local_conv")

_TAPS = (0, 5, 4, 3, 2, 2)  # most taps along an axis by rank
_WORK = 20_000  # most multiplications of a random case: the loops of test_layers.py take each in Python


@dataclass(frozen=True)
class LayerCase:
    """One call of `conv`, `conv_transpose` or `local_conv`, and of its gradients."""

    face: str
    x: tuple
    w: tuple
    bias: tuple | None = None
    options: dict = field(default_factory=dict)
    dtype: str = "int64"
    values: str = "small"
    seed: int = 0

    def arrays(self):
        """x, w and bias (or None)."""
        rng = np.random.default_rng(self.seed)
        shapes = (self.x, self.w, self.bias)
        return tuple(None if s is None else np.asarray(whole(rng, s, self.dtype, self.values)) for s in shapes)

    def gradient(self):
        """Some g, of the shape of the result."""
        rng = np.random.default_rng(self.seed + 1)
        return np.asarray(whole(rng, self.run().shape, self.dtype, self.values))

    def run(self, *arrays, method="reference", **more):
        """The result, of its own arrays or of others."""
        return call(getattr(nn, self.face), *(arrays or self.arrays()), method=method, **self.options | more)

    def vjp(self, g, *arrays, method="reference", **more):
        """The gradients, of its own arrays or of others."""
        f = getattr(gradients, self.face + "_vjp")
        return call(f, g, *(arrays or self.arrays()), method=method, **self.options | more)

    @property
    def rank(self):
        return (len(self.w) - 2) // (2 if self.face == "local_conv" else 1)

    def each(self, name, default):
        """An option as one value per spatial axis."""
        value = self.options.get(name, default)
        return tuple(value) if isinstance(value, (tuple, list)) else (value,) * self.rank

    def span(self):
        kernel = self.w[len(self.w) - self.rank :]
        return [d * (k - 1) + 1 for k, d in zip(kernel, self.each("dilation", 1), strict=True)]

    def pairs(self):
        """Padding as (lo, hi) per axis, spelt out anew; of conv_transpose for the conv it transposes."""
        padding, size, stride = (
            self.options.get("padding", 0),
            self.x[len(self.x) - self.rank :],
            self.each("stride", 1),
        )
        if not isinstance(padding, str):
            return [p if isinstance(p, tuple) else (p, p) for p in self.each("padding", 0)]
        if padding == "valid":
            return [(0, 0)] * self.rank
        pairs = []
        for n, s, k in zip(size, stride, self.span(), strict=True):
            n, out = (n * s, n) if self.face == "conv_transpose" else (n, (n + s - 1) // s)
            total = max(0, (out - 1) * s + k - n)
            pairs.append((total // 2, (total + 1) // 2) if padding == "same" else ((total + 1) // 2, total // 2))
        return pairs


def call(f, *args, method, **options):
    """`f`, which takes `method` unless it is local_conv or its gradients."""
    if "method" in inspect.signature(f).parameters:
        options["method"] = method
    return f(*args, **options)


def random_layer(rng, faces=FACES, dtypes=("int64",), ranks=(0, 1, 1, 2, 2, 3, 4, 5), rules=RULES):
    """A random LayerCase, small enough for loops in Python; `rng` is a random.Random."""
    face, rank = rng.choice(faces), rng.choice(ranks)
    groups, c, o = rng.choice((1, 1, 2, 3)), rng.randint(1, 2 if rank > 3 else 3), rng.randint(1, 2 if rank > 3 else 3)
    kernel = [rng.randint(1, _TAPS[rank]) for _ in range(rank)]
    stride = [rng.choice((1, 1, 2, 3)) for _ in range(rank)]
    dilation = [rng.choice((1, 1, 2, 3)) for _ in range(rank)]
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    options = {"stride": tuple(stride), "dilation": tuple(dilation), "groups": groups}
    if len(set(stride)) == 1 and rng.random() < 0.5:
        options["stride"] = stride[0]
    if rng.random() < 0.3:
        options["flip"] = True
    style = rng.choice(("none", "int", "ints", "pairs", "pairs", "valid", "same", "same_lower"))
    if style == "int":
        options["padding"] = rng.randint(-1, 3)
    elif style == "ints":
        options["padding"] = tuple(rng.randint(-1, 3) for _ in range(rank))
    elif style == "pairs":
        options["padding"] = tuple((rng.randint(-3, 5), rng.randint(-3, 5)) for _ in range(rank))
    elif style != "none":
        options["padding"] = style
    case = LayerCase(face, (1,) * (rank + 2), (1,) * (2 + (2 if face == "local_conv" else 1) * rank), options=options)
    pads = [(0, 0)] * rank if style.startswith("same") else case.pairs()
    if face == "conv_transpose":
        if not style.startswith("same") and rng.random() < 0.5:
            options["output_padding"] = tuple(rng.randrange(max(s, d)) for s, d in zip(stride, dilation, strict=True))
        size = [rng.randint(1, 4) for _ in range(rank)]
        for t, ((lo, hi), s, k) in enumerate(zip(pads, stride, span, strict=True)):
            while (size[t] - 1) * s + k < lo + hi + 1:
                size[t] += 1
        w, channels, out = (c * groups, o, *kernel), c * groups, o * groups
        positions = [(n - 1) * s + k for n, s, k in zip(size, stride, span, strict=True)]
    else:
        if rng.random() < 0.7:
            one = rng.choice(rules)
            options["boundary"] = one if rng.random() < 0.5 else tuple(rng.choice(rules) for _ in range(rank))
        if rng.random() < 0.4:
            options["fill"] = 3
        least = [1 if style.startswith("same") else max(1, k - lo - hi) for k, (lo, hi) in zip(span, pads, strict=True)]
        size = [n + rng.randint(0, 3) for n in least]
        if style.startswith("same"):
            positions = [-(-n // s) for n, s in zip(size, stride, strict=True)]
        else:
            rows = zip(size, pads, span, stride, strict=True)
            positions = [(n + lo + hi - k) // s + 1 for n, (lo, hi), k, s in rows]
        w, channels, out = (o * groups, c, *kernel), c * groups, o * groups
        if face == "local_conv":
            w = (*positions, *w)
    batch = rng.choice(((), (0,), (1,), (2,), (3,)))
    if np.prod(positions) * np.prod(kernel) * groups * c * o * np.prod(batch) > _WORK:
        return random_layer(rng, faces, dtypes, ranks, rules)
    bias = rng.choice((None, (out,), (out, *positions) if face == "local_conv" else (out,)))
    dtype = rng.choice(dtypes)
    values = "full" if np.dtype(dtype).kind in "iu" else "small"
    return LayerCase(face, (*batch, channels, *size), w, bias, options, dtype, values, rng.randint(0, 999))
