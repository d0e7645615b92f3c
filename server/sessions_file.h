/* sessions_file - names, leaves and wishes of all sessions as bytes, and the file they are kept in: hearth.sessions, in
 * the first folder of kv.nvme.dirs, beside the blocks they speak of.
 *
 * Little-endian: a header (magic, version, sizes, CRC-32C of all that follows) and one record of fixed size a session,
 * oldest first. It is written whole to a file beside it, made durable, and renamed over the old one: what is read is
 * one or the other. What does not fit (another version, a wrong size or CRC) is not read and said; nothing is lost by
 * that but names: a conversation that is sent again is found by its content. 0600: names and key hashes are private.
 */
#ifndef HEARTH_SERVER_SESSIONS_FILE_H
#define HEARTH_SERVER_SESSIONS_FILE_H

#include "engine/base/str.h"
#include "server/sessions.h"

#define SESSIONS_FILE "hearth.sessions"

/* All of t appended to out (out->oom tells). */
void sessions_put(const struct sessions_table *t, struct str *out);
/* Add what the bytes say. 0, or -EBADMSG with e: nothing was added. */
int sessions_take(struct sessions_table *t, const char *bytes, size_t n, struct err *e);

/* Make the bytes DIR/hearth.sessions, durable on return. Any thread, one at a time. 0 or -errno with e. */
int sessions_file_write(const char *dir, const struct str *bytes, struct err *e);
/* Read it and sessions_take. 0 (also when there is none), or -errno with e. */
int sessions_file_read(const char *dir, struct sessions_table *t, struct err *e);

#endif
