"""Weight gradients: the layer's third contraction, of any rank.

ALGORITHM   w[g, o, c, j] = sum over n, i of  g[n, g, o, i] * X[n, g, c, s*i + d*j - lo]. Rows are output channels o,
            taps (n, i), lanes (kernel position b of the last axis, c). X is extended past its ends by the boundary
            rule.

SCHEDULE    A unit is a block of rows, of channels and of kernel positions, of one group and one slice of the taps. It
            takes a patch of output positions at a time, of some lines of the second last axis. The samples under it
            are gathered into a panel with the channels last, once for all kernel positions: there the lanes of tap
            (i, a), for all b and c, lie side by side (d = 1; else for each b). The gradient is packed as the tile reads
            its weights, the sums wait in scratch. Units run in parallel.

NUMERICS    Chunks of at most CHUNK taps of a patch are summed on their own; chunks, patches and slices are added in
            order. All three follow from the shape alone: results are bitwise the same for any number of threads.

CALLER MUST give a w that is aligned, native and does not overlap g or X; those may be anything `line.load` reads.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdlib cimport free, malloc
cimport numpy as cnp

from .line cimport CONSTANT, Format, extend, format_of, gather, load, real_type, store
from .team cimport run_units
from .tile cimport LANES, MAX_ACC, MAX_ROWS, real, tile

cnp.import_array()

cdef enum:
    MAX_AXES = 64
    CHUNK = 128                        # taps whose lanes of one tile fill half of L1; flat from 64 to 256
    SLICE = 2048                       # taps that are worth sums of their own
    SPREAD = 4                         # samples from tap to tap that are few enough to gather all
    VECTORS = MAX_ACC // MAX_ROWS
    WIDTH = VECTORS * LANES            # lanes of a tile

# Bytes per thread, together most of a 1 MB L2; PARTIAL_BYTES are for all threads.
cdef Py_ssize_t SUMS_BYTES = 256 << 10
cdef Py_ssize_t PARTIAL_BYTES = 2 << 20
cdef Py_ssize_t MOST_LANES = 256
cdef Py_ssize_t MOST_ROWS = 192
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
    Py_ssize_t slice, slices           # patches per slice
    bint one_by_one                    # slices: one after the other into one copy of w, not side by side
    Py_ssize_t current                 # of these
    Py_ssize_t row_block, row_blocks, channel_block, channel_blocks, a_block, a_blocks, b_block, b_blocks
    Py_ssize_t parts, width, lanes     # runs of lanes per a: 1, or one per b; lanes in each, in whole tiles
    Py_ssize_t units
    Format g_format, x_format
    int wtype
    real fill
    const char* g
    const char* x
    char* w
    real* partial                      # sums by slices, [slice][w, C-contiguous]; NULL if there is only one


cdef struct Scratch:
    void* block
    real* sums                         # [a][part][row][lane]
    real* panel                        # [line][column][channel]
    real* packed                       # [group of rows][tap][row]
    real* line
    const real** tap


cdef struct Unit:
    Py_ssize_t slice, group, r0, r1, c0, c1, kernel, a0, a1, b0, b1


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


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
    u.slice = job.current if job.one_by_one else index // job.groups
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
    cdef Py_ssize_t i, c, v, at
    cdef real* to
    for i in range(extent(line, lines, u.a1 - u.a0)):
        at = -1
        if x != NULL:
            at = line.s * line0 + line.d * u.a0 + i * (line.s if line.spread else 1) - line.lo
            at = extend(at, line.n, line.rule)
        for c in range(channels):
            to = s.panel + i * job.columns * channels + c
            if at < 0:
                for v in range(count):
                    to[v * channels] = job.fill
                continue
            gather(
                &job.x_format, x + at * line.x + (u.c0 + c) * job.x_channel, s.line, count,
                lane.s * lane0 + lane.d * u.b0 - lane.lo, lane.s if lane.spread else 1, lane.n, lane.x, lane.rule,
                job.fill,
            )
            for v in range(count):
                to[v * channels] = s.line[v]


cdef void pack_patch(
    const Job* job, const Unit* u, const char* g, Py_ssize_t lines, Py_ssize_t width, Scratch* s
) noexcept nogil:
    """The gradient of a patch as the tile reads its weights: [group of rows][tap][row]."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef bint native = job.g_format.type == real_type() and not job.g_format.raw
    cdef Py_ssize_t r, q, i, v, n, first = u.r0
    cdef const char* p
    cdef real* to = s.packed
    while first < u.r1:
        n = min(<Py_ssize_t>MAX_ROWS, u.r1 - first)
        for i in range(lines):
            p = g + first * job.g_row + i * line.g
            if native and n == MAX_ROWS:
                for v in range(width):
                    for q in range(MAX_ROWS):
                        to[q] = (<const real*>(p + q * job.g_row + v * lane.g))[0]
                    to += n
                continue
            for r in range(n):
                load(&job.g_format, p + r * job.g_row, s.line, width, lane.g)
                for v in range(width):
                    to[v * n + r] = s.line[v]
            to += width * n
        first += n


