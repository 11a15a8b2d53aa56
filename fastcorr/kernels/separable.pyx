"""One kernel of low rank on one plane, axis by axis: images, signals, volumes, of two kernel axes and more.

ALGORITHM   k[o, a, b] = sum over terms of  w[o] u[a] v[b]:  b along the lane axis, a along the row axis, o all others.
            Of several terms only where there is no o. `factor` finds w, v, u, or says that there are none.

                z[q]   = sum over o of  w[o] X[o, q]        lines of x, where there are other axes
                t[i]   = sum over b of  v[b] z[d*b + s*i]   along the line, into a ring of rows in the L2 cache
                y[i]   = sum over a of  u[a] t[d*a + s*i]   down the ring, terms one after the other

SCHEDULE    Units (outer index, block of output rows, strip of columns) run in parallel. A line of x is used in place
            where the strip's window lies inside and the lanes are contiguous, and gathered elsewhere. Along the line,
            taps that are a whole vector apart share each load: what is loaded at p + s serves taps s, s + LANES, ... of
            as many output vectors (`_phases`). Down the ring, ROWS output rows share each load (`_columns`). So both
            passes have a load for three or four products. Strides and dilations go without sharing, through `tile`.

NUMERICS    Each pass sums chains of at most CHAIN taps and adds them in order, which depends on the kernel alone:
            results are the same for every position, layout, batch and number of threads. w and v are scaled by powers
            of two so that the sums of their sizes are at most 1/2: what waits in the ring is no larger than x, and
            cannot overflow. Error: docs/numerics.md. Where the samples of k are whole numbers times one power of two,
            so are the factors, and the products are exactly k. Nothing is padded with zero weights: Inf and NaN stay
            local.

CALLER MUST give x and y canonical, k as C-contiguous samples, real, without batch axes, and a y that is aligned, native
            and does not overlap x or k.
"""

from libc.math cimport copysign, fabs, fmod, frexp, isfinite, ldexp
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
cimport numpy as cnp

import numpy as np

from .line cimport (
    INT32, UINT32, UINT64, Format, extend, format_of, gather, load, real_type, store,
)
from .team cimport run_units, take_block
from .tile cimport (
    LANES, MAX_ACC, _step, always_inline_void, ceil_div, local_vec, real, tile, vec, vec_load, vec_zero,
)

cnp.import_array()

cdef extern from "simd.h":
    enum: PANEL  # vectors of output that `_phases` keeps in registers beside REACH weights and a load

cdef enum:
    MAX_AXES = 64
    CHAIN = 32                 # taps summed one after the other; the error bound of docs/numerics.md rests on it
    REACH = 4                  # taps that share a load along the line
    ROWS = 4                   # output rows that share a load of the ring
    WIDE = MAX_ACC // ROWS     # vectors of each
    NEAR = 2                   # sum |k - product of factors| <= NEAR eps sum |k|

cdef Py_ssize_t RING_BYTES = 192 << 10     # per thread, beside lines in a 512 kB L2 cache; not tuned
cdef Py_ssize_t LEAST_STRIP = 64           # lanes: 768 kB for the tallest kernels (SEPARABLE_SPAN of tuning.py)
cdef double BEYOND = 2. ** 53              # whole numbers from here on, a double may round
cdef double UNIT_WORK = 8e6                # multiply-adds per unit, so that threads share evenly


cdef struct Axis:
    Py_ssize_t n, m, k, s, d, lo           # samples, outputs, taps, stride, dilation, low padding
    int rule
    Py_ssize_t x, y                        # bytes from one sample to the next


cdef struct Batch:
    Py_ssize_t n
    bint parts                             # the two parts of complex data
    Py_ssize_t x, y


cdef struct Job:
    Batch* batch
    Axis* other
    Axis row, lane
    int nbatch, nother
    Py_ssize_t terms, others, weights      # taps of all other axes; reals of one term's factors
    Py_ssize_t outer, blocks, block, strips, strip, units
    Py_ssize_t slots, slot                 # of the ring: rows, reals of one term
    Py_ssize_t length, phase_length        # of a line, of lane.s phases
    Py_ssize_t reads                       # samples of a line beyond the outputs that are read
    bint shared                            # ROWS output rows at a time
    bint inplace, direct                   # lanes contiguous in x, in y
    Format format
    int ytype
    real fill[2]
    const char* x
    char* y
    const real* w


cdef struct Scratch:
    void* block                            # to be freed
    real* ring
    real* line                             # gathered, one for each of a chain of other taps
    real* sum                              # of lines
    real* filled                           # a line of the real and one of the imaginary part of `fill`
    real* out                              # ROWS rows that cannot be stored straight to y
    Py_ssize_t* resident                   # the input row that each slot of the ring holds
    Py_ssize_t* offset                     # of each other tap's line from the row's first sample in bytes
    bint* outside                          # or whether it is one of `fill`
    const real** row                       # where the rows of the ring start that a block of outputs needs
    Py_ssize_t plane                       # the part this unit works on
    Py_ssize_t at, width                   # of its outputs along `lane`
    bint inplace


