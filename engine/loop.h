/* loop - the engine thread: everything mutable belongs to it, and one turn reads on one screen.
 *
 *     inbox: admit, cancel, credit  ->  sched_step: plan  ->  batch_build: step  ->  forward, sample  ->  commit
 *     ->  outbox: tokens, progress, done
 *
 * Up to `depth` steps are queued at a time: with 2, step N + 1 is planned and queued while N runs, and takes the tokens
 * that N draws from where the backend keeps them. So a turn waits only for the step before the one it has queued. That
 * a sequence ends (stop, cancel) is then seen one step late: what it drew beyond is thrown away, its blocks are given
 * back with the number of the last step that names them, and no block with a token that is not known is published.
 *
 * Runs over a boundary, as a thread of the front or as its own process; a test turns it by hand.
 */
#ifndef HEARTH_ENGINE_LOOP_H
#define HEARTH_ENGINE_LOOP_H

#include "engine/base/idmap.h"
#include "engine/batch.h"
#include "engine/boundary.h"
#include "engine/machine.h"
#include "engine/sched.h"
#include "engine/session.h"

#define LOOP_DEPTH_MAX 2

/* A step that is queued. */
struct flight {
    struct batch *batch;
    struct plan plan;  /* its arrays are the scheduler's, but for `runs`, a copy */
    struct seq **seqs; /* [n_runs] whose runs they are; NULL: it has ended since */
    uint64_t queued_ns;
};

struct loop {
    struct boundary *b;
    struct machine *m;
    struct kvcache kv;
    struct sched sched;
    struct sessions sessions;
    struct flight flights[LOOP_DEPTH_MAX]; /* queued steps, oldest first */
    uint32_t depth, n_flights;
    uint64_t last_done_ns;
    struct idmap requests; /* id -> struct reqseqs */
    struct reqseqs **live; /* requests in no order */
    size_t n_live, cap_live;
    uint64_t n_requests, step; /* counters: arrival order, last step */
    bool quit;
    /* Tests see each step, done, before it is committed: plan, sequences by slot, logits rows. NULL in production. */
    void (*trace)(void *ctx, const struct loop *l, const struct plan *p, const float *logits);
    void *trace_ctx;
    uint8_t msg[MSG_MAX]; /* one message in or out */
};

struct reqseqs { /* a request and its choices */
    struct request *req;
    struct seq **seqs; /* [n]; NULL: not forked yet, or over and sent */
    size_t at;         /* index in loop.live */
};

/* Bind machine and boundary (both outlive the loop). 0 or -ENOMEM with e. */
int loop_open(struct loop *l, struct boundary *b, struct machine *m, struct err *e);
void loop_close(struct loop *l);

/* One turn. Returns true when it did something; false: wait for the front. */
bool loop_turn(struct loop *l);
/* Turn until QUIT; waits on the wake-up descriptor when idle. */
void loop_run(struct loop *l);

/* -- inbox.c: handle one message from the in ring. */
void inbox_handle(struct loop *l, const uint8_t *msg, size_t n);

/* -- outbox.c: send what is due; true when something was sent. */
bool outbox_flush(struct loop *l);
/* Answer a question about a session. False: the ring is full. */
bool outbox_say(struct loop *l, uint64_t question, const struct engine_whereabouts *says);
/* Refuse a request that was never admitted. */
void outbox_fail(struct loop *l, uint64_t id, enum engine_failure why, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* -- shared by them (loop.c) */
/* A choice has ended: its blocks are given back, its last messages follow. */
void loop_finish_seq(struct loop *l, struct seq *q, enum engine_finish why, int32_t stop_id);
/* Forget a request and all it has. */
void loop_drop_request(struct loop *l, struct reqseqs *r);

#endif
