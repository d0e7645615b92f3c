/* prefill_rows - what the kernels of prefill attention have in common: a tile's numbers, and the rows of a thread.
 *
 * Matrix results lie alike in both: thread 4 r + c of a warp holds, of its 16 vectors, rows r and r + 8, and of each 8
 * columns the pair 2c, 2c + 1: x[4i], x[4i + 1] in row r, x[4i + 2], x[4i + 3] in row r + 8. S: d and keys (of a
 * piece), vectors (of a tile).
 */
#ifndef HEARTH_CUDA_PREFILL_ROWS_CUH
#define HEARTH_CUDA_PREFILL_ROWS_CUH

#include "cuda/prefill.cuh"
#include "cuda/ptx.cuh"

/* The keys [*begin, *end) that a row sees. */
static __device__ inline void row_range(const struct prefill_args &a, int32_t row, int32_t *begin, int32_t *end)
{
    int32_t pos = a.step.pos[row];
    *begin = a.key_begin;
    *end = a.key_end <= pos ? a.key_end : pos + 1;
    if (a.window && *begin < pos - a.window + 1)
        *begin = pos - a.window + 1;
}

/* -- a tile */

/* What is known of a tile before it is computed. */
struct prefill_now {
    const int32_t *table;
    int32_t row0, n_vec, v0, g;    /* v0 < 0: there is no tile */
    int32_t begin, end;            /* keys that some row sees, */
    int32_t first, last;           /* pieces with such keys, */
    int32_t full_first, full_last; /* and those between which no row needs a mask */
    int32_t written;               /* keys of the sequence */
    int32_t part;                  /* of the keys */
    int32_t slot;                  /* -1, or a place for partial results: */
    bool adds, leaves;             /* those of the parts before are there; the result goes there */
};

/* Items of the list. */
static __device__ inline int32_t items_of(const struct prefill_args &a)
{
    return a.work.count ? *a.work.count : a.work.n;
}

/* Parts that a CTA computes one after the other: each is a tile of its own to it. */
static __device__ inline int32_t turns_of(const struct prefill_args &a, const struct prefill_item &it)
{
    return a.part_keys ? it.parts : 1;
}

/* The item's part `turn` for kv head g. cta: a number for a slot of its own. */
template <class S>
static __device__ void tile_begin(const struct prefill_args &a, const struct prefill_item &it, int32_t g, int32_t turn,
                                  int32_t cta, struct prefill_now *t)
{
    const int32_t row1 = a.step.seq_row[it.seq + 1];
    int32_t end_of_first, begin_of_last;
    t->table = a.step.table + a.step.table_at[it.seq];
    t->row0 = a.step.seq_row[it.seq];
    t->n_vec = (row1 - t->row0) * a.group;
    t->v0 = it.v0;
    t->g = g;
    t->written = a.step.pos[row1 - 1] + 1;
    row_range(a, t->row0 + it.v0 / a.group, &t->begin, &end_of_first);
    row_range(a, t->row0 + (min(it.v0 + S::vectors, t->n_vec) - 1) / a.group, &begin_of_last, &t->end);
    const int32_t first = t->begin / S::keys, n = t->begin < t->end ? (t->end + S::keys - 1) / S::keys - first : 0;
    if (a.part_keys) {
        const int32_t each = a.part_keys / S::keys;
        t->part = it.part + turn;
        t->first = max(first, t->part * each);
        t->last = max(min(first + n, (t->part + 1) * each), t->first);
        t->slot = it.slot >= 0 ? it.slot + g : it.parts > 1 ? cta : -1;
        t->adds = turn > 0;
        t->leaves = it.slot >= 0 || turn + 1 < it.parts;
    } else {
        t->part = it.part;
        t->first = first + (int32_t)((int64_t)n * it.part / it.parts);
        t->last = first + (int32_t)((int64_t)n * (it.part + 1) / it.parts);
        t->slot = it.slot < 0 ? -1 : it.slot + g;
        t->adds = false;
        t->leaves = it.slot >= 0;
    }
    t->full_first = (begin_of_last + S::keys - 1) / S::keys;
    t->full_last = end_of_first / S::keys;
}

