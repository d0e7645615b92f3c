/* test_gguf_files - GGUF files on disk: paths, split files, failing system calls (facts M5 to M7). */
#include "tests/support/unit.h"

#include "engine/base/gguf.h"
#include "engine/base/sys.h"
#include "tests/support/gguf_walk.h"
#include "tests/support/gguf_write.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static const float ramp[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static struct str good_file(void)
{
    const uint64_t dims[] = {4, 4};
    struct gguf_write w = {0};
    struct str s = {0};
    gguf_write_text(&w, "text", "hello");
    gguf_write_tensor(&w, "matrix", GGUF_DT_F32, dims, 2, ramp, sizeof ramp);
    gguf_write_finish(&w, &s);
    return s;
}

static char dir[] = "/tmp/hearth-gguf-XXXXXX";

static const char *in_dir(const char *name)
{
    static char path[4][128];
    static int turn;
    char *p = path[turn++ & 3];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static void make_dir(void)
{
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void remove_dir(void)
{
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    ck_assert_int_eq(system(cmd), 0);
}

static int open_path(const char *path, struct err *e)
{
    struct gguf *g = NULL;
    int rc = gguf_open(&g, path, e);
    if (!rc)
        gguf_walk(g, (const char *const[]){"text"}, 1);
    gguf_close(g);
    return rc;
}

START_TEST(test_gguf_opens_a_file_and_says_what_is_wrong_with_a_path)
{
    struct err e;
    make_dir();
    struct str s = good_file();
    gguf_write_file(in_dir("good.gguf"), &s);
    ck_assert_int_eq(open_path(in_dir("good.gguf"), &e), 0);
    ck_assert_int_eq(open_path(in_dir("none.gguf"), &e), -ENOENT);
    ck_assert_ptr_nonnull(strstr(e.text, "none.gguf: No such file"));
    ck_assert_int_eq(open_path(dir, &e), -EINVAL);
    ck_assert_ptr_nonnull(strstr(e.text, "not a regular file"));
    ck_assert_int_eq(mkfifo(in_dir("fifo"), 0600), 0);
    ck_assert_int_eq(open_path(in_dir("fifo"), &e), -EINVAL);
    for (size_t n = 0; n <= 64; n++) {
        struct str cut = {s.data, n, n, false};
        gguf_write_file(in_dir("cut.gguf"), &cut);
        ck_assert_int_eq(open_path(in_dir("cut.gguf"), &e), -EINVAL);
    }
    str_fini(&s);
    remove_dir();
}
END_TEST

static void write_part(const char *name, int no, int count, int total, const char *tensor)
{
    const uint64_t dims[] = {8};
    struct gguf_write w = {0};
    struct str s = {0};
    gguf_write_int(&w, "split.no", GGUF_U16, (uint64_t)no);
    gguf_write_int(&w, "split.count", GGUF_U16, (uint64_t)count);
    gguf_write_int(&w, "split.tensors.count", GGUF_I32, (uint64_t)total);
    gguf_write_tensor(&w, tensor, GGUF_DT_F32, dims, 1, &ramp[no], 32);
    gguf_write_finish(&w, &s);
    gguf_write_file(in_dir(name), &s);
    str_fini(&s);
}

START_TEST(test_gguf_opens_split_files_as_one)
{
    struct gguf *g;
    struct err e;
    make_dir();
    write_part("m-00001-of-00003.gguf", 0, 3, 3, "a");
    write_part("m-00002-of-00003.gguf", 1, 3, 3, "b");
    write_part("m-00003-of-00003.gguf", 2, 3, 3, "c");
    ck_assert_int_eq(gguf_open(&g, in_dir("m-00001-of-00003.gguf"), &e), 0);
    ck_assert_uint_eq(gguf_n_tensors(g), 3);
    ck_assert_mem_eq(gguf_find(g, "b")->data, &ramp[1], 32);
    ck_assert_mem_eq(gguf_find(g, "c")->data, &ramp[2], 32);
    gguf_walk(g, (const char *const[]){"text"}, 1);
    gguf_close(g);
    remove_dir();
}
END_TEST

START_TEST(test_gguf_refuses_a_broken_set_of_split_files)
{
    struct err e;
    const char *first = "m-00001-of-00002.gguf", *second = "m-00002-of-00002.gguf";
    make_dir();
    write_part(first, 0, 2, 2, "a");
    ck_assert_int_eq(open_path(in_dir(first), &e), -ENOENT); /* second is missing */
    ck_assert_ptr_nonnull(strstr(e.text, "m-00002-of-00002.gguf"));
    write_part(second, 1, 3, 2, "b");
    ck_assert_int_eq(open_path(in_dir(first), &e), -EINVAL); /* of another set */
    write_part(second, 0, 2, 2, "b");
    ck_assert_int_eq(open_path(in_dir(first), &e), -EINVAL); /* another number */
    write_part(second, 1, 2, 2, "a");
    ck_assert_int_eq(open_path(in_dir(first), &e), -EINVAL); /* a tensor twice */
    ck_assert_ptr_nonnull(strstr(e.text, "'a' is there twice"));
    write_part(second, 1, 2, 2, "b");
    ck_assert_int_eq(open_path(in_dir(first), &e), 0);
    ck_assert_int_eq(open_path(in_dir(second), &e), -EINVAL);
    ck_assert_ptr_nonnull(strstr(e.text, "name the first one"));
    write_part("renamed.gguf", 0, 2, 2, "a");
    ck_assert_int_eq(open_path(in_dir("renamed.gguf"), &e), -EINVAL);
    write_part(first, 0, 2, 5, "a");
    ck_assert_int_eq(open_path(in_dir(first), &e), -EINVAL); /* tensors are missing */
    remove_dir();
}
END_TEST

static int fail_fstat(int fd, struct stat *st)
{
    errno = EIO;
    return -1;
}

static void *fail_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
    errno = ENOMEM;
    return (void *)-1;
}

static int fail_random(void *buf, size_t n)
{
    errno = ENOSYS;
    return -1;
}

START_TEST(test_gguf_reports_failing_system_calls_and_leaks_no_file)
{
    struct err e;
    struct sys_table real = sys;
    make_dir();
    struct str s = good_file();
    gguf_write_file(in_dir("good.gguf"), &s);
    int before = open("/dev/null", O_RDONLY);
    close(before);
    sys.fstat = fail_fstat;
    ck_assert_int_eq(open_path(in_dir("good.gguf"), &e), -EIO);
    sys = real;
    sys.mmap = fail_mmap;
    ck_assert_int_eq(open_path(in_dir("good.gguf"), &e), -ENOMEM);
    sys = real;
    sys.random = fail_random;
    ck_assert_int_eq(open_path(in_dir("good.gguf"), &e), -ENOMEM);
    sys = real;
    int after = open("/dev/null", O_RDONLY);
    close(after);
    ck_assert_int_eq(before, after);
    str_fini(&s);
    remove_dir();
}
END_TEST

UNIT_MAIN("gguf_files", test_gguf_opens_a_file_and_says_what_is_wrong_with_a_path, test_gguf_opens_split_files_as_one,
          test_gguf_refuses_a_broken_set_of_split_files, test_gguf_reports_failing_system_calls_and_leaks_no_file)
