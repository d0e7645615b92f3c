/* pass - the forward pass as a whole: recorded in a CUDA graph for steps of decode rows, replayed from then on.
 *
 * Such a step is filled up to the next of a few sizes (buckets), so that one graph serves all steps up to that many
 * rows: no launch depends on anything but counts (the arrays are at the same place, stage.cu), and a row that only
 * fills up is at position -1. The first pass of a bucket runs op by op, which also lets libraries choose and load what
 * they need; the second is recorded; the third is a single launch.
 *
 * A backend serves one model, whose buffers stay where they are.
 */
#include "cuda/cuda.cuh"

#include <assert.h>

/* 1, 2, 4, 8, then in eights to 256. */
static int bucket_of(int32_t n)
{
    int i = 0;
    if (n > 8)
        return 3 + (n - 1) / 8;
    while (1 << i < n)
        i++;
    return i;
}

static int32_t bucket_rows(int bucket)
{
    return bucket <= 3 ? 1 << bucket : 8 * (bucket - 2);
}

const struct step *cuda_pass_begin(struct backend *be, const struct step *step)
{
    struct cuda *c = cuda_of(be);
    struct pass *p = &c->pass;
    int bucket = bucket_of(step->n_rows);
    bool small = step->decode && bucket < PASS_BUCKETS && bucket_rows(bucket) <= c->max_seqs;
    p->recording = -1;
    CU(cudaEventRecord(p->begun[step->number % PASS_STEPS], c->stream));
    stage_put(c, step, small ? bucket_rows(bucket) : step->n_rows);
    if (!small)
        return &c->stage.step;
    if (p->graph[bucket]) {
        CU(cudaGraphLaunch(p->graph[bucket], c->stream));
        return NULL;
    }
    if (p->ran[bucket]) {
        p->recording = bucket;
        CU(cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal));
    }
    p->ran[bucket] = true;
    return &c->stage.step;
}

void cuda_pass_end(struct backend *be)
{
    struct cuda *c = cuda_of(be);
    struct pass *p = &c->pass;
    cudaGraph_t graph;
    if (p->recording < 0)
        return;
    CU(cudaStreamEndCapture(c->stream, &graph));
    CU(cudaGraphInstantiate(&p->graph[p->recording], graph, 0));
    CU(cudaGraphDestroy(graph));
    CU(cudaGraphLaunch(p->graph[p->recording], c->stream));
    p->recording = -1;
}

/* -- ends of steps ----------------------------------------------------------------------------------------------- */

void pass_open(struct pass *p)
{
    p->recording = -1;
    for (int i = 0; i < PASS_STEPS; i++) {
        CU(cudaEventCreate(&p->begun[i]));
        CU(cudaEventCreate(&p->done[i]));
    }
}

void cuda_step_end(struct backend *be, uint64_t number)
{
    struct cuda *c = cuda_of(be);
    CU(cudaEventRecord(c->pass.done[number % PASS_STEPS], c->stream));
    c->pass.calls[number % PASS_STEPS] = sampler_calls(c);
}

void cuda_step_wait(struct backend *be, uint64_t number)
{
    struct cuda *c = cuda_of(be);
    CU(cudaEventSynchronize(c->pass.done[number % PASS_STEPS]));
    sampler_deliver(c, c->pass.calls[number % PASS_STEPS]);
}

float cuda_step_idle_us(struct backend *be, uint64_t number)
{
    struct pass *p = &cuda_of(be)->pass;
    float ms = 0;
    CU(cudaEventElapsedTime(&ms, p->done[(number - 1) % PASS_STEPS], p->begun[number % PASS_STEPS]));
    return ms * 1e3f;
}

void pass_close(struct pass *p)
{
    for (int i = 0; i < PASS_BUCKETS; i++)
        if (p->graph[i])
            CU(cudaGraphExecDestroy(p->graph[i]));
    for (int i = 0; i < PASS_STEPS; i++)
        if (p->done[i]) {
            CU(cudaEventDestroy(p->begun[i]));
            CU(cudaEventDestroy(p->done[i]));
        }
}
