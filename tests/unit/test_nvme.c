/* test_nvme - the tier on drives by itself: it takes what it may and no more, says durable when it is, uses no slot
 * again that could not be written; and its I/O goes on where a transfer stopped, reads first. */
#include "tests/support/unit.h"

#include "engine/base/log.h"
#include "engine/base/str.h"
#include "engine/base/sys.h"
#include "engine/engine.h"
#include "engine/kv/aio.h"
#include "engine/kv/nvme_slab.h"
#include "tests/support/tier_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096

static const struct nvme_shape shape = {
    .block_bytes = BLOCK, .slot_bytes = BLOCK, .block_tokens = 16, .format = KV_FORMAT_KV16};
static uint8_t payload[BLOCK] __attribute__((aligned(BLOCK)));
static struct sys_table real;

static struct tier *open_tier(const char *dirs, uint64_t bytes)
{
    struct tier_nvme_opts o = {
        .dirs = dirs, .bytes = bytes, .shape = shape, .aio = {.kind = AIO_THREADS, .bell = -1}}; /* done at submit */
    struct tier *t;
    struct err e = {0};
    ck_assert_int_eq(hash_init_library(), 0);
    ck_assert_msg(tier_nvme_open(&t, &o, &e) == 0, "%s", e.text);
    return t;
}

static struct tier_move begin_write(struct tier *t, int32_t slot)
{
    static struct kv_entry entry;
    static const struct hash_key root;
    int32_t ids[16] = {slot};
    entry_make(&entry, &(struct kv_ident){.root = &root, .ids = ids}, 16, KV_FORMAT_KV16);
    return (struct tier_move){.op = TIER_WRITE, .slot = slot, .mem = payload, .entry = &entry};
}

static int write_slot(struct tier *t, int32_t slot)
{
    struct tier_move m = begin_write(t, slot), *came = NULL;
    ck_assert_int_eq(tier_ops(t)->submit(t, &m), 0);
    for (int i = 0; i < 10 && !came; i++)
        came = tier_ops(t)->reap(t);
    ck_assert_ptr_eq(came, &m);
    ck_assert_ptr_null(came->next);
    return m.result;
}

/* -- bytes */

static uint64_t size_of_dir(const char *path)
{
    struct nvme_dir d;
    uint64_t bytes = 0;
    snprintf(d.path, sizeof d.path, "%s", path);
    ck_assert_int_eq(nvme_dir_bytes(&d, NULL, &bytes), 0);
    return bytes;
}

static uint64_t size_for(uint64_t slots)
{
    return slots * BLOCK + nvme_index_bytes((uint32_t)slots);
}

START_TEST(test_nvme_fills_its_bytes_and_never_takes_one_more)
{
    log_set_level(LOG_ERROR);
    for (uint64_t bytes = 16 * BLOCK; bytes < 40 * BLOCK; bytes += 5555) {
        const char *dirs[2];
        char both[200];
        for (int n = 1; n <= 2; n++) { /* folders, which share the bytes */
            struct tier_nvme_stats s;
            dirs[0] = rig_dir();
            dirs[1] = n == 2 ? rig_dir() : "";
            snprintf(both, sizeof both, "%s,%s", dirs[0], dirs[1]);
            struct tier *t = open_tier(both, bytes);
            while (tier_ops(t)->take(t, 0) >= 0)
                ;
            tier_nvme_get_stats(t, &s);
            ck_assert_uint_eq(s.drives, (uint32_t)n);
            for (int i = 0; i < n; i++)
                ck_assert_uint_le(size_of_dir(dirs[i]), bytes / (uint64_t)n);
            uint64_t most = 0; /* of one folder: a sector of the index may be left over */
            while (size_for(most + 1) <= bytes / (uint64_t)n)
                most++;
            ck_assert_uint_ge(s.slots, (uint64_t)n * (most - 1));
            tier_close(t);
        }
    }
}
END_TEST

static struct statvfs disk;

static int told_statvfs(int fd, struct statvfs *st)
{
    *st = disk;
    return 0;
}

