"""One kernel on one plane by overlap-save: the same map as plane.pyx, in O(n log n).

ALGORITHM   x is cut into overlapping blocks of N samples per axis, each a tile: transform, multiply by the spectrum
            of the kernel, transform back; N - span + 1 outputs per axis are free of wrap-around and kept.

                corr(a + ib, k) = corr(a, k) + i corr(b, k) for a real kernel k

            so two blocks of one batch entry, or the two parts of complex data, are the real and the imaginary plane of
            one complex tile, and no transform of real data is needed. Under a complex kernel a tile is one block.

SCHEDULE    transform.pxd goes there, times the spectrum, and back; overlap.pxd brings samples in and out.
            Units (two blocks, or one) run in parallel; of few large tiles, the parts of each do.

NUMERICS    Error < eps log2(N) max|x| sum|k|, N the points of a tile (docs/numerics.md). Tiles and which blocks share
            one follow from the shapes of one batch entry, so results are the same for every number of threads and
            every batch. An Inf or a NaN spreads over the outputs of its tile, and so may what overflows on the way:
            sums and products never make that finite again, so a look at the outputs finds every such tile.

CALLER MUST give x and y canonical (batch axes, then kernel axes), k as C-contiguous samples, and a y that is aligned,
            native and does not overlap x or k.
"""

cimport cython
from libc.math cimport log2
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memset
cimport numpy as cnp

from functools import lru_cache

import numpy as np

from .butterfly cimport ONE_EACH, butterflies
from .line cimport CONSTANT, Format, format_of
from .overlap cimport (
    Axis, Block, Kernel, axis_of, cut_into_blocks, deliver, fetch, find_block, over_points, spread,
)
from .team cimport LINE, SLAB_SECONDS, cut, no_scratch, run_units, take_block
from .tile cimport LANES, real
from .transform cimport (
    MAX_AXES, ONLY_THERE, THERE_AND_BACK, Line, Tile, behind, column_ranges, columns_of, factor, inner, parts_of,
    set_tile, split_stages,
)

cnp.import_array()

cdef enum:
    SHARES = 64         # of a step of one large tile

cdef Py_ssize_t STEPS_FROM = 1 << 20       # reals of a tile whose steps may run in parallel: 2 ms of work and more


# --- the transform of a tile ------------------------------------------------------------------------------------------


cdef class Transform:
    """The discrete Fourier transform of tiles of one shape, frequencies in an order of its own."""

    cdef Tile tile
    cdef readonly tuple shape

    def __cinit__(self, shape):
        self.shape = tuple(shape)
        set_tile(&self.tile, self.shape)

    def __dealloc__(self):
        free(self.tile.memory)

    def planes(self, z=None):
        """Both planes of a tile, as two rows of reals, zero or with `z` in them."""
        raw = np.zeros(2 * self.tile.plane + LINE, np.float32 if sizeof(real) == 4 else np.float64)
        start = -raw.ctypes.data // raw.itemsize % (LINE // raw.itemsize)
        both = raw[start : start + 2 * self.tile.plane].reshape(2, -1)
        if z is not None:
            for plane, part in zip(both, (z.real, z.imag)):
                self.view(plane)[...] = part
        return both

    def view(self, plane):
        """The samples of a plane."""
        steps = [self.tile.step[axis] * plane.itemsize for axis in range(self.tile.rank)]
        return np.lib.stride_tricks.as_strided(plane, self.shape, steps)

    def run(self, cnp.ndarray both, cnp.ndarray spectrum=None, Py_ssize_t times=1):
        """`both` -> their spectrum, in place; with a spectrum, times it, and back, without 1 / points."""
        cdef real* re = <real*>cnp.PyArray_DATA(both)
        cdef const real* k = NULL
        cdef Py_ssize_t _again
        if spectrum is not None:
            k = <const real*>cnp.PyArray_DATA(spectrum)
        with nogil:
            for _again in range(times):
                if k == NULL:
                    behind(&self.tile, ONLY_THERE, 0, re, re + self.tile.plane, NULL, NULL)
                else:
                    behind(&self.tile, THERE_AND_BACK, 0, re, re + self.tile.plane, k, k + self.tile.plane)


