/* test_tiers - the engine whole over the fake machine with tiers so small that blocks move all the time: the tokens are
 * what the ids determine, from whichever tier the blocks came; what was planted is caught; and each run asserts that
 * enough came from each tier to mean something. */
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/kv/tiers_int.h"
#include "tests/support/engine_random.h"
#include "tests/support/fake_machine.h"
#include "tests/support/hand_engine.h"

#include <string.h>

START_TEST(test_tiers_change_no_token_when_dram_is_tiny)
{
    fake_clock_on();
    engine_random_run(&(struct engine_random){.seed = unit_seed("dram"),
                                              .n_blocks = 8,
                                              .block_tokens = 64,
                                              .dram_slots = 16,
                                              .n_requests = 3000,
                                              .least_cached = 5000,
                                              .least_dram = 4000,
                                              .least_preempted = 20});
}
END_TEST

START_TEST(test_tiers_change_no_token_when_dram_is_large_and_requests_are_cancelled)
{
    fake_clock_on();
    engine_random_run(&(struct engine_random){.seed = unit_seed("dram, cancels"),
                                              .n_blocks = 30,
                                              .dram_slots = 300,
                                              .n_requests = 3000,
                                              .cancels = true,
                                              .vocab = 4,
                                              .least_cached = 5000,
                                              .least_dram = 4000,
                                              .least_preempted = 20});
}
END_TEST

/* -- NVMe: a folder that is removed at the end */

static char dir[64];

