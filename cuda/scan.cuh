/* scan - sums over the threads of a CTA, for lists that are made on the card. */
#ifndef HEARTH_CUDA_SCAN_CUH
#define HEARTH_CUDA_SCAN_CUH

#include <stdint.h>

/* Sum of x over the threads before this one; *all: over all THREADS of the CTA, each of which calls. */
template <int THREADS> static __device__ int32_t sum_before(int32_t x, int32_t *all)
{
    __shared__ int32_t warp[THREADS / 32];
    const int lane = threadIdx.x % 32, w = threadIdx.x / 32;
    int32_t sum = x, before = 0;
    for (int k = 1; k < 32; k *= 2) {
        const int32_t left = __shfl_up_sync(~0u, sum, k);
        sum += lane >= k ? left : 0;
    }
    __syncthreads(); /* the sums of the call before have been read */
    if (lane == 31)
        warp[w] = sum;
    __syncthreads();
    *all = 0;
    for (int i = 0; i < THREADS / 32; i++) {
        before += i < w ? warp[i] : 0;
        *all += warp[i];
    }
    return before + sum - x;
}

#endif
