/* test_tier_faults - the tier on drives while the system fails it: the Nth call, short transfers, a full disk, damaged,
 * lost and exchanged files, a kill at any point, and writes that a power cut loses or reorders. Never a wrong token,
 * never a crash, and most of what was safe is found again.
 *
 * HEARTH_SOAK=1 makes the long forms, in ten parts each: 100,000 flipped bits, 1,000 kills, 2,000 power cuts.
 */
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/base/sys.h"
#include "tests/support/failing_calls.h"
#include "tests/support/tier_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PARTS 10 /* of the long forms */

static uint64_t rng;

static uint32_t below(uint64_t n)
{
    return (uint32_t)(rng_next(&rng) % n);
}

/* -- the Nth call fails */

static unsigned long nth;
static int error_now;

static void arm(void)
{
    fail_call_nth(nth, error_now);
}

/* A life of the engine with the nth call failing: it starts or says why not, answers rightly, and another one after it
 * does, too. Returns false when there were fewer calls. */
static bool live_once(const char *dir, uint64_t *cached)
{
    struct rig r;
    struct rig_opts o = {.dirs = dir};
    struct err e = {0};
    const char *what;
    hand_about_to_open = arm;
    int ret = rig_try(&r, &o, &e);
    hand_about_to_open = NULL;
    for (int n = 1; ret == 0 && n <= 3; n++)
        *cached += rig_ask(&r, n);
    if (ret == 0)
        rig_close(&r);
    bool hit = fail_call_stop(&what) >= nth;
    ck_assert_msg(ret == 0 || (e.text[0] && !strchr(e.text, '\n')), "%s (call %lu): no sentence", what, nth);
    rig_open(&r, &o);
    *cached += rig_ask(&r, 1);
    rig_close(&r);
    return hit;
}

static void fail_each_call(int error)
{
    uint64_t cached = 0;
    const char *dir = rig_dir();
    fail_calls_begin();
    error_now = error;
    for (nth = 1; live_once(dir, &cached); nth++)
        ;
    printf("%s: %lu calls, %llu tokens not computed\n", strerror(error), nth - 1, (unsigned long long)cached);
    ck_assert_uint_ge(nth, 40);
    ck_assert_uint_ge(cached, nth * 2 * RIG_CACHED);
    fail_calls_end();
}

START_TEST(test_tiers_survive_each_call_that_fails)
{
    fail_each_call(EIO);
    fail_each_call(ENOSPC);
    fail_each_call(EINTR);
}
END_TEST

/* -- transfers that come back short */

static struct sys_table real;
static long countdown; /* transfers until the one that is struck; < 0: none is */
static int strike;     /* 0: half of it, 1: nothing (end of file), 2: half of it, and the next fails */
static bool failing;

static bool struck(size_t *n)
{
    if (failing) {
        failing = false;
        return true;
    }
    if (countdown < 0 || countdown-- != 0)
        return false;
    *n = strike == 1 ? 0 : *n / 2 / 512 * 512;
    failing = strike == 2;
    return *n == 0 && strike != 1;
}

static ssize_t short_pread(int fd, void *buf, size_t n, off_t off)
{
    if (struck(&n)) {
        errno = EIO;
        return -1;
    }
    return n ? real.pread(fd, buf, n, off) : 0;
}

static ssize_t short_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    if (struck(&n)) {
        errno = ENOSPC;
        return -1;
    }
    return n ? real.pwrite(fd, buf, n, off) : 0;
}

START_TEST(test_tiers_survive_each_transfer_that_is_short)
{
    struct rig r;
    struct err e = {0};
    uint64_t cached = 0;
    long n = 0;
    real = sys;
    for (strike = 0; strike < 3; strike++) {
        struct rig_opts o = {.dirs = rig_dir()};
        bool hit = true;
        for (n = 0; hit; n++) {
            sys.pread = short_pread;
            sys.pwrite = short_pwrite;
            countdown = n;
            failing = false;
            int ret = rig_try(&r, &o, &e);
            for (int k = 1; ret == 0 && k <= 3; k++)
                cached += rig_ask(&r, k);
            if (ret == 0)
                rig_close(&r);
            hit = countdown < 0;
            sys.pread = real.pread;
            sys.pwrite = real.pwrite;
            rig_open(&r, &o);
            cached += rig_ask(&r, 2);
            rig_close(&r);
        }
        ck_assert_int_ge(n, 10);
    }
    printf("short transfers: %llu tokens not computed\n", (unsigned long long)cached);
    ck_assert_uint_ge(cached, 3000);
}
END_TEST

