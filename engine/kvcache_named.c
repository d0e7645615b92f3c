/* kvcache_named - chains of blocks known by their keys alone: where they lie, parking, bringing up. See kvcache.h.
 *
 * A key is looked up in the pool's prefix cache and below it; the entries there know the ids. Bringing up is done by a
 * guest: a sequence of those ids that is in no queue and never computes. It matches, extends and loads like any other
 * one (kvcache_moved settles it), and then gives everything back, which leaves the blocks cached.
 */
#include "engine/kvcache_int.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Ids, parent and check from whoever has the block. */
static void describe(const struct kvcache *c, struct kvcache_cursor *at, uint32_t i, const struct kv_entry *e)
{
    uint64_t before = i ? at->who.check : 0;
    for (uint32_t t = 0; e && t < c->block_tokens; t++)
        at->ids[t] = (int32_t)(e->ids[t][0] | (uint32_t)e->ids[t][1] << 8 | (uint32_t)e->ids[t][2] << 16);
    if (!e)
        memcpy(at->ids, prefix_ident(c->prefix, at->block).ids, c->block_tokens * sizeof *at->ids);
    at->who = (struct kv_ident){
        .key = at->keys[i], .parent = i ? at->keys[i - 1] : *at->root, .root = at->root, .ids = at->ids, .depth = i};
    if (e) {
        at->who.parent = e->parent;
        at->who.check = e->check;
        at->has_check = true;
    } else if (i == 0 || at->has_check) {
        at->who.check = entry_check(before, at->root, at->ids, c->block_tokens);
        at->has_check = true;
    }
}

bool kvcache_next(const struct kvcache *c, struct kvcache_cursor *at)
{
    if (at->next >= at->n)
        return false;
    uint32_t i = at->next++;
    const struct kv_entry *e = c->tiers ? tiers_named(c->tiers, &at->keys[i], at->root, i) : NULL;
    at->block = prefix_named(c->prefix, &at->keys[i], at->root);
    at->where = at->block >= 0 ? 1u << TIER_HBM : 0;
    if (e || at->block >= 0)
        describe(c, at, i, e);
    else
        at->has_check = false; /* what comes behind a gap can't be said in full, unless a tier knows it */
    if (e)
        at->where |= tiers_where(c->tiers, &at->who);
    return true;
}

bool kvcache_parent(const struct kvcache *c, const struct hash_key *root, const struct hash_key *key, uint32_t depth,
                    struct hash_key *parent)
{
    const struct kv_entry *e = c->tiers ? tiers_named(c->tiers, key, root, depth) : NULL;
    int32_t block = e ? -1 : prefix_named(c->prefix, key, root);
    assert(depth > 0);
    if (e) {
        *parent = e->parent;
        return true;
    }
    int32_t before = block >= 0 ? prefix_ident(c->prefix, block).parent : -1;
    if (before < 0)
        return false;
    *parent = prefix_ident(c->prefix, before).key;
    return true;
}

enum tier_id kvcache_lowest(const struct kvcache *c)
{
    struct tiers_stats s;
    if (!c->tiers || !c->enabled)
        return TIER_HBM;
    tiers_get_stats(c->tiers, &s);
    return s.nvme_slots ? TIER_NVME : TIER_DRAM;
}

static int store(struct kvcache *c, const struct kvcache_cursor *at)
{
    struct tiers_worth w = {.seconds = (float)(kvcache_compute_ns(c, at->who.depth) / 1e9)};
    memcpy(&w.session, at->keys[0].b, sizeof w.session);
    if (at->block < 0 || !at->has_check)
        return -ENOENT;
    int ret = tiers_store(c->tiers, &at->who, at->block, &w);
    if (ret == 1)
        kvcache_hold_for_move(c, at->block);
    return ret < 0 ? ret : 0;
}

