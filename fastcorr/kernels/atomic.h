/* What threads tell each other, in full order: none of it is in an inner loop. */
#ifndef FASTCORR_ATOMIC_H
#define FASTCORR_ATOMIC_H
#include <stddef.h>
#if defined(_MSC_VER)
#include <intrin.h>
#endif

static inline long atomic_get(long *at) {
#if defined(_MSC_VER)
    return _InterlockedOr(at, 0);
#else
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);
#endif
}

/* What was there. */
static inline long atomic_swap(long *at, long value) {
#if defined(_MSC_VER)
    return _InterlockedExchange(at, value);
#else
    return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);
#endif
}

/* Whether it was `from` and now is `to`. */
static inline int atomic_turn(long *at, long from, long to) {
#if defined(_MSC_VER)
    return _InterlockedCompareExchange(at, to, from) == from;
#else
    return __atomic_compare_exchange_n(at, &from, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
#endif
}

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

/* In a loop that looks again and again. */
static inline void relax(void) {
#if defined(_MSC_VER) && (defined(_M_IX86) || defined(_M_X64))
    _mm_pause();
#elif defined(_MSC_VER)
    __yield();
#elif defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}
#endif
