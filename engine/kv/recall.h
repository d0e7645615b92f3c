/* recall - what the cache has known lately, so that a request can be told why it did not find more of it.
 *
 * Two tables of bounded size, where the new takes the place of the old: keys of blocks that were cached, and the ids
 * with which a chain went on behind a block. What they have forgotten counts as never seen. Nothing that a sequence
 * reads depends on them. Nothing is allocated after open; every call is O(1). Engine thread.
 */
#ifndef HEARTH_KV_RECALL_H
#define HEARTH_KV_RECALL_H

#include "engine/base/hash.h"

#include <stdint.h>

#define RECALL_BLOCKS 65536 /* keys remembered */
#define RECALL_ENDS   4096  /* continuations */

struct recall;

enum recall_state {
    RECALL_NEVER, /* or not any more */
    RECALL_KNOWN, /* it was cached */
    RECALL_BAD    /* and its bytes were found wrong */
};

/* 0 or -ENOMEM. */
int recall_open(struct recall **out, uint32_t block_tokens);
void recall_close(struct recall *r); /* NULL is fine */

/* A block is cached: its key, that of the block before (the root for the first), its ids. */
void recall_note(struct recall *r, const struct hash_key *parent, const struct hash_key *key, const int32_t *ids);
/* Its bytes were found wrong. */
void recall_bad(struct recall *r, const struct hash_key *key);
enum recall_state recall_state(const struct recall *r, const struct hash_key *key);
/* How many of n ids (at most a block's) are the same in a block that followed `parent`, the most of all that are
 * remembered; -1: none is. */
int32_t recall_common(const struct recall *r, const struct hash_key *parent, const int32_t *ids, uint32_t n);

#endif
