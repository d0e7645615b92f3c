/* gen - see gen.h. */
#include "server/gen.h"

#include "engine/base/sys.h"
#include "engine/base/vec.h"
#include "server/metric.h"
#include "server/sessions_app.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PARTS_MAX  256            /* prompts of one request */
#define MEMORY_MAX (256ull << 20) /* of one request's parsed form, without ids */

/* -- life */

static void choice_fini(struct gen_choice *c)
{
    free(c->ids);
    free(c->lps);
    free(c->offsets);
    stop_fini(&c->stop);
    str_fini(&c->text);
}

void gen_free(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_parts; i++) {
        if (g->parts[i].live) {
            idmap_remove(&g->app->parts, g->parts[i].engine_id);
            engine_cancel(g->app->engine, g->parts[i].engine_id);
        }
        free(g->parts[i].prompt.ids);
    }
    for (uint32_t i = 0; i < g->n_choices; i++)
        choice_fini(&g->choices[i]);
    app_session_end(g->app, g->session);
    if (g->prev)
        g->prev->next = g->next;
    else
        g->app->gens = g->next;
    if (g->next)
        g->next->prev = g->prev;
    g->app->n_gens--;
    str_fini(&g->p.ignored);
    str_fini(&g->out);
    arena_fini(&g->mem);
    free(g->parts);
    free(g->choices);
    http_give_body(g->app->http, &g->body);
    free(g);
}

void gen_gone(struct gen *g)
{
    if (g->answered && g->choices && !g->error.status) {
        metric_observe(METRIC_E2E, sys.now_ns() - http_start_ns(g->call));
        metric_observe(METRIC_REQUEST_GENERATED, gen_completion_tokens(g));
    }
    for (uint32_t i = 0; g->n_live && i < g->n_choices; i++)
        metric_add(METRIC_FINISH_CANCELLED, !g->choices[i].finish);
    gen_log_answers(g);
    g->call = NULL;
    if (!g->in_worker)
        gen_free(g);
}

/* -- worker: bytes to ids */

int gen_add_part(struct gen *g, struct token_ids *prompt, const char *echo, size_t n_echo)
{
    size_t cap = g->n_parts;
    if (g->n_parts == PARTS_MAX)
        return api_fail(&g->error, 400, "invalid_value", "prompt", "prompt: at most %d prompts in one request",
                        PARTS_MAX);
    if (vec_grow(&g->parts, &cap, g->n_parts + 1, sizeof *g->parts) != 0)
        return api_fail(&g->error, 503, "out_of_memory", NULL, "no memory for the request");
    g->parts[g->n_parts] = (struct gen_part){.index = g->n_parts, .prompt = *prompt, .echo = echo, .n_echo = n_echo};
    g->n_parts++;
    *prompt = (struct token_ids){0};
    return 0;
}

/* Does the longest prompt fit the context, with what was asked for or at least one token? */
static int check_length(struct gen *g)
{
    uint64_t ctx = g->app->plan.ctx_tokens, longest = 0;
    struct gen_params *p = &g->p;
    for (uint32_t i = 0; i < g->n_parts; i++)
        if (g->parts[i].prompt.n > longest)
            longest = g->parts[i].prompt.n;
    uint64_t want = p->max_tokens ? (uint64_t)p->max_tokens : 1;
    if (longest + want > ctx) {
        metric_add(METRIC_REFUSED_TOO_LONG, 1);
        return api_fail(&g->error, 400, "context_length_exceeded",
                        g->dialect->params == PARAMS_CHAT ? "messages" : "prompt",
                        "the context holds %llu tokens; the prompt has %llu and max_tokens asks for %llu more",
                        (unsigned long long)ctx, (unsigned long long)longest, (unsigned long long)want);
    }
    if (p->min_tokens > 0 && p->max_tokens && p->min_tokens > p->max_tokens)
        return api_fail(&g->error, 400, "invalid_value", "min_tokens", "min_tokens %lld: more than max_tokens %lld",
                        (long long)p->min_tokens, (long long)p->max_tokens);
    return 0;
}

static int parse(struct gen *g)
{
    struct err e;
    struct json *doc;
    const struct app *a = g->app;
    int ret = json_parse(&doc, g->body.bytes ? g->body.bytes : "", g->body.n, NULL, &e);
    if (ret)
        return api_fail(&g->error, ret == -ENOMEM ? 503 : 400, ret == -ENOMEM ? "out_of_memory" : "invalid_json", NULL,
                        "%s", e.text);
    ret = params_read(&g->p, json_root(doc), g->dialect->params, tokenizer_vocab(a->tok), g->dialect->own_fields,
                      &g->mem, &g->error);
    if (!ret && !(g->model = app_model_name(a, g->p.model, &g->error)))
        ret = -1;
    if (!ret)
        ret = g->dialect->parse(g, json_root(doc));
    json_close(doc);
    return ret ? ret : check_length(g);
}

