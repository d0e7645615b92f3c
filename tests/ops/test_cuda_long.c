/* test_cuda_long - attention over 1,048,576 keys on the CUDA backend, rows of it checked in double.
 *
 * The pool is random numbers that the card makes (load_random.h's generator), so no two blocks are alike; block ids are
 * shuffled. Three calls over it: a chunk of 8,192 rows, which ends where the keys do; a few rows, whose keys are cut
 * into parts; one row of decode. Then the pool comes to the host, and a thread a kv head goes over its keys once.
 *
 * The truth takes q as the kernel rounds it (which is the only rounding that does not average out over the keys). What
 * is left is the rounding of a weight of the softmax, 2^-9 at most and 2^-9 / sqrt(3) in the mean, of each by itself,
 * and so of the row; and sums in float over 8,192 pieces, which the tensor cores cut off instead of rounding: o is
 * 2^-10 of itself short. So a row of o is right to 2^-8 of its norm and lse to 2^-16. A block of 64 keys left out, or
 * another's in its place, moves lse by 2^-14 and o by 2^-7 in the mean.
 */
#include "engine/base/rng.h"
#include "engine/kv/fmt_kv16.h"
#include "engine/kv/fmt_kv8.h"
#include "engine/kv/layout.h"
#include "tests/support/ops_check.h"
#include "tests/support/ops_trio.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <string.h>

#define KEYS   (1 << 20)
#define BLOCK  64
#define G      8 /* kv heads, */
#define GROUP  4 /* and heads of each */
#define H      (G * GROUP)
#define LOG2_E 1.4426950408889634f
#define ROWS   8192 /* of the longest call */
#define CALLS  3
#define COLS   4096 /* of the matrix that the pool is made as */

/* Rows of each call, and how many vectors of each kv head are looked at. */
static const struct {
    int32_t rows, looks;
} calls[CALLS] = {{ROWS, 8}, {40, 2}, {1, 2}};
#define LOOKS 12 /* of them all */

struct vector {
    int call;
    int32_t row, head, keys;
    double q[BACKEND_HEAD_DIM_MAX]; /* scores are q.k, base 2 */
    double max, sum, o[BACKEND_HEAD_DIM_MAX];
};

struct rig {
    const struct backend_ops *ops;
    struct backend *be;
    struct kv_layout layout;
    struct weight pool; /* on the card, */
    uint8_t *bytes;     /* and here */
    int32_t *table;
    float scale[2 * G]; /* of kv8 */
    float *scale_dev;
    struct vector look[G][LOOKS];
    float *o[CALLS], *lse[CALLS]; /* what the card gave */
    struct ops_rng rng;
};

/* -- the card ---------------------------------------------------------------------------------------------------- */

static uint64_t pool_bytes(const struct rig *r)
{
    return r->layout.block_bytes * (KEYS / BLOCK);
}

/* 0, or -ENOMEM when the card has no room. */
static int make_pool(struct rig *r, uint32_t format)
{
    struct err e = {0};
    struct weight_part p = {.dtype = DT_BF16, .cols = COLS, .made_key = rng_next(&r->rng.state)};
    uint64_t elements = pool_bytes(r) / (format == KV_FORMAT_KV16 ? 2 : 1);
    p.rows = (int32_t)(elements / COLS);
    p.made_scale = sqrtf(3) / 65535; /* deviation 1 */
    p.keep = format == KV_FORMAT_KV16 ? 0 : DT_F8;
    int rc = r->ops->weight_make(r->be, &r->pool, &p, 1, &e);
    ck_assert_msg(rc == 0 || rc == -ENOMEM, "%s", e.text);
    for (int i = 0; i < 2 * G; i++) /* its own scales take each row's largest to 448; nearly all are alike */
        r->scale[i] = 1 / 256.0f;
    return rc;
}

