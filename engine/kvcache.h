/* kvcache - block tables of sequences over one pool and one prefix cache: match, extend, publish, fork, give back.
 *
 * The only place where pool, prefix and table meet. Full blocks are immutable, known to the prefix cache and shared by
 * reference count, whether prefill or decode wrote them. A block being filled belongs to one sequence; a fork shares
 * it until one of them writes (copy on write). When two sequences computed the same block, the second takes the
 * first's. Engine thread; no allocation after open.
 */
#ifndef HEARTH_ENGINE_KVCACHE_H
#define HEARTH_ENGINE_KVCACHE_H

#include "engine/kv/pool.h"
#include "engine/kv/prefix.h"
#include "engine/seq.h"

struct kvcache {
    struct pool *pool;
    struct prefix *prefix;
    uint32_t block_tokens;
    bool enabled;    /* look up and publish */
    uint64_t queued; /* number of the last queued step: blocks given back are released with it */
    uint64_t evictions;
};

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

int kvcache_open(struct kvcache *c, uint32_t n_blocks, uint32_t block_tokens, bool enabled);
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

/* Every invariant of pool, prefix and the given tables together; abort on a broken one. */
void kvcache_check(const struct kvcache *c, struct seq *const *seqs, uint32_t n);

#endif
