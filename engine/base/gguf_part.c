/* gguf_part - see gguf_part.h.
 *
 * One pass over the header: each entry of the metadata and of the directory becomes a small struct that points into the
 * map, after its every field has been checked. Tensors must follow one another in directory order, each at the next
 * multiple of the alignment (all writers do so): one comparison then refuses overlaps, gaps and offsets outside the
 * file. Names are found through open-addressed tables with a random SipHash key. No recursion: arrays of arrays are
 * refused.
 */
#include "engine/base/gguf_part.h"

#include "engine/base/hash.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF values are read in place");

enum {
    KEYS_MAX = 65536,       /* real files: under 100 */
    TENSORS_MAX = 262144,   /* real files: under 50,000 */
    NAME_MAX_BYTES = 65535, /* of a key or tensor name: the specification's limit for keys */
    KEY_MIN_BYTES = 14,     /* length, one letter, type, one byte of value */
    TENSOR_MIN_BYTES = 33,  /* length, one letter, n_dims, one dim, type, offset */
    ALIGN_DEFAULT = 32,
    ALIGN_MIN = 8, /* the specification's; also what a float needs */
    ALIGN_MAX = 1 << 20
};

/* What a name table sees of its entries: struct gguf_val and struct gguf_tensor begin like this. */
struct named {
    const char *name;
    size_t name_len;
};

_Static_assert(offsetof(struct gguf_tensor, name) == 0 && offsetof(struct gguf_tensor, name_len) == sizeof(char *),
               "a tensor begins as struct named");

struct cursor {
    const uint8_t *base;
    uint64_t at, end; /* at <= end always */
};

/* -- reading fields */

static bool take(struct cursor *c, void *to, size_t n)
{
    if (n > c->end - c->at)
        return false;
    memcpy(to, c->base + c->at, n);
    c->at += n;
    return true;
}

static bool skip(struct cursor *c, uint64_t n)
{
    if (n > c->end - c->at)
        return false;
    c->at += n;
    return true;
}

static bool take_string(struct cursor *c, const char **text, uint64_t *n)
{
    if (!take(c, n, 8))
        return false;
    *text = (const char *)c->base + c->at;
    return skip(c, *n);
}

static int short_file(const struct cursor *c, const char *what, struct err *e)
{
    return err_set(e, EINVAL,
                   "%s at byte %llu reaches beyond the end of the file (%llu bytes): the file is damaged or cut short, "
                   "fetch it again",
                   what, (unsigned long long)c->at, (unsigned long long)c->end);
}

/* A key or tensor name. Printable ASCII only, so that it can be logged and compared with C strings. */
static int take_name(struct cursor *c, const char *what, const char **name, size_t *len, struct err *e)
{
    uint64_t n, at = c->at;
    if (!take_string(c, name, &n))
        return short_file(c, what, e);
    if (n == 0 || n > NAME_MAX_BYTES)
        return err_set(e, EINVAL, "%s at byte %llu has %llu bytes: must be 1 to %d", what, (unsigned long long)at,
                       (unsigned long long)n, NAME_MAX_BYTES);
    for (uint64_t i = 0; i < n; i++)
        if ((*name)[i] < ' ' || (*name)[i] > '~')
            return err_set(e, EINVAL, "%s at byte %llu holds a byte that is not printable ASCII", what,
                           (unsigned long long)at);
    *len = n;
    return 0;
}

/* -- name tables */

static struct named table_item(const struct gguf_table *t, uint32_t i)
{
    struct named it; /* copied: the entry has its own type */
    memcpy(&it, (const char *)t->items + (size_t)i * t->stride, sizeof it);
    return it;
}

