/* The vector type and the register block of one build. REAL (float, double, int32_t, int64_t) comes from setup.py,
 * the instruction set from the compiler's flags. Without the vector attribute a vector has one lane: slow and right. */
#ifndef FASTCORR_SIMD_H
#define FASTCORR_SIMD_H
#include <stddef.h>
#include <stdint.h>

typedef REAL real;

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#if defined(__GNUC__)
typedef real vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
typedef real local_vec __attribute__((vector_size(VECTOR_BYTES)));
#define always_inline_void __attribute__((always_inline)) void
#else
typedef real vec;
typedef real local_vec;
#define always_inline_void void
#endif

/* Loops over a caller's samples, of any type and number: worth vectorising with checks of overlap and code for the rest,
 * which setup.py asks gcc not to do elsewhere. Without it pictures of int16 or uint8 take 1.6 to 1.9 times as long. */
#if defined(__GNUC__) && !defined(__clang__)
#define eager_void __attribute__((optimize("vect-cost-model=dynamic"))) void
#else
#define eager_void void
#endif

/* What fits the register file: MAX_ROWS weights, one load and MAX_ACC sums of the tile; for the sweep SWEEP_ROWS (or
 * PAIR_ROWS for complex data) x SWEEP_VECTORS sums, with 32 registers as many totals beside them, and SWEEP_VECTORS
 * loads. With 16 registers the tile spills at 6x2 (half the speed); with 32, 6x4 does not. */
#if defined(__AVX512F__) || defined(__aarch64__)
enum { MAX_ROWS = 6, MAX_ACC = 24, SWEEP_ROWS = 7, PAIR_ROWS = 3, SWEEP_VECTORS = 2 };
#else
enum { MAX_ROWS = 5, MAX_ACC = 12, SWEEP_ROWS = 6, PAIR_ROWS = 0, SWEEP_VECTORS = 2 };
#endif
enum { LANES = sizeof(vec) / sizeof(real) };

/* Vectors of sums that fit beside four weights and a load. */
#if defined(__AVX512F__) || defined(__aarch64__)
enum { PANEL = 16 };
#else
enum { PANEL = 10 };
#endif

/* What is in `x` is in a register here and now: gcc neither folds its computation into what uses it nor puts it off. */
#if defined(__GNUC__) && defined(__x86_64__)
#define IN_REGISTER(x) __asm__("" : "+v"(x))
#elif defined(__GNUC__) && defined(__aarch64__)
#define IN_REGISTER(x) __asm__("" : "+w"(x))
#else
#define IN_REGISTER(x)
#endif

/* In a register at once: a loop that zeroes many becomes a call of memset on an array in memory otherwise, a tenth of
 * the time of a tile of 64 taps. */
static inline vec vec_zero(void) {
#if defined(__GNUC__)
    vec x = {0};
#else
    vec x = 0;
#endif
    IN_REGISTER(x);
    return x;
}

/* Loads once. Left to itself gcc folds the load into each of up to three multiply-adds, and a 64-byte load that
 * crosses a cache line costs two cycles: 75 instead of 115 GFLOP/s at 3 rows. */
static inline vec vec_load(const real *p) {
    vec x = *(const vec *)p;
    IN_REGISTER(x);
    return x;
}

/* An address in one register. Left to itself gcc adds each vector's offset to what is the same for all taps, outside the
 * loop over them, and lacks the registers to keep so many. */
static inline const real *address_now(const real *p) {
#if defined(__GNUC__)
    __asm__("" : "+r"(p));
#endif
    return p;
}

/* Adds before the next sums begin. Left to itself gcc may put all such additions off until the end, where it lacks the
 * registers to keep so many sums: 66 instead of 92 GFLOP/s at 7 x 7. */
static inline local_vec vec_now(local_vec x) {
#if defined(__AVX512F__) || defined(__aarch64__)
    IN_REGISTER(x);
#endif
    return x;
}

/* A store past the cache, to an address aligned to the vector: what is too large to stay is not read in only to be
 * overwritten. Other threads see it after the fence. */
#if defined(__GNUC__) && defined(__SSE2__)
#include <immintrin.h>
#if defined(__AVX512F__)
static inline void vec_stream(real *p, local_vec x) { _mm512_stream_si512((void *)p, (__m512i)x); }
#elif defined(__AVX2__)
static inline void vec_stream(real *p, local_vec x) { _mm256_stream_si256((void *)p, (__m256i)x); }
#else
static inline void vec_stream(real *p, local_vec x) { _mm_stream_si128((void *)p, (__m128i)x); }
#endif
static inline void stream_fence(void) { _mm_sfence(); }
#else
static inline void vec_stream(real *p, local_vec x) { *(vec *)p = x; }
static inline void stream_fence(void) {}
#endif

/* With 16 registers the totals of a sweep do not fit beside its sums. Told that they are read here, gcc leaves them in
 * memory; left to itself it keeps some and spills sums inside the multiply loop (62 GFLOP/s instead of 89). */
static inline void wait_in_memory(local_vec *p) {
#if defined(__GNUC__) && !defined(__AVX512F__) && !defined(__aarch64__)
    __asm__ volatile("" : : "r"(p) : "memory");
#endif
}

