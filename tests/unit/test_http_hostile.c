/* test_http_hostile - clients that break the rules: smuggling, caps, broken chunks, floods of connections. */
#include "tests/support/http_stub.h"
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/base/sys.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define GET(path) "GET " path " HTTP/1.1\r\nHost: h\r\n\r\n"
#define SMUGGLED  GET("/smuggled")
#define P         "POST /echo HTTP/1.1\r\nHost: h\r\n"
#define G         "GET /now HTTP/1.1\r\nHost: h\r\n"

/* What comes before SMUGGLED is refused, the connection is closed, and SMUGGLED is never taken for a request. */
static const struct wire_case {
    int status;
    bool ours; /* in JSON with x-request-id; else the library's own page */
    const char *text;
    size_t n; /* 0 = strlen */
} wire_cases[] = {
    {400, true, P "Content-Length: 3\r\nContent-Length: 48\r\n\r\nabc" SMUGGLED, 0},
    {400, true, P "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc" SMUGGLED, 0},
    {400, true, P "Content-Length : 48\r\n\r\n" SMUGGLED, 0},
    {400, true, P "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" SMUGGLED, 0},
    {400, true, P "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n" SMUGGLED, 0},
    {400, true, P "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" SMUGGLED, 0},
    {400, true, P "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" SMUGGLED, 0},
    {400, true, P "Transfer-Encoding: identity\r\n\r\n" SMUGGLED, 0},
    {400, true, P "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" SMUGGLED, 0},
    {400, true, P "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n" SMUGGLED, 0},
    {400, true, "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" SMUGGLED, 0},
    {400, true, P "Content-Leng: 48\r\n th\r\n\r\n" SMUGGLED, 0},
    {400, true, G "X: a\r\n folded\r\n\r\n" SMUGGLED, 0},
    {400, true, G "X: a\nY: b\r\n\r\n" SMUGGLED, 0},
    {400, true, "GET /now HTTP/1.1\nHost: h\r\n\r\n" SMUGGLED, 0},
    {400, true, G "\n" SMUGGLED, 0},
    {400, true, G "Host: other\r\n\r\n" SMUGGLED, 0},
    {400, true, "GET /now HTTP/1.1\r\n\r\n" SMUGGLED, 0},
    {400, true, G "X: a\0b\r\n\r\n" SMUGGLED, sizeof(G "X: a\0b\r\n\r\n" SMUGGLED) - 1},
    {400, true, "GET /now\0x HTTP/1.1\r\nHost: h\r\n\r\n" SMUGGLED,
     sizeof("GET /now\0x HTTP/1.1\r\nHost: h\r\n\r\n" SMUGGLED) - 1},
    {400, true, G "X: a\rb\r\n\r\n" SMUGGLED, 0},
    {400, true, G "X Y: a\r\n\r\n" SMUGGLED, 0},
    {400, true, "GET  /now HTTP/1.1\r\nHost: h\r\n\r\n" SMUGGLED, 0},
    {400, true, "GET /n ow HTTP/1.1\r\nHost: h\r\n\r\n" SMUGGLED, 0},
    {400, true, "GET now HTTP/1.1\r\nHost: h\r\n\r\n" SMUGGLED, 0},
    {400, true, "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n" SMUGGLED, 0},
    {400, true, "G\"T /now HTTP/1.1\r\nHost: h\r\n\r\n" SMUGGLED, 0},
    {415, true, P "Content-Encoding: gzip\r\nContent-Length: 48\r\n\r\n" SMUGGLED, 0},
    {417, true, P "Expect: coffee\r\nContent-Length: 48\r\n\r\n" SMUGGLED, 0},
    /* the library's own */
    {400, false, P "Content-Length: x\r\n\r\n" SMUGGLED, 0},
    {400, false, P "Content-Length: -3\r\n\r\n" SMUGGLED, 0},
    {400, false, P "Content-Length: 3, 3\r\n\r\nabc" SMUGGLED, 0},
    {413, false, P "Content-Length: 99999999999999999999\r\n\r\n" SMUGGLED, 0},
    {400, false, G "no colon\r\n\r\n" SMUGGLED, 0},
    {400, false, G "X\0: a\r\n\r\n" SMUGGLED, sizeof(G "X\0: a\r\n\r\n" SMUGGLED) - 1},
    {400, false, "GET /now HTTP/1.x\r\nHost: h\r\n\r\n" SMUGGLED, 0},
    {505, false, "GET /now HTTP/2.0\r\nHost: h\r\n\r\n" SMUGGLED, 0},
    {505, false, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0},
    /* chunks: the head was fine, the body is not */
    {400, false, P "Transfer-Encoding: chunked\r\n\r\n-2\r\nab\r\n0\r\n\r\n" SMUGGLED, 0},
    {400, false, P "Transfer-Encoding: chunked\r\n\r\n0x2\r\nab\r\n0\r\n\r\n" SMUGGLED, 0},
    {400, false, P "Transfer-Encoding: chunked\r\n\r\n2 \r\nab\r\n0\r\n\r\n" SMUGGLED, 0},
    {400, false, P "Transfer-Encoding: chunked\r\n\r\n\r\nab\r\n0\r\n\r\n" SMUGGLED, 0},
    {400, false, P "Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n" SMUGGLED, 0},
    {400, false, P "Transfer-Encoding: chunked\r\n\r\ng\r\n" SMUGGLED, 0},
    {413, false, P "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\nab" SMUGGLED, 0},
};

