/* engine - the boundary between text and tokens: what the front may ask of an engine and what comes back.
 *
 * Ints cross, text does not: prompts, stop ids and results are token ids. Behind this header lies a memory segment with
 * two rings and an arena (boundary.h); the engine runs over it as a thread of this process or as a fresh exec without
 * network. If the process dies, the front keeps its requests, starts a new one and resubmits prompt + tokens already
 * produced; the random stream and the penalties go on where they were, so the client sees the same tokens.
 *
 * All calls: one front thread (the HTTP loop), except where noted. What comes out of the segment is checked before it
 * is handed on: an event names a live request and choice, ids below the vocabulary, and never more than was asked for.
 */
#ifndef HEARTH_ENGINE_ENGINE_H
#define HEARTH_ENGINE_ENGINE_H

#include "engine/base/err.h"
#include "engine/base/hash.h"
#include "engine/base/str.h"
#include "engine/kv/format.h" /* enum kv_format names the KV formats in engine_config */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENGINE_LOGPROBS_MAX 20
#define ENGINE_STOP_IDS_MAX 64
#define ENGINE_N_MAX        128
#define ENGINE_BIAS_MAX     1024

/* Everything an engine needs to start. Plain data: it crosses exec inside the segment. Zero means "default" or "auto".
 */
struct engine_config {
    char model[4096];                  /* path of a model file, or "random:SHAPE[:SEED]" */
    char backend[16];                  /* auto, cpu, cuda */
    char isa[16];                      /* auto, ref, avx2, avx512 */
    uint32_t threads;                  /* compute threads; 0 = processors available */
    uint32_t ctx_tokens;               /* longest sequence; 0 = what the model was trained for and the pool holds */
    uint64_t kv_bytes;                 /* block pool; 0 = what fits 60 % of the memory available (88 % of a GPU's) */
    uint32_t block_tokens;             /* 16, 32, 64 or 128; 0 = 64 */
    uint32_t kv_format;                /* enum kv_format; 0 = kv16 */
    uint64_t dram_bytes;               /* KV tier in host memory; 0 = none, or with NVMe the least that serves it */
    char nvme_dirs[4096];              /* KV tier on drives: folders, one a drive, with commas between; empty = none */
    uint64_t nvme_bytes;               /* all of them together */
    uint64_t nvme_write_bytes_per_day; /* 0 = no bound */
    uint8_t load_always;               /* 1 = never compute what could be loaded; 0 = what costs all least */
    uint8_t io_threads;                /* I/O of the tier: 0 = io_uring, or 8 threads without it; n = n - 1 threads */
    uint32_t max_rows;                 /* token rows a step; 0 = 512 */
    uint32_t max_seqs;                 /* sequences that run at once; 0 = 256 */
    uint32_t max_queued;               /* requests waiting; 0 = 256 */
    uint64_t max_queued_tokens;        /* prompt tokens waiting; 0 = 4 x the pool */
    uint32_t step_ms;                  /* bound on the time of a step; 0 = 100 */
    uint8_t fp8_weights;               /* 1 = layers' matrices are kept in 8 bits (GPU), or no start */
    uint8_t deterministic;             /* 1 = row invariance (backend.h), or no start */
    uint8_t no_prefix_cache;           /* 1 = every prompt is computed whole */
    uint8_t log_level;                 /* enum log_level, of the engine process */
    uint8_t depth;                     /* steps queued at a time, 1 or 2; 0 = what the backend is worth (tests) */
    uint8_t check;                     /* 1 = walk all KV invariants after each step (tests) */
    uint8_t secret[32];                /* of this installation: seeds block keys */
};

/* What a configuration needs, from headers only: nothing is loaded (--plan, --check, the ready line). */
struct engine_plan {
    char arch[32], name[96];
    uint64_t weight_bytes, activation_bytes, kv_bytes;
    uint64_t memory_available;
    uint64_t kv_bytes_per_token;
    uint32_t ctx_train, ctx_tokens;
    uint32_t block_tokens, n_blocks;
    int32_t vocab;
    char backend[16]; /* cpu_ref, cpu_fast, cuda */
    char no_gpu[128]; /* why "auto" does without a GPU; empty otherwise */
};

/* Leaves nothing of a GPU in this process: a child asks it, unless the backend is "cpu". 0, or -errno with e: file
 * missing, damaged, architecture unknown, pool too small for one block, ... Any thread. With -ENOMEM, too, *out is
 * written: its n_blocks is 0 and the rest as far as it is known. */
int engine_make_plan(const struct engine_config *c, struct engine_plan *out, struct err *e);

