"""Weight gradients: the layer's third contraction, of any rank.

ALGORITHM   w[g, o, c, j] = sum over n, i of  g[n, g, o, i] * X[n, g, c, s*i + d*j - lo]. Rows are output channels o,
            taps (n, i), lanes (kernel position b of the last axis, c). X is extended past its ends by the boundary
            rule.

SCHEDULE    A unit is a block of rows, of channels and of kernel positions, of one group and one slice of the taps. It
            takes a patch of output positions at a time, of some lines of the second last axis. The samples under it
            are gathered into a panel with the channels last, once for all kernel positions: there the lanes of tap
            (i, a), for all b and c, lie side by side (d = 1; else for each b). The gradient is read where the caller
            has it, or loaded row by row; the sums wait in scratch. Units run in parallel.

            Few channels (a first layer) would leave most lanes empty. Then everything is turned: lanes are output
            channels, of a gradient that is transposed on its way in; the tile's rows are kernel positions b, which read
            a panel that is as X is.

NUMERICS    Chunks of at most CHUNK taps of a patch are summed on their own; chunks, patches and slices are added in
            order. All three follow from the shape alone: results are bitwise the same for any number of threads.

CALLER MUST give a w that is aligned, native and does not overlap g or X; those may be anything `line.load` reads.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdlib cimport free, malloc
from libc.string cimport memset
cimport numpy as cnp

from .line cimport CONSTANT, Format, copy_line, extend, format_of, gather, load, real_type, store
from .team cimport run_units
from .tile cimport CHUNK, LANES, MAX_ACC, MAX_ROWS, ceil_div, eager_void, real, tile_apart, tile_vectors, turn

cnp.import_array()

cdef enum:
    MAX_AXES = 64
    SLICE = 1024                       # taps that are worth sums of their own
    MOST_SLICE = 8192                  # and those after which a unit ends, for Ctrl-C
    SPREAD = 4                         # samples from tap to tap that are few enough to gather all
    VECTORS = MAX_ACC // MAX_ROWS
    WIDTH = VECTORS * LANES            # lanes of a tile

# Bytes per thread, together most of a 1 MB L2; PARTIAL_BYTES are for all threads.
cdef Py_ssize_t SUMS_BYTES = 256 << 10
cdef Py_ssize_t PANEL_BYTES = 192 << 10
cdef Py_ssize_t PARTIAL_BYTES = 2 << 20
cdef Py_ssize_t MOST_LANES = 256
cdef Py_ssize_t MOST_ROWS = 192
cdef Py_ssize_t MOST_TAPS = 1024      # of a patch
cdef double SLAB_SECONDS = 0.01        # between two looks at Ctrl-C


cdef struct Axis:
    Py_ssize_t n, x                    # samples of X, bytes from one to the next
    int rule
    Py_ssize_t lo
    Py_ssize_t k, w, d                 # kernel positions, bytes from one to the next in w, samples
    Py_ssize_t m, g, s                 # output positions, bytes from one to the next in g, samples
    bint spread                        # one kernel position at a time, of whose samples only every s-th is gathered


cdef struct Job:
    Py_ssize_t batch, x_batch, g_batch
    Py_ssize_t groups, x_group, g_group, w_group
    Py_ssize_t rows, g_row, w_row
    Py_ssize_t channels, x_channel, w_channel
    int naxes                          # at least 2; the last two are `line` and `lane`
    Axis axis[MAX_AXES]
    Py_ssize_t places, kernels         # output and kernel positions along all other axes
    Py_ssize_t patch_lines, patch_width, lines, columns       # of outputs; of X below
    Py_ssize_t line_patches, patches   # along `line`, in all
    Py_ssize_t slice, slices           # patches per slice; slices side by side
    Py_ssize_t rounds, turn            # of so many slices; the current one adds to the sums of those before
    Py_ssize_t row_block, row_blocks, channel_block, channel_blocks, a_block, a_blocks, b_block, b_blocks
    Py_ssize_t parts, width, lanes     # runs of lanes per a: 1, or one per b; lanes in each, in whole tiles
    Py_ssize_t units
    Format g_format, x_format
    bint in_place                      # the gradient is read where it is
    bint turned                        # rows and lanes have changed places
    int vectors                        # of a tile, at most
    int wtype, wsize
    real fill
    const char* g
    const char* x
    char* w
    real* partial                      # sums by slices, [slice][w, C-contiguous]; NULL if there is only one


cdef struct Scratch:
    void* block
    real* sums                         # [a][part][row][lane]; turned: [channel][a][b][row]
    real* panel                        # [line][column][channel]; turned: [line][channel][column]
    real* packed                       # the gradient, [row][tap], where it is not read in place; turned: [tap][row]
    real* line                         # [channel, LANES of them][column]
    const real** tap
    Py_ssize_t* place                  # of each tap in the gradient of a row


cdef struct Unit:
    Py_ssize_t slice, group, r0, r1, c0, c1, kernel, a0, a1, b0, b1


cdef Unit find_unit(const Job* job, Py_ssize_t index) noexcept nogil:
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Unit u
    u.r0 = index % job.row_blocks * job.row_block
    u.r1 = min(u.r0 + job.row_block, job.rows)
    index //= job.row_blocks
    u.c0 = index % job.channel_blocks * job.channel_block
    u.c1 = min(u.c0 + job.channel_block, job.channels)
    index //= job.channel_blocks
    u.b0 = index % job.b_blocks * job.b_block
    u.b1 = min(u.b0 + job.b_block, lane.k)
    index //= job.b_blocks
    u.a0 = index % job.a_blocks * job.a_block
    u.a1 = min(u.a0 + job.a_block, line.k)
    index //= job.a_blocks
    u.kernel = index % job.kernels
    index //= job.kernels
    u.group = index % job.groups
    u.slice = index // job.groups
    return u


cdef inline Py_ssize_t extent(const Axis* axis, Py_ssize_t outputs, Py_ssize_t kernels) noexcept nogil:
    """Samples in the panel under so many outputs for so many kernel positions."""
    return outputs if axis.spread else (outputs - 1) * axis.s + axis.d * (kernels - 1) + 1


cdef void gather_patch(
    const Job* job, const Unit* u, const char* x, Py_ssize_t line0, Py_ssize_t lines, Py_ssize_t lane0,
    Py_ssize_t width, Scratch* s,
) noexcept nogil:
    """The panel under a patch: one line of one channel at a time. x NULL: nothing but fill."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t count = extent(lane, width, u.b1 - u.b0), channels = u.c1 - u.c0
    cdef Py_ssize_t i, c, v, at, block, n, wide = ceil_div(job.columns, LANES) * LANES
    cdef real* to
    for i in range(extent(line, lines, u.a1 - u.a0)):
        at = -1
        if x != NULL:
            at = line.s * line0 + line.d * u.a0 + i * (line.s if line.spread else 1) - line.lo
            at = extend(at, line.n, line.rule)
        # Last block of channels first: the next one covers what is transposed too much.
        for block in range(ceil_div(channels, LANES) - 1, -1, -1):
            n = min(<Py_ssize_t>LANES, channels - block * LANES)
            for c in range(n):
                to = s.line + c * wide
                if job.turned:
                    to = s.panel + (i * channels + block * LANES + c) * job.columns
                if at < 0:
                    for v in range(count):
                        to[v] = job.fill
                    continue
                gather(
                    &job.x_format, x + at * line.x + (u.c0 + block * LANES + c) * job.x_channel, to, count,
                    lane.s * lane0 + lane.d * u.b0 - lane.lo, lane.s if lane.spread else 1, lane.n, lane.x, lane.rule,
                    job.fill,
                )
            to = s.panel + i * job.columns * channels + block * LANES
            for v in range(0 if job.turned else ceil_div(count, LANES)):
                turn(s.line + v * LANES, wide, n, LANES, to + v * LANES * channels, channels)


