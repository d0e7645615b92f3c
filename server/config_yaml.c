/* config_yaml - the configuration file: YAML in, config_set out. libyaml is fenced here.
 *
 * The event interface is read by a small stack machine (no recursion, no tree): a mapping's key either names a section,
 * and then a mapping follows, or a key, and then a value or a list follows. What libyaml lets pass is refused here:
 * anchors and aliases, keys given twice, a second document, more than 16 levels, more than 1 MiB, NUL bytes.
 */
#include "engine/base/sys.h"
#include "server/config_rows.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define MAX_BYTES (1u << 20)
#define MAX_DEPTH 16
#define MAX_PATH  128
#define MAX_SEEN  (2 * CONFIG_MAX_KEYS) /* keys and sections: an unknown name ends the reading, so there are no more */

struct seen {
    char path[MAX_PATH];
    size_t line;
};

struct reader {
    struct config *c;
    const char *name; /* of the file, for errors */
    yaml_parser_t parser;
    yaml_event_t event;
    char path[MAX_PATH];           /* full name of the key at hand, or of the section it is in */
    size_t section[MAX_DEPTH + 1]; /* bytes of `path` that are the section, with its dot, by level */
    unsigned depth;                /* open mappings; a list is `in_list` */
    bool in_list, have_key, done;
    struct seen seen[MAX_SEEN];
    size_t n_seen;
    struct err *e;
};

/* "hearth.yaml:12:3", people count from 1. */
static const char *place(const struct reader *r, char out[160])
{
    snprintf(out, 160, "%.100s:%zu:%zu", r->name, r->event.start_mark.line + 1, r->event.start_mark.column + 1);
    return out;
}

static int fail(struct reader *r, int code, const char *text)
{
    char at[160];
    return err_set(r->e, code, "%s: %s", place(r, at), text);
}

static bool names_section(const char *path)
{
    size_t n = strlen(path);
    for (size_t i = 0; i < config_key_count(); i++)
        if (strncmp(config_key_name(i), path, n) == 0 && config_key_name(i)[n] == '.')
            return true;
    return false;
}

/* Note that r->path stands here; refuse the second time. */
static int see(struct reader *r)
{
    char at[160];
    for (size_t i = 0; i < r->n_seen; i++)
        if (strcmp(r->seen[i].path, r->path) == 0)
            return err_set(r->e, EEXIST, "%s: %s was given in line %zu already: keep one", place(r, at), r->path,
                           r->seen[i].line);
    if (r->n_seen == MAX_SEEN)
        return fail(r, E2BIG, "too many keys");
    struct seen *s = &r->seen[r->n_seen++];
    snprintf(s->path, sizeof s->path, "%s", r->path);
    s->line = r->event.start_mark.line + 1;
    return 0;
}

static int on_key(struct reader *r, const char *text)
{
    char at[160];
    size_t n = r->section[r->depth];
    if ((size_t)snprintf(r->path + n, sizeof r->path - n, "%s", text) >= sizeof r->path - n)
        return fail(r, ENOENT, "the key is too long");
    if (!config_row_find(r->path) && !names_section(r->path))
        return err_set(r->e, ENOENT, "%s: no key is called %.100s; the nearest is %s", place(r, at), r->path,
                       config_key_nearest(r->path));
    r->have_key = true;
    return see(r);
}

