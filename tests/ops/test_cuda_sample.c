/* test_cuda_sample - the card's sampler beside the CPU's: the same token, but where rounding decides.
 *
 * Every way through it: rows with and without each parameter, vocabularies below and above what a cluster holds in its
 * groups, equal logits, NaN and infinities, masks, tokens that the call before chose. A draw whose uniform falls within
 * 1e-6 of an edge of the cumulative sum may differ: of all rows of a test, at most one in 500. What so few rows may
 * hide is asked for by itself: penalties of what the call before chose, its token as the next input, draws under way at
 * once.
 */
#define OPS_CUDA
#include "tests/support/ops_check.h"
#include "tests/support/ops_trio.h"
#include "tests/support/unit.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { VOCAB = 151936, ROWS = 48, SEEN = 300, BIAS = 40 };

struct lists {
    struct sample_seen seen[SEEN];
    struct sample_bias bias[BIAS];
    int32_t banned[4];
    uint32_t allowed[(VOCAB + 31) / 32];
};

static struct backend *open_wide(const struct backend_ops *ops, const char *isa)
{
    struct backend_opts o = {.threads = 1, .isa = isa, .max_rows = ROWS, .max_cols = 64, .max_vocab = VOCAB};
    struct backend *be;
    struct err e = {0};
    ck_assert_msg(ops->open(&be, &o, &e) == 0, "%s", e.text);
    return be;
}

/* Different ids. */
static int32_t spread(int32_t i, int32_t n, int32_t vocab)
{
    return (int32_t)((int64_t)i * vocab / n);
}

static bool may_come(const uint32_t *allowed, int32_t id)
{
    return !allowed || allowed[id / 32] >> id % 32 & 1;
}

/* Every bit, half of them, or a few. */
static void random_mask(struct ops_rng *r, uint32_t *allowed, int32_t vocab)
{
    int kind = ops_int(r, 0, 2);
    for (int32_t i = 0; i < (vocab + 31) / 32; i++)
        allowed[i] = kind == 0 ? UINT32_MAX : kind == 1 ? (uint32_t)ops_int(r, 0, INT32_MAX) * 2654435761u : 0;
    for (int i = 0; i < 7; i++) {
        int32_t id = ops_int(r, 0, vocab - 1);
        allowed[id / 32] |= 1u << id % 32;
    }
}

static struct sample_row random_row(struct ops_rng *r, struct lists *l, int32_t vocab)
{
    static const int32_t ks[] = {0, 0, 1, 5, 50, 200, 2000, 60000};
    int use = ops_int(r, 0, 1) ? ops_int(r, 0, 255) : ops_int(r, 0, 15), /* half have nothing to adjust */
        few = vocab < SEEN ? vocab : SEEN, n_bias = vocab < BIAS ? vocab : BIAS;
    for (int32_t i = 0; i < few; i++)
        l->seen[i] = (struct sample_seen){spread(i, few, vocab), (uint32_t)ops_int(r, 0, 3)};
    for (int32_t i = 0; i < n_bias; i++)
        l->bias[i] = (struct sample_bias){spread(i, n_bias, vocab), (float)ops_int(r, -5, 5)};
    for (int i = 0; i < 4; i++)
        l->banned[i] = ops_int(r, 0, vocab - 1);
    random_mask(r, l->allowed, vocab);
    return (struct sample_row){
        .temperature = use & 1   ? (float)ops_int(r, 1, 20) / 10
                       : use & 2 ? 0
                                 : 1,
        .top_p = use & 4 ? (float)ops_int(r, 0, 100) / 100 : 1,
        .min_p = use & 8 ? (float)ops_int(r, 0, 20) / 100 : 0,
        .repetition = use & 16 ? 1.3f : 1,
        .presence = use & 16 ? 0.5f : 0,
        .frequency = use & 32 ? 0.25f : 0,
        .top_k = ks[ops_int(r, 0, 7)],
        .n_logprobs = ops_int(r, -1, SAMPLE_TOP_MAX),
        .seed = (uint64_t)ops_int(r, 0, INT32_MAX),
        .position = (uint64_t)ops_int(r, 0, 1000000),
        .n_seen = (uint32_t)(use & 48 ? few : 0),
        .n_bias = (uint32_t)(use & 64 ? n_bias : 0),
        .n_banned = use & 128 ? 4 : 0,
        .seen = l->seen,
        .bias = l->bias,
        .banned = l->banned,
        .allowed = ops_int(r, 0, 2) ? NULL : l->allowed,
    };
}

