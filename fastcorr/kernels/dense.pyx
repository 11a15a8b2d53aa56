"""Layers and their input gradients: all channels meet all others, any rank.

ALGORITHM   y[n, g, r, l] = bias[g, r] + sum over c, j of  A[g, r, c, j] * X[n, g, c, offset + p*j + q*l], axis by axis.
            The output of a layer is that with r = o, A = w, X = x, q = stride, p = dilation. Its input gradient is
            that with r = c, A = w, X = g (the gradient of y), for the input positions of one residue modulo the
            stride at a time: they meet the kernel positions of one residue, at q = 1 and a negative p.

SCHEDULE    A unit is a block of rows r by a block of lanes l of one image (batch entry, group, position along all but
            the last two axes): some lines of the second last axis, each whole or a segment. For some channels at a
            time the samples under the block are gathered into a panel, once, in planes of every q-th sample.
            There the lanes of every kernel position lie side by side, whole lines apart by `pitch`: a few lanes between
            the lines are computed and not stored. Then all rows of the block pass by, MAX_ROWS at a time. Units run in
            parallel.

                taps (c, j): where they start in the panel  ->  tile(rows r, lanes l)  ->  sums[r][l] += ...

NUMERICS    Chunks of at most CHUNK taps are summed on their own and added in order, which follows from the shape alone:
            results are bitwise the same for any number of threads, any batch and any position.

CALLER MUST give A in the build's own type, and a y that is aligned, native and does not overlap X.
"""

from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange
from libc.stdlib cimport free, malloc
cimport numpy as cnp

from .line cimport CONSTANT, Format, extend, format_of, gather, real_type, store
from .team cimport run_units
from .tile cimport LANES, MAX_ACC, MAX_ROWS, real, tile, vec

cnp.import_array()

cdef enum:
    MAX_AXES = 64
    CHUNK = 128                        # taps whose lanes of one tile fill half of L1; flat from 64 to 256
    SPREAD = 4                         # strides from tap to tap; from there on they share few samples
    VECTORS = MAX_ACC // MAX_ROWS
    WIDTH = VECTORS * LANES            # lanes of a tile

# Per thread, in a 1 MB L2 beside the panel; 192 and 384 kB are much alike, less is slower.
cdef Py_ssize_t SUMS_BYTES = 384 << 10
cdef Py_ssize_t MOST_LANES = 1024
cdef double SLAB_SECONDS = 0.01        # between two looks at Ctrl-C


cdef struct Axis:
    Py_ssize_t n, x                    # samples of X, bytes from one to the next
    int rule
    Py_ssize_t offset                  # of tap 0, lane 0
    Py_ssize_t k, a, p                 # taps, bytes from one to the next in A, samples
    Py_ssize_t m, y, q                 # lanes, bytes from one to the next in y, samples
    # In the panel the axis is cut into strips of every q-th sample: one for each residue of p*j modulo q, where taps
    # start up to `shift` further on, or, if they are SPREAD, one for each tap.
    Py_ssize_t strips, shift
    bint spread


cdef struct Job:
    Py_ssize_t batch, x_batch, y_batch
    Py_ssize_t groups, a_group, x_group, y_group
    Py_ssize_t rows, a_row, y_row
    Py_ssize_t channels, a_channel, x_channel
    int naxes                          # at least 2; the last two are `line` and `lane`
    Axis axis[MAX_AXES]
    Py_ssize_t taps                    # per row
    Py_ssize_t image_taps              # of the last two axes
    Py_ssize_t images                  # planes of channels and of taps of the other axes: taps / image_taps
    Py_ssize_t together                # of these, gathered at a time
    Py_ssize_t lines, segment, pitch   # of a block of lanes: lines, lanes of each, from one to the next
    Py_ssize_t line_blocks, segments, places
    Py_ssize_t lanes                   # of a block, whole tiles
    Py_ssize_t plane                   # reals of one image in the panel
    Py_ssize_t row_block, row_blocks, units
    Format format
    int ytype
    real fill
    const char* x
    char* y
    const real* packed                 # [group][group of rows][tap][row]
    const real* bias                   # NULL: none


