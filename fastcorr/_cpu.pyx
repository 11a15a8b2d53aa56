"""The processor and the OpenMP runtime, asked from code that is itself built for the lowest level."""

cdef extern from "cpu.h":
    int x86_level() nogil
    int openmp_version() nogil
    int watch_fork() nogil
    int _max_threads "max_threads"() nogil
    int _obtainable_threads "obtainable_threads"(int wanted) nogil
    const char* compiler_name() nogil

X86_LEVEL = x86_level()
OPENMP = openmp_version()
COMPILER = compiler_name().decode()

if watch_fork():
    raise MemoryError("pthread_atfork failed")


def max_threads():
    """What OpenMP gives a region started by this thread: affinity, OMP_NUM_THREADS, threadpoolctl."""
    return _max_threads()


def obtainable_threads(int wanted):
    """How many of `wanted` threads can be had without the runtime giving up and leaving the process."""
    return _obtainable_threads(wanted)
