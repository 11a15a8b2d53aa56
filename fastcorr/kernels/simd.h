/* The vector type and the register block of one build. REAL (float, double, int32_t, int64_t) comes from setup.py,
 * the instruction set from the compiler's flags. Without the vector attribute a vector has one lane: slow and right. */
#ifndef FASTCORR_SIMD_H
#define FASTCORR_SIMD_H
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
#define always_inline_void __attribute__((always_inline)) void
static inline vec vec_zero(void) { return (vec){0}; }
#else
typedef real vec;
#define always_inline_void void
static inline vec vec_zero(void) { return 0; }
#endif

/* Rows and accumulators that fit the register file: ROWS weights, one load and ACC sums. With 16 registers 6x2 spills
 * (half the speed); with 32, 6x4 does not. */
#if defined(__AVX512F__) || defined(__aarch64__)
enum { LANES = sizeof(vec) / sizeof(real), MAX_ROWS = 6, MAX_ACC = 24, MAX_SWEEP = 6, SWEEP_VECTORS = 2, SWEEP_REACH = 7 };
#else
enum { LANES = sizeof(vec) / sizeof(real), MAX_ROWS = 5, MAX_ACC = 12, MAX_SWEEP = 6, SWEEP_VECTORS = 1, SWEEP_REACH = 4 };
#endif

/* Loads once. Left to itself gcc folds the load into each of up to three multiply-adds, and a 64-byte load that
 * crosses a cache line costs two cycles: 75 instead of 115 GFLOP/s at 3 rows. */
static inline vec vec_load(const real *p) {
    vec x = *(const vec *)p;
#if defined(__GNUC__) && defined(__x86_64__)
    __asm__("" : "+v"(x));
#endif
    return x;
}
#endif
