/* nvme_slab - see nvme_slab.h. */
#include "engine/kv/nvme_slab.h"

#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "engine/kv/entry.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES (256ull << 20) /* at most; and a 16th of all */
#define GROW_PAUSE  10000000000u   /* ns before a failed growth is tried again */

static int open_direct(struct nvme_slab *s, const char *path)
{
    s->direct = true;
    s->fd = sys.open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_DIRECT, 0600);
    if (s->fd < 0 && errno == EINVAL) { /* a file system without O_DIRECT */
        s->direct = false;
        s->fd = sys.open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
        if (s->fd >= 0)
            log_warn("tier slab", "file=%s direct=0 next=\"I/O goes through the page cache\"", path);
    }
    return s->fd < 0 ? -errno : 0;
}

/* A file system that can't say "it would wait" waits for nothing when it reads: its files are memory. */
static bool never_waits(int fd)
{
    static uint8_t bytes[ENTRY_SECTOR] __attribute__((aligned(ENTRY_SECTOR)));
    struct iovec v = {bytes, sizeof bytes};
    return sys.preadv2(fd, &v, 1, 0, RWF_NOWAIT) < 0 && errno == EOPNOTSUPP;
}

int nvme_slab_open(struct nvme_slab *s, const struct nvme_dir *d, const char *name, uint64_t slot_bytes,
                   uint32_t max_slots, struct err *e)
{
    char path[NVME_DIR_PATH + 256];
    struct stat st;
    *s = (struct nvme_slab){.fd = -1, .slot_bytes = slot_bytes, .max_slots = max_slots};
    nvme_dir_file(d, name, path);
    s->free = malloc((max_slots + 1) * sizeof *s->free);
    s->bad = calloc(max_slots + 1, 1);
    int ret = s->free && s->bad ? open_direct(s, path) : -ENOMEM;
    if (ret == 0 && (sys.fstat(s->fd, &st) != 0 || sys.fchmod(s->fd, 0600) != 0))
        ret = -errno;
    if (ret == 0) {
        s->copied = !s->direct || never_waits(s->fd);
        uint64_t n = (uint64_t)st.st_size / slot_bytes;
        s->n_slots = n < max_slots ? (uint32_t)n : max_slots;
        if ((uint64_t)st.st_size > (uint64_t)max_slots * slot_bytes &&
            sys.ftruncate(s->fd, (off_t)(max_slots * slot_bytes)) != 0)
            ret = -errno;
    }
    if (ret) {
        nvme_slab_close(s);
        return err_set(e, -ret, "%s: %s", path, strerror(-ret));
    }
    return 0;
}

void nvme_slab_close(struct nvme_slab *s)
{
    if (s->fd >= 0)
        sys.close(s->fd);
    free(s->free);
    free(s->bad);
    *s = (struct nvme_slab){.fd = -1};
}

/* One more piece of file. */
static int grow(struct nvme_slab *s)
{
    uint64_t piece = s->max_slots * s->slot_bytes / 16;
    uint64_t n = (piece < PIECE_BYTES ? piece : PIECE_BYTES) / s->slot_bytes, at = (uint64_t)s->n_slots * s->slot_bytes;
    uint32_t left = s->max_slots - s->n_slots;
    if (n == 0)
        n = 1;
    if (n > left)
        n = left;
    if (n == 0)
        return -ENOSPC;
    if (!nvme_dir_has_room(s->fd, n * s->slot_bytes))
        return -ENOSPC;
    if (sys.fallocate(s->fd, 0, (off_t)at, (off_t)(n * s->slot_bytes)) != 0) {
        if (errno != EOPNOTSUPP && errno != ENOSYS)
            return -errno;
        if (sys.ftruncate(s->fd, (off_t)(at + n * s->slot_bytes)) != 0)
            return -errno;
    }
    for (uint64_t i = n; i-- > 0;) /* the lowest on top */
        s->free[s->n_free++] = (int32_t)(s->n_slots + i);
    s->n_slots += (uint32_t)n;
    return 0;
}

int32_t nvme_slab_take(struct nvme_slab *s)
{
    if (s->n_free == 0 && s->n_slots < s->max_slots && sys.now_ns() >= s->grow_after_ns) {
        int ret = grow(s);
        if (ret) {
            s->grow_after_ns = sys.now_ns() + GROW_PAUSE;
            log_warn("tier slab", "slots=%u of=%u error=\"%s\" next=\"it grows no further for now\"", s->n_slots,
                     s->max_slots, strerror(-ret));
        }
    }
    return s->n_free ? s->free[--s->n_free] : -1;
}

void nvme_slab_give(struct nvme_slab *s, int32_t slot)
{
    assert(slot >= 0 && (uint32_t)slot < s->n_slots && s->n_free < s->n_slots);
    if (!s->bad[slot])
        s->free[s->n_free++] = slot;
}