cdef struct Scratch:
    void* block
    real* sums
    real* panel
    const real** tap


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Py_ssize_t strip_start(const Axis* axis, Py_ssize_t strip) noexcept nogil:
    """The position of the first sample of a strip, for output position 0."""
    return axis.offset + (axis.p * strip if axis.spread else min(0, axis.p * (axis.k - 1)) + strip)


cdef inline Py_ssize_t strip_of(const Axis* axis, Py_ssize_t tap, Py_ssize_t* first) noexcept nogil:
    """The strip that `tap` reads, and from which of its samples on."""
    cdef Py_ssize_t u = axis.p * tap - min(0, axis.p * (axis.k - 1))
    first[0] = 0 if axis.spread else u // axis.q
    return tap if axis.spread else u % axis.q


cdef void gather_image(
    const Job* job, const char* x, Py_ssize_t line0, Py_ssize_t lane0, Py_ssize_t lines, Py_ssize_t width, real* to
) noexcept nogil:
    """One image under a block of lanes: [strip of lines][strip of lanes][line][lane]. x NULL: nothing but fill."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t row, column, i, u, v
    cdef Py_ssize_t at, count = width + lane.shift
    for row in range(line.strips):
        for column in range(lane.strips):
            v = strip_start(lane, column) + lane.q * lane0
            for i in range(lines + line.shift):
                u = -1
                if x != NULL:
                    u = extend(strip_start(line, row) + line.q * (line0 + i), line.n, line.rule)
                if u >= 0:
                    gather(&job.format, x + u * line.x, to, count, v, lane.q, lane.n, lane.x, lane.rule, job.fill)
                else:
                    for at in range(count):
                        to[at] = job.fill
                to += job.pitch
            to += (job.lines - lines) * job.pitch


cdef const char* image_start(const Job* job, const char* x, Py_ssize_t image, const Py_ssize_t* place) noexcept nogil:
    """Where image number `image` of those that are summed starts; NULL if it lies in the fill."""
    cdef Py_ssize_t u
    cdef const Axis* axis
    cdef int i
    for i in range(job.naxes - 3, -1, -1):
        axis = &job.axis[i]
        u = extend(axis.offset + axis.p * (image % axis.k) + axis.q * place[i], axis.n, axis.rule)
        if u < 0:
            return NULL
        x += u * axis.x
        image //= axis.k
    return x + image * job.x_channel


cdef inline Py_ssize_t tap_start(const Job* job, Py_ssize_t tap) noexcept nogil:
    """Where tap number `tap` of one image has its first lane."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t u, v, row = strip_of(line, tap // lane.k, &u), column = strip_of(lane, tap % lane.k, &v)
    return ((row * lane.strips + column) * (job.lines + line.shift) + u) * job.pitch + v


cdef inline void copy_line(const real* p, real* to, Py_ssize_t n) noexcept nogil:
    """`n` reals. A call of memcpy takes longer than most lines."""
    cdef Py_ssize_t i = 0
    if n >= LANES:
        while i <= n - LANES:
            (<vec*>(to + i))[0] = (<const vec*>(p + i))[0]
            i += LANES
        (<vec*>(to + n - LANES))[0] = (<const vec*>(p + n - LANES))[0]
        return
    for i in range(n):
        to[i] = p[i]


