/* address - see address.h. */
#include "server/address.h"

#include "engine/base/sys.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

static int bad_form(const char *text, struct err *e)
{
    return err_set(e, EINVAL, "listen address \"%.200s\": must be HOST:PORT, [IPV6]:PORT or unix:PATH", text);
}

/* Digits only, 0 to 65535. */
static int parse_port(const char *s, uint16_t *out)
{
    unsigned v = 0;
    size_t n = strlen(s);
    if (n < 1 || n > 5 || s[strspn(s, "0123456789")])
        return -EINVAL;
    for (; *s; s++)
        v = v * 10 + (unsigned)(*s - '0');
    if (v > 65535)
        return -EINVAL;
    *out = (uint16_t)v;
    return 0;
}

static int parse_unix(const char *text, struct address *out, struct err *e)
{
    const char *path = text + strlen("unix:");
    size_t limit = sizeof((struct sockaddr_un *)0)->sun_path - 1;
    if (!*path)
        return bad_form(text, e);
    if (strlen(path) > limit)
        return err_set(e, EINVAL, "listen address \"%.200s\": a socket path has at most %zu bytes", text, limit);
    struct address a = {.kind = ADDRESS_UNIX};
    snprintf(a.host, sizeof a.host, "%s", path);
    *out = a;
    return 0;
}

int address_parse(const char *text, struct address *out, struct err *e)
{
    struct address a = {.kind = ADDRESS_HOST};
    struct in6_addr v6;
    if (strncmp(text, "unix:", 5) == 0)
        return parse_unix(text, out, e);
    const char *host = text, *end = strrchr(text, ':');
    if (!end)
        return bad_form(text, e);
    const char *port = end + 1;
    if (*host == '[') {
        a.kind = ADDRESS_V6;
        host++;
        if (end == host || *--end != ']')
            return bad_form(text, e);
    }
    size_t n = (size_t)(end - host);
    if (n == 0 || n >= sizeof a.host)
        return bad_form(text, e);
    memcpy(a.host, host, n);
    if (a.kind == ADDRESS_V6 ? inet_pton(AF_INET6, a.host, &v6) != 1 : strpbrk(a.host, ":[]/ \t") != NULL)
        return bad_form(text, e);
    if (parse_port(port, &a.port) != 0)
        return err_set(e, EINVAL, "listen address \"%.200s\": the port must be 0 to 65535", text);
    *out = a;
    return 0;
}

int address_of_socket(int fd, struct address *out, struct err *e)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un un;
    } s = {0};
    socklen_t len = sizeof s;
    struct address a = {.kind = ADDRESS_UNIX};
    const char *ok = a.host;
    if (sys.getsockname(fd, &s.any, &len) != 0)
        return err_set(e, errno, "descriptor %d: %s", fd, strerror(errno));
    if (s.any.sa_family == AF_INET) {
        a.kind = ADDRESS_HOST;
        a.port = ntohs(s.v4.sin_port);
        ok = inet_ntop(AF_INET, &s.v4.sin_addr, a.host, sizeof a.host);
    } else if (s.any.sa_family == AF_INET6) {
        a.kind = ADDRESS_V6;
        a.port = ntohs(s.v6.sin6_port);
        ok = inet_ntop(AF_INET6, &s.v6.sin6_addr, a.host, sizeof a.host);
    } else {
        snprintf(a.host, sizeof a.host, "%.107s", s.un.sun_path);
    }
    if (!ok)
        return err_set(e, errno, "descriptor %d: %s", fd, strerror(errno));
    *out = a;
    return 0;
}

static bool v4_is_loopback(uint32_t host_order)
{
    return host_order >> 24 == 127;
}

bool address_is_public(const struct address *a)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (a->kind == ADDRESS_UNIX || strcasecmp(a->host, "localhost") == 0)
        return false;
    if (inet_pton(AF_INET, a->host, &v4) == 1)
        return !v4_is_loopback(ntohl(v4.s_addr));
    if (inet_pton(AF_INET6, a->host, &v6) != 1)
        return true;
    if (IN6_IS_ADDR_V4MAPPED(&v6)) {
        uint32_t mapped;
        memcpy(&mapped, &v6.s6_addr[12], sizeof mapped);
        return !v4_is_loopback(ntohl(mapped));
    }
    return !IN6_IS_ADDR_LOOPBACK(&v6);
}
