"""Locally connected layers: a kernel of its own for each output position, all three contractions, of any rank.

ALGORITHM   y[n, g, o, i] = bias[g, o, i] + sum over c, j of  w[i, g, o, c, j] * X[n, g, c, s*i + d*j - lo], and the
            same form summed for x (over o and the i, j that read a sample) and for w (over n). A position i is a small
            matrix product of its own; (c, j), in the order of w, is one index p:

                result   rows       taps       lanes
                y        o          p          n          W as it lies: taps side by side, rows apart
                x        p          o          n          W as it lies: rows side by side, taps apart
                w        o          n          p          each W written once

            A few batch entries would leave most lanes empty. They are rows then, and lanes are o (y, with W transposed
            in registers) or p (x, with W as it lies): the same taps in the same order.

SCHEDULE    A unit is a box of output positions (result x: of samples) by a block of the batch, rows and channels. The
            samples under a box are gathered once, boundary and all, into a panel: [c][cell][n], or [n][c][cell] for w.
            There tap p of position i is at tap[p] + at(i): one table of taps serves all positions. For x the panel
            holds sums: each position adds to it, and those of the samples are stored when all that reach them have;
            positions near the edge of a box are computed for both boxes. Positions i with one residue modulo
            d/gcd(s, d) read samples d apart: a problem with d = 1. Units run in parallel.

NUMERICS    y: chunks of at most CHUNK taps, of so many whole channels or of parts of one, are summed on their own and
            added in order. x: so are chunks of o, position after position. w: chunks of n. All three follow from the
            shape without the batch (w: with it): results are bitwise the same for any number of threads and, but for
            w, any batch. Lanes past the batch are computed and not stored.

CALLER MUST give a result that is aligned, native and does not overlap the operands; those may be anything `line.load`
            reads. Where w is of this build's type and its taps lie side by side it is read in place.
"""

from libc.string cimport memcpy
cimport numpy as cnp

from .line cimport CONSTANT, Format, extend, format_of, gather, load, real_type, store, transpose
from .panel cimport kernel_step
from .team cimport run_units, take_block
from .tile cimport CHUNK, LANES, MAX_ACC, MAX_ROWS, real, tile, tile_apart

cnp.import_array()

cdef enum:
    MAX_AXES = 32
    VECTORS = MAX_ACC // MAX_ROWS
    WIDTH = VECTORS * LANES            # lanes of a tile
    PIECE = 256                        # taps p of a chunk's w or windows that are copied at a time; whole tiles
    MOST_ROWS = 2 * LANES              # channels o that are lanes at a time
    FEW = MAX_ROWS // 2                # batch entries
    UNIT_WORK = LANES << 25            # multiply-adds of a unit, at most: 5 to 40 ms, Ctrl-C waits for them
    RUN = 16                           # positions side by side: what y is read and written in

# Per thread. Sums of x are met by many positions in turn, so most of them may wait in L3.
cdef Py_ssize_t PANEL_BYTES = 512 << 10
cdef Py_ssize_t SUMS_BYTES = 2 << 20
cdef Py_ssize_t Y_BYTES = 128 << 10


cdef struct Axis:
    Py_ssize_t n, x                    # samples of X, bytes from one to the next
    int rule
    Py_ssize_t base, d                 # sample of cell 0: what tap 0 of position 0 reads; samples from cell to cell
    Py_ssize_t k, tap                  # taps, bytes from one to the next in w
    Py_ssize_t m, s                    # positions, cells from one to the next
    Py_ssize_t y, w, bias              # bytes from one position to the next
    Py_ssize_t begin, items            # what boxes divide: positions from 0, or for result x cells that are samples
    Py_ssize_t block, blocks, extent, pitch    # of a box: items, how many, cells in the panel, from one to the next


cdef struct Job:
    char result
    bint flip
    Py_ssize_t batch, x_batch, y_batch
    Py_ssize_t groups, x_group, y_group, w_group, bias_group
    Py_ssize_t rows, y_row, w_row                 # output channels
    Py_ssize_t channels, x_channel, w_channel
    Py_ssize_t bias_row
    int naxes                          # at least 1
    Axis axis[MAX_AXES]
    Py_ssize_t kernel                  # taps per channel
    Py_ssize_t batch_block, row_block, channel_block, batch_blocks, row_blocks, channel_blocks
    Py_ssize_t together                # channels in the panel at a time
    Py_ssize_t lanes                   # of n: from one cell to the next in the panel; 1 for result w
    Py_ssize_t plane, positions        # cells of one channel in the panel; positions of a box
    Py_ssize_t run                     # positions whose y is there at a time
    bint few                           # so few batch entries that they are rows, and o (y) or p (x) are lanes
    Py_ssize_t own_position, own_row, own_batch    # reals from one to the next in `own`; o or n lie side by side
    Py_ssize_t pitch                   # of lines on their way to lanes
    Py_ssize_t width, piece            # lanes of result w, whole tiles; of them at a time
    Py_ssize_t panel, own, sums, lines, wide, line, table, summed, whole, units    # sizes of scratch
    bint plain                         # w is read in place
    Format x_format, y_format, w_format
    real fill
    char* x
    char* y
    char* w
    const char* bias                   # NULL: none


