/* cpu_fast_gemm - linear: quantise the rows, cut the output into pieces, let the threads claim them.
 *
 * A piece is some panels of one part for some rows. Rows are cut so that their quantised form stays in the second-level
 * cache while all panels pass; panels so that each thread gets several pieces, none too short to be worth a claim.
 * How it is cut changes no bit (cpu_fast.h).
 */
#include "engine/compute/cpu_fast.h"

#include <assert.h>

#define ROWS_BYTES        (128 << 10) /* quantised activations that are worked on at a time */
#define PIECES_PER_THREAD 4
#define PIECE_WORK        (64 << 10) /* multiply-adds, at least */
#define QUANTISE_ROWS     8          /* rows of a piece of quantising */

struct linear_job {
    struct cpu_fast *f;
    struct fast_acts acts;
    const struct weight *w;
    float *out;
    int32_t n_rows, row_step, row_chunks, panel_step;
};

static int32_t div_up(int32_t a, int32_t b)
{
    return (a + b - 1) / b;
}

static int32_t min_i32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static bool is_block_type(uint32_t dtype)
{
    return dtype == DT_Q4_0 || dtype == DT_Q4_1 || dtype == DT_Q8_0;
}

static void quantise_piece(void *ctx, int32_t piece, int32_t thread)
{
    struct linear_job *j = ctx;
    int32_t row0 = piece * QUANTISE_ROWS;
    j->f->isa->quantise(&j->acts, row0, min_i32(row0 + QUANTISE_ROWS, j->n_rows));
}

/* Pieces of one part for one chunk of rows. */
static int32_t part_pieces(const struct linear_job *j, int32_t part)
{
    return div_up(div_up(j->w->part[part].rows, PANEL), j->panel_step);
}

static int32_t chunk_pieces(const struct linear_job *j)
{
    int32_t n = 0;
    for (int32_t i = 0; i < j->w->n_parts; i++)
        n += part_pieces(j, i);
    return n;
}

static void linear_piece(void *ctx, int32_t piece, int32_t thread)
{
    struct linear_job *j = ctx;
    int32_t per_chunk = chunk_pieces(j), chunk = piece / per_chunk, at = piece % per_chunk, part = 0, column = 0;
    for (; at >= part_pieces(j, part); part++) {
        at -= part_pieces(j, part);
        column += j->w->part[part].rows;
    }
    const struct weight_seg *s = &j->w->part[part];
    struct fast_gemm g = {
        .acts = &j->acts,
        .panels = s->data,
        .dtype = s->dtype,
        .n = s->rows,
        .row0 = chunk * j->row_step,
        .row1 = min_i32((chunk + 1) * j->row_step, j->n_rows),
        .panel0 = at * j->panel_step,
        .panel1 = min_i32((at + 1) * j->panel_step, div_up(s->rows, PANEL)),
        .out = j->out + column,
        .out_stride = j->w->rows,
    };
    j->f->isa->gemm(&g, fast_scratch(j->f, thread));
}

/* Choose row_step and panel_step. */
static void cut(struct linear_job *j)
{
    int32_t k = j->w->cols, rows = ROWS_BYTES / k;
    j->row_step = min_i32(j->n_rows, rows < 16 ? 16 : rows);
    j->row_chunks = div_up(j->n_rows, j->row_step);
    j->row_step = div_up(j->n_rows, j->row_chunks);
    int64_t panels = (int64_t)div_up(j->w->rows, PANEL) * j->row_chunks;
    int64_t fair = panels / ((int64_t)j->f->threads * PIECES_PER_THREAD);
    int64_t least = PIECE_WORK / ((int64_t)j->row_step * k * PANEL) + 1;
    j->panel_step = (int32_t)(fair > least ? fair : least);
    while ((int64_t)chunk_pieces(j) * j->row_chunks > FAST_PIECES_MAX)
        j->panel_step *= 2;
}

void fast_linear(struct backend *be, float *out, const float *x, const struct weight *w, int32_t n_rows)
{
    struct cpu_fast *f = cpu_fast(be);
    assert(n_rows <= f->max_rows && w->cols <= f->max_cols);
    if (n_rows == 0)
        return;
    struct linear_job j = {.f = f, .acts = f->acts, .w = w, .out = out, .n_rows = n_rows};
    j.acts.x = x;
    j.acts.k = w->cols;
    bool quantised = false;
    for (int32_t i = 0; i < w->n_parts; i++)
        quantised |= is_block_type(w->part[i].dtype);
    if (quantised && (int64_t)n_rows * w->cols < PIECE_WORK / 4)
        f->isa->quantise(&j.acts, 0, n_rows);
    else if (quantised)
        fast_pool_run(f->pool, quantise_piece, &j, div_up(n_rows, QUANTISE_ROWS));
    cut(&j);
    fast_pool_run(f->pool, linear_piece, &j, chunk_pieces(&j) * j.row_chunks);
}
