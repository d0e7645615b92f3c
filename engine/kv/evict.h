/* evict - which block a tier gives up next, and which it should write below first.
 *
 * Given up: the leaf whose room is worth least. A block's room is worth what it gives a second and byte,
 *
 *     returns a second it stays (returns_rate of its class and idle time) x seconds lost without it / bytes
 *
 * where the seconds lost are those to compute it again, or, once the tier below has a copy, those to load it.
 * Written below: the block without a copy there whose bytes are worth most, P(return) x seconds / bytes. So a tier
 * whose room runs out writes down what returns most likely, which is then cheap to drop, and has the undecided wait for
 * an answer in the room that this gives: those that stay away are dropped without ever having been written.
 *
 * Without a model (NULL) all blocks are worth the same: plain LRU, the oldest leaf goes first, the oldest block is
 * written first.
 *
 * A tier has one `struct evict`; a block is known by its slot in that tier, 0 .. n_slots - 1. A slot is
 *   out      not in this tier, or nobody said so
 *   held     in use: by a sequence, a queued request, a move. Never given up.
 *   idle     could be given up when it is a leaf (no held or idle block names it as parent) or has a copy below: the
 *            chain is whole with it
 *   leaving  was picked as victim and is on its way out; no longer counts as a child, so that its parent can be picked
 *            too. A hit may take it back (evict_hold, evict_release).
 * Moves between them:  add: out -> held   release: held, leaving -> idle   hold: idle, leaving -> held
 *                      pick: idle -> leaving   remove: any -> out
 *
 * Blocks of one class and one cost age alike, so each such group is a heap by last use and only their oldest leaves
 * compete: pick costs O(groups), everything else O(log n) amortised. No clock (time is an argument), no I/O, no
 * allocation after open; about 100 bytes a slot. Engine thread.
 */
#ifndef HEARTH_KV_EVICT_H
#define HEARTH_KV_EVICT_H

#include "engine/kv/returns.h"

#include <stdbool.h>
#include <stdint.h>

struct evict;

/* What is known of a block. Travels with it from tier to tier (evict_get above, evict_add below). */
struct evict_block {
    uint64_t used_us;       /* last use */
    uint64_t keep_until_us; /* a session's TTL: until then it is given up only when nothing else is left; 0 = none */
    float seconds;          /* lost without it */
    uint32_t bytes;         /* > 0 */
    uint32_t session;       /* who used it last (any hash) */
    int32_t parent;         /* slot, in this tier, of the block before it in its chain; -1: it is not here */
    uint8_t class;          /* returns_class; 0 without a model */
};

/* 0 or -ENOMEM. The model outlives it; NULL = LRU. */
int evict_open(struct evict **out, uint32_t n_slots, const struct returns *model);
void evict_close(struct evict *e); /* NULL is fine */

/* out -> held, without a copy below. The parent is in (held or idle or leaving). */
void evict_add(struct evict *e, int32_t slot, const struct evict_block *b);
/* A block that has no parent (-1) gets one. Both are in, in any state. The caller sees to it that nobody becomes a
 * parent of itself, over however many others. */
void evict_adopt(struct evict *e, int32_t slot, int32_t parent);
/* idle or leaving -> held; a held slot stays so (holders are counted elsewhere). */
void evict_hold(struct evict *e, int32_t slot);
/* held or leaving -> idle. */
void evict_release(struct evict *e, int32_t slot);
/* Any state but out -> out. Children that are still in stay, with parent -1: a hole before them. */
void evict_remove(struct evict *e, int32_t slot);

/* The block was used, in any tier: new last use, class and session. Any state but out. Time doesn't go back. */
void evict_use(struct evict *e, int32_t slot, uint8_t class, uint32_t session, uint64_t now_us);
/* A session asks to keep it, or no longer (0). Any state but out. */
void evict_keep(struct evict *e, int32_t slot, uint64_t until_us);

/* The idle leaf worth least at now_us, now leaving; -1 when there is none. */
int32_t evict_pick(struct evict *e, uint64_t now_us);
/* The same without changing its state. */
int32_t evict_peek(struct evict *e, uint64_t now_us);

/* -- copies below; any state but out */
/* The block most worth writing below, of those that have no copy there; -1: none. It is not named again until one of
 * the next two says how that went. */
int32_t evict_spill(struct evict *e, uint64_t now_us);
/* There is a copy below: losing the block here costs only `seconds`, to load it. */
void evict_copied(struct evict *e, int32_t slot, float seconds);
/* There is none (the writing failed, or the copy was given up): losing it costs what computing it costs. */
void evict_owes(struct evict *e, int32_t slot, float seconds);
/* Idle blocks that have a copy below: room that costs little. */
uint32_t evict_n_copied(const struct evict *e);
/* Blocks that evict_spill would name, one after the other. */
uint32_t evict_n_owing(const struct evict *e);

/* What is known of it; valid until the next call that changes the slot. */
const struct evict_block *evict_get(const struct evict *e, int32_t slot);
/* P(return) x seconds / bytes. Without a model P is 1. */
double evict_worth(const struct evict *e, int32_t slot, uint64_t now_us);

enum evict_state { EVICT_OUT, EVICT_HELD, EVICT_IDLE, EVICT_LEAVING };
/* The slot will be asked about soon: what it needs is fetched from memory meanwhile. */
void evict_expect(const struct evict *e, int32_t slot);
/* No held or idle block names it as parent. */
bool evict_is_leaf(const struct evict *e, int32_t slot);

enum evict_state evict_state(const struct evict *e, int32_t slot);
uint32_t evict_n_idle(const struct evict *e);

/* Abort on a broken invariant; O(n). */
void evict_check(const struct evict *e);

#endif
