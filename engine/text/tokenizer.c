/* tokenizer - see tokenizer.h. Text is repaired, cut at added tokens (added.h), what lies between is cut into pieces
 * (pretok.h), and each piece is merged (bpe.h).
 */
#include "engine/text/tokenizer.h"

#include "engine/base/utf8.h"
#include "engine/base/vec.h"
#include "engine/text/added.h"
#include "engine/text/bpe.h"
#include "engine/text/pretok.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BIT(type) (1u << (type))
#define SPECIAL   (BIT(TOKEN_CONTROL) | BIT(TOKEN_UNKNOWN))
#define MAX_EOG   64

struct tokenizer {
    struct vocab vocab;
    struct bpe bpe;
    struct added all;   /* control, unknown and user-defined tokens */
    struct added typed; /* user-defined ones: ordinary vocabulary, in any text */
    enum pretok pretok;
    int32_t bos, eos;
    bool add_bos;
    int32_t eog[MAX_EOG];
    size_t n_eog;
};

/* ---- open ---- */

/* A short printable form of a value out of a file, for an error. */
static const char *shown(char out[48], const char *s, size_t n)
{
    size_t i = 0;
    for (; i < n && i < 47; i++)
        out[i] = s[i] >= 0x20 && s[i] < 0x7F ? s[i] : '?';
    out[i] = 0;
    return out;
}

static int check_model(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    char buf[48];
    size_t n = 0;
    const char *model = gguf_text(gguf_get(g, "tokenizer.ggml.model"), &n);
    if (!model)
        return err_set(e, EINVAL, "tokenizer.ggml.model: missing; the model file has no vocabulary");
    if (n != 4 || memcmp(model, "gpt2", 4) != 0)
        return err_set(e, ENOTSUP, "tokenizer.ggml.model \"%s\": not supported (known: gpt2)", shown(buf, model, n));
    const char *pre = gguf_text(gguf_get(g, "tokenizer.ggml.pre"), &n);
    if (!pre)
        return err_set(e, EINVAL, "tokenizer.ggml.pre: missing; convert the model again (known: %s)", PRETOK_NAMES);
    int kind = pretok_by_name(pre, n);
    if (kind < 0)
        return err_set(e, ENOTSUP, "tokenizer.ggml.pre \"%s\": not supported (known: %s)", shown(buf, pre, n),
                       PRETOK_NAMES);
    t->pretok = (enum pretok)kind;
    return 0;
}

/* The id that a key names, -1 when the key is absent. */
static int read_id(const struct tokenizer *t, const struct gguf *g, const char *key, int32_t *id, struct err *e)
{
    *id = -1;
    const struct gguf_val *v = gguf_get(g, key);
    int64_t x;
    if (!v)
        return 0;
    if (!gguf_int(v, &x) || x < 0 || (uint64_t)x >= t->vocab.n)
        return err_set(e, EINVAL, "%s: must be an id from 0 to %zu", key, t->vocab.n - 1);
    *id = (int32_t)x;
    return 0;
}

static int read_bos(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    int rc = read_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos, e);
    const struct gguf_val *add = gguf_get(g, "tokenizer.ggml.add_bos_token");
    if (rc || !add)
        return rc;
    if (!gguf_bool(add, &t->add_bos))
        return err_set(e, EINVAL, "tokenizer.ggml.add_bos_token: must be true or false");
    if (t->add_bos && t->bos < 0)
        return err_set(e, EINVAL, "tokenizer.ggml.add_bos_token is true, but tokenizer.ggml.bos_token_id is missing");
    return 0;
}

static void add_eog(struct tokenizer *t, int32_t id)
{
    for (size_t i = 0; i < t->n_eog; i++)
        if (t->eog[i] == id)
            return;
    if (id >= 0 && t->n_eog < MAX_EOG)
        t->eog[t->n_eog++] = id;
}

