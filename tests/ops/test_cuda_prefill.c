/* test_cuda_prefill - attention of long chunks on the CUDA backend: many tiles, histories, sequences; chunks and
 * company; kv8.
 *
 * Against attention in double a row of o (all heads) is off by at most 2^-7 of its norm: q, p and the products of both
 * with K and V are right to 2^-9 (bfloat16), and scores of deviation 1 pass their error on; lse by 2^-6. That is looked
 * at for some rows of each case: the first and the last, those at the edges of tiles, and others at random; all of the
 * output has to be written. A row's bits do not depend on how the sequence is cut into chunks (of more rows than decode
 * takes), nor on the sequences beside it; only a few rows over thousands of keys, whose keys are cut into parts, have
 * other bits than many rows. kv8 has the bits of kv16 with the same values, whatever the room to widen it in.
 */
#define OPS_CUDA
#include "tests/support/ops_check.h"
#include "tests/support/ops_trio.h"
#include "tests/support/ops_truth.h"
#include "tests/support/unit.h"

#include "engine/kv/fmt_kv16.h"
#include "engine/kv/fmt_kv8.h"

#include <math.h>
#include <string.h>

#define DECODE_ROWS 8    /* chunks of at most so many rows are the decode kernel's */
#define LONG        6000 /* keys enough to be cut into parts */

/* kv8 over the keys of one sequence and head of d 128, and a little more, in blocks of 64. */
#define TIGHT (320u << 10)

static const struct ops_kv_dims shapes[] = {
    /* head_dim, kv heads, group, block, format, sequences, past, new */
    {128, 2, 4, 64, KV_FORMAT_KV16, 1, 600, 150}, {128, 2, 4, 64, KV_FORMAT_KV16, 4, 200, 38},
    {128, 4, 4, 64, KV_FORMAT_KV8, 4, 400, 38},   {128, 1, 7, 16, KV_FORMAT_KV16, 2, 300, 70},
    {128, 3, 3, 128, KV_FORMAT_KV16, 3, 300, 50}, {128, 2, 5, 16, KV_FORMAT_KV8, 1, 450, 150},
    {64, 3, 3, 64, KV_FORMAT_KV16, 1, 500, 150},  {64, 2, 8, 16, KV_FORMAT_KV16, 3, 300, 50},
    {64, 6, 2, 128, KV_FORMAT_KV8, 3, 500, 50},   {256, 1, 4, 64, KV_FORMAT_KV16, 2, 200, 70},
    {256, 1, 6, 32, KV_FORMAT_KV8, 2, 150, 70},   {80, 2, 4, 64, KV_FORMAT_KV16, 2, 150, 60},
    {72, 3, 1, 64, KV_FORMAT_KV8, 2, 300, 70},    {128, 2, 1, 32, KV_FORMAT_KV16, 1, 900, 150},
    {256, 2, 2, 32, KV_FORMAT_KV16, 1, 300, 120}, {96, 1, 16, 64, KV_FORMAT_KV16, 1, 300, 60},
    {192, 1, 3, 64, KV_FORMAT_KV16, 2, 100, 40},  {128, 2, 4, 64, KV_FORMAT_KV32, 2, 100, 40},
};
#define N_SHAPES ((int)(sizeof shapes / sizeof *shapes))

static const struct ops_kv_dims long_shapes[] = {
    {128, 2, 4, 64, KV_FORMAT_KV16, 1, 12000, 30}, {128, 2, 4, 64, KV_FORMAT_KV8, 2, 9000, 20},
    {64, 2, 8, 64, KV_FORMAT_KV16, 2, 9000, 20},   {256, 1, 2, 64, KV_FORMAT_KV16, 1, 9000, 20},
    {128, 1, 3, 16, KV_FORMAT_KV16, 3, 9000, 12},  {128, 8, 4, 64, KV_FORMAT_KV16, 1, LONG, 40},
};
#define N_LONG ((int)(sizeof long_shapes / sizeof *long_shapes))

/* -- backends and cases ------------------------------------------------------------------------------------------ */

/* This card's kernels, those for the oldest, and this card's with little room. */
enum { CARD, OLDEST, LITTLE_ROOM, N_DEVS };

