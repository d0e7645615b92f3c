/* app - what the routes share: the loop, the engine, the text side, and the state of the whole server.
 *
 * One thread (the HTTP loop) owns it; workers read the immutable parts (conf, tok, chat, card).
 */
#ifndef HEARTH_SERVER_APP_H
#define HEARTH_SERVER_APP_H

#include "engine/base/idmap.h"
#include "engine/engine.h"
#include "engine/text/chat.h"
#include "engine/text/tokenizer.h"
#include "server/auth.h"
#include "server/config.h"
#include "server/http.h"
#include "server/params.h"
#include "server/reply.h"
#include "server/workers.h"

#include <stdio.h>

struct gen;
struct app_sessions;

struct model_card {           /* what clients call the model */
    const char *id;           /* first alias, or made from the file name */
    struct config_list names; /* all that are accepted, id first */
    int64_t created;
    char fingerprint[24]; /* system_fingerprint */
};

enum app_state {
    APP_LOADING, /* the port is open, weights are on their way */
    APP_WARMING, /* the engine is up, its first token is not */
    APP_READY,
    APP_DRAINING, /* SIGTERM: what runs is finished, nothing new */
    APP_FAILED    /* the engine is dead for good */
};

/* Who asks: from the API key, or everybody. */
struct tenant {
    int key; /* index of the key, -1 = none configured */
    uint8_t salt[32];
};

struct app {
    const struct config *conf;
    struct engine_plan plan;
    struct http *http; /* NULL while it closes: calls are gone, workers may still run */
    struct engine *engine;
    struct workers *workers;
    struct tokenizer *tok;
    struct chat *chat; /* NULL: the model has no chat template */
    struct model_card card;
    struct model_sampling sampling; /* what the model file says */
    struct auth *auth;              /* NULL: no keys are configured; SIGHUP replaces it */
    struct reload *reload;          /* the key file is being read again (reload.h); else NULL */
    enum app_state state;
    uint64_t warm_id; /* the warm-up request */
    uint64_t started_ns, drain_ns;
    struct app_sessions *sessions; /* sessions_app.h */
    struct idmap questions;        /* of calls about sessions, by the engine's id: api_sessions.c */
    struct idmap parts;            /* engine request id -> struct gen_part */
    struct gen *gens;              /* all in flight */
    uint32_t n_gens;
    struct config_list urls;  /* where it listens, for people */
    char *own_name;           /* of the model, when no alias is given */
    int signals;              /* signalfd of SIGTERM, SIGINT, SIGHUP */
    char error[ERR_TEXT_MAX]; /* APP_FAILED: why */
    uint64_t alive, fed_ns;   /* watchdog: the progress of the engine when it was last fed */
};

/* Would it start? The model's header, tokenizer and chat template, and the API keys are read; nothing is opened or
 * loaded. 0 or -errno with e. */
int app_check(const struct config *conf, struct engine_plan *out, struct err *e);
/* Write the scales of kv8 beside the model, from a text of at least CALIBRATE_TOKENS_MIN tokens; *n: tokens used, path:
 * the file. 0 or -errno with e. */
#define CALIBRATE_TOKENS_MIN 64
int app_calibrate(const struct config *conf, FILE *text, uint32_t *n, char *path, size_t size, struct err *e);
/* Everything but the engine's weights is ready on return; listeners are open. 0 or -errno with e. */
int app_open(struct app *a, const struct config *conf, struct err *e);
/* Serve until SIGTERM/SIGINT has been drained. 0, or -errno with e (the engine could not start, ...). */
int app_run(struct app *a, struct err *e);
void app_close(struct app *a);

/* May this call generate now? 0, or -1 with e: 503 while loading, draining, failed. */
int app_check_ready(const struct app *a, struct api_error *e);
/* The name a request asked for -> the name to answer with; NULL and e (404 with the names) when it is not ours. */
const char *app_model_name(const struct app *a, const char *asked, struct api_error *e);
/* Has this call a valid key, where keys are configured? 0, or -1 with e (401). */
int app_check_key(const struct app *a, const struct http_call *c, struct api_error *e);
/* Who sent this call (checked in head()). */
struct tenant app_tenant(const struct app *a, const struct http_call *c, const char *cache_salt, size_t salt_len);

/* The whole of a file of at most max bytes, appended to out. 0 or -errno with e. */
int app_read_file(const char *path, size_t max, struct str *out, struct err *e);
/* Note an address that is listened on. 0 or -ENOMEM. */
int app_add_url(struct app *a, const char *address, int port, struct err *e);

/* Parts of app_open (app_open.c): tokenizer and chat template; what clients call the model; keys and listeners;
 * SIGTERM, SIGINT and SIGHUP as a descriptor. */
int app_open_text(struct app *a, struct err *e);
int app_name_model(struct app *a, struct err *e);
int app_open_http(struct app *a, const struct http_app *callbacks, struct err *e);
int app_open_signals(struct app *a, struct err *e);

/* "engine_config" of a configuration; also for --plan and --check. */
void app_engine_config(const struct config *conf, struct engine_config *out);

#endif
