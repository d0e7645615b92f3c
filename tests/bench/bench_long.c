/* bench_long - contexts of up to a million tokens on one GPU.
 *
 * usage: bench_long [PART ...]        parts one after the other; without any, all:
 *   equal    llama-1b, 32,768 tokens in one step, then in chunks of 8,192 and of 1,000, with rows that depend on no
 * other: the same bits in every logit of the last token and in every byte of the pool 1b       llama-1b, kv16: a prompt
 * of 1,048,576 tokens in chunks of 8,192, then decode steps at that length 8b       llama-8b, weights in 8 bits, kv8: a
 * prompt of 262,144 tokens; then decode at 1,048,576 over keys and values that are noise. Where the card has no room
 * for that pool: at the length it has room for
 *
 * Weights are made on the card. JSON, one object a line, a prompt's as it goes on. Ends with 1 when bits differ or a
 * logit is no number. A decode step's floor is (weights + KV) / C, C the rate of a copy in the same process.
 */
#include "tests/support/gpu_bench.h"
#include "tests/support/ops_trio.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MILLION = 1 << 20, CHUNK = 8192, TELL = 65536, EQUAL = 32768, PROMPT_8B = 262144, AFTER = 128 };

static double copy; /* C */

static int32_t *ids_of(const struct mini *m, int32_t n)
{
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    if (!ids)
        exit(1);
    bench_ids(ids, n, mini_shape(m)->vocab);
    return ids;
}