/* Find the scales of kv8 for the model on the text ids[n], n >= 1, at most what it was trained for: it is prefilled
 * with 16-bit KV, and the largest magnitude of a layer, kv head and side decides (kv/scales.h). They go to a file
 * beside the model, whose path is written to path[size]. Loads the model in this process. 0 or -errno with e. */
int engine_calibrate(const struct engine_config *c, const int32_t *ids, uint32_t n, char *path, size_t size,
                     struct err *e);

struct engine_sampling {
    float temperature;                                   /* 0 = greedy */
    float top_p, min_p, repetition, presence, frequency; /* off: 1, 0, 1, 0, 0 */
    int32_t top_k;                                       /* 0 = off */
    int32_t n_logprobs;                                  /* -1 none, 0 chosen token only, up to ENGINE_LOGPROBS_MAX */
    uint64_t seed;
};

struct engine_bias {
    int32_t id;
    float bias;
};

struct engine_request {
    const int32_t *prompt; /* copied */
    size_t n_prompt;       /* >= 1 */
    uint32_t max_tokens;   /* >= 1; prompt + max_tokens <= ctx_tokens and <= the pool */
    uint32_t min_tokens;   /* stop ids can't come before */
    uint32_t n;            /* choices, 1 .. ENGINE_N_MAX */
    int32_t priority;      /* higher runs first; 0 is normal */
    struct engine_sampling sampling;
    const int32_t *stop_ids; /* end a choice; reported as finish "stop" with the id */
    uint32_t n_stop_ids;
    const struct engine_bias *bias;
    uint32_t n_bias;
    uint8_t salt[32]; /* tenant: blocks are shared only between equal salts */
    bool progress;    /* PROGRESS events wanted */
    bool no_cache;    /* do not look up prefixes (blocks are still published) */
    bool in_session;  /* a LEAF event is wanted */
    bool in_memory;   /* its blocks are not to be written to NVMe (unless another request has them, too) */
};

/* -- sessions: a session is a leaf and what its owner wishes for it. The engine knows neither names nor owners and
 * remembers nothing that it could not do without: every question carries the leaf. */

#define ENGINE_RUNGS 12

/* Where a conversation ends: the key of its last full block, and those 1, 2, 4, ... blocks before, from which the chain
 * is found again when its end has been forgotten. Made by the engine, kept by the front, which looks at n_* only. */
struct engine_leaf {
    uint64_t request;  /* that left it; 0: one of an earlier daemon */
    uint32_t n_tokens; /* of the conversation, prompt and answer */
    uint32_t n_blocks; /* full ones of them */
    struct hash_key rungs[ENGINE_RUNGS];
};

enum engine_verb {
    ENGINE_LOOK = 1, /* where its blocks are */
    ENGINE_PARK,     /* write all to the lowest tier; the answer comes when that is durable. KEEP for ENGINE_PARK_S */
    ENGINE_BRING,    /* into the pool: the answer comes at once and says how long it will take */
    ENGINE_KEEP      /* give up other blocks first, for keep_us from now; not answered */
};

struct engine_question {
    enum engine_verb verb;
    struct engine_leaf leaf;
    uint8_t salt[32];    /* of the request that left the leaf */
    uint64_t keep_us[3]; /* KEEP: by tier (HBM: not used); 0: no longer */
};

enum engine_answer {
    ENGINE_ANSWERED = 1,
    ENGINE_NO_TIER, /* PARK: there is none below the pool */
    ENGINE_NO_ROOM, /* PARK: the tier can't hold so many blocks */
    ENGINE_LATE,    /* PARK: not durable yet after ENGINE_PARK_S; what was written stays */
    ENGINE_BUSY,    /* too many questions are open */
    ENGINE_NO_MEMORY,
    ENGINE_GONE /* the engine is dead for good: the front says so, never an engine */
};

#define ENGINE_PARK_S    60
#define ENGINE_QUESTIONS 64 /* open at a time */

/* Of the leaf's n_blocks: how many each tier has (one may be in all three), how many none has. */
struct engine_whereabouts {
    enum engine_answer answer;
    uint32_t in[3], missing;
    uint32_t parked_on;  /* PARK: 1 DRAM, 2 NVMe */
    uint64_t predict_us; /* BRING: until it is there; 0: it is */
};

enum engine_event_type {
    ENGINE_TOKENS = 1,
    ENGINE_PROGRESS,
    ENGINE_CHOICE_DONE,
    ENGINE_DONE,
    ENGINE_FAILED,
    ENGINE_LEAF, /* of a request in a session that was computed: comes before its DONE */
    ENGINE_SAYS  /* answer to engine_ask; id: the question */
};

