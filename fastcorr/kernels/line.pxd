"""Lines: one row of samples on its way in or out of a kernel.

Boundary, stride, dtype, alignment and byte order are resolved here and nowhere else. `load` brings samples of any
type and stride into contiguous `real`s, `store` takes them back out, `gather` adds the boundary rule.
"""

from libc.stdint cimport int8_t, uint8_t, int16_t, uint16_t, int32_t, uint32_t, int64_t, uint64_t
cimport numpy as cnp

from .tile cimport (
    LANES, always_inline_void, ceil_div, eager_void, local_vec, real, turn, vec, vec_load, vec_lower, vec_part,
    vec_upper, vec_zero,
)

cdef extern from "half.h":
    ctypedef struct half:
        pass
    float half_to_float(half h) noexcept nogil
    half half_from_float(float value) noexcept nogil

ctypedef fused sample:
    uint8_t
    int8_t
    uint16_t
    int16_t
    uint32_t
    int32_t
    uint64_t
    int64_t
    half
    float
    double

cdef enum Type:
    BOOL
    UINT8
    INT8
    UINT16
    INT16
    UINT32
    INT32
    UINT64
    INT64
    FLOAT16
    FLOAT32
    FLOAT64

cdef enum Rule:  # the order of boundary.RULES
    CONSTANT
    EDGE
    REFLECT
    SYMMETRIC
    WRAP

cdef enum:
    RAW = 64  # elements set right at a time


cdef struct Format:
    int type
    int size          # bytes of one sample (of one part, for complex)
    bint raw          # misaligned or foreign byte order: bytes are set right before they are read
    bint swap


cdef inline Format format_of(cnp.ndarray a) noexcept:
    """How samples of `a`, or the parts of its complex samples, lie in memory."""
    cdef Format f
    cdef int type = cnp.PyArray_TYPE(a)
    f.size = <int>cnp.PyArray_ITEMSIZE(a)
    if cnp.PyTypeNum_ISCOMPLEX(type):
        f.size //= 2
    f.swap = cnp.PyArray_ISBYTESWAPPED(a)
    f.raw = f.swap or not cnp.PyArray_ISALIGNED(a)
    if cnp.PyTypeNum_ISBOOL(type):
        f.type = BOOL
    elif cnp.PyTypeNum_ISUNSIGNED(type):
        f.type = UINT8 if f.size == 1 else UINT16 if f.size == 2 else UINT32 if f.size == 4 else UINT64
    elif cnp.PyTypeNum_ISINTEGER(type):
        f.type = INT8 if f.size == 1 else INT16 if f.size == 2 else INT32 if f.size == 4 else INT64
    else:
        f.type = FLOAT16 if f.size == 2 else FLOAT32 if f.size == 4 else FLOAT64
    return f


cdef inline int real_type() noexcept nogil:
    """The Type code of `real`."""
    cdef real half_ = <real>0.5
    if half_ != 0:
        return FLOAT32 if sizeof(real) == 4 else FLOAT64
    return INT32 if sizeof(real) == 4 else INT64


cdef inline Py_ssize_t extend(Py_ssize_t u, Py_ssize_t n, int rule) noexcept nogil:
    """boundary.source for one position."""
    if 0 <= u < n:
        return u
    if rule == CONSTANT or n == 0:
        return -1
    if rule == EDGE:
        return 0 if u < 0 else n - 1
    cdef Py_ssize_t period = n if rule == WRAP else (2 * n if rule == SYMMETRIC else max(2 * (n - 1), 1))
    if not -period <= u < period:  # seldom that far, and a division is slow
        u %= period
    if u < 0:
        u += period
    if u < n:
        return u
    if rule == WRAP:
        return u - n
    return 2 * n - 1 - u if rule == SYMMETRIC else 2 * (n - 1) - u


cdef inline real _read(sample* p) noexcept nogil:
    if sample is half:
        return <real>half_to_float(p[0])
    else:
        return <real>p[0]


cdef inline void _load(sample* p, real* to, Py_ssize_t n, Py_ssize_t step) noexcept nogil:
    # Constant steps vectorise: 1 is plain data, 2 one part of complex data.
    cdef Py_ssize_t i
    if step == sizeof(sample):
        for i in range(n):
            to[i] = _read(p + i)
        return
    if sample is float or sample is double:
        if step == 2 * sizeof(sample):
            for i in range(n):
                to[i] = _read(p + 2 * i)
            return
    for i in range(n):
        to[i] = _read(<sample*>(<char*>p + i * step))


