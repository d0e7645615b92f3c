/* test_invariance - the bits of a logits row depend on that row's own past alone (house idea 9), through the whole
 * engine: not on the batch, chunks, threads, cache, preemption or block table. Every draw's logits are kept and
 * compared by memcmp.
 *
 * Runs on both CPU backends with made-up weights; each property also asserts that the situation it speaks of came
 * about.
 */
#include "tests/support/unit.h"

#include "engine/base/log.h"
#include "engine/base/rng.h"
#include "tests/support/hand_engine.h"

#include <string.h>

#define N_MOST   32
#define NEW_MOST 40

struct ask { /* a request and the logits of its draws */
    int32_t *prompt;
    uint32_t n_prompt, n_new;
    struct engine_sampling sampling;
    uint64_t id;
    float *logits; /* [n_new][vocab] */
    int32_t out[NEW_MOST];
    float logprob[NEW_MOST];
    uint32_t n_out, cached;
    bool done;
};

struct seen { /* what came about on the way */
    struct ask *asks;
    uint32_t n, most_decodes, mixed_steps;
    uint64_t preemptions;
};

struct setup {
    const char *isa;
    uint32_t threads, max_rows, block_tokens, format, n_blocks, ctx;
    uint8_t depth;
    bool no_cache;
};

static struct engine_config config_of(const struct setup *s)
{
    struct engine_config c = {.threads = s->threads,
                              .max_rows = s->max_rows ? s->max_rows : 128,
                              .max_seqs = s->max_rows && s->max_rows < 32 ? s->max_rows : 32,
                              .block_tokens = s->block_tokens ? s->block_tokens : 16,
                              .kv_format = s->format ? s->format : KV_FORMAT_KV16,
                              .ctx_tokens = s->ctx ? s->ctx : 512,
                              .max_queued_tokens = 1000000,
                              .step_ms = 1000,
                              .depth = s->depth,
                              .no_prefix_cache = s->no_cache,
                              .check = 1};
    strcpy(c.model, "random:tiny");
    strcpy(c.isa, s->isa);
    uint32_t n = s->n_blocks ? s->n_blocks : 2000;
    c.kv_bytes = (uint64_t)n * c.block_tokens * 2 * 2 * 2 * 16 * (c.kv_format == KV_FORMAT_KV32 ? 4 : 2);
    return c;
}

static void keep_rows(void *ctx, const struct loop *l, const struct plan *p, const float *logits)
{
    struct seen *seen = ctx;
    if (p->n_decode > seen->most_decodes)
        seen->most_decodes = p->n_decode;
    seen->mixed_steps += p->n_decode > 0 && p->n_decode < p->n_runs;
    for (uint32_t i = 0, row = 0; i < p->n_runs; i++) {
        const struct seq *q = l->sched.slots[p->runs[i].slot];
        if (!p->runs[i].n_draws)
            continue;
        uint32_t at = seq_planned(q) - q->n_prompt; /* which draw */
        for (uint32_t a = 0; a < seen->n; a++)
            if (seen->asks[a].id == q->req->id && at < seen->asks[a].n_new)
                memcpy(seen->asks[a].logits + (size_t)at * (size_t)l->m->vocab,
                       logits + (size_t)row * (size_t)l->m->vocab, (size_t)l->m->vocab * sizeof *logits);
        row += p->runs[i].n_draws;
    }
}

static void submit_ask(struct hand_engine *h, struct ask *a)
{
    struct engine_request r = {
        .prompt = a->prompt, .n_prompt = a->n_prompt, .max_tokens = a->n_new, .n = 1, .sampling = a->sampling};
    struct err e = {0};
    a->n_out = 0;
    a->done = false;
    memset(a->logits, 0xff, (size_t)a->n_new * 512 * sizeof(float));
    ck_assert_msg(engine_submit(h->front, &r, &a->id, &e) == 0, "%s", e.text);
}

static void take_events(struct hand_engine *h, struct seen *seen)
{
    struct engine_event ev;
    while (engine_poll(h->front, &ev))
        for (uint32_t i = 0; i < seen->n; i++) {
            struct ask *a = &seen->asks[i];
            if (a->id != ev.id || a->done)
                continue;
            ck_assert_msg(ev.type != ENGINE_FAILED, "%s", ev.text);
            for (uint32_t k = 0; ev.type == ENGINE_TOKENS && k < ev.n; k++) {
                a->logprob[a->n_out] = ev.logprobs ? ev.logprobs[k].logprob : 0;
                a->out[a->n_out++] = ev.tokens[k];
            }
            if (ev.type == ENGINE_DONE) {
                a->cached = ev.cached;
                a->done = true;
            }
        }
}

static bool all_done(const struct seen *seen)
{
    for (uint32_t i = 0; i < seen->n; i++)
        if (!seen->asks[i].done)
            return false;
    return true;
}

