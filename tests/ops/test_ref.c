/* test_ref - cpu_ref against the formulas, written here a second time in double, over plain arrays.
 *
 * Tolerance: cpu_ref computes in double and rounds once, and so the result is within half a unit in the last place of
 * the formula's value: 2^-24 of it (5% more for the double sums), and 2^-149 where it is subnormal.
 */
#include "tests/support/ops_check.h"
#include "tests/support/ops_run.h"
#include "tests/support/ops_truth.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

static const struct ops_variant ref = {.ops = &backend_cpu_ref, .isa = "scalar", .threads = 1};

static struct ops_dev open_ref(void)
{
    struct ops_dev d;
    struct err e = {0};
    ck_assert_int_eq(ops_open(&d, &ref, &e), 0);
    return d;
}

/* Within one rounding of want[], and `more`: where terms cancel, the double sums show. */
static void expect_rounded(const char *what, const float *got, const double *want, size_t n, double more)
{
    double *tol = malloc((n + 1) * sizeof *tol);
    for (size_t i = 0; i < n; i++)
        tol[i] = 1.05 * 0x1p-24 * fabs(want[i]) + 0x1p-149 + more;
    ops_expect_within(what, got, want, tol, n);
    free(tol);
}

static double *doubles(size_t n)
{
    double *x = calloc(n + 1, sizeof *x);
    ck_assert_ptr_nonnull(x);
    return x;
}

START_TEST(test_ref_refuses_an_isa_it_lacks_and_a_type_it_does_not_know)
{
    struct ops_dev d;
    struct err e = {0};
    struct ops_variant v = {.ops = &backend_cpu_ref, .isa = "avx2", .threads = 1};
    ck_assert_int_eq(ops_open(&d, &v, &e), -ENOTSUP);
    ck_assert_ptr_nonnull(strstr(e.text, "scalar"));
    d = open_ref();
    uint8_t bytes[64] = {0};
    struct weight w = {.rows = 77};
    struct weight_part p[2] = {{.data = bytes, .dtype = DT_F32, .rows = 1, .cols = 16, .row_bytes = 64},
                               {.data = bytes, .dtype = 99, .rows = 1, .cols = 16, .row_bytes = 64}};
    ck_assert_int_eq(d.ops->weight_load(d.be, &w, p, 2, &e), -ENOTSUP);
    ck_assert_ptr_nonnull(strstr(e.text, "99"));
    p[1].dtype = DT_Q4_1; /* 16 columns are half a block */
    ck_assert_int_eq(d.ops->weight_load(d.be, &w, p, 2, &e), -ENOTSUP);
    ck_assert_int_eq(w.rows, 77);
    ck_assert_ptr_null(d.ops->alloc(d.be, SIZE_MAX));
    ops_close(&d);
}
END_TEST

START_TEST(test_ref_embeds_and_multiplies_every_type)
{
    static const uint32_t types[] = {DT_F32, DT_F16, DT_BF16, DT_Q8_0, DT_Q4_0, DT_Q4_1};
    struct ops_rng r = {unit_seed("ref_embeds_and_multiplies_every_type")};
    struct ops_dev d = open_ref();
    for (int round = 0; round < 36; round++) {
        uint32_t t[3] = {types[round % 6], types[ops_int(&r, 0, 5)], types[ops_int(&r, 0, 5)]};
        int32_t parts = ops_int(&r, 1, 3), n = ops_int(&r, 1, 17);
        bool plain = t[0] <= DT_F16 || t[0] == DT_BF16;
        int32_t cols = plain && parts == 1 ? ops_int(&r, 1, 333) : 32 * ops_int(&r, 1, 12);
        struct ops_matrix m;
        ops_matrix_make(&m, &r, t, parts, ops_int(&r, 1, 40), cols);
        struct weight w;
        ops_load(&d, &w, &m);
        ops_note("type %u, %d parts, T=%d N=%d K=%d", t[0], parts, n, m.rows, cols);
        float *x = ops_gauss_array(&r, (size_t)n * cols, 1), *y = ops_poison(sizeof *y * (size_t)n * m.rows);
        float *row = ops_poison(sizeof *row * (size_t)m.rows * cols);
        double *want = doubles((size_t)n * m.rows);
        for (int32_t i = 0; i < n; i++)
            for (int32_t j = 0; j < m.rows; j++)
                for (int32_t k = 0; k < cols; k++)
                    want[i * m.rows + j] += x[i * cols + k] * m.value[(size_t)j * cols + k];
        ops_linear(&d, y, x, &w, n);
        expect_rounded("out", y, want, (size_t)n * m.rows, 1e-13);
        int32_t *ids = ops_shuffled(&r, m.rows);
        ops_embed(&d, row, &w, ids, m.rows);
        for (int32_t i = 0; i < m.rows; i++)
            for (int32_t k = 0; k < cols; k++)
                if (row[(size_t)i * cols + k] != m.value[(size_t)ids[i] * cols + k])
                    ck_abort_msg("type %u: row %d element %d", t[0], i, k);
        d.ops->weight_free(d.be, &w);
        ck_assert_int_eq(w.n_parts, 0);
        free(ids), free(want), free(row), free(y), free(x);
        ops_matrix_free(&m);
    }
    ops_close(&d);
}
END_TEST

