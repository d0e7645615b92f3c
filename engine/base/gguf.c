/* gguf - see gguf.h.
 *
 * Maps a file, or each of a split set, lets gguf_part.c read it, and indexes the tensors of all.
 */
#include "engine/base/gguf_part.h"

#include "engine/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    PARTS_MAX = 1024, /* of a split file */
    SUFFIX_BYTES = 20 /* "-00001-of-00003.gguf" */
};

/* -- files */

static int map_part(struct gguf_part *p, const char *path, struct err *e)
{
    int rc = 0;
    struct stat st;
    int fd = sys.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0); /* a FIFO must not hang the start */
    if (fd < 0)
        return err_set(e, errno, "%s; check the path", strerror(errno));
    if (sys.fstat(fd, &st)) {
        rc = err_set(e, errno, "%s", strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        rc = err_set(e, EINVAL, "not a regular file");
    } else if (st.st_size == 0) {
        rc = err_set(e, EINVAL, "the file is empty: fetch it again");
    } else {
        void *map = sys.mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            rc = err_set(e, errno, "cannot be mapped: %s", strerror(errno));
        } else {
            p->map = map;
            p->bytes = (size_t)st.st_size;
            p->mapped = true;
            p->path = strdup(path); /* without it, gguf_place knows of no file */
        }
    }
    sys.close(fd);
    return rc;
}

static int open_part(struct gguf *g, size_t i, const char *path, struct err *e)
{
    int rc = map_part(&g->part[i], path, e);
    if (!rc)
        rc = gguf_part_parse(g, &g->part[i], e);
    if (rc)
        err_prefix(e, "%s", path);
    return rc;
}

/* split.KEY of a part; `other` when it is not there. */
static int64_t split_number(const struct gguf *g, const struct gguf_part *p, const char *key, int64_t other)
{
    gguf_int(gguf_part_get(g, p, key), &other);
    return other;
}

/* "model-00001-of-00003.gguf" -> path of part i (from 0) in out[n]; false when path is not that of part 0 of count. */
static bool split_path(const char *path, unsigned i, unsigned count, char *out, size_t n)
{
    size_t len = strlen(path);
    char suffix[32];
    snprintf(suffix, sizeof suffix, "-00001-of-%05u.gguf", count);
    if (len < SUFFIX_BYTES || len >= n || strcmp(path + len - SUFFIX_BYTES, suffix))
        return false;
    snprintf(out, n, "%.*s-%05u-of-%05u.gguf", (int)(len - SUFFIX_BYTES), path, i + 1, count);
    return true;
}

static int open_split(struct gguf *g, const char *path, unsigned count, struct err *e)
{
    char name[PATH_MAX];
    struct gguf_part *grown = realloc(g->part, count * sizeof *grown);
    if (!grown)
        return err_set(e, ENOMEM, "no memory for %u split files", count);
    g->part = grown;
    memset(g->part + 1, 0, (count - 1) * sizeof *grown);
    for (unsigned i = 1; i < count; i++) {
        if (!split_path(path, i, count, name, sizeof name))
            return err_set(e, EINVAL, "%s: first of %u split files, so its name must end in -00001-of-%05u.gguf", path,
                           count, count);
        g->n_parts++;
        int rc = open_part(g, i, name, e);
        if (rc)
            return rc;
        if (split_number(g, &g->part[i], "split.no", -1) != i ||
            split_number(g, &g->part[i], "split.count", -1) != count)
            return err_set(e, EINVAL, "%s: not part %u of %u by its own split.no and split.count", name, i + 1, count);
    }
    return 0;
}

