/* ops_run - see the header. */
#include "tests/support/ops_run.h"
#include "tests/support/unit.h"

#include "engine/base/f16.h"

#include <errno.h>
#include <string.h>

#define GUARD 64 /* bytes after each buffer that must stay as they were */

static const uint8_t intact[GUARD] = {0x5a, 0xa5, 0x5a, 0xa5};

int ops_open(struct ops_dev *d, const struct ops_variant *v, struct err *e)
{
    *d = (struct ops_dev){0};
    struct backend_opts o = {.threads = v->threads,
                             .isa = v->isa,
                             .max_rows = OPS_MAX_ROWS,
                             .max_cols = OPS_MAX_COLS,
                             .max_vocab = OPS_MAX_VOCAB,
                             .wide_bytes = v->wide_bytes,
                             .deterministic = v->deterministic};
    ck_assert_uint_eq(v->ops->abi, BACKEND_ABI);
    int rc = v->ops->open(&d->be, &o, e);
    if (rc == -ENOTSUP)
        return rc;
    ck_assert_msg(rc == 0, "%s: %s", v->ops->name, e->text);
    d->ops = v->ops;
    snprintf(d->name, sizeof d->name, "%s %s x%d", v->ops->name, v->isa ? v->isa : "auto", v->threads);
    ck_assert_ptr_eq(backend_ops(d->be), v->ops);
    ck_assert_str_ne(d->ops->describe(d->be), "");
    return 0;
}

void ops_close(struct ops_dev *d)
{
    d->ops->close(d->be);
    d->be = NULL;
}

void ops_load(const struct ops_dev *d, struct weight *w, const struct ops_matrix *m)
{
    if (d->bf16) {
        struct ops_dev plain = *d;
        struct ops_matrix rounded;
        plain.bf16 = false;
        ops_matrix_to_bf16(&rounded, m);
        ops_load(&plain, w, &rounded);
        ops_matrix_free(&rounded);
        return;
    }
    struct err e = {0};
    int rc = d->ops->weight_load(d->be, w, m->part, m->n_parts, &e);
    ck_assert_msg(rc == 0, "%s: %s", d->name, e.text);
    ck_assert_int_eq(w->rows, m->rows);
    ck_assert_int_eq(w->cols, m->cols);
    ck_assert_int_eq(w->n_parts, m->n_parts);
    for (int32_t i = 0; i < m->n_parts; i++)
        ck_assert_uint_eq(w->part[i].bytes, d->ops->weight_bytes(m->part[i].dtype, m->part[i].rows, m->cols));
}

/* -- buffers ----------------------------------------------------------------------------------------------------- */

struct buf {
    void *dev;
    size_t bytes;
};

static void send(const struct ops_dev *d, void *dev, const void *host, size_t bytes)
{
    d->ops->upload(d->be, dev, host, bytes);
}

/* A buffer holding `host`, or poison when host is NULL; a guard behind it. */
static struct buf make_buf(const struct ops_dev *d, const void *host, size_t bytes)
{
    struct buf b = {d->ops->alloc(d->be, bytes + GUARD), bytes};
    ck_assert_ptr_nonnull(b.dev);
    send(d, (uint8_t *)b.dev + bytes, intact, GUARD);
    void *poison = host ? NULL : ops_poison(bytes);
    send(d, b.dev, host ? host : poison, bytes);
    free(poison);
    return b;
}

/* Bring the bytes back to `host` and release. */
static void take_buf(const struct ops_dev *d, struct buf b, void *host)
{
    uint8_t guard[GUARD];
    d->ops->download(d->be, host, b.dev, b.bytes);
    d->ops->download(d->be, guard, (uint8_t *)b.dev + b.bytes, GUARD);
    d->ops->sync(d->be);
    ck_assert_msg(memcmp(guard, intact, GUARD) == 0, "%s wrote beyond its buffer", d->name);
    d->ops->release(d->be, b.dev, b.bytes + GUARD);
}

/* Release an input, which must be as it was. */
static void drop_buf(const struct ops_dev *d, struct buf b, const void *host)
{
    uint8_t *now = malloc(b.bytes + 1);
    take_buf(d, b, now);
    ck_assert_msg(memcmp(now, host, b.bytes) == 0, "%s changed an input", d->name);
    free(now);
}

static struct buf floats_in(const struct ops_dev *d, const float *host, size_t n)
{
    return make_buf(d, host, n * sizeof *host);
}

static struct buf floats_out(const struct ops_dev *d, size_t n)
{
    return make_buf(d, NULL, n * sizeof(float));
}

