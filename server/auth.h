/* auth - API keys: a file of hashes, one look-up in constant time, and who the caller is.
 *
 * The file has one key a line, "NAME:" and the SHA-256 of the key as 64 hex digits; blank lines and lines that begin
 * with '#' are skipped. Keys themselves stand nowhere. Names are unique: letters, digits, '.', '_', '-'. The time of a
 * check depends on the number of keys alone: every hash is compared, whole, whatever matches.
 *
 * A struct auth is immutable after open, MT-safe. reload.h takes a changed file.
 */
#ifndef HEARTH_SERVER_AUTH_H
#define HEARTH_SERVER_AUTH_H

#include "engine/base/err.h"
#include "engine/base/hash.h"
#include "engine/base/str.h"

#include <stddef.h>

struct auth;

/* Read a key file (at most 1 MiB, at least one key). 0, or -errno with e: FILE:LINE, what is wrong and the fix. A key
 * itself is never shown. Needs hash_init_library. */
int auth_open(struct auth **out, const char *path, struct err *e);
void auth_close(struct auth *a); /* NULL is fine */

/* Index of the key that `key[0..n)` is, or -1. */
int auth_check(const struct auth *a, const char *key, size_t n);
/* The same for the value of an Authorization header, "Bearer KEY" (any case of the word). NULL is -1. */
int auth_check_header(const struct auth *a, const char *value);

size_t auth_count(const struct auth *a);
/* For logs and limits. */
const char *auth_name(const struct auth *a, int index);
/* What salts the key's prefix cache: a tagged SHA-256 of the key's hash, the same in every run. */
const struct hash_key *auth_salt(const struct auth *a, int index);

/* --hash-key: append the line of a key file for `key[0..n)`, with newline. name NULL: "key-" and the first eight digits
 * of the hash. 0, or -EINVAL with e: a bad name; a key that is short (under 16 bytes: it could be guessed from its
 * hash), or has blanks or bytes that no header carries. */
int auth_hash_line(const char *key, size_t n, const char *name, struct str *out, struct err *e);

#endif
