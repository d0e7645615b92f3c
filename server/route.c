/* route - see route.h. */
#include "server/route.h"

#include <stdio.h>
#include <string.h>

static bool path_matches(const char *pattern, const char *path)
{
    size_t n = strlen(pattern);
    if (n >= 2 && strcmp(pattern + n - 2, "/*") == 0)
        return strncmp(pattern, path, n - 1) == 0 && path[n - 1];
    return strcmp(pattern, path) == 0;
}

static bool method_matches(const char *route, const char *method)
{
    return strcmp(route, method) == 0 || (strcmp(method, "HEAD") == 0 && strcmp(route, "GET") == 0);
}

const struct route *route_find(const char *method, const char *path, bool *path_known, char allow[64])
{
    *path_known = false;
    allow[0] = 0;
    for (size_t i = 0; route_registry[i]; i++)
        for (const struct route *r = route_registry[i]; r->method; r++) {
            if (!path_matches(r->path, path))
                continue;
            if (method_matches(r->method, method))
                return r;
            *path_known = true;
            size_t n = strlen(allow);
            snprintf(allow + n, 64 - n, "%s%s", n ? ", " : "", r->method);
        }
    return NULL;
}
