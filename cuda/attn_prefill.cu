/* attn_prefill - attention of many rows of a sequence on the tensor cores: cuts them into tiles for the card's kernel.
 *
 * The tiles of a step are the same in every layer, so the list is made and copied once a step. Tiles with the most keys
 * come first: CTAs take them as they get free, and what is left for the end is short.
 *
 * A few rows over many keys (a new turn after a long history) would leave most SMs idle: their keys are cut into parts,
 * and a second launch merges the partial results. How many parts depends on the sequence alone.
 *
 * CTAs drift apart as they go from tile to tile, and over very many keys what lies between the first and the last of
 * them is soon more than L2 holds: there each kv head is a launch, which puts them in step again.
 *
 * The kernels read kv16. The keys of kv8 that a call sees are widened before it (attn_widen.cu), into memory that was
 * taken at start: where it does not hold them all at once, for some sequences and kv heads after the others.
 */
#include "cuda/prefill.cuh"

#include <algorithm>
#include <assert.h>

#define PART_KEYS 2048      /* a part has no fewer */
#define LONG_KEYS (1 << 18) /* see is_long */
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
    CU(cudaFree(c->prefill.wide));
}

/* -- the list ---------------------------------------------------------------------------------------------------- */

static bool same(struct prefill_terms a, struct prefill_terms b)
{
    return a.number == b.number && a.group == b.group && a.n_kv_heads == b.n_kv_heads && a.tile == b.tile &&
           a.head_dim == b.head_dim && a.window == b.window && a.key_begin == b.key_begin && a.key_end == b.key_end &&
           a.seq0 == b.seq0 && a.seq1 == b.seq1 && a.block_tokens == b.block_tokens;
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

/* The blocks [*first, end) of its table that sequence s sees and that are widened. Returns how many. */
static int32_t blocks_of(const struct step *st, int32_t s, const struct prefill_terms *t, int32_t *first)
{
    if (!t->block_tokens || !tiles_of(st, s, t))
        return 0;
    int32_t begin = t->key_begin, end = std::min(t->key_end, st->pos[st->seq_row[s + 1] - 1] + 1);
    if (t->window)
        begin = std::max(begin, st->pos[st->seq_row[s]] - t->window + 1);
    *first = begin / t->block_tokens;
    return begin < end ? (end - 1) / t->block_tokens - *first + 1 : 0;
}

/* Blocks to widen, and tables of what they become: the n-th that is seen becomes block n. Returns how many. */
static int32_t put_blocks(int32_t *block, int32_t *table, const struct step *st, const struct prefill_terms *t)
{
    int32_t n = 0, first = 0;
    for (int32_t s = t->seq0; s < t->seq1; s++)
        for (int32_t i = 0, at = st->table_at[s], seen = blocks_of(st, s, t, &first); i < seen; i++, n++) {
            block[n] = st->table[at + first + i];
            table[at + first + i] = n;
        }
    return n;
}

/* The list of the tiles of the terms' sequences, on the card. */
static void make_items(struct cuda *c, const struct step *st, const struct prefill_terms *t)
{
    struct prefill *p = &c->prefill;
    int32_t room = 0, slots = 0, ids = t->block_tokens ? st->table_at[st->n_seqs] : 0;
    for (int32_t s = t->seq0; s < t->seq1; s++)
        room += tiles_of(st, s, t) ? std::max(tiles_of(st, s, t), c->n_sm) : 0;
    const size_t bytes = (size_t)room * sizeof(struct prefill_item), id_bytes = (size_t)ids * sizeof(int32_t);
    stage_reserve(&p->items, bytes + 2 * id_bytes);
    struct prefill_item *item = (struct prefill_item *)p->items.host, *end = item;
    for (int32_t s = t->seq0; s < t->seq1; s++)
        end = put_items(end, c, st, s, t, &slots);
    assert(end <= item + room);
    std::stable_sort(item, end, [=](const struct prefill_item &a, const struct prefill_item &b) {
        return keys_of(st, a.seq, a.v0, t) / a.parts > keys_of(st, b.seq, b.v0, t) / b.parts;
    });
    if (ids)
        p->n_blocks = put_blocks((int32_t *)(item + room), (int32_t *)(item + room) + ids, st, t);
    p->block = (const int32_t *)((char *)p->items.dev + bytes);
    p->table = p->block + ids;
    stage_pull(&p->items, ids ? bytes + 2 * id_bytes : (size_t)(end - item) * sizeof *item, c->stream);
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
        a.out.lse_ln[(size_t)row * (size_t)a.out.heads + head] = (max + log2f(sum)) * LN_2;
}

/* -- a call ------------------------------------------------------------------------------------------------------ */

/* kv: the heads from g0 on, which p->table finds where they are widened. */
static struct prefill_args arguments(const struct cuda *c, const struct attn_args *a, const struct step_dev *at,
                                     const struct prefill_terms *t, const struct kv_view *kv, int32_t g0)
{
    const struct prefill *p = &c->prefill;
    const uint64_t slots = PREFILL_PARTIALS / slot_bytes(t);
    struct prefill_args k = prefill_args_of(a, at, kv, g0);
    if (t->block_tokens)
        k.step.table = p->table;
    k.work = {(const struct prefill_item *)p->items.dev,
              p->n,
              NULL,
              p->next,
              p->partials,
              p->partials + slots * (uint64_t)t->tile * (uint64_t)t->head_dim,
              t->tile};
    /* A head at a time keeps its K and V in L2; with few tiles a head the last would leave SMs idle. */
    k.heads_at_once = p->n >= 3 * c->n_sm / 2 ? 1 : t->n_kv_heads;
    return k;
}

/* The kernels' launches for the listed tiles and the heads of kv, the first of them g0. */
static void attend(struct cuda *c, const struct attn_args *a, const struct step_dev *at, const struct kv_view *kv,
                   int32_t g0, bool hopper)
{
    const struct prefill *p = &c->prefill;
    const struct prefill_terms *t = &p->terms;
    const struct prefill_args k = arguments(c, a, at, t, kv, g0);
    if (hopper)
        wgmma_attention(c, &k);
    else
        mma_attention(c, &k);
    if (!p->cut)
        return;
    const dim3 grid((unsigned)p->n, (unsigned)t->n_kv_heads, (unsigned)(t->tile / WARPS));
    merge_parts<<<grid, THREADS, 0, c->stream>>>(k, t->tile);
    LAUNCHED();
}

/* Tiles of a kv head enough for all SMs, over so many keys that their L2 holds a small part. */
static bool is_long(const struct cuda *c, const struct step *st, const struct prefill_terms *t)
{
    int32_t tiles = 0, keys = 0;
    for (int32_t s = t->seq0; s < t->seq1; s++)
        if (tiles_of(st, s, t)) {
            tiles += tiles_of(st, s, t);
            keys = std::max(keys, keys_of(st, s, 0, t));
        }
    return tiles >= 3 * c->n_sm / 2 && keys >= LONG_KEYS;
}

/* The next launches: sequences from t->seq0 on, as many as have room when their keys are widened, a kv head at least;
 * then as many of the g_n heads at a time as have, all in equal launches. */
static void next_launches(struct prefill_terms *t, const struct cuda *c, const struct step *st, int64_t room,
                          int32_t g_n)
{
    int64_t blocks = 0;
    int32_t first;
    for (t->seq1 = t->seq0; t->seq1 < st->n_seqs; t->seq1++) {
        const int32_t more = blocks_of(st, t->seq1, t, &first);
        if (blocks + more > room)
            break;
        blocks += more;
    }
    t->n_kv_heads = blocks ? (int32_t)std::min<int64_t>(g_n, room / blocks) : g_n;
    while (g_n % t->n_kv_heads)
        t->n_kv_heads--;
    if (is_long(c, st, t))
        t->n_kv_heads = 1;
}

/* The heads of the launch from kv head g on, as the kernels read them. */
static struct kv_view view_of(struct cuda *c, const struct kv_view *kv, int32_t g)
{
    const struct prefill *p = &c->prefill;
    struct kv_view v = *kv;
    if (p->terms.block_tokens) {
        v = widen_view(kv, p->wide, p->terms.n_kv_heads);
        widen(c, &v, kv, g, p->block, p->n_blocks);
        return v;
    }
    v.layer_offset += (uint64_t)g * kv->head_stride;
    v.n_kv_heads = (uint32_t)p->terms.n_kv_heads;
    return v;
}

bool attn_prefill(struct cuda *c, const struct attn_args *a, const struct step_dev *at)
{
    const struct step *st = a->step;
    const int32_t g_n = (int32_t)a->kv->n_kv_heads;
    const bool wide = a->kv->format == KV_FORMAT_KV8;
    const struct kv_view kv = wide ? widen_view(a->kv, c->prefill.wide, g_n) : *a->kv;
    const int64_t room = wide ? (int64_t)(c->prefill.wide_bytes / widen_bytes(a->kv)) : INT64_MAX;
    const int32_t hopper = c->major == 9 ? wgmma_tile(&kv) : 0;
    struct prefill_terms t = {};
    t.number = st->number;
    t.group = a->n_heads / g_n;
    t.head_dim = (int32_t)a->kv->head_dim;
    t.tile = hopper ? hopper : mma_tile(&kv);
    t.window = a->window;
    t.key_begin = a->key_begin;
    t.key_end = a->key_end;
    t.block_tokens = wide ? (int32_t)a->kv->block_tokens : 0;
    if (!t.tile || a->q_stride % 4)
        return false;
    for (int32_t s = 0, first; s < st->n_seqs; s++)
        if (blocks_of(st, s, &t, &first) > room)
            return false;
    for (; t.seq0 < st->n_seqs; t.seq0 = t.seq1) {
        next_launches(&t, c, st, room, g_n);
        if (!same(t, c->prefill.terms))
            make_items(c, st, &t);
        for (int32_t g = 0; c->prefill.n && g < g_n; g += t.n_kv_heads) {
            const struct kv_view part = view_of(c, a->kv, g);
            attend(c, a, at, &part, g, hopper);
        }
    }
    return true;
}
