/* test_cuda_fixed - deterministic mode of the CUDA backend, op by op: the bits of a row are those that it has alone, in
 * any company and however its sequence is cut.
 *
 * Linear layers in the shapes of real models, near the truth and alike for up to 300 rows and some more up to 2,048;
 * attention of every row as a step of one row, as a chunk, beside others, against all rows at once. With HEARTH_SMALL
 * set (sanitizers) small layers alone.
 */
#define OPS_CUDA
#include "tests/support/ops_check.h"
#include "tests/support/ops_trio.h"
#include "tests/support/ops_truth.h"
#include "tests/support/unit.h"

#include "engine/base/f16.h"
#include "engine/base/rng.h"

#include <math.h>
#include <string.h>

/* -- linear layers ----------------------------------------------------------------------------------------------- */

enum { MOST = 2048 };

static const struct layer_dims {
    int32_t n, k;
    bool silu, fp8;
} layers[] = {
    {6144, 4096, false, false}, {16384, 2048, true, false}, {2048, 8192, false, false}, {960, 576, false, false},
    {576, 1536, false, false},  {3072, 576, true, false},   {64, 64, false, false},     {48, 72, true, false},
    {49152, 576, false, false}, {3072, 2048, false, true},  {16384, 2048, true, true},  {960, 576, false, true},
};

struct layer {
    const struct backend_ops *ops;
    struct backend *be;
    struct layer_dims d;
    struct weight w;
    uint16_t *w_host, *x_host;
    uint8_t *x;         /* [MOST] input rows on the card */
    void *out, *gu;     /* on the card: as many rows of results, and scratch of silu */
    size_t row;         /* bytes of a row of results */
    uint8_t *all, *got; /* results of MOST rows at once; of some */
};

/* Values in [-1, 1], as bfloat16. */
static uint16_t *noise(uint64_t seed, size_t n)
{
    uint16_t *x = malloc(n * sizeof *x);
    ck_assert_ptr_nonnull(x);
    for (size_t i = 0; i < n; i++)
        x[i] = bf16_from_f32((float)(int32_t)(rng_next(&seed) >> 33) * 0x1p-30f - 1);
    return x;
}

static void layer_open(struct layer *l, const struct backend_ops *ops, const struct layer_dims *d)
{
    struct backend_opts o = {.max_rows = MOST, .max_cols = d->k, .max_vocab = 32, .deterministic = true};
    struct err e = {0};
    *l = (struct layer){.ops = ops, .d = *d, .row = d->silu ? ops_input_bytes(ops, d->n / 2) : 4 * (size_t)d->n};
    ck_assert_msg(ops->open(&l->be, &o, &e) == 0, "%s", e.text);
    size_t in = ops_input_bytes(ops, d->k);
    ck_assert_uint_eq(in, 2 * (size_t)d->k);
    uint16_t *w = l->w_host = noise(1, (size_t)d->n * (size_t)d->k), *x = l->x_host = noise(2, MOST * (size_t)d->k);
    struct weight_part part = {.data = w, .dtype = DT_BF16, .rows = d->n, .cols = d->k, .row_bytes = in};
    part.keep = d->fp8 ? DT_F8 : 0;
    ck_assert_msg(ops->weight_load(l->be, &l->w, &part, 1, &e) == 0, "%s", e.text);
    l->x = ops->alloc(l->be, MOST * in);
    l->out = ops->alloc(l->be, MOST * l->row);
    l->gu = ops->alloc(l->be, MOST * 4 * (size_t)d->n);
    l->all = malloc(MOST * l->row);
    l->got = malloc(MOST * l->row);
    ck_assert(l->x && l->out && l->gu && l->all && l->got);
    ops->upload(l->be, l->x, x, MOST * in);
    ops->sync(l->be);
}

static void layer_close(struct layer *l)
{
    l->ops->sync(l->be);
    l->ops->release(l->be, l->x, 0);
    l->ops->release(l->be, l->out, 0);
    l->ops->release(l->be, l->gu, 0);
    l->ops->weight_free(l->be, &l->w);
    l->ops->close(l->be);
    free(l->all), free(l->got);
    free(l->w_host), free(l->x_host);
}

/* Rows [t0, t0 + n) of x. */
static void layer_run(struct layer *l, int32_t t0, int32_t n, uint8_t *to)
{
    const uint8_t *x = l->x + (size_t)t0 * 2 * (size_t)l->d.k;
    if (l->d.silu)
        l->ops->linear_silu(l->be, l->out, l->gu, x, &l->w, n);
    else
        l->ops->linear(l->be, l->out, x, &l->w, n);
    l->ops->download(l->be, to, l->out, (size_t)n * l->row);
}

