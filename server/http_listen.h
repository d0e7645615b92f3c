/* http_listen - listening sockets: addresses as people write them, and the options that every client socket inherits.
 *
 * Called at start, on one thread.
 */
#ifndef HEARTH_SERVER_HTTP_LISTEN_H
#define HEARTH_SERVER_HTTP_LISTEN_H

#include "engine/base/err.h"

/* Listen on an address of server/address.h; HOST is a number, localhost, or * for every IPv4 address. Returns the
 * descriptor (non-blocking, close-on-exec) or -errno with e. *port is the port bound, 0 for unix. A socket file that
 * nobody listens on is replaced; the file belongs to its owner and group (0660). Names are not looked up. */
int listen_open(const char *address, int *port, struct err *e);

/* Make a descriptor that came from outside fit: it must be a listening stream socket. 0 or -errno with e. */
int listen_adopt(int fd, struct err *e);

#endif
