/* test_attention - attention and merge of every backend against cpu_ref, split against whole, rows against themselves.
 *
 * Tolerances, with u = 2^-24 (see test_ops), n keys, D elements in a head:
 *   attention      a score is off by s = (D + 8) u scale sum|q k|. o: (2 s + (n + 16) u) sum p|v| over n keys; in the
 *                  mean (sqrt(D) + sqrt(n) + 8) u. lse: s + (n + 8) u + u |lse|.
 *   merge          o: 8 u (|a| + |b|) (two exp, whose argument is exact to u |lse|: 2 u |lse_a - lse_b| more);
 *                  lse: 4 u max(1, |lse|).
 *   split = whole  1e-6 of the norm of a row of o: each part stores o and lse as floats, and lse, below 16, is right to
 *                  16 u, which moves the weights of two parts by as much.
 * On the tensor cores (CUDA, but for kv32) queries and weights are rounded to bfloat16 or half, w = 2^-9, and how keys
 * are cut depends on the other sequences:
 *   attention      s grows by w scale sum|q k| and is no longer small: o: (e^(2 s) - 1 + w + ..) sum p|v|; in the mean
 * o by w (1 + 1.5 scale sqrt(D)). company, split within both bounds, the row's and the other's, instead of bits and of
 * 1e-6.
 */
#include "tests/support/ops_check.h"
#include "tests/support/ops_trio.h"
#include "tests/support/ops_truth.h"
#include "tests/support/unit.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#define COMPANY   17 /* rows of the batch in which a row must come out as it does alone */
#define PARTS_MAX 9

/* Run `a` on d into new arrays. */
static struct attn_partial attend(const struct ops_dev *d, const struct ops_kv_case *c, const struct attn_args *a)
{
    size_t heads = (size_t)a->step->n_rows * a->n_heads;
    struct attn_args with = *a;
    with.out = (struct attn_partial){ops_floats(heads * c->kv.head_dim), ops_floats(heads)};
    ops_attention(d, &with, c->pool_bytes);
    return with.out;
}

static void free_partial(struct attn_partial p)
{
    free(p.o);
    free(p.lse_ln);
}

static void note_case(const char *what, const struct ops_trio *t, const struct ops_kv_case *c,
                      const struct attn_args *a)
{
    ops_note("%s %s round %d: format %u T=%d S=%d H=%d G=%u D=%u block %u window %d keys %d..%d sink %d", t->one.name,
             what, t->round, c->kv.format, c->step.n_rows, c->step.n_seqs, c->n_heads, c->kv.n_kv_heads, c->kv.head_dim,
             c->kv.block_tokens, a->window, a->key_begin, a->key_end, a->sink != NULL);
}

/* -- bounds ------------------------------------------------------------------------------------------------------- */

/* What the results of a case may be off by. */
struct bounds {
    double *o, *lse; /* [T][H][D], [T][H] */
    double *size;    /* [T][H][D]: sum of p |v| */
    double o_mean;
    bool bits; /* a row has the same bits in any company */
};

static void bounds_free(struct bounds *b)
{
    free(b->size), free(b->lse), free(b->o);
}

/* The largest sum|q k| * scale over all keys up to the row's position: what the error of a score is measured by. */
static double score_size(const struct ops_kv_case *c, const struct attn_args *a, int32_t th)
{
    int32_t t = th / a->n_heads, h = th % a->n_heads, s = c->step.row_seq[t], d = (int32_t)c->kv.head_dim;
    int32_t g_n = (int32_t)c->kv.n_kv_heads, g = h / (a->n_heads / g_n);
    const float *q = a->q + t * a->q_stride + (size_t)h * d;
    double most = 0;
    for (int32_t j = 0; j <= c->step.pos[t]; j++) {
        const float *k = c->k[s] + ((size_t)j * g_n + g) * d;
        double sum = 0;
        for (int32_t i = 0; i < d; i++)
            sum += fabs((double)q[i] * k[i]);
        most = fmax(most, sum * a->scale);
    }
    return most;
}

static bool on_tensor_cores(const struct ops_trio *t, const struct ops_kv_case *c)
{
    return t->cuda && c->kv.format != KV_FORMAT_KV32;
}

