/* http - HTTP/1.1 in and out, behind one loop that we own. libmicrohttpd is fenced in http*.c.
 *
 * One thread runs http_run(): an epoll over listeners, client sockets (RDHUP, so a vanished client is seen in ms),
 * libmicrohttpd's own epoll fd, a timer, and descriptors the application watches. Everything in this header is called
 * on that thread, but http_stop (any thread, signal-safe). What libmicrohttpd gets wrong (framing, timeouts, caps, slow
 * readers) is put right here: see SECURITY.md. SIGPIPE needs no care: writes do not raise it.
 *
 * A call is one request being answered. Life: head() when the headers have been checked -> body() when the whole body
 * is there (at once for none) -> the application answers, now or later (from a watch callback), once: either
 * http_answer, or http_stream_begin, writes, http_stream_end -> gone() exactly once when the call is over for any
 * reason (answer fully written, client vanished, deadline, drain). gone() can come at any point after head(), also
 * without body(), but never from inside another http_ function. After gone() the pointer is dead. The application keeps
 * http_id(call) with asynchronous work and finds the call again by http_find (NULL when it has gone). A client that
 * half-closes its connection has vanished.
 *
 * Pipelined requests are answered in order: head() of the next comes after gone() of the one before. A HEAD request is
 * answered like a GET: the body is left out here.
 */
#ifndef HEARTH_SERVER_HTTP_H
#define HEARTH_SERVER_HTTP_H

#include "engine/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http;
struct http_call;

struct http_header {
    const char *name, *value;
};

struct http_body {
    char *bytes;
    size_t n, room;
};

enum http_gone {
    HTTP_GONE_DONE,    /* the answer was handed to the kernel whole */
    HTTP_GONE_CLIENT,  /* the client vanished (FIN, half-close or RST) or broke the protocol */
    HTTP_GONE_TIMEOUT, /* body too slow, or no byte taken for write_stall_ms */
    HTTP_GONE_ABORT,   /* http_abort, or no memory for the answer */
    HTTP_GONE_DRAIN    /* http_close ended it */
};

struct http_app {
    void *ctx;
    /* Headers are there and well-formed, no body byte yet. May answer (401, 404, 413 by Content-Length ...): then the
     * body is drained (1 MiB or 2 s) and body() is not called. Return the body cap in bytes for this call. */
    size_t (*head)(void *ctx, struct http_call *c);
    void (*body)(void *ctx, struct http_call *c);
    /* The stream has room again (half of stream_bytes) after http_stream_write or http_stream_has_room said it had not.
     * May be NULL. */
    void (*room)(void *ctx, struct http_call *c);
    void (*gone)(void *ctx, struct http_call *c, enum http_gone why);
    /* Make the JSON error body for what http.c itself refuses (before head(): bad framing or target 400, 415, 417, 431,
     * 503 at the connection cap; after it: too large 413, too slow 408, no memory for the body 503): writes at most cap
     * bytes, returns the length. message is one sentence of plain ASCII, without quotes, and no client's bytes. */
    size_t (*refusal)(void *ctx, int status, const char *message, char *out, size_t cap);
};

struct http_conf {
    uint32_t max_connections;       /* above: 503 + close, at once */
    size_t header_bytes;            /* cap of all headers, 16 KiB */
    uint32_t header_count;          /* 100 */
    size_t stream_bytes;            /* ring of one stream, 64 KiB: what a slow reader may hold */
    size_t body_memory;             /* all request bodies in memory together, taken ones too; above: 503. 0 = no cap */
    uint32_t header_ms, idle_ms;    /* 10 s, 75 s: for a head to arrive; for a connection without a request */
    uint32_t body_ms;               /* 30 s, plus 1 s per 64 KiB received */
    uint32_t write_stall_ms;        /* 60 s: no byte taken for so long ends the call */
    const char *tls_cert, *tls_key; /* PEM paths, NULL = plain HTTP; every listener speaks the same */
};

/* -- life */
int http_open(struct http **out, const struct http_conf *conf, const struct http_app *app, struct err *e);
/* Listen on "HOST:PORT", "[V6]:PORT" or "unix:PATH". Port 0 picks one. Returns the port (0 for unix) or -errno with e
 * ("listen 127.0.0.1:8080: port in use by another process; choose another with --port"). */
