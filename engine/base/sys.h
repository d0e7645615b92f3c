/* sys - every OS call of the daemon goes through this one table: the seam where tests put faults.
 *
 * Calls keep their POSIX meaning (-1 and errno). A test replaces an entry, runs, and puts it back; production code
 * never writes to the table. Entries are read without a lock: replace them only while no other thread calls. What a
 * library (libmicrohttpd, liburing) calls by itself does not pass here.
 */
#ifndef HEARTH_BASE_SYS_H
#define HEARTH_BASE_SYS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>

struct sys_table {
    int (*open)(const char *path, int flags, unsigned mode);
    int (*close)(int fd);
    ssize_t (*read)(int fd, void *buf, size_t n);
    ssize_t (*write)(int fd, const void *buf, size_t n);
    ssize_t (*pread)(int fd, void *buf, size_t n, off_t off);
    ssize_t (*pwrite)(int fd, const void *buf, size_t n, off_t off);
    int (*fstat)(int fd, struct stat *st);
    int (*ftruncate)(int fd, off_t len);
    int (*fallocate)(int fd, int mode, off_t off, off_t len);
    int (*fsync)(int fd);
    int (*unlink)(const char *path);
    int (*rename)(const char *from, const char *to);
    void *(*mmap)(void *addr, size_t len, int prot, int flags, int fd, off_t off);
    int (*munmap)(void *addr, size_t len);
    int (*memfd_create)(const char *name, unsigned flags);
    int (*eventfd)(unsigned init, int flags);
    int (*accept4)(int fd, struct sockaddr *addr, socklen_t *len, int flags);
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
