/* cpu_fast_pool - see cpu_fast_pool.h.
 *
 * One 64-bit word, the ticket, holds (job number, pieces, next piece). Claiming is one fetch_add: whoever gets an index
 * below the number of pieces owns that piece of that very job, so the fields of the job can't change under him (the job
 * is not over before his piece is). A worker that comes late, when all is claimed, reads nothing but the ticket: the
 * caller never waits for a thread that is asleep or not scheduled, only for pieces that were claimed.
 *
 * A job of two pieces costs about 0.5 us over its work on a Zen 3, a further piece 0.08 us: passing cache lines. So
 * what a worker needs lies in the ticket's line.
 *
 * Sleep: the job number (the ticket's upper half) is the futex of the workers, `done` that of the caller. Each sleeper
 * announces itself before the kernel compares the word again, each waker changes the word before it looks for sleepers,
 * so no wake-up is lost.
 */
#include "engine/compute/cpu_fast_pool.h"

#include "engine/base/sys.h"

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SPIN_NS 30000 /* longer than any gap inside a forward pass, shorter than a step's */
#define PIECES_MAX \
    32768 /* of one ticket; half of its 16 bits, so that late claims can't overflow into the next field */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the second half of the ticket is the job number");

struct worker {
    struct fast_pool *pool;
    pthread_t thread;
    int32_t id;
};

struct fast_pool {
    _Alignas(64) union {
        _Atomic uint64_t all; /* job << 32 | pieces << 16 | next */
        _Atomic uint32_t half[2];
    } ticket;
    /* Of the running job; stable while any of its pieces is not done. */
    fast_piece_fn *fn;
    void *ctx;
    int32_t first; /* piece that index 0 of the ticket means */

    _Alignas(64) _Atomic uint32_t done; /* pieces done; futex of the caller */
    _Atomic bool caller_sleeps;
    _Alignas(64) _Atomic uint32_t sleepers;
    _Atomic bool stop;

    int32_t n_workers;
    struct worker worker[];
};

/* The ticket's job number as the kernel's futex and a spinning worker see it. */
static _Atomic uint32_t *job_word(struct fast_pool *p)
{
    return &p->ticket.half[1];
}

static inline void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void futex_sleep(_Atomic uint32_t *word, uint32_t while_value)
{
    sys.futex((uint32_t *)word, FUTEX_WAIT_PRIVATE, while_value); /* EINTR, EAGAIN: the caller looks again */
}

static void futex_wake(_Atomic uint32_t *word, uint32_t n)
{
    sys.futex((uint32_t *)word, FUTEX_WAKE_PRIVATE, n);
}

/* Spin until *word differs from old, SPIN_NS at most. */
static bool spin_until_changed(_Atomic uint32_t *word, uint32_t old)
{
    uint64_t end = 0;
    for (unsigned i = 0;; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != old)
            return true;
        spin_pause();
        if (i % 64 == 63) {
            uint64_t now = sys.now_ns();
            if (end == 0)
                end = now + SPIN_NS;
            else if (now >= end)
                return false;
        }
    }
}

/* Claim and run pieces until none is left. */
static void run_pieces(struct fast_pool *p, int32_t thread)
{
    for (;;) {
        uint64_t t = atomic_fetch_add_explicit(&p->ticket.all, 1, memory_order_acq_rel);
        uint32_t next = (uint16_t)t, n = (uint16_t)(t >> 16);
        if (next >= n)
            return;
        p->fn(p->ctx, p->first + (int32_t)next, thread);
        if (atomic_fetch_add(&p->done, 1) + 1 == n && atomic_load(&p->caller_sleeps))
            futex_wake(&p->done, 1);
    }
}

static void wait_done(struct fast_pool *p, uint32_t n)
{
    uint32_t d;
    while ((d = atomic_load(&p->done)) != n) {
        if (spin_until_changed(&p->done, d))
            continue;
        atomic_store(&p->caller_sleeps, true);
        futex_sleep(&p->done, d);
        atomic_store(&p->caller_sleeps, false);
    }
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct fast_pool *p = w->pool;
    uint32_t seen = 0;
    for (;;) {
        if (!spin_until_changed(job_word(p), seen)) {
            atomic_fetch_add(&p->sleepers, 1);
            while (atomic_load(job_word(p)) == seen)
                futex_sleep(job_word(p), seen);
            atomic_fetch_sub(&p->sleepers, 1);
        }
        seen = atomic_load(job_word(p));
        if (atomic_load(&p->stop))
            return NULL;
        run_pieces(p, w->id);
    }
}

/* Publish a job of n pieces and wake who sleeps. */
static void post(struct fast_pool *p, uint32_t n)
{
    uint64_t job = (atomic_load_explicit(&p->ticket.all, memory_order_relaxed) >> 32) + 1;
    atomic_store(&p->ticket.all, job << 32 | (uint64_t)n << 16);
    if (atomic_load(&p->sleepers) > 0)
        futex_wake(job_word(p), INT32_MAX);
}

static void run_alone(fast_piece_fn *fn, void *ctx, int32_t n_pieces)
{
    for (int32_t i = 0; i < n_pieces; i++)
        fn(ctx, i, 0);
}

void fast_pool_run(struct fast_pool *p, fast_piece_fn *fn, void *ctx, int32_t n_pieces)
{
    if (p->n_workers == 0 || n_pieces < 2) {
        run_alone(fn, ctx, n_pieces);
        return;
    }
    for (int32_t first = 0; first < n_pieces; first += PIECES_MAX) {
        int32_t n = n_pieces - first < PIECES_MAX ? n_pieces - first : PIECES_MAX;
        p->fn = fn;
        p->ctx = ctx;
        p->first = first;
        atomic_store_explicit(&p->done, 0, memory_order_relaxed);
        post(p, (uint32_t)n);
        run_pieces(p, 0);
        wait_done(p, (uint32_t)n);
    }
}

int fast_pool_open(struct fast_pool **out, int32_t threads, struct err *e)
{
    assert(threads >= 1);
    size_t bytes = sizeof(struct fast_pool) + (size_t)(threads - 1) * sizeof(struct worker);
    struct fast_pool *p = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    if (!p)
        return err_set(e, ENOMEM, "no memory for a pool of %d threads", threads);
    memset(p, 0, bytes);
    for (int32_t i = 0; i < threads - 1; i++) {
        struct worker *w = &p->worker[i];
        w->pool = p;
        w->id = i + 1;
        int rc = pthread_create(&w->thread, NULL, worker_main, w);
        if (rc != 0) {
            fast_pool_close(p);
            return err_set(e, rc, "can't start compute thread %d of %d: %s", i + 2, threads, strerror(rc));
        }
        p->n_workers++;
    }
    *out = p;
    return 0;
}

void fast_pool_close(struct fast_pool *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, true);
    post(p, 0);
    for (int32_t i = 0; i < p->n_workers; i++)
        pthread_join(p->worker[i].thread, NULL);
    free(p);
}

int32_t fast_pool_threads(const struct fast_pool *p)
{
    return p->n_workers + 1;
}
