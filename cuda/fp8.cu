/* fp8 - see fp8.cuh.
 *
 * Method: a CTA a row, which stays in registers between the search for its largest magnitude and the products with 448
 * over that (rows of more than 16,384 columns are read twice). Cost: the row once, half of it written; for few rows the
 * launch and two trips to memory.
 */
#include "cuda/fp8.cuh"

#include <assert.h>
#include <cuda_fp8.h>

#define THREADS 512
#define EIGHTS  4 /* of 8 columns that a thread keeps at most */

static __device__ inline float2 pair_of(uint32_t two)
{
    return make_float2(__uint_as_float(two << 16), __uint_as_float(two & 0xffff0000u));
}

/* The largest of all threads' values, to all. */
static __device__ float block_max(float x)
{
    __shared__ float part[THREADS / 32];
    for (int k = 16; k; k /= 2)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, k));
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = x;
    __syncthreads();
    for (int i = 0; i < THREADS / 32; i++)
        x = fmaxf(x, part[i]);
    return x;
}

static __device__ inline float most_of(uint4 v)
{
    const uint32_t pair[4] = {v.x, v.y, v.z, v.w};
    float most = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float2 p = pair_of(pair[j]);
        most = fmaxf(most, fmaxf(fabsf(p.x), fabsf(p.y)));
    }
    return most;
}

static __device__ inline uint32_t quantise_pair(uint32_t two, float by)
{
    float2 v = pair_of(two);
    return __nv_cvt_float2_to_fp8x2(make_float2(v.x * by, v.y * by), __NV_SATFINITE, __NV_E4M3);
}

static __device__ inline uint2 quantise_eight(uint4 v, float by)
{
    return make_uint2(quantise_pair(v.x, by) | quantise_pair(v.y, by) << 16,
                      quantise_pair(v.z, by) | quantise_pair(v.w, by) << 16);
}

/* What the row is multiplied by; one thread writes the scale that takes it back. */
static __device__ float factor_of(float most, float *scale)
{
    bool none = most < FP8_LEAST;
    if (threadIdx.x == 0)
        *scale = none ? 1 : most / FP8_MAX;
    return none ? 1 : FP8_MAX / most;
}

/* Grid: rows of at most N THREADS eights. */
template <int N>
static __global__ void __launch_bounds__(THREADS)
    quantise_kernel(uint2 *out, float *scale, const uint4 *x, int32_t eights)
{
    const uint4 *row = x + (size_t)blockIdx.x * eights;
    uint4 v[N];
    float most = 0;
#pragma unroll
    for (int k = 0; k < N; k++) {
        int32_t i = (int32_t)threadIdx.x + k * THREADS;
        v[k] = i < eights ? row[i] : uint4{};
    }
#pragma unroll
    for (int k = 0; k < N; k++)
        most = fmaxf(most, most_of(v[k]));
    const float by = factor_of(block_max(most), scale + blockIdx.x);
#pragma unroll
    for (int k = 0; k < N; k++) {
        int32_t i = (int32_t)threadIdx.x + k * THREADS;
        if (i < eights)
            out[(size_t)blockIdx.x * eights + i] = quantise_eight(v[k], by);
    }
}

/* Grid: rows of any length. */
static __global__ void __launch_bounds__(THREADS)
    quantise_long_kernel(uint2 *out, float *scale, const uint4 *x, int32_t eights)
{
    const uint4 *row = x + (size_t)blockIdx.x * eights;
    float most = 0;
    for (int32_t i = threadIdx.x; i < eights; i += THREADS)
        most = fmaxf(most, most_of(row[i]));
    const float by = factor_of(block_max(most), scale + blockIdx.x);
    for (int32_t i = threadIdx.x; i < eights; i += THREADS)
        out[(size_t)blockIdx.x * eights + i] = quantise_eight(row[i], by);
}

bool fp8_open(struct cuda *c)
{
    if (!c->x8)
        c->x8 = (uint8_t *)cuda_alloc(c, (size_t)c->max_rows * (size_t)cuda_pad(c->max_cols));
    if (!c->x8_scale)
        c->x8_scale = (float *)cuda_alloc(c, (size_t)c->max_rows * sizeof *c->x8_scale);
    return c->x8 && c->x8_scale;
}

void fp8_quantise(cudaStream_t stream, uint8_t *out, float *scale, const __nv_bfloat16 *x, int32_t rows, int32_t cols)
{
    assert(cols % 8 == 0 && rows > 0);
    int32_t eights = cols / 8, each = (eights + THREADS - 1) / THREADS;
    auto *kernel = each <= 1        ? quantise_kernel<1>
                   : each <= 2      ? quantise_kernel<2>
                   : each <= EIGHTS ? quantise_kernel<EIGHTS>
                                    : quantise_long_kernel;
    kernel<<<(unsigned)rows, THREADS, 0, stream>>>((uint2 *)out, scale, (const uint4 *)x, eights);
    LAUNCHED();
}
