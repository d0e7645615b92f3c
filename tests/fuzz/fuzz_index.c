/* fuzz_index - any bytes in the files of a directory of the NVMe tier: it opens or says why not, within bounds, and of
 * what is brought up from there nothing is accepted that is not what was written.
 *
 * The files are good ones (16 contents, two layouts) after edits that the input tells, each an operation, a file, and
 * two numbers: bytes changed, files cut, stretched, removed or replaced by links, entries moved about, and CRCs made
 * right afterwards, as somebody would who knows the format but not the secret.
 */
#include "engine/base/crc.h"
#include "engine/base/hash.h"
#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "engine/compute/backend.h"
#include "engine/engine.h"
#include "engine/kv/tier_gpu.h"
#include "engine/kv/tier_nvme.h"
#include "engine/kv/tiers.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N      16
#define BLOCK  4096
#define TOKENS 16
#define HEADER ENTRY_SECTOR
#define INDEX  (HEADER + N * ENTRY_BYTES)
#define SLAB   (N * BLOCK)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(bool ok)
{
    if (!ok)
        abort();
}

enum file { F_INDEX, F_SLAB, F_SECRET, F_OTHER, FILES };
enum edit { E_BYTES, E_SIZE, E_CRC_HEADER, E_CRC_ENTRY, E_COPY, E_REMOVE, E_LINK, E_WORD, EDITS };

/* What is there before the edits. */
static struct {
    char dir[64], path[FILES][200];
    struct nvme_shape shape;
    struct hash_key root;
    int32_t ids[N][TOKENS];
    struct kv_ident who[N];
    uint8_t payload[N][BLOCK];
    uint8_t bytes[FILES][SLAB];
    size_t size[FILES];
    struct seal_key key;
    struct backend *be;
    uint8_t *pool;
} good;

static void remove_folder(void)
{
    char cmd[100];
    snprintf(cmd, sizeof cmd, "rm -rf %s", good.dir);
    if (system(cmd) != 0)
        perror(good.dir);
}

static struct tier_nvme_opts opts(void)
{
    struct tier_nvme_opts o = {.dirs = good.dir,
                               .bytes = N * (BLOCK + ENTRY_BYTES) + 2 * ENTRY_SECTOR + (256 << 10),
                               .shape = good.shape,
                               .aio = {.kind = AIO_THREADS, .bell = -1}};
    memset(o.secret, 7, sizeof o.secret);
    return o;
}

static void read_file(enum file f)
{
    int fd = sys.open(good.path[f], O_RDONLY, 0);
    ssize_t n = fd < 0 ? -1 : sys.pread(fd, good.bytes[f], SLAB, 0);
    must(n > 0);
    good.size[f] = (size_t)n;
    sys.close(fd);
}

static void name_files(void)
{
    char digest[17];
    nvme_shape_digest(&good.shape, digest);
    snprintf(good.path[F_INDEX], 200, "%s/kv1-%s.index", good.dir, digest);
    snprintf(good.path[F_SLAB], 200, "%s/kv1-%s.slab", good.dir, digest);
    snprintf(good.path[F_SECRET], 200, "%s/hearth.secret", good.dir);
    snprintf(good.path[F_OTHER], 200, "%s/kv1-0123456789abcdef.slab", good.dir);
}

/* Block i of one chain. */
static void make_content(uint32_t i)
{
    struct kv_ident *w = &good.who[i];
    struct kv_entry e;
    for (int k = 0; k < TOKENS; k++)
        good.ids[i][k] = (int32_t)(i * TOKENS + (uint32_t)k);
    *w = (struct kv_ident){.root = &good.root, .ids = good.ids[i], .depth = i};
    w->parent = i ? good.who[i - 1].key : good.root;
    w->check = entry_check(i ? good.who[i - 1].check : 0, &good.root, w->ids, TOKENS);
    hash_sha256(&i, sizeof i, &w->key);
    for (int k = 0; k < BLOCK; k++)
        good.payload[i][k] = (uint8_t)(i * 31 + (uint32_t)k * 7 + ((uint32_t)k >> 8));
    entry_make(&e, w, TOKENS, KV_FORMAT_KV16);
    e.generation = i + 1;
    seal_make(&good.key, good.payload[i], BLOCK, &e.seal);
    entry_close(&e);
    memcpy(good.bytes[F_INDEX] + HEADER + i * ENTRY_BYTES, &e, sizeof e);
    memcpy(good.bytes[F_SLAB] + i * BLOCK, good.payload[i], BLOCK);
}

