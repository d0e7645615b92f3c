/* sys - see sys.h. */
#include "engine/base/sys.h"

#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
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
    .preadv2 = preadv2,
    .pwrite = pwrite,
    .fstat = fstat,
    .stat = stat,
    .fchmod = fchmod,
    .ftruncate = ftruncate,
    .fallocate = fallocate,
    .fsync = fsync,
    .unlink = unlink,
    .rename = rename,
    .mkdir = mkdir,
    .flock = flock,
    .fstatvfs = fstatvfs,
    .opendir = opendir,
    .readdir = readdir,
    .closedir = closedir,
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

/* -- cgroup v2: what a folder above allows holds below it too, so each is asked, from our own up to the root (which in
 * a container is its own) */

#define CGROUP_ROOT "/sys/fs/cgroup"

struct cgroup {
    char path[1024];
};

/* Our own folder; the root alone where there is no v2. */
static struct cgroup cgroup_own(void)
{
    struct cgroup g = {CGROUP_ROOT};
    char buf[4096];
    const char *line = NULL;
    if (read_small("/proc/self/cgroup", buf, sizeof buf) == 0)
        line = strncmp(buf, "0::/", 4) == 0 ? buf : strstr(buf, "\n0::/");
    if (!line)
        return g;
    line = strchr(line, '/');
    int n = (int)strcspn(line, "\n");
    if (n > 1 && (size_t)n < sizeof g.path - sizeof CGROUP_ROOT)
        snprintf(g.path, sizeof g.path, CGROUP_ROOT "%.*s", n, line);
    return g;
}

/* The folder above; false when this was the root. */
static bool cgroup_up(struct cgroup *g)
{
    if (strlen(g->path) < sizeof CGROUP_ROOT)
        return false;
    *strrchr(g->path, '/') = 0;
    return true;
}

static int cgroup_read(const struct cgroup *g, const char *name, char *buf, size_t cap)
{
    char path[sizeof g->path + 32];
    snprintf(path, sizeof path, "%s/%s", g->path, name);
    return read_small(path, buf, cap);
}

/* A number of a file, or that behind `key` in it; `absent` when it is not there, or "max". */
static uint64_t cgroup_u64(const struct cgroup *g, const char *name, const char *key, uint64_t absent)
{
    char buf[8192];
    if (cgroup_read(g, name, buf, sizeof buf) != 0)
        return absent;
    const char *at = key ? strstr(buf, key) : buf;
    at = at && key ? at + strlen(key) : at;
    return at && *at >= '0' && *at <= '9' ? strtoull(at, NULL, 10) : absent;
}

/* Bytes that a folder still gives; pages of files are given back when others want them. */
static uint64_t cgroup_headroom(const struct cgroup *g)
{
    uint64_t limit = cgroup_u64(g, "memory.max", NULL, UINT64_MAX);
    uint64_t high = cgroup_u64(g, "memory.high", NULL, UINT64_MAX);
    uint64_t used = cgroup_u64(g, "memory.current", NULL, 0);
    uint64_t files = cgroup_u64(g, "memory.stat", "\ninactive_file ", 0) +
                     cgroup_u64(g, "memory.stat", "\nactive_file ", 0);
    limit = high < limit ? high : limit;
    used = used > files ? used - files : 0;
    return limit == UINT64_MAX ? UINT64_MAX : limit > used ? limit - used : 0;
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
    struct cgroup g = cgroup_own();
    do {
        uint64_t room = cgroup_headroom(&g);
        free_bytes = room < free_bytes ? room : free_bytes;
    } while (cgroup_up(&g));
    return free_bytes;
}

/* Processors for a quota in a period, rounded up; n when that is more, or there is none. */
static int by_quota(int n, uint64_t quota, uint64_t period)
{
    uint64_t whole = quota && period ? (quota + period - 1) / period : (uint64_t)n;
    return whole < (uint64_t)n ? (int)whole : n;
}

int sys_cpu_count(void)
{
    cpu_set_t set;
    int n = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = CPU_COUNT(&set);
    struct cgroup g = cgroup_own();
    do {
        char buf[64], *end = NULL;
        if (cgroup_read(&g, "cpu.max", buf, sizeof buf) != 0 || buf[0] < '0' || buf[0] > '9')
            continue;
        uint64_t quota = strtoull(buf, &end, 10);
        n = by_quota(n, quota, strtoull(end, NULL, 10));
    } while (cgroup_up(&g));
    n = by_quota(n, file_u64(CGROUP_ROOT "/cpu/cpu.cfs_quota_us", 0),
                 file_u64(CGROUP_ROOT "/cpu/cpu.cfs_period_us", 0));
    return n < 1 ? 1 : n;
}
