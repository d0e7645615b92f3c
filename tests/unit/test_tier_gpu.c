/* test_tier_gpu - moves between the pool and DRAM over a backend that takes a few at a time: none down is lost, all go
 * on in their order; of those up the caller hears.
 */
#include "tests/support/unit.h"

#include "engine/kv/tier_gpu.h"

#include <errno.h>
#include <string.h>

#define N     100
#define BLOCK 64

/* -- a backend whose moves end when the test says so */

struct fake {
    const struct backend_ops *ops;
    uint32_t room, n; /* moves that it takes at a time; under way */
    struct backend_move *under_way[N], *done;
};

static int fake_moves_open(struct backend *be, const struct seal_key *key, void *host, size_t host_bytes,
                           uint32_t depth, int bell, struct err *e)
{
    return 0;
}

static void fake_moves_close(struct backend *be)
{
}

static int fake_move(struct backend *be, struct backend_move *m)
{
    struct fake *f = (struct fake *)(void *)be;
    if (f->n == f->room)
        return -EAGAIN;
    f->under_way[f->n++] = m;
    return 0;
}

/* The n oldest are done. */
static void fake_finish(struct fake *f, uint32_t n)
{
    struct backend_move **last = &f->done;
    ck_assert_uint_le(n, f->n);
    while (*last)
        last = &(*last)->next;
    for (uint32_t i = 0; i < n; i++) {
        f->under_way[i]->seal.v[0] = (uint64_t)(uintptr_t)f->under_way[i]->device;
        f->under_way[i]->next = NULL;
        *last = f->under_way[i];
        last = &f->under_way[i]->next;
    }
    f->n -= n;
    memmove(f->under_way, f->under_way + n, f->n * sizeof(f->under_way[0]));
}

static struct backend_move *fake_moved(struct backend *be)
{
    struct fake *f = (struct fake *)(void *)be;
    struct backend_move *done = f->done;
    f->done = NULL;
    return done;
}

static const struct backend_ops fake_ops = {
    .moves_open = fake_moves_open, .moves_close = fake_moves_close, .move = fake_move, .moved = fake_moved};

/* -- a tier over it */

static struct fake fake;
static uint8_t pool[4 * N * BLOCK], memory[N * BLOCK];
static struct tier_move moves[N];

static struct tier *open_tier(uint32_t room, uint32_t n_blocks)
{
    static struct seal_key key;
    struct tier_gpu_opts o = {
        .be = (struct backend *)&fake, .pool = pool, .block_bytes = BLOCK, .n_blocks = n_blocks, .key = &key};
    struct tier *t;
    struct err e = {0};
    fake = (struct fake){.ops = &fake_ops, .room = room};
    ck_assert_int_eq(tier_gpu_open(&t, &o, &e), 0);
    ck_assert_int_eq(tier_ops(t)->attach(t, memory, sizeof memory, -1, &e), 0);
    return t;
}

static int submit(struct tier *t, uint32_t i, enum tier_op op)
{
    moves[i] = (struct tier_move){.op = op, .slot = (int32_t)i, .mem = memory + i * BLOCK, .result = 1};
    return tier_ops(t)->submit(t, &moves[i]);
}

/* What a reap brings are moves from, from + 1 and so on. Returns how many. */
static uint32_t reap(struct tier *t, uint32_t from)
{
    uint32_t n = 0;
    for (struct tier_move *m = tier_ops(t)->reap(t); m; m = m->next, n++) {
        ck_assert_ptr_eq(m, &moves[from + n]);
        ck_assert_int_eq(m->result, 0);
        ck_assert_uint_eq(m->seal.v[0], (uint64_t)(uintptr_t)(pool + (from + n) * BLOCK));
    }
    return n;
}

START_TEST(test_moves_down_wait_for_room_and_go_on_in_their_order)
{
    struct tier *t = open_tier(3, 4 * N);
    uint32_t got = 0;
    for (uint32_t i = 0; i < N; i++)
        ck_assert_int_eq(submit(t, i, TIER_READ), 0);
    ck_assert_uint_eq(reap(t, 0), 0);
    for (uint32_t turn = 0; got < N; turn++) {
        ck_assert_uint_eq(fake.n, N - got < 3 ? N - got : 3); /* as many as there is room for, at each time */
        uint32_t n = 1 + turn % fake.n;
        fake_finish(&fake, n);
        ck_assert_uint_eq(reap(t, got), n);
        got += n;
    }
    ck_assert_uint_eq(fake.n, 0);
    tier_close(t);
}
END_TEST

START_TEST(test_a_move_down_does_not_overtake_one_that_waits)
{
    struct tier *t = open_tier(1, 4 * N);
    ck_assert_int_eq(submit(t, 0, TIER_READ), 0);
    ck_assert_int_eq(submit(t, 1, TIER_READ), 0);
    fake.room = 3; /* there is some now, but not for who comes last */
    ck_assert_int_eq(submit(t, 2, TIER_READ), 0);
    ck_assert_uint_eq(fake.n, 1);
    fake_finish(&fake, 1);
    ck_assert_uint_eq(reap(t, 0), 1);
    ck_assert_uint_eq(fake.n, 2);
    fake_finish(&fake, 2);
    ck_assert_uint_eq(reap(t, 1), 2);
    ck_assert_int_eq(submit(t, 3, TIER_READ), 0);
    ck_assert_int_eq(submit(t, 4, TIER_READ), 0);
    ck_assert_uint_eq(fake.n, 2); /* and none waits any more */
    fake_finish(&fake, 2);
    ck_assert_uint_eq(reap(t, 3), 2);
    tier_close(t);
}
END_TEST

START_TEST(test_of_moves_up_without_room_the_caller_hears)
{
    struct tier *t = open_tier(2, 4 * N);
    for (uint32_t i = 0; i < 2; i++)
        ck_assert_int_eq(submit(t, i, TIER_WRITE), 0);
    ck_assert_int_eq(submit(t, 2, TIER_WRITE), -EAGAIN);
    ck_assert_int_eq(submit(t, 2, TIER_READ), 0); /* waits */
    ck_assert_int_eq(submit(t, 3, TIER_WRITE), -EAGAIN);
    fake_finish(&fake, 2);
    ck_assert_uint_eq(reap(t, 0), 2);
    ck_assert_int_eq(submit(t, 3, TIER_WRITE), 0);
    fake_finish(&fake, 2);
    ck_assert_uint_eq(reap(t, 2), 2);
    tier_close(t);
}
END_TEST

START_TEST(test_what_waits_holds_a_quarter_of_the_pool_at_most)
{
    struct tier *t = open_tier(2, 40);
    for (uint32_t i = 0; i < 2 + 10; i++)
        ck_assert_int_eq(submit(t, i, TIER_READ), 0);
    ck_assert_int_eq(submit(t, 12, TIER_READ), -EAGAIN);
    fake_finish(&fake, 1);
    ck_assert_uint_eq(reap(t, 0), 1);
    ck_assert_int_eq(submit(t, 12, TIER_READ), 0);
    for (uint32_t got = 1, n; got < 13; got += n) {
        fake_finish(&fake, fake.n);
        n = reap(t, got);
        ck_assert_uint_gt(n, 0);
    }
    tier_close(t);
}
END_TEST

UNIT_MAIN("tier gpu", test_moves_down_wait_for_room_and_go_on_in_their_order,
          test_a_move_down_does_not_overtake_one_that_waits, test_of_moves_up_without_room_the_caller_hears,
          test_what_waits_holds_a_quarter_of_the_pool_at_most)
