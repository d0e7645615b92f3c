/* bench_attn - decode attention beside the card's copy rate, in one run.
 *
 * usage: bench_attn [K1|K2|K3|extra|check|fixed|tiny ...]        all, when none is named
 *
 * Prints one JSON object a line: the rate of a copy (C: bytes read and written) and of a read, then for each shape the
 * time of a call and the rate at which it reads K and V, over C. Calls go over the layers of a pool much larger than
 * L2, one after the other in a graph, so each finds its keys in memory; medians of REPLAYS. Keys, values and queries
 * are random. `check` compares long contexts with the plain kernel, `tiny` short ones under sanitizers; `fixed` is
 * deterministic mode.
 */
#include "cuda/kv.cuh"

extern "C" {
#include "engine/kv/layout.h"
}

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPLAYS 21
#define POOL    (256ull << 20) /* bytes that the layers of a case have at least */
#define LAYERS  32             /* and so many they are at least: the keys of a layer lie as far apart as in a model */

/* -- the card */

static __device__ uint32_t hash(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ull;
    return (uint32_t)(x >> 32);
}

/* About normal: the sum of four uniforms. */
static __device__ float gauss(uint64_t i)
{
    uint32_t a = hash(2 * i), b = hash(2 * i + 1);
    float sum = (float)(a & 0xffff) + (float)(a >> 16) + (float)(b & 0xffff) + (float)(b >> 16);
    return (sum / 65536.0f - 2.0f) * 1.7320508f;
}

static __global__ void fill_bf16(__nv_bfloat16 *x, size_t n, uint64_t seed)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        x[i] = __float2bfloat16(gauss(seed + i));
}

static __global__ void fill_kv8(uint8_t *x, size_t n, uint64_t seed)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        x[i] = e4m3_from_f32(gauss(seed + i));
}

static __global__ void fill_float(float *x, size_t n, uint64_t seed)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        x[i] = gauss(seed + i);
}

static __global__ void copy_kernel(uint4 *to, const uint4 *from, size_t n)
{
    size_t step = (size_t)gridDim.x * blockDim.x, i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 3 * step < n; i += 4 * step) {
        uint4 x[4];
        for (int k = 0; k < 4; k++)
            x[k] = __ldcs(from + i + k * step);
        for (int k = 0; k < 4; k++)
            __stcs(to + i + k * step, x[k]);
    }
    for (; i < n; i += step)
        to[i] = from[i];
}

static __global__ void read_kernel(uint32_t *to, const uint4 *from, size_t n)
{
    uint32_t x = 0;
#pragma unroll 8
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        uint4 v = __ldcs(from + i);
        x ^= v.x ^ v.y ^ v.z ^ v.w;
    }
    if (x == 0x12345678)
        *to = x;
}

/* -- time */

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void *card(size_t bytes)
{
    void *p = NULL;
    CU(cudaMalloc(&p, bytes));
    return p;
}

/* Microseconds of a replay, median. */
static double replay(struct cuda *c, cudaGraphExec_t exec)
{
    float ms[REPLAYS];
    cudaEvent_t begin, end;
    CU(cudaEventCreate(&begin));
    CU(cudaEventCreate(&end));
    for (int i = -5; i < REPLAYS; i++) {
        CU(cudaEventRecord(begin, c->stream));
        CU(cudaGraphLaunch(exec, c->stream));
        CU(cudaEventRecord(end, c->stream));
        CU(cudaEventSynchronize(end));
        if (i >= 0)
            CU(cudaEventElapsedTime(&ms[i], begin, end));
    }
    CU(cudaEventDestroy(begin));
    CU(cudaEventDestroy(end));
    qsort(ms, REPLAYS, sizeof *ms, by_size);
    return ms[REPLAYS / 2] * 1e3;
}

static void begin_graph(struct cuda *c)
{
    CU(cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal));
}