/* q of a vector as the kernels round it. */
static void round_q(const struct rig *r, const float *q, int32_t rows, int32_t head, double *to)
{
    int32_t d = (int32_t)r->layout.head_dim;
    float scale = 1 / sqrtf((float)d) * LOG2_E;
    bool kv8 = r->layout.format == KV_FORMAT_KV8;
    for (int32_t i = 0; i < d; i++) {
        if (rows > 8) /* prefill: with the scale in it */
            to[i] = bf16_to_f32(bf16_from_f32(q[i] * scale));
        else
            to[i] = (double)scale * (kv8 ? f16_to_f32(f16_from_f32(q[i])) : bf16_to_f32(bf16_from_f32(q[i])));
        to[i] *= kv8 ? r->scale[2 * (head / GROUP)] : 1;
    }
}

/* Vectors of call c to look at: first and last row among them. */
static void pick(struct rig *r, int c, const float *q)
{
    int32_t rows = calls[c].rows;
    for (int g = 0, from = c == 0 ? 0 : c == 1 ? calls[0].looks : LOOKS - calls[2].looks; g < G; g++)
        for (int i = 0; i < calls[c].looks; i++) {
            struct vector *v = &r->look[g][from + i];
            *v = (struct vector){.call = c, .head = g * GROUP + ops_int(&r->rng, 0, GROUP - 1), .max = -INFINITY};
            v->row = i == 0 ? rows - 1 : i == 1 ? 0 : ops_int(&r->rng, 0, rows - 1);
            v->keys = KEYS - rows + v->row + 1;
            round_q(r, q + ((size_t)v->row * H + (size_t)v->head) * r->layout.head_dim, rows, v->head, v->q);
        }
}

/* Call c on the card: its last rows. */
static void call(struct rig *r, int c)
{
    static uint64_t number = 1;
    int32_t rows = calls[c].rows, *ints = calloc(2 * (size_t)rows, sizeof *ints), *pos = ints + rows;
    int32_t seq_row[2] = {0, rows}, table_at[2] = {0, KEYS / BLOCK}, d = (int32_t)r->layout.head_dim;
    size_t n = (size_t)rows * H * (size_t)d, heads = (size_t)rows * H;
    float *q = ops_gauss_array(&r->rng, n, 2);
    struct kv_view kv = kv_layout_view(&r->layout, r->pool.part[0].data, 0);
    kv.scale = r->layout.format == KV_FORMAT_KV8 ? r->scale_dev : NULL;
    for (int32_t i = 0; i < rows; i++)
        pos[i] = KEYS - rows + i;
    struct step st = {.number = number++,
                      .n_rows = rows,
                      .n_seqs = 1,
                      .ids = ints,
                      .pos = pos,
                      .row_seq = ints,
                      .seq_row = seq_row,
                      .table = r->table,
                      .table_at = table_at};
    float *q_dev = r->ops->alloc(r->be, n * sizeof *q), *o_dev = r->ops->alloc(r->be, n * sizeof *q);
    float *lse_dev = r->ops->alloc(r->be, heads * sizeof *q);
    ck_assert(q_dev && o_dev && lse_dev);
    struct attn_args a = {.out = {o_dev, lse_dev}, .q = q_dev, .q_stride = H * d, .step = &st, .kv = &kv, .n_heads = H};
    a.scale = 1 / sqrtf((float)d);
    a.key_end = INT32_MAX;
    r->o[c] = ops_floats(n);
    r->lse[c] = ops_floats(heads);
    r->ops->upload(r->be, q_dev, q, n * sizeof *q);
    r->ops->upload(r->be, o_dev, r->o[c], n * sizeof *q);
    r->ops->attention(r->be, &a);
    r->ops->download(r->be, r->o[c], o_dev, n * sizeof *q);
    r->ops->download(r->be, r->lse[c], lse_dev, heads * sizeof *q);
    pick(r, c, q);
    r->ops->release(r->be, q_dev, n * sizeof *q);
    r->ops->release(r->be, o_dev, n * sizeof *q);
    r->ops->release(r->be, lse_dev, heads * sizeof *q);
    free(q), free(ints);
}

