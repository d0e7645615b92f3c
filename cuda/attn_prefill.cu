/* attn_prefill - attention of many rows of a sequence on the tensor cores: cuts them into tiles for the card's kernel.
 *
 * The tiles of a step are the same in every layer, so the list is made and copied once a step. Tiles with the most keys
 * come first: CTAs take them as they get free, and what is left for the end is short.
 *
 * A few rows over many keys (a new turn after a long history) would leave most SMs idle: their keys are cut into parts,
 * and a second launch merges the partial results. How many parts depends on the sequence alone.
 */
#include "cuda/prefill.cuh"

#include <algorithm>
#include <assert.h>

#define PART_KEYS 2048 /* a part has no fewer */
#define THREADS   256
#define WARPS     (THREADS / 32)

void prefill_open(struct cuda *c)
{
    if (c->major == 9)
        wgmma_setup();
    mma_setup();
}

void prefill_close(struct cuda *c)
{
    stage_free(&c->prefill.items);
    CU(cudaFree(c->prefill.next));
    CU(cudaFree(c->prefill.partials));
}

/* -- the list ---------------------------------------------------------------------------------------------------- */

static bool same(struct prefill_terms a, struct prefill_terms b)
{
    return a.number == b.number && a.group == b.group && a.n_kv_heads == b.n_kv_heads && a.tile == b.tile &&
           a.head_dim == b.head_dim && a.window == b.window && a.key_begin == b.key_begin && a.key_end == b.key_end;
}

static int32_t rows_of(const struct step *st, int32_t s)
{
    return st->seq_row[s + 1] - st->seq_row[s];
}

/* Tiles of a sequence; 0: it is decode. */
static int32_t tiles_of(const struct step *st, int32_t s, const struct prefill_terms *t)
{
    return rows_of(st, s) > ATTN_DECODE_ROWS ? (rows_of(st, s) * t->group + t->tile - 1) / t->tile : 0;
}

/* Keys that the tile from vector v0 sees. */
static int32_t keys_of(const struct step *st, int32_t s, int32_t v0, const struct prefill_terms *t)
{
    int32_t row0 = st->seq_row[s], last = std::min((v0 + t->tile - 1) / t->group, rows_of(st, s) - 1);
    int32_t begin = t->key_begin, end = std::min(t->key_end, st->pos[row0 + last] + 1);
    if (t->window)
        begin = std::max(begin, st->pos[row0 + v0 / t->group] - t->window + 1);
    return std::max(end - begin, 0);
}

static uint64_t slot_bytes(const struct prefill_terms *t)
{
    return (uint64_t)t->tile * (uint64_t)(t->head_dim + 1) * sizeof(float);
}

/* How many parts the keys of the tiles of sequence s are cut into; what has no room for partial results is not cut. */
static int32_t parts_of(const struct cuda *c, const struct step *st, int32_t s, const struct prefill_terms *t,
                        int32_t slots)
{
    int32_t tiles = tiles_of(st, s, t), keys = keys_of(st, s, 0, t);
    int32_t parts = std::min(c->n_sm / (tiles * t->n_kv_heads), keys / PART_KEYS);
    uint64_t want = (uint64_t)slots + (uint64_t)parts * (uint64_t)(tiles * t->n_kv_heads);
    return parts > 1 && want * slot_bytes(t) <= PREFILL_PARTIALS ? parts : 1;
}

/* Append the tiles of sequence s; returns the end. *slots: of partial results, handed out. */
static struct prefill_item *put_items(struct prefill_item *to, const struct cuda *c, const struct step *st, int32_t s,
                                      const struct prefill_terms *t, int32_t *slots)
{
    int32_t tiles = tiles_of(st, s, t), parts = tiles ? parts_of(c, st, s, t, *slots) : 0;
    for (int32_t i = 0; i < tiles; i++)
        for (int32_t p = 0; p < parts; p++) {
            *to++ = {s, i * t->tile, p, parts, parts > 1 ? *slots : -1};
            *slots += parts > 1 ? t->n_kv_heads : 0;
        }
    return to;
}

/* The list of the step's tiles, on the card. */
static void make_items(struct cuda *c, const struct step *st, const struct prefill_terms *t)
{
    struct prefill *p = &c->prefill;
    int32_t room = 0, slots = 0;
    for (int32_t s = 0; s < st->n_seqs; s++)
        room += tiles_of(st, s, t) ? std::max(tiles_of(st, s, t), c->n_sm) : 0;
    stage_reserve(&p->items, (size_t)room * sizeof(struct prefill_item));
    struct prefill_item *item = (struct prefill_item *)p->items.host, *end = item;
    for (int32_t s = 0; s < st->n_seqs; s++)
        end = put_items(end, c, st, s, t, &slots);
    assert(end <= item + room);
    std::stable_sort(item, end, [=](const struct prefill_item &a, const struct prefill_item &b) {
        return keys_of(st, a.seq, a.v0, t) / a.parts > keys_of(st, b.seq, b.v0, t) / b.parts;
    });
    stage_send(c, &p->items, (size_t)(end - item) * sizeof *item);
    p->terms = *t;
    p->n = (int32_t)(end - item);
    p->cut = slots > 0;
}

