/* large - zeroed memory for tables, as from calloc (free it as that); large ones are asked for in huge pages, so that
 * filling one takes a page fault for each 2 MiB instead of each 4 KiB. MT-safe. */
#ifndef HEARTH_BASE_LARGE_H
#define HEARTH_BASE_LARGE_H

#include "engine/base/sys.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#define LARGE_PAGE  4096
#define LARGE_BYTES (8u << 20) /* from here on */

static inline void *large_calloc(size_t n, size_t size)
{
    uint8_t *p = calloc(n, size);
    size_t bytes = n * size, skip = -(uintptr_t)p % LARGE_PAGE;
    if (p && bytes >= LARGE_BYTES)
        sys.madvise(p + skip, bytes - skip, MADV_HUGEPAGE); /* advice: that it is refused changes nothing */
    return p;
}

#endif