static double time_graph(struct cuda *c)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CU(cudaStreamEndCapture(c->stream, &graph));
    CU(cudaGraphInstantiate(&exec, graph, 0));
    double us = replay(c, exec);
    CU(cudaGraphExecDestroy(exec));
    CU(cudaGraphDestroy(graph));
    return us;
}

/* -- probes */

static double copy_rate; /* bytes a microsecond */

/* The best of three ways to copy 2 GiB forth and back, and a read of them. */
static void probe(struct cuda *c)
{
    const size_t bytes = (size_t)2 << 30, n = bytes / sizeof(uint4);
    uint4 *a = (uint4 *)card(bytes), *b = (uint4 *)card(bytes);
    double us[3], read;
    fill_float<<<4096, 256, 0, c->stream>>>((float *)a, bytes / 4, 1);
    for (int way = 0; way < 3; way++) {
        begin_graph(c);
        for (int k = 0; k < 4; k++)
            if (way == 0)
                CU(cudaMemcpyAsync(k % 2 ? a : b, k % 2 ? b : a, bytes, cudaMemcpyDeviceToDevice, c->stream));
            else
                copy_kernel<<<(unsigned)(way == 1 ? c->n_sm * 4 : n / 2048), 512, 0, c->stream>>>(k % 2 ? a : b,
                                                                                                  k % 2 ? b : a, n);
        us[way] = time_graph(c) / 4;
        copy_rate = fmax(copy_rate, 2 * (double)bytes / us[way]);
    }
    begin_graph(c);
    read_kernel<<<(unsigned)c->n_sm * 4, 512, 0, c->stream>>>((uint32_t *)b, a, n);
    read = time_graph(c);
    printf("{\"device\": \"%s\", \"C_GBps\": %.0f, \"memcpy_GBps\": %.0f, \"copy_GBps\": [%.0f, %.0f], \"read_GBps\": "
           "%.0f}\n",
           c->text, copy_rate * 1e-3, 2e-3 * (double)bytes / us[0], 2e-3 * (double)bytes / us[1],
           2e-3 * (double)bytes / us[2], 1e-3 * (double)bytes / read);
    CU(cudaFree(a));
    CU(cudaFree(b));
}

/* -- attention */

struct shape {
    const char *name;
    uint32_t format;
    int32_t n_seqs, ctx; /* every sequence has ctx tokens; with `mixed` between 1/8 and 15/8 of it */
    int32_t n_kv_heads, group, d, rows, block, window;
    bool mixed;
    double gate; /* of C; as microseconds when it is above 1 */
};

struct state {
    struct shape s;
    struct kv_layout layout;
    struct step step;
    int32_t *ints;
    uint8_t *pool;
    float *q, *o, *lse;
    size_t n_q, n_o;
    uint64_t tokens;
};

static void make_step(struct state *t)
{
    static uint64_t number = 1;
    const struct shape *s = &t->s;
    int32_t n_rows = s->n_seqs * s->rows, blocks = 0;
    int32_t *len = (int32_t *)calloc((size_t)s->n_seqs, sizeof *len);
    for (int32_t i = 0; i < s->n_seqs; i++) {
        len[i] = s->mixed ? s->ctx / 8 + (int32_t)((int64_t)s->ctx * 14 / 8 * i / (s->n_seqs > 1 ? s->n_seqs - 1 : 1))
                          : s->ctx;
        blocks += (len[i] + s->block - 1) / s->block;
        t->tokens += (uint64_t)(s->window && s->window < len[i] ? s->window : len[i]);
    }
    t->ints = (int32_t *)calloc(3 * (size_t)n_rows + 2 * ((size_t)s->n_seqs + 1) + (size_t)blocks, sizeof *t->ints);
    int32_t *pos = t->ints + n_rows, *row_seq = pos + n_rows, *seq_row = row_seq + n_rows;
    int32_t *table_at = seq_row + s->n_seqs + 1, *table = table_at + s->n_seqs + 1;
    for (int32_t i = 0, r = 0; i < s->n_seqs; i++) {
        for (int32_t k = 0; k < s->rows; k++, r++) {
            pos[r] = len[i] - s->rows + k;
            row_seq[r] = i;
        }
        seq_row[i + 1] = r;
        table_at[i + 1] = table_at[i] + (len[i] + s->block - 1) / s->block;
    }
    for (int32_t i = 0; i < blocks; i++) { /* shuffled */
        int32_t j = (int32_t)(((uint64_t)i * 2654435761u >> 7) % (uint64_t)(i + 1));
        table[i] = table[j];
        table[j] = i;
    }
    t->step = {};
    t->step.number = ++number;
    t->step.n_rows = n_rows;
    t->step.n_seqs = s->n_seqs;
    t->step.decode = s->rows == 1;
    t->step.ids = t->ints;
    t->step.pos = pos;
    t->step.row_seq = row_seq;
    t->step.seq_row = seq_row;
    t->step.table = table;
    t->step.table_at = table_at;
    free(len);
}

