/* jinja_filter - filters on one value: text, numbers, defaults; and the table of all filters. */
#include "engine/text/jinja_int.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool given(struct jval v)
{
    return v.type != J_ABSENT && v.type != J_NONE;
}

/* An integer argument; `absent` when it is not given. */
static int int_arg(struct jeval *ev, struct jval v, const char *what, int64_t absent, int64_t *out)
{
    *out = absent;
    if (v.type == J_ABSENT)
        return 0;
    if (!jis_integer(v))
        return jfail(ev, "%s must be an integer, not %s", what, jtype_name(v));
    *out = jas_int(v);
    return 0;
}

/* --- text --- */
static int f_string(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jstring(jval_str(ev, in));
    return ev->rc;
}

static int f_upper(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    const struct jstr *s = jval_str(ev, in);
    *out = jstring(s ? jstr_case(ev, JCASE_UPPER, JCASE_UPPER, s) : NULL);
    return ev->rc;
}

static int f_lower(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    const struct jstr *s = jval_str(ev, in);
    *out = jstring(s ? jstr_case(ev, JCASE_LOWER, JCASE_LOWER, s) : NULL);
    return ev->rc;
}

static int f_capitalize(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    const struct jstr *s = jval_str(ev, in);
    *out = jstring(s ? jstr_case(ev, JCASE_TITLE, JCASE_LOWER, s) : NULL);
    return ev->rc;
}

/* Does a word begin after this character? */
static bool parts_words(const struct jstr *s, size_t i)
{
    uint32_t cp;
    utf8_next(s->p + i, s->n - i, &cp);
    return junicode_space(cp) || (cp && cp < 0x80 && strchr("-({[<", (int)cp));
}

static int f_title(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    struct jtext t;
    const struct jstr *s = jval_str(ev, in);
    jtext_start(&t, ev);
    for (size_t i = 0, to; s && i < s->n && jcharge(ev, 1) == 0; i = to) {
        bool parts = parts_words(s, i);
        for (to = i; to < s->n && parts_words(s, to) == parts;)
            for (to++; to < s->n && ((uint8_t)s->p[to] & 0xC0) == 0x80;)
                to++;
        const struct jstr *word = jstr_slice(ev, s, i, to - i);
        jtext_str(&t, word ? jstr_case(ev, JCASE_UPPER, JCASE_LOWER, word) : NULL);
    }
    *out = jstring(jtext_done(&t));
    return ev->rc;
}

static int f_trim(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    const struct jstr *s = jval_str(ev, in);
    if (given(c->pos[0]) && c->pos[0].type != J_STR)
        return jfail(ev, "trim: characters must be a string");
    const struct jstr *chars = given(c->pos[0]) ? c->pos[0].s : NULL;
    *out = jstring(s ? jstr_strip(ev, s, chars, JSTRIP_LEFT | JSTRIP_RIGHT) : NULL);
    return ev->rc;
}

static int f_replace(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    const struct jstr *s = jval_str(ev, in), *const pair[2] = {jval_str(ev, c->pos[0]), jval_str(ev, c->pos[1])};
    int64_t count;
    if (!s || !pair[0] || !pair[1] || (given(c->pos[2]) && !jis_integer(c->pos[2])))
        return jfail(ev, "replace: count must be an integer");
    count = given(c->pos[2]) ? jas_int(c->pos[2]) : -1;
    *out = jstring(jstr_replace(ev, s, pair, count));
    return ev->rc;
}

static int f_center(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    const struct jstr *s = jval_str(ev, in);
    int64_t width;
    if (!s || int_arg(ev, c->pos[0], "width", 80, &width) != 0)
        return ev->rc;
    *out = jstring(jstr_center(ev, s, width, ' '));
    return ev->rc;
}

/* What indent puts before a line: `width` spaces, or width itself when it is a string. */
static const struct jstr *indention(struct jeval *ev, struct jval width)
{
    struct jtext t;
    int64_t n;
    if (width.type == J_STR)
        return width.s;
    if (int_arg(ev, width, "width", 4, &n) != 0)
        return NULL;
    jtext_start(&t, ev);
    jtext_fill(&t, ' ', n > 0 ? (size_t)n : 0, false);
    return jtext_done(&t);
}

