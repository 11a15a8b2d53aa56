"""The multiply loop every method ends in.

    acc[r][lane] = sum over t of  w[t][r] * tap[t][lane]         dst[r] = src[r] + acc[r]

`rows` outputs share each load of x; `tap` says where each tap starts; the sums stay in registers until the end. It
knows nothing of shapes: what rows, taps and lanes are is the caller's business.
"""

cdef extern from "simd.h":
    ctypedef double real  # float, double, int32_t or int64_t: see setup.py
    ctypedef double vec
    ctypedef double local_vec
    ctypedef void always_inline_void
    ctypedef void eager_void
    enum: LANES
    enum: MAX_ROWS
    enum: MAX_ACC
    enum: SWEEP_ROWS
    enum: PAIR_ROWS
    enum: SWEEP_VECTORS
    vec vec_zero() noexcept nogil
    vec vec_load(const real* p) noexcept nogil
    const real* address_now(const real* p) noexcept nogil
    local_vec vec_now(local_vec x) noexcept nogil
    void wait_in_memory(local_vec* p) noexcept nogil
    void vec_stream(real* p, local_vec x) noexcept nogil
    void stream_fence() noexcept nogil
    local_vec vec_lower(local_vec a, local_vec b) noexcept nogil
    local_vec vec_upper(local_vec a, local_vec b) noexcept nogil
    void vec_part(const real* p, local_vec* even, local_vec* odd) noexcept nogil

cdef enum:
    PF1 = 16
    PF2 = 24
    MAX_OWN = 9    # vectors of `tile_own`: 3 x 3 kernel positions
    WIDE_OWN = 14  # or these, side by side: pictures in networks are 7 times a power of two wide
    MOST_ACC = 24  # of any build, WIDE_OWN among them
    PLACED = 1     # vectors of `tile_own` lie anywhere
    BESIDE = 2     # or side by side


cdef enum:
    # Products a layer's kernel sums one by one before it adds them to what there is. A tile takes as long as three more
    # taps to begin and end, and its lanes of a chunk have to stay in the L1 cache beside the weights: 90 GFLOP/s with
    # 27, 98 with 64, 95 with 128, 82 with 256, of 99.9 (4 x 3 vectors, Zen 3). Sums of more would be less exact, too.
    CHUNK = 128


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    """For a >= 0."""
    return (a + b - 1) // b


cdef inline always_inline_void _step(
    const bint apart, const int own, const bint fresh, const int rows, const int vectors, Py_ssize_t taps,
    const real* const* tap, Py_ssize_t at, const real* w, const Py_ssize_t* place, Py_ssize_t step, local_vec* acc,
) noexcept nogil:
    # The multiply loop, adding to `acc`, or to zero. Inlined with constant `rows` and `vectors`, so that the loops over
    # them unroll and all sums live in registers. gcc does that early enough only for loops inside another one. Weights
    # run outside: one at a time is live, where vectors outside would keep all of them. With fewer rows than vectors
    # it is the other way round: 3 x 4 sums in 16 registers reach 96 instead of 43 GFLOP/s, of 98.
    cdef vec x[8]
    cdef const real* p
    cdef const real* q = w
    cdef Py_ssize_t t
    cdef int i, r, v
    if fresh:
        for i in range(rows * vectors):
            acc[i] = vec_zero()
    for t in range(taps):
        p = address_now(tap[t] + at)
        if apart:
            q = w + place[t]
        if own:
            x[0] = vec_load(q)
            for v in range(vectors):
                acc[v] += x[0] * (<const vec*>(p + (v * LANES if own == BESIDE else place[v])))[0]
        elif rows == 1:  # nothing to share: each load is used and gone
            for v in range(vectors):
                acc[v] += q[0] * vec_load(p + v * LANES)
        elif rows < vectors:
            for v in range(vectors):
                x[0] = vec_load(p + v * LANES)
                for r in range(rows):
                    acc[r * vectors + v] += q[r * step if apart else r] * x[0]
        else:
            for v in range(vectors):
                x[v] = vec_load(p + v * LANES)
            for r in range(rows):
                for v in range(vectors):
                    acc[r * vectors + v] += q[r * step if apart else r] * x[v]
        if not apart:
            q += LANES if own else step


cdef inline always_inline_void _clear(const int count, local_vec* total) noexcept nogil:
    cdef int i
    for i in range(count):
        total[i] = vec_zero()


