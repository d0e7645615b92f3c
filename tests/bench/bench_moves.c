/* bench_moves - KV blocks between a drive, host memory and the memory of a GPU, beside what the drive and the bus give.
 *
 * usage: bench_moves ROW ... [FOLDER]        T2 T3 T7, or T7:SHAPE; FOLDER: where T2 has its files (default /tmp; 3
 * GiB)
 *
 * Prints one JSON object a line. P is a copy of pinned memory one way, P2 both ways at once: pieces of 64 MiB by the
 * driver, nothing else; R is plain O_DIRECT reads of the same file, 16 at a time. Rate and probe by turns, medians.
 *   T3  blocks between DRAM and HBM, up, down, and both at once, each with its seal made on the card
 *   T2  blocks from the drive to HBM through the tiers: read, copied up, the seal compared
 *   T4  the same while the writer always has blocks to write; comes with T2, beside it
 *   T7  a decode step of 8B, 32 x 1,024, while blocks of 8 MiB go both ways as fast as they can, beside the same step
 * alone Without a GPU T2 is taken with the CPU's pool (P: a copy in memory), and the others are left out.
 */
#include "engine/base/rng.h"
#include "engine/base/sys.h"
#include "engine/kv/tier_gpu.h"
#include "engine/kv/tier_nvme.h"
#include "engine/kv/tiers.h"
#include "tests/support/mini_engine.h"
#include "tests/support/ops_trio.h"
#include "tests/support/probe.h"

#include <assert.h>
#include <dlfcn.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAIRS    7
#define T2_PAIRS 3 /* a pass takes seconds */
#define GB       1e9

/* -- the probe of the bus: the driver's own calls, of the context that the backend made */

#define PIECE  (64ull << 20)
#define PIECES 16

struct bus {
    int (*host_alloc)(void **p, size_t bytes, unsigned flags);
    int (*host_free)(void *p);
    int (*up)(uint64_t to, const void *from, size_t bytes, void *stream);
    int (*down)(void *to, uint64_t from, size_t bytes, void *stream);
    int (*stream_create)(void **s, unsigned flags);
    int (*stream_wait)(void *s);
    void *stream[2], *host;
    uint8_t *device; /* 2 PIECE */
};

static void *symbol(const char *name)
{
    static void *lib;
    if (!lib && !(lib = dlopen("libcuda.so.1", RTLD_NOW))) {
        fprintf(stderr, "%s\n", dlerror());
        exit(EXIT_FAILURE);
    }
    void *p = dlsym(lib, name);
    assert(p);
    return p;
}

static void must(int rc)
{
    if (rc) {
        fprintf(stderr, "the driver says %d\n", rc);
        exit(EXIT_FAILURE);
    }
}

static void bus_open(struct bus *b, struct backend *be)
{
    *(void **)&b->host_alloc = symbol("cuMemHostAlloc");
    *(void **)&b->host_free = symbol("cuMemFreeHost");
    *(void **)&b->up = symbol("cuMemcpyHtoDAsync_v2");
    *(void **)&b->down = symbol("cuMemcpyDtoHAsync_v2");
    *(void **)&b->stream_create = symbol("cuStreamCreate");
    *(void **)&b->stream_wait = symbol("cuStreamSynchronize");
    must(b->host_alloc(&b->host, 2 * PIECES * PIECE, 0));
    memset(b->host, 1, 2 * PIECES * PIECE);
    b->device = backend_ops(be)->alloc(be, 2 * PIECE);
    assert(b->device);
    for (int i = 0; i < 2; i++)
        must(b->stream_create(&b->stream[i], 1 /* CU_STREAM_NON_BLOCKING */));
}

