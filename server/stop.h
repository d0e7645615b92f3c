/* stop - find stop strings in text that arrives in pieces, and hold back what may become one.
 *
 * Text comes out as soon as no stop string can begin in it. When one is found, the text before it comes out, the string
 * and all after it never. The earliest end wins; of those that end together the longest. One per choice; one owner.
 */
#ifndef HEARTH_SERVER_STOP_H
#define HEARTH_SERVER_STOP_H

#include "engine/base/str.h"

#include <stdbool.h>
#include <stddef.h>

#define STOP_MAX 16

struct stop_set { /* shared by the choices of a request; the strings are the holder's */
    const char *text[STOP_MAX];
    size_t len[STOP_MAX]; /* > 0 */
    size_t n, longest;
};

struct stop_scan {
    struct str held; /* the tail that may still become a stop string */
};

/* Feed n bytes; what is safe is appended to out. Returns the index of the stop string that was found, or -1. After a
 * find the scan is over. */
int stop_push(struct stop_scan *s, const struct stop_set *set, const char *text, size_t n, struct str *out);
/* End of text: what was held comes out. */
void stop_flush(struct stop_scan *s, struct str *out);
void stop_fini(struct stop_scan *s);

#endif
