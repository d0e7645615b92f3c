/* config_print - the configuration as text: effective values with their sources, and the list of keys. See config.h. */
#include "server/config_rows.h"
#include "server/config_value.h"

#include <math.h>
#include <string.h>

static void put_list(struct str *out, const struct config_list *l)
{
    str_putc(out, '[');
    for (size_t i = 0; i < l->n; i++) {
        str_puts(out, i ? ", " : "");
        value_put_text(out, l->v[i]);
    }
    str_putc(out, ']');
}

/* The k-th word of "a|b|c". */
static void put_choice(struct str *out, const char *only, int k)
{
    while (k-- > 0)
        only = strchr(only, '|') + 1;
    str_add(out, only, strcspn(only, "|"));
}

static bool is_unset(const void *field, const struct config_row *r)
{
    if (r->type == ROW_FLOAT)
        return isnan(*(const double *)field);
    if (r->type == ROW_INT)
        return *(const int64_t *)field == -1;
    return (r->type == ROW_TEXT || r->type == ROW_PATH) && !*(const char *const *)field;
}

void config_put_value(const struct config *c, size_t i, struct str *out)
{
    const struct config_row *r = &config_rows[i];
    const void *f = config_row_field(c, r);
    if (is_unset(f, r))
        str_puts(out, "null");
    else if (r->type == ROW_BOOL)
        str_puts(out, *(const bool *)f ? "true" : "false");
    else if (r->type == ROW_ENUM)
        put_choice(out, r->only, *(const int *)f);
    else if (r->type == ROW_LIST)
        put_list(out, f);
    else if (r->type == ROW_TEXT || r->type == ROW_PATH)
        value_put_text(out, *(const char *const *)f);
    else if (r->type == ROW_FLOAT)
        value_put_float(out, *(const double *)f);
    else if (config_row_is_auto(r) && *(const uint64_t *)f == 0)
        str_puts(out, "auto");
    else if (r->type == ROW_INT)
        str_addf(out, "%lld", (long long)*(const int64_t *)f);
    else
        config_row_put_number(r, (double)*(const uint64_t *)f, out);
}

static void pad_to(struct str *out, size_t line, size_t column)
{
    do
        str_putc(out, ' ');
    while (out->len - line < column && !out->oom);
}

void config_print(const struct config *c, struct str *out)
{
    const char *section = "";
    size_t section_len = 0;
    for (size_t i = 0; i < config_key_count(); i++) {
        const char *dot = strchr(config_rows[i].name, '.');
        size_t n = dot ? (size_t)(dot - config_rows[i].name) : 0;
        if (n && (n != section_len || strncmp(section, config_rows[i].name, n) != 0))
            str_addf(out, "%.*s:\n", (int)n, config_rows[i].name);
        section = config_rows[i].name;
        section_len = n;
        size_t line = out->len;
        str_addf(out, "%s%s: ", dot ? "  " : "", dot ? dot + 1 : config_rows[i].name);
        config_put_value(c, i, out);
        pad_to(out, line, 36);
        str_addf(out, "# %s\n", c->origin[i].where);
    }
}

void config_print_keys(struct str *out)
{
    for (size_t i = 0; i < config_key_count(); i++) {
        const struct config_row *r = &config_rows[i];
        str_addf(out, "  %-28s %s\n%31s", r->name, r->help, "");
        config_row_put_limits(r, out);
        if (r->def)
            str_addf(out, " (default %s)\n", r->def);
        else
            str_puts(out, " (not set)\n");
    }
}
