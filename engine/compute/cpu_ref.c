/* cpu_ref - the truth: every op in plain scalar C. Slow on purpose, obvious on purpose.
 *
 * Numbers. Activations are stored as float32, as on every CPU backend. Inside an op, each output element is computed
 * in double from the stored floats and rounded to float32 once, at the end. A product of two floats is exact in double
 * and a sum of K of them is off by at most K * 2^-53, so what is stored is the correctly rounded value of the formula
 * in all but a few cases in a million. The error of another backend against cpu_ref is then that backend's own, and its
 * tolerance needs no share for the truth. Weights stay as the loader found them and are dequantised row by row.
 *
 * Order. Each sum runs over its index upwards in one order that depends on its length only: dot products in four
 * interleaved lanes (lane i takes k = i mod 4), everything else one by one. A row never looks at another row, so row
 * invariance needs no care.
 *
 * (libm's exp, log, sin and cos may differ between machines in the last place of a double: 2^-29 of a float's.)
 *
 * One thread, no SIMD: `threads` is ignored; the only isa is "scalar".
 */
#include "engine/compute/backend.h"

#include "engine/compute/host_mem.h"
#include "engine/compute/quant.h"
#include "engine/kv/fmt_kv16.h"
#include "engine/kv/fmt_kv32.h"
#include "engine/kv/fmt_kv8.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct cpu_ref {
    struct backend_head head;
    int32_t max_cols, max_vocab, max_draws;
    float *row;     /* [max_cols] one dequantised row of a weight */
    float *scratch; /* [2 * max_vocab] for the sampler */
    int32_t *drawn; /* [max_draws] what it chose last */
};

static struct cpu_ref *ref_of(struct backend *be)
{
    return (struct cpu_ref *)(void *)be;
}

/* -- open, memory ------------------------------------------------------------------------------------------------ */

static void *ref_alloc(struct backend *be, size_t bytes)
{
    return host_alloc(bytes);
}

static void ref_release(struct backend *be, void *p, size_t bytes)
{
    host_release(p, bytes);
}

static void ref_close(struct backend *be)
{
    if (!be)
        return;
    struct cpu_ref *r = ref_of(be);
    free(r->drawn);
    free(r->scratch);
    free(r->row);
    free(r);
}

static int ref_open(struct backend **out, const struct backend_opts *o, struct err *e)
{
    assert(o->max_cols > 0 && o->max_vocab >= 0);
    if (o->isa && strcmp(o->isa, "auto") && strcmp(o->isa, "scalar"))
        return err_set(e, ENOTSUP, "cpu.isa \"%s\": cpu_ref has \"scalar\" only (or \"auto\")", o->isa);
    struct cpu_ref *r = calloc(1, sizeof *r);
    if (!r)
        goto fail;
    *r = (struct cpu_ref){.head = {&backend_cpu_ref}, .max_cols = o->max_cols, .max_vocab = o->max_vocab};
    r->max_draws = o->max_seqs ? o->max_seqs : o->max_rows;
    r->row = malloc((size_t)o->max_cols * sizeof *r->row);
    r->scratch = malloc(2 * ((size_t)o->max_vocab + 1) * sizeof *r->scratch);
    r->drawn = calloc((size_t)r->max_draws, sizeof *r->drawn);
    if (!r->row || !r->scratch || !r->drawn)
        goto fail;
    *out = (struct backend *)(void *)r;
    return 0;
fail:
    if (r)
        ref_close((struct backend *)(void *)r);
    return err_set(e, ENOMEM, "cpu_ref: no memory for rows of %d columns and %d logits", o->max_cols, o->max_vocab);
}

static const char *ref_describe(const struct backend *be)
{
    return "scalar, 1 thread";
}

static void ref_copy(struct backend *be, void *to, const void *from, size_t bytes)
{
    if (bytes)
        memcpy(to, from, bytes);
}

static void ref_sync(struct backend *be)
{
}

/* -- weights ----------------------------------------------------------------------------------------------------- */

static uint64_t ref_weight_bytes(uint32_t dtype, int32_t rows, int32_t cols)
{
    return (uint64_t)rows * quant_row_bytes(dtype, cols);
}

static void ref_weight_free(struct backend *be, struct weight *w)
{
    for (int i = 0; i < w->n_parts; i++)
        ref_release(be, w->part[i].data, w->part[i].bytes);
    memset(w, 0, sizeof *w);
}

