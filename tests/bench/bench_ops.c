/* bench_ops - each op of cpu_fast at the shapes of SmolLM2-135M: one row, 8 rows, 512 rows.
 *
 * usage: bench_ops [threads] [isa] [seconds of each line]
 * Beside them, in the same run, what the machine gives: reading memory with the same threads, and the multiply-adds of
 * the 16-bit and the float instructions that the kernels rest on. Weights are 30 layers and a head, used in turn, so
 * that they come from where they come from in a model. The best of many repetitions counts: others use the machine too.
 */
#include "engine/base/rng.h"
#include "engine/base/sys.h"
#include "engine/compute/backend.h"
#include "engine/compute/cpu_fast_pool.h"

#include <immintrin.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { E = 576, F = 1536, H = 9, G = 3, D = 64, LAYERS = 30, VOCAB = 49152, ROWS = 512, CTX = 4096, BLOCK = 64 };
enum { QKV, OUT, GATE_UP, DOWN, MATRICES };

static const struct {
    const char *name;
    int32_t rows, cols;
} shapes[MATRICES] = {{"qkv", (H + 2 * G) * D, E}, {"out", E, E}, {"gate_up", 2 * F, E}, {"down", E, F}};

struct bench {
    struct backend *be;
    const struct backend_ops *op;
    struct weight layer[LAYERS][MATRICES], head;
    float *x, *y; /* [ROWS][VOCAB / 8] */
    float *norm;
    struct kv_view kv;
    int32_t *table, pos[ROWS], seq[ROWS], first[ROWS + 1], table_at[ROWS + 1];
    struct step step;
    double wanted;
    int32_t m; /* rows of the case */
    int32_t matrix;
};

static clockid_t watch = CLOCK_MONOTONIC; /* one thread: its processor time, so that others' load counts less */

