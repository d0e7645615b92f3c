/* boundary - the memory segment between front and engine: what is where, and every message that crosses.
 *
 * Layout: header | in ring | out ring | arena. No pointers; everything is an offset from the start, so both sides map
 * it where they like. The front makes it (memfd) and writes the header; the engine only reads the header's constant
 * part and writes `status`. Who frees what: arena extents are the FRONT's: it allocates one per submit and frees it
 * after the request's last message, when the engine (which copied all it needs when it read SUBMIT) can't look at it
 * any more. Results travel inside the out ring's messages.
 *
 * Both directions distrust: the engine checks offsets against the arena, the front checks everything (engine.h).
 * Every message begins with struct msg_head; a version or size that is not known is an error, never a guess.
 */
#ifndef HEARTH_ENGINE_BOUNDARY_H
#define HEARTH_ENGINE_BOUNDARY_H

#include "engine/base/err.h"
#include "engine/base/ring.h"
#include "engine/engine.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define BOUNDARY_MAGIC   0x6874726165483031u /* "10Hearth" */
#define BOUNDARY_VERSION 1
#define MSG_VERSION      2

/* Counters the engine writes and the front reads at any time; each is one atomic, the set is no snapshot. */
struct boundary_status {
    _Atomic uint32_t state; /* enum engine_state */
    _Atomic uint32_t load_permille;
    _Atomic uint64_t alive;            /* grows with every turn of the loop */
    uint32_t ctx_tokens, block_tokens; /* these and down to error: written before state leaves LOADING */
    int32_t vocab;
    uint32_t n_blocks;
    uint64_t kv_bytes;
    char device[96];
    char error[ERR_TEXT_MAX];
    _Atomic uint64_t used_blocks, cached_blocks;
    _Atomic uint64_t running, waiting, waiting_tokens;
    _Atomic uint64_t steps, step_us, rows;
    _Atomic uint64_t prompt_tokens, cached_tokens, generated_tokens;
    _Atomic uint64_t preemptions, evictions, late_steps;
    _Atomic uint64_t tiers[sizeof(struct engine_tiers) / 8]; /* its fields in order */
};

struct boundary_head {
    uint64_t magic;
    uint32_t version, head_bytes;
    uint64_t total_bytes;
    uint64_t in_at, in_cap, out_at, out_cap, arena_at, arena_bytes;
    uint32_t generation; /* of this engine: 1, 2, ... */
    uint32_t pad;
    struct engine_config config;
    struct boundary_status status;
};

/* One side's view. */
struct boundary {
    struct boundary_head *head;
    struct ring in, out; /* in: front -> engine */
    uint8_t *arena;
    uint64_t arena_bytes;
    size_t mapped;
    int memfd, wake_engine, wake_front; /* eventfds; the front owns all three */
};

struct boundary_sizes {
    uint64_t in_cap, out_cap; /* powers of two */
    uint64_t arena_bytes;
};

extern const struct boundary_sizes boundary_default_sizes;

/* Front: make a segment with its descriptors. 0 or -errno with e. */
int boundary_create(struct boundary *b, const struct engine_config *c, uint32_t generation,
                    const struct boundary_sizes *sizes, struct err *e);
/* Engine: map descriptors that came over exec; checks the header. Takes ownership of the descriptors. */
int boundary_attach(struct boundary *b, int memfd, int wake_engine, int wake_front, struct err *e);
/* Unmap and close what this side owns. */
void boundary_close(struct boundary *b);

/* Wake the other side (write its eventfd); clear one's own after waking. */
void boundary_wake(int fd);
void boundary_clear(int fd);

/* The engine's side over a mapped boundary: load, run until QUIT, clean up (loop.c). 0, or -errno with the sentence in
 * the status. */
int engine_main(struct boundary *b);

/* -- messages */
enum msg_type {
    MSG_SUBMIT = 1,
    MSG_CANCEL,
    MSG_CREDIT,
    MSG_QUIT,
    MSG_ASK, /* in */
    MSG_TOKENS = 16,
    MSG_PROGRESS,
    MSG_CHOICE_DONE,
    MSG_DONE,
    MSG_FAILED,
    MSG_LEAF,
    MSG_SAYS /* out */
};

struct msg_head {
    uint32_t size; /* of the whole message */
    uint16_t version, type;
    uint64_t id; /* request */
    uint32_t generation;
    uint32_t choice; /* MSG_CANCEL: UINT32_MAX = all */
};

/* Arrays lie in the arena from `at`, one after the other, each 8-byte aligned:
 *   int32 prompt[n_prompt] | int32 stop[n_stop] | engine_bias bias[n_bias] | uint32 given_n[n] | int32 given[sum]
 * given: tokens that an engine before this one produced, per choice; MSG_GIVEN_DONE marks a finished choice. */
#define MSG_GIVEN_DONE UINT32_MAX
enum { MSG_FLAG_PROGRESS = 1, MSG_FLAG_NO_CACHE = 2, MSG_FLAG_IN_SESSION = 4, MSG_FLAG_IN_MEMORY = 8 };
struct msg_submit {
    struct msg_head head;
    uint64_t at, bytes; /* extent in the arena */
    uint64_t n_prompt;
    uint32_t n_stop, n_bias, n, has_given;
    uint32_t max_tokens, min_tokens;
    int32_t priority;
    uint32_t flags; /* MSG_FLAG_* */
    struct engine_sampling sampling;
    uint8_t salt[32];
};

struct msg_cancel {
    struct msg_head head;
};

struct msg_credit {
    struct msg_head head;
    uint32_t tokens, pad;
};

struct msg_tokens { /* followed by int32 ids[n], then (has_logprobs) struct engine_logprob [n] */
    struct msg_head head;
    uint32_t n, has_logprobs;
};

struct msg_progress {
    struct msg_head head;
    uint32_t done, total, cached, pad;
};

struct msg_choice_done {
    struct msg_head head;
    uint32_t finish;
    int32_t stop_id;
};

struct msg_done {
    struct msg_head head;
    uint32_t total, cached, cached_in[3], missed[ENGINE_MISSES], divergent, pad;
    uint64_t queue_us, load_us, prefill_us, decode_us;
};

struct msg_failed {
    struct msg_head head;
    uint32_t failure, pad;
    char text[256];
};

struct msg_ask { /* head.id: the question */
    struct msg_head head;
    struct engine_question question;
};

struct msg_leaf {
    struct msg_head head;
    struct engine_leaf leaf;
};

struct msg_says { /* head.id: the question */
    struct msg_head head;
    struct engine_whereabouts says;
};

_Static_assert(sizeof(struct msg_head) == 24, "wire");
_Static_assert(sizeof(struct engine_leaf) == 16 + 32 * ENGINE_RUNGS, "wire and disk");
_Static_assert(sizeof(struct engine_tiers) % 8 == 0, "all fields are uint64_t");
_Static_assert(sizeof(struct engine_logprob) == 8 + 8 * ENGINE_LOGPROBS_MAX, "wire");

#define MSG_MAX (sizeof(struct msg_tokens) + ENGINE_EVENT_TOKENS * (4 + sizeof(struct engine_logprob)))

/* Where the arrays of a SUBMIT lie, from its counts; false when they do not fit in `bytes` (overflow-safe). */
struct msg_submit_layout {
    uint64_t prompt, stop, bias, given_n, given; /* offsets from `at` */
};
bool msg_submit_layout(const struct msg_submit *m, struct msg_submit_layout *out);

static inline uint64_t msg_align8(uint64_t n)
{
    return (n + 7) & ~(uint64_t)7;
}

#endif
