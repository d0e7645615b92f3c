/* jinja_filter_seq - filters on sequences: selection, mapping, sorting, grouping, joining. */
#include "engine/text/jinja_int.h"

#include <string.h>

/* A list of n items of which none is there yet. */
static struct jlist *empty_list(struct jeval *ev, size_t room)
{
    struct jlist *l = jlist_new(ev, room);
    if (l)
        l->n = 0;
    return l;
}

/* What sort, unique, min, max and groupby compare: the attribute, in lower case when it is text and case is ignored. */
static int key_of(struct jeval *ev, struct jval item, struct jval attribute, bool ignore_case, struct jval *out)
{
    *out = item;
    if (jattr_path(ev, attribute, (struct jval){0}, out) != 0)
        return ev->rc;
    if (ignore_case && out->type == J_STR)
        *out = jstring(jstr_case(ev, JCASE_LOWER, JCASE_LOWER, out->s));
    return ev->rc;
}

static struct jlist *keys_of(struct jeval *ev, const struct jlist *items, struct jval attribute, bool ignore_case)
{
    struct jlist *keys = jlist_new(ev, items->n);
    for (size_t i = 0; keys && i < items->n && ev->rc == 0; i++)
        key_of(ev, items->v[i], attribute, ignore_case, &keys->v[i]);
    return ev->rc == 0 ? keys : NULL;
}

/* The attributes that sort was given, "a,b", as a list. */
static struct jlist *attributes(struct jeval *ev, struct jval attribute)
{
    struct jcall c = {.pos = (struct jval[]){jstring(jstr_cstr(ev, ","))}, .n_pos = 1};
    struct jval list = {0};
    struct jlist *one = jlist_new(ev, 1);
    if (attribute.type == J_STR) {
        jfunc_run(ev, jmethod_find(attribute, jstr_cstr(ev, "split")), attribute, &c, &list);
        return ev->rc == 0 ? list.l : NULL;
    }
    if (one)
        one->v[0] = attribute;
    return one;
}

/* Keys of sort: tuples, so that items that are equal need not have an order. */
static struct jlist *sort_keys_of(struct jeval *ev, const struct jlist *items, struct jval attribute, bool ignore_case)
{
    struct jlist *keys = jlist_new(ev, items->n), *parts = attributes(ev, attribute);
    for (size_t i = 0; keys && parts && i < items->n && ev->rc == 0; i++) {
        struct jlist *tuple = jlist_new(ev, parts->n);
        for (size_t k = 0; tuple && k < parts->n && ev->rc == 0; k++)
            key_of(ev, items->v[i], parts->v[k], ignore_case, &tuple->v[k]);
        keys->v[i] = jlist_val(J_TUPLE, tuple);
    }
    return ev->rc == 0 ? keys : NULL;
}

/* A list of its own, which may be reordered. */
static struct jlist *copy_items(struct jeval *ev, struct jval in)
{
    struct jlist *l = jval_items(ev, in), *copy = l ? jlist_new(ev, l->n) : NULL;
    if (copy)
        memcpy(copy->v, l->v, l->n * sizeof *l->v);
    return copy;
}

/* --- order --- */
static int f_sort(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    bool reverse, sensitive;
    struct jlist *l = copy_items(ev, in);
    if (!l || jval_truth(ev, c->pos[0], &reverse) != 0 || jval_truth(ev, c->pos[1], &sensitive) != 0)
        return ev->rc;
    struct jlist *keys = sort_keys_of(ev, l, c->pos[2], !sensitive);
    if (keys)
        jval_sort(ev, keys->v, l->v, l->n, reverse);
    *out = jlist_val(J_LIST, l);
    return ev->rc;
}

