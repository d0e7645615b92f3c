/* http_conn - sockets of clients: accepted, turned away, watched for their end, timed, closed.
 *
 * libmicrohttpd only knows idle time, and nothing at all while a connection is suspended. Here each connection has a
 * phase with a deadline of its own that bytes do not push back, and its socket is in our epoll (RDHUP, edge-triggered),
 * so that a FIN or RST is seen in every phase.
 */
#include "server/http_int.h"

#include "engine/base/log.h"
#include "engine/base/sys.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ACCEPTS_A_TURN     64
#define ACCEPTS_A_TURN_TLS 4 /* a handshake with an RSA key takes 3 ms: streams come between them */
#define PARTING_MAX        256

static void format_peer(char *out, size_t cap, const struct sockaddr_storage *a)
{
    char host[INET6_ADDRSTRLEN] = "";
    if (a->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)a;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        snprintf(out, cap, "%s:%u", host, ntohs(v4->sin_port));
    } else if (a->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        snprintf(out, cap, "[%s]:%u", host, ntohs(v6->sin6_port));
    } else {
        snprintf(out, cap, "unix");
    }
}

void conn_set_phase(struct conn *c, enum conn_phase phase, uint64_t in_ns)
{
    c->phase = phase;
    c->deadline_ns = in_ns ? c->http->now + in_ns : 0;
}

static void conn_free(struct conn *c)
{
    struct http *h = c->http;
    if (c->prev)
        c->prev->next = c->next;
    else
        h->conns = c->next;
    if (c->next)
        c->next->prev = c->prev;
    h->n_conns--;
    free(c);
}

/* Give the socket to libmicrohttpd, which closes it whatever happens. */
static void conn_start(struct http *h, int fd, const struct sockaddr_storage *addr, socklen_t len)
{
    struct conn *c = calloc(1, sizeof *c);
    if (!c) {
        sys.close(fd);
        return;
    }
    c->src = (struct src){SRC_CONN, fd};
    c->http = h;
    c->next = h->conns;
    if (c->next)
        c->next->prev = c;
    h->conns = c;
    h->n_conns++;
    format_peer(c->peer, sizeof c->peer, addr);
    conn_set_phase(c, CONN_IDLE, h->conf.header_ms * NS_PER_MS); /* who connects has something to ask */

    h->accepting = c;
    bool taken = MHD_add_connection(h->mhd, fd, (const struct sockaddr *)addr, len) == MHD_YES;
    if (h->accepting) { /* it failed before conn_notify saw the connection */
        h->accepting = NULL;
        conn_free(c);
        return;
    }
    if (taken && http_epoll_add(h, &c->src, EPOLLRDHUP | EPOLLET) != 0)
        conn_end(c, HTTP_GONE_ABORT);
    h->run_mhd = true;
}

void conn_notify(void *ctx, struct MHD_Connection *mhd, void **slot, enum MHD_ConnectionNotificationCode code)
{
    struct http *h = ctx;
    h->callbacks++;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        assert(h->accepting);
        h->accepting->mhd = mhd;
        *slot = h->accepting;
        h->accepting = NULL;
        return;
    }
    struct conn *c = *slot; /* closed: the descriptor is still open */
    assert(!c->call);
    sys.epoll_ctl(h->ep, EPOLL_CTL_DEL, c->src.fd, NULL); /* may not be in: nothing to do then */
    if (c->linger)
        parting_open(h, sys.dup(c->src.fd));
    conn_free(c);
}

/* Descriptors ran out: the listener would stay readable and the client would wait. Give up the spare one to accept and
 * close. */
static void turn_one_away(struct http *h, struct listener *l)
{
    sys.close(h->spare_fd);
    int fd = sys.accept4(l->src.fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0)
        sys.close(fd);
    h->spare_fd = sys.open("/dev/null", O_RDONLY, 0);
    if (h->now >= h->warn_at) {
        h->warn_at = h->now + NS_PER_S;
        log_warn("http accept", "error=\"out of descriptors\" connections=%u hint=\"raise LimitNOFILE\"", h->n_conns);
    }
}

