/* machine - see machine.h. */
#include "engine/machine.h"

#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "engine/compute/load_cuda.h"
#include "engine/kv/scales.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What may be taken by default: of the host's memory that is available, and of a GPU's that is free (the libraries need
 * some of it, too). */
#define MEMORY_SHARE 0.6
#define GPU_SHARE    0.88

static void fill_defaults(struct engine_config *c)
{
    if (!c->backend[0])
        strcpy(c->backend, "auto");
    if (!c->isa[0])
        strcpy(c->isa, "auto");
    if (!c->threads)
        c->threads = (uint32_t)sys_cpu_count();
    if (!c->block_tokens)
        c->block_tokens = 64;
    if (!c->kv_format)
        c->kv_format = KV_FORMAT_KV16;
    if (!c->max_rows)
        c->max_rows = 512;
    if (!c->max_seqs)
        c->max_seqs = 256;
    if (c->max_seqs > c->max_rows)
        c->max_seqs = c->max_rows;
    if (!c->max_queued)
        c->max_queued = 256;
    if (!c->step_ms)
        c->step_ms = 100;
}

/* Backend, the memory that there is, and which share of it may be taken. "auto" takes the GPU when it works, and keeps
 * the reason when it does not. */
static int pick_backend(struct machine *m, const struct backend_ops **out, struct err *e)
{
    const struct engine_config *c = &m->config;
    bool is_auto = strcmp(c->backend, "auto") == 0, is_cuda = strcmp(c->backend, "cuda") == 0;
    struct err why = {0};
    if (!is_auto && !is_cuda && strcmp(c->backend, "cpu") != 0)
        return err_set(e, EINVAL, "backend %s: must be auto, cpu or cuda", c->backend);
    m->memory_share = GPU_SHARE;
    if ((is_auto || is_cuda) && load_cuda(out, &m->plan.memory_available, &why) == 0)
        return 0;
    if (is_cuda)
        return err_set(e, why.code, "backend cuda: %s; or use --backend cpu", why.text);
    snprintf(m->plan.no_gpu, sizeof m->plan.no_gpu, "%.127s", why.text);
    m->memory_share = MEMORY_SHARE;
    m->plan.memory_available = sys_memory_available();
    *out = strcmp(c->isa, "ref") == 0 ? &backend_cpu_ref : &backend_cpu_fast;
    return 0;
}

static double gib(uint64_t bytes)
{
    return (double)bytes / (1 << 30);
}

/* Bytes for the pool when the configuration leaves it open. */
static int auto_pool(struct engine_plan *p, double share, const struct kv_layout *l, struct err *e)
{
    double may = share * (double)p->memory_available;
    double fixed = (double)(p->weight_bytes + p->activation_bytes);
    if (may < fixed + (double)l->block_bytes)
        return err_set(
            e, ENOMEM,
            "memory: weights need %.2f GiB and one KV block %.3f GiB, %.0f %% of the available %.2f GiB is %.2f "
            "GiB; use a smaller model, or set kv.bytes yourself",
            gib(p->weight_bytes), gib(l->block_bytes), 100 * share, gib(p->memory_available), may / (1 << 30));
    p->kv_bytes = (uint64_t)(may - fixed);
    return 0;
}

static int size_pool(struct machine *m, const struct kv_layout *l, struct err *e)
{
    struct engine_config *c = &m->config;
    struct engine_plan *p = &m->plan;
    p->kv_bytes_per_token = l->token_bytes;
    p->kv_bytes = c->kv_bytes;
    int ret = c->kv_bytes ? 0 : auto_pool(p, m->memory_share, l, e);
    if (ret)
        return ret;
    uint64_t n = p->kv_bytes / l->block_bytes;
    /* more than every slot at full context is never used */
    uint64_t most = (uint64_t)c->max_seqs * ((p->ctx_train + l->block_tokens - 1) / l->block_tokens);
    if (n > most && !c->kv_bytes)
        n = most;
    if (n > INT32_MAX)
        n = INT32_MAX;
    if (n == 0)
        return err_set(e, EINVAL, "kv.bytes %llu: one block of %u tokens needs %llu bytes; set that or more",
                       (unsigned long long)c->kv_bytes, l->block_tokens, (unsigned long long)l->block_bytes);
    p->n_blocks = (uint32_t)n;
    p->kv_bytes = n * l->block_bytes;
    uint64_t holds = n * l->block_tokens;
    p->ctx_tokens = c->ctx_tokens ? c->ctx_tokens : holds < p->ctx_train ? (uint32_t)holds : p->ctx_train;
    if (p->ctx_tokens > p->ctx_train)
        return err_set(e, EINVAL, "ctx_size %u: the model was trained for %u positions; use at most that",
                       p->ctx_tokens, p->ctx_train);
    if (p->ctx_tokens > holds)
        return err_set(e, EINVAL, "ctx_size %u: the KV pool of %llu bytes holds %llu tokens; raise kv.bytes to %llu",
                       p->ctx_tokens, (unsigned long long)p->kv_bytes, (unsigned long long)holds,
                       (unsigned long long)(p->ctx_tokens * l->token_bytes));
    c->kv_bytes = p->kv_bytes;
    c->ctx_tokens = p->ctx_tokens;
    if (!c->max_queued_tokens)
        c->max_queued_tokens = 4 * holds;
    return 0;
}

