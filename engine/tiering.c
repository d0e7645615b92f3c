/* tiering - see tiering.h. */
#include "engine/tiering.h"

#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "engine/kv/tier_gpu.h"
#include "engine/kv/tier_nvme.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define IO_THREADS    8              /* where io_uring is refused */
#define LEAST_DRAM    (256ull << 20) /* behind an NVMe tier, when none is asked for: what is under way, and some */
#define DRAIN_NS      3000000000u    /* at the end, for what is not on NVMe yet */
#define DRAIN_POLL_MS 20
#define DRAIN_POLLS   150

static struct nvme_shape shape_of(const struct kv_layout *l)
{
    struct nvme_shape s;
    memset(&s, 0, sizeof s); /* it is hashed and written as it lies there */
    s.block_bytes = l->block_bytes;
    s.slot_bytes = tier_slot_bytes(l->block_bytes);
    s.block_tokens = l->block_tokens;
    s.format = l->format;
    s.n_layers = l->n_layers;
    s.n_kv_heads = l->n_kv_heads;
    s.head_dim = l->head_dim;
    return s;
}

static int open_nvme(struct tier **out, struct foreign **foreign, struct machine *m, int bell, struct err *e)
{
    struct engine_config *f = &m->config;
    struct tier_nvme_opts o = {.dirs = f->nvme_dirs,
                               .bytes = f->nvme_bytes,
                               .shape = shape_of(&m->layout),
                               .aio = {.threads = f->io_threads ? f->io_threads - 1 : IO_THREADS,
                                       .kind = f->io_threads ? AIO_THREADS : AIO_AUTO,
                                       .bell = bell}};
    memcpy(o.secret, f->secret, sizeof o.secret);
    int ret = tier_nvme_open(out, &o, e);
    if (ret)
        return ret;
    memcpy(f->secret, o.secret, sizeof f->secret);
    return foreign_open(foreign, o.dirs, &o.shape) ? err_set(e, ENOMEM, "KV tiers: out of memory") : 0;
}

static int open_gpu(struct tier **out, struct machine *m, struct err *e)
{
    struct seal_key key;
    seal_key_make(&key, m->config.secret);
    struct tier_gpu_opts g = {m->be, m->pool, m->layout.block_bytes, m->plan.n_blocks, &key};
    return tier_gpu_open(out, &g, e);
}

uint64_t tiering_dram_bytes(const struct engine_config *c, uint64_t block_bytes)
{
    uint64_t least = 64 * tier_slot_bytes(block_bytes);
    least = least < LEAST_DRAM ? LEAST_DRAM : least;
    if (c->no_prefix_cache)
        return 0;
    return c->dram_bytes || !c->nvme_dirs[0] ? c->dram_bytes : least;
}

int tiering_open(struct kvcache *c, struct machine *m, int bell, struct err *e)
{
    const struct engine_config *f = &m->config;
    struct tiers_opts o = {.block_tokens = m->layout.block_tokens,
                           .format = m->layout.format,
                           .block_bytes = m->layout.block_bytes,
                           .n_hbm = m->plan.n_blocks,
                           .bell = bell,
                           .returns = c->returns,
                           .dram_bytes = tiering_dram_bytes(f, m->layout.block_bytes),
                           .write_bytes_per_day = f->nvme_write_bytes_per_day};
    struct tiers *t = NULL;
    if (!o.dram_bytes)
        return 0;
    int ret = f->nvme_dirs[0] ? open_nvme(&o.nvme, &c->foreign, m, bell, e) : 0;
    if (ret || (ret = open_gpu(&o.gpu, m, e)))
        goto fail;
    ret = tiers_open(&t, &o, e);
    o.gpu = o.nvme = NULL; /* taken over */
    if (!ret && kvcache_attach(c, t) != 0) {
        tiers_close(t);
        ret = err_set(e, ENOMEM, "KV tiers: out of memory");
    }
    if (ret)
        goto fail;
    c->load_always = f->load_always;
    return 0;
fail:
    tier_close(o.gpu);
    tier_close(o.nvme);
    return ret;
}

void tiering_drain(struct kvcache *c, int bell)
{
    uint64_t until = sys.now_ns() + DRAIN_NS;
    for (int polls = 0; c->tiers && tiers_busy(c->tiers) && polls < DRAIN_POLLS && sys.now_ns() < until;) {
        bool any = kvcache_move(c);
        kvcache_moved(c);
        if (any)
            continue;
        polls++;
        struct pollfd p = {.fd = bell, .events = POLLIN};
        sys.poll(&p, 1, DRAIN_POLL_MS);
        boundary_clear(bell);
    }
}

static struct engine_flow flow_of(const struct tiers_flow *f)
{
    return (struct engine_flow){f->moves, f->bytes, f->ns / 1000, f->failed, f->queued};
}

void tiering_publish(const struct kvcache *c, struct boundary_status *st)
{
    struct engine_tiers out = {.cached_tokens = {0}};
    uint64_t cached = 0, words[sizeof out / 8];
    for (int i = 0; i < TIER_COUNT; i++)
        cached += out.cached_tokens[i] = c->cached_tokens[i];
    atomic_store(&st->cached_tokens, cached);
    if (c->tiers) {
        struct tiers_stats s;
        tiers_get_stats(c->tiers, &s);
        memcpy(out.verify_failed, s.verify_failed, sizeof out.verify_failed);
        out.block_bytes = s.slot_bytes;
        out.dram_blocks = s.dram_slots;
        out.dram_used = s.dram_used;
        out.nvme_blocks = s.nvme_slots;
        out.nvme_used = s.nvme_used;
        out.hbm_up = flow_of(&s.gpu[0]);
        out.hbm_down = flow_of(&s.gpu[1]);
        out.nvme_up = flow_of(&s.nvme[0]);
        out.nvme_down = flow_of(&s.nvme[1]);
        out.late = s.late;
        out.evicted_dram = s.evicted_dram;
        out.lost_dram = s.lost_dram;
        out.lost_nvme = s.lost_nvme;
        out.not_stored = s.not_stored;
        out.swapped = c->swapped;
        out.dropped = c->dropped;
        out.refused_bytes = s.refused_bytes;
        out.budget_bytes = s.budget_bytes;
        out.bytes_per_day = s.bytes_per_day;
    }
    memcpy(words, &out, sizeof out);
    for (size_t i = 0; i < sizeof out / 8; i++)
        atomic_store(&st->tiers[i], words[i]);
}
