/* test_engine - the engine whole over the fake machine: what comes out is what the ids alone determine, whatever the
 * batch, the chunks, the cache, forks, preemption and cancels did on the way; and a block that lies is seen. */
#include "tests/support/unit.h"

#include "tests/support/engine_random.h"
#include "tests/support/fake_machine.h"
#include "tests/support/hand_engine.h"

#include <string.h>

START_TEST(test_engine_gives_each_request_what_its_ids_determine)
{
    fake_clock_on();
    engine_random_run(&(struct engine_random){
        .seed = unit_seed("large pool"), .n_blocks = 400, .n_requests = 800, .least_cached = 3000});
}
END_TEST

START_TEST(test_engine_loses_no_token_when_it_preempts_all_the_time)
{
    fake_clock_on();
    engine_random_run(&(struct engine_random){.seed = unit_seed("small pool"),
                                              .n_blocks = 30,
                                              .n_requests = 1500,
                                              .least_cached = 500,
                                              .least_preempted = 100});
}
END_TEST

START_TEST(test_engine_frees_everything_when_requests_are_cancelled)
{
    fake_clock_on();
    engine_random_run(&(struct engine_random){.seed = unit_seed("cancels"),
                                              .n_blocks = 40,
                                              .n_requests = 1500,
                                              .cancels = true,
                                              .least_cached = 400,
                                              .least_preempted = 20});
}
END_TEST

/* Tokens of one greedy request; *cached of its prompt. */
static uint32_t ask(struct hand_engine *h, const int32_t *prompt, uint32_t n, uint32_t max_tokens, int32_t *out,
                    uint32_t *cached)
{
    struct engine_event ev;
    uint32_t n_out = 0;
    uint64_t id = hand_submit(h, prompt, n, max_tokens);
    for (bool done = false; !done;) {
        loop_turn(&h->loop);
        while (engine_poll(h->front, &ev)) {
            ck_assert_uint_eq(ev.id, id);
            for (uint32_t i = 0; ev.type == ENGINE_TOKENS && i < ev.n; i++)
                out[n_out++] = ev.tokens[i];
            if (ev.type == ENGINE_DONE) {
                *cached = ev.cached;
                done = true;
            }
        }
    }
    return n_out;
}

START_TEST(test_engine_tests_see_a_wrong_block)
{
    struct engine_config c = {.block_tokens = 16};
    struct machine m;
    struct hand_engine h;
    int32_t prompt[100], first[20], second[20], third[20];
    uint32_t cached;
    fake_clock_on();
    fake_machine_open(&m, &c, 50, NULL);
    hand_open(&h, &m);
    for (int i = 0; i < 100; i++)
        prompt[i] = i * 31 % FAKE_VOCAB;
    ck_assert_uint_eq(ask(&h, prompt, 100, 20, first, &cached), 20);
    ck_assert_uint_eq(cached, 0);
    ck_assert_uint_eq(ask(&h, prompt, 100, 20, second, &cached), 20);
    ck_assert_uint_eq(cached, 96);
    ck_assert_mem_eq(first, second, sizeof first);
    for (uint32_t b = 0; b < 50; b++) /* one bit of every cached block: what was planted must be noticed */
        ((uint8_t *)m.pool)[b * m.layout.block_bytes + 40] ^= 1;
    ck_assert_uint_eq(ask(&h, prompt, 100, 20, third, &cached), 20);
    ck_assert_uint_eq(cached, 96);
    ck_assert_mem_ne(first, third, sizeof first);
    hand_close(&h);
    fake_machine_close(&m);
}
END_TEST

START_TEST(test_engine_pauses_a_request_whose_log_probabilities_are_not_taken)
{
    struct engine_config c = {.block_tokens = 16, .ctx_tokens = 4096};
    struct fake_cost cost = {.skim = true};
    struct machine m;
    struct hand_engine h;
    struct err e = {0};
    struct engine_event ev;
    int32_t prompt[4] = {1, 2, 3, 4};
    uint32_t got = 0, most = ENGINE_CREDIT + 300;
    uint64_t id;
    fake_clock_on();
    fake_machine_open(&m, &c, 300, &cost);
    m.config.check = 0;
    hand_open(&h, &m);
    struct engine_request r = {.prompt = prompt, .n_prompt = 4, .max_tokens = most, .n = 1, .sampling = hand_greedy()};
    r.sampling.n_logprobs = 1;
    ck_assert_int_eq(engine_submit(h.front, &r, &id, &e), 0);
    for (uint32_t turn = 0; turn < 2 * most; turn++) {
        loop_turn(&h.loop);
        while (engine_poll(h.front, &ev))
            got += ev.type == ENGINE_TOKENS ? ev.n : 0;
    }
    ck_assert_uint_eq(got, ENGINE_CREDIT); /* it waits, and holds its blocks */
    int32_t other[20];
    uint32_t cached;
    ck_assert_uint_eq(ask(&h, prompt + 1, 3, 20, other, &cached), 20); /* others go on */
    engine_credit(h.front, id, 0, 100);
    for (uint32_t turn = 0; turn < 2 * most; turn++) {
        loop_turn(&h.loop);
        while (engine_poll(h.front, &ev))
            got += ev.type == ENGINE_TOKENS ? ev.n : 0;
    }
    ck_assert_uint_eq(got, ENGINE_CREDIT + 100);
    engine_credit(h.front, id, 0, ENGINE_CREDIT);
    for (bool done = false; !done;) {
        loop_turn(&h.loop);
        while (engine_poll(h.front, &ev)) {
            got += ev.type == ENGINE_TOKENS ? ev.n : 0;
            done |= ev.type == ENGINE_DONE;
        }
    }
    ck_assert_uint_eq(got, most);
    hand_close(&h);
    fake_machine_close(&m);
}
END_TEST

UNIT_MAIN("engine", test_engine_pauses_a_request_whose_log_probabilities_are_not_taken,
          test_engine_gives_each_request_what_its_ids_determine,
          test_engine_loses_no_token_when_it_preempts_all_the_time,
          test_engine_frees_everything_when_requests_are_cancelled, test_engine_tests_see_a_wrong_block)
