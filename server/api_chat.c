/* api_chat - POST /v1/chat/completions. Wire shape: OpenAI's chat completions. */
#include "server/gen.h"
#include "server/route.h"

#include "engine/base/json.h"
#include "engine/base/sys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGES_MAX 100000

/* -- request */

static const char *const roles[] = {"system", "developer", "user", "assistant", "tool", "function", NULL};

static int bad(struct gen *g, size_t i, const char *member, const char *code, const char *what)
{
    char param[64];
    snprintf(param, sizeof param, "messages[%zu]%s%s", i, *member ? "." : "", member);
    return api_fail(&g->error, 400, code, param, "%s: %s", param, what);
}

/* Content as one string: text parts one after the other. Other parts need a model that sees or hears. */
static int put_content(struct gen *g, size_t i, const struct json_val *v, struct str *out)
{
    size_t n;
    const char *text = v ? json_text(v, &n) : NULL;
    if (text) {
        json_put_text(out, text, n);
        return 0;
    }
    if (!v || json_typeof(v) == JSON_NULL) {
        str_puts(out, "\"\"");
        return 0;
    }
    if (json_typeof(v) != JSON_ARRAY)
        return bad(g, i, "content", "invalid_type", "must be a string or an array of parts");
    struct str all = {0};
    int ret = 0;
    for (const struct json_val *part = json_first(v); part && !ret; part = json_next(part)) {
        const char *type = json_text(json_get(part, "type"), &n);
        text = json_text(json_get(part, "text"), &n);
        if (!type || strcmp(type, "text") != 0)
            ret = bad(g, i, "content", "unsupported_parameter",
                      "only parts of type \"text\" are supported by this model");
        else if (!text)
            ret = bad(g, i, "content", "invalid_type", "a part of type \"text\" needs a string \"text\"");
        else
            str_add(&all, text, n);
    }
    json_put_text(out, str_text(&all), all.len);
    out->oom |= all.oom;
    str_fini(&all);
    return ret;
}

static const char *role_of(const struct json_val *m)
{
    size_t n;
    const char *role = json_text(json_get(m, "role"), &n);
    for (size_t i = 0; role && roles[i]; i++)
        if (strcmp(roles[i], role) == 0)
            return i == 1 ? roles[0] : roles[i]; /* developer is what system was */
    return NULL;
}

/* Checked members, and what templates read besides (name, tool_call_id, tool_calls, reasoning_content). */
static int put_message(struct gen *g, size_t i, const struct json_val *m, struct str *out)
{
    static const char *const also[] = {"name", "tool_call_id", "tool_calls", "reasoning_content", NULL};
    if (json_typeof(m) != JSON_OBJECT)
        return bad(g, i, "", "invalid_type", "must be an object with role and content");
    const char *role = role_of(m);
    if (!role)
        return bad(g, i, "role", "invalid_value", "must be system, developer, user, assistant, tool or function");
    const struct json_val *content = json_get(m, "content");
    if ((!content || json_typeof(content) == JSON_NULL) && strcmp(role, "assistant") != 0)
        return bad(g, i, "content", "missing_required_parameter", "is missing");
    str_addf(out, i ? ",{\"role\":\"%s\",\"content\":" : "{\"role\":\"%s\",\"content\":", role);
    if (put_content(g, i, content, out))
        return -1;
    for (size_t k = 0; also[k]; k++) {
        const struct json_val *v = json_get(m, also[k]);
        if (!v || json_typeof(v) == JSON_NULL)
            continue;
        str_addf(out, ",\"%s\":", also[k]);
        json_put_value(out, v, false);
    }
    str_putc(out, '}');
    return 0;
}

static void put_var(const char *key, size_t n, const struct json_val *v, struct str *out)
{
    str_putc(out, ',');
    json_put_text(out, key, n);
    str_putc(out, ':');
    json_put_value(out, v, false);
}

/* The template's variables as JSON text. */
static int put_vars(struct gen *g, const struct json_val *root, struct str *out)
{
    const struct json_val *messages = json_get(root, "messages"), *kwargs = json_get(root, "chat_template_kwargs");
    static const char *const knobs[] = {"reasoning_effort", "verbosity", NULL};
    size_t i = 0;
    struct err e;
    if (!messages || json_typeof(messages) != JSON_ARRAY || json_count(messages) == 0)
        return api_fail(&g->error, 400, messages ? "invalid_value" : "missing_required_parameter", "messages",
                        "messages: must be an array with at least one message");
    if (json_count(messages) > MESSAGES_MAX)
        return api_fail(&g->error, 400, "invalid_value", "messages", "messages of %zu entries: at most %d",
                        json_count(messages), MESSAGES_MAX);
    if (json_ints(messages, &i))
        return bad(g, 0, "", "invalid_type", "must be an object with role and content");
    str_addf(out, "{\"add_generation_prompt\":%s,%s\"messages\":[", g->p.add_generation_prompt ? "true" : "false",
             g->p.continue_final_message ? "\"continue_final_message\":true," : "");
    i = 0;
    for (const struct json_val *m = json_first(messages); m; m = json_next(m))
        if (put_message(g, i++, m, out))
            return -1;
    str_putc(out, ']');
    if (kwargs && json_typeof(kwargs) != JSON_NULL) {
        if (chat_check_kwargs(g->app->chat, kwargs, &e) != 0)
            return api_fail(&g->error, 400, "invalid_value", "chat_template_kwargs", "%s", e.text);
        for (const struct json_val *v = json_first(kwargs); v; v = json_next(v)) {
            size_t n;
            const char *key = json_key(v, &n);
            if (strlen(key) == n && chat_reads(g->app->chat, key))
                put_var(key, n, v, out);
        }
    }
    for (i = 0; knobs[i]; i++) { /* fields that some templates know; others have no use for them */
        const struct json_val *v = json_get(root, knobs[i]);
        if (v && json_typeof(v) == JSON_STRING && !json_get(kwargs, knobs[i]) && chat_reads(g->app->chat, knobs[i]))
            put_var(knobs[i], strlen(knobs[i]), v, out);
    }
    str_putc(out, '}');
    return out->oom ? api_fail(&g->error, 503, "out_of_memory", NULL, "no memory for the request") : 0;
}

