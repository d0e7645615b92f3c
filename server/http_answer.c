/* http_answer - answers: whole ones and streams, from the application's bytes to libmicrohttpd's.
 *
 * http_answer and http_stream_* only change the call and put it on the due list. A stream's bytes wait in call->out, a
 * queue of at most http.stream_bytes: its reader takes what is there and suspends the connection when there is nothing.
 * http_settle, once a turn, resumes all that have something again: resuming costs a walk over every suspended
 * connection, so it is paid once a turn and not once a token.
 */
#include "server/http_int.h"

#include "engine/base/sys.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Up to here a whole answer leaves in one system call with its head; above, it is read in pieces of this size, so that
 * progress can be seen. */
#define PIECE_BYTES      ((size_t)16 << 10)
#define STREAM_OUT_BYTES ((size_t)4 << 10)
#define REFUSAL_BYTES    1024

void request_id_make(char out[REQUEST_ID_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    uint8_t r[16];
    if (sys.random(r, sizeof r) != 0) { /* it need not be secret, only rarely the same */
        uint64_t now = sys.now_ns();
        memset(r, 0, sizeof r);
        memcpy(r, &now, sizeof now);
    }
    for (size_t i = 0; i < sizeof r; i++) {
        out[2 * i] = digits[r[i] >> 4];
        out[2 * i + 1] = digits[r[i] & 15];
    }
    out[2 * sizeof r] = 0;
}

/* -- the due list */

void call_due(struct http_call *c)
{
    struct http *h = c->conn->http;
    if (c->due)
        return;
    c->due = true;
    c->due_prev = NULL;
    c->due_next = h->due;
    if (h->due)
        h->due->due_prev = c;
    h->due = c;
}

void call_not_due(struct http_call *c)
{
    struct http *h = c->conn->http;
    if (!c->due)
        return;
    c->due = false;
    if (c->due_prev)
        c->due_prev->due_next = c->due_next;
    else
        h->due = c->due_next;
    if (c->due_next)
        c->due_next->due_prev = c->due_prev;
}

static size_t out_bytes(const struct http_call *c)
{
    return c->out_len - c->out_off;
}

static bool has_something(const struct http_call *c)
{
    if (!c->queued)
        return c->status != 0;
    return out_bytes(c) > 0 || c->ended;
}

/* Bytes that the ring of a stream still takes. */
static size_t stream_room(const struct http_call *c)
{
    size_t cap = c->conn->http->conf.stream_bytes, used = out_bytes(c);
    return used < cap ? cap - used : 0;
}

static void settle(struct http *h, struct http_call *c)
{
    if (c->aborted) {
        conn_end(c->conn, HTTP_GONE_ABORT);
        return;
    }
    if (c->suspended && has_something(c)) {
        c->suspended = false;
        conn_set_phase(c->conn, CONN_WRITE, h->conf.write_stall_ms * NS_PER_MS);
        MHD_resume_connection(c->conn->mhd);
        h->run_mhd = true;
    }
    if (c->want_room && stream_room(c) >= h->conf.stream_bytes / 2 && !c->ended) {
        c->want_room = false;
        if (h->app.room)
            h->app.room(h->app.ctx, c);
    }
}

void http_settle(struct http *h)
{
    for (struct http_call *c; (c = h->due);) {
        call_not_due(c);
        settle(h, c);
    }
}

/* -- the application's side */

static bool is_sendable(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return false;
    return true;
}

/* A copy in which a control character is '?': a value can't end its line. */
static const char *clean_copy(struct arena *a, const char *value)
{
    char *copy = arena_copy(a, value, strlen(value));
    for (char *p = copy; p && *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    return copy;
}

static void set_head(struct http_call *c, int status, const char *content_type, const struct http_header *headers,
                     size_t n_headers)
{
    assert(status >= 200 && status <= 599);
    c->status = status;
    c->content_type = content_type ? clean_copy(&c->arena, content_type) : NULL;
    c->headers = arena_array(&c->arena, n_headers, sizeof *c->headers);
    c->aborted |= !c->headers || (content_type && !c->content_type);
    for (size_t i = 0; i < n_headers && !c->aborted; i++) {
        assert(is_sendable(headers[i].name));
        c->headers[i].name = clean_copy(&c->arena, headers[i].name);
        c->headers[i].value = clean_copy(&c->arena, headers[i].value);
        c->aborted |= !c->headers[i].name || !c->headers[i].value;
        c->n_headers++;
    }
}

/* Room for n more bytes behind out_len; false when there is no memory. Moves what is left to the front first. */
static bool out_reserve(struct http_call *c, size_t n, size_t first)
{
    if (c->out_off > 0) {
        memmove(c->out, c->out + c->out_off, out_bytes(c));
        c->out_len -= c->out_off;
        c->out_off = 0;
    }
    size_t room = c->out_room ? c->out_room : first;
    while (room < c->out_len + n)
        room *= 2;
    char *bigger = realloc(c->out, room);
    if (!bigger)
        return false;
    c->out = bigger;
    c->out_room = room;
    return true;
}

static void out_add(struct http_call *c, const void *bytes, size_t n)
{
    if (n > 0)
        memcpy(c->out + c->out_len, bytes, n);
    c->out_len += n;
}

void http_answer(struct http_call *c, int status, const char *content_type, const struct http_header *headers,
                 size_t n_headers, const void *body, size_t n)
{
    if (c->status) { /* http.c refused the body meanwhile */
        assert(c->refused);
        return;
    }
    set_head(c, status, content_type, headers, n_headers);
    if (n > 0 && !c->aborted) {
        c->aborted = !out_reserve(c, n, n);
        if (!c->aborted)
            out_add(c, body, n);
    }
    c->ended = true;
    call_due(c);
}

void answer_refusal(struct http_call *c, int status, const char *message)
{
    struct http *h = c->conn->http;
    char body[REFUSAL_BYTES];
    size_t n = h->app.refusal(h->app.ctx, status, message, body, sizeof body);
    static const struct http_header retry = {"Retry-After", "1"};
    http_answer(c, status, "application/json", &retry, status == 503, body, n);
}

void http_stream_begin(struct http_call *c, int status, const char *content_type, const struct http_header *headers,
                       size_t n_headers)
{
    if (c->status) {
        assert(c->refused);
        return;
    }
    set_head(c, status, content_type, headers, n_headers);
    c->streaming = true;
    call_due(c);
}

bool http_stream_has_room(struct http_call *c, size_t n)
{
    bool has = n <= stream_room(c);
    c->want_room |= !has;
    return has;
}

int http_stream_write(struct http_call *c, const void *bytes, size_t n)
{
    if (!c->streaming || c->ended || c->aborted)
        return -EPIPE;
    if (n > c->conn->http->conf.stream_bytes)
        return -EMSGSIZE;
    if (n > stream_room(c)) {
        c->want_room = true;
        return -EAGAIN;
    }
    if (n > c->out_room - c->out_len && !out_reserve(c, n, STREAM_OUT_BYTES)) {
        http_abort(c);
        return -EPIPE;
    }
    out_add(c, bytes, n);
    if (c->suspended)
        call_due(c);
    return 0;
}

void http_stream_end(struct http_call *c)
{
    if (!c->streaming)
        return;
    c->ended = true;
    call_due(c);
}

void http_abort(struct http_call *c)
{
    c->aborted = true;
    call_due(c);
}

int http_status(const struct http_call *c)
{
    return c->status;
}

uint64_t http_bytes_out(const struct http_call *c)
{
    return c->bytes_out;
}

/* -- libmicrohttpd's side */

/* Clients take what arrives at once for whole events, decode it and strip it. So a chunk of a stream ends behind a line
 * whose next is not empty, and where one line is too long, neither inside a character nor beside a blank. How many of
 * the n bytes, with more behind them, to hand on. */
static size_t stream_cut(const char *s, size_t n)
{
    for (size_t i = n; i > 0; i--)
        if (s[i - 1] == '\n' && s[i] != '\n')
            return i;
    for (size_t i = n; i > 0; i--)
        if (s[i - 1] != ' ' && s[i] != ' ' && ((unsigned char)s[i] & 0xc0) != 0x80)
            return i;
    return n;
}

static ssize_t answer_read(void *ctx, uint64_t pos, char *to, size_t max)
{
    struct http_call *c = ctx;
    struct http *h = c->conn->http;
    h->callbacks++;
    if (c->conn->ending || c->aborted)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t n = out_bytes(c) < max ? out_bytes(c) : max;
    if (n == 0 && c->ended)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (n == 0) { /* 0 without suspending would be asked again at once, for ever */
        assert(c->streaming && !c->suspended);
        c->suspended = true;
        conn_set_phase(c->conn, CONN_APP, 0);
        MHD_suspend_connection(c->conn->mhd);
        return 0;
    }
    if (c->streaming && n < out_bytes(c))
        n = stream_cut(c->out + c->out_off, n);
    memcpy(to, c->out + c->out_off, n);
    c->out_off += n;
    c->bytes_out += n;
    if (c->out_off == c->out_len)
        c->out_off = c->out_len = 0;
    conn_set_phase(c->conn, CONN_WRITE, h->conf.write_stall_ms * NS_PER_MS);
    if (c->want_room)
        call_due(c);
    return (ssize_t)n;
}

static struct MHD_Response *make_response(struct http_call *c)
{
    bool headless = strcmp(c->method, "HEAD") == 0;
    if (c->streaming && headless) /* libmicrohttpd would send the last chunk of a body that HEAD has not */
        return MHD_create_response_from_buffer(0, "", MHD_RESPMEM_PERSISTENT);
    if (c->streaming)
        return MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_OUT_BYTES, answer_read, c, NULL);
    if (c->out_len > PIECE_BYTES && !headless)
        return MHD_create_response_from_callback(c->out_len, PIECE_BYTES, answer_read, c, NULL);
    if (!headless)
        c->bytes_out = c->out_len;
    return MHD_create_response_from_buffer(c->out_len, c->out ? c->out : "", MHD_RESPMEM_PERSISTENT);
}

static bool add_headers(struct http_call *c, struct MHD_Response *r)
{
    bool ok = !c->content_type || MHD_add_response_header(r, "Content-Type", c->content_type) == MHD_YES;
    ok = ok && MHD_add_response_header(r, "x-request-id", c->request_id) == MHD_YES;
    for (size_t i = 0; i < c->n_headers; i++)
        ok = ok && MHD_add_response_header(r, c->headers[i].name, c->headers[i].value) == MHD_YES;
    if (c->conn->http->draining)
        ok = ok && MHD_add_response_header(r, "Connection", "close") == MHD_YES;
    return ok;
}

enum MHD_Result answer_queue(struct http_call *c)
{
    struct conn *conn = c->conn;
    call_not_due(c);
    struct MHD_Response *r = c->aborted ? NULL : make_response(c);
    bool ok = r && add_headers(c, r);
    c->queued = true;
    conn_set_phase(conn, CONN_WRITE, conn->http->conf.write_stall_ms * NS_PER_MS);
    ok = ok && MHD_queue_response(conn->mhd, (unsigned)c->status, r) == MHD_YES;
    if (r)
        MHD_destroy_response(r);
    if (ok)
        return MHD_YES;
    conn_end(conn, HTTP_GONE_ABORT);
    return MHD_NO;
}

/* -- past libmicrohttpd */

void conn_send_refusal(struct http *h, int fd, const struct http_call *call, int status, const char *message)
{
    char body[REFUSAL_BYTES], head[512], id[REQUEST_ID_BYTES];
    const char *bytes = body, *type = "application/json";
    size_t n;
    if (h->conf.tls_cert || (call && call->streaming))
        return;
    if (call && call->status) { /* the application's own answer */
        status = call->status;
        type = call->content_type ? call->content_type : type;
        bytes = call->out ? call->out : "";
        n = call->out_len;
    } else {
        n = h->app.refusal(h->app.ctx, status, message, body, sizeof body);
    }
    request_id_make(id);
    const char *request_id = call && call->request_id ? call->request_id : id;
    const char *retry = status == 503 ? "Retry-After: 1\r\n" : "";
    int head_len = snprintf(head, sizeof head,
                            "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n"
                            "x-request-id: %s\r\n%s\r\n",
                            status, MHD_get_reason_phrase_for((unsigned)status), type, n, request_id, retry);
    if (head_len < 0 || (size_t)head_len >= sizeof head)
        return;
    sys.send(fd, head, (size_t)head_len, MSG_NOSIGNAL | MSG_DONTWAIT | MSG_MORE);
    if (n > 0)
        sys.send(fd, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT);
}
