/* arch_llama - the Llama family: Llama 2 and 3, SmolLM2, Mistral and what else calls itself "llama" (GQA, RMSNorm,
 * SwiGLU, no biases; Touvron et al. 2023).
 *
 * Rows stay independent of one another but for attention, so the pass is row-invariant where the backend's ops are. The
 * residual sum is kept one step behind: each add_norm adds the branch computed before it. In the last layer only rows
 * that want logits matter once K and V are written: those are gathered there, and the rest of the layer, the last norm
 * and the head run on R rows instead of T.
 */
#include "engine/model/arch.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const struct arch_ops arch_llama;

enum matrix { QKV, O, GATE_UP, DOWN, N_MATRICES };
enum dim { DIM_E, DIM_Q, DIM_KV, DIM_F };

/* The matrices of a layer: parts stacked along rows, tensor "blk.N.NAME.weight" [rows][cols]. */
static const struct matrix_info {
    int n_parts;
    struct {
        const char *name;
        enum dim rows, cols;
    } part[WEIGHT_PARTS_MAX];
} matrices[N_MATRICES] = {
    [QKV] = {3, {{"attn_q", DIM_Q, DIM_E}, {"attn_k", DIM_KV, DIM_E}, {"attn_v", DIM_KV, DIM_E}}},
    [O] = {1, {{"attn_output", DIM_E, DIM_Q}}},
    [GATE_UP] = {2, {{"ffn_gate", DIM_F, DIM_E}, {"ffn_up", DIM_F, DIM_E}}},
    [DOWN] = {1, {{"ffn_down", DIM_E, DIM_F}}},
};

enum norm { ATTN_NORM, FFN_NORM, N_NORMS };
static const char *const norms[N_NORMS] = {"attn_norm", "ffn_norm"};

/* Activations, one block: buffer [rows][cols] each, floats or input rows. */
enum buffer {
    BUF_X,       /* [T][E] residual stream */
    BUF_H,       /* [T][E] normed; input rows */
    BUF_QKV,     /* [T][(H + 2G) D] */
    BUF_ATT,     /* [T][H D] input rows */
    BUF_GU,      /* [T][2F] */
    BUF_ACT,     /* [T][F] input rows */
    BUF_Y,       /* [T][E] branch that the next add_norm adds to x */
    BUF_OUT_X,   /* [R][E] rows of x that want logits */
    BUF_OUT_ATT, /* [R][H D] input rows */
    BUF_LOGITS,  /* [R][V] */
    N_BUFFERS
};

struct layer {
    struct weight w[N_MATRICES];
    float *norm[N_NORMS]; /* [E] */
};

struct model {
    struct model_head head;
    struct backend *be;
    const struct backend_ops *op;
    int32_t max_rows, max_out;
    struct weight embed, out_head; /* out_head is unused when tied */
    float *out_norm;               /* [E] */
    struct layer *layer;
    void *block;
    uint64_t block_bytes;
    void *buf[N_BUFFERS];
    float inv_freq[MODEL_HEAD_DIM_MAX / 2];
};

typedef int progress_fn(void *ctx, uint64_t done, uint64_t total);

/* State of a load under way. */
struct loading {
    struct model *m;
    struct loader *l;
    progress_fn *progress;
    void *ctx;
    uint64_t done, total;
    struct err *e;
};

static int32_t dim(const struct model_shape *s, enum dim d)
{
    const int32_t dims[] = {[DIM_E] = s->n_embd,
                            [DIM_Q] = s->n_heads * s->head_dim,
                            [DIM_KV] = s->n_kv_heads * s->head_dim,
                            [DIM_F] = s->n_ff};
    return dims[d];
}

/* Fill at[] with the offset of each buffer; returns the bytes of the block. */
static uint64_t lay_out(const struct model_shape *s, const struct backend_ops *op, int32_t max_rows, int32_t max_out,
                        uint64_t at[N_BUFFERS])
{
    const int32_t t = max_rows, r = max_out, e = s->n_embd, q = dim(s, DIM_Q), kv = dim(s, DIM_KV), f = s->n_ff;
    const struct {
        int32_t rows, cols;
        bool input;
    } size[N_BUFFERS] = {
        [BUF_X] = {t, e, false},
        [BUF_H] = {t, e, true},
        [BUF_QKV] = {t, q + 2 * kv, false},
        [BUF_ATT] = {t, q, true},
        [BUF_GU] = {t, 2 * f, false},
        [BUF_ACT] = {t, f, true},
        [BUF_Y] = {t, e, false},
        [BUF_OUT_X] = {r, e, false},
        [BUF_OUT_ATT] = {r, q, true},
        [BUF_LOGITS] = {r, s->vocab, false},
    };
    uint64_t bytes = 0;
    for (int i = 0; i < N_BUFFERS; i++) {
        uint64_t row = size[i].input ? ops_input_bytes(op, size[i].cols) : (uint64_t)size[i].cols * sizeof(float);
        at[i] = bytes;
        bytes += ((uint64_t)size[i].rows * row + 63) & ~(uint64_t)63;
    }
    return bytes;
}