struct rig {
    struct ops_dev dev[N_DEVS];
    struct ops_rng rng;
    int round;
};

static void on_all(const char *test, int rounds, void (*check)(struct rig *))
{
    const struct backend_ops *ops = ops_cuda(test);
    const struct ops_variant v[N_DEVS] = {{.ops = ops, .threads = 1, .wide_bytes = 64u << 20},
                                          {.ops = ops, .isa = "sm_80", .threads = 1, .wide_bytes = 64u << 20},
                                          {.ops = ops, .threads = 1, .wide_bytes = TIGHT}};
    if (!ops)
        return;
    struct rig g = {.rng = {unit_seed(test)}};
    struct err e = {0};
    if (ops_small() && rounds > 3)
        rounds = (rounds + 2) / 3;
    for (int i = 0; i < N_DEVS; i++)
        ck_assert_int_eq(ops_open(&g.dev[i], &v[i], &e), 0);
    for (g.round = 0; g.round < rounds; g.round++)
        check(&g);
    for (int i = 0; i < N_DEVS; i++)
        ops_close(&g.dev[i]);
}

struct prefill_case {
    struct ops_kv_case kv;
    struct attn_args a;
    float *sink;
};

/* The shape of this round; the first time over all keys. */
static void make_case(struct rig *g, struct prefill_case *p, const struct ops_kv_dims *of, int n)
{
    struct ops_kv_dims d = of[g->round % n];
    if (ops_small() && d.max_past > LONG)
        d.max_past = LONG;
    ops_kv_case_make(&p->kv, &g->rng, &d, 1);
    p->sink = ops_gauss_array(&g->rng, (size_t)p->kv.n_heads, 2);
    ops_attn_random(&p->a, &g->rng, &p->kv, p->sink);
    if (g->round < n) {
        p->a.window = 0;
        p->a.key_begin = 0;
        p->a.key_end = INT32_MAX;
    }
}

