/* bench_gpu - what one GPU copies, and steps, the sampler and prefill beside the floors that follow from it.
 *
 * usage: bench_gpu ROW ...                E1 E2 E3 E4 E6 H1 H3 K11; E4 is five rows, E4:32x1024 one of them
 *        bench_gpu MODEL [BxCTX ...]      e.g. bench_gpu random:llama-1b 1x1024 32x1024: decode, and prefill of one;
 *                                         fp8:MODEL: with the layers' matrices in 8 bits; fixed:MODEL and
 *                                         fixed:fp8:MODEL: in deterministic mode
 *
 * Prints one JSON object a line, as it goes. C is the rate of a copy on the card, bytes read and written, taken in the
 * same process. A decode step is whole: B sequences of CTX tokens (their keys and values are noise) get one more each;
 * forward pass, greedy choice on the card, the token fed to the next step, which is queued while this one runs; median
 * of what lies between the ends of two steps. Its floor is (weights a step reads + KV) / C. H1 is the time between the
 * end of a step on the card and the begin of the next. K11 is the sampler over 256 rows of 128,256 normal logits; its
 * floor is one read of them at C. Prefill (E6, H3) is one prompt in steps of CHUNK tokens, from the first step queued
 * to the token after it known to the host; median of passes after two that are not counted, in which the library's
 * algorithms are timed. bench_gpu_prefill.py sets E6 beside its parts, bench_gpu_serve.py sets H3 beside the server.
 */
#include "tests/support/gpu_bench.h"
#include "tests/support/ops_trio.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = BENCH_ROWS, STEPS = BENCH_STEPS, PASSES = 9, K11_ROWS = 256, K11_VOCAB = 128256 };
#define PREFILL_SECONDS 4 /* of one row, at least 3 passes */

/* What stands before the model's name in deterministic mode, and when its layers are kept in 8 bits. */
static const char fixed[] = "fixed:", fp8[] = "fp8:";

/* Behind the word, where s begins with it. */
static const char *behind(const char *s, const char *word)
{
    return strncmp(s, word, strlen(word)) == 0 ? s + strlen(word) : s;
}

static bool is_fp8(const char *source)
{
    return !strncmp(behind(source, fixed), fp8, strlen(fp8));
}