cdef void run_unit(const void* given, Py_ssize_t unit, void* scratch) noexcept nogil:
    """A block of rows by a block of lanes."""
    cdef const Job* job = <const Job*>given
    cdef Scratch* s = <Scratch*>scratch
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t place[MAX_AXES]
    cdef const real* src[MAX_ROWS]
    cdef real* dst[MAX_ROWS]
    cdef Py_ssize_t r0, r1, line0, lane0, lines, width, group, image, first, t, t0, t1, taps, lanes, tiles, r, i, j
    cdef const char* x = job.x
    cdef char* y = job.y
    cdef const real* w
    cdef int n, vectors
    cdef bint plain = job.ytype == real_type() and lane.y == sizeof(real)
    r0 = unit % job.row_blocks * job.row_block
    r1 = min(r0 + job.row_block, job.rows)
    unit //= job.row_blocks
    lane0 = unit % job.segments * job.segment
    width = min(job.segment, lane.m - lane0)
    unit //= job.segments
    line0 = unit % job.line_blocks * job.lines
    lines = min(job.lines, line.m - line0)
    unit //= job.line_blocks
    y += line0 * line.y + lane0 * lane.y
    for i in range(job.naxes - 3, -1, -1):
        place[i] = unit % job.axis[i].m
        unit //= job.axis[i].m
        y += place[i] * job.axis[i].y
    group = unit % job.groups
    unit //= job.groups
    x += group * job.x_group + unit * job.x_batch
    y += group * job.y_group + unit * job.y_batch
    lanes = (lines - 1) * job.pitch + width
    tiles = ceil_div(lanes, WIDTH)

    first = 0
    while first < job.images:
        image = min(job.together, job.images - first)
        for i in range(image):
            gather_image(
                job, image_start(job, x, first + i, place), line0, lane0, lines, width, s.panel + i * job.plane
            )
        taps = image * job.image_taps
        t1 = 0
        while t1 < taps:
            t0 = t1
            t1 = min(taps, t0 + CHUNK)
            for t in range(t0, t1):
                s.tap[t - t0] = s.panel + t // job.image_taps * job.plane + tap_start(job, t % job.image_taps)
            for j in range(tiles):
                vectors = VECTORS
                while vectors > 1 and j * WIDTH + vectors // 2 * LANES >= lanes:
                    vectors //= 2  # the last tile is as narrow as it can be
                r = r0
                while r < r1:
                    n = <int>min(<Py_ssize_t>MAX_ROWS, r1 - r)
                    w = job.packed + (group * job.rows + r) * job.taps + (first * job.image_taps + t0) * n
                    for i in range(n):
                        dst[i] = s.sums + (r - r0 + i) * job.lanes + j * WIDTH
                        src[i] = dst[i] if first + t0 > 0 else NULL
                    tile(n, vectors, 1, t1 - t0, s.tap, j * WIDTH, w, src, dst, n, False)
                    r += n
        first += image

    for r in range(r0, r1):
        dst[0] = s.sums + (r - r0) * job.lanes
        if job.bias != NULL:
            for i in range(lanes):
                dst[0][i] += job.bias[group * job.rows + r]
        for i in range(lines):
            if plain:
                copy_line(dst[0] + i * job.pitch, <real*>(y + r * job.y_row + i * line.y), width)
            else:
                store(job.ytype, dst[0] + i * job.pitch, y + r * job.y_row + i * line.y, width, lane.y)


