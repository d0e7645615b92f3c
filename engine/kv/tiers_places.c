/* tiers_places - see tiers.h and tiers_int.h. Here: copies of contents: their slots, who holds them, and who gives
 * room. */
#include "engine/base/sys.h"
#include "engine/kv/tiers_int.h"

#include <assert.h>

static uint64_t now_us(void)
{
    return sys.now_ns() / 1000;
}

const struct kv_entry *tiers_entry(const struct tiers *t, const struct item *i)
{
    return i->dram != NONE ? &t->dram_entries[i->dram] : tier_ops(t->nvme)->entry(t->nvme, i->nvme);
}

/* -- slots. The entry lies with one: the key is read before the last one goes. */

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
        tiers_remove(t, i, &key);
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

struct item *tiers_parent(const struct tiers *t, const struct kv_entry *e)
{
    struct item *i = e->depth == 0 ? NULL : tiers_first(t, &e->parent);
    while (i && i->depth + 1 != e->depth)
        i = tiers_next(t, i);
    return i;
}

static void enter_evict(struct tiers *t, struct evict *e, struct item *i, const struct item *p, bool dram)
{
    int32_t slot = dram ? i->dram : i->nvme;
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
    enter_evict(t, t->in_dram, i, tiers_parent(t, tiers_entry(t, i)), true);
    if (i->pins == 0)
        evict_release(t->in_dram, i->dram);
}

void tiers_dram_failed(struct tiers *t, struct item *i)
{
    assert(i->in_dram == COPY_FILLING);
    leave_slot(t, i, true);
}

void tiers_nvme_held(struct tiers *t, struct item *i, const struct item *parent)
{
    i->in_nvme = COPY_READY;
    t->nvme_item[i->nvme] = tiers_id(t, i);
    t->stats.nvme_used++;
    enter_evict(t, t->in_nvme, i, parent, false);
}

void tiers_nvme_ready(struct tiers *t, struct item *i, const struct item *parent)
{
    tiers_nvme_held(t, i, parent);
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
