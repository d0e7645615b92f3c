/* jinja_data - lists and dicts of the Jinja engine, sorting, and values out of JSON.
 *
 * Dicts keep the order of insertion. Up to 8 pairs are searched one by one; beyond that a hash index (SipHash with a
 * key of this render, so that no input can make it slow) is made at the first look-up.
 */
#include "engine/text/jinja_int.h"

#include "engine/base/hash.h"

#include <math.h>
#include <string.h>

struct jlist *jlist_new(struct jeval *ev, size_t n)
{
    struct jlist *l = jcharge(ev, n / 8) == 0 ? jalloc(ev, 1, sizeof *l) : NULL;
    if (!l)
        return NULL;
    l->v = jalloc(ev, n, sizeof *l->v);
    l->n = n;
    return l->v ? l : NULL;
}

struct jlist *jlist_slice(struct jeval *ev, const struct jlist *l, size_t from, size_t n)
{
    struct jlist *part = jalloc(ev, 1, sizeof *part);
    if (part) {
        part->v = l->v + from;
        part->n = n;
    }
    return part;
}

struct jdict *jdict_new(struct jeval *ev, size_t cap)
{
    struct jdict *d = jalloc(ev, 1, sizeof *d);
    if (!d)
        return NULL;
    d->p = jalloc(ev, cap, sizeof *d->p);
    d->cap = cap;
    return d->p ? d : NULL;
}

bool jval_hashable(struct jval v)
{
    bool yes = v.type != J_LIST && v.type != J_DICT;
    for (size_t i = 0; yes && v.type == J_TUPLE && i < v.l->n; i++)
        yes = v.l->v[i].type != J_LIST && v.l->v[i].type != J_DICT;
    return yes;
}

/* Equal keys hash alike: 1, 1.0 and true are one key; what hashing does not reach into is told apart by comparing. */
static uint64_t hash(const struct jeval *ev, struct jval key)
{
    int64_t number[2] = {key.type, 0};
    if (key.type == J_STR || key.type == J_BIG)
        return hash_sip(key.s->p, key.s->n, ev->hash_key);
    if (jis_integer(key) || (key.type == J_FLOAT && fabs(key.f) < 0x1p62 && key.f == trunc(key.f))) {
        number[0] = J_INT;
        number[1] = key.type == J_FLOAT ? (int64_t)key.f : jas_int(key);
    } else if (key.type == J_FLOAT) {
        memcpy(&number[1], &key.f, sizeof key.f);
    }
    return hash_sip(number, sizeof number, ev->hash_key);
}

static int index_dict(struct jeval *ev, struct jdict *d)
{
    size_t n = 32;
    while (n < d->n * 3)
        n *= 2;
    d->slot = jcharge(ev, d->n) == 0 ? jalloc(ev, n, sizeof *d->slot) : NULL;
    if (!d->slot)
        return ev->rc;
    d->n_slots = n;
    for (size_t i = 0; i < d->n; i++) {
        size_t at = hash(ev, d->p[i].key) & (n - 1);
        while (d->slot[at])
            at = (at + 1) & (n - 1);
        d->slot[at] = (uint32_t)i + 1;
    }
    return 0;
}

static int same_key(struct jeval *ev, struct jval a, struct jval b, bool *same)
{
    if (a.type == J_STR && b.type == J_STR) {
        *same = jstr_equal(a.s, b.s);
        return 0;
    }
    return jval_equal(ev, a, b, same);
}

/* The pair of a key, or NULL; *free_slot is where a new one goes when there is an index. */
static struct jpair *find(struct jeval *ev, struct jdict *d, struct jval key, size_t *free_slot)
{
    bool same;
    if (d->n <= 8) {
        for (size_t i = 0; i < d->n; i++)
            if (same_key(ev, key, d->p[i].key, &same) != 0 || same)
                return ev->rc == 0 ? &d->p[i] : NULL;
        return NULL;
    }
    if (d->n_slots < d->n * 2 && index_dict(ev, d) != 0)
        return NULL;
    for (size_t at = hash(ev, key) & (d->n_slots - 1); ev->rc == 0; at = (at + 1) & (d->n_slots - 1)) {
        if (!d->slot[at]) {
            *free_slot = at;
            return NULL;
        }
        struct jpair *p = &d->p[d->slot[at] - 1];
        if (jcharge(ev, 1) != 0 || same_key(ev, key, p->key, &same) != 0 || same)
            return ev->rc == 0 ? p : NULL;
    }
    return NULL;
}

static int check_key(struct jeval *ev, struct jval key)
{
    return jval_hashable(key) ? ev->rc : jfail(ev, "unhashable type: '%s'", jtype_name(key));
}

int jdict_get(struct jeval *ev, struct jdict *d, struct jval key, struct jval *out)
{
    size_t slot;
    if (check_key(ev, key) != 0)
        return ev->rc;
    struct jpair *p = find(ev, d, key, &slot);
    *out = p ? p->val : (struct jval){0};
    return ev->rc;
}

struct jval jdict_text(struct jeval *ev, struct jdict *d, const struct jstr *key)
{
    struct jval v = {0};
    jdict_get(ev, d, jstring(key), &v);
    return v;
}

int jdict_set(struct jeval *ev, struct jdict *d, struct jval key, struct jval val)
{
    size_t slot = SIZE_MAX;
    if (check_key(ev, key) != 0)
        return ev->rc;
    struct jpair *p = find(ev, d, key, &slot);
    if (ev->rc < 0)
        return ev->rc;
    if (p) {
        p->val = val;
        return 0;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap < 4 ? 8 : d->cap * 2;
        struct jpair *more = jalloc(ev, cap, sizeof *more);
        if (!more)
            return ev->rc;
        if (d->n)
            memcpy(more, d->p, d->n * sizeof *more);
        d->p = more;
        d->cap = cap;
    }
    d->p[d->n++] = (struct jpair){key, val};
    if (slot != SIZE_MAX)
        d->slot[slot] = (uint32_t)d->n;
    return 0;
}

