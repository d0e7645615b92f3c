/* sample_part - a row of logits in a cluster's shared memory: passes, the list that is sorted, cuts. Part of sample.cu.
 *
 * All functions are called by every thread of every CTA of the cluster, in step.
 */
#ifndef HEARTH_CUDA_SAMPLE_PART_CUH
#define HEARTH_CUDA_SAMPLE_PART_CUH

#include "cuda/cuda.cuh"

#include <float.h>

#define THREADS      256
#define WARPS        (THREADS / 32)
#define GROUP        128 /* logits of a group */
#define CLUSTER      8
#define LIST         1024 /* ids that are sorted; a power of two */
#define BINS         256
#define FLOOR_GROUPS 2048         /* most groups whose maxima are looked at for a floor */
#define UNIT         2147483648.0 /* weights in a histogram: 2^31 is 1 */

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
    };
    uint64_t out_u[2]; /* what the CTAs tell each other, in turn */
    double out_d[2];
    struct cut out_cut;
    uint64_t warp_u[WARPS];
    double warp_d[WARPS];
    uint64_t bin_before;
    uint32_t n_list, bin;
    int32_t found;
};

/* A CTA and its part of the row. */
template <bool cluster> struct part {
    struct sample_shared *s;
    float *l;      /* [n] adjusted logits, -inf beyond the vocabulary */
    uint32_t *top; /* [n_groups] key of each group's largest */
    double *sum;   /* [n_groups] */
    int32_t id0, n_groups, rank, n_ranks, all_groups;
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

template <bool cluster> static __device__ inline float weight(const struct part<cluster> &p, float l)
{
    return exp2f((l - p.max) * p.rate);
}

static __device__ inline uint32_t fixed(float w)
{
    return __float2uint_rn(w * (float)UNIT);
}

static __device__ inline bool keeps(struct cut c, float l, int32_t id)
{
    return l > c.value || (l == c.value && id <= c.id);
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
    for (int k = 16; k; k /= 2)
        x = max((unsigned long long)x, (unsigned long long)__shfl_xor_sync(~0u, x, k));
    if (threadIdx.x % 32 == 0)
        s->warp_u[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < WARPS; i++)
            x = max((unsigned long long)x, (unsigned long long)s->warp_u[i]);
        s->out_u[p.turn] = x;
    }
    sync_all<cluster>();
    x = 0;
    for (int r = 0; r < p.n_ranks; r++)
        x = max((unsigned long long)x, (unsigned long long)*of_rank<cluster>(&s->out_u[p.turn], r));
    p.turn ^= 1;
    return x;
}

/* The sum over CTAs of x (of thread 0), in order; *before: of those of lower rank. */
template <bool cluster> static __device__ double sum_ranks(struct part<cluster> &p, double x, double *before)
{
    double all = 0;
    if (threadIdx.x == 0)
        p.s->out_d[p.turn] = x;
    sync_all<cluster>();
    for (int r = 0; r < p.n_ranks; r++) {
        if (r == p.rank)
            *before = all;
        all += *of_rank<cluster>(&p.s->out_d[p.turn], r);
    }
    p.turn ^= 1;
    return all;
}

/* Everyone gets the cut that rank 0's thread 0 has. */
template <bool cluster> static __device__ struct cut tell_cut(struct part<cluster> &p, struct cut c)
{
    if (p.rank == 0 && threadIdx.x == 0)
        p.s->out_cut = c;
    sync_all<cluster>();
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
            uint32_t to = (uint32_t)__cvta_generic_to_shared(p.l + 4 * i);
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from + 4 * i) : "memory");
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

/* The lowest id whose logit is `value`. */
template <bool cluster> static __device__ int32_t lowest_with(struct part<cluster> &p, float value)
{
    const int lane = threadIdx.x % 32;
    uint32_t best = 0; /* ~id */
    for (int32_t g = threadIdx.x / 32; g < p.n_groups; g += WARPS) {
        if (p.top[g] < key_of(value))
            continue;
        for (int k = 0; k < 4; k++) {
            int32_t i = g * GROUP + 4 * lane + k;
            if (p.l[i] == value)
                best = max(best, ~(uint32_t)(p.id0 + i));
        }
    }
    return (int32_t) ~(uint32_t)max_all(p, best);
}

/* What a pass over the kept logits adds up. */
enum mass { ONE, WEIGHT };

/* Groups' sums of the masses of what is kept and weighs at least `least`; returns the sum of all, and the CTAs' before
 * this one. */
