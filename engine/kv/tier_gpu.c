/* tier_gpu - see tier_gpu.h. */
#include "engine/kv/tier_gpu.h"

#include "engine/base/sys.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct tier_gpu {
    struct tier_head head;
    struct backend *be;
    uint8_t *pool;
    uint64_t block_bytes;
    struct seal_key key;
    struct tier_move *done, **last;
    uint64_t up_bytes; /* since the last reap */
};

/* Copies up between two reaps: a turn of the loop is not held up longer than that takes. */
#define UP_BYTES (64u << 20)

static struct tier_gpu *gpu_of(struct tier *t)
{
    return (struct tier_gpu *)(void *)t;
}

/* A backend that is always there has its memory on the host (backend.h). */
static bool on_host(const struct tier_gpu *g)
{
    return !backend_ops(g->be)->probe;
}

static int gpu_submit(struct tier *t, struct tier_move *m)
{
    struct tier_gpu *g = gpu_of(t);
    const struct backend_ops *ops = backend_ops(g->be);
    assert(m->slot >= 0 && m->slot < g->head.n_slots);
    if (m->op == TIER_WRITE && g->up_bytes >= UP_BYTES)
        return -EAGAIN;
    uint8_t *block = g->pool + (uint64_t)m->slot * g->block_bytes;
    m->submitted_ns = sys.now_ns();
    if (m->op == TIER_READ) {
        if (on_host(g))
            seal_make(&g->key, block, g->block_bytes, &m->seal);
        ops->download(g->be, m->mem, block, g->block_bytes);
    } else {
        g->up_bytes += g->block_bytes;
        ops->upload(g->be, block, m->mem, g->block_bytes);
        ops->sync(g->be); /* the memory is the caller's again */
        if (on_host(g))
            seal_make(&g->key, block, g->block_bytes, &m->seal);
    }
    if (!on_host(g))
        seal_make(&g->key, m->mem, g->block_bytes, &m->seal);
    m->result = 0;
    m->ns = sys.now_ns() - m->submitted_ns;
    m->next = NULL;
    *g->last = m;
    g->last = &m->next;
    return 0;
}

static struct tier_move *gpu_reap(struct tier *t)
{
    struct tier_gpu *g = gpu_of(t);
    struct tier_move *list = g->done;
    g->done = NULL;
    g->up_bytes = 0;
    g->last = &g->done;
    return list;
}

static void gpu_close(struct tier *t)
{
    free(gpu_of(t));
}

static const struct tier_ops gpu_ops = {.name = "gpu", .close = gpu_close, .submit = gpu_submit, .reap = gpu_reap};

int tier_gpu_open(struct tier **out, const struct tier_gpu_opts *o, struct err *e)
{
    struct tier_gpu *g = calloc(1, sizeof *g);
    if (!g)
        return err_set(e, ENOMEM, "KV tiers: out of memory");
    g->head = (struct tier_head){.ops = &gpu_ops, .n_slots = (int32_t)o->n_blocks};
    g->be = o->be;
    g->pool = o->pool;
    g->block_bytes = o->block_bytes;
    g->key = *o->key;
    g->last = &g->done;
    *out = (struct tier *)(void *)g;
    return 0;
}