/* Bytes a second, one way (1 up, 2 down) or both (3: of both together). */
static double bus_rate(struct bus *b, int ways)
{
    uint64_t from = sys.now_ns();
    for (int i = 0; i < PIECES; i++) {
        uint8_t *at = (uint8_t *)b->host + i * PIECE; /* blocks lie all over, too: out of no cache */
        if (ways & 1)
            must(b->up((uint64_t)(uintptr_t)b->device, at, PIECE, b->stream[0]));
        if (ways & 2)
            must(b->down(at + PIECES * PIECE, (uint64_t)(uintptr_t)b->device + PIECE, PIECE, b->stream[1]));
    }
    must(b->stream_wait(b->stream[0]));
    must(b->stream_wait(b->stream[1]));
    return (double)(PIECE * PIECES * (ways == 3 ? 2 : 1)) * 1e9 / (double)(sys.now_ns() - from);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_size);
    return x[n / 2];
}

static void sleep_on(int bell)
{
    struct pollfd p = {.fd = bell, .events = POLLIN};
    uint64_t count;
    if (sys.poll(&p, 1, 100) > 0 && sys.read(bell, &count, sizeof count) < 0)
        return;
}

/* -- T3 */

#define RING 128 /* moves under way at most */

struct lane { /* blocks that go one way for ever, or n of them */
    struct tier *tier;
    enum tier_op op;
    uint8_t *memory;
    uint64_t bytes;
    int32_t n_slots, first; /* places in the pool and in memory, from `first` on */
    uint64_t sent, got, most;
    struct tier_move moves[RING];
};

static void lane_push(struct lane *l)
{
    for (; l->sent < l->most && l->sent - l->got < RING; l->sent++) {
        struct tier_move *m = &l->moves[l->sent % RING];
        int32_t at = l->first + (int32_t)(l->sent % (uint64_t)l->n_slots);
        *m = (struct tier_move){.op = l->op, .slot = at, .mem = l->memory + (uint64_t)at * l->bytes, .owner = l};
        if (tier_ops(l->tier)->submit(l->tier, m) != 0)
            return;
    }
}

/* Moves of a lane end in their order. */
static bool lanes_reap(struct tier *t)
{
    struct tier_move *m = tier_ops(t)->reap(t);
    bool any = m;
    for (; m; m = m->next)
        ((struct lane *)m->owner)->got += m->result == 0;
    return any;
}

struct dram {
    struct tier *gpu;
    struct lane up, down;
    uint8_t *memory;
    size_t bytes;
    void *pool;
    int bell;
};

