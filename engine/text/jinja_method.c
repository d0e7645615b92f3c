/* jinja_method - methods of strings, dicts, lists and tuples: the fixed tables of what a template may call.
 *
 * A name that Python has and we do not is in the tables too (run NULL): it must hide a dict's key of that name from
 * `x.name` as in Python, and names itself when it is called. What would change its object is jmethod_unsafe.
 */
#include "engine/text/jinja_int.h"

#include <string.h>

static int want_string(struct jeval *ev, struct jval v)
{
    return v.type == J_STR ? 0 : jfail(ev, "the argument must be a string, not %s", jtype_name(v));
}

/* --- searching --- */

/* Bytes [from, to) of s that the arguments start and end (characters, may be absent) leave. */
static int window(struct jeval *ev, const struct jstr *s, const struct jval bound[2], size_t out[2])
{
    int64_t n = (int64_t)jstr_chars(s), at[2] = {0, n};
    for (int i = 0; i < 2; i++) {
        if (bound[i].type == J_ABSENT || bound[i].type == J_NONE)
            continue;
        if (!jis_integer(bound[i]))
            return jfail(ev, "slice indices must be integers or none");
        at[i] = jas_int(bound[i]) + (jas_int(bound[i]) < 0 ? n : 0);
        at[i] = at[i] < 0 ? 0 : at[i];
    }
    out[0] = jstr_offset(ev, s, (size_t)at[0]);
    out[1] = jstr_offset(ev, s, (size_t)at[1]);
    if (at[0] > n || out[1] < out[0]) /* nothing is found there, not even "" */
        out[0] = SIZE_MAX;
    return ev->rc;
}

static int64_t chars_before(const struct jstr *s, size_t byte)
{
    int64_t n = 0;
    for (size_t i = 0; i < byte; i++)
        n += ((uint8_t)s->p[i] & 0xC0) != 0x80;
    return n;
}

static int search(struct jeval *ev, struct jval self, const struct jcall *c, bool right, struct jval *out)
{
    size_t w[2], at = SIZE_MAX;
    if (want_string(ev, c->pos[0]) != 0 || window(ev, self.s, c->pos + 1, w) != 0 || jcharge(ev, self.s->n / 64) != 0)
        return ev->rc;
    const struct jstr *sub = c->pos[0].s;
    if (w[0] != SIZE_MAX) {
        struct jstr head = *self.s;
        head.n = w[1];
        at = right ? jstr_rfind(ev, &head, head.n, sub) : jstr_find(&head, w[0], sub);
        at = at != SIZE_MAX && at < w[0] ? SIZE_MAX : at;
    }
    *out = jint(at == SIZE_MAX ? -1 : chars_before(self.s, at));
    return ev->rc;
}

static int m_find(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return search(ev, self, c, false, out);
}

static int m_rfind(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return search(ev, self, c, true, out);
}

static int m_index(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    if (search(ev, self, c, false, out) != 0)
        return ev->rc;
    return out->i < 0 ? jfail(ev, "substring not found") : 0;
}

static int m_rindex(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    if (search(ev, self, c, true, out) != 0)
        return ev->rc;
    return out->i < 0 ? jfail(ev, "substring not found") : 0;
}

static int m_count(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    size_t w[2];
    int64_t n = 0;
    if (want_string(ev, c->pos[0]) != 0 || window(ev, self.s, c->pos + 1, w) != 0 || jcharge(ev, self.s->n / 64) != 0)
        return ev->rc;
    struct jstr s = *self.s;
    if (w[0] == SIZE_MAX) {
        *out = jint(0);
        return 0;
    }
    s.n = w[1];
    if (c->pos[0].s->n == 0)
        n = chars_before(self.s, w[1]) - chars_before(self.s, w[0]) + 1;
    else
        for (size_t at = w[0]; (at = jstr_find(&s, at, c->pos[0].s)) != SIZE_MAX; at += c->pos[0].s->n)
            n++;
    *out = jint(n);
    return jcharge(ev, (size_t)n);
}

static bool affix(const struct jstr *s, const size_t w[2], const struct jstr *a, bool end)
{
    if (w[0] == SIZE_MAX || a->n > w[1] - w[0])
        return false;
    return memcmp(s->p + (end ? w[1] - a->n : w[0]), a->p, a->n) == 0;
}

