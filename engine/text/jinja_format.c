/* jinja_format - "%s" % x and "{}".format(x): Python's two ways to format, over one specification of a field.
 *
 * Text keeps its provenance; the digits of numbers count as the template's own, a character made from a number does
 * not.
 */
#include "engine/text/jinja_int.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define PRECISION_MAX 100

struct spec {
    uint32_t fill;
    char align; /* '<', '>', '^', '=' (after the sign), 0 = by kind */
    char sign;  /* '+', ' ', 0 = only minus */
    bool alternate, comma;
    int64_t width, precision; /* precision -1: not given */
    char type;                /* 0 = by kind */
};

struct format {
    struct jtext t;
    const struct jstr *f;
    size_t at;
    const struct jcall *c; /* the values */
    size_t next;           /* of c->pos */
    struct jval mapping;   /* of "%(key)s"; J_ABSENT: there is none */
    bool automatic, numbered;
};

#define format_fail(fm, ...) jfail((fm)->t.ev, __VA_ARGS__)

static char peek(const struct format *fm)
{
    return fm->at < fm->f->n ? fm->f->p[fm->at] : 0;
}

static bool skip(struct format *fm, char c)
{
    bool is = fm->at < fm->f->n && fm->f->p[fm->at] == c;
    fm->at += is;
    return is;
}

/* --- fields --- */

/* Put text with its padding; `sign` bytes at its start stay in front of '=' padding. */
static void put_padded(struct format *fm, const struct spec *s, const struct jstr *text, size_t sign)
{
    int64_t room = text ? s->width - (int64_t)jstr_chars(text) : 0, left = 0;
    room = room < 0 ? 0 : room;
    if (!text)
        return;
    left = s->align == '^' ? room / 2 : s->align == '<' ? 0 : room;
    if (s->align == '=') {
        jtext_slice(&fm->t, text, 0, sign);
        jtext_fill(&fm->t, s->fill, (size_t)room, false);
        jtext_slice(&fm->t, text, sign, text->n - sign);
        return;
    }
    jtext_fill(&fm->t, s->fill, (size_t)left, false);
    jtext_str(&fm->t, text);
    jtext_fill(&fm->t, s->fill, (size_t)(room - left), false);
}

static void put_text(struct format *fm, struct spec s, const struct jstr *text)
{
    if (text && s.precision >= 0 && (uint64_t)s.precision < jstr_chars(text))
        text = jstr_slice(fm->t.ev, text, 0, jstr_offset(fm->t.ev, text, (size_t)s.precision));
    s.align = s.align && s.align != '=' ? s.align : '<';
    put_padded(fm, &s, text, 0);
}

/* A number's sign, prefix and digits (with commas if asked) as a padded field. */
static void put_digits(struct format *fm, struct spec s, bool negative, const char *prefix, const char *digits)
{
    char buf[1024];
    size_t whole = strspn(digits, "0123456789"), n = 0;
    if (negative)
        buf[n++] = '-';
    else if (s.sign)
        buf[n++] = s.sign;
    n += (size_t)snprintf(buf + n, 4, "%s", prefix);
    size_t sign = n;
    for (size_t i = 0; digits[i]; i++) {
        if (s.comma && i > 0 && i < whole && (whole - i) % 3 == 0)
            buf[n++] = ',';
        buf[n++] = digits[i];
    }
    s.align = s.align ? s.align : '>';
    struct jtext t;
    jtext_start(&t, fm->t.ev);
    jtext_add(&t, buf, n, false);
    put_padded(fm, &s, jtext_done(&t), sign);
}

static int put_char(struct format *fm, struct spec s, int64_t code)
{
    struct jtext t;
    if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
        return format_fail(fm, "%%c: %" PRId64 " is no character", code);
    jtext_start(&t, fm->t.ev);
    jtext_char(&t, (uint32_t)code, true);
    put_text(fm, s, jtext_done(&t));
    return fm->t.ev->rc;
}

