/* sample_cut - where a row is cut off so that what stays has a given mass: by histograms, until the bucket of the cut
 * fits the list. Part of sample.cu; called as sample_part.cuh says.
 */
#ifndef HEARTH_CUDA_SAMPLE_CUT_CUH
#define HEARTH_CUDA_SAMPLE_CUT_CUH

#include "cuda/sample_part.cuh"

/* Where a cut is looked for: among what is kept, in lo .. hi. */
struct range {
    struct cut keep;
    float lo, hi;
    enum mass mass;
};

/* Bucket of l, which lies in lo .. hi: 0 for hi, growing as l falls. */
static __device__ inline uint32_t bin_of(float l, float hi, float scale)
{
    return min((uint32_t)((hi - l) * scale), BINS - 1u);
}

static __device__ inline bool in_range(struct range r, float l, int32_t id)
{
    return l >= r.lo && l <= r.hi && keeps(r.keep, l, id);
}

/* Thread t has the mass of bucket t: s->bin is the bucket in which `before` and they reach the target (or the last that
 * has any), s->bin_before the mass above it. The list is empty. */
static __device__ inline void pick_bin(struct sample_shared *s, uint64_t own, uint64_t before, uint64_t target)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint64_t sum = scan_lanes<unsigned long long>(own);
    static_assert(BINS == THREADS, "a thread a bucket");
    if (lane == 31)
        s->warp_u[warp] = sum;
    if (threadIdx.x == 0)
        s->bin = s->n_list = 0;
    __syncthreads();
    for (uint32_t w = 0; w < warp; w++)
        sum += s->warp_u[w];
    sum += before;
    /* the first that reaches the target, else the last with any mass: as a maximum */
    bool reaches = own && sum >= target;
    uint32_t rank = reaches ? 0x80000000u | (BINS - threadIdx.x) : own ? threadIdx.x : 0;
    rank = __reduce_max_sync(~0u, rank);
    if (lane == 0)
        atomicMax(&s->bin, rank);
    __syncthreads();
    uint32_t best = s->bin, bin = best & 0x80000000u ? BINS - (best & 0x7fffffffu) : best;
    __syncthreads();
    if (threadIdx.x == bin) {
        s->bin = bin;
        s->bin_before = sum - own;
    }
    __syncthreads();
}

/* Masses by buckets, of the whole row, then: s->bin is the bucket in which `before` and they reach the target (or the
 * last that has any), s->bin_before the mass above it. The list is empty. */
template <bool cluster>
static __device__ void fill_bins(struct part<cluster> &p, struct range r, float scale, uint64_t before, uint64_t target)
{
    struct sample_shared *s = p.s;
    s->all[threadIdx.x] = 0;
    __syncthreads();
    each_logit(p, key_of(r.lo), [&](float l, int32_t id) {
        if (!in_range(r, l, id))
            return;
        uint32_t m = r.mass == ONE ? 1 : fixed(weight(p, l)), bin = bin_of(l, r.hi, scale);
        if (!cluster) {
            atomicAdd(&s->all[bin], m);
            return;
        }
        add_shared(&s->low[bin], m & 0xffff);
        if (m >> 16)
            add_shared(&s->high[bin], m >> 16);
    });
    sync_all<cluster>();
    uint64_t own = cluster ? 0 : s->all[threadIdx.x];
#pragma unroll
    for (int k = 0; cluster && k < CLUSTER; k++)
        own += ((uint64_t)of_rank<cluster>(s->high, k)[threadIdx.x] << 16) + of_rank<cluster>(s->low, k)[threadIdx.x];
    pick_bin(s, own, before, target);
    sync_all<cluster>(); /* the others have read this CTA's bins */
}

/* r narrowed to the least and largest in the bucket. */
template <bool cluster>
static __device__ struct range bin_range(struct part<cluster> &p, struct range r, float scale, uint32_t bin)
{
    uint32_t least = 0, most = 0; /* ~key, key */
    each_logit(p, key_of(r.lo), [&](float l, int32_t id) {
        if (!in_range(r, l, id) || bin_of(l, r.hi, scale) != bin)
            return;
        least = max(least, ~key_of(l));
        most = max(most, key_of(l));
    });
    r.lo = float_of(~(uint32_t)max_all(p, least));
    r.hi = float_of((uint32_t)max_all(p, most));
    return r;
}

/* The cut of the shortest run of kept ones, best first, whose mass reaches the target; all mass that matters lies in
 * the range. */
template <bool cluster>
static __device__ __noinline__ struct cut find_cut(struct part<cluster> &p, struct range r, uint64_t target)
{
    uint64_t above = 0;
    for (;;) {
        float scale = (float)((BINS - 1) / ((double)r.hi - r.lo));
        if (!(r.hi > r.lo) || !(scale < FLT_MAX))
            break;
        fill_bins(p, r, scale, above, target);
        above = p.s->bin_before;
        r = bin_range(p, r, scale, p.s->bin);
        uint32_t n = gather(p, r.keep, r.lo, r.hi);
        if (n <= LIST) {
            struct cut c = {};
            if (p.rank == 0) {
                sort_list(p.s, n);
                weigh_list(p, n, r.mass);
                c = cut_at(p.s, walk(p, n, above, target));
            }
            return tell_cut(p, c);
        }
    }
    /* many equal logits: by id */
    struct count equal = {{r.hi, INT32_MAX}, 0, ONE};
    uint64_t each = r.mass == ONE ? 1 : fixed(weight(p, r.hi));
    double before, want = target > above && each ? (double)((target - above + each - 1) / each) : 1;
    double most = sum_kept(p, equal, &before);
    if (threadIdx.x == 0)
        p.s->n_list = 0;
    int32_t id = threadIdx.x < 32 ? find_kept(p, equal, fmin(want, most) - 0.5, before) : -1;
    return {r.hi, (int32_t)max_all(p, (uint64_t)(id + 1)) - 1};
}

#endif
