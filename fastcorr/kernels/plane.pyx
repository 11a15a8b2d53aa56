"""One kernel on one plane: images, signals, volumes, of any rank.

ALGORITHM   y[i] = sum over j of k[j] * X[s*i + d*j - lo], per batch entry. Complex data are C = 2 real planes in and
            O = 2 out, joined by a 2x2 matrix per tap, so the loops only see reals.

SCHEDULE    Three axes have a part. `lane` is the vector: positions along the last axis (or along a batch axis that
            lies last in memory). `row` is the kernel axis whose taps share each load: the block streams down its
            input rows, and one input row, read once, adds to every output row in reach, kernel tap `a` to output
            `u - a`. All `other` kernel axes just lengthen the list of taps. Finished output rows leave; those in
            reach wait in a ring that stays in the L1 cache.

                input row u  ->  tile(rows = kernel rows a, taps = (c, other taps, b), lanes)  ->  ring[u - a] += ...

            A line of x is used in place where its lanes are contiguous and inside, and gathered into scratch
            elsewhere (edges, strides, other types). A dilated row axis splits into d dense problems, a strided one
            into s classes of kernel rows. Units (outer index, row block, segment of lanes) run in parallel.

NUMERICS    Each kernel row is summed on its own (all of a 3 x 3 kernel at once), in chains of at most CHAIN taps, and
            the partial sums are added in order: error < 3 eps sum |x||k| up to 15x15 (tests/test_numerics.py). The
            order depends on the kernel's shape alone, never on position, layout, batch or threads. Nothing is padded
            with zero weights: Inf and NaN stay local.

CALLER MUST give x and y canonical (batch axes, then kernel axes), k as C-contiguous samples, and a y that is aligned,
            native and does not overlap x or k.
"""

cimport cython
from cpython.pyport cimport PY_SSIZE_T_MIN
from libc.stdlib cimport free, malloc
cimport numpy as cnp

import numpy as np

from .line cimport (
    CONSTANT, INT32, UINT32, UINT64, Format, extend, format_of, gather, load, real_type, store, store_pairs,
)
from .team cimport run_units, take_block
from .tile cimport (
    LANES, MAX_ACC, MAX_ROWS, SWEEP_ROWS, SWEEP_VECTORS, ceil_div, real, stream_fence, sums_carry, sweep, sweep_rows,
    tile,
)

cnp.import_array()

cdef enum:
    MAX_AXES = 64       # numpy's limit
    CHAIN = 32          # taps summed one after the other; the error bound of NUMERICS rests on it
    MAX_TAPS = 4096     # of one sweep: their addresses, and as many lines of two vectors, fit the L2 cache

# Bytes per thread, each with room for the other in a 32 kB L1 or a 512 kB L2; the optima are flat within a factor 2.
cdef Py_ssize_t RING_BYTES = 24 << 10      # of one ring, where it can be had
cdef Py_ssize_t SWEEP_BYTES = 512 << 10    # of x under one sweep: two rows in three come back in the next one
cdef Py_ssize_t BLOCK_BYTES = 512 << 10    # of x and y under a block whose edges are gathered: still in L2 by then
cdef Py_ssize_t RING_LIMIT = 256 << 10     # of one ring, never more
cdef Py_ssize_t LINES_BYTES = 128 << 10    # of gathered lines kept at hand
cdef Py_ssize_t WINDOW_BYTES = 256 << 10   # of gathered lines kept for the next position along another axis
cdef Py_ssize_t GATHER_BYTES = 2 << 10     # narrower images are gathered whole: cheaper than three segments
cdef Py_ssize_t STREAM_BYTES = 8 << 20     # larger results pass by the cache, which they would not stay in
cdef double UNIT_WORK = 8e6                # multiply-adds per unit, so that threads share evenly
cdef double GRAB_WORK = 1e5                # a thread takes this much at a time


cdef Py_ssize_t OUTSIDE = PY_SSIZE_T_MIN   # the offset of a line of ``fill``


cdef struct Axis:
    Py_ssize_t n, m, k, s, d, lo           # samples, outputs, taps, stride, dilation, low padding
    int rule
    Py_ssize_t x, y                        # bytes from one sample to the next


cdef struct Batch:
    Py_ssize_t n, k                        # entries; kernels from one entry to the next (0: shared)
    bint parts                             # the two parts of complex data under a real kernel
    Py_ssize_t x, y


cdef struct Segment:
    Py_ssize_t at, width                   # of the outputs along `lane`
    Py_ssize_t pieces                      # a region of many panels is cut into so many segments
    int vectors, panels
    bint inplace


cdef struct Job:
    Batch* batch
    Axis* other
    Axis row, lane
    int nbatch, nother
    Py_ssize_t parts_in, parts_out         # C and O
    Py_ssize_t xpart, ypart                # bytes from real to imaginary
    Py_ssize_t lines, taps, chain          # per input row; taps per partial sum
    Py_ssize_t classes, phase              # residues of output rows (dilation), of kernel rows (stride)
    Py_ssize_t class_size, larger_classes  # kernel rows per class; the first few have one more
    Py_ssize_t part_lines                  # lines of one part of complex data
    Py_ssize_t kernel_size                 # reals of one packed kernel
    Segment region[3]                      # of the lane axis: left edge, inside, right edge
    int regions
    Py_ssize_t outer, blocks, block, segments, units
    Py_ssize_t slots, slot                 # of the ring
    Py_ssize_t keep, length, phase_length  # of gathered lines, each of lane.s phases
    Py_ssize_t line_slots                  # of those, per input row
    bint lasting                           # gathered lines serve the next position along the last other axis too
    Format format
    int ytype
    bint carry                             # see sums_carry
    int sweep                              # output rows at a time in run_sweep; 0: run_block
    bint direct                            # whole panels may be stored straight to y
    bint stream                            # and past the cache
    bint fills                             # whole lines of `fill` may be asked for
    real fill[2]
    const char* x
    char* y
    const real* w


