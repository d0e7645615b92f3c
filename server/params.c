/* params - see params.h. */
#include "server/params.h"

#include "server/sessions.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum kind { K_BOOL, K_INT, K_FLOAT, K_TEXT };

struct field {
    const char *name;
    enum kind kind;
    size_t at; /* in struct gen_params */
    double min, max;
    int dialects;
};

#define BOTH       (PARAMS_CHAT | PARAMS_COMPLETIONS)
#define AT(member) offsetof(struct gen_params, member)

static const struct field fields[] = {
    {"model", K_TEXT, AT(model), 0, 0, BOTH},
    {"temperature", K_FLOAT, AT(temperature), 0, 2, BOTH},
    {"top_p", K_FLOAT, AT(top_p), 0, 1, BOTH},
    {"min_p", K_FLOAT, AT(min_p), 0, 1, BOTH},
    {"top_k", K_INT, AT(top_k), -1, INT32_MAX, BOTH},
    {"repetition_penalty", K_FLOAT, AT(repetition_penalty), 0.01, 100, BOTH},
    {"presence_penalty", K_FLOAT, AT(presence_penalty), -2, 2, BOTH},
    {"frequency_penalty", K_FLOAT, AT(frequency_penalty), -2, 2, BOTH},
    {"seed", K_INT, AT(seed), -9.2e18, 9.2e18, BOTH},
    {"max_tokens", K_INT, AT(max_tokens), 1, INT32_MAX, BOTH},
    {"max_completion_tokens", K_INT, AT(max_completion_tokens), 1, INT32_MAX, PARAMS_CHAT},
    {"min_tokens", K_INT, AT(min_tokens), 0, INT32_MAX, BOTH},
    {"n", K_INT, AT(n), 1, ENGINE_N_MAX, BOTH},
    {"best_of", K_INT, AT(best_of), 1, ENGINE_N_MAX, PARAMS_COMPLETIONS},
    {"priority", K_INT, AT(priority), -1000000, 1000000, BOTH},
    {"stream", K_BOOL, AT(stream), 0, 0, BOTH},
    {"logprobs", K_BOOL, AT(logprobs), 0, 0, PARAMS_CHAT},
    {"logprobs", K_INT, AT(logprobs_count), 0, ENGINE_LOGPROBS_MAX, PARAMS_COMPLETIONS},
    {"top_logprobs", K_INT, AT(top_logprobs), 0, ENGINE_LOGPROBS_MAX, PARAMS_CHAT},
    {"echo", K_BOOL, AT(echo), 0, 0, PARAMS_COMPLETIONS},
    {"ignore_eos", K_BOOL, AT(ignore_eos), 0, 0, BOTH},
    {"skip_special_tokens", K_BOOL, AT(skip_special_tokens), 0, 0, BOTH},
    {"return_progress", K_BOOL, AT(return_progress), 0, 0, BOTH},
    {"return_token_ids", K_BOOL, AT(return_token_ids), 0, 0, BOTH},
    {"add_generation_prompt", K_BOOL, AT(add_generation_prompt), 0, 0, PARAMS_CHAT},
    {"continue_final_message", K_BOOL, AT(continue_final_message), 0, 0, PARAMS_CHAT},
    {"cache_prompt", K_BOOL, AT(cache_prompt), 0, 0, BOTH},
    {"cache_salt", K_TEXT, AT(cache_salt), 0, 128, BOTH},
    {"service_tier", K_TEXT, AT(service_tier), 0, 32, BOTH},
    {"session_id", K_TEXT, AT(session_id), 0, SESSION_NAME_MAX, BOTH},
    {"prompt_cache_key", K_TEXT, AT(prompt_cache_key), 0, SESSION_NAME_MAX, BOTH},
};

