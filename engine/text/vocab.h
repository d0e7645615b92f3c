/* vocab - the strings of all tokens: bytes by id, id by bytes.
 *
 * A GGUF vocabulary of model "gpt2" writes a token's bytes in an alphabet of 256 printable characters (GPT-2's
 * bytes_to_unicode); they are turned back into raw bytes here, once. Control, unknown and user-defined tokens are
 * written as they are: such a token is `literal`, and so is one with a character outside the alphabet. The same bytes
 * may thus belong to a literal token and to another one; a look-up says which it wants.
 * Immutable after open, MT-safe.
 */
#ifndef HEARTH_TEXT_VOCAB_H
#define HEARTH_TEXT_VOCAB_H

#include "engine/base/err.h"
#include "engine/base/gguf.h"
#include "engine/base/str.h"

#include <stdbool.h>
#include <stdint.h>

enum token_type { /* as in tokenizer.ggml.token_type */
                  TOKEN_UNDEFINED,
                  TOKEN_NORMAL,
                  TOKEN_UNKNOWN,
                  TOKEN_CONTROL,
                  TOKEN_USER_DEFINED,
                  TOKEN_UNUSED,
                  TOKEN_BYTE
};

struct vocab_token {
    size_t at; /* its bytes begin at bytes.data[at] */
    uint32_t len;
    uint8_t type; /* enum token_type */
    bool literal;
};

struct vocab {
    struct vocab_token *token;
    size_t n, cap; /* n is at most INT32_MAX */
    struct str bytes;
    int32_t *slot; /* hash table of ids, -1 = free; a power of two, at most half full */
    size_t n_slots;
    uint64_t key[2];
};

/* Read tokenizer.ggml.tokens and token_type (absent: all normal). 0 or -errno with e. On failure v holds nothing. */
int vocab_open(struct vocab *v, const struct gguf *g, struct err *e);
/* Build by hand: start with a zeroed v, add tokens in the order of their ids, then finish (makes the look-up table).
 * Errors as above, but the caller calls vocab_fini. */
int vocab_add(struct vocab *v, const char *bytes, size_t n, enum token_type type, bool literal);
int vocab_finish(struct vocab *v, struct err *e);
void vocab_fini(struct vocab *v);

/* Id of the first token with these bytes, or -1. */
int32_t vocab_find(const struct vocab *v, const char *bytes, size_t n, bool literal);
/* Turn a string of the alphabet into bytes, appended to out. False (nothing appended) when a character is outside. */
bool vocab_spell(const char *string, size_t n, struct str *out);

static inline const char *vocab_bytes(const struct vocab *v, int32_t id, size_t *n)
{
    const struct vocab_token *t = &v->token[id];
    *n = t->len;
    return v->bytes.data + t->at;
}

#endif
