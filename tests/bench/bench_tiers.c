/* bench_tiers - the NVMe tier beside what the drive gives: T1, a thousand blocks from the drive to DRAM; T8, an index
 * of a million entries at start.
 *
 *     build/tests/bench/bench_tiers [FOLDER]      (default: /tmp; it takes 2 GiB and, for T8, 512 MiB there)
 *
 * R is what plain O_DIRECT reads of the same file give at the same depth (pread in threads), taken by turns with the
 * tier: R T R T ..., medians. On CPUs that others share CPU time counts more than time.
 */
#include "engine/base/rng.h"
#include "engine/base/sys.h"
#include "engine/kv/tier_gpu.h"
#include "engine/kv/tier_nvme.h"
#include "engine/kv/tiers.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK   (2ull << 20)
#define BLOCKS  1000
#define MEMORY  128 /* blocks of DRAM they go through */
#define PAIRS   7
#define ENTRIES 1000000

struct sample {
    double seconds, cpu;
};

static double cpu_now(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static int by_seconds(const void *a, const void *b)
{
    const struct sample *x = a, *y = b;
    return x->seconds < y->seconds ? -1 : x->seconds > y->seconds;
}

static struct sample median(struct sample *s)
{
    qsort(s, PAIRS, sizeof *s, by_seconds);
    return s[PAIRS / 2];
}

static uint8_t *memory;

/* All blocks through a tier, in either direction. */
static struct sample through(struct tier *t, enum tier_op op)
{
    static struct tier_move moves[MEMORY];
    struct kv_entry e = {.magic = ENTRY_MAGIC};
    double cpu = cpu_now();
    uint64_t from = sys.now_ns();
    for (uint32_t i = 0; i < MEMORY; i++)
        moves[i].owner = NULL;
    for (int32_t sent = 0, got = 0; got < BLOCKS;) {
        for (uint32_t i = 0; i < MEMORY && sent < BLOCKS; i++) {
            if (moves[i].owner)
                continue;
            moves[i] = (struct tier_move){.op = op, .slot = sent, .mem = memory + i * BLOCK, .entry = &e};
            if (tier_ops(t)->submit(t, &moves[i]) != 0)
                break;
            moves[i].owner = t;
            sent++;
        }
        struct tier_move *m = tier_ops(t)->reap(t);
        if (!m)
            usleep(200); /* the engine would sleep on its bell */
        for (; m; m = m->next, got++) {
            assert(m->result == 0);
            m->owner = NULL;
        }
    }
    return (struct sample){(double)(sys.now_ns() - from) / 1e9, cpu_now() - cpu};
}

/* The same bytes by plain reads, 16 at a time. */
static struct sample plain(const char *path, struct aio *a)
{
    static struct aio_req reqs[16];
    int fd = sys.open(path, O_RDONLY | O_DIRECT, 0);
    assert(fd >= 0);
    double cpu = cpu_now();
    uint64_t from = sys.now_ns();
    memset(reqs, 0, sizeof reqs);
    for (uint64_t sent = 0, got = 0; got < BLOCKS;) {
        for (int i = 0; i < 16 && sent < BLOCKS; i++) {
            if (reqs[i].owner)
                continue;
            reqs[i] = (struct aio_req){.op = AIO_READ,
                                       .fd = fd,
                                       .buf = memory + (uint64_t)i * BLOCK,
                                       .bytes = BLOCK,
                                       .off = sent++ * BLOCK,
                                       .owner = a};
            int ret = aio_submit(a, &reqs[i]);
            assert(ret == 0);
            (void)ret;
        }
        struct aio_req *r = aio_reap(a);
        if (!r)
            usleep(200);
        for (; r; r = r->next, got++) {
            assert(r->result == 0);
            r->owner = NULL;
        }
    }
    sys.close(fd);
    return (struct sample){(double)(sys.now_ns() - from) / 1e9, cpu_now() - cpu};
}

static struct tier_nvme_opts opts_of(const char *dir, uint64_t slot_bytes, uint64_t n)
{
    struct tier_nvme_opts o = {.dirs = dir, .bytes = n * (slot_bytes + ENTRY_BYTES) + 16384};
    o.shape.block_bytes = o.shape.slot_bytes = slot_bytes;
    o.shape.block_tokens = 64;
    o.shape.format = 2;
    o.aio = (struct aio_opts){.kind = AIO_AUTO, .threads = 8, .bell = -1};
    return o;
}

static void path_of(const char *dir, const struct nvme_shape *s, const char *what, char out[400])
{
    char digest[17];
    nvme_shape_digest(s, digest);
    snprintf(out, 400, "%s/kv1-%s.%s", dir, digest, what);
}

static void bench_reads(const char *dir)
{
    struct sample r[PAIRS], t[PAIRS], w;
    struct tier *tier;
    struct aio *a;
    struct err e = {0};
    char path[400];
    struct tier_nvme_opts o = opts_of(dir, BLOCK, BLOCKS);
    if (tier_nvme_open(&tier, &o, &e) != 0 ||
        aio_open(&a, &(struct aio_opts){.kind = AIO_THREADS, .threads = 16, .depth = 16, .bell = -1}, &e) != 0) {
        printf("T1: %s\n", e.text);
        return;
    }
    for (int i = 0; i < BLOCKS; i++)
        if (tier_ops(tier)->take(tier, 0) < 0)
            printf("T1: no room for block %d\n", i);
    path_of(dir, &o.shape, "slab", path);
    if (tier_ops(tier)->attach)
        tier_ops(tier)->attach(tier, memory, MEMORY * BLOCK, -1, &e);
    w = through(tier, TIER_WRITE);
    for (int i = 0; i < PAIRS; i++) {
        r[i] = plain(path, a);
        t[i] = through(tier, TIER_READ);
    }
    double gb = (double)BLOCKS * BLOCK / 1e9;
    struct sample rm = median(r), tm = median(t);
    struct tier_nvme_stats s;
    tier_nvme_get_stats(tier, &s);
    printf("write     %.2f GB/s, %.1f ms CPU/GB (once)\n", gb / w.seconds, 1e3 * w.cpu / gb);
    printf("R         %.2f GB/s, %.1f ms CPU/GB (pread, 16 threads, %d pairs)\n", gb / rm.seconds, 1e3 * rm.cpu / gb,
           PAIRS);
    printf("T1 tier   %.2f GB/s, %.1f ms CPU/GB (%s, direct %d): %.2f R\n", gb / tm.seconds, 1e3 * tm.cpu / gb, s.aio,
           s.direct, rm.seconds / tm.seconds);
    tier_close(tier);
    aio_close(a);
}

/* A file of n entries that are whole, of chains of 100 blocks, written as the tier would have. */
static void make_index(const char *path, const struct nvme_shape *shape, uint32_t n)
{
    struct hash_key root = {{1}};
    int32_t ids[64];
    uint64_t rng = 1;
    struct kv_ident who = {.root = &root, .ids = ids};
    int fd = sys.open(path, O_RDWR, 0);
    struct kv_entry *all = malloc((size_t)n * sizeof *all);
    assert(fd >= 0 && all);
    (void)shape;
    for (uint32_t i = 0; i < n; i++) {
        for (int k = 0; k < 64; k++)
            ids[k] = (int32_t)(rng_next(&rng) % 100000);
        who.parent = who.key;
        for (int k = 0; k < 4; k++) { /* as good as a hash */
            uint64_t word = rng_next(&rng);
            memcpy(who.key.b + 8 * k, &word, sizeof word);
        }
        who.depth = i % 100;
        entry_make(&all[i], &who, 64, 2);
        all[i].generation = i + 1;
        entry_close(&all[i]);
    }
    for (size_t at = 0, size = (size_t)n * sizeof *all; at < size;) {
        ssize_t done = sys.pwrite(fd, (uint8_t *)all + at, size - at, (off_t)(ENTRY_SECTOR + at));
        assert(done > 0);
        at += (size_t)done;
    }
    sys.fsync(fd);
    sys.close(fd);
    free(all);
}

static void drop_pages(const char *path)
{
    int fd = sys.open(path, O_RDONLY, 0);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    sys.close(fd);
}

static double read_all(const char *path, uint64_t bytes)
{
    int fd = sys.open(path, O_RDONLY | O_DIRECT, 0);
    uint64_t from = sys.now_ns();
    for (uint64_t at = 0; fd >= 0 && at < bytes;) {
        ssize_t n = sys.pread(fd, memory, 4 << 20, (off_t)at);
        if (n <= 0)
            break;
        at += (uint64_t)n;
    }
    sys.close(fd);
    return (double)(sys.now_ns() - from) / 1e9;
}

static void bench_index(const char *dir)
{
    struct tier *tier;
    struct tiers *t;
    struct err e = {0};
    char index[400], slab[400];
    struct tier_nvme_opts o = opts_of(dir, 4096, ENTRIES);
    double tier_s[PAIRS], all_s[PAIRS], r_s[PAIRS];
    int ret = tier_nvme_open(&tier, &o, &e); /* makes the files */
    if (ret) {
        printf("T8: %s\n", e.text);
        return;
    }
    tier_close(tier);
    path_of(dir, &o.shape, "index", index);
    path_of(dir, &o.shape, "slab", slab);
    ret = truncate(slab, (off_t)ENTRIES * 4096); /* holes: payloads are not read here */
    make_index(index, &o.shape, ENTRIES);
    for (int i = 0; i < 3; i++) {
        drop_pages(index);
        r_s[i] = read_all(index, nvme_index_bytes(ENTRIES));
        uint64_t from = sys.now_ns();
        ret |= tier_nvme_open(&tier, &o, &e);
        tier_s[i] = (double)(sys.now_ns() - from) / 1e9;
        assert(ret == 0);
        struct tiers_opts to = {.block_tokens = 64, .format = 2, .block_bytes = 4096, .n_hbm = 16, .nvme = tier};
        to.dram_bytes = 64 * 4096;
        to.bell = -1;
        static const struct seal_key key;
        struct tier_gpu_opts g = {.be = NULL, .n_blocks = 16, .block_bytes = 4096, .key = &key};
        ret |= tier_gpu_open(&to.gpu, &g, &e);
        to.no_bytes = true;
        ret |= tiers_open(&t, &to, &e);
        all_s[i] = (double)(sys.now_ns() - from) / 1e9;
        assert(ret == 0);
        struct tiers_stats s;
        tiers_get_stats(t, &s);
        if (i == 2)
            printf(
                "T8 index of %llu entries: read plainly %.2f s, read and checked %.2f s, ready %.2f s: %.2f x plain\n",
                (unsigned long long)s.nvme_used, r_s[i], tier_s[i], all_s[i], all_s[i] / r_s[i]);
        tiers_close(t);
    }
}

int main(int argc, char **argv)
{
    char dir[300];
    snprintf(dir, sizeof dir, "%s/hearth-bench-XXXXXX", argc > 1 ? argv[1] : "/tmp");
    memory = mmap(NULL, MEMORY * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!mkdtemp(dir) || memory == MAP_FAILED || hash_init_library() != 0) {
        perror(dir);
        return EXIT_FAILURE;
    }
    memset(memory, 1, MEMORY * BLOCK);
    char reads[320], index[320], cmd[400];
    snprintf(reads, sizeof reads, "%s/reads", dir);
    snprintf(index, sizeof index, "%s/index", dir);
    if (mkdir(reads, 0700) == 0 && mkdir(index, 0700) == 0) { /* one folder's cap holds for all that is in it */
        bench_reads(reads);
        bench_index(index);
    }
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    return system(cmd) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
