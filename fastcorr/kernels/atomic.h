/* What threads tell each other, in full order: none of it is in an inner loop. */
#ifndef FASTCORR_ATOMIC_H
#define FASTCORR_ATOMIC_H
#include <stddef.h>
#if defined(_MSC_VER)
#include <intrin.h>
#endif

/* What was there. */
static inline ptrdiff_t atomic_add(ptrdiff_t *at, ptrdiff_t more) {
#if defined(_MSC_VER) && defined(_WIN64)
    return _InterlockedExchangeAdd64((long long *)at, more);
#elif defined(_MSC_VER)
    return _InterlockedExchangeAdd((long *)at, more);
#else
    return __atomic_fetch_add(at, more, __ATOMIC_SEQ_CST);
#endif
}

static inline void *atomic_swap_pointer(void **at, void *value) {
#if defined(_MSC_VER)
    return _InterlockedExchangePointer(at, value);
#else
    return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);
#endif
}

#endif
