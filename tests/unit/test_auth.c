/* test_auth - key files good and bad, and who a key belongs to. */
#include "tests/support/unit.h"

#include "server/auth.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define KEY_A "sk-alice-0123456789abcdef"
#define KEY_B "sk-bob-0123456789abcdef"

static struct err e;

static int open_text(struct auth **a, const char *text, size_t n)
{
    char path[] = "/tmp/hearth-keys-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, n), (ssize_t)n);
    close(fd);
    ck_assert_int_eq(hash_init_library(), 0);
    e = (struct err){0};
    int rc = auth_open(a, path, &e);
    unlink(path);
    return rc;
}

static struct auth *open_two(void)
{
    struct str s = {0};
    struct auth *a;
    ck_assert_int_eq(hash_init_library(), 0);
    str_puts(&s, "# keys\n\n");
    ck_assert_int_eq(auth_hash_line(KEY_A, strlen(KEY_A), "alice", &s, &e), 0);
    ck_assert_int_eq(auth_hash_line(KEY_B, strlen(KEY_B), NULL, &s, &e), 0);
    s.len--; /* the last line may lack its newline */
    ck_assert_msg(open_text(&a, s.data, s.len) == 0, "%s", e.text);
    str_fini(&s);
    return a;
}

START_TEST(test_a_key_is_found_by_its_hash_alone)
{
    struct auth *a = open_two();
    ck_assert_uint_eq(auth_count(a), 2);
    ck_assert_int_eq(auth_check(a, KEY_A, strlen(KEY_A)), 0);
    ck_assert_int_eq(auth_check(a, KEY_B, strlen(KEY_B)), 1);
    ck_assert_int_eq(auth_check(a, KEY_B, strlen(KEY_B) - 1), -1);
    ck_assert_int_eq(auth_check(a, KEY_B "x", strlen(KEY_B) + 1), -1);
    ck_assert_int_eq(auth_check(a, KEY_A "x", strlen(KEY_A) + 1), -1);
    ck_assert_int_eq(auth_check(a, "", 0), -1);
    ck_assert_str_eq(auth_name(a, 0), "alice");
    ck_assert(strncmp(auth_name(a, 1), "key-", 4) == 0);
    auth_close(a);
    auth_close(NULL);
}
END_TEST

START_TEST(test_the_header_is_taken_apart)
{
    struct auth *a = open_two();
    ck_assert_int_eq(auth_check_header(a, "Bearer " KEY_A), 0);
    ck_assert_int_eq(auth_check_header(a, "bearer  " KEY_B " "), 1);
    ck_assert_int_eq(auth_check_header(a, KEY_A), -1);
    ck_assert_int_eq(auth_check_header(a, "Basic " KEY_A), -1);
    ck_assert_int_eq(auth_check_header(a, "Bearer"), -1);
    ck_assert_int_eq(auth_check_header(a, "Bearer "), -1);
    ck_assert_int_eq(auth_check_header(a, ""), -1);
    ck_assert_int_eq(auth_check_header(a, NULL), -1);
    auth_close(a);
}
END_TEST

START_TEST(test_salts_differ_by_key_and_stay_from_run_to_run)
{
    struct auth *a = open_two(), *b = open_two();
    struct hash_key h;
    ck_assert(!hash_key_equal(auth_salt(a, 0), auth_salt(a, 1)));
    ck_assert(hash_key_equal(auth_salt(a, 0), auth_salt(b, 0)));
    hash_sha256(KEY_A, strlen(KEY_A), &h);
    ck_assert(!hash_key_equal(auth_salt(a, 0), &h));
    auth_close(a);
    auth_close(b);
}
END_TEST

START_TEST(test_a_bad_file_names_its_line_and_never_the_key)
{
    static const char H[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    char text[400];
    const struct {
        const char *format, *part;
    } bad[] = {
        {"# only a comment\n", "no key in it"},
        {"sk-secret-secret-secret\n", ":1: a line must be NAME:SHA256"},
        {"\n\nalice:sk-secret-secret\n", ":3: a line must be NAME:SHA256"},
        {"alice:%s0\n", ":1: a line must be NAME:SHA256"},
        {"a b:%s\n", ":1: a name has"},
        {":%s\n", ":1: a name has"},
        {"a:%s\na:1%.63s\n", ":2: a is there already (as a)"},
        {"a:%s\nb:%s\n", ":2: b is there already (as a)"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct auth *a = NULL;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, sizeof text, bad[i].format, H, H);
#pragma GCC diagnostic pop
        ck_assert_int_lt(open_text(&a, text, strlen(text)), 0);
        ck_assert_msg(strstr(e.text, bad[i].part) != NULL, "%s", e.text);
        ck_assert_ptr_null(strstr(e.text, "secret"));
        ck_assert_ptr_null(a);
    }
}
END_TEST

START_TEST(test_files_that_are_missing_or_huge_are_refused)
{
    struct auth *a;
    ck_assert_int_eq(auth_open(&a, "/nowhere/keys", &e), -ENOENT);
    ck_assert_str_eq(e.text, "API key file /nowhere/keys: No such file or directory");
    char *big = calloc(1, (1 << 20) + 1);
    memset(big, '\n', (1 << 20) + 1);
    ck_assert_int_eq(open_text(&a, big, (1 << 20) + 1), -EFBIG);
    ck_assert_int_eq(open_text(&a, "a:\0b", 4), -EINVAL);
    free(big);
}
END_TEST

START_TEST(test_a_weak_or_odd_key_gets_no_line)
{
    struct str s = {0};
    ck_assert_int_eq(hash_init_library(), 0);
    ck_assert_int_eq(auth_hash_line("short", 5, NULL, &s, &e), -EINVAL);
    ck_assert_str_eq(e.text, "a key of 5 bytes: must have 16 to 512; make one with: openssl rand -hex 24");
    ck_assert_int_eq(auth_hash_line("0123456789 abcdef", 17, NULL, &s, &e), -EINVAL);
    ck_assert_int_eq(auth_hash_line(KEY_A, strlen(KEY_A), "a:b", &s, &e), -EINVAL);
    ck_assert_int_eq(auth_hash_line(KEY_A, strlen(KEY_A), "", &s, &e), -EINVAL);
    ck_assert_uint_eq(s.len, 0);
    ck_assert_int_eq(auth_hash_line("abcdefghijklmnop", 16, "n", &s, &e), 0);
    ck_assert_str_eq(s.data, "n:f39dac6cbaba535e2c207cd0cd8f154974223c848f727f98b3564cea569b41cf\n");
    str_fini(&s);
}
END_TEST

UNIT_MAIN("auth", test_a_key_is_found_by_its_hash_alone, test_the_header_is_taken_apart,
          test_salts_differ_by_key_and_stay_from_run_to_run, test_a_bad_file_names_its_line_and_never_the_key,
          test_files_that_are_missing_or_huge_are_refused, test_a_weak_or_odd_key_gets_no_line)
