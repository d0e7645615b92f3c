/* nvme_index - see nvme_index.h. */
#include "engine/kv/nvme_index.h"

#include "engine/base/crc.h"
#include "engine/base/log.h"
#include "engine/base/sys.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define READ_AT_ONCE (4u << 20)

struct header {
    char magic[8];
    uint32_t version, n_slots;
    struct nvme_shape shape;
    uint8_t reserved[ENTRY_SECTOR - 8 - 8 - sizeof(struct nvme_shape) - 4];
    uint32_t crc; /* of all before it */
};

_Static_assert(sizeof(struct nvme_shape) == 40 && sizeof(struct header) == ENTRY_SECTOR, "on disk");

static const char magic[8] = "HearthKV";
#define VERSION 1

void nvme_shape_digest(const struct nvme_shape *s, char out[17])
{
    struct hash_key k;
    char hex[2 * HASH_BYTES + 1];
    hash_sha256(s, sizeof *s, &k);
    hash_hex(&k, hex);
    memcpy(out, hex, 16);
    out[16] = 0;
}

uint64_t nvme_index_bytes(uint32_t n_slots)
{
    return ENTRY_SECTOR * (1 + ((uint64_t)n_slots + ENTRY_PER_SECTOR - 1) / ENTRY_PER_SECTOR);
}

static bool header_valid(const struct header *h)
{
    return memcmp(h->magic, magic, sizeof magic) == 0 && h->version == VERSION &&
           h->crc == crc32c(h, offsetof(struct header, crc));
}

/* -- reading: header and entries lie one after the other in memory as in the file */

static struct header *header_of(const struct nvme_index *x)
{
    return (struct header *)(void *)((uint8_t *)x->entries - ENTRY_SECTOR);
}

/* What can't be read stays zero: free slots. */
static void read_all(struct nvme_index *x, const char *path)
{
    uint8_t *at = (uint8_t *)header_of(x);
    for (uint64_t off = 0; off < x->bytes;) {
        size_t n = x->bytes - off < READ_AT_ONCE ? x->bytes - off : READ_AT_ONCE;
        ssize_t got = sys.pread(x->fd, at + off, n, (off_t)off);
        if (got < 0 && errno == EINTR)
            continue;
        if (got == 0)
            return;
        if (got < 0) {
            log_warn("tier index", "file=%s offset=%llu error=\"%s\" next=\"its blocks are forgotten\"", path,
                     (unsigned long long)off, strerror(errno));
            got = (ssize_t)n;
        }
        off += (uint64_t)got;
    }
}

static bool all_zero(const struct kv_entry *e)
{
    const uint8_t *p = (const uint8_t *)e;
    return p[0] == 0 && memcmp(p, p + 1, sizeof *e - 1) == 0;
}

static void keep_valid(struct nvme_index *x, const struct nvme_shape *shape, uint32_t n_there)
{
    for (uint32_t i = 0; i < x->n_slots; i++) {
        struct kv_entry *e = &x->entries[i];
        if (entry_valid(e, shape->block_tokens, shape->format) && i < n_there)
            continue;
        if (!all_zero(e))
            x->n_damaged++;
        memset(e, 0, sizeof *e);
    }
}

static void make_header(struct header *h, const struct nvme_shape *shape, uint32_t n_slots)
{
    memset(h, 0, sizeof *h);
    memcpy(h->magic, magic, sizeof magic);
    h->version = VERSION;
    h->n_slots = n_slots;
    h->shape = *shape;
    h->crc = crc32c(h, offsetof(struct header, crc));
}

/* -- open */

static int open_direct(const char *path, int *fd)
{
    *fd = sys.open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_DIRECT, 0600);
    if (*fd < 0 && errno == EINVAL) /* a file system without O_DIRECT */
        *fd = sys.open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
    return *fd < 0 ? -errno : 0;
}

