/* http_call - a request from its request line to its end: what libmicrohttpd calls back.
 *
 * Its handler is called first when the head is there (call_first: check, head()), then with pieces of the body
 * (call_bytes), then when all is there (call_last: body(), answer or suspend), and once more after a resume. An answer
 * handed over in the first call makes it close the connection, and in mid-body it takes none: so a refusal waits for
 * the last call while the body is thrown away, unless the body is long or the client waits for 100-continue.
 */
#include "server/http_int.h"

#include "engine/base/log.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* libmicrohttpd up to 0.9.77 leaves the head in place and parses it leniently; later ones parse strictly themselves. */
#define HEAD_IN_PLACE (MHD_VERSION <= 0x00097700)

#define BODY_FIRST_BYTES 4096
#define BYTES_A_SECOND   65536 /* a body may take one second more for each of these */

/* libmicrohttpd is about to list the arguments in the connection's pool; when they don't fit, it loses the request and
 * the client waits for ever. target_parse reads our copy: here they end before they begin. The bytes are the
 * connection's read buffer, which libmicrohttpd itself is about to cut up. */
static void hide_arguments(const char *raw_target)
{
    char *mark = strchr(raw_target, '?');
    if (mark)
        mark[1] = 0;
}

void *call_open(void *ctx, const char *raw_target, struct MHD_Connection *mhd)
{
    struct http *h = ctx;
    h->callbacks++;
    struct conn *conn = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    assert(conn && !conn->call);
    struct http_call *c = calloc(1, sizeof *c);
    if (!c)
        return NULL; /* the handler sees that and closes */
    c->conn = conn;
    c->start_ns = h->now;
    c->raw_target = arena_copy(&c->arena, raw_target, strlen(raw_target));
    hide_arguments(raw_target);
    conn->call = c;
    conn->phase = CONN_HEAD;
    if (conn->used) /* the first request's clock started with accept */
        conn_set_phase(conn, CONN_HEAD, h->conf.header_ms * NS_PER_MS);
    conn->used = true;
    return c;
}

size_t call_unescape(void *ctx, struct MHD_Connection *mhd, char *text)
{
    return strlen(text); /* target_parse decodes */
}

static void drop_body(struct http_call *c)
{
    struct http_body b = http_take_body(c);
    http_give_body(c->conn->http, &b);
}

static void call_free(struct http_call *c)
{
    drop_body(c);
    free(c->out);
    arena_fini(&c->arena);
    free(c);
}

void call_completed(void *ctx, struct MHD_Connection *mhd, void **slot, enum MHD_RequestTerminationCode code)
{
    struct http *h = ctx;
    struct http_call *c = *slot;
    h->callbacks++;
    *slot = NULL;
    if (!c)
        return;
    struct conn *conn = c->conn;
    call_not_due(c);
    call_gone(c, code == MHD_REQUEST_TERMINATED_COMPLETED_OK      ? HTTP_GONE_DONE
                 : code == MHD_REQUEST_TERMINATED_DAEMON_SHUTDOWN ? HTTP_GONE_DRAIN
                                                                  : HTTP_GONE_CLIENT);
    conn->call = NULL;
    if (!conn->ending)
        conn_set_phase(conn, CONN_IDLE, h->conf.idle_ms * NS_PER_MS);
    call_free(c);
}

static void call_register(struct http_call *c)
{
    struct http *h = c->conn->http;
    c->id = ++h->next_id;
    struct http_call **chain = &h->by_id[c->id & (h->n_ids - 1)];
    c->next_id = *chain;
    *chain = c;
    c->told = true;
    h->n_calls++;
}

void call_gone(struct http_call *c, enum http_gone why)
{
    struct http *h = c->conn->http;
    if (!c->told)
        return;
    c->told = false;
    struct http_call **at = &h->by_id[c->id & (h->n_ids - 1)];
    while (*at != c)
        at = &(*at)->next_id;
    *at = c->next_id;
    h->n_calls--;
    h->app.gone(h->app.ctx, c, why);
}