int http_listen(struct http *h, const char *address, struct err *e);
/* Listen on a descriptor that came from systemd. Takes ownership. */
int http_listen_fd(struct http *h, int fd, struct err *e);
/* Call fn(ctx) on the loop whenever fd is readable (level-triggered). The descriptor stays the caller's. */
int http_watch(struct http *h, int fd, void (*fn)(void *ctx), void *ctx, struct err *e);
/* Call fn(ctx) about every `ms` on the loop. One timer: a second call replaces the first. */
void http_every(struct http *h, uint32_t ms, void (*fn)(void *ctx), void *ctx);
/* Run until http_stop. 0, or -errno with e when the loop itself broke. */
int http_run(struct http *h, struct err *e);
/* Stop the loop at its next turn. Any thread; async-signal-safe. */
void http_stop(struct http *h);
/* Draining: answers carry Connection: close, idle keep-alive connections are closed, listeners stay (so /ready can say
 * 503) until http_close. */
void http_drain(struct http *h);
uint32_t http_open_calls(const struct http *h); /* calls between head() and gone() */
uint32_t http_open_connections(const struct http *h);
/* End what is left (gone() is called for each), free. NULL is fine. Not while http_run runs. */
void http_close(struct http *h);

/* -- reading a call; all strings live until gone() has returned */
uint64_t http_id(const struct http_call *c);              /* never 0, never used twice in a process */
struct http_call *http_find(struct http *h, uint64_t id); /* NULL also where h is NULL: closed */
const char *http_method(const struct http_call *c);
/* Decoded once, without query; starts with '/' ("*" for OPTIONS *). Dots and double slashes stay as they came. */
const char *http_path(const struct http_call *c);
const char *http_query(const struct http_call *c, const char *name);  /* decoded value or NULL; the first one */
const char *http_header(const struct http_call *c, const char *name); /* any case; NULL when absent; the first one */
const char *http_body(const struct http_call *c, size_t *n); /* after body(); not NULL when n > 0; terminated */
/* The same, but the bytes are the caller's from now on: for a worker that may outlive the call. They count as
 * body_memory until they are given back. bytes is NULL for an empty body. */
struct http_body http_take_body(struct http_call *c);
/* Free a body that was taken, and empty b. h NULL: the server has been closed meanwhile. */
void http_give_body(struct http *h, struct http_body *b);
const char *http_peer(const struct http_call *c); /* "127.0.0.1:41234", "[::1]:41234" or "unix" */
/* x-request-id: the client's (checked, <= 128 printable) or ours */
const char *http_request_id(const struct http_call *c);
uint64_t http_start_ns(const struct http_call *c);
/* A slot for the application's own state. */
void http_set_user(struct http_call *c, void *user);
void *http_user(const struct http_call *c);

/* -- answering. Bytes are copied. x-request-id, Date, Content-Length and Connection are added here. A control character
 * in a header's value is sent as '?'. */
/* Whole answer. headers may be NULL (n = 0). */
void http_answer(struct http_call *c, int status, const char *content_type, const struct http_header *headers,
                 size_t n_headers, const void *body, size_t n);
/* Start a chunked answer: the status line and headers leave at once. */
void http_stream_begin(struct http_call *c, int status, const char *content_type, const struct http_header *headers,
                       size_t n_headers);
/* Queue n bytes, all or nothing: 0; -EAGAIN when the ring lacks room now (room() follows); -EMSGSIZE when n can never
 * fit; -EPIPE when the call is ending. */
int http_stream_write(struct http_call *c, const void *bytes, size_t n);
/* Would n bytes (at most half of stream_bytes) be taken now? If not, room() follows when they would. */
bool http_stream_has_room(struct http_call *c, size_t n);
/* Bytes queued so far are sent, then the last chunk. */
void http_stream_end(struct http_call *c);
/* Cut the connection without a last chunk (a broken stream must not look whole); queued bytes are lost. */
void http_abort(struct http_call *c);
int http_status(const struct http_call *c); /* status answered, 0 = none yet: for the access line */
uint64_t http_bytes_out(const struct http_call *c);

#endif
