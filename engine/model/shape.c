/* shape - see shape.h. */
#include "engine/model/shape.h"

#include "engine/model/arch.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { KEY_BYTES = 128, REQUIRED = -1 };
#define ROPE_TENSOR "rope_freqs.weight"

struct reader { /* what all steps need */
    struct model_shape *s;
    const struct gguf *g;
    struct err *e;
    char key[KEY_BYTES]; /* the last key looked up, for messages */
};

/* ARCH.name, or NULL when absent. */
static const struct gguf_val *get(struct reader *r, const char *name)
{
    snprintf(r->key, sizeof r->key, "%s.%s", r->s->arch, name);
    return gguf_get(r->g, r->key);
}

static int missing(struct reader *r)
{
    return err_set(r->e, EINVAL, "metadata key %s is missing: not a complete model file", r->key);
}

static int get_int(struct reader *r, const char *name, int64_t min, int64_t max, int64_t absent, int32_t *out)
{
    const struct gguf_val *v = get(r, name);
    int64_t x = absent;
    if (!v && absent == REQUIRED)
        return missing(r);
    if (v && !gguf_int(v, &x))
        return err_set(r->e, EINVAL, "%s: must be a whole number", r->key);
    if (v && (x < min || x > max))
        return err_set(r->e, EINVAL, "%s %lld: must be %lld to %lld", r->key, (long long)x, (long long)min,
                       (long long)max);
    *out = (int32_t)x;
    return 0;
}

static int get_float(struct reader *r, const char *name, double min, double max, double absent, float *out)
{
    const struct gguf_val *v = get(r, name);
    double x = absent;
    if (!v && absent == REQUIRED)
        return missing(r);
    if (v && !gguf_float(v, &x))
        return err_set(r->e, EINVAL, "%s: must be a float", r->key);
    if (v && !(x >= min && x <= max)) /* NaN too */
        return err_set(r->e, EINVAL, "%s %g: must be %g to %g", r->key, x, min, max);
    *out = (float)x;
    return 0;
}

/* Copy a string of metadata, cut to fit; bytes that are no printable ASCII become '?': it goes into logs and URLs. */
static void copy_text(char *out, size_t size, const char *text, size_t n)
{
    if (n >= size)
        n = size - 1;
    for (size_t i = 0; i < n; i++)
        out[i] = text[i];
    for (size_t i = 0; i < n; i++)
        if (out[i] < ' ' || out[i] > '~')
            out[i] = '?';
    out[n] = 0;
}

static int read_names(struct reader *r)
{
    size_t n;
    const char *arch = gguf_text(gguf_get(r->g, "general.architecture"), &n);
    if (!arch)
        return err_set(r->e, EINVAL, "metadata key general.architecture is missing: not a model file");
    copy_text(r->s->arch, sizeof r->s->arch, arch, n);
    if (!arch_find(r->s->arch))
        return err_set(r->e, ENOTSUP, "model family '%s' is not supported (known: %s)", r->s->arch, arch_names());
    const char *name = gguf_text(gguf_get(r->g, "general.name"), &n);
    copy_text(r->s->name, sizeof r->s->name, name ? name : r->s->arch, name ? n : strlen(r->s->arch));
    return 0;
}

static int read_sizes(struct reader *r)
{
    struct model_shape *s = r->s;
    const struct {
        const char *key;
        int64_t min, max;
        int32_t *out;
    } sizes[] = {
        {"block_count", 1, 1024, &s->n_layers},          {"embedding_length", 1, 1 << 20, &s->n_embd},
        {"attention.head_count", 1, 1024, &s->n_heads},  {"feed_forward_length", 1, 1 << 22, &s->n_ff},
        {"context_length", 1, INT32_MAX, &s->ctx_train},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int rc = get_int(r, sizes[i].key, sizes[i].min, sizes[i].max, REQUIRED, sizes[i].out);
        if (rc)
            return rc;
    }
    return get_int(r, "attention.head_count_kv", 1, s->n_heads, s->n_heads, &s->n_kv_heads);
}

