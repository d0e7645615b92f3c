/* test_sample - the sampler against a slow obvious one: a full sort, doubles and libm, written in the order of
 * sample.h.
 *
 * The two differ where a decision hangs on less than 1e-5 (weights are floats right to 2e-7, sums have other orders):
 * the reference says how near its nearest decision was, such rows are not compared, and there may be few of them.
 */
#include "tests/support/unit.h"

#include "engine/base/f16.h"
#include "engine/base/rng.h"
#include "engine/compute/sample.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#define V_MAX  50000
#define CLOSE  1e-5
#define N_SEEN 40
#define GOLDEN 0x3ee9692f0012ac39u

static float logits[V_MAX + 16], scratch[2 * V_MAX];

static const struct sample_row plain = {.temperature = 1, .top_p = 1, .repetition = 1, .n_logprobs = -1};

static uint64_t state; /* of the test's own generator */

static int32_t integer(int32_t lo, int32_t hi)
{
    return lo + (int32_t)(rng_next(&state) % (uint64_t)(hi - lo + 1));
}

static float uniform(void)
{
    return (float)(rng_next(&state) >> 40) * 0x1p-24f;
}

/* About normal, without libm: the golden test needs the same bits everywhere. */
static float gauss(void)
{
    float sum = 0;
    for (int i = 0; i < 12; i++)
        sum += uniform();
    return sum - 6;
}

static struct sample_out run(const float *l, int32_t n, const struct sample_row *row)
{
    struct sample_out out;
    memset(scratch, 0xff, sizeof *scratch * 2 * (size_t)n); /* what was there does not matter */
    memset(&out, 0xff, sizeof out);
    sample_row_cpu(l, n, row, &out, scratch);
    return out;
}

/* -- the reference ----------------------------------------------------------------------------------------------- */

static struct item {
    float l;
    int32_t id;
    double w;
} items[V_MAX];

static float meaning(float l)
{
    return isnan(l) ? -INFINITY : l > FLT_MAX ? FLT_MAX : l;
}

static int best_first(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    return x->l > y->l ? -1 : x->l < y->l ? 1 : x->id - y->id;
}

static int lowest_id(const void *a, const void *b)
{
    return ((const struct item *)a)->id - ((const struct item *)b)->id;
}

static void adjusted(const float *l, int32_t n, const struct sample_row *row)
{
    for (int32_t i = 0; i < n; i++)
        items[i] = (struct item){meaning(l[i]), i, 0};
    for (uint32_t i = 0; i < row->n_bias; i++)
        items[row->bias[i].id].l = meaning(items[row->bias[i].id].l + row->bias[i].bias);
    for (uint32_t i = 0; i < row->n_banned; i++)
        items[row->banned[i]].l = -INFINITY;
    for (uint32_t i = 0; i < row->n_seen; i++) {
        float *x = &items[row->seen[i].id].l, count = (float)row->seen[i].n_out;
        *x = *x > 0 ? *x / row->repetition : *x * row->repetition;
        *x = meaning(*x - row->frequency * count - row->presence * (count > 0));
    }
}

static double sum_of(int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += items[i].w;
    return sum;
}

/* How many of the n sorted items are the nucleus. */
static int32_t nucleus(int32_t n, double p, double *near)
{
    double total = sum_of(n), sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += items[i].w;
        *near = fmin(*near, fabs(sum / total - p));
        if (sum >= p * total)
            return i + 1;
    }
    return n;
}

/* The token, and how near to another outcome the nearest decision was. */
static int32_t reference(const float *l, int32_t n, const struct sample_row *row, double *near)
{
    *near = INFINITY;
    adjusted(l, n, row);
    qsort(items, (size_t)n, sizeof *items, best_first);
    if (row->temperature == 0 || row->top_k == 1 || items[0].l == -INFINITY)
        return items[0].id;
    for (int32_t i = 0; i < n; i++)
        items[i].w = exp(((double)items[i].l - items[0].l) / row->temperature);
    if (row->top_k > 0 && row->top_k < n)
        n = row->top_k;
    if (row->top_p < 1)
        n = nucleus(n, row->top_p, near);
    for (int32_t i = 0; i < n && row->min_p > 0; i++) {
        *near = fmin(*near, fabs(items[i].w / row->min_p - 1));
        if (items[i].w < row->min_p)
            n = i;
    }
    qsort(items, (size_t)n, sizeof *items, lowest_id);
    double total = sum_of(n), sum = 0, u = rng_uniform(row->seed, row->choice, row->position, 0);
    for (int32_t i = 0; i < n; i++) {
        sum += items[i].w;
        if (i < n - 1)
            *near = fmin(*near, fabs(sum / total - u));
        if (sum > u * total)
            return items[i].id;
    }
    return items[n - 1].id;
}

