/* test_cuda_deterministic - engines in deterministic mode on the GPU: what a request is answered depends on it alone.
 *
 * Each draw's logits and each token are, by memcmp, those of an engine without a cache that runs one request at a time,
 * a prompt a step: beside others, in small chunks, where others' need of blocks preempts it, where the beginning of its
 * prompt is cached (prompt or answer of another), and where that lies in DRAM or on a drive. For bfloat16 weights and
 * 16-bit KV, for 8-bit KV, and for weights in 8 bits.
 *
 * What the mode is for is printed beside it: how far a hit's logits are from a cold prompt's without it.
 *
 * With HEARTH_SMALL set (sanitizers) a tiny model answers a few requests, and the rest is left out.
 */
#include "tests/support/mini_engine.h"
#include "tests/support/ops_trio.h"
#include "tests/support/tier_rig.h"
#include "tests/support/unit.h"

#include "engine/base/log.h"
#include "engine/base/rng.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#define CTX        1024
#define SMOL_VOCAB 49152
#define TINY_VOCAB 512

/* A request, and what came of it. */
struct ask {
    int32_t prompt[CTX], out[CTX];
    uint32_t n_prompt, n_new, n_out, cached;
    float temperature;
    uint64_t id;
    bool done;
    float *logits; /* [n_new][vocab] of each draw */
};

struct asks {
    struct ask *a;
    uint32_t n, n_new;
    size_t vocab;
};

static struct asks *now; /* of the engine that runs */

/* -- the library, where machine_open looks for it ---------------------------------------------------------------- */

/* The ops, or NULL and a line SKIP; the library is made to lie beside this program, too. */
static const struct backend_ops *gpu(const char *test)
{
    const struct backend_ops *ops = ops_cuda(test);
    char exe[PATH_MAX], path[PATH_MAX + 64];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    ck_assert_int_gt(n, 0);
    exe[n] = 0;
    snprintf(path, sizeof path, "%s/libhearth_cuda.so", dirname(exe));
    ck_assert(!ops || symlink("../../libhearth_cuda.so", path) == 0 || errno == EEXIST);
    return ops;
}

/* -- asking ------------------------------------------------------------------------------------------------------ */

static void asks_open(struct asks *s, uint32_t n, uint32_t n_new, size_t vocab)
{
    *s = (struct asks){.a = calloc(n, sizeof *s->a), .n = n, .n_new = n_new, .vocab = vocab};
    ck_assert_ptr_nonnull(s->a);
    for (uint32_t i = 0; i < n; i++) {
        s->a[i].n_new = n_new;
        s->a[i].logits = calloc(n_new * vocab, sizeof(float));
        ck_assert_ptr_nonnull(s->a[i].logits);
    }
}

static void asks_close(struct asks *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        free(s->a[i].logits);
    free(s->a);
}

/* The same requests, not yet answered. */
static void asks_copy(struct asks *to, const struct asks *from)
{
    asks_open(to, from->n, from->n_new, from->vocab);
    for (uint32_t i = 0; i < from->n; i++) {
        memcpy(to->a[i].prompt, from->a[i].prompt, sizeof to->a[i].prompt);
        to->a[i].n_prompt = from->a[i].n_prompt;
        to->a[i].temperature = from->a[i].temperature;
    }
}

static void keep_logits(void *ctx, const struct loop *l, const struct plan *p, const float *logits)
{
    for (uint32_t i = 0, row = 0; i < p->n_runs; row += p->runs[i++].n_draws) {
        const struct seq *q = l->sched.slots[p->runs[i].slot];
        uint32_t draw = seq_planned(q) - q->n_prompt;
        for (uint32_t k = 0; p->runs[i].n_draws && k < now->n; k++)
            if (now->a[k].id == q->req->id && draw < now->n_new)
                backend_ops(l->m->be)->download(l->m->be, now->a[k].logits + draw * now->vocab,
                                                logits + row * now->vocab, now->vocab * sizeof *logits);
    }
}

static void submit(struct hand_engine *h, struct ask *a)
{
    struct engine_request r = {.prompt = a->prompt, .n_prompt = a->n_prompt, .max_tokens = a->n_new, .n = 1};
    struct err e = {0};
    r.sampling = hand_greedy();
    r.sampling.temperature = a->temperature;
    r.sampling.seed = a->n_prompt;
    ck_assert_msg(engine_submit(h->front, &r, &a->id, &e) == 0, "%s", e.text);
}

