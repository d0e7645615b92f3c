/* sample - the CPU twin of the sampler: one row of logits to one token, without sorting the vocabulary.
 *
 * Filters as one cut. In the order (logit descending, id ascending) top-k and top-p each keep a prefix, so each is a
 * cut: the last pair (value, id) that stays. `cut_find` finds it for any mass (top-k: 1 per id; top-p: the weight) by a
 * histogram over the range of values that still holds the cut, again over the bucket it falls into, and so on until few
 * ids are left to sort. Min-p is a bound on the weight alone.
 *
 * Numbers. Everything is decided on the adjusted logits themselves; the temperature enters only in the weight
 * w = exp((l - l_max) / T), a float in [0, 1] (0 below e^-87: 2^62 times rarer than the draw can tell apart). Sums are
 * double. NaN logits count as -inf and +inf as FLT_MAX, so that no NaN arises; a row with nothing above -inf gives id
 * 0.
 *
 * The same bits on every machine: exp and log are written out below (libm picks FMA variants at run time), vectors are
 * 16 bytes with fixed lanes, and each sum has one order: chunks of 256, four lanes in each, lanes (0 + 2) + (1 + 3),
 * then the chunks upwards. Needs -ffp-contract=off. Pure; the scratch holds V adjusted logits, then V weights.
 */
#include "engine/compute/sample.h"

#include "engine/base/rng.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define CHUNK   256
#define BUCKETS 1024
#define SMALL   64    /* a bucket of so few ids is sorted */
#define EXP_MIN -87.0 /* below, a float weight would be subnormal */

typedef float v4f __attribute__((vector_size(16)));
typedef int32_t v4i __attribute__((vector_size(16)));
typedef double v2d __attribute__((vector_size(16)));
typedef int64_t v2l __attribute__((vector_size(16)));

static v4f load4(const float *p)
{
    v4f v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* m ? a : b, lane by lane; m is all ones or zero. */
static v4f pick4(v4i m, v4f a, v4f b)
{
    return (v4f)(((v4i)a & m) | ((v4i)b & ~m));
}

static v2d pick2(v2l m, v2d a, v2d b)
{
    return (v2d)(((v2l)a & m) | ((v2l)b & ~m));
}

/* A logit with a meaning: NaN is -inf, +inf is FLT_MAX. */
static float clean(float l)
{
    if (!(l > -INFINITY))
        return -INFINITY;
    return l < FLT_MAX ? l : FLT_MAX;
}

static v4f clean4(v4f l)
{
    const v4f low = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}, high = {FLT_MAX, FLT_MAX, FLT_MAX, FLT_MAX};
    l = pick4(l > low, l, low);
    return pick4(l < high, l, high);
}

/* e^x for x <= 0, relative error under 1e-12: x = n ln 2 + r, |r| <= ln 2 / 2, Taylor to r^10, times 2^n. */
static v2d exp2lanes(v2d x)
{
    static const double c[] = {1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120,
                               1.0 / 24,      1.0 / 6,      0.5,         1.0,        1.0};
    const v2d low = {-700, -700}, magic = {0x1.8p52, 0x1.8p52}; /* adding magic rounds to an integer, in the low bits */
    x = pick2(x > low, x, low);
    v2d n = x * 0x1.71547652b82fep+0 + magic;
    v2d r = x - (n - magic) * 0x1.62e42fefa3800p-1 - (n - magic) * 0x1.ef35793c76730p-45;
    v2d p = {c[0], c[0]};
    for (size_t i = 1; i < sizeof c / sizeof *c; i++)
        p = p * r + c[i];
    return (v2d)((v2l)p + ((v2l)n << 52));
}

/* ln x for normal x > 0: x = 2^k m, ln m = 2 atanh((m - 1) / (m + 1)), m in [0.7, 1.5]. */
static double log_of(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    int k = (int)(u >> 52) - 1023;
    u = (u & 0x000fffffffffffffu) | 0x3ff0000000000000u;
    memcpy(&x, &u, sizeof x);
    if (x > 1.5) {
        x *= 0.5;
        k++;
    }
    double s = (x - 1) / (x + 1), s2 = s * s, sum = 0;
    for (int i = 23; i >= 1; i -= 2)
        sum = sum * s2 + 1.0 / i;
    return 2 * s * sum + k * 0x1.62e42fefa39efp-1;
}

