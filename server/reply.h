/* reply - answers in OpenAI's shape: errors with string codes, and JSON bodies.
 *
 * {"error":{"message","type","param","code"}}. A message names the field, the value and the bound, never an address, a
 * path of the program or a prompt. MT-safe but the answering functions (loop thread).
 */
#ifndef HEARTH_SERVER_REPLY_H
#define HEARTH_SERVER_REPLY_H

#include "engine/base/str.h"
#include "server/http.h"

struct api_error {
    int status;       /* 0 = none */
    const char *type; /* "invalid_request_error", ... */
    const char *code; /* "context_length_exceeded", ... or NULL */
    char param[96];   /* "messages[2].content", "" = null */
    char message[512];
    uint32_t retry_ms; /* > 0: Retry-After and retry-after-ms */
    char allow[64];    /* of 405: the methods that are, for Allow */
};

/* Fill e and return -1, so that `return api_fail(e, 400, ...)` reads well. The type follows from the status. A 500
 * tells clients not to try again by themselves (x-should-retry): it would fail the same way, after the same work. */
int api_fail(struct api_error *e, int status, const char *code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* The JSON of an error, also as data of a stream that has begun. */
void api_put_error(const struct api_error *e, struct str *out);

/* Answer a call. */
void reply_error(struct http_call *c, const struct api_error *e);
void reply_json(struct http_call *c, int status, const struct str *body);

#endif
