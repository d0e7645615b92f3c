/* reload - SIGHUP: the API key file is read again while the server serves.
 *
 * A worker reads it; on the loop the new keys take the place of the old ones, whole or not at all: a file with a fault
 * changes nothing and is one error line that names FILE:LINE. Nobody keeps a pointer into a struct auth between two
 * turns of the loop, so the old one is closed at once. Requests that generate go on; one that is still being read is
 * checked against the new keys before it may. Loop thread.
 */
#ifndef HEARTH_SERVER_RELOAD_H
#define HEARTH_SERVER_RELOAD_H

struct app;

/* Read auth.key_file (which is set) again; asked for while that goes on, it is read once more after. */
void reload_keys(struct app *a);

#endif
