/* workers - a bounded pool for what would hold up the HTTP loop: parsing, templates, tokenizing.
 *
 * submit and reap: a job's `work` runs on a worker, then its `done` runs on the loop, in workers_reap, exactly once.
 * Between the two the job belongs to the pool. submit and reap: loop thread only.
 */
#ifndef HEARTH_SERVER_WORKERS_H
#define HEARTH_SERVER_WORKERS_H

#include "engine/base/err.h"

#include <stdint.h>

struct workers;

struct worker_job {
    void (*work)(struct worker_job *j); /* worker thread */
    void (*done)(struct worker_job *j); /* loop thread; may free j */
    struct worker_job *next;            /* the pool's */
};

/* n threads, at most max_queued jobs that wait. 0 or -errno with e. */
int workers_open(struct workers **out, uint32_t n, uint32_t max_queued, struct err *e);
/* Waits for what runs; calls done for every job, finished or not (work may not have run). NULL is fine. */
void workers_close(struct workers *w);
/* 0, or -EAGAIN when the queue is full. */
int workers_submit(struct workers *w, struct worker_job *j);
/* Readable when workers_reap has something to do. */
int workers_fd(const struct workers *w);
void workers_reap(struct workers *w);

#endif
