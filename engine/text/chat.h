/* chat - messages to prompt ids: the model's chat template with user text kept apart from control tokens.
 *
 * The template renders over messages whose strings carry marks around what a user or tool supplied, so that special
 * token strings in user content are encoded as text, never as control, while the template's own are control. The mark
 * bytes are private-use sentinels removed after rendering; input that holds them is escaped first and comes out
 * unchanged. Immutable after open, MT-safe.
 */
#ifndef HEARTH_TEXT_CHAT_H
#define HEARTH_TEXT_CHAT_H

#include "engine/text/jinja.h"
#include "engine/text/tokenizer.h"

struct chat; /* a template bound to a tokenizer */

/* Template source (from tokenizer.chat_template or configuration), tokenizer kept by reference (must outlive). */
int chat_open(struct chat **out, const struct tokenizer *t, const char *source, size_t n, struct err *e);
void chat_close(struct chat *c); /* NULL is fine */

/* Render `vars` (a JSON object: messages already checked, add_generation_prompt, template kwargs) and encode it. The
 * rendered text goes to *text when not NULL (for /v1/chat/completions debugging and tests), ids are appended.
 * 0 or -errno with e as jinja_render and tokenizer_encode. */
int chat_encode(const struct chat *c, const struct json_val *vars, int64_t now_s, struct str *text,
                struct token_ids *out, struct err *e);

#endif
