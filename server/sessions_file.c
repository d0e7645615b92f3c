/* sessions_file - see sessions_file.h. */
#include "server/sessions_file.h"

#include "engine/base/crc.h"
#include "engine/base/sys.h"
#include "server/app.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define VERSION   1
#define PATH_CAP  4096
#define BYTES_MAX (1u << 30)

static const char magic[8] = "HearthN1";

struct file_head {
    char magic[8];
    uint32_t version, crc; /* of everything after the head */
    uint32_t record_bytes, n;
};

struct file_record {
    struct hash_key owner;
    struct session_wish wish;
    struct engine_leaf leaf; /* its request is of an engine that is gone: 0 */
    char name[SESSION_NAME_MAX];
};

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are written as they lie in memory");
_Static_assert(sizeof(struct file_head) == 24 && sizeof(struct session_wish) == 72, "on disk");
_Static_assert(sizeof(struct file_record) == 32 + 72 + 16 + 32 * ENGINE_RUNGS + 256, "on disk");

void sessions_put(const struct sessions_table *t, struct str *out)
{
    struct file_head h = {.version = VERSION, .record_bytes = sizeof(struct file_record), .n = t->n};
    size_t from = out->len;
    memcpy(h.magic, magic, sizeof h.magic);
    str_add(out, &h, sizeof h);
    for (const struct session_owner *o = t->owners; o; o = o->next)
        for (const struct session *s = o->oldest; s; s = s->newer) {
            struct file_record r;
            memset(&r, 0, sizeof r);
            r.owner = o->key;
            r.wish = s->wish;
            r.leaf = s->leaf;
            r.leaf.request = 0;
            memcpy(r.name, s->name, strlen(s->name));
            str_add(out, &r, sizeof r);
        }
    if (out->oom)
        return;
    h.crc = crc32c(out->data + from + sizeof h, out->len - from - sizeof h);
    memcpy(out->data + from, &h, sizeof h);
}

/* A record that no table of ours could have written is left out. */
static bool is_sane(const struct file_record *r)
{
    return r->name[0] && r->wish.priority <= SESSION_HIGH && r->wish.retention <= SESSION_24H &&
           r->wish.suspended <= 1 && r->wish.ttl_s >= 0 && r->wish.ttl_s <= SESSION_TTL_MAX &&
           r->leaf.n_blocks <= r->leaf.n_tokens;
}

int sessions_take(struct sessions_table *t, const char *bytes, size_t n, struct err *e)
{
    struct file_head h;
    struct file_record r;
    if (n < sizeof h)
        return err_set(e, EBADMSG, "%zu bytes are no file of sessions", n);
    memcpy(&h, bytes, sizeof h);
    if (memcmp(h.magic, magic, sizeof h.magic) != 0 || h.version != VERSION || h.record_bytes != sizeof r)
        return err_set(e, EBADMSG, "sessions of version %u; this program knows %u", h.version, VERSION);
    if (n != sizeof h + (uint64_t)h.n * sizeof r || h.crc != crc32c(bytes + sizeof h, n - sizeof h))
        return err_set(e, EBADMSG, "%zu bytes of %u sessions: damaged", n, h.n);
    for (uint32_t i = 0; i < h.n; i++) {
        char name[SESSION_NAME_MAX + 1] = "";
        memcpy(&r, bytes + sizeof h + i * sizeof r, sizeof r);
        memcpy(name, r.name, sizeof r.name);
        if (!is_sane(&r) || sessions_find(t, &r.owner, name))
            continue;
        struct session *s = sessions_add(t, &r.owner, name, &r.wish, NULL, NULL);
        if (s)
            s->leaf = r.leaf;
    }
    return 0;
}

static bool path_of(const char *dir, const char *end, char out[PATH_CAP])
{
    return snprintf(out, PATH_CAP, "%s/" SESSIONS_FILE "%s", dir, end) < PATH_CAP;
}

static bool write_all(int fd, const struct str *bytes)
{
    for (size_t at = 0; at < bytes->len;) {
        ssize_t n = sys.write(fd, bytes->data + at, bytes->len - at);
        if (n <= 0 && errno != EINTR)
            return false;
        at += n > 0 ? (size_t)n : 0;
    }
    return true;
}

int sessions_file_write(const char *dir, const struct str *bytes, struct err *e)
{
    char path[PATH_CAP], fresh[PATH_CAP];
    if (!path_of(dir, "", path) || !path_of(dir, ".new", fresh))
        return err_set(e, ENAMETOOLONG, "%.100s...: the path is too long", dir);
    int fd = sys.open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600), folder = -1;
    bool ok = fd >= 0 && sys.fchmod(fd, 0600) == 0 && write_all(fd, bytes) && sys.fsync(fd) == 0 &&
              sys.rename(fresh, path) == 0 && (folder = sys.open(dir, O_RDONLY | O_DIRECTORY, 0)) >= 0 &&
              sys.fsync(folder) == 0;
    int error = ok ? 0 : errno ? errno : EIO;
    if (fd >= 0)
        sys.close(fd);
    if (folder >= 0)
        sys.close(folder);
    return ok ? 0 : err_set(e, error, "%s: %s", path, strerror(error));
}

int sessions_file_read(const char *dir, struct sessions_table *t, struct err *e)
{
    char path[PATH_CAP];
    struct str bytes = {0};
    if (!path_of(dir, "", path))
        return err_set(e, ENAMETOOLONG, "%.100s...: the path is too long", dir);
    int ret = app_read_file(path, BYTES_MAX, &bytes, e);
    if (ret == 0 && (ret = sessions_take(t, str_text(&bytes), bytes.len, e)) != 0)
        err_prefix(e, "%s", path);
    str_fini(&bytes);
    return ret == -ENOENT ? 0 : ret;
}
