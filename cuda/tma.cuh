/* tma - Hopper's bulk tensor copies, and the barriers in shared memory that they and warps arrive on (PTX ISA 9.7.13).
 *
 * The pool of a layer is one tensor map of four dimensions: dim, token, 2 * head + (K | V), block. A box is 64 elements
 * of up to 64 tokens, and lands in the 128-byte swizzle: the 16-byte piece u of row r lies at u ^ (r % 8). Coordinates
 * outside of the tensor give zeros: block -1 is "no block", and a head_dim that is no multiple of 64 is filled up.
 */
#ifndef HEARTH_CUDA_TMA_CUH
#define HEARTH_CUDA_TMA_CUH

#include "cuda/cuda.cuh"

#include <cuda.h>

/* Columns of a box: 128 bytes. */
#define TMA_COLS 64

/* Rows of a box for blocks of this size. */
static __host__ __device__ inline int32_t tma_rows(uint32_t block_tokens)
{
    return block_tokens < 64 ? (int32_t)block_tokens : 64;
}

/* The map of one layer of the pool. Host, any thread; the driver must know tensor maps (Hopper). */
void tma_map_pool(CUtensorMap *map, const struct kv_view *kv);

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

static __device__ inline uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ inline void bar_init(uint64_t *bar, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(arrivals));
}

/* Behind the inits: the copy engine sees them. */
static __device__ inline void bar_init_done(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ inline void bar_arrive(uint64_t *bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}

/* Arrive, and let the phase wait for `bytes` of copies too. */
static __device__ inline void bar_expect(uint64_t *bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes)
                 : "memory");
}

/* Until the phase of this parity is over; the phase before the first has parity 1. */
static __device__ inline void bar_wait(uint64_t *bar, uint32_t parity)
{
    asm volatile("{.reg .pred p;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@!p bra again;}" ::"r"(shared_address(bar)),
                 "r"(parity)
                 : "memory");
}

static __device__ inline void tma_load(void *to, const CUtensorMap *map, uint64_t *bar, int32_t dim, int32_t token,
                                       int32_t head, int32_t block)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(to)),
                 "l"(map), "r"(shared_address(bar)), "r"(dim), "r"(token), "r"(head), "r"(block)
                 : "memory");
}

/* Ordinary stores of this thread to shared memory, before tensor cores and copies that come behind a barrier. */
static __device__ inline void fence_async(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Named barriers 1 .. 15 among `threads` threads. */
static __device__ inline void named_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
static __device__ inline void named_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#endif
#endif
