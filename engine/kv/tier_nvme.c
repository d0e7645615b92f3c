/* tier_nvme - see tier_nvme.h.
 *
 * Slot s of the tier is slot s / N of drive s mod N. An operation is one move under way; a sector of an index has at
 * most one write under way, of a copy, and operations whose entries came after that copy wait for the next.
 */
#include "engine/kv/tier_nvme.h"

#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "engine/kv/nvme_slab.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define IN_FLIGHT   (32ull << 20) /* bytes under way a drive, at least 4 slots */
#define LEAST_SHARE 4             /* a layout gets a fourth of the bytes, whatever others had */
#define MAX_OPS     256
#define MAX_SECTORS 32 /* index sectors being written at once */
#define PROBE_BYTES (32ull << 20)

enum op_phase { OP_FREE, OP_READ, OP_PAYLOAD, OP_ENTRY_WAITS, OP_ENTRY };

struct drive {
    struct nvme_dir dir;
    struct nvme_slab slab;
    struct nvme_index index;
    uint8_t *dirty;         /* [sectors] changed and not written since */
    uint32_t n_dirty, scan; /* scan: where to look for the next dirty one */
    uint8_t *writing;       /* [sectors] */
    uint32_t in_flight, depth;
};

struct op {
    struct aio_req req;
    struct tier_move *move;
    struct drive *drive;
    uint32_t local; /* slot of the drive */
    uint8_t phase;  /* enum op_phase */
};

struct sector_write {
    struct aio_req req;
    struct drive *drive;
    uint32_t sector;
    bool busy;
};

struct sync_write {
    struct aio_req req;
    bool busy;
};

struct tier_nvme {
    struct tier_head head;
    struct nvme_shape shape;
    struct aio *aio;
    uint32_t n_drives, n_lost;
    bool settled; /* all indexes are read */
    struct drive drives[TIER_NVME_DRIVES];
    struct op ops[MAX_OPS];
    uint32_t n_ops;
    struct sector_write sectors[MAX_SECTORS];
    uint8_t *sector_bytes; /* [MAX_SECTORS][ENTRY_SECTOR] */
    struct tier_move *done, **last;
    /* flush: counts of finished writes */
    struct sync_write syncs[2 * TIER_NVME_DRIVES];
    uint32_t n_syncs;
    bool sync_failed;
    uint64_t written, flushed, flushing;
};

static struct tier_nvme *nvme_of(struct tier *t)
{
    return (struct tier_nvme *)(void *)t;
}

static struct drive *drive_of(struct tier_nvme *t, int32_t slot)
{
    return &t->drives[(uint32_t)slot % t->n_drives];
}

static uint32_t local_of(const struct tier_nvme *t, int32_t slot)
{
    return (uint32_t)slot / t->n_drives;
}

/* -- sectors of the index */

static void make_dirty(struct drive *d, uint32_t local)
{
    uint32_t sector = nvme_index_sector(local);
    d->n_dirty += !d->dirty[sector];
    d->dirty[sector] = 1;
}

/* Write a sector as it is now. False: not now. */
static bool write_sector(struct tier_nvme *t, struct drive *d, uint32_t sector)
{
    struct sector_write *w = t->sectors;
    if (d->writing[sector])
        return false;
    while (w < t->sectors + MAX_SECTORS && w->busy)
        w++;
    if (w == t->sectors + MAX_SECTORS)
        return false;
    void *buf = t->sector_bytes + (size_t)(w - t->sectors) * ENTRY_SECTOR;
    uint64_t off = nvme_index_copy(&d->index, sector, buf);
    w->req = (struct aio_req){
        .op = AIO_WRITE, .fd = d->index.fd, .buf = buf, .bytes = ENTRY_SECTOR, .off = off, .owner = w};
    if (aio_submit(t->aio, &w->req) != 0)
        return false;
    w->drive = d;
    w->sector = sector;
    w->busy = true;
    d->writing[sector] = 1;
    d->n_dirty -= d->dirty[sector];
    d->dirty[sector] = 0;
    return true;
}

static void end_op(struct tier_nvme *t, struct op *op, int result)
{
    struct tier_move *m = op->move;
    m->result = result;
    m->ns = sys.now_ns() - m->submitted_ns;
    m->next = NULL;
    *t->last = m;
    t->last = &m->next;
    if (m->op == TIER_WRITE && result) {
        nvme_index_clear(&op->drive->index, op->local);
        make_dirty(op->drive, op->local);
        op->drive->slab.bad[op->local] = result == -EIO;
    }
    t->written += m->op == TIER_WRITE;
    op->phase = OP_FREE;
    op->drive->in_flight--;
    t->n_ops--;
}

