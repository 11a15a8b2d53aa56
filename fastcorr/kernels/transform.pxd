"""The discrete Fourier transform of tiles of one shape, frequencies in an order of its own.

A tile is a re plane and an im plane. Along all axes but the last a butterfly takes whole vectors of neighbouring
columns. The last axis has m * LANES points: m along vectors, the same butterflies with one column, then LANES across
the lanes, by a transpose in registers. Frequencies stay where the butterflies leave them: decimation in frequency
there, in time back. Each axis is done for one range of columns or one block at a time, so that all its passes but the
first find it in the cache, and the last axis goes there, times a spectrum, and back in one go.
"""

from libc.math cimport cos, sin
from libc.stdlib cimport free, malloc

from .butterfly cimport LANES_EACH, MAX_RADIX, NO_TURN, ONE_EACH, across_lanes, butterflies, turn_lanes
from .team cimport LINE
from .tile cimport LANES, real

cdef enum:
    MAX_AXES = 64       # numpy's limit
    MAX_STAGES = 40
    MANY_ROOTS = 4096   # more roots of unity than this are products of two
    COLUMN_BYTES = 24 << 10    # of one range of columns, both planes: in a 32 kB L1
    LEAF_BYTES = 16 << 10      # of a block of a long last axis that goes there and back in one go


# --- the transform of one axis ----------------------------------------------------------------------------------------


cdef enum Way:          # of a tile
    ONLY_THERE
    THERE_AND_BACK      # and times a spectrum in between
    ONLY_BACK


cdef struct Line:
    Py_ssize_t n                           # points; of the last axis vectors
    int stages
    int radix[MAX_STAGES]
    Py_ssize_t block[MAX_STAGES + 1]       # points of a block at each stage; 1 after the last
    const real* turns[MAX_STAGES]          # between this stage and the next


cdef inline Py_ssize_t factor(Py_ssize_t n, Line* line) noexcept:
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


