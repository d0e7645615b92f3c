/* kvcache - block tables of sequences over one pool and one prefix cache: match, extend, publish, fork, give back.
 *
 * The only place where pool, prefix and table meet. Full blocks are immutable, known to the prefix cache and shared by
 * reference count, whether prefill or decode wrote them. A block being filled belongs to one sequence; a fork shares
 * it until one of them writes (copy on write). When two sequences computed the same block, the second takes the
 * first's. Engine thread; no allocation after open.
 */
#ifndef HEARTH_ENGINE_KVCACHE_H
#define HEARTH_ENGINE_KVCACHE_H

#include "engine/kv/foreign.h"
#include "engine/kv/pool.h"
#include "engine/kv/prefix.h"
#include "engine/kv/recall.h"
#include "engine/kv/tiers.h"
#include "engine/seq.h"

struct kvcache {
    struct pool *pool;
    struct prefix *prefix;
    uint32_t block_tokens;
    bool enabled;      /* look up and publish */
    uint64_t queued;   /* number of the last queued step: blocks given back are released with it */
    uint64_t finished; /* the last step that has */
    uint64_t evictions;
    uint64_t swapped, dropped;          /* full blocks of preempted sequences: with a copy below, or without any */
    uint64_t cached_tokens[TIER_COUNT]; /* prompt tokens that were not computed, by where their KV lay */

    struct returns *returns;     /* who comes back: learned from requests; NULL = LRU in all tiers */
    struct kvcache_joins *joins; /* what is being computed: who comes later waits for it */
    struct recall *recall;       /* what was cached lately (NULL: not enabled), and .. */
    struct foreign *foreign; /* .. what lies on drives under other formats; or NULL: to say why something is missing */

    /* below the pool; NULL = nothing (kvcache_lower.c) */
    struct tiers *tiers;
    const struct budget *budget; /* what computing costs; NULL = nothing is known */
    uint32_t step_rows;          /* most rows of a step */
    bool load_always;            /* never compute what could be loaded */
    uint32_t others;             /* sequences that computing holds up, besides the one that is admitted */
    uint16_t *moving;            /* [n_blocks] references that moves hold */
    uint8_t *outcome;            /* [n_blocks] of the loads that have ended in this turn */
    uint32_t *asleep;            /* [n_blocks] scratch: blocks of a sequence that only a drive has */
    struct kvcache_fetch {
        const struct seq *seq; /* NULL = free */
        int64_t ticket;
    } * fetches; /* [KVCACHE_FETCHES] contents kept in DRAM for queued requests */
    uint32_t n_fetches;
    struct seq *guest; /* holds blocks but is in no queue: kvcache_prefetch. NULL = none */
};

#define KVCACHE_FETCHES 1024

struct kvcache_copy { /* a block to copy before the step runs */
    int32_t from, to;
};

/* What besides the ids decides a block's bytes: the seed of its key chain. */
struct kvcache_identity {
    uint8_t secret[32];            /* of the installation */
    struct hash_key model;         /* fingerprint of weights and metadata */
    uint32_t block_tokens, format; /* kv format policy */
    const char *numerics;          /* "cpu_ref", "cpu_fast": backends whose bits may differ */
};

/* returns: who comes back, learned from requests (taken over); NULL = plain LRU. 0 or -ENOMEM, and nothing is open. */
int kvcache_open(struct kvcache *c, uint32_t n_blocks, uint32_t block_tokens, bool enabled, struct returns *returns);
void kvcache_close(struct kvcache *c);

/* Seed for a tenant's salt. 0 or -ENOMEM. */
int kvcache_root(const struct kvcache_identity *who, const uint8_t salt[32], struct hash_key *out);

/* Give an empty table the longest run of cached blocks from the start, at least one token short of all known ones (its
 * logits are wanted). Returns the tokens found. */
uint32_t kvcache_match(struct kvcache *c, struct seq *s);
/* Blocks that could be taken now: free, or idle and evictable. */
uint32_t kvcache_available(const struct kvcache *c);
/* Blocks missing for n_tokens. */
uint32_t kvcache_missing(const struct kvcache *c, const struct seq *s, uint64_t n_tokens);
/* Append blocks so that n_tokens fit, evicting idle ones. 0, or -ENOMEM with nothing taken. */
int kvcache_extend(struct kvcache *c, struct seq *s, uint64_t n_tokens);
/* The block of `position` will be written: if it is shared, take a private one and say what to copy. 1: *copy is set;
 * 0: nothing to do; -ENOMEM. */
int kvcache_own(struct kvcache *c, struct seq *s, uint64_t position, struct kvcache_copy *copy);
/* Enter blocks that have become full. */
void kvcache_publish(struct kvcache *c, struct seq *s);
/* child (empty table) shares all of parent's blocks. */
void kvcache_fork(struct kvcache *c, const struct seq *parent, struct seq *child);
/* Give everything back, last block first. Full blocks stay cached. */
void kvcache_release(struct kvcache *c, struct seq *s);
/* Steps up to `step` have finished. */
void kvcache_finish(struct kvcache *c, uint64_t step);

