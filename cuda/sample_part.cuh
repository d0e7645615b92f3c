/* sample_part - a row of logits in a cluster's shared memory: passes, and the list that is sorted. Part of sample.cu.
 *
 * Functions are called by every thread of every CTA of the cluster, in step, unless they say otherwise.
 */
#ifndef HEARTH_CUDA_SAMPLE_PART_CUH
#define HEARTH_CUDA_SAMPLE_PART_CUH

#include "cuda/cuda.cuh"

#include <float.h>

#define THREADS    256
#define WARPS      (THREADS / 32)
#define GROUP      128 /* logits of a group: four a lane */
#define CLUSTER    8
#define LIST       512 /* ids that are sorted; a power of two */
#define BINS       256
#define FLOOR_KEYS 16           /* maxima that a lane looks at for a floor */
#define UNIT       2147483648.0 /* of masses that are integers: 2^31 is 1 */

struct cut { /* keeps what comes before or at (value, id), larger logits and lower ids first */
    float value;
    int32_t id;
};

struct __align__(16) sample_shared
{
    uint64_t list[LIST];
    union {
        struct {
            uint32_t high[BINS], low[BINS]; /* masses, upper and lower 16 bits apart: sums of 2^16 of them fit */
        };
        unsigned long long all[BINS]; /* of a whole row */
        uint32_t mass[LIST];          /* of what is in the list */
    };
    uint64_t out_u[2]; /* what the CTAs tell each other, in turn */
    double out_d[2];
    struct cut out_cut;
    uint64_t warp_u[WARPS];
    double warp_d[WARPS], place_at;
    uint64_t bin_before;
    uint32_t n_list, bin, floor, n_hits;
    int32_t place;
};

/* A CTA and its part of the row. */
template <bool cluster> struct part {
    static constexpr int n_ranks = cluster ? CLUSTER : 1;
    struct sample_shared *s;
    float *l;             /* [n_groups * GROUP] adjusted logits, -inf beyond the vocabulary */
    uint32_t *top;        /* [n_groups] key of each group's largest */
    float *sum;           /* [n_groups] */
    int32_t *hits;        /* [n_groups] of one CTA a row: groups that a pass looks at */
    const uint32_t *mask; /* of a row that stays in the card's memory: bits of ids that may come; NULL = all */
    int32_t id0, n_groups, rank;
    int turn;        /* of out_u and out_d */
    float max, rate; /* weight = 2^((l - max) rate) */
};

/* -- numbers ----------------------------------------------------------------------------------------------------- */