/* Run the asks: one after the other (solo), or all at once. `rounds` times over, in one engine. */
static void run(const struct setup *s, struct ask *asks, uint32_t n, bool solo, int rounds, struct seen *seen)
{
    struct engine_config c = config_of(s);
    struct machine m;
    struct hand_engine h;
    struct err e = {0};
    *seen = (struct seen){.asks = asks, .n = n};
    log_set_level(LOG_WARN);
    ck_assert_int_eq(hash_init_library(), 0);
    ck_assert_msg(machine_open(&m, &c, NULL, NULL, &e) == 0, "%s", e.text);
    hand_open(&h, &m);
    h.loop.trace = keep_rows;
    h.loop.trace_ctx = seen;
    for (; rounds > 0; rounds--) {
        for (uint32_t i = 0; i < n; i++)
            asks[i].done = solo;
        for (uint32_t i = 0; i < n; i++) {
            submit_ask(&h, &asks[i]);
            while (solo && !asks[i].done) {
                loop_turn(&h.loop);
                take_events(&h, seen);
            }
        }
        while (!all_done(seen)) {
            loop_turn(&h.loop);
            take_events(&h, seen);
        }
    }
    seen->preemptions = h.loop.sched.n_preempted;
    hand_close(&h);
    machine_close(&m);
}

static struct ask *make_asks(uint32_t n, uint64_t seed, uint32_t longest, uint32_t n_new)
{
    struct ask *asks = calloc(n, sizeof *asks);
    for (uint32_t i = 0; i < n; i++) {
        struct ask *a = &asks[i];
        a->n_prompt = 1 + (uint32_t)(rng_next(&seed) % longest);
        a->n_new = n_new;
        a->prompt = malloc(a->n_prompt * sizeof *a->prompt);
        a->logits = malloc((size_t)n_new * 512 * sizeof *a->logits);
        for (uint32_t j = 0; j < a->n_prompt; j++)
            a->prompt[j] = (int32_t)(rng_next(&seed) % 512);
        a->sampling = hand_greedy();
        if (i % 3 == 1)
            a->sampling = (struct engine_sampling){
                .temperature = 0.9f, .top_p = 0.95f, .top_k = 50, .repetition = 1, .n_logprobs = -1, .seed = 7 + i};
        if (i % 3 == 2)
            a->sampling = (struct engine_sampling){.temperature = 1,
                                                   .top_p = 1,
                                                   .min_p = 0.02f,
                                                   .repetition = 1.3f,
                                                   .presence = 0.4f,
                                                   .frequency = 0.2f,
                                                   .n_logprobs = 2,
                                                   .seed = 1000 + i};
    }
    return asks;
}

/* The same prompts again, with room for other logits. */
static struct ask *again(const struct ask *asks, uint32_t n)
{
    struct ask *more = calloc(n, sizeof *more);
    memcpy(more, asks, n * sizeof *more);
    for (uint32_t i = 0; i < n; i++)
        more[i].logits = malloc((size_t)more[i].n_new * 512 * sizeof *more[i].logits);
    return more;
}

static void free_again(struct ask *asks, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        free(asks[i].logits);
    free(asks);
}

static void free_asks(struct ask *asks, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        free(asks[i].prompt);
    free_again(asks, n);
}

static void check_equal(const struct ask *a, const struct ask *b, uint32_t n, const char *what)
{
    for (uint32_t i = 0; i < n; i++) {
        ck_assert_uint_eq(a[i].n_out, a[i].n_new);
        ck_assert_uint_eq(b[i].n_out, b[i].n_new);
        ck_assert_msg(memcmp(a[i].out, b[i].out, a[i].n_out * sizeof *a[i].out) == 0, "%s: tokens of request %u", what,
                      i);
        ck_assert_msg(memcmp(a[i].logprob, b[i].logprob, a[i].n_out * sizeof *a[i].logprob) == 0,
                      "%s: log probabilities of request %u", what, i);
        for (uint32_t t = 0; t < a[i].n_new; t++)
            ck_assert_msg(memcmp(a[i].logits + t * 512, b[i].logits + t * 512, 512 * sizeof(float)) == 0,
                          "%s: logits of request %u, token %u", what, i, t);
    }
}

static const char *const isas[] = {"ref", "auto"};

START_TEST(test_invariance_32_at_once_equal_each_alone)
{
    for (int k = 0; k < 2; k++) {
        struct seen seen;
        struct setup s = {.isa = isas[k], .threads = 1, .no_cache = true};
        struct ask *alone = make_asks(32, unit_seed("32 at once"), 60, 40), *together = again(alone, 32);
        run(&s, alone, 32, true, 1, &seen);
        ck_assert_uint_eq(seen.most_decodes, 1);
        s.n_blocks = 84; /* so that some are preempted */
        run(&s, together, 32, false, 1, &seen);
        printf("%s: most decodes in a step %u, mixed steps %u, preemptions %llu\n", isas[k], seen.most_decodes,
               seen.mixed_steps, (unsigned long long)seen.preemptions);
        ck_assert_uint_ge(seen.most_decodes, 16);
        ck_assert_uint_ge(seen.mixed_steps, 1);
        ck_assert_uint_ge(seen.preemptions, 1);
        check_equal(alone, together, 32, isas[k]);
        free_again(together, 32);
        free_asks(alone, 32);
    }
}
END_TEST