/* Entries that wait for their sector: the copy that is written now has all of them. */
static void push_entry(struct tier_nvme *t, struct op *op)
{
    uint32_t sector = nvme_index_sector(op->local);
    if (!write_sector(t, op->drive, sector))
        return;
    for (struct op *o = t->ops; o < t->ops + MAX_OPS; o++)
        if (o->phase == OP_ENTRY_WAITS && o->drive == op->drive && nvme_index_sector(o->local) == sector)
            o->phase = OP_ENTRY;
}

static void sector_came(struct tier_nvme *t, struct sector_write *w)
{
    struct drive *d = w->drive;
    w->busy = false;
    d->writing[w->sector] = 0;
    for (struct op *o = t->ops; o < t->ops + MAX_OPS; o++)
        if (o->phase == OP_ENTRY && o->drive == d && nvme_index_sector(o->local) == w->sector)
            end_op(t, o, w->req.result);
}

static void payload_came(struct tier_nvme *t, struct op *op)
{
    if (op->phase == OP_READ || op->req.result) {
        end_op(t, op, op->req.result);
        return;
    }
    nvme_index_put(&op->drive->index, op->local, op->move->entry);
    make_dirty(op->drive, op->local);
    op->phase = OP_ENTRY_WAITS;
    push_entry(t, op);
}

/* Entries that could not be written at once, then sectors where something was forgotten, when there is nothing else to
 * do. */
static void write_what_waits(struct tier_nvme *t)
{
    for (struct op *o = t->ops; t->n_ops > 0 && o < t->ops + MAX_OPS; o++)
        if (o->phase == OP_ENTRY_WAITS)
            push_entry(t, o);
    for (uint32_t i = 0; t->n_ops == 0 && i < t->n_drives; i++) {
        struct drive *d = &t->drives[i];
        uint32_t n = nvme_index_sector(d->index.n_slots + ENTRY_PER_SECTOR - 1);
        for (uint32_t looked = 0; d->n_dirty > 0 && looked < n; looked++, d->scan = (d->scan + 1) % n)
            if (d->dirty[d->scan] && !write_sector(t, d, d->scan))
                break;
    }
}

/* -- the end of open: indexes are read while their first entries are used already */

/* Bytes a second from the first slots of a drive that has some; 0 where there is nothing to read. */
static uint64_t probe_read(const struct tier_nvme *t, const struct drive *d)
{
    uint64_t bytes = (uint64_t)d->slab.n_slots * t->shape.slot_bytes, done = 0;
    if (bytes < PROBE_BYTES)
        return 0;
    void *buf = sys.mmap(NULL, PROBE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buf == MAP_FAILED)
        return 0;
    uint64_t from = sys.now_ns();
    for (ssize_t n = 1; done < PROBE_BYTES && n > 0; done += n > 0 ? (uint64_t)n : 0)
        n = sys.pread(d->slab.fd, (uint8_t *)buf + done, PROBE_BYTES - done, (off_t)done);
    uint64_t ns = sys.now_ns() - from;
    sys.munmap(buf, PROBE_BYTES);
    return done == PROBE_BYTES && ns > 0 ? (uint64_t)((double)done * 1e9 / (double)ns) : 0;
}

static void settle_drive(struct tier_nvme *t, struct drive *d)
{
    uint64_t bps = nvme_index_settle(&d->index);
    for (uint32_t i = d->slab.n_slots; i-- > 0;)
        if (!nvme_index_get(&d->index, i))
            nvme_slab_give(&d->slab, (int32_t)i);
    t->head.read_bps += bps ? bps : probe_read(t, d);
}

static void nvme_settle(struct tier *tier)
{
    struct tier_nvme *t = nvme_of(tier);
    if (t->settled)
        return;
    t->settled = true;
    for (uint32_t i = 0; i < t->n_drives; i++)
        settle_drive(t, &t->drives[i]);
    struct tier_nvme_stats s;
    tier_nvme_get_stats(tier, &s);
    log_info("tier open", "tier=nvme drives=%u lost=%u slots=%llu of=%llu damaged=%llu io=%s direct=%d read_mb_s=%llu",
             s.drives, s.lost_drives, (unsigned long long)s.slots, (unsigned long long)s.max_slots,
             (unsigned long long)s.damaged, s.aio, s.direct, (unsigned long long)(t->head.read_bps / 1000000));
}

