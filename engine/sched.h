/* sched - who runs in the next step: continuous batching with chunked prefill, bounded in time.
 *
 * Rules, in this order:
 *   1. Every running generation gets its row. If there is no block for it, the last of the running (lowest priority,
 *      latest arrival) is preempted: it gives its blocks back, keeps its tokens and waits at its old place. Swap or
 *      recompute is a question of cost (kvcache_swap), and of each block.
 *   2. What is left of step_ms (by the cost model, budget.h) goes to prefill. Several prompts share it: equal shares of
 *      time, shortest remaining first, what one does not need flows on. The oldest always gets SCHED_MIN_CHUNK rows. A
 *      share goes to all holes of a sequence that it suffices for, up to the first block that is being loaded.
 *   3. Waiting sequences are admitted in order while there are slots, and blocks for all their known tokens, leaving
 * one spare block for each running sequence. The first that does not fit holds the queue: nobody starves. So the oldest
 * of the highest priority always finishes: in the end it runs alone, and its need fits the pool.
 *
 * The scheduler sees sequences, counts and predicted times; no model, no clock, no bytes. Engine thread. The queue
 * grows when a request comes in; a step allocates nothing.
 */
#ifndef HEARTH_ENGINE_SCHED_H
#define HEARTH_ENGINE_SCHED_H

#include "engine/budget.h"
#include "engine/kvcache.h"
#include "engine/plan.h"
#include "engine/seq.h"

#define SCHED_MIN_CHUNK 16

struct sched_limits {
    uint32_t max_seqs, max_rows; /* slots; rows a step. max_seqs <= max_rows */
    double step_ns;              /* bound on a step's time */
};

struct sched {
    struct sched_limits limits;
    struct kvcache *kv;
    struct budget budget;
    struct seq **slots;   /* [max_seqs] running sequences by slot, or NULL */
    struct seq **running; /* in queue order */
    struct seq **waiting; /* in queue order */
    size_t n_waiting, cap_waiting;
    uint32_t n_running;
    uint32_t slots_promised; /* for choices of running prompts that fork later */
    uint64_t waiting_tokens;
    uint64_t n_preempted;
    struct plan plan;
    struct seq **prefill; /* scratch of one step */
};

/* 0 or -ENOMEM. */
int sched_open(struct sched *s, const struct sched_limits *limits, struct kvcache *kv);
void sched_close(struct sched *s);

/* A new (or forked back) sequence waits. 0 or -ENOMEM. */
int sched_add(struct sched *s, struct seq *q);
/* Let moves between the tiers go on, before a step is planned; what has been loaded can run, and what lies below of
 * queued sequences is fetched in queue order. Every turn. True when something happened. */
bool sched_move(struct sched *s);
/* Plan the next step; NULL when nothing can run. Preempted sequences are back in the queue. */
const struct plan *sched_step(struct sched *s, uint64_t number);
/* Put a fork's child into a promised slot; its table is the parent's (kvcache_fork). */
void sched_adopt(struct sched *s, struct seq *parent, struct seq *child);
/* A token of q, running or preempted since, is known. */
void sched_accept(struct sched *s, struct seq *q, int32_t id);
/* Take a sequence out, wherever it is; its blocks are given back. */
void sched_remove(struct sched *s, struct seq *q);
/* Abort on a broken invariant. */
void sched_check(const struct sched *s);

#endif
