/* tiers_int - what the files of the tiers share, private to them: tiers.c (asked from outside), tiers_items.c (contents
 * by their keys, and the queues of writes), tiers_places.c (their copies), tiers_found.c (what is there at open),
 * move.c (what is under way).
 *
 * An item is one content that has a copy below the pool or is about to get one. Its copies:
 *
 *     DRAM   none -> filling (from HBM by a store, from NVMe by a read) -> ready -> none
 *     NVMe   none -> writing -> ready -> none
 *
 * The entry of a content lies with its slot, so an item is small: DRAM slots have an array of entries here, NVMe slots
 * have theirs in the tier's index. An item with neither copy nor move under way does not exist.
 *
 * A DRAM slot can't be given up while it fills (evict does not know it yet) and while pins > 0 (held): one pin for each
 * move from it, each load that waits for it and each fetch. An NVMe slot is held by reads from it and by loads.
 */
#ifndef HEARTH_KV_TIERS_INT_H
#define HEARTH_KV_TIERS_INT_H

#include "engine/kv/admit.h"
#include "engine/kv/tier_dram.h"
#include "engine/kv/tiers.h"

#include <stddef.h>

#define NONE (-1)

enum copy_state { COPY_NONE, COPY_FILLING, COPY_READY };

struct item {
    int32_t dram, nvme;       /* slots, or NONE */
    uint32_t depth;           /* which block of its chain */
    uint8_t in_dram, in_nvme; /* enum copy_state */
    bool used;                /* in the table */
    bool queued, parked;      /* stands in a queue of writes; by wish */
    bool by_store;            /* the DRAM copy being filled comes from HBM */
    bool bad;                 /* its bytes did not verify: gone when the last pin is */
    uint32_t pins;            /* on the DRAM copy */
    uint32_t nvme_pins;
    uint32_t generation; /* of the item: a ticket of an older one is void */
    int32_t load;        /* under way, or NONE */
    int32_t prev, next;  /* in its queue of writes */
    struct tiers_worth worth;
    uint64_t keep_us[TIER_COUNT]; /* a session's wish; 0 = none */
    uint64_t used_us;
};

struct link {
    uint32_t tag; /* of the key */
    int32_t next; /* item of the same bucket, or of the free list */
};

struct queue { /* of items to write to NVMe */
    int32_t first, last;
    uint64_t n;
};

/* Something under way: a read or write of NVMe, or a store from HBM. */
struct job {
    struct tier_move move;
    struct kv_entry entry; /* NVMe writes: as it goes to the index */
    int32_t item, block;   /* block: of a store */
    struct job *next;      /* free list */
};

enum load_state { LOAD_FREE, LOAD_WAITS, LOAD_COPIES };

struct load {
    struct tier_move move;
    uint8_t state; /* enum load_state */
    enum tier_id from;
    int32_t item, block;
    uint64_t after, due_ns, start_ns;
    uint32_t turn;      /* of those that a drive is read for; 0: its deadline depends on none */
    double read_ns;     /* what a read was thought to take then */
    int32_t prev, next; /* waiting loads in order, or the free list */
};

#define MAX_JOBS 256 /* NVMe moves under way */

struct tiers {
    struct tiers_opts o;
    uint64_t slot_bytes;
    struct tier *gpu, *nvme; /* nvme: NULL = none */
    struct tier_dram dram;
    struct evict *in_dram, *in_nvme;
    struct admit admit;
    /* contents */
    struct item *items;
    int32_t *buckets;
    struct link *links; /* [items]: most look-ups touch nothing else */
    uint32_t mask, n_items, n_used;
    uint32_t n_touched;             /* items that have ever been used: memory behind them is not */
    int32_t free_item;              /* of those */
    int32_t *dram_item, *nvme_item; /* slot -> item, or NONE */
    struct kv_entry *dram_entries;  /* [dram slots] */
    struct queue to_write, to_park;
    /* under way */
    struct job *jobs, *stores, *free_job, *free_store;
    uint32_t n_reads, n_writes, n_stores;
    struct load *loads;
    int32_t free_load, first_load, last_load; /* those that wait, in order */
    uint32_t n_loads, n_wait_nvme;            /* n_wait_nvme: wait for a read that is not done */
    uint64_t finished;                        /* last step that has */
    uint64_t generation;                      /* of entries */
    uint64_t writes_stop_until_ns;            /* after failures */
    uint32_t write_failures;
    struct tiers_outcome *done;
    uint32_t n_done;
    double read_ns, copy_ns; /* a block's share of the time while reads (copies up) are under way: smoothed */
    uint64_t last_read_ns;   /* when the last read came */
    uint32_t n_fetched;      /* pins by fetches */
    bool starved;            /* tiers_starved */
    struct tiers_stats stats;
};

