/* sample - the CPU twin of the sampler: one row of logits to one token, without sorting the vocabulary.
 *
 * Filters as one cut. In the order (logit descending, id ascending) top-k and top-p each keep a prefix, so each is a
 * cut: the last pair (value, id) that stays. `cut_find` finds it for any mass (top-k: 1 per id; top-p: the weight) by a
 * histogram over the range of values that still holds the cut, again over the bucket it falls into, and so on until few
 * ids are left to sort. Min-p is a bound on the weight alone.
 *
 * Numbers. Ranks are decided on the adjusted logits themselves; the temperature enters only in the weight
 * w = exp((l - l_max) / T), a float in [0, 1]: right to 2e-7 of itself, and 0 below e^-87. Sums are double. NaN logits
 * count as -inf and +inf as FLT_MAX, so that no NaN arises; a row with nothing above -inf gives id 0.
 *
 * Cost: passes over V that look at 16 values at a time and pass over what is out of the game, so that after top-k, or
 * below e^-87, an id costs little. The passes and their numerics are in sample_lanes.h. Pure; the scratch holds V
 * adjusted logits, then V weights.
 */
#include "engine/compute/sample.h"

#include "engine/base/rng.h"
#include "engine/compute/sample_lanes.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#define BUCKETS 1024
#define FEW     256 /* a bucket of at most so many ids is sorted */

