/* http_guard - is this request head one that every HTTP parser on its way reads in the same manner?
 *
 * libmicrohttpd takes heads that others read differently: two lengths, a blank before the colon, NUL, bare LF, folded
 * lines, unknown transfer codings (request smuggling). guard_check refuses them, from the list of fields and from where
 * they lie in the bytes that were received. target_parse takes the request target apart. Pure functions, MT-safe.
 * Source: RFC 9110 (fields, methods), RFC 9112 (framing, section 6; targets, section 3.2), RFC 3986 (escapes).
 */
#ifndef HEARTH_SERVER_HTTP_GUARD_H
#define HEARTH_SERVER_HTTP_GUARD_H

#include "engine/base/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One field line. Not terminated: the lengths count. */
struct guard_field {
    const char *name, *value;
    size_t name_len, value_len;
};

/* A request head. With start set, method, target, version and the fields are pointers into start[0..bytes), which is
 * the head as it came (separators may have been overwritten); with start NULL the layout is not checked. */
struct guard_head {
    const char *start;
    size_t bytes; /* from the first byte of the method to the end of the empty line */
    const char *method, *target, *version;
    size_t method_len, target_len;
    const struct guard_field *fields; /* in the order they came */
    size_t n_fields;
};

struct guard_limits {
    size_t header_bytes;
    uint32_t header_count;
};

/* What the head says about the body. */
struct guard_framing {
    bool chunked, expect_continue, http10;
    uint64_t content_length; /* 0 when absent or chunked */
};

/* Returns 0 and *out, or the status to refuse with (400, 415, 417, 431, 505) and *why, a sentence that lives for ever.
 * Whoever is refused must be disconnected: where its body ends is not known. */
int guard_check(const struct guard_head *head, const struct guard_limits *limits, struct guard_framing *out,
                const char **why);

/* Value without the blanks around it: moves *value and *n. */
void guard_trim(const char **value, size_t *n);

/* May a client's value be our x-request-id? 1 to 128 printable characters without blanks and quotes. */
bool guard_request_id(const char *id, size_t n);

struct target_pair {
    const char *name, *value; /* decoded, terminated */
};

struct target {
    const char *path; /* decoded once, starts with '/' ("*" for OPTIONS *); dots and double slashes stay as they are */
    const struct target_pair *query;
    size_t n_query;
};

/* Take raw[0..n) apart: origin form, absolute form (its authority is dropped) or '*'. Strings go to the arena. 0;
 * -EINVAL with *why: no path, a control character, a byte above 0x7e, '#', an escape that is not two hex digits, or
 * one that makes NUL; -ENOMEM. */
int target_parse(struct arena *a, const char *raw, size_t n, struct target *out, const char **why);

#endif
