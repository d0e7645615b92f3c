/* http_stub - see http_stub.h. */
#include "tests/support/http_stub.h"

#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "engine/base/vec.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define MUST(x)                                                               \
    do {                                                                      \
        if (!(x)) {                                                           \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #x); \
            abort();                                                          \
        }                                                                     \
    } while (0)

/* -- the clock */

static _Atomic uint64_t clock_ns;
static uint64_t (*clock_real)(void);

static uint64_t clock_now(void)
{
    return atomic_load(&clock_ns);
}

static bool wait_readable(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, ms) == 1;
}

static void bump(int fd)
{
    uint64_t one = 1;
    MUST(write(fd, &one, sizeof one) == sizeof one);
}

/* -- the application */

static void note(struct stub *s, struct stub_event ev)
{
    pthread_mutex_lock(&s->lock);
    MUST(vec_grow(&s->journal, &s->cap_events, s->n_events + 1, sizeof *s->journal) == 0);
    s->journal[s->n_events++] = ev;
    pthread_mutex_unlock(&s->lock);
    bump(s->event_fd);
}

static bool path_is(struct http_call *c, const char *path)
{
    return strcmp(http_path(c), path) == 0;
}

static size_t app_head(void *ctx, struct http_call *c)
{
    note(ctx, (struct stub_event){.kind = STUB_HEAD, .id = http_id(c)});
    if (path_is(c, "/early"))
        http_answer(c, 401, "text/plain", NULL, 0, "who?", 4);
    return path_is(c, "/small") ? 100 : (size_t)4 << 20;
}

static void answer_big(struct http_call *c)
{
    size_t n = (size_t)atol(http_query(c, "n"));
    char *bytes = malloc(n);
    if (!bytes) { /* a test makes memory fail */
        http_abort(c);
        return;
    }
    for (size_t i = 0; i < n; i++)
        bytes[i] = (char)('a' + i % 23);
    http_answer(c, 200, "text/plain", NULL, 0, bytes, n);
    free(bytes);
}

static void take_body(struct stub *s, struct http_call *c)
{
    s->taken = http_take_body(c);
    http_answer(c, 200, "text/plain", NULL, 0, "taken", 5);
}

static void app_body(void *ctx, struct http_call *c)
{
    note(ctx, (struct stub_event){.kind = STUB_BODY, .id = http_id(c)});
    size_t n;
    const char *body = http_body(c, &n);
    struct http_header hostile = {"x-note", "two\r\nlines: here"};
    if (path_is(c, "/now"))
        http_answer(c, 200, "text/plain", NULL, 0, "hello", 5);
    else if (path_is(c, "/hostile"))
        http_answer(c, 200, "text/plain", &hostile, 1, "ok", 2);
    else if (path_is(c, "/echo") || path_is(c, "/small"))
        http_answer(c, 200, "application/octet-stream", NULL, 0, body, n);
    else if (path_is(c, "/big"))
        answer_big(c);
    else if (path_is(c, "/take"))
        take_body(ctx, c);
    else if (path_is(c, "/stream"))
        http_stream_begin(c, 200, "text/event-stream", NULL, 0);
    else if (!path_is(c, "/hold"))
        http_answer(c, 404, "text/plain", NULL, 0, http_path(c), strlen(http_path(c)));
}

static void app_room(void *ctx, struct http_call *c)
{
    note(ctx, (struct stub_event){.kind = STUB_ROOM, .id = http_id(c)});
}

static void app_gone(void *ctx, struct http_call *c, enum http_gone why)
{
    struct stub *s = ctx;
    note(s, (struct stub_event){.kind = STUB_GONE,
                                .id = http_id(c),
                                .why = why,
                                .status = http_status(c),
                                .findable = http_find(s->http, http_id(c)) != NULL});
}

static size_t app_refusal(void *ctx, int status, const char *message, char *out, size_t cap)
{
    int n = snprintf(out, cap, "{\"error\":{\"message\":\"%s\",\"code\":%d}}", message, status);
    return n < 0 ? 0 : (size_t)n < cap ? (size_t)n : cap - 1;
}

