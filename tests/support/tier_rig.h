/* tier_rig - an engine over the fake machine with tiers below its pool, asked one thing at a time; each answer is held
 * against what its ids determine. Folders under TMPDIR, removed at the end of the process that made them. */
#ifndef HEARTH_TESTS_TIER_RIG_H
#define HEARTH_TESTS_TIER_RIG_H

#include "engine/kv/tier_nvme.h"
#include "engine/kv/tiers_int.h"
#include "tests/support/fake_machine.h"
#include "tests/support/hand_engine.h"

#define RIG_PROMPT 100 /* tokens: 6 blocks of 16 and a rest */
#define RIG_OUT    20
#define RIG_CACHED 96 /* of a prompt, at most */

struct rig_opts {
    uint32_t n_blocks;   /* of the pool; 0 = 8: one prompt and its answer */
    uint32_t dram_slots; /* 0 = 16 */
    const char *dirs;    /* NULL = no NVMe */
    uint32_t nvme_slots; /* 0 = 64 */
    uint8_t io_threads;  /* 0 = 1: done at submit */
    uint32_t block_tokens;
    uint32_t format; /* as blocks are called; their bytes stay the same. 0 = kv32 */
    uint64_t bytes_per_day;
    uint8_t model, secret; /* first byte of the fingerprint; of a secret that is made */
    const char *numerics;
    const char *device; /* not NULL: of a backend that has one, in deterministic mode */
};

struct rig {
    struct rig_opts o;
    struct machine m;
    struct hand_engine h;
    uint8_t salt; /* of requests */
};

/* A new folder; its path stays valid. */
const char *rig_dir(void);

void rig_open(struct rig *r, const struct rig_opts *o); /* asserts success */
/* The same, but an engine that does not start is an answer: 0 or -errno with e. */
int rig_try(struct rig *r, const struct rig_opts *o, struct err *e);
void rig_close(struct rig *r);

/* The prompt that a number stands for. */
void rig_prompt(int32_t *ids, int32_t number);
/* Submit it; its id. */
uint64_t rig_submit(struct rig *r, int32_t number);
/* Turn until it is answered; checks the answer. Returns the prompt tokens that were not computed. */
uint32_t rig_finish(struct rig *r, int32_t number, uint64_t id);
/* Both, and then until nothing moves any more. */
uint32_t rig_ask(struct rig *r, int32_t number);
void rig_settle(struct rig *r);

struct tiers *rig_tiers(struct rig *r);
struct tiers_stats rig_stats(struct rig *r);

#endif