static void make_good(void)
{
    struct tier *t;
    struct err e;
    struct backend_opts bo = {.max_rows = 16, .max_cols = 64, .max_vocab = 64};
    log_set_level(LOG_ERROR);
    snprintf(good.dir, sizeof good.dir, "%s/hearth-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    must(hash_init_library() == 0 && mkdtemp(good.dir));
    atexit(remove_folder);
    good.shape = (struct nvme_shape){.block_bytes = BLOCK,
                                     .slot_bytes = BLOCK,
                                     .block_tokens = TOKENS,
                                     .format = KV_FORMAT_KV16,
                                     .n_layers = 1,
                                     .n_kv_heads = 1,
                                     .head_dim = 64};
    name_files();
    struct tier_nvme_opts o = opts();
    must(tier_nvme_open(&t, &o, &e) == 0); /* for the header and the secret */
    tier_close(t);
    read_file(F_INDEX);
    read_file(F_SECRET);
    seal_key_make(&good.key, o.secret);
    for (uint32_t i = 0; i < N; i++)
        make_content(i);
    good.size[F_INDEX] = INDEX;
    good.size[F_SLAB] = SLAB;
    good.size[F_OTHER] = BLOCK;
    must(backend_cpu_ref.open(&good.be, &bo, &e) == 0);
    good.pool = backend_cpu_ref.alloc(good.be, SLAB);
    must(good.pool);
}

/* -- edits */

static uint8_t now[FILES][SLAB];

static void fix_crc(enum file f, uint32_t i)
{
    uint32_t crc;
    if (i == 0) { /* of the header: its last four bytes */
        crc = crc32c(now[F_INDEX], HEADER - 4);
        memcpy(now[F_INDEX] + HEADER - 4, &crc, 4);
    } else {
        struct kv_entry e;
        uint8_t *at = now[F_INDEX] + HEADER + (i - 1) % N * ENTRY_BYTES;
        memcpy(&e, at, sizeof e);
        entry_close(&e);
        memcpy(at, &e, sizeof e);
    }
    (void)f;
}

/* One edit from data; returns the bytes of it. */
static size_t edit(const uint8_t *d, size_t n, uint64_t size[FILES])
{
    if (n < 5)
        return n;
    enum file f = d[0] / EDITS % FILES;
    uint32_t a = (uint32_t)d[1] | (uint32_t)d[2] << 8, b = d[3], len = d[4] % 32;
    switch ((enum edit)(d[0] % EDITS)) {
    case E_BYTES:
        len = len < n - 5 ? len : (uint32_t)(n - 5);
        memcpy(now[f] + a % (SLAB - 32), d + 5, len);
        return 5 + len;
    case E_WORD: /* a number of the header, or of an entry */
        memcpy(now[F_INDEX] + (b % 2 ? HEADER + a % (N * ENTRY_BYTES - 8) : a % 64), d + 4, n < 12 ? 1 : 8);
        return n < 12 ? 5 : 12;
    case E_SIZE:
        size[f] = (uint64_t)a << (b % (f == F_INDEX ? 12 : 28)); /* kv-check reads all of an index */
        break;
    case E_CRC_HEADER:
        fix_crc(f, 0);
        break;
    case E_CRC_ENTRY:
        fix_crc(f, 1 + a % N);
        break;
    case E_COPY: /* an entry to another slot, or a payload */
        if (f == F_INDEX)
            memmove(now[f] + HEADER + b % N * ENTRY_BYTES, now[f] + HEADER + a % N * ENTRY_BYTES, ENTRY_BYTES);
        else
            memmove(now[F_SLAB] + b % N * BLOCK, now[F_SLAB] + a % N * BLOCK, BLOCK);
        break;
    case E_REMOVE:
        size[f] = UINT64_MAX;
        break;
    case E_LINK:
        size[f] = UINT64_MAX - 1;
        break;
    case EDITS:
        break;
    }
    return 5;
}

static void put_file(enum file f, uint64_t size)
{
    unlink(good.path[f]);
    if (size == UINT64_MAX)
        return;
    if (size == UINT64_MAX - 1) {
        must(symlink(f == F_SLAB ? good.path[F_INDEX] : "/dev/zero", good.path[f]) == 0);
        return;
    }
    int fd = sys.open(good.path[f], O_RDWR | O_CREAT, 0600);
    uint64_t n = size < good.size[f] ? size : good.size[f];
    must(fd >= 0 && sys.pwrite(fd, now[f], n, 0) == (ssize_t)n);
    if (size != n)
        must(sys.ftruncate(fd, (off_t)size) == 0); /* holes: they take no room */
    sys.close(fd);
}

static void put_files(const uint8_t *data, size_t n)
{
    uint64_t size[FILES];
    memcpy(now, good.bytes, sizeof now);
    for (int f = 0; f < FILES; f++)
        size[f] = good.size[f];
    for (size_t at = 0; at < n;)
        at += edit(data + at, n - at, size);
    for (int f = 0; f < FILES; f++) {
        if (size[f] < SLAB) /* what is cut off is zeros when the file grows again */
            memset(now[f] + size[f], 0, SLAB - size[f]);
        put_file(f, size[f]);
    }
}

/* -- what must hold */

/* Does the file name this content in an entry whose CRC is right? */
static bool is_named(const struct kv_ident *who)
{
    for (int k = 0; k < N; k++) {
        struct kv_entry e;
        memcpy(&e, now[F_INDEX] + HEADER + k * ENTRY_BYTES, sizeof e);
        uint32_t crc = e.crc;
        entry_close(&e);
        if (e.crc == crc && e.block_tokens == TOKENS && entry_is(&e, who))
            return true;
    }
    return false;
}

static void bring_up(struct tiers *t)
{
    uint32_t n;
    for (int i = 0; i < N; i++) {
        memset(good.pool + i * BLOCK, 0xee, BLOCK);
        must(!tiers_where(t, &good.who[i]) || is_named(&good.who[i]));
        if (!tiers_where(t, &good.who[i]) || tiers_load(t, &good.who[i], i, 0, UINT64_MAX / 2) != 0)
            continue;
        const struct tiers_outcome *o = NULL;
        for (int turn = 0; turn < 8 && !o; turn++) {
            tiers_turn(t, 1);
            o = tiers_done(t, &n);
            o = n ? o : NULL;
        }
        must(o && n == 1 && o->block == i);
        must(!o->ok || memcmp(good.pool + i * BLOCK, good.payload[i], BLOCK) == 0);
    }
    tiers_check(t);
}

static void open_and_use(void)
{
    struct err e = {0};
    struct tier_nvme_opts no = opts();
    struct tiers_opts o = {.block_tokens = TOKENS,
                           .format = KV_FORMAT_KV16,
                           .block_bytes = BLOCK,
                           .n_hbm = N,
                           .bell = -1,
                           .dram_bytes = (N / 2) * BLOCK};
    struct tier_gpu_opts g = {.be = good.be, .pool = good.pool, .block_bytes = BLOCK, .n_blocks = N, .key = &good.key};
    struct tiers *t = NULL;
    if (tier_nvme_open(&o.nvme, &no, &e) != 0) {
        must(e.code > 0 && e.text[0]);
        return;
    }
    must(tier_gpu_open(&o.gpu, &g, &e) == 0);
    must(tiers_open(&t, &o, &e) == 0);
    tiers_check(t);
    bring_up(t);
    tiers_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct str report = {0};
    struct err e = {0};
    if (!good.be)
        make_good();
    put_files(data, n);
    if (engine_kv_check(good.dir, &report, &e) < 0)
        must(e.text[0]);
    str_fini(&report);
    open_and_use();
    return 0;
}
