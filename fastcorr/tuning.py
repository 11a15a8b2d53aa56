"""The planner's constants, each with its story. Times in seconds.

All were measured on two cores of a Zen 4 server (AVX-512, gcc 12.2, 2026-11), shared and noisy: ratios count.
"""

# Multiply-adds per second of one thread in the tile, per element and level (asv_benchmarks/compare.py --group
# incache, k = 9). Used for estimates; a factor of two either way is harmless.
RATE = {
    "float32": {"baseline": 1.1e10, "x86_64_v3": 4.5e10, "x86_64_v4": 5.0e10},
    "float64": {"baseline": 5.5e9, "x86_64_v3": 2.2e10, "x86_64_v4": 2.5e10},
    "int32": {"baseline": 2.5e9, "x86_64_v3": 1.5e10, "x86_64_v4": 2.5e10},
    "int64": {"baseline": 1.5e9, "x86_64_v3": 4.0e9, "x86_64_v4": 1.2e10},
}

# Each output, whatever the kernel: reading, writing, partial sums (1-tap kernels, data in the L2 cache).
OUTPUT = 3e-10

# A call: arguments, allocation of the result, packing.
CALL = 1e-6

# One pass of the definition per tap: NumPy calls, and temporaries per output. Far from the compiled loops everywhere.
REFERENCE_CALL = 2e-5
REFERENCE_TAP = 5e-9

# Below this estimate a call stays on one thread. Waking a sleeping pool costs 5-50 us, and a busy neighbour makes a
# small parallel call far slower in its worst cases; between 50 and 200 us the mean hardly moves.
SERIAL = 1e-4

# Groups of one channel from which on lanes are groups (kernels/depth.pyx), by result. With 8 groups kernels/dense.pyx
# makes y and x in 0.6 to 1.7 times the time, with 16 in 1 to 2.4; with 4 kernels/weights.pyx takes 3.5 times as long.
DEPTHWISE = {"y": 16, "x": 16, "w": 4}

# Bytes of a vector.
VECTOR_BYTES = {"baseline": 16, "x86_64_v3": 32, "x86_64_v4": 64}

# The direct method, per element and level, in seconds: per output; per multiply-add of whole vectors, and more where
# there is one axis only; per tap of each line of outputs; per line of x met; per sample gathered for a stride; per
# sample past the ends of x that a boundary rule finds; per tap of the kernel (Direct.work of planner.py). Measured by
# asv_benchmarks/calibrate.py in its sweep, noise 0.2 %; estimates are off by 10 % typically. A quarter off, "product"
# adds 4 to 20 % to that, the others 0 to 3.
# calibrate.py: begin
DIRECT = {
    "float32": {
        "baseline": {
            "output": 1.23e-10,
            "product": 6.25e-11,
            "alone": 0.00e00,
            "tap of line": 1.89e-10,
            "line": 1.15e-08,
            "gathered": 3.29e-10,
            "outside": 2.98e-09,
            "tap": 6.90e-09,
        },
        "x86_64_v3": {
            "output": 1.71e-10,
            "product": 2.26e-11,
            "alone": 2.72e-12,
            "tap of line": 2.68e-10,
            "line": 1.17e-08,
            "gathered": 1.84e-10,
            "outside": 2.26e-09,
            "tap": 7.40e-09,
        },
        "x86_64_v4": {
            "output": 1.39e-10,
            "product": 2.05e-11,
            "alone": 1.35e-12,
            "tap of line": 1.06e-10,
            "line": 1.29e-08,
            "gathered": 1.74e-10,
            "outside": 2.43e-09,
            "tap": 1.20e-08,
        },
    },
    "float64": {
        "baseline": {
            "output": 1.59e-10,
            "product": 1.32e-10,
            "alone": 0.00e00,
            "tap of line": 3.04e-10,
            "line": 1.40e-08,
            "gathered": 3.03e-10,
            "outside": 0.00e00,
            "tap": 6.26e-09,
        },
        "x86_64_v3": {
            "output": 2.03e-10,
            "product": 4.41e-11,
            "alone": 2.25e-11,
            "tap of line": 1.49e-10,
            "line": 2.11e-08,
            "gathered": 3.36e-10,
            "outside": 1.72e-09,
            "tap": 7.18e-09,
        },
        "x86_64_v4": {
            "output": 1.59e-10,
            "product": 3.94e-11,
            "alone": 2.37e-11,
            "tap of line": 1.64e-10,
            "line": 1.73e-08,
            "gathered": 2.93e-10,
            "outside": 2.33e-09,
            "tap": 6.84e-09,
        },
    },
}
# calibrate.py: end
DIRECT |= {
    element: {level: {"output": OUTPUT, "product": 1 / rate} for level, rate in RATE[element].items()}
    for element in ("int32", "int64")
}

