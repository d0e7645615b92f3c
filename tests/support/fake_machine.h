/* fake_machine - a machine whose model is a hash of everything its KV blocks hold, on a clock that it moves itself.
 *
 * Each row writes mix(id, position) into its KV slot and reads ALL slots from 0 to its own position through the block
 * table; its logits are a function of that sum. So a stale, shared, misplaced or missing block changes the tokens, and
 * fake_expect can say what must come out without any engine. forward adds cost to the fake clock: base + row x rows +
 * pair x pairs.
 */
#ifndef HEARTH_TESTS_FAKE_MACHINE_H
#define HEARTH_TESTS_FAKE_MACHINE_H

#include "engine/machine.h"

#define FAKE_VOCAB 97

struct fake_cost {
    uint64_t base_ns, row_ns, pair_ns;
    bool skim; /* read only the last 4 slots: for long contexts */
};

/* A machine with n_blocks blocks; c may set block_tokens, max_rows, max_seqs, step_ms, max_queued, ctx_tokens ... */
void fake_machine_open(struct machine *m, const struct engine_config *c, uint32_t n_blocks,
                       const struct fake_cost *cost);
void fake_machine_close(struct machine *m);

/* The token that follows ids[0..n) under these parameters (position n), with penalties from the ids themselves. */
int32_t fake_expect(const int32_t *ids, uint32_t n, uint32_t n_prompt, const struct engine_sampling *p,
                    uint32_t choice);

/* The clock that the machine moves; fake_clock_on puts it behind sys.now_ns. */
void fake_clock_on(void);
extern uint64_t fake_now_ns;

#endif
