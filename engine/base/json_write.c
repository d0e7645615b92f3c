/* json_write - JSON out: strings, doubles, whole values. See json.h. */
#include "engine/base/json_impl.h"

#include "engine/base/utf8.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Append what stands for one character that can't be copied: a control character, quote, backslash or bad UTF-8. */
static void put_escape(struct str *s, unsigned char c)
{
    static const char names[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    const char *at = c ? strchr(names, c) : NULL;
    if (at)
        str_add(s, (char[]){'\\', letters[at - names]}, 2);
    else if (c < 0x20)
        str_addf(s, "\\u%04x", c);
    else
        str_puts(s, UTF8_REPLACEMENT_TXT);
}

void json_put_text(struct str *s, const char *text, size_t n)
{
    size_t done = 0, i = 0; /* text[done..i) waits to be copied */
    str_putc(s, '"');
    while (i < n) {
        uint32_t cp;
        size_t took = utf8_next(text + i, n - i, &cp);
        if (cp < 0x20 || cp == '"' || cp == '\\' || cp >= UTF8_BAD) {
            str_add(s, text + done, i - done);
            put_escape(s, (unsigned char)text[i]);
            done = i + took;
        }
        i += took;
    }
    str_add(s, text + done, n - done);
    str_putc(s, '"');
}

void json_put_cstr(struct str *s, const char *text)
{
    json_put_text(s, text, strlen(text));
}

/* 0.DIGITS x 10^(exponent + 1) */
struct digits {
    char d[20];
    int n, exponent;
};

/* Print v > 0 in p digits as "d.ddde+xx"; does that read back as v? */
static bool try_digits(double v, int p, char buf[32])
{
    int unused;
    snprintf(buf, 32, "%.*e", p - 1, v);
    double back = strtod(buf, NULL);
    char *last = buf + (p > 1 ? p : 0);
    if (back < v && frexp(v, &unused) == 0.5 && *last != '9') {
        ++*last;
        back = strtod(buf, NULL);
    }
    return back == v;
}

/* The fewest digits of v > 0 that read back as v, and of those the nearest to v.
 *
 * The nearest decimal of p digits is tried for rising p. Where 15 digits or fewer can do, 15 do, down to the subnormals
 * (DBL_DIG); 17 always do. A power of two is closer to its lower neighbour than to its upper one: there the nearest
 * decimal may lie just too low while the next above still reads back, so try_digits looks at that as well. */
static void shortest(double v, struct digits *out)
{
    char buf[32];
    int p = v < DBL_MIN ? 1 : DBL_DIG;
    while (!try_digits(v, p, buf) && p < 17)
        p++;
    out->n = p;
    out->d[0] = buf[0];
    memcpy(out->d + 1, buf + 2, (size_t)p - 1);
    out->exponent = atoi(strchr(buf, 'e') + 1);
    while (out->n > 1 && out->d[out->n - 1] == '0')
        out->n--;
}

/* Python's repr: plain from 1e-4 up to 1e16, with a point always; else d.ddde+xx. */
static void put_digits(struct str *s, const struct digits *g)
{
    int e = g->exponent;
    if (e < -4 || e >= 16)
        str_addf(s, "%c%s%.*se%c%02d", g->d[0], g->n > 1 ? "." : "", g->n - 1, g->d + 1, e < 0 ? '-' : '+', abs(e));
    else if (e < 0)
        str_addf(s, "0.%.*s%.*s", -e - 1, "000", g->n, g->d);
    else if (g->n <= e + 1)
        str_addf(s, "%.*s%.*s.0", g->n, g->d, e + 1 - g->n, "000000000000000");
    else
        str_addf(s, "%.*s.%.*s", e + 1, g->d, g->n - e - 1, g->d + e + 1);
}

void json_put_double(struct str *s, double v)
{
    struct digits g = {.d = "0", .n = 1};
    if (!isfinite(v)) {
        str_puts(s, "null");
        return;
    }
    if (signbit(v))
        str_putc(s, '-');
    if (v != 0)
        shortest(fabs(v), &g);
    put_digits(s, &g);
}

/* A number as Python prints it after reading it: int or float by its look. */
static void put_python_number(struct str *s, const struct json_val *v)
{
    double d;
    if (!strpbrk(v->text, ".eE"))
        str_puts(s, strcmp(v->text, "-0") ? v->text : "0");
    else if (json_double(v, &d) && isinf(d))
        str_puts(s, d < 0 ? "-Infinity" : "Infinity");
    else
        json_put_double(s, d);
}

static void put_ints(struct str *s, const struct json_val *v, const char *comma)
{
    char buf[16];
    for (size_t i = 0; i < v->n; i++) {
        int n = snprintf(buf, sizeof buf, "%s%d", i ? comma : "", (int)v->ints[i]);
        str_add(s, buf, (size_t)n);
    }
}

/* All of a value that has no children of its own to walk; the opening bracket of one that has. */
static void put_head(struct str *s, const struct json_val *v, bool sep)
{
    switch (json_typeof(v)) {
    case JSON_NULL:
        str_puts(s, "null");
        break;
    case JSON_FALSE:
        str_puts(s, "false");
        break;
    case JSON_TRUE:
        str_puts(s, "true");
        break;
    case JSON_NUMBER:
        if (sep)
            put_python_number(s, v);
        else
            str_add(s, v->text, v->n);
        break;
    case JSON_STRING:
        json_put_text(s, v->text, v->n);
        break;
    case JSON_ARRAY:
        str_putc(s, '[');
        if (v->flat) {
            put_ints(s, v, sep ? ", " : ",");
            str_putc(s, ']');
        }
        break;
    case JSON_OBJECT:
        str_puts(s, v->n ? "{" : "{}");
        break;
    }
}

void json_put_value(struct str *s, const struct json_val *v, bool sep)
{
    const struct json_val *at = v;
    for (;;) {
        if (at->key && at != v) {
            json_put_text(s, at->key, at->key_n);
            str_puts(s, sep ? ": " : ":");
        }
        put_head(s, at, sep);
        const struct json_val *child = json_first(at);
        if (child) {
            at = child;
            continue;
        }
        while (at != v && at->last) { /* up from last children */
            at -= at->step;
            str_putc(s, at->type == JSON_OBJECT ? '}' : ']');
        }
        if (at == v)
            return;
        str_puts(s, sep ? ", " : ",");
        at += at->step;
    }
}
