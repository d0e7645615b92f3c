/* tune - see tune.cuh.
 *
 * File, little-endian: struct tune_head, then n entries. The checksum is FNV-1a over the entries. It is written beside
 * and renamed, so a reader sees all of it or the one before.
 */
#include "cuda/tune.cuh"

extern "C" {
#include "engine/base/hash.h"
#include "engine/base/log.h"
#include "engine/base/sys.h"
}

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC   "HrthGemm"
#define VERSION 1

struct tune_head {
    char magic[8];
    uint32_t version, n;
    uint64_t library; /* cublasLtGetVersion */
    char gpu[64];
    uint64_t checksum;
};
static_assert(sizeof(struct tune_head) == 96 && sizeof(struct tune_entry) == 80, "as in the file");

struct tune {
    char path[PATH_MAX]; /* empty: nothing is kept */
    char gpu[64];
    bool changed;
    uint32_t n;
    struct tune_entry entry[TUNE_MAX];
};

static bool make_folder(const char *path)
{
    return sys.mkdir(path, 0755) == 0 || errno == EEXIST;
}

/* The folder, made when it is missing. False: there is none. */
static bool find_folder(char path[PATH_MAX])
{
    const char *service = getenv("CACHE_DIRECTORY"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n;
    if (service && *service)
        n = snprintf(path, PATH_MAX, "%s", service);
    else if (cache && *cache)
        n = snprintf(path, PATH_MAX, "%s/hearth", cache);
    else if (home && *home && snprintf(path, PATH_MAX, "%s/.cache", home) < PATH_MAX && make_folder(path))
        n = snprintf(path, PATH_MAX, "%s/.cache/hearth", home);
    else
        return false;
    return n < PATH_MAX - 128 && make_folder(path);
}

static bool read_all(int fd, void *to, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t got = sys.read(fd, (char *)to + at, n - at);
        if (got <= 0)
            return false;
        at += (size_t)got;
    }
    return true;
}

static bool write_all(int fd, const void *from, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t put = sys.write(fd, (const char *)from + at, n - at);
        if (put <= 0)
            return false;
        at += (size_t)put;
    }
    return true;
}

static struct tune_head head_of(const struct tune *t)
{
    struct tune_head h = {};
    memcpy(h.magic, MAGIC, sizeof h.magic);
    h.version = VERSION;
    h.n = t->n;
    h.library = cublasLtGetVersion();
    memcpy(h.gpu, t->gpu, sizeof h.gpu);
    h.checksum = hash_fnv(t->entry, t->n * sizeof *t->entry);
    return h;
}

static void load(struct tune *t)
{
    struct tune_head h;
    int fd = sys.open(t->path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (read_all(fd, &h, sizeof h) && h.n <= TUNE_MAX && read_all(fd, t->entry, h.n * sizeof *t->entry)) {
        t->n = h.n;
        struct tune_head want = head_of(t);
        if (memcmp(&h, &want, sizeof h) != 0)
            t->n = 0;
    }
    sys.close(fd);
    log_info("gemm tuned", "file=%s shapes=%u", t->path, t->n);
}

struct tune *tune_open(const char *gpu)
{
    struct tune *t = (struct tune *)calloc(1, sizeof *t);
    if (!t)
        return NULL;
    snprintf(t->gpu, sizeof t->gpu, "%.63s", gpu);
    if (find_folder(t->path)) {
        size_t at = strlen(t->path);
        snprintf(t->path + at, sizeof t->path - at, "/gemm-%.63s-%zu.bin", t->gpu, cublasLtGetVersion());
        for (char *p = t->path + at + 1; *p; p++)
            if (!isalnum((unsigned char)*p) && *p != '.')
                *p = '-';
        load(t);
    } else {
        t->path[0] = 0;
    }
    return t;
}

static struct tune_entry *find(const struct tune *t, const struct tune_key *key)
{
    for (uint32_t i = 0; i < t->n; i++)
        if (!memcmp(&t->entry[i].key, key, sizeof *key))
            return (struct tune_entry *)&t->entry[i];
    return NULL;
}

bool tune_get(const struct tune *t, const struct tune_key *key, cublasLtMatmulAlgo_t *algo)
{
    const struct tune_entry *e = find(t, key);
    if (e)
        *algo = e->algo;
    return e;
}

void tune_put(struct tune *t, const struct tune_key *key, const cublasLtMatmulAlgo_t *algo)
{
    struct tune_entry *e = find(t, key);
    if (!e && t->n == TUNE_MAX)
        return;
    if (!e)
        e = &t->entry[t->n++];
    *e = {*key, *algo};
    t->changed = true;
}

void tune_save(struct tune *t)
{
    char beside[PATH_MAX + 8];
    if (!t->changed || !t->path[0])
        return;
    t->changed = false;
    snprintf(beside, sizeof beside, "%s.new", t->path);
    struct tune_head h = head_of(t);
    int fd = sys.open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    bool ok = fd >= 0 && write_all(fd, &h, sizeof h) && write_all(fd, t->entry, t->n * sizeof *t->entry);
    if (fd >= 0 && sys.close(fd) != 0)
        ok = false;
    if (!ok || sys.rename(beside, t->path) != 0)
        log_warn("gemm tuned", "file=%s error=\"%s\" next=time the shapes again at the next start", t->path,
                 strerror(errno));
}

void tune_close(struct tune *t)
{
    if (t)
        tune_save(t);
    free(t);
}
