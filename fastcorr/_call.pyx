"""The call path from arrays to kernel, in C because a small correlation takes less time than a Python statement.

`call` finds the Plan of a repeated problem by the bytes of its description, and `resolved` whatever else follows from
shapes, dtypes and options; only a new problem meets problem.py, contraction.py and planner.py. `Runner` is the part of
a Plan that runs: cast what must be cast, allocate, choose threads, go. `LayerRunner` is that of layers and gradients.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.math cimport fabs
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy
cimport numpy as cnp

import numpy as np

cnp.import_array()

cdef enum:
    MAX_AXES = 64
    MAX_FOUND = 1024
    MAX_WORDS = 512         # of a description; what is longer is resolved anew at each call

cdef object _ndarray = np.ndarray
cdef dict _found = {}       # hash of a description -> (what was found, description, objects whose addresses are in it)
cdef Py_ssize_t _busy = 0   # threads in parallel calls under way: each Python thread has a pool of its own


cdef class Runner:
    """One kernel bound to the shapes and dtypes it was planned for."""

    cdef object kernel, kernel_run, problem, x_dtype, k_dtype, current_threads
    cdef int out_type, k_type, ndim
    cdef bint plain_k
    cdef double seconds, serial
    cdef cnp.npy_intp shape[MAX_AXES]

    def __init__(self, kernel, problem, x_dtype, k_dtype, double seconds, double serial, current_threads):
        cdef int i
        self.kernel, self.problem, self.current_threads = kernel, problem, current_threads
        self.kernel_run = kernel.run
        self.x_dtype, self.k_dtype = x_dtype, k_dtype
        self.seconds, self.serial = seconds, serial
        self.out_type, self.k_type = problem.dtype.num, k_dtype.num
        self.ndim = len(problem.out_shape)
        for i in range(self.ndim):
            self.shape[i] = problem.out_shape[i]
        self.plain_k = not problem.k_batched or problem.axes == tuple(range(self.ndim))[-problem.rank:]

    cpdef pack(self, cnp.ndarray k):
        """`k` as the kernel wants it, once for many runs."""
        return self.kernel.pack(self.ready_kernel(k))

    cdef cnp.ndarray ready_kernel(self, cnp.ndarray k):
        """C-contiguous, canonical, aligned, native, of the kernel's dtype."""
        if self.plain_k:
            if cnp.PyArray_TYPE(k) == self.k_type and cnp.PyArray_ISCARRAY_RO(k):
                return k
            return cnp.PyArray_FROM_OTF(k, self.k_type, cnp.NPY_ARRAY_CARRAY_RO | cnp.NPY_ARRAY_FORCECAST)
        return np.array(self.problem.canonical(k, kernel=True), dtype=self.k_dtype, order="C", copy=True)

    cpdef run(self, cnp.ndarray x, cnp.ndarray k, out, int threads, bint packed, bint rounded=False):
        """The result; `threads` 0 leaves their number to the size of the work. `rounded`: to the dtype of `out`."""
        global _busy
        cdef cnp.ndarray y
        cdef Py_ssize_t taken = 0
        if out is None:
            y = cnp.PyArray_EMPTY(self.ndim, self.shape, self.out_type, 0)
        else:
            y = self.target(out, x, None if packed else k, rounded)
        if self.x_dtype is not None:
            x = x.astype(self.x_dtype)
        if not packed:
            k = self.ready_kernel(k)
        if threads == 0:
            threads = 1
            if self.seconds > self.serial:
                threads = self.current_threads(_busy)
        try:
            if threads > 1:
                taken = threads
                _busy += taken
            self.kernel_run(x, k, y, threads, packed, y is not out)
        finally:
            _busy -= taken
        if out is None:
            return y
        if y is not out:
            if cnp.PyArray_ISINTEGER(<cnp.ndarray>out) and self.out_type == cnp.NPY_FLOAT64:
                y = truncated(y, out.dtype)
            cnp.PyArray_CopyInto(out, y)
        return out

    cdef cnp.ndarray target(self, out, cnp.ndarray x, k, bint rounded):
        """`out`, or a stand-in where the kernel cannot write straight to it."""
        cdef cnp.ndarray y
        cdef bint same, close, broadcast = False
        cdef int i
        if not isinstance(out, _ndarray):
            raise TypeError(f"out must be an ndarray, not {type(out).__name__}")
        y = out
        same = cnp.PyArray_TYPE(y) == self.out_type
        if not same and not rounded and out.dtype.newbyteorder("=") != self.problem.dtype:
            raise TypeError(f"out has dtype {out.dtype}, the result has {self.problem.dtype}")
        # Kernels round floating point as they store it. To integers NumPy casts: C leaves overflow undefined.
        close = (
            cnp.PyTypeNum_ISFLOAT(self.out_type) if cnp.PyArray_ISFLOAT(y)
            else cnp.PyArray_ISCOMPLEX(y) and cnp.PyTypeNum_ISCOMPLEX(self.out_type)
        ) and cnp.PyArray_TYPE(y) not in (cnp.NPY_LONGDOUBLE, cnp.NPY_CLONGDOUBLE)
        if cnp.PyArray_NDIM(y) != self.ndim or not cnp.PyArray_CompareLists(cnp.PyArray_DIMS(y), self.shape, self.ndim):
            raise ValueError(f"out has shape {out.shape}, the result has {self.problem.out_shape}")
        if not cnp.PyArray_ISWRITEABLE(y):
            raise ValueError("out is read-only")
        for i in range(self.ndim):
            broadcast = broadcast or cnp.PyArray_STRIDE(y, i) == 0
        if (
            cnp.PyArray_ISBEHAVED(y) and not broadcast and (same or close)
            and not _overlap(y, x) and (k is None or not _overlap(y, k))
        ):
            return y
        return cnp.PyArray_EMPTY(self.ndim, self.shape, self.out_type, 0)