/* Unsigned integers in the order of the floats. */
static __device__ inline uint32_t key_of(float x)
{
    uint32_t u = __float_as_uint(x + 0.0f); /* -0 is 0 */
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static __device__ inline float float_of(uint32_t key)
{
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

static __device__ inline float clean(float l)
{
    return l > -INFINITY ? fminf(l, FLT_MAX) : -INFINITY;
}

/* Bits k of ids i + k that a mask allows, i a multiple of 4. */
static __device__ inline uint32_t allowed_at(const uint32_t *mask, int32_t i)
{
    return mask ? mask[i / 32] >> i % 32 : 0xf;
}

/* A lane's four logits of group g. A row that stays in the card's memory is cleaned, and masked, as it is read. */
template <bool cluster> static __device__ inline void logits_of(const struct part<cluster> &p, int32_t g, float l[4])
{
    const int32_t i = g * GROUP + 4 * (int32_t)(threadIdx.x % 32);
    const float4 v = *(const float4 *)(p.l + i);
    const float raw[4] = {v.x, v.y, v.z, v.w};
    const uint32_t allowed = cluster ? 0xf : allowed_at(p.mask, i);
#pragma unroll
    for (int k = 0; k < 4; k++)
        l[k] = cluster ? raw[k] : allowed >> k & 1 ? clean(raw[k]) : -INFINITY;
}

/* f(logit, id) for the logits of groups whose largest is not below `key`. Four groups at a time, so that loads overlap.
 */
template <bool cluster, class F>
static __device__ inline void each_logit(const struct part<cluster> &p, uint32_t key, F f)
{
    for (int32_t g0 = threadIdx.x / 32; g0 < p.n_groups; g0 += 4 * WARPS) {
        float l[4][4];
        bool in[4];
#pragma unroll
        for (int b = 0; b < 4; b++) {
            in[b] = g0 + b * WARPS < p.n_groups && p.top[g0 + b * WARPS] >= key;
            if (in[b])
                logits_of(p, g0 + b * WARPS, l[b]);
        }
#pragma unroll
        for (int b = 0; b < 4; b++)
            for (int k = 0; in[b] && k < 4; k++)
                f(l[b][k], p.id0 + (g0 + b * WARPS) * GROUP + 4 * (int32_t)(threadIdx.x % 32) + k);
    }
}

static __device__ inline float exp2_of(float x)
{
    float w;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(w) : "f"(x));
    return w;
}

template <bool cluster> static __device__ inline float weight(const struct part<cluster> &p, float l)
{
    return exp2_of((l - p.max) * p.rate);
}

static __device__ inline uint32_t fixed(float w)
{
    return __float2uint_rn(w * (float)UNIT);
}

static __device__ inline bool keeps(struct cut c, float l, int32_t id)
{
    return l > c.value || (l == c.value && id <= c.id);
}

/* Sum of x over the lanes up to this one. */
template <class T> static __device__ inline T scan_lanes(T x)
{
    for (int k = 1; k < 32; k *= 2) {
        T below = __shfl_up_sync(~0u, x, k);
        x += (int)(threadIdx.x % 32) >= k ? below : T(0);
    }
    return x;
}

/* The compiler does not see that p is shared, and an atomic on a generic address is slow there. */
static __device__ inline uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* *p += x in this CTA's shared memory; the value before. */
static __device__ inline uint32_t add_shared(uint32_t *p, uint32_t x)
{
    uint32_t before;
    asm volatile("atom.shared.add.u32 %0, [%1], %2;" : "=r"(before) : "r"(shared_address(p)), "r"(x) : "memory");
    return before;
}

static __device__ inline void add_shared_at(uint32_t address, uint32_t x)
{
    asm volatile("red.shared.add.u32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}

/* -- CTAs together ----------------------------------------------------------------------------------------------- */

template <bool cluster> static __device__ inline void sync_all(void)
{
#if __CUDA_ARCH__ >= 900
    if (cluster) {
        __cluster_barrier_arrive();
        __cluster_barrier_wait();
        return;
    }
#endif
    __syncthreads();
}

template <bool cluster, class T> static __device__ inline T *of_rank(T *mine, int rank)
{
#if __CUDA_ARCH__ >= 900
    if (cluster)
        return (T *)__cluster_map_shared_rank(mine, (unsigned)rank);
#endif
    return mine;
}

/* The largest x of all threads of all CTAs. */
template <bool cluster> static __device__ uint64_t max_all(struct part<cluster> &p, uint64_t x)
{
    struct sample_shared *s = p.s;
    unsigned long long best = x;
    for (int k = 16; k; k /= 2)
        best = max(best, __shfl_xor_sync(~0u, best, k));
    if (threadIdx.x % 32 == 0)
        s->warp_u[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x == 0) {
#pragma unroll
        for (int i = 1; i < WARPS; i++)
            best = max(best, (unsigned long long)s->warp_u[i]);
        s->out_u[p.turn] = best;
    }
    sync_all<cluster>();
    best = 0;
#pragma unroll
    for (int r = 0; r < part<cluster>::n_ranks; r++)
        best = max(best, (unsigned long long)*of_rank<cluster>(&s->out_u[p.turn], r));
    p.turn ^= 1;
    return best;
}

/* The sum over CTAs of x (of thread 0), in order; *before: of those of lower rank. */
template <bool cluster> static __device__ double sum_ranks(struct part<cluster> &p, double x, double *before)
{
    double all = 0;
    if (threadIdx.x == 0)
        p.s->out_d[p.turn] = x;
    sync_all<cluster>();
    *before = 0;
#pragma unroll
    for (int r = 0; r < part<cluster>::n_ranks; r++) {
        *before = r == p.rank ? all : *before;
        all += *of_rank<cluster>(&p.s->out_d[p.turn], r);
    }
    p.turn ^= 1;
    return all;
}

/* Everyone gets the cut that rank 0's thread 0 has; its list is empty again: emptied when all have read how long it is,
 * and before any of them appends. */
template <bool cluster> static __device__ struct cut tell_cut(struct part<cluster> &p, struct cut c)
{
    if (p.rank == 0 && threadIdx.x == 0)
        p.s->out_cut = c;
    sync_all<cluster>();
    if (p.rank == 0 && threadIdx.x == 0)
        p.s->n_list = 0;
    c = *of_rank<cluster>(&p.s->out_cut, 0);
    sync_all<cluster>();
    return c;
}

/* -- passes ------------------------------------------------------------------------------------------------------ */

/* The row's part into shared memory. */
template <bool cluster> static __device__ void load(struct part<cluster> &p, const float *row, int32_t vocab)
{
    const int32_t n = p.n_groups * GROUP, here = min(max(vocab - p.id0, 0), n);
    const float *from = row + p.id0;
    if (cluster && vocab % 4 == 0) {
        for (int32_t i = threadIdx.x; i < here / 4; i += THREADS) {
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(p.l + 4 * i)),
                         "l"(from + 4 * i)
                         : "memory");
        }
        asm volatile("cp.async.wait_all;" ::: "memory");
    } else {
        for (int32_t i = threadIdx.x; i < here; i += THREADS)
            p.l[i] = from[i];
    }
    for (int32_t i = here + threadIdx.x; i < n; i += THREADS)
        p.l[i] = -INFINITY;
    __syncthreads();
}

/* Clean the logits and find each group's largest; returns the largest of all. */
template <bool cluster> static __device__ float find_tops(struct part<cluster> &p)
{
    const int lane = threadIdx.x % 32;
    uint32_t most = 0;
#pragma unroll 4
    for (int32_t g = threadIdx.x / 32; g < p.n_groups; g += WARPS) {
        float4 *at = (float4 *)(p.l + g * GROUP) + lane, v = *at;
        float4 c = {clean(v.x), clean(v.y), clean(v.z), clean(v.w)};
        if (!(c.x == v.x && c.y == v.y && c.z == v.z && c.w == v.w))
            *at = c;
        uint32_t top = __reduce_max_sync(~0u, key_of(fmaxf(fmaxf(c.x, c.y), fmaxf(c.z, c.w))));
        if (lane == 0)
            p.top[g] = top;
        most = max(most, top);
    }
    return float_of((uint32_t)max_all(p, most));
}

/* The lowest id whose logit is `value`, the largest of all. */
template <bool cluster> static __device__ int32_t lowest_with(struct part<cluster> &p, float value)
{
    uint32_t best = 0; /* ~id */
    each_logit(p, key_of(value), [&](float l, int32_t id) { best = l == value ? max(best, ~(uint32_t)id) : best; });
    return (int32_t) ~(uint32_t)max_all(p, best);
}

/* What a pass adds up: 1 for each logit that is keep.value, or the weight of what is kept and weighs `least`. */
enum mass { ONE, WEIGHT };

struct count {
    struct cut keep;
    float least;
    enum mass mass;
};

/* A lane's four masses of group g. */
template <bool cluster>
static __device__ inline void masses_of(const struct part<cluster> &p, struct count c, int32_t g, float w[4])
{
    const int32_t id = p.id0 + g * GROUP + 4 * (int32_t)(threadIdx.x % 32);
    float l[4];
    logits_of(p, g, l);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        w[k] = c.mass == ONE ? (l[k] == c.keep.value ? 1.0f : 0.0f) : weight(p, l[k]);
        if (c.mass == WEIGHT && !(keeps(c.keep, l[k], id + k) && w[k] >= c.least))
            w[k] = 0;
    }
}

