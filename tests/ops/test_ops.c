/* test_ops - every backend against cpu_ref, op by op, with a written tolerance; and its rows against themselves.
 * Attention and merge: test_attention.
 *
 * Tolerances, with u = 2^-24, half a unit in the last place of a float. cpu_ref is right to 1 u (test_ref), so what is
 * allowed here is the backend's own rounding. A bound holds for every element whatever the order of a sum; a mean is
 * over all elements of a case and finds what is a little wrong everywhere.
 *   embed, gather  none: copies. Dequantising is exact but for one addition (Q4_1), which all machines round alike.
 *   add_norm       x: none (one addition). out: (E + 8) u of itself, for a sum of E squares, its root, two products.
 *                  cuda, here and in silu_mul: 2^-8 of itself more, for it is rounded to bfloat16.
 *   linear         (K + 8) u sum|w x| (Higham 2002, eq. 3.5); in the mean sqrt(K) u, for errors have random signs.
 *                  Block types may round x to 16 bits scaled by the block's largest: half a step, amax / 65534, times
 *                  sum|w| for each block of 32 (5 % more for what happens to the scale), and in the mean 4e-5: a step
 *                  is about 1/15000 of the deviation of x, its error that over sqrt(12), twice.
 *                  cuda: against the truth over weights and x rounded to bfloat16, at four times the bounds of float
 *                  types: the tensor cores cut off where the bound takes rounding.
 *   rope_kv        4 u (|a| + |b|): three roundings, cos and sin rounded. v: none. In the pool: the format's bytes of
 *                  the backend's own k and v, and nothing else changed.
 *   silu_mul       16 u of the value (exp, division, two products); what is below 1e-30 may be 0.
 *   sample         none: the CPU backends share sample_row_cpu. cuda: the same token; logprobs to 2e-6 of 1 + |x|.
 */
#include "tests/support/ops_check.h"
#include "tests/support/ops_trio.h"
#include "tests/support/unit.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#define COMPANY 17 /* rows of the batch in which a row must come out as it does alone */

/* -- ops on rows: in[T][n_in] -> out[T][n_out] ------------------------------------------------------------------- */

struct row_op {
    void (*run)(const struct ops_dev *d, const struct row_op *op, float *out, const float *in, int32_t n);
    int32_t n_in, n_out;
    const struct ops_matrix *matrix; /* linear */
    const float *vector;             /* add_norm */
    float eps;
    bool varies; /* the bits may depend on the number of rows */
};

/* The row alone, and in the company of others at another place. */
static void check_rows_alone(struct ops_trio *t, const struct row_op *op, const float *in, const float *out, int32_t n)
{
    int32_t row = ops_int(&t->rng, 0, n - 1), place = ops_int(&t->rng, 0, COMPANY - 1);
    float *others = ops_gauss_array(&t->rng, (size_t)COMPANY * op->n_in, 2),
          *got = ops_floats((size_t)COMPANY * op->n_out);
    const float *mine = in + (size_t)row * op->n_in, *want = out + (size_t)row * op->n_out;
    op->run(&t->one, op, got, mine, 1);
    ops_expect_bits("row alone", got, want, (size_t)op->n_out);
    memcpy(others + (size_t)place * op->n_in, mine, (size_t)op->n_in * sizeof *others);
    op->run(&t->three, op, got, others, COMPANY);
    ops_expect_bits("row among 17", got + (size_t)place * op->n_out, want, (size_t)op->n_out);
    free(got), free(others);
}

/* Run on the truth and on the backend, with one thread and with three; returns both results. */
static void run_rows(struct ops_trio *t, const struct row_op *op, const float *in, int32_t n, float **got, float **want)
{
    size_t all = (size_t)n * op->n_out;
    float *again = ops_floats(all);
    *got = ops_floats(all);
    *want = ops_floats(all);
    op->run(&t->ref, op, *want, in, n);
    op->run(&t->one, op, *got, in, n);
    op->run(&t->three, op, again, in, n);
    ops_expect_bits("three threads", again, *got, all);
    if (!op->varies)
        check_rows_alone(t, op, in, *got, n);
    free(again);
}

/* -- memory ------------------------------------------------------------------------------------------------------ */

