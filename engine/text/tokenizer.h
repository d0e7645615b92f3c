/* tokenizer - text to token ids and back: byte-level BPE out of GGUF metadata.
 *
 * Immutable after open, MT-safe. Gives the ids that Hugging Face `tokenizers` gives for the same vocabulary and merges.
 * Encoding is O(n log n) whatever the text is (1 M equal characters well under 1 s), with constant stack: the
 * pre-tokenizer is a scanner (pretok.h), merges use a heap over a linked list (bpe.h).
 * Models: tokenizer.ggml.model "gpt2" with pre-tokenizers "gpt-2"/"gpt2"/"default" and "smollm"; an unknown one is an
 * error that names it. Random models (no vocabulary) use tokenizer_open_bytes: 256 byte tokens and a few special ones.
 */
#ifndef HEARTH_TEXT_TOKENIZER_H
#define HEARTH_TEXT_TOKENIZER_H

#include "engine/base/err.h"
#include "engine/base/gguf.h"
#include "engine/base/str.h"

#include <stdbool.h>
#include <stdint.h>

struct tokenizer;

struct token_ids { /* owned by its holder; free(ids) */
    int32_t *ids;
    size_t n, cap;
};

/* Build from an open GGUF; copies what it needs, so g may be closed after. 0, or -errno with e (missing or bad metadata
 * names its key; unsupported model or pre-tokenizer names the value and the known ones). */
int tokenizer_open(struct tokenizer **out, const struct gguf *g, struct err *e);
/* A byte tokenizer for random models of `vocab` tokens (>= 260): ids 0..255 are bytes, 256 <|endoftext|> (eos),
 * 257 <|im_start|>, 258 <|im_end|> (eot, also ends generation), 259 <pad>; ids above decode to nothing. */
int tokenizer_open_bytes(struct tokenizer **out, int32_t vocab, struct err *e);
void tokenizer_close(struct tokenizer *t); /* NULL is fine */

/* Append the ids of n bytes of UTF-8 text. `special`: strings of control tokens in the text (<|im_start|>) become their
 * ids; false: they are plain text (what a user typed is never control). User-defined tokens (type 4: what a model added
 * as ordinary vocabulary) are found either way, as the reference and llama.cpp do. Of several the leftmost, then the
 * longest is taken. Invalid UTF-8 bytes become U+FFFD first (each maximal bad subsequence one). A byte that the
 * vocabulary has no token for (SmolLM2 lacks six control characters) gives nothing, again as the reference.
 * 0, -ENOMEM, or -EOVERFLOW (n beyond 2^31 - 1) with e and nothing appended. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool special, struct token_ids *out,
                     struct err *e);

/* Raw bytes of one id, *n long, not terminated and maybe no whole character; control tokens give their own text.
 * NULL for an id outside the vocabulary. */
const char *tokenizer_token_bytes(const struct tokenizer *t, int32_t id, size_t *n);
/* Is id a control token (not shown in output unless skip_special_tokens is false)? False outside the vocabulary. */
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);
/* The id whose bytes (tokenizer_token_bytes) are text, or -1; of two a control or user-defined one. */
int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t n);
/* Id of the longest control or user-defined token that the n bytes of text begin with, its length in *len; or -1. The
 * very tokens that tokenizer_encode(special = true) finds. Called for every byte of a prompt: a miss costs a table
 * look-up. */
int32_t tokenizer_match_special(const struct tokenizer *t, const char *text, size_t n, size_t *len);

int32_t tokenizer_vocab(const struct tokenizer *t); /* ids are 0 .. vocab-1 */
int32_t tokenizer_bos(const struct tokenizer *t);   /* -1 = none */
int32_t tokenizer_eos(const struct tokenizer *t);   /* -1 = none */
bool tokenizer_add_bos(const struct tokenizer *t);  /* does a plain prompt begin with bos? */
/* Ids that end generation: those the metadata names as eos, eot, eom, and well-known strings (<|im_end|>,
 * <|endoftext|>, <|eot_id|>, <end_of_turn>, ...; the list of llama.cpp). *n of them. */
const int32_t *tokenizer_eog(const struct tokenizer *t, size_t *n);

/* Incremental detokenizer: bytes come out only as whole UTF-8 characters; a sequence that can never become valid comes
 * out as U+FFFD. One per stream, no allocation. */
struct detok {
    uint8_t held[4]; /* bytes of a character that is not whole yet */
    uint8_t n_held;
};

/* Append the text that token id adds to `out`. skip_special drops control tokens. */
void detok_push(struct detok *d, const struct tokenizer *t, int32_t id, bool skip_special, struct str *out);
/* End of stream: held bytes come out as one U+FFFD. */
void detok_finish(struct detok *d, struct str *out);

#endif
