/* sample_finish - rows with nothing to adjust: the token, from what the stream left behind. Part of sample.cu.
 *
 * A CTA a row, launched while the stream ends. It finds the groups that hold the token, or may hold one of the k best,
 * and looks at those again, four of them a warp at a time: the rest of the row is not read. Of a nucleus: the bin of
 * the cut, the ids in it by their bytes, the cut among those; then the chunk of the token and its group.
 */
#ifndef HEARTH_CUDA_SAMPLE_FINISH_CUH
#define HEARTH_CUDA_SAMPLE_FINISH_CUH

#include "cuda/sample_stream.cuh"

#define IN_BIN     6144 /* ids of the bin of the cut; more: the row is cut by passes over it */
#define MAX_CHUNKS BINS /* vocabularies beyond that are not streamed */
#define NO_BIN     0x10000u

/* Shared memory of a nucleus row. */
struct nucleus {
    uint64_t in_bin[IN_BIN];    /* as in a list */
    float mass[MAX_CHUNKS];     /* of each chunk, above the bin of the cut */
    uint32_t below[MAX_CHUNKS]; /* how many bins the chunk's largest lies below the row's; NO_BIN: too many */
    double want;                /* mass up to the cut, from the bin's upper edge */
    float place;                /* of the bin on the grid */
    uint32_t bin, n;            /* the same from the row's largest down, NO_BIN: none found; ids in it */
};

static __host__ __device__ inline size_t finish_shared(int32_t vocab, bool nucleus)
{
    size_t n = sizeof(struct sample_shared) + (((size_t)(vocab / GROUP) * 12 + 15) & ~(size_t)15);
    return n + (nucleus ? sizeof(struct nucleus) : 0);
}

/* -- places and masses ------------------------------------------------------------------------------------------- */

/* Sum of x over threads up to this one, and of all. */
static __device__ double scan_block(struct sample_shared *s, double x, double *all)
{
    const int warp = threadIdx.x / 32;
    double sum = scan_lanes(x), before = 0;
    if (threadIdx.x % 32 == 31)
        s->warp_d[warp] = sum;
    __syncthreads();
    *all = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        before = w == warp ? *all : before;
        *all += s->warp_d[w];
    }
    __syncthreads();
    return before + sum;
}

/* s->place: where among masses[n] the sum, from `before` on, passes the target, and s->place_at the sum before it. The
 * last with mass should rounding say that it does not. The target is u times the whole where u is not negative. */
static __device__ void find_place(struct sample_shared *s, const float *masses, int32_t n, double before, double u,
                                  double *target)
{
    const int32_t run = (n + THREADS - 1) / THREADS, begin = min((int32_t)threadIdx.x * run, n);
    const int32_t end = min(begin + run, n);
    double mine = 0, total, at;
    __syncthreads();
    for (int32_t g = begin; g < end; g++)
        mine += masses[g];
    at = before + scan_block(s, mine, &total);
    if (u >= 0)
        *target = u * total;
    /* the first thread that passes the target, else the last with mass: as a maximum */
    const uint32_t rank = mine > 0 ? at > *target ? 2 * THREADS - threadIdx.x : threadIdx.x : 0;
    const uint32_t best = max_of_warps(s, __reduce_max_sync(~0u, rank));
    at -= mine;
    if (rank == best && mine > 0)
        for (int32_t g = begin; g < end; g++) {
            if (masses[g] <= 0)
                continue;
            s->place = g;
            s->place_at = at;
            if (at + masses[g] > *target)
                break;
            at += masses[g];
        }
    __syncthreads();
}

/* The id, in warp 0, at which the sum over ids passes u times the whole; p.sum has the groups' masses. */
static __device__ int32_t draw_groups(struct part<false> &p, struct count c, double u)
{
    double target;
    find_place(p.s, p.sum, p.n_groups, 0, u, &target);
    return threadIdx.x < 32 ? find_in_group(p, c, p.s->place, p.s->place_at, target) : -1;
}

