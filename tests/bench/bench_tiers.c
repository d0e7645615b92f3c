/* bench_tiers - the NVMe tier beside what the drive gives.
 *
 * usage: bench_tiers ROW ... [FOLDER]      T1 T8; FOLDER: default /tmp; T1 takes 2 GiB there, T8 512 MiB
 *
 * Prints one JSON object a line. R is what plain O_DIRECT reads of the same file give, 16 pieces at a time (pread in
 * threads), taken by turns with the tier: R T R T ..., medians. CPU is of the whole process, and the bench sleeps on
 * the tier's bell as the engine does. On CPUs that others share CPU time counts more than time.
 *
 *     T1  a thousand blocks of 2 MiB from the drive to DRAM
 *     T8  ready with an index of a million entries, beside reading its file; owner_least_s: CPU of the thread that
 *         enters them, the least of the runs
 */
#include "engine/base/rng.h"
#include "engine/base/sys.h"
#include "engine/kv/tier_gpu.h"
#include "engine/kv/tier_nvme.h"
#include "engine/kv/tiers.h"
#include "tests/support/probe.h"

#include <assert.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK   (2ull << 20)
#define BLOCKS  1000
#define MEMORY  128 /* blocks of DRAM they go through */
#define PAIRS   7
#define T8_RUNS 5
#define ENTRIES 1000000
#define GB      1e9

static uint8_t *memory;
static int bell;

static void sleep_on_bell(void)
{
    struct pollfd p = {.fd = bell, .events = POLLIN};
    uint64_t count;
    if (sys.poll(&p, 1, 100) > 0 && sys.read(bell, &count, sizeof count) < 0)
        return;
}

/* All blocks through a tier, in either direction. */
static struct probe_time through(struct tier *t, enum tier_op op)
{
    static struct tier_move moves[MEMORY];
    struct kv_entry e = {.magic = ENTRY_MAGIC};
    struct probe_time begin = probe_begin();
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
            sleep_on_bell();
        for (; m; m = m->next, got++) {
            assert(m->result == 0);
            m->owner = NULL;
        }
    }
    return probe_end(begin);
}

static struct tier_nvme_opts opts_of(const char *dir, uint64_t slot_bytes, uint64_t n)
{
    struct tier_nvme_opts o = {.dirs = dir, .bytes = n * (slot_bytes + ENTRY_BYTES) + 16384};
    o.shape.block_bytes = o.shape.slot_bytes = slot_bytes;
    o.shape.block_tokens = 64;
    o.shape.format = 2;
    o.aio = (struct aio_opts){.kind = AIO_AUTO, .threads = 8, .bell = bell};
    return o;
}

static void path_of(const char *dir, const struct nvme_shape *s, const char *what, char out[400])
{
    char digest[17];
    nvme_shape_digest(s, digest);
    snprintf(out, 400, "%s/kv1-%s.%s", dir, digest, what);
}

static double least_cpu(const struct probe_time *t, int n)
{
    double least = t[0].cpu;
    for (int i = 1; i < n; i++)
        least = t[i].cpu < least ? t[i].cpu : least;
    return least;
}

static void bench_reads(const char *dir)
{
    struct probe_time r[PAIRS], t[PAIRS], w;
    struct tier *tier;
    struct err e = {0};
    char path[400];
    struct tier_nvme_opts o = opts_of(dir, BLOCK, BLOCKS);
    if (tier_nvme_open(&tier, &o, &e) != 0) {
        printf("T1: %s\n", e.text);
        return;
    }
    for (int i = 0; i < BLOCKS; i++)
        if (tier_ops(tier)->take(tier, 0) < 0)
            printf("T1: no room for block %d\n", i);
    path_of(dir, &o.shape, "slab", path);
    tier_ops(tier)->attach(tier, memory, MEMORY * BLOCK, bell, &e);
    w = through(tier, TIER_WRITE);
    for (int i = 0; i < PAIRS; i++) {
        r[i] = probe_read(path, BLOCKS * BLOCK, BLOCK, 16);
        t[i] = through(tier, TIER_READ);
    }
    double gb = (double)BLOCKS * BLOCK / GB;
    struct probe_time rm = probe_median(r, PAIRS), tm = probe_median(t, PAIRS);
    double cpu = least_cpu(t, PAIRS);
    struct tier_nvme_stats s;
    tier_nvme_get_stats(tier, &s);
    printf("{\"row\": \"T1\", \"folder\": \"%s\", \"io\": \"%s\", \"direct\": %d, \"GBps\": %.2f, \"R_GBps\": %.2f, "
           "\"ratio\": %.3f, \"gate\": 0.92, \"cpu_ms_GB\": %.1f, \"cpu_least_ms_GB\": %.1f, \"cpu_gate\": 15, "
           "\"R_cpu_ms_GB\": %.1f, \"write_GBps\": %.2f, \"write_cpu_ms_GB\": %.1f}\n",
           dir, s.aio, s.direct, gb / tm.seconds, gb / rm.seconds, rm.seconds / tm.seconds, 1e3 * tm.cpu / gb,
           1e3 * cpu / gb, 1e3 * rm.cpu / gb, gb / w.seconds, 1e3 * w.cpu / gb);
    fflush(stdout);
    tier_close(tier);
}

