/* gpu_bench - see gpu_bench.h. */
#include "tests/support/gpu_bench.h"

#include "engine/base/sys.h"

#include <stdio.h>
#include <stdlib.h>

enum { SAMPLES = 15, STEPS = BENCH_STEPS };

double bench_seconds(void)
{
    return (double)sys.now_ns() * 1e-9;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_size);
    return x[n / 2];
}

double bench_copy_rate(struct backend *be)
{
    const struct backend_ops *ops = backend_ops(be);
    size_t bytes = (size_t)1 << 30;
    void *a = ops->alloc(be, bytes), *b = ops->alloc(be, bytes);
    double t[SAMPLES];
    if (!a || !b) {
        fprintf(stderr, "no memory for the copy: the rate is unknown\n");
        exit(1);
    }
    for (int i = 0; i < SAMPLES; i++) {
        ops->sync(be);
        double begin = bench_seconds();
        for (int k = 0; k < 8; k++)
            ops->copy(be, k % 2 ? a : b, k % 2 ? b : a, bytes);
        ops->sync(be);
        t[i] = bench_seconds() - begin;
    }
    ops->release(be, a, bytes);
    ops->release(be, b, bytes);
    return 16 * (double)bytes / bench_median(t, SAMPLES);
}

double bench_weight_bytes(const struct model_shape *s, bool in_8_bits)
{
    double e = s->n_embd, q = (double)s->n_heads * s->head_dim, kv = (double)s->n_kv_heads * s->head_dim;
    double layer = e * (2 * q + 2 * kv) + 3 * e * s->n_ff, rows = q + 2 * kv + 2 * e + 2.0 * s->n_ff;
    return s->n_layers * (in_8_bits ? layer + 4 * rows : 2 * layer) + 2 * e * s->vocab;
}

double bench_kv_bytes(const struct model_shape *s, enum kv_format format)
{
    return 2.0 * s->n_layers * s->n_kv_heads * s->head_dim * (format == KV_FORMAT_KV8 ? 1 : 2);
}

struct bench_decode bench_decode_steps(struct mini *m, int32_t b)
{
    struct backend *be = mini_backend_of(m);
    const struct backend_ops *ops = backend_ops(be);
    static struct sample_row rows[BENCH_ROWS];
    static struct sample_out out[2][BENCH_ROWS];
    double t[STEPS], idle[STEPS], last = 0, sum = 0;
    int n = 0;
    for (int32_t k = 0; k < b; k++)
        rows[k] = (struct sample_row){.top_p = 1, .repetition = 1, .n_logprobs = -1};
    uint64_t before = 0;
    for (int i = 0; i < STEPS; i++) {
        for (int32_t k = 0; k < b; k++)
            if (i == 0)
                mini_add(m, k, &(int32_t){100 + k}, 1, 0);
            else
                mini_follow(m, k, k);
        uint64_t number = mini_draw(m, rows, out[i % 2]);
        if (before) {
            ops->step_wait(be, before);
            double now = bench_seconds();
            if (i > 10) { /* the first run op by op, are recorded, and fill the pipe */
                t[n] = now - last;
                idle[n] = before > 1 ? ops->step_idle_us(be, before) * 1e-6 : 0;
                sum += idle[n++];
            }
            last = now;
        }
        before = number;
    }
    ops->sync(be);
    qsort(idle, (size_t)n, sizeof *idle, by_size);
    return (struct bench_decode){bench_median(t, n), sum / n, idle[n - 1]};
}

double bench_prompt(struct mini *m, const int32_t *ids, int32_t n, int32_t chunk)
{
    const struct sample_row greedy = {.top_p = 1, .repetition = 1, .n_logprobs = -1};
    struct sample_out out;
    mini_reset(m, 0);
    backend_ops(mini_backend_of(m))->sync(mini_backend_of(m));
    double begin = bench_seconds();
    int32_t at = 0;
    for (; n - at > chunk; at += chunk) {
        mini_add(m, 0, ids + at, chunk, chunk);
        mini_queue(m);
    }
    mini_add(m, 0, ids + at, n - at, n - at - 1);
    uint64_t last = mini_draw(m, &greedy, &out);
    backend_ops(mini_backend_of(m))->step_wait(mini_backend_of(m), last);
    return bench_seconds() - begin;
}

void bench_ids(int32_t *ids, int32_t n, int32_t vocab)
{
    for (int32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(((uint32_t)i * 2654435761u >> 8) % (uint32_t)vocab);
}
