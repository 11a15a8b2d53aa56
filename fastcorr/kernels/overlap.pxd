"""Samples in and out of the tiles of overlap-save: blocks of a signal that overlap by the span of the kernel."""

from libc.string cimport memset

from .line cimport Format, all_finite, extend, gather, load, store, store_pairs
from .tile cimport real
from .transform cimport MAX_AXES, Tile

cdef extern from "simd.h":
    void prefetch(const char* p, Py_ssize_t bytes) noexcept nogil
    void prefetch_to_write(char* p, Py_ssize_t bytes) noexcept nogil

cdef enum:
    AHEAD = 4           # rows of x and y are asked for before their turn: too short for the hardware to see it come
    NEAR = 16           # bytes between samples of a row, at most, for that
    THIN = 256          # outputs at a time that a stride is taken from


cdef struct Axis:
    Py_ssize_t n, m, k, s, d, lo           # samples, outputs, taps, stride, dilation, low padding
    Py_ssize_t up                          # from one sample to the next: zeros lie between them
    int rule
    Py_ssize_t tap                         # kernel samples from one tap to the next
    Py_ssize_t x, y                        # bytes from one sample to the next
    Py_ssize_t outputs, blocks             # per block; blocks


cdef struct Block:                         # of one batch entry
    const char* x
    char* y
    Py_ssize_t start[MAX_AXES]             # first sample, before padding
    Py_ssize_t need[MAX_AXES]              # samples
    Py_ssize_t outputs[MAX_AXES]


cdef struct Kernel:                        # how its samples lie, and what they become
    Format format
    int parts                              # 2: complex
    bint flip, conj


cdef inline Axis axis_of(
    Py_ssize_t n, Py_ssize_t m, Py_ssize_t k, Py_ssize_t s, Py_ssize_t d, Py_ssize_t lo, int rule
) noexcept:
    cdef Axis axis
    axis.n, axis.m, axis.k, axis.s, axis.d, axis.lo, axis.rule = n, m, k, s, d, lo, rule
    axis.tap = axis.up = 1
    axis.x = axis.y = 0
    axis.outputs = axis.blocks = 1
    return axis