static void run_command(void *ctx)
{
    struct stub *s = ctx;
    uint64_t n;
    MUST(read(s->do_fd, &n, sizeof n) == sizeof n);
    s->do_fn(s, s->do_arg);
    bump(s->done_fd);
}

static void *run_loop(void *ctx)
{
    struct stub *s = ctx;
    struct err e = {0};
    s->run_rc = http_run(s->http, &e);
    return NULL;
}

/* -- the stub */

struct http_conf stub_conf(void)
{
    return (struct http_conf){
        .max_connections = 4096,
        .header_bytes = 16 << 10,
        .header_count = 100,
        .stream_bytes = 64 << 10,
        .header_ms = 10000,
        .idle_ms = 75000,
        .body_ms = 30000,
        .write_stall_ms = 60000,
    };
}

struct stub *stub_open(const struct http_conf *conf)
{
    struct stub *s = calloc(1, sizeof *s);
    struct err e = {0};
    struct http_app app = {s, app_head, app_body, app_room, app_gone, app_refusal};
    MUST(s);
    log_set_level(LOG_ERROR);
    if (!clock_real) {
        clock_real = sys.now_ns;
        atomic_store(&clock_ns, clock_real());
    }
    sys.now_ns = clock_now;
    s->conf = conf ? *conf : stub_conf();
    pthread_mutex_init(&s->lock, NULL);
    MUST(vec_grow(&s->journal, &s->cap_events, 1 << 16, sizeof *s->journal) == 0); /* tests may make memory fail */
    s->event_fd = eventfd(0, EFD_CLOEXEC);
    s->do_fd = eventfd(0, EFD_CLOEXEC);
    s->done_fd = eventfd(0, EFD_CLOEXEC);
    if (http_open(&s->http, &s->conf, &app, &e) != 0 || (s->port = http_listen(s->http, "127.0.0.1:0", &e)) < 0 ||
        http_watch(s->http, s->do_fd, run_command, s, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    MUST(pthread_create(&s->thread, NULL, run_loop, s) == 0);
    return s;
}

void stub_stop(struct stub *s)
{
    if (s->stopped)
        return;
    s->stopped = true;
    http_stop(s->http);
    MUST(pthread_join(s->thread, NULL) == 0);
    MUST(s->run_rc == 0);
    http_close(s->http);
}

void stub_close(struct stub *s)
{
    stub_stop(s);
    close(s->event_fd);
    close(s->do_fd);
    close(s->done_fd);
    pthread_mutex_destroy(&s->lock);
    free(s->journal);
    free(s);
}

void stub_do(struct stub *s, void (*fn)(struct stub *s, void *arg), void *arg)
{
    uint64_t n;
    s->do_fn = fn;
    s->do_arg = arg;
    bump(s->do_fd);
    MUST(wait_readable(s->done_fd, WAIT_MS));
    MUST(read(s->done_fd, &n, sizeof n) == sizeof n);
}

static void nothing(struct stub *s, void *arg)
{
    (void)s;
    (void)arg;
}

void stub_settle(struct stub *s)
{
    stub_do(s, nothing, NULL); /* its turn goes on after this: sockets are read at its end */
    stub_do(s, nothing, NULL);
    stub_do(s, nothing, NULL);
}

void stub_advance(struct stub *s, double seconds)
{
    stub_settle(s);
    atomic_fetch_add(&clock_ns, (uint64_t)(seconds * 1e9));
    stub_settle(s);
}

static bool find_event(struct stub *s, enum stub_kind kind, size_t nth, struct stub_event *out)
{
    bool found = false;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->n_events && !found; i++)
        if (s->journal[i].kind == kind && nth-- == 0) {
            *out = s->journal[i];
            found = true;
        }
    pthread_mutex_unlock(&s->lock);
    return found;
}

struct stub_event stub_wait(struct stub *s, enum stub_kind kind, size_t nth)
{
    struct stub_event ev;
    uint64_t n;
    while (!find_event(s, kind, nth, &ev)) {
        MUST(wait_readable(s->event_fd, WAIT_MS));
        MUST(read(s->event_fd, &n, sizeof n) == sizeof n);
    }
    return ev;
}

size_t stub_count(struct stub *s, enum stub_kind kind)
{
    size_t n = 0;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->n_events; i++)
        n += s->journal[i].kind == kind;
    pthread_mutex_unlock(&s->lock);
    return n;
}

