/* http - the loop; see http.h, and http_int.h for how the files divide the work.
 *
 * One turn: wait; dispatch what is ready (new clients, vanished clients, the application's descriptors); deadlines;
 * settle what the application asked for; let libmicrohttpd read and write. Its own epoll descriptor is one of ours.
 * Measured ways it fails and what is done about each stand in SECURITY.md and at the places.
 */
#include "server/http_int.h"

#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "server/http_listen.h"
#include "server/http_tls.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#define EVENTS_A_TURN  256
#define TICK_NS        (250 * NS_PER_MS) /* deadlines are kept this exactly */
#define MHD_RUNS       2                 /* a resumed stream is read in the first and written in the second */
#define SPINS_ALLOWED  8                 /* turns without any callback before the loop takes a breath */
#define SPIN_BREATH_MS 2

size_t http_pool_bytes(const struct http_conf *conf)
{
    return conf->header_bytes + conf->header_count * POOL_FIELD + POOL_LEFT;
}

int http_epoll_add(struct http *h, struct src *s, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = s};
    return sys.epoll_ctl(h->ep, EPOLL_CTL_ADD, s->fd, &ev) == 0 ? 0 : -errno;
}

static void mhd_log(void *ctx, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
static void mhd_log(void *ctx, const char *fmt, va_list ap)
{
    (void)ctx;
    char text[256];
    if (log_get_level() < LOG_DEBUG)
        return;
    vsnprintf(text, sizeof text, fmt, ap);
    log_debug("http library", "says=\"%s\"", text);
}

static int mhd_open(struct http *h, struct err *e)
{
    struct tls_pem pem = {0};
    unsigned flags = MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    struct MHD_OptionItem tls[] = {{MHD_OPTION_END, 0, NULL}, {0}, {0}, {MHD_OPTION_END, 0, NULL}};
    if (h->conf.tls_cert) {
        int rc = tls_pem_read(&pem, h->conf.tls_cert, h->conf.tls_key, e);
        if (rc != 0)
            return rc;
        flags |= MHD_USE_TLS;
        tls[0] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_CERT, 0, pem.cert};
        tls[1] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_KEY, 0, pem.key};
        tls[2] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)TLS_PRIORITIES};
    }
    h->mhd = MHD_start_daemon(flags, 0, NULL, NULL, call_handler, h, MHD_OPTION_EXTERNAL_LOGGER, mhd_log, NULL,
                              MHD_OPTION_CONNECTION_LIMIT, h->conf.max_connections + 1,
                              MHD_OPTION_CONNECTION_MEMORY_LIMIT, http_pool_bytes(&h->conf),
                              MHD_OPTION_CONNECTION_TIMEOUT, 0u, MHD_OPTION_NOTIFY_CONNECTION, conn_notify, h,
                              MHD_OPTION_NOTIFY_COMPLETED, call_completed, h, MHD_OPTION_URI_LOG_CALLBACK, call_open, h,
                              MHD_OPTION_UNESCAPE_CALLBACK, call_unescape, h, MHD_OPTION_ARRAY, tls, MHD_OPTION_END);
    tls_pem_free(&pem);
    if (!h->mhd && h->conf.tls_cert)
        return err_set(e, EINVAL, "tls: %s and %s are no matching pair of certificate and key in PEM", h->conf.tls_cert,
                       h->conf.tls_key);
    if (!h->mhd)
        return err_set(e, ENOMEM, "http: libmicrohttpd did not start (memory or descriptors short)");
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    assert(info);
    h->mhd_src = (struct src){SRC_MHD, info->epoll_fd};
    return 0;
}

static int check_conf(const struct http_conf *conf, struct err *e)
{
    if (conf->max_connections < 1 || conf->max_connections > 1u << 20)
        return err_set(e, EINVAL, "http.max_connections %u: must be 1 to 1048576", conf->max_connections);
    if (conf->header_bytes < 1024 || conf->header_bytes > 1 << 20)
        return err_set(e, EINVAL, "http.header_bytes %zu: must be 1024 to 1048576", conf->header_bytes);
    if (conf->header_count < 8 || conf->header_count > 1000)
        return err_set(e, EINVAL, "http.header_count %u: must be 8 to 1000", conf->header_count);
    if (conf->stream_bytes < 4096 || conf->stream_bytes > 1 << 26)
        return err_set(e, EINVAL, "http.stream_bytes %zu: must be 4096 to 67108864", conf->stream_bytes);
    if (!conf->header_ms || !conf->idle_ms || !conf->body_ms || !conf->write_stall_ms)
        return err_set(e, EINVAL, "http: every time limit must be at least 1 ms");
    if (!conf->tls_cert != !conf->tls_key)
        return err_set(e, EINVAL, "tls: certificate and key go together; one is missing");
    return 0;
}

