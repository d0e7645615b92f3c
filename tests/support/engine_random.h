/* engine_random - random requests through the whole engine over the fake machine, each answer checked against what its
 * ids determine. Shared by the tests that vary the pool, the cancels and the width of the keys. */
#ifndef HEARTH_TESTS_ENGINE_RANDOM_H
#define HEARTH_TESTS_ENGINE_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

struct engine_random {
    uint64_t seed;
    uint32_t n_blocks, n_requests;
    bool cancels;          /* some requests are cancelled on the way */
    bool stops;            /* some requests have stop ids */
    uint32_t depth;        /* steps queued at a time; 0 = 1 */
    uint32_t vocab;        /* prompts use ids below this: few ids make many equal prefixes. 0 = all */
    uint32_t block_tokens; /* 0 = 16 */
    uint32_t dram_slots;   /* a tier of so many blocks below the pool; everything there is loaded */
    const char *nvme_dirs; /* and one below that, in these folders, */
    uint32_t nvme_slots;   /* of so many blocks */
    uint8_t io_threads;    /* as in engine_config */
    /* floors: below them the test proves nothing */
    uint32_t least_cached, least_preempted, least_dram, least_nvme; /* tokens */
};

/* Aborts the Check test on a wrong token, a leak or a floor that is not reached. */
void engine_random_run(const struct engine_random *r);

#endif
