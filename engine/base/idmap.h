/* idmap - from a 64-bit id to a pointer: open addressing, linear probing, tombstone-free removal. One owner. */
#ifndef HEARTH_BASE_IDMAP_H
#define HEARTH_BASE_IDMAP_H

#include <stddef.h>
#include <stdint.h>

struct idmap {
    struct idmap_slot {
        uint64_t id;
        void *value; /* NULL = empty */
    } * slots;
    size_t n, cap; /* cap 0 or a power of two, at most 3/4 full */
};

/* Put value (not NULL) under id, which is not there yet. 0 or -ENOMEM with nothing changed. */
int idmap_put(struct idmap *m, uint64_t id, void *value);
void *idmap_get(const struct idmap *m, uint64_t id); /* NULL = absent */
void *idmap_remove(struct idmap *m, uint64_t id);    /* what was there, or NULL */
void idmap_fini(struct idmap *m);

#endif