cdef void add_patch(
    const Job* job, const Unit* u, Py_ssize_t lines, Py_ssize_t width, bint fresh, Scratch* s
) noexcept nogil:
    """All products of a patch, to the sums."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t channels = u.c1 - u.c0, taps = lines * width, rows = u.r1 - u.r0
    cdef Py_ssize_t lanes = channels * (1 if job.parts > 1 else u.b1 - u.b0)
    cdef Py_ssize_t line_step = 1 if line.spread else line.s, lane_step = 1 if lane.spread else lane.s
    cdef Py_ssize_t a, b, t, t0, t1, i, j, r, at
    cdef real* sums
    cdef const real* src[MAX_ROWS]
    cdef real* dst[MAX_ROWS]
    cdef int n, vectors
    for a in range(u.a1 - u.a0):
        for b in range(u.b1 - u.b0 if job.parts > 1 else 1):
            sums = s.sums + (a * job.parts + b) * job.row_block * job.lanes
            t1 = 0
            while t1 < taps:
                t0 = t1
                t1 = min(taps, t0 + CHUNK)
                for t in range(t0, t1):
                    at = (line_step * (t // width) + line.d * a) * job.columns + lane_step * (t % width) + lane.d * b
                    s.tap[t - t0] = s.panel + at * channels
                j = 0
                while j < lanes:
                    vectors = VECTORS
                    while vectors > 1 and j + vectors // 2 * LANES >= lanes:
                        vectors //= 2  # the last tile is as narrow as it can be
                    r = 0
                    while r < rows:
                        n = <int>min(<Py_ssize_t>MAX_ROWS, rows - r)
                        for i in range(n):
                            dst[i] = sums + (r + i) * job.lanes + j
                            src[i] = NULL if fresh and t0 == 0 else dst[i]
                        tile(n, vectors, 1, t1 - t0, s.tap, j, s.packed + r * taps + t0 * n, src, dst, n, False)
                        r += n
                    j += WIDTH


cdef void leave(const Job* job, const Unit* u, Scratch* s) noexcept nogil:
    """Finished sums to w, or to the slice's own."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t channels = u.c1 - u.c0, r, a, b, c, rest, index, at
    cdef Py_ssize_t step = 1 if job.parts > 1 else channels
    cdef const real* sums
    cdef char* w = job.w + u.group * job.w_group
    cdef int i
    rest = u.kernel
    for i in range(job.naxes - 3, -1, -1):
        w += rest % job.axis[i].k * job.axis[i].w
        rest //= job.axis[i].k
    for r in range(u.r0, u.r1):
        for a in range(u.a0, u.a1):
            for b in range(u.b0, u.b1):
                at = (a - u.a0) * job.parts + (b - u.b0 if job.parts > 1 else 0)
                sums = s.sums + (at * job.row_block + r - u.r0) * job.lanes
                sums += 0 if job.parts > 1 else (b - u.b0) * step
                if job.partial == NULL:
                    at = r * job.w_row + u.c0 * job.w_channel + a * line.w + b * lane.w
                    store(job.wtype, sums, w + at, channels, job.w_channel)
                    continue
                index = u.group if job.one_by_one else u.slice * job.groups + u.group
                for c in range(channels):
                    at = (((index * job.rows + r) * job.channels + u.c0 + c) * job.kernels + u.kernel) * line.k + a
                    at = at * lane.k + b
                    job.partial[at] = sums[c] + job.partial[at] if job.one_by_one and u.slice > 0 else sums[c]


cdef void run_unit(const void* given, Py_ssize_t index, void* scratch) noexcept nogil:
    """A block of w from one slice of the taps."""
    cdef const Job* job = <const Job*>given
    cdef Scratch* s = <Scratch*>scratch
    cdef Unit u = find_unit(job, index)
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef const Axis* axis
    cdef Py_ssize_t patch, first = u.slice * job.slice, rest, kernel, line0, lane0, lines, width, at, segments
    cdef const char* x
    cdef const char* g
    cdef int i
    segments = ceil_div(lane.m, job.patch_width)
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
        pack_patch(job, &u, g, lines, width, s)
        add_patch(job, &u, lines, width, patch == first, s)
    leave(job, &u, s)