static void check_refusal(const struct wire_case *w, struct reply *r)
{
    ck_assert_msg(r->status == w->status, "%d, not %d: %s", r->status, w->status, w->text);
    ck_assert_msg(reply_header(r, "connection") && strcmp(reply_header(r, "connection"), "close") == 0, "%s", w->text);
    const char *id = reply_header(r, "x-request-id");
    ck_assert_msg((id != NULL) == w->ours, "%s", w->text);
    if (w->ours)
        ck_assert_msg(strncmp(str_text(&r->body), "{\"error\":", 9) == 0, "%s: %s", w->text, str_text(&r->body));
}

START_TEST(test_heads_that_parsers_read_differently_are_refused)
{
    struct stub *s = stub_open(NULL);
    struct reply r = {0};
    for (size_t i = 0; i < sizeof wire_cases / sizeof *wire_cases; i++) {
        const struct wire_case *w = &wire_cases[i];
        struct client c = client_open(s);
        size_t bodies = stub_count(s, STUB_BODY);
        client_send_n(&c, w->text, w->n ? w->n : strlen(w->text));
        client_read(&c, &r);
        check_refusal(w, &r);
        client_drain(&c);
        stub_wait_connections(s, 0);
        ck_assert_msg(stub_count(s, STUB_BODY) == bodies, "%s", w->text);
        client_close(&c);
    }
    ck_assert_uint_eq(stub_count(s, STUB_HEAD), stub_count(s, STUB_GONE));
    reply_fini(&r);
    stub_close(s);
}
END_TEST

/* Good requests with a few bytes changed, dropped, doubled, cut into packets anywhere, and a FIN. Whatever comes of it,
 * the connection ends, each call that was begun ends once, and the next client is served. */
