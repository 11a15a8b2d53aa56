"""GFLOP/s of every compiled kernel, at every level and element type: correctness tests cannot see a slow loop.

The rows are those of the KERNELS table; a family without a workload here fails. flops are those of the definition, so
methods with fewer products come out above the FMA peak.
"""

from functools import partial
from timeit import Timer

import numpy as np

from fastcorr import isa, layer_methods, planner, template
from fastcorr.contraction import layer
from fastcorr.kernels import KERNELS

from .common import noise


def signal(dtype, level, x, k, method):
    x, k = noise(x, dtype), noise(k, dtype)
    plan = planner.resolve("correlate", x, k, level=level, method=method)
    return partial(plan.run, x, k, threads=1), plan.problem.flops


def product(dtype, level):
    """A kernel that is a product of one per axis."""
    x, k = noise((256, 256), dtype), np.outer(noise((15,), dtype), noise((15,), dtype))
    plan = planner.resolve("correlate", x, k, level=level, method="separable")
    return partial(plan.run, x, k, threads=1), plan.problem.flops


def contraction(dtype, level, x, w, result="y", method="direct", local=False, **options):
    form, _ = layer(x, w, None, np.dtype(dtype), local=local, **options)
    form = form.siblings[result]
    a, b = (noise(form.shapes[name], dtype) for name in form.operands)
    return partial(layer_methods.contract, form, a, b, method, level=level, count=1), form.flops


def windows(dtype, level):
    """All of match_template, whose level is that of the process: its products are of another kernel."""
    if level != isa.LEVEL:
        raise NotImplementedError
    x, t = noise((256, 256), dtype), noise((16, 16), dtype)
    return partial(template.match_template, x, t), 2 * 241 * 241 * 16 * 16


WORK = {
    "plane": partial(signal, x=(256, 256), k=(9, 9), method="direct"),
    "spectrum": partial(signal, x=(512, 512), k=(31, 31), method="fft"),
    "separable": product,
    "windows": windows,
    "dense": partial(contraction, x=(1, 32, 28, 28), w=(32, 32, 3, 3), padding=1),
    "weights": partial(contraction, x=(1, 32, 28, 28), w=(32, 32, 3, 3), padding=1, result="w"),
    "depth": partial(contraction, x=(1, 64, 28, 28), w=(64, 1, 3, 3), padding=1, groups=64),
    "local": partial(contraction, x=(16, 8, 10, 10), w=(8, 8, 8, 8, 3, 3), local=True),
    "winograd": partial(contraction, x=(1, 64, 28, 28), w=(64, 64, 3, 3), padding=1, method="winograd"),
    "frequency": partial(contraction, x=(1, 4, 128, 128), w=(4, 4, 21, 21), method="fft"),
}


class Rate:
    params = ([f"{row.family} {row.element}" for row in KERNELS], list(isa.usable()))
    param_names = ("kernel", "level")
    unit = "GFLOP/s"

    def setup(self, kernel, level):
        family, dtype = kernel.split()
        self.call, self.flops = WORK[family](dtype, level)
        self.call()

    def track_rate(self, kernel, level):
        seconds = min(Timer(self.call).repeat(15, 1))
        return self.flops / seconds / 1e9
