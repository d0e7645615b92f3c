/* tiers_found - see tiers.h and tiers_int.h. Here: what NVMe has is found again at open.
 *
 * Contents are entered as their entries come, in the order of slots, while the rest of the index is being read. A block
 * that comes before its parent is an orphan until all are there. Until then, too, nobody can be given up who looks like
 * the last of its chain: most of them turn out not to be, and never enter evict's heaps.
 */
#include "engine/base/sys.h"
#include "engine/kv/tiers_int.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STEP  8
#define AHEAD (STEP * TIERS_STEPS) /* a power of 2 */

/* What all share while they are entered. */
struct finding {
    int32_t *orphans, *leaves; /* [slots] */
    int32_t n_orphans, n_leaves;
    uint64_t now_us, wall_us;
    const struct item *last; /* that was entered, */
    const struct kv_entry *last_entry;
    struct soon { /* entered when what that touches has come from memory */
        int32_t slot;
        const struct kv_entry *entry;
        bool seeks; /* its parent, which is not the entry before it */
    } soon[AHEAD];
    int32_t held[AHEAD]; /* slots that were entered last, or NONE: their children mostly come next */
    uint32_t n_seen, n_held;
};

static struct item *same_content(struct tiers *t, const struct kv_entry *e)
{
    struct item *i = tiers_first(t, &e->key);
    while (i && !entry_same(tiers_entry(t, i), e))
        i = tiers_next(t, i);
    return i;
}

/* Written twice: the older one goes. True when that is the one in `slot`. */
static bool settle_twins(struct tiers *t, const struct kv_entry *e, int32_t slot)
{
    struct item *twin = same_content(t, e);
    if (!twin)
        return false;
    if (tiers_entry(t, twin)->generation < e->generation) {
        tiers_drop_nvme(t, twin);
        return false;
    }
    tier_ops(t->nvme)->forget(t->nvme, slot);
    tier_ops(t->nvme)->give(t->nvme, slot);
    return true;
}

/* When it was written, in the last second before now: after a restart nobody knows who was used when, but the order
 * counts. Generations are times (tiers_generation). */
static uint64_t used_us(const struct finding *f, uint64_t generation)
{
    const double hour = 3.6e9;
    double age = generation < f->wall_us ? (double)(f->wall_us - generation) : 0;
    double span = f->now_us < 1000000 ? (double)f->now_us : 1e6;
    return f->now_us - (uint64_t)(span * age / (age + hour));
}

/* The parent of a block, mostly what was entered before it. */
static const struct item *parent_of(const struct tiers *t, const struct finding *f, const struct kv_entry *e)
{
    if (e->depth > 0 && f->last_entry && f->last->depth + 1 == e->depth &&
        hash_key_equal(&f->last_entry->key, &e->parent))
        return f->last;
    return tiers_parent(t, e);
}

/* Else a newer twin came. */
static bool is_there(const struct tiers *t, int32_t slot)
{
    return evict_state(t->in_nvme, slot) == EVICT_HELD;
}

/* Hold a slot, and look at the one that was held longest. */
static void hold(struct tiers *t, struct finding *f, int32_t next)
{
    int32_t *slot = &f->held[f->n_held++ % AHEAD];
    if (*slot != NONE && is_there(t, *slot)) {
        if (evict_is_leaf(t->in_nvme, *slot))
            f->leaves[f->n_leaves++] = *slot;
        else
            evict_release(t->in_nvme, *slot);
    }
    *slot = next;
}

static void enter(struct tiers *t, struct finding *f, int32_t slot, const struct kv_entry *e)
{
    if (e->generation > t->generation)
        t->generation = e->generation;
    if (settle_twins(t, e, slot))
        return;
    const struct item *parent = parent_of(t, f, e);
    struct item *i = tiers_add(t, &e->key, e->depth);
    assert(i); /* there are as many items as slots */
    i->nvme = slot;
    i->used_us = used_us(f, e->generation);
    f->last = i;
    f->last_entry = e;
    tiers_nvme_held(t, i, parent);
    if (e->depth > 0 && !parent)
        f->orphans[f->n_orphans++] = slot;
    hold(t, f, slot);
}