/* -- what the file must hold */

static void layer_name(char out[64], int32_t layer, const char *name)
{
    snprintf(out, 64, "blk.%d.%s.weight", layer, name);
}

struct survey { /* sums over all tensors of the model */
    struct loader *l;
    const struct backend_ops *be;
    uint64_t file_bytes, backend_bytes;
    struct err *e;
};

enum use { VECTOR, MATRIX, LAYER_MATRIX };

static int see_tensor(struct survey *v, const char *name, int32_t rows, int32_t cols, enum use use)
{
    struct weight_part p;
    int rc = loader_ops(v->l)->find(v->l, name, &p, v->e);
    if (rc)
        return rc;
    if (p.rows != rows || p.cols != cols)
        return err_set(v->e, EINVAL, "tensor %s is %d x %d: must be %d x %d by the metadata", name, p.rows, p.cols,
                       rows, cols);
    v->file_bytes += (uint64_t)rows * p.row_bytes;
    uint32_t kept = use == LAYER_MATRIX && loader_keep(v->l) ? loader_keep(v->l) : p.dtype;
    v->backend_bytes += use == VECTOR ? (uint64_t)cols * sizeof(float) : v->be->weight_bytes(kept, rows, cols);
    return 0;
}

static int see_layer(struct survey *v, const struct model_shape *s, int32_t layer)
{
    char name[64];
    int rc = 0;
    for (int n = 0; n < N_NORMS && !rc; n++) {
        layer_name(name, layer, norms[n]);
        rc = see_tensor(v, name, 1, s->n_embd, VECTOR);
    }
    for (int k = 0; k < N_MATRICES && !rc; k++)
        for (int p = 0; p < matrices[k].n_parts && !rc; p++) {
            layer_name(name, layer, matrices[k].part[p].name);
            rc = see_tensor(v, name, dim(s, matrices[k].part[p].rows), dim(s, matrices[k].part[p].cols), LAYER_MATRIX);
        }
    return rc;
}

/* Tensors that change the numbers and that this family's code does not apply. */
static int refuse_extras(struct survey *v)
{
    static const char *const extras[] = {
        "blk.0.attn_q.bias",      "blk.0.attn_k.bias",        "blk.0.attn_v.bias",
        "blk.0.attn_output.bias", "blk.0.ffn_gate.bias",      "blk.0.ffn_up.bias",
        "blk.0.ffn_down.bias",    "blk.0.attn_q_norm.weight", "blk.0.ffn_gate_inp.weight"};
    struct weight_part p;
    struct err absent;
    for (size_t i = 0; i < sizeof extras / sizeof *extras; i++)
        if (!loader_ops(v->l)->find(v->l, extras[i], &p, &absent))
            return err_set(v->e, ENOTSUP, "tensor %s: the llama family here has no such part", extras[i]);
    return 0;
}

/* Every tensor is there, has the right size, and nothing else matters. */
static int survey(struct survey *v)
{
    const struct model_shape *s = loader_ops(v->l)->shape(v->l);
    int rc = refuse_extras(v);
    if (!rc)
        rc = see_tensor(v, "token_embd.weight", s->vocab, s->n_embd, MATRIX);
    if (!rc && !s->tied)
        rc = see_tensor(v, "output.weight", s->vocab, s->n_embd, MATRIX);
    if (!rc)
        rc = see_tensor(v, "output_norm.weight", 1, s->n_embd, VECTOR);
    for (int32_t i = 0; i < s->n_layers && !rc; i++)
        rc = see_layer(v, s, i);
    return rc;
}