/* Copy one part's rows, closing the gaps that row_bytes may leave. */
static int load_part(struct backend *be, struct weight_seg *seg, const struct weight_part *p, struct err *e)
{
    uint64_t row = quant_row_bytes(p->dtype, p->cols);
    if (!row)
        return err_set(e, ENOTSUP,
                       "weight type %u with %d columns: cpu_ref takes F32 F16 BF16, and Q8_0 Q4_0 Q4_1 "
                       "with a multiple of %d columns",
                       p->dtype, p->cols, QUANT_BLOCK);
    assert(p->rows > 0 && p->row_bytes >= row);
    *seg = (struct weight_seg){.bytes = (uint64_t)p->rows * row, .dtype = p->dtype, .rows = p->rows};
    seg->data = ref_alloc(be, seg->bytes);
    if (!seg->data)
        return err_set(e, ENOMEM, "no memory for a weight of %llu bytes", (unsigned long long)seg->bytes);
    for (int32_t r = 0; r < p->rows; r++)
        memcpy((uint8_t *)seg->data + (uint64_t)r * row, (const uint8_t *)p->data + (uint64_t)r * p->row_bytes, row);
    return 0;
}

static int ref_weight_load(struct backend *be, struct weight *out, const struct weight_part *parts, int n_parts,
                           struct err *e)
{
    assert(n_parts >= 1 && n_parts <= WEIGHT_PARTS_MAX);
    struct weight w = {.cols = parts[0].cols};
    int rc = 0;
    for (int i = 0; i < n_parts && !rc; i++) {
        assert(parts[i].cols == w.cols);
        rc = load_part(be, &w.part[i], &parts[i], e);
        if (!rc) {
            w.n_parts++;
            w.rows += parts[i].rows;
        }
    }
    if (rc)
        ref_weight_free(be, &w);
    else
        *out = w;
    return rc;
}

/* out[cols] = row r of the stacked parts. */
static void weight_row(const struct weight *w, int32_t r, float *out)
{
    assert(r >= 0 && r < w->rows);
    const struct weight_seg *seg = w->part;
    for (; r >= seg->rows; seg++)
        r -= seg->rows;
    uint64_t bytes = quant_row_bytes(seg->dtype, w->cols);
    quant_get_row(out, seg->dtype, (const uint8_t *)seg->data + (uint64_t)r * bytes, w->cols);
}

/* -- ops on rows ------------------------------------------------------------------------------------------------- */

/* sum of a[i] * b[i]; order: four lanes, lane l takes i = l mod 4, then (0 + 2) + (1 + 3). */
static double dot(const float *a, const float *b, int32_t n)
{
    double s[4] = {0};
    int32_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int l = 0; l < 4; l++)
            s[l] += (double)a[i + l] * b[i + l];
    for (; i < n; i++)
        s[i % 4] += (double)a[i] * b[i];
    return (s[0] + s[2]) + (s[1] + s[3]);
}

static void ref_embed(struct backend *be, float *out, const struct weight *table, const struct step *step)
{
    for (int32_t t = 0; t < step->n_rows; t++)
        weight_row(table, step_id(step, t, ref_of(be)->drawn), out + (size_t)t * table->cols);
}

static void ref_add_norm(struct backend *be, void *out_rows, float *x, const float *add, const float *w, float eps,
                         int32_t n_rows, int32_t width)
{
    float *out = out_rows;
    for (int32_t t = 0; t < n_rows; t++) {
        float *xt = x + (size_t)t * width;
        if (add)
            for (int32_t i = 0; i < width; i++)
                xt[i] += add[(size_t)t * width + i];
        if (!out)
            continue;
        double scale = 1.0 / sqrt(dot(xt, xt, width) / width + eps);
        for (int32_t i = 0; i < width; i++)
            out[(size_t)t * width + i] = (float)(xt[i] * scale * w[i]);
    }
}

static void ref_linear(struct backend *be, float *out, const void *rows, const struct weight *w, int32_t n_rows)
{
    struct cpu_ref *r = ref_of(be);
    const float *x = rows;
    assert(w->cols <= r->max_cols);
    for (int32_t n = 0; n < w->rows; n++) {
        weight_row(w, n, r->row);
        for (int32_t t = 0; t < n_rows; t++)
            out[(size_t)t * w->rows + n] = (float)dot(x + (size_t)t * w->cols, r->row, w->cols);
    }
}

static void ref_silu_mul(struct backend *be, void *out_rows, const float *gu, int32_t n_rows, int32_t f)
{
    float *out = out_rows;
    for (int32_t t = 0; t < n_rows; t++, out += f, gu += 2 * (size_t)f)
        for (int32_t i = 0; i < f; i++)
            out[i] = (float)(gu[i] / (1.0 + exp(-(double)gu[i])) * gu[f + i]);
}