/* -- a disk that is full, or that may not be filled */

static int full_fallocate(int fd, int mode, off_t off, off_t len)
{
    errno = ENOSPC;
    return -1;
}

static int small_statvfs(int fd, struct statvfs *st)
{
    int ret = real.fstatvfs(fd, st);
    st->f_bavail = st->f_blocks / 100; /* less than the reserve */
    return ret;
}

/* What a file system that was mounted again for reading says to everything else. */
static ssize_t readonly_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    errno = EROFS;
    return -1;
}

static int readonly_fallocate(int fd, int mode, off_t off, off_t len)
{
    errno = EROFS;
    return -1;
}

static int readonly_fsync(int fd)
{
    errno = EROFS;
    return -1;
}

static void strike_drive(int how)
{
    if (how == 0)
        sys.fallocate = full_fallocate;
    if (how == 1)
        sys.fstatvfs = small_statvfs;
    if (how < 2)
        return;
    sys.fallocate = readonly_fallocate;
    sys.pwrite = readonly_pwrite;
    sys.fsync = readonly_fsync;
}

START_TEST(test_tiers_live_without_drives_that_are_full_or_read_only)
{
    struct rig r;
    real = sys;
    for (int how = 0; how < 3; how++) {
        struct rig_opts o = {.dirs = rig_dir(), .dram_slots = 64};
        rig_open(&r, &o);
        strike_drive(how);
        for (int n = 1; n <= 4; n++)
            rig_ask(&r, n);
        ck_assert_uint_eq(rig_ask(&r, 1), RIG_CACHED); /* DRAM serves */
        ck_assert_uint_eq(rig_stats(&r).nvme_used, 0);
        sys = real;
        fake_clock_on();
        fake_now_ns += 100000000000u; /* there is room again */
        for (int n = 5; n <= 8; n++)
            rig_ask(&r, n);
        ck_assert_uint_ge(rig_stats(&r).nvme_used, 28);
        rig_close(&r);
    }
}
END_TEST

/* -- files that are not what they were. `saved` is a folder's state to go back to. */

struct file {
    char path[256];
    uint8_t *bytes;
    off_t size;
};

static struct file index_file, slab_file;

static void read_file(struct file *f)
{
    struct stat st;
    int fd = open(f->path, O_RDONLY);
    ck_assert(fd >= 0 && fstat(fd, &st) == 0);
    f->size = st.st_size;
    f->bytes = realloc(f->bytes, (size_t)f->size);
    ck_assert_int_eq(pread(fd, f->bytes, (size_t)f->size, 0), f->size);
    close(fd);
}

