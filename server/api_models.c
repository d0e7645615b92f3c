/* api_models - GET /v1/models and /v1/models/{id}. */
#include "server/app.h"
#include "server/route.h"

#include "engine/base/json.h"

#include <string.h>

static void put_model(const struct app *a, const char *name, struct str *out)
{
    str_puts(out, "{\"id\":");
    json_put_cstr(out, name);
    str_addf(out,
             ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"hearth\",\"root\":", (long long)a->card.created);
    json_put_cstr(out, a->card.id);
    str_addf(out, ",\"parent\":null,\"max_model_len\":%u,\"context_length\":%u}", a->plan.ctx_tokens,
             a->plan.ctx_tokens);
}

static void handle_list(struct app *a, struct http_call *c)
{
    struct str out = {0};
    str_puts(&out, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < a->card.names.n; i++) {
        if (i)
            str_putc(&out, ',');
        put_model(a, a->card.names.v[i], &out);
    }
    str_puts(&out, "]}");
    reply_json(c, 200, &out);
    str_fini(&out);
}

static void handle_one(struct app *a, struct http_call *c)
{
    struct str out = {0};
    struct api_error e;
    const char *name = app_model_name(a, http_path(c) + strlen("/v1/models/"), &e);
    if (!name) {
        reply_error(c, &e);
        return;
    }
    put_model(a, name, &out);
    reply_json(c, 200, &out);
    str_fini(&out);
}

const struct route api_models_routes[] = {
    {"GET", "/v1/models", ROUTE_KEY, handle_list},
    {"GET", "/v1/models/*", ROUTE_KEY, handle_one},
    {NULL, NULL, ROUTE_KEY, NULL},
};