/* The table of ids and the descriptors. */
static int open_parts(struct http *h)
{
    for (h->n_ids = 64; h->n_ids < h->conf.max_connections; h->n_ids *= 2)
        ;
    h->by_id = calloc(h->n_ids, sizeof *h->by_id);
    if (!h->by_id)
        return -ENOMEM;
    h->ep = sys.epoll_create1(EPOLL_CLOEXEC);
    h->wake.fd = sys.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    h->spare_fd = sys.open("/dev/null", O_RDONLY, 0);
    return h->ep < 0 || h->wake.fd < 0 || h->spare_fd < 0 ? -errno : 0;
}

int http_open(struct http **out, const struct http_conf *conf, const struct http_app *app, struct err *e)
{
    int rc = check_conf(conf, e);
    if (rc != 0)
        return rc;
    struct http *h = calloc(1, sizeof *h);
    if (!h)
        return err_set(e, ENOMEM, "http: no memory");
    h->conf = *conf;
    h->app = *app;
    h->ep = h->wake.fd = h->spare_fd = -1;
    h->now = sys.now_ns();
    rc = open_parts(h);
    if (rc == 0)
        rc = mhd_open(h, e);
    else
        err_set(e, -rc, "http: %s", strerror(-rc));
    if (rc != 0)
        goto fail;
    rc = http_epoll_add(h, &h->wake, EPOLLIN);
    if (rc == 0)
        rc = http_epoll_add(h, &h->mhd_src, EPOLLIN);
    if (rc != 0) {
        err_set(e, -rc, "http: epoll: %s", strerror(-rc));
        goto fail;
    }
    *out = h;
    return 0;
fail:
    http_close(h);
    return rc;
}

static int add_listener(struct http *h, int fd, const char *unlink_path, struct err *e)
{
    struct listener *l = calloc(1, sizeof *l);
    int rc = l ? 0 : -ENOMEM;
    if (rc == 0 && unlink_path && !(l->unlink_path = strdup(unlink_path)))
        rc = -ENOMEM;
    if (rc == 0) {
        l->src = (struct src){SRC_LISTENER, fd};
        rc = http_epoll_add(h, &l->src, EPOLLIN);
    }
    if (rc != 0) {
        if (l)
            free(l->unlink_path);
        free(l);
        return err_set(e, -rc, "listen: %s", strerror(-rc));
    }
    l->next = h->listeners;
    h->listeners = l;
    return 0;
}

int http_listen(struct http *h, const char *address, struct err *e)
{
    int port = 0, fd = listen_open(address, &port, e);
    if (fd < 0)
        return fd;
    int rc = add_listener(h, fd, strncmp(address, "unix:", 5) == 0 ? address + 5 : NULL, e);
    if (rc != 0)
        sys.close(fd);
    return rc != 0 ? rc : port;
}

int http_listen_fd(struct http *h, int fd, struct err *e)
{
    int rc = listen_adopt(fd, e);
    if (rc == 0)
        rc = add_listener(h, fd, NULL, e);
    if (rc != 0)
        sys.close(fd);
    return rc;
}

int http_watch(struct http *h, int fd, void (*fn)(void *ctx), void *ctx, struct err *e)
{
    struct watch *w = calloc(1, sizeof *w);
    if (!w)
        return err_set(e, ENOMEM, "http: no memory for a watch");
    *w = (struct watch){.src = {SRC_WATCH, fd}, .fn = fn, .ctx = ctx, .next = h->watches};
    int rc = http_epoll_add(h, &w->src, EPOLLIN);
    if (rc != 0) {
        free(w);
        return err_set(e, -rc, "http: watching descriptor %d: %s", fd, strerror(-rc));
    }
    h->watches = w;
    return 0;
}

void http_every(struct http *h, uint32_t ms, void (*fn)(void *ctx), void *ctx)
{
    h->every_fn = fn;
    h->every_ctx = ctx;
    h->every_ns = ms * NS_PER_MS;
    h->every_at = sys.now_ns() + h->every_ns;
}

static void dispatch(struct http *h, struct src *s)
{
    uint64_t count;
    switch (s->kind) {
    case SRC_WAKE:
        (void)!sys.read(s->fd, &count, sizeof count); /* only the wake-up matters */
        break;
    case SRC_MHD:
        h->run_mhd = true;
        break;
    case SRC_LISTENER:
        conn_accept(h, (struct listener *)s);
        break;
    case SRC_WATCH:
        ((struct watch *)s)->fn(((struct watch *)s)->ctx);
        break;
    case SRC_CONN:
        conn_end((struct conn *)s, HTTP_GONE_CLIENT);
        break;
    case SRC_PARTING:
        parting_readable(h, (struct parting *)s);
        break;
    }
}