template <bool cluster>
static __device__ double sum_kept(struct part<cluster> &p, struct cut keep, float least, enum mass mass, double *before)
{
    const int lane = threadIdx.x % 32;
    for (int32_t g = threadIdx.x / 32; g < p.n_groups; g += WARPS) {
        double sum = 0;
        if (p.top[g] >= key_of(keep.value)) {
            for (int k = 0; k < 4; k++) {
                int32_t i = g * GROUP + 4 * lane + k;
                float l = p.l[i], w = mass == ONE ? (float)(l == keep.value) : weight(p, l);
                if (mass == ONE || (keeps(keep, l, p.id0 + i) && w >= least))
                    sum += w;
            }
            for (int k = 16; k; k /= 2)
                sum += __shfl_xor_sync(~0u, sum, k);
        }
        if (lane == 0)
            p.sum[g] = sum;
    }
    __syncthreads();
    double mine = 0;
    if (threadIdx.x < 32) { /* lanes take runs of groups, then the lanes in order */
        int32_t run = (p.n_groups + 31) / 32, end = min((lane + 1) * run, p.n_groups);
        for (int32_t g = lane * run; g < end; g++)
            mine += p.sum[g];
        for (int k = 1; k < 32; k *= 2) {
            double below = __shfl_up_sync(~0u, mine, k);
            mine += lane >= k ? below : 0;
        }
        mine = __shfl_sync(~0u, mine, 31);
    }
    return sum_ranks(p, mine, before);
}

/* Within the groups' sums of sum_kept: the first id at which the sum over ids passes the target; before: the CTAs
 * before this one. The same masses again. */
template <bool cluster>
static __device__ int32_t find_kept(struct part<cluster> &p, struct cut keep, float least, enum mass mass,
                                    double target, double before)
{
    const int lane = threadIdx.x % 32;
    uint64_t found = 0; /* id + 1 and how good it is: passed the target, or only has weight */
    if (threadIdx.x < 32) {
        int32_t run = (p.n_groups + 31) / 32, begin = lane * run, end = min(begin + run, p.n_groups), g = -1;
        double mine = 0, at;
        for (int32_t i = begin; i < end; i++)
            mine += p.sum[i];
        at = mine;
        for (int k = 1; k < 32; k *= 2) {
            double below = __shfl_up_sync(~0u, at, k);
            at += lane >= k ? below : 0;
        }
        uint32_t passed = __ballot_sync(~0u, before + at > target && mine > 0);
        uint32_t any = __ballot_sync(~0u, mine > 0);
        bool mine_starts = before <= target; /* else a CTA before has it */
        int who = passed ? __ffs(passed) - 1 : 31 - __clz(any);
        at = before + at - mine;
        if (any && mine_starts) {
            if (lane == who) {
                for (int32_t i = begin; i < end; i++) {
                    if (p.sum[i] <= 0)
                        continue;
                    g = i;
                    if (at + p.sum[i] > target)
                        break;
                    at += p.sum[i];
                }
            }
            g = __shfl_sync(~0u, g, who);
            at = __shfl_sync(~0u, at, who);
            float w[4];
            double own = 0, sum;
            for (int k = 0; k < 4; k++) {
                int32_t i = g * GROUP + 4 * lane + k;
                float l = p.l[i];
                w[k] = mass == ONE ? (float)(l == keep.value) : weight(p, l);
                w[k] = mass == ONE || (keeps(keep, l, p.id0 + i) && w[k] >= least) ? w[k] : 0;
                own += w[k];
            }
            sum = own;
            for (int k = 1; k < 32; k *= 2) {
                double below = __shfl_up_sync(~0u, sum, k);
                sum += lane >= k ? below : 0;
            }
            sum += at - own;
            /* the first that passes wins over all, else the last that weighs something; CTAs further on win over what
             * did not pass */
            for (int k = 0; k < 4; k++) {
                sum += w[k];
                uint32_t id = (uint32_t)(p.id0 + g * GROUP + 4 * lane + k);
                if (w[k] > 0 && sum > target && passed)
                    found = max((unsigned long long)found, (1ull << 40) + ~id);
                else if (w[k] > 0)
                    found = max((unsigned long long)found, (unsigned long long)id + 1);
            }
        }
    }
    found = max_all(p, found);
    return found >> 40 ? (int32_t) ~(uint32_t)found : (int32_t)((uint32_t)found - 1);
}

/* -- the list ---------------------------------------------------------------------------------------------------- */

/* Append to rank 0's list what is kept by `keep` and lies in [from, to] (keys). Returns how many wanted in: more than
 * LIST means that the list is not whole. */