static void check_some(struct layer *l, int32_t t0, int32_t n)
{
    memset(l->got, 0xff, (size_t)n * l->row);
    layer_run(l, t0, n, l->got);
    for (int32_t t = 0; t < n; t++)
        ck_assert_msg(memcmp(l->got + (size_t)t * l->row, l->all + (size_t)(t0 + t) * l->row, l->row) == 0,
                      "N=%d K=%d silu %d fp8 %d: row %d of %d from row %d has other bits than in %d", l->d.n, l->d.k,
                      l->d.silu, l->d.fp8, t, n, t0, MOST);
}

static double sum_of(const struct layer *l, int32_t t, int32_t j)
{
    const uint16_t *w = l->w_host + (size_t)j * (size_t)l->d.k, *x = l->x_host + (size_t)t * (size_t)l->d.k;
    double sum = 0;
    for (int32_t k = 0; k < l->d.k; k++)
        sum += (double)bf16_to_f32(w[k]) * (double)bf16_to_f32(x[k]);
    return sum;
}

/* Some of all results against sums in double: over their norm, within rounding of the result (SwiGLU: of its inputs,
 * too, in bfloat16), or of weights and rows to 8 bits. */
static void check_near_truth(const struct layer *l, uint64_t *seed)
{
    const int32_t cols = l->d.silu ? l->d.n / 2 : l->d.n;
    double wrong = 0, norm = 0, most = l->d.fp8 ? 0.12 : l->d.silu ? 0.02 : 1e-3;
    for (int i = 0; i < 200; i++) {
        int32_t t = (int32_t)(rng_next(seed) % MOST), j = (int32_t)(rng_next(seed) % (uint64_t)cols);
        const uint8_t *row = l->all + (size_t)t * l->row;
        double got, want = sum_of(l, t, j);
        if (l->d.silu) {
            want = want / (1 + exp(-want)) * sum_of(l, t, cols + j);
            got = (double)bf16_to_f32(((const uint16_t *)(const void *)row)[j]);
        } else {
            got = (double)((const float *)(const void *)row)[j];
        }
        wrong += (got - want) * (got - want);
        norm += want * want;
    }
    ck_assert_msg(sqrt(wrong) <= most * sqrt(norm), "N=%d K=%d silu %d fp8 %d: off by %g of the norm, at most %g",
                  l->d.n, l->d.k, l->d.silu, l->d.fp8, sqrt(wrong / norm), most);
}

START_TEST(test_a_linear_layer_gives_a_row_the_same_bits_beside_any_others)
{
    static const int32_t more[] = {301, 320, 384, 400, 511, 512, 513, 640, 777, 1000, 1024, 1025, 1536, 2000, 2047};
    const struct backend_ops *ops = ops_cuda("a_linear_layer_gives_a_row_the_same_bits_beside_any_others");
    uint64_t seed = unit_seed("a_linear_layer_gives_a_row_the_same_bits_beside_any_others");
    for (size_t i = 0; ops && i < sizeof layers / sizeof *layers; i++) {
        struct layer l;
        if (ops_small() && layers[i].n * layers[i].k > 2 << 20)
            continue;
        if (ops_small() > 3) /* racecheck breaks off here; the kernels of ours are those of test_cuda_linear */
            continue;
        layer_open(&l, ops, &layers[i]);
        layer_run(&l, 0, MOST, l.all);
        check_near_truth(&l, &seed);
        for (int32_t n = 1; n <= 300; n += ops_small() ? 61 : n < 40 ? 1 : l.d.n > 8192 ? 37 : 5)
            check_some(&l, (int32_t)(rng_next(&seed) % (uint64_t)(MOST - n + 1)), n);
        for (size_t k = 0; k < (ops_small() ? 2 : sizeof more / sizeof *more); k++)
            check_some(&l, (int32_t)(rng_next(&seed) % (uint64_t)(MOST - more[k] + 1)), more[k]);
        layer_close(&l);
    }
}
END_TEST

/* -- attention --------------------------------------------------------------------------------------------------- */

