/* early - kernels that are launched before the one ahead of them has ended (programmatic dependent launch, Hopper), so
 * that the way to the SMs is not waited for.
 *
 * Every kernel that goes through launch_early begins with early_wait before it reads or writes what others do: when it
 * returns, all grids before have ended and their results are there. early_next says that the next may come.
 */
#ifndef HEARTH_CUDA_EARLY_CUH
#define HEARTH_CUDA_EARLY_CUH

#include "cuda/cuda.cuh"

static __device__ inline void early_wait(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ inline void early_next(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <class... params, class... args>
static inline void launch_early_with(struct cuda *c, void (*kernel)(params...), dim3 grid, int threads, size_t shared,
                                     args... a)
{
    cudaLaunchAttribute early = {};
    cudaLaunchConfig_t how = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    how.gridDim = grid;
    how.blockDim = dim3((unsigned)threads);
    how.dynamicSmemBytes = shared;
    how.stream = c->stream;
    how.attrs = &early;
    how.numAttrs = c->major >= 9 ? 1 : 0;
    CU(cudaLaunchKernelEx(&how, kernel, a...));
}

/* The same without dynamic shared memory. */
template <class... params, class... args>
static inline void launch_early(struct cuda *c, void (*kernel)(params...), dim3 grid, int threads, args... a)
{
    launch_early_with(c, kernel, grid, threads, 0, a...);
}

#endif