static int f_dictsort(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    bool sensitive, reverse;
    size_t pos = c->pos[1].type == J_STR && jstr_is(c->pos[1].s, "value");
    if (in.type != J_DICT)
        return in.type == J_UNDEF ? jfail_undefined(ev, in)
                                  : jfail(ev, "dictsort wants a dict, not %s", jtype_name(in));
    if (jval_truth(ev, c->pos[0], &sensitive) != 0 || jval_truth(ev, c->pos[2], &reverse) != 0)
        return ev->rc;
    if (c->pos[1].type != J_ABSENT && !pos && !(c->pos[1].type == J_STR && jstr_is(c->pos[1].s, "key")))
        return jfail(ev, "dictsort: by must be 'key' or 'value'");
    struct jlist *l = jlist_new(ev, in.d->n);
    for (size_t i = 0; l && i < l->n; i++) {
        struct jlist *pair = jlist_new(ev, 2);
        if (!pair)
            return ev->rc;
        pair->v[0] = in.d->p[i].key;
        pair->v[1] = in.d->p[i].val;
        l->v[i] = jlist_val(J_TUPLE, pair);
    }
    struct jlist *keys = l ? keys_of(ev, l, jint((int64_t)pos), !sensitive) : NULL;
    if (keys)
        jval_sort(ev, keys->v, l->v, l->n, reverse);
    *out = jlist_val(J_LIST, l);
    return ev->rc;
}

static int f_reverse(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    struct jlist *l = copy_items(ev, in);
    for (size_t i = 0; l && i < l->n / 2; i++) {
        struct jval v = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = v;
    }
    if (in.type == J_STR && l)
        *out = jstring(jstr_join(ev, jstr_cstr(ev, ""), jlist_val(J_LIST, l)));
    else
        *out = jlist_val(in.type == J_ITER ? J_LIST : J_ITER, l);
    return ev->rc;
}

static int f_unique(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    bool sensitive;
    struct jlist *l = jval_items(ev, in);
    if (!l || jval_truth(ev, c->pos[0], &sensitive) != 0)
        return ev->rc;
    struct jlist *keys = keys_of(ev, l, c->pos[1], !sensitive), *kept = empty_list(ev, l->n);
    struct jdict *seen = jdict_new(ev, l->n);
    for (size_t i = 0; keys && kept && seen && i < l->n; i++) {
        struct jval found;
        if (jdict_get(ev, seen, keys->v[i], &found) != 0)
            return ev->rc;
        if (found.type == J_ABSENT && jdict_set(ev, seen, keys->v[i], jbool(true)) == 0)
            kept->v[kept->n++] = l->v[i];
    }
    *out = jlist_val(J_ITER, kept);
    return ev->rc;
}

static int min_or_max(struct jeval *ev, struct jval in, const struct jcall *c, int wanted, struct jval *out)
{
    bool sensitive;
    struct jlist *l = jval_items(ev, in);
    size_t best = 0;
    if (!l || jval_truth(ev, c->pos[0], &sensitive) != 0)
        return ev->rc;
    struct jlist *keys = keys_of(ev, l, c->pos[1], !sensitive);
    for (size_t i = 1; keys && i < l->n; i++) {
        int order;
        if (jcharge(ev, 1) != 0 || jval_order(ev, keys->v[i], keys->v[best], &order) != 0)
            return ev->rc;
        best = order == wanted ? i : best;
    }
    *out = l->n ? l->v[best] : jundef_hint(ev, "no aggregated item, sequence was empty");
    return ev->rc;
}

static int f_min(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    return min_or_max(ev, in, c, -1, out);
}

static int f_max(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    return min_or_max(ev, in, c, 1, out);
}

