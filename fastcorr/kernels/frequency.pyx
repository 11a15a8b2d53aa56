"""Layers and gradients by overlap-save: the contractions of contraction.py in O(n log n), for large kernels.

ALGORITHM   Blocks of x and y are tiles, transformed once for each channel; sums over channels, or over blocks, are sums
            of products per frequency, and only the sums are transformed back:

                y[n, o] = back of sum over c of     X[n, c] W[o, c]               blocks of outputs
                x[n, c] = back of sum over o of     Y[n, o] W'[o, c]              W' of the flipped kernel
                w[o, c] = back of sum over n, blocks of  X[n, c] conj(Y[n, o])    the first lags, one tile for all

            x is the correlation of y, with stride - 1 zeros between its samples, with the flipped kernel. All is
            real; two blocks are the two planes of a tile, and X conj(Y) of two blocks each has the sum of both
            correlations in its real part.

SCHEDULE    Rounds of as many blocks as fit DATA_BYTES: first every tile there, then every product and what follows it.
            If one round takes all, a few output channels after the other, as fit NEAR_BYTES; else as many as fit
            FAR_BYTES, and all rounds for these. The items of each phase run in parallel.

NUMERICS    As spectrum.pyx, N the points of a tile, for y and x; sums over channels and blocks are in order, so results
            do not depend on the threads. Tiles follow from the shapes of one batch entry. An Inf or a NaN spreads.

CALLER MUST give canonical arrays, `w` C-contiguous and of this build's type, and an aligned, native result that does
            not overlap the others.
"""

from libc.stdlib cimport free, malloc
from libc.string cimport memset
cimport numpy as cnp

from .line cimport CONSTANT, Format, format_of, real_type
from .overlap cimport (
    Axis, Block, Kernel, axis_of, cut_into_blocks, deliver, fetch, find_block, over_points, spread,
)
from .team cimport LINE, cut, run_units, take_block
from .tile cimport LANES, local_vec, real, vec, vec_load
from .transform cimport MAX_AXES, ONLY_BACK, ONLY_THERE, Tile, behind, set_tile

cnp.import_array()

cdef enum:
    TOGETHER = 4                           # products that share a load and a store of their sum
    PIECE = 1024                           # reals of a plane at a time: the sums stay in the L1 cache
    DATA_BYTES = 8 << 20
    NEAR_BYTES = 2 << 20                   # pages that are used again cost no time to clear, and stay in the cache
    FAR_BYTES = 32 << 20

cdef double ALONE_SECONDS = 1e-4           # less is not worth a parallel region


cdef struct Array:                         # of the batch, group and channel axes; a row of channels per group
    const char* data
    Py_ssize_t batch, group, channel       # bytes from one to the next
    Format format


cdef struct Job:
    Tile* tile
    Axis axis[MAX_AXES]                    # in the tile's order: of what is correlated, and of the result beside it
    Axis grad[MAX_AXES]                    # for w: of y
    Axis lags[MAX_AXES]                    # for w: of the result
    Kernel kernel
    bint weights                           # the result is w
    Py_ssize_t blocks, entries, units      # blocks of one entry; entries; tiles
    Array x, y, out                        # y for w alone
    const real* w
    Py_ssize_t w_group, w_in, w_out        # reals
    Py_ssize_t taps
    const real* bias
    Py_ssize_t bias_group
    real fill
    Py_ssize_t group, first_in, first_out, ins, outs    # of this part of the work: channels in and out
    Py_ssize_t begin, end                  # tiles of this round
    real* data                             # [tile][channel]: ins, and for w behind them outs:
    Py_ssize_t ahead, ahead_from           # so many, from this one on
    real* spectra                          # [out][in]: of the kernels, or the sums for w
    char* bad                              # set if a result is not finite


cdef inline void _products(
    const bint conj, const int count, const real* a, Py_ssize_t a_step, const real* b, Py_ssize_t b_step,
    Py_ssize_t plane, real* sum, Py_ssize_t begin, Py_ssize_t end,
) noexcept nogil:
    cdef local_vec re, im, ar, ai, br, bi
    cdef Py_ssize_t at = begin
    cdef int i
    while at < end:
        re = vec_load(sum + at)
        im = vec_load(sum + plane + at)
        for i in range(count):
            ar = vec_load(a + i * a_step + at)
            ai = vec_load(a + i * a_step + plane + at)
            br = vec_load(b + i * b_step + at)
            bi = vec_load(b + i * b_step + plane + at)
            if conj:
                re = re + ar * br + ai * bi
                im = im + ai * br - ar * bi
            else:
                re = re + ar * br - ai * bi
                im = im + ar * bi + ai * br
        (<vec*>(sum + at))[0] = re
        (<vec*>(sum + plane + at))[0] = im
        at += LANES


