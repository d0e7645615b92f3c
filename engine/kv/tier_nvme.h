/* tier_nvme - blocks on drives: one slab and one index a directory, blocks of a chain going round them. See tier.h.
 *
 * A write is the payload, then the sector with its entry; it is reaped when both are there. Reads and writes wait for
 * the disk in aio, never here; opening, and growing a slab by a piece, do. A directory that can't be opened is left out
 * with an error in the log (its blocks are holes), unless all are, or another daemon has it.
 */
#ifndef HEARTH_KV_TIER_NVME_H
#define HEARTH_KV_TIER_NVME_H

#include "engine/kv/aio.h"
#include "engine/kv/nvme_index.h"
#include "engine/kv/tier.h"

#define TIER_NVME_DRIVES 16

struct tier_nvme_opts {
    const char *dirs; /* with commas between */
    uint64_t bytes;   /* of all together, index and whatever else of the tier's is there included */
    struct nvme_shape shape;
    struct aio_opts aio; /* depth 0: by the size of a slot */
    uint8_t secret[32];  /* in: for directories that have none; out: the installation's */
};

/* 0, or -errno with e: -EBUSY (another daemon), -EINVAL (no room for a block), ... */
int tier_nvme_open(struct tier **out, struct tier_nvme_opts *o, struct err *e);

struct tier_nvme_stats {
    uint32_t drives, lost_drives;
    uint64_t slots, max_slots; /* in files now, at most */
    uint64_t damaged;          /* entries that were not whole at open */
    const char *aio;           /* "io_uring" */
    bool direct;
};
void tier_nvme_get_stats(struct tier *t, struct tier_nvme_stats *out);

#endif