static int f_groupby(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    bool sensitive;
    struct jlist *l = copy_items(ev, in);
    if (!l || jval_truth(ev, c->pos[2], &sensitive) != 0)
        return ev->rc;
    struct jlist *keys = jlist_new(ev, l->n), *groups = empty_list(ev, l->n);
    for (size_t i = 0; keys && i < l->n; i++) {
        keys->v[i] = l->v[i];
        if (jattr_path(ev, c->pos[0], c->pos[1], &keys->v[i]) != 0 ||
            key_of(ev, keys->v[i], (struct jval){0}, !sensitive, &keys->v[i]) != 0)
            return ev->rc;
    }
    if (!keys || !groups || jval_sort(ev, keys->v, l->v, l->n, false) != 0)
        return ev->rc;
    for (size_t from = 0, to; from < l->n && ev->rc == 0; from = to) {
        bool same = true;
        for (to = from + 1; to < l->n && jval_equal(ev, keys->v[from], keys->v[to], &same) == 0 && same;)
            to++;
        struct jlist *group = jlist_new(ev, 2), *members = jlist_slice(ev, l, from, to - from);
        if (!group || !members)
            return ev->rc;
        group->what = "group";
        group->v[0] = l->v[from];
        jattr_path(ev, c->pos[0], c->pos[1], &group->v[0]); /* the first one's own spelling */
        group->v[1] = jlist_val(J_LIST, members);
        groups->v[groups->n++] = jlist_val(J_TUPLE, group);
    }
    *out = jlist_val(J_LIST, groups);
    return ev->rc;
}

/* --- selection --- */
static int f_first(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    if (in.type == J_ITER && in.l->at < in.l->n) { /* the rest of an iterator stays */
        *out = in.l->v[in.l->at++];
        return 0;
    }
    struct jlist *l = jval_items(ev, in);
    if (l)
        *out = l->n ? l->v[0] : jundef_hint(ev, "no first item, sequence was empty");
    return ev->rc;
}

static int f_last(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    if (in.type == J_ITER)
        return jfail(ev, "'%s' object is not reversible", jtype_name(in));
    struct jlist *l = jval_items(ev, in);
    if (l)
        *out = l->n ? l->v[l->n - 1] : jundef_hint(ev, "no last item, sequence was empty");
    return ev->rc;
}

/* The items of what select and map take: anything that is false, none too, counts as empty. */
static struct jlist *truthy_items(struct jeval *ev, struct jval in)
{
    bool truth;
    if (jval_truth(ev, in, &truth) != 0)
        return NULL;
    return truth ? copy_items(ev, in) : jlist_new(ev, 0);
}

struct chooser {              /* of select, reject, selectattr, rejectattr */
    const struct jfunc *test; /* NULL: truth */
    struct jcall args;
    struct jval attribute;
    bool reject;
};

static int chooser_init(struct jeval *ev, struct chooser *ch, const struct jcall *c, bool attr)
{
    size_t at = attr;
    if (attr && c->n_pos == 0)
        return jfail(ev, "the name of an attribute is missing");
    ch->attribute = attr ? c->pos[0] : (struct jval){0};
    if (c->n_pos <= at)
        return 0;
    const struct jstr *name = c->pos[at].type == J_STR ? c->pos[at].s : NULL;
    ch->test = name ? jtest_find(name->p, name->n) : NULL;
    if (!ch->test)
        return jfail(ev, "no test named '%.*s'", name ? jclip(name->n) : 0, name ? name->p : "");
    ch->args = (struct jcall){c->pos + at + 1, c->n_pos - at - 1, c->kw, c->n_kw};
    return 0;
}

static int choose(struct jeval *ev, struct jval in, const struct jcall *c, bool attr, bool reject, struct jval *out)
{
    struct chooser ch = {.reject = reject};
    struct jlist *l = truthy_items(ev, in), *kept = l ? empty_list(ev, l->n) : NULL;
    *out = jlist_val(J_ITER, kept);
    if (!kept || l->n == 0 || chooser_init(ev, &ch, c, attr) != 0)
        return ev->rc;
    for (size_t i = 0; i < l->n; i++) {
        struct jval v = l->v[i];
        bool holds;
        if (jcharge(ev, 1) != 0 || jattr_path(ev, ch.attribute, (struct jval){0}, &v) != 0)
            return ev->rc;
        if ((ch.test ? jtest_run(ev, ch.test, v, &ch.args, &holds) : jval_truth(ev, v, &holds)) != 0)
            return ev->rc;
        if (holds != ch.reject)
            kept->v[kept->n++] = l->v[i];
    }
    return 0;
}

