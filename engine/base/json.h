/* json - JSON in and out. cJSON is fenced behind this header; nobody else includes it.
 *
 * Reading: one iterative pass (json_check) first enforces what cJSON does not: RFC 8259 to the letter, UTF-8 (no
 * surrogate code points, paired \u escapes), depth, node count, no duplicate key in one object. Then the tree is built.
 * Strings may hold \u0000: their length is json_text's. Numbers keep their digits: json_int reads integers exactly
 * from them. Look-ups are case-sensitive. Arrays and objects are walked with json_first / json_next (a list: no index).
 * A tree belongs to one thread at a time. Errors name the byte offset: "JSON, byte 17: ...".
 *
 * Writing: append to a `struct str`; the caller places commas and braces.
 */
#ifndef HEARTH_BASE_JSON_H
#define HEARTH_BASE_JSON_H

#include "engine/base/err.h"
#include "engine/base/str.h"

#include <stdbool.h>
#include <stdint.h>

enum json_type { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json_limits {
    unsigned depth; /* nesting of arrays and objects; 0 = 64 */
    size_t nodes;   /* values in all; 0 = 1,000,000. Elements of long all-integer arrays do not count (see json_ints) */
};

struct json;     /* a parsed document */
struct json_val; /* a value in it */

/* Check bytes[0..n) only. 0, or -EINVAL / -E2BIG (too deep, too many) with the offset in e. Iterative, O(n) time,
 * memory bounded by depth and keys. */
int json_check(const char *bytes, size_t n, const struct json_limits *limits, struct err *e);

/* Check, then build. *out is the document; the bytes need not stay. 0, or -EINVAL, -E2BIG, -ENOMEM. */
int json_parse(struct json **out, const char *bytes, size_t n, const struct json_limits *limits, struct err *e);
void json_close(struct json *doc); /* NULL is fine */
const struct json_val *json_root(const struct json *doc);

enum json_type json_typeof(const struct json_val *v);
/* Member `key` of an object, or NULL (absent, or v is no object, or v is NULL). */
const struct json_val *json_get(const struct json_val *v, const char *key);
/* First child of an array or object (NULL when empty or neither); next sibling. */
const struct json_val *json_first(const struct json_val *v);
const struct json_val *json_next(const struct json_val *v);
/* Key of a member (its length in *n when n is not NULL); NULL for an array's element. */
const char *json_key(const struct json_val *v, size_t *n);
/* Children of an array or object: O(1) for integer arrays, O(n) otherwise. */
size_t json_count(const struct json_val *v);

/* Bytes of a string, terminated, length in *n (it may hold NUL bytes); NULL when v is no string. */
const char *json_text(const struct json_val *v, size_t *n);
/* The number as a double; false when v is no number. 1e999 gives infinity: callers check ranges. */
bool json_double(const struct json_val *v, double *out);
/* The number when it is an integer written exactly (5, -3, 5.0 and 5e0 are; 5.7, 2^63 are not). */
bool json_int(const struct json_val *v, int64_t *out);

/* An array whose elements are all integers in int32 range is kept as one flat array, whatever its length: a token-id
 * prompt of 1 M ids costs 4 MB. NULL when v is no such array (an empty array gives a valid pointer and *n = 0).
 * json_first and json_next do not walk a flat array: callers that accept both ask json_ints first. */
const int32_t *json_ints(const struct json_val *v, size_t *n);

/* "text" with quotes and escapes, from n bytes of valid UTF-8; invalid bytes become U+FFFD. */
void json_put_text(struct str *s, const char *text, size_t n);
void json_put_cstr(struct str *s, const char *text);
/* Shortest decimal that reads back as the same double; NaN and infinities are written as null. */
void json_put_double(struct str *s, double v);
/* v again as compact JSON: numbers with their own digits, keys in order. `sep` = ", " and ": " spacing like Python's
 * json.dumps when true, none when false. */
void json_put_value(struct str *s, const struct json_val *v, bool sep);

#endif
