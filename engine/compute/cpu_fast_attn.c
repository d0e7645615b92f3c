/* cpu_fast_attn - attention: which rows go together, which keys go apart, and the merge in order.
 *
 * Work is cut into UNITS: some consecutive rows of one sequence (a span) x the heads of one kv head. The keys of a unit
 * are cut into PIECES of 256 at absolute positions. A row's result is by definition the merge of its pieces from left
 * to right, so it does not matter who computes a piece: mostly a unit is one job of one thread, but a unit with more
 * than half a thread's share of the step (one long sequence, few rows) is split, its pieces go to all threads, and
 * partial results wait in `partial` until they are merged. Where that room is short it goes in waves.
 */
#include "engine/compute/cpu_fast.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define PARTIALS_PER_THREAD 4 /* room for that many pieces of the largest size */
#define PARTIAL_MAX         ((size_t)ATTN_Q * (ATTN_D + 1))

struct span {
    int32_t row0, n_rows;
    int32_t piece0, piece1; /* pieces that its rows see */
    bool split;
};

struct unit {
    const struct span *span;
    int32_t kv_head, head0, n_heads;
};

struct fast_attn_plan {
    struct cpu_fast *f;
    const struct attn_args *a;
    int32_t runs, run_heads; /* query heads of a kv head in runs of at most ATTN_Q; nearly always one run */
    int32_t n_spans, n_split;
    int32_t first_pair, n_pairs; /* (split unit, piece) pairs of this wave */
    size_t slot;                 /* floats of a partial in this wave */
    struct span *spans;          /* [max_rows] */
    int32_t *split;              /* [2 * threads] the spans that are split */
    float *lse;                  /* [2 * threads][ATTN_Q] of each split unit: merged so far */
    float *partial;              /* [threads * PARTIALS_PER_THREAD][PARTIAL_MAX] */
};

static const float nothing[ATTN_D];

