/* answer - judge the bytes of one HTTP answer, whole or streamed, without an allocation of one's own.
 *
 * For tests in which allocations or OS calls fail: the judge runs in the same process and must not take the failure
 * meant for the server. Understands what the generation routes send: a whole answer with a Content-Length, a chunked
 * stream of SSE events, an error as JSON.
 */
#ifndef HEARTH_TESTS_ANSWER_H
#define HEARTH_TESTS_ANSWER_H

#include <stddef.h>

#define ANSWER_CHOICES 96
#define ANSWER_TEXT    256

enum answer_kind {
    ANSWER_NONE,  /* closed without a byte */
    ANSWER_CUT,   /* closed in the middle: the client sees that it is not whole */
    ANSWER_ERROR, /* an error status or an error event, well-formed, as the last thing */
    ANSWER_WHOLE, /* 200 and all of it */
    ANSWER_BAD    /* anything else */
};

struct answer {
    enum answer_kind kind;
    int status;
    int n_choices;                          /* the largest index + 1 */
    char text[ANSWER_CHOICES][ANSWER_TEXT]; /* of each choice, as JSON wrote it */
    const char *bad;                        /* ANSWER_BAD: what is wrong */
};

/* bytes[n] must have room for one more; chunks of a stream are put together in place. */
void answer_judge(char *bytes, size_t n, struct answer *out);
/* Equal in every choice's text? */
int answer_same(const struct answer *a, const struct answer *b);

#endif
