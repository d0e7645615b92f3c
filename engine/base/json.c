/* json - the second pass: fill the tree that the first one measured; and the questions to a tree. See json.h.
 *
 * A document is one block: nodes, then the elements of flat arrays, then text. The bytes passed the check, so this pass
 * skips blanks, colons and commas alike, and needs no stack: an open array or object is reached from its last child.
 */
#include "engine/base/json_impl.h"

#include "engine/base/utf8.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct json {
    struct json_val root; /* the first of all nodes */
};

struct build {
    const char *at, *end;
    struct json_val *node_at, *parent, *prev; /* prev: the last finished child of parent, if any */
    int32_t *int_at, *int_end;
    char *text_at;
    const char *key; /* read, and waiting for its value */
    uint32_t key_n;
};

static struct json_val *add_node(struct build *b, enum json_type type)
{
    struct json_val *v = b->node_at++;
    *v = (struct json_val){.key = b->key, .key_n = b->key_n, .type = (uint8_t)type, .last = true};
    b->key = NULL;
    b->key_n = 0;
    if (b->prev) {
        b->prev->last = false;
        b->prev->step = (uint32_t)(v - b->prev);
    }
    if (b->parent) {
        b->parent->n++;
        v->step = (uint32_t)(v - b->parent);
    }
    b->prev = v;
    return v;
}

static void open_node(struct build *b, enum json_type type)
{
    b->parent = add_node(b, type);
    b->prev = NULL;
    b->at++;
}

static void close_node(struct build *b)
{
    b->prev = b->parent;
    b->parent = b->parent->step ? b->parent - b->parent->step : NULL;
    b->at++;
}

static void build_array(struct build *b)
{
    size_t count,
        took = json_int_run(b->at, (size_t)(b->end - b->at), b->int_at, (size_t)(b->int_end - b->int_at), &count);
    if (!took) {
        open_node(b, JSON_ARRAY);
        return;
    }
    struct json_val *v = add_node(b, JSON_ARRAY);
    v->flat = true;
    v->ints = b->int_at;
    v->n = (uint32_t)count;
    b->int_at += count;
    b->at += took;
}

/* Decode the string at b->at; returns its text and length. */
static const char *take_string(struct build *b, uint32_t *n)
{
    const char *text = b->text_at, *p = b->at + 1;
    char *to = b->text_at;
    while (*p != '"') {
        if (*p != '\\') {
            *to++ = *p++;
            continue;
        }
        uint32_t cp;
        p = json_char(p, &cp);
        to += utf8_put(to, cp);
    }
    *n = (uint32_t)(to - text);
    *to++ = 0;
    b->text_at = to;
    b->at = p + 1;
    return text;
}

static void build_string(struct build *b)
{
    if (b->parent && b->parent->type == JSON_OBJECT && !b->key) {
        b->key = take_string(b, &b->key_n);
        return;
    }
    struct json_val *v = add_node(b, JSON_STRING);
    v->text = take_string(b, &v->n);
}

