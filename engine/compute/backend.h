/* backend - every op with its shapes: the contract between models and the hardware. C17 and C++17.
 *
 * `cpu_ref` is the truth: scalar C, float32. `cpu_fast` and `cuda` are tested against it op by op with written
 * tolerances. Activations are float32 in memory, but for INPUT ROWS: what a linear layer reads lies in the backend's
 * own type, ops_input_bytes a row, and the ops before it (add_norm, attention, silu_mul) write it so: float32 on the
 * CPU, bfloat16 on `cuda`. Shapes: T rows of the step, E model width, H query heads, G kv heads, D head_dim, F
 * feed-forward width, V vocabulary, R logits rows. All arrays row-major, 64-byte aligned, in backend memory (alloc)
 * unless said otherwise.
 *
 * Row invariance: on the CPU backends the bits of an output row depend on that row's inputs alone, not on T, on the
 * other rows, on chunking or on the number of threads. Sums run in one fixed order. On `cuda` this holds for every op
 * but linear and attention, which pick an algorithm by the number of rows; with backend_opts.deterministic for these,
 * too, for one kind of card and one version of its libraries (`describe` names them).
 *
 * Calls are queued in order and may return before they are done; `sync` waits for all of them, `step_wait` for a step.
 * CPU backends are done when they return. Up to `depth` steps may be queued at a time: the tokens that a step chooses
 * are then not known to the host while the next is queued, which names them by their draw (step.h, `after`).
 *
 * One engine thread calls; a backend may have its own workers inside. Ops can't fail: shapes are checked by assert and
 * everything is allocated before. A device that dies ends the process (style rule 12).
 */
#ifndef HEARTH_COMPUTE_BACKEND_H
#define HEARTH_COMPUTE_BACKEND_H

#include "engine/base/err.h"
#include "engine/compute/quant.h"
#include "engine/compute/sample.h"
#include "engine/compute/seal.h"
#include "engine/compute/step.h"
#include "engine/kv/format.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BACKEND_ABI 8

/* D is even and at most this: kernels keep a head on the stack. Families refuse other models. */
#define BACKEND_HEAD_DIM_MAX 256

/* A good wide_bytes for a pool of kv8: a million keys of 128 elements. */
#define BACKEND_WIDE_BYTES (512ull << 20)

/* Host bytes of a weight matrix [rows][cols] as a loader found them: row r begins at data + r * row_bytes. */
struct weight_part {
    const void *data; /* NULL with made_scale: the bytes are the formula of load_random.c, for weight_make */
    uint32_t dtype;   /* enum dtype */
    int32_t rows;     /* N: output features */
    int32_t cols;     /* K: input features; a multiple of 32 for block types */
    uint64_t row_bytes;
    uint64_t made_key; /* of a matrix that is made, not read: bf16(v[i] * made_scale) under that key, */
    float made_scale;  /* 0 = it is read */
    /* Where a file has the rows, one after the other, when it is known (weight_read): its path and the first byte. */
    const char *path; /* NULL: it is not; the loader's */
    uint64_t at;
    int32_t
        head_dim;  /* the file has rows of heads of so many in pairs: 2 i + half is to be row half * D/2 + i. 0: not */
    uint32_t keep; /* DT_F8: the backend shall keep it in 8 bits (cuda; of all parts of a weight alike). 0: as it is */
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
    struct attn_partial out; /* o is NULL when the result goes to out_input */
    void *out_input;         /* [T] input rows of H * D, or NULL */
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

/* A copy between backend memory and host memory beside the steps. */
struct backend_move {
    void *device, *host;
    size_t bytes; /* a multiple of 8 */
    bool up;      /* host -> device */
    /* set when it is done */
    struct seal seal; /* of the device's bytes: before they left, after they came */
    /* for the backend */
    struct backend_move *next;
};

struct backend_opts {
    int32_t threads;   /* 0 = sys_cpu_count() */
    const char *isa;   /* cpu: "auto", "avx2", "avx512"; NULL = auto. Not there = open fails and says what is.
                        * cuda: "sm_80" keeps to kernels of the oldest cards, all else is auto */
    int32_t max_rows;  /* largest T a step will have: backends size scratch with it */
    int32_t max_seqs;  /* largest S and R; 0 = max_rows */
    int64_t max_table; /* most block ids that a step names; 0 = what the first steps need (memory is taken then) */
    int32_t max_cols;  /* largest K of any weight */
    int32_t max_vocab; /* largest V that `sample` will see; 0 = none */
    /* cuda: what attention of many rows takes at open to widen kv8 in. One head of all keys of a sequence must have
     * room (4 D bytes a key), or it runs on slow kernels. Not wanted in deterministic mode. */
    uint64_t wide_bytes;
    /* Row invariance for every op, whatever it costs. One that can't: open fails with -ENOTSUP and says so. */
    bool deterministic;
};

struct backend; /* state of an open backend; its first member is `const struct backend_ops *ops` */

struct backend_ops {
    uint32_t abi;
    const char *name;     /* "cpu_ref", "cpu_fast", "cuda" */
    uint32_t input_dtype; /* of input rows: DT_F32, or DT_BF16 with columns filled up with zeros to a multiple of 8 */
    int32_t depth;        /* steps worth queueing at a time: 1, or 2 where the host is not what computes */
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
    /* The same for parts that are made: nothing crosses the bus. NULL: it can't; load them. */
    int (*weight_make)(struct backend *be, struct weight *out, const struct weight_part *parts, int n_parts,
                       struct err *e);
    /* The same for parts that lie in files: the backend reads them itself and returns when that is under way;
     * weight_wait before the first op. An error of a file is told by one of them later: -errno with e. NULL, both: load
     * them. */
    int (*weight_read)(struct backend *be, struct weight *out, const struct weight_part *parts, int n_parts,
                       struct err *e);
    int (*weight_wait)(struct backend *be, struct err *e);
    void (*weight_free)(struct backend *be, struct weight *w); /* zeroes w */
    /* Bytes weight_load will take for this part, for --plan; DT_F8 for one that shall be kept so. */
    uint64_t (*weight_bytes)(uint32_t dtype, int32_t rows, int32_t cols);

