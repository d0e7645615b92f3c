/* sample - tokens chosen on the card, without a sort of the vocabulary: the rules of sample.h, the draws of the CPU.
 *
 * A row of logits lies in the shared memory of a cluster of 8 CTAs, read once from the card's memory; all passes after
 * that are over shared memory. (Before Hopper there are no clusters: one CTA a row, which works in a copy of its own in
 * the card's memory.) The vocabulary goes in groups of 128, a warp's four floats a lane; each group's largest logit is
 * kept, so that a pass looks at the groups that matter alone.
 *
 * Top-k: the k-th largest group maximum bounds the k-th largest logit from below. What is above goes to a list, which
 * one CTA sorts; in the same order top-p is a walk. Without top-k, or for a k beyond the groups: a histogram over the
 * range that holds the cut, as in sample.c, until the bucket of the cut fits the list. The draw is by the cumulative
 * sum in id order: CTA, group, lane.
 *
 * The same bits each time: maxima, counts and masses of histograms are integers (weights in units of 2^-31), all other
 * sums have one order. Against the CPU, weights are right to 1e-6, so the token differs only where that decides.
 *
 * Cost: R V 4 bytes once.
 */
#include "cuda/sample_row.cuh"

#include <assert.h>
#include <errno.h>
#include <new>
#include <stdlib.h>
#include <string.h>

/* -- plain rows: nothing to adjust, and no top-p over a whole vocabulary ---------------------------------------------
 */

#define SCAN_GROUPS 64 /* of a CTA */

/* Grid: runs of SCAN_GROUPS groups x rows. A warp takes 8 groups, four at a time, their loads together. */
static __global__ void __launch_bounds__(THREADS) scan_kernel(const struct sample_args a)
{
    const int32_t row = a.index[blockIdx.y], groups = a.vocab / GROUP, lane = threadIdx.x % 32;
    const struct row_params &r = a.rows[row];
    const bool raw = r.n_logprobs >= 0, weighs = !is_greedy(r);
    const float rate = weighs ? rate_of(r) : 0;
    const float4 *from = (const float4 *)(a.logits + (size_t)row * a.vocab) + lane;
    const int32_t first = blockIdx.x * SCAN_GROUPS + threadIdx.x / 32 * (SCAN_GROUPS / WARPS);
#pragma unroll
    for (int32_t half = 0; half < SCAN_GROUPS / WARPS; half += 4) {
        float4 v[4];
#pragma unroll
        for (int b = 0; b < 4; b++)
            v[b] = from[(size_t)min(first + half + b, groups - 1) * (GROUP / 4)];
#pragma unroll
        for (int b = 0; b < 4; b++) {
            const float l[4] = {clean(v[b].x), clean(v[b].y), clean(v[b].z), clean(v[b].w)};
            uint32_t key = __reduce_max_sync(~0u, key_of(fmaxf(fmaxf(l[0], l[1]), fmaxf(l[2], l[3]))));
            struct part<false> p = {
            };
            float sum = 0, raw_sum = 0;
            p.max = float_of(key);
            for (int k = 0; k < 4 && key > key_of(-INFINITY); k++) {
                p.rate = rate;
                sum += weighs ? weight(p, l[k]) : 0;
                p.rate = LOG2_E;
                raw_sum += raw ? weight(p, l[k]) : 0;
            }
#pragma unroll
            for (int k = 16; k; k /= 2) {
                sum += __shfl_xor_sync(~0u, sum, k);
                if (raw)
                    raw_sum += __shfl_xor_sync(~0u, raw_sum, k);
            }
            size_t at = (size_t)row * groups + first + half + b;
            if (lane == 0 && first + half + b < groups) {
                a.top[at] = key;
                a.sum[at] = sum;
                if (raw)
                    a.raw_sum[at] = raw_sum;
            }
        }
    }
}

/* Sums of the groups, beside the row's largest now. */
static __device__ double sum_scanned(struct part<false> &p, const float *sums)
{
    double before;
    for (int32_t g = threadIdx.x; g < p.n_groups; g += THREADS)
        p.sum[g] = p.top[g] > key_of(-INFINITY) ? sums[g] * weight(p, float_of(p.top[g])) : 0;
    return sum_groups(p, &before);
}