/* Two vectors lane by lane: a0 b0 a1 b1 ..., its lower and its upper half; and back, from memory, samples of even
 * and of odd number. LANES by the preprocessor, for the lists of lanes. Without shuffles, or with lanes of another
 * number, through memory. */
#if defined(__GNUC__)
#define LANES_float (VECTOR_BYTES / 4)
#define LANES_double (VECTOR_BYTES / 8)
#define LANES_int32_t (VECTOR_BYTES / 4)
#define LANES_int64_t (VECTOR_BYTES / 8)
#define LANES_BY_NAME(type) LANES_##type
#define LANES_OF(type) LANES_BY_NAME(type)
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector) && LANES_OF(REAL) == 16
#define LOWER_LANES 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define UPPER_LANES 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define EVEN_LANES 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD_LANES 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif __has_builtin(__builtin_shufflevector) && LANES_OF(REAL) == 8
#define LOWER_LANES 0, 8, 1, 9, 2, 10, 3, 11
#define UPPER_LANES 4, 12, 5, 13, 6, 14, 7, 15
#define EVEN_LANES 0, 2, 4, 6, 8, 10, 12, 14
#define ODD_LANES 1, 3, 5, 7, 9, 11, 13, 15
#elif __has_builtin(__builtin_shufflevector) && LANES_OF(REAL) == 4
#define LOWER_LANES 0, 4, 1, 5
#define UPPER_LANES 2, 6, 3, 7
#define EVEN_LANES 0, 2, 4, 6
#define ODD_LANES 1, 3, 5, 7
#elif __has_builtin(__builtin_shufflevector) && LANES_OF(REAL) == 2
#define LOWER_LANES 0, 2
#define UPPER_LANES 1, 3
#define EVEN_LANES 0, 2
#define ODD_LANES 1, 3
#endif
#endif
#if defined(LOWER_LANES)
static inline local_vec vec_lower(local_vec a, local_vec b) { return __builtin_shufflevector(a, b, LOWER_LANES); }
static inline local_vec vec_upper(local_vec a, local_vec b) { return __builtin_shufflevector(a, b, UPPER_LANES); }
#if VECTOR_BYTES == 32 && LANES_OF(REAL) == 8
/* Lanes stay within their half, as they leave it slowly; so halves are loaded where they will end. */
typedef real half_vec __attribute__((vector_size(16), aligned(sizeof(real)), may_alias));
static inline local_vec vec_halves(const real *p, const real *q) {
    return __builtin_shufflevector(*(const half_vec *)p, *(const half_vec *)q, 0, 1, 2, 3, 4, 5, 6, 7);
}
static inline void vec_part(const real *p, local_vec *even, local_vec *odd) {
    local_vec a = vec_halves(p, p + 8), b = vec_halves(p + 4, p + 12);
    *even = __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14);
    *odd = __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}
#else
static inline void vec_part(const real *p, local_vec *even, local_vec *odd) {
    local_vec a = vec_load(p), b = vec_load(p + LANES);
    *even = __builtin_shufflevector(a, b, EVEN_LANES);
    *odd = __builtin_shufflevector(a, b, ODD_LANES);
}
#endif
#else
static inline local_vec vec_mixed(local_vec a, local_vec b, int from) {
    local_vec mixed;
    for (int i = 0; i < LANES; i++) mixed[i] = i % 2 ? b[from + i / 2] : a[from + i / 2];
    return mixed;
}
static inline local_vec vec_lower(local_vec a, local_vec b) { return vec_mixed(a, b, 0); }
static inline local_vec vec_upper(local_vec a, local_vec b) { return vec_mixed(a, b, LANES / 2); }
static inline void vec_part(const real *p, local_vec *even, local_vec *odd) {
    for (int i = 0; i < LANES; i++) (*even)[i] = p[2 * i], (*odd)[i] = p[2 * i + 1];
}
#endif
#else /* one lane */
static inline local_vec vec_lower(local_vec a, local_vec b) { return a; }
static inline local_vec vec_upper(local_vec a, local_vec b) { return b; }
static inline void vec_part(const real *p, local_vec *even, local_vec *odd) { *even = p[0], *odd = p[1]; }
#endif

/* The largest butterfly whose points, a real and an imaginary vector each, fit the registers. */
#if defined(__AVX512F__) || defined(__aarch64__)
enum { MAX_RADIX = 8 };
#else
enum { MAX_RADIX = 4 };
#endif

/* Lines of `bytes` from `p` on, on their way into the cache before they are needed: to be read, or to be overwritten. */
static inline void prefetch(const char *p, ptrdiff_t bytes) {
#if defined(__GNUC__)
    for (ptrdiff_t at = 0; at < bytes; at += 64) __builtin_prefetch(p + at, 0);
#endif
}
static inline void prefetch_to_write(char *p, ptrdiff_t bytes) {
#if defined(__GNUC__)
    for (ptrdiff_t at = 0; at < bytes; at += 64) __builtin_prefetch(p + at, 1);
#endif
}
#endif
