/* config - see config.h: values into fields, the environment, the rules between keys. The table is config_rows.c. */
#include "engine/base/log.h"
#include "server/address.h"
#include "server/config_rows.h"
#include "server/config_value.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static int no_memory(struct err *e)
{
    return err_set(e, ENOMEM, "configuration: out of memory");
}

static int bad_value(const struct config_row *r, const char *value, struct err *e)
{
    struct str s = {0};
    config_row_put_limits(r, &s);
    if (r->def)
        str_addf(&s, " (default %s)", r->def);
    int rc = err_set(e, EINVAL, "%s %.100s: must be %s", r->name, value, str_text(&s));
    str_fini(&s);
    return rc;
}

/* -- reading one value into its field */

static int set_number(void *field, const struct config_row *r, const char *value)
{
    int64_t i = 0;
    uint64_t u = 0;
    double d = 0;
    int rc = 0;
    if (config_row_is_auto(r) && (strcmp(value, "auto") == 0 || strcmp(value, "0") == 0)) {
        memset(field, 0, 8);
        return 0;
    }
    if (r->type == ROW_INT) {
        rc = value_int(value, &i);
        d = (double)i;
    } else if (r->type == ROW_FLOAT) {
        rc = value_float(value, &d);
    } else {
        rc = r->type == ROW_BYTES ? value_bytes(value, &u) : value_duration(value, &u);
        d = (double)u;
    }
    if (rc != 0 || (!r->only && (d < r->lo || d > r->hi)))
        return -EINVAL;
    if (r->type == ROW_INT)
        *(int64_t *)field = i;
    else if (r->type == ROW_FLOAT)
        *(double *)field = d;
    else
        *(uint64_t *)field = u;
    return 0;
}

/* Index of `value` among the words of `only`, or -EINVAL. */
static int choice_of(const char *only, const char *value)
{
    for (int i = 0;; i++) {
        size_t n = strcspn(only, "|");
        if (strlen(value) == n && strncmp(only, value, n) == 0)
            return i;
        only += n;
        if (!*only++)
            return -EINVAL;
    }
}

static int list_push(struct config *c, struct config_list *l, const char *item, size_t n, struct err *e)
{
    if (l->n >= CONFIG_MAX_LIST)
        return err_set(e, E2BIG, "a list has at most %d items", CONFIG_MAX_LIST);
    const char **v = arena_array(&c->mem, l->n + 1, sizeof *v);
    char *copy = arena_copy(&c->mem, item, n);
    if (!v || !copy)
        return no_memory(e);
    if (l->n)
        memcpy(v, l->v, l->n * sizeof *v);
    v[l->n] = copy;
    l->v = v;
    l->n++;
    return 0;
}

/* Items between commas, blanks around them cut, empty ones left out. */
static int set_list(struct config *c, struct config_list *field, const char *value, struct err *e)
{
    struct config_list l = {0};
    for (const char *p = value; *p;) {
        size_t n = strcspn(p, ","), lead = strspn(p, " \t");
        const char *next = p + n + (p[n] == ',');
        p += lead < n ? lead : n;
        n -= lead < n ? lead : n;
        while (n && isspace((unsigned char)p[n - 1]))
            n--;
        int rc = n ? list_push(c, &l, p, n, e) : 0;
        if (rc != 0)
            return rc;
        p = next;
    }
    *field = l;
    return 0;
}

static void unset(void *field, const struct config_row *r)
{
    switch (r->type) {
    case ROW_FLOAT:
        *(double *)field = NAN;
        break;
    case ROW_INT:
        *(int64_t *)field = -1;
        break;
    case ROW_LIST:
        *(struct config_list *)field = (struct config_list){0};
        break;
    default:
        *(const char **)field = NULL;
    }
}

