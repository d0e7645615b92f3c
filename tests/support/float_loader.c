/* float_loader - see float_loader.h. */
#include "tests/support/float_loader.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct loader {
    struct loader_head head;
    struct loader *inner;
};

static bool probe(const char *source)
{
    return false;
}

static void close_float(struct loader *l)
{
    loader_close(l->inner);
    free(l);
}

static const struct model_shape *shape(const struct loader *l)
{
    return loader_ops(l->inner)->shape(l->inner);
}

static void as_float(struct weight_part *p)
{
    p->dtype = DT_F32;
    p->made_scale = 0;
    p->path = NULL;
    p->row_bytes = (uint64_t)p->cols * sizeof(float);
}

static int find(const struct loader *l, const char *name, struct weight_part *out, struct err *e)
{
    int rc = loader_ops(l->inner)->find(l->inner, name, out, e);
    if (!rc)
        as_float(out);
    return rc;
}

static int take(struct loader *l, const char *name, struct weight_loan *out, struct err *e)
{
    struct weight_loan from;
    int rc = loader_ops(l->inner)->take(l->inner, name, &from, e);
    if (rc)
        return rc;
    const struct weight_part *p = &from.part;
    float *to = malloc((size_t)p->rows * (size_t)p->cols * sizeof *to);
    assert(to);
    for (int32_t r = 0; r < p->rows; r++)
        quant_get_row(to + (size_t)r * (size_t)p->cols, p->dtype, (const uint8_t *)p->data + (uint64_t)r * p->row_bytes,
                      p->cols);
    *out = (struct weight_loan){.part = *p, .owned = to};
    out->part.data = to;
    as_float(&out->part);
    loader_ops(l->inner)->done(l->inner, &from);
    return 0;
}

static void done(struct loader *l, struct weight_loan *loan)
{
    free(loan->owned);
    memset(loan, 0, sizeof *loan);
}

static int fingerprint(struct loader *l, struct hash_key *out, struct err *e)
{
    return loader_ops(l->inner)->fingerprint(l->inner, out, e);
}

static const struct loader_ops ops = {
    .name = "float",
    .probe = probe,
    .close = close_float,
    .shape = shape,
    .find = find,
    .take = take,
    .done = done,
    .fingerprint = fingerprint,
};

struct loader *float_loader(struct loader *inner)
{
    struct loader *l = malloc(sizeof *l);
    assert(l);
    *l = (struct loader){.head = {.ops = &ops}, .inner = inner};
    return l;
}
