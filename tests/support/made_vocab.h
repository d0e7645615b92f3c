/* made_vocab - a vocabulary made by a test, and the tokenizer of a GGUF file that has it.
 *
 * Tokens and merges are added as the file writes them: bytes stand in GPT-2's alphabet. What can't be made ends the
 * test.
 */
#ifndef HEARTH_TESTS_MADE_VOCAB_H
#define HEARTH_TESTS_MADE_VOCAB_H

#include "engine/text/tokenizer.h"
#include "tests/support/gguf_write.h"

#define MADE_MAX 1024

struct made {
    char token[MADE_MAX][64];
    int32_t type[MADE_MAX];
    size_t n;
    char merge[MADE_MAX][64];
    size_t n_merges;
};

/* Returns the id. */
int32_t made_token(struct made *m, const char *string, int32_t type);
/* Ids 0..255 are the bytes: printable Latin-1 as it is, the rest from U+0100 on. */
void made_bytes(struct made *m);
/* The result becomes a token unless it is one. Returns its id. */
int32_t made_merge(struct made *m, const char *left, const char *right);

/* Tokens, types and merges as metadata of a file. */
void made_lists(const struct made *m, struct gguf_write *w);
/* Finish a file and open its tokenizer, which must not look at the file's bytes after. What tokenizer_open returns. */
int made_open_file(struct gguf_write *w, struct tokenizer **t, struct err *e);
/* The tokenizer of a whole and right file. */
struct tokenizer *made_open(const struct made *m, const char *pre);

#endif
