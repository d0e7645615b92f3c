/* The budget of bytes for flash. */
#include "engine/kv/admit.h"

#include "engine/base/rng.h"
#include "tests/support/unit.h"

#include <math.h>

#define S     1000000ull
#define BLOCK 4096u
#define DAY   86400u

/* Against a count in whole numbers: never more than the burst and what was earned, and all of it when it is wanted. */
START_TEST(test_the_budget_is_spent_and_not_overdrawn)
{
    const uint64_t rate = 500ull * BLOCK, burst = 60 * rate;
    uint64_t rng = unit_seed("budget"), now = 0, spent = 0;
    struct admit a;
    admit_init(&a, rate * DAY, burst);
    for (int n = 0; n < 100000; n++) {
        now += rng_next(&rng) % 2000;
        uint32_t bytes = 1 + (uint32_t)(rng_next(&rng) % (2 * BLOCK));
        double left = admit_left(&a, now);
        bool taken = admit_take(&a, bytes, now);
        ck_assert_int_eq(taken, left >= bytes);
        if (taken && rng_next(&rng) % 16 == 0) {
            admit_refund(&a, bytes);
            taken = false;
        }
        spent += taken ? bytes : 0;
        ck_assert_double_le((double)spent, (double)burst + (double)rate * (double)now / S + 1);
    }
    printf("%.4f of what was there\n", (double)spent / ((double)burst + (double)rate * (double)now / S));
    ck_assert_double_ge((double)spent, 0.99 * ((double)burst + (double)rate * (double)now / S));
}
END_TEST

START_TEST(test_without_a_bound_all_is_written)
{
    struct admit a;
    admit_init(&a, 0, 0);
    for (uint64_t n = 0; n < 1000; n++)
        ck_assert(admit_take(&a, UINT32_MAX, n));
    ck_assert(admit_full(&a, 1000));
    ck_assert(isinf(admit_left(&a, 1000)));
}
END_TEST

START_TEST(test_an_empty_purse_waits_for_its_rate)
{
    struct admit a;
    admit_init(&a, 1ull * BLOCK * DAY, BLOCK);
    ck_assert(admit_full(&a, 0));
    ck_assert(admit_take(&a, BLOCK, 0));
    ck_assert(!admit_take(&a, BLOCK, S / 2));
    ck_assert(!admit_full(&a, S / 2));
    ck_assert(admit_take(&a, BLOCK, S));
    ck_assert(!admit_take(&a, BLOCK, S));
    admit_refund(&a, BLOCK);
    ck_assert(admit_take(&a, BLOCK, S));
    ck_assert(admit_full(&a, 1000 * S)); /* and no more than a burst is saved */
    ck_assert(admit_take(&a, BLOCK, 1000 * S));
    ck_assert(!admit_take(&a, BLOCK, 1000 * S));
}
END_TEST

UNIT_MAIN("admit", test_the_budget_is_spent_and_not_overdrawn, test_without_a_bound_all_is_written,
          test_an_empty_purse_waits_for_its_rate)
