/* rows - the ops that pass over rows of activations: embed, add_norm, silu_mul, gather, merge.
 *
 * All are bound by memory, or by the launch when rows are few: bytes in and out once, 16 bytes a load where the width
 * allows it. A row (or an element) is computed by itself, in one order, so its bits do not depend on the rows beside
 * it.
 */
#include "cuda/early.cuh"

#include <assert.h>

#define THREADS      256
#define NORM_THREADS 512
#define NORM_QUADS   8 /* of four columns that a thread keeps in registers: rows of up to 16,384 */

static dim3 grid_over(size_t n)
{
    size_t blocks = (n + THREADS - 1) / THREADS;
    return dim3((unsigned)(blocks < 65535 ? blocks : 65535));
}

/* Four floats to an input row. */
static __device__ inline void put_quad(__nv_bfloat16 *to, float4 v)
{
    __nv_bfloat162 a = __floats2bfloat162_rn(v.x, v.y), b = __floats2bfloat162_rn(v.z, v.w);
    uint2 raw = {*(const uint32_t *)&a, *(const uint32_t *)&b};
    *(uint2 *)to = raw;
}

/* -- embed, gather ----------------------------------------------------------------------------------------------- */

/* Grid: rows. A thread takes every THREADS-th four columns; one by one where they are no fours. */
static __global__ void embed_kernel(float *out, const __nv_bfloat16 *table, struct step_dev step, const int32_t *drawn,
                                    int32_t cols, int32_t stride)
{
    early_next();
    early_wait();
    int32_t t = blockIdx.x, after = step.after[t], id = after ? drawn[after - 1] : step.ids[t];
    const __nv_bfloat16 *row = table + (size_t)id * stride;
    float *to = out + (size_t)t * cols;
    const int32_t fours = cols % 4 ? 0 : cols / 4;
#pragma unroll 4
    for (int32_t i = threadIdx.x; i < fours; i += THREADS) {
        const uint2 v = ((const uint2 *)row)[i];
        ((float4 *)to)[i] = make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u),
                                        __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u));
    }
    for (int32_t i = 4 * fours + (int32_t)threadIdx.x; i < cols; i += THREADS)
        to[i] = __bfloat162float(row[i]);
}

void cuda_embed(struct backend *be, float *out, const struct weight *table, const struct step *step)
{
    struct cuda *c = cuda_of(be);
    const struct step_dev *at = stage_step(c, step);
    launch_early(c, embed_kernel, dim3((unsigned)step->n_rows), THREADS, out,
                 (const __nv_bfloat16 *)table->part[0].data, *at, c->drawn, table->cols, cuda_pad(table->cols));
}

/* Grid: rows. */
static __global__ void gather_kernel(uint32_t *out, const uint32_t *x, const int32_t *rows, int32_t words)
{
    const uint32_t *from = x + (size_t)rows[blockIdx.x] * words;
    for (int32_t i = threadIdx.x; i < words; i += THREADS)
        out[(size_t)blockIdx.x * words + i] = from[i];
}

void cuda_gather(struct backend *be, void *out, const void *x, const struct step *step, uint64_t row_bytes)
{
    struct cuda *c = cuda_of(be);
    const struct step_dev *at = stage_step(c, step);
    assert(row_bytes % 4 == 0);
    gather_kernel<<<(unsigned)step->n_out, THREADS, 0, c->stream>>>((uint32_t *)out, (const uint32_t *)x, at->out_row,
                                                                    (int32_t)(row_bytes / 4));
    LAUNCHED();
}

/* -- add_norm ---------------------------------------------------------------------------------------------------- */

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

struct norm_args {
    __nv_bfloat16 *out;
    float *x;
    const float *add, *w;
    float eps;
    int32_t width, stride; /* of x; of out */
};

/* Grid: rows. Two passes over the row, which is in L1 or L2 for the second. Any width. */
static __global__ void __launch_bounds__(NORM_THREADS) norm_any_kernel(const struct norm_args a)
{
    float *x = a.x + (size_t)blockIdx.x * a.width, squares = 0;
    const float *add = a.add ? a.add + (size_t)blockIdx.x * a.width : NULL;
    for (int32_t i = threadIdx.x; i < a.width; i += NORM_THREADS) {
        float v = add ? x[i] + add[i] : x[i];
        x[i] = v;
        squares = fmaf(v, v, squares);
    }
    if (!a.out)
        return;
    float scale = 1.0f / sqrtf(block_sum(squares) / (float)a.width + a.eps);
    for (int32_t i = threadIdx.x; i < a.stride; i += NORM_THREADS)
        a.out[(size_t)blockIdx.x * a.stride + i] = __float2bfloat16_rn(i < a.width ? x[i] * scale * a.w[i] : 0.0f);
}