void conn_accept(struct http *h, struct listener *l)
{
    int most = h->conf.tls_cert ? ACCEPTS_A_TURN_TLS : ACCEPTS_A_TURN;
    for (int i = 0; i < most; i++) {
        struct sockaddr_storage addr = {0};
        socklen_t len = sizeof addr;
        int fd = sys.accept4(l->src.fd, (struct sockaddr *)&addr, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0 && h->n_conns < h->conf.max_connections) {
            conn_start(h, fd, &addr, len);
        } else if (fd >= 0) {
            conn_send_refusal(h, fd, NULL, 503, "too many connections; try again in a second");
            sys.shutdown(fd, SHUT_WR);
            parting_open(h, fd);
        } else if (errno == EMFILE || errno == ENFILE) {
            turn_one_away(h, l);
            return;
        } else if (errno != ECONNABORTED && errno != EINTR) {
            return; /* EAGAIN: all taken */
        }
    }
}

/* RST now: the peer can't take what it has for a whole body, and the kernel drops the bytes that nobody reads. */
static void reset(int fd)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    sys.connect(fd, &none, sizeof none); /* no TCP socket: the shutdown that follows must do */
}

void conn_end(struct conn *c, enum http_gone why)
{
    if (c->ending)
        return;
    c->ending = true;
    c->linger = false;
    c->deadline_ns = 0;
    c->http->run_mhd = true;
    struct http_call *call = c->call;
    if (why == HTTP_GONE_ABORT && call && call->framing.http10) /* its body ends with the connection: FIN means whole */
        reset(c->src.fd);
    sys.shutdown(c->src.fd, SHUT_RDWR);
    if (!call)
        return;
    call_not_due(call);
    if (call->suspended) {
        call->suspended = false;
        MHD_resume_connection(c->mhd);
    }
    call_gone(call, why);
}

static void conn_expired(struct conn *c)
{
    struct http *h = c->http;
    log_debug("http deadline", "peer=%s phase=%d", c->peer, (int)c->phase);
    switch (c->phase) {
    case CONN_HEAD:
    case CONN_BODY:
        conn_send_refusal(h, c->src.fd, c->call, 408, "the request took too long to arrive");
        break;
    case CONN_DRAIN:
        conn_send_refusal(h, c->src.fd, c->call, 0, NULL);
        break;
    case CONN_WRITE:
        reset(c->src.fd);
        break;
    case CONN_IDLE:
    case CONN_APP:
        break;
    }
    conn_end(c, HTTP_GONE_TIMEOUT);
}

void conn_check_deadlines(struct http *h)
{
    for (struct conn *c = h->conns; c; c = c->next)
        if (c->deadline_ns && h->now >= c->deadline_ns)
            conn_expired(c);
    for (struct parting *l = h->parting, *next; l; l = next) {
        next = l->next;
        if (h->now >= l->deadline_ns)
            parting_close(h, l);
    }
}

void conn_drain_idle(struct http *h)
{
    for (struct conn *c = h->conns; c; c = c->next)
        if (c->used && !c->call)
            conn_end(c, HTTP_GONE_DRAIN);
}

void parting_open(struct http *h, int fd)
{
    struct parting *l = fd >= 0 && h->n_parting < PARTING_MAX ? calloc(1, sizeof *l) : NULL;
    if (l) {
        *l = (struct parting){.src = {SRC_PARTING, fd}, .deadline_ns = h->now + DRAIN_NS, .left = DRAIN_BYTES};
        if (http_epoll_add(h, &l->src, EPOLLIN | EPOLLRDHUP) == 0) {
            l->next = h->parting;
            if (l->next)
                l->next->prev = l;
            h->parting = l;
            h->n_parting++;
            return;
        }
    }
    free(l);
    if (fd >= 0)
        sys.close(fd);
}

void parting_close(struct http *h, struct parting *l)
{
    if (l->prev)
        l->prev->next = l->next;
    else
        h->parting = l->next;
    if (l->next)
        l->next->prev = l->prev;
    h->n_parting--;
    sys.close(l->src.fd);
    free(l);
}

void parting_readable(struct http *h, struct parting *l)
{
    char scratch[16384];
    ssize_t n = sys.recv(l->src.fd, scratch, sizeof scratch, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || (size_t)n >= l->left)
        parting_close(h, l);
    else
        l->left -= (size_t)n;
}
