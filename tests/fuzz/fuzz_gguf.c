/* fuzz_gguf - any bytes as a GGUF file: open, touch every value and every tensor byte, read a model's shape out of it.
 * Seeds are made by make_gguf_corpus.py. */
#include "engine/base/gguf.h"
#include "engine/model/shape.h"
#include "tests/support/gguf_walk.h"

#include <stdlib.h>
#include <string.h>

#define MUST(condition) ((condition) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const keys[] = {"k",
                                   "general.architecture",
                                   "general.alignment",
                                   "tokenizer.ggml.tokens",
                                   "tokenizer.ggml.scores",
                                   "llama.block_count",
                                   "split.count"};

/* What the shape promises to those who compute with it. */
static void check_shape(const struct model_shape *s)
{
    MUST(s->n_layers > 0 && s->n_embd > 0 && s->n_ff > 0 && s->vocab > 0 && s->ctx_train > 0);
    MUST(s->n_kv_heads > 0 && s->n_heads >= s->n_kv_heads && s->n_heads % s->n_kv_heads == 0);
    MUST(s->head_dim >= 2 && s->head_dim <= MODEL_HEAD_DIM_MAX && s->head_dim % 2 == 0);
    MUST(s->rms_eps > 0 && s->rope_base >= 1);
    for (int i = 0; i < MODEL_HEAD_DIM_MAX / 2; i++)
        MUST(s->rope_factor[i] > 0);
    MUST(strlen(s->arch) < sizeof s->arch && strlen(s->name) < sizeof s->name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g = NULL;
    struct model_shape s;
    struct err e = {0};
    int rc = gguf_open_memory(&g, data, size, &e);
    MUST(rc == 0 ? g != NULL : g == NULL && rc == -e.code && e.text[0]);
    if (rc)
        return 0;
    gguf_walk(g, keys, sizeof keys / sizeof *keys);
    if (shape_from_gguf(&s, g, &e) == 0)
        check_shape(&s);
    gguf_close(g);
    return 0;
}
