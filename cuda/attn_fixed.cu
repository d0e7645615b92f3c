/* attn_fixed - attention of deterministic mode: one path for all rows, prompt or generated, in any company.
 *
 * The kernels of prefill (attn_wgmma.cu, attn_mma.cu) compute a row in one order, whatever tile it lies in. Here every
 * row goes through them, and keys are cut where their positions say: part p of a sequence is its keys from p PART_KEYS
 * on. A row's parts are merged in their order; those it sees nothing of change nothing. So who computes a part is free:
 * CTAs of their own where there is little else to do or little to merge, with a second launch that merges, or one CTA
 * after the other, where the tiles alone fill the card.
 *
 * Where a step is recorded in a graph its lengths are not known to the host, so the list of tiles is made on the card.
 *
 * Cost: that of prefill attention. A generated row fills the vectors of one kv head's group in a tile of 128, which
 * costs nothing while K and V come from memory.
 */
#include "cuda/prefill_rows.cuh"
#include "cuda/scan.cuh"

#include <assert.h>

#define PART_KEYS    2048
#define THREADS      256
#define PLAN_THREADS 512
#define BUSY         4 /* tiles an SM from which they are not cut among CTAs */

/* -- the list ---------------------------------------------------------------------------------------------------- */

/* Tiles of sequence s. */
static __host__ __device__ inline int32_t tiles_of(const int32_t *seq_row, int32_t s, int32_t group, int32_t tile)
{
    return ((seq_row[s + 1] - seq_row[s]) * group + tile - 1) / tile;
}

/* The parts that some row of the tile from v0 sees, as [*first, *first + n): n, at least 1. */
static __device__ int32_t parts_of(const struct step_dev &at, const struct fixed_terms &t, int32_t s, int32_t v0,
                                   int32_t *first)
{
    const int32_t row0 = at.seq_row[s], rows = at.seq_row[s + 1] - row0;
    const int32_t last = at.pos[row0 + min((v0 + t.tile - 1) / t.group, rows - 1)];
    const int32_t end = t.key_end <= last ? t.key_end : last + 1;
    int32_t begin = t.key_begin;
    if (t.window)
        begin = max(begin, at.pos[row0 + v0 / t.group] - t.window + 1);
    *first = begin / PART_KEYS;
    return begin < end ? (end - 1) / PART_KEYS - *first + 1 : 1;
}

/* Tile i of the `tiles` of sequence s: the last, with the most keys, comes first. */
static __device__ struct prefill_item tile_at(const struct step_dev &at, const struct fixed_terms &t, int32_t s,
                                              int32_t i, int32_t tiles)
{
    struct prefill_item it = {s, (tiles - 1 - i) * t.tile, 0, 0, -1};
    it.parts = parts_of(at, t, s, it.v0, &it.part);
    return it;
}

/* The tiles of all sequences; returns how many. A warp shares out those of its threads' sequences. */
static __device__ int32_t put_tiles(struct prefill_item *tile, const struct step_dev &at, const struct fixed_terms &t)
{
    const int32_t lane = threadIdx.x % 32;
    int32_t n = 0, all;
    for (int32_t s0 = 0; s0 < at.n_seqs; s0 += PLAN_THREADS, n += all) {
        const int32_t s = s0 + (int32_t)threadIdx.x;
        const int32_t mine = s < at.n_seqs ? tiles_of(at.seq_row, s, t.group, t.tile) : 0;
        const int32_t to = n + sum_before<PLAN_THREADS>(mine, &all);
        if (mine == 1)
            tile[to] = tile_at(at, t, s, 0, 1);
        for (uint32_t more = __ballot_sync(~0u, mine > 1); more; more &= more - 1) {
            const int32_t of = __ffs((int32_t)more) - 1, tiles = __shfl_sync(~0u, mine, of),
                          first = __shfl_sync(~0u, to, of);
            for (int32_t i = lane; i < tiles; i += 32)
                tile[first + i] = tile_at(at, t, s - lane + of, i, tiles);
        }
    }
    return n;
}

/* Grid: 1; PLAN_THREADS threads. A thread owns every so many sequences, then every so many tiles. Tiles first lie where
 * `tile` is; where their parts are shared out each has an item of its own, in `item`. */
