/* http_stub - a server around server/http.h with a small application, on a thread of its own, and a raw client.
 *
 * The application answers by path:
 *   /now          "hello"                            /echo     the body that came
 *   /hold         nothing, until the test answers    /stream   begins a stream; the test writes it
 *   /early        401 from head()                    /small    as /echo, with a body cap of 100 bytes
 *   /big?n=N      N bytes                            /take     "taken": the body, until stub_give
 *   others        404
 * The test works on the loop through stub_do, and reads what happened from the journal. The clock stands still
 * but for stub_advance: no test sleeps, and no time limit strikes by itself. Every wait ends after WAIT_MS by failing
 * the test.
 */
#ifndef HEARTH_TESTS_HTTP_STUB_H
#define HEARTH_TESTS_HTTP_STUB_H

#include "engine/base/str.h"
#include "server/http.h"

#include <pthread.h>
#include <stdbool.h>

#define WAIT_MS 5000

enum stub_kind { STUB_HEAD, STUB_BODY, STUB_ROOM, STUB_GONE };

struct stub_event {
    enum stub_kind kind;
    uint64_t id;
    enum http_gone why; /* GONE */
    int status;         /* GONE */
    bool findable;      /* GONE: http_find still knew it (must be false) */
};

struct stub {
    struct http *http;
    struct http_conf conf;
    int port;
    pthread_t thread;
    pthread_mutex_t lock;
    struct stub_event *journal;
    size_t n_events, cap_events;
    int event_fd; /* counts up with each event */
    int do_fd, done_fd;
    void (*do_fn)(struct stub *s, void *arg);
    void *do_arg;
    int run_rc;
    struct http_body taken; /* of the last /take */
    bool stopped;
};

/* Sensible limits; change them before stub_open. */
struct http_conf stub_conf(void);
/* Start on a free port of 127.0.0.1. */
struct stub *stub_open(const struct http_conf *conf);
/* Stop the loop and close the server; the journal can still be read. */
void stub_stop(struct stub *s);
/* stub_stop, and free. */
void stub_close(struct stub *s);
/* Run fn(s, arg) on the loop and wait for it. */
void stub_do(struct stub *s, void (*fn)(struct stub *s, void *arg), void *arg);
/* Let the loop read what was sent until now (on loopback it lies in the socket when send returns), a few KiB at least.
 */
void stub_settle(struct stub *s);
/* Settle, move the clock forward, and let the loop see it. */
void stub_advance(struct stub *s, double seconds);
/* Wait for the nth event (from 0) of that kind and return it. */
struct stub_event stub_wait(struct stub *s, enum stub_kind kind, size_t nth);
size_t stub_count(struct stub *s, enum stub_kind kind);
uint32_t stub_connections(struct stub *s);
/* Wait until so many connections are open. */
void stub_wait_connections(struct stub *s, uint32_t n);

/* Give the body of the last /take back. */
void stub_give(struct stub *s);

/* Answer call id with 200 and text; write to, end, abort its stream. stub_write returns http_stream_write's result.
 * The call is known to be there; with _if_found it may have gone: -ENOENT. */
void stub_answer(struct stub *s, uint64_t id, const char *text);
int stub_write(struct stub *s, uint64_t id, const void *bytes, size_t n);
void stub_end(struct stub *s, uint64_t id);
int stub_write_if_found(struct stub *s, uint64_t id, const void *bytes, size_t n);
int stub_end_if_found(struct stub *s, uint64_t id);
void stub_abort(struct stub *s, uint64_t id);

struct client {
    int fd;
    struct str in; /* received, not yet taken */
};

struct reply {
    int status;
    struct str head, body;
};

struct client client_open(struct stub *s);
/* With a receive buffer of about n bytes. */
struct client client_open_narrow(struct stub *s, int n);
void client_close(struct client *c);
/* Close with RST. */
void client_reset(struct client *c);
void client_send(struct client *c, const char *text);
void client_send_n(struct client *c, const void *bytes, size_t n);
/* Read one whole answer (Content-Length, chunked, or none for head_only). The reply is reused: fini it at the end. */
void client_read(struct client *c, struct reply *r);
void client_read_head(struct client *c, struct reply *r);
/* Wait until n bytes of a chunked body or more are there, taking chunks apart; false when the connection ends first. */
bool client_read_stream(struct client *c, struct str *body, size_t n);
/* True when the connection ends (FIN or RST) with nothing more to read. */
bool client_is_closed(struct client *c);
/* No more bytes will come from the client: FIN, while it still reads. */
void client_half_close(struct client *c);
/* Read and drop until the connection ends. Returns the bytes dropped. */
size_t client_drain(struct client *c);
/* Send text, read the answer, give its status. */
int client_ask(struct client *c, const char *text, struct reply *r);
/* Value of a header of the reply, or NULL. Lives until the next read. */
const char *reply_header(struct reply *r, const char *name);
void reply_fini(struct reply *r);

#endif