ctypedef fused whole:           # the short ones have the same bits with and without a sign
    cnp.npy_uint8
    cnp.npy_uint16
    cnp.npy_int32
    cnp.npy_int64
    cnp.npy_uint32
    cnp.npy_uint64


cdef void _truncate(const double* v, whole* to, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef double value
    for i in range(n):
        value = v[i]
        if sizeof(whole) < 4 or whole is cnp.npy_int32:
            to[i] = <whole><cnp.npy_int32>(value if fabs(value) < 2.0**31 else -2.0**31)
        else:
            if whole is cnp.npy_uint64 and value >= 2.0**63:
                value -= 2.0**64
            to[i] = <whole><int64_t>(value if fabs(value) < 2.0**63 else -2.0**63)


def truncated(cnp.ndarray y not None, dtype):
    """Float64 `y`, C-contiguous, toward zero in the integer `dtype`, native.

    By way of int32 or, to types with more values, of int64: what these have no value for becomes their least, as x86
    does it. NumPy's cast warns of that, and a block that keeps it quiet takes as long as a small correlation.
    """
    cdef int type = dtype.num
    cdef cnp.ndarray a = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(y), cnp.PyArray_DIMS(y), type, 0)
    cdef const double* v = <const double*>cnp.PyArray_DATA(y)
    cdef void* to = cnp.PyArray_DATA(a)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(y)
    cdef int size = cnp.PyArray_ITEMSIZE(a)
    cdef bint signed = cnp.PyTypeNum_ISSIGNED(type)
    with nogil:
        if size == 1:
            _truncate(v, <cnp.npy_uint8*>to, n)
        elif size == 2:
            _truncate(v, <cnp.npy_uint16*>to, n)
        elif size == 4 and signed:
            _truncate(v, <cnp.npy_int32*>to, n)
        elif size == 4:
            _truncate(v, <cnp.npy_uint32*>to, n)
        elif signed:
            _truncate(v, <cnp.npy_int64*>to, n)
        else:
            _truncate(v, <cnp.npy_uint64*>to, n)
    return a


