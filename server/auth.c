/* auth - see auth.h. */
#include "server/auth.h"

#include "engine/base/sys.h"
#include "engine/base/vec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_FILE  (1u << 20)
#define MAX_NAME  64
#define MIN_KEY   16
#define MAX_KEY   512
#define SALT_TAG  0x544c4153u /* "SALT" */
#define HEX_CHARS (2 * HASH_BYTES)

struct key {
    char name[MAX_NAME + 1];
    struct hash_key hash, salt;
};

struct auth {
    struct key *keys;
    size_t n, cap;
};

/* -- the file */

static bool is_name(const char *s, size_t n)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    return n >= 1 && n <= MAX_NAME && strspn(s, allowed) >= n;
}

static int make_salt(struct key *k)
{
    struct hash_state *h = hash_open();
    if (!h)
        return -ENOMEM;
    hash_field(h, SALT_TAG, k->hash.b, sizeof k->hash.b);
    hash_finish(h, &k->salt);
    return 0;
}

/* Add what stands in line[0..n), no newline. `at` is "FILE:LINE". */
static int add_line(struct auth *a, const char *line, size_t n, const char *at, struct err *e)
{
    const char *colon = memchr(line, ':', n);
    size_t name = colon ? (size_t)(colon - line) : 0;
    struct key k = {{0}, {{0}}, {{0}}};
    if (!colon || hash_unhex(colon + 1, n - name - 1, &k.hash) != 0)
        return err_set(e, EINVAL,
                       "%s: a line must be NAME:SHA256; a key itself is not kept here, make its line with: printf %%s "
                       "\"$KEY\" | hearthd --hash-key=NAME",
                       at);
    if (!is_name(line, name))
        return err_set(e, EINVAL, "%s: a name has 1 to %d letters, digits, '.', '_' or '-'", at, MAX_NAME);
    memcpy(k.name, line, name);
    for (size_t i = 0; i < a->n; i++)
        if (strcmp(a->keys[i].name, k.name) == 0 || hash_key_equal(&a->keys[i].hash, &k.hash))
            return err_set(e, EEXIST, "%s: %s is there already (as %s): keep one", at, k.name, a->keys[i].name);
    if (make_salt(&k) != 0 || vec_grow(&a->keys, &a->cap, a->n + 1, sizeof k) != 0)
        return err_set(e, ENOMEM, "%s: out of memory", at);
    a->keys[a->n++] = k;
    return 0;
}

static int add_text(struct auth *a, const char *path, const struct str *text, struct err *e)
{
    struct str at = {0};
    const char *p = str_text(text), *end = p + text->len;
    int rc = 0;
    for (int line = 1; p < end && rc == 0; line++) {
        const char *nl = memchr(p, '\n', (size_t)(end - p)), *stop = nl ? nl : end;
        size_t n = (size_t)(stop - p);
        while (n && (p[n - 1] == '\r' || p[n - 1] == ' ' || p[n - 1] == '\t'))
            n--;
        if (n && *p != '#') {
            str_cut(&at, 0);
            str_addf(&at, "%.200s:%d", path, line);
            rc = add_line(a, p, n, str_text(&at), e);
        }
        p = stop + 1;
    }
    str_fini(&at);
    if (rc == 0 && a->n == 0)
        rc = err_set(e, EINVAL, "%.200s: no key in it; make a line with: printf %%s \"$KEY\" | hearthd --hash-key=NAME",
                     path);
    return rc;
}

static int read_file(const char *path, struct str *out, struct err *e)
{
    int rc = 0, fd = sys.open(path, O_RDONLY, 0);
    if (fd < 0)
        return err_set(e, errno, "API key file %.200s: %s", path, strerror(errno));
    for (;;) {
        char *room = str_room(out, 4096);
        ssize_t n = room ? sys.read(fd, room, 4096) : 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = err_set(e, errno, "API key file %.200s: %s", path, strerror(errno));
        else if (!room)
            rc = err_set(e, ENOMEM, "API key file %.200s: out of memory", path);
        if (n <= 0)
            break;
        out->len += (size_t)n;
        if (out->len > MAX_FILE) {
            rc = err_set(e, EFBIG, "API key file %.200s: more than %u bytes", path, MAX_FILE);
            break;
        }
    }
    sys.close(fd);
    return rc;
}

int auth_open(struct auth **out, const char *path, struct err *e)
{
    struct str text = {0};
    struct auth *a = calloc(1, sizeof *a);
    int rc = a ? read_file(path, &text, e) : err_set(e, ENOMEM, "API key file %.200s: out of memory", path);
    if (rc == 0)
        rc = add_text(a, path, &text, e);
    str_fini(&text);
    if (rc == 0)
        *out = a;
    else
        auth_close(a);
    return rc;
}

void auth_close(struct auth *a)
{
    if (a)
        free(a->keys);
    free(a);
}

/* -- checking */

int auth_check(const struct auth *a, const char *key, size_t n)
{
    struct hash_key h;
    int found = -1;
    hash_sha256(key, n, &h);
    for (size_t i = 0; i < a->n; i++) {
        int mask = -(int)hash_equal(&h, &a->keys[i].hash, sizeof h); /* all ones where equal: no branch on a secret */
        found = (found & ~mask) | ((int)i & mask);
    }
    return found;
}

int auth_check_header(const struct auth *a, const char *value)
{
    if (!value || strncasecmp(value, "Bearer ", 7) != 0)
        return -1;
    value += 7;
    value += strspn(value, " ");
    size_t n = strlen(value);
    while (n && value[n - 1] == ' ')
        n--;
    return auth_check(a, value, n);
}

size_t auth_count(const struct auth *a)
{
    return a->n;
}

const char *auth_name(const struct auth *a, int index)
{
    return a->keys[index].name;
}

const struct hash_key *auth_salt(const struct auth *a, int index)
{
    return &a->keys[index].salt;
}

/* -- making a line */

int auth_hash_line(const char *key, size_t n, const char *name, struct str *out, struct err *e)
{
    struct hash_key h;
    char hex[HEX_CHARS + 1];
    if (name && !is_name(name, strlen(name)))
        return err_set(e, EINVAL, "--hash-key=%.80s: a name has 1 to %d letters, digits, '.', '_' or '-'", name,
                       MAX_NAME);
    if (n < MIN_KEY || n > MAX_KEY)
        return err_set(e, EINVAL, "a key of %zu bytes: must have %d to %d; make one with: openssl rand -hex 24", n,
                       MIN_KEY, MAX_KEY);
    for (size_t i = 0; i < n; i++)
        if (key[i] <= ' ' || key[i] > '~')
            return err_set(e, EINVAL, "a key is printable ASCII without blanks; byte %zu is not", i + 1);
    hash_sha256(key, n, &h);
    hash_hex(&h, hex);
    if (name)
        str_addf(out, "%s:%s\n", name, hex);
    else
        str_addf(out, "key-%.8s:%s\n", hex, hex);
    return out->oom ? err_set(e, ENOMEM, "out of memory") : 0;
}
