"""Layers of 3 x 3 kernels at stride 1, and their input gradients, in 2.25 times fewer products: F(2x2, 3x3).

ALGORITHM   Four outputs y of a 2 x 2 tile, from the 4 x 4 samples d under it and a kernel k (Winograd 1980; Lavin &
            Gray, arXiv:1509.09308):

                y = A' [ sum over c of  (G k G')[p] * (B' d B)[p] ] A        16 points p, each a product of its own

                G = 1 0 0 | 1/2 1/2 1/2 | 1/2 -1/2 1/2 | 0 0 1      A' = 1 1 1 0 | 0 1 -1 -1
                B' = 1 0 -1 0 | 0 1 1 0 | 0 -1 1 0 | 0 1 0 -1

            Axes before the last two lengthen the sum: c is an image, a channel at one kernel position of those. The
            input gradient is the same with the kernel flipped and channels exchanged.

SCHEDULE    First kernels are transformed, LANES output channels at a time, in parallel, as many as fit U_BYTES. Then
            units run in parallel: a block of tiles, numbered through lines, places and batch entries so that few lanes
            are empty, by a block of output channels. If there is but one block of tiles, units transform kernels as
            they need them. Even and odd columns are taken apart, so tiles are lanes throughout:

                transform of all images under the block, [point][image][tile]   (L2; of one point in the L1)
                per point:  tile(rows = output channels, taps = images, lanes = tiles)  ->  sums[channel][point][tile]
                transform of the sums, even and odd columns woven together  ->  y

NUMERICS    B', G and A' multiply by 1 and 1/2 only: whole numbers stay exact while 256 * images * max|x| max|w| is less
            than 2**24 (2**53 for double). The error is less than eps log2(16 * images) max|x| sum|w|
            (docs/numerics.md). Chunks of CHUNK images are summed on their own and added in order. A tile's arithmetic
            does not depend on its lane: results are bitwise the same for any number of threads and any batch. An Inf
            becomes a NaN in its tile, and so may an overflow; sums and products never make that finite again, so a
            look at the outputs finds it.

CALLER MUST give w C-contiguous in the build's own type, and a y that is aligned, native and does not overlap x or w.
"""

from libc.stdlib cimport free, malloc
from libc.string cimport memset
cimport numpy as cnp

import numpy as np

from .line cimport Format, all_finite, copy_line, extend, format_of, gather, real_type, store, transpose
from .panel cimport Axis, find_place, image_start
from .team cimport LINE, run_units, take_block
from .tile cimport (
    CHUNK, LANES, MAX_ROWS, always_inline_void, ceil_div, local_vec, most_rows, most_vectors, real, tile, tile_vectors,
    vec, vec_load, vec_lower, vec_part, vec_upper,
)

cdef extern from "simd.h":
    void prefetch(const char* p, Py_ssize_t bytes) noexcept nogil

cnp.import_array()

cdef enum:
    MAX_AXES = 64
    MOST_TILES = 64                    # of the multiply loop, side by side in a unit
    POINTS = 16                        # of the transform of a tile
    TAPS = 9
    RUN = 8                            # images whose kernels are transformed at a time, if they follow each other
    AHEAD = 4                          # images whose kernels are asked for before, if they do not

# Per thread, in a 512 kB L2; half or twice of each takes up to 5 % longer.
cdef Py_ssize_t POINT_BYTES = 24 << 10     # samples of one point of a block: in a 32 kB L1 beside weights and sums
cdef Py_ssize_t SUMS_BYTES = 128 << 10
cdef Py_ssize_t MOST_LANES = 48
cdef Py_ssize_t U_BYTES = 8 << 20          # of all threads: what is larger comes from the system anew in each call