/* Read elsewhere in this file, or accepted because SDKs send them and nothing changes by them. */
static const char *const others[] = {"stop",
                                     "stop_token_ids",
                                     "logit_bias",
                                     "stream_options",
                                     "response_format",
                                     "user",
                                     "metadata",
                                     "store",
                                     "tool_choice",
                                     "parallel_tool_calls",
                                     "verbosity",
                                     "reasoning_effort",
                                     "safety_identifier",
                                     "prompt_cache_retention",
                                     "conversation",
                                     "prediction",
                                     NULL};

/* What has its own issue: refused by name, so that nobody believes it worked. A null or empty value is fine. */
static const struct {
    const char *name, *what;
} not_yet[] = {
    {"tools", "tools are not supported yet"},
    {"functions", "functions are not supported yet"},
    {"function_call", "functions are not supported yet"},
    {"audio", "audio output is not supported"},
    {"modalities", "only text is supported"},
    {"guided_json", "structured output is not supported yet"},
    {"guided_regex", "structured output is not supported yet"},
    {"guided_choice", "structured output is not supported yet"},
    {"guided_grammar", "structured output is not supported yet"},
    {"structured_outputs", "structured output is not supported yet"},
    {"regex", "structured output is not supported yet"},
    {"ebnf", "structured output is not supported yet"},
    {"grammar", "structured output is not supported yet"},
    {"suffix", "insertion (suffix) is not supported"},
    {"prompt_logprobs", "log probabilities of the prompt are not supported"},
    {"truncate_prompt_tokens", "prompts are not truncated; send fewer tokens"},
    {"thinking_token_budget", "a thinking budget is not supported yet"},
};

/* The first that is set. */
static double first_set(double a, double b, double otherwise)
{
    return !isnan(a) ? a : !isnan(b) ? b : otherwise;
}

void params_defaults(struct gen_params *p, const struct config *conf, const struct model_sampling *model)
{
    memset(p, 0, sizeof *p);
    p->temperature = first_set(conf->sampling.temperature, model->temperature, 1);
    p->top_p = first_set(conf->sampling.top_p, model->top_p, 1);
    p->min_p = first_set(conf->sampling.min_p, model->min_p, 0);
    p->repetition_penalty = first_set(conf->sampling.repetition_penalty, model->repetition_penalty, 1);
    p->top_k = conf->sampling.top_k >= 0 ? conf->sampling.top_k : model->top_k >= 0 ? model->top_k : 0;
    if (conf->sampling.max_tokens > 0)
        p->default_max_tokens = conf->sampling.max_tokens;
    p->n = 1;
    p->top_logprobs = p->logprobs_count = -1;
    p->skip_special_tokens = p->add_generation_prompt = p->cache_prompt = true;
}

static const char *type_name(const struct json_val *v)
{
    static const char *const names[] = {"null",     "a boolean", "a boolean", "a number",
                                        "a string", "an array",  "an object"};
    return names[json_typeof(v)];
}

/* The number as it stood in the request, cut short, for the error. */
static void number_text(const struct json_val *v, char out[40])
{
    struct str s = {0};
    json_put_value(&s, v, false);
    snprintf(out, 40, "%.39s", str_text(&s));
    str_fini(&s);
}

static int read_number(const struct field *f, const struct json_val *v, void *to, struct api_error *e)
{
    double d;
    int64_t i;
    char text[40];
    if (!json_double(v, &d))
        return api_fail(e, 400, "invalid_type", f->name, "%s: must be %s, not %s", f->name,
                        f->kind == K_INT ? "an integer" : "a number", type_name(v));
    number_text(v, text);
    if (f->kind == K_INT && !json_int(v, &i))
        return api_fail(e, 400, "invalid_value", f->name, "%s %s: must be an integer of at most 64 bits", f->name,
                        text);
    if (!(d >= f->min && d <= f->max))
        return api_fail(e, 400, "invalid_value", f->name, "%s %s: must be from %.15g to %.15g", f->name, text, f->min,
                        f->max);
    if (f->kind == K_INT)
        *(int64_t *)to = i;
    else
        *(double *)to = d;
    return 0;
}

