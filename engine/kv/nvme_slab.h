/* nvme_slab - the payload file of a slab: slots one after the other, each as large as a block padded to 4 KiB.
 *
 * The file grows by pieces that are reserved on the disk before they are used (no write finds the disk full), up to a
 * cap and as long as the file system keeps its reserve; it never shrinks by itself. Slots are numbers; which are taken
 * is known here, what is in them is not. Engine thread; open and a take that grows wait for the disk.
 */
#ifndef HEARTH_KV_NVME_SLAB_H
#define HEARTH_KV_NVME_SLAB_H

#include "engine/kv/nvme_dir.h"

struct nvme_slab {
    int fd;
    bool direct; /* O_DIRECT */
    bool copied; /* aio_req.copied */
    uint64_t slot_bytes;
    uint32_t n_slots, max_slots; /* in the file; that it may have */
    uint32_t n_free;
    int32_t *free;          /* stack */
    uint8_t *bad;           /* [max_slots] can't be written: never free again */
    uint64_t grow_after_ns; /* after a failure */
};

/* 0 or -errno with e. A file that is longer than max_slots is cut. No slot is free: the caller gives those that are. */
int nvme_slab_open(struct nvme_slab *s, const struct nvme_dir *d, const char *name, uint64_t slot_bytes,
                   uint32_t max_slots, struct err *e);
void nvme_slab_close(struct nvme_slab *s);

int32_t nvme_slab_take(struct nvme_slab *s); /* -1: none, and it can't grow */
void nvme_slab_give(struct nvme_slab *s, int32_t slot);
static inline uint64_t nvme_slab_offset(const struct nvme_slab *s, int32_t slot)
{
    return (uint64_t)slot * s->slot_bytes;
}

#endif