# --- one line, along the lanes ----------------------------------------------------------------------------------------


cdef inline always_inline_void _meet(
    const int u, const int reach, const int vectors, const real* p, const local_vec* wide, local_vec* acc
) noexcept nogil:
    # Input vector u adds to output vectors u - reach + 1 to u.
    cdef vec x
    cdef int j
    if u < vectors + reach - 1:
        x = vec_load(p + u * LANES)
        for j in range(max(0, u - vectors + 1), min(reach, u + 1)):
            acc[u - j] += wide[j] * x


cdef inline always_inline_void _phases(
    const int reach, const int vectors, Py_ssize_t begin, Py_ssize_t end, const real* p, const real* w, local_vec* acc
) noexcept nogil:
    # Taps s, s + LANES, ..., `reach` of them, for s from `begin` to `end`.
    cdef local_vec wide[REACH]
    cdef Py_ssize_t s
    cdef int j
    for s in range(begin, end):
        for j in range(reach):
            wide[j] = vec_zero() + w[s + j * LANES]
        _meet(0, reach, vectors, p + s, wide, acc)
        _meet(1, reach, vectors, p + s, wide, acc)
        _meet(2, reach, vectors, p + s, wide, acc)
        _meet(3, reach, vectors, p + s, wide, acc)
        _meet(4, reach, vectors, p + s, wide, acc)
        _meet(5, reach, vectors, p + s, wide, acc)
        _meet(6, reach, vectors, p + s, wide, acc)
        _meet(7, reach, vectors, p + s, wide, acc)
        _meet(8, reach, vectors, p + s, wide, acc)
        _meet(9, reach, vectors, p + s, wide, acc)
        _meet(10, reach, vectors, p + s, wide, acc)
        _meet(11, reach, vectors, p + s, wide, acc)
        _meet(12, reach, vectors, p + s, wide, acc)
        _meet(13, reach, vectors, p + s, wide, acc)
        _meet(14, reach, vectors, p + s, wide, acc)
        _meet(15, reach, vectors, p + s, wide, acc)
        _meet(16, reach, vectors, p + s, wide, acc)
        _meet(17, reach, vectors, p + s, wide, acc)
        _meet(18, reach, vectors, p + s, wide, acc)


cdef inline always_inline_void _along(
    const int vectors, Py_ssize_t panels, Py_ssize_t taps, const real* p, const real* w, real* dst, bint add
) noexcept nogil:
    # `panels` blocks of `vectors`, each the sum over one chain of taps.
    cdef local_vec acc[PANEL]
    cdef const real* q
    cdef const real* weight
    cdef Py_ssize_t _panel, left
    cdef int v
    for _panel in range(panels):
        for v in range(vectors):
            acc[v] = vec_zero()
        q, weight, left = p, w, taps
        while left >= REACH * LANES:
            _phases(REACH, vectors, 0, LANES, q, weight, acc)
            q += REACH * LANES
            weight += REACH * LANES
            left -= REACH * LANES
        if left >= 3 * LANES:
            _phases(4, vectors, 0, left - 3 * LANES, q, weight, acc)
            _phases(3, vectors, left - 3 * LANES, LANES, q, weight, acc)
        elif left >= 2 * LANES:
            _phases(3, vectors, 0, left - 2 * LANES, q, weight, acc)
            _phases(2, vectors, left - 2 * LANES, LANES, q, weight, acc)
        elif left >= LANES:
            _phases(2, vectors, 0, left - LANES, q, weight, acc)
            _phases(1, vectors, left - LANES, LANES, q, weight, acc)
        else:
            _phases(1, vectors, 0, left, q, weight, acc)
        if add:
            for v in range(vectors):
                acc[v] += (<const vec*>(dst + v * LANES))[0]
        for v in range(vectors):
            (<vec*>(dst + v * LANES))[0] = acc[v]
        p += vectors * LANES
        dst += vectors * LANES


