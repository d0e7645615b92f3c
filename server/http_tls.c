/* http_tls - see http_tls.h. */
#include "server/http_tls.h"

#include "engine/base/str.h"
#include "engine/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define PEM_MAX ((size_t)256 << 10)

static int read_pem(const char *path, char **out, struct err *e)
{
    struct str s = {0};
    char piece[4096];
    ssize_t n = 0;
    int fd = sys.open(path, O_RDONLY, 0);
    if (fd < 0)
        return err_set(e, errno, "tls %s: %s", path, strerror(errno));
    while (s.len <= PEM_MAX && !s.oom && (n = sys.read(fd, piece, sizeof piece)) > 0)
        str_add(&s, piece, (size_t)n);
    int code = n < 0 ? errno : s.oom ? ENOMEM : s.len == 0 || s.len > PEM_MAX ? EINVAL : 0;
    explicit_bzero(piece, sizeof piece);
    sys.close(fd);
    if (code == 0) {
        *out = s.data;
        return 0;
    }
    str_fini(&s);
    if (code == EINVAL)
        return err_set(e, code, "tls %s: must be a PEM file of 1 to %zu bytes", path, PEM_MAX);
    return err_set(e, code, "tls %s: %s", path, strerror(code));
}

int tls_pem_read(struct tls_pem *out, const char *cert_path, const char *key_path, struct err *e)
{
    struct tls_pem pem = {0};
    int rc = read_pem(cert_path, &pem.cert, e);
    if (rc == 0)
        rc = read_pem(key_path, &pem.key, e);
    if (rc == 0)
        *out = pem;
    else
        tls_pem_free(&pem);
    return rc;
}

void tls_pem_free(struct tls_pem *pem)
{
    if (pem->key)
        explicit_bzero(pem->key, strlen(pem->key));
    free(pem->key);
    free(pem->cert);
    *pem = (struct tls_pem){0};
}
