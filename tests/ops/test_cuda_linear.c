/* test_cuda_linear - linear layers on the GPU in sizes where their kernels differ: against the truth, with a row alone
 * and in company.
 *
 * Tolerances, u = 2^-24, against sums in double over the same bfloat16 weights and inputs.
 *   linear       4 (K + 8) u sum|w x|: as in test_ops, the tensor cores cut off where the bound takes rounding.
 *   linear_silu  With g, v the two sums and t their tolerance: silu is at most 1.1 in slope, so 1.1 t_g |v| + |silu(g)|
 *                t_v, and one rounding to bfloat16 of the result, 2^-8 of it. Many rows round g and v to bfloat16, too:
 *                then t is 2^-8 of |g| and of |v| more.
 *   fp8          The truth is over the weights as e4m3 times scale, made here. Few rows turn x into half, x / 16, so
 *                2^-21 sum|w| more for what is too small to be exact. Many rows quantise x, too, with an error of at
 *                most 2^-4 of each value: against the whole of the result, 0.04; 0.08 for gate and up, two of them.
 */
#define OPS_CUDA
#include "tests/support/ops_check.h"
#include "tests/support/ops_trio.h"
#include "tests/support/unit.h"

#include <glob.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#define FEW 16 /* rows that one kernel serves, whatever their number */

static bool one_order; /* deterministic mode: few rows go the way of many; multiples of 16, as models have them */

static bool is_few(int32_t n)
{
    return n <= FEW && !one_order;
}

struct layer {
    bool fp8;
    struct ops_matrix m;
    struct weight w;
    float *x; /* [n][cols] */
    int32_t n;
};

/* The nearest e4m3, even mantissas first: 3 bits behind the leading one, steps of 2^-9 below 2^-6, at most 448. */
static double e4m3(float v)
{
    int exp;
    frexp(fabs((double)v), &exp);
    double step = ldexp(1, exp - 1 < -6 ? -9 : exp - 4), q = rint(fabs((double)v) / step) * step;
    return copysign(q > 448 ? 448 : q, v);
}

/* What the card makes of a row of weights in 8 bits. */
static void quantise(double *w, int32_t cols)
{
    float most = 0;
    for (int32_t k = 0; k < cols; k++)
        most = fmaxf(most, fabsf((float)w[k]));
    float scale = most > 0 ? most / 448 : 1, by = most > 0 ? 448 / most : 1;
    for (int32_t k = 0; k < cols; k++)
        w[k] = e4m3((float)w[k] * by) * (double)scale;
}

static void load_fp8(struct layer *l, struct ops_trio *t)
{
    struct err e = {0};
    l->m.part[0].keep = DT_F8;
    int rc = t->one.ops->weight_load(t->one.be, &l->w, l->m.part, l->m.n_parts, &e);
    ck_assert_msg(rc == 0, "%s", e.text);
    ck_assert_uint_eq(l->w.part[0].bytes, t->one.ops->weight_bytes(DT_F8, l->m.rows, l->m.cols));
    for (int32_t j = 0; j < l->m.rows; j++)
        quantise(l->m.value + (size_t)j * (size_t)l->m.cols, l->m.cols);
}

static void layer_make(struct layer *l, struct ops_trio *t, int32_t rows, int32_t cols, int32_t n)
{
    static const uint32_t bf16 = DT_BF16;
    ops_matrix_make(&l->m, &t->rng, &bf16, 1, rows, cols);
    if (l->fp8)
        load_fp8(l, t);
    else
        ops_load(&t->one, &l->w, &l->m);
    l->n = n;
    l->x = ops_gauss_array(&t->rng, (size_t)n * (size_t)cols, 1);
    for (size_t i = 0; i < (size_t)n * (size_t)cols; i++)
        l->x[i] = bf16_to_f32(bf16_from_f32(l->x[i]));
    ops_note("T=%d N=%d K=%d", n, rows, cols);
}