static int set_field(struct config *c, const struct config_row *r, const char *value, struct err *e)
{
    void *field = config_row_field(c, r);
    int choice = r->only ? choice_of(r->only, value) : 0;
    char *copy;
    if (choice < 0)
        return bad_value(r, value, e);
    switch (r->type) {
    case ROW_BOOL:
        return value_bool(value, field) == 0 ? 0 : bad_value(r, value, e);
    case ROW_ENUM:
        *(int *)field = choice;
        return 0;
    case ROW_LIST:
        return set_list(c, field, value, e);
    case ROW_TEXT:
    case ROW_PATH:
        copy = arena_copy(&c->mem, value, strlen(value));
        if (!copy)
            return no_memory(e);
        *(const char **)field = copy;
        return 0;
    default:
        return set_number(field, r, value) == 0 ? 0 : bad_value(r, value, e);
    }
}

static int note_origin(struct config *c, const struct config_row *r, enum config_source source, const char *where,
                       struct err *e)
{
    char *copy = arena_copy(&c->mem, where, strlen(where));
    if (!copy)
        return no_memory(e);
    c->origin[r - config_rows] = (struct config_origin){source, copy};
    return 0;
}

static int set_row(struct config *c, const struct config_row *r, const char *value, enum config_source source,
                   const char *where, struct err *e)
{
    if (!value || !*value)
        value = r->def;
    if (!value) {
        unset(config_row_field(c, r), r);
        return note_origin(c, r, source, where, e);
    }
    int rc = set_field(c, r, value, e);
    return rc == 0 ? note_origin(c, r, source, where, e) : rc;
}

static int unknown_key(const char *key, struct err *e)
{
    return err_set(e, ENOENT, "no key is called %.100s; the nearest is %s", key, config_key_nearest(key));
}

int config_set(struct config *c, const char *key, const char *value, enum config_source source, const char *where,
               struct err *e)
{
    const struct config_row *r = config_row_find(key);
    int rc = r ? set_row(c, r, value, source, where, e) : unknown_key(key, e);
    if (rc != 0)
        err_prefix(e, "%.120s", where);
    return rc;
}

int config_add(struct config *c, const char *key, const char *item, enum config_source source, const char *where,
               struct err *e)
{
    const struct config_row *r = config_row_find(key);
    int rc;
    if (!r) {
        rc = unknown_key(key, e);
    } else if (r->type != ROW_LIST) {
        rc = err_set(e, EINVAL, "%s takes one value, not a list", key);
    } else {
        struct config_list *l = config_row_field(c, r), more = {0};
        if (c->origin[r - config_rows].source == source)
            more = *l;
        rc = list_push(c, &more, item, strlen(item), e);
        if (rc == 0)
            rc = note_origin(c, r, source, where, e);
        if (rc == 0)
            *l = more;
    }
    if (rc != 0)
        err_prefix(e, "%.120s", where);
    return rc;
}