static void check_memory(struct ops_trio *t)
{
    const struct backend_ops *ops = t->three.ops;
    struct backend *be = t->three.be;
    size_t bytes = (size_t)ops_int(&t->rng, 0, 1) * 3000000 + (size_t)ops_int(&t->rng, 0, 5000);
    uint8_t *a = ops->alloc(be, bytes), *b = ops->alloc(be, bytes), *zero = calloc(bytes + 1, 1),
            *now = ops_poison(bytes);
    float *x = ops_gauss_array(&t->rng, bytes / 4, 1);
    ops_note("%s alloc %zu", t->three.name, bytes);
    ck_assert(a && b && a != b && (uintptr_t)a % 64 == 0 && (uintptr_t)b % 64 == 0);
    ops->download(be, now, a, bytes);
    ops->sync(be);
    ck_assert_mem_eq(now, zero, bytes);
    ops->upload(be, a, x, bytes / 4 * 4);
    ops->copy(be, b, a, bytes);
    ops->release(be, a, bytes);
    ops->download(be, now, b, bytes);
    ops->sync(be);
    ck_assert_mem_eq(now, x, bytes / 4 * 4);
    ops->release(be, b, bytes);
    free(x), free(now), free(zero);
}

START_TEST(test_memory_comes_zeroed_and_aligned_and_copies)
{
    ops_on_each("memory_comes_zeroed_and_aligned_and_copies", 20, check_memory);
}
END_TEST

/* -- embed, gather ----------------------------------------------------------------------------------------------- */

static const uint32_t types[] = {DT_F32, DT_F16, DT_BF16, DT_Q8_0, DT_Q4_0, DT_Q4_1};

static void check_embed_gather(struct ops_trio *t)
{
    struct ops_rng *r = &t->rng;
    int32_t cols = 32 * ops_int(r, 1, 20), n = ops_int(r, 1, 33), *ids = calloc((size_t)n, sizeof *ids);
    struct ops_matrix m;
    ops_matrix_make(&m, r, &types[t->round % 6], 1, ops_int(r, 1, 50), cols);
    for (int32_t i = 0; i < n; i++)
        ids[i] = ops_int(r, 0, m.rows - 1);
    ops_note("%s embed type %u T=%d E=%d", t->one.name, types[t->round % 6], n, cols);
    float *out[3], *got = ops_floats((size_t)n * cols);
    const struct ops_dev *dev[3] = {&t->ref, &t->one, &t->three};
    for (int i = 0; i < 3; i++) {
        struct weight w;
        out[i] = ops_floats((size_t)n * cols);
        ops_load(dev[i], &w, &m);
        ops_embed(dev[i], out[i], &w, ids, n);
        dev[i]->ops->weight_free(dev[i]->be, &w);
        ops_expect_bits("embedded", out[i], out[0], (size_t)n * cols);
    }
    for (int32_t i = 0; i < n; i++)
        ids[i] = ops_int(r, 0, n - 1);
    ops_gather(&t->three, got, out[0], n, ids, n, cols);
    for (int32_t i = 0; i < n; i++)
        ops_expect_bits("gathered", got + (size_t)i * cols, out[0] + (size_t)ids[i] * cols, (size_t)cols);
    free(out[0]), free(out[1]), free(out[2]), free(got), free(ids);
    ops_matrix_free(&m);
}

START_TEST(test_embed_and_gather_copy_rows_exactly)
{
    ops_on_each("embed_and_gather_copy_rows_exactly", 24, check_embed_gather);
}
END_TEST

/* -- add_norm ---------------------------------------------------------------------------------------------------- */

/* A row in is (x, add), a row out is (normalised, x + add). */
static void run_add_norm(const struct ops_dev *d, const struct row_op *op, float *out, const float *in, int32_t n)
{
    int32_t e = op->n_in / 2;
    size_t all = (size_t)n * e, bytes = (size_t)e * sizeof(float);
    float *x = ops_floats(all), *add = ops_floats(all), *y = ops_floats(all);
    for (int32_t t = 0; t < n; t++) {
        memcpy(x + (size_t)t * e, in + (size_t)t * 2 * e, bytes);
        memcpy(add + (size_t)t * e, in + (size_t)t * 2 * e + e, bytes);
    }
    ops_add_norm(d, y, x, add, op->vector, op->eps, n, e);
    for (int32_t t = 0; t < n; t++) {
        memcpy(out + (size_t)t * 2 * e, y + (size_t)t * e, bytes);
        memcpy(out + (size_t)t * 2 * e + e, x + (size_t)t * e, bytes);
    }
    float *same = ops_floats(all); /* without add, x stays and the result is that of the sum */
    ops_add_norm(d, same, x, NULL, op->vector, op->eps, n, e);
    ops_expect_bits("without add", same, y, all);
    memcpy(y, x, all * sizeof *y);
    ops_add_norm(d, NULL, x, add, op->vector, op->eps, n, e);
    for (size_t i = 0; i < all; i++)
        y[i] += add[i];
    ops_expect_bits("sum alone", x, y, all);
    free(same), free(y), free(add), free(x);
}

