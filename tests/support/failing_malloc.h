/* failing_malloc - make the Nth allocation of the process fail, whoever asks for it.
 *
 * malloc, calloc, realloc, posix_memalign, aligned_alloc, memalign, strdup and strndup of every test program pass
 * through here, so the allocations of all libraries count too (getline, OpenSSL, libmicrohttpd...). Works under the
 * sanitizers. Process-wide and MT-safe: allocations of other threads count. Usual shape:
 *
 *     bool hit = true;
 *     for (unsigned long n = 1; hit; n++) {
 *         fail_nth(n);
 *         int rc = thing_open(&t, &e);
 *         hit = fail_stop() >= n;      (the run made n allocations or more: one of them failed)
 *         ...rc is -ENOMEM exactly when hit, or the code under test could do without...
 *         thing_close(t);
 *     }
 */
#ifndef HEARTH_TESTS_FAILING_MALLOC_H
#define HEARTH_TESTS_FAILING_MALLOC_H

/* Count from 0 again; the nth allocation from now (1 = the next) returns NULL with ENOMEM, the others work.
 * n = 0 only counts. */
void fail_nth(unsigned long n);
/* Nothing fails any more. Returns how many allocations there were since fail_nth. */
unsigned long fail_stop(void);

#endif
