/* tier_dram - see tier_dram.h. */
#include "engine/kv/tier_dram.h"

#include "engine/base/sys.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE (2u << 20)

int tier_dram_open(struct tier_dram *d, uint64_t slot_bytes, uint64_t bytes, bool no_bytes, struct err *e)
{
    memset(d, 0, sizeof *d);
    uint64_t n = bytes / slot_bytes;
    if (n > INT32_MAX)
        n = INT32_MAX;
    if (n == 0)
        return err_set(e, EINVAL, "kv.dram.bytes %llu: one block needs %llu bytes; set at least that, or 0 for no tier",
                       (unsigned long long)bytes, (unsigned long long)slot_bytes);
    d->slot_bytes = slot_bytes;
    d->n_slots = d->n_free = (uint32_t)n;
    d->free = malloc(n * sizeof *d->free);
    if (!d->free)
        goto no_memory;
    for (uint32_t i = 0; i < n; i++) /* lowest slots on top: memory is touched from the beginning */
        d->free[i] = (int32_t)(n - 1 - i);
    if (no_bytes)
        return 0;
    d->bytes = n * slot_bytes;
    void *p = sys.mmap(NULL, d->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        goto no_memory;
    d->base = p;
    if (d->bytes >= HUGE_PAGE)
        sys.madvise(p, d->bytes, MADV_HUGEPAGE); /* advice: that it is refused changes nothing */
    return 0;
no_memory:
    tier_dram_close(d);
    return err_set(e, ENOMEM, "kv.dram.bytes %llu: there is no memory for it; lower it", (unsigned long long)bytes);
}

void tier_dram_close(struct tier_dram *d)
{
    if (d->base)
        sys.munmap(d->base, d->bytes);
    free(d->free);
    memset(d, 0, sizeof *d);
}

int32_t tier_dram_take(struct tier_dram *d)
{
    return d->n_free ? d->free[--d->n_free] : -1;
}

void tier_dram_give(struct tier_dram *d, int32_t slot)
{
    assert(slot >= 0 && (uint32_t)slot < d->n_slots && d->n_free < d->n_slots);
    d->free[d->n_free++] = slot;
}
