/* test_http_gone - how calls and connections end: clients that vanish, time limits, slow readers, abort, drain. */
#include "tests/support/http_stub.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define GET(path) "GET " path " HTTP/1.1\r\nHost: h\r\n\r\n"

/* -- clients that vanish */

static void half_close(struct client *c)
{
    client_half_close(c);
}

static void full_close(struct client *c)
{
    client_close(c);
}

static void reset(struct client *c)
{
    client_reset(c);
}

static void (*const ways[])(struct client *c) = {half_close, full_close, reset};
static const char *const way_names[] = {"half-close", "close", "reset"};

enum state { S_IDLE, S_LINE, S_HEAD, S_BODY, S_DRAIN, S_APP, S_STREAM, S_STREAM_FULL, S_ANSWER, S_COUNT };
static const char *const state_names[] = {"idle",    "request line", "head",        "body",         "drain",
                                          "waiting", "streaming",    "full stream", "unread answer"};

/* Bring a new connection into the state. */
static void enter(struct stub *s, struct client *c, enum state state)
{
    static const char piece[16384];
    struct stub_event ev;
    size_t heads = stub_count(s, STUB_HEAD), bodies = stub_count(s, STUB_BODY);
    switch (state) {
    case S_IDLE:
        break;
    case S_LINE:
        client_send(c, "GET /no");
        break;
    case S_HEAD:
        client_send(c, "GET /now HTTP/1.1\r\nHost");
        break;
    case S_BODY:
        client_send(c, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n123");
        stub_wait(s, STUB_HEAD, heads);
        break;
    case S_DRAIN:
        client_send(c, "POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n123");
        stub_wait(s, STUB_HEAD, heads);
        break;
    case S_APP:
        client_send(c, GET("/hold"));
        stub_wait(s, STUB_BODY, bodies);
        break;
    case S_STREAM:
    case S_STREAM_FULL:
        client_send(c, GET("/stream"));
        ev = stub_wait(s, STUB_BODY, bodies);
        ck_assert_int_eq(stub_write(s, ev.id, "x", 1), 0);
        while (state == S_STREAM_FULL && stub_write(s, ev.id, piece, sizeof piece) == 0)
            ;
        break;
    case S_ANSWER:
        client_send(c, GET("/big?n=8000000"));
        stub_wait(s, STUB_BODY, bodies);
        break;
    case S_COUNT:
        break;
    }
    stub_settle(s);
}

static bool known_to_the_application(enum state state)
{
    return state >= S_BODY;
}

static uint64_t real_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

START_TEST(test_a_client_that_vanishes_is_seen_in_every_state)
{
    uint64_t worst = 0;
    for (int state = 0; state < S_COUNT; state++)
        for (int way = 0; way < 3; way++) {
            struct stub *s = stub_open(NULL);
            struct client c = client_open_narrow(s, 4096);
            enter(s, &c, state);
            ck_assert_uint_eq(stub_connections(s), 1);
            ck_assert_uint_eq(stub_count(s, STUB_GONE), 0);
            uint64_t start = real_us();
            ways[way](&c);
            if (known_to_the_application(state)) {
                struct stub_event ev = stub_wait(s, STUB_GONE, 0);
                uint64_t took = real_us() - start;
                worst = took > worst ? took : worst;
                ck_assert_msg(ev.why == HTTP_GONE_CLIENT, "%s, %s: why %d", state_names[state], way_names[way], ev.why);
                ck_assert(!ev.findable);
            }
            stub_wait_connections(s, 0);
            ck_assert_uint_eq(stub_count(s, STUB_GONE), known_to_the_application(state) ? 1 : 0);
            if (c.fd >= 0)
                client_close(&c);
            stub_close(s);
        }
    printf("vanished clients were reported within %llu us\n", (unsigned long long)worst);
}
END_TEST

START_TEST(test_a_request_that_comes_with_its_fin_is_not_started)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    client_send(&c, GET("/hold"));
    client_half_close(&c);
    stub_wait_connections(s, 0);
    size_t heads = stub_count(s, STUB_HEAD), gone = stub_count(s, STUB_GONE);
    ck_assert_uint_eq(heads, gone); /* started before the FIN was seen: ended; otherwise never started */
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_a_vanished_client_takes_its_pipeline_with_it)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    client_send(&c, GET("/hold") GET("/now") GET("/now"));
    stub_wait(s, STUB_BODY, 0);
    client_close(&c);
    ck_assert_int_eq(stub_wait(s, STUB_GONE, 0).why, HTTP_GONE_CLIENT);
    stub_wait_connections(s, 0);
    ck_assert_uint_eq(stub_count(s, STUB_HEAD), 1);
    stub_close(s);
}
END_TEST

