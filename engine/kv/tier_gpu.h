/* tier_gpu - moves between the block pool in backend memory and the DRAM arena; each makes the seal of the bytes in the
 * pool: before they leave, after they have come. See tier.h.
 *
 * More moves down than the backend takes at a time wait here and go on with a reap; of moves up submit says so.
 * Without moves of the backend's own, upload and download are used, and a move is done when submit returns. Where the
 * pool is host memory (CPU backends) the seal is made in place; else of what lies in the arena.
 */
#ifndef HEARTH_KV_TIER_GPU_H
#define HEARTH_KV_TIER_GPU_H

#include "engine/compute/backend.h"
#include "engine/kv/tier.h"

struct tier_gpu_opts {
    struct backend *be; /* outlives the tier */
    void *pool;         /* block 0 */
    uint64_t block_bytes;
    uint32_t n_blocks;
    const struct seal_key *key; /* copied */
};

/* 0 or -ENOMEM with e. */
int tier_gpu_open(struct tier **out, const struct tier_gpu_opts *o, struct err *e);

#endif