cdef inline eager_void _load_type(int type, const char* p, real* to, Py_ssize_t n, Py_ssize_t step) noexcept nogil:
    cdef Py_ssize_t i
    if type == FLOAT32:
        _load(<float*>p, to, n, step)
    elif type == FLOAT64:
        _load(<double*>p, to, n, step)
    elif type == UINT8:
        _load(<uint8_t*>p, to, n, step)
    elif type == INT8:
        _load(<int8_t*>p, to, n, step)
    elif type == UINT16:
        _load(<uint16_t*>p, to, n, step)
    elif type == INT16:
        _load(<int16_t*>p, to, n, step)
    elif type == UINT32:
        _load(<uint32_t*>p, to, n, step)
    elif type == INT32:
        _load(<int32_t*>p, to, n, step)
    elif type == UINT64:
        _load(<uint64_t*>p, to, n, step)
    elif type == INT64:
        _load(<int64_t*>p, to, n, step)
    elif type == FLOAT16:
        _load(<half*>p, to, n, step)
    else:
        for i in range(n):
            to[i] = p[i * step] != 0


cdef inline void load(const Format* f, const char* p, real* to, Py_ssize_t n, Py_ssize_t step) noexcept nogil:
    """`n` samples, `step` bytes apart, from `p` to `to`."""
    cdef uint64_t aligned[RAW]
    cdef char* q
    cdef Py_ssize_t i, b, m
    if not f.raw:
        _load_type(f.type, p, to, n, step)
        return
    while n > 0:
        m = min(n, <Py_ssize_t>RAW)
        q = <char*>aligned
        for i in range(m):
            for b in range(f.size):
                q[i * f.size + b] = p[i * step + (f.size - 1 - b if f.swap else b)]
        _load_type(f.type, q, to, m, f.size)
        p += m * step
        to += m
        n -= m


cdef inline void _write(sample* p, real value) noexcept nogil:
    if sample is half:
        p[0] = half_from_float(<float>value)
    else:
        p[0] = <sample>value


cdef inline void _store(const real* p, sample* to, Py_ssize_t n, Py_ssize_t step) noexcept nogil:
    cdef Py_ssize_t i
    if step == sizeof(sample):
        for i in range(n):
            _write(to + i, p[i])
    else:
        for i in range(n):
            _write(<sample*>(<char*>to + i * step), p[i])


cdef inline eager_void store(int type, const real* p, char* to, Py_ssize_t n, Py_ssize_t step) noexcept nogil:
    """`n` results from `p` to samples `step` bytes apart; integers are cut to their width, bool is "not zero"."""
    cdef Py_ssize_t i
    if type == FLOAT32:
        _store(p, <float*>to, n, step)
    elif type == FLOAT64:
        _store(p, <double*>to, n, step)
    elif type == UINT8 or type == INT8:
        _store(p, <uint8_t*>to, n, step)
    elif type == UINT16 or type == INT16:
        _store(p, <uint16_t*>to, n, step)
    elif type == UINT32 or type == INT32:
        _store(p, <uint32_t*>to, n, step)
    elif type == UINT64 or type == INT64:
        _store(p, <uint64_t*>to, n, step)
    elif type == FLOAT16:
        _store(p, <half*>to, n, step)
    else:
        for i in range(n):
            to[i * step] = p[i] != 0


cdef inline eager_void store_pairs(int type, const real* re, const real* im, char* to, Py_ssize_t n) noexcept nogil:
    """`n` complex results that lie side by side; one loop over both parts vectorises, one for each does not."""
    cdef Py_ssize_t i
    cdef float* single = <float*>to
    cdef double* double_ = <double*>to
    if type == FLOAT32:
        for i in range(n):
            single[2 * i] = <float>re[i]
            single[2 * i + 1] = <float>im[i]
    else:
        for i in range(n):
            double_[2 * i] = <double>re[i]
            double_[2 * i + 1] = <double>im[i]


cdef inline always_inline_void _gather_outside(
    const Format* f, const char* line, real* to, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t first, Py_ssize_t last,
    Py_ssize_t u, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t step, int rule, real fill,
) noexcept nogil:
    # Samples `begin` to `end`, once `first` to `last` are there: most repeat one of those.
    cdef Py_ssize_t i, at
    if rule == CONSTANT or n == 0:
        for i in range(begin, end):
            to[i] = fill
        return
    for i in range(begin, end):
        at = extend(u + i * stride, n, rule)
        if stride == 1 and first <= at - u < last:
            to[i] = to[at - u]
        else:
            load(f, line + at * step, to + i, 1, step)


