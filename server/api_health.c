/* api_health - /health: the process lives; /ready: it would answer a request now; /version: what it is. */
#include "server/app.h"
#include "server/route.h"

#include "engine/base/json.h"
#include "engine/base/version.h"

static void handle_health(struct app *a, struct http_call *c)
{
    struct str out = {0};
    (void)a;
    str_puts(&out, "{\"status\":\"ok\"}");
    reply_json(c, 200, &out);
    str_fini(&out);
}

static void handle_ready(struct app *a, struct http_call *c)
{
    struct api_error e;
    struct engine_stats st;
    struct str out = {0};
    int ret = app_check_ready(a, &e);
    engine_get_stats(a->engine, &st);
    if (!ret && st.state != ENGINE_READY) { /* requests are taken and wait; whoever has a choice goes elsewhere */
        ret = api_fail(&e, 503, "restarting", NULL, "the engine restarts: %u %%", st.load_percent);
        e.retry_ms = 1000;
    }
    if (ret) {
        reply_error(c, &e);
        return;
    }
    str_puts(&out, "{\"status\":\"ready\",\"model\":");
    json_put_cstr(&out, a->card.id);
    str_addf(&out,
             ",\"context\":%u,\"kv_tokens\":%llu,\"kv_tokens_used\":%llu,\"running\":%llu,\"waiting\":%llu,"
             "\"engine_restarts\":%u}",
             st.ctx_tokens, (unsigned long long)(st.n_blocks * st.block_tokens),
             (unsigned long long)(st.used_blocks * st.block_tokens), (unsigned long long)st.running,
             (unsigned long long)st.waiting, st.restarts);
    reply_json(c, 200, &out);
    str_fini(&out);
}

static void handle_version(struct app *a, struct http_call *c)
{
    struct str out = {0};
    (void)a;
    str_puts(&out, "{\"version\":");
    json_put_cstr(&out, version_number);
    str_puts(&out, "}");
    reply_json(c, 200, &out);
    str_fini(&out);
}

const struct route api_health_routes[] = {
    {"GET", "/health", ROUTE_OPEN, handle_health},
    {"GET", "/ready", ROUTE_OPEN, handle_ready},
    {"GET", "/version", ROUTE_OPEN, handle_version},
    {NULL, NULL, ROUTE_OPEN, NULL},
};