/* -- random rows ------------------------------------------------------------------------------------------------- */

enum shape { NORMAL, NARROW, EQUAL, TIES, NEAR_ZERO, OUTLIERS, HOLES, PEAK, N_SHAPES };

static float logit(enum shape shape)
{
    static const float odd[] = {INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 1e30f, -1e30f, 1e-40f, 300, -300};
    uint32_t bits;
    switch (shape) {
    case NARROW:
        return 5 + gauss() * 1e-3f;
    case EQUAL:
        return 2.5f;
    case TIES:
        return (float)integer(-3, 3);
    case NEAR_ZERO: /* every power of two down to subnormals: the histogram must zoom in again and again */
        bits = (uint32_t)integer(1, 0x3f800000); /* one call an expression: the golden test needs one order */
        return f32_from_bits(bits | (uint32_t)integer(0, 1) << 31);
    case OUTLIERS:
        return integer(0, 30) ? gauss() : odd[integer(0, 8)];
    case HOLES:
        return integer(0, 2) ? integer(0, 1) ? -INFINITY : NAN : gauss() * 2;
    case PEAK:
        return integer(0, 400) ? gauss() * 2 : 15 + gauss();
    default:
        return gauss() * 3;
    }
}

static void fill(float *l, int32_t n, enum shape shape)
{
    for (int32_t i = 0; i < n; i++)
        l[i] = logit(shape);
}

static struct sample_seen seen[N_SEEN];
static struct sample_bias bias[10];
static int32_t banned[4];

/* Parameters in `use` (bits) at random, the others off. */
static struct sample_row random_row(int32_t n, unsigned use)
{
    static const float temperatures[] = {0, 1e-6f, 0.3f, 0.7f, 1.5f, 10}, ps[] = {0, 1e-4f, 0.1f, 0.5f, 0.9f, 0.999f};
    struct sample_row r = plain;
    r.seed = rng_next(&state);
    r.position = rng_next(&state);
    r.position >>= integer(0, 63);
    r.choice = (uint32_t)integer(0, 3);
    r.temperature = use & 1 ? temperatures[integer(0, 5)] : 1;
    r.top_p = use & 2 ? ps[integer(0, 5)] : 1;
    r.min_p = use & 4 ? ps[integer(0, 5)] : 0;
    r.top_k = use & 8 ? integer(0, 2) ? integer(0, 60) : integer(0, n + 2) : 0;
    if (use & 16)
        r.repetition = 0.5f + uniform() * 1.5f;
    r.presence = use & 32 ? gauss() : 0;
    r.frequency = use & 64 ? gauss() : 0;
    int32_t first = integer(0, n - 1);
    r.n_seen = use & 112 ? (uint32_t)integer(0, n < N_SEEN ? n : N_SEEN) : 0;
    for (uint32_t i = 0; i < r.n_seen; i++) /* each id once */
        seen[i] = (struct sample_seen){(first + (int32_t)i) % n, (uint32_t)integer(0, 3)};
    r.n_bias = use & 128 ? (uint32_t)integer(0, 10) : 0;
    for (uint32_t i = 0; i < r.n_bias; i++) {
        bias[i].id = integer(0, n - 1);
        bias[i].bias = integer(0, 4) ? gauss() * 5 : 100;
    }
    r.n_banned = use & 256 ? (uint32_t)integer(0, 4) : 0;
    for (uint32_t i = 0; i < r.n_banned; i++)
        banned[i] = integer(0, n - 1);
    r.seen = seen;
    r.bias = bias;
    r.banned = banned;
    return r;
}

