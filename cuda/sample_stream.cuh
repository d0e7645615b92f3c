/* sample_stream - rows with nothing to adjust: the one pass over their logits, and what it leaves behind. Part of
 * sample.cu.
 *
 * A CTA reads a chunk of CHUNK_GROUPS groups, all its loads at once, and keeps each group's largest and its sum of
 * weights. That is all that sample_finish.cuh needs to find the token in a few groups.
 *
 * Top-p over a whole vocabulary (a "nucleus") may keep ids of every group. There the chunk keeps weights by logit, in
 * MASS_BINS bins (each thread has bins of its own in shared memory: no atomics, and one order), and the bin of each id,
 * a byte, so that the ids around the cut can be found without the logits.
 *
 * Bins are places on one grid for all chunks, so that they add up: the bits of l * c + 2^23 * 1.5, which round l * c to
 * an integer and never fall as l grows, whatever l is.
 *
 * Cost: R V 4 bytes; of a nucleus R V more, which stay in L2 where R V is below 40 MB.
 */
#ifndef HEARTH_CUDA_SAMPLE_STREAM_CUH
#define HEARTH_CUDA_SAMPLE_STREAM_CUH

#include "cuda/early.cuh"
#include "cuda/sample_row.cuh"

#define CHUNK_GROUPS 64 /* of a CTA */
#define CHUNK        (CHUNK_GROUPS * GROUP)
#define WARP_GROUPS  (CHUNK_GROUPS / WARPS) /* of a warp */
#define MASS_BINS    32                     /* the last one holds all that is below the others */

struct stream_args {
    struct sample_args of;
    uint32_t *chunk_top; /* [R][chunks] keys of the largest */
    float *mass;         /* [R][chunks][MASS_BINS] weights beside that */
    uint32_t *bins;      /* [R][V] bytes: bin of each id, from the chunk's largest down */
};

static __host__ __device__ inline int32_t chunks_of(int32_t vocab)
{
    return (vocab / GROUP + CHUNK_GROUPS - 1) / CHUNK_GROUPS;
}

/* Is there a top-k to find? */
static __host__ __device__ inline bool keeps_best(const struct row_params &r, int32_t vocab)
{
    return !is_greedy(r) && r.top_k > 1 && r.top_k < vocab;
}

static __host__ __device__ inline bool is_nucleus(const struct row_params &r, int32_t vocab)
{
    return !is_greedy(r) && !keeps_best(r, vocab) && r.top_p < 1;
}

/* Places of the grid in a nat of logit: what lies MASS_BINS - 2 bins and more below the largest can't hold more than
 * 1 - p of all. */
static __device__ inline float grid_rate(const struct row_params &r, int32_t vocab)
{
    float octaves = __log2f((float)vocab / fmaxf(1 - fmaxf(r.top_p, 0), 1e-8f));
    return fminf(rate_of(r) * ((MASS_BINS - 2) / octaves), FLT_MAX);
}

static __device__ inline uint32_t grid_at(float l, float c)
{
    return __float_as_uint(__fmaf_rn(l, c, 12582912.0f));
}

/* The bin of a logit, from the one at `base` down. */
static __device__ inline uint32_t mass_bin(float l, float c, uint32_t base)
{
    return min(base - grid_at(l, c), MASS_BINS - 1u);
}

