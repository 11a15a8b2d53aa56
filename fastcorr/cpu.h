/* What the machine can do, and how many threads OpenMP would use. */
#ifndef FASTCORR_CPU_H
#define FASTCORR_CPU_H

#ifdef _OPENMP
#include <omp.h>
static int openmp_version(void) { return _OPENMP; }
static int max_threads(void) { return omp_get_max_threads(); }
#else
static int openmp_version(void) { return 0; }
static int max_threads(void) { return 1; }
#endif

/* Highest x86-64 level the processor and the system support: 1 to 4; 0 elsewhere. Single features, because clang does
 * not know the names of the levels in __builtin_cpu_supports. */
static int x86_level(void) {
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")))
        return 1;
    if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd")
          && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")))
        return 3;
    return 4;
#else
    return 0;
#endif
}

static const char *compiler_name(void) {
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#elif defined(_MSC_VER)
    return "msvc";
#else
    return "unknown";
#endif
}
#endif
