/* gen - a generation in flight: one API request, its prompts, its choices, and the way back to the client.
 *
 *   body -> worker: JSON, parameters, template, token ids -> loop: submit -> events -> text -> answer
 *
 * A gen belongs to its http_call: when the call is gone, what runs is cancelled and the gen is freed (or by the
 * worker's done, if it is still there). Tokens are queued as ids and become text when the client has room for it, so
 * that a slow reader costs 4 bytes a token. Loop thread, but `parse`, which runs on a worker.
 */
#ifndef HEARTH_SERVER_GEN_H
#define HEARTH_SERVER_GEN_H

#include "server/app.h"
#include "server/params.h"
#include "server/stop.h"

struct gen;

struct gen_choice {
    int32_t *ids; /* tokens from the engine: [0, n_done) are in the answer, the rest wait */
    struct engine_logprob *lps;
    uint32_t *offsets; /* with lps: characters of text before each token */
    uint32_t n_chars;
    size_t n_ids, cap_ids, cap_lps, cap_offsets, n_done;
    uint64_t last_ns; /* when its last token came */
    struct detok detok;
    struct stop_scan stop;
    struct str text;    /* not streamed: the answer; streamed: text for the next chunks */
    size_t n_sent;      /* tokens in earlier chunks: ids (and lps) from here to n_done belong to the next */
    bool ended;         /* the engine sends no more */
    bool echoed;        /* its text began with the prompt's, where that was asked for */
    bool begun;         /* the first chunk has been sent */
    const char *finish; /* "stop", "length": all its text is known; NULL = it goes on */
    bool closed;        /* and the answer has it: nothing more to send */
    int32_t stop_id;    /* -1 = none */
    int stop_text;      /* index of the stop string, -1 = none */
};

struct gen_part { /* one prompt */
    struct gen *gen;
    uint32_t index;
    struct token_ids prompt;
    const char *echo; /* text to put before the answer, or NULL */
    size_t n_echo;
    uint64_t engine_id;
    bool live; /* the engine has it */
    uint32_t cached, progress;
    uint32_t cached_in[3], missed[ENGINE_MISSES], divergent; /* as in engine_event */
    uint64_t queue_us, load_us, prefill_us, decode_us;
};

struct dialect {
    enum params_dialect params;
    const char *id_prefix, *object, *chunk_object;
    /* Worker: prompts (gen_add_part) from the checked root. 0, or -1 with g->error. */
    int (*parse)(struct gen *g, const struct json_val *root);
    const char *const *own_fields; /* NULL-terminated: what parse reads */
    /* Members of a choice: the delta of a chunk (n bytes of choice->text), or the whole. No braces, no finish_reason.
     */
    void (*put_delta)(const struct gen *g, const struct gen_choice *c, size_t n, struct str *out);
    void (*put_whole)(const struct gen *g, const struct gen_choice *c, struct str *out);
};

struct gen {
    struct worker_job job; /* first: the worker gives it back as this */
    struct app *app;
    struct http_call *call; /* NULL: gone */
    const struct dialect *dialect;
    struct http_body body;
    struct arena mem;
    struct gen_params p;
    struct api_error error;
    struct tenant tenant;
    const char *session_name; /* NULL = none */
    uint64_t session;         /* its id; 0 = none */
    struct gen_part *parts;
    uint32_t n_parts, n_live;
    struct gen_choice *choices; /* [n_parts][n] */
    uint32_t n_choices, n_open; /* open: not closed yet */
    uint32_t turn;              /* choice that gets room next */
    struct str out;             /* the whole answer, while it is written */
    const char *model;
    char id[48];
    int64_t created;
    uint64_t submitted_ns, first_ns, last_ns;
    bool in_worker, streaming, answered;
    struct gen *next, *prev;
};

/* Start one for a call whose body is there. Answers by itself, now or later. */
void gen_start(struct app *a, struct http_call *c, const struct dialect *d);
/* Worker: add a prompt. 0, or -1 with g->error (no memory). The ids are taken over. */
int gen_add_part(struct gen *g, struct token_ids *prompt, const char *echo, size_t n_echo);
/* An event of the engine for one of its parts. */
void gen_event(struct gen_part *part, const struct engine_event *ev);
/* The stream has room again. */
void gen_room(struct gen *g);
/* The call is gone: cancel what runs, free. */
void gen_gone(struct gen *g);
/* A stream that has waited long for its first event gets its headers now. */
void gen_tick(struct gen *g, uint64_t now_ns);

/* The prompt tokens, and those of choices that are in the answer. */
uint64_t gen_prompt_tokens(const struct gen *g);
uint64_t gen_completion_tokens(const struct gen *g);
uint64_t gen_cached_tokens(const struct gen *g);

/* -- gen.c, for gen_event.c */
void gen_free(struct gen *g);
/* Answer with g->error, as an error body or as an event of a stream that has begun. */
void gen_fail(struct gen *g);
/* The engine refused or lost a part: cancel the others, answer. */
void gen_engine_failed(struct gen *g, enum engine_failure why, const char *text);
void gen_cancel_parts(struct gen *g);

/* -- gen_out.c: the answers */
/* One SSE event with a chunk of a choice, n bytes of its text. finish NULL = it goes on. */
void gen_put_chunk(const struct gen *g, const struct gen_choice *c, size_t n, const char *finish, struct str *out);
void gen_put_usage_chunk(const struct gen *g, struct str *out);
void gen_put_progress_chunk(const struct gen *g, const struct gen_part *part, struct str *out);
void gen_put_answer(const struct gen *g, struct str *out);
/* Name of a token as a JSON string, different for each: its text; "bytes:\\xc3" where that is no whole character;
 * "token_id:5" where it has none. */
void gen_put_token_text(const struct gen *g, int32_t id, struct str *out);
/* A log probability; OpenAI writes -9999.0 for minus infinity. */
void gen_put_logprob(float logprob, struct str *out);

/* With log.prompts: the beginnings of what came in and went out. */
void gen_log_prompts(const struct gen *g);
void gen_log_answers(const struct gen *g);

#endif