cdef void* scratch_new(const void* given) noexcept nogil:
    """One block for one thread; NULL when memory is short."""
    cdef const Job* job = <const Job*>given
    cdef Py_ssize_t head = (sizeof(Scratch) + 63) // 64 * 64, sums = job.row_block * job.lanes
    cdef Py_ssize_t panel = job.together * job.plane + job.lanes + job.pitch, i  # lanes past the last are read too
    cdef void* block = malloc(64 + head + (sums + panel) * sizeof(real) + CHUNK * sizeof(real*))
    if block == NULL:
        return NULL
    cdef char* p = <char*>((<size_t>block + 63) // 64 * 64)
    cdef Scratch* s = <Scratch*>p
    s.block = block
    s.sums = <real*>(p + head)
    s.panel = s.sums + sums
    s.tap = <const real**>(s.panel + panel)
    for i in range(panel):
        s.panel[i] = 0
    return s


cdef inline void pack_run(
    const Job* job, const char* p, Py_ssize_t step, Py_ssize_t count, Py_ssize_t n, real* to
) noexcept nogil:
    """`count` taps, `step` bytes apart, of `n` rows. Full groups have a loop that unrolls."""
    cdef Py_ssize_t _t, r
    for _t in range(count):
        if n == MAX_ROWS:
            for r in range(MAX_ROWS):
                to[r] = (<const real*>(p + r * job.a_row))[0]
        else:
            for r in range(n):
                to[r] = (<const real*>(p + r * job.a_row))[0]
        p += step
        to += n


cdef void pack_rows(const Job* job, const char* a, Py_ssize_t r0, Py_ssize_t n, real* to) noexcept nogil:
    """Rows `r0` to `r0 + n` of one group as the tile reads them: [tap][row]."""
    cdef Py_ssize_t t, rest, run = 1, step = job.axis[job.naxes - 1].a
    cdef int i, inner = job.naxes
    cdef const char* p
    a += r0 * job.a_row
    # Taps that lie evenly in memory are one run.
    while inner > 0 and (job.axis[inner - 1].a == run * step or job.axis[inner - 1].k == 1):
        inner -= 1
        run *= job.axis[inner].k
    if inner == 0 and job.a_channel == run * step:
        pack_run(job, a, step, job.taps, n, to)
        return
    for t in range(job.taps // run):
        rest = t
        p = a
        for i in range(inner - 1, -1, -1):
            p += rest % job.axis[i].k * job.axis[i].a
            rest //= job.axis[i].k
        pack_run(job, p + rest * job.a_channel, step, run, n, to + t * run * n)


cdef void pack(const Job* job, const char* a, real* to, int threads) noexcept nogil:
    """All weights, [group][group of rows][tap][row]."""
    cdef Py_ssize_t blocks = ceil_div(job.rows, MAX_ROWS), unit, group, r
    for unit in prange(job.groups * blocks, num_threads=threads, schedule="static"):
        group = unit // blocks
        r = unit % blocks * MAX_ROWS
        pack_rows(
            job, a + group * job.a_group, r, min(<Py_ssize_t>MAX_ROWS, job.rows - r),
            to + (group * job.rows + r) * job.taps,
        )


cdef void lay_out(Job* job, int threads) noexcept:
    """Blocks of lanes and rows. None of them changes the order of a sum."""
    cdef Axis* line = &job.axis[job.naxes - 2]
    cdef Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t i, j, most, cost, best = 0, images
    job.image_taps = line.k * lane.k
    images = job.channels
    job.places = job.batch * job.groups
    for i in range(job.naxes - 2):
        images *= job.axis[i].k
        job.places *= job.axis[i].m
    job.images = images
    job.taps = images * job.image_taps
    for i in range(job.naxes - 2, job.naxes):
        j = abs(job.axis[i].p) * (job.axis[i].k - 1)
        job.axis[i].spread = abs(job.axis[i].p) > SPREAD * job.axis[i].q
        job.axis[i].strips = job.axis[i].k if job.axis[i].spread else min(job.axis[i].q, j + 1)
        job.axis[i].shift = 0 if job.axis[i].spread else j // job.axis[i].q

    most = min(MOST_LANES, max(<Py_ssize_t>WIDTH, SUMS_BYTES // (job.rows * <Py_ssize_t>sizeof(real))))
    job.segments = ceil_div(lane.m, most)
    job.segment = ceil_div(ceil_div(lane.m, job.segments), WIDTH) * WIDTH if job.segments > 1 else lane.m
    job.segments = ceil_div(lane.m, job.segment)
    job.pitch = job.segment + lane.shift
    # Lines per block: the least time of all tiles, in eighths of a whole one. Narrow ones take longer per lane.
    job.lines = 1
    for i in range(1, min(line.m, max(1, most // job.pitch)) + 1):
        j = (i - 1) * job.pitch + job.segment
        cost = j // WIDTH * 8 + 1
        j = ceil_div(j % WIDTH, LANES)
        cost += 0 if j == 0 else (4 if j == 1 else (5 if j == 2 else 8))
        cost *= ceil_div(line.m, i)
        if i == 1 or cost <= best:
            best = cost
            job.lines = i
    job.line_blocks = ceil_div(line.m, job.lines)
    job.lanes = ceil_div((job.lines - 1) * job.pitch + job.segment, WIDTH) * WIDTH
    job.plane = line.strips * lane.strips * (job.lines + line.shift) * job.pitch
    # As many images as make a chunk; the same for any block, since chunks decide the order of a sum.
    job.together = min(images, max(1, CHUNK // job.image_taps))
    i = max(1, SUMS_BYTES // (job.lanes * MAX_ROWS * <Py_ssize_t>sizeof(real)))  # groups of rows
    j = job.places * job.line_blocks * job.segments
    if threads > 1 and j < 4 * threads:
        i = min(i, max(1, ceil_div(job.rows, MAX_ROWS) * j // (4 * threads)))
    job.row_block = min(job.rows, i * MAX_ROWS)
    job.row_blocks = ceil_div(job.rows, job.row_block)
    job.units = j * job.row_blocks


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
    cdef double rate

    def __cinit__(self, form, rules, fill, double rate):
        cdef Job* job = &self.job
        cdef int i
        self.rank, self.forward, self.flip, self.rate = form.rank, form.result == "y", form.flip, rate
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
        cdef Axis* axis
        if cnp.PyArray_SIZE(y) == 0:
            return
        if cnp.PyArray_SIZE(w) == 0 or (not self.forward and self.leaves_gaps()):
            y[...] = 0
            if bias is not None:
                y += bias.reshape(self.job.groups, -1, *(1,) * self.rank).astype(y.dtype)
            if cnp.PyArray_SIZE(w) == 0:
                return
        job.format, job.ytype, job.bias = format_of(x), f.type, NULL
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
            axis = &job.axis[i]
            axis.n = axis.k = axis.m = axis.p = axis.q = 1
            axis.x = axis.a = axis.y = axis.offset = 0
            axis.rule = CONSTANT
        for i in range(self.rank):
            axis = &job.axis[more + i]
            axis.x, axis.a, axis.y = xs[3 + i], -ws[3 + i] if self.flip else ws[3 + i], ys[3 + i]
        if self.forward:
            for i in range(self.rank):
                axis = &job.axis[more + i]
                axis.n, axis.rule, axis.offset = self.size[i], self.rule[i], -self.lo[i]
                axis.k, axis.p, axis.m, axis.q = self.kernel[i], self.dilation[i], self.out_size[i], self.stride[i]
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

    cdef bint leaves_gaps(self):
        """Whether a stride steps over input positions that no kernel position meets."""
        for i in range(self.rank):
            met = {self.dilation[i] * j % self.stride[i] for j in range(min(self.kernel[i], self.stride[i]))}
            if len(met) < self.stride[i]:
                return True
        return False

    cdef int run_phases(self, const Job* given, const char* w, int more, int threads) except -1:
        """The input gradient, residue by residue of the input position modulo the stride."""
        cdef Job job
        cdef Axis* axis
        cdef const char* a
        cdef Py_ssize_t phases = 1, phase, rest, s, d, f, h, p, j
        cdef int i
        for i in range(self.rank):
            phases *= min(self.stride[i], self.size[i])
        for phase in range(phases):
            job = given[0]
            a = w
            rest = phase
            for i in range(self.rank - 1, -1, -1):
                axis = &job.axis[more + i]
                s, d = self.stride[i], self.dilation[i]
                p = rest % min(s, self.size[i])
                rest //= min(s, self.size[i])
                f, h = d, s
                while h:
                    f, h = h, f % h
                # Kernel positions j, j + s/f, j + 2s/f, ... meet this residue.
                j = 0
                while j < self.kernel[i] and (p + self.lo[i] - d * j) % s != 0:
                    j += 1
                axis.k = ceil_div(self.kernel[i] - j, s // f)
                if axis.k <= 0:
                    break
                axis.n, axis.rule, axis.offset = self.out_size[i], CONSTANT, (p + self.lo[i] - d * j) // s  # exact
                axis.p, axis.q, axis.m = -(d // f), 1, ceil_div(self.size[i] - p, s)
                a += j * axis.a
                job.y += p * axis.y
                axis.a *= s // f
                axis.y *= s
            else:
                self.run_job(&job, a, threads)
        return 0

    cdef int run_job(self, Job* job, const char* w, int threads) except -1:
        """The loops, with a look at Ctrl-C now and then."""
        cdef Py_ssize_t done = 0, slab
        cdef int failed = 0
        cdef double work
        lay_out(job, threads)
        cdef real* packed = <real*>malloc(job.groups * job.rows * job.taps * sizeof(real))
        if packed == NULL:
            raise MemoryError()
        job.packed = packed
        work = <double>job.row_block * job.lanes * job.taps
        slab = <Py_ssize_t>max(<double>threads, min(<double>job.units, SLAB_SECONDS * self.rate * threads / work))
        try:
            with nogil:
                pack(job, w, packed, threads)
            while done < job.units and not failed:
                with nogil:
                    failed = run_units(job, done, min(job.units, done + slab), 1, threads, scratch_new, run_unit)
                done += slab
                PyErr_CheckSignals()
        finally:
            free(packed)
        if failed:
            raise MemoryError("no scratch memory for the kernel")
        return 0
