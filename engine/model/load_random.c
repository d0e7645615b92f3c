/* load_random - "random:SHAPE[:SEED]": a named shape with made-up weights, for tests, planning and speed.
 *
 * Nothing is stored: a tensor is made when it is taken and freed when it is given back. An element is a pure function
 * of (seed, tensor name, index), so any tensor or row is the same wherever and in whatever order it is made:
 *
 *     key     = mix(mix(seed) ^ fnv1a64(name))           mix(z) = the output of SplitMix64 with state z before the step
 *     word[b] = output of SplitMix64 with state key + b * 0x9E3779B97F4A7C15 before the step
 *     u[4b+j] = bits 16j .. 16j+15 of word[b]            index row-major
 *     v[i]    = 2 * u[i] - 65535                         uniform, odd, -65535 .. 65535
 *     matrix  = bf16(v * (float)(gain * sqrt(3 / K) / 65535)), K columns: variance gain^2 / K
 *     norm    = 1 + v * (float)(0.1 / 65535), float32
 *
 * Gains keep the model lively: q and k have 2, so that attention picks a few keys and every token of the context
 * counts; token_embd and the head have 3, so that logits differ by several units. tests/golden/make_llama_numpy.py has
 * the same generator in NumPy.
 */
#include "engine/base/f16.h"
#include "engine/base/rng.h"
#include "engine/base/str.h"
#include "engine/model/load.h"
#include "engine/model/shape.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

extern const struct loader_ops load_random;

struct loader {
    struct loader_head head;
    struct model_shape shape;
    uint64_t seed;
};

static const struct named_shape {
    const char *name;
    int32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, vocab, ctx;
    float rope_base, rope_scaling; /* rope_scaling: llama3 factor over 8192 positions, 0 = none */
    bool tied;
} shapes[] = {
    {"tiny", 2, 64, 4, 2, 16, 128, 512, 2048, 10000, 0, false},
    {"tiny-128k", 2, 64, 4, 2, 16, 128, 512, 131072, 5000000, 0, false},
    {"smollm2-135m", 30, 576, 9, 3, 64, 1536, 49152, 8192, 100000, 0, true},
    {"llama-1b", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 500000, 32, true},
    {"llama-8b", 32, 4096, 32, 8, 128, 14336, 128256, 8192, 500000, 0, false},
    {"llama-8b-128k", 32, 4096, 32, 8, 128, 14336, 128256, 131072, 500000, 8, false},
};

#define N_SHAPES (sizeof shapes / sizeof *shapes)
#define PREFIX   "random:"

static bool probe(const char *source)
{
    return !strncmp(source, PREFIX, strlen(PREFIX));
}

static void set_shape(struct model_shape *s, const struct named_shape *n)
{
    memset(s, 0, sizeof *s);
    strcpy(s->arch, "llama");
    strcpy(s->name, n->name);
    s->n_layers = n->n_layers;
    s->n_embd = n->n_embd;
    s->n_heads = n->n_heads;
    s->n_kv_heads = n->n_kv_heads;
    s->head_dim = n->head_dim;
    s->n_ff = n->n_ff;
    s->vocab = n->vocab;
    s->ctx_train = n->ctx;
    s->rms_eps = 1e-5f;
    s->rope_base = n->rope_base;
    s->tied = n->tied;
    for (size_t i = 0; i < sizeof s->rope_factor / sizeof *s->rope_factor; i++)
        s->rope_factor[i] = 1;
    if (n->rope_scaling > 0)
        shape_scale_llama3(s, (double)n->rope_scaling, 1, 4, 8192);
}

static int unknown_shape(const char *source, struct err *e)
{
    struct str names = {0};
    for (size_t i = 0; i < N_SHAPES; i++)
        str_addf(&names, "%s%s", i ? ", " : "", shapes[i].name);
    int rc = err_set(e, EINVAL, "%s: no such shape; must be one of %s", source, str_text(&names));
    str_fini(&names);
    return rc;
}

/* Digits of an unsigned 64-bit number. */
static bool parse_seed(const char *text, uint64_t *out)
{
    uint64_t x = 0;
    for (const char *p = text; *p; p++) {
        if (*p < '0' || *p > '9' || x > (UINT64_MAX - (uint64_t)(*p - '0')) / 10)
            return false;
        x = x * 10 + (uint64_t)(*p - '0');
    }
    *out = x;
    return *text;
}

static int open_random(struct loader **out, const char *source, struct err *e)
{
    const char *name = source + strlen(PREFIX), *colon = strchr(name, ':');
    size_t n = colon ? (size_t)(colon - name) : strlen(name);
    const struct named_shape *s = NULL;
    uint64_t seed = 1;
    for (size_t i = 0; i < N_SHAPES; i++)
        if (strlen(shapes[i].name) == n && !memcmp(shapes[i].name, name, n))
            s = &shapes[i];
    if (!s)
        return unknown_shape(source, e);
    if (colon && !parse_seed(colon + 1, &seed))
        return err_set(e, EINVAL, "%s: the seed must be a whole number from 0 to 2^64 - 1", source);
    struct loader *l = calloc(1, sizeof *l);
    if (!l)
        return err_set(e, ENOMEM, "no memory to open %s", source);
    l->head.ops = &load_random;
    l->seed = seed;
    set_shape(&l->shape, s);
    *out = l;
    return 0;
}

static void close_random(struct loader *l)
{
    free(l);
}

static const struct model_shape *shape(const struct loader *l)
{
    return &l->shape;
}

/* -- directory */

struct tensor {
    int32_t rows, cols;
    float gain; /* 0 = a norm */
};

