/* mini_engine - a model, a backend and a KV pool without the engine: run token ids, get logits.
 *
 * Sequences have own block tables over one pool; blocks are handed out in order, or shuffled. Steps are put together by
 * hand, so a test decides chunking and batch composition:
 *
 *     mini_add(m, 0, prompt, n, n - 1);     rows for sequence 0; the last one wants logits
 *     mini_add(m, 1, &token, 1, 0);         a decode row of sequence 1 in the same step
 *     const float *logits = mini_run(m);    [R][V] in order of adding
 *
 * Misuse and lack of memory end the test (assert). Not for production: no scheduler, no release of blocks.
 */
#ifndef HEARTH_TESTS_MINI_ENGINE_H
#define HEARTH_TESTS_MINI_ENGINE_H

#include "engine/compute/backend.h"
#include "engine/model/arch.h"

struct mini;

struct mini_opts {
    const char *source;                /* for loader_open */
    const struct backend_ops *backend; /* NULL = mini_backend() */
    const char *isa;                   /* NULL = auto */
    int32_t threads;                   /* 0 = all */
    bool floats;                       /* weights as float32 (float_loader.h) */
    uint32_t keep;                     /* DT_F8: layers' matrices in 8 bits (loader_set_keep) */
    enum kv_format format;             /* 0 = kv32 */
    int32_t block_tokens;              /* 0 = 64 */
    int32_t max_rows;                  /* 0 = 256 */
    int32_t max_out;                   /* rows of a step that may want logits; 0 = max_rows */
    int32_t n_seqs;                    /* 0 = 1 */
    int32_t ctx;                       /* tokens a sequence may have; 0 = 1024 */
    bool deterministic;                /* bits of a row that depend on no other */
    uint64_t shuffle;                  /* 0 = blocks in order, else a seed: scattered over the pool */
};

/* The backend that HEARTH_TEST_BACKEND names; cpu_fast when it is not set. */
const struct backend_ops *mini_backend(void);

int mini_open(struct mini **out, const struct mini_opts *o, struct err *e);
void mini_close(struct mini *m); /* NULL is fine */
const struct model_shape *mini_shape(const struct mini *m);
struct backend *mini_backend_of(struct mini *m);

/* Append n tokens of sequence seq to the step; those from index `out_from` on want logits (n: none). Each sequence once
 * a step. */
void mini_add(struct mini *m, int32_t seq, const int32_t *ids, int32_t n, int32_t out_from);
/* One row of sequence seq: the token that draw `draw` of the last mini_draw chooses. */
void mini_follow(struct mini *m, int32_t seq, int32_t draw);
/* Queue the step's forward pass alone: for timing it. */
void mini_queue(struct mini *m);
/* The same, a token for each row of logits (rows[R], out[R]), and the step's end; returns its number, for step_wait. */
uint64_t mini_draw(struct mini *m, const struct sample_row *rows, struct sample_out *out);
/* Every sequence has n tokens whose keys and values are noise: for timing steps at that length. */
void mini_pretend(struct mini *m, int32_t n);
/* A hash of every byte of the pool. */
uint64_t mini_pool_hash(struct mini *m);
/* Run the step. Logits [R][V] on the host, valid until the next run. */
const float *mini_run(struct mini *m);
/* Forget the tokens of a sequence (its blocks stay its own). */
void mini_reset(struct mini *m, int32_t seq);

/* The whole of ids[n] through fresh sequence 0 in steps of `chunk` tokens; out[n][V] takes every row's logits. */
void mini_logits(struct mini *m, const int32_t *ids, int32_t n, int32_t chunk, float *out);

#endif
