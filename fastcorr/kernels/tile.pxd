"""The multiply loop every method ends in.

    acc[r][lane] = sum over t of  w[t][r] * tap[t][lane]         dst[r] = src[r] + acc[r]

`rows` outputs share each load of x; `tap` says where each tap starts; the sums stay in registers until the end. It
knows nothing of shapes: what rows, taps and lanes are is the caller's business.
"""

cdef extern from "simd.h":
    ctypedef double real  # float, double, int32_t or int64_t: see setup.py
    ctypedef double vec
    ctypedef void always_inline_void
    enum: LANES
    enum: MAX_ROWS
    enum: MAX_ACC
    enum: MAX_SWEEP
    enum: SWEEP_VECTORS
    enum: SWEEP_REACH
    vec vec_zero() noexcept nogil
    vec vec_load(const real* p) noexcept nogil


cdef inline always_inline_void _step(
    const int rows, const int vectors, Py_ssize_t taps, const real* const* tap, Py_ssize_t at,
    const real* w, Py_ssize_t step, vec* acc,
) noexcept nogil:
    # The multiply loop. Inlined with constant `rows` and `vectors`, so that the loops over them unroll and all sums live
    # in registers. gcc does that early enough only for loops inside another one.
    cdef vec x
    cdef const real* p
    cdef Py_ssize_t t
    cdef int i, r, v
    for i in range(rows * vectors):
        acc[i] = vec_zero()
    for t in range(taps):
        p = tap[t] + at
        for v in range(vectors):
            x = vec_load(p + v * LANES)
            for r in range(rows):
                acc[r * vectors + v] += w[r] * x
        w += step


cdef inline always_inline_void _tile(
    const int rows, const int vectors, Py_ssize_t panels, Py_ssize_t taps, const real* const* tap, Py_ssize_t at,
    const real* w, const real* const* src, real* const* dst, Py_ssize_t step,
) noexcept nogil:
    cdef vec acc[MAX_ACC]
    cdef Py_ssize_t panel, shift = 0
    cdef const real* p
    cdef real* to
    cdef int r, v
    for panel in range(panels):
        _step(rows, vectors, taps, tap, at, w, step, acc)
        for r in range(rows):
            p = src[r] + shift
            to = dst[r] + shift
            for v in range(vectors):
                (<vec*>(to + v * LANES))[0] = (<const vec*>(p + v * LANES))[0] + acc[r * vectors + v]
        at += vectors * LANES
        shift += vectors * LANES


cdef inline void tile(
    int rows, int vectors, Py_ssize_t panels, Py_ssize_t taps, const real* const* tap, Py_ssize_t at, const real* w,
    const real* const* src, real* const* dst, Py_ssize_t step,
) noexcept nogil:
    """`panels` blocks of `rows` x `vectors`, side by side: lanes `at`, `at + vectors * LANES`, ... of each tap.

    rows <= MAX_ROWS, vectors 1, 2, 4 or 8, rows * vectors <= MAX_ACC; `step` reals from one tap's weights to the next.
    """
    if vectors == 8:
        if rows == 1:
            _tile(1, 8, panels, taps, tap, at, w, src, dst, step)
        elif MAX_ACC >= 24 and rows == 2:
            _tile(2, 8, panels, taps, tap, at, w, src, dst, step)
        elif MAX_ACC >= 24 and rows == 3:
            _tile(3, 8, panels, taps, tap, at, w, src, dst, step)
    elif vectors == 4:
        if rows == 1:
            _tile(1, 4, panels, taps, tap, at, w, src, dst, step)
        elif rows == 2:
            _tile(2, 4, panels, taps, tap, at, w, src, dst, step)
        elif rows == 3:
            _tile(3, 4, panels, taps, tap, at, w, src, dst, step)
        elif MAX_ACC >= 24 and rows == 4:
            _tile(4, 4, panels, taps, tap, at, w, src, dst, step)
        elif MAX_ACC >= 24 and rows == 5:
            _tile(5, 4, panels, taps, tap, at, w, src, dst, step)
        elif MAX_ACC >= 24 and rows == 6:
            _tile(6, 4, panels, taps, tap, at, w, src, dst, step)
    elif vectors == 2:
        if rows == 1:
            _tile(1, 2, panels, taps, tap, at, w, src, dst, step)
        elif rows == 2:
            _tile(2, 2, panels, taps, tap, at, w, src, dst, step)
        elif rows == 3:
            _tile(3, 2, panels, taps, tap, at, w, src, dst, step)
        elif rows == 4:
            _tile(4, 2, panels, taps, tap, at, w, src, dst, step)
        elif rows == 5:
            _tile(5, 2, panels, taps, tap, at, w, src, dst, step)
        elif MAX_ROWS >= 6:
            _tile(6, 2, panels, taps, tap, at, w, src, dst, step)
    else:
        if rows == 1:
            _tile(1, 1, panels, taps, tap, at, w, src, dst, step)
        elif rows == 2:
            _tile(2, 1, panels, taps, tap, at, w, src, dst, step)
        elif rows == 3:
            _tile(3, 1, panels, taps, tap, at, w, src, dst, step)
        elif rows == 4:
            _tile(4, 1, panels, taps, tap, at, w, src, dst, step)
        elif rows == 5:
            _tile(5, 1, panels, taps, tap, at, w, src, dst, step)
        elif MAX_ROWS >= 6:
            _tile(6, 1, panels, taps, tap, at, w, src, dst, step)