static int f_indent(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    struct jtext t;
    bool first, blank;
    const struct jstr *indent = indention(ev, c->pos[0]), *newline = jstr_cstr(ev, "\n");
    if (in.type != J_STR)
        return in.type == J_UNDEF ? jfail_undefined(ev, in)
                                  : jfail(ev, "indent wants a string, not %s", jtype_name(in));
    if (!indent || !newline || jval_truth(ev, c->pos[1], &first) != 0 || jval_truth(ev, c->pos[2], &blank) != 0)
        return ev->rc;
    jtext_resume(&t, ev, in.s, 1); /* so that a last empty line counts */
    jtext_str(&t, newline);
    const struct jstr *s = jtext_done(&t);
    struct jlist *lines = s ? jstr_lines(ev, s, false) : NULL;
    jtext_start(&t, ev);
    for (size_t i = 0; lines && i < lines->n && jcharge(ev, 1) == 0; i++) {
        const struct jstr *line = lines->v[i].s;
        if (i)
            jtext_str(&t, newline);
        if (i ? line->n || blank : first)
            jtext_str(&t, indent);
        jtext_str(&t, line);
    }
    *out = jstring(jstr_markup(ev, jtext_done(&t), in.s->markup));
    return ev->rc;
}

static int f_truncate(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    struct jtext t;
    int64_t length, leeway, n;
    bool kill;
    const struct jstr *end = c->pos[2].type == J_ABSENT ? jstr_cstr(ev, "...") : jval_str(ev, c->pos[2]);
    struct jval leeway_arg = given(c->pos[3]) ? c->pos[3] : jint(5);
    if (!end || int_arg(ev, c->pos[0], "length", 255, &length) != 0 || jval_truth(ev, c->pos[1], &kill) != 0 ||
        int_arg(ev, leeway_arg, "leeway", 5, &leeway) != 0 || jval_len(ev, in, &n) != 0)
        return ev->rc;
    if (length < (int64_t)jstr_chars(end) || leeway < 0)
        return jfail(ev, "truncate wants a length of at least its end's");
    if (n - leeway <= length) {
        *out = in;
        return 0;
    }
    if (in.type != J_STR)
        return jfail(ev, "truncate wants a string, not %s", jtype_name(in));
    size_t cut = jstr_offset(ev, in.s, (size_t)length - jstr_chars(end));
    const char *space = kill ? NULL : memrchr(in.s->p, ' ', cut);
    jtext_start(&t, ev);
    jtext_slice(&t, in.s, 0, space ? (size_t)(space - in.s->p) : cut);
    jtext_str(&t, end);
    *out = jstring(jtext_done(&t));
    return ev->rc;
}

static int f_wordcount(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    const struct jstr *s = jval_str(ev, in);
    bool inside = false;
    *out = jint(0);
    for (size_t i = 0; s && i < s->n;) {
        uint32_t cp;
        i += utf8_next(s->p + i, s->n - i, &cp);
        bool word = cp == '_' || junicode_alnum(cp);
        out->i += word && !inside;
        inside = word;
    }
    return s ? jcharge(ev, s->n / 64) : ev->rc;
}

static int f_format(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    const struct jstr *s = jval_str(ev, in);
    struct jdict *d = jdict_new(ev, c->n_kw);
    struct jlist *l = jlist_new(ev, c->n_pos);
    if (!s || !d || !l)
        return ev->rc;
    if (c->n_pos && c->n_kw)
        return jfail(ev, "format can't handle positional and keyword arguments at the same time");
    memcpy(l->v, c->pos, c->n_pos * sizeof *l->v);
    for (size_t i = 0; i < c->n_kw; i++)
        jdict_set(ev, d, jstring(c->kw[i].name), c->kw[i].val);
    struct jval args = c->n_kw ? (struct jval){.type = J_DICT, .d = d} : jlist_val(J_TUPLE, l);
    return jformat_percent(ev, s, args, out);
}

static int f_safe(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jstring(jstr_markup(ev, jval_str(ev, in), true));
    return ev->rc;
}

static int f_escape(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jstring(jstr_escape(ev, jval_str(ev, in)));
    return ev->rc;
}

