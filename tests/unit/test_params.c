/* test_params - fields of requests: defaults and their order, bounds of each, what is refused and what is listed. */
#include "tests/support/unit.h"

#include "server/params.h"

#include <math.h>
#include <string.h>

#define VOCAB 1000

static const struct model_sampling no_model = {NAN, NAN, NAN, NAN, -1};

struct read {
    struct config conf;
    struct gen_params p;
    struct arena mem;
    struct api_error e;
    int ret;
};

static void read_with(struct read *r, const char *body, enum params_dialect dialect, const struct model_sampling *m)
{
    static const char *const own[] = {"prompt", "messages", NULL};
    struct json *doc;
    struct err e;
    memset(&r->e, 0, sizeof r->e);
    ck_assert_msg(json_parse(&doc, body, strlen(body), NULL, &e) == 0, "%s", e.text);
    params_defaults(&r->p, &r->conf, m);
    r->ret = params_read(&r->p, json_root(doc), dialect, VOCAB, own, &r->mem, &r->e);
    json_close(doc);
}

static void read_body(struct read *r, const char *body, enum params_dialect dialect)
{
    read_with(r, body, dialect, &no_model);
}

static void open_read(struct read *r)
{
    struct err e;
    memset(r, 0, sizeof *r);
    ck_assert_int_eq(config_init(&r->conf, &e), 0);
}

static void close_read(struct read *r)
{
    str_fini(&r->p.ignored);
    arena_fini(&r->mem);
    config_fini(&r->conf);
}

START_TEST(test_params_take_request_then_config_then_model_then_openai)
{
    struct read r;
    struct err e;
    struct model_sampling m = no_model;
    open_read(&r);
    read_body(&r, "{}", PARAMS_CHAT);
    ck_assert(r.ret == 0 && r.p.temperature == 1 && r.p.top_p == 1 && r.p.top_k == 0 && r.p.n == 1 && !r.p.stream);
    m.temperature = 0.6;
    m.top_k = 20;
    read_with(&r, "{}", PARAMS_CHAT, &m);
    ck_assert(r.p.temperature == 0.6 && r.p.top_k == 20);
    ck_assert_int_eq(config_set(&r.conf, "sampling.temperature", "0.3", CONFIG_SET, "test", &e), 0);
    read_with(&r, "{}", PARAMS_CHAT, &m);
    ck_assert(r.p.temperature == 0.3 && r.p.top_k == 20);
    read_with(&r, "{\"temperature\":0.9,\"top_k\":null}", PARAMS_CHAT, &m);
    ck_assert(r.p.temperature == 0.9 && r.p.top_k == 20);
    static const char *const config[][2] = {
        {"top_p", "0.5"}, {"min_p", "0.25"}, {"repetition_penalty", "1.5"}, {"top_k", "3"}};
    m = (struct model_sampling){0.6, 0.9, 0.1, 1.1, 20};
    for (size_t i = 0; i < sizeof config / sizeof *config; i++) {
        char key[64];
        snprintf(key, sizeof key, "sampling.%s", config[i][0]);
        ck_assert_int_eq(config_set(&r.conf, key, config[i][1], CONFIG_SET, "test", &e), 0);
    }
    read_with(&r, "{}", PARAMS_CHAT, &m);
    ck_assert(r.p.top_p == 0.5 && r.p.min_p == 0.25 && r.p.repetition_penalty == 1.5 && r.p.top_k == 3);
    close_read(&r);
}
END_TEST