@lru_cache(32)
def transform_of(shape):
    """One for all Problems with tiles of this `shape`: its tables take longer to make than the rest of a Spectrum."""
    return Transform(shape)


# --- samples in and out -----------------------------------------------------------------------------------------------


cdef struct Batch:
    Py_ssize_t n
    bint own                               # one kernel for each entry
    Py_ssize_t x, y


cdef struct Job:
    const Tile* tile
    Axis* axis                             # in the tile's order
    Batch* batch
    int nbatch
    bint pair                              # two blocks of real data are one tile
    int x_parts, parts                     # of a sample of x, of y
    Py_ssize_t xpart, ypart                # bytes from real to imaginary
    Py_ssize_t kernels, entries, blocks    # kernels; batch entries of each; blocks of each
    Py_ssize_t per_kernel, units           # tiles
    Format format
    int ytype
    real fill[2]
    const char* x
    char* y
    const char* k                          # kernel samples, or
    const real* spectra                    # those of all kernels
    Kernel kernel
    char* bad                              # set for each tile with an output that is not finite; NULL: nobody asks


cdef void block_of(const Job* job, Py_ssize_t kernel, Py_ssize_t index, Block* b) noexcept nogil:
    """Block `index` of those of `kernel`."""
    cdef Py_ssize_t at
    cdef int i
    b.x, b.y = job.x, job.y
    index = find_block(job.tile, job.axis, index, b)
    for i in range(job.nbatch - 1, -1, -1):
        if job.batch[i].own:
            at = kernel % job.batch[i].n
            kernel //= job.batch[i].n
        else:
            at = index % job.batch[i].n
            index //= job.batch[i].n
        b.x += at * job.batch[i].x
        b.y += at * job.batch[i].y


cdef inline Py_ssize_t first_block(const Job* job, Py_ssize_t unit, bint* two) noexcept nogil:
    """Of a tile, among those of its kernel; `two`: the one after it, of the same batch entry, shares the tile."""
    cdef Py_ssize_t index = unit % job.per_kernel, per_entry = job.per_kernel // job.entries, within
    two[0] = False
    if not job.pair:
        return index
    within = 2 * (index % per_entry)
    two[0] = within + 1 < job.blocks
    return index // per_entry * job.blocks + within


