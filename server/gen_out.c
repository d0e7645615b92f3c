/* gen_out - chunks, answers and usage of a generation as JSON. Wire shape: OpenAI's API reference. See gen.h. */
#include "server/gen.h"

#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/base/utf8.h"

#include <string.h>

#define LOGGED_TOKENS 300 /* of a text: a log line is short */

static void put_head(const struct gen *g, const char *object, struct str *out)
{
    str_puts(out, "{\"id\":\"");
    str_puts(out, g->id);
    str_addf(out, "\",\"object\":\"%s\",\"created\":%lld,\"model\":", object, (long long)g->created);
    json_put_cstr(out, g->model);
    str_addf(out, ",\"system_fingerprint\":\"%s\"", g->app->card.fingerprint);
    if (g->p.service_tier)
        str_addf(out, ",\"service_tier\":\"%s\"", g->p.service_tier);
}

static void put_finish(const struct gen *g, const struct gen_choice *c, const char *finish, struct str *out)
{
    if (!finish) {
        str_puts(out, ",\"finish_reason\":null");
        return;
    }
    str_addf(out, ",\"finish_reason\":\"%s\",\"stop_reason\":", finish);
    if (c->stop_text >= 0)
        json_put_text(out, g->p.stop.text[c->stop_text], g->p.stop.len[c->stop_text]);
    else if (c->stop_id >= 0)
        str_addf(out, "%d", c->stop_id);
    else
        str_puts(out, "null");
}

static void put_ids(const int32_t *ids, size_t n, struct str *out)
{
    str_putc(out, '[');
    for (size_t i = 0; i < n; i++)
        str_addf(out, i ? ",%d" : "%d", ids[i]);
    str_putc(out, ']');
}

void gen_put_chunk(const struct gen *g, const struct gen_choice *c, size_t n, const char *finish, struct str *out)
{
    str_puts(out, "data: ");
    put_head(g, g->dialect->chunk_object, out);
    str_addf(out, ",\"choices\":[{\"index\":%td,", c - g->choices);
    g->dialect->put_delta(g, c, n, out);
    put_finish(g, c, finish, out);
    if (g->p.return_token_ids) {
        str_puts(out, ",\"token_ids\":");
        put_ids(c->ids + c->n_sent, c->n_done - c->n_sent, out);
    }
    str_puts(out, g->p.include_usage ? "}],\"usage\":null}\n\n" : "}]}\n\n");
    out->oom |= c->text.oom; /* a chunk without what was lost would look whole */
}

/* Why prompt tokens were computed, all prompts together; where the first prompt left what was known. */
static void put_missed(const struct gen *g, struct str *out)
{
    static const char *const names[ENGINE_MISSES] = {
        [ENGINE_MISS_NEW] = "new",
        [ENGINE_MISS_EVICTED] = "evicted",
        [ENGINE_MISS_FORMAT] = "other_format",
        [ENGINE_MISS_BAD] = "verification_failed",
        [ENGINE_MISS_NOT_LOADED] = "not_loaded",
        [ENGINE_MISS_PARTIAL] = "partial_block",
        [ENGINE_MISS_OFF] = "cache_off",
    };
    str_puts(out, ",\"missed_tokens\":{");
    for (int why = 0; why < ENGINE_MISSES; why++) {
        unsigned long long n = 0;
        for (uint32_t i = 0; i < g->n_parts; i++)
            n += g->parts[i].missed[why];
        str_addf(out, "%s\"%s\":%llu", why ? "," : "", names[why], n);
    }
    str_puts(out, "},\"first_divergent_token\":");
    if (g->parts[0].divergent == UINT32_MAX)
        str_puts(out, "null");
    else
        str_addf(out, "%u", g->parts[0].divergent);
}

static void put_usage(const struct gen *g, struct str *out)
{
    unsigned long long prompt = gen_prompt_tokens(g), completion = gen_completion_tokens(g), in[3] = {0}, load_us = 0;
    for (uint32_t i = 0; i < g->n_parts; i++) {
        for (int t = 0; t < 3; t++)
            in[t] += g->parts[i].cached_in[t];
        load_us += g->parts[i].load_us;
    }
    str_addf(
        out,
        "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
        "\"prompt_tokens_details\":{\"cached_tokens\":%llu},\"completion_tokens_details\":{\"reasoning_tokens\":0},"
        "\"hearth\":{\"cached_tokens\":{\"hbm\":%llu,\"dram\":%llu,\"nvme\":%llu},\"load_ms\":%.3f",
        prompt, completion, prompt + completion, (unsigned long long)gen_cached_tokens(g), in[0], in[1], in[2],
        (double)load_us / 1e3);
    put_missed(g, out);
    str_puts(out, "}}");
}