/* Compare one row; true when it was too close to call. */
static bool compare(const float *l, int32_t n, const struct sample_row *r, const char *what)
{
    double near;
    int32_t want = reference(l, n, r, &near), got = run(l, n, r).id;
    if (near > CLOSE && got != want)
        ck_abort_msg("%s: V=%d got %d not %d; T %g top_k %d top_p %g min_p %g rep %g pres %g freq %g seen %u bias %u "
                     "banned %u, near %g",
                     what, n, got, want, (double)r->temperature, r->top_k, (double)r->top_p, (double)r->min_p,
                     (double)r->repetition, (double)r->presence, (double)r->frequency, r->n_seen, r->n_bias,
                     r->n_banned, near);
    return near <= CLOSE;
}

START_TEST(test_sample_follows_each_parameter_alone)
{
    state = unit_seed("sample_follows_each_parameter_alone");
    for (unsigned bit = 0; bit < 9; bit++)
        for (int shape = 0; shape < N_SHAPES; shape++)
            for (int i = 0; i < 60; i++) {
                int32_t n = integer(1, i % 3 ? 70 : 3000);
                fill(logits, n, (enum shape)shape);
                struct sample_row r = random_row(n, 1u << bit);
                compare(logits, n, &r, "alone");
            }
}
END_TEST

START_TEST(test_sample_follows_all_parameters_together)
{
    state = unit_seed("sample_follows_all_parameters_together");
    int close = 0, all = 0;
    for (int i = 0; i < 6000; i++, all++) {
        int32_t n = integer(1, i % 8 ? 300 : 5000);
        fill(logits, n, (enum shape)integer(0, N_SHAPES - 1));
        struct sample_row r = random_row(n, (unsigned)integer(0, 511));
        close += compare(logits, n, &r, "together");
    }
    ck_assert_msg(close < all / 8, "%d of %d rows were too close to call", close, all);
}
END_TEST

START_TEST(test_sample_follows_the_reference_over_a_whole_vocabulary)
{
    state = unit_seed("sample_follows_the_reference_over_a_whole_vocabulary");
    for (int shape = 0; shape < N_SHAPES; shape++)
        for (int i = 0; i < 4; i++) {
            int32_t n = 49152 - i;
            fill(logits, n, (enum shape)shape);
            struct sample_row r = random_row(n, 1 | 2 | (i & 1 ? 8 : 0));
            compare(logits, n, &r, "vocabulary");
        }
}
END_TEST

/* -- distribution ------------------------------------------------------------------------------------------------ */

/* Pearson's statistic of `draws` tokens against the probabilities; ids expected under 5 times are put together. */
static double chi_square(const float *l, int32_t n, struct sample_row r, const double *prob, int draws, int *df)
{
    int *count = calloc((size_t)n, sizeof *count), rest = draws;
    double chi = 0, rest_expected = draws;
    for (int i = 0; i < draws; i++) {
        r.position = (uint64_t)i;
        count[run(l, n, &r).id]++;
    }
    *df = 0;
    for (int32_t i = 0; i < n; i++) {
        double expected = prob[i] * draws;
        if (expected < 5)
            continue;
        chi += (count[i] - expected) * (count[i] - expected) / expected;
        rest -= count[i];
        rest_expected -= expected;
        (*df)++;
    }
    if (rest_expected >= 5)
        chi += (rest - rest_expected) * (rest - rest_expected) / rest_expected;
    else
        ck_assert_int_le(rest, 40);
    *df -= rest_expected < 5;
    free(count);
    return chi;
}

static void expect_softmax(int32_t n, float temperature, uint64_t seed)
{
    double *prob = calloc((size_t)n, sizeof *prob), sum = 0;
    int df;
    fill(logits, n, NORMAL);
    for (int32_t i = 0; i < n; i++)
        sum += prob[i] = exp(logits[i] / temperature);
    for (int32_t i = 0; i < n; i++)
        prob[i] /= sum;
    struct sample_row r = plain;
    r.temperature = temperature;
    r.seed = seed;
    double chi = chi_square(logits, n, r, prob, 100000, &df), limit = df + 5 * sqrt(2.0 * df) + 10;
    ck_assert_msg(chi < limit, "chi square %.1f with %d degrees of freedom, limit %.1f", chi, df, limit);
    free(prob);
}