/* Masses of what is kept in the first n groups of p.hits. */
static __device__ void weigh_hits(struct part<false> &p, struct count c, int32_t n)
{
    const int lane = threadIdx.x % 32;
    for (int32_t i = threadIdx.x / 32; i < n; i += 8 * WARPS) {
        float w[8][4], sum[8];
#pragma unroll
        for (int b = 0; b < 8; b++)
            masses_of(p, c, p.hits[min(i + b * WARPS, n - 1)], w[b]);
#pragma unroll
        for (int b = 0; b < 8; b++) {
            sum[b] = (w[b][0] + w[b][1]) + (w[b][2] + w[b][3]);
            for (int k = 16; k; k /= 2)
                sum[b] += __shfl_xor_sync(~0u, sum[b], k);
            if (lane == 0 && i + b * WARPS < n)
                p.sum[p.hits[i + b * WARPS]] = sum[b];
        }
    }
}

/* The same for all groups: 0 where nothing is kept. */
static __device__ void weigh_groups(struct part<false> &p, struct count c)
{
    const int32_t n = find_hits(p, key_of(c.keep.value));
    for (int32_t g = threadIdx.x; g < p.n_groups; g += THREADS)
        p.sum[g] = 0;
    __syncthreads();
    weigh_hits(p, c, n);
}

/* The sums that the stream left, beside the row's largest now. */
static __device__ void rescale(struct part<false> &p, const float *sums)
{
    for (int32_t g = threadIdx.x; g < p.n_groups; g += THREADS)
        p.sum[g] = p.top[g] > key_of(-INFINITY) ? __ldcg(sums + g) * weight(p, float_of(p.top[g])) : 0;
    __syncthreads();
}

/* The lowest id whose logit is `value`, the largest of all. */
static __device__ int32_t lowest_in_hits(struct part<false> &p, float value)
{
    const uint32_t key = key_of(value);
    uint32_t best = 0; /* ~group */
    for (int32_t g = threadIdx.x; g < p.n_groups; g += THREADS)
        if (p.top[g] == key)
            best = max(best, ~(uint32_t)g);
    const int32_t g = (int32_t) ~(uint32_t)max_all(p, best);
    float l[4];
    logits_of(p, g, l);
    const int k = l[0] == value ? 0 : l[1] == value ? 1 : l[2] == value ? 2 : 3;
    const uint32_t has = __ballot_sync(~0u, k < 3 || l[3] == value);
    const int who = __ffs(has) - 1;
    return g * GROUP + 4 * who + __shfl_sync(~0u, k, who);
}

/* -- the nucleus ------------------------------------------------------------------------------------------------- */

/* What the chunks hold above the bin: a warp a chunk, four bins a lane. */
static __device__ void sum_above(struct nucleus *to, const float *mass, int32_t chunks, uint32_t bin, float width,
                                 float scale)
{
    const int32_t lane = threadIdx.x % 32;
    for (int32_t i = threadIdx.x / 32; i < chunks; i += WARPS) {
        const float4 m = __ldcg((const float4 *)(mass + i * MASS_BINS) + lane);
        const float of_bin[4] = {m.x, m.y, m.z, m.w};
        float above = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const uint32_t at = to->below[i] + 4 * lane + k;
            above += at < bin ? of_bin[k] * exp2_of(-(float)at * width) : 0;
        }
        for (int k = 16; k; k /= 2)
            above += __shfl_xor_sync(~0u, above, k);
        if (lane == 0)
            to->mass[i] = above * scale;
    }
}

/* The bin of the cut, what is wanted of it, and what the chunks hold above it. Thread t has the row's bin t: beyond
 * those are weights below 2^-34. Masses are beside the place of the first bin, then beside the row's largest. */
static __device__ void find_bin(const struct stream_args &a, const struct row_params &r, const struct part<false> &p,
                                struct grid g, struct nucleus *to, int32_t row)
{
    const double unit = 0x1p44;
    const int32_t chunks = chunks_of(a.of.vocab);
    const float *mass = a.mass + (size_t)row * chunks * MASS_BINS, best = place_of(g, p.max);
    static_assert(THREADS >= 2 * MASS_BINS, "a thread a bin of the row");
    for (int32_t i = threadIdx.x; i < chunks; i += THREADS) {
        const float below = best - place_of(g, float_of(__ldcg(a.chunk_top + (size_t)row * chunks + i)));
        to->below[i] = below < THREADS ? (uint32_t)below : NO_BIN;
    }
    __syncthreads();
    double own = 0, total;
#pragma unroll 16
    for (int32_t i = 0; i < chunks; i++) {
        const uint32_t bin = threadIdx.x - to->below[i];
        own += bin < MASS_BINS ? __ldcg(mass + i * MASS_BINS + bin) : 0;
    }
    own *= exp2_of(-(float)threadIdx.x * g.width);
    scan_block(p.s, own, &total);
    const double target = total * fmax((double)r.top_p, 0.0);
    const float scale = 1 / beside(g, p.max, best);
    pick_bin(p.s, (uint64_t)(own * unit), 0, (uint64_t)ceil(target * unit));
    const uint32_t bin = p.s->bin;
    if (threadIdx.x == 0) {
        to->bin = bin < MASS_BINS - 1 && on_grid(g, p.max, 32768) ? bin : NO_BIN;
        to->place = best - (float)bin;
        to->want = (target - (double)p.s->bin_before / unit) * scale;
        to->n = 0;
    }
    sum_above(to, mass, chunks, bin, g.width, scale);
}

