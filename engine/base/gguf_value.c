/* gguf_value - see gguf_value.h and the second half of gguf.h. */
#include "engine/base/gguf_value.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF values are read in place");

size_t gguf_scalar_bytes(uint32_t type)
{
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8}; /* by enum gguf_type */
    return type < sizeof bytes ? bytes[type] : 0;
}

const struct gguf_dtype_info *gguf_dtype_find(uint32_t dtype)
{
    static const struct gguf_dtype_info known[] = {
        {GGUF_DT_F32, "F32", 1, 4},     {GGUF_DT_F16, "F16", 1, 2},     {GGUF_DT_Q4_0, "Q4_0", 32, 18},
        {GGUF_DT_Q4_1, "Q4_1", 32, 20}, {GGUF_DT_Q8_0, "Q8_0", 32, 34}, {GGUF_DT_BF16, "BF16", 1, 2},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].dtype == dtype)
            return &known[i];
    return NULL;
}

static bool is_signed(enum gguf_type t)
{
    return t == GGUF_I8 || t == GGUF_I16 || t == GGUF_I32 || t == GGUF_I64;
}

static bool is_unsigned(enum gguf_type t)
{
    return t == GGUF_U8 || t == GGUF_U16 || t == GGUF_U32 || t == GGUF_U64;
}

static bool read_int(enum gguf_type type, const uint8_t *at, int64_t *out)
{
    if (!is_signed(type) && !is_unsigned(type))
        return false;
    size_t n = gguf_scalar_bytes(type);
    uint64_t u = 0;
    memcpy(&u, at, n);
    if (is_signed(type))
        u = (uint64_t)((int64_t)(u << (64 - 8 * n)) >> (64 - 8 * n));
    else if (u > INT64_MAX)
        return false;
    *out = (int64_t)u;
    return true;
}

static bool read_float(enum gguf_type type, const uint8_t *at, double *out)
{
    float f;
    if (type == GGUF_F64) {
        memcpy(out, at, sizeof *out);
    } else if (type == GGUF_F32) {
        memcpy(&f, at, sizeof f);
        *out = f;
    } else {
        return false;
    }
    return true;
}

enum gguf_type gguf_val_type(const struct gguf_val *v)
{
    return v->type;
}

bool gguf_int(const struct gguf_val *v, int64_t *out)
{
    return v && read_int(v->type, v->data, out);
}

bool gguf_float(const struct gguf_val *v, double *out)
{
    return v && read_float(v->type, v->data, out);
}

bool gguf_bool(const struct gguf_val *v, bool *out)
{
    if (!v || v->type != GGUF_BOOL || *v->data > 1) /* the specification calls other values invalid */
        return false;
    *out = *v->data;
    return true;
}

const char *gguf_text(const struct gguf_val *v, size_t *n)
{
    if (!v || v->type != GGUF_STRING)
        return NULL;
    *n = v->len;
    return (const char *)v->data;
}

int64_t gguf_array_len(const struct gguf_val *v)
{
    return v && v->type == GGUF_ARRAY ? (int64_t)v->len : -1; /* below the file's size, so it fits */
}

enum gguf_type gguf_array_type(const struct gguf_val *v)
{
    return v->elem;
}

const char *gguf_array_text(const struct gguf_val *v, size_t *cursor, size_t *n)
{
    uint64_t len;
    if (!v || v->type != GGUF_ARRAY || v->elem != GGUF_STRING || *cursor >= v->bytes)
        return NULL;
    memcpy(&len, v->data + *cursor, sizeof len);
    const char *text = (const char *)v->data + *cursor + sizeof len;
    *cursor += sizeof len + len;
    *n = len;
    return text;
}

static const uint8_t *element(const struct gguf_val *v, size_t i)
{
    return v && v->type == GGUF_ARRAY && i < v->len ? v->data + i * gguf_scalar_bytes(v->elem) : NULL;
}

bool gguf_array_int(const struct gguf_val *v, size_t i, int64_t *out)
{
    const uint8_t *at = element(v, i);
    return at && read_int(v->elem, at, out);
}

bool gguf_array_float(const struct gguf_val *v, size_t i, double *out)
{
    const uint8_t *at = element(v, i);
    return at && read_float(v->elem, at, out);
}

size_t gguf_row_bytes(uint32_t dtype, uint64_t cols)
{
    const struct gguf_dtype_info *d = gguf_dtype_find(dtype);
    if (!d || cols % d->block || cols / d->block > SIZE_MAX / d->bytes)
        return 0;
    return (size_t)(cols / d->block * d->bytes);
}

const char *gguf_dtype_name(uint32_t dtype)
{
    const struct gguf_dtype_info *d = gguf_dtype_find(dtype);
    return d ? d->name : "unknown";
}
