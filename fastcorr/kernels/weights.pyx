"""Weight gradients: the layer's third contraction, of any rank.

ALGORITHM   w[g, o, c, j] = sum over n, i of  g[n, g, o, i] * X[n, g, c, s*i + d*j - lo]. Rows are output channels o,
            taps (n, i), lanes (kernel position b of the last axis, c). X is extended past its ends by the boundary
            rule.

SCHEDULE    A unit is a block of rows, of channels and of kernel positions, of one group and one slice of the taps. It
            takes a patch of output positions at a time: some lines of the second last axis, or small pictures as a
            whole, several batch entries together. The samples under it are gathered into a panel with the channels
            last, once for all kernel positions: there the lanes of tap (i, a), for all b and c, lie side by side
            (d = 1; else for each b). Of many channels a strip as wide as a tile lies together: the taps of a tile then
            follow each other, where all channels of a tap would put them on few sets of the L1 cache. The gradient is
            read where the caller has it, or loaded row by row; the sums wait in scratch. Units run in parallel.

            Few channels (a first layer) would leave most lanes empty. Then everything is turned: lanes are output
            channels, of a gradient that is transposed on its way in; the tile's rows are kernel positions b, which read
            a panel that is as X is.

            By points (WinogradWeights), for kernels of 3 x 3 at stride 1, in 2.25 times fewer products: F(3x3, 2x2).
            A tile of 2 x 2 outputs h and the 4 x 4 samples d under it add to all nine sums at once,

                w = A' [ sum over n, tiles of  (G h G')[p] * (B' d B)[p] ] A      16 points p, each a sum of its own

                G = 1 0 | 1 1 | 1 -1 | 0 1                     A' = 1 1/2 1/2 0 | 0 1/2 -1/2 0 | 0 1/2 1/2 -1
                B' = 1 0 -1 0 | 0 1 1 0 | 0 -1 1 0 | 0 1 0 -1

            which is winograd.pyx with the halves of G moved to A'. Rows and lanes are what they are above, taps are
            tiles. X is gathered as far as whole tiles reach, the gradient has zeros there.

NUMERICS    Chunks of at most CHUNK taps, or MOST_TILES tiles, of a patch are summed on their own; chunks, patches and
            slices are added in order. All follow from the shape alone: results are bitwise the same for any number of
            threads. By points whole numbers stay exact while 64 max|g| max|x| times the number of positions in all is
            less than 2**24 (2**53 for double); an Inf or an overflow leaves something that is not finite in w.

CALLER MUST give a w that is aligned, native and does not overlap g or X; those may be anything `line.load` reads.
"""

from libc.stdlib cimport free, malloc
from libc.string cimport memset
cimport numpy as cnp

import numpy as np

from .line cimport CONSTANT, Format, copy_line, extend, format_of, gather, load, real_type, store
from .team cimport LINE, run_units, take_block, uneven
from .tile cimport (
    CHUNK, LANES, MAX_ROWS, always_inline_void, ceil_div, eager_void, local_vec, real, tile_apart,
    tile_vectors, turn, vec, vec_load, vec_part,
)

cnp.import_array()

cdef enum:
    MAX_AXES = 64
    SLICE = 4096                       # taps that are worth sums of their own
    MOST_SLICE = 8192                  # and those after which a unit ends, for Ctrl-C
    SPREAD = 4                         # samples from tap to tap that are few enough to gather all
    VECTORS = 4                        # of a tile: 3 x 4 sums in 16 registers, 92 GFLOP/s where 5 x 2 have 77 (Zen 3)
    WIDTH = VECTORS * LANES            # lanes of a tile
    POINTS = 16                        # of the transform of 2 x 2 outputs
    MOST_RUN = 64                      # kernel positions that leave together
    MOST_GATHERED = 512                # samples of short lines gathered together, of a channel; 256, 1024: as fast

