/* tiers - see tiers.h and tiers_int.h. Here: contents, their places, and who gives room. */
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

/* -- the table: items by key */

static int32_t *bucket_of(const struct tiers *t, const struct hash_key *key)
{
    uint32_t h;
    memcpy(&h, key->b, sizeof h);
    return &t->buckets[h & t->mask];
}

static uint64_t tag_of(const struct hash_key *key)
{
    uint64_t tag;
    memcpy(&tag, key->b + 4, sizeof tag);
    return tag;
}

const struct kv_entry *tiers_entry(const struct tiers *t, const struct item *i)
{
    return i->dram != NONE ? &t->dram_entries[i->dram] : tier_ops(t->nvme)->entry(t->nvme, i->nvme);
}

struct item *tiers_item(struct tiers *t, const struct kv_ident *who)
{
    uint64_t tag = tag_of(&who->key);
    for (int32_t at = *bucket_of(t, &who->key); at != NONE; at = t->items[at].chain)
        if (t->tags[at] == tag && entry_is(tiers_entry(t, &t->items[at]), who))
            return &t->items[at];
    return NULL;
}

/* The item of the block before, as far as its key tells: for the order of giving up, where a mistake costs little. */
static const struct item *parent_of(const struct tiers *t, const struct kv_entry *e)
{
    if (e->depth == 0)
        return NULL;
    uint64_t tag = tag_of(&e->parent);
    for (int32_t at = *bucket_of(t, &e->parent); at != NONE; at = t->items[at].chain)
        if (t->tags[at] == tag)
            return &t->items[at];
    return NULL;
}

struct item *tiers_add(struct tiers *t, const struct hash_key *key)
{
    if (t->free_item == NONE)
        return NULL;
    struct item *i = &t->items[t->free_item];
    int32_t *bucket = bucket_of(t, key);
    t->free_item = i->chain;
    *i = (struct item){.chain = *bucket,
                       .dram = NONE,
                       .nvme = NONE,
                       .used = true,
                       .generation = i->generation + 1,
                       .load = NONE,
                       .prev = NONE,
                       .next = NONE,
                       .used_us = now_us()};
    *bucket = tiers_id(t, i);
    t->tags[tiers_id(t, i)] = tag_of(key);
    t->n_used++;
    return i;
}

static void remove_item(struct tiers *t, struct item *i, const struct hash_key *key)
{
    assert(i->dram == NONE && i->nvme == NONE && !i->queued && i->load == NONE);
    int32_t *at = bucket_of(t, key), id = tiers_id(t, i);
    while (*at != id)
        at = &t->items[*at].chain;
    *at = i->chain;
    i->used = false;
    i->chain = t->free_item;
    t->free_item = id;
    t->n_used--;
}

/* -- places. The entry lies with a slot: the key is read before the last one goes. */

static void leave_slot(struct tiers *t, struct item *i, bool dram)
{
    struct hash_key key = tiers_entry(t, i)->key;
    if (dram) {
        t->dram_item[i->dram] = NONE;
        tier_dram_give(&t->dram, i->dram);
        i->dram = NONE;
        i->in_dram = COPY_NONE;
    } else {
        t->nvme_item[i->nvme] = NONE;
        i->in_nvme = COPY_NONE;
        tier_ops(t->nvme)->forget(t->nvme, i->nvme);
        tier_ops(t->nvme)->give(t->nvme, i->nvme);
        i->nvme = NONE;
        t->stats.nvme_used--;
        if (i->in_dram == COPY_READY)
            evict_owes(t->in_dram, i->dram, i->worth.seconds);
    }
    if (i->dram == NONE && i->nvme == NONE)
        remove_item(t, i, &key);
}

void tiers_drop_dram(struct tiers *t, struct item *i)
{
    assert(i->in_dram == COPY_READY && i->pins == 0);
    tiers_dequeue(t, i);
    evict_remove(t->in_dram, i->dram);
    leave_slot(t, i, true);
}