/* -- the head */

struct collect {
    struct guard_field *fields;
    size_t n, cap;
    size_t cookie_bytes;
};

static enum MHD_Result collect_field(void *ctx, enum MHD_ValueKind kind, const char *name, size_t name_len,
                                     const char *value, size_t value_len)
{
    struct collect *l = ctx;
    if (l->n == l->cap)
        return MHD_NO;
    l->fields[l->n++] = (struct guard_field){name, value ? value : "", name_len, value ? value_len : 0};
    if (name_len == 6 && strncasecmp(name, "cookie", 6) == 0)
        l->cookie_bytes += value_len + 1;
    return MHD_YES;
}

/* libmicrohttpd also copies cookies and lists arguments in the connection's pool. With the pool full it could neither
 * read a body nor build an answer, and would ask for another run for ever. */
static bool pool_is_short(const struct http *h, struct MHD_Connection *mhd, const struct collect *l, size_t head_bytes)
{
    int kinds = MHD_HEADER_KIND | MHD_COOKIE_KIND | MHD_GET_ARGUMENT_KIND;
    size_t items = (size_t)MHD_get_connection_values_n(mhd, (enum MHD_ValueKind)kinds, NULL, NULL);
    return head_bytes + items * POOL_FIELD + l->cookie_bytes + POOL_LEFT > http_pool_bytes(&h->conf);
}

/* Copies for the application, without the blanks at the ends of values. */
static bool keep_fields(struct http_call *c, const struct collect *l)
{
    c->fields = arena_array(&c->arena, l->n, sizeof *c->fields);
    if (!c->fields)
        return false;
    for (size_t i = 0; i < l->n; i++) {
        const struct guard_field *f = &l->fields[i];
        const char *value = f->value;
        size_t n = f->value_len;
        guard_trim(&value, &n);
        c->fields[i].name = arena_copy(&c->arena, f->name, f->name_len);
        c->fields[i].value = arena_copy(&c->arena, value, n);
        if (!c->fields[i].name || !c->fields[i].value)
            return false;
    }
    c->n_fields = l->n;
    return true;
}

static bool choose_request_id(struct http_call *c)
{
    const char *theirs = http_header(c, "x-request-id");
    if (theirs && guard_request_id(theirs, strlen(theirs))) {
        c->request_id = theirs;
        return true;
    }
    char id[REQUEST_ID_BYTES];
    request_id_make(id);
    c->request_id = arena_copy(&c->arena, id, strlen(id));
    return c->request_id != NULL;
}

/* Check head and target and keep what the application reads. 0, or the status to refuse with and *why; -1 when there
 * is no memory. */
static int check_head(struct http_call *c, const char *url, const char *method, const char *version, const char **why)
{
    struct http *h = c->conn->http;
    struct MHD_Connection *mhd = c->conn->mhd;
    struct guard_limits limits = {h->conf.header_bytes, h->conf.header_count};
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    size_t bytes = info ? info->header_size : 0;
    struct collect l = {.cap = (size_t)MHD_get_connection_values_n(mhd, MHD_HEADER_KIND, NULL, NULL)};
    if (l.cap > limits.header_count)
        l.cap = limits.header_count + 1; /* one more than allowed: the guard says no */
    l.fields = arena_array(&c->arena, l.cap, sizeof *l.fields);
    c->method = arena_copy(&c->arena, method, strlen(method));
    if (!l.fields || !c->method || !c->raw_target)
        return -1;
    MHD_get_connection_values_n(mhd, MHD_HEADER_KIND, collect_field, &l);
    if (!keep_fields(c, &l) || !choose_request_id(c))
        return -1;
    struct guard_head head = {
        .start = HEAD_IN_PLACE ? method : NULL,
        .bytes = bytes,
        .method = method,
        .target = url,
        .version = version,
        .method_len = strlen(method),
        .target_len = strlen(c->raw_target),
        .fields = l.fields,
        .n_fields = l.n,
    };
    int status = guard_check(&head, &limits, &c->framing, why);
    if (status == 0 && pool_is_short(h, mhd, &l, bytes)) {
        *why = "the request head is too large with its cookies and arguments";
        status = 431;
    }
    if (status != 0)
        return status;
    int rc = target_parse(&c->arena, c->raw_target, head.target_len, &c->target, why);
    return rc == -EINVAL ? 400 : rc == 0 ? 0 : -1;
}