static void write_file(const struct file *f)
{
    int fd = open(f->path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert(fd >= 0 && pwrite(fd, f->bytes, (size_t)f->size, 0) == f->size);
    close(fd);
}

static int note_file(void *ctx, const char *name)
{
    struct file *f = strstr(name, ".slab") ? &slab_file : &index_file;
    snprintf(f->path, sizeof f->path, "%s/%s", (const char *)ctx, name);
    read_file(f);
    return 0;
}

/* A folder where prompts 1 to 4 sleep, and its files. */
static struct rig_opts sleeping(void)
{
    struct rig r;
    struct nvme_dir d;
    struct rig_opts o = {.dirs = rig_dir(), .nvme_slots = 40};
    rig_open(&r, &o);
    for (int n = 1; n <= 4; n++)
        rig_ask(&r, n);
    rig_close(&r);
    snprintf(d.path, sizeof d.path, "%s", o.dirs);
    ck_assert_int_eq(nvme_dir_visit(&d, note_file, (void *)o.dirs), 0);
    return o;
}

static uint32_t wake(const struct rig_opts *o, int prompts)
{
    struct rig r;
    uint32_t cached = 0;
    rig_open(&r, o);
    for (int n = 1; n <= prompts; n++)
        cached += rig_ask(&r, n);
    rig_close(&r);
    return cached;
}

START_TEST(test_tiers_survive_flipped_bits_anywhere)
{
    rng = unit_seed("flips on the disk") + (uint64_t)_i;
    struct rig_opts o = sleeping();
    uint64_t cached = 0, n = unit_soak() ? 100000 / PARTS : 600;
    for (uint64_t i = 0; i < n; i++) {
        struct file *f = below(3) ? &index_file : &slab_file; /* most fields are in the index */
        uint64_t at = below((uint64_t)(f->size < 28 * 4096 ? f->size : 28 * 4096)), bits = 1 + below(3);
        write_file(&index_file);
        write_file(&slab_file);
        int fd = open(f->path, O_WRONLY);
        for (uint64_t b = 0; b < bits; b++) {
            uint8_t byte = f->bytes[at] ^ (uint8_t)(1u << below(8));
            ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)at), 1);
        }
        close(fd);
        uint32_t got = wake(&o, 4);
        unit_progress("part %d: flipped bits %llu of %llu", _i, (unsigned long long)i + 1, (unsigned long long)n);
        bool header = f == &index_file && at < 4096;
        ck_assert_msg(header || got >= 4 * RIG_CACHED - 16, "byte %llu of %s: %u", (unsigned long long)at, f->path,
                      got);
        cached += got;
    }
    printf("flips: %llu of %llu tokens not computed\n", (unsigned long long)cached,
           (unsigned long long)(n * 4 * RIG_CACHED));
    ck_assert_uint_ge(cached, n * 4 * RIG_CACHED * 7 / 10);
}
END_TEST

static const char letter[] = "not to be touched";

START_TEST(test_tiers_miss_when_files_are_cut_gone_exchanged_or_garbage)
{
    struct rig_opts a = sleeping();
    struct file a_index = index_file, a_slab = slab_file;
    index_file.bytes = slab_file.bytes = NULL;
    struct rig r;
    struct rig_opts b = {.dirs = rig_dir(), .nvme_slots = 40};
    rig_open(&r, &b); /* other prompts in the same places */
    for (int n = 11; n <= 14; n++)
        rig_ask(&r, n);
    rig_close(&r);
    struct nvme_dir d;
    snprintf(d.path, sizeof d.path, "%s", b.dirs);
    ck_assert_int_eq(nvme_dir_visit(&d, note_file, (void *)b.dirs), 0);
    struct file b_slab = slab_file, somebodys = {.bytes = malloc(sizeof letter), .size = sizeof letter};
    memcpy(somebodys.bytes, letter, sizeof letter);
    snprintf(somebodys.path, sizeof somebodys.path, "%s/letter", rig_dir());
    for (int how = 0; how < 12; how++) {
        write_file(&a_index);
        write_file(&a_slab);
        uint32_t least = 0;
        if (how == 0)
            unlink(a_slab.path);
        else if (how == 1)
            unlink(a_index.path);
        else if (how == 2)
            ck_assert_int_eq(truncate(a_slab.path, 7 * 4096 + 100), 0);
        else if (how == 3)
            ck_assert_int_eq(truncate(a_index.path, 4096 + 7 * 512 + 100), 0);
        else if (how == 4)
            ck_assert_int_eq(truncate(a_index.path, 100), 0);
        else if (how == 5) { /* the payloads of another folder */
            struct file f = a_slab;
            f.bytes = b_slab.bytes;
            f.size = b_slab.size;
            write_file(&f);
        } else if (how == 6) { /* index and slab exchanged */
            struct file f = a_slab;
            f.bytes = a_index.bytes;
            f.size = a_index.size;
            write_file(&f);
            f = a_index;
            f.bytes = a_slab.bytes;
            f.size = a_slab.size;
            write_file(&f);
        } else if (how == 7) { /* two payloads exchanged */
            struct file f = a_slab;
            f.bytes = malloc((size_t)f.size);
            memcpy(f.bytes, a_slab.bytes, (size_t)f.size);
            memcpy(f.bytes, a_slab.bytes + 4096, 4096);
            memcpy(f.bytes + 4096, a_slab.bytes, 4096);
            write_file(&f);
            free(f.bytes);
            least = 4 * RIG_CACHED - 32;
        } else if (how == 8) { /* a longer one than there should be */
            ck_assert_int_eq(truncate(a_slab.path, a_slab.size * 10), 0);
            least = 4 * RIG_CACHED;
        } else if (how == 9) { /* a newer version of the index */
            uint32_t version = 9;
            int fd = open(a_index.path, O_WRONLY);
            ck_assert_int_eq(pwrite(fd, &version, 4, 8), 4);
            close(fd);
        } else if (how == 10) { /* not to be followed: somebody else's file */
            unlink(a_slab.path);
            write_file(&somebodys);
            ck_assert_int_eq(symlink(somebodys.path, a_slab.path), 0);
        }
        struct err e = {0};
        if (how == 10) {
            ck_assert_int_lt(rig_try(&r, &a, &e), 0);
            unlink(a_slab.path);
            read_file(&somebodys);
            ck_assert(somebodys.size == sizeof letter && memcmp(somebodys.bytes, letter, sizeof letter) == 0);
            continue;
        }
        uint32_t got = wake(&a, 4);
        printf("damage %d: %u of %u tokens not computed\n", how, got, 4 * RIG_CACHED);
        ck_assert_uint_ge(got, least);
        ck_assert_msg(how == 8 || how == 11 || how == 7 || got < 4 * RIG_CACHED, "damage %d did nothing", how);
        ck_assert_uint_eq(wake(&a, 4), 4 * RIG_CACHED); /* and all is well after it */
    }
    free(a_index.bytes);
    free(a_slab.bytes);
    free(somebodys.bytes);
}
END_TEST