/* The token, in thread 0. */
static __device__ int32_t choose_plain(const struct sample_args &a, const struct row_params &r, struct part<false> &p,
                                       float max, const float *sums)
{
    struct cut keep = {-FLT_MAX, INT32_MAX};
    float least = r.min_p > 0 ? fminf(r.min_p, 1) : 0;
    if (max == -INFINITY)
        return 0;
    if (is_greedy(r))
        return lowest_with(p, max);
    p.max = max;
    p.rate = rate_of(r);
    double before = 0, total, u = rng_uniform(r.seed, r.choice, r.position, 0);
    if (r.top_k > 0 && r.top_k < a.vocab) {
        uint32_t n = list_best(p, r.top_k);
        if (n)
            return draw_listed(r, p, min(n, (uint32_t)r.top_k));
        keep = find_cut(p, {keep, -FLT_MAX, max, ONE}, (uint64_t)r.top_k);
        if (r.top_p < 1)
            keep = cut_top_p(r, p, keep, a.vocab);
    }
    if (keep.value == -FLT_MAX &&
        least > 0) /* what weighs less lies below, rounding included: groups are passed over */
        keep.value = fmaxf(max + log2f(least) / p.rate * 1.0001f - 1e-5f * fabsf(max) - 1e-5f / p.rate, -FLT_MAX);
    struct count kept = {keep, least, WEIGHT};
    total = keep.value == -FLT_MAX ? sum_scanned(p, sums) : sum_kept(p, kept, &before);
    return threadIdx.x < 32 ? find_kept(p, kept, u * total, before) : -1;
}

/* Grid: rows; after scan_kernel. Shared: struct sample_shared, group sums and maxima. Few groups are looked at again.
 */
static __global__ void __launch_bounds__(THREADS, 3) plain_kernel(const struct sample_args a)
{
    extern __shared__ __align__(16) uint8_t memory[];
    const int32_t row = a.index[blockIdx.x], groups = a.vocab / GROUP;
    const struct row_params r = a.rows[row];
    const size_t at = (size_t)row * groups;
    struct part<false> p = {
    };
    uint32_t most = 0;
    p.s = (struct sample_shared *)memory;
    p.l = (float *)a.logits + (size_t)row * a.vocab; /* read only */
    p.n_groups = groups;
    p.sum = (float *)(memory + sizeof *p.s);
    p.top = (uint32_t *)(p.sum + groups);
    if (threadIdx.x == 0)
        p.s->n_list = 0;
    for (int32_t g = threadIdx.x; g < groups; g += THREADS)
        most = max(most, p.top[g] = a.top[at + g]);
    float max = float_of((uint32_t)max_all(p, most));
    double lse = 0;
    if (r.n_logprobs >= 0 && max > -INFINITY) {
        p.max = max;
        p.rate = LOG2_E;
        lse = max + log(sum_scanned(p, a.raw_sum + at));
        raw_logprobs(r, p, lse, a.out + row);
    }
    int32_t id = choose_plain(a, r, p, max, a.sum + at);
    if (threadIdx.x == 0)
        write_result(a, row, id, r.n_logprobs >= 0, max > -INFINITY, lse);
}

/* -- calls ------------------------------------------------------------------------------------------------------- */

struct sampler {
    bool cluster;
    int32_t max_vocab, max_rows;
    float *copy;              /* see sample_args */
    uint32_t *top;            /* the same, */
    float *sum, *raw_sum;     /* all one allocation */
    struct stage_slot params; /* rows, then lists */
    struct sample_out *out[PASS_STEPS];
    struct {
        struct sample_out *to;
        int32_t n;
    } due[PASS_STEPS]; /* of call i in i % PASS_STEPS */
    uint64_t calls, delivered;
};

static size_t align16(size_t n)
{
    return (n + 15) & ~(size_t)15;
}

static size_t list_bytes(const struct sample_row *r)
{
    return align16(r->n_seen * sizeof *r->seen) + align16(r->n_bias * sizeof *r->bias) +
           align16(r->n_banned * sizeof *r->banned);
}

static bool penalises(const struct sample_row *r)
{
    return r->repetition != 1 || r->presence != 0 || r->frequency != 0;
}

/* A list behind the others: at *end. */
static uint32_t put_list(uint8_t *base, size_t *end, const void *from, size_t bytes)
{
    size_t at = *end;
    if (bytes)
        memcpy(base + at, from, bytes);
    *end += align16(bytes);
    return (uint32_t)at;
}

