/* Scratch that outlives a call. glibc returns what is free at the end of its heap to the system from 1.6 MB on, as much
 * as a small layer's result and scratch: each call would have 380 new pages cleared, 800 us beside 190 us of work. */
#ifndef FASTCORR_KEEP_H
#define FASTCORR_KEEP_H
#include "atomic.h"
#include <stddef.h>
#include <stdlib.h>

/* Of each kernel, for as many threads; what is larger has work enough to pay for its pages. */
enum { KEPT_BLOCKS = 4, KEPT_BYTES = 1 << 20, KEPT_HEAD = 16 };
static void *kept[KEPT_BLOCKS];

/* `bytes`, uninitialised, aligned as malloc does it; NULL when memory is short. */
static void *take_block(size_t bytes) {
    char *block;
    for (int i = 0; bytes <= KEPT_BYTES && i < KEPT_BLOCKS; i++) {
        block = atomic_swap_pointer(&kept[i], NULL);
        if (block != NULL && *(size_t *)block >= bytes)
            return block + KEPT_HEAD;
        free(block); /* too small: a larger one takes its place */
    }
    block = malloc(bytes + KEPT_HEAD);
    if (block == NULL)
        return NULL;
    *(size_t *)block = bytes;
    return block + KEPT_HEAD;
}

/* For the next call, of whatever thread; NULL is nothing. */
static void give_block(void *block) {
    if (block == NULL)
        return;
    block = (char *)block - KEPT_HEAD;
    for (int i = 0; block != NULL && *(size_t *)block <= KEPT_BYTES && i < KEPT_BLOCKS; i++)
        block = atomic_swap_pointer(&kept[i], block); /* what was there moves on */
    free(block);
}
#endif
