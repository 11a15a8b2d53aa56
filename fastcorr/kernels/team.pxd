"""Units of work shared among threads, each with scratch of its own."""

from cpython.exc cimport PyErr_CheckSignals
from cpython.time cimport monotonic
from cython.parallel cimport prange

cdef extern from *:
    """
    #define SLAB_SECONDS 0.01
    #define LOOK_SECONDS 5e-5
    #define LATE_SECONDS 0.002
    #define ALONE_SECONDS 0.05
    static void* NO_BLOCK = NULL;
    static double alone_until[1];
    """
    const double SLAB_SECONDS   # between two looks at Ctrl-C
    const double LOOK_SECONDS   # between two at the clock, at least
    const double LATE_SECONDS   # a shorter wait for another thread is none
    const double ALONE_SECONDS  # then calls go without for so long
    double* alone_until         # in this module
    void* NO_BLOCK

cdef extern from "keep.h":
    void* take_block(size_t bytes) noexcept nogil
    void give_block(void* block) noexcept nogil
    Py_ssize_t atomic_add(Py_ssize_t* at, Py_ssize_t more) noexcept nogil

cdef enum:
    LINE = 64  # bytes of a cache line

ctypedef void* (*new_scratch)(const void* job) noexcept nogil
ctypedef void (*run_one)(const void* job, Py_ssize_t unit, void* scratch) noexcept nogil


cdef struct Team:
    const void* job
    Py_ssize_t next, end, grab             # units
    new_scratch scratch_new
    run_one run_unit
    double until                           # then all look up
    double worked                          # seconds, by the calling thread


cdef inline void scratch_free(void* scratch) noexcept nogil:
    """Scratch starts with the address of the block it lies in, which `take_block` gave."""
    if scratch != NULL:
        give_block((<void**>scratch)[0])


cdef inline void* no_scratch(const void* job) noexcept nogil:
    """Of work that needs none."""
    return &NO_BLOCK


cdef inline void* cut(char** rest, Py_ssize_t bytes) noexcept nogil:
    """The next piece of a block, which takes up to `bytes` + LINE: it starts on a cache line.

    Half of the vectors of a panel that did not were loads of two lines each, and a tile's taps fell out of the L1
    cache: a quarter more time for a transposed layer.
    """
    cdef char* piece = <char*>((<size_t>rest[0] + LINE - 1) // LINE * LINE)
    rest[0] = piece + bytes
    return piece


cdef inline void take_units(Team* team, void* scratch) noexcept nogil:
    """Run units that nobody has taken, until it is time to look up.

    A look at the clock after each unit made layers with units of 2 us take 3 % longer: one in 50 us is enough.
    """
    cdef Py_ssize_t unit, to, grabs = 0, looks = 1
    cdef double last = team.until - SLAB_SECONDS, now
    while True:
        unit = atomic_add(&team.next, team.grab)
        to = min(unit + team.grab, team.end)
        while unit < to:
            team.run_unit(team.job, unit, scratch)
            unit += 1
        if to == team.end:
            return
        grabs += 1
        if grabs >= looks:
            now = monotonic()
            if now > team.until:
                return
            looks = min(2 * looks, <Py_ssize_t>16) if now - last < LOOK_SECONDS else 1
            last, grabs = now, 0


cdef inline void join_team(Team* team, int member, void* scratch) noexcept nogil:
    """What one thread of a region does; `scratch` is that of member 0, who called. Who comes late begins nothing."""
    cdef double begin
    if member == 0:
        begin = monotonic()
        take_units(team, scratch)
        team.worked = monotonic() - begin
    elif atomic_add(&team.next, 0) < team.end and monotonic() < team.until:
        scratch = team.scratch_new(team.job)
        if scratch != NULL:  # else the others do its part
            take_units(team, scratch)
        scratch_free(scratch)


cdef inline void run_region(Team* team, int threads, void* scratch) noexcept nogil:
    """One parallel region. It begins when all have left the last one, and ends when all have come and gone.

    Beside a busy process that may take slices of the scheduler, 4 ms and more each, for work of one. What another
    thread still had to do was one grab, which takes less than all that the calling thread did: after a wait twice as
    long as that, for a thread without a processor, calls go without for a while.
    """
    cdef int member
    cdef double begin = team.until - SLAB_SECONDS, now, waited
    for member in prange(threads, schedule="static", chunksize=1, num_threads=threads):
        join_team(team, member, scratch)
    now = monotonic()
    waited = now - begin - team.worked
    if waited > max(LATE_SECONDS, 2 * team.worked):
        alone_until[0] = now + ALONE_SECONDS


cdef inline bint uneven(Py_ssize_t units, int threads) noexcept nogil:
    """Whether so many equal units leave threads idle for more than a tenth of the time."""
    return 10 * ((units + threads - 1) // threads * threads) > 11 * units


cdef inline int run_units(
    const void* job, Py_ssize_t units, Py_ssize_t grab, int threads, new_scratch scratch_new, run_one run_unit
) except -1:
    """All `units` of `job`, `grab` at a time, with a look at Ctrl-C now and then.

    One thread opens no parallel region: there is no pool to wake.
    """
    cdef Team team = Team(job, 0, units, grab, scratch_new, run_unit, 0, 0)
    cdef void* scratch = scratch_new(job)
    if scratch == NULL:
        raise MemoryError("no scratch memory for the kernel")
    threads = <int>min(threads, (units + grab - 1) // grab)
    try:
        while team.next < units:
            team.until = monotonic() + SLAB_SECONDS
            with nogil:
                if threads > 1 and team.until - SLAB_SECONDS >= alone_until[0]:
                    run_region(&team, threads, scratch)
                else:
                    take_units(&team, scratch)
            PyErr_CheckSignals()
    finally:
        scratch_free(scratch)
    return 0
