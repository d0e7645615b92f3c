/* jinja_global - the functions every template has: range, dict, namespace, raise_exception, strftime_now. */
#include "engine/text/jinja_int.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static int g_raise_exception(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    const struct jstr *s = jval_str(ev, c->pos[0]);
    return s ? jfail(ev, "%.*s", s->n < 400 ? (int)s->n : 400, s->p) : ev->rc;
}

/* range(stop), range(start, stop), range(start, stop, step), at most JINJA_RANGE_MAX items. */
static int g_range(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    int64_t r[3] = {0, 0, 1}, *kept = jalloc(ev, 3, sizeof *kept);
    if (c->n_pos < 1 || c->n_pos > 3 || c->n_kw)
        return jfail(ev, "range takes one to three integers");
    for (size_t i = 0; i < c->n_pos; i++) {
        if (!jis_integer(c->pos[i]))
            return c->pos[i].type == J_UNDEF ? jfail_undefined(ev, c->pos[i])
                                             : jfail(ev, "range wants integers, not %s", jtype_name(c->pos[i]));
        r[c->n_pos == 1 ? 1 : i] = jas_int(c->pos[i]);
    }
    if (r[2] == 0)
        return jfail(ev, "range: step must not be zero");
    uint64_t span = r[2] > 0 ? (uint64_t)r[1] - (uint64_t)r[0] : (uint64_t)r[0] - (uint64_t)r[1];
    uint64_t step = r[2] > 0 ? (uint64_t)r[2] : -(uint64_t)r[2];
    bool empty = r[2] > 0 ? r[1] <= r[0] : r[0] <= r[1];
    uint64_t n = empty ? 0 : (span - 1) / step + 1;
    if (n > JINJA_RANGE_MAX)
        return jfail(ev, "a range may have at most %d items", JINJA_RANGE_MAX);
    struct jlist *l = jcharge(ev, n / 8) == 0 ? jlist_new(ev, n) : NULL;
    if (!l || !kept)
        return ev->rc;
    for (uint64_t i = 0; i < n; i++)
        l->v[i] = jint((int64_t)((uint64_t)r[0] + i * (uint64_t)r[2]));
    memcpy(kept, r, sizeof r);
    l->range = kept;
    *out = jlist_val(J_RANGE, l);
    return 0;
}

/* The pairs of a mapping or of a sequence of pairs. */
static int add_pairs(struct jeval *ev, struct jdict *d, struct jval from)
{
    if (from.type == J_DICT) {
        for (size_t i = 0; i < from.d->n && ev->rc == 0; i++)
            jdict_set(ev, d, from.d->p[i].key, from.d->p[i].val);
        return ev->rc;
    }
    struct jlist *l = jval_items(ev, from);
    for (size_t i = 0; l && i < l->n && ev->rc == 0; i++) {
        struct jlist *pair = jval_items(ev, l->v[i]);
        if (pair && pair->n != 2)
            return jfail(ev, "a dict is made of pairs");
        if (pair)
            jdict_set(ev, d, pair->v[0], pair->v[1]);
    }
    return ev->rc;
}

static struct jdict *make_dict(struct jeval *ev, const struct jcall *c)
{
    struct jdict *d = jdict_new(ev, c->n_kw);
    if (c->n_pos > 1)
        jfail(ev, "dict takes one argument and keywords");
    if (!d || ev->rc < 0 || (c->n_pos && add_pairs(ev, d, c->pos[0]) != 0))
        return NULL;
    for (size_t i = 0; i < c->n_kw && ev->rc == 0; i++)
        jdict_set(ev, d, jstring(c->kw[i].name), c->kw[i].val);
    return d;
}

static int g_dict(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    *out = (struct jval){.type = J_DICT, .d = make_dict(ev, c)};
    return ev->rc;
}

static int g_namespace(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    *out = (struct jval){.type = J_NAMESPACE, .d = make_dict(ev, c)};
    return ev->rc;
}

/* The C library's strftime on the render's time in UTC; %f is six zeros, as seconds are whole, %z and %Z are empty. */
static int g_strftime_now(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    char format[256], text[512];
    struct tm tm;
    time_t now = (time_t)ev->in->now_s;
    size_t n = 0;
    const struct jstr *f = c->pos[0].s;
    if (c->pos[0].type != J_STR || f->n > 40 || memchr(f->p, 0, f->n))
        return jfail(ev, "strftime_now wants a format of at most 40 bytes");
    for (size_t i = 0; i < f->n; i++) {
        char next = f->p[i] == '%' && i + 1 < f->n ? f->p[i + 1] : 0;
        const char *instead = next == 'f' ? "000000" : next == 'z' || next == 'Z' ? "" : NULL;
        n += (size_t)snprintf(format + n, 8, instead ? "%s" : next ? "%.2s" : "%.1s", instead ? instead : f->p + i);
        i += next != 0;
    }
    format[n] = 0;
    if (!gmtime_r(&now, &tm))
        return jfail(ev, "strftime_now: the time is out of range");
    size_t len = n ? strftime(text, sizeof text, format, &tm) : 0;
    struct jtext t;
    jtext_start(&t, ev);
    jtext_add(&t, text, len, false);
    *out = jstring(jtext_done(&t));
    return ev->rc;
}

static const struct jfunc globals[] = {
    {"range", g_range, 0, true, {0}},
    {"dict", g_dict, 0, true, {0}},
    {"namespace", g_namespace, 0, true, {0}},
    {"raise_exception", g_raise_exception, 1, false, {"message"}},
    {"strftime_now", g_strftime_now, 1, false, {"format"}},
    {0},
};

const struct jfunc *jglobal_find(const char *name, size_t n)
{
    for (const struct jfunc *f = globals; f->name; f++)
        if (strlen(f->name) == n && memcmp(f->name, name, n) == 0)
            return f;
    return NULL;
}
