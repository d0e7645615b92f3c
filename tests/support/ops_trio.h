/* ops_trio - run a check on every backend of the build: opened on one thread, on three, and beside it the truth.
 *
 * The table is in this header, so that a test looks for backends whenever it is compiled (and it is, whenever the
 * library changes). A backend is in it once per isa; what this machine lacks is named and left out.
 *
 * With OPS_CUDA the same checks run on the CUDA backend alone, or say SKIP where it is not built or has no GPU.
 */
#ifndef HEARTH_TESTS_OPS_TRIO_H
#define HEARTH_TESTS_OPS_TRIO_H

#include "tests/support/ops_run.h"

#define OPS_U 0x1p-24 /* half a unit in the last place of a float: what one rounding may lose of a value */

struct ops_trio {
    struct ops_dev ref, one, three; /* cpu_ref; the backend under test with 1 and with 3 threads */
    struct ops_rng rng;
    int round;
    double narrow; /* what rounding to an input row may lose of a value, beside float */
    bool cuda;     /* linear layers: bfloat16 in, and a row's bits depend on the number of rows */
};

/* Under a sanitizer a kernel takes a hundred times as long: the part of their rounds that tests make (HEARTH_SMALL=3: a
 * third), on small shapes. 0: all. */
int ops_small(void);

/* The CUDA backend of this build; NULL and a line SKIP for `test` where it can't work. */
const struct backend_ops *ops_cuda(const char *test);

/* Call check `rounds` times (a part of them when small) on each of n variants, with round 0, 1, ...; every
 * variant sees the same cases. */
void ops_run_each(const struct ops_variant *v, size_t n, const char *test, int rounds,
                  void (*check)(struct ops_trio *));

#ifndef OPS_CUDA
static const struct ops_variant ops_backends[] = {
    {.ops = &backend_cpu_ref, .isa = "scalar", .threads = 1},
#if __has_include("engine/compute/cpu_fast.c")
    {.ops = &backend_cpu_fast, .isa = "avx2", .threads = 1},
    {.ops = &backend_cpu_fast, .isa = "avx512", .threads = 1},
#endif
};

static inline void ops_on_each(const char *test, int rounds, void (*check)(struct ops_trio *))
{
    ops_run_each(ops_backends, sizeof ops_backends / sizeof *ops_backends, test, rounds, check);
}
#else
static inline void ops_on_each(const char *test, int rounds, void (*check)(struct ops_trio *))
{
    struct ops_variant v = {.ops = ops_cuda(test), .threads = 1, .wide_bytes = 64u << 20};
    if (v.ops)
        ops_run_each(&v, 1, test, rounds, check);
}
#endif

/* n NaNs; n doubles equal to x, or 0 when x is NULL. malloc'ed. */
float *ops_floats(size_t n);
double *ops_doubles(const float *x, size_t n);

#endif
