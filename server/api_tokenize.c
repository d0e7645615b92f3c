/* api_tokenize - POST /tokenize and /detokenize, as vLLM has them: text to ids, ids to text. On the workers. */
#include "server/app.h"
#include "server/route.h"

#include "engine/base/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct text_job {
    struct worker_job job; /* first */
    struct app *app;
    uint64_t call; /* http_id: the client may go meanwhile */
    bool decode;
    struct http_body body;
    struct str out;
    struct api_error error;
};

static void put_result(struct text_job *j, const struct token_ids *ids)
{
    str_addf(&j->out, "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":[", ids->n, j->app->plan.ctx_tokens);
    for (size_t i = 0; i < ids->n; i++)
        str_addf(&j->out, i ? ",%d" : "%d", ids->ids[i]);
    str_puts(&j->out, "]}");
}

/* The member, or NULL when it is absent or null. */
static const struct json_val *given(const struct json_val *root, const char *name)
{
    const struct json_val *v = json_get(root, name);
    return v && json_typeof(v) != JSON_NULL ? v : NULL;
}

/* A member that is true or false; absent it stays what *out is. */
static int read_flag(struct text_job *j, const struct json_val *root, const char *name, bool *out)
{
    const struct json_val *v = given(root, name);
    if (v && json_typeof(v) != JSON_TRUE && json_typeof(v) != JSON_FALSE)
        return api_fail(&j->error, 400, "invalid_type", name, "%s: must be true or false", name);
    if (v)
        *out = json_typeof(v) == JSON_TRUE;
    return 0;
}

static int check_model(struct text_job *j, const struct json_val *root)
{
    const struct json_val *v = given(root, "model");
    const char *name = json_text(v, NULL);
    if (v && !name)
        return api_fail(&j->error, 400, "invalid_type", "model", "model: must be a string");
    return app_model_name(j->app, name, &j->error) ? 0 : -1;
}

static int encode_text(struct text_job *j, const struct json_val *root)
{
    const struct tokenizer *t = j->app->tok;
    struct token_ids ids = {0};
    struct err e;
    size_t n;
    bool special = true;
    const char *text = json_text(json_get(root, "prompt"), &n);
    if (!text)
        text = json_text(json_get(root, "content"), &n); /* llama.cpp's name */
    if (!text)
        return api_fail(&j->error, 400, "missing_required_parameter", "prompt", "prompt: must be a string");
    if (read_flag(j, root, "add_special_tokens", &special))
        return -1;
    int ret = tokenizer_encode(t, text, n, true, &ids, &e);
    if (ret)
        api_fail(&j->error, ret == -ENOMEM ? 503 : 400, "invalid_value", "prompt", "prompt: %s", e.text);
    else if (special && tokenizer_add_bos(t) && tokenizer_bos(t) >= 0) {
        int32_t *more = realloc(ids.ids, (ids.n + 1) * sizeof *more);
        if (!more) {
            ret = api_fail(&j->error, 503, "out_of_memory", NULL, "no memory for the answer");
        } else {
            ids.ids = more;
            memmove(ids.ids + 1, ids.ids, ids.n * sizeof *ids.ids);
            ids.ids[0] = tokenizer_bos(t);
            ids.n++;
        }
    }
    if (!ret)
        put_result(j, &ids);
    free(ids.ids);
    return ret;
}

static int decode_ids(struct text_job *j, const struct json_val *root)
{
    size_t n;
    const int32_t *ids = json_ints(json_get(root, "tokens"), &n);
    struct str text = {0};
    struct detok d = {0};
    bool skip = false;
    if (!ids)
        return api_fail(&j->error, 400, "invalid_type", "tokens", "tokens: must be an array of token ids");
    if (read_flag(j, root, "skip_special_tokens", &skip))
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= tokenizer_vocab(j->app->tok)) {
            str_fini(&text);
            return api_fail(&j->error, 400, "invalid_value", "tokens", "tokens[%zu] %d: must be from 0 to %d", i,
                            ids[i], tokenizer_vocab(j->app->tok) - 1);
        }
        detok_push(&d, j->app->tok, ids[i], skip, &text);
    }
    detok_finish(&d, &text);
    str_puts(&j->out, "{\"prompt\":");
    json_put_text(&j->out, str_text(&text), text.len);
    str_puts(&j->out, ",\"content\":");
    json_put_text(&j->out, str_text(&text), text.len);
    str_puts(&j->out, "}");
    j->out.oom |= text.oom;
    str_fini(&text);
    return 0;
}

static void work(struct worker_job *w)
{
    struct text_job *j = (struct text_job *)(void *)w;
    struct json *doc;
    struct err e;
    int ret = json_parse(&doc, j->body.bytes ? j->body.bytes : "", j->body.n, NULL, &e);
    if (ret) {
        api_fail(&j->error, ret == -ENOMEM ? 503 : 400, ret == -ENOMEM ? "out_of_memory" : "invalid_json", NULL, "%s",
                 e.text);
        return;
    }
    if (json_typeof(json_root(doc)) != JSON_OBJECT)
        api_fail(&j->error, 400, "invalid_type", NULL, "the body must be a JSON object");
    else if (check_model(j, json_root(doc)) == 0)
        (void)(j->decode ? decode_ids(j, json_root(doc)) : encode_text(j, json_root(doc)));
    json_close(doc);
}

static void worked(struct worker_job *w)
{
    struct text_job *j = (struct text_job *)(void *)w;
    struct http_call *c = http_find(j->app->http, j->call);
    if (c && j->error.status)
        reply_error(c, &j->error);
    else if (c)
        reply_json(c, 200, &j->out);
    str_fini(&j->out);
    http_give_body(j->app->http, &j->body);
    free(j);
}

static void start(struct app *a, struct http_call *c, bool decode)
{
    struct text_job *j = calloc(1, sizeof *j);
    struct api_error e;
    if (j) {
        *j = (struct text_job){.job = {work, worked, NULL}, .app = a, .call = http_id(c), .decode = decode};
        j->body = http_take_body(c);
        if (workers_submit(a->workers, &j->job) == 0)
            return;
        http_give_body(a->http, &j->body);
        free(j);
    }
    api_fail(&e, 429, "queue_full", NULL, "too many requests are being read");
    e.retry_ms = 1000;
    reply_error(c, &e);
}

static void handle_tokenize(struct app *a, struct http_call *c)
{
    start(a, c, false);
}

static void handle_detokenize(struct app *a, struct http_call *c)
{
    start(a, c, true);
}

const struct route api_tokenize_routes[] = {
    {"POST", "/tokenize", ROUTE_KEY, handle_tokenize},
    {"POST", "/detokenize", ROUTE_KEY, handle_detokenize},
    {NULL, NULL, ROUTE_KEY, NULL},
};
