/* prefill - attention of sequences with many query rows: between attn_prefill.cu, which cuts the rows into tiles, and
 * the kernels that compute them. */
#ifndef HEARTH_CUDA_PREFILL_CUH
#define HEARTH_CUDA_PREFILL_CUH

#include "cuda/cuda.cuh"

/* Consecutive vectors of one sequence (v: row seq_row[seq] + v / group, head v % group of a kv head), from v0 up to the
 * tile's end or the sequence's: the work of one CTA, for each kv head. */
struct prefill_item {
    int32_t seq, v0;
};

struct prefill_work {
    const struct prefill_item *item; /* on the card; those with the most keys first */
    int32_t n;
    int32_t *next; /* on the card, two zeros: what has been handed out. A launch leaves zeros */
};

/* Where results go: rows of `stride` elements. */
struct prefill_out {
    void *o;
    int64_t stride;
    float *lse_ln; /* [T][H] or NULL */
    bool bf16;     /* o: bfloat16, else float */
};

/* -- attn_wgmma.cu: compute capability 9.0 */
/* Vectors of a tile, or 0 for KV and heads that the kernel does not take. */
int32_t wgmma_tile(const struct attn_args *a);
/* Attention as backend.h says, for the rows of `work` alone. Queued. */
void wgmma_attention(const struct attn_args *a, const struct prefill_out *out, const struct step_dev *step,
                     const struct prefill_work *work, int32_t n_sm, cudaStream_t stream);
/* Ask for the shared memory that the kernels need; once a process. */
void wgmma_setup(void);

#endif
