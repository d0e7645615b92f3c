/* jinja_attr - x.name, x[key] and slices, in the order in which the sandbox of Jinja2 looks: a dot prefers a method of
 * the object's type over a key of the same name, brackets the key. What is missing is undefined, never an error.
 */
#include "engine/text/jinja_int.h"

#include <string.h>

/* What the object has by this name besides its keys; J_ABSENT when nothing. */
static int own_attr(struct jeval *ev, struct jval obj, const struct jstr *name, struct jval *out)
{
    *out = (struct jval){0};
    if (obj.type == J_LOOP)
        return jloop_attr(ev, obj.loop, name, out);
    if (obj.type == J_NAMESPACE)
        return jdict_get(ev, obj.d, jstring(name), out);
    if (obj.type == J_TUPLE && obj.l->what && (jstr_is(name, "grouper") || jstr_is(name, "list"))) {
        *out = obj.l->v[jstr_is(name, "list")];
        return 0;
    }
    const struct jfunc *f = jmethod_find(obj, name);
    if (f == &jmethod_unsafe) {
        *out = jundef_hint(ev, "a method that would change its object can't be used");
    } else if (f) {
        struct jbound *b = jalloc(ev, 1, sizeof *b);
        if (b) {
            *b = (struct jbound){f, obj};
            *out = (struct jval){.type = J_METHOD, .bound = b};
        }
    }
    return ev->rc;
}

int jattr_get(struct jeval *ev, struct jval obj, const struct jstr *name, struct jval *out)
{
    if (obj.type == J_UNDEF)
        return jfail_undefined(ev, obj);
    if (own_attr(ev, obj, name, out) != 0)
        return ev->rc;
    if (out->type == J_ABSENT && obj.type == J_DICT && jdict_get(ev, obj.d, jstring(name), out) != 0)
        return ev->rc;
    if (out->type == J_ABSENT)
        *out = jundef_attr(obj, name);
    return 0;
}

static int item_at(struct jeval *ev, struct jval obj, int64_t i, struct jval *out)
{
    int64_t n = obj.type == J_STR ? (int64_t)jstr_chars(obj.s) : (int64_t)obj.l->n;
    i += i < 0 ? n : 0;
    if (i < 0 || i >= n)
        return 0;
    if (obj.type != J_STR) {
        *out = obj.l->v[i];
        return 0;
    }
    size_t from = jstr_offset(ev, obj.s, (size_t)i), to = from + 1;
    while (to < obj.s->n && ((uint8_t)obj.s->p[to] & 0xC0) == 0x80)
        to++;
    *out = jstring(jstr_slice(ev, obj.s, from, to - from));
    return ev->rc;
}

int jattr_item(struct jeval *ev, struct jval obj, struct jval key, struct jval *out)
{
    bool indexed = obj.type == J_STR || obj.type == J_LIST || obj.type == J_TUPLE || obj.type == J_RANGE;
    int rc = 0;
    *out = (struct jval){0};
    if (obj.type == J_UNDEF)
        return jfail_undefined(ev, obj);
    if (obj.type == J_DICT && jval_hashable(key))
        rc = jdict_get(ev, obj.d, key, out);
    else if (indexed && jis_integer(key))
        rc = item_at(ev, obj, jas_int(key), out);
    if (rc == 0 && out->type == J_ABSENT && key.type == J_STR)
        rc = own_attr(ev, obj, key.s, out);
    if (rc == 0 && out->type == J_ABSENT)
        *out = jundef_attr(obj, jval_str(ev, key));
    return ev->rc;
}

static struct jval path_part(struct jeval *ev, const char *p, size_t n)
{
    int64_t i = 0;
    size_t k = 0;
    while (k < n && k < 18 && p[k] >= '0' && p[k] <= '9')
        i = i * 10 + (p[k++] - '0');
    return k == n && n > 0 ? jint(i) : jstring(jstr_new(ev, p, n, false));
}