template <bool cluster>
static __device__ uint32_t gather(struct part<cluster> &p, struct cut keep, float from, float to)
{
    const int lane = threadIdx.x % 32;
    uint32_t *n = of_rank<cluster>(&p.s->n_list, 0);
    uint64_t *list = of_rank<cluster>(p.s->list, 0);
    if (threadIdx.x == 0)
        p.s->n_list = 0;
    sync_all<cluster>();
    for (int32_t g = threadIdx.x / 32; g < p.n_groups; g += WARPS) {
        if (p.top[g] < key_of(from))
            continue;
        for (int k = 0; k < 4; k++) {
            int32_t i = g * GROUP + 4 * lane + k;
            float l = p.l[i];
            if (l < from || l > to || !keeps(keep, l, p.id0 + i))
                continue;
            uint32_t at = atomicAdd(n, 1u);
            if (at < LIST)
                list[at] = (uint64_t)key_of(l) << 32 | ~(uint32_t)(p.id0 + i);
        }
    }
    sync_all<cluster>();
    uint32_t found = *n;
    return found;
}

/* Rank 0: the list of n in descending order: larger logits first, then lower ids. (Bitonic, Batcher 1968.) */
static __device__ void sort_list(struct sample_shared *s, uint32_t n)
{
    uint32_t all = 2;
    while (all < n)
        all *= 2;
    for (uint32_t i = n + threadIdx.x; i < all; i += THREADS)
        s->list[i] = 0;
    __syncthreads();
    for (uint32_t size = 2; size <= all; size *= 2)
        for (uint32_t d = size / 2; d; d /= 2) {
            for (uint32_t i = threadIdx.x; i < all / 2; i += THREADS) {
                uint32_t a = 2 * d * (i / d) + i % d, b = a + d;
                uint64_t x = s->list[a], y = s->list[b];
                if (x < y == !(a & size)) {
                    s->list[a] = y;
                    s->list[b] = x;
                }
            }
            __syncthreads();
        }
}

static __device__ inline struct cut cut_at(const struct sample_shared *s, uint32_t i)
{
    return {float_of((uint32_t)(s->list[i] >> 32)), (int32_t) ~(uint32_t)s->list[i]};
}

/* A logit that at least k are not below: the k-th largest group maximum, rounded down to 16 bits. k <= all groups. */
template <bool cluster> static __device__ float floor_of(struct part<cluster> &p, int32_t k)
{
    uint32_t mine[FLOOR_GROUPS / THREADS], floor = 0; /* this thread's group maxima */
#pragma unroll
    for (int i = 0; i < FLOOR_GROUPS / THREADS; i++) {
        int32_t g = (int32_t)threadIdx.x + i * THREADS;
        mine[i] = 0;
        if (g < p.all_groups)
            mine[i] = cluster ? of_rank<cluster>(p.top, g / p.n_groups)[g % p.n_groups] : p.top[g];
    }
    for (uint32_t bit = 0x80000000u; bit >= 0x10000u; bit /= 2) {
        int count = 0;
#pragma unroll
        for (int i = 0; i < FLOOR_GROUPS / THREADS; i++)
            if (i * THREADS < p.all_groups)
                count += __syncthreads_count(mine[i] >= (floor | bit));
        if (count >= k)
            floor |= bit;
    }
    return float_of(floor);
}

/* The list of the k best, sorted; its floor is at or below the k-th. False when it is not whole. All CTAs. */
template <bool cluster> static __device__ bool list_best(struct part<cluster> &p, int32_t k)
{
    if (k > p.all_groups || k > LIST || p.all_groups > FLOOR_GROUPS)
        return false;
    float floor = floor_of(p, k);
    uint32_t n = gather(p, {-FLT_MAX, INT32_MAX}, fmaxf(floor, -FLT_MAX), FLT_MAX);
    if (n > LIST)
        return false;
    if (p.rank == 0)
        sort_list(p.s, n);
    return true;
}

/* -- cuts -------------------------------------------------------------------------------------------------------- */

/* Bucket of l, which lies in lo .. hi: 0 for hi, growing as l falls. */
static __device__ inline uint32_t bin_of(float l, float hi, float scale)
{
    return min((uint32_t)((hi - l) * scale), BINS - 1u);
}

/* Masses of what is kept in lo .. hi by buckets; then s->bin is the bucket in which `before` and they reach the target
 * (or the last that has any), s->bin_before the mass above it. */
