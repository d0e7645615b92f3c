/* unit - a Check suite in one file: tests as sentences, a main that runs them all.
 *
 *     START_TEST(test_pool_gives_nothing_when_short) { ... } END_TEST
 *     UNIT_MAIN("pool", test_pool_gives_nothing_when_short, ...)
 *
 * Tests run in forked children (CK_FORK=no to debug), 120 s each at most. HEARTH_SOAK=1 (`make soak`) is for long
 * forms, which have no bound and say how far they are.
 */
#ifndef HEARTH_TESTS_UNIT_H
#define HEARTH_TESTS_UNIT_H

#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static inline bool unit_soak(void)
{
    return getenv("HEARTH_SOAK") != NULL;
}

/* How far a long form is, as a line of its own for scripts/soak.py; nothing otherwise. */
#define unit_progress(...)                    \
    do {                                      \
        if (unit_soak()) {                    \
            printf("progress: " __VA_ARGS__); \
            putchar('\n');                    \
            fflush(stdout);                   \
        }                                     \
    } while (0)

#define UNIT_MAIN(suite_name, ...) UNIT_MAIN_PARTS(suite_name, 1, __VA_ARGS__)

/* Long forms run in so many parts (_i: which), since Check can't note a test of more than 35 minutes. */
#define UNIT_MAIN_PARTS(suite_name, parts, ...)                            \
    int main(void)                                                         \
    {                                                                      \
        const TTest *const tests[] = {__VA_ARGS__};                        \
        Suite *s = suite_create(suite_name);                               \
        TCase *tc = tcase_create(suite_name);                              \
        tcase_set_timeout(tc, unit_soak() ? 0 : 120);                      \
        for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)          \
            tcase_add_loop_test(tc, tests[i], 0, unit_soak() ? parts : 1); \
        suite_add_tcase(s, tc);                                            \
        SRunner *sr = srunner_create(s);                                   \
        srunner_run_all(sr, CK_ENV);                                       \
        int failed = srunner_ntests_failed(sr);                            \
        srunner_free(sr);                                                  \
        return failed ? EXIT_FAILURE : EXIT_SUCCESS;                       \
    }

/* Seed of a randomised test: HEARTH_SEED, or 1; printed, so that a failure can be run again. */
static inline unsigned long long unit_seed(const char *test)
{
    const char *s = getenv("HEARTH_SEED");
    unsigned long long seed = s ? strtoull(s, NULL, 10) : 1;
    printf("seed %llu (%s)\n", seed, test);
    return seed;
}

/* Where public data is: $HEARTH_SHARED, or ../shared seen from the root of the repository. What finds none skips. */
static inline const char *unit_shared(void)
{
    const char *s = getenv("HEARTH_SHARED");
    return s ? s : "../shared";
}

#endif