static const struct ops_kv_dims shapes[] = {
    /* head_dim, kv heads, group, block, format, sequences, past, new */
    {128, 2, 4, 64, KV_FORMAT_KV16, 1, 600, 150}, {128, 2, 4, 64, KV_FORMAT_KV16, 4, 200, 38},
    {128, 1, 7, 16, KV_FORMAT_KV16, 2, 300, 70},  {128, 3, 3, 128, KV_FORMAT_KV16, 3, 300, 50},
    {64, 3, 3, 64, KV_FORMAT_KV16, 1, 500, 150},  {64, 2, 8, 16, KV_FORMAT_KV16, 3, 300, 50},
    {256, 1, 4, 64, KV_FORMAT_KV16, 2, 200, 70},  {80, 2, 4, 64, KV_FORMAT_KV16, 2, 150, 60},
    {96, 1, 16, 64, KV_FORMAT_KV16, 1, 300, 60},  {128, 2, 4, 64, KV_FORMAT_KV16, 2, 9000, 40},
    {64, 1, 2, 32, KV_FORMAT_KV16, 2, 12000, 12}, {256, 1, 8, 64, KV_FORMAT_KV16, 2, 9000, 60},
    {128, 2, 4, 64, KV_FORMAT_KV8, 3, 300, 50},   {64, 3, 3, 16, KV_FORMAT_KV8, 2, 500, 70},
    {256, 1, 4, 64, KV_FORMAT_KV8, 2, 200, 40},   {128, 2, 4, 64, KV_FORMAT_KV32, 2, 100, 40},
    {20, 2, 2, 16, KV_FORMAT_KV16, 2, 100, 40},
};
#define N_SHAPES ((int)(sizeof shapes / sizeof *shapes))

static void on_both(const char *test, int rounds, void (*check)(struct ops_trio *))
{
    const struct backend_ops *ops = ops_cuda(test);
    const struct ops_variant v[] = {{.ops = ops, .threads = 1, .deterministic = true},
                                    {.ops = ops, .isa = "sm_80", .threads = 1, .deterministic = true}};
    if (ops)
        ops_run_each(v, 2, test, rounds, check);
}

struct attn_case {
    struct ops_kv_case kv;
    struct attn_args a;
    float *sink;
};

static void make_case(struct ops_trio *t, struct attn_case *p)
{
    const struct ops_kv_dims *d = &shapes[t->round % N_SHAPES];
    ops_kv_case_make(&p->kv, &t->rng, d, 1);
    p->sink = ops_gauss_array(&t->rng, (size_t)p->kv.n_heads, 2);
    ops_attn_random(&p->a, &t->rng, &p->kv, p->sink);
    if (t->round < N_SHAPES) { /* each shape once over all keys */
        p->a.window = 0;
        p->a.key_begin = 0;
        p->a.key_end = INT32_MAX;
    }
    if (d->max_past > 5000) /* over several parts of the keys */
        p->a.window *= 40;
    ops_note("fixed round %d: D=%d G=%d group %d block %d format %u T=%d S=%d window %d keys %d..%d sink %d", t->round,
             d->head_dim, d->n_kv_heads, d->group, d->block_tokens, d->format, p->kv.step.n_rows, p->kv.step.n_seqs,
             p->a.window, p->a.key_begin, p->a.key_end, p->a.sink != NULL);
}

static void free_case(struct attn_case *p)
{
    free(p->sink);
    ops_kv_case_free(&p->kv);
}

/* The rows of `step`, whose queries are rows pick[0 ..] of the case; free o and lse_ln. */
static struct attn_partial attend(const struct ops_dev *d, const struct attn_case *p, const struct step *step,
                                  const int32_t *pick)
{
    struct attn_args a = p->a;
    const size_t heads = (size_t)step->n_rows * (size_t)a.n_heads, row = (size_t)a.q_stride;
    float *q = malloc((size_t)step->n_rows * row * sizeof *q);
    ck_assert_ptr_nonnull(q);
    for (int32_t t = 0; t < step->n_rows; t++)
        memcpy(q + (size_t)t * row, p->a.q + (size_t)pick[t] * row, row * sizeof *q);
    a.step = step;
    a.q = q;
    a.out = (struct attn_partial){ops_floats(heads * p->kv.kv.head_dim), ops_floats(heads)};
    ops_attention(d, &a, p->kv.pool_bytes);
    free(q);
    return a.out;
}

static void free_partial(struct attn_partial x)
{
    free(x.o);
    free(x.lse_ln);
}

static void expect_rows(const struct attn_case *p, struct attn_partial got, struct attn_partial all,
                        const int32_t *pick, int32_t n)
{
    const size_t h = (size_t)p->a.n_heads, row = h * p->kv.kv.head_dim;
    for (int32_t t = 0; t < n; t++) {
        ops_expect_bits("o", got.o + (size_t)t * row, all.o + (size_t)pick[t] * row, row);
        ops_expect_bits("lse", got.lse_ln + (size_t)t * h, all.lse_ln + (size_t)pick[t] * h, h);
    }
}

