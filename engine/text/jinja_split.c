/* jinja_split - methods that cut strings up or put them together: strip, split, lines, partition, replace, join. */
#include "engine/text/jinja_int.h"

#include <string.h>

static int want_string(struct jeval *ev, struct jval v, const char *what)
{
    return v.type == J_STR ? 0 : jfail(ev, "%s must be a string, not %s", what, jtype_name(v));
}

static bool given(struct jval v)
{
    return v.type != J_ABSENT && v.type != J_NONE;
}

/* A list under construction, whose length is not known before. */
struct growing {
    struct jlist *l;
    size_t cap;
};

static int push(struct jeval *ev, struct growing *g, const struct jstr *s)
{
    if (!g->l || g->l->n == g->cap) {
        size_t cap = g->cap ? g->cap * 2 : 8;
        struct jlist *more = jlist_new(ev, cap);
        if (!more)
            return ev->rc;
        more->n = g->l ? g->l->n : 0;
        if (more->n)
            memcpy(more->v, g->l->v, more->n * sizeof *more->v);
        g->l = more;
        g->cap = cap;
    }
    if (!s || jcharge(ev, 1) != 0)
        return ev->rc;
    g->l->v[g->l->n++] = jstring(s);
    return 0;
}

/* Is the character white (set NULL) or in the set? */
static bool strips(uint32_t cp, const struct jstr *set)
{
    char buf[4];
    if (!set)
        return junicode_space(cp);
    return memmem(set->p, set->n, buf, utf8_put(buf, cp)) != NULL;
}

const struct jstr *jstr_strip(struct jeval *ev, const struct jstr *s, const struct jstr *chars, int sides)
{
    size_t from = 0, to = s->n, len;
    uint32_t cp;
    for (; (sides & JSTRIP_LEFT) && from < to; from += len) {
        len = utf8_next(s->p + from, to - from, &cp);
        if (!strips(cp, chars))
            break;
    }
    for (; (sides & JSTRIP_RIGHT) && from < to; to -= len) {
        for (len = 1; ((uint8_t)s->p[to - len] & 0xC0) == 0x80;)
            len++;
        utf8_next(s->p + to - len, len, &cp);
        if (!strips(cp, chars))
            break;
    }
    size_t looked_at = (s->n - (to - from)) * (chars ? chars->n / 8 + 1 : 1);
    return jcharge(ev, looked_at / 16) == 0 ? jstr_slice(ev, s, from, to - from) : NULL;
}

static int strip(struct jeval *ev, struct jval self, const struct jcall *c, int sides, struct jval *out)
{
    const struct jstr *chars = NULL;
    if (given(c->pos[0])) {
        if (want_string(ev, c->pos[0], "what is stripped") != 0)
            return ev->rc;
        chars = c->pos[0].s;
    }
    *out = jstring(jstr_strip(ev, self.s, chars, sides));
    return ev->rc;
}

static int m_strip(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return strip(ev, self, c, JSTRIP_LEFT | JSTRIP_RIGHT, out);
}

static int m_lstrip(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return strip(ev, self, c, JSTRIP_LEFT, out);
}

static int m_rstrip(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return strip(ev, self, c, JSTRIP_RIGHT, out);
}

/* --- split --- */
static struct jlist *split_at(struct jeval *ev, const struct jstr *s, const struct jstr *sep, int64_t max)
{
    struct growing g = {0};
    size_t from = 0, at;
    while (max != 0 && ev->rc == 0 && (at = jstr_find(s, from, sep)) != SIZE_MAX) {
        push(ev, &g, jstr_slice(ev, s, from, at - from));
        from = at + sep->n;
        max--;
    }
    push(ev, &g, jstr_slice(ev, s, from, s->n - from));
    return g.l;
}

static void reverse(struct jlist *l)
{
    for (size_t i = 0; i < l->n / 2; i++) {
        struct jval v = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = v;
    }
}

static struct jlist *rsplit_at(struct jeval *ev, const struct jstr *s, const struct jstr *sep, int64_t max)
{
    struct growing g = {0};
    size_t to = s->n, at;
    while (max != 0 && ev->rc == 0 && (at = jstr_rfind(ev, s, to, sep)) != SIZE_MAX) {
        push(ev, &g, jstr_slice(ev, s, at + sep->n, to - at - sep->n));
        to = at;
        max--;
    }
    push(ev, &g, jstr_slice(ev, s, 0, to));
    if (ev->rc == 0)
        reverse(g.l);
    return g.l;
}

