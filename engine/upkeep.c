/* upkeep - look through, or empty, a folder where KV blocks sleep, while no daemon has it. See engine.h. */
#include "engine/base/log.h"
#include "engine/base/str.h"
#include "engine/base/sys.h"
#include "engine/engine.h"
#include "engine/kv/nvme_index.h"
#include "engine/kv/tier.h"
#include "engine/tiering.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define ZEROS   (1u << 20)
#define AT_ONCE 2048 /* entries */

struct look {
    const struct nvme_dir *dir;
    struct str *report;
    struct seal_key key;
    bool has_secret, damage;
};

/* -- kv-check */

static void check_payload(struct look *l, const struct kv_entry *e, const struct nvme_shape *s, int fd, uint32_t slot,
                          void *buf, uint64_t n[2])
{
    struct seal seal;
    if (sys.pread(fd, buf, s->block_bytes, (off_t)(slot * s->slot_bytes)) != (ssize_t)s->block_bytes) {
        n[1]++;
        return;
    }
    seal_make(&l->key, buf, s->block_bytes, &seal);
    n[!seal_equal(&seal, &e->seal)]++;
}

/* Of one index: entries that are whole, and not; payloads that verify, and don't. */
struct counts {
    uint64_t held, damaged, payloads[2];
};

static void check_entry(struct look *l, const struct kv_entry *e, const struct nvme_shape *s, int slab, uint32_t slot,
                        void *buf, struct counts *n)
{
    static const struct kv_entry none;
    if (memcmp(e, &none, sizeof *e) == 0)
        return;
    if (!entry_valid(e, s->block_tokens, s->format)) {
        n->damaged++;
        return;
    }
    n->held++;
    if (slab >= 0 && l->has_secret)
        check_payload(l, e, s, slab, slot, buf, n->payloads);
}

/* All entries of one index against their payloads, AT_ONCE of them read together into e. */
static void check_entries(struct look *l, const char *name, int index, int slab, const struct nvme_shape *s,
                          uint32_t n_slots, void *buf, struct kv_entry *e)
{
    struct counts n = {0};
    for (uint64_t i = 0; i < n_slots; i += AT_ONCE) {
        ssize_t got = sys.pread(index, e, AT_ONCE * sizeof *e, (off_t)(ENTRY_SECTOR + i * sizeof *e));
        uint64_t there = got > 0 ? (uint64_t)got / sizeof *e : 0;
        for (uint64_t k = 0; k < there && i + k < n_slots; k++)
            check_entry(l, &e[k], s, slab, (uint32_t)(i + k), buf, &n);
        if (there < AT_ONCE)
            break;
    }
    str_addf(l->report, "%s: blocks of %u tokens, %llu bytes: %llu held of %u; entries damaged: %llu; ", name,
             s->block_tokens, (unsigned long long)s->block_bytes, (unsigned long long)n.held, n_slots,
             (unsigned long long)n.damaged);
    if (slab < 0 || !l->has_secret)
        str_addf(l->report, "payloads not checked: %s\n", slab < 0 ? "no slab" : "no secret");
    else
        str_addf(l->report, "payloads that do not verify: %llu\n", (unsigned long long)n.payloads[1]);
    l->damage |= n.damaged > 0 || n.payloads[1] > 0 || (n.held > 0 && (slab < 0 || !l->has_secret));
}

static int check_index(void *ctx, const char *name)
{
    struct look *l = ctx;
    struct nvme_shape shape;
    uint32_t n_slots;
    char path[NVME_DIR_PATH + 256];
    size_t n = strlen(name);
    if (strcmp(name + n - 5, "index") != 0)
        return 0;
    nvme_dir_file(l->dir, name, path);
    int index = sys.open(path, O_RDONLY | O_NOFOLLOW, 0), slab = -1;
    int ret = index < 0 ? -errno : nvme_index_peek(index, &shape, &n_slots);
    void *buf = ret ? NULL : malloc(shape.block_bytes);
    struct kv_entry *e = ret ? NULL : malloc(AT_ONCE * sizeof *e);
    if (ret || !buf || !e) {
        str_addf(l->report, "%s: %s\n", name,
                 ret == -EBADMSG ? "its header is damaged" : strerror(ret ? -ret : ENOMEM));
        l->damage = true;
    } else {
        strcpy(path + strlen(path) - 5, "slab");
        slab = sys.open(path, O_RDONLY | O_NOFOLLOW, 0);
        check_entries(l, name, index, slab, &shape, n_slots, buf, e);
    }
    free(buf);
    free(e);
    if (slab >= 0)
        sys.close(slab);
    if (index >= 0)
        sys.close(index);
    return 0;
}

int engine_kv_check(const char *dir, struct str *report, struct err *e)
{
    struct nvme_dir d;
    struct look l = {.dir = &d, .report = report};
    uint8_t secret[32];
    int ret = hash_init_library();
    if (ret)
        return err_set(e, -ret, "libcrypto has no SHA-256");
    if ((ret = nvme_dir_open(&d, dir, e)))
        return ret;
    l.has_secret = nvme_dir_secret(&d, secret) == 0;
    if (l.has_secret)
        seal_key_make(&l.key, secret);
    ret = nvme_dir_visit(&d, check_index, &l);
    nvme_dir_close(&d);
    if (ret)
        return err_set(e, -ret, "%s: %s", dir, strerror(-ret));
    return l.damage;
}

