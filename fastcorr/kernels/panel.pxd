"""What layers share around their panels: axes, where images start, residues of a stride."""

from .line cimport CONSTANT, extend
from .tile cimport ceil_div

cdef struct Axis:
    Py_ssize_t n, x                    # samples of X, bytes from one to the next
    int rule
    Py_ssize_t offset                  # of tap 0, lane 0
    Py_ssize_t k, a, p                 # taps, bytes from one to the next in A, samples
    Py_ssize_t m, y, q                 # lanes, bytes from one to the next in y, samples
    Py_ssize_t s                       # results that a lane has side by side, residues: see `first_sample`; mostly 1
    # How the panel holds the axis: in strips, where taps start up to `shift` further on, or, if they are spread, in one
    # strip for each tap.
    Py_ssize_t strips, shift
    bint spread


cdef inline Axis unit_axis() noexcept nogil:
    """One sample, one kernel position."""
    cdef Axis axis
    axis.n = axis.k = axis.m = axis.p = axis.q = axis.s = 1
    axis.x = axis.a = axis.y = axis.offset = axis.shift = 0
    axis.strips, axis.spread = 1, False
    axis.rule = CONSTANT
    return axis


cdef inline Py_ssize_t find_place(
    const Axis* axis, int naxes, Py_ssize_t place, Py_ssize_t* position
) noexcept nogil:
    """The batch entry of a place; `position` along all but the last two axes."""
    cdef int i
    for i in range(naxes - 3, -1, -1):
        position[i] = place % axis[i].m
        place //= axis[i].m
    return place


cdef inline const char* image_start(
    const Axis* axis, int naxes, const char* x, Py_ssize_t x_channel, Py_ssize_t image, const Py_ssize_t* place
) noexcept nogil:
    """Where image number `image` of those that are summed starts; NULL if it lies in the fill."""
    cdef Py_ssize_t u
    cdef int i
    for i in range(naxes - 3, -1, -1):
        u = extend(axis[i].offset + axis[i].p * (image % axis[i].k) + axis[i].q * place[i], axis[i].n, axis[i].rule)
        if u < 0:
            return NULL
        x += u * axis[i].x
        image //= axis[i].k
    return x + image * x_channel


cdef inline Py_ssize_t first_sample(const Axis* axis, Py_ssize_t tap) noexcept nogil:
    """Of X, that lane 0 reads at `tap`: offset + p * tap, rounded up to a multiple of s and divided by it."""
    cdef Py_ssize_t u = axis.offset + axis.p * tap
    return (u + axis.s - 1 if u > 0 else u) // axis.s


cdef inline Py_ssize_t residue_of(const Axis* axis, Py_ssize_t tap) noexcept nogil:
    """Which of the s results of a lane `tap` adds to."""
    return axis.s * first_sample(axis, tap) - axis.offset - axis.p * tap


cdef inline Py_ssize_t kernel_step(Py_ssize_t stride, Py_ssize_t dilation) noexcept nogil:
    """From one kernel position to the next that meets the same residue of the input position modulo the stride."""
    cdef Py_ssize_t f = dilation, h = stride
    while h:
        f, h = h, f % h
    return stride // f


cdef inline bint leaves_gaps(Py_ssize_t kernel, Py_ssize_t stride, Py_ssize_t dilation) noexcept nogil:
    """Whether the stride steps over input positions that no kernel position meets."""
    return min(kernel, kernel_step(stride, dilation)) < stride


cdef inline Py_ssize_t take_residue(
    Axis* axis, Py_ssize_t residue, Py_ssize_t size, Py_ssize_t kernel, Py_ssize_t out_size, Py_ssize_t stride,
    Py_ssize_t dilation, Py_ssize_t lo,
) noexcept nogil:
    """Make `axis` that of an input gradient, for the input positions `residue` + a multiple of the stride.

    Returns the first kernel position that they meet, the others are `kernel_step` apart; axis.k <= 0 if there is none.
    """
    cdef Py_ssize_t step = kernel_step(stride, dilation), j = 0
    while j < kernel and (residue + lo - dilation * j) % stride != 0:
        j += 1
    axis.k = ceil_div(kernel - j, step)
    axis.n, axis.rule, axis.offset = out_size, CONSTANT, (residue + lo - dilation * j) // stride  # exact if there is j
    axis.p, axis.q, axis.s, axis.m = -(dilation * step // stride), 1, 1, ceil_div(size - residue, stride)
    return j
