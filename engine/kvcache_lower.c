/* kvcache_lower - what lies below the pool: see kvcache.h, "tiers below the pool", and kv/tiers.h. */
#include "engine/base/sys.h"
#include "engine/budget.h"
#include "engine/kvcache_int.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum outcome { OUTCOME_NONE, OUTCOME_LOADED, OUTCOME_FAILED, OUTCOME_BAD };

int kvcache_attach(struct kvcache *c, struct tiers *t)
{
    uint32_t n = pool_n_blocks(c->pool);
    c->moving = calloc(n, sizeof *c->moving);
    c->outcome = calloc(n, sizeof *c->outcome);
    c->asleep = calloc(n, sizeof *c->asleep);
    c->fetches = calloc(KVCACHE_FETCHES, sizeof *c->fetches);
    if (!c->moving || !c->outcome || !c->asleep || !c->fetches)
        return -ENOMEM; /* kvcache_close frees what there is */
    c->tiers = t;
    return 0;
}

void kvcache_detach(struct kvcache *c)
{
    tiers_close(c->tiers);
    free(c->moving);
    free(c->outcome);
    free(c->asleep);
    free(c->fetches);
}

static bool is_on(const struct kvcache *c)
{
    return c->tiers && c->enabled;
}

struct kv_ident kvcache_content(struct seq *s, uint32_t i)
{
    return (struct kv_ident){
        .key = *kvcache_key(s, i),
        .parent = i ? s->keys[i - 1] : s->req->root,
        .root = &s->req->root,
        .check = s->checks[i],
        .ids = s->ids + (size_t)i * s->table.block_tokens,
        .depth = i,
    };
}

double kvcache_compute_ns(const struct kvcache *c, uint32_t i)
{
    uint32_t rows = c->block_tokens;
    return c->budget ? budget_cost(c->budget, (uint64_t)i * rows, rows) +
                           budget_predict(c->budget, 0, 0) * rows / c->step_rows
                     : 0;
}

/* All blocks cost the same here. Dearer ones at the end of a chain would be kept for themselves, though they are of use
 * only with all before them: on traces pricing by depth saved no more seconds, and hit less. And what a block of any
 * depth costs is learned and drifts: priced at the time, the same blocks would differ by that alone. */
static struct tiers_worth worth(const struct kvcache *c, const struct seq *s, uint32_t i)
{
    struct tiers_worth w = {.seconds = 1, .class = returns_class(&s->turn, i), .in_memory = s->req->in_memory};
    memcpy(&w.session, s->keys[0].b, sizeof w.session); /* chains that begin alike are one session */
    return w;
}

void kvcache_hold_for_move(struct kvcache *c, int32_t block)
{
    pool_ref(c->pool, block);
    c->moving[block]++;
}

void kvcache_store(struct kvcache *c, struct seq *s, uint32_t i)
{
    if (!is_on(c))
        return;
    struct kv_ident who = kvcache_content(s, i);
    struct tiers_worth w = worth(c, s, i);
    int32_t block = s->table.blocks[i].id;
    if (tiers_store(c->tiers, &who, block, &w) == 1)
        kvcache_hold_for_move(c, block);
}

/* -- loading */

/* Load or compute. What a drive has alone is cut in two: the blocks before the cut are computed while those behind it
 * are read, all others being on their way or in DRAM. With the cut at m that takes as long as the longer of the two,
 *
 *     max(reads before ours + reads behind m, computing before m)
 *
 * and computing, whose time all share, holds up each other sequence as long: the sum over all of them is least at the
 * cut. So an idle machine computes and reads at once, from both ends; the more wait, the more is read. */
static uint32_t find_cut(const struct kvcache *c, const struct tiers_pace *p, uint32_t n_asleep)
{
    double left = p->backlog_ns + p->read_ns * n_asleep, computed = 0, least = left;
    uint32_t cut = 0;
    for (uint32_t m = 1; m <= n_asleep; m++) {
        left = m < n_asleep ? left - p->read_ns : 0;
        computed += kvcache_compute_ns(c, c->asleep[m - 1]);
        double cost = (left > computed ? left : computed) + c->others * computed;
        if (cost >= least)
            continue;
        least = cost;
        cut = m;
    }
    return cut < n_asleep ? c->asleep[cut] : UINT32_MAX;
}

