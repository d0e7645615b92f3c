/* gguf_write - see gguf_write.h. */
#include "tests/support/gguf_write.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { HEADER, META, DIR };

static void put_field(struct gguf_write *w, struct str *s, int place, const char *what, uint64_t v, int bytes)
{
    if (w->n_fields < GGUF_WRITE_FIELDS)
        w->field[w->n_fields++] = (struct gguf_write_field){what, s->len, bytes, place};
    str_add(s, &v, (size_t)bytes);
}

static void put_text(struct gguf_write *w, struct str *s, int place, const char *what, const char *text)
{
    put_field(w, s, place, what, strlen(text), 8);
    str_puts(s, text);
}

static void put_key(struct gguf_write *w, const char *key, uint32_t type)
{
    w->n_kv++;
    put_text(w, &w->meta, META, "key length", key);
    put_field(w, &w->meta, META, "value type", type, 4);
}

void gguf_write_raw(struct gguf_write *w, const char *key, uint32_t type, const void *bytes, size_t n)
{
    put_key(w, key, type);
    str_add(&w->meta, bytes, n);
}

void gguf_write_int(struct gguf_write *w, const char *key, enum gguf_type type, uint64_t value)
{
    static const uint8_t size[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    gguf_write_raw(w, key, type, &value, size[type]);
}

void gguf_write_float(struct gguf_write *w, const char *key, float value)
{
    gguf_write_raw(w, key, GGUF_F32, &value, sizeof value);
}

void gguf_write_text(struct gguf_write *w, const char *key, const char *text)
{
    put_key(w, key, GGUF_STRING);
    put_text(w, &w->meta, META, "string length", text);
}

void gguf_write_array(struct gguf_write *w, const char *key, enum gguf_type elem, const void *items, uint64_t n)
{
    static const uint8_t size[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    put_key(w, key, GGUF_ARRAY);
    put_field(w, &w->meta, META, "array type", elem, 4);
    put_field(w, &w->meta, META, "array length", n, 8);
    str_add(&w->meta, items, n * size[elem]);
}

void gguf_write_texts(struct gguf_write *w, const char *key, const char *const *texts, uint64_t n)
{
    put_key(w, key, GGUF_ARRAY);
    put_field(w, &w->meta, META, "array type", GGUF_STRING, 4);
    put_field(w, &w->meta, META, "array length", n, 8);
    for (uint64_t i = 0; i < n; i++)
        put_text(w, &w->meta, META, "element length", texts[i]);
}

static void pad(struct str *s, size_t align)
{
    while (s->len % align)
        str_putc(s, 0);
}

void gguf_write_tensor(struct gguf_write *w, const char *name, uint32_t dtype, const uint64_t *dims, unsigned n_dims,
                       const void *data, size_t bytes)
{
    w->n_tensors++;
    put_text(w, &w->dir, DIR, "name length", name);
    put_field(w, &w->dir, DIR, "n_dims", n_dims, 4);
    for (unsigned i = 0; i < n_dims; i++)
        put_field(w, &w->dir, DIR, "dim", dims[i], 8);
    put_field(w, &w->dir, DIR, "tensor type", dtype, 4);
    put_field(w, &w->dir, DIR, "offset", w->data.len, 8);
    char *to = str_room(&w->data, bytes);
    assert(to);
    if (data)
        memcpy(to, data, bytes);
    else
        memset(to, 0, bytes);
    w->data.len += bytes;
    pad(&w->data, w->align ? w->align : 32);
}

void gguf_write_finish(struct gguf_write *w, struct str *out)
{
    uint32_t version = w->version ? w->version : 3;
    str_add(out, "GGUF", 4);
    str_add(out, &version, 4);
    put_field(w, out, HEADER, "n_tensors", w->n_tensors, 8);
    put_field(w, out, HEADER, "n_kv", w->n_kv, 8);
    size_t base[] = {0, out->len, out->len + w->meta.len};
    for (size_t i = 0; i < w->n_fields; i++)
        w->field[i].at += base[w->field[i].place];
    str_add(out, w->meta.data, w->meta.len);
    str_add(out, w->dir.data, w->dir.len);
    if (w->data.len)
        pad(out, w->align ? w->align : 32);
    str_add(out, w->data.data, w->data.len);
    assert(!out->oom && !w->meta.oom && !w->dir.oom && !w->data.oom);
    str_fini(&w->meta);
    str_fini(&w->dir);
    str_fini(&w->data);
}

void gguf_write_file(const char *path, const struct str *bytes)
{
    FILE *f = fopen(path, "wb");
    assert(f);
    size_t n = fwrite(bytes->data, 1, bytes->len, f);
    assert(n == bytes->len);
    int rc = fclose(f);
    assert(rc == 0);
}
