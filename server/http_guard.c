/* http_guard - see http_guard.h. */
#include "server/http_guard.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

/* RFC 9110 5.6.2: what names and methods are made of. */
static bool is_token_char(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!is_token_char((unsigned char)s[i]))
            return false;
    return n > 0;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static bool all_blank(const char *from, const char *to)
{
    while (from < to && is_blank(*from))
        from++;
    return from == to;
}

static bool name_is(const struct guard_field *f, const char *name)
{
    return f->name_len == strlen(name) && strncasecmp(f->name, name, f->name_len) == 0;
}

/* Visible characters, blanks and bytes above 0x7f: everything that can't be mistaken for a line end or its like. */
static bool is_value(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

void guard_trim(const char **value, size_t *n)
{
    while (*n > 0 && is_blank(**value)) {
        ++*value;
        --*n;
    }
    while (*n > 0 && is_blank((*value)[*n - 1]))
        --*n;
}

/* The parser before us cuts lines at bare LF, cuts values at NUL, glues folded lines to names, skips extra blanks. All
 * of it leaves a gap: in a head that every parser reads alike, one thing starts where the one before it ends. */
static bool is_tight(const struct guard_head *h)
{
    const char *end = h->start + h->bytes;
    if (h->method != h->start || h->target != h->method + h->method_len + 1 ||
        h->version != h->target + h->target_len + 1)
        return false;
    const char *at = h->version + 8 + 2; /* HTTP/1.x CRLF */
    for (size_t i = 0; i < h->n_fields; i++) {
        const struct guard_field *f = &h->fields[i];
        if (f->name != at || f->value < f->name + f->name_len + 1 || f->value > end ||
            !all_blank(f->name + f->name_len + 1, f->value) || f->value_len > (size_t)(end - f->value))
            return false;
        at = f->value + f->value_len + 2;
    }
    return at + 2 == end;
}

static int check_fields(const struct guard_head *h, const char **why)
{
    for (size_t i = 0; i < h->n_fields; i++) {
        const struct guard_field *f = &h->fields[i];
        if (!is_token(f->name, f->name_len)) {
            *why = "a header name holds a blank or another character that names may not have";
            return 400;
        }
        if (!is_value(f->value, f->value_len)) {
            *why = "a header value holds a control character";
            return 400;
        }
    }
    return 0;
}

/* The one field of that name; NULL when absent. *twice when there is more than one. */
static const struct guard_field *find_one(const struct guard_head *h, const char *name, bool *twice)
{
    const struct guard_field *found = NULL;
    for (size_t i = 0; i < h->n_fields; i++)
        if (name_is(&h->fields[i], name)) {
            *twice |= found != NULL;
            found = &h->fields[i];
        }
    return found;
}

static bool value_is(const struct guard_field *f, const char *text)
{
    const char *v = f->value;
    size_t n = f->value_len;
    guard_trim(&v, &n);
    return n == strlen(text) && strncasecmp(v, text, n) == 0;
}

/* Decimal digits only, below 2^63. */
static bool parse_length(const struct guard_field *f, uint64_t *out)
{
    const char *v = f->value;
    size_t n = f->value_len;
    guard_trim(&v, &n);
    if (n == 0 || n > 18)
        return false;
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        if (v[i] < '0' || v[i] > '9')
            return false;
        *out = *out * 10 + (uint64_t)(v[i] - '0');
    }
    return true;
}

static int check_framing(const struct guard_head *h, struct guard_framing *out, const char **why)
{
    bool twice = false;
    const struct guard_field *length = find_one(h, "content-length", &twice);
    const struct guard_field *coding = find_one(h, "transfer-encoding", &twice);
    if (twice) {
        *why = "Content-Length or Transfer-Encoding is repeated";
        return 400;
    }
    if (length && coding) {
        *why = "Content-Length and Transfer-Encoding exclude each other";
        return 400;
    }
    if (length && !parse_length(length, &out->content_length)) {
        *why = "Content-Length must be a decimal number below 10^18";
        return 400;
    }
    if (coding && (!value_is(coding, "chunked") || out->http10)) {
        *why = "the only Transfer-Encoding is chunked, and only in HTTP/1.1";
        return 400;
    }
    out->chunked = coding != NULL;
    return 0;
}

/* A host as URIs write it, with an optional port (RFC 3986 3.2.2). */
static bool is_host(const struct guard_field *f)
{
    const char *v = f->value;
    size_t n = f->value_len;
    guard_trim(&v, &n);
    for (size_t i = 0; i < n; i++)
        if (!is_token_char((unsigned char)v[i]) && !strchr("[]:;=()", v[i]))
            return false;
    return n > 0;
}

static int check_host(const struct guard_head *h, const struct guard_framing *framing, const char **why)
{
    bool twice = false;
    const struct guard_field *host = find_one(h, "host", &twice);
    if (twice || (!host && !framing->http10) || (host && !is_host(host))) {
        *why = "there must be one Host header, a name or address with an optional port";
        return 400;
    }
    find_one(h, "authorization", &twice);
    find_one(h, "content-type", &twice);
    if (twice) {
        *why = "Authorization or Content-Type is repeated";
        return 400;
    }
    return 0;
}

