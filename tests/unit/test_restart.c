/* test_restart - what a directory holds is found again at open, whatever the order of its slots, while the index is
 * still being read: all that is whole, nothing that is not, of two copies the newer. */
#include "tests/support/tier_rig.h"
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/base/sys.h"
#include "engine/kv/tier_gpu.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096
#define CHAIN 50 /* blocks */

static const struct nvme_shape shape = {
    .block_bytes = BLOCK, .slot_bytes = BLOCK, .block_tokens = 16, .format = KV_FORMAT_KV16};

static struct tier_nvme_opts nvme_opts(const char *dir, uint32_t n)
{
    return (struct tier_nvme_opts){.dirs = dir,
                                   .bytes = (uint64_t)n * (BLOCK + ENTRY_BYTES) + 3 * ENTRY_SECTOR,
                                   .shape = shape,
                                   .aio = {.kind = AIO_THREADS, .bell = -1}};
}

/* Block `depth` of chain `chain`, written as number `generation`. */
static void make_entry(struct kv_entry *e, uint32_t chain, uint32_t depth, uint64_t generation)
{
    static const struct hash_key root = {{9}};
    static bool ready;
    int32_t ids[16];
    if (!ready)
        ck_assert_int_eq(hash_init_library(), 0);
    ready = true;
    struct kv_ident who = {.root = &root, .ids = ids, .depth = depth, .check = chain};
    for (int i = 0; i < 16; i++)
        ids[i] = (int32_t)(chain + (uint32_t)i);
    hash_sha256(&(uint64_t){(uint64_t)chain << 32 | depth}, 8, &who.key);
    hash_sha256(&(uint64_t){(uint64_t)chain << 32 | (depth - 1)}, 8, &who.parent);
    entry_make(e, &who, 16, KV_FORMAT_KV16);
    e->generation = generation;
    e->seal.v[0] = generation; /* tells two writes of a content apart */
    entry_close(e);
}

static void path_of(const char *dir, const char *what, char out[400])
{
    char digest[17];
    nvme_shape_digest(&shape, digest);
    snprintf(out, 400, "%s/kv1-%s.%s", dir, digest, what);
}

/* Files for n slots with these entries. */
static void make_files(const char *dir, const struct kv_entry *all, uint32_t n)
{
    struct tier *tier;
    struct err e = {0};
    char path[400];
    struct tier_nvme_opts o = nvme_opts(dir, n);
    ck_assert_msg(tier_nvme_open(&tier, &o, &e) == 0, "%s", e.text);
    tier_close(tier);
    path_of(dir, "slab", path);
    ck_assert_int_eq(truncate(path, (off_t)n * BLOCK), 0);
    path_of(dir, "index", path);
    int fd = sys.open(path, O_WRONLY, 0);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(sys.pwrite(fd, all, n * sizeof *all, ENTRY_SECTOR), (ssize_t)(n * sizeof *all));
    sys.close(fd);
}

static struct tiers *open_tiers(const char *dir, uint32_t n)
{
    static const struct seal_key key;
    struct tier_nvme_opts no = nvme_opts(dir, n);
    struct tier_gpu_opts g = {.n_blocks = 4, .block_bytes = BLOCK, .key = &key};
    struct tiers_opts o = {.block_tokens = 16,
                           .format = KV_FORMAT_KV16,
                           .block_bytes = BLOCK,
                           .n_hbm = 4,
                           .bell = -1,
                           .dram_bytes = 8 * BLOCK,
                           .no_bytes = true};
    struct tiers *t;
    struct err e = {0};
    ck_assert_msg(tier_nvme_open(&o.nvme, &no, &e) == 0, "%s", e.text);
    ck_assert_int_eq(tier_gpu_open(&o.gpu, &g, &e), 0);
    ck_assert_msg(tiers_open(&t, &o, &e) == 0, "%s", e.text);
    tiers_check(t);
    return t;
}

/* The newest copy of it that is known; NULL: none. */
static const struct kv_entry *found(struct tiers *t, const struct kv_entry *e)
{
    struct hash_key root = {{9}};
    return tiers_named(t, &e->key, &root, e->depth);
}

static struct kv_entry *entries(uint32_t n)
{
    struct kv_entry *all = calloc(n, sizeof *all);
    ck_assert_ptr_nonnull(all);
    return all;
}