# Bytes per thread, together most of a 1 MB L2; PARTIAL_BYTES are for all threads. By points, half or twice of each
# number was up to 10 % slower in one of four layers (Zen 3, float32, 512 kB L2, busy machine).
cdef Py_ssize_t SUMS_BYTES = 256 << 10
cdef Py_ssize_t PANEL_BYTES = 192 << 10
cdef Py_ssize_t PARTIAL_BYTES = 2 << 20
cdef Py_ssize_t MOST_LANES = 256
cdef Py_ssize_t MOST_ROWS = 256
cdef Py_ssize_t MOST_TAPS = 1024      # of a patch
cdef Py_ssize_t MOST_TILES = 64       # by points: of 2 x 2 outputs, transformed at a time
cdef Py_ssize_t POINT_CHANNELS = 64, POINT_ROWS = 512 // sizeof(real)    # of a block


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
    Py_ssize_t patch_places, patch_lines, patch_width         # of outputs; several places only if each is whole
    Py_ssize_t lines, columns          # of X below, for each place
    Py_ssize_t line_patches, patches   # along `line`, in all
    Py_ssize_t strip, area             # channels side by side in the panel; reals from one strip to the next
    Py_ssize_t slice, slices           # patches per slice; slices side by side
    Py_ssize_t rounds, turn            # of so many slices; the current one adds to the sums of those before
    Py_ssize_t row_block, row_blocks, channel_block, channel_blocks, a_block, a_blocks, b_block, b_blocks
    Py_ssize_t parts, width, lanes     # runs of lanes per a: 1, or one per b; lanes in each, in whole tiles
    Py_ssize_t units
    Format g_format, x_format
    bint in_place                      # the gradient is read where it is
    bint turned                        # rows and lanes have changed places
    bint by_points                     # 3 x 3 at stride 1: products of points of 2 x 2 outputs
    Py_ssize_t u_row, u_point, v_strip, v_tile, v_point    # reals from one to the next in `u` and `v`
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
    real* panel                        # [strip][place][line][column][channel]; turned: [place][line][channel][column]
    real* packed                       # the gradient, [row][tap], if not read in place; turned: [tile][tap][row of it]
    real* line                         # [channel, LANES of them][column]
    real* u                            # by points: of the gradient, [point][row][tile]
    real* v                            # of the samples, [point][strip][tile][channel]
    real* product                      # sums of their products, [point][row][strip][channel]
    const real** tap
    Py_ssize_t* weight                 # where the weights of each tap are, in the gradient of a row; turned: in panel
    Py_ssize_t* sample                 # and its samples in a strip, in columns


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


cdef void gather_place(
    const Job* job, const Unit* u, const char* x, Py_ssize_t place, Py_ssize_t line0, Py_ssize_t lines,
    Py_ssize_t lane0, Py_ssize_t width, Scratch* s,
) noexcept nogil:
    """One place of the panel under a patch, channel by channel; lines that follow each other in x and in the panel are
    one. x NULL: nothing but fill."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t count = extent(lane, width, u.b1 - u.b0), channels = u.c1 - u.c0
    cdef Py_ssize_t begin = lane.s * lane0 + lane.d * u.b0 - lane.lo, step = line.s if line.spread else 1
    cdef Py_ssize_t i = 0, c, v, at, row, first, pitch, block, n, run, wide, together = 1
    cdef real* to
    if not (job.turned or lane.spread) and begin == 0 and count == lane.n == job.columns:
        if step == 1 and line.x == lane.n * lane.x:
            together = max(1, MOST_GATHERED // count)
    while i < extent(line, lines, u.a1 - u.a0):
        row = place * job.lines + i
        at, run = -1, 1
        if x != NULL:
            at = line.s * line0 + line.d * u.a0 + i * step - line.lo
            if 0 <= at < line.n:
                run = min(together, min(extent(line, lines, u.a1 - u.a0) - i, line.n - at))
            at = extend(at, line.n, line.rule)
        n = count * run
        wide = ceil_div(n, LANES) * LANES
        # Last block of channels first: the next one covers what is transposed too much.
        for block in range(ceil_div(channels, LANES) - 1, -1, -1):
            for c in range(min(<Py_ssize_t>LANES, channels - block * LANES)):
                to = s.line + c * wide
                if job.turned:
                    to = s.panel + (row * channels + block * LANES + c) * job.columns
                if at < 0:
                    for v in range(n):
                        to[v] = job.fill
                    continue
                gather(
                    &job.x_format, x + at * line.x + (u.c0 + block * LANES + c) * job.x_channel, to, n, begin,
                    lane.s if lane.spread else 1, lane.n * run, lane.x, lane.rule, job.fill,
                )
            first = block * LANES // job.strip
            pitch = min(job.strip, channels - first * job.strip)
            to = s.panel + first * job.area + row * job.columns * pitch + block * LANES - first * job.strip
            for v in range(0 if job.turned else ceil_div(n, LANES)):
                turn(
                    s.line + v * LANES, wide, min(<Py_ssize_t>LANES, channels - block * LANES), LANES,
                    to + v * LANES * pitch, pitch,
                )
        i += run


cdef void load_place(
    const Job* job, const Unit* u, const char* g, Py_ssize_t from_g, Py_ssize_t place, Py_ssize_t lines,
    Py_ssize_t width, Scratch* s,
) noexcept nogil:
    """The gradient of a place, `from_g` bytes from `g`, and where its taps are."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t line_step = 1 if line.spread else line.s, lane_step = 1 if lane.spread else lane.s
    cdef Py_ssize_t r, i, j, t = place * lines * width, taps = job.patch_places * job.patch_lines * job.patch_width
    for i in range(lines):
        for j in range(width):
            s.sample[t] = (place * job.lines + line_step * i) * job.columns + lane_step * j
            s.weight[t] = t
            if job.in_place:
                s.weight[t] = (from_g + i * line.g + j * lane.g) // <Py_ssize_t>sizeof(real)
            t += 1
    t -= lines * width
    if width == lane.m and line.g == width * lane.g:  # lines that follow each other are one
        width *= lines
        lines = 1
    for r in range(0 if job.in_place else u.r1 - u.r0):
        for i in range(lines):
            load(
                &job.g_format, g + from_g + (u.r0 + r) * job.g_row + i * line.g, s.packed + r * taps + t + i * width,
                width, lane.g,
            )


