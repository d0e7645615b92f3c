/* app - see app.h. The callbacks of the HTTP loop, the engine's events, and the way from loading to drained. */
#include "server/app.h"

#include "engine/base/hash.h"
#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "engine/base/version.h"
#include "server/gen.h"
#include "server/metric.h"
#include "server/notify.h"
#include "server/reload.h"
#include "server/route.h"
#include "server/sessions_app.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define TICK_MS        100
#define FAREWELL_NS    2000000000ull /* for the last answers of a server whose engine is dead */
#define WORKERS_QUEUED 1024

/* -- HTTP callbacks */

static size_t on_head(void *ctx, struct http_call *c)
{
    struct app *a = ctx;
    struct api_error e;
    bool known;
    char allow[64];
    const struct route *r = route_find(http_method(c), http_path(c), &known, allow);
    if ((!r || r->access == ROUTE_KEY) && app_check_key(a, c, &e) != 0) { /* before anything tells which paths exist */
        reply_error(c, &e);
        return 0;
    }
    if (r)
        return a->conf->http.max_body;
    if (known) {
        api_fail(&e, 405, "method_not_allowed", NULL, "%.200s does not allow %.16s; use %s", http_path(c),
                 http_method(c), allow);
        memcpy(e.allow, allow, sizeof e.allow);
    } else
        api_fail(&e, 404, "unknown_url", NULL, "no such path: %.200s %.16s", http_path(c), http_method(c));
    reply_error(c, &e);
    return 0;
}

static void on_body(void *ctx, struct http_call *c)
{
    bool known;
    char allow[64];
    route_find(http_method(c), http_path(c), &known, allow)->handle(ctx, c);
}

static void on_room(void *ctx, struct http_call *c)
{
    (void)ctx;
    if (http_user(c))
        gen_room(http_user(c));
}

/* A client's path as one word of a log line. Names of sessions may tell who talks about what: like prompts they are
 * left out, unless asked for. */
static void put_path(const struct app *a, const struct http_call *c, char out[128])
{
    static const char sessions[] = "/v1/sessions/";
    const char *path = http_path(c);
    size_t i = 0;
    if (!a->conf->log.prompts && strncmp(path, sessions, strlen(sessions)) == 0)
        path = "/v1/sessions/*";
    for (const char *p = path; *p && i < 127; p++)
        out[i++] = *p > ' ' && *p <= '~' && *p != '"' && *p != '=' ? *p : '?';
    out[i] = 0;
}

static void access_line(const struct app *a, const struct http_call *c, const struct gen *g, enum http_gone why)
{
    static const char *const ends[] = {"done", "client", "timeout", "abort", "drain"};
    uint64_t now = sys.now_ns();
    char path[128];
    put_path(a, c, path);
    double ms = (double)(now - http_start_ns(c)) / 1e6;
    if (!g) {
        log_info("http access", "id=%s peer=%s method=%s path=%s status=%d end=%s bytes=%llu ms=%.1f",
                 http_request_id(c), http_peer(c), http_method(c), path, http_status(c), ends[why],
                 (unsigned long long)http_bytes_out(c), ms);
        return;
    }
    double ttft = g->first_ns ? (double)(g->first_ns - http_start_ns(c)) / 1e6 : 0;
    log_info("http access",
             "id=%s peer=%s method=%s path=%s status=%d end=%s bytes=%llu ms=%.1f ttft_ms=%.1f prompt_tokens=%llu "
             "cached_tokens=%llu completion_tokens=%llu n=%lld stream=%d",
             http_request_id(c), http_peer(c), http_method(c), path, http_status(c), ends[why],
             (unsigned long long)http_bytes_out(c), ms, ttft, (unsigned long long)gen_prompt_tokens(g),
             (unsigned long long)gen_cached_tokens(g), (unsigned long long)gen_completion_tokens(g), (long long)g->p.n,
             g->p.stream);
}

static void count_answer(const struct http_call *c)
{
    switch (http_status(c) / 100) {
    case 2:
        metric_add(METRIC_HTTP_2XX, 1);
        break;
    case 3:
        metric_add(METRIC_HTTP_3XX, 1);
        break;
    case 4:
        metric_add(METRIC_HTTP_4XX, 1);
        break;
    case 5:
        metric_add(METRIC_HTTP_5XX, 1);
        break;
    default: /* the client went before it was answered */
        metric_add(METRIC_HTTP_GONE, 1);
    }
}

