/* failing_calls - see failing_calls.h. */
#include "tests/support/failing_calls.h"

#include "engine/base/sys.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

static struct sys_table real;
static atomic_ulong calls, failing = ULONG_MAX;
static atomic_int error_now;
static const char *_Atomic struck;

void fail_call_nth(unsigned long n, int error)
{
    atomic_store(&failing, ULONG_MAX);
    atomic_store(&calls, 0);
    atomic_store(&struck, "");
    atomic_store(&error_now, error);
    atomic_store(&failing, n ? n : ULONG_MAX);
}

unsigned long fail_call_stop(const char **what)
{
    atomic_store(&failing, ULONG_MAX);
    *what = atomic_load(&struck);
    return atomic_load(&calls);
}

static bool strikes(const char *name, bool interruptible)
{
    int error = atomic_load(&error_now);
    if ((error == EINTR && !interruptible) || atomic_fetch_add(&calls, 1) + 1 != atomic_load(&failing))
        return false;
    atomic_store(&struck, name);
    errno = error;
    return true;
}

/* An entry that is counted: `bad` is what it returns when it is struck. */
#define CALL(type, name, interruptible, bad, params, args)                   \
    static type my_##name params                                             \
    {                                                                        \
        return strikes(#name, interruptible) ? (type)(bad) : real.name args; \
    }
/* One that does its work in any case. */
#define LATE(name, params, args)                 \
    static int my_##name params                  \
    {                                            \
        int ret = real.name args;                \
        return strikes(#name, false) ? -1 : ret; \
    }

CALL(int, open, true, -1, (const char *path, int flags, unsigned mode), (path, flags, mode))
CALL(ssize_t, read, true, -1, (int fd, void *buf, size_t n), (fd, buf, n))
CALL(ssize_t, write, true, -1, (int fd, const void *buf, size_t n), (fd, buf, n))
CALL(ssize_t, pread, true, -1, (int fd, void *buf, size_t n, off_t off), (fd, buf, n, off))
CALL(ssize_t, pwrite, true, -1, (int fd, const void *buf, size_t n, off_t off), (fd, buf, n, off))
CALL(int, fstat, false, -1, (int fd, struct stat *st), (fd, st))
CALL(int, stat, false, -1, (const char *path, struct stat *st), (path, st))
CALL(int, fchmod, false, -1, (int fd, mode_t mode), (fd, mode))
CALL(int, ftruncate, true, -1, (int fd, off_t len), (fd, len))
CALL(int, fallocate, true, -1, (int fd, int mode, off_t off, off_t len), (fd, mode, off, len))
CALL(int, fsync, true, -1, (int fd), (fd))
CALL(int, unlink, false, -1, (const char *path), (path))
CALL(int, rename, false, -1, (const char *from, const char *to), (from, to))
CALL(int, flock, true, -1, (int fd, int op), (fd, op))
CALL(int, fstatvfs, true, -1, (int fd, struct statvfs *st), (fd, st))
CALL(DIR *, opendir, false, NULL, (const char *path), (path))
CALL(void *, mmap, false, MAP_FAILED, (void *addr, size_t len, int prot, int flags, int fd, off_t off),
     (addr, len, prot, flags, fd, off))
CALL(int, madvise, false, -1, (void *addr, size_t len, int advice), (addr, len, advice))
CALL(int, memfd_create, false, -1, (const char *name, unsigned flags), (name, flags))
CALL(int, eventfd, false, -1, (unsigned init, int flags), (init, flags))
CALL(int, dup, false, -1, (int fd), (fd))
CALL(int, set_nonblocking, false, -1, (int fd), (fd))
CALL(int, socket, false, -1, (int domain, int type, int protocol), (domain, type, protocol))
CALL(int, bind, false, -1, (int fd, const struct sockaddr *addr, socklen_t len), (fd, addr, len))
CALL(int, listen, false, -1, (int fd, int backlog), (fd, backlog))
CALL(int, connect, true, -1, (int fd, const struct sockaddr *addr, socklen_t len), (fd, addr, len))
CALL(int, accept4, true, -1, (int fd, struct sockaddr *addr, socklen_t *len, int flags), (fd, addr, len, flags))
CALL(int, setsockopt, false, -1, (int fd, int level, int name, const void *value, socklen_t len),
     (fd, level, name, value, len))
CALL(int, getsockopt, false, -1, (int fd, int level, int name, void *value, socklen_t *len),
     (fd, level, name, value, len))
CALL(int, getsockname, false, -1, (int fd, struct sockaddr *addr, socklen_t *len), (fd, addr, len))
CALL(ssize_t, send, true, -1, (int fd, const void *buf, size_t n, int flags), (fd, buf, n, flags))
CALL(ssize_t, recv, true, -1, (int fd, void *buf, size_t n, int flags), (fd, buf, n, flags))
CALL(int, shutdown, false, -1, (int fd, int how), (fd, how))
CALL(int, epoll_create1, false, -1, (int flags), (flags))
CALL(int, epoll_ctl, false, -1, (int ep, int op, int fd, struct epoll_event *event), (ep, op, fd, event))
CALL(int, epoll_wait, true, -1, (int ep, struct epoll_event *events, int n, int timeout_ms),
     (ep, events, n, timeout_ms))
CALL(int, poll, true, -1, (struct pollfd * fds, nfds_t n, int timeout_ms), (fds, n, timeout_ms))
CALL(int, signalfd, false, -1, (int fd, const sigset_t *mask, int flags), (fd, mask, flags))
CALL(int, random, false, -1, (void *buf, size_t n), (buf, n))
LATE(close, (int fd), (fd))
LATE(munmap, (void *addr, size_t len), (addr, len))

void fail_calls_begin(void)
{
    const char *none;
    fail_call_stop(&none);
    real = sys;
    sys.open = my_open;
    sys.close = my_close;
    sys.read = my_read;
    sys.write = my_write;
    sys.pread = my_pread;
    sys.pwrite = my_pwrite;
    sys.fstat = my_fstat;
    sys.stat = my_stat;
    sys.fchmod = my_fchmod;
    sys.ftruncate = my_ftruncate;
    sys.fallocate = my_fallocate;
    sys.fsync = my_fsync;
    sys.unlink = my_unlink;
    sys.rename = my_rename;
    sys.flock = my_flock;
    sys.fstatvfs = my_fstatvfs;
    sys.opendir = my_opendir;
    sys.mmap = my_mmap;
    sys.munmap = my_munmap;
    sys.madvise = my_madvise;
    sys.memfd_create = my_memfd_create;
    sys.eventfd = my_eventfd;
    sys.dup = my_dup;
    sys.set_nonblocking = my_set_nonblocking;
    sys.socket = my_socket;
    sys.bind = my_bind;
    sys.listen = my_listen;
    sys.connect = my_connect;
    sys.accept4 = my_accept4;
    sys.setsockopt = my_setsockopt;
    sys.getsockopt = my_getsockopt;
    sys.getsockname = my_getsockname;
    sys.send = my_send;
    sys.recv = my_recv;
    sys.shutdown = my_shutdown;
    sys.epoll_create1 = my_epoll_create1;
    sys.epoll_ctl = my_epoll_ctl;
    sys.epoll_wait = my_epoll_wait;
    sys.poll = my_poll;
    sys.signalfd = my_signalfd;
    sys.random = my_random;
}

void fail_calls_end(void)
{
    sys = real;
}
