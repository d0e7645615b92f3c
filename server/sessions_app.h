/* sessions_app - sessions in the life of requests and of the server: who a request is of, what its end leaves, what the
 * engine is told to keep, and when the file is written.
 *
 * A request names its session by the first of: `session_id`, the header X-Session-ID, `conversation` (a string, or an
 * object with `id`), `prompt_cache_key`. The most specific first: a prompt_cache_key is often shared by many
 * conversations of an application. Without a name nothing is lost but the name: caches go by content.
 *
 * The file is written 5 s after a change, before a suspension is answered, and at the end. Without NVMe there is none:
 * names live as long as the daemon. Loop thread; a worker writes.
 */
#ifndef HEARTH_SERVER_SESSIONS_APP_H
#define HEARTH_SERVER_SESSIONS_APP_H

#include "server/app.h"
#include "server/sessions.h"

struct app_sessions;

/* 0 or -errno with e. */
int app_sessions_open(struct app *a, struct err *e);
/* The engine is READY, so the folders are ours: read the file. Once. */
void app_sessions_ready(struct app *a);
void app_sessions_tick(struct app *a, uint64_t now_ns);
/* After the workers: write what is not written. NULL sessions is fine. */
void app_sessions_close(struct app *a);
struct sessions_table *app_sessions_table(struct app *a);

/* Whose a call's sessions are. */
struct hash_key app_session_owner(const struct app *a, const struct http_call *c);
/* The name a request gives its session, or NULL: none. 0, or -1 with e (a header that is no name). */
int app_session_name(const struct gen_params *p, const struct http_call *c, const char **out, struct api_error *e);
/* Is it a name? 0, or -1 with e, which names `field`. */
int app_session_check_name(const char *name, size_t n, const char *field, struct api_error *e);

/* -- of a request: ids of sessions; 0: none. */
/* It begins: find or make its session. 0 too when all of the owner's sessions are in use. */
uint64_t app_session_begin(struct app *a, const struct http_call *c, const struct gen_params *p, const char *name,
                           const uint8_t salt[32]);
void app_session_leaf(struct app *a, uint64_t id, const struct engine_leaf *leaf);
void app_session_end(struct app *a, uint64_t id);

/* -- by wish */
/* A new session without KV; NULL: no memory or all in use. */
struct session *app_session_add(struct app *a, const struct hash_key *owner, const char *name,
                                const struct session_wish *wish);
/* Its blocks are ordinary ones again, and its name is free. */
void app_session_drop(struct app *a, struct session *s);
/* Wishes or leaf have changed: who is kept, and the file. */
void app_session_changed(struct app *a, struct session *s);
/* Write the file now; then(ctx, 0 or -errno) on the loop, at once where there is no file. */
void app_sessions_save(struct app *a, void (*then)(struct app *a, void *ctx, int error), void *ctx);
/* Is there a file? */
bool app_sessions_stored(const struct app *a);

/* An answer of the engine's (api_sessions.c). */
void app_sessions_say(struct app *a, const struct engine_event *ev);

#endif
