/* What the machine and the OpenMP runtime can do, and what keeps both well-behaved: fork, thread limits. */
#ifndef FASTCORR_CPU_H
#define FASTCORR_CPU_H

#ifdef _OPENMP
#include <omp.h>
static int openmp_version(void) { return _OPENMP; }
#else
static int openmp_version(void) { return 0; }
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

#if defined(_OPENMP) && !defined(_WIN32)
#include <pthread.h>
#include <stdlib.h>

/* Threads of this thread's OpenMP pool that are known to exist. */
static __thread int grown = 1;
static int forked = 0;

/* After a parallel region a forked child would wait for ever for pool threads it does not have. Letting go of the pool
 * before the fork costs 70-95 us and leaves parent and child free to make new ones. A runtime without the call (older
 * than OpenMP 5) leaves the child one thread. LLVM's runtime, clang's, knows of forks; there a thread that had called
 * before somebody else let go of the pool hangs or crashes in its next call. */
#ifdef __clang__
static void before_fork(void) {}
static void in_child(void) { grown = 1; }
#else
#pragma weak omp_pause_resource_all
static void before_fork(void) {
    if (&omp_pause_resource_all) {
        omp_pause_resource_all(omp_pause_hard);
        grown = 1;
    }
}
static void in_child(void) {
    if (!&omp_pause_resource_all)
        forked = 1;
}
#endif
static int watch_fork(void) { return pthread_atfork(before_fork, NULL, in_child); }

/* Bytes OMP_STACKSIZE asks for: a number, then B, K (also by default), M or G. 0: the system's default. */
static size_t openmp_stack(void) {
    const char *text = getenv("OMP_STACKSIZE");
    char *unit;
    unsigned long size;
    if (text == NULL && (text = getenv("GOMP_STACKSIZE")) == NULL)
        return 0;
    size = strtoul(text, &unit, 10);
    while (*unit == ' ')
        unit++;
    switch (*unit) {
    case 'b': case 'B': return size;
    case 'm': case 'M': return size << 20;
    case 'g': case 'G': return size << 30;
    default: return size << 10;
    }
}

static void *wait_for_gate(void *gate) {
    pthread_mutex_lock((pthread_mutex_t *)gate);
    pthread_mutex_unlock((pthread_mutex_t *)gate);
    return NULL;
}

/* libgomp calls exit() when it cannot create a thread. So before a pool grows, as many threads are made and joined
 * here: how many of `wanted` a region may have. A smaller region shrinks the pool. */
static int obtainable_threads(int wanted) {
    enum { MOST = 256 };
    pthread_t thread[MOST];
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_attr_t attributes;
    int made = 0, i;
    if (forked)
        return 1;
    if (wanted <= grown) {
        grown = wanted;
        return wanted;
    }
    if (wanted > MOST)
        wanted = MOST;
    if (pthread_attr_init(&attributes))
        return 1;
    if (openmp_stack())
        pthread_attr_setstacksize(&attributes, openmp_stack()); /* refused where libgomp's own call is */
    pthread_mutex_lock(&gate);
    while (made < wanted - 1 && pthread_create(&thread[made], &attributes, wait_for_gate, &gate) == 0)
        made++;
    pthread_mutex_unlock(&gate);
    for (i = 0; i < made; i++)
        pthread_join(thread[i], NULL);
    pthread_attr_destroy(&attributes);
    grown = made + 1;
    return grown;
}
static int max_threads(void) { return forked ? 1 : omp_get_max_threads(); }

#elif defined(_OPENMP)
static int watch_fork(void) { return 0; }
static int obtainable_threads(int wanted) { return wanted; }
static int max_threads(void) { return omp_get_max_threads(); }
#else
static int watch_fork(void) { return 0; }
static int obtainable_threads(int wanted) { return 1; }
static int max_threads(void) { return 1; }
#endif

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