/* -- speed */

#define SPEED_BYTES (64u << 20)
#define SPEED_PIECE (4u << 20)

/* Bytes a second of one pass over the file, or -errno. */
static int64_t pass_over(int fd, uint8_t *buf, bool write)
{
    uint64_t from = sys.now_ns();
    for (size_t at = 0; at < SPEED_BYTES;) {
        ssize_t n = write ? sys.pwrite(fd, buf, SPEED_PIECE, (off_t)at) : sys.pread(fd, buf, SPEED_PIECE, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        at += (size_t)n;
    }
    if (write && sys.fsync(fd) != 0)
        return -errno;
    uint64_t ns = sys.now_ns() - from;
    return (int64_t)((double)SPEED_BYTES * 1e9 / (double)(ns ? ns : 1));
}

int engine_kv_speed(const char *dir, uint64_t *write_bps, uint64_t *read_bps, struct err *e)
{
    int fd = sys.open(dir, O_TMPFILE | O_RDWR | O_DIRECT, 0600);
    if (fd < 0 && errno == EINVAL)
        fd = sys.open(dir, O_TMPFILE | O_RDWR, 0600);
    if (fd < 0)
        return err_set(e, errno, "%s: %s", dir, strerror(errno));
    uint8_t *buf = aligned_alloc(ENTRY_SECTOR, SPEED_PIECE);
    int64_t write = -ENOMEM, read = -ENOMEM;
    if (buf) {
        for (size_t i = 0; i < SPEED_PIECE; i++)
            buf[i] = (uint8_t)(i * 131 >> 3); /* what compresses to nothing would flatter */
        write = pass_over(fd, buf, true);
        read = write < 0 ? write : pass_over(fd, buf, false);
    }
    free(buf);
    sys.close(fd);
    if (read < 0)
        return err_set(e, (int)-read, "%s: %s", dir, strerror((int)-read));
    *write_bps = (uint64_t)write;
    *read_bps = (uint64_t)read;
    return 0;
}

uint64_t engine_kv_slot_bytes(const struct engine_plan *p)
{
    return tier_slot_bytes(p->kv_bytes_per_token * p->block_tokens);
}

uint64_t engine_kv_host_bytes(const struct engine_config *c, const struct engine_plan *p)
{
    uint64_t dram = tiering_dram_bytes(c, p->kv_bytes_per_token * p->block_tokens);
    bool drives = dram && c->nvme_dirs[0];
    return dram + (drives ? c->nvme_bytes / (engine_kv_slot_bytes(p) + ENTRY_BYTES) * ENTRY_BYTES : 0);
}

/* -- kv-purge */

/* Zeros over all of it, on the disk, before its name goes: what was there is not to be found in free space. */
static int wipe(const char *path)
{
    struct stat st;
    static const uint8_t zeros[ZEROS];
    int fd = sys.open(path, O_WRONLY | O_NOFOLLOW, 0);
    if (fd < 0)
        return -errno;
    int ret = sys.fstat(fd, &st) == 0 ? 0 : -errno;
    for (off_t at = 0; !ret && at < st.st_size;) {
        size_t n = st.st_size - at < ZEROS ? (size_t)(st.st_size - at) : ZEROS;
        ssize_t done = sys.pwrite(fd, zeros, n, at);
        if (done <= 0 && errno != EINTR)
            ret = done == 0 ? -EIO : -errno;
        at += done > 0 ? done : 0;
    }
    if (!ret && sys.fsync(fd) != 0)
        ret = -errno;
    sys.close(fd);
    return ret ? ret : sys.unlink(path) == 0 ? 0 : -errno;
}

static int purge_file(void *ctx, const char *name)
{
    struct look *l = ctx;
    char path[NVME_DIR_PATH + 256];
    nvme_dir_file(l->dir, name, path);
    int ret = wipe(path);
    str_addf(l->report, "%s: %s\n", name, ret ? strerror(-ret) : "gone");
    return ret;
}

int engine_kv_purge(const char *dir, struct str *report, struct err *e)
{
    struct nvme_dir d;
    struct look l = {.dir = &d, .report = report};
    /* the names of sessions are the front's (server/sessions_file.h) */
    static const char *const others[] = {"hearth.secret", "hearth.sessions", "hearth.sessions.new"};
    char path[NVME_DIR_PATH + 256];
    int ret = nvme_dir_open(&d, dir, e);
    if (ret)
        return ret;
    ret = nvme_dir_visit(&d, purge_file, &l);
    for (size_t i = 0; !ret && i < sizeof others / sizeof *others; i++) {
        nvme_dir_file(&d, others[i], path);
        if ((ret = wipe(path)) == -ENOENT)
            ret = 0;
    }
    nvme_dir_close(&d);
    return ret ? err_set(e, -ret, "%s: %s", dir, strerror(-ret)) : 0;
}