static void shuffle(struct kv_entry *all, uint32_t n, uint64_t seed)
{
    for (uint32_t i = n - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(rng_next(&seed) % (i + 1));
        struct kv_entry x = all[i];
        all[i] = all[j];
        all[j] = x;
    }
}

/* Enough for every thread to read a piece. A tenth is damaged in one bit, a tenth free. */
START_TEST(test_restart_finds_what_is_whole_in_a_large_index_and_nothing_else)
{
    enum { N = 60000 };
    struct kv_entry *all = entries(N);
    uint64_t seed = unit_seed("index");
    uint32_t damaged = 0, whole = 0;
    for (uint32_t i = 0; i < N; i++)
        make_entry(&all[i], i / CHAIN, i % CHAIN, i + 1);
    shuffle(all, N, seed);
    for (uint32_t i = 0; i < N; i++) {
        uint32_t what = (uint32_t)(rng_next(&seed) % 10);
        if (what == 0)
            memset(&all[i], 0, sizeof all[i]);
        else if (what == 1)
            ((uint8_t *)&all[i])[rng_next(&seed) % ENTRY_BYTES] ^= (uint8_t)(1 << rng_next(&seed) % 8);
        damaged += what == 1;
        whole += what > 1;
    }
    const char *dir = rig_dir();
    make_files(dir, all, N);
    struct tiers *t = open_tiers(dir, N);
    struct tier_nvme_stats s;
    struct tiers_stats st;
    tier_nvme_get_stats(t->nvme, &s);
    tiers_get_stats(t, &st);
    ck_assert_uint_eq(s.damaged, damaged);
    ck_assert_uint_eq(st.nvme_used, whole);
    uint32_t named = 0;
    for (uint32_t i = 0; i < N; i++) {
        struct kv_entry e;
        make_entry(&e, i / CHAIN, i % CHAIN, 0);
        named += found(t, &e) != NULL;
    }
    ck_assert_uint_eq(named, whole);
    uint32_t room = 0; /* what is free can be taken, and nothing else */
    while (tier_ops(t->nvme)->take(t->nvme, 0) >= 0)
        room++;
    ck_assert_uint_eq(room, s.max_slots - whole);
    tiers_close(t);
    free(all);
}
END_TEST

static off_t bad_from;

static ssize_t pread_with_a_hole(int fd, void *buf, size_t n, off_t off)
{
    if (n > ENTRY_SECTOR && off >= bad_from && off < bad_from + (4 << 20)) {
        errno = EIO;
        return -1;
    }
    return pread(fd, buf, n, off);
}

START_TEST(test_restart_without_a_piece_of_the_index_has_the_rest)
{
    enum { N = 60000, PIECE = (4 << 20) / ENTRY_BYTES };
    struct kv_entry *all = entries(N);
    for (uint32_t i = 0; i < N; i++)
        make_entry(&all[i], i / CHAIN, i % CHAIN, i + 1);
    const char *dir = rig_dir();
    make_files(dir, all, N);
    bad_from = ENTRY_SECTOR + (4 << 20);
    sys.pread = pread_with_a_hole;
    struct tiers *t = open_tiers(dir, N);
    sys.pread = pread;
    struct tiers_stats st;
    tiers_get_stats(t, &st);
    ck_assert_uint_eq(st.nvme_used, N - PIECE);
    ck_assert_ptr_nonnull(found(t, &all[0]));
    ck_assert_ptr_null(found(t, &all[PIECE]));
    ck_assert_ptr_null(found(t, &all[2 * PIECE - 1]));
    ck_assert_ptr_nonnull(found(t, &all[2 * PIECE]));
    tiers_close(t);
    free(all);
}
END_TEST

START_TEST(test_restart_keeps_the_newer_of_two_copies_wherever_they_lie)
{
    for (int order = 0; order < 8; order++) {
        struct kv_entry all[6], *a = &all[order & 1 ? 1 : 4], *b = &all[order & 1 ? 4 : 1];
        memset(all, 0, sizeof all);
        bool with_parent = order & 2;
        if (with_parent) /* before both, or after both: then they have to wait for it */
            make_entry(&all[order & 4 ? 0 : 5], 1, 0, 5);
        make_entry(a, 1, 1, 10);
        make_entry(b, 1, 1, 11);
        const char *dir = rig_dir();
        make_files(dir, all, 6);
        struct tiers *t = open_tiers(dir, 6);
        struct tiers_stats st;
        tiers_get_stats(t, &st);
        ck_assert_uint_eq(st.nvme_used, 1 + with_parent);
        const struct kv_entry *e = found(t, b);
        ck_assert_ptr_nonnull(e);
        ck_assert_uint_eq(e->generation, 11);
        ck_assert_uint_eq(e->seal.v[0], 11);
        tiers_close(t);
        t = open_tiers(dir, 6); /* the older one is gone from the file, too, or loses again */
        tiers_get_stats(t, &st);
        ck_assert_uint_eq(st.nvme_used, 1 + with_parent);
        tiers_close(t);
    }
}
END_TEST

