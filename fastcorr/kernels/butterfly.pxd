"""Butterflies: small Fourier transforms of whole vectors, each lane by itself, and the turn of lanes into registers.

    y[s] = sum over t of  exp(-2 pi i s t / radix) * x[t]         x, y: a real and an imaginary vector per point

The inverse is the same butterfly with the two parts exchanged: swap(z) = i conj(z), and so
swap(conj(w) z) = w swap(z). All is in place and in registers: the callers' loops are unrolled around these.
"""

from .tile cimport LANES, always_inline_void, local_vec, real, transpose_lanes, vec, vec_load

cdef extern from "simd.h":
    enum: MAX_RADIX

cdef enum Turn:  # what a pass multiplies each point with
    NO_TURN
    ONE_EACH      # one number for all lanes
    LANES_EACH    # one number per lane


cdef inline always_inline_void _turn(local_vec* a, local_vec* b, local_vec re, local_vec im) noexcept nogil:
    cdef local_vec x = a[0]
    a[0] = x * re - b[0] * im
    b[0] = x * im + b[0] * re


cdef inline always_inline_void _turn_by(local_vec* a, local_vec* b, const real re, const real im) noexcept nogil:
    cdef local_vec x = a[0]
    a[0] = x * re - b[0] * im
    b[0] = x * im + b[0] * re


cdef inline always_inline_void _dft2(local_vec* a, local_vec* b) noexcept nogil:
    cdef local_vec x = a[0], y = b[0]
    a[0] = x + a[1]
    b[0] = y + b[1]
    a[1] = x - a[1]
    b[1] = y - b[1]


cdef inline always_inline_void _dft3(local_vec* a, local_vec* b) noexcept nogil:
    cdef real half = <real>0.5, sine = <real>0.86602540378443864676
    cdef local_vec sa = a[1] + a[2], sb = b[1] + b[2], da = a[1] - a[2], db = b[1] - b[2]
    cdef local_vec ma = a[0] - half * sa, mb = b[0] - half * sb
    a[0] = a[0] + sa
    b[0] = b[0] + sb
    a[1] = ma + sine * db
    b[1] = mb - sine * da
    a[2] = ma - sine * db
    b[2] = mb + sine * da


cdef inline always_inline_void _dft4(
    local_vec* a, local_vec* b, const int i0, const int i1, const int i2, const int i3
) noexcept nogil:
    cdef local_vec sa = a[i0] + a[i2], sb = b[i0] + b[i2], da = a[i0] - a[i2], db = b[i0] - b[i2]
    cdef local_vec ta = a[i1] + a[i3], tb = b[i1] + b[i3], ea = a[i1] - a[i3], eb = b[i1] - b[i3]
    a[i0] = sa + ta
    b[i0] = sb + tb
    a[i1] = da + eb
    b[i1] = db - ea
    a[i2] = sa - ta
    b[i2] = sb - tb
    a[i3] = da - eb
    b[i3] = db + ea


cdef inline always_inline_void _dft5(local_vec* a, local_vec* b) noexcept nogil:
    cdef real c1 = <real>0.30901699437494742410, c2 = <real>-0.80901699437494742410
    cdef real s1 = <real>0.95105651629515357212, s2 = <real>0.58778525229247312917
    cdef local_vec pa = a[1] + a[4], pb = b[1] + b[4], qa = a[2] + a[3], qb = b[2] + b[3]
    cdef local_vec ua = a[1] - a[4], ub = b[1] - b[4], va = a[2] - a[3], vb = b[2] - b[3]
    cdef local_vec ma = a[0] + c1 * pa + c2 * qa, mb = b[0] + c1 * pb + c2 * qb
    cdef local_vec na = a[0] + c2 * pa + c1 * qa, nb = b[0] + c2 * pb + c1 * qb
    cdef local_vec ra = s1 * ua + s2 * va, rb = s1 * ub + s2 * vb
    cdef local_vec ta = s2 * ua - s1 * va, tb = s2 * ub - s1 * vb
    a[0] = a[0] + (pa + qa)
    b[0] = b[0] + (pb + qb)
    a[1] = ma + rb
    b[1] = mb - ra
    a[2] = na + tb
    b[2] = nb - ta
    a[3] = na - tb
    b[3] = nb + ta
    a[4] = ma - rb
    b[4] = mb + ra


