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

UNIT_MAIN("cuda_make", test_weights_made_on_the_card_are_the_loaders)
