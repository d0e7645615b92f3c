/* sample - tokens chosen on the card, without a sort of the vocabulary: the rules of sample.h, the draws of the CPU.
 *
 * The vocabulary goes in groups of 128, a warp's four floats a lane; each group's largest logit is kept, so that a
 * later pass looks at the groups that matter alone. Rows with nothing to adjust are streamed: sample_stream.cuh reads
 * them once, at the speed of the memory, and sample_finish.cuh finds the token in what that left behind. Other rows
 * (sample_row.cuh) lie in the shared memory of a cluster of 8 CTAs, read once from the card's memory, adjusted there,
 * and all passes after that are over shared memory. (Before Hopper there are no clusters: one CTA a row, which works in
 * a copy of its own in the card's memory.)
 *
 * Top-k: the k-th largest group maximum bounds the k-th largest logit from below. What is above goes to a list, which
 * one CTA sorts; in the same order top-p is a walk. Without top-k, or for a k beyond the groups: a histogram over the
 * range that holds the cut, as in sample.c, until the bucket of the cut fits the list. The draw is by the cumulative
 * sum in id order: CTA, group, lane.
 *
 * The same bits each time: maxima, counts and masses of histograms are integers (weights in units of 2^-31), all other
 * sums have one order. Against the CPU, weights are right to 1e-6, so the token differs only where that decides.
 *
 * Masks of allowed ids go to the card with the rows' parameters, each once a call, while the forward pass runs; a row
 * names its mask's slot there, and a mask is applied as logits are read.
 *
 * Cost: R V 4 bytes once.
 */
#include "cuda/sample_finish.cuh"

#include <assert.h>
#include <errno.h>
#include <new>
#include <stdlib.h>
#include <string.h>

/* -- calls ------------------------------------------------------------------------------------------------------- */

struct call_mask {
    const uint32_t *from;
    uint32_t at; /* in `lists` */
};

struct sampler {
    bool cluster;
    int32_t max_vocab, max_rows;
    float *copy;                          /* see sample_args */
    uint32_t *top;                        /* the same, */
    float *sum, *raw_sum;                 /* all one allocation */
    struct stream_args stream;            /* memory of the streamed rows */
    struct stage_slot params[PASS_STEPS]; /* of call i in i % PASS_STEPS: rows, then lists */
    cudaStream_t ahead;                   /* copies them while the forward pass runs */
    struct call_mask *masks;              /* [max_rows] of the call that is packed */
    int32_t n_masks;
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

/* A row's mask among those of the call, of which there is one more if it is new. */
static struct call_mask *find_mask(struct sampler *s, const uint32_t *from)
{
    for (int32_t i = s->n_masks - 1; i >= 0; i--) /* neighbours are likely to share one */
        if (s->masks[i].from == from)
            return &s->masks[i];
    s->masks[s->n_masks] = {from, 0};
    return &s->masks[s->n_masks++];
}

static struct row_params pack_row(const struct sample_row *r, uint32_t mask_at, uint8_t *base, size_t *end)
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
            .banned_at = put_list(base, end, r->banned, r->n_banned * sizeof *r->banned),
            .mask_at = mask_at,
            .rate = (float)fmin(1.4426950408889634 / (double)r->temperature, (double)FLT_MAX)};
}

/* Is one pass over the row enough? */
static bool is_streamed(const struct sample_row *r, int32_t vocab)
{
    bool listed = r->top_k > 1 && r->top_k < vocab, greedy = !(r->temperature > 0) || r->top_k == 1;
    if (vocab % GROUP != 0 || chunks_of(vocab) > MAX_CHUNKS || r->n_bias || r->n_banned ||
        ((r->n_seen || r->after) && penalises(r)) || (!greedy && listed && r->top_k > LIST / 2))
        return false;
    return !r->allowed ||
           r->n_logprobs < 0; /* logprobs are of raw logits, which a stream of masked ones does not see */
}

struct call {
    int32_t n_streamed; /* rows; they come first in `index` */
    bool nucleus;       /* some streamed row may have one */
    bool after;         /* some row needs what was drawn before */
};

