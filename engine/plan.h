/* plan - what one step does, as plain data: the scheduler's answer, testable without a model.
 *
 * A run is a stretch of one sequence's positions to compute; sequences are named by slot. One that has holes has
 * several runs, in the order of their positions, one behind the other. A cluster's rank 0 can send the whole struct to
 * the others. Arrays are owned by the scheduler and valid until the next sched_step.
 */
#ifndef HEARTH_ENGINE_PLAN_H
#define HEARTH_ENGINE_PLAN_H

#include "engine/kvcache.h"

#include <stdint.h>

struct plan_run {
    uint32_t slot;
    uint32_t n_rows;
    uint64_t begin;   /* first position; rows are begin .. begin + n_rows - 1 */
    uint32_t n_draws; /* tokens to choose after the last row: 0 (prefill goes on), 1, or n (the prompt forks) */
};

struct plan {
    uint64_t step;
    uint32_t n_runs, n_copies, n_rows, n_draws;
    uint32_t n_decode; /* runs of one row that continue a generation */
    uint64_t pairs;    /* (row, key) pairs of attention: the cost model's third term */
    uint64_t predicted_ns;
    struct plan_run *runs;       /* decode runs first, then prefill */
    struct kvcache_copy *copies; /* blocks to copy before anything is computed */
};

#endif