static void work(struct worker_job *j)
{
    struct gen *g = (struct gen *)(void *)j;
    if (parse(g) && !g->error.status)
        api_fail(&g->error, 500, "internal_error", NULL, "the request could not be read");
}

/* -- loop: submit */

void gen_fail(struct gen *g)
{
    g->answered = true;
    if (!g->call)
        return;
    if (!g->streaming) {
        reply_error(g->call, &g->error);
        return;
    }
    struct str out = {0};
    str_puts(&out, "data: ");
    api_put_error(&g->error, &out);
    str_puts(&out, "\n\n");
    if (out.oom || http_stream_write(g->call, out.data, out.len) != 0)
        http_abort(g->call);
    else
        http_stream_end(g->call);
    str_fini(&out);
}

void gen_cancel_parts(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_parts; i++)
        if (g->parts[i].live) {
            idmap_remove(&g->app->parts, g->parts[i].engine_id);
            engine_cancel(g->app->engine, g->parts[i].engine_id);
            g->parts[i].live = false;
        }
    g->n_live = 0;
}

void gen_engine_failed(struct gen *g, enum engine_failure why, const char *text)
{
    struct engine_stats st;
    gen_cancel_parts(g);
    metric_add(why == ENGINE_FAIL_QUEUE_FULL ? METRIC_REFUSED_QUEUE
               : why == ENGINE_FAIL_TOO_LONG ? METRIC_REFUSED_TOO_LONG
                                             : METRIC_FINISH_ERROR,
               1);
    switch (why) {
    case ENGINE_FAIL_QUEUE_FULL:
        api_fail(&g->error, 429, "queue_full", NULL, "%s", text);
        g->error.retry_ms = 1000;
        break;
    case ENGINE_FAIL_TOO_LONG:
        api_fail(&g->error, 400, "context_length_exceeded", NULL, "%s", text);
        break;
    case ENGINE_FAIL_DIED:
        api_fail(&g->error, 500, "engine_died", NULL, "%s", text);
        break;
    default:
        engine_get_stats(g->app->engine, &st);
        if (st.state == ENGINE_DEAD)
            api_fail(&g->error, 503, "engine_dead", NULL, "the engine has stopped; the server's log says why");
        else
            api_fail(&g->error, 500, "engine_error", NULL, "%s", text);
    }
    gen_fail(g);
}

/* Ids that end a choice: the model's, unless ignored, and the request's. */
static uint32_t stop_ids(const struct gen *g, int32_t out[ENGINE_STOP_IDS_MAX])
{
    size_t n_eog = 0;
    const int32_t *eog = tokenizer_eog(g->app->tok, &n_eog);
    uint32_t n = 0;
    for (size_t i = 0; !g->p.ignore_eos && i < n_eog && n < ENGINE_STOP_IDS_MAX / 2; i++)
        out[n++] = eog[i];
    memcpy(out + n, g->p.stop_ids, g->p.n_stop_ids * sizeof *out);
    return n + g->p.n_stop_ids;
}

static uint64_t fresh_seed(const struct gen *g)
{
    uint64_t seed;
    if (g->app->conf->seed >= 0)
        return (uint64_t)g->app->conf->seed;
    return sys.random(&seed, sizeof seed) == 0 ? seed : sys.now_ns();
}

/* As many as were asked for; else the configuration's default, as far as the context goes. */
static uint32_t max_tokens(const struct gen *g, const struct gen_part *part)
{
    uint32_t rest = g->app->plan.ctx_tokens - (uint32_t)part->prompt.n;
    if (g->p.max_tokens)
        return (uint32_t)g->p.max_tokens;
    return g->p.default_max_tokens && g->p.default_max_tokens < rest ? (uint32_t)g->p.default_max_tokens : rest;
}

static int submit_part(struct gen *g, struct gen_part *part, struct engine_request *r, struct err *e)
{
    r->prompt = part->prompt.ids;
    r->n_prompt = part->prompt.n;
    r->max_tokens = max_tokens(g, part);
    r->in_session = g->session && part->index == 0; /* of several prompts the first is the conversation */
    int ret = engine_submit(g->app->engine, r, &part->engine_id, e);
    if (ret)
        return ret;
    if (idmap_put(&g->app->parts, part->engine_id, part) != 0) {
        engine_cancel(g->app->engine, part->engine_id);
        return err_set(e, ENOMEM, "no memory for the request");
    }
    part->gen = g;
    part->live = true;
    g->n_live++;
    return 0;
}