cdef inline always_inline_void _tile(
    const bint apart, const int own, const int rows, const int vectors, Py_ssize_t panels, Py_ssize_t taps,
    const real* const* tap, Py_ssize_t at, const real* w, const Py_ssize_t* place, Py_ssize_t step, bint carry,
    const real* const* src, real* const* dst, Py_ssize_t across, Py_ssize_t src_step, Py_ssize_t dst_step,
) noexcept nogil:
    # `across`: reals from one vector of sums to the next. The loop over panels has a second use: what is in a loop gcc
    # unrolls early enough to keep the sums in registers to the end.
    cdef local_vec acc[MOST_ACC]
    cdef Py_ssize_t _panel, shift = 0, src_shift = 0
    cdef real* p
    cdef int r, v
    for _panel in range(panels):
        if carry and not (apart or own):
            _clear(rows * vectors, acc)
            _add(False, rows, vectors, src, shift, across, 0, acc)
            _step(False, False, False, rows, vectors, taps, tap, at, w, NULL, step, acc)
        else:
            _step(apart, own, True, rows, vectors, taps, tap, at, w, place, step, acc)
            _add(apart, rows, vectors, src, src_shift if apart else shift, across, src_step, acc)
        for r in range(rows):
            p = dst[0] + r * dst_step if apart else dst[r]
            for v in range(vectors):
                (<vec*>(p + shift + v * across))[0] = acc[r * vectors + v]
        if apart:
            w += rows * step
            shift += rows * dst_step
            src_shift += rows * src_step
        else:
            at += step if own else vectors * LANES
            shift += vectors * across


cdef inline always_inline_void _add(
    const bint apart, const int rows, const int vectors, const real* const* src, Py_ssize_t shift, Py_ssize_t across,
    Py_ssize_t step, local_vec* acc,
) noexcept nogil:
    cdef int r, v
    for r in range(rows):
        for v in range(vectors if src[0 if apart else r] != NULL else 0):
            acc[r * vectors + v] += (<const vec*>((src[0] + r * step if apart else src[r]) + shift + v * across))[0]


cdef inline always_inline_void _tile_of(
    const bint apart, const int vectors, int rows, Py_ssize_t panels, Py_ssize_t taps, const real* const* tap,
    Py_ssize_t at, const real* w, const Py_ssize_t* place, Py_ssize_t step, bint carry, const real* const* src,
    real* const* dst, Py_ssize_t src_step, Py_ssize_t dst_step,
) noexcept nogil:
    if rows == 1:
        _tile(
            apart, False, 1, vectors, panels, taps, tap, at, w, place, step, carry, src, dst, LANES, src_step, dst_step
        )
    elif 2 * vectors <= MAX_ACC and rows == 2:
        _tile(
            apart, False, 2, vectors, panels, taps, tap, at, w, place, step, carry, src, dst, LANES, src_step, dst_step
        )
    elif 3 * vectors <= MAX_ACC and rows == 3:
        _tile(
            apart, False, 3, vectors, panels, taps, tap, at, w, place, step, carry, src, dst, LANES, src_step, dst_step
        )
    elif 4 * vectors <= MAX_ACC and rows == 4:
        _tile(
            apart, False, 4, vectors, panels, taps, tap, at, w, place, step, carry, src, dst, LANES, src_step, dst_step
        )
    elif 5 * vectors <= MAX_ACC and rows == 5:
        _tile(
            apart, False, 5, vectors, panels, taps, tap, at, w, place, step, carry, src, dst, LANES, src_step, dst_step
        )
    elif 6 * vectors <= MAX_ACC and MAX_ROWS >= 6:
        _tile(
            apart, False, 6, vectors, panels, taps, tap, at, w, place, step, carry, src, dst, LANES, src_step, dst_step
        )


cdef inline always_inline_void _any_tile(
    const bint apart, int rows, int vectors, Py_ssize_t panels, Py_ssize_t taps, const real* const* tap, Py_ssize_t at,
    const real* w, const Py_ssize_t* place, Py_ssize_t step, bint carry, const real* const* src, real* const* dst,
    Py_ssize_t src_step, Py_ssize_t dst_step,
) noexcept nogil:
    if vectors == 8:
        _tile_of(apart, 8, rows, panels, taps, tap, at, w, place, step, carry, src, dst, src_step, dst_step)
    elif vectors == 4:
        _tile_of(apart, 4, rows, panels, taps, tap, at, w, place, step, carry, src, dst, src_step, dst_step)
    elif vectors == 3:
        _tile_of(apart, 3, rows, panels, taps, tap, at, w, place, step, carry, src, dst, src_step, dst_step)
    elif vectors == 2:
        _tile_of(apart, 2, rows, panels, taps, tap, at, w, place, step, carry, src, dst, src_step, dst_step)
    else:
        _tile_of(apart, 1, rows, panels, taps, tap, at, w, place, step, carry, src, dst, src_step, dst_step)