/* Bytes of a token in a layer. */
static uint64_t token_bytes(const struct shape *s)
{
    return (uint64_t)s->n_kv_heads * (uint64_t)s->d * (s->format == KV_FORMAT_KV8 ? 2 : 4);
}

static void make(struct cuda *c, struct state *t, const struct shape *s)
{
    struct err e;
    *t = {};
    t->s = *s;
    make_step(t);
    uint32_t n_layers = (uint32_t)(POOL / (t->tokens * token_bytes(s)));
    if (kv_layout_init(&t->layout, n_layers < LAYERS ? LAYERS : n_layers, (uint32_t)s->n_kv_heads, (uint32_t)s->d,
                       (uint32_t)s->block, s->format, &e))
        exit(1);
    size_t bytes = t->layout.block_bytes * (size_t)t->step.table_at[s->n_seqs];
    size_t heads = (size_t)(s->n_kv_heads * s->group);
    t->n_o = (size_t)t->step.n_rows * heads * (size_t)s->d;
    t->n_q = t->n_o + 64;
    t->pool = (uint8_t *)card(bytes);
    t->q = (float *)card(t->n_q * sizeof *t->q);
    t->o = (float *)card(2 * t->n_o * sizeof *t->o);
    t->lse = (float *)card(2 * (size_t)t->step.n_rows * heads * sizeof *t->lse);
    if (s->format == KV_FORMAT_KV8)
        fill_kv8<<<4096, 256, 0, c->stream>>>(t->pool, bytes, 7);
    else
        fill_bf16<<<4096, 256, 0, c->stream>>>((__nv_bfloat16 *)t->pool, bytes / 2, 7);
    fill_float<<<64, 256, 0, c->stream>>>(t->q, t->n_q, 3);
    LAUNCHED();
}

static void unmake(struct state *t)
{
    CU(cudaFree(t->pool));
    CU(cudaFree(t->q));
    CU(cudaFree(t->o));
    CU(cudaFree(t->lse));
    free(t->ints);
}

static void call(struct cuda *c, struct state *t, uint32_t layer, const float *q, float *o, float *lse)
{
    struct kv_view kv = kv_layout_view(&t->layout, t->pool, layer);
    int32_t n_heads = t->s.n_kv_heads * t->s.group;
    struct attn_args a = {};
    a.out = {o, lse};
    a.out_input = o ? NULL : t->o;
    a.q = q;
    a.q_stride = (int64_t)n_heads * t->s.d;
    a.step = &t->step;
    a.kv = &kv;
    a.n_heads = n_heads;
    a.scale = 1 / sqrtf((float)t->s.d);
    a.window = t->s.window;
    a.key_end = INT32_MAX;
    c->head.ops->attention((struct backend *)(void *)c, &a);
}

