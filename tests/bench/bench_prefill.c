/* bench_prefill - prefill attention of the CUDA backend over paged kv16 and kv8: TFLOP/s.
 *
 * usage: bench_prefill [sm_80] [D:HEADS/KV_HEADS:ROWS+HISTORY[:BLOCK[:LAYERS]] ...]     e.g. 128:32/8:512+131072
 *
 * Prints one JSON object a line. One sequence whose last ROWS positions are computed in one call, blocks in random
 * order, of as many layers as the pool has, output as input rows. 2 D flops a key for the score and 2 D for the value,
 * without the half of the square that is masked. Calls follow each other for SECONDS, the first third uncounted (the
 * card finds its clock under the load); median of samples of about 20 ms, with the launches; kv16, then kv8, whose
 * share of kv16's rate stands beside it. sm_80: the kernels of older cards. Peers beside it: peer_attention.py.
 */
#include "tests/support/ops_gen.h"
#include "tests/support/ops_trio.h"

#include "engine/base/sys.h"
#include "engine/kv/fmt_kv16.h"
#include "engine/kv/fmt_kv8.h"
#include "engine/kv/layout.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECONDS 0.6
static const char *const format_names[] = {[KV_FORMAT_KV16] = "kv16", [KV_FORMAT_KV8] = "kv8"};

enum { MAX_ROWS = 32768, SAMPLES = 64, NOISE = 1 << 22 };

static const char *const usual[] = {
    "128:32/8:2048+0",      "128:32/8:8192+0", "128:32/8:32768+0",      "128:32/8:32+131072", "128:32/8:512+131072",
    "128:32/8:8192+131072", "64:32/8:8192+0",  "64:32/8:32768+0",       "256:16/4:8192+0",    "256:16/4:32768+0",
    "128:32/8:8192+0:16",   "128:32/8:64+512", "128:32/8:8192+1040384",
};

struct shape {
    int32_t d, h, g, rows, history, block, layers;
};