START_TEST(test_ref_adds_and_normalises)
{
    struct ops_rng r = {unit_seed("ref_adds_and_normalises")};
    struct ops_dev d = open_ref();
    for (int round = 0; round < 30; round++) {
        int32_t n = ops_int(&r, 1, 17), width = ops_int(&r, 1, 200);
        size_t all = (size_t)n * width;
        float eps = round % 2 ? 1e-5f : 1e-6f;
        float *x = ops_gauss_array(&r, all, round % 3 ? 1 : 1e-4f), *w = ops_gauss_array(&r, (size_t)width, 1);
        float *add = ops_gauss_array(&r, all, 1), *sum = malloc(all * sizeof *sum), *out = ops_poison(all * 4);
        double *want = doubles(all);
        for (size_t i = 0; i < all; i++)
            sum[i] = round % 4 ? x[i] + add[i] : x[i];
        for (int32_t t = 0; t < n; t++) {
            double ss = 0;
            for (int32_t i = 0; i < width; i++)
                ss += pow(sum[t * width + i], 2);
            for (int32_t i = 0; i < width; i++)
                want[t * width + i] = sum[t * width + i] / sqrt(ss / width + eps) * w[i];
        }
        ops_note("add_norm T=%d E=%d round %d", n, width, round);
        ops_add_norm(&d, round % 5 ? out : NULL, x, round % 4 ? add : NULL, w, eps, n, width);
        ops_expect_bits("x", x, sum, all);
        if (round % 5)
            expect_rounded("out", out, want, all, 0);
        free(want), free(out), free(sum), free(add), free(w), free(x);
    }
    ops_close(&d);
}
END_TEST

START_TEST(test_ref_multiplies_by_silu_and_gathers)
{
    struct ops_rng r = {unit_seed("ref_multiplies_by_silu_and_gathers")};
    struct ops_dev d = open_ref();
    for (int round = 0; round < 20; round++) {
        int32_t n = ops_int(&r, 1, 17), f = ops_int(&r, 1, 99), picks[5];
        size_t all = (size_t)n * f;
        float *gu = ops_gauss_array(&r, 2 * all, round % 2 ? 2 : 60), *out = ops_poison(all * 4);
        double *want = doubles(all);
        for (int32_t t = 0; t < n; t++)
            for (int32_t i = 0; i < f; i++) {
                double g = gu[t * 2 * f + i], u = gu[t * 2 * f + f + i];
                want[t * f + i] = g * u / (1 + exp(-g));
            }
        ops_note("silu_mul T=%d F=%d", n, f);
        ops_silu_mul(&d, out, gu, n, f);
        expect_rounded("out", out, want, all, 0);
        float *got = ops_poison(5 * sizeof *got * (size_t)f);
        for (int i = 0; i < 5; i++)
            picks[i] = ops_int(&r, 0, n - 1);
        ops_gather(&d, got, out, n, picks, 5, f);
        for (int i = 0; i < 5; i++)
            ops_expect_bits("gathered", got + i * f, out + picks[i] * f, (size_t)f);
        free(got), free(want), free(out), free(gu);
    }
    ops_close(&d);
}
END_TEST

/* Element i of head-sized x rotated: Su et al. 2021, eq. 34, pairs (i, i + D/2). */
static double rotated(const float *x, int32_t i, int32_t half, int32_t pos, const float *inv_freq, float factor)
{
    int32_t p = i % half;
    double angle = (double)pos * inv_freq[p];
    if (i < half)
        return factor * (x[p] * cos(angle) - x[p + half] * sin(angle));
    return factor * (x[p + half] * cos(angle) + x[p] * sin(angle));
}

START_TEST(test_ref_rotates_and_writes_the_rows_of_the_step_only)
{
    struct ops_rng r = {unit_seed("ref_rotates_and_writes_the_rows_of_the_step_only")};
    struct ops_dev d = open_ref();
    for (int round = 0; round < 20; round++) {
        struct ops_kv_dims dims = ops_kv_dims_random(&r);
        struct ops_kv_case c;
        ops_kv_case_make(&c, &r, &dims, 0);
        int32_t hd = dims.head_dim, g_n = dims.n_kv_heads, heads = c.n_heads + 2 * g_n;
        size_t n = (size_t)c.step.n_rows * heads * hd;
        float inv_freq[BACKEND_HEAD_DIM_MAX / 2], *qkv = malloc(n * sizeof *qkv), factor = round % 3 ? 1 : 1.17f;
        uint8_t *pool = malloc(c.pool_bytes);
        double *want = doubles(n);
        for (int32_t i = 0; i < hd / 2; i++)
            inv_freq[i] = powf(10000, -2.0f * (float)i / (float)hd);
        for (size_t i = 0; i < n; i++) {
            int32_t t = (int32_t)(i / hd / heads), h = (int32_t)(i / hd) % heads;
            const float *x = c.qkv + i / hd * hd;
            want[i] = h >= c.n_heads + g_n ? x[i % hd]
                                           : rotated(x, (int32_t)(i % hd), hd / 2, c.step.pos[t], inv_freq, factor);
        }
        memcpy(qkv, c.qkv, n * sizeof *qkv);
        memcpy(pool, c.pool, c.pool_bytes);
        struct kv_view kv = c.kv;
        kv.base = pool;
        ops_note("rope_kv T=%d H=%d G=%d D=%d", c.step.n_rows, c.n_heads, g_n, hd);
        ops_rope_kv(&d, &(struct rope_args){qkv, &c.step, inv_freq, &kv, c.n_heads, factor}, c.pool_bytes);
        expect_rounded("qkv", qkv, want, n, 1e-14);
        ops_kv_write(&c, qkv, c.pool);
        ck_assert_mem_eq(pool, c.pool, c.pool_bytes);
        free(want), free(pool), free(qkv);
        ops_kv_case_free(&c);
    }
    ops_close(&d);
}
END_TEST

