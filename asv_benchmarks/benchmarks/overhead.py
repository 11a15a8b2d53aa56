"""What a call costs before its first product, and what `import fastcorr` does."""

import numpy as np

import fastcorr


class Small:
    """Work that takes no time: the rest is the way to it."""

    def setup(self):
        fastcorr.set_num_threads(1)
        self.x, self.k = np.ones(16), np.ones(3)
        self.picture, self.weights = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 3, 3), np.float32)
        self.g = fastcorr.conv(self.picture, self.weights)
        self.plan = fastcorr.plan(fastcorr.correlate, self.x, self.k)

    def time_correlate(self):
        fastcorr.correlate(self.x, self.k)

    def time_correlate_with_options(self):
        fastcorr.correlate(self.x, self.k, "same", boundary="reflect", stride=2)

    def time_plan(self):
        self.plan(self.x)

    def time_conv(self):
        fastcorr.conv(self.picture, self.weights)

    def time_conv_vjp(self):
        fastcorr.conv_vjp(self.g, self.picture, self.weights)


def timeraw_import():
    return "import fastcorr"