/* The largest of n cleaned logits (order does not matter), -inf for none. */
static float max_of(const float *x, int32_t n)
{
    v4f m[4];
    for (int l = 0; l < 4; l++)
        m[l] = (v4f){-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    int32_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 4; l++) {
            v4f v = load4(x + i + 4 * l);
            m[l] = pick4(v > m[l], v, m[l]);
        }
    float best = -INFINITY;
    for (int l = 0; l < 16; l++)
        best = m[l / 4][l % 4] > best ? m[l / 4][l % 4] : best;
    for (; i < n; i++)
        best = x[i] > best ? x[i] : best;
    return clean(best);
}

/* w[i] = exp((x[i] - max) * inv_t), 0 under e^EXP_MIN; n at most CHUNK. x need not be clean; max > -inf. */
static void weigh(float *w, const float *x, int32_t n, float max, double inv_t)
{
    float in[4], out[4];
    for (int32_t i = 0; i < n; i += 4) {
        int32_t m = n - i < 4 ? n - i : 4;
        for (int l = 0; l < 4; l++)
            in[l] = l < m ? x[i + l] : -INFINITY;
        v4f v = clean4(load4(in));
        v2d a = {v[0], v[1]}, b = {v[2], v[3]}, floor = {EXP_MIN, EXP_MIN}, zero = {0, 0};
        a = (a - max) * inv_t;
        b = (b - max) * inv_t;
        a = pick2(a >= floor, exp2lanes(a), zero);
        b = pick2(b >= floor, exp2lanes(b), zero);
        v4f r = {(float)a[0], (float)a[1], (float)b[0], (float)b[1]};
        memcpy(out, &r, sizeof out);
        memcpy(w + i, out, (size_t)m * sizeof *w);
    }
}

/* Sum of n floats, n at most CHUNK, in four lanes. */
static double sum_of(const float *w, int32_t n)
{
    v2d s[2] = {{0, 0}, {0, 0}};
    int32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        v4f v = load4(w + i);
        s[0] += (v2d){v[0], v[1]};
        s[1] += (v2d){v[2], v[3]};
    }
    for (int l = 0; i + l < n; l++)
        s[l / 2][l % 2] += w[i + l];
    return (s[0][0] + s[1][0]) + (s[0][1] + s[1][1]);
}

static int32_t chunk_at(int32_t i, int32_t n)
{
    return n - i < CHUNK ? n - i : CHUNK;
}

static double total_of(const float *w, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i += CHUNK)
        sum += sum_of(w + i, chunk_at(i, n));
    return sum;
}

/* Is any of 16 floats above (or, with `equal`, at) the bound? Lets scans skip what can't matter. */
static bool any_above(const float *x, float bound, bool equal)
{
    v4f b = {bound, bound, bound, bound};
    v4i hit = {0, 0, 0, 0};
    for (int l = 0; l < 16; l += 4)
        hit |= equal ? load4(x + l) >= b : load4(x + l) > b;
    v2l any = (v2l)hit;
    return any[0] | any[1];
}

/* The lowest id of the largest logit; 0 when there is none above -inf. */
static int32_t argmax(const float *x, int32_t n)
{
    float max = max_of(x, n);
    int32_t i = 0;
    while (i + 16 <= n && !any_above(x + i, max, true))
        i += 16;
    for (; i < n; i++)
        if (clean(x[i]) == max)
            return i;
    return 0;
}

/* -- logprobs ---------------------------------------------------------------------------------------------------- */

static double log_sum_exp(const float *x, int32_t n)
{
    float max = max_of(x, n), w[CHUNK];
    double sum = 0;
    for (int32_t i = 0; i < n && max > -INFINITY; i += CHUNK) {
        weigh(w, x + i, chunk_at(i, n), max, 1);
        sum += sum_of(w, chunk_at(i, n));
    }
    return sum > 0 ? max + log_of(sum) : -INFINITY;
}

/* The k best of x into top, sorted; logits for now. Returns how many there are above -inf. */
static int32_t best_of(const float *x, int32_t n, int32_t k, struct sample_out *out)
{
    int32_t found = 0;
    float bound = -INFINITY;
    for (int32_t i = 0; i < n; i++) {
        while (i % 16 == 0 && i + 16 <= n && !any_above(x + i, bound, false))
            i += 16;
        if (i >= n || !(clean(x[i]) > bound))
            continue;
        int32_t at = found < k ? found++ : k - 1;
        for (; at > 0 && out->top[at - 1].logprob < clean(x[i]); at--)
            out->top[at] = out->top[at - 1];
        out->top[at].id = i;
        out->top[at].logprob = clean(x[i]);
        bound = found == k ? out->top[k - 1].logprob : -INFINITY;
    }
    return found;
}

