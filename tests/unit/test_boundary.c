/* test_boundary - the segment between two processes that map it at different addresses; and headers that lie. */
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "tests/support/fake_machine.h"
#include "tests/support/hand_engine.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct boundary_sizes sizes = {1 << 14, 1 << 15, 1 << 20};

/* The child: the engine's side, over a mapping that the kernel has to put elsewhere. */
static void engine_side(const struct boundary *front)
{
    struct engine_config c = front->head->config;
    struct machine m;
    struct loop l;
    struct boundary b;
    struct err e;
    void *in_the_way = mmap(NULL, 64 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int ok = in_the_way != MAP_FAILED && hash_init_library() == 0 &&
             boundary_attach(&b, dup(front->memfd), dup(front->wake_engine), dup(front->wake_front), &e) == 0;
    if (!ok || (void *)b.head == (void *)front->head)
        _exit(3);
    fake_machine_open(&m, &c, 40, NULL);
    if (loop_open(&l, &b, &m, &e) != 0)
        _exit(4);
    b.head->status.vocab = m.vocab;
    atomic_store(&b.head->status.state, ENGINE_READY);
    loop_run(&l);
    loop_close(&l);
    boundary_close(&b);
    _exit(0);
}

START_TEST(test_boundary_works_between_two_processes_at_two_addresses)
{
    struct engine_config c = {.block_tokens = 16};
    struct hand_engine h;
    struct err e = {0};
    memset(&h, 0, sizeof h);
    struct engine *g = calloc(1, sizeof *g);
    g->generation = 1;
    g->config = c;
    g->epoll = -1;
    g->spawn.pidfd = -1;
    g->spawn.running = true;
    ck_assert_msg(boundary_create(&g->b, &c, 1, &sizes, &e) == 0, "%s", e.text);
    ck_assert_int_eq(extent_init(&g->arena, g->b.arena_bytes), 0);
    pid_t child = fork();
    if (child == 0)
        engine_side(&g->b);
    ck_assert_int_gt(child, 0);
    h.front = g;
    for (int turn = 0; turn < 20; turn++) {
        int32_t ids[200];
        uint32_t n = 30 + (uint32_t)turn * 5, n_out = 0;
        for (uint32_t i = 0; i < n; i++)
            ids[i] = (int32_t)(i * 13 + (uint32_t)turn) % FAKE_VOCAB;
        uint64_t id = hand_submit(&h, ids, n, 20);
        struct engine_event ev;
        struct engine_sampling greedy = hand_greedy();
        for (bool done = false; !done;) {
            struct pollfd p = {.fd = g->b.wake_front, .events = POLLIN};
            ck_assert_int_eq(poll(&p, 1, 20000), 1);
            while (engine_poll(g, &ev)) {
                ck_assert_uint_eq(ev.id, id);
                for (uint32_t i = 0; ev.type == ENGINE_TOKENS && i < ev.n; i++) {
                    ck_assert_int_eq(ev.tokens[i], fake_expect(ids, n + n_out, n, &greedy, 0));
                    ids[n + n_out++] = ev.tokens[i];
                }
                done |= ev.type == ENGINE_DONE;
            }
        }
        ck_assert_uint_eq(n_out, 20);
    }
    ck_assert_uint_eq(g->arena.used, 0);
    struct msg_head quit = {sizeof quit, MSG_VERSION, MSG_QUIT, 0, 1, 0};
    ck_assert_int_eq(ring_push(&g->b.in, &quit, sizeof quit), 0);
    boundary_wake(g->b.wake_engine);
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "engine side: status %d", status);
    g->spawn.running = false;
    engine_close(g);
}
END_TEST

START_TEST(test_boundary_refuses_headers_that_lie)
{
    static const struct {
        size_t at;
        uint64_t value;
        size_t bytes;
    } lies[] = {
        {offsetof(struct boundary_head, magic), 1, 8},
        {offsetof(struct boundary_head, version), 99, 4},
        {offsetof(struct boundary_head, head_bytes), 8, 4},
        {offsetof(struct boundary_head, total_bytes), 1ull << 40, 8},
        {offsetof(struct boundary_head, in_at), UINT64_MAX - 100, 8},
        {offsetof(struct boundary_head, in_at), 0, 8},
        {offsetof(struct boundary_head, in_cap), 3 << 14, 8},
        {offsetof(struct boundary_head, in_cap), 1ull << 63, 8},
        {offsetof(struct boundary_head, out_at), 4097, 8},
        {offsetof(struct boundary_head, out_cap), 1 << 30, 8},
        {offsetof(struct boundary_head, arena_at), 1ull << 62, 8},
        {offsetof(struct boundary_head, arena_bytes), UINT64_MAX, 8},
    };
    struct engine_config c = {0};
    for (size_t i = 0; i <= sizeof lies / sizeof *lies; i++) {
        struct boundary b, other;
        struct err e = {0};
        ck_assert_int_eq(boundary_create(&b, &c, 1, &sizes, &e), 0);
        if (i < sizeof lies / sizeof *lies)
            memcpy((uint8_t *)b.head + lies[i].at, &lies[i].value, lies[i].bytes);
        int ret = boundary_attach(&other, dup(b.memfd), dup(b.wake_engine), dup(b.wake_front), &e);
        ck_assert_int_eq(ret, i < sizeof lies / sizeof *lies ? -EPROTO : 0);
        if (ret == 0)
            boundary_close(&other);
        boundary_close(&b);
    }
    struct boundary b;
    struct err e = {0};
    ck_assert_int_eq(boundary_attach(&b, memfd_create("empty", 0), -1, -1, &e), -EINVAL);
}
END_TEST

START_TEST(test_boundary_submit_layout_never_overflows)
{
    uint64_t rng = unit_seed("submit layout");
    static const uint64_t hostile[] = {0,         1, 63, 1u << 31, UINT32_MAX, 1ull << 32, 1ull << 62, UINT64_MAX - 7,
                                       UINT64_MAX};
    for (int i = 0; i < 100000; i++) {
        struct msg_submit m = {.n_prompt = hostile[rng_next(&rng) % 9] + rng_next(&rng) % 3,
                               .n_stop = (uint32_t)hostile[rng_next(&rng) % 9],
                               .n_bias = (uint32_t)hostile[rng_next(&rng) % 9],
                               .n = (uint32_t)hostile[rng_next(&rng) % 9],
                               .has_given = (uint32_t)(rng_next(&rng) % 2),
                               .bytes = rng_next(&rng) % (1 << 20)};
        struct msg_submit_layout at;
        if (!msg_submit_layout(&m, &at))
            continue;
        ck_assert_uint_le(at.given, m.bytes);
        ck_assert(at.prompt <= at.stop && at.stop <= at.bias && at.bias <= at.given_n && at.given_n <= at.given);
        ck_assert_uint_ge(at.stop - at.prompt, 4 * m.n_prompt);
    }
}
END_TEST

UNIT_MAIN("boundary", test_boundary_works_between_two_processes_at_two_addresses,
          test_boundary_refuses_headers_that_lie, test_boundary_submit_layout_never_overflows)
