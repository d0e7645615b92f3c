/* tiering - the tiers below the pool, made from a machine's configuration, and their numbers for the front. Engine
 * thread. */
#ifndef HEARTH_ENGINE_TIERING_H
#define HEARTH_ENGINE_TIERING_H

#include "engine/boundary.h"
#include "engine/kvcache.h"
#include "engine/machine.h"

/* Bytes of host memory for blocks that a configuration asks for: with NVMe at least what serves it. */
uint64_t tiering_dram_bytes(const struct engine_config *c, uint64_t block_bytes);

/* Open what m's configuration asks for and attach it to c; nothing asked for is fine. `bell` is rung when something
 * has moved (kv/aio.h). With NVMe the installation's secret comes from there, so that a later start
 * finds the same keys: m->config.secret is replaced. 0 or -errno with e. */
int tiering_open(struct kvcache *c, struct machine *m, int bell, struct err *e);

/* Before the end: let what is under way finish, and write to NVMe what is not there yet, as far as 3 s go. No sequence
 * lives any more. */
void tiering_drain(struct kvcache *c, int bell);

/* Write the counters into the status. */
void tiering_publish(const struct kvcache *c, struct boundary_status *st);

#endif
