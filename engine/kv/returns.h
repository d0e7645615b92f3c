/* returns - will a block be used again? Learned online from the stream of requests.
 *
 * Every request says which chain of blocks it uses (their keys). A sample of the blocks (by key, so that a block is
 * always in it or never) is remembered after its last use, whether or not any tier still holds it: what was given up is
 * learned from like what was kept. A remembered block grows older through age buckets; in each it either returns or
 * does not, which gives per class the hazard of return by idle time, and from that P(return | class, idle time).
 * Counts fade, so the table follows the traffic; before there are any a prior stands in their place.
 *
 * A class is what is known of a block when it is used: which turn of its conversation the request was, how many tokens
 * it added, and where the block lies: in a head that many prompts share, in the rest that was known before, in the new
 * part, or in the last tokens of the prompt. A turn is recognised by content alone: the chain goes on from where an
 * earlier prompt ended.
 *
 * Pure bookkeeping: no clock (time is an argument and never goes back), no I/O, no allocation after open, memory
 * bounded by `capacity`. Engine thread. A use costs O(n) look-ups of 8 bytes.
 */
#ifndef HEARTH_KV_RETURNS_H
#define HEARTH_KV_RETURNS_H

#include "engine/base/hash.h"

#include <stdint.h>

#define RETURNS_CLASSES 48

struct returns;

struct returns_opts {
    uint32_t capacity;     /* blocks remembered, 48 bytes each; 0 = 131072 */
    uint32_t sample;       /* 1 of so many blocks is remembered: a power of two; 0 = 4 */
    uint32_t block_tokens; /* 0 = 64 */
};

/* 0 or -ENOMEM. */
int returns_open(struct returns **out, const struct returns_opts *o);
void returns_close(struct returns *r); /* NULL is fine */

/* What a request makes of the blocks it uses, by their index in its chain. */
struct returns_turn {
    uint32_t turn;    /* 1 = goes on from no prompt before it */
    uint32_t from[3]; /* block indices: shared head | from[0] known | from[1] new | from[2] tail */
    uint8_t class[4]; /* of each of the four */
};

/* A request with the full prompt blocks keys[n] (in chain order) is admitted at now_us. Call once a request, when its
 * prompt is known, also when nothing of it is cached. */
struct returns_turn returns_use(struct returns *r, const struct hash_key *keys, uint32_t n, uint64_t now_us);

/* Class of block i of that request; blocks that generation fills later belong to the tail. */
static inline uint8_t returns_class(const struct returns_turn *t, uint32_t i)
{
    return t->class[(i >= t->from[0]) + (i >= t->from[1]) + (i >= t->from[2])];
}

/* P that a block of this class, idle for idle_us, is ever used again. Never rises with idle time. */
double returns_p(const struct returns *r, uint8_t class, uint64_t idle_us);

/* Returns a second that keeping it gives at best: what a tier's room is worth. Never rises with idle time. */
double returns_rate(const struct returns *r, uint8_t class, uint64_t idle_us);

/* Abort on a broken invariant; O(capacity). */
void returns_check(const struct returns *r);

#endif
