/* tier_dram - the arena: DRAM slots as one piece of host memory, which is also where every move between HBM and NVMe
 * passes through (there is no other staging).
 *
 * Mapped at open with huge pages where the system gives them; pages cost nothing until they are first touched. Knows
 * numbers and addresses only. Engine thread; no allocation after open.
 */
#ifndef HEARTH_KV_TIER_DRAM_H
#define HEARTH_KV_TIER_DRAM_H

#include "engine/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tier_dram {
    uint8_t *base;
    size_t bytes;
    uint64_t slot_bytes;
    uint32_t n_slots, n_free;
    int32_t *free; /* stack */
};

/* As many slots as fit into bytes. no_bytes: numbers without memory (simulation). 0 or -errno with e. */
int tier_dram_open(struct tier_dram *d, uint64_t slot_bytes, uint64_t bytes, bool no_bytes, struct err *e);
void tier_dram_close(struct tier_dram *d);

int32_t tier_dram_take(struct tier_dram *d); /* -1: none free */
void tier_dram_give(struct tier_dram *d, int32_t slot);

/* slot_bytes of memory, TIER_ALIGN-aligned; NULL without memory. */
static inline void *tier_dram_at(const struct tier_dram *d, int32_t slot)
{
    return d->base ? d->base + (size_t)slot * d->slot_bytes : NULL;
}

#endif