/* B sequences of CTX tokens and some more; steps of at most `rows` rows, `outs` of them with logits. */
static struct mini *open_model(const char *source, int32_t b, int32_t ctx, int32_t rows, int32_t outs, double *c,
                               double *loaded)
{
    struct mini_opts o = {.source = behind(behind(source, fixed), fp8),
                          .keep = is_fp8(source) ? DT_F8 : 0,
                          .deterministic = behind(source, fixed) != source,
                          .backend = ops_cuda("bench_gpu"),
                          .format = KV_FORMAT_KV16,
                          .max_rows = rows,
                          .max_out = outs,
                          .n_seqs = b,
                          .ctx = ctx + STEPS + 64,
                          .shuffle = 3};
    struct mini *m = NULL;
    struct err e = {0};
    double begin = bench_seconds();
    if (!o.backend)
        exit(0);
    if (mini_open(&m, &o, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        exit(1);
    }
    *loaded = bench_seconds() - begin;
    *c = bench_copy_rate(mini_backend_of(m));
    return m;
}

/* -- decode ------------------------------------------------------------------------------------------------------ */

static int bench_decode(const char *name, const char *source, int32_t b, int32_t ctx, double gate)
{
    double c, loaded;
    struct mini *m = open_model(source, b, ctx, CHUNK, CHUNK, &c, &loaded);
    const struct model_shape *s = mini_shape(m);
    struct backend *be = mini_backend_of(m);
    mini_pretend(m, ctx);
    struct bench_decode d = bench_decode_steps(m, b);
    double floor = (bench_weight_bytes(s, is_fp8(source)) + bench_kv_bytes(s, KV_FORMAT_KV16) * ctx * b) / c;
    printf("{\"row\": \"%s\", \"device\": \"%s\", \"model\": \"%s\", \"load_s\": %.2f, \"copy_GBps\": %.0f, \"B\": %d, "
           "\"ctx\": %d, \"step_ms\": %.3f, \"floor_ms\": %.3f, \"ratio\": %.3f, \"gate\": %.2f}\n",
           name, backend_ops(be)->describe(be), source, loaded, c * 1e-9, b, ctx, d.step * 1e3, floor * 1e3,
           floor / d.step, gate);
    printf("{\"row\": \"H1\", \"of\": \"%s\", \"B\": %d, \"ctx\": %d, \"idle_mean_us\": %.1f, \"idle_p99_us\": %.1f, "
           "\"gate_us\": [20, 100]}\n",
           name, b, ctx, d.idle_mean * 1e6, d.idle_p99 * 1e6);
    fflush(stdout);
    mini_close(m);
    return 0;
}

/* -- prefill ----------------------------------------------------------------------------------------------------- */

static int bench_prefill(const char *name, const char *source, int32_t ctx, int32_t chunk)
{
    double c, loaded, t[PASSES], spent = 0;
    struct mini *m = open_model(source, 1, ctx, chunk, 1, &c, &loaded);
    int32_t *ids = malloc((size_t)ctx * sizeof *ids), n = 0;
    if (!ids)
        exit(1);
    bench_ids(ids, ctx, mini_shape(m)->vocab);
    for (int i = 0; i < 2; i++)
        bench_prompt(m, ids, ctx, chunk);
    for (; n < 3 || (n < PASSES && spent < PREFILL_SECONDS); n++)
        spent += t[n] = bench_prompt(m, ids, ctx, chunk);
    double s = bench_median(t, n);
    printf("{\"row\": \"%s\", \"device\": \"%s\", \"model\": \"%s\", \"ctx\": %d, \"chunk\": %d, \"passes\": %d, "
           "\"ms\": %.2f, \"least_ms\": %.2f, \"most_ms\": %.2f, \"tok_s\": %.0f, \"copy_GBps\": %.0f}\n",
           name, backend_ops(mini_backend_of(m))->describe(mini_backend_of(m)), source, ctx, chunk, n, s * 1e3,
           t[0] * 1e3, t[n - 1] * 1e3, ctx / s, c * 1e-9);
    fflush(stdout);
    free(ids);
    mini_close(m);
    return 0;
}

/* -- the sampler ------------------------------------------------------------------------------------------------- */

static double run_sampler(struct backend *be, const float *logits, const struct sample_row *like)
{
    const struct backend_ops *ops = backend_ops(be);
    static struct sample_row rows[K11_ROWS];
    static struct sample_out out[2][K11_ROWS];
    double t[STEPS];
    for (int32_t i = 0; i < K11_ROWS; i++) {
        rows[i] = *like;
        rows[i].choice = (uint32_t)i;
    }
    static uint64_t number = 1000;
    double last = 0;
    for (int i = 0; i < STEPS; i++) {
        ops->sample(be, logits, K11_VOCAB, rows, out[i % 2], K11_ROWS);
        ops->step_end(be, ++number);
        if (i > 0)
            ops->step_wait(be, number - 1);
        double now = bench_seconds();
        t[i] = now - last;
        last = now;
    }
    ops->sync(be);
    return bench_median(t + 10, STEPS - 10);
}

static int bench_sampler(void)
{
    static const struct {
        const char *what;
        float temperature, top_p, min_p;
        int32_t top_k, n_logprobs;
    } cases[] = {{"top_k 50, top_p 0.9", 1, 0.9f, 0, 50, -1}, {"top_p 0.9", 1, 0.9f, 0, 0, -1},
                 {"temperature 0.8", 0.8f, 1, 0, 0, -1},      {"greedy", 0, 1, 0, 0, -1},
                 {"min_p 0.05", 1, 1, 0.05f, 0, -1},          {"top_k 50, 5 logprobs", 1, 1, 0, 50, 5}};
    const struct backend_ops *ops = ops_cuda("bench_gpu");
    struct backend_opts o = {.threads = 1, .max_rows = K11_ROWS, .max_cols = 64, .max_vocab = K11_VOCAB};
    struct backend *be;
    struct err e = {0};
    size_t n = (size_t)K11_ROWS * K11_VOCAB;
    if (!ops)
        return 0;
    if (ops->open(&be, &o, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    double c = bench_copy_rate(be), floor = (double)(n * sizeof(float)) / c;
    float *host = malloc(n * sizeof *host), *logits = ops->alloc(be, n * sizeof *host);
    if (!host || !logits)
        return 1;
    struct ops_rng r = {3};
    for (size_t i = 0; i < n; i++)
        host[i] = i < 4 * K11_VOCAB ? 3 * ops_gauss(&r) : host[i - 3 * K11_VOCAB - 77];
    ops->upload(be, logits, host, n * sizeof *host);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sample_row row = {.temperature = cases[i].temperature,
                                 .top_p = cases[i].top_p,
                                 .min_p = cases[i].min_p,
                                 .repetition = 1,
                                 .top_k = cases[i].top_k,
                                 .n_logprobs = cases[i].n_logprobs,
                                 .seed = 5,
                                 .position = 17};
        double t = run_sampler(be, logits, &row);
        printf("{\"row\": \"K11\", \"case\": \"%s\", \"rows\": %d, \"vocab\": %d, \"copy_GBps\": %.0f, \"us\": %.1f, "
               "\"floor_us\": %.1f, \"times\": %.2f, \"gate\": 1.5}\n",
               cases[i].what, K11_ROWS, K11_VOCAB, c * 1e-9, t * 1e6, floor * 1e6, t / floor);
        fflush(stdout);
    }
    ops->release(be, logits, n * sizeof *host);
    free(host);
    ops->close(be);
    return 0;
}

/* -- rows -------------------------------------------------------------------------------------------------------- */

static const struct row {
    const char *name, *model;
    int32_t b, ctx;
    double gate;
} decodes[] = {{"E1", "random:llama-8b", 1, 1024, 0.83},
               {"E2", "fp8:random:llama-8b", 1, 1024, 0.72},
               {"E3", "random:llama-1b", 1, 1024, 0.70},
               {"E4:32x1024", "random:llama-8b", 32, 1024, 0.83},
               {"E4:32x4096", "random:llama-8b", 32, 4096, 0.90},
               {"E4:64x4096", "random:llama-8b", 64, 4096, 0.90},
               {"E4:128x2048", "random:llama-8b", 128, 2048, 0.88},
               {"E4:256x1024", "random:llama-8b", 256, 1024, 0.85}};

static const struct {
    const char *name, *model;
    int32_t ctx, chunk;
} prefills[] = {{"E6:8192", "random:llama-8b", 8192, 8192},
                {"E6:8192", "random:llama-8b", 8192, 2048},
                {"E6:32768", "random:llama-8b", 32768, 8192},
                {"H3", "random:llama-8b", 1000, 1000}};

/* Is `want` the row's name, or what stands before its colon? */
static bool is_row(const char *name, const char *want)
{
    size_t n = strlen(want);
    return !strncmp(name, want, n) && (name[n] == 0 || name[n] == ':');
}

/* Every row of that name. */
static int bench_row(const char *want)
{
    int rc = -1;
    if (!strcmp(want, "K11"))
        return bench_sampler();
    for (size_t i = 0; i < sizeof decodes / sizeof *decodes; i++) {
        const struct row *r = &decodes[i];
        if (is_row(r->name, want))
            rc = bench_decode(r->name, r->model, r->b, r->ctx, r->gate);
    }
    for (size_t i = 0; i < sizeof prefills / sizeof *prefills; i++)
        if (is_row(prefills[i].name, want))
            rc = bench_prefill(prefills[i].name, prefills[i].model, prefills[i].ctx, prefills[i].chunk);
    if (rc < 0)
        fprintf(stderr, "%s: no such row\n", want);
    return rc != 0;
}

int main(int argc, char **argv)
{
    int32_t b, ctx, rc = 0;
    if (argc < 2) {
        fprintf(stderr, "usage: bench_gpu E1|E2|E3|E4|E6|H3|K11 ... | MODEL BxCTX ...\n");
        return 2;
    }
    if (!strchr(argv[1], ':') || argv[1][0] == 'E' || argv[1][0] == 'H') {
        for (int i = 1; i < argc; i++)
            rc |= bench_row(argv[i]);
        return rc;
    }
    for (int i = 2; i < argc; i++) {
        if (sscanf(argv[i], "%dx%d", &b, &ctx) != 2 || b < 1 || b > CHUNK || ctx < 1) {
            fprintf(stderr, "%s: must be BxCTX, as 32x1024\n", argv[i]);
            return 2;
        }
        rc |= bench_decode("decode", argv[1], b, ctx, 0);
        if (b == 1)
            rc |= bench_prefill("prefill", argv[1], ctx, CHUNK);
    }
    return rc;
}