cdef void load_patch(
    const Job* job, const Unit* u, const char* g, Py_ssize_t lines, Py_ssize_t width, Scratch* s
) noexcept nogil:
    """The gradient of a patch, and where its taps are."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t r, i, t, taps = job.patch_lines * job.patch_width
    for t in range(lines * width):
        s.place[t] = t
        if job.in_place:
            s.place[t] = (t // width * line.g + t % width * lane.g) // <Py_ssize_t>sizeof(real)
    for r in range(0 if job.in_place else u.r1 - u.r0):
        for i in range(lines):
            load(
                &job.g_format, g + (u.r0 + r) * job.g_row + i * line.g, s.packed + r * taps + i * width, width, lane.g
            )


cdef void turn_patch(
    const Job* job, const Unit* u, const char* g, Py_ssize_t lines, Py_ssize_t width, Scratch* s
) noexcept nogil:
    """The gradient of a patch with the rows last, and where its taps are in the panel."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t line_step = (1 if line.spread else line.s) * (u.c1 - u.c0) * job.columns
    cdef Py_ssize_t lane_step = 1 if lane.spread else lane.s, wide = ceil_div(width, LANES) * LANES
    cdef Py_ssize_t r, i, j, t, block
    cdef real* to
    for t in range(lines * width):
        s.place[t] = t // width * line_step + t % width * lane_step
    for block in range(ceil_div(u.r1 - u.r0, LANES)):
        for i in range(lines):
            for r in range(min(<Py_ssize_t>LANES, u.r1 - u.r0 - block * LANES)):
                load(
                    &job.g_format, g + (u.r0 + block * LANES + r) * job.g_row + i * line.g, s.line + r * wide, width,
                    lane.g,
                )
            to = s.packed + i * width * job.lanes + block * LANES
            for j in range(ceil_div(width, LANES)):  # the next line covers what is too much
                turn(s.line + j * LANES, wide, LANES, LANES, to + j * LANES * job.lanes, job.lanes)