cdef inline Py_ssize_t turned_size(const Job* job) noexcept nogil:
    """Reals of a tile's rows of the gradient: whole vectors of taps are turned."""
    return (job.patch_places * job.patch_lines * job.patch_width + LANES) * job.vectors * LANES


cdef void turn_place(
    const Job* job, const Unit* u, const char* g, Py_ssize_t place, Py_ssize_t lines, Py_ssize_t width, Scratch* s
) noexcept nogil:
    """The gradient of a place with the rows last, and where its taps are in the panel."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t channels = u.c1 - u.c0, line_step = 1 if line.spread else line.s
    cdef Py_ssize_t lane_step = 1 if lane.spread else lane.s, wide = ceil_div(width, LANES) * LANES
    cdef Py_ssize_t r, i, j, t = place * lines * width, block, pitch = job.vectors * LANES
    cdef real* to
    for i in range(lines):
        for j in range(width):
            s.weight[t] = (place * job.lines + line_step * i) * channels * job.columns + lane_step * j
            t += 1
    t -= lines * width
    for block in range(ceil_div(u.r1 - u.r0, LANES)):
        for i in range(lines):
            for r in range(min(<Py_ssize_t>LANES, u.r1 - u.r0 - block * LANES)):
                load(
                    &job.g_format, g + (u.r0 + block * LANES + r) * job.g_row + i * line.g, s.line + r * wide, width,
                    lane.g,
                )
            to = s.packed + block // job.vectors * turned_size(job) + block % job.vectors * LANES
            to += (t + i * width) * pitch
            for j in range(ceil_div(width, LANES)):  # the next line covers what is too much
                turn(s.line + j * LANES, wide, LANES, LANES, to + j * LANES * pitch, pitch)


cdef void add_turned(const Job* job, const Unit* u, Py_ssize_t taps, bint fresh, Scratch* s) noexcept nogil:
    """All products of a patch, to the sums: kernel positions are the tile's rows, rows its lanes."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t channels = u.c1 - u.c0, rows = u.r1 - u.r0, count = u.b1 - u.b0, pitch = job.vectors * LANES
    cdef Py_ssize_t a, c, t, t0, t1 = 0, j, at
    cdef const real* p
    cdef real* sums
    cdef int vectors
    while t1 < taps:
        t0 = t1
        t1 = min(taps, t0 + ceil_div(taps, ceil_div(taps, CHUNK)))
        for t in range(t0, t1):
            s.tap[t - t0] = s.packed + t * pitch
        for j in range(ceil_div(rows, pitch)):
            at = j * turned_size(job)
            vectors = tile_vectors(job.vectors, min(pitch, rows - j * pitch))
            sums = s.sums + j * pitch
            for c in range(channels):
                for a in range(u.a1 - u.a0):
                    p = s.panel + (line.d * a * channels + c) * job.columns
                    tile_apart(
                        count, vectors, t1 - t0, s.tap, at, p, s.weight + t0, lane.d,
                        NULL if fresh and t0 == 0 else sums, job.lanes, sums, job.lanes,
                    )
                    sums += count * job.lanes