START_TEST(test_tiers_survive_files_that_go_while_they_are_open)
{
    struct rig_opts o = sleeping();
    struct rig r;
    for (int how = 0; how < 4; how++) {
        write_file(&index_file);
        write_file(&slab_file);
        rig_open(&r, &o);
        rig_ask(&r, 1);
        if (how == 0)
            ck_assert_int_eq(truncate(slab_file.path, 0), 0);
        else if (how == 1)
            ck_assert(unlink(slab_file.path) == 0 && unlink(index_file.path) == 0);
        else if (how == 2)
            ck_assert(chmod(slab_file.path, 0) == 0 && chmod(index_file.path, 0) == 0);
        else
            write_file(&index_file); /* an old one over it */
        for (int n = 1; n <= 6; n++)
            rig_ask(&r, n);
        rig_close(&r);
        chmod(slab_file.path, 0600);
        chmod(index_file.path, 0600);
        wake(&o, 6);
        ck_assert_uint_eq(wake(&o, 4), 4 * RIG_CACHED);
    }
}
END_TEST

/* -- a kill at any point */

struct shared {
    uint64_t used;          /* entries that were on the drive, index and all, before the last turn */
    _Atomic uint64_t calls; /* transfers so far, of any thread */
};

static struct shared *shared;
static uint64_t kill_at;

static ssize_t last_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    if (++shared->calls == kill_at) {
        real.pwrite(fd, buf, n / 2 / 512 * 512, off); /* half of it got there */
        kill(getpid(), SIGKILL);
    }
    return real.pwrite(fd, buf, n, off);
}

static ssize_t last_pread(int fd, void *buf, size_t n, off_t off)
{
    if (++shared->calls == kill_at)
        kill(getpid(), SIGKILL);
    return real.pread(fd, buf, n, off);
}

/* Ask and ask until the end comes. */
static void die(const struct rig_opts *o, int first)
{
    struct rig r;
    sys.pread = last_pread;
    sys.pwrite = last_pwrite;
    rig_open(&r, o);
    for (int n = 0; n < 40; n++) {
        uint64_t id = rig_submit(&r, first + n);
        for (int turn = 0; turn < 40; turn++) {
            shared->used = rig_stats(&r).nvme_used;
            loop_turn(&r.h.loop);
        }
        rig_finish(&r, first + n, id);
    }
    kill(getpid(), SIGKILL);
}