cdef inline void forward_columns(
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


cdef inline void inverse_columns(
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
    void* memory                           # of all tables


cdef inline void leaf(
    const Tile* t, Way way, real* re, real* im, const real* kre, const real* kim, Py_ssize_t index
) noexcept nogil:
    """Block `index` of the last axis, or some whole rows."""
    cdef const Line* line = &t.axis[t.rank - 1]
    cdef Py_ssize_t size = line.block[t.leaf], row, pitch = t.step[t.rank - 2] if t.rank > 1 else t.plane
    cdef const real* turn = NULL
    cdef int s
    if t.rank == 1:
        pitch = t.n[0]
    for row in range(t.together if way != ONLY_BACK else 0):
        for s in range(t.leaf, line.stages):
            stages(line, s, True, LANES_EACH, re + row * pitch, im + row * pitch, size, LANES, 1)
    if t.leaf_turns != NULL:
        turn = t.leaf_turns + 2 * LANES * index
        if way != ONLY_BACK:
            turn_lanes(re, im, size, turn)
    across_lanes(way != ONLY_BACK, way != ONLY_THERE, re, im, t.at, t.together * size // LANES, kre, kim)
    if way == ONLY_THERE:
        return
    if turn != NULL:
        turn_lanes(im, re, size, turn)
    for row in range(t.together):
        for s in range(line.stages - 1, t.leaf - 1, -1):
            stages(line, s, False, LANES_EACH, im + row * pitch, re + row * pitch, size, LANES, 1)


cdef inline void row_block(
    const Tile* t, Way way, int stage, real* re, real* im, const real* kre, const real* kim, Py_ssize_t index
) noexcept nogil:
    """Block `index` of `stage` of the last axis."""
    cdef const Line* line = &t.axis[t.rank - 1]
    cdef Py_ssize_t part = line.block[stage + 1] * LANES
    cdef int radix = line.radix[stage], s
    if stage == t.leaf:
        leaf(t, way, re, im, kre, kim, index)
        return
    if way != ONLY_BACK:
        stages(line, stage, True, LANES_EACH, re, im, line.block[stage], LANES, 1)
    for s in range(radix):
        row_block(
            t, way, stage + 1, re + s * part, im + s * part, kre if kre == NULL else kre + s * part,
            kim if kim == NULL else kim + s * part, index * radix + s,
        )
    if way != ONLY_THERE:
        stages(line, stage, False, LANES_EACH, im, re, line.block[stage], LANES, 1)


cdef inline Py_ssize_t column_ranges(const Tile* t, int axis) noexcept nogil:
    """Ranges of columns that an axis is done in."""
    cdef Py_ssize_t columns = t.step[axis] // LANES, width
    width = max(1, COLUMN_BYTES // (t.n[axis] * LANES * 2 * <Py_ssize_t>sizeof(real)))
    return (columns + width - 1) // width


cdef inline void columns_of(
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


cdef inline Py_ssize_t parts_of(const Tile* t, int axis) noexcept nogil:
    """How many parts `inner` has: blocks of a single axis, groups of rows, or all that is behind one index."""
    if t.rank == 1:
        return t.n[0] // LANES // t.axis[0].block[split_stages(t)]
    if axis == t.rank - 2:
        return (t.n[axis] + t.together - 1) // t.together
    return t.n[axis]


cdef inline void inner(
    const Tile* t, Way way, int axis, real* re, real* im, const real* kre, const real* kim, Py_ssize_t part
) noexcept nogil:
    """All of one part behind `axis`."""
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
        row_block(t, way, stage, re, im, kre, kim, part if stage else 0)
    else:
        behind(t, way, axis + 1, re, im, kre, kim)


cdef inline void behind(
    const Tile* t, Way way, int axis, real* re, real* im, const real* kre, const real* kim
) noexcept nogil:
    """`axis` and all after it."""
    cdef Py_ssize_t i, ranges
    if t.rank == 1:
        row_block(t, way, 0, re, im, kre, kim, 0)
        return
    ranges = column_ranges(t, axis)
    for i in range(ranges if way != ONLY_BACK else 0):
        columns_of(t, axis, True, re, im, i, ranges)
    for i in range(parts_of(t, axis)):
        inner(t, way, axis, re, im, kre, kim, i)
    for i in range(ranges if way != ONLY_THERE else 0):
        columns_of(t, axis, False, re, im, i, ranges)


cdef inline void root_of_unity(Py_ssize_t n, Py_ssize_t j, double* re, double* im) noexcept:
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


cdef inline int set_roots(Roots* roots, Py_ssize_t n) except -1:
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


cdef inline Py_ssize_t frequency(const Line* line, int stage, Py_ssize_t at) noexcept:
    """Of what stages from `stage` on leave at position `at` of a block of it."""
    cdef Py_ssize_t found = 0, weight = 1
    cdef int s
    for s in range(stage, line.stages):
        found += at // line.block[s + 1] * weight
        at %= line.block[s + 1]
        weight *= line.radix[s]
    return found


cdef inline int set_tile(Tile* t, tuple shape) except -1:
    """A tile of `shape`, to be given up by `free(t.memory)`."""
    cdef Py_ssize_t n, m, size
    cdef int axis
    t.memory = NULL
    t.rank = <int>len(shape)
    for axis in range(t.rank):
        n = shape[axis]
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
    # Down to blocks that fit the cache, as long as these are whole groups of vectors.
    t.leaf = 0
    while (
        t.together == 1 and t.leaf < line.stages - 1 and line.block[t.leaf + 1] % LANES == 0
        and line.block[t.leaf] * LANES * 2 * <Py_ssize_t>sizeof(real) > LEAF_BYTES
    ):
        t.leaf += 1
    set_tables(t)
    return 0


cdef inline int set_tables(Tile* t) except -1:
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
    t.memory = malloc(reals * sizeof(real) + ats * sizeof(Py_ssize_t))
    if t.memory == NULL:
        raise MemoryError()
    cdef Py_ssize_t* at = <Py_ssize_t*>t.memory
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
    return 0