static void check_add_norm(struct ops_trio *t)
{
    struct ops_rng *r = &t->rng;
    int32_t n = ops_int(r, 1, 33), e = t->round % 2 ? ops_int(r, 1, 99) : 32 * ops_int(r, 1, 40);
    float *w = ops_gauss_array(r, (size_t)e, 1), scale = t->round % 3 ? 1 : 1e-3f;
    float *in = ops_gauss_array(r, (size_t)n * 2 * e, scale), *got, *want;
    struct row_op op = {.run = run_add_norm, .n_in = 2 * e, .n_out = 2 * e, .vector = w, .eps = 1e-5f};
    ops_note("%s add_norm T=%d E=%d", t->one.name, n, e);
    run_rows(t, &op, in, n, &got, &want);
    double *right = ops_doubles(want, (size_t)n * 2 * e), *tol = ops_doubles(NULL, (size_t)n * 2 * e);
    for (size_t i = 0; i < (size_t)n * 2 * e; i++)
        tol[i] = (int32_t)(i % (2 * (size_t)e)) < e ? ((e + 8) * OPS_U + t->narrow) * fabs(right[i]) : 0;
    ops_expect_within("out, x", got, right, tol, (size_t)n * 2 * e);
    free(tol), free(right), free(got), free(want), free(in), free(w);
}

START_TEST(test_add_norm_is_near_the_truth_and_row_by_row)
{
    ops_on_each("add_norm_is_near_the_truth_and_row_by_row", 24, check_add_norm);
}
END_TEST

/* -- linear ------------------------------------------------------------------------------------------------------ */

static void run_linear(const struct ops_dev *d, const struct row_op *op, float *out, const float *in, int32_t n)
{
    struct weight w;
    ops_load(d, &w, op->matrix);
    ops_linear(d, out, in, &w, n);
    d->ops->weight_free(d->be, &w);
}

static bool is_block(uint32_t dtype)
{
    return dtype == DT_Q8_0 || dtype == DT_Q4_0 || dtype == DT_Q4_1;
}

/* tol and size (root of the sum of squared terms) of output n for row x. */
static void linear_tolerance(const struct ops_matrix *m, int32_t n, bool block, const float *x, double *tol,
                             double *size)
{
    const double *w = m->value + (size_t)n * m->cols;
    double terms = 0, squares = 0, rounding = 0;
    for (int32_t k0 = 0; k0 < m->cols; k0 += 32) {
        double most = 0, weights = 0;
        for (int32_t k = k0; k < m->cols && k < k0 + 32; k++) {
            terms += fabs(w[k] * x[k]);
            squares += w[k] * x[k] * w[k] * x[k];
            most = fmax(most, fabs(x[k]));
            weights += fabs(w[k]);
        }
        rounding += 1.05 * most / 65534 * weights;
    }
    *tol = (m->cols + 8) * OPS_U * terms + (block ? rounding : 0);
    *size = sqrt(squares);
}

/* Compare n rows of out with the truth, part by part (each part has its type). */
static void compare_linear(const struct ops_matrix *m, bool cuda, const float *x, const float *got, const float *want,
                           int32_t n)
{
    size_t all = (size_t)n * m->rows;
    double *right = ops_doubles(want, all), *tol = ops_doubles(NULL, all), *size = ops_doubles(NULL, all);
    bool any_block = false;
    for (int32_t p = 0, row = 0; p < m->n_parts; row += m->part[p++].rows) {
        bool block = is_block(m->part[p].dtype) && !cuda;
        any_block |= block;
        for (int32_t t = 0; t < n; t++)
            for (int32_t j = row; j < row + m->part[p].rows; j++) {
                size_t at = (size_t)t * m->rows + j;
                linear_tolerance(m, j, block, x + (size_t)t * m->cols, &tol[at], &size[at]);
                tol[at] *= cuda ? 4 : 1;
            }
    }
    ops_expect_within("out", got, right, tol, all);
    ops_expect_rms("out", got, right, size, all, any_block ? 4e-5 : (cuda ? 4 : 1) * (sqrt(m->cols) + 1) * OPS_U);
    free(size), free(tol), free(right);
}