START_TEST(test_params_hold_each_bound)
{
    static const struct {
        const char *field;
        double least, most;
    } bounds[] = {{"temperature", 0, 2},
                  {"top_p", 0, 1},
                  {"min_p", 0, 1},
                  {"presence_penalty", -2, 2},
                  {"frequency_penalty", -2, 2},
                  {"repetition_penalty", 0.01, 100},
                  {"n", 1, ENGINE_N_MAX},
                  {"top_k", -1, INT32_MAX},
                  {"max_tokens", 1, INT32_MAX},
                  {"min_tokens", 0, INT32_MAX},
                  {"priority", -1e6, 1e6}};
    struct read r;
    char body[200], says[100];
    open_read(&r);
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        for (int side = 0; side < 4; side++) {
            double step = strchr("np", bounds[i].field[0]) || strstr(bounds[i].field, "tokens") ? 1 : 0.001;
            double v = side == 0   ? bounds[i].least
                       : side == 1 ? bounds[i].most
                       : side == 2 ? bounds[i].least - step
                                   : bounds[i].most + step;
            if (strcmp(bounds[i].field, "top_k") == 0)
                v = side < 2 ? v : side == 2 ? -2 : 2147483648.0;
            snprintf(body, sizeof body, "{\"%s\":%.15g}", bounds[i].field, v);
            read_body(&r, body, PARAMS_COMPLETIONS);
            ck_assert_msg(r.ret == (side < 2 ? 0 : -1), "%s: %s", body, r.e.message);
            if (side < 2)
                continue;
            ck_assert_str_eq(r.e.param, bounds[i].field);
            ck_assert_int_eq(r.e.status, 400);
            snprintf(says, sizeof says, "must be ");
            ck_assert_msg(strstr(r.e.message, says) && strstr(r.e.message, bounds[i].field), "%s", r.e.message);
        }
    close_read(&r);
}
END_TEST

START_TEST(test_params_take_the_smaller_of_both_lengths)
{
    struct read r;
    open_read(&r);
    read_body(&r, "{\"max_tokens\":9,\"max_completion_tokens\":5}", PARAMS_CHAT);
    ck_assert_int_eq(r.p.max_tokens, 5);
    read_body(&r, "{\"max_tokens\":4,\"max_completion_tokens\":5}", PARAMS_CHAT);
    ck_assert_int_eq(r.p.max_tokens, 4);
    read_body(&r, "{\"max_completion_tokens\":5}", PARAMS_CHAT);
    ck_assert_int_eq(r.p.max_tokens, 5);
    close_read(&r);
}
END_TEST

START_TEST(test_params_let_a_request_ask_for_more_than_the_default_length)
{
    struct read r;
    struct err e;
    open_read(&r);
    ck_assert_int_eq(config_set(&r.conf, "sampling.max_tokens", "100", CONFIG_SET, "test", &e), 0);
    read_body(&r, "{}", PARAMS_CHAT);
    ck_assert(r.p.max_tokens == 0 && r.p.default_max_tokens == 100);
    read_body(&r, "{\"max_tokens\":500}", PARAMS_CHAT);
    ck_assert_int_eq(r.p.max_tokens, 500);
    read_body(&r, "{\"max_completion_tokens\":500}", PARAMS_CHAT);
    ck_assert_int_eq(r.p.max_tokens, 500);
    read_body(&r, "{\"max_completion_tokens\":500,\"max_tokens\":null}", PARAMS_CHAT);
    ck_assert_int_eq(r.p.max_tokens, 500);
    read_body(&r, "{\"max_completion_tokens\":500}", PARAMS_COMPLETIONS); /* not a field of this dialect */
    ck_assert_int_eq(r.p.max_tokens, 0);
    ck_assert_str_eq(str_text(&r.p.ignored), "max_completion_tokens");
    close_read(&r);
}
END_TEST