cdef struct Scratch:
    void* block                            # to be freed
    real* ring
    real* gathered
    real* filled                           # a line of the real and one of the imaginary part of `fill`
    Py_ssize_t plane                       # the part this unit works on, where a real kernel takes them one by one
    const char** resident                  # which line of x each slot of `gathered` holds, from lane `at` on
    Py_ssize_t at
    Py_ssize_t* line_slot                  # of each line, among those of its row
    Py_ssize_t* offset                     # of each line from the row's first sample in bytes, or OUTSIDE
    bint outside                           # whether any is
    real** sum                             # per active row: where its partial sums wait
    real** result                          # per active row: where the finished one goes
    const real** tap                       # where the taps of all input rows of one sweep start
    const char** base                      # of each of these rows: what its taps keep a fixed distance from, or NULL


cdef inline Py_ssize_t class_rows(const Job* job, Py_ssize_t phase) noexcept nogil:
    """Kernel rows of one residue class of the stride."""
    return job.class_size + (phase < job.larger_classes)


cdef inline Py_ssize_t class_start(const Job* job, Py_ssize_t phase) noexcept nogil:
    """Kernel rows of the classes before this one."""
    return phase * job.class_size + min(phase, job.larger_classes)


cdef inline Py_ssize_t packed_groups(const Job* job, Py_ssize_t rows) noexcept nogil:
    """The weights of a tap lie side by side for `rows` sums, and those of one group of them follow each other.

    A sweep takes all at once. Else what is beside a group would only be carried along, a cache line per tap.
    """
    return 1 if job.sweep else ceil_div(rows, MAX_ROWS)


cdef inline Py_ssize_t largest_group(Py_ssize_t rows) noexcept nogil:
    """Rows are shared out evenly over as few groups as MAX_ROWS allows."""
    return ceil_div(rows, ceil_div(rows, MAX_ROWS))


