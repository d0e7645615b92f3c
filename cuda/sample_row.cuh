/* sample_row - what a row asks for, and its token by the passes over shared memory. Part of sample.cu. */
#ifndef HEARTH_CUDA_SAMPLE_ROW_CUH
#define HEARTH_CUDA_SAMPLE_ROW_CUH

#include "cuda/sample_cut.cuh"

#include "engine/base/rng.h"

/* Parameters of a row as they travel; lists are in `lists`, from an offset in bytes. */
struct row_params {
    float temperature, top_p, min_p, repetition, presence, frequency;
    int32_t top_k, n_logprobs;
    uint64_t seed, position;
    uint32_t choice, after;
    uint32_t n_seen, n_bias, n_banned;
    uint32_t seen_at, bias_at, banned_at, mask_at; /* mask_at: 0 = none */
    float rate;                                    /* octaves of weight in a nat of logit: log2(e) / temperature */
};

struct sample_args {
    const float *logits;
    const struct row_params *rows;
    const uint8_t *lists;
    const int32_t *index;  /* the launch's rows */
    const int32_t *before; /* what the call before chose */
    int32_t *drawn;
    struct sample_out *out; /* host memory that the card writes */
    float *copy;            /* without clusters: [R][n_groups * GROUP] */
    int32_t vocab, part;    /* part: logits of a CTA, a multiple of GROUP */
    /* of streamed rows: each group's largest as a key, and its sums of weights beside that, at the row's temperature
     * and at 1: [R][groups] */
    uint32_t *top;
    float *sum, *raw_sum;
};

#define LOG2_E 1.44269504f

static __device__ inline const uint32_t *mask_of(const struct sample_args &a, const struct row_params &r)
{
    return r.mask_at ? (const uint32_t *)(a.lists + r.mask_at) : NULL;
}

static __host__ __device__ inline bool is_greedy(const struct row_params &r)
{
    return !(r.temperature > 0) || r.top_k == 1;
}

/* One thread. any: not all raw logits are -inf. */
static __device__ void write_result(const struct sample_args &a, int32_t row, int32_t id, bool logprobs, bool any,
                                    double lse)
{
    struct sample_out *out = a.out + row;
    float own = logprobs ? clean(a.logits[(size_t)row * a.vocab + id]) : 0;
    a.drawn[row] = id;
    out->id = id;
    out->logprob = !logprobs ? 0.0f : own > -INFINITY ? (float)(own - lse) : -INFINITY;
    if (!logprobs || !any)
        out->n_top = 0;
}

/* -- a row ------------------------------------------------------------------------------------------------------- */

/* An id's logit, if it is in this part. */
template <bool cluster> static __device__ inline float *mine(const struct part<cluster> &p, int32_t id)
{
    uint32_t at = (uint32_t)(id - p.id0);
    return at < (uint32_t)(p.n_groups * GROUP) ? p.l + at : NULL;
}

static __device__ inline void penalise(float *x, uint32_t n_out, const struct row_params &r)
{
    float l = *x > 0 ? __fdiv_rn(*x, r.repetition) : __fmul_rn(*x, r.repetition);
    if (n_out)
        l = __fsub_rn(__fsub_rn(l, __fmul_rn(r.frequency, (float)n_out)), r.presence);
    *x = clean(l);
}

/* Bias, ban, penalties, mask on the part. */
template <bool cluster>
static __device__ void adjust(const struct sample_args &a, const struct row_params &r, struct part<cluster> &p,
                              int32_t after)
{
    const struct sample_bias *bias = (const struct sample_bias *)(a.lists + r.bias_at);
    const struct sample_seen *seen = (const struct sample_seen *)(a.lists + r.seen_at);
    const int32_t *banned = (const int32_t *)(a.lists + r.banned_at);
    float *x;
    for (uint32_t i = threadIdx.x; i < r.n_bias; i += THREADS)
        if ((x = mine(p, bias[i].id)))
            atomicAdd(x, bias[i].bias);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < r.n_bias; i += THREADS)
        if ((x = mine(p, bias[i].id)))
            *x = clean(*x);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < r.n_banned; i += THREADS)
        if ((x = mine(p, banned[i])))
            *x = -INFINITY;
    __syncthreads();
    bool penalises = r.repetition != 1 || r.presence != 0 || r.frequency != 0, found = false;
    for (uint32_t i = threadIdx.x; penalises && i < r.n_seen; i += THREADS) {
        bool once_more = seen[i].id == after;
        found |= once_more;
        if ((x = mine(p, seen[i].id)))
            penalise(x, seen[i].n_out + once_more, r);
    }
    found = __syncthreads_or(found);
    if (penalises && after >= 0 && !found && threadIdx.x == 0 && (x = mine(p, after)))
        penalise(x, 1, r);
    __syncthreads();
    const uint32_t *mask = mask_of(a, r);
    for (int32_t i = threadIdx.x; mask && i < min(p.n_groups * GROUP, a.vocab - p.id0); i += THREADS)
        if (!(mask[(p.id0 + i) / 32] >> (p.id0 + i) % 32 & 1))
            p.l[i] = -INFINITY;
    __syncthreads();
}