static bool near(float a, float b)
{
    return a == b || fabsf(a - b) <= 3e-6f * (1 + fabsf(b));
}

/* Logits of some kind: normal, peaked, on a coarse grid (many equal), or with what is no number. */
static void fill(struct ops_rng *r, float *l, int32_t n)
{
    int kind = ops_int(r, 0, 4);
    float scale = kind == 1 ? 0.3f : 3;
    for (int32_t i = 0; i < n; i++)
        l[i] = ops_gauss(r) * scale;
    for (int32_t i = 0; i < n && kind == 2; i++)
        l[i] = roundf(l[i]);
    for (int32_t i = 0; i < 5 && kind == 3; i++)
        l[ops_int(r, 0, n - 1)] = 20;
    for (int32_t i = 0; i < n / 20 + 1 && kind == 4; i++)
        l[ops_int(r, 0, n - 1)] = (float[]){NAN, INFINITY, -INFINITY, -0.0f, FLT_MAX, -FLT_MAX}[ops_int(r, 0, 5)];
}

static void compare(const struct sample_row *row, const struct sample_out *got, const struct sample_out *want,
                    int32_t *n_other)
{
    ck_assert(got->id >= 0);
    ck_assert(may_come(row->allowed, got->id) || !may_come(row->allowed, want->id)); /* all that may come is -inf */
    ck_assert_int_eq(got->n_top, want->n_top);
    for (int32_t i = 0; i < want->n_top; i++) {
        ck_assert_int_eq(got->top[i].id, want->top[i].id);
        ck_assert_msg(near(got->top[i].logprob, want->top[i].logprob), "top %d: %g, must be %g", i,
                      (double)got->top[i].logprob, (double)want->top[i].logprob);
    }
    bool greedy = !(row->temperature > 0) || row->top_k == 1;
    ck_assert_msg(!greedy || got->id == want->id, "greedy: %d, must be %d", got->id, want->id);
    *n_other += got->id != want->id;
    ck_assert_msg(got->id != want->id || near(got->logprob, want->logprob), "logprob %g, must be %g",
                  (double)got->logprob, (double)want->logprob);
}

static void check_sizes(const struct backend_ops *ops, struct backend *be, struct ops_rng *r, int32_t vocab, int rounds,
                        int32_t *n_all, int32_t *n_other)
{
    const struct ops_dev d = {.ops = ops, .be = be, .name = "cuda"};
    float *logits = ops_floats((size_t)ROWS * (size_t)vocab), *scratch = ops_floats(2 * (size_t)vocab);
    struct lists *lists = calloc(ROWS, sizeof *lists);
    struct sample_row rows[ROWS];
    struct sample_out got[ROWS], want;
    for (int round = 0; round < rounds; round++) {
        int32_t n = ops_int(r, 1, ops_small() > 3 ? 6 : ROWS), before[ROWS];
        for (int32_t i = 0; i < n; i++) {
            before[i] = got[i].id;
            fill(r, logits + (size_t)i * (size_t)vocab, vocab);
            rows[i] = random_row(r, &lists[i], vocab);
            rows[i].choice = (uint32_t)i % 4;
            rows[i].after = round && ops_int(r, 0, 1) ? (uint32_t)ops_int(r, 1, n) : 0;
            if (i > 0 && rows[i].allowed && ops_int(r, 0, 1))
                rows[i].allowed = lists[i - 1].allowed; /* shared */
            if (ops_int(r, 0, 3) == 0) {                /* a run of rows for the stream */
                rows[i].n_logprobs = -1;
                rows[i].top_k = 0;
            }
        }
        static int32_t last_n;
        for (int32_t i = 0; i < n; i++)
            if (rows[i].after > (uint32_t)last_n)
                rows[i].after = 0;
        last_n = n;
        ops_note("sample V=%d R=%d round %d", vocab, n, round);
        int32_t held[ROWS];
        memcpy(held, before, sizeof held);
        ops_sample(&d, logits, vocab, rows, got, n);
        for (int32_t i = 0; i < n; i++, ++*n_all) {
            int32_t after = rows[i].after ? held[rows[i].after - 1] : -1;
            sample_row_cpu_after(logits + (size_t)i * (size_t)vocab, vocab, &rows[i], after, &want, scratch);
            ops_note("sample V=%d row %d of %d round %d: T %g p %g min %g k %d logprobs %d bias %u seen %u banned %u",
                     vocab, i, n, round, (double)rows[i].temperature, (double)rows[i].top_p, (double)rows[i].min_p,
                     rows[i].top_k, rows[i].n_logprobs, rows[i].n_bias, rows[i].n_seen, rows[i].n_banned);
            compare(&rows[i], &got[i], &want, n_other);
        }
    }
    free(lists), free(logits), free(scratch);
}

