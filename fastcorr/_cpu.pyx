"""The processor, the OpenMP runtime, and the pool of threads, in code that is itself built for the lowest level."""

cdef extern from "cpu.h":
    int x86_level() nogil
    int openmp_version() nogil
    int _max_threads "max_threads"() nogil
    const char* compiler_name() nogil

cdef extern from "pool.h":
    int watch_fork() nogil
    void* _call_helpers "pool_call"(int wanted, piecework work, void* job) noexcept
    void _dismiss_helpers "pool_dismiss"(void* first) noexcept nogil

X86_LEVEL = x86_level()
OPENMP = openmp_version()
COMPILER = compiler_name().decode()

if watch_fork():
    raise MemoryError("pthread_atfork failed")


def max_threads():
    """What OpenMP gives a region started by this thread: affinity, OMP_NUM_THREADS, threadpoolctl."""
    return _max_threads()


cdef void* call_helpers(int wanted, piecework work, void* job) noexcept:
    """Up to `wanted` helpers begin ``work(job)``, each when it gets a processor."""
    return _call_helpers(wanted, work, job)


cdef void dismiss_helpers(void* first) noexcept nogil:
    """Those that have not begun need not; the others are waited for."""
    _dismiss_helpers(first)