/* The ids in the bin, then as entries of a list. */
static __device__ void list_bin(const uint4 *bins, const struct part<false> &p, struct grid g, struct nucleus *to)
{
    const int32_t all = p.n_groups * (GROUP / 16);
    const float place = to->place;
    const uint32_t want = (__float_as_uint(place) & 0xff) * 0x01010101u;
    for (int32_t i0 = threadIdx.x; i0 < all; i0 += 8 * THREADS) {
        uint4 v[8];
        bool may[8]; /* a group that is all below the bin may have no bytes */
#pragma unroll
        for (int b = 0; b < 8; b++) {
            const int32_t i = i0 + b * THREADS;
            may[b] = i < all && place_of(g, float_of(p.top[i / (GROUP / 16)])) >= place;
            if (may[b])
                v[b] = load_once(bins + i);
        }
#pragma unroll
        for (int b = 0; b < 8; b++) {
            if (!may[b])
                continue;
            uint32_t has = (__vcmpeq4(v[b].x, want) & 0x01010101u) | (__vcmpeq4(v[b].y, want) & 0x02020202u) |
                           (__vcmpeq4(v[b].z, want) & 0x04040404u) | (__vcmpeq4(v[b].w, want) & 0x08080808u);
            for (uint32_t at = has ? add_shared(&to->n, __popc(has)) : 0; has; has &= has - 1, at++) {
                const uint32_t bit = __ffs(has) - 1; /* of byte bit / 8 in word bit % 8 */
                if (at < IN_BIN)
                    to->in_bin[at] = 16 * (uint32_t)(i0 + b * THREADS) + 4 * (bit % 8) + bit / 8;
            }
        }
    }
    __syncthreads();
    const uint32_t n = min(to->n, IN_BIN);
    for (uint32_t i0 = threadIdx.x; i0 < n; i0 += 4 * THREADS) {
        float l[4];
        uint32_t id[4];
#pragma unroll
        for (int b = 0; b < 4; b++) {
            id[b] = i0 + b * THREADS < n ? (uint32_t)to->in_bin[i0 + b * THREADS] : 0;
            l[b] = p.l[id[b]];
        }
#pragma unroll
        for (int b = 0; b < 4; b++)
            if (i0 + b * THREADS < n)
                to->in_bin[i0 + b * THREADS] = (uint64_t)key_of(clean(l[b])) << 32 | ~id[b];
    }
    __syncthreads();
}

/* Fine bins from `top` down: BINS in a place, and some more. */
static __device__ inline uint32_t fine_bin(float l, float top, float scale)
{
    return (uint32_t)fminf((top - l) * scale, BINS - 1);
}

/* The cut among the ids of the bin; at -inf when too many are too near to it. */
static __device__ struct cut cut_in_bin(struct part<false> p, struct grid g, const struct nucleus *in)
{
    struct sample_shared *s = p.s;
    const uint64_t *list = in->in_bin;
    const uint32_t n = in->n;
    const float top = (in->place - GRID_ZERO + 0.51f) / g.places, scale = g.places * (BINS / 1.03f);
    const uint64_t target = (uint64_t)fmin(fmax(ceil(in->want / weight(p, top) * UNIT), 1.0), 0x1p62);
    p.max = top; /* masses beside that, which no id of the bin is above */
    s->all[threadIdx.x] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n; i += THREADS) {
        const float l = float_of((uint32_t)(list[i] >> 32));
        const uint32_t bin = fine_bin(l, top, scale), m = fixed(weight(p, l));
        add_shared(&s->low[bin], m & 0xffff);
        if (m >> 16)
            add_shared(&s->high[bin], m >> 16);
    }
    __syncthreads();
    const uint64_t own = ((uint64_t)s->high[threadIdx.x] << 16) + s->low[threadIdx.x];
    pick_bin(s, own, 0, target);
    for (uint32_t i = threadIdx.x; i < n; i += THREADS) {
        if (fine_bin(float_of((uint32_t)(list[i] >> 32)), top, scale) != s->bin)
            continue;
        uint32_t at = add_shared(&s->n_list, 1);
        if (at < LIST)
            s->list[at] = list[i];
    }
    __syncthreads();
    const uint32_t few = s->n_list;
    struct cut cut = {-INFINITY, 0};
    if (few <= LIST) {
        sort_list(s, few);
        weigh_list(p, few, WEIGHT);
        cut = cut_at(s, walk(p, few, s->bin_before, target));
    }
    __syncthreads();
    if (threadIdx.x == 0)
        s->n_list = 0;
    __syncthreads();
    return cut;
}