cdef inline void tile(
    int rows, int vectors, Py_ssize_t panels, Py_ssize_t taps, const real* const* tap, Py_ssize_t at, const real* w,
    const real* const* src, real* const* dst, Py_ssize_t step, bint carry,
) noexcept nogil:
    """`panels` blocks of `rows` x `vectors`, side by side: lanes `at`, `at + vectors * LANES`, ... of each tap.

    rows <= MAX_ROWS, vectors 1, 2, 3, 4 or 8, rows * vectors <= MAX_ACC; the weights of a tap lie side by side, `step`
    reals from one tap's to the next. Where `src` is NULL the sum starts from zero. With `carry` products are added to
    `src` one by one, not their sum.
    """
    _any_tile(False, rows, vectors, panels, taps, tap, at, w, NULL, step, carry, src, dst, 0, 0)


cdef inline void tile_apart(
    Py_ssize_t rows, int vectors, Py_ssize_t taps, const real* const* tap, Py_ssize_t at, const real* w,
    const Py_ssize_t* place, Py_ssize_t across, const real* src, Py_ssize_t src_step, real* dst, Py_ssize_t dst_step,
) noexcept nogil:
    """Any number of rows, shared out evenly, their weights wherever they are: ``w[place[t] + r * across]``.

    Row r of the sums goes to ``dst[r * dst_step]`` on, and starts from ``src[r * src_step]`` or, if NULL, from zero.
    """
    cdef Py_ssize_t blocks = ceil_div(rows, most_rows(vectors))
    cdef int n = <int>ceil_div(rows, blocks)
    cdef Py_ssize_t full = blocks - (n * blocks - rows)  # blocks of n rows; the others have one less
    _any_tile(True, n, vectors, full, taps, tap, at, w, place, across, False, &src, &dst, src_step, dst_step)
    if full < blocks:
        w += n * full * across
        dst += n * full * dst_step
        if src != NULL:
            src += n * full * src_step
        _any_tile(
            True, n - 1, vectors, blocks - full, taps, tap, at, w, place, across, False, &src, &dst, src_step, dst_step
        )


cdef inline always_inline_void _any_own(
    const int own, int vectors, Py_ssize_t panels, Py_ssize_t taps, const real* const* tap, Py_ssize_t at,
    const real* w, const Py_ssize_t* place, Py_ssize_t step, const real* src, real* dst, Py_ssize_t across,
) noexcept nogil:
    if vectors == 1:
        _tile(False, own, 1, 1, panels, taps, tap, at, w, place, step, False, &src, &dst, across, 0, 0)
    elif vectors == 2:
        _tile(False, own, 1, 2, panels, taps, tap, at, w, place, step, False, &src, &dst, across, 0, 0)
    elif vectors == 3:
        _tile(False, own, 1, 3, panels, taps, tap, at, w, place, step, False, &src, &dst, across, 0, 0)
    elif vectors == 4:
        _tile(False, own, 1, 4, panels, taps, tap, at, w, place, step, False, &src, &dst, across, 0, 0)
    elif vectors == 5:
        _tile(False, own, 1, 5, panels, taps, tap, at, w, place, step, False, &src, &dst, across, 0, 0)
    elif vectors == 6:
        _tile(False, own, 1, 6, panels, taps, tap, at, w, place, step, False, &src, &dst, across, 0, 0)
    elif vectors == 7:
        _tile(False, own, 1, 7, panels, taps, tap, at, w, place, step, False, &src, &dst, across, 0, 0)
    elif vectors == 8:
        _tile(False, own, 1, 8, panels, taps, tap, at, w, place, step, False, &src, &dst, across, 0, 0)
    elif own == PLACED or vectors == 9:
        _tile(False, own, 1, 9, panels, taps, tap, at, w, place, step, False, &src, &dst, across, 0, 0)
    else:
        _tile(False, BESIDE, 1, WIDE_OWN, panels, taps, tap, at, w, NULL, step, False, &src, &dst, across, 0, 0)


