/* What is written under a budget of bytes. */
#include "engine/kv/admit.h"

#include "engine/base/rng.h"
#include "tests/support/unit.h"

#include <math.h>

#define S     1000000ull
#define BLOCK 4096u
#define DAY   86400u

/* 100 sessions of 10 blocks a second for `seconds`; worth is uniform in [0, 1) by session. Half the bytes are paid. */
struct offers {
    uint64_t offered, admitted, above; /* blocks; admitted ones of the better half */
    uint32_t torn;                     /* sessions written in part */
};

static struct offers offer_all(struct admit *a, uint32_t seconds, uint64_t seed)
{
    struct offers o = {0};
    for (uint32_t n = 0; n < 100 * seconds; n++) {
        double worth = (double)(rng_next(&seed) >> 11) / 9007199254740992.0;
        uint32_t session = (uint32_t)rng_next(&seed), written = 0;
        for (int i = 0; i < 10; i++)
            written += admit_offer(a, worth * 1e-9, BLOCK, session, n * S / 100);
        o.offered += 10;
        o.admitted += written;
        o.above += worth >= 0.5 ? written : 0;
        o.torn += written % 10 != 0;
    }
    return o;
}

START_TEST(test_the_budget_is_spent_on_the_best_and_not_overdrawn)
{
    const uint32_t seconds = 1200;
    const uint64_t rate = 500ull * BLOCK, burst = 60 * rate;
    struct admit a;
    admit_init(&a, rate * DAY, burst);
    struct offers o = offer_all(&a, seconds, unit_seed("budget"));
    printf("%.3f of the budget, %.3f of it on the better half, %u sessions torn\n",
           (double)o.admitted * BLOCK / ((double)rate * seconds), (double)o.above / (double)o.admitted, o.torn);
    ck_assert_uint_eq(a.bytes_admitted, o.admitted * BLOCK);
    ck_assert_uint_eq(a.bytes_refused, (o.offered - o.admitted) * BLOCK);
    ck_assert_uint_le(a.bytes_admitted, rate * seconds + burst);
    ck_assert_double_gt((double)a.bytes_admitted, 0.9 * (double)rate * seconds);
    ck_assert_double_gt((double)o.above, 0.9 * (double)o.admitted);
    ck_assert_uint_lt(o.torn, 100 * seconds / 50);
}
END_TEST

START_TEST(test_without_a_budget_all_is_written)
{
    struct admit a;
    admit_init(&a, 0, 0);
    struct offers o = offer_all(&a, 5, 1);
    ck_assert_uint_eq(o.admitted, o.offered);
}
END_TEST

START_TEST(test_what_all_fits_is_all_written)
{
    struct admit a;
    admit_init(&a, 1100ull * BLOCK * DAY, 1100 * 10 * BLOCK);
    struct offers o = offer_all(&a, 300, 1);
    ck_assert_uint_eq(o.admitted, o.offered);
}
END_TEST

START_TEST(test_an_empty_purse_waits_for_its_rate)
{
    struct admit a;
    admit_init(&a, 1ull * BLOCK * DAY, BLOCK);
    ck_assert(admit_offer(&a, 1, BLOCK, 1, 0));
    ck_assert(!admit_offer(&a, 1, BLOCK, 1, S / 2));
    ck_assert(admit_offer(&a, 1, BLOCK, 1, 2 * S));
    ck_assert(!admit_offer(&a, 1, BLOCK, 1, 2 * S));
    admit_refund(&a, BLOCK);
    ck_assert(admit_offer(&a, 1, BLOCK, 1, 2 * S));
    ck_assert_uint_eq(a.bytes_admitted, 2 * BLOCK);
}
END_TEST

START_TEST(test_worth_of_any_size_has_its_place)
{
    struct admit a;
    admit_init(&a, 1000ull * BLOCK * DAY, 1000 * BLOCK);
    const double worths[] = {0, -1, NAN, INFINITY, 1e-300, 1e300};
    for (size_t i = 0; i < sizeof worths / sizeof *worths; i++)
        ck_assert(admit_offer(&a, worths[i], BLOCK, 1, i));
}
END_TEST

UNIT_MAIN("admit", test_the_budget_is_spent_on_the_best_and_not_overdrawn, test_without_a_budget_all_is_written,
          test_what_all_fits_is_all_written, test_an_empty_purse_waits_for_its_rate,
          test_worth_of_any_size_has_its_place)