static uint32_t take_events(struct hand_engine *h)
{
    struct engine_event ev;
    uint32_t n_done = 0;
    while (engine_poll(h->front, &ev))
        for (uint32_t i = 0; i < now->n; i++) {
            struct ask *a = &now->a[i];
            if (a->id != ev.id || a->done)
                continue;
            ck_assert_msg(ev.type != ENGINE_FAILED, "%s", ev.text);
            for (uint32_t k = 0; ev.type == ENGINE_TOKENS && k < ev.n; k++)
                a->out[a->n_out++] = ev.tokens[k];
            if (ev.type == ENGINE_DONE) {
                a->cached = ev.cached;
                a->done = true;
                n_done++;
            }
        }
    return n_done;
}

/* Requests [from, from + n) together, to their ends. */
static void serve(struct hand_engine *h, uint32_t from, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        submit(h, &now->a[from + i]);
    for (uint32_t n_done = 0; n_done < n; n_done += take_events(h))
        loop_turn(&h->loop);
}

struct run {
    struct machine m;
    struct hand_engine h;
};

static void run_open(struct run *r, const struct engine_config *c, struct asks *s)
{
    struct err e = {0};
    ck_assert_int_eq(hash_init_library(), 0);
    ck_assert_msg(machine_open(&r->m, c, NULL, NULL, &e) == 0, "%s", e.text);
    hand_open(&r->h, &r->m);
    r->h.loop.trace = keep_logits;
    ck_assert_uint_eq((size_t)r->m.vocab, s->vocab);
    now = s;
}

static void run_close(struct run *r)
{
    hand_close(&r->h);
    machine_close(&r->m);
}

static void expect_equal(const char *what, const struct asks *got, const struct asks *want)
{
    for (uint32_t i = 0; i < want->n; i++) {
        const struct ask *g = &got->a[i], *w = &want->a[i];
        ck_assert_uint_eq(g->n_prompt, w->n_prompt);
        ck_assert_mem_eq(g->prompt, w->prompt, sizeof w->prompt);
        ck_assert_uint_eq(w->n_out, want->n_new);
        ck_assert_uint_eq(g->n_out, want->n_new);
        for (uint32_t k = 0; k < want->n_new; k++) {
            size_t at = k * want->vocab;
            ck_assert_msg(memcmp(g->logits + at, w->logits + at, want->vocab * sizeof(float)) == 0,
                          "%s: request %u (%u tokens, %u cached), draw %u: other logits", what, i, w->n_prompt,
                          g->cached, k);
            ck_assert_msg(g->out[k] == w->out[k], "%s: request %u, token %u: %d, must be %d", what, i, k, g->out[k],
                          w->out[k]);
        }
    }
}

/* -- company, chunks, preemption, hits --------------------------------------------------------------------------- */

enum { N_NEW = 36, BT = 16 };

static const uint32_t lengths[] = {1, 7, 8, 9, 16, 33, 64, 65, 127, 129, 255, 500};

static struct engine_config config_of(const char *model, uint32_t format, bool fp8, bool deterministic)
{
    struct engine_config c = {.max_rows = 512,
                              .max_seqs = 64,
                              .block_tokens = BT,
                              .kv_format = format,
                              .fp8_weights = fp8,
                              .ctx_tokens = CTX,
                              .kv_bytes = 256 << 20,
                              .max_queued_tokens = 1000000,
                              .step_ms = 1000,
                              .deterministic = deterministic,
                              .no_prefix_cache = 1};
    snprintf(c.model, sizeof c.model, "%s", model);
    strcpy(c.backend, "cuda");
    return c;
}

static void make_asks(struct asks *s, uint32_t n, size_t vocab, uint64_t seed)
{
    asks_open(s, n, N_NEW, vocab);
    for (uint32_t i = 0; i < s->n; i++) {
        struct ask *a = &s->a[i];
        a->n_prompt = lengths[i % (sizeof lengths / sizeof *lengths)];
        a->temperature = i % 2 ? 1 : 0;
        for (uint32_t k = 0; k < a->n_prompt; k++)
            a->prompt[k] = (int32_t)(rng_next(&seed) % vocab);
    }
}