static void on_gone(void *ctx, struct http_call *c, enum http_gone why)
{
    struct gen *g = http_user(c);
    count_answer(c);
    access_line(ctx, c, g, why);
    if (g)
        gen_gone(g);
}

static size_t on_refusal(void *ctx, int status, const char *message, char *out, size_t cap)
{
    (void)ctx;
    struct api_error e;
    struct str body = {0};
    api_fail(&e, status,
             status == 413   ? "body_too_large"
             : status == 503 ? "overloaded"
                             : "bad_request",
             NULL, "%s", message);
    api_put_error(&e, &body);
    size_t n = body.oom || body.len > cap ? 0 : body.len;
    memcpy(out, str_text(&body), n);
    str_fini(&body);
    return n;
}

/* -- who may, and who is who */

int app_check_ready(const struct app *a, struct api_error *e)
{
    struct engine_stats st;
    switch (a->state) {
    case APP_READY:
        return 0;
    case APP_DRAINING:
        api_fail(e, 503, "draining", NULL, "the server is shutting down");
        break;
    case APP_FAILED:
        return api_fail(e, 503, "engine_dead", NULL, "the engine has stopped; the server's log says why");
    default:
        engine_get_stats(a->engine, &st);
        api_fail(e, 503, "loading", NULL, "the model is loading: %u %%", st.load_percent);
    }
    e->retry_ms = 1000;
    return -1;
}

const char *app_model_name(const struct app *a, const char *asked, struct api_error *e)
{
    const struct config_list *l = &a->card.names;
    if (!asked || !*asked)
        return a->card.id;
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->v[i], asked) == 0)
            return l->v[i];
    struct str names = {0};
    for (size_t i = 0; i < l->n; i++)
        str_addf(&names, "%s%s", i ? ", " : "", l->v[i]);
    api_fail(e, 404, "model_not_found", "model", "model %.100s: not found; this server has %.300s", asked,
             str_text(&names));
    str_fini(&names);
    return NULL;
}

int app_check_key(const struct app *a, const struct http_call *c, struct api_error *e)
{
    if (!a->auth || auth_check_header(a->auth, http_header(c, "Authorization")) >= 0)
        return 0;
    metric_add(METRIC_REFUSED_KEY, 1);
    return api_fail(e, 401, "invalid_api_key", NULL,
                    http_header(c, "Authorization") ? "the API key is not known here"
                                                    : "no API key: send \"Authorization: Bearer KEY\"");
}

struct tenant app_tenant(const struct app *a, const struct http_call *c, const char *cache_salt, size_t salt_len)
{
    enum { TAG_KEY = 1, TAG_SALT };
    struct tenant t = {.key = a->auth ? auth_check_header(a->auth, http_header(c, "Authorization")) : -1};
    struct hash_state *h = hash_open();
    struct hash_key k = {{0}};
    if (h) {
        if (t.key >= 0 && a->conf->auth.salt_per_key)
            hash_field(h, TAG_KEY, auth_salt(a->auth, t.key), sizeof(struct hash_key));
        hash_field(h, TAG_SALT, cache_salt, salt_len);
        hash_finish(h, &k);
    } else if (sys.random(k.b, sizeof k.b) != 0) { /* no memory: a salt of its own shares nothing */
        memset(k.b, 0xff, sizeof k.b);
    }
    memcpy(t.salt, k.b, sizeof t.salt);
    return t;
}

/* -- from loading to ready */

static void put_size(char out[32], uint64_t bytes)
{
    snprintf(out, 32, bytes >= 1u << 30 ? "%.1f GiB" : "%.0f MiB",
             bytes >= 1u << 30 ? (double)bytes / (1 << 30) : (double)bytes / (1 << 20));
}

/* The one line that says it works, and what to try. */
static void print_ready(const struct app *a)
{
    struct engine_stats st;
    char kv[32];
    const char *url = a->urls.n ? a->urls.v[0] : "";
    engine_get_stats(a->engine, &st);
    put_size(kv, st.kv_bytes);
    printf("hearthd ready: %s  model %s  context %u  KV pool %s (%llu tokens)  %s%s%s%s  in %.1f s\n", url, a->card.id,
           st.ctx_tokens, kv, (unsigned long long)(st.n_blocks * st.block_tokens), st.device,
           a->plan.no_gpu[0] ? " (no GPU: " : "", a->plan.no_gpu, a->plan.no_gpu[0] ? ")" : "",
           (double)(sys.now_ns() - a->started_ns) / 1e9);
    if (strncmp(url, "http", 4) == 0)
        printf("try: curl %s/v1/%s -H 'Content-Type: application/json' -d '%s'\n", url,
               a->chat ? "chat/completions" : "completions",
               a->chat ? "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello!\"}]}" : "{\"prompt\":\"Hello\"}");
    fflush(stdout);
}

