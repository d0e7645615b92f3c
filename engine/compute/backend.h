/* backend - every op with its shapes: the contract between models and the hardware. C17 and C++17.
 *
 * `cpu_ref` is the truth: scalar C, float32. `cpu_fast` and `cuda` are tested against it op by op with written
 * tolerances. All activations are float32 in memory; `cuda` rounds the inputs of a linear layer to bfloat16. Shapes: T
 * rows of the step, E model width, H query heads, G kv heads, D head_dim, F feed-forward width, V vocabulary, R logits
 * rows. All arrays row-major, 64-byte aligned, in backend memory (alloc) unless said otherwise.
 *
 * Row invariance: on the CPU backends the bits of an output row depend on that row's inputs alone, not on T, on the
 * other rows, on chunking or on the number of threads. Sums run in one fixed order. On `cuda` this holds for every op
 * but linear, whose library picks an algorithm by the number of rows: it refuses backend_opts.deterministic.
 *
 * Calls are queued in order and may return before they are done; `sync` waits. CPU backends are done when they return.
 * One engine thread calls; a backend may have its own workers inside. Ops can't fail: shapes are checked by assert and
 * everything is allocated before. A device that dies ends the process (style rule 12).
 */
#ifndef HEARTH_COMPUTE_BACKEND_H
#define HEARTH_COMPUTE_BACKEND_H

#include "engine/base/err.h"
#include "engine/compute/quant.h"
#include "engine/compute/sample.h"
#include "engine/compute/step.h"
#include "engine/kv/format.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BACKEND_ABI 3

/* D is even and at most this: kernels keep a head on the stack. Families refuse other models. */
#define BACKEND_HEAD_DIM_MAX 256

/* Host bytes of a weight matrix [rows][cols] as a loader found them: row r begins at data + r * row_bytes. */
struct weight_part {
    const void *data;
    uint32_t dtype; /* enum dtype */
    int32_t rows;   /* N: output features */
    int32_t cols;   /* K: input features; a multiple of 32 for block types */
    uint64_t row_bytes;
};

#define WEIGHT_PARTS_MAX 3

struct weight_seg {
    void *data; /* backend's own packing */
    uint64_t bytes;
    uint32_t dtype;
    int32_t rows;
};

/* A weight in backend memory: up to three parts stacked along rows (q, k, v; gate, up), each with its own type. */
struct weight {
    int32_t rows, cols; /* rows of all parts together */
    int32_t n_parts;
    struct weight_seg part[WEIGHT_PARTS_MAX];
};

/* (o, lse): a partial attention result. lse_ln is the NATURAL logarithm of sum(exp(scores)); -INFINITY where no key was
 * seen (then o is 0). */
struct attn_partial {
    float *o;      /* [T][H][D] */
    float *lse_ln; /* [T][H], or NULL when the caller does not need it */
};

struct attn_args {
    struct attn_partial out;
    const float *q;          /* [T] rows of q_stride floats; head h at h * D */
    int64_t q_stride;        /* floats from row to row (q lies in the packed qkv) */
    const struct step *step; /* rows, positions, block tables */
    const struct kv_view *kv;
    int32_t n_heads;   /* H, a multiple of kv->n_kv_heads */
    float scale;       /* multiplies q.k, usually 1/sqrt(D) */
    int32_t window;    /* 0 = none; else row at position p sees keys p-window+1 .. p */
    const float *sink; /* [H] extra logits without a value that join the softmax, or NULL */
    /* Only keys in [begin, end): 0 and INT32_MAX for all. The sink counts when begin = 0, so of the parts of a split
     * just one begins there. */
    int32_t key_begin, key_end;
};

struct rope_args {
    float *qkv;               /* [T][(H + 2G) * D]: q heads, k heads, v heads; q and k are rotated in place */
    const struct step *step;  /* pos */
    const float *inv_freq;    /* [D/2] host memory: angle of pair i at position p is p * inv_freq[i] */
    const struct kv_view *kv; /* k (rotated) and v of each row are written here, at the row's position in its table */
    int32_t n_heads;
    float attn_factor; /* multiplies cos and sin (YaRN); 1 otherwise */
};

struct backend_opts {
    int32_t threads;   /* 0 = sys_cpu_count() */
    const char *isa;   /* cpu: "auto", "avx2", "avx512"; NULL = auto. Not there = open fails and says what is */
    int32_t max_rows;  /* largest T a step will have: backends size scratch with it */
    int32_t max_cols;  /* largest K of any weight */
    int32_t max_vocab; /* largest V that `sample` will see; 0 = none */
    /* Row invariance for every op, whatever it costs. One that can't: open fails with -ENOTSUP and says so. */
    bool deterministic;
};