void tiers_drop_nvme(struct tiers *t, struct item *i)
{
    assert(i->in_nvme == COPY_READY);
    evict_remove(t->in_nvme, i->nvme);
    leave_slot(t, i, false);
}

int32_t tiers_take_dram(struct tiers *t)
{
    int32_t slot = tier_dram_take(&t->dram);
    if (slot != NONE)
        return slot;
    slot = evict_pick(t->in_dram, now_us());
    if (slot < 0)
        return NONE;
    struct item *i = &t->items[t->dram_item[slot]];
    if (i->nvme != NONE)
        t->stats.evicted_dram++;
    else
        t->stats.lost_dram++;
    if (i->nvme == NONE && t->nvme && t->o.write_bytes_per_day)
        t->stats.refused_bytes += t->slot_bytes;
    tiers_drop_dram(t, i);
    return tier_dram_take(&t->dram);
}

/* Blocks of a chain go round the drives, each chain from another one on. */
static uint64_t stripe_of(const struct tiers *t, const struct item *i)
{
    return (uint64_t)i->worth.session + tiers_entry(t, i)->depth;
}

int32_t tiers_take_nvme(struct tiers *t, const struct item *i)
{
    uint64_t stripe = stripe_of(t, i);
    int32_t slot = tier_ops(t->nvme)->take(t->nvme, stripe);
    if (slot >= 0)
        return slot;
    int32_t victim = evict_pick(t->in_nvme, now_us());
    if (victim < 0)
        return NONE;
    struct item *v = &t->items[t->nvme_item[victim]];
    assert(v != i);
    t->stats.lost_nvme += v->dram == NONE;
    tiers_drop_nvme(t, v);
    return tier_ops(t->nvme)->take(t->nvme, stripe);
}

/* -- evict: what it knows of a copy */

static void enter_evict(struct tiers *t, struct evict *e, struct item *i, int32_t slot, bool dram)
{
    const struct kv_entry *entry = tiers_entry(t, i);
    const struct item *p = parent_of(t, entry);
    int32_t parent = !p ? NONE : dram ? p->dram : p->nvme;
    if (parent != NONE && evict_state(e, parent) == EVICT_OUT)
        parent = NONE; /* it is filling */
    struct evict_block b = {.used_us = i->used_us,
                            .keep_until_us = i->keep_us[dram ? TIER_DRAM : TIER_NVME],
                            .seconds = i->worth.seconds,
                            .bytes = (uint32_t)(t->slot_bytes > UINT32_MAX ? UINT32_MAX : t->slot_bytes),
                            .session = i->worth.session,
                            .parent = parent,
                            .class = i->worth.class};
    evict_add(e, slot, &b);
}

void tiers_dram_fills(struct tiers *t, struct item *i, int32_t slot, const struct kv_entry *e)
{
    assert(i->in_dram == COPY_NONE && t->dram_item[slot] == NONE);
    t->dram_entries[slot] = *e;
    t->dram_item[slot] = tiers_id(t, i);
    i->dram = slot;
    i->in_dram = COPY_FILLING;
}

void tiers_dram_ready(struct tiers *t, struct item *i)
{
    assert(i->in_dram == COPY_FILLING);
    i->in_dram = COPY_READY;
    enter_evict(t, t->in_dram, i, i->dram, true);
    if (i->pins == 0)
        evict_release(t->in_dram, i->dram);
}

void tiers_dram_failed(struct tiers *t, struct item *i)
{
    assert(i->in_dram == COPY_FILLING);
    leave_slot(t, i, true);
}

void tiers_nvme_ready(struct tiers *t, struct item *i)
{
    i->in_nvme = COPY_READY;
    t->nvme_item[i->nvme] = tiers_id(t, i);
    t->stats.nvme_used++;
    enter_evict(t, t->in_nvme, i, i->nvme, false);
    evict_release(t->in_nvme, i->nvme);
}

