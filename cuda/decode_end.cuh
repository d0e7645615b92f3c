/* decode_end - inside decode attention: from the warps' sums of a segment to the result.
 *
 * The warps meet in shared memory. When other CTAs have keys of the same vectors, each leaves its part in memory and
 * takes a number; the last to come merges all parts, in the order of the keys.
 */
#ifndef HEARTH_CUDA_DECODE_END_CUH
#define HEARTH_CUDA_DECODE_END_CUH

#include "cuda/decode_keys.cuh"

struct softmax {
    float max, sum; /* sum is relative to 2^max */
};

/* Results of the warps, to be merged. */
template <int D, int NT> struct meeting {
    float o[WARPS][8 * NT][D + 4];
    struct softmax sm[WARPS][8 * NT];
    int32_t last; /* this CTA has the last part */
};

/* Parts of a segment that can be merged: their weights lie where the meeting was. */
template <int D> constexpr int max_parts = WARPS *(D + 4);

template <int D, int NT, int BYTES> static __device__ inline void bring(struct work<D, NT> *w, struct meeting<D, NT> *m)
{
    const int warp = threadIdx.x / 32, r = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int v = 8 * t + 2 * c + i;
            float sum = w->sum[t][i];
            for (int k = 4; k < 32; k *= 2)
                sum += __shfl_xor_sync(~0u, sum, k);
            if (r == 0)
                m->sm[warp][v] = {w->max[t][i], sum};
#pragma unroll
            for (int j = 0; j < D / 16; j++) {
                m->o[warp][v][dim_of<BYTES>(j, r, 0)] = w->o[t][j][i];
                m->o[warp][v][dim_of<BYTES>(j, r, 1)] = w->o[t][j][i + 2];
            }
        }
}

static __device__ inline float weight_of(float max, float of)
{
    return max == -INFINITY ? 0 : exp2_fast(max - of);
}

static __device__ inline void add(float4 *o, float4 x, float w)
{
    *o = {o->x + x.x * w, o->y + x.y * w, o->z + x.z * w, o->w + x.w * w};
}

/* The warps' sums of vector v, dims d .. d + 3. */
template <int D, int NT>
static __device__ inline struct softmax merge_warps(const struct meeting<D, NT> *m, int v, int d, float4 *o)
{
    struct softmax all = {-INFINITY, 0};
    *o = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int k = 0; k < WARPS; k++)
        all.max = fmaxf(all.max, m->sm[k][v].max);
#pragma unroll
    for (int k = 0; k < WARPS; k++) {
        float w = weight_of(m->sm[k][v].max, all.max);
        all.sum += m->sm[k][v].sum * w;
        add(o, *(const float4 *)&m->o[k][v][d], w);
    }
    return all;
}

/* Vector v of the step's sequence at p, dims d .. d + 3: the result. */
template <int D>
static __device__ inline void write(const struct decode_args &a, const struct place &p, int32_t v, int32_t d,
                                    struct softmax sm, float4 o)
{
    int32_t head = p.head * a.group + v % a.group;
    size_t at = (size_t)(p.q.row0 + v / a.group) * a.n_heads + head;
    float by = 1;
    if (a.sink && a.key_begin == 0 && a.sink[head] != -INFINITY) {
        float sink = a.sink[head] * LOG2E, max = fmaxf(sm.max, sink);
        by = weight_of(sm.max, max);
        sm = {max, sm.sum * by + exp2_fast(sink - max)};
    }
    by = sm.sum == 0 ? 0 : by / sm.sum * kv_scale(&a.kv, (uint32_t)p.head, 1);
    o = {o.x * by, o.y * by, o.z * by, o.w * by};
    if (a.out_input)
        *(uint2 *)(a.out_input + at * D + d) = {pack_bf16(o.x, o.y), pack_bf16(o.z, o.w)};
    else
        *(float4 *)(a.out.o + at * D + d) = o;
    if (a.out.lse_ln && d == 0)
        a.out.lse_ln[at] = sm.sum == 0 ? -INFINITY : (sm.max + log2f(sm.sum)) * LN2;
}

/* Parts of a segment: CTAs first, first + 1, .. share it; the first has it as its last segment, the others as their
 * first. */
struct parts {
    int32_t first, n, mine;
};