static void bench(struct cuda *c, const struct shape *s)
{
    struct state t;
    make(c, &t, s);
    call(c, &t, 0, t.q, t.o, t.lse); /* brings the step and makes the plan */
    begin_graph(c);
    for (uint32_t l = 0; l < t.layout.n_layers; l++)
        call(c, &t, l, t.q, NULL, NULL); /* as in a model: input rows */
    double us = time_graph(c) / t.layout.n_layers, bytes = (double)(t.tokens * token_bytes(s));
    bool ok = s->gate > 1 ? us <= s->gate : bytes / us >= s->gate * copy_rate;
    printf("{\"row\": \"%s\", \"format\": \"%s\", \"B\": %d, \"ctx\": %d%s, \"rows\": %d, \"kv_heads\": %d, "
           "\"group\": %d, "
           "\"d\": %d, \"block\": %d, \"window\": %d, \"MB\": %.1f, \"us\": %.2f, \"GBps\": %.0f, \"of_C\": %.3f, "
           "\"gate\": %g, "
           "\"ok\": %s}\n",
           s->name, s->format == KV_FORMAT_KV8 ? "kv8" : "kv16", s->n_seqs, s->ctx, s->mixed ? ", \"mixed\": true" : "",
           s->rows, s->n_kv_heads, s->group, s->d, s->block, s->window, bytes / 1048576, us, bytes / us * 1e-3,
           bytes / us / copy_rate, s->gate, ok ? "true" : "false");
    fflush(stdout);
    unmake(&t);
}

/* Largest difference to the plain kernel, which takes queries that are not aligned. */
static void check(struct cuda *c, const struct shape *s)
{
    struct state t;
    make(c, &t, s);
    size_t heads = (size_t)t.step.n_rows * (size_t)(s->n_kv_heads * s->group);
    float *host = (float *)malloc(2 * (t.n_o + heads) * sizeof *host), *lse = host + 2 * t.n_o, o_off = 0, lse_off = 0;
    CU(cudaMemsetAsync(t.o, 0xff, 2 * t.n_o * sizeof *t.o, c->stream));
    CU(cudaMemsetAsync(t.lse, 0xff, 2 * heads * sizeof *t.lse, c->stream));
    call(c, &t, t.layout.n_layers - 1, t.q, t.o, t.lse);
    float *q = (float *)card(t.n_q * sizeof *q);
    CU(cudaMemcpyAsync(q + 1, t.q, (t.n_q - 1) * sizeof *q, cudaMemcpyDeviceToDevice, c->stream));
    call(c, &t, t.layout.n_layers - 1, q + 1, t.o + t.n_o, t.lse + heads);
    CU(cudaMemcpyAsync(host, t.o, 2 * t.n_o * sizeof *host, cudaMemcpyDeviceToHost, c->stream));
    CU(cudaMemcpyAsync(lse, t.lse, 2 * heads * sizeof *host, cudaMemcpyDeviceToHost, c->stream));
    CU(cudaStreamSynchronize(c->stream));
    double square = 0, all = 0;
    for (size_t i = 0; i < t.n_o; i++) {
        float d = fabsf(host[i] - host[t.n_o + i]);
        o_off = d <= o_off ? o_off : d; /* NaN stays */
        square += (double)d * d;
        all += (double)host[t.n_o + i] * host[t.n_o + i];
    }
    for (size_t i = 0; i < heads; i++)
        lse_off = fabsf(lse[i] - lse[heads + i]) <= lse_off ? lse_off : fabsf(lse[i] - lse[heads + i]);
    printf("{\"check\": \"%s\", \"B\": %d, \"ctx\": %d, \"rows\": %d, \"group\": %d, \"d\": %d, \"window\": %d, "
           "\"o_norm\": "
           "%.2e, \"o_max\": %.2e, \"lse_max\": %.2e, \"ok\": %s}\n",
           s->name, s->n_seqs, s->ctx, s->rows, s->group, s->d, s->window, sqrt(square / all), o_off, lse_off,
           sqrt(square / all) < 0.01 && lse_off < 0.01 ? "true" : "false");
    fflush(stdout);
    CU(cudaFree(q));
    free(host);
    unmake(&t);
}

