/* sample_stream - rows with nothing to adjust: the one pass over their logits, and what it leaves behind. Part of
 * sample.cu.
 *
 * A CTA reads a chunk of CHUNK_GROUPS groups, all its loads at once, and keeps each group's largest and its sum of
 * weights. That is all that sample_finish.cuh needs to find the token in a few groups.
 *
 * Top-p over a whole vocabulary (a "nucleus") may keep ids of every group. There the chunk keeps weights by logit, in
 * MASS_BINS bins, and the bin of each id, a byte, so that the ids around the cut can be found without the logits.
 *
 * Bins are places on one grid for all chunks, so that they add up: l * c + 2^23 * 1.5 as a float, which is l * c
 * rounded to an integer. A bin's mass is in weights beside that of its place, as an integer: so atomics add it up, in
 * any order, and each lane has bins of its own, in a bank of its own.
 *
 * Cost: R V 4 bytes; of a nucleus R V more, written and read (beyond some 20 MB a part of them leaves L2 in between).
 */
#ifndef HEARTH_CUDA_SAMPLE_STREAM_CUH
#define HEARTH_CUDA_SAMPLE_STREAM_CUH

#include "cuda/early.cuh"
#include "cuda/sample_row.cuh"

#define CHUNK_GROUPS 64 /* of a CTA */
#define CHUNK        (CHUNK_GROUPS * GROUP)
#define WARP_GROUPS  (CHUNK_GROUPS / WARPS) /* of a warp */
#define MASS_BINS    128                    /* the last one holds all that is below the others */
#define MASS_BITS    22                     /* of 1: a lane has 256 ids of the chunk, of weights below 2 */
#define GRID_ZERO    12582912.0f            /* 2^23 * 1.5 */

struct stream_args {
    struct sample_args of;
    /* of nuclei: */
    uint32_t *chunk_top; /* [R][chunks] keys of the largest */
    float *mass;         /* [R][chunks][MASS_BINS] weights beside that of the bin's place, from the largest down */
    uint32_t *bins;      /* [R][V] bytes: the lower eight bits of each id's place, but for groups all in the last bin */
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

/* Places of a row's logits. What lies MASS_BINS - 2 places and more below the largest can't hold more than 1 - p of
 * all. */
struct grid {
    float places; /* in a nat of logit */
    float rate;   /* octaves of weight in a nat */
    float width;  /* octaves in a place; few bits, so that its multiples are exact */
    float zero;   /* GRID_ZERO in octaves, and the bits of a weight of 1 */
};

static __device__ inline struct grid grid_of(const struct row_params &r, int32_t vocab, int bits)
{
    const float rest = fminf(fmaxf(1 - r.top_p, 1e-8f), 0.1f), octaves = __log2f((float)vocab / rest);
    const float width = ceilf(octaves * (256.0f / (MASS_BINS - 2))) / 256, rate = r.rate;
    return {fminf(rate / width, FLT_MAX), rate, width, GRID_ZERO * width + (float)bits};
}

/* Is the grid fine enough for logits up to `top`, so many octaves from 0? */
static __device__ inline bool on_grid(struct grid g, float top, float octaves)
{
    return fabsf(top) * g.rate < octaves;
}

static __device__ inline float place_of(struct grid g, float l)
{
    return __fmaf_rn(l, g.places, GRID_ZERO);
}

/* The weight of l beside that of a place. */
static __device__ inline float beside(struct grid g, float l, float place)
{
    return exp2_of(__fmaf_rn(l, g.rate, __fmaf_rn(place, -g.width, g.zero)));
}

/* How long lines stay in L2: the first or the last to go. */
static __device__ inline uint64_t first_to_go(void)
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

static __device__ inline uint64_t last_to_go(void)
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

static __device__ inline uint4 load_once(const void *p)
{
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p), "l"(first_to_go()));
    return v;
}

static __device__ inline void store_to_stay(uint32_t *p, uint32_t x)
{
    asm volatile("st.global.L2::cache_hint.u32 [%0], %1, %2;" ::"l"(p), "r"(x), "l"(last_to_go()) : "memory");
}

/* Chunk i of the launch. */
struct chunk {
    int32_t row, i, first; /* first: group of this warp */
    const uint4 *logits;   /* of this lane, from the row's first group on */
};

static __device__ inline struct chunk chunk_at(const struct stream_args &a, int32_t i)
{
    const int32_t chunks = chunks_of(a.of.vocab), nth = i / chunks, row = a.of.index ? a.of.index[nth] : nth;
    const int32_t chunk = i - nth * chunks;
    return {row, chunk, chunk * CHUNK_GROUPS + (int32_t)threadIdx.x / 32 * WARP_GROUPS,
            (const uint4 *)(a.of.logits + (size_t)row * a.of.vocab) + threadIdx.x % 32};
}

static __device__ inline const uint4 *group_of(struct chunk c, int32_t b, int32_t groups)
{
    return c.logits + min(c.first + b, groups - 1) * (GROUP / 4);
}

/* A lane's four logits of each of the warp's groups, as they were loaded; -inf beyond the vocabulary and for masked
 * ids. */