static int read_field(struct gen_params *p, const struct field *f, const struct json_val *v, struct arena *mem,
                      struct api_error *e)
{
    void *to = (char *)p + f->at;
    size_t n;
    if (f->kind == K_INT || f->kind == K_FLOAT)
        return read_number(f, v, to, e);
    if (f->kind == K_BOOL) {
        if (json_typeof(v) != JSON_TRUE && json_typeof(v) != JSON_FALSE)
            return api_fail(e, 400, "invalid_type", f->name, "%s: must be true or false, not %s", f->name,
                            type_name(v));
        *(bool *)to = json_typeof(v) == JSON_TRUE;
        return 0;
    }
    const char *text = json_text(v, &n);
    if (!text)
        return api_fail(e, 400, "invalid_type", f->name, "%s: must be a string, not %s", f->name, type_name(v));
    if (f->max && n > f->max)
        return api_fail(e, 400, "invalid_value", f->name, "%s of %zu bytes: at most %.0f", f->name, n, f->max);
    if (memchr(text, 0, n))
        return api_fail(e, 400, "invalid_value", f->name, "%s: must not hold NUL", f->name);
    *(const char **)to = arena_copy(mem, text, n);
    return *(const char **)to ? 0 : api_fail(e, 503, "out_of_memory", NULL, "no memory for the request");
}

/* -- fields with a shape of their own */

static int add_stop(struct gen_params *p, const struct json_val *v, size_t i, struct arena *mem, struct api_error *e)
{
    size_t n;
    const char *text = json_text(v, &n);
    if (!text || n == 0)
        return api_fail(e, 400, "invalid_value", "stop", "stop[%zu]: must be a string that is not empty", i);
    if (n > 4096)
        return api_fail(e, 400, "invalid_value", "stop", "stop[%zu] of %zu bytes: at most 4096", i, n);
    if (p->stop.n == PARAMS_STOP_MAX)
        return api_fail(e, 400, "invalid_value", "stop", "stop: at most %d strings", PARAMS_STOP_MAX);
    char *copy = arena_copy(mem, text, n);
    if (!copy)
        return api_fail(e, 503, "out_of_memory", NULL, "no memory for the request");
    p->stop.text[p->stop.n] = copy;
    p->stop.len[p->stop.n++] = n;
    if (n > p->stop.longest)
        p->stop.longest = n;
    return 0;
}

static int read_stop(struct gen_params *p, const struct json_val *v, struct arena *mem, struct api_error *e)
{
    if (json_typeof(v) == JSON_STRING)
        return add_stop(p, v, 0, mem, e);
    if (json_typeof(v) != JSON_ARRAY)
        return api_fail(e, 400, "invalid_type", "stop", "stop: must be a string or an array of strings, not %s",
                        type_name(v));
    size_t i = 0, n;
    if (json_ints(v, &n) && n)
        return api_fail(e, 400, "invalid_type", "stop", "stop[0]: must be a string; ids go into stop_token_ids");
    for (const struct json_val *s = json_first(v); s; s = json_next(s))
        if (add_stop(p, s, i++, mem, e))
            return -1;
    return 0;
}

static int read_stop_ids(struct gen_params *p, const struct json_val *v, int32_t vocab, struct api_error *e)
{
    size_t n;
    const int32_t *ids = json_ints(v, &n);
    if (!ids)
        return api_fail(e, 400, "invalid_type", "stop_token_ids", "stop_token_ids: must be an array of token ids");
    if (n > ENGINE_STOP_IDS_MAX / 2)
        return api_fail(e, 400, "invalid_value", "stop_token_ids", "stop_token_ids of %zu ids: at most %d", n,
                        ENGINE_STOP_IDS_MAX / 2);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= vocab)
            return api_fail(e, 400, "invalid_value", "stop_token_ids", "stop_token_ids[%zu] %d: must be from 0 to %d",
                            i, ids[i], vocab - 1);
        p->stop_ids[p->n_stop_ids++] = ids[i];
    }
    return 0;
}