static struct bounds bounds_of(const struct ops_trio *t, const struct ops_kv_case *c, const struct attn_args *a)
{
    size_t d = c->kv.head_dim, heads = (size_t)a->step->n_rows * a->n_heads;
    double unused[BACKEND_HEAD_DIM_MAX], longest = 0, w = on_tensor_cores(t, c) ? 0x1p-9 : 0;
    struct bounds b = {
        .o = ops_doubles(NULL, heads * d), .lse = ops_doubles(NULL, heads), .size = ops_doubles(NULL, heads * d)};
    for (size_t i = 0; i < heads; i++) {
        double n = c->step.pos[i / a->n_heads] + 1, s = ((d + 8) * OPS_U + w) * score_size(c, a, (int32_t)i);
        double lse = ops_attend(c, a, (int32_t)i, unused, b.size + i * d);
        for (size_t k = i * d; k < (i + 1) * d; k++)
            b.o[k] = (expm1(2 * s) + w + (n + 16) * OPS_U) * b.size[k];
        b.lse[i] = s + (n + 8 + (isinf(lse) ? 0 : fabs(lse))) * OPS_U;
        longest = fmax(longest, n);
    }
    b.o_mean = (sqrt(d) + sqrt(longest) + 8) * OPS_U + w * (1 + 1.5 * a->scale * sqrt(d));
    b.bits = w == 0;
    return b;
}

/* -- against the truth ------------------------------------------------------------------------------------------- */

static void compare(const struct ops_kv_case *c, const struct attn_args *a, const struct bounds *b,
                    struct attn_partial got, struct attn_partial want)
{
    size_t d = c->kv.head_dim, heads = (size_t)a->step->n_rows * a->n_heads;
    double *o = ops_doubles(want.o, heads * d), *lse = ops_doubles(want.lse_ln, heads);
    ops_expect_within("o", got.o, o, b->o, heads * d);
    ops_expect_within("lse", got.lse_ln, lse, b->lse, heads);
    ops_expect_rms("o", got.o, o, b->size, heads * d, b->o_mean);
    free(lse), free(o);
}

/* -- a row and its company --------------------------------------------------------------------------------------- */

/* Vectors i of `got` and k of `all`, of row length n: twice within the bound, or the same bits. */
static void expect_same(const char *what, const struct bounds *b, const float *got, const float *all,
                        const double *bound, size_t n)
{
    if (b->bits) {
        ops_expect_bits(what, got, all, n);
        return;
    }
    double *want = ops_doubles(all, n), *twice = ops_doubles(NULL, n);
    for (size_t i = 0; i < n; i++)
        twice[i] = 2 * bound[i];
    ops_expect_within(what, got, want, twice, n);
    free(twice), free(want);
}

/* Rows of the case in a step of 17 (shuffled, each a sequence of its own) and one alone: as in `all`. */
static void check_rows(struct ops_trio *t, const struct ops_kv_case *c, const struct attn_args *a,
                       const struct bounds *b, struct attn_partial all)
{
    size_t d = c->kv.head_dim, h_n = (size_t)a->n_heads, n_q = (size_t)a->q_stride;
    int32_t n = c->step.n_rows < COMPANY ? c->step.n_rows : COMPANY, *pick = ops_shuffled(&t->rng, c->step.n_rows);
    float *q = ops_floats((size_t)n * n_q);
    for (int pass = 0; pass < 2; pass++, n = 1) {
        struct step st = ops_step_of_rows(c, pick, n);
        struct attn_args with = *a;
        with.step = &st;
        with.q = q;
        for (int32_t i = 0; i < n; i++)
            memcpy(q + (size_t)i * n_q, a->q + (size_t)pick[i] * n_q, n_q * sizeof *q);
        struct attn_partial got = attend(pass ? &t->one : &t->three, c, &with);
        for (int32_t i = 0; i < n; i++) {
            size_t at = (size_t)pick[i] * h_n;
            expect_same("o in other company", b, got.o + i * h_n * d, all.o + at * d, b->o + at * d, h_n * d);
            expect_same("lse in other company", b, got.lse_ln + i * h_n, all.lse_ln + at, b->lse + at, h_n);
        }
        free_partial(got);
        free((void *)(uintptr_t)st.ids);
    }
    free(q), free(pick);
}

