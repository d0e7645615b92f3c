/* tier_gpu - see tier_gpu.h. */
#include "engine/kv/tier_gpu.h"

#include "engine/base/sys.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* Moves of the backend's own that may be under way in each direction. */
#define DEPTH 64
/* Moves down that wait for room there, at most, and as a share of the pool, whose blocks they hold. */
#define WAIT_MOST  512
#define WAIT_SHARE 4
/* Without them: bytes copied up between two reaps, so that a turn of the loop is not held up longer than that takes. */
#define UP_BYTES (64u << 20)

struct moving { /* one of the backend's moves */
    struct backend_move b;
    struct tier_move *move;
    struct moving *next_free;
};

struct tier_gpu {
    struct tier_head head;
    struct backend *be;
    uint8_t *pool;
    uint64_t block_bytes;
    struct seal_key key;
    struct tier_move *done, **last;
    struct tier_move *waiting, **last_waiting; /* down, in their order */
    uint32_t n_waiting, most_waiting;
    uint64_t up_bytes;
    bool own; /* the backend has moves */
    struct moving moving[2 * DEPTH], *free;
};

static struct tier_gpu *gpu_of(struct tier *t)
{
    return (struct tier_gpu *)(void *)t;
}

static void finish(struct tier_gpu *g, struct tier_move *m)
{
    m->result = 0;
    m->ns = sys.now_ns() - m->submitted_ns;
    m->next = NULL;
    *g->last = m;
    g->last = &m->next;
}

/* -- by moves of the backend */

static int gpu_attach(struct tier *t, void *memory, size_t bytes, int bell, struct err *e)
{
    struct tier_gpu *g = gpu_of(t);
    const struct backend_ops *ops = backend_ops(g->be);
    if (!ops->move)
        return 0;
    int ret = ops->moves_open(g->be, &g->key, memory, bytes, DEPTH, bell, e);
    g->own = ret == 0;
    return ret;
}

static int submit_own(struct tier_gpu *g, struct tier_move *m, uint8_t *block)
{
    struct moving *v = g->free;
    if (!v)
        return -EAGAIN;
    v->b = (struct backend_move){.device = block, .host = m->mem, .bytes = g->block_bytes, .up = m->op == TIER_WRITE};
    v->move = m;
    int ret = backend_ops(g->be)->move(g->be, &v->b);
    if (ret == 0)
        g->free = v->next_free;
    return ret;
}

static uint8_t *block_at(const struct tier_gpu *g, const struct tier_move *m)
{
    return g->pool + (uint64_t)m->slot * g->block_bytes;
}

/* A step of many rows fills more blocks than may be under way, and nobody asks for a copy of a block twice: such a move
 * waits. Moves up are asked for again, and may be given up meanwhile. */
static int submit_or_wait(struct tier_gpu *g, struct tier_move *m)
{
    int ret = m->op == TIER_READ && g->waiting ? -EAGAIN : submit_own(g, m, block_at(g, m));
    if (ret != -EAGAIN || m->op != TIER_READ || g->n_waiting == g->most_waiting)
        return ret;
    m->next = NULL;
    *g->last_waiting = m;
    g->last_waiting = &m->next;
    g->n_waiting++;
    return 0;
}

static void push_waiting(struct tier_gpu *g)
{
    for (struct tier_move *m = g->waiting; m && submit_own(g, m, block_at(g, m)) == 0; m = g->waiting) {
        g->waiting = m->next;
        g->n_waiting--;
    }
    if (!g->waiting)
        g->last_waiting = &g->waiting;
}

static void reap_own(struct tier_gpu *g)
{
    for (struct backend_move *b = backend_ops(g->be)->moved(g->be), *next; b; b = next) {
        struct moving *v = (struct moving *)(void *)b; /* its first member */
        next = b->next;
        v->move->seal = b->seal;
        finish(g, v->move);
        v->next_free = g->free;
        g->free = v;
    }
    push_waiting(g);
}

/* -- by upload and download: done at once */

/* A backend that is always there has its memory on the host (backend.h): the seal is made in place. */
static bool on_host(const struct tier_gpu *g)
{
    return !backend_ops(g->be)->probe;
}

static int copy_now(struct tier_gpu *g, struct tier_move *m, uint8_t *block)
{
    const struct backend_ops *ops = backend_ops(g->be);
    if (m->op == TIER_WRITE && g->up_bytes >= UP_BYTES)
        return -EAGAIN;
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
    finish(g, m);
    return 0;
}

/* -- the tier's verbs */

static int gpu_submit(struct tier *t, struct tier_move *m)
{
    struct tier_gpu *g = gpu_of(t);
    assert(m->slot >= 0 && m->slot < g->head.n_slots);
    m->submitted_ns = sys.now_ns();
    return g->own ? submit_or_wait(g, m) : copy_now(g, m, block_at(g, m));
}

static struct tier_move *gpu_reap(struct tier *t)
{
    struct tier_gpu *g = gpu_of(t);
    if (g->own)
        reap_own(g);
    struct tier_move *list = g->done;
    g->done = NULL;
    g->last = &g->done;
    g->up_bytes = 0;
    return list;
}

static void gpu_close(struct tier *t)
{
    struct tier_gpu *g = gpu_of(t);
    if (g->own)
        backend_ops(g->be)->moves_close(g->be);
    free(g);
}

static const struct tier_ops gpu_ops = {
    .name = "gpu", .close = gpu_close, .attach = gpu_attach, .submit = gpu_submit, .reap = gpu_reap};

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
    g->last_waiting = &g->waiting;
    g->most_waiting = o->n_blocks / WAIT_SHARE < WAIT_MOST ? o->n_blocks / WAIT_SHARE : WAIT_MOST;
    for (int i = 0; i < 2 * DEPTH; i++) {
        g->moving[i].next_free = g->free;
        g->free = &g->moving[i];
    }
    *out = (struct tier *)(void *)g;
    return 0;
}
