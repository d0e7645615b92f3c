/* gguf_part - inside of gguf: one file of a set, parsed, and names found in it.
 *
 * For gguf.c, which opens files and sets of them, and gguf_part.c, which reads their bytes. Others use gguf.h.
 */
#ifndef HEARTH_BASE_GGUF_PART_H
#define HEARTH_BASE_GGUF_PART_H

#include "engine/base/gguf_value.h"

#include <stdbool.h>

/* Entries by name: open addressing with a random SipHash key. */
struct gguf_table {
    uint32_t *slot; /* entry number + 1; 0 = free */
    uint64_t mask;  /* slots - 1; at least twice as many slots as entries */
    const void *items;
    size_t stride;
};

struct gguf_part { /* one file of the set */
    const uint8_t *map;
    size_t bytes;
    bool mapped; /* munmap at close */
    char *path;  /* NULL for memory */
    struct gguf_val *kv;
    size_t n_kv;
    struct gguf_table keys;
    uint64_t align;
    size_t header_bytes; /* header, metadata, directory */
};

struct gguf {
    struct gguf_part *part;
    size_t n_parts;
    struct gguf_tensor *tensor;
    size_t n_tensors;
    struct gguf_table names;
    uint64_t hash_key[2];
};

/* Check the header, metadata and directory of p, whose map and bytes are set, and append its tensors to g. 0, -EINVAL,
 * -ENOTSUP or -ENOMEM with e. Hostile bytes: every field is checked before it is used. */
int gguf_part_parse(struct gguf *g, struct gguf_part *p, struct err *e);
/* The value of a key of p, or NULL. */
const struct gguf_val *gguf_part_get(const struct gguf *g, const struct gguf_part *p, const char *key);

/* Index items[n] (not moved afterwards), each of `stride` bytes that begin with a name and its length. 0, -ENOMEM, or
 * -EINVAL for a name that comes twice, called a `what` in e. t->slot is the caller's to free. */
int gguf_table_build(const struct gguf *g, struct gguf_table *t, const char *what, const void *items, size_t n,
                     size_t stride, struct err *e);
/* The item, or NULL. */
const void *gguf_table_find(const struct gguf *g, const struct gguf_table *t, const char *name);

#endif