/* -- what is not in the pool yet: in tiers below it, or being computed by somebody else.
 *
 * Blocks that become full are copied down when they are published. A sequence that is admitted takes what the pool has
 * (match), room for the rest (extend), and then loads into that room what lies below (load): its blocks are LOADING,
 * and what is absent before, between and behind them is computed meanwhile as far as it can be. */

/* Take over the tiers, which may learn from c->returns. 0 or -ENOMEM (nothing is taken over). */
int kvcache_attach(struct kvcache *c, struct tiers *t);
/* s was matched and extended: share what others are computing or loading, start loading what lies below and costs
 * less to load than to compute (find_cut; set c->others before), and announce the rest. Says what its request found in
 * the cache. */
void kvcache_load(struct kvcache *c, struct seq *s);
/* s is about to be preempted, so that others can have n_free blocks at once. Swap or recompute: its full blocks that no
 * tier has are copied to DRAM if that and the way back take less than computing them again (what has a copy needs
 * nothing: loading or computing is chosen when s comes back). Their blocks stay held until they are copied; n_free of
 * what s gives back are not. */
void kvcache_swap(struct kvcache *c, struct seq *s, uint32_t n_free);
/* s waits: bring what it will load to DRAM, as far as there is room. False: there is none now. */
bool kvcache_fetch(struct kvcache *c, struct seq *s);
/* Does what is held for those that wait keep others from loading what they run with? Then those at the end of the queue
 * have to give it back (kvcache_unfetch). */
bool kvcache_starved(const struct kvcache *c);
/* It waits no longer, or has to wait without. */
void kvcache_unfetch(struct kvcache *c, struct seq *s);
/* Once a turn: let moves go on. True when something happened. Then kvcache_settle for each sequence that is loading,
 * then kvcache_moved. */
bool kvcache_move(struct kvcache *c);
/* Blocks of s whose loads have ended, or that others have computed, are READY, or ABSENT. 0; -ENOMEM: there is no block
 * for one that has to be computed (the caller preempts s). */
int kvcache_settle(struct kvcache *c, struct seq *s);
void kvcache_moved(struct kvcache *c);

/* -- chains of blocks known by their keys alone (sessions: session.h; kvcache_named.c). Ids are not compared here:
 * nothing of this decides what a sequence reads. */

/* One block after the other of a chain. Set root, keys and n, the rest 0; kvcache_next moves on. */
struct kvcache_cursor {
    const struct hash_key *root, *keys;
    uint32_t n, next;
    /* the block at next - 1 */
    uint32_t where;      /* bits 1 << enum tier_id where it has a copy; 0: nowhere */
    int32_t block;       /* of the pool, or -1 */
    struct kv_ident who; /* with where != 0 */
    bool has_check;      /* who.check is known, too */
    int32_t ids[ENTRY_MAX_IDS];
};
/* False at the end of the chain. */
bool kvcache_next(const struct kvcache *c, struct kvcache_cursor *at);
/* The key before the one of block `depth` (>= 1) in its chain, as far as any tier tells. */
bool kvcache_parent(const struct kvcache *c, const struct hash_key *root, const struct hash_key *key, uint32_t depth,
                    struct hash_key *parent);
/* The tier that a chain can be parked on: TIER_NVME, else TIER_DRAM; TIER_HBM: there is none below. */
enum tier_id kvcache_lowest(const struct kvcache *c);
/* The cursor's block shall have a copy there. 1: it has; 0: it is on its way; -ENOENT: the block is nowhere; -EAGAIN:
 * no room now. */
int kvcache_park(struct kvcache *c, const struct kvcache_cursor *at);
/* Its copies in a tier below the pool stay until then (tiers_keep). */
void kvcache_keep(struct kvcache *c, const struct kvcache_cursor *at, enum tier_id tier, uint64_t until_us);
/* Predicted ns until a block from there would be in the pool; 0: it is there, or nowhere. */
uint64_t kvcache_up_ns(const struct kvcache *c, uint32_t where);
/* Bring the first n blocks of a chain into the pool, where they stay as cached ones, as many as there are without a
 * gap and as half of the pool holds; one chain at a time. 0; -EBUSY: another one is on its way, -EAGAIN: no block can
 * be had; -ENOENT: there is nothing to bring; -ENOMEM. */
int kvcache_prefetch(struct kvcache *c, const struct hash_key *root, const struct hash_key *keys, uint32_t n);
/* Is it still on its way? When it is not, or with `now`, its blocks are let go. Once a turn, after kvcache_moved. */
bool kvcache_prefetching(struct kvcache *c, bool now);

/* Every invariant of pool, prefix and the given tables together; abort on a broken one. */
void kvcache_check(const struct kvcache *c, struct seq *const *seqs, uint32_t n);

#endif
