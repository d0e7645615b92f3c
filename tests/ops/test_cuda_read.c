/* test_cuda_read - weights that the card's backend reads from files by itself are those that are loaded, bit for bit.
 */
#define OPS_CUDA
#include "tests/support/ops_check.h"
#include "tests/support/ops_trio.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static const uint32_t types[] = {DT_F32, DT_F16, DT_BF16, DT_Q8_0, DT_Q4_0, DT_Q4_1};

struct filed {
    char path[64];
    FILE *file;
    uint64_t at;
};

static void file_open(struct filed *f)
{
    strcpy(f->path, P_tmpdir "/hearth-read-XXXXXX");
    int fd = mkstemp(f->path);
    ck_assert_int_ge(fd, 0);
    f->file = fdopen(fd, "wb");
    ck_assert_ptr_nonnull(f->file);
    f->at = 0;
}

static void file_put(struct filed *f, const void *bytes, size_t n)
{
    ck_assert_uint_eq(fwrite(bytes, 1, n, f->file), n);
    f->at += n;
}

/* A part's rows, one after the other from a multiple of 32 on. With head_dim they go in as pairs (2 i + half). */
static void file_part(struct filed *f, struct weight_part *p, int32_t head_dim, struct ops_rng *r)
{
    static const uint8_t zero[64];
    uint64_t row = quant_row_bytes(p->dtype, p->cols);
    file_put(f, zero, 32 * (size_t)ops_int(r, 0, 1) + (32 - f->at % 32) % 32);
    struct weight_part placed = {.dtype = p->dtype,
                                 .rows = p->rows,
                                 .cols = p->cols,
                                 .row_bytes = row,
                                 .path = f->path,
                                 .at = f->at,
                                 .head_dim = head_dim};
    for (int32_t i = 0; i < p->rows; i++) {
        int32_t d = head_dim, from = d ? i / d * d + i % 2 * (d / 2) + i % d / 2 : i;
        file_put(f, (const uint8_t *)p->data + (uint64_t)from * p->row_bytes, row);
    }
    *p = placed;
}

/* Both weights, row by row. */
static void same(struct ops_trio *t, const struct weight *a, const struct weight *b)
{
    float *got = ops_floats((size_t)OPS_MAX_ROWS * (size_t)a->cols),
          *want = ops_floats((size_t)OPS_MAX_ROWS * (size_t)a->cols);
    int32_t ids[OPS_MAX_ROWS];
    for (int32_t row = 0; row < a->rows; row += OPS_MAX_ROWS) {
        int32_t n = a->rows - row < OPS_MAX_ROWS ? a->rows - row : OPS_MAX_ROWS;
        for (int32_t i = 0; i < n; i++)
            ids[i] = row + i;
        ops_embed(&t->one, got, a, ids, n);
        ops_embed(&t->one, want, b, ids, n);
        ops_expect_bits("rows", got, want, (size_t)n * (size_t)a->cols);
    }
    free(got), free(want);
}

/* In 8 bits they can't be looked at as rows: by what they do to one row of x. */
static void same_product(struct ops_trio *t, const struct weight *a, const struct weight *b)
{
    float *x = ops_gauss_array(&t->rng, (size_t)a->cols, 1), *got = ops_floats((size_t)a->rows),
          *want = ops_floats((size_t)a->rows);
    ops_linear(&t->one, got, x, a, 1);
    ops_linear(&t->one, want, x, b, 1);
    ops_expect_bits("product", got, want, (size_t)a->rows);
    free(x), free(got), free(want);
}

static void check_read(struct ops_trio *t)
{
    const struct backend_ops *ops = t->one.ops;
    uint32_t of[2] = {types[t->round % 6], types[ops_int(&t->rng, 0, 5)]};
    int32_t d = t->round % 2 ? 2 * ops_int(&t->rng, 1, 16) : 0,
            rows = t->round % 5 == 4 ? 4000 : ops_int(&t->rng, 1, 90);
    bool fp8 = t->round % 4 == 3;
    struct ops_matrix m;
    struct weight loaded, read;
    struct filed f;
    struct err e = {0};
    d = fp8 ? 16 : d;
    rows = d ? (rows + d - 1) / d * d : rows;
    ops_matrix_make(&m, &t->rng, of, d ? 1 : 2, rows, 32 * ops_int(&t->rng, 1, t->round % 5 == 4 ? 64 : 12));
    ops_note("types %u %u N=%d K=%d heads of %d fp8 %d", of[0], of[1], m.rows, m.cols, d, fp8);
    for (int i = 0; i < m.n_parts; i++)
        m.part[i].keep = fp8 ? DT_F8 : 0;
    ck_assert_msg(ops->weight_load(t->one.be, &loaded, m.part, m.n_parts, &e) == 0, "%s", e.text);
    file_open(&f);
    for (int i = 0; i < m.n_parts; i++) {
        void *data = (void *)(uintptr_t)m.part[i].data;
        file_part(&f, &m.part[i], d, &t->rng);
        m.part[i].keep = fp8 ? DT_F8 : 0;
        free(data);
    }
    ck_assert_int_eq(fclose(f.file), 0);
    ck_assert_msg(ops->weight_read(t->one.be, &read, m.part, m.n_parts, &e) == 0, "%s", e.text);
    ck_assert_msg(ops->weight_wait(t->one.be, &e) == 0, "%s", e.text);
    if (fp8)
        same_product(t, &read, &loaded);
    else
        same(t, &read, &loaded);
    ops->weight_free(t->one.be, &read);
    ops->weight_free(t->one.be, &loaded);
    ops_matrix_free(&m);
    unlink(f.path);
}

START_TEST(test_weights_read_from_files_are_those_loaded)
{
    ops_on_each("weights_read_from_files_are_those_loaded", 40, check_read);
}
END_TEST

/* A file that ends too early, and one that is not there: said by weight_wait at the latest, and the next load works. */
static void check_errors(struct ops_trio *t)
{
    const struct backend_ops *ops = t->one.ops;
    struct weight_part p = {.dtype = DT_F32, .rows = 8, .cols = 32, .row_bytes = 128, .path = P_tmpdir "/no such file"};
    struct weight w = {0};
    struct err e = {0};
    struct filed f;
    int rc = ops->weight_read(t->one.be, &w, &p, 1, &e);
    ck_assert_int_eq(rc ? rc : ops->weight_wait(t->one.be, &e), -ENOENT);
    ck_assert_ptr_nonnull(strstr(e.text, "no such file"));
    ops->weight_free(t->one.be, &w);
    file_open(&f);
    file_put(&f, "short", 5);
    ck_assert_int_eq(fclose(f.file), 0);
    p.path = f.path;
    rc = ops->weight_read(t->one.be, &w, &p, 1, &e);
    ck_assert_int_eq(rc ? rc : ops->weight_wait(t->one.be, &e), -EIO);
    ck_assert_ptr_nonnull(strstr(e.text, f.path));
    ops->weight_free(t->one.be, &w);
    ck_assert_int_eq(ops->weight_wait(t->one.be, &e), 0);
    unlink(f.path);
}

START_TEST(test_a_file_that_cannot_be_read_is_named)
{
    ops_on_each("a_file_that_cannot_be_read_is_named", 2, check_errors);
}
END_TEST

UNIT_MAIN("cuda_read", test_weights_read_from_files_are_those_loaded, test_a_file_that_cannot_be_read_is_named)