/* Why prompt tokens had to be computed. */
enum engine_miss {
    ENGINE_MISS_NEW,        /* nothing has been computed that begins so */
    ENGINE_MISS_EVICTED,    /* they were cached, and had to make room */
    ENGINE_MISS_FORMAT,     /* they lie on a drive under another KV format */
    ENGINE_MISS_BAD,        /* their bytes were not what had been written */
    ENGINE_MISS_NOT_LOADED, /* they lay below the pool: computing was to be sooner, or loading came late or failed */
    ENGINE_MISS_PARTIAL,    /* behind the last whole block that is looked up */
    ENGINE_MISS_OFF,        /* the cache was not to be used */
    ENGINE_MISSES
};

enum engine_finish { ENGINE_FINISH_STOP = 1, ENGINE_FINISH_LENGTH, ENGINE_FINISH_CANCELLED };

/* Why a request failed (ENGINE_FAILED). */
enum engine_failure {
    ENGINE_FAIL_QUEUE_FULL = 1,
    ENGINE_FAIL_TOO_LONG,
    ENGINE_FAIL_INTERNAL,
    ENGINE_FAIL_DIED /* two engines died with it: the front says so, never an engine */
};

struct engine_logprob {
    float logprob; /* of the token at the same index */
    int32_t n_top;
    struct {
        int32_t id;
        float logprob;
    } top[ENGINE_LOGPROBS_MAX];
};

#define ENGINE_EVENT_TOKENS 64

struct engine_event {
    enum engine_event_type type;
    uint64_t id; /* of the request */
    uint32_t choice;
    uint32_t n; /* TOKENS: how many */
    int32_t tokens[ENGINE_EVENT_TOKENS];
    struct engine_logprob *logprobs; /* TOKENS of a request with logprobs: [n], valid until the next poll; else NULL */
    uint32_t done, total, cached;    /* PROGRESS, DONE: prompt tokens computed, in all, found in the cache */
    uint32_t cached_in[3];           /* DONE: the last by where they lay: HBM (the pool), DRAM, NVMe */
    uint32_t missed[ENGINE_MISSES];  /* DONE: the others by why */
    uint32_t divergent;              /* DONE: the first that no prompt before had in its place; UINT32_MAX: none */
    enum engine_finish finish;       /* CHOICE_DONE */
    int32_t stop_id;                 /* CHOICE_DONE by a stop id: the id (it is not among the tokens); else -1 */
    enum engine_failure failure;     /* FAILED */
    char text[256];                  /* FAILED: sentence for the client */
    uint64_t queue_us, load_us, prefill_us, decode_us; /* DONE; load: until what lay below the pool was there */
    struct engine_leaf leaf;                           /* LEAF */
    struct engine_whereabouts says;                    /* SAYS */
};

enum engine_state { ENGINE_STARTING, ENGINE_LOADING, ENGINE_READY, ENGINE_DEAD };

/* KV tiers below the pool, for /metrics; all zero without any. A flow is in direction up (towards the pool) or down. */
struct engine_flow {
    uint64_t moves, bytes, us, failed, queued; /* us: times of all moves together; queued: under way or waiting now */
};
struct engine_tiers {
    uint64_t cached_tokens[3]; /* prompt tokens found, by where they lay: HBM, DRAM, NVMe */
    uint64_t verify_failed[3]; /* blocks whose seal did not fit, by where they lay */
    uint64_t block_bytes;      /* of a place */
    uint64_t dram_blocks, dram_used, nvme_blocks, nvme_used;
    struct engine_flow hbm_up, hbm_down, nvme_up, nvme_down; /* DRAM -> HBM, HBM -> DRAM, NVMe -> DRAM, DRAM -> NVMe */
    uint64_t late;                                           /* loads given up at their deadline */
    uint64_t evicted_dram;                                   /* copies given up for room that NVMe has, too */
    uint64_t lost_dram, lost_nvme;                           /* the only copies below the pool */
    uint64_t not_stored;                                     /* full blocks that found no room in DRAM */
    uint64_t swapped, dropped; /* full blocks of preempted sequences: a tier has them, or they are computed again */
    uint64_t refused_bytes, budget_bytes, bytes_per_day; /* write budget of NVMe: kept off, left now, a day (0: none) */
};