cdef inline void cut_into_blocks(Axis* axis, Py_ssize_t points) noexcept:
    """As many outputs to a block as a tile of `points` has."""
    axis.outputs = max(<Py_ssize_t>1, min(axis.m, (points - axis.d * (axis.k - 1) - 1) // axis.s + 1))
    axis.blocks = (axis.m + axis.outputs - 1) // axis.outputs


cdef inline Py_ssize_t find_block(const Tile* t, const Axis* axes, Py_ssize_t index, Block* b) noexcept nogil:
    """Where block `index` begins along each axis; what is left of `index` counts batch entries."""
    cdef const Axis* axis
    cdef Py_ssize_t at
    cdef int i
    for i in range(t.rank - 1, -1, -1):
        axis = &axes[i]
        at = index % axis.blocks
        index //= axis.blocks
        b.outputs[i] = min(axis.outputs, axis.m - at * axis.outputs)
        b.start[i] = at * axis.outputs * axis.s - axis.lo
        b.need[i] = (b.outputs[i] - 1) * axis.s + axis.d * (axis.k - 1) + 1
        b.y += at * axis.outputs * axis.y
    return index


cdef inline Py_ssize_t sample_at(const Axis* axis, Py_ssize_t u) noexcept nogil:
    """The sample at position `u`; -1: none is there."""
    if axis.up == 1:
        return extend(u, axis.n, axis.rule)
    if u < 0 or u % axis.up or u // axis.up >= axis.n:
        return -1
    return u // axis.up


cdef inline void fetch_apart(
    const Format* f, const Axis* axis, const char* x, real* to, Py_ssize_t u, Py_ssize_t count
) noexcept nogil:
    """Positions `u` to `u + count` of a line whose samples are `up` apart, with zeros between and around them."""
    cdef real few[THIN]
    cdef Py_ssize_t first = max(<Py_ssize_t>0, (u + axis.up - 1) // axis.up if u > 0 else 0), last, j, n
    last = min(axis.n, (u + count + axis.up - 1) // axis.up if u + count > 0 else 0)
    memset(to, 0, count * sizeof(real))
    while first < last:
        n = min(last - first, <Py_ssize_t>THIN)
        load(f, x + first * axis.x, few, n, axis.x)
        for j in range(n):
            to[(first + j) * axis.up - u] = few[j]
        first += n


cdef inline void fetch(
    const Tile* t, const Axis* axes, const Format* f, const Block* b, int axis, const char* x, real* to,
    Py_ssize_t begin, Py_ssize_t end, real fill,
) noexcept nogil:
    """Samples `begin` to `end` along `axis`, all needed along those after it, to a plane; x is NULL outside.

    Zeros follow what is needed.
    """
    cdef const Axis* ax = &axes[axis]
    cdef Py_ssize_t step = t.step[axis], middle = max(begin, min(end, b.need[axis])), i, u
    cdef Py_ssize_t ahead = 0
    if axis == t.rank - 1:
        if x == NULL:
            for i in range(begin, middle):
                to[i] = fill
        elif ax.up > 1:
            fetch_apart(f, ax, x, to + begin, b.start[axis] + begin, middle - begin)
        elif begin < middle:
            gather(f, x, to + begin, middle - begin, b.start[axis] + begin, 1, ax.n, ax.x, ax.rule, fill)
        memset(to + middle, 0, (end - middle) * sizeof(real))
        return
    if axis == t.rank - 2 and x != NULL and axes[axis + 1].x <= NEAR:
        ahead = AHEAD
    for i in range(begin, middle):
        if ahead:
            u = sample_at(ax, b.start[axis] + i + ahead)
            if u >= 0:
                prefetch(
                    x + u * ax.x + max(<Py_ssize_t>0, b.start[axis + 1]) * axes[axis + 1].x,
                    b.need[axis + 1] * axes[axis + 1].x,
                )
        u = -1
        if x != NULL:
            u = sample_at(ax, b.start[axis] + i)
        fetch(
            t, axes, f, b, axis + 1, <const char*>NULL if u < 0 else x + u * ax.x, to + i * step, 0, t.n[axis + 1],
            fill,
        )
    memset(to + middle * step, 0, (end - middle) * step * sizeof(real))


cdef inline void deliver(
    const Tile* t, const Axis* axes, int type, Py_ssize_t part, const Block* b, int axis, const real* re,
    const real* im, char* y, Py_ssize_t begin, Py_ssize_t end, char* bad,
) noexcept nogil:
    """Outputs `begin` to `end` along `axis`, all along those after it; `im` is NULL for real ones.

    `part` bytes lie between the parts of a complex one. `bad`, unless NULL, becomes 1 if one is not finite.
    """
    cdef const Axis* ax = &axes[axis]
    cdef Py_ssize_t step = ax.s * t.step[axis], _i, j, count
    cdef real thinned[2][THIN]
    cdef real* few = thinned[0]
    cdef real* few_im = thinned[1]
    y += begin * ax.y
    re += begin * step
    if im != NULL:
        im += begin * step
    if axis < t.rank - 1:
        for _i in range(begin, end):
            if axis == t.rank - 2 and axes[axis + 1].y <= NEAR:
                prefetch_to_write(y + AHEAD * ax.y, b.outputs[axis + 1] * axes[axis + 1].y)
            deliver(t, axes, type, part, b, axis + 1, re, im, y, 0, b.outputs[axis + 1], bad)
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
        deliver_line(type, part, ax, re, im, y, end - begin)
        return
    while begin < end:
        count = min(end - begin, THIN)
        for j in range(count):
            few[j] = re[j * ax.s]
        if im != NULL:
            for j in range(count):
                few_im[j] = im[j * ax.s]
            im += count * step
        deliver_line(type, part, ax, few, im if im == NULL else few_im, y, count)
        begin += count
        y += count * ax.y
        re += count * step


cdef inline void deliver_line(
    int type, Py_ssize_t part, const Axis* ax, const real* re, const real* im, char* y, Py_ssize_t count
) noexcept nogil:
    if im == NULL:
        store(type, re, y, count, ax.y)
    elif ax.y == 2 * part:
        store_pairs(type, re, im, y, count)
    else:
        store(type, re, y, count, ax.y)
        store(type, im, y + part, count, ax.y)


cdef inline void spread(
    const Tile* t, const Axis* axes, const Kernel* kernel, int axis, const char* k, Py_ssize_t at, real* re, real scale,
    real* line,
) noexcept nogil:
    """Taps into a plane, so that the circular convolution with it is the correlation: tap j at -d j, scaled.

    `line` has room for the taps of the last axis.
    """
    cdef const Axis* ax = &axes[axis]
    cdef Py_ssize_t j, to, n = t.n[axis]
    cdef int part
    for j in range(ax.k if axis < t.rank - 1 else 0):
        to = 0 if j == 0 else n - ax.d * j
        spread(
            t, axes, kernel, axis + 1, k, at + (ax.k - 1 - j if kernel.flip else j) * ax.tap, re + to * t.step[axis],
            scale, line,
        )
    if axis < t.rank - 1:
        return
    for part in range(kernel.parts):
        load(
            &kernel.format, k + (at * kernel.parts + part) * kernel.format.size, line, ax.k,
            ax.tap * kernel.parts * kernel.format.size,
        )
        if part and kernel.conj:
            scale = -scale
        for j in range(ax.k):
            to = 0 if j == 0 else n - ax.d * j
            re[part * t.plane + to] = scale * line[ax.k - 1 - j if kernel.flip else j]


cdef inline real over_points(const Tile* t) noexcept nogil:
    """1 / points, which the way back leaves out."""
    cdef double scale = 1
    cdef int i
    for i in range(t.rank):
        scale /= t.n[i]
    return <real>scale