static int no_statvfs(int fd, struct statvfs *st)
{
    errno = EIO;
    return -1;
}

START_TEST(test_nvme_leaves_a_twentieth_of_the_disk_or_8_gib)
{
    uint64_t reserve[2] = {1000 / 20, (8ull << 30) / 4096}, blocks[2] = {1000, 1ull << 30};
    real = sys;
    sys.fstatvfs = told_statvfs;
    for (int i = 0; i < 2; i++) {
        disk = (struct statvfs){.f_frsize = 4096, .f_bsize = 512, .f_blocks = blocks[i], .f_bavail = reserve[i] + 10};
        disk.f_bfree = blocks[i]; /* root's part is not ours */
        ck_assert(nvme_dir_has_room(0, 10 * 4096));
        ck_assert(!nvme_dir_has_room(0, 10 * 4096 + 1));
        disk.f_bavail = reserve[i] - 1;
        ck_assert(!nvme_dir_has_room(0, 1));
    }
    sys.fstatvfs = no_statvfs;
    ck_assert(!nvme_dir_has_room(0, 1));
    sys = real;
}
END_TEST

/* -- slots that could not be written */

static int write_error;

static ssize_t failing_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    errno = write_error;
    return -1;
}

START_TEST(test_nvme_uses_no_slot_again_that_could_not_be_written)
{
    for (int how = 0; how < 2; how++) {
        struct tier *t = open_tier(rig_dir(), 40 * BLOCK);
        int32_t slot = tier_ops(t)->take(t, 0), taken;
        bool again = false;
        write_error = how ? ENOSPC : EIO;
        real = sys;
        sys.pwrite = failing_pwrite;
        ck_assert_int_eq(write_slot(t, slot), -write_error);
        sys = real;
        ck_assert_ptr_null(tier_ops(t)->entry(t, slot));
        tier_ops(t)->give(t, slot);
        while ((taken = tier_ops(t)->take(t, 0)) >= 0)
            again |= taken == slot;
        ck_assert_msg(again == (how == 1), "%s", strerror(write_error)); /* a full disk says nothing of the slot */
        tier_close(t);
    }
}
END_TEST

/* -- durable */

static int dirty[16], n_dirty, n_syncs, sync_error; /* files written since they were synced */

static ssize_t marking_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    int i = 0;
    while (i < n_dirty && dirty[i] != fd)
        i++;
    if (i == n_dirty)
        dirty[n_dirty++] = fd;
    return real.pwrite(fd, buf, n, off);
}

static int marking_fsync(int fd)
{
    n_syncs++;
    if (sync_error) {
        errno = sync_error;
        return -1;
    }
    for (int i = 0; i < n_dirty; i++)
        if (dirty[i] == fd)
            dirty[i--] = dirty[--n_dirty];
    return real.fsync(fd);
}

/* Does it get durable in so many turns? */
static bool flush(struct tier *t, int turns)
{
    while (turns-- > 0) {
        if (tier_ops(t)->flush(t))
            return true;
        tier_ops(t)->reap(t);
    }
    return false;
}

START_TEST(test_nvme_is_durable_when_every_file_is_synced_and_not_before)
{
    char dirs[200];
    snprintf(dirs, sizeof dirs, "%s,%s", rig_dir(), rig_dir());
    real = sys;
    struct tier *t = open_tier(dirs, 80 * BLOCK);
    sys.pwrite = marking_pwrite;
    sys.fsync = marking_fsync;
    n_dirty = n_syncs = sync_error = 0;
    for (int n = 0; n < 4; n++) {
        ck_assert_int_eq(write_slot(t, tier_ops(t)->take(t, (uint64_t)n)), 0);
        ck_assert_int_ge(n_dirty, 2); /* payload and entry */
        ck_assert(flush(t, 10));
        ck_assert_int_eq(n_dirty, 0);
    }
    int before = n_syncs;
    ck_assert(flush(t, 1)); /* nothing new: at once */
    ck_assert_int_eq(n_syncs, before);
    ck_assert_int_eq(write_slot(t, tier_ops(t)->take(t, 0)), 0);
    sync_error = EIO;
    ck_assert(!flush(t, 10));
    sync_error = 0;
    ck_assert(flush(t, 10));
    ck_assert_int_eq(n_dirty, 0);
    sys = real;
    tier_close(t);
}
END_TEST