/* The first block that is worth reading from a drive. */
static uint32_t first_to_read(struct kvcache *c, struct seq *s, uint32_t from, uint32_t n_full)
{
    uint32_t n = 0;
    if (!c->tiers || c->load_always || !c->budget || s->req->prefetch || s->req->no_cache)
        return 0;
    for (uint32_t i = from; i < n_full; i++) {
        struct kv_ident who = kvcache_content(s, i);
        if (tiers_where(c->tiers, &who) == 1u << TIER_NVME && tiers_loading(c->tiers, &who) < 0 &&
            kvcache_coming(c, s, i) < 0)
            c->asleep[n++] = i;
    }
    struct tiers_pace p = tiers_get_pace(c->tiers);
    return find_cut(c, &p, n);
}

static bool sooner_loaded(const struct kvcache *c, uint32_t where, uint32_t i, uint32_t cut)
{
    if (cut == 0)
        return true;
    if (!(where & 1u << TIER_DRAM))
        return i >= cut;
    return tiers_get_pace(c->tiers).copy_ns < kvcache_compute_ns(c, i) * (1 + c->others);
}

/* Block i of s will be somebody else's, who is loading or computing it. */
static void share_block(struct kvcache *c, struct seq *s, uint32_t i, int32_t shared)
{
    struct table_block *b = &s->table.blocks[i];
    kvcache_hold(c, shared);
    kvcache_give(c, b->id);
    b->id = shared;
    table_load(&s->table, i);
    s->n_loading++;
}

/* Block i of s, absent, from below. True when it is on its way. */
static bool load_block(struct kvcache *c, struct seq *s, uint32_t i, uint32_t cut)
{
    struct table_block *b = &s->table.blocks[i];
    struct kv_ident who = kvcache_content(s, i);
    uint32_t where = tiers_where(c->tiers, &who);
    int32_t shared = where ? tiers_loading(c->tiers, &who) : -1;
    if (shared >= 0) {
        share_block(c, s, i, shared);
        return true;
    }
    if (!where || !(s->req->prefetch || sooner_loaded(c, where, i, cut)) ||
        tiers_load(c->tiers, &who, b->id, c->queued, 0) != 0)
        return false;
    kvcache_hold_for_move(c, b->id);
    table_load(&s->table, i);
    s->n_loading++;
    return true;
}

/* Where the KV of full block i comes from that the pool does not have. */
static void find_block(struct kvcache *c, struct seq *s, uint32_t i, uint32_t cut)
{
    int32_t coming = s->req->prefetch ? -1 : kvcache_coming(c, s, i);
    if (coming >= 0 && !s->req->no_cache)
        share_block(c, s, i, coming);
    else if (c->tiers && !s->req->no_cache && load_block(c, s, i, cut))
        return;
    else {
        kvcache_count_absent(c, s, i);
        if (coming < 0 && !s->req->prefetch)
            kvcache_announce(c, s, i);
    }
}

void kvcache_load(struct kvcache *c, struct seq *s)
{
    uint32_t hits = s->n_published, n_full = (s->n_known - 1) / c->block_tokens;
    s->counts = !s->req->counted;
    s->req->counted = true;
    kvcache_count_hits(c, s, TIER_HBM, hits * c->block_tokens);
    kvcache_count_rest(c, s, n_full, !c->enabled || s->req->no_cache);
    if (!c->enabled || n_full == 0)
        return;
    s->load_from_ns = sys.now_ns();
    uint32_t n_keys = s->n_known / c->block_tokens; /* the last one is not looked up when it ends with the prompt */
    kvcache_key(s, n_keys - 1);
    if (c->returns && s->counts)
        s->turn = returns_use(c->returns, s->keys, n_keys, s->load_from_ns / 1000);
    for (uint32_t i = 0; i < hits && !s->req->prefetch; i++)
        prefix_use(c->prefix, s->table.blocks[i].id, returns_class(&s->turn, i), s->load_from_ns / 1000);
    uint32_t cut = first_to_read(c, s, hits, n_full);
    for (uint32_t i = hits; i < n_full; i++)
        find_block(c, s, i, cut);
    for (uint32_t i = c->tiers ? n_full : 0; i-- > 0;) { /* the last first: a chain is given up from its end */
        struct kv_ident who = kvcache_content(s, i);
        struct tiers_worth w = worth(c, s, i);
        tiers_use(c->tiers, &who, &w);
    }
}