/* Slot that holds name, or the free one where it belongs. */
static uint32_t *table_slot(const struct gguf *g, const struct gguf_table *t, const char *name, size_t n)
{
    for (uint64_t i = hash_sip(name, n, g->hash_key);; i++) {
        uint32_t *slot = &t->slot[i & t->mask];
        if (!*slot)
            return slot;
        struct named it = table_item(t, *slot - 1);
        if (it.name_len == n && !memcmp(it.name, name, n))
            return slot;
    }
}

/* Index n items; a name that comes twice is an error. */
int gguf_table_build(const struct gguf *g, struct gguf_table *t, const char *what, const void *items, size_t n,
                     size_t stride, struct err *e)
{
    size_t slots = 2;
    while (slots < 2 * n)
        slots *= 2;
    t->slot = calloc(slots, sizeof *t->slot);
    if (!t->slot)
        return err_set(e, ENOMEM, "no memory for %zu names", n);
    t->mask = slots - 1;
    t->items = items;
    t->stride = stride;
    for (uint32_t i = 0; i < n; i++) {
        struct named it = table_item(t, i);
        uint32_t *slot = table_slot(g, t, it.name, it.name_len);
        if (*slot)
            return err_set(e, EINVAL, "%s '%.*s' is there twice", what, (int)it.name_len, it.name);
        *slot = i + 1;
    }
    return 0;
}

const void *gguf_table_find(const struct gguf *g, const struct gguf_table *t, const char *name)
{
    uint32_t *slot = table_slot(g, t, name, strlen(name));
    return *slot ? (const char *)t->items + (size_t)(*slot - 1) * t->stride : NULL;
}

/* -- metadata */

static int take_array(struct cursor *c, struct gguf_val *v, struct err *e)
{
    uint32_t elem;
    if (!take(c, &elem, 4) || !take(c, &v->len, 8))
        return short_file(c, "an array", e);
    size_t size = gguf_scalar_bytes(elem);
    if (!size && elem != GGUF_STRING)
        return err_set(e, EINVAL, "array of type %u: only numbers, booleans and strings are known", elem);
    v->elem = (enum gguf_type)elem;
    v->data = c->base + c->at;
    if (size)
        return v->len <= UINT64_MAX / size && skip(c, v->len * size) ? 0 : short_file(c, "an array", e);
    for (uint64_t i = 0; i < v->len; i++) { /* each turn takes 8 bytes of the file or ends: linear in its size */
        const char *text;
        uint64_t n;
        if (!take_string(c, &text, &n))
            return short_file(c, "a string of an array", e);
    }
    return 0;
}

static int take_value(struct cursor *c, struct gguf_val *v, struct err *e)
{
    uint32_t type;
    if (!take(c, &type, 4))
        return short_file(c, "a value", e);
    v->type = v->elem = (enum gguf_type)type;
    v->len = 1;
    v->data = c->base + c->at;
    if (type == GGUF_ARRAY) {
        int rc = take_array(c, v, e);
        if (rc)
            return rc;
    } else if (type == GGUF_STRING) {
        const char *text;
        if (!take_string(c, &text, &v->len))
            return short_file(c, "a string", e);
        v->data = (const uint8_t *)text;
    } else if (!gguf_scalar_bytes(type)) {
        return err_set(e, EINVAL, "value of type %u: types are 0 to %d", type, GGUF_F64);
    } else if (!skip(c, gguf_scalar_bytes(type))) {
        return short_file(c, "a value", e);
    }
    v->bytes = (uint64_t)(c->base + c->at - v->data);
    return 0;
}

