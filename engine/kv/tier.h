/* tier - a place for blocks below the pool, as numbered slots, and moves between a slot and host memory.
 *
 * The same bytes lie on every tier, so a move is one copy or one I/O. All moves have one end in the DRAM arena: HBM <->
 * DRAM is the gpu tier's, DRAM <-> NVMe the nvme tier's. Submit and reap, no callbacks: from submit until reap the
 * memory and the slot belong to the move, also when nobody waits for it any more. One owner (the engine thread); a tier
 * may have threads or rings inside.
 *
 * A tier is a struct whose first member is `const struct tier_ops *ops`.
 */
#ifndef HEARTH_KV_TIER_H
#define HEARTH_KV_TIER_H

#include "engine/base/err.h"
#include "engine/compute/seal.h"
#include "engine/kv/entry.h"

#include <stdbool.h>
#include <stdint.h>

enum tier_id { TIER_HBM, TIER_DRAM, TIER_NVME, TIER_COUNT };

#define TIER_ALIGN 4096 /* slots and memory: what O_DIRECT wants */

static inline uint64_t tier_slot_bytes(uint64_t block_bytes)
{
    return (block_bytes + TIER_ALIGN - 1) & ~(uint64_t)(TIER_ALIGN - 1);
}

enum tier_op { TIER_READ, TIER_WRITE }; /* slot -> memory; memory -> slot */

struct tier_move {
    enum tier_op op;
    int32_t slot;
    void *mem;                    /* block_bytes (gpu) or slot_bytes (nvme), TIER_ALIGN-aligned */
    const struct kv_entry *entry; /* nvme writes: its line in the index, which the tier copies; else NULL */
    /* set by reap */
    int result;       /* 0, or -errno; a transfer that ended short is -EIO */
    struct seal seal; /* gpu: of the block's bytes in HBM, before they left or after they came */
    uint64_t ns;      /* from submit to completion */
    /* for the tier */
    uint64_t submitted_ns;
    struct tier_move *next;
    /* for the caller */
    void *owner;
};

struct tier;

struct tier_ops {
    const char *name; /* "gpu", "nvme" */
    /* Waits for moves under way (they are not reaped), then frees everything. */
    void (*close)(struct tier *t);
    /* The memory that all moves will have at one end, and the bell to ring when one is done (-1: none), before the
     * first submit; it stays until close. 0 or -errno with e. NULL: no need to know. */
    int (*attach)(struct tier *t, void *memory, size_t bytes, int bell, struct err *e);
    /* Start a move. 0, or -EAGAIN: the queue is full, try again after a reap; nothing was done. Any other failure comes
     * with reap. */
    int (*submit)(struct tier *t, struct tier_move *m);
    /* Moves that have finished, as a list in `next`; NULL: none. Never waits. */
    struct tier_move *(*reap)(struct tier *t);

    /* -- nvme only (NULL for gpu): slots are taken and given here, because there may be several drives and because
     * files grow. `stripe` says on which drive it should be if it can. -1: none left. */
    int32_t (*take)(struct tier *t, uint64_t stripe);
    void (*give)(struct tier *t, int32_t slot);
    /* The entry of a slot is not to be found any more (retired or given up). Lazy: a crash may bring it back, and then
     * the seal decides. */
    void (*forget)(struct tier *t, int32_t slot);
    /* Its entry as it is or will be in the index; NULL: none. It stays at its place until the slot is forgotten. After
     * open indexes are still being read: it waits for the entry, so who wants all asks for them in order. */
    const struct kv_entry *(*entry)(struct tier *t, int32_t slot);
    /* Wait until all of them are read: the end of open, which any other of these calls brings about, too. Then the
     * speeds in the head are known. NULL: they always are. */
    void (*settle)(struct tier *t);
    /* Make durable what was written before: true when all is, false: under way, ask again after a reap. */
    bool (*flush)(struct tier *t);
};

struct tier_head {
    const struct tier_ops *ops;
    int32_t n_slots;   /* largest slot number + 1 that it can ever have */
    uint64_t read_bps; /* measured at open, bytes a second; 0 = not known */
    uint64_t write_bps;
};

static inline struct tier_head *tier_head(struct tier *t)
{
    return (struct tier_head *)(void *)t;
}

static inline const struct tier_ops *tier_ops(struct tier *t)
{
    return tier_head(t)->ops;
}

static inline void tier_close(struct tier *t)
{
    if (t)
        tier_ops(t)->close(t);
}

#endif