static void fill_logprobs(const float *logits, int32_t n, int32_t k, struct sample_out *out)
{
    double lse = log_sum_exp(logits, n);
    float own = clean(logits[out->id]);
    out->logprob = own > -INFINITY ? (float)(own - lse) : -INFINITY;
    out->n_top = k > 0 ? best_of(logits, n, k < SAMPLE_TOP_MAX ? k : SAMPLE_TOP_MAX, out) : 0;
    for (int32_t i = 0; i < out->n_top; i++)
        out->top[i].logprob = (float)(out->top[i].logprob - lse);
}

/* -- adjusting logits -------------------------------------------------------------------------------------------- */

static bool adjusts(const struct sample_row *p)
{
    return p->n_bias || p->n_banned || (p->n_seen && (p->repetition != 1 || p->presence != 0 || p->frequency != 0));
}

static void penalise(float *l, int32_t n, const struct sample_row *p)
{
    for (uint32_t i = 0; i < p->n_seen; i++) {
        assert(p->seen[i].id >= 0 && p->seen[i].id < n);
        float *x = &l[p->seen[i].id];
        *x = *x > 0 ? *x / p->repetition : *x * p->repetition;
        if (p->seen[i].n_out)
            *x = *x - p->frequency * (float)p->seen[i].n_out - p->presence;
        *x = clean(*x);
    }
}

/* l[n] = the logits after bias, ban and penalties; all clean. */
static void adjust(float *l, const float *logits, int32_t n, const struct sample_row *p)
{
    int32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        v4f v = clean4(load4(logits + i));
        memcpy(l + i, &v, sizeof v);
    }
    for (; i < n; i++)
        l[i] = clean(logits[i]);
    for (uint32_t b = 0; b < p->n_bias; b++) {
        assert(p->bias[b].id >= 0 && p->bias[b].id < n);
        l[p->bias[b].id] = clean(l[p->bias[b].id] + p->bias[b].bias);
    }
    for (uint32_t b = 0; b < p->n_banned; b++) {
        assert(p->banned[b] >= 0 && p->banned[b] < n);
        l[p->banned[b]] = -INFINITY;
    }
    if (p->n_seen && adjusts(p))
        penalise(l, n, p);
}

/* -- top-k, top-p, min-p ----------------------------------------------------------------------------------------- */

/* The pool of ids that may still be drawn: those with w > 0. */
struct pool {
    const float *l; /* [n] clean */
    float *w;       /* [n] */
    int32_t n;
};

struct cut { /* keeps what comes before or at (value, id) */
    float value;
    int32_t id;
};

/* The search for a cut: it lies among the ids with lo <= l <= hi; `before` is the mass above hi. */
struct search {
    bool by_weight;
    double target, before;
    float lo, hi;
    int32_t few[SMALL]; /* ids of the bucket, once it is small */
    int32_t n_few;
};

static double mass_of(const struct search *s, float w)
{
    return s->by_weight ? w : 1;
}

/* 0 for hi, growing as l falls to lo. Monotone, and different for lo and hi when they differ. */
static int32_t bucket_of(const struct search *s, double scale, float l)
{
    return (int32_t)(((double)s->hi - l) * scale);
}

static bool in_range(const struct pool *p, const struct search *s, int32_t i)
{
    return p->w[i] > 0 && p->l[i] <= s->hi && p->l[i] >= s->lo;
}

/* Find the bucket of the cut and narrow s to it. */
static void search_narrow(const struct pool *p, struct search *s)
{
    double mass[BUCKETS] = {0}, scale = (BUCKETS - 1) / ((double)s->hi - s->lo);
    int32_t count[BUCKETS] = {0}, last = 0, b = 0;
    for (int32_t i = 0; i < p->n; i++)
        if (in_range(p, s, i)) {
            int32_t at = bucket_of(s, scale, p->l[i]);
            mass[at] += mass_of(s, p->w[i]);
            count[at]++;
            last = at > last ? at : last;
        }
    for (; b < last && s->before + mass[b] < s->target; b++)
        s->before += mass[b];
    float lo = INFINITY, hi = -INFINITY;
    for (int32_t i = 0; i < p->n; i++)
        if (in_range(p, s, i) && bucket_of(s, scale, p->l[i]) == b) {
            lo = p->l[i] < lo ? p->l[i] : lo;
            hi = p->l[i] > hi ? p->l[i] : hi;
            if (count[b] <= SMALL)
                s->few[s->n_few++] = i;
        }
    s->lo = lo;
    s->hi = hi;
}

