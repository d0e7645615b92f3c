/* test_table - prefill work is the next absent run; holes are found wherever they are. */
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/kv/table.h"

START_TEST(test_table_finds_the_first_hole)
{
    struct table t;
    uint64_t a, b;
    table_init(&t, 16);
    ck_assert_int_eq(table_reserve(&t, 8), 0);
    ck_assert(table_next_absent(&t, 20, &a, &b)); /* no block yet: all is absent */
    ck_assert(a == 0 && b == 20);
    ck_assert(!table_next_absent(&t, 0, &a, &b));
    table_push(&t, 5, true);
    table_push(&t, 6, false);
    table_push(&t, 7, true);
    table_push(&t, 8, false);
    ck_assert(table_next_absent(&t, 60, &a, &b));
    ck_assert(a == 16 && b == 32); /* the hole ends at a ready block */
    table_fill(&t, 16, 20);
    ck_assert(table_next_absent(&t, 60, &a, &b) && a == 20 && b == 32);
    table_fill(&t, 20, 32);
    ck_assert(table_next_absent(&t, 60, &a, &b) && a == 48 && b == 60);
    table_fill(&t, 48, 60);
    ck_assert(!table_next_absent(&t, 60, &a, &b));
    ck_assert(table_next_absent(&t, 61, &a, &b) && a == 60 && b == 61);
    table_check(&t);
    table_fini(&t);
}
END_TEST

START_TEST(test_table_agrees_with_a_bitmap)
{
    uint64_t rng = unit_seed("table");
    for (int round = 0; round < 2000; round++) {
        struct table t;
        uint8_t have[16 * 16] = {0};
        uint64_t n = 1 + rng_next(&rng) % (16 * 16), a, b;
        table_init(&t, 16);
        ck_assert_int_eq(table_reserve(&t, 16), 0);
        for (int i = 0; i < 16; i++) {
            bool ready = rng_next(&rng) % 3 == 0;
            table_push(&t, i, ready);
            for (int j = 0; ready && j < 16; j++)
                have[16 * i + j] = 1;
        }
        while (table_next_absent(&t, n, &a, &b)) {
            uint64_t want = 0;
            while (have[want])
                want++;
            ck_assert_uint_eq(a, want);
            ck_assert(b > a && b <= n);
            uint64_t stop = a + 1 + rng_next(&rng) % (b - a);
            for (uint64_t i = a; i < b; i++)
                ck_assert_uint_eq(have[i], 0);
            for (uint64_t i = a; i < stop; i++)
                have[i] = 1;
            table_fill(&t, a, stop);
            table_check(&t);
        }
        for (uint64_t i = 0; i < n; i++)
            ck_assert_uint_eq(have[i], 1);
        table_fini(&t);
    }
}
END_TEST

UNIT_MAIN("table", test_table_finds_the_first_hole, test_table_agrees_with_a_bitmap)
