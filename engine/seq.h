/* seq - a request and its choices, each a sequence of token ids on its way through the engine.
 *
 * A sequence tells four counts apart: known ids (prompt and accepted tokens), draws under way, computed positions
 * (kv/table), and sent tokens (outbox). Everything a sequence can grow to is reserved when the request comes in, so
 * that a step allocates nothing. Engine thread.
 */
#ifndef HEARTH_ENGINE_SEQ_H
#define HEARTH_ENGINE_SEQ_H

#include "engine/base/hash.h"
#include "engine/compute/sample.h"
#include "engine/engine.h"
#include "engine/kv/returns.h"
#include "engine/kv/table.h"
#include "engine/kv/tier.h"

#include <stdbool.h>
#include <stdint.h>

#define REQUEST_OTHER_ROOTS 2

struct request {        /* what the choices share */
    uint64_t id, order; /* order of arrival, for the queue */
    uint32_t n, n_over; /* choices in all; choices whose CHOICE_DONE has been sent */
    uint32_t n_prompt, max_tokens, min_tokens;
    int32_t priority;
    bool progress, no_cache;
    bool in_memory; /* what it computes is not to be written to NVMe for it */
    bool prefetch;  /* no request of the front's: a session's blocks come up for it (kvcache_prefetch) */
    bool in_session, leaf_sent;
    struct engine_leaf leaf; /* of choice 0, when it is over */
    struct engine_sampling sampling;
    struct sample_bias *bias;
    int32_t *stop_ids;
    uint32_t n_bias, n_stop;
    struct hash_key root;                             /* seed of its block keys */
    struct hash_key other_roots[REQUEST_OTHER_ROOTS]; /* what it would be under other KV formats, if such are known */
    uint32_t n_other_roots;
    /* prompt tokens that were not computed at the first admission: in all, and by where their KV lay (enum tier_id) */
    uint32_t cached, cached_in[TIER_COUNT];
    uint32_t missed[ENGINE_MISSES]; /* and why the others were */
    uint32_t divergent;             /* first that was never seen; UINT32_MAX: none */
    uint64_t load_ns;               /* until the last of them was there */
    bool admitted, failed;
    bool counted; /* cached is about an admission that was */
    uint64_t arrived_ns, admitted_ns, first_ns, last_ns;
};

enum seq_state {
    SEQ_UNBORN,  /* a choice that will fork from choice 0 */
    SEQ_WAITING, /* in the queue: no slot, no blocks */
    SEQ_RUNNING, /* has a slot; may hold blocks */
    SEQ_OVER,    /* finished: blocks given back, tokens may still have to be sent */
};

/* Ids that occurred, once each, for the penalties: a list and a hash index over it. */
struct seq_seen {
    struct sample_seen *list;
    int32_t *index; /* [mask + 1] -> position in list, -1 empty */
    uint32_t n, mask;
};

struct seq {
    struct request *req;
    uint32_t choice;
    enum seq_state state;
    int32_t slot; /* while running, else -1 */
    int32_t *ids; /* [n_prompt + max_tokens] */
    uint32_t n_known, n_prompt;
    uint32_t n_ahead; /* draws that are queued, whose tokens are not known yet */
    uint32_t draw;    /* index of the last of them in its step */
    struct table table;
    struct hash_key *keys; /* of its full blocks, computed when first wanted */
    uint64_t *checks;      /* beside keys: kv/entry.h */
    uint32_t n_keys, n_published;
    /* tiers below the pool (kvcache) */
    uint32_t n_loading;  /* blocks of the table that are */
    uint32_t n_fetched;  /* contents held in DRAM for it while it waits */
    uint32_t fetch_from; /* next block to fetch */
    uint64_t load_from_ns;
    bool counts; /* what it loads goes into req->cached */
    struct returns_turn turn;
    struct seq_seen seen;
    /* output */
    uint32_t n_sent;                 /* generated tokens handed to the front */
    uint32_t credit;                 /* generated tokens the front says it has taken */
    struct engine_logprob *logprobs; /* ring of ENGINE_CREDIT, by generated index; NULL when not asked for */
    enum engine_finish finish;
    int32_t stop_id;
    bool forks; /* choice 0 of n > 1 whose other choices are not made yet */
    uint32_t progress_sent;
};

static inline uint32_t seq_generated(const struct seq *s)
{
    return s->n_known - s->n_prompt;
}

/* Tokens with those that are drawn by steps under way. */
static inline uint32_t seq_planned(const struct seq *s)
{
    return s->n_known + s->n_ahead;
}

/* A sequence for one choice with room for everything; ids are the prompt (and the given tokens, which count as
 * generated). NULL when there is no memory. */
struct seq *seq_open(struct request *r, uint32_t choice, const int32_t *prompt, const int32_t *given, uint32_t n_given,
                     uint32_t block_tokens);
void seq_close(struct seq *s); /* NULL is fine. The blocks were given back before */
void request_close(struct request *r);

/* Accept a token. */
void seq_append(struct seq *s, int32_t id);
/* May it not run? While the front has not taken what it got (only with logprobs); and when what is under way ends it or
 * makes it fork. */
bool seq_paused(const struct seq *s);
/* Parameters of the draw that follows the last planned token. */
void seq_sample_row(const struct seq *s, uint32_t choice, struct sample_row *out);

/* Queue order: higher priority, then earlier arrival, then lower choice. < 0 when a goes first. */
int seq_compare(const struct seq *a, const struct seq *b);

#endif
