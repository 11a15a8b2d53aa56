/* Threads that help a call, and sleep between calls.
 *
 * Not OpenMP's, because a parallel region ends when all of its threads have come and gone. One that a busy neighbour
 * keeps off its processor then holds up the call, with nothing left to do: a region of 1 ms took 16 to 26 ms, some
 * slices of the scheduler. And threads that wait spin, for 5 ms with libgomp, in which the scheduler cannot move others
 * to their processor. Here work is taken piece by piece, a call does without a helper that has not begun when all is
 * taken, and who waits soon sleeps. */
#ifndef FASTCORR_POOL_H
#define FASTCORR_POOL_H
#include "kernels/atomic.h"
#include <Python.h>
#include <pythread.h>

enum {
    MOST_HELPERS = 255,
    SPINS = 1000 /* looks before sleep, some 20 us: as long as a wake-up takes */
};

enum { ABSENT, IDLE, TAKEN, CALLED, BUSY, DONE }; /* states of a helper */

typedef struct helper {
    long state;
    long posted; /* `wake` was released and has not been acquired since */
    PyThread_type_lock wake, done;
    void (*work)(void *);
    void *job;
    struct helper *next; /* of the same call */
} helper;

static helper helpers[MOST_HELPERS]; /* of the process, whichever thread calls */

static void help(void *self) {
    helper *h = (helper *)self;
    for (;;) {
        for (int i = 0; i < SPINS && !atomic_get(&h->posted); i++)
            relax();
        PyThread_acquire_lock(h->wake, WAIT_LOCK);
        atomic_swap(&h->posted, 0);
        if (!atomic_turn(&h->state, CALLED, BUSY))
            continue; /* too late */
        h->work(h->job);
        atomic_swap(&h->state, DONE);
        PyThread_release_lock(h->done);
    }
}

/* Whether the system gives the thread. Locks are made once and are held by nobody's turn: release means "go on". */
static int begin_helper(helper *h) {
    if (h->wake == NULL && (h->wake = PyThread_allocate_lock()) != NULL)
        PyThread_acquire_lock(h->wake, WAIT_LOCK);
    if (h->done == NULL && (h->done = PyThread_allocate_lock()) != NULL)
        PyThread_acquire_lock(h->done, WAIT_LOCK);
    return h->wake != NULL && h->done != NULL && PyThread_start_new_thread(help, h) != PYTHREAD_INVALID_THREAD_ID;
}

/* Up to `wanted` helpers begin ``work(job)``, each when it gets a processor. With the GIL, for a new thread's sake. */
static void *pool_call(int wanted, void (*work)(void *), void *job) {
    helper *first = NULL;
    for (helper *h = helpers; wanted > 0 && h < helpers + MOST_HELPERS; h++) {
        if (!atomic_turn(&h->state, IDLE, TAKEN)) {
            if (!atomic_turn(&h->state, ABSENT, TAKEN))
                continue;
            if (!begin_helper(h)) {
                atomic_swap(&h->state, ABSENT);
                break;
            }
        }
        h->work = work;
        h->job = job;
        h->next = first;
        first = h;
        wanted--;
        atomic_swap(&h->state, CALLED);
        if (!atomic_swap(&h->posted, 1))
            PyThread_release_lock(h->wake);
    }
    return first;
}

/* Those that have not begun need not; the others are waited for. */
static void pool_dismiss(void *first) {
    for (helper *h = (helper *)first, *next; h != NULL; h = next) {
        next = h->next;
        if (!atomic_turn(&h->state, CALLED, IDLE)) {
            for (int i = 0; i < SPINS && atomic_get(&h->state) == BUSY; i++)
                relax();
            PyThread_acquire_lock(h->done, WAIT_LOCK);
            atomic_swap(&h->state, IDLE);
        }
    }
}

/* A forked child has no helpers yet, and whatever they were at does not go on there. */
#ifdef _WIN32
static int watch_fork(void) { return 0; }
#else
#include <pthread.h>
#include <string.h>
static void in_child(void) { memset(helpers, 0, sizeof helpers); }
static int watch_fork(void) { return pthread_atfork(NULL, NULL, in_child); }
#endif
#endif
