/* cpu_fast - inside of the fast CPU backend: packed weights, pieces of work, and the kernels that an ISA provides.
 *
 * Kernels are written once (cpu_fast_k_*.h) over 16 lanes of float: two AVX2 registers or one of AVX-512. A lane is an
 * output column (linear), a key (scores) or an element of a head (values), and every sum over K runs in one order in
 * every lane. So the bits do not depend on how many rows go together, on the threads, or on the ISA.
 *
 * Packed weights: PANELS of 16 output columns. Block types store, for each 32 inputs, the 16 columns side by side:
 *     quants   4-bit types: the 16 bytes of a file block, in groups of four: [4 groups][16 columns][4 bytes]
 *              Q8_0: s8 [16 pairs][16 columns][2], pairs of inputs in the order of PAIR_ORDER
 *     d        f16 [16]     scale of each column
 *     m        f16 [16]     minimum of each column (Q4_1 only)
 * Float types store [input][16 columns]. The last panel is filled up with zeros.
 *
 * Activations meet block types as 16-bit integers: x = d * q, d = max|x| / 32767 of each 32 inputs, q rounded to
 * nearest even, stored in PAIR_ORDER. (Eight bits would make prefill 1.4 times as fast, but move SmolLM2-135M by a mean
 * KL of 3e-3 and change the best token at 1 % of the positions where it is clear; sixteen move it by less than the KV
 * format does.) A block's dot product is an exact integer; the sum over blocks runs in float: acc = fma(d_w * d_x,
 * (float)dot, acc), and for Q4_1 then acc = fma(m_w, d_x * sum(q), acc).
 *
 * PAIR_ORDER is how four-bit quants come out of a group: shifting a column's four bytes by 0, 4, 8, 12 bits leaves in
 * the halves of its 32-bit lane inputs (4g, 4g+2), (16+4g, 16+4g+2), (4g+1, 4g+3), (16+4g+1, 16+4g+3).
 */
#ifndef HEARTH_COMPUTE_CPU_FAST_H
#define HEARTH_COMPUTE_CPU_FAST_H

#include "engine/compute/backend.h"
#include "engine/compute/cpu_fast_pool.h"
#include "engine/compute/quant.h"

#include <stdbool.h>

#define PANEL     16  /* output columns that lie side by side */
#define KEY_TILE  32  /* keys that attention scores together */
#define KEY_PIECE 256 /* keys whose partial result is merged as one; a multiple of KEY_TILE */
#define ATTN_Q    64  /* query vectors that share a tile of keys, at most */
#define ATTN_D    512 /* largest head_dim */

/* Rows of activations as the kernels read them: float, and quantised where a block type will meet them. */
struct fast_acts {
    const float *x; /* [rows][k] */
    int16_t *q;     /* [rows][k] in PAIR_ORDER */
    float *d;       /* [rows][k/32] scales */
    float *s;       /* [rows][k/32] d * sum(q) */
    int32_t *sum;   /* [rows][k/32] sum(q) */
    int32_t k;
};

/* A piece of out = x * W^T: rows [row0, row1), panels [panel0, panel1) of one part of a weight. */
struct fast_gemm {
    const struct fast_acts *acts;
    const uint8_t *panels;
    uint32_t dtype;
    int32_t n; /* columns of the part */
    int32_t row0, row1, panel0, panel1;
    float *out; /* column 0 of this part in row 0 */
    int64_t out_stride;
};

/* A piece of attention: n_rows consecutive rows of one sequence, n_heads query heads of one kv head, and the keys
 * [key0, key1) of one KEY_PIECE. Row r, head h is vector r * n_heads + h; n_rows * n_heads <= ATTN_Q. */
struct fast_attn {
    const struct attn_args *args;
    int32_t row0, n_rows;
    int32_t head0, n_heads, kv_head;
    int32_t key0, key1;
    float *o;   /* [n_rows * n_heads][head_dim] */
    float *lse; /* [n_rows * n_heads] */
};

