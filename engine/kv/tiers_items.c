/* tiers_items - see tiers.h and tiers_int.h. Here: contents by their keys, and those that wait to be written to NVMe.
 */
#include "engine/kv/tiers_int.h"

#include <assert.h>
#include <string.h>

/* -- the table */

static int32_t *bucket_of(const struct tiers *t, const struct hash_key *key)
{
    uint32_t h;
    memcpy(&h, key->b, sizeof h);
    return &t->buckets[h & t->mask];
}

static uint32_t tag_of(const struct hash_key *key)
{
    uint32_t tag;
    memcpy(&tag, key->b + 4, sizeof tag);
    return tag;
}

struct item *tiers_first(const struct tiers *t, const struct hash_key *key)
{
    uint32_t tag = tag_of(key);
    int32_t at = *bucket_of(t, key);
    while (at != NONE && t->links[at].tag != tag)
        at = t->links[at].next;
    return at == NONE ? NULL : &t->items[at];
}

void tiers_expect(const struct tiers *t, const struct hash_key *key, int step)
{
    const int32_t *bucket = bucket_of(t, key);
    if (step == 0)
        __builtin_prefetch(bucket);
    else if (*bucket == NONE)
        return;
    else if (step == 1)
        __builtin_prefetch(&t->links[*bucket]);
    else if (step == 2)
        __builtin_prefetch(&t->items[*bucket]);
    else if (t->items[*bucket].nvme != NONE)
        evict_expect(t->in_nvme, t->items[*bucket].nvme);
}

struct item *tiers_next(const struct tiers *t, const struct item *i)
{
    const struct link *l = &t->links[tiers_id(t, i)];
    int32_t at = l->next;
    while (at != NONE && t->links[at].tag != l->tag)
        at = t->links[at].next;
    return at == NONE ? NULL : &t->items[at];
}

struct item *tiers_item(const struct tiers *t, const struct kv_ident *who)
{
    struct item *i = tiers_first(t, &who->key);
    while (i && !entry_is(tiers_entry(t, i), who))
        i = tiers_next(t, i);
    return i;
}

struct item *tiers_add(struct tiers *t, const struct hash_key *key, uint32_t depth)
{
    struct item *i;
    if (t->free_item != NONE) {
        i = &t->items[t->free_item];
        t->free_item = t->links[t->free_item].next;
    } else if (t->n_touched < t->n_items) {
        i = &t->items[t->n_touched++];
    } else {
        return NULL;
    }
    int32_t *bucket = bucket_of(t, key);
    *i = (struct item){.dram = NONE,
                       .nvme = NONE,
                       .depth = depth,
                       .used = true,
                       .generation = i->generation + 1,
                       .load = NONE,
                       .prev = NONE,
                       .next = NONE};
    t->links[tiers_id(t, i)] = (struct link){tag_of(key), *bucket};
    *bucket = tiers_id(t, i);
    t->n_used++;
    return i;
}

void tiers_remove(struct tiers *t, struct item *i, const struct hash_key *key)
{
    assert(i->dram == NONE && i->nvme == NONE && !i->queued && i->load == NONE);
    int32_t *at = bucket_of(t, key), id = tiers_id(t, i);
    while (*at != id)
        at = &t->links[*at].next;
    *at = t->links[id].next;
    i->used = false;
    t->links[id].next = t->free_item;
    t->free_item = id;
    t->n_used--;
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