START_TEST(test_sample_draws_from_the_softmax)
{
    state = unit_seed("sample_draws_from_the_softmax");
    expect_softmax(50, 1, 7);
    expect_softmax(50, 0.6f, 8);
    expect_softmax(700, 2, 9);
}
END_TEST

START_TEST(test_sample_streams_differ_by_seed_choice_and_position_only)
{
    state = 5;
    fill(logits, 1000, NARROW);
    struct sample_row r = plain;
    int same[3] = {0};
    for (uint64_t i = 0; i < 2000; i++) {
        r = plain;
        r.seed = 11, r.position = i;
        int32_t id = run(logits, 1000, &r).id;
        ck_assert_int_eq(run(logits, 1000, &r).id, id);
        r.seed = 12;
        same[0] += run(logits, 1000, &r).id == id;
        r.seed = 11, r.choice = 1;
        same[1] += run(logits, 1000, &r).id == id;
        r.choice = 0, r.position = i + (1ull << 32);
        same[2] += run(logits, 1000, &r).id == id;
    }
    for (int i = 0; i < 3; i++)
        ck_assert_int_lt(same[i], 20); /* 2 expected of 2,000 in 1,000 */
}
END_TEST

/* -- single promises --------------------------------------------------------------------------------------------- */

/* Which of n ids come up in 2,000 draws, as text: "0110". */
static const char *support(const float *l, int32_t n, struct sample_row r)
{
    static char hit[64];
    memset(hit, '0', (size_t)n);
    hit[n] = 0;
    for (r.position = 0; r.position < 2000; r.position++)
        hit[run(l, n, &r).id] = '1';
    return hit;
}

START_TEST(test_sample_ties_go_to_the_lower_id)
{
    float l[8] = {1, 3, 2, 3, 2, 3, 2, -1};
    struct sample_row r = plain;
    r.temperature = 0;
    ck_assert_int_eq(run(l, 8, &r).id, 1);
    r = plain;
    r.top_k = 1;
    ck_assert_int_eq(run(l, 8, &r).id, 1);
    r.top_k = 2;
    ck_assert_str_eq(support(l, 8, r), "01010000");
    r.top_k = 4;
    ck_assert_str_eq(support(l, 8, r), "01110100");
    r.top_k = 5;
    ck_assert_str_eq(support(l, 8, r), "01111100");
    float even[8] = {0};
    r = plain;
    r.top_p = 0.5f;
    ck_assert_str_eq(support(even, 8, r), "11110000");
    r.top_p = 0.51f;
    ck_assert_str_eq(support(even, 8, r), "11111000");
    r.top_p = 1e-9f;
    ck_assert_str_eq(support(even, 8, r), "10000000");
    r = plain;
    r.min_p = 1;
    ck_assert_str_eq(support(l, 8, r), "01010100");
    for (int i = 0; i < 3000; i++) /* more equal ids than are ever sorted */
        logits[i] = i % 2 ? 1.0f : 0.5f;
    r = plain;
    r.top_k = 1000;
    for (r.position = 0; r.position < 3000; r.position++) {
        int32_t id = run(logits, 3000, &r).id;
        ck_assert(id % 2 == 1 && id < 2000);
    }
}
END_TEST

START_TEST(test_sample_bans_biases_and_penalises)
{
    float l[4] = {1, 2, 3, -1};
    struct sample_row r = plain;
    int32_t no[] = {2, 1};
    struct sample_bias by[] = {{3, 100}, {2, -100}};
    struct sample_seen was[] = {{2, 0}, {1, 2}, {3, 1}};
    r.temperature = 0;
    r.banned = no, r.n_banned = 2;
    ck_assert_int_eq(run(l, 4, &r).id, 0);
    r.bias = by, r.n_bias = 2;
    ck_assert_int_eq(run(l, 4, &r).id, 3);
    r = plain;
    r.banned = no, r.n_banned = 2;
    ck_assert_str_eq(support(l, 4, r), "1001");
    r.temperature = 0, r.n_banned = 0;
    r.seen = was, r.n_seen = 3;
    r.frequency = 5; /* id 2 was in the prompt only */
    ck_assert_int_eq(run(l, 4, &r).id, 2);
    r.frequency = 0, r.repetition = 4; /* 2 / 4, 3 / 4, -1 * 4 */
    ck_assert_int_eq(run(l, 4, &r).id, 0);
    r.repetition = 1, r.presence = -4; /* 2 + 4, -1 + 4 */
    ck_assert_int_eq(run(l, 4, &r).id, 1);
    r.frequency = 3; /* 2 + 4 - 6, -1 + 4 - 3 */
    ck_assert_int_eq(run(l, 4, &r).id, 2);
}
END_TEST