START_TEST(test_nvme_flushes_again_for_a_write_that_ends_while_a_flush_is_under_way)
{
    struct tier *t = open_tier(rig_dir(), 40 * BLOCK);
    ck_assert_int_eq(write_slot(t, tier_ops(t)->take(t, 0)), 0);
    struct tier_move m = begin_write(t, tier_ops(t)->take(t, 0));
    ck_assert_int_eq(tier_ops(t)->submit(t, &m), 0);
    ck_assert_ptr_null(tier_ops(t)->reap(t)); /* its payload is written, and its entry begun */
    ck_assert(!tier_ops(t)->flush(t));
    ck_assert_ptr_eq(tier_ops(t)->reap(t), &m);
    ck_assert(!tier_ops(t)->flush(t));
    tier_ops(t)->reap(t);
    ck_assert(tier_ops(t)->flush(t));
    tier_close(t);
}
END_TEST

/* -- transfers */

static int n_calls;

static ssize_t short_pread(int fd, void *buf, size_t n, off_t off)
{
    if (++n_calls % 3 == 0) {
        errno = EINTR;
        return -1;
    }
    return real.pread(fd, buf, n < 512 ? n : 512, off);
}

static ssize_t short_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    if (++n_calls % 3 == 0) {
        errno = EINTR;
        return -1;
    }
    return real.pwrite(fd, buf, n < 512 ? n : 512, off);
}

static int transfer(struct aio *a, enum aio_op op, int fd, void *buf, uint64_t off)
{
    struct aio_req r = {.op = op, .fd = fd, .buf = buf, .bytes = BLOCK, .off = off}, *came;
    ck_assert_int_eq(aio_submit(a, &r), 0);
    while (!(came = aio_reap(a)))
        sched_yield();
    ck_assert_ptr_eq(came, &r);
    return r.result;
}

static void expect_whole_transfers(struct aio *a, const char *path)
{
    static uint8_t from[BLOCK], to[BLOCK];
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    ck_assert_int_ge(fd, 0);
    for (int i = 0; i < BLOCK; i++)
        from[i] = (uint8_t)(i * 7 >> 3);
    ck_assert_int_eq(transfer(a, AIO_WRITE, fd, from, BLOCK), 0);
    memset(to, 0, sizeof to);
    ck_assert_int_eq(transfer(a, AIO_READ, fd, to, BLOCK), 0);
    ck_assert_mem_eq(from, to, BLOCK);
    ck_assert_int_eq(transfer(a, AIO_READ, fd, to, BLOCK + 512), -EIO); /* the file ends in it, .. */
    ck_assert_int_eq(transfer(a, AIO_READ, fd, to, 2 * BLOCK), -EIO);   /* .. or before it */
    ck_assert_int_eq(transfer(a, AIO_READ, -1, to, 0), -EBADF);
    close(fd);
}

START_TEST(test_aio_goes_on_where_a_transfer_stopped)
{
    char path[100];
    snprintf(path, sizeof path, "%s/file", rig_dir());
    for (int how = 0; how < 3; how++) { /* at submit, by threads, by io_uring */
        struct aio_opts o = {
            .kind = how == 2 ? AIO_URING : AIO_THREADS, .depth = 4, .threads = how == 1 ? 2 : 0, .bell = -1};
        struct aio *a;
        struct err e;
        if (aio_open(&a, &o, &e) != 0) {
            ck_assert_int_eq(how, 2);
            printf("SKIP transfers by io_uring: %s\n", e.text);
            continue;
        }
        real = sys;
        sys.pread = short_pread;
        sys.pwrite = short_pwrite;
        expect_whole_transfers(a, path);
        aio_close(a);
        sys = real;
    }
}
END_TEST