/* What is kept of the bin is added to its chunks' masses, in integers: weights beside the cut's, from 1 up to those of
 * a bin above it, less than 8. */
static __device__ void add_kept(struct part<false> p, struct cut keep, struct nucleus *in, int32_t chunks)
{
    struct sample_shared *s = p.s;
    const float scale = weight(p, keep.value), unit = 0x1p21f;
    p.max = keep.value;
    s->all[threadIdx.x] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < in->n; i += THREADS) {
        const float l = float_of((uint32_t)(in->in_bin[i] >> 32));
        const int32_t id = (int32_t) ~(uint32_t)in->in_bin[i];
        const uint32_t m = __float2uint_rn(weight(p, l) * unit);
        if (!keeps(keep, l, id))
            continue;
        add_shared(&s->low[id / CHUNK], m & 0xffff);
        add_shared(&s->high[id / CHUNK], m >> 16);
    }
    __syncthreads();
    for (int32_t i = threadIdx.x; i < chunks; i += THREADS)
        in->mass[i] += ((float)s->high[i] * 65536 + (float)s->low[i]) / unit * scale;
    __syncthreads();
}

/* The cut of a nucleus; at -inf: to be found by other means. */
static __device__ struct cut cut_nucleus(const struct stream_args &a, const struct row_params &r, struct part<false> &p,
                                         struct nucleus *in, int32_t row)
{
    const struct grid g = grid_of(r, a.of.vocab, 0);
    const uint32_t *bins = a.bins + (size_t)row * p.n_groups * (GROUP / 4);
    for (int32_t i = threadIdx.x; i < p.n_groups; i += THREADS) /* a part has left L2 */
        if (place_of(g, float_of(p.top[i])) > place_of(g, p.max) - (MASS_BINS - 1))
            asm volatile("prefetch.global.L2 [%0];" ::"l"(bins + i * (GROUP / 4)));
    find_bin(a, r, p, g, in, row);
    __syncthreads();
    if (in->bin == NO_BIN)
        return {-INFINITY, 0};
    list_bin((const uint4 *)bins, p, g, in);
    if (in->n == 0 || in->n > IN_BIN)
        return {-INFINITY, 0};
    return cut_in_bin(p, g, in);
}

/* The id, in warp 0, from the masses of the chunks above the bin and what is kept in it. */
static __device__ int32_t draw_nucleus(struct part<false> &p, struct cut keep, struct nucleus *in, double u)
{
    const struct count kept = {keep, 0, WEIGHT};
    const int32_t chunks = (p.n_groups + CHUNK_GROUPS - 1) / CHUNK_GROUPS;
    double target;
    add_kept(p, keep, in, chunks);
    find_place(p.s, in->mass, chunks, 0, u, &target);
    const int32_t first = p.s->place * CHUNK_GROUPS, n = min(CHUNK_GROUPS, p.n_groups - first);
    const double before = p.s->place_at;
    for (int32_t i = threadIdx.x; i < n; i += THREADS)
        p.hits[i] = first + i;
    __syncthreads();
    weigh_hits(p, kept, n);
    find_place(p.s, p.sum + first, n, before, -1, &target);
    return threadIdx.x < 32 ? find_in_group(p, kept, first + p.s->place, p.s->place_at, target) : -1;
}

/* -- a row ------------------------------------------------------------------------------------------------------- */