static void count_connections(struct stub *s, void *arg)
{
    *(uint32_t *)arg = http_open_connections(s->http);
}

uint32_t stub_connections(struct stub *s)
{
    uint32_t n;
    stub_do(s, count_connections, &n);
    return n;
}

void stub_wait_connections(struct stub *s, uint32_t n)
{
    uint64_t until = clock_real() + WAIT_MS * 1000000ull;
    while (stub_connections(s) != n)
        MUST(clock_real() < until);
}

enum verb { V_ANSWER, V_WRITE, V_END, V_ABORT };

struct order {
    enum verb verb;
    uint64_t id;
    const void *bytes;
    size_t n;
    int rc;
};

static void do_order(struct stub *s, void *arg)
{
    struct order *o = arg;
    struct http_call *c = http_find(s->http, o->id);
    o->rc = c ? 0 : -ENOENT;
    if (!c)
        return;
    switch (o->verb) {
    case V_ANSWER:
        http_answer(c, 200, "text/plain", NULL, 0, o->bytes, o->n);
        break;
    case V_WRITE:
        o->rc = http_stream_write(c, o->bytes, o->n);
        break;
    case V_END:
        http_stream_end(c);
        break;
    case V_ABORT:
        http_abort(c);
        break;
    }
}

static int order(struct stub *s, enum verb verb, uint64_t id, const void *bytes, size_t n)
{
    struct order o = {verb, id, bytes, n, 0};
    stub_do(s, do_order, &o);
    return o.rc;
}

static void do_give(struct stub *s, void *arg)
{
    (void)arg;
    http_give_body(s->http, &s->taken);
}

void stub_give(struct stub *s)
{
    stub_do(s, do_give, NULL);
}

void stub_answer(struct stub *s, uint64_t id, const char *text)
{
    MUST(order(s, V_ANSWER, id, text, strlen(text)) == 0);
}

int stub_write(struct stub *s, uint64_t id, const void *bytes, size_t n)
{
    int rc = order(s, V_WRITE, id, bytes, n);
    MUST(rc != -ENOENT);
    return rc;
}

int stub_write_if_found(struct stub *s, uint64_t id, const void *bytes, size_t n)
{
    return order(s, V_WRITE, id, bytes, n);
}

void stub_end(struct stub *s, uint64_t id)
{
    MUST(order(s, V_END, id, NULL, 0) == 0);
}

int stub_end_if_found(struct stub *s, uint64_t id)
{
    return order(s, V_END, id, NULL, 0);
}

void stub_abort(struct stub *s, uint64_t id)
{
    MUST(order(s, V_ABORT, id, NULL, 0) == 0);
}

/* -- the client */

struct client client_open_narrow(struct stub *s, int n)
{
    struct client c = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)s->port)};
    int on = 1;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(c.fd >= 0 && (n == 0 || setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &n, sizeof n) == 0));
    MUST(connect(c.fd, (struct sockaddr *)&a, sizeof a) == 0);
    MUST(setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    return c;
}

struct client client_open(struct stub *s)
{
    return client_open_narrow(s, 0);
}

void client_half_close(struct client *c)
{
    MUST(shutdown(c->fd, SHUT_WR) == 0 || errno == ENOTCONN); /* the server may have reset it */
}

void client_close(struct client *c)
{
    close(c->fd);
    str_fini(&c->in);
    c->fd = -1;
}

void client_reset(struct client *c)
{
    struct linger l = {1, 0};
    MUST(setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l) == 0);
    client_close(c);
}

