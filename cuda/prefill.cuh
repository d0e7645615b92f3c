/* prefill - attention of sequences with many query rows: between attn_prefill.cu, which cuts the rows into tiles, and
 * the kernels that compute them. */
#ifndef HEARTH_CUDA_PREFILL_CUH
#define HEARTH_CUDA_PREFILL_CUH

#include "cuda/cuda.cuh"

#define LOG2_E 1.4426950408889634f
#define LN_2   0.6931471805599453f

/* Consecutive vectors of one sequence (v: row seq_row[seq] + v / group, head v % group of a kv head), from v0 up to the
 * tile's end or the sequence's, over one of `parts` equal parts of their keys: the work of one CTA, for each kv head.
 */
struct prefill_item {
    int32_t seq, v0, part, parts;
    int32_t slot; /* -1: the only part. Else the result for kv head g goes to slot + g of the partial results, */
};                /* and part 0's slot + p * kv heads is that of part p */

/* All of it on the card. */
struct prefill_work {
    const struct prefill_item *item; /* those with the most keys first */
    int32_t n;
    int32_t *next;   /* two zeros: what has been handed out. A launch leaves zeros */
    float *part_o;   /* [slots][tile][head_dim] partial results, */
    float *part_lse; /* [slots][tile] and the logarithms of their sums, base 2 */
};

/* Where results go: rows of `stride` elements. */
struct prefill_out {
    void *o;
    int64_t stride;
    float *lse_ln; /* [T][H] or NULL */
    bool bf16;     /* o: bfloat16, else float */
};

struct prefill_args {
    struct prefill_out out;
    const float *q, *sink; /* as in struct attn_args */
    int64_t q_stride;
    struct kv_view kv;
    struct step_dev step;
    struct prefill_work work;
    int32_t head_dim, n_kv_heads, group;
    int32_t heads_at_once; /* order of work: 1, all tiles of a kv head come together; n_kv_heads, all heads of a tile */
    int32_t window, key_begin, key_end;
    float scale; /* with log2(e) */
};

/* -- attn_wgmma.cu: compute capability 9.0 */
/* Vectors of a tile, or 0 for KV and heads that the kernel does not take. */
int32_t wgmma_tile(const struct attn_args *a);
/* Attention as backend.h says, for the rows of a->work alone. Queued. */
void wgmma_attention(struct cuda *c, const struct prefill_args *a);
/* Ask for the shared memory that the kernels need; once a process. */
void wgmma_setup(void);

/* -- attn_mma.cu: the same for compute capability 8.0 and newer. */
int32_t mma_tile(const struct attn_args *a);
void mma_attention(struct cuda *c, const struct prefill_args *a);
void mma_setup(void);

#endif