cdef void add_turned(
    const Job* job, const Unit* u, Py_ssize_t lines, Py_ssize_t width, bint fresh, Scratch* s
) noexcept nogil:
    """All products of a patch, to the sums: kernel positions are the tile's rows, rows its lanes."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t channels = u.c1 - u.c0, taps = lines * width, rows = u.r1 - u.r0, count = u.b1 - u.b0
    cdef Py_ssize_t groups = ceil_div(count, MAX_ROWS), a, b, c, t, t0, t1 = 0, j, k
    cdef const real* src[MAX_ROWS]
    cdef real* dst[MAX_ROWS]
    cdef const real* p
    cdef real* sums
    cdef int n, i, vectors
    while t1 < taps:
        t0 = t1
        t1 = min(taps, t0 + ceil_div(taps, ceil_div(taps, CHUNK)))
        for t in range(t0, t1):
            s.tap[t - t0] = s.packed + t * job.lanes
        j = 0
        while j < rows:
            vectors = tile_vectors(job.vectors, rows - j)
            sums = s.sums + j
            for c in range(channels):
                for a in range(u.a1 - u.a0):
                    p = s.panel + (line.d * a * channels + c) * job.columns
                    b = 0
                    for k in range(groups):
                        n = <int>ceil_div(count - b, groups - k)
                        for i in range(n):
                            dst[i] = sums
                            src[i] = NULL if fresh and t0 == 0 else dst[i]
                            sums += job.lanes
                        tile_apart(n, vectors, t1 - t0, s.tap, j, p + lane.d * b, s.place + t0, lane.d, src, dst)
                        b += n
            j += vectors * LANES


cdef void add_patch(
    const Job* job, const Unit* u, const char* g, Py_ssize_t lines, Py_ssize_t width, bint fresh, Scratch* s
) noexcept nogil:
    """All products of a patch, to the sums."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t channels = u.c1 - u.c0, taps = lines * width, rows = u.r1 - u.r0
    cdef Py_ssize_t lanes = channels * (1 if job.parts > 1 else u.b1 - u.b0)
    cdef Py_ssize_t line_step = 1 if line.spread else line.s, lane_step = 1 if lane.spread else lane.s
    cdef Py_ssize_t a, b, t, t0, t1, i, j, k, r, at, groups = ceil_div(rows, MAX_ROWS)
    cdef Py_ssize_t across = job.patch_lines * job.patch_width
    cdef const real* gradient = s.packed
    cdef real* sums
    cdef const real* src[MAX_ROWS]
    cdef real* dst[MAX_ROWS]
    cdef int n, vectors
    if job.in_place:
        gradient, across = <const real*>(g + u.r0 * job.g_row), job.g_row // <Py_ssize_t>sizeof(real)
    t1 = 0
    while t1 < taps:
        t0 = t1
        t1 = min(taps, t0 + ceil_div(taps, ceil_div(taps, CHUNK)))
        for a in range(u.a1 - u.a0):
            for b in range(u.b1 - u.b0 if job.parts > 1 else 1):
                sums = s.sums + (a * job.parts + b) * job.row_block * job.lanes
                for t in range(t0, t1):
                    at = (line_step * (t // width) + line.d * a) * job.columns + lane_step * (t % width) + lane.d * b
                    s.tap[t - t0] = s.panel + at * channels
                j = 0
                while j < lanes:
                    vectors = tile_vectors(job.vectors, lanes - j)
                    r = 0
                    for k in range(groups):
                        n = <int>ceil_div(rows - r, groups - k)  # rows are shared out evenly
                        for i in range(n):
                            dst[i] = sums + (r + i) * job.lanes + j
                            src[i] = NULL if fresh and t0 == 0 else dst[i]
                        tile_apart(n, vectors, t1 - t0, s.tap, j, gradient + r * across, s.place + t0, across, src, dst)
                        r += n
                    j += vectors * LANES


cdef void leave(const Job* job, const Unit* u, Scratch* s) noexcept nogil:
    """Finished sums to w, or to the slice's own."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t channels = u.c1 - u.c0, bs = u.b1 - u.b0, taps = (u.a1 - u.a0) * bs
    cdef Py_ssize_t size = sizeof(real), step_b = lane.w, step_a = line.w, step_c = job.w_channel, step_r = job.w_row
    cdef Py_ssize_t r, c, k, n, m, i, rest, block, run
    cdef const real* sums
    cdef char* row
    cdef char* to
    cdef char* w = job.w + u.group * job.w_group
    cdef int axis, type = job.wtype
    rest = u.kernel
    for axis in range(job.naxes - 3, -1, -1):
        w += rest % job.axis[axis].k * job.axis[axis].w
        rest //= job.axis[axis].k
    if job.partial != NULL:
        type, step_b, step_a = real_type(), size, lane.k * size
        step_c = job.kernels * line.k * step_a
        step_r = job.channels * step_c
        w = <char*>job.partial + (u.slice * job.groups + u.group) * job.rows * step_r + u.kernel * line.k * step_a
    w += u.r0 * step_r + u.c0 * step_c + u.a0 * step_a + u.b0 * step_b
    # A run of kernel positions lies side by side in w: LANES of it by LANES channels (turned: rows) are transposed.
    run = bs
    if bs == lane.k and (line.k == 1 or step_a == bs * step_b):
        run = taps
        if job.turned and taps == line.k * lane.k and step_c == taps * step_b:
            run = taps * channels
    for r in range(1 if job.turned else u.r1 - u.r0):
        for block in range(ceil_div(u.r1 - u.r0 if job.turned else channels, LANES)):
            n = min(<Py_ssize_t>LANES, (u.r1 - u.r0 if job.turned else channels) - block * LANES)
            row = w + r * step_r + block * LANES * (step_r if job.turned else step_c)
            k = 0
            while k < taps * (channels if job.turned else 1):
                m = min(<Py_ssize_t>LANES, run - k % run)
                for i in range(m):
                    sums = s.sums + (k + i) * job.lanes
                    if not job.turned:
                        sums = s.sums + (k + i) // bs * job.parts * job.row_block * job.lanes
                        if job.parts > 1:
                            sums += ((k + i) % bs * job.row_block + r) * job.lanes
                        else:
                            sums += r * job.lanes + (k + i) % bs * channels
                    copy_line(sums + block * LANES, s.line + i * LANES, LANES)
                turn(s.line, LANES, m, n, s.line + LANES * LANES, LANES)
                to = row + k // taps * step_c + k % taps // bs * step_a + k % bs * step_b
                for c in range(n):
                    for i in range(m if job.turn > 0 else 0):
                        s.line[(LANES + c) * LANES + i] += (<real*>to)[i]
                    store(type, s.line + (LANES + c) * LANES, to, m, step_b)
                    to += step_r if job.turned else step_c
                k += m


cdef void run_unit(const void* given, Py_ssize_t index, void* scratch) noexcept nogil:
    """A block of w from one slice of the taps."""
    cdef const Job* job = <const Job*>given
    cdef Scratch* s = <Scratch*>scratch
    cdef Unit u = find_unit(job, index)
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef const Axis* axis
    cdef Py_ssize_t patch, first = (job.turn * job.slices + u.slice) * job.slice
    cdef Py_ssize_t rest, kernel, line0, lane0, lines, width, at, segments
    cdef const char* x
    cdef const char* g
    cdef int i
    segments = ceil_div(lane.m, job.patch_width)
    if first >= job.patches:
        return
    for patch in range(first, min(first + job.slice, job.patches)):
        rest = patch
        lane0 = rest % segments * job.patch_width
        width = min(job.patch_width, lane.m - lane0)
        rest //= segments
        line0 = rest % job.line_patches * job.patch_lines
        lines = min(job.patch_lines, line.m - line0)
        rest //= job.line_patches
        x = job.x + u.group * job.x_group
        g = job.g + u.group * job.g_group + line0 * line.g + lane0 * lane.g
        kernel = u.kernel
        for i in range(job.naxes - 3, -1, -1):
            axis = &job.axis[i]
            g += rest % axis.m * axis.g
            if x != NULL:
                at = extend(axis.s * (rest % axis.m) + axis.d * (kernel % axis.k) - axis.lo, axis.n, axis.rule)
                x = x + at * axis.x if at >= 0 else <const char*>NULL
            rest //= axis.m
            kernel //= axis.k
        g += rest * job.g_batch
        if x != NULL:
            x += rest * job.x_batch
        gather_patch(job, &u, x, line0, lines, lane0, width, s)
        if job.turned:
            turn_patch(job, &u, g, lines, width, s)
            add_turned(job, &u, lines, width, patch == first, s)
        else:
            load_patch(job, &u, g, lines, width, s)
            add_patch(job, &u, g, lines, width, patch == first, s)
    leave(job, &u, s)


cdef void* scratch_new(const void* given) noexcept nogil:
    """One block for one thread; NULL when memory is short."""
    cdef const Job* job = <const Job*>given
    cdef Py_ssize_t head = (sizeof(Scratch) + 63) // 64 * 64
    cdef Py_ssize_t sums = job.a_block * (job.b_block * job.channel_block if job.turned else job.parts * job.row_block)
    # Lanes past the last are read, and turned.
    cdef Py_ssize_t panel = job.lines * job.columns * job.channel_block + LANES * (job.channel_block + LANES) + WIDTH
    cdef Py_ssize_t taps = job.patch_lines * job.patch_width, packed = 0
    cdef Py_ssize_t line = LANES * max(<Py_ssize_t>(2 * LANES), max(job.columns, job.patch_width) + LANES)
    cdef Py_ssize_t tables = (CHUNK + taps) * <Py_ssize_t>sizeof(Py_ssize_t)
    if job.turned:
        packed = (taps + LANES) * job.lanes
    elif not job.in_place:
        packed = job.row_block * taps
    sums *= job.lanes
    cdef void* block = malloc(64 + head + (sums + LANES + panel + packed + line) * sizeof(real) + tables)
    if block == NULL:
        return NULL
    cdef char* p = <char*>((<size_t>block + 63) // 64 * 64)
    cdef Scratch* s = <Scratch*>p
    s.block = block
    s.tap = <const real**>(p + head)
    s.place = <Py_ssize_t*>(s.tap + CHUNK)
    s.sums = <real*>(s.place + taps)
    s.panel = s.sums + sums + LANES
    s.packed = s.panel + panel
    s.line = s.packed + packed
    memset(s.panel, 0, panel * sizeof(real))
    return s


cdef eager_void add_slices(const Job* job) noexcept nogil:
    """The sums of all slices, in order, to w."""
    cdef Py_ssize_t length[MAX_AXES + 3]
    cdef Py_ssize_t step[MAX_AXES + 3]
    cdef Py_ssize_t size = 1, run = 1, i, rest, slice, item = job.wsize
    cdef real* sums = job.partial
    cdef char* w
    cdef int axis, n = 3 + job.naxes
    length[0], length[1], length[2] = job.groups, job.rows, job.channels
    step[0], step[1], step[2] = job.w_group, job.w_row, job.w_channel
    for axis in range(job.naxes):
        length[3 + axis], step[3 + axis] = job.axis[axis].k, job.axis[axis].w
    for axis in range(n):
        size *= length[axis]
    for slice in range(1, job.slices):
        for i in range(size):
            sums[i] += sums[slice * size + i]
    while n > 0 and (length[n - 1] == 1 or step[n - 1] == run * item):  # what lies in w as it does here
        run *= length[n - 1]
        n -= 1
    for i in range(size // run):
        rest = i
        w = job.w
        for axis in range(n - 1, -1, -1):
            w += rest % length[axis] * step[axis]
            rest //= length[axis]
        store(job.wtype, sums + i * run, w, run, item)


cdef void lay_out(Job* job, int threads) noexcept:
    """Patches and slices from the shape alone, since they decide the order of a sum; blocks of w also from threads."""
    cdef Axis* line = &job.axis[job.naxes - 2]
    cdef Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t i, room, groups, step
    job.places = job.batch
    job.kernels = 1
    for i in range(job.naxes - 2):
        job.places *= job.axis[i].m
        job.kernels *= job.axis[i].k
    for i in range(job.naxes - 2, job.naxes):
        job.axis[i].spread = max(job.axis[i].s, job.axis[i].d) > SPREAD
    job.b_block = 1 if lane.spread else min(lane.k, MOST_LANES)
    job.channel_block = min(job.channels, max(1, MOST_LANES // job.b_block))
    job.parts = 1
    if lane.d > 1 and job.b_block > 1:
        job.b_block = min(lane.k, 8)
        job.parts = job.b_block
        job.channel_block = min(job.channels, WIDTH)
    # Whole tiles, where there are so many channels.
    i = job.channel_block * (1 if job.parts > 1 else job.b_block)
    if job.channel_block < job.channels and i > WIDTH and job.parts == 1:
        while job.channel_block > 1 and job.channel_block * job.b_block % WIDTH:
            job.channel_block -= 1
        if job.channel_block * job.b_block < WIDTH:
            job.channel_block = i // job.b_block
    job.width = job.channel_block * (1 if job.parts > 1 else job.b_block)
    job.turned = 4 * job.width <= 3 * LANES * ceil_div(job.width, LANES) and job.rows > job.width
    job.vectors, step = VECTORS, MAX_ROWS
    if job.turned:
        job.parts = 1
        job.b_block = 1 if lane.spread else min(lane.k, MOST_LANES // LANES)
        job.width = job.channel_block * job.b_block
        i = min(job.b_block, <Py_ssize_t>MAX_ROWS)
        job.vectors = 8 if 8 * i <= MAX_ACC else (4 if 4 * i <= MAX_ACC else 2)
        step = job.vectors * LANES
        job.lanes = ceil_div(min(job.rows, MOST_LANES), step) * step
        room = SUMS_BYTES // (job.width * job.lanes * <Py_ssize_t>sizeof(real))
        groups = job.lanes // step  # of rows
    else:
        job.lanes = ceil_div(job.width, WIDTH) * WIDTH
        room = SUMS_BYTES // (MAX_ROWS * job.parts * job.lanes * <Py_ssize_t>sizeof(real))
        groups = max(1, min(room // max(1, min(line.k, room)), MOST_ROWS // MAX_ROWS))
    job.a_block = 1 if line.spread else max(1, min(line.k, room))
    # Of the panel of a patch, what the kernel reaches past its outputs is gathered once more for the next one.
    job.lines = extent(line, 1, job.a_block)
    job.patch_width = ceil_div(lane.m, ceil_div(lane.m, 2 * CHUNK))
    job.columns = extent(lane, job.patch_width, job.b_block)
    room = PANEL_BYTES // (job.columns * job.channel_block * <Py_ssize_t>sizeof(real)) - job.lines
    job.patch_lines = max(CHUNK // job.patch_width, 1 + room // (1 if line.spread else line.s))
    job.patch_lines = max(1, min(job.patch_lines, line.m, MOST_TAPS // job.patch_width))
    job.patch_lines = ceil_div(line.m, ceil_div(line.m, job.patch_lines))
    job.lines = extent(line, job.patch_lines, job.a_block)
    job.line_patches = ceil_div(line.m, job.patch_lines)
    job.patches = job.places * job.line_patches * ceil_div(lane.m, job.patch_width)
    i = job.groups * job.rows * job.channels * job.kernels * line.k * lane.k * <Py_ssize_t>sizeof(real)
    i = min(max(1, PARTIAL_BYTES // i), max(1, job.patches * job.patch_lines * job.patch_width // SLICE))
    job.rounds = ceil_div(job.patches * job.patch_lines * job.patch_width, i * MOST_SLICE)
    job.slice = ceil_div(job.patches, i * job.rounds)
    job.rounds = ceil_div(job.patches, i * job.slice)
    job.slices = min(i, ceil_div(job.patches, job.slice))
    job.channel_blocks = ceil_div(job.channels, job.channel_block)
    job.b_blocks = ceil_div(lane.k, job.b_block)
    job.a_blocks = ceil_div(line.k, job.a_block)
    i = job.slices * job.groups * job.kernels * job.a_blocks * job.b_blocks * job.channel_blocks
    if threads > 1 and i < 4 * threads:
        groups = min(groups, max(1, ceil_div(job.rows, step) * i // (4 * threads)))
    job.row_block = min(job.rows, groups * step)
    job.row_blocks = ceil_div(job.rows, job.row_block)
    job.units = i * job.row_blocks


cdef class Weights:
    """One Contraction of result "w", laid out for this build."""

    cdef Job job
    cdef int rank, more
    cdef bint flip
    cdef double rate

    def __cinit__(self, form, rules, fill, double rate):
        cdef Job* job = &self.job
        cdef Axis* axis
        cdef int i
        self.rank, self.rate, self.flip = form.rank, rate, form.flip
        self.more = max(0, 2 - self.rank)  # axes of one sample in front make the last two exist
        job.batch, job.groups, job.rows, job.channels = form.batch, form.groups, form.features, form.channels
        job.fill, job.naxes = fill, self.rank + self.more
        for i in range(self.more):
            axis = &job.axis[i]
            axis.n = axis.k = axis.m = axis.s = axis.d = 1
            axis.x = axis.w = axis.g = axis.lo = 0
            axis.rule = CONSTANT
        for i in range(self.rank):
            axis = &job.axis[self.more + i]
            axis.n, axis.k, axis.m = form.size[i], form.kernel[i], form.out_size[i]
            axis.s, axis.d, axis.lo, axis.rule = form.stride[i], form.dilation[i], form.padding[i][0], rules[i]

    def run(self, cnp.ndarray g not None, cnp.ndarray x not None, cnp.ndarray w not None, bias, int threads):
        """w = the contraction of canonical `g`, the gradient of the output, and `x`; there is no `bias`."""
        cdef Job job = self.job
        cdef const cnp.npy_intp* gs = cnp.PyArray_STRIDES(g)
        cdef const cnp.npy_intp* xs = cnp.PyArray_STRIDES(x)
        cdef const cnp.npy_intp* ws = cnp.PyArray_STRIDES(w)
        cdef Format f = format_of(w)
        cdef Axis* axis
        cdef int i
        if cnp.PyArray_SIZE(w) == 0:
            return
        if cnp.PyArray_SIZE(g) == 0:
            w[...] = 0
            return
        job.g_format, job.x_format, job.wtype, job.wsize = format_of(g), format_of(x), f.type, f.size
        job.in_place = job.g_format.type == real_type() and not job.g_format.raw
        job.g, job.x = <const char*>cnp.PyArray_DATA(g), <const char*>cnp.PyArray_DATA(x)
        job.w = <char*>cnp.PyArray_DATA(w)
        job.g_batch, job.x_batch = gs[0], xs[0]
        job.g_group, job.x_group, job.w_group = gs[1], xs[1], ws[0]
        job.g_row, job.w_row = gs[2], ws[1]
        job.x_channel, job.w_channel = xs[2], ws[2]
        for i in range(self.rank):
            axis = &job.axis[self.more + i]
            axis.g, axis.x, axis.w = gs[3 + i], xs[3 + i], ws[3 + i]
            if self.flip:
                job.w += (axis.k - 1) * axis.w
                axis.w = -axis.w
        self.run_job(&job, threads)

    cdef int run_job(self, Job* job, int threads) except -1:
        """The loops, with a look at Ctrl-C now and then."""
        cdef Py_ssize_t done = 0, slab, size = 1
        cdef int failed = 0, i
        cdef double work
        lay_out(job, threads)
        job.partial = NULL
        if job.slices > 1 or job.rounds > 1:
            for i in range(job.naxes):
                size *= job.axis[i].k
            size *= job.groups * job.rows * job.channels * job.slices
            job.partial = <real*>malloc(size * sizeof(real))
            if job.partial == NULL:
                raise MemoryError()
        work = <double>job.row_block * job.width * job.parts * job.a_block
        work *= job.slice * job.patch_lines * job.patch_width
        slab = <Py_ssize_t>max(<double>threads, min(<double>job.units, SLAB_SECONDS * self.rate * threads / work))
        try:
            for job.turn in range(job.rounds):
                done = 0
                while done < job.units and not failed:
                    with nogil:
                        failed = run_units(job, done, min(job.units, done + slab), 1, threads, scratch_new, run_unit)
                    done += slab
                    PyErr_CheckSignals()
            if job.partial != NULL and not failed:
                with nogil:
                    add_slices(job)
        finally:
            free(job.partial)
        if failed:
            raise MemoryError("no scratch memory for the kernel")
        return 0