/* A key of logit_bias: digits only. */
static bool id_of_key(const char *key, size_t n, int32_t vocab, int32_t *out)
{
    int64_t id = 0;
    if (n == 0 || n > 10)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (key[i] < '0' || key[i] > '9')
            return false;
        id = id * 10 + (key[i] - '0');
    }
    *out = (int32_t)id;
    return id < vocab;
}

static int read_bias(struct gen_params *p, const struct json_val *v, int32_t vocab, struct arena *mem,
                     struct api_error *e)
{
    if (json_typeof(v) != JSON_OBJECT)
        return api_fail(e, 400, "invalid_type", "logit_bias",
                        "logit_bias: must be an object of token id to bias, not %s", type_name(v));
    size_t n = json_count(v);
    if (n > ENGINE_BIAS_MAX)
        return api_fail(e, 400, "invalid_value", "logit_bias", "logit_bias of %zu entries: at most %d", n,
                        ENGINE_BIAS_MAX);
    p->bias = arena_array(mem, n, sizeof *p->bias);
    if (!p->bias)
        return api_fail(e, 503, "out_of_memory", NULL, "no memory for the request");
    for (const struct json_val *m = json_first(v); m; m = json_next(m)) {
        size_t len;
        const char *key = json_key(m, &len);
        double bias;
        int32_t id;
        if (!id_of_key(key, len, vocab, &id))
            return api_fail(e, 400, "invalid_value", "logit_bias",
                            "logit_bias: each key must be a token id from 0 to %d", vocab - 1);
        if (!json_double(m, &bias) || !(bias >= -100 && bias <= 100))
            return api_fail(e, 400, "invalid_value", "logit_bias",
                            "logit_bias of token %d: must be a number from -100 to 100", id);
        p->bias[p->n_bias++] = (struct engine_bias){id, (float)bias};
    }
    return 0;
}

static int read_stream_options(struct gen_params *p, const struct json_val *v, struct api_error *e)
{
    if (json_typeof(v) != JSON_OBJECT)
        return api_fail(e, 400, "invalid_type", "stream_options", "stream_options: must be an object, not %s",
                        type_name(v));
    const struct json_val *u = json_get(v, "include_usage");
    if (u && json_typeof(u) != JSON_NULL && json_typeof(u) != JSON_TRUE && json_typeof(u) != JSON_FALSE)
        return api_fail(e, 400, "invalid_type", "stream_options.include_usage",
                        "stream_options.include_usage: must be true or false, not %s", type_name(u));
    p->include_usage = u && json_typeof(u) == JSON_TRUE;
    return 0;
}

/* A name, or an object with it as `id`. */
static int read_conversation(struct gen_params *p, const struct json_val *v, struct arena *mem, struct api_error *e)
{
    static const struct field name = {"conversation", K_TEXT, AT(conversation), 0, SESSION_NAME_MAX, BOTH};
    static const struct field id = {"conversation.id", K_TEXT, AT(conversation), 0, SESSION_NAME_MAX, BOTH};
    bool object = json_typeof(v) == JSON_OBJECT;
    const struct json_val *text = object ? json_get(v, "id") : v;
    if (object && !text)
        return api_fail(e, 400, "missing_required_parameter", id.name, "conversation: an object needs a string \"id\"");
    return read_field(p, object ? &id : &name, text, mem, e);
}

/* OpenAI's documentation and its library write the first one differently. */
static int read_retention(struct gen_params *p, const struct json_val *v, struct api_error *e)
{
    size_t n;
    const char *text = json_text(v, &n);
    if (text && (strcmp(text, "in_memory") == 0 || strcmp(text, "in-memory") == 0))
        p->retention = SESSION_IN_MEMORY;
    else if (text && strcmp(text, "24h") == 0)
        p->retention = SESSION_24H;
    else
        return api_fail(e, 400, text ? "invalid_value" : "invalid_type", "prompt_cache_retention",
                        "prompt_cache_retention: must be \"in_memory\" or \"24h\"");
    return 0;
}

