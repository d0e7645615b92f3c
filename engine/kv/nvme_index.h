/* nvme_index - the entries of one slab: a header sector and one entry (entry.h) a slot, kept whole in memory.
 *
 * Read in one sequential pass that open begins (nvme_scan.h); an entry whose CRC does not fit, or whose payload would
 * lie beyond the slab, is a free slot. Afterwards memory is the truth, and sectors of eight entries are written from
 * it: who changed an entry asks for its sector; a copy is written, so entries may change meanwhile. There is no
 * journal: an entry that is older than its payload, or torn, is found out by the payload's seal or its own CRC.
 *
 * Engine thread; open waits for the disk, and get and settle until the pass is over.
 */
#ifndef HEARTH_KV_NVME_INDEX_H
#define HEARTH_KV_NVME_INDEX_H

#include "engine/kv/entry.h"
#include "engine/kv/nvme_dir.h"
#include "engine/kv/nvme_scan.h"

#include <stddef.h>

/* What the bytes of a slot are. Its digest is in the file names: another shape, another file. */
struct nvme_shape {
    uint64_t block_bytes, slot_bytes;
    uint32_t block_tokens, format;
    uint32_t n_layers, n_kv_heads, head_dim, zero; /* no padding: it is compared as bytes */
};

/* 16 hex digits. */
void nvme_shape_digest(const struct nvme_shape *s, char out[17]);

struct nvme_index {
    int fd;
    uint32_t n_slots; /* entries */
    struct kv_entry *entries;
    bool *there;            /* [n_slots] there is an entry: one look does not fetch it from memory */
    size_t bytes;           /* of the mapping */
    struct nvme_scan *scan; /* not over yet; NULL: memory is the truth */
    uint32_t n_damaged;     /* entries that were not whole at open; known once it is settled */
};

/* Make or read `name` for n_slots slots, of which the first n_there have room in the slab. direct: with O_DIRECT if the
 * file system takes it. 0 or -errno with e. A header that is damaged or of another shape is made anew, with all slots
 * free; that is logged. */
int nvme_index_open(struct nvme_index *x, const struct nvme_dir *d, const char *name, const struct nvme_shape *shape,
                    uint32_t n_slots, uint32_t n_there, struct err *e);
/* Wait for the end of the pass; before the first put, clear or copy. Returns the bytes a second that it had, 0 when it
 * was too short to tell. */
uint64_t nvme_index_settle(struct nvme_index *x);
void nvme_index_close(struct nvme_index *x);

/* An entry, or NULL where there is none. Waits for it while the pass is under way. */
const struct kv_entry *nvme_index_get(const struct nvme_index *x, uint32_t slot);
/* Put a closed entry / make it none. The sector is not written by that. */
void nvme_index_put(struct nvme_index *x, uint32_t slot, const struct kv_entry *e);
void nvme_index_clear(struct nvme_index *x, uint32_t slot);

static inline uint32_t nvme_index_sector(uint32_t slot)
{
    return slot / ENTRY_PER_SECTOR;
}

/* Copy a sector to out[ENTRY_SECTOR]; returns its offset in the file. */
uint64_t nvme_index_copy(const struct nvme_index *x, uint32_t sector, void *out);
/* Bytes of the file for so many slots. */
uint64_t nvme_index_bytes(uint32_t n_slots);

/* Read the header of a file that is there: 0 and *shape, *n_slots; -EBADMSG; other -errno. For kv-check. */
int nvme_index_peek(int fd, struct nvme_shape *shape, uint32_t *n_slots);

#endif
