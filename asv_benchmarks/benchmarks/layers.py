"""Times of conv and conv_transpose. Commits are best compared on one thread."""

from .layer_workloads import layers
from .timed import Timed, named


class Forward(Timed):
    works = named(work for work in layers() if work.function != "conv_vjp" and work.group != "memory")
    params = (list(works), (1, 2))

    def time_forward(self, name, threads):
        self.call()