/* The token, in thread 0. listed: how many of the best are in the list already. */
static __device__ int32_t choose_streamed(const struct stream_args &a, const struct row_params &r,
                                          struct part<false> &p, struct nucleus *in, int32_t row, float max,
                                          uint32_t listed)
{
    const float *sums = a.of.sum + (size_t)row * p.n_groups;
    struct cut keep = {-FLT_MAX, INT32_MAX};
    const float least = r.min_p > 0 ? fminf(r.min_p, 1) : 0;
    if (max == -INFINITY)
        return 0;
    if (is_greedy(r))
        return lowest_in_hits(p, max);
    p.max = max;
    p.rate = r.rate;
    const double u = rng_uniform(r.seed, r.choice, r.position, 0);
    if (is_nucleus(r, a.of.vocab)) {
        struct cut cut = cut_nucleus(a, r, p, in, row);
        if (cut.value > -INFINITY && least == 0)
            return draw_nucleus(p, cut, in, u);
        keep = cut.value > -INFINITY ? cut : cut_top_p(r, p, keep, a.of.vocab);
    } else if (keeps_best(r, a.of.vocab)) {
        const uint32_t n = listed ? listed : list_best(p, r.top_k);
        if (n)
            return draw_listed(r, p, min(n, (uint32_t)r.top_k));
        keep = find_cut(p, {keep, -FLT_MAX, max, ONE}, (uint64_t)r.top_k);
        if (r.top_p < 1)
            keep = cut_top_p(r, p, keep, a.of.vocab);
    } else if (least > 0) { /* what weighs less lies below, rounding included: groups are passed over */
        keep.value = fmaxf(max + log2f(least) / p.rate * 1.0001f - 1e-5f * fabsf(max) - 1e-5f / p.rate, -FLT_MAX);
    } else {
        rescale(p, sums);
        return draw_groups(p, {keep, 0, WEIGHT}, u);
    }
    const struct count kept = {keep, least, WEIGHT};
    weigh_groups(p, kept);
    return draw_groups(p, kept, u);
}

/* Grid: rows, after stream_kernel. Shared: struct sample_shared, three words a group, struct nucleus where there is
 * one. */
static __global__ void __launch_bounds__(THREADS, 2) finish_kernel(const struct stream_args a)
{
    extern __shared__ __align__(16) uint8_t memory[];
    early_wait();
    const int32_t row = a.of.index ? a.of.index[blockIdx.x] : blockIdx.x, groups = a.of.vocab / GROUP;
    const struct row_params r = a.of.rows[row];
    const size_t at = (size_t)row * groups;
    struct part<false> p = {
    };
    uint32_t most = 0;
    p.s = (struct sample_shared *)memory;
    p.l = (float *)a.of.logits + (size_t)row * a.of.vocab; /* read only */
    p.mask = mask_of(a.of, r);
    p.n_groups = groups;
    p.sum = (float *)(p.s + 1);
    p.top = (uint32_t *)(p.sum + groups);
    p.hits = (int32_t *)(p.top + groups);
    if (threadIdx.x == 0)
        p.s->n_list = 0;
    for (int32_t g0 = threadIdx.x; g0 < groups; g0 += 4 * THREADS) {
        uint32_t key[4];
#pragma unroll
        for (int b = 0; b < 4; b++)
            key[b] = g0 + b * THREADS < groups ? __ldcg(a.of.top + at + g0 + b * THREADS) : 0;
#pragma unroll
        for (int b = 0; b < 4; b++)
            if (g0 + b * THREADS < groups)
                most = max(most, p.top[g0 + b * THREADS] = key[b]);
    }
    const float max = float_of((uint32_t)max_all(p, most));
    double lse = 0, total = 0;
    uint32_t listed = 0;
    if (r.n_logprobs >= 0 && max > -INFINITY) {
        double mine = 0;
        p.max = max;
        p.rate = LOG2_E;
        rescale(p, a.of.raw_sum + at);
        for (int32_t g = threadIdx.x; g < groups; g += THREADS)
            mine += p.sum[g];
        scan_block(p.s, mine, &total);
        lse = max + log(total);
        listed = raw_logprobs(r, p, lse, a.of.out + row, keeps_best(r, a.of.vocab) ? r.top_k : 0);
    }
    struct nucleus *in = (struct nucleus *)(memory + finish_shared(a.of.vocab, false));
    int32_t id = choose_streamed(a, r, p, in, row, max, listed);
    if (threadIdx.x == 0)
        write_result(a.of, row, id, r.n_logprobs >= 0, max > -INFINITY, lse);
}

#endif
