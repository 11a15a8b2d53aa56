"""Layers and their input gradients: all channels meet all others, any rank.

ALGORITHM   y[n, g, r, l] = bias[g, r] + sum over c, j of  A[g, r, c, j] * X[n, g, c, offset + p*j + q*l], axis by axis.
            The output of a layer is that with r = o, A = w, X = x, q = stride, p = dilation. Its input gradient is
            that with r = c, A = w, X = g (the gradient of y), for the input positions of one residue modulo the
            stride at a time: they meet the kernel positions of one residue, at q = 1 and a negative p. Of the last two
            axes all residues, called phases, are made at once: a lane has s results side by side along each, every one
            with taps of its own, all of which read X from  ceil((offset + p*j) / s) + l  on.

SCHEDULE    A unit is a block of rows r by a block of lanes l of one group: some lines of the second last axis, each
            whole or a segment, or all lines of several places (batch entry, position along all but the last two axes).
            For some channels at a time the samples under the block are gathered into a panel, once, in planes of every
            q-th sample: there the lanes of every kernel position lie side by side, lines apart by `pitch`. Then all
            rows of the block pass by. Units run in parallel. The tile takes the block in one of two ways:

            straight   its rows are output channels, whose weights are read where the caller has them, its lanes are
                       positions, across lines: the few between two lines are computed and not stored
            turned     its rows are positions, whose samples are read in the panel, its lanes are output channels:
                       weights and results are transposed on the way. No lane is wasted, at any size of the image

                taps (c, j): where they start in the panel  ->  tile(rows r, lanes l)  ->  sums[phase][r][l] += ...

            Taps of an input gradient lie all channels apart, each weight in a cache line of its own: there `straight`
            has the weights of a chunk brought side by side, too. Lines of y are woven from their phases.

NUMERICS    Chunks of about CHUNK taps are summed on their own and added in order, which follows from the shape alone:
            results are bitwise the same for any number of threads, any batch and any position.

CALLER MUST give A in the build's own type, and a y that is aligned, native and does not overlap X.
"""

from libc.string cimport memset
cimport numpy as cnp

from .line cimport CONSTANT, Format, copy_line, extend, format_of, gather, gather_pairs, real_type, store, weave
from .panel cimport (
    Axis, find_place, first_sample, image_start, kernel_step, leaves_gaps, residue_of, take_residue, unit_axis
)
from .team cimport LINE, cut, run_units, take_block
from .tile cimport CHUNK, LANES, MAX_ROWS, ceil_div, most_rows, most_vectors, real, tile_apart, tile_vectors, turn

cdef extern from "simd.h":
    void prefetch(const char* p, Py_ssize_t bytes) noexcept nogil

cnp.import_array()

cdef enum:
    MAX_AXES = 64
    SPREAD = 4                         # strides from tap to tap; from there on they share few samples
    MOST_TAPS = 3 * CHUNK // 2
    MOST_PHASES = 9                    # of two axes: each has sums of its own, and 16 leave room for few positions
    CACHE_LINE = LINE // sizeof(real)

# Per thread, most of it in an L2 cache of 512 kB or more. Half or twice as much is within 5 %, but for NEAR_SUMS_BYTES,
# twice of which makes 1 x 1 layers of many channels 10 % slower (x86_64_v3, Zen 3, 2026-11). Turned, each block packs
# all weights anew: sums beyond the L2 cache cost less, half as many made strided gradients 2 to 12 % slower.
cdef Py_ssize_t SUMS_BYTES = 384 << 10
cdef Py_ssize_t TURNED_SUMS_BYTES = 1536 << 10
cdef Py_ssize_t NEAR_SUMS_BYTES = 96 << 10   # straight, if they are met once for each of several chunks
cdef Py_ssize_t PANEL_BYTES = 256 << 10
cdef Py_ssize_t NEAR_PANEL_BYTES = 24 << 10  # stays in the L1 cache
cdef Py_ssize_t WEIGHTS_BYTES = 128 << 10    # met by all lanes of a block before others are
cdef Py_ssize_t MOST_LANES = 1024
cdef Py_ssize_t PACKED_LANES = 256, PACKED_POSITIONS = 128    # as many repay weights that are brought side by side


cdef struct Job:
    Py_ssize_t batch, x_batch, y_batch
    Py_ssize_t groups, a_group, x_group, y_group
    Py_ssize_t rows, a_row, y_row
    Py_ssize_t channels, a_channel, x_channel
    int naxes                          # at least 2; the last two are `line` and `lane`
    Axis axis[MAX_AXES]
    Py_ssize_t phases, lane_phases     # pairs of residues along `line` and `lane`; residues along `lane`
    Py_ssize_t height, width           # results along `line` and `lane`
    Py_ssize_t image_taps              # of the last two axes
    Py_ssize_t images                  # planes of channels and of taps of the other axes
    Py_ssize_t together                # of these, gathered at a time
    Py_ssize_t places                  # of one group
    Py_ssize_t entries, lines, segment  # of a block of lanes: places, lines of each, lanes of each
    Py_ssize_t place_blocks, line_blocks, segments
    Py_ssize_t pitch                   # lanes from line to line in the panel
    Py_ssize_t plane                   # reals of one image of one place in the panel
    bint turned
    bint packed                        # straight: whether the weights of a tile's rows are brought side by side
    int vectors                        # of a tile
    Py_ssize_t lanes                   # from row to row of the sums, whole vectors
    Py_ssize_t apart                   # from phase to phase of the sums
    Py_ssize_t row_block, row_blocks, units
    Format format
    int ytype
    bint plain                         # y has reals side by side
    bint pairs                         # X has, too, and lanes are every second of them
    real fill
    const char* x
    char* y
    const char* a
    const char* a_end
    const real* bias                   # NULL: none


