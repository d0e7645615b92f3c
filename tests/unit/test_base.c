/* test_base - the small containers and conversions that everything stands on. */
#include "tests/support/unit.h"

#include "engine/base/arena.h"
#include "engine/base/err.h"
#include "engine/base/f16.h"
#include "engine/base/hash.h"
#include "engine/base/rng.h"
#include "engine/base/str.h"
#include "engine/base/sys.h"
#include "engine/base/vec.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

START_TEST(test_err_returns_the_negative_code_and_the_sentence)
{
    struct err e = {0};
    ck_assert_int_eq(err_set(&e, EINVAL, "block_tokens %d: must be %d", 48, 64), -EINVAL);
    err_prefix(&e, "hearth.yaml:%d", 7);
    ck_assert_str_eq(e.text, "hearth.yaml:7: block_tokens 48: must be 64");
}
END_TEST

START_TEST(test_str_holds_any_bytes_and_drops_from_the_front)
{
    struct str s = {0};
    str_add(&s, "a\0b", 3);
    str_addf(&s, "%05d", 42);
    ck_assert_uint_eq(s.len, 8);
    ck_assert_mem_eq(s.data, "a\0b00042", 9);
    str_drop(&s, 3);
    ck_assert_str_eq(str_text(&s), "00042");
    str_fini(&s);
    ck_assert_str_eq(str_text(&s), "");
}
END_TEST

START_TEST(test_arena_refuses_beyond_its_limit)
{
    struct arena a = {.limit = 1000};
    ck_assert_ptr_nonnull(arena_alloc(&a, 900));
    ck_assert_ptr_null(arena_alloc(&a, 900));
    ck_assert_ptr_null(arena_array(&a, SIZE_MAX / 2, 4));
    arena_fini(&a);
    ck_assert_ptr_nonnull(arena_alloc(&a, 900));
    arena_fini(&a);
}
END_TEST

START_TEST(test_vec_grows_and_keeps_what_was_there)
{
    int *v = NULL;
    size_t cap = 0;
    for (int i = 0; i < 1000; i++) {
        ck_assert_int_eq(vec_grow(&v, &cap, (size_t)i + 1, sizeof *v), 0);
        v[i] = i;
    }
    for (int i = 0; i < 1000; i++)
        ck_assert_int_eq(v[i], i);
    ck_assert_int_eq(vec_grow(&v, &cap, SIZE_MAX / 2, sizeof *v), -ENOMEM);
    free(v);
}
END_TEST

START_TEST(test_halves_round_to_nearest_even_and_come_back)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float f = f16_to_f32((uint16_t)h);
        if (isnan(f))
            ck_assert(isnan(f16_to_f32(f16_from_f32(f))));
        else
            ck_assert_uint_eq(f16_from_f32(f), h);
        f = bf16_to_f32((uint16_t)h);
        if (isnan(f))
            ck_assert(isnan(bf16_to_f32(bf16_from_f32(f))));
        else
            ck_assert_uint_eq(bf16_from_f32(f), h);
    }
    for (uint32_t h = 0; h < 0x7f7f;
         h++) { /* halfway to the next one: to the even one; a bit less or more: to the nearer */
        float low = bf16_to_f32((uint16_t)h), middle = low + (bf16_to_f32((uint16_t)(h + 1)) - low) / 2;
        ck_assert_uint_eq(bf16_from_f32(middle), h + (h & 1));
        ck_assert_uint_eq(bf16_from_f32(nextafterf(middle, 0)), h);
        ck_assert_uint_eq(bf16_from_f32(nextafterf(middle, INFINITY)), h + 1);
        if (h >= 0x7bff)
            continue;
        low = f16_to_f32((uint16_t)h), middle = low + (f16_to_f32((uint16_t)(h + 1)) - low) / 2;
        ck_assert_uint_eq(f16_from_f32(middle), h + (h & 1));
        ck_assert_uint_eq(f16_from_f32(nextafterf(middle, 0)), h);
        ck_assert_uint_eq(f16_from_f32(nextafterf(middle, INFINITY)), h + 1);
    }
    ck_assert_uint_eq(f16_from_f32(65520.0f), 0x7c00); /* halfway to 65536 rounds to infinity */
    ck_assert_uint_eq(f16_from_f32(65519.996f), 0x7bff);
    ck_assert_uint_eq(f16_from_f32(0x1p-25f), 0); /* halfway to the least subnormal: even */
    ck_assert_uint_eq(f16_from_f32(0x1.8p-25f), 1);
    ck_assert_uint_eq(bf16_from_f32(1.00390625f), 0x3f80); /* 1 + 2^-8: tie to even */
    ck_assert_uint_eq(bf16_from_f32(1.01171875f), 0x3f82);
}
END_TEST

