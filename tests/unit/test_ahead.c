/* test_ahead - the loop with two steps queued at a time: the same tokens as with one, whatever ends, is cancelled,
 * forks or is preempted while its next step is under way; and nothing of a token beyond the end is seen or kept. */
#include "tests/support/unit.h"

#include "tests/support/engine_random.h"
#include "tests/support/fake_machine.h"
#include "tests/support/hand_engine.h"

#include <string.h>

START_TEST(test_ahead_gives_each_request_what_its_ids_determine)
{
    fake_clock_on();
    engine_random_run(&(struct engine_random){.seed = unit_seed("ahead, large pool"),
                                              .depth = 2,
                                              .stops = true,
                                              .n_blocks = 400,
                                              .n_requests = 800,
                                              .least_cached = 3000});
}
END_TEST

START_TEST(test_ahead_loses_no_token_when_it_preempts_all_the_time)
{
    fake_clock_on();
    engine_random_run(&(struct engine_random){.seed = unit_seed("ahead, small pool"),
                                              .depth = 2,
                                              .stops = true,
                                              .n_blocks = 26,
                                              .n_requests = 1500,
                                              .least_cached = 500,
                                              .least_preempted = 60});
}
END_TEST

START_TEST(test_ahead_frees_everything_when_requests_are_cancelled)
{
    fake_clock_on();
    engine_random_run(&(struct engine_random){.seed = unit_seed("ahead, cancels"),
                                              .depth = 2,
                                              .stops = true,
                                              .n_blocks = 30,
                                              .n_requests = 1500,
                                              .cancels = true,
                                              .vocab = 3,
                                              .least_cached = 500,
                                              .least_preempted = 20});
}
END_TEST

/* -- one request by hand */

struct rig {
    struct machine m;
    struct hand_engine h;
    uint32_t n_out;
    int32_t out[64], stop_id;
    enum engine_finish finish;
    bool done;
};

static void open_rig(struct rig *r)
{
    struct engine_config c = {.block_tokens = 16, .depth = 2};
    memset(r, 0, sizeof *r);
    fake_clock_on();
    fake_machine_open(&r->m, &c, 50, NULL);
    hand_open(&r->h, &r->m);
}

static void close_rig(struct rig *r)
{
    ck_assert_uint_eq(pool_n_used(r->h.loop.kv.pool), 0);
    hand_close(&r->h);
    fake_machine_close(&r->m);
}

static void turn(struct rig *r)
{
    struct engine_event ev;
    loop_turn(&r->h.loop);
    while (engine_poll(r->h.front, &ev)) {
        for (uint32_t i = 0; ev.type == ENGINE_TOKENS && i < ev.n; i++)
            r->out[r->n_out++] = ev.tokens[i];
        if (ev.type == ENGINE_CHOICE_DONE) {
            r->finish = ev.finish;
            r->stop_id = ev.stop_id;
        }
        r->done |= ev.type == ENGINE_DONE;
    }
}

static int32_t third_token(const int32_t *prompt, uint32_t n)
{
    int32_t ids[64];
    struct engine_sampling greedy = hand_greedy();
    memcpy(ids, prompt, n * sizeof *ids);
    for (int i = 0; i < 3; i++)
        ids[n + (uint32_t)i] = fake_expect(ids, n + (uint32_t)i, n, &greedy, 0);
    return ids[n + 2];
}

/* A prompt of 29 and a stop at the third token: that token's row, which was queued before it was seen, fills block 2.
 */
START_TEST(test_ahead_sees_a_stop_one_step_late_and_keeps_nothing_of_it)
{
    struct rig r;
    int32_t prompt[29], stop;
    struct err e = {0};
    uint64_t id;
    open_rig(&r);
    for (int i = 0; i < 29; i++)
        prompt[i] = (i * 7 + 3) % FAKE_VOCAB;
    stop = third_token(prompt, 29);
    struct engine_request q = {.prompt = prompt,
                               .n_prompt = 29,
                               .max_tokens = 20,
                               .n = 1,
                               .sampling = hand_greedy(),
                               .stop_ids = &stop,
                               .n_stop_ids = 1};
    ck_assert_int_eq(engine_submit(r.h.front, &q, &id, &e), 0);
    while (!r.done)
        turn(&r);
    ck_assert_uint_eq(r.n_out, 2);
    ck_assert_int_eq(r.finish, ENGINE_FINISH_STOP);
    ck_assert_int_eq(r.stop_id, stop);
    ck_assert_uint_eq(r.h.loop.n_flights, 1); /* the step with the stop's row is still out */
    ck_assert_uint_eq(atomic_load(&r.h.engine_side.head->status.generated_tokens), 2);
    ck_assert_uint_eq(prefix_n_entries(r.h.loop.kv.prefix), 1); /* of 32 rows, 31 are of tokens that count */
    turn(&r);
    ck_assert_uint_eq(r.h.loop.n_flights, 0);
    ck_assert_uint_eq(pool_n_limbo(r.h.loop.kv.pool), 0);
    ck_assert_uint_eq(r.n_out, 2);
    ck_assert_uint_eq(prefix_n_entries(r.h.loop.kv.prefix), 1);
    close_rig(&r);
}
END_TEST

START_TEST(test_ahead_draws_no_token_beyond_max_tokens)
{
    struct rig r;
    int32_t prompt[5] = {1, 2, 3, 4, 5};
    open_rig(&r);
    hand_submit(&r.h, prompt, 5, 4);
    while (!r.done)
        turn(&r);
    ck_assert_uint_eq(r.n_out, 4);
    ck_assert_uint_eq(r.h.loop.step, 4); /* prefill, three decodes, and none whose token nobody wants */
    ck_assert_uint_eq(r.h.loop.n_flights, 0);
    close_rig(&r);
}
END_TEST

START_TEST(test_ahead_closes_while_a_step_is_under_way)
{
    struct rig r;
    int32_t prompt[5] = {1, 2, 3, 4, 5};
    open_rig(&r);
    uint64_t id = hand_submit(&r.h, prompt, 5, 30);
    for (int i = 0; i < 5; i++)
        turn(&r);
    engine_cancel(r.h.front, id);
    turn(&r);
    ck_assert(r.done);
    ck_assert_int_eq(r.finish, ENGINE_FINISH_CANCELLED);
    hand_submit(&r.h, prompt, 5, 30);
    turn(&r);
    ck_assert_uint_gt(r.h.loop.n_flights, 0);
    hand_close(&r.h);
    fake_machine_close(&r.m);
}
END_TEST

UNIT_MAIN("ahead", test_ahead_gives_each_request_what_its_ids_determine,
          test_ahead_loses_no_token_when_it_preempts_all_the_time,
          test_ahead_frees_everything_when_requests_are_cancelled,
          test_ahead_sees_a_stop_one_step_late_and_keeps_nothing_of_it, test_ahead_draws_no_token_beyond_max_tokens,
          test_ahead_closes_while_a_step_is_under_way)