cdef struct Scratch:
    void* block
    real* sums                         # [phase][row][lane]
    real* panel                        # [image][place][strip of lines][strip of lanes][line][lane]
    real* packed                       # [tap][output channel]; turned: those of a tile
    real* start                        # [row][lane of a tile]: its bias; turned: [output channel]
    real* line                         # turned: [phase][LANES output channels][position]
    const real** tap
    Py_ssize_t* weight                 # of each tap, from that of the first one, in reals
    Py_ssize_t* image_lane             # of each tap of one image, phase by phase: its first lane in the panel
    Py_ssize_t* image_weight
    Py_ssize_t* phase                  # the first of these of each phase, and their end
    Py_ssize_t* source                 # turned or packed: of each tap, its weight as above


cdef struct Block:
    Py_ssize_t group, r0, r1
    Py_ssize_t place0, line0, lane0, entries, lines, width
    Py_ssize_t step                    # lanes from line to line
    Py_ssize_t lanes
    Py_ssize_t results, result_lines   # of a line; lines of results
    bint straight                      # whether the lanes of a row lie in y as they do in the sums


cdef inline Py_ssize_t strip_start(const Axis* axis, Py_ssize_t strip) noexcept nogil:
    """The position of the first sample of a strip, for output position 0."""
    if axis.spread:
        return first_sample(axis, strip)
    return min(first_sample(axis, 0), first_sample(axis, axis.k - 1)) + strip


cdef inline Py_ssize_t strip_of(const Axis* axis, Py_ssize_t tap, Py_ssize_t* first) noexcept nogil:
    """The strip that `tap` reads, and from which of its samples on."""
    cdef Py_ssize_t u = first_sample(axis, tap) - strip_start(axis, 0)
    first[0] = 0 if axis.spread else u // axis.q
    return tap if axis.spread else u % axis.q


cdef void gather_image(
    const Job* job, const char* x, Py_ssize_t line0, Py_ssize_t lane0, Py_ssize_t lines, Py_ssize_t width, real* to
) noexcept nogil:
    """One image under a block of lanes: [strip of lines][strip of lanes][line][lane]. x NULL: nothing but fill."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t count = width + lane.shift, strip = (job.lines + line.shift) * job.pitch
    cdef Py_ssize_t row, column, i, u, v, n
    cdef const char* p
    for row in range(line.strips):
        for column in range(1 if job.pairs else lane.strips):
            v = strip_start(lane, column) + lane.q * lane0
            for i in range(lines + line.shift):
                u = -1
                if x != NULL:
                    u = extend(strip_start(line, row) + line.q * (line0 + i), line.n, line.rule)
                n, p = 0, NULL  # fill
                if u >= 0:
                    n, p = lane.n, x + u * line.x
                    if lane.x == job.format.size:  # the next image, most likely, which the hardware does not foresee
                        prefetch(p + job.x_channel + max(<Py_ssize_t>0, v) * lane.x, count * lane.q * lane.x)
                if job.pairs:
                    gather_pairs(
                        <const real*>p, to, to + strip if lane.strips == 2 else NULL, count, v, n, lane.rule, job.fill
                    )
                else:
                    gather(&job.format, p, to, count, v, lane.q, n, lane.x, lane.rule, job.fill)
                to += job.pitch
            to += (job.lines - lines) * job.pitch
        if job.pairs and lane.strips == 2:
            to += strip


cdef void find_image_taps(const Job* job, Scratch* s) noexcept nogil:
    """Where each tap of one image has its first lane in the panel, and its weight from that of the first."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t row, column, a, b, u, v, phase, t = 0
    for phase in range(job.phases):
        s.phase[phase] = t
        for a in range(line.k):
            row = strip_of(line, a, &u)
            for b in range(lane.k):
                if residue_of(line, a) != phase // job.lane_phases or residue_of(lane, b) != phase % job.lane_phases:
                    continue  # residues past the size are no phases
                column = strip_of(lane, b, &v)
                s.image_lane[t] = ((row * lane.strips + column) * (job.lines + line.shift) + u) * job.pitch + v
                s.image_weight[t] = (a * line.a + b * lane.a) // <Py_ssize_t>sizeof(real)
                t += 1
    s.phase[job.phases] = t


cdef inline Py_ssize_t packed_step(const Job* job) noexcept nogil:
    """Straight: reals from tap to tap, an odd number of cache lines for the same reason as `plane`."""
    return (ceil_div(job.row_block, CACHE_LINE) | 1) * CACHE_LINE


cdef Py_ssize_t first_weight(const Job* job, Py_ssize_t image) noexcept nogil:
    """Of image number `image` of those that are summed, in reals."""
    cdef Py_ssize_t at = 0
    cdef int i
    for i in range(job.naxes - 3, -1, -1):
        at += image % job.axis[i].k * job.axis[i].a
        image //= job.axis[i].k
    return (at + image * job.a_channel) // <Py_ssize_t>sizeof(real)


cdef Block find_block(const Job* job, Py_ssize_t unit) noexcept nogil:
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Block b
    b.r0 = unit % job.row_blocks * job.row_block
    b.r1 = min(b.r0 + job.row_block, job.rows)
    unit //= job.row_blocks
    b.lane0 = unit % job.segments * job.segment
    b.width = min(job.segment, lane.m - b.lane0)
    unit //= job.segments
    b.line0 = unit % job.line_blocks * job.lines
    b.lines = min(job.lines, line.m - b.line0)
    unit //= job.line_blocks
    b.place0 = unit % job.place_blocks * job.entries
    b.entries = min(job.entries, job.places - b.place0)
    b.group = unit // job.place_blocks
    b.step = b.width if job.turned else job.pitch
    b.lanes = (b.entries * b.lines - 1) * b.step + b.width
    b.results = min(b.width * lane.s, job.width - b.lane0 * lane.s)
    b.result_lines = min(b.lines * line.s, job.height - b.line0 * line.s)
    b.straight = job.plain and b.entries == 1 and not job.turned and line.s == 1 and lane.s == 1 and (
        b.lines == 1 or (b.step == b.width and line.y == b.width * lane.y)
    )
    return b


