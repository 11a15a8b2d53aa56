"""One kernel on one plane by overlap-save: the same map as plane.pyx, in O(n log n).

ALGORITHM   x is cut into overlapping blocks of N samples per axis, each a tile: transform, multiply by the spectrum
            of the kernel, transform back; N - span + 1 outputs per axis are free of wrap-around and kept.

                corr(a + ib, k) = corr(a, k) + i corr(b, k) for a real kernel k

            so two blocks of one batch entry, or the two parts of complex data, are the real and the imaginary plane of
            one complex tile, and no transform of real data is needed. Under a complex kernel a tile is one block.

SCHEDULE    A tile is a re plane and an im plane. Along all axes but the last a butterfly takes whole vectors of
            neighbouring columns. The last axis has m * LANES points: m along vectors, the same butterflies with one
            column, then LANES across the lanes, by a transpose in registers. Frequencies stay where the butterflies
            leave them (the kernel's do so too); decimation in frequency there, in time back. Each axis is done for
            one range of columns or one block at a time, so that all its passes but the first find it in the cache,
            and the last axis goes there, times the spectrum, and back in one go.
            Units (two blocks, or one) run in parallel; of few large tiles, the parts of each do.

NUMERICS    Error < eps log2(N) max|x| sum|k|, N the points of a tile (docs/numerics.md). Tiles and which blocks share
            one follow from the shapes of one batch entry, so results are the same for every number of threads and
            every batch. An Inf or a NaN spreads over the outputs of its tile, and so may what overflows on the way:
            sums and products never make that finite again, so a look at the outputs finds every such tile.

CALLER MUST give x and y canonical (batch axes, then kernel axes), k as C-contiguous samples, and a y that is aligned,
            native and does not overlap x or k.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport parallel, prange, threadid
from libc.math cimport cos, log2, sin
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memset
cimport numpy as cnp

import numpy as np

from .butterfly cimport LANES_EACH, MAX_RADIX, NO_TURN, ONE_EACH, across_lanes, butterflies, turn_lanes
from .line cimport CONSTANT, Format, extend, format_of, gather, load, store, store_pairs
from .tile cimport LANES, local_vec, real, vec_load, vec_zero

cdef extern from "simd.h":
    void prefetch(const char* p, Py_ssize_t bytes) noexcept nogil
    void prefetch_to_write(char* p, Py_ssize_t bytes) noexcept nogil

cnp.import_array()

cdef enum:
    MAX_AXES = 64       # numpy's limit
    MAX_STAGES = 40
    LINE = 64           # bytes of a cache line
    MANY_ROOTS = 4096   # more roots of unity than this are products of two
    AHEAD = 4           # rows of x and y are asked for before their turn: too short for the hardware to see it come
    NEAR = 16           # bytes between samples of a row, at most, for that
    SHARES = 64         # of a step of one large tile
    THIN = 256          # outputs at a time that a stride is taken from

cdef Py_ssize_t COLUMN_BYTES = 24 << 10    # of one range of columns, both planes: in a 32 kB L1
cdef Py_ssize_t LEAF_BYTES = 16 << 10      # of a block of a long last axis that goes there and back in one go
cdef Py_ssize_t STEPS_FROM = 1 << 20       # reals of a tile whose steps may run in parallel: 2 ms of work and more
cdef double SLAB_SECONDS = 0.01            # between two looks at Ctrl-C


# --- the transform of one axis ----------------------------------------------------------------------------------------


cdef struct Line:
    Py_ssize_t n                           # points; of the last axis vectors
    int stages
    int radix[MAX_STAGES]
    Py_ssize_t block[MAX_STAGES + 1]       # points of a block at each stage; 1 after the last
    const real* turns[MAX_STAGES]          # between this stage and the next


cdef Py_ssize_t factor(Py_ssize_t n, Line* line) noexcept:
    """Stages of a line of `n` points, what is no multiple of a vector first. The part of n that has no radix."""
    cdef Py_ssize_t size = n, twos = 0, left = n
    cdef int radix
    line.n, line.stages = n, 0
    while left % 2 == 0:
        left //= 2
        twos += 1
    for radix in (5, 3):
        while left % radix == 0:
            left //= radix
            line.radix[line.stages] = radix
            line.stages += 1
    while twos > 0:
        # Eights at the end, as many as can be: 16 is 4 * 4 and 2 only 2.
        radix = 8 if MAX_RADIX >= 8 and (twos % 3 == 0 or twos >= 5) else 4 if twos > 1 else 2
        if MAX_RADIX >= 8 and twos % 3:
            radix = 4 if twos > 1 else 2
        twos -= 3 if radix == 8 else 2 if radix == 4 else 1
        line.radix[line.stages] = radix
        line.stages += 1
    for radix in range(line.stages):
        line.block[radix] = size
        size //= line.radix[radix]
    line.block[line.stages] = 1
    return left


cdef inline void stages(
    const Line* line, int stage, bint forward, int last, real* re, real* im, Py_ssize_t size, Py_ssize_t step,
    Py_ssize_t columns,
) noexcept nogil:
    """One stage of all its blocks within `size` points; `last` is how the last one turns."""
    cdef Py_ssize_t count = line.block[stage + 1]
    butterflies(
        line.radix[stage], forward, last if stage == line.stages - 1 else ONE_EACH, re, im, size // line.block[stage],
        count, step, count * step, columns, line.turns[stage],
    )


cdef void forward_columns(
    const Line* line, int stage, real* re, real* im, Py_ssize_t step, Py_ssize_t columns
) noexcept nogil:
    """Columns of `line`, from one block of `stage` on."""
    cdef Py_ssize_t size = line.block[stage], part
    cdef int s
    if size * columns * LANES * 2 * <Py_ssize_t>sizeof(real) <= COLUMN_BYTES or stage >= line.stages - 2:
        for s in range(stage, line.stages):
            stages(line, s, True, NO_TURN, re, im, size, step, columns)
        return
    part = line.block[stage + 1] * step
    stages(line, stage, True, NO_TURN, re, im, size, step, columns)
    for s in range(line.radix[stage]):
        forward_columns(line, stage + 1, re + s * part, im + s * part, step, columns)


cdef void inverse_columns(
    const Line* line, int stage, real* re, real* im, Py_ssize_t step, Py_ssize_t columns
) noexcept nogil:
    """Back again, for exchanged parts: `re` is the imaginary one."""
    cdef Py_ssize_t size = line.block[stage], part
    cdef int s
    if size * columns * LANES * 2 * <Py_ssize_t>sizeof(real) <= COLUMN_BYTES or stage >= line.stages - 2:
        for s in range(line.stages - 1, stage - 1, -1):
            stages(line, s, False, NO_TURN, re, im, size, step, columns)
        return
    part = line.block[stage + 1] * step
    for s in range(line.radix[stage]):
        inverse_columns(line, stage + 1, re + s * part, im + s * part, step, columns)
    stages(line, stage, False, NO_TURN, re, im, size, step, columns)


# --- the transform of a tile ------------------------------------------------------------------------------------------


cdef struct Tile:
    int rank
    Line axis[MAX_AXES]
    Py_ssize_t n[MAX_AXES]                 # points
    Py_ssize_t step[MAX_AXES]              # reals from one index to the next
    Py_ssize_t plane                       # reals of one plane; the im plane follows it
    Py_ssize_t together                    # rows whose vectors make whole groups of LANES
    int leaf                               # stage of the last axis from which a block is done in one go
    const real* leaf_turns                 # what each block of that stage is turned by, per lane; NULL: nothing
    const Py_ssize_t* at                   # of the vectors of one leaf, from the first


cdef void leaf(
    const Tile* t, real* re, real* im, const real* kre, const real* kim, Py_ssize_t index
) noexcept nogil:
    """Block `index` of the last axis, or some whole rows: there, times the spectrum, and back, or just there."""
    cdef const Line* line = &t.axis[t.rank - 1]
    cdef Py_ssize_t size = line.block[t.leaf], row, pitch = t.step[t.rank - 2] if t.rank > 1 else t.plane
    cdef const real* turn = NULL
    cdef int s
    if t.rank == 1:
        pitch = t.n[0]
    for row in range(t.together):
        for s in range(t.leaf, line.stages):
            stages(line, s, True, LANES_EACH, re + row * pitch, im + row * pitch, size, LANES, 1)
    if t.leaf_turns != NULL:
        turn = t.leaf_turns + 2 * LANES * index
        turn_lanes(re, im, size, turn)
    across_lanes(re, im, t.at, t.together * size // LANES, kre, kim)
    if kre == NULL:
        return
    if turn != NULL:
        turn_lanes(im, re, size, turn)
    for row in range(t.together):
        for s in range(line.stages - 1, t.leaf - 1, -1):
            stages(line, s, False, LANES_EACH, im + row * pitch, re + row * pitch, size, LANES, 1)


cdef void row_block(
    const Tile* t, int stage, real* re, real* im, const real* kre, const real* kim, Py_ssize_t index
) noexcept nogil:
    """Block `index` of `stage` of the last axis: there, times the spectrum, and back."""
    cdef const Line* line = &t.axis[t.rank - 1]
    cdef Py_ssize_t part = line.block[stage + 1] * LANES
    cdef int radix = line.radix[stage], s
    if stage == t.leaf:
        leaf(t, re, im, kre, kim, index)
        return
    stages(line, stage, True, LANES_EACH, re, im, line.block[stage], LANES, 1)
    for s in range(radix):
        row_block(
            t, stage + 1, re + s * part, im + s * part, kre if kre == NULL else kre + s * part,
            kim if kim == NULL else kim + s * part, index * radix + s,
        )
    if kre != NULL:
        stages(line, stage, False, LANES_EACH, im, re, line.block[stage], LANES, 1)


cdef inline Py_ssize_t column_ranges(const Tile* t, int axis) noexcept nogil:
    """Ranges of columns that an axis is done in."""
    cdef Py_ssize_t columns = t.step[axis] // LANES, width
    width = max(1, COLUMN_BYTES // (t.n[axis] * LANES * 2 * <Py_ssize_t>sizeof(real)))
    return (columns + width - 1) // width


cdef void columns_of(
    const Tile* t, int axis, bint forward, real* re, real* im, Py_ssize_t range_, Py_ssize_t ranges
) noexcept nogil:
    """One range of the columns of one index of the axes before."""
    cdef Py_ssize_t columns = t.step[axis] // LANES, begin, end
    begin = columns * range_ // ranges
    end = columns * (range_ + 1) // ranges
    if forward:
        forward_columns(&t.axis[axis], 0, re + begin * LANES, im + begin * LANES, t.step[axis], end - begin)
    else:
        inverse_columns(&t.axis[axis], 0, im + begin * LANES, re + begin * LANES, t.step[axis], end - begin)


cdef inline int split_stages(const Tile* t) noexcept nogil:
    """Stages of a single axis that are done for all of it before `inner`: few parts share badly, and keep Ctrl-C."""
    return min(t.leaf, 2)


cdef Py_ssize_t parts_of(const Tile* t, int axis) noexcept nogil:
    """How many parts `inner` has: blocks of a single axis, groups of rows, or all that is behind one index."""
    if t.rank == 1:
        return t.n[0] // LANES // t.axis[0].block[split_stages(t)]
    if axis == t.rank - 2:
        return (t.n[axis] + t.together - 1) // t.together
    return t.n[axis]


cdef void inner(
    const Tile* t, int axis, real* re, real* im, const real* kre, const real* kim, Py_ssize_t part
) noexcept nogil:
    """All of one part behind `axis`: there, times the spectrum, and back."""
    cdef Py_ssize_t at = part * t.step[axis]
    cdef int stage = 0
    if t.rank == 1:
        stage = split_stages(t)
        at = part * t.axis[0].block[stage] * LANES
    elif axis == t.rank - 2:
        at *= t.together
    re += at
    im += at
    if kre != NULL:
        kre += at
        kim += at
    if t.rank == 1 or axis == t.rank - 2:
        row_block(t, stage, re, im, kre, kim, part if stage else 0)
    else:
        behind(t, axis + 1, re, im, kre, kim)


cdef void behind(const Tile* t, int axis, real* re, real* im, const real* kre, const real* kim) noexcept nogil:
    """`axis` and all after it: there, times the spectrum, and back; without a spectrum just there."""
    cdef Py_ssize_t i, ranges
    if t.rank == 1:
        row_block(t, 0, re, im, kre, kim, 0)
        return
    ranges = column_ranges(t, axis)
    for i in range(ranges):
        columns_of(t, axis, True, re, im, i, ranges)
    for i in range(parts_of(t, axis)):
        inner(t, axis, re, im, kre, kim, i)
    for i in range(ranges if kre != NULL else 0):
        columns_of(t, axis, False, re, im, i, ranges)


cdef void root_of_unity(Py_ssize_t n, Py_ssize_t j, double* re, double* im) noexcept:
    """exp(-2 pi i j / n) for j < n, from the first octant: exact symmetry, small arguments."""
    cdef Py_ssize_t k = j if 2 * j <= n else n - j
    cdef bint left = 4 * k > n
    cdef double angle, c, s
    if left:
        k = n - 2 * k  # half of it, so that it stays an integer
        angle = 3.14159265358979323846 * k / n
        if 4 * k > n:
            angle = 3.14159265358979323846 * (n - 2 * k) / (2 * n)
            c, s = sin(angle), cos(angle)
        else:
            c, s = cos(angle), sin(angle)
        c = -c
    elif 8 * k > n:
        angle = 3.14159265358979323846 * (n - 4 * k) / (2 * n)
        c, s = sin(angle), cos(angle)
    else:
        angle = 2 * 3.14159265358979323846 * k / n
        c, s = cos(angle), sin(angle)
    re[0] = c
    im[0] = -s if 2 * j <= n else s


cdef struct Roots:                         # of unity; of many points as products of two, far cheaper than sines
    Py_ssize_t fine                        # of these, then coarse steps
    double* values


cdef int set_roots(Roots* roots, Py_ssize_t n) except -1:
    cdef Py_ssize_t j, coarse
    roots.fine = n
    while roots.fine > MANY_ROOTS and roots.fine * roots.fine > n:
        roots.fine = (roots.fine + 1) // 2
    coarse = (n + roots.fine - 1) // roots.fine
    roots.values = <double*>malloc(2 * (roots.fine + coarse) * sizeof(double))
    if roots.values == NULL:
        raise MemoryError()
    for j in range(roots.fine):
        root_of_unity(n, j, roots.values + 2 * j, roots.values + 2 * j + 1)
    cdef double* more = roots.values + 2 * roots.fine
    for j in range(coarse):
        root_of_unity(n, j * roots.fine, more + 2 * j, more + 2 * j + 1)
    return 0


cdef inline void put_root(const Roots* roots, Py_ssize_t j, real* re, real* im) noexcept:
    cdef const double* a = roots.values + 2 * (j % roots.fine)
    cdef const double* b = roots.values + 2 * (roots.fine + j // roots.fine)
    if j < roots.fine:
        re[0], im[0] = <real>a[0], <real>a[1]
    else:
        re[0], im[0] = <real>(a[0] * b[0] - a[1] * b[1]), <real>(a[0] * b[1] + a[1] * b[0])


cdef Py_ssize_t frequency(const Line* line, int stage, Py_ssize_t at) noexcept:
    """Of what stages from `stage` on leave at position `at` of a block of it."""
    cdef Py_ssize_t found = 0, weight = 1
    cdef int s
    for s in range(stage, line.stages):
        found += at // line.block[s + 1] * weight
        at %= line.block[s + 1]
        weight *= line.radix[s]
    return found


cdef class Transform:
    """The discrete Fourier transform of tiles of one shape, frequencies in an order of its own."""

    cdef Tile tile
    cdef void* memory
    cdef readonly tuple shape

    def __cinit__(self, shape):
        cdef Tile* t = &self.tile
        cdef Py_ssize_t n, m, size
        cdef int axis
        self.shape = tuple(shape)
        t.rank = len(self.shape)
        for axis in range(t.rank):
            n = self.shape[axis]
            t.n[axis] = n
            if n < 1 or axis == t.rank - 1 and n % LANES:
                raise ValueError(f"axis {axis} has {n} points")
            if factor(n // LANES if axis == t.rank - 1 else n, &t.axis[axis]) > 1:
                raise ValueError(f"axis {axis} has {n} points, which has prime factors above 5")
        cdef Line* line = &t.axis[t.rank - 1]
        m = line.n
        # Steps of an odd number of cache lines, so that columns do not fall on each other in the cache.
        size = m * LANES
        t.together = 1
        while t.together * m % LANES:
            t.together *= 2
        if t.rank > 1:
            if m >= 8 and size * <Py_ssize_t>sizeof(real) % (2 * LINE) == 0:
                size += LINE // <Py_ssize_t>sizeof(real)
            size = (size + LANES - 1) // LANES * LANES
        for axis in range(t.rank - 1, -1, -1):
            t.step[axis] = 1 if axis == t.rank - 1 else size
            if axis < t.rank - 1:
                n = t.n[axis]
                if axis == t.rank - 2:
                    n = (n + t.together - 1) // t.together * t.together
                size *= n
                if axis > 0 and size * <Py_ssize_t>sizeof(real) % (2 * LINE) == 0:
                    size += max(LANES, LINE // <Py_ssize_t>sizeof(real))
        if t.rank == 1:
            size *= t.together
        t.plane = size + 5 * max(LANES, LINE // <Py_ssize_t>sizeof(real))  # the planes apart in the cache too
        self.leaf_of(line, m)
        self.tables()

    cdef leaf_of(self, Line* line, Py_ssize_t m):
        # Down to blocks that fit the cache, as long as these are whole groups of vectors.
        cdef Tile* t = &self.tile
        t.leaf = 0
        while (
            t.together == 1 and t.leaf < line.stages - 1 and line.block[t.leaf + 1] % LANES == 0
            and line.block[t.leaf] * LANES * 2 * <Py_ssize_t>sizeof(real) > LEAF_BYTES
        ):
            t.leaf += 1

    cdef tables(self):
        cdef Tile* t = &self.tile
        cdef Line* line = NULL
        cdef Py_ssize_t reals = 0, m, i, j, k, lane, block, pitch, ats
        cdef int axis, stage
        cdef Roots roots
        for axis in range(t.rank):
            line = &t.axis[axis]
            for stage in range(line.stages - 1):
                reals += 2 * (line.radix[stage] - 1) * line.block[stage + 1]
        m = line.n
        block = line.block[t.leaf]
        ats = t.together * block
        reals += 2 * LANES * block + (2 * LANES * (m // block) if t.leaf else 0)
        self.memory = malloc(reals * sizeof(real) + ats * sizeof(Py_ssize_t))
        if self.memory == NULL:
            raise MemoryError()
        cdef Py_ssize_t* at = <Py_ssize_t*>self.memory
        cdef real* w = <real*>(at + ats)
        t.at = at
        pitch = t.step[t.rank - 2] if t.rank > 1 else m * LANES
        for i in range(ats):
            at[i] = i // block * pitch + i % block * LANES
        for axis in range(t.rank):
            line = &t.axis[axis]
            for stage in range(line.stages - 1):
                line.turns[stage] = w
                set_roots(&roots, line.block[stage])
                for j in range(line.block[stage + 1]):
                    for k in range(1, line.radix[stage]):
                        put_root(&roots, j * k, w, w + 1)
                        w += 2
                free(roots.values)
        # Across the lanes: the frequency of a vector of a row is that of its block and that inside of it.
        set_roots(&roots, m * LANES)
        if line.stages:
            line.turns[line.stages - 1] = w
        for i in range(block if line.stages else 0):
            j = frequency(line, t.leaf, i) * (m // block)
            for lane in range(LANES):
                put_root(&roots, j * lane, w + lane, w + LANES + lane)
            w += 2 * LANES
        t.leaf_turns = w if t.leaf else NULL
        for i in range(m // block if t.leaf else 0):
            j = frequency(line, 0, i * block)
            for lane in range(LANES):
                put_root(&roots, j * lane, w + lane, w + LANES + lane)
            w += 2 * LANES
        free(roots.values)

    def __dealloc__(self):
        free(self.memory)

    def planes(self, z=None):
        """Both planes of a tile, as two rows of reals, zero or with `z` in them."""
        raw = np.zeros(2 * self.tile.plane + LINE, np.float32 if sizeof(real) == 4 else np.float64)
        start = -raw.ctypes.data // raw.itemsize % (LINE // raw.itemsize)
        both = raw[start : start + 2 * self.tile.plane].reshape(2, -1)
        if z is not None:
            for plane, part in zip(both, (z.real, z.imag)):
                self.view(plane)[...] = part
        return both

    def view(self, plane):
        """The samples of a plane."""
        steps = [self.tile.step[axis] * plane.itemsize for axis in range(self.tile.rank)]
        return np.lib.stride_tricks.as_strided(plane, self.shape, steps)

    def run(self, cnp.ndarray both, cnp.ndarray spectrum=None, Py_ssize_t times=1):
        """`both` -> their spectrum, in place; with a spectrum, times it, and back, without 1 / points."""
        cdef real* re = <real*>cnp.PyArray_DATA(both)
        cdef const real* k = NULL
        cdef Py_ssize_t _again
        if spectrum is not None:
            k = <const real*>cnp.PyArray_DATA(spectrum)
        with nogil:
            for _again in range(times):
                behind(&self.tile, 0, re, re + self.tile.plane, k, k if k == NULL else k + self.tile.plane)


# --- samples in and out -----------------------------------------------------------------------------------------------


cdef struct Axis:
    Py_ssize_t n, m, k, s, d, lo           # samples, outputs, taps, stride, dilation, low padding
    int rule
    Py_ssize_t tap                         # kernel samples from one tap to the next
    Py_ssize_t x, y                        # bytes from one sample to the next
    Py_ssize_t outputs, blocks             # per block; blocks


cdef struct Batch:
    Py_ssize_t n
    bint own                               # one kernel for each entry
    Py_ssize_t x, y


cdef struct Job:
    const Tile* tile
    Axis* axis                             # in the tile's order
    Batch* batch
    int nbatch
    bint pair                              # two blocks of real data are one tile
    int x_parts, parts                     # of a sample of x, of y
    Py_ssize_t xpart, ypart                # bytes from real to imaginary
    Py_ssize_t kernels, entries, blocks    # kernels; batch entries of each; blocks of each
    Py_ssize_t per_kernel, units           # tiles
    Format format
    int ytype
    real fill[2]
    const char* x
    char* y
    const char* k                          # kernel samples, or
    const real* spectra                    # those of all kernels
    Format kformat
    int k_parts
    bint flip, conj
    char* bad                              # set for each tile with an output that is not finite; NULL: nobody asks


cdef struct Block:                         # of one batch entry
    const char* x
    char* y
    Py_ssize_t start[MAX_AXES]             # first sample, before padding
    Py_ssize_t need[MAX_AXES]              # samples
    Py_ssize_t outputs[MAX_AXES]


cdef void find_block(const Job* job, Py_ssize_t kernel, Py_ssize_t index, Block* b) noexcept nogil:
    """Block `index` of those of `kernel`."""
    cdef const Axis* axis
    cdef Py_ssize_t at
    cdef int i
    b.x, b.y = job.x, job.y
    for i in range(job.tile.rank - 1, -1, -1):
        axis = &job.axis[i]
        at = index % axis.blocks
        index //= axis.blocks
        b.outputs[i] = min(axis.outputs, axis.m - at * axis.outputs)
        b.start[i] = at * axis.outputs * axis.s - axis.lo
        b.need[i] = (b.outputs[i] - 1) * axis.s + axis.d * (axis.k - 1) + 1
        b.y += at * axis.outputs * axis.y
    for i in range(job.nbatch - 1, -1, -1):
        if job.batch[i].own:
            at = kernel % job.batch[i].n
            kernel //= job.batch[i].n
        else:
            at = index % job.batch[i].n
            index //= job.batch[i].n
        b.x += at * job.batch[i].x
        b.y += at * job.batch[i].y


cdef void fetch(
    const Job* job, const Block* b, int axis, const char* x, real* to, Py_ssize_t begin, Py_ssize_t end, real fill
) noexcept nogil:
    """Samples `begin` to `end` along `axis`, all needed along those after it, to a plane; x is NULL outside.

    Zeros follow what is needed.
    """
    cdef const Axis* ax = &job.axis[axis]
    cdef Py_ssize_t step = job.tile.step[axis], middle = max(begin, min(end, b.need[axis])), i, u
    cdef Py_ssize_t ahead = 0
    if axis == job.tile.rank - 1:
        if x == NULL:
            for i in range(begin, middle):
                to[i] = fill
        elif begin < middle:
            gather(
                &job.format, x, to + begin, middle - begin, b.start[axis] + begin, 1, ax.n, ax.x, ax.rule, fill,
            )
        memset(to + middle, 0, (end - middle) * sizeof(real))
        return
    if axis == job.tile.rank - 2 and x != NULL and job.axis[axis + 1].x <= NEAR:
        ahead = AHEAD
    for i in range(begin, middle):
        if ahead:
            u = extend(b.start[axis] + i + ahead, ax.n, ax.rule)
            if u >= 0:
                prefetch(
                    x + u * ax.x + max(0, b.start[axis + 1]) * job.axis[axis + 1].x,
                    b.need[axis + 1] * job.axis[axis + 1].x,
                )
        u = -1
        if x != NULL:
            u = extend(b.start[axis] + i, ax.n, ax.rule)
        fetch(
            job, b, axis + 1, <const char*>NULL if u < 0 else x + u * ax.x, to + i * step, 0, job.tile.n[axis + 1], fill
        )
    memset(to + middle * step, 0, (end - middle) * step * sizeof(real))


cdef inline Py_ssize_t first_block(const Job* job, Py_ssize_t unit, bint* two) noexcept nogil:
    """Of a tile, among those of its kernel; `two`: the one after it, of the same batch entry, shares the tile."""
    cdef Py_ssize_t index = unit % job.per_kernel, per_entry = job.per_kernel // job.entries, within
    two[0] = False
    if not job.pair:
        return index
    within = 2 * (index % per_entry)
    two[0] = within + 1 < job.blocks
    return index // per_entry * job.blocks + within


cdef void fetch_unit(const Job* job, Py_ssize_t unit, real* re, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Both planes of a tile, indices `begin` to `end` of its first axis."""
    cdef bint two
    cdef Py_ssize_t kernel = unit // job.per_kernel, first = first_block(job, unit, &two)
    cdef real* im = re + job.tile.plane
    cdef Block b
    find_block(job, kernel, first, &b)
    fetch(job, &b, 0, b.x, re, begin, end, job.fill[0])
    if job.x_parts == 2:
        fetch(job, &b, 0, b.x + job.xpart, im, begin, end, job.fill[1])
    elif two:
        find_block(job, kernel, first + 1, &b)
        fetch(job, &b, 0, b.x, im, begin, end, job.fill[0])
    else:
        memset(im + begin * job.tile.step[0], 0, (end - begin) * job.tile.step[0] * sizeof(real))