cdef struct Scratch:
    void* block
    real* panel
    real* own                          # y of a box: [position][o][n]; of a run for x; [position][n][o] for w
    real* sums                         # of w: [o][p] for each position, or for a tile; few: X for y, a tile for x
    real* lines                        # X for w, w for x and y where it is not read in place: [n or o][p]
    real* wide                         # few, y: w with o side by side
    real* line                         # LANES of them
    const real** tap                   # of the panel, by p
    const real** of                    # of what is summed over: o in `own`, n or o in `lines`, t in `wide`
    const real** whole                 # of o in w, for position 0
    Py_ssize_t* number                 # 0, 1, 2, ...: taps that lie side by side


cdef struct Part:
    Py_ssize_t group, n0, n1, r0, r1, c0, c1
    Py_ssize_t item[MAX_AXES]          # first of the box
    Py_ssize_t items[MAX_AXES]
    Py_ssize_t first[MAX_AXES]         # position
    Py_ssize_t count[MAX_AXES]
    Py_ssize_t cell[MAX_AXES]          # where the panel starts
    Py_ssize_t rows_of_positions       # all axes but the last


cdef struct Place:
    Py_ssize_t at                      # in the panel, in reals
    char* y
    char* w
    const char* bias


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    """For b > 0 and any a: that of tile.pxd is for a >= 0."""
    return (a + b - 1) // b if a > 0 else -(-a // b)


