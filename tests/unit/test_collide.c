/* test_collide - block keys cut to 8 bits: nearly every look-up meets keys of other content, and no answer is wrong.
 *
 * prefix.c is compiled into this program with short keys; the library's own is not linked then. */
#define PREFIX_KEY_BITS 8
#include "engine/kv/prefix.c"

#include "tests/support/unit.h"

#include "tests/support/engine_random.h"
#include "tests/support/tier_rig.h"

START_TEST(test_collide_eight_bit_keys_give_no_wrong_token)
{
    struct hash_key root = {{0}}, key;
    int32_t ids[16] = {1, 2, 3};
    ck_assert_int_eq(hash_init_library(), 0);
    prefix_key(&root, ids, 16, &key);
    for (size_t i = 1; i < sizeof key.b; i++)
        ck_assert_uint_eq(key.b[i], 0); /* it is the short one that runs here */
    fake_clock_on();
    engine_random_run(&(struct engine_random){
        .seed = unit_seed("8-bit keys"), .n_blocks = 1200, .n_requests = 1500, .vocab = 2, .least_cached = 10000});
}
END_TEST

START_TEST(test_collide_eight_bit_keys_give_no_wrong_token_from_tiers_below)
{
    fake_clock_on();
    engine_random_run(&(struct engine_random){.seed = unit_seed("8-bit keys, tiers"),
                                              .n_blocks = 30,
                                              .dram_slots = 200,
                                              .nvme_dirs = rig_dir(),
                                              .nvme_slots = 600,
                                              .io_threads = 1,
                                              .n_requests = 1500,
                                              .vocab = 2,
                                              .least_cached = 5000,
                                              .least_dram = 2000,
                                              .least_nvme = 200});
}
END_TEST

/* -- the same ids under another root, and behind other ids: what a key that collides would find is not theirs, though
 * it looks alike. Nothing was computed before, so nothing may be found. */

static struct rig r;

static uint32_t ask(const int32_t *ids, uint8_t salt)
{
    struct engine_request q = {.prompt = ids, .n_prompt = RIG_PROMPT, .max_tokens = 1, .n = 1};
    struct engine_event ev = {0};
    struct err e = {0};
    uint64_t id;
    q.sampling = hand_greedy();
    memset(q.salt, salt, sizeof q.salt);
    ck_assert_msg(engine_submit(r.h.front, &q, &id, &e) == 0, "%s", e.text);
    while (ev.type != ENGINE_DONE) {
        loop_turn(&r.h.loop);
        while (ev.type != ENGINE_DONE && engine_poll(r.h.front, &ev))
            ck_assert_int_ne(ev.type, ENGINE_FAILED);
    }
    rig_settle(&r);
    return ev.cached;
}

/* In the pool; below it, in DRAM; on a drive. */
static void open_place(int place)
{
    struct rig_opts o = {.n_blocks = place ? 8 : 3000, .dram_slots = place == 1 ? 3000 : 16};
    if (place == 2) {
        o.dirs = rig_dir();
        o.nvme_slots = 3000;
    }
    rig_open(&r, &o);
}

START_TEST(test_collide_tenants_find_nothing_of_each_other)
{
    int32_t ids[RIG_PROMPT];
    rig_prompt(ids, 1);
    for (int place = 0; place < 3; place++) {
        open_place(place);
        for (int salt = 0; salt < 256; salt++)
            ck_assert_msg(ask(ids, (uint8_t)salt) == 0, "place %d, tenant %d", place, salt);
        ck_assert_uint_ge(ask(ids, 255), RIG_CACHED - 16); /* but each its own */
        rig_close(&r);
    }
}
END_TEST

START_TEST(test_collide_the_same_block_behind_other_beginnings_is_another)
{
    int32_t ids[RIG_PROMPT];
    rig_prompt(ids, 1);
    for (int place = 0; place < 3; place++) {
        open_place(place);
        for (int32_t n = 0; n < 256; n++) { /* each with a first block of its own */
            ids[0] = n % 16;
            ids[7] = n / 16;
            ck_assert_msg(ask(ids, 0) == 0, "place %d, beginning %d", place, n);
        }
        ck_assert_uint_ge(ask(ids, 0), RIG_CACHED - 16);
        rig_close(&r);
    }
}
END_TEST

UNIT_MAIN("collide", test_collide_eight_bit_keys_give_no_wrong_token,
          test_collide_eight_bit_keys_give_no_wrong_token_from_tiers_below,
          test_collide_tenants_find_nothing_of_each_other,
          test_collide_the_same_block_behind_other_beginnings_is_another)