/* -- the tier's verbs */

static int nvme_submit(struct tier *tier, struct tier_move *m)
{
    struct tier_nvme *t = nvme_of(tier);
    struct drive *d = drive_of(t, m->slot);
    struct op *op = t->ops;
    nvme_settle(tier);
    if (d->in_flight >= d->depth || t->n_ops == MAX_OPS)
        return -EAGAIN;
    while (op->phase != OP_FREE)
        op++;
    op->local = local_of(t, m->slot);
    op->req = (struct aio_req){.op = m->op == TIER_READ ? AIO_READ : AIO_WRITE,
                               .fd = d->slab.fd,
                               .buf = m->mem,
                               .bytes = t->shape.slot_bytes,
                               .off = nvme_slab_offset(&d->slab, (int32_t)op->local),
                               .copied = d->slab.copied,
                               .owner = op};
    m->submitted_ns = sys.now_ns();
    if (aio_submit(t->aio, &op->req) != 0)
        return -EAGAIN;
    op->move = m;
    op->drive = d;
    op->phase = m->op == TIER_READ ? OP_READ : OP_PAYLOAD;
    d->in_flight++;
    t->n_ops++;
    return 0;
}

static void sync_came(struct tier_nvme *t, struct sync_write *s)
{
    s->busy = false;
    t->sync_failed |= s->req.result != 0;
    if (--t->n_syncs == 0 && !t->sync_failed)
        t->flushed = t->flushing;
}

static struct tier_move *nvme_reap(struct tier *tier)
{
    struct tier_nvme *t = nvme_of(tier);
    for (struct aio_req *r = aio_reap(t->aio), *next; r; r = next) {
        next = r->next;
        if (r->op == AIO_SYNC)
            sync_came(t, r->owner);
        else if ((uint8_t *)r->owner >= (uint8_t *)t->sectors &&
                 (uint8_t *)r->owner < (uint8_t *)(t->sectors + MAX_SECTORS))
            sector_came(t, r->owner);
        else
            payload_came(t, r->owner);
    }
    write_what_waits(t);
    struct tier_move *list = t->done;
    t->done = NULL;
    t->last = &t->done;
    return list;
}

static int nvme_attach(struct tier *tier, void *memory, size_t bytes, int bell, struct err *e)
{
    aio_attach(nvme_of(tier)->aio, memory, bytes);
    return 0;
}

static int32_t nvme_take(struct tier *tier, uint64_t stripe)
{
    struct tier_nvme *t = nvme_of(tier);
    nvme_settle(tier);
    for (uint32_t i = 0; i < t->n_drives; i++) {
        uint32_t n = (uint32_t)((stripe + i) % t->n_drives);
        int32_t local = nvme_slab_take(&t->drives[n].slab);
        if (local >= 0)
            return (int32_t)((uint32_t)local * t->n_drives + n);
    }
    return -1;
}

static void nvme_give(struct tier *tier, int32_t slot)
{
    struct tier_nvme *t = nvme_of(tier);
    nvme_settle(tier);
    nvme_slab_give(&drive_of(t, slot)->slab, (int32_t)local_of(t, slot));
}

static void nvme_forget(struct tier *tier, int32_t slot)
{
    struct tier_nvme *t = nvme_of(tier);
    struct drive *d = drive_of(t, slot);
    nvme_settle(tier);
    if (!nvme_index_get(&d->index, local_of(t, slot)))
        return;
    nvme_index_clear(&d->index, local_of(t, slot));
    make_dirty(d, local_of(t, slot));
}

static const struct kv_entry *nvme_entry(struct tier *tier, int32_t slot)
{
    struct tier_nvme *t = nvme_of(tier);
    const struct drive *d = drive_of(t, slot);
    uint32_t local = local_of(t, slot);
    return local < d->index.n_slots ? nvme_index_get(&d->index, local) : NULL;
}

static void start_sync(struct tier_nvme *t, int fd)
{
    struct sync_write *s = &t->syncs[t->n_syncs];
    s->req = (struct aio_req){.op = AIO_SYNC, .fd = fd, .owner = s};
    if (aio_submit(t->aio, &s->req) != 0) {
        t->sync_failed = true; /* the queue is full: the next call tries again */
        return;
    }
    s->busy = true;
    t->n_syncs++;
}

