/* test_preempt - what a preempted sequence leaves behind: blocks that no tier has are copied down when that costs less
 * than computing them again, and only then; and the sequence for whose sake it had to go needs nobody else's. */
#include "tests/support/unit.h"

#include "engine/kvcache_int.h"
#include "tests/support/tier_rig.h"

static struct rig r;
static uint64_t rows;

static void count_rows(void *ctx, const struct loop *l, const struct plan *p, const float *logits)
{
    rows += p->n_rows;
}

/* Nothing below the pool knows anything. */
static void forget_all(struct tiers *t)
{
    for (uint32_t i = 0; i < t->n_items; i++)
        if (t->items[i].used)
            tiers_retire(t, &t->items[i]);
}

/* Two requests of 120 tokens in all share 15 blocks: the second one has to go when both need 8. Rows computed more than
 * they would have been alone. */
static uint64_t rows_too_many(double copy_ns)
{
    rig_open(&r, &(struct rig_opts){.dram_slots = 64, .n_blocks = 15});
    r.m.config.check = 1;
    r.h.loop.trace = count_rows;
    r.h.loop.kv.load_always = copy_ns == 0;
    rows = 0;
    struct sched *s = &r.h.loop.sched;
    uint64_t a = rig_submit(&r, 1), b = rig_submit(&r, 2);
    while (s->n_running < 2 || s->running[1]->n_known < RIG_PROMPT + 1)
        loop_turn(&r.h.loop);
    rig_settle(&r);
    while (s->n_preempted == 0) {
        forget_all(rig_tiers(&r));
        rig_tiers(&r)->copy_ns = copy_ns;
        loop_turn(&r.h.loop);
    }
    ck_assert_uint_eq(s->n_running, 1); /* the first goes on with what the second gave back */
    ck_assert_uint_eq(s->n_waiting, 1);
    struct kvcache *kv = &r.h.loop.kv;
    for (int i = 0; i < 3; i++)
        loop_turn(&r.h.loop);                     /* copies are done */
    kvcache_make_free(kv, kvcache_available(kv)); /* others have taken the rest */
    for (int i = 0; i < 400; i++)
        loop_turn(&r.h.loop);
    struct engine_event ev;
    uint32_t n_done = 0;
    while (engine_poll(r.h.front, &ev)) {
        ck_assert(ev.id == a || ev.id == b);
        n_done += ev.type == ENGINE_DONE;
    }
    ck_assert_uint_eq(n_done, 2);
    ck_assert_uint_eq(s->n_preempted, 1);
    return rows - 2 * (RIG_PROMPT + RIG_OUT - 1);
}

START_TEST(test_preempt_swaps_what_is_dearer_to_compute)
{
    uint64_t more = rows_too_many(0);
    const struct kvcache *kv = &r.h.loop.kv;
    printf("swapped %llu, dropped %llu, rows more %llu\n", (unsigned long long)kv->swapped,
           (unsigned long long)kv->dropped, (unsigned long long)more);
    ck_assert_uint_ge(kv->swapped, 5);
    ck_assert_uint_le(kv->dropped, 2); /* what was given up for the first at once, */
    ck_assert_uint_ge(more, 16);       /* and is computed again */
    ck_assert_uint_lt(more, 3 * 16);
    rig_close(&r);
}
END_TEST

START_TEST(test_preempt_drops_what_is_dearer_to_copy)
{
    uint64_t more = rows_too_many(1e12);
    const struct kvcache *kv = &r.h.loop.kv;
    ck_assert_uint_eq(kv->swapped, 0);
    ck_assert_uint_ge(kv->dropped, 6);
    ck_assert_uint_ge(more, 7 * 16); /* all of it once more */
    rig_close(&r);
}
END_TEST

UNIT_MAIN("preempt", test_preempt_swaps_what_is_dearer_to_compute, test_preempt_drops_what_is_dearer_to_copy)