static int encode(struct gen *g, const struct str *vars)
{
    struct json *doc;
    struct err e;
    struct token_ids ids = {0};
    int ret = json_parse(&doc, vars->data, vars->len, NULL, &e);
    if (ret == 0) {
        ret = chat_encode(g->app->chat, json_root(doc), sys.wall_s(), NULL, &ids, &e);
        json_close(doc);
    }
    if (ret == -ENOMEM)
        ret = api_fail(&g->error, 503, "out_of_memory", NULL, "no memory for the request");
    else if (ret)
        ret = api_fail(&g->error, 400, "invalid_value", "messages", "%s", e.text);
    else if (ids.n == 0)
        ret = api_fail(&g->error, 400, "invalid_value", "messages",
                       "messages: the chat template makes an empty prompt");
    else
        ret = gen_add_part(g, &ids, NULL, 0);
    free(ids.ids);
    return ret;
}

static int chat_parse(struct gen *g, const struct json_val *root)
{
    struct str vars = {0};
    if (!g->app->chat)
        return api_fail(&g->error, 400, "no_chat_template", NULL,
                        "this model has no chat template; use /v1/completions, or start the server with "
                        "--set model.chat_template=FILE");
    int ret = put_vars(g, root, &vars);
    if (!ret)
        ret = encode(g, &vars);
    str_fini(&vars);
    return ret;
}

/* -- answer */

static void put_one(const struct gen *g, int32_t id, float logprob, struct str *out)
{
    size_t n = 0;
    const char *bytes = tokenizer_token_bytes(g->app->tok, id, &n);
    str_puts(out, "{\"token\":");
    gen_put_token_text(g, id, out);
    str_puts(out, ",\"logprob\":");
    gen_put_logprob(logprob, out);
    str_puts(out, ",\"bytes\":[");
    for (size_t i = 0; i < n; i++)
        str_addf(out, i ? ",%u" : "%u", (unsigned char)bytes[i]);
    str_putc(out, ']');
}

/* Log probabilities of the tokens that the next chunk (or the whole answer) holds. */
static void put_logprobs(const struct gen *g, const struct gen_choice *c, struct str *out)
{
    if (!c->lps || c->n_sent == c->n_done) {
        str_puts(out, g->p.logprobs && !g->p.stream ? ",\"logprobs\":{\"content\":[],\"refusal\":null}"
                                                    : ",\"logprobs\":null");
        return;
    }
    str_puts(out, ",\"logprobs\":{\"content\":[");
    for (size_t i = c->n_sent; i < c->n_done; i++) {
        const struct engine_logprob *lp = &c->lps[i];
        if (i > c->n_sent)
            str_putc(out, ',');
        put_one(g, c->ids[i], lp->logprob, out);
        str_puts(out, ",\"top_logprobs\":[");
        for (int32_t k = 0; k < lp->n_top; k++) {
            if (k)
                str_putc(out, ',');
            put_one(g, lp->top[k].id, lp->top[k].logprob, out);
            str_putc(out, '}');
        }
        str_puts(out, "]}");
    }
    str_puts(out, "],\"refusal\":null}");
}

static void chat_put_delta(const struct gen *g, const struct gen_choice *c, size_t n, struct str *out)
{
    str_puts(out, c->begun ? "\"delta\":{" : "\"delta\":{\"role\":\"assistant\"");
    if (n || !c->begun) {
        str_puts(out, c->begun ? "\"content\":" : ",\"content\":");
        json_put_text(out, str_text(&c->text), n);
    }
    str_putc(out, '}');
    put_logprobs(g, c, out);
}

static void chat_put_whole(const struct gen *g, const struct gen_choice *c, struct str *out)
{
    str_puts(out, "\"message\":{\"role\":\"assistant\",\"content\":");
    json_put_text(out, str_text(&c->text), c->text.len);
    str_puts(out, ",\"refusal\":null}");
    put_logprobs(g, c, out);
}

static const char *const own_fields[] = {"messages", "chat_template_kwargs", "stream_options", "tool_choice", NULL};

static const struct dialect chat_dialect = {
    .params = PARAMS_CHAT,
    .id_prefix = "chatcmpl-",
    .object = "chat.completion",
    .chunk_object = "chat.completion.chunk",
    .parse = chat_parse,
    .own_fields = own_fields,
    .put_delta = chat_put_delta,
    .put_whole = chat_put_whole,
};

static void handle_chat(struct app *a, struct http_call *c)
{
    gen_start(a, c, &chat_dialect);
}

const struct route api_chat_routes[] = {
    {"POST", "/v1/chat/completions", ROUTE_KEY, handle_chat},
    {NULL, NULL, ROUTE_KEY, NULL},
};
