"""The planner's constants, each with its story. Times in seconds.

All were measured on two cores of a Zen 4 server (AVX-512, gcc 12.2, 2026-11), shared and noisy: ratios count.
"""

# Multiply-adds per second of one thread in the tile, per element and level (asv_benchmarks/compare.py --group
# incache, k = 9). Used for estimates and for how often Ctrl-C is looked at; a factor of two either way is harmless.
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