static void layer_free(struct layer *l, struct ops_trio *t)
{
    t->one.ops->weight_free(t->one.be, &l->w);
    ops_matrix_free(&l->m);
    free(l->x);
}

/* Output j for row t of x, and what may be wrong with it. */
static double truth(const struct layer *l, int32_t t, int32_t j, double *tol)
{
    const double *w = l->m.value + (size_t)j * (size_t)l->m.cols;
    const float *x = l->x + (size_t)t * (size_t)l->m.cols;
    double sum = 0, terms = 0, weights = 0;
    for (int32_t k = 0; k < l->m.cols; k++) {
        sum += w[k] * (double)x[k];
        terms += fabs(w[k] * (double)x[k]);
        weights += fabs(w[k]);
    }
    *tol = 4 * (l->m.cols + 8) * OPS_U * terms + (l->fp8 ? 0x1p-21 * weights : 0);
    return sum;
}

static int32_t some_rows(struct ops_trio *t)
{
    return t->round % 2 ? ops_int(&t->rng, 1, FEW) : ops_int(&t->rng, FEW + 1, OPS_MAX_ROWS);
}

/* Wide and narrow, so that all kernels are met; columns off every step of theirs. */
static int32_t some_cols(struct ops_trio *t)
{
    if (one_order)
        return 16 * ops_int(&t->rng, 1, OPS_MAX_COLS / 16);
    return t->round % 3 ? 8 * ops_int(&t->rng, 1, OPS_MAX_COLS / 8) : ops_int(&t->rng, 1, OPS_MAX_COLS);
}

static void check_linear(struct ops_trio *t)
{
    struct layer l = {0};
    int32_t rows = t->round % 4 == 3 ? ops_int(&t->rng, 4300, 4500) : ops_int(&t->rng, 1, 700), n = some_rows(t);
    rows = one_order ? (rows + 15) / 16 * 16 : rows;
    layer_make(&l, t, rows, some_cols(t), n);
    size_t all = (size_t)n * (size_t)rows;
    float *got = ops_floats(all);
    double *right = ops_doubles(NULL, all), *tol = ops_doubles(NULL, all);
    ops_linear(&t->one, got, l.x, &l.w, n);
    for (size_t i = 0; i < all; i++)
        right[i] = truth(&l, (int32_t)(i / (size_t)rows), (int32_t)(i % (size_t)rows), &tol[i]);
    ops_expect_within("out", got, right, tol, all);
    free(got), free(right), free(tol);
    layer_free(&l, t);
}

START_TEST(test_linear_is_near_the_truth_in_every_kernel)
{
    ops_on_each("linear_is_near_the_truth_in_every_kernel", 12, check_linear);
}
END_TEST

static double silu(double x)
{
    return x / (1 + exp(-x));
}

static void silu_near_truth(struct ops_trio *t, bool fp8)
{
    struct layer l = {.fp8 = fp8};
    int32_t f = ops_int(&t->rng, 1, t->round % 4 == 3 ? 2300 : 300), n = some_rows(t);
    f = t->round % 3 == 2 && !fp8 && !one_order ? f : (f + 7) / 8 * 8;
    layer_make(&l, t, 2 * f, fp8 ? 16 * ops_int(&t->rng, 1, OPS_MAX_COLS / 16) : some_cols(t), n);
    size_t all = (size_t)n * (size_t)f;
    float *got = ops_floats(all);
    double *right = ops_doubles(NULL, all), *tol = ops_doubles(NULL, all);
    ops_linear_silu(&t->one, got, l.x, &l.w, n);
    for (size_t i = 0; i < all; i++) {
        double tg, tv, g = truth(&l, (int32_t)(i / (size_t)f), (int32_t)(i % (size_t)f), &tg);
        double v = truth(&l, (int32_t)(i / (size_t)f), f + (int32_t)(i % (size_t)f), &tv);
        tg += !is_few(n) ? 0x1p-8 * fabs(g) : 0;
        tv += !is_few(n) ? 0x1p-8 * fabs(v) : 0;
        right[i] = silu(g) * v;
        tol[i] = 1.1 * tg * fabs(v) + fabs(silu(g)) * tv + 1.1 * tg * tv +
                 (0x1p-8 + 16 * OPS_U) * fabs(right[i]) * 1.01 + 1e-30;
    }
    if (fp8 && !is_few(n))
        ops_expect_near("out", got, right, all, 0.08);
    else
        ops_expect_within("out", got, right, tol, all);
    free(got), free(right), free(tol);
    layer_free(&l, t);
}

