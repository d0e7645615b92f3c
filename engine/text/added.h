/* added - finds the strings of control and user-defined tokens in text: the leftmost, of these the longest.
 *
 * The strings lie sorted by bytes; a match is a binary search that narrows byte by byte, tried only where a first byte
 * fits. Hugging Face's added tokens match the same way. Immutable after open, MT-safe.
 */
#ifndef HEARTH_TEXT_ADDED_H
#define HEARTH_TEXT_ADDED_H

#include "engine/text/vocab.h"

struct added {
    int32_t *id; /* sorted by their bytes */
    size_t n;
    bool first[256]; /* bytes that some string begins with */
};

struct added_hit {
    size_t at, len; /* at = size of the text and len = 0 when there is none */
    int32_t id;
};

/* Gather the tokens of the given types (bits 1 << enum token_type). 0 or -ENOMEM with e. */
int added_open(struct added *a, const struct vocab *v, unsigned types, struct err *e);
void added_fini(struct added *a);

/* Longest string that the n bytes of text begin with: its id, *len its bytes; or -1 (*len is left alone). */
int32_t added_match(const struct added *a, const struct vocab *v, const char *text, size_t n, size_t *len);
/* First match in text[from .. n). */
struct added_hit added_find(const struct added *a, const struct vocab *v, const char *text, size_t from, size_t n);

#endif