static void check_linear(struct ops_trio *t)
{
    struct ops_rng *r = &t->rng;
    uint32_t of[3] = {types[t->round % 6], types[ops_int(r, 0, 5)], types[ops_int(r, 0, 5)]};
    int32_t parts = t->round % 3 == 2 ? ops_int(r, 2, 3) : 1, n = ops_int(r, 1, 33);
    int32_t cols = 32 * ops_int(r, 1, t->round % 5 ? 12 : 36);
    if (parts == 1 && !is_block(of[0]) && t->round % 2)
        cols = ops_int(r, 1, 300);
    struct ops_matrix m;
    ops_matrix_make(&m, r, of, parts, ops_int(r, 1, 70), cols);
    float *in = ops_gauss_array(r, (size_t)n * cols, t->round % 4 ? 1 : 30), *got, *want;
    if (t->round % 7 == 3)
        memset(in, 0, (size_t)(n < 3 ? n : 3) * cols * sizeof *in); /* rows of zeros: a block's largest is 0 */
    struct row_op op = {.run = run_linear, .n_in = cols, .n_out = m.rows, .matrix = &m, .varies = t->cuda};
    ops_note("%s linear types %u %u %u parts %d T=%d N=%d K=%d", t->one.name, of[0], of[1], of[2], parts, n, m.rows,
             cols);
    run_rows(t, &op, in, n, &got, &want);
    compare_linear(&m, t->cuda, in, got, want, n);
    free(got), free(want), free(in);
    ops_matrix_free(&m);
}

START_TEST(test_linear_is_near_the_truth_for_every_type_and_row_by_row)
{
    ops_on_each("linear_is_near_the_truth_for_every_type_and_row_by_row", 72, check_linear);
}
END_TEST

/* -- silu_mul ---------------------------------------------------------------------------------------------------- */

static void run_silu_mul(const struct ops_dev *d, const struct row_op *op, float *out, const float *in, int32_t n)
{
    ops_silu_mul(d, out, in, n, op->n_out);
}

static void check_silu_mul(struct ops_trio *t)
{
    static const float scales[] = {1, 4, 40, 1e-3f};
    int32_t n = ops_int(&t->rng, 1, 33), f = t->round % 2 ? ops_int(&t->rng, 1, 99) : 32 * ops_int(&t->rng, 1, 40);
    float *in = ops_gauss_array(&t->rng, (size_t)n * 2 * f, scales[t->round % 4]), *got, *want;
    struct row_op op = {.run = run_silu_mul, .n_in = 2 * f, .n_out = f};
    ops_note("%s silu_mul T=%d F=%d", t->one.name, n, f);
    run_rows(t, &op, in, n, &got, &want);
    double *right = ops_doubles(want, (size_t)n * f), *tol = ops_doubles(NULL, (size_t)n * f);
    for (size_t i = 0; i < (size_t)n * f; i++)
        tol[i] = (16 * OPS_U + t->narrow) * fabs(right[i]) + 1e-30;
    ops_expect_within("out", got, right, tol, (size_t)n * f);
    free(tol), free(right), free(got), free(want), free(in);
}

START_TEST(test_silu_mul_is_near_the_truth_and_row_by_row)
{
    ops_on_each("silu_mul_is_near_the_truth_and_row_by_row", 24, check_silu_mul);
}
END_TEST

/* -- rope_kv ----------------------------------------------------------------------------------------------------- */

static void fill_inv_freq(float *inv_freq, int32_t d)
{
    for (int32_t i = 0; i < d / 2; i++)
        inv_freq[i] = powf(10000, -2.0f * (float)i / (float)d);
}

/* Rotate copies of qkv and pool; the caller frees both. */
static void rope(const struct ops_dev *d, const struct ops_kv_case *c, const struct step *st, const float *qkv,
                 float **qkv_out, uint8_t **pool_out)
{
    size_t n = (size_t)st->n_rows * ((size_t)c->n_heads + 2 * c->kv.n_kv_heads) * c->kv.head_dim;
    float inv_freq[BACKEND_HEAD_DIM_MAX / 2];
    struct kv_view kv = c->kv;
    fill_inv_freq(inv_freq, (int32_t)kv.head_dim);
    *qkv_out = ops_floats(n);
    *pool_out = ops_poison(c->pool_bytes);
    memcpy(*qkv_out, qkv, n * sizeof *qkv);
    memcpy(*pool_out, c->pool, c->pool_bytes);
    kv.base = *pool_out;
    ops_rope_kv(d, &(struct rope_args){*qkv_out, st, inv_freq, &kv, c->n_heads, 1.1f}, c->pool_bytes);
}