static bool nvme_flush(struct tier *tier)
{
    struct tier_nvme *t = nvme_of(tier);
    if (t->n_syncs == 0 && t->flushed == t->written)
        return true;
    if (t->n_syncs > 0)
        return false;
    t->sync_failed = false;
    t->flushing = t->written;
    for (uint32_t i = 0; i < t->n_drives && !t->sync_failed; i++) {
        start_sync(t, t->drives[i].slab.fd);
        if (!t->sync_failed)
            start_sync(t, t->drives[i].index.fd);
    }
    return false;
}

void tier_nvme_get_stats(struct tier *tier, struct tier_nvme_stats *out)
{
    struct tier_nvme *t = nvme_of(tier);
    nvme_settle(tier);
    *out = (struct tier_nvme_stats){
        .drives = t->n_drives, .lost_drives = t->n_lost, .aio = aio_name(t->aio), .direct = true};
    for (uint32_t i = 0; i < t->n_drives; i++) {
        out->slots += t->drives[i].slab.n_slots;
        out->max_slots += t->drives[i].slab.max_slots;
        out->damaged += t->drives[i].index.n_damaged;
        out->direct &= t->drives[i].slab.direct;
    }
}

/* -- open */

static void close_drive(struct drive *d)
{
    nvme_slab_close(&d->slab);
    nvme_index_close(&d->index);
    nvme_dir_close(&d->dir);
    free(d->dirty);
    free(d->writing);
}

static void nvme_close(struct tier *tier)
{
    struct tier_nvme *t = nvme_of(tier);
    if (t->aio) { /* what was forgotten is written down, as far as it goes at once */
        nvme_reap(tier);
        aio_close(t->aio);
    }
    for (uint32_t i = 0; i < t->n_drives; i++)
        close_drive(&t->drives[i]);
    if (t->sector_bytes)
        sys.munmap(t->sector_bytes, MAX_SECTORS * ENTRY_SECTOR);
    free(t);
}

static const struct tier_ops nvme_ops = {.name = "nvme",
                                         .close = nvme_close,
                                         .attach = nvme_attach,
                                         .submit = nvme_submit,
                                         .reap = nvme_reap,
                                         .take = nvme_take,
                                         .give = nvme_give,
                                         .forget = nvme_forget,
                                         .entry = nvme_entry,
                                         .settle = nvme_settle,
                                         .flush = nvme_flush};

/* Slots that fit into `bytes` with their entries. */
static uint64_t slots_in(uint64_t bytes, uint64_t slot_bytes)
{
    uint64_t head = 2 * ENTRY_SECTOR; /* the header, and the last sector may not be full */
    uint64_t n = bytes > head ? (bytes - head) / (slot_bytes + ENTRY_BYTES) : 0;
    return n < INT32_MAX / TIER_NVME_DRIVES ? n : INT32_MAX / TIER_NVME_DRIVES;
}

static int open_files(struct drive *d, const struct nvme_shape *shape, uint64_t bytes, struct err *e)
{
    char digest[17], base[32], index[40], slab[40];
    uint64_t others;
    nvme_shape_digest(shape, digest);
    snprintf(base, sizeof base, "kv1-%s.", digest);
    snprintf(index, sizeof index, "%sindex", base);
    snprintf(slab, sizeof slab, "%sslab", base);
    int ret = nvme_dir_bytes(&d->dir, base, &others);
    if (ret)
        return err_set(e, -ret, "kv.nvme.dirs: %s: %s", d->dir.path, strerror(-ret));
    uint64_t least = bytes / LEAST_SHARE;
    if (others + least > bytes) {
        if ((ret = nvme_dir_cut(&d->dir, base, others + least - bytes)) ||
            (ret = nvme_dir_bytes(&d->dir, base, &others)))
            return err_set(e, -ret, "kv.nvme.dirs: %s: %s", d->dir.path, strerror(-ret));
    }
    uint64_t n = slots_in(bytes > others ? bytes - others : 0, shape->slot_bytes);
    if (n == 0)
        return err_set(e, ENOSPC,
                       "kv.nvme.dirs: %s: its share of kv.nvme.bytes is %llu, blocks of other layouts take %llu, and "
                       "one block needs %llu; raise kv.nvme.bytes, or hearthd kv-purge %s",
                       d->dir.path, (unsigned long long)bytes, (unsigned long long)others,
                       (unsigned long long)shape->slot_bytes, d->dir.path);
    if ((ret = nvme_slab_open(&d->slab, &d->dir, slab, shape->slot_bytes, (uint32_t)n, e)) ||
        (ret = nvme_index_open(&d->index, &d->dir, index, shape, (uint32_t)n, d->slab.n_slots, e)))
        return ret;
    uint32_t sectors = nvme_index_sector((uint32_t)n) + 1;
    d->dirty = calloc(sectors, 1);
    d->writing = calloc(sectors, 1);
    if (!d->dirty || !d->writing)
        return err_set(e, ENOMEM, "KV tiers: out of memory");
    uint64_t depth = IN_FLIGHT / shape->slot_bytes;
    d->depth = depth < 4 ? 4 : depth > 64 ? 64 : (uint32_t)depth;
    return 0;
}