static int take_metadata(const struct gguf *g, struct gguf_part *p, struct cursor *c, uint64_t n, struct err *e)
{
    if (n > KEYS_MAX || n > (c->end - c->at) / KEY_MIN_BYTES)
        return err_set(e, EINVAL, "%llu metadata keys in a file of %llu bytes: damaged (or above the limit of %d)",
                       (unsigned long long)n, (unsigned long long)c->end, KEYS_MAX);
    p->kv = calloc(n ? n : 1, sizeof *p->kv);
    if (!p->kv)
        return err_set(e, ENOMEM, "no memory for %llu metadata keys", (unsigned long long)n);
    for (; p->n_kv < n; p->n_kv++) {
        struct gguf_val *v = &p->kv[p->n_kv];
        int rc = take_name(c, "a metadata key", &v->name, &v->name_len, e);
        if (rc)
            return rc;
        rc = take_value(c, v, e);
        if (rc) {
            err_prefix(e, "metadata key '%.*s'", (int)v->name_len, v->name);
            return rc;
        }
    }
    return gguf_table_build(g, &p->keys, "metadata key", p->kv, p->n_kv, sizeof *p->kv, e);
}

const struct gguf_val *gguf_part_get(const struct gguf *g, const struct gguf_part *p, const char *key)
{
    return gguf_table_find(g, &p->keys, key);
}

static int read_alignment(const struct gguf *g, struct gguf_part *p, struct err *e)
{
    const struct gguf_val *v = gguf_part_get(g, p, "general.alignment");
    int64_t a = ALIGN_DEFAULT;
    if (v && (v->type != GGUF_U32 || !gguf_int(v, &a)))
        return err_set(e, EINVAL, "general.alignment: must be a 32-bit unsigned number");
    if (a < ALIGN_MIN || a > ALIGN_MAX || (a & (a - 1)))
        return err_set(e, EINVAL, "general.alignment %lld: must be a power of two from %d to %d", (long long)a,
                       ALIGN_MIN, ALIGN_MAX);
    p->align = (uint64_t)a;
    return 0;
}

/* -- tensor directory */

/* Bytes of the tensor, from its dims and type; refuses what no file could hold. */
static int size_tensor(struct gguf_tensor *t, const struct gguf_part *p, struct err *e)
{
    const struct gguf_dtype_info *d = gguf_dtype_find(t->dtype);
    if (!d)
        return err_set(e, ENOTSUP, "type %u is not supported: must be F32, F16, BF16, Q8_0, Q4_0 or Q4_1", t->dtype);
    if (t->dims[0] % d->block)
        return err_set(e, EINVAL, "%llu columns of %s: must be a multiple of %u", (unsigned long long)t->dims[0],
                       d->name, d->block);
    unsigned __int128 bytes = (unsigned __int128)(t->dims[0] / d->block) * d->bytes;
    for (unsigned i = 1; i < t->n_dims; i++) {
        if (bytes > p->bytes) /* so that the next product stays below 2^128 */
            break;
        bytes *= t->dims[i];
    }
    if (bytes > p->bytes)
        return err_set(e, EINVAL, "its dimensions need more bytes than the file has (%zu)", p->bytes);
    t->bytes = (size_t)bytes;
    return 0;
}

/* The fields after the name. *next is where this tensor must begin in the data; moved on to the tensor after it. */
static int take_tensor(struct gguf_tensor *t, const struct gguf_part *p, struct cursor *c, uint64_t *next,
                       struct err *e)
{
    uint32_t n_dims;
    uint64_t offset;
    if (!take(c, &n_dims, 4))
        return short_file(c, "the number of dimensions", e);
    if (n_dims < 1 || n_dims > 4)
        return err_set(e, EINVAL, "%u dimensions: must be 1 to 4", n_dims);
    t->n_dims = n_dims;
    for (unsigned i = 0; i < 4; i++) {
        t->dims[i] = 1;
        if (i < n_dims && !take(c, &t->dims[i], 8))
            return short_file(c, "a dimension", e);
        if (t->dims[i] == 0)
            return err_set(e, EINVAL, "dimension %u is 0", i);
    }
    if (!take(c, &t->dtype, 4) || !take(c, &offset, 8))
        return short_file(c, "the directory", e);
    int rc = size_tensor(t, p, e);
    if (rc)
        return rc;
    if (offset != *next)
        return err_set(e, EINVAL,
                       "data at offset %llu: must be %llu, right behind the tensor before it (overlap, gap or damage)",
                       (unsigned long long)offset, (unsigned long long)*next);
    if (offset > p->bytes || t->bytes > p->bytes - offset) /* keeps *next far from wrapping */
        return err_set(e, EINVAL, "data at offset %llu reaches beyond the end of the file (%zu bytes)",
                       (unsigned long long)offset, p->bytes);
    *next = (offset + t->bytes + p->align - 1) & ~(p->align - 1);
    return 0;
}