cdef inline always_inline_void _dft8(local_vec* a, local_vec* b) noexcept nogil:
    # Even outputs from sums, odd ones from differences, whose factors of sqrt(1/2) go into multiply-adds.
    cdef real h = <real>0.70710678118654752440
    cdef local_vec sa0 = a[0] + a[4], sb0 = b[0] + b[4], da0 = a[0] - a[4], db0 = b[0] - b[4]
    cdef local_vec sa1 = a[1] + a[5], sb1 = b[1] + b[5], da1 = a[1] - a[5], db1 = b[1] - b[5]
    cdef local_vec sa2 = a[2] + a[6], sb2 = b[2] + b[6], da2 = a[2] - a[6], db2 = b[2] - b[6]
    cdef local_vec sa3 = a[3] + a[7], sb3 = b[3] + b[7], da3 = a[3] - a[7], db3 = b[3] - b[7]
    cdef local_vec pa = sa0 + sa2, pb = sb0 + sb2, qa = sa0 - sa2, qb = sb0 - sb2
    cdef local_vec ra = sa1 + sa3, rb = sb1 + sb3, ta = sa1 - sa3, tb = sb1 - sb3
    a[0] = pa + ra
    b[0] = pb + rb
    a[4] = pa - ra
    b[4] = pb - rb
    a[2] = qa + tb
    b[2] = qb - ta
    a[6] = qa - tb
    b[6] = qb + ta
    cdef local_vec ua = da1 + db1, ub = db1 - da1, va = db3 - da3, vb = da3 + db3  # times (1-i), (-1-i): v is (va, -vb)
    cdef local_vec ea = da0 + db2, eb = db0 - da2, fa = da0 - db2, fb = db0 + da2
    cdef local_vec ga = ua + va, gb = ub - vb, ka = ua - va, kb = ub + vb
    a[1] = ea + h * ga
    b[1] = eb + h * gb
    a[5] = ea - h * ga
    b[5] = eb - h * gb
    a[3] = fa + h * kb
    b[3] = fb - h * ka
    a[7] = fa - h * kb
    b[7] = fb + h * ka


cdef inline always_inline_void _dft16_turns(local_vec* a, local_vec* b) noexcept nogil:
    # Point 4 s + t times exp(-2 pi i s t / 16).
    cdef real c = <real>0.92387953251128675613, s = <real>0.38268343236508977173, h = <real>0.70710678118654752440
    _turn_by(a + 5, b + 5, c, -s)
    _turn_by(a + 6, b + 6, h, -h)
    _turn_by(a + 7, b + 7, s, -c)
    _turn_by(a + 9, b + 9, h, -h)
    cdef local_vec x = a[10]
    a[10] = b[10]
    b[10] = -x
    _turn_by(a + 11, b + 11, -h, -h)
    _turn_by(a + 13, b + 13, s, -c)
    _turn_by(a + 14, b + 14, -h, -h)
    _turn_by(a + 15, b + 15, -c, s)


cdef inline always_inline_void _dft(const int radix, local_vec* a, local_vec* b) noexcept nogil:
    if radix == 2:
        _dft2(a, b)
    elif radix == 3:
        _dft3(a, b)
    elif radix == 4:
        _dft4(a, b, 0, 1, 2, 3)
    elif radix == 5:
        _dft5(a, b)
    elif radix == 8:
        _dft8(a, b)


cdef inline always_inline_void _dft_lanes(const bint forward, local_vec* a, local_vec* b) noexcept nogil:
    # LANES points; 16 of them leave in another order than they came, and the inverse takes them so.
    cdef int i
    if LANES < 16:
        _dft(LANES, a, b)
    elif forward:
        for i in range(4):
            _dft4(a, b, i, i + 4, i + 8, i + 12)
        _dft16_turns(a, b)
        for i in range(4):
            _dft4(a, b, 4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3)
    else:
        for i in range(4):
            _dft4(a, b, 4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3)
        _dft16_turns(a, b)
        for i in range(4):
            _dft4(a, b, i, i + 4, i + 8, i + 12)


cdef inline always_inline_void _pass(
    const int radix, const bint forward, const int turn, real* re, real* im, Py_ssize_t blocks, Py_ssize_t count,
    Py_ssize_t step, Py_ssize_t apart, Py_ssize_t columns, const real* turns,
) noexcept nogil:
    cdef local_vec a[8]
    cdef local_vec b[8]
    cdef const real* w = turns
    cdef Py_ssize_t _block, _j, _column, at
    cdef int s
    for _block in range(blocks):
        if turn == ONE_EACH:
            w = turns
        for _j in range(count):
            at = 0
            for _column in range(columns):
                for s in range(radix):
                    a[s] = vec_load(re + at + s * apart)
                    b[s] = vec_load(im + at + s * apart)
                    if not forward and turn == ONE_EACH and s > 0:
                        _turn_by(a + s, b + s, w[2 * s - 2], w[2 * s - 1])
                    elif not forward and turn == LANES_EACH:
                        _turn(a + s, b + s, vec_load(w + 2 * s * LANES), vec_load(w + (2 * s + 1) * LANES))
                _dft(radix, a, b)
                for s in range(radix):
                    if forward and turn == ONE_EACH and s > 0:
                        _turn_by(a + s, b + s, w[2 * s - 2], w[2 * s - 1])
                    elif forward and turn == LANES_EACH:
                        _turn(a + s, b + s, vec_load(w + 2 * s * LANES), vec_load(w + (2 * s + 1) * LANES))
                    (<vec*>(re + at + s * apart))[0] = a[s]
                    (<vec*>(im + at + s * apart))[0] = b[s]
                at += LANES
            if turn == ONE_EACH:
                w += 2 * radix - 2
            elif turn == LANES_EACH:
                w += 2 * radix * LANES
            re += step
            im += step
        re += radix * apart - count * step
        im += radix * apart - count * step


