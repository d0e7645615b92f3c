/* aio_uring - requests by io_uring: liburing is used here and nowhere else. See aio.h.
 *
 * One ring, as deep as asked for; its completions ring the bell by themselves. A short transfer is queued again for
 * what is left of it.
 *
 * The attached memory is registered piece by piece, each when a request first lies in it: the kernel then need not find
 * and hold its pages for each request, which is most of a request's CPU time. What can't be registered (old kernels, a
 * limit on locked memory), or lies across two pieces, goes without.
 *
 * A read that waits for nothing, as of tmpfs, would be made by submit, or all of them one after the other by one worker
 * of the kernel, which starts another one when the first sleeps. IOSQE_ASYNC starts one for each that is under way.
 */
#include "engine/kv/aio.h"

#include <errno.h>

#ifdef HAVE_LIBURING

#include <assert.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MOST_PIECES 1024
#define LEAST_PIECE (64ull << 20)

enum piece { PIECE_NEW, PIECE_FIXED, PIECE_PLAIN };

struct aio_uring {
    struct aio_head head;
    struct io_uring ring;
    uint32_t depth, n_under_way;
    uint8_t *memory;
    size_t bytes, piece_bytes;   /* bytes 0: nothing is attached */
    uint8_t pieces[MOST_PIECES]; /* enum piece */
};

static struct aio_uring *uring_of(struct aio *a)
{
    return (struct aio_uring *)(void *)a;
}

static void uring_attach(struct aio *a, void *memory, size_t bytes)
{
    struct aio_uring *u = uring_of(a);
    u->piece_bytes = LEAST_PIECE;
    while (bytes / u->piece_bytes >= MOST_PIECES)
        u->piece_bytes *= 2;
    if (io_uring_register_buffers_sparse(&u->ring, MOST_PIECES) != 0)
        return;
    u->memory = memory;
    u->bytes = bytes;
}

/* The registered piece that all of at[n] lies in, or -1. */
static int piece_of(struct aio_uring *u, const uint8_t *at, size_t n)
{
    if (u->bytes == 0 || at < u->memory || at >= u->memory + u->bytes)
        return -1;
    size_t off = (size_t)(at - u->memory), i = off / u->piece_bytes, from = i * u->piece_bytes;
    if (off + n > from + u->piece_bytes)
        return -1;
    if (u->pieces[i] == PIECE_NEW) {
        size_t left = u->bytes - from;
        struct iovec v = {u->memory + from, left < u->piece_bytes ? left : u->piece_bytes};
        bool ok = io_uring_register_buffers_update_tag(&u->ring, (unsigned)i, &v, NULL, 1) == 1;
        u->pieces[i] = ok ? PIECE_FIXED : PIECE_PLAIN;
    }
    return u->pieces[i] == PIECE_FIXED ? (int)i : -1;
}

/* There is an entry for each request that may be under way. */
static int queue(struct aio_uring *u, struct aio_req *r)
{
    struct io_uring_sqe *s = io_uring_get_sqe(&u->ring);
    assert(s);
    uint8_t *at = (uint8_t *)r->buf + r->done;
    uint64_t left = r->bytes - r->done;
    unsigned n = left > 1u << 30 ? 1u << 30 : (unsigned)left;
    int piece = r->op == AIO_SYNC ? -1 : piece_of(u, at, n);
    if (r->op == AIO_READ && piece >= 0)
        io_uring_prep_read_fixed(s, r->fd, at, n, r->off + r->done, piece);
    else if (r->op == AIO_WRITE && piece >= 0)
        io_uring_prep_write_fixed(s, r->fd, at, n, r->off + r->done, piece);
    else if (r->op == AIO_READ)
        io_uring_prep_read(s, r->fd, at, n, r->off + r->done);
    else if (r->op == AIO_WRITE)
        io_uring_prep_write(s, r->fd, at, n, r->off + r->done);
    else
        io_uring_prep_fsync(s, r->fd, IORING_FSYNC_DATASYNC);
    if (r->op == AIO_READ && r->copied)
        io_uring_sqe_set_flags(s, IOSQE_ASYNC);
    io_uring_sqe_set_data(s, r);
    int ret;
    do
        ret = io_uring_submit(&u->ring);
    while (ret == -EINTR);
    return ret < 0 ? ret : 0; /* -EAGAIN, -EBUSY: it stays queued and goes with the next submit */
}