/* As many clients as descriptors allow, at most n: each takes two. */
static int many(int n)
{
    struct rlimit l;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &l), 0);
    l.rlim_cur = l.rlim_max;
    setrlimit(RLIMIT_NOFILE, &l);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &l), 0);
    if (l.rlim_cur < (rlim_t)(2 * n + 64))
        n = ((int)l.rlim_cur - 64) / 2;
    ck_assert_int_ge(n, 200);
    return n;
}

START_TEST(test_a_thousand_clients_vanish_at_once)
{
    struct stub *s = stub_open(NULL);
    int n = many(1000);
    struct client *c = calloc((size_t)n, sizeof *c);
    for (int i = 0; i < n; i++) {
        c[i] = client_open(s);
        client_send(&c[i], i % 2 ? GET("/hold") : GET("/stream"));
    }
    stub_wait(s, STUB_BODY, (size_t)n - 1);
    for (int i = 0; i < n; i++)
        if (i % 3)
            client_close(&c[i]);
        else
            client_reset(&c[i]);
    for (int i = 0; i < n; i++)
        ck_assert_int_eq(stub_wait(s, STUB_GONE, (size_t)i).why, HTTP_GONE_CLIENT);
    stub_wait_connections(s, 0);
    ck_assert_uint_eq(stub_count(s, STUB_GONE), (size_t)n);
    free(c);
    stub_close(s);
}
END_TEST

/* -- time limits */

START_TEST(test_a_head_has_ten_seconds_however_it_trickles)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    client_send(&c, "GET /now HTTP/1.1\r\nHo");
    for (int i = 0; i < 3; i++) {
        stub_advance(s, 3);
        client_send(&c, "s");
    }
    ck_assert_uint_eq(stub_connections(s), 1);
    stub_advance(s, 1.5);
    client_read(&c, &r);
    ck_assert_int_eq(r.status, 408);
    ck_assert_str_eq(reply_header(&r, "connection"), "close");
    ck_assert_uint_eq(strlen(reply_header(&r, "x-request-id")), 32);
    ck_assert(client_is_closed(&c));
    stub_wait_connections(s, 0);
    ck_assert_uint_eq(stub_count(s, STUB_HEAD), 0);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_the_first_head_has_ten_seconds_from_accept_on)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    stub_advance(s, 6);
    client_send(&c, "GET /now HTTP/1.1\r\n");
    stub_advance(s, 5);
    client_read(&c, &r);
    ck_assert_int_eq(r.status, 408);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_who_connects_and_says_nothing_is_closed_too)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    stub_advance(s, 9);
    ck_assert_uint_eq(stub_connections(s), 1);
    stub_advance(s, 1.5);
    ck_assert(client_is_closed(&c));
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_an_idle_connection_is_kept_for_a_while)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(client_ask(&c, GET("/now"), &r), 200);
        stub_advance(s, 74);
    }
    ck_assert_uint_eq(stub_connections(s), 1);
    client_send(&c, "GET /now HT"); /* a request line that does not end does not buy time */
    stub_advance(s, 2);
    ck_assert(client_is_closed(&c));
    stub_wait_connections(s, 0);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_a_later_head_has_its_own_ten_seconds)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    ck_assert_int_eq(client_ask(&c, GET("/now"), &r), 200);
    stub_advance(s, 70);
    client_send(&c, "GET /now HTTP/1.1\r\n");
    stub_advance(s, 9);
    ck_assert_int_eq(client_ask(&c, "Host: h\r\n\r\n", &r), 200);
    client_send(&c, "GET /now HTTP/1.1\r\n");
    stub_advance(s, 10.5);
    client_read(&c, &r);
    ck_assert_int_eq(r.status, 408);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_a_body_has_thirty_seconds_and_one_more_for_64_kib)
{
    static const char piece[65536];
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    client_send(&c, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n");
    stub_wait(s, STUB_HEAD, 0);
    for (int i = 0; i < 4; i++)
        client_send_n(&c, piece, sizeof piece);
    for (int i = 0; i < 64; i++)
        stub_settle(s);
    stub_advance(s, 33.5);
    ck_assert_uint_eq(stub_count(s, STUB_GONE), 0);
    client_send(&c, "and a little more");
    stub_advance(s, 1);
    ck_assert_int_eq(stub_wait(s, STUB_GONE, 0).why, HTTP_GONE_TIMEOUT);
    client_read(&c, &r);
    ck_assert_int_eq(r.status, 408);
    ck_assert(client_is_closed(&c));
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_the_application_may_take_its_time)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s), d = client_open(s);
    struct reply r = {0};
    client_send(&c, GET("/hold"));
    uint64_t hold = stub_wait(s, STUB_BODY, 0).id;
    client_send(&d, GET("/stream"));
    uint64_t stream = stub_wait(s, STUB_BODY, 1).id;
    stub_advance(s, 7200);
    stub_answer(s, hold, "after two hours");
    client_read(&c, &r);
    ck_assert_str_eq(r.body.data, "after two hours");
    ck_assert_int_eq(stub_write(s, stream, "token", 5), 0);
    client_read_head(&d, &r);
    ck_assert(client_read_stream(&d, &r.body, 5));
    stub_advance(s, 7200);
    ck_assert_int_eq(stub_write(s, stream, "token", 5), 0);
    ck_assert(client_read_stream(&d, &r.body, 10));
    reply_fini(&r);
    client_close(&c);
    client_close(&d);
    stub_close(s);
}
END_TEST