static int put_int(struct format *fm, struct spec s, int64_t i)
{
    char digits[80];
    uint64_t u = i < 0 ? -(uint64_t)i : (uint64_t)i;
    const char *prefix = "";
    switch (s.type) {
    case 'c':
        return put_char(fm, s, i);
    case 'x':
    case 'X':
        snprintf(digits, sizeof digits, s.type == 'x' ? "%" PRIx64 : "%" PRIX64, u);
        prefix = s.type == 'x' ? "0x" : "0X";
        break;
    case 'o':
        snprintf(digits, sizeof digits, "%" PRIo64, u);
        prefix = "0o";
        break;
    case 'b':
        digits[64] = 0;
        int at = 64;
        do {
            digits[--at] = (char)('0' + (u & 1));
        } while (u >>= 1);
        memmove(digits, digits + at, (size_t)(65 - at));
        prefix = "0b";
        break;
    default:
        snprintf(digits, sizeof digits, "%" PRIu64, u);
    }
    put_digits(fm, s, i < 0, s.alternate ? prefix : "", digits);
    return fm->t.ev->rc;
}

static int put_float(struct format *fm, struct spec s, double f)
{
    char digits[512], form[8];
    int precision = s.precision >= 0 ? (int)s.precision : 6;
    if (s.type == 0 && s.precision < 0) {
        jrepr_float(digits, fabs(f));
    } else {
        char type = s.type == 0 || s.type == 'n' ? 'g' : s.type == '%' ? 'f' : s.type;
        snprintf(form, sizeof form, s.alternate ? "%%#.*%c" : "%%.*%c", type);
        snprintf(digits, sizeof digits - 1, form, precision, fabs(f) * (s.type == '%' ? 100 : 1));
        if (s.type == '%')
            strcat(digits, "%");
    }
    put_digits(fm, s, signbit(f) && !isnan(f), "", digits);
    return fm->t.ev->rc;
}

static int check_spec(struct format *fm, const struct spec *s)
{
    if (s->precision > PRECISION_MAX && s->type != 's' && s->type != 0)
        return format_fail(fm, "a format's precision is more than %d", PRECISION_MAX);
    return 0;
}

/* A number by the letter of its specification; both notations share it. */
static int put_number(struct format *fm, const struct spec *s, struct jval v)
{
    if (check_spec(fm, s) != 0)
        return fm->t.ev->rc;
    if (s->type && strchr("eEfFgG%", s->type))
        return put_float(fm, *s, jas_double(v));
    return v.type == J_FLOAT ? put_float(fm, *s, v.f) : put_int(fm, *s, jas_int(v));
}

/* --- % --- */
static int percent_value(struct format *fm, struct jval *out)
{
    if (fm->next >= fm->c->n_pos)
        return format_fail(fm, "not enough arguments for format string");
    *out = fm->c->pos[fm->next++];
    return 0;
}

/* Digits of the specification; absent ones are 0. */
static void count(struct format *fm, int64_t *out)
{
    for (*out = 0; peek(fm) >= '0' && peek(fm) <= '9' && *out < INT32_MAX; fm->at++)
        *out = *out * 10 + (peek(fm) - '0');
}

/* The same, or * for the next argument. */
static int percent_count(struct format *fm, int64_t *out)
{
    struct jval v;
    if (skip(fm, '*')) {
        if (percent_value(fm, &v) != 0)
            return fm->t.ev->rc;
        if (!jis_integer(v))
            return format_fail(fm, "* wants an integer");
        *out = jas_int(v) < -INT32_MAX ? -INT32_MAX : jas_int(v);
        return 0;
    }
    count(fm, out);
    return 0;
}