static int check_wishes(const struct guard_head *h, struct guard_framing *out, const char **why)
{
    bool twice = false;
    const struct guard_field *expect = find_one(h, "expect", &twice);
    if (twice || (expect && !value_is(expect, "100-continue"))) {
        *why = "the only expectation that can be met is 100-continue";
        return 417;
    }
    out->expect_continue = expect && !out->http10;
    if (find_one(h, "content-encoding", &twice)) {
        *why = "compressed bodies are not accepted; send the body without Content-Encoding";
        return 415;
    }
    return 0;
}

static int check_line(const struct guard_head *h, struct guard_framing *out, const char **why)
{
    if (h->method_len > 20 || !is_token(h->method, h->method_len)) {
        *why = "the method is no HTTP method";
        return 400;
    }
    if (strncmp(h->version, "HTTP/1.", 7) != 0) {
        *why = "only HTTP/1.1 and HTTP/1.0 are spoken here";
        return 505;
    }
    out->http10 = h->version[7] == '0';
    return 0;
}

int guard_check(const struct guard_head *head, const struct guard_limits *limits, struct guard_framing *out,
                const char **why)
{
    *out = (struct guard_framing){0};
    if (head->bytes > limits->header_bytes || head->n_fields > limits->header_count) {
        *why = "the request head has too many bytes or fields";
        return 431;
    }
    int rc = check_line(head, out, why);
    if (rc == 0)
        rc = check_fields(head, why);
    if (rc == 0 && head->start && !is_tight(head)) {
        *why = "the request head holds NUL, a bare line feed, a folded line or extra blanks";
        rc = 400;
    }
    if (rc == 0)
        rc = check_framing(head, out, why);
    if (rc == 0)
        rc = check_host(head, out, why);
    if (rc == 0)
        rc = check_wishes(head, out, why);
    return rc;
}

bool guard_request_id(const char *id, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (id[i] <= ' ' || id[i] > '~' || id[i] == '"' || id[i] == '\'')
            return false;
    return n >= 1 && n <= 128;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Copy s[0..n) with escapes decoded, once; '+' is a blank when form is set. NULL with *rc -EINVAL or -ENOMEM. */
static const char *decode(struct arena *a, const char *s, size_t n, bool form, int *rc)
{
    char *out = arena_alloc(a, n + 1), *o = out;
    *rc = out ? 0 : -ENOMEM;
    for (size_t i = 0; out && i < n; i++) {
        if (s[i] != '%') {
            *o++ = form && s[i] == '+' ? ' ' : s[i];
            continue;
        }
        int hi = n - i > 2 ? hex(s[i + 1]) : -1, lo = hi >= 0 ? hex(s[i + 2]) : -1;
        if (lo < 0 || hi * 16 + lo == 0) {
            *rc = -EINVAL;
            return NULL;
        }
        *o++ = (char)(hi * 16 + lo);
        i += 2;
    }
    return out;
}

static int parse_pair(struct arena *a, const char *s, size_t n, struct target_pair *out)
{
    const char *equals = memchr(s, '=', n);
    size_t name_len = equals ? (size_t)(equals - s) : n;
    int rc;
    out->name = decode(a, s, name_len, true, &rc);
    if (rc == 0)
        out->value = decode(a, s + name_len + (equals != NULL), n - name_len - (equals != NULL), true, &rc);
    return rc;
}

static int parse_query(struct arena *a, const char *s, size_t n, struct target *out)
{
    size_t pairs = n > 0;
    for (size_t i = 0; i < n; i++)
        pairs += s[i] == '&';
    struct target_pair *query = arena_array(a, pairs, sizeof *query);
    if (!query)
        return -ENOMEM;
    out->query = query;
    for (const char *at = s, *end = s + n; at < end;) {
        const char *next = memchr(at, '&', (size_t)(end - at));
        if (!next)
            next = end;
        if (next > at) {
            int rc = parse_pair(a, at, (size_t)(next - at), &query[out->n_query]);
            if (rc != 0)
                return rc;
            out->n_query++;
        }
        at = next + 1;
    }
    return 0;
}

/* Drop "scheme://authority" of an absolute form. */
static void drop_authority(const char **raw, size_t *n)
{
    size_t skip;
    if (*n >= 7 && strncasecmp(*raw, "http://", 7) == 0)
        skip = 7;
    else if (*n >= 8 && strncasecmp(*raw, "https://", 8) == 0)
        skip = 8;
    else
        return;
    while (skip < *n && (*raw)[skip] != '/' && (*raw)[skip] != '?')
        skip++;
    *raw += skip;
    *n -= skip;
    if (*n == 0) { /* http://host means its root */
        *raw = "/";
        *n = 1;
    }
}

int target_parse(struct arena *a, const char *raw, size_t n, struct target *out, const char **why)
{
    *out = (struct target){0};
    *why = "the request target must be a path that starts with '/', in printable ASCII, with escapes of two hex digits";
    for (size_t i = 0; i < n; i++)
        if (raw[i] <= ' ' || raw[i] > '~' || raw[i] == '#')
            return -EINVAL;
    if (n == 1 && raw[0] == '*') {
        out->path = "*";
        return 0;
    }
    drop_authority(&raw, &n);
    if (n == 0 || raw[0] != '/')
        return -EINVAL;
    const char *mark = memchr(raw, '?', n);
    size_t path_len = mark ? (size_t)(mark - raw) : n;
    int rc;
    out->path = decode(a, raw, path_len, false, &rc);
    if (rc == 0 && mark)
        rc = parse_query(a, mark + 1, n - path_len - 1, out);
    return rc;
}
