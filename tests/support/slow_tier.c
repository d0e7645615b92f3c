/* slow_tier - see slow_tier.h. */
#include "tests/support/slow_tier.h"

#include "engine/base/sys.h"

#include <assert.h>
#include <stdlib.h>

static struct slow_tier *slow_of(struct tier *t)
{
    return (struct slow_tier *)(void *)t;
}

static int slow_submit(struct tier *t, struct tier_move *m)
{
    struct slow_tier *s = slow_of(t);
    if (m->op == TIER_WRITE || (!s->hold && !s->fail))
        return tier_ops(s->inner)->submit(s->inner, m);
    m->submitted_ns = sys.now_ns();
    if (s->hold) {
        m->next = s->held;
        s->held = m;
        s->n_held++;
    } else {
        m->next = s->failed;
        s->failed = m;
    }
    return 0;
}

static struct tier_move *slow_reap(struct tier *t)
{
    struct slow_tier *s = slow_of(t);
    if (!s->failed)
        return tier_ops(s->inner)->reap(s->inner);
    struct tier_move *list = s->failed;
    for (struct tier_move *m = list; m; m = m->next)
        m->result = s->fail;
    s->failed = NULL;
    return list;
}

void slow_tier_let_go(struct slow_tier *s)
{
    s->hold = false;
    for (struct tier_move *m = s->held, *next; m; m = next) {
        next = m->next;
        int ret = slow_submit((struct tier *)(void *)s, m);
        assert(ret == 0); /* a test holds few */
        (void)ret;
    }
    s->held = NULL;
    s->n_held = 0;
}

static void slow_close(struct tier *t)
{
    tier_close(slow_of(t)->inner);
    free(t);
}

static int32_t slow_take(struct tier *t, uint64_t stripe)
{
    return tier_ops(slow_of(t)->inner)->take(slow_of(t)->inner, stripe);
}

static void slow_give(struct tier *t, int32_t slot)
{
    tier_ops(slow_of(t)->inner)->give(slow_of(t)->inner, slot);
}

static void slow_forget(struct tier *t, int32_t slot)
{
    tier_ops(slow_of(t)->inner)->forget(slow_of(t)->inner, slot);
}

static const struct kv_entry *slow_entry(struct tier *t, int32_t slot)
{
    return tier_ops(slow_of(t)->inner)->entry(slow_of(t)->inner, slot);
}

static bool slow_flush(struct tier *t)
{
    return tier_ops(slow_of(t)->inner)->flush(slow_of(t)->inner);
}

static const struct tier_ops slow_ops = {.name = "slow",
                                         .close = slow_close,
                                         .submit = slow_submit,
                                         .reap = slow_reap,
                                         .take = slow_take,
                                         .give = slow_give,
                                         .forget = slow_forget,
                                         .entry = slow_entry,
                                         .flush = slow_flush};

struct slow_tier *slow_tier_open(struct tier *inner)
{
    struct slow_tier *s = calloc(1, sizeof *s);
    assert(s);
    s->head = *tier_head(inner);
    s->head.ops = &slow_ops;
    s->inner = inner;
    return s;
}
