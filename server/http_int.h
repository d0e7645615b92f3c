/* http_int - what http*.c share; nobody else includes it.
 *
 * Three nouns: the loop (struct http, http.c), a connection (struct conn, http_conn.c) and a call (struct http_call,
 * http_call.c reads it, http_answer.c answers it). The loop's epoll carries `struct src` pointers; what libmicrohttpd
 * calls back is in http_call.c. A connection lives from accept until libmicrohttpd closes its socket; a call from its
 * request line until libmicrohttpd is through with it. gone() comes earlier than that when the client vanishes.
 *
 * Rules that keep it sound:
 *  1. libmicrohttpd is called on the loop's thread only, and never from inside a function of the application's:
 *     http_answer and its like only write to the call and put it on the due list; http_settle acts on the list once a
 *     turn. So connections are resumed in one batch, and gone() is never called from inside an http_ function.
 *  2. A call that waits is suspended; a handler or content reader that returns without progress suspends first.
 *  3. A connection ends in one place, conn_end: the application is told, the socket is shut, a suspended connection is
 *     resumed so that libmicrohttpd sees it. From then on its callbacks only say "close".
 */
#ifndef HEARTH_SERVER_HTTP_INT_H
#define HEARTH_SERVER_HTTP_INT_H

#include "engine/base/arena.h"
#include "server/http.h"
#include "server/http_guard.h"

#include <microhttpd.h>
#include <stdatomic.h>

#define NS_PER_S  1000000000ull
#define NS_PER_MS 1000000ull

/* libmicrohttpd keeps a connection's head, its parsed fields and the answer's head in one pool: what a field takes
 * there, and what must be left for reading a body and for the answer's head. */
#define POOL_FIELD ((size_t)64)
#define POOL_LEFT  ((size_t)1792)

#define REQUEST_ID_BYTES 33

/* A refused body is read up to here before the refusal is sent: plain clients send it all before they listen. */
#define DRAIN_BYTES ((size_t)1 << 20)
#define DRAIN_NS    (2 * NS_PER_S)

struct src { /* something the epoll watches */
    enum { SRC_WAKE, SRC_MHD, SRC_LISTENER, SRC_WATCH, SRC_CONN, SRC_PARTING } kind;
    int fd;
};

struct listener {
    struct src src;
    struct listener *next;
    char *unlink_path; /* socket file to remove, or NULL */
};

struct watch {
    struct src src;
    struct watch *next;
    void (*fn)(void *ctx);
    void *ctx;
};

/* A socket that libmicrohttpd is through with, kept open until the client has read its refusal: closing a socket with
 * unread bytes makes the kernel send RST, which overtakes the answer. */
struct parting {
    struct src src;
    struct parting *next, *prev;
    uint64_t deadline_ns;
    size_t left; /* bytes it may still send */
};

/* What a connection waits for, and so what its deadline means. */
enum conn_phase {
    CONN_IDLE,  /* a request line */
    CONN_HEAD,  /* the rest of the head */
    CONN_BODY,  /* the body */
    CONN_DRAIN, /* the end of a body that was refused */
    CONN_APP,   /* the application: no deadline */
    CONN_WRITE  /* the client must take bytes */
};

struct conn {
    struct src src; /* the client's socket; libmicrohttpd closes it */
    struct http *http;
    struct conn *next, *prev;
    struct MHD_Connection *mhd;
    struct http_call *call; /* NULL between requests */
    uint64_t deadline_ns;   /* 0 = none */
    enum conn_phase phase;
    bool ending;   /* conn_end was here */
    bool used;     /* a request came: idle now means keep-alive */
    bool linger;   /* closing it with unread bytes would lose the answer */
    char peer[56]; /* "127.0.0.1:41234", "[::1]:41234", "unix" */
};

struct http_call {
    struct conn *conn;
    struct http_call *next_id;             /* chain of the table of ids */
    struct http_call *due_next, *due_prev; /* the due list */
    uint64_t id, start_ns;
    struct arena arena; /* strings of the request and of the answer's head */
    void *user;

    /* request */
    char *raw_target;
    const char *method, *request_id;
    struct target target;
    struct http_header *fields;
    size_t n_fields;
    struct guard_framing framing;
    char *body;
    size_t body_len, body_room, body_cap;
    size_t drained;

