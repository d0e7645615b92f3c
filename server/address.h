/* address - where to listen, as text: "HOST:PORT", "[V6]:PORT" or "unix:PATH". MT-safe.
 *
 * No name is looked up: whether an address can be reached from other machines is judged from the text alone, and what
 * is not known to be local counts as public.
 */
#ifndef HEARTH_SERVER_ADDRESS_H
#define HEARTH_SERVER_ADDRESS_H

#include "engine/base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum address_kind { ADDRESS_HOST, ADDRESS_V6, ADDRESS_UNIX };

struct address {
    enum address_kind kind;
    char host[256]; /* name, IPv4 or IPv6 without brackets; the path for unix */
    uint16_t port;  /* 0 = any free one; unused for unix */
};

/* 0, or -EINVAL with the sentence that shows the right form. */
int address_parse(const char *text, struct address *out, struct err *e);

/* Where a bound socket listens; any unix socket is one. 0, or -errno with e. */
int address_of_socket(int fd, struct address *out, struct err *e);

/* Can another machine reach it? No for unix sockets, 127.0.0.0/8, ::1 (mapped IPv4 too) and "localhost". */
bool address_is_public(const struct address *a);

#endif