static int reserve(int fd, uint64_t bytes)
{
    if (sys.fallocate(fd, 0, 0, (off_t)bytes) == 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return -errno;
    return sys.ftruncate(fd, (off_t)bytes) == 0 ? 0 : -errno;
}

int nvme_index_open(struct nvme_index *x, const struct nvme_dir *d, const char *name, const struct nvme_shape *shape,
                    uint32_t n_slots, uint32_t n_there, struct err *e)
{
    char path[NVME_DIR_PATH + 256];
    nvme_dir_file(d, name, path);
    *x = (struct nvme_index){.fd = -1, .n_slots = n_slots, .bytes = nvme_index_bytes(n_slots)};
    int ret = open_direct(path, &x->fd);
    if (ret)
        return err_set(e, -ret, "%s: %s", path, strerror(-ret));
    void *p = sys.mmap(NULL, x->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        ret = err_set(e, ENOMEM, "%s: no memory for %llu bytes of index", path, (unsigned long long)x->bytes);
        goto fail;
    }
    x->entries = (struct kv_entry *)(void *)((uint8_t *)p + ENTRY_SECTOR);
    read_all(x, path);
    struct header *h = header_of(x);
    if (!header_valid(h) || memcmp(&h->shape, shape, sizeof *shape) != 0) {
        if (h->version || h->crc)
            log_warn("tier index", "file=%s error=\"damaged header\" next=\"its blocks are forgotten\"", path);
        memset(p, 0, x->bytes);
    }
    keep_valid(x, shape, n_there);
    make_header(h, shape, n_slots);
    struct stat st;
    if (sys.fstat(x->fd, &st) != 0 || sys.fchmod(x->fd, 0600) != 0 ||
        ((uint64_t)st.st_size > x->bytes && sys.ftruncate(x->fd, (off_t)x->bytes) != 0)) {
        ret = err_set(e, errno, "%s: %s", path, strerror(errno));
        goto fail;
    }
    if ((ret = reserve(x->fd, x->bytes)) != 0) {
        ret = err_set(e, -ret, "%s: %llu bytes: %s", path, (unsigned long long)x->bytes, strerror(-ret));
        goto fail;
    }
    if (sys.pwrite(x->fd, h, ENTRY_SECTOR, 0) != ENTRY_SECTOR) {
        ret = err_set(e, EIO, "%s: its header can't be written", path);
        goto fail;
    }
    return 0;
fail:
    nvme_index_close(x);
    return ret;
}

void nvme_index_close(struct nvme_index *x)
{
    if (x->entries)
        sys.munmap(header_of(x), x->bytes);
    if (x->fd >= 0)
        sys.close(x->fd);
    *x = (struct nvme_index){.fd = -1};
}

/* -- entries */

const struct kv_entry *nvme_index_get(const struct nvme_index *x, uint32_t slot)
{
    assert(slot < x->n_slots);
    return x->entries[slot].magic ? &x->entries[slot] : NULL;
}

void nvme_index_put(struct nvme_index *x, uint32_t slot, const struct kv_entry *e)
{
    assert(slot < x->n_slots);
    x->entries[slot] = *e;
    entry_close(&x->entries[slot]);
}

void nvme_index_clear(struct nvme_index *x, uint32_t slot)
{
    assert(slot < x->n_slots);
    memset(&x->entries[slot], 0, sizeof *x->entries);
}

uint64_t nvme_index_copy(const struct nvme_index *x, uint32_t sector, void *out)
{
    memcpy(out, (const uint8_t *)x->entries + (uint64_t)sector * ENTRY_SECTOR, ENTRY_SECTOR);
    return ENTRY_SECTOR * ((uint64_t)sector + 1);
}

int nvme_index_peek(int fd, struct nvme_shape *shape, uint32_t *n_slots)
{
    struct header h;
    ssize_t n = sys.pread(fd, &h, sizeof h, 0);
    if (n < 0)
        return -errno;
    if (n != sizeof h || !header_valid(&h))
        return -EBADMSG;
    *shape = h.shape;
    *n_slots = h.n_slots;
    return 0;
}