template <bool cluster>
static __device__ void fill_bins(struct part<cluster> &p, struct cut keep, float lo, float hi, float scale,
                                 enum mass mass, uint64_t before, uint64_t target)
{
    struct sample_shared *s = p.s;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    s->all[threadIdx.x] = 0;
    static_assert(BINS == THREADS, "a thread a bucket");
    __syncthreads();
    for (int32_t g = warp; g < p.n_groups; g += WARPS) {
        if (p.top[g] < key_of(lo))
            continue;
        for (int k = 0; k < 4; k++) {
            int32_t i = g * GROUP + 4 * lane + k;
            float l = p.l[i];
            if (l < lo || l > hi || !keeps(keep, l, p.id0 + i))
                continue;
            uint32_t m = mass == ONE ? 1 : fixed(weight(p, l)), bin = bin_of(l, hi, scale);
            if (!cluster) {
                atomicAdd(&s->all[bin], m);
                continue;
            }
            atomicAdd(&s->low[bin], m & 0xffff);
            if (m >> 16)
                atomicAdd(&s->high[bin], m >> 16);
        }
    }
    sync_all<cluster>();
    uint64_t own = 0, sum;
    for (int r = 0; cluster && r < p.n_ranks; r++)
        own += ((uint64_t)of_rank<cluster>(s->high, r)[threadIdx.x] << 16) + of_rank<cluster>(s->low, r)[threadIdx.x];
    own = cluster ? own : s->all[threadIdx.x];
    sum = own;
    for (int k = 1; k < 32; k *= 2) {
        uint64_t below = __shfl_up_sync(~0u, sum, k);
        sum += lane >= k ? below : 0;
    }
    if (lane == 31)
        s->warp_u[warp] = sum;
    if (threadIdx.x == 0)
        s->bin = 0;
    __syncthreads();
    for (int w = 0; w < warp; w++)
        sum += s->warp_u[w];
    sum += before;
    /* the first that reaches the target, else the last with any mass: as a maximum over ~bin and bin */
    bool reaches = own && sum >= target;
    uint32_t rank_of = reaches ? 0x80000000u | (BINS - threadIdx.x) : own ? threadIdx.x : 0;
    atomicMax(&s->bin, rank_of);
    __syncthreads();
    uint32_t best = s->bin, bin = best & 0x80000000u ? BINS - (best & 0x7fffffffu) : best;
    __syncthreads();
    if (threadIdx.x == bin) {
        s->bin = bin;
        s->bin_before = sum - own;
    }
    sync_all<cluster>(); /* the others have read this CTA's bins */
}

/* Least and largest of what is kept in the bucket. */
template <bool cluster>
static __device__ void bin_range(struct part<cluster> &p, struct cut keep, float *lo, float *hi, float scale,
                                 uint32_t bin)
{
    const int lane = threadIdx.x % 32;
    uint32_t least = 0, most = 0; /* ~key, key */
    for (int32_t g = threadIdx.x / 32; g < p.n_groups; g += WARPS) {
        if (p.top[g] < key_of(*lo))
            continue;
        for (int k = 0; k < 4; k++) {
            int32_t i = g * GROUP + 4 * lane + k;
            float l = p.l[i];
            if (l < *lo || l > *hi || !keeps(keep, l, p.id0 + i) || bin_of(l, *hi, scale) != bin)
                continue;
            least = max(least, ~key_of(l));
            most = max(most, key_of(l));
        }
    }
    *lo = float_of(~(uint32_t)max_all(p, least));
    *hi = float_of((uint32_t)max_all(p, most));
}

/* Rank 0: along the sorted list until the mass reaches the target; at least one. */
template <bool cluster>
static __device__ struct cut walk(const struct part<cluster> &p, uint32_t n, enum mass mass, uint64_t before,
                                  uint64_t target)
{
    uint32_t i = 0;
    for (; i + 1 < n; i++) {
        before += mass == ONE ? 1 : fixed(weight(p, cut_at(p.s, i).value));
        if (before >= target)
            break;
    }
    return cut_at(p.s, i);
}

/* The cut of the shortest run of kept ones, best first, whose mass reaches the target; all mass that matters lies in lo
 * .. hi, both of which are logits or bounds. */
template <bool cluster>
static __device__ __noinline__ struct cut find_cut(struct part<cluster> &p, struct cut keep, float lo, float hi,
                                                   enum mass mass, uint64_t target)
{
    uint64_t above = 0;
    for (;;) {
        float scale = (float)((BINS - 1) / ((double)hi - lo));
        if (!(hi > lo) || !(scale < FLT_MAX))
            break;
        fill_bins(p, keep, lo, hi, scale, mass, above, target);
        uint32_t bin = p.s->bin;
        above = p.s->bin_before;
        bin_range(p, keep, &lo, &hi, scale, bin);
        uint32_t n = gather(p, keep, lo, hi);
        if (n <= LIST) {
            struct cut c = {};
            if (p.rank == 0) {
                sort_list(p.s, n);
                c = walk(p, n, mass, above, target);
            }
            return tell_cut(p, c);
        }
    }
    /* many equal logits: by id */
    struct cut c = {hi, INT32_MAX};
    uint64_t each = mass == ONE ? 1 : fixed(weight(p, hi));
    double before, want = target > above && each ? (double)((target - above + each - 1) / each) : 1;
    sum_kept(p, c, 0, ONE, &before);
    c.id = find_kept(p, c, 0, ONE, want - 0.5, before);
    return c;
}

#endif
