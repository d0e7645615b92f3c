/* stage - the step's arrays on their way to the card: packed into pinned memory, one copy, nothing waits.
 *
 * What a step waits for is fetched by a kernel, over the bus: the copy engines may have megabytes of KV blocks before
 * them (moves.cu), and turn to another stream's copy when a piece of that is done. Beside 62 GB/s of blocks a step's
 * few KiB took 3 ms so.
 *
 * Memory is taken at open for the largest step. Arrays whose length is fixed by the counts of rows and sequences come
 * first, the block table last; so steps of the same counts have them at the same place, and a recorded pass finds them.
 */
#include "cuda/cuda.cuh"

#include <algorithm>
#include <assert.h>
#include <string.h>

#define PULL_THREADS 256
#define PULL_CTAS    64u

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

/* Grid: as many CTAs of PULL_THREADS as there are pieces of 16 bytes, at most PULL_CTAS. A thread owns every
 * grid-th piece. Latency bound: 2 us over the bus. */
static __global__ void __launch_bounds__(PULL_THREADS) pull_kernel(uint4 *to, const uint4 *from, uint32_t n)
{
    for (uint32_t i = blockIdx.x * PULL_THREADS + threadIdx.x; i < n; i += gridDim.x * PULL_THREADS)
        to[i] = from[i];
}

void stage_pull(struct stage_slot *s, size_t bytes, cudaStream_t stream)
{
    const uint32_t n = (uint32_t)((bytes + 15) / 16);
    const dim3 ctas(std::min((n + PULL_THREADS - 1) / PULL_THREADS, PULL_CTAS));
    if (n > 0) {
        pull_kernel<<<ctas, PULL_THREADS, 0, stream>>>((uint4 *)s->dev, (const uint4 *)s->host, n);
        LAUNCHED();
    }
    CU(cudaEventRecord(s->copied, stream));
}

void stage_send(struct cuda *c, struct stage_slot *s, size_t bytes)
{
    CU(cudaMemcpyAsync(s->dev, s->host, bytes, cudaMemcpyHostToDevice, c->stream));
    CU(cudaEventRecord(s->copied, c->stream));
}

/* -- the step ---------------------------------------------------------------------------------------------------- */

enum array { IDS, AFTER, POS, ROW_SEQ, SEQ_ROW, TABLE_AT, OUT_ROW, TABLE, N_ARRAYS };

/* Where each array begins, in bytes; returns the bytes of all. */
static size_t lay_out(size_t at[N_ARRAYS], int64_t rows, int64_t seqs, int64_t outs, int64_t table)
{
    const int64_t n[N_ARRAYS] = {rows, rows, rows, rows, seqs + 1, seqs + 1, outs, table};
    size_t end = 0;
    for (int i = 0; i < N_ARRAYS; i++) {
        at[i] = end;
        end = (end + (size_t)n[i] * sizeof(int32_t) + 15) & ~(size_t)15;
    }
    return end;
}

void stage_open(struct cuda *c, int64_t max_table)
{
    size_t at[N_ARRAYS];
    stage_reserve(&c->stage.slot, lay_out(at, c->max_rows, c->max_seqs, c->max_seqs, max_table));
    CU(cudaEventRecord(c->stage.slot.copied, c->stream));
}

static void put(int32_t *to, const int32_t *from, int32_t n)
{
    if (from)
        memcpy(to, from, (size_t)n * sizeof *to);
    else
        memset(to, 0, (size_t)n * sizeof *to);
}

/* Rows beyond the step's own: each a sequence without blocks, at position -1. */
static void fill_up(int32_t *const array[N_ARRAYS], int32_t n, int32_t want)
{
    for (int32_t t = n; t < want; t++) {
        array[IDS][t] = array[AFTER][t] = 0;
        array[POS][t] = -1;
        array[ROW_SEQ][t] = array[OUT_ROW][t] = t;
        array[SEQ_ROW][t + 1] = t + 1;
        array[TABLE_AT][t + 1] = array[TABLE_AT][t];
    }
}

void stage_put(struct cuda *c, const struct step *st, int32_t n_rows)
{
    struct stage *g = &c->stage;
    bool more = n_rows > st->n_rows;
    int32_t n_seqs = more ? n_rows : st->n_seqs, n_out = more ? n_rows : st->n_out;
    int32_t n_table = st->table_at ? st->table_at[st->n_seqs] : 0, *host[N_ARRAYS];
    const int32_t *dev[N_ARRAYS];
    size_t at[N_ARRAYS], bytes = lay_out(at, n_rows, n_seqs, n_out, n_table);
    assert(!more || st->decode);
    stage_reserve(&g->slot, bytes);
    for (int i = 0; i < N_ARRAYS; i++) {
        host[i] = (int32_t *)((char *)g->slot.host + at[i]);
        dev[i] = (const int32_t *)((char *)g->slot.dev + at[i]);
    }
    put(host[IDS], st->ids, st->n_rows);
    put(host[AFTER], st->after, st->n_rows);
    put(host[POS], st->pos, st->n_rows);
    put(host[ROW_SEQ], st->row_seq, st->n_rows);
    put(host[SEQ_ROW], st->seq_row, st->n_seqs + 1);
    put(host[TABLE_AT], st->table_at, st->n_seqs + 1);
    put(host[OUT_ROW], st->out_row, st->n_out);
    put(host[TABLE], st->table, n_table);
    if (more)
        fill_up(host, st->n_rows, n_rows);
    stage_pull(&g->slot, bytes, c->stream);
    g->number = st->number;
    g->at = {dev[IDS],      dev[AFTER],   dev[POS],   dev[ROW_SEQ], dev[SEQ_ROW],
             dev[TABLE_AT], dev[OUT_ROW], dev[TABLE], n_rows,       n_seqs};
    g->step = *st;
    g->step.n_rows = n_rows;
    g->step.n_seqs = n_seqs;
    g->step.n_out = n_out;
    g->step.ids = host[IDS];
    g->step.after = host[AFTER];
    g->step.pos = host[POS];
    g->step.row_seq = host[ROW_SEQ];
    g->step.seq_row = host[SEQ_ROW];
    g->step.table_at = host[TABLE_AT];
    g->step.out_row = host[OUT_ROW];
    g->step.table = host[TABLE];
}

const struct step_dev *stage_step(struct cuda *c, const struct step *st)
{
    if (c->stage.number != st->number)
        stage_put(c, st, st->n_rows);
    return &c->stage.at;
}

void stage_close(struct stage *s)
{
    stage_free(&s->slot);
}
