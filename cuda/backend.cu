/* backend - the CUDA backend as hearthd sees it: what it needs, open and close, memory, and the table of ops.
 *
 * The shared object exports hearth_backend_cuda and nothing else; engine/compute/load_cuda.c finds it. Work runs on GPU
 * 0 (of those that CUDA_VISIBLE_DEVICES leaves).
 */
#include "cuda/cuda.cuh"
#include "cuda/linear.cuh"

extern "C" {
#include "engine/base/log.h"
#include "engine/base/sys.h"
}

#include <assert.h>
#include <errno.h>
#include <new>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIN_MAJOR 8 /* compute capability: bfloat16 on the tensor cores */

void cuda_die(const char *file, int line, const char *what, const char *why)
{
    log_error("cuda fail", "file=%s line=%d error=\"%s\" call=\"%s\" next=end the engine process", file, line, why,
              what);
    abort();
}

/* -- what is needed ---------------------------------------------------------------------------------------------- */

static int no_device(cudaError_t rc, struct err *e)
{
    int driver = 0, runtime = 0;
    cudaGetLastError(); /* it is said; forget it */
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0)
        return err_set(e, ENODEV, "no NVIDIA driver is loaded");
    if (rc == cudaErrorInsufficientDriver)
        return err_set(e, ENOTSUP, "the NVIDIA driver is for CUDA %d.%d, this build needs %d.%d; update the driver",
                       driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    return err_set(e, ENODEV, "no GPU can be used: %s", cudaGetErrorString(rc));
}

static int look(struct cudaDeviceProp *p, struct err *e)
{
    int n = 0;
    cudaError_t rc = cudaGetDeviceCount(&n);
    if (rc == cudaSuccess && n == 0)
        rc = cudaErrorNoDevice;
    if (rc == cudaSuccess)
        rc = cudaGetDeviceProperties(p, 0);
    if (rc != cudaSuccess)
        return no_device(rc, e);
    if (p->major < MIN_MAJOR)
        return err_set(e, ENOTSUP, "%s has compute capability %d.%d; %d.0 or newer is needed", p->name, p->major,
                       p->minor, MIN_MAJOR);
    return 0;
}

/* The context takes memory, too: what is free beside it is what can be had. */
static int cuda_probe(uint64_t *memory, struct err *e)
{
    struct cudaDeviceProp p;
    size_t free_bytes = 0, all = 0;
    int rc = look(&p, e);
    if (rc)
        return rc;
    cudaError_t got = cudaSetDevice(0);
    if (got == cudaSuccess)
        got = cudaMemGetInfo(&free_bytes, &all);
    if (got != cudaSuccess)
        return no_device(got, e);
    *memory = free_bytes;
    return 0;
}

/* -- memory ------------------------------------------------------------------------------------------------------ */

void *cuda_alloc(struct cuda *c, size_t bytes)
{
    void *p = NULL;
    cudaError_t rc = cudaMalloc(&p, bytes ? bytes : 1);
    if (rc == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return NULL;
    }
    CU(rc);
    CU(cudaMemsetAsync(p, 0, bytes, c->stream));
    return p;
}

static void *op_alloc(struct backend *be, size_t bytes)
{
    return cuda_alloc(cuda_of(be), bytes);
}

static void op_release(struct backend *be, void *p, size_t bytes)
{
    CU(cudaFree(p));
}

/* From pageable memory the runtime copies through its own buffers before it returns. */
static void op_upload(struct backend *be, void *to, const void *host, size_t bytes)
{
    CU(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, cuda_of(be)->stream));
}

static void op_download(struct backend *be, void *host, const void *from, size_t bytes)
{
    CU(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, cuda_of(be)->stream));
    CU(cudaStreamSynchronize(cuda_of(be)->stream));
}

static void op_copy(struct backend *be, void *to, const void *from, size_t bytes)
{
    CU(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda_of(be)->stream));
}

static void op_sync(struct backend *be)
{
    struct cuda *c = cuda_of(be);
    CU(cudaStreamSynchronize(c->stream));
    sampler_deliver(c, sampler_calls(c));
}

/* -- open -------------------------------------------------------------------------------------------------------- */

static void op_close(struct backend *be)
{
    if (!be)
        return;
    struct cuda *c = cuda_of(be);
    cuda_moves_close(be);
    if (c->stream)
        CU(cudaStreamSynchronize(c->stream));
    sampler_close(c);
    attention_close(c);
    stage_close(&c->stage);
    prefill_close(c);
    fixed_close(c);
    stage_free(&c->load[0]);
    stage_free(&c->load[1]);
    reader_stop(c);
    gemm_close(c);
    pass_close(&c->pass);
    CU(cudaFree(c->x8));
    CU(cudaFree(c->x8_scale));
    CU(cudaFree(c->wide));
    CU(cudaFree(c->turn));
    CU(cudaFree(c->drawn));
    CU(cudaFree(c->drawn_before));
    CU(cudaFree(c->inv_freq));
    if (c->stream)
        CU(cudaStreamDestroy(c->stream));
    delete c;
}