static void ref_gather(struct backend *be, void *out, const void *x, const struct step *step, uint64_t row_bytes)
{
    for (int32_t r = 0; r < step->n_out; r++)
        memcpy((char *)out + (uint64_t)r * row_bytes, (const char *)x + (uint64_t)step->out_row[r] * row_bytes,
               row_bytes);
}

static void ref_sample(struct backend *be, const float *logits, int32_t vocab, const struct sample_row *rows,
                       struct sample_out *out, int32_t n)
{
    struct cpu_ref *r = ref_of(be);
    assert(vocab <= r->max_vocab && n <= r->max_draws);
    for (int32_t i = 0; i < n; i++)
        sample_row_cpu_after(logits + (size_t)i * vocab, vocab, &rows[i],
                             rows[i].after ? r->drawn[rows[i].after - 1] : -1, &out[i], r->scratch);
    for (int32_t i = 0; i < n; i++)
        r->drawn[i] = out[i].id;
}

/* -- rope and the KV rows ---------------------------------------------------------------------------------------- */

static void kv_put(const struct kv_view *kv, void *row, const float *x, int32_t g, int v)
{
    if (kv->format == KV_FORMAT_KV32)
        kv32_put(row, x, kv->head_dim);
    else if (kv->format == KV_FORMAT_KV16)
        kv16_put(row, x, kv->head_dim);
    else
        kv8_put(row, x, kv->head_dim, kv_scale(kv, (uint32_t)g, v));
}

static void kv_get(const struct kv_view *kv, float *out, const void *row, int32_t g, int v)
{
    if (kv->format == KV_FORMAT_KV32)
        kv32_get(out, row, kv->head_dim);
    else if (kv->format == KV_FORMAT_KV16)
        kv16_get(out, row, kv->head_dim);
    else
        kv8_get(out, row, kv->head_dim, kv_scale(kv, (uint32_t)g, v));
}

/* The K (v = 0) or V (v = 1) row of position `pos` of sequence s, kv head g. */
static void *kv_at(const struct kv_view *kv, const struct step *st, int32_t s, int32_t pos, int32_t g, int v)
{
    int32_t slot = pos / (int32_t)kv->block_tokens;
    assert(slot < st->table_at[s + 1] - st->table_at[s]);
    return kv_row(kv, st->table[st->table_at[s] + slot], (uint32_t)g, v, (uint32_t)pos % kv->block_tokens);
}

static void check_kv(const struct kv_view *kv)
{
    assert(kv->format == KV_FORMAT_KV32 || kv->format == KV_FORMAT_KV16 || kv->format == KV_FORMAT_KV8);
    assert(kv->head_dim % 2 == 0 && kv->head_dim <= BACKEND_HEAD_DIM_MAX);
}

/* The angle is taken in double: at position 100,000 a float angle would be off by 0.004. */
static void rotate(float *x, int32_t pos, const float *inv_freq, float factor, int32_t half)
{
    for (int32_t i = 0; i < half; i++) {
        double angle = (double)pos * inv_freq[i], c = cos(angle) * factor, s = sin(angle) * factor;
        double a = x[i], b = x[i + half];
        x[i] = (float)(a * c - b * s);
        x[i + half] = (float)(b * c + a * s);
    }
}

static void ref_rope_kv(struct backend *be, const struct rope_args *a)
{
    const struct kv_view *kv = a->kv;
    const struct step *st = a->step;
    int32_t d = (int32_t)kv->head_dim, h_n = a->n_heads, g_n = (int32_t)kv->n_kv_heads;
    check_kv(kv);
    for (int32_t t = 0; t < st->n_rows; t++) {
        float *q = a->qkv + (size_t)t * (size_t)(h_n + 2 * g_n) * (size_t)d;
        for (int32_t h = 0; h < h_n + g_n; h++) /* q heads, then k heads */
            rotate(q + (size_t)h * d, st->pos[t], a->inv_freq, a->attn_factor, d / 2);
        const float *k = q + (size_t)h_n * d, *v = k + (size_t)g_n * d;
        for (int32_t g = 0; g < g_n; g++) {
            kv_put(kv, kv_at(kv, st, st->row_seq[t], st->pos[t], g, 0), k + (size_t)g * d, g, 0);
            kv_put(kv, kv_at(kv, st, st->row_seq[t], st->pos[t], g, 1), v + (size_t)g * d, g, 1);
        }
    }
}

/* -- attention --------------------------------------------------------------------------------------------------- */

/* A softmax-weighted sum that grows key by key (Milakov & Gimelshein 2018, algorithm 3): o and sum are relative to
 * e^max. In double the rescaling costs no accuracy that float32 could show. */