/* -- slow readers */

/* Fill the stream until the ring says no; the bytes count up. Returns how many were taken. */
static size_t fill(struct stub *s, uint64_t id, size_t from)
{
    uint32_t words[1024];
    size_t at = from;
    for (;;) {
        for (size_t i = 0; i < 1024; i++)
            words[i] = (uint32_t)(at / 4 + i);
        int rc = stub_write(s, id, words, sizeof words);
        if (rc != 0) {
            ck_assert_int_eq(rc, -EAGAIN);
            return at;
        }
        at += sizeof words;
    }
}

START_TEST(test_a_slow_reader_fills_the_ring_and_gets_every_byte)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open_narrow(s, 4096);
    struct reply r = {0};
    client_send(&c, GET("/stream"));
    uint64_t id = stub_wait(s, STUB_BODY, 0).id;
    client_read_head(&c, &r);
    size_t total = 0;
    for (size_t round = 0; round < 3; round++) {
        size_t before = total;
        total = fill(s, id, total);
        ck_assert_uint_gt(total, before);
        ck_assert_uint_lt(total - before, 1 << 20); /* ring and socket buffers, not the 4 MB the kernel would take */
        ck_assert_uint_eq(stub_count(s, STUB_ROOM), round);
        ck_assert(client_read_stream(&c, &r.body, total - 8192));
        stub_wait(s, STUB_ROOM, round);
    }
    ck_assert_int_eq(stub_write(s, id, NULL, s->conf.stream_bytes + 1), -EMSGSIZE);
    stub_end(s, id);
    while (client_read_stream(&c, &r.body, r.body.len + 1))
        ;
    ck_assert_uint_eq(r.body.len, total);
    for (size_t i = 0; i < total / 4; i++)
        ck_assert_uint_eq(((uint32_t *)(void *)r.body.data)[i], i);
    ck_assert_int_eq(stub_wait(s, STUB_GONE, 0).why, HTTP_GONE_DONE);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_a_reader_that_takes_nothing_for_a_minute_is_cut)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open_narrow(s, 4096);
    struct reply r = {0};
    client_send(&c, GET("/stream"));
    uint64_t id = stub_wait(s, STUB_BODY, 0).id;
    client_read_head(&c, &r);
    size_t total = fill(s, id, 0);
    stub_advance(s, 50);
    ck_assert(client_read_stream(&c, &r.body, total - 8192)); /* it took some: the minute starts again */
    stub_wait(s, STUB_ROOM, 0);
    fill(s, id, total);
    stub_advance(s, 50);
    ck_assert_uint_eq(stub_count(s, STUB_GONE), 0);
    stub_advance(s, 11);
    struct stub_event ev = stub_wait(s, STUB_GONE, 0);
    ck_assert_int_eq(ev.why, HTTP_GONE_TIMEOUT);
    ck_assert(!ev.findable);
    stub_wait_connections(s, 0);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_an_ended_stream_that_nobody_reads_is_cut_too)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open_narrow(s, 4096);
    client_send(&c, GET("/stream"));
    uint64_t id = stub_wait(s, STUB_BODY, 0).id;
    fill(s, id, 0);
    stub_end(s, id);
    stub_advance(s, 61);
    ck_assert_int_eq(stub_wait(s, STUB_GONE, 0).why, HTTP_GONE_TIMEOUT);
    stub_wait_connections(s, 0);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_an_answer_that_nobody_reads_is_cut_and_a_slow_one_is_not)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open_narrow(s, 4096), d = client_open_narrow(s, 4096);
    char *piece = malloc(1 << 20);
    client_send(&c, GET("/big?n=4000000"));
    client_send(&d, GET("/big?n=4000000"));
    stub_wait(s, STUB_BODY, 1);
    for (int i = 0; i < 3; i++) { /* d takes a quarter each 50 s */
        stub_advance(s, 50);
        for (size_t left = 1 << 20; left > 0;) {
            ssize_t n = recv(d.fd, piece, left, 0);
            ck_assert_int_gt(n, 0);
            left -= (size_t)n;
        }
    }
    ck_assert_uint_eq(stub_count(s, STUB_GONE), 1);
    ck_assert_int_eq(stub_wait(s, STUB_GONE, 0).why, HTTP_GONE_TIMEOUT);
    free(piece);
    client_close(&c);
    client_close(&d);
    stub_close(s);
}
END_TEST

