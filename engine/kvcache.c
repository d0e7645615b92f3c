/* kvcache - see kvcache.h. */
#include "engine/base/sys.h"
#include "engine/kvcache_int.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum root_tag { ROOT_VERSION = 1, ROOT_SECRET, ROOT_SALT, ROOT_MODEL, ROOT_BLOCK_TOKENS, ROOT_FORMAT, ROOT_NUMERICS };

int kvcache_open(struct kvcache *c, uint32_t n_blocks, uint32_t block_tokens, bool enabled, struct returns *returns)
{
    *c = (struct kvcache){.block_tokens = block_tokens, .enabled = enabled, .returns = returns};
    if (pool_open(&c->pool, n_blocks) != 0 || prefix_open(&c->prefix, n_blocks, block_tokens, returns) != 0 ||
        kvcache_joins_open(&c->joins, n_blocks) != 0 || (enabled && recall_open(&c->recall, block_tokens) != 0)) {
        kvcache_close(c);
        return -ENOMEM;
    }
    return 0;
}

void kvcache_close(struct kvcache *c)
{
    kvcache_prefetching(c, true);
    kvcache_detach(c);
    kvcache_joins_close(c->joins);
    recall_close(c->recall);
    foreign_close(c->foreign);
    pool_close(c->pool);
    prefix_close(c->prefix);
    returns_close(c->returns);
    memset(c, 0, sizeof *c);
}