/* One at a time, each prompt in a step. */
static void run_alone(const struct engine_config *c, struct asks *s)
{
    struct run r;
    run_open(&r, c, s);
    for (uint32_t i = 0; i < s->n; i++)
        serve(&r.h, i, 1);
    run_close(&r);
}

/* All together; returns how often one was preempted. */
static uint64_t run_together(const struct engine_config *c, struct asks *s)
{
    struct run r;
    run_open(&r, c, s);
    serve(&r.h, 0, s->n);
    uint64_t preempted = r.h.loop.sched.n_preempted;
    run_close(&r);
    return preempted;
}

static void check_together(const char *what, const struct engine_config *c, const struct asks *want, uint64_t preempted)
{
    struct asks s;
    asks_copy(&s, want);
    uint64_t n = run_together(c, &s);
    printf("%s: %llu preempted\n", what, (unsigned long long)n);
    expect_equal(what, &s, want);
    ck_assert_uint_ge(n, preempted);
    asks_close(&s);
}

/* Each prompt with its answer, and the beginning of another behind it. */
static void make_more(struct asks *s, const struct asks *before)
{
    const uint32_t n = before->n;
    asks_open(s, n, N_NEW, before->vocab);
    for (uint32_t i = 0; i < n; i++) {
        const struct ask *from = &before->a[i], *other = &before->a[(i + 5) % n];
        struct ask *a = &s->a[i];
        memcpy(a->prompt, from->prompt, sizeof a->prompt);
        memcpy(a->prompt + from->n_prompt, from->out, N_NEW * sizeof *a->prompt);
        a->n_prompt = from->n_prompt + N_NEW;
        a->temperature = from->temperature;
        for (uint32_t k = 0; k < other->n_prompt && k < 1 + i * 7; k++)
            a->prompt[a->n_prompt++] = other->prompt[k];
    }
}

/* Those of `first`, all together, then those of `more`, in an engine with a cache. */
static void run_hits(const struct engine_config *cold, struct asks *first, struct asks *more)
{
    struct engine_config c = *cold;
    struct run r;
    c.no_prefix_cache = 0;
    run_open(&r, &c, first);
    serve(&r.h, 0, first->n);
    now = more;
    serve(&r.h, 0, more->n);
    run_close(&r);
}

/* Continued, requests find what they have left before, answers too. */
static void check_hits(const struct engine_config *c, const struct asks *alone)
{
    struct asks want, got, first;
    uint64_t least = 0, cached = 0;
    make_more(&want, alone);
    asks_copy(&got, &want);
    asks_copy(&first, alone);
    run_alone(c, &want);
    run_hits(c, &first, &got);
    for (uint32_t i = 0; i < alone->n; i++) {
        cached += got.a[i].cached;
        least += (alone->a[i].n_prompt + N_NEW - 1) / BT * BT;
    }
    printf("hits: %llu tokens cached, %llu at least\n", (unsigned long long)cached, (unsigned long long)least);
    expect_equal("before hits", &first, alone);
    expect_equal("hits", &got, &want);
    ck_assert_uint_ge(cached, least);
    asks_close(&want);
    asks_close(&got);
    asks_close(&first);
}

/* A model, and the bytes of a number in its KV. */
static void check_model(const char *test, uint32_t format, uint64_t bytes, bool fp8)
{
    const char *model = ops_small() ? "random:tiny" : "random:smollm2-135m";
    const uint64_t block = BT * 2 * bytes * (ops_small() ? 2 * 2 * 16 : 30 * 3 * 64);
    struct asks alone;
    if (!gpu(test) || (fp8 && ops_small()))
        return;
    struct engine_config c = config_of(model, format, fp8, true);
    log_set_level(LOG_ERROR);
    make_asks(&alone, ops_small() ? 5 : 12, ops_small() ? TINY_VOCAB : SMOL_VOCAB, unit_seed(test));
    run_alone(&c, &alone);
    c.max_rows = 64;
    check_together("in chunks", &c, &alone, 0);
    c.max_seqs = c.max_rows = 5;
    if (!ops_small())
        check_together("in chunks of five", &c, &alone, 0);
    c.max_rows = 512, c.max_seqs = 64;
    c.kv_bytes = 36 * block;
    c.ctx_tokens = 36 * BT;
    check_together("with few blocks", &c, &alone, ops_small() ? 0 : 1);
    c = config_of(model, format, fp8, true);
    check_hits(&c, &alone);
    asks_close(&alone);
}

