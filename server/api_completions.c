/* api_completions - POST /v1/completions: text or token ids in, text out. Wire shape: OpenAI's legacy completions. */
#include "server/gen.h"
#include "server/route.h"

#include "engine/base/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int no_memory(struct gen *g)
{
    return api_fail(&g->error, 503, "out_of_memory", NULL, "no memory for the request");
}

static bool push_id(struct token_ids *ids, int32_t id)
{
    int32_t *more = realloc(ids->ids, (ids->n + 1) * sizeof *more);
    if (!more)
        return false;
    ids->ids = more;
    ids->ids[ids->n++] = id;
    ids->cap = ids->n;
    return true;
}

/* What a prompt of no tokens begins with: bos, or the end of the text before. */
static int start_empty(struct gen *g, struct token_ids *ids)
{
    int32_t bos = tokenizer_bos(g->app->tok), first = bos >= 0 ? bos : tokenizer_eos(g->app->tok);
    if (first < 0)
        return api_fail(&g->error, 400, "invalid_value", "prompt",
                        "prompt: is empty, and the model has no token to begin with");
    return push_id(ids, first) ? 0 : no_memory(g);
}

static int add_text(struct gen *g, const char *text, size_t n)
{
    struct token_ids ids = {0};
    struct err e;
    const struct tokenizer *t = g->app->tok;
    int ret = 0;
    if (tokenizer_add_bos(t) && tokenizer_bos(t) >= 0 && !push_id(&ids, tokenizer_bos(t)))
        ret = no_memory(g);
    if (!ret) {
        ret = tokenizer_encode(t, text, n, true, &ids, &e);
        if (ret)
            ret = ret == -ENOMEM ? no_memory(g)
                                 : api_fail(&g->error, 400, "invalid_value", "prompt", "prompt: %s", e.text);
    }
    if (!ret && ids.n == 0)
        ret = start_empty(g, &ids);
    const char *echo = NULL;
    if (!ret && g->p.echo && !(echo = arena_copy(&g->mem, text, n)))
        ret = no_memory(g);
    if (!ret)
        ret = gen_add_part(g, &ids, echo, n);
    free(ids.ids);
    return ret;
}

static const char *decode(struct gen *g, const int32_t *ids, size_t n, size_t *len)
{
    struct str text = {0};
    struct detok d = {0};
    for (size_t i = 0; i < n; i++)
        detok_push(&d, g->app->tok, ids[i], g->p.skip_special_tokens, &text);
    detok_finish(&d, &text);
    *len = text.len;
    const char *copy = text.oom ? NULL : arena_copy(&g->mem, str_text(&text), text.len);
    str_fini(&text);
    return copy;
}

static int add_ids(struct gen *g, const int32_t *list, size_t n)
{
    struct token_ids ids = {0};
    int32_t vocab = tokenizer_vocab(g->app->tok);
    for (size_t i = 0; i < n; i++)
        if (list[i] < 0 || list[i] >= vocab)
            return api_fail(&g->error, 400, "invalid_value", "prompt",
                            "prompt: token id %d at place %zu: must be from 0 to %d", list[i], i, vocab - 1);
    if (n == 0 && start_empty(g, &ids))
        return -1;
    if (n) {
        ids.ids = malloc(n * sizeof *ids.ids);
        if (!ids.ids)
            return no_memory(g);
        memcpy(ids.ids, list, n * sizeof *ids.ids);
        ids.n = ids.cap = n;
    }
    const char *echo = NULL;
    size_t n_echo = 0;
    int ret = 0;
    if (g->p.echo && !(echo = decode(g, list, n, &n_echo)))
        ret = no_memory(g);
    if (!ret)
        ret = gen_add_part(g, &ids, echo, n_echo);
    free(ids.ids);
    return ret;
}

static int bad_type(struct gen *g)
{
    return api_fail(&g->error, 400, "invalid_type", "prompt",
                    "prompt: must be a string, an array of strings, an array of token ids, or an array of such arrays");
}

static int add_prompt(struct gen *g, const struct json_val *v)
{
    size_t n;
    const char *text = json_text(v, &n);
    if (text)
        return add_text(g, text, n);
    const int32_t *ids = json_ints(v, &n);
    return ids ? add_ids(g, ids, n) : bad_type(g);
}

static int completions_parse(struct gen *g, const struct json_val *root)
{
    const struct json_val *v = json_get(root, "prompt");
    size_t n;
    if (!v || json_typeof(v) == JSON_NULL)
        return api_fail(&g->error, 400, "missing_required_parameter", "prompt", "prompt: is missing");
    if (json_typeof(v) == JSON_STRING || json_ints(v, &n))
        return add_prompt(g, v);
    if (json_typeof(v) != JSON_ARRAY)
        return bad_type(g);
    for (const struct json_val *p = json_first(v); p; p = json_next(p))
        if (add_prompt(g, p))
            return -1;
    return 0;
}

/* -- answer */

static void put_top(const struct gen *g, const struct engine_logprob *lp, struct str *out)
{
    str_putc(out, '{');
    for (int32_t t = 0; t < lp->n_top; t++) {
        if (t)
            str_putc(out, ',');
        gen_put_token_text(g, lp->top[t].id, out);
        str_putc(out, ':');
        gen_put_logprob(lp->top[t].logprob, out);
    }
    str_putc(out, '}');
}

/* Four arrays side by side over the tokens that the next chunk (or the whole answer) holds. */
static void put_logprobs(const struct gen *g, const struct gen_choice *c, struct str *out)
{
    static const char *const names[] = {"{\"tokens\":[", "],\"token_logprobs\":[", "],\"top_logprobs\":[",
                                        "],\"text_offset\":["};
    for (int array = 0; array < 4; array++) {
        str_puts(out, names[array]);
        for (size_t i = c->n_sent; i < c->n_done; i++) {
            if (i > c->n_sent)
                str_putc(out, ',');
            if (array == 0)
                gen_put_token_text(g, c->ids[i], out);
            else if (array == 1)
                gen_put_logprob(c->lps[i].logprob, out);
            else if (array == 2)
                put_top(g, &c->lps[i], out);
            else
                str_addf(out, "%u", c->offsets[i]);
        }
    }
    str_puts(out, "]}");
}

static void put_delta(const struct gen *g, const struct gen_choice *c, size_t n, struct str *out)
{
    str_puts(out, "\"text\":");
    json_put_text(out, str_text(&c->text), n);
    str_puts(out, ",\"logprobs\":");
    if (g->p.logprobs_count >= 0 && (c->n_sent < c->n_done || !g->p.stream))
        put_logprobs(g, c, out);
    else
        str_puts(out, "null");
}

static void put_whole(const struct gen *g, const struct gen_choice *c, struct str *out)
{
    put_delta(g, c, c->text.len, out);
}

static const char *const own_fields[] = {"prompt", "tool_choice", NULL};

static const struct dialect completions_dialect = {
    .params = PARAMS_COMPLETIONS,
    .id_prefix = "cmpl-",
    .object = "text_completion",
    .chunk_object = "text_completion",
    .parse = completions_parse,
    .own_fields = own_fields,
    .put_delta = put_delta,
    .put_whole = put_whole,
};

static void handle_completions(struct app *a, struct http_call *c)
{
    gen_start(a, c, &completions_dialect);
}

const struct route api_completions_routes[] = {
    {"POST", "/v1/completions", ROUTE_KEY, handle_completions},
    {NULL, NULL, ROUTE_KEY, NULL},
};