void tiers_pin(struct tiers *t, struct item *i)
{
    if (i->pins++ == 0 && i->in_dram == COPY_READY)
        evict_hold(t->in_dram, i->dram);
}

void tiers_unpin(struct tiers *t, struct item *i)
{
    assert(i->pins > 0);
    if (--i->pins > 0)
        return;
    if (i->in_dram == COPY_READY)
        evict_release(t->in_dram, i->dram);
    if (i->bad)
        tiers_retire(t, i);
}

void tiers_pin_nvme(struct tiers *t, struct item *i)
{
    if (i->nvme_pins++ == 0)
        evict_hold(t->in_nvme, i->nvme);
}

void tiers_unpin_nvme(struct tiers *t, struct item *i)
{
    assert(i->nvme_pins > 0 && i->in_nvme == COPY_READY);
    if (--i->nvme_pins == 0)
        evict_release(t->in_nvme, i->nvme);
}

void tiers_retire(struct tiers *t, struct item *i)
{
    i->bad = true;
    tiers_dequeue(t, i);
    bool nvme = i->in_nvme == COPY_READY && i->nvme_pins == 0, dram = i->in_dram == COPY_READY && i->pins == 0;
    if (i->pins > 0 || i->nvme_pins > 0 || i->in_dram == COPY_FILLING || i->in_nvme == COPY_FILLING)
        return; /* who holds it comes back here */
    if (nvme)
        tiers_drop_nvme(t, i);
    if (dram)
        tiers_drop_dram(t, i);
}

/* -- the queues of writes */

bool tiers_writes_at_once(const struct tiers *t, const struct item *i)
{
    return t->o.write_bytes_per_day == 0 && !i->worth.in_memory;
}

static struct queue *queue_of(struct tiers *t, const struct item *i)
{
    return i->parked ? &t->to_park : &t->to_write;
}

void tiers_dequeue(struct tiers *t, struct item *i)
{
    if (!i->queued)
        return;
    struct queue *q = queue_of(t, i);
    if (i->prev != NONE)
        t->items[i->prev].next = i->next;
    else
        q->first = i->next;
    if (i->next != NONE)
        t->items[i->next].prev = i->prev;
    else
        q->last = i->prev;
    q->n--;
    i->prev = i->next = NONE;
    i->queued = false;
}

void tiers_enqueue(struct tiers *t, struct item *i, bool parked)
{
    if (i->queued && i->parked == parked)
        return;
    tiers_dequeue(t, i);
    i->parked = parked;
    struct queue *q = queue_of(t, i);
    i->queued = true;
    i->prev = q->last;
    i->next = NONE;
    if (q->last != NONE)
        t->items[q->last].next = tiers_id(t, i);
    else
        q->first = tiers_id(t, i);
    q->last = tiers_id(t, i);
    q->n++;
}

/* -- asked from outside */