static bool is_finite(const float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

/* -- chunks ------------------------------------------------------------------------------------------------------ */

/* The prompt in such chunks: logits of its last token into out[V], and a hash of the pool. */
static uint64_t run_in_chunks(const struct mini_opts *like, int32_t chunk, float *out)
{
    struct mini_opts o = *like;
    struct mini *m;
    struct err e = {0};
    o.max_rows = EQUAL; /* the same in all: a backend may choose by it */
    if (mini_open(&m, &o, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        exit(1);
    }
    int32_t *ids = ids_of(m, EQUAL), at = 0;
    for (; EQUAL - at > chunk; at += chunk) {
        mini_add(m, 0, ids + at, chunk, chunk);
        mini_queue(m);
    }
    mini_add(m, 0, ids + at, EQUAL - at, EQUAL - at - 1);
    memcpy(out, mini_run(m), (size_t)mini_shape(m)->vocab * sizeof *out);
    uint64_t hash = mini_pool_hash(m);
    free(ids);
    mini_close(m);
    return hash;
}

static int part_equal(const struct backend_ops *ops)
{
    enum { VOCAB = 128256 };
    static const int32_t chunks[] = {8192, 1000};
    static float want[VOCAB], got[VOCAB];
    const struct mini_opts o = {.source = "random:llama-1b",
                                .backend = ops,
                                .format = KV_FORMAT_KV16,
                                .max_out = 1,
                                .ctx = EQUAL + 64,
                                .deterministic = true};
    uint64_t pool = run_in_chunks(&o, EQUAL, want);
    int bad = !is_finite(want, VOCAB);
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        bool same_pool = run_in_chunks(&o, chunks[i], got) == pool,
             same = !memcmp(got, want, sizeof got); /* NaNs, too */
        printf(
            "{\"row\": \"long:equal\", \"model\": \"random:llama-1b\", \"tokens\": %d, \"chunk\": %d, \"same_logits\": "
            "%s, \"same_pool\": %s}\n",
            EQUAL, chunks[i], same ? "true" : "false", same_pool ? "true" : "false");
        fflush(stdout);
        bad |= !same || !same_pool;
    }
    return bad;
}

/* -- a long prompt ----------------------------------------------------------------------------------------------- */

/* n tokens into sequence 0. Returns 1 when a logit after them is no number. */
static int long_prompt(struct mini *m, const char *model, int32_t n)
{
    const struct backend_ops *ops = backend_ops(mini_backend_of(m));
    int32_t *ids = ids_of(m, n);
    double begin = bench_seconds(), last = begin;
    bool fine = true;
    for (int32_t at = 0; at < n; at += CHUNK) {
        bool tell = (at + CHUNK) % TELL == 0 || at + CHUNK >= n;
        int32_t k = n - at < CHUNK ? n - at : CHUNK;
        mini_add(m, 0, ids + at, k, tell ? k - 1 : k);
        if (!tell) {
            mini_queue(m);
            continue;
        }
        fine &= is_finite(mini_run(m), mini_shape(m)->vocab);
        double now = bench_seconds();
        printf("{\"row\": \"long:prompt\", \"device\": \"%s\", \"model\": \"%s\", \"tokens\": %d, \"s\": %.2f, "
               "\"tok_s\": %.0f, "
               "\"tok_s_now\": %.0f, \"finite\": %s}\n",
               ops->describe(mini_backend_of(m)), model, at + k, now - begin, (at + k) / (now - begin),
               TELL / (now - last), fine ? "true" : "false");
        fflush(stdout);
        last = now;
    }
    free(ids);
    return !fine;
}

static void long_decode(struct mini *m, const char *model, const struct mini_opts *o, int32_t ctx)
{
    const struct model_shape *s = mini_shape(m);
    struct bench_decode d = bench_decode_steps(m, 1);
    double floor = (bench_weight_bytes(s, o->keep == DT_F8) + bench_kv_bytes(s, o->format) * ctx) / copy;
    printf(
        "{\"row\": \"long:decode\", \"model\": \"%s\", \"ctx\": %d, \"step_ms\": %.2f, \"floor_ms\": %.2f, \"ratio\": "
        "%.3f, \"copy_GBps\": %.0f, \"idle_mean_us\": %.1f}\n",
        model, ctx, d.step * 1e3, floor * 1e3, floor / d.step, copy * 1e-9, d.idle_mean * 1e6);
    fflush(stdout);
}

/* C before the pool takes the memory. */
static void measure_copy(const struct backend_ops *ops)
{
    struct backend_opts o = {.max_rows = 64, .max_cols = 64};
    struct backend *be;
    struct err e;
    if (copy > 0 || ops->open(&be, &o, &e) != 0)
        return;
    copy = bench_copy_rate(be);
    ops->close(be);
}

static int part_1b(const struct backend_ops *ops)
{
    const struct mini_opts o = {.source = "random:llama-1b",
                                .backend = ops,
                                .format = KV_FORMAT_KV16,
                                .max_rows = CHUNK,
                                .max_out = 1,
                                .ctx = MILLION + AFTER,
                                .shuffle = 3};
    struct mini *m;
    struct err e = {0};
    measure_copy(ops);
    if (mini_open(&m, &o, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    int rc = long_prompt(m, "random:llama-1b kv16", MILLION);
    long_decode(m, "random:llama-1b kv16", &o, MILLION);
    mini_close(m);
    return rc;
}

static int part_8b(const struct backend_ops *ops)
{
    struct mini_opts o = {.source = "random:llama-8b",
                          .keep = DT_F8,
                          .backend = ops,
                          .format = KV_FORMAT_KV8,
                          .max_rows = CHUNK,
                          .max_out = 1,
                          .shuffle = 3};
    const char *model = "random:llama-8b fp8 kv8";
    struct mini *m = NULL;
    struct err e = {0};
    int32_t ctx = MILLION;
    measure_copy(ops);
    for (; ctx >= PROMPT_8B && !m; ctx -= MILLION / 16) {
        o.ctx = ctx + AFTER;
        if (mini_open(&m, &o, &e) != 0)
            fprintf(stderr, "%d tokens: %s\n", ctx, e.text);
        else
            break;
    }
    if (!m)
        return 1;
    int rc = long_prompt(m, model, PROMPT_8B);
    long_decode(m, model, &o, PROMPT_8B);
    mini_pretend(m, ctx);
    long_decode(m, model, &o, ctx);
    mini_close(m);
    return rc;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(const struct backend_ops *ops);
    } parts[] = {{"equal", part_equal}, {"1b", part_1b}, {"8b", part_8b}};
    const struct backend_ops *ops = ops_cuda("bench_long");
    int rc = 0, found = 0;
    if (!ops)
        return 0;
    for (int i = argc > 1 ? 1 : 0; i < argc; i++)
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++)
            if (argc == 1 || !strcmp(argv[i], parts[k].name)) {
                found++;
                rc |= parts[k].run(ops);
            }
    if (!found)
        fprintf(stderr, "bench_long: parts are equal, 1b and 8b\n");
    return rc || !found;
}