/* The lowest id of the largest logit; 0 when there is none above -inf. */
static int32_t argmax(const float *x, int32_t n)
{
    float max = max_of(x, n);
    for (int32_t i = skip_to(x, 0, n, max, INFINITY); i < n; i++)
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
    float bound = -FLT_MAX; /* what is to come in must be above it, or at it while there is room */
    for (int32_t i = 0; i < n; i++) {
        if (i % 16 == 0 && (i = skip_to(x, i, n, bound, INFINITY)) >= n)
            break;
        float l = clean(x[i]);
        if (found == k ? !(l > bound) : !(l >= bound))
            continue;
        int32_t at = found < k ? found++ : k - 1;
        for (; at > 0 && out->top[at - 1].logprob < l; at--)
            out->top[at] = out->top[at - 1];
        out->top[at].id = i;
        out->top[at].logprob = l;
        if (found == k)
            bound = out->top[k - 1].logprob;
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

static bool penalises(const struct sample_row *p)
{
    return p->repetition != 1 || p->presence != 0 || p->frequency != 0;
}

static bool adjusts(const struct sample_row *p, int32_t after)
{
    return p->n_bias || p->n_banned || p->allowed || ((p->n_seen || after >= 0) && penalises(p));
}

static void penalise_one(float *x, uint32_t n_out, const struct sample_row *p)
{
    *x = *x > 0 ? *x / p->repetition : *x * p->repetition;
    if (n_out)
        *x = *x - p->frequency * (float)n_out - p->presence;
    *x = clean(*x);
}

static void penalise(float *l, int32_t n, const struct sample_row *p, int32_t after)
{
    for (uint32_t i = 0; i < p->n_seen; i++) {
        bool once_more = p->seen[i].id == after;
        assert(p->seen[i].id >= 0 && p->seen[i].id < n);
        penalise_one(&l[p->seen[i].id], p->seen[i].n_out + once_more, p);
        if (once_more)
            after = -1;
    }
    if (after >= 0)
        penalise_one(&l[after], 1, p);
}

static void keep_allowed(float *l, int32_t n, const uint32_t *allowed)
{
    for (int32_t i = 0; i < n; i += 32)
        for (int32_t k = 0; allowed[i / 32] != UINT32_MAX && k < 32 && i + k < n; k++)
            l[i + k] = allowed[i / 32] >> k & 1 ? l[i + k] : -INFINITY;
}

/* l[n] = the logits after bias, ban, penalties and mask; all clean. */
static void adjust(float *l, const float *logits, int32_t n, const struct sample_row *p, int32_t after)
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
    if (penalises(p))
        penalise(l, n, p, after);
    if (p->allowed)
        keep_allowed(l, n, p->allowed);
}

/* -- top-k and top-p: the cut ------------------------------------------------------------------------------------ */

/* Ids in the game: l is -inf for those that are out. */
struct pool {
    const float *l; /* [n] clean */
    const float *w; /* [n] the mass of each id, or NULL: 1 each */
    int32_t n;
};

struct cut { /* keeps what comes before or at (value, id) */
    float value;
    int32_t id;
};

/* The search for a cut: it lies among the ids with lo <= l <= hi; `before` is the mass above hi. */
struct search {
    double target, before;
    float lo, hi;
    int32_t few[FEW]; /* the ids, once they are few; ascending */
    int32_t n_few;
};

/* Four logits to their buckets: 0 for hi, growing as l falls to lo; BUCKETS and up (one a lane, for speed) out of lo ..
 * hi. Monotone, and different for lo and hi when they differ. */
LANES v4i buckets_of(const struct search *s, v4f l)
{
    const v2d magic = {0x1.8p52, 0x1.8p52}; /* as in weigh4 */
    double scale = (BUCKETS - 1) / ((double)s->hi - s->lo);
    v2d a = (s->hi - low2(l)) * scale + magic, b = (s->hi - high2(l)) * scale + magic;
    v4i in = (l >= same4(s->lo)) & (l <= same4(s->hi)), out = {BUCKETS, BUCKETS + 1, BUCKETS + 2, BUCKETS + 3};
    return (narrow4((v2l)a, (v2l)b) & in) | (out & ~in);
}

static int32_t bucket_of(const struct search *s, float l)
{
    return buckets_of(s, same4(l))[0];
}

/* The bucket that holds the cut, with s->before moved up to it. */
static int32_t search_bucket(const struct pool *p, struct search *s)
{
    double mass[BUCKETS + 4] = {0};
    int32_t b = 0, last = bucket_of(s, s->lo), i = 0;
    for (; i + 4 <= p->n; i += 4) {
        if (i % 16 == 0 && (i = skip_to(p->l, i, p->n, s->lo, s->hi)) + 4 > p->n)
            break;
        v4i at = buckets_of(s, load4(p->l + i));
        v4f m = p->w ? load4(p->w + i) : same4(1);
        mass[at[0]] += m[0];
        mass[at[1]] += m[1];
        mass[at[2]] += m[2];
        mass[at[3]] += m[3];
    }
    for (; i < p->n; i++)
        mass[bucket_of(s, p->l[i])] += p->w ? p->w[i] : 1;
    for (; b < last && s->before + mass[b] < s->target; b++)
        s->before += mass[b];
    return b;
}

/* Narrow s to bucket b: its ids if they are few, else its range. The scan looks at two buckets more on each side, for
 * the bounds are rounded. */
static void search_narrow(const struct pool *p, struct search *s, int32_t b)
{
    double width = ((double)s->hi - s->lo) / (BUCKETS - 1);
    float from = (float)(s->hi - (b + 2) * width), to = (float)(s->hi - (b - 2) * width), lo = s->hi, hi = s->lo;
    for (int32_t i = 0; i < p->n; i++) {
        if (i % 16 == 0 && (i = skip_to(p->l, i, p->n, from, to)) >= p->n)
            break;
        if (bucket_of(s, p->l[i]) != b)
            continue;
        lo = p->l[i] < lo ? p->l[i] : lo;
        hi = p->l[i] > hi ? p->l[i] : hi;
        if (s->n_few < FEW)
            s->few[s->n_few] = i;
        s->n_few++;
    }
    s->n_few = s->n_few <= FEW ? s->n_few : 0;
    s->lo = lo;
    s->hi = hi;
}

/* By logit, descending; equal ones stay in the order of their ids. */
static void sort_few(const struct pool *p, struct search *s)
{
    for (int32_t i = 1; i < s->n_few; i++) {
        int32_t id = s->few[i], at = i;
        for (; at > 0 && p->l[s->few[at - 1]] < p->l[id]; at--)
            s->few[at] = s->few[at - 1];
        s->few[at] = id;
    }
}

/* Add an id in order: true when the target is reached, and then it is the cut. */
static bool search_take(const struct pool *p, struct search *s, int32_t id, struct cut *c)
{
    *c = (struct cut){p->l[id], id};
    s->before += p->w ? p->w[id] : 1;
    return s->before >= s->target;
}

/* The shortest prefix whose mass reaches the target, or all; at least one id. lo and hi are logits of ids, with all
 * mass between them. */
static struct cut cut_find(const struct pool *p, double target, float lo, float hi)
{
    struct search s = {.target = target, .lo = lo, .hi = hi};
    struct cut c = {0};
    while (s.lo < s.hi && !s.n_few)
        search_narrow(p, &s, search_bucket(p, &s));
    sort_few(p, &s);
    for (int32_t i = 0; i < s.n_few; i++)
        if (search_take(p, &s, s.few[i], &c))
            return c;
    for (int32_t i = 0; i < p->n && !s.n_few; i++) /* many equal logits: by id */
        if (p->l[i] == s.lo && search_take(p, &s, i, &c))
            return c;
    return c;
}

/* a[i] = dead for every id beyond the cut; a is l or w. */
static void cut_apply(const struct pool *p, struct cut c, float *a, float dead)
{
    const v4f at = same4(c.value);
    const v4i edge = {c.id, c.id, c.id, c.id};
    int32_t i = 0;
    for (; i + 4 <= p->n; i += 4) {
        v4i id = {i, i + 1, i + 2, i + 3};
        v4f l = load4(p->l + i), kept = pick4((l > at) | ((l == at) & (id <= edge)), load4(a + i), same4(dead));
        memcpy(a + i, &kept, sizeof kept);
    }
    for (; i < p->n; i++)
        if (p->l[i] < c.value || (p->l[i] == c.value && i > c.id))
            a[i] = dead;
}

/* The least logit above `floor`; hi when there is none below hi. */
static float min_above(const float *l, int32_t n, float floor, float hi)
{
    v4f least = same4(hi);
    int32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        v4f v = load4(l + i);
        least = pick4((v > same4(floor)) & (v < least), v, least);
    }
    float best = hi;
    for (int k = 0; k < 4; k++)
        best = least[k] < best ? least[k] : best;
    for (; i < n; i++)
        best = l[i] > floor && l[i] < best ? l[i] : best;
    return best;
}

