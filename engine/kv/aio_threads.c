/* aio_threads - requests by pread and pwrite in threads of their own. See aio.h.
 *
 * One mutex guards two lists of what waits (reads, the rest) and one of what has ended. With no threads a request is
 * done in submit, so that a test decides what happens when.
 */
#include "engine/base/sys.h"
#include "engine/kv/aio.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MAX_THREADS 64

struct list {
    struct aio_req *first, **last;
};

struct aio_threads {
    struct aio_head head;
    uint32_t depth, n_under_way; /* the owner's */
    int bell;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct list reads, others, ended; /* under lock */
    bool quit;
    uint32_t n_threads;
    pthread_t threads[MAX_THREADS];
};

static struct aio_threads *threads_of(struct aio *a)
{
    return (struct aio_threads *)(void *)a;
}

static void list_init(struct list *l)
{
    l->first = NULL;
    l->last = &l->first;
}

static void list_push(struct list *l, struct aio_req *r)
{
    r->next = NULL;
    *l->last = r;
    l->last = &r->next;
}

static struct aio_req *list_pop(struct list *l)
{
    struct aio_req *r = l->first;
    if (r && !(l->first = r->next))
        l->last = &l->first;
    return r;
}

static ssize_t transfer(const struct aio_req *r)
{
    uint8_t *at = (uint8_t *)r->buf + r->done;
    off_t off = (off_t)(r->off + r->done);
    if (r->op == AIO_READ)
        return sys.pread(r->fd, at, r->bytes - r->done, off);
    return sys.pwrite(r->fd, at, r->bytes - r->done, off);
}

static void perform(struct aio_req *r)
{
    r->result = 0;
    if (r->op == AIO_SYNC) {
        r->result = sys.fsync(r->fd) == 0 ? 0 : -errno;
        return;
    }
    while (r->done < r->bytes) {
        ssize_t n = transfer(r);
        if (n > 0) {
            r->done += (uint64_t)n;
        } else if (n == 0 || errno != EINTR) {
            r->result = n == 0 ? -EIO : -errno;
            return;
        }
    }
}

static void *worker(void *arg)
{
    struct aio_threads *t = arg;
    pthread_mutex_lock(&t->lock);
    for (;;) {
        struct aio_req *r;
        while (!(r = list_pop(&t->reads)) && !(r = list_pop(&t->others)) && !t->quit)
            pthread_cond_wait(&t->work, &t->lock);
        if (!r)
            break;
        pthread_mutex_unlock(&t->lock);
        perform(r);
        pthread_mutex_lock(&t->lock);
        list_push(&t->ended, r);
        aio_ring(t->bell);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static int threads_submit(struct aio *a, struct aio_req *r)
{
    struct aio_threads *t = threads_of(a);
    if (t->n_under_way >= t->depth)
        return -EAGAIN;
    t->n_under_way++;
    r->done = 0;
    if (t->n_threads == 0)
        perform(r);
    pthread_mutex_lock(&t->lock);
    if (t->n_threads == 0) {
        list_push(&t->ended, r);
    } else {
        list_push(r->op == AIO_READ ? &t->reads : &t->others, r);
        pthread_cond_signal(&t->work);
    }
    pthread_mutex_unlock(&t->lock);
    return 0;
}

static struct aio_req *threads_reap(struct aio *a)
{
    struct aio_threads *t = threads_of(a);
    pthread_mutex_lock(&t->lock);
    struct aio_req *list = t->ended.first;
    list_init(&t->ended);
    pthread_mutex_unlock(&t->lock);
    for (struct aio_req *r = list; r; r = r->next)
        t->n_under_way--;
    return list;
}

/* Workers end when nothing waits any more. */
static void threads_close(struct aio *a)
{
    struct aio_threads *t = threads_of(a);
    pthread_mutex_lock(&t->lock);
    t->quit = true;
    pthread_cond_broadcast(&t->work);
    pthread_mutex_unlock(&t->lock);
    for (uint32_t i = 0; i < t->n_threads; i++)
        pthread_join(t->threads[i], NULL);
    pthread_cond_destroy(&t->work);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static const struct aio_ops threads_ops = {
    .name = "threads", .close = threads_close, .submit = threads_submit, .reap = threads_reap};

int aio_threads_open(struct aio **out, const struct aio_opts *o, struct err *e)
{
    struct aio_threads *t = calloc(1, sizeof *t);
    if (!t)
        return err_set(e, ENOMEM, "KV tiers: out of memory");
    t->head.ops = &threads_ops;
    t->depth = o->depth;
    t->bell = o->bell;
    list_init(&t->reads);
    list_init(&t->others);
    list_init(&t->ended);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    uint32_t n = o->threads < MAX_THREADS ? o->threads : MAX_THREADS;
    for (; t->n_threads < n; t->n_threads++) {
        int ret = pthread_create(&t->threads[t->n_threads], NULL, worker, t);
        if (ret == 0)
            continue;
        threads_close((struct aio *)(void *)t);
        return err_set(e, ret, "KV tiers: thread: %s", strerror(ret));
    }
    *out = (struct aio *)(void *)t;
    return 0;
}
