/* json - JSON in and out, without a library.
 *
 * Reading takes two passes over the bytes. The first (json_check.c) is iterative and enforces RFC 8259 to the letter:
 * UTF-8, paired surrogate escapes, depth, number of values, no duplicate key in one object; it also measures the tree.
 * The second (json.c) fills one block of exactly that size and cannot fail. A document is one allocation.
 *
 * Strings may hold \u0000: their length is json_text's. Numbers keep their digits: json_int reads integers exactly
 * from them. Look-ups are case-sensitive. Arrays and objects are walked with json_first / json_next (a list: no index).
 * A tree never changes: any thread may read it. Errors name the byte offset, counted from 0, and echo at most one
 * printable character: "JSON, byte 17: expected ':' after the key, found 'x'".
 *
 * Cost: 32 bytes a value, 4 bytes an element of an integer array, and at most the bytes of strings and numbers.
 * cJSON can do none of: NUL bytes in strings, integers beyond 2^53, duplicate keys, flat arrays; with these passes
 * written nothing was left for it.
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

#define JSON_DEPTH_MAX 256 /* what limits.depth may be at most (asserted) */

struct json_limits {
    unsigned depth; /* nesting of arrays and objects; 0 = 64 */
    size_t nodes;   /* values in all; 0 = 1,000,000. A flat integer array (see json_ints) counts as one */
};

struct json;     /* a parsed document */
struct json_val; /* a value in it */

/* Check bytes[0..n) only; limits NULL = defaults. 0; -EINVAL, -E2BIG (too deep, too many values, 4 GiB or more) or
 * -ENOMEM, with the offset in e. O(n) time, O(k log k) for the k keys of an object; 16 bytes of memory a key. */
int json_check(const char *bytes, size_t n, const struct json_limits *limits, struct err *e);

/* Check, then build. *out is the document; the bytes need not stay. 0, or -EINVAL, -E2BIG, -ENOMEM as json_check. */
int json_parse(struct json **out, const char *bytes, size_t n, const struct json_limits *limits, struct err *e);
void json_close(struct json *doc); /* NULL is fine */
const struct json_val *json_root(const struct json *doc);

/* All reads but json_typeof, json_key and json_next take NULL for an absent value: it is of no type and has no
 * children. */
enum json_type json_typeof(const struct json_val *v);
/* Member `key` of an object, or NULL (absent, or v is no object, or v is NULL). O(members). */
const struct json_val *json_get(const struct json_val *v, const char *key);
/* First child of an array or object (NULL when empty or neither); next sibling. */
const struct json_val *json_first(const struct json_val *v);
const struct json_val *json_next(const struct json_val *v);
/* Key of a member (its length in *n when n is not NULL); NULL for an array's element and the root. */
const char *json_key(const struct json_val *v, size_t *n);
/* Children of an array or object, O(1); 0 for what has none. */
size_t json_count(const struct json_val *v);

/* Bytes of a string, terminated, length in *n when n is not NULL (it may hold NUL bytes); NULL when v is no string. */
const char *json_text(const struct json_val *v, size_t *n);
/* A number as it was written, terminated; NULL when v is no number. "1e2" and "1.0" can be told from "100" and "1". */
const char *json_digits(const struct json_val *v, size_t *n);
/* The number as a double; false when v is no number. 1e999 gives infinity: callers check ranges. */
bool json_double(const struct json_val *v, double *out);
/* The number when it is an integer written exactly (5, -3, 5.0, 5e0 and 0.5e1 are; 5.7 and 2^63 are not). */
bool json_int(const struct json_val *v, int64_t *out);

/* An array whose elements are all plain integers (no fraction, exponent or -0) in int32 range is kept flat, whatever
 * its length: a token-id prompt of 1 M ids costs 4 MB. NULL when v is no such array (an empty array gives a valid
 * pointer and *n = 0). json_first and json_next do not walk a flat array: callers that accept both ask json_ints first.
 */
const int32_t *json_ints(const struct json_val *v, size_t *n);

/* "text" with quotes and escapes, from n bytes of UTF-8; each maximal bad subsequence becomes one U+FFFD. */
void json_put_text(struct str *s, const char *text, size_t n);
void json_put_cstr(struct str *s, const char *text);
/* Shortest decimal that reads back as the same double, laid out as Python's repr (1.0, 1e-05, 1e+16); NaN and
 * infinities are written as null. */
void json_put_double(struct str *s, double v);
/* v again, keys in order. sep = false: compact, numbers with their own digits. sep = true: what Python's
 * json.dumps(json.loads(v), ensure_ascii=False) gives: ", " and ": ", -0 is 0, and numbers with a fraction or exponent
 * are doubles printed by repr (1e5 becomes 100000.0, 1e999 becomes Infinity). */
void json_put_value(struct str *s, const struct json_val *v, bool sep);

#endif