cdef void* scratch_new(const void* given) noexcept nogil:
    """What one thread needs; NULL when memory is short."""
    cdef const Job* job = <const Job*>given
    cdef Py_ssize_t parts = job.parts_out
    cdef Py_ssize_t ring = job.slots * job.slot
    cdef Py_ssize_t gathered = job.keep * job.length
    cdef Py_ssize_t filled = 2 * job.length if job.fills else 0
    cdef Py_ssize_t pointers = job.slots * parts
    cdef Py_ssize_t rows = job.sweep + job.row.k - 1 if job.sweep else 0
    cdef Py_ssize_t head = (sizeof(Scratch) + 63) // 64 * 64
    cdef Py_ssize_t reals = (ring + gathered + filled) * <Py_ssize_t>sizeof(real)
    cdef Py_ssize_t size = head + reals + 2 * job.lines * <Py_ssize_t>sizeof(Py_ssize_t) \
        + (job.keep + 2 * pointers + rows * (job.taps + 1)) * <Py_ssize_t>sizeof(real*)
    cdef void* raw = take_block(size + 64)
    if raw == NULL:
        return NULL
    cdef char* p = <char*>((<size_t>raw + 63) // 64 * 64)  # by hand: C11's aligned_alloc is missing on Windows
    cdef Scratch* s = <Scratch*>p
    s.block = raw
    s.ring = <real*>(p + head)
    s.plane = 0
    s.gathered = s.ring + ring
    s.filled = s.gathered + gathered
    p += head + reals
    s.offset = <Py_ssize_t*>p
    s.line_slot = s.offset + job.lines
    s.resident = <const char**>(s.line_slot + job.lines)
    s.sum = <real**>(s.resident + job.keep)
    s.result = s.sum + pointers
    s.base = <const char**>(s.result + pointers)
    s.tap = <const real**>(s.base + rows)
    s.at = -1
    cdef Py_ssize_t c, i
    for c in range(2 if job.fills else 0):
        for i in range(job.length):
            s.filled[c * job.length + i] = job.fill[c]
    return s


cdef inline Py_ssize_t window(const Axis* axis) noexcept nogil:
    """Samples a dilated kernel covers."""
    return axis.d * (axis.k - 1) + 1


cdef void locate_lines(const Job* job, const Py_ssize_t* position, Scratch* s) noexcept nogil:
    """Where each line of taps starts, for outputs at `position` along the other axes.

    Its slot follows from where it lies in the window along each of them: as the window moves on by a few samples, lines
    that stay inside keep their slots.
    """
    cdef Py_ssize_t line, part, rest, at, sum, slot
    cdef const Axis* axis
    cdef int i
    s.outside = False
    for line in range(job.lines):
        part = line >= job.part_lines
        rest = line - part * job.part_lines
        sum = part * job.xpart
        slot = part
        for i in range(job.nother - 1, -1, -1):
            axis = &job.other[i]
            at = rest
            if i > 0:  # no division but where it must be: they take as long as the sums of a narrow column
                rest = at // axis.k
                at -= rest * axis.k
            at = axis.s * position[i] + axis.d * at
            if job.lasting:
                slot = slot * window(axis) + at % window(axis)
            at = extend(at - axis.lo, axis.n, axis.rule)
            if at < 0:
                sum = OUTSIDE
                s.outside = True
                break
            sum += at * axis.x
        s.offset[line] = sum
        s.line_slot[line] = slot if job.lasting else line


cdef const real* gather_line(
    const Job* job, const Segment* seg, const char* p, Py_ssize_t u, Py_ssize_t line, Scratch* s
) noexcept nogil:
    """`line` of input row `u`, which starts at `p`, from scratch: gathered now, or kept since it was last needed."""
    cdef const Axis* lane = &job.lane
    cdef Py_ssize_t slot = (u * job.line_slots + s.line_slot[line]) % job.keep, part = s.plane + line // job.part_lines
    cdef real* to = s.gathered + slot * job.length
    if s.resident[slot] == p:
        return to
    s.resident[slot] = p
    # A strided lane axis splits into its phases, each contiguous: tap b reads phase d*b % s from d*b // s on.
    cdef Py_ssize_t phase, reach, count, i
    for phase in range(min(lane.s, lane.d * (lane.k - 1) + 1)):
        reach = lane.d * (lane.k - 1) - phase
        if lane.s > 1:
            reach //= lane.s
        count = seg.width + reach
        gather(
            &job.format, p, to, count, lane.s * seg.at + phase - lane.lo, lane.s, lane.n, lane.x, lane.rule,
            job.fill[part],
        )
        for i in range(count, seg.vectors * LANES + reach):
            to[i] = 0  # lanes past the end of a narrow segment are computed, never stored
        to += job.phase_length
    return s.gathered + slot * job.length


cdef inline const real* line_start(
    const Job* job, const Segment* seg, const char* row, Py_ssize_t u, Py_ssize_t line, Scratch* s
) noexcept nogil:
    """The first lane of `line` of input row `u`, tap 0: in x itself, or gathered. `row` is NULL outside."""
    if row == NULL or s.offset[line] == OUTSIDE:
        return s.filled + (s.plane if line < job.part_lines else 1) * job.length
    if seg.inplace:
        return <const real*>(row + s.offset[line] + (seg.at - job.lane.lo) * job.lane.x)
    return gather_line(job, seg, row + s.offset[line], u, line, s)


cdef inline void point_taps(
    const Job* job, const Segment* seg, const char* x, Py_ssize_t residue, Py_ssize_t u, Py_ssize_t begin,
    Py_ssize_t end, Scratch* s, const real** tap,
) noexcept nogil:
    """Where taps `begin` to `end` of input row `u` start."""
    cdef Py_ssize_t line = begin // job.lane.k if begin else 0, b = begin - line * job.lane.k, t = begin, d = job.lane.d
    cdef Py_ssize_t q = extend(job.row.d * u + job.row.s * residue - job.row.lo, job.row.n, job.row.rule), n, i
    cdef const char* row = x + q * job.row.x if q >= 0 else <const char*>NULL
    cdef const real* start
    while t < end:
        start = line_start(job, seg, row, u, line, s)
        n = min(job.lane.k - b, end - t)
        if job.lane.s == 1:
            for i in range(n):
                tap[i] = start + d * (b + i)
        else:
            for i in range(n):
                tap[i] = start + d * (b + i) % job.lane.s * job.phase_length + d * (b + i) // job.lane.s
        tap += n
        t += n
        line += 1
        b = 0


cdef inline void point_row(
    const Job* job, const Segment* seg, const char* x, Py_ssize_t residue, Py_ssize_t u, Py_ssize_t r, bint fresh,
    Scratch* s,
) noexcept nogil:
    """`point_taps` for row `r` of a sweep: mostly all taps just move by as much as the row does."""
    cdef const real** tap = s.tap + r * job.taps
    cdef const char* base = NULL
    cdef Py_ssize_t line, t, move, q = -1
    if not s.outside:
        q = extend(job.row.d * u + job.row.s * residue - job.row.lo, job.row.n, job.row.rule)
    if q >= 0:
        base = x + q * job.row.x
        if not seg.inplace:
            if fresh:
                for line in range(job.lines):
                    gather_line(job, seg, base + s.offset[line], u, line, s)
            base = <const char*>(s.gathered + u * job.line_slots % job.keep * job.length)
    if base != NULL and s.base[r] != NULL:
        move = base - s.base[r]
        for t in range(job.taps):
            tap[t] = <const real*>(<const char*>tap[t] + move)
    else:
        point_taps(job, seg, x, residue, u, 0, job.taps, s, tap)
    s.base[r] = base


cdef inline void store_panels(const Job* job, const real* sums, char* y, Py_ssize_t width) noexcept nogil:
    """`width` results of one row, all parts of them, from scratch to y."""
    cdef Py_ssize_t o, part_slot = job.slot // job.parts_out
    if job.parts_out == 2 and job.lane.y == 2 * job.ypart:
        store_pairs(job.ytype, sums, sums + part_slot, y, width)
        return
    for o in range(job.parts_out):
        store(job.ytype, sums + o * part_slot, y + o * job.ypart, width, job.lane.y)


cdef inline void store_row(
    const Job* job, const Segment* seg, const real* sums, char* y, Py_ssize_t panels, Py_ssize_t shift
) noexcept nogil:
    """One finished row of a segment: whole panels, then the last one, moved back to `shift`."""
    cdef Py_ssize_t width = seg.vectors * LANES, at = panels * width
    store_panels(job, sums, y, min(seg.width, at))
    if panels < seg.panels:
        store_panels(job, sums + at, y + shift * job.lane.y, width)


cdef void run_sweep(
    const Job* job, const Segment* seg, const char* x, char* y, const real* w, Py_ssize_t residue,
    Py_ssize_t begin, Py_ssize_t end, Scratch* s,
) noexcept nogil:
    """`run_block` where all sums of some output rows fit the registers."""
    cdef Py_ssize_t width = seg.vectors * LANES, reach = job.row.k, parts = job.parts_out, part_slot = job.slot // parts
    cdef Py_ssize_t panels, shift = seg.width - width, at, i, u = begin, r
    cdef int rows = job.sweep
    cdef real* dst[SWEEP_ROWS]
    cdef char* yrow
    for r in range(rows + reach - 1):
        s.base[r] = NULL
    i = begin
    while i < end:
        i = min(i, end - rows)  # the last rows are moved back: some are made twice, with the same result
        for r in range(rows + reach - 1):
            point_row(job, seg, x, residue, i + r, r, i + r >= u, s)
        u = i + rows + reach - 1
        yrow = y + (job.classes * i + residue) * job.row.y + seg.at * job.lane.y
        for r in range(rows * parts):
            dst[r] = <real*>(yrow + r * job.classes * job.row.y) if job.direct else s.ring + r * part_slot
        at = 0
        if job.stream and <size_t>dst[0] % 64:
            sweep(reach, parts, 1, job.taps, job.chain, s.tap, 0, w, dst, False)
            at = (64 - <size_t>dst[0] % 64) // sizeof(real)
            for r in range(rows):
                dst[r] += at
        panels = (seg.width - at) // width
        sweep(reach, parts, panels, job.taps, job.chain, s.tap, at, w, dst, job.stream)
        if at + panels * width < seg.width:
            for r in range(rows * parts):
                dst[r] += shift - at if job.direct else panels * width
            sweep(reach, parts, 1, job.taps, job.chain, s.tap, shift, w, dst, False)
        if not job.direct:
            for r in range(rows):
                store_row(job, seg, s.ring + r * job.slot, yrow + r * job.classes * job.row.y, panels, shift)
        i += rows


cdef void run_block(
    const Job* job, const Segment* seg, const char* x, char* y, const real* w, Py_ssize_t residue,
    Py_ssize_t begin, Py_ssize_t end, Scratch* s,
) noexcept nogil:
    """Output rows `begin` to `end` of one residue class of the row axis, one segment of lanes."""
    cdef const Axis* row = &job.row
    cdef Py_ssize_t parts = job.parts_out, part_slot = job.slot // parts, width = seg.vectors * LANES
    # Whole panels first; `shift` is where the last one starts, `at` where its sums wait.
    cdef Py_ssize_t panels = max(1, seg.width // width), shift = max(0, seg.width - width), at = panels * width
    cdef bint whole = job.direct and seg.width >= width
    cdef Py_ssize_t u, top, cls, out, first, last, rows, groups, group, g0, g1, lo, hi, j, r, o, i, slot, t0, t1, step
    cdef char* yrow
    cdef real* sums
    cdef const real* weights
    cdef const real* tap[CHAIN]
    cdef const real* src[MAX_ROWS]
    cdef real* dst[MAX_ROWS]
    cdef int n
    cls = -1
    top = begin
    for u in range(job.phase * begin, job.phase * (end - 1) + row.k):
        # Kernel rows cls, cls + phase, ... meet output rows top, top - 1, ...; in ascending order these are out + j,
        # and `first` to `last` are those j inside the block.
        cls += 1
        if cls == job.phase:
            cls = 0
            top += 1
        rows = class_rows(job, cls)
        out = top - rows + 1
        first = max(0, begin - out)
        last = min(rows, end - out)
        if first >= last:
            continue
        slot = (out + first) % job.slots
        for j in range(first, last):
            sums = s.ring + slot * job.slot
            for o in range(parts):
                i = (j - first) * parts + o
                s.sum[i] = s.result[i] = sums + o * part_slot
            slot = slot + 1 if slot < job.slots - 1 else 0
        # The kernel's last row completes an output row.
        yrow = NULL
        if first == 0 and cls + job.phase * (rows - 1) == row.k - 1:
            yrow = y + (job.classes * out + residue) * row.y + seg.at * job.lane.y
            if whole:
                s.result[0] = <real*>yrow
        rows *= parts
        groups = ceil_div(rows, MAX_ROWS)
        t1 = 0
        while t1 < job.taps:
            t0 = t1
            t1 = min(job.taps, t0 + job.chain)
            point_taps(job, seg, x, residue, u, t0, t1, s, tap)
            # From the group of the first active row on.
            group = ((first * parts + 1) * groups - 1) // rows
            g1 = rows * group // groups
            while g1 < last * parts:
                group += 1
                g0 = g1
                g1 = rows * group // groups
                lo = max(g0, first * parts)
                hi = min(g1, last * parts)
                n = <int>(hi - lo)
                for r in range(n):
                    i = lo - first * parts + r
                    # Kernel row 0 opens the sum.
                    src[r] = NULL if t0 == 0 and cls == 0 and lo + r >= rows - parts else s.sum[i]
                    dst[r] = s.result[i] if t1 == job.taps else s.sum[i]
                weights = w + class_start(job, cls) * parts * job.taps + lo
                step = rows
                if packed_groups(job, rows) > 1:
                    weights += g0 * (job.taps - 1)
                    step = g1 - g0
                weights += t0 * step
                tile(n, seg.vectors, panels, t1 - t0, tap, 0, weights, src, dst, step, job.carry)
                if panels < seg.panels:
                    # The last panel is moved back to end with the segment; its sums have a place of their own.
                    for r in range(n):
                        if src[r] != NULL:
                            src[r] += at
                        dst[r] += at if dst[r] == s.sum[lo - first * parts + r] else shift
                    tile(n, seg.vectors, 1, t1 - t0, tap, shift, weights, src, dst, step, job.carry)
        if yrow != NULL and not whole:
            store_row(job, seg, s.sum[0], yrow, panels, shift)


cdef Segment find_segment(const Job* job, Py_ssize_t index) noexcept nogil:
    """Segment `index` of the lane axis. Pieces end on whole panels, the last one takes the rest."""
    cdef int i = 0
    while index >= job.region[i].pieces:
        index -= job.region[i].pieces
        i += 1
    cdef Segment seg = job.region[i]
    cdef Py_ssize_t width = seg.vectors * LANES, panels = max(1, seg.width // width)
    cdef Py_ssize_t begin = panels * index // seg.pieces * width
    seg.width = seg.width - begin if index == seg.pieces - 1 else panels * (index + 1) // seg.pieces * width - begin
    seg.at += begin
    seg.panels = <int>ceil_div(seg.width, width)
    return seg


cdef void run_unit(const void* given, Py_ssize_t unit, void* scratch) noexcept nogil:
    """One segment of one block of rows of one residue class of one outer index."""
    cdef const Job* job = <const Job*>given
    cdef Scratch* s = <Scratch*>scratch
    cdef Py_ssize_t position[MAX_AXES]
    if job.nother:  # neighbours follow each other: they share most of their lines
        position[job.nother - 1] = unit % job.other[job.nother - 1].m
        unit //= job.other[job.nother - 1].m
    cdef Segment seg = find_segment(job, unit % job.segments)
    unit //= job.segments
    cdef Py_ssize_t block, residue, begin, end, at, kernel = 0
    cdef const char* x = job.x
    cdef char* y = job.y
    cdef int i
    block = unit % job.blocks
    unit //= job.blocks
    residue = unit % job.classes
    unit //= job.classes
    begin = block * job.block
    end = min(begin + job.block, ceil_div(job.row.m - residue, job.classes))
    if begin >= end:
        return
    for i in range(job.nother - 2, -1, -1):
        position[i] = unit % job.other[i].m
        unit //= job.other[i].m
    for i in range(job.nother):
        y += position[i] * job.other[i].y
    for i in range(job.nbatch - 1, -1, -1):
        at = unit % job.batch[i].n
        unit //= job.batch[i].n
        if job.batch[i].parts:
            s.plane = at
        x += at * job.batch[i].x
        y += at * job.batch[i].y
        kernel += at * job.batch[i].k
    locate_lines(job, position, s)
    if s.at != seg.at:
        s.at = seg.at
        for i in range(job.keep):
            s.resident[i] = NULL
    if job.sweep and end - begin >= job.sweep and seg.width >= SWEEP_VECTORS * LANES:
        seg.vectors = SWEEP_VECTORS
        seg.panels = <int>ceil_div(seg.width, seg.vectors * LANES)
        run_sweep(job, &seg, x, y, job.w + kernel * job.kernel_size, residue, begin, end, s)
        if job.stream:
            stream_fence()
        return
    run_block(job, &seg, x, y, job.w + kernel * job.kernel_size, residue, begin, end, s)


cdef Axis axis_of(Py_ssize_t n, Py_ssize_t m, Py_ssize_t k, Py_ssize_t s, Py_ssize_t d, Py_ssize_t lo, int rule):
    cdef Axis axis
    axis.n, axis.m, axis.k, axis.s, axis.d, axis.lo, axis.rule = n, m, k, s, d, lo, rule
    axis.x = axis.y = 0
    return axis


cdef class Plane:
    """The direct method for one Problem, laid out for this build.

    `rules` are the boundary codes per axis, `x_parts` and `k_parts` say whether the arrays are complex (2) or real
    (1).
    """

    cdef Job job
    cdef Batch batch[MAX_AXES]
    cdef Axis other[MAX_AXES]
    cdef int batch_axis[MAX_AXES]        # the caller's axis behind each entry; -1: the two parts of complex data
    cdef int other_axis[MAX_AXES]
    cdef int row_axis, lane_axis         # -1: none
    cdef int ndim, x_parts, k_parts
    cdef bint flip, conj
    cdef Py_ssize_t taps_per_kernel, kernels, row_tap, lane_tap
    cdef Py_ssize_t other_tap[MAX_AXES]  # kernel samples from one tap to the next
    cdef readonly object element, out_shape

    @cython.wraparound(True)
    def __cinit__(self, problem, element, rules, int x_parts, int k_parts):
        cdef Job* job = &self.job
        cdef int i, e, axis
        cdef bint complex_ = problem.dtype.kind == "c"
        cdef int rank = problem.rank
        self.element, self.out_shape = element, problem.out_shape
        self.x_parts, self.k_parts, self.ndim = x_parts, k_parts, len(problem.x_shape)
        self.flip, self.conj = problem.flip, problem.conj
        job.parts_in = x_parts if k_parts == 2 else 1
        job.parts_out = k_parts
        fill = [problem.fill.real, problem.fill.imag] if complex_ else [problem.fill, 0]
        job.fill[0], job.fill[1] = fill

        # Which axis has which part: from the kernel's shape and the order of the axes only, so that the order of
        # summation is the same for every layout and size.
        kernel = problem.kernel
        per_row = job.parts_in
        for i in range(rank):
            per_row *= kernel[i]
        row = -1
        for i in range(rank - 1):  # the longest, of equals the last; a lambda would bring 10 kB of Cython's functions
            if row < 0 or kernel[i] >= kernel[row]:
                row = i
        if row >= 0 and (kernel[row] == 1 or per_row == kernel[row]):
            row = -1  # one tap per kernel row: nothing to share, a plain sum over rows is faster
        batch = list(zip(problem.batch_axes, problem.batch_shape, problem.k_batch))
        last = self.ndim - 1
        lane_batch = rank == 0 or (last not in problem.axes and problem.x_shape[last] >= LANES)
        shared = [entry for entry in batch if entry[2] == 1]
        lane = shared[-1] if lane_batch and shared and shared[-1][0] in (last, batch[-1][0]) else None
        if lane is not None:
            shared.remove(lane)
        row_batch = shared[-1] if row < 0 and shared else None

        job.row = axis_of(1, 1, 1, 1, 1, 0, CONSTANT)
        job.lane = axis_of(1, 1, 1, 1, 1, 0, CONSTANT)
        self.row_axis = self.lane_axis = -1
        if lane is not None:
            job.lane = axis_of(lane[1], lane[1], 1, 1, 1, 0, CONSTANT)
            self.lane_axis = lane[0]
        if row_batch is not None:
            job.row = axis_of(row_batch[1], row_batch[1], 1, 1, 1, 0, CONSTANT)
            self.row_axis = row_batch[0]
        stride = 1
        for i in range(rank - 1, -1, -1):
            ax = axis_of(
                problem.size[i], problem.out_size[i], kernel[i], problem.stride[i], problem.dilation[i],
                problem.padding[i][0], rules[i],
            )
            if i == row:
                job.row, self.row_axis, self.row_tap = ax, problem.axes[i], stride
            elif i == rank - 1 and lane is None:
                job.lane, self.lane_axis, self.lane_tap = ax, problem.axes[i], stride
            else:
                self.other[job.nother], self.other_axis[job.nother] = ax, problem.axes[i]
                self.other_tap[job.nother] = stride
                job.nother += 1
            stride *= kernel[i]
        self.taps_per_kernel = stride
        # `other` was filled from the last axis on; taps run in the kernel's C order.
        for i in range(job.nother // 2):
            e = job.nother - 1 - i
            self.other[i], self.other[e] = self.other[e], self.other[i]
            self.other_axis[i], self.other_axis[e] = self.other_axis[e], self.other_axis[i]
            self.other_tap[i], self.other_tap[e] = self.other_tap[e], self.other_tap[i]

        self.kernels = 1
        for axis, n, k in reversed(batch):
            if axis != self.lane_axis and axis != self.row_axis:
                self.batch[job.nbatch].n = n
                self.batch[job.nbatch].k = 0 if k == 1 else self.kernels
                self.batch_axis[job.nbatch] = axis
                job.nbatch += 1
            self.kernels *= k
        if x_parts > job.parts_in:
            self.batch[job.nbatch].n, self.batch[job.nbatch].parts = 2, True
            self.batch_axis[job.nbatch] = -1
            job.nbatch += 1

        job.lines = job.parts_in
        job.outer = 1
        for i in range(job.nother):
            job.lines *= self.other[i].k
            job.outer *= self.other[i].m
        for i in range(job.nbatch):
            job.outer *= self.batch[i].n
        job.taps = job.lines * job.lane.k
        job.chain = ceil_div(job.taps, ceil_div(job.taps, CHAIN))
        job.kernel_size = job.row.k * job.parts_out * job.taps
        # gcd by hand: d and s share a factor f; d/f classes of output rows, s/f of kernel rows.
        cdef Py_ssize_t f = job.row.d, g = job.row.s
        while g:
            f, g = g, f % g
        job.classes = job.row.d // f
        job.phase = job.row.s // f
        job.class_size = job.row.k // job.phase
        job.larger_classes = job.row.k % job.phase
        job.part_lines = job.lines // job.parts_in
        job.carry = job.parts_out == 1 and sums_carry(job.row.k, job.taps)
        job.sweep = sweep_rows(job.row.k, job.parts_out, job.chain < job.taps)
        if job.phase > 1 or (job.sweep + job.row.k - 1) * job.taps > MAX_TAPS:
            job.sweep = 0

    cdef int write_packed(self, const char* k, const Format* f, real* to) except -1 nogil:
        """Kernel samples as the tile reads them: [kernel][class][group][tap][row], last kernel row first."""
        cdef const Job* job = &self.job
        cdef Py_ssize_t count = self.kernels * self.taps_per_kernel
        cdef real* value = <real*>malloc(count * self.k_parts * sizeof(real))
        cdef Py_ssize_t part, kernel, cls, rows, groups, group, r, t, line, rest, b, at, a, c, o, i
        cdef real v
        if value == NULL:
            with gil:
                raise MemoryError()
        for part in range(self.k_parts):
            load(f, k + part * f.size, value + part * count, count, self.k_parts * f.size)
        for kernel in range(self.kernels):
            for cls in range(min(job.phase, job.row.k)):
                rows = class_rows(job, cls) * job.parts_out
                groups = packed_groups(job, rows)
                for group in range(groups):
                    for t in range(job.taps):
                        line = t // job.lane.k
                        b = t % job.lane.k
                        c = line // job.part_lines
                        rest = line % job.part_lines
                        at = b * self.lane_tap + kernel * self.taps_per_kernel
                        for i in range(job.nother - 1, -1, -1):
                            at += rest % self.other[i].k * self.other_tap[i]
                            rest //= self.other[i].k
                        for r in range(rows * group // groups, rows * (group + 1) // groups):
                            o = r % job.parts_out
                            a = at + (cls + job.phase * ((rows - 1 - r) // job.parts_out)) * self.row_tap
                            if self.flip:
                                a = (2 * kernel + 1) * self.taps_per_kernel - 1 - a
                            # (xr + i xi)(kr + i ki): a part times itself, or crosswise with the imaginary one.
                            v = value[a] if o == c else value[count + a]
                            if o != c and (o == 0) != self.conj:
                                v = -v
                            to[0] = v
                            to += 1
        free(value)
        return 0

    def pack(self, cnp.ndarray k not None):
        """`k`, C-contiguous and canonical, as the kernel reads it: to be given to `run` again and again."""
        cdef cnp.ndarray packed = np.empty(self.kernels * self.job.kernel_size, self.element)
        cdef Format f = format_of(k)
        self.write_packed(<const char*>cnp.PyArray_DATA(k), &f, <real*>cnp.PyArray_DATA(packed))
        return packed

    def run(
        self, cnp.ndarray x not None, cnp.ndarray k not None, cnp.ndarray y not None, int threads, bint packed,
        bint fresh,
    ):
        """y = the result for x and the kernel `k`, packed or C-contiguous and canonical. `fresh`: y was just made."""
        cdef Job job = self.job
        cdef Batch batch[MAX_AXES]
        cdef Axis other[MAX_AXES]
        cdef const cnp.npy_intp* xs = cnp.PyArray_STRIDES(x)
        cdef const cnp.npy_intp* ys = cnp.PyArray_STRIDES(y)
        cdef const cnp.npy_intp* xn = cnp.PyArray_DIMS(x)
        cdef Format f
        cdef real small[256]
        cdef real* w = NULL
        cdef Py_ssize_t grab
        cdef double work
        cdef int i
        if cnp.PyArray_SIZE(y) == 0:
            return
        job.batch, job.other = batch, other
        job.format = format_of(x)
        f = format_of(y)
        job.ytype = f.type
        job.xpart, job.ypart = job.format.size, f.size
        for i in range(job.nbatch):
            batch[i] = self.batch[i]
            set_strides(self.batch_axis[i], job.xpart, job.ypart, xn, xs, ys, &batch[i].x, &batch[i].y)
        for i in range(job.nother):
            other[i] = self.other[i]
            set_strides(self.other_axis[i], 0, 0, xn, xs, ys, &other[i].x, &other[i].y)
        if self.row_axis >= 0:
            set_strides(self.row_axis, 0, 0, xn, xs, ys, &job.row.x, &job.row.y)
        if self.lane_axis >= 0:
            set_strides(self.lane_axis, 0, 0, xn, xs, ys, &job.lane.x, &job.lane.y)
        job.x = <const char*>cnp.PyArray_DATA(x)
        job.y = <char*>cnp.PyArray_DATA(y)
        work = lay_out(&job, threads, fresh)
        if packed:
            job.w = <const real*>cnp.PyArray_DATA(k)
        else:
            w = small
            if self.kernels * job.kernel_size > 256:
                w = <real*>malloc(self.kernels * job.kernel_size * sizeof(real))
                if w == NULL:
                    raise MemoryError()
            f = format_of(k)
            self.write_packed(<const char*>cnp.PyArray_DATA(k), &f, w)
            job.w = w
        grab = <Py_ssize_t>max(1., min(<double>job.units / (2 * threads), GRAB_WORK / work))
        try:
            run_units(&job, job.units, grab, threads, scratch_new, run_unit)
        finally:
            if w != small:
                free(w)


cdef void set_strides(
    int axis, Py_ssize_t xpart, Py_ssize_t ypart, const cnp.npy_intp* xn, const cnp.npy_intp* xs,
    const cnp.npy_intp* ys, Py_ssize_t* to_x, Py_ssize_t* to_y,
) noexcept:
    to_x[0] = xpart if axis < 0 else (0 if xn[axis] == 1 else xs[axis])
    to_y[0] = ypart if axis < 0 else ys[axis]


cdef double lay_out(Job* job, int threads, bint fresh) noexcept:
    """Segments of lanes, blocks of rows, the ring: all that depends on layout and threads. Returns work per unit."""
    cdef Axis* lane = &job.lane
    cdef Axis* row = &job.row
    cdef bint native = job.format.type == real_type() and not job.format.raw
    cdef bint inplace = native and lane.x == sizeof(real) and lane.s == 1 and job.parts_in == 1
    cdef Py_ssize_t rows, m = lane.m
    cdef Py_ssize_t left, right, widest = 0, span, count, need, ring_rows
    cdef int vectors = 8, i
    # Classes differ by one kernel row, and fewer rows may make a larger group: 6 are 3 + 3, 5 are 5.
    rows = max(
        largest_group(class_rows(job, 0) * job.parts_out),
        largest_group(class_rows(job, min(job.phase, row.k) - 1) * job.parts_out),
    )
    while rows * vectors > MAX_ACC:
        vectors //= 2
    job.direct = (
        job.parts_out == 1 and lane.y == sizeof(real)
        and (job.ytype == real_type() or (sizeof(real) == 4 and job.ytype == UINT32 and real_type() == INT32)
             or (sizeof(real) == 8 and job.ytype == UINT64))
    )

    # Whole cache lines only. Pages the system has just cleared are in the cache already.
    job.stream = (
        SWEEP_VECTORS * LANES * sizeof(real) >= 64 and job.sweep and job.direct and not fresh
        and row.m * row.y > STREAM_BYTES and job.classes * row.y % 64 == 0
    )

    # The lane axis: gathered edges, an inside read in place.
    cdef Py_ssize_t edge = LANES * SWEEP_VECTORS if job.sweep else LANES
    span = lane.d * (lane.k - 1)
    left, right = 0, m
    if inplace:
        left = min(m, max(0, lane.lo))
        right = max(left, min(m, lane.n + lane.lo - span))
        if left > 0:
            left = min(right, ceil_div(left, edge) * edge)
        if right < m:
            right = max(left, m - ceil_div(m - right, edge) * edge)
        if right - left < edge or (m * <Py_ssize_t>sizeof(real) <= GATHER_BYTES and right - left < m):
            inplace = False
            left, right = 0, m
    job.regions = 0
    if left > 0:
        add_region(job, 0, left, vectors, False)
    add_region(job, left, right - left, vectors, inplace)
    if right < m:
        add_region(job, right, m - right, vectors, False)

    # Rows per block: enough units for all threads, none too large, halo rows a small part of it.
    job.slots = (row.k - 1) // job.phase + 1
    ring_rows = max(1, RING_LIMIT // (8 * LANES * <Py_ssize_t>sizeof(real) * job.parts_out))
    count = ceil_div(row.m, job.classes)
    job.block = count
    if threads > 1:
        need = ceil_div(4 * threads, max(1, job.outer * job.classes))
        job.block = max(min(count, 2 * job.slots), ceil_div(count, need))
    job.slots = min(job.slots, ring_rows)
    need = RING_BYTES // (job.slots * job.parts_out * <Py_ssize_t>sizeof(real)) // LANES * LANES
    if job.sweep:
        need = SWEEP_BYTES // ((job.sweep + row.k - 1) * job.lines * <Py_ssize_t>sizeof(real)) // LANES * LANES
    need = min(need, <Py_ssize_t>(4 * UNIT_WORK / job.kernel_size))
    job.segments = 0
    for i in range(job.regions):
        cut_region(&job.region[i], need)
        job.segments += job.region[i].pieces
        span = ceil_div(job.region[i].width, job.region[i].pieces) + 2 * job.region[i].vectors * LANES
        widest = max(widest, span)
    cdef double work_row = <double>min(widest, m) * (job.kernel_size + 8.)
    job.block = <Py_ssize_t>max(1., min(<double>job.block, UNIT_WORK / work_row))
    if job.regions > 1:
        need = BLOCK_BYTES // (m * 2 * <Py_ssize_t>sizeof(real))
        job.block = min(job.block, max(need, 4 * job.slots))
    job.line_slots = job.lines
    job.lasting = False
    if job.sweep and job.nother and not (job.regions == 1 and inplace):
        # All lines under a block are kept, if enough rows of them can be.
        need = job.parts_in
        for i in range(job.nother):
            need *= window(&job.other[i])
        span = WINDOW_BYTES // (need * (widest + window(lane)) * lane.s * <Py_ssize_t>sizeof(real)) - row.k + 1
        if span >= min(job.block, 2 * row.k):
            job.lasting = True
            job.line_slots = need
            job.block = min(job.block, span)
    if job.sweep and job.block > job.sweep:
        job.block -= job.block % job.sweep
    if job.slots == ring_rows:
        job.block = min(job.block, ring_rows)
    job.slots = min(job.slots, job.block)
    if job.sweep:
        job.slots = max(job.slots, job.sweep)
    job.blocks = ceil_div(count, job.block)
    job.units = job.outer * job.classes * job.blocks * job.segments

    # An odd number of cache lines, so that the slots do not fall on each other in the cache.
    job.slot = (ceil_div(widest * <Py_ssize_t>sizeof(real), 128) * 128 + 64) // <Py_ssize_t>sizeof(real) * job.parts_out
    job.phase_length = widest + lane.d * (lane.k - 1) // lane.s
    job.length = job.phase_length * min(lane.s, lane.d * (lane.k - 1) + 1)
    job.fills = reaches_past(row)
    for i in range(job.nother):
        job.fills = job.fills or reaches_past(&job.other[i])
    # Lines one chunk needs at once; all rows of one sweep.
    span = job.lines
    count = min(job.lines, ceil_div(CHAIN - 1, lane.k) + 1)
    if job.sweep:
        span = count = job.line_slots * (job.sweep + row.k - 1)
        if job.lasting:
            span = count = job.line_slots * (job.block + row.k - 1)
    job.keep = min(span, max(count, LINES_BYTES // (job.length * <Py_ssize_t>sizeof(real))))
    return work_row * job.block


cdef inline bint reaches_past(const Axis* axis) noexcept:
    """Whether a window along `axis` may meet ``fill``."""
    return axis.rule == CONSTANT and (axis.lo > 0 or axis.s * (axis.m - 1) + axis.d * (axis.k - 1) - axis.lo >= axis.n)


cdef void add_region(Job* job, Py_ssize_t at, Py_ssize_t width, int vectors, bint inplace) noexcept:
    cdef Segment* seg = &job.region[job.regions]
    while vectors > 1 and vectors * LANES > width:
        vectors //= 2
    seg.at, seg.width, seg.vectors, seg.inplace, seg.pieces, seg.panels = at, width, vectors, inplace, 1, 0
    job.regions += 1


cdef void cut_region(Segment* seg, Py_ssize_t most) noexcept:
    """Into pieces of about `most` lanes, each at least one panel."""
    seg.pieces = max(1, min(seg.width // (seg.vectors * LANES), ceil_div(seg.width, max(1, most))))
