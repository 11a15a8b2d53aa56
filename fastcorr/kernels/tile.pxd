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
    vec vec_zero() noexcept nogil
    vec vec_load(const real* p) noexcept nogil


cdef inline always_inline_void _tile(
    const int rows, const int vectors, Py_ssize_t taps, const real* const* tap, Py_ssize_t at, const real* w,
    Py_ssize_t step, const real* const* src, real* const* dst,
) noexcept nogil:
    # Inlined with constant `rows` and `vectors`, so that the loops unroll and `acc` lives in registers.
    cdef vec acc[MAX_ROWS][8]
    cdef vec x
    cdef const real* p
    cdef Py_ssize_t t
    cdef int r, v
    for r in range(rows):
        for v in range(vectors):
            acc[r][v] = vec_zero()
    for t in range(taps):
        p = tap[t] + at
        for v in range(vectors):
            x = vec_load(p + v * LANES)
            for r in range(rows):
                acc[r][v] += w[r] * x
        w += step
    for r in range(rows):
        if src[r] != NULL:
            for v in range(vectors):
                (<vec*>(dst[r] + v * LANES))[0] = (<const vec*>(src[r] + v * LANES))[0] + acc[r][v]
        else:
            for v in range(vectors):
                (<vec*>(dst[r] + v * LANES))[0] = acc[r][v]


cdef inline void tile(
    int rows, int vectors, Py_ssize_t taps, const real* const* tap, Py_ssize_t at, const real* w, Py_ssize_t step,
    const real* const* src, real* const* dst,
) noexcept nogil:
    """One block of `rows` x `vectors`: rows <= MAX_ROWS, vectors 1, 2, 4 or 8, rows * vectors <= MAX_ACC."""
    if vectors == 8:
        if rows == 1:
            _tile(1, 8, taps, tap, at, w, step, src, dst)
        elif MAX_ACC >= 24 and rows == 2:
            _tile(2, 8, taps, tap, at, w, step, src, dst)
        elif MAX_ACC >= 24 and rows == 3:
            _tile(3, 8, taps, tap, at, w, step, src, dst)
    elif vectors == 4:
        if rows == 1:
            _tile(1, 4, taps, tap, at, w, step, src, dst)
        elif rows == 2:
            _tile(2, 4, taps, tap, at, w, step, src, dst)
        elif rows == 3:
            _tile(3, 4, taps, tap, at, w, step, src, dst)
        elif MAX_ACC >= 24 and rows == 4:
            _tile(4, 4, taps, tap, at, w, step, src, dst)
        elif MAX_ACC >= 24 and rows == 5:
            _tile(5, 4, taps, tap, at, w, step, src, dst)
        elif MAX_ACC >= 24 and rows == 6:
            _tile(6, 4, taps, tap, at, w, step, src, dst)
    elif vectors == 2:
        if rows == 1:
            _tile(1, 2, taps, tap, at, w, step, src, dst)
        elif rows == 2:
            _tile(2, 2, taps, tap, at, w, step, src, dst)
        elif rows == 3:
            _tile(3, 2, taps, tap, at, w, step, src, dst)
        elif rows == 4:
            _tile(4, 2, taps, tap, at, w, step, src, dst)
        elif rows == 5:
            _tile(5, 2, taps, tap, at, w, step, src, dst)
        elif MAX_ROWS >= 6:
            _tile(6, 2, taps, tap, at, w, step, src, dst)
    else:
        if rows == 1:
            _tile(1, 1, taps, tap, at, w, step, src, dst)
        elif rows == 2:
            _tile(2, 1, taps, tap, at, w, step, src, dst)
        elif rows == 3:
            _tile(3, 1, taps, tap, at, w, step, src, dst)
        elif rows == 4:
            _tile(4, 1, taps, tap, at, w, step, src, dst)
        elif rows == 5:
            _tile(5, 1, taps, tap, at, w, step, src, dst)
        elif MAX_ROWS >= 6:
            _tile(6, 1, taps, tap, at, w, step, src, dst)