static ssize_t no_nowait(int fd, const struct iovec *v, int n, off_t off, int flags)
{
    errno = EOPNOTSUPP;
    return -1;
}

static ssize_t has_nowait(int fd, const struct iovec *v, int n, off_t off, int flags)
{
    return 0;
}

/* Threads of this process that io_uring has made. */
static int n_uring_workers(void)
{
    char path[300], name[32];
    int n = 0;
    DIR *d = opendir("/proc/self/task");
    ck_assert_ptr_nonnull(d);
    for (struct dirent *f; (f = readdir(d));) {
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", f->d_name);
        FILE *comm = fopen(path, "r");
        n += comm && fgets(name, sizeof name, comm) && strncmp(name, "iou-wrk", 7) == 0;
        if (comm)
            fclose(comm);
    }
    closedir(d);
    return n;
}

static bool slab_is_copied(ssize_t (*preadv2)(int, const struct iovec *, int, off_t, int))
{
    struct nvme_dir d;
    struct nvme_slab s;
    struct err e = {0};
    snprintf(d.path, sizeof d.path, "%s", rig_dir());
    real = sys;
    sys.preadv2 = preadv2;
    ck_assert_msg(nvme_slab_open(&s, &d, "kv1-x.slab", BLOCK, 4, &e) == 0, "%s", e.text);
    sys = real;
    bool copied = s.copied || !s.direct;
    nvme_slab_close(&s);
    return copied;
}

START_TEST(test_nvme_has_workers_copy_what_a_file_system_has_in_memory)
{
    struct tier_nvme_opts o = {
        .dirs = rig_dir(), .bytes = 16 * BLOCK, .shape = shape, .aio = {.kind = AIO_URING, .bell = -1}};
    struct tier *t;
    struct err e = {0};
    log_set_level(LOG_ERROR);
    ck_assert(slab_is_copied(no_nowait));
    if (slab_is_copied(has_nowait))
        printf("SKIP slab that is not copied: no O_DIRECT in %s\n", rig_dir());
    real = sys;
    sys.preadv2 = no_nowait;
    ck_assert_int_eq(hash_init_library(), 0);
    int ret = tier_nvme_open(&t, &o, &e);
    sys = real;
    if (ret == -ENOSYS) {
        printf("SKIP reads by io_uring's workers: %s\n", e.text);
        return;
    }
    ck_assert_msg(ret == 0, "%s", e.text);
    struct tier_move m = {.op = TIER_READ, .slot = tier_ops(t)->take(t, 0), .mem = payload};
    ck_assert_int_eq(tier_ops(t)->submit(t, &m), 0);
    while (!tier_ops(t)->reap(t))
        sched_yield();
    ck_assert_int_eq(m.result, 0);
    ck_assert_int_eq(n_uring_workers(), 1);
    tier_close(t);
}
END_TEST

static sem_t begun, may_end;
static char order[8];
static int n_order;

static ssize_t ordered_pread(int fd, void *buf, size_t n, off_t off)
{
    order[n_order++] = 'r';
    return (ssize_t)n;
}

static ssize_t ordered_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    order[n_order++] = 'w';
    sem_post(&begun);
    sem_wait(&may_end);
    return (ssize_t)n;
}

START_TEST(test_aio_reads_go_before_writes_that_wait)
{
    struct aio *a;
    struct err e;
    struct aio_req r[4];
    uint32_t n = 0;
    ck_assert(sem_init(&begun, 0, 0) == 0 && sem_init(&may_end, 0, 0) == 0);
    real = sys;
    sys.pread = ordered_pread;
    sys.pwrite = ordered_pwrite;
    ck_assert_int_eq(aio_open(&a, &(struct aio_opts){.kind = AIO_THREADS, .depth = 4, .threads = 1, .bell = -1}, &e),
                     0);
    for (int i = 0; i < 4; i++) {
        r[i] = (struct aio_req){.op = i < 2 ? AIO_WRITE : AIO_READ, .buf = payload, .bytes = BLOCK};
        ck_assert_int_eq(aio_submit(a, &r[i]), 0);
        if (i == 0)
            sem_wait(&begun); /* the one thread is at it */
    }
    struct aio_req more = {.op = AIO_READ};
    ck_assert_int_eq(aio_submit(a, &more), -EAGAIN);
    sem_post(&may_end);
    sem_post(&may_end);
    while (n < 4) {
        for (struct aio_req *came = aio_reap(a); came; came = came->next)
            n++;
        sched_yield();
    }
    ck_assert_str_eq(order, "wrrw");
    aio_close(a);
    sys = real;
}
END_TEST