static int has_affix(struct jeval *ev, struct jval self, const struct jcall *c, bool end, struct jval *out)
{
    size_t w[2];
    struct jval one[1] = {c->pos[0]};
    struct jlist single = {.v = one, .n = 1}, *any = c->pos[0].type == J_TUPLE ? c->pos[0].l : &single;
    *out = jbool(false);
    if (window(ev, self.s, c->pos + 1, w) != 0)
        return ev->rc;
    for (size_t i = 0; i < any->n && !out->b; i++) {
        if (want_string(ev, any->v[i]) != 0)
            return ev->rc;
        out->b = affix(self.s, w, any->v[i].s, end);
    }
    return 0;
}

static int m_startswith(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return has_affix(ev, self, c, false, out);
}

static int m_endswith(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return has_affix(ev, self, c, true, out);
}

/* --- case --- */
const struct jstr *jstr_case(struct jeval *ev, enum jcase first, enum jcase rest, const struct jstr *s)
{
    struct jtext t;
    jtext_start(&t, ev);
    for (size_t i = 0, len; i < s->n && ev->rc == 0; i += len) {
        uint32_t cp, to[3];
        len = utf8_next(s->p + i, s->n - i, &cp);
        int n = junicode_map(i == 0 ? first : rest, cp, to);
        for (int k = 0; k < n; k++)
            jtext_char(&t, to[k], jstr_foreign_at(s, i));
    }
    return jcharge(ev, s->n / 16) == 0 ? jtext_done(&t) : NULL;
}

static int m_upper(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    *out = jstring(jstr_case(ev, JCASE_UPPER, JCASE_UPPER, self.s));
    return ev->rc;
}

static int m_lower(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    *out = jstring(jstr_case(ev, JCASE_LOWER, JCASE_LOWER, self.s));
    return ev->rc;
}

static int m_capitalize(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    *out = jstring(jstr_case(ev, JCASE_TITLE, JCASE_LOWER, self.s));
    return ev->rc;
}

static bool is_cased(uint32_t cp)
{
    return junicode_upper(cp) || junicode_lower(cp) || junicode_title(cp);
}

/* Map each character; `pick` chooses how from the character and the one before it (0 at the start). */
static int map_chars(struct jeval *ev, const struct jstr *s, enum jcase (*pick)(uint32_t before, uint32_t cp),
                     struct jval *out)
{
    struct jtext t;
    uint32_t before = 0, cp, to[3];
    jtext_start(&t, ev);
    for (size_t i = 0, len; i < s->n && ev->rc == 0; i += len, before = cp) {
        len = utf8_next(s->p + i, s->n - i, &cp);
        int n = junicode_map(pick(before, cp), cp, to);
        for (int k = 0; k < n; k++)
            jtext_char(&t, to[k], jstr_foreign_at(s, i));
    }
    if (jcharge(ev, s->n / 16) == 0)
        *out = jstring(jtext_done(&t));
    return ev->rc;
}

static enum jcase pick_title(uint32_t before, uint32_t cp)
{
    return is_cased(before) ? JCASE_LOWER : JCASE_TITLE;
}

static enum jcase pick_swapped(uint32_t before, uint32_t cp)
{
    return junicode_upper(cp) ? JCASE_LOWER : JCASE_UPPER;
}

static int m_title(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return map_chars(ev, self.s, pick_title, out);
}

static int m_swapcase(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return map_chars(ev, self.s, pick_swapped, out);
}

/* --- classes --- */
bool jstr_all(const struct jstr *s, bool (*is)(uint32_t cp))
{
    for (size_t i = 0; i < s->n;) {
        uint32_t cp;
        i += utf8_next(s->p + i, s->n - i, &cp);
        if (!is(cp))
            return false;
    }
    return s->n > 0;
}

bool jstr_cased(const struct jstr *s, bool (*not_this)(uint32_t cp))
{
    bool any = false;
    for (size_t i = 0; i < s->n;) {
        uint32_t cp;
        i += utf8_next(s->p + i, s->n - i, &cp);
        if (not_this(cp) || junicode_title(cp))
            return false;
        any = any || is_cased(cp);
    }
    return any;
}

static int class_of(struct jeval *ev, const struct jstr *s, bool (*is)(uint32_t cp), struct jval *out)
{
    *out = jbool(jstr_all(s, is));
    return jcharge(ev, s->n / 64);
}

static bool is_ascii(uint32_t cp)
{
    return cp < 0x80;
}

static int m_isalpha(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return class_of(ev, self.s, junicode_alpha, out);
}

static int m_isalnum(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return class_of(ev, self.s, junicode_alnum, out);
}

static int m_isdigit(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return class_of(ev, self.s, junicode_digit, out);
}

static int m_isdecimal(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return class_of(ev, self.s, junicode_decimal, out);
}

static int m_isspace(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return class_of(ev, self.s, junicode_space, out);
}

