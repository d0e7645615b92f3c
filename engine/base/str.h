/* str - a growable byte string. Holds any bytes; data is always terminated, so text can be printed as it is.
 *
 * Appending returns nothing: an allocation that fails sets `oom`, and later appends do nothing. The owner checks `oom`
 * once, at the end. Not MT-safe; one owner.
 */
#ifndef HEARTH_BASE_STR_H
#define HEARTH_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>

struct str {
    char *data; /* NULL until the first append */
    size_t len, cap;
    bool oom;
};

void str_add(struct str *s, const void *bytes, size_t n);
void str_puts(struct str *s, const char *text);
void str_putc(struct str *s, char c);
void str_addf(struct str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Make room for n more bytes and return where they go (then add to len yourself); NULL on oom. */
char *str_room(struct str *s, size_t n);

/* Keep the first n bytes (n <= len). */
void str_cut(struct str *s, size_t n);
/* Drop the first n bytes (n <= len). */
void str_drop(struct str *s, size_t n);

/* Free the bytes and zero the struct. */
void str_fini(struct str *s);

/* The text, never NULL ("" when empty). */
const char *str_text(const struct str *s);

#endif
