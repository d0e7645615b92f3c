/* jinja_text - strings of the Jinja engine: slices that share bytes, and the builder that makes new ones.
 *
 * Provenance: all bytes of a string are foreign (from the caller's input) or none, or a mask has a byte for each byte.
 * The mask is made by the builder when it first meets the other kind, so that ordinary strings pay nothing.
 * A string that ends where its buffer's used part ends can grow in place: `ns.text = ns.text + x` in a loop costs what
 * x costs, though strings never change (others see only their own length).
 */
#include "engine/text/jinja_int.h"

#include <string.h>

struct jspace {
    char *p;
    uint8_t *mask; /* NULL: everything is as `foreign` says */
    size_t used, cap;
    bool foreign;
};

void jtext_start(struct jtext *t, struct jeval *ev)
{
    *t = (struct jtext){.ev = ev};
}

static int text_reserve(struct jtext *t, size_t cap)
{
    struct jspace *sp = t->sp ? t->sp : jalloc(t->ev, 1, sizeof *sp);
    if (!sp || cap <= sp->cap) {
        t->sp = sp;
        return t->ev->rc;
    }
    char *p = jalloc(t->ev, cap, 1);
    uint8_t *mask = sp->mask ? jalloc(t->ev, cap, 1) : NULL;
    if (!p || (sp->mask && !mask))
        return t->ev->rc;
    if (sp->used)
        memcpy(p, sp->p, sp->used);
    if (mask)
        memcpy(mask, sp->mask, sp->used);
    sp->p = p;
    sp->mask = mask;
    sp->cap = cap;
    t->sp = sp;
    return 0;
}

/* Mark the n bytes that come next; a mask appears when they differ from what is there. */
static int text_mark(struct jtext *t, size_t n, bool foreign)
{
    struct jspace *sp = t->sp;
    if (sp->used == 0)
        sp->foreign = foreign;
    if (!sp->mask && sp->foreign != foreign) {
        sp->mask = jalloc(t->ev, sp->cap, 1);
        if (!sp->mask)
            return t->ev->rc;
        memset(sp->mask, sp->foreign, sp->used);
    }
    if (sp->mask)
        memset(sp->mask + sp->used, foreign, n);
    return 0;
}

/* Room for n bytes, counted as used; NULL when something failed. */
static char *text_extend(struct jtext *t, size_t n, bool foreign)
{
    size_t used = t->sp ? t->sp->used : 0, cap = t->sp ? t->sp->cap : 0;
    if (t->ev->rc < 0 || jcharge(t->ev, n / 64) != 0)
        return NULL;
    if (used + n > cap || !t->sp) {
        cap = cap * 2 > used + n ? cap * 2 : used + n;
        if (text_reserve(t, cap < 32 ? 32 : cap) != 0)
            return NULL;
    }
    if (text_mark(t, n, foreign) != 0)
        return NULL;
    t->sp->used += n;
    return t->sp->p + used;
}

void jtext_add(struct jtext *t, const char *p, size_t n, bool foreign)
{
    char *to = n ? text_extend(t, n, foreign) : NULL;
    if (to)
        memcpy(to, p, n);
}

void jtext_puts(struct jtext *t, const char *p, bool foreign)
{
    jtext_add(t, p, strlen(p), foreign);
}

void jtext_char(struct jtext *t, uint32_t cp, bool foreign)
{
    char buf[4];
    jtext_add(t, buf, utf8_put(buf, cp), foreign);
}

void jtext_slice(struct jtext *t, const struct jstr *s, size_t from, size_t n)
{
    for (size_t end = from + n, to; from < end; from = to) { /* runs of one kind */
        bool foreign = jstr_foreign_at(s, from);
        for (to = s->mask ? from + 1 : end; to < end && jstr_foreign_at(s, to) == foreign;)
            to++;
        jtext_add(t, s->p + from, to - from, foreign);
    }
}

void jtext_str(struct jtext *t, const struct jstr *s)
{
    if (s)
        jtext_slice(t, s, 0, s->n);
}

void jtext_fill(struct jtext *t, uint32_t cp, size_t count, bool foreign)
{
    char buf[4];
    size_t len = utf8_put(buf, cp);
    if (count > SIZE_MAX / 8) {
        jfail(t->ev, "a string is too long");
        return;
    }
    char *to = count ? text_extend(t, count * len, foreign) : NULL;
    for (size_t i = 0; to && i < count; i++)
        memcpy(to + i * len, buf, len);
}

void jtext_resume(struct jtext *t, struct jeval *ev, const struct jstr *head, size_t more)
{
    struct jspace *sp = head->space;
    jtext_start(t, ev);
    if (sp && head->p == sp->p && head->n == sp->used && more <= sp->cap - sp->used) {
        t->sp = sp;
        return;
    }
    if (more > SIZE_MAX / 4)
        jfail(ev, "a string is too long");
    else if (text_reserve(t, (head->n + more) * (sp ? 2 : 1)) == 0) /* it grew before: it may again */
        jtext_str(t, head);
}

