/* tiering - see tiering.h. */
#include "engine/tiering.h"

#include "engine/base/log.h"
#include "engine/kv/tier_gpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int tiering_open(struct kvcache *c, struct machine *m, int bell, struct err *e)
{
    const struct engine_config *f = &m->config;
    struct tiers_opts o = {.block_tokens = m->layout.block_tokens,
                           .format = m->layout.format,
                           .block_bytes = m->layout.block_bytes,
                           .n_hbm = m->plan.n_blocks,
                           .dram_bytes = f->dram_bytes};
    struct seal_key key;
    struct returns *returns = NULL;
    struct tiers *t = NULL;
    if (!f->dram_bytes || f->no_prefix_cache)
        return 0;
    (void)bell;
    seal_key_make(&key, f->secret);
    struct tier_gpu_opts g = {m->be, m->pool, m->layout.block_bytes, m->plan.n_blocks, &key};
    int ret = tier_gpu_open(&o.gpu, &g, e);
    if (ret)
        return ret;
    ret = returns_open(&returns, &(struct returns_opts){.block_tokens = o.block_tokens});
    if (ret) {
        tier_close(o.gpu);
        return err_set(e, ENOMEM, "KV tiers: out of memory");
    }
    o.returns = returns;
    ret = tiers_open(&t, &o, e);
    if (!ret && kvcache_attach(c, t, returns) != 0) {
        tiers_close(t);
        ret = err_set(e, ENOMEM, "KV tiers: out of memory");
    }
    if (ret) {
        returns_close(returns);
        return ret;
    }
    c->load_always = f->load_always;
    return 0;
}

void tiering_publish(const struct kvcache *c, struct boundary_status *st)
{
    uint64_t cached = 0;
    for (int i = 0; i < TIER_COUNT; i++)
        cached += c->cached_tokens[i];
    atomic_store(&st->cached_tokens, cached);
}