START_TEST(test_params_give_logprobs_as_each_dialect_says_them)
{
    static const struct {
        enum params_dialect dialect;
        const char *body;
        int n; /* -2 = refused */
    } cases[] = {
        {PARAMS_CHAT, "{}", -1},
        {PARAMS_CHAT, "{\"logprobs\":true}", 0},
        {PARAMS_CHAT, "{\"logprobs\":true,\"top_logprobs\":20}", 20},
        {PARAMS_CHAT, "{\"logprobs\":true,\"top_logprobs\":21}", -2},
        {PARAMS_CHAT, "{\"logprobs\":false,\"top_logprobs\":0}", -1},
        {PARAMS_CHAT, "{\"logprobs\":1}", -2},
        {PARAMS_COMPLETIONS, "{}", -1},
        {PARAMS_COMPLETIONS, "{\"logprobs\":0}", 0},
        {PARAMS_COMPLETIONS, "{\"logprobs\":20}", 20},
        {PARAMS_COMPLETIONS, "{\"logprobs\":21}", -2},
        {PARAMS_COMPLETIONS, "{\"logprobs\":-1}", -2},
        {PARAMS_COMPLETIONS, "{\"logprobs\":true}", -2},
        {PARAMS_COMPLETIONS, "{\"logprobs\":1,\"echo\":true}", -2},
        {PARAMS_COMPLETIONS, "{\"n\":2,\"best_of\":3}", -2},
        {PARAMS_COMPLETIONS, "{\"n\":2,\"best_of\":2}", -1},
    };
    struct read r;
    open_read(&r);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        read_body(&r, cases[i].body, cases[i].dialect);
        ck_assert_msg(r.ret == (cases[i].n == -2 ? -1 : 0), "%s: %s", cases[i].body, r.e.message);
        if (r.ret == 0)
            ck_assert_msg(params_sampling(&r.p, cases[i].dialect, 1).n_logprobs == cases[i].n, "%s", cases[i].body);
    }
    close_read(&r);
}
END_TEST

START_TEST(test_params_take_the_servers_seed_when_a_request_has_none)
{
    struct read r;
    open_read(&r);
    read_body(&r, "{}", PARAMS_CHAT);
    ck_assert(params_sampling(&r.p, PARAMS_CHAT, 77).seed == 77);
    read_body(&r, "{\"seed\":null}", PARAMS_CHAT);
    ck_assert(params_sampling(&r.p, PARAMS_CHAT, 77).seed == 77);
    read_body(&r, "{\"seed\":0}", PARAMS_CHAT);
    ck_assert(params_sampling(&r.p, PARAMS_CHAT, 77).seed == 0);
    close_read(&r);
}
END_TEST

START_TEST(test_params_read_stops_bias_and_seed)
{
    struct read r;
    open_read(&r);
    read_body(&r,
              "{\"stop\":[\"a\",\"bcd\"],\"stop_token_ids\":[5,6],\"logit_bias\":{\"7\":-100,\"999\":1.5},\"seed\":-3}",
              PARAMS_CHAT);
    ck_assert_msg(r.ret == 0, "%s", r.e.message);
    ck_assert(r.p.stop.n == 2 && r.p.stop.longest == 3 && strcmp(r.p.stop.text[1], "bcd") == 0);
    ck_assert(r.p.n_stop_ids == 2 && r.p.stop_ids[1] == 6 && r.p.n_bias == 2 && r.p.bias[1].id == 999);
    ck_assert(r.p.has_seed && params_sampling(&r.p, PARAMS_CHAT, 1).seed == (uint64_t)-3);
    static const char *const bad[] = {"{\"stop\":\"\"}",
                                      "{\"stop\":[1]}",
                                      "{\"stop_token_ids\":[1000]}",
                                      "{\"logit_bias\":{\"1000\":1}}",
                                      "{\"logit_bias\":{\"1\":101}}",
                                      "{\"logit_bias\":[1]}",
                                      "{\"logit_bias\":{\"x\":1}}",
                                      "{\"top_logprobs\":3}",
                                      "{\"n\":1.5}",
                                      "{\"stream_options\":1}",
                                      "{\"cache_salt\":\"a\\u0000b\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        read_body(&r, bad[i], PARAMS_CHAT);
        ck_assert_msg(r.ret == -1 && r.e.status == 400 && r.e.param[0], "%s", bad[i]);
    }
    close_read(&r);
}
END_TEST