cdef bint _overlap(cnp.ndarray a, cnp.ndarray b):
    """Whether the memory from the first to the last byte of two arrays overlaps, as numpy.may_share_memory sees it."""
    cdef char *begin[2]
    cdef char *end[2]
    cdef cnp.npy_intp reach
    cdef cnp.ndarray v
    cdef int i, n = 0
    for v in (a, b):
        begin[n] = end[n] = cnp.PyArray_BYTES(v)
        for i in range(cnp.PyArray_NDIM(v)):
            if cnp.PyArray_DIM(v, i) == 0:
                return False
            reach = (cnp.PyArray_DIM(v, i) - 1) * cnp.PyArray_STRIDE(v, i)
            if reach < 0:
                begin[n] += reach
            else:
                end[n] += reach
        end[n] += cnp.PyArray_ITEMSIZE(v)
        n += 1
    return begin[0] < end[1] and begin[1] < end[0]


cdef class LayerRunner:
    """A Contraction, from arrays as a face has them to its result: at once where its kernel takes them as they are.

    `kernel_run` is None where none does; then, and for arrays of other types or layouts, ``contract(form, a, b, method,
    bias, out)`` is what runs. `shapes` are those of a, b and bias in `form`, and of the result as the face has it.
    """

    cdef object form, contract, kernel_run, repair, current_threads
    cdef str method
    cdef tuple watched
    cdef int out_type, ndim, ndims[4]
    cdef bint weights_first, serial
    cdef cnp.npy_intp shape[MAX_AXES]
    cdef cnp.npy_intp shapes[4][MAX_AXES]

    def __init__(
        self, form, str method, tuple shapes, contract, kernel_run, bint weights_first, bint serial, tuple watched,
        repair, current_threads,
    ):
        cdef int i, n
        self.form, self.method, self.contract, self.kernel_run = form, method, contract, kernel_run
        self.weights_first, self.serial, self.watched = weights_first, serial, watched
        self.repair, self.current_threads = repair, current_threads
        self.out_type = form.dtype.num
        self.ndim = len(form.out_shape)
        for i in range(self.ndim):
            self.shape[i] = form.out_shape[i]
        for n in range(4):
            self.ndims[n] = len(shapes[n])
            for i in range(self.ndims[n]):
                self.shapes[n][i] = shapes[n][i]

    cdef cnp.ndarray shaped(self, cnp.ndarray a, int n):
        cdef cnp.PyArray_Dims dims
        if cnp.PyArray_NDIM(a) == self.ndims[n] and cnp.PyArray_CompareLists(
            cnp.PyArray_DIMS(a), self.shapes[n], self.ndims[n]
        ):
            return a
        dims.ptr, dims.len = self.shapes[n], self.ndims[n]
        return cnp.PyArray_Newshape(a, &dims, cnp.NPY_CORDER)

    cdef bint takes(self, cnp.ndarray a, bint ready):
        return cnp.PyArray_TYPE(a) == self.out_type and (
            cnp.PyArray_ISCARRAY_RO(a) if ready else cnp.PyArray_ISNOTSWAPPED(a)
        )

    def __call__(self, cnp.ndarray a not None, cnp.ndarray b not None, bias=None, out=None):
        """The result, of the face's shape; `out`, of the form's, is where it goes."""
        global _busy
        cdef cnp.ndarray y
        cdef Py_ssize_t threads = 1, taken = 0
        a, b = self.shaped(a, 0), self.shaped(b, 1)
        if bias is not None:
            bias = self.shaped(bias, 2)
        if (
            self.kernel_run is None or not self.takes(a, False) or not self.takes(b, self.weights_first)
            or not (bias is None or self.takes(bias, True))
        ):
            return self.shaped(self.contract(self.form, a, b, self.method, bias, out), 3)
        y = cnp.PyArray_EMPTY(self.ndim, self.shape, self.out_type, 0) if out is None else out
        try:
            if not self.serial:
                threads = taken = self.current_threads(_busy)
                _busy += taken
            if self.weights_first:
                bad = self.kernel_run(b, a, y, bias, *self.watched, threads)
            else:
                bad = self.kernel_run(a, b, y, bias, *self.watched, threads)
        finally:
            _busy -= taken
        if bad is not None:
            self.repair(self.form, a, b, bias, y, bad)
        return self.shaped(y, 3)


