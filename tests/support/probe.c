/* probe - see probe.h. */
#include "tests/support/probe.h"

#include "engine/base/sys.h"
#include "engine/kv/aio.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define MOST_READERS 64

static double cpu_now(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

struct probe_time probe_begin(void)
{
    return (struct probe_time){(double)sys.now_ns() / 1e9, cpu_now()};
}

struct probe_time probe_end(struct probe_time begin)
{
    struct probe_time now = probe_begin();
    return (struct probe_time){now.seconds - begin.seconds, now.cpu - begin.cpu};
}

static int by_seconds(const void *a, const void *b)
{
    const struct probe_time *x = a, *y = b;
    return (x->seconds > y->seconds) - (x->seconds < y->seconds);
}

struct probe_time probe_median(struct probe_time *t, int n)
{
    qsort(t, (size_t)n, sizeof *t, by_seconds);
    return t[n / 2];
}

static const struct probe_time cannot = {-1, 0};

struct reading {
    int fd;
    uint64_t bytes, unit;
    _Atomic uint64_t next;
    atomic_bool failed;
    uint8_t *memory; /* [depth][unit] */
    atomic_uint n_readers;
};

static void *reader(void *arg)
{
    struct reading *r = arg;
    uint8_t *mine = r->memory + atomic_fetch_add(&r->n_readers, 1) * r->unit;
    for (uint64_t at; (at = atomic_fetch_add(&r->next, r->unit)) < r->bytes;) {
        uint64_t n = r->bytes - at < r->unit ? r->bytes - at : r->unit;
        for (uint64_t done = 0; done < n;) {
            ssize_t got = sys.pread(r->fd, mine + done, n - done, (off_t)(at + done));
            if (got <= 0) {
                r->failed = true;
                return NULL;
            }
            done += (uint64_t)got;
        }
    }
    return NULL;
}

/* By threads that read. */
static struct probe_time by_threads(int fd, uint8_t *memory, uint64_t bytes, uint64_t unit, uint32_t depth)
{
    pthread_t threads[MOST_READERS];
    uint32_t n = 0;
    struct reading r = {.fd = fd, .bytes = bytes, .unit = unit, .memory = memory};
    struct probe_time begin = probe_begin();
    while (n < depth && pthread_create(&threads[n], NULL, reader, &r) == 0)
        n++;
    for (uint32_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    return n == depth && !r.failed ? probe_end(begin) : cannot;
}

static void sleep_on(int bell)
{
    struct pollfd p = {.fd = bell, .events = POLLIN};
    uint64_t count;
    if (sys.poll(&p, 1, 100) > 0 && sys.read(bell, &count, sizeof count) < 0)
        return;
}

/* By one thread with io_uring. */
static struct probe_time by_ring(int fd, uint8_t *memory, uint64_t bytes, uint64_t unit, uint32_t depth)
{
    struct aio_req reqs[MOST_READERS] = {0};
    struct aio *a;
    struct err e;
    int bell = sys.eventfd(0, 0);
    bool opened = aio_open(&a, &(struct aio_opts){.kind = AIO_URING, .depth = depth, .bell = bell}, &e) == 0;
    bool failed = !opened;
    struct probe_time begin = probe_begin();
    for (uint64_t sent = 0, got = 0; !failed && got < bytes;) {
        for (uint32_t i = 0; i < depth && sent < bytes; i++) {
            if (reqs[i].owner)
                continue;
            uint64_t n = bytes - sent < unit ? bytes - sent : unit;
            reqs[i] = (struct aio_req){
                .op = AIO_READ, .fd = fd, .buf = memory + i * unit, .bytes = n, .off = sent, .owner = &reqs[i]};
            failed |= aio_submit(a, &reqs[i]) != 0;
            sent += n;
        }
        struct aio_req *r = aio_reap(a);
        if (!r)
            sleep_on(bell);
        for (; r; r = r->next) {
            failed |= r->result != 0;
            got += r->bytes;
            r->owner = NULL;
        }
    }
    struct probe_time spent = probe_end(begin);
    if (opened)
        aio_close(a);
    sys.close(bell);
    return failed ? cannot : spent;
}

struct probe_time probe_read(const char *path, uint64_t bytes, uint64_t unit, uint32_t depth)
{
    depth = depth < MOST_READERS ? depth : MOST_READERS;
    int fd = sys.open(path, O_RDONLY | O_DIRECT, 0);
    if (fd < 0 && errno == EINVAL)
        fd = sys.open(path, O_RDONLY, 0);
    void *p = sys.mmap(NULL, depth * unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fd < 0 || p == MAP_FAILED)
        return cannot;
    sys.madvise(p, depth * unit, MADV_HUGEPAGE);
    memset(p, 1, depth * unit);
    struct probe_time a = by_threads(fd, p, bytes, unit, depth), b = by_ring(fd, p, bytes, unit, depth);
    sys.munmap(p, depth * unit);
    sys.close(fd);
    return b.seconds > 0 && (a.seconds < 0 || b.seconds < a.seconds) ? b : a;
}
