/* load - where weights come from: a table per kind of file (load_NAME.c), found by the generated registry.
 *
 * A loader answers with the model's shape and, by canonical tensor name, with a tensor's shape and type (find, from the
 * directory alone) or its host bytes (take, on loan until done). Canonical names are GGUF's ("blk.3.attn_q.weight").
 * Loaders normalise: q and k rows come out in half-split ("neox") rope order whatever the file has. Immutable after
 * open but for the loans; one thread.
 */
#ifndef HEARTH_MODEL_LOAD_H
#define HEARTH_MODEL_LOAD_H

#include "engine/base/err.h"
#include "engine/base/hash.h"
#include "engine/compute/backend.h"

#include <stdbool.h>
#include <stdint.h>

#define MODEL_HEAD_DIM_MAX BACKEND_HEAD_DIM_MAX

struct model_shape {
    char arch[32]; /* "llama" */
    char name[96]; /* general.name, or the random shape's name */
    int32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, vocab;
    int32_t ctx_train; /* positions the model was trained for */
    float rms_eps;
    float rope_base;
    /* [D/2]: divides each inverse frequency (llama3 scaling, rope_freqs.weight); all 1 = none. The rest is 1. */
    float rope_factor[MODEL_HEAD_DIM_MAX / 2];
    bool tied; /* output head is token_embd */
};

/* Host bytes of a tensor, lent by a loader. */
struct weight_loan {
    struct weight_part part;
    void *owned; /* the loader's: memory that done frees, or NULL */
};

struct loader; /* an open weight source */

struct loader_ops {
    const char *name; /* "gguf", "random" */
    /* Is this source ours? Looks at the name and the first bytes only. */
    bool (*probe)(const char *source);
    /* Read headers only (milliseconds). 0, or -errno with e. */
    int (*open)(struct loader **out, const char *source, struct err *e);
    void (*close)(struct loader *l);
    const struct model_shape *(*shape)(const struct loader *l);
    /* A tensor as [rows][cols] (a vector has rows = 1) without its bytes: out->data is NULL, nothing is read or made.
     * 0, -ENOENT, or -errno with e. */
    int (*find)(const struct loader *l, const char *name, struct weight_part *out, struct err *e);
    /* The same with its bytes. They stay until done; every loan must be given back before close. */
    int (*take)(struct loader *l, const char *name, struct weight_loan *out, struct err *e);
    void (*done)(struct loader *l, struct weight_loan *loan); /* zeroes loan; a zeroed one is fine */
    /* Identity of everything that decides the numbers: metadata, directory, sizes, weights. */
    int (*fingerprint)(struct loader *l, struct hash_key *out, struct err *e);
};

struct loader_head {
    const struct loader_ops *ops;
    uint32_t
        keep; /* DT_F8: a model shall keep the matrices of its layers so. 0: as they come. Loaders leave it alone */
};

static inline const struct loader_ops *loader_ops(const struct loader *l)
{
    return ((const struct loader_head *)(const void *)l)->ops;
}

static inline uint32_t loader_keep(const struct loader *l)
{
    return ((const struct loader_head *)(const void *)l)->keep;
}

/* Before a model is opened from l. */
static inline void loader_set_keep(struct loader *l, uint32_t dtype)
{
    ((struct loader_head *)(void *)l)->keep = dtype;
}

/* Open `source`: a path, or "random:SHAPE[:SEED]". 0, or -errno with e: nothing there, no loader knows it (names the
 * known ones), or the loader's own error. */
int loader_open(struct loader **out, const char *source, struct err *e);
void loader_close(struct loader *l); /* NULL is fine */

/* The generated registry (build/gen/registry.c): all loader_ops, NULL at the end. */
extern const struct loader_ops *const loader_registry[];

#endif
