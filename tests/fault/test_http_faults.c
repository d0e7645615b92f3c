/* test_http_faults - the HTTP server when memory or descriptors run out: the Nth allocation fails, for every N. */
#include "tests/support/failing_malloc.h"
#include "tests/support/http_stub.h"
#include "tests/support/unit.h"

#include "engine/base/sys.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* The client's side without an allocation, so that all that fail are the server's. */
static char received[1 << 20];

/* Send, then receive until the mark or the end of the connection. True when the mark came. */
static bool ask(int fd, const char *request, const char *mark)
{
    size_t n = 0;
    send(fd, request, strlen(request), MSG_NOSIGNAL);
    for (;;) {
        ssize_t got = recv(fd, received + n, sizeof received - 1 - n, 0);
        if (got <= 0)
            return false;
        n += (size_t)got;
        received[n] = 0;
        if (strstr(received, mark))
            return true;
    }
}

/* A connection with a bound on waiting: a test that hangs is a test that fails. */
static int open_client(struct stub *s)
{
    struct client c = client_open(s);
    struct timeval limit = {WAIT_MS / 1000, 0};
    if (setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0)
        abort(); /* Check's assertions allocate */
    return c.fd;
}

static void stream_once(struct stub *s)
{
    static const char bytes[10000];
    int fd = open_client(s);
    size_t bodies = stub_count(s, STUB_BODY);
    if (ask(fd, "GET /stream HTTP/1.1\r\nHost: h\r\n\r\n", "\r\n\r\n")) {
        uint64_t id = stub_wait(s, STUB_BODY, bodies).id;
        if (stub_write_if_found(s, id, bytes, sizeof bytes) == 0 && stub_end_if_found(s, id) == 0)
            while (recv(fd, received, sizeof received, 0) > 0 && !memmem(received, 20000, "0\r\n\r\n", 5))
                memset(received, 0, 20000);
    }
    close(fd);
}

/* All that a call can do, one connection each: body, large answer, refusals, stream. Whatever fails, each wait ends: by
 * an answer or by the end of the connection. */
static void converse(struct stub *s)
{
    static const struct {
        const char *request, *mark;
    } turns[] = {
        {"POST /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: "
         "chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
         "abcde"},
        {"GET /big?n=50000 HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Request-Id: a \r\n\r\n", "tuvwabc"},
        {"POST /small HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 101\r\nExpect: 100-continue\r\n\r\n",
         "accepted"},
        {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "one Host header"},
    };
    for (size_t i = 0; i < sizeof turns / sizeof *turns; i++) {
        int fd = open_client(s);
        ask(fd, turns[i].request, turns[i].mark);
        close(fd);
    }
    stream_once(s);
}

START_TEST(test_every_allocation_may_fail_and_only_its_request_suffers)
{
    struct stub *s = stub_open(NULL);
    unsigned long n = 0, made;
    converse(s);
    do {
        fail_nth(++n);
        converse(s);
        stub_wait_connections(s, 0);
        made = fail_stop();
        ck_assert_uint_eq(stub_count(s, STUB_HEAD), stub_count(s, STUB_GONE));
        int fd = open_client(s);
        ck_assert(ask(fd, "GET /now HTTP/1.1\r\nHost: h\r\n\r\n", "hello"));
        close(fd);
        stub_wait_connections(s, 0);
    } while (made >= n);
    printf("%lu allocations, each failed once\n", n - 1);
    ck_assert_uint_gt(n, 50);
    stub_close(s);
}
END_TEST

/* -- opening */

static int fail_int(int flags)
{
    errno = EMFILE;
    return -1;
}

static int fail_eventfd(unsigned init, int flags)
{
    return fail_int(flags);
}

static int fail_socket(int domain, int type, int protocol)
{
    return fail_int(type);
}

static int fail_listen(int fd, int backlog)
{
    errno = EADDRINUSE;
    return -1;
}

static int fail_epoll_ctl(int ep, int op, int fd, struct epoll_event *event)
{
    errno = ENOSPC;
    return -1;
}

static int open_descriptors(void)
{
    int n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += dup2(fd, fd) == fd;
    return n;
}

static int try_open(struct err *e)
{
    struct http_conf conf = stub_conf();
    struct http_app app = {0};
    struct http *h = NULL;
    int rc = http_open(&h, &conf, &app, e);
    if (rc == 0)
        rc = http_listen(h, "127.0.0.1:0", e);
    http_close(h);
    return rc;
}