static void check_silu(struct ops_trio *t)
{
    silu_near_truth(t, false);
}

static void check_fp8_silu(struct ops_trio *t)
{
    silu_near_truth(t, true);
}

START_TEST(test_gate_and_up_come_out_of_one_op)
{
    ops_on_each("gate_and_up_come_out_of_one_op", 12, check_silu);
}
END_TEST

/* The bits of each of up to FEW rows are those that it has alone. */
static void check_alone(struct ops_trio *t)
{
    struct layer l = {0};
    int32_t rows = 2 * ops_int(&t->rng, 1, t->round % 2 ? 2300 : 300), cols = some_cols(t),
            n = ops_int(&t->rng, 2, FEW);
    layer_make(&l, t, rows, cols, n);
    float *all = ops_floats((size_t)n * (size_t)rows), *one = ops_floats((size_t)rows);
    float *all_silu = ops_floats((size_t)n * (size_t)rows / 2);
    ops_linear(&t->one, all, l.x, &l.w, n);
    ops_linear_silu(&t->one, all_silu, l.x, &l.w, n);
    for (int32_t i = 0; i < n; i++) {
        ops_linear(&t->one, one, l.x + (size_t)i * (size_t)cols, &l.w, 1);
        ops_expect_bits("linear alone", all + (size_t)i * (size_t)rows, one, (size_t)rows);
        ops_linear_silu(&t->one, one, l.x + (size_t)i * (size_t)cols, &l.w, 1);
        ops_expect_bits("linear_silu alone", all_silu + (size_t)i * (size_t)rows / 2, one, (size_t)rows / 2);
    }
    free(all), free(one), free(all_silu);
    layer_free(&l, t);
}

START_TEST(test_few_rows_have_the_bits_that_they_have_alone)
{
    ops_on_each("few_rows_have_the_bits_that_they_have_alone", 8, check_alone);
}
END_TEST

static void check_fp8(struct ops_trio *t)
{
    struct layer l = {.fp8 = true};
    int32_t n = some_rows(t), cols = 16 * ops_int(&t->rng, 1, OPS_MAX_COLS / 16);
    layer_make(&l, t, t->round % 4 == 3 ? ops_int(&t->rng, 269, 280) * 16 : 16 * ops_int(&t->rng, 1, 40), cols, n);
    size_t rows = (size_t)l.m.rows, all = (size_t)n * rows;
    float *got = ops_floats(all), *one = ops_floats(rows);
    double *right = ops_doubles(NULL, all), *tol = ops_doubles(NULL, all);
    ops_linear(&t->one, got, l.x, &l.w, n);
    for (size_t i = 0; i < all; i++)
        right[i] = truth(&l, (int32_t)(i / rows), (int32_t)(i % rows), &tol[i]);
    if (!is_few(n)) {
        ops_expect_near("out", got, right, all, 0.04);
    } else {
        ops_expect_within("out", got, right, tol, all);
        ops_linear(&t->one, one, l.x + (size_t)(n - 1) * (size_t)cols, &l.w, 1);
        ops_expect_bits("last row alone", got + (size_t)(n - 1) * rows, one, rows);
    }
    free(got), free(one), free(right), free(tol);
    layer_free(&l, t);
}

START_TEST(test_weights_in_8_bits_multiply_as_what_they_stand_for)
{
    ops_on_each("weights_in_8_bits_multiply_as_what_they_stand_for", 12, check_fp8);
}
END_TEST

