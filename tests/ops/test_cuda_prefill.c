/* test_cuda_prefill - attention of long chunks on the CUDA backend: many tiles, histories, sequences; chunks and
 * company.
 *
 * Against cpu_ref a row of o (all heads) is off by at most 2^-7 of its norm: q, p and the products of both with K and V
 * are right to 2^-9 (bfloat16), and scores of deviation 1 pass their error on; lse by 2^-6. A row's bits do not depend
 * on how the sequence is cut into chunks (of more rows than decode takes), nor on the sequences beside it; only a few
 * rows over thousands of keys, whose keys are cut into parts, have other bits than many rows.
 */
#define OPS_CUDA
#include "tests/support/ops_check.h"
#include "tests/support/ops_trio.h"
#include "tests/support/ops_truth.h"
#include "tests/support/unit.h"

#include <math.h>
#include <string.h>

#define DECODE_ROWS 8 /* chunks of at most so many rows are the decode kernel's */

static const struct ops_kv_dims shapes[] = {
    /* head_dim, kv heads, group, block, format, sequences, past, new */
    {128, 2, 4, 64, KV_FORMAT_KV16, 1, 600, 150}, {128, 2, 4, 64, KV_FORMAT_KV16, 4, 200, 38},
    {128, 1, 7, 16, KV_FORMAT_KV16, 2, 300, 70},  {128, 3, 3, 128, KV_FORMAT_KV16, 3, 300, 50},
    {128, 2, 1, 32, KV_FORMAT_KV16, 1, 900, 150}, {64, 3, 3, 64, KV_FORMAT_KV16, 1, 500, 150},
    {64, 2, 8, 16, KV_FORMAT_KV16, 3, 300, 50},   {256, 1, 4, 64, KV_FORMAT_KV16, 2, 200, 70},
    {256, 2, 2, 32, KV_FORMAT_KV16, 1, 300, 120}, {80, 2, 4, 64, KV_FORMAT_KV16, 2, 150, 60},
    {96, 1, 16, 64, KV_FORMAT_KV16, 1, 300, 60},  {192, 1, 3, 64, KV_FORMAT_KV16, 2, 100, 40},
    {128, 2, 4, 64, KV_FORMAT_KV32, 2, 100, 40},
};
#define N_SHAPES ((int)(sizeof shapes / sizeof *shapes))

static const struct ops_kv_dims long_shapes[] = {
    {128, 2, 4, 64, KV_FORMAT_KV16, 1, 12000, 30}, {128, 1, 3, 16, KV_FORMAT_KV16, 3, 9000, 12},
    {64, 2, 8, 64, KV_FORMAT_KV16, 2, 9000, 20},   {256, 1, 2, 64, KV_FORMAT_KV16, 1, 9000, 20},
    {128, 8, 4, 64, KV_FORMAT_KV16, 1, 6000, 40},
};
#define N_LONG ((int)(sizeof long_shapes / sizeof *long_shapes))

/* With this card's kernels, and with those for the oldest. */
static void on_both(const char *test, int rounds, void (*check)(struct ops_trio *))
{
    const struct backend_ops *ops = ops_cuda(test);
    const struct ops_variant v[] = {{ops, NULL, 1}, {ops, "sm_80", 1}};
    if (ops)
        ops_run_each(v, 2, test, rounds, check);
}

struct prefill_case {
    struct ops_kv_case kv;
    struct attn_args a;
    float *sink;
};

static void make_case(struct ops_trio *t, struct prefill_case *p, const struct ops_kv_dims *of, int n)
{
    const struct ops_kv_dims *d = &of[t->round % n];
    ops_kv_case_make(&p->kv, &t->rng, d, 1);
    p->sink = ops_gauss_array(&t->rng, (size_t)p->kv.n_heads, 2);
    ops_attn_random(&p->a, &t->rng, &p->kv, p->sink);
    if (t->round < n) { /* each shape once over all keys */
        p->a.window = 0;
        p->a.key_begin = 0;
        p->a.key_end = INT32_MAX;
    }
    ops_note("prefill round %d: D=%d G=%d group %d block %d T=%d S=%d window %d keys %d..%d sink %d", t->round,
             d->head_dim, d->n_kv_heads, d->group, d->block_tokens, p->kv.step.n_rows, p->kv.step.n_seqs, p->a.window,
             p->a.key_begin, p->a.key_end, p->a.sink != NULL);
}

static void free_case(struct prefill_case *p)
{
    free(p->sink);
    ops_kv_case_free(&p->kv);
}