/* -- files */

/* A prompt's blocks that sleep in a folder, written by an engine; paths of its index and slab. */
static const char *sleep_in(char index[300], char slab[300])
{
    static struct rig r;
    struct rig_opts o = {.dirs = rig_dir(), .nvme_slots = 40};
    char digest[17];
    rig_open(&r, &o);
    rig_ask(&r, 1);
    struct nvme_shape s = {.block_bytes = r.m.layout.block_bytes,
                           .slot_bytes = tier_slot_bytes(r.m.layout.block_bytes),
                           .block_tokens = 16,
                           .format = r.m.layout.format,
                           .n_layers = r.m.layout.n_layers,
                           .n_kv_heads = r.m.layout.n_kv_heads,
                           .head_dim = r.m.layout.head_dim};
    rig_close(&r);
    nvme_shape_digest(&s, digest);
    snprintf(index, 300, "%s/kv1-%s.index", o.dirs, digest);
    snprintf(slab, 300, "%s/kv1-%s.slab", o.dirs, digest);
    return o.dirs;
}

static void flip_byte(const char *path, off_t at)
{
    uint8_t byte;
    int fd = open(path, O_RDWR);
    ck_assert(fd >= 0 && pread(fd, &byte, 1, at) == 1);
    byte ^= 16;
    ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static void expect_check(const char *dir, int result, const char *says)
{
    struct str report = {0};
    struct err e = {0};
    ck_assert_msg(engine_kv_check(dir, &report, &e) == result, "%s%s", str_text(&report), e.text);
    ck_assert_msg(strstr(str_text(&report), says) != NULL, "%s: no '%s'", str_text(&report), says);
    str_fini(&report);
}

START_TEST(test_kv_check_sees_each_kind_of_damage)
{
    char index[300], slab[300], secret[300], kept[310];
    const char *dir = sleep_in(index, slab);
    expect_check(dir, 0, "7 held of 4");
    expect_check(dir, 0, "entries damaged: 0; payloads that do not verify: 0");
    flip_byte(index, ENTRY_SECTOR + 300);
    expect_check(dir, 1, "entries damaged: 1; payloads that do not verify: 0");
    flip_byte(index, ENTRY_SECTOR + 300);
    flip_byte(slab, 4096);
    expect_check(dir, 1, "entries damaged: 0; payloads that do not verify: 1");
    flip_byte(slab, 4096);
    flip_byte(index, 20);
    expect_check(dir, 1, "its header is damaged");
    flip_byte(index, 20);
    snprintf(secret, sizeof secret, "%s/hearth.secret", dir);
    snprintf(kept, sizeof kept, "%s/kept", dir);
    ck_assert_int_eq(rename(secret, kept), 0);
    expect_check(dir, 1, "no secret");
    ck_assert_int_eq(rename(kept, secret), 0);
    ck_assert_int_eq(rename(slab, kept), 0);
    expect_check(dir, 1, "no slab");
    ck_assert_int_eq(rename(kept, slab), 0);
    expect_check(dir, 0, "entries damaged: 0; payloads that do not verify: 0");
    ck_assert_int_eq(truncate(slab, 2 * BLOCK), 0);
    expect_check(dir, 1, "payloads that do not verify: 5");
}
END_TEST

START_TEST(test_nvme_files_are_the_owners_alone_also_when_they_were_not)
{
    char index[300], slab[300], secret[300];
    const char *dir = sleep_in(index, slab), *of[3] = {index, slab, secret};
    struct stat st;
    snprintf(secret, sizeof secret, "%s/hearth.secret", dir);
    ck_assert(chmod(index, 0644) == 0 && chmod(slab, 0644) == 0);
    struct rig r;
    rig_open(&r, &(struct rig_opts){.dirs = dir, .nvme_slots = 40});
    rig_close(&r);
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(stat(of[i], &st), 0);
        ck_assert_uint_eq(st.st_mode & 0777, 0600);
    }
}
END_TEST

