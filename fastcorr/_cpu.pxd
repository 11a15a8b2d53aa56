"""Helpers from the one pool of the process, for kernels of every level and element type: see pool.h."""

ctypedef void (*piecework)(void* job) noexcept nogil

cdef void* call_helpers(int wanted, piecework work, void* job) noexcept
cdef void dismiss_helpers(void* first) noexcept nogil