static int check(const struct model_shape *s, struct err *e)
{
    if (strcmp(s->arch, arch_llama.name))
        return err_set(e, ENOTSUP, "family '%s' is not llama", s->arch);
    if (s->head_dim < 2 || s->head_dim % 2 || s->head_dim > MODEL_HEAD_DIM_MAX || s->n_heads % s->n_kv_heads)
        return err_set(e, ENOTSUP, "%d heads of %d over %d kv heads: heads must be even, at most %d, and a multiple",
                       s->n_heads, s->head_dim, s->n_kv_heads, MODEL_HEAD_DIM_MAX);
    return 0;
}

static int plan(struct loader *l, const struct backend_ops *be, int32_t max_rows, int32_t max_out, uint64_t *weights,
                uint64_t *activations, struct err *e)
{
    struct survey v = {.l = l, .be = be, .e = e};
    uint64_t at[N_BUFFERS];
    int rc = survey(&v);
    if (rc)
        return rc;
    *weights = v.backend_bytes;
    *activations = lay_out(loader_ops(l)->shape(l), be, max_rows, max_out, at);
    return 0;
}

/* -- loading */

static int advance(struct loading *ld, const struct weight_part *p)
{
    ld->done += (uint64_t)p->rows * p->row_bytes;
    if (ld->progress && ld->progress(ld->ctx, ld->done, ld->total))
        return err_set(ld->e, ECANCELED, "loading was stopped");
    return 0;
}

typedef int weight_fn(struct backend *be, struct weight *out, const struct weight_part *parts, int n_parts,
                      struct err *e);

/* How the backend gets at these parts without us, by making or reading them, or NULL. They are in part[] then. */
static weight_fn *without_us(struct loading *ld, struct weight_part *part, const char *const *names, int n,
                             uint32_t keep)
{
    bool made = true, filed = true;
    for (int i = 0; i < n; i++) {
        if (loader_ops(ld->l)->find(ld->l, names[i], &part[i], ld->e) != 0)
            return NULL;
        part[i].keep = keep;
        made = made && part[i].made_scale > 0;
        filed = filed && part[i].path;
    }
    return made ? ld->m->op->weight_make : filed ? ld->m->op->weight_read : NULL;
}

static int load_matrix(struct loading *ld, struct weight *out, const char *const *names, int n, uint32_t keep)
{
    const struct loader_ops *from = loader_ops(ld->l);
    struct weight_loan loan[WEIGHT_PARTS_MAX] = {0};
    struct weight_part part[WEIGHT_PARTS_MAX] = {0};
    int rc = 0;
    weight_fn *get = without_us(ld, part, names, n, keep);
    if (get) {
        rc = get(ld->m->be, out, part, n, ld->e);
        for (int i = 0; i < n && !rc; i++)
            rc = advance(ld, &part[i]);
        return rc;
    }
    for (int i = 0; i < n && !rc; i++) {
        rc = from->take(ld->l, names[i], &loan[i], ld->e);
        part[i] = loan[i].part;
        part[i].keep = keep;
    }
    if (!rc)
        rc = ld->m->op->weight_load(ld->m->be, out, part, n, ld->e);
    for (int i = 0; i < n; i++) {
        from->done(ld->l, &loan[i]);
        if (!rc)
            rc = advance(ld, &part[i]);
    }
    return rc;
}

static int load_vector(struct loading *ld, float **out, const char *name)
{
    struct model *m = ld->m;
    size_t bytes = (size_t)m->head.shape.n_embd * sizeof(float);
    struct weight_loan loan = {0};
    float *host = malloc(bytes);
    int rc = host ? loader_ops(ld->l)->take(ld->l, name, &loan, ld->e)
                  : err_set(ld->e, ENOMEM, "no memory for tensor %s", name);
    if (rc)
        goto end;
    *out = m->op->alloc(m->be, bytes);
    if (!*out) {
        rc = err_set(ld->e, ENOMEM, "no backend memory for tensor %s", name);
        goto end;
    }
    quant_get_row(host, loan.part.dtype, loan.part.data, loan.part.cols);
    m->op->upload(m->be, *out, host, bytes);
    rc = advance(ld, &loan.part);
end:
    loader_ops(ld->l)->done(ld->l, &loan);
    free(host);
    return rc;
}

static int load_layer(struct loading *ld, int32_t layer)
{
    struct layer *to = &ld->m->layer[layer];
    int rc = 0;
    for (int n = 0; n < N_NORMS && !rc; n++) {
        char name[64];
        layer_name(name, layer, norms[n]);
        rc = load_vector(ld, &to->norm[n], name);
    }
    for (int k = 0; k < N_MATRICES && !rc; k++) {
        char name[WEIGHT_PARTS_MAX][64];
        const char *names[WEIGHT_PARTS_MAX];
        for (int p = 0; p < matrices[k].n_parts; p++) {
            layer_name(name[p], layer, matrices[k].part[p].name);
            names[p] = name[p];
        }
        rc = load_matrix(ld, &to->w[k], names, matrices[k].n_parts, loader_keep(ld->l));
    }
    return rc;
}

