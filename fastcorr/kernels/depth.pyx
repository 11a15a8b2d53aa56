"""Depthwise layers and both their gradients: each channel of X meets only features of its own, any rank.

ALGORITHM   y[n, g, r, l] = bias[g, r] + sum over c, j of  A[g, r, c, j] * X[n, g, c, offset + p*j + q*l], axis by axis.
            The output of a layer is that with one c, A = w, X = x, q = stride, p = dilation. Its input gradient is that
            with one r, A = w, X = g (the gradient of y), for the input positions of one residue modulo the stride at a
            time, as in dense.pyx. Its weight gradient is  A[g, r, j] = sum over n, l of  y[n, g, r, l] * X[...].

SCHEDULE    A unit is a block of groups by some lines of one place (batch entry, position along all but the last two
            axes); for a weight gradient by a slice, many such blocks in order. The samples under it are gathered into
            a panel. Units run in parallel.

            Straight, for y and x of one image whose lines are not too narrow: lanes are positions, and a block is some
            groups. The panel of each has its lines of samples, for each residue modulo the stride; what lies in the
            fill beside them is written once. `stack` makes some output lines at a time, whose sums are in registers
            from the first product to the last: a line of samples adds to all of them that it meets. Output lines that
            share none, or are wide and have few taps, are made one by one, from a list of all taps.

            Turned, for all else: lanes are LANES neighbouring groups. They share no sample, so each has weights of its
            own. In the panel, [line][position][group], each tap of each position is one aligned vector.

                y, x   tile: taps (c, j), vectors are neighbouring positions    sums [row][position][group] -> y
                w      tile: taps are positions, their weights y, vectors are kernel positions j

            The input gradient is a correlation with the kernel backwards, so its taps ascend too.

NUMERICS    Chunks of at most CHUNK taps are summed on their own and added in order. Of a weight gradient, blocks of
            lines are too, and slices of these. All follow from the shape alone: results are bitwise the same for any
            number of threads, y and x also for any batch and any position. Straight and turned add the same products
            in the same order, but for those of lines of zero fill, which straight leaves out if all weights are
            finite: a sum that underflows may be a zero of the other sign.

CALLER MUST give w, and bias, in the build's own type, and a result that is aligned, native and overlaps no operand.
"""

from libc.string cimport memset
cimport numpy as cnp

import numpy as np

from .line cimport CONSTANT, Format, all_finite, copy_line, extend, format_of, gather, real_type, store
from .panel cimport Axis, find_place, image_start, kernel_step, leaves_gaps, take_residue, unit_axis
from .team cimport run_units, take_block
from .tile cimport (
    LANES, MAX_ACC, MAX_OWN, WIDE_OWN, ceil_div, local_vec, real, stack, stack_rows, stack_vectors, tile_own, turn, vec,
    vec_part, vec_zero,
)

cnp.import_array()

cdef enum:
    MAX_AXES = 64
    CHUNK = 128                        # taps whose vectors of one tile fill half of L1
    SPREAD = 4                         # strides from tap to tap that are few enough to gather all samples
    PATCH = 1024                       # positions of a weight gradient that are gathered at a time
    SLICE = 2048                       # positions that are worth sums of their own
    SLICES = 1024                      # by groups, at most

cdef Py_ssize_t PANEL_BYTES = 192 << 10                       # per thread, in a 1 MB L2
cdef Py_ssize_t LINES_BYTES = 24 << 10                        # the same straight, in a 32 kB L1
cdef Py_ssize_t MOST_POSITIONS = 256                          # of a line


cdef struct Source:
    Format format
    bint plain                         # reals that are read as they are
    Py_ssize_t group                   # bytes from one to the next
    const char* data
    const char* end                    # of all that may be read
    real fill


cdef struct Job
cdef struct Job:
    bint weights                       # the result is A
    bint straight                      # lanes are positions
    Py_ssize_t members                 # groups of a block
    Py_ssize_t batch, x_batch, y_batch
    Py_ssize_t groups
    Py_ssize_t rows, y_row
    Py_ssize_t channels, x_channel
    int naxes                          # at least 2; the last two are `line` and `lane`
    Axis axis[MAX_AXES]
    Axis y_axis[2]                     # weights: `line` and `lane` of y as samples
    Py_ssize_t image_taps              # of the last two axes
    Py_ssize_t images                  # planes of channels and of taps of the other axes
    Py_ssize_t together                # of these, gathered at a time
    Py_ssize_t places
    Py_ssize_t lines, segment                                 # of a block, positions of each
    bint direct                                               # sums go to y at once
    bint skips                         # straight: lines of the fill, as they add nothing
    Py_ssize_t blocks, line_blocks, segments                  # of groups; of the lines of one place
    Py_ssize_t slice, slices           # weights: line blocks and segments in each
    Py_ssize_t pitch, plane            # reals from line to line in the panel, of an image
    # An input gradient has a job for each residue of the last axis; that number `phase` of `phases`. Together they make
    # whole lines of `width` samples.
    Py_ssize_t phase, phases, width
    const Job* next
    Py_ssize_t units
    Source x, y
    real* a                            # [block][row][image][tap][group]; weights: [slice][block]...
    const real* bias                   # [block][row][group]; NULL: none


cdef struct Scratch:
    void* block
    real* panel                        # [image][strip of lines][strip of positions][line][position][group]
    real* sums                         # [row][line][position][group]; weights: the panel of y
    real* line                         # [group][position]
    const real** tap
    Py_ssize_t* image_tap              # where each tap of one image starts in the panel
    Py_ssize_t filled                  # straight: the `lane0` whose fill lies beside the samples in the panel, or -1