static int read_head_dim(struct reader *r)
{
    struct model_shape *s = r->s;
    int32_t value_dim, rope_dim;
    int rc = get_int(r, "attention.key_length", 2, MODEL_HEAD_DIM_MAX, s->n_embd / s->n_heads, &s->head_dim);
    if (rc)
        return rc;
    if (s->head_dim < 2 || s->head_dim > MODEL_HEAD_DIM_MAX || s->head_dim % 2)
        return err_set(r->e, ENOTSUP, "head size %d (%s, or embedding_length / head_count): must be even, 2 to %d",
                       s->head_dim, r->key, MODEL_HEAD_DIM_MAX);
    if (s->n_heads % s->n_kv_heads)
        return err_set(r->e, EINVAL, "attention.head_count %d: must be a multiple of attention.head_count_kv %d",
                       s->n_heads, s->n_kv_heads);
    rc = get_int(r, "attention.value_length", 1, INT32_MAX, s->head_dim, &value_dim);
    if (!rc && value_dim != s->head_dim)
        rc = err_set(r->e, ENOTSUP, "%s %d: only the key length %d is supported", r->key, value_dim, s->head_dim);
    if (!rc)
        rc = get_int(r, "rope.dimension_count", 1, INT32_MAX, s->head_dim, &rope_dim);
    if (!rc && rope_dim != s->head_dim)
        rc = err_set(r->e, ENOTSUP, "%s %d: only whole heads (%d) are rotated here", r->key, rope_dim, s->head_dim);
    return rc;
}

/* Features whose numbers this slice would get wrong: refuse instead. */
static int refuse_features(struct reader *r)
{
    int32_t experts, window;
    int rc = get_int(r, "expert_count", 0, INT32_MAX, 0, &experts);
    if (!rc && experts > 0)
        rc = err_set(r->e, ENOTSUP, "%s %d: mixtures of experts are not supported", r->key, experts);
    if (!rc)
        rc = get_int(r, "attention.sliding_window", 0, INT32_MAX, 0, &window);
    if (!rc && window > 0 && window < r->s->ctx_train)
        rc = err_set(r->e, ENOTSUP, "%s %d: sliding windows are not supported", r->key, window);
    return rc;
}

/* -- rope scaling */

void shape_scale_llama3(struct model_shape *s, double factor, double low, double high, double ctx)
{
    const double tau = 6.28318530717958647692;
    for (int i = 0; i < s->head_dim / 2; i++) {
        double wavelength = tau * pow((double)s->rope_base, 2.0 * i / s->head_dim);
        double smooth = (ctx / wavelength - low) / (high - low);
        smooth = smooth < 0 ? 0 : smooth > 1 ? 1 : smooth;
        s->rope_factor[i] *= (float)(1.0 / ((1.0 - smooth) / factor + smooth));
    }
}

static int scale_llama3(struct reader *r, float factor)
{
    float low, high, ctx;
    int32_t positions;
    int rc = get_float(r, "rope.scaling.low_freq_factor", 1e-3, 1e6, 1, &low);
    if (!rc)
        rc = get_float(r, "rope.scaling.high_freq_factor", 1e-3, 1e6, 4, &high);
    if (!rc && low >= high)
        rc = err_set(r->e, EINVAL, "%s %g: must be above low_freq_factor %g", r->key, (double)high, (double)low);
    if (!rc)
        rc = get_int(r, "rope.scaling.original_context_length", 1, INT32_MAX, 8192, &positions);
    if (rc)
        return rc;
    ctx = (float)positions;
    shape_scale_llama3(r->s, (double)factor, (double)low, (double)high, (double)ctx);
    return 0;
}

