/* pretok - cuts text into the pieces within which BPE may merge: the pre-tokenizers "gpt2" and "smollm".
 *
 * gpt2 is the pattern of Hugging Face's ByteLevel, first alternative that fits, each run as long as it goes:
 *     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * smollm isolates each digit first (Digits, individual) and applies gpt2 to what lies between.
 *
 * A scanner by hand, no regex engine: the pattern needs one character of look-ahead, so one pass is linear with
 * constant stack whatever the text is, and no match limit exists. PCRE2 was the other choice, but the tables of 10.42
 * (Unicode 14) put 9,392 code points into another class than the reference, those of utf8proc 2.8 (15) 5,004: a table
 * was needed anyway (charclass.h). Pure, MT-safe.
 */
#ifndef HEARTH_TEXT_PRETOK_H
#define HEARTH_TEXT_PRETOK_H

#include <stddef.h>

enum pretok { PRETOK_GPT2, PRETOK_SMOLLM };

#define PRETOK_NAMES "gpt-2, gpt2, default, smollm" /* for the error of who looks one up */

/* tokenizer.ggml.pre -> enum pretok, or -EINVAL for one that is not known. */
int pretok_by_name(const char *name, size_t n);

/* Bytes of the first piece of the n >= 1 bytes of valid UTF-8 at text. What lies before text does not matter. */
size_t pretok_next(enum pretok kind, const char *text, size_t n);

#endif