START_TEST(test_params_hand_each_number_to_the_sampler)
{
    struct read r;
    open_read(&r);
    read_body(&r,
              "{\"temperature\":0.5,\"top_p\":0.25,\"min_p\":0.125,\"top_k\":7,\"repetition_penalty\":1.5,"
              "\"presence_penalty\":-0.75,\"frequency_penalty\":1.25,\"seed\":9}",
              PARAMS_COMPLETIONS);
    ck_assert_msg(r.ret == 0, "%s", r.e.message);
    struct engine_sampling s = params_sampling(&r.p, PARAMS_COMPLETIONS, 1);
    ck_assert(s.temperature == 0.5f && s.top_p == 0.25f && s.min_p == 0.125f && s.top_k == 7 && s.seed == 9);
    ck_assert(s.repetition == 1.5f && s.presence == -0.75f && s.frequency == 1.25f);
    read_body(&r, "{\"top_k\":-1}", PARAMS_COMPLETIONS);
    ck_assert_int_eq(params_sampling(&r.p, PARAMS_COMPLETIONS, 1).top_k, 0); /* both mean: all */
    close_read(&r);
}
END_TEST

/* Fields that nothing here acts on: whoever sends one believes that it worked, unless it is refused by its name. */
START_TEST(test_params_refuse_by_name_what_is_not_there)
{
    static const struct {
        const char *body, *param;
        enum params_dialect dialect;
    } bad[] = {
        {"{\"tools\":[{}]}", "tools", PARAMS_CHAT},
        {"{\"functions\":[{}]}", "functions", PARAMS_CHAT},
        {"{\"function_call\":\"auto\"}", "function_call", PARAMS_CHAT},
        {"{\"tool_choice\":{\"type\":\"function\"}}", "tool_choice", PARAMS_CHAT},
        {"{\"audio\":{\"voice\":\"x\"}}", "audio", PARAMS_CHAT},
        {"{\"modalities\":[\"text\",\"audio\"]}", "modalities", PARAMS_CHAT},
        {"{\"response_format\":{\"type\":\"json_object\"}}", "response_format", PARAMS_CHAT},
        {"{\"guided_json\":{\"a\":1}}", "guided_json", PARAMS_CHAT},
        {"{\"guided_regex\":\"a+\"}", "guided_regex", PARAMS_CHAT},
        {"{\"guided_choice\":[\"a\"]}", "guided_choice", PARAMS_CHAT},
        {"{\"guided_grammar\":\"root\"}", "guided_grammar", PARAMS_CHAT},
        {"{\"structured_outputs\":{\"regex\":\"a\"}}", "structured_outputs", PARAMS_CHAT},
        {"{\"regex\":\"a+\"}", "regex", PARAMS_CHAT},
        {"{\"ebnf\":\"root\"}", "ebnf", PARAMS_CHAT},
        {"{\"grammar\":\"root\"}", "grammar", PARAMS_CHAT},
        {"{\"thinking_token_budget\":5}", "thinking_token_budget", PARAMS_CHAT},
        {"{\"suffix\":\"end\"}", "suffix", PARAMS_COMPLETIONS},
        {"{\"prompt_logprobs\":1}", "prompt_logprobs", PARAMS_COMPLETIONS},
        {"{\"truncate_prompt_tokens\":1}", "truncate_prompt_tokens", PARAMS_COMPLETIONS},
        {"{\"best_of\":3,\"n\":2}", "best_of", PARAMS_COMPLETIONS},
        {"{\"echo\":true,\"logprobs\":0}", "echo", PARAMS_COMPLETIONS},
    };
    struct read r;
    open_read(&r);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        read_body(&r, bad[i].body, bad[i].dialect);
        ck_assert_msg(r.ret == -1 && r.e.status == 400 && strcmp(r.e.code, "unsupported_parameter") == 0 &&
                          strcmp(r.e.param, bad[i].param) == 0,
                      "%s", bad[i].body);
    }
    read_body(&r, "{\"best_of\":2,\"n\":2,\"suffix\":\"\",\"tools\":[],\"grammar\":null}", PARAMS_COMPLETIONS);
    ck_assert_msg(r.ret == 0, "%s", r.e.message); /* nothing is asked for */
    close_read(&r);
}
END_TEST

