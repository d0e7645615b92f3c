/* stage - host arrays on their way to the card: pinned memory, one copy each, nothing waits. */
#include "cuda/cuda.cuh"

#include <assert.h>
#include <string.h>

void stage_reserve(struct stage_slot *s, size_t bytes)
{
    if (s->bytes) /* before the host part is written again */
        CU(cudaEventSynchronize(s->copied));
    if (bytes <= s->bytes)
        return;
    stage_free(s);
    size_t room = 4096;
    while (room < bytes)
        room *= 2;
    CU(cudaMallocHost(&s->host, room));
    CU(cudaMalloc(&s->dev, room));
    CU(cudaEventCreateWithFlags(&s->copied, cudaEventDisableTiming));
    s->bytes = room;
}

/* Kernels that read the old memory may be queued: cudaFree waits for them. */
void stage_free(struct stage_slot *s)
{
    if (!s->bytes)
        return;
    CU(cudaEventDestroy(s->copied));
    CU(cudaFree(s->dev));
    CU(cudaFreeHost(s->host));
    *s = {};
}

static void send(struct cuda *c, struct stage_slot *s, size_t bytes)
{
    CU(cudaMemcpyAsync(s->dev, s->host, bytes, cudaMemcpyHostToDevice, c->stream));
    CU(cudaEventRecord(s->copied, c->stream));
}

const int32_t *stage_ints(struct cuda *c, const int32_t *host, int32_t n)
{
    struct stage_slot *s = &c->stage.slot[c->stage.turn++ % STAGE_SLOTS];
    size_t bytes = (size_t)n * sizeof *host;
    stage_reserve(s, bytes);
    memcpy(s->host, host, bytes);
    send(c, s, bytes);
    return (const int32_t *)s->dev;
}

/* -- the step ---------------------------------------------------------------------------------------------------- */

/* Arrays one after the other in a slot, each aligned to 16 bytes. Without a slot it only counts. */
struct packer {
    struct stage_slot *to;
    size_t at;
};

static size_t pack(struct packer *p, const void *from, size_t bytes)
{
    size_t at = p->at;
    if (p->to && from)
        memcpy((char *)p->to->host + at, from, bytes);
    p->at = (at + bytes + 15) & ~(size_t)15;
    return at;
}

struct tiling {
    const struct step *step;
    int32_t group, n_kv_heads, d;
};

static int32_t pieces_of(const struct step *st, int32_t row)
{
    return st->pos[row] / ATTN_PIECE + 1;
}

/* Sequences with a few rows are split over their keys (the card has more SMs than they have vectors); the others have
 * tiles enough. */
static bool wants_split(const struct tiling *t, int32_t s)
{
    int32_t n_rows = t->step->seq_row[s + 1] - t->step->seq_row[s];
    return n_rows * t->group <= attn_tile(ATTN_CLASSES - 1) && pieces_of(t->step, t->step->seq_row[s + 1] - 1) > 1;
}

static uint64_t split_bytes(const struct tiling *t, int32_t pieces, int32_t nv)
{
    return (uint64_t)pieces * (uint64_t)t->n_kv_heads * (uint64_t)nv * (uint64_t)(t->d + 2) * sizeof(float);
}

/* Make the work of sequence s; items[cls] and counts grow. *slot: vectors handed out so far. NULL items only count. */
static void tile_sequence(const struct tiling *t, int32_t s, struct attn_item *items[ATTN_CLASSES],
                          int32_t n[ATTN_CLASSES], struct attn_split *split, int64_t *slot)
{
    const struct step *st = t->step;
    int32_t row0 = st->seq_row[s], n_vec = (st->seq_row[s + 1] - row0) * t->group;
    int cls = attn_class(n_vec);
    int32_t nv = attn_tile(cls), pieces = pieces_of(st, st->seq_row[s + 1] - 1);
    uint64_t used = (uint64_t)*slot * (uint64_t)(t->d + 2) * sizeof(float);
    if (wants_split(t, s) && used + split_bytes(t, pieces, nv) <= ATTN_PARTIALS) {
        for (int32_t p = 0; p < pieces; p++, n[cls]++)
            if (items)
                items[cls][n[cls]] = {s, 0, p, p + 1, *slot + (int64_t)p * t->n_kv_heads * nv};
        for (int32_t r = row0; split && r < st->seq_row[s + 1]; r++)
            split[r] = {*slot, (r - row0) * t->group, nv, pieces};
        *slot += (int64_t)pieces * t->n_kv_heads * nv;
        return;
    }
    for (int32_t v = 0; v < n_vec; v += nv, n[cls]++) {
        int32_t last = v + nv < n_vec ? v + nv - 1 : n_vec - 1;
        if (items)
            items[cls][n[cls]] = {s, v, 0, pieces_of(st, row0 + last / t->group), -1};
    }
}

