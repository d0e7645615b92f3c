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

/* Lay out all arrays; with p->to set, fill them and set `at`. */
static void pack_step(struct packer *p, const struct step *st, struct step_dev *at)
{
    size_t rows = (size_t)st->n_rows * sizeof(int32_t), seqs = ((size_t)st->n_seqs + 1) * sizeof(int32_t);
    size_t pos = pack(p, st->pos, rows), row_seq = pack(p, st->row_seq, rows), seq_row = pack(p, st->seq_row, seqs);
    size_t table_at = pack(p, st->table_at, seqs);
    size_t table = pack(p, st->table, (size_t)st->table_at[st->n_seqs] * sizeof(int32_t));
    if (!p->to)
        return;
    char *dev = (char *)p->to->dev;
    at->pos = (const int32_t *)(dev + pos);
    at->row_seq = (const int32_t *)(dev + row_seq);
    at->seq_row = (const int32_t *)(dev + seq_row);
    at->table_at = (const int32_t *)(dev + table_at);
    at->table = (const int32_t *)(dev + table);
    at->n_rows = st->n_rows;
    at->n_seqs = st->n_seqs;
}

const struct step_dev *stage_step(struct cuda *c, const struct step *step)
{
    struct stage *g = &c->stage;
    if (g->number == step->number)
        return &g->at;
    struct packer count = {}, fill = {&g->step, 0};
    pack_step(&count, step, NULL);
    stage_reserve(&g->step, count.at);
    pack_step(&fill, step, &g->at);
    assert(fill.at == count.at);
    send(c, &g->step, fill.at);
    g->number = step->number;
    return &g->at;
}

void stage_close(struct stage *s)
{
    for (int i = 0; i < STAGE_SLOTS; i++)
        stage_free(&s->slot[i]);
    stage_free(&s->step);
}