static int percent_spec(struct format *fm, struct spec *s)
{
    *s = (struct spec){.fill = ' ', .precision = -1};
    for (char c; (c = peek(fm)) && strchr("#0- +", c); fm->at++) {
        s->alternate |= c == '#';
        s->align = c == '-' ? '<' : c == '0' && s->align != '<' ? '=' : s->align;
        s->sign = c == '+' ? '+' : c == ' ' && !s->sign ? ' ' : s->sign;
    }
    s->fill = s->align == '=' ? '0' : ' ';
    if (percent_count(fm, &s->width) != 0 || (skip(fm, '.') && percent_count(fm, &s->precision) != 0))
        return fm->t.ev->rc;
    if (s->width < 0) {
        s->align = '<';
        s->width = -s->width;
    }
    while (peek(fm) == 'h' || peek(fm) == 'l' || peek(fm) == 'L')
        fm->at++;
    s->type = peek(fm);
    fm->at++;
    return s->type ? 0 : format_fail(fm, "incomplete format");
}

static int percent_put(struct format *fm, struct spec s, struct jval v)
{
    struct jtext t;
    switch (s.type) {
    case 's':
        s.align = s.align == '<' ? '<' : '>';
        put_text(fm, (struct spec){' ', s.align, 0, false, false, s.width, s.precision, 0}, jval_str(fm->t.ev, v));
        return fm->t.ev->rc;
    case 'r':
    case 'a':
        jtext_start(&t, fm->t.ev);
        jval_repr(&t, v);
        s.align = s.align == '<' ? '<' : '>';
        put_text(fm, (struct spec){' ', s.align, 0, false, false, s.width, s.precision, 0}, jtext_done(&t));
        return fm->t.ev->rc;
    case 'c':
        if (v.type == J_STR && jstr_chars(v.s) == 1) {
            put_text(fm, s, v.s);
            return fm->t.ev->rc;
        }
        break;
    case 'd':
    case 'i':
    case 'u':
        s.type = 'd';
        if (v.type == J_FLOAT && fabs(v.f) < 0x1p63)
            v = jint((int64_t)v.f);
        break;
    default:
        if (!strchr("oxXeEfFgG", s.type))
            return format_fail(fm, "unsupported format character '%c'", s.type);
    }
    if (!jis_number(v) || (v.type == J_FLOAT && strchr("cdoxX", s.type)))
        return format_fail(fm, "%%%c format: a number is required, not %s", s.type, jtype_name(v));
    return put_number(fm, &s, v);
}

/* (key) before the flags: the next value comes out of the mapping. */
static int percent_key(struct format *fm, struct jval *v)
{
    const char *end = memchr(fm->f->p + fm->at, ')', fm->f->n - fm->at);
    if (fm->mapping.type != J_DICT)
        return format_fail(fm, "format requires a mapping");
    if (!end)
        return format_fail(fm, "incomplete format key");
    size_t to = (size_t)(end - fm->f->p);
    const struct jstr *key = jstr_slice(fm->t.ev, fm->f, fm->at, to - fm->at);
    *v = key ? jdict_text(fm->t.ev, fm->mapping.d, key) : (struct jval){0};
    fm->at = to + 1;
    return v->type == J_ABSENT ? format_fail(fm, "a format key is missing in the mapping") : 0;
}

static int percent_field(struct format *fm)
{
    struct jval v = {0};
    struct spec s;
    if (skip(fm, '%')) {
        jtext_slice(&fm->t, fm->f, fm->at - 1, 1);
        return 0;
    }
    if (skip(fm, '(') && percent_key(fm, &v) != 0)
        return fm->t.ev->rc;
    if (percent_spec(fm, &s) != 0)
        return fm->t.ev->rc;
    if (s.type == '%') {
        jtext_puts(&fm->t, "%", false);
        return 0;
    }
    if (v.type == J_ABSENT && percent_value(fm, &v) != 0)
        return fm->t.ev->rc;
    return percent_put(fm, s, v);
}