START_TEST(test_answers_depend_on_their_request_alone)
{
    check_model("answers_depend_on_their_request_alone", KV_FORMAT_KV16, 2, false);
}
END_TEST

START_TEST(test_answers_over_8_bit_kv_depend_on_their_request_alone)
{
    check_model("answers_over_8_bit_kv_depend_on_their_request_alone", KV_FORMAT_KV8, 1, false);
}
END_TEST

START_TEST(test_answers_of_8_bit_weights_depend_on_their_request_alone)
{
    check_model("answers_of_8_bit_weights_depend_on_their_request_alone", KV_FORMAT_KV16, 2, true);
}
END_TEST

/* -- a long prompt ----------------------------------------------------------------------------------------------- */

enum { LONG = 8192, LONG_OUT = 48, LONG_ROWS = 2048, LONG_VOCAB = 128256 };

/* In steps of `chunk` tokens, the last LONG_OUT in steps of `last`; their logits. */
static float *long_logits(struct mini *m, const int32_t *ids, int32_t chunk, int32_t last)
{
    float *out = malloc((size_t)LONG_OUT * LONG_VOCAB * sizeof *out);
    ck_assert_ptr_nonnull(out);
    mini_reset(m, 0);
    for (int32_t at = 0, n, done = 0; at < LONG; at += n) {
        int32_t end = at < LONG - LONG_OUT && last < chunk ? LONG - LONG_OUT : LONG, most = end < LONG ? chunk : last;
        n = end - at < most ? end - at : most;
        int32_t from = LONG - LONG_OUT - at > n ? n : LONG - LONG_OUT - at > 0 ? LONG - LONG_OUT - at : 0;
        mini_add(m, 0, ids + at, n, from);
        memcpy(out + (size_t)done * LONG_VOCAB, mini_run(m), (size_t)(n - from) * LONG_VOCAB * sizeof *out);
        done += n - from;
    }
    return out;
}

/* Its keys lie in several parts, which one CTA computes in turn where there are many tiles, and several where not. */
START_TEST(test_a_long_prompt_gives_the_same_bits_in_any_chunks)
{
    static const int32_t chunks[][2] = {{1000, 1000}, {100, 100}, {LONG_ROWS, 1}, {LONG_ROWS, 7}};
    const char *test = "a_long_prompt_gives_the_same_bits_in_any_chunks";
    struct mini_opts o = {.source = "random:llama-1b",
                          .backend = ops_cuda(test),
                          .format = KV_FORMAT_KV16,
                          .max_rows = LONG_ROWS,
                          .max_out = LONG_OUT,
                          .ctx = LONG,
                          .shuffle = 1,
                          .deterministic = true};
    struct mini *m;
    struct err e = {0};
    int32_t ids[LONG];
    uint64_t seed;
    if (!o.backend || ops_small())
        return;
    seed = unit_seed(test);
    ck_assert_msg(mini_open(&m, &o, &e) == 0, "%s", e.text);
    for (int32_t i = 0; i < LONG; i++)
        ids[i] = (int32_t)(rng_next(&seed) % LONG_VOCAB);
    float *want = long_logits(m, ids, LONG_ROWS, LONG_ROWS);
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        float *got = long_logits(m, ids, chunks[i][0], chunks[i][1]);
        for (int32_t k = 0; k < LONG_OUT; k++)
            ck_assert_msg(
                !memcmp(got + (size_t)k * LONG_VOCAB, want + (size_t)k * LONG_VOCAB, LONG_VOCAB * sizeof *got),
                "chunks of %d, then %d: other logits at %d", chunks[i][0], chunks[i][1], LONG - LONG_OUT + k);
        free(got);
    }
    free(want);
    mini_close(m);
}
END_TEST

/* -- without the mode -------------------------------------------------------------------------------------------- */

/* The largest difference of a log probability between the first draws of two runs of a request. */
static double apart(const struct ask *a, const struct ask *b, size_t vocab)
{
    double sum[2] = {0}, most = 0;
    const float *x[2] = {a->logits, b->logits};
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < vocab; i++)
            sum[k] += exp((double)x[k][i]);
    for (size_t i = 0; i < vocab; i++)
        most = fmax(most, fabs(((double)x[0][i] - log(sum[0])) - ((double)x[1][i] - log(sum[1]))));
    return most;
}