/* As input rows: the same values, rounded to their type. */
static void check_input(struct ops_trio *t, const struct ops_kv_case *c, const struct attn_args *a, const float *o)
{
    size_t all = (size_t)a->step->n_rows * a->n_heads * c->kv.head_dim;
    struct attn_args b = *a;
    float *got = ops_floats(all);
    b.out_input = got;
    b.out = (struct attn_partial){0};
    ops_attention(&t->one, &b, c->pool_bytes);
    double *want = ops_doubles(o, all), *tol = ops_doubles(NULL, all);
    for (size_t i = 0; i < all; i++)
        tol[i] = t->narrow * fabs(want[i]);
    ops_expect_within("o as input rows", got, want, tol, all);
    free(tol), free(want), free(got);
}

static void check_case(struct ops_trio *t, const struct ops_kv_case *c, const struct attn_args *a)
{
    size_t heads = (size_t)a->step->n_rows * a->n_heads, all = heads * c->kv.head_dim;
    struct attn_partial want = attend(&t->ref, c, a), got = attend(&t->one, c, a), again = attend(&t->three, c, a);
    struct bounds b = bounds_of(t, c, a);
    compare(c, a, &b, got, want);
    check_input(t, c, a, got.o);
    ops_expect_bits("o with three threads", again.o, got.o, all);
    ops_expect_bits("lse with three threads", again.lse_ln, got.lse_ln, heads);
    check_rows(t, c, a, &b, got);
    struct attn_args no_lse = *a;
    no_lse.out = (struct attn_partial){again.o, NULL};
    ops_attention(&t->one, &no_lse, c->pool_bytes);
    ops_expect_bits("o without lse", again.o, got.o, all);
    bounds_free(&b);
    free_partial(want), free_partial(got), free_partial(again);
}

static void check_random(struct ops_trio *t)
{
    struct ops_kv_dims dims = ops_kv_dims_random(&t->rng);
    struct ops_kv_case c;
    struct attn_args a;
    ops_kv_case_make(&c, &t->rng, &dims, 1);
    float *sink = ops_gauss_array(&t->rng, (size_t)c.n_heads, 2);
    ops_attn_random(&a, &t->rng, &c, sink);
    if (t->round % 8 == 5)
        a.scale *= 12; /* sharp: nearly all weight on few keys */
    note_case("attention", t, &c, &a);
    check_case(t, &c, &a);
    free(sink);
    ops_kv_case_free(&c);
}

START_TEST(test_attention_is_near_the_truth_and_row_by_row)
{
    ops_on_each("attention_is_near_the_truth_and_row_by_row", 48, check_random);
}
END_TEST

static void check_long(struct ops_trio *t)
{
    struct ops_kv_dims dims = {64, 1, 3, t->round ? 64 : 16, t->round ? KV_FORMAT_KV16 : KV_FORMAT_KV32, 2, 3000, 5};
    struct ops_kv_case c;
    struct attn_args a;
    ops_kv_case_make(&c, &t->rng, &dims, 1);
    ops_attn_random(&a, &t->rng, &c, NULL);
    a.window = 0;
    a.key_begin = 0;
    a.key_end = INT32_MAX;
    note_case("long attention", t, &c, &a);
    check_case(t, &c, &a);
    ops_kv_case_free(&c);
}

START_TEST(test_attention_over_thousands_of_keys)
{
    ops_on_each("attention_over_thousands_of_keys", 2, check_long);
}
END_TEST

/* Shapes of decode on the tensor cores: 1 to 8 rows over more keys. */
static void check_decode(struct ops_trio *t)
{
    static const int32_t dims[] = {64, 128, 256}, blocks[] = {16, 32, 64, 128};
    struct ops_kv_dims d = {.head_dim = ops_pick(&t->rng, dims, 3),
                            .n_kv_heads = ops_int(&t->rng, 1, 3),
                            .group = ops_int(&t->rng, 1, 16),
                            .block_tokens = ops_pick(&t->rng, blocks, 4),
                            .format = t->round % 2 ? KV_FORMAT_KV8 : KV_FORMAT_KV16,
                            .n_seqs = ops_int(&t->rng, 1, 5),
                            .max_new = t->round % 3 ? 1 : ops_int(&t->rng, 1, 8)};
    d.max_past = 24000000 / (d.head_dim * d.n_kv_heads * d.group * d.n_seqs * (d.max_new + 1));
    d.max_past = d.max_past < 2000 ? d.max_past : 2000;
    struct ops_kv_case c;
    struct attn_args a;
    ops_kv_case_make(&c, &t->rng, &d, 1);
    float *sink = ops_gauss_array(&t->rng, (size_t)c.n_heads, 2);
    ops_attn_random(&a, &t->rng, &c, sink);
    if (ops_int(&t->rng, 0, 1)) {
        a.key_begin = 0;
        a.key_end = INT32_MAX;
    }
    note_case("decode", t, &c, &a);
    check_case(t, &c, &a);
    free(sink);
    ops_kv_case_free(&c);
}