START_TEST(test_a_client_that_pipelines_and_never_reads_is_cut)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open_narrow(s, 4096);
    struct str all = {0};
    for (int i = 0; i < 200; i++)
        str_puts(&all, GET("/big?n=16000"));
    ck_assert_int_eq(fcntl(c.fd, F_SETFL, O_NONBLOCK), 0);
    ck_assert_int_gt(send(c.fd, all.data, all.len, MSG_NOSIGNAL), 0);
    stub_wait(s, STUB_BODY, 3);
    stub_settle(s);
    ck_assert_uint_lt(stub_count(s, STUB_BODY), 100);
    stub_advance(s, 61);
    stub_wait_connections(s, 0);
    str_fini(&all);
    client_close(&c);
    stub_close(s);
}
END_TEST

/* -- the application's end, and the server's */

START_TEST(test_an_aborted_stream_does_not_look_whole)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    struct reply r = {0};
    client_send(&c, GET("/stream"));
    uint64_t id = stub_wait(s, STUB_BODY, 0).id;
    client_read_head(&c, &r);
    ck_assert_int_eq(stub_write(s, id, "half", 4), 0);
    ck_assert(client_read_stream(&c, &r.body, 4));
    stub_abort(s, id);
    ck_assert_int_eq(stub_wait(s, STUB_GONE, 0).why, HTTP_GONE_ABORT);
    ck_assert(client_is_closed(&c)); /* no last chunk */
    client_close(&c);

    c = client_open(s);
    client_send(&c, "GET /stream HTTP/1.0\r\n\r\n");
    id = stub_wait(s, STUB_BODY, 1).id;
    client_read_head(&c, &r);
    stub_abort(s, id);
    char byte;
    ck_assert_int_eq(recv(c.fd, &byte, 1, 0), -1); /* RST: FIN would mean that the body ends here */
    ck_assert_int_eq(errno, ECONNRESET);
    reply_fini(&r);
    client_close(&c);
    stub_close(s);
}
END_TEST

