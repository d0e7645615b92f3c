/* tiers_found - see tiers.h and tiers_int.h. Here: what NVMe has is found again at open.
 *
 * Contents are entered as their entries come, in the order of slots, while the rest of the index is being read. evict
 * wants parents before their children: who comes before its parent waits until all are there.
 */
#include "engine/base/sys.h"
#include "engine/kv/tiers_int.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define AHEAD 16 /* a power of 2 */

struct early { /* came before its parent */
    uint32_t depth;
    int32_t item;
};

/* What all share while they are entered. */
struct finding {
    struct early *early;
    size_t n_early;
    uint64_t now_us, wall_us;
    const struct item *last; /* that was entered, */
    const struct kv_entry *last_entry;
    struct { /* entries that are entered when their buckets have come from memory */
        int32_t slot;
        const struct kv_entry *entry;
    } soon[AHEAD];
    int32_t
        held[AHEAD]; /* slots that were entered last, or NONE: with a child, which mostly comes next, it is no leaf */
    uint32_t n_seen, n_held;
};

static int by_depth(const void *a, const void *b)
{
    const struct early *x = a, *y = b;
    if (x->depth != y->depth)
        return x->depth < y->depth ? -1 : 1;
    return x->item < y->item ? -1 : x->item > y->item;
}

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
    int32_t older = slot;
    if (tiers_entry(t, twin)->generation < e->generation) {
        older = twin->nvme;
        if (twin->in_nvme == COPY_READY) {
            tiers_drop_nvme(t, twin);
            return false;
        }
        twin->nvme = slot; /* it waits for its parent, now with the newer copy */
    }
    tier_ops(t->nvme)->forget(t->nvme, older);
    tier_ops(t->nvme)->give(t->nvme, older);
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
    if (e->depth > 0 && f->last_entry && hash_key_equal(&f->last_entry->key, &e->parent))
        return f->last;
    return tiers_parent(t, e);
}

/* Hold a slot, and let the one go that was held longest. */
static void hold(struct tiers *t, struct finding *f, int32_t next)
{
    int32_t *slot = &f->held[f->n_held++ % AHEAD];
    if (*slot != NONE && evict_state(t->in_nvme, *slot) == EVICT_HELD) /* else it was a twin, and is gone */
        evict_release(t->in_nvme, *slot);
    *slot = next;
}

static void enter(struct tiers *t, struct finding *f, int32_t slot, const struct kv_entry *e)
{
    if (e->generation > t->generation)
        t->generation = e->generation;
    if (settle_twins(t, e, slot))
        return;
    const struct item *parent = parent_of(t, f, e);
    struct item *i = tiers_add(t, &e->key);
    assert(i); /* there are as many items as slots */
    i->nvme = slot;
    i->used_us = used_us(f, e->generation);
    i->in_nvme = COPY_FILLING;
    f->last = i;
    f->last_entry = e;
    if (e->depth == 0 || (parent && parent->in_nvme == COPY_READY)) {
        tiers_nvme_held(t, i, parent);
        hold(t, f, slot);
    } else {
        f->early[f->n_early++] = (struct early){e->depth, tiers_id(t, i)};
    }
}

static void enter_early(struct tiers *t, struct item *i)
{
    tiers_nvme_ready(t, i, tiers_parent(t, tiers_entry(t, i)));
}

/* The next entry of the index, or NULL: then one that came before is entered all the same. */
static void see(struct tiers *t, struct finding *f, int32_t slot, const struct kv_entry *e)
{
    uint32_t at = f->n_seen++ % AHEAD;
    if (f->soon[at].entry)
        enter(t, f, f->soon[at].slot, f->soon[at].entry);
    f->soon[at].slot = slot;
    f->soon[at].entry = e;
    if (!e)
        return;
    tiers_expect(t, &e->key);
    const struct kv_entry *halfway = f->soon[(at + AHEAD / 2) % AHEAD].entry;
    if (halfway)
        tiers_expect_soon(t, &halfway->key);
    for (size_t line = 0; line < 2; line++) /* what is read of an entry to come: another thread's core has it */
        __builtin_prefetch((const uint8_t *)(e + AHEAD) + line * 64);
}

int tiers_find_again(struct tiers *t)
{
    const struct tier_ops *ops = tier_ops(t->nvme);
    int32_t n_slots = tier_head(t->nvme)->n_slots;
    struct finding f = {.now_us = sys.now_ns() / 1000, .wall_us = (uint64_t)(sys.wall_s() + 1) * 1000000};
    memset(f.held, 0xff, sizeof f.held);
    f.early = malloc(((size_t)n_slots + 1) * sizeof *f.early); /* pages that nobody needs are never touched */
    if (!f.early)
        return -ENOMEM;
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
    qsort(f.early, f.n_early, sizeof *f.early, by_depth);
    for (size_t i = 0; i < f.n_early; i++)
        enter_early(t, &t->items[f.early[i].item]);
    free(f.early);
    return 0;
}

uint64_t tiers_generation(struct tiers *t)
{
    uint64_t wall_us = (uint64_t)sys.wall_s() * 1000000;
    return t->generation = t->generation < wall_us ? wall_us : t->generation + 1;
}
