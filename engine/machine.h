/* machine - what a step runs on: backend, model and block pool memory, made from a configuration.
 *
 * Resolves every "auto" (backend, context, pool) by arithmetic on file headers, before a weight is read. The same
 * arithmetic serves --plan. Engine thread, but machine_plan (any thread).
 */
#ifndef HEARTH_ENGINE_MACHINE_H
#define HEARTH_ENGINE_MACHINE_H

#include "engine/compute/backend.h"
#include "engine/engine.h"
#include "engine/kv/layout.h"
#include "engine/model/arch.h"

struct machine {
    struct engine_config config; /* with every default filled in */
    struct engine_plan plan;
    struct backend *be;
    struct model *model;
    struct kv_layout layout;
    void *pool;                               /* n_blocks blocks in backend memory */
    struct kv_view *views;                    /* [n_layers] */
    float *scales;                            /* kv8: [n_layers][n_kv_heads][K, V] in backend memory */
    struct hash_key fingerprints[KV_FORMATS]; /* of what decides the numbers, by KV format */
    int32_t vocab;
    struct loader *loader;
    double memory_share; /* of the memory available that may be taken */
    char device[96];     /* the backend's description */
};

/* Load everything. progress(ctx, done, total) as in arch.h. 0 or -errno with e; nothing is left open then. */
int machine_open(struct machine *m, const struct engine_config *c,
                 int (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx, struct err *e);
void machine_close(struct machine *m);

/* engine_make_plan, in this process: may leave a GPU's context in it. */
int machine_plan(const struct engine_config *c, struct engine_plan *out, struct err *e);

/* Steps that may be queued at a time, 1 or 2. */
uint32_t machine_depth(const struct machine *m);
/* Queue the forward pass of a step: logits[n_out][vocab] in backend memory. */
float *machine_forward(struct machine *m, const struct step *step);
/* Queue copies of whole blocks. */
void machine_copy_block(struct machine *m, int32_t from, int32_t to);

#endif