/* What one ISA provides. `scratch` is FAST_SCRATCH bytes of the calling thread, 64-byte aligned. */
struct fast_isa {
    const char *name; /* "AVX2" */
    /* acts: fill q, d, s, sum of rows [row0, row1) from x. */
    void (*quantise)(const struct fast_acts *acts, int32_t row0, int32_t row1);
    void (*gemm)(const struct fast_gemm *g, void *scratch);
    void (*attend)(const struct fast_attn *t, void *scratch);
    /* One row of add_norm, silu_mul and rope of backend.h. cs: cos [half], then sin [half]. */
    void (*add_norm)(float *out, float *x, const float *add, const float *w, float eps, int32_t width);
    void (*silu_mul)(float *out, const float *gu, int32_t f);
    void (*rotate)(float *head, const float *cs, int32_t half);
    void (*kv_put)(void *row, const float *x, uint32_t dim, uint32_t format, float scale);
    /* (oa, la) := merge of (oa, la) and (ob, lb), vectors of d floats: the one merge. */
    void (*merge)(float *oa, float *la, const float *ob, float lb, int32_t d);
};

#define FAST_SCRATCH (512u << 10)

extern const struct fast_isa fast_isa_avx2;
extern const struct fast_isa fast_isa_avx512;

struct cpu_fast {
    struct backend_head head;
    const struct fast_isa *isa;
    struct fast_pool *pool;
    int32_t threads, max_rows, max_cols, max_vocab, max_draws;
    struct fast_acts acts; /* room for max_rows x max_cols */
    uint8_t *scratch;      /* threads x FAST_SCRATCH */
    struct fast_attn_plan *attn;
    void *memory; /* all of the above in one block */
    size_t memory_bytes;
    float *sampling;         /* threads x 2 x max_vocab */
    int32_t *drawn;          /* [max_draws] what the sampler chose last */
    struct fast_slab *slabs; /* weights */
    char text[64];
};

/* -- cpu_fast_mem.c */
/* Zeroed, 64-byte aligned memory in large pages if it is large; NULL when there is none. */
void *fast_take(size_t bytes);
void fast_give(void *p, size_t bytes); /* NULL is fine */
/* The same for weights, close together. */
void *fast_slab_take(struct fast_slab **slabs, size_t bytes);
void fast_slab_give(struct fast_slab **slabs, const void *p);

/* -- cpu_fast_pack.c */
/* Bytes of one panel over `cols` inputs; 0 for a type that cpu_fast does not take. */
uint64_t fast_panel_bytes(uint32_t dtype, int32_t cols);
/* Pack part p into `to` (ceil(rows/16) panels, zeroed before). */
void fast_pack(uint8_t *to, const struct weight_part *p);
/* out[cols] = row r of a packed part. */
void fast_unpack_row(float *out, const uint8_t *panels, uint32_t dtype, int32_t cols, int32_t r);

/* -- cpu_fast_gemm.c, cpu_fast_attn.c: ops of backend.h */
void fast_linear(struct backend *be, float *out, const void *x, const struct weight *w, int32_t n_rows);
void fast_attention(struct backend *be, const struct attn_args *a);
void fast_merge(struct backend *be, struct attn_partial a, struct attn_partial b, int32_t n, int32_t d);
/* Bytes that attention works in, and its state set up in zeroed memory of that size. */
size_t fast_attn_bytes(int32_t max_rows, int32_t threads);
struct fast_attn_plan *fast_attn_init(void *memory, struct cpu_fast *f);

static inline struct cpu_fast *cpu_fast(struct backend *be)
{
    return (struct cpu_fast *)(void *)be;
}

static inline void *fast_scratch(struct cpu_fast *f, int32_t thread)
{
    return f->scratch + (size_t)thread * FAST_SCRATCH;
}

#endif