static int check_response_format(const struct json_val *v, struct api_error *e)
{
    size_t n;
    const char *type = json_text(json_get(v, "type"), &n);
    if (type && strcmp(type, "text") == 0)
        return 0;
    return api_fail(e, 400, "unsupported_parameter", "response_format",
                    "response_format: only {\"type\":\"text\"} is supported; structured output is not supported yet");
}

static bool is_empty(const struct json_val *v)
{
    size_t n;
    switch (json_typeof(v)) {
    case JSON_NULL:
        return true;
    case JSON_ARRAY:
    case JSON_OBJECT:
        return json_count(v) == 0;
    case JSON_STRING:
        json_text(v, &n);
        return n == 0;
    default:
        return false;
    }
}

static int refuse_not_yet(const struct json_val *root, struct api_error *e)
{
    size_t n;
    for (size_t i = 0; i < sizeof not_yet / sizeof *not_yet; i++) {
        const struct json_val *v = json_get(root, not_yet[i].name);
        if (!v || is_empty(v))
            continue;
        if (strcmp(not_yet[i].name, "modalities") == 0 && json_count(v) == 1 && json_text(json_first(v), &n) &&
            strcmp(json_text(json_first(v), &n), "text") == 0)
            continue;
        return api_fail(e, 400, "unsupported_parameter", not_yet[i].name, "%s: %s", not_yet[i].name, not_yet[i].what);
    }
    const struct json_val *choice = json_get(root, "tool_choice");
    const char *text = choice ? json_text(choice, &n) : NULL;
    if (choice && json_typeof(choice) != JSON_NULL &&
        !(text && (strcmp(text, "none") == 0 || strcmp(text, "auto") == 0)))
        return api_fail(e, 400, "unsupported_parameter", "tool_choice", "tool_choice: tools are not supported yet");
    return 0;
}

static int read_shaped(struct gen_params *p, const struct json_val *root, int32_t vocab, struct arena *mem,
                       struct api_error *e)
{
    const struct json_val *v;
    if ((v = json_get(root, "stop")) && json_typeof(v) != JSON_NULL && read_stop(p, v, mem, e))
        return -1;
    if ((v = json_get(root, "stop_token_ids")) && json_typeof(v) != JSON_NULL && read_stop_ids(p, v, vocab, e))
        return -1;
    if ((v = json_get(root, "logit_bias")) && json_typeof(v) != JSON_NULL && read_bias(p, v, vocab, mem, e))
        return -1;
    if ((v = json_get(root, "stream_options")) && json_typeof(v) != JSON_NULL && read_stream_options(p, v, e))
        return -1;
    if ((v = json_get(root, "conversation")) && json_typeof(v) != JSON_NULL && read_conversation(p, v, mem, e))
        return -1;
    if ((v = json_get(root, "prompt_cache_retention")) && json_typeof(v) != JSON_NULL && read_retention(p, v, e))
        return -1;
    if ((v = json_get(root, "response_format")) && json_typeof(v) != JSON_NULL && check_response_format(v, e))
        return -1;
    return refuse_not_yet(root, e);
}

/* -- whole requests */

static bool in_list(const char *const *list, const char *name)
{
    for (; *list; list++)
        if (strcmp(*list, name) == 0)
            return true;
    return false;
}

static bool is_not_yet(const char *name)
{
    for (size_t i = 0; i < sizeof not_yet / sizeof *not_yet; i++)
        if (strcmp(not_yet[i].name, name) == 0)
            return true;
    return false;
}

static const struct field *field_named(const char *name, enum params_dialect dialect)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if ((fields[i].dialects & (int)dialect) && strcmp(fields[i].name, name) == 0)
            return &fields[i];
    return NULL;
}

/* A header value: printable names only, and not too many. */
static void note_ignored(struct gen_params *p, const char *name, size_t n)
{
    if (p->ignored.len + n > 1000)
        return;
    for (size_t i = 0; i < n; i++)
        if (name[i] <= ' ' || name[i] > '~' || name[i] == ',')
            return;
    str_addf(&p->ignored, "%s%s", p->ignored.len ? "," : "", name);
}