cdef inline void gather(
    const Format* f, const char* line, real* to, Py_ssize_t count, Py_ssize_t u, Py_ssize_t stride, Py_ssize_t n,
    Py_ssize_t step, int rule, real fill,
) noexcept nogil:
    """X[u], X[u + stride], ...: `count` samples of a signal of `n` samples, `step` bytes apart, under `rule`."""
    # Samples `first` to `last` lie inside; divisions cost as much as a dozen samples.
    cdef Py_ssize_t first = 0 if u >= 0 else -u, last = n - u
    if stride > 1:
        first = (first + stride - 1) // stride
        last = (last + stride - 1) // stride if last > 0 else 0
    first = min(first, count)
    last = max(first, min(last, count))
    load(f, line + (u + first * stride) * step, to + first, last - first, stride * step)
    _gather_outside(f, line, to, 0, first, first, last, u, stride, n, step, rule, fill)
    _gather_outside(f, line, to, last, count, first, last, u, stride, n, step, rule, fill)


cdef inline void gather_pairs(
    const real* line, real* even, real* odd, Py_ssize_t count, Py_ssize_t u, Py_ssize_t n, int rule, real fill
) noexcept nogil:
    """X[u], X[u + 2], ... to `even` and X[u + 1], X[u + 3], ... to `odd`, which may be NULL: see `gather`."""
    cdef Py_ssize_t first = min(count, 0 if u >= 0 else (1 - u) // 2), last = max(first, min(count, (n - u) // 2))
    cdef Py_ssize_t i = first
    cdef local_vec x, y
    while i < last:
        if last - first < LANES:
            even[i] = line[u + 2 * i]
            if odd != NULL:
                odd[i] = line[u + 2 * i + 1]
            i += 1
            continue
        i = min(i, last - LANES)
        vec_part(line + u + 2 * i, &x, &y)
        (<vec*>(even + i))[0] = x
        if odd != NULL:
            (<vec*>(odd + i))[0] = y
        i += LANES
    i = 0
    while i < count:
        if i == first:
            i = last
            if i == count:
                return
        _pick(line, even + i, u + 2 * i, n, rule, fill)
        if odd != NULL:
            _pick(line, odd + i, u + 2 * i + 1, n, rule, fill)
        i += 1


cdef inline void _pick(const real* line, real* to, Py_ssize_t u, Py_ssize_t n, int rule, real fill) noexcept nogil:
    u = extend(u, n, rule)
    to[0] = line[u] if u >= 0 else fill


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


cdef inline void weave(const real* a, const real* b, real* to, Py_ssize_t n) noexcept nogil:
    """a[0], b[0], a[1], b[1], ...: `n` reals, at least two vectors."""
    cdef Py_ssize_t i = 0, pairs = n // 2
    cdef local_vec x, y
    while i < pairs:
        i = min(i, pairs - LANES)
        x, y = vec_load(a + i), vec_load(b + i)
        (<vec*>(to + 2 * i))[0] = vec_lower(x, y)
        (<vec*>(to + 2 * i + LANES))[0] = vec_upper(x, y)
        i += LANES
    if n % 2:
        to[n - 1] = a[pairs]


cdef inline bint all_finite(const real* p, Py_ssize_t n) noexcept nogil:
    cdef local_vec a, sum = vec_zero()
    cdef real rest = 0
    cdef Py_ssize_t i
    for i in range(n // LANES):
        a = vec_load(p + i * LANES)
        sum = sum + (a - a)                # 0, or NaN
    for i in range(n // LANES * LANES, n):
        rest += p[i] - p[i]
    for i in range(LANES):
        rest += (<real*>&sum)[i]
    return rest == 0


cdef inline void transpose(
    const real* p, Py_ssize_t step, Py_ssize_t rows, Py_ssize_t columns, real* to, Py_ssize_t to_step
) noexcept nogil:
    """to[j][i] = p[i][j] for `rows` lines of `columns` reals, `step` apart.

    Whole vectors are read, of fewer columns than a vector has past the last, and written: past the last row.
    """
    cdef Py_ssize_t i, j
    for i in range(ceil_div(rows, LANES)):
        i *= LANES
        j = 0
        while j < columns:
            if j + LANES > columns >= LANES:
                j = columns - LANES
            turn(
                p + i * step + j, step, min(<Py_ssize_t>LANES, rows - i), min(<Py_ssize_t>LANES, columns - j),
                to + j * to_step + i, to_step,
            )
            j += LANES