static struct row_params pack_row(const struct sample_row *r, uint8_t *base, size_t *end)
{
    bool seen = penalises(r);
    return {.temperature = r->temperature,
            .top_p = r->top_p,
            .min_p = r->min_p,
            .repetition = r->repetition,
            .presence = r->presence,
            .frequency = r->frequency,
            .top_k = r->top_k,
            .n_logprobs = r->n_logprobs,
            .seed = r->seed,
            .position = r->position,
            .choice = r->choice,
            .after = seen ? r->after : 0,
            .n_seen = seen ? r->n_seen : 0,
            .n_bias = r->n_bias,
            .n_banned = r->n_banned,
            .seen_at = put_list(base, end, r->seen, seen ? r->n_seen * sizeof *r->seen : 0),
            .bias_at = put_list(base, end, r->bias, r->n_bias * sizeof *r->bias),
            .banned_at = put_list(base, end, r->banned, r->n_banned * sizeof *r->banned)};
}

/* Does scan_kernel see all that matters of the row? */
static bool is_plain(const struct sample_row *r, int32_t vocab)
{
    bool listed = r->top_k > 1 && r->top_k < vocab, greedy = !(r->temperature > 0) || r->top_k == 1;
    if (vocab % GROUP != 0 || r->n_bias || r->n_banned || ((r->n_seen || r->after) && penalises(r)))
        return false;
    return greedy || (listed ? r->top_k <= LIST / 2 : !(r->top_p < 1));
}

/* Parameters, the order of the rows (plain ones first) and lists onto the card; *after: some row needs what was drawn
 * before. Returns how many are plain. */
static int32_t send_params(struct cuda *c, const struct sample_row *rows, int32_t n, int32_t vocab, bool *after)
{
    struct sampler *s = c->sampler;
    size_t params = align16((size_t)n * sizeof(struct row_params)), end = params + align16((size_t)n * sizeof(int32_t));
    size_t bytes = end;
    int32_t n_plain = 0, n_other = 0;
    *after = false;
    for (int32_t i = 0; i < n; i++)
        bytes += list_bytes(&rows[i]);
    stage_reserve(&s->params, bytes);
    uint8_t *base = (uint8_t *)s->params.host;
    int32_t *index = (int32_t *)(base + params);
    for (int32_t i = 0; i < n; i++) {
        struct row_params p = pack_row(&rows[i], base, &end);
        *after |= p.after != 0;
        memcpy(base + (size_t)i * sizeof p, &p, sizeof p);
        if (is_plain(&rows[i], vocab))
            index[n_plain++] = i;
        else
            index[n - ++n_other] = i;
    }
    stage_send(c, &s->params, end);
    return n_plain;
}

static void launch_plain(struct cuda *c, const struct sample_args *a, int32_t n)
{
    int32_t groups = a->vocab / GROUP;
    dim3 grid((unsigned)(groups + SCAN_GROUPS - 1) / SCAN_GROUPS, (unsigned)n);
    scan_kernel<<<grid, THREADS, 0, c->stream>>>(*a);
    LAUNCHED();
    plain_kernel<<<(unsigned)n, THREADS, sizeof(struct sample_shared) + (size_t)groups * 8, c->stream>>>(*a);
    LAUNCHED();
}

static void launch(struct cuda *c, const struct sample_args *a, int32_t n)
{
    struct sampler *s = c->sampler;
    size_t groups = (size_t)a->part / GROUP, shared = sizeof(struct sample_shared) + groups * 8;
    if (!s->cluster) {
        sample_kernel<false><<<(unsigned)n, THREADS, shared, c->stream>>>(*a);
        LAUNCHED();
        return;
    }
    cudaLaunchConfig_t how = {};
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = CLUSTER;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    how.gridDim = dim3((unsigned)n * CLUSTER);
    how.blockDim = dim3(THREADS);
    how.dynamicSmemBytes = shared + (size_t)a->part * sizeof(float);
    how.stream = c->stream;
    how.attrs = &cluster;
    how.numAttrs = 1;
    CU(cudaLaunchKernelEx(&how, sample_kernel<true>, *a));
}

/* Logits of a CTA: the row's groups shared out. */
static int32_t part_of(const struct sampler *s, int32_t vocab)
{
    int32_t ranks = s->cluster ? CLUSTER : 1, groups = (vocab + GROUP - 1) / GROUP;
    return (groups + ranks - 1) / ranks * GROUP;
}