static bool has_bit(const uint32_t *bits, int32_t i)
{
    return bits[i / 32] >> i % 32 & 1;
}

/* A row with a mask is the row whose other logits are -inf, but for the logprobs: they are of the raw logits. */
START_TEST(test_sample_chooses_only_what_the_mask_allows)
{
    static uint32_t mask[(V_MAX + 31) / 32];
    static float masked[V_MAX];
    state = 17;
    for (int i = 0; i < 600; i++) {
        int32_t n = integer(1, i % 4 ? 100 : 3000), of = i % 3 ? 1 : 50;
        struct sample_seen was[] = {{0, 1}, {n / 2, 2}};
        struct sample_row r = plain, raw = plain;
        memset(mask, i % 2 ? 0xff : 0, sizeof mask); /* what lies beyond the vocabulary does not matter */
        for (int32_t k = 0; k < n; k++) {
            logits[k] = gauss() * 3;
            mask[k / 32] &= ~(1u << k % 32);
            mask[k / 32] |= (uint32_t)(integer(0, of) == 0) << k % 32;
        }
        int32_t sure = integer(0, n - 1);
        mask[sure / 32] |= 1u << sure % 32;
        for (int32_t k = 0; k < n; k++)
            masked[k] = has_bit(mask, k) ? logits[k] : -INFINITY;
        r.temperature = i % 5 ? 0.8f : 0;
        r.top_k = i % 7 == 1 ? 5 : 0;
        r.top_p = i % 3 == 1 ? 0.8f : 1;
        r.min_p = i % 11 == 1 ? 0.05f : 0;
        if (i % 13 == 1) {
            r.seen = was, r.n_seen = n > 1 ? 2 : 1;
            r.repetition = 1.5f;
        }
        r.position = (uint64_t)i;
        struct sample_out want = run(masked, n, &r);
        r.allowed = mask;
        r.n_logprobs = raw.n_logprobs = 3;
        raw.temperature = 0;
        struct sample_out got = run(logits, n, &r), best = run(logits, n, &raw);
        ck_assert_int_eq(got.id, want.id);
        ck_assert(has_bit(mask, got.id));
        float lse = logits[best.id] - best.logprob;
        ck_assert(fabsf(got.logprob - (logits[got.id] - lse)) < 1e-5f);
        ck_assert_int_eq(got.n_top, best.n_top);
        ck_assert_mem_eq(got.top, best.top, (size_t)best.n_top * sizeof *got.top);
    }
    memset(mask, 0, sizeof mask);
    struct sample_row none = plain;
    none.allowed = mask;
    ck_assert_int_eq(run(logits, 40, &none).id, 0);
}
END_TEST

/* A penalty below 0 raises a logit, but not one that is out. */
START_TEST(test_sample_does_not_raise_what_the_mask_leaves_out)
{
    float l[3] = {-1, 2, -3};
    uint32_t mask = 5;
    struct sample_seen was = {1, 1};
    struct sample_row r = plain;
    r.allowed = &mask;
    r.seen = &was, r.n_seen = 1;
    r.repetition = -4, r.presence = -100;
    r.temperature = 0;
    ck_assert_int_eq(run(l, 3, &r).id, 0);
}
END_TEST

