"""GFLOP/s of every compiled kernel, at every level and element type: correctness tests cannot see a slow loop.

The rows are those of the KERNELS table; a family without a workload here fails. flops are those of the definition, so
methods with fewer products come out above the FMA peak.
"""

from functools import partial
from math import prod
from timeit import Timer

import numpy as np

import fastcorr
from fastcorr import isa, layer_methods, planner, template
from fastcorr.contraction import layer
from fastcorr.kernels import KERNELS

from .correlate_workloads import Search, Workload
from .layer_workloads import Layer, square
from .timed import check


class Product(Workload):
    """A kernel that is a product of one per axis."""

    def arrays(self):
        x, k = super().arrays()
        return x, np.outer(k[0], k[:, 0])


class Local(Layer):
    """A layer with weights of their own in every place."""

    @property
    def shapes(self):
        return {"x": self.x, "w": self.w, "y": (self.x[0], self.w[2], *self.w[:2])}

    @property
    def flops(self):
        return 2 * prod(self.shape) * prod(self.w[3:])

    def expected(self):
        windows = np.lib.stride_tricks.sliding_window_view(self.array("x"), self.w[4:], (2, 3))
        exact = np.einsum("ncijkl,ijockl->noij", windows, self.array("w"), dtype=np.float64)
        return exact[self.places()], np.abs(exact).max(keepdims=True).ravel()


def correlation(work, level, method):
    x, k = work.arrays()
    plan = planner.resolve("correlate", x, k, level=level, method=method)
    return partial(plan.run, x, k, threads=1)


def search(work, level):
    """All of match_template, whose level is that of the process: its products are of another kernel."""
    if level != isa.LEVEL:
        raise NotImplementedError
    return partial(template.match_template, *work.arrays())


def contraction(work, level, method="direct"):
    options = {"local": True} if isinstance(work, Local) else {"padding": work.padding, "groups": work.groups}
    form, _ = layer(work.x, work.w, None, np.dtype(work.dtype), **options)
    form = form.siblings[work.result]
    operands = (work.array(name).reshape(form.shapes[name]) for name in form.operands)
    return partial(layer_methods.contract, form, *operands, method, level=level, count=1)


# What makes the call, the workload of a dtype, the method.
WORK = {
    "plane": (correlation, partial(Workload, "kernel", (256, 256), (9, 9)), "direct"),
    "spectrum": (correlation, partial(Workload, "kernel", (512, 512), (31, 31)), "fft"),
    "separable": (correlation, partial(Product, "kernel", (256, 256), (15, 15)), "separable"),
    "windows": (search, lambda dtype: Search("kernel", (256, 256), (16, 16), "float64", data=dtype)),
    "dense": (contraction, partial(Layer, "kernel", **square(1, 32, 28, 32, 3))),
    "weights": (contraction, partial(Layer, "kernel", **square(1, 32, 28, 32, 3), call="gw")),
    "depth": (contraction, partial(Layer, "kernel", **square(1, 64, 28, 64, 3, 64))),
    "local": (contraction, partial(Local, "kernel", (16, 8, 10, 10), (8, 8, 8, 8, 3, 3))),
    "winograd": (contraction, partial(Layer, "kernel", **square(1, 64, 28, 64, 3)), "winograd"),
    "frequency": (contraction, partial(Layer, "kernel", **square(1, 4, 128, 4, 21)), "fft"),
}


class Rate:
    params = ([f"{row.family} {row.element}" for row in KERNELS], list(isa.usable()))
    param_names = ("kernel", "level")
    unit = "GFLOP/s"

    def setup(self, kernel, level):
        fastcorr.set_num_threads(1)
        family, dtype = kernel.split()
        prepare, work, *method = WORK[family]
        work = work(dtype=dtype)
        self.call, self.flops = prepare(work, level, *method), work.flops
        check(work, self.call().reshape(work.shape))

    def track_rate(self, kernel, level):
        return self.flops / min(Timer(self.call).repeat(15, 1)) / 1e9