static const int32_t vocabs[] = {1, 2, 31, 97, 128, 129, 1000, 1027, 4096, 32000, 49152, 128256, VOCAB};

START_TEST(test_the_card_chooses_what_the_cpu_chooses)
{
    const struct backend_ops *ops = ops_cuda("the_card_chooses_what_the_cpu_chooses");
    struct ops_rng r = {unit_seed("the_card_chooses_what_the_cpu_chooses")};
    int32_t n = 0, other = 0;
    if (!ops)
        return;
    struct backend *be = open_wide(ops, NULL);
    for (size_t i = 0; i < sizeof vocabs / sizeof *vocabs; i++)
        if (!ops_small() || vocabs[i] < 40000)
            check_sizes(ops, be, &r, vocabs[i], ops_small() ? 1 : vocabs[i] > 20000 ? 3 : 12, &n, &other);
    printf("%d of %d rows chose another token\n", other, n);
    ck_assert_int_le(other * 500, n);
    ops->close(be);
}
END_TEST

/* Cards before Hopper have no clusters: a CTA a row then. */
START_TEST(test_cards_without_clusters_choose_the_same)
{
    const struct backend_ops *ops = ops_cuda("cards_without_clusters_choose_the_same");
    struct ops_rng r = {unit_seed("cards_without_clusters_choose_the_same")};
    int32_t n = 0, other = 0;
    if (!ops)
        return;
    struct backend *be = open_wide(ops, "sm_80");
    for (size_t i = 0; i < sizeof vocabs / sizeof *vocabs; i += 2)
        check_sizes(ops, be, &r, vocabs[i], vocabs[i] > 20000 ? 1 : 4, &n, &other);
    printf("%d of %d rows chose another token\n", other, n);
    ck_assert_int_le(other * 500, n);
    ops->close(be);
}
END_TEST

/* Top-p alone finds its cut on a grid of logits that begins at 0: far from there it is too coarse, and another way is
 * taken. Parts of the vocabulary that lie apart have few of its places in common. */
START_TEST(test_top_p_is_the_same_wherever_logits_lie)
{
    enum { WIDE = 32768, PART = 8192 };
    static const float at[] = {0, 700, -700, 20000, -20000, 60000, -60000}, temperatures[] = {1, 0.5f, 0.05f},
                       ps[] = {0.9f, 0.5f, 0.99f, 0.05f, 0};
    static const float apart[] = {0, 2, 15, 200};
    const struct backend_ops *ops = ops_cuda("top_p_is_the_same_wherever_logits_lie");
    struct ops_rng r = {unit_seed("top_p_is_the_same_wherever_logits_lie")};
    if (!ops)
        return;
    struct backend *be = open_wide(ops, NULL);
    const struct ops_dev d = {.ops = ops, .be = be, .name = "cuda"};
    float *logits = ops_floats((size_t)ROWS * WIDE), *scratch = ops_floats(2 * (size_t)WIDE);
    struct sample_row rows[ROWS];
    struct sample_out got[ROWS], want;
    int32_t other = 0;
    for (int32_t i = 0; i < ROWS; i++) {
        for (int32_t k = 0; k < WIDE; k++)
            logits[i * WIDE + k] = at[i % 7] + 3 * ops_gauss(&r) - apart[i % 4] * (float)(k / PART);
        rows[i] = (struct sample_row){.temperature = temperatures[i % 3],
                                      .top_p = ps[i % 5],
                                      .repetition = 1,
                                      .n_logprobs = -1,
                                      .seed = r.state,
                                      .position = (uint64_t)i};
    }
    ops_sample(&d, logits, WIDE, rows, got, ROWS);
    for (int32_t i = 0; i < ROWS; i++) {
        sample_row_cpu(logits + i * WIDE, WIDE, &rows[i], &want, scratch);
        other += got[i].id != want.id;
        ops_note("row %d at %g, parts %g apart: %d, must be %d", i, (double)at[i % 7], (double)apart[i % 4], got[i].id,
                 want.id);
        ck_assert_int_le(other, 1);
    }
    free(logits), free(scratch);
    ops->close(be);
}
END_TEST