static double seconds(void)
{
    struct timespec t;
    clock_gettime(watch, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Best time of fn over b->wanted seconds. */
static double best(struct bench *b, void (*fn)(struct bench *))
{
    double least = 1e9, end = seconds() + b->wanted;
    fn(b);
    for (double t = seconds(), u; t < end || least > 1e8; t = u) {
        fn(b);
        u = seconds();
        least = u - t < least ? u - t : least;
    }
    return least;
}

/* -- what the machine gives */

struct probe {
    uint8_t *bytes;
    size_t each;
};

static void __attribute__((target("avx2"))) read_piece(void *ctx, int32_t piece, int32_t thread)
{
    struct probe *p = ctx;
    const uint8_t *at = p->bytes + (size_t)piece * p->each;
    __m256i a = _mm256_setzero_si256(), b = a;
    for (size_t i = 0; i < p->each; i += 128) {
        a = _mm256_add_epi8(a, _mm256_load_si256((const __m256i *)(const void *)(at + i)));
        b = _mm256_add_epi8(b, _mm256_load_si256((const __m256i *)(const void *)(at + i + 32)));
        a = _mm256_add_epi8(a, _mm256_load_si256((const __m256i *)(const void *)(at + i + 64)));
        b = _mm256_add_epi8(b, _mm256_load_si256((const __m256i *)(const void *)(at + i + 96)));
    }
    volatile int keep = _mm256_extract_epi32(_mm256_add_epi8(a, b), 0);
    (void)keep;
}

enum { PEAK_LOOPS = 20000 };

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* 8 chains of madd + add: 16 multiply-adds each. */
static void __attribute__((target("avx2"))) int16_piece(void *ctx, int32_t piece, int32_t thread)
{
    __m256i s[8], w = _mm256_set1_epi8(1);
    for (int i = 0; i < 8; i++)
        s[i] = w;
    for (int n = 0; n < PEAK_LOOPS; n++)
        UNROLL for (int i = 0; i < 8; i++)
        {
            __asm__ volatile("" : "+x"(w));
            s[i] = _mm256_add_epi32(s[i], _mm256_madd_epi16(w, w));
        }
    for (int i = 0; i < 8; i++)
        __asm__ volatile("" : : "x"(s[i]));
}

/* 10 chains of fused multiply-adds of 8 floats. */
static void __attribute__((target("avx2,fma"))) float_piece(void *ctx, int32_t piece, int32_t thread)
{
    __m256 s[10], w = _mm256_set1_ps(0.5f);
    for (int i = 0; i < 10; i++)
        s[i] = w;
    for (int n = 0; n < PEAK_LOOPS; n++)
        UNROLL for (int i = 0; i < 10; i++)
        {
            __asm__ volatile("" : "+x"(w));
            s[i] = _mm256_fmadd_ps(w, w, s[i]);
        }
    for (int i = 0; i < 10; i++)
        __asm__ volatile("" : : "x"(s[i]));
}

static double best_job(struct fast_pool *pool, fast_piece_fn *fn, void *ctx, int32_t n, double wanted)
{
    double least = 1e9, end = seconds() + wanted;
    for (double t = seconds(), u; t < end; t = u) {
        fast_pool_run(pool, fn, ctx, n);
        u = seconds();
        least = u - t < least ? u - t : least;
    }
    return least;
}

static void probe(struct bench *b, int32_t threads)
{
    struct fast_pool *pool;
    struct err e;
    struct probe p = {.each = 1 << 20};
    int32_t n = 96;
    if (fast_pool_open(&pool, threads, &e) != 0)
        exit(1);
    p.bytes = b->op->alloc(b->be, p.each * (size_t)n);
    memset(p.bytes, 1, p.each * (size_t)n);
    double t = best_job(pool, read_piece, &p, n, b->wanted);
    printf("probe read %.0f MB          %8.1f GB/s\n", (double)n, (double)p.each * n / t * 1e-9);
    t = best_job(pool, int16_piece, NULL, threads, b->wanted);
    printf("probe int16 (AVX2)         %8.1f GMAC/s\n", (double)threads * PEAK_LOOPS * 8 * 16 / t * 1e-9);
    t = best_job(pool, float_piece, NULL, threads, b->wanted);
    printf("probe float (AVX2)         %8.1f GMAC/s\n", (double)threads * PEAK_LOOPS * 10 * 8 / t * 1e-9);
    b->op->release(b->be, p.bytes, p.each * (size_t)n);
    fast_pool_close(pool);
}

/* -- the cases */

static void linears(struct bench *b)
{
    for (int l = 0; l < LAYERS; l++)
        b->op->linear(b->be, b->y, b->x, &b->layer[l][b->matrix], b->m);
}

static void head(struct bench *b)
{
    b->op->linear(b->be, b->y, b->x, &b->head, b->m);
}

static void norm(struct bench *b)
{
    b->op->add_norm(b->be, b->y, b->x, b->y, b->norm, 1e-5f, b->m, E);
}

static void silu(struct bench *b)
{
    b->op->silu_mul(b->be, b->y, b->x, b->m, F);
}

static void embed(struct bench *b)
{
    struct step st = {.n_rows = b->m, .ids = b->seq};
    b->op->embed(b->be, b->y, &b->head, &st);
}

static void rope(struct bench *b)
{
    float inv[D / 2];
    for (int i = 0; i < D / 2; i++)
        inv[i] = 1.0f / (float)(1 + i * i);
    struct rope_args a = {b->x, &b->step, inv, &b->kv, H, 1};
    b->op->rope_kv(b->be, &a);
}

static void attention(struct bench *b)
{
    struct attn_args a = {.out = {b->y, NULL},
                          .q = b->x,
                          .q_stride = (H + 2 * G) * D,
                          .step = &b->step,
                          .kv = &b->kv,
                          .n_heads = H,
                          .scale = 0.125f,
                          .key_end = INT32_MAX};
    b->op->attention(b->be, &a);
}

/* m rows: of one sequence (chunk), or each the end of its own, at context ctx; all share the same blocks. */
static void make_step(struct bench *b, int32_t m, bool chunk, int32_t ctx)
{
    for (int32_t i = 0; i < m; i++) {
        b->pos[i] = chunk ? ctx - m + i : ctx - 1;
        b->seq[i] = chunk ? 0 : i;
        b->first[i] = chunk ? 0 : i;
        b->table_at[i] = 0;
    }
    b->first[chunk ? 1 : m] = m;
    b->table_at[m] = 0;
    b->m = m;
    b->step = (struct step){.n_rows = m,
                            .n_seqs = chunk ? 1 : m,
                            .pos = b->pos,
                            .row_seq = b->seq,
                            .seq_row = b->first,
                            .table = b->table,
                            .table_at = b->table_at};
}

static void line(const char *name, int32_t m, double t, double bytes, double macs)
{
    printf("%-12s m %3d  %10.2f us %8.1f GB/s %8.1f GMAC/s\n", name, m, t * 1e6, bytes / t * 1e-9, macs / t * 1e-9);
}

static void bench_linear(struct bench *b, int32_t m)
{
    double total = 0;
    b->m = m;
    for (b->matrix = 0; b->matrix < MATRICES; b->matrix++) {
        double n = (double)shapes[b->matrix].rows * shapes[b->matrix].cols, t = best(b, linears);
        line(shapes[b->matrix].name, m, t / LAYERS, n * 20 / 32, n * m);
        total += t;
    }
    b->m = m < 64 ? m : 1; /* prefill needs one row of logits */
    double t = best(b, head);
    line("head", b->m, t, (double)VOCAB * E * 34 / 32, (double)VOCAB * E * b->m);
    printf("all linears  m %3d  %10.2f us\n", m, (total + t) * 1e6);
}

static void bench_rows(struct bench *b, int32_t m, bool chunk, int32_t ctx)
{
    make_step(b, m, chunk, ctx);
    double macs = 0;
    for (int32_t i = 0; i < m; i++)
        macs += 2.0 * H * D * (b->pos[i] + 1);
    double t = best(b, attention);
    printf("attention over %4d: ", ctx);
    line("", m, t, (chunk ? 1.0 : m) * ctx * G * D * 4.0, macs);
    if (ctx != 512)
        return;
    line("rope_kv", m, best(b, rope), 0, 0);
    line("add_norm", m, best(b, norm), 16.0 * m * E, 0);
    line("silu_mul", m, best(b, silu), 12.0 * m * F, 0);
    line("embed", m, best(b, embed), 4.0 * m * E, 0);
}

/* -- set-up */

static void load(struct bench *b, struct weight *w, uint32_t dtype, int32_t rows, int32_t cols, const uint8_t *noise)
{
    struct weight_part p = {
        .data = noise, .dtype = dtype, .rows = rows, .cols = cols, .row_bytes = quant_row_bytes(dtype, cols)};
    struct err e;
    if (b->op->weight_load(b->be, w, &p, 1, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        exit(1);
    }
}

static void fill(struct bench *b)
{
    size_t n = quant_row_bytes(DT_Q8_0, E) * VOCAB;
    uint8_t *noise = malloc(n);
    uint64_t state = 1;
    for (size_t i = 0; i < n; i++) /* halves stay finite and small: the high byte of a scale is never above 0x1f */
        noise[i] = (uint8_t)rng_next(&state) & 0x1f;
    load(b, &b->head, DT_Q8_0, VOCAB, E, noise);
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < MATRICES; i++)
            load(b, &b->layer[l][i], DT_Q4_1, shapes[i].rows, shapes[i].cols, noise);
    free(noise);
    size_t floats = (size_t)ROWS * VOCAB / 8;
    b->x = b->op->alloc(b->be, floats * 4);
    b->y = b->op->alloc(b->be, floats * 4);
    b->norm = b->op->alloc(b->be, E * 4);
    for (size_t i = 0; i < floats; i++)
        b->x[i] = (float)(rng_next(&state) >> 40) / 8388608.0f - 1;
    b->table = calloc(CTX / BLOCK, sizeof *b->table);
    for (int32_t i = 0; i < CTX / BLOCK; i++)
        b->table[i] = i;
    uint64_t row = D * 2, head_bytes = 2 * row * BLOCK;
    b->kv = (struct kv_view){.block_stride = head_bytes * G,
                             .head_stride = head_bytes,
                             .v_offset = row * BLOCK,
                             .row_stride = row,
                             .block_tokens = BLOCK,
                             .format = KV_FORMAT_KV16,
                             .head_dim = D,
                             .n_kv_heads = G};
    b->kv.base = b->op->alloc(b->be, b->kv.block_stride * CTX / BLOCK);
}

int main(int argc, char **argv)
{
    static struct bench b = {.op = &backend_cpu_fast};
    struct backend_opts o = {
        .threads = argc > 1 ? atoi(argv[1]) : 0, .isa = argc > 2 ? argv[2] : NULL, .max_rows = ROWS, .max_cols = F};
    struct err e;
    b.wanted = argc > 3 ? atof(argv[3]) : 0.5;
    if (b.op->open(&b.be, &o, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    fill(&b);
    if (o.threads == 1)
        watch = CLOCK_THREAD_CPUTIME_ID;
    printf("cpu_fast: %s\n", b.op->describe(b.be));
    probe(&b, o.threads ? o.threads : sys_cpu_count());
    for (int i = 0; i < 3; i++)
        bench_linear(&b, (const int32_t[]){1, 8, ROWS}[i]);
    bench_rows(&b, ROWS, true, 512);
    bench_rows(&b, ROWS, true, 4096);
    bench_rows(&b, 1, false, 128);
    bench_rows(&b, 1, false, 512);
    bench_rows(&b, 1, false, 4096);
    bench_rows(&b, 8, false, 512);
    return 0;
}