/* Elements d0 .. d0 + 7 of vector v, rounded to bfloat16 with the scale in it; zeros behind the last. */
static __device__ inline uint4 q_piece(const struct prefill_args &a, const struct prefill_now &t, int32_t v, int32_t d0)
{
    float4 x[2] = {};
    if (v < t.n_vec && d0 < a.head_dim) {
        const float4 *from = (const float4 *)(a.q + (t.row0 + v / a.group) * a.q_stride +
                                              (size_t)(t.g * a.group + v % a.group) * a.head_dim + d0);
        x[0] = from[0];
        x[1] = from[1];
    }
    return {pack_bf16(x[0].x * a.scale, x[0].y * a.scale), pack_bf16(x[0].z * a.scale, x[0].w * a.scale),
            pack_bf16(x[1].x * a.scale, x[1].y * a.scale), pack_bf16(x[1].z * a.scale, x[1].w * a.scale)};
}

/* -- rows of a thread */

/* The two rows of a thread: maximum and sum so far (the sum of its own columns), and the keys they see. */
struct prefill_rows {
    float max[2], sum[2], shrink[2];
    int32_t begin[2], end[2];
};

template <class S>
static __device__ inline void mask(float (&s)[S::keys / 2], const struct prefill_rows &r, int32_t key0)
{
    key0 += 2 * (threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < S::keys / 2; i++) {
        const int32_t key = key0 + i / 4 * 8 + i % 2, h = i / 2 % 2;
        s[i] = key >= r.begin[h] && key < r.end[h] ? s[i] : -INFINITY;
    }
}

/* s becomes exp2(s - max); shrink: what earlier values are multiplied by. */
template <class S> static __device__ inline void softmax(float (&s)[S::keys / 2], struct prefill_rows &r)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float max = r.max[h], other = -INFINITY;
#pragma unroll
        for (int i = 0; i < S::keys / 8; i++) {
            max = fmaxf(max, s[4 * i + 2 * h]);
            other = fmaxf(other, s[4 * i + 2 * h + 1]);
        }
        max = fmaxf(max, other);
        max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
        max = fmaxf(max, __shfl_xor_sync(~0u, max, 2));
        const float base = max == -INFINITY ? 0.0f : max;
        r.shrink[h] = exp2_fast(r.max[h] - base);
        r.max[h] = max;
        float sum = 0, odd = 0;
#pragma unroll
        for (int i = 0; i < S::keys / 8; i++) {
            s[4 * i + 2 * h] = exp2_fast(s[4 * i + 2 * h] - base);
            s[4 * i + 2 * h + 1] = exp2_fast(s[4 * i + 2 * h + 1] - base);
            sum += s[4 * i + 2 * h];
            odd += s[4 * i + 2 * h + 1];
        }
        r.sum[h] = r.sum[h] * r.shrink[h] + (sum + odd);
    }
}