static int read_rope_scaling(struct reader *r)
{
    size_t n = 4;
    float factor;
    const struct gguf_val *v = get(r, "rope.scaling.type");
    const char *type = v ? gguf_text(v, &n) : "none";
    if (!type)
        return err_set(r->e, EINVAL, "%s: must be a string", r->key);
    char shown[32], key[KEY_BYTES];
    copy_text(shown, sizeof shown, type, n);
    memcpy(key, r->key, sizeof key);
    if (!strcmp(shown, "none"))
        return 0;
    int rc = get_float(r, "rope.scaling.factor", 1e-3, 1e6, REQUIRED, &factor);
    if (rc)
        return rc;
    if (!strcmp(shown, "llama3")) /* the tensor, where there is one, is the same scaling worked out */
        return gguf_find(r->g, ROPE_TENSOR) ? 0 : scale_llama3(r, factor);
    if (strcmp(shown, "linear"))
        return err_set(r->e, ENOTSUP, "%s '%s': must be none, linear or llama3", key, shown);
    for (int i = 0; i < r->s->head_dim / 2; i++)
        r->s->rope_factor[i] *= factor;
    return 0;
}

/* rope_freqs.weight: one factor for each pair; files of Llama 3.1 and later carry their scaling like this. */
static int read_rope_tensor(struct reader *r)
{
    const struct gguf_tensor *t = gguf_find(r->g, ROPE_TENSOR);
    if (!t)
        return 0;
    size_t pairs = (size_t)r->s->head_dim / 2;
    if (t->dtype != GGUF_DT_F32 || t->bytes != pairs * sizeof(float))
        return err_set(r->e, EINVAL, "tensor " ROPE_TENSOR ": must be %zu floats, one for each pair of a head", pairs);
    for (size_t i = 0; i < pairs; i++) {
        float f;
        memcpy(&f, (const char *)t->data + i * sizeof f, sizeof f);
        if (!(f >= 1e-6f && f <= 1e6f))
            return err_set(r->e, EINVAL, "tensor " ROPE_TENSOR ": factor %zu is %g: must be 1e-6 to 1e6", i, (double)f);
        r->s->rope_factor[i] *= f;
    }
    return 0;
}

static int read_vocab(struct reader *r)
{
    const struct gguf_tensor *t = gguf_find(r->g, "token_embd.weight");
    int64_t tokens = gguf_array_len(gguf_get(r->g, "tokenizer.ggml.tokens"));
    if (!t)
        return err_set(r->e, EINVAL, "tensor token_embd.weight is missing: a vocabulary without a model?");
    if (t->dims[1] > 1 << 24)
        return err_set(r->e, EINVAL, "token_embd.weight has %llu rows: must be 1 to %d", (unsigned long long)t->dims[1],
                       1 << 24);
    if (tokens > (int64_t)t->dims[1])
        return err_set(r->e, EINVAL, "%lld tokens, but token_embd.weight has only %llu rows", (long long)tokens,
                       (unsigned long long)t->dims[1]);
    r->s->vocab = (int32_t)t->dims[1];
    r->s->tied = !gguf_find(r->g, "output.weight");
    return 0;
}

int shape_from_gguf(struct model_shape *out, const struct gguf *g, struct err *e)
{
    struct model_shape s = {0};
    struct reader r = {.s = &s, .g = g, .e = e};
    for (size_t i = 0; i < sizeof s.rope_factor / sizeof *s.rope_factor; i++)
        s.rope_factor[i] = 1;
    int rc = read_names(&r);
    if (!rc)
        rc = read_sizes(&r);
    if (!rc)
        rc = read_head_dim(&r);
    if (!rc)
        rc = refuse_features(&r);
    if (!rc)
        rc = get_float(&r, "attention.layer_norm_rms_epsilon", 1e-12, 1, REQUIRED, &s.rms_eps);
    if (!rc)
        rc = get_float(&r, "rope.freq_base", 1, 1e12, 10000, &s.rope_base);
    if (!rc)
        rc = read_rope_scaling(&r);
    if (!rc)
        rc = read_rope_tensor(&r);
    if (!rc)
        rc = read_vocab(&r);
    if (!rc)
        *out = s;
    return rc;
}