/* The server's own first token: after it /ready may say yes. */
static void warm_up(struct app *a)
{
    int32_t ids[1] = {tokenizer_bos(a->tok) >= 0 ? tokenizer_bos(a->tok) : 0};
    struct engine_request r = {.prompt = ids, .n_prompt = 1, .max_tokens = 1, .n = 1};
    struct err e;
    r.sampling = (struct engine_sampling){.top_p = 1, .repetition = 1, .n_logprobs = -1};
    int ret = sys.random(r.salt, sizeof r.salt) == 0 ? engine_submit(a->engine, &r, &a->warm_id, &e)
                                                     : err_set(&e, errno, "random: %s", strerror(errno));
    if (ret) /* on_tick tries again */
        log_warn("engine warm", "error=\"%s\"", e.text);
    else
        a->state = APP_WARMING;
}

static void watch_state(struct app *a)
{
    struct engine_stats st;
    engine_get_stats(a->engine, &st);
    if (st.state == ENGINE_DEAD && a->state != APP_FAILED) {
        snprintf(a->error, sizeof a->error, "%s", st.error);
        a->state = APP_FAILED;
        a->drain_ns = sys.now_ns();
        http_drain(a->http);
    }
    if (st.state == ENGINE_READY && a->state == APP_LOADING) {
        app_sessions_ready(a);
        warm_up(a);
    }
}

static void on_engine(void *ctx)
{
    struct app *a = ctx;
    struct engine_event ev;
    while (engine_poll(a->engine, &ev)) {
        struct gen_part *part = idmap_get(&a->parts, ev.id);
        if (ev.type == ENGINE_SAYS)
            app_sessions_say(a, &ev);
        else if (part)
            gen_event(part, &ev);
        else if (ev.id == a->warm_id && ev.type == ENGINE_DONE && a->state == APP_WARMING) {
            a->state = APP_READY;
            print_ready(a);
            notify_ready("ready");
        } else if (ev.id == a->warm_id && ev.type == ENGINE_FAILED) {
            log_error("engine warm", "error=\"%s\"", ev.text);
            a->state = APP_LOADING; /* once more */
        }
    }
    watch_state(a);
}

static void on_workers(void *ctx)
{
    struct app *a = ctx;
    workers_reap(a->workers);
}

/* -- drain */

static void begin_drain(struct app *a, const char *why)
{
    if (a->state == APP_DRAINING || a->state == APP_FAILED) { /* asked twice, or going anyway: now */
        http_stop(a->http);
        return;
    }
    log_info("server drain", "reason=%s requests=%u timeout_s=%llu", why, a->n_gens,
             (unsigned long long)(a->conf->drain.timeout / 1000));
    notify_stopping("draining");
    a->state = APP_DRAINING;
    a->drain_ns = sys.now_ns();
    http_drain(a->http);
}

/* SIGHUP without a key file: the terminal went away, which has always been the end. */
static void on_signal(void *ctx)
{
    struct app *a = ctx;
    struct signalfd_siginfo info;
    while (sys.read(a->signals, &info, sizeof info) == sizeof info)
        if (info.ssi_signo == SIGHUP && a->conf->auth.key_file)
            reload_keys(a);
        else
            begin_drain(a, info.ssi_signo == SIGTERM ? "SIGTERM" : info.ssi_signo == SIGINT ? "SIGINT" : "SIGHUP");
}

/* The watchdog hears of us when the engine has turned its loop, which it does once a second even without work, or
 * loads: a hang is seen, whether requests run or not. */
static void feed_watchdog(struct app *a, uint64_t now)
{
    struct engine_stats st;
    uint64_t every = notify_watchdog_ns();
    if (!every || now - a->fed_ns < every / 2)
        return;
    engine_get_stats(a->engine, &st);
    if (st.alive == a->alive && st.state == ENGINE_READY)
        return;
    a->alive = st.alive;
    a->fed_ns = now;
    notify_watchdog();
}