cdef void gather_block(const Job* job, const Block* b, Py_ssize_t first, Py_ssize_t images, Scratch* s) noexcept nogil:
    """The panel of so many images."""
    cdef Py_ssize_t position[MAX_AXES]
    cdef Py_ssize_t e, i
    cdef const char* x
    for e in range(b.entries):
        x = job.x + b.group * job.x_group + find_place(job.axis, job.naxes, b.place0 + e, position) * job.x_batch
        for i in range(images):
            gather_image(
                job, image_start(job.axis, job.naxes, x, job.x_channel, first + i, position), b.line0, b.lane0, b.lines,
                b.width, s.panel + (i * job.entries + e) * job.plane,
            )


cdef void find_taps(
    const Job* job, const Block* b, Py_ssize_t phase, Py_ssize_t first, Py_ssize_t t0, Py_ssize_t t1, Scratch* s
) noexcept nogil:
    """Where the lanes and weights of taps `t0` to `t1` of a phase, counted from image `first` on, are."""
    cdef Py_ssize_t begin = s.phase[phase], count = max(1, s.phase[phase + 1] - begin)
    cdef Py_ssize_t t, image = t0 // count, at = t0 % count
    cdef Py_ssize_t weight = first_weight(job, first + image)
    cdef const real* p
    for t in range(t1 - t0):
        p = s.panel + image * job.entries * job.plane + s.image_lane[begin + at]
        s.tap[t] = p
        s.source[t] = s.weight[t] = weight + s.image_weight[begin + at]
        if job.turned:  # the panel's samples are weights of the tile, the weights its lanes
            s.weight[t] = p - s.panel
        elif job.packed:
            s.weight[t] = t * packed_step(job)
        at += 1
        if at == count:
            at = 0
            image += 1
            weight = first_weight(job, first + image)


cdef inline real* y_row(const Job* job, const Block* b, Py_ssize_t e, Py_ssize_t r) noexcept nogil:
    """Where y has the first result of row `r` of the block's place number `e`."""
    cdef Py_ssize_t position[MAX_AXES]
    cdef Py_ssize_t at = find_place(job.axis, job.naxes, b.place0 + e, position) * job.y_batch
    cdef int i
    at += b.group * job.y_group + r * job.y_row
    for i in range(job.naxes - 2):
        at += position[i] * job.axis[i].y
    at += b.line0 * job.axis[job.naxes - 2].s * job.axis[job.naxes - 2].y
    at += b.lane0 * job.axis[job.naxes - 1].s * job.axis[job.naxes - 1].y
    return <real*>(job.y + at)


cdef inline int widest(int most) noexcept nogil:
    """Vectors of the widest tile: with 16 registers 3 x 4 as well as 4 x 3."""
    return 4 if most == 3 else most


cdef inline int next_vectors(int most, Py_ssize_t lanes) noexcept nogil:
    """Of the next tile. Any number but 1, 2 and 5 is made of 3 and 4: tiles of 2 take a fifth longer per lane."""
    cdef Py_ssize_t vectors = ceil_div(lanes, LANES)
    if most == 3 and vectors % 3 != 0 and vectors > 2 and vectors != 5:
        return 4
    return tile_vectors(most, lanes)


cdef inline Py_ssize_t whole_tiles(int most, Py_ssize_t lanes) noexcept nogil:
    """Lanes in tiles that have no others."""
    cdef Py_ssize_t at = 0
    while at < lanes and at + tile_vectors(most, lanes - at) * LANES <= lanes:
        at += tile_vectors(most, lanes - at) * LANES
    return at