static __global__ void __launch_bounds__(PLAN_THREADS)
    plan_kernel(const struct step_dev at, const struct fixed_terms t, struct prefill_item *tile,
                struct prefill_item *item, int32_t *count)
{
    const int32_t n = put_tiles(tile, at, t);
    int32_t parts = 0, all;
    __syncthreads();
    for (int32_t i0 = 0; i0 < n; i0 += PLAN_THREADS, parts += all) {
        const int32_t i = i0 + (int32_t)threadIdx.x;
        sum_before<PLAN_THREADS>(i < n ? tile[i].parts : 0, &all);
    }
    const bool shared = t.share && parts <= t.most_items;
    for (int32_t i0 = 0, to = 0; i0 < n; i0 += PLAN_THREADS, to += all) {
        const int32_t i = i0 + (int32_t)threadIdx.x;
        struct prefill_item it = {};
        if (i < n)
            it = tile[i];
        const int32_t mine = to + sum_before<PLAN_THREADS>(shared ? it.parts : i < n, &all);
        if (i < n && !shared)
            item[i] = it;
        for (int32_t p = 0; shared && p < it.parts; p++)
            item[mine + p] = {it.seq, it.v0, it.part + p, 1, it.parts > 1 ? (mine + p) * t.n_kv_heads : -1};
        if (i < n) /* for merge_kernel */
            tile[i].slot = shared && it.parts > 1 ? mine * t.n_kv_heads : -1;
    }
    if (threadIdx.x == 0)
        *count = shared ? parts : n;
}

/* -- parts ------------------------------------------------------------------------------------------------------- */

/* Grid: tiles x kv heads x runs of vectors; a thread owns four elements of a vector. */
static __global__ void __launch_bounds__(THREADS)
    merge_kernel(const struct prefill_args a, const struct prefill_item *tile)
{
    const struct prefill_item it = tile[blockIdx.x];
    const int32_t g = blockIdx.y, quads = a.head_dim / 4, at = (int32_t)(blockIdx.z * THREADS + threadIdx.x);
    const int32_t i = at / quads, d = at % quads * 4, row0 = a.step.seq_row[it.seq];
    const int32_t v = it.v0 + i, row = row0 + v / a.group, head = g * a.group + v % a.group;
    if (it.slot < 0 || i >= a.work.vectors || v >= (a.step.seq_row[it.seq + 1] - row0) * a.group)
        return;
    const size_t first = (size_t)(it.slot + g) * a.work.vectors + i, step = (size_t)a.n_kv_heads * a.work.vectors;
    float4 o = *(const float4 *)(a.work.part_o + first * a.head_dim + d);
    float lse = a.work.part_lse[first];
#pragma unroll 8
    for (int32_t p = 1; p < it.parts; p++) {
        const struct prefill_merge m = merge_of(lse, a.work.part_lse[first + p * step]);
        const float4 x = *(const float4 *)(a.work.part_o + (first + p * step) * a.head_dim + d);
        o = {merged(m, o.x, x.x), merged(m, o.y, x.y), merged(m, o.z, x.z), merged(m, o.w, x.w)};
        lse = m.lse;
    }
    const size_t to = row * a.out.stride + (size_t)head * a.head_dim + d;
    if (a.out.bf16)
        *(uint2 *)((__nv_bfloat16 *)a.out.o + to) = {pack_bf16(o.x, o.y), pack_bf16(o.z, o.w)};
    else
        *(float4 *)((float *)a.out.o + to) = o;
    if (a.out.lse_ln && d == 0)
        a.out.lse_ln[(size_t)row * (size_t)a.out.heads + head] = lse * LN_2;
}

/* -- a call ------------------------------------------------------------------------------------------------------ */

static bool same(const struct fixed_terms &a, const struct fixed_terms &b)
{
    return a.number == b.number && a.group == b.group && a.n_kv_heads == b.n_kv_heads && a.tile == b.tile &&
           a.window == b.window && a.key_begin == b.key_begin && a.key_end == b.key_end && a.vectors == b.vectors;
}

