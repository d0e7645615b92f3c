/* tiers - see tiers.h and tiers_int.h. Here: what is asked from outside, open and close. */
#include "engine/base/large.h"
#include "engine/base/sys.h"
#include "engine/kv/tiers_int.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t now_us(void)
{
    return sys.now_ns() / 1000;
}

/* -- asked from outside */

uint32_t tiers_where(const struct tiers *t, const struct kv_ident *who)
{
    const struct item *i = tiers_item(t, who);
    if (!i || i->bad)
        return 0;
    uint32_t dram = i->in_dram == COPY_READY || (i->in_dram == COPY_FILLING && i->by_store);
    return dram << TIER_DRAM | (uint32_t)(i->in_nvme == COPY_READY) << TIER_NVME;
}

void tiers_use(struct tiers *t, const struct kv_ident *who, const struct tiers_worth *w)
{
    struct item *i = tiers_item(t, who);
    if (!i)
        return;
    uint64_t now = now_us();
    i->used_us = now;
    i->worth.session = w->session;
    i->worth.class = w->class;
    if (i->worth.in_memory && !w->in_memory) {
        i->worth.in_memory = false;
        if (t->nvme && !i->bad && i->in_dram == COPY_READY && i->in_nvme == COPY_NONE) {
            evict_owes(t->in_dram, i->dram, i->worth.seconds); /* it may be named for writing again */
            if (tiers_writes_at_once(t, i))
                tiers_enqueue(t, i, i->parked);
        }
    }
    if (i->in_dram == COPY_READY)
        evict_use(t->in_dram, i->dram, w->class, w->session, now);
    if (i->in_nvme == COPY_READY)
        evict_use(t->in_nvme, i->nvme, w->class, w->session, now);
}

const struct kv_entry *tiers_named(const struct tiers *t, const struct hash_key *key, const struct hash_key *root,
                                   uint32_t depth)
{
    for (const struct item *i = tiers_first(t, key); i; i = tiers_next(t, i)) {
        const struct kv_entry *e = tiers_entry(t, i);
        if (!i->bad && hash_key_equal(&e->key, key) && e->depth == depth &&
            memcmp(e->root, root->b, sizeof e->root) == 0)
            return e;
    }
    return NULL;
}

void tiers_keep(struct tiers *t, const struct kv_ident *who, enum tier_id tier, uint64_t until_us)
{
    struct item *i = tiers_item(t, who);
    if (!i)
        return;
    i->keep_us[tier] = until_us;
    if (tier == TIER_DRAM && i->in_dram == COPY_READY)
        evict_keep(t->in_dram, i->dram, until_us);
    if (tier == TIER_NVME && i->in_nvme == COPY_READY)
        evict_keep(t->in_nvme, i->nvme, until_us);
}

int tiers_park(struct tiers *t, const struct kv_ident *who)
{
    if (!t->nvme)
        return -ENOTSUP;
    struct item *i = tiers_item(t, who);
    if (!i)
        return -ENOENT;
    if (i->in_nvme == COPY_NONE && i->in_dram == COPY_READY)
        tiers_enqueue(t, i, true);
    else if (i->in_nvme == COPY_NONE)
        i->parked = true; /* it is on its way from HBM: it will be queued with this mark */
    return 0;
}

bool tiers_parked(const struct tiers *t, const struct kv_ident *who)
{
    const struct item *i = tiers_item(t, who);
    return i && i->in_nvme == COPY_READY;
}

bool tiers_flush(struct tiers *t)
{
    return !t->nvme || tier_ops(t->nvme)->flush(t->nvme);
}

void tiers_forget(struct tiers *t, const struct kv_ident *who)
{
    struct item *i = tiers_item(t, who);
    if (!i)
        return;
    tiers_retire(t, i);
}

void tiers_get_stats(const struct tiers *t, struct tiers_stats *out)
{
    *out = t->stats;
    out->slot_bytes = t->slot_bytes;
    out->dram_slots = t->dram.n_slots;
    out->dram_used = t->dram.n_slots - t->dram.n_free;
    out->nvme_slots = t->nvme ? (uint64_t)tier_head((struct tier *)t->nvme)->n_slots : 0;
    out->gpu[0].queued = t->n_loads;
    out->gpu[1].queued = t->n_stores;
    out->nvme[0].queued = t->n_reads;
    out->nvme[1].queued = t->n_writes + t->to_write.n + t->to_park.n;
    out->bytes_per_day = t->o.write_bytes_per_day;
    out->budget_bytes = t->o.write_bytes_per_day ? (uint64_t)admit_left(&t->admit, now_us()) : 0;
}

/* -- open */

static int attach(struct tiers *t, struct tier *tier, struct err *e)
{
    if (!tier || !tier_ops(tier)->attach || t->o.no_bytes)
        return 0;
    return tier_ops(tier)->attach(tier, t->dram.base, t->dram.bytes, t->o.bell, e);
}

