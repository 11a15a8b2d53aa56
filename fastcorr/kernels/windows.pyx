"""Mean and spread of every window of an array, of any rank, and the division of a correlation by the spread.

ALGORITHM   A window is a box of samples; S is their sum and M the sum of squares of their differences from the mean.
            Two boxes without a common sample, i and j of them in some unit c, make one (Chan, Golub and LeVeque,
            "Updating formulae and a pairwise algorithm for computing sample variances", 1979):

                S = Sa + Sb          M = Ma + Mb + (i Sb - j Sa)**2 / (c i j (i + j))

            y holds correlations with a template of mean 0, divided by its norm and by sqrt(n), n samples in a window.
            They become y / sqrt(M / n): the zero-normalised cross-correlation.

SCHEDULE    A unit is a box of outputs. The samples under it are gathered line by line, boundary and all. Along every
            axis but the last, windows of k lines are made for up to k outputs at a time, as van Herk and Gil and Werman
            do it for maxima: all of these windows hold line k - 1, so each is a run of lines that ends there, joined to
            a run that begins after it: three additions per output, however long k. The first axis is done while it is
            gathered, the others in a panel. Along the last one windows double in length, and grow by one, as the bits
            of k say. Units run in parallel.

NUMERICS    Nothing is ever subtracted but means of neighbouring boxes: no sample leaves a sum that it was in. So a
            window is as exact as its own samples allow, whatever lies beside it: a NaN, an Inf, a sample 1e12 times as
            large. M has a relative error of the order of eps times the ratio of mean and spread, where the textbook
            formula has its square. Sums of integers are exact below 2**53, and their M is exactly 0 in a flat window.
            The order of sums follows from the shape: the bits are the same for any number of threads, batch or layout.

            The build for int32 sums samples and their squares, which is exact for 8-bit pictures, two additions per
            join in twice the lanes: n M = n (sum of squares) - S**2 is a difference of whole numbers below 2**53.

CALLER MUST give a y that is aligned, native and does not overlap x; for the build for int32 one of float32 or float64,
            and samples, `fill` among them, whose squares in a window add up to less than 2**31.
"""

from libc.float cimport DBL_MAX
from libc.math cimport sqrt
from libc.stdint cimport int64_t
from cython cimport floating
cimport numpy as cnp

import numpy as np

from .line cimport CONSTANT, FLOAT32, Format, extend, format_of, gather, load, store
from .team cimport run_units, take_block
from .tile cimport LANES, always_inline_void, ceil_div, eager_void, real, vec, vec_load, vec_zero

cnp.import_array()

cdef enum:
    MAX_AXES = 64       # numpy's limit
    WIDTH = 512         # outputs of a line, at most

# Per thread. A quarter of it takes 1.9 times as long for windows of 128 x 128, half of it 1.3 times; up to 31 x 31 all
# are alike within 5 % (1024 x 1024 on a Zen 3 core with 512 kB of L2, 2026-11).
cdef Py_ssize_t PANEL_BYTES = 1 << 20


cdef struct Axis:
    Py_ssize_t n, x                    # samples, bytes from one to the next
    int rule
    Py_ssize_t lo, k, m, y             # padding before, samples of a window, outputs, bytes from one to the next
    Py_ssize_t block, blocks           # outputs of a unit, how many


cdef struct Batch:
    Py_ssize_t n, x, y


cdef struct Job:
    const char* x
    char* y
    Format x_format, y_format
    int naxes, nbatch
    Axis axis[MAX_AXES]                # the last is the line
    Batch batch[MAX_AXES]
    real fill
    double count                       # samples of a window
    double flat, tolerance             # what a flat window gives; windows with sqrt(M / n) <= tolerance * |mean| are
    Py_ssize_t lines, plane, pitch     # of a panel, of a position of the first axis; reals from line to line
    Py_ssize_t units
    const Py_ssize_t* chosen           # units to run; NULL: all
    const double* doubt                # by batch entry: the M below which a window that is not flat is in doubt
    Py_ssize_t boxes                   # units of a batch entry
    char* doubted                      # by unit: whether it has any such window


cdef struct Scratch:
    void* block
    real* sums                         # S and M, [line][position]
    real* squares
    real* samples                      # of one position of the first axis, and S, M of several
    real* more
    real* more_squares
    real* own                          # S, M and y of one line
    real* own_squares
    real* y