/* Byte after the run of white (or other) characters that starts at `at`. */
static size_t run_end(const struct jstr *s, size_t at, bool white)
{
    uint32_t cp;
    for (size_t len; at < s->n; at += len) {
        len = utf8_next(s->p + at, s->n - at, &cp);
        if (junicode_space(cp) != white)
            break;
    }
    return at;
}

/* Words; after `max` cuts the rest is one piece. */
static struct jlist *split_words(struct jeval *ev, const struct jstr *s, int64_t max)
{
    struct growing g = {0};
    for (size_t from = run_end(s, 0, true), to; from < s->n && ev->rc == 0; from = run_end(s, to, true)) {
        to = max == 0 ? s->n : run_end(s, from, false);
        push(ev, &g, jstr_slice(ev, s, from, to - from));
        max--;
    }
    return g.l ? g.l : jlist_new(ev, 0);
}

/* From the right with a limit: the first words stay together, with the white space before and within. */
static struct jlist *rsplit_words(struct jeval *ev, const struct jstr *s, int64_t max)
{
    struct jlist *all = split_words(ev, s, -1);
    if (!all || ev->rc < 0 || max < 0 || (size_t)max >= all->n)
        return all;
    size_t joined = all->n - (size_t)max; /* these become one */
    const struct jstr *last = all->v[joined - 1].s;
    struct jlist *l = jlist_slice(ev, all, joined - 1, (size_t)max + 1);
    if (l)
        l->v[0] = jstring(jstr_slice(ev, s, 0, (size_t)(last->p + last->n - s->p)));
    return l;
}

static int split(struct jeval *ev, struct jval self, const struct jcall *c, bool right, struct jval *out)
{
    int64_t max = given(c->pos[1]) && jis_integer(c->pos[1]) ? jas_int(c->pos[1]) : -1;
    struct jlist *l;
    if (jcharge(ev, self.s->n / 64) != 0)
        return ev->rc;
    if (!given(c->pos[0])) {
        l = right ? rsplit_words(ev, self.s, max) : split_words(ev, self.s, max);
    } else {
        if (want_string(ev, c->pos[0], "a separator") != 0)
            return ev->rc;
        if (c->pos[0].s->n == 0)
            return jfail(ev, "empty separator");
        l = right ? rsplit_at(ev, self.s, c->pos[0].s, max) : split_at(ev, self.s, c->pos[0].s, max);
    }
    *out = jlist_val(J_LIST, l);
    return ev->rc;
}

static int m_split(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return split(ev, self, c, false, out);
}

static int m_rsplit(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return split(ev, self, c, true, out);
}

/* --- lines --- */
static bool ends_line(uint32_t cp)
{
    return (cp >= 0x0A && cp <= 0x0D) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
}

struct jlist *jstr_lines(struct jeval *ev, const struct jstr *s, bool keep_ends)
{
    struct growing g = {0};
    size_t from = 0, len;
    for (size_t i = 0; i < s->n && ev->rc == 0; i += len) {
        uint32_t cp;
        len = utf8_next(s->p + i, s->n - i, &cp);
        if (!ends_line(cp))
            continue;
        len += cp == '\r' && i + 1 < s->n && s->p[i + 1] == '\n';
        push(ev, &g, jstr_slice(ev, s, from, i - from + (keep_ends ? len : 0)));
        from = i + len;
    }
    if (from < s->n)
        push(ev, &g, jstr_slice(ev, s, from, s->n - from));
    return g.l ? g.l : jlist_new(ev, 0);
}

static int m_splitlines(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    bool keep;
    if (jcharge(ev, self.s->n / 64) != 0 || jval_truth(ev, c->pos[0], &keep) != 0)
        return ev->rc;
    *out = jlist_val(J_LIST, jstr_lines(ev, self.s, keep));
    return ev->rc;
}

/* --- partition --- */
static int partition(struct jeval *ev, struct jval self, struct jval sep, bool right, struct jval *out)
{
    struct jlist *l = jlist_new(ev, 3);
    if (!l || want_string(ev, sep, "a separator") != 0)
        return ev->rc;
    if (sep.s->n == 0)
        return jfail(ev, "empty separator");
    size_t at = right ? jstr_rfind(ev, self.s, self.s->n, sep.s) : jstr_find(self.s, 0, sep.s);
    const struct jstr *empty = jstr_cstr(ev, "");
    if (at == SIZE_MAX) {
        l->v[0] = right ? jstring(empty) : self;
        l->v[1] = jstring(empty);
        l->v[2] = right ? self : jstring(empty);
    } else {
        size_t after = at + sep.s->n;
        l->v[0] = jstring(jstr_slice(ev, self.s, 0, at));
        l->v[1] = sep;
        l->v[2] = jstring(jstr_slice(ev, self.s, after, self.s->n - after));
    }
    *out = jlist_val(J_TUPLE, l);
    return ev->rc;
}

