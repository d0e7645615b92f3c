/* arena - memory of one request: many allocations, one free.
 *
 * Chunks double up to 1 MiB; what is larger gets its own chunk. Zeroed, 16-byte aligned. Not MT-safe: one owner at a
 * time (it may be handed from thread to thread).
 */
#ifndef HEARTH_BASE_ARENA_H
#define HEARTH_BASE_ARENA_H

#include <stddef.h>

struct arena_chunk;
struct arena {
    struct arena_chunk *head;
    size_t used;  /* bytes handed out in all */
    size_t limit; /* 0 = none; an allocation that would pass it fails, so a hostile request is bounded */
};

/* n zeroed bytes, or NULL (no memory, or limit reached). n = 0 gives a valid pointer. */
void *arena_alloc(struct arena *a, size_t n);
/* count x size, checked for overflow. */
void *arena_array(struct arena *a, size_t count, size_t size);
/* A terminated copy of n bytes. */
char *arena_copy(struct arena *a, const void *bytes, size_t n);
/* Free everything; the arena is empty and usable again. */
void arena_fini(struct arena *a);

#endif