static int m_isascii(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    *out = jbool(self.s->n == 0 || jstr_all(self.s, is_ascii));
    return jcharge(ev, self.s->n / 64);
}

static int m_isprintable(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    *out = jbool(self.s->n == 0 || jstr_all(self.s, junicode_printable));
    return jcharge(ev, self.s->n / 64);
}

static int m_isupper(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    *out = jbool(jstr_cased(self.s, junicode_lower));
    return jcharge(ev, self.s->n / 64);
}

static int m_islower(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    *out = jbool(jstr_cased(self.s, junicode_upper));
    return jcharge(ev, self.s->n / 64);
}

/* --- padding --- */

/* s with `left` and `right` fill characters around it. */
static const struct jstr *pad(struct jeval *ev, const struct jstr *s, int64_t left, int64_t right, uint32_t fill)
{
    struct jtext t;
    jtext_start(&t, ev);
    jtext_fill(&t, fill, (size_t)left, false);
    jtext_str(&t, s);
    jtext_fill(&t, fill, (size_t)right, false);
    return jtext_done(&t);
}

const struct jstr *jstr_center(struct jeval *ev, const struct jstr *s, int64_t width, uint32_t fill)
{
    int64_t room = width - (int64_t)jstr_chars(s), left = room / 2 + (room & width & 1);
    return room <= 0 ? s : pad(ev, s, left, room - left, fill);
}

static int padding(struct jeval *ev, struct jval self, const struct jcall *c, int side, struct jval *out)
{
    uint32_t fill = ' ';
    if (!jis_integer(c->pos[0]))
        return jfail(ev, "a width must be an integer");
    if (c->pos[1].type != J_ABSENT) {
        if (want_string(ev, c->pos[1]) != 0)
            return ev->rc;
        if (jstr_chars(c->pos[1].s) != 1)
            return jfail(ev, "the fill character must be exactly one character long");
        utf8_next(c->pos[1].s->p, c->pos[1].s->n, &fill);
    }
    int64_t width = jas_int(c->pos[0]), room = width - (int64_t)jstr_chars(self.s);
    if (room <= 0)
        *out = self;
    else if (side == 0)
        *out = jstring(jstr_center(ev, self.s, width, fill));
    else
        *out = jstring(pad(ev, self.s, side < 0 ? room : 0, side < 0 ? 0 : room, fill));
    return ev->rc;
}

static int m_center(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return padding(ev, self, c, 0, out);
}

static int m_ljust(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return padding(ev, self, c, 1, out);
}

static int m_rjust(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return padding(ev, self, c, -1, out);
}

static int m_zfill(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    struct jtext t;
    if (!jis_integer(c->pos[0]))
        return jfail(ev, "a width must be an integer");
    int64_t room = jas_int(c->pos[0]) - (int64_t)jstr_chars(self.s);
    size_t sign = self.s->n > 0 && (self.s->p[0] == '-' || self.s->p[0] == '+');
    jtext_start(&t, ev);
    jtext_slice(&t, self.s, 0, sign);
    jtext_fill(&t, '0', room > 0 ? (size_t)room : 0, false);
    jtext_slice(&t, self.s, sign, self.s->n - sign);
    *out = jstring(jtext_done(&t));
    return ev->rc;
}

static int m_format(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return jformat_braces(ev, self.s, c, out);
}

/* --- dicts and lists --- */
static int m_get(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    if (jdict_get(ev, self.d, c->pos[0], out) != 0)
        return ev->rc;
    if (out->type == J_ABSENT)
        *out = c->pos[1].type == J_ABSENT ? jnone() : c->pos[1];
    return 0;
}

static int view(struct jeval *ev, const struct jdict *d, const char *what, struct jval *out)
{
    struct jlist *l = jlist_new(ev, d->n);
    for (size_t i = 0; l && i < d->n; i++) {
        if (strcmp(what, "dict_items") != 0) {
            l->v[i] = strcmp(what, "dict_keys") == 0 ? d->p[i].key : d->p[i].val;
            continue;
        }
        struct jlist *pair = jlist_new(ev, 2);
        if (!pair)
            return ev->rc;
        pair->v[0] = d->p[i].key;
        pair->v[1] = d->p[i].val;
        l->v[i] = jlist_val(J_TUPLE, pair);
    }
    if (l)
        l->what = what;
    *out = jlist_val(J_VIEW, l);
    return ev->rc;
}

static int m_items(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return view(ev, self.d, "dict_items", out);
}

static int m_keys(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return view(ev, self.d, "dict_keys", out);
}

static int m_values(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return view(ev, self.d, "dict_values", out);
}

static int m_copy(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    *out = self; /* nothing can change either */
    return 0;
}