static bool number_char(char c)
{
    return (c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.' || c == 'e' || c == 'E';
}

static void build_number(struct build *b)
{
    struct json_val *v = add_node(b, JSON_NUMBER);
    v->text = b->text_at;
    for (; b->at < b->end && number_char(*b->at); b->at++)
        *b->text_at++ = *b->at;
    v->n = (uint32_t)(b->text_at - v->text);
    *b->text_at++ = 0;
}

static void build_literal(struct build *b)
{
    char c = *b->at;
    add_node(b, c == 't' ? JSON_TRUE : c == 'f' ? JSON_FALSE : JSON_NULL);
    b->at += c == 'f' ? 5 : 4;
}

static void build_all(struct build *b)
{
    while (b->at < b->end) {
        switch (*b->at) {
        case ' ':
        case '\n':
        case '\r':
        case '\t':
        case ',':
        case ':':
            b->at++;
            break;
        case '"':
            build_string(b);
            break;
        case '[':
            build_array(b);
            break;
        case '{':
            open_node(b, JSON_OBJECT);
            break;
        case ']':
        case '}':
            close_node(b);
            break;
        case 't':
        case 'f':
        case 'n':
            build_literal(b);
            break;
        default:
            build_number(b);
        }
    }
}

int json_parse(struct json **out, const char *bytes, size_t n, const struct json_limits *limits, struct err *e)
{
    struct json_size size;
    int rc = json_measure(&size, bytes, n, limits, e);
    if (rc)
        return rc;
    size_t node_bytes = size.nodes * sizeof(struct json_val), int_bytes = size.ints * sizeof(int32_t);
    size_t total = node_bytes + int_bytes + size.text; /* at most 39 * 4 GiB: no overflow */
    struct json_val *nodes = malloc(total);
    if (!nodes)
        return err_set(e, ENOMEM, "JSON: no memory for a tree of %zu bytes", total);
    struct build b = {.at = bytes, .end = bytes + n, .node_at = nodes};
    b.int_at = (int32_t *)(nodes + size.nodes);
    b.int_end = b.int_at + size.ints;
    b.text_at = (char *)b.int_end;
    build_all(&b);
    assert(b.node_at == nodes + size.nodes && b.int_at == b.int_end);
    assert(b.text_at <= (char *)nodes + total && !b.parent);
    *out = (struct json *)nodes;
    return 0;
}

void json_close(struct json *doc)
{
    free(doc);
}

const struct json_val *json_root(const struct json *doc)
{
    return &doc->root;
}

enum json_type json_typeof(const struct json_val *v)
{
    return (enum json_type)v->type;
}

const struct json_val *json_get(const struct json_val *v, const char *key)
{
    if (!v || v->type != JSON_OBJECT)
        return NULL;
    size_t n = strlen(key);
    for (v = json_first(v); v; v = json_next(v))
        if (v->key_n == n && !memcmp(v->key, key, n))
            return v;
    return NULL;
}

const struct json_val *json_first(const struct json_val *v)
{
    return json_count(v) && !v->flat ? v + 1 : NULL;
}

const struct json_val *json_next(const struct json_val *v)
{
    return v->last ? NULL : v + v->step;
}

const char *json_key(const struct json_val *v, size_t *n)
{
    if (n)
        *n = v->key_n;
    return v->key;
}

size_t json_count(const struct json_val *v)
{
    return v && (v->type == JSON_ARRAY || v->type == JSON_OBJECT) ? v->n : 0;
}

static const char *text_of(const struct json_val *v, enum json_type type, size_t *n)
{
    if (!v || v->type != type)
        return NULL;
    if (n)
        *n = v->n;
    return v->text;
}

const char *json_text(const struct json_val *v, size_t *n)
{
    return text_of(v, JSON_STRING, n);
}

const char *json_digits(const struct json_val *v, size_t *n)
{
    return text_of(v, JSON_NUMBER, n);
}

bool json_double(const struct json_val *v, double *out)
{
    if (!v || v->type != JSON_NUMBER)
        return false;
    *out = strtod(v->text, NULL); /* correctly rounded; the process stays in the C locale */
    return true;
}

/* The written digits as digits[0..n) x 10^scale: point and exponent taken in, zeros at both ends dropped. */
struct decimal {
    bool minus;
    int64_t scale;
    size_t n;
    char digits[20]; /* enough for an int64; n tells when there were more */
};

static void read_decimal(struct decimal *d, const char *p)
{
    int64_t exponent = 0, zeros = 0;
    bool fraction = false;
    *d = (struct decimal){.minus = *p == '-'};
    for (p += d->minus; *p && (*p | 32) != 'e'; p++) {
        if (*p == '.') {
            fraction = true;
            continue;
        }
        d->scale -= fraction;
        if (*p == '0') {
            zeros++; /* kept back: they count only when another digit follows */
            continue;
        }
        for (; d->n && zeros; zeros--, d->n++)
            if (d->n < sizeof d->digits)
                d->digits[d->n] = '0';
        if (d->n < sizeof d->digits)
            d->digits[d->n] = *p;
        d->n++;
        zeros = 0;
    }
    d->scale += zeros;
    bool down = *p && p[1] == '-';
    for (p += *p ? 1 : 0; *p; p++)
        if (*p >= '0' && *p <= '9' && exponent < INT64_MAX / 100)
            exponent = exponent * 10 + (*p - '0');
    d->scale += down ? -exponent : exponent;
}

bool json_int(const struct json_val *v, int64_t *out)
{
    struct decimal d;
    if (!v || v->type != JSON_NUMBER)
        return false;
    read_decimal(&d, v->text);
    if (d.n && (d.scale < 0 || d.scale > 19 || d.n + (size_t)d.scale > 19))
        return false; /* a fraction, or at least 10^19 */
    uint64_t u = 0;
    for (size_t i = 0; i < d.n; i++)
        u = u * 10 + (uint64_t)(d.digits[i] - '0');
    for (int64_t i = 0; d.n && i < d.scale; i++)
        u *= 10;
    if (u > (uint64_t)INT64_MAX + d.minus)
        return false;
    *out = d.minus ? (int64_t)(0 - u) : (int64_t)u;
    return true;
}

const int32_t *json_ints(const struct json_val *v, size_t *n)
{
    if (!v || !v->flat)
        return NULL;
    *n = v->n;
    return v->ints;
}