int config_init(struct config *c, struct err *e)
{
    *c = (struct config){0};
    for (size_t i = 0; i < config_key_count(); i++) {
        int rc = set_row(c, &config_rows[i], NULL, CONFIG_DEFAULT, "default", e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

void config_fini(struct config *c)
{
    arena_fini(&c->mem);
    *c = (struct config){0};
}

/* -- the environment */

#define ENV_PREFIX "HEARTH_"

/* "kv.bytes" is HEARTH_KV_BYTES. */
static void env_name(const char *key, char *out, size_t cap)
{
    size_t n = (size_t)snprintf(out, cap, ENV_PREFIX "%s", key);
    for (size_t i = strlen(ENV_PREFIX); i < n; i++)
        out[i] = out[i] == '.' ? '_' : (char)toupper((unsigned char)out[i]);
}

static const struct config_row *row_of_env(const char *name, size_t n)
{
    char known[96];
    for (size_t i = 0; i < config_key_count(); i++) {
        env_name(config_rows[i].name, known, sizeof known);
        if (strlen(known) == n && memcmp(known, name, n) == 0)
            return &config_rows[i];
    }
    return NULL;
}

/* Variables of the scripts and tests, no keys of the daemon. */
static bool env_is_ours(const char *name, size_t n)
{
    static const char *const others[] = {ENV_PREFIX "CACHE", ENV_PREFIX "MODEL"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strlen(others[i]) == n && memcmp(others[i], name, n) == 0)
            return true;
    return false;
}

static void warn_env(const char *name, size_t n)
{
    char key[64], nearest[96];
    size_t m = 0;
    for (size_t i = strlen(ENV_PREFIX); i < n && m + 1 < sizeof key; i++)
        key[m++] = (char)tolower((unsigned char)name[i]);
    key[m] = 0;
    env_name(config_key_nearest(key), nearest, sizeof nearest);
    log_warn("config ignored", "variable=%.*s reason=unknown nearest=%s", n > 64 ? 64 : (int)n, name, nearest);
}

int config_load_env(struct config *c, char *const *env, struct err *e)
{
    for (; *env; env++) {
        const char *eq = strchr(*env, '=');
        if (strncmp(*env, ENV_PREFIX, strlen(ENV_PREFIX)) != 0 || !eq || !eq[1])
            continue;
        size_t n = (size_t)(eq - *env);
        const struct config_row *r = row_of_env(*env, n);
        char name[96];
        if (!r) {
            if (!env_is_ours(*env, n))
                warn_env(*env, n);
            continue;
        }
        env_name(r->name, name, sizeof name);
        int rc = config_set(c, r->name, eq + 1, CONFIG_ENV, name, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* -- rules between keys */

static struct config_origin origin_of(const struct config *c, const char *key)
{
    return c->origin[config_row_find(key) - config_rows];
}

static int check_listen(const struct config *c, struct err *e)
{
    if (c->listen.n == 0)
        return err_set(e, EINVAL, "listen: needs at least one address, such as 127.0.0.1:8080");
    for (size_t i = 0; i < c->listen.n; i++) {
        struct address a;
        int rc = address_parse(c->listen.v[i], &a, e);
        if (rc != 0)
            return rc;
        if (address_is_public(&a) && !c->auth.key_file)
            return err_set(e, EINVAL,
                           "listen %.200s: other machines can reach it, but there are no API keys; give --api-key-file "
                           "FILE (hearthd --hash-key makes its lines) or listen on 127.0.0.1",
                           c->listen.v[i]);
    }
    return 0;
}

static int choose_model(struct config *c, struct err *e)
{
    if (!c->model.path || !c->model.random)
        return 0;
    struct config_origin path = origin_of(c, "model.path"), random = origin_of(c, "model.random");
    if (path.source == random.source)
        return err_set(e, EINVAL, "model.path (%s) and model.random (%s) are both given: keep one", path.where,
                       random.where);
    if (path.source > random.source)
        c->model.random = NULL;
    else
        c->model.path = NULL;
    return 0;
}

int config_finish(struct config *c, struct err *e)
{
    if (!c->http.tls_cert != !c->http.tls_key)
        return err_set(e, EINVAL, "http.%s is set without http.%s: HTTPS needs both",
                       c->http.tls_cert ? "tls_cert" : "tls_key", c->http.tls_cert ? "tls_key" : "tls_cert");
    if (c->http.body_memory <= c->http.max_body)
        return err_set(e, EINVAL,
                       "http.body_memory %llu: must be more than http.max_body %llu, or no body of that size fits",
                       (unsigned long long)c->http.body_memory, (unsigned long long)c->http.max_body);
    if ((c->kv.nvme.dirs.n > 0) != (c->kv.nvme.bytes > 0))
        return err_set(e, EINVAL, "kv.nvme.%s is set without kv.nvme.%s: blocks on drives need both",
                       c->kv.nvme.bytes ? "bytes" : "dirs", c->kv.nvme.bytes ? "dirs" : "bytes");
    if (!c->kv.prefix_cache && (c->kv.dram.bytes || c->kv.nvme.bytes))
        return err_set(e, EINVAL,
                       "kv.prefix_cache false: kv.dram.bytes and kv.nvme.dirs keep what it finds; set it true");
    int rc = choose_model(c, e);
    return rc == 0 ? check_listen(c, e) : rc;
}
