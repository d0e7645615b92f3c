/* failing_malloc - see failing_malloc.h.
 *
 * The program's own definitions win over libc's for every library in the process. Memory comes from glibc's second
 * names (__libc_malloc), or under a sanitizer from its interceptors, so that free() needs no replacement. Compiled
 * without instrumentation (see Makefile): it runs before a sanitizer is up.
 */
#include "tests/support/failing_malloc.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

static atomic_ulong allocations, failing = ULONG_MAX;

void fail_nth(unsigned long n)
{
    atomic_store(&failing, ULONG_MAX);
    atomic_store(&allocations, 0);
    atomic_store(&failing, n ? n : ULONG_MAX);
}

unsigned long fail_stop(void)
{
    atomic_store(&failing, ULONG_MAX);
    return atomic_load(&allocations);
}

/* A sanitizer asks where a new thread's stack is, and can't be told that there is no memory for that. */
static _Thread_local bool exempt;

static bool strikes(void)
{
    return !exempt && atomic_fetch_add(&allocations, 1) + 1 == atomic_load(&failing);
}

/* Define NAME as a counted call of the sanitizer's interceptor or of libc's `plain`. */
#define COUNTED(name, plain, params, args)                                    \
    void *plain params;                                                       \
    void *__interceptor_##name params __attribute__((weak));                  \
    void *name params                                                         \
    {                                                                         \
        if (strikes()) {                                                      \
            errno = ENOMEM;                                                   \
            return NULL;                                                      \
        }                                                                     \
        return __interceptor_##name ? __interceptor_##name args : plain args; \
    }

COUNTED(malloc, __libc_malloc, (size_t n), (n))
COUNTED(calloc, __libc_calloc, (size_t count, size_t size), (count, size))
COUNTED(realloc, __libc_realloc, (void *old, size_t n), (old, n))
COUNTED(memalign, __libc_memalign, (size_t align, size_t n), (align, n))

int pthread_getattr_np(pthread_t thread, pthread_attr_t *attr)
{
    int (*real)(pthread_t, pthread_attr_t *);
    exempt = true;
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_getattr_np");
    int ret = real(thread, attr);
    exempt = false;
    return ret;
}

void *aligned_alloc(size_t align, size_t n)
{
    return memalign(align, n);
}

int posix_memalign(void **out, size_t align, size_t n)
{
    int before = errno;
    void *p = memalign(align, n);
    errno = before;
    if (!p)
        return ENOMEM;
    *out = p;
    return 0;
}

/* A sanitizer's own would not come by here. */
char *strndup(const char *text, size_t n)
{
    n = strnlen(text, n);
    char *copy = malloc(n + 1);
    if (copy) {
        memcpy(copy, text, n);
        copy[n] = 0;
    }
    return copy;
}

char *strdup(const char *text)
{
    return strndup(text, strlen(text));
}
