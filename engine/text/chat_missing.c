/* chat_missing - stands in until chat.c is there: no model has a chat template. */
#include "engine/text/chat.h"

#include <errno.h>

int chat_open(struct chat **out, const struct tokenizer *t, const char *source, size_t n, struct err *e)
{
    *out = NULL;
    return 0;
}

void chat_close(struct chat *c)
{
}

int chat_check_kwargs(const struct chat *c, const struct json_val *kwargs, struct err *e)
{
    return err_set(e, ENOTSUP, "no chat template");
}

int chat_encode(const struct chat *c, const struct json_val *vars, int64_t now_s, struct str *text, struct token_ids *out,
                struct err *e)
{
    return err_set(e, ENOTSUP, "no chat template");
}