/* Grid: rows; QUADS * NORM_THREADS * 4 columns or fewer, a multiple of 8. The row stays in registers between the sum
 * and the scaling. */
template <int QUADS> static __global__ void __launch_bounds__(NORM_THREADS) norm_kernel(const struct norm_args a)
{
    early_next();
    early_wait();
    const int32_t n = a.width / 4;
    float4 *x = (float4 *)(a.x + (size_t)blockIdx.x * a.width), v[QUADS];
    const float4 *add = a.add ? (const float4 *)(a.add + (size_t)blockIdx.x * a.width) : NULL;
    float squares = 0;
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
        int32_t i = threadIdx.x + q * NORM_THREADS;
        v[q] = i < n ? x[i] : float4{};
        if (add && i < n) {
            float4 b = add[i];
            v[q] = {v[q].x + b.x, v[q].y + b.y, v[q].z + b.z, v[q].w + b.w};
        }
    }
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
        int32_t i = threadIdx.x + q * NORM_THREADS;
        squares = fmaf(v[q].x, v[q].x, fmaf(v[q].y, v[q].y, fmaf(v[q].z, v[q].z, fmaf(v[q].w, v[q].w, squares))));
        if (add && i < n)
            x[i] = v[q];
    }
    if (!a.out)
        return;
    float scale = 1.0f / sqrtf(block_sum(squares) / (float)a.width + a.eps);
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
        int32_t i = threadIdx.x + q * NORM_THREADS;
        if (i >= n)
            continue;
        float4 w = ((const float4 *)a.w)[i];
        put_quad(a.out + (size_t)blockIdx.x * a.stride + 4 * i,
                 {v[q].x * scale * w.x, v[q].y * scale * w.y, v[q].z * scale * w.z, v[q].w * scale * w.w});
    }
}

void cuda_add_norm(struct backend *be, void *out, float *x, const float *add, const float *w, float eps, int32_t n_rows,
                   int32_t width)
{
    struct cuda *c = cuda_of(be);
    struct norm_args a = {(__nv_bfloat16 *)out, x, add, w, eps, width, cuda_pad(width)};
    dim3 rows((unsigned)n_rows);
    int32_t quads = (width / 4 + NORM_THREADS - 1) / NORM_THREADS;
    if (width % 8 != 0 || quads > NORM_QUADS)
        norm_any_kernel<<<rows, NORM_THREADS, 0, c->stream>>>(a);
    else if (quads <= 1)
        launch_early(c, norm_kernel<1>, rows, NORM_THREADS, a);
    else if (quads <= 2)
        launch_early(c, norm_kernel<2>, rows, NORM_THREADS, a);
    else
        launch_early(c, norm_kernel<NORM_QUADS>, rows, NORM_THREADS, a);
    LAUNCHED();
}

/* -- silu_mul ---------------------------------------------------------------------------------------------------- */

static __device__ inline float silu_of(float gate, float up)
{
    return gate / (1.0f + expf(-gate)) * up;
}

/* Any width. */
static __global__ void silu_any_kernel(__nv_bfloat16 *out, const float *gu, size_t n, int32_t f, int32_t stride)
{
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * THREADS) {
        const float *gate = gu + i / stride * 2 * f + i % stride;
        out[i] = __float2bfloat16_rn((int32_t)(i % stride) < f ? silu_of(gate[0], gate[f]) : 0.0f);
    }
}

/* Grid: runs of columns x rows; a thread owns four columns. */
static __global__ void silu_kernel(__nv_bfloat16 *out, const float *gu, int32_t f)
{
    early_next();
    early_wait();
    int32_t i = 4 * (blockIdx.x * THREADS + threadIdx.x);
    if (i >= f)
        return;
    const float *row = gu + (size_t)blockIdx.y * 2 * f;
    float4 g = *(const float4 *)(row + i), u = *(const float4 *)(row + f + i);
    put_quad(out + (size_t)blockIdx.y * f + i,
             {silu_of(g.x, u.x), silu_of(g.y, u.y), silu_of(g.z, u.z), silu_of(g.w, u.w)});
}

void cuda_silu_mul(struct backend *be, void *out, const float *gu, int32_t n_rows, int32_t f)
{
    struct cuda *c = cuda_of(be);
    int32_t stride = cuda_pad(f);
    size_t n = (size_t)n_rows * stride;
    if (f % 8 == 0 && n_rows <= 65535)
        launch_early(c, silu_kernel, dim3((unsigned)(f / 4 + THREADS - 1) / THREADS, (unsigned)n_rows), THREADS,
                     (__nv_bfloat16 *)out, gu, f);
    else
        silu_any_kernel<<<grid_over(n), THREADS, 0, c->stream>>>((__nv_bfloat16 *)out, gu, n, f, stride);
    LAUNCHED();
}

/* -- merge ------------------------------------------------------------------------------------------------------- */

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
