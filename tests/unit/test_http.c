/* test_http - requests and answers over loopback sockets: framing, keep-alive, pipelining, streams. */
#include "tests/support/http_stub.h"
#include "tests/support/unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define GET(path)        "GET " path " HTTP/1.1\r\nHost: h\r\n\r\n"
#define POST(path, n, b) "POST " path " HTTP/1.1\r\nHost: h\r\nContent-Length: " #n "\r\n\r\n" b

static void expect_body(struct reply *r, int status, const char *body)
{
    ck_assert_int_eq(r->status, status);
    ck_assert_str_eq(str_text(&r->body), body);
}

START_TEST(test_a_get_is_answered_and_the_connection_reused)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    for (int i = 0; i < 3; i++) {
        client_ask(&c, GET("/now"), &r);
        expect_body(&r, 200, "hello");
        ck_assert_str_eq(reply_header(&r, "content-type"), "text/plain");
        ck_assert_uint_eq(strlen(reply_header(&r, "x-request-id")), 32);
        ck_assert_ptr_null(reply_header(&r, "connection"));
        struct stub_event ev = stub_wait(s, STUB_GONE, (size_t)i);
        ck_assert_int_eq(ev.why, HTTP_GONE_DONE);
        ck_assert_int_eq(ev.status, 200);
        ck_assert(!ev.findable);
    }
    ck_assert_uint_eq(stub_connections(s), 1);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_a_body_comes_back_by_length_and_by_chunks)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    client_ask(&c, POST("/echo", 5, "12345"), &r);
    expect_body(&r, 200, "12345");
    client_ask(&c,
               "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
               "3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nTrailer: x\r\n\r\n",
               &r);
    expect_body(&r, 200, "abc0123456789abcdef");
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_an_answer_may_come_later_and_a_stream_in_pieces)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    client_send(&c, GET("/hold"));
    stub_answer(s, stub_wait(s, STUB_BODY, 0).id, "at last");
    client_read(&c, &r);
    expect_body(&r, 200, "at last");

    client_send(&c, GET("/stream"));
    uint64_t id = stub_wait(s, STUB_BODY, 1).id;
    client_read_head(&c, &r); /* before any byte of the body */
    ck_assert_int_eq(r.status, 200);
    ck_assert_str_eq(reply_header(&r, "transfer-encoding"), "chunked");
    ck_assert_int_eq(stub_write(s, id, "one ", 4), 0);
    ck_assert(client_read_stream(&c, &r.body, 4));
    ck_assert_int_eq(stub_write(s, id, "two", 3), 0);
    ck_assert(client_read_stream(&c, &r.body, 7));
    ck_assert_str_eq(r.body.data, "one two");
    stub_end(s, id);
    ck_assert(!client_read_stream(&c, &r.body, 8));
    ck_assert_int_eq(stub_wait(s, STUB_GONE, 1).why, HTTP_GONE_DONE);
    client_ask(&c, GET("/now"), &r);
    expect_body(&r, 200, "hello");
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_packets_may_be_cut_anywhere)
{
    static const char request[] = "POST /echo HTTP/1.1\r\nHost: h\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n"
                                  "4\r\nabcd\r\n3;x=y\r\nefg\r\n0\r\n\r\n";
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    size_t n = strlen(request);
    for (size_t cut = 1; cut < n; cut++) {
        client_send_n(&c, request, cut);
        stub_settle(s);
        client_send_n(&c, request + cut, n - cut);
        client_read(&c, &r);
        expect_body(&r, 200, "abcdefg");
    }
    for (size_t at = 0; at < n; at++) {
        client_send_n(&c, request + at, 1);
        stub_settle(s);
    }
    client_read(&c, &r);
    expect_body(&r, 200, "abcdefg");
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_pipelined_requests_are_answered_in_order)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    client_send(&c, GET("/1") POST("/echo", 2, "22") GET("/hold") GET("/4") POST("/echo", 1, "5") GET("/6"));
    client_read(&c, &r);
    expect_body(&r, 404, "/1");
    client_read(&c, &r);
    expect_body(&r, 200, "22");
    uint64_t id = stub_wait(s, STUB_BODY, 2).id;
    stub_settle(s);
    ck_assert_uint_eq(stub_count(s, STUB_BODY), 3); /* what follows waits for its turn */
    stub_answer(s, id, "3");
    client_read(&c, &r);
    expect_body(&r, 200, "3");
    client_read(&c, &r);
    expect_body(&r, 404, "/4");
    client_read(&c, &r);
    expect_body(&r, 200, "5");
    client_read(&c, &r);
    expect_body(&r, 404, "/6");
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_a_thousand_pipelined_requests_in_one_go)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    struct str all = {0};
    for (int i = 0; i < 1000; i++)
        str_addf(&all, "GET /%d HTTP/1.1\r\nHost: h\r\n\r\n", i);
    client_send_n(&c, all.data, all.len);
    for (int i = 0; i < 1000; i++) {
        char path[16];
        snprintf(path, sizeof path, "/%d", i);
        client_read(&c, &r);
        expect_body(&r, 404, path);
    }
    str_fini(&all);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_head_gives_the_head_of_get_and_no_body)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    const char *paths[] = {"/now", "/big?n=100000", "/stream", "/none"};
    for (int i = 0; i < 4; i++) {
        char request[64];
        snprintf(request, sizeof request, "HEAD %s HTTP/1.1\r\nHost: h\r\n\r\n", paths[i]);
        client_send(&c, request);
        client_read_head(&c, &r);
        ck_assert_int_eq(r.status, i == 3 ? 404 : 200);
        if (i == 1)
            ck_assert_str_eq(reply_header(&r, "content-length"), "100000");
        client_ask(&c, GET("/now"), &r); /* were there a body, this would be out of step */
        expect_body(&r, 200, "hello");
    }
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_paths_are_decoded_once_and_not_normalised)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    client_ask(&c, GET("/a%2Fb//c/../%2525?x=/%20"), &r);
    expect_body(&r, 404, "/a/b//c/../%25");
    client_ask(&c, GET("http://example.org:80/abs?x"), &r);
    expect_body(&r, 404, "/abs");
    client_ask(&c, "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", &r);
    expect_body(&r, 404, "*");
    client_ask(&c, GET("/big?m=%31&n=%33"), &r);
    expect_body(&r, 200, "abc");
    ck_assert_int_eq(client_ask(&c, GET("/a%00"), &r), 400);
    ck_assert(client_is_closed(&c));
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_request_ids_are_theirs_when_fit_and_ours_otherwise)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    char first[64];
    client_ask(&c, "GET /now HTTP/1.1\r\nHost: h\r\nX-Request-ID:  abc-1 \r\n\r\n", &r);
    ck_assert_str_eq(reply_header(&r, "x-request-id"), "abc-1");
    client_ask(&c, "GET /now HTTP/1.1\r\nHost: h\r\nX-Request-ID: a \"b\r\n\r\n", &r);
    ck_assert_uint_eq(strlen(reply_header(&r, "x-request-id")), 32);
    snprintf(first, sizeof first, "%s", reply_header(&r, "x-request-id"));
    client_ask(&c, GET("/now"), &r);
    ck_assert_str_ne(reply_header(&r, "x-request-id"), first);
    client_ask(&c, GET("/early"), &r);
    ck_assert_uint_eq(strlen(reply_header(&r, "x-request-id")), 32);
    client_ask(&c, GET("/hostile"), &r);
    ck_assert_str_eq(reply_header(&r, "x-note"), "two??lines: here");
    client_ask(&c, "GET /now HTTP/1.1\r\nHost: a b\r\nX-Request-ID: mine\r\n\r\n", &r);
    ck_assert_int_eq(r.status, 400);
    ck_assert_str_eq(reply_header(&r, "x-request-id"), "mine");
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

