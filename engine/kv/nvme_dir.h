/* nvme_dir - one directory of the NVMe tier: one daemon at a time, the installation's secret, and how many bytes there
 * are and may be.
 *
 *     hearth.lock            held while a daemon has the directory open; its process id stands in it
 *     hearth.secret          48 bytes: magic, secret, CRC-32C. What is under a lost secret is never found again
 *     kv1-DIGEST.index       entries of one layout (nvme_index.h); other versions have other names and are left alone
 *     kv1-DIGEST.slab        their payloads (nvme_slab.h)
 *
 * All files are made with mode 0600. Engine thread; may wait for the disk (open only).
 */
#ifndef HEARTH_KV_NVME_DIR_H
#define HEARTH_KV_NVME_DIR_H

#include "engine/base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define NVME_DIR_PATH 3000

struct nvme_dir {
    char path[NVME_DIR_PATH];
    int lock; /* descriptor, -1 = not held */
};

/* Lock it. 0; -EBUSY with e naming the process that has it; other -errno with e. */
int nvme_dir_open(struct nvme_dir *d, const char *path, struct err *e);
void nvme_dir_close(struct nvme_dir *d);

/* The secret of this directory. 0; -ENOENT: none is there, or it is damaged. */
int nvme_dir_secret(const struct nvme_dir *d, uint8_t secret[32]);
/* Make it the directory's. 0 or -errno with e. */
int nvme_dir_keep_secret(const struct nvme_dir *d, const uint8_t secret[32], struct err *e);

/* Path of NAME in it. */
void nvme_dir_file(const struct nvme_dir *d, const char *name, char out[NVME_DIR_PATH + 256]);
/* Bytes of the tier's files in it, but those whose name begins with `but` (NULL: all). 0 or -errno. */
int nvme_dir_bytes(const struct nvme_dir *d, const char *but, uint64_t *bytes);
/* Other layouts may not keep this one out: cut slabs of this version, but those whose name begins with `but`, at their
 * end until `bytes` are free or nothing is left to cut; the largest first. Each cut is logged. Entries of what is gone
 * are skipped when their layout is opened again. 0 or -errno. */
int nvme_dir_cut(const struct nvme_dir *d, const char *but, uint64_t bytes);
/* For each file of the tier (lock and secret not): visit(ctx, name) until it returns other than 0; that, or -errno. */
int nvme_dir_visit(const struct nvme_dir *d, int (*visit)(void *ctx, const char *name), void *ctx);
/* Would the file system keep its reserve (5 %, at most 8 GiB) free if so much more was taken? */
bool nvme_dir_has_room(int fd, uint64_t bytes);

#endif