int jformat_percent(struct jeval *ev, const struct jstr *fmt, struct jval args, struct jval *out)
{
    struct jval one[1] = {args};
    struct jcall c = {.pos = one, .n_pos = 1};
    struct format fm = {.f = fmt, .c = &c, .mapping = args};
    if (args.type == J_TUPLE)
        c = (struct jcall){.pos = args.l->v, .n_pos = args.l->n};
    jtext_start(&fm.t, ev);
    while (fm.at < fmt->n && ev->rc == 0) {
        const char *p = memchr(fmt->p + fm.at, '%', fmt->n - fm.at);
        size_t to = p ? (size_t)(p - fmt->p) : fmt->n;
        jtext_slice(&fm.t, fmt, fm.at, to - fm.at);
        fm.at = to + 1;
        if (p)
            percent_field(&fm);
    }
    bool indexable = args.type == J_DICT || args.type == J_LIST || args.type == J_RANGE || args.type == J_UNDEF;
    if (ev->rc == 0 && fm.next < c.n_pos && !indexable) /* Python takes those for mappings, which need not be used */
        return jfail(ev, "not all arguments converted during string formatting");
    *out = jstring(jtext_done(&fm.t));
    return ev->rc;
}

/* --- {} --- */

/* [[fill]align][sign][#][0][width][,][.precision][type], the whole of s. */
static int brace_spec(struct format *fm, const struct jstr *text, struct spec *s)
{
    struct format in = {.t = fm->t, .f = text}; /* a reader over the specification */
    uint32_t first = 0;
    size_t len = text->n ? utf8_next(text->p, text->n, &first) : 0;
    *s = (struct spec){.fill = ' ', .precision = -1};
    if (len && len < text->n && strchr("<>=^", text->p[len])) {
        s->fill = first;
        s->align = text->p[len];
        in.at = len + 1;
    } else if (peek(&in) && strchr("<>=^", peek(&in))) {
        s->align = text->p[in.at++];
    }
    if (peek(&in) == '+' || peek(&in) == '-' || peek(&in) == ' ')
        s->sign = text->p[in.at++];
    s->sign = s->sign == '-' ? 0 : s->sign;
    s->alternate = skip(&in, '#');
    if (skip(&in, '0') && !s->align) {
        s->fill = '0';
        s->align = '=';
    }
    count(&in, &s->width);
    s->comma = skip(&in, ',');
    if (skip(&in, '.'))
        count(&in, &s->precision);
    s->type = peek(&in);
    in.at += s->type != 0;
    return in.at == text->n ? 0 : format_fail(fm, "invalid format specifier");
}

static int brace_put(struct format *fm, const struct jstr *text, struct jval v)
{
    struct spec s;
    if (brace_spec(fm, text, &s) != 0)
        return fm->t.ev->rc;
    if (v.type == J_STR || text->n == 0) {
        if (s.type && s.type != 's')
            return format_fail(fm, "unknown format code '%c' for object of type '%s'", s.type, jtype_name(v));
        put_text(fm, s, jval_str(fm->t.ev, v));
        return fm->t.ev->rc;
    }
    const char *allowed = v.type == J_FLOAT ? "eEfFgGn%" : "bcdoxXneEfFgG%";
    if (!jis_number(v) || (s.type && !strchr(allowed, s.type)))
        return format_fail(fm, "unsupported format string passed to '%s'", jtype_name(v));
    return put_number(fm, &s, v);
}

static struct jval brace_key(struct jeval *ev, const struct jstr *s)
{
    int64_t i = 0;
    size_t k = 0;
    while (k < s->n && k < 9 && s->p[k] >= '0' && s->p[k] <= '9')
        i = i * 10 + (s->p[k++] - '0');
    return k == s->n && k > 0 ? jint(i) : jstring(s);
}

