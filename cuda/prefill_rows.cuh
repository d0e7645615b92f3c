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
    int32_t part, slot;            /* part of the keys; where its result goes, -1: it is the whole */
};

template <class S>
static __device__ void tile_begin(const struct prefill_args &a, const struct prefill_item &it, int32_t g,
                                  struct prefill_now *t)
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
    t->first = first + (int32_t)((int64_t)n * it.part / it.parts);
    t->last = first + (int32_t)((int64_t)n * (it.part + 1) / it.parts);
    t->full_first = (begin_of_last + S::keys - 1) / S::keys;
    t->full_last = end_of_first / S::keys;
    t->part = it.part;
    t->slot = it.slot < 0 ? -1 : it.slot + g;
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

static __device__ inline void put_pair(float *to, float x, float y)
{
    *(float2 *)to = {x, y};
}
static __device__ inline void put_pair(__nv_bfloat16 *to, float x, float y)
{
    *(uint32_t *)to = pack_bf16(x, y);
}

template <class S, class Out>
static __device__ inline void write_row(const struct prefill_args &a, const float (&o)[S::d / 2], int h, float scale,
                                        Out *to)
{
    to += 2 * (threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < S::d / 8; i++)
        if (8 * i < a.head_dim)
            put_pair(to + 8 * i, o[4 * i + 2 * h] * scale, o[4 * i + 2 * h + 1] * scale);
}

/* Rows i and i + 8 of the tile to memory: as results, or as a part of them. */
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
        if (v >= t.n_vec)
            continue;
        const float scale = sum == 0.0f ? 0.0f : 1.0f / sum, lse = sum == 0.0f ? -INFINITY : r.max[h] + log2f(sum);
        const bool first = threadIdx.x % 4 == 0;
        if (t.slot >= 0) {
            const size_t at = (size_t)t.slot * S::vectors + (size_t)(i + 8 * h);
            write_row<S>(a, o, h, scale, a.work.part_o + at * (size_t)a.head_dim);
            if (first)
                a.work.part_lse[at] = lse;
        } else {
            write_row<S>(a, o, h, scale, (Out *)a.out.o + row * a.out.stride + (size_t)head * a.head_dim);
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
        const bool sink = a.sink && a.key_begin == 0 && t.part == 0;
        r->max[h] = sink ? a.sink[t.g * a.group + v % a.group] * LOG2_E : -INFINITY;
        r->sum[h] = threadIdx.x % 4 == 0 && r->max[h] != -INFINITY ? 1.0f : 0.0f;
    }
}

#endif