/* Whoever has a file open sees what is left of it. */
static uint64_t bytes_left(int fd)
{
    uint8_t buf[4096];
    uint64_t left = 0;
    ssize_t n;
    for (off_t at = 0; (n = pread(fd, buf, sizeof buf, at)) > 0; at += n)
        for (ssize_t i = 0; i < n; i++)
            left += buf[i] != 0;
    ck_assert_int_eq(n, 0);
    close(fd);
    return left;
}

START_TEST(test_kv_purge_overwrites_what_is_ours_and_leaves_the_rest)
{
    char index[300], slab[300], secret[300], other[300];
    const char *dir = sleep_in(index, slab);
    struct str report = {0};
    struct err e = {0};
    struct stat st;
    snprintf(secret, sizeof secret, "%s/hearth.secret", dir);
    snprintf(other, sizeof other, "%s/letter", dir);
    int fds[3] = {open(index, O_RDONLY), open(slab, O_RDONLY), open(secret, O_RDONLY)};
    int fd = open(other, O_WRONLY | O_CREAT, 0600);
    ck_assert_int_eq(write(fd, "a", 1), 1);
    close(fd);
    ck_assert_msg(engine_kv_purge(dir, &report, &e) == 0, "%s", e.text);
    for (int i = 0; i < 3; i++)
        ck_assert_uint_eq(bytes_left(fds[i]), 0);
    ck_assert(stat(index, &st) != 0 && stat(slab, &st) != 0 && stat(secret, &st) != 0);
    ck_assert(stat(other, &st) == 0 && st.st_size == 1);
    str_fini(&report);
}
END_TEST

/* -- a drive that fails is left alone for a while */

static uint32_t n_refused;

static ssize_t refusing_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    n_refused++;
    errno = EIO;
    return -1;
}

START_TEST(test_writes_pause_after_a_failure_and_go_on_after_it)
{
    struct rig r;
    rig_open(&r, &(struct rig_opts){.dirs = rig_dir(), .dram_slots = 64});
    rig_ask(&r, 1);
    uint64_t used = rig_stats(&r).nvme_used;
    ck_assert_uint_ge(used, 6);
    real = sys;
    sys.pwrite = refusing_pwrite;
    n_refused = 0;
    rig_ask(&r, 2);
    uint32_t first = n_refused;
    ck_assert_uint_ge(first, 1);
    rig_ask(&r, 3);
    ck_assert_uint_eq(n_refused, first);
    sys.pwrite = real.pwrite;
    fake_now_ns += 100000000000u;
    rig_ask(&r, 4);
    ck_assert_uint_ge(rig_stats(&r).nvme_used, used + 6);
    rig_close(&r);
}
END_TEST

UNIT_MAIN("nvme", test_nvme_fills_its_bytes_and_never_takes_one_more, test_nvme_leaves_a_twentieth_of_the_disk_or_8_gib,
          test_nvme_uses_no_slot_again_that_could_not_be_written,
          test_nvme_is_durable_when_every_file_is_synced_and_not_before,
          test_nvme_flushes_again_for_a_write_that_ends_while_a_flush_is_under_way,
          test_aio_goes_on_where_a_transfer_stopped, test_nvme_has_workers_copy_what_a_file_system_has_in_memory,
          test_aio_reads_go_before_writes_that_wait, test_kv_check_sees_each_kind_of_damage,
          test_nvme_files_are_the_owners_alone_also_when_they_were_not,
          test_kv_purge_overwrites_what_is_ours_and_leaves_the_rest,
          test_writes_pause_after_a_failure_and_go_on_after_it)
