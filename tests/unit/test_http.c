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

UNIT_MAIN("http", test_a_get_is_answered_and_the_connection_reused, test_a_body_comes_back_by_length_and_by_chunks,
          test_an_answer_may_come_later_and_a_stream_in_pieces)