START_TEST(test_abort_without_an_answer_closes)
{
    struct stub *s = stub_open(NULL);
    struct client c = client_open(s);
    client_send(&c, GET("/hold"));
    stub_abort(s, stub_wait(s, STUB_BODY, 0).id);
    ck_assert(client_is_closed(&c));
    ck_assert_int_eq(stub_wait(s, STUB_GONE, 0).why, HTTP_GONE_ABORT);
    client_close(&c);
    stub_close(s);
}
END_TEST

static void drain(struct stub *s, void *arg)
{
    (void)arg;
    http_drain(s->http);
}

START_TEST(test_draining_closes_idle_connections_and_lets_calls_finish)
{
    struct stub *s = stub_open(NULL);
    struct client idle = client_open(s), busy = client_open(s), late;
    struct reply r = {0};
    ck_assert_int_eq(client_ask(&idle, GET("/now"), &r), 200);
    client_send(&busy, GET("/hold"));
    uint64_t id = stub_wait(s, STUB_BODY, 1).id;
    stub_do(s, drain, NULL);
    ck_assert(client_is_closed(&idle));
    late = client_open(s); /* the listener stays */
    ck_assert_int_eq(client_ask(&late, GET("/now"), &r), 200);
    ck_assert_str_eq(reply_header(&r, "connection"), "close");
    ck_assert(client_is_closed(&late));
    stub_answer(s, id, "done");
    client_read(&busy, &r);
    ck_assert_str_eq(r.body.data, "done");
    ck_assert_str_eq(reply_header(&r, "connection"), "close");
    ck_assert(client_is_closed(&busy));
    stub_wait_connections(s, 0);
    reply_fini(&r);
    client_close(&idle);
    client_close(&busy);
    client_close(&late);
    stub_close(s);
}
END_TEST

START_TEST(test_close_ends_what_is_left_and_says_so)
{
    struct stub *s = stub_open(NULL);
    struct client c[S_COUNT];
    size_t known = 0;
    for (int state = 0; state < S_COUNT; state++) {
        c[state] = client_open_narrow(s, 4096);
        enter(s, &c[state], state);
        known += known_to_the_application(state);
    }
    stub_wait(s, STUB_HEAD, known - 1);
    stub_stop(s);
    ck_assert_uint_eq(stub_count(s, STUB_GONE), known);
    for (size_t i = 0; i < known; i++)
        ck_assert_int_eq(stub_wait(s, STUB_GONE, i).why, HTTP_GONE_DRAIN);
    for (int state = 0; state < S_COUNT; state++) {
        client_drain(&c[state]);
        client_close(&c[state]);
    }
    stub_close(s);
}
END_TEST

UNIT_MAIN("http_gone", test_a_client_that_vanishes_is_seen_in_every_state,
          test_a_request_that_comes_with_its_fin_is_not_started, test_a_vanished_client_takes_its_pipeline_with_it,
          test_a_thousand_clients_vanish_at_once, test_a_head_has_ten_seconds_however_it_trickles,
          test_the_first_head_has_ten_seconds_from_accept_on, test_who_connects_and_says_nothing_is_closed_too,
          test_an_idle_connection_is_kept_for_a_while, test_a_later_head_has_its_own_ten_seconds,
          test_a_body_has_thirty_seconds_and_one_more_for_64_kib, test_the_application_may_take_its_time,
          test_a_slow_reader_fills_the_ring_and_gets_every_byte, test_a_reader_that_takes_nothing_for_a_minute_is_cut,
          test_an_ended_stream_that_nobody_reads_is_cut_too,
          test_an_answer_that_nobody_reads_is_cut_and_a_slow_one_is_not,
          test_a_client_that_pipelines_and_never_reads_is_cut, test_an_aborted_stream_does_not_look_whole,
          test_abort_without_an_answer_closes, test_draining_closes_idle_connections_and_lets_calls_finish,
          test_close_ends_what_is_left_and_says_so)
