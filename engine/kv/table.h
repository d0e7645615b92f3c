/* table - where a sequence's tokens are: its blocks in order, and how much of each is filled.
 *
 * Per block a state: ABSENT (no bytes yet, or no block), LOADING (a copy from a tier below is on its way into it),
 * COMPUTING (rows are queued or done, not all), READY (all block_tokens rows are there). Prefill work is the next
 * absent run, not a counter: holes may be anywhere; what comes after a block that loads waits for it. The table
 * holds ids only; who owns references is the caller's business (kvcache). Engine thread.
 */
#ifndef HEARTH_KV_TABLE_H
#define HEARTH_KV_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum table_state { TABLE_ABSENT, TABLE_LOADING, TABLE_COMPUTING, TABLE_READY };

struct table_block {
    int32_t id;      /* block of the pool, -1 = none */
    uint16_t filled; /* tokens from the block's start whose KV is there or queued */
    uint8_t state;   /* enum table_state */
};

struct table {
    struct table_block *blocks;
    size_t n, cap;
    uint32_t block_tokens;
};

void table_init(struct table *t, uint32_t block_tokens);
void table_fini(struct table *t);

/* Make room for n blocks in all, so that table_push can't fail. 0 or -ENOMEM. */
int table_reserve(struct table *t, size_t n);
/* Append a block: READY with all tokens, or ABSENT with none. Room must be there. */
void table_push(struct table *t, int32_t id, bool ready);
/* Blocks needed for n tokens. */
static inline size_t table_blocks_for(uint32_t block_tokens, uint64_t n_tokens)
{
    return (size_t)((n_tokens + block_tokens - 1) / block_tokens);
}

/* The first run of positions below n_tokens whose KV is absent: [*begin, *end), ended by n_tokens or by a READY or
 * LOADING block. False when there is none, or when a block before it is LOADING: it could not be computed yet.
 * Positions in blocks the table does not have yet count as absent. */
bool table_next_absent(const struct table *t, uint64_t n_tokens, uint64_t *begin, uint64_t *end);

/* Rows [begin, end) are being computed: they must start at the fill mark of their block and lie in blocks that exist.
 */
void table_fill(struct table *t, uint64_t begin, uint64_t end);

/* Block i (ABSENT, nothing filled) is being loaded / is there, or is not (ok = false: ABSENT again). */
void table_load(struct table *t, size_t i);
void table_loaded(struct table *t, size_t i, bool ok);

/* Abort on a broken invariant. */
void table_check(const struct table *t);

#endif