/* A token with a well-known name ends generation, whatever type the file gives it, and becomes control; but an ordinary
 * one that merges build is text (</s> also closes HTML's <s>). */
static void add_eog_name(struct tokenizer *t, const char *name)
{
    int32_t id = tokenizer_find(t, name, strlen(name));
    if (id < 0)
        return;
    uint8_t *type = &t->vocab.token[id].type;
    if (!(SPECIAL & BIT(*type)) && bpe_makes(&t->bpe, id))
        return;
    *type = TOKEN_CONTROL;
    add_eog(t, id);
}

static int read_eog(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    static const char *const keys[] = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    /* The ends of a file or repository in fill-in-the-middle models are ends too. */
    static const char *const names[] = {
        "<|im_end|>",
        "<|endoftext|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<|end_of_text|>",
        "<end_of_turn>",
        "</s>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<eos>",
        "<|fim_pad|>",
        "<fim-pad>",
        "<fim_pad>",
        "<PAD>",
        "[PAD]",
        "<|fim_repo|>",
        "<|repo_name|>",
        "<fim-repo>",
        "<REPO>",
        "<reponame>",
        "<|file_sep|>",
        "<end_of_utterance>",
        "<｜end▁of▁sentence｜>",
    };
    int rc = read_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos, e);
    add_eog(t, t->eos);
    for (size_t i = 0; !rc && i < sizeof keys / sizeof *keys; i++) {
        int32_t id;
        rc = read_id(t, g, keys[i], &id, e);
        add_eog(t, id);
    }
    for (size_t i = 0; !rc && i < sizeof names / sizeof *names; i++)
        add_eog_name(t, names[i]);
    return rc;
}

static int open_added(struct tokenizer *t, struct err *e)
{
    int rc = added_open(&t->all, &t->vocab, SPECIAL | BIT(TOKEN_USER_DEFINED), e);
    return rc ? rc : added_open(&t->typed, &t->vocab, BIT(TOKEN_USER_DEFINED), e);
}

int tokenizer_open(struct tokenizer **out, const struct gguf *g, struct err *e)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return err_set(e, ENOMEM, "no memory for a tokenizer");
    int rc = check_model(t, g, e);
    if (!rc)
        rc = vocab_open(&t->vocab, g, e);
    if (!rc)
        rc = bpe_open(&t->bpe, &t->vocab, g, e);
    if (!rc)
        rc = read_bos(t, g, e);
    if (!rc)
        rc = read_eog(t, g, e);
    if (!rc)
        rc = open_added(t, e);
    if (rc)
        tokenizer_close(t);
    else
        *out = t;
    return rc;
}