def claim(current_threads, run, *args):
    """The result of ``run(*args, threads)``, with the threads that others leave over; meanwhile they are not."""
    global _busy
    cdef Py_ssize_t taken = current_threads(_busy)
    try:
        _busy += taken
        return run(*args, taken)
    finally:
        _busy -= taken


ctypedef fused sample:
    float
    double

cdef enum:
    LANES = 16              # sums of a row that go side by side, for vectors
    ROW = 16 * LANES        # samples of a row that are summed so; longer ones are halved


cdef sample _row_sum(const sample* a, Py_ssize_t n) noexcept nogil:
    """Sum in pairs: its error grows with the logarithm of `n`."""
    cdef sample lane[LANES]
    cdef Py_ssize_t i, half
    cdef int j
    if n > ROW:
        half = n // 2
        half -= half % LANES
        return _row_sum(a, half) + _row_sum(a + half, n - half)
    for j in range(LANES):
        lane[j] = 0
    for i in range(n // LANES):
        for j in range(LANES):
            lane[j] += a[LANES * i + j]
    for i in range(n - n % LANES, n):
        lane[i % LANES] += a[i]
    half = LANES // 2
    while half:
        for j in range(half):
            lane[j] += lane[j + half]
        half //= 2
    return lane[0]


cdef void _channel_sums(
    const sample* g, sample* sums, Py_ssize_t batch, Py_ssize_t channels, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(channels):
        sums[row] = 0
    for row in range(batch * channels):
        sums[row % channels] += _row_sum(g + row * n, n)


def channel_sums(g, dtype, cnp.npy_intp channels, Py_ssize_t batch):
    """Sum of each of the `channels` of `g`, (batch, channels, ...), in `dtype`, float32 or float64.

    Each row is summed in pairs, then rows in order, whatever the layout of `g`.
    """
    cdef int type = dtype.num
    cdef cnp.ndarray a = cnp.PyArray_FROM_OTF(g, type, cnp.NPY_ARRAY_CARRAY_RO | cnp.NPY_ARRAY_FORCECAST)
    cdef cnp.ndarray sums = cnp.PyArray_EMPTY(1, &channels, type, 0)
    cdef Py_ssize_t rows = batch * channels
    cdef Py_ssize_t n = cnp.PyArray_SIZE(a) // rows if rows else 0
    with nogil:
        if type == cnp.NPY_FLOAT32:
            _channel_sums(<const float*>cnp.PyArray_DATA(a), <float*>cnp.PyArray_DATA(sums), batch, channels, n)
        else:
            _channel_sums(<const double*>cnp.PyArray_DATA(a), <double*>cnp.PyArray_DATA(sums), batch, channels, n)
    return sums


cdef struct Description:
    int64_t word[MAX_WORDS]
    int n
    bint lasting            # nothing in it can change while its address stays the same, and it is complete


cdef enum:
    ABSENT, ADDRESS, INTEGER, REAL, TUPLE, LIST, ARRAY


cdef inline void _write(Description* to, int64_t kind, int64_t word) noexcept:
    if to.n + 2 > MAX_WORDS:
        to.lasting = False
        return
    to.word[to.n], to.word[to.n + 1] = kind, word
    to.n += 2


cdef inline void _write_array(Description* to, cnp.ndarray a) noexcept:
    """Shape and dtype of `a`: equal dtypes may be several objects."""
    cdef int i
    _write(to, ARRAY + 2 * cnp.PyArray_TYPE(a) + cnp.PyArray_ISNOTSWAPPED(a), cnp.PyArray_NDIM(a))
    if to.n + cnp.PyArray_NDIM(a) > MAX_WORDS:
        to.lasting = False
        return
    for i in range(cnp.PyArray_NDIM(a)):
        to.word[to.n + i] = cnp.PyArray_DIM(a, i)
    to.n += cnp.PyArray_NDIM(a)


cdef int _write_option(Description* to, value) except -1:
    """Numbers by type and value (1, 1.0 and True are equal, but not all are strides), sequences by what is in them."""
    cdef double real
    cdef int64_t word = 0
    cdef int overflow = 0
    if type(value) is int:
        word = PyLong_AsLongLongAndOverflow(value, &overflow)
        if not overflow:
            _write(to, INTEGER, word)
            return 0
    elif type(value) is float:
        real = value
        memcpy(&word, &real, sizeof(word))
        _write(to, REAL, word)
        return 0
    elif type(value) is tuple or type(value) is list:
        _write(to, TUPLE if type(value) is tuple else LIST, len(value))
        for item in value:
            if not to.lasting:
                return 0
            _write_option(to, item)
        return 0
    _write(to, ADDRESS, <int64_t><void*>value)
    if value is not None and not isinstance(value, (str, int, float, complex, np.dtype, np.generic, type)):
        to.lasting = False
    return 0


cdef _frozen(value):
    """`value` with lists as tuples: holds all that has its address in a description."""
    return tuple([_frozen(item) for item in value]) if isinstance(value, (tuple, list)) else value


cdef inline uint64_t _hash(const Description* d) noexcept:
    # A hash of its own takes a third of the time of one over a bytes object; what it finds is compared in full.
    cdef uint64_t mixed = 0
    cdef int i
    for i in range(d.n):
        mixed = (mixed ^ <uint64_t>d.word[i]) * <uint64_t>0x9E3779B97F4A7C15
        mixed ^= mixed >> 32
    return mixed


cdef inline object _find(const Description* d, name):
    """What was kept, or None."""
    cdef tuple found
    cdef Py_ssize_t size = d.n * sizeof(int64_t)
    if not d.lasting:
        return None
    found = <tuple>_found.get(name)
    if found is None or len(<bytes>found[1]) != size or memcmp(<const char*><bytes>found[1], <const char*>d.word, size):
        return None
    return found[0]


cdef _keep(const Description* d, name, value, tuple held):
    if d.lasting:
        if len(_found) >= MAX_FOUND:
            _found.clear()
        _found[name] = (value, PyBytes_FromStringAndSize(<char*>d.word, d.n * sizeof(int64_t)), _frozen(held))
    return value


def resolved(make, str face, tuple arrays, tuple options):
    """``make(face, arrays, options)``, once for all ndarrays (or None) of these shapes and dtypes and `options`."""
    cdef Description d
    d.n, d.lasting = 0, True
    _write(&d, ADDRESS, <int64_t><void*>make)
    _write(&d, ADDRESS, <int64_t><void*>face)
    for a in arrays:
        if a is None:
            _write(&d, ABSENT, 0)
        else:
            _write_array(&d, a)
    for option in options:
        _write_option(&d, option)
    cdef object name = _hash(&d)
    cdef object value = _find(&d, name)
    if value is None:
        value = _keep(&d, name, make(face, arrays, options), (make, face, options))
    return value


cdef inline cnp.ndarray _plain(a):
    return a if type(a) is _ndarray else np.asarray(a)


def call(str face, x, k, out, tuple options, bint rounded=False):
    """Run `face` ("correlate" or "convolve") with its options in the order of the signature.

    `rounded`: `out` may have any dtype; the result is computed in its own and rounded once.
    """
    cdef cnp.ndarray xa = _plain(x), ka = _plain(k)
    cdef Description d
    d.n, d.lasting = 0, True
    _write(&d, ADDRESS, <int64_t><void*>face)
    for option in options:
        _write_option(&d, option)
    _write_array(&d, xa)
    _write_array(&d, ka)
    cdef object name = _hash(&d)
    cdef object runner = _find(&d, name)
    if runner is None:
        from . import planner

        runner = _keep(&d, name, planner.resolve_options(face, xa, ka, options).runner, (face, options))
    return (<Runner>runner).run(xa, ka, out, 0, False, rounded)