cdef void add_taps(
    const Job* job, const Block* b, real* sums, Py_ssize_t taps, bint first, Py_ssize_t straight, Scratch* s
) noexcept nogil:
    """All products of a chunk, to `sums`, or from tile to y as far as it holds lanes before `straight`."""
    cdef Py_ssize_t width = job.vectors * LANES, across = job.a_row // <Py_ssize_t>sizeof(real), at, src_step, dst_step
    cdef Py_ssize_t rows = b.r1 - b.r0, r = 0, n
    cdef const real* a = <const real*>(job.a + b.group * job.a_group + b.r0 * job.a_row)
    cdef real* y = y_row(job, b, 0, b.r0)
    cdef const real* src
    cdef real* dst
    cdef int vectors
    if job.packed:
        pack_weights(job, b, taps, 0, packed_step(job), s)
        a, across = s.packed, 1
    n = most_rows(job.vectors)
    if job.together * job.plane * <Py_ssize_t>sizeof(real) > NEAR_PANEL_BYTES:
        n *= max(1, WEIGHTS_BYTES // (n * max(1, taps) * <Py_ssize_t>sizeof(real)))  # a phase may have no taps
    while r < rows:
        n = min(n, rows - r)
        at = 0
        while at < b.lanes:
            vectors = tile_vectors(job.vectors, b.lanes - at)
            dst, dst_step = sums + r * job.lanes + at, job.lanes
            src, src_step = dst, dst_step
            if first:
                src, src_step = (s.start + r * width if job.bias != NULL else NULL), width
            if at + vectors * LANES <= straight:
                dst_step = job.y_row // <Py_ssize_t>sizeof(real)
                dst = y + r * dst_step + at
            tile_apart(n, vectors, taps, s.tap, at, a + r * across, s.weight, across, src, src_step, dst, dst_step)
            at += vectors * LANES
        r += n


cdef void spread_bias(const Job* job, const Block* b, Scratch* s) noexcept nogil:
    """What the first chunk is added to."""
    cdef const real* bias = job.bias + b.group * job.rows + b.r0
    cdef Py_ssize_t width = job.vectors * LANES, r, v
    if job.turned:
        copy_line(bias, s.start, b.r1 - b.r0)
        return
    for r in range(b.r1 - b.r0):
        for v in range(width):
            s.start[r * width + v] = bias[r]


cdef void pack_weights(
    const Job* job, const Block* b, Py_ssize_t taps, Py_ssize_t at, Py_ssize_t width, Scratch* s
) noexcept nogil:
    """A chunk of the weights of `width` output channels from `at` on, channels side by side."""
    cdef const real* a = <const real*>(job.a + b.group * job.a_group + (b.r0 + at) * job.a_row)
    cdef const real* p
    cdef real* to
    cdef Py_ssize_t across = job.a_row // <Py_ssize_t>sizeof(real), rows = min(width, b.r1 - b.r0 - at)
    cdef Py_ssize_t t, run, r = 0, n, i
    if across == 1:
        for t in range(taps):
            copy_line(a + s.source[t], s.packed + t * width, rows)
        return
    while r < rows:  # LANES rows at a time: many more may fall into few sets of the cache
        n = min(<Py_ssize_t>LANES, rows - r)
        t = 0
        while t < taps:
            p = a + r * across + s.source[t]
            to = s.packed + t * width + r
            run = 1  # taps that follow each other
            while run < LANES and t + run < taps and s.source[t + run] == s.source[t] + run:
                run += 1
            for i in range(LANES):  # of the next rows: streams too short for the hardware to foresee
                prefetch(<const char*>(p + (LANES + i) * across), 1)
            if run > 1 and n == LANES and <const char*>(p + (n - 1) * across + LANES) <= job.a_end:
                turn(p, across, LANES, run, to, width)
            else:
                for i in range(run):
                    pick(p + i, across, to + i * width, n)
            t += run
        r += n


cdef inline void pick(const real* p, Py_ssize_t step, real* to, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        to[i] = p[i * step]


cdef void add_turned(
    const Job* job, const Block* b, real* phase, Py_ssize_t taps, bint first, Scratch* s
) noexcept nogil:
    """All products of a chunk, to the sums of a phase: positions are the tile's rows, output channels its lanes."""
    cdef Py_ssize_t rows = b.r1 - b.r0, at = 0, src_step, i
    cdef const real* p
    cdef const real* src
    cdef real* sums
    cdef int vectors
    while at < rows:
        vectors = next_vectors(job.vectors, rows - at)
        pack_weights(job, b, taps, at, vectors * LANES, s)
        for i in range(taps):
            s.tap[i] = s.packed + i * vectors * LANES
        sums = phase + at
        for i in range(b.entries * b.lines):
            p = s.panel + i // b.lines * job.plane + i % b.lines * job.pitch
            src, src_step = sums, job.lanes
            if first:
                src, src_step = (s.start + at if job.bias != NULL else NULL), 0
            tile_apart(b.width, vectors, taps, s.tap, 0, p, s.weight, 1, src, src_step, sums, job.lanes)
            sums += b.width * job.lanes
        at += vectors * LANES


cdef void store_line(const Job* job, const real* p, Py_ssize_t apart, char* y, Py_ssize_t results) noexcept nogil:
    """A line of results, from its phases, `apart` reals from one to the next."""
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t i
    if job.plain and lane.s == 1:
        copy_line(p, <real*>y, results)
    elif job.plain and lane.s == 2 and results >= 2 * LANES:
        weave(p, p + apart, <real*>y, results)
    else:
        for i in range(job.lane_phases):
            store(job.ytype, p + i * apart, y + i * lane.y, ceil_div(results - i, lane.s), lane.s * lane.y)


cdef void leave_turned(const Job* job, const Block* b, Scratch* s) noexcept nogil:
    """The sums to y, LANES rows of a line at a time; by `line`, if they are to be woven or converted."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef bint direct = job.plain and lane.s == 1
    cdef Py_ssize_t width = ceil_div(job.segment, LANES) * LANES, run = b.width, runs = b.result_lines
    cdef Py_ssize_t e, i, r, j, n, phase
    cdef const real* sums
    cdef const real* p
    cdef real* to
    cdef char* y
    if direct and line.s == 1 and line.y == run * lane.y:  # lines that follow each other are one
        run, runs = run * runs, 1
    direct = direct and run >= LANES
    if not direct:
        run, runs = b.width, b.result_lines
    for e in range(b.entries):
        for r in range(ceil_div(b.r1 - b.r0, LANES)):
            for i in range(runs):
                sums = s.sums + i % line.s * job.lane_phases * job.apart
                sums += (e * b.lines + i // line.s) * b.width * job.lanes
                y = <char*>y_row(job, b, e, b.r0 + r * LANES) + i * line.y
                n = min(<Py_ssize_t>LANES, b.r1 - b.r0 - r * LANES)
                if direct:
                    turn_run(
                        sums + r * LANES, job.lanes, run, n, <real*>y, job.y_row // <Py_ssize_t>sizeof(real)
                    )
                    continue
                for phase in range(job.lane_phases):
                    p = sums + phase * job.apart + r * LANES
                    to = s.line + phase * LANES * width
                    for j in range(ceil_div(run, LANES)):
                        turn(
                            p + j * LANES * job.lanes, job.lanes, min(<Py_ssize_t>LANES, run - j * LANES), LANES,
                            to + j * LANES, width,
                        )
                for j in range(n):
                    store_line(job, s.line + j * width, LANES * width, y + j * job.y_row, b.results)


cdef inline void turn_run(
    const real* p, Py_ssize_t step, Py_ssize_t positions, Py_ssize_t rows, real* to, Py_ssize_t to_step
) noexcept nogil:
    """to[r][i] = p[i][r] for LANES positions or more and at most LANES rows. No real past the last is written."""
    cdef Py_ssize_t i = 0
    while i < positions:
        i = min(i, positions - LANES)
        turn(p + i * step, step, LANES, rows, to + i, to_step)
        i += LANES


cdef void leave(const Job* job, const Block* b, Py_ssize_t begin, const Scratch* s) noexcept nogil:
    """The sums from lane `begin` on, to y."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef Py_ssize_t e, r, i, across = job.lane_phases * job.apart
    cdef const real* p
    cdef real* y
    for e in range(b.entries if begin < b.lanes else 0):
        for r in range(b.r0, b.r1):
            p = s.sums + (r - b.r0) * job.lanes + e * b.lines * b.step
            y = y_row(job, b, e, r)
            if b.straight:
                copy_line(p + begin, y + begin, b.lanes - begin)
                continue
            for i in range(b.result_lines):
                store_line(
                    job, p + i // line.s * b.step + i % line.s * across, job.apart, <char*>y + i * line.y, b.results
                )


cdef void run_unit(const void* given, Py_ssize_t unit, void* scratch) noexcept nogil:
    """A block of rows by a block of lanes."""
    cdef const Job* job = <const Job*>given
    cdef Scratch* s = <Scratch*>scratch
    cdef Block b = find_block(job, unit)
    cdef Py_ssize_t first = 0, images, taps, phase, chunks, chunk, most, t0, t1, straight = 0
    cdef real* sums
    if job.bias != NULL:
        spread_bias(job, &b, s)
    while first < job.images:
        images = min(job.together, job.images - first)
        gather_block(job, &b, first, images, s)
        for phase in range(job.phases):
            taps = images * (s.phase[phase + 1] - s.phase[phase])
            if taps == 0 and first > 0:
                continue
            sums = s.sums + phase * job.apart
            chunks = 1 if taps <= MOST_TAPS else ceil_div(taps, CHUNK)
            most = ceil_div(taps, chunks)
            for chunk in range(chunks):
                t0 = chunk * most
                t1 = min(taps, t0 + most)
                if b.straight and first + images == job.images and t1 == taps:
                    straight = whole_tiles(job.vectors, b.lanes)
                find_taps(job, &b, phase, first, t0, t1, s)
                if job.turned:
                    add_turned(job, &b, sums, t1 - t0, first + t0 == 0, s)
                else:
                    add_taps(job, &b, sums, t1 - t0, first + t0 == 0, straight, s)
        first += images
    if job.turned:
        leave_turned(job, &b, s)
    else:
        leave(job, &b, straight, s)


cdef void* scratch_new(const void* given) noexcept nogil:
    """One block for one thread; NULL when memory is short."""
    cdef const Job* job = <const Job*>given
    cdef Py_ssize_t tables = (3 * MOST_TAPS + 2 * job.image_taps + job.phases + 1) * sizeof(Py_ssize_t)
    # Lanes and rows past the last are read, and written to scratch.
    cdef Py_ssize_t panel = job.together * job.entries * job.plane + job.lanes + job.pitch
    cdef Py_ssize_t sums = job.phases * job.apart, start = job.row_block * job.vectors * LANES
    cdef Py_ssize_t packed = MOST_TAPS * packed_step(job) if job.packed else 0, line = 0
    if job.turned:
        sums += LANES * job.lanes
        start = job.lanes
        packed = MOST_TAPS * widest(job.vectors) * LANES
        line = job.lane_phases * LANES * (job.segment + LANES)
    cdef Py_ssize_t reals = sums + start + panel + packed + line
    cdef void* block = take_block(sizeof(Scratch) + tables + reals * sizeof(real) + 7 * LINE)
    if block == NULL:
        return NULL
    cdef char* rest = <char*>block
    cdef Scratch* s = <Scratch*>cut(&rest, sizeof(Scratch))
    s.block = block
    s.tap = <const real**>cut(&rest, tables)
    s.weight = <Py_ssize_t*>(s.tap + MOST_TAPS)
    s.source = s.weight + MOST_TAPS
    s.image_lane = s.source + MOST_TAPS
    s.image_weight = s.image_lane + job.image_taps
    s.phase = s.image_weight + job.image_taps
    s.sums = <real*>cut(&rest, sums * sizeof(real))
    s.start = <real*>cut(&rest, start * sizeof(real))
    s.panel = <real*>cut(&rest, panel * sizeof(real))
    s.packed = <real*>cut(&rest, packed * sizeof(real))
    s.line = <real*>cut(&rest, line * sizeof(real))
    memset(s.panel, 0, panel * sizeof(real))
    find_image_taps(job, s)
    return s


cdef void merge_axes(Job* job) noexcept:
    """Into the last axis those before it, where there is one kernel position, no padding, and samples follow on."""
    cdef Axis* axis = &job.axis[job.naxes - 2]
    cdef Axis* lane = &job.axis[job.naxes - 1]
    cdef int _i, j
    for _i in range(job.naxes - 1):
        if not (same_lanes(axis) and same_lanes(lane)):
            return
        if axis.m > 1 and (axis.x != lane.n * lane.x or axis.y != lane.m * lane.y):
            return
        lane.n *= axis.n
        lane.m *= axis.m
        for j in range(job.naxes - 2, 0, -1):
            job.axis[j] = job.axis[j - 1]
        job.axis[0] = unit_axis()
        job.height, job.width = axis.m, lane.m


cdef inline bint same_lanes(const Axis* axis) noexcept:
    """Whether lane i reads sample i, all of them."""
    return axis.k == 1 and axis.q == 1 and axis.s == 1 and axis.offset == 0 and axis.n == axis.m


# Two ways to lay a job out. Each returns about how many products of vectors a tap takes, one image in all.


cdef double tiles_time(Py_ssize_t rows, Py_ssize_t lanes, int most) noexcept:
    """Of so many rows by so many lanes, in tiles of at most `most` vectors; each takes 1 beside its products."""
    cdef Py_ssize_t groups = ceil_div(rows, most_rows(most)), vectors = ceil_div(lanes, LANES)
    return rows * vectors + <double>groups * ceil_div(vectors, most)


cdef inline Py_ssize_t narrow_vectors(int most, Py_ssize_t lanes) noexcept nogil:
    """Of so many lanes, those that `tile_vectors` leaves to tiles of two where there are wider ones."""
    return 2 * (3 - ceil_div(lanes, LANES) % 3) % 6 if most == 3 else 0


cdef double panel_time(const Job* job) noexcept:
    """Of the panel of one place: a line takes 45, a vector 2, a tap 8, and a unit 400 to begin."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t vectors = ceil_div(job.segment + lane.shift, LANES), lines = job.lines + line.shift
    cdef double panel = line.strips * lane.strips * lines * (45 + 2 * vectors) / <double>job.image_taps
    return panel + 8 + 400.0 / (job.images * job.image_taps)


cdef void lay_out_lines(Job* job, Py_ssize_t most) noexcept:
    """Whole lines, or segments of at most `most` lanes."""
    cdef Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t width = job.vectors * LANES
    job.segments = ceil_div(lane.m, most)
    job.segment = ceil_div(ceil_div(lane.m, job.segments), width) * width if job.segments > 1 else lane.m
    job.segments = ceil_div(lane.m, job.segment)
    job.pitch = job.segment + lane.shift


cdef double lay_out_straight(Job* job) noexcept:
    """Rows are output channels, lanes are positions."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef Py_ssize_t i, most, best_lines = 1
    cdef double time, best = -1
    job.turned, job.entries = False, 1
    job.packed = abs(job.a_row) < abs(job.a_channel)  # a gradient: rows lie closer than taps
    job.vectors = most_vectors(job.rows)
    i = most_rows(job.vectors)
    most = SUMS_BYTES if job.packed or job.images <= job.together else NEAR_SUMS_BYTES
    most //= job.phases * <Py_ssize_t>sizeof(real)
    most = max(most // job.rows, min(PACKED_LANES, most // i) if job.packed else 0)
    most = min(<Py_ssize_t>MOST_LANES, max(job.vectors * LANES, most))
    most = min(most, PANEL_BYTES // (job.together * <Py_ssize_t>sizeof(real)))
    lay_out_lines(job, most)
    for job.lines in range(1, min(line.m, max(1, most // job.pitch)) + 1):
        time = tiles_time(job.rows, (job.lines - 1) * job.pitch + job.segment, job.vectors) + panel_time(job)
        time += 0.3 * job.rows * narrow_vectors(job.vectors, (job.lines - 1) * job.pitch + job.segment)
        if job.lines > 1 and job.pitch > job.segment:  # sums with gaps between go to y later, which is out of cache
            time += 16.0 * job.phases * job.rows * job.lines * job.segment / (LANES * job.images * job.image_taps)
        time += (3.0 if job.packed else 0.5) * job.rows  # weights are read anew
        time *= ceil_div(line.m, job.lines)
        if best < 0 or time <= best:
            best, best_lines = time, job.lines
    job.lines = best_lines
    job.lanes = ceil_div((job.lines - 1) * job.pitch + job.segment, job.vectors * LANES) * job.vectors * LANES
    job.row_block = min(job.rows, max(1, SUMS_BYTES // (job.phases * job.lanes * i * <Py_ssize_t>sizeof(real))) * i)
    return best * job.segments


cdef inline Py_ssize_t sums_step(Py_ssize_t row_block) noexcept nogil:
    """Turned: reals from position to position, an odd number of cache lines for the same reason as `plane`."""
    return (ceil_div(row_block, CACHE_LINE) | 1) * CACHE_LINE


cdef double lay_out_turned(Job* job) noexcept:
    """Rows are positions, lanes are output channels: no gaps, but weights and results are transposed on the way."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t most, width, sums
    cdef double time, leave
    job.turned, job.vectors = True, most_vectors(MAX_ROWS)
    width = job.vectors * LANES
    sums = TURNED_SUMS_BYTES // (job.phases * <Py_ssize_t>sizeof(real))  # of a phase
    most = max(width, min(MOST_LANES, sums // PACKED_POSITIONS))
    job.row_block = ceil_div(job.rows, ceil_div(job.rows, most))
    if job.row_block < job.rows:
        job.row_block = ceil_div(job.row_block, width) * width
    job.lanes = sums_step(job.row_block)
    most = max(1, min(sums // job.lanes, PANEL_BYTES // (job.together * <Py_ssize_t>sizeof(real))))
    lay_out_lines(job, most)
    job.lines = ceil_div(line.m, ceil_div(line.m, max(1, most // job.segment)))
    job.entries = max(1, min(job.places, most // (job.segment * job.lines))) if job.lines == line.m else 1
    leave = 0.75 if job.plain and lane.s == 1 else 1.75  # woven or of another type, they take another way
    leave *= 1.0 * job.phases * job.rows * job.segment / (job.images * job.image_taps)
    time = tiles_time(job.segment, job.row_block, job.vectors) * ceil_div(job.rows, job.row_block) + leave
    time = job.entries * (job.lines * time + panel_time(job)) + job.rows * pack_time(job)
    return time * job.segments * ceil_div(line.m, job.lines) / job.entries


cdef double pack_time(const Job* job) noexcept:
    """Of one weight, which comes from memory."""
    cdef Py_ssize_t run = 1
    cdef int i
    if job.a_row == sizeof(real):
        return 0.1
    for i in range(job.naxes - 1, -1, -1):  # taps that follow each other
        if job.axis[i].k > 1 and job.axis[i].a != run * <Py_ssize_t>sizeof(real):
            break
        run *= job.axis[i].k
    else:
        if job.a_channel == run * <Py_ssize_t>sizeof(real):
            run *= job.channels
    return min(1.2, 1.0 * LANES / min(<Py_ssize_t>LANES, run))


cdef inline Py_ssize_t half(Py_ssize_t n, Py_ssize_t step) noexcept:
    """Of n, rounded up to a multiple of `step`."""
    return ceil_div(ceil_div(n, 2), step) * step


cdef void share_out(Job* job, int threads) noexcept:
    """The units; smaller ones where there are too few for the threads."""
    cdef Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t rows = most_rows(job.vectors), step = job.vectors * LANES if job.turned else rows
    cdef Py_ssize_t wanted = 2 * threads
    cdef bint less, best  # whether there may, and should, be fewer positions in a block
    count_units(job)
    if threads == 1 or job.units >= wanted:
        return
    if not job.turned:
        job.row_block = min(
            job.row_block, step * max(1, ceil_div(job.rows, step) * job.units // (job.row_blocks * wanted))
        )
    while job.turned and job.units < wanted:
        # Each block of rows gathers a panel of its own; each block of positions brings its weights, in whole tiles.
        less = job.entries > 1 or job.lines > 1 or job.segment > 2 * rows
        best = job.row_block * pack_time(job) < 2 * job.entries * panel_time(job)
        if job.row_block > step and not (less and best):
            job.row_block = half(job.row_block, step)
            job.lanes = sums_step(job.row_block)
        elif job.entries > 1:
            job.entries = half(job.entries, 1)
        elif job.lines > 1:
            job.lines = half(job.lines, 1)
        elif less:
            job.segment = half(job.segment, rows)
            job.segments, job.pitch = ceil_div(lane.m, job.segment), job.segment + lane.shift
        else:
            break
        count_units(job)
    count_units(job)


cdef void count_units(Job* job) noexcept:
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    job.place_blocks = ceil_div(job.places, job.entries)
    job.line_blocks = ceil_div(line.m, job.lines)
    job.row_blocks = ceil_div(job.rows, job.row_block)
    job.units = job.groups * job.place_blocks * job.line_blocks * job.segments * job.row_blocks
    job.apart = job.lanes * (job.entries * job.lines * job.segment if job.turned else job.row_block)
    # An odd number of cache lines: planes a power of two apart would share a few sets of the L1 cache.
    job.plane = line.strips * lane.strips * (job.lines + line.shift) * job.pitch
    job.plane = (ceil_div(job.plane, CACHE_LINE) | 1) * CACHE_LINE


cdef void lay_out(Job* job, int threads) noexcept:
    """Blocks of lanes and rows. None of them changes the order of a sum."""
    cdef Axis* line = &job.axis[job.naxes - 2]
    cdef Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t i, j
    cdef Job turned
    merge_axes(job)
    job.image_taps = line.k * lane.k
    job.images = job.channels
    job.places = job.batch
    for i in range(job.naxes - 2):
        job.images *= job.axis[i].k
        job.places *= job.axis[i].m
    for i in range(job.naxes - 2, job.naxes):
        j = abs(first_sample(&job.axis[i], job.axis[i].k - 1) - first_sample(&job.axis[i], 0))
        job.axis[i].spread = abs(job.axis[i].p) > SPREAD * job.axis[i].q * job.axis[i].s
        job.axis[i].strips = job.axis[i].k if job.axis[i].spread else min(job.axis[i].q, j + 1)
        job.axis[i].shift = 0 if job.axis[i].spread else j // job.axis[i].q
    job.pairs = not job.format.raw and job.format.type == real_type() and lane.x == sizeof(real)
    job.pairs = job.pairs and lane.q == 2 and not lane.spread
    # As many images as make a chunk of the phase with the most taps, or half as many again; the same for any block,
    # since chunks decide the order of a sum.
    j = ceil_div(line.k, kernel_step(line.s, abs(line.p))) * ceil_div(lane.k, kernel_step(lane.s, abs(lane.p)))
    job.together = job.images
    if job.images * j > MOST_TAPS:
        job.together = max(1, CHUNK // j)
        job.together = ceil_div(job.images, ceil_div(job.images, job.together))
    turned = job[0]
    if lay_out_turned(&turned) < lay_out_straight(job):
        job[0] = turned
    share_out(job, threads)


cdef class Dense:
    """One Contraction of result "y" or "x", laid out for this build."""

    cdef Job job
    cdef Py_ssize_t size[MAX_AXES]
    cdef Py_ssize_t kernel[MAX_AXES]
    cdef Py_ssize_t out_size[MAX_AXES]
    cdef Py_ssize_t stride[MAX_AXES]
    cdef Py_ssize_t dilation[MAX_AXES]
    cdef Py_ssize_t lo[MAX_AXES]
    cdef int rule[MAX_AXES]
    cdef int rank
    cdef bint flip, forward

    def __cinit__(self, form, rules, fill):
        cdef Job* job = &self.job
        cdef int i
        self.rank, self.forward, self.flip = form.rank, form.result == "y", form.flip
        job.batch, job.groups, job.fill = form.batch, form.groups, fill if self.forward else 0
        job.rows, job.channels = form.features, form.channels
        if not self.forward:
            job.rows, job.channels = job.channels, job.rows
        for i in range(self.rank):
            self.size[i], self.kernel[i], self.out_size[i] = form.size[i], form.kernel[i], form.out_size[i]
            self.stride[i], self.dilation[i] = form.stride[i], form.dilation[i]
            self.lo[i], self.rule[i] = form.padding[i][0], rules[i]

    def run(self, cnp.ndarray w not None, cnp.ndarray x not None, cnp.ndarray y not None, bias, int threads):
        """y = the contraction of canonical `w` (of this build's type) and `x`; `bias` has one real per row, or is None.

        For the input gradient `x` is the gradient of the output and `y` that of the input.
        """
        cdef Job job = self.job
        cdef cnp.ndarray bias_array
        cdef const cnp.npy_intp* ws = cnp.PyArray_STRIDES(w)
        cdef const cnp.npy_intp* xs = cnp.PyArray_STRIDES(x)
        cdef const cnp.npy_intp* ys = cnp.PyArray_STRIDES(y)
        cdef Format f = format_of(y)
        cdef int i, more = max(0, 2 - self.rank)  # axes of one sample in front make the last two exist
        cdef bint gaps = False
        cdef Axis* axis
        if cnp.PyArray_SIZE(y) == 0:
            return
        for i in range(0 if self.forward else self.rank - self.phased()):
            gaps = gaps or leaves_gaps(self.kernel[i], self.stride[i], self.dilation[i])
        if cnp.PyArray_SIZE(w) == 0 or gaps:
            y[...] = 0
            if bias is not None:
                y += bias.reshape(self.job.groups, -1, *(1,) * self.rank).astype(y.dtype)
            if cnp.PyArray_SIZE(w) == 0:
                return
        job.format, job.ytype, job.bias = format_of(x), f.type, NULL
        job.plain = f.type == real_type() and (self.rank == 0 or ys[2 + self.rank] == sizeof(real))
        job.a_end = <const char*>cnp.PyArray_DATA(w) + cnp.PyArray_NBYTES(w)
        if bias is not None:
            bias_array = bias
            job.bias = <const real*>cnp.PyArray_DATA(bias_array)
        job.x, job.y = <const char*>cnp.PyArray_DATA(x), <char*>cnp.PyArray_DATA(y)
        job.x_batch, job.y_batch = xs[0], ys[0]
        job.a_group, job.x_group, job.y_group = ws[0], xs[1], ys[1]
        job.a_row, job.y_row = ws[1 if self.forward else 2], ys[2]
        job.a_channel, job.x_channel = ws[2 if self.forward else 1], xs[2]
        job.naxes = self.rank + more
        for i in range(more):
            job.axis[i] = unit_axis()
        for i in range(self.rank):
            axis = &job.axis[more + i]
            axis.x, axis.a, axis.y = xs[3 + i], -ws[3 + i] if self.flip else ws[3 + i], ys[3 + i]
        if self.forward:
            for i in range(self.rank):
                axis = &job.axis[more + i]
                axis.n, axis.rule, axis.offset = self.size[i], self.rule[i], -self.lo[i]
                axis.k, axis.p, axis.m, axis.q = self.kernel[i], self.dilation[i], self.out_size[i], self.stride[i]
                axis.s = 1
            job.phases = job.lane_phases = 1
            job.height, job.width = job.axis[job.naxes - 2].m, job.axis[job.naxes - 1].m
            self.run_job(&job, <const char*>cnp.PyArray_DATA(w) + self.last_tap(ws), threads)
        else:
            self.run_phases(&job, <const char*>cnp.PyArray_DATA(w) + self.last_tap(ws), more, threads)

    cdef Py_ssize_t last_tap(self, const cnp.npy_intp* ws):
        """Bytes to the kernel position that the formula calls 0."""
        cdef Py_ssize_t at = 0
        cdef int i
        for i in range(self.rank if self.flip else 0):
            at += (self.kernel[i] - 1) * ws[3 + i]
        return at

    cdef Py_ssize_t residues(self, int i) noexcept:
        """Of input positions along an axis, modulo the stride."""
        return min(self.stride[i], self.size[i])

    cdef int phased(self) noexcept:
        """How many axes, the last ones, have all of their residues made at once."""
        if self.rank < 2 or self.residues(self.rank - 2) * self.residues(self.rank - 1) > MOST_PHASES:
            return min(self.rank, 1)
        return 2

    cdef int run_phases(self, const Job* given, const char* w, int more, int threads) except -1:
        """The input gradient; along all axes but the `phased` ones residue by residue."""
        cdef Job job
        cdef Axis* axis
        cdef const char* a
        cdef Py_ssize_t residues = 1, residue, rest, s, p, j
        cdef int i, first = self.rank - self.phased()
        for i in range(first):
            residues *= self.residues(i)
        for residue in range(residues):
            job = given[0]
            a = w
            rest = residue
            job.phases = job.lane_phases = 1
            for i in range(first, self.rank):
                axis = &job.axis[more + i]
                axis.n, axis.rule, axis.offset = self.out_size[i], CONSTANT, self.lo[i]
                axis.k, axis.p, axis.q, axis.s = self.kernel[i], -self.dilation[i], 1, self.stride[i]
                axis.m = ceil_div(self.size[i], axis.s)
                job.lane_phases = self.residues(i)
                job.phases *= job.lane_phases
            for i in range(first - 1, -1, -1):
                axis = &job.axis[more + i]
                s = self.stride[i]
                p = rest % self.residues(i)
                rest //= self.residues(i)
                j = take_residue(
                    axis, p, self.size[i], self.kernel[i], self.out_size[i], s, self.dilation[i], self.lo[i]
                )
                if axis.k <= 0:
                    break
                a += j * axis.a
                job.y += p * axis.y
                axis.a *= kernel_step(s, self.dilation[i])
                axis.y *= s
            else:
                job.height = self.size[self.rank - 2] if self.phased() == 2 else job.axis[job.naxes - 2].m
                job.width = self.size[self.rank - 1] if self.rank else 1
                self.run_job(&job, a, threads)
        return 0

    cdef int run_job(self, Job* job, const char* w, int threads) except -1:
        """The loops, with a look at Ctrl-C now and then."""
        job.a = w
        lay_out(job, threads)
        return run_units(job, job.units, 1, threads, scratch_new, run_unit)
