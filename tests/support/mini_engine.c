/* mini_engine - see mini_engine.h. */
#include "tests/support/mini_engine.h"

#include "engine/base/f16.h"
#include "engine/base/hash.h"
#include "engine/base/rng.h"
#include "engine/kv/layout.h"
#include "tests/support/float_loader.h"
#include "tests/support/ops_trio.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct mini {
    struct mini_opts o;
    struct loader *loader;
    struct backend *be;
    const struct backend_ops *op;
    struct model *model;
    struct kv_view *kv; /* [n_layers] */
    void *pool;
    uint64_t pool_bytes;
    int32_t seq_blocks;
    int32_t *block; /* [n_seqs][seq_blocks] */
    int32_t *len;   /* [n_seqs] tokens computed */
    struct step step;
    int32_t *ids, *after, *pos, *row_seq, *seq_row, *table, *table_at, *out_row; /* arrays of the step */
    float *logits;                                                               /* [max_out][V] host */
};

const struct backend_ops *mini_backend(void)
{
    const char *name = getenv("HEARTH_TEST_BACKEND");
    if (!name || !strcmp(name, "cpu_fast"))
        return &backend_cpu_fast;
    if (!strcmp(name, "cuda"))
        return ops_cuda("mini_engine");
    assert(!strcmp(name, "cpu_ref"));
    return &backend_cpu_ref;
}

static void *must(void *p)
{
    assert(p);
    return p;
}

static int32_t *ints(int32_t n)
{
    return must(calloc((size_t)n, sizeof(int32_t)));
}

static void shuffle(int32_t *a, int32_t n, uint64_t seed)
{
    for (int32_t i = n - 1; i > 0; i--) {
        int32_t j = (int32_t)(rng_next(&seed) % (uint64_t)(i + 1)), t = a[i];
        a[i] = a[j];
        a[j] = t;
    }
}

static int make_pool(struct mini *m, const struct model_shape *s, struct err *e)
{
    const int32_t n_blocks = m->o.n_seqs * m->seq_blocks;
    struct kv_layout l;
    int rc = kv_layout_init(&l, (uint32_t)s->n_layers, (uint32_t)s->n_kv_heads, (uint32_t)s->head_dim,
                            (uint32_t)m->o.block_tokens, m->o.format, e);
    if (rc)
        return rc;
    m->pool_bytes = l.block_bytes * (uint64_t)n_blocks;
    m->pool = m->op->alloc(m->be, m->pool_bytes);
    if (!m->pool)
        return err_set(e, ENOMEM, "no memory for a pool of %llu bytes", (unsigned long long)m->pool_bytes);
    m->kv = must(calloc((size_t)s->n_layers, sizeof *m->kv));
    for (int32_t i = 0; i < s->n_layers; i++)
        m->kv[i] = kv_layout_view(&l, m->pool, (uint32_t)i);
    m->block = ints(n_blocks);
    for (int32_t i = 0; i < n_blocks; i++)
        m->block[i] = i;
    if (m->o.shuffle)
        shuffle(m->block, n_blocks, m->o.shuffle);
    return 0;
}

static void make_step(struct mini *m, const struct model_shape *s)
{
    const int32_t t = m->o.max_rows, n = m->o.n_seqs;
    m->len = ints(n);
    m->step = (struct step){.number = 0,
                            .ids = m->ids = ints(t),
                            .after = m->after = ints(t),
                            .pos = m->pos = ints(t),
                            .row_seq = m->row_seq = ints(t),
                            .seq_row = m->seq_row = ints(n + 1),
                            .table = m->table = ints(n * m->seq_blocks),
                            .table_at = m->table_at = ints(n + 1),
                            .out_row = m->out_row = ints(t)};
    m->logits = must(malloc((size_t)m->o.max_out * (size_t)s->vocab * sizeof *m->logits));
}