struct backend; /* state of an open backend; its first member is `const struct backend_ops *ops` */

struct backend_ops {
    uint32_t abi;
    const char *name; /* "cpu_ref", "cpu_fast", "cuda" */
    /* Does this machine have what the backend needs? 0 and *memory = bytes of its own memory that are free, or -ENODEV,
     * -ENOTSUP with e saying what is missing. May leave the device's context in this process: ask in a process that
     * computes, or in one that ends. NULL: always, and it takes host memory. Any thread. */
    int (*probe)(uint64_t *memory, struct err *e);
    int (*open)(struct backend **out, const struct backend_opts *o, struct err *e);
    void (*close)(struct backend *be);
    /* "AVX2, 2 threads": for the ready line and /metrics. Lives as long as be. */
    const char *(*describe)(const struct backend *be);

    /* -- memory. alloc: zeroed, 64-byte aligned; NULL when there is none. */
    void *(*alloc)(struct backend *be, size_t bytes);
    void (*release)(struct backend *be, void *p, size_t bytes);
    void (*upload)(struct backend *be, void *to, const void *host, size_t bytes);
    void (*download)(struct backend *be, void *host, const void *from, size_t bytes);
    /* From backend memory to backend memory, queued like an op (a forked sequence gets its own tail block). */
    void (*copy)(struct backend *be, void *to, const void *from, size_t bytes);
    /* Pack parts (same cols) into backend memory. The host bytes may go after return.
     * 0, -ENOMEM, or -ENOTSUP for a dtype it does not take (named in e). */
    int (*weight_load)(struct backend *be, struct weight *out, const struct weight_part *parts, int n_parts,
                       struct err *e);
    void (*weight_free)(struct backend *be, struct weight *w); /* zeroes w */
    /* Bytes weight_load will take for this part, for --plan. */
    uint64_t (*weight_bytes)(uint32_t dtype, int32_t rows, int32_t cols);

    /* -- ops */
    /* out[T][E] = row ids[t] of table (dequantised). */
    void (*embed)(struct backend *be, float *out, const struct weight *table, const int32_t *ids, int32_t n_rows);
    /* When add is not NULL: x += add, in place. Then out = x / sqrt(mean(x^2) + eps) * w. x, add, out [T][E], w [E];
     * out may be NULL (only the sum is wanted). Zhang & Sennrich 2019, eq. 4. */
    void (*add_norm)(struct backend *be, float *out, float *x, const float *add, const float *w, float eps,
                     int32_t n_rows, int32_t width);
    /* out[T][N] = x[T][K] * W[N][K]^T. */
    void (*linear)(struct backend *be, float *out, const float *x, const struct weight *w, int32_t n_rows);
    /* Rotary embedding, pairs (i, i + D/2) ("neox" order; loaders bring q and k rows into it), and the KV write.
     * Su et al. 2021, eq. 34. */
    void (*rope_kv)(struct backend *be, const struct rope_args *a);
    /* Causal attention over paged KV: row t of a sequence sees keys 0 .. pos[t] (window, sink, key range as given). */
    void (*attention)(struct backend *be, const struct attn_args *a);
    /* a := merge(a, b), in place, n = T * H vectors of d floats: lse = ln(e^a + e^b), o weighted by e^(lse_i - lse). */
    void (*merge)(struct backend *be, struct attn_partial a, struct attn_partial b, int32_t n, int32_t d);
    /* out[T][F] = silu(gu[t][f]) * gu[t][F + f]; gu [T][2F]. */
    void (*silu_mul)(struct backend *be, float *out, const float *gu, int32_t n_rows, int32_t f);
    /* out[R][E] = x[rows[r]]. */
    void (*gather)(struct backend *be, float *out, const float *x, const int32_t *rows, int32_t n, int32_t width);
    /* Choose a token for each of R rows of logits[R][V] (left unchanged); see sample.h. Host arrays. */
    void (*sample)(struct backend *be, const float *logits, int32_t vocab, const struct sample_row *rows,
                   struct sample_out *out, int32_t n);
    /* Wait until everything queued is done. */
    void (*sync)(struct backend *be);
};

/* What every backend's state begins with. */
struct backend_head {
    const struct backend_ops *ops;
};

static inline const struct backend_ops *backend_ops(const struct backend *be)
{
    return ((const struct backend_head *)(const void *)be)->ops;
}

extern const struct backend_ops backend_cpu_ref;
extern const struct backend_ops backend_cpu_fast;

#endif
