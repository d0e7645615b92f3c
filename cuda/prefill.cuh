/* prefill - attention of sequences with many query rows: between attn_prefill.cu, which cuts the rows into tiles, and
 * the kernels that compute them. */
#ifndef HEARTH_CUDA_PREFILL_CUH
#define HEARTH_CUDA_PREFILL_CUH

#include "cuda/cuda.cuh"

#define LOG2_E 1.4426950408889634f
#define LN_2   0.6931471805599453f

/* Consecutive vectors of one sequence (v: row seq_row[seq] + v / group, head v % group of a kv head), from v0 up to the
 * tile's end or the sequence's, over a part of their keys: the work of one CTA, for each kv head.
 *
 * Parts are equal ones of a tile's keys, and `part` of `parts` is the item's. Or they are fixed (part_keys of the
 * arguments): part p of a sequence is keys p * part_keys on, whatever the tile, and `part` to `part + parts - 1` are
 * the item's, one after the other: each is a partial result, merged with what those before have come to.
 */
struct prefill_item {
    int32_t seq, v0, part, parts;
    int32_t
        slot; /* -1: what becomes of the item is the result. Else it goes, for kv head g, to slot + g of the partial */
};            /* results, and that of the tile's next part to the n_kv_heads-th slot behind */

/* All of it on the card. */
struct prefill_work {
    const struct prefill_item *item; /* those with the most keys first */
    int32_t n;
    const int32_t *count; /* NULL, or where the card has written what n is: n is only expected */
    int32_t *next;        /* two zeros: what has been handed out. A launch leaves zeros */
    float *part_o;        /* [slots][vectors][head_dim] partial results, */
    float *part_lse;      /* [slots][vectors] and the logarithms of their sums, base 2 */
    int32_t vectors;      /* of a slot */
};

/* Where results go, from the first of the heads on: rows of `stride` elements and of `heads` logarithms. */
struct prefill_out {
    void *o;
    int64_t stride;
    float *lse_ln; /* or NULL */
    int32_t heads;
    bool bf16; /* o: bfloat16, else float */
};

struct prefill_args {
    struct prefill_out out;
    const float *q, *sink; /* as in struct attn_args, from the first of the heads on */
    int64_t q_stride;
    struct kv_view kv;
    struct step_dev step;
    struct prefill_work work;
    int32_t head_dim, n_kv_heads, group;
    int32_t heads_at_once; /* order of work: 1, all tiles of a kv head come together; n_kv_heads, all heads of a tile */
    int32_t window, key_begin, key_end;
    int32_t part_keys; /* 0: equal parts; else fixed ones of so many keys, a multiple of every kernel's piece */
    float scale;       /* with log2(e) */
};

/* What a call says, for the heads of kv, of which the first is head g0 of a->kv. Left to the caller: work,
 * heads_at_once, part_keys, and another block table where kv has one. */
static inline struct prefill_args prefill_args_of(const struct attn_args *a, const struct step_dev *at,
                                                  const struct kv_view *kv, int32_t g0)
{
    const int32_t d = (int32_t)kv->head_dim, group = a->n_heads / (int32_t)a->kv->n_kv_heads, head0 = g0 * group;
    struct prefill_args k = {};
    k.out.heads = a->n_heads;
    k.out.bf16 = a->out_input != NULL;
    k.out.stride = k.out.bf16 ? cuda_pad(a->n_heads * d) : a->n_heads * d;
    k.out.o = k.out.bf16 ? (void *)((__nv_bfloat16 *)a->out_input + head0 * d) : a->out.o + head0 * d;
    k.out.lse_ln = a->out.lse_ln ? a->out.lse_ln + head0 : NULL;
    k.q = a->q + head0 * d;
    k.sink = a->sink ? a->sink + head0 : NULL;
    k.q_stride = a->q_stride;
    k.kv = *kv;
    k.step = *at;
    k.head_dim = d;
    k.n_kv_heads = (int32_t)kv->n_kv_heads;
    k.group = group;
    k.window = a->window;
    k.key_begin = a->key_begin;
    k.key_end = a->key_end;
    k.scale = a->scale * LOG2_E;
    return k;
}

#define FIXED_CTAS 2 /* with fixed parts a kernel has at most so many CTAs an SM, which have a slot each */

/* -- attn_wgmma.cu: compute capability 9.0 */
/* Vectors of a tile, or 0 for KV that the kernel does not take. */
int32_t wgmma_tile(const struct kv_view *kv);
/* Attention as backend.h says, for the rows of a->work alone. Queued. */
void wgmma_attention(struct cuda *c, const struct prefill_args *a);
/* Ask for the shared memory that the kernels need; once a process. */
void wgmma_setup(void);

/* -- attn_mma.cu: the same for compute capability 8.0 and newer. */
int32_t mma_tile(const struct kv_view *kv);
void mma_attention(struct cuda *c, const struct prefill_args *a);
void mma_setup(void);

/* -- attn_widen.cu: kv8 as kv16 */
/* Bytes of one head of a widened block. */
uint64_t widen_bytes(const struct kv_view *kv);
/* Blocks of n_kv_heads heads at `base`, one after the other. */
struct kv_view widen_view(const struct kv_view *kv, void *base, int32_t n_kv_heads);
/* Block i of `to` becomes block[i] of `from`, from kv head g on; n of them. Queued. */
void widen(struct cuda *c, const struct kv_view *to, const struct kv_view *from, int32_t g, const int32_t *block,
           int32_t n);

#endif
