/* tiers - what lies below the pool, by content: find it, copy blocks down when they are full, bring them back.
 *
 * A content (struct kv_ident) may have a copy in DRAM, on NVMe, or on both. Copies go down by themselves: HBM -> DRAM
 * when kvcache stores a block (write-through), DRAM -> NVMe at once, or by a write budget (move.c), and never while a
 * block is being read for somebody. A copy below makes the copy above free to drop: DRAM gives up first what NVMe has
 * as well.
 *
 * Loading: tiers_load names a pool block that nobody reads yet. NVMe -> DRAM (its seal is checked) -> HBM (checked
 * again where the device makes seals), and tiers_done tells the outcome. What does not verify is a miss, a log line and
 * a counter, and its place is retired. A load that misses its deadline is given up at once: the pool block is the
 * caller's again, and nothing will be written there; the read itself keeps its DRAM slot until it completes.
 *
 *     tiers_turn(t, ..)                     once a turn: reap moves, start moves
 *     for each tiers_done(t): ...           outcomes of this turn
 *
 * Every call is O(1) or O(moves that fit in flight), nothing waits, nothing allocates after open. Engine thread.
 */
#ifndef HEARTH_KV_TIERS_H
#define HEARTH_KV_TIERS_H

#include "engine/kv/entry.h"
#include "engine/kv/evict.h"
#include "engine/kv/tier.h"

#include <stdbool.h>
#include <stdint.h>

struct tiers;

#define TIERS_LOADS  4096 /* loads that may be under way; more are refused */
#define TIERS_STORES 1024 /* copies from HBM that may be under way */

struct tiers_opts {
    uint32_t block_tokens, format;
    uint64_t block_bytes;
    uint32_t n_hbm;                /* blocks of the pool */
    struct tier *gpu;              /* HBM <-> DRAM; taken over */
    struct tier *nvme;             /* DRAM <-> NVMe, or NULL; taken over */
    int bell;                      /* rung by the tiers when something has moved; -1 = none */
    uint64_t dram_bytes;           /* of the arena; at least one slot */
    uint8_t secret[32];            /* seals are keyed with it */
    const struct returns *returns; /* who comes back (evict.h); NULL = LRU. Outlives the tiers */
    uint64_t write_bytes_per_day;  /* to NVMe; 0 = no bound */
    uint64_t deadline_ns;          /* least time a load gets; 0 = 250 ms */
    bool no_bytes;                 /* simulation: no arena, no seals; the tiers move nothing */
};

/* Counters; direction: 0 = up (towards HBM), 1 = down. */
struct tiers_flow {
    uint64_t moves, bytes, ns, failed; /* ns: sum of the times of moves */
    uint64_t queued;                   /* now under way or waiting */
};

struct tiers_stats {
    uint64_t dram_slots, dram_used, nvme_slots, nvme_used; /* in blocks */
    uint64_t slot_bytes;
    struct tiers_flow gpu[2], nvme[2];
    uint64_t hit_blocks[TIER_COUNT];      /* loads that came, by where they lay */
    uint64_t verify_failed[TIER_COUNT];   /* seals that did not fit, by where the bytes lay */
    uint64_t late;                        /* loads given up at their deadline */
    uint64_t evicted_dram;                /* given up for room, with a copy on NVMe .. */
    uint64_t lost_dram, lost_nvme;        /* .. and without any copy below */
    uint64_t not_stored;                  /* full blocks that found no room in DRAM or in the queue */
    uint64_t refused_bytes;               /* given up by DRAM without having been written, under a budget */
    uint64_t budget_bytes, bytes_per_day; /* that may be written now; a day: 0 = no bound */
};

/* 0, or -errno with e; the tiers in o are closed in any case. */
int tiers_open(struct tiers **out, const struct tiers_opts *o, struct err *e);
void tiers_close(struct tiers *t); /* waits for moves; NULL is fine */

/* -- looking up */
/* Where a content has a copy that could be loaded: bits 1 << TIER_DRAM, 1 << TIER_NVME; 0: not known. */
uint32_t tiers_where(const struct tiers *t, const struct kv_ident *who);
/* The entry of a content with this key, for who has no ids at hand (a session knows keys): a hint, as no ids were
 * compared. NULL: not known. Valid until the next call. */
