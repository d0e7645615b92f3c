/* cpu_fast_pool - the fixed threads of cpu_fast: one job at a time, cut into pieces that threads claim.
 *
 * The caller works too, so a pool of n threads has n - 1 workers. Which thread runs which piece is decided by speed
 * alone, so a job must give the same bytes whoever runs a piece. Workers spin for some microseconds after a job (the
 * next op of the same forward pass comes at once) and then sleep on a futex, so an idle server takes no CPU. One caller
 * at a time.
 */
#ifndef HEARTH_COMPUTE_CPU_FAST_POOL_H
#define HEARTH_COMPUTE_CPU_FAST_POOL_H

#include "engine/base/err.h"

#include <stdint.h>

struct fast_pool;

/* One piece of a job, 0 .. n_pieces-1, run by thread 0 .. threads-1 (0 is the caller). */
typedef void fast_piece_fn(void *ctx, int32_t piece, int32_t thread);

/* Start threads - 1 workers. 0, -ENOMEM, or -EAGAIN where the system gives no thread. */
int fast_pool_open(struct fast_pool **out, int32_t threads, struct err *e);
void fast_pool_close(struct fast_pool *p); /* joins; NULL is fine */

/* Run fn for n pieces and return when all are done. What the pieces wrote is visible then. */
void fast_pool_run(struct fast_pool *p, fast_piece_fn *fn, void *ctx, int32_t n_pieces);

int32_t fast_pool_threads(const struct fast_pool *p);

#endif