cdef void add_patch(
    const Job* job, const Unit* u, const char* g, Py_ssize_t taps, bint fresh, Scratch* s
) noexcept nogil:
    """All products of a patch, to the sums."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t channels = u.c1 - u.c0, rows = u.r1 - u.r0, side_by_side = 1 if job.parts > 1 else u.b1 - u.b0
    cdef Py_ssize_t a, b, c, t, t0, t1 = 0, j, at, pitch
    cdef Py_ssize_t across = job.patch_places * job.patch_lines * job.patch_width
    cdef const real* gradient = s.packed
    cdef real* sums
    cdef int vectors
    if job.in_place:
        gradient, across = <const real*>(g + u.r0 * job.g_row), job.g_row // <Py_ssize_t>sizeof(real)
    while t1 < taps:
        t0 = t1
        t1 = min(taps, t0 + ceil_div(taps, ceil_div(taps, CHUNK)))
        for c in range(ceil_div(channels, job.strip)):
            pitch = min(job.strip, channels - c * job.strip)
            for t in range(t0, t1):
                s.tap[t - t0] = s.panel + c * job.area + s.sample[t] * pitch
            for a in range(u.a1 - u.a0):
                for b in range(u.b1 - u.b0 if job.parts > 1 else 1):
                    sums = s.sums + (a * job.parts + b) * job.row_block * job.lanes + c * job.strip * side_by_side
                    at = (line.d * a * job.columns + lane.d * b) * pitch
                    j = 0
                    while j < pitch * side_by_side:
                        vectors = tile_vectors(job.vectors, pitch * side_by_side - j)
                        tile_apart(
                            rows, vectors, t1 - t0, s.tap, at + j, gradient, s.weight + t0, across,
                            NULL if fresh and t0 == 0 else sums + j, job.lanes, sums + j, job.lanes,
                        )
                        j += vectors * LANES


cdef inline always_inline_void spread_gradient(const local_vec* g, real* to, Py_ssize_t point) noexcept nogil:
    """Points of 2 x 2 outputs: (1 0 | 1 1 | 1 -1 | 0 1) along each axis."""
    cdef local_vec a[8]
    cdef int i
    for i in range(2):
        a[i], a[2 + i], a[4 + i], a[6 + i] = g[i], g[i] + g[2 + i], g[i] - g[2 + i], g[2 + i]
    for i in range(4):
        (<vec*>to)[0] = a[2 * i]
        (<vec*>(to + point))[0] = a[2 * i] + a[2 * i + 1]
        (<vec*>(to + 2 * point))[0] = a[2 * i] - a[2 * i + 1]
        (<vec*>(to + 3 * point))[0] = a[2 * i + 1]
        to += 4 * point


cdef void transform_gradient(
    const Job* job, const Unit* u, const char* g, Py_ssize_t l0, Py_ssize_t l1, Py_ssize_t lines, Py_ssize_t width,
    Scratch* s,
) noexcept nogil:
    """The points of tile lines `l0` to `l1` of a patch, all rows."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t tall = ceil_div(lines, 2), tiles = ceil_div(width, 2), r, k, i, j
    cdef real* upper = s.line
    cdef real* lower = s.line + width + 2 * LANES
    cdef const char* p
    cdef real* to
    cdef local_vec a[4]
    for r in range(u.r1 - u.r0):
        for k in range(l0, l1):
            i = 2 * (k % tall)
            p = g + s.sample[k // tall] + (u.r0 + r) * job.g_row + i * line.g
            upper[width] = lower[width] = 0
            load(&job.g_format, p, upper, width, lane.g)
            if i + 1 < lines:
                load(&job.g_format, p + line.g, lower, width, lane.g)
            else:
                memset(lower, 0, width * sizeof(real))
            to = s.u + r * job.u_row + (k - l0) * tiles
            for j in range(ceil_div(tiles, LANES)):  # the next line covers what is too much
                vec_part(upper + 2 * j * LANES, a, a + 1)
                vec_part(lower + 2 * j * LANES, a + 2, a + 3)
                spread_gradient(a, to + j * LANES, job.u_point)


cdef inline always_inline_void spread_samples(
    const real* p, Py_ssize_t line, Py_ssize_t column, real* to, Py_ssize_t point
) noexcept nogil:
    """Points of the 4 x 4 samples under a tile: (1 0 -1 0 | 0 1 1 0 | 0 -1 1 0 | 0 1 0 -1) along each axis."""
    cdef local_vec a[16]
    cdef local_vec d[4]
    cdef int i, k
    for i in range(4):
        for k in range(4):
            d[k] = vec_load(p + k * line + i * column)
        a[i], a[4 + i], a[8 + i], a[12 + i] = d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]
    for i in range(4):
        (<vec*>to)[0] = a[4 * i] - a[4 * i + 2]
        (<vec*>(to + point))[0] = a[4 * i + 1] + a[4 * i + 2]
        (<vec*>(to + 2 * point))[0] = a[4 * i + 2] - a[4 * i + 1]
        (<vec*>(to + 3 * point))[0] = a[4 * i + 1] - a[4 * i + 3]
        to += 4 * point


