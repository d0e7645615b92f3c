/* api_sessions - /v1/sessions: conversations by name, and what becomes of their KV.
 *
 *     GET    /v1/sessions                  ?limit=20&after=ID   of this API key, used last first
 *     GET    /v1/sessions/ID               tokens, blocks and bytes on each tier, last use, state
 *     PATCH  /v1/sessions/ID               {"ttl_seconds", "priority", "prompt_cache_retention"}
 *     DELETE /v1/sessions/ID               forget the name; its blocks are ordinary ones again
 *     POST   /v1/sessions/ID/suspend       write its KV to the lowest tier; answered when that is durable
 *     POST   /v1/sessions/ID/resume        bring it up; answered at once with the time it will take
 *     POST   /v1/sessions/ID/fork          {"id"}: another name for the same conversation
 *
 * What needs the engine is a question to it (engine_ask) that is answered later, if the call is still there. A session
 * of another API key does not exist.
 */
#include "server/route.h"
#include "server/sessions_app.h"

#include "engine/base/json.h"
#include "engine/base/sys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX    "/v1/sessions/"
#define LIMIT_MAX 100
#define BODY_MAX  4096

struct question { /* asked of the engine for a call */
    uint64_t call, session;
    enum engine_verb verb;
    struct engine_whereabouts says;
};

static const char *const states[] = {"idle", "active", "suspending", "suspended"};
static const char *const priorities[] = {"low", "normal", "high"};
static const char *const tier_names[] = {"hbm", "dram", "nvme"};

/* -- a session as JSON */

static void put_session(const struct session *s, struct str *out)
{
    static const char *const retentions[] = {"null", "\"in_memory\"", "\"24h\""};
    str_puts(out, "{\"id\":");
    json_put_cstr(out, s->name);
    str_addf(
        out,
        ",\"object\":\"session\",\"created\":%lld,\"last_used\":%lld,\"state\":\"%s\",\"tokens\":%u,\"blocks\":%u,"
        "\"ttl_seconds\":%lld,\"priority\":\"%s\",\"prompt_cache_retention\":%s,\"kept\":{\"dram\":%s,\"nvme\":%s}",
        (long long)s->wish.created_s, (long long)s->wish.used_s, states[session_state(s)], s->leaf.n_tokens,
        s->leaf.n_blocks, (long long)s->wish.ttl_s, priorities[s->wish.priority], retentions[s->wish.retention],
        s->kept[1] ? "true" : "false", s->kept[2] ? "true" : "false");
}

/* Bytes of a block in a tier. */
static uint64_t block_bytes(const struct app *a, int tier)
{
    struct engine_stats st;
    engine_get_stats(a->engine, &st);
    return tier > 0 ? st.tiers.block_bytes : st.n_blocks ? st.kv_bytes / st.n_blocks : 0;
}

static void put_tiers(const struct app *a, const struct engine_whereabouts *w, struct str *out)
{
    str_puts(out, ",\"tiers\":{");
    for (int t = 0; t < 3; t++)
        str_addf(out, "%s\"%s\":{\"blocks\":%u,\"bytes\":%llu}", t ? "," : "", tier_names[t], w->in[t],
                 (unsigned long long)(w->in[t] * block_bytes(a, t)));
    str_addf(out, "},\"missing_blocks\":%u", w->missing);
}

static void reply_plain(struct http_call *c, int status, const struct session *s)
{
    struct str out = {0};
    put_session(s, &out);
    str_putc(&out, '}');
    reply_json(c, status, &out);
    str_fini(&out);
}

/* -- answers of the engine */

