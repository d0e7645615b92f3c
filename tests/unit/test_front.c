/* test_front - what the front believes of an engine that lies, and what becomes of requests whose engines die.
 *
 * The engines that die are processes of this program over the fake machine.
 */
#include "tests/support/unit.h"

#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "tests/support/fake_machine.h"
#include "tests/support/hand_engine.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static struct machine m;
static struct hand_engine h;

/* An engine like a process: nonsense ends it. No new one is to be had, so the front gives up then. */
static void begin(void)
{
    struct engine_config c = {.block_tokens = 16};
    fake_machine_open(&m, &c, 40, NULL);
    hand_open(&h, &m);
    h.front->mode = ENGINE_MODE_EXEC;
    h.front->spawn.mode = ENGINE_MODE_THREAD; /* nothing to reap or kill */
}

static void end(void)
{
    h.loop.quit = true;
    hand_close(&h);
    fake_machine_close(&m);
}

static struct boundary_status *status(void)
{
    return &h.engine_side.head->status;
}

static uint64_t submit(int32_t n_logprobs)
{
    static const int32_t prompt[] = {1, 2, 3};
    struct engine_request r = {.prompt = prompt, .n_prompt = 3, .max_tokens = 5, .n = 1, .sampling = hand_greedy()};
    struct err e = {0};
    uint64_t id;
    r.sampling.n_logprobs = n_logprobs;
    ck_assert_msg(engine_submit(h.front, &r, &id, &e) == 0, "%s", e.text);
    return id;
}

/* The engine says: one token, `id`, with `top` as an alternative. */
static void say_token(uint64_t request, int32_t id, int32_t top)
{
    uint8_t msg[sizeof(struct msg_tokens) + sizeof id + sizeof(struct engine_logprob)];
    struct msg_tokens m = {{sizeof msg, MSG_VERSION, MSG_TOKENS, request, 1, 0}, 1, 1};
    struct engine_logprob lp = {.n_top = 1, .top = {{.id = top}}};
    memcpy(msg, &m, sizeof m);
    memcpy(msg + sizeof m, &id, sizeof id);
    memcpy(msg + sizeof m + sizeof id, &lp, sizeof lp);
    ck_assert_int_eq(ring_push(&h.engine_side.out, msg, sizeof msg), 0);
}

static void say_stop(uint64_t request, int32_t stop_id)
{
    struct msg_choice_done msg = {
        {sizeof msg, MSG_VERSION, MSG_CHOICE_DONE, request, 1, 0}, ENGINE_FINISH_STOP, stop_id};
    ck_assert_int_eq(ring_push(&h.engine_side.out, &msg, sizeof msg), 0);
}

/* What the engine said is not handed on, and the engine is ended. */
static void expect_distrust(uint64_t request)
{
    struct engine_event ev;
    log_set_level(LOG_ERROR - 1);
    atomic_store(&status()->state, ENGINE_DEAD);
    ck_assert_int_eq(engine_poll(h.front, &ev), 1);
    ck_assert(ev.type == ENGINE_FAILED && ev.id == request);
    ck_assert(h.front->dead && engine_poll(h.front, &ev) == 0);
}

START_TEST(test_an_engine_that_moves_its_vocabulary_widens_nothing)
{
    static const int32_t beyond[] = {FAKE_VOCAB, FAKE_VOCAB + 5, INT32_MAX};
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++)
        for (int where = 0; where < 3; where++) {
            begin();
            uint64_t id = submit(1);
            status()->vocab = INT32_MAX;
            if (where == 0)
                say_token(id, beyond[i], 0);
            else if (where == 1)
                say_token(id, 0, beyond[i]);
            else
                say_stop(id, beyond[i]);
            expect_distrust(id);
            end();
        }
}
END_TEST