static enum MHD_Result give_up(struct http_call *c)
{
    conn_end(c->conn, HTTP_GONE_ABORT);
    return MHD_NO;
}

/* Answer before the body was read: libmicrohttpd closes afterwards, with the client perhaps still sending. */
static enum MHD_Result queue_early(struct http_call *c)
{
    c->refused = true;
    c->conn->linger = true;
    return answer_queue(c);
}

/* The answer is there before the body: now, or after the body was thrown away. */
static enum MHD_Result refuse_body(struct http_call *c)
{
    if (c->framing.expect_continue || c->framing.content_length > DRAIN_BYTES)
        return queue_early(c);
    c->refused = true;
    conn_set_phase(c->conn, CONN_DRAIN, DRAIN_NS);
    return MHD_YES;
}

static enum MHD_Result call_first(struct http_call *c, const char *url, const char *method, const char *version)
{
    struct conn *conn = c->conn;
    struct http *h = conn->http;
    const char *why = "";
    c->headed = true;
    int status = check_head(c, url, method, version, &why);
    if (status < 0)
        return give_up(c);
    if (status > 0) {
        log_info("http refuse", "peer=%s status=%d request_id=%s why=\"%s\"", conn->peer, status, c->request_id, why);
        answer_refusal(c, status, why);
        return queue_early(c);
    }
    call_register(c);
    conn_set_phase(conn, CONN_APP, 0);
    c->body_cap = h->app.head(h->app.ctx, c);
    bool has_body = c->framing.chunked || c->framing.content_length > 0;
    if (!c->status && c->framing.content_length > c->body_cap) {
        char text[128];
        snprintf(text, sizeof text, "the body has %llu bytes; at most %zu are accepted",
                 (unsigned long long)c->framing.content_length, c->body_cap);
        answer_refusal(c, 413, text);
    }
    if (!has_body)
        return MHD_YES;
    if (c->status)
        return refuse_body(c);
    conn_set_phase(conn, CONN_BODY, h->conf.body_ms * NS_PER_MS);
    return MHD_YES;
}

/* -- the body */

/* Room for need bytes and a terminator; false when memory, or what bodies may take of it, does not suffice. */
static bool body_grow(struct http_call *c, size_t need)
{
    struct http *h = c->conn->http;
    size_t room = c->body_room ? c->body_room : BODY_FIRST_BYTES;
    while (room <= need)
        room *= 2;
    if (room > c->body_cap) /* it never grows beyond, so that one body never needs more than its cap */
        room = c->body_cap + 1;
    size_t more = room - c->body_room, cap = h->conf.body_memory;
    if (cap && (h->body_bytes > cap || more > cap - h->body_bytes))
        return false;
    char *bigger = realloc(c->body, room);
    if (!bigger)
        return false;
    c->body = bigger;
    c->body_room = room;
    h->body_bytes += more;
    return true;
}

static bool body_append(struct http_call *c, const char *bytes, size_t n)
{
    size_t need = c->body_len + n;
    if (need >= c->body_room && !body_grow(c, need))
        return false;
    memcpy(c->body + c->body_len, bytes, n);
    c->body_len = need;
    c->body[need] = 0;
    return true;
}