static double seconds(void)
{
    return (double)sys.now_ns() * 1e-9;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Backend memory for n elements, filled with the same NOISE normals again and again: floats, or as a pool's format. */
static void *noise(struct backend *be, uint64_t n, uint32_t format)
{
    struct ops_rng r = {n};
    const struct backend_ops *ops = backend_ops(be);
    size_t size = format == KV_FORMAT_KV16 ? 2 : format == KV_FORMAT_KV8 ? 1 : 4;
    float *x = ops_gauss_array(&r, NOISE, 1);
    char *to = ops->alloc(be, n * size);
    if (!to) {
        free(x);
        return NULL;
    }
    if (format == KV_FORMAT_KV16)
        kv16_put(x, x, NOISE);
    else if (format == KV_FORMAT_KV8)
        kv8_put(x, x, NOISE, 1);
    for (uint64_t at = 0; at < n; at += NOISE) {
        size_t part = n - at < NOISE ? n - at : NOISE;
        if (at == 0)
            ops->upload(be, to, x, part * size);
        else
            ops->copy(be, to + at * size, to, part * size);
    }
    ops->sync(be);
    free(x);
    return to;
}

/* Seconds of `calls` calls. */
static double run(struct backend *be, const struct attn_args *a, int calls)
{
    double begin = seconds();
    for (int i = 0; i < calls; i++)
        backend_ops(be)->attention(be, a);
    backend_ops(be)->sync(be);
    return seconds() - begin;
}

/* Seconds of a call. */
static double timed(struct backend *be, const struct attn_args *a)
{
    run(be, a, 1);
    double once = run(be, a, 1), spent = 0, t[SAMPLES];
    int calls = once < 0.01 ? (int)(0.02 / once) : 1, n = 0;
    while (n < 3 || (n < SAMPLES && spent < SECONDS)) {
        double s = run(be, a, calls);
        if (spent >= SECONDS / 3)
            t[n++] = s / calls;
        spent += s;
    }
    qsort(t, (size_t)n, sizeof *t, by_size);
    return t[n / 2];
}

/* Seconds of a call over a pool of this format; 0 when the card has no room. */
static double over(struct backend *be, const struct kv_layout *l, int32_t n_blocks, struct attn_args *a)
{
    const struct backend_ops *ops = backend_ops(be);
    uint64_t bytes = l->block_bytes * (uint64_t)n_blocks;
    void *pool = noise(be, bytes / (l->format == KV_FORMAT_KV16 ? 2 : 1), l->format);
    struct kv_view kv = kv_layout_view(l, pool, 0);
    a->kv = &kv;
    double t = pool ? timed(be, a) : 0;
    ops->release(be, pool, bytes);
    return t;
}

/* Each format after the other with the same rows; returns 1 for blocks that there are not. */
static int bench_formats(struct backend *be, const struct shape *s, int32_t n_blocks, struct attn_args *a)
{
    static const uint32_t formats[] = {KV_FORMAT_KV16, KV_FORMAT_KV8};
    double flops = 4.0 * s->h * s->d * s->rows * (s->history + s->rows / 2.0), kv16 = 0;
    struct kv_layout l;
    struct err e;
    for (int i = 0; i < 2; i++) {
        if (kv_layout_init(&l, (uint32_t)s->layers, (uint32_t)s->g, (uint32_t)s->d, (uint32_t)s->block, formats[i],
                           &e) != 0) {
            fprintf(stderr, "%s\n", e.text);
            return 1;
        }
        const char *name = format_names[formats[i]];
        double t = over(be, &l, n_blocks, a);
        if (t == 0) {
            printf("SKIP %s, %d keys: no room on the card\n", name, s->rows + s->history);
            continue;
        }
        printf("{\"what\": \"prefill attention\", \"device\": \"%s\", \"head_dim\": %d, \"heads\": %d, "
               "\"kv_heads\": %d, \"rows\": %d, \"history\": %d, \"block\": %d, \"layers\": %d, "
               "\"format\": \"%s\", \"ms\": %.4f, \"TFLOPs\": %.1f",
               backend_ops(be)->describe(be), s->d, s->h, s->g, s->rows, s->history, s->block, s->layers, name, t * 1e3,
               flops / t * 1e-12);
        if (formats[i] == KV_FORMAT_KV16)
            kv16 = t;
        else if (kv16 > 0)
            printf(", \"of_kv16\": %.3f", kv16 / t);
        printf("}\n");
        fflush(stdout);
    }
    return 0;
}

static int bench(struct backend *be, const struct shape *s)
{
    static uint64_t number = 1;
    const struct backend_ops *ops = backend_ops(be);
    struct ops_rng r = {1};
    int32_t n_blocks = (s->rows + s->history + s->block - 1) / s->block;
    int32_t *ints = calloc(2 * (size_t)s->rows, sizeof *ints), *pos = ints + s->rows;
    int32_t seq_row[2] = {0, s->rows}, table_at[2] = {0, n_blocks}, *table = ops_shuffled(&r, n_blocks);
    for (int32_t i = 0; i < s->rows; i++)
        pos[i] = s->history + i;
    struct step st = {.number = number++, .n_rows = s->rows, .n_seqs = 1, .ids = ints, .pos = pos, .row_seq = ints};
    st.seq_row = seq_row;
    st.table = table;
    st.table_at = table_at;
    uint64_t q_floats = (uint64_t)s->rows * (uint64_t)(s->h + 2 * s->g) * (uint64_t)s->d;
    uint64_t out_bytes = (uint64_t)s->rows * ops_input_bytes(ops, s->h * s->d);
    void *q = noise(be, q_floats, KV_FORMAT_KV32), *out = ops->alloc(be, out_bytes);
    struct attn_args a = {.out_input = out, .q = q, .step = &st, .n_heads = s->h, .key_end = INT32_MAX};
    a.q_stride = (int64_t)(s->h + 2 * s->g) * s->d;
    a.scale = 1 / sqrtf((float)s->d);
    int rc = q && out ? bench_formats(be, s, n_blocks, &a) : 1;
    ops->release(be, q, q_floats * 4);
    ops->release(be, out, out_bytes);
    free(table), free(ints);
    return rc;
}

static int bench_text(struct backend *be, const char *text)
{
    struct shape s = {.block = 64, .layers = 1};
    int n = sscanf(text, "%d:%d/%d:%d+%d:%d:%d", &s.d, &s.h, &s.g, &s.rows, &s.history, &s.block, &s.layers);
    if (n >= 5 && s.rows > 0 && s.rows <= MAX_ROWS && s.h > 0 && s.g > 0 && s.h % s.g == 0 && s.history >= 0 &&
        s.layers > 0)
        return bench(be, &s);
    fprintf(stderr, "%s: must be D:HEADS/KV_HEADS:ROWS+HISTORY[:BLOCK[:LAYERS]], rows up to %d\n", text, MAX_ROWS);
    return 2;
}

int main(int argc, char **argv)
{
    const struct backend_ops *ops = ops_cuda("bench_prefill");
    struct backend_opts o = {
        .max_rows = MAX_ROWS, .max_seqs = 1, .max_cols = 8, .max_vocab = 8, .wide_bytes = BACKEND_WIDE_BYTES};
    struct backend *be = NULL;
    struct err e = {0};
    if (argc > 1 && strcmp(argv[1], "sm_80") == 0) {
        o.isa = argv[1];
        argv++;
        argc--;
    }
    int rc = 0, n = argc > 1 ? argc - 1 : (int)(sizeof usual / sizeof *usual);
    if (!ops || ops->open(&be, &o, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    for (int i = 0; i < n && !rc; i++)
        rc = bench_text(be, argc > 1 ? argv[i + 1] : usual[i]);
    ops->close(be);
    return rc;
}