cdef struct Part:
    Py_ssize_t begin[MAX_AXES]
    Py_ssize_t outputs[MAX_AXES]
    Py_ssize_t index[MAX_AXES]         # in the batch


cdef void find_part(const Job* job, Py_ssize_t unit, Part* part) noexcept nogil:
    cdef const Axis* axis
    cdef int i
    for i in range(job.naxes - 1, -1, -1):
        axis = &job.axis[i]
        part.begin[i] = unit % axis.blocks * axis.block
        part.outputs[i] = min(axis.block, axis.m - part.begin[i])
        unit //= axis.blocks
    for i in range(job.nbatch - 1, -1, -1):
        part.index[i] = unit % job.batch[i].n
        unit //= job.batch[i].n


cdef void* scratch_new(const void* given) noexcept nogil:
    cdef const Job* job = <const Job*>given
    cdef Py_ssize_t panel = job.lines * job.pitch, plane = job.plane * job.pitch
    cdef void* block = take_block(sizeof(Scratch) + 64 + (2 * panel + 3 * plane + 3 * job.pitch) * sizeof(real))
    cdef Scratch* s = <Scratch*>block
    if s == NULL:
        return NULL
    s.block = block
    s.sums = <real*>((<size_t>(s + 1) + 63) // 64 * 64)
    s.squares = s.sums + panel
    s.samples = s.squares + panel
    s.more = s.samples + plane
    s.more_squares = s.more + plane
    s.own = s.more_squares + plane
    s.own_squares = s.own + job.pitch
    s.y = s.own_squares + job.pitch
    return s


# --- windows ----------------------------------------------------------------------------------------------------------


cdef inline bint whole() noexcept nogil:
    """Whether this is the build for integers: what is M elsewhere is the sum of squares."""
    return <real>0.5 == 0


cdef inline always_inline_void _join(vec* s, vec* m, vec other, vec square, real i, real j, real c) noexcept nogil:
    """A box of i units to one of j: c = 1 / (samples of a unit * i * j * (i + j))."""
    cdef vec d = i * other - j * s[0]
    s[0] += other
    m[0] += square
    if not whole():
        m[0] += c * d * d


cdef inline always_inline_void _take(vec* s, vec* m, vec x, real i, real c) noexcept nogil:
    """A sample to a box of i samples."""
    cdef vec d = i * x - s[0]
    s[0] += x
    m[0] += x * x if whole() else c * d * d


cdef inline real share(real count, Py_ssize_t i, Py_ssize_t j) noexcept nogil:
    return 0 if whole() else 1 / (count * <real>i * <real>j * <real>(i + j))


# In whole vectors, forward: results may lie where operands are.


cdef void begin(const real* x, real* sums, real* squares, Py_ssize_t n) noexcept nogil:
    """Boxes of one sample."""
    cdef vec s
    cdef Py_ssize_t v = 0
    while v < n:
        s = vec_load(x + v)
        (<vec*>(sums + v))[0] = s
        (<vec*>(squares + v))[0] = s * s if whole() else vec_zero()
        v += LANES


cdef void take(
    const real* x, const real* sums, const real* squares, Py_ssize_t i, real* to, real* to_squares, Py_ssize_t n
) noexcept nogil:
    """A sample to each box of `i`."""
    cdef real c = share(1, i, 1)
    cdef vec s, m
    cdef Py_ssize_t v = 0
    while v < n:
        s, m = vec_load(sums + v), vec_load(squares + v)
        _take(&s, &m, vec_load(x + v), <real>i, c)
        (<vec*>(to + v))[0] = s
        (<vec*>(to_squares + v))[0] = m
        v += LANES


cdef void take_and_join(
    const real* x, real* more, real* more_squares, Py_ssize_t i, real* sums, real* squares, Py_ssize_t j, Py_ssize_t n
) noexcept nogil:
    """A sample to each box `more` of `i`; what that becomes to boxes of `j`."""
    cdef real c = share(1, i, 1), d = share(1, i + 1, j)
    cdef vec s, m, t
    cdef Py_ssize_t v = 0
    while v < n:
        t, m = vec_load(more + v), vec_load(more_squares + v)
        _take(&t, &m, vec_load(x + v), <real>i, c)
        (<vec*>(more + v))[0] = t
        (<vec*>(more_squares + v))[0] = m
        s = vec_load(sums + v)
        _join(&s, &m, t, vec_load(squares + v), <real>j, <real>(i + 1), d)
        (<vec*>(sums + v))[0] = s
        (<vec*>(squares + v))[0] = m
        v += LANES


cdef void join(
    const real* sa, const real* ma, Py_ssize_t i, const real* sb, const real* mb, Py_ssize_t j, real* to,
    real* to_squares, Py_ssize_t n, real count,
) noexcept nogil:
    """Boxes of `i` and of `j` units of `count` samples to one."""
    cdef real c = share(count, i, j)
    cdef vec s, m
    cdef Py_ssize_t v = 0
    while v < n:
        s, m = vec_load(sa + v), vec_load(ma + v)
        _join(&s, &m, vec_load(sb + v), vec_load(mb + v), <real>i, <real>j, c)
        (<vec*>(to + v))[0] = s
        (<vec*>(to_squares + v))[0] = m
        v += LANES


cdef inline always_inline_void _lengthen(
    const bint odd, const real* sums, const real* squares, Py_ssize_t size, const real* one, const real* one_squares,
    real* to, real* to_squares, Py_ssize_t n, real count,
) noexcept nogil:
    cdef real c = 0 if whole() else 1 / (2 * count * <real>size), d = share(count, 2 * size, 1)
    cdef vec s, m, other, half
    cdef Py_ssize_t v = 0
    while v < n:
        s, m, other = vec_load(sums + v), vec_load(squares + v), vec_load(sums + size + v)
        half = other - s
        s += other
        m += vec_load(squares + size + v)
        if not whole():
            m += c * half * half
        if odd:
            _join(
                &s, &m, vec_load(one + 2 * size + v), vec_load(one_squares + 2 * size + v), <real>(2 * size), 1, d
            )
        (<vec*>(to + v))[0] = s
        (<vec*>(to_squares + v))[0] = m
        v += LANES


cdef void window_line(
    const real* sums, const real* squares, Py_ssize_t k, Py_ssize_t outputs, real count, real* to, real* to_squares
) noexcept nogil:
    """A line of `outputs + k - 1` boxes becomes one of windows of `k` > 1 of them."""
    cdef Py_ssize_t size = 1, bit = 1, n
    cdef const real* last = sums
    cdef const real* last_squares = squares
    while 2 * bit <= k:
        bit *= 2
    while bit > 1:
        bit //= 2
        n = outputs + k - 2 * size  # beyond this nothing is read again
        if k & bit:
            _lengthen(True, last, last_squares, size, sums, squares, to, to_squares, n - 1, count)
        else:
            _lengthen(False, last, last_squares, size, sums, squares, to, to_squares, n, count)
        last, last_squares = to, to_squares
        size = k // bit


cdef void window_lines(
    real* sums, real* squares, Py_ssize_t step, Py_ssize_t k, Py_ssize_t outputs, Py_ssize_t n, real count, Scratch* s
) noexcept nogil:
    """Lines `step` apart, `outputs + k - 1` of them, become those of windows of `k` lines. `outputs` <= k."""
    cdef real* last = sums + (k - 1) * step
    cdef real* last_squares = squares + (k - 1) * step
    cdef Py_ssize_t i, at
    for i in range(k - 2, -1, -1):  # runs that end with line k - 1
        at = i * step
        if i < outputs:
            join(last, last_squares, k - 1 - i, sums + at, squares + at, 1, sums + at, squares + at, n, count)
            last, last_squares = sums + at, squares + at
        else:
            join(last, last_squares, k - 1 - i, sums + at, squares + at, 1, s.own, s.own_squares, n, count)
            last, last_squares = s.own, s.own_squares
    last, last_squares = sums + k * step, squares + k * step
    for i in range(1, outputs):  # and those that begin after it
        at = (i + k - 1) * step
        if i > 1:
            join(last, last_squares, i - 1, sums + at, squares + at, 1, s.own, s.own_squares, n, count)
            last, last_squares = s.own, s.own_squares
        at = i * step
        join(sums + at, squares + at, k - i, last, last_squares, i, sums + at, squares + at, n, count)


# --- a unit -----------------------------------------------------------------------------------------------------------


cdef void gather_plane(const Job* job, const Part* part, Py_ssize_t first, Py_ssize_t lines, real* to) noexcept nogil:
    """The samples under a box of outputs at position `first` of the first axis, line by line."""
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef const Axis* axis
    cdef Py_ssize_t width = part.outputs[job.naxes - 1] + lane.k - 1, i, rest, u, v
    cdef const char* x
    cdef int a
    for i in range(lines):
        x = job.x
        rest = i
        for a in range(job.nbatch):
            x += part.index[a] * job.batch[a].x
        for a in range(job.naxes - 2, -1, -1):
            axis = &job.axis[a]
            u = part.begin[a] - axis.lo
            if a > 0:
                u += rest % (part.outputs[a] + axis.k - 1)
                rest //= part.outputs[a] + axis.k - 1
            else:
                u += first
            u = extend(u, axis.n, axis.rule)
            if u < 0:
                x = NULL
                break
            x += u * axis.x
        if x == NULL:
            for v in range(width):
                to[v] = job.fill
        else:
            gather(
                &job.x_format, x, to, width, part.begin[job.naxes - 1] - lane.lo, 1, lane.n, lane.x, lane.rule, job.fill
            )
        to += job.pitch


cdef void gather_panel(const Job* job, const Part* part, Py_ssize_t lines, Scratch* s) noexcept nogil:
    """The samples under a box of outputs, windows made along the first axis; `lines` of each of its positions."""
    cdef Py_ssize_t k = job.axis[0].k, outputs = part.outputs[0], n = lines * job.pitch, i
    cdef real* last = s.sums + min(k, outputs) * n - n
    cdef real* last_squares = s.squares + min(k, outputs) * n - n
    cdef real* to
    cdef real* to_squares
    gather_plane(job, part, k - 1, lines, s.samples)
    if k > outputs:
        last, last_squares = s.more, s.more_squares
    begin(s.samples, last, last_squares, n)
    for i in range(k - 2, -1, -1):  # runs that end with position k - 1
        to, to_squares = last, last_squares
        if i < outputs:
            to, to_squares = s.sums + i * n, s.squares + i * n
        gather_plane(job, part, i, lines, s.samples)
        take(s.samples, last, last_squares, k - 1 - i, to, to_squares, n)
        last, last_squares = to, to_squares
    for i in range(1, outputs):  # and those that begin after it
        to, to_squares = s.sums + i * n, s.squares + i * n
        if i == 1:
            gather_plane(job, part, k, lines, s.more)
            begin(s.more, s.more, s.more_squares, n)
            join(to, to_squares, k - 1, s.more, s.more_squares, 1, to, to_squares, n, 1)
        else:
            gather_plane(job, part, i + k - 1, lines, s.samples)
            take_and_join(s.samples, s.more, s.more_squares, i - 1, to, to_squares, k - i, n)


cdef void run_unit(const void* given, Py_ssize_t unit, void* scratch) noexcept nogil:
    cdef const Job* job = <const Job*>given
    cdef Scratch* s = <Scratch*>scratch
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Part part
    cdef Py_ssize_t outputs, width, inner = 1, outer, at, i, o, rest, doubted = 0
    cdef Py_ssize_t extent[MAX_AXES]
    cdef Py_ssize_t step[MAX_AXES]
    cdef real count
    cdef real* sums
    cdef real* squares
    cdef char* y
    cdef int a, b
    if job.chosen != NULL:
        unit = job.chosen[unit]
    find_part(job, unit, &part)
    outputs = part.outputs[job.naxes - 1]
    width = outputs + lane.k - 1
    for a in range(job.naxes - 2, -1, -1):  # lines stay where they are: each axis keeps the extent that it had
        step[a] = inner * job.pitch
        extent[a] = part.outputs[a] + (job.axis[a].k - 1 if a > 0 else 0)
        inner *= extent[a] if a > 0 else 1
    gather_panel(job, &part, inner, s)
    count, outer = <real>job.axis[0].k, part.outputs[0]
    for a in range(1, job.naxes - 1):
        inner //= extent[a]
        if job.axis[a].k > 1:
            for i in range(outer * inner):
                at, rest = i % inner * job.pitch, i // inner
                for b in range(a - 1, -1, -1):
                    at += rest % part.outputs[b] * step[b]
                    rest //= part.outputs[b]
                window_lines(s.sums + at, s.squares + at, step[a], job.axis[a].k, part.outputs[a], width, count, s)
        count *= <real>job.axis[a].k
        outer *= part.outputs[a]
    for i in range(outer):
        at, rest = 0, i
        y = job.y + part.begin[job.naxes - 1] * lane.y
        for a in range(job.nbatch):
            y += part.index[a] * job.batch[a].y
        for a in range(job.naxes - 2, -1, -1):
            o = rest % part.outputs[a]
            at += o * step[a]
            y += (part.begin[a] + o) * job.axis[a].y
            rest //= part.outputs[a]
        sums, squares = s.sums + at, s.squares + at
        if lane.k > 1:
            window_line(sums, squares, lane.k, outputs, count, s.own, s.own_squares)
            sums, squares = s.own, s.own_squares
        divide(job, sums, squares, y, outputs, job.doubt[unit // job.boxes], s.y, &doubted)
    job.doubted[unit] = doubted > 0


cdef inline always_inline_void _divide(
    const Job* job, const real* sums, const real* squares, real* y, Py_ssize_t n, double doubt, Py_ssize_t* doubted
) noexcept nogil:
    cdef double share = 1 / job.count, small = job.tolerance * job.tolerance / job.count, flat = job.flat
    cdef double limit, value, m
    cdef int64_t count = 0
    cdef Py_ssize_t i
    for i in range(n):
        m = squares[i]
        limit = small * sums[i] * sums[i]
        limit = limit if limit < DBL_MAX else DBL_MAX  # a window with an Inf is not flat
        value = y[i] / sqrt(m * share)
        value = 1. if value > 1. else value
        value = -1. if value < -1. else value
        y[i] = flat if m <= limit else value
        count += (m < doubt) & (m > limit)
    doubted[0] += count


cdef inline always_inline_void _divide_whole(
    const Job* job, const real* sums, const real* squares, floating* y, Py_ssize_t step, Py_ssize_t n, double doubt,
    Py_ssize_t* doubted,
) noexcept nogil:
    cdef double size = job.count, flat = job.flat, value, m, s
    cdef int64_t count = 0
    cdef floating* to
    cdef Py_ssize_t i
    doubt *= size
    for i in range(n):
        to = <floating*>(<char*>y + i * step)
        s = <double>sums[i]
        m = size * <double>squares[i] - s * s
        value = size * to[0] / sqrt(m)
        value = 1. if value > 1. else value
        value = -1. if value < -1. else value
        to[0] = <floating>(flat if m == 0. else value)
        count += (m < doubt) & (m > 0.)
    doubted[0] += count


cdef eager_void divide(
    const Job* job, const real* sums, const real* squares, char* y, Py_ssize_t n, double doubt, real* at_hand,
    Py_ssize_t* doubted,
) noexcept nogil:
    """y / sqrt(M / n), from -1 to 1; counts the windows in doubt."""
    cdef Py_ssize_t step = job.axis[job.naxes - 1].y
    if not whole():
        load(&job.y_format, y, at_hand, n, step)
        _divide(job, sums, squares, at_hand, n, doubt, doubted)
        store(job.y_format.type, at_hand, y, n, step)
    elif job.y_format.type == FLOAT32:
        if step == sizeof(float):
            _divide_whole(job, sums, squares, <float*>y, sizeof(float), n, doubt, doubted)  # vectorises
        else:
            _divide_whole(job, sums, squares, <float*>y, step, n, doubt, doubted)
    else:
        _divide_whole(job, sums, squares, <double*>y, step, n, doubt, doubted)


# --- the driver -------------------------------------------------------------------------------------------------------


cdef void measure(Job* job) noexcept:
    cdef int i
    cdef Axis* lane = &job.axis[job.naxes - 1]
    job.plane = job.boxes = 1
    for i in range(job.naxes):
        job.axis[i].blocks = ceil_div(job.axis[i].m, job.axis[i].block)
        job.boxes *= job.axis[i].blocks
        if 0 < i < job.naxes - 1:
            job.plane *= job.axis[i].block + job.axis[i].k - 1
    job.lines = job.axis[0].block * job.plane
    job.units = job.boxes
    for i in range(job.nbatch):
        job.units *= job.batch[i].n
    # Whole vectors are read up to one past the last; an odd number of cache lines, lest lines fall on each other.
    job.pitch = (lane.block + lane.k - 1 + 2 * LANES + 15) // 16 * 16 + 8


cdef void lay_out(Job* job) noexcept:
    """Blocks: as many outputs as windows are long, or a line; fewer where the panel would be too large.

    Each block costs the samples past its end: block + k - 1 for block. So the axis is halved for which that is least.
    """
    cdef Axis* axis
    cdef Axis* chosen
    cdef int i
    for i in range(job.naxes - 1):
        job.axis[i].block = max(<Py_ssize_t>1, min(job.axis[i].k, job.axis[i].m))
    axis = &job.axis[job.naxes - 1]
    axis.block = max(<Py_ssize_t>1, ceil_div(axis.m, max(<Py_ssize_t>1, ceil_div(axis.m, WIDTH))))
    while True:
        measure(job)
        if 2 * job.lines * job.pitch * <Py_ssize_t>sizeof(real) <= PANEL_BYTES:
            return
        chosen = NULL
        for i in range(job.naxes):
            axis = &job.axis[i]
            if 2 * axis.block > axis.k and axis.block > 1:
                if chosen == NULL or axis.k * chosen.block < chosen.k * axis.block:
                    chosen = axis
        if chosen == NULL:
            return
        chosen.block = ceil_div(chosen.block, 2)


cdef class Windows:
    """The windows of one Problem, laid out for this build. `tolerance`: as far as rounding spreads a flat window."""

    cdef Job job
    cdef int axis[MAX_AXES]                # the caller's, of each entry; -1: none
    cdef int batch_axis[MAX_AXES]

    def __cinit__(self, problem, rules, double tolerance):
        cdef Job* job = &self.job
        cdef Axis* axis
        cdef int i
        job.fill, job.tolerance, job.count = problem.fill, tolerance, 1
        # By their place in the array: a window has no first axis, and the last one is most often contiguous.
        order = sorted(range(problem.rank), key=problem.axes.__getitem__)
        job.naxes = max(2, problem.rank)
        for i in range(2):  # where there are fewer, ones of one sample
            axis = &job.axis[i]
            axis.n = axis.k = axis.m = 1
            axis.rule, self.axis[i] = CONSTANT, -1
        for i, t in enumerate(order, job.naxes - problem.rank):
            axis = &job.axis[i]
            self.axis[i] = problem.axes[t]
            axis.n, axis.m, axis.k, axis.rule = problem.size[t], problem.out_size[t], problem.kernel[t], rules[t]
            axis.lo = problem.padding[t][0]
            job.count *= axis.k
        for n, own in zip(problem.batch_shape, problem.batch_axes):
            job.batch[job.nbatch].n, self.batch_axis[job.nbatch] = n, own
            job.nbatch += 1
        lay_out(job)

    def box(self, Py_ssize_t unit):
        """Of a unit: the batch entry, by axis of the batch; first output and outputs, by axis of the array."""
        cdef Part part
        cdef int i
        find_part(&self.job, unit, &part)
        start = {self.axis[i]: (part.begin[i], part.outputs[i]) for i in range(self.job.naxes)}
        return tuple([part.index[i] for i in range(self.job.nbatch)]), start

    def run(
        self, cnp.ndarray x not None, cnp.ndarray y not None, double flat, cnp.ndarray doubt not None, chosen,
        int threads,
    ):
        """Divide `y`, in place, in all units or in the `chosen` ones; `flat` goes where a window is flat.

        Units with a window whose spread is not 0 but less than `doubt`, one number per batch entry.
        """
        cdef Job job = self.job
        cdef cnp.ndarray doubted = np.zeros(job.units, np.uint8), units
        cdef Py_ssize_t items = job.units
        cdef int i
        if cnp.PyArray_SIZE(y) == 0:
            return doubted[:0]
        doubt = np.ascontiguousarray(job.count * doubt * doubt)
        job.doubt, job.doubted = <const double*>cnp.PyArray_DATA(doubt), cnp.PyArray_BYTES(doubted)
        job.x, job.y = <const char*>cnp.PyArray_DATA(x), <char*>cnp.PyArray_DATA(y)
        job.x_format, job.y_format = format_of(x), format_of(y)
        job.flat, job.chosen = flat, NULL
        if chosen is not None:
            units = np.ascontiguousarray(chosen, np.intp)
            job.chosen, items = <const Py_ssize_t*>cnp.PyArray_DATA(units), cnp.PyArray_SIZE(units)
        for i in range(job.naxes):
            if self.axis[i] >= 0:
                job.axis[i].x = cnp.PyArray_STRIDE(x, self.axis[i])
                job.axis[i].y = cnp.PyArray_STRIDE(y, self.axis[i])
        for i in range(job.nbatch):
            job.batch[i].y = cnp.PyArray_STRIDE(y, self.batch_axis[i])
            if cnp.PyArray_DIM(x, self.batch_axis[i]) > 1:
                job.batch[i].x = cnp.PyArray_STRIDE(x, self.batch_axis[i])
        run_units(&job, items, 1, threads, scratch_new, run_unit)
        return np.flatnonzero(doubted)