START_TEST(test_what_an_engine_said_when_it_was_ready_holds)
{
    struct engine_stats before, after;
    struct engine_event ev;
    begin();
    engine_get_stats(h.front, &before);
    ck_assert_int_eq(before.vocab, FAKE_VOCAB);
    uint64_t id = submit(1);
    status()->vocab = 0;
    status()->ctx_tokens = status()->n_blocks = status()->block_tokens = 7;
    status()->kv_bytes = 7;
    memset(status()->device, 'x', sizeof status()->device);
    atomic_store(&status()->used_blocks, UINT64_MAX);
    atomic_store(&status()->cached_blocks, UINT64_MAX);
    engine_get_stats(h.front, &after);
    ck_assert(after.vocab == before.vocab && after.ctx_tokens == before.ctx_tokens &&
              after.kv_bytes == before.kv_bytes);
    ck_assert(after.n_blocks == before.n_blocks && after.block_tokens == before.block_tokens);
    ck_assert_str_eq(after.device, before.device);
    ck_assert(after.used_blocks + after.cached_blocks <= after.n_blocks);
    say_token(id, FAKE_VOCAB - 1, FAKE_VOCAB - 1);
    ck_assert(engine_poll(h.front, &ev) == 1 && ev.type == ENGINE_TOKENS && ev.tokens[0] == FAKE_VOCAB - 1);
    end();
}
END_TEST

START_TEST(test_an_engine_that_says_something_before_it_is_ready_is_not_believed)
{
    begin();
    uint64_t id = submit(1);
    h.front->ready = (struct front_ready){0};
    atomic_store(&status()->state, ENGINE_LOADING);
    say_token(id, 0, 0);
    expect_distrust(id);
    end();
}
END_TEST

START_TEST(test_a_new_engine_with_another_vocabulary_is_not_believed)
{
    static const int32_t vocabs[] = {FAKE_VOCAB + 1, FAKE_VOCAB - 1, 0, -1};
    struct engine_stats st;
    for (size_t i = 0; i < sizeof vocabs / sizeof *vocabs; i++) {
        struct engine_event ev;
        begin();
        submit(1);
        h.front->generation++;
        status()->vocab = vocabs[i];
        engine_get_stats(h.front, &st);
        ck_assert(st.state == ENGINE_LOADING && st.vocab == FAKE_VOCAB);
        h.front->started_ns[RESTARTS_MAX - 1] = sys.now_ns(); /* as many as are allowed: it gives up */
        log_set_level(LOG_ERROR - 1);
        ck_assert(engine_poll(h.front, &ev) == 1 && ev.type == ENGINE_FAILED && h.front->dead);
        end();
    }
}
END_TEST

/* -- engines that die */

#define LONG 1900 /* tokens: more than come without a credit, so that no request ends by itself */

/* Before main: this process may be an engine. */
__attribute__((constructor)) static void be_engine(int argc, char **argv)
{
    struct boundary b;
    struct loop l;
    struct err e;
    if (argc < 2 || strcmp(argv[1], "--engine-child") != 0)
        return;
    if (hash_init_library() != 0 || boundary_attach(&b, 3, 4, 5, &e) != 0)
        _exit(3);
    struct engine_config c = b.head->config;
    fake_machine_open(&m, &c, 1000, NULL);
    if (loop_open(&l, &b, &m, &e) != 0)
        _exit(4);
    b.head->status.vocab = m.vocab;
    atomic_store(&b.head->status.state, ENGINE_READY);
    boundary_wake(b.wake_front);
    loop_run(&l);
    _exit(0);
}

struct heard {
    uint64_t id;
    uint32_t n, n_at_death;
    int32_t ids[4 + LONG]; /* the prompt, too */
    bool done;
    enum engine_failure failed;
};

static struct engine *g;
static struct heard heard[3];

static uint64_t restarts(void)
{
    struct engine_stats st;
    engine_get_stats(g, &st);
    return st.restarts;
}

static void hear(const struct engine_event *ev)
{
    struct heard *r = &heard[0];
    while (r->id != ev->id)
        r++;
    if (ev->type == ENGINE_TOKENS) {
        ck_assert(!r->failed && !r->done && r->n + ev->n <= LONG);
        memcpy(r->ids + 4 + r->n, ev->tokens, ev->n * 4);
        r->n += ev->n;
    } else if (ev->type == ENGINE_FAILED) {
        r->failed = ev->failure;
    } else if (ev->type == ENGINE_DONE) {
        r->done = true;
    }
}

/* Poll until `enough`. */
static void listen_until(bool (*enough)(void))
{
    struct engine_event ev;
    for (;;) {
        while (engine_poll(g, &ev))
            hear(&ev);
        if (enough())
            return;
        struct pollfd p = {.fd = engine_fd(g), .events = POLLIN};
        ck_assert_int_eq(poll(&p, 1, 20000), 1);
    }
}

