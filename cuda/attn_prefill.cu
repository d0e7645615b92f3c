/* attn_prefill - attention of many rows of a sequence on the tensor cores: cuts them into tiles for the card's kernel.
 *
 * The tiles of a step are the same in every layer, so the list is made and copied once a step. Tiles with the most keys
 * come first: CTAs take them as they get free, and what is left for the end is short.
 */
#include "cuda/prefill.cuh"

#include <algorithm>
#include <assert.h>

void prefill_open(struct cuda *c)
{
    if (c->major == 9)
        wgmma_setup();
}

void prefill_close(struct cuda *c)
{
    stage_free(&c->prefill.items);
    CU(cudaFree(c->prefill.next));
}

static bool is_prefill(const struct step *st, int32_t s)
{
    return st->seq_row[s + 1] - st->seq_row[s] > ATTN_DECODE_ROWS;
}

/* Keys up to the last row of a tile of `tile` vectors. */
static int32_t keys_of(const struct step *st, struct prefill_item it, int32_t group, int32_t tile)
{
    int32_t row = st->seq_row[it.seq] + (it.v0 + tile - 1) / group;
    return st->pos[std::min(row, st->seq_row[it.seq + 1] - 1)] + 1;
}

/* The list of the step's tiles on the card. */
static void make_items(struct cuda *c, const struct step *st, int32_t group, int32_t tile)
{
    struct prefill *p = &c->prefill;
    int32_t n = 0;
    for (int32_t s = 0; s < st->n_seqs; s++)
        if (is_prefill(st, s))
            n += ((st->seq_row[s + 1] - st->seq_row[s]) * group + tile - 1) / tile;
    stage_reserve(&p->items, (size_t)n * sizeof(struct prefill_item));
    struct prefill_item *item = (struct prefill_item *)p->items.host, *end = item;
    for (int32_t s = 0; s < st->n_seqs; s++)
        for (int32_t v = 0; is_prefill(st, s) && v < (st->seq_row[s + 1] - st->seq_row[s]) * group; v += tile)
            *end++ = {s, v};
    assert(end == item + n);
    std::stable_sort(item, end, [=](struct prefill_item a, struct prefill_item b) {
        return keys_of(st, a, group, tile) > keys_of(st, b, group, tile);
    });
    stage_send(c, &p->items, (size_t)n * sizeof *item);
    p->number = st->number;
    p->group = group;
    p->tile = tile;
    p->n = n;
}

bool attn_prefill(struct cuda *c, const struct attn_args *a, const struct step_dev *at)
{
    struct prefill *p = &c->prefill;
    const int32_t group = a->n_heads / (int32_t)a->kv->n_kv_heads, tile = c->major == 9 ? wgmma_tile(a) : 0;
    if (!tile)
        return false;
    if (p->number != a->step->number || p->group != group || p->tile != tile)
        make_items(c, a->step, group, tile);
    struct prefill_work work = {(const struct prefill_item *)p->items.dev, p->n, p->next};
    const int32_t width = a->n_heads * (int32_t)a->kv->head_dim;
    struct prefill_out out = {a->out.o, width, a->out.lse_ln, false};
    if (a->out_input)
        out = {a->out_input, cuda_pad(width), a->out.lse_ln, true};
    wgmma_attention(a, &out, at, &work, c->n_sm, c->stream);
    return true;
}