cdef inline bint all_finite(const real* p, Py_ssize_t n) noexcept nogil:
    cdef local_vec a, sum = vec_zero()
    cdef real rest = 0
    cdef Py_ssize_t i
    for i in range(n // LANES):
        a = vec_load(p + i * LANES)
        sum = sum + (a - a)                # 0, or NaN
    for i in range(n // LANES * LANES, n):
        rest += p[i] - p[i]
    for i in range(LANES):
        rest += (<real*>&sum)[i]
    return rest == 0


cdef void deliver(
    const Job* job, const Block* b, int axis, const real* re, const real* im, char* y, Py_ssize_t begin,
    Py_ssize_t end, char* bad,
) noexcept nogil:
    """Outputs `begin` to `end` along `axis`, all along those after it; `im` is NULL for real ones.

    `bad`, unless NULL, becomes 1 if one of them is not finite.
    """
    cdef const Axis* ax = &job.axis[axis]
    cdef Py_ssize_t step = ax.s * job.tile.step[axis], _i, j, count
    cdef real thinned[2][THIN]
    cdef real* few = thinned[0]
    cdef real* few_im = thinned[1]
    y += begin * ax.y
    re += begin * step
    if im != NULL:
        im += begin * step
    if axis < job.tile.rank - 1:
        for _i in range(begin, end):
            if axis == job.tile.rank - 2 and job.axis[axis + 1].y <= NEAR:
                prefetch_to_write(y + AHEAD * ax.y, b.outputs[axis + 1] * job.axis[axis + 1].y)
            deliver(job, b, axis + 1, re, im, y, 0, b.outputs[axis + 1], bad)
            re += step
            if im != NULL:
                im += step
            y += ax.y
        return
    if bad != NULL and begin < end:
        count = (end - begin - 1) * ax.s + 1
        if not all_finite(re, count) or (im != NULL and not all_finite(im, count)):
            bad[0] = 1
    if ax.s == 1:
        deliver_line(job, ax, re, im, y, end - begin)
        return
    while begin < end:
        count = min(end - begin, THIN)
        for j in range(count):
            few[j] = re[j * ax.s]
        if im != NULL:
            for j in range(count):
                few_im[j] = im[j * ax.s]
            im += count * step
        deliver_line(job, ax, few, im if im == NULL else few_im, y, count)
        begin += count
        y += count * ax.y
        re += count * step


cdef inline void deliver_line(
    const Job* job, const Axis* ax, const real* re, const real* im, char* y, Py_ssize_t count
) noexcept nogil:
    if im == NULL:
        store(job.ytype, re, y, count, ax.y)
    elif ax.y == 2 * job.ypart:
        store_pairs(job.ytype, re, im, y, count)
    else:
        store(job.ytype, re, y, count, ax.y)
        store(job.ytype, im, y + job.ypart, count, ax.y)


cdef void deliver_unit(
    const Job* job, Py_ssize_t unit, const real* re, Py_ssize_t begin, Py_ssize_t end
) noexcept nogil:
    """Outputs of a tile, `begin` to `end` along its first axis, where a block has so many."""
    cdef bint two
    cdef Py_ssize_t kernel = unit // job.per_kernel, first = first_block(job, unit, &two)
    cdef const real* im = re + job.tile.plane
    cdef char* bad = job.bad if job.bad == NULL else job.bad + unit
    cdef Block b
    find_block(job, kernel, first, &b)
    deliver(job, &b, 0, re, im if job.parts == 2 else <const real*>NULL, b.y, begin, min(end, b.outputs[0]), bad)
    if two:
        find_block(job, kernel, first + 1, &b)
        deliver(job, &b, 0, im, NULL, b.y, begin, min(end, b.outputs[0]), bad)


cdef void spread(
    const Job* job, int axis, const char* k, Py_ssize_t at, real* re, real scale, real* line
) noexcept nogil:
    """Taps into a plane, so that the circular convolution with it is the correlation: tap j at -d j, scaled."""
    cdef const Axis* ax = &job.axis[axis]
    cdef Py_ssize_t j, to, n = job.tile.n[axis]
    cdef int part
    for j in range(ax.k if axis < job.tile.rank - 1 else 0):
        to = 0 if j == 0 else n - ax.d * j
        spread(
            job, axis + 1, k, at + (ax.k - 1 - j if job.flip else j) * ax.tap, re + to * job.tile.step[axis], scale,
            line,
        )
    if axis < job.tile.rank - 1:
        return
    for part in range(job.k_parts):
        load(
            &job.kformat, k + (at * job.k_parts + part) * job.kformat.size, line, ax.k,
            ax.tap * job.k_parts * job.kformat.size,
        )
        if part and job.conj:
            scale = -scale
        for j in range(ax.k):
            to = 0 if j == 0 else n - ax.d * j
            re[part * job.tile.plane + to] = scale * line[ax.k - 1 - j if job.flip else j]


cdef Py_ssize_t taps_of(const Job* job) noexcept nogil:
    """Taps of one kernel."""
    cdef Py_ssize_t count = 1
    cdef int i
    for i in range(job.tile.rank):
        count *= job.axis[i].k
    return count


cdef int spread_kernel(const Job* job, Py_ssize_t kernel, real* re) noexcept nogil:
    """Kernel `kernel` into both planes of a tile of zeros, with the 1 / points of the way back; -1: memory is short."""
    cdef real* line = <real*>malloc(job.axis[job.tile.rank - 1].k * sizeof(real))
    cdef double scale = 1
    cdef int i
    if line == NULL:
        return -1
    for i in range(job.tile.rank):
        scale /= job.tile.n[i]
    spread(job, 0, job.k, kernel * taps_of(job), re, <real>scale, line)
    free(line)
    return 0


# --- units ------------------------------------------------------------------------------------------------------------


cdef struct Scratch:                       # of one thread
    real* planes
    real* spectrum                         # of kernel `kernel`, where each batch entry may have its own
    Py_ssize_t kernel


cdef void run_unit(const Job* job, Py_ssize_t unit, Scratch* s, int* failed) noexcept nogil:
    """One tile, from x to y."""
    cdef Py_ssize_t kernel = unit // job.per_kernel, plane = job.tile.plane
    cdef const real* spectrum
    if job.spectra != NULL:
        spectrum = job.spectra + 2 * plane * kernel
    else:
        spectrum = s.spectrum
        if s.kernel != kernel:
            s.kernel = kernel
            memset(s.spectrum, 0, 2 * plane * sizeof(real))
            if spread_kernel(job, kernel, s.spectrum) < 0:
                failed[0] = -1
                return
            behind(job.tile, 0, s.spectrum, s.spectrum + plane, NULL, NULL)
    fetch_unit(job, unit, s.planes, 0, job.tile.n[0])
    behind(job.tile, 0, s.planes, s.planes + plane, spectrum, spectrum + plane)
    deliver_unit(job, unit, s.planes, 0, job.axis[0].outputs)


cdef int run_units(const Job* job, Py_ssize_t begin, Py_ssize_t end, Scratch* scratch, int threads) noexcept nogil:
    """Units `begin` to `end`; -1 when memory is short."""
    cdef Py_ssize_t unit
    cdef int failed = 0
    cdef int* failure = &failed
    if threads == 1:
        for unit in range(begin, end):
            run_unit(job, unit, scratch, failure)
        return failed
    with parallel(num_threads=threads):
        for unit in prange(begin, end, schedule="dynamic", chunksize=1):
            run_unit(job, unit, scratch + threadid(), failure)
    return failed


cdef enum Step:  # of one large tile, whose items run in parallel
    CLEAR
    FETCH
    THERE
    THERE_AGAIN   # the second stage of a single axis
    INNER
    BACK_AGAIN
    BACK
    DELIVER


cdef Py_ssize_t step_items(const Job* job, Step step) noexcept nogil:
    cdef const Tile* t = job.tile
    if step == CLEAR:
        return SHARES
    if step == FETCH:
        return min(t.n[0], SHARES)
    if step == DELIVER:
        return min(job.axis[0].outputs, SHARES)
    if step == INNER:
        return parts_of(t, 0)
    if t.rank == 1 and (step == THERE or step == BACK):
        return 0 if split_stages(t) == 0 else SHARES
    if t.rank == 1:
        return 0 if split_stages(t) < 2 else t.axis[0].radix[0] * SHARES
    return column_ranges(t, 0) if step == THERE or step == BACK else 0


cdef void step_item(
    const Job* job, Step step, Py_ssize_t item, Py_ssize_t items, Py_ssize_t unit, real* re, const real* spectrum
) noexcept nogil:
    cdef const Tile* t = job.tile
    cdef real* im = re + t.plane
    cdef Py_ssize_t n = t.n[0] if step == FETCH else job.axis[0].outputs, first
    if step == CLEAR:
        first = 2 * t.plane * item // items
        memset(re + first, 0, (2 * t.plane * (item + 1) // items - first) * sizeof(real))
    elif step == FETCH:
        fetch_unit(job, unit, re, n * item // items, n * (item + 1) // items)
    elif step == DELIVER:
        deliver_unit(job, unit, re, n * item // items, n * (item + 1) // items)
    elif step == INNER:
        inner(t, 0, re, im, spectrum, spectrum if spectrum == NULL else spectrum + t.plane, item)
    elif t.rank > 1:
        columns_of(t, 0, step == THERE, re, im, item, items)
    elif step == THERE or step == THERE_AGAIN:
        share_of_stage(&t.axis[0], 0 if step == THERE else 1, True, re, im, item)
    else:
        share_of_stage(&t.axis[0], 0 if step == BACK else 1, False, im, re, item)


cdef void share_of_stage(const Line* line, int stage, bint forward, real* re, real* im, Py_ssize_t item) noexcept nogil:
    """One of SHARES of one of the blocks of a stage."""
    cdef Py_ssize_t count = line.block[stage + 1], share = item % SHARES, begin, end, at
    begin = count * share // SHARES
    end = count * (share + 1) // SHARES
    at = (item // SHARES * line.block[stage] + begin) * LANES
    butterflies(
        line.radix[stage], forward, ONE_EACH, re + at, im + at, 1, end - begin, LANES, count * LANES, 1,
        line.turns[stage] + 2 * (line.radix[stage] - 1) * begin,
    )


cdef void run_items(
    const Job* job, Step step, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t items, Py_ssize_t unit, real* re,
    const real* spectrum, int threads,
) noexcept nogil:
    cdef Py_ssize_t item
    if threads == 1:
        for item in range(begin, end):
            step_item(job, step, item, items, unit, re, spectrum)
    else:
        for item in prange(begin, end, schedule="dynamic", chunksize=1, num_threads=threads):
            step_item(job, step, item, items, unit, re, spectrum)


# --- block sizes ------------------------------------------------------------------------------------------------------


cdef cnp.ndarray _smooth = np.array(
    sorted(5**i * 3**j << e for i in range(18) for j in range(26) for e in range(41) if 5**i * 3**j << e <= 1 << 40),
    np.int64,
)


cdef Py_ssize_t smooth(Py_ssize_t n, Py_ssize_t of) noexcept:
    """The least multiple of `of` that is at least `n` and no more than radices times `of`."""
    cdef const cnp.int64_t* table = <const cnp.int64_t*>cnp.PyArray_DATA(_smooth)
    cdef Py_ssize_t low = 0, high = cnp.PyArray_SIZE(_smooth) - 1, middle
    n = (n + of - 1) // of
    while low < high:
        middle = (low + high) // 2
        if table[middle] >= n:
            high = middle
        else:
            low = middle + 1
    return table[low] * of


@cython.wraparound(True)
def lane_axis(size):
    """The kernel axis along the vectors of a tile: the last, unless it is so short that most lanes would be empty."""
    last = len(size) - 1
    longest = max(range(last + 1), key=lambda i: (size[i], i))
    return longest if size[last] < LANES < size[longest] else last


cdef struct Rates:                         # see tuning.py
    double levels[3]                       # of a point, per second: tile and spectrum in the L2, the L3 cache, beyond
    double bytes[2]                        # that these caches hold
    double point, row, tile                # seconds each, of bringing in and out


cdef double levels_of(Py_ssize_t n, bint lanes) noexcept:
    """What the transform of an axis costs per point: log2 n, and more for small butterflies, which load as often."""
    cdef Line line
    cdef double levels = 0
    cdef int s
    factor(n // LANES if lanes else n, &line)
    for s in range(line.stages):
        levels += log2(line.radix[s]) + (0.3 if line.radix[s] % 2 == 0 else 0.8)
    if lanes and LANES > 1:
        levels += log2(LANES) + 1
    return levels


cdef double tile_seconds(const Rates* r, int rank, const Py_ssize_t* points, double levels, double* there) noexcept:
    """Of one tile, from x to y; `there` is the way there alone."""
    cdef double count = 1
    cdef int i
    for i in range(rank):
        count *= points[i]
    i = 0
    while i < 2 and 4 * count * sizeof(real) > r.bytes[i]:
        i += 1
    there[0] = count * levels / r.levels[i]
    return 2 * there[0] + r.tile + 2 * (r.point * count + r.row * count / points[rank - 1])


cdef enum:
    SIZES = 48          # tried per axis


def choose(problem, bint pair, rates):
    """(points of a tile per kernel axis, seconds of one, seconds of one batch entry); `rates` as in tuning.py.

    Neither the batch nor the number of threads has a say: results must not depend on them.
    """
    cdef Rates r
    cdef Py_ssize_t points[MAX_AXES][SIZES]
    cdef Py_ssize_t blocks[MAX_AXES][SIZES]
    cdef double levels[MAX_AXES][SIZES]
    cdef Py_ssize_t now[MAX_AXES]
    cdef int at[MAX_AXES]
    cdef int best_at[MAX_AXES]
    cdef int sizes[MAX_AXES]
    cdef Py_ssize_t count, outputs, n, m, s, span, multiple
    cdef int rank = problem.rank, i, j, lane, start, changed
    cdef double seconds, best, there, sum, least = -1, tile = 0
    if rank == 0:
        return (), 1e-6, 1e-6
    r.levels = rates["levels"]
    r.bytes = rates["bytes"]
    r.point, r.row, r.tile = rates["point"], rates["row"], rates["tile"]
    lane = lane_axis([o + k - 1 for o, k in zip(problem.out_size, problem.span)])
    for i in range(rank):
        m, s, span = max(1, problem.out_size[i]), problem.stride[i], problem.span[i]
        multiple = 1 if i != lane else LANES if rank > 1 else LANES * LANES
        sizes[i] = 0
        count = 1
        while sizes[i] < SIZES and count <= m:
            outputs = (m + count - 1) // count
            n = smooth(s * (outputs - 1) + span, multiple)
            outputs = min(m, (n - span) // s + 1)
            if sizes[i] == 0 or n < points[i][sizes[i] - 1]:
                points[i][sizes[i]] = n
                levels[i][sizes[i]] = levels_of(n, i == lane)
                blocks[i][sizes[i]] = (m + outputs - 1) // outputs
                sizes[i] += 1
            count = max(blocks[i][sizes[i] - 1] + 1, count + 1 + count // 4)
    # From the largest tiles, and from such as are four times the kernel, one axis after the other.
    for start in range(2):
        for i in range(rank):
            at[i] = 0
            while start and at[i] + 1 < sizes[i] and points[i][at[i]] > 4 * problem.span[i]:
                at[i] += 1
        best = -1
        changed = 1
        while changed:
            changed = 0
            for i in range(rank):
                for j in range(rank):
                    best_at[j] = at[j]
                for j in range(sizes[i]):
                    best_at[i] = j
                    count = 1
                    sum = 0
                    for n in range(rank):
                        sum += levels[n][best_at[n]]
                        now[n] = points[n][best_at[n]]
                        count *= blocks[n][best_at[n]]
                    n = now[lane]
                    now[lane] = now[rank - 1]
                    now[rank - 1] = n
                    seconds = tile_seconds(&r, rank, now, sum, &there)
                    if pair:
                        count = (count + 1) // 2
                    if best < 0 or count * seconds + there < best:
                        best = count * seconds + there
                        at[i] = j
                        changed = 1
                        if least < 0 or best < least:
                            least, tile = best, seconds
                            chosen = tuple([points[n][best_at[n]] for n in range(rank)])
    return chosen, tile, least


# --- the method -------------------------------------------------------------------------------------------------------


cdef Axis axis_of(Py_ssize_t n, Py_ssize_t m, Py_ssize_t k, Py_ssize_t s, Py_ssize_t d, Py_ssize_t lo, int rule):
    cdef Axis axis
    axis.n, axis.m, axis.k, axis.s, axis.d, axis.lo, axis.rule = n, m, k, s, d, lo, rule
    axis.tap = 1
    axis.x = axis.y = 0
    axis.outputs = axis.blocks = 1
    return axis


cdef class Spectrum:
    """Overlap-save for one Problem, in tiles of `points` per kernel axis (see `choose`).

    `rules` are the boundary codes per axis, `x_parts` and `k_parts` say whether the arrays are complex (2) or real
    (1), `seconds` is an estimate of the time of one tile that sets how often Ctrl-C is looked at. If `watched`, `run`
    says which tiles have outputs that are not finite.
    """

    cdef Job job
    cdef Transform transform
    cdef Axis axis[MAX_AXES]
    cdef int x_axis[MAX_AXES]              # the caller's axis behind each entry; -1: none
    cdef Batch batch[MAX_AXES]
    cdef int batch_axis[MAX_AXES]
    cdef double seconds
    cdef bint watched
    cdef readonly object element, points
    cdef object axes                       # of x, in the kernel's order

    def __cinit__(self, problem, element, rules, int x_parts, int k_parts, points, double seconds, bint watched=False):
        cdef Job* job = &self.job
        cdef int rank = problem.rank, i, t
        cdef Py_ssize_t tap = 1
        cdef Axis* axis
        self.element, self.points, self.seconds, self.watched = element, tuple(points), seconds, watched
        self.axes = problem.axes
        job.x_parts, job.k_parts = x_parts, k_parts
        job.parts = 2 if problem.dtype.kind == "c" else 1
        job.pair = job.parts == 1
        job.flip, job.conj = problem.flip, problem.conj
        fill = [problem.fill.real, problem.fill.imag] if job.parts == 2 else [problem.fill, 0]
        job.fill[0], job.fill[1] = fill
        if rank == 0:
            self.axis[0], self.x_axis[0] = axis_of(1, 1, 1, 1, 1, 0, CONSTANT), -1
            order, self.points = [0], (max(1, LANES) * LANES,)
        else:
            order = list(range(rank))
            order.append(order.pop(lane_axis([m + k - 1 for m, k in zip(problem.out_size, problem.span)])))
        self.transform = Transform([self.points[i] for i in order])
        job.blocks = 1
        for i in range(rank - 1, -1, -1):
            t = order.index(i)
            axis = &self.axis[t]
            axis[0] = axis_of(
                problem.size[i], problem.out_size[i], problem.kernel[i], problem.stride[i], problem.dilation[i],
                problem.padding[i][0], rules[i],
            )
            self.x_axis[t] = problem.axes[i]
            axis.tap = tap
            tap *= axis.k
            axis.outputs = max(1, min(axis.m, (self.transform.tile.n[t] - problem.span[i]) // axis.s + 1))
            axis.blocks = (axis.m + axis.outputs - 1) // axis.outputs
            job.blocks *= axis.blocks
        job.kernels = job.entries = 1
        for own, n, k in zip(problem.batch_axes, problem.batch_shape, problem.k_batch):
            self.batch_axis[job.nbatch] = own
            self.batch[job.nbatch].n = n
            self.batch[job.nbatch].own = k > 1
            job.nbatch += 1
            if k > 1:
                job.kernels *= n
            else:
                job.entries *= n
        job.per_kernel = job.entries * ((job.blocks + 1) // 2 if job.pair else job.blocks)
        job.units = job.kernels * job.per_kernel

    cdef int spectrum_of(self, Job* job, Py_ssize_t kernel, real* to, int threads) except -1:
        """The spectrum of one kernel, its steps in parallel."""
        cdef int failed
        self.run_steps(job, CLEAR, CLEAR, 0, to, NULL, threads)
        with nogil:
            failed = spread_kernel(job, kernel, to)
        if failed:
            raise MemoryError("no scratch memory for the kernel")
        self.run_steps(job, THERE, INNER, 0, to, NULL, threads)
        return 0

    cdef int run_steps(
        self, const Job* job, Step first, Step last, Py_ssize_t unit, real* re, const real* spectrum, int threads
    ) except -1:
        """Some steps of one tile, each in parallel."""
        cdef Py_ssize_t items, done, slab
        cdef Step step
        for step in range(first, last + 1):
            items = step_items(job, step)
            done = 0
            # A step takes about half of the time of the tile at most.
            slab = <Py_ssize_t>max(1., min(<double>items, SLAB_SECONDS * threads / (0.5 * self.seconds) * items))
            while done < items:
                with nogil:
                    run_items(job, step, done, min(items, done + slab), items, unit, re, spectrum, threads)
                done += slab
                PyErr_CheckSignals()
        return 0

    @property
    def tiles(self):
        return self.job.units

    def boxes(self, Py_ssize_t unit):
        """The one or two blocks of a tile: batch entry; first output and outputs per kernel axis."""
        cdef Job job = self.job
        cdef Block b
        cdef bint two
        cdef Py_ssize_t first, index, kernel, which, at
        cdef int i
        job.tile, job.axis, job.batch = &self.transform.tile, self.axis, self.batch
        first = first_block(&job, unit, &two)
        found = []
        for which in range(first, first + 1 + two):
            index, kernel = which, unit // job.per_kernel
            start, size, entry = {}, {}, {}
            find_block(&job, kernel, which, &b)
            for i in range(job.tile.rank - 1, -1, -1):
                at = index % job.axis[i].blocks
                index //= job.axis[i].blocks
                start[self.x_axis[i]], size[self.x_axis[i]] = at * job.axis[i].outputs, b.outputs[i]
            for i in range(job.nbatch - 1, -1, -1):
                at = job.batch[i].n
                if job.batch[i].own:
                    entry[i] = kernel % at
                    kernel //= at
                else:
                    entry[i] = index % at
                    index //= at
            found.append((
                tuple([entry[i] for i in range(job.nbatch)]), tuple([start[i] for i in self.axes]),
                tuple([size[i] for i in self.axes]),
            ))
        return found

    def pack(self, cnp.ndarray k not None, Py_ssize_t room=0):
        """The spectra of `k`, C-contiguous and canonical, for `run` again and again; `room` reals are left behind."""
        cdef Job job = self.job
        cdef Py_ssize_t kernel
        cdef real* to
        self.set_kernel(&job, k)
        raw = np.empty(2 * job.tile.plane * job.kernels + room + LINE, self.element)
        start = -raw.ctypes.data // raw.itemsize % (LINE // raw.itemsize)
        packed = raw[start : start + 2 * job.tile.plane * job.kernels + room]
        to = <real*>cnp.PyArray_DATA(packed)
        for kernel in range(job.kernels):
            self.spectrum_of(&job, kernel, to + 2 * job.tile.plane * kernel, 1)
        return packed

    cdef set_kernel(self, Job* job, cnp.ndarray k):
        job.tile, job.axis = &self.transform.tile, self.axis
        job.k = <const char*>cnp.PyArray_DATA(k)
        job.kformat = format_of(k)

    def run(
        self, cnp.ndarray x not None, cnp.ndarray k not None, cnp.ndarray y not None, int threads, bint packed,
        bint fresh,
    ):
        """y = the result for x and the kernel `k`, packed or C-contiguous and canonical.

        If watched, an array of the tiles with outputs that are not finite; None where there are none.
        """
        cdef Job job = self.job
        cdef Axis axis[MAX_AXES]
        cdef Batch batch[MAX_AXES]
        cdef const cnp.npy_intp* xs = cnp.PyArray_STRIDES(x)
        cdef const cnp.npy_intp* ys = cnp.PyArray_STRIDES(y)
        cdef const cnp.npy_intp* xn = cnp.PyArray_DIMS(x)
        cdef Py_ssize_t both = 2 * self.transform.tile.plane, done = 0, slab, units
        cdef bint by_steps, shared
        cdef int i, failed = 0, planes
        cdef Format f = format_of(y)
        if cnp.PyArray_SIZE(y) == 0:
            return None
        self.set_kernel(&job, k)
        job.axis, job.batch = axis, batch
        job.format, job.ytype = format_of(x), f.type
        job.xpart, job.ypart = job.format.size, f.size
        for i in range(job.tile.rank):
            axis[i] = self.axis[i]
            if self.x_axis[i] >= 0:
                axis[i].x, axis[i].y = xs[self.x_axis[i]], ys[self.x_axis[i]]
        for i in range(job.nbatch):
            batch[i] = self.batch[i]
            batch[i].x = 0 if xn[self.batch_axis[i]] == 1 else xs[self.batch_axis[i]]
            batch[i].y = ys[self.batch_axis[i]]
        job.x = <const char*>cnp.PyArray_DATA(x)
        job.y = <char*>cnp.PyArray_DATA(y)
        job.spectra = <const real*>cnp.PyArray_DATA(k) if packed else NULL

        # Large tiles, so few that a quarter of the threads would idle, or that keep Ctrl-C waiting: the steps of
        # each in parallel. Else each thread has its own: a busy neighbour makes the wait at the end of a step long.
        units = (job.units + threads - 1) // threads * threads
        by_steps = self.seconds > 2 * SLAB_SECONDS or (both >= STEPS_FROM and 4 * job.units < 3 * units)
        if not by_steps:
            threads = <int>min(threads, job.units)
        shared = not packed and (job.kernels == 1 or by_steps)
        planes = 1 if by_steps else threads
        cdef size_t each = both * sizeof(real)
        cdef Py_ssize_t spectra = 0 if packed else 1 if shared else planes
        cdef size_t size = (planes + spectra) * each + planes * sizeof(Scratch) + LINE
        cdef char* block = <char*>calloc(size + (job.units if self.watched else 0), 1)
        if block == NULL:
            raise MemoryError("no scratch memory for the tiles")
        cdef real* reals = <real*>((<size_t>block + LINE - 1) // LINE * LINE)
        cdef Scratch* scratch = <Scratch*>(reals + (planes + spectra) * both)
        cdef real* spectrum = reals + planes * both
        job.bad = block + size if self.watched else NULL
        try:
            for i in range(planes):
                scratch[i].planes = reals + i * both
                scratch[i].spectrum = spectrum if shared else spectrum + i * both
                scratch[i].kernel = -1
            if by_steps:
                for done in range(job.units):
                    if not packed and scratch.kernel != done // job.per_kernel:
                        scratch.kernel = done // job.per_kernel
                        self.spectrum_of(&job, scratch.kernel, spectrum, threads)
                    self.run_steps(
                        &job, FETCH, DELIVER, done, reals,
                        job.spectra + both * (done // job.per_kernel) if packed else spectrum, threads,
                    )
                return self.bad_tiles(&job)
            if shared:
                self.spectrum_of(&job, 0, spectrum, threads if both >= STEPS_FROM else 1)
                job.spectra = spectrum
            slab = <Py_ssize_t>max(1., min(<double>job.units, SLAB_SECONDS * threads / self.seconds))
            slab = (slab + threads - 1) // threads * threads
            while done < job.units and not failed:
                with nogil:
                    failed = run_units(&job, done, min(job.units, done + slab), scratch, threads)
                done += slab
                PyErr_CheckSignals()
            if failed:
                raise MemoryError("no scratch memory for the kernel")
            return self.bad_tiles(&job)
        finally:
            free(block)

    cdef bad_tiles(self, const Job* job):
        if job.bad == NULL or memchr(job.bad, 1, job.units) == NULL:
            return None
        return np.flatnonzero(np.frombuffer(job.bad[:job.units], np.uint8))