cdef inline void tile_own(
    int vectors, Py_ssize_t panels, Py_ssize_t taps, const real* const* tap, Py_ssize_t at, const real* w,
    const Py_ssize_t* place, Py_ssize_t step, const real* src, real* dst, Py_ssize_t across,
) noexcept nogil:
    """`panels` rows of up to MAX_OWN vectors, each lane with its own weights: those of tap t are ``w[t * LANES]`` on.

    Vector v of a tap is ``place[v]`` reals from where its lanes start, that of the next row `step` reals further on.
    Without places they lie side by side, and may be WIDE_OWN. Those of `src`, which may be NULL, and `dst` are `across`
    reals apart.
    """
    if place == NULL:
        _any_own(BESIDE, vectors, panels, taps, tap, at, w, NULL, step, src, dst, across)
    else:
        _any_own(PLACED, vectors, panels, taps, tap, at, w, place, step, src, dst, across)


cdef inline always_inline_void _stack_line(
    const int first, const int last, const int vectors, Py_ssize_t line, Py_ssize_t begin, Py_ssize_t end,
    Py_ssize_t reach, Py_ssize_t taps, const real* const* tap, Py_ssize_t at, Py_ssize_t pitch, const real* w,
    local_vec* acc,
) noexcept nogil:
    # A line of samples meets output lines `first` to `last` of the stack, the first of them with w[0].
    if first < last and begin <= line < end:
        _step(
            False, False, False, last - first, vectors, taps, tap, at + line * pitch, w, NULL, reach,
            acc + first * vectors,
        )


cdef inline always_inline_void _stack(
    const int rows, const int vectors, Py_ssize_t stacks, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t reach,
    Py_ssize_t taps, const real* const* tap, Py_ssize_t at, Py_ssize_t pitch, Py_ssize_t down, const real* w, real bias,
    real* dst, Py_ssize_t across,
) noexcept nogil:
    cdef local_vec acc[MAX_ACC]
    cdef local_vec added = vec_zero() + bias
    cdef const real* v0 = w + reach
    cdef Py_ssize_t _stacks, a, n = reach - 1
    cdef int r, v
    for _stacks in range(stacks):
        _clear(rows * vectors, acc)
        _stack_line(0, 1 if rows > 1 else 0, vectors, 0, begin, end, reach, taps, tap, at, pitch, v0 - 1, acc)
        _stack_line(0, 2 if rows > 2 else 0, vectors, 1, begin, end, reach, taps, tap, at, pitch, v0 - 2, acc)
        _stack_line(0, 3 if rows > 3 else 0, vectors, 2, begin, end, reach, taps, tap, at, pitch, v0 - 3, acc)
        _stack_line(0, 4 if rows > 4 else 0, vectors, 3, begin, end, reach, taps, tap, at, pitch, v0 - 4, acc)
        _stack_line(0, 5 if rows > 5 else 0, vectors, 4, begin, end, reach, taps, tap, at, pitch, v0 - 5, acc)
        for a in range(max(<Py_ssize_t>(rows - 1), begin), min(reach, end)):
            _step(False, False, False, rows, vectors, taps, tap, at + a * pitch, v0 - 1 - a, NULL, reach, acc)
        _stack_line(1, rows, vectors, n + 1, begin, end, reach, taps, tap, at, pitch, w, acc)
        _stack_line(2, rows, vectors, n + 2, begin, end, reach, taps, tap, at, pitch, w, acc)
        _stack_line(3, rows, vectors, n + 3, begin, end, reach, taps, tap, at, pitch, w, acc)
        _stack_line(4, rows, vectors, n + 4, begin, end, reach, taps, tap, at, pitch, w, acc)
        _stack_line(5, rows, vectors, n + 5, begin, end, reach, taps, tap, at, pitch, w, acc)
        for r in range(rows):
            for v in range(vectors):
                (<vec*>(dst + r * across + v * LANES))[0] = acc[r * vectors + v] + added
        at += rows * down
        dst += rows * across


cdef inline int stack_vectors(bint alone) noexcept nogil:
    """Of the widest `stack`: one line, which is `alone`, has to have sums for both units that multiply and add."""
    return 8 if alone else 4


cdef inline int stack_rows(int vectors) noexcept nogil:
    """Of the highest `stack` of so many vectors, with 16 registers."""
    return 6 if vectors < 3 else 12 // vectors


