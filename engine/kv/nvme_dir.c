/* nvme_dir - see nvme_dir.h. */
#include "engine/kv/nvme_dir.h"

#include "engine/base/crc.h"
#include "engine/base/log.h"
#include "engine/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define LOCK_NAME   "hearth.lock"
#define SECRET_NAME "hearth.secret"
#define RESERVE_MAX (8ull << 30)

struct secret_file {
    char magic[8];
    uint8_t secret[32];
    uint32_t crc, reserved; /* of magic and secret */
};

_Static_assert(sizeof(struct secret_file) == 48, "on disk");

static const char secret_magic[8] = "HearthS1";

void nvme_dir_file(const struct nvme_dir *d, const char *name, char out[NVME_DIR_PATH + 256])
{
    snprintf(out, NVME_DIR_PATH + 256, "%s/%s", d->path, name);
}

static int open_file(const struct nvme_dir *d, const char *name, int flags)
{
    char path[NVME_DIR_PATH + 256];
    nvme_dir_file(d, name, path);
    return sys.open(path, flags | O_NOFOLLOW, 0600);
}

/* Who has it, as far as the file tells. */
static long holder(int fd)
{
    char text[32] = "";
    ssize_t n = sys.pread(fd, text, sizeof text - 1, 0);
    return n > 0 ? strtol(text, NULL, 10) : 0;
}