static __device__ inline void clean_warp(const struct sample_args &a, const struct row_params &r, int32_t first,
                                         const uint4 v[WARP_GROUPS], float l[WARP_GROUPS][4])
{
    const int32_t groups = a.vocab / GROUP;
    const uint32_t *mask = mask_of(a, r);
#pragma unroll
    for (int b = 0; b < WARP_GROUPS; b++) {
        const float none = first + b < groups ? FLT_MAX : -INFINITY;
        l[b][0] = fminf(fmaxf(__uint_as_float(v[b].x), -INFINITY), none);
        l[b][1] = fminf(fmaxf(__uint_as_float(v[b].y), -INFINITY), none);
        l[b][2] = fminf(fmaxf(__uint_as_float(v[b].z), -INFINITY), none);
        l[b][3] = fminf(fmaxf(__uint_as_float(v[b].w), -INFINITY), none);
    }
    if (!mask)
        return;
#pragma unroll
    for (int b = 0; b < WARP_GROUPS; b++) {
        const uint32_t allowed = allowed_at(mask, min(first + b, groups - 1) * GROUP + 4 * (int32_t)(threadIdx.x % 32));
#pragma unroll
        for (int k = 0; k < 4; k++)
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
    const float rate = weighs ? r.rate : 0;
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

/* Weights of the chunk by bins, and the bins. of_lanes: [MASS_BINS][32], all 0. */
static __device__ inline void keep_bins(const struct stream_args &a, const struct row_params &r,
                                        struct sample_shared *s, uint32_t *of_lanes, struct chunk c,
                                        const float l[WARP_GROUPS][4], const uint32_t key[WARP_GROUPS])
{
    const int32_t groups = a.of.vocab / GROUP, lane = threadIdx.x % 32;
    const size_t at = (size_t)c.row * chunks_of(a.of.vocab) + c.i;
    uint32_t most = 0, *bins = a.bins + ((size_t)c.row * groups + c.first) * (GROUP / 4) + lane;
#pragma unroll
    for (int b = 0; b < WARP_GROUPS; b++)
        most = max(most, key[b]);
    most = max_of_warps(s, most);
    struct grid g = grid_of(r, a.of.vocab, MASS_BITS);
    const float top = most > key_of(-INFINITY) ? float_of(most) : 0;
    if (!on_grid(g, top, 33000)) /* then the row is, too, or far above */
        g.places = 0;
    const float best = place_of(g, top), last = best - (MASS_BINS - 1);
    const uint32_t origin = shared_address(of_lanes + lane) + 128 * __float_as_uint(best);
#pragma unroll
    for (int b = 0; b < WARP_GROUPS; b++) {
        uint32_t place[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const float x = fmaxf(place_of(g, l[b][k]), last);
            place[k] = __float_as_uint(x);
            add_shared_at(origin - 128 * place[k], __float2uint_rn(beside(g, l[b][k], x)));
        }
        if (place_of(g, float_of(key[b])) > last && c.first + b < groups)
            store_to_stay(bins + b * (GROUP / 4), __byte_perm(__byte_perm(place[0], place[1], 0x40),
                                                              __byte_perm(place[2], place[3], 0x40), 0x5410));
    }
    __syncthreads();
    const uint4 *four = (const uint4 *)of_lanes +
                        threadIdx.x * 4; /* two threads a bin, which begin at different banks */
    uint64_t sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const uint4 v = four[(threadIdx.x / 2 + i) % 4];
        sum += (uint64_t)v.x + v.y + v.z + v.w;
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    if (lane % 2 == 0)
        a.mass[at * MASS_BINS + threadIdx.x / 2] = (float)sum / (1 << MASS_BITS);
    if (threadIdx.x == 0)
        a.chunk_top[at] = most;
}

/* Shared memory where there is a nucleus. */
struct stream_shared {
    struct sample_shared s; /* of max_of_warps */
    uint32_t of_lanes[MASS_BINS * 32];
};

/* Grid: chunks of all rows. Shared, where there is a nucleus: struct stream_shared. */
template <bool some_nucleus>
static __global__ void __launch_bounds__(THREADS, 4) stream_kernel(const struct stream_args a)
{
    extern __shared__ __align__(16) uint8_t memory[];
    early_next();
    struct stream_shared *s = (struct stream_shared *)memory;
    const int32_t groups = a.of.vocab / GROUP;
    const struct chunk c = chunk_at(a, blockIdx.x);
    uint4 v[WARP_GROUPS];
    for (int i = threadIdx.x; some_nucleus && i < MASS_BINS * 32; i += THREADS)
        s->of_lanes[i] = 0;
#pragma unroll
    for (int b = 0; b < WARP_GROUPS; b++)
        v[b] = load_once(group_of(c, b, groups));
    const struct row_params &r = a.of.rows[c.row];
    float l[WARP_GROUPS][4];
    uint32_t key[WARP_GROUPS];
    clean_warp(a.of, r, c.first, v, l);
    find_keys(l, key);
    const bool nucleus = some_nucleus && is_nucleus(r, a.of.vocab);
    keep_groups(a.of, r, c.row, c.first, l, key, !nucleus && !is_greedy(r));
    if (nucleus)
        keep_bins(a, r, &s->s, s->of_lanes, c, l, key);
}

#endif
