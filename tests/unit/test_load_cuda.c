/* test_load_cuda - why a GPU can't be used is one sentence, and auto goes on without it. */
#include "tests/support/unit.h"

#include "engine/base/hash.h"
#include "engine/compute/load_cuda.h"
#include "engine/machine.h"

#include <errno.h>
#include <string.h>

START_TEST(test_a_library_that_is_not_there_is_named)
{
    const struct backend_ops *ops = NULL;
    uint64_t memory = 7;
    struct err e = {0};
    ck_assert_int_lt(load_cuda_from("/nowhere/" CUDA_LIBRARY, &ops, &memory, &e), 0);
    ck_assert_ptr_nonnull(strstr(e.text, "/nowhere/" CUDA_LIBRARY));
    ck_assert_ptr_null(ops);
    ck_assert_uint_eq(memory, 7);
}
END_TEST

START_TEST(test_a_library_of_something_else_is_refused)
{
    const struct backend_ops *ops = NULL;
    uint64_t memory;
    struct err e = {0};
    ck_assert_int_eq(load_cuda_from("libm.so.6", &ops, &memory, &e), -ENOTSUP);
    ck_assert_ptr_nonnull(strstr(e.text, "hearth_backend_cuda"));
}
END_TEST

/* Beside a test program there is no library. */
START_TEST(test_cuda_refuses_to_start_without_its_library_and_auto_takes_the_cpu)
{
    struct engine_config c = {.model = "random:tiny", .backend = "cuda", .kv_bytes = 1 << 20};
    struct machine m;
    struct err e = {0};
    ck_assert_int_eq(hash_init_library(), 0);
    ck_assert_int_lt(machine_open(&m, &c, NULL, NULL, &e), 0);
    ck_assert_ptr_eq(strstr(e.text, "backend cuda: "), e.text);
    ck_assert(strstr(e.text, CUDA_LIBRARY) || strstr(e.text, "driver")); /* whichever is missing first */
    strcpy(c.backend, "auto");
    ck_assert_msg(machine_open(&m, &c, NULL, NULL, &e) == 0, "%s", e.text);
    ck_assert(m.plan.no_gpu[0] && strcmp(m.plan.backend, "cpu_fast") == 0);
    machine_close(&m);
    strcpy(c.backend, "cpu");
    ck_assert_msg(machine_open(&m, &c, NULL, NULL, &e) == 0, "%s", e.text);
    ck_assert_str_eq(m.plan.no_gpu, "");
    machine_close(&m);
}
END_TEST

UNIT_MAIN("load_cuda", test_a_library_that_is_not_there_is_named, test_a_library_of_something_else_is_refused,
          test_cuda_refuses_to_start_without_its_library_and_auto_takes_the_cpu)