void client_send_n(struct client *c, const void *bytes, size_t n)
{
    const char *p = bytes;
    while (n > 0) {
        ssize_t sent = send(c->fd, p, n, MSG_NOSIGNAL);
        if (sent < 0)
            return; /* the server closed: what it answered is what the test looks at */
        p += sent;
        n -= (size_t)sent;
    }
}

void client_send(struct client *c, const char *text)
{
    client_send_n(c, text, strlen(text));
}

/* Receive something more. False at the end of the connection. */
static bool client_more(struct client *c)
{
    char *to = str_room(&c->in, 65536);
    MUST(to);
    MUST(wait_readable(c->fd, WAIT_MS));
    ssize_t n = recv(c->fd, to, 65536, 0);
    if (n > 0)
        c->in.len += (size_t)n;
    return n > 0;
}

/* Bytes up to and with the end mark, waiting for them. -1 at the end of the connection. */
static ssize_t client_find(struct client *c, const char *mark)
{
    for (;;) {
        char *at = c->in.len ? memmem(c->in.data, c->in.len, mark, strlen(mark)) : NULL;
        if (at)
            return at - c->in.data + (ssize_t)strlen(mark);
        if (!client_more(c))
            return -1;
    }
}

static void client_take(struct client *c, struct str *to, size_t n)
{
    while (c->in.len < n)
        MUST(client_more(c));
    str_add(to, c->in.data, n);
    str_drop(&c->in, n);
}

const char *reply_header(struct reply *r, const char *name)
{
    static char value[512];
    size_t n = strlen(name);
    for (const char *line = str_text(&r->head); (line = strstr(line, "\r\n"));) {
        line += 2;
        if (strncasecmp(line, name, n) == 0 && line[n] == ':') {
            const char *v = line + n + 1 + strspn(line + n + 1, " ");
            snprintf(value, sizeof value, "%.*s", (int)strcspn(v, "\r"), v);
            return value;
        }
    }
    return NULL;
}

void client_read_head(struct client *c, struct reply *r)
{
    str_cut(&r->head, 0);
    str_cut(&r->body, 0);
    r->status = 0;
    ssize_t n = client_find(c, "\r\n\r\n");
    if (n < 0)
        return; /* status 0: no answer came */
    client_take(c, &r->head, (size_t)n);
    MUST(sscanf(r->head.data, "HTTP/1.1 %d", &r->status) == 1);
}

/* One chunk; its size, 0 for the last, -1 when the connection ended. */
static ssize_t client_chunk(struct client *c, struct str *body)
{
    struct str line = {0}, end = {0};
    ssize_t n = client_find(c, "\r\n");
    if (n < 0)
        return -1;
    client_take(c, &line, (size_t)n);
    size_t size = strtoul(line.data, NULL, 16);
    client_take(c, body, size);
    client_take(c, &end, 2);
    MUST(memcmp(end.data, "\r\n", 2) == 0);
    str_fini(&line);
    str_fini(&end);
    return (ssize_t)size;
}

void client_read(struct client *c, struct reply *r)
{
    client_read_head(c, r);
    if (r->status == 0)
        return;
    const char *length = reply_header(r, "content-length");
    if (length)
        client_take(c, &r->body, strtoul(length, NULL, 10));
    else if (reply_header(r, "transfer-encoding"))
        while (client_chunk(c, &r->body) > 0)
            ;
}

bool client_read_stream(struct client *c, struct str *body, size_t n)
{
    while (body->len < n)
        if (client_chunk(c, body) <= 0)
            return false;
    return true;
}

bool client_is_closed(struct client *c)
{
    return c->in.len == 0 && !client_more(c);
}

size_t client_drain(struct client *c)
{
    size_t n = 0;
    do {
        n += c->in.len;
        str_cut(&c->in, 0);
    } while (client_more(c));
    return n;
}

int client_ask(struct client *c, const char *text, struct reply *r)
{
    client_send(c, text);
    client_read(c, r);
    return r->status;
}

void reply_fini(struct reply *r)
{
    str_fini(&r->head);
    str_fini(&r->body);
}
