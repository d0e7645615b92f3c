/* test_http_guard - tables of request heads and targets, good and hostile. */
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "server/http_guard.h"

#include <errno.h>
#include <string.h>

#define FIELDS_MAX 128

/* A head cut into pieces as libmicrohttpd does it, leniently: at LF with or without CR, at the first colon, values up
 * to NUL, leading blanks dropped, and a folded line glued to the name before it. */
struct parsed {
    char bytes[8192], line[1024];
    struct guard_field fields[FIELDS_MAX];
    struct guard_head head;
};

static void parse_fields(struct parsed *p, char *at, char *end)
{
    while (at < end) {
        char *eol = memchr(at, '\n', (size_t)(end - at));
        ck_assert_ptr_nonnull(eol);
        char *next = eol + 1;
        if (eol > at && eol[-1] == '\r')
            *--eol = 0;
        *eol = 0;
        if (*at == 0)
            break;
        if (*at == ' ' && p->head.n_fields > 0) { /* the name moves elsewhere, longer */
            struct guard_field *f = &p->fields[p->head.n_fields - 1];
            f->name_len = (size_t)snprintf(p->line, sizeof p->line, "%s%s", f->name, at + 1);
            f->name = p->line;
            at = next;
            continue;
        }
        char *colon = strchr(at, ':');
        ck_assert_ptr_nonnull(colon);
        *colon++ = 0;
        colon += strspn(colon, " \t");
        p->fields[p->head.n_fields++] = (struct guard_field){at, colon, strlen(at), strlen(colon)};
        at = next;
    }
}

static void parse(struct parsed *p, const char *text, size_t n)
{
    memset(p, 0, sizeof *p);
    memcpy(p->bytes, text, n);
    char *eol = memchr(p->bytes, '\n', n), *target = strchr(p->bytes, ' ');
    char *next = eol + 1;
    if (eol[-1] == '\r')
        *--eol = 0;
    *eol = 0;
    *target++ = 0;
    target += strspn(target, " ");
    char *version = eol;
    while (version > target && version[-1] != ' ')
        version--;
    version[-1] = 0;
    p->head = (struct guard_head){.start = p->bytes,
                                  .bytes = n,
                                  .method = p->bytes,
                                  .target = target,
                                  .version = version,
                                  .method_len = strlen(p->bytes),
                                  .target_len = strlen(target),
                                  .fields = p->fields};
    parse_fields(p, next, p->bytes + n);
}

static int check(const char *text, size_t n, struct guard_framing *out)
{
    static struct parsed p;
    const struct guard_limits limits = {4096, 100};
    const char *why = NULL;
    parse(&p, text, n);
    int status = guard_check(&p.head, &limits, out, &why);
    ck_assert(status == 0 || strlen(why) > 10);
    return status;
}

#define G "GET / HTTP/1.1\r\nHost: h\r\n"
#define P "POST / HTTP/1.1\r\nHost: h\r\n"