START_TEST(test_decode_over_many_keys)
{
#ifdef OPS_CUDA
    ops_on_each("decode_over_many_keys", 40, check_decode);
#else
    ops_on_each("decode_over_many_keys", 3, check_decode);
#endif
}
END_TEST

/* -- parts and the merge ----------------------------------------------------------------------------------------- */

/* Cut the keys at random into up to PARTS_MAX ranges, attend to each, and merge them in random order. */
static struct attn_partial attend_in_parts(struct ops_trio *t, const struct ops_kv_case *c, const struct attn_args *a)
{
    int32_t n = ops_int(&t->rng, 2, PARTS_MAX), edge[PARTS_MAX + 1] = {0}, longest = 0;
    for (int32_t s = 0; s < c->step.n_seqs; s++)
        longest = c->len[s] > longest ? c->len[s] : longest;
    for (int32_t i = 1; i < n; i++) {
        int32_t at = ops_int(&t->rng, 1, longest), k = i; /* in order; equal ones make an empty part; one begins at 0 */
        for (; k > 0 && edge[k - 1] > at; k--)
            edge[k] = edge[k - 1];
        edge[k] = at;
    }
    edge[0] = 0;
    edge[n] = INT32_MAX;
    int32_t *order = ops_shuffled(&t->rng, n);
    struct attn_partial sum = {0};
    for (int32_t i = 0; i < n; i++) {
        struct attn_args part = *a;
        part.key_begin = edge[order[i]];
        part.key_end = edge[order[i] + 1];
        struct attn_partial p = attend(i % 2 ? &t->three : &t->one, c, &part);
        if (i == 0) {
            sum = p;
            continue;
        }
        ops_merge(&t->one, sum, p, a->step->n_rows * a->n_heads, (int32_t)c->kv.head_dim);
        free_partial(p);
    }
    free(order);
    return sum;
}

static void check_split(struct ops_trio *t)
{
    struct ops_kv_dims dims = ops_kv_dims_random(&t->rng);
    struct ops_kv_case c;
    struct attn_args a;
    ops_kv_case_make(&c, &t->rng, &dims, 1);
    float *sink = ops_gauss_array(&t->rng, (size_t)c.n_heads, 2);
    ops_attn_random(&a, &t->rng, &c, sink);
    a.key_begin = 0;
    a.key_end = INT32_MAX;
    note_case("split attention", t, &c, &a);
    struct attn_partial whole = attend(&t->one, &c, &a), sum = attend_in_parts(t, &c, &a);
    size_t d = c.kv.head_dim, heads = (size_t)a.step->n_rows * a.n_heads;
    struct bounds b = bounds_of(t, &c, &a);
    double *o = ops_doubles(whole.o, heads * d);
    size_t row = (size_t)a.n_heads * d;
    for (size_t i = 0; i < heads * d && b.bits; i += row)
        ops_expect_near("o of the parts", sum.o + i, o + i, row, 1e-6);
    for (size_t i = 0; i < heads * d && !b.bits; i++)
        b.o[i] *= 2;
    if (!b.bits)
        ops_expect_within("o of the parts", sum.o, o, b.o, heads * d);
    for (size_t i = 0; i < heads; i++) {
        double lse = whole.lse_ln[i], tol = 2e-6 + (b.bits ? 0 : 2 * b.lse[i]);
        ops_expect_within("lse of the parts", &sum.lse_ln[i], &lse, &tol, 1);
    }
    bounds_free(&b);
    free(o), free(sink), free_partial(whole), free_partial(sum);
    ops_kv_case_free(&c);
}