    /* answer */
    const char *content_type;
    struct http_header *headers;
    size_t n_headers;
    int status;
    char *out; /* bytes not yet handed on: out[out_off..out_len) */
    size_t out_off, out_len, out_room;
    uint64_t bytes_out;

    /* progress */
    bool headed;    /* the first handler call was made */
    bool told;      /* head() was called: gone() is owed */
    bool refused;   /* answered before the body was there */
    bool bodied;    /* body() was called */
    bool suspended; /* libmicrohttpd waits for us */
    bool streaming, ended;
    bool aborted;
    bool want_room;
    bool queued; /* the answer is libmicrohttpd's */
    bool due;
};

struct http {
    struct http_conf conf;
    struct http_app app;
    struct MHD_Daemon *mhd;
    int ep;
    struct src wake, mhd_src;
    int spare_fd; /* given up for a moment when descriptors run out, so that a client can be turned away */
    struct listener *listeners;
    struct watch *watches;
    struct conn *conns;
    struct parting *parting;
    uint32_t n_conns, n_calls, n_parting;
    struct conn *accepting; /* the connection MHD_add_connection is taking over */
    struct http_call *due;
    struct http_call **by_id; /* table of n_ids chains, a power of two */
    size_t n_ids;
    uint64_t next_id;
    size_t body_bytes;  /* allocated for bodies, all calls together */
    uint64_t now;       /* sys.now_ns() of this turn */
    uint64_t tick_ns;   /* next look at the deadlines */
    uint64_t warn_at;   /* next time that a lack of descriptors is logged */
    uint64_t callbacks; /* of libmicrohttpd: no change from turn to turn means it spins */
    unsigned spins;
    bool run_mhd, draining;
    atomic_bool stop;
    void (*every_fn)(void *ctx);
    void *every_ctx;
    uint64_t every_ns, every_at;
};

/* -- http.c */
size_t http_pool_bytes(const struct http_conf *conf); /* of a connection: 24 KiB by default */
int http_epoll_add(struct http *h, struct src *s, uint32_t events);

/* -- http_conn.c: sockets of clients */
void conn_accept(struct http *h, struct listener *l);
void conn_notify(void *ctx, struct MHD_Connection *mhd, void **slot, enum MHD_ConnectionNotificationCode code);
void conn_vanished(struct conn *c); /* epoll said RDHUP, HUP or ERR */
/* End it: tell the application (why), shut the socket, let libmicrohttpd find out. Twice is fine. */
void conn_end(struct conn *c, enum http_gone why);
void conn_set_phase(struct conn *c, enum conn_phase phase, uint64_t in_ns); /* in_ns 0 = no deadline */
void conn_check_deadlines(struct http *h);
void conn_drain_idle(struct http *h);
/* Best effort, plain HTTP only: write a whole refusal past libmicrohttpd, where it can't send one. */
void conn_send_refusal(struct http *h, int fd, const struct http_call *call, int status, const char *message);
/* Keep fd (owned from here) until its client has read what we sent. */
void parting_open(struct http *h, int fd);
void parting_readable(struct http *h, struct parting *l);
void parting_close(struct http *h, struct parting *l);

/* -- http_call.c: libmicrohttpd's callbacks */
void *call_open(void *ctx, const char *raw_target, struct MHD_Connection *mhd);
enum MHD_Result call_handler(void *ctx, struct MHD_Connection *mhd, const char *url, const char *method,
                             const char *version, const char *bytes, size_t *n, void **slot);
void call_completed(void *ctx, struct MHD_Connection *mhd, void **slot, enum MHD_RequestTerminationCode code);
size_t call_unescape(void *ctx, struct MHD_Connection *mhd, char *text);
/* Tell the application that the call is over, once, if it knows the call. */
void call_gone(struct http_call *c, enum http_gone why);

/* -- http_answer.c */
/* Answer for the application: what http.c itself refuses. */
void answer_refusal(struct http_call *c, int status, const char *message);
/* Hand the answer to libmicrohttpd, from inside its handler. */
enum MHD_Result answer_queue(struct http_call *c);
/* The call has something for http_settle. */
void call_due(struct http_call *c);
void call_not_due(struct http_call *c);
/* Act on the due list: abort, resume, room(). */
void http_settle(struct http *h);
/* A random x-request-id: 32 hex digits. */
void request_id_make(char out[REQUEST_ID_BYTES]);

#endif