/* -- the truth --------------------------------------------------------------------------------------------------- */

struct head {
    struct rig *r;
    int g;
};

/* K or V of a block in double. */
static void get_block(const struct rig *r, int32_t block, int g, int v, double *to)
{
    struct kv_view kv = kv_layout_view(&r->layout, r->bytes, 0);
    float x[BACKEND_HEAD_DIM_MAX];
    for (uint32_t t = 0; t < BLOCK; t++) {
        const void *row = kv_row(&kv, block, (uint32_t)g, v, t);
        if (kv.format == KV_FORMAT_KV16)
            kv16_get(x, row, kv.head_dim);
        else
            kv8_get(x, row, kv.head_dim, 1); /* the scale is in q, and comes to o at the end */
        for (uint32_t i = 0; i < kv.head_dim; i++)
            *to++ = x[i];
    }
}

/* Several sums side by side: one alone would wait for itself at each step. */
static double dot(const double *a, const double *b, uint32_t n)
{
    double sum[8] = {0};
    for (uint32_t i = 0; i < n; i += 8)
        for (int j = 0; j < 8; j++)
            sum[j] += a[i + j] * b[i + j];
    return (sum[0] + sum[1] + sum[2] + sum[3]) + (sum[4] + sum[5] + sum[6] + sum[7]);
}

/* One block of n keys into v. */
static void add_block(struct vector *v, const double *k, const double *val, int32_t n, uint32_t d)
{
    double s[BLOCK], max = v->max;
    for (int32_t j = 0; j < n; j++) {
        s[j] = dot(v->q, k + (size_t)j * d, d);
        max = fmax(max, s[j]);
    }
    double shrink = exp2(v->max - max);
    v->max = max;
    v->sum *= shrink;
    for (uint32_t i = 0; i < d; i++)
        v->o[i] *= shrink;
    for (int32_t j = 0; j < n; j++, val += d) {
        double p = exp2(s[j] - max);
        v->sum += p;
        for (uint32_t i = 0; i < d; i++)
            v->o[i] += p * val[i];
    }
}

static void *head_main(void *arg)
{
    struct head *h = arg;
    struct rig *r = h->r;
    uint32_t d = r->layout.head_dim;
    double *k = malloc(2 * BLOCK * (size_t)d * sizeof *k), *v = k + BLOCK * (size_t)d;
    for (int32_t b = 0; k && b < KEYS / BLOCK; b++) {
        get_block(r, r->table[b], h->g, 0, k);
        get_block(r, r->table[b], h->g, 1, v);
        for (int i = 0; i < LOOKS; i++) {
            int32_t n = r->look[h->g][i].keys - b * BLOCK;
            if (n > 0)
                add_block(&r->look[h->g][i], k, v, n < BLOCK ? n : BLOCK, d);
        }
    }
    free(k);
    return k ? h : NULL;
}

static void find_truth(struct rig *r)
{
    pthread_t thread[G];
    struct head head[G];
    void *done;
    for (int g = 0; g < G; g++) {
        head[g] = (struct head){r, g};
        ck_assert_int_eq(pthread_create(&thread[g], NULL, head_main, &head[g]), 0);
    }
    for (int g = 0; g < G; g++) {
        ck_assert_int_eq(pthread_join(thread[g], &done), 0);
        ck_assert_ptr_nonnull(done);
    }
}