static void set_defaults(struct mini_opts *o)
{
    o->backend = o->backend ? o->backend : mini_backend();
    o->format = o->format ? o->format : KV_FORMAT_KV32;
    o->block_tokens = o->block_tokens ? o->block_tokens : 64;
    o->max_rows = o->max_rows ? o->max_rows : 256;
    o->max_out = o->max_out ? o->max_out : o->max_rows;
    o->n_seqs = o->n_seqs ? o->n_seqs : 1;
    o->ctx = o->ctx ? o->ctx : 1024;
}

int mini_open(struct mini **out, const struct mini_opts *o, struct err *e)
{
    struct mini *m = must(calloc(1, sizeof *m));
    m->o = *o;
    set_defaults(&m->o);
    m->op = m->o.backend;
    int rc = loader_open(&m->loader, m->o.source, e);
    if (rc)
        goto fail;
    if (m->o.floats)
        m->loader = float_loader(m->loader);
    loader_set_keep(m->loader, m->o.keep);
    const struct model_shape *s = loader_ops(m->loader)->shape(m->loader);
    struct backend_opts bo = {.threads = m->o.threads,
                              .isa = m->o.isa,
                              .max_rows = m->o.max_rows,
                              .max_table = (int64_t)m->o.n_seqs *
                                           ((m->o.ctx + m->o.block_tokens - 1) / m->o.block_tokens),
                              .max_cols = model_max_cols(s),
                              .max_vocab = s->vocab,
                              .deterministic = m->o.deterministic,
                              .wide_bytes = m->o.format == KV_FORMAT_KV8 ? BACKEND_WIDE_BYTES : 0};
    rc = m->op->open(&m->be, &bo, e);
    if (!rc)
        rc = arch_find(s->arch)->open(&m->model, m->be, m->loader, m->o.max_rows, m->o.max_out, NULL, NULL, e);
    if (rc)
        goto fail;
    m->seq_blocks = (m->o.ctx + m->o.block_tokens - 1) / m->o.block_tokens;
    rc = make_pool(m, s, e);
    if (rc)
        goto fail;
    make_step(m, s);
    *out = m;
    return 0;
fail:
    mini_close(m);
    return rc;
}

void mini_close(struct mini *m)
{
    if (!m)
        return;
    if (m->model)
        model_head(m->model)->ops->close(m->model);
    if (m->pool)
        m->op->release(m->be, m->pool, m->pool_bytes);
    if (m->be)
        m->op->close(m->be);
    loader_close(m->loader);
    int32_t *arrays[] = {m->block,   m->len,     m->ids,   m->after,    m->pos,
                         m->row_seq, m->seq_row, m->table, m->table_at, m->out_row};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    free(m->logits);
    free(m->kv);
    free(m);
}

const struct model_shape *mini_shape(const struct mini *m)
{
    return &model_head(m->model)->shape;
}

struct backend *mini_backend_of(struct mini *m)
{
    return m->be;
}

void mini_add(struct mini *m, int32_t seq, const int32_t *ids, int32_t n, int32_t out_from)
{
    struct step *st = &m->step;
    assert(n > 0 && seq < m->o.n_seqs && st->n_rows + n <= m->o.max_rows && st->n_seqs < m->o.n_seqs);
    assert(m->len[seq] + n <= m->seq_blocks * m->o.block_tokens);
    for (int32_t i = 0; i < n; i++) {
        const int32_t t = st->n_rows++;
        m->ids[t] = ids[i];
        m->after[t] = 0;
        m->pos[t] = m->len[seq]++;
        m->row_seq[t] = st->n_seqs;
        if (i >= out_from) {
            assert(st->n_out < m->o.max_out);
            m->out_row[st->n_out++] = t;
        }
    }
    const int32_t used = (m->len[seq] + m->o.block_tokens - 1) / m->o.block_tokens, at = m->table_at[st->n_seqs];
    memcpy(m->table + at, m->block + (size_t)seq * (size_t)m->seq_blocks, (size_t)used * sizeof *m->table);
    st->n_seqs++;
    m->seq_row[st->n_seqs] = st->n_rows;
    m->table_at[st->n_seqs] = at + used;
}

/* One row a sequence, each with logits? */
static int32_t is_decode(const struct step *st)
{
    for (int32_t i = 0; i < st->n_out; i++)
        if (st->out_row[i] != i)
            return 0;
    return st->n_rows == st->n_seqs && st->n_out == st->n_rows;
}

