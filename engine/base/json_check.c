/* json_check - the first pass: is it JSON by RFC 8259 and our limits, and how big is its tree? See json.h.
 *
 * A loop over what may come next (a value, a key, or what follows a value); open arrays and objects are rows of a fixed
 * table, so there is no recursion. On '[' it first tries the flat form: a run of plain integers up to ']'. A run that
 * meets something else is read again value by value; each byte belongs to the run of one array only, so this stays
 * linear.
 *
 * Duplicate keys: the keys of all open objects lie on one stack with a hash of their decoded characters. When an object
 * ends, its keys are sorted by (hash, characters, place) and neighbours compared. The hash only saves comparisons:
 * keys made to collide cost O(k log k) comparisons and no more, so it needs no secret.
 */
#include "engine/base/json_impl.h"

#include "engine/base/utf8.h"
#include "engine/base/vec.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum want { WANT_VALUE, WANT_KEY, WANT_MORE };

struct key {
    const char *at; /* first character within the quotes */
    uint64_t hash;
};

struct level {
    size_t first_key;
    bool object;
};

struct scan {
    const char *begin, *at, *end;
    size_t depth_limit, node_limit, depth;
    struct json_size size;
    struct key *keys;
    size_t n_keys, cap_keys;
    struct err *e;
    struct level levels[JSON_DEPTH_MAX];
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static const char *skip_digits(const char *p, const char *end)
{
    while (p < end && is_digit(*p))
        p++;
    return p;
}

static const char *skip_blanks(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
        p++;
    return p;
}

static int fail(struct scan *s, const char *at, const char *expected)
{
    char found[16] = "the end";
    if (at < s->end) {
        unsigned char c = (unsigned char)*at;
        snprintf(found, sizeof found, c > 0x20 && c < 0x7F ? "'%c'" : "byte 0x%02X", c);
    }
    return err_set(s->e, EINVAL, "JSON, byte %zu: expected %s, found %s", (size_t)(at - s->begin), expected, found);
}

/* Value of 4 hex digits, or -1 with *at on what is none. */
static int32_t hex4(const char **at, const char *end)
{
    int32_t v = 0;
    for (int i = 0; i < 4; i++, ++*at) {
        char c = *at < end ? **at : 0;
        if (is_digit(c))
            v = v * 16 + (c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            v = v * 16 + ((c | 32) - 'a' + 10);
        else
            return -1;
    }
    return v;
}

static int scan_unicode_escape(struct scan *s)
{
    const char *start = s->at, *p = start + 2;
    int32_t unit = hex4(&p, s->end);
    if (unit < 0)
        return fail(s, p, "4 hex digits after \\u");
    if (unit >= 0xDC00 && unit <= 0xDFFF)
        return fail(s, start, "a high surrogate before this low one");
    if (unit >= 0xD800 && unit <= 0xDBFF) {
        const char *second = p;
        p = s->end - p >= 2 && p[0] == '\\' && p[1] == 'u' ? p + 2 : s->end;
        unit = hex4(&p, s->end);
        if (unit < 0xDC00 || unit > 0xDFFF)
            return fail(s, second, "a \\u escape of a low surrogate after a high one");
    }
    s->at = p;
    return 0;
}

static int scan_escape(struct scan *s)
{
    const char *p = s->at + 1;
    if (p < s->end && *p == 'u')
        return scan_unicode_escape(s);
    if (p == s->end || !*p || !strchr("\"\\/bfnrt", *p))
        return fail(s, p, "one of \"\\/bfnrtu after a backslash");
    s->at = p + 1;
    return 0;
}

/* A character that stands for itself in a string. */
static bool is_plain(char c)
{
    return (unsigned char)c >= 0x20 && (unsigned char)c < 0x80 && c != '"' && c != '\\';
}

/* One character that is more than plain ASCII. */
static int scan_special(struct scan *s)
{
    if (s->at == s->end)
        return fail(s, s->at, "'\"' to end the string");
    if (*s->at == '\\')
        return scan_escape(s);
    if ((unsigned char)*s->at < 0x20)
        return fail(s, s->at, "an escape for a control character in a string");
    uint32_t cp;
    size_t took = utf8_next(s->at, (size_t)(s->end - s->at), &cp);
    if (cp >= UTF8_BAD)
        return fail(s, s->at, "UTF-8");
    s->at += took;
    return 0;
}

/* From the opening quote past the closing one. */
static int scan_string(struct scan *s)
{
    const char *start = s->at++;
    for (;;) {
        while (s->at < s->end && is_plain(*s->at))
            s->at++;
        if (s->at < s->end && *s->at == '"')
            break;
        int rc = scan_special(s);
        if (rc)
            return rc;
    }
    s->at++;
    s->size.text += (size_t)(s->at - start); /* at least its characters and a terminator */
    return 0;
}

static int scan_number(struct scan *s)
{
    const char *p = s->at + (*s->at == '-'), *whole = p;
    p = skip_digits(p, s->end);
    if (p == whole)
        return fail(s, p, "a digit");
    if (*whole == '0')
        p = whole + 1; /* a leading zero stands alone: what follows is found wrong by the caller */
    if (p < s->end && *p == '.') {
        const char *fraction = ++p;
        p = skip_digits(p, s->end);
        if (p == fraction)
            return fail(s, p, "a digit after the point");
    }
    if (p < s->end && (*p | 32) == 'e') {
        p++;
        p += p < s->end && (*p == '+' || *p == '-');
        const char *exponent = p;
        p = skip_digits(p, s->end);
        if (p == exponent)
            return fail(s, p, "a digit of the exponent");
    }
    s->size.text += (size_t)(p - s->at) + 1;
    s->at = p;
    return 0;
}

static int scan_literal(struct scan *s)
{
    static const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < 3; i++) {
        size_t n = strlen(words[i]);
        if ((size_t)(s->end - s->at) >= n && !memcmp(s->at, words[i], n)) {
            s->at += n;
            return 0;
        }
    }
    return fail(s, s->at, "a value");
}

const char *json_char(const char *p, uint32_t *cp)
{
    static const char names[] = "bfnrt", values[] = "\b\f\n\r\t";
    if (*p != '\\')
        return p + utf8_next(p, 4, cp); /* well-formed: reads no further than the character */
    if (p[1] != 'u') {
        const char *name = strchr(names, p[1]);
        *cp = (unsigned char)(name ? values[name - names] : p[1]);
        return p + 2;
    }
    p += 2;
    uint32_t unit = (uint32_t)hex4(&p, p + 4);
    if (unit >= 0xD800 && unit <= 0xDBFF) {
        p += 2;
        unit = 0x10000 + ((unit - 0xD800) << 10) + ((uint32_t)hex4(&p, p + 4) - 0xDC00);
    }
    *cp = unit;
    return p;
}

size_t json_int_run(const char *p, size_t n, int32_t *out, size_t cap, size_t *count)
{
    const char *start = p, *end = p + n;
    size_t k = 0;
    p = skip_blanks(p + 1, end);
    while (p < end && (k || *p != ']')) {
        bool minus = *p == '-';
        const char *first = p += minus;
        int64_t v = 0;
        for (; p < end && is_digit(*p) && p - first < 10; p++)
            v = v * 10 + (*p - '0');
        if (p == first || (*first == '0' && (p - first > 1 || minus)))
            return 0; /* no integer, or one that would lose its look: -0 */
        v = minus ? -v : v;
        if (v < INT32_MIN || v > INT32_MAX)
            return 0;
        if (k < cap)
            out[k] = (int32_t)v;
        k++;
        p = skip_blanks(p, end);
        if (p < end && *p == ']')
            break;
        if (p == end || *p != ',')
            return 0; /* an eleventh digit, a fraction and an exponent end here too */
        p = skip_blanks(p + 1, end);
    }
    if (p == end)
        return 0;
    *count = k;
    return (size_t)(p + 1 - start);
}

/* Order of the decoded characters of two checked strings. */
static int compare_chars(const char *a, const char *b)
{
    uint32_t x, y;
    while (*a != '"' && *b != '"') {
        a = json_char(a, &x);
        b = json_char(b, &y);
        if (x != y)
            return x < y ? -1 : 1;
    }
    return (*b == '"') - (*a == '"');
}

static int compare_keys(const void *pa, const void *pb)
{
    const struct key *a = pa, *b = pb;
    if (a->hash != b->hash)
        return a->hash < b->hash ? -1 : 1;
    int order = compare_chars(a->at, b->at);
    return order ? order : (a->at > b->at) - (a->at < b->at);
}

/* Refuse the first key (in the text) that an earlier one of the same object equals. */
static int check_duplicates(struct scan *s, struct key *keys, size_t n)
{
    const char *again = NULL;
    if (n > 1)
        qsort(keys, n, sizeof *keys, compare_keys);
    for (size_t i = 1; i < n; i++)
        if (keys[i].hash == keys[i - 1].hash && !compare_chars(keys[i].at, keys[i - 1].at))
            if (!again || keys[i].at < again)
                again = keys[i].at;
    if (!again)
        return 0;
    return err_set(s->e, EINVAL, "JSON, byte %zu: this key stands in the object already",
                   (size_t)(again - 1 - s->begin));
}

static void push_level(struct scan *s, bool object)
{
    s->levels[s->depth++] = (struct level){s->n_keys, object};
    s->at++;
}

static int pop_level(struct scan *s)
{
    const struct level *top = &s->levels[--s->depth];
    int rc = check_duplicates(s, s->keys + top->first_key, s->n_keys - top->first_key);
    s->n_keys = top->first_key;
    s->at++;
    return rc;
}

static int scan_array(struct scan *s, enum want *want)
{
    size_t count, took = json_int_run(s->at, (size_t)(s->end - s->at), NULL, 0, &count);
    s->at += took;
    if (took) {
        s->size.ints += count;
    } else {
        push_level(s, false);
        *want = WANT_VALUE;
    }
    return 0;
}

static int scan_object(struct scan *s, enum want *want)
{
    push_level(s, true);
    s->at = skip_blanks(s->at, s->end);
    if (s->at < s->end && *s->at == '}')
        return pop_level(s);
    *want = WANT_KEY;
    return 0;
}

static int scan_value(struct scan *s, enum want *want)
{
    char c = s->at < s->end ? *s->at : 0;
    if (++s->size.nodes > s->node_limit)
        return err_set(s->e, E2BIG, "JSON, byte %zu: more than %zu values", (size_t)(s->at - s->begin), s->node_limit);
    if ((c == '[' || c == '{') && s->depth == s->depth_limit)
        return err_set(s->e, E2BIG, "JSON, byte %zu: nested deeper than %zu levels", (size_t)(s->at - s->begin),
                       s->depth_limit);
    *want = WANT_MORE;
    if (c == '[')
        return scan_array(s, want);
    if (c == '{')
        return scan_object(s, want);
    if (c == '"')
        return scan_string(s);
    if (c == '-' || is_digit(c))
        return scan_number(s);
    return scan_literal(s);
}

static int scan_key(struct scan *s, enum want *want)
{
    if (s->at == s->end || *s->at != '"')
        return fail(s, s->at, "a key in quotes");
    struct key key = {s->at + 1, 0};
    int rc = scan_string(s);
    if (rc)
        return rc;
    for (const char *p = key.at; *p != '"';) {
        uint32_t cp;
        p = json_char(p, &cp);
        key.hash = (key.hash ^ cp) * 0x9E3779B97F4A7C15u;
    }
    if (vec_grow(&s->keys, &s->cap_keys, s->n_keys + 1, sizeof key))
        return err_set(s->e, ENOMEM, "JSON: no memory for the keys of an object");
    s->keys[s->n_keys++] = key;
    s->at = skip_blanks(s->at, s->end);
    if (s->at == s->end || *s->at != ':')
        return fail(s, s->at, "':' after the key");
    s->at++;
    *want = WANT_VALUE;
    return 0;
}

/* What follows a value: a comma or the end of its array or object. */
static int scan_more(struct scan *s, enum want *want)
{
    bool object = s->levels[s->depth - 1].object;
    char c = s->at < s->end ? *s->at : 0;
    if (c == (object ? '}' : ']'))
        return pop_level(s);
    if (c != ',')
        return fail(s, s->at, object ? "',' or '}'" : "',' or ']'");
    s->at++;
    *want = object ? WANT_KEY : WANT_VALUE;
    return 0;
}

static int scan_document(struct scan *s)
{
    enum want want = WANT_VALUE;
    do {
        s->at = skip_blanks(s->at, s->end);
        int rc = want == WANT_VALUE ? scan_value(s, &want)
                 : want == WANT_KEY ? scan_key(s, &want)
                                    : scan_more(s, &want);
        if (rc)
            return rc;
    } while (s->depth || want != WANT_MORE);
    s->at = skip_blanks(s->at, s->end);
    return s->at == s->end ? 0 : fail(s, s->at, "the end of the document");
}

int json_measure(struct json_size *size, const char *bytes, size_t n, const struct json_limits *limits, struct err *e)
{
    struct scan s = {.begin = bytes, .at = bytes, .end = bytes + n, .e = e};
    s.depth_limit = limits && limits->depth ? limits->depth : 64;
    s.node_limit = limits && limits->nodes ? limits->nodes : 1000000;
    assert(s.depth_limit <= JSON_DEPTH_MAX);
    if (n > UINT32_MAX)
        return err_set(e, E2BIG, "JSON: %zu bytes, the limit is 4 GiB", n);
    int rc = scan_document(&s);
    if (!rc)
        *size = s.size;
    free(s.keys);
    return rc;
}

int json_check(const char *bytes, size_t n, const struct json_limits *limits, struct err *e)
{
    struct json_size size;
    return json_measure(&size, bytes, n, limits, e);
}
