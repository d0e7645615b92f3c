/* gguf_walk - see gguf_walk.h. */
#include "tests/support/gguf_walk.h"

#include "engine/base/hash.h"

#include <stdlib.h>
#include <string.h>

static uint64_t walk_tensor(const struct gguf *g, const struct gguf_tensor *t)
{
    char *name = malloc(t->name_len + 1);
    if (!name)
        return 0;
    memcpy(name, t->name, t->name_len);
    name[t->name_len] = 0;
    const struct gguf_tensor *found = gguf_find(g, name);
    free(name);
    uint64_t rows = t->dims[1] * t->dims[2] * t->dims[3];
    if (found != t || gguf_row_bytes(t->dtype, t->dims[0]) * rows != t->bytes)
        abort();
    return hash_fnv(t->data, t->bytes);
}

static uint64_t walk_array(const struct gguf_val *v)
{
    uint64_t sum = 0;
    size_t cursor = 0, n, texts = 0;
    int64_t len = gguf_array_len(v), x;
    double d;
    for (int64_t i = 0; i < len; i++) {
        sum += gguf_array_int(v, (size_t)i, &x) ? (uint64_t)x : 0;
        sum += gguf_array_float(v, (size_t)i, &d) && d > 0 ? 1 : 0;
    }
    for (const char *t; (t = gguf_array_text(v, &cursor, &n)); texts++)
        sum += hash_fnv(t, n);
    if (len >= 0 && gguf_array_type(v) == GGUF_STRING && texts != (size_t)len)
        abort();
    if (len >= 0 && (gguf_array_int(v, (size_t)len, &x) || gguf_array_float(v, (size_t)len, &d)))
        abort();
    return sum;
}

static uint64_t walk_value(const struct gguf_val *v)
{
    uint64_t sum = (uint64_t)gguf_val_type(v);
    int64_t x;
    double d;
    bool b;
    size_t n;
    const char *t = gguf_text(v, &n);
    sum += t ? hash_fnv(t, n) : 0;
    sum += gguf_int(v, &x) ? (uint64_t)x : 0;
    sum += gguf_float(v, &d) && d > 0 ? 1 : 0;
    sum += gguf_bool(v, &b) && b ? 1 : 0;
    return sum + walk_array(v);
}

uint64_t gguf_walk(const struct gguf *g, const char *const *keys, size_t n)
{
    uint64_t sum = gguf_file_bytes(g);
    size_t bytes;
    for (size_t i = 0; gguf_header(g, i, &bytes); i++)
        sum += hash_fnv(gguf_header(g, i, &bytes), bytes);
    for (size_t i = 0; i < gguf_n_tensors(g); i++)
        sum += walk_tensor(g, gguf_tensor_at(g, i));
    for (size_t i = 0; i < n; i++) {
        const struct gguf_val *v = gguf_get(g, keys[i]);
        sum += v ? walk_value(v) : 0;
    }
    return sum;
}
