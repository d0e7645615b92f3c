/* cpu_fast_gemm - linear: quantise the rows, cut the output into pieces, let the threads claim them.
 *
 * A piece is some panels of the weight (its parts one after the other) for some rows. Rows are cut so that their
 * quantised form stays in the second-level cache while all panels pass; panels so that each thread gets the same number
 * of pieces, more of them where there is more to do. How it is cut changes no bit (cpu_fast.h).
 *
 * Cost, SmolLM2-135M Q4_1 on two Zen 3 cores at 3.2 GHz (make bench-ops, bench-model). The floors: a decode step reads
 * 96.4 MB of weights at 36 GB/s, 2.7 ms; 512 tokens of prefill are 54.4 G multiply-adds at 2 x 102 G/s of madd, 267 ms.
 *     decode, 1 row     4.3 ms a step: 62 % of the read floor (linears 3.7; the rest is attention, norms, hand-overs)
 *     decode, 8 rows   12.7 ms: 8 rows are bound by arithmetic, 110 G/s, 54 % of madd alone
 *     prefill, 512      568 ms: linears 448, 60 % of madd alone (each madd takes an add and a load beside it, and a
 *                       block of 32 inputs four float operations), attention 77, the rest 12, each alone
 */
#include "engine/compute/cpu_fast.h"

#include <assert.h>

#define ROWS_BYTES        (256 << 10) /* quantised activations that are worked on at a time */
#define PIECE_WORK        (256 << 10) /* multiply-adds that are worth a further piece: 2 to 4 us */
#define PIECES_PER_THREAD 16          /* at most */
#define QUANTISE_WORK     (16 << 10)  /* values that are worth waking others */
#define QUANTISE_ROWS     8           /* rows of a piece of quantising */

struct linear_job {
    struct cpu_fast *f;
    struct fast_acts acts;
    const struct weight *w;
    float *out;
    int32_t n_rows, row_step, row_chunks, panels, panel_step, per_chunk;
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

static int32_t panels_of(const struct weight_seg *s)
{
    return div_up(s->rows, PANEL);
}

/* Panels [panel0, panel1) of the whole weight: what of them lies in each part. */
static void linear_piece(void *ctx, int32_t piece, int32_t thread)
{
    struct linear_job *j = ctx;
    int32_t chunk = piece / j->per_chunk, panel0 = piece % j->per_chunk * j->panel_step, column = 0;
    int32_t panel1 = min_i32(panel0 + j->panel_step, j->panels);
    for (int32_t i = 0; i < j->w->n_parts && panel1 > 0; i++) {
        const struct weight_seg *s = &j->w->part[i];
        struct fast_gemm g = {
            .acts = &j->acts,
            .panels = s->data,
            .dtype = s->dtype,
            .n = s->rows,
            .row0 = chunk * j->row_step,
            .row1 = min_i32((chunk + 1) * j->row_step, j->n_rows),
            .panel0 = panel0 > 0 ? panel0 : 0,
            .panel1 = min_i32(panel1, panels_of(s)),
            .out = j->out + column,
            .out_stride = j->w->rows,
        };
        if (g.panel0 < g.panel1)
            j->f->isa->gemm(&g, fast_scratch(j->f, thread));
        panel0 -= panels_of(s);
        panel1 -= panels_of(s);
        column += s->rows;
    }
}

/* Choose row_step and panel_step. */
static void cut(struct linear_job *j)
{
    int32_t k = j->w->cols, rows = ROWS_BYTES / k / (int32_t)sizeof(int16_t), threads = j->f->threads;
    j->row_chunks = div_up(j->n_rows, rows < 16 ? 16 : rows);
    j->row_step = div_up(j->n_rows, j->row_chunks);
    for (int32_t i = 0; i < j->w->n_parts; i++)
        j->panels += panels_of(&j->w->part[i]);
    int64_t share = (int64_t)j->n_rows * k * j->w->rows / threads / PIECE_WORK;
    int32_t each = share < 1 ? 1 : share < PIECES_PER_THREAD ? (int32_t)share : PIECES_PER_THREAD;
    j->panel_step = div_up(j->panels, div_up(threads * each, j->row_chunks));
    j->per_chunk = div_up(j->panels, j->panel_step);
}

void fast_linear(struct backend *be, float *out, const void *x, const struct weight *w, int32_t n_rows)
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
    if (quantised && (int64_t)n_rows * w->cols < QUANTISE_WORK)
        f->isa->quantise(&j.acts, 0, n_rows);
    else if (quantised)
        fast_pool_run(f->pool, quantise_piece, &j, div_up(n_rows, QUANTISE_ROWS));
    cut(&j);
    fast_pool_run(f->pool, linear_piece, &j, j.per_chunk * j.row_chunks);
}