static int m_list_index(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    for (size_t i = 0; i < self.l->n; i++) {
        bool same;
        if (jcharge(ev, 1) != 0 || jval_equal(ev, self.l->v[i], c->pos[0], &same) != 0)
            return ev->rc;
        if (same) {
            *out = jint((int64_t)i);
            return 0;
        }
    }
    return jfail(ev, "the value is not in the list");
}

static int m_list_count(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    *out = jint(0);
    for (size_t i = 0; i < self.l->n; i++) {
        bool same;
        if (jcharge(ev, 1) != 0 || jval_equal(ev, self.l->v[i], c->pos[0], &same) != 0)
            return ev->rc;
        out->i += same;
    }
    return 0;
}

const struct jfunc jmethod_unsafe = {.name = "unsafe"};

static const struct jfunc str_methods[] = {
    {"startswith", m_startswith, 1, false, {"prefix", "start", "end"}},
    {"endswith", m_endswith, 1, false, {"suffix", "start", "end"}},
    {"find", m_find, 1, false, {"sub", "start", "end"}},
    {"rfind", m_rfind, 1, false, {"sub", "start", "end"}},
    {"index", m_index, 1, false, {"sub", "start", "end"}},
    {"rindex", m_rindex, 1, false, {"sub", "start", "end"}},
    {"count", m_count, 1, false, {"sub", "start", "end"}},
    {"upper", m_upper, 0, false, {0}},
    {"lower", m_lower, 0, false, {0}},
    {"title", m_title, 0, false, {0}},
    {"capitalize", m_capitalize, 0, false, {0}},
    {"swapcase", m_swapcase, 0, false, {0}},
    {"format", m_format, 0, true, {0}},
    {"isalpha", m_isalpha, 0, false, {0}},
    {"isalnum", m_isalnum, 0, false, {0}},
    {"isdigit", m_isdigit, 0, false, {0}},
    {"isdecimal", m_isdecimal, 0, false, {0}},
    {"isspace", m_isspace, 0, false, {0}},
    {"isascii", m_isascii, 0, false, {0}},
    {"isprintable", m_isprintable, 0, false, {0}},
    {"isupper", m_isupper, 0, false, {0}},
    {"islower", m_islower, 0, false, {0}},
    {"center", m_center, 1, false, {"width", "fillchar"}},
    {"ljust", m_ljust, 1, false, {"width", "fillchar"}},
    {"rjust", m_rjust, 1, false, {"width", "fillchar"}},
    {"zfill", m_zfill, 1, false, {"width"}},
    {.name = "casefold"},
    {.name = "encode"},
    {.name = "expandtabs"},
    {.name = "format_map"},
    {.name = "isidentifier"},
    {.name = "isnumeric"},
    {.name = "istitle"},
    {.name = "maketrans"},
    {.name = "translate"},
    {0},
};
static const struct jfunc dict_methods[] = {
    {"get", m_get, 1, false, {"key", "default"}},
    {"items", m_items, 0, false, {0}},
    {"keys", m_keys, 0, false, {0}},
    {"values", m_values, 0, false, {0}},
    {"copy", m_copy, 0, false, {0}},
    {.name = "fromkeys"},
    {0},
};
static const struct jfunc list_methods[] = {
    {"index", m_list_index, 1, false, {"value"}},
    {"count", m_list_count, 1, false, {"value"}},
    {"copy", m_copy, 0, false, {0}},
    {0},
};
static const char *const dict_unsafe[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
static const char *const list_unsafe[] = {"append", "clear",  "pop",    "reverse", "insert",
                                          "sort",   "extend", "remove", NULL};

static const struct jfunc *find(const struct jfunc *table, const struct jstr *name)
{
    for (; table->name; table++)
        if (jstr_is(name, table->name))
            return table;
    return NULL;
}

static bool listed(const char *const *names, const struct jstr *name)
{
    for (; *names; names++)
        if (jstr_is(name, *names))
            return true;
    return false;
}

const struct jfunc *jmethod_find(struct jval obj, const struct jstr *name)
{
    const struct jfunc *f;
    switch (obj.type) {
    case J_STR:
        f = find(jmethod_cut, name);
        return f ? f : find(str_methods, name);
    case J_DICT:
        f = find(dict_methods, name);
        return !f && listed(dict_unsafe, name) ? &jmethod_unsafe : f;
    case J_LIST:
        f = find(list_methods, name);
        return !f && listed(list_unsafe, name) ? &jmethod_unsafe : f;
    case J_TUPLE:
    case J_RANGE:
        f = find(list_methods, name);
        return f && f->run == m_copy ? NULL : f;
    default:
        return NULL;
    }
}