    /* -- a step: pass_begin, the ops of the forward pass, pass_end, sample, step_end; later step_wait. Other ops (copy)
     * come before pass_begin or after step_end. All may be NULL together: the step is run as it is, op by op. */
    /* Bring the step's arrays to where the ops look for them (host arrays may change after return). The step to run the
     * ops with: `step` itself; or one filled up with rows that count for nothing, so that what is recorded serves
     * others, too; or NULL: the pass has been queued as a whole, recorded from an earlier step, and no op may follow.
     */
    const struct step *(*pass_begin)(struct backend *be, const struct step *step);
    void (*pass_end)(struct backend *be);
    /* All of the step has been queued. */
    void (*step_end)(struct backend *be, uint64_t number);
    /* Wait until all up to step_end(number) is done: the results of its `sample` are there. Steps in order. */
    void (*step_wait)(struct backend *be, uint64_t number);
    /* Microseconds that the device had nothing to do before step `number`; it and the step before are done. */
    float (*step_idle_us)(struct backend *be, uint64_t number);

    /* -- moves, in order of their calls in each direction, with at most `depth` under way in each; steps do not wait
     * for them. All NULL together: upload and download do. */
    /* host[host_bytes] is where all moves will have their other end; it is made ready for the device meanwhile. `bell`:
     * an eventfd that is rung when the oldest move of a direction is done, and again for the next one after `moved`;
     * -1 = none. 0 or -errno with e. Once. */
    int (*moves_open)(struct backend *be, const struct seal_key *key, void *host, size_t host_bytes, uint32_t depth,
                      int bell, struct err *e);
    /* Waits for moves under way; then the host memory is the caller's alone. Close without it is fine, too. */
    void (*moves_close)(struct backend *be);
    /* Start one. Down: it begins when all that is queued by now is done. Up: at once; no step that is not done may name
     * the block. 0, or -EAGAIN: not now. */
    int (*move)(struct backend *be, struct backend_move *m);
    /* Moves that are done, as a list; NULL: none. Never waits. */
    struct backend_move *(*moved)(struct backend *be);

    /* -- ops. An output of input rows has zeros in the columns that fill it up. */
    /* out[T][E] = row of table (dequantised) for each token of the step. */
    void (*embed)(struct backend *be, float *out, const struct weight *table, const struct step *step);
    /* When add is not NULL: x += add, in place. Then out = x / sqrt(mean(x^2) + eps) * w. x, add [T][E], w [E]; out
     * [T] input rows of E, or NULL (only the sum is wanted). Zhang & Sennrich 2019, eq. 4. */
    void (*add_norm)(struct backend *be, void *out, float *x, const float *add, const float *w, float eps,
                     int32_t n_rows, int32_t width);
    /* out[T][N] = x[T][K] * W[N][K]^T; x: input rows of K. */
    void (*linear)(struct backend *be, float *out, const void *x, const struct weight *w, int32_t n_rows);
    /* linear, then silu_mul, in one: w is gate and up, gu [T][2F] scratch. NULL: call the two. */
    void (*linear_silu)(struct backend *be, void *out, float *gu, const void *x, const struct weight *w,
                        int32_t n_rows);
    /* Rotary embedding, pairs (i, i + D/2) ("neox" order; loaders bring q and k rows into it), and the KV write.
     * Su et al. 2021, eq. 34. */
    void (*rope_kv)(struct backend *be, const struct rope_args *a);
    /* Causal attention over paged KV: row t of a sequence sees keys 0 .. pos[t] (window, sink, key range as given). */
    void (*attention)(struct backend *be, const struct attn_args *a);
    /* a := merge(a, b), in place, n = T * H vectors of d floats: lse = ln(e^a + e^b), o weighted by e^(lse_i - lse). */
    void (*merge)(struct backend *be, struct attn_partial a, struct attn_partial b, int32_t n, int32_t d);
    /* out[t][f] = silu(gu[t][f]) * gu[t][F + f]; gu [T][2F], out [T] input rows of F. */
    void (*silu_mul)(struct backend *be, void *out, const float *gu, int32_t n_rows, int32_t f);
    /* out[r] = x[step->out_row[r]], rows of row_bytes (a multiple of 4). */
    void (*gather)(struct backend *be, void *out, const void *x, const struct step *step, uint64_t row_bytes);
    /* Choose a token for each of R rows of logits[R][V] (left unchanged); see sample.h. Host arrays; rows may change
     * after return, out is written at the latest by step_wait or sync. At most max_seqs rows. */
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

/* Bytes of an input row of so many columns. */
static inline uint64_t ops_input_bytes(const struct backend_ops *op, int32_t cols)
{
    return op->input_dtype == DT_BF16 ? 2 * (uint64_t)((cols + 7) & ~7) : 4 * (uint64_t)cols;
}

extern const struct backend_ops backend_cpu_ref;
extern const struct backend_ops backend_cpu_fast;

#endif