/* n input rows: of the host's floats, or poison when x is NULL. *host is what was sent. */
static struct buf input_rows(const struct ops_dev *d, const float *x, int32_t n, int32_t cols, void **host)
{
    uint64_t row = ops_input_bytes(d->ops, cols);
    uint8_t *to = x ? calloc((size_t)n * row + 1, 1) : ops_poison((size_t)n * row);
    for (int32_t t = 0; x && t < n; t++)
        for (int32_t k = 0; k < cols; k++) {
            float v = x[(size_t)t * cols + k];
            if (d->ops->input_dtype == DT_BF16)
                ((uint16_t *)(void *)(to + (size_t)t * row))[k] = bf16_from_f32(v);
            else
                ((float *)(void *)(to + (size_t)t * row))[k] = d->bf16 ? bf16_to_f32(bf16_from_f32(v)) : v;
        }
    struct buf b = make_buf(d, to, (size_t)n * row);
    *host = to;
    return b;
}

/* Bring input rows back as floats; what fills a row up must be zero. */
static void take_rows(const struct ops_dev *d, struct buf b, int32_t n, int32_t cols, float *out)
{
    uint64_t row = ops_input_bytes(d->ops, cols);
    uint8_t *host = malloc(b.bytes + 1);
    take_buf(d, b, host);
    for (int32_t t = 0; t < n; t++) {
        const uint8_t *at = host + (size_t)t * row;
        if (d->ops->input_dtype == DT_F32) {
            memcpy(out + (size_t)t * cols, at, (size_t)cols * sizeof *out);
            continue;
        }
        for (uint64_t k = 0; k < row / 2; k++) {
            float v = bf16_to_f32(((const uint16_t *)(const void *)at)[k]);
            if (k < (uint64_t)cols)
                out[(size_t)t * cols + k] = v;
            else
                ck_assert_msg(v == 0, "%s left %g behind column %d", d->name, (double)v, cols);
        }
    }
    free(host);
}

/* -- ops --------------------------------------------------------------------------------------------------------- */

void ops_embed(const struct ops_dev *d, float *out, const struct weight *w, const int32_t *ids, int32_t n)
{
    struct buf o = floats_out(d, (size_t)n * w->cols);
    struct step st = {.number = ops_next_step(), .n_rows = n, .ids = ids};
    d->ops->embed(d->be, o.dev, w, &st);
    take_buf(d, o, out);
}

void ops_add_norm(const struct ops_dev *d, float *out, float *x, const float *add, const float *w, float eps, int32_t n,
                  int32_t width)
{
    size_t all = (size_t)n * width;
    struct buf bx = floats_in(d, x, all), bw = floats_in(d, w, (size_t)width);
    struct buf ba = add ? floats_in(d, add, all) : (struct buf){0}, bo = {0};
    void *poison = NULL;
    if (out)
        bo = input_rows(d, NULL, n, width, &poison);
    d->ops->add_norm(d->be, bo.dev, bx.dev, ba.dev, bw.dev, eps, n, width);
    take_buf(d, bx, x);
    drop_buf(d, bw, w);
    if (add)
        drop_buf(d, ba, add);
    if (out)
        take_rows(d, bo, n, width, out);
    free(poison);
}

void ops_linear(const struct ops_dev *d, float *out, const float *x, const struct weight *w, int32_t n)
{
    void *in;
    struct buf bx = input_rows(d, x, n, w->cols, &in), bo = floats_out(d, (size_t)n * w->rows);
    d->ops->linear(d->be, bo.dev, bx.dev, w, n);
    drop_buf(d, bx, in);
    take_buf(d, bo, out);
    free(in);
}

void ops_linear_silu(const struct ops_dev *d, float *out, const float *x, const struct weight *w, int32_t n)
{
    void *in, *poison;
    int32_t f = w->rows / 2;
    struct buf bx = input_rows(d, x, n, w->cols, &in), bo = input_rows(d, NULL, n, f, &poison);
    struct buf bg = floats_out(d, (size_t)n * w->rows);
    float *gu = ops_poison((size_t)n * w->rows * sizeof *gu);
    d->ops->linear_silu(d->be, bo.dev, bg.dev, bx.dev, w, n);
    drop_buf(d, bx, in);
    take_buf(d, bg, gu);
    take_rows(d, bo, n, f, out);
    free(gu), free(poison), free(in);
}

void ops_rope_kv(const struct ops_dev *d, const struct rope_args *a, size_t pool_bytes)
{
    size_t n = (size_t)a->step->n_rows * (size_t)(a->n_heads + 2 * (int32_t)a->kv->n_kv_heads) * a->kv->head_dim;
    struct buf bq = floats_in(d, a->qkv, n), bp = make_buf(d, a->kv->base, pool_bytes);
    struct kv_view kv = *a->kv;
    struct rope_args on_dev = *a;
    struct buf bk = kv.scale ? floats_in(d, kv.scale, 2 * (size_t)kv.n_kv_heads) : (struct buf){0};
    kv.base = bp.dev;
    kv.scale = bk.dev;
    on_dev.kv = &kv;
    on_dev.qkv = bq.dev;
    d->ops->rope_kv(d->be, &on_dev);
    take_buf(d, bq, a->qkv);
    take_buf(d, bp, a->kv->base);
    if (bk.dev)
        drop_buf(d, bk, a->kv->scale);
}