/* 16 bytes that will not be read again, so that others stay in L2. */
static __device__ inline uint4 load_once(const void *p)
{
    uint4 v;
    asm volatile("{.reg .b64 policy; createpolicy.fractional.L2::evict_first.b64 policy, 1.0;"
                 "ld.global.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], policy;}"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

static __device__ inline void store_to_stay(uint32_t *p, uint32_t x)
{
    asm volatile("{.reg .b64 policy; createpolicy.fractional.L2::evict_last.b64 policy, 1.0;"
                 "st.global.L2::cache_hint.u32 [%0], %1, policy;}" ::"l"(p),
                 "r"(x)
                 : "memory");
}

/* A lane's four logits of each of the warp's groups from `first` on; -inf beyond the vocabulary and for masked ids. */
static __device__ inline void load_warp(const struct sample_args &a, const struct row_params &r, int32_t row,
                                        int32_t first, float l[WARP_GROUPS][4])
{
    const int32_t groups = a.vocab / GROUP;
    const uint32_t *mask = mask_of(a, r);
    const float4 *from = (const float4 *)(a.logits + (size_t)row * a.vocab) + threadIdx.x % 32;
    uint4 v[WARP_GROUPS];
#pragma unroll
    for (int b = 0; b < WARP_GROUPS; b++)
        v[b] = load_once(from + (size_t)min(first + b, groups - 1) * (GROUP / 4));
#pragma unroll
    for (int b = 0; b < WARP_GROUPS; b++) {
        const float none = first + b < groups ? FLT_MAX : -INFINITY;
        l[b][0] = fminf(fmaxf(__uint_as_float(v[b].x), -INFINITY), none);
        l[b][1] = fminf(fmaxf(__uint_as_float(v[b].y), -INFINITY), none);
        l[b][2] = fminf(fmaxf(__uint_as_float(v[b].z), -INFINITY), none);
        l[b][3] = fminf(fmaxf(__uint_as_float(v[b].w), -INFINITY), none);
        const uint32_t allowed = allowed_at(mask, min(first + b, groups - 1) * GROUP + 4 * (int32_t)(threadIdx.x % 32));
#pragma unroll
        for (int k = 0; mask && k < 4; k++)
            l[b][k] = allowed >> k & 1 ? l[b][k] : -INFINITY;
    }
}

/* Eight sums over the lanes: lane b has that of s[b], b < 8. */
static __device__ inline float sum_each(float s[WARP_GROUPS])
{
    const int lane = threadIdx.x % 32;
    static_assert(WARP_GROUPS == 8, "three halvings");
#pragma unroll
    for (int n = 4, bit = 16; n; n /= 2, bit /= 2)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (i < n) {
                float keep = lane & bit ? s[i + n] : s[i], give = lane & bit ? s[i] : s[i + n];
                s[i] = keep + __shfl_xor_sync(~0u, give, bit);
            }
    s[0] += __shfl_xor_sync(~0u, s[0], 2);
    s[0] += __shfl_xor_sync(~0u, s[0], 1);
    return __shfl_sync(~0u, s[0], lane % WARP_GROUPS * 4);
}

/* Keys of the groups' largest. */
static __device__ inline void find_keys(const float l[WARP_GROUPS][4], uint32_t key[WARP_GROUPS])
{
#pragma unroll
    for (int b = 0; b < WARP_GROUPS; b++)
        key[b] = __reduce_max_sync(~0u, key_of(fmaxf(fmaxf(l[b][0], l[b][1]), fmaxf(l[b][2], l[b][3]))));
}

/* Lane b's is that of group b. */
static __device__ inline uint32_t own_key(const uint32_t key[WARP_GROUPS])
{
    uint32_t own = key[0];
#pragma unroll
    for (int b = 1; b < WARP_GROUPS; b++)
        own = threadIdx.x % 32 == b ? key[b] : own;
    return own;
}

static __device__ inline float sum_of_weights(const float l[WARP_GROUPS][4], const uint32_t key[WARP_GROUPS],
                                              float rate)
{
    struct part<false> p = {
    };
    float s[WARP_GROUPS];
    p.rate = rate;
#pragma unroll
    for (int b = 0; b < WARP_GROUPS; b++) {
        p.max = key[b] > key_of(-INFINITY) ? float_of(key[b]) : 0;
        s[b] = (weight(p, l[b][0]) + weight(p, l[b][1])) + (weight(p, l[b][2]) + weight(p, l[b][3]));
    }
    return sum_each(s);
}

/* What every row keeps of its groups. */
static __device__ inline void keep_groups(const struct sample_args &a, const struct row_params &r, int32_t row,
                                          int32_t first, const float l[WARP_GROUPS][4], const uint32_t key[WARP_GROUPS],
                                          bool weighs)
{
    const int32_t groups = a.vocab / GROUP, lane = threadIdx.x % 32;
    const size_t at = (size_t)row * groups + first + lane;
    const bool mine = lane < WARP_GROUPS && first + lane < groups;
    const uint32_t own = own_key(key);
    if (mine)
        a.top[at] = own;
    const float rate = weighs ? rate_of(r) : 0;
    float sum = weighs ? sum_of_weights(l, key, rate) : 0;
    if (weighs && mine)
        a.sum[at] = sum;
    if (r.n_logprobs < 0)
        return;
    if (rate != LOG2_E)
        sum = sum_of_weights(l, key, LOG2_E);
    if (mine)
        a.raw_sum[at] = sum;
}

/* The largest key of the CTA's warps; all lanes of a warp have the same. */
static __device__ inline uint32_t max_of_warps(struct sample_shared *s, uint32_t most)
{
    if (threadIdx.x % 32 == 0)
        s->warp_u[threadIdx.x / 32] = most;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        most = max(most, (uint32_t)s->warp_u[w]);
    return most;
}

/* Weights of the chunk by bins, and the bins. mass: [MASS_BINS][THREADS]. */
static __device__ inline void keep_bins(const struct stream_args &a, const struct row_params &r,
                                        struct sample_shared *s, float *mass, int32_t row, int32_t chunk,
                                        const float l[WARP_GROUPS][4], const uint32_t key[WARP_GROUPS])
{
    const int32_t groups = a.of.vocab / GROUP, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int32_t first = chunk * CHUNK_GROUPS + warp * WARP_GROUPS;
    const size_t at = (size_t)row * chunks_of(a.of.vocab) + chunk;
    float *mine = mass + threadIdx.x;
    uint32_t most = 0, *bins = a.bins + ((size_t)row * groups + first) * (GROUP / 4) + lane;
    struct part<false> p = {
    };
#pragma unroll
    for (int b = 0; b < MASS_BINS; b++)
        mine[b * THREADS] = 0;
#pragma unroll
    for (int b = 0; b < WARP_GROUPS; b++)
        most = max(most, key[b]);
    most = max_of_warps(s, most);
    p.max = most > key_of(-INFINITY) ? float_of(most) : 0;
    p.rate = rate_of(r);
    const float c = grid_rate(r, a.of.vocab);
    const uint32_t base = grid_at(p.max, c);
#pragma unroll
    for (int b = 0; b < WARP_GROUPS; b++) {
        uint32_t bin[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            bin[k] = mass_bin(l[b][k], c, base);
            mine[bin[k] * THREADS] += weight(p, l[b][k]);
        }
        if (first + b < groups)
            store_to_stay(bins + b * (GROUP / 4), bin[0] | bin[1] << 8 | bin[2] << 16 | bin[3] << 24);
    }
    __syncthreads();
    float sum[MASS_BINS / WARPS];
#pragma unroll
    for (int b = 0; b < MASS_BINS / WARPS; b++) {
        const float *from = mass + (warp * (MASS_BINS / WARPS) + b) * THREADS + lane;
        sum[b] = ((from[0] + from[32]) + (from[64] + from[96])) + ((from[128] + from[160]) + (from[192] + from[224]));
#pragma unroll
        for (int k = 16; k; k /= 2)
            sum[b] += __shfl_xor_sync(~0u, sum[b], k);
    }
    if (lane == 0)
        ((float4 *)(a.mass + at * MASS_BINS))[warp] = {sum[0], sum[1], sum[2], sum[3]};
    if (threadIdx.x == 0)
        a.chunk_top[at] = most;
}

/* Grid: chunks x rows. Shared, where there is a nucleus: struct sample_shared, then [MASS_BINS][THREADS] floats. */
template <bool some_nucleus>
static __global__ void __launch_bounds__(THREADS, 4) stream_kernel(const struct stream_args a)
{
    extern __shared__ __align__(16) uint8_t memory[];
    early_next();
    const int32_t row = a.of.index ? a.of.index[blockIdx.y] : blockIdx.y, chunk = blockIdx.x;
    const int32_t first = chunk * CHUNK_GROUPS + (int32_t)threadIdx.x / 32 * WARP_GROUPS;
    const struct row_params &r = a.of.rows[row];
    struct sample_shared *s = (struct sample_shared *)memory;
    float l[WARP_GROUPS][4];
    uint32_t key[WARP_GROUPS];
    load_warp(a.of, r, row, first, l);
    find_keys(l, key);
    const bool nucleus = some_nucleus && is_nucleus(r, a.of.vocab);
    keep_groups(a.of, r, row, first, l, key, !nucleus && !is_greedy(r));
    if (nucleus)
        keep_bins(a, r, s, (float *)(s + 1), row, chunk, l, key);
}

#endif