static int f_forceescape(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jstring(jstr_escape(ev, jstr_markup(ev, jval_str(ev, in), false)));
    return ev->rc;
}

/* --- numbers --- */

/* The text without white space around and underscores between digits, terminated, as Python's int() and float() read
 * it; false when it is too long or has an underscore elsewhere. */
static bool number_text(const struct jstr *s, char buf[400])
{
    size_t from = 0, to = s->n, n = 0;
    while (from < to && (uint8_t)s->p[from] < 0x80 && junicode_space((uint8_t)s->p[from]))
        from++;
    while (from < to && (uint8_t)s->p[to - 1] < 0x80 && junicode_space((uint8_t)s->p[to - 1]))
        to--;
    if (to - from >= 400 || from == to)
        return false;
    for (; from < to; from++) {
        if (s->p[from] != '_')
            buf[n++] = s->p[from];
        else if (n == 0 || from + 1 == to || s->p[from + 1] == '_')
            return false;
    }
    buf[n] = 0;
    return memchr(buf, 0, n) == NULL;
}

static bool text_to_int(const struct jstr *s, int base, int64_t *out)
{
    char buf[400], *end;
    if (!number_text(s, buf) || base == 1 || base < 0 || base > 36)
        return false;
    const char *digits = buf + (buf[0] == '-' || buf[0] == '+');
    char kind = digits[0] == '0' ? (char)(digits[1] | 0x20) : 0;
    int prefix = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 0;
    bool skip = prefix && (base == prefix || base == 0);
    if (skip)
        memmove(buf + (digits - buf), digits + 2, strlen(digits + 2) + 1);
    base = base ? base : skip ? prefix : 10;
    if (!strchr("0123456789abcdefghijklmnopqrstuvwxyz", *digits | 0x20) || !*digits)
        return false;
    errno = 0;
    *out = strtoll(buf, &end, base);
    return *end == 0 && errno == 0;
}

static bool text_to_float(const struct jstr *s, double *out)
{
    char buf[400], *end;
    if (!number_text(s, buf) || strpbrk(buf, "xXpP("))
        return false;
    *out = strtod(buf, &end);
    return *end == 0;
}

static bool to_float(struct jval v, double *out)
{
    if (v.type == J_STR || v.type == J_BIG)
        return text_to_float(v.s, out);
    if (!jis_number(v))
        return false;
    *out = jas_double(v);
    return true;
}

static int f_int(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    int64_t base;
    double f;
    *out = c->pos[0].type == J_ABSENT ? jint(0) : c->pos[0];
    if (in.type == J_UNDEF)
        return jfail_undefined(ev, in);
    if (int_arg(ev, c->pos[1], "base", 10, &base) != 0)
        return ev->rc;
    int64_t i;
    if (jis_integer(in))
        *out = jint(jas_int(in));
    else if (in.type == J_BIG)
        *out = in;
    else if (in.type == J_STR && text_to_int(in.s, (int)base, &i))
        *out = jint(i);
    else if (to_float(in, &f) && !isnan(f) && (in.type == J_FLOAT || !isinf(f)))
        return fabs(f) < 0x1p63 ? (*out = jint((int64_t)f), 0) : jfail(ev, "an integer is beyond 64 bits");
    return 0;
}

static int f_float(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    double f;
    if (in.type == J_UNDEF)
        return jfail_undefined(ev, in);
    if (to_float(in, &f))
        *out = jfloat(f);
    else
        *out = c->pos[0].type == J_ABSENT ? jfloat(0) : c->pos[0];
    return 0;
}

static int f_abs(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    if (in.type == J_UNDEF)
        return jfail_undefined(ev, in);
    if (!jis_number(in) || (jis_integer(in) && jas_int(in) == INT64_MIN))
        return jfail(ev, "abs wants a number, not %s", jtype_name(in));
    *out = in.type == J_FLOAT ? jfloat(fabs(in.f)) : jint(jas_int(in) < 0 ? -jas_int(in) : jas_int(in));
    return 0;
}

/* To `digits` decimals, half to even of the exact value, as Python does: through the decimal text. */
static double round_to(double f, int64_t digits)
{
    char buf[400];
    if (!isfinite(f) || digits > 20)
        return f;
    if (digits < 0) {
        double unit = pow(10, digits < -308 ? 308 : (double)-digits);
        return rint(f / unit) * unit;
    }
    snprintf(buf, sizeof buf, "%.*f", (int)digits, f);
    return strtod(buf, NULL);
}

