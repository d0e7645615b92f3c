/* jinja_repr - values as text: str(), repr() and the filter tojson, as Python 3 prints them.
 *
 * Characters keep their provenance, also when they are escaped. Brackets and separators that printing a container adds
 * count as foreign: no control token of a template is meant to come out of a printed container's punctuation.
 */
#include "engine/text/jinja_int.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Significant digits (no trailing zeros) of the shortest decimal that reads back as f, and its exponent. */
static int shortest(double f, char digits[20], int *exp)
{
    char buf[40];
    int precision = f < 0x1p-1022 ? 0 : 14; /* normal numbers: %e drops no digit that 15 hold */
    for (; precision <= 16; precision++) {
        snprintf(buf, sizeof buf, "%.*e", precision, f);
        if (strtod(buf, NULL) == f)
            break;
    }
    int n = 0;
    const char *p = buf;
    for (; *p && *p != 'e'; p++)
        if (*p >= '0' && *p <= '9')
            digits[n++] = *p;
    *exp = (int)strtol(p + 1, NULL, 10);
    while (n > 1 && digits[n - 1] == '0')
        n--;
    return n;
}

void jrepr_float(char buf[32], double f)
{
    char d[20];
    int exp, n;
    if (!isfinite(f)) {
        snprintf(buf, 32, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    n = shortest(fabs(f), d, &exp);
    const char *sign = signbit(f) ? "-" : "";
    if (exp < -4 || exp >= 16)
        snprintf(buf, 32, "%s%c%s%.*se%c%02d", sign, d[0], n > 1 ? "." : "", n - 1, d + 1, exp < 0 ? '-' : '+',
                 abs(exp));
    else if (exp < 0)
        snprintf(buf, 32, "%s0.%.*s%.*s", sign, -exp - 1, "000", n, d);
    else if (n <= exp + 1)
        snprintf(buf, 32, "%s%.*s%.*s.0", sign, n, d, exp + 1 - n, "0000000000000000");
    else
        snprintf(buf, 32, "%s%.*s.%.*s", sign, exp + 1, d, n - exp - 1, d + exp + 1);
}

/* The text of numbers and singletons; false for other values. */
static bool scalar_text(struct jval v, char buf[32])
{
    if (v.type == J_INT)
        snprintf(buf, 32, "%" PRId64, v.i);
    else if (v.type == J_FLOAT)
        jrepr_float(buf, v.f);
    else if (v.type == J_BOOL || v.type == J_NONE)
        snprintf(buf, 32, "%s", v.type == J_NONE ? "None" : v.b ? "True" : "False");
    else
        return false;
    return true;
}

/* --- repr --- */
static void escape_char(struct jtext *t, uint32_t cp, bool foreign)
{
    char buf[12];
    const char *short_form = cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : cp == '\t' ? "\\t" : NULL;
    if (short_form)
        snprintf(buf, sizeof buf, "%s", short_form);
    else
        snprintf(buf, sizeof buf, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
    jtext_puts(t, buf, foreign);
}

static void repr_string(struct jtext *t, const struct jstr *s)
{
    bool single = memchr(s->p, '\'', s->n) != NULL, twice = memchr(s->p, '"', s->n) != NULL;
    char quote = single && !twice ? '"' : '\'';
    jtext_puts(t, s->markup ? "Markup(" : "", true);
    jtext_add(t, &quote, 1, true);
    for (size_t i = 0, len; i < s->n; i += len) {
        uint32_t cp;
        len = utf8_next(s->p + i, s->n - i, &cp);
        bool foreign = jstr_foreign_at(s, i);
        if (cp == (uint32_t)quote || cp == '\\')
            jtext_puts(t, "\\", foreign);
        if (junicode_printable(cp))
            jtext_slice(t, s, i, len);
        else
            escape_char(t, cp, foreign);
    }
    jtext_add(t, &quote, 1, true);
    jtext_puts(t, s->markup ? ")" : "", true);
}

static void repr_items(struct jtext *t, const struct jlist *l, const char *open, const char *close)
{
    jtext_puts(t, open, true);
    for (size_t i = 0; i < l->n && t->ev->rc == 0; i++) {
        jtext_puts(t, i ? ", " : "", true);
        jval_repr(t, l->v[i]);
    }
    jtext_puts(t, close, true);
}

static void repr_list(struct jtext *t, struct jval v)
{
    char buf[100];
    if (v.type == J_LIST) {
        repr_items(t, v.l, "[", "]");
    } else if (v.type == J_TUPLE) {
        repr_items(t, v.l, "(", v.l->n == 1 ? ",)" : ")");
    } else if (v.type == J_VIEW) {
        jtext_puts(t, v.l->what, true);
        repr_items(t, v.l, "([", "])");
    } else if (v.type == J_RANGE) {
        const int64_t *r = v.l->range;
        int n = snprintf(buf, sizeof buf, "range(%" PRId64 ", %" PRId64, r[0], r[1]);
        snprintf(buf + n, sizeof buf - (size_t)n, r[2] == 1 ? ")" : ", %" PRId64 ")", r[2]);
        jtext_puts(t, buf, true);
    } else {
        jtext_puts(t, "<generator object>", true);
    }
}

static void repr_dict(struct jtext *t, const struct jdict *d)
{
    jtext_puts(t, "{", true);
    for (size_t i = 0; i < d->n && t->ev->rc == 0; i++) {
        jtext_puts(t, i ? ", " : "", true);
        jval_repr(t, d->p[i].key);
        jtext_puts(t, ": ", true);
        jval_repr(t, d->p[i].val);
    }
    jtext_puts(t, "}", true);
}

static void repr_other(struct jtext *t, struct jval v)
{
    char buf[80];
    const struct jstr *name = v.type == J_MACRO ? t->ev->j->names[v.macro->node->macro.name].s : NULL;
    int64_t len = 0;
    switch (v.type) {
    case J_UNDEF:
        jtext_puts(t, "Undefined", true);
        return;
    case J_NAMESPACE:
        jtext_puts(t, "<Namespace ", true);
        repr_dict(t, v.d);
        jtext_puts(t, ">", true);
        return;
    case J_LOOP:
        jval_len(t->ev, v, &len);
        snprintf(buf, sizeof buf, "<LoopContext %" PRId64 "/%" PRId64 ">", v.loop->index0 + 1, len);
        break;
    case J_MACRO:
        snprintf(buf, sizeof buf, "<Macro '%.*s'>", jclip(name->n), name->p);
        break;
    default:
        snprintf(buf, sizeof buf, "<%s %s>", jtype_name(v), v.type == J_FUNC ? v.func->name : v.bound->func->name);
    }
    jtext_puts(t, buf, true);
}

void jval_repr(struct jtext *t, struct jval v)
{
    char buf[32];
    if (jenter(t->ev) != 0)
        return;
    if (v.type == J_STR)
        repr_string(t, v.s);
    else if (v.type == J_BIG)
        jtext_str(t, v.s);
    else if (v.type == J_DICT)
        repr_dict(t, v.d);
    else if (jis_list(v))
        repr_list(t, v);
    else if (scalar_text(v, buf))
        jtext_puts(t, buf, false);
    else
        repr_other(t, v);
    t->ev->depth--;
}

const struct jstr *jval_str(struct jeval *ev, struct jval v)
{
    struct jtext t;
    if (v.type == J_STR || v.type == J_BIG)
        return v.s;
    jtext_start(&t, ev);
    if (v.type != J_UNDEF)
        jval_repr(&t, v);
    return jtext_done(&t);
}

/* --- tojson: json.dumps --- */
struct dump {
    struct jtext t;
    bool ascii, sort;
    const struct jstr *indent, *comma, *colon; /* indent NULL: all on one line */
    size_t level;
};

static void dump_escape(struct dump *d, uint32_t cp, bool foreign)
{
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    const char *at = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
    char buf[16];
    if (at)
        snprintf(buf, sizeof buf, "\\%c", to[at - from]);
    else if (cp < 0x10000)
        snprintf(buf, sizeof buf, "\\u%04x", cp);
    else
        snprintf(buf, sizeof buf, "\\u%04x\\u%04x", 0xD7C0 + (cp >> 10), 0xDC00 + (cp & 0x3FF));
    jtext_puts(&d->t, buf, foreign);
}

static void dump_string(struct dump *d, const struct jstr *s)
{
    size_t done = 0;
    jtext_puts(&d->t, "\"", true);
    for (size_t i = 0, len; i < s->n; i += len) {
        uint32_t cp = (uint8_t)s->p[i];
        len = cp < 0x80 ? 1 : utf8_next(s->p + i, s->n - i, &cp);
        if (cp >= 0x20 && cp != '"' && cp != '\\' && !(d->ascii && cp >= 0x7F))
            continue;
        jtext_slice(&d->t, s, done, i - done);
        dump_escape(d, cp, jstr_foreign_at(s, i));
        done = i + len;
    }
    jtext_slice(&d->t, s, done, s->n - done);
    jtext_puts(&d->t, "\"", true);
}

static void dump_newline(struct dump *d)
{
    if (!d->indent)
        return;
    jtext_puts(&d->t, "\n", true);
    for (size_t i = 0; i < d->level; i++)
        jtext_str(&d->t, d->indent);
}

static void dump_value(struct dump *d, struct jval v);

static void dump_list(struct dump *d, const struct jlist *l)
{
    d->level++;
    for (size_t i = 0; i < l->n && d->t.ev->rc == 0; i++) {
        if (i)
            jtext_str(&d->t, d->comma);
        else
            jtext_puts(&d->t, "[", true);
        dump_newline(d);
        dump_value(d, l->v[i]);
    }
    d->level--;
    if (l->n)
        dump_newline(d);
    jtext_puts(&d->t, l->n ? "]" : "[]", true);
}

static void dump_key(struct dump *d, struct jval key)
{
    char buf[32];
    if (key.type == J_STR || key.type == J_BIG) {
        dump_string(d, key.s);
        return;
    }
    if (key.type == J_BOOL || key.type == J_NONE)
        snprintf(buf, sizeof buf, "%s", key.type == J_NONE ? "null" : key.b ? "true" : "false");
    else if (!scalar_text(key, buf)) {
        jfail(d->t.ev, "keys must be str, int, float, bool or None, not %s", jtype_name(key));
        return;
    }
    jtext_puts(&d->t, "\"", true);
    jtext_puts(&d->t, buf, false);
    jtext_puts(&d->t, "\"", true);
}

/* The pairs of a dict in the order of its keys. */
static const struct jdict *sorted(struct jeval *ev, struct jdict *d)
{
    struct jdict *copy = jdict_new(ev, d->n);
    struct jlist *keys = jlist_new(ev, d->n), *vals = jlist_new(ev, d->n);
    for (size_t i = 0; copy && keys && vals && i < d->n; i++) {
        keys->v[i] = d->p[i].key;
        vals->v[i] = d->p[i].val;
    }
    if (!copy || !keys || !vals || jval_sort(ev, keys->v, vals->v, d->n, false) != 0)
        return NULL;
    for (; copy->n < d->n; copy->n++)
        copy->p[copy->n] = (struct jpair){keys->v[copy->n], vals->v[copy->n]};
    return copy;
}

static void dump_dict(struct dump *d, struct jdict *dict)
{
    const struct jdict *s = d->sort ? sorted(d->t.ev, dict) : dict;
    d->level++;
    for (size_t i = 0; s && i < s->n && d->t.ev->rc == 0; i++) {
        if (i)
            jtext_str(&d->t, d->comma);
        else
            jtext_puts(&d->t, "{", true);
        dump_newline(d);
        dump_key(d, s->p[i].key);
        jtext_str(&d->t, d->colon);
        dump_value(d, s->p[i].val);
    }
    d->level--;
    if (dict->n)
        dump_newline(d);
    jtext_puts(&d->t, dict->n ? "}" : "{}", true);
}

static void dump_float(struct dump *d, double f)
{
    char buf[32];
    jrepr_float(buf, f);
    if (!isfinite(f))
        snprintf(buf, sizeof buf, "%s", isnan(f) ? "NaN" : f < 0 ? "-Infinity" : "Infinity");
    jtext_puts(&d->t, buf, false);
}

static void dump_value(struct dump *d, struct jval v)
{
    char buf[32];
    if (jenter(d->t.ev) != 0)
        return;
    if (v.type == J_STR)
        dump_string(d, v.s);
    else if (v.type == J_BIG)
        jtext_str(&d->t, v.s);
    else if (v.type == J_DICT)
        dump_dict(d, v.d);
    else if (v.type == J_LIST || v.type == J_TUPLE)
        dump_list(d, v.l);
    else if (v.type == J_FLOAT)
        dump_float(d, v.f);
    else if (v.type == J_BOOL || v.type == J_NONE)
        jtext_puts(&d->t, v.type == J_NONE ? "null" : v.b ? "true" : "false", false);
    else if (scalar_text(v, buf))
        jtext_puts(&d->t, buf, false);
    else
        jfail(d->t.ev, "Object of type %s is not JSON serializable", jtype_name(v));
    d->t.ev->depth--;
}

static const struct jstr *indent_text(struct jeval *ev, struct jval indent)
{
    struct jtext t;
    if (indent.type == J_STR)
        return indent.s;
    if (!jis_integer(indent)) {
        jfail(ev, "tojson: indent must be a number or a string");
        return NULL;
    }
    jtext_start(&t, ev);
    jtext_fill(&t, ' ', jas_int(indent) > 0 ? (size_t)jas_int(indent) : 0, false);
    return jtext_done(&t);
}

/* Arguments: ensure_ascii, indent, separators, sort_keys. */
int jval_tojson(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    struct jval indent = c->pos[1], separators = c->pos[2];
    struct dump d = {0};
    bool pretty = indent.type != J_ABSENT && indent.type != J_NONE;
    jtext_start(&d.t, ev);
    if (jval_truth(ev, c->pos[0], &d.ascii) != 0 || jval_truth(ev, c->pos[3], &d.sort) != 0)
        return ev->rc;
    d.indent = pretty ? indent_text(ev, indent) : NULL;
    if (separators.type == J_TUPLE || separators.type == J_LIST) {
        if (separators.l->n != 2 || separators.l->v[0].type != J_STR || separators.l->v[1].type != J_STR)
            return jfail(ev, "tojson: separators must be two strings");
        d.comma = separators.l->v[0].s;
        d.colon = separators.l->v[1].s;
    } else if (separators.type == J_ABSENT || separators.type == J_NONE) {
        d.comma = jstr_new(ev, pretty ? "," : ", ", pretty ? 1 : 2, true);
        d.colon = jstr_new(ev, ": ", 2, true);
    } else {
        return jfail(ev, "tojson: separators must be two strings");
    }
    if (ev->rc == 0)
        dump_value(&d, in);
    *out = jstring(jtext_done(&d.t));
    return ev->rc;
}