/* -- parts ------------------------------------------------------------------------------------------------------- */

/* Grid: items x kv heads x eighths of a tile; where the item is part 0 a warp owns a vector. */
static __global__ void __launch_bounds__(THREADS) merge_parts(const struct prefill_args a, int32_t tile)
{
    const struct prefill_item it = a.work.item[blockIdx.x];
    const int32_t g = blockIdx.y, lane = threadIdx.x % 32, d = a.head_dim, i = blockIdx.z * WARPS + threadIdx.x / 32;
    const int32_t row0 = a.step.seq_row[it.seq], n_vec = (a.step.seq_row[it.seq + 1] - row0) * a.group;
    const int32_t v = it.v0 + i, row = row0 + v / a.group, head = g * a.group + v % a.group;
    if (it.slot < 0 || it.part > 0 || v >= n_vec)
        return;
    const size_t at = (size_t)(it.slot + g) * tile + i, step = (size_t)a.n_kv_heads * tile; /* from part to part */
    const float *lse = a.work.part_lse + at;
    float max = -INFINITY, sum = 0;
    for (int32_t p = 0; p < it.parts; p++)
        max = fmaxf(max, lse[p * step]);
    const float base = max == -INFINITY ? 0.0f : max;
    for (int32_t p = 0; p < it.parts; p++)
        sum += exp2f(lse[p * step] - base);
    for (int32_t k = 2 * lane; k < d; k += 64) {
        float2 o = {};
#pragma unroll 4
        for (int32_t p = 0; p < it.parts; p++) {
            const float w = exp2f(lse[p * step] - base);
            const float2 x = *(const float2 *)(a.work.part_o + (at + p * step) * d + k);
            o.x = fmaf(w, x.x, o.x);
            o.y = fmaf(w, x.y, o.y);
        }
        o.x = sum == 0.0f ? 0.0f : o.x / sum;
        o.y = sum == 0.0f ? 0.0f : o.y / sum;
        const size_t to = row * a.out.stride + (size_t)head * d + k;
        if (a.out.bf16)
            *(__nv_bfloat162 *)((__nv_bfloat16 *)a.out.o + to) = __float22bfloat162_rn(o);
        else
            *(float2 *)((float *)a.out.o + to) = o;
    }
    if (a.out.lse_ln && lane == 0)
        a.out.lse_ln[(size_t)row * (size_t)(a.group * a.n_kv_heads) + head] = (max + log2f(sum)) * LN_2;
}

static struct prefill_args arguments(const struct cuda *c, const struct attn_args *a, const struct step_dev *at,
                                     const struct prefill_terms *t)
{
    const struct prefill *p = &c->prefill;
    const int32_t width = a->n_heads * t->head_dim;
    const uint64_t slots = PREFILL_PARTIALS / slot_bytes(t);
    struct prefill_args k = {};
    k.out = {a->out.o, width, a->out.lse_ln, false};
    if (a->out_input)
        k.out = {a->out_input, cuda_pad(width), a->out.lse_ln, true};
    k.q = a->q;
    k.sink = a->sink;
    k.q_stride = a->q_stride;
    k.kv = *a->kv;
    k.step = *at;
    k.work = {(const struct prefill_item *)p->items.dev, p->n, p->next, p->partials,
              p->partials + slots * (uint64_t)t->tile * (uint64_t)t->head_dim};
    k.head_dim = t->head_dim;
    k.n_kv_heads = t->n_kv_heads;
    k.group = t->group;
    /* A head at a time keeps its K and V in L2; with few tiles a head the last would leave SMs idle. */
    k.heads_at_once = p->n >= 3 * c->n_sm / 2 ? 1 : t->n_kv_heads;
    k.window = a->window;
    k.key_begin = a->key_begin;
    k.key_end = a->key_end;
    k.scale = a->scale * LOG2_E;
    return k;
}

bool attn_prefill(struct cuda *c, const struct attn_args *a, const struct step_dev *at)
{
    struct prefill *p = &c->prefill;
    const int32_t g_n = (int32_t)a->kv->n_kv_heads, hopper = c->major == 9 ? wgmma_tile(a) : 0;
    const struct prefill_terms t = {.number = a->step->number,
                                    .group = a->n_heads / g_n,
                                    .n_kv_heads = g_n,
                                    .head_dim = (int32_t)a->kv->head_dim,
                                    .tile = hopper ? hopper : mma_tile(a),
                                    .window = a->window,
                                    .key_begin = a->key_begin,
                                    .key_end = a->key_end};
    if (!t.tile)
        return false;
    if (!same(t, p->terms))
        make_items(c, a->step, &t);
    const struct prefill_args k = arguments(c, a, at, &t);
    if (hopper)
        wgmma_attention(c, &k);
    else
        mma_attention(c, &k);
    if (!p->cut)
        return true;
    const dim3 grid((unsigned)p->n, (unsigned)g_n, (unsigned)(t.tile / WARPS));
    merge_parts<<<grid, THREADS, 0, c->stream>>>(k, t.tile);
    LAUNCHED();
    return true;
}