START_TEST(test_ref_attends_to_the_keys_it_may_see)
{
    struct ops_rng r = {unit_seed("ref_attends_to_the_keys_it_may_see")};
    struct ops_dev d = open_ref();
    for (int round = 0; round < 60; round++) {
        struct ops_kv_dims dims = ops_kv_dims_random(&r);
        struct ops_kv_case c;
        ops_kv_case_make(&c, &r, &dims, 1);
        struct attn_args a;
        float *sink = ops_gauss_array(&r, (size_t)c.n_heads, 2);
        ops_attn_random(&a, &r, &c, sink);
        size_t heads = (size_t)c.step.n_rows * c.n_heads, hd = (size_t)dims.head_dim;
        a.out.o = ops_poison(heads * hd * sizeof(float));
        a.out.lse_ln = ops_poison(heads * sizeof(float));
        ops_attention(&d, &a, c.pool_bytes);
        double *o = doubles(heads * hd), *lse = doubles(heads), size[BACKEND_HEAD_DIM_MAX];
        for (size_t i = 0; i < heads; i++)
            lse[i] = ops_attend(&c, &a, (int32_t)i, o + i * hd, size);
        ops_note("attention T=%d H=%d D=%zu window=%d keys %d..%d sink %d", c.step.n_rows, c.n_heads, hd, a.window,
                 a.key_begin, a.key_end, a.sink != NULL);
        expect_rounded("o", a.out.o, o, heads * hd, 1e-13);
        expect_rounded("lse", a.out.lse_ln, lse, heads, 1e-14);
        free(o), free(lse), free(sink), free(a.out.o), free(a.out.lse_ln);
        ops_kv_case_free(&c);
    }
    ops_close(&d);
}
END_TEST

START_TEST(test_ref_merges_and_ignores_a_side_without_keys)
{
    struct ops_rng r = {unit_seed("ref_merges_and_ignores_a_side_without_keys")};
    struct ops_dev d = open_ref();
    const int32_t n = 200, dim = 24;
    float *ao = ops_gauss_array(&r, (size_t)n * dim, 1), *bo = ops_gauss_array(&r, (size_t)n * dim, 1);
    float *al = ops_gauss_array(&r, (size_t)n, 30), *bl = ops_gauss_array(&r, (size_t)n, 30);
    double *o = doubles((size_t)n * dim), *lse = doubles((size_t)n);
    for (int32_t i = 0; i < n; i++) {
        if (i % 5 == 1)
            al[i] = -INFINITY;
        if (i % 3 == 1)
            bl[i] = -INFINITY;
        double top = fmax(al[i], bl[i]), ea = exp(al[i] - top), eb = exp(bl[i] - top);
        lse[i] = top == -INFINITY ? -INFINITY : top + log(ea + eb);
        for (int32_t k = i * dim; k < (i + 1) * dim; k++) {
            ao[k] = al[i] == -INFINITY ? 0 : ao[k];
            bo[k] = bl[i] == -INFINITY ? NAN : bo[k]; /* not to be read */
            o[k] = bl[i] == -INFINITY ? ao[k] : al[i] == -INFINITY ? bo[k] : (ea * ao[k] + eb * bo[k]) / (ea + eb);
        }
    }
    ops_note("merge");
    ops_merge(&d, (struct attn_partial){ao, al}, (struct attn_partial){bo, bl}, n, dim);
    expect_rounded("o", ao, o, (size_t)n * dim, 1e-15);
    expect_rounded("lse", al, lse, (size_t)n, 1e-15);
    free(o), free(lse), free(ao), free(bo), free(al), free(bl);
    ops_close(&d);
}
END_TEST

UNIT_MAIN("ref", test_ref_refuses_an_isa_it_lacks_and_a_type_it_does_not_know,
          test_ref_embeds_and_multiplies_every_type, test_ref_adds_and_normalises,
          test_ref_multiplies_by_silu_and_gathers, test_ref_rotates_and_writes_the_rows_of_the_step_only,
          test_ref_attends_to_the_keys_it_may_see, test_ref_merges_and_ignores_a_side_without_keys)