cdef inline always_inline_void _any_stack(
    const int vectors, int rows, Py_ssize_t stacks, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t reach, Py_ssize_t taps,
    const real* const* tap, Py_ssize_t at, Py_ssize_t pitch, Py_ssize_t down, const real* w, real bias, real* dst,
    Py_ssize_t across,
) noexcept nogil:
    if vectors > 4 or rows == 1:
        _stack(1, vectors, stacks, begin, end, reach, taps, tap, at, pitch, down, w, bias, dst, across)
    elif rows == 2:
        _stack(2, vectors, stacks, begin, end, reach, taps, tap, at, pitch, down, w, bias, dst, across)
    elif rows == 3:
        _stack(3, vectors, stacks, begin, end, reach, taps, tap, at, pitch, down, w, bias, dst, across)
    elif vectors < 4 and rows == 4:
        _stack(4, vectors, stacks, begin, end, reach, taps, tap, at, pitch, down, w, bias, dst, across)
    elif vectors < 3 and rows == 5:
        _stack(5, vectors, stacks, begin, end, reach, taps, tap, at, pitch, down, w, bias, dst, across)
    elif vectors < 3:
        _stack(6, vectors, stacks, begin, end, reach, taps, tap, at, pitch, down, w, bias, dst, across)


cdef inline void stack(
    int rows, int vectors, Py_ssize_t stacks, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t reach, Py_ssize_t taps,
    const real* const* tap, Py_ssize_t at, Py_ssize_t pitch, Py_ssize_t down, const real* w, real bias, real* dst,
    Py_ssize_t across,
) noexcept nogil:
    """`stacks` times `rows` output lines, one below the other, of `vectors`: all their products, added in registers.

    The lines of a stack meet rows + reach - 1 lines of samples, `pitch` apart; those of its first tap start at
    ``tap[0] + at``, and `down` further on for the next output line: pitch = down if there are more rows than one. Only
    lines of samples `begin` to `end` count. rows <= reach, rows <= stack_rows(vectors). ``w`` has the weights,
    [tap][line], last line first. `bias` is added last.
    """
    if vectors == 8:
        _any_stack(8, rows, stacks, begin, end, reach, taps, tap, at, pitch, down, w, bias, dst, across)
    elif vectors == 7:
        _any_stack(7, rows, stacks, begin, end, reach, taps, tap, at, pitch, down, w, bias, dst, across)
    elif vectors == 6:
        _any_stack(6, rows, stacks, begin, end, reach, taps, tap, at, pitch, down, w, bias, dst, across)
    elif vectors == 5:
        _any_stack(5, rows, stacks, begin, end, reach, taps, tap, at, pitch, down, w, bias, dst, across)
    elif vectors == 4:
        _any_stack(4, rows, stacks, begin, end, reach, taps, tap, at, pitch, down, w, bias, dst, across)
    elif vectors == 3:
        _any_stack(3, rows, stacks, begin, end, reach, taps, tap, at, pitch, down, w, bias, dst, across)
    elif vectors == 2:
        _any_stack(2, rows, stacks, begin, end, reach, taps, tap, at, pitch, down, w, bias, dst, across)
    else:
        _any_stack(1, rows, stacks, begin, end, reach, taps, tap, at, pitch, down, w, bias, dst, across)


cdef inline always_inline_void _sweep_row(
    const bint chained, const bint spill, const int first, const int last, const int vectors, Py_ssize_t taps,
    Py_ssize_t chain, const real* const* tap, Py_ssize_t at, const real* w, Py_ssize_t step, local_vec* total,
) noexcept nogil:
    # One input row: its partial sums, in chains, go to rows `first` to `last` of the block.
    cdef local_vec acc[MAX_ACC]
    cdef int i
    while chained and taps > chain:
        _step(False, False, True, last - first, vectors, chain, tap, at, w, NULL, step, acc)
        for i in range((last - first) * vectors):
            total[first * vectors + i] += acc[i]
        tap += chain
        w += chain * step
        taps -= chain
    _step(False, False, True, last - first, vectors, taps, tap, at, w, NULL, step, acc)
    for i in range((last - first) * vectors):
        total[first * vectors + i] = vec_now(total[first * vectors + i] + acc[i])
    if spill:
        wait_in_memory(total)