int nvme_dir_open(struct nvme_dir *d, const char *path, struct err *e)
{
    d->lock = -1;
    if (strlen(path) >= sizeof d->path)
        return err_set(e, ENAMETOOLONG, "kv.nvme.dirs: %.100s...: the path is too long", path);
    strcpy(d->path, path);
    struct stat st;
    if (sys.stat(path, &st) != 0)
        return err_set(e, errno, "kv.nvme.dirs: %s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return err_set(e, ENOTDIR, "kv.nvme.dirs: %s: is no folder", path);
    int fd = open_file(d, LOCK_NAME, O_RDWR | O_CREAT), ret;
    if (fd < 0)
        return err_set(e, errno, "kv.nvme.dirs: %s/" LOCK_NAME ": %s", path, strerror(errno));
    if (sys.flock(fd, LOCK_EX | LOCK_NB) != 0) {
        ret = errno == EWOULDBLOCK
                  ? err_set(e, EBUSY, "kv.nvme.dirs: %s: in use by process %ld; each daemon needs folders of its own",
                            path, holder(fd))
                  : err_set(e, errno, "kv.nvme.dirs: %s/" LOCK_NAME ": %s", path, strerror(errno));
        sys.close(fd);
        return ret;
    }
    char text[32];
    int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (sys.ftruncate(fd, 0) != 0 || sys.pwrite(fd, text, (size_t)n, 0) != n) {
        ret = err_set(e, errno ? errno : EIO, "kv.nvme.dirs: %s/" LOCK_NAME ": can't be written", path);
        sys.close(fd);
        return ret;
    }
    d->lock = fd;
    return 0;
}

void nvme_dir_close(struct nvme_dir *d)
{
    if (d->lock >= 0)
        sys.close(d->lock);
    d->lock = -1;
}

/* -- secret */

int nvme_dir_secret(const struct nvme_dir *d, uint8_t secret[32])
{
    struct secret_file f;
    int fd = open_file(d, SECRET_NAME, O_RDONLY);
    if (fd < 0)
        return -ENOENT;
    ssize_t n = sys.pread(fd, &f, sizeof f, 0);
    sys.close(fd);
    if (n != sizeof f || memcmp(f.magic, secret_magic, sizeof f.magic) != 0 || f.crc != crc32c(&f, 40))
        return -ENOENT;
    memcpy(secret, f.secret, sizeof f.secret);
    return 0;
}

int nvme_dir_keep_secret(const struct nvme_dir *d, const uint8_t secret[32], struct err *e)
{
    struct secret_file f = {.reserved = 0};
    memcpy(f.magic, secret_magic, sizeof f.magic);
    memcpy(f.secret, secret, sizeof f.secret);
    f.crc = crc32c(&f, 40);
    int fd = open_file(d, SECRET_NAME, O_WRONLY | O_CREAT | O_TRUNC);
    bool ok = fd >= 0 && sys.fchmod(fd, 0600) == 0 && sys.pwrite(fd, &f, sizeof f, 0) == sizeof f && sys.fsync(fd) == 0;
    int error = ok ? 0 : errno ? errno : EIO;
    if (fd >= 0)
        sys.close(fd);
    return ok ? 0 : err_set(e, error, "kv.nvme.dirs: %s/" SECRET_NAME ": %s", d->path, strerror(error));
}

/* -- what is in it */

static bool is_ours(const char *name)
{
    size_t n = strlen(name);
    return strncmp(name, "kv", 2) == 0 &&
           ((n > 5 && strcmp(name + n - 5, ".slab") == 0) || (n > 6 && strcmp(name + n - 6, ".index") == 0));
}

int nvme_dir_visit(const struct nvme_dir *d, int (*visit)(void *ctx, const char *name), void *ctx)
{
    DIR *dir = sys.opendir(d->path);
    if (!dir)
        return -errno;
    int ret = 0;
    for (struct dirent *f; !ret && (f = sys.readdir(dir));)
        if (is_ours(f->d_name))
            ret = visit(ctx, f->d_name);
    sys.closedir(dir);
    return ret;
}

struct sum {
    const struct nvme_dir *dir;
    const char *but;
    uint64_t bytes;
};

static int add_size(void *ctx, const char *name)
{
    struct sum *s = ctx;
    struct stat st;
    char path[NVME_DIR_PATH + 256];
    if (s->but && strncmp(name, s->but, strlen(s->but)) == 0)
        return 0;
    nvme_dir_file(s->dir, name, path);
    if (sys.stat(path, &st) != 0)
        return errno == ENOENT ? 0 : -errno;
    s->bytes += (uint64_t)st.st_size;
    return 0;
}

int nvme_dir_bytes(const struct nvme_dir *d, const char *but, uint64_t *bytes)
{
    struct sum s = {d, but, 0};
    int ret = nvme_dir_visit(d, add_size, &s);
    *bytes = s.bytes;
    return ret;
}

struct largest {
    const struct nvme_dir *dir;
    const char *but;
    char name[256];
    uint64_t bytes;
};

static int find_largest(void *ctx, const char *name)
{
    struct largest *l = ctx;
    struct stat st;
    char path[NVME_DIR_PATH + 256];
    size_t n = strlen(name);
    if (strncmp(name, "kv1-", 4) != 0 || strcmp(name + n - 5, ".slab") != 0 ||
        strncmp(name, l->but, strlen(l->but)) == 0)
        return 0;
    nvme_dir_file(l->dir, name, path);
    if (sys.stat(path, &st) == 0 && (uint64_t)st.st_size > l->bytes && n < sizeof l->name) {
        l->bytes = (uint64_t)st.st_size;
        strcpy(l->name, name);
    }
    return 0;
}

int nvme_dir_cut(const struct nvme_dir *d, const char *but, uint64_t bytes)
{
    while (bytes > 0) {
        struct largest l = {.dir = d, .but = but};
        int ret = nvme_dir_visit(d, find_largest, &l);
        if (ret || l.bytes == 0)
            return ret;
        uint64_t cut = l.bytes < bytes ? l.bytes : bytes;
        int fd = open_file(d, l.name, O_WRONLY);
        ret = fd >= 0 && sys.ftruncate(fd, (off_t)(l.bytes - cut)) == 0 ? 0 : -errno;
        if (fd >= 0)
            sys.close(fd);
        if (ret)
            return ret;
        log_warn("tier cut", "file=%s bytes=%llu left=%llu reason=\"another layout needs room\"", l.name,
                 (unsigned long long)cut, (unsigned long long)(l.bytes - cut));
        bytes -= cut;
    }
    return 0;
}

bool nvme_dir_has_room(int fd, uint64_t bytes)
{
    struct statvfs st;
    if (sys.fstatvfs(fd, &st) != 0)
        return false;
    uint64_t block = st.f_frsize, total = st.f_blocks * block, free_bytes = st.f_bavail * block;
    uint64_t reserve = total / 20 < RESERVE_MAX ? total / 20 : RESERVE_MAX;
    return free_bytes >= reserve && free_bytes - reserve >= bytes;
}
