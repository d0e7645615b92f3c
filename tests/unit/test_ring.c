/* test_ring - messages come out whole, in order, across threads; hostile counters and lengths are refused.
 *
 * Check writes to a pipe at each assertion: loops count what is wrong, and one assertion follows.
 */
#include "tests/support/unit.h"

#include "engine/base/ring.h"
#include "engine/base/rng.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#define CAP 1024

static struct ring *new_ring(struct ring *r)
{
    ring_attach(r, calloc(1, ring_shared_bytes(CAP)), CAP);
    ck_assert_ptr_nonnull(r->shared);
    return r;
}

START_TEST(test_ring_gives_back_what_was_pushed_in_order)
{
    struct ring r;
    uint64_t seed = unit_seed("ring"), in = seed, out = seed, n_in = 0, n_out = 0;
    uint8_t msg[CAP], got[CAP];
    int n_wrong = 0;
    new_ring(&r);
    for (int i = 0; i < 100000 && n_wrong == 0; i++) {
        if (rng_next(&seed) & 1) {
            uint64_t keep = in;
            size_t n = 1 + rng_next(&in) % 200;
            for (size_t j = 0; j < n; j++)
                msg[j] = (uint8_t)rng_next(&in);
            if (ring_push(&r, msg, n) == 0)
                n_in++;
            else
                in = keep;
        } else {
            ptrdiff_t n = ring_pop(&r, got, sizeof got);
            n_wrong += (n == 0) != (n_in == n_out);
            if (n == 0)
                continue;
            n_wrong += n != (ptrdiff_t)(1 + rng_next(&out) % 200);
            for (ptrdiff_t j = 0; j < n; j++)
                n_wrong += got[j] != (uint8_t)rng_next(&out);
            n_out++;
        }
    }
    ck_assert_msg(n_wrong == 0, "%d wrong after %llu messages", n_wrong, (unsigned long long)n_out);
    ck_assert_uint_gt(n_out, 10000);
    free(r.shared);
}
END_TEST

START_TEST(test_ring_refuses_what_can_never_fit_and_what_does_not_fit_now)
{
    struct ring r;
    uint8_t msg[CAP] = {0};
    new_ring(&r);
    ck_assert_int_eq(ring_push(&r, msg, 0), -EMSGSIZE);
    ck_assert_int_eq(ring_push(&r, msg, CAP / 2 + 1), -EMSGSIZE);
    ck_assert_int_eq(ring_push(&r, msg, CAP / 2), 0);
    ck_assert_int_eq(ring_push(&r, msg, CAP / 2), -EAGAIN);
    ck_assert_int_eq(ring_pop(&r, msg, 100), -EMSGSIZE); /* stays */
    ck_assert_int_eq(ring_pop(&r, msg, sizeof msg), CAP / 2);
    ck_assert_int_eq(ring_push(&r, msg, CAP / 2), 0);
    free(r.shared);
}
END_TEST

START_TEST(test_ring_calls_nonsense_nonsense)
{
    struct ring r;
    uint8_t buf[CAP];
    uint64_t rng = unit_seed("hostile ring");
    int n_wrong = 0;
    new_ring(&r);
    atomic_store(&r.shared->head, 4096);
    ck_assert_int_eq(ring_pop(&r, buf, sizeof buf), -EBADMSG); /* more than fits */
    atomic_store(&r.shared->head, 12);
    ck_assert_int_eq(ring_pop(&r, buf, sizeof buf), -EBADMSG); /* not a multiple of 8 */
    atomic_store(&r.shared->head, 16);
    memset(r.shared->bytes, 0xff, 4);
    ck_assert_int_eq(ring_pop(&r, buf, sizeof buf), -EBADMSG); /* a length of 4 GiB */
    memset(r.shared->bytes, 0, 4);
    ck_assert_int_eq(ring_pop(&r, buf, sizeof buf), -EBADMSG); /* a length of nothing */
    for (int i = 0; i < 1000; i++) {                           /* any bytes at all: never out of bounds (sanitizers) */
        for (int j = 0; j < CAP; j += 8) {
            uint64_t v = rng_next(&rng) & (rng_next(&rng) & 1 ? 0xff : UINT64_MAX);
            memcpy(r.shared->bytes + j, &v, 8);
        }
        atomic_store(&r.shared->head, rng_next(&rng) % 2048);
        atomic_store(&r.shared->tail, rng_next(&rng) % 2048);
        n_wrong += ring_pop(&r, buf, sizeof buf) > CAP / 2;
    }
    ck_assert_int_eq(n_wrong, 0);
    free(r.shared);
}
END_TEST

static void *produce(void *arg)
{
    struct ring *r = arg;
    for (uint32_t i = 0; i < 20000;) {
        uint32_t msg[8] = {i, i, i, i, i, i, i, i};
        if (ring_push(r, msg, 4 + 4 * (i % 8)) == 0)
            i++;
        else
            sched_yield();
    }
    return NULL;
}

START_TEST(test_ring_crosses_threads)
{
    struct ring r, side;
    pthread_t t;
    uint32_t msg[8], n_wrong = 0;
    new_ring(&r);
    ring_attach(&side, r.shared, CAP);
    ck_assert_int_eq(pthread_create(&t, NULL, produce, &side), 0);
    for (uint32_t i = 0; i < 20000;) {
        ptrdiff_t n = ring_pop(&r, msg, sizeof msg);
        if (n == 0) {
            sched_yield();
            continue;
        }
        n_wrong += n != 4 + 4 * (i % 8);
        for (ptrdiff_t j = 0; j < n / 4; j++)
            n_wrong += msg[j] != i;
        i++;
    }
    pthread_join(t, NULL);
    ck_assert_uint_eq(n_wrong, 0);
    free(r.shared);
}
END_TEST

UNIT_MAIN("ring", test_ring_gives_back_what_was_pushed_in_order,
          test_ring_refuses_what_can_never_fit_and_what_does_not_fit_now, test_ring_calls_nonsense_nonsense,
          test_ring_crosses_threads)