/* The best of the raw logits, of which lse is ln of the sum of e^logit. The list is empty after that; or, where that is
 * asked for and it can be, it holds at least the `leave` best, and how many is returned. */
template <bool cluster>
static __device__ __noinline__ uint32_t raw_logprobs(const struct row_params &r, struct part<cluster> &p, double lse,
                                                     struct sample_out *out, int32_t leave)
{
    const struct cut all = {-FLT_MAX, INT32_MAX};
    const int32_t k = min(r.n_logprobs, SAMPLE_TOP_MAX);
    uint32_t n = 0, listed = 0;
    if (k > 0) {
        n = listed = list_best(p, max(k, leave));
        if (n == 0) { /* a small vocabulary, or many as good as the k-th */
            struct cut last = find_cut(p, {all, -FLT_MAX, p.max, ONE}, (uint64_t)k);
            n = gather(p, last, -FLT_MAX, FLT_MAX);
            if (p.rank == 0)
                sort_list(p.s, n);
        }
        n = min((uint32_t)k, n);
        if (p.rank == 0 && threadIdx.x < n) {
            struct cut c = cut_at(p.s, threadIdx.x);
            out->top[threadIdx.x].id = c.id;
            out->top[threadIdx.x].logprob = (float)(c.value - lse);
        }
        __syncthreads();
        if (!leave || !listed)
            tell_cut(p, {});
    }
    if (p.rank == 0 && threadIdx.x == 0)
        out->n_top = (int32_t)n;
    return leave ? listed : 0;
}

/* One CTA: the draw from its sorted list, of which top-k keeps n. */
template <bool cluster>
static __device__ int32_t draw_listed(const struct row_params &r, const struct part<cluster> &p, uint32_t n)
{
    const uint32_t lane = threadIdx.x % 32;
    const float least = r.min_p > 0 ? fminf(r.min_p, 1) : 0;
    if (r.top_p < 1) {
        uint64_t total = 0;
        weigh_list(p, n, WEIGHT);
        for (uint32_t i = 0; i < n; i += 32) {
            uint32_t m = i + lane < n ? p.s->mass[i + lane] : 0;
            total += __reduce_add_sync(~0u, m & 0xffff) + ((uint64_t)__reduce_add_sync(~0u, m >> 16) << 16);
        }
        n = 1 + walk(p, n, 0, (uint64_t)ceil((double)total * fmax((double)r.top_p, 0.0)));
    }
    __syncthreads(); /* in order of ids now, with their weights */
    for (uint32_t i = threadIdx.x; i < n; i += THREADS) {
        struct cut c = cut_at(p.s, i);
        float w = weight(p, c.value);
        p.s->list[i] = (uint64_t) ~(uint32_t)c.id << 32 | __float_as_uint(w >= least ? w : 0);
    }
    __syncthreads();
    sort_list(p.s, n);
    double total = 0, sum = 0, target;
    for (uint32_t i = 0; i < n; i += 32) {
        double w = i + lane < n ? (double)__uint_as_float((uint32_t)p.s->list[i + lane]) : 0;
        total += __shfl_sync(~0u, scan_lanes(w), 31);
    }
    target = rng_uniform(r.seed, r.choice, r.position, 0) * total;
    int32_t id = 0;
    for (uint32_t i = 0; i < n; i += 32) {
        double w = i + lane < n ? (double)__uint_as_float((uint32_t)p.s->list[i + lane]) : 0;
        double upto = sum + scan_lanes(w);
        uint32_t passed = __ballot_sync(~0u, w > 0 && upto > target), any = __ballot_sync(~0u, w > 0);
        if (any)
            id = (int32_t) ~(uint32_t)(p.s->list[i + (passed ? __ffs(passed) - 1 : 31 - __clz(any))] >> 32);
        if (passed)
            break;
        sum = __shfl_sync(~0u, upto, 31);
    }
    return id;
}

