/* test_stall - the promise of the scheduler on a simulated clock: while a prompt of 100,000 tokens is prefilled,
 * another stream's tokens come at most 2 x step_ms apart (p99), and a short request that arrives meanwhile has its
 * first token within 10 x step_ms. */
#include "tests/support/unit.h"

#include "tests/support/fake_machine.h"
#include "tests/support/hand_engine.h"

#include <string.h>

#define STEP_MS 100
#define LONG    100000
#define SHORTS  20

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

struct watch {
    uint64_t stream, long_id, short_id[SHORTS];
    uint64_t last_ns, gaps[100000], sent_ns[SHORTS], ttft[SHORTS], long_first_ns;
    uint32_t n_gaps, n_shorts;
};

static void drain(struct hand_engine *h, struct watch *w)
{
    struct engine_event ev;
    while (engine_poll(h->front, &ev)) {
        ck_assert_int_ne(ev.type, ENGINE_FAILED);
        if (ev.type != ENGINE_TOKENS)
            continue;
        if (ev.id == w->stream) {
            if (w->last_ns)
                w->gaps[w->n_gaps++] = fake_now_ns - w->last_ns;
            w->last_ns = fake_now_ns;
        }
        if (ev.id == w->long_id && !w->long_first_ns)
            w->long_first_ns = fake_now_ns;
        for (uint32_t i = 0; i < w->n_shorts; i++)
            if (ev.id == w->short_id[i] && !w->ttft[i])
                w->ttft[i] = fake_now_ns - w->sent_ns[i];
    }
}

/* row_ns and pair_ns of a machine; returns when the long prompt has its first token. */
static void run(uint64_t row_ns, uint64_t pair_ns)
{
    static struct watch w;
    static int32_t prompt[LONG];
    struct engine_config c = {
        .block_tokens = 64, .max_rows = 512, .max_seqs = 64, .step_ms = STEP_MS, .ctx_tokens = 131072};
    struct fake_cost cost = {2000000, row_ns, pair_ns, true};
    struct machine m;
    struct hand_engine h;
    memset(&w, 0, sizeof w);
    for (int i = 0; i < LONG; i++)
        prompt[i] = i * 7 % FAKE_VOCAB;
    fake_machine_open(&m, &c, 4000, &cost);
    m.config.check = 0; /* walking 4,000 blocks each step is not what is looked at here */
    hand_open(&h, &m);
    w.stream = hand_submit(&h, prompt + 50, 100, 30000);
    for (int i = 0; i < 50; i++) {
        loop_turn(&h.loop);
        drain(&h, &w);
    }
    w.n_gaps = 0;
    w.long_id = hand_submit(&h, prompt, LONG, 8);
    for (uint64_t turn = 0; !w.long_first_ns; turn++) {
        if (turn % 20 == 10 && w.n_shorts < SHORTS) {
            w.sent_ns[w.n_shorts] = fake_now_ns;
            w.short_id[w.n_shorts++] = hand_submit(&h, prompt + 1000 + turn, 60, 4);
        }
        loop_turn(&h.loop);
        drain(&h, &w);
    }
    for (int i = 0; i < 20; i++) {
        loop_turn(&h.loop);
        drain(&h, &w);
    }
    qsort(w.gaps, w.n_gaps, sizeof *w.gaps, by_size);
    uint64_t p99 = w.gaps[w.n_gaps * 99 / 100], worst = 0;
    for (uint32_t i = 0; i < w.n_shorts; i++) {
        ck_assert_uint_gt(w.ttft[i], 0);
        worst = w.ttft[i] > worst ? w.ttft[i] : worst;
    }
    printf("row %llu ns, pair %llu ns: %u tokens meanwhile, gap p99 %.1f ms, worst TTFT of %u short ones %.1f ms\n",
           (unsigned long long)row_ns, (unsigned long long)pair_ns, w.n_gaps, (double)p99 / 1e6, w.n_shorts,
           (double)worst / 1e6);
    ck_assert_uint_gt(w.n_gaps, 100);
    ck_assert_uint_eq(w.n_shorts, SHORTS);
    ck_assert_uint_le(p99, 2 * STEP_MS * 1000000ull);
    ck_assert_uint_le(worst, 10 * STEP_MS * 1000000ull);
    hand_close(&h);
    fake_machine_close(&m);
}

START_TEST(test_stall_is_bounded_where_rows_cost_most)
{
    fake_clock_on();
    run(400000, 1);
}
END_TEST

START_TEST(test_stall_is_bounded_where_attention_costs_most)
{
    fake_clock_on();
    run(100000, 20);
}
END_TEST

UNIT_MAIN("stall", test_stall_is_bounded_where_rows_cost_most, test_stall_is_bounded_where_attention_costs_most)
