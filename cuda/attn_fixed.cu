/* attn_fixed - attention of deterministic mode: one path for all rows, prompt or generated, in any company.
 *
 * The kernels of prefill (attn_wgmma.cu, attn_mma.cu) compute a row in one order, whatever tile it lies in; here every
 * row goes through them, and no keys are cut by what else there is to do. Where a step is recorded in a graph its
 * lengths are not known to the host, so the list of tiles is made on the card, from counts of rows alone.
 *
 * Cost: that of prefill attention; a generated row fills the vectors of one kv head's group in a tile of 128, which
 * costs nothing while K and V come from memory.
 */
#include "cuda/prefill.cuh"

#define THREADS 256

/* Tiles of sequence s. */
static __host__ __device__ inline int32_t tiles_of(const int32_t *seq_row, int32_t s, int32_t group, int32_t tile)
{
    return ((seq_row[s + 1] - seq_row[s]) * group + tile - 1) / tile;
}

/* Grid: sequences. A thread adds up the tiles of every THREADS-th sequence before its CTA's, then owns every THREADS-th
 * tile of that, the last (with the most keys) first. */
static __global__ void __launch_bounds__(THREADS)
    items_kernel(struct prefill_item *item, const struct step_dev at, int32_t group, int32_t tile)
{
    __shared__ int32_t part[THREADS / 32];
    const int32_t s = blockIdx.x, n = tiles_of(at.seq_row, s, group, tile);
    int32_t before = 0;
    for (int32_t i = threadIdx.x; i < s; i += THREADS)
        before += tiles_of(at.seq_row, i, group, tile);
    for (int k = 16; k; k /= 2)
        before += __shfl_xor_sync(~0u, before, k);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = before;
    __syncthreads();
    before = 0;
    for (int i = 0; i < THREADS / 32; i++)
        before += part[i];
    for (int32_t i = threadIdx.x; i < n; i += THREADS)
        item[before + i] = {s, (n - 1 - i) * tile, 0, 1, -1};
}

/* For the largest step of a model's shape: graphs know the place. */
static void take_room(struct cuda *c, int32_t room)
{
    CU(cudaFree(c->fixed.item));
    c->fixed.room = room;
    c->fixed.item = (struct prefill_item *)cuda_alloc(c, (size_t)room * sizeof *c->fixed.item);
    if (!c->fixed.item)
        cuda_die(__FILE__, __LINE__, "tiles of attention", "out of memory; lower kv.bytes");
}

/* The step's tiles are the same in every layer. */
static void make_items(struct cuda *c, const struct step *st, const struct step_dev *at, int32_t group, int32_t tile)
{
    struct fixed *f = &c->fixed;
    if (f->number == st->number && f->group == group && f->tile == tile)
        return;
    f->n = 0;
    for (int32_t s = 0; s < st->n_seqs; s++)
        f->n += tiles_of(st->seq_row, s, group, tile);
    if (f->n > f->room)
        take_room(c, c->max_rows + (int32_t)((int64_t)c->max_rows * group / tile));
    items_kernel<<<(unsigned)st->n_seqs, THREADS, 0, c->stream>>>(f->item, *at, group, tile);
    LAUNCHED();
    f->number = st->number;
    f->group = group;
    f->tile = tile;
}

bool attn_fixed(struct cuda *c, const struct attn_args *a, const struct step_dev *at)
{
    const int32_t g_n = (int32_t)a->kv->n_kv_heads, d = (int32_t)a->kv->head_dim, width = a->n_heads * d;
    const int32_t hopper = c->major == 9 ? wgmma_tile(a->kv) : 0, tile = hopper ? hopper : mma_tile(a->kv);
    if (!tile || a->q_stride % 4)
        return false;
    make_items(c, a->step, at, a->n_heads / g_n, tile);
    struct prefill_args k = {};
    k.out = {a->out.o, width, a->out.lse_ln, a->n_heads, false};
    if (a->out_input)
        k.out = {a->out_input, cuda_pad(width), a->out.lse_ln, a->n_heads, true};
    k.q = a->q;
    k.sink = a->sink;
    k.q_stride = a->q_stride;
    k.kv = *a->kv;
    k.step = *at;
    k.work = {c->fixed.item, c->fixed.n, c->prefill.next, NULL, NULL};
    k.head_dim = d;
    k.n_kv_heads = g_n;
    k.group = a->n_heads / g_n;
    k.heads_at_once = c->fixed.n >= 3 * c->n_sm / 2 ? 1 : g_n;
    k.window = a->window;
    k.key_begin = a->key_begin;
    k.key_end = a->key_end;
    k.scale = a->scale * LOG2_E;
    if (hopper)
        wgmma_attention(c, &k);
    else
        mma_attention(c, &k);
    return true;
}

void fixed_close(struct cuda *c)
{
    CU(cudaFree(c->fixed.item));
}
