/* json_impl - what the files of json share: the node, and the pieces of grammar that both passes read. */
#ifndef HEARTH_BASE_JSON_IMPL_H
#define HEARTH_BASE_JSON_IMPL_H

#include "engine/base/json.h"

/* Nodes of a document lie in one array in the order of their text: an array's or object's first child is the node
 * after it. The last child leads back to its parent, so that walks need no stack. */
struct json_val {
    const char *key; /* decoded, terminated; NULL outside objects */
    union {
        const char *text;    /* strings: decoded, terminated; numbers: digits, terminated */
        const int32_t *ints; /* flat arrays */
    };
    uint32_t n;     /* bytes of text; elements of a flat array; children otherwise */
    uint32_t key_n; /* bytes of key */
    uint32_t step;  /* nodes forward to the next sibling; from the last child, nodes back to the parent; root: 0 */
    uint8_t type;   /* enum json_type */
    bool last, flat;
};
_Static_assert(sizeof(struct json_val) == 32, "the cost that json.h promises");

/* What a document needs in memory, exactly (text: at most). */
struct json_size {
    size_t nodes, ints, text;
};

/* json_check that also measures. *size is written only on success. */
int json_measure(struct json_size *size, const char *bytes, size_t n, const struct json_limits *limits, struct err *e);

/* The array that starts at p[0] == '[' as plain int32 integers: returns its length in bytes, brackets included, or 0
 * when it is anything else (n bytes are there; reads no further). *count elements; the first `cap` go to out. */
size_t json_int_run(const char *p, size_t n, int32_t *out, size_t cap, size_t *count);

/* Decode the character or escape at p, within a string that passed the check (not at its closing quote); returns what
 * follows it. */
const char *json_char(const char *p, uint32_t *cp);

#endif