/* --- sorting: merge, stable; keys and values move together --- */
struct sort {
    struct jeval *ev;
    struct jval *key, *val, *tmp_key, *tmp_val;
    bool reverse;
};

/* Does the right item go first? Equal ones keep their order, also in reverse. */
static bool right_first(struct sort *s, struct jval left, struct jval right)
{
    int order = 0;
    if (jcharge(s->ev, 1) == 0)
        jval_order(s->ev, s->reverse ? left : right, s->reverse ? right : left, &order);
    return order == -1;
}

static void merge(struct sort *s, size_t from, size_t mid, size_t to)
{
    size_t l = from, r = mid;
    for (size_t i = from; i < to && s->ev->rc == 0; i++) {
        bool right = l == mid || (r < to && right_first(s, s->key[l], s->key[r]));
        size_t take = right ? r++ : l++;
        s->tmp_key[i] = s->key[take];
        s->tmp_val[i] = s->val[take];
    }
    memcpy(s->key + from, s->tmp_key + from, (to - from) * sizeof *s->key);
    memcpy(s->val + from, s->tmp_val + from, (to - from) * sizeof *s->val);
}

int jval_sort(struct jeval *ev, struct jval *key, struct jval *v, size_t n, bool reverse)
{
    struct sort s = {.ev = ev, .key = key, .val = v, .reverse = reverse};
    s.tmp_key = jalloc(ev, n, sizeof *key);
    s.tmp_val = jalloc(ev, n, sizeof *v);
    for (size_t width = 1; width < n && ev->rc == 0; width *= 2)
        for (size_t from = 0; from + width < n && ev->rc == 0; from += 2 * width)
            merge(&s, from, from + width, from + 2 * width < n ? from + 2 * width : n);
    return ev->rc;
}

/* --- values out of JSON; strings refer to its bytes --- */
static const struct jstr *string_from_json(struct jeval *ev, const char *p, size_t n, bool foreign)
{
    for (const char *const *w = ev->in->words; foreign && w && *w; w++)
        foreign = n != strlen(*w) || memcmp(p, *w, n) != 0;
    return jstr_new(ev, p, n, foreign);
}

static int number_from_json(struct jeval *ev, const struct json_val *src, struct jval *out)
{
    struct str digits = {0};
    json_put_value(&digits, src, false);
    if (digits.oom) {
        str_fini(&digits);
        return joom(ev);
    }
    if (strpbrk(str_text(&digits), ".eE")) {
        out->type = J_FLOAT;
        json_double(src, &out->f);
    } else if (json_int(src, &out->i)) {
        out->type = J_INT;
    } else {
        char *copy = jalloc(ev, digits.len, 1);
        if (copy)
            memcpy(copy, digits.data, digits.len);
        out->s = copy ? jstr_new(ev, copy, digits.len, true) : NULL;
        out->type = J_BIG;
    }
    str_fini(&digits);
    return ev->rc;
}

static int ints_from_json(struct jeval *ev, const int32_t *ints, size_t n, struct jval *out)
{
    struct jlist *l = jlist_new(ev, n);
    for (size_t i = 0; l && i < n; i++)
        l->v[i] = jint(ints[i]);
    *out = jlist_val(J_LIST, l);
    return ev->rc;
}

static int array_from_json(struct jeval *ev, const struct json_val *src, bool foreign, struct jval *out)
{
    size_t n;
    const int32_t *ints = json_ints(src, &n);
    if (ints)
        return ints_from_json(ev, ints, n, out);
    struct jlist *l = jlist_new(ev, json_count(src));
    size_t i = 0;
    for (const struct json_val *v = json_first(src); l && v && i < l->n; v = json_next(v))
        if (jval_from_json(ev, v, foreign, &l->v[i++]) != 0)
            return ev->rc;
    *out = jlist_val(J_LIST, l);
    return ev->rc;
}

static int object_from_json(struct jeval *ev, const struct json_val *src, bool foreign, struct jval *out)
{
    struct jdict *d = jdict_new(ev, json_count(src));
    for (const struct json_val *v = json_first(src); d && v && d->n < d->cap; v = json_next(v)) {
        size_t n;
        const char *key = json_key(v, &n);
        d->p[d->n].key = jstring(string_from_json(ev, key, n, foreign));
        if (ev->rc < 0 || jval_from_json(ev, v, foreign, &d->p[d->n].val) != 0)
            return ev->rc;
        d->n++;
    }
    *out = (struct jval){.type = J_DICT, .d = d};
    return ev->rc;
}

static int inside_from_json(struct jeval *ev, const struct json_val *src, bool foreign, struct jval *out)
{
    size_t n;
    const char *text;
    switch (json_typeof(src)) {
    case JSON_NULL:
        *out = jnone();
        return 0;
    case JSON_FALSE:
    case JSON_TRUE:
        *out = jbool(json_typeof(src) == JSON_TRUE);
        return 0;
    case JSON_NUMBER:
        return number_from_json(ev, src, out);
    case JSON_STRING:
        text = json_text(src, &n);
        *out = jstring(string_from_json(ev, text, n, foreign));
        return ev->rc;
    case JSON_ARRAY:
        return array_from_json(ev, src, foreign, out);
    default:
        return object_from_json(ev, src, foreign, out);
    }
}

int jval_from_json(struct jeval *ev, const struct json_val *src, bool foreign, struct jval *out)
{
    if (jenter(ev) != 0)
        return ev->rc;
    int rc = inside_from_json(ev, src, foreign, out);
    ev->depth--;
    return rc;
}
