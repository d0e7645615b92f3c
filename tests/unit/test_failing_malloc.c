/* test_failing_malloc - the tool that other tests trust: it counts every library's allocations and fails just one. */
#include "tests/support/failing_malloc.h"
#include "tests/support/unit.h"

#include "engine/base/hash.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <string.h>

/* Through these, since a compiler may leave out an allocation that it sees being freed. */
static void *(*volatile take)(size_t) = malloc;
static void *(*volatile take_zeroed)(size_t, size_t) = calloc;
static void *(*volatile take_more)(void *, size_t) = realloc;
static void *(*volatile take_aligned)(size_t, size_t) = aligned_alloc, *(*volatile take_old)(size_t, size_t) = memalign;
static int (*volatile take_posix)(void **, size_t, size_t) = posix_memalign;
static char *(*volatile take_copy)(const char *) = strdup, *(*volatile take_part)(const char *, size_t) = strndup;

START_TEST(test_failing_malloc_fails_the_nth_and_no_other)
{
    void *p[5];
    fail_nth(3);
    for (int i = 0; i < 5; i++)
        p[i] = take(16);
    ck_assert_uint_eq(fail_stop(), 5);
    for (int i = 0; i < 5; i++) {
        ck_assert((p[i] == NULL) == (i == 2));
        free(p[i]);
    }
    fail_nth(0);
    void *q = take(16);
    ck_assert_uint_eq(fail_stop(), 1);
    ck_assert_ptr_nonnull(q);
    free(q);
}
END_TEST

/* The first allocation within each is refused, and the caller says so. */
START_TEST(test_failing_malloc_stands_in_for_every_way_to_allocate)
{
    void *kept = take(16), *p = kept;
    memcpy(kept, "kept", 5);
    fail_nth(1);
    void *c = take_zeroed(4, 4);
    fail_nth(1);
    void *r = take_more(kept, 1 << 20);
    fail_nth(1);
    void *a = take_aligned(64, 64);
    fail_nth(1);
    int rc = take_posix(&p, 64, 64);
    fail_nth(1);
    void *d = take_copy("x");
    fail_nth(1);
    void *part = take_part("xyz", 2);
    fail_nth(1);
    void *m = take_old(64, 64);
    fail_stop();
    ck_assert(!c && !r && !a && !d && !part && !m && rc == ENOMEM && p == kept);
    ck_assert_str_eq(kept, "kept");
    free(kept);
    ck_assert_int_eq(take_posix(&p, 4096, 100), 0);
    ck_assert_uint_eq((uintptr_t)p % 4096, 0);
    free(p);
    p = take_part("xyz", 2);
    ck_assert_str_eq(p, "xy");
    free(p);
}
END_TEST

START_TEST(test_failing_malloc_reaches_into_libraries)
{
    ck_assert_int_eq(hash_init_library(), 0);
    unsigned long n = 0, made;
    do {
        fail_nth(++n);
        struct hash_state *h = hash_open(); /* OpenSSL allocates the context */
        made = fail_stop();
        ck_assert((h == NULL) == (made >= n));
        struct hash_key k;
        if (h)
            hash_finish(h, &k);
    } while (made >= n);
    ck_assert_uint_ge(n, 2);
}
END_TEST

static void *allocate(void *unused)
{
    for (int i = 0; i < 1000; i++)
        free(take(8));
    return unused;
}

START_TEST(test_failing_malloc_counts_all_threads)
{
    pthread_t t[4];
    fail_nth(0);
    for (int i = 0; i < 4; i++)
        if (pthread_create(&t[i], NULL, allocate, NULL))
            abort();
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    ck_assert_uint_ge(fail_stop(), 4000);
}
END_TEST

UNIT_MAIN("failing_malloc", test_failing_malloc_fails_the_nth_and_no_other,
          test_failing_malloc_stands_in_for_every_way_to_allocate, test_failing_malloc_reaches_into_libraries,
          test_failing_malloc_counts_all_threads)