/* Hits and cold prompts of an engine that is not deterministic: told, and no further apart than rounding makes them. */
START_TEST(test_a_hit_is_near_a_cold_prompt_without_the_mode)
{
    const char *test = "a_hit_is_near_a_cold_prompt_without_the_mode";
    struct engine_config c = config_of("random:smollm2-135m", KV_FORMAT_KV16, false, false);
    struct asks alone, first, cold, hit;
    uint32_t alike = 0, cached = 0;
    double most = 0, mean = 0;
    if (!gpu(test) || ops_small())
        return;
    log_set_level(LOG_ERROR);
    make_asks(&alone, 12, SMOL_VOCAB, unit_seed(test));
    run_alone(&c, &alone);
    make_more(&cold, &alone);
    asks_copy(&hit, &cold);
    asks_copy(&first, &alone);
    run_alone(&c, &cold);
    for (uint32_t i = 0; i < alone.n; i++) /* what was answered when alone is what is continued */
        memcpy(first.a[i].prompt, cold.a[i].prompt, sizeof first.a[i].prompt);
    run_hits(&c, &first, &hit);
    for (uint32_t i = 0; i < cold.n; i++) {
        double d = apart(&cold.a[i], &hit.a[i], SMOL_VOCAB);
        alike += memcmp(cold.a[i].out, hit.a[i].out, N_NEW * sizeof *cold.a[i].out) == 0;
        cached += hit.a[i].cached;
        mean += d / cold.n;
        most = fmax(most, d);
    }
    printf("not deterministic: %u of %u answers alike, %u tokens cached; largest difference of a log probability of a "
           "first token: %.4f, mean over requests %.4f\n",
           alike, cold.n, cached, most, mean);
    ck_assert_uint_gt(cached, 0);
    ck_assert_double_gt(most, 0);
    ck_assert_double_lt(mean, 0.5);
    asks_close(&alone), asks_close(&first), asks_close(&cold), asks_close(&hit);
}
END_TEST

/* -- tiers ------------------------------------------------------------------------------------------------------- */

enum { SESSIONS = 64, TURN_CTX = 256, TURN_NEW = 4, TURN_BT = 64 };

#define TINY_BLOCK(bytes) ((uint64_t)(2 * 2 * 2 * 16 * TURN_BT * (bytes)))

/* The next turn of a session: what was said, and something new; or a new session when it would be too long. */
static void make_turn(struct ask *a, const struct ask *before, uint64_t *rng)
{
    uint32_t n_more = 1 + (uint32_t)(rng_next(rng) % 60);
    if (before && before->n_prompt + TURN_NEW + n_more + TURN_NEW <= TURN_CTX) {
        memcpy(a->prompt, before->prompt, before->n_prompt * sizeof *a->prompt);
        memcpy(a->prompt + before->n_prompt, before->out, TURN_NEW * sizeof *a->prompt);
        a->n_prompt = before->n_prompt + TURN_NEW;
    } else { /* one of a few beginnings, as of system prompts */
        uint32_t kind = (uint32_t)(rng_next(rng) % 6);
        for (a->n_prompt = 0; a->n_prompt < 70; a->n_prompt++)
            a->prompt[a->n_prompt] = (int32_t)((a->n_prompt * 37 + kind * 101) % TINY_VOCAB);
    }
    for (uint32_t i = 0; i < n_more; i++)
        a->prompt[a->n_prompt++] = (int32_t)(rng_next(rng) % TINY_VOCAB);
}

static void settle(struct run *r)
{
    struct tiers *t = r->h.loop.kv.tiers;
    do
        loop_turn(&r->h.loop);
    while (t && tiers_busy(t));
}

/* The bytes of every second content in DRAM become those of the one before, which are no less whole. Returns how many.
 */
static uint32_t plant(struct tiers *t)
{
    int32_t from = -1;
    uint32_t n = 0;
    for (int32_t slot = 0; slot < (int32_t)t->dram.n_slots; slot++) {
        int32_t item = t->dram_item[slot];
        if (item < 0 || t->items[item].in_dram != COPY_READY || t->items[item].pins > 0)
            continue;
        if (from < 0) {
            from = slot;
            continue;
        }
        memcpy(tier_dram_at(&t->dram, slot), tier_dram_at(&t->dram, from), t->slot_bytes);
        from = -1;
        n++;
    }
    return n;
}