/* The best logits are those that the mask leaves out; and its memory is the caller's again when the call returns. */
START_TEST(test_a_masked_token_never_comes)
{
    enum { V = 32000, CALLS = 12, FEW = 3 };
    const struct backend_ops *ops = ops_cuda("a_masked_token_never_comes");
    struct ops_rng r = {unit_seed("a_masked_token_never_comes")};
    static uint32_t masks[ROWS][(V + 31) / 32], used[ROWS][(V + 31) / 32];
    static float logits[(size_t)ROWS * V], scratch[2 * V];
    if (!ops)
        return;
    struct backend *be = open_wide(ops, NULL);
    float *dev = ops->alloc(be, sizeof logits);
    int32_t came[ROWS][FEW] = {{0}}, ids[ROWS][FEW], other = 0;
    for (int32_t i = 0; i < ROWS; i++) {
        for (int32_t k = 0; k < V; k++)
            logits[i * V + k] = ops_gauss(&r) + 20;
        for (int k = 0; k < FEW; k++) {
            ids[i][k] = spread(k, FEW, V) + ops_int(&r, 0, V / FEW - 1);
            logits[i * V + ids[i][k]] = ops_gauss(&r) * 0.1f;
            masks[i][ids[i][k] / 32] |= 1u << ids[i][k] % 32;
        }
    }
    ops->upload(be, dev, logits, sizeof logits);
    for (int call = 0; call < CALLS; call++) {
        struct sample_row rows[ROWS];
        struct sample_out got[ROWS], want;
        struct sample_seen seen = {5, 1};
        memcpy(used, masks, sizeof used);
        for (int32_t i = 0; i < ROWS; i++)
            rows[i] = (struct sample_row){.temperature = i % 8 == 7 ? 0 : 1,
                                          .top_p = i % 8 == 1 || i % 8 == 2 ? 0.99f : 1,
                                          .min_p = i % 8 == 3 ? 0.01f : 0,
                                          .repetition = 1,
                                          .presence = i % 8 == 5 ? 1 : 0,
                                          .top_k = i % 8 == 2 || i % 8 == 4 ? 50 : 0,
                                          .n_logprobs = i % 8 == 6 ? 2 : -1,
                                          .seed = 3,
                                          .position = (uint64_t)(call * ROWS + i),
                                          .n_seen = 1,
                                          .seen = &seen,
                                          .allowed = used[i]};
        ops->sample(be, dev, V, rows, got, ROWS);
        memset(used, 0xff, sizeof used);
        ops->sync(be);
        for (int32_t i = 0; i < ROWS; i++) {
            rows[i].allowed = masks[i];
            sample_row_cpu(logits + i * V, V, &rows[i], &want, scratch);
            ck_assert_msg(may_come(masks[i], got[i].id), "row %d: token %d", i, got[i].id);
            other += got[i].id != want.id;
            for (int k = 0; k < FEW; k++)
                came[i][k] += got[i].id == ids[i][k];
        }
    }
    ck_assert_int_le(other, 1);
    for (int k = 0, all = 0; k < FEW; k++, all = 0) { /* each may come */
        for (int32_t i = 0; i < ROWS; i++)
            all += came[i][k];
        ck_assert_int_gt(all, 0);
    }
    ops->release(be, dev, sizeof logits);
    ops->close(be);
}
END_TEST