static void field_u32(struct hash_state *h, uint32_t tag, uint32_t v)
{
    uint8_t b[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
    hash_field(h, tag, b, sizeof b);
}

int kvcache_root(const struct kvcache_identity *who, const uint8_t salt[32], struct hash_key *out)
{
    struct hash_state *h = hash_open();
    if (!h)
        return -ENOMEM;
    field_u32(h, ROOT_VERSION, 1);
    hash_field(h, ROOT_SECRET, who->secret, sizeof who->secret);
    hash_field(h, ROOT_SALT, salt, 32);
    hash_field(h, ROOT_MODEL, who->model.b, sizeof who->model.b);
    field_u32(h, ROOT_BLOCK_TOKENS, who->block_tokens);
    field_u32(h, ROOT_FORMAT, who->format);
    hash_field(h, ROOT_NUMERICS, who->numerics, strlen(who->numerics));
    hash_finish(h, out);
    return 0;
}

void kvcache_hold(struct kvcache *c, int32_t block)
{
    if (prefix_is_idle(c->prefix, block))
        prefix_busy(c->prefix, block);
    pool_ref(c->pool, block);
}

void kvcache_give(struct kvcache *c, int32_t block)
{
    pool_drop(c->pool, block, c->queued);
    uint32_t held = pool_refs(c->pool, block) - (c->moving ? c->moving[block] : 0);
    if (held > 0)
        return;
    kvcache_unheld(c, block);
    if (pool_cached(c->pool, block))
        prefix_idle(c->prefix, block);
}

/* Key of full block i, from the chain. */
const struct hash_key *kvcache_key(struct seq *s, uint32_t i)
{
    uint32_t bt = s->table.block_tokens;
    const struct hash_key *root = &s->req->root;
    for (uint32_t n = s->n_keys; n <= i; n = ++s->n_keys) {
        const int32_t *ids = s->ids + (size_t)n * bt;
        prefix_key(n ? &s->keys[n - 1] : root, ids, bt, &s->keys[n]);
        s->checks[n] = entry_check(n ? s->checks[n - 1] : 0, root, ids, bt);
    }
    return &s->keys[i];
}

static struct prefix_ident ident_at(struct seq *s, uint32_t i)
{
    return (struct prefix_ident){
        .key = *kvcache_key(s, i),
        .root = &s->req->root,
        .parent = i ? s->table.blocks[i - 1].id : -1,
        .ids = s->ids + (size_t)i * s->table.block_tokens,
    };
}

uint32_t kvcache_match(struct kvcache *c, struct seq *s)
{
    assert(s->table.n == 0);
    s->n_published = 0;
    if (!c->enabled || s->req->no_cache)
        return 0;
    uint32_t n_full = (s->n_known - 1) / c->block_tokens;
    for (uint32_t i = 0; i < n_full; i++) {
        struct prefix_ident who = ident_at(s, i);
        int32_t block = prefix_find(c->prefix, &who);
        if (block < 0)
            break;
        kvcache_hold(c, block);
        table_push(&s->table, block, true);
    }
    s->n_published = (uint32_t)s->table.n;
    return s->n_published * c->block_tokens;
}

uint32_t kvcache_available(const struct kvcache *c)
{
    return pool_n_free(c->pool) + pool_n_idle(c->pool);
}

uint32_t kvcache_missing(const struct kvcache *c, const struct seq *s, uint64_t n_tokens)
{
    size_t want = table_blocks_for(c->block_tokens, n_tokens);
    return want > s->table.n ? (uint32_t)(want - s->table.n) : 0;
}

int32_t kvcache_find(struct kvcache *c, struct seq *s, uint32_t i, int32_t parent)
{
    struct prefix_ident who = {.key = *kvcache_key(s, i),
                               .root = &s->req->root,
                               .parent = parent,
                               .ids = s->ids + (size_t)i * s->table.block_tokens};
    return prefix_find(c->prefix, &who);
}

/* Make n blocks free. All steps before have been queued on the same stream or have finished, so what is evicted now may
 * be written by the next step. */
bool kvcache_make_free(struct kvcache *c, uint32_t n)
{
    if (n > kvcache_available(c))
        return false;
    while (pool_n_free(c->pool) < n) {
        int32_t block = prefix_evict(c->prefix, sys.now_ns() / 1000);
        assert(block >= 0);
        pool_set_cached(c->pool, block, false, c->queued);
        pool_finish(c->pool, c->queued);
        c->evictions++;
    }
    return true;
}

int kvcache_extend(struct kvcache *c, struct seq *s, uint64_t n_tokens)
{
    uint32_t n = kvcache_missing(c, s, n_tokens);
    if (!kvcache_make_free(c, n))
        return -ENOMEM;
    for (; n > 0; n--) {
        int32_t block;
        int ret = pool_take(c->pool, 1, &block);
        assert(ret == 0);
        (void)ret;
        table_push(&s->table, block, false);
    }
    return 0;
}

int kvcache_own(struct kvcache *c, struct seq *s, uint64_t position, struct kvcache_copy *copy)
{
    struct table_block *b = &s->table.blocks[position / c->block_tokens];
    if (pool_refs(c->pool, b->id) == 1)
        return 0;
    assert(b->state != TABLE_READY);
    if (!kvcache_make_free(c, 1))
        return -ENOMEM;
    int32_t mine;
    int ret = pool_take(c->pool, 1, &mine);
    assert(ret == 0);
    (void)ret;
    *copy = (struct kvcache_copy){b->id, mine};
    kvcache_give(c, b->id);
    b->id = mine;
    return b->filled ? 1 : 0;
}

void kvcache_publish(struct kvcache *c, struct seq *s)
{
    for (; s->n_published < s->table.n && s->table.blocks[s->n_published].state == TABLE_READY; s->n_published++) {
        if ((uint64_t)(s->n_published + 1) * c->block_tokens > s->n_known)
            break; /* filled with a token that a step under way draws */
        if (!c->enabled)
            continue;
        struct table_block *b = &s->table.blocks[s->n_published];
        kvcache_came(c, s, b->id);
        struct prefix_ident who = ident_at(s, s->n_published);
        int32_t first = prefix_find(c->prefix, &who);
        if (first < 0) {
            prefix_add(c->prefix, b->id, &who);
            prefix_use(c->prefix, b->id, returns_class(&s->turn, s->n_published), sys.now_ns() / 1000);
            recall_note(c->recall, s->n_published ? &s->keys[s->n_published - 1] : who.root, &who.key, who.ids);
            pool_set_cached(c->pool, b->id, true, c->queued);
            kvcache_store(c, s, s->n_published);
        } else if (first != b->id) { /* somebody computed the same content before: use theirs */
            kvcache_hold(c, first);
            kvcache_give(c, b->id);
            b->id = first;
        }
    }
}

void kvcache_fork(struct kvcache *c, const struct seq *parent, struct seq *child)
{
    assert(child->table.n == 0);
    for (size_t i = 0; i < parent->table.n; i++) {
        kvcache_hold(c, parent->table.blocks[i].id);
        table_push(&child->table, parent->table.blocks[i].id, false);
        child->table.blocks[i] = parent->table.blocks[i];
    }
    memcpy(child->keys, parent->keys, parent->n_keys * sizeof *parent->keys);
    memcpy(child->checks, parent->checks, parent->n_keys * sizeof *parent->checks);
    child->n_keys = parent->n_keys;
    child->n_published = parent->n_published;
}

void kvcache_release(struct kvcache *c, struct seq *s)
{
    kvcache_withdraw(c, s);
    kvcache_give_up_loading(c, s);
    while (s->table.n > 0)
        kvcache_give(c, s->table.blocks[--s->table.n].id);
    s->n_published = 0;
    s->n_loading = 0;
}

void kvcache_finish(struct kvcache *c, uint64_t step)
{
    c->finished = step;
    pool_finish(c->pool, step);
}

static void check_seq(const struct kvcache *c, const struct seq *s, uint32_t *refs)
{
    const struct table *t = &s->table;
    uint32_t n_loading = 0;
    table_check(t);
    assert(s->n_published <= t->n);
    for (size_t j = 0; j < t->n; j++) {
        n_loading += t->blocks[j].state == TABLE_LOADING;
        refs[t->blocks[j].id]++;
        /* what somebody else has published meanwhile is still to be settled */
        assert(!pool_cached(c->pool, t->blocks[j].id) || t->blocks[j].state == TABLE_READY ||
               (t->blocks[j].state == TABLE_LOADING && kvcache_join(c, t->blocks[j].id) == JOIN_CAME));
    }
    assert(n_loading == s->n_loading);
}

void kvcache_check(const struct kvcache *c, struct seq *const *seqs, uint32_t n)
{
    pool_check(c->pool);
    prefix_check(c->prefix);
    uint32_t n_blocks = pool_n_blocks(c->pool), *refs = calloc(n_blocks, sizeof *refs);
    assert(refs);
    for (uint32_t i = 0; i < n; i++)
        if (seqs[i])
            check_seq(c, seqs[i], refs);
    if (c->guest)
        check_seq(c, c->guest, refs);
    for (uint32_t b = 0; b < n_blocks; b++) {
        assert(refs[b] + (c->moving ? c->moving[b] : 0) == pool_refs(c->pool, (int32_t)b));
        assert(pool_cached(c->pool, (int32_t)b) == prefix_has(c->prefix, (int32_t)b));
        assert(prefix_is_idle(c->prefix, (int32_t)b) == (pool_cached(c->pool, (int32_t)b) && refs[b] == 0));
    }
    free(refs);
    if (c->tiers)
        tiers_check(c->tiers);
}