static int fill_bytes(struct tokenizer *t, int32_t vocab)
{
    static const char *const control[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"};
    int rc = 0;
    for (int32_t i = 0; !rc && i < vocab; i++) {
        char byte = (char)i;
        if (i < 256)
            rc = vocab_add(&t->vocab, &byte, 1, TOKEN_NORMAL, false);
        else if (i < 260)
            rc = vocab_add(&t->vocab, control[i - 256], strlen(control[i - 256]), TOKEN_CONTROL, true);
        else
            rc = vocab_add(&t->vocab, "", 0, TOKEN_UNUSED, true);
    }
    return rc;
}

int tokenizer_open_bytes(struct tokenizer **out, int32_t vocab, struct err *e)
{
    if (vocab < 260)
        return err_set(e, EINVAL, "vocabulary of %d tokens: a byte tokenizer needs at least 260", vocab);
    struct tokenizer *t = calloc(1, sizeof *t);
    int rc = t ? fill_bytes(t, vocab) : -ENOMEM;
    if (rc)
        err_set(e, -rc, "no memory for a byte tokenizer of %d tokens", vocab);
    if (!rc)
        rc = vocab_finish(&t->vocab, e);
    if (!rc && (rc = bpe_open_bytes(&t->bpe, &t->vocab)))
        err_set(e, -rc, "no memory for a byte tokenizer of %d tokens", vocab);
    if (!rc)
        rc = open_added(t, e);
    if (rc) {
        tokenizer_close(t);
        return rc;
    }
    t->bos = -1;
    t->eos = 256;
    add_eog(t, 256);
    add_eog(t, 258);
    *out = t;
    return 0;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    added_fini(&t->all);
    added_fini(&t->typed);
    bpe_fini(&t->bpe);
    vocab_fini(&t->vocab);
    free(t);
}

/* ---- encode ---- */

/* Put U+FFFD for each maximal bad subsequence. */
static void repair(const char *text, size_t n, struct str *out)
{
    for (size_t i = 0, took; i < n; i += took) {
        uint32_t cp;
        took = utf8_next(text + i, n - i, &cp);
        if (cp >= UTF8_BAD)
            str_puts(out, UTF8_REPLACEMENT_TXT);
        else
            str_add(out, text + i, took);
    }
}

static int encode_plain(const struct tokenizer *t, const char *text, size_t n, struct bpe_work *w,
                        struct token_ids *out)
{
    int rc = 0;
    for (size_t i = 0, len; !rc && i < n; i += len) {
        len = pretok_next(t->pretok, text + i, n - i);
        rc = bpe_encode(&t->bpe, text + i, len, w, out);
    }
    return rc;
}

static int push_id(struct token_ids *out, int32_t id)
{
    int rc = vec_grow(&out->ids, &out->cap, out->n + 1, sizeof *out->ids);
    if (!rc)
        out->ids[out->n++] = id;
    return rc;
}

static int encode_valid(const struct tokenizer *t, const char *text, size_t n, bool special, struct token_ids *out)
{
    const struct added *added = special ? &t->all : &t->typed;
    struct bpe_work w = {0};
    int rc = 0;
    for (size_t from = 0; !rc && from < n;) {
        struct added_hit hit = added_find(added, &t->vocab, text, from, n);
        rc = encode_plain(t, text + from, hit.at - from, &w, out);
        if (!rc && hit.len)
            rc = push_id(out, hit.id);
        from = hit.at + hit.len;
    }
    bpe_work_fini(&w);
    return rc;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool special, struct token_ids *out,
                     struct err *e)
{
    struct str whole = {0};
    size_t had = out->n;
    int rc;
    if (!utf8_valid(text, n)) {
        repair(text, n, &whole);
        text = whole.data;
        n = whole.len;
    }
    if (whole.oom)
        rc = -ENOMEM;
    else
        rc = n > INT32_MAX ? -EOVERFLOW : encode_valid(t, text, n, special, out);
    if (rc) {
        out->n = had;
        err_set(e, -rc, rc == -ENOMEM ? "no memory to tokenize %zu bytes" : "%zu bytes of text: at most 2147483647", n);
    }
    str_fini(&whole);
    return rc;
}

/* ---- queries ---- */

static bool known(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && (size_t)id < t->vocab.n;
}

const char *tokenizer_token_bytes(const struct tokenizer *t, int32_t id, size_t *n)
{
    *n = 0;
    return known(t, id) ? vocab_bytes(&t->vocab, id, n) : NULL;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return known(t, id) && (SPECIAL & BIT(t->vocab.token[id].type));
}

int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t n)
{
    int32_t id = vocab_find(&t->vocab, text, n, true);
    return id >= 0 ? id : vocab_find(&t->vocab, text, n, false);
}

int32_t tokenizer_match_special(const struct tokenizer *t, const char *text, size_t n, size_t *len)
{
    return added_match(&t->all, &t->vocab, text, n, len);
}

int32_t tokenizer_vocab(const struct tokenizer *t)
{
    return (int32_t)t->vocab.n;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tokenizer_add_bos(const struct tokenizer *t)
{
    return t->add_bos;
}

const int32_t *tokenizer_eog(const struct tokenizer *t, size_t *n)
{
    *n = t->n_eog;
    return t->eog;
}
