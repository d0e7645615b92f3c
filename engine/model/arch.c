/* arch - see arch.h. */
#include "engine/model/arch.h"

#include <stdio.h>
#include <string.h>

const struct arch_ops *arch_find(const char *name)
{
    for (const struct arch_ops *const *a = arch_registry; *a; a++)
        if (!strcmp((*a)->name, name))
            return *a;
    return NULL;
}

const char *arch_names(void)
{
    static char names[256]; /* filled with the same bytes whoever comes first */
    size_t at = 0;
    for (const struct arch_ops *const *a = arch_registry; *a && at < sizeof names; a++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", at ? ", " : "", (*a)->name);
    return names;
}