cdef void fetch_unit(const Job* job, Py_ssize_t unit, real* re, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Both planes of a tile, indices `begin` to `end` of its first axis."""
    cdef bint two
    cdef Py_ssize_t kernel = unit // job.per_kernel, first = first_block(job, unit, &two)
    cdef real* im = re + job.tile.plane
    cdef Block b
    block_of(job, kernel, first, &b)
    fetch(job.tile, job.axis, &job.format, &b, 0, b.x, re, begin, end, job.fill[0])
    if job.x_parts == 2:
        fetch(job.tile, job.axis, &job.format, &b, 0, b.x + job.xpart, im, begin, end, job.fill[1])
    elif two:
        block_of(job, kernel, first + 1, &b)
        fetch(job.tile, job.axis, &job.format, &b, 0, b.x, im, begin, end, job.fill[0])
    else:
        memset(im + begin * job.tile.step[0], 0, (end - begin) * job.tile.step[0] * sizeof(real))


cdef void deliver_unit(
    const Job* job, Py_ssize_t unit, const real* re, Py_ssize_t begin, Py_ssize_t end
) noexcept nogil:
    """Outputs of a tile, `begin` to `end` along its first axis, where a block has so many."""
    cdef bint two
    cdef Py_ssize_t kernel = unit // job.per_kernel, first = first_block(job, unit, &two)
    cdef const real* im = re + job.tile.plane
    cdef char* bad = job.bad if job.bad == NULL else job.bad + unit
    cdef Block b
    block_of(job, kernel, first, &b)
    deliver(
        job.tile, job.axis, job.ytype, job.ypart, &b, 0, re, im if job.parts == 2 else <const real*>NULL, b.y, begin,
        min(end, b.outputs[0]), bad,
    )
    if two:
        block_of(job, kernel, first + 1, &b)
        deliver(job.tile, job.axis, job.ytype, job.ypart, &b, 0, im, NULL, b.y, begin, min(end, b.outputs[0]), bad)


cdef Py_ssize_t taps_of(const Job* job) noexcept nogil:
    """Taps of one kernel."""
    cdef Py_ssize_t count = 1
    cdef int i
    for i in range(job.tile.rank):
        count *= job.axis[i].k
    return count


cdef void spread_kernel(const Job* job, Py_ssize_t kernel, real* re, real* line) noexcept nogil:
    """Kernel `kernel` into both planes of a tile of zeros, with the 1 / points of the way back.

    `line` has room for the taps of the last axis.
    """
    spread(job.tile, job.axis, &job.kernel, 0, job.k, kernel * taps_of(job), re, over_points(job.tile), line)


# --- units ------------------------------------------------------------------------------------------------------------


cdef struct Scratch:                       # of one thread
    void* block
    real* planes
    real* spectrum                         # of kernel `kernel`, where each batch entry may have its own
    real* line
    Py_ssize_t kernel


cdef void* scratch_new(const void* given) noexcept nogil:
    """One tile, and a spectrum where the job has none; NULL when memory is short."""
    cdef const Job* job = <const Job*>given
    cdef Py_ssize_t both = 2 * job.tile.plane, line = job.axis[job.tile.rank - 1].k if job.spectra == NULL else 0
    cdef Py_ssize_t reals = both + line + (both if job.spectra == NULL else 0)
    cdef void* block = take_block(sizeof(Scratch) + reals * sizeof(real) + 2 * LINE)
    if block == NULL:
        return NULL
    cdef char* rest = <char*>block
    cdef Scratch* s = <Scratch*>cut(&rest, sizeof(Scratch))
    s.block = block
    s.planes = <real*>cut(&rest, reals * sizeof(real))
    s.spectrum = s.planes + both
    s.line = s.planes + reals - line
    s.kernel = -1
    memset(s.planes, 0, both * sizeof(real))  # what lies between rows is transformed as well
    return s


cdef void run_unit(const void* given, Py_ssize_t unit, void* scratch) noexcept nogil:
    """One tile, from x to y."""
    cdef const Job* job = <const Job*>given
    cdef Scratch* s = <Scratch*>scratch
    cdef Py_ssize_t kernel = unit // job.per_kernel, plane = job.tile.plane
    cdef const real* spectrum
    if job.spectra != NULL:
        spectrum = job.spectra + 2 * plane * kernel
    else:
        spectrum = s.spectrum
        if s.kernel != kernel:
            s.kernel = kernel
            memset(s.spectrum, 0, 2 * plane * sizeof(real))
            spread_kernel(job, kernel, s.spectrum, s.line)
            behind(job.tile, ONLY_THERE, 0, s.spectrum, s.spectrum + plane, NULL, NULL)
    fetch_unit(job, unit, s.planes, 0, job.tile.n[0])
    behind(job.tile, THERE_AND_BACK, 0, s.planes, s.planes + plane, spectrum, spectrum + plane)
    deliver_unit(job, unit, s.planes, 0, job.axis[0].outputs)


cdef enum Step:  # of one large tile, whose items run in parallel
    CLEAR
    FETCH
    THERE
    THERE_AGAIN   # the second stage of a single axis
    INNER
    BACK_AGAIN
    BACK
    DELIVER


cdef struct Stepped:
    const Job* job
    Step step
    Py_ssize_t items, unit
    real* re
    const real* spectrum


cdef Py_ssize_t step_items(const Job* job, Step step) noexcept nogil:
    cdef const Tile* t = job.tile
    if step == CLEAR:
        return SHARES
    if step == FETCH:
        return min(t.n[0], SHARES)
    if step == DELIVER:
        return min(job.axis[0].outputs, SHARES)
    if step == INNER:
        return parts_of(t, 0)
    if t.rank == 1 and (step == THERE or step == BACK):
        return 0 if split_stages(t) == 0 else SHARES
    if t.rank == 1:
        return 0 if split_stages(t) < 2 else t.axis[0].radix[0] * SHARES
    return column_ranges(t, 0) if step == THERE or step == BACK else 0


cdef void run_item(const void* given, Py_ssize_t item, void* scratch) noexcept nogil:
    cdef const Stepped* s = <const Stepped*>given
    cdef const Job* job = s.job
    cdef const Tile* t = job.tile
    cdef Step step = s.step
    cdef Py_ssize_t items = s.items, unit = s.unit
    cdef const real* spectrum = s.spectrum
    cdef real* re = s.re
    cdef real* im = re + t.plane
    cdef Py_ssize_t n = t.n[0] if step == FETCH else job.axis[0].outputs, first
    if step == CLEAR:
        first = 2 * t.plane * item // items
        memset(re + first, 0, (2 * t.plane * (item + 1) // items - first) * sizeof(real))
    elif step == FETCH:
        fetch_unit(job, unit, re, n * item // items, n * (item + 1) // items)
    elif step == DELIVER:
        deliver_unit(job, unit, re, n * item // items, n * (item + 1) // items)
    elif step == INNER:
        if spectrum == NULL:
            inner(t, ONLY_THERE, 0, re, im, NULL, NULL, item)
        else:
            inner(t, THERE_AND_BACK, 0, re, im, spectrum, spectrum + t.plane, item)
    elif t.rank > 1:
        columns_of(t, 0, step == THERE, re, im, item, items)
    elif step == THERE or step == THERE_AGAIN:
        share_of_stage(&t.axis[0], 0 if step == THERE else 1, True, re, im, item)
    else:
        share_of_stage(&t.axis[0], 0 if step == BACK else 1, False, im, re, item)


cdef void share_of_stage(const Line* line, int stage, bint forward, real* re, real* im, Py_ssize_t item) noexcept nogil:
    """One of SHARES of one of the blocks of a stage."""
    cdef Py_ssize_t count = line.block[stage + 1], share = item % SHARES, begin, end, at
    begin = count * share // SHARES
    end = count * (share + 1) // SHARES
    at = (item // SHARES * line.block[stage] + begin) * LANES
    butterflies(
        line.radix[stage], forward, ONE_EACH, re + at, im + at, 1, end - begin, LANES, count * LANES, 1,
        line.turns[stage] + 2 * (line.radix[stage] - 1) * begin,
    )


# --- block sizes ------------------------------------------------------------------------------------------------------


cdef cnp.ndarray _smooth = np.array(
    sorted([5**i * 3**j << e for i in range(18) for j in range(26) for e in range(41) if 5**i * 3**j << e <= 1 << 40]),
    np.int64,
)


cdef Py_ssize_t smooth(Py_ssize_t n, Py_ssize_t of) noexcept:
    """The least multiple of `of` that is at least `n` and no more than radices times `of`."""
    cdef const cnp.int64_t* table = <const cnp.int64_t*>cnp.PyArray_DATA(_smooth)
    cdef Py_ssize_t low = 0, high = cnp.PyArray_SIZE(_smooth) - 1, middle
    n = (n + of - 1) // of
    while low < high:
        middle = (low + high) // 2
        if table[middle] >= n:
            high = middle
        else:
            low = middle + 1
    return table[low] * of


@cython.wraparound(True)
def axes_of_tile(problem):
    """The kernel axes in the order of a tile: along the vectors the last, unless most lanes would be empty."""
    size = [m + k - 1 for m, k in zip(problem.out_size, problem.span)]
    axes = list(range(len(size)))
    longest = 0
    for i in axes:  # of equals the last
        if size[i] >= size[longest]:
            longest = i
    if size[-1] < LANES < size[longest]:
        axes.append(axes.pop(longest))
    return axes


cdef struct Rates:                         # see tuning.py
    double levels[3]                       # of a point, per second: tile and spectrum in the L2, the L3 cache, beyond
    double bytes[2]                        # that these caches hold
    double point, row, tile                # seconds each, of bringing in and out


cdef double levels_of(Py_ssize_t n, bint lanes) noexcept:
    """What the transform of an axis costs per point: log2 n, and more for small butterflies, which load as often."""
    cdef Line line
    cdef double levels = 0
    cdef int s
    factor(n // LANES if lanes else n, &line)
    for s in range(line.stages):
        levels += log2(line.radix[s]) + (0.3 if line.radix[s] % 2 == 0 else 0.8)
    if lanes and LANES > 1:
        levels += log2(LANES) + 1
    return levels


cdef double tile_seconds(const Rates* r, int rank, const Py_ssize_t* points, double levels, double* there) noexcept:
    """Of one tile, from x to y; `there` is the way there alone."""
    cdef double count = 1
    cdef int i
    for i in range(rank):
        count *= points[i]
    i = 0
    while i < 2 and 4 * count * sizeof(real) > r.bytes[i]:
        i += 1
    there[0] = count * levels / r.levels[i]
    return 2 * there[0] + r.tile + 2 * (r.point * count + r.row * count / points[rank - 1])


cdef enum:
    SIZES = 48          # tried per axis


def choose(problem, bint pair, rates, double transforms=1, double spectra=1):
    """(points of a tile per kernel axis, seconds of one, seconds of one batch entry); `rates` as in tuning.py.

    For each block so many `transforms` there and back are made, and `spectra` of kernels, there, for all of them.
    Neither the batch nor the number of threads has a say: results must not depend on them.
    """
    cdef Rates r
    cdef Py_ssize_t points[MAX_AXES][SIZES]
    cdef Py_ssize_t blocks[MAX_AXES][SIZES]
    cdef double levels[MAX_AXES][SIZES]
    cdef Py_ssize_t now[MAX_AXES]
    cdef int at[MAX_AXES]
    cdef int best_at[MAX_AXES]
    cdef int sizes[MAX_AXES]
    cdef Py_ssize_t count, outputs, n, m, s, span, multiple
    cdef int rank = problem.rank, i, j, lane, start, changed
    cdef double seconds, best, there, sum, least = -1, tile = 0
    if rank == 0:
        return (), 1e-6, 1e-6
    r.levels = rates["levels"]
    r.bytes = rates["bytes"]
    r.point, r.row, r.tile = rates["point"], rates["row"], rates["tile"]
    lane = axes_of_tile(problem)[rank - 1]
    for i in range(rank):
        m, s, span = max(1, problem.out_size[i]), problem.stride[i], problem.span[i]
        multiple = 1 if i != lane else LANES if rank > 1 else LANES * LANES
        sizes[i] = 0
        count = 1
        while sizes[i] < SIZES and count <= m:
            outputs = (m + count - 1) // count
            n = smooth(s * (outputs - 1) + span, multiple)
            outputs = min(m, (n - span) // s + 1)
            if sizes[i] == 0 or n < points[i][sizes[i] - 1]:
                points[i][sizes[i]] = n
                levels[i][sizes[i]] = levels_of(n, i == lane)
                blocks[i][sizes[i]] = (m + outputs - 1) // outputs
                sizes[i] += 1
            count = max(blocks[i][sizes[i] - 1] + 1, count + 1 + count // 4)
    # From the largest tiles, and from such as are four times the kernel, one axis after the other.
    for start in range(2):
        for i in range(rank):
            at[i] = 0
            while start and at[i] + 1 < sizes[i] and points[i][at[i]] > 4 * problem.span[i]:
                at[i] += 1
        best = -1
        changed = 1
        while changed:
            changed = 0
            for i in range(rank):
                for j in range(rank):
                    best_at[j] = at[j]
                for j in range(sizes[i]):
                    best_at[i] = j
                    count = 1
                    sum = 0
                    for n in range(rank):
                        sum += levels[n][best_at[n]]
                        now[n] = points[n][best_at[n]]
                        count *= blocks[n][best_at[n]]
                    n = now[lane]
                    now[lane] = now[rank - 1]
                    now[rank - 1] = n
                    seconds = tile_seconds(&r, rank, now, sum, &there)
                    if pair:
                        count = (count + 1) // 2
                    if best < 0 or transforms * count * seconds + spectra * there < best:
                        best = transforms * count * seconds + spectra * there
                        at[i] = j
                        changed = 1
                        if least < 0 or best < least:
                            least, tile = best, seconds
                            chosen = tuple([points[n][best_at[n]] for n in range(rank)])
    return chosen, tile, least


# --- the method -------------------------------------------------------------------------------------------------------


cdef class Spectrum:
    """Overlap-save for one Problem, in tiles of `points` per kernel axis (see `choose`).

    `rules` are the boundary codes per axis, `x_parts` and `k_parts` say whether the arrays are complex (2) or real
    (1), `seconds` is an estimate of the time of one tile: of long ones, parts are units. If `watched`, `run` says
    which tiles have outputs that are not finite.
    """

    cdef Job job
    cdef Transform transform
    cdef Axis axis[MAX_AXES]
    cdef int x_axis[MAX_AXES]              # the caller's axis behind each entry; -1: none
    cdef Batch batch[MAX_AXES]
    cdef int batch_axis[MAX_AXES]
    cdef double seconds
    cdef bint watched
    cdef readonly object element, points
    cdef object axes                       # of x, in the kernel's order

    def __cinit__(self, problem, element, rules, int x_parts, int k_parts, points, double seconds, bint watched=False):
        cdef Job* job = &self.job
        cdef int rank = problem.rank, i, t
        cdef Py_ssize_t tap = 1
        cdef Axis* axis
        self.element, self.points, self.seconds, self.watched = element, tuple(points), seconds, watched
        self.axes = problem.axes
        job.x_parts, job.kernel.parts = x_parts, k_parts
        job.parts = 2 if problem.dtype.kind == "c" else 1
        job.pair = job.parts == 1
        job.kernel.flip, job.kernel.conj = problem.flip, problem.conj
        fill = [problem.fill.real, problem.fill.imag] if job.parts == 2 else [problem.fill, 0]
        job.fill[0], job.fill[1] = fill
        if rank == 0:
            self.axis[0], self.x_axis[0] = axis_of(1, 1, 1, 1, 1, 0, CONSTANT), -1
            order, self.points = [0], (max(1, LANES) * LANES,)
        else:
            order = axes_of_tile(problem)
        self.transform = transform_of(tuple([self.points[i] for i in order]))
        job.blocks = 1
        for i in range(rank - 1, -1, -1):
            t = order.index(i)
            axis = &self.axis[t]
            axis[0] = axis_of(
                problem.size[i], problem.out_size[i], problem.kernel[i], problem.stride[i], problem.dilation[i],
                problem.padding[i][0], rules[i],
            )
            self.x_axis[t] = problem.axes[i]
            axis.tap = tap
            tap *= axis.k
            cut_into_blocks(axis, self.transform.tile.n[t])
            job.blocks *= axis.blocks
        job.kernels = job.entries = 1
        for own, n, k in zip(problem.batch_axes, problem.batch_shape, problem.k_batch):
            self.batch_axis[job.nbatch] = own
            self.batch[job.nbatch].n = n
            self.batch[job.nbatch].own = k > 1
            job.nbatch += 1
            if k > 1:
                job.kernels *= n
            else:
                job.entries *= n
        job.per_kernel = job.entries * ((job.blocks + 1) // 2 if job.pair else job.blocks)
        job.units = job.kernels * job.per_kernel

    cdef int spectrum_of(self, Job* job, Py_ssize_t kernel, real* to, int threads) except -1:
        """The spectrum of one kernel, its steps in parallel."""
        cdef real* line = <real*>malloc(job.axis[job.tile.rank - 1].k * sizeof(real))
        if line == NULL:
            raise MemoryError("no scratch memory for the kernel")
        try:
            self.run_steps(job, CLEAR, CLEAR, 0, to, NULL, threads)
            with nogil:
                spread_kernel(job, kernel, to, line)
        finally:
            free(line)
        self.run_steps(job, THERE, INNER, 0, to, NULL, threads)
        return 0

    cdef int run_steps(
        self, const Job* job, Step first, Step last, Py_ssize_t unit, real* re, const real* spectrum, int threads
    ) except -1:
        """Some steps of one tile, each in parallel."""
        cdef Stepped stepped = Stepped(job, first, 0, unit, re, spectrum)
        cdef Step step
        for step in range(first, last + 1):
            stepped.step, stepped.items = step, step_items(job, step)
            run_units(&stepped, stepped.items, 1, threads, no_scratch, run_item)
        return 0

    @property
    def tiles(self):
        return self.job.units

    def boxes(self, Py_ssize_t unit):
        """The one or two blocks of a tile: batch entry; first output and outputs per kernel axis."""
        cdef Job job = self.job
        cdef Block b
        cdef bint two
        cdef Py_ssize_t first, index, kernel, which, at
        cdef int i
        job.tile, job.axis, job.batch = &self.transform.tile, self.axis, self.batch
        first = first_block(&job, unit, &two)
        found = []
        for which in range(first, first + 1 + two):
            index, kernel = which, unit // job.per_kernel
            start, size, entry = {}, {}, {}
            block_of(&job, kernel, which, &b)
            for i in range(job.tile.rank - 1, -1, -1):
                at = index % job.axis[i].blocks
                index //= job.axis[i].blocks
                start[self.x_axis[i]], size[self.x_axis[i]] = at * job.axis[i].outputs, b.outputs[i]
            for i in range(job.nbatch - 1, -1, -1):
                at = job.batch[i].n
                if job.batch[i].own:
                    entry[i] = kernel % at
                    kernel //= at
                else:
                    entry[i] = index % at
                    index //= at
            found.append((
                tuple([entry[i] for i in range(job.nbatch)]), tuple([start[i] for i in self.axes]),
                tuple([size[i] for i in self.axes]),
            ))
        return found

    def pack(self, cnp.ndarray k not None, Py_ssize_t room=0):
        """The spectra of `k`, C-contiguous and canonical, for `run` again and again; `room` reals are left behind."""
        cdef Job job = self.job
        cdef Py_ssize_t kernel
        cdef real* to
        self.set_kernel(&job, k)
        raw = np.empty(2 * job.tile.plane * job.kernels + room + LINE, self.element)
        start = -raw.ctypes.data // raw.itemsize % (LINE // raw.itemsize)
        packed = raw[start : start + 2 * job.tile.plane * job.kernels + room]
        to = <real*>cnp.PyArray_DATA(packed)
        for kernel in range(job.kernels):
            self.spectrum_of(&job, kernel, to + 2 * job.tile.plane * kernel, 1)
        return packed

    cdef set_kernel(self, Job* job, cnp.ndarray k):
        job.tile, job.axis = &self.transform.tile, self.axis
        job.k = <const char*>cnp.PyArray_DATA(k)
        job.kernel.format = format_of(k)

    def run(
        self, cnp.ndarray x not None, cnp.ndarray k not None, cnp.ndarray y not None, int threads, bint packed,
        bint fresh,
    ):
        """y = the result for x and the kernel `k`, packed or C-contiguous and canonical.

        If watched, an array of the tiles with outputs that are not finite; None where there are none.
        """
        cdef Job job = self.job
        cdef Axis axis[MAX_AXES]
        cdef Batch batch[MAX_AXES]
        cdef const cnp.npy_intp* xs = cnp.PyArray_STRIDES(x)
        cdef const cnp.npy_intp* ys = cnp.PyArray_STRIDES(y)
        cdef const cnp.npy_intp* xn = cnp.PyArray_DIMS(x)
        cdef Py_ssize_t both = 2 * self.transform.tile.plane, unit, kernel, last = -1, units
        cdef bint by_steps, shared
        cdef int i
        cdef Format f = format_of(y)
        if cnp.PyArray_SIZE(y) == 0:
            return None
        self.set_kernel(&job, k)
        job.axis, job.batch = axis, batch
        job.format, job.ytype = format_of(x), f.type
        job.xpart, job.ypart = job.format.size, f.size
        for i in range(job.tile.rank):
            axis[i] = self.axis[i]
            if self.x_axis[i] >= 0:
                axis[i].x, axis[i].y = xs[self.x_axis[i]], ys[self.x_axis[i]]
        for i in range(job.nbatch):
            batch[i] = self.batch[i]
            batch[i].x = 0 if xn[self.batch_axis[i]] == 1 else xs[self.batch_axis[i]]
            batch[i].y = ys[self.batch_axis[i]]
        job.x = <const char*>cnp.PyArray_DATA(x)
        job.y = <char*>cnp.PyArray_DATA(y)
        job.spectra = <const real*>cnp.PyArray_DATA(k) if packed else NULL

        # Large tiles, so few that a quarter of the threads would idle, or that keep Ctrl-C waiting: the steps of
        # each in parallel. Else each thread has its own: a busy neighbour makes the wait at the end of a step long.
        units = (job.units + threads - 1) // threads * threads
        by_steps = self.seconds > 2 * SLAB_SECONDS or (both >= STEPS_FROM and 4 * job.units < 3 * units)
        shared = not packed and (job.kernels == 1 or by_steps)
        cdef Py_ssize_t planes = both if by_steps else 0, spectra = both if shared else 0
        cdef size_t size = LINE + (planes + spectra) * sizeof(real)
        cdef char* block = <char*>calloc(size + (job.units if self.watched else 0), 1)
        if block == NULL:
            raise MemoryError("no scratch memory for the tiles")
        cdef real* reals = <real*>((<size_t>block + LINE - 1) // LINE * LINE)
        cdef real* spectrum = reals + planes
        job.bad = block + size if self.watched else NULL
        try:
            if by_steps:
                for unit in range(job.units):
                    kernel = unit // job.per_kernel
                    if not packed and kernel != last:
                        self.spectrum_of(&job, kernel, spectrum, threads)
                        last = kernel
                    self.run_steps(
                        &job, FETCH, DELIVER, unit, reals, job.spectra + both * kernel if packed else spectrum, threads
                    )
                return self.bad_tiles(&job)
            if shared:
                self.spectrum_of(&job, 0, spectrum, threads if both >= STEPS_FROM else 1)
                job.spectra = spectrum
            run_units(&job, job.units, 1, threads, scratch_new, run_unit)
            return self.bad_tiles(&job)
        finally:
            free(block)

    cdef bad_tiles(self, const Job* job):
        if job.bad == NULL or memchr(job.bad, 1, job.units) == NULL:
            return None
        return np.flatnonzero(np.frombuffer(job.bad[:job.units], np.uint8))