cdef void transform_samples(
    const Job* job, const Unit* u, Py_ssize_t l0, Py_ssize_t l1, Py_ssize_t lines, Py_ssize_t width, Scratch* s
) noexcept nogil:
    """The points of tile lines `l0` to `l1` of a patch, all channels."""
    cdef Py_ssize_t channels = u.c1 - u.c0, tall = ceil_div(lines, 2), tiles = ceil_div(width, 2), c, k, j, v, pitch
    cdef const real* p
    cdef real* to
    for c in range(ceil_div(channels, job.strip)):
        pitch = min(job.strip, channels - c * job.strip)
        for k in range(l0, l1):
            p = s.panel + c * job.area + (k // tall * job.lines + 2 * (k % tall)) * job.columns * pitch
            to = s.v + c * job.v_strip + (k - l0) * tiles * job.v_tile
            for j in range(tiles):
                for v in range(ceil_div(pitch, LANES)):
                    spread_samples(
                        p + 2 * j * pitch + v * LANES, job.columns * pitch, pitch, to + j * job.v_tile + v * LANES,
                        job.v_point,
                    )


cdef void add_points(
    const Job* job, const Unit* u, const char* g, Py_ssize_t places, Py_ssize_t lines, Py_ssize_t width, bint fresh,
    Scratch* s,
) noexcept nogil:
    """All products of a patch, to the sums of points."""
    cdef Py_ssize_t channels = u.c1 - u.c0, rows = u.r1 - u.r0
    cdef Py_ssize_t tiles = ceil_div(width, 2), all = places * ceil_div(lines, 2), l0, l1 = 0, point, c, j
    cdef Py_ssize_t strips = ceil_div(channels, job.strip), across = ceil_div(job.channel_block, job.strip) * job.v_tile
    cdef Py_ssize_t together = max(1, MOST_TILES // tiles)
    cdef real* sums
    cdef int vectors
    while l1 < all:
        l0 = l1
        l1 = min(all, l0 + ceil_div(all, ceil_div(all, together)))
        transform_gradient(job, u, g, l0, l1, lines, width, s)
        transform_samples(job, u, l0, l1, lines, width, s)
        for point in range(POINTS):
            for c in range(strips):
                j = 0
                while j < min(job.strip, channels - c * job.strip):
                    vectors = tile_vectors(job.vectors, min(job.strip, channels - c * job.strip) - j)
                    sums = s.product + point * job.row_block * across + c * job.v_tile + j
                    tile_apart(
                        rows, vectors, (l1 - l0) * tiles, s.tap, point * job.v_point + c * job.v_strip + j,
                        s.u + point * job.u_point, s.weight, job.u_row,
                        NULL if fresh and l0 == 0 else sums, across, sums, across,
                    )
                    j += vectors * LANES


cdef inline always_inline_void join_points(
    const real* p, Py_ssize_t point, real* to, Py_ssize_t line, Py_ssize_t column
) noexcept nogil:
    """3 x 3 sums from those of their points: (1 1/2 1/2 0 | 0 1/2 -1/2 0 | 0 1/2 1/2 -1) along each axis."""
    cdef local_vec a[12]
    cdef local_vec m[4]
    cdef int i, k
    for i in range(4):
        for k in range(4):
            m[k] = vec_load(p + (4 * k + i) * point)
        a[i] = m[0] + <real>0.5 * (m[1] + m[2])
        a[4 + i] = <real>0.5 * (m[1] - m[2])
        a[8 + i] = <real>0.5 * (m[1] + m[2]) - m[3]
    for i in range(3):
        (<vec*>to)[0] = a[4 * i] + <real>0.5 * (a[4 * i + 1] + a[4 * i + 2])
        (<vec*>(to + column))[0] = <real>0.5 * (a[4 * i + 1] - a[4 * i + 2])
        (<vec*>(to + 2 * column))[0] = <real>0.5 * (a[4 * i + 1] + a[4 * i + 2]) - a[4 * i + 3]
        to += line


cdef void join(const Job* job, const Unit* u, Scratch* s) noexcept nogil:
    """The sums of points to sums, where `leave` finds them."""
    cdef Py_ssize_t channels = u.c1 - u.c0, across = ceil_div(job.channel_block, job.strip) * job.v_tile, r, c, v, pitch
    for r in range(u.r1 - u.r0):
        for c in range(ceil_div(channels, job.strip)):
            pitch = min(job.strip, channels - c * job.strip)
            for v in range(ceil_div(pitch, LANES)):
                join_points(
                    s.product + r * across + c * job.v_tile + v * LANES, job.row_block * across,
                    s.sums + r * job.lanes + 3 * c * job.strip + v * LANES, job.row_block * job.lanes, pitch,
                )


cdef inline const real* sums_of(
    const Job* job, const Unit* u, const Scratch* s, Py_ssize_t r, Py_ssize_t block, Py_ssize_t k
) noexcept nogil:
    """Those of kernel position `k` and a block of LANES channels of row `r`; turned: of rows."""
    cdef Py_ssize_t bs = u.b1 - u.b0, first = block * LANES // job.strip * job.strip
    cdef const real* sums = s.sums
    if job.turned:
        return sums + k * job.lanes + block * LANES
    sums += k // bs * job.parts * job.row_block * job.lanes + block * LANES
    if job.parts > 1:
        return sums + (k % bs * job.row_block + r) * job.lanes
    return sums + r * job.lanes + first * (bs - 1) + k % bs * min(job.strip, u.c1 - u.c0 - first)


cdef void leave_side_by_side(
    const Job* job, const Unit* u, Py_ssize_t r, Py_ssize_t taps, int type, char* to, Scratch* s
) noexcept nogil:
    """All few kernel positions of all channels of a row, where w has them one behind the other: one store a block."""
    cdef Py_ssize_t channels = u.c1 - u.c0, size = job.wsize, block, i, k, m, n
    cdef real* line = s.line + 2 * LANES * LANES
    if job.partial != NULL:
        size = sizeof(real)
    for block in range(ceil_div(channels, LANES)):
        n = min(<Py_ssize_t>LANES, channels - block * LANES)
        # Last positions first: what is written past them is a channel's first ones, which come later.
        k = (taps - 1) // LANES * LANES
        while k >= 0:
            m = min(<Py_ssize_t>LANES, taps - k)
            for i in range(m):
                copy_line(sums_of(job, u, s, r, block, k + i), s.line + i * LANES, LANES)
            turn(s.line, LANES, m, n, line + k, taps)
            k -= LANES
        for i in range(n * taps if job.turn > 0 else 0):
            line[i] += (<real*>to)[i]
        store(type, line, to, n * taps, size)
        to += n * taps * size


cdef void leave(const Job* job, const Unit* u, Scratch* s) noexcept nogil:
    """Finished sums to w, or to the slice's own."""
    cdef const Axis* line = &job.axis[job.naxes - 2]
    cdef const Axis* lane = &job.axis[job.naxes - 1]
    cdef Py_ssize_t channels = u.c1 - u.c0, bs = u.b1 - u.b0, taps = (u.a1 - u.a0) * bs
    cdef Py_ssize_t size = sizeof(real), step_b = lane.w, step_a = line.w, step_c = job.w_channel, step_r = job.w_row
    cdef Py_ssize_t r, c, k, n, m, i, rest, block, run
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
        if not job.turned and run == taps <= MOST_RUN and step_c == taps * step_b and step_b == (
            job.wsize if job.partial == NULL else size
        ):
            leave_side_by_side(job, u, r, taps, type, w + r * step_r, s)
            continue
        for block in range(ceil_div(u.r1 - u.r0 if job.turned else channels, LANES)):
            n = min(<Py_ssize_t>LANES, (u.r1 - u.r0 if job.turned else channels) - block * LANES)
            row = w + r * step_r + block * LANES * (step_r if job.turned else step_c)
            k = 0
            while k < taps * (channels if job.turned else 1):
                m = min(<Py_ssize_t>LANES, run - k % run)
                for i in range(m):
                    copy_line(sums_of(job, u, s, r, block, k + i), s.line + i * LANES, LANES)
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
    cdef Py_ssize_t rest, kernel, line0, lane0, lines, width, at, from_g, segments, place0, places, p
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
        place0 = rest // job.line_patches * job.patch_places
        places = min(job.patch_places, job.places - place0)
        g = job.g + u.group * job.g_group + line0 * line.g + lane0 * lane.g
        for p in range(places):
            x = job.x + u.group * job.x_group
            rest, kernel, from_g = place0 + p, u.kernel, 0
            for i in range(job.naxes - 3, -1, -1):
                axis = &job.axis[i]
                from_g += rest % axis.m * axis.g
                if x != NULL:
                    at = extend(axis.s * (rest % axis.m) + axis.d * (kernel % axis.k) - axis.lo, axis.n, axis.rule)
                    x = x + at * axis.x if at >= 0 else <const char*>NULL
                rest //= axis.m
                kernel //= axis.k
            from_g += rest * job.g_batch
            if x != NULL:
                x += rest * job.x_batch
            if job.by_points:
                gather_place(job, &u, x, p, line0, lines + lines % 2, lane0, width + width % 2, s)
                s.sample[p] = from_g
                continue
            gather_place(job, &u, x, p, line0, lines, lane0, width, s)
            if job.turned:
                turn_place(job, &u, g + from_g, p, lines, width, s)
            else:
                load_place(job, &u, g, from_g, p, lines, width, s)
        if job.by_points:
            add_points(job, &u, g, places, lines, width, patch == first, s)
        elif job.turned:
            add_turned(job, &u, places * lines * width, patch == first, s)
        else:
            add_patch(job, &u, g, places * lines * width, patch == first, s)
    if job.by_points:
        join(job, &u, s)
    leave(job, &u, s)


cdef void* scratch_new(const void* given) noexcept nogil:
    """One block for one thread; NULL when memory is short."""
    cdef const Job* job = <const Job*>given
    cdef Py_ssize_t head = (sizeof(Scratch) + 63) // 64 * 64
    cdef Py_ssize_t sums = job.a_block * (job.b_block * job.channel_block if job.turned else job.parts * job.row_block)
    cdef Py_ssize_t taps = job.patch_places * job.patch_lines * job.patch_width, packed = 0
    # Lanes past the last are read, and turned.
    cdef Py_ssize_t panel = ceil_div(job.channel_block, job.strip) * job.area + WIDTH
    cdef Py_ssize_t line = LANES * max(<Py_ssize_t>(3 * LANES + MOST_RUN), max(job.columns, job.patch_width) + LANES)
    line = max(line, <Py_ssize_t>(LANES * MOST_GATHERED))
    cdef Py_ssize_t tables = (CHUNK + 2 * taps) * <Py_ssize_t>sizeof(Py_ssize_t)
    if job.turned:
        packed = job.lanes // (job.vectors * LANES) * turned_size(job)
    elif not job.in_place and not job.by_points:
        packed = job.row_block * taps
    sums *= job.lanes
    cdef Py_ssize_t points = 0, i
    if job.by_points:
        line = max(line, 2 * (job.patch_width + 4 * LANES))
        points = job.row_block * ceil_div(job.channel_block, job.strip) * job.v_tile + job.u_point + job.v_point
    cdef Py_ssize_t reals = sums + LANES + panel + packed + line + POINTS * points
    cdef void* block = take_block(64 + head + reals * sizeof(real) + tables)
    if block == NULL:
        return NULL
    cdef char* p = <char*>((<size_t>block + 63) // 64 * 64)
    cdef Scratch* s = <Scratch*>p
    s.block = block
    s.tap = <const real**>(p + head)
    s.weight = <Py_ssize_t*>(s.tap + CHUNK)
    s.sample = s.weight + taps
    s.sums = <real*>(s.sample + taps)
    s.panel = s.sums + sums + LANES
    s.packed = s.panel + panel
    s.line = s.packed + packed
    if job.by_points:
        s.u = s.line + line
        s.v = s.u + POINTS * job.u_point
        s.product = s.v + POINTS * job.v_point
        for i in range(min(taps, MOST_TILES)):
            s.tap[i], s.weight[i] = s.v + i * job.v_tile, i
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
    cdef Py_ssize_t i, room, groups, step, taps
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
    if job.by_points:
        job.channel_block = min(job.channels, POINT_CHANNELS)
    if lane.d > 1 and job.b_block > 1:
        job.b_block = min(lane.k, 8)
        job.parts = job.b_block
        job.channel_block = min(job.channels, WIDTH)
    # Whole tiles, where there are so many channels.
    i = job.channel_block * (1 if job.parts > 1 else job.b_block)
    if job.channel_block < job.channels and i > WIDTH and job.parts == 1 and not job.by_points:
        while job.channel_block > 1 and job.channel_block * job.b_block % WIDTH:
            job.channel_block -= 1
        if job.channel_block * job.b_block < WIDTH:
            job.channel_block = i // job.b_block
    job.width = job.channel_block * (1 if job.parts > 1 else job.b_block)
    job.turned = 4 * job.width <= 3 * LANES * ceil_div(job.width, LANES) and job.rows > job.width
    job.turned = job.turned and not job.by_points
    job.vectors, step = VECTORS, MAX_ROWS
    # Taps as far apart as all channels would fall on few sets of the L1 cache.
    job.strip = WIDTH if job.channel_block >= 2 * WIDTH and not job.turned else job.channel_block
    if job.turned:
        job.parts = 1
        job.b_block = 1 if lane.spread else min(lane.k, MOST_LANES // LANES)
        job.width = job.channel_block * job.b_block
        job.vectors = 8 if job.b_block == 1 else 4
        step = job.vectors * LANES
        job.lanes = ceil_div(min(job.rows, MOST_LANES), step) * step
        room = SUMS_BYTES // (job.width * job.lanes * <Py_ssize_t>sizeof(real))
        groups = job.lanes // step  # of rows
    else:
        job.lanes = ceil_div(job.width, WIDTH) * WIDTH
        room = SUMS_BYTES // (MAX_ROWS * job.parts * job.lanes * <Py_ssize_t>sizeof(real))
        groups = max(1, min(room // max(1, min(line.k, room)), ceil_div(MOST_ROWS, MAX_ROWS)))
    if job.by_points:
        job.lanes += WIDTH  # whole vectors of channels are written for each kernel position
        room, groups = line.k, ceil_div(POINT_ROWS, MAX_ROWS)
    job.a_block = 1 if line.spread else max(1, min(line.k, room))
    # Of the panel of a patch, what the kernel reaches past its outputs is gathered once more for the next one.
    job.lines = extent(line, 1, job.a_block)
    job.patch_width = ceil_div(lane.m, ceil_div(lane.m, 2 * MOST_TILES if job.by_points else 2 * CHUNK))
    if job.by_points:
        job.patch_width += job.patch_width % 2
    job.columns = extent(lane, job.patch_width, job.b_block)
    room = PANEL_BYTES // (job.columns * job.channel_block * <Py_ssize_t>sizeof(real)) - job.lines
    job.patch_lines = max(CHUNK // job.patch_width, 1 + room // (1 if line.spread else line.s))
    job.patch_lines = max(1, min(job.patch_lines, line.m, MOST_TAPS // job.patch_width))
    job.patch_lines = ceil_div(line.m, ceil_div(line.m, job.patch_lines))
    if job.by_points:
        job.patch_lines += job.patch_lines % 2
    job.lines = extent(line, job.patch_lines, job.a_block)
    job.line_patches = ceil_div(line.m, job.patch_lines)
    job.patch_places = 1
    if job.patch_lines >= line.m and job.patch_width >= lane.m:
        room = PANEL_BYTES // (job.lines * job.columns * job.channel_block * <Py_ssize_t>sizeof(real))
        job.patch_places = max(1, min(room, job.places, MOST_TAPS // (job.patch_lines * job.patch_width)))
        job.patch_places = ceil_div(job.places, ceil_div(job.places, job.patch_places))
    job.area = job.patch_places * job.lines * job.columns * job.strip + LANES * (job.strip + LANES)
    job.patches = ceil_div(job.places, job.patch_places) * job.line_patches * ceil_div(lane.m, job.patch_width)
    taps = job.patches * job.patch_places * job.patch_lines * job.patch_width  # or a few more
    i = job.groups * job.rows * job.channels * job.kernels * line.k * lane.k * <Py_ssize_t>sizeof(real)
    i = min(max(1, PARTIAL_BYTES // i), max(1, taps // SLICE))
    job.rounds = ceil_div(taps, i * MOST_SLICE)
    job.slice = ceil_div(job.patches, i * job.rounds)
    job.rounds = ceil_div(job.patches, i * job.slice)
    job.slices = min(i, ceil_div(job.patches, job.slice))
    job.channel_blocks = ceil_div(job.channels, job.channel_block)
    job.b_blocks = ceil_div(lane.k, job.b_block)
    job.a_blocks = ceil_div(line.k, job.a_block)
    i = job.slices * job.groups * job.kernels * job.a_blocks * job.b_blocks * job.channel_blocks
    # Each block of rows gathers X anew, by points transforms it too: as few as keep the threads busy.
    while groups > 1 and uneven(i * ceil_div(ceil_div(job.rows, step), groups), threads):
        groups -= 1
    job.row_block = min(job.rows, groups * step)
    job.row_block = ceil_div(job.rows, ceil_div(job.rows, job.row_block))
    job.row_blocks = ceil_div(job.rows, job.row_block)
    if job.by_points:  # points on different sets of the cache
        job.u_row = MOST_TILES + LANES
        job.u_point = job.row_block * job.u_row + LINE // <Py_ssize_t>sizeof(real)
        job.v_tile = ceil_div(job.strip, LANES) * LANES
        job.v_strip = MOST_TILES * job.v_tile
        job.v_point = ceil_div(job.channel_block, job.strip) * job.v_strip + LINE // <Py_ssize_t>sizeof(real)
    job.units = i * job.row_blocks


cdef class Weights:
    """One Contraction of result "w", laid out for this build."""

    cdef Job job
    cdef int rank, more
    cdef bint flip

    def __cinit__(self, form, rules, fill):
        cdef Job* job = &self.job
        cdef Axis* axis
        cdef int i
        self.rank, self.flip = form.rank, form.flip
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
        cdef Py_ssize_t size = 1
        cdef int i
        lay_out(job, threads)
        job.partial = NULL
        if job.slices > 1 or job.rounds > 1:
            for i in range(job.naxes):
                size *= job.axis[i].k
            size *= job.groups * job.rows * job.channels * job.slices
            job.partial = <real*>malloc(size * sizeof(real))
            if job.partial == NULL:
                raise MemoryError()
        try:
            for job.turn in range(job.rounds):
                run_units(job, job.units, 1, threads, scratch_new, run_unit)
            if job.partial != NULL:
                with nogil:
                    add_slices(job)
        finally:
            free(job.partial)
        return 0


cdef class WinogradWeights(Weights):
    """The same for kernels that end in 3 x 3 at stride 1, by points."""

    def __cinit__(self, *_):
        self.job.by_points = True

    def run(
        self, cnp.ndarray g not None, cnp.ndarray x not None, cnp.ndarray w not None, bias, bint watched, int threads
    ):
        """`w`, if that is `watched` and not all finite."""
        Weights.run(self, g, x, w, bias, threads)
        return w if watched and not np.isfinite(w).all() else None