static int32_t *in_order(int32_t n, int32_t from)
{
    int32_t *pick = calloc((size_t)n + 1, sizeof *pick);
    ck_assert_ptr_nonnull(pick);
    for (int32_t i = 0; i < n; i++)
        pick[i] = from + i;
    return pick;
}

/* Rows [t0, t0 + n), all of sequence s, as a step of their own. */
static void check_chunk(struct ops_trio *t, const struct attn_case *p, struct attn_partial all, int32_t s, int32_t t0,
                        int32_t n)
{
    const struct step *of = &p->kv.step;
    int32_t seq_row[2] = {0, n}, table_at[2] = {0, of->table_at[s + 1] - of->table_at[s]};
    int32_t *row_seq = calloc((size_t)n, sizeof *row_seq), *pick = in_order(n, t0);
    struct step st = {.number = ops_next_step(), .n_rows = n, .n_seqs = 1, .ids = of->ids + t0, .pos = of->pos + t0};
    st.row_seq = row_seq;
    st.seq_row = seq_row;
    st.table = of->table + of->table_at[s];
    st.table_at = table_at;
    struct attn_partial got = attend(&t->one, p, &st, pick);
    expect_rows(p, got, all, pick, n);
    free_partial(got);
    free(row_seq), free(pick);
}

/* Some rows, each a sequence of its own: as if they were generated. */
static void check_alone(struct ops_trio *t, const struct attn_case *p, struct attn_partial all, int32_t n)
{
    int32_t *pick = ops_shuffled(&t->rng, p->kv.step.n_rows);
    n = n < p->kv.step.n_rows ? n : p->kv.step.n_rows;
    struct step st = ops_step_of_rows(&p->kv, pick, n);
    struct attn_partial got = attend(&t->one, p, &st, pick);
    expect_rows(p, got, all, pick, n);
    free_partial(got);
    free((void *)st.ids);
    free(pick);
}

static void check_bits(struct ops_trio *t)
{
    struct attn_case p;
    make_case(t, &p);
    const struct step *st = &p.kv.step;
    int32_t *pick = in_order(st->n_rows, 0);
    struct attn_partial all = attend(&t->one, &p, st, pick);
    for (int32_t s = 0; s < st->n_seqs; s++)
        for (int32_t n, t0 = st->seq_row[s]; t0 < st->seq_row[s + 1]; t0 += n) {
            n = ops_int(&t->rng, 1, ops_int(&t->rng, 1, 60));
            n = n < st->seq_row[s + 1] - t0 ? n : st->seq_row[s + 1] - t0;
            check_chunk(t, &p, all, s, t0, n);
        }
    check_alone(t, &p, all, 1);
    check_alone(t, &p, all, 7);
    check_alone(t, &p, all, OPS_MAX_ROWS);
    free_partial(all);
    free(pick);
    free_case(&p);
}

START_TEST(test_attention_gives_a_row_the_same_bits_alone_in_chunks_and_in_company)
{
    on_both("attention_gives_a_row_the_same_bits_alone_in_chunks_and_in_company", 2 * N_SHAPES, check_bits);
}
END_TEST

static void check_truth(struct ops_trio *t)
{
    struct attn_case p;
    make_case(t, &p);
    int32_t *pick = in_order(p.kv.step.n_rows, 0);
    struct attn_partial got = attend(&t->one, &p, &p.kv.step, pick), want = attend(&t->ref, &p, &p.kv.step, pick);
    size_t heads = (size_t)p.kv.step.n_rows * (size_t)p.a.n_heads, row = (size_t)p.a.n_heads * p.kv.kv.head_dim;
    double *o = ops_doubles(want.o, heads * p.kv.kv.head_dim), *lse = ops_doubles(want.lse_ln, heads);
    double *tol = ops_doubles(NULL, heads);
    for (size_t i = 0; i < heads; i++)
        tol[i] = 0x1p-6;
    for (int32_t r = 0; r < p.kv.step.n_rows; r++)
        ops_expect_near("o", got.o + r * row, o + r * row, row, 0x1p-7);
    ops_expect_within("lse", got.lse_ln, lse, tol, heads);
    free(tol), free(lse), free(o), free(pick);
    free_partial(got), free_partial(want);
    free_case(&p);
}

START_TEST(test_attention_is_near_the_truth)
{
    on_both("attention_is_near_the_truth", N_SHAPES, check_truth);
}
END_TEST

UNIT_MAIN("cuda_fixed", test_a_linear_layer_gives_a_row_the_same_bits_beside_any_others,
          test_attention_gives_a_row_the_same_bits_alone_in_chunks_and_in_company, test_attention_is_near_the_truth)
