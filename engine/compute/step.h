/* step - what one forward pass works on, as plain arrays in backend-readable host memory. C17 and C++17.
 *
 * T rows (tokens) of S sequences. Rows of one sequence are consecutive and in position order; a sequence is a decode
 * (one row) or a prefill chunk (many). Built by engine/batch from a plan; read by models and backends; valid until the
 * step has finished. Later features add arrays here (adapter id per row, mask slot per row, tables per group).
 */
#ifndef HEARTH_COMPUTE_STEP_H
#define HEARTH_COMPUTE_STEP_H

#include <stdint.h>

struct step {
    uint64_t number;      /* 1, 2, ...: names the step in block release; new for each step, so that a backend can
                           * tell whether it has these arrays on its device already */
    int32_t n_rows;       /* T */
    int32_t n_seqs;       /* S */
    int32_t n_out;        /* R rows that want logits, in row order */
    int32_t decode;       /* 1: every sequence has one row and wants its logits, so S = R = T, out_row[i] = i */
    const int32_t *ids;   /* [T] token ids */
    const int32_t *after; /* [T] 0: the token is ids[t]; i + 1: it is what draw i of the `sample` before chose. NULL:
                           * all are known */
    const int32_t *pos; /* [T] position of each row in its sequence, from 0. A row that only fills up (pass_begin) is a
                         * sequence of its own without blocks, at -1: it sees no key, and none is written */
    const int32_t *row_seq;  /* [T] which of the S sequences */
    const int32_t *seq_row;  /* [S + 1] first row of each sequence; seq_row[S] = T */
    const int32_t *table;    /* block ids of all sequences, one after the other */
    const int32_t *table_at; /* [S + 1] where the block ids of sequence s begin in `table` */
    const int32_t *out_row;  /* [R] row index of each logits row */
};

/* The token of row t; drawn: what the last `sample` chose. */
static inline int32_t step_id(const struct step *s, int32_t t, const int32_t *drawn)
{
    return s->after && s->after[t] ? drawn[s->after[t] - 1] : s->ids[t];
}

#endif
