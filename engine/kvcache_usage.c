/* kvcache_usage - what a request is told about its prompt: what of it was found, where, and why the rest was not.
 *
 * Every token of a prompt that was computed to its end is counted once: as found in a tier, or as missed for a reason.
 * See kvcache_int.h.
 */
#include "engine/kvcache_int.h"

/* Tokens of the prompt that nothing has been said about. */
static uint32_t unsaid(const struct request *r)
{
    uint32_t said = r->cached;
    for (int i = 0; i < ENGINE_MISSES; i++)
        said += r->missed[i];
    return r->n_prompt - said;
}

void kvcache_count_hits(struct kvcache *c, struct seq *s, enum tier_id tier, uint32_t tokens)
{
    struct request *r = s->req;
    if (!s->counts)
        return;
    if (tokens > unsaid(r)) /* what an engine before this one had generated is no prompt */
        tokens = unsaid(r);
    r->cached += tokens;
    r->cached_in[tier] += tokens;
    c->cached_tokens[tier] += tokens;
}

static void miss(struct seq *s, enum engine_miss why, uint64_t tokens)
{
    struct request *r = s->req;
    if (s->counts)
        r->missed[why] += tokens < unsaid(r) ? (uint32_t)tokens : unsaid(r);
}

void kvcache_count_miss(struct seq *s, uint32_t i, enum engine_miss why)
{
    miss(s, why, s->table.block_tokens);
}

/* How many of the n ids from block i on have been seen in their place; -1: none, and no others. */
static int32_t seen_of(struct kvcache *c, struct seq *s, uint32_t i, uint32_t n)
{
    const struct hash_key *before = i ? kvcache_key(s, i - 1) : &s->req->root;
    return recall_common(c->recall, before, s->ids + (size_t)i * c->block_tokens, n);
}

static void diverge(struct seq *s, uint64_t at)
{
    if (at < s->req->divergent && at < s->n_prompt)
        s->req->divergent = (uint32_t)at;
}

static bool in_other_format(const struct kvcache *c, const struct seq *s, uint32_t i)
{
    for (uint32_t r = 0; r < s->req->n_other_roots; r++)
        if (foreign_has(c->foreign, &s->req->other_roots[r], i, s->ids + (size_t)i * c->block_tokens))
            return true;
    return false;
}

void kvcache_count_absent(struct kvcache *c, struct seq *s, uint32_t i)
{
    if (!s->counts || unsaid(s->req) == 0)
        return;
    struct kv_ident who = kvcache_content(s, i);
    enum recall_state state = recall_state(c->recall, &who.key);
    int32_t seen = seen_of(c, s, i, c->block_tokens);
    if (c->tiers && tiers_where(c->tiers, &who)) {
        kvcache_count_miss(s, i, ENGINE_MISS_NOT_LOADED);
    } else if (state != RECALL_NEVER || seen == (int32_t)c->block_tokens) {
        kvcache_count_miss(s, i, state == RECALL_BAD ? ENGINE_MISS_BAD : ENGINE_MISS_EVICTED);
    } else if (in_other_format(c, s, i)) {
        kvcache_count_miss(s, i, ENGINE_MISS_FORMAT);
    } else {
        diverge(s, (uint64_t)i * c->block_tokens + (seen > 0 ? (uint32_t)seen : 0));
        kvcache_count_miss(s, i, ENGINE_MISS_NEW);
    }
}

void kvcache_count_rest(struct kvcache *c, struct seq *s, uint32_t n_full, bool off)
{
    uint64_t from = (uint64_t)n_full * c->block_tokens;
    uint32_t n = from < s->n_prompt ? (uint32_t)(s->n_prompt - from) : 0;
    if (off) {
        miss(s, ENGINE_MISS_OFF, unsaid(s->req));
        return;
    }
    miss(s, ENGINE_MISS_PARTIAL, n);
    int32_t seen = s->counts && n > 0 ? seen_of(c, s, n_full, n < c->block_tokens ? n : c->block_tokens) : -1;
    if (seen >= 0 && (uint32_t)seen < n)
        diverge(s, from + (uint32_t)seen);
}
