/* fuzz_request - the body of a generation request: JSON, then the fields of both dialects. */
#include "server/params.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#define VOCAB 1000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_as(const struct json_val *root, enum params_dialect dialect, const struct config *conf)
{
    static const char *const own[] = {"prompt", "messages", NULL};
    static const struct model_sampling model = {NAN, NAN, NAN, NAN, -1};
    struct gen_params p;
    struct arena mem = {.limit = 1 << 24};
    struct api_error e = {0};
    struct str body = {0};
    params_defaults(&p, conf, &model);
    if (params_read(&p, root, dialect, VOCAB, own, &mem, &e) == 0) {
        struct engine_sampling s = params_sampling(&p, dialect, 1);
        assert(s.temperature >= 0 && s.temperature <= 2 && s.top_p >= 0 && s.top_p <= 1 && s.repetition > 0);
        assert(p.n >= 1 && p.n <= ENGINE_N_MAX && s.n_logprobs >= -1 && s.n_logprobs <= ENGINE_LOGPROBS_MAX);
        assert(p.max_tokens >= 0 && p.max_tokens <= INT32_MAX && p.n_stop_ids <= ENGINE_STOP_IDS_MAX / 2);
        for (uint32_t i = 0; i < p.n_bias; i++)
            assert(p.bias[i].id >= 0 && p.bias[i].id < VOCAB);
        for (uint32_t i = 0; i < p.n_stop_ids; i++)
            assert(p.stop_ids[i] >= 0 && p.stop_ids[i] < VOCAB);
    } else {
        assert(e.status >= 400 && e.status < 600 && e.message[0]);
        api_put_error(&e, &body);
        assert(json_check(body.data, body.len, NULL, &(struct err){0}) == 0);
    }
    str_fini(&body);
    str_fini(&p.ignored);
    arena_fini(&mem);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct config conf;
    static bool ready;
    struct json *doc;
    struct err e;
    if (!ready && config_init(&conf, &e) != 0)
        abort();
    ready = true;
    if (json_parse(&doc, (const char *)data, size, NULL, &e) != 0)
        return 0;
    read_as(json_root(doc), PARAMS_CHAT, &conf);
    read_as(json_root(doc), PARAMS_COMPLETIONS, &conf);
    json_close(doc);
    return 0;
}