START_TEST(test_sample_finds_the_only_token_there_is)
{
    state = 3;
    for (int i = 0; i < 400; i++) {
        int32_t n = integer(1, i % 4 ? 40 : 2000), id = integer(0, n - 1);
        for (int32_t k = 0; k < n; k++)
            logits[k] = i % 3 ? -INFINITY : NAN;
        logits[id] = gauss() * 10;
        struct sample_row r = random_row(n, (unsigned)integer(0, 15));
        r.n_logprobs = 5;
        struct sample_out o = run(logits, n, &r);
        ck_assert_int_eq(o.id, id);
        ck_assert(o.logprob == 0 && o.n_top == 1 && o.top[0].id == id && o.top[0].logprob == 0);
    }
    float one = -3;
    struct sample_row r = plain;
    r.top_p = 0.1f, r.top_k = 4;
    ck_assert_int_eq(run(&one, 1, &r).id, 0);
}
END_TEST

START_TEST(test_sample_survives_logits_that_mean_nothing)
{
    static const float odd[] = {NAN, -INFINITY, INFINITY, FLT_MAX, -FLT_MAX};
    state = 4;
    for (int i = 0; i < 2000; i++) {
        int32_t n = integer(1, 70);
        for (int32_t k = 0; k < n; k++)
            logits[k] = odd[integer(0, i % 3 ? 1 : 4)];
        struct sample_row r = random_row(n, (unsigned)integer(0, 511));
        if (i % 5 == 0)
            r.temperature = r.top_p = r.min_p = r.repetition = r.presence = r.frequency = odd[integer(0, 4)];
        r.n_logprobs = integer(-1, 20);
        struct sample_out o = run(logits, n, &r);
        ck_assert(o.id >= 0 && o.id < n && !isnan(o.logprob) && o.n_top <= 20);
        if (i % 3 && i % 5) /* NaN and -inf alone: nothing to choose */
            ck_assert(o.id == 0 && (r.n_logprobs < 0 ? o.logprob == 0 : o.logprob == -INFINITY) && o.n_top <= 0);
    }
}
END_TEST

START_TEST(test_sample_leaves_off_what_is_out_of_range)
{
    float l[3] = {0, 0, 0};
    struct sample_row r = plain;
    r.top_k = -5, r.min_p = -1, r.top_p = 2;
    ck_assert_str_eq(support(l, 3, r), "111");
    r.min_p = NAN, r.top_p = NAN;
    ck_assert_str_eq(support(l, 3, r), "111");
    r.top_p = -1;
    ck_assert_str_eq(support(l, 3, r), "100");
    r = plain;
    r.temperature = -1;
    ck_assert_str_eq(support(l, 3, r), "100");
    r.temperature = NAN;
    ck_assert_str_eq(support(l, 3, r), "100");
    r.temperature = INFINITY;
    ck_assert_str_eq(support((float[3]){0, -80, -INFINITY}, 3, r), "110");
}
END_TEST

/* -- logprobs ---------------------------------------------------------------------------------------------------- */

static void expect_logprobs(int32_t n, const struct sample_row *r, const struct sample_out *o)
{
    double sum = 0;
    adjusted(logits, n, &plain); /* raw: bias and penalties do not count */
    double own = items[o->id].l;
    qsort(items, (size_t)n, sizeof *items, best_first);
    for (int32_t i = 0; i < n; i++)
        sum += exp((double)items[i].l - items[0].l);
    double lse = items[0].l + log(sum);
    int32_t k = r->n_logprobs < n ? r->n_logprobs : n;
    while (k > 0 && items[k - 1].l == -INFINITY)
        k--;
    ck_assert_int_eq(o->n_top, k);
    ck_assert(o->logprob == own - lse || fabs(o->logprob - (own - lse)) <= 3e-7 * fmax(1, fabs(own - lse)));
    for (int32_t i = 0; i < k; i++) {
        double want = items[i].l - lse;
        ck_assert_int_eq(o->top[i].id, items[i].id);
        ck_assert(fabs(o->top[i].logprob - want) <= 3e-7 * fmax(1, fabs(want)));
    }
}