static void compare_rope(const struct ops_kv_case *c, const float *got, const float *want)
{
    size_t hd = c->kv.head_dim, heads = (size_t)c->n_heads + 2 * c->kv.n_kv_heads, n = c->step.n_rows * heads * hd;
    double *right = ops_doubles(want, n), *tol = ops_doubles(NULL, n);
    for (size_t i = 0; i < n; i++) {
        const float *head = c->qkv + i / hd * hd;
        double pair = fabs(head[i % (hd / 2)]) + fabs(head[i % (hd / 2) + hd / 2]);
        tol[i] = i / hd % heads < (size_t)c->n_heads + c->kv.n_kv_heads ? 4 * OPS_U * 1.1 * pair : 0;
    }
    ops_expect_within("qkv", got, right, tol, n);
    free(tol), free(right);
}

/* Row `row` of the case rotated alone and among 17 others. */
static void check_rope_row(struct ops_trio *t, const struct ops_kv_case *c, const float *all, int32_t row)
{
    size_t width = ((size_t)c->n_heads + 2 * c->kv.n_kv_heads) * c->kv.head_dim;
    int32_t n = c->step.n_rows < COMPANY ? c->step.n_rows : COMPANY, *pick = ops_shuffled(&t->rng, c->step.n_rows);
    float *in = ops_floats((size_t)n * width), *got;
    uint8_t *pool;
    for (int pass = 0; pass < 2; pass++, n = 1) {
        if (pass)
            pick[0] = row;
        struct step st = ops_step_of_rows(c, pick, n);
        for (int32_t i = 0; i < n; i++)
            memcpy(in + (size_t)i * width, c->qkv + (size_t)pick[i] * width, width * sizeof *in);
        rope(pass ? &t->one : &t->three, c, &st, in, &got, &pool);
        for (int32_t i = 0; i < n; i++)
            ops_expect_bits("row in other company", got + (size_t)i * width, all + (size_t)pick[i] * width, width);
        free(got), free(pool), free((void *)(uintptr_t)st.ids);
    }
    free(in), free(pick);
}

static void check_rope(struct ops_trio *t)
{
    struct ops_kv_dims dims = ops_kv_dims_random(&t->rng);
    struct ops_kv_case c;
    ops_kv_case_make(&c, &t->rng, &dims, 0);
    ops_note("%s rope_kv format %u T=%d S=%d H=%d G=%d D=%d", t->one.name, dims.format, c.step.n_rows, c.step.n_seqs,
             c.n_heads, dims.n_kv_heads, dims.head_dim);
    float *want, *got, *again;
    uint8_t *pool[3];
    rope(&t->ref, &c, &c.step, c.qkv, &want, &pool[0]);
    rope(&t->one, &c, &c.step, c.qkv, &got, &pool[1]);
    rope(&t->three, &c, &c.step, c.qkv, &again, &pool[2]);
    compare_rope(&c, got, want);
    check_rope_row(t, &c, got, ops_int(&t->rng, 0, c.step.n_rows - 1));
    ops_expect_bits("three threads", again, got,
                    (size_t)c.step.n_rows * ((size_t)c.n_heads + 2 * c.kv.n_kv_heads) * c.kv.head_dim);
    ck_assert_msg(memcmp(pool[1], pool[2], c.pool_bytes) == 0, "%s: pool differs with threads", t->one.name);
    ops_kv_write(&c, got, c.pool);
    ck_assert_msg(memcmp(pool[1], c.pool, c.pool_bytes) == 0, "%s: pool is not what the rows say", t->one.name);
    free(want), free(got), free(again), free(pool[0]), free(pool[1]), free(pool[2]);
    ops_kv_case_free(&c);
}

START_TEST(test_rope_rotates_each_row_by_its_position_and_writes_nothing_else)
{
    ops_on_each("rope_rotates_each_row_by_its_position_and_writes_nothing_else", 24, check_rope);
}
END_TEST

