/* load_gguf - weights out of a GGUF file (or a set of split ones), mapped.
 *
 * Most loans are pointers into the map. The exception is q and k of the llama family: there GGUF interleaves the rows
 * of each head, so that a rope pair is (2i, 2i + 1); inside Hearth a pair is (i, i + D/2). Rows are gathered once into
 * a buffer of the loan. Rows are moved as they are, so no weight changes a bit.
 *
 * Fingerprint: SHA-256 over header, metadata, directory and every tensor byte. Above 4 GiB of tensors that would take
 * seconds at start, so there each tensor adds 64 KiB: 16 pieces of 4 KiB, evenly spread. (Metadata, directory and sizes
 * are always whole. A fine-tune touches all weights; an edit of single numbers in a huge file may pass unseen.)
 */
#include "engine/base/gguf.h"
#include "engine/model/arch.h"
#include "engine/model/load.h"
#include "engine/model/shape.h"

#include "engine/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 16, SAMPLE_BYTES = 4096 };
static const uint64_t hash_whole_max = 4ull << 30;

extern const struct loader_ops load_gguf;

struct loader {
    struct loader_head head;
    struct gguf *g;
    struct model_shape shape;
};

static bool probe(const char *source)
{
    size_t n = strlen(source);
    char magic[4];
    if (n > 5 && !strcmp(source + n - 5, ".gguf"))
        return true;
    int fd = sys.open(source, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    if (fd < 0)
        return false;
    bool ours = sys.pread(fd, magic, sizeof magic, 0) == sizeof magic && !memcmp(magic, "GGUF", sizeof magic);
    sys.close(fd);
    return ours;
}

static void close_gguf(struct loader *l)
{
    gguf_close(l->g);
    free(l);
}

static int open_gguf(struct loader **out, const char *source, struct err *e)
{
    struct loader *l = calloc(1, sizeof *l);
    if (!l)
        return err_set(e, ENOMEM, "no memory to open %s", source);
    l->head.ops = &load_gguf;
    int rc = gguf_open(&l->g, source, e);
    if (rc)
        goto fail;
    rc = shape_from_gguf(&l->shape, l->g, e);
    if (rc) {
        err_prefix(e, "%s", source);
        goto fail;
    }
    *out = l;
    return 0;
fail:
    close_gguf(l);
    return rc;
}

static const struct model_shape *shape(const struct loader *l)
{
    return &l->shape;
}

/* The tensor and, in *part, its description with data. */
static int lookup(const struct loader *l, const char *name, struct weight_part *part, struct err *e)
{
    const struct gguf_tensor *t = gguf_find(l->g, name);
    if (!t)
        return err_set(e, ENOENT, "tensor %s is missing: not a complete %s model", name, l->shape.arch);
    if (t->dims[2] != 1 || t->dims[3] != 1 || t->dims[0] > INT32_MAX || t->dims[1] > INT32_MAX)
        return err_set(e, ENOTSUP, "tensor %s: must be a vector or a matrix of at most 2^31 - 1 rows and columns",
                       name);
    *part = (struct weight_part){.data = t->data,
                                 .dtype = t->dtype,
                                 .rows = (int32_t)t->dims[1],
                                 .cols = (int32_t)t->dims[0],
                                 .row_bytes = gguf_row_bytes(t->dtype, t->dims[0])};
    return 0;
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && !strcmp(name + n - m, end);
}

/* Heads whose rows the file interleaves; 0 for every other tensor. */
static int32_t interleaved_heads(const struct loader *l, const char *name)
{
    if (strcmp(l->shape.arch, "llama"))
        return 0;
    return ends_with(name, ".attn_q.weight")   ? l->shape.n_heads
           : ends_with(name, ".attn_k.weight") ? l->shape.n_kv_heads
                                               : 0;
}

static int find(const struct loader *l, const char *name, struct weight_part *out, struct err *e)
{
    int rc = lookup(l, name, out, e);
    int32_t heads = interleaved_heads(l, name), d = l->shape.head_dim;
    if (rc)
        return rc;
    if (!heads || out->rows == heads * d) /* else take says what is wrong */
        out->path = gguf_place(l->g, out->data, &out->at);
    out->head_dim = heads ? d : 0;
    out->data = NULL;
    return 0;
}

/* Row h * D + half * D/2 + i comes from row h * D + 2 * i + half of the file. */
static void gather_rows(uint8_t *to, const struct weight_part *p, int32_t heads, int32_t d)
{
    const uint8_t *from = p->data;
    for (int32_t h = 0; h < heads; h++)
        for (int32_t half = 0; half < 2; half++)
            for (int32_t i = 0; i < d / 2; i++) {
                memcpy(to, from + (uint64_t)(h * d + 2 * i + half) * p->row_bytes, p->row_bytes);
                to += p->row_bytes;
            }
}

static int take(struct loader *l, const char *name, struct weight_loan *out, struct err *e)
{
    struct weight_loan loan = {0};
    int rc = lookup(l, name, &loan.part, e);
    if (rc)
        return rc;
    int32_t heads = interleaved_heads(l, name), d = l->shape.head_dim;
    if (heads) {
        if (loan.part.rows != heads * d)
            return err_set(e, EINVAL, "tensor %s has %d rows: must be %d heads of %d", name, loan.part.rows, heads, d);
        loan.owned = malloc((size_t)loan.part.rows * loan.part.row_bytes);
        if (!loan.owned)
            return err_set(e, ENOMEM, "no memory for the rows of tensor %s", name);
        gather_rows(loan.owned, &loan.part, heads, d);
        loan.part.data = loan.owned;
    }
    *out = loan;
    return 0;
}

static void done(struct loader *l, struct weight_loan *loan)
{
    free(loan->owned);
    memset(loan, 0, sizeof *loan);
}

static void hash_tensor(struct hash_state *h, const struct gguf_tensor *t, bool whole)
{
    const uint8_t *bytes = t->data;
    if (whole || t->bytes <= SAMPLES * SAMPLE_BYTES) {
        hash_add(h, bytes, t->bytes);
        return;
    }
    for (uint64_t i = 0; i < SAMPLES; i++)
        hash_add(h, bytes + (t->bytes - SAMPLE_BYTES) / (SAMPLES - 1) * i, SAMPLE_BYTES);
}

static int fingerprint(struct loader *l, struct hash_key *out, struct err *e)
{
    struct hash_state *h = hash_open();
    size_t n;
    uint64_t bytes = 0;
    if (!h)
        return err_set(e, ENOMEM, "no memory for the model's fingerprint");
    hash_field(h, 1, "gguf 1", 6);
    for (size_t i = 0; gguf_header(l->g, i, &n); i++)
        hash_field(h, 2, gguf_header(l->g, i, &n), n);
    for (size_t i = 0; i < gguf_n_tensors(l->g); i++)
        bytes += gguf_tensor_at(l->g, i)->bytes;
    /* the directories above fix every size, so tensor bytes need no lengths of their own */
    for (size_t i = 0; i < gguf_n_tensors(l->g); i++)
        hash_tensor(h, gguf_tensor_at(l->g, i), bytes <= hash_whole_max);
    hash_finish(h, out);
    return 0;
}

const struct loader_ops load_gguf = {
    .name = "gguf",
    .probe = probe,
    .open = open_gguf,
    .close = close_gguf,
    .shape = shape,
    .find = find,
    .take = take,
    .done = done,
    .fingerprint = fingerprint,
};