static int f_round(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    int64_t digits;
    const struct jstr *method = c->pos[1].type == J_ABSENT ? jstr_cstr(ev, "common") : jval_str(ev, c->pos[1]);
    if (!method || int_arg(ev, c->pos[0], "precision", 0, &digits) != 0)
        return ev->rc;
    if (!jis_number(in))
        return in.type == J_UNDEF ? jfail_undefined(ev, in) : jfail(ev, "round wants a number, not %s", jtype_name(in));
    double f = jas_double(in), unit = pow(10, (double)digits);
    if (jstr_is(method, "common"))
        *out = jis_integer(in) && digits >= 0 ? jint(jas_int(in)) : jfloat(round_to(f, digits));
    else if (jstr_is(method, "ceil"))
        *out = jfloat(ceil(f * unit) / unit);
    else if (jstr_is(method, "floor"))
        *out = jfloat(floor(f * unit) / unit);
    else
        return jfail(ev, "round: method must be common, ceil or floor");
    return 0;
}

/* --- any value --- */
static int f_default(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    bool boolean, truth = true;
    if (jval_truth(ev, c->pos[1], &boolean) != 0 || (boolean && jval_truth(ev, in, &truth) != 0))
        return ev->rc;
    *out = in;
    if (in.type == J_UNDEF || !truth)
        *out = c->pos[0].type == J_ABSENT ? jstring(jstr_cstr(ev, "")) : c->pos[0];
    return ev->rc;
}

static int f_attr(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    if (c->pos[0].type != J_STR)
        return jfail(ev, "attr: the name must be a string");
    if (in.type == J_DICT && !jmethod_find(in, c->pos[0].s)) { /* attributes only, no keys */
        *out = jundef_attr(in, c->pos[0].s);
        return 0;
    }
    return jattr_get(ev, in, c->pos[0].s, out);
}

static int f_length(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    out->type = J_INT;
    return jval_len(ev, in, &out->i);
}

static const struct jfunc value_filters[] = {
    {"abs", f_abs, 0, false, {0}},
    {"attr", f_attr, 1, false, {"name"}},
    {"capitalize", f_capitalize, 0, false, {0}},
    {"center", f_center, 0, false, {"width"}},
    {"count", f_length, 0, false, {0}},
    {"d", f_default, 0, false, {"default_value", "boolean"}},
    {"default", f_default, 0, false, {"default_value", "boolean"}},
    {"e", f_escape, 0, false, {0}},
    {"escape", f_escape, 0, false, {0}},
    {"float", f_float, 0, false, {"default"}},
    {"forceescape", f_forceescape, 0, false, {0}},
    {"format", f_format, 0, true, {0}},
    {"indent", f_indent, 0, false, {"width", "first", "blank"}},
    {"int", f_int, 0, false, {"default", "base"}},
    {"length", f_length, 0, false, {0}},
    {"lower", f_lower, 0, false, {0}},
    {"replace", f_replace, 2, false, {"old", "new", "count"}},
    {"round", f_round, 0, false, {"precision", "method"}},
    {"safe", f_safe, 0, false, {0}},
    {"string", f_string, 0, false, {0}},
    {"title", f_title, 0, false, {0}},
    {"tojson", jval_tojson, 0, false, {"ensure_ascii", "indent", "separators", "sort_keys"}},
    {"trim", f_trim, 0, false, {"chars"}},
    {"truncate", f_truncate, 0, false, {"length", "killwords", "end", "leeway"}},
    {"upper", f_upper, 0, false, {0}},
    {"wordcount", f_wordcount, 0, false, {0}},
    {0},
};

const struct jfunc *jfilter_find(const char *name, size_t n)
{
    const struct jfunc *const tables[] = {value_filters, jfilter_of_sequences};
    for (size_t i = 0; i < 2; i++)
        for (const struct jfunc *f = tables[i]; f->name; f++)
            if (strlen(f->name) == n && memcmp(f->name, name, n) == 0)
                return f;
    return NULL;
}