static __device__ inline struct parts parts_of(const struct decode_args &a, const struct place &p, int32_t run)
{
    const int32_t unit0 = p.q.first + (p.head * p.q.chunks + p.chunk) * p.q.n_tiles, first = unit0 / run;
    return {first, (unit0 + p.q.n_tiles - 1) / run - first + 1, (int32_t)blockIdx.x - first};
}

/* Where part i is, in parts. */
static __device__ inline size_t part_at(const struct parts &s, int32_t i)
{
    return 2 * (size_t)(s.first + i) + (i == 0);
}

/* Have all parts come? Then this CTA merges them. */
static __device__ inline bool arrive(const struct decode_args &a, const struct parts &s, int32_t *last)
{
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        *last = atomicAdd(&a.arrived[s.first], 1) == s.n - 1;
        if (*last)
            a.arrived[s.first] = 0;
    }
    __syncthreads();
    if (*last)
        __threadfence();
    return *last;
}

/* (all, o) += parts k .. k + N - 1 of vector v, dims d .. d + 3; those behind the last count for nothing. All loads are
 * under way before the first is used. */
template <int D, int NT, int N>
static __device__ inline void add_parts(const struct decode_args &a, const struct parts &s, int32_t k, int v, int d,
                                        struct softmax *all, float4 *o)
{
    constexpr int size = 8 * NT * (D + 2);
    float2 sm[N];
    float4 x[N];
    float max = all->max;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float *part = a.partials + part_at(s, min(k + i, s.n - 1)) * size;
        sm[i] = __ldcg((const float2 *)(part + 8 * NT * D) + v);
        x[i] = __ldcg((const float4 *)(part + v * D + d));
    }
#pragma unroll
    for (int i = 0; i < N; i++)
        max = fmaxf(max, sm[i].x);
    float w = weight_of(all->max, max);
    all->sum *= w;
    *o = {o->x * w, o->y * w, o->z * w, o->w * w};
    all->max = max;
#pragma unroll
    for (int i = 0; i < N; i++) {
        w = k + i < s.n ? weight_of(sm[i].x, max) : 0;
        all->sum += sm[i].y * w;
        add(o, x[i], w);
    }
}

template <int D, int NT>
static __device__ inline void merge_parts(const struct decode_args &a, const struct place &p, int32_t n_vec,
                                          const struct parts &s)
{
    for (int i = threadIdx.x; i < n_vec * D / 4; i += WARPS * 32) {
        int v = i / (D / 4), d = i % (D / 4) * 4;
        struct softmax all = {-INFINITY, 0};
        float4 o = make_float4(0, 0, 0, 0);
        int32_t k = 0;
        for (; k + 4 < s.n; k += 16)
            add_parts<D, NT, 16>(a, s, k, v, d, &all, &o);
        if (k < s.n)
            add_parts<D, NT, 4>(a, s, k, v, d, &all, &o);
        write<D>(a, p, p.chunk * 8 * NT + v, d, all, o);
    }
}

/* The segment at p: the result, or a part of it. run: units of a CTA. */
template <int D, int NT, int BYTES>
static __device__ inline void end_segment(const struct decode_args &a, const struct place &p, int32_t run,
                                          struct work<D, NT> *w, struct meeting<D, NT> *m)
{
    using sh = shape<D, NT, BYTES>;
    const int32_t n_vec = min(p.q.n_rows * a.group - p.chunk * sh::nq, sh::nq);
    const struct parts s = parts_of(a, p, run);
    float *part = a.partials + part_at(s, s.mine) * sh::part;
    __syncthreads(); /* the meeting before is over */
    bring<D, NT, BYTES>(w, m);
    __syncthreads();
    for (int i = threadIdx.x; i < n_vec * D / 4; i += WARPS * 32) {
        int v = i / (D / 4), d = i % (D / 4) * 4;
        float4 o;
        struct softmax all = merge_warps<D, NT>(m, v, d, &o);
        if (s.n == 1) {
            write<D>(a, p, p.chunk * sh::nq + v, d, all, o);
            continue;
        }
        *(float4 *)(part + v * D + d) = o;
        if (d == 0)
            *((float2 *)(part + sh::nq * D) + v) = {all.max, all.sum};
    }
    if (s.n > 1 && arrive(a, s, &m->last))
        merge_parts<D, NT>(a, p, n_vec, s);
}

#endif
