/* sim_tier - a tier that moves nothing but takes time: one link that serves moves one after the other.
 *
 * Time is sys.now_ns, which the caller has replaced by a clock of its own. A move is done when it is reaped at or after
 * its end.
 */
#ifndef HEARTH_TESTS_SIM_TIER_H
#define HEARTH_TESTS_SIM_TIER_H

#include "engine/kv/tier.h"

struct sim_tier_opts {
    int32_t n_slots;
    bool nvme; /* has slots and entries of its own */
    uint64_t block_bytes;
    uint64_t read_bps,
        write_bps; /* of a gpu tier: down, up; each direction is a link of its own. An nvme tier has one */
    uint64_t latency_ns;
    uint32_t depth; /* moves under way */
};

/* 0 or -ENOMEM. */
int sim_tier_open(struct tier **out, const struct sim_tier_opts *o);
/* When the next move ends; UINT64_MAX: none is under way. */
uint64_t sim_tier_next(const struct tier *t);

#endif