/* Of the groups' sums: returns the sum of all, and of the CTAs before this one. */
template <bool cluster> static __device__ double sum_groups(struct part<cluster> &p, double *before)
{
    const int lane = threadIdx.x % 32;
    double mine = 0;
    __syncthreads();
    if (threadIdx.x < 32) { /* lanes take runs of groups, then the lanes in order */
        int32_t run = (p.n_groups + 31) / 32, end = min((lane + 1) * run, p.n_groups);
        for (int32_t g = lane * run; g < end; g++)
            mine += p.sum[g];
        mine = __shfl_sync(~0u, scan_lanes(mine), 31);
    }
    return sum_ranks(p, mine, before);
}

/* The groups' sums, then sum_groups. Four groups at a time, so that their loads and shuffles overlap. */
template <bool cluster> static __device__ double sum_kept(struct part<cluster> &p, struct count c, double *before)
{
    const int lane = threadIdx.x % 32;
    const uint32_t floor = key_of(c.keep.value);
    for (int32_t g0 = threadIdx.x / 32; g0 < p.n_groups; g0 += 4 * WARPS) {
        float sum[4] = {};
        bool any = false;
        for (int b = 0; b < 4; b++)
            any |= g0 + b * WARPS < p.n_groups && p.top[g0 + b * WARPS] >= floor;
        if (any) {
#pragma unroll
            for (int b = 0; b < 4; b++) {
                float w[4];
                masses_of(p, c, min(g0 + b * WARPS, p.n_groups - 1), w);
                sum[b] = (w[0] + w[1]) + (w[2] + w[3]);
            }
#pragma unroll
            for (int k = 16; k; k /= 2)
#pragma unroll
                for (int b = 0; b < 4; b++)
                    sum[b] += __shfl_xor_sync(~0u, sum[b], k);
        }
        if (lane < 4 && g0 + lane * WARPS < p.n_groups)
            p.sum[g0 + lane * WARPS] = lane == 0 ? sum[0] : lane == 1 ? sum[1] : lane == 2 ? sum[2] : sum[3];
    }
    return sum_groups(p, before);
}

