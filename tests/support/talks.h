/* talks - conversations with a whole engine over a fake model, on a fake clock, with tiers in a folder of their own. */
#ifndef HEARTH_TESTS_TALKS_H
#define HEARTH_TESTS_TALKS_H

#include "engine/base/hash.h"
#include "engine/kvcache.h"
#include "tests/support/fake_machine.h"
#include "tests/support/hand_engine.h"

#define BT         16
#define N_TALKS    12
#define IDS_MAX    640
#define MAX_BLOCKS (IDS_MAX / BT)

struct talk { /* a conversation and where it ended */
    int32_t ids[IDS_MAX];
    uint32_t n;
    struct engine_leaf leaf;
};

struct talks {
    struct machine m;
    struct hand_engine h;
    char dir[64];
    uint64_t rng;
    struct talk talks[N_TALKS];
};

/* Slots of 4 KiB; 0 dram_slots or nvme_slots: without that tier. */
void talks_open(struct talks *r, uint32_t n_blocks, uint32_t dram_slots, uint32_t nvme_slots);
void talks_close(struct talks *r);
struct kvcache *talks_kv(struct talks *r);
/* Turn until nothing moves. */
void talks_settle(struct talks *r);
/* More is said and answered: up to n new ids, and n_out of the engine's, each held against what the ids determine. */
void talks_say(struct talks *r, struct talk *t, uint32_t n, uint32_t n_out, bool in_memory);
/* The engine's answer to a question about a leaf. */
struct engine_whereabouts talks_ask(struct talks *r, const struct engine_leaf *leaf, enum engine_verb verb);
struct hash_key talks_root(const struct talks *r);
/* Where each block is, looked up with its ids. */
struct engine_whereabouts talks_truth(struct talks *r, const struct talk *t);
/* Open with so many blocks in the pool; a conversation of n ids and an answer sleeps on the drive, all of it. */
struct talk *talks_asleep(struct talks *r, uint32_t n_blocks, uint32_t n, uint32_t n_out);

#endif