/* Parameters, the order of the rows and lists onto the card, beside what c->stream does; it waits for them. */
static struct call send_params(struct cuda *c, struct stage_slot *to, const struct sample_row *rows, int32_t n,
                               int32_t vocab)
{
    struct sampler *s = c->sampler;
    size_t params = align16((size_t)n * sizeof(struct row_params)), end = params + align16((size_t)n * sizeof(int32_t));
    size_t bytes = end, mask_bytes = (size_t)(vocab + 31) / 32 * sizeof(uint32_t);
    struct call call = {};
    s->n_masks = 0;
    for (int32_t i = 0; i < n; i++) {
        bytes += list_bytes(&rows[i]);
        if (rows[i].allowed)
            find_mask(s, rows[i].allowed);
    }
    stage_reserve(to, bytes + (size_t)s->n_masks * align16(mask_bytes));
    uint8_t *base = (uint8_t *)to->host;
    int32_t *index = (int32_t *)(base + params), n_other = 0;
    for (int32_t i = 0; i < s->n_masks; i++)
        s->masks[i].at = put_list(base, &end, s->masks[i].from, mask_bytes);
    for (int32_t i = 0; i < n; i++) {
        uint32_t mask_at = rows[i].allowed ? find_mask(s, rows[i].allowed)->at : 0;
        struct row_params p = pack_row(&rows[i], mask_at, base, &end);
        bool streamed = is_streamed(&rows[i], vocab);
        call.after |= p.after != 0;
        call.nucleus |= streamed && is_nucleus(p, vocab);
        memcpy(base + (size_t)i * sizeof p, &p, sizeof p);
        index[streamed ? call.n_streamed++ : n - ++n_other] = i;
    }
    stage_pull(to, end, s->ahead);
    CU(cudaStreamWaitEvent(c->stream, to->copied));
    return call;
}

static void launch_streamed(struct cuda *c, const struct sample_args *of, const struct call *call, bool all)
{
    struct stream_args a = c->sampler->stream;
    unsigned rows = (unsigned)call->n_streamed, chunks = rows * (unsigned)chunks_of(of->vocab);
    a.of = *of;
    a.of.index = all ? NULL : of->index; /* the sooner it knows its row, the sooner a CTA reads */
    if (call->nucleus)
        stream_kernel<true><<<chunks, THREADS, sizeof(struct stream_shared), c->stream>>>(a);
    else
        stream_kernel<false><<<chunks, THREADS, 0, c->stream>>>(a);
    LAUNCHED();
    launch_early_with(c, finish_kernel, dim3(rows), THREADS, finish_shared(of->vocab, call->nucleus), a);
}