static int open_tables(struct tiers *t)
{
    uint32_t n_dram = t->dram.n_slots, n_nvme = t->nvme ? (uint32_t)tier_head(t->nvme)->n_slots : 0;
    uint64_t n = (uint64_t)n_dram + n_nvme + 1;
    if (n > INT32_MAX)
        return -ENOMEM;
    uint32_t n_buckets = 16;
    while (n_buckets < 2 * n &&
           n_buckets < 1u << 30) /* half of them empty: most look-ups of what is not there end at once */
        n_buckets *= 2;
    t->n_items = (uint32_t)n;
    t->mask = n_buckets - 1;
    t->items = large_calloc(n, sizeof *t->items);
    t->links = large_calloc(n, sizeof *t->links);
    t->buckets = large_calloc(n_buckets, sizeof *t->buckets);
    t->dram_item = malloc((n_dram + 1) * sizeof *t->dram_item);
    t->nvme_item = malloc((n_nvme + 1) * sizeof *t->nvme_item);
    t->dram_entries = calloc(n_dram, sizeof *t->dram_entries);
    if (!t->items || !t->links || !t->buckets || !t->dram_item || !t->nvme_item || !t->dram_entries ||
        evict_open(&t->in_dram, n_dram, t->o.returns) != 0 ||
        evict_open(&t->in_nvme, n_nvme ? n_nvme : 1, t->o.returns) != 0)
        return -ENOMEM;
    memset(t->buckets, 0xff, n_buckets * sizeof *t->buckets);
    memset(t->dram_item, 0xff, (n_dram + 1) * sizeof *t->dram_item);
    memset(t->nvme_item, 0xff, (n_nvme + 1) * sizeof *t->nvme_item);
    t->free_item = NONE;
    return 0;
}

int tiers_open(struct tiers **out, const struct tiers_opts *o, struct err *e)
{
    struct tiers *t = calloc(1, sizeof *t);
    if (!t) {
        tier_close(o->gpu);
        tier_close(o->nvme);
        return err_set(e, ENOMEM, "KV tiers: out of memory");
    }
    t->o = *o;
    t->gpu = o->gpu;
    t->nvme = o->nvme;
    t->slot_bytes = tier_slot_bytes(o->block_bytes);
    t->to_write = t->to_park = (struct queue){NONE, NONE, 0};
    if (!t->o.deadline_ns)
        t->o.deadline_ns = 250000000;
    int ret = tier_dram_open(&t->dram, t->slot_bytes, o->dram_bytes, o->no_bytes, e);
    if (ret || (ret = attach(t, t->gpu, e)) || (ret = attach(t, t->nvme, e)))
        goto fail;
    ret = open_tables(t);
    if (!ret && t->nvme)
        ret = tiers_find_again(t);
    if (!ret)
        ret = moves_open(t);
    if (ret) {
        err_set(e, -ret, "KV tiers: no memory for an index of %u + %d blocks; lower kv.dram.bytes or kv.nvme.bytes",
                t->dram.n_slots, t->nvme ? tier_head(t->nvme)->n_slots : 0);
        goto fail;
    }
    *out = t;
    return 0;
fail:
    tiers_close(t);
    return ret;
}

void tiers_close(struct tiers *t)
{
    if (!t)
        return;
    tier_close(t->gpu); /* first: they wait for moves, whose memory is freed below */
    tier_close(t->nvme);
    moves_close(t);
    evict_close(t->in_dram);
    evict_close(t->in_nvme);
    tier_dram_close(&t->dram);
    free(t->items);
    free(t->links);
    free(t->buckets);
    free(t->dram_item);
    free(t->nvme_item);
    free(t->dram_entries);
    free(t);
}

void tiers_check(const struct tiers *t)
{
    uint32_t used = 0, dram = 0, nvme = 0, chained = 0;
    for (uint32_t n = 0; n < t->n_touched; n++) {
        const struct item *i = &t->items[n];
        if (!i->used)
            continue;
        used++;
        assert(i->dram != NONE || i->nvme != NONE);
        assert((i->dram != NONE) == (i->in_dram != COPY_NONE) && (i->nvme != NONE) == (i->in_nvme != COPY_NONE));
        assert(i->dram == NONE || t->dram_item[i->dram] == (int32_t)n);
        assert(i->in_nvme != COPY_READY || t->nvme_item[i->nvme] == (int32_t)n);
        if (i->in_dram == COPY_READY)
            assert((evict_state(t->in_dram, i->dram) == EVICT_HELD) == (i->pins > 0));
        assert(i->in_dram != COPY_FILLING || evict_state(t->in_dram, i->dram) == EVICT_OUT);
        if (i->in_nvme == COPY_READY)
            assert((evict_state(t->in_nvme, i->nvme) == EVICT_HELD) == (i->nvme_pins > 0));
        assert(!i->queued || (i->in_dram == COPY_READY && i->in_nvme == COPY_NONE));
        dram += i->dram != NONE;
        nvme += i->in_nvme == COPY_READY;
    }
    for (uint32_t b = 0; b <= t->mask; b++)
        for (int32_t at = t->buckets[b]; at != NONE; at = t->links[at].next)
            chained++;
    assert(used == t->n_used && chained == used && dram == t->dram.n_slots - t->dram.n_free);
    assert(nvme == t->stats.nvme_used);
    evict_check(t->in_dram);
    evict_check(t->in_nvme);
}