static int load_all(struct loading *ld)
{
    struct model *m = ld->m;
    const char *const embed = "token_embd.weight", *const out_head = "output.weight";
    int rc = load_matrix(ld, &m->embed, &embed, 1, 0);
    for (int32_t i = 0; i < m->head.shape.n_layers && !rc; i++)
        rc = load_layer(ld, i);
    if (!rc)
        rc = load_vector(ld, &m->out_norm, "output_norm.weight");
    if (!rc && !m->head.shape.tied)
        rc = load_matrix(ld, &m->out_head, &out_head, 1, 0);
    if (!rc && m->op->weight_wait)
        rc = m->op->weight_wait(m->be, ld->e);
    return rc;
}

static int take_activations(struct model *m, struct err *e)
{
    uint64_t at[N_BUFFERS];
    m->block_bytes = lay_out(&m->head.shape, m->op, m->max_rows, m->max_out, at);
    m->block = m->op->alloc(m->be, m->block_bytes);
    if (!m->block)
        return err_set(e, ENOMEM,
                       "no backend memory for %llu bytes of activations (%d rows a step): lower the step size",
                       (unsigned long long)m->block_bytes, m->max_rows);
    for (int i = 0; i < N_BUFFERS; i++)
        m->buf[i] = (char *)m->block + at[i];
    return 0;
}

static void free_weight(struct model *m, struct weight *w)
{
    if (w->n_parts)
        m->op->weight_free(m->be, w);
}

static void free_vector(struct model *m, float *v)
{
    if (v)
        m->op->release(m->be, v, (size_t)m->head.shape.n_embd * sizeof(float));
}

static void close_llama(struct model *m)
{
    if (!m)
        return;
    for (int32_t i = 0; m->layer && i < m->head.shape.n_layers; i++) {
        for (int k = 0; k < N_MATRICES; k++)
            free_weight(m, &m->layer[i].w[k]);
        for (int n = 0; n < N_NORMS; n++)
            free_vector(m, m->layer[i].norm[n]);
    }
    free_weight(m, &m->embed);
    free_weight(m, &m->out_head);
    free_vector(m, m->out_norm);
    if (m->block)
        m->op->release(m->be, m->block, m->block_bytes);
    free(m->layer);
    free(m);
}

static int open_llama(struct model **out, struct backend *be, struct loader *l, int32_t max_rows, int32_t max_out,
                      progress_fn *progress, void *ctx, struct err *e)
{
    const struct model_shape *s = loader_ops(l)->shape(l);
    struct survey v = {.l = l, .be = backend_ops(be), .e = e};
    int rc = check(s, e);
    if (!rc)
        rc = survey(&v);
    if (rc)
        return rc;
    struct model *m = calloc(1, sizeof *m);
    struct layer *layer = calloc((size_t)s->n_layers, sizeof *layer);
    if (!m || !layer) {
        free(m);
        free(layer);
        return err_set(e, ENOMEM, "no memory for the model's tables");
    }
    *m = (struct model){
        .head = {&arch_llama, *s}, .be = be, .op = v.be, .max_rows = max_rows, .max_out = max_out, .layer = layer};
    for (int i = 0; i < s->head_dim / 2; i++)
        m->inv_freq[i] = (float)(pow((double)s->rope_base, -2.0 * i / s->head_dim) / (double)s->rope_factor[i]);
    struct loading ld = {m, l, progress, ctx, 0, v.file_bytes, e};
    rc = take_activations(m, e);
    if (!rc)
        rc = load_all(&ld);
    if (rc)
        close_llama(m);
    else
        *out = m;
    return rc;
}

/* -- forward */

/* Q, K and V of a layer for all T rows; K and V go into the cache. */
static void project_qkv(struct model *m, const struct layer *la, const float *add, const struct step *step,
                        const struct kv_view *kv)
{
    const struct model_shape *s = &m->head.shape;
    m->op->add_norm(m->be, m->buf[BUF_H], m->buf[BUF_X], add, la->norm[ATTN_NORM], s->rms_eps, step->n_rows, s->n_embd);
    m->op->linear(m->be, m->buf[BUF_QKV], m->buf[BUF_H], &la->w[QKV], step->n_rows);
    struct rope_args rope = {.qkv = m->buf[BUF_QKV],
                             .step = step,
                             .inv_freq = m->inv_freq,
                             .kv = kv,
                             .n_heads = s->n_heads,
                             .attn_factor = 1};
    m->op->rope_kv(m->be, &rope);
}