/* "blk.17.ffn_up.weight" -> "ffn_up.weight"; names outside layers come back as they are; NULL when there is no such
 * layer. */
static const char *strip_layer(const char *name, int32_t n_layers)
{
    int32_t layer = 0;
    if (strncmp(name, "blk.", 4))
        return name;
    const char *p = name + 4;
    do {
        if (*p < '0' || *p > '9')
            return NULL;
        layer = layer * 10 + (*p++ - '0');
        if (layer >= n_layers)
            return NULL;
    } while (*p != '.');
    return p + 1;
}

static bool describe(const struct model_shape *s, const char *name, struct tensor *out)
{
    const int32_t e = s->n_embd, q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim, f = s->n_ff;
    const struct {
        const char *name;
        bool in_layer;
        struct tensor t;
    } known[] = {
        {"token_embd.weight", false, {s->vocab, e, 3}},
        {"output_norm.weight", false, {1, e, 0}},
        {"output.weight", false, {s->vocab, e, 3}},
        {"attn_norm.weight", true, {1, e, 0}},
        {"ffn_norm.weight", true, {1, e, 0}},
        {"attn_q.weight", true, {q, e, 2}},
        {"attn_k.weight", true, {kv, e, 2}},
        {"attn_v.weight", true, {kv, e, 1}},
        {"attn_output.weight", true, {e, q, 1}},
        {"ffn_gate.weight", true, {f, e, 1}},
        {"ffn_up.weight", true, {f, e, 1}},
        {"ffn_down.weight", true, {e, f, 1}},
    };
    const char *part = strip_layer(name, s->n_layers);
    for (size_t i = 0; part && i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, part) && known[i].in_layer == (part != name)) {
            *out = known[i].t;
            return !(s->tied && !strcmp(part, "output.weight"));
        }
    return false;
}

static uint64_t tensor_key(uint64_t seed, const char *name)
{
    uint64_t s = seed, t = rng_next(&s) ^ hash_fnv(name, strlen(name));
    return rng_next(&t);
}

static int find_tensor(const struct loader *l, const char *name, struct tensor *t, struct weight_part *out,
                       struct err *e)
{
    if (!describe(&l->shape, name, t))
        return err_set(e, ENOENT, "tensor %s: none in random:%s", name, l->shape.name);
    bool norm = t->gain == 0;
    *out = (struct weight_part){.dtype = norm ? DT_F32 : DT_BF16,
                                .rows = t->rows,
                                .cols = t->cols,
                                .row_bytes = (uint64_t)t->cols * (norm ? 4 : 2)};
    if (!norm) {
        out->made_key = tensor_key(l->seed, name);
        out->made_scale = (float)((double)t->gain * sqrt(3.0 / t->cols) / 65535);
    }
    return 0;
}

static int find(const struct loader *l, const char *name, struct weight_part *out, struct err *e)
{
    struct tensor t;
    return find_tensor(l, name, &t, out, e);
}

/* -- weights */

/* Elements of a tensor are n = rows * cols, always a multiple of 4. */
static void fill_matrix(uint16_t *to, uint64_t n, uint64_t key, float scale)
{
    for (uint64_t i = 0; i < n; i += 4) {
        uint64_t word = rng_next(&key);
        for (int j = 0; j < 4; j++, word >>= 16)
            to[i + (uint64_t)j] = bf16_from_f32((float)(2 * (int32_t)(word & 0xffff) - 65535) * scale);
    }
}

static void fill_norm(float *to, uint64_t n, uint64_t key)
{
    const float scale = (float)(0.1 / 65535);
    for (uint64_t i = 0; i < n; i += 4) {
        uint64_t word = rng_next(&key);
        for (int j = 0; j < 4; j++, word >>= 16)
            to[i + (uint64_t)j] = 1 + (float)(2 * (int32_t)(word & 0xffff) - 65535) * scale;
    }
}

static int take(struct loader *l, const char *name, struct weight_loan *out, struct err *e)
{
    struct tensor t;
    struct weight_loan loan = {0};
    int rc = find_tensor(l, name, &t, &loan.part, e);
    if (rc)
        return rc;
    loan.owned = malloc((size_t)t.rows * loan.part.row_bytes);
    if (!loan.owned)
        return err_set(e, ENOMEM, "no memory for %llu bytes of tensor %s",
                       (unsigned long long)((uint64_t)t.rows * loan.part.row_bytes), name);
    uint64_t n = (uint64_t)t.rows * (uint64_t)t.cols, key = tensor_key(l->seed, name);
    if (t.gain == 0)
        fill_norm(loan.owned, n, key);
    else
        fill_matrix(loan.owned, n, key, loan.part.made_scale);
    loan.part.data = loan.owned;
    loan.part.made_scale = 0;
    *out = loan;
    return 0;
}

static void done(struct loader *l, struct weight_loan *loan)
{
    free(loan->owned);
    memset(loan, 0, sizeof *loan);
}

static int fingerprint(struct loader *l, struct hash_key *out, struct err *e)
{
    struct hash_state *h = hash_open();
    if (!h)
        return err_set(e, ENOMEM, "no memory for the model's fingerprint");
    hash_field(h, 1, "random 1", 8); /* the number changes with the generator or with a shape */
    hash_field(h, 2, l->shape.name, strlen(l->shape.name));
    hash_field(h, 3, &l->seed, sizeof l->seed);
    hash_finish(h, out);
    return 0;
}

const struct loader_ops load_random = {
    .name = "random",
    .probe = probe,
    .open = open_random,
    .close = close_random,
    .shape = shape,
    .find = find,
    .take = take,
    .done = done,
    .fingerprint = fingerprint,
};