START_TEST(test_random_bytes_break_nothing)
{
    static const char *const seeds[] = {
        G "X-Request-Id: a\r\n\r\n" SMUGGLED,
        P "Content-Length: 5\r\n\r\nhello" SMUGGLED,
        P "Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nTrailer: x\r\n\r\n" SMUGGLED,
        "POST /small HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 101\r\n\r\n",
        "POST /early?a=%41&b HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
    };
    static const char bytes[] = "\r\n\0: ;%0123456789abcdef\t\xff";
    uint64_t rng = unit_seed("random bytes");
    struct stub *s = stub_open(NULL);
    struct reply r = {0};
    for (int round = 0; round < 2000; round++) {
        struct client c = client_open(s);
        struct str text = {0};
        str_puts(&text, seeds[rng_next(&rng) % (sizeof seeds / sizeof *seeds)]);
        for (uint64_t edits = rng_next(&rng) % 4; edits > 0; edits--) {
            size_t at = rng_next(&rng) % text.len, n = rng_next(&rng) % 8;
            if (rng_next(&rng) % 2) {
                text.data[at] = bytes[rng_next(&rng) % (sizeof bytes - 1)];
            } else if (at + n < text.len) {
                memmove(text.data + at, text.data + at + n, text.len - at - n);
                str_cut(&text, text.len - n);
            }
        }
        for (size_t at = 0; at < text.len;) {
            size_t n = 1 + rng_next(&rng) % text.len;
            n = n < text.len - at ? n : text.len - at;
            client_send_n(&c, text.data + at, n);
            at += n;
            if (rng_next(&rng) % 4 == 0)
                stub_settle(s);
        }
        client_half_close(&c);
        client_drain(&c);
        stub_wait_connections(s, 0);
        str_fini(&text);
        client_close(&c);
    }
    ck_assert_uint_gt(stub_count(s, STUB_HEAD), 200);
    ck_assert_uint_eq(stub_count(s, STUB_HEAD), stub_count(s, STUB_GONE));
    struct client c = client_open(s);
    ck_assert_int_eq(client_ask(&c, GET("/now"), &r), 200);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

/* -- caps of the head */

static int ask_with(struct stub *s, const char *line, size_t fill, const char *end, struct reply *r)
{
    struct client c = client_open(s);
    struct str text = {0};
    str_puts(&text, line);
    for (size_t i = 0; i < fill; i++)
        str_putc(&text, 'a');
    str_puts(&text, end);
    client_send_n(&c, text.data, text.len);
    client_read(&c, r);
    str_fini(&text);
    client_close(&c);
    return r->status;
}

START_TEST(test_heads_above_the_caps_are_refused)
{
    struct stub *s = stub_open(NULL);
    struct reply r = {0};
    ck_assert_int_eq(ask_with(s, G "X: ", 16000, "\r\n\r\n", &r), 200);
    ck_assert_int_eq(ask_with(s, G "X: ", 16400, "\r\n\r\n", &r), 431);
    ck_assert_uint_eq(strlen(reply_header(&r, "x-request-id")), 32);
    ck_assert_int_eq(ask_with(s, G "X: ", 1 << 20, "\r\n\r\n", &r), 431);
    ck_assert_int_eq(ask_with(s, "GET /", 16000, " HTTP/1.1\r\nHost: h\r\n\r\n", &r), 404);
    ck_assert_int_eq(ask_with(s, "GET /", 1 << 20, " HTTP/1.1\r\nHost: h\r\n\r\n", &r), 414);
    ck_assert_int_eq(ask_with(s, G "Cookie: a=", 7000, "\r\n\r\n", &r), 200);
    ck_assert_int_eq(ask_with(s, G "Cookie: a=", 15000, "\r\n\r\n", &r), 431);
    ck_assert_ptr_null(reply_header(&r, "x-request-id")); /* the library had no room for its copy */
    ck_assert_int_eq(ask_with(s, G "Cookie: a=", 11600, "\r\n\r\n", &r), 431);
    ck_assert_ptr_nonnull(reply_header(&r, "x-request-id")); /* it had, but would have none for the answer */
    ck_assert_int_eq(
        ask_with(s, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nX: ", 16300, "\r\n\r\nabc", &r), 200);
    struct str many = {0};
    for (int i = 0; i < 99; i++)
        str_addf(&many, "h%d: v\r\n", i);
    str_puts(&many, "\r\n");
    ck_assert_int_eq(ask_with(s, G, 0, many.data, &r), 200);
    str_cut(&many, many.len - 2);
    str_puts(&many, "one-more: v\r\n\r\n");
    ck_assert_int_eq(ask_with(s, G, 0, many.data, &r), 431);
    str_cut(&many, 0);
    for (int i = 0; i < 400; i++)
        str_puts(&many, "&a=b");
    str_puts(&many, " HTTP/1.1\r\nHost: h\r\n\r\n");
    ck_assert_int_eq(ask_with(s, "GET /now?", 0, many.data, &r), 200); /* the library would run out of memory here */
    str_fini(&many);
    reply_fini(&r);
    stub_close(s);
}
END_TEST

/* -- caps of the body */

static const char zeros[1 << 20];

START_TEST(test_a_long_body_is_413_and_the_connection_lives_on)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    client_send(&c, "POST /small HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n");
    client_send_n(&c, zeros, 100);
    client_read(&c, &r);
    ck_assert_int_eq(r.status, 200);
    client_send(&c, "POST /small HTTP/1.1\r\nHost: h\r\nContent-Length: 101\r\n\r\n");
    client_send_n(&c, zeros, 101);
    client_read(&c, &r);
    ck_assert_int_eq(r.status, 413);
    ck_assert_ptr_nonnull(strstr(r.body.data, "the body has 101 bytes; at most 100 are accepted"));
    ck_assert_int_eq(stub_wait(s, STUB_GONE, 1).status, 413);
    ck_assert_uint_eq(stub_count(s, STUB_BODY), 1);
    client_send(&c, "POST /small HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n32\r\n");
    client_send_n(&c, zeros, 50);
    client_send(&c, "\r\n33\r\n");
    client_send_n(&c, zeros, 51);
    client_send(&c, "\r\n0\r\n\r\n");
    client_read(&c, &r);
    ck_assert_int_eq(r.status, 413);
    ck_assert_int_eq(client_ask(&c, GET("/now"), &r), 200);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_a_refused_body_up_to_a_mebibyte_is_read_before_the_answer)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    for (int i = 0; i < 2; i++) {
        client_send(&c, "POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 1048576\r\n\r\n");
        client_send_n(&c, zeros, sizeof zeros); /* all of it, before it listens */
        client_read(&c, &r);
        ck_assert_int_eq(r.status, 401);
        ck_assert_str_eq(r.body.data, "who?");
    }
    ck_assert_uint_eq(stub_count(s, STUB_BODY), 0);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_a_longer_refused_body_is_answered_at_once)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    client_send(&c, "POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 1048577\r\n\r\n");
    client_read(&c, &r);
    ck_assert_int_eq(r.status, 401);
    ck_assert_str_eq(reply_header(&r, "connection"), "close");
    ck_assert_int_eq(stub_wait(s, STUB_GONE, 0).why, HTTP_GONE_DONE);
    client_close(&c);

    c = client_open(s); /* with half of it on its way, the answer still arrives: no RST overtakes it */
    client_send(&c, "POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 1048577\r\n\r\n");
    client_send_n(&c, zeros, 100000);
    stub_wait_connections(s, 0);
    ck_assert_int_eq(send(c.fd, zeros, 100000, MSG_NOSIGNAL), 100000);
    stub_settle(s);
    ck_assert_int_eq(send(c.fd, zeros, 100000, MSG_NOSIGNAL), 100000);
    client_read(&c, &r);
    ck_assert_int_eq(r.status, 401);
    ck_assert(client_is_closed(&c));
    client_close(&c);

    c = client_open(s); /* chunks without end: refused where the patience ends */
    client_send(&c,
                "POST /early HTTP/1.1\r\nHost: h\r\nX-Request-Id: me\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n");
    client_send_n(&c, zeros, sizeof zeros);
    client_send_n(&c, zeros, 1000);
    client_read(&c, &r);
    ck_assert_int_eq(r.status, 401);
    ck_assert_str_eq(r.body.data, "who?");
    ck_assert_str_eq(reply_header(&r, "x-request-id"), "me");
    ck_assert(client_is_closed(&c));
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_a_refused_body_that_does_not_come_is_answered_after_two_seconds)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    client_send(&c, "POST /small HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nxyz");
    stub_wait(s, STUB_HEAD, 0);
    stub_advance(s, 1.5);
    ck_assert_uint_eq(stub_count(s, STUB_GONE), 0);
    stub_advance(s, 1);
    client_read(&c, &r);
    ck_assert_int_eq(r.status, 413);
    ck_assert(client_is_closed(&c));
    ck_assert_int_eq(stub_wait(s, STUB_GONE, 0).status, 413);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_bodies_together_have_a_cap)
{
    struct http_conf conf = stub_conf();
    conf.body_memory = 1 << 20;
    struct stub *s = stub_open(&conf);
    struct client a = client_open(s), b = client_open(s);
    struct reply r = {0};
    client_send(&a, "POST /hold HTTP/1.1\r\nHost: h\r\nContent-Length: 500000\r\n\r\n");
    client_send_n(&a, zeros, 500000); /* takes 512 KiB */
    stub_wait(s, STUB_BODY, 0);
    client_send(&b, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 600000\r\n\r\n");
    client_send_n(&b, zeros, 600000);
    client_read(&b, &r);
    ck_assert_int_eq(r.status, 503);
    ck_assert_str_eq(reply_header(&r, "retry-after"), "1");
    client_close(&a);
    stub_wait_connections(s, 1);
    client_send(&b, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 600000\r\n\r\n");
    client_send_n(&b, zeros, 600000);
    client_read(&b, &r);
    ck_assert_int_eq(r.status, 200);
    ck_assert_uint_eq(r.body.len, 600000);
    reply_fini(&r);
    client_close(&b);
    stub_close(s);
}
END_TEST

START_TEST(test_taken_bodies_count_until_they_are_given_back)
{
    struct http_conf conf = stub_conf();
    conf.body_memory = 1 << 20;
    struct stub *s = stub_open(&conf);
    struct client c = client_open(s);
    struct reply r = {0};
    for (int i = 0; i < 20; i++) { /* ten times the cap, one after the other */
        client_send(&c, "POST /take HTTP/1.1\r\nHost: h\r\nContent-Length: 500000\r\n\r\n");
        client_send_n(&c, zeros, 500000);
        client_read(&c, &r);
        ck_assert_int_eq(r.status, 200);
        ck_assert_uint_eq(s->taken.n, 500000);
        if (i == 7) {
            client_send(&c, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 600000\r\n\r\n");
            client_send_n(&c, zeros, 600000);
            client_read(&c, &r);
            ck_assert_int_eq(r.status, 503);
        }
        stub_give(s);
    }
    client_send(&c, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1040000\r\n\r\n");
    client_send_n(&c, zeros, 1040000);
    client_read(&c, &r);
    ck_assert_int_eq(r.status, 200); /* its room is the whole cap: nothing else counts any more */
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

/* -- floods */

START_TEST(test_above_the_connection_cap_the_answer_is_503_at_once)
{
    struct http_conf conf = stub_conf();
    conf.max_connections = 4;
    struct stub *s = stub_open(&conf);
    struct client c[4], extra;
    struct reply r = {0};
    for (int i = 0; i < 4; i++)
        c[i] = client_open(s);
    stub_wait_connections(s, 4);
    for (int i = 0; i < 10; i++) {
        extra = client_open(s);
        client_ask(&extra, GET("/health"), &r);
        ck_assert_int_eq(r.status, 503);
        ck_assert_str_eq(reply_header(&r, "connection"), "close");
        ck_assert_str_eq(reply_header(&r, "retry-after"), "1");
        ck_assert_uint_eq(strlen(reply_header(&r, "x-request-id")), 32);
        ck_assert(strncmp(r.body.data, "{\"error\":", 9) == 0);
        ck_assert(client_is_closed(&extra));
        client_close(&extra);
    }
    ck_assert_int_eq(client_ask(&c[3], GET("/now"), &r), 200);
    client_close(&c[0]);
    stub_wait_connections(s, 3);
    extra = client_open(s);
    ck_assert_int_eq(client_ask(&extra, GET("/now"), &r), 200);
    client_close(&extra);
    for (int i = 1; i < 4; i++)
        client_close(&c[i]);
    reply_fini(&r);
    stub_close(s);
}
END_TEST

static int (*real_accept)(int fd, struct sockaddr *addr, socklen_t *len, int flags);
static atomic_int accepts_failing;

static int failing_accept(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
    if (addr && atomic_load(&accepts_failing) > 0) { /* the spare one gives no address */
        errno = atomic_fetch_sub(&accepts_failing, 1) % 2 ? EMFILE : ENFILE;
        return -1;
    }
    return real_accept(fd, addr, len, flags);
}

static void fail_accepts(struct stub *s, void *arg)
{
    real_accept = sys.accept4;
    atomic_store(&accepts_failing, 2);
    sys.accept4 = failing_accept;
}

START_TEST(test_without_descriptors_clients_are_closed_and_not_kept_waiting)
{
    struct stub *s = stub_open(NULL);
    struct reply r = {0};
    stub_do(s, fail_accepts, NULL);
    for (int i = 0; i < 2; i++) {
        struct client c = client_open(s);
        ck_assert(client_is_closed(&c));
        client_close(&c);
    }
    struct client c = client_open(s);
    ck_assert_int_eq(client_ask(&c, GET("/now"), &r), 200);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

static int (*real_epoll_wait)(int ep, struct epoll_event *events, int n, int timeout_ms);
static atomic_int breaths;

static int watching_epoll_wait(int ep, struct epoll_event *events, int n, int timeout_ms)
{
    if (timeout_ms == 2)
        atomic_fetch_add(&breaths, 1);
    return real_epoll_wait(ep, events, n, timeout_ms);
}

static void watch_waits(struct stub *s, void *arg)
{
    real_epoll_wait = sys.epoll_wait;
    sys.epoll_wait = watching_epoll_wait;
}

/* A chunk-size line that never ends fills the library's buffer, and it asks for a run at once, for ever. */
START_TEST(test_a_full_read_buffer_does_not_burn_a_core)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s), d = client_open(s);
    struct reply r = {0};
    static char long_line[40000];
    memset(long_line, 120, sizeof long_line);
    stub_do(s, watch_waits, NULL);
    client_send(&c, P "Transfer-Encoding: chunked\r\n\r\n5;");
    client_send_n(&c, long_line, sizeof long_line);
    stub_wait(s, STUB_HEAD, 0);
    for (int i = 0; i < 1000 && atomic_load(&breaths) == 0; i++)
        stub_settle(s);
    ck_assert_int_gt(atomic_load(&breaths), 0);
    ck_assert_int_eq(client_ask(&d, GET("/now"), &r), 200);
    stub_advance(s, 31);
    ck_assert_int_eq(stub_wait(s, STUB_GONE, 1).why, HTTP_GONE_TIMEOUT);
    reply_fini(&r);
    client_close(&c);
    client_close(&d);
    stub_close(s);
}
END_TEST

/* -- memory */

static size_t resident_bytes(void)
{
    unsigned long total, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(fscanf(f, "%lu %lu", &total, &resident), 2);
    fclose(f);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

START_TEST(test_an_idle_connection_takes_at_most_28_kib)
{
    struct rlimit l;
    getrlimit(RLIMIT_NOFILE, &l);
    l.rlim_cur = l.rlim_max;
    setrlimit(RLIMIT_NOFILE, &l);
    size_t n = l.rlim_cur < 4200 ? (l.rlim_cur - 200) / 2 : 2000;
    struct stub *s = stub_open(NULL);
    struct client *c = calloc(n, sizeof *c);
    struct reply r = {0};
    ck_assert_uint_ge(n, 200);
    for (size_t i = 0; i < 100; i++) /* what the first ones bring along is not theirs */
        c[i] = client_open(s), client_ask(&c[i], GET("/now"), &r), client_close(&c[i]);
    stub_wait_connections(s, 0);
    size_t before = resident_bytes();
    for (size_t i = 0; i < n; i++) { /* each has been used: its pool was touched whole */
        c[i] = client_open(s);
        ck_assert_int_eq(client_ask(&c[i], GET("/now"), &r), 200);
        str_fini(&c[i].in);
    }
    size_t each = (resident_bytes() - before) / n;
    printf("%zu idle connections take %zu bytes each\n", n, each);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    ck_assert_uint_le(each, 28 << 10);
#endif
    for (size_t i = 0; i < n; i++)
        client_close(&c[i]);
    free(c);
    reply_fini(&r);
    stub_close(s);
}
END_TEST

UNIT_MAIN("http_hostile", test_heads_that_parsers_read_differently_are_refused, test_random_bytes_break_nothing,
          test_heads_above_the_caps_are_refused, test_a_long_body_is_413_and_the_connection_lives_on,
          test_a_refused_body_up_to_a_mebibyte_is_read_before_the_answer,
          test_a_longer_refused_body_is_answered_at_once,
          test_a_refused_body_that_does_not_come_is_answered_after_two_seconds, test_bodies_together_have_a_cap,
          test_taken_bodies_count_until_they_are_given_back, test_above_the_connection_cap_the_answer_is_503_at_once,
          test_without_descriptors_clients_are_closed_and_not_kept_waiting,
          test_a_full_read_buffer_does_not_burn_a_core, test_an_idle_connection_takes_at_most_28_kib)
