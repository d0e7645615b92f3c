/* extent - first-fit allocator of byte ranges in a space that lies elsewhere (an arena in shared memory).
 *
 * Knows offsets only. Free ranges are one sorted array, neighbours are merged; low offsets are used again first, so
 * that a sparse space stays small. All ranges are multiples of 64 bytes. One owner.
 */
#ifndef HEARTH_BASE_EXTENT_H
#define HEARTH_BASE_EXTENT_H

#include <stddef.h>
#include <stdint.h>

#define EXTENT_ALIGN 64

struct extent_map {
    struct extent {
        uint64_t at, bytes;
    } * free;
    size_t n, cap;
    size_t n_taken; /* ranges out: each can leave one more hole when it comes back */
    uint64_t total, used;
};

/* All of [0, bytes) is free. 0 or -ENOMEM. */
int extent_init(struct extent_map *m, uint64_t bytes);
void extent_fini(struct extent_map *m);
/* 0 with the offset in *at, or -ENOSPC. n > 0. */
int extent_take(struct extent_map *m, uint64_t n, uint64_t *at);
/* Give back exactly what extent_take gave for n. Never fails: take leaves room for it. */
void extent_give(struct extent_map *m, uint64_t at, uint64_t n);
/* Abort on a broken invariant. */
void extent_check(const struct extent_map *m);

#endif