struct softmax {
    double max, sum;
    double o[BACKEND_HEAD_DIM_MAX];
};

/* One more logit; v is NULL for a sink, which has weight and no value. */
static void softmax_add(struct softmax *s, double logit, const float *v, int32_t d)
{
    if (logit == -INFINITY)
        return;
    if (logit > s->max) {
        double shrink = exp(s->max - logit);
        s->sum *= shrink;
        for (int32_t i = 0; i < d; i++)
            s->o[i] *= shrink;
        s->max = logit;
    }
    double p = exp(logit - s->max);
    s->sum += p;
    for (int32_t i = 0; v && i < d; i++)
        s->o[i] += p * v[i];
}

/* Row t, head h: keys begin .. end-1 of its sequence, upwards. */
static void attend(const struct attn_args *a, int32_t t, int32_t h, int32_t begin, int32_t end)
{
    const struct kv_view *kv = a->kv;
    int32_t d = (int32_t)kv->head_dim, g = h / (a->n_heads / (int32_t)kv->n_kv_heads), seq = a->step->row_seq[t];
    const float *q = a->q + t * a->q_stride + (size_t)h * d;
    float row[BACKEND_HEAD_DIM_MAX];
    struct softmax s = {.max = -INFINITY};
    if (a->sink && a->key_begin == 0)
        softmax_add(&s, a->sink[h], NULL, d);
    for (int32_t j = begin; j < end; j++) {
        kv_get(kv, row, kv_at(kv, a->step, seq, j, g, 0), g, 0);
        double logit = dot(q, row, d) * a->scale;
        kv_get(kv, row, kv_at(kv, a->step, seq, j, g, 1), g, 1);
        softmax_add(&s, logit, row, d);
    }
    size_t at = (size_t)t * a->n_heads + h;
    float *o = a->out_input ? a->out_input : a->out.o;
    for (int32_t i = 0; i < d; i++)
        o[at * d + i] = s.sum == 0 ? 0.0f : (float)(s.o[i] / s.sum);
    if (a->out.lse_ln)
        a->out.lse_ln[at] = s.sum == 0 ? -INFINITY : (float)(s.max + log(s.sum));
}

static void ref_attention(struct backend *be, const struct attn_args *a)
{
    check_kv(a->kv);
    assert(a->n_heads % (int32_t)a->kv->n_kv_heads == 0 && a->key_begin >= 0 && a->window >= 0);
    for (int32_t t = 0; t < a->step->n_rows; t++) {
        int32_t pos = a->step->pos[t], begin = a->key_begin, end = a->key_end <= pos ? a->key_end : pos + 1;
        if (a->window && begin < pos - a->window + 1)
            begin = pos - a->window + 1;
        for (int32_t h = 0; h < a->n_heads; h++)
            attend(a, t, h, begin, end);
    }
}

/* A side that saw no key is not read: merging it in changes no bit of the other. */
static void ref_merge(struct backend *be, struct attn_partial a, struct attn_partial b, int32_t n, int32_t d)
{
    for (int32_t i = 0; i < n; i++) {
        float *ao = a.o + (size_t)i * d;
        const float *bo = b.o + (size_t)i * d;
        double la = a.lse_ln[i], lb = b.lse_ln[i];
        if (lb == -INFINITY)
            continue;
        if (la == -INFINITY) {
            memcpy(ao, bo, (size_t)d * sizeof *ao);
            a.lse_ln[i] = b.lse_ln[i];
            continue;
        }
        double max = la > lb ? la : lb, wa = exp(la - max), wb = exp(lb - max), sum = wa + wb;
        for (int32_t k = 0; k < d; k++)
            ao[k] = (float)((wa * ao[k] + wb * bo[k]) / sum);
        a.lse_ln[i] = (float)(max + log(sum));
    }
}

const struct backend_ops backend_cpu_ref = {
    .abi = BACKEND_ABI,
    .name = "cpu_ref",
    .input_dtype = DT_F32,
    .depth = 1,
    .open = ref_open,
    .close = ref_close,
    .describe = ref_describe,
    .alloc = ref_alloc,
    .release = ref_release,
    .upload = ref_copy,
    .download = ref_copy,
    .copy = ref_copy,
    .weight_load = ref_weight_load,
    .weight_free = ref_weight_free,
    .weight_bytes = ref_weight_bytes,
    .embed = ref_embed,
    .add_norm = ref_add_norm,
    .linear = ref_linear,
    .rope_kv = ref_rope_kv,
    .attention = ref_attention,
    .merge = ref_merge,
    .silu_mul = ref_silu_mul,
    .gather = ref_gather,
    .sample = ref_sample,
    .sync = ref_sync,
};
