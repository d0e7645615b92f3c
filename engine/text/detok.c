/* detok - the incremental detokenizer of tokenizer.h.
 *
 * A byte goes into `held` until the bytes there are a whole character, or can't become one: then the bad part comes out
 * as one U+FFFD. So the pieces of a stream, put together, are the decode of all its bytes at once.
 */
#include "engine/base/utf8.h"
#include "engine/text/tokenizer.h"

#include <string.h>

static void push_byte(struct detok *d, uint8_t byte, struct str *out)
{
    d->held[d->n_held++] = byte;
    while (d->n_held) {
        uint32_t cp;
        size_t took = utf8_next((const char *)d->held, d->n_held, &cp);
        if (cp == UTF8_CUT)
            return;
        if (cp == UTF8_BAD)
            str_puts(out, UTF8_REPLACEMENT_TXT);
        else
            str_add(out, d->held, took);
        d->n_held = (uint8_t)(d->n_held - took);
        memmove(d->held, d->held + took, d->n_held);
    }
}

void detok_push(struct detok *d, const struct tokenizer *t, int32_t id, bool skip_special, struct str *out)
{
    size_t n;
    const char *bytes = tokenizer_token_bytes(t, id, &n);
    if (!bytes || (skip_special && tokenizer_is_special(t, id)))
        return;
    for (size_t i = 0; i < n; i++)
        push_byte(d, (uint8_t)bytes[i], out);
}

void detok_finish(struct detok *d, struct str *out)
{
    if (d->n_held)
        str_puts(out, UTF8_REPLACEMENT_TXT);
    d->n_held = 0;
}
