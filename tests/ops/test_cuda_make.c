/* test_cuda_make - weights that the card makes are those that the loader makes, bit for bit. */
#define OPS_CUDA
#include "engine/model/load.h"
#include "tests/support/ops_check.h"
#include "tests/support/ops_trio.h"
#include "tests/support/unit.h"

/* Two tensors of one shape as the parts of a weight: made, and loaded. */
static void check_made(struct ops_trio *t)
{
    static const char *const names[] = {"blk.1.attn_k.weight", "blk.0.attn_v.weight"};
    const struct backend_ops *ops = t->one.ops;
    struct loader *l;
    struct err e = {0};
    struct weight_loan loan[2];
    struct weight_part made[2], read[2];
    struct weight a, b;
    char source[64];
    snprintf(source, sizeof source, "random:tiny:%d", ops_int(&t->rng, 0, 1000000));
    ck_assert_int_eq(loader_open(&l, source, &e), 0);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(loader_ops(l)->find(l, names[i], &made[i], &e), 0);
        ck_assert_int_eq(loader_ops(l)->take(l, names[i], &loan[i], &e), 0);
        read[i] = loan[i].part;
        ck_assert(made[i].made_scale > 0 && !made[i].data && read[i].made_scale == 0);
    }
    ck_assert_int_eq(ops->weight_make(t->one.be, &a, made, 2, &e), 0);
    ck_assert_int_eq(ops->weight_load(t->one.be, &b, read, 2, &e), 0);
    ck_assert(a.rows == b.rows && a.cols == b.cols && a.n_parts == b.n_parts);
    int32_t n = a.rows < OPS_MAX_ROWS ? a.rows : OPS_MAX_ROWS, ids[OPS_MAX_ROWS];
    float *got = ops_floats((size_t)n * (size_t)a.cols), *want = ops_floats((size_t)n * (size_t)a.cols);
    for (int32_t i = 0; i < n; i++)
        ids[i] = i;
    ops_note("%s of %s, %d rows", names[0], source, n);
    ops_embed(&t->one, got, &a, ids, n);
    ops_embed(&t->one, want, &b, ids, n);
    ops_expect_bits("weights", got, want, (size_t)n * (size_t)a.cols);
    ops->weight_free(t->one.be, &a);
    ops->weight_free(t->one.be, &b);
    for (int i = 0; i < 2; i++)
        loader_ops(l)->done(l, &loan[i]);
    loader_close(l);
    free(got), free(want);
}

START_TEST(test_weights_made_on_the_card_are_the_loaders)
{
    ops_on_each("weights_made_on_the_card_are_the_loaders", 4, check_made);
}
END_TEST

/* One tensor too large to be made at once, as bfloat16 and in 8 bits: rows of all of it, and a product. */
static void check_large(struct ops_trio *t)
{
    const struct backend_ops *ops = t->one.ops;
    static const char name[] = "token_embd.weight";
    struct loader *l;
    struct err e = {0};
    struct weight_loan loan;
    struct weight_part made, read;
    struct weight a, b;
    int32_t ids[OPS_MAX_ROWS];
    ck_assert_int_eq(loader_open(&l, "random:smollm2-135m", &e), 0);
    ck_assert_int_eq(loader_ops(l)->find(l, name, &made, &e), 0);
    ck_assert_int_eq(loader_ops(l)->take(l, name, &loan, &e), 0);
    read = loan.part;
    size_t cols = (size_t)made.cols, n = OPS_MAX_ROWS * cols;
    float *got = ops_floats(n), *want = ops_floats(n);
    for (int32_t i = 0; i < OPS_MAX_ROWS; i++)
        ids[i] = (int32_t)((int64_t)i * (made.rows - 1) / (OPS_MAX_ROWS - 1));
    ops_note("%s, %d rows", name, made.rows);
    ck_assert_int_eq(ops->weight_make(t->one.be, &a, &made, 1, &e), 0);
    ck_assert_int_eq(ops->weight_load(t->one.be, &b, &read, 1, &e), 0);
    ops_embed(&t->one, got, &a, ids, OPS_MAX_ROWS);
    ops_embed(&t->one, want, &b, ids, OPS_MAX_ROWS);
    ops_expect_bits("rows", got, want, n);
    free(got), free(want);
    ops->weight_free(t->one.be, &a);
    ops->weight_free(t->one.be, &b);
    made.keep = read.keep = DT_F8;
    ck_assert_int_eq(ops->weight_make(t->one.be, &a, &made, 1, &e), 0);
    ck_assert_int_eq(ops->weight_load(t->one.be, &b, &read, 1, &e), 0);
    float *x = ops_gauss_array(&t->rng, cols, 1);
    got = ops_floats((size_t)made.rows), want = ops_floats((size_t)made.rows);
    ops_linear(&t->one, got, x, &a, 1);
    ops_linear(&t->one, want, x, &b, 1);
    ops_expect_bits("product in 8 bits", got, want, (size_t)made.rows);
    free(x), free(got), free(want);
    ops->weight_free(t->one.be, &a);
    ops->weight_free(t->one.be, &b);
    loader_ops(l)->done(l, &loan);
    loader_close(l);
}

START_TEST(test_a_weight_made_in_pieces_is_the_loaders)
{
    if (!ops_small())
        ops_on_each("a_weight_made_in_pieces_is_the_loaders", 1, check_large);
}
END_TEST

UNIT_MAIN("cuda_make", test_weights_made_on_the_card_are_the_loaders, test_a_weight_made_in_pieces_is_the_loaders)