static void on_tick(void *ctx)
{
    struct app *a = ctx;
    uint64_t now = sys.now_ns();
    for (struct gen *g = a->gens, *next; g; g = next) {
        next = g->next;
        gen_tick(g, now);
    }
    on_workers(a); /* a bell that could not be rung costs a tick */
    on_engine(a);
    app_sessions_tick(a, now);
    feed_watchdog(a, now);
    /* an answer, if only an error, is given time to leave */
    uint64_t patience = a->state == APP_DRAINING ? a->conf->drain.timeout * 1000000
                        : a->state == APP_FAILED ? FAREWELL_NS
                                                 : UINT64_MAX;
    if (patience != UINT64_MAX && (http_open_calls(a->http) == 0 || now - a->drain_ns > patience))
        http_stop(a->http);
}

/* -- open and close */

int app_open(struct app *a, const struct config *conf, struct err *e)
{
    struct engine_config ec;
    struct http_app callbacks = {a, on_head, on_body, on_room, on_gone, on_refusal};
    memset(a, 0, sizeof *a);
    a->conf = conf;
    a->signals = -1;
    a->started_ns = sys.now_ns();
    app_engine_config(conf, &ec);
    int ret = hash_init_library() ? err_set(e, ENOTSUP, "libcrypto has no SHA-256") : 0;
    if (ret || (ret = engine_make_plan(&ec, &a->plan, e)) || (ret = app_name_model(a, e)) ||
        (ret = app_open_signals(a, e)) || (ret = app_open_http(a, &callbacks, e)) || (ret = app_open_text(a, e)))
        goto fail;
    if (sys.random(ec.secret, sizeof ec.secret) != 0) {
        ret = err_set(e, errno, "random: %s", strerror(errno));
        goto fail;
    }
    /* what was worked out here holds for every engine, whatever is free or broken a moment later: streams that go on in
     * a new engine must not change their numerics */
    snprintf(ec.backend, sizeof ec.backend, "%s", strcmp(a->plan.backend, "cuda") == 0 ? "cuda" : "cpu");
    if (a->plan.no_gpu[0])
        log_warn("engine backend", "backend=%s reason=\"no GPU: %s\"", a->plan.backend, a->plan.no_gpu);
    ec.kv_bytes = a->plan.kv_bytes;
    ec.ctx_tokens = a->plan.ctx_tokens;
    enum engine_mode mode = conf->engine.mode == CONFIG_ENGINE_THREAD ? ENGINE_MODE_THREAD : ENGINE_MODE_EXEC;
    if ((ret = app_sessions_open(a, e)) ||
        (ret = workers_open(&a->workers, (uint32_t)conf->text.workers, WORKERS_QUEUED, e)) ||
        (ret = engine_open(&a->engine, &ec, mode, NULL, e)) ||
        (ret = http_watch(a->http, engine_fd(a->engine), on_engine, a, e)) ||
        (ret = http_watch(a->http, workers_fd(a->workers), on_workers, a, e)) ||
        (ret = http_watch(a->http, a->signals, on_signal, a, e)))
        goto fail;
    http_every(a->http, TICK_MS, on_tick, a);
    return 0;
fail:
    app_close(a);
    return ret;
}

int app_run(struct app *a, struct err *e)
{
    int ret = http_run(a->http, e);
    if (!ret && a->state == APP_FAILED)
        ret = err_set(e, EPIPE, "%s", a->error);
    return ret;
}

void app_close(struct app *a)
{
    http_close(a->http); /* ends the calls, so that every gen is cancelled or with a worker */
    a->http = NULL;
    workers_close(a->workers);
    assert(a->n_gens == 0);
    app_sessions_close(a);
    for (size_t i = 0; i < a->questions.cap; i++) /* that the engine has not answered */
        free(a->questions.slots[i].value);
    idmap_fini(&a->questions);
    engine_close(a->engine);
    idmap_fini(&a->parts);
    chat_close(a->chat);
    tokenizer_close(a->tok);
    auth_close(a->auth);
    if (a->signals >= 0)
        sys.close(a->signals);
    for (size_t i = 0; i < a->urls.n; i++)
        free((char *)a->urls.v[i]);
    free(a->urls.v);
    free(a->own_name);
    memset(a, 0, sizeof *a);
    a->signals = -1;
}