cdef void* scratch_new(const void* given) noexcept nogil:
    """One block for one thread; NULL when memory is short."""
    cdef const Job* job = <const Job*>given
    cdef Py_ssize_t head = (sizeof(Scratch) + 63) // 64 * 64
    cdef Py_ssize_t sums = job.a_block * job.parts * job.row_block * job.lanes
    cdef Py_ssize_t panel = job.lines * job.columns * job.channel_block + WIDTH, i  # lanes past the last are read too
    cdef Py_ssize_t packed = job.row_block * job.patch_lines * job.patch_width
    cdef void* block = malloc(64 + head + (sums + panel + packed + job.columns) * sizeof(real) + CHUNK * sizeof(real*))
    if block == NULL:
        return NULL
    cdef char* p = <char*>((<size_t>block + 63) // 64 * 64)
    cdef Scratch* s = <Scratch*>p
    s.block = block
    s.tap = <const real**>(p + head)
    s.sums = <real*>(s.tap + CHUNK)
    s.panel = s.sums + sums
    s.packed = s.panel + panel
    s.line = s.packed + packed
    for i in range(panel):
        s.panel[i] = 0
    return s


cdef void add_slices(const Job* job) noexcept nogil:
    """The sums of all slices, in order, to w."""
    cdef Py_ssize_t size = job.groups * job.rows * job.channels, i, j, rest, slice, kernels = 1
    cdef real* sums
    cdef char* w
    cdef int axis
    for axis in range(job.naxes):
        kernels *= job.axis[axis].k
    size *= kernels
    for i in range(size):
        for slice in range(1, 1 if job.one_by_one else job.slices):
            job.partial[i] += job.partial[slice * size + i]
    for i in range(size // kernels):
        sums = job.partial + i * kernels
        for j in range(kernels):
            rest = j
            w = job.w + i % job.channels * job.w_channel + i // job.channels % job.rows * job.w_row
            w += i // job.channels // job.rows * job.w_group
            for axis in range(job.naxes - 1, -1, -1):
                w += rest % job.axis[axis].k * job.axis[axis].w
                rest //= job.axis[axis].k
            store(job.wtype, sums + j, w, 1, 0)


cdef void lay_out(Job* job, int threads) noexcept:
    """Patches and slices from the shape alone, since they decide the order of a sum; blocks of w also from threads."""
    cdef Axis* line = &job.axis[job.naxes - 2]
    cdef Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t i, room
    job.places = job.batch
    job.kernels = 1
    for i in range(job.naxes - 2):
        job.places *= job.axis[i].m
        job.kernels *= job.axis[i].k
    job.patch_width = ceil_div(lane.m, ceil_div(lane.m, 2 * CHUNK))
    job.patch_lines = min(line.m, max(1, CHUNK // job.patch_width))
    job.line_patches = ceil_div(line.m, job.patch_lines)
    job.patches = job.places * job.line_patches * ceil_div(lane.m, job.patch_width)
    job.slice = ceil_div(job.patches, max(1, job.patches * job.patch_lines * job.patch_width // SLICE))
    job.slices = ceil_div(job.patches, job.slice)
    i = job.groups * job.rows * job.channels * job.kernels * line.k * lane.k * <Py_ssize_t>sizeof(real)
    job.one_by_one = job.slices * i > PARTIAL_BYTES

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
    job.lanes = ceil_div(job.width, WIDTH) * WIDTH
    room = SUMS_BYTES // (MAX_ROWS * job.parts * job.lanes * <Py_ssize_t>sizeof(real))
    job.a_block = 1 if line.spread else max(1, min(line.k, room))
    room = max(1, min(room // job.a_block, MOST_ROWS // MAX_ROWS))  # groups of rows
    job.channel_blocks = ceil_div(job.channels, job.channel_block)
    job.b_blocks = ceil_div(lane.k, job.b_block)
    job.a_blocks = ceil_div(line.k, job.a_block)
    i = (1 if job.one_by_one else job.slices) * job.groups * job.kernels
    i *= job.a_blocks * job.b_blocks * job.channel_blocks
    if threads > 1 and i < 4 * threads:
        room = min(room, max(1, ceil_div(job.rows, MAX_ROWS) * i // (4 * threads)))
    job.row_block = min(job.rows, room * MAX_ROWS)
    job.row_blocks = ceil_div(job.rows, job.row_block)
    job.units = i * job.row_blocks
    job.lines = extent(line, job.patch_lines, job.a_block)
    job.columns = extent(lane, job.patch_width, job.b_block)


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
        job.g_format, job.x_format, job.wtype = format_of(g), format_of(x), f.type
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
        if job.slices > 1:
            for i in range(job.naxes):
                size *= job.axis[i].k
            size *= job.groups * job.rows * job.channels * (1 if job.one_by_one else job.slices)
            job.partial = <real*>malloc(size * sizeof(real))
            if job.partial == NULL:
                raise MemoryError()
        work = <double>job.row_block * job.width * job.parts * job.a_block
        work *= job.slice * job.patch_lines * job.patch_width
        slab = <Py_ssize_t>max(<double>threads, min(<double>job.units, SLAB_SECONDS * self.rate * threads / work))
        try:
            for job.current in range(job.slices if job.one_by_one else 1):
                done = 0
                while done < job.units and not failed:
                    with nogil:
                        failed = run_units(job, done, min(job.units, done + slab), 1, threads, scratch_new, run_unit)
                    done += slab
                    PyErr_CheckSignals()
            if job.slices > 1 and not failed:
                with nogil:
                    add_slices(job)
        finally:
            free(job.partial)
        if failed:
            raise MemoryError("no scratch memory for the kernel")
        return 0