cdef struct Block:
    Py_ssize_t index, groups           # of `members`; those that exist
    Py_ssize_t batch
    Py_ssize_t position[MAX_AXES]      # along all but the last two axes
    Py_ssize_t line0, lines, lane0, width


cdef inline void find_block(const Job* job, Py_ssize_t index, Py_ssize_t patch, Block* b) noexcept nogil:
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    b.index, b.groups = index, min(job.members, job.groups - index * job.members)
    b.lane0 = patch % job.segments * job.segment
    b.width = min(job.segment, lane.m - b.lane0)
    patch //= job.segments
    b.line0 = patch % job.line_blocks * job.lines
    b.lines = min(job.lines, line.m - b.line0)
    b.batch = find_place(job.axis, job.naxes, patch // job.line_blocks, b.position)


cdef inline Py_ssize_t step(const Axis* axis) noexcept nogil:
    """Samples in the panel from one position to the next."""
    return 1 if axis.spread else axis.q


cdef inline Py_ssize_t extent(const Axis* axis, Py_ssize_t positions) noexcept nogil:
    """Samples in a strip of the panel under so many positions."""
    return (positions - 1) * step(axis) + axis.shift + 1


cdef inline Py_ssize_t first_sample(const Axis* axis, Py_ssize_t strip, Py_ssize_t position) noexcept nogil:
    return axis.offset + axis.q * position + (axis.p * strip if axis.spread else 0)


cdef inline void fill_positions(real* to, Py_ssize_t n, real value) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n * LANES):
        to[i] = value


cdef void gather_line(
    const Source* source, const char* x, Py_ssize_t groups, const Axis* axis, Py_ssize_t u, Py_ssize_t stride,
    Py_ssize_t count, real* line, real* to,
) noexcept nogil:
    """X[u], X[u + stride], ...: `count` samples of each group side by side, and room for LANES more."""
    cdef Py_ssize_t first = min(max(0, -u), count), last = max(first, min(axis.n - u, count)), i, k
    cdef Py_ssize_t across = source.group // <Py_ssize_t>sizeof(real), width = (ceil_div(count, LANES) + 1) * LANES
    cdef const char* p = x + u * axis.x
    # Past the last of few samples others are read, if there are any.
    cdef bint room = last - first >= LANES or (
        p + (first + LANES) * <Py_ssize_t>sizeof(real) + max(0, source.group * (LANES - 1)) <= source.end
    )
    if (
        source.plain and groups == LANES and stride == 1 and (axis.rule == CONSTANT or last - first == count)
        and (across == 1 or (axis.x == sizeof(real) and room))
    ):
        i = first
        if across == 1:  # channels last: samples lie as in the panel
            for i in range(first, last):
                (<vec*>(to + i * LANES))[0] = (<const vec*>(p + i * axis.x))[0]
        else:
            while i < last:
                if last - first >= LANES:
                    i = min(i, last - LANES)
                turn(<const real*>p + i, across, LANES, LANES, to + i * LANES, LANES)
                i += LANES
        fill_positions(to, first, source.fill)
        fill_positions(to + last * LANES, count - last, source.fill)
        return
    for k in range(groups):
        gather(
            &source.format, x + k * source.group, line + k * width, count, u, stride, axis.n, axis.x, axis.rule,
            source.fill,
        )
    for i in range(ceil_div(count, LANES)):
        turn(line + i * LANES, width, LANES, LANES, to + i * LANES * LANES, LANES)


cdef void gather_image(
    const Source* source, const char* x, const Axis* line, const Axis* lane, const Block* b, Py_ssize_t most_lines,
    Py_ssize_t pitch, real* buffer, real* to,
) noexcept nogil:
    """One image under a block: [strip of lines][strip of positions][line][position][group]. x NULL: only fill."""
    cdef Py_ssize_t row, column, i, u, v
    cdef Py_ssize_t count = extent(lane, b.width), lines = extent(line, b.lines)
    for row in range(line.strips):
        for column in range(lane.strips):
            v = first_sample(lane, column, b.lane0)
            for i in range(lines):
                u = -1
                if x != NULL:
                    u = first_sample(line, row, b.line0) + i * (line.q if line.spread else 1)
                    u = extend(u, line.n, line.rule)
                if u < 0:
                    fill_positions(to, count, source.fill)
                else:
                    gather_line(
                        source, x + u * line.x, b.groups, lane, v, lane.q if lane.spread else 1, count, buffer, to
                    )
                to += pitch
            to += (extent(line, most_lines) - lines) * pitch


cdef void find_image_taps(const Job* job, Scratch* s) noexcept nogil:
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t a, b, at, t = 0, strip = extent(line, job.lines) * job.pitch
    for a in range(line.k):
        for b in range(lane.k):
            at = (a if line.spread else 0) * lane.strips + (b if lane.spread else 0)
            at *= strip
            at += 0 if line.spread else line.p * a * job.pitch
            at += 0 if lane.spread else lane.p * b * LANES
            s.image_tap[t] = at
            t += 1


cdef void start_sums(const Job* job, Py_ssize_t block, Py_ssize_t row, Py_ssize_t n, real* sums) noexcept nogil:
    """The bias, or 0, of `n` positions of one phase."""
    cdef Py_ssize_t i
    for i in range(n * LANES):
        sums[i // LANES * job.phases * LANES + i % LANES] = 0 if job.bias == NULL else (
            job.bias[(block * job.rows + row) * LANES + i % LANES]
        )