/* Part 0 is parsed: bring in the others and index all tensors. path is NULL for memory. */
static int finish_open(struct gguf *g, const char *path, struct err *e)
{
    int64_t count = split_number(g, &g->part[0], "split.count", 1);
    int64_t no = split_number(g, &g->part[0], "split.no", 0);
    int64_t total = split_number(g, &g->part[0], "split.tensors.count", -1);
    if (count < 0 || count > PARTS_MAX)
        return err_set(e, EINVAL, "split.count %lld: must be 0 to %d", (long long)count, PARTS_MAX);
    if (count > 1 && !path)
        return err_set(e, ENOTSUP, "one of %lld split files: open it by its path", (long long)count);
    if (count > 1 && no != 0)
        return err_set(e, EINVAL, "%s: part %lld of %lld split files; name the first one (-00001-of-%05lld.gguf)", path,
                       (long long)no + 1, (long long)count, (long long)count);
    int rc = count > 1 ? open_split(g, path, (unsigned)count, e) : 0;
    if (rc)
        return rc;
    if (count > 1 && total >= 0 && (uint64_t)total != g->n_tensors)
        return err_set(e, EINVAL, "%s: split.tensors.count is %lld, the parts hold %zu", path, (long long)total,
                       g->n_tensors);
    return gguf_table_build(g, &g->names, "tensor", g->tensor, g->n_tensors, sizeof *g->tensor, e);
}

static int new_gguf(struct gguf **out, struct err *e)
{
    struct gguf *g = calloc(1, sizeof *g);
    struct gguf_part *p = calloc(1, sizeof *p);
    if (!g || !p || sys.random(g->hash_key, sizeof g->hash_key)) {
        free(g);
        free(p);
        return err_set(e, ENOMEM, "no memory or no random numbers to open a model file");
    }
    g->part = p;
    g->n_parts = 1;
    *out = g;
    return 0;
}

int gguf_open(struct gguf **out, const char *path, struct err *e)
{
    struct gguf *g;
    int rc = new_gguf(&g, e);
    if (rc)
        return rc;
    rc = open_part(g, 0, path, e);
    if (!rc)
        rc = finish_open(g, path, e);
    if (rc)
        gguf_close(g);
    else
        *out = g;
    return rc;
}

int gguf_open_memory(struct gguf **out, const void *bytes, size_t n, struct err *e)
{
    struct gguf *g;
    int rc = new_gguf(&g, e);
    if (rc)
        return rc;
    g->part[0].map = bytes;
    g->part[0].bytes = n;
    rc = gguf_part_parse(g, &g->part[0], e);
    if (!rc)
        rc = finish_open(g, NULL, e);
    if (rc)
        gguf_close(g);
    else
        *out = g;
    return rc;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < g->n_parts; i++) {
        struct gguf_part *p = &g->part[i];
        if (p->mapped)
            sys.munmap((void *)(uintptr_t)p->map, p->bytes);
        free(p->path);
        free(p->kv);
        free(p->keys.slot);
    }
    free(g->part);
    free(g->tensor);
    free(g->names.slot);
    free(g);
}

/* -- queries */

uint64_t gguf_file_bytes(const struct gguf *g)
{
    uint64_t n = 0;
    for (size_t i = 0; i < g->n_parts; i++)
        n += g->part[i].bytes;
    return n;
}

const char *gguf_place(const struct gguf *g, const void *data, uint64_t *at)
{
    const uint8_t *byte = data;
    for (size_t i = 0; i < g->n_parts; i++)
        if (byte >= g->part[i].map && byte < g->part[i].map + g->part[i].bytes) {
            *at = (uint64_t)(byte - g->part[i].map);
            return g->part[i].path;
        }
    return NULL;
}

const void *gguf_header(const struct gguf *g, size_t part, size_t *n)
{
    if (part >= g->n_parts)
        return NULL;
    *n = g->part[part].header_bytes;
    return g->part[part].map;
}

size_t gguf_n_tensors(const struct gguf *g)
{
    return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i)
{
    return i < g->n_tensors ? &g->tensor[i] : NULL;
}

const struct gguf_tensor *gguf_find(const struct gguf *g, const char *name)
{
    return gguf_table_find(g, &g->names, name);
}

const struct gguf_val *gguf_get(const struct gguf *g, const char *key)
{
    return gguf_part_get(g, &g->part[0], key);
}
