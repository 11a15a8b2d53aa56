"""What a call costs before its first product, and what `import fastcorr` does."""

import numpy as np

import fastcorr


class Small:
    """Work that takes no time: the rest is the way to it.

    `setup_cache`, not `setup`: with a setup asv times every call by itself, and the clock then takes part.
    """

    def setup_cache(self):
        x, k = np.ones(16), np.ones(3)
        picture, weights = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 3, 3), np.float32)
        g, plan = fastcorr.conv(picture, weights), fastcorr.plan(fastcorr.correlate, x, k)
        results = fastcorr.correlate(x, k), plan(x), g, fastcorr.conv_vjp(g, picture, weights)[1]
        for result, right in zip(results, (3, 3, 9, 36), strict=True):
            if (result != right).any():
                raise AssertionError(f"{result} instead of {right}")
        return x, k, picture, weights, g, plan

    def time_correlate(self, made):
        x, k, *_ = made
        fastcorr.correlate(x, k)

    def time_correlate_with_options(self, made):
        x, k, *_ = made
        fastcorr.correlate(x, k, "same", boundary="reflect", stride=2)

    def time_plan(self, made):
        x, *_, plan = made
        plan(x)

    def time_conv(self, made):
        _, _, picture, weights, *_ = made
        fastcorr.conv(picture, weights)

    def time_conv_vjp(self, made):
        _, _, picture, weights, g, _ = made
        fastcorr.conv_vjp(g, picture, weights)


def timeraw_import():
    return "import fastcorr"