START_TEST(test_philox_gives_the_published_vectors)
{
    /* Random123 kat_vectors, philox4x32 10 */
    struct philox r = philox4x32(0, 0, 0, 0, 0, 0);
    ck_assert_uint_eq(r.v[0], 0x6627e8d5u);
    ck_assert_uint_eq(r.v[1], 0xe169c58du);
    ck_assert_uint_eq(r.v[2], 0xbc57ac4cu);
    ck_assert_uint_eq(r.v[3], 0x9b00dbd8u);
    r = philox4x32(0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u, 0xa4093822u, 0x299f31d0u);
    ck_assert_uint_eq(r.v[0], 0xd16cfe09u);
    ck_assert_uint_eq(r.v[1], 0x94fdccebu);
    ck_assert_uint_eq(r.v[2], 0x5001e420u);
    ck_assert_uint_eq(r.v[3], 0x24126ea1u);
}
END_TEST

START_TEST(test_sha256_of_abc_and_fields_do_not_run_together)
{
    struct hash_key k, k2;
    char hex[65];
    ck_assert_int_eq(hash_init_library(), 0);
    hash_sha256("abc", 3, &k);
    hash_hex(&k, hex);
    ck_assert_str_eq(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    ck_assert_int_eq(hash_unhex(hex, 64, &k2), 0);
    ck_assert(hash_key_equal(&k, &k2));
    ck_assert_int_eq(hash_unhex("zz", 2, &k2), -EINVAL);
    struct hash_state *a = hash_open(), *b = hash_open();
    hash_field(a, 1, "ab", 2);
    hash_field(a, 1, "c", 1);
    hash_field(b, 1, "a", 1);
    hash_field(b, 1, "bc", 2);
    hash_finish(a, &k);
    hash_finish(b, &k2);
    ck_assert(!hash_equal(&k, &k2, sizeof k));
}
END_TEST

START_TEST(test_siphash_gives_the_published_vectors)
{
    /* the authors' vectors_sip64: key 00..0f, message 00..n-1, output as little-endian bytes */
    const uint64_t key[2] = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
    uint8_t m[16];
    for (uint8_t i = 0; i < 16; i++)
        m[i] = i;
    ck_assert_uint_eq(hash_sip(m, 0, key), 0x726fdb47dd0e0e31u);
    ck_assert_uint_eq(hash_sip(m, 8, key), 0x93f5f5799a932462u);
    ck_assert_uint_eq(hash_sip(m, 15, key), 0xa129ca6149be45e5u);
}
END_TEST

START_TEST(test_sys_counts_processors_and_memory)
{
    ck_assert_int_ge(sys_cpu_count(), 1);
    ck_assert_uint_gt(sys_memory_available(), 1 << 20);
}
END_TEST

/* A machine of files: what sys.open finds under these names, and nothing else. */
static struct {
    const char *path, *text;
} machine_files[10];

static int open_machine(const char *path, int flags, mode_t mode)
{
    (void)flags, (void)mode;
    for (size_t i = 0; i < sizeof machine_files / sizeof *machine_files && machine_files[i].path; i++)
        if (strcmp(machine_files[i].path, path) == 0) {
            int fd = memfd_create("file", 0);
            ck_assert_int_eq(write(fd, machine_files[i].text, strlen(machine_files[i].text)),
                             (ssize_t)strlen(machine_files[i].text));
            lseek(fd, 0, SEEK_SET);
            return fd;
        }
    errno = ENOENT;
    return -1;
}

#define MACHINE(...)                                                                                               \
    do {                                                                                                           \
        memset(machine_files, 0, sizeof machine_files);                                                            \
        memcpy(machine_files, (const char *const[][2]){__VA_ARGS__}, sizeof(const char *const[][2]){__VA_ARGS__}); \
    } while (0)
#define OWN                                                       \
    {                                                             \
        "/proc/self/cgroup", "0::/system.slice/hearthd.service\n" \
    }
#define FREE                                                             \
    {                                                                    \
        "/proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n" \
    }
#define SLICE "/sys/fs/cgroup/system.slice"
#define UNIT  SLICE "/hearthd.service"

START_TEST(test_limits_of_every_cgroup_above_hold)
{
    int all = sys_cpu_count(); /* of this machine: 1 or more */
    sys.open = open_machine;
    MACHINE(OWN, FREE);
    ck_assert_uint_eq(sys_memory_available(), 8000 << 10);
    ck_assert_int_ge(sys_cpu_count(), all);
    MACHINE(OWN, FREE, {UNIT "/memory.max", "max\n"}, {UNIT "/cpu.max", "max 100000\n"});
    ck_assert_uint_eq(sys_memory_available(), 8000 << 10);
    ck_assert_int_ge(sys_cpu_count(), all);
    MACHINE(OWN, FREE, {UNIT "/memory.max", "4096000\n"}, {UNIT "/memory.current", "96000\n"},
            {UNIT "/cpu.max", "100000 100000\n"});
    ck_assert_uint_eq(sys_memory_available(), 4000000);
    ck_assert_int_eq(sys_cpu_count(), 1);
    MACHINE(OWN, FREE, {SLICE "/memory.high", "3000000\n"}, {UNIT "/memory.max", "4000000\n"},
            {SLICE "/cpu.max", "50000 100000\n"});
    ck_assert_uint_eq(sys_memory_available(), 3000000);
    ck_assert_int_eq(sys_cpu_count(), 1);
    /* a container sees its own as the root */
    MACHINE({"/proc/self/cgroup", "1:name=systemd:/x\n0::/\n"}, FREE, {"/sys/fs/cgroup/memory.max", "1000000\n"},
            {"/sys/fs/cgroup/memory.current", "1000000\n"}, {"/sys/fs/cgroup/cpu.max", "10000 100000\n"},
            {"/sys/fs/cgroup/memory.stat", "anon 1\nfile 700000\ninactive_file 600000\nactive_file 100000\n"});
    ck_assert_uint_eq(sys_memory_available(), 700000); /* the file that was just read is no use of memory */
    ck_assert_int_eq(sys_cpu_count(), 1);
    MACHINE(FREE, {"/sys/fs/cgroup/memory.max", "1000\n"}, {"/sys/fs/cgroup/memory.current", "2000\n"},
            {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n"}, {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"});
    ck_assert_uint_eq(sys_memory_available(), 0); /* all used: not: no limit */
    ck_assert_int_eq(sys_cpu_count(), 1);
}
END_TEST

UNIT_MAIN("base", test_err_returns_the_negative_code_and_the_sentence,
          test_str_holds_any_bytes_and_drops_from_the_front, test_arena_refuses_beyond_its_limit,
          test_vec_grows_and_keeps_what_was_there, test_halves_round_to_nearest_even_and_come_back,
          test_philox_gives_the_published_vectors, test_sha256_of_abc_and_fields_do_not_run_together,
          test_siphash_gives_the_published_vectors, test_sys_counts_processors_and_memory,
          test_limits_of_every_cgroup_above_hold)