/* The parent of an orphan may have come after it. */
static void adopt(struct tiers *t, int32_t slot)
{
    const struct kv_entry *e = tier_ops(t->nvme)->entry(t->nvme, slot);
    const struct item *parent = e ? tiers_parent(t, e) : NULL;
    if (parent)
        evict_adopt(t->in_nvme, slot, parent->nvme);
}

static const struct kv_entry *orphan_at(const struct tiers *t, const struct finding *f, int32_t i)
{
    return i >= 0 && i < f->n_orphans ? tier_ops(t->nvme)->entry(t->nvme, f->orphans[i]) : NULL;
}

static void adopt_all(struct tiers *t, const struct finding *f)
{
    for (int32_t i = -AHEAD - STEP; i < f->n_orphans; i++) {
        const struct kv_entry *e = orphan_at(t, f, i + AHEAD + STEP);
        if (e)
            __builtin_prefetch(&e->parent);
        for (int step = 0; step < TIERS_STEPS; step++)
            if ((e = orphan_at(t, f, i + AHEAD - step * STEP)))
                tiers_expect(t, &e->parent, step);
        if (i >= 0)
            adopt(t, f->orphans[i]);
    }
}

/* What entering it will touch: a place for the key, and the parent unless that is entered just before. */
static void expect(const struct tiers *t, const struct soon *s, int step)
{
    if (s->entry && step < 2)
        tiers_expect(t, &s->entry->key, step);
    if (s->seeks)
        tiers_expect(t, &s->entry->parent, step);
}

/* The next entry of the index, or NULL: then one that came before is entered all the same. */
static void see(struct tiers *t, struct finding *f, int32_t slot, const struct kv_entry *e)
{
    uint32_t at = f->n_seen++;
    struct soon *s = &f->soon[at % AHEAD];
    const struct kv_entry *before = f->soon[(at - 1) % AHEAD].entry;
    if (s->entry)
        enter(t, f, s->slot, s->entry);
    *s = (struct soon){slot, e, e && e->depth > 0 && !(before && hash_key_equal(&before->key, &e->parent))};
    for (int step = 0; step < TIERS_STEPS; step++)
        expect(t, &f->soon[(at - (uint32_t)step * STEP) % AHEAD], step);
    if (!e)
        return;
    for (size_t line = 0; line < 2; line++) /* what is read of an entry to come: another thread's core has it */
        __builtin_prefetch((const uint8_t *)(e + AHEAD) + line * 64);
}

int tiers_find_again(struct tiers *t)
{
    const struct tier_ops *ops = tier_ops(t->nvme);
    int32_t n_slots = tier_head(t->nvme)->n_slots;
    struct finding f = {.now_us = sys.now_ns() / 1000, .wall_us = (uint64_t)(sys.wall_s() + 1) * 1000000};
    memset(f.held, 0xff, sizeof f.held);
    f.orphans = malloc(((size_t)n_slots + 1) * sizeof *f.orphans); /* pages that nobody needs are never touched */
    f.leaves = malloc(((size_t)n_slots + 1) * sizeof *f.leaves);
    if (!f.orphans || !f.leaves) {
        free(f.orphans);
        free(f.leaves);
        return -ENOMEM;
    }
    for (int32_t slot = 0; slot < n_slots; slot++) {
        const struct kv_entry *e = ops->entry(t->nvme, slot);
        if (e)
            see(t, &f, slot, e);
    }
    for (int i = 0; i < AHEAD; i++)
        see(t, &f, 0, NULL);
    for (int i = 0; i < AHEAD; i++)
        hold(t, &f, NONE);
    if (ops->settle)
        ops->settle(t->nvme);
    adopt_all(t, &f);
    for (int32_t i = 0; i < f.n_leaves; i++)
        if (is_there(t, f.leaves[i]))
            evict_release(t->in_nvme, f.leaves[i]);
    free(f.orphans);
    free(f.leaves);
    return 0;
}

uint64_t tiers_generation(struct tiers *t)
{
    uint64_t wall_us = (uint64_t)sys.wall_s() * 1000000;
    return t->generation = t->generation < wall_us ? wall_us : t->generation + 1;
}