static void describe(struct cuda *c, const struct cudaDeviceProp *p)
{
    int driver = 0;
    CU(cudaDriverGetVersion(&driver));
    c->n_sm = p->multiProcessorCount;
    c->major = p->major;
    c->minor = p->minor;
    snprintf(c->text, sizeof c->text, "%.48s, %d SMs, %.1f GiB, CUDA %d.%d", p->name, c->n_sm,
             (double)p->totalGlobalMem / (1 << 30), driver / 1000, driver % 1000 / 10);
    if (c->deterministic) /* the order of sums is that of this library on this card */
        snprintf(c->text + strlen(c->text), sizeof c->text - strlen(c->text), ", deterministic, cublasLt %zu",
                 cublasLtGetVersion());
}

static int take_memory(struct cuda *c, const char *gpu, struct err *e)
{
    struct prefill *p = &c->prefill;
    size_t turn = (size_t)c->max_rows * BACKEND_HEAD_DIM_MAX / 2 * sizeof *c->turn, free_bytes = 0, all = 0;
    c->turn = (float2 *)cuda_alloc(c, turn);
    c->drawn = (int32_t *)cuda_alloc(c, (size_t)c->max_seqs * sizeof *c->drawn);
    c->drawn_before = (int32_t *)cuda_alloc(c, (size_t)c->max_seqs * sizeof *c->drawn);
    c->inv_freq = (float *)cuda_alloc(c, sizeof c->inv_freq_host);
    p->next = (int32_t *)cuda_alloc(c, 2 * sizeof *p->next);
    p->partials = (float *)cuda_alloc(c, PREFILL_PARTIALS);
    p->wide = cuda_alloc(c, p->wide_bytes);
    if (attention_open(c) && c->turn && c->drawn && c->drawn_before && c->inv_freq && p->next && p->partials &&
        p->wide && gemm_open(c, gpu))
        return 0;
    CU(cudaMemGetInfo(&free_bytes, &all));
    return err_set(e, ENOMEM, "cuda: %zu MiB to work in are needed, of %zu MiB on the GPU %zu MiB are free",
                   (turn + GEMM_WORKSPACE + PREFILL_PARTIALS + p->wide_bytes) >> 20, all >> 20, free_bytes >> 20);
}

static int op_open(struct backend **out, const struct backend_opts *o, struct err *e)
{
    struct cudaDeviceProp p;
    struct cuda *c = NULL;
    int rc = look(&p, e);
    if (rc)
        return rc;
    cudaError_t created = cudaSetDevice(0); /* makes the context: the first call that takes memory */
    if (created == cudaSuccess)
        created = cudaFree(NULL);
    if (created != cudaSuccess)
        return no_device(created, e);
    c = new (std::nothrow) cuda{};
    if (!c)
        return err_set(e, ENOMEM, "cuda: out of memory");
    c->head.ops = &hearth_backend_cuda;
    c->max_rows = o->max_rows;
    c->max_seqs = o->max_seqs ? o->max_seqs : o->max_rows;
    c->max_cols = o->max_cols;
    c->max_vocab = o->max_vocab;
    c->prefill.wide_bytes = o->wide_bytes;
    c->deterministic = o->deterministic;
    describe(c, &p);
    if (o->isa && strcmp(o->isa, "sm_80") == 0)
        c->major = 8;
    CU(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking));
    pass_open(&c->pass);
    stage_open(c, o->max_table);
    prefill_open(c);
    if ((rc = take_memory(c, p.name, e)) || (rc = sampler_open(c, e))) {
        op_close((struct backend *)(void *)c);
        return rc;
    }
    *out = (struct backend *)(void *)c;
    return 0;
}

static const char *op_describe(const struct backend *be)
{
    return ((const struct cuda *)(const void *)be)->text;
}

extern "C" __attribute__((visibility("default"))) const struct backend_ops hearth_backend_cuda = {
    .abi = BACKEND_ABI,
    .name = "cuda",
    .input_dtype = DT_BF16,
    .depth = 2,
    .probe = cuda_probe,
    .open = op_open,
    .close = op_close,
    .describe = op_describe,
    .alloc = op_alloc,
    .release = op_release,
    .upload = op_upload,
    .download = op_download,
    .copy = op_copy,
    .weight_load = cuda_weight_load,
    .weight_make = cuda_weight_make,
    .weight_read = cuda_weight_read,
    .weight_wait = cuda_weight_wait,
    .weight_free = cuda_weight_free,
    .weight_bytes = cuda_weight_bytes,
    .pass_begin = cuda_pass_begin,
    .pass_end = cuda_pass_end,
    .step_end = cuda_step_end,
    .step_wait = cuda_step_wait,
    .step_idle_us = cuda_step_idle_us,
    .moves_open = cuda_moves_open,
    .moves_close = cuda_moves_close,
    .move = cuda_move,
    .moved = cuda_moved,
    .embed = cuda_embed,
    .add_norm = cuda_add_norm,
    .linear = cuda_linear,
    .linear_silu = cuda_linear_silu,
    .rope_kv = cuda_rope_kv,
    .attention = cuda_attention,
    .merge = cuda_merge,
    .silu_mul = cuda_silu_mul,
    .gather = cuda_gather,
    .sample = cuda_sample,
    .sync = op_sync,
};
