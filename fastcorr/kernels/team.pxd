"""Units of work shared among threads, each with scratch of its own."""

from cpython.exc cimport PyErr_CheckSignals
from cpython.time cimport monotonic
from cython.parallel cimport parallel, prange

cdef extern from *:
    """
    #define SLAB_SECONDS 0.01
    """
    const double SLAB_SECONDS  # between two looks at Ctrl-C

cdef extern from "keep.h":
    void* take_block(size_t bytes) noexcept nogil
    void give_block(void* block) noexcept nogil

cdef enum:
    LINE = 64  # bytes of a cache line

ctypedef void* (*new_scratch)(const void* job) noexcept nogil
ctypedef void (*run_one)(const void* job, Py_ssize_t unit, void* scratch) noexcept nogil


cdef inline void scratch_free(void* scratch) noexcept nogil:
    """Scratch starts with the address of the block it lies in, which `take_block` gave."""
    if scratch != NULL:
        give_block((<void**>scratch)[0])


cdef inline void* cut(char** rest, Py_ssize_t bytes) noexcept nogil:
    """The next piece of a block, which takes up to `bytes` + LINE: it starts on a cache line.

    Half of the vectors of a panel that did not were loads of two lines each, and a tile's taps fell out of the L1
    cache: a quarter more time for a transposed layer.
    """
    cdef char* piece = <char*>((<size_t>rest[0] + LINE - 1) // LINE * LINE)
    rest[0] = piece + bytes
    return piece


cdef inline int run_units(
    const void* job, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t grab, int threads, new_scratch scratch_new,
    run_one run_unit,
) noexcept nogil:
    """Units `begin` to `end` of `job`, `grab` at a time; -1 when scratch cannot be had.

    One thread opens no parallel region: there is no pool to wake.
    """
    cdef Py_ssize_t unit
    cdef int failed = 0
    cdef int* failure = &failed
    cdef void* s = NULL
    if threads == 1:
        s = scratch_new(job)
        if s == NULL:
            return -1
        for unit in range(begin, end):
            run_unit(job, unit, s)
        scratch_free(s)
        return 0
    with parallel(num_threads=threads):
        s = scratch_new(job)
        if s == NULL:
            failure[0] = -1
        for unit in prange(begin, end, schedule="dynamic", chunksize=grab):
            if s != NULL:
                run_unit(job, unit, s)
        scratch_free(s)
    return failed


cdef inline int run_slabs(
    const void* job, Py_ssize_t units, double seconds, Py_ssize_t grab, int threads, new_scratch scratch_new,
    run_one run_unit,
) except -1:
    """All `units` of `job`, `grab` at a time, with a look at Ctrl-C now and then.

    One unit is thought to take a thread so many `seconds`. Where that says that there will be a second slab, the first
    is a small one, and its time tells more: an estimate for long sums says little of a kernel that gathers.
    """
    cdef double slab = SLAB_SECONDS * threads / seconds, begin, end
    cdef Py_ssize_t done = 0, to
    cdef int failed
    if slab < units:
        slab /= 8
    begin = monotonic()
    while True:
        slab = max(slab, threads)
        to = units if units - done <= slab else done + <Py_ssize_t>slab
        with nogil:
            failed = run_units(job, done, to, grab, threads, scratch_new, run_unit)
        if failed:
            raise MemoryError("no scratch memory for the kernel")
        PyErr_CheckSignals()
        if to == units:
            return 0
        done = to
        end = monotonic()
        slab *= min(4, SLAB_SECONDS / max(end - begin, 1e-9))
        begin = end