/* {"stop":["xx...", "xx...", ...]}: count strings of n bytes. */
static const char *stops_of(int count, int n)
{
    static char body[PARAMS_STOP_MAX * 16 + 8192];
    char *at = body + sprintf(body, "{\"stop\":[");
    for (int i = 0; i < count; i++)
        at += sprintf(at, "%s\"%0*d\"", i ? "," : "", n, i);
    strcpy(at, "]}");
    return body;
}

START_TEST(test_params_bound_stop_strings)
{
    static const struct {
        int count, n, ret;
    } cases[] = {{1, 4096, 0}, {1, 4097, -1}, {PARAMS_STOP_MAX, 2, 0}, {PARAMS_STOP_MAX + 1, 2, -1}};
    struct read r;
    open_read(&r);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        read_body(&r, stops_of(cases[i].count, cases[i].n), PARAMS_CHAT);
        ck_assert_int_eq(r.ret, cases[i].ret);
        if (r.ret)
            ck_assert(r.e.status == 400 && strcmp(r.e.param, "stop") == 0);
        else
            ck_assert(r.p.stop.n == (size_t)cases[i].count && r.p.stop.longest == (size_t)cases[i].n);
    }
    read_body(&r, "{\"logit_bias\":{\"1\":-100,\"2\":100}}", PARAMS_CHAT);
    ck_assert(r.ret == 0 && r.p.bias[0].bias == -100 && r.p.bias[1].bias == 100);
    close_read(&r);
}
END_TEST

START_TEST(test_params_list_what_they_do_not_know)
{
    struct read r;
    open_read(&r);
    read_body(&r, "{\"prompt\":1,\"foo\":1,\"b\\nad\":1,\"bar\":2,\"user\":\"u\"}", PARAMS_COMPLETIONS);
    ck_assert_int_eq(r.ret, 0);
    ck_assert_str_eq(str_text(&r.p.ignored), "foo,bar");
    close_read(&r);
}
END_TEST

START_TEST(test_params_take_a_tier_as_a_priority_unless_one_is_given)
{
    static const struct {
        const char *body, *tier;
        int64_t priority;
    } of[] = {
        {"{}", NULL, 0},
        {"{\"service_tier\":\"auto\"}", "default", 0},
        {"{\"service_tier\":\"flex\"}", "flex", -1000},
        {"{\"service_tier\":\"priority\"}", "priority", 1000},
        {"{\"service_tier\":\"scale\",\"priority\":7}", "scale", 7},
        {"{\"priority\":0,\"service_tier\":\"flex\"}", "flex", 0},
    };
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        struct read r;
        open_read(&r);
        read_body(&r, of[i].body, PARAMS_CHAT);
        ck_assert_int_eq(r.ret, 0);
        ck_assert_int_eq(r.p.priority, of[i].priority);
        ck_assert_msg(of[i].tier ? strcmp(r.p.service_tier, of[i].tier) == 0 : !r.p.service_tier, "%s", of[i].body);
        close_read(&r);
    }
}
END_TEST

UNIT_MAIN("params", test_params_bound_stop_strings, test_params_hand_each_number_to_the_sampler,
          test_params_refuse_by_name_what_is_not_there, test_params_take_a_tier_as_a_priority_unless_one_is_given,
          test_params_take_request_then_config_then_model_then_openai, test_params_hold_each_bound,
          test_params_take_the_smaller_of_both_lengths, test_params_let_a_request_ask_for_more_than_the_default_length,
          test_params_give_logprobs_as_each_dialect_says_them,
          test_params_take_the_servers_seed_when_a_request_has_none, test_params_read_stops_bias_and_seed,
          test_params_list_what_they_do_not_know)
