/* bench_gpu - what one GPU copies, and whole decode and prefill steps beside the floor that follows from it.
 *
 * usage: bench_gpu MODEL [B x CTX ...]        e.g. bench_gpu random:llama-1b 1x1024 32x1024
 *
 * Prints one JSON object a line. C is the rate of a copy on the card, bytes read and written. A decode step is B
 * sequences of CTX tokens that get one more each: the forward pass with its launches, nothing brought to the host,
 * median of 15. Its floor is (weights a step reads + KV) / C. Prefill is CTX tokens of one sequence in steps of 512.
 */
#include "tests/support/mini_engine.h"
#include "tests/support/ops_trio.h"

#include "engine/base/sys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 512, SAMPLES = 15 };

static double seconds(void)
{
    return (double)sys.now_ns() * 1e-9;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_size);
    return x[n / 2];
}

/* Bytes a second, read and written, of copies of 2 GiB. */
static double copy_rate(struct backend *be)
{
    const struct backend_ops *ops = backend_ops(be);
    size_t bytes = (size_t)2 << 30;
    void *a = ops->alloc(be, bytes), *b = ops->alloc(be, bytes);
    double t[SAMPLES];
    if (!a || !b)
        return 0;
    for (int i = 0; i < SAMPLES; i++) {
        ops->sync(be);
        double begin = seconds();
        for (int k = 0; k < 4; k++)
            ops->copy(be, k % 2 ? a : b, k % 2 ? b : a, bytes);
        ops->sync(be);
        t[i] = seconds() - begin;
    }
    ops->release(be, a, bytes);
    ops->release(be, b, bytes);
    return 8 * (double)bytes / median(t, SAMPLES);
}

/* Bytes of the weights that every step reads, in bfloat16. */
static double weight_bytes(const struct model_shape *s)
{
    double e = s->n_embd, q = (double)s->n_heads * s->head_dim, kv = (double)s->n_kv_heads * s->head_dim;
    return 2 * (s->n_layers * (e * (2 * q + 2 * kv) + 3 * e * s->n_ff) + e * s->vocab);
}

static int32_t some_id(const struct mini *m, int32_t i)
{
    return (int32_t)(((uint32_t)i * 2654435761u >> 8) % (uint32_t)mini_shape(m)->vocab);
}

/* Run what was added; seconds. */
static double timed(struct mini *m)
{
    double begin = seconds();
    mini_queue(m);
    backend_ops(mini_backend_of(m))->sync(mini_backend_of(m));
    return seconds() - begin;
}

static double prefill(struct mini *m, int32_t seq, int32_t n)
{
    int32_t ids[CHUNK];
    double spent = 0;
    mini_reset(m, seq);
    for (int32_t at = 0; at < n; at += CHUNK) {
        int32_t k = n - at < CHUNK ? n - at : CHUNK;
        for (int32_t i = 0; i < k; i++)
            ids[i] = some_id(m, at + i + seq);
        mini_add(m, seq, ids, k, k - 1);
        spent += timed(m);
    }
    return spent;
}

static int bench(const char *source, int32_t b, int32_t ctx)
{
    struct mini_opts o = {.source = source,
                          .backend = ops_cuda("bench_gpu"),
                          .format = KV_FORMAT_KV16,
                          .max_rows = CHUNK,
                          .n_seqs = b,
                          .ctx = ctx + 64,
                          .shuffle = 3};
    struct mini *m = NULL;
    struct err e = {0};
    double t[SAMPLES], begin = seconds();
    if (!o.backend || mini_open(&m, &o, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    const struct model_shape *s = mini_shape(m);
    struct backend *be = mini_backend_of(m);
    double loaded = seconds() - begin, c = copy_rate(be), first = 0;
    for (int32_t i = 0; i < b; i++)
        first = prefill(m, i, ctx);
    for (int i = -3; i < SAMPLES; i++) { /* three to warm up */
        for (int32_t k = 0; k < b; k++)
            mini_add(m, k, &(int32_t){some_id(m, i + 31 * k)}, 1, 0);
        t[i < 0 ? 0 : i] = timed(m);
    }
    double kv = 4.0 * s->n_layers * s->n_kv_heads * s->head_dim * ctx * b, floor = (weight_bytes(s) + kv) / c;
    double step = median(t, SAMPLES);
    printf("{\"device\": \"%s\", \"model\": \"%s\", \"load_s\": %.2f, \"copy_GBps\": %.0f, \"B\": %d, \"ctx\": %d, "
           "\"prefill_tok_s\": %.0f, \"decode_ms\": %.3f, \"floor_ms\": %.3f, \"floor_share\": %.3f}\n",
           backend_ops(be)->describe(be), source, loaded, c * 1e-9, b, ctx, ctx / first, step * 1e3, floor * 1e3,
           floor / step);
    mini_close(m);
    return 0;
}

int main(int argc, char **argv)
{
    int32_t b = 1, ctx = 1024, rc = 0;
    if (argc < 2) {
        fprintf(stderr, "usage: bench_gpu MODEL [BxCTX ...]\n");
        return 2;
    }
    if (argc == 2)
        return bench(argv[1], b, ctx);
    for (int i = 2; i < argc; i++) {
        if (sscanf(argv[i], "%dx%d", &b, &ctx) != 2 || b < 1 || b > CHUNK || ctx < 1) {
            fprintf(stderr, "%s: must be BxCTX, as 32x1024\n", argv[i]);
            return 2;
        }
        rc |= bench(argv[1], b, ctx);
        fflush(stdout);
    }
    return rc;
}
