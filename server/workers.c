/* workers - see workers.h. One mutex, two lists. */
#include "server/workers.h"

#include "engine/base/sys.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

struct job_list {
    struct worker_job *first, **last;
};

struct workers {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct job_list queue, finished;
    uint32_t n_queued, max_queued, n_threads;
    bool stop;
    int bell; /* rung when something has finished */
    pthread_t threads[];
};

static void list_init(struct job_list *l)
{
    l->first = NULL;
    l->last = &l->first;
}

static void list_push(struct job_list *l, struct worker_job *j)
{
    j->next = NULL;
    *l->last = j;
    l->last = &j->next;
}

static struct worker_job *list_pop(struct job_list *l)
{
    struct worker_job *j = l->first;
    if (j) {
        l->first = j->next;
        if (!l->first)
            l->last = &l->first;
    }
    return j;
}

static void *worker_main(void *arg)
{
    struct workers *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->stop && !w->queue.first)
            pthread_cond_wait(&w->more, &w->lock);
        if (w->stop)
            break;
        struct worker_job *j = list_pop(&w->queue);
        w->n_queued--;
        pthread_mutex_unlock(&w->lock);
        j->work(j);
        pthread_mutex_lock(&w->lock);
        list_push(&w->finished, j);
        uint64_t one = 1;
        ssize_t n = sys.write(w->bell, &one, sizeof one);
        (void)n; /* EAGAIN: it rings already */
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

int workers_open(struct workers **out, uint32_t n, uint32_t max_queued, struct err *e)
{
    struct workers *w = calloc(1, sizeof *w + n * sizeof *w->threads);
    if (!w)
        return err_set(e, ENOMEM, "workers: out of memory");
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    list_init(&w->queue);
    list_init(&w->finished);
    w->max_queued = max_queued;
    w->bell = sys.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int ret = w->bell < 0 ? errno : 0;
    while (!ret && w->n_threads < n) {
        ret = pthread_create(&w->threads[w->n_threads], NULL, worker_main, w);
        w->n_threads += !ret;
    }
    if (ret) {
        workers_close(w);
        return err_set(e, ret, "workers: %s", strerror(ret));
    }
    *out = w;
    return 0;
}

void workers_close(struct workers *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->lock);
    for (uint32_t i = 0; i < w->n_threads; i++)
        pthread_join(w->threads[i], NULL);
    struct worker_job *j;
    while ((j = list_pop(&w->finished)) || (j = list_pop(&w->queue)))
        j->done(j);
    if (w->bell >= 0)
        sys.close(w->bell);
    pthread_cond_destroy(&w->more);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

int workers_submit(struct workers *w, struct worker_job *j)
{
    pthread_mutex_lock(&w->lock);
    bool full = w->n_queued >= w->max_queued;
    if (!full) {
        list_push(&w->queue, j);
        w->n_queued++;
        pthread_cond_signal(&w->more);
    }
    pthread_mutex_unlock(&w->lock);
    return full ? -EAGAIN : 0;
}

int workers_fd(const struct workers *w)
{
    return w->bell;
}

void workers_reap(struct workers *w)
{
    uint64_t count;
    ssize_t n = sys.read(w->bell, &count, sizeof count);
    (void)n; /* EAGAIN: somebody reaped before */
    pthread_mutex_lock(&w->lock);
    struct worker_job *j = w->finished.first;
    list_init(&w->finished);
    pthread_mutex_unlock(&w->lock);
    while (j) {
        struct worker_job *next = j->next;
        j->done(j);
        j = next;
    }
}
