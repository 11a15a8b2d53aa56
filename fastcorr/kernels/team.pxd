"""Units of work shared among threads, each with scratch of its own."""

from cpython.exc cimport PyErr_CheckSignals
from cpython.time cimport monotonic

from fastcorr._cpu cimport call_helpers, dismiss_helpers

cdef extern from *:
    """
    #define SLAB_SECONDS 0.01
    static void* NO_BLOCK = NULL;
    """
    const double SLAB_SECONDS  # between two looks at Ctrl-C
    void* NO_BLOCK

cdef extern from "keep.h":
    void* take_block(size_t bytes) noexcept nogil
    void give_block(void* block) noexcept nogil
    Py_ssize_t atomic_add(Py_ssize_t* at, Py_ssize_t more) noexcept nogil

ctypedef void* (*new_scratch)(const void* job) noexcept nogil
ctypedef void (*run_one)(const void* job, Py_ssize_t unit, void* scratch) noexcept nogil


cdef struct Team:
    const void* job
    Py_ssize_t next, end, grab             # units
    new_scratch scratch_new
    run_one run_unit


cdef inline void scratch_free(void* scratch) noexcept nogil:
    """Scratch starts with the address of the block it lies in, which `take_block` gave."""
    if scratch != NULL:
        give_block((<void**>scratch)[0])


cdef inline void* no_scratch(const void* job) noexcept nogil:
    """Of work that needs none."""
    return &NO_BLOCK


cdef inline bint take_units(Team* team, void* scratch, double until) noexcept nogil:
    """Run units that nobody has taken, and more as long as it is not `until`; whether all are taken."""
    cdef Py_ssize_t unit, to
    while True:
        unit = atomic_add(&team.next, team.grab)
        to = min(unit + team.grab, team.end)
        while unit < to:
            team.run_unit(team.job, unit, scratch)
            unit += 1
        if to == team.end or unit > to:
            return True
        if monotonic() > until:
            return False


cdef inline void help_team(void* given) noexcept nogil:
    cdef Team* team = <Team*>given
    cdef void* scratch = NULL
    if atomic_add(&team.next, 0) < team.end:
        scratch = team.scratch_new(team.job)
    if scratch != NULL:
        take_units(team, scratch, 1e300)
    scratch_free(scratch)


cdef inline int run_units(
    const void* job, Py_ssize_t units, Py_ssize_t grab, int threads, new_scratch scratch_new, run_one run_unit
) except -1:
    """All `units` of `job`, `grab` at a time, by this thread and helpers, with a look at Ctrl-C now and then."""
    cdef Team team = Team(job, 0, units, grab, scratch_new, run_unit)
    cdef void* helpers = NULL
    cdef void* scratch = scratch_new(job)
    cdef bint done = False
    if scratch == NULL:
        raise MemoryError("no scratch memory for the kernel")
    threads = <int>min(threads, (units + grab - 1) // grab)
    if threads > 1:
        helpers = call_helpers(threads - 1, help_team, &team)
    try:
        while not done:
            with nogil:
                done = take_units(&team, scratch, monotonic() + SLAB_SECONDS)
            PyErr_CheckSignals()
    finally:
        with nogil:
            atomic_add(&team.next, units)
            dismiss_helpers(helpers)
        scratch_free(scratch)
    return 0
