/* ops_trio - see the header. */
#include "tests/support/ops_trio.h"
#include "tests/support/unit.h"

#include <errno.h>

void ops_run_each(const struct ops_variant *v, size_t n, const char *test, int rounds, void (*check)(struct ops_trio *))
{
    const struct ops_variant ref = {&backend_cpu_ref, "scalar", 1};
    unsigned long long seed = unit_seed(test);
    for (size_t i = 0; i < n; i++) {
        struct ops_variant three = v[i];
        struct ops_trio t = {.rng = {seed}};
        struct err e = {0};
        three.threads = 3;
        if (ops_open(&t.one, &v[i], &e) == -ENOTSUP) {
            printf("not on this machine: %s\n", e.text);
            continue;
        }
        ck_assert_int_eq(ops_open(&t.three, &three, &e), 0);
        ck_assert_int_eq(ops_open(&t.ref, &ref, &e), 0);
        for (t.round = 0; t.round < rounds; t.round++)
            check(&t);
        ops_close(&t.ref);
        ops_close(&t.three);
        ops_close(&t.one);
    }
}

float *ops_floats(size_t n)
{
    return ops_poison(n * sizeof(float));
}

double *ops_doubles(const float *x, size_t n)
{
    double *d = calloc(n + 1, sizeof *d);
    ck_assert_ptr_nonnull(d);
    for (size_t i = 0; x && i < n; i++)
        d[i] = x[i];
    return d;
}