static bool is_null(const yaml_event_t *ev, const char *text)
{
    return ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*text || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

static int on_value(struct reader *r, const char *text)
{
    char at[160];
    bool null = is_null(&r->event, text);
    if (r->in_list)
        return config_add(r->c, r->path, text, CONFIG_FILE, place(r, at), r->e);
    r->have_key = false;
    if (!config_row_find(r->path))
        return null ? 0 : fail(r, EINVAL, "a section needs keys below it, not a value");
    return config_set(r->c, r->path, null ? NULL : text, CONFIG_FILE, place(r, at), r->e);
}

static int on_scalar(struct reader *r)
{
    const char *text = (const char *)r->event.data.scalar.value;
    if (r->event.data.scalar.anchor)
        return fail(r, EINVAL, "anchors are not allowed");
    if (strlen(text) != r->event.data.scalar.length)
        return fail(r, EINVAL, "a NUL byte is not allowed");
    if (r->depth == 0) /* an empty file has one empty scalar at most */
        return is_null(&r->event, text) ? 0 : fail(r, EINVAL, "the file must hold `key: value` lines");
    return r->have_key || r->in_list ? on_value(r, text) : on_key(r, text);
}

static int on_mapping(struct reader *r)
{
    if (r->event.data.mapping_start.anchor)
        return fail(r, EINVAL, "anchors are not allowed");
    if (r->depth == MAX_DEPTH)
        return fail(r, E2BIG, "nested too deep (16 levels)");
    if (r->in_list || (r->depth > 0 && (!r->have_key || config_row_find(r->path))))
        return fail(r, EINVAL, "a value is expected here, not a section");
    size_t n = 0;
    if (r->depth > 0) {
        n = strlen(r->path);
        r->path[n++] = '.'; /* on_key left room: a section is shorter than the longest key */
        r->path[n] = 0;
    }
    r->section[++r->depth] = n;
    r->have_key = false;
    return 0;
}

static int on_mapping_end(struct reader *r)
{
    r->depth--;
    r->path[r->section[r->depth]] = 0;
    return 0;
}

static int on_list(struct reader *r)
{
    char at[160];
    if (r->event.data.sequence_start.anchor)
        return fail(r, EINVAL, "anchors are not allowed");
    if (r->in_list || !r->have_key || !config_row_find(r->path))
        return fail(r, EINVAL, "a list is not expected here");
    r->in_list = true;
    r->have_key = false;
    /* An empty list is the default; the first item begins a new one. */
    return config_set(r->c, r->path, NULL, CONFIG_DEFAULT, place(r, at), r->e);
}

static int on_event(struct reader *r)
{
    switch (r->event.type) {
    case YAML_SCALAR_EVENT:
        return on_scalar(r);
    case YAML_MAPPING_START_EVENT:
        return on_mapping(r);
    case YAML_MAPPING_END_EVENT:
        return on_mapping_end(r);
    case YAML_SEQUENCE_START_EVENT:
        return on_list(r);
    case YAML_SEQUENCE_END_EVENT:
        r->in_list = false;
        return 0;
    case YAML_ALIAS_EVENT:
        return fail(r, EINVAL, "aliases are not allowed");
    case YAML_DOCUMENT_END_EVENT:
        r->done = true;
        return 0;
    case YAML_DOCUMENT_START_EVENT:
        return r->done ? fail(r, EINVAL, "a second document is not allowed") : 0;
    default:
        return 0;
    }
}

static int syntax_error(struct reader *r)
{
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return err_set(r->e, ENOMEM, "%.100s: out of memory", r->name);
    if (p->error == YAML_READER_ERROR)
        return err_set(r->e, EINVAL, "%.100s: byte %zu: %s", r->name, p->problem_offset, p->problem);
    return err_set(r->e, EINVAL, "%.100s:%zu:%zu: %s", r->name, p->problem_mark.line + 1, p->problem_mark.column + 1,
                   p->problem ? p->problem : "not YAML");
}

int config_load_yaml(struct config *c, const char *name, const char *text, size_t n, struct err *e)
{
    if (n > MAX_BYTES)
        return err_set(e, EFBIG, "%.100s: larger than %u bytes: not a configuration file", name, MAX_BYTES);
    struct reader *r = calloc(1, sizeof *r);
    if (!r || !yaml_parser_initialize(&r->parser)) {
        free(r);
        return err_set(e, ENOMEM, "%.100s: out of memory", name);
    }
    r->c = c;
    r->name = name;
    r->e = e;
    yaml_parser_set_input_string(&r->parser, (const unsigned char *)text, n);
    int rc = 0;
    for (bool more = true; rc == 0 && more;) {
        if (!yaml_parser_parse(&r->parser, &r->event)) {
            rc = syntax_error(r);
            break;
        }
        more = r->event.type != YAML_STREAM_END_EVENT;
        rc = on_event(r);
        yaml_event_delete(&r->event);
    }
    yaml_parser_delete(&r->parser);
    free(r);
    return rc;
}

int config_load_file(struct config *c, const char *path, struct err *e)
{
    char *text = NULL;
    size_t n = 0;
    int rc, fd = sys.open(path, O_RDONLY, 0);
    if (fd < 0)
        return err_set(e, errno, "configuration file %.200s: %s", path, strerror(errno));
    text = malloc(MAX_BYTES + 1);
    if (!text) {
        rc = err_set(e, ENOMEM, "%.200s: out of memory", path);
        goto out;
    }
    while (n <= MAX_BYTES) {
        ssize_t got = sys.read(fd, text + n, MAX_BYTES + 1 - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            rc = err_set(e, errno, "configuration file %.200s: %s", path, strerror(errno));
            goto out;
        }
        if (got == 0)
            break;
        n += (size_t)got;
    }
    rc = config_load_yaml(c, path, text, n, e);
out:
    free(text);
    sys.close(fd);
    return rc;
}