uint32_t tiers_where(const struct tiers *t, const struct kv_ident *who)
{
    const struct item *i = tiers_item((struct tiers *)t, who);
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
    for (int32_t at = *bucket_of(t, key); at != NONE; at = t->items[at].chain) {
        const struct kv_entry *e = tiers_entry(t, &t->items[at]);
        if (!t->items[at].bad && hash_key_equal(&e->key, key) && e->depth == depth &&
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
    const struct item *i = tiers_item((struct tiers *)t, who);
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

/* -- open: what NVMe has is found again */

struct found {
    uint32_t depth;
    int32_t slot;
    uint64_t generation;
};

/* Parents first, so that a chain's links are there; of one depth the older first. */
static int by_depth(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    if (x->depth != y->depth)
        return x->depth < y->depth ? -1 : 1;
    return x->generation < y->generation ? -1 : x->generation > y->generation;
}

static struct item *same_content(struct tiers *t, const struct kv_entry *e)
{
    uint64_t tag = tag_of(&e->key);
    for (int32_t at = *bucket_of(t, &e->key); at != NONE; at = t->items[at].chain) {
        if (t->tags[at] != tag)
            continue;
        const struct kv_entry *o = tiers_entry(t, &t->items[at]);
        if (hash_key_equal(&o->key, &e->key) && o->check == e->check && o->depth == e->depth &&
            memcmp(o->root, e->root, sizeof e->root) == 0 && memcmp(o->ids, e->ids, sizeof e->ids) == 0)
            return &t->items[at];
    }
    return NULL;
}

static void enter_found(struct tiers *t, const struct found *f, uint64_t newest)
{
    const struct kv_entry *e = tier_ops(t->nvme)->entry(t->nvme, f->slot);
    struct item *twin = same_content(t, e); /* written twice: the older one goes */
    if (twin)
        tiers_drop_nvme(t, twin);
    struct item *i = tiers_add(t, &e->key);
    assert(i); /* there are as many items as slots */
    uint64_t now = now_us(), age = newest - f->generation;
    i->nvme = f->slot;
    i->used_us = age < now ? now - age : 0; /* writes stand for time: the order is what counts */
    tiers_nvme_ready(t, i);
}

static int find_again(struct tiers *t)
{
    int32_t n_slots = tier_head(t->nvme)->n_slots;
    struct found *all = malloc(((size_t)n_slots + 1) * sizeof *all);
    size_t n = 0;
    if (!all)
        return -ENOMEM;
    for (int32_t s = 0; s < n_slots; s++) {
        const struct kv_entry *e = tier_ops(t->nvme)->entry(t->nvme, s);
        if (!e)
            continue;
        all[n++] = (struct found){e->depth, s, e->generation};
        if (e->generation > t->generation)
            t->generation = e->generation;
    }
    qsort(all, n, sizeof *all, by_depth);
    for (size_t i = 0; i < n; i++)
        enter_found(t, &all[i], t->generation);
    free(all);
    return 0;
}

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
    while (n_buckets < n && n_buckets < 1u << 30)
        n_buckets *= 2;
    t->n_items = (uint32_t)n;
    t->mask = n_buckets - 1;
    t->items = calloc(n, sizeof *t->items);
    t->tags = calloc(n, sizeof *t->tags);
    t->buckets = malloc(n_buckets * sizeof *t->buckets);
    t->dram_item = malloc((n_dram + 1) * sizeof *t->dram_item);
    t->nvme_item = malloc((n_nvme + 1) * sizeof *t->nvme_item);
    t->dram_entries = calloc(n_dram, sizeof *t->dram_entries);
    if (!t->items || !t->tags || !t->buckets || !t->dram_item || !t->nvme_item || !t->dram_entries ||
        evict_open(&t->in_dram, n_dram, t->o.returns) != 0 ||
        evict_open(&t->in_nvme, n_nvme ? n_nvme : 1, t->o.returns) != 0)
        return -ENOMEM;
    memset(t->buckets, 0xff, n_buckets * sizeof *t->buckets);
    memset(t->dram_item, 0xff, (n_dram + 1) * sizeof *t->dram_item);
    memset(t->nvme_item, 0xff, (n_nvme + 1) * sizeof *t->nvme_item);
    t->free_item = NONE;
    for (uint32_t i = (uint32_t)n; i-- > 0;) {
        t->items[i].chain = t->free_item;
        t->free_item = (int32_t)i;
    }
    return moves_open(t);
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
        ret = find_again(t);
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
    free(t->tags);
    free(t->buckets);
    free(t->dram_item);
    free(t->nvme_item);
    free(t->dram_entries);
    free(t);
}

void tiers_check(const struct tiers *t)
{
    uint32_t used = 0, dram = 0, nvme = 0, chained = 0;
    for (uint32_t n = 0; n < t->n_items; n++) {
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
        for (int32_t at = t->buckets[b]; at != NONE; at = t->items[at].chain)
            chained++;
    assert(used == t->n_used && chained == used && dram == t->dram.n_slots - t->dram.n_free);
    assert(nvme == t->stats.nvme_used);
    evict_check(t->in_dram);
    evict_check(t->in_nvme);
}