/* One warp: the id of group g at which the sum over ids, `at` before the group, passes the target; the last one with
 * mass should rounding say that none does. */
template <bool cluster>
static __device__ int32_t find_in_group(const struct part<cluster> &p, struct count c, int32_t g, double at,
                                        double target)
{
    float w[4];
    masses_of(p, c, g, w);
    double own = ((double)w[0] + w[1]) + ((double)w[2] + w[3]), sum = at + scan_lanes(own) - own;
    int32_t id = -1;
    bool passes = false;
    for (int k = 0; k < 4 && !passes; k++) {
        sum += w[k];
        id = w[k] > 0 ? p.id0 + g * GROUP + 4 * (int32_t)(threadIdx.x % 32) + k : id;
        passes = w[k] > 0 && sum > target;
    }
    uint32_t first = __ballot_sync(~0u, passes), any = __ballot_sync(~0u, id >= 0);
    return __shfl_sync(~0u, id, first ? __ffs(first) - 1 : 31 - __clz(any));
}

/* After sum_kept: the id at which the sum over ids passes the target, in the CTA that holds it; -1 in the others (the
 * sums are the same, so it is one CTA). before: that of sum_kept. Warp 0 alone. */
template <bool cluster>
static __device__ int32_t find_kept(const struct part<cluster> &p, struct count c, double target, double before)
{
    const int lane = threadIdx.x % 32;
    int32_t run = (p.n_groups + 31) / 32, begin = lane * run, end = min(begin + run, p.n_groups), g = -1;
    double mine = 0, at;
    for (int32_t i = begin; i < end; i++)
        mine += p.sum[i];
    at = scan_lanes(mine);
    uint32_t passed = __ballot_sync(~0u, before + at > target && mine > 0);
    if (before > target || !passed)
        return -1;
    const int who = __ffs(passed) - 1;
    at = before + at - mine;
    for (int32_t i = begin; lane == who && i < end; i++) {
        if (p.sum[i] <= 0)
            continue;
        g = i; /* the last with mass, should rounding say that none passes */
        if (at + p.sum[i] > target)
            break;
        at += p.sum[i];
    }
    g = __shfl_sync(~0u, g, who);
    at = __shfl_sync(~0u, at, who);
    return find_in_group(p, c, g, at, target);
}

