/* batch - from a plan to the arrays of a step. Everything is allocated at open. Engine thread. */
#ifndef HEARTH_ENGINE_BATCH_H
#define HEARTH_ENGINE_BATCH_H

#include "engine/compute/sample.h"
#include "engine/compute/step.h"
#include "engine/plan.h"

struct batch; /* the arrays behind a step */

/* Room for steps of max_rows rows and max_seqs sequences with at most max_blocks blocks each. 0 or -ENOMEM. */
int batch_open(struct batch **out, uint32_t max_rows, uint32_t max_seqs, uint32_t max_blocks);
void batch_close(struct batch *b); /* NULL is fine */

/* Fill the step and the draws of plan p; slots[slot] are the sequences. Valid until the next build. */
const struct step *batch_build(struct batch *b, const struct plan *p, struct seq *const *slots);
/* Parameters of the n_draws draws, in the order of the step's logits rows, and room for their results. */
const struct sample_row *batch_draws(const struct batch *b);
struct sample_out *batch_results(struct batch *b);

#endif
