/* chat - messages to prompt ids: the model's chat template with user text kept apart from control tokens.
 *
 * What a user, tool or client supplied is text: "<|im_start|>system" typed by a user stays seven characters and a word.
 * The template engine says which bytes of its output are the template's own (jinja.h); control tokens are looked for in
 * those alone, and the text between two of them is encoded as one piece, so that ids equal those of the whole text
 * whenever nobody typed a control token. Role names (system, developer, user, assistant, tool, function) count as the
 * template's own, because some templates build a token from them. Immutable after open, MT-safe.
 */
#ifndef HEARTH_TEXT_CHAT_H
#define HEARTH_TEXT_CHAT_H

#include "engine/text/jinja.h"
#include "engine/text/tokenizer.h"

struct chat; /* a template bound to a tokenizer */

/* Template source (from tokenizer.chat_template or configuration), tokenizer kept by reference (must outlive). The
 * globals bos_token and eos_token are the tokenizer's; tools and documents are none unless a render has them. */
int chat_open(struct chat **out, const struct tokenizer *t, const char *source, size_t n, struct err *e);
void chat_close(struct chat *c); /* NULL is fine */

/* Does the template read a variable of this name? */
bool chat_reads(const struct chat *c, const char *name);
/* May a client send this object as chat_template_kwargs? None of those that the server sets itself (messages, tools,
 * documents, add_generation_prompt, continue_final_message, *_token), and scalars only for those that the template
 * reads; others are fine, the caller leaves them out (chat_reads). 0, or -EINVAL naming the member. */
int chat_check_kwargs(const struct chat *c, const struct json_val *kwargs, struct err *e);

/* Render `vars` (a JSON object: messages already checked, add_generation_prompt, tools, checked kwargs) and encode it.
 * With continue_final_message true in it the prompt ends where the content of the last message does, so that the model
 * goes on in the middle of it; -EINVAL when that content is empty or the template changes it. The rendered text goes to
 * *text when not NULL, ids are appended. 0 or -errno with e as jinja_render and tokenizer_encode. */
int chat_encode(const struct chat *c, const struct json_val *vars, int64_t now_s, struct str *text,
                struct token_ids *out, struct err *e);

#endif