cdef Part find_part(const Job* job, Py_ssize_t unit) noexcept nogil:
    cdef Part part
    cdef const Axis* axis
    cdef int i
    part.n0 = unit % job.batch_blocks * job.batch_block
    part.n1 = min(part.n0 + job.batch_block, job.batch)
    unit //= job.batch_blocks
    part.r0 = unit % job.row_blocks * job.row_block
    part.r1 = min(part.r0 + job.row_block, job.rows)
    unit //= job.row_blocks
    part.c0 = unit % job.channel_blocks * job.channel_block
    part.c1 = min(part.c0 + job.channel_block, job.channels)
    unit //= job.channel_blocks
    part.group = unit % job.groups
    unit //= job.groups
    part.rows_of_positions = 1
    for i in range(job.naxes - 1, -1, -1):
        axis = &job.axis[i]
        part.item[i] = axis.begin + unit % axis.blocks * axis.block
        part.items[i] = min(axis.block, axis.begin + axis.items - part.item[i])
        unit //= axis.blocks
        if job.result == b"x":
            part.cell[i] = part.item[i] - axis.k + 1
            part.first[i] = max(<Py_ssize_t>0, ceil_div(part.cell[i], axis.s))
            part.count[i] = min(axis.m - 1, (part.item[i] + part.items[i] - 1) // axis.s) - part.first[i] + 1
        else:
            part.first[i] = part.item[i]
            part.count[i] = part.items[i]
            part.cell[i] = axis.s * part.item[i]
        if i < job.naxes - 1:
            part.rows_of_positions *= max(<Py_ssize_t>0, part.count[i])
    return part


cdef Place find_place(const Job* job, const Part* part, Py_ssize_t line) noexcept nogil:
    """The first position of a row of positions."""
    cdef Place place
    cdef const Axis* axis
    cdef Py_ssize_t i
    cdef int a
    place.at = 0
    place.y = job.y + part.group * job.y_group
    place.w = job.w + part.group * job.w_group
    place.bias = job.bias + part.group * job.bias_group if job.bias != NULL else NULL
    for a in range(job.naxes - 1, -1, -1):
        axis = &job.axis[a]
        i = part.first[a]
        if a < job.naxes - 1:
            i += line % part.count[a]
            line //= part.count[a]
        place.at += (axis.s * i - part.cell[a]) * axis.pitch * job.lanes
        place.y += i * axis.y
        place.w += i * axis.w
        if place.bias != NULL:
            place.bias += i * axis.bias
    return place


cdef void gather_panel(
    const Job* job, const Part* part, Py_ssize_t c0, Py_ssize_t c1, Py_ssize_t n0, Py_ssize_t n1, Scratch* s
) noexcept nogil:
    """The samples under a box of positions, line by line."""
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef const Axis* axis
    cdef Py_ssize_t width = (part.count[job.naxes - 1] - 1) * lane.s + lane.k, lines = 1, used
    cdef Py_ssize_t i, c, n, v, e, u, at, rest
    cdef Py_ssize_t start = lane.base + lane.d * part.cell[job.naxes - 1]
    cdef Py_ssize_t n_step = 1 if job.lanes > 1 else job.channel_block * job.plane
    cdef const char* x
    cdef real* to
    cdef int a
    for a in range(job.naxes - 1):
        lines *= (part.count[a] - 1) * job.axis[a].s + job.axis[a].k
    for c in range(c0, c1):
        for i in range(lines):
            x = job.x + part.group * job.x_group + c * job.x_channel
            at = (c - c0) * job.plane
            rest = i
            for a in range(job.naxes - 2, -1, -1):
                axis = &job.axis[a]
                used = (part.count[a] - 1) * axis.s + axis.k
                e = rest % used
                rest //= used
                at += e * axis.pitch
                u = extend(axis.base + axis.d * (part.cell[a] + e), axis.n, axis.rule)
                x = x + u * axis.x if u >= 0 and x != NULL else <const char*>NULL
            for n in range(n0, n1):
                to = s.line + (n - n0) % LANES * job.pitch
                if job.lanes == 1:
                    to = s.panel + at * job.lanes + (n - n0) * n_step
                if x == NULL:
                    for v in range(width):
                        to[v] = job.fill
                else:
                    gather(
                        &job.x_format, x + n * job.x_batch, to, width, start, lane.d, lane.n, lane.x, lane.rule,
                        job.fill,
                    )
                if job.few and job.lanes > 1:
                    for v in range(width):
                        s.panel[(at + v) * job.lanes + n - n0] = to[v]
                elif job.lanes > 1 and ((n - n0) % LANES == LANES - 1 or n == n1 - 1):
                    v = (n - n0) // LANES * LANES
                    transpose(s.line, job.pitch, n - n0 - v + 1, width, s.panel + at * job.lanes + v, job.lanes)


cdef void move_y(
    const Job* job, const Part* part, const Place* place, Py_ssize_t v0, Py_ssize_t count, Py_ssize_t n0, Py_ssize_t n1,
    real* own, bint back, Scratch* s,
) noexcept nogil:
    """`count` positions of y, for the rows and batch entries of the part, to `own`, or with their bias `back`."""
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef bint by_row = job.own_row == 1
    cdef Py_ssize_t outer = n1 - n0 if by_row else part.r1 - part.r0, inner = part.r1 - part.r0 if by_row else n1 - n0
    cdef Py_ssize_t step = job.own_batch if by_row else job.own_row, o, i, m, r, n, v, first
    cdef real* line
    cdef char* y
    for o in range(outer):
        for first in range(ceil_div(inner, LANES)):
            first *= LANES
            m = min(<Py_ssize_t>LANES, inner - first)
            if back:
                transpose(own + o * step + first, job.own_position, count, m, s.line, job.pitch)
            for i in range(m):
                r = part.r0 + (first + i if by_row else o)
                n = n0 + (o if by_row else first + i)
                line = s.line + i * job.pitch
                y = place.y + n * job.y_batch + r * job.y_row + v0 * lane.y
                if not back:
                    load(&job.y_format, y, line, count, lane.y)
                    continue
                for v in range(count if place.bias != NULL else 0):
                    line[v] += (<const real*>(place.bias + r * job.bias_row + v * lane.bias))[0]
                store(job.y_format.type, line, y, count, lane.y)
            if not back:
                transpose(s.line, job.pitch, m, count, own + o * step + first, job.own_position)


cdef void store_x(const Job* job, const Part* part, Scratch* s) noexcept nogil:
    """Finished sums of a box of samples."""
    cdef int last = job.naxes - 1, a
    cdef const Axis* lane = &job.axis[last]
    cdef const Axis* axis
    cdef Py_ssize_t lines = 1, i, c, n, v, e, at, rest
    cdef const real* sums
    cdef real* line
    cdef real bias
    cdef char* x
    for a in range(last):
        lines *= part.items[a]
    for c in range(part.c0, part.c1):
        bias = 0
        if job.bias != NULL:
            bias = (<const real*>(job.bias + part.group * job.bias_group + c * job.bias_row))[0]
        for i in range(lines):
            x = job.x + part.group * job.x_group + c * job.x_channel
            at = (c - part.c0) * job.plane + part.item[last] - part.cell[last]
            x += (lane.base + lane.d * part.item[last]) * lane.x
            rest = i
            for a in range(last - 1, -1, -1):
                axis = &job.axis[a]
                e = part.item[a] + rest % part.items[a]
                rest //= part.items[a]
                at += (e - part.cell[a]) * axis.pitch
                x += (axis.base + axis.d * e) * axis.x
            for n in range(part.n0, part.n1):
                sums = s.panel + at * job.lanes + n - part.n0
                line = s.line + (n - part.n0) % LANES * job.pitch
                if job.few:
                    for v in range(part.items[last]):
                        line[v] = sums[v * job.lanes]
                elif (n - part.n0) % LANES == 0:
                    transpose(
                        sums, job.lanes, part.items[last], min(<Py_ssize_t>LANES, part.n1 - n), s.line, job.pitch
                    )
                for v in range(part.items[last]):
                    line[v] += bias
                store(job.x_format.type, line, x + n * job.x_batch, part.items[last], lane.d * lane.x)


cdef void move_taps(
    const Job* job, char* w, Py_ssize_t p, Py_ssize_t count, real* to, bint back
) noexcept nogil:
    """Taps `p` to `p + count` of one row of one position, from `w` to `to` or `back`: what lies evenly at a time."""
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t rest, n
    cdef char* at
    cdef int a
    if job.plain:
        if back:
            store(job.w_format.type, to, w + p * <Py_ssize_t>sizeof(real), count, sizeof(real))
        else:
            load(&job.w_format, w + p * <Py_ssize_t>sizeof(real), to, count, sizeof(real))
        return
    while count > 0:
        n = min(count, lane.k - p % lane.k)
        at = w
        rest = p
        for a in range(job.naxes - 1, -1, -1):
            at += rest % job.axis[a].k * job.axis[a].tap
            rest //= job.axis[a].k
        at += rest * job.w_channel
        if back:
            store(job.w_format.type, to, at, n, lane.tap)
        else:
            load(&job.w_format, at, to, n, lane.tap)
        p += n
        to += n
        count -= n


cdef inline int narrowest(Py_ssize_t lanes) noexcept nogil:
    """Vectors of a tile for so many lanes."""
    cdef int vectors = VECTORS
    while vectors > 1 and vectors // 2 * LANES >= lanes:
        vectors //= 2
    return vectors


cdef inline const real* some_taps(
    const Job* job, char* w, Py_ssize_t rows, Py_ssize_t p, Py_ssize_t count, Py_ssize_t* apart, Scratch* s
) noexcept nogil:
    """Taps `p` to `p + count` of `rows` rows of one position, and how far rows are `apart`: in place if they can be."""
    cdef Py_ssize_t i
    if job.plain and (not job.few or count >= LANES):
        apart[0] = job.w_row // <Py_ssize_t>sizeof(real)
        return <const real*>w + p
    for i in range(rows):
        move_taps(job, w + i * job.w_row, p, count, s.lines + i * PIECE, False)
    apart[0] = PIECE
    return s.lines


cdef void run_y(const Job* job, const Part* part, Scratch* s) noexcept nogil:
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t c0, c1, t0, t1, t, taps, row, v, r, i, at, apart, batch = part.n1 - part.n0
    cdef int n, vectors = narrowest(batch)
    cdef const real* src[MAX_ROWS]
    cdef real* dst[MAX_ROWS]
    cdef const real* weights
    cdef real* own
    cdef real* to
    cdef Place place
    c1 = 0
    while c1 < job.channels:
        c0 = c1
        c1 = min(job.channels, c0 + job.together)
        gather_panel(job, part, c0, c1, part.n0, part.n1, s)
        taps = (c1 - c0) * job.kernel
        for row in range(part.rows_of_positions):
            place = find_place(job, part, row)
            for v in range(part.count[job.naxes - 1]):
                own = s.own + (row * lane.block + v) * job.own_position
                at = place.at + v * lane.s * job.lanes
                t1 = 0
                while t1 < taps:
                    t0 = t1
                    t1 = min(taps, t0 + CHUNK)
                    if job.few:
                        for t in range(t1 - t0):
                            for i in range(batch):
                                s.sums[t * batch + i] = s.tap[t0 + t][at + i]
                    r = part.r0
                    while r < part.r1:
                        n = <int>min(<Py_ssize_t>(MOST_ROWS if job.few else MAX_ROWS), part.r1 - r)
                        weights = some_taps(
                            job, place.w + v * lane.w + r * job.w_row, n, c0 * job.kernel + t0, t1 - t0, &apart, s
                        )
                        to = own + (r - part.r0) * job.own_row
                        if job.few:
                            for i in range(batch):
                                dst[i] = to + i * job.own_batch
                                src[i] = dst[i] if c0 + t0 > 0 else NULL
                            transpose(weights, apart, n, t1 - t0, s.wide, MOST_ROWS)
                            tile(<int>batch, narrowest(n), 1, t1 - t0, s.of, 0, s.sums, src, dst, batch, False)
                        else:
                            tile_apart(
                                n, vectors, t1 - t0, s.tap + t0, at, weights, s.number, apart,
                                to if c0 + t0 > 0 else NULL, job.own_row, to, job.own_row,
                            )
                        r += n
    for row in range(part.rows_of_positions):
        place = find_place(job, part, row)
        move_y(
            job, part, &place, 0, part.count[job.naxes - 1], part.n0, part.n1,
            s.own + row * lane.block * job.own_position, True, s,
        )


cdef void add_taps(
    const Job* job, Py_ssize_t rows, Py_ssize_t p0, Py_ssize_t p1, Py_ssize_t batch, const real* const* of,
    Py_ssize_t shift, const real* y, Py_ssize_t at, Scratch* s,
) noexcept nogil:
    """Result x of few batch entries: products of `rows` channels o, to the sums under taps `p0` to `p1`."""
    cdef const real* src[MAX_ROWS]
    cdef real* dst[MAX_ROWS]
    cdef Py_ssize_t p = p0, i, q, skip, width
    cdef int vectors
    cdef real* sum
    for i in range(batch):
        src[i] = NULL
        dst[i] = s.sums + i * WIDTH
    while p < p1:
        vectors = VECTORS
        while vectors > 1 and p + vectors * LANES > p1:
            vectors //= 2
        skip = max(<Py_ssize_t>0, p + LANES - p1) if p1 - p0 >= LANES else 0  # the last vector ends where taps do
        tile(<int>batch, vectors, 1, rows, of, p - skip + shift, y, src, dst, job.own_row, False)
        width = min(p1 - p, vectors * LANES - skip)
        for q in range(width):
            sum = <real*>s.tap[p + q] + at
            for i in range(batch):
                sum[i] += s.sums[i * WIDTH + skip + q]
        p += width


cdef void run_x(const Job* job, const Part* part, Scratch* s) noexcept nogil:
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t first = part.c0 * job.kernel, taps = (part.c1 - part.c0) * job.kernel
    cdef Py_ssize_t count = part.count[job.naxes - 1], row, v, o0, o1, p0, p1, p, i, at, step, shift
    cdef int n, vectors = narrowest(part.n1 - part.n0)
    cdef bint in_place = job.plain and (not job.few or taps >= LANES)
    cdef real* dst[MAX_ROWS]
    cdef const real* weights
    cdef const real* y
    cdef char* w
    cdef Place place
    for i in range(job.panel):
        s.panel[i] = 0
    for row in range(part.rows_of_positions):
        place = find_place(job, part, row)
        for v in range(count):
            if v % job.run == 0:
                move_y(job, part, &place, v, min(job.run, count - v), part.n0, part.n1, s.own, False, s)
            w = place.w + v * lane.w
            at = place.at + v * lane.s * job.lanes
            y = s.own + v % job.run * job.own_position
            o1 = 0
            while o1 < job.rows:
                o0 = o1
                o1 = min(job.rows, o0 + CHUNK)
                p1 = 0
                while p1 < taps:
                    p0 = p1
                    p1 = taps if in_place else min(taps, p0 + PIECE)
                    if in_place:
                        step = job.w_row // <Py_ssize_t>sizeof(real)
                        weights = <const real*>(w + o0 * job.w_row) + first
                        shift = (w - job.w) // <Py_ssize_t>sizeof(real) + first
                    else:
                        for i in range(o0, o1):
                            move_taps(job, w + i * job.w_row, first + p0, p1 - p0, s.lines + (i - o0) * PIECE, False)
                        step = PIECE
                        weights = s.lines
                        shift = -p0
                    if job.few:
                        add_taps(
                            job, o1 - o0, p0, p1, part.n1 - part.n0, s.whole + o0 if in_place else s.of, shift,
                            y + o0 * job.own_row, at, s,
                        )
                        continue
                    p = p0
                    while p < p1:
                        n = <int>min(<Py_ssize_t>MAX_ROWS, p1 - p)
                        for i in range(n):
                            dst[i] = <real*>s.tap[p + i] + at
                        tile(
                            n, vectors, 1, o1 - o0, s.of + o0, v % job.run * job.own_position, weights + p - p0,
                            <const real* const*>dst, dst, step, False,
                        )
                        p += n
    store_x(job, part, s)


cdef void copy_windows(
    const Job* job, Py_ssize_t p0, Py_ssize_t p1, Py_ssize_t at, real* to, const Scratch* s
) noexcept nogil:
    """What taps `p0` to `p1` of a position see. Four at a time, and some past the last, since whole vectors would cross
    lines of the cache and single reals take as long each."""
    cdef Py_ssize_t p = p0, k = job.axis[job.naxes - 1].k, n = k - p0 % k, i
    if job.flip or k == 1:
        for p in range(p0, p1):
            to[p - p0] = s.tap[p][at]
        return
    while p < p1:
        for i in range(ceil_div(min(n, p1 - p), 4)):
            memcpy(to + p - p0 + 4 * i, s.tap[p] + at + 4 * i, 4 * sizeof(real))
        p += n
        n = k


cdef void run_w(const Job* job, const Part* part, Scratch* s) noexcept nogil:
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t taps = (part.c1 - part.c0) * job.kernel, count = part.count[job.naxes - 1], rows = part.r1 - part.r0
    cdef Py_ssize_t n0, n1, row, v, p0, p1, p, r, i, at, panels, width
    cdef int n, vectors
    cdef bint whole = job.batch <= CHUNK  # nothing has to wait for a later chunk
    cdef bint few = job.batch <= FEW  # stores are what takes time, and row after row they are one stream
    cdef bint straight
    cdef const real* src[MAX_ROWS]
    cdef real* dst[MAX_ROWS]
    cdef char* w
    cdef Place place
    n1 = 0
    while n1 < job.batch:
        n0 = n1
        n1 = min(job.batch, n0 + CHUNK)
        gather_panel(job, part, part.c0, part.c1, n0, n1, s)
        for row in range(part.rows_of_positions):
            place = find_place(job, part, row)
            move_y(job, part, &place, 0, count, n0, n1, s.own, False, s)
            for v in range(count):
                p1 = 0
                while p1 < taps:
                    p0 = p1
                    p1 = min(taps, p0 + job.piece)
                    for i in range(n1 - n0):
                        at = i * job.channel_block * job.plane + place.at + v * lane.s
                        copy_windows(job, p0, p1, at, s.lines + i * job.piece, s)
                    r = 0
                    while r < rows:
                        n = <int>min(<Py_ssize_t>(1 if few else MAX_ROWS), rows - r)
                        w = place.w + v * lane.w + (part.r0 + r) * job.w_row
                        p = p0
                        while p < p1:
                            vectors = 8 if few and p1 - p >= 8 * LANES else narrowest(p1 - p)
                            straight = whole and job.plain and p + vectors * LANES <= p1
                            panels = (p1 - p) // (8 * LANES) if vectors == 8 and straight else 1
                            width = min(p1 - p, panels * vectors * LANES)
                            for i in range(n):
                                if straight:
                                    dst[i] = <real*>(w + i * job.w_row) + part.c0 * job.kernel + p
                                elif whole:
                                    dst[i] = s.sums + i * 8 * LANES
                                else:
                                    at = (row * lane.block + v) * job.row_block + r + i
                                    dst[i] = s.sums + at * job.width + p
                                src[i] = dst[i] if n0 > 0 else NULL
                            tile(
                                n, vectors, panels, n1 - n0, s.of, p - p0, s.own + v * job.own_position + r, src, dst,
                                job.own_batch, False,
                            )
                            for i in range(n if n1 == job.batch and not straight else 0):
                                move_taps(job, w + i * job.w_row, part.c0 * job.kernel + p, width, dst[i], True)
                            p += width
                        r += n


cdef void run_unit(const void* given, Py_ssize_t unit, void* scratch) noexcept nogil:
    cdef const Job* job = <const Job*>given
    cdef Part part = find_part(job, unit)
    if job.result == b"y":
        run_y(job, &part, <Scratch*>scratch)
    elif job.result == b"x":
        run_x(job, &part, <Scratch*>scratch)
    else:
        run_w(job, &part, <Scratch*>scratch)


cdef void* scratch_new(const void* given) noexcept nogil:
    """One block for one thread; NULL when memory is short."""
    cdef const Job* job = <const Job*>given
    cdef Py_ssize_t head = (sizeof(Scratch) + 63) // 64 * 64
    cdef Py_ssize_t pointers = (job.table + job.summed + job.whole + CHUNK) * sizeof(real*)
    cdef Py_ssize_t reals = job.panel + job.own + job.sums + job.lines + job.wide + job.line, i, p, rest, at, e
    cdef void* block = take_block(128 + head + pointers + reals * sizeof(real))
    cdef int a
    if block == NULL:
        return NULL
    cdef char* start = <char*>((<size_t>block + 63) // 64 * 64)
    cdef Scratch* s = <Scratch*>start
    s.block = block
    s.tap = <const real**>(start + head)
    s.of = s.tap + job.table
    s.whole = s.of + job.summed
    s.number = <Py_ssize_t*>(s.whole + job.whole)
    s.panel = <real*>((<size_t>(s.number + CHUNK) + 63) // 64 * 64)
    for i in range(CHUNK):
        s.number[i] = i
    s.own = s.panel + job.panel
    s.sums = s.own + job.own
    s.lines = s.sums + job.sums
    s.wide = s.lines + job.lines
    s.line = s.wide + job.wide
    for i in range(reals):
        s.panel[i] = 0
    for p in range(job.table):
        rest = p
        at = 0
        for a in range(job.naxes - 1, -1, -1):
            e = rest % job.axis[a].k
            rest //= job.axis[a].k
            at += (job.axis[a].k - 1 - e if job.flip else e) * job.axis[a].pitch
        s.tap[p] = s.panel + (rest * job.plane + at) * job.lanes
    for i in range(job.summed):
        if job.result == b"y":
            s.of[i] = s.wide + i * MOST_ROWS
        else:
            s.of[i] = s.lines + i * job.piece if job.few or job.result == b"w" else s.own + i * job.own_row
    for i in range(job.whole):
        s.whole[i] = <const real*>(job.w + i * job.w_row)
    return s


cdef Py_ssize_t measure(Job* job) noexcept:
    """What follows from the sizes of blocks; returns bytes of what a unit has in the caches."""
    cdef Py_ssize_t batch = min(job.batch, <Py_ssize_t>CHUNK), channels = job.channel_block
    cdef Axis* axis
    cdef int i
    job.batch_blocks = ceil_div(job.batch, job.batch_block)
    job.row_blocks = ceil_div(job.rows, job.row_block)
    job.channel_blocks = ceil_div(job.channels, job.channel_block)
    job.units = job.groups * job.batch_blocks * job.row_blocks * job.channel_blocks
    job.plane = job.positions = 1
    for i in range(job.naxes - 1, -1, -1):
        axis = &job.axis[i]
        axis.blocks = ceil_div(axis.items, axis.block)
        axis.pitch = job.plane
        if job.result == b"x":
            axis.extent = axis.block + 2 * (axis.k - 1)
        else:
            axis.extent = (axis.block - 1) * axis.s + axis.k
            job.positions *= axis.block
        job.plane *= axis.extent
        job.units *= axis.blocks
    job.pitch = max(axis_last(job).extent, axis_last(job).m if job.result == b"x" else axis_last(job).block)
    job.pitch = ceil_div(job.pitch, LANES) * LANES
    job.line = LANES * job.pitch
    job.sums = job.lines = job.summed = job.wide = job.whole = 0
    job.piece = PIECE
    job.own_batch, job.own_row = 1, ceil_div(job.batch, LANES) * LANES if job.few else job.lanes
    if job.result == b"w" or (job.few and job.result == b"y"):
        job.own_batch, job.own_row = ceil_div(job.row_block, LANES) * LANES, 1
        job.own_position = job.own_batch * batch
    else:
        job.own_position = job.row_block * job.own_row
    if job.result == b"y":
        channels = job.together
        job.own = job.positions * job.own_position
        job.lines = (MOST_ROWS if job.few else MAX_ROWS) * PIECE
        if job.few:
            job.sums = CHUNK * job.batch
            job.wide = CHUNK * MOST_ROWS
            job.summed = CHUNK
    elif job.result == b"x":
        job.run = max(<Py_ssize_t>1, min(axis_last(job).m, Y_BYTES // (job.own_position * <Py_ssize_t>sizeof(real))))
        job.own = job.run * job.own_position
        job.lines = CHUNK * PIECE
        job.summed = CHUNK if job.few else job.rows
        if job.few:
            job.sums = MAX_ROWS * WIDTH
            job.whole = job.rows
    else:
        job.width = ceil_div(job.channel_block * job.kernel, WIDTH) * WIDTH
        job.own = axis_last(job).block * job.own_position
        job.sums = MAX_ROWS * 8 * LANES if job.batch <= CHUNK else job.positions * job.row_block * job.width
        job.lines = CHUNK * PIECE + LANES
        job.summed = CHUNK
        # Whole rows of w if there is room: stores that run on are faster.
        job.piece = min(job.width, max(<Py_ssize_t>PIECE, CHUNK * PIECE // batch // WIDTH * WIDTH))
    job.table = channels * job.kernel
    job.panel = channels * job.plane * job.lanes * (batch if job.result == b"w" else 1)
    job.panel = ceil_div(job.panel + LANES, LANES) * LANES  # copies of windows reach past the last
    return (job.panel + job.own + job.sums) * sizeof(real)


cdef inline Axis* axis_last(Job* job) noexcept:
    return &job.axis[job.naxes - 1]


cdef bint shrink_box(Job* job, Py_ssize_t least) noexcept:
    """Halve the box where it is longest, in kernels; False where it is no more than `least` of them along each axis."""
    cdef Axis* longest = NULL
    cdef Axis* axis
    cdef int i
    for i in range(job.naxes):
        axis = &job.axis[i]
        if axis.block > max(<Py_ssize_t>1, least * axis.k):
            if longest == NULL or axis.block * longest.k > longest.block * axis.k:
                longest = axis
    if longest == NULL:
        return False
    longest.block = ceil_div(longest.block, 2)
    return True


cdef bint halve(Py_ssize_t* block, Py_ssize_t least) noexcept:
    """Whether a block can be halved and still be `least`; if so it is."""
    cdef Py_ssize_t half = ceil_div(block[0], 2)
    if block[0] == 1 or half < least:
        return False
    block[0] = half
    return True


cdef void lay_out(Job* job, int threads) noexcept:
    """Blocks. Chunks and `together` decide the order of sums and follow from the shape alone; none of the rest does."""
    cdef Axis* lane = axis_last(job)
    cdef Axis* line = &job.axis[max(0, job.naxes - 2)]
    cdef Py_ssize_t bytes, per_channel = ceil_div(4 * MAX_ROWS, job.kernel)
    cdef double work = 1
    cdef int i
    job.few = job.batch <= FEW and LANES > 1 and job.result != b"w"
    if job.result == b"y" and job.rows < LANES // 2:
        job.few = False
    job.lanes = 1 if job.result == b"w" else job.batch if job.few else narrowest(job.batch) * LANES
    job.batch_block = job.batch if job.result == b"w" else job.lanes
    job.row_block, job.channel_block = job.rows, job.channels
    job.together = min(job.channels, max(<Py_ssize_t>1, CHUNK // job.kernel))
    if job.result == b"x":
        for i in range(job.naxes):
            job.axis[i].block = job.axis[i].items
        while True:
            bytes = measure(job)
            work = <double>job.channel_block * job.kernel * job.rows * job.lanes
            for i in range(job.naxes):
                work *= min(job.axis[i].m, (job.axis[i].block + job.axis[i].k) // job.axis[i].s + 1)
            if bytes <= SUMS_BYTES and work <= UNIT_WORK and (threads == 1 or job.units >= 2 * threads):
                return
            # Channels apart cost nothing as long as rows fill tiles and lines of the cache; boxes overlap.
            if halve(&job.channel_block, per_channel) or shrink_box(job, 4):
                continue
            if bytes <= SUMS_BYTES or not (halve(&job.channel_block, 1) or shrink_box(job, 0)):
                return
    for i in range(job.naxes):
        job.axis[i].block = 1
    if lane.s <= 2 * lane.k:
        lane.block = min(lane.items, <Py_ssize_t>(2 * RUN if job.result == b"w" else RUN))
    while line.s < line.k and line.block < min(line.items, <Py_ssize_t>RUN) and line != lane:
        line.block = min(line.items, 2 * line.block)
    while True:
        bytes = measure(job)
        if bytes > PANEL_BYTES:
            if line != lane and halve(&line.block, 2 if line.s < line.k else 1) or halve(&lane.block, 4):
                continue
            if job.result == b"w" and halve(&job.channel_block, ceil_div(PIECE, job.kernel)):
                continue
            if halve(&job.row_block, 4 * MAX_ROWS) or halve(&line.block, 1) or halve(&lane.block, 1):
                continue
            if job.result == b"w" and halve(&job.channel_block, 1):
                continue
            return
        if threads == 1 or job.units >= 4 * threads:
            return
        if not (line != lane and halve(&line.block, 1) or halve(&lane.block, 4) or halve(&job.row_block, MAX_ROWS)):
            if job.result != b"w" or not halve(&job.channel_block, ceil_div(WIDTH, job.kernel)):
                return


cdef class Local:
    """One Contraction with a kernel for each output position, laid out for this build."""

    cdef Job job
    cdef Py_ssize_t stride[MAX_AXES]
    cdef Py_ssize_t dilation[MAX_AXES]
    cdef Py_ssize_t lo[MAX_AXES]
    cdef int rank

    def __cinit__(self, form, rules, fill):
        cdef Job* job = &self.job
        cdef Axis* axis
        cdef int i
        self.rank = form.rank
        job.result, job.flip, job.fill = ord(form.result), form.flip, fill
        job.batch, job.groups, job.rows, job.channels = form.batch, form.groups, form.features, form.channels
        job.naxes = max(1, self.rank)
        job.kernel = 1
        axis = &job.axis[0]  # where there is none, one of one sample
        axis.n = axis.k = axis.m = 1
        axis.rule = CONSTANT
        self.stride[0] = self.dilation[0] = 1
        self.lo[0] = 0
        for i in range(self.rank):
            axis = &job.axis[i]
            axis.n, axis.k, axis.m, axis.rule = form.size[i], form.kernel[i], form.out_size[i], rules[i]
            self.stride[i], self.dilation[i], self.lo[i] = form.stride[i], form.dilation[i], form.padding[i][0]
            if axis.k == 1:
                self.dilation[i] = self.stride[i]
            job.kernel *= axis.k

    def run(self, cnp.ndarray a not None, cnp.ndarray b not None, cnp.ndarray out not None, bias, int threads):
        """`out` = the contraction of its canonical operands; `bias`, of this build's type, is added."""
        cdef Job job = self.job
        cdef cnp.ndarray x, y, w, bias_array
        cdef const cnp.npy_intp* xs
        cdef const cnp.npy_intp* ys
        cdef const cnp.npy_intp* ws
        cdef const cnp.npy_intp* bs = NULL
        cdef Axis* axis
        cdef Py_ssize_t taps = sizeof(real)
        cdef int i
        if cnp.PyArray_SIZE(out) == 0:
            return
        x, y, w = (a, out, b) if job.result == b"y" else (out, a, b) if job.result == b"x" else (b, a, out)
        if cnp.PyArray_SIZE(y) == 0 or (job.result == b"x" and self.leaves_gaps()):
            out[...] = 0 if bias is None else bias.astype(out.dtype)
            if cnp.PyArray_SIZE(y) == 0:
                return
        xs, ys, ws = cnp.PyArray_STRIDES(x), cnp.PyArray_STRIDES(y), cnp.PyArray_STRIDES(w)
        job.x, job.y, job.w = <char*>cnp.PyArray_DATA(x), <char*>cnp.PyArray_DATA(y), <char*>cnp.PyArray_DATA(w)
        job.x_format, job.y_format, job.w_format = format_of(x), format_of(y), format_of(w)
        job.x_batch, job.x_group, job.x_channel = xs[0], xs[1], xs[2]
        job.y_batch, job.y_group, job.y_row = ys[0], ys[1], ys[2]
        i = self.rank
        job.w_group, job.w_row, job.w_channel = ws[i], ws[i + 1], ws[i + 2]
        job.bias = NULL
        if bias is not None:
            bias_array = bias
            job.bias, bs = <const char*>cnp.PyArray_DATA(bias_array), cnp.PyArray_STRIDES(bias_array)
            job.bias_group, job.bias_row = bs[0], bs[1]
        job.plain = job.w_format.type == real_type() and not job.w_format.raw
        for i in range(self.rank - 1, -1, -1):
            axis = &job.axis[i]
            axis.x, axis.y, axis.w, axis.tap = xs[3 + i], ys[3 + i], ws[i], ws[self.rank + 3 + i]
            axis.bias = bs[2 + i] if bs != NULL and cnp.PyArray_DIM(bias_array, 2 + i) > 1 else 0
            job.plain = job.plain and (axis.k == 1 or axis.tap == taps)
            taps *= axis.k
        job.plain = job.plain and (job.channels == 1 or job.w_channel == taps)
        self.run_phases(&job, threads)

    cdef bint leaves_gaps(self):
        """Whether there may be samples that no position reads and no box holds."""
        cdef int i
        for i in range(self.rank):
            if self.dilation[i] > 1:
                return True
        return False

    cdef int run_phases(self, const Job* given, int threads) except -1:
        """Positions by their residue modulo d/gcd(s, d): those of one read samples d apart, d = 1 to all loops."""
        cdef Job job
        cdef Axis* axis
        cdef Py_ssize_t phases = 1, phase, rest, residue, s, d
        cdef Py_ssize_t residues[MAX_AXES]
        cdef int i
        for i in range(given.naxes):
            residues[i] = kernel_step(self.dilation[i], self.stride[i])  # d / gcd(s, d)
            phases *= min(residues[i], given.axis[i].m)
        for phase in range(phases):
            job = given[0]
            rest = phase
            for i in range(job.naxes):
                axis = &job.axis[i]
                residue = rest % min(residues[i], axis.m)
                rest //= min(residues[i], axis.m)
                s, d = self.stride[i], self.dilation[i]
                axis.base, axis.d, axis.s = s * residue - self.lo[i], d, s * residues[i] // d
                job.y += residue * axis.y
                job.w += residue * axis.w
                if job.bias != NULL:
                    job.bias += residue * axis.bias
                axis.y *= residues[i]
                axis.w *= residues[i]
                axis.bias *= residues[i]
                axis.m = ceil_div(axis.m - residue, residues[i])
                axis.begin, axis.items = 0, axis.m
                if job.result == b"x":
                    axis.begin = ceil_div(-axis.base, d)
                    axis.items = ceil_div(axis.n - axis.base, d) - axis.begin
                if axis.items <= 0:
                    break
            else:
                self.run_job(&job, threads)
        return 0

    cdef int run_job(self, Job* job, int threads) except -1:
        """The loops, with a look at Ctrl-C now and then."""
        lay_out(job, threads)
        return run_units(job, job.units, 1, threads, scratch_new, run_unit)
