/* fp8 - see fp8.cuh.
 *
 * Method: a CTA a row, two passes: the largest magnitude, then the quotients. Cost: x twice (the second time from L2),
 * half of it written.
 */
#include "cuda/fp8.cuh"

#include <assert.h>
#include <cuda_fp8.h>

#define THREADS 256

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

static __device__ inline uint32_t quantise_pair(float2 v, float by)
{
    return __nv_cvt_float2_to_fp8x2(make_float2(v.x / by, v.y / by), __NV_SATFINITE, __NV_E4M3);
}

/* Grid: rows. A thread takes 8 columns at a time. */
static __global__ void __launch_bounds__(THREADS)
    quantise_kernel(uint2 *out, float *scale, const uint4 *x, int32_t eights)
{
    const uint4 *row = x + (size_t)blockIdx.x * eights;
    float most = 0;
    for (int32_t i = threadIdx.x; i < eights; i += THREADS) {
        const uint4 v = row[i];
        const uint32_t pair[4] = {v.x, v.y, v.z, v.w};
        for (int j = 0; j < 4; j++) {
            float2 p = pair_of(pair[j]);
            most = fmaxf(most, fmaxf(fabsf(p.x), fabsf(p.y)));
        }
    }
    most = block_max(most);
    const float by = most > 0 ? most / FP8_MAX : 1;
    if (threadIdx.x == 0)
        scale[blockIdx.x] = by;
    for (int32_t i = threadIdx.x; i < eights; i += THREADS) {
        const uint4 v = row[i];
        out[(size_t)blockIdx.x * eights + i] = make_uint2(
            quantise_pair(pair_of(v.x), by) | quantise_pair(pair_of(v.y), by) << 16,
            quantise_pair(pair_of(v.z), by) | quantise_pair(pair_of(v.w), by) << 16);
    }
}

bool fp8_open(struct cuda *c)
{
    if (!c->x8)
        c->x8 = (uint8_t *)cuda_alloc(c, (size_t)c->max_rows * (size_t)cuda_pad(c->max_cols));
    if (!c->x8_scale)
        c->x8_scale = (float *)cuda_alloc(c, (size_t)c->max_rows * sizeof *c->x8_scale);
    return c->x8 && c->x8_scale;
}

void fp8_quantise(struct cuda *c, uint8_t *out, float *scale, const __nv_bfloat16 *x, int32_t rows, int32_t cols)
{
    assert(cols % 8 == 0 && rows > 0);
    quantise_kernel<<<(unsigned)rows, THREADS, 0, c->stream>>>((uint2 *)out, scale, (const uint4 *)x, cols / 8);
    LAUNCHED();
}