cdef inline always_inline_void _short_row(
    const int s, const int reach, const int vectors, Py_ssize_t taps, const real* const* tap, Py_ssize_t at,
    const real* w, local_vec* total,
) noexcept nogil:
    # Input row s meets output rows s - reach + 1 to s, each with kernel row s - r: rows run against kernel rows.
    if s < SWEEP_ROWS + reach - 1:
        _sweep_row(
            False, False, max(0, s - reach + 1), min(SWEEP_ROWS, s + 1), vectors, taps, taps, tap + s * taps, at,
            w + (reach - 1 - s if s < reach else 0), reach, total,
        )


cdef inline always_inline_void _short_sweep(
    const int reach, const int vectors, Py_ssize_t panels, Py_ssize_t taps, const real* const* tap, Py_ssize_t at,
    const real* w, real* const* dst, bint stream,
) noexcept nogil:
    # Fewer kernel rows than rows in the block: every input row is a case of its own.
    cdef local_vec total[SWEEP_ROWS * SWEEP_VECTORS]
    cdef Py_ssize_t _panel, shift = 0
    for _panel in range(panels):
        _clear(SWEEP_ROWS * vectors, total)
        _short_row(0, reach, vectors, taps, tap, at, w, total)
        _short_row(1, reach, vectors, taps, tap, at, w, total)
        _short_row(2, reach, vectors, taps, tap, at, w, total)
        _short_row(3, reach, vectors, taps, tap, at, w, total)
        _short_row(4, reach, vectors, taps, tap, at, w, total)
        _short_row(5, reach, vectors, taps, tap, at, w, total)
        _short_row(6, reach, vectors, taps, tap, at, w, total)
        _short_row(7, reach, vectors, taps, tap, at, w, total)
        _short_row(8, reach, vectors, taps, tap, at, w, total)
        _short_row(9, reach, vectors, taps, tap, at, w, total)
        _short_row(10, reach, vectors, taps, tap, at, w, total)
        _short_row(11, reach, vectors, taps, tap, at, w, total)
        _leave(SWEEP_ROWS, vectors, total, dst, shift, stream)
        at += vectors * LANES
        shift += vectors * LANES


cdef inline always_inline_void _row_of_three(
    const int s, const int vectors, const real* const* tap, Py_ssize_t at, const local_vec* w, local_vec* total
) noexcept nogil:
    cdef vec x[8]
    cdef const real* p
    cdef int t, r, v
    for t in range(3 if s < SWEEP_ROWS + 2 else 0):
        p = tap[3 * s + t] + at
        for v in range(vectors):
            x[v] = vec_load(p + v * LANES)
        for r in range(max(0, s - 2), min(SWEEP_ROWS, s + 1)):
            for v in range(vectors):
                total[r * vectors + v] += w[3 * t + 2 - s + r] * x[v]


cdef inline always_inline_void _sweep_of_three(
    const int vectors, Py_ssize_t panels, const real* const* tap, Py_ssize_t at, const real* w, real* const* dst,
    bint stream,
) noexcept nogil:
    # 3 x 3, the filter of filters: all nine weights stay in registers, where loading them would take longer than the
    # products; room for them is where others keep a partial sum.
    cdef local_vec total[SWEEP_ROWS * SWEEP_VECTORS]
    cdef local_vec wide[9]
    cdef Py_ssize_t _panel, shift = 0
    cdef int i
    for i in range(9):
        wide[i] = vec_zero() + w[i]
    for _panel in range(panels):
        _clear(SWEEP_ROWS * vectors, total)
        _row_of_three(0, vectors, tap, at, wide, total)
        _row_of_three(1, vectors, tap, at, wide, total)
        _row_of_three(2, vectors, tap, at, wide, total)
        _row_of_three(3, vectors, tap, at, wide, total)
        _row_of_three(4, vectors, tap, at, wide, total)
        _row_of_three(5, vectors, tap, at, wide, total)
        _row_of_three(6, vectors, tap, at, wide, total)
        _row_of_three(7, vectors, tap, at, wide, total)
        _row_of_three(8, vectors, tap, at, wide, total)
        _leave(SWEEP_ROWS, vectors, total, dst, shift, stream)
        at += vectors * LANES
        shift += vectors * LANES


cdef inline always_inline_void _climb(
    const bint chained, const int n, const int rows, const int parts, const int vectors, Py_ssize_t reach,
    Py_ssize_t taps, Py_ssize_t chain, const real* const* tap, Py_ssize_t at, const real* w, local_vec* total,
) noexcept nogil:
    # Input row n - 1 meets the first n output rows.
    if n < rows:
        _sweep_row(
            chained, True, 0, n * parts, vectors, taps, chain, tap + (n - 1) * taps, at, w + (reach - n) * parts,
            reach * parts, total,
        )


