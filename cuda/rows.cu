/* rows - the ops that pass over rows of activations: embed, add_norm, silu_mul, gather, merge.
 *
 * All are bound by memory: bytes in and out once, adjacent threads on adjacent floats. A row (or an element) is
 * computed by itself, in one order, so its bits do not depend on the rows beside it.
 */
#include "cuda/cuda.cuh"

#include <assert.h>

#define THREADS      256
#define NORM_THREADS 1024 /* a row of a model is a few elements a thread, whose loads go together */

static dim3 grid_over(size_t n)
{
    size_t blocks = (n + THREADS - 1) / THREADS;
    return dim3((unsigned)(blocks < 65535 ? blocks : 65535));
}

/* Grid: rows. A thread takes every THREADS-th column. */
static __global__ void embed_kernel(float *out, const __nv_bfloat16 *table, const int32_t *ids, int32_t cols,
                                    int32_t stride)
{
    const __nv_bfloat16 *row = table + (size_t)ids[blockIdx.x] * stride;
    float *to = out + (size_t)blockIdx.x * cols;
    for (int32_t i = threadIdx.x; i < cols; i += THREADS)
        to[i] = __bfloat162float(row[i]);
}

void cuda_embed(struct backend *be, float *out, const struct weight *table, const int32_t *ids, int32_t n_rows)
{
    struct cuda *c = cuda_of(be);
    const int32_t *dev = stage_ints(c, ids, n_rows);
    embed_kernel<<<(unsigned)n_rows, THREADS, 0, c->stream>>>(out, (const __nv_bfloat16 *)table->part[0].data, dev,
                                                              table->cols, cuda_pad(table->cols));
    LAUNCHED();
}

/* Sum over the threads of a block, the same order each time; every thread gets it. */
static __device__ float block_sum(float x)
{
    __shared__ float part[NORM_THREADS / 32];
    for (int k = 16; k; k /= 2)
        x += __shfl_xor_sync(~0u, x, k);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < NORM_THREADS / 32; i++)
        sum += part[i];
    return sum;
}

/* Grid: rows. Two passes over the row, which is in L1 or L2 for the second. */
static __global__ void add_norm_kernel(float *__restrict__ out, float *__restrict__ x, const float *__restrict__ add,
                                       const float *__restrict__ w, float eps, int32_t width)
{
    size_t at = (size_t)blockIdx.x * width;
    float squares = 0;
#pragma unroll 2
    for (int32_t i = threadIdx.x; i < width; i += NORM_THREADS) {
        float v = x[at + i];
        if (add) {
            v += add[at + i];
            x[at + i] = v;
        }
        squares = fmaf(v, v, squares);
    }
    if (!out)
        return;
    float scale = 1.0f / sqrtf(block_sum(squares) / (float)width + eps);
#pragma unroll 2
    for (int32_t i = threadIdx.x; i < width; i += NORM_THREADS)
        out[at + i] = x[at + i] * scale * w[i];
}

void cuda_add_norm(struct backend *be, float *out, float *x, const float *add, const float *w, float eps,
                   int32_t n_rows, int32_t width)
{
    struct cuda *c = cuda_of(be);
    add_norm_kernel<<<(unsigned)n_rows, NORM_THREADS, 0, c->stream>>>(out, x, add, w, eps, width);
    LAUNCHED();
}

static __global__ void silu_mul_kernel(float *out, const float *gu, size_t n, int32_t f)
{
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * THREADS) {
        const float *gate = gu + i / f * 2 * f + i % f;
        out[i] = gate[0] / (1.0f + expf(-gate[0])) * gate[f];
    }
}

void cuda_silu_mul(struct backend *be, float *out, const float *gu, int32_t n_rows, int32_t f)
{
    struct cuda *c = cuda_of(be);
    size_t n = (size_t)n_rows * f;
    silu_mul_kernel<<<grid_over(n), THREADS, 0, c->stream>>>(out, gu, n, f);
    LAUNCHED();
}

static __global__ void gather_kernel(float *out, const float *x, const int32_t *rows, int32_t width)
{
    const float *from = x + (size_t)rows[blockIdx.x] * width;
    for (int32_t i = threadIdx.x; i < width; i += THREADS)
        out[(size_t)blockIdx.x * width + i] = from[i];
}

void cuda_gather(struct backend *be, float *out, const float *x, const int32_t *rows, int32_t n, int32_t width)
{
    struct cuda *c = cuda_of(be);
    const int32_t *dev = stage_ints(c, rows, n);
    gather_kernel<<<(unsigned)n, THREADS, 0, c->stream>>>(out, x, dev, width);
    LAUNCHED();
}

/* Grid: vectors. A side that saw no key is not read. */
static __global__ void merge_kernel(struct attn_partial a, struct attn_partial b, int32_t d)
{
    size_t at = (size_t)blockIdx.x * d;
    float la = a.lse_ln[blockIdx.x], lb = b.lse_ln[blockIdx.x];
    __syncthreads(); /* all have read la before it is written */
    if (lb == -INFINITY)
        return;
    float max = fmaxf(la, lb), wa = expf(la - max), wb = expf(lb - max), sum = wa + wb;
    for (int32_t i = threadIdx.x; i < d; i += blockDim.x)
        a.o[at + i] = la == -INFINITY ? b.o[at + i] : (wa * a.o[at + i] + wb * b.o[at + i]) / sum;
    if (threadIdx.x == 0)
        a.lse_ln[blockIdx.x] = la == -INFINITY ? lb : max + logf(sum);
}

void cuda_merge(struct backend *be, struct attn_partial a, struct attn_partial b, int32_t n, int32_t d)
{
    struct cuda *c = cuda_of(be);
    merge_kernel<<<(unsigned)n, 128, 0, c->stream>>>(a, b, d);
    LAUNCHED();
}