/* Copy full block i of s, which is published, to DRAM again. */
static bool swap_block(struct kvcache *c, struct seq *s, uint32_t i)
{
    struct kv_ident who = kvcache_content(s, i);
    struct tiers_worth w = worth(c, s, i);
    double there_and_back = 2 * tiers_get_pace(c->tiers).copy_ns;
    if (c->budget && there_and_back >= kvcache_compute_ns(c, i) * (1 + c->others))
        return false;
    int ret = tiers_store(c->tiers, &who, s->table.blocks[i].id, &w);
    if (ret == 1)
        kvcache_hold_for_move(c, s->table.blocks[i].id);
    return ret >= 0;
}

void kvcache_swap(struct kvcache *c, struct seq *s, uint32_t n_free)
{
    uint32_t n = s->n_published, own = (uint32_t)s->table.n - n; /* what is not full is free at once */
    if (!is_on(c))
        return;
    for (uint32_t i = 0; i < n; i++) {
        struct kv_ident who = kvcache_content(s, i);
        bool held = pool_refs(c->pool, s->table.blocks[i].id) > 1; /* others have it: it stays */
        bool copy = held || tiers_where(c->tiers, &who) || (n - i + own > n_free && swap_block(c, s, i));
        c->swapped += copy;
        c->dropped += !copy;
    }
}

/* A load of s's block i has failed: the block stays s's when nobody else waits for it, else s takes another. */
static int own_block(struct kvcache *c, struct table_block *b)
{
    if (pool_refs(c->pool, b->id) - (c->moving ? c->moving[b->id] : 0) == 1)
        return 0;
    int32_t mine;
    if (!kvcache_make_free(c, 1) || pool_take(c->pool, 1, &mine) != 0)
        return -ENOMEM;
    kvcache_give(c, b->id);
    b->id = mine;
    return 0;
}

/* What has become of a block that a sequence waits for. */
static enum outcome outcome_of(const struct kvcache *c, int32_t block, enum tier_id *from)
{
    *from = TIER_HBM;
    if (c->outcome && c->outcome[block] != OUTCOME_NONE) {
        *from = (enum tier_id)(c->outcome[block] >> 2);
        return (enum outcome)(c->outcome[block] & 3);
    }
    enum kvcache_join join = kvcache_join(c, block);
    if (join == JOIN_CAME)
        return OUTCOME_LOADED;
    /* neither being computed nor being loaded: who was to compute it has gone */
    return join == JOIN_COMING || (c->moving && c->moving[block] > 0) ? OUTCOME_NONE : OUTCOME_FAILED;
}

/* Block i of s was waited for in vain. */
static void count_failed(struct kvcache *c, struct seq *s, uint32_t i, enum outcome how)
{
    bool load = c->outcome && c->outcome[s->table.blocks[i].id] != OUTCOME_NONE;
    if (how == OUTCOME_BAD)
        recall_bad(c->recall, kvcache_key(s, i));
    if (how == OUTCOME_BAD || load)
        kvcache_count_miss(s, i, how == OUTCOME_BAD ? ENGINE_MISS_BAD : ENGINE_MISS_NOT_LOADED);
    else
        kvcache_count_absent(c, s, i);
}

void kvcache_give_up_loading(struct kvcache *c, struct seq *s)
{
    for (uint32_t i = 0; s->n_loading > 0 && i < s->table.n; i++) {
        if (s->table.blocks[i].state != TABLE_LOADING)
            continue;
        kvcache_count_miss(s, i, ENGINE_MISS_NOT_LOADED);
        s->n_loading--;
    }
}

