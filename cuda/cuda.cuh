/* cuda - inside of the CUDA backend: its state, checked calls, the step on the card.
 *
 * One stream carries everything, so ops run in the order of the calls and need no events between them. Host arrays of a
 * call go through pinned memory (stage.cu), so a call returns before the copy is done and the caller's array may
 * change.
 *
 * An error of the CUDA runtime is sticky: the context is lost and with it the weights and the cache. So each call is
 * checked on the spot, and a failure logs file, line and call, and ends the process; the front starts a new engine.
 */
#ifndef HEARTH_CUDA_CUDA_CUH
#define HEARTH_CUDA_CUDA_CUH

#include "engine/compute/backend.h"

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

/* Ends the process. what: the call; why: the library's text. */
[[noreturn]] void cuda_die(const char *file, int line, const char *what, const char *why);

#define CU(call)                                                            \
    do {                                                                    \
        cudaError_t cu_rc = (call);                                         \
        if (cu_rc != cudaSuccess)                                           \
            cuda_die(__FILE__, __LINE__, #call, cudaGetErrorString(cu_rc)); \
    } while (0)
#define LT(call)                                                                 \
    do {                                                                         \
        cublasStatus_t lt_rc = (call);                                           \
        if (lt_rc != CUBLAS_STATUS_SUCCESS)                                      \
            cuda_die(__FILE__, __LINE__, #call, cublasLtGetStatusString(lt_rc)); \
    } while (0)
/* After a launch: a bad configuration shows here, a fault in the kernel at a later call. */
#define LAUNCHED() CU(cudaGetLastError())

/* -- the step on the card */

/* Device copies of the arrays of struct step. */
struct step_dev {
    const int32_t *ids, *after, *pos, *row_seq, *seq_row, *table_at, *out_row, *table;
    int32_t n_rows, n_seqs;
};

/* A pinned buffer, the same bytes on the card, and when the copy between them is done. */
struct stage_slot {
    void *host, *dev;
    size_t bytes;
    cudaEvent_t copied;
};

struct stage {
    struct stage_slot slot; /* arrays of the step `number`, */
    uint64_t number;
    struct step_dev at; /* where they are on the card, */
    struct step step;   /* and the step filled up, with its arrays in the slot's host part */
};

#define PASS_BUCKETS 35 /* sizes of decode steps that are recorded: 1 to 256 rows */
#define PASS_STEPS   4  /* ends of steps that are kept: more than may be queued */

struct pass {
    bool ran[PASS_BUCKETS];
    cudaGraphExec_t graph[PASS_BUCKETS];
    int recording; /* bucket, or -1 */
    cudaEvent_t begun[PASS_STEPS], done[PASS_STEPS];
    uint64_t calls[PASS_STEPS]; /* of sample, until the step's end */
};

struct turns { /* cosines and sines are those of a step */
    uint64_t number;
    float factor;
};

#define PREFILL_PARTIALS (64u << 20) /* bytes for partial results: sequences that do not fit are not cut */

/* What a list of tiles depends on. */
struct prefill_terms {
    uint64_t number; /* of the step */
    int32_t group, n_kv_heads, head_dim, tile;
    int32_t window, key_begin, key_end;
    int32_t seq0, seq1;   /* sequences [seq0, seq1) of the step */
    int32_t block_tokens; /* their keys are widened first, in blocks of so many; 0: they are not */
};

/* Tiles of prefill rows (attn_prefill.cu). */
struct prefill {
    struct stage_slot items; /* the list, */
    struct prefill_terms terms;
    int32_t n;
    /* behind it, where keys are widened first: blocks to widen, and the sequences' tables of the widened ones */
    const int32_t *block, *table;
    int32_t n_blocks;
    void *wide; /* wide_bytes on the card: those */
    uint64_t wide_bytes;
    bool cut;        /* some tile's keys are cut into parts */
    int32_t *next;   /* [2] on the card */
    float *partials; /* PREFILL_PARTIALS on the card */
};

/* What a list of tiles of deterministic attention depends on. */
struct fixed_terms {
    uint64_t number; /* of the step */
    int32_t group, n_kv_heads, tile;
    int32_t window, key_begin, key_end;
    int32_t vectors; /* of a slot */
    /* follow from the others: */
    int32_t most_items; /* that have slots for all kv heads */
    bool share;         /* parts of a tile may be items of their own */
};

/* Tiles of deterministic attention (attn_fixed.cu), all of it on the card. */
struct fixed {
    struct fixed_terms terms;
    struct prefill_item *tile, *item; /* [room], [item_room] */
    int32_t *count;                   /* of items */
    int32_t n, room, item_room;       /* n: tiles */
    int32_t slots;
};

struct cuda {
    struct backend_head head;
    cudaStream_t stream;
    int32_t max_rows, max_seqs, max_cols, max_vocab;
    int32_t n_sm, major, minor; /* the last two: of the compute capability */
    bool deterministic;
    char text[128];
    struct gemm *gemm;
    uint8_t *x8; /* [max_rows][max_cols] and [max_rows]: rows of x in 8 bits; NULL before a weight is in fp8 */
    float *x8_scale;
    __nv_bfloat16 *wide; /* rows of a weight on their way into 8 bits; NULL likewise */
    float *inv_freq;     /* [HEAD_DIM_MAX / 2] on the card */
    float inv_freq_host[BACKEND_HEAD_DIM_MAX / 2];
    float2 *turn; /* [max_rows][HEAD_DIM_MAX / 2] cosine and sine of the step's positions */
    struct turns turns;
    int32_t *drawn, *drawn_before; /* [max_seqs] what the last sample chose; a copy for the next */
    struct attn *attn;
    struct stage stage;
    struct pass pass;
    struct prefill prefill;
    struct stage_slot load[2]; /* pieces of weights on their way */
    int load_turn;
    struct reader *reader; /* of model files, while they are read */
    struct sampler *sampler;
    struct moves *moves; /* NULL = none */
    struct fixed fixed;
};

static inline struct cuda *cuda_of(struct backend *be)
{
    return (struct cuda *)(void *)be;
}

/* Columns of a weight or of its input as they lie on the card: 16-byte rows for the tensor cores' loads. */
static __host__ __device__ inline int32_t cuda_pad(int32_t cols)
{
    return (cols + 7) & ~7;
}

/* -- backend.cu */
extern "C" const struct backend_ops hearth_backend_cuda;
/* Zeroed; NULL when the card has no more. */
void *cuda_alloc(struct cuda *c, size_t bytes);

/* -- stage.cu */
/* Room of at least `bytes` in a slot, and its last copy done. */
void stage_reserve(struct stage_slot *s, size_t bytes);
void stage_free(struct stage_slot *s);
/* The first `bytes` come to the card, fetched by a kernel that does not queue behind other copies; copied is recorded.
 */
void stage_pull(struct stage_slot *s, size_t bytes, cudaStream_t stream);
/* Queue the copy of the first `bytes` by a copy engine: many, that no step waits for. */
void stage_send(struct cuda *c, struct stage_slot *s, size_t bytes);
/* Room for the largest step. */
void stage_open(struct cuda *c, int64_t max_table);
/* Queue the copy of the step's arrays, filled up to n_rows rows (decode only); stage.step is the step to run then. */
void stage_put(struct cuda *c, const struct step *step, int32_t n_rows);
/* The step's arrays on the card: there since pass_begin, or copied now (an op outside of a pass). */
const struct step_dev *stage_step(struct cuda *c, const struct step *step);
void stage_close(struct stage *s);

/* -- pass.cu */
void pass_open(struct pass *p);
void pass_close(struct pass *p);
const struct step *cuda_pass_begin(struct backend *be, const struct step *step);
void cuda_pass_end(struct backend *be);
void cuda_step_end(struct backend *be, uint64_t number);
void cuda_step_wait(struct backend *be, uint64_t number);
float cuda_step_idle_us(struct backend *be, uint64_t number);

/* -- moves.cu */
int cuda_moves_open(struct backend *be, const struct seal_key *key, void *host, size_t host_bytes, uint32_t depth,
                    int bell, struct err *e);
void cuda_moves_close(struct backend *be); /* without any is fine */
int cuda_move(struct backend *be, struct backend_move *m);
struct backend_move *cuda_moved(struct backend *be);

/* -- attention.cu */
#define ATTN_DECODE_ROWS 8 /* a sequence with at most so many rows in a step is decode, with more prefill */

void cuda_attention(struct backend *be, const struct attn_args *a);
void cuda_merge(struct backend *be, struct attn_partial a, struct attn_partial b, int32_t n, int32_t d);
/* Memory of attention, and the shared memory that its kernels need. False when the card has no more; close anyway. */
bool attention_open(struct cuda *c);
void attention_close(struct cuda *c);

/* -- attn_decode.cu, attn_plan.cu */
#define ATTN_PLANS 4 /* kinds of layers (window, key range) of a step that are remembered */

/* Rows of the sequences that have at most ATTN_DECODE_ROWS of them; others are not touched. Can be captured: positions
 * and block tables are read on the card. False, with nothing queued, for a shape it does not take. */
bool attn_decode(struct cuda *c, const struct attn_args *a, const struct step_dev *at);
bool decode_open(struct cuda *c);
void decode_close(struct cuda *c);

/* -- attn_prefill.cu */
void prefill_open(struct cuda *c);
void prefill_close(struct cuda *c);
/* Rows of the sequences that have more than ATTN_DECODE_ROWS of them; others are not touched. Never captured: it may
 * look at a->step on the host. False, with nothing queued, for a shape it does not take. */
bool attn_prefill(struct cuda *c, const struct attn_args *a, const struct step_dev *at);

/* -- attn_fixed.cu: deterministic mode */
/* All rows, and the bits of each depend on it alone. Can be captured. False, with nothing queued, for a shape it does
 * not take. */
bool attn_fixed(struct cuda *c, const struct attn_args *a, const struct step_dev *at);
void fixed_close(struct cuda *c);

/* -- linear.cu, weight.cu, rows.cu, rope.cu, sample.cu */
void cuda_linear(struct backend *be, float *out, const void *x, const struct weight *w, int32_t n_rows);
void cuda_linear_silu(struct backend *be, void *out, float *gu, const void *x, const struct weight *w, int32_t n_rows);

/* Memory for the parts and the weight that lies there, still without its rows. 0, -ENOTSUP, -ENOMEM. */
int weight_open(struct cuda *c, struct weight *out, const struct weight_part *parts, int n_parts, struct err *e);
#define WEIGHT_WIDE_BYTES (32u << 20) /* of rows that are bfloat16 on their way into 8 bits: `wide` below */

/* At most weight_rows_max rows from `row` on are to be written there, bfloat16 in cuda_pad(cols) columns; then
 * weight_end. */
int32_t weight_rows_max(const struct weight *w);
__nv_bfloat16 *weight_begin(const struct weight *w, int32_t row, __nv_bfloat16 *wide);
void weight_end(cudaStream_t stream, const struct weight *w, int32_t row, int32_t n, const __nv_bfloat16 *wide);

struct coded_rows {
    const uint8_t *rows; /* on the card, without gaps */
    uint32_t dtype;
    int32_t cols, head_dim; /* head_dim: as in struct weight_part */
};

/* Queue: n rows into w from row `row` on. */
void weight_decode(cudaStream_t stream, const struct weight *w, int32_t row, int32_t n, const struct coded_rows *a,
                   __nv_bfloat16 *wide);
int cuda_weight_load(struct backend *be, struct weight *out, const struct weight_part *parts, int n_parts,
                     struct err *e);
int cuda_weight_make(struct backend *be, struct weight *out, const struct weight_part *parts, int n_parts,
                     struct err *e);
/* -- read.cu */
int cuda_weight_read(struct backend *be, struct weight *out, const struct weight_part *parts, int n_parts,
                     struct err *e);
int cuda_weight_wait(struct backend *be, struct err *e);
/* Drop what is queued and wait for what is on its way. */
void reader_stop(struct cuda *c);

void cuda_weight_free(struct backend *be, struct weight *w);
uint64_t cuda_weight_bytes(uint32_t dtype, int32_t rows, int32_t cols);

void cuda_embed(struct backend *be, float *out, const struct weight *table, const struct step *step);
void cuda_add_norm(struct backend *be, void *out, float *x, const float *add, const float *w, float eps, int32_t n_rows,
                   int32_t width);
void cuda_silu_mul(struct backend *be, void *out, const float *gu, int32_t n_rows, int32_t f);
void cuda_gather(struct backend *be, void *out, const void *x, const struct step *step, uint64_t row_bytes);
void cuda_rope_kv(struct backend *be, const struct rope_args *a);

int sampler_open(struct cuda *c, struct err *e);
void sampler_close(struct cuda *c);
/* Calls of sample so far. */
uint64_t sampler_calls(const struct cuda *c);
/* Hand the results of the first `calls` calls over, which are done. */
void sampler_deliver(struct cuda *c, uint64_t calls);
void cuda_sample(struct backend *be, const float *logits, int32_t vocab, const struct sample_row *rows,
                 struct sample_out *out, int32_t n);

#endif