cdef inline always_inline_void _pass_of(
    const int radix, const bint forward, int turn, real* re, real* im, Py_ssize_t blocks, Py_ssize_t count,
    Py_ssize_t step, Py_ssize_t apart, Py_ssize_t columns, const real* turns,
) noexcept nogil:
    if turn == NO_TURN:
        _pass(radix, forward, NO_TURN, re, im, blocks, 1, step, step, columns, turns)
    elif turn == ONE_EACH:
        _pass(radix, forward, ONE_EACH, re, im, blocks, count, step, apart, columns, turns)
    else:
        _pass(radix, forward, LANES_EACH, re, im, blocks, 1, step, step, 1, turns)


cdef inline void butterflies(
    int radix, bint forward, int turn, real* re, real* im, Py_ssize_t blocks, Py_ssize_t count, Py_ssize_t step,
    Py_ssize_t apart, Py_ssize_t columns, const real* turns,
) noexcept nogil:
    """One pass over `blocks` blocks: `count` butterflies in each, `step` reals from one to the next.

    A butterfly is `columns` vectors wide and its points are `apart` reals apart. Output s takes the place of point s
    and is multiplied by its turn.
    Backward: the inverse, for exchanged parts. `turns` are for ONE_EACH (re, im) of [butterfly][s > 0], the same for
    every block; for LANES_EACH two vectors for every point, count and columns being 1; without, count is 1.
    """
    if forward:
        if radix == 8:
            _pass_of(8, True, turn, re, im, blocks, count, step, apart, columns, turns)
        elif radix == 4:
            _pass_of(4, True, turn, re, im, blocks, count, step, apart, columns, turns)
        elif radix == 5:
            _pass_of(5, True, turn, re, im, blocks, count, step, apart, columns, turns)
        elif radix == 3:
            _pass_of(3, True, turn, re, im, blocks, count, step, apart, columns, turns)
        else:
            _pass_of(2, True, turn, re, im, blocks, count, step, apart, columns, turns)
    else:
        if radix == 8:
            _pass_of(8, False, turn, re, im, blocks, count, step, apart, columns, turns)
        elif radix == 4:
            _pass_of(4, False, turn, re, im, blocks, count, step, apart, columns, turns)
        elif radix == 5:
            _pass_of(5, False, turn, re, im, blocks, count, step, apart, columns, turns)
        elif radix == 3:
            _pass_of(3, False, turn, re, im, blocks, count, step, apart, columns, turns)
        else:
            _pass_of(2, False, turn, re, im, blocks, count, step, apart, columns, turns)


cdef inline always_inline_void _lanes(
    const bint there, const bint back, real* re, real* im, const Py_ssize_t* at, Py_ssize_t groups, const real* kre,
    const real* kim,
) noexcept nogil:
    cdef local_vec a[LANES]
    cdef local_vec b[LANES]
    cdef Py_ssize_t _group
    cdef int i
    for _group in range(groups):
        for i in range(LANES):
            a[i] = vec_load(re + at[i])
        if there:
            transpose_lanes(a)
        for i in range(LANES):
            b[i] = vec_load(im + at[i])
        if there:
            transpose_lanes(b)
            _dft_lanes(True, a, b)
        if there and back:
            for i in range(LANES):
                _turn(a + i, b + i, vec_load(kre + at[i]), vec_load(kim + at[i]))
        if back:
            _dft_lanes(False, b, a)
            transpose_lanes(a)
            transpose_lanes(b)
        for i in range(LANES):
            (<vec*>(re + at[i]))[0] = a[i]
            (<vec*>(im + at[i]))[0] = b[i]
        at += LANES


cdef inline void across_lanes(
    bint there, bint back, real* re, real* im, const Py_ssize_t* at, Py_ssize_t groups, const real* kre, const real* kim
) noexcept nogil:
    """The transform over the lanes of each of LANES * groups vectors, which start at `at`; LANES of them together.

    There and back with a product in between: by a spectrum that lies as the data do.
    """
    if not back:
        _lanes(True, False, re, im, at, groups, kre, kim)
    elif there:
        _lanes(True, True, re, im, at, groups, kre, kim)
    else:
        _lanes(False, True, re, im, at, groups, kre, kim)


cdef inline void turn_lanes(real* re, real* im, Py_ssize_t count, const real* turn) noexcept nogil:
    """`count` vectors times one number per lane: a real and an imaginary vector."""
    cdef local_vec a, b, c = vec_load(turn), d = vec_load(turn + LANES)
    cdef Py_ssize_t v
    for v in range(count):
        a = vec_load(re + v * LANES)
        b = vec_load(im + v * LANES)
        _turn(&a, &b, c, d)
        (<vec*>(re + v * LANES))[0] = a
        (<vec*>(im + v * LANES))[0] = b