int kvcache_park(struct kvcache *c, const struct kvcache_cursor *at)
{
    assert(c->tiers);
    if (!at->where)
        return -ENOENT;
    if (at->where & 1u << TIER_NVME)
        return 1;
    int ret = at->has_check ? tiers_park(c->tiers, &at->who) : -ENOENT;
    if (ret == -ENOTSUP && at->where & 1u << TIER_DRAM)
        return 1;
    if (ret == 0)
        return 0;
    bool nvme = ret != -ENOTSUP;
    ret = store(c, at);
    if (ret == 0 && nvme)
        ret = tiers_park(c->tiers, &at->who);
    return ret;
}

void kvcache_keep(struct kvcache *c, const struct kvcache_cursor *at, enum tier_id tier, uint64_t until_us)
{
    if (c->tiers && at->where && at->has_check)
        tiers_keep(c->tiers, &at->who, tier, until_us);
}

uint64_t kvcache_up_ns(const struct kvcache *c, uint32_t where)
{
    return !where || where & 1u << TIER_HBM ? 0 : tiers_load_ns(c->tiers, where);
}

/* -- bringing up */

static void close_guest(struct seq *s)
{
    struct request *r = s->req;
    seq_close(s);
    free(r);
}

/* Blocks of the chain's beginning that are anywhere; *below: is one of them not in the pool? */
static uint32_t run_of(const struct kvcache *c, struct kvcache_cursor *at, int32_t *ids, bool *below)
{
    uint32_t n = 0;
    *below = false;
    for (; kvcache_next(c, at) && at->where; n++) {
        *below |= at->block < 0;
        if (ids)
            memcpy(ids + (size_t)n * c->block_tokens, at->ids, c->block_tokens * sizeof *ids);
    }
    return n;
}

/* A sequence of the chain's first `most` blocks, or fewer, and one token more; *out NULL: there is nothing below. */
static int make_guest(const struct kvcache *c, struct kvcache_cursor at, uint32_t most, struct seq **out)
{
    bool below;
    if (at.n > most)
        at.n = most;
    int32_t *ids = malloc(((size_t)at.n * c->block_tokens + 1) * sizeof *ids);
    struct request *r = calloc(1, sizeof *r);
    uint32_t n = ids && r ? run_of(c, &at, ids, &below) : 0;
    int ret = ids && r ? -ENOENT : -ENOMEM;
    *out = NULL;
    if (n > 0 && below) {
        ids[(size_t)n * c->block_tokens] = 0;
        *r = (struct request){.n = 1,
                              .n_prompt = n * c->block_tokens + 1,
                              .max_tokens = 1,
                              .counted = true,
                              .prefetch = true,
                              .in_memory = true, /* it does not use them: what holds for them goes on */
                              .root = *at.root,
                              .sampling = {.repetition = 1, .n_logprobs = -1}};
        *out = seq_open(r, 0, ids, NULL, 0, c->block_tokens);
        ret = *out ? 0 : -ENOMEM;
    }
    free(ids);
    if (ret)
        free(r);
    return ret;
}

int kvcache_prefetch(struct kvcache *c, const struct hash_key *root, const struct hash_key *keys, uint32_t n)
{
    struct kvcache_cursor at = {.root = root, .keys = keys, .n = n};
    struct seq *s;
    if (!c->tiers || !c->enabled)
        return -ENOENT;
    if (c->guest)
        return -EBUSY;
    /* sequences that run grow meanwhile: an eighth stays for them */
    uint32_t half = pool_n_blocks(c->pool) / 2, room = kvcache_available(c) - kvcache_available(c) / 8;
    int ret = make_guest(c, at, half < room ? half : room, &s);
    if (ret)
        return ret;
    uint32_t n_blocks = s->n_known / c->block_tokens;
    kvcache_match(c, s);
    if (kvcache_extend(c, s, (uint64_t)n_blocks * c->block_tokens) != 0) {
        kvcache_release(c, s);
        close_guest(s);
        return -EAGAIN;
    }
    kvcache_load(c, s);
    c->guest = s;
    return 0;
}

bool kvcache_prefetching(struct kvcache *c, bool now)
{
    if (c->guest && (now || c->guest->n_loading == 0)) {
        kvcache_release(c, c->guest);
        close_guest(c->guest);
        c->guest = NULL;
    }
    return c->guest != NULL;
}