static void attend(struct model *m, const struct step *step, const struct kv_view *kv)
{
    const struct model_shape *s = &m->head.shape;
    struct attn_args a = {.out_input = m->buf[BUF_ATT],
                          .q = m->buf[BUF_QKV],
                          .q_stride = (int64_t)(s->n_heads + 2 * s->n_kv_heads) * s->head_dim,
                          .step = step,
                          .kv = kv,
                          .n_heads = s->n_heads,
                          .scale = 1 / sqrtf((float)s->head_dim),
                          .key_begin = 0,
                          .key_end = INT32_MAX};
    m->op->attention(m->be, &a);
}

/* Output projection and feed-forward of n rows: att [n][H D], x [n][E] -> BUF_Y, still to be added to x. */
static void feed_forward(struct model *m, const struct layer *la, const void *att, float *x, int32_t n)
{
    const struct model_shape *s = &m->head.shape;
    m->op->linear(m->be, m->buf[BUF_Y], att, &la->w[O], n);
    m->op->add_norm(m->be, m->buf[BUF_H], x, m->buf[BUF_Y], la->norm[FFN_NORM], s->rms_eps, n, s->n_embd);
    if (m->op->linear_silu) {
        m->op->linear_silu(m->be, m->buf[BUF_ACT], m->buf[BUF_GU], m->buf[BUF_H], &la->w[GATE_UP], n);
    } else {
        m->op->linear(m->be, m->buf[BUF_GU], m->buf[BUF_H], &la->w[GATE_UP], n);
        m->op->silu_mul(m->be, m->buf[BUF_ACT], m->buf[BUF_GU], n, s->n_ff);
    }
    m->op->linear(m->be, m->buf[BUF_Y], m->buf[BUF_ACT], &la->w[DOWN], n);
}

/* The ops of a step, in order. */
static void pass(struct model *m, const struct step *step, const struct kv_view *kv)
{
    const struct model_shape *s = &m->head.shape;
    const struct backend_ops *op = m->op;
    const int32_t t = step->n_rows, r = step->n_out, last = s->n_layers - 1;
    void **b = m->buf, *att = b[BUF_ATT], *x = b[BUF_X];
    assert(t > 0 && t <= m->max_rows && r >= 0 && r <= m->max_out);

    op->embed(m->be, b[BUF_X], &m->embed, step);
    for (int32_t i = 0; i < last; i++) {
        project_qkv(m, &m->layer[i], i ? b[BUF_Y] : NULL, step, &kv[i]);
        attend(m, step, &kv[i]);
        feed_forward(m, &m->layer[i], b[BUF_ATT], b[BUF_X], t);
    }
    project_qkv(m, &m->layer[last], last ? b[BUF_Y] : NULL, step, &kv[last]);
    if (r == 0)
        return;
    attend(m, step, &kv[last]);
    if (!step->decode) {
        op->gather(m->be, att = b[BUF_OUT_ATT], b[BUF_ATT], step, ops_input_bytes(op, dim(s, DIM_Q)));
        op->gather(m->be, x = b[BUF_OUT_X], b[BUF_X], step, (uint64_t)s->n_embd * sizeof(float));
    }
    feed_forward(m, &m->layer[last], att, x, r);
    op->add_norm(m->be, b[BUF_H], x, b[BUF_Y], m->out_norm, s->rms_eps, r, s->n_embd);
    op->linear(m->be, b[BUF_LOGITS], b[BUF_H], s->tied ? &m->embed : &m->out_head, r);
}

static float *forward(struct model *m, const struct step *step, const struct kv_view *kv)
{
    const struct step *run = m->op->pass_begin ? m->op->pass_begin(m->be, step) : step;
    if (run)
        pass(m, run, kv);
    if (m->op->pass_end)
        m->op->pass_end(m->be);
    return m->buf[BUF_LOGITS];
}

const struct arch_ops arch_llama = {
    .name = "llama",
    .check = check,
    .open = open_llama,
    .close = close_llama,
    .forward = forward,
    .plan = plan,
};