static void ask(struct heard *r, int32_t first)
{
    struct engine_request q = {.prompt = r->ids, .n_prompt = 4, .max_tokens = LONG, .n = 1, .sampling = hand_greedy()};
    struct err e = {0};
    q.sampling.n_logprobs = 0;
    for (int32_t i = 0; i < 4; i++)
        r->ids[i] = first + i;
    ck_assert_msg(engine_submit(g, &q, &r->id, &e) == 0, "%s", e.text);
}

static void start_engine(void)
{
    struct engine_config c = {.block_tokens = 16};
    struct err e = {0};
    log_set_level(LOG_ERROR - 1);
    ck_assert_int_eq(hash_init_library(), 0);
    ck_assert_msg(engine_open(&g, &c, ENGINE_MODE_EXEC, NULL, &e) == 0, "%s", e.text);
}

static bool all_talk(void)
{
    for (int i = 0; i < 3; i++)
        if (heard[i].id && !heard[i].failed && !heard[i].done && heard[i].n == heard[i].n_at_death)
            return false;
    return true;
}

/* The engine dies after it has said something new of every request; what it had said is heard. */
static void kill_engine(void)
{
    listen_until(all_talk);
    ck_assert_int_eq(kill(engine_pid(g), SIGKILL), 0);
    uint64_t before = restarts();
    for (struct pollfd p = {.fd = engine_fd(g), .events = POLLIN}; restarts() == before;) {
        struct engine_event ev;
        ck_assert_int_eq(poll(&p, 1, 20000), 1);
        while (engine_poll(g, &ev))
            hear(&ev);
    }
    for (int i = 0; i < 3; i++)
        heard[i].n_at_death = heard[i].n;
}

static bool all_are_done(void)
{
    return heard[0].done && heard[1].done;
}

/* The whole request or its only choice; in both cases its client wants no more. */
START_TEST(test_what_was_cancelled_stays_cancelled_in_a_new_engine)
{
    start_engine();
    ask(&heard[0], 10);
    ask(&heard[1], 20);
    listen_until(all_talk);
    ck_assert_int_eq(kill(engine_pid(g), SIGSTOP), 0); /* it does not hear of it */
    engine_cancel(g, heard[0].id);
    engine_cancel_choice(g, heard[1].id, 0);
    ck_assert_int_eq(kill(engine_pid(g), SIGKILL), 0);
    listen_until(all_are_done);
    ck_assert_uint_eq(restarts(), 1);
    ck_assert(heard[0].n < LONG && heard[1].n < LONG);
    engine_close(g);
}
END_TEST

static bool last_is_done(void)
{
    engine_credit(g, heard[2].id, 0, heard[2].n);
    return heard[2].done;
}

START_TEST(test_a_request_that_two_engines_died_with_fails_and_the_others_go_on)
{
    struct engine_sampling greedy = hand_greedy();
    start_engine();
    ask(&heard[0], 10);
    kill_engine();
    ask(&heard[1], 20); /* not there at the first death */
    ck_assert(!heard[0].failed);
    kill_engine();
    ck_assert_int_eq(heard[0].failed, ENGINE_FAIL_DIED);
    ck_assert(!heard[1].failed);
    ask(&heard[2], 30);
    listen_until(all_talk); /* the second one goes on */
    listen_until(last_is_done);
    ck_assert(!heard[1].failed && !heard[2].failed && heard[2].n == LONG && restarts() == 2);
    for (uint32_t r = 0; r < 3; r++)
        for (uint32_t i = 0; i < heard[r].n; i += 50)
            ck_assert_int_eq(heard[r].ids[4 + i], fake_expect(heard[r].ids, 4 + i, 4, &greedy, 0));
    engine_close(g);
}
END_TEST

UNIT_MAIN("front", test_an_engine_that_moves_its_vocabulary_widens_nothing,
          test_what_an_engine_said_when_it_was_ready_holds,
          test_an_engine_that_says_something_before_it_is_ready_is_not_believed,
          test_a_new_engine_with_another_vocabulary_is_not_believed,
          test_what_was_cancelled_stays_cancelled_in_a_new_engine,
          test_a_request_that_two_engines_died_with_fails_and_the_others_go_on)