cdef inline always_inline_void _descend(
    const bint chained, const int n, const int rows, const int parts, const int vectors, Py_ssize_t reach,
    Py_ssize_t taps, Py_ssize_t chain, const real* const* tap, Py_ssize_t at, const real* w, local_vec* total,
) noexcept nogil:
    # Input row reach - 1 + n has passed the first n output rows.
    if n < rows:
        _sweep_row(
            chained, True, n * parts, rows * parts, vectors, taps, chain, tap + (reach - 1 + n) * taps, at, w,
            reach * parts, total,
        )


cdef inline always_inline_void _long_sweep(
    const bint chained, const int rows, const int parts, const int vectors, Py_ssize_t reach,
    Py_ssize_t panels, Py_ssize_t taps, Py_ssize_t chain, const real* const* tap, Py_ssize_t at, const real* w,
    real* const* dst, bint stream,
) noexcept nogil:
    cdef local_vec total[SWEEP_ROWS * SWEEP_VECTORS]
    cdef Py_ssize_t _panel, shift = 0, a
    cdef const real* const* whole = tap + (rows - 1) * taps
    for _panel in range(panels):
        _clear(rows * parts * vectors, total)
        _climb(chained, 1, rows, parts, vectors, reach, taps, chain, tap, at, w, total)
        _climb(chained, 2, rows, parts, vectors, reach, taps, chain, tap, at, w, total)
        _climb(chained, 3, rows, parts, vectors, reach, taps, chain, tap, at, w, total)
        _climb(chained, 4, rows, parts, vectors, reach, taps, chain, tap, at, w, total)
        _climb(chained, 5, rows, parts, vectors, reach, taps, chain, tap, at, w, total)
        _climb(chained, 6, rows, parts, vectors, reach, taps, chain, tap, at, w, total)
        for a in range(reach - rows + 1):
            _sweep_row(
                chained, True, 0, rows * parts, vectors, taps, chain, whole + a * taps, at,
                w + (reach - rows - a) * parts, reach * parts, total,
            )
        _descend(chained, 1, rows, parts, vectors, reach, taps, chain, tap, at, w, total)
        _descend(chained, 2, rows, parts, vectors, reach, taps, chain, tap, at, w, total)
        _descend(chained, 3, rows, parts, vectors, reach, taps, chain, tap, at, w, total)
        _descend(chained, 4, rows, parts, vectors, reach, taps, chain, tap, at, w, total)
        _descend(chained, 5, rows, parts, vectors, reach, taps, chain, tap, at, w, total)
        _descend(chained, 6, rows, parts, vectors, reach, taps, chain, tap, at, w, total)
        _leave(rows * parts, vectors, total, dst, shift, stream)
        at += vectors * LANES
        shift += vectors * LANES


cdef inline always_inline_void _leave(
    const int rows, const int vectors, const local_vec* total, real* const* dst, Py_ssize_t shift, bint stream,
) noexcept nogil:
    cdef int r, v
    for r in range(rows):
        for v in range(vectors):
            if stream:
                vec_stream(dst[r] + shift + v * LANES, total[r * vectors + v])
            else:
                (<vec*>(dst[r] + shift + v * LANES))[0] = total[r * vectors + v]


cdef inline bint sums_carry(Py_ssize_t reach, Py_ssize_t taps) noexcept nogil:
    """Whether all products of a kernel form one chain instead of one per kernel row: see `_sweep_of_three`."""
    return reach == 3 and taps == 3


cdef inline int sweep_rows(Py_ssize_t reach, Py_ssize_t parts, bint chained) noexcept nogil:
    """Output rows `sweep` makes at a time for `reach` kernel rows of `parts` sums per output; 0 where it cannot."""
    cdef int rows = SWEEP_ROWS if parts == 1 else PAIR_ROWS
    return rows if reach >= rows or (reach > 1 and parts == 1 and not chained) else 0