static void dram_open(struct dram *d, struct backend *be, uint64_t block, int32_t n)
{
    static struct seal_key key;
    struct err e = {0};
    seal_key_make(&key, (const uint8_t[32]){1});
    d->bytes = (size_t)n * block;
    d->pool = backend_ops(be)->alloc(be, d->bytes);
    d->memory = mmap(NULL, d->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    d->bell = sys.eventfd(0, 0);
    assert(d->pool && d->memory != MAP_FAILED);
    madvise(d->memory, d->bytes, MADV_HUGEPAGE);
    memset(d->memory, 1, d->bytes);
    struct tier_gpu_opts o = {.be = be, .pool = d->pool, .block_bytes = block, .n_blocks = (uint32_t)n, .key = &key};
    int ret = tier_gpu_open(&d->gpu, &o, &e);
    if (!ret)
        ret = tier_ops(d->gpu)->attach(d->gpu, d->memory, d->bytes, d->bell, &e);
    if (ret) {
        fprintf(stderr, "%s\n", e.text);
        exit(EXIT_FAILURE);
    }
    d->up = (struct lane){
        .tier = d->gpu, .op = TIER_WRITE, .memory = d->memory, .bytes = block, .n_slots = n / 2, .first = 0};
    d->down = d->up;
    d->down.op = TIER_READ;
    d->down.first = n / 2;
}

static void dram_close(struct dram *d, struct backend *be)
{
    tier_close(d->gpu);
    backend_ops(be)->release(be, d->pool, d->bytes);
    munmap(d->memory, d->bytes);
    sys.close(d->bell);
}

/* Bytes a second of n moves each way of `ways`. */
static double dram_rate(struct dram *d, int ways, uint64_t n)
{
    struct lane *l[2] = {&d->up, &d->down};
    uint64_t from = sys.now_ns();
    for (int i = 0; i < 2; i++) {
        l[i]->sent = l[i]->got = 0;
        l[i]->most = ways & 1 << i ? n : 0;
    }
    while (d->up.got < d->up.most || d->down.got < d->down.most) {
        lane_push(&d->up);
        lane_push(&d->down);
        if (!lanes_reap(d->gpu))
            sleep_on(d->bell);
    }
    return (double)(d->up.bytes * n * (ways == 3 ? 2 : 1)) * 1e9 / (double)(sys.now_ns() - from);
}

static struct backend *gpu_open(const struct backend_ops *ops)
{
    struct backend *be;
    struct err e = {0};
    struct backend_opts o = {.max_rows = 16, .max_cols = 256, .max_vocab = 256};
    if (ops->open(&be, &o, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        exit(EXIT_FAILURE);
    }
    return be;
}

static void bench_t3(const struct backend_ops *ops)
{
    static const char *names[] = {"", "up", "down", "both"};
    static const uint64_t sizes[] = {8ull << 20, 4ull << 20, 2ull << 20, 1ull << 20};
    struct backend *be = gpu_open(ops);
    struct bus bus;
    bus_open(&bus, be);
    for (int s = 0; s < 4; s++) {
        struct dram d;
        dram_open(&d, be, sizes[s], (int32_t)((2ull << 30) / sizes[s]));
        uint64_t n = (1ull << 30) / sizes[s];
        dram_rate(&d, 3, n); /* pinned, touched, warm */
        for (int ways = 1; ways <= 3; ways++) {
            double p[PAIRS], t[PAIRS];
            for (int i = 0; i < PAIRS; i++) {
                p[i] = bus_rate(&bus, ways);
                t[i] = dram_rate(&d, ways, n);
            }
            double pm = median(p, PAIRS), tm = median(t, PAIRS);
            printf("{\"row\": \"T3\", \"way\": \"%s\", \"block_MiB\": %llu, \"GBps\": %.1f, \"P_GBps\": %.1f, "
                   "\"ratio\": %.3f, \"gate\": 0.93, \"device\": \"%s\"}\n",
                   names[ways], (unsigned long long)sizes[s] >> 20, tm / GB, pm / GB, tm / pm, ops->describe(be));
            fflush(stdout);
        }
        dram_close(&d, be);
    }
    ops->close(be);
}

/* -- T2 */

#define T2_BLOCK  (4ull << 20) /* 64 tokens of Llama-8B in 8 bits */
#define T2_BLOCKS 500
#define T2_HBM    256
#define T2_DRAM   128
#define T4_QUEUED 16  /* blocks that the writer has before it */
#define T4_ROOM   500 /* for what it writes */

static void ident_of(struct kv_ident *who, const struct hash_key *root, int32_t *ids, uint32_t n)
{
    uint64_t rng = n;
    memset(who, 0, sizeof *who);
    who->root = root;
    who->ids = ids;
    memcpy(who->key.b, &rng, sizeof rng);
    for (int i = 0; i < 4; i++) {
        uint64_t word = rng_next(&rng);
        memcpy(who->key.b + 8 * i, &word, sizeof word);
    }
    for (int i = 0; i < 64; i++)
        ids[i] = (int32_t)(n * 64 + (uint32_t)i);
}

static void turn(struct tiers *t, int bell)
{
    if (!tiers_turn(t, 1))
        sleep_on(bell);
}

static void settle(struct tiers *t, int bell)
{
    while (tiers_busy(t))
        turn(t, bell);
}

/* All blocks go down to the drive. */
static void store_all(struct tiers *t, int bell)
{
    struct hash_key root = {{7}};
    struct kv_ident who;
    int32_t ids[64];
    for (uint32_t i = 0; i < T2_BLOCKS; turn(t, bell)) {
        struct tiers_stats s;
        ident_of(&who, &root, ids, i);
        tiers_get_stats(t, &s);
        if (s.nvme[1].queued < T2_DRAM / 2 &&
            tiers_store(t, &who, (int32_t)(i % T2_HBM), &(struct tiers_worth){.seconds = 1}) == 1)
            i++;
    }
    settle(t, bell);
}

/* The writer has always something to write: content number *fresh and those after it. */
static void keep_writer_busy(struct tiers *t, uint32_t *fresh)
{
    struct hash_key root = {{7}};
    struct kv_ident who;
    int32_t ids[64];
    struct tiers_stats s;
    tiers_get_stats(t, &s);
    if (s.nvme[1].queued >= T4_QUEUED)
        return;
    ident_of(&who, &root, ids, *fresh);
    if (tiers_store(t, &who, T2_HBM, &(struct tiers_worth){.seconds = 1}) == 1)
        ++*fresh;
}

/* fresh: NULL, or the writer is kept busy meanwhile. */
static struct probe_time load_all(struct tiers *t, int bell, uint32_t *fresh)
{
    struct hash_key root = {{7}};
    struct kv_ident who;
    int32_t ids[64];
    uint32_t sent = 0, got = 0, ok = 0, n;
    struct probe_time begin = probe_begin();
    while (got < T2_BLOCKS) {
        for (; sent < T2_BLOCKS && sent - got < T2_HBM; sent++) {
            ident_of(&who, &root, ids, sent);
            tiers_use(t, &who, &(struct tiers_worth){.seconds = 1});
            if (tiers_load(t, &who, (int32_t)(sent % T2_HBM), 0, UINT64_MAX / 2) != 0)
                break;
        }
        if (fresh)
            keep_writer_busy(t, fresh);
        turn(t, bell);
        const struct tiers_outcome *o = tiers_done(t, &n);
        for (uint32_t i = 0; i < n; i++) {
            ok += o[i].load && o[i].ok;
            got += o[i].load;
        }
    }
    struct probe_time spent = probe_end(begin);
    if (ok != T2_BLOCKS)
        printf("T2: %u of %u blocks came\n", ok, T2_BLOCKS);
    return spent;
}

static int open_tiers(struct tiers **t, struct backend *be, void *pool, const char *dir, int bell, struct err *e)
{
    static struct seal_key key;
    struct tier_nvme_opts n = {.dirs = dir, .bytes = (T2_BLOCKS + T4_ROOM) * T2_BLOCK};
    n.shape.block_bytes = n.shape.slot_bytes = T2_BLOCK;
    n.shape.block_tokens = 64;
    n.shape.format = KV_FORMAT_KV8;
    n.aio = (struct aio_opts){.kind = AIO_AUTO, .threads = 8, .bell = bell};
    struct tiers_opts o = {.block_tokens = 64,
                           .format = KV_FORMAT_KV8,
                           .block_bytes = T2_BLOCK,
                           .n_hbm = T2_HBM + 1,
                           .bell = bell,
                           .dram_bytes = T2_DRAM * T2_BLOCK};
    seal_key_make(&key, o.secret);
    struct tier_gpu_opts g = {.be = be, .pool = pool, .block_bytes = T2_BLOCK, .n_blocks = T2_HBM + 1, .key = &key};
    int ret = tier_nvme_open(&o.nvme, &n, e);
    if (!ret)
        ret = tier_gpu_open(&o.gpu, &g, e);
    return ret ? ret : tiers_open(t, &o, e);
}

static double memory_rate(void *a, void *b, size_t n)
{
    uint64_t from = sys.now_ns();
    memcpy(a, b, n);
    return (double)n * 1e9 / (double)(sys.now_ns() - from);
}

static void find_slab(const char *dir, char *out, size_t size)
{
    char cmd[400];
    snprintf(cmd, sizeof cmd, "ls %s/*.slab", dir);
    FILE *f = popen(cmd, "r");
    if (!f || !fgets(out, (int)size, f))
        out[0] = 0;
    out[strcspn(out, "\n")] = 0;
    if (f)
        pclose(f);
}

static void bench_t2(const struct backend_ops *cuda, const char *dir)
{
    const struct backend_ops *ops = cuda ? cuda : &backend_cpu_fast;
    struct backend *be = gpu_open(ops);
    struct tiers *t;
    struct err e = {0};
    struct bus bus;
    char slab[400];
    int bell = sys.eventfd(0, 0);
    void *pool = ops->alloc(be, (T2_HBM + 1) * T2_BLOCK);
    assert(pool);
    if (open_tiers(&t, be, pool, dir, bell, &e) != 0) {
        printf("T2: %s\n", e.text);
        return;
    }
    if (cuda)
        bus_open(&bus, be);
    store_all(t, bell);
    find_slab(dir, slab, sizeof slab);
    struct probe_time r[T2_PAIRS], l[T2_PAIRS], b[T2_PAIRS];
    uint32_t fresh = T2_BLOCKS;
    double p[T2_PAIRS], bytes = (double)T2_BLOCKS * T2_BLOCK;
    load_all(t, bell, NULL); /* what is still in DRAM goes */
    for (int i = 0; i < T2_PAIRS; i++) {
        r[i] = probe_read(slab, T2_BLOCKS * T2_BLOCK, T2_BLOCK, 16);
        p[i] = cuda ? bus_rate(&bus, 1)
                    : memory_rate(pool, (uint8_t *)pool + T2_HBM / 2 * T2_BLOCK, T2_HBM / 2 * T2_BLOCK);
        l[i] = load_all(t, bell, NULL);
        b[i] = load_all(t, bell, &fresh);
        settle(t, bell);
    }
    struct probe_time rm = probe_median(r, T2_PAIRS), lm = probe_median(l, T2_PAIRS), bm = probe_median(b, T2_PAIRS);
    double pm = median(p, T2_PAIRS), least = bytes / rm.seconds < pm ? bytes / rm.seconds : pm;
    struct tiers_stats s;
    tiers_get_stats(t, &s);
    printf(
        "{\"row\": \"T2\", \"blocks\": %u, \"block_MiB\": %llu, \"GBps\": %.2f, \"R_GBps\": %.2f, \"P_GBps\": %.1f, "
        "\"ratio\": %.3f, \"gate\": 0.88, \"cpu_ms_GB\": %.1f, \"from_nvme\": %llu, \"from_dram\": %llu, \"device\": "
        "\"%s\"}\n",
        T2_BLOCKS, (unsigned long long)T2_BLOCK >> 20, bytes / lm.seconds / GB, bytes / rm.seconds / GB, pm / GB,
        bytes / lm.seconds / least, 1e3 * lm.cpu / (bytes / GB), (unsigned long long)s.hit_blocks[TIER_NVME],
        (unsigned long long)s.hit_blocks[TIER_DRAM], ops->describe(be));
    printf("{\"row\": \"T4\", \"GBps\": %.2f, \"alone_GBps\": %.2f, \"ratio\": %.3f, \"gate\": 0.85, "
           "\"stored_meanwhile\": %u}\n",
           bytes / bm.seconds / GB, bytes / lm.seconds / GB, lm.seconds / bm.seconds, fresh - T2_BLOCKS);
    fflush(stdout);
    tiers_close(t);
    ops->release(be, pool, (T2_HBM + 1) * T2_BLOCK);
    ops->close(be);
}

/* -- T7: steps beside moves */

#define T7_SEQS  32
#define T7_CTX   1024
#define T7_STEPS 40

/* Median seconds of a step; with d, while its lanes are kept full. */
static double steps(struct mini *m, struct dram *d)
{
    struct backend *be = mini_backend_of(m);
    const struct backend_ops *ops = backend_ops(be);
    static struct sample_row rows[T7_SEQS];
    static struct sample_out out[2][T7_SEQS];
    double t[T7_STEPS], last = 0;
    int n = 0;
    uint64_t before = 0;
    for (int k = 0; k < T7_SEQS; k++)
        rows[k] = (struct sample_row){.top_p = 1, .repetition = 1, .n_logprobs = -1};
    for (int i = 0; n < T7_STEPS; i++) {
        for (int32_t k = 0; k < T7_SEQS; k++)
            if (i == 0)
                mini_add(m, k, &(int32_t){100 + k}, 1, 0);
            else
                mini_follow(m, k, k);
        uint64_t number = mini_draw(m, rows, out[i % 2]);
        if (d) {
            lanes_reap(d->gpu);
            lane_push(&d->up);
            lane_push(&d->down);
        }
        if (before) {
            ops->step_wait(be, before);
            double now = (double)sys.now_ns() / 1e9;
            if (i > 8)
                t[n++] = now - last;
            last = now;
        }
        before = number;
    }
    ops->sync(be);
    return median(t, n);
}

static void bench_t7(const struct backend_ops *ops, const char *shape)
{
    char source[64];
    snprintf(source, sizeof source, "random:%s", shape);
    struct mini_opts o = {.source = source,
                          .backend = ops,
                          .format = KV_FORMAT_KV16,
                          .max_rows = 512,
                          .n_seqs = T7_SEQS,
                          .ctx = T7_CTX + T7_STEPS + 64,
                          .shuffle = 3};
    struct mini *m;
    struct err e = {0};
    if (mini_open(&m, &o, &e) != 0) {
        printf("T7: %s\n", e.text);
        return;
    }
    struct dram d;
    double alone[PAIRS], beside[PAIRS], moved = 0, spent = 0;
    dram_open(&d, mini_backend_of(m), 8ull << 20, 256);
    dram_rate(&d, 3, 128);
    for (int i = 0; i < PAIRS; i++) {
        mini_pretend(m, T7_CTX);
        alone[i] = steps(m, NULL);
        mini_pretend(m, T7_CTX);
        d.up.sent = d.up.got = d.down.sent = d.down.got = 0;
        d.up.most = d.down.most = UINT64_MAX;
        double from = (double)sys.now_ns() / 1e9;
        beside[i] = steps(m, &d);
        spent += (double)sys.now_ns() / 1e9 - from;
        moved += (double)(d.up.got + d.down.got) * (double)d.up.bytes;
        while (d.up.got < d.up.sent || d.down.got < d.down.sent)
            lanes_reap(d.gpu);
    }
    double a = median(alone, PAIRS), b = median(beside, PAIRS);
    printf("{\"row\": \"T7\", \"what\": \"decode step while swapping\", \"model\": \"%s\", \"alone_ms\": %.3f, "
           "\"beside_ms\": %.3f, "
           "\"ratio\": %.3f, \"gate\": 1.03, \"moved_GBps\": %.1f}\n",
           shape, a * 1e3, b * 1e3, b / a, moved / spent / GB);
    fflush(stdout);
    dram_close(&d, mini_backend_of(m));
    mini_close(m);
}

int main(int argc, char **argv)
{
    char dir[300], cmd[400];
    const struct backend_ops *cuda = ops_cuda("bench_moves");
    if (hash_init_library() != 0)
        return EXIT_FAILURE;
    const char *under = argc > 1 && argv[argc - 1][0] == '/' ? argv[argc - 1] : "/tmp";
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "T3") == 0 && cuda)
            bench_t3(cuda);
        if (strncmp(argv[i], "T7", 2) == 0 && cuda)
            bench_t7(cuda, argv[i][2] == ':' ? argv[i] + 3 : "llama-8b");
        if (strcmp(argv[i], "T2") != 0)
            continue;
        snprintf(dir, sizeof dir, "%s/hearth-moves-XXXXXX", under);
        if (!mkdtemp(dir)) {
            perror(dir);
            return EXIT_FAILURE;
        }
        bench_t2(cuda, dir);
        snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
        if (system(cmd) != 0)
            return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