/* Open the source and do all arithmetic; config, plan, layout and loader are set on success. */
static int resolve(struct machine *m, const struct backend_ops **ops, const struct arch_ops **arch, struct err *e)
{
    struct engine_config *c = &m->config;
    struct engine_plan *p = &m->plan;
    fill_defaults(c);
    int ret = pick_backend(m, ops, e);
    if (ret)
        return ret;
    snprintf(p->backend, sizeof p->backend, "%s", (*ops)->name);
    if ((ret = loader_open(&m->loader, c->model, e)))
        return ret;
    if (c->fp8_weights && strcmp((*ops)->name, "cuda") != 0)
        return err_set(e, ENOTSUP, "model.weights: fp8 needs a GPU (backend: cuda); with backend %s use as_stored%s%s",
                       (*ops)->name, m->plan.no_gpu[0] ? ". No GPU: " : "", m->plan.no_gpu);
    loader_set_keep(m->loader, c->fp8_weights ? DT_F8 : 0);
    const struct model_shape *s = loader_ops(m->loader)->shape(m->loader);
    *arch = arch_find(s->arch);
    if (!*arch)
        return err_set(e, ENOTSUP, "%s: architecture %s is not supported; known: %s", c->model, s->arch, arch_names());
    if ((ret = (*arch)->check(s, e)) ||
        (ret = (*arch)->plan(m->loader, *ops, (int32_t)c->max_rows, (int32_t)c->max_seqs, &p->weight_bytes,
                             &p->activation_bytes, e)))
        return ret;
    memcpy(p->arch, s->arch, sizeof p->arch);
    memcpy(p->name, s->name, sizeof p->name);
    p->vocab = m->vocab = s->vocab;
    p->ctx_train = (uint32_t)s->ctx_train;
    p->block_tokens = c->block_tokens;
    struct model_kv_need need = model_kv_need(s);
    ret = kv_layout_init(&m->layout, (uint32_t)need.n_layers, (uint32_t)need.n_kv_heads, (uint32_t)need.head_dim,
                         c->block_tokens, c->kv_format, e);
    return ret ? ret : size_pool(m, &m->layout, e);
}

int machine_plan(const struct engine_config *c, struct engine_plan *out, struct err *e)
{
    struct machine m = {.config = *c};
    const struct backend_ops *ops;
    const struct arch_ops *arch;
    int ret = resolve(&m, &ops, &arch, e);
    if (ret == 0 || ret == -ENOMEM) /* what does not fit can be told all the same */
        *out = m.plan;
    machine_close(&m);
    return ret;
}

/* The widest input of any linear layer. */
static int32_t max_cols(const struct model_shape *s)
{
    int32_t heads = s->n_heads * s->head_dim, n = s->n_embd > s->n_ff ? s->n_embd : s->n_ff;
    return heads > n ? heads : n;
}

/* scales[n] of the file beside the model, or 1 and a warning. */
static int find_scales(const struct machine *m, float *scales, size_t n, struct err *e)
{
    const struct kv_layout *l = &m->layout;
    const char *model = m->config.model;
    char path[sizeof m->config.model + 8];
    int ret = -ENOENT;
    if (strncmp(model, "random:", 7) != 0 && scales_path(path, sizeof path, model) == 0)
        ret = scales_read(path, l->n_layers, l->n_kv_heads, scales, e);
    if (ret != -ENOENT)
        return ret;
    for (size_t i = 0; i < n; i++)
        scales[i] = 1;
    if (l->format == KV_FORMAT_KV8)
        log_warn("kv scales", "model=%s scale=1 next=\"kv8 is less exact without; hearthd --calibrate makes them\"",
                 model);
    return 0;
}

/* The fingerprint with something more that decides the numbers. */
static int add_to_fingerprint(const struct hash_key *fingerprint, const void *bytes, size_t n, struct hash_key *out,
                              struct err *e)
{
    struct hash_state *h = hash_open();
    if (!h)
        return err_set(e, ENOMEM, "no memory for the model's fingerprint");
    hash_field(h, 1, fingerprint, sizeof *fingerprint);
    hash_field(h, 2, bytes, n);
    hash_finish(h, out);
    return 0;
}

static void put_scales(struct machine *m, const float *host, size_t bytes)
{
    backend_ops(m->be)->upload(m->be, m->scales, host, bytes);
    for (uint32_t i = 0; i < m->layout.n_layers; i++)
        m->views[i].scale = m->scales + 2 * (size_t)i * m->layout.n_kv_heads;
}

/* What decides the numbers: the model, how its weights are kept and, for kv8, its scales, which go to the backend and
 * its views. Scales that can't be read stop kv8 only. */
