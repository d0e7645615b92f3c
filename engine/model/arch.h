/* arch - a model family is one C file (arch_NAME.c) that calls backend ops in order: the graph is the code.
 *
 * A model owns its weights and activations on one backend. One engine thread.
 */
#ifndef HEARTH_MODEL_ARCH_H
#define HEARTH_MODEL_ARCH_H

#include "engine/compute/backend.h"
#include "engine/model/load.h"

struct model; /* a family's state; begins with struct model_head */

/* KV need of the model, per layer the same (one group for now). */
struct model_kv_need {
    int32_t n_layers, n_kv_heads, head_dim;
};

struct arch_ops {
    const char *name; /* general.architecture: "llama" */
    /* Refuse what this file can't run. 0 or -ENOTSUP with e. */
    int (*check)(const struct model_shape *s, struct err *e);
    /* Load every weight. progress(ctx, done, total) bytes is called now and then; it returns non-zero to stop
     * (-ECANCELED). max_rows bounds T, max_out bounds R. */
    int (*open)(struct model **out, struct backend *be, struct loader *l, int32_t max_rows, int32_t max_out,
                int (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx, struct err *e);
    void (*close)(struct model *m);
    /* Queue the forward pass of `step`; kv[n_layers] are the views of the block pool. Returns logits[R][V] in backend
     * memory, valid until the next forward. */
    float *(*forward)(struct model *m, const struct step *step, const struct kv_view *kv);
    /* Bytes of weights and of activations this family takes, from the loader's directory (for --plan). */
    int (*plan)(struct loader *l, const struct backend_ops *be, int32_t max_rows, int32_t max_out, uint64_t *weights,
                uint64_t *activations, struct err *e);
};

struct model_head {
    const struct arch_ops *ops;
    struct model_shape shape;
};

static inline const struct model_head *model_head(const struct model *m)
{
    return (const struct model_head *)(const void *)m;
}

/* The family of that name, or NULL; known names, comma-separated, for the error. */
const struct arch_ops *arch_find(const char *name);
const char *arch_names(void);

/* The generated registry (build/gen/registry.c): all arch_ops, NULL at the end. */
extern const struct arch_ops *const arch_registry[];

static inline struct model_kv_need model_kv_need(const struct model_shape *s)
{
    struct model_kv_need n = {s->n_layers, s->n_kv_heads, s->head_dim};
    return n;
}

/* Largest K of any weight: backend_opts.max_cols. */
static inline int32_t model_max_cols(const struct model_shape *s)
{
    int32_t q = s->n_heads * s->head_dim, m = s->n_embd > s->n_ff ? s->n_embd : s->n_ff;
    return m > q ? m : q;
}

#endif