static const struct head_case {
    int status;
    const char *text;
    size_t n; /* 0 = strlen */
} head_cases[] = {
    {0, G "\r\n", 0},
    {0, G "Accept:*/*\r\nX: \t spread  \t\r\nEmpty:\r\n\r\n", 0},
    {0, "GET / HTTP/1.0\r\n\r\n", 0},
    {0, G "Host-Like: a\r\n\r\n", 0},
    {0, P "Content-Length: 0\r\n\r\n", 0},
    {0, P "Content-Length: 12 \r\n\r\n", 0},
    {0, P "content-length:999999999999999999\r\n\r\n", 0},
    {0, P "Transfer-Encoding: chunked\r\n\r\n", 0},
    {0, P "transfer-encoding: CHUNKED \r\n\r\n", 0},
    {0, P "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\n", 0},
    {0, "OPTIONS * HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", 0},
    {0, "M-SEARCH / HTTP/1.1\r\nHost: a.b-c_d:80\r\n\r\n", 0},
    {0, G "X: caf\xc3\xa9\r\n\r\n", 0},
    /* lengths */
    {400, P "Content-Length: 3\r\nContent-Length: 4\r\n\r\n", 0},
    {400, P "Content-Length: 3\r\nContent-Length: 3\r\n\r\n", 0},
    {400, P "Content-Length: 3\r\ncontent-length: 3\r\n\r\n", 0},
    {400, P "Content-Length: 3, 3\r\n\r\n", 0},
    {400, P "Content-Length: +3\r\n\r\n", 0},
    {400, P "Content-Length: -3\r\n\r\n", 0},
    {400, P "Content-Length: 0x3\r\n\r\n", 0},
    {400, P "Content-Length: 3 3\r\n\r\n", 0},
    {400, P "Content-Length:\r\n\r\n", 0},
    {400, P "Content-Length: 9999999999999999999\r\n\r\n", 0},
    {400, P "Content-Length : 3\r\n\r\n", 0},
    {400, P " Content-Length: 3\r\n\r\n", 0},
    {400, P "Content-Length\t: 3\r\n\r\n", 0},
    /* codings */
    {400, P "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 0},
    {400, P "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 0},
    {400, P "Transfer-Encoding: xchunked\r\n\r\n", 0},
    {400, P "Transfer-Encoding: chunked, chunked\r\n\r\n", 0},
    {400, P "Transfer-Encoding: gzip, chunked\r\n\r\n", 0},
    {400, P "Transfer-Encoding: identity\r\n\r\n", 0},
    {400, P "Transfer-Encoding:\r\n\r\n", 0},
    {400, P "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 0},
    {400,
     P "Transfer-Encoding: \x0b"
       "chunked\r\n\r\n",
     0},
    {400, P "Transfer-Encoding\x0b: chunked\r\n\r\n", 0},
    {400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 0},
    {415, P "Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n", 0},
    {417, P "Expect: 200-ok\r\nContent-Length: 3\r\n\r\n", 0},
    {417, P "Expect: 100-continue\r\nExpect: 100-continue\r\n\r\n", 0},
    /* host and other single fields */
    {400, "GET / HTTP/1.1\r\n\r\n", 0},
    {400, G "Host: h\r\n\r\n", 0},
    {400, G "host: other\r\n\r\n", 0},
    {400, "GET / HTTP/1.1\r\nHost:\r\n\r\n", 0},
    {400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 0},
    {400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 0},
    {400, "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 0},
    {400, "GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", 0},
    {400, G "Authorization: a\r\nAuthorization: b\r\n\r\n", 0},
    {400, G "Content-Type: a\r\nContent-Type: b\r\n\r\n", 0},
    /* bytes and layout */
    {400, G "A: x\0y\r\n\r\n", sizeof G "A: x\0y\r\n\r\n" - 1},
    {400, "GET /a\0b HTTP/1.1\r\nHost: h\r\n\r\n", sizeof "GET /a\0b HTTP/1.1\r\nHost: h\r\n\r\n" - 1},
    {400, "GET / HTTP/1.1\nHost: h\r\n\r\n", 0},
    {400, G "A: x\nB: y\r\n\r\n", 0},
    {400, G "A: x\r\n\n", 0},
    {400, G "A: x\r\n folded\r\n\r\n", 0},
    {400, P "Content-Leng: 3\r\n th\r\n\r\n", 0}, /* the parser makes Content-Length of it */
    {400, G "A: x\ry\r\n\r\n", 0},
    {400, G "A: x\x01\r\n\r\n", 0},
    {400, G "A: x\x7f\r\n\r\n", 0},
    {400, G "A B: x\r\n\r\n", 0},
    {400, G "A(: x\r\n\r\n", 0},
    {400, G "\xc3\xa9: x\r\n\r\n", 0},
    {400, G ": x\r\n\r\n", 0},
    {400, "GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 0},
    {400, "G(T / HTTP/1.1\r\nHost: h\r\n\r\n", 0},
    {400, "GETGETGETGETGETGETGET / HTTP/1.1\r\nHost: h\r\n\r\n", 0},
    {505, "GET / HTTP/2.0\r\nHost: h\r\n\r\n", 0},
};

START_TEST(test_heads_are_taken_or_refused_as_the_table_says)
{
    for (size_t i = 0; i < sizeof head_cases / sizeof *head_cases; i++) {
        const struct head_case *hc = &head_cases[i];
        struct guard_framing f;
        int status = check(hc->text, hc->n ? hc->n : strlen(hc->text), &f);
        ck_assert_msg(status == hc->status, "case %zu: %d, not %d: %s", i, status, hc->status, hc->text);
    }
}
END_TEST

START_TEST(test_framing_comes_out_as_the_head_says)
{
    struct guard_framing f;
    ck_assert_int_eq(check(P "Content-Length: 0012 \r\n\r\n", strlen(P "Content-Length: 0012 \r\n\r\n"), &f), 0);
    ck_assert_uint_eq(f.content_length, 12);
    ck_assert(!f.chunked && !f.expect_continue && !f.http10);
    const char *chunked = P "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    ck_assert_int_eq(check(chunked, strlen(chunked), &f), 0);
    ck_assert(f.chunked && f.expect_continue);
    const char *old = "POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n";
    ck_assert_int_eq(check(old, strlen(old), &f), 0);
    ck_assert(f.http10 && !f.expect_continue);
}
END_TEST

START_TEST(test_too_many_bytes_or_fields_are_431)
{
    static char text[8192];
    struct guard_framing f;
    size_t n = (size_t)snprintf(text, sizeof text, "%s", G);
    for (int i = 0; i < 99; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "a: b\r\n");
    n += (size_t)snprintf(text + n, sizeof text - n, "\r\n");
    ck_assert_int_eq(check(text, n, &f), 0);
    n += (size_t)snprintf(text + n - 2, sizeof text - n, "a: b\r\n\r\n") - 2;
    ck_assert_int_eq(check(text, n, &f), 431);
    n = (size_t)snprintf(text, sizeof text, "%sa: %4000s\r\n\r\n", G, "b");
    ck_assert_int_eq(check(text, n, &f), 0);
    n = (size_t)snprintf(text, sizeof text, "%sa: %4100s\r\n\r\n", G, "b");
    ck_assert_int_eq(check(text, n, &f), 431);
}
END_TEST

/* Whatever one byte of a good head becomes, the verdict is a status, and a NUL or LF never passes. */
START_TEST(test_one_wrong_byte_never_passes_as_a_line_end)
{
    const char *good = P "Content-Length: 3\r\nAccept: */*\r\n\r\n";
    size_t n = strlen(good);
    for (size_t at = strlen("POST / HTTP/1.1\r\nH"); at < n - 4; at++) {
        char text[128];
        struct guard_framing f;
        memcpy(text, good, n);
        if (text[at] == '\r' || text[at] == '\n' || text[at] == ':')
            continue;
        text[at] = 1;
        ck_assert_int_eq(check(text, n, &f), 400);
    }
}
END_TEST

START_TEST(test_request_ids_are_printable_and_short)
{
    char id[130];
    memset(id, 'x', sizeof id);
    ck_assert(guard_request_id(id, 1));
    ck_assert(guard_request_id(id, 128));
    ck_assert(!guard_request_id(id, 129));
    ck_assert(!guard_request_id(id, 0));
    ck_assert(guard_request_id("req_1-A.b/c=+", 13));
    ck_assert(!guard_request_id("a b", 3));
    ck_assert(!guard_request_id("a\"b", 3));
    ck_assert(!guard_request_id("a'b", 3));
    ck_assert(!guard_request_id("a\nb", 3));
    ck_assert(!guard_request_id("\xc3\xa9", 2));
}
END_TEST

static const struct target_case {
    const char *raw, *path; /* path NULL: refused */
    const char *query;      /* "name=value|..." decoded */
} target_cases[] = {
    {"/", "/", ""},
    {"/v1/models", "/v1/models", ""},
    {"/v1/models/org%2Fname%20x", "/v1/models/org/name x", ""},
    {"/%2525", "/%25", ""}, /* once */
    {"/a//b/../c/./d/", "/a//b/../c/./d/", ""},
    {"/a+b", "/a+b", ""},
    {"/a?", "/a", ""},
    {"/a?x=1&y=2", "/a", "x=1|y=2|"},
    {"/a?x=1?2&&y&=3", "/a", "x=1?2|y=|=3|"},
    {"/a?n%61me=%41+b%2B&x==", "/a", "name=A b+|x==|"},
    {"*", "*", ""},
    {"http://host", "/", ""},
    {"http://host/", "/", ""},
    {"HTTP://user@host:80/p?q=1", "/p", "q=1|"},
    {"https://[::1]:8080/v1", "/v1", ""},
    {"", NULL, ""},
    {"v1", NULL, ""},
    {"**", NULL, ""},
    {"host:443", NULL, ""},
    {"ftp://host/", NULL, ""},
    {"http://host?q", NULL, ""},
    {"/a%", NULL, ""},
    {"/a%4", NULL, ""},
    {"/a%4g", NULL, ""},
    {"/a%g4", NULL, ""},
    {"/a%00b", NULL, ""},
    {"/a?x=%00", NULL, ""},
    {"/a?%zz=1", NULL, ""},
    {"/a#b", NULL, ""},
    {"/a b", NULL, ""},
    {"/a\tb", NULL, ""},
    {"/caf\xc3\xa9", NULL, ""},
    {"/a\x7f", NULL, ""},
};

START_TEST(test_targets_are_decoded_once_or_refused)
{
    for (size_t i = 0; i < sizeof target_cases / sizeof *target_cases; i++) {
        const struct target_case *tc = &target_cases[i];
        struct arena a = {0};
        struct target t;
        const char *why = NULL;
        char query[256] = "";
        int rc = target_parse(&a, tc->raw, strlen(tc->raw), &t, &why);
        ck_assert_msg(rc == (tc->path ? 0 : -EINVAL), "%s: %d", tc->raw, rc);
        if (rc == 0) {
            ck_assert_str_eq(t.path, tc->path);
            for (size_t q = 0; q < t.n_query; q++)
                snprintf(query + strlen(query), sizeof query - strlen(query), "%s=%s|", t.query[q].name,
                         t.query[q].value);
            ck_assert_str_eq(query, tc->query);
        }
        arena_fini(&a);
    }
}
END_TEST

START_TEST(test_random_targets_never_hold_nul_and_never_break)
{
    uint64_t rng = unit_seed("random targets");
    static const char alphabet[] = "/%0a2fF?&=+*h:.\x01#";
    for (int round = 0; round < 100000; round++) {
        char raw[16];
        struct arena a = {0};
        struct target t;
        const char *why;
        size_t n = rng_next(&rng) % sizeof raw;
        for (size_t i = 0; i < n; i++)
            raw[i] = alphabet[rng_next(&rng) % (sizeof alphabet - 1)];
        if (target_parse(&a, raw, n, &t, &why) == 0) {
            ck_assert(t.path[0] == '/' || t.path[0] == '*');
            ck_assert_uint_le(strlen(t.path), n + 1);
        }
        arena_fini(&a);
    }
}
END_TEST

UNIT_MAIN("http_guard", test_heads_are_taken_or_refused_as_the_table_says, test_framing_comes_out_as_the_head_says,
          test_too_many_bytes_or_fields_are_431, test_one_wrong_byte_never_passes_as_a_line_end,
          test_request_ids_are_printable_and_short, test_targets_are_decoded_once_or_refused,
          test_random_targets_never_hold_nul_and_never_break)
