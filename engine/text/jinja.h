/* jinja - the Jinja subset that chat templates use: compile once, render many times.
 *
 * Semantics are Jinja2's as Transformers configures it (ImmutableSandboxedEnvironment, trim_blocks=True,
 * lstrip_blocks=True, loopcontrols, tojson without HTML escapes, raise_exception, strftime_now). No attribute, call or
 * import beyond a fixed list. Parser and evaluator are iterative or depth-limited; every render has limits on
 * steps, depth and output bytes. A template comes out of the model file or configuration, never from a request.
 * Compiled templates are immutable, MT-safe; a render uses only its own arena.
 */
#ifndef HEARTH_TEXT_JINJA_H
#define HEARTH_TEXT_JINJA_H

#include "engine/base/err.h"
#include "engine/base/json.h"
#include "engine/base/str.h"

#include <stdint.h>

struct jinja; /* a compiled template */

struct jinja_limits {
    uint64_t steps;      /* evaluated nodes and loop turns, plus bytes copied / 64; 0 = 10,000,000 */
    size_t output_bytes; /* of the result; 0 = 64 MiB */
    size_t memory_bytes; /* of all values of one render; 0 = 256 MiB */
    unsigned depth;      /* expression nesting, macro calls, blocks; 0 = 200 */
};

/* 0, or -EINVAL with "chat template, line 12: ..." (unsupported things name themselves), or -ENOMEM. */
int jinja_compile(struct jinja **out, const char *source, size_t n, struct err *e);
void jinja_close(struct jinja *j); /* NULL is fine */

/* Render with the members of the JSON object `vars` as globals (messages, tools, add_generation_prompt, bos_token,
 * ...). now_s: seconds since 1970 for strftime_now (UTC). Appends to out. 0, or -errno with e: -EINVAL the template
 * raised (raise_exception's text is in e: "chat template: ..."), -E2BIG a limit, -ENOMEM. */
int jinja_render(const struct jinja *j, const struct json_val *vars, int64_t now_s, const struct jinja_limits *limits,
                 struct str *out, struct err *e);

#endif