#define EXPECTING(path, n) "POST " path " HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: " #n "\r\n\r\n"

START_TEST(test_100_continue_comes_after_the_head_was_accepted)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    client_send(&c, EXPECTING("/echo", 4));
    client_read_head(&c, &r);
    ck_assert_int_eq(r.status, 100);
    client_send(&c, "body");
    client_read(&c, &r);
    expect_body(&r, 200, "body");
    client_send(&c, EXPECTING("/small", 101));
    client_read(&c, &r);
    ck_assert_int_eq(r.status, 413);
    ck_assert_str_eq(reply_header(&r, "connection"), "close");
    ck_assert(client_is_closed(&c));
    client_close(&c);
    c = client_open(s);
    client_send(&c, EXPECTING("/early", 4));
    client_read(&c, &r);
    expect_body(&r, 401, "who?");
    ck_assert(client_is_closed(&c));
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_http_1_0_closes_unless_asked_and_streams_unchunked)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    client_ask(&c, "GET /now HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", &r);
    expect_body(&r, 200, "hello");
    client_send(&c, "GET /stream HTTP/1.0\r\n\r\n");
    uint64_t id = stub_wait(s, STUB_BODY, 1).id;
    ck_assert_int_eq(stub_write(s, id, "plain", 5), 0);
    stub_end(s, id);
    client_read_head(&c, &r);
    ck_assert_ptr_null(reply_header(&r, "transfer-encoding"));
    ck_assert_uint_eq(client_drain(&c), 5);
    ck_assert_int_eq(stub_wait(s, STUB_GONE, 1).why, HTTP_GONE_DONE);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_connection_close_is_kept)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    client_ask(&c, "GET /now HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", &r);
    expect_body(&r, 200, "hello");
    ck_assert_str_eq(reply_header(&r, "connection"), "close");
    ck_assert(client_is_closed(&c));
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_large_bodies_go_both_ways)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    size_t n = 3 << 20;
    char *body = malloc(n), head[128];
    for (size_t i = 0; i < n; i++)
        body[i] = (char)(i * 31 >> 3);
    snprintf(head, sizeof head, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: %zu\r\n\r\n", n);
    client_send(&c, head);
    client_send_n(&c, body, n);
    client_read(&c, &r);
    ck_assert_uint_eq(r.body.len, n);
    ck_assert_mem_eq(r.body.data, body, n);
    client_ask(&c, GET("/big?n=16384"), &r); /* the sizes around the border between one call and pieces */
    ck_assert_uint_eq(r.body.len, 16384);
    client_ask(&c, GET("/big?n=16385"), &r);
    ck_assert_uint_eq(r.body.len, 16385);
    ck_assert_int_eq(r.body.data[16384], 'a' + 16384 % 23);
    free(body);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_a_hundred_thousand_chunks_of_one_byte)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    struct str all = {0};
    str_puts(&all, "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 100000; i++)
        str_puts(&all, "1\r\nx\r\n");
    str_puts(&all, "0\r\n\r\n");
    client_send_n(&c, all.data, all.len);
    client_read(&c, &r);
    ck_assert_uint_eq(r.body.len, 100000);
    str_fini(&all);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

/* -- listening */

static const struct {
    const char *address, *says;
} bad_addresses[] = {
    {"8080", "must be HOST:PORT"},       {"127.0.0.1:65536", "port must be"},
    {"example.org:80", "no IP address"}, {"127.0.0.1.5:80", "no IP address"},
    {"192.0.2.1:0", "no such address"},  {"unix:/no/such/folder/socket", "No such file"},
};

START_TEST(test_addresses_that_cannot_be_listened_on_are_explained)
{
    struct stub *s = stub_open(NULL);
    char taken[64];
    struct err e = {0};
    for (size_t i = 0; i < sizeof bad_addresses / sizeof *bad_addresses; i++) {
        ck_assert_int_lt(http_listen(s->http, bad_addresses[i].address, &e), 0);
        ck_assert_msg(strstr(e.text, bad_addresses[i].says), "%s: %s", bad_addresses[i].address, e.text);
    }
    snprintf(taken, sizeof taken, "127.0.0.1:%d", s->port);
    ck_assert_int_eq(http_listen(s->http, taken, &e), -EADDRINUSE);
    ck_assert_ptr_nonnull(strstr(e.text, "port in use by another process; choose another with --port"));
    ck_assert_int_lt(http_listen_fd(s->http, dup(0), &e), 0);
    stub_close(s);
}
END_TEST

static void listen_more(struct stub *s, void *arg)
{
    struct err e = {0};
    int *port = arg;
    char path[64];
    snprintf(path, sizeof path, "unix:test_http.%d.sock", getpid());
    *port = http_listen(s->http, "[::1]:0", &e);
    ck_assert_int_eq(http_listen(s->http, path, &e), 0);
}

static void ask_at(const struct sockaddr *a, socklen_t len)
{
    struct client c = {.fd = socket(a->sa_family, SOCK_STREAM, 0)};
    struct reply r = {0};
    ck_assert_int_eq(connect(c.fd, a, len), 0);
    client_ask(&c, GET("/now"), &r);
    expect_body(&r, 200, "hello");
    reply_fini(&r);
    client_close(&c);
}

START_TEST(test_it_listens_on_ipv6_and_unix_sockets_too)
{
    struct stub *s = stub_open(NULL);
    int port;
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof un.sun_path, "test_http.%d.sock", getpid());
    int stale = socket(AF_UNIX, SOCK_STREAM, 0); /* left behind by a crash: replaced */
    ck_assert_int_eq(bind(stale, (struct sockaddr *)&un, sizeof un), 0);
    close(stale);
    stub_do(s, listen_more, &port);
    if (port > 0) {
        struct sockaddr_in6 v6 = {
            .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        ask_at((struct sockaddr *)&v6, sizeof v6);
    } else {
        ck_assert_int_eq(port, -EADDRNOTAVAIL); /* a machine without IPv6 */
    }
    ask_at((struct sockaddr *)&un, sizeof un);
    stub_close(s);
    ck_assert_int_ne(access(un.sun_path, F_OK), 0);
}
END_TEST

static void adopt(struct stub *s, void *arg)
{
    struct err e = {0};
    ck_assert_int_eq(http_listen_fd(s->http, *(int *)arg, &e), 0);
}

START_TEST(test_a_listening_socket_from_outside_is_taken_over)
{
    struct stub *s = stub_open(NULL);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert(bind(fd, (struct sockaddr *)&a, len) == 0 && listen(fd, 8) == 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    stub_do(s, adopt, &fd);
    ask_at((struct sockaddr *)&a, len);
    stub_close(s);
}
END_TEST

static void tick(void *ctx)
{
    ++*(int *)ctx;
}

static void tick_every_second(struct stub *s, void *arg)
{
    http_every(s->http, 1000, tick, arg);
}

START_TEST(test_the_timer_follows_the_clock)
{
    struct stub *s = stub_open(NULL);
    int ticks = 0;
    stub_do(s, tick_every_second, &ticks);
    ck_assert_int_eq(ticks, 0);
    stub_advance(s, 1.1);
    ck_assert_int_eq(ticks, 1);
    stub_advance(s, 5);
    ck_assert_int_eq(ticks, 2); /* about every second: what was missed is not made up for */
    stub_close(s);
}
END_TEST

UNIT_MAIN("http", test_a_get_is_answered_and_the_connection_reused, test_a_body_comes_back_by_length_and_by_chunks,
          test_an_answer_may_come_later_and_a_stream_in_pieces, test_packets_may_be_cut_anywhere,
          test_pipelined_requests_are_answered_in_order, test_a_thousand_pipelined_requests_in_one_go,
          test_head_gives_the_head_of_get_and_no_body, test_paths_are_decoded_once_and_not_normalised,
          test_request_ids_are_theirs_when_fit_and_ours_otherwise, test_100_continue_comes_after_the_head_was_accepted,
          test_http_1_0_closes_unless_asked_and_streams_unchunked, test_connection_close_is_kept,
          test_large_bodies_go_both_ways, test_a_hundred_thousand_chunks_of_one_byte,
          test_addresses_that_cannot_be_listened_on_are_explained, test_it_listens_on_ipv6_and_unix_sockets_too,
          test_a_listening_socket_from_outside_is_taken_over, test_the_timer_follows_the_clock)
