/* jinja_value - what any value can be asked: truth, equality, order, length, membership, its items. Python's rules. */
#include "engine/text/jinja_int.h"

#include <math.h>
#include <string.h>

struct jval jundef_hint(struct jeval *ev, const char *hint)
{
    const struct jstr *s = jstr_cstr(ev, hint);
    return s ? (struct jval){.type = J_UNDEF, .of = J_FUNC, .s = s} : (struct jval){0};
}

struct jval jundef_attr(struct jval obj, const struct jstr *name)
{
    return (struct jval){.type = J_UNDEF, .of = obj.type, .s = name};
}

static const char *type_name(enum jtype type)
{
    static const char *const names[] = {
        [J_UNDEF] = "Undefined", [J_NONE] = "NoneType",       [J_BOOL] = "bool",      [J_INT] = "int",
        [J_BIG] = "int",         [J_FLOAT] = "float",         [J_STR] = "str",        [J_LIST] = "list",
        [J_TUPLE] = "tuple",     [J_VIEW] = "view",           [J_ITER] = "generator", [J_RANGE] = "range",
        [J_DICT] = "dict",       [J_NAMESPACE] = "namespace", [J_LOOP] = "loop",      [J_MACRO] = "macro",
        [J_FUNC] = "function",   [J_METHOD] = "method"};
    return type < sizeof names / sizeof *names && names[type] ? names[type] : "nothing";
}

const char *jtype_name(struct jval v)
{
    return v.type == J_VIEW ? v.l->what : type_name((enum jtype)v.type);
}

int jfail_undefined(struct jeval *ev, struct jval u)
{
    int n = jclip(u.s->n);
    if (u.of == J_FUNC)
        return jfail(ev, "%.*s", n, u.s->p);
    if (u.of == J_ABSENT)
        return jfail(ev, "'%.*s' is undefined", n, u.s->p);
    return jfail(ev, "'%s' object has no attribute '%.*s'", type_name((enum jtype)u.of), n, u.s->p);
}

int jval_truth(struct jeval *ev, struct jval v, bool *out)
{
    int64_t len = 1;
    switch (v.type) {
    case J_ABSENT:
    case J_UNDEF:
    case J_NONE:
        *out = false;
        return 0;
    case J_BOOL:
        *out = v.b;
        return 0;
    case J_INT:
        *out = v.i != 0;
        return 0;
    case J_FLOAT:
        *out = v.f != 0;
        return 0;
    case J_STR:
        *out = v.s->n != 0;
        return 0;
    case J_LIST:
    case J_TUPLE:
    case J_VIEW:
    case J_RANGE:
    case J_DICT:
    case J_LOOP:
        if (jval_len(ev, v, &len) != 0)
            return ev->rc;
        break;
    default:
        break;
    }
    *out = len != 0;
    return 0;
}

/* -1, 0, 1, or 2 when one is no number. long double holds every int64_t and double exactly. */
static int number_order(struct jval a, struct jval b)
{
    if (jis_integer(a) && jis_integer(b))
        return (jas_int(a) > jas_int(b)) - (jas_int(a) < jas_int(b));
    long double x = a.type == J_FLOAT ? (long double)a.f : (long double)jas_int(a);
    long double y = b.type == J_FLOAT ? (long double)b.f : (long double)jas_int(b);
    return isunordered(x, y) ? 2 : (x > y) - (x < y);
}

static int lists_equal(struct jeval *ev, const struct jlist *a, const struct jlist *b, bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++)
        if (jval_equal(ev, a->v[i], b->v[i], out) != 0)
            return ev->rc;
    return 0;
}

static int dicts_equal(struct jeval *ev, struct jdict *a, struct jdict *b, bool *out)
{
    struct jval other;
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++) {
        if (jdict_get(ev, b, a->p[i].key, &other) != 0)
            return ev->rc;
        *out = other.type != J_ABSENT;
        if (*out && jval_equal(ev, a->p[i].val, other, out) != 0)
            return ev->rc;
    }
    return 0;
}

static int equal_inside(struct jeval *ev, struct jval a, struct jval b, bool *out)
{
    switch (a.type) {
    case J_UNDEF:
    case J_NONE:
        *out = true;
        break;
    case J_BIG:
    case J_STR:
        *out = jstr_equal(a.s, b.s);
        break;
    case J_LIST:
    case J_TUPLE:
    case J_RANGE:
        return lists_equal(ev, a.l, b.l, out);
    case J_DICT:
        return dicts_equal(ev, a.d, b.d, out);
    default: /* identity; the pointers of all kinds share their place */
        *out = a.loop == b.loop;
        break;
    }
    return 0;
}

int jval_equal(struct jeval *ev, struct jval a, struct jval b, bool *out)
{
    *out = false;
    if (jis_number(a) && jis_number(b)) {
        *out = number_order(a, b) == 0;
        return 0;
    }
    if (a.type != b.type)
        return 0;
    if (jenter(ev) != 0)
        return ev->rc;
    int rc = equal_inside(ev, a, b, out);
    ev->depth--;
    return rc;
}

static int lists_order(struct jeval *ev, const struct jlist *a, const struct jlist *b, int *out)
{
    for (size_t i = 0; i < a->n && i < b->n; i++) {
        bool same;
        if (jval_equal(ev, a->v[i], b->v[i], &same) != 0)
            return ev->rc;
        if (!same)
            return jval_order(ev, a->v[i], b->v[i], out);
    }
    *out = (a->n > b->n) - (a->n < b->n);
    return 0;
}

