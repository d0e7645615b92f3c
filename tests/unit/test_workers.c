/* test_workers - every job is worked on at most once and done exactly once, whatever happens. */
#include "tests/support/unit.h"

#include "server/workers.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

struct job {
    struct worker_job base; /* first */
    _Atomic int worked;
    int done;
    _Atomic bool *gate; /* work waits for it */
};

static void work(struct worker_job *j)
{
    struct job *job = (struct job *)(void *)j;
    while (job->gate && !atomic_load(job->gate))
        sched_yield();
    atomic_fetch_add(&job->worked, 1);
}

static void done(struct worker_job *j)
{
    ((struct job *)(void *)j)->done++;
}

static int count_done(const struct job *jobs, int n)
{
    int sum = 0;
    for (int i = 0; i < n; i++)
        sum += jobs[i].done;
    return sum;
}

START_TEST(test_workers_do_each_job_once)
{
    enum { N = 5000 };
    static struct job jobs[N];
    struct workers *w;
    struct err e;
    int sent = 0;
    ck_assert_int_eq(workers_open(&w, 3, 64, &e), 0);
    while (count_done(jobs, N) < N) {
        while (sent < N) {
            jobs[sent].base = (struct worker_job){work, done, NULL};
            if (workers_submit(w, &jobs[sent].base) != 0)
                break;
            sent++;
        }
        struct pollfd p = {.fd = workers_fd(w), .events = POLLIN};
        ck_assert_int_eq(poll(&p, 1, 20000), 1);
        workers_reap(w);
    }
    for (int i = 0; i < N; i++)
        ck_assert(jobs[i].worked == 1 && jobs[i].done == 1);
    workers_close(w);
}
END_TEST

START_TEST(test_workers_refuse_when_full_and_finish_everything_when_closed)
{
    static struct job jobs[10];
    _Atomic bool gate = false;
    struct workers *w;
    struct err e;
    int taken = 0, refused = 0;
    ck_assert_int_eq(workers_open(&w, 1, 4, &e), 0);
    for (int i = 0; i < 10; i++) {
        jobs[i] = (struct job){.base = {work, done, NULL}, .gate = &gate};
        int ret = workers_submit(w, &jobs[i].base);
        ck_assert(ret == 0 || ret == -EAGAIN);
        ret == 0 ? taken++ : refused++;
    }
    ck_assert_int_ge(taken, 4); /* the queue, and one more if the worker had taken the first already */
    ck_assert_int_le(taken, 5);
    ck_assert_int_eq(taken + refused, 10);
    atomic_store(&gate, true);
    workers_close(w);
    ck_assert_int_eq(count_done(jobs, 10), taken);
    for (int i = 0; i < 10; i++)
        ck_assert(jobs[i].worked <= 1 && jobs[i].done <= 1);
}
END_TEST

UNIT_MAIN("workers", test_workers_do_each_job_once, test_workers_refuse_when_full_and_finish_everything_when_closed)