void ops_attention(const struct ops_dev *d, const struct attn_args *a, size_t pool_bytes)
{
    size_t heads = (size_t)a->step->n_rows * a->n_heads, n_q = (size_t)a->step->n_rows * a->q_stride;
    struct buf bq = floats_in(d, a->q, n_q), bp = make_buf(d, a->kv->base, pool_bytes);
    struct buf bs = a->sink ? floats_in(d, a->sink, (size_t)a->n_heads) : (struct buf){0};
    int32_t wide = a->n_heads * (int32_t)a->kv->head_dim;
    void *poison = NULL;
    struct buf bo = a->out_input ? input_rows(d, NULL, a->step->n_rows, wide, &poison)
                                 : floats_out(d, heads * a->kv->head_dim);
    struct buf bl = a->out.lse_ln ? floats_out(d, heads) : (struct buf){0};
    struct kv_view kv = *a->kv;
    struct attn_args on_dev = *a;
    struct buf bk = kv.scale ? floats_in(d, kv.scale, 2 * (size_t)kv.n_kv_heads) : (struct buf){0};
    kv.base = bp.dev;
    kv.scale = bk.dev;
    on_dev.kv = &kv;
    on_dev.q = bq.dev;
    on_dev.sink = bs.dev;
    on_dev.out = (struct attn_partial){a->out_input ? NULL : bo.dev, bl.dev};
    on_dev.out_input = a->out_input ? bo.dev : NULL;
    d->ops->attention(d->be, &on_dev);
    drop_buf(d, bq, a->q);
    drop_buf(d, bp, a->kv->base);
    if (bk.dev)
        drop_buf(d, bk, a->kv->scale);
    if (a->sink)
        drop_buf(d, bs, a->sink);
    if (a->out_input)
        take_rows(d, bo, a->step->n_rows, wide, a->out_input);
    else
        take_buf(d, bo, a->out.o);
    free(poison);
    if (a->out.lse_ln)
        take_buf(d, bl, a->out.lse_ln);
}

void ops_merge(const struct ops_dev *d, struct attn_partial a, struct attn_partial b, int32_t n, int32_t dim)
{
    size_t all = (size_t)n * dim;
    struct buf ao = floats_in(d, a.o, all), al = floats_in(d, a.lse_ln, (size_t)n);
    struct buf bo = floats_in(d, b.o, all), bl = floats_in(d, b.lse_ln, (size_t)n);
    d->ops->merge(d->be, (struct attn_partial){ao.dev, al.dev}, (struct attn_partial){bo.dev, bl.dev}, n, dim);
    take_buf(d, ao, a.o);
    take_buf(d, al, a.lse_ln);
    drop_buf(d, bo, b.o);
    drop_buf(d, bl, b.lse_ln);
}

void ops_silu_mul(const struct ops_dev *d, float *out, const float *gu, int32_t n, int32_t f)
{
    void *poison;
    struct buf bg = floats_in(d, gu, 2 * (size_t)n * f), bo = input_rows(d, NULL, n, f, &poison);
    d->ops->silu_mul(d->be, bo.dev, bg.dev, n, f);
    drop_buf(d, bg, gu);
    take_rows(d, bo, n, f, out);
    free(poison);
}

void ops_gather(const struct ops_dev *d, float *out, const float *x, int32_t x_rows, const int32_t *rows, int32_t n,
                int32_t width)
{
    struct buf bx = floats_in(d, x, (size_t)x_rows * width), bo = floats_out(d, (size_t)n * width);
    struct step st = {.number = ops_next_step(), .n_out = n, .out_row = rows};
    d->ops->gather(d->be, bo.dev, bx.dev, &st, (uint64_t)width * sizeof *out);
    drop_buf(d, bx, x);
    take_buf(d, bo, out);
}

void ops_sample(const struct ops_dev *d, const float *logits, int32_t vocab, const struct sample_row *rows,
                struct sample_out *out, int32_t n)
{
    struct buf bl = floats_in(d, logits, (size_t)n * vocab);
    memset(out, 0xff, (size_t)n * sizeof *out);
    d->ops->sample(d->be, bl.dev, vocab, rows, out, n);
    d->ops->sync(d->be);
    drop_buf(d, bl, logits);
}
