/* ops_trio - see the header. */
#include "tests/support/ops_trio.h"
#include "tests/support/unit.h"

#include "engine/compute/load_cuda.h"

#include <assert.h>
#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* build/tests/ops/test_X -> build/libhearth_cuda.so */
const struct backend_ops *ops_cuda(const char *test)
{
    char exe[4096], path[4200];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    const struct backend_ops *ops = NULL;
    uint64_t memory;
    struct err e;
    assert(n > 0);
    exe[n] = 0;
    snprintf(path, sizeof path, "%s/" CUDA_LIBRARY, dirname(dirname(dirname(exe))));
    if (access(path, F_OK) != 0)
        printf("SKIP %s_on_cuda: no GPU (%s is not built)\n", test, CUDA_LIBRARY);
    else if (load_cuda_from(path, &ops, &memory, &e) != 0)
        printf("SKIP %s_on_cuda: no GPU (%s)\n", test, e.text);
    return ops;
}

int ops_small(void)
{
    const char *s = getenv("HEARTH_SMALL");
    return s && atoi(s) > 0 ? atoi(s) : 0;
}

void ops_run_each(const struct ops_variant *v, size_t n, const char *test, int rounds, void (*check)(struct ops_trio *))
{
    const struct ops_variant ref = {.ops = &backend_cpu_ref, .isa = "scalar", .threads = 1};
    unsigned long long seed = unit_seed(test);
    if (ops_small())
        rounds = (rounds + ops_small() - 1) / ops_small();
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
        t.narrow = v[i].ops->input_dtype == DT_BF16 ? 0x1p-8 : 0;
        t.cuda = t.ref.bf16 = strcmp(v[i].ops->name, "cuda") == 0;
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