int jattr_path(struct jeval *ev, struct jval path, struct jval otherwise, struct jval *obj)
{
    bool replace = otherwise.type != J_ABSENT && otherwise.type != J_NONE;
    if (path.type == J_ABSENT || path.type == J_NONE)
        return 0;
    if (path.type != J_STR && !jis_integer(path))
        return jfail(ev, "an attribute must be a name or a number");
    bool text = path.type == J_STR;
    for (size_t from = 0, to; ev->rc == 0 && (text ? from <= path.s->n : from == 0); from = to + 1) {
        const char *dot = text && path.s->n > from ? memchr(path.s->p + from, '.', path.s->n - from) : NULL;
        to = !text ? 0 : dot ? (size_t)(dot - path.s->p) : path.s->n;
        struct jval key = text ? path_part(ev, path.s->p + from, to - from) : path, item;
        if (jcharge(ev, 1) != 0 || jattr_item(ev, *obj, key, &item) != 0)
            return ev->rc;
        *obj = item.type == J_UNDEF && replace ? otherwise : item;
    }
    return ev->rc;
}

struct slice {
    int64_t n; /* of what is sliced: negative bounds count from there */
    int64_t low, high;
};

/* One bound of a slice, clamped to [low, high] as Python does. */
static int slice_bound(struct jeval *ev, const struct slice *s, struct jval v, int64_t absent, int64_t *out)
{
    *out = absent;
    if (v.type == J_ABSENT || v.type == J_NONE)
        return 0;
    if (!jis_integer(v))
        return jfail(ev, "slice indices must be integers or none");
    *out = jas_int(v) < 0 ? jas_int(v) + s->n : jas_int(v);
    *out = *out < s->low ? s->low : *out > s->high ? s->high : *out;
    return 0;
}

static int slice_string(struct jeval *ev, const struct jlist *chars, struct jval *out)
{
    struct jtext t;
    jtext_start(&t, ev);
    for (size_t i = 0; i < chars->n; i++)
        jtext_str(&t, chars->v[i].s);
    *out = jstring(jtext_done(&t));
    return ev->rc;
}

int jattr_slice(struct jeval *ev, struct jval obj, const struct jval bound[3], struct jval *out)
{
    int64_t n, step, from, to;
    if (obj.type == J_UNDEF)
        return jfail_undefined(ev, obj);
    if (obj.type != J_STR && obj.type != J_LIST && obj.type != J_TUPLE && obj.type != J_RANGE)
        return jfail(ev, "'%s' object can't be sliced", jtype_name(obj));
    if (jval_len(ev, obj, &n) != 0 || slice_bound(ev, &(struct slice){0, -n - 1, n + 1}, bound[2], 1, &step) != 0)
        return ev->rc;
    if (step == 0)
        return jfail(ev, "slice step cannot be zero");
    const struct slice within = {n, step > 0 ? 0 : -1, step > 0 ? n : n - 1};
    if (slice_bound(ev, &within, bound[0], step > 0 ? 0 : n - 1, &from) != 0 ||
        slice_bound(ev, &within, bound[1], step > 0 ? n : -1, &to) != 0)
        return ev->rc;
    int64_t count = step > 0 ? (to - from + step - 1) / step : (from - to - step - 1) / -step;
    count = count < 0 || (step > 0 ? to <= from : from <= to) ? 0 : count;
    if (obj.type == J_STR && step == 1) {
        size_t a = jstr_offset(ev, obj.s, (size_t)from), b = count ? jstr_offset(ev, obj.s, (size_t)to) : a;
        *out = jstring(jstr_slice(ev, obj.s, a, b - a));
        return ev->rc;
    }
    struct jlist *all = jval_items(ev, obj), *l = jlist_new(ev, (size_t)count);
    for (int64_t i = 0; all && l && i < count; i++)
        l->v[i] = all->v[from + i * step];
    if (!all || !l)
        return ev->rc;
    if (obj.type == J_STR)
        return slice_string(ev, l, out);
    *out = jlist_val(obj.type == J_TUPLE ? J_TUPLE : J_LIST, l);
    return ev->rc;
}