void cuda_sample(struct backend *be, const float *logits, int32_t vocab, const struct sample_row *rows,
                 struct sample_out *out, int32_t n)
{
    struct cuda *c = cuda_of(be);
    struct sampler *s = c->sampler;
    bool after;
    assert(vocab > 0 && vocab <= s->max_vocab && n <= s->max_rows);
    if (s->calls - s->delivered == PASS_STEPS) {
        CU(cudaStreamSynchronize(c->stream));
        sampler_deliver(c, s->calls);
    }
    int32_t n_plain = send_params(c, rows, n, vocab, &after);
    if (after)
        CU(cudaMemcpyAsync(c->drawn_before, c->drawn, (size_t)s->max_rows * sizeof *c->drawn, cudaMemcpyDeviceToDevice,
                           c->stream));
    uint32_t slot = (uint32_t)(s->calls++ % PASS_STEPS);
    const uint8_t *base = (const uint8_t *)s->params.dev;
    struct sample_args a = {};
    a.logits = logits;
    a.rows = (const struct row_params *)base;
    a.lists = base;
    a.index = (const int32_t *)(base + align16((size_t)n * sizeof(struct row_params)));
    a.before = c->drawn_before;
    a.drawn = c->drawn;
    a.out = s->out[slot];
    a.copy = s->copy;
    a.vocab = vocab;
    a.part = part_of(s, vocab);
    a.top = s->top;
    a.sum = s->sum;
    a.raw_sum = s->raw_sum;
    if (n_plain > 0)
        launch_plain(c, &a, n_plain);
    a.index += n_plain;
    if (n_plain < n)
        launch(c, &a, n - n_plain);
    s->due[slot] = {out, n};
}

uint64_t sampler_calls(const struct cuda *c)
{
    return c->sampler->calls;
}

void sampler_deliver(struct cuda *c, uint64_t calls)
{
    struct sampler *s = c->sampler;
    for (; s->delivered < calls; s->delivered++) {
        uint32_t slot = (uint32_t)(s->delivered % PASS_STEPS);
        memcpy(s->due[slot].to, s->out[slot], (size_t)s->due[slot].n * sizeof *s->due[slot].to);
    }
}

/* -- open -------------------------------------------------------------------------------------------------------- */

int sampler_open(struct cuda *c, struct err *e)
{
    struct sampler *s = new (std::nothrow) sampler{};
    struct cudaDeviceProp p;
    if (!s)
        return err_set(e, ENOMEM, "cuda: out of memory");
    c->sampler = s;
    s->max_vocab = c->max_vocab;
    s->max_rows = c->max_seqs;
    CU(cudaGetDeviceProperties(&p, 0));
    s->cluster = true;
    int32_t part = part_of(s, c->max_vocab);
    size_t shared = sizeof(struct sample_shared) + (size_t)part / GROUP * 8, with = shared + (size_t)part * 4;
    s->cluster = p.major == 9 && with <= p.sharedMemPerBlockOptin;
    part = part_of(s, c->max_vocab);
    if (s->cluster) {
        CU(cudaFuncSetAttribute(sample_kernel<true>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)with));
        CU(cudaFuncSetAttribute(sample_kernel<true>, cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared));
    } else {
        shared = sizeof(struct sample_shared) + (size_t)part / GROUP * 8;
        CU(cudaFuncSetAttribute(sample_kernel<false>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
        s->copy = (float *)cuda_alloc(c, (size_t)s->max_rows * (size_t)part * sizeof *s->copy);
        if (!s->copy)
            return err_set(e, ENOMEM, "cuda: no memory on the GPU for the sampler over %d logits", c->max_vocab);
    }
    size_t groups = (size_t)s->max_rows * (size_t)(c->max_vocab / GROUP + 1);
    s->top = (uint32_t *)cuda_alloc(c, groups * 12);
    if (!s->top)
        return err_set(e, ENOMEM, "cuda: no memory on the GPU for the sampler over %d logits", c->max_vocab);
    s->sum = (float *)(s->top + groups);
    s->raw_sum = s->sum + groups;
    CU(cudaFuncSetAttribute(plain_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                            (int)(sizeof(struct sample_shared) + (size_t)(c->max_vocab / GROUP) * 8)));
    stage_reserve(&s->params, (size_t)s->max_rows * (sizeof(struct row_params) + 256));
    CU(cudaEventRecord(s->params.copied, c->stream));
    for (int i = 0; i < PASS_STEPS; i++)
        CU(cudaMallocHost(&s->out[i], (size_t)s->max_rows * sizeof(struct sample_out)));
    return 0;
}

void sampler_close(struct cuda *c)
{
    struct sampler *s = c->sampler;
    if (!s)
        return;
    stage_free(&s->params);
    CU(cudaFree(s->copy));
    CU(cudaFree(s->top));
    for (int i = 0; i < PASS_STEPS; i++)
        CU(cudaFreeHost(s->out[i]));
    delete s;
    c->sampler = NULL;
}
