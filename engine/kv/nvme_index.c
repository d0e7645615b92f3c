/* nvme_index - see nvme_index.h. */
#include "engine/kv/nvme_index.h"

#include "engine/base/crc.h"
#include "engine/base/log.h"
#include "engine/base/sys.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE  (2u << 20)
#define MOST_BLOCK (1u << 30)
#define LEAST_RATE (32u << 20) /* bytes whose reading says how fast the drive is */

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

/* Whoever knows the format can make a header whose CRC is right: what it says is not believed before it makes sense. */
static bool shape_sane(const struct nvme_shape *s)
{
    return s->block_bytes > 0 && s->block_bytes % 8 == 0 && s->block_bytes <= MOST_BLOCK &&
           s->slot_bytes >= s->block_bytes && s->slot_bytes <= 2 * (uint64_t)MOST_BLOCK && s->block_tokens > 0 &&
           s->block_tokens <= ENTRY_MAX_IDS && s->format <= UINT8_MAX;
}

/* -- header and entries lie one after the other in memory as in the file */

static struct header *header_of(const struct nvme_index *x)
{
    return (struct header *)(void *)((uint8_t *)x->entries - ENTRY_SECTOR);
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

/* Is there a header of this shape? Anything else that is there is logged. */
static bool read_header(struct nvme_index *x, const struct nvme_shape *shape, const char *path)
{
    struct header *h = header_of(x);
    ssize_t n;
    do
        n = sys.pread(x->fd, h, ENTRY_SECTOR, 0);
    while (n < 0 && errno == EINTR);
    if (n == 0)
        return false;
    if (n == ENTRY_SECTOR && header_valid(h) && memcmp(&h->shape, shape, sizeof *shape) == 0)
        return true;
    if (n < 0 || h->version || h->crc)
        log_warn("tier index", "file=%s error=\"%s\" next=\"its blocks are forgotten\"", path,
                 n < 0 ? strerror(errno) : "damaged header");
    return false;
}

/* The file has its size, its mode and its header. */
static int make_file(struct nvme_index *x, const struct nvme_shape *shape, const char *path, struct err *e)
{
    struct stat st;
    struct header *h = header_of(x);
    if (sys.fstat(x->fd, &st) != 0 || sys.fchmod(x->fd, 0600) != 0 ||
        ((uint64_t)st.st_size > x->bytes && sys.ftruncate(x->fd, (off_t)x->bytes) != 0))
        return err_set(e, errno, "%s: %s", path, strerror(errno));
    int ret = reserve(x->fd, x->bytes);
    if (ret)
        return err_set(e, -ret, "%s: %llu bytes: %s", path, (unsigned long long)x->bytes, strerror(-ret));
    make_header(h, shape, x->n_slots);
    if (sys.pwrite(x->fd, h, ENTRY_SECTOR, 0) != ENTRY_SECTOR)
        return err_set(e, EIO, "%s: its header can't be written", path);
    return 0;
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
    x->there = calloc(n_slots, sizeof *x->there);
    if (!x->there) {
        ret = err_set(e, ENOMEM, "%s: out of memory", path);
        goto fail;
    }
    if (x->bytes >= HUGE_PAGE)
        sys.madvise(p, x->bytes, MADV_HUGEPAGE); /* advice: that it is refused changes nothing */
    bool old = read_header(x, shape, path);
    if ((ret = make_file(x, shape, path, e)) != 0)
        goto fail;
    struct nvme_scan_opts scan = {.fd = x->fd,
                                  .off = ENTRY_SECTOR,
                                  .entries = x->entries,
                                  .there = x->there,
                                  .n_slots = n_slots,
                                  .n_there = n_there,
                                  .block_tokens = shape->block_tokens,
                                  .format = shape->format,
                                  .path = path};
    if (old && (ret = nvme_scan_start(&x->scan, &scan)) != 0) {
        err_set(e, -ret, "%s: out of memory", path);
        goto fail;
    }
    return 0;
fail:
    nvme_index_close(x);
    return ret;
}

uint64_t nvme_index_settle(struct nvme_index *x)
{
    struct nvme_scan_result found = nvme_scan_end(x->scan);
    x->scan = NULL;
    x->n_damaged += found.n_damaged;
    return found.bytes >= LEAST_RATE && found.ns > 0 ? (uint64_t)((double)found.bytes * 1e9 / (double)found.ns) : 0;
}

void nvme_index_close(struct nvme_index *x)
{
    nvme_scan_end(x->scan);
    if (x->entries)
        sys.munmap(header_of(x), x->bytes);
    free(x->there);
    if (x->fd >= 0)
        sys.close(x->fd);
    *x = (struct nvme_index){.fd = -1};
}

/* -- entries */

const struct kv_entry *nvme_index_get(const struct nvme_index *x, uint32_t slot)
{
    assert(slot < x->n_slots);
    if (x->scan)
        nvme_scan_wait(x->scan, slot);
    return x->there[slot] ? &x->entries[slot] : NULL;
}

void nvme_index_put(struct nvme_index *x, uint32_t slot, const struct kv_entry *e)
{
    assert(slot < x->n_slots && !x->scan);
    x->entries[slot] = *e;
    entry_close(&x->entries[slot]);
    x->there[slot] = true;
}

void nvme_index_clear(struct nvme_index *x, uint32_t slot)
{
    assert(slot < x->n_slots && !x->scan);
    memset(&x->entries[slot], 0, sizeof *x->entries);
    x->there[slot] = false;
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
    if (n != sizeof h || !header_valid(&h) || !shape_sane(&h.shape))
        return -EBADMSG;
    *shape = h.shape;
    *n_slots = h.n_slots;
    return 0;
}
