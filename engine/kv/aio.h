/* aio - reads and writes of files that are submitted and reaped: io_uring where it works, threads with pread and pwrite
 * where it does not (containers refuse io_uring), or neither: at submit, for tests.
 *
 * A request is done when all its bytes have moved: a transfer that comes back short goes on where it stopped. What ends
 * before (end of file, an error) has failed. From submit to reap the request and its buffer belong to the other side.
 * Buffers, offsets and sizes are multiples of 4096 where the file is open with O_DIRECT. One owner thread.
 */
#ifndef HEARTH_KV_AIO_H
#define HEARTH_KV_AIO_H

#include "engine/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum aio_kind { AIO_AUTO, AIO_URING, AIO_THREADS };
enum aio_op { AIO_READ, AIO_WRITE, AIO_SYNC };

struct aio_req {
    enum aio_op op;
    int fd;
    void *buf;
    uint64_t bytes, off;
    bool copied; /* reading this file is copying memory: io_uring's workers do it side by side, not who submits it */
    void *owner; /* the caller's */
    /* set by reap */
    int result; /* 0 or -errno; -EIO for a file that ends too soon */
    struct aio_req *next;
    uint64_t done; /* bytes so far */
};

struct aio_opts {
    enum aio_kind kind;
    uint32_t depth;   /* requests under way at most */
    uint32_t threads; /* of AIO_THREADS; 0 = each request is done in submit */
    int bell;         /* eventfd that is rung when something can be reaped; -1 = none */
};

struct aio;

struct aio_ops {
    /* Buffers of requests will mostly lie in memory[bytes]: what makes them cheap may be done. NULL: nothing is. */
    void (*attach)(struct aio *a, void *memory, size_t bytes);
    const char *name;             /* "io_uring", "threads" */
    void (*close)(struct aio *a); /* waits for what is under way */
    int (*submit)(struct aio *a, struct aio_req *r);
    struct aio_req *(*reap)(struct aio *a);
};

struct aio_head {
    const struct aio_ops *ops;
};

/* AIO_AUTO takes io_uring if it is built in and the kernel lets us. 0 or -errno with e. */
int aio_open(struct aio **out, const struct aio_opts *o, struct err *e);

/* Start a request: 0, or -EAGAIN when `depth` are under way. Reads go before writes that wait. */
static inline int aio_submit(struct aio *a, struct aio_req *r)
{
    return ((struct aio_head *)(void *)a)->ops->submit(a, r);
}

/* Requests that have ended, as a list; NULL: none. Never waits. */
static inline struct aio_req *aio_reap(struct aio *a)
{
    return ((struct aio_head *)(void *)a)->ops->reap(a);
}

static inline void aio_attach(struct aio *a, void *memory, size_t bytes)
{
    const struct aio_ops *ops = ((struct aio_head *)(void *)a)->ops;
    if (ops->attach)
        ops->attach(a, memory, bytes);
}

static inline const char *aio_name(struct aio *a)
{
    return ((struct aio_head *)(void *)a)->ops->name;
}

static inline void aio_close(struct aio *a)
{
    if (a)
        ((struct aio_head *)(void *)a)->ops->close(a);
}

/* -- the kinds */
int aio_threads_open(struct aio **out, const struct aio_opts *o, struct err *e);
/* -ENOSYS when it is not built in or the kernel refuses. */
int aio_uring_open(struct aio **out, const struct aio_opts *o, struct err *e);

/* Ring a bell; -1 is fine. */
void aio_ring(int bell);

#endif
