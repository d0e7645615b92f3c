/* foreign - see foreign.h. */
#include "engine/kv/foreign.h"

#include "engine/base/log.h"
#include "engine/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS (2 * FOREIGN_BLOCKS)
#define AT_ONCE 128 /* entries read */

struct foreign {
    const struct nvme_dir *dir; /* while it is read */
    struct nvme_shape shape;
    uint32_t n;
    uint64_t tags[BUCKETS]; /* 0 = free */
};

/* ids: three bytes each, as entries have them. */
static uint64_t tag_of(const uint8_t root[16], uint32_t depth, const uint8_t ids[][3], uint32_t n)
{
    uint64_t key[2];
    memcpy(key, root, sizeof key);
    key[0] ^= depth;
    return hash_sip(ids, (size_t)n * 3, key) | 1;
}

static uint64_t *place_of(const struct foreign *f, uint64_t tag)
{
    uint32_t i = (uint32_t)(tag >> 8) % BUCKETS;
    while (f->tags[i] && f->tags[i] != tag)
        i = (i + 1) % BUCKETS;
    return (uint64_t *)&f->tags[i];
}

static void take_entry(struct foreign *f, const struct kv_entry *e, uint32_t format)
{
    if (f->n == FOREIGN_BLOCKS || !entry_valid(e, f->shape.block_tokens, format))
        return;
    uint64_t tag = tag_of(e->root, e->depth, e->ids, e->block_tokens), *at = place_of(f, tag);
    f->n += !*at;
    *at = tag;
}

/* The index has a header of a sector, and then entries. */
static void read_index(struct foreign *f, int fd)
{
    struct nvme_shape shape;
    uint32_t n_slots;
    struct kv_entry entries[AT_ONCE];
    ssize_t n;
    if (nvme_index_peek(fd, &shape, &n_slots) != 0 || shape.format == f->shape.format ||
        shape.block_tokens != f->shape.block_tokens)
        return;
    for (off_t at = ENTRY_SECTOR; f->n < FOREIGN_BLOCKS; at += n) {
        n = sys.pread(fd, entries, sizeof entries, at);
        if (n < (ssize_t)sizeof *entries)
            return;
        n -= n % (ssize_t)sizeof *entries;
        for (ssize_t i = 0; i < n / (ssize_t)sizeof *entries; i++)
            take_entry(f, &entries[i], shape.format);
    }
}

static int visit(void *ctx, const char *name)
{
    struct foreign *f = ctx;
    char path[NVME_DIR_PATH + 256];
    size_t len = strlen(name);
    if (len < 6 || strcmp(name + len - 6, ".index") != 0)
        return 0;
    nvme_dir_file(f->dir, name, path);
    int fd = sys.open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    read_index(f, fd);
    sys.close(fd);
    return 0;
}

int foreign_open(struct foreign **out, const char *dirs, const struct nvme_shape *shape)
{
    struct foreign *f = calloc(1, sizeof *f);
    if (!f)
        return -ENOMEM;
    f->shape = *shape;
    for (const char *at = dirs; *at;) {
        struct nvme_dir d = {.lock = -1};
        size_t len = strcspn(at, ",");
        if (len < sizeof d.path) {
            memcpy(d.path, at, len);
            f->dir = &d;
            nvme_dir_visit(&d, visit, f);
        }
        at += len + (at[len] == ',');
    }
    f->dir = NULL;
    *out = f->n ? f : NULL;
    if (f->n)
        log_info("tier foreign", "blocks=%u next=\"they are of another kv.format and can't be used\"", f->n);
    else
        free(f);
    return 0;
}

void foreign_close(struct foreign *f)
{
    free(f);
}

bool foreign_has(const struct foreign *f, const struct hash_key *root, uint32_t depth, const int32_t *ids)
{
    uint8_t three[ENTRY_MAX_IDS][3];
    if (!f)
        return false;
    for (uint32_t i = 0; i < f->shape.block_tokens; i++)
        for (int b = 0; b < 3; b++)
            three[i][b] = (uint8_t)((uint32_t)ids[i] >> (8 * b));
    uint64_t tag = tag_of(root->b, depth, (const uint8_t(*)[3])three, f->shape.block_tokens);
    return *place_of(f, tag) == tag;
}