cdef void along(Py_ssize_t vectors, Py_ssize_t taps, const real* line, const real* w, real* dst) noexcept nogil:
    """dst[i] = sum over b of w[b] line[i + b], for `vectors` vectors of i."""
    cdef Py_ssize_t chain = ceil_div(taps, ceil_div(taps, CHAIN)), t = 0, n, whole = vectors // PANEL, at
    while t < taps:
        n = min(chain, taps - t)
        at = whole * PANEL * LANES
        _along(PANEL, whole, n, line + t, w + t, dst, t > 0)
        _along(4, vectors % PANEL // 4, n, line + t + at, w + t, dst + at, t > 0)
        at += vectors % PANEL // 4 * 4 * LANES
        _along(1, vectors % PANEL % 4, n, line + t + at, w + t, dst + at, t > 0)
        t += n


cdef inline void lone(
    Py_ssize_t vectors, Py_ssize_t taps, const real* const* tap, const real* w, Py_ssize_t step, const real* src,
    real* dst,
) noexcept nogil:
    """dst = src + sum over t of w[t * step] tap[t]: nothing is shared."""
    cdef Py_ssize_t whole = vectors // 8
    cdef Py_ssize_t at = 8 * whole * LANES
    cdef const real* rest = src
    if whole:
        tile(1, 8, whole, taps, tap, 0, w, &src, &dst, step, False)
    if vectors % 8:
        dst += at
        if src != NULL:
            rest = src + at
        tile(1, 1, vectors % 8, taps, tap, at, w, &rest, &dst, step, False)


cdef inline void spread(const Job* job, Py_ssize_t vectors, const real* line, const real* w, real* dst) noexcept nogil:
    """`along` for any stride and dilation of the lanes."""
    cdef const Axis* lane = &job.lane
    cdef Py_ssize_t chain = ceil_div(lane.k, ceil_div(lane.k, CHAIN)), t = 0, n, b
    cdef const real* tap[CHAIN]
    while t < lane.k:
        n = min(chain, lane.k - t)
        for b in range(n):
            tap[b] = line + lane.d * (t + b) % lane.s * job.phase_length + lane.d * (t + b) // lane.s
        lone(vectors, n, tap, w + t, 1, NULL if t == 0 else dst, dst)
        t += n


# --- rows, down the ring ----------------------------------------------------------------------------------------------


cdef inline always_inline_void _columns(
    const int vectors, Py_ssize_t panels, Py_ssize_t taps, const real* const* tap, Py_ssize_t at, const real* w,
    bint add, real* const* dst,
) noexcept nogil:
    # ROWS output rows from `taps` + ROWS - 1 input rows. Input row j meets output row r with tap j - r, whose weight is
    # w[r - j]: weights run against the rows.
    cdef local_vec acc[MAX_ACC]
    cdef Py_ssize_t _panel, shift = 0
    cdef int i, r, v
    for _panel in range(panels):
        for i in range(ROWS * vectors):
            acc[i] = vec_zero()
        _step(False, False, False, 1, vectors, 1, tap, at, w, NULL, 0, acc)
        _step(False, False, False, 2, vectors, 1, tap + 1, at, w - 1, NULL, 0, acc)
        _step(False, False, False, 3, vectors, 1, tap + 2, at, w - 2, NULL, 0, acc)
        _step(False, False, False, 4, vectors, taps - 3, tap + 3, at, w - 3, NULL, -1, acc)
        tap += taps
        _step(False, False, False, 3, vectors, 1, tap, at, w + 1 - taps, NULL, 0, acc + vectors)
        _step(False, False, False, 2, vectors, 1, tap + 1, at, w + 1 - taps, NULL, 0, acc + 2 * vectors)
        _step(False, False, False, 1, vectors, 1, tap + 2, at, w + 1 - taps, NULL, 0, acc + 3 * vectors)
        tap -= taps
        for r in range(ROWS):
            for v in range(vectors if add else 0):
                acc[r * vectors + v] += (<const vec*>(dst[r] + shift + v * LANES))[0]
        for r in range(ROWS):
            for v in range(vectors):
                (<vec*>(dst[r] + shift + v * LANES))[0] = acc[r * vectors + v]
        at += vectors * LANES
        shift += vectors * LANES


cdef void columns(
    Py_ssize_t vectors, Py_ssize_t taps, const real* const* tap, Py_ssize_t at, const real* w, bint add,
    real* const* dst,
) noexcept nogil:
    """ROWS output rows, `vectors` wide, from lane `at` of the rows of the ring on; with `add`, added to `dst`."""
    cdef Py_ssize_t whole = vectors // WIDE
    cdef real* rest[ROWS]
    cdef int r
    _columns(WIDE, whole, taps, tap, at, w, add, dst)
    for r in range(ROWS):
        rest[r] = dst[r] + whole * WIDE * LANES
    _columns(1, vectors % WIDE, taps, tap, at + whole * WIDE * LANES, w, add, rest)


# --- lines of x -------------------------------------------------------------------------------------------------------


cdef const real* line_start(
    const Job* job, Py_ssize_t q, Py_ssize_t o, const char* x, real* to, Scratch* s
) noexcept nogil:
    """The line of other tap `o` at row `q` of x (negative: of `fill`), from the strip's first sample on."""
    cdef const Axis* lane = &job.lane
    cdef const char* p
    cdef Py_ssize_t phase, count
    if q < 0 or s.outside[o]:
        return s.filled + s.plane * job.length
    p = x + s.offset[o] + q * job.row.x
    if s.inplace:
        return <const real*>(p + (s.at - lane.lo) * lane.x)
    for phase in range(min(lane.s, lane.d * (lane.k - 1) + 1)):
        count = s.width + (lane.d * (lane.k - 1) - phase) // lane.s
        gather(
            &job.format, p, to + phase * job.phase_length, count, lane.s * s.at + phase - lane.lo, lane.s, lane.n,
            lane.x, lane.rule, job.fill[s.plane],
        )
    return to


cdef void make_row(const Job* job, Py_ssize_t u, Py_ssize_t slot, const char* x, Scratch* s) noexcept nogil:
    """Row `u` of the extended x, summed over other axes and along the lanes, into its slot of the ring."""
    cdef Py_ssize_t vectors = ceil_div(s.width, LANES), term, t = 0, n, o, length
    cdef Py_ssize_t q = extend(u - job.row.lo, job.row.n, job.row.rule)
    cdef Py_ssize_t chain = ceil_div(job.others, ceil_div(job.others, CHAIN))
    cdef const real* tap[CHAIN]
    cdef const real* line
    cdef const real* w = job.w
    cdef real* dst
    s.resident[slot] = u
    if job.others == 1:
        line = line_start(job, q, 0, x, s.line, s)
    else:
        while t < job.others:
            n = min(chain, job.others - t)
            for o in range(n):
                tap[o] = line_start(job, q, t + o, x, s.line + o * job.length, s)
            # No further than what lies there; in scratch all phases of the line.
            length = vectors * LANES + job.reads if s.inplace else job.length
            lone(length // LANES, n, tap, w + t, 1, NULL if t == 0 else s.sum, s.sum)
            t += n
        line = s.sum
    for term in range(job.terms):
        dst = s.ring + (slot * job.terms + term) * job.slot
        if job.lane.s == 1 and job.lane.d == 1:
            along(vectors, job.lane.k, line, w + job.others, dst)
        else:
            spread(job, vectors, line, w + job.others, dst)
        w += job.weights


cdef void make_outputs(const Job* job, Py_ssize_t i, int rows, const char* x, char* y, Scratch* s) noexcept nogil:
    """Output rows `i` to `i` + `rows`, which is ROWS or one, of one strip."""
    cdef const Axis* row = &job.row
    cdef Py_ssize_t chain = ceil_div(row.k, ceil_div(row.k, CHAIN)), needed = row.k + rows - 1
    cdef Py_ssize_t vectors = ceil_div(s.width, LANES), whole = s.width // LANES if job.direct else 0
    cdef Py_ssize_t term, t, n, j, _j, r, u = row.s * i, first = u % job.slots, slot = first
    cdef const real* w
    cdef char* yrow = y + i * row.y + s.at * job.lane.y
    cdef real* dst[ROWS]
    cdef real* rest[ROWS]
    cdef bint add = False
    for _j in range(needed):
        if s.resident[slot] != u:
            make_row(job, u, slot, x, s)
        u += row.d
        slot += row.d
        if slot >= job.slots:
            slot -= job.slots
    for r in range(rows):
        dst[r] = <real*>(yrow + r * row.y)
        rest[r] = s.out + r * job.slot
    for term in range(job.terms):
        slot = first
        for j in range(needed):
            s.row[j] = s.ring + (slot * job.terms + term) * job.slot
            slot += row.d
            if slot >= job.slots:
                slot -= job.slots
        w = job.w + term * job.weights + job.weights - 1
        t = 0
        while t < row.k:
            n = min(chain, row.k - t)
            if rows == ROWS:
                columns(whole, n, s.row + t, 0, w - t, add, dst)
                columns(vectors - whole, n, s.row + t, whole * LANES, w - t, add, rest)
            else:
                lone(whole, n, s.row + t, w - t, -1, dst[0] if add else NULL, dst[0])
                if whole < vectors:
                    for j in range(t, t + n):
                        s.row[j] += whole * LANES
                    lone(vectors - whole, n, s.row + t, w - t, -1, rest[0] if add else NULL, rest[0])
            add = True
            t += n
    if whole * LANES < s.width:
        for r in range(rows):
            store(
                job.ytype, rest[r], yrow + r * row.y + whole * LANES * job.lane.y, s.width - whole * LANES, job.lane.y
            )


# --- factors ----------------------------------------------------------------------------------------------------------


cdef Py_ssize_t largest(const double* a, Py_ssize_t n) noexcept nogil:
    """Where the sample of the largest size is."""
    cdef Py_ssize_t i, at = 0
    for i in range(n):
        if fabs(a[i]) > fabs(a[at]):
            at = i
    return at


cdef double size_of(const double* a, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef double sum = 0
    for i in range(n):
        sum += fabs(a[i])
    return sum


cdef int halving(double sum) noexcept nogil:
    """The power of two that makes a positive `sum` at most 1/2, more than 1/8."""
    cdef int exponent = 0
    frexp(sum, &exponent)
    return -exponent - 1


cdef double divisor(const double* a, Py_ssize_t n, Py_ssize_t step) noexcept nogil:
    """The greatest common one of whole numbers that are not all zero."""
    cdef double common = 0, next, rest
    cdef Py_ssize_t i
    for i in range(n):
        next = fabs(a[i * step])
        while next != 0:
            rest = fmod(common, next)
            common, next = next, rest
    return common


cdef bint make_whole(double* a, Py_ssize_t n, int digits, int* scale) noexcept nogil:
    """Samples that are whole numbers below 2**digits times one power of two, `scale`, become these numbers."""
    cdef Py_ssize_t i
    cdef int exponent = 0, top = -10000, low = 10000
    cdef double m
    cdef int64_t bits
    for i in range(n):
        if not isfinite(a[i]):
            return False
        if a[i] != 0:
            m = fabs(frexp(a[i], &exponent))
            top = max(top, exponent)
            bits = <int64_t>ldexp(m, 53)
            exponent -= 53
            while bits % 65536 == 0:
                bits //= 65536
                exponent += 16
            while bits % 2 == 0:
                bits //= 2
                exponent += 1
            low = min(low, exponent)
            if top - low > digits:
                return False
    scale[0] = low
    for i in range(n):
        a[i] = ldexp(a[i], -low)
    return True


cdef int factor_whole(double* a, Py_ssize_t others, Py_ssize_t rows, Py_ssize_t lanes, real* to) noexcept nogil:
    """The exact factors, 1, or 0 if there are none. `a` is scaled.

    Vectors of whole numbers without a common divisor, times what all samples have in common, which the rows' take.
    """
    cdef double* w
    cdef double* u
    cdef double* v
    cdef double* factor
    cdef Py_ssize_t n = others * rows * lanes, at, o, r, i
    cdef int scale = 0, shift = 0, halved = 0
    cdef double common
    cdef bint whole = <real>0.5 == 0
    if not make_whole(a, n, 53 if sizeof(real) == 8 or whole else 24, &scale):
        return 0
    factor = <double*>malloc((others + rows + lanes) * sizeof(double))
    if factor == NULL:
        return 0
    w, v, u = factor, factor + others, factor + others + lanes
    at = largest(a, n)
    if a[at] == 0:
        free(factor)
        return 0
    o, r, i = at // (rows * lanes), at // lanes % rows, at % lanes
    common = copysign(divisor(a + r * lanes + i, others, rows * lanes), a[at])  # one other tap is 1, and not looked at
    for o in range(others):
        w[o] = a[o * rows * lanes + r * lanes + i] / common
    o = at // (rows * lanes)
    common = divisor(a + (o * rows + r) * lanes, lanes, 1)
    for i in range(lanes):
        v[i] = a[(o * rows + r) * lanes + i] / common
    i = at % lanes
    common = divisor(a + o * rows * lanes + i, rows, lanes)
    for r in range(rows):
        u[r] = a[(o * rows + r) * lanes + i] / common
    r = at // lanes % rows
    common = a[at] / (w[o] * u[r] * v[i])
    for r in range(rows):
        u[r] *= common
    for o in range(others):
        for r in range(rows):
            for i in range(lanes):
                if w[o] * u[r] * v[i] != a[(o * rows + r) * lanes + i]:
                    free(factor)
                    return 0
    if not whole:
        if others > 1:
            halved = halving(size_of(w, others))
        shift = halving(size_of(v, lanes))
    for o in range(others):
        to[o] = convert(ldexp(w[o], halved))
    for i in range(lanes):
        to[others + i] = convert(ldexp(v[i], shift))
    for r in range(rows):
        u[r] = ldexp(u[r], scale - shift - halved)
        to[others + lanes + rows - 1 - r] = convert(u[r])
    at = 1
    for r in range(rows):  # nothing may be lost past either end of the type's range
        if not whole and <double>convert(u[r]) != u[r]:
            at = 0
    free(factor)
    return <int>at


cdef inline real convert(double value) noexcept nogil:
    """Integers keep their lowest bits."""
    return <real><int64_t>value if <real>0.5 == 0 else <real>value


cdef int factor_near(
    double* a, Py_ssize_t others, Py_ssize_t rows, Py_ssize_t lanes, int most, real* to
) noexcept nogil:
    """Terms that make up `a` to working precision, 0 if more than `most` are needed. `a` is overwritten.

    Each takes the row and the column (and the line through the other axes) of the largest sample that is left, which
    leaves zeros there.
    """
    cdef Py_ssize_t n = others * rows * lanes, at, o, r, i, term
    cdef double total = size_of(a, n), spent = 0, pivot, w, u, v
    cdef real* tw
    cdef real* tv
    cdef real* tu
    cdef int shift, halved
    cdef double eps = ldexp(1, -23 if sizeof(real) == 4 else -52)
    if not (isfinite(total) and total > 0):
        return 0
    for term in range(most):
        at = largest(a, n)
        o, r, i = at // (rows * lanes), at // lanes % rows, at % lanes
        pivot = a[at]
        tw = to + term * (others + rows + lanes)
        tv, tu = tw + others, tw + others + lanes
        w = u = v = 0
        for o in range(others):
            w += fabs(a[(o * rows + r) * lanes + i] / pivot)
        halved = halving(w) if others > 1 else 0
        for o in range(others):
            tw[o] = <real>ldexp(a[(o * rows + r) * lanes + i] / pivot, halved)
        o = at // (rows * lanes)
        for i in range(lanes):
            v += fabs(a[(o * rows + r) * lanes + i] / pivot)
        shift = halving(v)
        for i in range(lanes):
            tv[i] = <real>ldexp(a[(o * rows + r) * lanes + i] / pivot, shift)
        i = at % lanes
        for r in range(rows):
            tu[rows - 1 - r] = <real>ldexp(a[(o * rows + r) * lanes + i], -shift - halved)
        w = v = 0
        for o in range(others):
            w += fabs(<double>tw[o])
        for r in range(rows):
            u += fabs(<double>tu[r])
        for i in range(lanes):
            v += fabs(<double>tv[i])
        spent += w * u * v
        for o in range(others):
            for r in range(rows):
                pivot = <double>tw[o] * <double>tu[rows - 1 - r]
                for i in range(lanes):
                    a[(o * rows + r) * lanes + i] -= pivot * <double>tv[i]
        # Written so that a NaN says no. Terms that cancel would make errors of their own size.
        if not spent <= 2 * total:
            return 0
        if size_of(a, n) <= NEAR * eps * total:
            return <int>term + 1
    return 0


# --- units ------------------------------------------------------------------------------------------------------------


cdef void* scratch_new(const void* given) noexcept nogil:
    """What one thread needs; NULL when memory is short."""
    cdef const Job* job = <const Job*>given
    cdef Py_ssize_t lines = min(job.others, <Py_ssize_t>CHAIN)
    cdef Py_ssize_t head = (sizeof(Scratch) + 63) // 64 * 64, ring = job.slots * job.terms * job.slot
    cdef Py_ssize_t reals = (ring + (lines + 3) * job.length + ROWS * job.slot) * <Py_ssize_t>sizeof(real)
    cdef Py_ssize_t words = job.slots + 2 * job.others + job.row.k + ROWS
    cdef void* raw = take_block(head + reals + words * <Py_ssize_t>sizeof(Py_ssize_t) + 64)
    cdef char* p = <char*>((<size_t>raw + 63) // 64 * 64)
    cdef Scratch* s = <Scratch*>p
    cdef Py_ssize_t c, i
    if raw == NULL:
        return NULL
    s.block = raw
    s.ring = <real*>(p + head)
    s.line = s.ring + ring
    s.sum = s.line + lines * job.length
    s.filled = s.sum + job.length
    s.out = s.filled + 2 * job.length
    s.resident = <Py_ssize_t*>(p + head + reals)
    s.offset = s.resident + job.slots
    s.outside = <bint*>(s.offset + job.others)
    s.row = <const real**>(s.offset + 2 * job.others)
    for i in range((lines + 1) * job.length):
        s.line[i] = 0  # lanes past the end of a narrow strip are computed, never stored
    for c in range(2):
        for i in range(job.length):
            s.filled[c * job.length + i] = job.fill[c]
    return s


cdef void run_unit(const void* given, Py_ssize_t unit, void* scratch) noexcept nogil:
    """One strip of one block of rows of one outer index."""
    cdef const Job* job = <const Job*>given
    cdef Scratch* s = <Scratch*>scratch
    cdef const Axis* lane = &job.lane
    cdef const Axis* axis
    cdef Py_ssize_t position[MAX_AXES]
    cdef Py_ssize_t begin, end, at, o, rest, first
    cdef const char* x = job.x
    cdef char* y = job.y
    cdef int i
    s.at = unit % job.strips * job.strip
    s.width = min(job.strip, lane.m - s.at)
    unit //= job.strips
    begin = unit % job.blocks * job.block
    end = min(begin + job.block, job.row.m)
    unit //= job.blocks
    for i in range(job.nother - 1, -1, -1):
        position[i] = unit % job.other[i].m
        unit //= job.other[i].m
        y += position[i] * job.other[i].y
    s.plane = 0
    for i in range(job.nbatch - 1, -1, -1):
        at = unit % job.batch[i].n
        unit //= job.batch[i].n
        if job.batch[i].parts:
            s.plane = at
        x += at * job.batch[i].x
        y += at * job.batch[i].y
    for o in range(job.others):
        rest = o
        s.offset[o], s.outside[o] = 0, False
        for i in range(job.nother - 1, -1, -1):
            axis = &job.other[i]
            at = extend(axis.s * position[i] + axis.d * (rest % axis.k) - axis.lo, axis.n, axis.rule)
            rest //= axis.k
            s.outside[o] = s.outside[o] or at < 0
            s.offset[o] += at * axis.x
    first = s.at - lane.lo
    s.inplace = job.inplace and first >= 0 and first + ceil_div(s.width, LANES) * LANES + job.reads <= lane.n
    for o in range(job.slots):
        s.resident[o] = -1
    while begin < end:
        if not job.shared or end - begin < ROWS:
            make_outputs(job, begin, 1, x, y, s)
            begin += 1
        else:
            make_outputs(job, begin, ROWS, x, y, s)
            begin += ROWS


cdef Axis axis_of(Py_ssize_t n, Py_ssize_t m, Py_ssize_t k, Py_ssize_t s, Py_ssize_t d, Py_ssize_t lo, int rule):
    cdef Axis axis
    axis.n, axis.m, axis.k, axis.s, axis.d, axis.lo, axis.rule = n, m, k, s, d, lo, rule
    axis.x = axis.y = 0
    return axis


cdef class Separable:
    """Kernels of low rank for one Problem, laid out for this build.

    `rules` are the boundary codes per axis, `x_parts` says whether the data are complex (2) or real (1), `row` is the
    kernel axis of the rows.
    """

    cdef Job job
    cdef Batch batch[MAX_AXES]
    cdef Axis other[MAX_AXES]
    cdef int batch_axis[MAX_AXES]        # the caller's axis behind each entry; -1: the two parts of complex data
    cdef int other_axis[MAX_AXES]
    cdef int row_axis, lane_axis
    cdef bint flip
    cdef Py_ssize_t row_tap              # kernel samples from one tap to the next
    cdef Py_ssize_t other_tap[MAX_AXES]
    cdef readonly object element

    def __cinit__(self, problem, element, rules, int x_parts, int row):
        cdef Job* job = &self.job
        cdef Py_ssize_t stride = 1
        cdef int i, rank = problem.rank
        self.element, self.flip = element, problem.flip
        fill = [problem.fill.real, problem.fill.imag] if problem.dtype.kind == "c" else [problem.fill, 0]
        job.fill[0], job.fill[1] = fill
        for axis, n in zip(problem.batch_axes, problem.batch_shape):
            self.batch[job.nbatch].n, self.batch_axis[job.nbatch] = n, axis
            job.nbatch += 1
        if x_parts == 2:
            self.batch[job.nbatch].n, self.batch[job.nbatch].parts, self.batch_axis[job.nbatch] = 2, True, -1
            job.nbatch += 1
        for i in range(rank):
            ax = axis_of(
                problem.size[i], problem.out_size[i], problem.kernel[i], problem.stride[i], problem.dilation[i],
                problem.padding[i][0], rules[i],
            )
            if i == rank - 1:
                job.lane, self.lane_axis = ax, problem.axes[i]
            elif i == row:
                job.row, self.row_axis = ax, problem.axes[i]
            else:
                self.other[job.nother], self.other_axis[job.nother] = ax, problem.axes[i]
                job.nother += 1
        for i in range(rank - 1, -1, -1):
            if i == row:
                self.row_tap = stride
            elif i < rank - 1:
                self.other_tap[i if i < row else i - 1] = stride
            stride *= problem.kernel[i]
        job.others = job.outer = 1
        for i in range(job.nother):
            job.others *= self.other[i].k
            job.outer *= self.other[i].m
        for i in range(job.nbatch):
            job.outer *= self.batch[i].n
        job.weights = job.others + job.lane.k + job.row.k
        job.reads = job.lane.d * (job.lane.k - 1)
        if job.others > 1:  # whole vectors of lines are summed
            job.reads = ceil_div(job.reads, LANES) * LANES
        job.shared = job.row.s == 1 and job.row.d == 1 and job.row.k >= ROWS
        job.slots = job.row.d * (job.row.k - 1) + 1 + (ROWS - 1 if job.shared else 0)

    def factor(self, cnp.ndarray k not None, bint exact, int most):
        """The factors of at most `most` terms, or None. `exact`: their product must be `k`, not nearly so."""
        cdef const Job* job = &self.job
        cdef Py_ssize_t size = job.others * job.row.k * job.lane.k, o, a, b, at, rest
        cdef Format f = format_of(k)
        cdef real* value = <real*>malloc(size * (sizeof(real) + sizeof(double)))
        cdef double* sample
        cdef double d
        cdef bint lost = False
        cdef int i, terms
        if value == NULL:
            raise MemoryError()
        cdef cnp.ndarray packed = np.empty(most * job.weights, self.element)
        try:
            sample = <double*>malloc(size * sizeof(double))
            if sample == NULL:
                raise MemoryError()
            load(&f, <const char*>cnp.PyArray_DATA(k), value, size, f.size)
            for o in range(job.others):
                for a in range(job.row.k):
                    at, rest = a * self.row_tap, o
                    for i in range(job.nother - 1, -1, -1):
                        at += rest % self.other[i].k * self.other_tap[i]
                        rest //= self.other[i].k
                    for b in range(job.lane.k):
                        d = <double>value[size - 1 - at - b if self.flip else at + b]
                        sample[(o * job.row.k + a) * job.lane.k + b] = d
                        lost = lost or (<real>0.5 == 0 and fabs(d) >= BEYOND)
            terms = 0
            if not lost:
                terms = factor_whole(sample, job.others, job.row.k, job.lane.k, <real*>cnp.PyArray_DATA(packed))
            if terms == 0 and not exact:
                terms = factor_near(
                    sample, job.others, job.row.k, job.lane.k, most if job.others == 1 else 1,
                    <real*>cnp.PyArray_DATA(packed),
                )
            free(sample)
        finally:
            free(value)
        return packed[:terms * job.weights] if terms else None

    def run(self, cnp.ndarray x not None, cnp.ndarray weights not None, cnp.ndarray y not None, int threads):
        """y = the result for x and the kernel of these factors."""
        cdef Job job = self.job
        cdef Batch batch[MAX_AXES]
        cdef Axis other[MAX_AXES]
        cdef const cnp.npy_intp* xs = cnp.PyArray_STRIDES(x)
        cdef const cnp.npy_intp* ys = cnp.PyArray_STRIDES(y)
        cdef const cnp.npy_intp* xn = cnp.PyArray_DIMS(x)
        cdef Format f
        cdef int i
        if cnp.PyArray_SIZE(y) == 0:
            return
        job.batch, job.other = batch, other
        job.format = format_of(x)
        f = format_of(y)
        job.ytype = f.type
        for i in range(job.nbatch):
            batch[i] = self.batch[i]
            set_strides(self.batch_axis[i], job.format.size, f.size, xn, xs, ys, &batch[i].x, &batch[i].y)
        for i in range(job.nother):
            other[i] = self.other[i]
            set_strides(self.other_axis[i], 0, 0, xn, xs, ys, &other[i].x, &other[i].y)
        set_strides(self.row_axis, 0, 0, xn, xs, ys, &job.row.x, &job.row.y)
        set_strides(self.lane_axis, 0, 0, xn, xs, ys, &job.lane.x, &job.lane.y)
        job.x = <const char*>cnp.PyArray_DATA(x)
        job.y = <char*>cnp.PyArray_DATA(y)
        job.w = <const real*>cnp.PyArray_DATA(weights)
        job.terms = cnp.PyArray_SIZE(weights) // job.weights
        lay_out(&job, threads)
        run_units(&job, job.units, 1, threads, scratch_new, run_unit)


cdef void set_strides(
    int axis, Py_ssize_t xpart, Py_ssize_t ypart, const cnp.npy_intp* xn, const cnp.npy_intp* xs,
    const cnp.npy_intp* ys, Py_ssize_t* to_x, Py_ssize_t* to_y,
) noexcept:
    to_x[0] = xpart if axis < 0 else (0 if xn[axis] == 1 else xs[axis])
    to_y[0] = ypart if axis < 0 else ys[axis]


cdef void lay_out(Job* job, int threads) noexcept:
    """Strips and blocks: all that depends on layout and threads."""
    cdef const Axis* lane = &job.lane
    cdef Py_ssize_t strip, least, edge = PANEL * LANES
    job.inplace = (
        job.format.type == real_type() and not job.format.raw and lane.x == sizeof(real) and lane.s == 1
    )
    job.direct = lane.y == sizeof(real) and (
        job.ytype == real_type() or (sizeof(real) == 4 and job.ytype == UINT32 and real_type() == INT32)
        or (sizeof(real) == 8 and job.ytype == UINT64)
    )
    # Strips as even as whole panels allow.
    strip = max(LEAST_STRIP, RING_BYTES // (job.slots * job.terms * <Py_ssize_t>sizeof(real)))
    strip = ceil_div(lane.m, ceil_div(lane.m, strip))
    edge = edge if strip > 4 * edge else LANES
    job.strip = ceil_div(strip, edge) * edge
    job.strips = ceil_div(lane.m, job.strip)
    # An odd number of cache lines, so that the slots do not fall on each other in the cache.
    job.slot = (ceil_div(job.strip * <Py_ssize_t>sizeof(real), 128) * 128 + 64) // <Py_ssize_t>sizeof(real)
    job.phase_length = ceil_div(job.strip + job.reads // lane.s, LANES) * LANES
    job.length = job.phase_length * min(lane.s, job.reads + 1) + LANES
    # Rows per block: enough units for all threads, halo rows a small part of it.
    cdef double work_row = <double>min(job.strip, lane.m) * job.terms * (job.weights + 8.)
    least = 4 * job.slots
    job.block = max(least, <Py_ssize_t>min(<double>job.row.m, UNIT_WORK / work_row))
    if threads > 1:
        job.block = min(job.block, max(job.slots, ceil_div(job.row.m * job.outer * job.strips, 4 * threads)))
    job.block = ceil_div(job.row.m, ceil_div(job.row.m, job.block))
    job.block = ceil_div(job.block, ROWS) * ROWS
    job.blocks = ceil_div(job.row.m, job.block)
    job.units = job.outer * job.blocks * job.strips
