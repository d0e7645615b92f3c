/* front - state of the front's side, shared by front.c (requests, restart) and front_poll.c (events). Internal. */
#ifndef HEARTH_ENGINE_FRONT_H
#define HEARTH_ENGINE_FRONT_H

#include "engine/base/extent.h"
#include "engine/base/idmap.h"
#include "engine/boundary.h"
#include "engine/spawn.h"

#define RESTARTS_MAX   3 /* within RESTART_WINDOW */
#define RESTART_WINDOW (60 * 1000000000ull)
#define DEATHS_MAX     2 /* engines that may die with a request */

struct choice {
    int32_t *tokens; /* [max_tokens], produced so far: taken at submit, so that no event can fail for memory */
    size_t n;
    uint32_t credit; /* last credit the client's reader gave */
    bool over, cancelled, cancel_due, credit_due;
};

struct live {
    uint64_t id;
    size_t at;             /* index in engine.live */
    struct msg_submit msg; /* as sent; at, bytes and given parts are made anew for a new engine */
    struct choice *choices;
    uint32_t n_over;
    uint64_t arena_at, arena_bytes;
    uint32_t deaths; /* engines that were READY and died with it */
    bool doomed;     /* too many: no engine has it any more, its FAILED is due */
    bool cancelled, cancel_due;
};

/* What an engine says of itself, as it was when it said READY: its segment is not asked again. */
struct front_ready {
    uint32_t generation; /* of the engine that said it; 0: none yet */
    uint32_t ctx_tokens, block_tokens, n_blocks;
    int32_t vocab;
    uint64_t kv_bytes;
    char device[96];
};

struct front_ask { /* a question that is not answered yet */
    uint64_t id;
    struct engine_question q;
    bool due; /* this engine has not been asked */
};

struct engine {
    struct engine_config config;
    enum engine_mode mode;
    char *program;
    struct boundary b;
    struct front_ready ready;
    struct spawn spawn;
    struct extent_map arena;
    struct idmap by_id;
    struct live **live;
    size_t n_live, cap_live, n_doomed;
    uint64_t last_id;
    uint32_t generation, n_due; /* n_due: requests with a small message that waits for room */
    struct front_ask asks[ENGINE_QUESTIONS];
    uint32_t n_asks;
    uint64_t started_ns[RESTARTS_MAX];
    int epoll;
    bool dead;    /* for good */
    char how[64]; /* how the last engine process ended */
    char error[ERR_TEXT_MAX];
    struct engine_logprob logprobs[ENGINE_EVENT_TOKENS];
    uint8_t msg[MSG_MAX];
};

/* Forget a request. */
void front_drop(struct engine *g, struct live *r);
/* Push cancels and credits that had to wait. */
void front_send_due(struct engine *g);
/* The engine has ended as g->how says: start a new one and submit everything again, or give up. */
void front_restart(struct engine *g);

/* -- front_ask.c: questions about sessions */
void front_ask_due(struct engine *g);
/* A new engine has heard none of them. */
void front_ask_again(struct engine *g);
/* Messages of n bytes in g->msg: 1 with ev set, or -EBADMSG. */
int front_accept_says(struct engine *g, size_t n, struct engine_event *ev);
int front_accept_leaf(struct engine *g, const struct live *r, size_t n, struct engine_event *ev);
/* Of a dead engine: GONE for each question, one a call; 0: none is left. */
int front_ask_fail(struct engine *g, struct engine_event *ev);

#endif
