"""The workloads of layers and their gradients, each named once, as correlate_workloads.py names those of one kernel."""

from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import product
from math import prod

import numpy as np

from .common import Checked, beside_defaults, noise

# What a call computes, from which arrays in which order, and how it is said.
CALLS = {
    "conv": ("y", "xw", "conv"),
    "conv_transpose": ("x", "yw", "conv_transpose"),
    "gx": ("x", "yxw", "conv_vjp"),
    "gw": ("w", "yxw", "conv_vjp"),
}


@dataclass(frozen=True)
class Layer(Checked):
    """One contraction of  y[n, o, i] = sum over c, j of w[o, c, j] * x[n, c, s*i + d*j - lo].

    `x` and `w` are the shapes of a conv, whatever is called: "conv" computes its y, "gx" and "gw" its gradients with
    respect to x and w, and "conv_transpose" is "gx" by another name. The padding keeps sizes where the kernel is odd.
    """

    group: str
    x: tuple
    w: tuple
    call: str = "conv"
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    dtype: str = "float32"
    quick: bool = field(default=False, compare=False)
    out = False

    @property
    def name(self):
        """The arrays of the call, its result for a gradient, and the options that are no defaults."""
        first, second = self.shapes["y" if self.call == "conv_transpose" else "x"], self.w
        of = {"gx": ["gx of"], "gw": ["gw of"]}.get(self.call, [])
        options = beside_defaults(stride=(self.stride, 1), dilation=(self.dilation, 1), groups=(self.groups, 1))
        texts = [f"{name} {value}" for name, value in options.items()]
        return " ".join([*of, "x".join(map(str, first)), "*", "x".join(map(str, second)), *texts, self.dtype])

    @property
    def result(self):
        return CALLS[self.call][0]

    @property
    def function(self):
        """Its name in fastcorr."""
        return CALLS[self.call][2]

    @property
    def padding(self):
        return tuple(self.dilation * ((k - 1) // 2) for k in self.w[2:])

    @property
    def shapes(self):
        rows = zip(self.x[2:], self.w[2:], self.padding, strict=True)
        size = [(n + 2 * p - self.dilation * (k - 1) - 1) // self.stride + 1 for n, k, p in rows]
        return {"x": self.x, "w": self.w, "y": (self.x[0], self.w[0], *size)}

    @property
    def shape(self):
        """Of the result."""
        return self.shapes[self.result]

    @property
    def output_padding(self):
        """What conv_transpose has to be told, as several sizes of x give the same y."""
        rows = zip(self.x[2:], self.shapes["y"][2:], self.w[2:], self.padding, strict=True)
        return tuple(n + 2 * p - self.dilation * (k - 1) - 1 - (m - 1) * self.stride for n, m, k, p in rows)

    @property
    def channels(self):
        """The lesser number of channels of a group, of x or of y."""
        return min(self.w[0] // self.groups, self.w[1])

    @property
    def flops(self):
        """Multiplications and additions of the definition, those on the padding as well; the same for all calls."""
        return 2 * prod(self.shapes["y"]) * prod(self.w[1:])

    @property
    def bytes(self):
        """Every operand read once, every result written once."""
        return np.dtype(self.dtype).itemsize * sum(map(prod, self.shapes.values()))

    @property
    def options(self):
        """What the call of fastcorr says beside the arrays: no defaults, as a user would write it."""
        none = (0,) * len(self.padding)
        extra = {"output_padding": (self.output_padding, none)} if self.call == "conv_transpose" else {}
        need = {"need": (self.call == "gx", self.call == "gw", False)} if self.function == "conv_vjp" else {}
        layer = {"stride": (self.stride, 1), "padding": (self.padding, none), "dilation": (self.dilation, 1)}
        return beside_defaults(**layer, groups=(self.groups, 1), **extra) | need

    def array(self, role):
        return noise(self.shapes[role], self.dtype, "xwy".index(role))

    def arrays(self):
        return [self.array(role) for role in CALLS[self.call][1]]

    @lru_cache(1)  # noqa: B019  a Layer holds no arrays
    def expected(self):
        """(the definition, sum of the products' magnitudes) at `places`, in a precision beyond the result's."""
        wide = np.longdouble if self.dtype == "float64" else np.float64
        arrays = [self.array(role) for role in "xwy" if role != self.result]
        sums = []
        for place in zip(*self.places(), strict=True):
            a, b = (part[i].ravel().astype(wide) for part, i in zip(arrays, self.met(place), strict=True))
            products = a * b  # and no a @ b, which wakes threads of a BLAS
            sums.append((products.sum(), np.abs(products).sum()))
        return tuple(np.array(sums).T)

    def met(self, place):
        """For x, w, y without the result: the indices of what is multiplied and summed in one place of the result."""
        features, channels = self.w[0] // self.groups, self.w[1]
        first, second, *position = place
        members = lambda group, size: np.arange(group * size, (group + 1) * size)  # noqa: E731
        if self.result == "y":
            n, o, c = [first], [second], members(second // features, channels)
        elif self.result == "x":
            n, o, c = [first], members(second // channels, features), [second]
        else:
            n, o, c = np.arange(self.x[0]), [first], [first // features * channels + second]
        axes = [self.met_along(axis, at) for axis, at in enumerate(position)]
        indices = {"x": (n, c), "w": (o, np.mod(c, channels)), "y": (n, o)}
        return [np.ix_(*indices[r], *(axis[r] for axis in axes)) for r in "xwy" if r != self.result]

    def met_along(self, axis, at):
        """{array: indices} along one spatial axis of the triples x, w, y that have `at` in the result."""
        j, i = np.indices((self.w[2 + axis], self.shapes["y"][2 + axis]))
        u = self.stride * i + self.dilation * j - self.padding[axis]
        index = {"x": u, "w": j, "y": i}
        here = (index[self.result] == at) & (u >= 0) & (u < self.x[2 + axis])
        return {role: values[here] for role, values in index.items()}


def square(n, c, size, o, k, groups=1, **options):
    """A layer from c to o channels on squares, as arguments of Layer."""
    return {"x": (n, c, size, size), "w": (o, c // groups, k, k), "groups": groups, **options}


def several(group, layers, calls=("conv",), dtype="float32", quick=()):
    """Every call of every layer; a hurried run keeps the layers whose places in the list are in `quick`."""
    for (place, layer), call in product(enumerate(layers), calls):
        yield Layer(group, call=call, dtype=dtype, quick=place in quick, **layer)


@cache
def layers():
    """All of them, in the order of the groups."""
    gradients = ("gx", "gw")
    resnet, pointwise = (64, 56, 64, 3), (64, 56, 256, 1)
    deep = (512, 7, 512, 3)  # more weights than samples
    both = (resnet, (128, 28, 128, 3), (256, 14, 256, 3), deep, pointwise, (1024, 14, 256, 1))
    first = [square(n, 3, 224, 64, 7, stride=2) for n in (1, 8)]
    strided = [square(n, 128, 56, 128, 3, stride=2) for n in (1, 8)]
    vgg = [square(1, *shape, 3) for shape in ((3, 224, 64), (64, 224, 64), (256, 56, 256), (512, 14, 512))]
    unet = [square(1, 32, 256, 32, 3), square(1, 192, 128, 64, 3)]
    others = [square(1, 256, 56, 512, 1, stride=2), square(8, 48, 28, 64, 5), square(1, 64, 56, 64, 7)]
    others += [square(1, 256, 28, 256, 3, dilation=2), {"x": (8, 64, 4000), "w": (64, 64, 3), "dilation": 2}]
    line, volume = {"x": (8, 128, 2000), "w": (128, 128, 5)}, {"x": (1, 32, 16, 56, 56), "w": (32, 32, 3, 3, 3)}
    cube = {"x": (2, 16, 32, 32, 32), "w": (32, 16, 3, 3, 3)}
    filters = square(8, 240, 14, 240, 5, 240)
    depthwise = [square(1, 144, 56, 144, 3, 144), square(8, 96, 56, 96, 3, 96), square(1, 240, 28, 240, 5, 240)]
    depthwise += [filters, square(8, 96, 28, 96, 7, 96), square(1, 96, 112, 96, 3, 96, stride=2)]
    large = [square(1, 32, 64, 32, 31), square(8, 16, 56, 32, 15)]
    up = [*(square(1, 64, 112, 128, k, stride=2) for k in (2, 3, 4)), square(8, 32, 56, 64, 2, stride=2)]
    return [
        *several("layer", [square(n, *shape) for n in (1, 8) for shape in both], quick=(0, 3, 10)),
        *several("layer", [*first, *strided, *vgg, *unet, *others, line, volume, cube], quick=(0, 15, 17)),
        *several("gradient", [square(8, *deep), first[1], filters, square(8, *resnet)], gradients, quick=(0, 1, 2, 3)),
        *several("gradient", [square(8, *pointwise), strided[0], vgg[2], line, volume], gradients),
        *several("depthwise", depthwise, quick=(0, 2)),
        *several("grouped", [square(n, 128, 28, 128, 3, g) for n in (1, 8) for g in (1, 4)], quick=(0, 1)),
        *several("transpose", up, ("conv_transpose",), quick=(0,)),
        *several("layer64", [square(1, *resnet), square(1, *deep), first[0], cube], dtype="float64", quick=(0,)),
        *several("layer64", [square(1, *resnet)], gradients, "float64"),
        *several("largelayer", large, ("conv", *gradients), quick=(0,)),
        *several("smalllayer", [square(8, 1, 28, 32, 3)], ("conv", *gradients), quick=(0,)),
        *several("memory", [square(8, 64, 112, 64, 3)], ("conv", *gradients), quick=(0,)),
        *several("memory", [square(1, 64, 112, 64, 3)], dtype="float64"),
    ]