static int (*real_epoll_ctl)(int ep, int op, int fd, struct epoll_event *event);

/* The socket of a client is the only thing watched for RDHUP and not for IN. */
static int fail_watching_clients(int ep, int op, int fd, struct epoll_event *event)
{
    if (event && !(event->events & EPOLLIN))
        return fail_epoll_ctl(ep, op, fd, event);
    return real_epoll_ctl(ep, op, fd, event);
}

static void swap_epoll_ctl(struct stub *s, void *arg)
{
    real_epoll_ctl = real_epoll_ctl ? real_epoll_ctl : sys.epoll_ctl;
    sys.epoll_ctl = *(bool *)arg ? fail_watching_clients : real_epoll_ctl;
}

START_TEST(test_a_client_that_cannot_be_watched_is_closed)
{
    struct stub *s = stub_open(NULL);
    bool failing = true;
    stub_do(s, swap_epoll_ctl, &failing);
    int fd = open_client(s);
    ck_assert_int_le(recv(fd, received, 1, 0), 0);
    close(fd);
    failing = false;
    stub_do(s, swap_epoll_ctl, &failing);
    fd = open_client(s);
    ck_assert(ask(fd, "GET /now HTTP/1.1\r\nHost: h\r\n\r\n", "hello"));
    close(fd);
    stub_close(s);
}
END_TEST

START_TEST(test_opening_without_descriptors_says_so_and_leaks_nothing)
{
    const struct sys_table real = sys;
    struct err e = {0};
    int before = open_descriptors();
    ck_assert_int_gt(try_open(&e), 0);
    sys.epoll_create1 = fail_int;
    ck_assert_int_eq(try_open(&e), -EMFILE);
    sys = real;
    sys.eventfd = fail_eventfd;
    ck_assert_int_eq(try_open(&e), -EMFILE);
    sys = real;
    sys.socket = fail_socket;
    ck_assert_int_eq(try_open(&e), -EMFILE);
    sys = real;
    sys.listen = fail_listen;
    ck_assert_int_eq(try_open(&e), -EADDRINUSE);
    ck_assert_ptr_nonnull(strstr(e.text, "port in use"));
    sys = real;
    sys.epoll_ctl = fail_epoll_ctl;
    ck_assert_int_eq(try_open(&e), -ENOSPC);
    sys = real;
    ck_assert_int_eq(open_descriptors(), before);
}
END_TEST

START_TEST(test_every_allocation_of_opening_may_fail)
{
    struct err e = {0};
    int before = open_descriptors(), rc;
    unsigned long n = 0, made;
    do {
        fail_nth(++n);
        rc = try_open(&e);
        made = fail_stop();
        ck_assert(made < n ? rc > 0 : rc == -ENOMEM);
        ck_assert_int_eq(open_descriptors(), before);
    } while (made >= n);
    ck_assert_uint_ge(n, 5);
}
END_TEST

START_TEST(test_limits_out_of_range_are_named)
{
    struct http_app app = {0};
    struct http *h = NULL;
    struct err e = {0};
    struct http_conf c = stub_conf();
    c.max_connections = 0;
    ck_assert_int_eq(http_open(&h, &c, &app, &e), -EINVAL);
    ck_assert_ptr_nonnull(strstr(e.text, "http.max_connections 0: must be 1 to"));
    c = stub_conf();
    c.header_count = 1001;
    ck_assert_int_eq(http_open(&h, &c, &app, &e), -EINVAL);
    ck_assert_ptr_nonnull(strstr(e.text, "http.header_count 1001"));
    c = stub_conf();
    c.header_bytes = 100;
    ck_assert_int_eq(http_open(&h, &c, &app, &e), -EINVAL);
    c = stub_conf();
    c.stream_bytes = 1;
    ck_assert_int_eq(http_open(&h, &c, &app, &e), -EINVAL);
    c = stub_conf();
    c.idle_ms = 0;
    ck_assert_int_eq(http_open(&h, &c, &app, &e), -EINVAL);
    ck_assert_ptr_null(h);
    http_close(NULL);
}
END_TEST

UNIT_MAIN("http_faults", test_every_allocation_may_fail_and_only_its_request_suffers,
          test_a_client_that_cannot_be_watched_is_closed, test_opening_without_descriptors_says_so_and_leaks_nothing,
          test_every_allocation_of_opening_may_fail, test_limits_out_of_range_are_named)
