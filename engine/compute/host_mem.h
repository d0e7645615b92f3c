/* host_mem - memory of the CPU backends: zeroed by the kernel page by page when first touched, so that a pool of
 * gigabytes costs nothing until it is used. 64-byte aligned (page-aligned), huge pages where the system gives them.
 * MT-safe. */
#ifndef HEARTH_COMPUTE_HOST_MEM_H
#define HEARTH_COMPUTE_HOST_MEM_H

#include "engine/base/sys.h"

#include <sys/mman.h>

/* NULL when there is none. bytes = 0 gives a valid pointer. */
static inline void *host_alloc(size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    void *p = sys.mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                       0);
    if (p == MAP_FAILED)
        return NULL;
    if (bytes >= 2u << 20)
        madvise(p, bytes, MADV_HUGEPAGE); /* advice: that it is refused changes nothing */
    return p;
}

/* With the bytes it was taken with; NULL is fine. */
static inline void host_release(void *p, size_t bytes)
{
    if (p)
        sys.munmap(p, bytes ? bytes : 1);
}

#endif