/* Rows [t0, t0 + n) of the case as the rows of `step`, read from q at row t0; free o and lse_ln. */
static struct attn_partial attend(const struct ops_dev *d, const struct prefill_case *p, const struct step *step,
                                  int32_t t0)
{
    struct attn_args a = p->a;
    size_t heads = (size_t)step->n_rows * a.n_heads;
    a.step = step;
    a.q += t0 * a.q_stride;
    a.out = (struct attn_partial){ops_floats(heads * p->kv.kv.head_dim), ops_floats(heads)};
    ops_attention(d, &a, p->kv.pool_bytes);
    return a.out;
}

static void free_partial(struct attn_partial x)
{
    free(x.o);
    free(x.lse_ln);
}

/* -- against the truth */

static void compare(struct ops_trio *t, const struct ops_kv_dims *of, int n)
{
    struct prefill_case p;
    make_case(t, &p, of, n);
    struct attn_partial got = attend(&t->one, &p, &p.kv.step, 0), want = attend(&t->ref, &p, &p.kv.step, 0);
    size_t heads = (size_t)p.kv.step.n_rows * p.a.n_heads, row = (size_t)p.a.n_heads * p.kv.kv.head_dim;
    double *o = ops_doubles(want.o, heads * p.kv.kv.head_dim), *lse = ops_doubles(want.lse_ln, heads);
    double *tol = ops_doubles(NULL, heads);
    for (size_t i = 0; i < heads; i++)
        tol[i] = 0x1p-6;
    for (int32_t r = 0; r < p.kv.step.n_rows; r++)
        ops_expect_near("o", got.o + r * row, o + r * row, row, 0x1p-7);
    ops_expect_within("lse", got.lse_ln, lse, tol, heads);
    free(tol), free(lse), free(o);
    free_partial(got), free_partial(want);
    free_case(&p);
}

static void check_truth(struct ops_trio *t)
{
    compare(t, shapes, N_SHAPES);
}

START_TEST(test_prefill_is_near_the_truth)
{
    on_both("prefill_is_near_the_truth", 3 * N_SHAPES, check_truth);
}
END_TEST

static void check_long(struct ops_trio *t)
{
    compare(t, long_shapes, N_LONG);
}

START_TEST(test_a_few_rows_over_many_keys)
{
    on_both("a_few_rows_over_many_keys", 3 * N_LONG, check_long);
}
END_TEST

/* -- a row and its chunk ----------------------------------------------------------------------------------------- */

/* Rows [t0, t0 + n) of sequence s as a step of their own. */
static struct attn_partial attend_chunk(struct ops_trio *t, const struct prefill_case *p, int32_t s, int32_t t0,
                                        int32_t n)
{
    static uint64_t number = 1ull << 40; /* apart from those of the generator */
    const struct step *all = &p->kv.step;
    int32_t seq_row[2] = {0, n}, table_at[2] = {0, all->table_at[s + 1] - all->table_at[s]};
    int32_t *row_seq = calloc((size_t)n, sizeof *row_seq);
    struct step st = {.number = number++, .n_rows = n, .n_seqs = 1, .ids = all->ids + t0, .pos = all->pos + t0};
    st.row_seq = row_seq;
    st.seq_row = seq_row;
    st.table = all->table + all->table_at[s];
    st.table_at = table_at;
    struct attn_partial got = attend(&t->one, p, &st, t0);
    free(row_seq);
    return got;
}

/* Every sequence that is long enough, in chunks and without the others: the bits of all at once. */
static void check_chunks(struct ops_trio *t)
{
    struct prefill_case p;
    make_case(t, &p, shapes, N_SHAPES);
    const struct step *st = &p.kv.step;
    struct attn_partial all = attend(&t->one, &p, st, 0);
    size_t h_n = (size_t)p.a.n_heads, row = h_n * p.kv.kv.head_dim;
    for (int32_t s = 0; s < st->n_seqs; s++) {
        int32_t end = st->seq_row[s + 1], n;
        if (end - st->seq_row[s] <= DECODE_ROWS)
            continue;
        for (int32_t t0 = st->seq_row[s]; t0 < end; t0 += n) {
            n = ops_int(&t->rng, DECODE_ROWS + 1, 60);
            if (end - t0 - n <= DECODE_ROWS)
                n = end - t0;
            struct attn_partial got = attend_chunk(t, &p, s, t0, n);
            ops_expect_bits("o of a chunk", got.o, all.o + t0 * row, n * row);
            ops_expect_bits("lse of a chunk", got.lse_ln, all.lse_ln + t0 * h_n, n * h_n);
            free_partial(got);
        }
    }
    free_partial(all);
    free_case(&p);
}

START_TEST(test_chunks_and_company_change_no_bit)
{
    on_both("chunks_and_company_change_no_bit", 2 * N_SHAPES, check_chunks);
}
END_TEST

UNIT_MAIN("cuda_prefill", test_prefill_is_near_the_truth, test_a_few_rows_over_many_keys,
          test_chunks_and_company_change_no_bit)