static int refusal(const struct app *a, const struct question *q, const struct session *s, struct api_error *e)
{
    struct engine_stats st;
    switch (q->says.answer) {
    case ENGINE_ANSWERED:
        return q->verb == ENGINE_PARK && q->says.in[q->says.parked_on] == 0
                   ? api_fail(e, 409, "session_not_cached", NULL,
                              "nothing of the session's KV is anywhere any more; send the conversation again")
                   : 0;
    case ENGINE_NO_TIER:
        return api_fail(e, 409, "no_kv_tier", NULL,
                        "there is no KV tier below the pool to suspend to; set kv.nvme.dirs and kv.nvme.bytes (or "
                        "kv.dram.bytes, which outlives no restart)");
    case ENGINE_NO_ROOM:
        engine_get_stats(a->engine, &st);
        return api_fail(e, 409, "session_too_large", NULL,
                        "the session has %u blocks, kv.%s.bytes holds %llu; raise it to at least %llu bytes",
                        s->leaf.n_blocks, tier_names[q->says.parked_on],
                        (unsigned long long)(q->says.parked_on == 2 ? st.tiers.nvme_blocks : st.tiers.dram_blocks),
                        (unsigned long long)((s->leaf.n_blocks + 1) * (st.tiers.block_bytes + 512)));
    case ENGINE_LATE:
        api_fail(e, 503, "suspend_late", NULL, "not durable after %d s; what was written stays, ask again",
                 ENGINE_PARK_S);
        e->retry_ms = 5000;
        return -1;
    case ENGINE_BUSY:
        api_fail(e, 429, "too_many_questions", NULL, "too many sessions are being looked at");
        e->retry_ms = 1000;
        return -1;
    case ENGINE_GONE:
        return api_fail(e, 503, "engine_dead", NULL, "the engine has stopped; the server's log says why");
    default:
        api_fail(e, 503, "out_of_memory", NULL, "no memory for the session's keys");
        e->retry_ms = 1000;
        return -1;
    }
}

static void put_parked(const struct app *a, const struct question *q, bool durable, struct str *out)
{
    uint32_t tier = q->says.parked_on, n = q->says.in[tier];
    str_addf(out, ",\"suspended\":{\"tier\":\"%s\",\"blocks\":%u,\"bytes\":%llu,\"durable\":%s}", tier_names[tier], n,
             (unsigned long long)(n * block_bytes(a, (int)tier)), durable ? "true" : "false");
}

static void reply_question(struct app *a, struct http_call *c, const struct question *q, const struct session *s,
                           bool durable)
{
    struct str out = {0};
    put_session(s, &out);
    put_tiers(a, &q->says, &out);
    if (q->verb == ENGINE_PARK)
        put_parked(a, q, durable, &out);
    if (q->verb == ENGINE_BRING)
        str_addf(&out, ",\"predicted_ms\":%.3f", (double)q->says.predict_us / 1000);
    str_putc(&out, '}');
    reply_json(c, 200, &out);
    str_fini(&out);
}

static int not_found(const char *name, struct api_error *e)
{
    return api_fail(e, 404, "session_not_found", NULL, "session %.256s: not found", name);
}

/* What the engine said, and the file where there is one, are there. */
static void finish(struct app *a, void *ctx, int error)
{
    struct question *q = ctx;
    struct http_call *c = http_find(a->http, q->call);
    const struct session *s = sessions_by_id(app_sessions_table(a), q->session);
    struct api_error e;
    if (!c)
        goto out;
    if (!s)
        not_found("that was asked about", &e);
    if (!s || refusal(a, q, s, &e))
        reply_error(c, &e);
    else
        reply_question(a, c, q, s, q->says.parked_on == 2 && app_sessions_stored(a) && !error);
out:
    free(q);
}

/* Its blocks are where they were wanted. True when the file has to say so. */
static bool suspended(struct app *a, const struct question *q, struct session *s)
{
    sessions_count(app_sessions_table(a), s, 0, -1);
    if (q->says.answer != ENGINE_ANSWERED || q->says.in[q->says.parked_on] == 0)
        return false;
    if (!s->n_running)
        sessions_set_suspended(app_sessions_table(a), s, true);
    app_session_changed(a, s);
    return true;
}

void app_sessions_say(struct app *a, const struct engine_event *ev)
{
    struct question *q = idmap_remove(&a->questions, ev->id);
    struct session *s = q ? sessions_by_id(app_sessions_table(a), q->session) : NULL;
    if (!q)
        return;
    q->says = ev->says;
    if (s && q->verb == ENGINE_PARK && suspended(a, q, s))
        app_sessions_save(a, finish, q);
    else
        finish(a, q, 0);
}