static bool mhd_has_work(struct http *h)
{
    MHD_UNSIGNED_LONG_LONG ms;
    return MHD_get_timeout(h->mhd, &ms) == MHD_YES; /* it has no timeouts of its own: an answer means "now" */
}

static void run_mhd(struct http *h)
{
    uint64_t before = h->callbacks;
    bool work = h->run_mhd || mhd_has_work(h);
    h->run_mhd = false;
    for (int i = 0; work && i < MHD_RUNS; i++) {
        MHD_run(h->mhd);
        work = mhd_has_work(h);
    }
    /* A read buffer that is full without a parsable line keeps libmicrohttpd asking for another run, to no end. */
    h->spins = work && h->callbacks == before ? h->spins + 1 : 0;
}

static void run_timers(struct http *h)
{
    if (h->now >= h->tick_ns) {
        h->tick_ns = h->now + TICK_NS;
        conn_check_deadlines(h);
    }
    if (h->every_fn && h->now >= h->every_at) {
        h->every_at = h->now + h->every_ns;
        h->every_fn(h->every_ctx);
    }
}

/* How long the loop may sleep: milliseconds, -1 = for ever. */
static int wait_ms(struct http *h)
{
    if (h->due || h->run_mhd)
        return 0;
    if (mhd_has_work(h))
        return h->spins < SPINS_ALLOWED ? 0 : SPIN_BREATH_MS;
    uint64_t now = sys.now_ns(), at = UINT64_MAX;
    if (h->conns || h->parting)
        at = h->tick_ns;
    if (h->every_fn && h->every_at < at)
        at = h->every_at;
    if (at == UINT64_MAX)
        return -1;
    return at <= now ? 0 : (int)((at - now) / NS_PER_MS) + 1;
}

static int turn(struct http *h, struct err *e)
{
    struct epoll_event ev[EVENTS_A_TURN];
    int n = sys.epoll_wait(h->ep, ev, EVENTS_A_TURN, wait_ms(h));
    if (n < 0 && errno != EINTR)
        return err_set(e, errno, "http: epoll_wait: %s", strerror(errno));
    h->now = sys.now_ns();
    for (int i = 0; i < n; i++)
        dispatch(h, ev[i].data.ptr); /* frees at most the source it is given: later events stay valid */
    run_timers(h);
    http_settle(h);
    run_mhd(h);
    return 0;
}

int http_run(struct http *h, struct err *e)
{
    while (!atomic_load(&h->stop)) {
        int rc = turn(h, e);
        if (rc != 0)
            return rc;
    }
    atomic_store(&h->stop, false);
    return 0;
}

void http_stop(struct http *h)
{
    uint64_t one = 1;
    int saved = errno; /* may run in a signal handler */
    atomic_store(&h->stop, true);
    (void)!sys.write(h->wake.fd, &one, sizeof one); /* a full eventfd wakes as well */
    errno = saved;
}

void http_drain(struct http *h)
{
    h->draining = true;
    conn_drain_idle(h);
}

uint32_t http_open_calls(const struct http *h)
{
    return h->n_calls;
}

uint32_t http_open_connections(const struct http *h)
{
    return h->n_conns;
}

struct http_call *http_find(struct http *h, uint64_t id)
{
    struct http_call *c = h ? h->by_id[id & (h->n_ids - 1)] : NULL;
    while (c && c->id != id)
        c = c->next_id;
    return c;
}

static void close_fd(int fd)
{
    if (fd >= 0)
        sys.close(fd);
}

void http_close(struct http *h)
{
    if (!h)
        return;
    for (struct conn *c = h->conns; c; c = c->next)
        conn_end(c, HTTP_GONE_DRAIN); /* none may stay suspended: libmicrohttpd would abort the process */
    if (h->mhd)
        MHD_stop_daemon(h->mhd);
    while (h->parting)
        parting_close(h, h->parting);
    for (struct listener *l = h->listeners, *next; l; l = next) {
        next = l->next;
        sys.close(l->src.fd);
        if (l->unlink_path)
            sys.unlink(l->unlink_path);
        free(l->unlink_path);
        free(l);
    }
    for (struct watch *w = h->watches, *next; w; w = next) {
        next = w->next;
        free(w);
    }
    close_fd(h->spare_fd);
    close_fd(h->wake.fd);
    close_fd(h->ep);
    free(h->by_id);
    free(h);
}
