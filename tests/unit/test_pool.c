/* test_pool - the block pool against a model that knows each block's holders and the step that frees it. */
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/kv/pool.h"

#include <errno.h>
#include <string.h>

#define N 50

START_TEST(test_pool_gives_nothing_when_short)
{
    struct pool *p;
    int32_t got[N + 1];
    ck_assert_int_eq(pool_open(&p, N), 0);
    ck_assert_int_eq(pool_take(p, N + 1, got), -ENOMEM);
    ck_assert_uint_eq(pool_n_free(p), N);
    ck_assert_int_eq(pool_take(p, N, got), 0);
    ck_assert_int_eq(pool_take(p, 1, got), -ENOMEM);
    pool_check(p);
    pool_close(p);
}
END_TEST

START_TEST(test_pool_frees_a_block_when_its_last_step_has_finished)
{
    struct pool *p;
    int32_t b[2];
    ck_assert_int_eq(pool_open(&p, 2), 0);
    ck_assert_int_eq(pool_take(p, 2, b), 0);
    ck_assert(!pool_drop(p, b[0], 7));
    ck_assert_uint_eq(pool_n_limbo(p), 1);
    pool_finish(p, 6);
    ck_assert_uint_eq(pool_n_free(p), 0);
    pool_finish(p, 7);
    ck_assert_uint_eq(pool_n_free(p), 1);
    pool_set_cached(p, b[1], true, 7);
    ck_assert(pool_drop(p, b[1], 8)); /* cached: idle, not free */
    ck_assert_uint_eq(pool_n_idle(p), 1);
    pool_ref(p, b[1]);
    ck_assert_uint_eq(pool_n_idle(p), 0);
    pool_set_cached(p, b[1], false, 7);
    pool_drop(p, b[1], 7); /* that step is over: there may never be another to wait for */
    ck_assert_uint_eq(pool_n_free(p), 2);
    pool_close(p);
}
END_TEST

START_TEST(test_pool_agrees_with_its_model)
{
    uint64_t rng = unit_seed("pool"), step = 1, finished = 0;
    uint32_t refs[N] = {0};
    bool cached[N] = {0};
    uint64_t limbo[N] = {0}; /* step + 1 while in limbo */
    struct pool *p;
    ck_assert_int_eq(pool_open(&p, N), 0);
    for (int i = 0; i < 100000; i++) {
        uint32_t what = (uint32_t)(rng_next(&rng) % 6);
        int32_t b = (int32_t)(rng_next(&rng) % N), got[8];
        uint32_t n = 1 + (uint32_t)(rng_next(&rng) % 8), n_free = 0;
        for (int j = 0; j < N; j++)
            n_free += !refs[j] && !cached[j] && !limbo[j];
        ck_assert_uint_eq(pool_n_free(p), n_free);
        if (what == 0) {
            int ret = pool_take(p, n, got);
            ck_assert_int_eq(ret, n <= n_free ? 0 : -ENOMEM);
            for (uint32_t j = 0; ret == 0 && j < n; j++) {
                ck_assert(!refs[got[j]] && !cached[got[j]] && !limbo[got[j]]);
                refs[got[j]] = 1;
            }
        } else if (what == 1 && (refs[b] || cached[b])) {
            pool_ref(p, b);
            refs[b]++;
        } else if (what <= 3 && refs[b]) {
            bool idle = pool_drop(p, b, step);
            ck_assert(idle == (--refs[b] == 0 && cached[b]));
            if (!refs[b] && !cached[b] && step > finished)
                limbo[b] = step + 1;
        } else if (what == 4 && (refs[b] || cached[b])) {
            pool_set_cached(p, b, !cached[b], step);
            cached[b] = !cached[b];
            if (!refs[b] && !cached[b] && step > finished)
                limbo[b] = step + 1;
        } else if (what == 5) {
            step++;
            finished += rng_next(&rng) % (step - finished + 1);
            pool_finish(p, finished);
            for (int j = 0; j < N; j++)
                if (limbo[j] && limbo[j] - 1 <= finished)
                    limbo[j] = 0;
        }
        if (i % 64 == 0)
            pool_check(p);
    }
    pool_close(p);
}
END_TEST

UNIT_MAIN("pool", test_pool_gives_nothing_when_short, test_pool_frees_a_block_when_its_last_step_has_finished,
          test_pool_agrees_with_its_model)