/* -- the list ---------------------------------------------------------------------------------------------------- */

/* One CTA a row: the groups whose largest is not below `key` into p.hits; returns how many. */
static __device__ inline int32_t find_hits(struct part<false> &p, uint32_t key)
{
    if (threadIdx.x == 0)
        p.s->n_hits = 0;
    __syncthreads();
    for (int32_t g = threadIdx.x; g < p.n_groups; g += THREADS)
        if (p.top[g] >= key)
            p.hits[add_shared(&p.s->n_hits, 1)] = g;
    __syncthreads();
    return (int32_t)p.s->n_hits;
}

/* each_logit over the first n of p.hits, where few groups of many are wanted. */
template <class F> static __device__ inline void each_hit(const struct part<false> &p, int32_t n, F f)
{
    for (int32_t i = threadIdx.x / 32; i < n; i += 4 * WARPS) {
        float l[4][4];
#pragma unroll
        for (int b = 0; b < 4; b++)
            logits_of(p, p.hits[min(i + b * WARPS, n - 1)], l[b]);
#pragma unroll
        for (int b = 0; b < 4; b++)
            for (int k = 0; i + b * WARPS < n && k < 4; k++)
                f(l[b][k], p.hits[i + b * WARPS] * GROUP + 4 * (int32_t)(threadIdx.x % 32) + k);
    }
}

/* Append to rank 0's list, which is empty, what is kept and lies in from .. to. Returns how many wanted in: more than
 * LIST means that the list is not whole. */
template <bool cluster>
static __device__ uint32_t gather(struct part<cluster> &p, struct cut keep, float from, float to)
{
    uint32_t *n = of_rank<cluster>(&p.s->n_list, 0);
    uint64_t *list = of_rank<cluster>(p.s->list, 0);
    const auto take = [&](float l, int32_t id) {
        if (l < from || l > to || !keeps(keep, l, id))
            return;
        uint32_t at = cluster ? atomicAdd(n, 1u) : add_shared(n, 1);
        if (at < LIST)
            list[at] = (uint64_t)key_of(l) << 32 | ~(uint32_t)id;
    };
    if constexpr (cluster)
        each_logit(p, key_of(from), take);
    else
        each_hit(p, find_hits(p, key_of(from)), take);
    sync_all<cluster>();
    return *n;
}

/* One CTA: its list of n different entries in descending order; each goes where the number of larger ones says. */
static __device__ void sort_list(struct sample_shared *s, uint32_t n)
{
    uint64_t own[LIST / THREADS];
    uint32_t rank[LIST / THREADS] = {};
    __syncthreads();
#pragma unroll
    for (int e = 0; e < LIST / THREADS; e++)
        own[e] = s->list[threadIdx.x + e * THREADS];
#pragma unroll 4
    for (uint32_t i = 0; i < n; i++)
#pragma unroll
        for (int e = 0; e < LIST / THREADS; e++)
            rank[e] += s->list[i] > own[e];
    __syncthreads();
#pragma unroll
    for (int e = 0; e < LIST / THREADS; e++)
        if (threadIdx.x + e * THREADS < n)
            s->list[rank[e]] = own[e];
    __syncthreads();
}