cdef void add_products(
    bint conj, Py_ssize_t count, const real* a, Py_ssize_t a_step, const real* b, Py_ssize_t b_step, Py_ssize_t plane,
    real* sum, Py_ssize_t begin, Py_ssize_t end,
) noexcept nogil:
    """sum += a b, or a conj(b), for `count` pairs of tiles, reals `begin` to `end` of both planes."""
    cdef Py_ssize_t i = 0
    while i + TOGETHER <= count:
        if conj:
            _products(True, TOGETHER, a + i * a_step, a_step, b + i * b_step, b_step, plane, sum, begin, end)
        else:
            _products(False, TOGETHER, a + i * a_step, a_step, b + i * b_step, b_step, plane, sum, begin, end)
        i += TOGETHER
    while i < count:
        if conj:
            _products(True, 1, a + i * a_step, a_step, b + i * b_step, b_step, plane, sum, begin, end)
        else:
            _products(False, 1, a + i * a_step, a_step, b + i * b_step, b_step, plane, sum, begin, end)
        i += 1


cdef inline Py_ssize_t first_block(const Job* job, Py_ssize_t unit, bint* two) noexcept nogil:
    """Of a tile, among those of all entries; `two`: the one after it shares the tile.

    The two are of one entry, which keeps results the same in every batch; the gradient of w sums over entries anyway.
    """
    cdef Py_ssize_t per_entry = (job.blocks + 1) // 2, first
    if job.weights:
        two[0] = 2 * unit + 1 < job.blocks * job.entries
        return 2 * unit
    first = 2 * (unit % per_entry)
    two[0] = first + 1 < job.blocks
    return unit // per_entry * job.blocks + first


cdef void fetch_tile(
    const Job* job, const Axis* axes, const Array* array, Py_ssize_t unit, Py_ssize_t channel, real fill, real* re
) noexcept nogil:
    """One channel of the two blocks of a tile, and their transform."""
    cdef const Tile* t = job.tile
    cdef bint two
    cdef Py_ssize_t first = first_block(job, unit, &two), which, entry
    cdef Block b
    for which in range(2):
        if which and not two:
            memset(re + t.plane, 0, t.plane * sizeof(real))
            break
        b.y = NULL
        entry = find_block(t, axes, first + which, &b)
        b.x = array.data + entry * array.batch + job.group * array.group + channel * array.channel
        fetch(t, axes, &array.format, &b, 0, b.x, re + which * t.plane, 0, t.n[0], fill)
    behind(t, ONLY_THERE, 0, re, re + t.plane, NULL, NULL)


cdef enum Phase:
    SPECTRA       # of kernels
    DATA          # of the tiles of a round
    OUTPUTS       # sums over channels, and back
    PRODUCTS      # sums over blocks
    LAGS          # and back


cdef struct Phased:
    const Job* job
    Phase phase


cdef struct Scratch:                       # of one thread
    void* block
    real* reals                            # taps of a line; a tile of sums


cdef void* scratch_new(const void* given) noexcept nogil:
    """For one phase; NULL when memory is short."""
    cdef const Phased* phased = <const Phased*>given
    cdef const Tile* t = phased.job.tile
    cdef Py_ssize_t reals = 0
    if phased.phase == SPECTRA:
        reals = phased.job.axis[t.rank - 1].k
    elif phased.phase == OUTPUTS:
        reals = 2 * t.plane
    cdef void* block = take_block(sizeof(Scratch) + reals * sizeof(real) + 2 * LINE)
    if block == NULL:
        return NULL
    cdef char* rest = <char*>block
    cdef Scratch* s = <Scratch*>cut(&rest, sizeof(Scratch))
    s.block = block
    s.reals = <real*>cut(&rest, reals * sizeof(real))
    return s