/* Add ids in order until the target is reached: the last one is the cut. */
static bool search_take(const struct pool *p, struct search *s, int32_t id, struct cut *c)
{
    *c = (struct cut){p->l[id], id};
    s->before += mass_of(s, p->w[id]);
    return s->before >= s->target;
}

static void sort_few(const struct pool *p, struct search *s)
{
    for (int32_t i = 1; i < s->n_few; i++) {
        int32_t id = s->few[i], at = i; /* ids come in ascending order, so equal values stay so */
        for (; at > 0 && p->l[s->few[at - 1]] < p->l[id]; at--)
            s->few[at] = s->few[at - 1];
        s->few[at] = id;
    }
}

/* The shortest prefix whose mass reaches the target, or all; at least one id. */
static struct cut cut_find(const struct pool *p, bool by_weight, double target)
{
    struct search s = {.by_weight = by_weight, .target = target, .lo = INFINITY, .hi = -INFINITY};
    struct cut c = {0};
    for (int32_t i = 0; i < p->n; i++)
        if (p->w[i] > 0) {
            s.lo = p->l[i] < s.lo ? p->l[i] : s.lo;
            s.hi = p->l[i] > s.hi ? p->l[i] : s.hi;
        }
    while (s.lo < s.hi && !s.n_few)
        search_narrow(p, &s);
    if (s.n_few) {
        sort_few(p, &s);
        for (int32_t i = 0; i < s.n_few && !search_take(p, &s, s.few[i], &c); i++)
            ;
        return c;
    }
    for (int32_t i = 0; i < p->n; i++) /* many equal logits: by id */
        if (in_range(p, &s, i) && search_take(p, &s, i, &c))
            break;
    return c;
}

static void cut_apply(const struct pool *p, struct cut c)
{
    for (int32_t i = 0; i < p->n; i++)
        if (p->l[i] < c.value || (p->l[i] == c.value && i > c.id))
            p->w[i] = 0;
}

static void filter(const struct pool *p, const struct sample_row *row)
{
    if (row->top_k > 0 && row->top_k < p->n)
        cut_apply(p, cut_find(p, false, row->top_k));
    if (row->top_p < 1)
        cut_apply(p, cut_find(p, true, row->top_p * total_of(p->w, p->n)));
    float least = row->min_p < 1 ? row->min_p : 1; /* the best has w = 1 */
    for (int32_t i = 0; i < p->n && least > 0; i++)
        if (p->w[i] < least)
            p->w[i] = 0;
}

/* The first id at which the cumulative sum passes u times the whole. The chunk sums are those of total_of, so that some
 * chunk always does. */
static int32_t draw(const struct pool *p, double u)
{
    double target = u * total_of(p->w, p->n), sum = 0;
    int32_t i = 0, id = 0;
    for (double s; i + CHUNK < p->n && sum + (s = sum_of(p->w + i, CHUNK)) <= target; i += CHUNK)
        sum += s;
    for (; i < p->n; i++)
        if (p->w[i] > 0) {
            id = i;
            sum += p->w[i];
            if (sum > target)
                break;
        }
    return id;
}

static int32_t sample_one(const float *logits, int32_t n, const struct sample_row *row, float *scratch)
{
    bool greedy = !(row->temperature > 0) || row->top_k == 1;
    if (greedy && !adjusts(row))
        return argmax(logits, n);
    adjust(scratch, logits, n, row);
    float max = max_of(scratch, n);
    if (greedy || max == -INFINITY)
        return argmax(scratch, n);
    struct pool p = {.l = scratch, .w = scratch + n, .n = n};
    for (int32_t i = 0; i < n; i += CHUNK)
        weigh(p.w + i, p.l + i, chunk_at(i, n), max, 1 / (double)row->temperature);
    filter(&p, row);
    return draw(&p, rng_uniform(row->seed, row->choice, row->position, 0));
}

void sample_row_cpu(const float *logits, int32_t vocab, const struct sample_row *p, struct sample_out *out,
                    float *scratch)
{
    assert(vocab > 0);
    out->id = sample_one(logits, vocab, p, scratch);
    out->logprob = 0;
    out->n_top = 0;
    if (p->n_logprobs >= 0)
        fill_logprobs(logits, vocab, p->n_logprobs, out);
}