/* Chains in any order of slots: what is given up first is never a parent of what is still there. */
START_TEST(test_restart_knows_chains_whatever_the_order_of_their_slots)
{
    enum { N = 4 * CHAIN };
    struct kv_entry *all = entries(N);
    for (int order = 0; order < 3; order++) {
        for (uint32_t i = 0; i < N; i++)
            make_entry(&all[order == 1 ? N - 1 - i : i], i / CHAIN, i % CHAIN, i + 1);
        if (order == 2)
            shuffle(all, N, unit_seed("slots"));
        const char *dir = rig_dir();
        make_files(dir, all, N);
        struct tiers *t = open_tiers(dir, N);
        uint32_t left[4] = {CHAIN, CHAIN, CHAIN, CHAIN};
        for (int i = 0; i < N; i++) {
            int32_t slot = evict_pick(t->in_nvme, sys.now_ns() / 1000);
            ck_assert_int_ge(slot, 0);
            const struct kv_entry *e = tier_ops(t->nvme)->entry(t->nvme, slot);
            ck_assert_uint_eq(e->depth, --left[e->check]); /* the last of its chain */
            evict_remove(t->in_nvme, slot);
        }
        tiers_close(t);
    }
    free(all);
}
END_TEST

/* Nobody is a parent of itself, whatever the index says: all are given up in the end. */
START_TEST(test_restart_gives_up_blocks_that_name_each_other_as_parent)
{
    enum { N = 6 };
    struct kv_entry all[N];
    for (uint32_t depth = 1; depth <= 2; depth++) {
        for (uint32_t i = 0; i < N; i++)
            make_entry(&all[i], i, i % 2 ? depth : 1, i + 1);
        for (uint32_t i = 0; i < N; i++) {
            all[i].parent = all[i ^ 1].key;
            entry_close(&all[i]);
        }
        const char *dir = rig_dir();
        make_files(dir, all, N);
        struct tiers *t = open_tiers(dir, N);
        for (int i = 0; i < N; i++) {
            int32_t slot = evict_pick(t->in_nvme, sys.now_ns() / 1000);
            ck_assert_int_ge(slot, 0);
            evict_remove(t->in_nvme, slot);
        }
        tiers_close(t);
    }
}
END_TEST

/* Chains of one block, so that only their age counts. */
START_TEST(test_restart_gives_up_the_oldest_first)
{
    enum { N = 300 };
    struct kv_entry *all = entries(N);
    uint64_t now = (uint64_t)sys.wall_s() * 1000000, day = 86400000000u;
    for (uint32_t i = 0; i < N; i++)
        make_entry(&all[i], i, 0, now - (uint64_t)(N - i) * (day / 100));
    shuffle(all, N, unit_seed("ages"));
    const char *dir = rig_dir();
    make_files(dir, all, N);
    struct tiers *t = open_tiers(dir, N);
    for (uint32_t i = 0; i < N; i++) {
        int32_t slot = evict_pick(t->in_nvme, sys.now_ns() / 1000);
        ck_assert_int_ge(slot, 0);
        ck_assert_uint_eq(tier_ops(t->nvme)->entry(t->nvme, slot)->check, i);
        evict_remove(t->in_nvme, slot);
    }
    tiers_close(t);
    free(all);
}
END_TEST

UNIT_MAIN("restart", test_restart_finds_what_is_whole_in_a_large_index_and_nothing_else,
          test_restart_without_a_piece_of_the_index_has_the_rest,
          test_restart_keeps_the_newer_of_two_copies_wherever_they_lie,
          test_restart_knows_chains_whatever_the_order_of_their_slots,
          test_restart_gives_up_blocks_that_name_each_other_as_parent, test_restart_gives_up_the_oldest_first)