static int take_fingerprints(struct machine *m, struct err *e)
{
    const size_t n = 2 * (size_t)m->layout.n_layers * m->layout.n_kv_heads, bytes = n * sizeof(float);
    bool kv8 = m->layout.format == KV_FORMAT_KV8;
    struct hash_key *by_format = m->fingerprints, base;
    float *host = malloc(bytes);
    m->scales = kv8 ? backend_ops(m->be)->alloc(m->be, bytes) : NULL;
    int ret = host && (m->scales || !kv8) ? 0 : err_set(e, ENOMEM, "KV scales: out of memory");
    if (ret || (ret = loader_ops(m->loader)->fingerprint(m->loader, &base, e)) ||
        (m->config.fp8_weights && (ret = add_to_fingerprint(&base, "weights fp8 1", 13, &base, e))))
        goto out;
    by_format[KV_FORMAT_KV32] = by_format[KV_FORMAT_KV16] = by_format[KV_FORMAT_KV8] = base;
    ret = find_scales(m, host, n, e);
    if (!ret && kv8)
        put_scales(m, host, bytes);
    if (!ret)
        ret = add_to_fingerprint(&base, host, bytes, &by_format[KV_FORMAT_KV8], e);
    ret = kv8 ? ret : 0;
out:
    free(host);
    return ret;
}

int machine_open(struct machine *m, const struct engine_config *c,
                 int (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx, struct err *e)
{
    const struct backend_ops *ops;
    const struct arch_ops *arch;
    memset(m, 0, sizeof *m);
    m->config = *c;
    int ret = resolve(m, &ops, &arch, e);
    if (ret)
        goto fail;
    const struct model_shape *s = loader_ops(m->loader)->shape(m->loader);
    struct backend_opts o = {
        .threads = (int32_t)m->config.threads,
        .isa = strcmp(m->config.isa, "ref") == 0 ? NULL : m->config.isa,
        .max_rows = (int32_t)m->config.max_rows,
        .max_seqs = (int32_t)m->config.max_seqs,
        .max_table = (int64_t)m->config.max_seqs *
                     ((m->plan.ctx_tokens + m->config.block_tokens - 1) / m->config.block_tokens),
        .max_cols = max_cols(s),
        .max_vocab = s->vocab,
        .wide_bytes = m->layout.format == KV_FORMAT_KV8 && !m->config.deterministic ? BACKEND_WIDE_BYTES : 0,
        .deterministic = m->config.deterministic,
    };
    if ((ret = ops->open(&m->be, &o, e)))
        goto fail;
    m->pool = ops->alloc(m->be, m->plan.kv_bytes);
    m->views = calloc(m->layout.n_layers, sizeof *m->views);
    if (!m->pool || !m->views) {
        ret = err_set(e, ENOMEM, "KV pool of %.2f GiB: out of memory (%.2f GiB in all); lower kv.bytes",
                      gib(m->plan.kv_bytes), gib(m->plan.memory_available));
        goto fail;
    }
    for (uint32_t i = 0; i < m->layout.n_layers; i++)
        m->views[i] = kv_layout_view(&m->layout, m->pool, i);
    if ((ret = arch->open(&m->model, m->be, m->loader, (int32_t)m->config.max_rows, (int32_t)m->config.max_seqs,
                          progress, ctx, e)) ||
        (ret = take_fingerprints(m, e)))
        goto fail;
    snprintf(m->device, sizeof m->device, "%s", ops->describe(m->be));
    log_info("engine load", "model=%s arch=%s backend=%s device=\"%s\" ctx=%u blocks=%u block_tokens=%u kv_bytes=%llu",
             m->plan.name, m->plan.arch, ops->name, m->device, m->plan.ctx_tokens, m->plan.n_blocks,
             m->plan.block_tokens, (unsigned long long)m->plan.kv_bytes);
    return 0;
fail:
    machine_close(m);
    return ret;
}

void machine_close(struct machine *m)
{
    if (m->model)
        model_head(m->model)->ops->close(m->model);
    if (m->scales)
        backend_ops(m->be)->release(m->be, m->scales,
                                    2 * (size_t)m->layout.n_layers * m->layout.n_kv_heads * sizeof *m->scales);
    if (m->pool)
        backend_ops(m->be)->release(m->be, m->pool, m->plan.kv_bytes);
    if (m->be)
        backend_ops(m->be)->close(m->be);
    loader_close(m->loader);
    free(m->views);
    memset(m, 0, sizeof *m);
}

uint32_t machine_depth(const struct machine *m)
{
    int32_t best = backend_ops(m->be)->depth;
    uint32_t want = m->config.depth ? m->config.depth : (uint32_t)best;
    return want > 1 ? 2 : 1;
}

float *machine_forward(struct machine *m, const struct step *step)
{
    return model_head(m->model)->ops->forward(m->model, step, m->views);
}

void machine_copy_block(struct machine *m, int32_t from, int32_t to)
{
    uint8_t *base = m->pool;
    uint64_t bytes = m->layout.block_bytes;
    backend_ops(m->be)->copy(m->be, base + (uint64_t)to * bytes, base + (uint64_t)from * bytes, bytes);
}