/* Ask the engine for a call; 0: the answer comes to finish. -1 with e. */
static int ask(struct app *a, struct http_call *c, struct session *s, enum engine_verb verb, struct api_error *e)
{
    struct engine_question eq = {.verb = verb, .leaf = s->leaf};
    struct question *q = calloc(1, sizeof *q);
    struct err err;
    uint64_t id;
    memcpy(eq.salt, s->wish.salt, sizeof eq.salt);
    int ret = q ? engine_ask(a->engine, &eq, &id, &err) : err_set(&err, ENOMEM, "no memory for the question");
    if (!ret && idmap_put(&a->questions, id, q) != 0) /* its answer will find nobody */
        ret = err_set(&err, ENOMEM, "no memory for the question");
    if (ret) {
        free(q);
        api_fail(e, ret == -EAGAIN ? 429 : 503, ret == -EAGAIN ? "too_many_questions" : "unavailable", NULL, "%s",
                 err.text);
        e->retry_ms = 1000;
        return -1;
    }
    *q = (struct question){.call = http_id(c), .session = s->id, .verb = verb};
    if (verb == ENGINE_PARK)
        sessions_count(app_sessions_table(a), s, 0, 1);
    return 0;
}

/* -- which session */

/* The one of a path, without `tail` at its end. NULL with e. */
static struct session *session_of(struct app *a, struct http_call *c, const char *tail, struct api_error *e)
{
    const char *path = http_path(c) + strlen(PREFIX);
    size_t n = strlen(path) - strlen(tail);
    char name[SESSION_NAME_MAX + 1];
    struct hash_key owner = app_session_owner(a, c);
    if (app_check_ready(a, e) != 0)
        return NULL;
    if (n > SESSION_NAME_MAX) {
        app_session_check_name(path, n, "id", e);
        return NULL;
    }
    memcpy(name, path, n);
    name[n] = 0;
    struct session *s = sessions_find(app_sessions_table(a), &owner, name);
    if (!s)
        not_found(name, e);
    return s;
}

/* Look, park or bring. A conversation without a full block is nowhere, which needs no engine to say. */
static void handle_question(struct app *a, struct http_call *c, const char *tail, enum engine_verb verb)
{
    struct api_error e;
    struct session *s = session_of(a, c, tail, &e);
    int ret = s ? 0 : -1;
    if (s && verb == ENGINE_PARK && s->wish.retention == SESSION_IN_MEMORY)
        ret = api_fail(&e, 409, "retention_in_memory", "prompt_cache_retention",
                       "the session's prompt_cache_retention is in_memory: it is not written to drives; PATCH it to "
                       "\"24h\" first");
    else if (s && s->leaf.n_blocks == 0 && verb == ENGINE_PARK)
        ret = api_fail(&e, 409, "session_empty", NULL, "the session has %u tokens, less than one block of KV",
                       s->leaf.n_tokens);
    else if (s && s->leaf.n_blocks == 0)
        reply_question(a, c, &(struct question){.verb = verb}, s, false);
    else if (s)
        ret = ask(a, c, s, verb, &e);
    if (ret)
        reply_error(c, &e);
}

static void handle_get(struct app *a, struct http_call *c)
{
    handle_question(a, c, "", ENGINE_LOOK);
}

/* -- list */

static int64_t limit_of(const struct http_call *c, struct api_error *e)
{
    const char *text = http_query(c, "limit");
    char *end;
    errno = 0;
    long v = text ? strtol(text, &end, 10) : 20;
    if (text && (*end || end == text || errno || v < 1 || v > LIMIT_MAX))
        return api_fail(e, 400, "invalid_value", "limit", "limit %.32s: must be from 1 to %d", text, LIMIT_MAX);
    return v;
}

static void put_list(const struct session *s, int64_t limit, struct str *out)
{
    const struct session *first = s, *last = NULL;
    str_puts(out, "{\"object\":\"list\",\"data\":[");
    for (int64_t i = 0; s && i < limit; i++, s = s->older) {
        if (i)
            str_putc(out, ',');
        put_session(s, out);
        str_putc(out, '}');
        last = s;
    }
    str_puts(out, "],\"first_id\":");
    if (first)
        json_put_cstr(out, first->name);
    str_puts(out, first ? ",\"last_id\":" : "null,\"last_id\":");
    if (last)
        json_put_cstr(out, last->name);
    str_addf(out, "%s,\"has_more\":%s}", last ? "" : "null", s ? "true" : "false");
}