/* Numbers for /metrics, /ready and the ready line; a snapshot. */
struct engine_stats {
    enum engine_state state;
    char error[ERR_TEXT_MAX]; /* DEAD at start: why */
    char device[96];          /* "cpu_fast AVX2, 2 threads" */
    uint32_t load_percent;
    uint32_t restarts; /* engines started after the first */
    /* as the engine said when it was READY; 0 before. They stay while a new engine loads. */
    uint32_t ctx_tokens, block_tokens;
    int32_t vocab;
    uint64_t n_blocks, used_blocks, cached_blocks; /* used: held by sequences; cached: idle, reusable */
    uint64_t kv_bytes;
    uint64_t running, waiting, waiting_tokens;
    uint64_t alive; /* turns of the engine's loop: grows while it lives */
    uint64_t steps, step_us, rows;
    uint64_t prompt_tokens, cached_tokens, generated_tokens;
    uint64_t preemptions, evictions, late_steps; /* late: took more than 2 x step_ms */
    struct engine_tiers tiers;
};

enum engine_mode { ENGINE_MODE_THREAD, ENGINE_MODE_EXEC };

struct engine; /* the front's handle */

/* Start an engine. Returns at once: loading goes on behind (engine_stats tells). In EXEC mode `program` is the binary
 * to start with "--engine-child FD FD FD"; NULL = /proc/self/exe. 0, or -errno with e. */
int engine_open(struct engine **out, const struct engine_config *c, enum engine_mode mode, const char *program,
                struct err *e);
/* Stop and free; requests that live are dropped without events. NULL is fine. */
void engine_close(struct engine *g);

/* Readable when engine_poll may have something (also when the engine process has died). */
int engine_fd(const struct engine *g);

/* Queue a request: *id names it in events. 0, or -errno with e: -EAGAIN (segment full: answer 429), -EINVAL (a bound of
 * engine_request), -ENOMEM, -EPIPE (engine dead for good). */
int engine_submit(struct engine *g, const struct engine_request *r, uint64_t *id, struct err *e);
/* Stop a request; its DONE still comes (finish CANCELLED), unless it was already on its way. Unknown id: nothing. */
void engine_cancel(struct engine *g, uint64_t id);
/* Stop one choice of a request (a stop string was seen): CHOICE_DONE follows. */
void engine_cancel_choice(struct engine *g, uint64_t id, uint32_t choice);
/* A request with logprobs may run `tokens` ahead of the last credit per choice (initially ENGINE_CREDIT): slow readers
 * pause their own request only. `tokens` is the count of tokens taken so far. */
#define ENGINE_CREDIT 1024
void engine_credit(struct engine *g, uint64_t id, uint32_t choice, uint32_t tokens);

/* Ask about a session: *id names the answer, which comes once (SAYS), also over the death of an engine. 0; -EAGAIN: too
 * many questions are open, or the ring is full; -ENOMEM; -EPIPE. */
int engine_ask(struct engine *g, const struct engine_question *q, uint64_t *id, struct err *e);

/* Next event: 1, or 0 when there is none. Call until 0 after engine_fd was readable. A dead engine is restarted here
 * and live requests are resubmitted, but those that a second engine died with: they FAIL, so that a request that kills
 * engines can't take the server with it. After 3 restarts within 60 s it stays dead and every live request FAILs. */
int engine_poll(struct engine *g, struct engine_event *ev);

void engine_get_stats(struct engine *g, struct engine_stats *out);
/* Process id of an EXEC engine, 0 otherwise (tests, logs). */
int engine_pid(const struct engine *g);

/* Look through a folder of kv.nvme.dirs: every entry, and every payload against its seal. `report` gets a line a file.
 * 0: all is well; 1: something is damaged (a daemon computes that again); -EBUSY: a daemon has it; other -errno. */
int engine_kv_check(const char *dir, struct str *report, struct err *e);
/* What the drive behind a folder writes and reads, in bytes a second: 64 MiB in a file that nobody sees, past the page
 * cache where that goes. 0 or -errno with e. */
int engine_kv_speed(const char *dir, uint64_t *write_bps, uint64_t *read_bps, struct err *e);
/* Bytes of a place in the tiers below the pool, for a plan. */
uint64_t engine_kv_slot_bytes(const struct engine_plan *p);
/* Host memory that they take: blocks, and the index of what is on drives. */
uint64_t engine_kv_host_bytes(const struct engine_config *c, const struct engine_plan *p);
/* Overwrite and remove all that a folder of kv.nvme.dirs holds, its secret included. 0 or -errno with e. */
int engine_kv_purge(const char *dir, struct str *report, struct err *e);

/* main() of the child: argv after "--engine-child". Returns the exit status. */
int engine_child_main(int argc, char **argv);

#endif
