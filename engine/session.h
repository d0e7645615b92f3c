/* session - what a conversation is to the engine: a leaf, from which its chain of blocks is found again.
 *
 * The front keeps sessions (their names, owners and wishes) and gives a leaf with every question, so that the engine
 * may die, and the whole daemon with it. Here is only what makes answers fast and exact: the keys of the chains that
 * requests left lately. A chain that is not remembered is walked from its leaf up, through the parents that entries of
 * all tiers name; where a block is in none of them the next rung goes on.
 *
 * Questions are worked on a little in every turn (SESSION_WINDOW blocks), in the order they came; the answers wait here
 * until the ring has room. Parking: each block is sent to the lowest tier, ahead of the others and beyond the write
 * budget, and looked at until it is there; then all is made durable. Bringing up waits until no request is queued, and
 * makes way when one comes. Engine thread.
 */
#ifndef HEARTH_ENGINE_SESSION_H
#define HEARTH_ENGINE_SESSION_H

#include "engine/base/idmap.h"
#include "engine/kvcache.h"

#define SESSION_WINDOW    256        /* blocks of a question looked at in one turn */
#define SESSION_QUESTIONS 128        /* open at a time: the front's, and what comes up after its answer */
#define SESSION_KEYS      (1u << 20) /* remembered in all: 32 MiB */

struct session_chain { /* keys of a conversation, by the request that left it */
    uint64_t request;
    struct session_chain *older, *newer;
    uint32_t n;
    struct hash_key keys[];
};

struct sessions {
    struct kvcache *kv;
    struct idmap by_request;
    struct session_chain *oldest, *newest;
    uint64_t n_keys;
    struct session_question *questions, *unused; /* [SESSION_QUESTIONS] */
    struct session_question *first, *last;       /* in the order they came */
};

/* 0 or -ENOMEM. */
int sessions_open(struct sessions *s, struct kvcache *kv);
void sessions_close(struct sessions *s); /* all zeros is fine */

/* s was computed as far as it goes, and still has its blocks: its leaf into req->leaf (request 0: it was not), and
 * its keys are remembered. */
void sessions_note(struct sessions *s, struct seq *q);

/* A question of the front's; root: from its salt. 0: the answer comes from sessions_answer, once (KEEP: never).
 * -EAGAIN: too many are open. */
int sessions_ask(struct sessions *s, uint64_t id, const struct engine_question *q, const struct hash_key *root);
bool sessions_busy(const struct sessions *s);
/* Work on questions. idle: no request is waiting. True when something happened. */
bool sessions_turn(struct sessions *s, bool idle);
/* The next answer that is due: its id, 0 when there is none. It is due until sessions_answered. */
uint64_t sessions_answer(const struct sessions *s, struct engine_whereabouts *out);
void sessions_answered(struct sessions *s, uint64_t id);

/* Key and rungs of a chain of n blocks as a leaf; the rungs' places in it (-1: none). */
void session_leaf(const struct hash_key *keys, uint32_t n, struct engine_leaf *out);
int64_t session_rung_depth(uint32_t n_blocks, uint32_t rung);

#endif