static const float *queue(struct mini *m)
{
    m->step.number++;
    m->step.decode = is_decode(&m->step);
    return model_head(m->model)->ops->forward(m->model, &m->step, m->kv);
}

void mini_follow(struct mini *m, int32_t seq, int32_t draw)
{
    mini_add(m, seq, &(int32_t){0}, 1, 0);
    m->after[m->step.n_rows - 1] = draw + 1;
}

static void clear_step(struct step *st)
{
    st->n_rows = st->n_seqs = st->n_out = 0;
}

void mini_queue(struct mini *m)
{
    queue(m);
    clear_step(&m->step);
}

uint64_t mini_draw(struct mini *m, const struct sample_row *rows, struct sample_out *out)
{
    const float *logits = queue(m);
    m->op->sample(m->be, logits, mini_shape(m)->vocab, rows, out, m->step.n_out);
    if (m->op->step_end)
        m->op->step_end(m->be, m->step.number);
    clear_step(&m->step);
    return m->step.number;
}

/* bfloat16 in [-1, 1), or e4m3 of magnitudes below 32. */
static uint16_t noise_of(uint64_t x, enum kv_format format)
{
    assert(format == KV_FORMAT_KV16 || format == KV_FORMAT_KV8);
    return format == KV_FORMAT_KV8 ? (uint16_t)x & 0xe7e7 : bf16_from_f32((float)(int32_t)(x >> 1) * 0x1p-30f - 1);
}

void mini_pretend(struct mini *m, int32_t n)
{
    enum { NOISE = 4 << 20 };
    uint16_t *noise = must(malloc(NOISE * sizeof *noise));
    uint64_t state = 5, done = NOISE * sizeof *noise < m->pool_bytes ? NOISE * sizeof *noise : m->pool_bytes;
    assert(n <= m->seq_blocks * m->o.block_tokens);
    for (int32_t i = 0; i < NOISE; i++)
        noise[i] = noise_of(rng_next(&state) >> 32, m->o.format);
    m->op->upload(m->be, m->pool, noise, done);
    for (uint64_t more; done < m->pool_bytes; done += more) {
        more = done < m->pool_bytes - done ? done : m->pool_bytes - done;
        m->op->copy(m->be, (char *)m->pool + done, m->pool, more);
    }
    m->op->sync(m->be);
    for (int32_t i = 0; i < m->o.n_seqs; i++)
        m->len[i] = n;
    free(noise);
}

uint64_t mini_pool_hash(struct mini *m)
{
    enum { PART = 64 << 20 };
    void *part = must(malloc(PART));
    uint64_t hash = 0;
    for (uint64_t at = 0; at < m->pool_bytes; at += PART) {
        uint64_t n = m->pool_bytes - at < PART ? m->pool_bytes - at : PART;
        m->op->download(m->be, part, (char *)m->pool + at, n);
        m->op->sync(m->be);
        hash = hash * 0x9E3779B97F4A7C15u + hash_fnv(part, n);
    }
    free(part);
    return hash;
}

const float *mini_run(struct mini *m)
{
    struct step *st = &m->step;
    const float *logits = queue(m);
    m->op->download(m->be, m->logits, logits, (size_t)st->n_out * (size_t)mini_shape(m)->vocab * sizeof *logits);
    m->op->sync(m->be);
    clear_step(st);
    return m->logits;
}

void mini_reset(struct mini *m, int32_t seq)
{
    m->len[seq] = 0;
}

void mini_logits(struct mini *m, const int32_t *ids, int32_t n, int32_t chunk, float *out)
{
    const size_t v = (size_t)mini_shape(m)->vocab;
    mini_reset(m, 0);
    for (int32_t i = 0; i < n; i += chunk) {
        const int32_t k = n - i < chunk ? n - i : chunk;
        mini_add(m, 0, ids + i, k, 0);
        memcpy(out + (size_t)i * v, mini_run(m), (size_t)k * v * sizeof *out);
    }
}