/* Tiers are classes of priority, unless the request says its own. */
static int settle_tier(struct gen_params *p, struct api_error *e)
{
    static const struct {
        const char *name;
        int64_t priority;
    } tiers[] = {{"auto", 0}, {"default", 0}, {"flex", -1000}, {"scale", 1000}, {"priority", 1000}};
    for (size_t i = 0; p->service_tier && i < sizeof tiers / sizeof *tiers; i++) {
        if (strcmp(tiers[i].name, p->service_tier) != 0)
            continue;
        if (!p->has_priority)
            p->priority = tiers[i].priority;
        if (i == 0)
            p->service_tier = "default"; /* the answer names the tier that was used */
        return 0;
    }
    return p->service_tier
               ? api_fail(e, 400, "invalid_value", "service_tier",
                          "service_tier %.32s: must be auto, default, flex, scale or priority", p->service_tier)
               : 0;
}

/* Fields that are about each other. */
static int check_pairs(struct gen_params *p, enum params_dialect dialect, struct api_error *e)
{
    if (p->top_logprobs > 0 && dialect == PARAMS_CHAT && !p->logprobs)
        return api_fail(e, 400, "invalid_value", "top_logprobs", "top_logprobs %lld: needs logprobs true",
                        (long long)p->top_logprobs);
    if (p->best_of && p->best_of != p->n)
        return api_fail(e, 400, "unsupported_parameter", "best_of", "best_of %lld: must equal n (%lld) or be absent",
                        (long long)p->best_of, (long long)p->n);
    if (p->echo && p->logprobs_count >= 0)
        return api_fail(e, 400, "unsupported_parameter", "echo",
                        "echo: not together with logprobs; log probabilities of the prompt are not supported");
    if (p->continue_final_message && p->add_generation_prompt)
        p->add_generation_prompt = false;
    if (p->max_completion_tokens && (!p->max_tokens || p->max_completion_tokens < p->max_tokens))
        p->max_tokens = p->max_completion_tokens;
    return 0;
}

int params_read(struct gen_params *p, const struct json_val *root, enum params_dialect dialect, int32_t vocab,
                const char *const *own, struct arena *mem, struct api_error *e)
{
    if (json_typeof(root) != JSON_OBJECT)
        return api_fail(e, 400, "invalid_type", NULL, "the body must be a JSON object, not %s", type_name(root));
    for (const struct json_val *m = json_first(root); m; m = json_next(m)) {
        size_t n;
        const char *name = json_key(m, &n);
        const struct field *f = field_named(name, dialect);
        if (f && strlen(name) == n) {
            if (json_typeof(m) != JSON_NULL && read_field(p, f, m, mem, e))
                return -1;
            p->has_seed |= f->at == AT(seed) && json_typeof(m) != JSON_NULL;
            p->has_priority |= f->at == AT(priority) && json_typeof(m) != JSON_NULL;
        } else if (!in_list(others, name) && !in_list(own, name) && !is_not_yet(name)) {
            note_ignored(p, name, n);
        }
    }
    return read_shaped(p, root, vocab, mem, e) || check_pairs(p, dialect, e) || settle_tier(p, e) ? -1 : 0;
}

struct engine_sampling params_sampling(const struct gen_params *p, enum params_dialect dialect, uint64_t seed)
{
    int64_t n_lp = dialect == PARAMS_COMPLETIONS ? p->logprobs_count
                   : !p->logprobs                ? -1
                   : p->top_logprobs > 0         ? p->top_logprobs
                                                 : 0;
    return (struct engine_sampling){
        .temperature = (float)p->temperature,
        .top_p = (float)p->top_p,
        .min_p = (float)p->min_p,
        .repetition = (float)p->repetition_penalty,
        .presence = (float)p->presence_penalty,
        .frequency = (float)p->frequency_penalty,
        .top_k = p->top_k > 0 ? (int32_t)p->top_k : 0,
        .n_logprobs = (int32_t)n_lp,
        .seed = p->has_seed ? (uint64_t)p->seed : seed,
    };
}
