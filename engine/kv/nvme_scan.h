/* nvme_scan - the entries of an index at open: read in one sequential pass and checked, by a few threads side by side,
 * so that neither waits for the other and whoever asks for the first entries need not wait for the last.
 *
 * An entry that is not whole (CRC, shape), or whose payload would lie beyond the slab, becomes zeros: a free slot. What
 * can't be read is free slots, too, with a line in the log. Small indexes are read by the caller, before start returns.
 * One owner thread; the entries that it has not waited for belong to the scan.
 */
#ifndef HEARTH_KV_NVME_SCAN_H
#define HEARTH_KV_NVME_SCAN_H

#include "engine/kv/entry.h"

struct nvme_scan;

struct nvme_scan_opts {
    int fd;
    uint64_t off;             /* of the first entry in the file; a multiple of ENTRY_SECTOR */
    struct kv_entry *entries; /* [n_slots], up to a whole sector, zero; TIER_ALIGN-aligned */
    bool *there;              /* [n_slots] false; true where an entry is whole */
    uint32_t n_slots;
    uint32_t n_there; /* slots that the slab has room for */
    uint32_t block_tokens, format;
    const char *path; /* for the log; copied */
};

/* 0 or -ENOMEM. */
int nvme_scan_start(struct nvme_scan **out, const struct nvme_scan_opts *o);
/* Wait until the entry of this slot is known. */
void nvme_scan_wait(struct nvme_scan *s, uint32_t slot);

struct nvme_scan_result {
    uint32_t n_damaged; /* entries that were not whole */
    uint64_t bytes, ns; /* read, from start to the last of them */
};
/* Wait for all, and free it. NULL is fine: all zero. */
struct nvme_scan_result nvme_scan_end(struct nvme_scan *s);

#endif