static int uring_submit(struct aio *a, struct aio_req *r)
{
    struct aio_uring *u = uring_of(a);
    if (u->n_under_way >= u->depth)
        return -EAGAIN;
    r->done = 0;
    r->result = 0;
    u->n_under_way++;
    queue(u, r);
    return 0;
}

/* A completion of `res`: true when the request has ended. */
static bool ended(struct aio_uring *u, struct aio_req *r, int res)
{
    if (r->op == AIO_SYNC || (res < 0 && res != -EINTR && res != -EAGAIN)) {
        r->result = res < 0 ? res : 0;
        return true;
    }
    if (res == 0) {
        r->result = -EIO;
        return true;
    }
    r->done += res > 0 ? (uint64_t)res : 0;
    if (r->done >= r->bytes)
        return true;
    queue(u, r);
    return false;
}

static struct aio_req *uring_reap(struct aio *a)
{
    struct aio_uring *u = uring_of(a);
    struct aio_req *list = NULL, **last = &list;
    struct io_uring_cqe *c;
    if (io_uring_sq_ready(&u->ring) > 0)
        io_uring_submit(&u->ring);
    while (io_uring_peek_cqe(&u->ring, &c) == 0) {
        struct aio_req *r = io_uring_cqe_get_data(c);
        int res = c->res;
        io_uring_cqe_seen(&u->ring, c);
        if (!ended(u, r, res))
            continue;
        u->n_under_way--;
        r->next = NULL;
        *last = r;
        last = &r->next;
    }
    return list;
}

static void uring_close(struct aio *a)
{
    struct aio_uring *u = uring_of(a);
    struct io_uring_cqe *c;
    while (u->n_under_way > 0) {
        uring_reap(a);
        if (u->n_under_way > 0 && io_uring_submit_and_wait(&u->ring, 1) < 0 && io_uring_wait_cqe(&u->ring, &c) < 0)
            break; /* the ring is broken: it is torn down, and the kernel waits for its requests itself */
    }
    io_uring_queue_exit(&u->ring);
    free(u);
}

static const struct aio_ops uring_ops = {
    .name = "io_uring", .close = uring_close, .attach = uring_attach, .submit = uring_submit, .reap = uring_reap};

int aio_uring_open(struct aio **out, const struct aio_opts *o, struct err *e)
{
    struct aio_uring *u = calloc(1, sizeof *u);
    if (!u)
        return err_set(e, ENOMEM, "KV tiers: out of memory");
    u->head.ops = &uring_ops;
    u->depth = o->depth;
    int ret = io_uring_queue_init(o->depth, &u->ring,
                                  IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SINGLE_ISSUER);
    if (ret == -EINVAL) /* kernels before 6.0 */
        ret = io_uring_queue_init(o->depth, &u->ring, 0);
    if (ret) {
        free(u);
        return err_set(e, ENOSYS, "io_uring: %s", strerror(-ret));
    }
    if (o->bell >= 0 && (ret = io_uring_register_eventfd(&u->ring, o->bell)) != 0) {
        uring_close((struct aio *)(void *)u);
        return err_set(e, ENOSYS, "io_uring: its bell: %s", strerror(-ret));
    }
    *out = (struct aio *)(void *)u;
    return 0;
}

#else

int aio_uring_open(struct aio **out, const struct aio_opts *o, struct err *e)
{
    (void)out;
    (void)o;
    return err_set(e, ENOSYS, "io_uring: built without liburing");
}

#endif