START_TEST(test_any_split_of_the_keys_merges_to_the_whole)
{
    ops_on_each("any_split_of_the_keys_merges_to_the_whole", 40, check_split);
}
END_TEST

/* Random partials, some without keys on one side or both. Where b has none, b.o is poison that must not be read. */
static struct attn_partial random_partial(struct ops_rng *r, int32_t n, int32_t d, float scale, int empty, bool poison)
{
    struct attn_partial p = {ops_gauss_array(r, (size_t)n * d, 1), ops_gauss_array(r, (size_t)n, scale)};
    for (int32_t i = 0; i < n; i++)
        if (ops_int(r, 0, empty) == 0) {
            p.lse_ln[i] = -INFINITY;
            for (int32_t k = i * d; k < (i + 1) * d; k++)
                p.o[k] = poison ? NAN : 0;
        }
    return p;
}

static struct attn_partial copy_of(struct attn_partial p, int32_t n, int32_t d)
{
    struct attn_partial q = {ops_floats((size_t)n * d), ops_floats((size_t)n)};
    memcpy(q.o, p.o, (size_t)n * d * sizeof *q.o);
    memcpy(q.lse_ln, p.lse_ln, (size_t)n * sizeof *q.lse_ln);
    return q;
}

static void check_merge(struct ops_trio *t)
{
    static const float scales[] = {1, 8, 100};
    static const int32_t dims[] = {16, 64, 80, 128, 256};
    int32_t n = ops_int(&t->rng, 1, 60), d = ops_pick(&t->rng, dims, 5);
    struct attn_partial a = random_partial(&t->rng, n, d, scales[t->round % 3], 4, false);
    struct attn_partial b = random_partial(&t->rng, n, d, scales[t->round % 3], 4, true);
    struct attn_partial want = copy_of(a, n, d), again = copy_of(a, n, d), alone = copy_of(a, n, d);
    ops_note("%s merge round %d n=%d d=%d", t->one.name, t->round, n, d);
    double *o_tol = ops_doubles(NULL, (size_t)n * d), *lse_tol = ops_doubles(NULL, (size_t)n);
    for (int32_t i = 0; i < n; i++) {
        double apart = fabs((double)a.lse_ln[i] - b.lse_ln[i]);
        for (int32_t k = i * d; k < (i + 1) * d && apart < INFINITY; k++)
            o_tol[k] = (8 + 2 * apart) * OPS_U * (fabs(a.o[k]) + fabs(b.o[k]));
        lse_tol[i] = 4 * OPS_U * fmax(1, fmax(fabs(a.lse_ln[i]), fabs(b.lse_ln[i])));
    }
    ops_merge(&t->ref, want, b, n, d);
    ops_merge(&t->one, a, b, n, d);
    ops_merge(&t->three, again, b, n, d);
    ops_expect_bits("o with three threads", again.o, a.o, (size_t)n * d);
    ops_expect_bits("lse with three threads", again.lse_ln, a.lse_ln, (size_t)n);
    for (int32_t i = 0; i < n; i++) {
        struct attn_partial ai = {alone.o + (size_t)i * d, alone.lse_ln + i}, bi = {b.o + (size_t)i * d, b.lse_ln + i};
        ops_merge(&t->one, ai, bi, 1, d);
    }
    ops_expect_bits("o of vectors alone", alone.o, a.o, (size_t)n * d);
    double *o = ops_doubles(want.o, (size_t)n * d), *lse = ops_doubles(want.lse_ln, (size_t)n);
    ops_expect_within("o", a.o, o, o_tol, (size_t)n * d);
    ops_expect_within("lse", a.lse_ln, lse, lse_tol, (size_t)n);
    free(o), free(lse), free(o_tol), free(lse_tol);
    free_partial(a), free_partial(b), free_partial(want), free_partial(again), free_partial(alone);
}

START_TEST(test_merge_is_near_the_truth_and_leaves_a_side_without_keys_alone)
{
    ops_on_each("merge_is_near_the_truth_and_leaves_a_side_without_keys_alone", 30, check_merge);
}
END_TEST

UNIT_MAIN("attention", test_attention_is_near_the_truth_and_row_by_row, test_attention_over_thousands_of_keys,
          test_decode_over_many_keys, test_any_split_of_the_keys_merges_to_the_whole,
          test_merge_is_near_the_truth_and_leaves_a_side_without_keys_alone)
