/* sys - see sys.h. */
#include "engine/base/sys.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int real_open(const char *path, int flags, unsigned mode)
{
    return open(path, flags | O_CLOEXEC, mode);
}

static uint64_t real_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int64_t real_wall_s(void)
{
    return (int64_t)time(NULL);
}

static int real_random(void *buf, size_t n)
{
    unsigned char *p = buf;
    while (n > 0) {
        ssize_t got = getrandom(p, n, 0);
        if (got <= 0)
            return -1;
        p += got;
        n -= (size_t)got;
    }
    return 0;
}

static int real_futex(uint32_t *word, int op, uint32_t val)
{
    return (int)syscall(SYS_futex, word, op, val, NULL, NULL, 0);
}

static int real_eventfd(unsigned init, int flags)
{
    return eventfd(init, flags);
}

static int real_dup(int fd)
{
    return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

static int real_set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

struct sys_table sys = {
    .open = real_open,
    .close = close,
    .read = read,
    .write = write,
    .pread = pread,
    .pwrite = pwrite,
    .fstat = fstat,
    .stat = stat,
    .fchmod = fchmod,
    .ftruncate = ftruncate,
    .fallocate = fallocate,
    .fsync = fsync,
    .unlink = unlink,
    .rename = rename,
    .mmap = mmap,
    .munmap = munmap,
    .madvise = madvise,
    .futex = real_futex,
    .memfd_create = memfd_create,
    .eventfd = real_eventfd,
    .dup = real_dup,
    .set_nonblocking = real_set_nonblocking,
    .socket = socket,
    .bind = bind,
    .listen = listen,
    .connect = connect,
    .accept4 = accept4,
    .setsockopt = setsockopt,
    .getsockopt = getsockopt,
    .getsockname = getsockname,
    .send = send,
    .recv = recv,
    .shutdown = shutdown,
    .epoll_create1 = epoll_create1,
    .epoll_ctl = epoll_ctl,
    .epoll_wait = epoll_wait,
    .poll = poll,
    .signalfd = signalfd,
    .now_ns = real_now_ns,
    .wall_s = real_wall_s,
    .random = real_random,
};

/* The whole of a small text file, terminated; -1 where it is not there. */
static int read_small(const char *path, char *buf, size_t cap)
{
    int fd = sys.open(path, O_RDONLY, 0);
    if (fd < 0)
        return -1;
    ssize_t n = sys.read(fd, buf, cap - 1);
    sys.close(fd);
    if (n < 0)
        return -1;
    buf[n] = 0;
    return 0;
}

static uint64_t file_u64(const char *path, uint64_t absent)
{
    char buf[64];
    if (read_small(path, buf, sizeof buf) != 0 || buf[0] < '0' || buf[0] > '9')
        return absent;
    return strtoull(buf, NULL, 10);
}

uint64_t sys_memory_available(void)
{
    char buf[4096];
    uint64_t free_bytes = 0;
    if (read_small("/proc/meminfo", buf, sizeof buf) == 0) {
        const char *at = strstr(buf, "MemAvailable:");
        if (at)
            free_bytes = strtoull(at + 13, NULL, 10) * 1024;
    }
    uint64_t limit = file_u64("/sys/fs/cgroup/memory.max", UINT64_MAX);
    uint64_t used = file_u64("/sys/fs/cgroup/memory.current", 0);
    if (limit != UINT64_MAX && limit > used && limit - used < free_bytes)
        free_bytes = limit - used;
    return free_bytes;
}

int sys_cpu_count(void)
{
    cpu_set_t set;
    int n = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = CPU_COUNT(&set);
    char buf[64];
    if (read_small("/sys/fs/cgroup/cpu.max", buf, sizeof buf) == 0 && buf[0] >= '0' && buf[0] <= '9') {
        char *end;
        unsigned long quota = strtoul(buf, &end, 10), period = strtoul(end, NULL, 10);
        int by_quota = period ? (int)((quota + period - 1) / period) : n;
        if (by_quota < n)
            n = by_quota;
    } else {
        uint64_t quota = file_u64("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", 0);
        uint64_t period = file_u64("/sys/fs/cgroup/cpu/cpu.cfs_period_us", 0);
        if (quota && period && (int)((quota + period - 1) / period) < n)
            n = (int)((quota + period - 1) / period);
    }
    return n < 1 ? 1 : n;
}
