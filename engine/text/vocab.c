/* vocab - see vocab.h. */
#include "engine/text/vocab.h"

#include "engine/base/hash.h"
#include "engine/base/sys.h"
#include "engine/base/utf8.h"
#include "engine/base/vec.h"

#include <assert.h>
#include <errno.h>

/* Byte that a character of GPT-2's alphabet stands for, or -1. Printable Latin-1 stands for itself; the other 68 bytes,
 * in order, are U+0100, U+0101, ... */
static int byte_of(uint32_t cp)
{
    if ((cp >= 0x21 && cp <= 0x7E) || (cp >= 0xA1 && cp <= 0xFF && cp != 0xAD))
        return (int)cp;
    if (cp < 0x100 || cp > 0x143)
        return -1;
    cp -= 0x100;
    return cp < 33 ? (int)cp : cp < 67 ? (int)cp - 33 + 0x7F : 0xAD;
}

bool vocab_spell(const char *string, size_t n, struct str *out)
{
    size_t had = out->len;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += utf8_next(string + i, n - i, &cp);
        int byte = byte_of(cp);
        if (byte < 0) {
            if (out->data)
                str_cut(out, had);
            return false;
        }
        str_putc(out, (char)byte);
    }
    return true;
}

int vocab_add(struct vocab *v, const char *bytes, size_t n, enum token_type type, bool literal)
{
    if (n > UINT32_MAX || v->n == INT32_MAX)
        return -EOVERFLOW;
    int rc = vec_grow(&v->token, &v->cap, v->n + 1, sizeof *v->token);
    if (rc)
        return rc;
    v->token[v->n++] = (struct vocab_token){v->bytes.len, (uint32_t)n, (uint8_t)type, literal};
    str_add(&v->bytes, bytes, n);
    return v->bytes.oom ? -ENOMEM : 0;
}

/* Add the token whose GGUF string is s. An unused one decodes to nothing: it fills a hole in the numbering. */
static int add_string(struct vocab *v, const char *s, size_t n, enum token_type type, struct str *spelt)
{
    if (type == TOKEN_UNUSED)
        return vocab_add(v, "", 0, type, true);
    bool literal = type == TOKEN_CONTROL || type == TOKEN_UNKNOWN || type == TOKEN_USER_DEFINED;
    if (literal)
        return vocab_add(v, s, n, type, true);
    str_cut(spelt, 0);
    if (!vocab_spell(s, n, spelt))
        return vocab_add(v, s, n, type, true);
    return spelt->oom ? -ENOMEM : vocab_add(v, spelt->data, spelt->len, type, false);
}

static int add_all(struct vocab *v, const struct gguf_val *tokens, const struct gguf_val *types, struct err *e)
{
    struct str spelt = {0};
    str_puts(&spelt, ""); /* so that data is never NULL */
    size_t cursor = 0, n;
    const char *s;
    int rc = 0;
    for (size_t i = 0; !rc && (s = gguf_array_text(tokens, &cursor, &n)); i++) {
        int64_t type = TOKEN_NORMAL;
        if (types && !gguf_array_int(types, i, &type))
            rc = err_set(e, EINVAL, "tokenizer.ggml.token_type: no integer for token %zu", i);
        if (type < TOKEN_UNDEFINED || type > TOKEN_BYTE)
            type = TOKEN_UNDEFINED;
        if (!rc && (rc = add_string(v, s, n, (enum token_type)type, &spelt)))
            err_set(e, -rc, "tokenizer.ggml.tokens: no memory for token %zu of %zu bytes", i, n);
    }
    str_fini(&spelt);
    return rc;
}

int vocab_open(struct vocab *v, const struct gguf *g, struct err *e)
{
    const struct gguf_val *tokens = gguf_get(g, "tokenizer.ggml.tokens");
    const struct gguf_val *types = gguf_get(g, "tokenizer.ggml.token_type");
    int64_t n = tokens ? gguf_array_len(tokens) : -1;
    if (n <= 0 || n > INT32_MAX || gguf_array_type(tokens) != GGUF_STRING)
        return err_set(e, EINVAL, "tokenizer.ggml.tokens: must be an array of 1 to %d strings", INT32_MAX);
    if (types && gguf_array_len(types) != n)
        return err_set(e, EINVAL, "tokenizer.ggml.token_type: must be an array of %lld integers, one for each token",
                       (long long)n);
    *v = (struct vocab){0};
    int rc = add_all(v, tokens, types, e);
    if (!rc)
        rc = vocab_finish(v, e);
    if (rc)
        vocab_fini(v);
    return rc;
}

/* The slot that holds a token with these bytes, or the free one where it would go. */
static int32_t *slot_of(const struct vocab *v, const char *bytes, size_t n, bool literal)
{
    for (size_t i = hash_sip(bytes, n, v->key);; i++) {
        int32_t *slot = &v->slot[i & (v->n_slots - 1)];
        if (*slot < 0)
            return slot;
        const struct vocab_token *t = &v->token[*slot];
        if (t->len == n && t->literal == literal && memcmp(v->bytes.data + t->at, bytes, n) == 0)
            return slot;
    }
}

int vocab_finish(struct vocab *v, struct err *e)
{
    assert(!v->slot);
    v->n_slots = 16;
    while (v->n_slots < 2 * v->n)
        v->n_slots *= 2;
    v->slot = malloc(v->n_slots * sizeof *v->slot);
    if (!v->slot)
        return err_set(e, ENOMEM, "no memory for a vocabulary of %zu tokens", v->n);
    memset(v->slot, 0xFF, v->n_slots * sizeof *v->slot);
    if (sys.random(v->key, sizeof v->key))
        return err_set(e, EIO, "the system gives no random numbers for the key of the vocabulary's hash table");
    for (size_t id = 0; id < v->n; id++) {
        const struct vocab_token *t = &v->token[id];
        int32_t *slot = slot_of(v, v->bytes.data + t->at, t->len, t->literal);
        if (t->len && *slot < 0)
            *slot = (int32_t)id;
    }
    return 0;
}

void vocab_fini(struct vocab *v)
{
    free(v->token);
    free(v->slot);
    str_fini(&v->bytes);
    *v = (struct vocab){0};
}

int32_t vocab_find(const struct vocab *v, const char *bytes, size_t n, bool literal)
{
    return n ? *slot_of(v, bytes, n, literal) : -1;
}
