/* config_rows - the table of keys, for the files of config alone. Immutable, MT-safe. */
#ifndef HEARTH_SERVER_CONFIG_ROWS_H
#define HEARTH_SERVER_CONFIG_ROWS_H

#include "server/config.h"

enum row_type { ROW_BOOL, ROW_INT, ROW_FLOAT, ROW_TEXT, ROW_BYTES, ROW_DURATION, ROW_ENUM, ROW_LIST, ROW_PATH };

struct config_row {
    const char *name;
    size_t offset; /* of the field in struct config */
    enum row_type type;
    const char *def;  /* NULL = not set; "auto" = 0 */
    double lo, hi;    /* of numbers; every bound here is exact in a double */
    const char *only; /* the allowed words, or numbers, with '|' between them; NULL = any */
    const char *help;
};

extern const struct config_row config_rows[];

/* NULL for an unknown key. */
const struct config_row *config_row_find(const char *key);
/* Does "auto" stand for 0 in this row? */
bool config_row_is_auto(const struct config_row *r);
/* What the row accepts, for people: "a size such as 512MiB from 1MiB to 1PiB, or auto". */
void config_row_put_limits(const struct config_row *r, struct str *out);
/* A number of this row in its own unit. */
void config_row_put_number(const struct config_row *r, double v, struct str *out);

static inline void *config_row_field(const struct config *c, const struct config_row *r)
{
    return (char *)(uintptr_t)c + r->offset;
}

#endif