cdef struct Job:
    Py_ssize_t x_batch, y_batch
    Py_ssize_t groups, a_group, x_group, y_group
    Py_ssize_t rows, a_row, y_row
    Py_ssize_t channels, a_channel, x_channel
    int naxes
    Axis axis[MAX_AXES]
    bint flip                          # of the last two axes of the kernel
    Py_ssize_t images, places
    Py_ssize_t tile_lines, tile_columns, tiles
    Py_ssize_t features                # output channels side by side in `u`
    Py_ssize_t feature_blocks
    Py_ssize_t u_point, u_block        # reals of one point, of all points of a block of output channels
    Py_ssize_t block, blocks           # tiles of a unit, whole vectors
    Py_ssize_t first, slab             # blocks of output channels whose kernels are transformed
    Py_ssize_t row_block, row_blocks   # of a unit, in blocks of output channels; in a slab
    Py_ssize_t together                # of these, summed before they leave
    Py_ssize_t point                   # reals of one point of a block of tiles
    Py_ssize_t columns                 # reals of a line of even or odd samples
    int vectors
    Format format
    int ytype
    real fill
    const char* x
    char* y
    const char* a
    const char* a_end
    const real* bias                   # NULL: none
    real* u                            # [group][block of output channels][point][image][output channel]; NULL: nobody's
    char* bad                          # set for each line of tiles with an output that is not finite; NULL: nobody asks


cdef struct Piece:                     # tiles of one line
    Py_ssize_t place, line, column, n


cdef struct Scratch:
    void* block
    real* taps                         # [image][tap][output channel]
    real* u                            # as that of the Job, if it has none
    real* v                            # [point][image][tile]
    real* sums                         # [output channel][point][tile]
    real* line                         # [row modulo 4][even, odd][column]
    real* samples                      # [row modulo 4][column]
    real* woven                        # [row of the tile][output column]
    const real** tap
    Piece* piece


# --- kernels ----------------------------------------------------------------------------------------------------------


cdef Py_ssize_t image_weight(const Job* job, Py_ssize_t image) noexcept nogil:
    """Bytes to the kernel of an image."""
    cdef Py_ssize_t at = 0
    cdef int i
    for i in range(job.naxes - 3, -1, -1):
        at += image % job.axis[i].k * job.axis[i].a
        image //= job.axis[i].k
    return at + image * job.a_channel


cdef inline always_inline_void kernel_axis(const local_vec* k, local_vec* u) noexcept nogil:
    """G times three vectors."""
    cdef real half = <real>0.5
    cdef local_vec sum = half * (k[0] + k[2]), middle = half * k[1]
    u[0], u[3] = k[0], k[2]
    u[1] = sum + middle
    u[2] = sum - middle


cdef inline void transform_kernel(const real* k, bint flip, real* u, Py_ssize_t point) noexcept nogil:
    """LANES kernels, taps first, to their points."""
    cdef local_vec g[TAPS]
    cdef local_vec h[12]               # [row of points][column of taps]
    cdef local_vec column[4]
    cdef int i, j
    for i in range(TAPS):
        g[i] = vec_load(k + (TAPS - 1 - i if flip else i) * LANES)
    for j in range(3):
        column[0], column[1], column[2] = g[j], g[3 + j], g[6 + j]
        kernel_axis(column, column)
        for i in range(4):
            h[3 * i + j] = column[i]
    for i in range(4):
        kernel_axis(h + 3 * i, column)
        for j in range(4):
            (<vec*>(u + (4 * i + j) * point))[0] = column[j]