void gen_put_usage_chunk(const struct gen *g, struct str *out)
{
    str_puts(out, "data: ");
    put_head(g, g->dialect->chunk_object, out);
    str_puts(out, ",\"choices\":[],");
    put_usage(g, out);
    str_puts(out, "}\n\n");
}

void gen_put_progress_chunk(const struct gen *g, const struct gen_part *part, struct str *out)
{
    str_puts(out, "data: ");
    put_head(g, g->dialect->chunk_object, out);
    str_addf(out,
             ",\"choices\":[],\"prompt_progress\":{\"total\":%zu,\"cache\":%u,\"processed\":%u,\"prompt\":%u}}\n\n",
             part->prompt.n, part->cached, part->progress, part->index);
}

static void put_timings(const struct gen *g, struct str *out)
{
    uint64_t queue = 0, prefill = 0, decode = 0;
    for (uint32_t i = 0; i < g->n_parts; i++) {
        queue += g->parts[i].queue_us;
        prefill += g->parts[i].prefill_us;
        decode += g->parts[i].decode_us;
    }
    str_addf(out, ",\"timings\":{\"queue_ms\":%.3f,\"prompt_ms\":%.3f,\"predicted_ms\":%.3f,\"cache_n\":%llu}",
             (double)queue / 1e3, (double)prefill / 1e3, (double)decode / 1e3,
             (unsigned long long)gen_cached_tokens(g));
}

void gen_put_answer(const struct gen *g, struct str *out)
{
    put_head(g, g->dialect->object, out);
    str_puts(out, ",\"choices\":[");
    for (uint32_t i = 0; i < g->n_choices; i++) {
        const struct gen_choice *c = &g->choices[i];
        str_addf(out, i ? ",{\"index\":%u," : "{\"index\":%u,", i);
        g->dialect->put_whole(g, c, out);
        put_finish(g, c, c->finish, out);
        if (g->p.return_token_ids) {
            str_puts(out, ",\"token_ids\":");
            put_ids(c->ids, c->n_done, out);
        }
        str_putc(out, '}');
        out->oom |= c->text.oom;
    }
    str_puts(out, "],");
    put_usage(g, out);
    put_timings(g, out);
    if (g->p.return_token_ids) {
        str_puts(out, ",\"prompt_token_ids\":");
        put_ids(g->parts[0].prompt.ids, g->parts[0].prompt.n, out);
    }
    str_putc(out, '}');
}

void gen_put_token_text(const struct gen *g, int32_t id, struct str *out)
{
    size_t n = 0;
    const char *bytes = tokenizer_token_bytes(g->app->tok, id, &n);
    if (!bytes || n == 0) {
        str_addf(out, "\"token_id:%d\"", id);
        return;
    }
    if (utf8_valid(bytes, n)) {
        json_put_text(out, bytes, n);
        return;
    }
    str_puts(out, "\"bytes:");
    for (size_t i = 0; i < n; i++)
        str_addf(out, "\\\\x%02x", (unsigned char)bytes[i]);
    str_putc(out, '"');
}

void gen_put_logprob(float logprob, struct str *out)
{
    json_put_double(out, logprob < -9999.0f ? -9999.0 : (double)logprob);
}

/* -- the log, where prompts were asked for (log.prompts) */

static void log_text(const struct gen *g, const char *what, uint32_t index, const int32_t *ids, size_t n)
{
    struct str text = {0}, quoted = {0};
    struct detok d = {0};
    for (size_t i = 0; i < n && i < LOGGED_TOKENS; i++)
        detok_push(&d, g->app->tok, ids[i], false, &text);
    detok_finish(&d, &text);
    json_put_text(&quoted, str_text(&text), text.len);
    log_info(what, "id=%s index=%u tokens=%zu text=%s", http_request_id(g->call), index, n, str_text(&quoted));
    str_fini(&text);
    str_fini(&quoted);
}

void gen_log_prompts(const struct gen *g)
{
    for (uint32_t i = 0; g->app->conf->log.prompts && i < g->n_parts; i++)
        log_text(g, "gen prompt", i, g->parts[i].prompt.ids, g->parts[i].prompt.n);
}

void gen_log_answers(const struct gen *g)
{
    for (uint32_t i = 0; g->app->conf->log.prompts && i < g->n_choices; i++)
        log_text(g, "gen answer", i, g->choices[i].ids, g->choices[i].n_done);
}