/* Positions near 131,071: a table of 1,024 entries whose last one is a real block. */
static void check_rope_far(struct ops_trio *t)
{
    struct ops_kv_dims dims = {64, 2, 3, 128, KV_FORMAT_KV32, 1, 0, 33};
    struct ops_kv_case c;
    ops_kv_case_make(&c, &t->rng, &dims, 0);
    int32_t *table = calloc(1024, sizeof *table), *at = calloc(2, sizeof *at), *pos = calloc(33, sizeof *pos);
    at[1] = 1024;
    for (int32_t i = 0; i < c.step.n_rows; i++)
        pos[i] = 131071 - (c.step.n_rows - 1 - i);
    memset(table, 0x7f, 1023 * sizeof *table); /* no block: touching one goes far away */
    struct step st = c.step;
    st.table = table;
    st.table_at = at;
    st.pos = pos;
    ops_note("%s rope_kv at position 131071", t->one.name);
    float *want, *got;
    uint8_t *pool[2];
    rope(&t->ref, &c, &st, c.qkv, &want, &pool[0]);
    rope(&t->one, &c, &st, c.qkv, &got, &pool[1]);
    compare_rope(&c, got, want);
    free(want), free(got), free(pool[0]), free(pool[1]), free(table), free(at), free(pos);
    ops_kv_case_free(&c);
}

START_TEST(test_rope_is_exact_at_position_131071)
{
    ops_on_each("rope_is_exact_at_position_131071", 2, check_rope_far);
}
END_TEST

/* -- sample ------------------------------------------------------------------------------------------------------ */

static struct sample_row random_params(struct ops_rng *r)
{
    return (struct sample_row){
        .temperature = ops_int(r, 0, 3) ? 0.8f : 0,
        .top_p = ops_int(r, 0, 1) ? 1 : 0.9f,
        .top_k = ops_int(r, 0, 1) ? 0 : 20,
        .repetition = 1,
        .n_logprobs = ops_int(r, -1, SAMPLE_TOP_MAX),
        .seed = (uint64_t)ops_int(r, 0, 1000000),
        .position = (uint64_t)ops_int(r, 0, 1000000),
    };
}

static void expect_logprob(const float *got, const float *want, double off)
{
    double right = *want, tol = off * (1 + fabs(right));
    if (off == 0)
        ops_expect_bits("logprob", got, want, 1);
    else
        ops_expect_within("logprob", got, &right, &tol, 1);
}

static void expect_same(const struct sample_out *got, const struct sample_out *want, double off)
{
    ck_assert_int_eq(got->id, want->id);
    expect_logprob(&got->logprob, &want->logprob, off);
    ck_assert_int_eq(got->n_top, want->n_top);
    for (int32_t i = 0; i < want->n_top; i++) {
        ck_assert_int_eq(got->top[i].id, want->top[i].id);
        expect_logprob(&got->top[i].logprob, &want->top[i].logprob, off);
    }
}

static void check_sample(struct ops_trio *t)
{
    int32_t n = ops_int(&t->rng, 1, 33), vocab = ops_int(&t->rng, 1, OPS_MAX_VOCAB), row = ops_int(&t->rng, 0, n - 1);
    float *logits = ops_gauss_array(&t->rng, (size_t)n * vocab, 3);
    struct sample_row rows[33];
    struct sample_out want[33], got[33], alone;
    for (int32_t i = 0; i < n; i++)
        rows[i] = random_params(&t->rng);
    ops_note("%s sample R=%d V=%d", t->one.name, n, vocab);
    ops_sample(&t->ref, logits, vocab, rows, want, n);
    for (int pass = 0; pass < 2; pass++) {
        ops_sample(pass ? &t->three : &t->one, logits, vocab, rows, got, n);
        for (int32_t i = 0; i < n; i++)
            expect_same(&got[i], &want[i], t->cuda ? 2e-6 : 0);
    }
    ops_sample(&t->three, logits + (size_t)row * vocab, vocab, &rows[row], &alone, 1);
    expect_same(&alone, &got[row], 0);
    free(logits);
}

START_TEST(test_sample_chooses_each_row_by_itself)
{
    ops_on_each("sample_chooses_each_row_by_itself", 12, check_sample);
}
END_TEST

UNIT_MAIN("ops", test_memory_comes_zeroed_and_aligned_and_copies, test_embed_and_gather_copy_rows_exactly,
          test_add_norm_is_near_the_truth_and_row_by_row, test_linear_is_near_the_truth_for_every_type_and_row_by_row,
          test_silu_mul_is_near_the_truth_and_row_by_row,
          test_rope_rotates_each_row_by_its_position_and_writes_nothing_else, test_rope_is_exact_at_position_131071,
          test_sample_chooses_each_row_by_itself)