static int f_select(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    return choose(ev, in, c, false, false, out);
}

static int f_reject(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    return choose(ev, in, c, false, true, out);
}

static int f_selectattr(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    return choose(ev, in, c, true, false, out);
}

static int f_rejectattr(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    return choose(ev, in, c, true, true, out);
}

/* --- mapping --- */
static int map_attribute(struct jeval *ev, const struct jcall *c, struct jlist *l)
{
    struct jval attribute = {0}, otherwise = {0};
    for (size_t i = 0; i < c->n_kw; i++) {
        if (jstr_is(c->kw[i].name, "attribute"))
            attribute = c->kw[i].val;
        else if (jstr_is(c->kw[i].name, "default"))
            otherwise = c->kw[i].val;
        else
            return jfail(ev, "map: unexpected argument '%.*s'", jclip(c->kw[i].name->n), c->kw[i].name->p);
    }
    if (attribute.type == J_ABSENT)
        return jfail(ev, "map requires a filter argument");
    for (size_t i = 0; i < l->n && jattr_path(ev, attribute, otherwise, &l->v[i]) == 0; i++)
        ;
    return ev->rc;
}

static int f_map(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    struct jlist *l = truthy_items(ev, in);
    *out = jlist_val(J_ITER, l);
    if (!l || l->n == 0)
        return ev->rc;
    if (c->n_pos == 0)
        return map_attribute(ev, c, l);
    const struct jstr *name = c->pos[0].type == J_STR ? c->pos[0].s : NULL;
    const struct jfunc *f = name ? jfilter_find(name->p, name->n) : NULL;
    const struct jcall rest = {c->pos + 1, c->n_pos - 1, c->kw, c->n_kw};
    if (!f)
        return jfail(ev, "no filter named '%.*s'", name ? jclip(name->n) : 0, name ? name->p : "");
    if (jenter(ev) != 0) /* map may call map */
        return ev->rc;
    for (size_t i = 0; i < l->n && ev->rc == 0; i++) {
        struct jval item = l->v[i];
        if (jcharge(ev, 1) == 0)
            jfunc_run(ev, f, item, &rest, &l->v[i]);
    }
    ev->depth--;
    return ev->rc;
}

/* --- lists of lists --- */
static int f_batch(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    struct jlist *l = jval_items(ev, in);
    if (!l || !jis_integer(c->pos[0]) || jas_int(c->pos[0]) < 1)
        return jfail(ev, "batch wants the length of a row, 1 or more");
    size_t row = (size_t)jas_int(c->pos[0]);
    bool fill = c->pos[1].type != J_ABSENT && c->pos[1].type != J_NONE;
    struct jlist *rows = empty_list(ev, l->n / row + 1);
    for (size_t from = 0; rows && from < l->n; from += row) {
        size_t have = l->n - from < row ? l->n - from : row;
        struct jlist *r = jlist_new(ev, fill ? row : have);
        for (size_t i = 0; r && i < r->n; i++)
            r->v[i] = i < have ? l->v[from + i] : c->pos[1];
        if (!r)
            return ev->rc;
        rows->v[rows->n++] = jlist_val(J_LIST, r);
    }
    *out = jlist_val(J_ITER, rows);
    return ev->rc;
}