cdef inline void sweep(
    Py_ssize_t reach, Py_ssize_t parts, Py_ssize_t panels, Py_ssize_t taps, Py_ssize_t chain, const real* const* tap,
    Py_ssize_t at, const real* w, real* const* dst, bint stream,
) noexcept nogil:
    """A block of `sweep_rows` output rows from start to end: no partial sum leaves the registers.

    The same sums in the same order as `tile` input row by input row. `reach` kernel rows need rows + reach - 1 input
    rows; number s has its taps at ``tap[s * taps]``. ``w[t * reach * parts]`` starts the weights of tap t, last kernel
    row first.
    """
    if taps > chain:
        if PAIR_ROWS and parts == 2:
            _long_sweep(True, PAIR_ROWS, 2, SWEEP_VECTORS, reach, panels, taps, chain, tap, at, w, dst, stream)
        else:
            _long_sweep(True, SWEEP_ROWS, 1, SWEEP_VECTORS, reach, panels, taps, chain, tap, at, w, dst, stream)
    elif parts == 1 and sums_carry(reach, taps):
        _sweep_of_three(SWEEP_VECTORS, panels, tap, at, w, dst, stream)
    elif PAIR_ROWS and parts == 2:
        _long_sweep(False, PAIR_ROWS, 2, SWEEP_VECTORS, reach, panels, taps, chain, tap, at, w, dst, stream)
    elif reach >= SWEEP_ROWS:
        _long_sweep(False, SWEEP_ROWS, 1, SWEEP_VECTORS, reach, panels, taps, chain, tap, at, w, dst, stream)
    elif reach == 2:
        _short_sweep(2, SWEEP_VECTORS, panels, taps, tap, at, w, dst, stream)
    elif SWEEP_ROWS > 3 and reach == 3:
        _short_sweep(3, SWEEP_VECTORS, panels, taps, tap, at, w, dst, stream)
    elif SWEEP_ROWS > 4 and reach == 4:
        _short_sweep(4, SWEEP_VECTORS, panels, taps, tap, at, w, dst, stream)
    elif SWEEP_ROWS > 5 and reach == 5:
        _short_sweep(5, SWEEP_VECTORS, panels, taps, tap, at, w, dst, stream)
    elif SWEEP_ROWS > 6:
        _short_sweep(6, SWEEP_VECTORS, panels, taps, tap, at, w, dst, stream)


cdef inline int most_vectors(Py_ssize_t rows) noexcept nogil:
    """Of a tile for so many rows. Where rows must be parted, the more vectors the fewer loads for a product."""
    if 8 * rows <= MAX_ACC:
        return 8
    return 4 if MAX_ACC >= 24 or 4 * rows <= MAX_ACC else 3


cdef inline int most_rows(int vectors) noexcept nogil:
    """Of a tile with so many vectors."""
    return min(<int>MAX_ROWS, <int>MAX_ACC // vectors)


cdef inline int tile_vectors(int most, Py_ssize_t lanes) noexcept nogil:
    """Of the next tile, `most` at most. Narrow ones take longer per lane, so they share the lanes evenly."""
    cdef Py_ssize_t vectors = ceil_div(lanes, LANES)
    if most > 4 and vectors > 4:
        return most
    return <int>ceil_div(vectors, ceil_div(vectors, min(4, most)))


cdef inline always_inline_void _riffle(const local_vec* a, local_vec* b) noexcept nogil:
    cdef int i
    for i in range(LANES // 2):
        b[2 * i] = vec_lower(a[i], a[i + LANES // 2])
        b[2 * i + 1] = vec_upper(a[i], a[i + LANES // 2])


cdef inline always_inline_void transpose_lanes(local_vec* a) noexcept nogil:
    """Lane i of vector j becomes lane j of vector i: log2(LANES) riffles of all vectors."""
    cdef local_vec b[LANES]
    cdef int i
    if LANES == 4 or LANES == 16:
        _riffle(a, b)
        _riffle(b, a)
        if LANES == 16:
            _riffle(a, b)
            _riffle(b, a)
    elif LANES > 1:
        _riffle(a, b)
        if LANES == 8:
            _riffle(b, a)
            _riffle(a, b)
        for i in range(LANES):
            a[i] = b[i]


cdef inline void turn(
    const real* p, Py_ssize_t step, Py_ssize_t rows, Py_ssize_t columns, real* to, Py_ssize_t to_step
) noexcept nogil:
    """to[j][i] = p[i][j] for `rows` lines of `columns` reals, at most LANES of each.

    Whole vectors are read, and written: past the last row.
    """
    cdef local_vec a[LANES]
    cdef int i
    for i in range(LANES):
        a[i] = (<const vec*>(p + min(<Py_ssize_t>i, rows - 1) * step))[0]
    transpose_lanes(a)
    for i in range(LANES):
        if i < columns:
            (<vec*>(to + i * to_step))[0] = a[i]