static __device__ inline struct cut cut_at(const struct sample_shared *s, uint32_t i)
{
    return {float_of((uint32_t)(s->list[i] >> 32)), (int32_t) ~(uint32_t)s->list[i]};
}

/* A logit that at least k are not below: the k-th largest of group maxima (a few groups together), rounded down to 16
 * bits. */
template <bool cluster> static __device__ float floor_of(struct part<cluster> &p, int32_t k)
{
    if (threadIdx.x < 32) {
        uint32_t key[FLOOR_KEYS] = {}, floor = 0;
        if (cluster) {
#pragma unroll
            for (int r = 0; r < CLUSTER; r++) {
                const uint32_t *top = of_rank<cluster>(p.top, r);
#pragma unroll
                for (int j = 0; j < 8; j++)
                    if ((int32_t)threadIdx.x + 32 * j < p.n_groups)
                        key[r % 4 * 4 + j % 4] = max(key[r % 4 * 4 + j % 4], top[threadIdx.x + 32 * j]);
            }
        } else {
            for (int32_t g = threadIdx.x; g < p.n_groups; g += 32 * FLOOR_KEYS)
#pragma unroll
                for (int j = 0; j < FLOOR_KEYS; j++)
                    if (g + 32 * j < p.n_groups)
                        key[j] = max(key[j], p.top[g + 32 * j]);
        }
        for (uint32_t bit = 0x80000000u; bit >= 0x10000u; bit /= 2) {
            uint32_t count = 0;
#pragma unroll
            for (int i = 0; i < FLOOR_KEYS; i++)
                count += key[i] >= (floor | bit);
            if (__reduce_add_sync(~0u, count) >= (uint32_t)k)
                floor |= bit;
        }
        if (threadIdx.x == 0)
            p.s->floor = floor;
    }
    __syncthreads();
    return float_of(p.s->floor);
}

/* How many maxima floor_of looks at; 0 when there are too many groups for it. */
template <bool cluster> static __device__ int32_t floor_keys(const struct part<cluster> &p)
{
    if (cluster)
        return p.n_groups <= 256 ? 4 * min(p.n_groups, 128) : 0;
    return min(p.n_groups, 32 * FLOOR_KEYS);
}

/* The list of the k best, sorted, and perhaps some more: returns how many; 0 when they are too many or k is, and then
 * the list is empty. */
template <bool cluster> static __device__ uint32_t list_best(struct part<cluster> &p, int32_t k)
{
    if (k > floor_keys(p) || k > LIST / 2)
        return 0;
    float floor = floor_of(p, k);
    uint32_t n = gather(p, {-FLT_MAX, INT32_MAX}, fmaxf(floor, -FLT_MAX), FLT_MAX);
    if (n > LIST) {
        tell_cut(p, {});
        return 0;
    }
    if (p.rank == 0)
        sort_list(p.s, n);
    return n;
}

/* One CTA: masses of the first n of its list. */
template <bool cluster> static __device__ void weigh_list(const struct part<cluster> &p, uint32_t n, enum mass mass)
{
    for (uint32_t i = threadIdx.x; i < n; i += THREADS)
        p.s->mass[i] = mass == ONE ? 1 : fixed(weight(p, cut_at(p.s, i).value));
    __syncthreads();
}

/* One CTA, its list sorted and weighed: along it until the mass reaches the target; the index there, at most n - 1. */
template <bool cluster>
static __device__ uint32_t walk(const struct part<cluster> &p, uint32_t n, uint64_t before, uint64_t target)
{
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t i = 0; i < n; i += 32) { /* all warps alike */
        uint64_t sum = before + scan_lanes<unsigned long long>(i + lane < n ? p.s->mass[i + lane] : 0);
        uint32_t reaches = __ballot_sync(~0u, sum >= target && i + lane < n);
        if (reaches)
            return i + (uint32_t)__ffs(reaches) - 1;
        before = __shfl_sync(~0u, sum, 31);
    }
    return n - 1;
}

#endif