static void handle_list(struct app *a, struct http_call *c)
{
    struct api_error e;
    struct str out = {0};
    struct hash_key owner = app_session_owner(a, c);
    const struct session_owner *o = sessions_of(app_sessions_table(a), &owner);
    const struct session *s = o ? o->newest : NULL;
    const char *after = http_query(c, "after");
    int64_t limit = limit_of(c, &e);
    if (limit > 0 && after) {
        s = sessions_find(app_sessions_table(a), &owner, after);
        if (!s)
            limit = api_fail(&e, 400, "invalid_value", "after", "after %.256s: no session of this name", after);
        s = s ? s->older : NULL;
    }
    if (limit < 0) {
        reply_error(c, &e);
        return;
    }
    put_list(s, limit, &out);
    reply_json(c, 200, &out);
    str_fini(&out);
}

/* -- bodies */

/* The body as an object; an empty one is fine: *doc stays NULL. 0 or -1 with e. */
static int read_object(const struct http_call *c, struct json **doc, struct api_error *e)
{
    struct err err;
    size_t n;
    const char *bytes = http_body(c, &n);
    *doc = NULL;
    if (n == 0)
        return 0;
    if (n > BODY_MAX)
        return api_fail(e, 413, "body_too_large", NULL, "a body of %zu bytes: at most %d here", n, BODY_MAX);
    int ret = json_parse(doc, bytes, n, NULL, &err);
    if (ret)
        return api_fail(e, ret == -ENOMEM ? 503 : 400, ret == -ENOMEM ? "out_of_memory" : "invalid_json", NULL, "%s",
                        err.text);
    if (json_typeof(json_root(*doc)) == JSON_OBJECT)
        return 0;
    json_close(*doc);
    *doc = NULL;
    return api_fail(e, 400, "invalid_type", NULL, "the body must be a JSON object");
}

static int read_priority(const struct json_val *v, struct session_wish *w, struct api_error *e)
{
    const char *text = json_text(v, NULL);
    for (int p = SESSION_LOW; text && p <= SESSION_HIGH; p++)
        if (strcmp(text, priorities[p]) == 0) {
            w->priority = (uint8_t)p;
            return 0;
        }
    return api_fail(e, 400, "invalid_value", "priority", "priority: must be \"low\", \"normal\" or \"high\"");
}

static int read_ttl(const struct json_val *v, struct session_wish *w, struct api_error *e)
{
    int64_t ttl;
    if (!json_int(v, &ttl) || ttl < 0 || ttl > SESSION_TTL_MAX)
        return api_fail(e, 400, "invalid_value", "ttl_seconds", "ttl_seconds: must be a whole number from 0 to %d",
                        SESSION_TTL_MAX);
    w->ttl_s = ttl;
    return 0;
}

static int read_retention(const struct app *a, const struct json_val *v, struct session_wish *w, struct api_error *e)
{
    const char *text = json_text(v, NULL);
    bool none = json_typeof(v) == JSON_NULL, day = text && strcmp(text, "24h") == 0;
    if (!none && !day && !(text && strcmp(text, "in_memory") == 0))
        return api_fail(e, 400, "invalid_value", "prompt_cache_retention",
                        "prompt_cache_retention: must be \"in_memory\", \"24h\" or null");
    w->retention = none ? SESSION_DEFAULT : day ? SESSION_24H : SESSION_IN_MEMORY;
    w->ttl_s = day ? 24 * 3600 : (int64_t)(a->conf->sessions.ttl / 1000);
    return 0;
}

/* A ttl_seconds beside a retention says more than the retention's own. */
static int read_patch(const struct app *a, const struct json_val *root, struct session_wish *w, struct api_error *e)
{
    const struct json_val *retention = json_get(root, "prompt_cache_retention");
    int ret = retention ? read_retention(a, retention, w, e) : 0;
    for (const struct json_val *v = json_first(root); v && !ret; v = json_next(v)) {
        const char *key = json_key(v, NULL);
        if (strcmp(key, "ttl_seconds") == 0)
            ret = read_ttl(v, w, e);
        else if (strcmp(key, "priority") == 0)
            ret = read_priority(v, w, e);
        else if (v != retention)
            ret = api_fail(e, 400, "unknown_parameter", key,
                           "%.64s: unknown; a session has ttl_seconds, priority and prompt_cache_retention", key);
    }
    return ret;
}