static void launch(struct cuda *c, const struct sample_args *a, int32_t n)
{
    struct sampler *s = c->sampler;
    size_t groups = (size_t)a->part / GROUP, shared = sizeof(struct sample_shared) + groups * (s->cluster ? 8 : 12);
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
    assert(vocab > 0 && vocab <= s->max_vocab && n <= s->max_rows);
    if (s->calls - s->delivered == PASS_STEPS) {
        CU(cudaStreamSynchronize(c->stream));
        sampler_deliver(c, s->calls);
    }
    uint32_t slot = (uint32_t)(s->calls++ % PASS_STEPS);
    struct stage_slot *params = &s->params[slot];
    struct call call = send_params(c, params, rows, n, vocab);
    if (call.after)
        CU(cudaMemcpyAsync(c->drawn_before, c->drawn, (size_t)s->max_rows * sizeof *c->drawn, cudaMemcpyDeviceToDevice,
                           c->stream));
    const uint8_t *base = (const uint8_t *)params->dev;
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
    if (call.n_streamed > 0)
        launch_streamed(c, &a, &call, call.n_streamed == n);
    a.index += call.n_streamed;
    if (call.n_streamed < n)
        launch(c, &a, n - call.n_streamed);
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

/* Memory of the streamed rows, and the shared memory of their kernels. */
static bool stream_open(struct cuda *c)
{
    struct sampler *s = c->sampler;
    struct stream_args *a = &s->stream;
    size_t rows = (size_t)s->max_rows, groups = rows * (size_t)(c->max_vocab / GROUP + 1);
    size_t chunks = rows * (size_t)(chunks_of(c->max_vocab) + 1);
    s->top = (uint32_t *)cuda_alloc(c, groups * 12);
    a->mass = (float *)cuda_alloc(c, chunks * (MASS_BINS + 1) * sizeof *a->mass);
    a->bins = (uint32_t *)cuda_alloc(c, groups * GROUP);
    if (!s->top || !a->mass || !a->bins)
        return false;
    s->sum = (float *)(s->top + groups);
    s->raw_sum = s->sum + groups;
    a->chunk_top = (uint32_t *)(a->mass + chunks * MASS_BINS);
    CU(cudaFuncSetAttribute(finish_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                            (int)finish_shared(c->max_vocab, true)));
    const int most = cudaSharedmemCarveoutMaxShared;
    CU(cudaFuncSetAttribute(finish_kernel, cudaFuncAttributePreferredSharedMemoryCarveout, most));
    CU(cudaFuncSetAttribute(stream_kernel<false>, cudaFuncAttributePreferredSharedMemoryCarveout, most));
    CU(cudaFuncSetAttribute(stream_kernel<true>, cudaFuncAttributePreferredSharedMemoryCarveout, most));
    return true;
}

int sampler_open(struct cuda *c, struct err *e)
{
    struct sampler *s = new (std::nothrow) sampler{};
    struct cudaDeviceProp p;
    if (!s)
        return err_set(e, ENOMEM, "cuda: out of memory");
    c->sampler = s;
    s->max_vocab = c->max_vocab;
    s->max_rows = c->max_seqs;
    s->masks = new (std::nothrow) struct call_mask[(size_t)s->max_rows];
    if (!s->masks)
        return err_set(e, ENOMEM, "cuda: out of memory");
    CU(cudaGetDeviceProperties(&p, 0));
    s->cluster = true;
    int32_t part = part_of(s, c->max_vocab);
    size_t shared = sizeof(struct sample_shared) + (size_t)part / GROUP * 8, with = shared + (size_t)part * 4;
    s->cluster = c->major == 9 && with <= p.sharedMemPerBlockOptin;
    part = part_of(s, c->max_vocab);
    if (s->cluster) {
        CU(cudaFuncSetAttribute(sample_kernel<true>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)with));
        CU(cudaFuncSetAttribute(sample_kernel<true>, cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared));
    } else {
        shared = sizeof(struct sample_shared) + (size_t)part / GROUP * 12;
        CU(cudaFuncSetAttribute(sample_kernel<false>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
        s->copy = (float *)cuda_alloc(c, (size_t)s->max_rows * (size_t)part * sizeof *s->copy);
        if (!s->copy)
            return err_set(e, ENOMEM, "cuda: no memory on the GPU for the sampler over %d logits", c->max_vocab);
    }
    if (!stream_open(c))
        return err_set(e, ENOMEM, "cuda: no memory on the GPU for the sampler over %d logits", c->max_vocab);
    CU(cudaStreamCreateWithFlags(&s->ahead, cudaStreamNonBlocking));
    for (int i = 0; i < PASS_STEPS; i++) {
        stage_reserve(&s->params[i], (size_t)s->max_rows * (sizeof(struct row_params) + 256));
        CU(cudaEventRecord(s->params[i].copied, s->ahead));
    }
    for (int i = 0; i < PASS_STEPS; i++)
        CU(cudaMallocHost(&s->out[i], (size_t)s->max_rows * sizeof(struct sample_out)));
    return 0;
}

void sampler_close(struct cuda *c)
{
    struct sampler *s = c->sampler;
    if (!s)
        return;
    for (int i = 0; i < PASS_STEPS; i++) {
        stage_free(&s->params[i]);
        CU(cudaFreeHost(s->out[i]));
    }
    if (s->ahead)
        CU(cudaStreamDestroy(s->ahead));
    CU(cudaFree(s->copy));
    CU(cudaFree(s->top));
    CU(cudaFree(s->stream.mass));
    CU(cudaFree(s->stream.bins));
    delete[] s->masks;
    delete s;
    c->sampler = NULL;
}