/* -- choosing ---------------------------------------------------------------------------------------------------- */

static void keep_top_k(float *l, int32_t n, float max, int32_t k)
{
    struct pool p = {.l = l, .n = n};
    cut_apply(&p, cut_find(&p, k, min_above(l, n, -INFINITY, max), max), l, -INFINITY);
}

/* The cut has a weight of at least rest / n: all ids below that together can't hold more than the rest. */
static void keep_top_p(const float *l, float *w, int32_t n, float max, double inv_t, double top_p)
{
    struct pool p = {.l = l, .w = w, .n = n};
    double total = total_of(w, n), rest = total * (1 - top_p);
    float floor = logit_of(fmax(log_of(rest / n), EXP_MIN), max, inv_t);
    cut_apply(&p, cut_find(&p, total * top_p, min_above(l, n, floor, max), max), w, 0);
}

/* The best has w = 1. */
static void keep_min_p(float *w, int32_t n, float min_p)
{
    float least = min_p < 1 ? min_p : 1;
    int32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        v4f v = load4(w + i);
        v = pick4(v >= same4(least), v, same4(0));
        memcpy(w + i, &v, sizeof v);
    }
    for (; i < n; i++)
        w[i] = w[i] >= least ? w[i] : 0;
}

/* The first id at which the cumulative sum passes u times the whole. The chunk sums are those of total_of, so that some
 * chunk always does. */
static int32_t draw(const float *w, int32_t n, double u)
{
    double target = u * total_of(w, n), sum = 0;
    int32_t i = 0, id = 0;
    for (double s; i + CHUNK < n && sum + (s = sum_of(w + i, CHUNK)) <= target; i += CHUNK)
        sum += s;
    for (; i < n; i++)
        if (w[i] > 0) {
            id = i;
            sum += w[i];
            if (sum > target)
                break;
        }
    return id;
}

static int32_t sample_one(const float *logits, int32_t n, const struct sample_row *row, int32_t after, float *scratch)
{
    bool greedy = !(row->temperature > 0) || row->top_k == 1;
    if (greedy && !adjusts(row, after))
        return argmax(logits, n);
    float *l = scratch, *w = scratch + n;
    adjust(l, logits, n, row, after);
    float max = max_of(l, n);
    if (greedy || max == -INFINITY)
        return argmax(l, n);
    double inv_t = 1 / (double)row->temperature;
    if (row->top_k > 0 && row->top_k < n)
        keep_top_k(l, n, max, row->top_k);
    weigh(w, l, n, max, inv_t);
    if (row->top_p < 1)
        keep_top_p(l, w, n, max, inv_t, fmax(row->top_p, 0));
    if (row->min_p > 0)
        keep_min_p(w, n, row->min_p);
    return draw(w, n, rng_uniform(row->seed, row->choice, row->position, 0));
}

void sample_row_cpu(const float *logits, int32_t vocab, const struct sample_row *p, struct sample_out *out,
                    float *scratch)
{
    sample_row_cpu_after(logits, vocab, p, -1, out, scratch);
}

void sample_row_cpu_after(const float *logits, int32_t vocab, const struct sample_row *p, int32_t after,
                          struct sample_out *out, float *scratch)
{
    assert(vocab > 0 && after < vocab);
    out->id = sample_one(logits, vocab, p, after, scratch);
    out->logprob = 0;
    out->n_top = 0;
    if (p->n_logprobs >= 0)
        fill_logprobs(logits, vocab, p->n_logprobs, out);
}