START_TEST(test_gate_and_up_in_8_bits_come_out_of_one_op)
{
    ops_on_each("gate_and_up_in_8_bits_come_out_of_one_op", 12, check_fp8_silu);
}
END_TEST

static void check_one_order(struct ops_trio *t)
{
    check_linear(t);
    check_silu(t);
    check_fp8(t);
    check_fp8_silu(t);
}

START_TEST(test_deterministic_mode_is_near_the_truth)
{
    const char *test = "deterministic_mode_is_near_the_truth";
    const struct ops_variant v = {.ops = ops_cuda(test), .threads = 1, .deterministic = true};
    one_order = true;
    if (v.ops)
        ops_run_each(&v, 1, test, 8, check_one_order);
    one_order = false;
}
END_TEST

/* -- the file of algorithms -------------------------------------------------------------------------------------- */

/* A product that is worth timing, on a backend opened for it: its result does not depend on what the file holds. */
static void product_near_truth(struct ops_trio *t)
{
    struct ops_variant v = {.ops = t->one.ops, .threads = 1};
    struct ops_trio own = {.rng = t->rng};
    struct layer l = {0};
    struct err e = {0};
    const int32_t n = FEW + 4;
    double tol;
    ck_assert_int_eq(ops_open(&own.one, &v, &e), 0);
    layer_make(&l, &own, 1024, 1024, n);
    float *got = ops_floats((size_t)n * 1024);
    ops_linear(&own.one, got, l.x, &l.w, n);
    for (int32_t i = 0; i < 64; i++) {
        double want = truth(&l, i % n, 16 * i, &tol);
        ck_assert_double_le(fabs((double)got[(size_t)(i % n) * 1024 + 16 * (size_t)i] - want), tol);
    }
    free(got);
    layer_free(&l, &own);
    ops_close(&own.one);
}

static void damage(const char *path, long at)
{
    FILE *f = fopen(path, "r+b");
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(fseek(f, at, SEEK_SET), 0);
    ck_assert_int_eq(fwrite("?", 1, 1, f), 1);
    ck_assert_int_eq(fclose(f), 0);
}

static void check_file(struct ops_trio *t)
{
    char dir[] = P_tmpdir "/hearth-linear-XXXXXX", pattern[128];
    glob_t found;
    ck_assert_ptr_nonnull(mkdtemp(dir));
    setenv("XDG_CACHE_HOME", dir, 1);
    unsetenv("CACHE_DIRECTORY");
    product_near_truth(t);
    snprintf(pattern, sizeof pattern, "%s/hearth/gemm-*.bin", dir);
    ck_assert_int_eq(glob(pattern, 0, NULL, &found), 0);
    ck_assert_uint_eq(found.gl_pathc, 1);
    for (long at = 0; at < 176; at += ops_small() ? 100 : 25) { /* head and the one entry */
        damage(found.gl_pathv[0], at);
        product_near_truth(t);
    }
    ck_assert_int_eq(truncate(found.gl_pathv[0], 100), 0);
    product_near_truth(t);
    product_near_truth(t); /* it was written again, whole */
    unlink(found.gl_pathv[0]);
    globfree(&found);
    snprintf(pattern, sizeof pattern, "%s/hearth", dir);
    rmdir(pattern);
    rmdir(dir);
}

START_TEST(test_a_damaged_file_of_algorithms_is_not_read)
{
    ops_on_each("a_damaged_file_of_algorithms_is_not_read", 1, check_file);
}
END_TEST

UNIT_MAIN("cuda_linear", test_linear_is_near_the_truth_in_every_kernel, test_gate_and_up_come_out_of_one_op,
          test_few_rows_have_the_bits_that_they_have_alone, test_weights_in_8_bits_multiply_as_what_they_stand_for,
          test_gate_and_up_in_8_bits_come_out_of_one_op, test_deterministic_mode_is_near_the_truth,
          test_a_damaged_file_of_algorithms_is_not_read)
