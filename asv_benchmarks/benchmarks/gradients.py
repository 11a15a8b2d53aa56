"""Times of the input gradients ("gx") and weight gradients ("gw") of conv, as conv_vjp computes one of them."""

from .layer_workloads import layers
from .timed import Timed, named


class Gradient(Timed):
    works = named(work for work in layers() if work.function == "conv_vjp" and work.group != "memory")
    params = (list(works), (1, 2))

    def time_gradient(self, name, threads):
        self.call()