/* Pearson's statistic over tokens of one row drawn at many positions, against the probabilities that the CPU's weights
 * give; ids expected under 5 times are put together. The bound is the mean of the statistic and five deviations. */
static void check_draws(const struct backend_ops *ops, struct backend *be, float temperature, float top_p, int32_t k)
{
    enum { V = 512, CALLS = 1200 };
    const struct ops_dev d = {.ops = ops, .be = be, .name = "cuda"};
    static float logits[ROWS * V];
    double p[V], total = 0, chi = 0, rest_p = 0, rest_n = 0, cells = 0;
    int32_t count[V] = {0}, n_all = 0;
    struct ops_rng r = {7};
    for (int32_t i = 0; i < V; i++)
        logits[i] = ops_gauss(&r) * 2;
    for (int32_t i = 1; i < ROWS; i++)
        memcpy(logits + i * V, logits, V * sizeof *logits);
    int32_t order[V];
    for (int32_t i = 0; i < V; i++) { /* by logit, descending */
        int32_t at = i;
        for (; at > 0 && logits[order[at - 1]] < logits[i]; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    double kept = 0;
    for (int32_t i = 0; i < V; i++)
        total += i < k ? exp(logits[order[i]] / (double)temperature) : 0;
    memset(p, 0, sizeof p);
    for (int32_t i = 0; i < k && kept < (double)top_p * total; i++)
        kept += p[order[i]] = exp(logits[order[i]] / (double)temperature);
    for (int32_t call = 0; call < (ops_small() ? 10 : CALLS / ROWS * 20); call++) {
        struct sample_row rows[ROWS];
        struct sample_out out[ROWS];
        for (int32_t i = 0; i < ROWS; i++, n_all++)
            rows[i] = (struct sample_row){.temperature = temperature,
                                          .top_p = top_p,
                                          .repetition = 1,
                                          .top_k = k < V ? k : 0,
                                          .n_logprobs = -1,
                                          .seed = 11,
                                          .position = (uint64_t)(call * ROWS + i)};
        ops_sample(&d, logits, V, rows, out, ROWS);
        for (int32_t i = 0; i < ROWS; i++)
            count[out[i].id]++;
    }
    for (int32_t i = 0; i < V; i++) {
        double want = p[i] / kept * n_all;
        ck_assert_msg(want > 0 || count[i] == 0, "token %d was cut off and came", i);
        if (want < 5) {
            rest_p += want;
            rest_n += count[i];
            continue;
        }
        chi += (count[i] - want) * (count[i] - want) / want;
        cells++;
    }
    if (rest_p > 0) {
        chi += (rest_n - rest_p) * (rest_n - rest_p) / rest_p;
        cells++;
    }
    printf("T %g top_p %g top_k %d: chi-square %.1f over %.0f cells, %d draws\n", (double)temperature, (double)top_p, k,
           chi, cells, n_all);
    ck_assert(chi <= cells - 1 + 5 * sqrt(2 * (cells > 1 ? cells - 1 : 1)));
}

START_TEST(test_draws_follow_the_distribution)
{
    const struct backend_ops *ops = ops_cuda("draws_follow_the_distribution");
    if (!ops)
        return;
    struct backend *be = open_wide(ops, NULL);
    check_draws(ops, be, 1, 1, 512);
    check_draws(ops, be, 0.7f, 0.9f, 512);
    check_draws(ops, be, 1.3f, 1, 40);
    check_draws(ops, be, 1, 0.8f, 100);
    ops->close(be);
}
END_TEST

/* -- from one call to the next ----------------------------------------------------------------------------------- */

enum { V = 1024, N = 20 };

/* Row i of n: noise below two ids, the first the better by 0.1. */
static void two_ids(struct ops_rng *r, float *logits, int32_t vocab, int32_t ids[2])
{
    for (int32_t i = 0; i < N * vocab; i++)
        logits[i] = ops_gauss(r);
    for (int32_t i = 0; i < N; i++) {
        logits[i * vocab + ids[0]] = 20;
        logits[i * vocab + ids[1]] = 19.9f;
    }
}

static const struct sample_row greedy = {.top_p = 1, .repetition = 1, .n_logprobs = -1};

/* Kinds of rows whose penalty, if what the call before chose counts, just reaches 0.1; the last has none. */
static struct sample_row penalised(int kind, const struct sample_seen *never, const struct sample_seen *once)
{
    struct sample_row row = greedy;
    row.presence = kind == 0 || kind == 1 ? 0.2f : 0;
    row.frequency = kind == 2 ? 0.06f : 0;
    row.repetition = kind == 3 ? 1.01f : 1;
    row.seen = kind == 1 ? never : once;
    row.n_seen = kind == 1 || kind == 2;
    return row;
}

/* Greedy among two ids; then again on top of what another row chose. */
static void check_penalty(const struct backend_ops *ops, struct backend *be, struct ops_rng *r, int32_t vocab)
{
    const struct ops_dev d = {.ops = ops, .be = be, .name = "cuda"};
    int32_t ids[2] = {ops_int(r, 0, vocab / 2 - 1), ops_int(r, vocab / 2, vocab - 1)};
    const struct sample_seen never = {ids[0], 0}, once = {ids[0], 1};
    float *logits = ops_floats(N * (size_t)vocab);
    struct sample_row rows[N];
    struct sample_out out[N];
    two_ids(r, logits, vocab, ids);
    for (int32_t i = 0; i < N; i++)
        rows[i] = greedy;
    ops_sample(&d, logits, vocab, rows, out, N);
    for (int32_t i = 0; i < N; i++)
        ck_assert_int_eq(out[i].id, ids[0]);
    for (int32_t i = 0; i < N; i++) {
        rows[i] = penalised(i % 5, &never, &once);
        rows[i].after = (uint32_t)((i + 7) % N) + 1;
    }
    ops_sample(&d, logits, vocab, rows, out, N);
    for (int32_t i = 0; i < N; i++)
        ck_assert_msg(out[i].id == ids[i % 5 != 4], "V=%d kind %d: %d", vocab, i % 5, out[i].id);
    free(logits);
}

START_TEST(test_what_the_call_before_chose_is_penalised)
{
    const struct backend_ops *ops = ops_cuda("what_the_call_before_chose_is_penalised");
    struct ops_rng r = {unit_seed("what_the_call_before_chose_is_penalised")};
    if (!ops)
        return;
    struct backend *be = open_wide(ops, NULL);
    check_penalty(ops, be, &r, V);
    check_penalty(ops, be, &r, V - 3);
    check_penalty(ops, be, &r, 49152);
    ops->close(be);
}
END_TEST

/* Rows of a step follow draws, in another order, or have an id of their own. */
START_TEST(test_a_row_that_follows_a_draw_embeds_its_token)
{
    enum { COLS = 32 };
    static const uint32_t bf16 = DT_BF16;
    const struct backend_ops *ops = ops_cuda("a_row_that_follows_a_draw_embeds_its_token");
    struct ops_rng r = {unit_seed("a_row_that_follows_a_draw_embeds_its_token")};
    if (!ops)
        return;
    struct backend *be = open_wide(ops, NULL);
    const struct ops_dev d = {.ops = ops, .be = be, .name = "cuda"};
    float *logits = ops_gauss_array(&r, N * V, 1), got[N * COLS];
    int32_t own[N], after[N];
    struct sample_row rows[N];
    struct sample_out out[N];
    struct ops_matrix m;
    struct weight w;
    ops_matrix_make(&m, &r, &bf16, 1, V, COLS);
    ops_load(&d, &w, &m);
    for (int32_t i = 0; i < N; i++) {
        rows[i] = greedy;
        own[i] = ops_int(&r, 0, V - 1);
        after[i] = i % 4 ? (i + 3) % N + 1 : 0;
    }
    ops_sample(&d, logits, V, rows, out, N);
    struct step st = {.number = 1, .n_rows = N, .n_seqs = N, .ids = own, .after = after};
    float *x = ops->alloc(be, sizeof got);
    ops->embed(be, x, &w, &st);
    ops->download(be, got, x, sizeof got);
    for (int32_t i = 0; i < N * COLS; i++) {
        int32_t row = i / COLS, id = after[row] ? out[after[row] - 1].id : own[row];
        ck_assert_msg((double)got[i] == m.value[id * COLS + i % COLS], "row %d, after %d", row, after[row]);
    }
    ops->release(be, x, sizeof got);
    ops->weight_free(be, &w);
    ops_matrix_free(&m);
    free(logits);
    ops->close(be);
}
END_TEST

/* Two steps queued behind milliseconds of copies: step_wait has the draws of its step, and each step has its own. */
START_TEST(test_draws_come_with_the_end_of_their_step)
{
    const size_t bytes = 64u << 20, row = V * sizeof(float);
    const struct backend_ops *ops = ops_cuda("draws_come_with_the_end_of_their_step");
    if (!ops)
        return;
    struct backend *be = open_wide(ops, NULL);
    float *logits = calloc(2 * N, row), *dev = ops->alloc(be, 2 * N * row);
    uint8_t *much = ops->alloc(be, 2 * bytes);
    struct sample_row rows[N];
    struct sample_out out[2][N];
    ck_assert(logits && dev && much);
    for (int32_t i = 0; i < 2 * N; i++)
        logits[i * V + 10 * i + 5] = 3;
    for (int32_t i = 0; i < N; i++)
        rows[i] = greedy;
    ops->upload(be, dev, logits, 2 * N * row);
    ops->sync(be);
    memset(out, 0xff, sizeof out);
    for (uint64_t k = 0; k < 2; k++) {
        for (int i = 0; i < (ops_small() ? 10 : 200); i++)
            ops->copy(be, much, much + bytes, bytes);
        ops->sample(be, dev + k * N * V, V, rows, out[k], N);
        ops->step_end(be, k + 1);
    }
    for (uint64_t k = 0; k < 2; k++) {
        ops->step_wait(be, k + 1);
        for (int32_t i = 0; i < N; i++)
            ck_assert_int_eq(out[k][i].id, 10 * ((int32_t)k * N + i) + 5);
    }
    ops->release(be, dev, 2 * N * row);
    ops->release(be, much, 2 * bytes);
    free(logits);
    ops->close(be);
}
END_TEST

/* The list of a row is emptied between two uses, while its CTAs go on: with every row of a full card doing that, call
 * after call, none may miss a token. */
START_TEST(test_the_best_are_listed_whole_in_every_call)
{
    const struct backend_ops *ops = ops_cuda("the_best_are_listed_whole_in_every_call");
    struct ops_rng r = {unit_seed("the_best_are_listed_whole_in_every_call")};
    const struct ops_dev d = {.ops = ops, .name = "cuda", .be = ops ? open_wide(ops, NULL) : NULL};
    const struct sample_seen seen = {0, 1};
    static float logits[ROWS * V], scratch[2 * V];
    static struct sample_out want[ROWS], got[ROWS];
    struct sample_row rows[ROWS];
    for (int32_t i = 0; i < ROWS; i++) {
        for (int32_t k = 0; k < V; k++)
            logits[i * V + k] = ops_gauss(&r);
        rows[i] = greedy;
        rows[i].presence = 0.1f; /* not a row for the stream */
        rows[i].seen = &seen;
        rows[i].n_seen = 1;
        rows[i].n_logprobs = SAMPLE_TOP_MAX;
        sample_row_cpu_after(logits + (size_t)i * V, V, &rows[i], -1, &want[i], scratch);
    }
    for (int call = 0; ops && call < (ops_small() ? 3 : 1000); call++) {
        ops_sample(&d, logits, V, rows, got, ROWS);
        for (int32_t i = 0; i < ROWS; i++) {
            ck_assert_int_eq(got[i].n_top, SAMPLE_TOP_MAX);
            for (int32_t k = 0; k < SAMPLE_TOP_MAX; k++)
                ck_assert_int_eq(got[i].top[k].id, want[i].top[k].id);
        }
    }
    if (ops)
        ops->close(d.be);
}
END_TEST

UNIT_MAIN("cuda_sample", test_the_card_chooses_what_the_cpu_chooses, test_cards_without_clusters_choose_the_same,
          test_top_p_is_the_same_wherever_logits_lie, test_a_masked_token_never_comes,
          test_draws_follow_the_distribution, test_what_the_call_before_chose_is_penalised,
          test_a_row_that_follows_a_draw_embeds_its_token, test_draws_come_with_the_end_of_their_step,
          test_the_best_are_listed_whole_in_every_call)
