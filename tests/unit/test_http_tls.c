/* test_http_tls - the same server behind TLS, with a certificate made here. */
#include "tests/support/http_stub.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static char cert_path[64], key_path[64];

/* A self-signed ECDSA certificate, in two files of the working directory. */
static void make_pair(void)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = X509_new();
    snprintf(cert_path, sizeof cert_path, "test_http_tls.%d.crt", getpid());
    snprintf(key_path, sizeof key_path, "test_http_tls.%d.key", getpid());
    ck_assert(key && x);
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1, -1,
                               0);
    X509_set_issuer_name(x, X509_get_subject_name(x));
    ck_assert_int_gt(X509_sign(x, key, EVP_sha256()), 0);
    FILE *f = fopen(cert_path, "w");
    ck_assert(f && PEM_write_X509(f, x) == 1);
    fclose(f);
    f = fopen(key_path, "w");
    ck_assert(f && PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) == 1);
    fclose(f);
    X509_free(x);
    EVP_PKEY_free(key);
}

static void remove_pair(void)
{
    unlink(cert_path);
    unlink(key_path);
}

static struct stub *open_tls(void)
{
    struct http_conf conf = stub_conf();
    make_pair();
    conf.tls_cert = cert_path;
    conf.tls_key = key_path;
    return stub_open(&conf);
}

struct tls_client {
    struct client tcp;
    SSL_CTX *ctx;
    SSL *ssl;
};

static struct tls_client tls_connect(struct stub *s, int max_version, int *rc)
{
    struct tls_client t = {.tcp = client_open(s), .ctx = SSL_CTX_new(TLS_client_method())};
    struct timeval limit = {WAIT_MS / 1000, 0};
    setsockopt(t.tcp.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    SSL_CTX_set_min_proto_version(t.ctx, TLS1_VERSION);
    SSL_CTX_set_security_level(t.ctx, 0);
    if (max_version)
        SSL_CTX_set_max_proto_version(t.ctx, max_version);
    t.ssl = SSL_new(t.ctx);
    SSL_set_fd(t.ssl, t.tcp.fd);
    *rc = SSL_connect(t.ssl);
    return t;
}

static void tls_free(struct tls_client *t)
{
    SSL_free(t->ssl);
    SSL_CTX_free(t->ctx);
    client_close(&t->tcp);
}

static void tls_send(struct tls_client *t, const char *text)
{
    ck_assert_int_eq(SSL_write(t->ssl, text, (int)strlen(text)), (int)strlen(text));
}

/* Read until the text ends with `end`. */
static void tls_read_until(struct tls_client *t, struct str *text, const char *end)
{
    size_t n = strlen(end);
    char byte;
    while (text->len < n || memcmp(text->data + text->len - n, end, n) != 0) {
        ck_assert_int_eq(SSL_read(t->ssl, &byte, 1), 1);
        str_putc(text, byte);
    }
}

START_TEST(test_requests_and_streams_work_over_tls)
{
    struct stub *s = open_tls();
    struct str text = {0};
    int rc;
    struct tls_client t = tls_connect(s, 0, &rc);
    ck_assert_int_eq(rc, 1);
    for (int i = 0; i < 2; i++) {
        tls_send(&t, "GET /now HTTP/1.1\r\nHost: h\r\n\r\n");
        tls_read_until(&t, &text, "hello");
    }
    tls_send(&t, "GET /stream HTTP/1.1\r\nHost: h\r\n\r\n");
    uint64_t id = stub_wait(s, STUB_BODY, 2).id;
    tls_read_until(&t, &text, "\r\n\r\n");
    ck_assert_int_eq(stub_write(s, id, "token", 5), 0);
    tls_read_until(&t, &text, "token\r\n");
    tls_free(&t); /* vanishes in mid-stream */
    ck_assert_int_eq(stub_wait(s, STUB_GONE, 2).why, HTTP_GONE_CLIENT);
    stub_wait_connections(s, 0);
    str_fini(&text);
    stub_close(s);
    remove_pair();
}
END_TEST

START_TEST(test_tls_below_1_2_is_refused)
{
    struct stub *s = open_tls();
    int rc;
    struct tls_client t = tls_connect(s, TLS1_1_VERSION, &rc);
    ck_assert_int_ne(rc, 1);
    tls_free(&t);
    t = tls_connect(s, TLS1_2_VERSION, &rc);
    ck_assert_int_eq(rc, 1);
    tls_free(&t);
    stub_close(s);
    remove_pair();
}
END_TEST

START_TEST(test_a_handshake_that_stops_is_closed)
{
    struct stub *s = open_tls();
    struct client silent = client_open(s), plain = client_open(s);
    client_send(&silent, "\x16\x03\x01\x02"); /* the beginning of a hello */
    client_send(&plain, "GET /now HTTP/1.1\r\nHost: h\r\n\r\n");
    client_drain(&plain); /* an alert, perhaps, and the end */
    stub_advance(s, 11);
    client_drain(&silent);
    stub_wait_connections(s, 0);
    ck_assert_uint_eq(stub_count(s, STUB_HEAD), 0);
    client_close(&silent);
    client_close(&plain);
    stub_close(s);
    remove_pair();
}
END_TEST

START_TEST(test_files_that_are_no_pair_are_explained)
{
    struct http_conf conf = stub_conf();
    struct http_app app = {0};
    struct http *h = NULL;
    struct err e = {0};
    make_pair();
    conf.tls_cert = cert_path;
    ck_assert_int_eq(http_open(&h, &conf, &app, &e), -EINVAL);
    ck_assert_ptr_nonnull(strstr(e.text, "go together"));
    conf.tls_key = "no such file";
    ck_assert_int_eq(http_open(&h, &conf, &app, &e), -ENOENT);
    ck_assert_ptr_nonnull(strstr(e.text, "no such file"));
    conf.tls_key = cert_path;
    ck_assert_int_eq(http_open(&h, &conf, &app, &e), -EINVAL);
    ck_assert_ptr_nonnull(strstr(e.text, "no matching pair"));
    ck_assert_ptr_null(h);
    remove_pair();
}
END_TEST

UNIT_MAIN("http_tls", test_requests_and_streams_work_over_tls, test_tls_below_1_2_is_refused,
          test_a_handshake_that_stops_is_closed, test_files_that_are_no_pair_are_explained)