START_TEST(test_invariance_chunks_threads_and_formats_change_nothing)
{
    static const struct {
        uint32_t max_rows, threads;
    } ways[] = {{7, 1}, {16, 2}, {33, 3}, {128, 2}};
    for (int k = 0; k < 4; k++) {
        struct seen seen;
        struct setup s = {.isa = isas[k % 2], .threads = 1, .no_cache = true};
        s.format = k < 2 ? KV_FORMAT_KV16 : KV_FORMAT_KV32;
        struct ask *one = make_asks(9, unit_seed("chunks"), 200, 6), *other = again(one, 9);
        run(&s, one, 9, true, 1, &seen);
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
            s.max_rows = ways[w].max_rows;
            s.threads = ways[w].threads;
            run(&s, other, 9, false, 1, &seen);
            check_equal(one, other, 9, "chunks and threads");
        }
        free_again(other, 9);
        free_asks(one, 9);
    }
}
END_TEST

START_TEST(test_invariance_cache_on_equals_off)
{
    static const uint32_t sizes[] = {16, 32, 64, 128};
    for (int k = 0; k < 8; k++) {
        uint32_t bt = sizes[k / 2], ctx = 512;
        const uint32_t lengths[] = {1, 63, 64, 65, 127, 128, 129, ctx - 1};
        enum { N = sizeof lengths / sizeof *lengths };
        struct seen seen;
        struct setup s = {.isa = isas[k % 2], .threads = 2, .block_tokens = bt, .ctx = ctx, .no_cache = true};
        struct ask *off = make_asks(N, unit_seed("cache"), 1, 1), *on;
        for (uint32_t i = 0; i < N; i++) {
            off[i].n_prompt = lengths[i];
            off[i].prompt = realloc(off[i].prompt, lengths[i] * sizeof *off[i].prompt);
            for (uint32_t j = 0; j < lengths[i]; j++)
                off[i].prompt[j] = (int32_t)((j * 37 + i * 101 + j * j) % 512);
        }
        on = again(off, N);
        run(&s, off, N, true, 1, &seen);
        s.no_cache = false;
        run(&s, on, N, true, 2, &seen);
        for (uint32_t i = 0; i < N; i++) /* all full blocks, at least one token short of the prompt */
            ck_assert_uint_eq(on[i].cached, (lengths[i] - 1) / bt * bt);
        check_equal(off, on, N, "cache, one at a time");
        run(&s, on, N, false, 2, &seen);
        check_equal(off, on, N, "cache, all at once");
        free_again(on, N);
        free_asks(off, N);
    }
}
END_TEST

START_TEST(test_invariance_a_thousand_preemptions_change_nothing)
{
    for (int k = 0; k < 2; k++) {
        struct seen seen;
        struct setup s = {.isa = isas[k], .threads = 1, .no_cache = true};
        struct ask *calm = make_asks(N_MOST, unit_seed("preemptions"), 20, 24), *busy = again(calm, N_MOST);
        uint64_t total = 0, most = k == 0 ? 100 : 1000; /* cpu_ref is slow */
        run(&s, calm, N_MOST, true, 1, &seen);
        s.n_blocks = 4; /* a request needs up to 3 blocks of 16 */
        s.ctx = 48;
        s.no_cache = false;
        for (int rounds = 0; total < most && rounds < 100; rounds++) {
            run(&s, busy, N_MOST, false, 1, &seen);
            check_equal(calm, busy, N_MOST, "preemption");
            total += seen.preemptions;
        }
        printf("%s: preemptions %llu\n", isas[k], (unsigned long long)total);
        ck_assert_uint_ge(total, most);
        free_again(busy, N_MOST);
        free_asks(calm, N_MOST);
    }
}
END_TEST

START_TEST(test_invariance_two_steps_at_a_time_change_nothing)
{
    for (int k = 0; k < 2; k++) {
        struct seen seen;
        struct setup s = {.isa = isas[k], .threads = 2, .no_cache = true};
        struct ask *one = make_asks(24, unit_seed("two at a time"), 60, 30), *two = again(one, 24);
        run(&s, one, 24, false, 1, &seen);
        s.depth = 2;
        s.no_cache = false;
        s.n_blocks = 50;
        run(&s, two, 24, false, 2, &seen);
        printf("%s: most decodes in a step %u, mixed steps %u, preemptions %llu\n", isas[k], seen.most_decodes,
               seen.mixed_steps, (unsigned long long)seen.preemptions);
        ck_assert_uint_ge(seen.most_decodes, 8);
        ck_assert_uint_ge(seen.mixed_steps, 1);
        ck_assert_uint_ge(seen.preemptions, 1);
        check_equal(one, two, 24, isas[k]);
        free_again(two, 24);
        free_asks(one, 24);
    }
}
END_TEST

UNIT_MAIN("invariance", test_invariance_32_at_once_equal_each_alone,
          test_invariance_chunks_threads_and_formats_change_nothing, test_invariance_cache_on_equals_off,
          test_invariance_a_thousand_preemptions_change_nothing, test_invariance_two_steps_at_a_time_change_nothing)