/* The data section begins behind the directory: now offsets become addresses. */
static int place_tensors(struct gguf_tensor *t, size_t n, const struct gguf_part *p, uint64_t directory_end,
                         struct err *e)
{
    uint64_t data = (directory_end + p->align - 1) & ~(p->align - 1), at = data;
    for (size_t i = 0; i < n; i++) {
        if (at > p->bytes || t[i].bytes > p->bytes - at)
            return err_set(
                e, EINVAL, "tensor '%.*s' needs bytes %llu to %llu, the file has %zu: it is cut short, fetch it again",
                (int)t[i].name_len, t[i].name, (unsigned long long)at, (unsigned long long)(at + t[i].bytes), p->bytes);
        t[i].data = p->map + at;
        at = (at + t[i].bytes + p->align - 1) & ~(p->align - 1);
    }
    return 0;
}

static int take_directory(struct gguf *g, struct gguf_part *p, struct cursor *c, uint64_t n, struct err *e)
{
    if (n > TENSORS_MAX - g->n_tensors || n > (c->end - c->at) / TENSOR_MIN_BYTES)
        return err_set(e, EINVAL, "%llu tensors in a file of %llu bytes: damaged (or above the limit of %d)",
                       (unsigned long long)n, (unsigned long long)c->end, TENSORS_MAX);
    size_t first = g->n_tensors;
    struct gguf_tensor *grown = realloc(g->tensor, (first + n ? first + n : 1) * sizeof *grown);
    if (!grown)
        return err_set(e, ENOMEM, "no memory for %llu tensors", (unsigned long long)n);
    g->tensor = grown;
    uint64_t next = 0;
    for (uint64_t i = 0; i < n; i++) {
        struct gguf_tensor *t = &g->tensor[first + i];
        memset(t, 0, sizeof *t);
        int rc = take_name(c, "a tensor name", &t->name, &t->name_len, e);
        if (rc)
            return rc;
        rc = take_tensor(t, p, c, &next, e);
        if (rc) {
            err_prefix(e, "tensor '%.*s'", (int)t->name_len, t->name);
            return rc;
        }
    }
    g->n_tensors += n;
    p->header_bytes = c->at;
    return place_tensors(g->tensor + first, n, p, c->at, e);
}

int gguf_part_parse(struct gguf *g, struct gguf_part *p, struct err *e)
{
    struct cursor c = {.base = p->map, .end = p->bytes};
    char magic[4];
    uint32_t version;
    uint64_t n_tensors, n_kv;
    if (!take(&c, magic, 4) || memcmp(magic, "GGUF", 4))
        return err_set(e, EINVAL, "not a GGUF file: it does not begin with 'GGUF'");
    if (!take(&c, &version, 4))
        return short_file(&c, "the header", e);
    if (version == 0x02000000 || version == 0x03000000)
        return err_set(e, ENOTSUP, "a big-endian GGUF file: only little-endian ones are supported");
    if (version != 2 && version != 3)
        return err_set(e, ENOTSUP, "GGUF version %u: must be 2 or 3", version);
    if (!take(&c, &n_tensors, 8) || !take(&c, &n_kv, 8))
        return short_file(&c, "the header", e);
    int rc = take_metadata(g, p, &c, n_kv, e);
    if (!rc)
        rc = read_alignment(g, p, e);
    return rc ? rc : take_directory(g, p, &c, n_tensors, e);
}