cdef void transform_kernels(const Job* job, Py_ssize_t group, Py_ssize_t block, real* taps, real* to) noexcept nogil:
    """All of one block of output channels."""
    cdef Py_ssize_t r, rows, lane, image, run, i, j, step = job.a_row // <Py_ssize_t>sizeof(real)
    cdef real* u
    cdef const real* p
    for lane in range(job.features // LANES):
        r = block * job.features + lane * LANES
        rows = min(<Py_ssize_t>LANES, job.rows - r)
        if rows <= 0:
            break
        image = 0
        while image < job.images:
            p = <const real*>(job.a + group * job.a_group + r * job.a_row + image_weight(job, image))
            run = 1
            while run < RUN and image + run < job.images and (
                image_weight(job, image + run) - image_weight(job, image) == run * TAPS * <Py_ssize_t>sizeof(real)
            ):
                run += 1
            if run == 1:
                prefetch(
                    <const char*>p + image_weight(job, image + AHEAD) - image_weight(job, image),
                    min(rows * job.a_row, <Py_ssize_t>(LANES * TAPS * sizeof(real))),
                )
            if <const char*>(p + (rows - 1) * step + max(run * TAPS, <Py_ssize_t>LANES)) <= job.a_end:
                transpose(p, step, rows, run * TAPS, taps, LANES)
            else:
                for i in range(run * TAPS):
                    for j in range(LANES):
                        taps[i * LANES + j] = p[min(j, rows - 1) * step + i]
            u = to + image * job.features + lane * LANES
            for i in range(run):
                transform_kernel(taps + i * TAPS * LANES, job.flip, u + i * job.features, job.u_point)
            image += run


cdef void run_kernels(const void* given, Py_ssize_t unit, void* scratch) noexcept nogil:
    """One block of output channels of the slab."""
    cdef const Job* job = <const Job*>given
    cdef Py_ssize_t block = job.first + unit % job.slab
    if block < job.feature_blocks:
        transform_kernels(job, unit // job.slab, block, (<Scratch*>scratch).taps, job.u + unit * job.u_block)


# --- samples ----------------------------------------------------------------------------------------------------------


cdef Py_ssize_t find_pieces(const Job* job, Py_ssize_t t, Py_ssize_t tiles, Piece* piece) noexcept nogil:
    """The lines of tiles `t` on; how many there are."""
    cdef Py_ssize_t count = 0, line = t // job.tile_columns
    t -= line * job.tile_columns
    while tiles > 0:
        piece[count].place, piece[count].line = line // job.tile_lines, line % job.tile_lines
        piece[count].column, piece[count].n = t, min(tiles, job.tile_columns - t)
        tiles -= piece[count].n
        count += 1
        line += 1
        t = 0
    return count


cdef inline void gather_row(
    const Job* job, const char* x, Py_ssize_t row, Py_ssize_t column, Py_ssize_t count, real* to
) noexcept nogil:
    """`count` samples from those under tile `column` on; x is NULL in the fill."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t u = -1 if x == NULL else extend(line.offset + row, line.n, line.rule), i
    if u >= 0:
        x += u * line.x
        gather(&job.format, x, to, count, lane.offset + 2 * column, 1, lane.n, lane.x, lane.rule, job.fill)
    else:
        for i in range(count):
            to[i] = job.fill


cdef inline void take_apart(const real* samples, Py_ssize_t count, real* even, real* odd) noexcept nogil:
    """Those of even and of odd number."""
    cdef Py_ssize_t i
    cdef local_vec a, b
    for i in range(ceil_div(count, 2 * LANES)):
        vec_part(samples + 2 * i * LANES, &a, &b)
        (<vec*>(even + i * LANES))[0] = a
        (<vec*>(odd + i * LANES))[0] = b


cdef inline always_inline_void along_line(const int b, const real* even, const real* odd, local_vec* d) noexcept nogil:
    """Row b of B' times the four samples of each tile along its line."""
    if b == 0:
        d[0] = vec_load(even) - vec_load(even + 1)
    elif b == 1:
        d[0] = vec_load(odd) + vec_load(even + 1)
    elif b == 2:
        d[0] = vec_load(even + 1) - vec_load(odd)
    else:
        d[0] = vec_load(odd) - vec_load(odd + 1)


cdef inline always_inline_void transform_samples(
    const int b, const real* const* row, Py_ssize_t columns, real* v, Py_ssize_t point
) noexcept nogil:
    """LANES tiles to column b of their points."""
    cdef local_vec d[4]
    cdef int a
    for a in range(4):
        along_line(b, row[a], row[a] + columns, d + a)
    (<vec*>(v + b * point))[0] = d[0] - d[2]
    (<vec*>(v + (4 + b) * point))[0] = d[1] + d[2]
    (<vec*>(v + (8 + b) * point))[0] = d[2] - d[1]
    (<vec*>(v + (12 + b) * point))[0] = d[1] - d[3]


cdef void transform_image(
    const Job* job, Py_ssize_t group, Py_ssize_t image, const Piece* piece, Py_ssize_t pieces, Scratch* s
) noexcept nogil:
    """One image under a block of tiles. Rows between two lines of tiles are gathered once."""
    cdef Py_ssize_t position[MAX_AXES]
    cdef Py_ssize_t i, j, begin, count, row = 0, place = -1
    cdef bint whole = job.tile_columns <= job.block
    cdef real* v = s.v + image * job.block
    cdef const char* x = NULL
    cdef const real* rows[4]
    cdef real* line
    for i in range(pieces):
        begin = 0 if whole else piece[i].column
        count = job.tile_columns if whole else piece[i].n
        if piece[i].place != place:
            place = piece[i].place
            x = job.x + group * job.x_group + find_place(job.axis, job.naxes, place, position) * job.x_batch
            x = image_start(job.axis, job.naxes, x, job.x_channel, image, position)
            row = 2 * piece[i].line
        elif not whole:
            row = 2 * piece[i].line
        for j in range(row, 2 * piece[i].line + 4):  # all of them first: what was just stored is slow to read
            gather_row(job, x, j, begin, 2 * count + 2, s.samples + (j & 3) * 2 * job.columns)
        for j in range(row, 2 * piece[i].line + 4):
            line = s.line + (j & 3) * 2 * job.columns
            take_apart(s.samples + (j & 3) * 2 * job.columns, 2 * count + 2, line, line + job.columns)
        row = 2 * piece[i].line + 4
        for j in range(4):
            rows[j] = s.line + (2 * piece[i].line + j & 3) * 2 * job.columns + piece[i].column - begin
        for j in range(ceil_div(piece[i].n, LANES)):  # past the last tile, where the next piece follows
            transform_samples(0, rows, job.columns, v + j * LANES, job.point)
            transform_samples(1, rows, job.columns, v + j * LANES, job.point)
            transform_samples(2, rows, job.columns, v + j * LANES, job.point)
            transform_samples(3, rows, job.columns, v + j * LANES, job.point)
            rows[0] += LANES
            rows[1] += LANES
            rows[2] += LANES
            rows[3] += LANES
        v += piece[i].n


# --- products and results ---------------------------------------------------------------------------------------------


cdef void multiply(const Job* job, const real* u, Py_ssize_t blocks, Py_ssize_t tiles, Scratch* s) noexcept nogil:
    """The sums of so many blocks of output channels from `u` on, point by point."""
    cdef const real* src[MAX_ROWS]
    cdef real* dst[MAX_ROWS]
    cdef Py_ssize_t p, t, taps, b, r, k, lane = 0, groups = ceil_div(job.features, most_rows(job.vectors))
    cdef const real* w
    cdef int i, n, q, widths = 0
    cdef int width[MOST_TILES]
    while lane < tiles:
        width[widths] = tile_vectors(job.vectors, tiles - lane)
        lane += width[widths] * LANES
        widths += 1
    for p in range(POINTS):
        t = 0
        while t < job.images:
            taps = min(job.images - t, <Py_ssize_t>CHUNK)
            for b in range(blocks):
                w = u + b * job.u_block + p * job.u_point + t * job.features
                r = 0
                for k in range(groups):
                    n = <int>ceil_div(job.features - r, groups - k)
                    lane = 0
                    for q in range(widths):
                        for i in range(n):
                            dst[i] = s.sums + ((b * job.features + r + i) * POINTS + p) * job.block + lane
                            src[i] = dst[i] if t > 0 else NULL
                        tile(
                            n, width[q], 1, taps, s.tap + t, p * job.point + lane, w + r, src, dst, job.features, False
                        )
                        lane += width[q] * LANES
                    r += n
            t += taps


cdef inline always_inline_void weave(const local_vec* m, const real bias, real* to) noexcept nogil:
    """Outputs of one row of LANES tiles: A' times four vectors, even and odd columns together."""
    cdef local_vec even = m[0] + m[1] + m[2] + bias, odd = m[1] - m[2] - m[3] + bias
    (<vec*>to)[0] = vec_lower(even, odd)
    (<vec*>(to + LANES))[0] = vec_upper(even, odd)


cdef void transform_sums(const Job* job, const real* sums, real bias, Py_ssize_t tiles, real* to) noexcept nogil:
    """Two rows of outputs of one output channel."""
    cdef local_vec upper[4]
    cdef local_vec lower[4]
    cdef local_vec m[4]
    cdef Py_ssize_t _t
    cdef int b, a
    for _t in range(ceil_div(tiles, LANES)):
        for b in range(4):
            for a in range(4):
                m[a] = vec_load(sums + (4 * a + b) * job.block)
            upper[b] = m[0] + m[1] + m[2]
            lower[b] = m[1] - m[2] - m[3]
        weave(upper, bias, to)
        weave(lower, bias, to + 2 * job.block)
        sums += LANES
        to += 2 * LANES


cdef void leave(
    const Job* job, Py_ssize_t group, Py_ssize_t row, const Piece* piece, Py_ssize_t pieces, const real* from_
) noexcept nogil:
    """The outputs of one output channel to y."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t position[MAX_AXES]
    cdef Py_ssize_t i, j, count
    cdef bint plain = job.ytype == real_type() and lane.y == sizeof(real)
    cdef const real* p
    cdef char* y
    cdef char* start = NULL
    cdef int k
    for i in range(pieces):
        if i == 0 or piece[i].place != piece[i - 1].place:
            start = job.y + group * job.y_group + row * job.y_row
            start += find_place(job.axis, job.naxes, piece[i].place, position) * job.y_batch
            for k in range(job.naxes - 2):
                start += position[k] * job.axis[k].y
        count = min(2 * piece[i].n, lane.m - 2 * piece[i].column)
        for j in range(min(<Py_ssize_t>2, line.m - 2 * piece[i].line)):
            p = from_ + 2 * j * job.block
            y = start + (2 * piece[i].line + j) * line.y + 2 * piece[i].column * lane.y
            if job.bad != NULL and not all_finite(p, count):
                job.bad[piece[i].place * job.tile_lines + piece[i].line] = 1
            if plain:
                copy_line(p, <real*>y, count)
            else:
                store(job.ytype, p, y, count, lane.y)
        from_ += 2 * piece[i].n


cdef void run_unit(const void* given, Py_ssize_t unit, void* scratch) noexcept nogil:
    """A block of output channels by a block of tiles."""
    cdef const Job* job = <const Job*>given
    cdef Scratch* s = <Scratch*>scratch
    cdef Py_ssize_t first = job.first + unit % job.row_blocks * job.row_block
    cdef Py_ssize_t last = min(first + job.row_block, min(job.first + job.slab, job.feature_blocks))
    cdef Py_ssize_t t = unit // job.row_blocks % job.blocks * job.block, group = unit // job.row_blocks // job.blocks
    cdef Py_ssize_t tiles = min(job.block, job.tiles - t), pieces = find_pieces(job, t, tiles, s.piece)
    cdef Py_ssize_t image, blocks, r
    cdef const real* u = s.u
    cdef real bias = 0
    for image in range(job.images if first < last else 0):  # the last slab may be smaller
        transform_image(job, group, image, s.piece, pieces, s)
    while first < last:
        blocks = min(job.together, last - first)
        if job.u != NULL:
            u = job.u + (group * job.slab + first - job.first) * job.u_block
        for r in range(blocks if job.u == NULL else 0):
            transform_kernels(job, group, first + r, s.taps, s.u + r * job.u_block)
        multiply(job, u, blocks, tiles, s)
        for r in range(min(blocks * job.features, job.rows - first * job.features)):
            if job.bias != NULL:
                bias = job.bias[group * job.rows + first * job.features + r]
            transform_sums(job, s.sums + r * POINTS * job.block, bias, tiles, s.woven)
            leave(job, group, first * job.features + r, s.piece, pieces, s.woven)
        first += blocks


cdef void* scratch_new(const void* given) noexcept nogil:
    """One block for one thread; NULL when memory is short."""
    cdef const Job* job = <const Job*>given
    cdef Py_ssize_t head = (sizeof(Scratch) + 63) // 64 * 64
    cdef Py_ssize_t taps = (RUN * TAPS + LANES) * LANES, u = job.together * job.u_block if job.u == NULL else 0
    cdef Py_ssize_t v = POINTS * job.point, line = 8 * job.columns
    cdef Py_ssize_t sums = job.together * job.features * POINTS * job.block, woven = 4 * job.block
    cdef Py_ssize_t reals = taps + u + v + 2 * line + sums + woven, i
    cdef void* block = take_block(
        64 + head + reals * sizeof(real) + job.images * sizeof(void*) + job.block * sizeof(Piece)
    )
    if block == NULL:
        return NULL
    cdef char* p = <char*>((<size_t>block + 63) // 64 * 64)
    cdef Scratch* s = <Scratch*>p
    s.block = block
    s.taps = <real*>(p + head)
    s.line = s.taps + taps
    s.samples = s.line + line
    s.v = s.samples + line
    s.sums = s.v + v
    s.u = s.sums + sums
    s.woven = s.u + u
    s.tap = <const real**>(s.woven + woven)
    s.piece = <Piece*>(s.tap + job.images)
    memset(s.line, 0, (2 * line + v) * sizeof(real))  # lanes past the last tile are multiplied as well
    for i in range(job.images):
        s.tap[i] = s.v + i * job.block
    return s


cdef void lay_out(Job* job, int threads) noexcept:
    """Blocks of tiles and of output channels. None of them changes a bit."""
    cdef Axis* line = &job.axis[job.naxes - 2]
    cdef Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t vectors, most, pad = LINE // <Py_ssize_t>sizeof(real)  # points on different sets of the cache
    job.features = max(<Py_ssize_t>LANES, <Py_ssize_t>4)
    job.feature_blocks = ceil_div(job.rows, job.features)
    job.u_point = job.images * job.features + pad
    job.u_block = POINTS * job.u_point
    job.vectors = min(4, most_vectors(job.features))
    job.tile_lines, job.tile_columns = ceil_div(line.m, 2), ceil_div(lane.m, 2)
    job.tiles = job.places * job.tile_lines * job.tile_columns
    most = min(MOST_LANES, POINT_BYTES // (min(job.images, <Py_ssize_t>CHUNK) * <Py_ssize_t>sizeof(real))) // LANES
    most = max(<Py_ssize_t>job.vectors, most // job.vectors * job.vectors)
    vectors = ceil_div(job.tiles, LANES)
    job.block = ceil_div(vectors, ceil_div(vectors, most)) * LANES
    job.blocks = ceil_div(job.tiles, job.block)
    job.point = job.images * job.block + LANES + pad
    job.columns = ceil_div(job.block + 1 + LANES, LANES) * LANES
    job.slab = job.feature_blocks
    if job.blocks > 1:
        most = max(<Py_ssize_t>1, U_BYTES // (job.groups * job.u_block * <Py_ssize_t>sizeof(real)))
        job.slab = ceil_div(job.slab, ceil_div(job.slab, most))
    job.row_block = job.slab
    most = job.groups * job.blocks
    if threads > 1 and most < 2 * threads:
        job.row_block = ceil_div(job.slab, ceil_div(2 * threads, most))
    job.row_blocks = ceil_div(job.slab, job.row_block)
    most = SUMS_BYTES // (POINTS * job.block * job.features * <Py_ssize_t>sizeof(real))
    job.together = 1 if job.blocks == 1 else min(job.row_block, max(<Py_ssize_t>1, most))


cdef class Winograd:
    """One Contraction of result "y" or "x", of stride 1 and kernels that end in 3 x 3."""

    cdef Job job
    cdef Py_ssize_t lo[MAX_AXES]
    cdef Py_ssize_t dilation[MAX_AXES]
    cdef int rank
    cdef bint flip, forward

    def __cinit__(self, form, rules, fill):
        cdef Job* job = &self.job
        cdef Axis* axis
        cdef int i
        self.rank, self.forward, self.flip = form.rank, form.result == "y", form.flip
        job.groups, job.fill = form.groups, fill if self.forward else 0
        job.rows, job.channels = form.features, form.channels
        if not self.forward:
            job.rows, job.channels = job.channels, job.rows
        job.naxes, job.places, job.images = self.rank, form.batch, job.channels
        job.flip = self.flip == self.forward
        for i in range(self.rank):
            axis = &job.axis[i]
            axis.k, axis.q = form.kernel[i], 1
            self.lo[i], self.dilation[i] = form.padding[i][0], form.dilation[i]
            if self.forward:
                axis.n, axis.m, axis.rule = form.size[i], form.out_size[i], rules[i]
                axis.offset, axis.p = -self.lo[i], self.dilation[i]
            else:
                axis.n, axis.m, axis.rule = form.out_size[i], form.size[i], 0
                axis.offset, axis.p = self.lo[i], -self.dilation[i]
            if i >= self.rank - 2:
                axis.offset = -self.lo[i] if self.forward else self.lo[i] - 2
                axis.p = 1
            else:
                job.places *= axis.m
                job.images *= axis.k

    def run(
        self, cnp.ndarray w not None, cnp.ndarray x not None, cnp.ndarray y not None, bias, bint watched, int threads
    ):
        """y = the contraction of canonical `w` (of this build's type) and `x`; `bias` has one real per row, or is None.

        If watched, an array of the places' lines of tiles, which are True if an output of theirs is not finite; None
        where all are.
        """
        cdef Job job = self.job
        cdef cnp.ndarray bias_array, bad
        cdef const cnp.npy_intp* ws = cnp.PyArray_STRIDES(w)
        cdef const cnp.npy_intp* xs = cnp.PyArray_STRIDES(x)
        cdef const cnp.npy_intp* ys = cnp.PyArray_STRIDES(y)
        cdef Format f = format_of(y)
        cdef void* block = NULL
        cdef Axis* axis
        cdef int i
        if cnp.PyArray_SIZE(y) == 0:
            return None
        job.format, job.ytype, job.bias, job.bad = format_of(x), f.type, NULL, NULL
        job.a = <const char*>cnp.PyArray_DATA(w)
        job.a_end = job.a + cnp.PyArray_NBYTES(w)
        if bias is not None:
            bias_array = bias
            job.bias = <const real*>cnp.PyArray_DATA(bias_array)
        job.x, job.y = <const char*>cnp.PyArray_DATA(x), <char*>cnp.PyArray_DATA(y)
        job.x_batch, job.y_batch = xs[0], ys[0]
        job.a_group, job.x_group, job.y_group = ws[0], xs[1], ys[1]
        job.a_row, job.y_row = ws[1 if self.forward else 2], ys[2]
        job.a_channel, job.x_channel = ws[2 if self.forward else 1], xs[2]
        for i in range(self.rank):
            axis = &job.axis[i]
            axis.x, axis.a, axis.y = xs[3 + i], ws[3 + i], ys[3 + i]
            if self.flip and i < self.rank - 2:
                job.a += (axis.k - 1) * axis.a
                axis.a = -axis.a
        lay_out(&job, threads)
        if watched:
            bad = np.zeros((job.places, job.tile_lines), np.bool_)
            job.bad = <char*>cnp.PyArray_DATA(bad)
        job.u = NULL
        if job.blocks > 1:
            block = malloc(job.groups * job.slab * job.u_block * sizeof(real) + LINE)
            if block == NULL:
                raise MemoryError("no memory for the transformed kernels")
            job.u = <real*>((<size_t>block + LINE - 1) // LINE * LINE)
        try:
            self.run_job(&job, threads)
        finally:
            free(block)
        return bad if watched and bad.any() else None

    cdef int run_job(self, Job* job, int threads) except -1:
        """The loops, with a look at Ctrl-C now and then."""
        cdef Py_ssize_t units = job.groups * job.blocks * job.row_blocks
        job.first = 0
        while job.first < job.feature_blocks:
            if job.u != NULL:
                run_units(job, job.groups * job.slab, 1, threads, scratch_new, run_kernels)
            run_units(job, units, 1, threads, scratch_new, run_unit)
            job.first += job.slab
        return 0