static inline int32_t tiers_id(const struct tiers *t, const struct item *i)
{
    return (int32_t)(i - t->items);
}

/* -- tiers_items.c */
/* Those whose key begins like this one, one after the other; NULL: no more. The caller compares what matters. */
struct item *tiers_first(const struct tiers *t, const struct hash_key *key);
struct item *tiers_next(const struct tiers *t, const struct item *i);
/* The key will be looked up. What that touches is fetched from memory meanwhile, one step after the other, since each
 * tells where the next one lies: 0 bucket, 1 link, 2 item, 3 its NVMe slot in evict. Other work lies between them. */
#define TIERS_STEPS 4
void tiers_expect(const struct tiers *t, const struct hash_key *key, int step);
/* Of exactly this content; NULL: none. */
struct item *tiers_item(const struct tiers *t, const struct kv_ident *who);
/* A new item without copies for this key, block `depth` of its chain; NULL: none is free. Enter it by giving it a copy
 * at once. */
struct item *tiers_add(struct tiers *t, const struct hash_key *key, uint32_t depth);
/* It has no copy any more. */
void tiers_remove(struct tiers *t, struct item *i, const struct hash_key *key);
/* Is it written below as soon as it is there (no budget to rank it by, and nobody against it)? */
bool tiers_writes_at_once(const struct tiers *t, const struct item *i);
void tiers_enqueue(struct tiers *t, struct item *i, bool parked);
void tiers_dequeue(struct tiers *t, struct item *i);

/* -- tiers_places.c */
const struct kv_entry *tiers_entry(const struct tiers *t, const struct item *i);
/* A DRAM slot, giving up another content if need be; NONE: all are held. */
int32_t tiers_take_dram(struct tiers *t);
/* An NVMe slot for the item. */
int32_t tiers_take_nvme(struct tiers *t, const struct item *i);
/* Give up a copy that is ready. */
void tiers_drop_dram(struct tiers *t, struct item *i);
void tiers_drop_nvme(struct tiers *t, struct item *i);
/* The copy in `slot` begins to fill; it is held. tiers_dram_ready: it is there; held while pinned. */
void tiers_dram_fills(struct tiers *t, struct item *i, int32_t slot, const struct kv_entry *e);
void tiers_dram_ready(struct tiers *t, struct item *i);
void tiers_dram_failed(struct tiers *t, struct item *i);
void tiers_pin(struct tiers *t, struct item *i);
void tiers_unpin(struct tiers *t, struct item *i); /* the item may be gone after it */
void tiers_pin_nvme(struct tiers *t, struct item *i);
void tiers_unpin_nvme(struct tiers *t, struct item *i);
/* Its bytes are not what they should be: no copy of it is used again. */
void tiers_retire(struct tiers *t, struct item *i);
/* The item of the block before, as far as key and depth tell: for the order of giving up, where a mistake costs little.
 * NULL: it is the first, or that one is not known. */
struct item *tiers_parent(const struct tiers *t, const struct kv_entry *e);
/* The copy is there; its parent as above. held: the caller is to release its slot in evict. */
void tiers_nvme_ready(struct tiers *t, struct item *i, const struct item *parent);
void tiers_nvme_held(struct tiers *t, struct item *i, const struct item *parent);

/* -- tiers_found.c */
/* 0 or -ENOMEM. */
int tiers_find_again(struct tiers *t);
/* For the next entry that is written: more than all before, and at least the time in microseconds. */
uint64_t tiers_generation(struct tiers *t);

/* -- move.c */
int moves_open(struct tiers *t);
void moves_close(struct tiers *t);

#endif