static void handle_patch(struct app *a, struct http_call *c)
{
    struct api_error e;
    struct json *doc = NULL;
    struct session *s = session_of(a, c, "", &e);
    struct session_wish w = s ? s->wish : (struct session_wish){0};
    int ret = s ? read_object(c, &doc, &e) : -1;
    if (!ret && doc)
        ret = read_patch(a, json_root(doc), &w, &e);
    json_close(doc);
    if (ret) {
        reply_error(c, &e);
        return;
    }
    s->wish = w;
    app_session_changed(a, s);
    reply_plain(c, 200, s);
}

static void handle_delete(struct app *a, struct http_call *c)
{
    struct api_error e;
    struct str out = {0};
    struct session *s = session_of(a, c, "", &e);
    if (!s) {
        reply_error(c, &e);
        return;
    }
    str_puts(&out, "{\"id\":");
    json_put_cstr(&out, s->name);
    str_puts(&out, ",\"object\":\"session.deleted\",\"deleted\":true}");
    app_session_drop(a, s);
    reply_json(c, 200, &out);
    str_fini(&out);
}

/* -- fork */

/* The name asked for, or one made of the old name and a random number. 0 or -1 with e. */
static int fork_name(const struct json *doc, const struct session *s, char out[SESSION_NAME_MAX + 1],
                     struct api_error *e)
{
    size_t n;
    uint64_t random = 0;
    const struct json_val *v = doc ? json_get(json_root(doc), "id") : NULL;
    const char *text = json_text(v, &n);
    if (v && !text)
        return api_fail(e, 400, "invalid_type", "id", "id: must be a string");
    if (text) {
        if (app_session_check_name(text, n, "id", e) != 0)
            return -1;
        memcpy(out, text, n);
        out[n] = 0;
        return 0;
    }
    if (sys.random(&random, sizeof random) != 0)
        random = sys.now_ns();
    snprintf(out, SESSION_NAME_MAX + 1, "%.230s-%016llx", s->name, (unsigned long long)random);
    return 0;
}

static void handle_fork(struct app *a, struct http_call *c)
{
    struct api_error e;
    struct json *doc = NULL;
    char name[SESSION_NAME_MAX + 1];
    struct hash_key owner = app_session_owner(a, c);
    struct session *s = session_of(a, c, "/fork", &e), *twin = NULL;
    int ret = s && read_object(c, &doc, &e) == 0 ? fork_name(doc, s, name, &e) : -1;
    json_close(doc);
    if (!ret && sessions_find(app_sessions_table(a), &owner, name))
        ret = api_fail(&e, 409, "session_exists", "id", "id %.256s: there is a session of this name", name);
    if (!ret) {
        struct session_wish w = s->wish;
        struct engine_leaf leaf = s->leaf; /* s may be what makes room */
        w.created_s = w.used_s = sys.wall_s();
        twin = app_session_add(a, &owner, name, &w);
        if (twin)
            twin->leaf = leaf;
        else
            ret = api_fail(&e, 429, "too_many_sessions", NULL, "all %lld sessions of this API key are in use",
                           (long long)a->conf->sessions.max);
    }
    if (ret) {
        reply_error(c, &e);
        return;
    }
    app_session_changed(a, twin);
    reply_plain(c, 201, twin);
}

/* A name may hold slashes, so a verb is the last word of the path. */
static void handle_post(struct app *a, struct http_call *c)
{
    const char *path = http_path(c), *verb = strrchr(path, '/');
    bool named = verb - path >= (ptrdiff_t)strlen(PREFIX);
    struct api_error e;
    if (named && strcmp(verb, "/suspend") == 0)
        handle_question(a, c, verb, ENGINE_PARK);
    else if (named && strcmp(verb, "/resume") == 0)
        handle_question(a, c, verb, ENGINE_BRING);
    else if (named && strcmp(verb, "/fork") == 0)
        handle_fork(a, c);
    else {
        api_fail(&e, 404, "unknown_url", NULL, "no such path; POST goes to " PREFIX "ID/suspend, /resume and /fork");
        reply_error(c, &e);
    }
}

const struct route api_sessions_routes[] = {
    {"GET", "/v1/sessions", ROUTE_KEY, handle_list}, {"GET", PREFIX "*", ROUTE_KEY, handle_get},
    {"PATCH", PREFIX "*", ROUTE_KEY, handle_patch},  {"DELETE", PREFIX "*", ROUTE_KEY, handle_delete},
    {"POST", PREFIX "*", ROUTE_KEY, handle_post},    {NULL, NULL, ROUTE_KEY, NULL},
};