#define KV16 KV_FORMAT_KV16
#define KV8  KV_FORMAT_KV8
/* Deterministic: each row of the case in a step of its own has the same bits. */
static void check_company(struct cuda *c, const struct shape *s)
{
    struct state t;
    make(c, &t, s);
    const struct step all = t.step;
    size_t width = (size_t)(s->n_kv_heads * s->group * s->d);
    float *host = (float *)malloc(2 * width * sizeof *host);
    int32_t differ = 0;
    CU(cudaMemsetAsync(t.o, 0xff, 2 * t.n_o * sizeof *t.o, c->stream));
    call(c, &t, 0, t.q, t.o, t.lse);
    for (int32_t i = 0; i < s->n_seqs; i++) {
        int32_t row_seq = 0, seq_row[2] = {0, 1}, table_at[2] = {0, all.table_at[i + 1] - all.table_at[i]};
        t.step.number = all.number + 1000000 + (uint64_t)i;
        t.step.n_rows = t.step.n_seqs = 1;
        t.step.pos = all.pos + i;
        t.step.row_seq = &row_seq;
        t.step.seq_row = seq_row;
        t.step.table = all.table + all.table_at[i];
        t.step.table_at = table_at;
        call(c, &t, 0, t.q + i * width, t.o + t.n_o, t.lse);
        CU(cudaMemcpyAsync(host, t.o + i * width, width * sizeof *host, cudaMemcpyDeviceToHost, c->stream));
        CU(cudaMemcpyAsync(host + width, t.o + t.n_o, width * sizeof *host, cudaMemcpyDeviceToHost, c->stream));
        CU(cudaStreamSynchronize(c->stream));
        differ += memcmp(host, host + width, width * sizeof *host) != 0;
    }
    printf("{\"check\": \"company\", \"B\": %d, \"ctx\": %d, \"group\": %d, \"d\": %d, \"rows_that_differ\": %d, "
           "\"ok\": %s}\n",
           s->n_seqs, s->ctx, s->group, s->d, differ, differ ? "false" : "true");
    fflush(stdout);
    free(host);
    t.step = all;
    unmake(&t);
}