START_TEST(test_sample_logprobs_are_those_of_the_raw_logits)
{
    state = unit_seed("sample_logprobs_are_those_of_the_raw_logits");
    for (int i = 0; i < 1500; i++) {
        int32_t n = integer(1, i % 8 ? 100 : 3000);
        fill(logits, n, (enum shape)(i % N_SHAPES));
        logits[integer(0, n - 1)] = 1; /* not all holes */
        struct sample_row r = random_row(n, (unsigned)integer(0, 511));
        r.n_logprobs = integer(-1, SAMPLE_TOP_MAX);
        struct sample_out o = run(logits, n, &r);
        if (r.n_logprobs < 0)
            ck_assert(o.logprob == 0 && o.n_top == 0);
        else
            expect_logprobs(n, &r, &o);
        int32_t id = o.id;
        r.n_logprobs = -1;
        ck_assert_int_eq(run(logits, n, &r).id, id);
    }
}
END_TEST

START_TEST(test_sample_logprobs_are_accurate_near_zero)
{
    float l[2] = {20, 0};
    struct sample_row r = plain;
    r.temperature = 0, r.n_logprobs = 1;
    double want = -log1p(exp(-20));
    ck_assert(fabs(run(l, 2, &r).logprob / want - 1) < 1e-6);
}
END_TEST

/* -- bits -------------------------------------------------------------------------------------------------------- */

START_TEST(test_sample_does_not_depend_on_where_the_row_lies)
{
    state = 6;
    for (int i = 0; i < 300; i++) {
        int32_t n = integer(1, 600);
        fill(logits, n, (enum shape)(i % N_SHAPES));
        struct sample_row r = random_row(n, (unsigned)integer(0, 511));
        r.n_logprobs = 3;
        struct sample_out a = run(logits, n, &r);
        float *elsewhere = malloc((size_t)(n + 1) * sizeof *elsewhere);
        memcpy(elsewhere + 1, logits, (size_t)n * sizeof *elsewhere);
        struct sample_out b = run(elsewhere + 1, n, &r);
        ck_assert(memcmp(elsewhere + 1, logits, (size_t)n * sizeof *elsewhere) == 0);
        ck_assert(a.id == b.id && a.logprob == b.logprob && a.n_top == b.n_top);
        ck_assert(a.n_top <= 0 || memcmp(a.top, b.top, (size_t)a.n_top * sizeof *a.top) == 0);
        free(elsewhere);
    }
}
END_TEST

/* The digest was made on x86-64 by gcc 12 -O2. It must be the same for every compiler, option, instruction set and
 * libm: a resumed request may continue on another machine. It changes only when the sampler's definition does. */
START_TEST(test_sample_gives_the_same_bits_on_every_machine)
{
    uint64_t h = 0;
    state = 2024;
    for (int i = 0; i < 4000; i++) {
        int32_t n = integer(1, i % 50 ? 500 : 20000);
        fill(logits, n, (enum shape)(i % N_SHAPES));
        struct sample_row r = random_row(n, (unsigned)integer(0, 511));
        r.n_logprobs = integer(-1, 20);
        struct sample_out o = run(logits, n, &r);
        h = h * 0x100000001b3u ^ (uint32_t)o.id;
        h = h * 0x100000001b3u ^ f32_bits(o.logprob);
        for (int k = 0; k < o.n_top; k++)
            h = h * 0x100000001b3u ^ f32_bits(o.top[k].logprob) ^ (uint64_t)o.top[k].id << 32;
    }
    ck_assert_msg(h == GOLDEN, "digest 0x%016llx", (unsigned long long)h);
}
END_TEST

UNIT_MAIN("sample", test_sample_follows_each_parameter_alone, test_sample_follows_all_parameters_together,
          test_sample_follows_the_reference_over_a_whole_vocabulary, test_sample_draws_from_the_softmax,
          test_sample_streams_differ_by_seed_choice_and_position_only, test_sample_ties_go_to_the_lower_id,
          test_sample_bans_biases_and_penalises, test_sample_chooses_only_what_the_mask_allows,
          test_sample_does_not_raise_what_the_mask_leaves_out, test_sample_finds_the_only_token_there_is,
          test_sample_survives_logits_that_mean_nothing, test_sample_leaves_off_what_is_out_of_range,
          test_sample_logprobs_are_those_of_the_raw_logits, test_sample_logprobs_are_accurate_near_zero,
          test_sample_does_not_depend_on_where_the_row_lies, test_sample_gives_the_same_bits_on_every_machine)