static void note(const struct rig *g, const struct prefill_case *p, const struct ops_dev *on)
{
    const struct kv_view *kv = &p->kv.kv;
    ops_note(
        "prefill round %d on %s, room %d: format %u D=%u G=%u H=%d block %u T=%d S=%d window %d keys %d..%d sink %d",
        g->round, on->name, (int)(on - g->dev), kv->format, kv->head_dim, kv->n_kv_heads, p->a.n_heads,
        kv->block_tokens, p->kv.step.n_rows, p->kv.step.n_seqs, p->a.window, p->a.key_begin, p->a.key_end,
        p->a.sink != NULL);
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

/* -- against the truth -------------------------------------------------------------------------------------------- */

#define ROWS_MOST 10
#define WORK      30e6 /* products of keys and elements a case may cost the CPU */

/* Rows to look at, the first and the last of the step among them; returns how many. */
static int pick_rows(struct rig *g, const struct prefill_case *p, int32_t row[ROWS_MOST])
{
    static const int32_t tiles[] = {64, 128, 192}; /* vectors */
    const struct step *st = &p->kv.step;
    double each = 1;
    for (int32_t t = 0; t < st->n_rows; t++)
        each = fmax(each, (double)(st->pos[t] + 1) * p->a.n_heads * p->kv.kv.head_dim);
    int n = (int)fmin(fmax(WORK / each, 3), ROWS_MOST);
    row[0] = st->n_rows - 1;
    row[1] = 0;
    for (int i = 2; i < n; i++) {
        int32_t group = p->a.n_heads / (int32_t)p->kv.kv.n_kv_heads, s = ops_int(&g->rng, 0, st->n_seqs - 1);
        int32_t edge = ops_pick(&g->rng, tiles, 3) * ops_int(&g->rng, 1, 3) / group, row0 = st->seq_row[s];
        int32_t rows = st->seq_row[s + 1] - row0;
        row[i] = row0 + (i % 2 && edge < rows ? edge : ops_int(&g->rng, 0, rows - 1));
    }
    return n;
}

struct truth {
    int32_t row;
    double *o, *lse; /* [H][D], [H] */
};

static struct truth truth_of(const struct prefill_case *p, int32_t row)
{
    size_t h_n = (size_t)p->a.n_heads, d = p->kv.kv.head_dim;
    struct truth t = {row, ops_doubles(NULL, h_n * d), ops_doubles(NULL, h_n)};
    double size[BACKEND_HEAD_DIM_MAX];
    for (size_t h = 0; h < h_n; h++)
        t.lse[h] = ops_attend(&p->kv, &p->a, row * p->a.n_heads + (int32_t)h, t.o + h * d, size);
    return t;
}

static void expect_truth(const struct prefill_case *p, struct attn_partial got, const struct truth *t)
{
    size_t h_n = (size_t)p->a.n_heads, n = h_n * p->kv.kv.head_dim;
    double *tol = ops_doubles(NULL, h_n);
    for (size_t i = 0; i < h_n; i++)
        tol[i] = 0x1p-6;
    ops_expect_near("o", got.o + (size_t)t->row * n, t->o, n, 0x1p-7);
    ops_expect_within("lse", got.lse_ln + (size_t)t->row * h_n, t->lse, tol, h_n);
    free(tol);
}

/* No poison is left. */
static void expect_written(const struct prefill_case *p, struct attn_partial got)
{
    size_t heads = (size_t)p->kv.step.n_rows * (size_t)p->a.n_heads, d = p->kv.kv.head_dim;
    for (size_t i = 0; i < heads * d; i++) /* ck_assert writes to a file at each call */
        if (!isfinite(got.o[i]))
            ck_abort_msg("o[%zu] of %zu is %g", i, heads * d, (double)got.o[i]);
    for (size_t i = 0; i < heads; i++)
        if (isnan(got.lse_ln[i]))
            ck_abort_msg("lse[%zu] of %zu is not a number", i, heads);
}

/* As input rows: the same values, rounded to their type. */
static void expect_input(const struct ops_dev *on, const struct prefill_case *p, struct attn_partial got)
{
    size_t n = (size_t)p->kv.step.n_rows * (size_t)p->a.n_heads * p->kv.kv.head_dim;
    float *rows = ops_floats(n);
    double *want = ops_doubles(got.o, n), *tol = ops_doubles(NULL, n);
    struct attn_args a = p->a;
    a.out = (struct attn_partial){0};
    a.out_input = rows;
    ops_attention(on, &a, p->kv.pool_bytes);
    for (size_t i = 0; i < n; i++)
        tol[i] = 0x1p-8 * fabs(want[i]);
    ops_expect_within("o as input rows", rows, want, tol, n);
    free(rows), free(want), free(tol);
}

static void compare(struct rig *g, const struct ops_kv_dims *of, int n)
{
    struct prefill_case p;
    struct truth truth[ROWS_MOST];
    int32_t row[ROWS_MOST];
    make_case(g, &p, of, n);
    int n_rows = pick_rows(g, &p, row), devs = p.kv.kv.format == KV_FORMAT_KV8 ? N_DEVS : LITTLE_ROOM;
    for (int i = 0; i < n_rows; i++)
        truth[i] = truth_of(&p, row[i]);
    for (struct ops_dev *on = g->dev; on < g->dev + devs; on++) {
        note(g, &p, on);
        struct attn_partial got = attend(on, &p, &p.kv.step, 0);
        expect_written(&p, got);
        for (int i = 0; i < n_rows; i++)
            expect_truth(&p, got, &truth[i]);
        expect_input(on, &p, got);
        free_partial(got);
    }
    for (int i = 0; i < n_rows; i++)
        free(truth[i].o), free(truth[i].lse);
    free_case(&p);
}

static void check_truth(struct rig *g)
{
    compare(g, shapes, N_SHAPES);
}

START_TEST(test_prefill_is_near_the_truth)
{
    on_all("prefill_is_near_the_truth", 3 * N_SHAPES, check_truth);
}
END_TEST

static void check_long(struct rig *g)
{
    compare(g, long_shapes, N_LONG);
}

START_TEST(test_a_few_rows_over_many_keys)
{
    on_all("a_few_rows_over_many_keys", 2 * N_LONG, check_long);
}
END_TEST

/* Layers of one step, with a window and without, prompts and decode: each sees its own keys. */
static void check_layers(struct rig *g)
{
    static const struct ops_kv_dims of[] = {
        {128, 2, 4, 64, KV_FORMAT_KV16, 4, 900, 1},
        {128, 2, 4, 64, KV_FORMAT_KV8, 4, 900, 1},
        {64, 2, 4, 16, KV_FORMAT_KV16, 2, 600, 60},
        {64, 2, 3, 16, KV_FORMAT_KV8, 2, 900, 60},
    };
    static const int32_t windows[] = {70, 0, 300, 70};
    struct prefill_case p;
    struct truth truth;
    int32_t row[ROWS_MOST];
    make_case(g, &p, of, sizeof of / sizeof *of);
    p.a.key_begin = 0;
    p.a.key_end = INT32_MAX;
    int n = pick_rows(g, &p, row);
    for (struct ops_dev *on = g->dev; on < g->dev + N_DEVS; on++)
        for (size_t w = 0; w < sizeof windows / sizeof *windows; w++) {
            p.a.window = windows[w];
            note(g, &p, on);
            struct attn_partial got = attend(on, &p, &p.kv.step, 0);
            for (int i = 0; i < n; i++) {
                truth = truth_of(&p, row[i]);
                expect_truth(&p, got, &truth);
                free(truth.o), free(truth.lse);
            }
            free_partial(got);
        }
    free_case(&p);
}

START_TEST(test_layers_of_a_step_have_windows_of_their_own)
{
    on_all("layers_of_a_step_have_windows_of_their_own", 8, check_layers);
}
END_TEST

/* -- a row and its chunk ----------------------------------------------------------------------------------------- */

/* Rows [t0, t0 + n) of sequence s as a step of their own. */
static struct attn_partial attend_chunk(const struct ops_dev *on, const struct prefill_case *p, int32_t s, int32_t t0,
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
    struct attn_partial got = attend(on, p, &st, t0);
    free(row_seq);
    return got;
}

/* Every sequence that is long enough, in chunks and without the others: the bits of all at once. */
static void chunks_on(struct rig *g, const struct ops_dev *on, const struct prefill_case *p)
{
    const struct step *st = &p->kv.step;
    struct attn_partial all = attend(on, p, st, 0);
    size_t h_n = (size_t)p->a.n_heads, row = h_n * p->kv.kv.head_dim;
    for (int32_t s = 0; s < st->n_seqs; s++) {
        int32_t end = st->seq_row[s + 1], n;
        if (end - st->seq_row[s] <= DECODE_ROWS)
            continue;
        for (int32_t t0 = st->seq_row[s]; t0 < end; t0 += n) {
            n = ops_int(&g->rng, DECODE_ROWS + 1, 60);
            if (end - t0 - n <= DECODE_ROWS)
                n = end - t0;
            struct attn_partial got = attend_chunk(on, p, s, t0, n);
            ops_expect_bits("o of a chunk", got.o, all.o + t0 * row, n * row);
            ops_expect_bits("lse of a chunk", got.lse_ln, all.lse_ln + t0 * h_n, n * h_n);
            free_partial(got);
        }
    }
    free_partial(all);
}

static void check_chunks(struct rig *g)
{
    struct prefill_case p;
    make_case(g, &p, shapes, N_SHAPES);
    int devs = p.kv.kv.format == KV_FORMAT_KV8 ? N_DEVS : LITTLE_ROOM;
    for (struct ops_dev *on = g->dev; on < g->dev + devs; on++) {
        note(g, &p, on);
        chunks_on(g, on, &p);
    }
    free_case(&p);
}

START_TEST(test_chunks_and_company_change_no_bit)
{
    on_all("chunks_and_company_change_no_bit", 2 * N_SHAPES, check_chunks);
}
END_TEST

/* -- kv8 --------------------------------------------------------------------------------------------------------- */

/* The bytes of p, which are kv8, as kv16 with twice the strides. Returns the pool, which is the caller's. */
static uint8_t *as_kv16(const struct prefill_case *p, struct kv_view *to)
{
    const struct kv_view *kv = &p->kv.kv;
    uint8_t *pool = ops_poison(2 * p->kv.pool_bytes);
    float x[BACKEND_HEAD_DIM_MAX];
    *to = *kv;
    to->base = pool;
    to->format = KV_FORMAT_KV16;
    to->scale = NULL;
    to->block_stride *= 2, to->layer_offset *= 2, to->head_stride *= 2, to->v_offset *= 2, to->row_stride *= 2;
    for (int32_t b = 0; b < (int32_t)(p->kv.pool_bytes / kv->block_stride); b++)
        for (uint32_t i = 0; i < 2 * kv->n_kv_heads * kv->block_tokens; i++) {
            uint32_t token = i % kv->block_tokens, g = i / kv->block_tokens / 2;
            int v = i / kv->block_tokens % 2;
            kv8_get(x, kv_row(kv, b, g, v, token), kv->head_dim, kv_scale(kv, g, v));
            kv16_put(kv_row(to, b, g, v, token), x, kv->head_dim);
        }
    return pool;
}

/* One head of the keys of each sequence has room when it is widened. */
static bool has_room(const struct prefill_case *p, uint64_t bytes)
{
    const struct kv_view *kv = &p->kv.kv;
    for (int32_t s = 0; s < p->kv.step.n_seqs; s++) {
        uint32_t blocks = ((uint32_t)p->kv.len[s] + kv->block_tokens - 1) / kv->block_tokens;
        if (blocks * kv->block_tokens * kv->head_dim * 4 > bytes)
            return false;
    }
    return true;
}

/* Any byte but NaN, any scale. */
static void check_kv8(struct rig *g)
{
    static const struct ops_kv_dims of[] = {
        {128, 8, 4, 64, KV_FORMAT_KV8, 2, 1500, 70}, {128, 4, 4, 64, KV_FORMAT_KV8, 4, 400, 38},
        {64, 3, 5, 16, KV_FORMAT_KV8, 3, 300, 50},   {256, 2, 2, 32, KV_FORMAT_KV8, 2, 100, 70},
        {80, 6, 1, 128, KV_FORMAT_KV8, 3, 300, 50},  {8, 2, 8, 64, KV_FORMAT_KV8, 1, 200, 150},
    };
    struct prefill_case p;
    make_case(g, &p, of, sizeof of / sizeof *of);
    for (size_t i = 0; i < p.kv.pool_bytes; i++) {
        uint8_t b = (uint8_t)ops_int(&g->rng, 0, 255);
        if (p.kv.pool[i] != 0xff)
            p.kv.pool[i] = (b & 0x7f) == 0x7f ? 0 : b;
    }
    for (uint32_t i = 0; i < 2 * p.kv.kv.n_kv_heads; i++)
        p.kv.scale[i] = (1 + fabsf(ops_gauss(&g->rng))) / 512;
    struct prefill_case twin = p;
    uint8_t *pool = as_kv16(&p, &twin.kv.kv);
    twin.kv.pool_bytes *= 2;
    twin.a.kv = &twin.kv.kv;
    const struct step *st = &p.kv.step;
    size_t h_n = (size_t)p.a.n_heads, row = h_n * p.kv.kv.head_dim;
    for (struct ops_dev *on = g->dev; on < g->dev + (has_room(&p, TIGHT) ? N_DEVS : LITTLE_ROOM); on++) {
        note(g, &p, on);
        struct attn_partial got = attend(on, &p, st, 0), want = attend(on, &twin, st, 0);
        expect_written(&p, got);
        for (int32_t s = 0; s < st->n_seqs; s++) {
            size_t t0 = (size_t)st->seq_row[s], n = (size_t)st->seq_row[s + 1] - t0;
            if (n <= DECODE_ROWS) /* decode does not widen */
                continue;
            ops_expect_bits("o of kv8", got.o + t0 * row, want.o + t0 * row, n * row);
            ops_expect_bits("lse of kv8", got.lse_ln + t0 * h_n, want.lse_ln + t0 * h_n, n * h_n);
        }
        free_partial(got), free_partial(want);
    }
    free(pool);
    free_case(&p);
}

START_TEST(test_kv8_has_the_bits_of_kv16_with_the_same_values)
{
    on_all("kv8_has_the_bits_of_kv16_with_the_same_values", 18, check_kv8);
}
END_TEST

UNIT_MAIN("cuda_prefill", test_prefill_is_near_the_truth, test_a_few_rows_over_many_keys,
          test_layers_of_a_step_have_windows_of_their_own, test_chunks_and_company_change_no_bit,
          test_kv8_has_the_bits_of_kv16_with_the_same_values)
