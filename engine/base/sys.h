/* sys - every OS call of the daemon goes through this one table: the seam where tests put faults.
 *
 * Calls keep their POSIX meaning (-1 and errno). A test replaces an entry, runs, and puts it back; production code
 * never writes to the table. Entries are read without a lock: replace them only while no other thread calls. What a
 * library (libmicrohttpd, liburing) calls by itself does not pass here.
 */
#ifndef HEARTH_BASE_SYS_H
#define HEARTH_BASE_SYS_H

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/uio.h>

struct sys_table {
    int (*open)(const char *path, int flags, unsigned mode);
    int (*close)(int fd);
    ssize_t (*read)(int fd, void *buf, size_t n);
    ssize_t (*write)(int fd, const void *buf, size_t n);
    ssize_t (*pread)(int fd, void *buf, size_t n, off_t off);
    ssize_t (*preadv2)(int fd, const struct iovec *v, int n, off_t off, int flags);
    ssize_t (*pwrite)(int fd, const void *buf, size_t n, off_t off);
    int (*fstat)(int fd, struct stat *st);
    int (*stat)(const char *path, struct stat *st);
    int (*fchmod)(int fd, mode_t mode);
    int (*ftruncate)(int fd, off_t len);
    int (*fallocate)(int fd, int mode, off_t off, off_t len);
    int (*fsync)(int fd);
    int (*unlink)(const char *path);
    int (*rename)(const char *from, const char *to);
    int (*mkdir)(const char *path, mode_t mode);
    int (*flock)(int fd, int op);
    int (*fstatvfs)(int fd, struct statvfs *st);
    DIR *(*opendir)(const char *path);
    struct dirent *(*readdir)(DIR *d);
    int (*closedir)(DIR *d);
    void *(*mmap)(void *addr, size_t len, int prot, int flags, int fd, off_t off);
    int (*munmap)(void *addr, size_t len);
    int (*madvise)(void *addr, size_t len, int advice);
    int (*futex)(uint32_t *word, int op, uint32_t val); /* FUTEX_WAIT/WAKE_PRIVATE without a timeout */
    int (*memfd_create)(const char *name, unsigned flags);
    int (*eventfd)(unsigned init, int flags);
    int (*dup)(int fd); /* close-on-exec */
    int (*set_nonblocking)(int fd);
    int (*socket)(int domain, int type, int protocol);
    int (*bind)(int fd, const struct sockaddr *addr, socklen_t len);
    int (*listen)(int fd, int backlog);
    int (*connect)(int fd, const struct sockaddr *addr, socklen_t len);
    int (*accept4)(int fd, struct sockaddr *addr, socklen_t *len, int flags);
    int (*setsockopt)(int fd, int level, int name, const void *value, socklen_t len);
    int (*getsockopt)(int fd, int level, int name, void *value, socklen_t *len);
    int (*getsockname)(int fd, struct sockaddr *addr, socklen_t *len);
    ssize_t (*send)(int fd, const void *buf, size_t n, int flags);
    ssize_t (*recv)(int fd, void *buf, size_t n, int flags);
    int (*shutdown)(int fd, int how);
    int (*epoll_create1)(int flags);
    int (*epoll_ctl)(int ep, int op, int fd, struct epoll_event *event);
    int (*epoll_wait)(int ep, struct epoll_event *events, int n, int timeout_ms);
    int (*poll)(struct pollfd *fds, nfds_t n, int timeout_ms);
    int (*signalfd)(int fd, const sigset_t *mask, int flags);
    uint64_t (*now_ns)(void);           /* monotonic clock, nanoseconds: the only clock that timeouts may use */
    int64_t (*wall_s)(void);            /* seconds since 1970, for `created` fields and logs only */
    int (*random)(void *buf, size_t n); /* getrandom: 0 or -1 */
};

extern struct sys_table sys;

/* Bytes of memory this process may still use: the smaller of MemAvailable and the cgroup's headroom. 0 when unknown. */
uint64_t sys_memory_available(void);

/* Processors this process may use: affinity mask and cgroup v1/v2 CPU quota, rounded up; at least 1. */
int sys_cpu_count(void);

#endif