static int m_partition(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return partition(ev, self, c->pos[0], false, out);
}

static int m_rpartition(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    return partition(ev, self, c->pos[0], true, out);
}

/* --- replace and join --- */

/* Put `with` before each character and at the end, `count` times at most: what replacing "" does. */
static void interleave(struct jtext *t, const struct jstr *s, const struct jstr *with, int64_t count)
{
    size_t i = 0;
    for (uint32_t cp; i < s->n && count != 0 && t->ev->rc == 0; count--) {
        size_t len = utf8_next(s->p + i, s->n - i, &cp);
        jtext_str(t, with);
        jtext_slice(t, s, i, len);
        i += len;
    }
    if (count != 0)
        jtext_str(t, with);
    jtext_slice(t, s, i, s->n - i);
}

const struct jstr *jstr_replace(struct jeval *ev, const struct jstr *s, const struct jstr *const pair[2], int64_t count)
{
    struct jtext t;
    size_t from = 0, at = jstr_find(s, 0, pair[0]);
    if (at == SIZE_MAX || count == 0)
        return jcharge(ev, s->n / 64) == 0 ? s : NULL;
    jtext_start(&t, ev);
    if (pair[0]->n == 0) {
        interleave(&t, s, pair[1], count);
        return jtext_done(&t);
    }
    for (; count != 0 && at != SIZE_MAX && jcharge(ev, 1) == 0; count--) {
        jtext_slice(&t, s, from, at - from);
        jtext_str(&t, pair[1]);
        from = at + pair[0]->n;
        at = jstr_find(s, from, pair[0]);
    }
    jtext_slice(&t, s, from, s->n - from);
    return jtext_done(&t);
}

static int m_replace(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    if (want_string(ev, c->pos[0], "what is replaced") != 0 || want_string(ev, c->pos[1], "a replacement") != 0)
        return ev->rc;
    const struct jstr *const pair[2] = {c->pos[0].s, c->pos[1].s};
    *out = jstring(jstr_replace(ev, self.s, pair, jis_integer(c->pos[2]) ? jas_int(c->pos[2]) : -1));
    return ev->rc;
}

const struct jstr *jstr_join(struct jeval *ev, const struct jstr *sep, struct jval items)
{
    struct jtext t;
    struct jlist *l = jval_items(ev, items);
    jtext_start(&t, ev);
    for (size_t i = 0; l && i < l->n && jcharge(ev, 1) == 0; i++) {
        if (i)
            jtext_str(&t, sep);
        if (l->v[i].type == J_STR)
            jtext_str(&t, l->v[i].s);
        else
            jfail(ev, "sequence item %zu: expected a string, %s found", i, jtype_name(l->v[i]));
    }
    return jtext_done(&t);
}

static int m_join(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    *out = jstring(jstr_join(ev, self.s, c->pos[0]));
    return ev->rc;
}

static int m_removeprefix(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    if (want_string(ev, c->pos[0], "a prefix") != 0)
        return ev->rc;
    const struct jstr *s = self.s, *p = c->pos[0].s;
    bool has = p->n <= s->n && memcmp(s->p, p->p, p->n) == 0;
    *out = has ? jstring(jstr_slice(ev, s, p->n, s->n - p->n)) : self;
    return ev->rc;
}

static int m_removesuffix(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    if (want_string(ev, c->pos[0], "a suffix") != 0)
        return ev->rc;
    const struct jstr *s = self.s, *p = c->pos[0].s;
    bool has = p->n <= s->n && memcmp(s->p + s->n - p->n, p->p, p->n) == 0;
    *out = has ? jstring(jstr_slice(ev, s, 0, s->n - p->n)) : self;
    return ev->rc;
}

const struct jfunc jmethod_cut[] = {
    {"strip", m_strip, 0, false, {"chars"}},
    {"lstrip", m_lstrip, 0, false, {"chars"}},
    {"rstrip", m_rstrip, 0, false, {"chars"}},
    {"split", m_split, 0, false, {"sep", "maxsplit"}},
    {"rsplit", m_rsplit, 0, false, {"sep", "maxsplit"}},
    {"splitlines", m_splitlines, 0, false, {"keepends"}},
    {"partition", m_partition, 1, false, {"sep"}},
    {"rpartition", m_rpartition, 1, false, {"sep"}},
    {"replace", m_replace, 2, false, {"old", "new", "count"}},
    {"join", m_join, 1, false, {"iterable"}},
    {"removeprefix", m_removeprefix, 1, false, {"prefix"}},
    {"removesuffix", m_removesuffix, 1, false, {"suffix"}},
    {0},
};