template <class S> static __device__ inline void round_p(uint32_t (&p)[S::keys / 4], const float (&s)[S::keys / 2])
{
#pragma unroll
    for (int i = 0; i < S::keys / 4; i++)
        p[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
}

template <class S> static __device__ inline void shrink(float (&o)[S::d / 2], const struct prefill_rows &r)
{
#pragma unroll
    for (int i = 0; i < S::d / 2; i++)
        o[i] *= r.shrink[i / 2 % 2];
}

/* Two partial results become one: what each weighs, and the logarithm of the sum. One that saw no key leaves the bits
 * of the other, so parts that a row sees nothing of change nothing. In the order of the keys, whoever merges. */
struct prefill_merge {
    float a, b, lse;
};

static __device__ inline struct prefill_merge merge_of(float lse_a, float lse_b)
{
    const float max = fmaxf(lse_a, lse_b);
    if (max == -INFINITY)
        return {1, 0, max};
    const float a = exp2f(lse_a - max), b = exp2f(lse_b - max), sum = __fadd_rn(a, b);
    return {__fdiv_rn(a, sum), __fdiv_rn(b, sum), __fadd_rn(max, log2f(sum))};
}

static __device__ inline float merged(const struct prefill_merge &m, float a, float b)
{
    return m.b == 0.0f ? a : m.a == 0.0f ? b : __fmaf_rn(m.a, a, __fmul_rn(m.b, b));
}

static __device__ inline void put_pair(float *to, float x, float y)
{
    *(float2 *)to = {x, y};
}
static __device__ inline void put_pair(__nv_bfloat16 *to, float x, float y)
{
    *(uint32_t *)to = pack_bf16(x, y);
}

/* before: NULL, or what the row's earlier parts have come to, which weigh as m says. */
template <class S, class Out>
static __device__ inline void write_row(const struct prefill_args &a, const float (&o)[S::d / 2], int h, float scale,
                                        const float *before, const struct prefill_merge &m, Out *to)
{
    const int32_t at = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < S::d / 8; i++) {
        float x = o[4 * i + 2 * h] * scale, y = o[4 * i + 2 * h + 1] * scale;
        if (8 * i >= a.head_dim)
            continue;
        if (before) {
            const float2 was = *(const float2 *)(before + at + 8 * i);
            x = merged(m, was.x, x);
            y = merged(m, was.y, y);
        }
        put_pair(to + at + 8 * i, x, y);
    }
}

/* Rows i and i + 8 of the tile to memory: as results, or as a part of them. A thread of a CTA finds in the CTA's slot
 * what it has left there itself. */
template <class S, class Out>
static __device__ void write_rows(const struct prefill_args &a, const struct prefill_now &t, int32_t i,
                                  const float (&o)[S::d / 2], const struct prefill_rows &r)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int32_t v = t.v0 + i + 8 * h, row = t.row0 + v / a.group, head = t.g * a.group + v % a.group;
        float sum = r.sum[h];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        const size_t slot = t.slot < 0 ? 0 : (size_t)t.slot * (size_t)a.work.vectors;
        const float was = t.adds ? a.work.part_lse[slot + min(i + 8 * h, a.work.vectors - 1)] : 0.0f;
        __syncwarp(); /* all four of the row have read it before the first writes */
        if (v >= t.n_vec)
            continue;
        const float scale = sum == 0.0f ? 0.0f : 1.0f / sum;
        float lse = sum == 0.0f ? -INFINITY : r.max[h] + log2f(sum);
        const bool first = threadIdx.x % 4 == 0;
        const size_t at = slot + (size_t)(i + 8 * h);
        float *part = a.work.part_o + at * (size_t)a.head_dim, *before = t.adds ? part : NULL;
        struct prefill_merge m = {};
        if (t.adds) {
            m = merge_of(was, lse);
            lse = m.lse;
        }
        if (t.leaves) {
            write_row<S>(a, o, h, scale, before, m, part);
            if (first)
                a.work.part_lse[at] = lse;
        } else {
            write_row<S>(a, o, h, scale, before, m, (Out *)a.out.o + row * a.out.stride + (size_t)head * a.head_dim);
            if (first && a.out.lse_ln)
                a.out.lse_ln[(size_t)row * (size_t)a.out.heads + head] = lse * LN_2;
        }
    }
}

/* What rows i and i + 8 begin with: their sink, in the part that has key 0. */
static __device__ inline void rows_begin(const struct prefill_args &a, const struct prefill_now &t, int32_t i,
                                         struct prefill_rows *r)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int32_t v = min(t.v0 + i + 8 * h, t.n_vec - 1);
        row_range(a, t.row0 + v / a.group, &r->begin[h], &r->end[h]);
        /* fixed parts: the one where the row's own keys begin, for a tile may begin earlier; or would begin */
        const int32_t at = min(r->begin[h], max(t.end - 1, t.begin));
        const bool sink = a.sink && a.key_begin == 0 && t.part == (a.part_keys ? at / a.part_keys : 0);
        r->max[h] = sink ? a.sink[t.g * a.group + v % a.group] * LOG2_E : -INFINITY;
        r->sum[h] = threadIdx.x % 4 == 0 && r->max[h] != -INFINITY ? 1.0f : 0.0f;
    }
}

#endif