/* off[0], off[1]: the largest error of o, of its norm, and of lse, so far. */
static void compare(const struct rig *r, struct vector *v, double off[2])
{
    uint32_t d = r->layout.head_dim;
    size_t at = (size_t)v->row * H + (size_t)v->head;
    const float *got = r->o[v->call] + at * d;
    double lse = (v->max + log2(v->sum)) * log(2), tol = 0x1p-16, dist = 0, norm = 0;
    for (uint32_t i = 0; i < d; i++) {
        v->o[i] *= (r->layout.format == KV_FORMAT_KV8 ? r->scale[2 * (v->head / GROUP) + 1] : 1) / v->sum;
        dist += (got[i] - v->o[i]) * (got[i] - v->o[i]);
        norm += v->o[i] * v->o[i];
    }
    off[0] = fmax(off[0], sqrt(dist / norm));
    off[1] = fmax(off[1], fabs(r->lse[v->call][at] - lse));
    ops_note("%d rows, row %d, head %d", calls[v->call].rows, v->row, v->head);
    ops_expect_near("o", got, v->o, d, 0x1p-8);
    ops_expect_within("lse", &r->lse[v->call][at], &lse, &tol, 1);
}

/* -- both -------------------------------------------------------------------------------------------------------- */

static void check(struct rig *r, const char *what)
{
    double off[CALLS][2] = {0};
    r->table = ops_shuffled(&r->rng, KEYS / BLOCK);
    r->scale_dev = r->ops->alloc(r->be, sizeof r->scale);
    r->bytes = malloc(pool_bytes(r));
    ck_assert(r->scale_dev && r->bytes);
    r->ops->upload(r->be, r->scale_dev, r->scale, sizeof r->scale);
    for (int c = 0; c < CALLS; c++)
        call(r, c);
    r->ops->download(r->be, r->bytes, r->pool.part[0].data, pool_bytes(r));
    find_truth(r);
    for (int g = 0; g < G; g++)
        for (int i = 0; i < LOOKS; i++)
            compare(r, &r->look[g][i], off[r->look[g][i].call]);
    for (int c = 0; c < CALLS; c++) {
        printf("%s, %d of the last rows over %d keys, %d vectors: o off by at most %.2e of its norm, lse by %.2e\n",
               what, calls[c].rows, KEYS, calls[c].looks * G, off[c][0], off[c][1]);
        free(r->o[c]), free(r->lse[c]);
    }
    fflush(stdout);
    r->ops->release(r->be, r->scale_dev, sizeof r->scale);
    free(r->bytes), free(r->table);
}

static void on_card(const char *test, uint32_t head_dim, uint32_t format)
{
    struct rig r = {.ops = ops_cuda(test)};
    struct backend_opts o = {.max_rows = ROWS,
                             .max_seqs = 1,
                             .max_table = KEYS / BLOCK,
                             .max_cols = COLS,
                             .wide_bytes = format == KV_FORMAT_KV8 ? BACKEND_WIDE_BYTES : 0};
    struct err e = {0};
    char what[64];
    if (!r.ops)
        return;
    r.rng.state = unit_seed(test);
    ck_assert_int_eq(kv_layout_init(&r.layout, 1, G, head_dim, BLOCK, format, &e), 0);
    ck_assert_msg(r.ops->open(&r.be, &o, &e) == 0, "%s", e.text);
    snprintf(what, sizeof what, "%s, head_dim %u", format == KV_FORMAT_KV16 ? "kv16" : "kv8", head_dim);
    if (make_pool(&r, format) == 0) {
        check(&r, what);
        r.ops->weight_free(r.be, &r.pool);
    } else {
        printf("SKIP %s_on_cuda: no GPU memory for a pool of %llu MiB\n", test,
               (unsigned long long)pool_bytes(&r) >> 20);
    }
    r.ops->close(r.be);
}

START_TEST(test_a_million_keys_of_kv16_are_all_seen)
{
    on_card("a_million_keys_of_kv16_are_all_seen", 64, KV_FORMAT_KV16);
    on_card("a_million_wide_keys_of_kv16_are_all_seen", 128, KV_FORMAT_KV16); /* a launch a kv head */
}
END_TEST

START_TEST(test_a_million_keys_of_kv8_are_all_seen)
{
    on_card("a_million_keys_of_kv8_are_all_seen", 128, KV_FORMAT_KV8);
}
END_TEST

UNIT_MAIN("cuda_long", test_a_million_keys_of_kv16_are_all_seen, test_a_million_keys_of_kv8_are_all_seen)