cdef void run_item(const void* given, Py_ssize_t item, void* scratch) noexcept nogil:
    cdef const Job* job = (<const Phased*>given).job
    cdef Phase phase = (<const Phased*>given).phase
    cdef real* reals = (<Scratch*>scratch).reals
    cdef const Tile* t = job.tile
    cdef Py_ssize_t both = 2 * t.plane, channel, unit, out, begin, which, channels = job.ins
    cdef real* to
    if phase == SPECTRA:
        to = job.spectra + item * both
        memset(to, 0, both * sizeof(real))
        spread(
            t, job.axis, &job.kernel, 0, <const char*>(
                job.w + job.group * job.w_group + (job.first_out + item // job.ins) * job.w_out
                + (job.first_in + item % job.ins) * job.w_in
            ), 0, to, over_points(t), reals,
        )
        behind(t, ONLY_THERE, 0, to, to + t.plane, NULL, NULL)
    elif phase == DATA:
        channels += job.ahead
        unit = job.begin + item // channels
        channel = item % channels
        to = job.data + item * both
        memset(to, 0, both * sizeof(real))  # what lies between rows is transformed as well
        if channel < job.ins:
            fetch_tile(job, job.axis, &job.x, unit, job.first_in + channel, job.fill, to)
        else:
            fetch_tile(job, job.grad, &job.y, unit, job.ahead_from + channel - job.ins, 0, to)
    elif phase == OUTPUTS:
        unit, out = item // job.outs, item % job.outs
        to = reals
        begin = 0
        while begin < t.plane:
            memset(to + begin, 0, min(<Py_ssize_t>PIECE, t.plane - begin) * sizeof(real))
            memset(to + t.plane + begin, 0, min(<Py_ssize_t>PIECE, t.plane - begin) * sizeof(real))
            add_products(
                False, job.ins, job.data + unit * job.ins * both, both, job.spectra + out * job.ins * both, both,
                t.plane, to, begin, min(begin + PIECE, t.plane),
            )
            begin += PIECE
        deliver_outputs(job, job.begin + unit, out, to)
    elif phase == PRODUCTS:
        channels += job.ahead
        begin = item % pieces_of(job)
        item //= pieces_of(job)
        out, channel = item // job.ins, item % job.ins
        if job.begin == 0:
            for which in range(2):
                memset(
                    job.spectra + item * both + which * t.plane + begin * PIECE, 0,
                    (min((begin + 1) * PIECE, t.plane) - begin * PIECE) * sizeof(real),
                )
        add_products(
            True, job.end - job.begin, job.data + channel * both, channels * both,
            job.data + (job.ins + job.first_out - job.ahead_from + out) * both, channels * both, t.plane,
            job.spectra + item * both, begin * PIECE, min((begin + 1) * PIECE, t.plane),
        )
    else:
        deliver_lags(job, item // job.ins, item % job.ins, job.spectra + item * both)


cdef inline Py_ssize_t pieces_of(const Job* job) noexcept nogil:
    return (job.tile.plane + PIECE - 1) // PIECE


cdef void deliver_outputs(const Job* job, Py_ssize_t unit, Py_ssize_t out, real* re) noexcept nogil:
    """Back, and the outputs of one channel of both blocks to the result."""
    cdef const Tile* t = job.tile
    cdef bint two
    cdef Py_ssize_t first = first_block(job, unit, &two), which, entry
    cdef real bias
    cdef Block b
    out += job.first_out
    if job.bias != NULL:  # a constant is all in the first frequency
        bias = job.bias[job.group * job.bias_group + out]
        re[0] += bias
        re[t.plane] += bias
    behind(t, ONLY_BACK, 0, re, re + t.plane, NULL, NULL)
    for which in range(1 + two):
        b.x = NULL
        b.y = <char*>job.out.data + job.group * job.out.group + out * job.out.channel
        entry = find_block(t, job.axis, first + which, &b)
        b.y += entry * job.out.batch
        deliver(
            t, job.axis, job.out.format.type, 0, &b, 0, re + which * t.plane, NULL, b.y, 0, b.outputs[0], job.bad
        )


cdef void deliver_lags(const Job* job, Py_ssize_t out, Py_ssize_t channel, real* re) noexcept nogil:
    """Back, and the gradient of one kernel to the result."""
    cdef const Tile* t = job.tile
    cdef real scale = over_points(t)
    cdef Py_ssize_t i
    cdef Block b
    for i in range(2 * t.plane):
        re[i] *= scale
    behind(t, ONLY_BACK, 0, re, re + t.plane, NULL, NULL)
    for i in range(t.rank):
        b.outputs[i] = job.lags[i].outputs
    b.x = NULL
    b.y = <char*>job.out.data + job.group * job.out.group
    b.y += (job.first_out + out) * job.out.batch + (job.first_in + channel) * job.out.channel
    deliver(t, job.lags, job.out.format.type, 0, &b, 0, re, NULL, b.y, 0, b.outputs[0], job.bad)


cdef class Frequency:
    """One real Contraction in tiles of `points` per spatial axis; `seconds` is an estimate for one tile.

    A product of two tiles takes `product` of that. `rules` are the boundary codes per axis, `fill` is of this build's
    type.
    """

    cdef Tile tile
    cdef Job job
    cdef double seconds, product
    cdef int rank
    cdef bint transposed, flip
    cdef int order[MAX_AXES]               # the caller's axis behind each of the tile's
    cdef Py_ssize_t kernel[MAX_AXES]       # taps, in the caller's order

    def __cinit__(self, form, rules, fill, points, order, double seconds, double product):
        cdef Job* job = &self.job
        cdef int i, axis
        cdef Axis* a
        cdef Py_ssize_t m, span
        self.rank, self.seconds, self.product = form.rank, seconds, product
        self.transposed, self.flip = form.result == "x", form.flip
        set_tile(&self.tile, tuple([points[axis] for axis in order]))
        job.weights = form.result == "w"
        job.fill = fill if not self.transposed else 0
        job.entries, job.blocks, job.taps = form.batch, 1, 1
        job.kernel.parts, job.kernel.conj, job.kernel.flip = 1, False, form.flip != self.transposed
        job.kernel.format.type, job.kernel.format.size = real_type(), sizeof(real)
        job.kernel.format.raw = job.kernel.format.swap = False
        for axis in range(self.rank):
            self.kernel[axis] = form.kernel[axis]
        for i in range(self.rank - 1, -1, -1):
            self.order[i] = axis = order[i]
            a = &job.axis[i]
            m, span = form.out_size[axis], form.dilation[axis] * (form.kernel[axis] - 1) + 1
            if self.transposed:
                a[0] = axis_of(
                    m, form.size[axis], form.kernel[axis], 1, form.dilation[axis],
                    span - 1 - form.padding[axis][0], CONSTANT,
                )
                a.up = form.stride[axis]
            elif job.weights:
                a[0] = axis_of(
                    form.size[axis], (m - 1) * form.stride[axis] + 1, form.kernel[axis], 1, form.dilation[axis],
                    form.padding[axis][0], rules[axis],
                )
            else:
                a[0] = axis_of(
                    form.size[axis], m, form.kernel[axis], form.stride[axis], form.dilation[axis],
                    form.padding[axis][0], rules[axis],
                )
            cut_into_blocks(a, self.tile.n[i])
            job.blocks *= a.blocks
            job.grad[i] = axis_of(m, a.m, 1, 1, 1, 0, CONSTANT)
            job.grad[i].up, job.grad[i].outputs, job.grad[i].blocks = form.stride[axis], a.outputs, a.blocks
            job.lags[i] = axis_of(1, form.kernel[axis], 1, form.dilation[axis], 1, 0, CONSTANT)
            job.lags[i].outputs = form.kernel[axis]
        for axis in range(self.rank - 1, -1, -1):
            for i in range(self.rank):
                if self.order[i] == axis:
                    job.axis[i].tap = job.taps
            job.taps *= form.kernel[axis]
        job.units = (job.blocks * job.entries + 1) // 2 if job.weights else (job.blocks + 1) // 2 * job.entries

    def __dealloc__(self):
        free(self.tile.memory)

    def run(
        self, cnp.ndarray a not None, cnp.ndarray b not None, cnp.ndarray out not None, bias, bint watched, int threads
    ):
        """out = the contraction of w and x (or y), or of y and x for w. If watched, True where one is not finite."""
        cdef Job job = self.job
        cdef cnp.ndarray bias_array
        cdef Py_ssize_t groups, ins, outs, both, each, group, at, to, round_, channels, tiles, most_ins, most_outs
        cdef bint whole
        cdef char bad = 0
        cdef const cnp.npy_intp* s
        if cnp.PyArray_SIZE(out) == 0:
            return None
        if cnp.PyArray_SIZE(a) == 0 or cnp.PyArray_SIZE(b) == 0:
            out[...] = 0 if bias is None else bias.reshape(out.shape[1], -1, *(1,) * self.rank)
            return None
        job.tile, job.bad = &self.tile, &bad if watched else NULL
        job.x = array_of(b)
        job.out = array_of(out)
        s = cnp.PyArray_STRIDES(out)
        groups = cnp.PyArray_DIM(b, 1)
        ins = cnp.PyArray_DIM(b, 2)
        if job.weights:
            job.y = array_of(a)
            job.out.group, job.out.batch, job.out.channel = s[0], s[1], s[2]
            outs = cnp.PyArray_DIM(a, 2)
        else:
            job.w = <const real*>cnp.PyArray_DATA(a)
            outs = cnp.PyArray_DIM(out, 2)
            job.w_group = ins * outs * job.taps
            job.w_in, job.w_out = (outs * job.taps, job.taps) if self.transposed else (job.taps, ins * job.taps)
            job.bias, job.bias_group = NULL, outs
            if bias is not None:
                bias_array = bias
                job.bias = <const real*>cnp.PyArray_DATA(bias_array)
        for at in range(self.rank):
            job.axis[at].x = cnp.PyArray_STRIDE(b, 3 + self.order[at])
            job.axis[at].y = s[3 + self.order[at]]
            if job.weights:
                job.grad[at].x = cnp.PyArray_STRIDE(a, 3 + self.order[at])
                job.lags[at].y = s[3 + self.order[at]]
                if self.flip:
                    job.out.data += (self.kernel[self.order[at]] - 1) * s[3 + self.order[at]]
                    job.lags[at].y = -s[3 + self.order[at]]

        both = 2 * self.tile.plane
        each = both * sizeof(real)
        most_ins = min(ins, max(<Py_ssize_t>1, FAR_BYTES // each)) if job.weights else ins
        channels = most_ins + (outs if job.weights else 0)
        whole = most_ins == ins and channels * job.units * each <= DATA_BYTES
        most_outs = min(outs, max(<Py_ssize_t>1, (NEAR_BYTES if whole else FAR_BYTES) // (each * most_ins)))
        job.ahead = 0 if not job.weights else outs if whole else most_outs
        channels = most_ins + job.ahead
        round_ = job.units if whole else min(job.units, max(<Py_ssize_t>1, DATA_BYTES // (each * channels)))
        tiles = most_outs * most_ins + round_ * channels
        cdef char* block = <char*>malloc(tiles * each + LINE)  # each thread clears what it fills
        if block == NULL:
            raise MemoryError("no scratch memory for the tiles")
        job.spectra = <real*>((<size_t>block + LINE - 1) // LINE * LINE)
        job.data = job.spectra + most_outs * most_ins * both
        try:
            for group in range(groups):
                job.group = group
                to = 0
                while to < outs:
                    job.first_out, job.outs = to, min(most_outs, outs - to)
                    if job.weights and not whole:
                        job.ahead, job.ahead_from = job.outs, to
                    at = 0
                    while at < ins:
                        job.first_in, job.ins = at, min(most_ins, ins - at)
                        self.run_part(&job, round_, whole and to > 0, threads)
                        at += job.ins
                    to += job.outs
        finally:
            free(block)
        return True if bad else None

    cdef int run_part(self, Job* job, Py_ssize_t round_, bint fetched, int threads) except -1:
        """All tiles for some channels; `fetched`: they are in `data` already."""
        cdef Py_ssize_t pairs = job.ins * job.outs, units
        if not job.weights:
            self.run_phase(job, SPECTRA, pairs, 0.5 * self.seconds, threads)
        job.begin = 0
        while job.begin < job.units:
            job.end = min(job.units, job.begin + round_)
            units = job.end - job.begin
            if not fetched:
                self.run_phase(job, DATA, units * (job.ins + job.ahead), 0.5 * self.seconds, threads)
            if job.weights:
                self.run_phase(
                    job, PRODUCTS, pairs * pieces_of(job), self.product * self.seconds * units / pieces_of(job), threads
                )
            else:
                self.run_phase(job, OUTPUTS, units * job.outs, (0.5 + self.product * job.ins) * self.seconds, threads)
            job.begin = job.end
        if job.weights:
            self.run_phase(job, LAGS, pairs, 0.5 * self.seconds, threads)
        return 0

    cdef int run_phase(self, const Job* job, Phase phase, Py_ssize_t items, double each, int threads) except -1:
        cdef Phased phased = Phased(job, phase)
        if items * each < ALONE_SECONDS:
            threads = 1
        return run_units(&phased, items, 1, threads, scratch_new, run_item)


cdef Array array_of(cnp.ndarray a):
    """`a` by its first three axes: batch, group, channel."""
    cdef Array array
    cdef const cnp.npy_intp* s = cnp.PyArray_STRIDES(a)
    array.data = <const char*>cnp.PyArray_DATA(a)
    array.batch, array.group, array.channel = s[0], s[1], s[2]
    array.format = format_of(a)
    return array
