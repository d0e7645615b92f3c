/* test_tiers - the engine whole over the fake machine with tiers so small that blocks move all the time: the tokens are
 * what the ids determine, from whichever tier the blocks came; what was planted is caught; and each run asserts that
 * enough came from each tier to mean something. */
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/tiering.h"
#include "tests/support/engine_random.h"
#include "tests/support/tier_rig.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

START_TEST(test_tiers_change_no_token_when_dram_is_tiny)
{
    fake_clock_on();
    engine_random_run(&(struct engine_random){.seed = unit_seed("dram"),
                                              .n_blocks = 8,
                                              .block_tokens = 64,
                                              .dram_slots = 16,
                                              .n_requests = 3000,
                                              .least_cached = 5000,
                                              .least_dram = 3000,
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
                                              .least_cached = 3000,
                                              .least_dram = 2000,
                                              .least_preempted = 20});
}
END_TEST

static void random_with_nvme(const char *name, uint8_t io_threads, uint32_t n_requests)
{
    const char *dir = rig_dir();
    fake_clock_on();
    engine_random_run(&(struct engine_random){.seed = unit_seed(name),
                                              .n_blocks = 8,
                                              .block_tokens = 64,
                                              .dram_slots = 16,
                                              .nvme_dirs = dir,
                                              .nvme_slots = 64,
                                              .io_threads = io_threads,
                                              .n_requests = n_requests,
                                              .least_cached = n_requests,
                                              .least_dram = n_requests / 4,
                                              /* how fast the drive is decides, too, but when it is done at once */
                                              .least_nvme = io_threads == 1 ? n_requests / 2 : 64,
                                              .least_preempted = 5});
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

START_TEST(test_tiers_bring_back_what_the_pool_gave_up)
{
    struct rig r;
    rig_open(&r, &(struct rig_opts){.dram_slots = 100});
    ck_assert_uint_eq(rig_ask(&r, 1), 0);
    ck_assert_uint_eq(rig_ask(&r, 2), 0); /* the pool holds one of them */
    ck_assert_uint_eq(rig_ask(&r, 1), RIG_CACHED);
    const struct kvcache *kv = &r.h.loop.kv;
    ck_assert_uint_ge(kv->cached_tokens[TIER_DRAM], 80);
    ck_assert_uint_eq(kv->cached_tokens[TIER_HBM] + kv->cached_tokens[TIER_DRAM], RIG_CACHED);
    ck_assert_uint_ge(rig_stats(&r).hit_blocks[TIER_DRAM], 5);
    rig_close(&r);
}
END_TEST

START_TEST(test_tiers_catch_each_flipped_bit_before_a_token_depends_on_it)
{
    struct rig r;
    uint64_t rng = unit_seed("flips"), failed = 0;
    rig_open(&r, &(struct rig_opts){.dram_slots = 64});
    for (int round = 0; round < 300; round++) {
        int32_t slot;
        rig_ask(&r, 1);
        rig_ask(&r, 2);
        const struct tiers *t = rig_tiers(&r);
        do /* a copy that is there: one bit of it */
            slot = (int32_t)(rng_next(&rng) % t->dram.n_slots);
        while (t->dram_item[slot] < 0);
        uint64_t bit = rng_next(&rng) % (8 * t->o.block_bytes);
        ((uint8_t *)tier_dram_at(&t->dram, slot))[bit / 8] ^= (uint8_t)(1u << bit % 8);
        rig_ask(&r, 1);
        rig_ask(&r, 2);
        ck_assert_uint_le(rig_stats(&r).verify_failed[TIER_DRAM], failed + 1);
        failed = rig_stats(&r).verify_failed[TIER_DRAM];
    }
    ck_assert_uint_ge(failed, 100); /* the others were not read, or not needed any more */
    ck_assert_uint_ge(rig_stats(&r).hit_blocks[TIER_DRAM], 2000);
    rig_close(&r);
}
END_TEST

/* Drop block `depth` of a prompt below the pool. */
static void lose(struct rig *r, int32_t number, uint32_t depth)
{
    struct tiers *t = rig_tiers(r);
    int32_t ids[RIG_PROMPT];
    uint32_t lost = 0;
    rig_prompt(ids, number);
    for (uint32_t n = 0; n < t->n_items; n++) {
        struct item *i = &t->items[n];
        const struct kv_entry *e = i->used ? tiers_entry(t, i) : NULL;
        if (!e || e->depth != depth || e->ids[0][0] != ids[16 * depth] || e->ids[1][0] != ids[16 * depth + 1])
            continue;
        tiers_retire(t, i);
        lost++;
    }
    ck_assert_uint_eq(lost, 1);
}

START_TEST(test_tiers_compute_a_hole_and_load_what_comes_after_it)
{
    struct rig r;
    rig_open(&r, &(struct rig_opts){.dram_slots = 64});
    rig_ask(&r, 1);
    for (uint32_t depth = 0; depth < 6; depth++) {
        rig_ask(&r, 2);
        lose(&r, 1, depth);
        ck_assert_uint_eq(rig_ask(&r, 1), RIG_CACHED - 16);
    }
    rig_ask(&r, 2);
    lose(&r, 1, 1);
    lose(&r, 1, 4);
    ck_assert_uint_eq(rig_ask(&r, 1), RIG_CACHED - 32);
    rig_ask(&r, 2);
    ck_assert_uint_eq(rig_ask(&r, 1), RIG_CACHED); /* all are there again */
    rig_close(&r);
}
END_TEST

/* -- restarts */

START_TEST(test_tiers_find_their_blocks_again_after_a_restart)
{
    struct rig r;
    struct rig_opts o = {.dirs = rig_dir()};
    rig_open(&r, &o);
    for (int n = 1; n <= 8; n++)
        ck_assert_uint_eq(rig_ask(&r, n), 0);
    uint64_t used = rig_stats(&r).nvme_used;
    ck_assert_uint_ge(used, 56); /* 7 full blocks each */
    rig_close(&r);
    for (int round = 0; round < 3; round++) {
        rig_open(&r, &o);
        ck_assert_uint_eq(rig_stats(&r).nvme_used, used);
        for (int n = 1; n <= 8; n++)
            ck_assert_uint_eq(rig_ask(&r, n), RIG_CACHED);
        ck_assert_uint_eq(r.h.loop.kv.cached_tokens[TIER_NVME], 8 * RIG_CACHED);
        rig_close(&r);
    }
}
END_TEST

START_TEST(test_tiers_hit_nothing_when_anything_that_decides_the_bytes_has_changed)
{
    struct rig r;
    struct rig_opts o = {.dirs = rig_dir(), .nvme_slots = 256}, other;
    char path[256] = "", kept[256] = "";
    rig_open(&r, &o);
    rig_ask(&r, 1);
    rig_close(&r);
    for (int change = 0; change < 6; change++) {
        other = o;
        if (change == 0)
            other.model = 1;
        else if (change == 1)
            other.numerics = "other";
        else if (change == 2) {
            other.block_tokens = 32;
            other.n_blocks = 4;
        }
        if (change == 5)
            other.format = KV_FORMAT_KV8;
        rig_open(&r, &other);
        if (change == 3)
            r.salt = 7;
        if (change == 4) { /* another installation: its secret is lost */
            rig_close(&r);
            snprintf(path, sizeof path, "%s/hearth.secret", o.dirs);
            snprintf(kept, sizeof kept, "%s/kept", o.dirs);
            ck_assert_int_eq(rename(path, kept), 0);
            other.secret = 9;
            rig_open(&r, &other);
        }
        ck_assert_msg(rig_ask(&r, 1) == 0, "change %d", change);
        rig_close(&r);
        if (change == 4)
            ck_assert_int_eq(rename(kept, path), 0);
        rig_open(&r, &o);
        ck_assert_msg(rig_ask(&r, 1) == RIG_CACHED, "back from change %d", change);
        rig_close(&r);
    }
}
END_TEST

START_TEST(test_tiers_hit_nothing_of_another_device_in_deterministic_mode)
{
    struct rig r;
    struct rig_opts o = {.dirs = rig_dir(), .nvme_slots = 256, .device = "card A, library 1"};
    const char *const others[] = {"card A, library 2", "card B, library 1", NULL};
    rig_open(&r, &o);
    rig_ask(&r, 1);
    rig_close(&r);
    for (int i = 0; i < 3; i++) {
        struct rig_opts other = o;
        other.device = others[i];
        rig_open(&r, &other);
        ck_assert_msg(rig_ask(&r, 1) == 0, "what card A wrote serves %s", others[i] ? others[i] : "without the mode");
        rig_close(&r);
        rig_open(&r, &o);
        ck_assert_uint_eq(rig_ask(&r, 1), RIG_CACHED);
        rig_close(&r);
    }
}
END_TEST

START_TEST(test_tiers_lose_a_quarter_when_one_of_four_folders_is_lost)
{
    struct rig r;
    char dirs[300], three[300];
    const char *d[4];
    for (int i = 0; i < 4; i++)
        d[i] = rig_dir();
    snprintf(dirs, sizeof dirs, "%s,%s,%s,%s", d[0], d[1], d[2], d[3]);
    snprintf(three, sizeof three, "%s,%s/gone,%s,%s", d[0], d[1], d[2], d[3]);
    rig_open(&r, &(struct rig_opts){.dirs = dirs, .nvme_slots = 256});
    for (int n = 1; n <= 16; n++)
        rig_ask(&r, n);
    rig_close(&r);
    rig_open(&r, &(struct rig_opts){.dirs = three, .nvme_slots = 256});
    uint32_t cached = 0;
    for (int n = 1; n <= 16; n++)
        cached += rig_ask(&r, n);
    printf("cached with three of four folders: %u of %u tokens\n", cached, 16 * RIG_CACHED);
    ck_assert_uint_ge(cached, 16 * RIG_CACHED * 70 / 100);
    ck_assert_uint_le(cached, 16 * RIG_CACHED * 80 / 100); /* they were spread over all four */
    rig_close(&r);
}
END_TEST

/* Each chain begins on another drive: else prompts of one block would all lie on the first. */
START_TEST(test_tiers_begin_their_chains_on_all_drives)
{
    struct rig r;
    char dirs[300];
    uint32_t on[4] = {0};
    snprintf(dirs, sizeof dirs, "%s,%s,%s,%s", rig_dir(), rig_dir(), rig_dir(), rig_dir());
    rig_open(&r, &(struct rig_opts){.dirs = dirs, .nvme_slots = 2000});
    for (int n = 1; n <= 64; n++)
        rig_ask(&r, n);
    struct tiers *t = rig_tiers(&r);
    for (uint32_t n = 0; n < t->n_items; n++)
        if (t->items[n].used && t->items[n].in_nvme == COPY_READY && tiers_entry(t, &t->items[n])->depth == 0)
            on[t->items[n].nvme % 4]++;
    printf("chains begun on four drives: %u %u %u %u\n", on[0], on[1], on[2], on[3]);
    ck_assert_uint_eq(on[0] + on[1] + on[2] + on[3], 64);
    for (int d = 0; d < 4; d++)
        ck_assert_uint_ge(on[d], 5);
    rig_close(&r);
}
END_TEST

/* That the policy is better than LRU is shown on traces (test_sim); here, that the engine uses it. */
START_TEST(test_tiers_price_their_copies_by_what_was_learned_of_returns)
{
    struct rig r;
    rig_open(&r, &(struct rig_opts){.dirs = rig_dir(), .dram_slots = 64});
    for (int n = 1; n <= 4; n++)
        rig_ask(&r, n);
    struct tiers *t = rig_tiers(&r);
    uint64_t now = fake_now_ns / 1000;
    uint32_t seen = 0;
    for (uint32_t n = 0; n < t->n_items; n++) {
        const struct item *i = &t->items[n];
        if (!i->used || i->in_dram != COPY_READY || i->in_nvme != COPY_READY)
            continue;
        seen++;
        ck_assert_double_lt(evict_worth(t->in_dram, i->dram, now + 86400000000u),
                            evict_worth(t->in_dram, i->dram, now));
        ck_assert_double_lt(evict_worth(t->in_nvme, i->nvme, now + 86400000000u),
                            evict_worth(t->in_nvme, i->nvme, now));
    }
    ck_assert_uint_ge(seen, 20);
    rig_close(&r);
}
END_TEST

static void expect_flow(const struct engine_flow *out, const struct tiers_flow *in)
{
    ck_assert_uint_eq(out->moves, in->moves);
    ck_assert_uint_eq(out->bytes, in->bytes);
    ck_assert_uint_eq(out->us, in->ns / 1000);
    ck_assert_uint_eq(out->failed, in->failed);
}

/* Each counter has a number of its own, and comes out under its own name. */
START_TEST(test_tiers_publish_each_of_their_counters_as_itself)
{
    struct rig r;
    struct engine_stats st;
    rig_open(&r, &(struct rig_opts){.dirs = rig_dir(), .nvme_slots = 50, .dram_slots = 20, .bytes_per_day = 86400000});
    rig_ask(&r, 1);
    struct kvcache *kv = &r.h.loop.kv;
    struct tiers_stats kept = rig_tiers(&r)->stats, *s = &rig_tiers(&r)->stats, now;
    uint64_t n = 0;
    for (int i = 0; i < 2; i++) {
        s->gpu[i] = (struct tiers_flow){.moves = ++n, .bytes = ++n, .ns = 1000 * ++n, .failed = ++n};
        s->nvme[i] = (struct tiers_flow){.moves = ++n, .bytes = ++n, .ns = 1000 * ++n, .failed = ++n};
    }
    for (int t = 0; t < TIER_COUNT; t++) {
        s->verify_failed[t] = ++n;
        kv->cached_tokens[t] = ++n;
    }
    s->late = ++n;
    s->evicted_dram = ++n;
    s->lost_dram = ++n;
    s->lost_nvme = ++n;
    s->not_stored = ++n;
    s->refused_bytes = ++n;
    kv->swapped = ++n;
    kv->dropped = ++n;
    now = rig_stats(&r);
    tiering_publish(kv, &r.h.engine_side.head->status);
    engine_get_stats(r.h.front, &st);
    const struct engine_tiers *out = &st.tiers;
    expect_flow(&out->hbm_up, &now.gpu[0]);
    expect_flow(&out->hbm_down, &now.gpu[1]);
    expect_flow(&out->nvme_up, &now.nvme[0]);
    expect_flow(&out->nvme_down, &now.nvme[1]);
    for (int t = 0; t < TIER_COUNT; t++) {
        ck_assert_uint_eq(out->verify_failed[t], now.verify_failed[t]);
        ck_assert_uint_eq(out->cached_tokens[t], kv->cached_tokens[t]);
    }
    ck_assert(out->late == now.late && out->evicted_dram == now.evicted_dram && out->lost_dram == now.lost_dram);
    ck_assert(out->lost_nvme == now.lost_nvme && out->not_stored == now.not_stored);
    ck_assert(out->swapped == kv->swapped && out->dropped == kv->dropped);
    ck_assert(out->refused_bytes == now.refused_bytes && out->budget_bytes == now.budget_bytes);
    ck_assert_uint_eq(out->bytes_per_day, 86400000);
    ck_assert_uint_eq(out->block_bytes, 4096);
    ck_assert(out->dram_blocks == 20 && out->dram_used == now.dram_used && out->dram_used >= 6);
    ck_assert(out->nvme_blocks == now.nvme_slots && out->nvme_blocks >= 50 && out->nvme_used == now.nvme_used);
    *s = kept;
    rig_close(&r);
}
END_TEST

START_TEST(test_tiers_refuse_a_folder_that_another_daemon_has)
{
    struct rig a, b;
    struct rig_opts o = {.dirs = rig_dir()};
    struct err e = {0};
    char pid[32];
    rig_open(&a, &o);
    ck_assert_int_eq(rig_try(&b, &o, &e), -EBUSY);
    snprintf(pid, sizeof pid, "process %d;", (int)getpid());
    ck_assert_msg(strstr(e.text, pid) != NULL, "%s", e.text);
    rig_ask(&a, 1);
    rig_close(&a);
    rig_open(&b, &o);
    ck_assert_uint_eq(rig_ask(&b, 1), RIG_CACHED);
    rig_close(&b);
}
END_TEST

/* -- bounds */

static uint64_t size_of_dir(const char *path)
{
    struct nvme_dir d;
    uint64_t bytes = 0;
    snprintf(d.path, sizeof d.path, "%s", path);
    ck_assert_int_eq(nvme_dir_bytes(&d, NULL, &bytes), 0);
    return bytes;
}

START_TEST(test_tiers_never_take_more_than_they_may)
{
    struct rig r;
    struct rig_opts o = {.dirs = rig_dir(), .nvme_slots = 40};
    uint64_t cap = 40 * (4096 + 512) + 16384;
    for (int round = 0; round < 4; round++) {
        o.block_tokens = round % 2 ? 32 : 16; /* two layouts under one cap */
        o.n_blocks = round % 2 ? 4 : 8;
        rig_open(&r, &o);
        for (int n = 1; n <= 12; n++) {
            uint64_t id = rig_submit(&r, n);
            for (int turn = 0; turn < 60; turn++) {
                loop_turn(&r.h.loop);
                ck_assert_uint_le(size_of_dir(o.dirs), cap);
            }
            rig_finish(&r, n, id);
        }
        ck_assert_uint_ge(rig_stats(&r).nvme_used, 8);
        ck_assert_uint_gt(rig_stats(&r).nvme[1].moves, rig_stats(&r).nvme_used); /* and gave up some for others */
        rig_close(&r);
        ck_assert_uint_le(size_of_dir(o.dirs), cap);
    }
    o.nvme_slots = 20; /* less than there is: cut at once */
    rig_open(&r, &o);
    ck_assert_uint_le(size_of_dir(o.dirs), 20 * (4096 + 512) + 16384);
    rig_ask(&r, 12);
    rig_close(&r);
}
END_TEST

START_TEST(test_tiers_keep_to_their_write_budget)
{
    struct rig r;
    uint64_t day = 288 * 8 * 4096; /* a burst of 8 blocks, and one */
    rig_open(&r, &(struct rig_opts){.dirs = rig_dir(), .bytes_per_day = day, .dram_slots = 64});
    uint64_t from = fake_now_ns;
    for (int n = 1; n <= 20; n++)
        rig_ask(&r, n);
    struct tiers_stats s = rig_stats(&r);
    uint64_t earned = (uint64_t)((double)(fake_now_ns - from) / 86400e9 * (double)day);
    ck_assert_uint_ge(s.nvme[1].bytes, 4 * 4096);
    ck_assert_uint_le(s.nvme[1].bytes, 9 * 4096 + earned);
    ck_assert_uint_gt(s.lost_dram, 20); /* the rest was given up */
    fake_now_ns += 86400000000000u;     /* the next day */
    for (int n = 21; n <= 40; n++)
        rig_ask(&r, n);
    ck_assert_uint_gt(rig_stats(&r).nvme[1].bytes, s.nvme[1].bytes);
    ck_assert_uint_le(rig_stats(&r).nvme[1].bytes, 2 * 9 * 4096 + earned);
    rig_close(&r);
}
END_TEST

UNIT_MAIN("tiers", test_tiers_change_no_token_when_dram_is_tiny,
          test_tiers_change_no_token_when_dram_is_large_and_requests_are_cancelled,
          test_tiers_change_no_token_with_nvme_at_once, test_tiers_change_no_token_with_nvme_by_threads,
          test_tiers_change_no_token_with_nvme_by_io_uring_if_there_is_any, test_tiers_bring_back_what_the_pool_gave_up,
          test_tiers_catch_each_flipped_bit_before_a_token_depends_on_it,
          test_tiers_compute_a_hole_and_load_what_comes_after_it, test_tiers_find_their_blocks_again_after_a_restart,
          test_tiers_hit_nothing_when_anything_that_decides_the_bytes_has_changed,
          test_tiers_hit_nothing_of_another_device_in_deterministic_mode,
          test_tiers_lose_a_quarter_when_one_of_four_folders_is_lost, test_tiers_begin_their_chains_on_all_drives,
          test_tiers_publish_each_of_their_counters_as_itself,
          test_tiers_price_their_copies_by_what_was_learned_of_returns,
          test_tiers_refuse_a_folder_that_another_daemon_has, test_tiers_never_take_more_than_they_may,
          test_tiers_keep_to_their_write_budget)