/* -1, 0, 1; 2 when NaN makes them unordered. */
int jval_order(struct jeval *ev, struct jval a, struct jval b, int *out)
{
    if (jis_number(a) && jis_number(b)) {
        *out = number_order(a, b);
        return 0;
    }
    if (a.type == J_STR && b.type == J_STR) {
        int c = jstr_order(a.s, b.s);
        *out = (c > 0) - (c < 0);
        return jcharge(ev, a.s->n / 64);
    }
    if (a.type == J_UNDEF || b.type == J_UNDEF)
        return jfail_undefined(ev, a.type == J_UNDEF ? a : b);
    if ((a.type == J_BIG && (b.type == J_BIG || jis_number(b))) || (b.type == J_BIG && jis_number(a)))
        return jfail(ev, "an integer is beyond 64 bits");
    if (a.type != b.type || (a.type != J_LIST && a.type != J_TUPLE))
        return jfail(ev, "'<' not supported between instances of '%s' and '%s'", jtype_name(a), jtype_name(b));
    if (jenter(ev) != 0)
        return ev->rc;
    int rc = lists_order(ev, a.l, b.l, out);
    ev->depth--;
    return rc;
}

int jval_compare(struct jeval *ev, enum jcompare_op op, struct jval a, struct jval b, bool *out)
{
    int order, rc;
    switch (op) {
    case JC_EQ:
    case JC_NE:
        rc = jval_equal(ev, a, b, out);
        *out = *out == (op == JC_EQ);
        return rc;
    case JC_IN:
    case JC_NOT_IN:
        rc = jval_in(ev, a, b, out);
        *out = *out == (op == JC_IN);
        return rc;
    default:
        if (jval_order(ev, a, b, &order) != 0)
            return ev->rc;
        *out = (order == 0 && (op == JC_LE || op == JC_GE)) || (order == -1 && (op == JC_LT || op == JC_LE)) ||
               (order == 1 && (op == JC_GT || op == JC_GE));
        return 0;
    }
}

int jval_in(struct jeval *ev, struct jval item, struct jval seq, bool *out)
{
    struct jval found;
    *out = false;
    if (seq.type == J_STR) {
        if (item.type != J_STR)
            return jfail(ev, "'in <string>' requires string as left operand, not %s", jtype_name(item));
        *out = jstr_find(seq.s, 0, item.s) != SIZE_MAX;
        return jcharge(ev, seq.s->n / 64);
    }
    if (seq.type == J_DICT) {
        if (jdict_get(ev, seq.d, item, &found) != 0)
            return ev->rc;
        *out = found.type != J_ABSENT;
        return 0;
    }
    if (!jval_iterable(seq))
        return jfail(ev, "argument of type '%s' is not iterable", jtype_name(seq));
    struct jlist *l = jval_items(ev, seq);
    for (size_t i = 0; l && !*out && i < l->n; i++)
        if (jcharge(ev, 1) != 0 || jval_equal(ev, item, l->v[i], out) != 0)
            return ev->rc;
    return ev->rc;
}

int jval_len(struct jeval *ev, struct jval v, int64_t *out)
{
    struct jval length;
    switch (v.type) {
    case J_UNDEF:
        *out = 0;
        return 0;
    case J_STR:
        *out = (int64_t)jstr_chars(v.s);
        return 0;
    case J_LIST:
    case J_TUPLE:
    case J_VIEW:
    case J_RANGE:
        *out = (int64_t)v.l->n;
        return 0;
    case J_DICT:
        *out = (int64_t)v.d->n;
        return 0;
    case J_LOOP:
        if (jloop_attr(ev, v.loop, jstr_cstr(ev, "length"), &length) != 0)
            return ev->rc;
        *out = length.i;
        return 0;
    default:
        return jfail(ev, "object of type '%s' has no len()", jtype_name(v));
    }
}

bool jval_iterable(struct jval v)
{
    return jis_list(v) || v.type == J_STR || v.type == J_DICT || v.type == J_UNDEF;
}

static struct jlist *characters(struct jeval *ev, const struct jstr *s)
{
    struct jlist *l = jlist_new(ev, jstr_chars(s));
    size_t at = 0;
    for (size_t i = 0; l && i < l->n; i++) {
        uint32_t cp;
        size_t len = utf8_next(s->p + at, s->n - at, &cp);
        l->v[i] = jstring(jstr_markup(ev, jstr_slice(ev, s, at, len), false));
        at += len;
    }
    return ev->rc == 0 ? l : NULL;
}

static struct jlist *keys(struct jeval *ev, const struct jdict *d)
{
    struct jlist *l = jlist_new(ev, d->n);
    for (size_t i = 0; l && i < d->n; i++)
        l->v[i] = d->p[i].key;
    return l;
}

struct jlist *jval_items(struct jeval *ev, struct jval v)
{
    struct jlist *rest;
    switch (v.type) {
    case J_UNDEF:
        return jlist_new(ev, 0);
    case J_STR:
        return characters(ev, v.s);
    case J_DICT:
        return keys(ev, v.d);
    case J_ITER:
        rest = jlist_slice(ev, v.l, v.l->at, v.l->n - v.l->at);
        v.l->at = v.l->n;
        return rest;
    case J_LIST:
    case J_TUPLE:
    case J_VIEW:
    case J_RANGE:
        return v.l;
    default:
        jfail(ev, "'%s' object is not iterable", jtype_name(v));
        return NULL;
    }
}