static int64_t tile_all(const struct tiling *t, struct attn_item *items[ATTN_CLASSES], int32_t n[ATTN_CLASSES],
                        struct attn_split *split)
{
    int64_t slot = 0;
    memset(n, 0, ATTN_CLASSES * sizeof *n);
    for (int32_t s = 0; s < t->step->n_seqs; s++)
        tile_sequence(t, s, items, n, split, &slot);
    return slot;
}

/* Lay out all arrays; with p->to set, fill them and set `at`. */
static void pack_step(struct packer *p, const struct tiling *t, struct step_dev *at,
                      const int32_t n_items[ATTN_CLASSES])
{
    const struct step *st = t->step;
    size_t rows = (size_t)st->n_rows * sizeof(int32_t), seqs = ((size_t)st->n_seqs + 1) * sizeof(int32_t);
    size_t pos = pack(p, st->pos, rows), row_seq = pack(p, st->row_seq, rows), seq_row = pack(p, st->seq_row, seqs);
    size_t table_at = pack(p, st->table_at, seqs);
    size_t table = pack(p, st->table, (size_t)st->table_at[st->n_seqs] * sizeof(int32_t));
    size_t split = pack(p, NULL, (size_t)st->n_rows * sizeof(struct attn_split)), item[ATTN_CLASSES];
    for (int i = 0; i < ATTN_CLASSES; i++)
        item[i] = pack(p, NULL, (size_t)n_items[i] * sizeof(struct attn_item));
    if (!p->to)
        return;
    char *host = (char *)p->to->host, *dev = (char *)p->to->dev;
    struct attn_item *items[ATTN_CLASSES];
    for (int i = 0; i < ATTN_CLASSES; i++)
        items[i] = (struct attn_item *)(host + item[i]);
    memset(host + split, 0, (size_t)st->n_rows * sizeof(struct attn_split));
    *at = {};
    at->any_split = tile_all(t, items, at->n_items, (struct attn_split *)(host + split)) > 0;
    at->pos = (const int32_t *)(dev + pos);
    at->row_seq = (const int32_t *)(dev + row_seq);
    at->seq_row = (const int32_t *)(dev + seq_row);
    at->table_at = (const int32_t *)(dev + table_at);
    at->table = (const int32_t *)(dev + table);
    at->split = (const struct attn_split *)(dev + split);
    for (int i = 0; i < ATTN_CLASSES; i++)
        at->item[i] = (const struct attn_item *)(dev + item[i]);
}

const struct step_dev *stage_step(struct cuda *c, const struct step *step, int32_t group, int32_t n_kv_heads, int32_t d)
{
    struct stage *g = &c->stage;
    if (g->number == step->number && g->group == group)
        return &g->at;
    struct tiling t = {step, group, n_kv_heads, d};
    struct packer count = {}, fill = {&g->step, 0};
    int32_t n[ATTN_CLASSES];
    tile_all(&t, NULL, n, NULL);
    pack_step(&count, &t, NULL, n);
    stage_reserve(&g->step, count.at);
    pack_step(&fill, &t, &g->at, n);
    assert(fill.at == count.at);
    send(c, &g->step, fill.at);
    g->number = step->number;
    g->group = group;
    return &g->at;
}

void stage_close(struct stage *s)
{
    for (int i = 0; i < STAGE_SLOTS; i++)
        stage_free(&s->slot[i]);
    stage_free(&s->step);
}
