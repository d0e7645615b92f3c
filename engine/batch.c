/* batch - see batch.h. */
#include "engine/batch.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct batch {
    struct step step;
    uint32_t max_rows, max_seqs;
    uint64_t max_table;
    int32_t *ids, *after, *pos, *row_seq; /* [max_rows] */
    int32_t *seq_row, *table_at;          /* [max_seqs + 1] */
    int32_t *table, *out_row;
    struct sample_row *draws;   /* [max_seqs] */
    struct sample_out *results; /* [max_seqs] */
};

int batch_open(struct batch **out, uint32_t max_rows, uint32_t max_seqs, uint32_t max_blocks)
{
    struct batch *b = calloc(1, sizeof *b);
    if (!b)
        return -ENOMEM;
    b->max_rows = max_rows;
    b->max_seqs = max_seqs;
    b->max_table = (uint64_t)max_seqs * max_blocks;
    b->ids = calloc(max_rows, sizeof *b->ids);
    b->after = calloc(max_rows, sizeof *b->after);
    b->pos = calloc(max_rows, sizeof *b->pos);
    b->row_seq = calloc(max_rows, sizeof *b->row_seq);
    b->seq_row = calloc(max_seqs + 1, sizeof *b->seq_row);
    b->table_at = calloc(max_seqs + 1, sizeof *b->table_at);
    b->table = calloc(b->max_table, sizeof *b->table);
    b->out_row = calloc(max_seqs, sizeof *b->out_row);
    b->draws = calloc(max_seqs, sizeof *b->draws);
    b->results = calloc(max_seqs, sizeof *b->results);
    if (!b->ids || !b->after || !b->pos || !b->row_seq || !b->seq_row || !b->table_at || !b->table || !b->out_row ||
        !b->draws || !b->results) {
        batch_close(b);
        return -ENOMEM;
    }
    *out = b;
    return 0;
}

void batch_close(struct batch *b)
{
    if (!b)
        return;
    free(b->ids);
    free(b->after);
    free(b->pos);
    free(b->row_seq);
    free(b->seq_row);
    free(b->table_at);
    free(b->table);
    free(b->out_row);
    free(b->draws);
    free(b->results);
    free(b);
}

/* Rows, blocks and draws of one run. */
static void add_run(struct batch *b, const struct plan_run *r, const struct seq *q)
{
    struct step *t = &b->step;
    assert((uint32_t)t->n_rows + r->n_rows <= b->max_rows && r->begin + r->n_rows <= seq_planned(q));
    b->seq_row[t->n_seqs] = t->n_rows;
    for (uint32_t i = 0; i < r->n_rows; i++, t->n_rows++) {
        bool known = r->begin + i < q->n_known; /* else the step before draws it */
        b->ids[t->n_rows] = known ? q->ids[r->begin + i] : 0;
        b->after[t->n_rows] = known ? 0 : (int32_t)q->draw + 1;
        b->pos[t->n_rows] = (int32_t)(r->begin + i);
        b->row_seq[t->n_rows] = t->n_seqs;
    }
    size_t n = table_blocks_for(q->table.block_tokens, r->begin + r->n_rows);
    int32_t at = b->table_at[t->n_seqs];
    assert(n <= q->table.n && (uint64_t)at + n <= b->max_table);
    for (size_t i = 0; i < n; i++)
        b->table[at + (int32_t)i] = q->table.blocks[i].id;
    t->n_seqs++;
    b->table_at[t->n_seqs] = at + (int32_t)n;
    b->seq_row[t->n_seqs] = t->n_rows;
    for (uint32_t c = 0; c < r->n_draws; c++, t->n_out++) { /* a fork draws each choice from the same row */
        b->out_row[t->n_out] = t->n_rows - 1;
        seq_sample_row(q, q->choice + c, &b->draws[t->n_out]);
    }
}

const struct step *batch_build(struct batch *b, const struct plan *p, struct seq *const *slots)
{
    b->step = (struct step){
        .number = p->step,
        .ids = b->ids,
        .after = b->after,
        .pos = b->pos,
        .row_seq = b->row_seq,
        .seq_row = b->seq_row,
        .table = b->table,
        .table_at = b->table_at,
        .out_row = b->out_row,
    };
    b->table_at[0] = 0;
    for (uint32_t i = 0; i < p->n_runs; i++)
        add_run(b, &p->runs[i], slots[p->runs[i].slot]);
    assert((uint32_t)b->step.n_rows == p->n_rows && (uint32_t)b->step.n_out == p->n_draws);
    b->step.decode = p->n_decode == p->n_runs;
    return &b->step;
}

const struct sample_row *batch_draws(const struct batch *b)
{
    return b->draws;
}

struct sample_out *batch_results(struct batch *b)
{
    return b->results;
}
