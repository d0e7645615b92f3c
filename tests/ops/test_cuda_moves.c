/* test_cuda_moves - blocks go up and down beside the steps: whole, in order with what was queued before, and with the
 * seals that the CPU makes of the same bytes. Prints what the link gives. */
#define OPS_CUDA
#include "tests/support/ops_trio.h"
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/base/sys.h"

#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define N     96
#define MOST  (8u << 20)   /* bytes of a block */
#define HOST  (2ull << 30) /* two pieces are pinned */
#define DEPTH 64

static uint64_t rng = 7;
static struct seal_key key;
static uint8_t *host, *pool;
static const struct backend_ops *ops;
static struct backend *be;
static int bell;

static void begin(struct ops_trio *t)
{
    struct err e = {0};
    uint8_t secret[32] = {1, 2, 3};
    ops = t->one.ops;
    be = t->one.be;
    seal_key_make(&key, secret);
    host = mmap(NULL, HOST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ck_assert(host != MAP_FAILED);
    pool = ops->alloc(be, N * (size_t)MOST);
    ck_assert_ptr_nonnull(pool);
    bell = sys.eventfd(0, 0);
    ck_assert_msg(ops->moves_open(be, &key, host, HOST, DEPTH, bell, &e) == 0, "%s", e.text);
}

static void end(void)
{
    ops->moves_close(be);
    ops->release(be, pool, N * (size_t)MOST);
    munmap(host, HOST);
    sys.close(bell);
}

/* Wait for the bell, then take what is done. It rings when a move is under way; without one, memory is being pinned. */
static uint32_t take(struct backend_move **out, uint32_t n, uint32_t sent)
{
    struct pollfd p = {.fd = bell, .events = POLLIN};
    uint64_t count;
    sys.poll(&p, 1, sent > n ? 10000 : 20);
    ck_assert_msg(p.revents || sent == n, "%u moves under way and no bell", sent - n);
    if (p.revents)
        ck_assert_int_eq(sys.read(bell, &count, sizeof count), sizeof count);
    for (struct backend_move *m = ops->moved(be); m; m = m->next)
        out[n++] = m;
    return n;
}

/* In each direction they are done in the order of the calls. */
static void expect_order(struct backend_move *const *done, uint32_t n)
{
    const struct backend_move *last[2] = {NULL, NULL};
    for (uint32_t i = 0; i < n; i++) {
        ck_assert(!last[done[i]->up] || done[i] > last[done[i]->up]);
        last[done[i]->up] = done[i];
    }
}

/* All of them, as fast as they go. Returns seconds. */
static double run(struct backend_move *m, uint32_t n)
{
    struct backend_move *done[4 * N];
    uint64_t from = sys.now_ns();
    for (uint32_t sent = 0, got = 0; got < n; got = take(done, got, sent))
        while (sent < n && ops->move(be, &m[sent]) == 0)
            sent++;
    uint64_t end = sys.now_ns();
    expect_order(done, n);
    return (double)(end - from) / 1e9;
}

static struct backend_move move_of(uint32_t block, uint64_t at, size_t bytes, bool up)
{
    return (struct backend_move){.device = pool + block * bytes, .host = host + at, .bytes = bytes, .up = up};
}

static void check_seal(const struct backend_move *m)
{
    struct seal want;
    seal_make(&key, m->host, m->bytes, &want);
    ck_assert_msg(seal_equal(&m->seal, &want), "%zu bytes, up %d", m->bytes, m->up);
}

static void check_sizes(struct ops_trio *t)
{
    static const size_t sizes[] = {8, 1016, 1024, 16384, 16384 + 520, 1 << 20};
    begin(t);
    for (size_t k = 0; k < (ops_small() ? 5 : sizeof sizes / sizeof *sizes); k++) {
        struct backend_move up[N], down[N];
        size_t bytes = sizes[k], step = (bytes + 4095) / 4096 * 4096;
        for (size_t i = 0; i < N * step; i++)
            host[i] = (uint8_t)(rng_next(&rng) >> 9);
        for (uint32_t i = 0; i < N; i++)
            up[i] = move_of(i, i * step, bytes, true);
        run(up, N);
        for (uint32_t i = 0; i < N; i++) {
            check_seal(&up[i]);
            down[i] = move_of(i, (1ull << 30) + i * step, bytes, false); /* another piece */
        }
        run(down, N);
        for (uint32_t i = 0; i < N; i++) {
            check_seal(&down[i]);
            ck_assert_mem_eq(up[i].host, down[i].host, bytes);
        }
    }
    end();
}

START_TEST(test_moves_bring_whole_blocks_and_the_seals_of_the_cpu)
{
    ops_on_each("moves", 1, check_sizes);
}
END_TEST

/* What the steps' stream writes before a move down is what arrives. */
static void check_order(struct ops_trio *t)
{
    enum { BYTES = 1 << 20 };
    struct backend_move m[2];
    begin(t);
    for (int round = 0; round < (ops_small() ? 3 : 40); round++) {
        memset(host, round + 1, BYTES);
        m[0] = move_of(0, 0, BYTES, true);
        run(m, 1);
        for (int i = 1; i < N; i++) /* from block to block, a hundred copies long */
            ops->copy(be, pool + i * BYTES, pool + (i - 1) * BYTES, BYTES);
        m[1] = move_of(N - 1, 2 * BYTES, BYTES, false);
        run(&m[1], 1);
        check_seal(&m[1]);
        ck_assert_mem_eq(host, host + 2 * BYTES, BYTES);
    }
    end();
}

START_TEST(test_a_move_down_has_what_was_queued_before_it)
{
    ops_on_each("moves, order", 1, check_order);
}
END_TEST

static void check_speed(struct ops_trio *t)
{
    static const size_t sizes[] = {1 << 20, 2 << 20, 4 << 20, MOST};
    begin(t);
    for (int k = 0; k < 4; k++) {
        size_t bytes = sizes[k];
        struct backend_move m[4 * N];
        double up = 1e9, down = 1e9, both = 1e9;
        memset(host, 1, (size_t)N * bytes);
        for (int round = 0; round < 3; round++) {
            for (uint32_t i = 0; i < 2 * N; i++)
                m[i] = move_of(i % N, (i % N) * bytes, bytes, true);
            double s = run(m, 2 * N);
            up = s < up ? s : up;
            for (uint32_t i = 0; i < 2 * N; i++)
                m[i].up = false;
            s = run(m, 2 * N);
            down = s < down ? s : down;
            for (uint32_t i = 0; i < 4 * N; i++)
                m[i] = move_of(i / 2 % N, (1ull << 30) * (i % 2) + (i / 2 % N) * bytes, bytes, i % 2);
            s = run(m, 4 * N);
            both = s < both ? s : both;
        }
        double gb = 2.0 * N * (double)bytes / 1e9;
        printf("moves of %zu MiB: up %.1f GB/s, down %.1f GB/s, both at once %.1f GB/s\n", bytes >> 20, gb / up,
               gb / down, 2 * gb / both);
    }
    end();
}

START_TEST(test_moves_go_as_fast_as_they_go)
{
    if (!ops_small())
        ops_on_each("moves, speed", 1, check_speed);
}
END_TEST

UNIT_MAIN("cuda moves", test_moves_bring_whole_blocks_and_the_seals_of_the_cpu,
          test_a_move_down_has_what_was_queued_before_it, test_moves_go_as_fast_as_they_go)
