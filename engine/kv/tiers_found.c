/* tiers_found - see tiers.h and tiers_int.h. Here: what NVMe has is found again at open. */
#include "engine/base/sys.h"
#include "engine/kv/tiers_int.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

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
    struct item *i = tiers_first(t, &e->key);
    while (i && !entry_same(tiers_entry(t, i), e))
        i = tiers_next(t, i);
    return i;
}

static void enter_found(struct tiers *t, const struct found *f, uint64_t newest)
{
    const struct kv_entry *e = tier_ops(t->nvme)->entry(t->nvme, f->slot);
    struct item *twin = same_content(t, e); /* written twice: the older one goes */
    if (twin)
        tiers_drop_nvme(t, twin);
    struct item *i = tiers_add(t, &e->key);
    assert(i); /* there are as many items as slots */
    uint64_t now = sys.now_ns() / 1000, age = newest - f->generation;
    i->nvme = f->slot;
    i->used_us = age < now ? now - age : 0; /* writes stand for time: the order is what counts */
    tiers_nvme_ready(t, i);
}

int tiers_find_again(struct tiers *t)
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