/* name format B ctx | kv heads, group, d, rows, block, window | mixed, gate */
static const struct shape shapes[] = {
    {"K1", KV16, 16, 1024, 8, 4, 128, 1, 64, 0, false, 0.75},
    {"K1", KV16, 16, 1024, 8, 8, 128, 1, 64, 0, false, 0.75},
    {"K1", KV16, 1, 16384, 8, 4, 128, 1, 64, 0, false, 0.75},
    {"K1", KV16, 32, 1024, 8, 4, 128, 1, 64, 0, false, 0.88},
    {"K1", KV16, 1, 32768, 8, 8, 128, 1, 64, 0, false, 0.88},
    {"K1", KV16, 32, 4096, 8, 4, 128, 1, 64, 0, false, 0.93},
    {"K1", KV16, 32, 4096, 8, 8, 128, 1, 64, 0, false, 0.93},
    {"K1", KV16, 1, 131072, 8, 4, 128, 1, 64, 0, false, 0.93},
    {"K1", KV16, 128, 1024, 8, 4, 128, 1, 64, 0, true, 0.93},
    {"K2", KV16, 1, 1024, 8, 4, 128, 1, 64, 0, false, 9},
    {"K2", KV16, 1, 1024, 8, 8, 128, 1, 64, 0, false, 9},
    {"K3", KV8, 32, 4096, 8, 4, 128, 1, 64, 0, false, 0.82},
    {"K3", KV8, 32, 4096, 8, 8, 128, 1, 64, 0, false, 0.82},
    {"K3", KV8, 1, 131072, 8, 4, 128, 1, 64, 0, false, 0.82},
    {"K3", KV8, 128, 2048, 8, 4, 128, 1, 64, 0, true, 0.82},
    {"extra", KV8, 1, 1024, 8, 4, 128, 1, 64, 0, false, 9},
    {"extra", KV8, 256, 1024, 8, 4, 64, 1, 64, 0, false, 0.82},
    {"extra", KV16, 256, 1024, 8, 4, 128, 1, 16, 0, false, 0.93},
    {"extra", KV16, 256, 1024, 8, 4, 64, 1, 64, 0, false, 0.93},
    {"extra", KV16, 32, 4096, 8, 4, 256, 1, 64, 0, false, 0.93},
    {"extra", KV16, 32, 4096, 8, 4, 128, 4, 64, 0, false, 0.9},
    {"extra", KV16, 32, 8192, 8, 4, 128, 1, 64, 1024, false, 0.88},
    {"extra", KV16, 1, 256, 8, 4, 128, 1, 64, 0, false, 9},
    {"extra", KV16, 1, 8192, 8, 4, 128, 1, 64, 0, false, 0.5},
    {"check", KV16, 1, 1000, 8, 4, 128, 1, 64, 0, false, 0},
    {"check", KV16, 5, 3001, 8, 5, 128, 1, 16, 0, true, 0},
    {"check", KV16, 2, 70001, 2, 8, 64, 3, 32, 0, true, 0},
    {"check", KV16, 3, 50000, 3, 3, 256, 8, 128, 9999, true, 0},
    {"check", KV16, 200, 300, 8, 4, 128, 1, 64, 0, true, 0},
    {"check", KV16, 7, 5000, 1, 16, 128, 8, 64, 0, true, 0},
    {"check", KV8, 5, 3001, 8, 5, 128, 1, 16, 0, true, 0},
    {"check", KV8, 2, 70001, 2, 8, 64, 3, 32, 0, true, 0},
    {"check", KV8, 3, 20000, 3, 3, 256, 8, 128, 9999, true, 0},
    {"fixed", KV16, 40, 5000, 8, 4, 128, 1, 64, 0, true, 0},
    {"fixed", KV8, 9, 30000, 2, 5, 64, 1, 32, 7000, true, 0},
    {"fixed", KV16, 16, 1024, 8, 4, 128, 1, 64, 0, false, 0.5},
    {"fixed", KV16, 32, 4096, 8, 4, 128, 1, 64, 0, false, 0.5},
    {"fixed", KV16, 1, 131072, 8, 4, 128, 1, 64, 0, false, 0.5},
    {"fixed", KV16, 128, 1024, 8, 4, 128, 1, 64, 0, true, 0.5},
    {"fixed", KV16, 32, 1024, 8, 4, 128, 1, 64, 0, false, 0.5},
    {"fixed", KV16, 1, 1024, 8, 4, 128, 1, 64, 0, false, 20},
    {"fixed", KV8, 32, 4096, 8, 4, 128, 1, 64, 0, false, 0.25},
    {"fixed", KV8, 1, 131072, 8, 4, 128, 1, 64, 0, false, 0.25},
    {"tiny", KV16, 5, 300, 2, 5, 128, 3, 16, 0, true, 0},
    {"tiny", KV8, 5, 300, 2, 9, 64, 1, 32, 100, true, 0},
};

static void run(struct cuda *c, const struct shape *s)
{
    bool fixed = strcmp(s->name, "fixed") == 0; /* come last but for `tiny`, which sanitizers see so */
    c->deterministic |= fixed;
    if (s->gate == 0)
        check(c, s);
    if (s->gate == 0 && fixed)
        check_company(c, s);
    if (s->gate > 0)
        bench(c, s);
}

int main(int argc, char **argv)
{
    struct backend *be;
    struct backend_opts o = {};
    struct err e;
    o.max_rows = 1024;
    o.max_cols = 8;
    if (hearth_backend_cuda.open(&be, &o, &e)) {
        printf("SKIP bench_attn: %s\n", e.text);
        return 0;
    }
    struct cuda *c = cuda_of(be);
    if (argc < 2 || strcmp(argv[1], "tiny") != 0) /* sanitizers */
        probe(c);
    for (const struct shape &s : shapes) {
        bool wanted = argc < 2;
        for (int i = 1; i < argc; i++)
            wanted |= strcmp(argv[i], s.name) == 0;
        if (wanted)
            run(c, &s);
    }
    hearth_backend_cuda.close(be);
    return 0;
}
