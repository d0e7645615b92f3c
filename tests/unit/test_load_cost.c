/* test_load_cost - a chain that lies below the pool is loaded or computed, whichever costs all requests least. */
#include "engine/kv/tiers_int.h"
#include "engine/kvcache_int.h"
#include "tests/support/talks.h"
#include "tests/support/unit.h"

/* A prompt of 30 blocks that sleep on the drive, each read in read_ns and computed in 8 ms, comes while n others are
 * answered: how many tokens are loaded. */
static uint64_t load_beside(struct talks *r, const struct talk *t, double read_ns, uint32_t n)
{
    struct engine_request q = {.max_tokens = 300, .n = 1, .sampling = hand_greedy()};
    struct talk again = *t;
    struct err e = {0};
    uint64_t id, loaded;
    hand_open(&r->h, &r->m);
    for (uint32_t i = 0; i < n; i++) {
        int32_t other = (int32_t)i;
        q.prompt = &other;
        q.n_prompt = 1;
        ck_assert_int_eq(engine_submit(r->h.front, &q, &id, &e), 0);
        for (int turn = 0; turn < 3; turn++)
            loop_turn(&r->h.loop);
    }
    ck_assert_uint_eq(r->h.loop.sched.n_running, n);
    talks_kv(r)->tiers->read_ns = read_ns;
    again.n = 482;
    q.prompt = again.ids;
    q.n_prompt = 482;
    q.max_tokens = 1;
    ck_assert_int_eq(engine_submit(r->h.front, &q, &id, &e), 0);
    for (int turn = 0; turn < 200; turn++)
        loop_turn(&r->h.loop);
    loaded = talks_kv(r)->cached_tokens[TIER_NVME];
    hand_close(&r->h);
    return loaded;
}

START_TEST(test_a_chain_is_read_or_computed_as_it_costs_all_least)
{
    struct talks r;
    struct talk *t = talks_asleep(&r, 200, 480, 8);
    hand_close(&r.h);
    r.m.config.load_always = 0;
    /* nobody is held up: from both ends at once, 20 read in 80 ms while 10 are computed */
    uint64_t alone = load_beside(&r, t, 4e6, 0);
    printf("alone: %llu of 480\n", (unsigned long long)alone);
    ck_assert_uint_ge(alone, 18 * BT);
    ck_assert_uint_le(alone, 22 * BT);
    ck_assert_uint_eq(load_beside(&r, t, 4e6, 3), 480); /* computing one would hold up three others for 8 ms each */
    ck_assert_uint_eq(load_beside(&r, t, 20e6, 8),
                      480); /* reading is slower than computing, and still holds up fewer */
    ck_assert_uint_le(load_beside(&r, t, 20e6, 0), 10 * BT);
    ck_assert_uint_eq(load_beside(&r, t, 500e6, 0), 0); /* not one is worth its wait */
    hand_open(&r.h, &r.m);                              /* for rig_close */
    talks_close(&r);
}
END_TEST

/* Reads that others wait for come first: behind them less is worth reading. */
START_TEST(test_a_second_chain_is_read_less_while_a_first_is_being_read)
{
    struct talks r;
    struct err e = {0};
    uint64_t id;
    talks_open(&r, 200, 64, 500);
    for (int i = 0; i < 2; i++) {
        talks_say(&r, &r.talks[i], 480, 8, false);
        ck_assert_uint_eq(talks_ask(&r, &r.talks[i].leaf, ENGINE_PARK).in[2], 30);
    }
    hand_close(&r.h);
    r.m.config.load_always = 0;
    hand_open(&r.h, &r.m);
    talks_kv(&r)->tiers->read_ns = 4e6;
    for (int i = 0; i < 2; i++) {
        struct engine_request q = {
            .prompt = r.talks[i].ids, .n_prompt = 482, .max_tokens = 1, .n = 1, .sampling = hand_greedy()};
        ck_assert_int_eq(engine_submit(r.h.front, &q, &id, &e), 0);
    }
    for (int turn = 0; turn < 200; turn++)
        loop_turn(&r.h.loop);
    uint64_t loaded = talks_kv(&r)->cached_tokens[TIER_NVME];
    printf("both: %llu of 960\n", (unsigned long long)loaded);
    /* the first one whole, for the second waits; that one a third: 10 more reads take as long as computing 20 */
    ck_assert_uint_ge(loaded, (30 + 8) * BT);
    ck_assert_uint_le(loaded, (30 + 12) * BT);
    talks_close(&r);
}
END_TEST

/* The same of a chain that lies in DRAM: tokens that are copied up, each block in copy_ns and computed in 8 ms. */
static uint64_t copy_beside(double copy_ns, uint32_t n)
{
    struct talks r;
    struct err e = {0};
    uint64_t id, copied;
    struct engine_request q = {.max_tokens = 300, .n = 1, .sampling = hand_greedy()};
    talks_open(&r, 200, 64, 0);
    talks_kv(&r)->load_always = false;
    struct talk *t = &r.talks[0];
    talks_say(&r, t, 480, 8, false);
    talks_settle(&r);
    kvcache_make_free(talks_kv(&r), kvcache_available(talks_kv(&r)));
    ck_assert_uint_eq(talks_truth(&r, t).in[0], 0);
    ck_assert_uint_eq(talks_truth(&r, t).in[1], 30);
    for (uint32_t i = 0; i < n; i++) {
        int32_t other = (int32_t)i;
        q.prompt = &other;
        q.n_prompt = 1;
        ck_assert_int_eq(engine_submit(r.h.front, &q, &id, &e), 0);
        for (int turn = 0; turn < 3; turn++)
            loop_turn(&r.h.loop);
    }
    ck_assert_uint_eq(r.h.loop.sched.n_running, n);
    talks_kv(&r)->tiers->copy_ns = copy_ns;
    q.prompt = t->ids;
    q.n_prompt = 482;
    q.max_tokens = 1;
    ck_assert_int_eq(engine_submit(r.h.front, &q, &id, &e), 0);
    for (int turn = 0; turn < 200; turn++)
        loop_turn(&r.h.loop);
    copied = talks_kv(&r)->cached_tokens[TIER_DRAM];
    talks_close(&r);
    return copied;
}

START_TEST(test_a_chain_in_dram_is_copied_or_computed_as_it_costs_all_least)
{
    ck_assert_uint_eq(copy_beside(1e6, 0), 480);
    ck_assert_uint_eq(copy_beside(20e6, 0), 0);
    ck_assert_uint_eq(copy_beside(20e6, 5), 480); /* computing would hold up five */
    ck_assert_uint_eq(copy_beside(1e9, 5), 0);
}
END_TEST

UNIT_MAIN("load cost", test_a_chain_is_read_or_computed_as_it_costs_all_least,
          test_a_second_chain_is_read_less_while_a_first_is_being_read,
          test_a_chain_in_dram_is_copied_or_computed_as_it_costs_all_least)
