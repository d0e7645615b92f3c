/* http_listen - see http_listen.h.
 *
 * Accepted sockets inherit these from the listener: a send buffer of 64 KiB, so that a slow reader pushes back early
 * (the kernel would take 4 MB); a user timeout and keep-alive probes, so that a peer that vanished without a FIN is
 * seen within a minute; no Nagle, since each token is one write.
 */
#include "server/http_listen.h"

#include "engine/base/sys.h"
#include "server/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

#define LISTEN_BACKLOG 1024

union listen_addr {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un un;
};

/* The socket address of one that was written down. Names are not looked up: a start must not hang on a resolver. */
static int to_socket_address(const struct address *from, union listen_addr *a, socklen_t *len)
{
    const char *host = from->host;
    memset(a, 0, sizeof *a);
    switch (from->kind) {
    case ADDRESS_UNIX:
        a->un.sun_family = AF_UNIX;
        *len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(host) + 1);
        memcpy(a->un.sun_path, host, strlen(host) + 1); /* address_parse knows its limit */
        return 0;
    case ADDRESS_V6:
        a->v6.sin6_family = AF_INET6;
        a->v6.sin6_port = htons(from->port);
        *len = sizeof a->v6;
        return inet_pton(AF_INET6, host, &a->v6.sin6_addr) == 1 ? 0 : -EINVAL;
    default:
        a->v4.sin_family = AF_INET;
        a->v4.sin_port = htons(from->port);
        *len = sizeof a->v4;
        if (strcasecmp(host, "localhost") == 0)
            host = "127.0.0.1";
        else if (strcmp(host, "*") == 0)
            host = "0.0.0.0";
        return inet_pton(AF_INET, host, &a->v4.sin_addr) == 1 ? 0 : -EINVAL;
    }
}

static int set_int(int fd, int level, int name, int value)
{
    return sys.setsockopt(fd, level, name, &value, sizeof value);
}

/* The options that accepted sockets inherit. 0, or -1 with errno. */
static int set_inherited(int fd, int family)
{
    if (set_int(fd, SOL_SOCKET, SO_SNDBUF, 64 * 1024) != 0)
        return -1;
    if (family == AF_UNIX)
        return 0;
    return set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1) | set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, 30) |
           set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10) | set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, 3) |
           set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 60000) | set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
}

/* Remove a socket file that nobody listens on, so that a crash does not keep the next start from binding. */
static void remove_stale(const union listen_addr *a, socklen_t len)
{
    struct stat st;
    if (sys.stat(a->un.sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return;
    int fd = sys.socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    if (sys.connect(fd, &a->any, len) != 0 && errno == ECONNREFUSED)
        sys.unlink(a->un.sun_path);
    sys.close(fd);
}

static int fail(const char *address, int code, struct err *e)
{
    switch (code) {
    case EADDRINUSE:
        if (strncmp(address, "unix:", 5) == 0)
            return err_set(e, code, "listen %s: another process listens there, or the path is no socket", address);
        return err_set(e, code, "listen %s: port in use by another process; choose another with --port", address);
    case EACCES:
        return err_set(e, code, "listen %s: not permitted; ports below 1024 need CAP_NET_BIND_SERVICE", address);
    case EADDRNOTAVAIL:
        return err_set(e, code, "listen %s: this machine has no such address", address);
    default:
        return err_set(e, code, "listen %s: %s", address, strerror(code));
    }
}

static int bound_port(int fd, int *port)
{
    union listen_addr a;
    socklen_t len = sizeof a;
    if (sys.getsockname(fd, &a.any, &len) != 0)
        return -1;
    *port = a.any.sa_family == AF_INET ? ntohs(a.v4.sin_port) : a.any.sa_family == AF_INET6 ? ntohs(a.v6.sin6_port) : 0;
    return 0;
}

/* Options that must be set before bind. */
static int set_before_bind(int fd, int family)
{
    if (family == AF_UNIX)
        return sys.fchmod(fd, 0660); /* bind gives the file this mode, less the umask */
    if (family == AF_INET6 && set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) != 0)
        return -1;
    return set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
}

int listen_open(const char *address, int *port, struct err *e)
{
    struct address parsed;
    union listen_addr a;
    socklen_t len = 0;
    int rc = address_parse(address, &parsed, e);
    if (rc != 0)
        return rc;
    if (to_socket_address(&parsed, &a, &len) != 0)
        return err_set(e, EINVAL, "listen %s: \"%s\" is no IP address; names are not looked up, but localhost is",
                       address, parsed.host);
    int family = a.any.sa_family;
    if (family == AF_UNIX)
        remove_stale(&a, len);
    int fd = sys.socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fail(address, errno, e);
    if (set_before_bind(fd, family) != 0 || set_inherited(fd, family) != 0 || sys.bind(fd, &a.any, len) != 0 ||
        sys.listen(fd, LISTEN_BACKLOG) != 0 || bound_port(fd, port) != 0) {
        rc = fail(address, errno, e);
        sys.close(fd);
        return rc;
    }
    return fd;
}

int listen_adopt(int fd, struct err *e)
{
    int listening = 0;
    union listen_addr a;
    socklen_t n = sizeof listening, len = sizeof a;
    if (sys.getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n) != 0 || !listening)
        return err_set(e, ENOTSOCK, "descriptor %d: not a listening stream socket; check the socket unit", fd);
    if (sys.set_nonblocking(fd) != 0 || sys.getsockname(fd, &a.any, &len) != 0 ||
        set_inherited(fd, a.any.sa_family) != 0)
        return err_set(e, errno, "descriptor %d: %s", fd, strerror(errno));
    return 0;
}