# Kernels of fewer taps are left to the direct method, whose sums of whole numbers in floats are exact. In one call in
# thirty the transform would be faster, by a third.
SPECTRUM_TAPS = 32

# Overlap-save, per element and level: levels of butterflies per second that a point passes through, there or back
# (Transform.run of kernels/spectrum.pyx; 5 flop each, 64 to 512 points per axis and 2e5 to 4e6 in a row), by where a
# tile and the spectrum lie: in the L2 cache, in the L3 cache, beyond. `bytes` is what these hold. Then seconds of
# bringing samples in or out per point, row and tile. Tiles within a third of the best size cost less than 5 % more; the
# machine itself changes its pace by half. The rates are those of the sweep of calibrate.py.
# calibrate.py: begin
SPECTRUM_LEVELS = {
    "float32": {
        "baseline": 8.24e09,
        "x86_64_v3": 1.69e10,
        "x86_64_v4": 2.03e10,
    },
    "float64": {
        "baseline": 3.92e09,
        "x86_64_v3": 7.48e09,
        "x86_64_v4": 1.06e10,
    },
}
# calibrate.py: end
SPECTRUM = {
    element: {
        level: {
            "levels": [rate, 0.9 * rate, 0.5 * rate],
            "bytes": [1 << 20, 24 << 20],
            "point": 1.5e-10,
            "row": 4e-8,
            "tile": 1e-6,
        }
        for level, rate in levels.items()
    }
    for element, levels in SPECTRUM_LEVELS.items()
}

# A product of two tiles, in terms of one tile there and back (kernels/frequency.pyx). It decides how large tiles are
# where channels are many. Not calibrated: with it the choice between direct and fft was right, or wrong by 13 %, in 15
# layers of 1 to 128 channels with all three results (x86_64_v3, idle, 2026-11-25).
FREQUENCY_PRODUCT = 0.1

# Axis by axis, beside what its products and samples take with the direct method's constants: seconds per line that is
# made or gathered, per sample that does not lie beside the next one, in or out, per call, and per tap looked at for its
# factors. Set by hand on a busy machine (x86_64_v3): from 512 x 512 under kernels of 5 x 5 to 31 x 31, two and three
# axes, estimates within a factor of two.
SEPARABLE = {"line": 4e-8, "apart": 6e-10, "call": 3e-6, "tap": 5e-9}

# More terms are not looked for.
SEPARABLE_TERMS = 4

# Samples under the kernel: the ring has so many rows, of at least 64 lanes, and lines of other axes are so long.
SEPARABLE_SPAN = {"row": 500, "lane": 2000}

# Winograd's layers, in multiply-adds at RATE: one of them; a tile of an image to its points; the points of an output
# channel to a tile; a kernel to its points. From shares of samples of `perf record` within calls with 64 channels 56^2,
# 256 14^2 and 512 7^2, then all less so that the direct method's time over this one's is estimated at 0.75 to 1 of what
# it is for 16 to 512 channels on 4^2 to 112^2 (Zen 3 under load, x86_64_v3, gcc 12.2, 2026-11). A quarter more or less
# moves the least number of channels for which `auto` takes the method, 17, by 4; there the two are within 10 %.
WINOGRAD = {"product": 0.9, "image": 225.0, "row": 140.0, "kernel": 90.0}