template <bool cluster>
static __device__ struct cut cut_top_p(const struct row_params &r, struct part<cluster> &p, struct cut keep,
                                       int32_t vocab)
{
    double before, total = sum_kept(p, {keep, 0, WEIGHT}, &before), top_p = fmax((double)r.top_p, 0.0);
    /* all ids that weigh less than rest / n together can't hold more than the rest */
    double ln = fmax(log(total * (1 - top_p) / vocab), -87.0) - 0.01;
    float lo = fmaxf((float)(p.max + ln * (double)r.temperature), -FLT_MAX);
    lo = fminf(fmaxf(lo, keep.value), p.max);
    return find_cut(p, {keep, lo, p.max, WEIGHT}, (uint64_t)ceil(total * top_p * UNIT));
}

/* The token, in thread 0 of one CTA; -1 elsewhere. */
template <bool cluster>
static __device__ int32_t choose(const struct sample_args &a, const struct row_params &r, struct part<cluster> &p,
                                 float max)
{
    struct cut keep = {-FLT_MAX, INT32_MAX};
    if (max == -INFINITY)
        return p.rank == 0 ? 0 : -1;
    if (is_greedy(r)) {
        int32_t id = lowest_with(p, max);
        return p.rank == 0 ? id : -1;
    }
    p.max = max;
    p.rate = r.rate;
    if (r.top_k > 0 && r.top_k < a.vocab) {
        uint32_t n = list_best(p, r.top_k);
        if (n)
            return p.rank == 0 ? draw_listed(r, p, min(n, (uint32_t)r.top_k)) : -1;
        keep = find_cut(p, {keep, -FLT_MAX, max, ONE}, (uint64_t)r.top_k);
    }
    if (r.top_p < 1)
        keep = cut_top_p(r, p, keep, a.vocab);
    struct count kept = {keep, r.min_p > 0 ? fminf(r.min_p, 1) : 0, WEIGHT};
    double before, total = sum_kept(p, kept, &before), u = rng_uniform(r.seed, r.choice, r.position, 0);
    return threadIdx.x < 32 ? find_kept(p, kept, u * total, before) : -1;
}

/* Grid: rows x CTAs of a cluster; THREADS; shared: struct sample_shared, the part, group maxima and sums. Three CTAs
 * fit an SM: while one computes, the others load. */
template <bool cluster> static __global__ void __launch_bounds__(THREADS, 3) sample_kernel(const struct sample_args a)
{
    extern __shared__ __align__(16) uint8_t memory[];
    const int32_t row = a.index[blockIdx.x / part<cluster>::n_ranks];
    const struct row_params r = a.rows[row];
    struct part<cluster> p = {
    };
    struct sample_out *out = a.out + row;
    uint8_t *rest = memory + sizeof *p.s;
    p.s = (struct sample_shared *)memory;
    p.rank = blockIdx.x % part<cluster>::n_ranks;
    p.n_groups = a.part / GROUP;
    p.id0 = p.rank * a.part;
    p.l = cluster ? (float *)rest : a.copy + (size_t)row * a.part;
    p.sum = (float *)(rest + (cluster ? a.part * sizeof(float) : 0));
    p.top = (uint32_t *)(p.sum + p.n_groups);
    p.hits = (int32_t *)(p.top + p.n_groups); /* without clusters */
    if (threadIdx.x == 0)
        p.s->n_list = 0;
    load(p, a.logits + (size_t)row * a.vocab, a.vocab);
    float max = find_tops(p);
    double lse = 0, before;
    if (r.n_logprobs >= 0 && max > -INFINITY) {
        p.max = max;
        p.rate = LOG2_E;
        lse = max + log(sum_kept(p, {{-FLT_MAX, INT32_MAX}, 0, WEIGHT}, &before));
        raw_logprobs(r, p, lse, out, 0);
    }
    int32_t after = r.after ? a.before[r.after - 1] : -1;
    bool any = max > -INFINITY;
    if (r.n_bias || r.n_banned || r.n_seen || r.mask_at || after >= 0) {
        adjust(a, r, p, after);
        max = find_tops(p);
    }
    int32_t id = choose(a, r, p, max);
    if (threadIdx.x == 0 && id >= 0)
        write_result(a, row, id, r.n_logprobs >= 0, any, lse);
    sync_all<cluster>(); /* no CTA leaves while another reads its memory */
}

#endif
