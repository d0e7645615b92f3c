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

UNIT_MAIN("collide", test_collide_eight_bit_keys_give_no_wrong_token,
          test_collide_eight_bit_keys_give_no_wrong_token_from_tiers_below)
