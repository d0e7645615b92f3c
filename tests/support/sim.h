/* sim - the scheduler, the KV cache and its tiers on a trace, without a model and without waiting: a day in seconds.
 *
 * What runs is the engine's own sched, kvcache, prefix, pool, tiers, evict and returns. Forward passes and moves take
 * time by a cost model (Llama-3-8B in bf16 on one H100, a 14 GB/s drive) on a clock that the simulation moves. Same
 * trace and options, same results, on any machine.
 *
 * A trace names its prompts in ids of 512 tokens, so that is how they are counted: each id is 8 blocks of 64 tokens,
 * also the last one of a prompt, which stands for what is left; and the last token of a prompt is never a hit.
 * Generated tokens have no names: they take room while they are generated and are not kept.
 */
#ifndef HEARTH_TESTS_SIM_H
#define HEARTH_TESTS_SIM_H

#include "engine/kv/tiers.h"
#include "tests/support/mooncake.h"

struct sim_opts {
    uint64_t tokens[TIER_COUNT]; /* room on each tier; 0 = no such tier (HBM always is: what one request needs) */
    bool lru;                    /* no model of returns: plain LRU everywhere */
    double write_share_bps;      /* bytes a second that may be written to NVMe; 0 = all */
    uint32_t row_tokens;         /* tokens that move as one: 1, or up to 8 for speed (a block is then 64 x as many) */
    bool by_cost;                /* load or compute by predicted time; else load whatever is found */
    bool check;                  /* every invariant, now and then */
};

struct sim_result {
    uint64_t requests, input_tokens, hit_tokens, tier_tokens[TIER_COUNT];
    uint64_t up_bytes[TIER_COUNT], down_bytes[TIER_COUNT]; /* moved from a tier to HBM's side, and to a tier */
    uint64_t steps, preempted;
    double seconds;                      /* from the first arrival to the last token */
    double saved_seconds;                /* of computing, by hits */
    double ttft_p50, ttft_p90, ttft_p99; /* seconds */
    struct tiers_stats tiers;
};

/* 0, or -errno with e. Replaces sys.now_ns. */
int sim_run(const struct sim_opts *o, const struct mooncake *trace, struct sim_result *out, struct err *e);

/* The budget (bytes a second) with which at most `bytes` are written over the whole trace. */
double sim_budget(const struct mooncake *trace, double bytes);

static inline double sim_hit_rate(const struct sim_result *r)
{
    return (double)r->hit_tokens / (double)r->input_tokens;
}

#endif