/* Throw bytes of a refused body away, up to a limit. */
static enum MHD_Result body_discard(struct http_call *c, size_t n)
{
    if (!c->refused) {
        c->refused = true;
        drop_body(c);
        conn_set_phase(c->conn, CONN_DRAIN, DRAIN_NS);
    }
    c->drained += n;
    if (c->drained <= DRAIN_BYTES)
        return MHD_YES;
    conn_send_refusal(c->conn->http, c->conn->src.fd, c, 0, NULL);
    c->conn->linger = true;
    return MHD_NO;
}

static enum MHD_Result call_bytes(struct http_call *c, const char *bytes, size_t n)
{
    if (!c->status && n > c->body_cap - c->body_len) {
        char text[128];
        snprintf(text, sizeof text, "the body is longer than the %zu bytes that are accepted", c->body_cap);
        answer_refusal(c, 413, text);
    }
    if (c->status)
        return body_discard(c, n);
    if (!body_append(c, bytes, n)) {
        answer_refusal(c, 503, "no memory for the request body; try again in a second");
        return body_discard(c, n);
    }
    size_t seconds = c->body_len / BYTES_A_SECOND - (c->body_len - n) / BYTES_A_SECOND;
    c->conn->deadline_ns += seconds * NS_PER_S;
    return MHD_YES;
}

/* -- the whole request is there */

static enum MHD_Result call_last(struct http_call *c)
{
    struct http *h = c->conn->http;
    if (!c->bodied && !c->status && !c->aborted) {
        c->bodied = true;
        conn_set_phase(c->conn, CONN_APP, 0);
        h->app.body(h->app.ctx, c);
    }
    if (c->aborted)
        return give_up(c);
    if (c->status)
        return answer_queue(c);
    c->suspended = true;
    MHD_suspend_connection(c->conn->mhd);
    return MHD_YES;
}

enum MHD_Result call_handler(void *ctx, struct MHD_Connection *mhd, const char *url, const char *method,
                             const char *version, const char *bytes, size_t *n, void **slot)
{
    struct http *h = ctx;
    struct http_call *c = *slot;
    h->callbacks++;
    if (!c || c->conn->ending)
        return MHD_NO;
    assert(!c->queued);
    if (!c->headed)
        return call_first(c, url, method, version);
    size_t got = *n;
    *n = 0;
    return got > 0 ? call_bytes(c, bytes, got) : call_last(c);
}

/* -- what the application reads */

uint64_t http_id(const struct http_call *c)
{
    return c->id;
}

const char *http_method(const struct http_call *c)
{
    return c->method;
}

const char *http_path(const struct http_call *c)
{
    return c->target.path;
}

const char *http_query(const struct http_call *c, const char *name)
{
    for (size_t i = 0; i < c->target.n_query; i++)
        if (strcmp(c->target.query[i].name, name) == 0)
            return c->target.query[i].value;
    return NULL;
}

const char *http_header(const struct http_call *c, const char *name)
{
    for (size_t i = 0; i < c->n_fields; i++)
        if (strcasecmp(c->fields[i].name, name) == 0)
            return c->fields[i].value;
    return NULL;
}

struct http_body http_take_body(struct http_call *c)
{
    struct http_body b = {c->body, c->body_len, c->body_room};
    c->body = NULL;
    c->body_len = c->body_room = 0;
    return b;
}

void http_give_body(struct http *h, struct http_body *b)
{
    if (h)
        h->body_bytes -= b->room;
    free(b->bytes);
    *b = (struct http_body){0};
}

const char *http_body(const struct http_call *c, size_t *n)
{
    *n = c->body_len;
    return c->body;
}

const char *http_peer(const struct http_call *c)
{
    return c->conn->peer;
}

const char *http_request_id(const struct http_call *c)
{
    return c->request_id;
}

uint64_t http_start_ns(const struct http_call *c)
{
    return c->start_ns;
}

void http_set_user(struct http_call *c, void *user)
{
    c->user = user;
}

void *http_user(const struct http_call *c)
{
    return c->user;
}
