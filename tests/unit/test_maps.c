/* test_maps - idmap and extent against plain models, 10^5 operations each. */
#include "tests/support/unit.h"

#include "engine/base/extent.h"
#include "engine/base/idmap.h"
#include "engine/base/rng.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

START_TEST(test_idmap_agrees_with_an_array)
{
    uint64_t rng = unit_seed("idmap");
    static void *model[512];
    struct idmap m = {0};
    int things[512];
    size_t n = 0;
    for (int i = 0; i < 100000; i++) {
        uint64_t id = rng_next(&rng) % 512;
        void *have = model[id];
        ck_assert_ptr_eq(idmap_get(&m, id * 0x100000001u), have);
        if (have) {
            ck_assert_ptr_eq(idmap_remove(&m, id * 0x100000001u), have);
            model[id] = NULL;
            n--;
        } else {
            ck_assert_int_eq(idmap_put(&m, id * 0x100000001u, &things[id]), 0);
            model[id] = &things[id];
            n++;
        }
        ck_assert_uint_eq(m.n, n);
    }
    ck_assert_ptr_null(idmap_remove(&m, 99999));
    idmap_fini(&m);
}
END_TEST

START_TEST(test_extent_never_hands_out_a_byte_twice)
{
    uint64_t rng = unit_seed("extent");
    enum { TOTAL = 1 << 16, MOST = 300 };
    static uint8_t owner[TOTAL / EXTENT_ALIGN];
    struct {
        uint64_t at, n;
    } held[MOST];
    size_t n_held = 0, refused = 0;
    struct extent_map m;
    ck_assert_int_eq(extent_init(&m, TOTAL), 0);
    for (int i = 0; i < 100000; i++) {
        if (n_held < MOST && rng_next(&rng) % 5 < 3) {
            uint64_t n = 1 + rng_next(&rng) % 1500, at;
            if (extent_take(&m, n, &at) != 0) {
                refused++;
                continue;
            }
            for (uint64_t b = at / EXTENT_ALIGN; b * EXTENT_ALIGN < at + n; b++) {
                ck_assert_uint_eq(owner[b], 0);
                owner[b] = 1;
            }
            held[n_held].at = at;
            held[n_held++].n = n;
        } else if (n_held) {
            size_t k = rng_next(&rng) % n_held;
            for (uint64_t b = held[k].at / EXTENT_ALIGN; b * EXTENT_ALIGN < held[k].at + held[k].n; b++)
                owner[b] = 0;
            extent_give(&m, held[k].at, held[k].n);
            held[k] = held[--n_held];
        }
        extent_check(&m);
    }
    ck_assert_uint_gt(refused, 100);
    while (n_held) {
        n_held--;
        extent_give(&m, held[n_held].at, held[n_held].n);
    }
    uint64_t at;
    ck_assert_int_eq(extent_take(&m, TOTAL, &at), 0); /* all of it is one piece again */
    ck_assert_int_eq(extent_take(&m, 1, &at), -ENOSPC);
    extent_fini(&m);
}
END_TEST

UNIT_MAIN("maps", test_idmap_agrees_with_an_array, test_extent_never_hands_out_a_byte_twice)
