/* ops_run - backend ops as functions on host arrays, with poisoned outputs.
 *
 * Each call uploads its inputs, fills the output with NaN, runs the op, waits, and brings the output back; bytes after
 * the output are checked (an op that writes too far fails the test), and inputs that an op must leave alone are
 * compared. Shapes are those of backend.h.
 */
#ifndef HEARTH_TESTS_OPS_RUN_H
#define HEARTH_TESTS_OPS_RUN_H

#include "engine/compute/backend.h"
#include "tests/support/ops_gen.h"

#include <stdbool.h>

/* Which backend, how opened. */
struct ops_variant {
    const struct backend_ops *ops;
    const char *isa;
    int32_t threads;
    uint64_t wide_bytes; /* as in struct backend_opts */
    bool deterministic;
};

struct ops_dev {
    const struct backend_ops *ops;
    struct backend *be;
    char name[64]; /* "cpu_fast avx2 x2" */
    bool bf16; /* the truth beside a backend whose weights and input rows are bfloat16: rounds what `linear` reads */
};

#define OPS_MAX_ROWS  160
#define OPS_MAX_COLS  2048
#define OPS_MAX_VOCAB 4096

/* 0, or -ENOTSUP when this machine lacks the isa (e says what is there). Any other failure is a failed test. */
int ops_open(struct ops_dev *d, const struct ops_variant *v, struct err *e);
void ops_close(struct ops_dev *d);

void ops_load(const struct ops_dev *d, struct weight *w, const struct ops_matrix *m);

void ops_embed(const struct ops_dev *d, float *out, const struct weight *w, const int32_t *ids, int32_t n);
/* x is both input and output; out may be NULL. */
void ops_add_norm(const struct ops_dev *d, float *out, float *x, const float *add, const float *w, float eps, int32_t n,
                  int32_t width);
void ops_linear(const struct ops_dev *d, float *out, const float *x, const struct weight *w, int32_t n);
/* The backend must have it. out [n][rows / 2]. */
void ops_linear_silu(const struct ops_dev *d, float *out, const float *x, const struct weight *w, int32_t n);
/* a->kv->base is host memory of pool_bytes, changed as the op does; a->qkv too. */
void ops_rope_kv(const struct ops_dev *d, const struct rope_args *a, size_t pool_bytes);
/* Host out.o [T][H][D] (or the same as floats to out_input, by way of input rows) and out.lse_ln [T][H] (or NULL);
 * a->kv->base and a->q are host memory. */
void ops_attention(const struct ops_dev *d, const struct attn_args *a, size_t pool_bytes);
void ops_merge(const struct ops_dev *d, struct attn_partial a, struct attn_partial b, int32_t n, int32_t dim);
void ops_silu_mul(const struct ops_dev *d, float *out, const float *gu, int32_t n, int32_t f);
void ops_gather(const struct ops_dev *d, float *out, const float *x, int32_t x_rows, const int32_t *rows, int32_t n,
                int32_t width);
void ops_sample(const struct ops_dev *d, const float *logits, int32_t vocab, const struct sample_row *rows,
                struct sample_out *out, int32_t n);

#endif