cdef void add_taps(
    const Job* job, const Block* b, Py_ssize_t at, Py_ssize_t taps, Py_ssize_t whole, Scratch* s
) noexcept nogil:
    """All products of a chunk, to the sums, of which a line has `whole`; tap `at` of all is its first."""
    cdef Py_ssize_t place[MAX_OWN]
    cdef Py_ssize_t across = step(&job.axis[job.naxes - 1]) * LANES, apart = job.phases * LANES
    cdef Py_ssize_t n = ceil_div(b.width, ceil_div(b.width, MAX_OWN)), panels, most, r, i, j, v
    cdef const real* a
    cdef real* sums
    cdef bint fresh = at == 0 and job.bias == NULL
    if across == LANES and b.width % WIDE_OWN == 0:
        n = WIDE_OWN
    for v in range(MAX_OWN):
        place[v] = v * across
    for r in range(job.rows):
        a = job.a + ((b.index * job.rows + r) * job.images * job.image_taps + at) * LANES
        for i in range(b.lines):
            sums = s.sums + ((r * b.lines + i) * whole + job.phase) * LANES
            v = i * step(&job.axis[job.naxes - 2]) * job.pitch
            if at == 0 and job.bias != NULL:
                start_sums(job, b.index, r, b.width, sums)
            j, most = b.width, n
            while j > 0:  # as many as share the line evenly, then the rest
                most = min(most, j)
                panels = j // most
                tile_own(
                    <int>most, panels, taps, s.tap, v, a, NULL if across == LANES else place, most * across,
                    NULL if fresh else sums, sums, apart,
                )
                v += panels * most * across
                sums += panels * most * apart
                j -= panels * most


