/* sim_tier - see sim_tier.h. */
#include "tests/support/sim_tier.h"

#include "engine/base/sys.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct link {
    uint64_t free_ns;
    struct tier_move *first, **last; /* under way, in order of their ends */
};

struct sim_tier {
    struct tier_head head;
    struct sim_tier_opts o;
    struct link links[2]; /* by enum tier_op; an nvme tier uses the first alone */
    uint32_t n_moving;
    int32_t *free; /* nvme: stack of slots */
    int32_t n_free;
    struct kv_entry *entries;
};

static struct sim_tier *sim_of(struct tier *t)
{
    return (struct sim_tier *)(void *)t;
}

static void sim_close(struct tier *t)
{
    struct sim_tier *s = sim_of(t);
    free(s->free);
    free(s->entries);
    free(s);
}

static int sim_submit(struct tier *t, struct tier_move *m)
{
    struct sim_tier *s = sim_of(t);
    struct link *l = &s->links[s->o.nvme ? 0 : m->op];
    uint64_t now = sys.now_ns(), start = l->free_ns > now ? l->free_ns : now,
             bps = m->op == TIER_READ ? s->o.read_bps : s->o.write_bps;
    if (s->n_moving == s->o.depth)
        return -EAGAIN;
    l->free_ns = start + (uint64_t)((double)s->o.block_bytes * 1e9 / (double)bps);
    m->submitted_ns = start; /* when the link is its own: what was before it is not its time */
    m->ns = l->free_ns + s->o.latency_ns - start;
    m->result = 0;
    memset(&m->seal, 0, sizeof m->seal);
    if (m->entry)
        s->entries[m->slot] = *m->entry;
    m->next = NULL;
    *l->last = m;
    l->last = &m->next;
    s->n_moving++;
    return 0;
}

static struct tier_move *sim_reap(struct tier *t)
{
    struct sim_tier *s = sim_of(t);
    struct tier_move *list = NULL, **last = &list;
    uint64_t now = sys.now_ns();
    for (int i = 0; i < 2; i++) {
        struct link *l = &s->links[i];
        while (l->first && l->first->submitted_ns + l->first->ns <= now) {
            struct tier_move *m = l->first;
            l->first = m->next;
            if (!l->first)
                l->last = &l->first;
            m->next = NULL;
            *last = m;
            last = &m->next;
            s->n_moving--;
        }
    }
    return list;
}

static int32_t sim_take(struct tier *t, uint64_t stripe)
{
    struct sim_tier *s = sim_of(t);
    return s->n_free ? s->free[--s->n_free] : -1;
}

static void sim_give(struct tier *t, int32_t slot)
{
    struct sim_tier *s = sim_of(t);
    assert(s->n_free < s->o.n_slots);
    s->free[s->n_free++] = slot;
}

static void sim_forget(struct tier *t, int32_t slot)
{
    memset(&sim_of(t)->entries[slot], 0, sizeof(struct kv_entry));
}

static const struct kv_entry *sim_entry(struct tier *t, int32_t slot)
{
    const struct kv_entry *e = &sim_of(t)->entries[slot];
    return e->magic ? e : NULL;
}

static bool sim_flush(struct tier *t)
{
    return sim_of(t)->n_moving == 0;
}

static const struct tier_ops gpu_ops = {.name = "gpu", .close = sim_close, .submit = sim_submit, .reap = sim_reap};
static const struct tier_ops nvme_ops = {.name = "nvme",
                                         .close = sim_close,
                                         .submit = sim_submit,
                                         .reap = sim_reap,
                                         .take = sim_take,
                                         .give = sim_give,
                                         .forget = sim_forget,
                                         .entry = sim_entry,
                                         .flush = sim_flush};

int sim_tier_open(struct tier **out, const struct sim_tier_opts *o)
{
    struct sim_tier *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->o = *o;
    s->head = (struct tier_head){o->nvme ? &nvme_ops : &gpu_ops, o->n_slots, o->read_bps, o->write_bps};
    for (int i = 0; i < 2; i++)
        s->links[i].last = &s->links[i].first;
    if (o->nvme) {
        s->free = malloc((size_t)o->n_slots * sizeof *s->free);
        s->entries = calloc((size_t)o->n_slots, sizeof *s->entries);
        if (!s->free || !s->entries) {
            sim_close((struct tier *)(void *)s);
            return -ENOMEM;
        }
        for (s->n_free = 0; s->n_free < o->n_slots; s->n_free++)
            s->free[s->n_free] = o->n_slots - 1 - s->n_free;
    }
    *out = (struct tier *)(void *)s;
    return 0;
}

uint64_t sim_tier_next(const struct tier *t)
{
    const struct sim_tier *s = (const struct sim_tier *)(const void *)t;
    uint64_t next = UINT64_MAX;
    for (int i = 0; i < 2; i++) {
        const struct tier_move *m = s->links[i].first;
        if (m && m->submitted_ns + m->ns < next)
            next = m->submitted_ns + m->ns;
    }
    return next;
}
