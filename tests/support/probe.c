/* probe - see probe.h. */
#include "tests/support/probe.h"

#include "engine/base/sys.h"
#include "engine/kv/aio.h"

#include <assert.h>
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
#define MEMORY       (256ull << 20) /* more than caches hold: blocks that are loaded go to memory, too */

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
    uint8_t *memory; /* [n_units][unit] */
    uint64_t n_units;
};

static void *reader(void *arg)
{
    struct reading *r = arg;
    for (uint64_t at; (at = atomic_fetch_add(&r->next, r->unit)) < r->bytes;) {
        uint64_t n = r->bytes - at < r->unit ? r->bytes - at : r->unit;
        uint8_t *to = r->memory + at / r->unit % r->n_units * r->unit;
        for (uint64_t done = 0; done < n;) {
            ssize_t got = sys.pread(r->fd, to + done, n - done, (off_t)(at + done));
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
static struct probe_time by_threads(struct reading r, uint32_t depth)
{
    pthread_t threads[MOST_READERS];
    uint32_t n = 0;
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
static struct probe_time by_ring(struct reading r, uint32_t depth)
{
    struct aio_req reqs[MOST_READERS] = {0};
    struct aio *a;
    struct err e;
    int bell = sys.eventfd(0, 0);
    bool opened = aio_open(&a, &(struct aio_opts){.kind = AIO_URING, .depth = depth, .bell = bell}, &e) == 0;
    bool failed = !opened;
    struct probe_time begin = probe_begin();
    for (uint64_t sent = 0, got = 0; !failed && got < r.bytes;) {
        for (uint32_t i = 0; i < depth && sent < r.bytes; i++) {
            if (reqs[i].owner)
                continue;
            uint64_t n = r.bytes - sent < r.unit ? r.bytes - sent : r.unit;
            uint8_t *to = r.memory + sent / r.unit % r.n_units * r.unit;
            reqs[i] = (struct aio_req){
                .op = AIO_READ, .fd = r.fd, .buf = to, .bytes = n, .off = sent, .owner = &reqs[i]};
            failed |= aio_submit(a, &reqs[i]) != 0;
            sent += n;
        }
        struct aio_req *came = aio_reap(a);
        if (!came)
            sleep_on(bell);
        for (; came; came = came->next) {
            failed |= came->result != 0;
            got += came->bytes;
            came->owner = NULL;
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
    assert(depth * unit <= MEMORY);
    void *p = sys.mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fd < 0 || p == MAP_FAILED)
        return cannot;
    sys.madvise(p, MEMORY, MADV_HUGEPAGE);
    memset(p, 1, MEMORY);
    struct reading r = {.fd = fd, .bytes = bytes, .unit = unit, .memory = p, .n_units = MEMORY / unit};
    struct probe_time a = by_threads(r, depth), b = by_ring(r, depth);
    sys.munmap(p, MEMORY);
    sys.close(fd);
    return b.seconds > 0 && (a.seconds < 0 || b.seconds < a.seconds) ? b : a;
}