static int f_slice(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    struct jlist *l = jval_items(ev, in);
    if (!l || !jis_integer(c->pos[0]) || jas_int(c->pos[0]) < 1)
        return jfail(ev, "slice wants the number of slices, 1 or more");
    bool fill = c->pos[1].type != J_ABSENT && c->pos[1].type != J_NONE;
    size_t n = (size_t)jas_int(c->pos[0]), each = l->n / n, extra = l->n % n, from = 0;
    struct jlist *slices = jlist_new(ev, n);
    for (size_t i = 0; slices && i < n; i++) {
        size_t have = each + (i < extra);
        struct jlist *s = jlist_new(ev, have + (fill && i >= extra));
        if (!s)
            return ev->rc;
        for (size_t k = 0; k < s->n; k++)
            s->v[k] = k < have ? l->v[from + k] : c->pos[1];
        from += have;
        slices->v[i] = jlist_val(J_LIST, s);
    }
    *out = jlist_val(J_ITER, slices);
    return ev->rc;
}

/* --- one value of many --- */
static int f_join(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    struct jlist *l = copy_items(ev, in);
    const struct jstr *sep = c->pos[0].type == J_ABSENT ? jstr_cstr(ev, "") : jval_str(ev, c->pos[0]);
    for (size_t i = 0; l && sep && i < l->n; i++) {
        if (jattr_path(ev, c->pos[1], (struct jval){0}, &l->v[i]) != 0)
            return ev->rc;
        l->v[i] = jstring(jval_str(ev, l->v[i]));
    }
    if (ev->rc == 0)
        *out = jstring(jstr_join(ev, sep, jlist_val(J_LIST, l)));
    return ev->rc;
}

static int f_sum(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    struct jlist *l = jval_items(ev, in);
    *out = c->pos[1].type == J_ABSENT ? jint(0) : c->pos[1];
    if (out->type == J_STR)
        return jfail(ev, "sum can't add strings");
    for (size_t i = 0; l && i < l->n; i++) {
        struct jval v = l->v[i], so_far = *out;
        if (jcharge(ev, 1) != 0 || jattr_path(ev, c->pos[0], (struct jval){0}, &v) != 0 ||
            jeval_binary(ev, '+', so_far, v, out) != 0)
            return ev->rc;
    }
    return ev->rc;
}

static int f_list(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jlist_val(J_LIST, copy_items(ev, in));
    return ev->rc;
}

static int f_items(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    struct jval view = {0};
    if (in.type == J_UNDEF) {
        *out = jlist_val(J_ITER, jlist_new(ev, 0));
        return ev->rc;
    }
    if (in.type != J_DICT)
        return jfail(ev, "can only get item pairs from a mapping");
    const struct jcall none = {0};
    if (jfunc_run(ev, jmethod_find(in, jstr_cstr(ev, "items")), in, &none, &view) == 0)
        *out = jlist_val(J_ITER, jlist_slice(ev, view.l, 0, view.l->n));
    return ev->rc;
}

const struct jfunc jfilter_of_sequences[] = {
    {"batch", f_batch, 1, false, {"linecount", "fill_with"}},
    {"dictsort", f_dictsort, 0, false, {"case_sensitive", "by", "reverse"}},
    {"first", f_first, 0, false, {0}},
    {"groupby", f_groupby, 1, false, {"attribute", "default", "case_sensitive"}},
    {"items", f_items, 0, false, {0}},
    {"join", f_join, 0, false, {"d", "attribute"}},
    {"last", f_last, 0, false, {0}},
    {"list", f_list, 0, false, {0}},
    {"map", f_map, 0, true, {0}},
    {"max", f_max, 0, false, {"case_sensitive", "attribute"}},
    {"min", f_min, 0, false, {"case_sensitive", "attribute"}},
    {"reject", f_reject, 0, true, {0}},
    {"rejectattr", f_rejectattr, 0, true, {0}},
    {"reverse", f_reverse, 0, false, {0}},
    {"select", f_select, 0, true, {0}},
    {"selectattr", f_selectattr, 0, true, {0}},
    {"slice", f_slice, 1, false, {"slices", "fill_with"}},
    {"sort", f_sort, 0, false, {"reverse", "case_sensitive", "attribute"}},
    {"sum", f_sum, 0, false, {"attribute", "start"}},
    {"unique", f_unique, 0, false, {"case_sensitive", "attribute"}},
    {0},
};