cdef inline always_inline_void _sweep_step(
    const int s, const int reach, const int rows, const int vectors, Py_ssize_t taps, const real* const* tap,
    Py_ssize_t at, const real* w, vec* total,
) noexcept nogil:
    # Input row s meets output rows s - reach + 1 to s, each with kernel row s - r: rows run against kernel rows.
    cdef vec acc[MAX_ACC]
    cdef int first = max(0, s - reach + 1), last = min(rows, s + 1)
    cdef int i
    if s < rows + reach - 1:
        _step(last - first, vectors, taps, tap + s * taps, at, w + (reach - 1 - s if s < reach else 0), reach, acc)
        for i in range((last - first) * vectors):
            total[first * vectors + i] += acc[i]


cdef inline always_inline_void _sweep(
    const int reach, const int rows, const int vectors, Py_ssize_t panels, Py_ssize_t taps, const real* const* tap,
    Py_ssize_t at, const real* w, real* const* dst,
) noexcept nogil:
    cdef vec total[MAX_SWEEP * 2]
    cdef Py_ssize_t panel, shift = 0
    cdef int r, v
    for panel in range(panels):
        for r in range(rows):
            for v in range(vectors):
                total[r * vectors + v] = vec_zero()
        _sweep_step(0, reach, rows, vectors, taps, tap, at, w, total)
        _sweep_step(1, reach, rows, vectors, taps, tap, at, w, total)
        _sweep_step(2, reach, rows, vectors, taps, tap, at, w, total)
        _sweep_step(3, reach, rows, vectors, taps, tap, at, w, total)
        _sweep_step(4, reach, rows, vectors, taps, tap, at, w, total)
        _sweep_step(5, reach, rows, vectors, taps, tap, at, w, total)
        _sweep_step(6, reach, rows, vectors, taps, tap, at, w, total)
        _sweep_step(7, reach, rows, vectors, taps, tap, at, w, total)
        _sweep_step(8, reach, rows, vectors, taps, tap, at, w, total)
        _sweep_step(9, reach, rows, vectors, taps, tap, at, w, total)
        _sweep_step(10, reach, rows, vectors, taps, tap, at, w, total)
        _sweep_step(11, reach, rows, vectors, taps, tap, at, w, total)
        for r in range(rows):
            for v in range(vectors):
                (<vec*>(dst[r] + shift + v * LANES))[0] = total[r * vectors + v]
        at += vectors * LANES
        shift += vectors * LANES


cdef inline int sweep_rows(Py_ssize_t reach) noexcept nogil:
    """Output rows `sweep` makes at a time for a kernel of `reach` rows; 0 where there is none."""
    return 0 if reach < 2 or reach > SWEEP_REACH else (6 if reach < 6 else 5)


cdef inline void sweep(
    Py_ssize_t reach, int vectors, Py_ssize_t panels, Py_ssize_t taps, const real* const* tap, Py_ssize_t at,
    const real* w, real* const* dst,
) noexcept nogil:
    """All of a small kernel at once: `sweep_rows(reach)` output rows from rows + reach - 1 input rows.

    The same sums in the same order as `tile` row by row, but no partial sum leaves the registers. Input row s has its
    taps at ``tap[s * taps]``, and ``w[t * reach]`` starts the weights of tap t, last kernel row first.
    """
    if SWEEP_VECTORS == 2 and vectors == 2:
        if reach == 2:
            _sweep(2, 6, 2, panels, taps, tap, at, w, dst)
        elif reach == 3:
            _sweep(3, 6, 2, panels, taps, tap, at, w, dst)
        elif reach == 4:
            _sweep(4, 6, 2, panels, taps, tap, at, w, dst)
        elif SWEEP_REACH > 4 and reach == 5:
            _sweep(5, 6, 2, panels, taps, tap, at, w, dst)
        elif SWEEP_REACH > 4 and reach == 6:
            _sweep(6, 5, 2, panels, taps, tap, at, w, dst)
        elif SWEEP_REACH > 4 and reach == 7:
            _sweep(7, 5, 2, panels, taps, tap, at, w, dst)
    else:
        if reach == 2:
            _sweep(2, 6, 1, panels, taps, tap, at, w, dst)
        elif reach == 3:
            _sweep(3, 6, 1, panels, taps, tap, at, w, dst)
        elif reach == 4:
            _sweep(4, 6, 1, panels, taps, tap, at, w, dst)
        elif SWEEP_REACH > 4 and reach == 5:
            _sweep(5, 6, 1, panels, taps, tap, at, w, dst)
        elif SWEEP_REACH > 4 and reach == 6:
            _sweep(6, 5, 1, panels, taps, tap, at, w, dst)
        elif SWEEP_REACH > 4 and reach == 7:
            _sweep(7, 5, 1, panels, taps, tap, at, w, dst)
