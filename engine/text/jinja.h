/* jinja - the Jinja that chat templates use: compile once, render many times.
 *
 * Semantics are Jinja2's as Transformers configures it: ImmutableSandboxedEnvironment, trim_blocks, lstrip_blocks,
 * loopcontrols, the generation tag, tojson without HTML escapes, raise_exception, strftime_now. There is no attribute,
 * call or import beyond fixed tables; what is not supported names itself: the filters filesizeformat, pprint, random,
 * striptags, urlencode, urlize, wordwrap, xmlattr, the globals cycler, joiner, lipsum, tags that need other templates.
 * Known differences: integers have 64 bits (more is an error; one in the input is kept as its digits), what gives a
 * generator in Python is computed at once, a variable that a scope sets later is not hidden from inner scopes before
 * that, lower() has no final sigma.
 *
 * Every string knows which of its bytes came from the caller ("foreign") and which from the template, through every
 * filter, method and macro, so that a caller can tell a control token that the template wrote from one that a user
 * typed.
 *
 * Parser and evaluator are limited in depth, every render in steps, memory and output as well, so that a hostile
 * template ends soon with an error. A template comes out of the model file or configuration, never from a request.
 * Compiled templates are immutable, MT-safe; a render uses its own arena alone, and half a mebibyte of stack for 1,000
 * levels.
 */
#ifndef HEARTH_TEXT_JINJA_H
#define HEARTH_TEXT_JINJA_H

#include "engine/base/err.h"
#include "engine/base/json.h"
#include "engine/base/str.h"

#include <stdbool.h>
#include <stdint.h>

struct jinja; /* a compiled template */

struct jinja_limits {
    uint64_t steps;      /* evaluated nodes, loop turns and items looked at, plus bytes copied / 64; 0 = 10,000,000 */
    size_t output_bytes; /* of the result; 0 = 64 MiB */
    size_t memory_bytes; /* of all values of one render; 0 = 256 MiB */
    unsigned depth;      /* expressions, blocks and macro calls within each other; 0 = 1,000 */
};

struct jinja_input {
    const struct json_val *vars; /* object; its members are globals, its strings and keys are foreign text */
    const struct json_val
        *constants;           /* object or NULL: globals that vars lacks; their strings are the template's own */
    const char *const *words; /* NULL-terminated or NULL: a foreign string that equals one is not foreign */
    int64_t now_s;            /* seconds since 1970, for strftime_now (UTC) */
    struct jinja_limits limits;
};

struct jinja_span { /* bytes [from, to) of an output */
    size_t from, to;
};
struct jinja_spans { /* ascending, not touching; owned by its holder; free(v) */
    struct jinja_span *v;
    size_t n, cap;
};

/* 0, or -EINVAL with "chat template, line 12: ...", -E2BIG (over 1 MiB of source or 4 MiB of tree), or -ENOMEM. */
int jinja_compile(struct jinja **out, const char *source, size_t n, struct err *e);
void jinja_close(struct jinja *j); /* NULL is fine */

/* Does the template read a global of this name? True only for names that it mentions and does not only set. */
bool jinja_reads(const struct jinja *j, const char *name);

/* Append the rendered text to out, and to `foreign` (when not NULL) which bytes of out are foreign. 0, or -errno with e
 * and nothing appended: -EINVAL the template raised or went wrong ("chat template, line 3: ..."), -E2BIG a limit,
 * -ENOMEM. */
int jinja_render(const struct jinja *j, const struct jinja_input *in, struct str *out, struct jinja_spans *foreign,
                 struct err *e);

#endif