START_TEST(test_tiers_find_what_was_written_before_a_kill_at_any_point)
{
    rng = unit_seed("kills") + (uint64_t)_i;
    real = sys;
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert(shared != MAP_FAILED);
    struct rig_opts o = {.dirs = rig_dir(), .nvme_slots = 20000};
    int kills = unit_soak() ? 1000 / PARTS : 60, first = 1;
    uint64_t held = 0, before = 0, cached = 0;
    for (int i = 0; i < kills; i++, first += below(40)) {
        struct rig r;
        kill_at = 1 + below(i % 4 ? 120 : 12);
        shared->calls = shared->used = 0;
        pid_t pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0)
            die(&o, first);
        int status;
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        rig_open(&r, &o);
        uint64_t found = rig_stats(&r).nvme_used;
        ck_assert_msg(found * 100 >= shared->used * 95, "kill at %llu: %llu of %llu", (unsigned long long)kill_at,
                      (unsigned long long)found, (unsigned long long)shared->used);
        held += found;
        before += shared->used;
        for (int n = 0; n < 3; n++)
            cached += rig_ask(&r, 1 + (int)below((uint64_t)first + 3));
        rig_close(&r);
        unit_progress("part %d: kill %d of %d", _i, i + 1, kills);
    }
    printf("%d kills: %llu blocks found of %llu, %llu tokens not computed\n", kills, (unsigned long long)held,
           (unsigned long long)before, (unsigned long long)cached);
    ck_assert_uint_ge(held, 20 * (uint64_t)kills);
    ck_assert_uint_ge(cached, 40 * (uint64_t)kills);
}
END_TEST

/* -- a power cut: what was written since may be lost, whole or in part, in any order */

struct undo {
    char path[64];
    off_t off;
    size_t n;
    uint8_t *old;
};

static struct undo undos[4096];
static size_t n_undos;

static ssize_t noted_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    ck_assert_uint_lt(n_undos, sizeof undos / sizeof *undos);
    struct undo *u = &undos[n_undos++];
    *u = (struct undo){.off = off, .n = n, .old = aligned_alloc(4096, (n + 4095) / 4096 * 4096)};
    memset(u->old, 0, n);
    snprintf(u->path, sizeof u->path, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(u->path, undos[n_undos - 1].path, sizeof u->path);
    (void)len;
    real.pread(fd, u->old, n, off);
    return real.pwrite(fd, buf, n, off);
}

START_TEST(test_tiers_believe_nothing_that_a_power_cut_left_half_done)
{
    rng = unit_seed("power cuts") + (uint64_t)_i;
    real = sys;
    struct rig_opts o = {.dirs = rig_dir(), .nvme_slots = 60};
    struct rig r;
    uint64_t cached = 0;
    int cuts = unit_soak() ? 2000 / PARTS : 150;
    for (int i = 0; i < cuts; i++) {
        rig_open(&r, &o);
        sys.pwrite = noted_pwrite;
        for (int n = 0; n < 4; n++)
            cached += rig_ask(&r, 1 + (int)below(12));
        sys.pwrite = real.pwrite;
        rig_close(&r);
        while (n_undos > 0) { /* the newest first; of each some sectors */
            struct undo *u = &undos[--n_undos];
            int fd = below(2) ? open(u->path, O_WRONLY) : -1;
            for (size_t at = 0; fd >= 0 && at < u->n; at += 512)
                if (below(3))
                    ck_assert_int_ge(pwrite(fd, u->old + at, u->n - at < 512 ? u->n - at : 512, u->off + (off_t)at), 0);
            if (fd >= 0)
                close(fd);
            free(u->old);
        }
        unit_progress("part %d: power cut %d of %d", _i, i + 1, cuts);
    }
    printf("%d power cuts: %llu tokens not computed\n", cuts, (unsigned long long)cached);
    ck_assert_uint_ge(cached, 100 * (uint64_t)cuts);
}
END_TEST

UNIT_MAIN_PARTS("tier faults", PARTS, test_tiers_survive_each_call_that_fails,
                test_tiers_survive_each_transfer_that_is_short,
                test_tiers_live_without_drives_that_are_full_or_read_only, test_tiers_survive_flipped_bits_anywhere,
                test_tiers_miss_when_files_are_cut_gone_exchanged_or_garbage,
                test_tiers_survive_files_that_go_while_they_are_open,
                test_tiers_find_what_was_written_before_a_kill_at_any_point,
                test_tiers_believe_nothing_that_a_power_cut_left_half_done)