const struct kv_entry *tiers_named(const struct tiers *t, const struct hash_key *key, const struct hash_key *root,
                                   uint32_t depth);
/* Predicted ns until one more block from there would be in HBM. */
uint64_t tiers_load_ns(const struct tiers *t, uint32_t where);
/* What that is made of: a copy from DRAM; a read from NVMe, and all reads that wait already. */
struct tiers_pace {
    double copy_ns, read_ns, backlog_ns;
};
struct tiers_pace tiers_get_pace(const struct tiers *t);

/* What is known of a content besides its name, for evict.h. Zeroes: nothing. */
struct tiers_worth {
    float seconds;    /* to compute it again */
    uint32_t session; /* who uses it: any hash */
    uint8_t class;    /* returns_turn.class */
    bool in_memory;   /* who uses it does not want it on NVMe (another user may) */
};

/* -- down */
/* Block `block` of the pool holds this content, whole, and no queued step writes it. Copy it to DRAM.
 * 1: under way; its bytes must stay until tiers_done names it. 0: it is there already (counted as a use).
 * -EAGAIN: no room now (it is not stored). */
int tiers_store(struct tiers *t, const struct kv_ident *who, int32_t block, const struct tiers_worth *w);
/* The content was used (a hit in HBM counts, too). Of a chain use the last block first. */
void tiers_use(struct tiers *t, const struct kv_ident *who, const struct tiers_worth *w);

/* -- up */
/* Bring a content into `block`, which no step that has not finished names after step `after`. The copying into HBM
 * starts when tiers_turn was told that step `after` has finished. due_ns: deadline on the engine's clock, 0 = by
 * prediction. 0; -ENOENT: not known; -EAGAIN: too many loads. */
int tiers_load(struct tiers *t, const struct kv_ident *who, int32_t block, uint64_t after, uint64_t due_ns);
/* The pool block that this content is being loaded into, or -1: whoever wants it too can share that block. */
int32_t tiers_loading(const struct tiers *t, const struct kv_ident *who);
/* A queued request wants this content: bring it to DRAM and keep it there. Returns a ticket >= 0, given back once with
 * tiers_unfetch; -ENOENT: not known; -EAGAIN: no room. */
int64_t tiers_fetch(struct tiers *t, const struct kv_ident *who);
void tiers_unfetch(struct tiers *t, int64_t ticket);
/* Loads wait for a place in DRAM, nothing under way will free one, and fetches hold some: nothing is fetched until the
 * caller has given some back (those of the last in the queue first). As of the last turn. */
bool tiers_starved(const struct tiers *t);

/* -- by wish */
/* Write the content to NVMe before others and beyond the budget. 0; -ENOENT: no copy below the pool; -ENOTSUP: no NVMe
 * tier. */
int tiers_park(struct tiers *t, const struct kv_ident *who);
/* Is it on NVMe, index entry and all? (tiers_flush makes that durable.) */
bool tiers_parked(const struct tiers *t, const struct kv_ident *who);
/* Make durable what is parked: true when it is; false: under way, ask again after a turn. */
bool tiers_flush(struct tiers *t);
/* A session keeps the content in this tier until then (evict_keep); 0: no longer. */
void tiers_keep(struct tiers *t, const struct kv_ident *who, enum tier_id tier, uint64_t until_us);
/* Forget all copies below the pool. */
void tiers_forget(struct tiers *t, const struct kv_ident *who);

/* -- once a turn */
/* finished: the last step that has. Returns true when something happened. */
bool tiers_turn(struct tiers *t, uint64_t finished);
/* Is anything under way (so that the loop should look again soon)? */
bool tiers_busy(const struct tiers *t);

struct tiers_outcome {
    int32_t block;     /* of the pool: its bytes are the caller's again */
    bool load;         /* else a store */
    bool ok;           /* load: the content is there, verified */
    bool bad;          /* load: its bytes were not what had been stored */
    enum tier_id from; /* load: where it lay when it was asked for */
    uint64_t ns;       /* load: from tiers_load until now */
};
/* Outcomes since the last turn began; valid until the next. */
const struct tiers_outcome *tiers_done(const struct tiers *t, uint32_t *n);

void tiers_get_stats(const struct tiers *t, struct tiers_stats *out);
/* Abort on a broken invariant. O(contents). */
void tiers_check(const struct tiers *t);

#endif