/* A file of n entries that are whole, of chains of 100 blocks: one after the other as a new tier has them, or anywhere,
 * as after a long time. */
static void make_index(const char *path, uint32_t n, bool shuffled)
{
    struct hash_key root = {{1}};
    int32_t ids[64];
    uint64_t rng = 1;
    struct kv_ident who = {.root = &root, .ids = ids};
    int fd = sys.open(path, O_RDWR, 0);
    struct kv_entry *all = malloc((size_t)n * sizeof *all);
    assert(fd >= 0 && all);
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
    for (uint32_t i = n - 1; shuffled && i > 0; i--) {
        uint32_t k = (uint32_t)(rng_next(&rng) % (i + 1));
        struct kv_entry e = all[i];
        all[i] = all[k];
        all[k] = e;
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

static double own_cpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Open everything on it. The time until all is ready, and the CPU seconds of the thread that owns it. */
static struct tiers *open_index(struct tier_nvme_opts *o, double *owner_s, struct probe_time *ready)
{
    struct tier *tier;
    struct tiers *t;
    struct err e = {0};
    static const struct seal_key key;
    struct tier_gpu_opts g = {.be = NULL, .n_blocks = 16, .block_bytes = 4096, .key = &key};
    struct tiers_opts to = {.block_tokens = 64,
                            .format = 2,
                            .block_bytes = 4096,
                            .n_hbm = 16,
                            .dram_bytes = 64 * 4096,
                            .bell = -1,
                            .no_bytes = true};
    struct probe_time begin = probe_begin();
    double cpu = own_cpu();
    int ret = tier_nvme_open(&tier, o, &e);
    to.nvme = tier;
    ret = ret ? ret : tier_gpu_open(&to.gpu, &g, &e);
    ret = ret ? ret : tiers_open(&t, &to, &e);
    *ready = probe_end(begin);
    *owner_s = own_cpu() - cpu;
    if (ret) {
        fprintf(stderr, "T8: %s\n", e.text);
        exit(EXIT_FAILURE);
    }
    return t;
}

static void bench_index(const char *dir, bool shuffled)
{
    struct tier *tier;
    struct err e = {0};
    char index[400], slab[400];
    struct tier_nvme_opts o = opts_of(dir, 4096, ENTRIES);
    double owner_s, least_s = INFINITY;
    struct probe_time ready[T8_RUNS], plain[T8_RUNS];
    struct tiers_stats s;
    int ret = tier_nvme_open(&tier, &o, &e); /* makes the files */
    if (ret) {
        printf("T8: %s\n", e.text);
        return;
    }
    tier_close(tier);
    path_of(dir, &o.shape, "index", index);
    path_of(dir, &o.shape, "slab", slab);
    ret = truncate(slab, (off_t)ENTRIES * 4096); /* holes: payloads are not read here */
    make_index(index, ENTRIES, shuffled);
    for (int i = 0; i < T8_RUNS; i++) {
        drop_pages(index);
        plain[i] = probe_read(index, nvme_index_bytes(ENTRIES) / 4096 * 4096, BLOCK, 16);
        drop_pages(index);
        struct tiers *t = open_index(&o, &owner_s, &ready[i]);
        least_s = fmin(least_s, owner_s);
        tiers_get_stats(t, &s);
        tiers_close(t);
    }
    struct probe_time p = probe_median(plain, T8_RUNS), r = probe_median(ready, T8_RUNS);
    printf("{\"row\": \"T8\", \"folder\": \"%s\", \"shuffled\": %d, \"entries\": %llu, \"plain_s\": %.3f, \"ready_s\": "
           "%.3f, \"ratio\": "
           "%.2f, "
           "\"gate\": 1.2, \"cpu_s\": %.2f, \"owner_least_s\": %.3f}\n",
           dir, shuffled, (unsigned long long)s.nvme_used, p.seconds, r.seconds, r.seconds / p.seconds, r.cpu, least_s);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char dir[300], sub[320], cmd[400];
    snprintf(dir, sizeof dir, "%s/hearth-bench-XXXXXX", argc > 1 && argv[argc - 1][0] == '/' ? argv[argc - 1] : "/tmp");
    memory = mmap(NULL, MEMORY * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bell = sys.eventfd(0, 0);
    if (!mkdtemp(dir) || memory == MAP_FAILED || hash_init_library() != 0) {
        perror(dir);
        return EXIT_FAILURE;
    }
    madvise(memory, MEMORY * BLOCK, MADV_HUGEPAGE); /* as the arena is */
    memset(memory, 1, MEMORY * BLOCK);
    for (int i = 1; i < argc; i++) { /* one folder's cap holds for all that is in it */
        snprintf(sub, sizeof sub, "%s/%.8s", dir, argv[i]);
        if (argv[i][0] == '/' || mkdir(sub, 0700) != 0)
            continue;
        if (strcmp(argv[i], "T1") == 0)
            bench_reads(sub);
        if (strcmp(argv[i], "T8") == 0)
            for (int shuffled = 0; shuffled < 2; shuffled++)
                bench_index(sub, shuffled);
    }
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    return system(cmd) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