/* For the largest step of a model's shape: graphs know the place. */
static void take_room(struct cuda *c, int32_t tiles, int32_t items)
{
    struct fixed *f = &c->fixed;
    CU(cudaFree(f->tile));
    f->room = tiles;
    f->item_room = items;
    f->tile = (struct prefill_item *)cuda_alloc(c, (size_t)(tiles + items) * sizeof *f->tile + sizeof *f->count);
    if (!f->tile)
        cuda_die(__FILE__, __LINE__, "tiles of attention", "out of memory; lower kv.bytes");
    f->item = f->tile + tiles;
    f->count = (int32_t *)(f->item + items);
    f->terms = {};
}

static int32_t most_rows(const struct step *st)
{
    int32_t most = 0;
    for (int32_t s = 0; s < st->n_seqs; s++)
        most = max(most, st->seq_row[s + 1] - st->seq_row[s]);
    return most;
}

/* The step's list is the same in every layer of a kind. */
static void make_list(struct cuda *c, const struct attn_args *a, const struct step_dev *at, int32_t tile)
{
    struct fixed *f = &c->fixed;
    const struct step *st = a->step;
    const int32_t d = (int32_t)a->kv->head_dim;
    struct fixed_terms t = {};
    t.number = st->number;
    t.group = a->n_heads / (int32_t)a->kv->n_kv_heads;
    t.n_kv_heads = (int32_t)a->kv->n_kv_heads;
    t.tile = tile;
    t.window = a->window;
    t.key_begin = a->key_begin;
    t.key_end = a->key_end;
    t.vectors = min(tile, (most_rows(st) * t.group + 7) / 8 * 8);
    if (same(t, f->terms))
        return;
    f->n = 0;
    for (int32_t s = 0; s < st->n_seqs; s++)
        f->n += tiles_of(st->seq_row, s, t.group, tile);
    const int64_t vectors = PREFILL_PARTIALS / ((d + 1) * sizeof(float)), slots = vectors / t.vectors;
    const int32_t tiles = c->max_rows + (int32_t)((int64_t)c->max_rows * t.group / tile);
    f->slots = (int32_t)slots;
    t.most_items = (int32_t)(slots / t.n_kv_heads);
    t.share = st->decode || f->n * t.n_kv_heads < BUSY * c->n_sm;
    if (f->n > f->room || f->item_room < max(t.most_items, tiles))
        take_room(c, tiles, max(tiles, (int32_t)(vectors / 8 / t.n_kv_heads)));
    assert(f->n <= f->room && slots >= FIXED_CTAS * c->n_sm);
    plan_kernel<<<1, PLAN_THREADS, 0, c->stream>>>(*at, t, f->tile, f->item, f->count);
    LAUNCHED();
    f->terms = t;
}

static struct prefill_args arguments(const struct cuda *c, const struct attn_args *a, const struct step_dev *at)
{
    const struct fixed *f = &c->fixed;
    const struct fixed_terms *t = &f->terms;
    struct prefill_args k = prefill_args_of(a, at, a->kv, 0);
    k.work = {f->item,
              f->n,
              f->count,
              c->prefill.next,
              c->prefill.partials,
              c->prefill.partials + (size_t)f->slots * t->vectors * k.head_dim,
              t->vectors};
    k.heads_at_once = f->n >= 3 * c->n_sm / 2 ? 1 : t->n_kv_heads;
    k.part_keys = PART_KEYS;
    return k;
}

bool attn_fixed(struct cuda *c, const struct attn_args *a, const struct step_dev *at)
{
    const int32_t hopper = c->major == 9 ? wgmma_tile(a->kv) : 0, tile = hopper ? hopper : mma_tile(a->kv);
    if (!tile || a->q_stride % 4 || (uintptr_t)a->q % 16)
        return false;
    make_list(c, a, at, tile);
    const struct prefill_args k = arguments(c, a, at);
    const struct fixed_terms *t = &c->fixed.terms;
    if (hopper)
        wgmma_attention(c, &k);
    else
        mma_attention(c, &k);
    if (!t->share)
        return true;
    const dim3 grid((unsigned)c->fixed.n, (unsigned)t->n_kv_heads,
                    (unsigned)(t->vectors * k.head_dim / 4 + THREADS - 1) / THREADS);
    merge_kernel<<<grid, THREADS, 0, c->stream>>>(k, c->fixed.tile);
    LAUNCHED();
    return true;
}

void fixed_close(struct cuda *c)
{
    CU(cudaFree(c->fixed.tile));
}