int kvcache_settle(struct kvcache *c, struct seq *s)
{
    int ret = 0;
    for (uint32_t i = 0; s->n_loading > 0 && i < s->table.n; i++) {
        struct table_block *b = &s->table.blocks[i];
        enum tier_id from;
        enum outcome how = b->state == TABLE_LOADING ? outcome_of(c, b->id, &from) : OUTCOME_NONE;
        if (how == OUTCOME_NONE)
            continue;
        bool ok = how == OUTCOME_LOADED;
        if (ok)
            kvcache_count_hits(c, s, from, c->block_tokens);
        else
            count_failed(c, s, i, how);
        if (!ok && own_block(c, b) != 0)
            ret = -ENOMEM;
        table_loaded(&s->table, i, ok);
        s->n_loading--;
    }
    if (s->counts && s->n_loading == 0)
        s->req->load_ns = sys.now_ns() - s->load_from_ns;
    kvcache_publish(c, s);
    return ret;
}

static enum outcome outcome_as_told(const struct tiers_outcome *o)
{
    return o->ok ? OUTCOME_LOADED : o->bad ? OUTCOME_BAD : OUTCOME_FAILED;
}

bool kvcache_move(struct kvcache *c)
{
    if (!c->tiers)
        return false;
    bool any = tiers_turn(c->tiers, c->finished);
    uint32_t n;
    const struct tiers_outcome *done = tiers_done(c->tiers, &n);
    for (uint32_t i = 0; i < n; i++)
        if (done[i].load)
            c->outcome[done[i].block] = (uint8_t)(outcome_as_told(&done[i]) | done[i].from << 2);
    return any;
}

void kvcache_moved(struct kvcache *c)
{
    uint32_t n = 0;
    const struct tiers_outcome *done = c->tiers ? tiers_done(c->tiers, &n) : NULL;
    if (c->guest)
        kvcache_settle(c, c->guest); /* a block it can't have is one it does without */
    for (uint32_t i = 0; i < n; i++) {
        c->outcome[done[i].block] = OUTCOME_NONE;
        c->moving[done[i].block]--;
        pool_drop(c->pool, done[i].block, c->queued);
    }
}

/* -- while it waits */

/* Where the search for things to fetch begins: behind what the pool has. */
static uint32_t pool_run(struct kvcache *c, struct seq *s, uint32_t n_full)
{
    uint32_t i = 0;
    for (int32_t block = -1; i < n_full && (block = kvcache_find(c, s, i, block)) >= 0; i++)
        ;
    return i;
}

static struct kvcache_fetch *free_fetch(struct kvcache *c)
{
    for (uint32_t i = 0; i < KVCACHE_FETCHES; i++)
        if (!c->fetches[i].seq)
            return &c->fetches[i];
    return NULL;
}

bool kvcache_fetch(struct kvcache *c, struct seq *s)
{
    uint32_t n_full = (s->n_known - 1) / c->block_tokens;
    if (!is_on(c) || s->req->no_cache)
        return true;
    if (s->fetch_from == 0)
        s->fetch_from = pool_run(c, s, n_full);
    for (; s->fetch_from < n_full; s->fetch_from++) {
        struct kv_ident who = kvcache_content(s, s->fetch_from);
        struct kvcache_fetch *f = c->n_fetches < KVCACHE_FETCHES ? free_fetch(c) : NULL;
        int64_t ticket = f ? tiers_fetch(c->tiers, &who) : -EAGAIN;
        if (ticket == -EAGAIN)
            return false;
        if (ticket < 0)
            continue; /* not known: a hole */
        *f = (struct kvcache_fetch){s, ticket};
        c->n_fetches++;
        s->n_fetched++;
    }
    return true;
}

bool kvcache_starved(const struct kvcache *c)
{
    return c->tiers && tiers_starved(c->tiers);
}

void kvcache_unfetch(struct kvcache *c, struct seq *s)
{
    for (uint32_t i = 0; s->n_fetched > 0 && i < KVCACHE_FETCHES; i++) {
        if (c->fetches[i].seq != s)
            continue;
        tiers_unfetch(c->tiers, c->fetches[i].ticket);
        c->fetches[i].seq = NULL;
        c->n_fetches--;
        s->n_fetched--;
    }
    s->fetch_from = 0;
}