const struct jstr *jtext_done(struct jtext *t)
{
    struct jstr *s = t->ev->rc == 0 ? jalloc(t->ev, 1, sizeof *s) : NULL;
    if (!s)
        return NULL;
    s->p = "";
    if (t->sp && t->sp->used) {
        s->p = t->sp->p;
        s->n = t->sp->used;
        s->mask = t->sp->mask;
        s->foreign = t->sp->foreign;
        s->space = t->sp;
    }
    s->chars = s->n ? SIZE_MAX : 0;
    return s;
}

const struct jstr *jstr_new(struct jeval *ev, const char *p, size_t n, bool foreign)
{
    struct jstr *s = jalloc(ev, 1, sizeof *s);
    if (s)
        *s = (struct jstr){.p = p, .n = n, .chars = n ? SIZE_MAX : 0, .foreign = foreign};
    return s;
}

const struct jstr *jstr_cstr(struct jeval *ev, const char *literal)
{
    return jstr_new(ev, literal, strlen(literal), false);
}

const struct jstr *jstr_slice(struct jeval *ev, const struct jstr *s, size_t from, size_t n)
{
    if (n == s->n)
        return s;
    struct jstr *part = jalloc(ev, 1, sizeof *part);
    if (part)
        *part = (struct jstr){.p = s->p + from,
                              .n = n,
                              .chars = s->chars == s->n ? n
                                       : n              ? SIZE_MAX
                                                        : 0,
                              .mask = s->mask ? s->mask + from : NULL,
                              .foreign = s->foreign,
                              .markup = s->markup};
    return part;
}

const struct jstr *jstr_markup(struct jeval *ev, const struct jstr *s, bool markup)
{
    if (!s || s->markup == markup)
        return s;
    struct jstr *copy = jalloc(ev, 1, sizeof *copy);
    if (!copy)
        return NULL;
    *copy = *s;
    copy->markup = markup;
    return copy;
}

const struct jstr *jstr_escape(struct jeval *ev, const struct jstr *s)
{
    static const char from[] = "&<>'\"", *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    struct jtext t;
    size_t done = 0;
    if (!s || s->markup)
        return s;
    jtext_start(&t, ev);
    for (size_t i = 0; i < s->n; i++) {
        const char *at = s->p[i] ? strchr(from, s->p[i]) : NULL;
        if (!at)
            continue;
        jtext_slice(&t, s, done, i - done);
        jtext_puts(&t, to[at - from], jstr_foreign_at(s, i));
        done = i + 1;
    }
    jtext_slice(&t, s, done, s->n - done);
    return jstr_markup(ev, jtext_done(&t), true);
}

size_t jstr_chars(const struct jstr *s)
{
    if (s->chars == SIZE_MAX) {
        size_t count = 0;
        for (size_t i = 0; i < s->n; i++)
            count += ((uint8_t)s->p[i] & 0xC0) != 0x80;
        ((struct jstr *)s)->chars = count; /* a cache: strings of a render are its own */
    }
    return s->chars;
}

size_t jstr_offset(struct jeval *ev, const struct jstr *s, size_t chars)
{
    if (chars >= jstr_chars(s))
        return s->n;
    if (s->chars == s->n || jcharge(ev, chars / 64) != 0)
        return chars;
    size_t i = 0;
    for (; chars > 0; chars--)
        for (i++; i < s->n && ((uint8_t)s->p[i] & 0xC0) == 0x80;)
            i++;
    return i;
}

bool jstr_equal(const struct jstr *a, const struct jstr *b)
{
    return a->n == b->n && memcmp(a->p, b->p, a->n) == 0;
}

bool jstr_is(const struct jstr *s, const char *text)
{
    return s->n == strlen(text) && memcmp(s->p, text, s->n) == 0;
}

int jstr_order(const struct jstr *a, const struct jstr *b) /* UTF-8 sorts as its code points do */
{
    int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    return c ? c : (a->n > b->n) - (a->n < b->n);
}

size_t jstr_find(const struct jstr *s, size_t from, const struct jstr *sub)
{
    if (from > s->n)
        return SIZE_MAX;
    const char *p = sub->n ? memmem(s->p + from, s->n - from, sub->p, sub->n) : s->p + from;
    return p ? (size_t)(p - s->p) : SIZE_MAX;
}

size_t jstr_rfind(struct jeval *ev, const struct jstr *s, size_t end, const struct jstr *sub)
{
    if (jcharge(ev, (end / 64 + 1) * (sub->n / 64 + 1)) != 0)
        return SIZE_MAX;
    for (size_t i = end >= sub->n ? end - sub->n + 1 : 0; i > 0; i--)
        if (memcmp(s->p + i - 1, sub->p, sub->n) == 0)
            return i - 1;
    return SIZE_MAX;
}