static int32_t min_i32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t max_i32(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static int32_t head_dim(const struct fast_attn_plan *p)
{
    return (int32_t)p->a->kv->head_dim;
}

/* -- units */

static int32_t units_per_span(const struct fast_attn_plan *p)
{
    return (int32_t)p->a->kv->n_kv_heads * p->runs;
}

static struct unit unit_at(const struct fast_attn_plan *p, const struct span *s, int32_t i)
{
    int32_t group = p->a->n_heads / (int32_t)p->a->kv->n_kv_heads, from = i % p->runs * p->run_heads;
    struct unit u = {s, i / p->runs, i / p->runs * group + from, min_i32(p->run_heads, group - from)};
    return u;
}

static float *unit_out(const struct fast_attn_plan *p, const struct unit *u, int32_t row, int32_t head)
{
    int64_t at = (int64_t)(u->span->row0 + row) * p->a->n_heads + u->head0 + head;
    return (p->a->out_input ? (float *)p->a->out_input : p->a->out.o) + at * head_dim(p);
}

static void unit_begin(const struct fast_attn_plan *p, const struct unit *u, float *lse)
{
    for (int32_t r = 0; r < u->span->n_rows; r++)
        memset(unit_out(p, u, r, 0), 0, (size_t)(u->n_heads * head_dim(p)) * sizeof(float));
    for (int32_t i = 0; i < u->span->n_rows * u->n_heads; i++)
        lse[i] = -INFINITY;
}

/* Attend to one piece of keys: partial = o[vectors][head_dim], then lse[vectors]. */
static void unit_attend(const struct fast_attn_plan *p, const struct unit *u, int32_t piece, float *partial,
                        int32_t thread)
{
    const struct attn_args *a = p->a;
    struct fast_attn t = {
        .args = a,
        .row0 = u->span->row0,
        .n_rows = u->span->n_rows,
        .head0 = u->head0,
        .n_heads = u->n_heads,
        .kv_head = u->kv_head,
        .key0 = max_i32(piece * KEY_PIECE, a->key_begin),
        .key1 = min_i32((piece + 1) * KEY_PIECE, a->key_end),
        .o = partial,
        .lse = partial + u->span->n_rows * u->n_heads * head_dim(p),
    };
    p->f->isa->attend(&t, fast_scratch(p->f, thread));
}

static void unit_merge(const struct fast_attn_plan *p, const struct unit *u, float *lse, const float *partial)
{
    int32_t n = u->span->n_rows * u->n_heads, d = head_dim(p);
    for (int32_t r = 0, i = 0; r < u->span->n_rows; r++)
        for (int32_t h = 0; h < u->n_heads; h++, i++)
            p->f->isa->merge(unit_out(p, u, r, h), &lse[i], partial + i * d, partial[n * d + i], d);
}

/* The sink is one more partial, without a value; then lse goes out. */
static void unit_end(const struct fast_attn_plan *p, const struct unit *u, float *lse)
{
    const struct attn_args *a = p->a;
    for (int32_t r = 0, i = 0; r < u->span->n_rows; r++)
        for (int32_t h = 0; h < u->n_heads; h++, i++) {
            if (a->sink && a->key_begin <= 0)
                p->f->isa->merge(unit_out(p, u, r, h), &lse[i], nothing, a->sink[u->head0 + h], head_dim(p));
            if (a->out.lse_ln)
                a->out.lse_ln[(int64_t)(u->span->row0 + r) * a->n_heads + u->head0 + h] = lse[i];
        }
}

/* A unit that one thread does from end to end; the last spans see most keys and come first. */
static void whole_unit(void *ctx, int32_t piece, int32_t thread)
{
    struct fast_attn_plan *p = ctx;
    int32_t i = p->n_spans * units_per_span(p) - 1 - piece;
    const struct span *s = &p->spans[i / units_per_span(p)];
    if (s->split)
        return;
    struct unit u = unit_at(p, s, i % units_per_span(p));
    float lse[ATTN_Q], *partial = p->partial + (size_t)thread * PARTIALS_PER_THREAD * PARTIAL_MAX;
    unit_begin(p, &u, lse);
    for (int32_t k = s->piece0; k < s->piece1; k++) {
        unit_attend(p, &u, k, partial, thread);
        unit_merge(p, &u, lse, partial);
    }
    unit_end(p, &u, lse);
}

/* -- split units: pairs (unit, piece) are numbered unit by unit */

static const struct span *split_span(const struct fast_attn_plan *p, int32_t unit)
{
    return &p->spans[p->split[unit / units_per_span(p)]];
}

static int32_t split_units(const struct fast_attn_plan *p)
{
    return p->n_split * units_per_span(p);
}

static int32_t split_pieces(const struct fast_attn_plan *p, int32_t unit)
{
    return split_span(p, unit)->piece1 - split_span(p, unit)->piece0;
}

static float *pair_partial(const struct fast_attn_plan *p, int32_t pair)
{
    return p->partial + (size_t)(pair - p->first_pair) * p->slot;
}

static void split_attend(void *ctx, int32_t piece, int32_t thread)
{
    struct fast_attn_plan *p = ctx;
    int32_t pair = p->first_pair + piece, at = pair, unit = 0;
    for (; at >= split_pieces(p, unit); unit++)
        at -= split_pieces(p, unit);
    const struct span *s = split_span(p, unit);
    struct unit u = unit_at(p, s, unit % units_per_span(p));
    unit_attend(p, &u, s->piece0 + at, pair_partial(p, pair), thread);
}

/* Merge what this wave has of one split unit, in order. */
static void split_merge(void *ctx, int32_t unit, int32_t thread)
{
    struct fast_attn_plan *p = ctx;
    const struct span *s = split_span(p, unit);
    struct unit u = unit_at(p, s, unit % units_per_span(p));
    float *lse = p->lse + (size_t)unit * ATTN_Q;
    int32_t first = 0, wave_end = p->first_pair + p->n_pairs;
    for (int32_t i = 0; i < unit; i++)
        first += split_pieces(p, i);
    int32_t last = first + split_pieces(p, unit);
    if (p->first_pair <= first && first < wave_end)
        unit_begin(p, &u, lse);
    for (int32_t i = max_i32(first, p->first_pair); i < min_i32(last, wave_end); i++)
        unit_merge(p, &u, lse, pair_partial(p, i));
    if (p->first_pair < last && last <= wave_end)
        unit_end(p, &u, lse);
}

static void run_split(struct fast_attn_plan *p)
{
    int32_t pairs = 0, vectors = 0;
    for (int32_t i = 0; i < split_units(p); i++) {
        pairs += split_pieces(p, i);
        vectors = max_i32(vectors, split_span(p, i)->n_rows * p->run_heads);
    }
    p->slot = (size_t)vectors * (size_t)(head_dim(p) + 1);
    int32_t room = (int32_t)((size_t)p->f->threads * PARTIALS_PER_THREAD * PARTIAL_MAX / p->slot);
    for (p->first_pair = 0; p->first_pair < pairs; p->first_pair += p->n_pairs) {
        p->n_pairs = min_i32(room, pairs - p->first_pair);
        fast_pool_run(p->f->pool, split_attend, p, p->n_pairs);
        fast_pool_run(p->f->pool, split_merge, p, split_units(p));
    }
}

/* -- the plan of a call */

static void span_pieces(const struct attn_args *a, struct span *s)
{
    int32_t first = a->step->pos[s->row0], last = a->step->pos[s->row0 + s->n_rows - 1];
    int32_t lo = max_i32(a->key_begin, a->window ? first - a->window + 1 : 0);
    int32_t hi = min_i32(a->key_end, last + 1);
    lo = max_i32(lo, 0);
    s->piece0 = lo / KEY_PIECE;
    s->piece1 = hi > lo ? (hi + KEY_PIECE - 1) / KEY_PIECE : s->piece0;
}

/* Cut the rows of each sequence into spans. Returns the pieces of all units together. */
static int64_t plan_spans(struct fast_attn_plan *p)
{
    const struct step *step = p->a->step;
    int32_t group = p->a->n_heads / (int32_t)p->a->kv->n_kv_heads;
    p->runs = (group + ATTN_Q - 1) / ATTN_Q;
    p->run_heads = (group + p->runs - 1) / p->runs;
    int64_t pieces = 0;
    p->n_spans = 0;
    for (int32_t q = 0; q < step->n_seqs; q++)
        for (int32_t r = step->seq_row[q]; r < step->seq_row[q + 1];) {
            struct span *s = &p->spans[p->n_spans++];
            *s = (struct span){.row0 = r, .n_rows = min_i32(ATTN_Q / p->run_heads, step->seq_row[q + 1] - r)};
            span_pieces(p->a, s);
            pieces += (int64_t)(s->piece1 - s->piece0) * units_per_span(p);
            r += s->n_rows;
        }
    return pieces;
}

/* Mark the spans whose units hold more than half of a thread's share: fewer than 2 * threads units. */
static void plan_split(struct fast_attn_plan *p, int64_t pieces)
{
    p->n_split = 0;
    for (int32_t i = 0; i < p->n_spans; i++) {
        int64_t n = p->spans[i].piece1 - p->spans[i].piece0;
        p->spans[i].split = p->f->threads > 1 && n > 1 && n * 2 * p->f->threads > pieces;
        if (p->spans[i].split)
            p->split[p->n_split++] = i;
    }
}

void fast_attention(struct backend *be, const struct attn_args *a)
{
    struct fast_attn_plan *p = cpu_fast(be)->attn;
    assert(a->step->n_rows <= p->f->max_rows && a->kv->head_dim <= ATTN_D);
    assert(a->n_heads % (int32_t)a->kv->n_kv_heads == 0);
    p->a = a;
    plan_split(p, plan_spans(p));
    int32_t split = split_units(p);
    if (p->n_split < p->n_spans)
        fast_pool_run(p->f->pool, whole_unit, p, p->n_spans * units_per_span(p));
    if (split > 0)
        run_split(p);
}

/* -- merge of backend.h */

struct merge_job {
    struct cpu_fast *f;
    struct attn_partial a, b;
    int32_t n, d;
};

#define MERGE_VECTORS 64 /* a piece */

static void merge_piece(void *ctx, int32_t piece, int32_t thread)
{
    struct merge_job *j = ctx;
    int32_t end = min_i32((piece + 1) * MERGE_VECTORS, j->n);
    for (int32_t i = piece * MERGE_VECTORS; i < end; i++)
        j->f->isa->merge(j->a.o + (int64_t)i * j->d, &j->a.lse_ln[i], j->b.o + (int64_t)i * j->d, j->b.lse_ln[i], j->d);
}

void fast_merge(struct backend *be, struct attn_partial a, struct attn_partial b, int32_t n, int32_t d)
{
    struct merge_job j = {cpu_fast(be), a, b, n, d};
    fast_pool_run(j.f->pool, merge_piece, &j, (n + MERGE_VECTORS - 1) / MERGE_VECTORS);
}

/* -- memory */

static size_t up64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

size_t fast_attn_bytes(int32_t max_rows, int32_t threads)
{
    size_t t = (size_t)threads;
    return up64(sizeof(struct fast_attn_plan)) + up64((size_t)max_rows * sizeof(struct span)) +
           up64(2 * t * sizeof(int32_t)) + up64(2 * t * ATTN_Q * sizeof(float)) +
           t * PARTIALS_PER_THREAD * PARTIAL_MAX * sizeof(float);
}

struct fast_attn_plan *fast_attn_init(void *memory, struct cpu_fast *f)
{
    uint8_t *at = memory;
    struct fast_attn_plan *p = memory;
    size_t t = (size_t)f->threads;
    p->f = f;
    at += up64(sizeof *p);
    p->spans = (struct span *)(void *)at;
    at += up64((size_t)f->max_rows * sizeof *p->spans);
    p->split = (int32_t *)(void *)at;
    at += up64(2 * t * sizeof *p->split);
    p->lse = (float *)(void *)at;
    at += up64(2 * t * ATTN_Q * sizeof *p->lse);
    p->partial = (float *)(void *)at;
    return p;
}
