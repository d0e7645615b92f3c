/* test_cpu_fast_pool - every piece of every job runs once, whatever the threads do. */
#include "tests/support/unit.h"

#include "engine/compute/cpu_fast_pool.h"

#include <stdatomic.h>
#include <string.h>

enum { PIECES = 1000 };

struct job {
    atomic_int ran[PIECES];
    atomic_int wrong_thread;
    int32_t threads;
};

static void count(void *ctx, int32_t piece, int32_t thread)
{
    struct job *j = ctx;
    atomic_fetch_add(&j->ran[piece], 1);
    if (thread < 0 || thread >= j->threads)
        atomic_fetch_add(&j->wrong_thread, 1);
}

static void check_pool(int32_t threads)
{
    struct fast_pool *p;
    struct err e;
    ck_assert_int_eq(fast_pool_open(&p, threads, &e), 0);
    ck_assert_int_eq(fast_pool_threads(p), threads);
    static struct job j;
    memset(&j, 0, sizeof j);
    j.threads = threads;
    int32_t jobs = 3000, expect[PIECES] = {0};
    for (int32_t i = 0; i < jobs; i++) {
        int32_t n = i % 7 == 0 ? PIECES : i % 5;
        fast_pool_run(p, count, &j, n);
        for (int32_t k = 0; k < n; k++)
            expect[k]++;
        if (i % 100 == 0)
            for (int32_t k = 0; k < PIECES; k++)
                ck_assert_int_eq(j.ran[k], expect[k]);
    }
    ck_assert_int_eq(j.wrong_thread, 0);
    fast_pool_close(p);
}

START_TEST(test_one_thread_runs_each_piece_once)
{
    check_pool(1);
}
END_TEST

START_TEST(test_more_threads_than_processors_run_each_piece_once)
{
    check_pool(2);
    check_pool(5);
}
END_TEST

START_TEST(test_opening_and_closing_leaves_no_thread_behind)
{
    struct err e;
    for (int i = 0; i < 200; i++) {
        struct fast_pool *p;
        ck_assert_int_eq(fast_pool_open(&p, 3, &e), 0);
        fast_pool_close(p);
    }
    fast_pool_close(NULL);
}
END_TEST

UNIT_MAIN("cpu_fast_pool", test_one_thread_runs_each_piece_once, test_more_threads_than_processors_run_each_piece_once,
          test_opening_and_closing_leaves_no_thread_behind)