static void make_dir(void)
{
    strcpy(dir, "/tmp/hearth-tiers-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void remove_dir(void)
{
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    ck_assert_int_eq(system(cmd), 0);
}

static void random_with_nvme(const char *name, uint8_t io_threads, uint32_t n_requests)
{
    fake_clock_on();
    make_dir();
    engine_random_run(&(struct engine_random){.seed = unit_seed(name),
                                              .n_blocks = 8,
                                              .block_tokens = 64,
                                              .dram_slots = 16,
                                              .nvme_dirs = dir,
                                              .nvme_slots = 64,
                                              .io_threads = io_threads,
                                              .n_requests = n_requests,
                                              .least_cached = n_requests,
                                              .least_dram = n_requests / 2,
                                              .least_nvme = n_requests / 2,
                                              .least_preempted = 5});
    remove_dir();
}

START_TEST(test_tiers_change_no_token_with_nvme_at_once)
{
    random_with_nvme("nvme at once", 1, 3000);
}
END_TEST

START_TEST(test_tiers_change_no_token_with_nvme_by_threads)
{
    random_with_nvme("nvme by threads", 4, 1500);
}
END_TEST

START_TEST(test_tiers_change_no_token_with_nvme_by_io_uring_if_there_is_any)
{
    random_with_nvme("nvme by the best there is", 0, 1500);
}
END_TEST

/* -- one request at a time */

#define N_PROMPT 100
#define N_OUT    20

struct rig {
    struct machine m;
    struct hand_engine h;
};

static void rig_open(struct rig *r, uint32_t n_blocks, uint32_t dram_slots)
{
    struct engine_config c = {.block_tokens = 16, .dram_bytes = dram_slots * 4096, .load_always = 1};
    fake_clock_on();
    fake_machine_open(&r->m, &c, n_blocks, NULL);
    hand_open(&r->h, &r->m);
}

static void rig_close(struct rig *r)
{
    hand_close(&r->h);
    fake_machine_close(&r->m);
}

static void make_prompt(int32_t *prompt, int32_t seed)
{
    for (int i = 0; i < N_PROMPT; i++)
        prompt[i] = (i * 31 + seed * 7 + i * i * seed) % FAKE_VOCAB;
}

/* Ask, and hold the answer against what the ids determine. Returns the prompt tokens that were not computed. */
static uint32_t ask(struct rig *r, int32_t seed)
{
    struct engine_event ev;
    struct engine_sampling greedy = hand_greedy();
    int32_t ids[N_PROMPT + N_OUT];
    uint32_t n = N_PROMPT, cached = 0;
    make_prompt(ids, seed);
    uint64_t id = hand_submit(&r->h, ids, N_PROMPT, N_OUT);
    for (bool done = false; !done;) {
        loop_turn(&r->h.loop);
        while (engine_poll(r->h.front, &ev)) {
            ck_assert_uint_eq(ev.id, id);
            for (uint32_t i = 0; ev.type == ENGINE_TOKENS && i < ev.n; i++, n++) {
                ck_assert_int_eq(ev.tokens[i], fake_expect(ids, n, N_PROMPT, &greedy, 0));
                ids[n] = ev.tokens[i];
            }
            if (ev.type == ENGINE_DONE) {
                cached = ev.cached;
                done = true;
            }
        }
    }
    ck_assert_uint_eq(n, N_PROMPT + N_OUT);
    while (tiers_busy(r->h.loop.kv.tiers))
        loop_turn(&r->h.loop);
    return cached;
}

static struct tiers_stats stats_of(const struct rig *r)
{
    struct tiers_stats s;
    tiers_get_stats(r->h.loop.kv.tiers, &s);
    return s;
}

START_TEST(test_tiers_bring_back_what_the_pool_gave_up)
{
    struct rig r;
    rig_open(&r, 8, 100);
    ck_assert_uint_eq(ask(&r, 1), 0);
    ck_assert_uint_eq(ask(&r, 2), 0); /* the pool holds one of them */
    ck_assert_uint_eq(ask(&r, 1), 96);
    const struct kvcache *kv = &r.h.loop.kv;
    ck_assert_uint_ge(kv->cached_tokens[TIER_DRAM], 80);
    ck_assert_uint_eq(kv->cached_tokens[TIER_HBM] + kv->cached_tokens[TIER_DRAM], 96);
    ck_assert_uint_ge(stats_of(&r).hit_blocks[TIER_DRAM], 5);
    rig_close(&r);
}
END_TEST

START_TEST(test_tiers_catch_each_flipped_bit_before_a_token_depends_on_it)
{
    struct rig r;
    uint64_t rng = unit_seed("flips"), failed = 0;
    rig_open(&r, 8, 64);
    for (int round = 0; round < 300; round++) {
        int32_t slot;
        ask(&r, 1);
        ask(&r, 2);
        const struct tiers *t = r.h.loop.kv.tiers;
        do /* a copy that is there: one bit of it */
            slot = (int32_t)(rng_next(&rng) % t->dram.n_slots);
        while (t->dram_item[slot] < 0);
        uint64_t bit = rng_next(&rng) % (8 * t->o.block_bytes);
        ((uint8_t *)tier_dram_at(&t->dram, slot))[bit / 8] ^= (uint8_t)(1u << bit % 8);
        ask(&r, 1);
        ask(&r, 2);
        ck_assert_uint_le(stats_of(&r).verify_failed[TIER_DRAM], failed + 1);
        failed = stats_of(&r).verify_failed[TIER_DRAM];
    }
    ck_assert_uint_ge(failed, 100); /* the others were not read, or not needed any more */
    ck_assert_uint_ge(stats_of(&r).hit_blocks[TIER_DRAM], 2000);
    rig_close(&r);
}
END_TEST

START_TEST(test_tiers_compute_a_hole_and_load_what_comes_after_it)
{
    struct rig r;
    rig_open(&r, 8, 64);
    ask(&r, 1);
    ask(&r, 2);
    struct tiers *t = r.h.loop.kv.tiers;
    int32_t ids[N_PROMPT];
    make_prompt(ids, 1);
    uint32_t lost = 0;
    for (uint32_t s = 0; s < t->dram.n_slots; s++) { /* block 2 of prompt 1: gone */
        const struct kv_entry *e = &t->dram_entries[s];
        if (t->dram_item[s] < 0 || e->depth != 2 || e->ids[0][0] != ids[32] || e->ids[1][0] != ids[33])
            continue;
        tiers_retire(t, &t->items[t->dram_item[s]]);
        lost++;
    }
    ck_assert_uint_eq(lost, 1);
    ck_assert_uint_eq(ask(&r, 1), 80); /* 6 full blocks but the one */
    ck_assert_uint_eq(ask(&r, 2), 96);
    ck_assert_uint_eq(ask(&r, 1), 96); /* it is there again */
    rig_close(&r);
}
END_TEST

UNIT_MAIN("tiers", test_tiers_change_no_token_when_dram_is_tiny,
          test_tiers_change_no_token_when_dram_is_large_and_requests_are_cancelled,
          test_tiers_change_no_token_with_nvme_at_once, test_tiers_change_no_token_with_nvme_by_threads,
          test_tiers_change_no_token_with_nvme_by_io_uring_if_there_is_any, test_tiers_bring_back_what_the_pool_gave_up,
          test_tiers_catch_each_flipped_bit_before_a_token_depends_on_it,
          test_tiers_compute_a_hole_and_load_what_comes_after_it)