/* The value a field names: "", "0", "name", then .attr and [key]. */
static int brace_value(struct format *fm, const struct jstr *name, struct jval *v)
{
    struct jeval *ev = fm->t.ev;
    size_t end = 0;
    while (end < name->n && name->p[end] != '.' && name->p[end] != '[')
        end++;
    const struct jstr *first = jstr_slice(ev, name, 0, end);
    struct jval key = first ? brace_key(ev, first) : jnone();
    fm->automatic |= end == 0;
    fm->numbered |= end > 0 && key.type == J_INT;
    if (fm->automatic && fm->numbered)
        return format_fail(fm, "cannot mix manual and automatic field numbering");
    *v = (struct jval){0};
    if (end == 0 || key.type == J_INT) {
        size_t i = end == 0 ? fm->next++ : (size_t)key.i;
        if (i < fm->c->n_pos)
            *v = fm->c->pos[i];
    }
    for (size_t i = 0; key.type == J_STR && i < fm->c->n_kw; i++)
        if (jstr_equal(fm->c->kw[i].name, key.s))
            *v = fm->c->kw[i].val;
    if (v->type == J_ABSENT)
        return format_fail(fm, "a replacement field has no argument");
    for (size_t from = end, to; from < name->n && ev->rc == 0; from = to) {
        bool index = name->p[from++] == '[';
        for (to = from; to < name->n && (index ? name->p[to] != ']' : name->p[to] != '.' && name->p[to] != '[');)
            to++;
        const struct jstr *part = jstr_slice(ev, name, from, to - from);
        struct jval obj = *v;
        if (part)
            index ? jattr_item(ev, obj, brace_key(ev, part), v) : jattr_get(ev, obj, part, v);
        to += index && to < name->n;
    }
    return ev->rc;
}

/* After "{": name[!r|!s][:spec]}. */
static int brace_field(struct format *fm)
{
    const struct jstr *f = fm->f;
    size_t from = fm->at, end = from;
    while (end < f->n && f->p[end] != '}' && f->p[end] != '{')
        end++;
    if (end == f->n || f->p[end] == '{')
        return format_fail(fm, end == f->n ? "expected '}' before end of string" : "nested fields are not supported");
    const char *colon = memchr(f->p + from, ':', end - from);
    size_t name_end = colon ? (size_t)(colon - f->p) : end, spec = colon ? name_end + 1 : end;
    const char *bang = memchr(f->p + from, '!', name_end - from);
    size_t to = bang ? (size_t)(bang - f->p) : name_end;
    const struct jstr *name = jstr_slice(fm->t.ev, f, from, to - from);
    struct jval v;
    fm->at = end + 1;
    if (!name || brace_value(fm, name, &v) != 0)
        return fm->t.ev->rc;
    if (bang) {
        struct jtext t;
        jtext_start(&t, fm->t.ev);
        if (name_end - to == 2 && bang[1] == 's')
            jtext_str(&t, jval_str(fm->t.ev, v));
        else if (name_end - to == 2 && bang[1] == 'r')
            jval_repr(&t, v);
        else
            return format_fail(fm, "unknown conversion in a format string");
        v = jstring(jtext_done(&t));
    }
    const struct jstr *text = jstr_slice(fm->t.ev, f, spec, end - spec);
    return text && fm->t.ev->rc == 0 ? brace_put(fm, text, v) : fm->t.ev->rc;
}

int jformat_braces(struct jeval *ev, const struct jstr *fmt, const struct jcall *c, struct jval *out)
{
    struct format fm = {.f = fmt, .c = c};
    jtext_start(&fm.t, ev);
    while (fm.at < fmt->n && ev->rc == 0) {
        size_t from = fm.at;
        while (fm.at < fmt->n && fmt->p[fm.at] != '{' && fmt->p[fm.at] != '}')
            fm.at++;
        jtext_slice(&fm.t, fmt, from, fm.at - from);
        if (fm.at == fmt->n)
            break;
        char c0 = fmt->p[fm.at++];
        if (skip(&fm, c0))
            jtext_slice(&fm.t, fmt, fm.at - 1, 1);
        else if (c0 == '}')
            format_fail(&fm, "single '}' encountered in format string");
        else
            brace_field(&fm);
    }
    *out = jstring(jtext_done(&fm.t));
    return ev->rc;
}
