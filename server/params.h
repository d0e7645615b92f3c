/* params - the fields that all generation requests share: a table of name, type, bounds and place.
 *
 * Reads a JSON object into struct gen_params. A field that is absent or null keeps its default; a wrong type or a value
 * out of bounds is a 400 that names the field, the value and the bound; unknown fields are listed, not refused.
 * MT-safe (worker threads).
 */
#ifndef HEARTH_SERVER_PARAMS_H
#define HEARTH_SERVER_PARAMS_H

#include "engine/base/arena.h"
#include "engine/base/json.h"
#include "engine/engine.h"
#include "server/config.h"
#include "server/reply.h"
#include "server/stop.h"

#define PARAMS_STOP_MAX 16 /* stop strings; OpenAI allows 4 */

struct gen_params {
    double temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    int64_t top_k, seed, max_tokens, max_completion_tokens, min_tokens, n, best_of, priority; /* -1 or 0 = not given */
    int64_t default_max_tokens; /* of the configuration, for requests that give none; 0 = none */
    int64_t top_logprobs;       /* chat */
    int64_t logprobs_count;     /* completions: logprobs is a number; -1 = not given */
    bool has_seed, has_priority, stream, include_usage, logprobs, echo, ignore_eos, skip_special_tokens,
        return_progress;
    bool return_token_ids, add_generation_prompt, continue_final_message, cache_prompt;
    struct stop_set stop;
    int32_t stop_ids[ENGINE_STOP_IDS_MAX];
    uint32_t n_stop_ids;
    struct engine_bias *bias;
    uint32_t n_bias;
    const char *model, *cache_salt, *service_tier; /* NULL = absent */
    const char *session_id, *conversation, *prompt_cache_key;
    uint8_t retention; /* enum session_retention */
    size_t cache_salt_len;
    struct str ignored; /* names of unknown fields, comma-separated */
};

enum params_dialect { PARAMS_CHAT = 1, PARAMS_COMPLETIONS = 2 };

/* What a model file says of how it likes to be sampled (general.sampling.*); NAN and -1 = nothing. */
struct model_sampling {
    double temperature, top_p, min_p, repetition_penalty;
    int64_t top_k;
};

/* Defaults: configuration, then the model's, then OpenAI's. */
void params_defaults(struct gen_params *p, const struct config *conf, const struct model_sampling *model);

/* Read root's members. Strings and arrays are copied into mem. vocab bounds token ids. `own` (NULL-terminated) are
 * names that the dialect reads itself. 0, or -1 with e. */
int params_read(struct gen_params *p, const struct json_val *root, enum params_dialect dialect, int32_t vocab,
                const char *const *own, struct arena *mem, struct api_error *e);

/* The engine's sampling for these. seed: used when the request gave none. */
struct engine_sampling params_sampling(const struct gen_params *p, enum params_dialect dialect, uint64_t seed);

#endif