cdef void leave(const Job* job, const Block* b, Py_ssize_t width, Scratch* s) noexcept nogil:
    """The sums to y, lines of `width`, LANES positions of LANES groups at a time."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef bint plain = job.y.plain and lane.y == sizeof(real)
    cdef Py_ssize_t lines = b.lines, across = job.y.group // <Py_ssize_t>sizeof(real), i, j, k, buffer
    cdef const real* sums = s.sums
    cdef char* y
    if plain and line.y == width * lane.y:  # lines follow each other, here and there
        width *= lines
        lines = 1
    buffer = (ceil_div(width, LANES) + 1) * LANES
    for i in range(job.rows * lines):
        y = <char*>y_start(job, b) + i // lines * job.y_row + i % lines * line.y
        y += b.line0 * line.y + b.lane0 * job.phases * lane.y
        j = 0
        if job.y.plain and across == 1 and b.groups == LANES:  # channels last
            for j in range(width):
                (<vec*>(y + j * lane.y))[0] = (<const vec*>(sums + j * LANES))[0]
        elif plain and b.groups == LANES and width >= LANES:
            while j < width:
                j = min(j, width - LANES)
                turn(sums + j * LANES, LANES, LANES, LANES, <real*>y + j, across)
                j += LANES
        else:
            while j < width:
                turn(sums + j * LANES, LANES, LANES, LANES, s.line + j, buffer)
                j += LANES
            for k in range(b.groups):
                if plain:
                    copy_line(s.line + k * buffer, <real*>y + k * across, width)
                else:
                    store(job.y.format.type, s.line + k * buffer, y + k * job.y.group, width, lane.y)
        sums += width * LANES


cdef inline Py_ssize_t strip_length(const Job* job) noexcept nogil:
    """Straight: reals from one residue of the positions modulo the stride to the next."""
    return ceil_div(extent(&job.axis[job.naxes - 1], job.segment), LANES) * LANES


cdef void gather_plane(const Job* job, const Source* source, const char* x, const Block* b, real* to) noexcept nogil:
    """The image of one group under a block: [line][residue of the position modulo the stride][position].

    What lies in the fill beside lines of samples is there already.
    """
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t u = line.offset + line.q * b.line0, lines = extent(line, b.lines), i, j
    cdef Py_ssize_t v = lane.offset + lane.q * b.lane0, strip = strip_length(job), count = sample_count(lane, b)
    cdef Py_ssize_t first = min(max(0, -v), count), last = max(first, min(lane.n - v, count))
    cdef Py_ssize_t above = min(max(0, -u), lines), below = max(above, min(line.n - u, lines))
    if not (
        source.plain and lane.x == sizeof(real) and (lane.rule == CONSTANT or last - first == count)
        and (line.rule == CONSTANT or below - above == lines)
        and (lane.q == 1 or (lane.q == 2 and lane.strips == 2 and last - first >= 2 * LANES))
    ):
        for i in range(lines):
            j = extend(u + i, line.n, line.rule) if x != NULL else -1
            if j < 0:
                fill_lines(to + i * job.pitch, job.pitch, source.fill)
                continue
            gather_strips(job, source, x + j * line.x, v, extent(lane, b.width), to + i * job.pitch)
        return
    if x == NULL:
        above = below = lines
    fill_lines(to, above * job.pitch, source.fill)
    fill_lines(to + below * job.pitch, (lines - below) * job.pitch, source.fill)
    to += above * job.pitch
    x += (u + above) * line.x + (v + first) * <Py_ssize_t>sizeof(real)
    if lane.q == 1:
        copy_lines(<const real*>x, line.x, last - first, below - above, to + first, job.pitch)
    else:
        part_lines(
            <const real*>x, line.x, last - first, below - above, to + first % 2 * strip + first // 2,
            to + (first + 1) % 2 * strip + (first + 1) // 2, job.pitch,
        )


cdef void gather_strips(
    const Job* job, const Source* source, const char* x, Py_ssize_t v, Py_ssize_t count, real* to
) noexcept nogil:
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t j
    for j in range(lane.strips):
        gather(
            &source.format, x, to + j * strip_length(job), count, v + j, lane.q, lane.n, lane.x, lane.rule, source.fill,
        )


cdef inline void fill_lines(real* to, Py_ssize_t n, real value) noexcept nogil:
    """`n` reals, whole vectors."""
    cdef local_vec fill = vec_zero() + value
    cdef Py_ssize_t i
    for i in range(n // LANES):
        (<vec*>(to + i * LANES))[0] = fill


cdef void copy_lines(
    const real* p, Py_ssize_t step, Py_ssize_t n, Py_ssize_t lines, real* to, Py_ssize_t pitch
) noexcept nogil:
    """Lines of samples, `step` bytes apart."""
    cdef Py_ssize_t _lines
    for _lines in range(lines):
        copy_line(p, to, n)
        p = <const real*>(<const char*>p + step)
        to += pitch


cdef void part_lines(
    const real* p, Py_ssize_t step, Py_ssize_t n, Py_ssize_t lines, real* even, real* odd,
    Py_ssize_t pitch
) noexcept nogil:
    """The same, samples of even number and of odd number; at least two vectors."""
    cdef Py_ssize_t _lines, i, pairs = n // 2
    cdef local_vec a, b
    for _lines in range(lines):
        i = 0
        while i < pairs:
            i = min(i, pairs - LANES)
            vec_part(p + 2 * i, &a, &b)
            (<vec*>(even + i))[0] = a
            (<vec*>(odd + i))[0] = b
            i += LANES
        if n % 2:
            even[pairs] = p[n - 1]
        p = <const real*>(<const char*>p + step)
        even += pitch
        odd += pitch


cdef inline Py_ssize_t sample_count(const Axis* lane, const Block* b) noexcept nogil:
    """Straight: of a line under a block, those between what taps read as well."""
    return (b.width - 1) * lane.q + lane.p * (lane.k - 1) + 1


cdef inline bint stacked(const Job* job) noexcept nogil:
    """Straight: whether some output lines are made together, which share loads, but meet lines of samples one by one.

    Of three lines, one wide output line alone is as fast, and stays in the order of memory.
    """
    cdef const Axis* line = &job.axis[job.naxes - 2]
    return line.q == 1 and line.p == 1 and (line.k > 3 or job.axis[job.naxes - 1].m <= 4 * LANES)


cdef void find_line_taps(const Job* job, Scratch* s) noexcept nogil:
    """Straight: where each tap starts. Of a stack those of one line, as the others lie below."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    # The samples inside start at a vector, as far as one address suits all strips.
    cdef const real* panel = s.panel + (LANES - max(<Py_ssize_t>0, -lane.offset) // lane.q % LANES) % LANES
    cdef Py_ssize_t t
    for t in range((1 if stacked(job) else line.k) * lane.k):
        s.tap[t] = panel + t // lane.k * line.p * job.pitch
        s.tap[t] += lane.p * (t % lane.k) % lane.q * strip_length(job) + lane.p * (t % lane.k) // lane.q


cdef struct Run:
    int rows, vectors                  # of a stack
    Py_ssize_t stacks
    Py_ssize_t begin, end              # lines of samples that count, from the first of the first stack on
    Py_ssize_t line, position          # where the first one starts
    bint apart                         # made elsewhere and copied to y


cdef void add_lines(const Job* job, const Block* b, Scratch* s) noexcept nogil:
    """All products of some groups, to y if it takes them as they are, else to the sums."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t v = lane.offset + lane.q * b.lane0, first = 0, last = extent(line, b.lines), g, stacks, some
    cdef Py_ssize_t left = ceil_div(b.width, LANES), position = 0, span = line.p * (line.k - 1) + 1
    cdef const char* x = x_start(job, b, 0)
    cdef real* panel = <real*>s.tap[0]
    cdef bint together = stacked(job)
    cdef Run run
    if s.filled != b.lane0:
        s.filled = b.lane0
        if v < 0 or v + sample_count(lane, b) > lane.n:
            fill_lines(panel, job.members * job.plane, job.x.fill)
    for g in range(b.groups):
        gather_plane(job, &job.x, x if x == NULL else x + g * job.x.group, b, panel + g * job.plane)
    if job.skips:
        first = -(line.offset + line.q * b.line0)
        last = min(last, first + line.n)
        first = max(<Py_ssize_t>0, first)
    while left > 0:
        run.vectors = <int>ceil_div(left, ceil_div(left, <Py_ssize_t>stack_vectors(not together)))
        left -= run.vectors
        # The last vectors are moved back, to end with the line. Those of a short line do not: what they leave past its
        # end is overwritten by the next line, and the last ones are made elsewhere.
        run.position = min(position, max(0, b.width - run.vectors * LANES))
        position += run.vectors * LANES
        run.line, stacks = 0, b.lines
        if together:
            stacks = ceil_div(b.lines, min(line.k, <Py_ssize_t>stack_rows(run.vectors)))
        while stacks > 0:
            run.rows = <int>ceil_div(b.lines - run.line, stacks)
            some = b.lines - run.line - (run.rows - 1) * stacks  # have so many rows, the others one less
            run.begin, run.end = first - run.line * line.q, last - run.line * line.q
            if run.begin > 0:
                some = 1
            elif (some * run.rows - 1) * line.q + span > run.end:
                some = max(<Py_ssize_t>1, (run.end - span + line.q) // (run.rows * line.q))
            run.apart = b.width < run.vectors * LANES and some == stacks
            if run.apart and some > 1:
                some, run.apart = some - 1, False
            run.stacks = some
            add_run(job, b, s, &run)
            run.line += some * run.rows
            stacks -= some


cdef void add_run(const Job* job, const Block* b, Scratch* s, const Run* run) noexcept nogil:
    """Stacks of all groups and rows."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t at = run.line * line.q * job.pitch + run.position, across, g, r, k
    cdef Py_ssize_t first = ceil_div(max(<Py_ssize_t>0, run.begin), line.p)
    cdef Py_ssize_t last = min(line.k, ceil_div(max(<Py_ssize_t>0, run.end), line.p))
    cdef Py_ssize_t step = run.vectors * LANES
    cdef real bias = -0.0  # adds nothing, to any number
    cdef bint together = stacked(job)
    cdef const real* w = job.a + b.index * job.members * job.rows * job.image_taps
    cdef char* y = <char*>s.sums
    cdef real* to
    across = sum_pitch(job)
    if job.direct:
        across = line.y // <Py_ssize_t>sizeof(real)
        y = <char*>y_start(job, b) + b.line0 * line.y + b.lane0 * lane.y
    y += (run.line * across + run.position) * <Py_ssize_t>sizeof(real)
    for g in range(b.groups):
        for r in range(job.rows):
            if job.bias != NULL:
                bias = job.bias[(b.index * job.members + g) * job.rows + r]
            if job.direct:
                to = <real*>(y + g * job.y.group + r * job.y_row)
            else:
                to = <real*>y + (g * job.rows + r) * job.lines * across
            if together:
                stack(
                    run.rows, run.vectors, run.stacks, run.begin, run.end, line.k, lane.k, s.tap, at, job.pitch,
                    job.pitch, w, bias, s.line if run.apart else to, step if run.apart else across,
                )
            else:
                stack(
                    1, run.vectors, run.stacks, 0, 1, 1, max(<Py_ssize_t>0, last - first) * lane.k,
                    s.tap + first * lane.k, at, 0, line.q * job.pitch, w + first * lane.k, bias,
                    s.line if run.apart else to, step if run.apart else across,
                )
            for k in range(run.rows if run.apart else 0):
                copy_line(s.line + k * step, to + k * across, b.width)
            w += job.image_taps
        at += job.plane


cdef inline Py_ssize_t sum_pitch(const Job* job) noexcept nogil:
    """Reals from line to line of the sums, straight."""
    return ceil_div(job.segment, LANES) * LANES


cdef void leave_lines(const Job* job, const Block* b, Scratch* s) noexcept nogil:
    """The sums to a y that does not take them as they are."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t r, i
    cdef char* y
    for r in range(b.groups * job.rows):
        y = <char*>y_start(job, b) + r // job.rows * job.y.group + r % job.rows * job.y_row
        y += b.line0 * line.y + b.lane0 * lane.y
        for i in range(b.lines):
            store(
                job.y.format.type, s.sums + (r * job.lines + i) * sum_pitch(job), y + i * line.y, b.width, lane.y
            )


cdef inline const char* x_start(const Job* job, const Block* b, Py_ssize_t image) noexcept nogil:
    cdef const char* x = job.x.data + b.batch * job.x_batch + b.index * job.members * job.x.group
    return image_start(job.axis, job.naxes, x, job.x_channel, image, b.position)


cdef inline const char* y_start(const Job* job, const Block* b) noexcept nogil:
    cdef const char* y = job.y.data + b.batch * job.y_batch + b.index * job.members * job.y.group
    cdef int i
    for i in range(job.naxes - 2):
        y += b.position[i] * job.axis[i].y
    return y


cdef void add_images(const Job* job, const Block* b, Py_ssize_t whole, Scratch* s) noexcept nogil:
    """All products of one residue, to the sums."""
    cdef Py_ssize_t first = 0, images, t0, t1, i
    find_image_taps(job, s)
    for i in range(job.rows * b.lines if job.images == 0 else 0):
        start_sums(job, b.index, i // b.lines, b.width, s.sums + (i * whole + job.phase) * LANES)
    while first < job.images:
        images = min(job.together, job.images - first)
        for i in range(images):
            gather_image(
                &job.x, x_start(job, b, first + i), &job.axis[job.naxes - 2], &job.axis[job.naxes - 1], b, job.lines,
                job.pitch, s.line, s.panel + i * job.plane,
            )
        t1 = 0
        while t1 < images * job.image_taps:
            t0 = t1
            t1 = min(images * job.image_taps, t0 + CHUNK)
            for i in range(t0, t1):
                s.tap[i - t0] = s.panel + i // job.image_taps * job.plane + s.image_tap[i % job.image_taps]
            add_taps(job, b, first * job.image_taps + t0, t1 - t0, whole, s)
        first += images


cdef void run_unit(const void* given, Py_ssize_t unit, void* scratch) noexcept nogil:
    """Some lines of one place, of one block of groups."""
    cdef const Job* job = <const Job*>given
    cdef const Job* one = job
    cdef Py_ssize_t patches = job.line_blocks * job.segments, block = unit // patches
    cdef Block b
    cdef Scratch* s = <Scratch*>scratch
    cdef Py_ssize_t whole
    if job.straight:  # in the order of memory
        unit = block // job.blocks * patches + unit % patches
        find_block(job, block % job.blocks, unit, &b)
    else:
        patches *= job.places
        find_block(job, unit // patches, unit % patches, &b)
    whole = min(job.segment * job.phases, job.width - b.lane0 * job.phases)
    while one != NULL:
        b.width = ceil_div(whole - one.phase, job.phases)
        if b.width > 0:
            if job.straight:
                add_lines(one, &b, s)
            else:
                add_images(one, &b, whole, s)
        one = one.next
    if not job.straight:
        leave(job, &b, whole, s)
    elif not job.direct:
        leave_lines(job, &b, s)


cdef void add_patch(const Job* job, const Block* b, bint fresh, Scratch* s, real* sums) noexcept nogil:
    """All products of a block and one image, to its sums of all kernel positions."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t taps = b.lines * b.width, tiles = ceil_div(job.image_taps, MAX_OWN), t, t0, t1 = 0, k, n, at
    cdef Py_ssize_t i = 0, j = 0
    while t1 < taps:
        t0 = t1
        t1 = min(taps, t0 + CHUNK)
        for t in range(t1 - t0):
            s.tap[t] = s.panel + i * step(line) * job.pitch + j * step(lane) * LANES
            j += 1
            if j == b.width:
                i, j = i + 1, 0
        at = 0
        for k in range(tiles):
            n = ceil_div(job.image_taps - at, tiles - k)
            tile_own(
                <int>n, 1, t1 - t0, s.tap, 0, s.sums + t0 * LANES, s.image_tap + at, 0,
                NULL if fresh and t0 == 0 else sums + at * LANES, sums + at * LANES, LANES,
            )
            at += n


cdef void run_slice(const void* given, Py_ssize_t unit, void* scratch) noexcept nogil:
    """All weights of LANES groups, summed over one slice of the positions."""
    cdef const Job* job = <const Job*>given
    cdef Scratch* s = <Scratch*>scratch
    cdef Py_ssize_t first = unit // job.blocks * job.slice, patch, image, r
    cdef Block b
    cdef real* sums
    for patch in range(first, min(first + job.slice, job.places * job.line_blocks * job.segments)):
        find_block(job, unit % job.blocks, patch, &b)
        for image in range(job.images):
            gather_image(
                &job.x, x_start(job, &b, image), &job.axis[job.naxes - 2], &job.axis[job.naxes - 1], &b, job.lines,
                job.pitch, s.line, s.panel,
            )
            for r in range(job.rows):
                if image == 0 or job.rows > 1:
                    gather_image(
                        &job.y, y_start(job, &b) + r * job.y_row, &job.y_axis[0], &job.y_axis[1], &b, b.lines,
                        b.width * LANES, s.line, s.sums,
                    )
                sums = job.a + ((unit * job.rows + r) * job.images + image) * job.image_taps * LANES
                add_patch(job, &b, patch == first, s, sums)


cdef void* scratch_new(const void* given) noexcept nogil:
    """One block for one thread; NULL when memory is short."""
    cdef const Job* job = <const Job*>given
    cdef const Job* one = job
    cdef Py_ssize_t whole = job.segment * job.phases, panel = 0, sums, line = job.lines * whole, taps = 0, tables
    while one != NULL:
        panel = max(panel, (one.members if one.straight else one.together) * one.plane)
        line = max(line, extent(&one.axis[one.naxes - 1], job.segment))
        taps = max(taps, one.image_taps)
        one = one.next
    # A line is gathered in whole vectors, and turned so too.
    panel += LANES * LANES
    sums = (job.lines * whole * (1 if job.weights else job.rows) + LANES) * LANES
    line = (line + 2 * LANES) * LANES
    if job.straight:
        sums = 0 if job.direct else job.members * job.rows * job.lines * sum_pitch(job)
        line = MAX_ACC * LANES
    tables = (sizeof(Scratch) + (CHUNK + taps) * sizeof(Py_ssize_t) + 63) // 64 * 64
    cdef void* block = take_block(64 + tables + (panel + sums + line) * sizeof(real))
    if block == NULL:
        return NULL
    cdef char* p = <char*>((<size_t>block + 63) // 64 * 64)
    cdef Scratch* s = <Scratch*>p
    s.block = block
    s.tap = <const real**>(p + sizeof(Scratch))
    s.image_tap = <Py_ssize_t*>(s.tap + CHUNK)
    s.panel = <real*>(p + tables)
    s.sums = s.panel + panel
    s.line = s.sums + sums
    s.filled = -1
    memset(s.panel, 0, (panel + sums + line) * sizeof(real))
    if job.weights:
        find_image_taps(job, s)
    elif job.straight:
        find_line_taps(job, s)
    return s


cdef void lay_out_panel(Job* job) noexcept:
    """Strips, and images that are gathered together."""
    cdef Axis* axis
    cdef Py_ssize_t i
    job.image_taps, job.images, job.places = 1, job.channels, job.batch
    for i in range(job.naxes - 2):
        job.images *= job.axis[i].k
        job.places *= job.axis[i].m
    for i in range(job.naxes - 2, job.naxes):
        axis = &job.axis[i]
        if axis.k <= 0:
            axis.k = 1
            job.images = 0
        job.image_taps *= axis.k
        axis.shift = axis.p * (axis.k - 1)
        axis.spread = not job.straight and (axis.p > SPREAD * axis.q or axis.shift + 1 < axis.q)
        axis.strips = axis.k if axis.spread else 1
        axis.shift = 0 if axis.spread else axis.shift
    if job.straight:  # positions that are neighbours in y lie side by side, for each residue of those of x
        axis.strips, axis.shift, axis.spread = min(axis.q, axis.shift + 1), axis.shift // axis.q, True
    job.together = 1 if job.weights else max(1, min(job.images, CHUNK // job.image_taps))


cdef void measure_panel(Job* job) noexcept:
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    if job.straight:
        job.pitch = lane.strips * strip_length(job)
        job.plane = extent(line, job.lines) * job.pitch
        return
    job.pitch = extent(lane, job.segment) * LANES
    job.plane = line.strips * lane.strips * extent(line, job.lines) * job.pitch


cdef void lay_out(Job* job, int threads) noexcept:
    """Blocks of lines. They decide the order of a weight gradient's sums, and then follow from the shape alone."""
    cdef Axis* line = &job.axis[job.naxes - 2]
    cdef Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t i, most
    lay_out_panel(job)
    job.segments = ceil_div(lane.m, max(1, MOST_POSITIONS // job.phases))
    job.segment = ceil_div(lane.m, job.segments)
    job.segments = ceil_div(lane.m, job.segment)
    if job.weights:
        most = PATCH // job.segment
    else:
        i = job.together * line.strips * lane.strips * extent(lane, job.segment) + job.rows * job.phases * job.segment
        most = (LINES_BYTES if job.straight else PANEL_BYTES) // (i * job.members * <Py_ssize_t>sizeof(real))
        most = max(most - line.shift, line.shift // 2) // step(line)
        if threads > 1:
            i = ceil_div(job.groups, job.members) * job.places * job.segments
            most = min(most, line.m * i // (4 * threads))
    most = min(line.m, max(1, most))
    job.line_blocks = ceil_div(line.m, most)
    job.lines = ceil_div(line.m, job.line_blocks)
    job.line_blocks = ceil_div(line.m, job.lines)
    measure_panel(job)
    if job.straight:
        most = job.groups * job.places * job.line_blocks * job.segments // (4 * threads)
        most = min(most, LINES_BYTES // (job.plane * <Py_ssize_t>sizeof(real)))
        job.members = max(1, min(most, job.groups))
    job.blocks = ceil_div(job.groups, job.members)
    job.units = job.blocks * job.places * job.line_blocks * job.segments
    job.direct = job.straight and job.y.plain and lane.y == sizeof(real)
    # Vectors may end past a line, within the next.
    if lane.m - (job.segments - 1) * job.segment < stack_vectors(True) * LANES:
        job.direct = job.direct and job.segments == 1 and line.y == lane.m * lane.y and 2 * lane.m >= LANES
    if job.weights:
        i = job.places * job.line_blocks * job.segments
        most = job.places * line.m * lane.m // SLICE
        job.slice = ceil_div(i, max(1, min(most, SLICES // job.groups)))
        job.slices = ceil_div(i, job.slice)
        job.units = job.slices * job.blocks


cdef bint suits_lines(const Job* job, bint residues) noexcept:
    """Whether lanes are positions: the sums are the same, and this is faster.

    By the lines of y: from 10 lanes of 8 on (float32, x86_64_v3, Zen 3, 2026-11-26: 14 lanes take 0.87 to 1.0 times as
    long as turned, 7 lanes 1.3 times with 3 x 3 and 0.9 times with 7 x 7). Input gradients of strides
    would be interleaved.
    """
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t images = job.channels
    cdef int i
    for i in range(job.naxes - 2):
        images *= job.axis[i].k
    return (
        not job.weights and not residues and images == 1 and line.k * lane.k <= CHUNK
        and abs(lane.x) < abs(job.x.group) and lane.m * 4 >= LANES * 5
    )


cdef void set_source(Source* source, cnp.ndarray a) noexcept:
    cdef int i
    source.format, source.group = format_of(a), cnp.PyArray_STRIDE(a, 1)
    source.plain = source.format.type == real_type() and not source.format.raw
    source.plain = source.plain and source.group % <Py_ssize_t>sizeof(real) == 0
    source.data = <const char*>cnp.PyArray_DATA(a)
    source.end = source.data + cnp.PyArray_ITEMSIZE(a)
    for i in range(cnp.PyArray_NDIM(a)):
        source.end += max(0, (cnp.PyArray_DIM(a, i) - 1) * cnp.PyArray_STRIDE(a, i))


cdef cnp.ndarray pack(const Job* job, w):
    """Groups last, in blocks of LANES; straight as `stack` takes them."""
    cdef Py_ssize_t groups = w.shape[0], blocks = ceil_div(w.shape[0], LANES)
    if job.straight:
        w = w.reshape(groups, job.rows, -1, w.shape[w.ndim - 1] if w.ndim > 3 else 1)
        return np.ascontiguousarray(w[:, :, ::-1].swapaxes(2, 3) if stacked(job) else w)
    padded = np.zeros((blocks * LANES, w.size // groups), w.dtype)
    padded[:groups] = w.reshape(groups, -1)
    return np.ascontiguousarray(padded.reshape(blocks, LANES, -1).swapaxes(1, 2))


cdef class Depth:
    """One Contraction with one channel per group, laid out for this build."""

    cdef Job job
    cdef object form
    cdef list rules

    def __cinit__(self, form, rules, fill):
        cdef Job* job = &self.job
        self.form, self.rules = form, rules
        job.batch, job.groups, job.weights = form.batch, form.groups, form.result == "w"
        job.rows, job.channels = (1, form.features) if form.result == "x" else (form.features, 1)
        job.x.fill = 0 if form.result == "x" else fill

    def run(self, cnp.ndarray a not None, cnp.ndarray b not None, cnp.ndarray out not None, bias, int threads):
        """`out` = the contraction of canonical operands: w (of this build's type) and x, or w and y, or y and x.

        `bias` has one real per row, or is None.
        """
        cdef Job job = self.job
        cdef int i, rank = self.form.rank
        cdef cnp.ndarray y = a if job.weights else out, packed
        cdef Axis* axis
        form, w = self.form, out if job.weights else a
        cdef bint gaps = a.size == 0
        if out.size == 0:
            return
        if form.result == "x":
            for i in range(rank):
                gaps = gaps or leaves_gaps(form.kernel[i], form.stride[i], form.dilation[i])
        if gaps:
            out[...] = 0
            if bias is not None:
                out += bias.reshape(form.groups, -1, *(1,) * rank).astype(out.dtype)
            if a.size == 0:
                return
        job.naxes, job.phases, job.width = max(2, rank), 1, out.shape[out.ndim - 1] if rank else 1
        set_source(&job.x, b)
        set_source(&job.y, y)
        job.x_batch, job.x_channel, job.y_batch, job.y_row = b.strides[0], b.strides[2], y.strides[0], y.strides[2]
        for i in range(job.naxes - rank):
            job.axis[i] = unit_axis()
        for i in range(rank):
            axis = &job.axis[job.naxes - rank + i]
            axis.x, axis.y, axis.a = b.strides[3 + i], y.strides[3 + i], 0
            axis.n, axis.rule, axis.offset = form.size[i], self.rules[i], -form.padding[i][0]
            axis.k, axis.p, axis.m, axis.q = form.kernel[i], form.dilation[i], form.out_size[i], form.stride[i]
        job.straight = suits_lines(&job, form.result == "x" and max(form.stride, default=1) > 1)
        job.members = 1 if job.straight else LANES
        if form.flip:
            w = np.flip(w, tuple(range(3, 3 + rank)))
        if bias is not None:
            packed = np.ascontiguousarray(bias) if job.straight else pack(&job, bias.reshape(form.groups, -1))
            job.bias = <const real*>cnp.PyArray_DATA(packed)
        if job.weights:
            self.run_weights(&job, w, threads)
        elif form.result == "y":
            self.run_jobs(&job, [pack(&job, w)], threads)
        else:
            self.run_phases(&job, w, threads)

    cdef int run_weights(self, Job* job, w, int threads) except -1:
        cdef int i
        for i in range(2):
            job.y_axis[i] = unit_axis()
            job.y_axis[i].n, job.y_axis[i].x = job.axis[job.naxes - 2 + i].m, job.axis[job.naxes - 2 + i].y
        lay_out(job, threads)
        kind = "f" if <real>0.5 != 0 else "i"
        sums = np.empty((job.slices, job.blocks, w.size // w.shape[0], LANES), f"{kind}{sizeof(real)}")
        self.run_jobs(job, [sums], threads)
        total = sums[0]
        for i in range(1, job.slices):
            total += sums[i]
        w[...] = total.swapaxes(1, 2).reshape(-1, w.size // w.shape[0])[: w.shape[0]].reshape(w.shape)
        return 0

    cdef int run_phases(self, const Job* given, w, int threads) except -1:
        """The input gradient, residue by residue of the input position modulo the stride, those of `lane` at once."""
        cdef Py_ssize_t phases, phase, j
        cdef int i, rank = self.form.rank
        cdef Job* job
        cdef Axis* axis
        form, axes = self.form, tuple(range(3, 3 + rank))
        counts = [min(s, n) for s, n in zip(form.stride, form.size, strict=True)] or [1]
        phases = counts.pop()
        room = np.empty(phases * sizeof(Job), np.uint8)
        for residues in np.ndindex(*counts):
            arrays = []
            for phase in range(phases):
                job = <Job*>cnp.PyArray_DATA(room) + phase
                job[0] = given[0]
                job.phase, job.phases = phase, phases
                met, taps = [True], [...]
                for i in range(rank):
                    axis = &job.axis[job.naxes - rank + i]
                    j = phase
                    if i < rank - 1:
                        j = residues[i]
                        job.y.data += j * axis.y
                        axis.y *= form.stride[i]
                    j = take_residue(
                        axis, j, form.size[i], form.kernel[i], form.out_size[i], form.stride[i], form.dilation[i],
                        -axis.offset,
                    )
                    # Backwards, as a correlation.
                    axis.offset += axis.p * (axis.k - 1)
                    axis.p = -axis.p
                    met.append(axis.k > 0)
                    taps.append(slice(j, None, kernel_step(form.stride[i], form.dilation[i])))
                if not all(met[:rank]):
                    break
                arrays.append(pack(job, np.flip(w[tuple(taps)], axes)) if met[rank] else w)
            else:
                self.run_jobs(<Job*>cnp.PyArray_DATA(room), arrays, threads)
        return 0

    cdef int run_jobs(self, Job* job, list arrays, int threads) except -1:
        """The loops over jobs of one result, with a look at Ctrl-C now and then; the first has the most positions."""
        cdef Py_ssize_t i, count = len(arrays)
        cdef cnp.ndarray array
        lay_out(job, threads)
        for i in range(count):
            array = arrays[i]
            job[i].a, job[i].next = <real*>cnp.PyArray_DATA(array), NULL
            if i > 0:
                lay_out_panel(&job[i])
                job[i].lines, job[i].segment, job[i - 1].next = job.lines, job.segment, &job[i]
                measure_panel(&job[i])
            job[i].skips = (
                job.straight and job.x.fill == 0 and job.axis[job.naxes - 2].rule == CONSTANT
                and all_finite(job[i].a, array.size)
            )
        return run_units(job, job.units, 1, threads, scratch_new, run_slice if job.weights else run_unit)
