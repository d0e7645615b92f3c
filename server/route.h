/* route - a table of paths per file api_NAME.c; the generated registry lists the tables.
 *
 * Handlers run on the HTTP loop when the body is there. What takes longer than a millisecond goes to the workers.
 */
#ifndef HEARTH_SERVER_ROUTE_H
#define HEARTH_SERVER_ROUTE_H

#include "server/http.h"

struct app;

enum route_access {
    ROUTE_OPEN, /* no key needed: probes, version */
    ROUTE_KEY   /* needs an API key where keys are configured */
};

struct route {
    const char *method; /* NULL ends a table */
    const char *path;   /* exact, or a prefix when it ends in a slash and a star */
    enum route_access access;
    void (*handle)(struct app *a, struct http_call *c);
};

/* The generated registry (build/gen/registry.c): the tables, NULL at the end. */
extern const struct route *const route_registry[];

/* The route of a call, or NULL. HEAD finds GET's. *path_known says whether another method would have found one, and
 * `allow` (at least 64 bytes) lists those methods. */
const struct route *route_find(const char *method, const char *path, bool *path_known, char allow[64]);

#endif