static int open_drive(struct tier_nvme *t, const char *path, struct err *e)
{
    struct drive *d = &t->drives[t->n_drives];
    d->slab.fd = d->index.fd = d->dir.lock = -1;
    if (t->n_drives == TIER_NVME_DRIVES)
        return err_set(e, EINVAL, "kv.nvme.dirs: at most %d folders", TIER_NVME_DRIVES);
    int ret = nvme_dir_open(&d->dir, path, e);
    if (ret == 0) {
        t->n_drives++;
    } else if (ret != -EBUSY) {
        log_error("tier drive", "dir=%s error=\"%s\" next=\"its blocks are computed again\"", path, e->text);
        t->n_lost++;
        ret = 0;
    }
    return ret;
}

static int open_drives(struct tier_nvme *t, const char *dirs, struct err *e)
{
    int ret = 0;
    for (const char *at = dirs; *at && !ret;) {
        size_t n = strcspn(at, ",");
        char path[NVME_DIR_PATH + 8];
        snprintf(path, sizeof path, "%.*s", (int)n, at);
        if (n > 0)
            ret = open_drive(t, path, e);
        at += n + (at[n] == ',');
    }
    if (!ret && t->n_drives == 0)
        ret = t->n_lost ? -e->code : err_set(e, EINVAL, "kv.nvme.dirs: no folder is named");
    return ret;
}

/* The first secret that is found is the installation's; directories that have none, or another, get it. */
static int share_secret(struct tier_nvme *t, uint8_t secret[32], struct err *e)
{
    uint8_t own[32];
    for (uint32_t i = 0; i < t->n_drives; i++)
        if (nvme_dir_secret(&t->drives[i].dir, secret) == 0)
            break;
    for (uint32_t i = 0; i < t->n_drives; i++) {
        if (nvme_dir_secret(&t->drives[i].dir, own) == 0 && hash_equal(own, secret, sizeof own))
            continue;
        int ret = nvme_dir_keep_secret(&t->drives[i].dir, secret, e);
        if (ret)
            return ret;
    }
    return 0;
}

int tier_nvme_open(struct tier **out, struct tier_nvme_opts *o, struct err *e)
{
    struct tier_nvme *t = calloc(1, sizeof *t);
    if (!t)
        return err_set(e, ENOMEM, "KV tiers: out of memory");
    t->head.ops = &nvme_ops;
    t->shape = o->shape;
    t->last = &t->done;
    int ret = open_drives(t, o->dirs, e);
    if (ret || (ret = share_secret(t, o->secret, e)))
        goto fail;
    uint32_t most = 0, depth = MAX_SECTORS + 2 * TIER_NVME_DRIVES;
    for (uint32_t i = 0; i < t->n_drives; i++) {
        struct drive *d = &t->drives[i];
        if ((ret = open_files(d, &o->shape, o->bytes / t->n_drives, e)))
            goto fail;
        most = d->slab.max_slots > most ? d->slab.max_slots : most;
        depth += d->depth;
    }
    t->head.n_slots = (int32_t)(most * t->n_drives);
    void *p = sys.mmap(NULL, MAX_SECTORS * ENTRY_SECTOR, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        ret = err_set(e, ENOMEM, "KV tiers: out of memory");
        goto fail;
    }
    t->sector_bytes = p;
    struct aio_opts a = o->aio;
    a.depth = a.depth ? a.depth : depth;
    if ((ret = aio_open(&t->aio, &a, e)))
        goto fail;
    *out = (struct tier *)(void *)t;
    return 0;
fail:
    nvme_close((struct tier *)(void *)t);
    return ret;
}