/* All rounds of all sessions; wrong blocks are planted between rounds where there are tiers. */
static void run_sessions(const struct engine_config *c, struct asks *s, uint64_t seed, struct tiers_stats *stats,
                         uint64_t cached[TIER_COUNT], uint32_t *planted)
{
    struct run r;
    run_open(&r, c, s);
    struct tiers *t = r.h.loop.kv.tiers;
    for (uint32_t round = 0; round < s->n / SESSIONS; round++) {
        struct asks turn = {s->a + round * SESSIONS, SESSIONS, s->n_new, s->vocab};
        now = &turn;
        for (uint32_t i = 0; i < SESSIONS; i++)
            make_turn(&turn.a[i], round ? &turn.a[i] - SESSIONS : NULL, &seed);
        settle(&r);
        if (t && round % 2 == 1)
            *planted += plant(t);
        serve(&r.h, 0, SESSIONS);
    }
    settle(&r);
    memcpy(cached, r.h.loop.kv.cached_tokens, sizeof r.h.loop.kv.cached_tokens);
    if (t)
        tiers_get_stats(t, stats);
    run_close(&r);
}

static void check_tiers(const char *test, uint32_t format, uint32_t bytes, uint32_t rounds)
{
    struct engine_config c = config_of("random:tiny", format, false, true);
    struct tiers_stats stats = {0};
    struct asks off, on;
    uint64_t in[TIER_COUNT], none[TIER_COUNT], seed, caught = 0, block = TINY_BLOCK(bytes);
    uint32_t planted = 0;
    if (!gpu(test) || ops_small())
        return;
    seed = unit_seed(test);
    log_set_level(LOG_ERROR);
    c.block_tokens = TURN_BT;
    c.ctx_tokens = TURN_CTX;
    c.max_rows = 256;
    c.kv_bytes = 400 * block;
    asks_open(&off, rounds * SESSIONS, TURN_NEW, TINY_VOCAB);
    asks_open(&on, rounds * SESSIONS, TURN_NEW, TINY_VOCAB);
    run_sessions(&c, &off, seed, &stats, none, &planted);
    c.no_prefix_cache = 0;
    c.kv_bytes = 8 * block;
    c.dram_bytes = 16 * block;
    c.nvme_bytes = 64 * (block + 512) + 16384;
    c.load_always = 1;
    snprintf(c.nvme_dirs, sizeof c.nvme_dirs, "%s", rig_dir());
    run_sessions(&c, &on, seed, &stats, in, &planted);
    for (int t = 0; t < TIER_COUNT; t++)
        caught += stats.verify_failed[t];
    printf("%u requests, tokens not computed from HBM %llu, DRAM %llu, NVMe %llu; %u wrong blocks planted, %llu read "
           "and caught\n",
           on.n, (unsigned long long)in[TIER_HBM], (unsigned long long)in[TIER_DRAM], (unsigned long long)in[TIER_NVME],
           planted, (unsigned long long)caught);
    fflush(stdout);
    expect_equal("tiers", &on, &off);
    ck_assert_uint_eq(none[TIER_HBM] + none[TIER_DRAM] + none[TIER_NVME], 0);
    ck_assert_uint_ge(in[TIER_HBM], on.n);
    ck_assert_uint_ge(in[TIER_DRAM], on.n);
    ck_assert_uint_ge(in[TIER_NVME], on.n / 4);
    ck_assert_uint_ge(caught, 1);
    asks_close(&off);
    asks_close(&on);
}

START_TEST(test_tiers_give_the_bits_that_computing_gives)
{
    check_tiers("tiers_give_the_bits_that_computing_gives", KV_FORMAT_KV16, 2, 16);
}
END_TEST

START_TEST(test_tiers_of_8_bit_kv_give_the_bits_that_computing_gives)
{
    check_tiers("tiers_of_8_bit_kv_give_the_bits_that_computing_gives", KV_FORMAT_KV8, 1, 6);
}
END_TEST

UNIT_MAIN("cuda_deterministic", test_answers_depend_on_their_request_alone,
          test_answers_over_8_bit_kv_depend_on_their_request_alone,
          test_answers_of_8_bit_weights_depend_on_their_request_alone,
          test_a_long_prompt_gives_the_same_bits_in_any_chunks, test_a_hit_is_near_a_cold_prompt_without_the_mode,
          test_tiers_give_the_bits_that_computing_gives, test_tiers_of_8_bit_kv_give_the_bits_that_computing_gives)
