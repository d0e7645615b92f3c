/* slow_tier - a tier in front of another: a test decides when reads start, and whether they fail. */
#ifndef HEARTH_TESTS_SLOW_TIER_H
#define HEARTH_TESTS_SLOW_TIER_H

#include "engine/kv/tier.h"

struct slow_tier {
    struct tier_head head;
    struct tier *inner; /* taken over */
    bool hold;          /* reads are taken, and not begun until they are let go */
    int fail;           /* -errno that reads end with; 0 = they are done */
    uint32_t n_held;
    struct tier_move *held, *failed;
};

/* In front of inner. Never fails. */
struct slow_tier *slow_tier_open(struct tier *inner);
/* Begin what was held, and hold no more. */
void slow_tier_let_go(struct slow_tier *s);

#endif
