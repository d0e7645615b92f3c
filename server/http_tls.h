/* http_tls - certificate and key for libmicrohttpd, read from PEM files. Called at start, on one thread. */
#ifndef HEARTH_SERVER_HTTP_TLS_H
#define HEARTH_SERVER_HTTP_TLS_H

#include "engine/base/err.h"

/* GnuTLS priorities: TLS 1.2 and 1.3 only. */
#define TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

struct tls_pem {
    char *cert, *key; /* terminated */
};

/* Read both files, at most 256 KiB each. 0 or -errno with e and nothing kept. */
int tls_pem_read(struct tls_pem *out, const char *cert_path, const char *key_path, struct err *e);
/* Wipe the key, free both. */
void tls_pem_free(struct tls_pem *pem);

#endif