static void submit(struct gen *g)
{
    int32_t stops[ENGINE_STOP_IDS_MAX];
    struct engine_request r = {
        .min_tokens = (uint32_t)g->p.min_tokens,
        .n = (uint32_t)g->p.n,
        .priority = (int32_t)g->p.priority,
        .sampling = params_sampling(&g->p, g->dialect->params, fresh_seed(g)),
        .stop_ids = stops,
        .n_stop_ids = stop_ids(g, stops),
        .bias = g->p.bias,
        .n_bias = g->p.n_bias,
        .progress = g->p.stream && g->p.return_progress,
        .no_cache = !g->p.cache_prompt,
        .in_memory = g->p.retention == SESSION_IN_MEMORY,
    };
    memcpy(r.salt, g->tenant.salt, sizeof r.salt);
    g->n_choices = g->n_open = g->n_parts * (uint32_t)g->p.n;
    g->choices = calloc(g->n_choices, sizeof *g->choices);
    if (!g->choices) {
        g->n_choices = 0;
        gen_engine_failed(g, ENGINE_FAIL_QUEUE_FULL, "no memory for the request");
        return;
    }
    for (uint32_t i = 0; i < g->n_choices; i++)
        g->choices[i].stop_id = g->choices[i].stop_text = -1;
    g->submitted_ns = sys.now_ns();
    for (uint32_t i = 0; i < g->n_parts; i++) {
        struct err e;
        int ret = submit_part(g, &g->parts[i], &r, &e);
        if (ret) {
            gen_engine_failed(g, ret == -EAGAIN || ret == -ENOMEM ? ENGINE_FAIL_QUEUE_FULL : ENGINE_FAIL_INTERNAL,
                              e.text);
            return;
        }
    }
}

static void worked(struct worker_job *j)
{
    struct gen *g = (struct gen *)(void *)j;
    g->in_worker = false;
    http_give_body(g->app->http, &g->body);
    if (!g->call) {
        gen_free(g);
        return;
    }
    if (!g->error.status && app_check_key(g->app, g->call, &g->error) == 0 && /* it may have been taken away since */
        app_check_ready(g->app, &g->error) == 0 && app_session_name(&g->p, g->call, &g->session_name, &g->error) == 0) {
        g->tenant = app_tenant(g->app, g->call, g->p.cache_salt, g->p.cache_salt ? strlen(g->p.cache_salt) : 0);
        if (g->session_name)
            g->session = app_session_begin(g->app, g->call, &g->p, g->session_name, g->tenant.salt);
        gen_log_prompts(g);
        submit(g);
        return;
    }
    gen_fail(g);
}

void gen_start(struct app *a, struct http_call *c, const struct dialect *d)
{
    struct api_error e;
    if (app_check_ready(a, &e) != 0) {
        metric_add(METRIC_REFUSED_NOT_READY, 1);
        reply_error(c, &e);
        return;
    }
    struct gen *g = calloc(1, sizeof *g);
    uint64_t id;
    if (!g || sys.random(&id, sizeof id) != 0) {
        free(g);
        api_fail(&e, 503, "out_of_memory", NULL, "no memory for the request");
        reply_error(c, &e);
        return;
    }
    g->job.work = work;
    g->job.done = worked;
    g->app = a;
    g->call = c;
    g->dialect = d;
    g->mem.limit = MEMORY_MAX;
    g->created = sys.wall_s();
    snprintf(g->id, sizeof g->id, "%s%016llx", d->id_prefix, (unsigned long long)id);
    params_defaults(&g->p, a->conf, &a->sampling);
    g->next = a->gens;
    if (g->next)
        g->next->prev = g;
    a->gens = g;
    a->n_gens++;
    g->body = http_take_body(c);
    http_set_user(c, g);
    g->in_worker = workers_submit(a->workers, &g->job) == 0;
    if (!g->in_worker) {
        api_fail(&g->error, 429, "queue_full", NULL, "too many requests are being read");
        g->error.retry_ms = 1000;
        gen_fail(g);
    }
}

uint64_t gen_prompt_tokens(const struct gen *g)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < g->n_parts; i++)
        n += g->parts[i].prompt.n;
    return n;
}

uint64_t gen_completion_tokens(const struct gen *g)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < g->n_choices; i++)
        n += g->choices[i].n_done;
    return n;
}

uint64_t gen_cached_tokens(const struct gen *g)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < g->n_parts; i++)
        n += g->parts[i].cached;
    return n;
}
