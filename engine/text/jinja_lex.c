/* jinja_lex - source to tokens, as Jinja2's lexer with trim_blocks and lstrip_blocks.
 *
 * Two states: text up to the next tag, and the inside of a tag up to its end. Whitespace control happens here: a tag's
 * minus sign strips the text beside it, a block or comment tag alone on its line takes the indentation before it and
 * the newline after it, plus keeps them. Within brackets "}}" and "%}" are operators, so dicts may nest.
 */
#include "engine/text/jinja_int.h"

#include "engine/base/vec.h"

#include <assert.h>

struct lexer {
    struct arena *mem;
    struct err *e;
    const char *s;
    size_t n, at;
    uint32_t line;
    bool line_start; /* only a newline or nothing precedes `at` */
    struct jtok *tok;
    size_t n_tok, cap_tok;
    char *brackets; /* the closing ones that are due */
    size_t n_brackets, cap_brackets;
};

int jlex_oom(const struct arena *mem, struct err *e)
{
    if (mem->used > JINJA_TREE_MAX / 2) /* an arena says no without saying why */
        return err_set(e, E2BIG, "chat template: needs more than %d bytes", JINJA_TREE_MAX);
    return err_set(e, ENOMEM, "chat template: no memory");
}

#define lex_fail(lx, ...) (err_set((lx)->e, EINVAL, __VA_ARGS__), lex_place(lx))

static int lex_place(struct lexer *lx)
{
    err_prefix(lx->e, "chat template, line %u", lx->line);
    return -EINVAL;
}

static int lex_oom(struct lexer *lx)
{
    return jlex_oom(lx->mem, lx->e);
}

static char peek(const struct lexer *lx, size_t ahead)
{
    return lx->at + ahead < lx->n ? lx->s[lx->at + ahead] : 0;
}

static void advance(struct lexer *lx, size_t n)
{
    for (size_t i = 0; i < n; i++)
        lx->line += lx->s[lx->at + i] == '\n';
    lx->at += n;
}

/* Bytes of the white-space character at s[i], 0 = none. */
static size_t space_at(const struct lexer *lx, size_t i)
{
    uint32_t cp;
    if (i >= lx->n)
        return 0;
    size_t len = utf8_next(lx->s + i, lx->n - i, &cp);
    return junicode_space(cp) ? len : 0;
}

static size_t skip_space(const struct lexer *lx, size_t i)
{
    for (size_t len; (len = space_at(lx, i)) > 0;)
        i += len;
    return i;
}

static bool starts(const struct lexer *lx, size_t i, const char *text)
{
    size_t len = strlen(text);
    return i + len <= lx->n && memcmp(lx->s + i, text, len) == 0;
}

/* Position of the two bytes of `mark` at or after i, or n. */
static size_t find2(const struct lexer *lx, size_t i, const char *mark)
{
    const char *p = i < lx->n ? memmem(lx->s + i, lx->n - i, mark, 2) : NULL;
    return p ? (size_t)(p - lx->s) : lx->n;
}

static int push(struct lexer *lx, enum jtok_type type, uint16_t op, const char *p, size_t n)
{
    if (lx->n_tok == JINJA_TOKENS_MAX)
        return err_set(lx->e, E2BIG, "chat template: more than %d tokens", JINJA_TOKENS_MAX);
    if (vec_grow(&lx->tok, &lx->cap_tok, lx->n_tok + 1, sizeof *lx->tok) != 0)
        return lex_oom(lx);
    lx->tok[lx->n_tok++] = (struct jtok){.type = (uint8_t)type, .op = op, .line = lx->line, .p = p, .n = n};
    return 0;
}

/* The end of text before a tag at `end` with this sign: what "-" and lstrip_blocks leave of [at, end). */
static size_t strip_before(const struct lexer *lx, size_t end, char sign, bool block)
{
    size_t keep = lx->at, line = lx->at;
    for (size_t i = lx->at; i < end;) { /* keep: after the last character that is not white; line: of the last line */
        size_t white = space_at(lx, i);
        if (lx->s[i] == '\n')
            line = i + 1;
        i += white ? white : 1;
        if (!white)
            keep = i;
    }
    if (sign == '-')
        return keep;
    if (sign != '+' && block && keep <= line && (line > lx->at || lx->line_start))
        return line;
    return end;
}

/* Past a tag's closing mark: with "-" all white space goes too, without a sign a block or comment takes one newline. */
static void end_tag(struct lexer *lx, size_t mark, bool block)
{
    bool minus = peek(lx, 0) == '-';
    size_t to = lx->at + mark;
    if (minus)
        to = skip_space(lx, to);
    else if (block && mark == 2 && to < lx->n && lx->s[to] == '\n')
        to++;
    advance(lx, to - lx->at);
    lx->line_start = lx->s[lx->at - 1] == '\n';
}

/* Length of the closing mark at `at`, with its sign; 0 = it is not here. Print tags know no plus. */
static size_t close_mark(const struct lexer *lx, const char *mark, bool plus)
{
    if (starts(lx, lx->at, mark))
        return 2;
    char sign = peek(lx, 0);
    return (sign == '-' || (plus && sign == '+')) && starts(lx, lx->at + 1, mark) ? 3 : 0;
}

static int lex_comment(struct lexer *lx)
{
    size_t from = lx->at, end = find2(lx, from, "#}");
    if (end == lx->n) { /* Jinja2 lets the last two bytes of a source be an opening mark */
        lx->at = lx->n;
        return from == lx->n ? 0 : lex_fail(lx, "missing end of comment tag");
    }
    if (end > from && (lx->s[end - 1] == '-' || lx->s[end - 1] == '+'))
        end--;
    advance(lx, end - from);
    end_tag(lx, lx->s[end] == '#' ? 2 : 3, true);
    return 0;
}

/* If a raw or endraw tag opens at i ("{%", sign, name), the position of its closing mark; else 0. */
static size_t raw_tag(const struct lexer *lx, size_t i, const char *name, char *sign)
{
    i += 2;
    *sign = i < lx->n && (lx->s[i] == '-' || lx->s[i] == '+') ? lx->s[i++] : 0;
    i = skip_space(lx, i);
    if (!starts(lx, i, name))
        return 0;
    i = skip_space(lx, i + strlen(name));
    bool plus = name[0] == 'e' && starts(lx, i, "+%}");
    return starts(lx, i, "%}") || starts(lx, i, "-%}") || plus ? i : 0;
}

/* From the closing mark of {% raw %} to the end of {% endraw %}. */
static int lex_raw(struct lexer *lx)
{
    char sign;
    int rc;
    end_tag(lx, peek(lx, 0) == '-' ? 3 : 2, false);
    for (size_t end = lx->at; (end = find2(lx, end, "{%")) < lx->n; end += 2) {
        size_t close = raw_tag(lx, end, "endraw", &sign);
        if (!close)
            continue;
        size_t text_end = strip_before(lx, end, sign, true);
        if (text_end > lx->at && (rc = push(lx, JT_TEXT, 0, lx->s + lx->at, text_end - lx->at)) != 0)
            return rc;
        advance(lx, close - lx->at);
        end_tag(lx, peek(lx, 0) == '%' ? 2 : 3, true);
        return 0;
    }
    return lx->at == lx->n ? 0 : lex_fail(lx, "missing end of raw directive");
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* End of digits that may be parted by single underscores, from i. */
static size_t skip_digits(const struct lexer *lx, size_t i)
{
    while (i < lx->n && (is_digit(lx->s[i]) || (lx->s[i] == '_' && i + 1 < lx->n && is_digit(lx->s[i + 1]))))
        i++;
    return i;
}

static size_t skip_based(const struct lexer *lx, size_t i, const char *digits)
{
    while (i < lx->n && ((lx->s[i] && strchr(digits, lx->s[i])) ||
                         (lx->s[i] == '_' && i + 1 < lx->n && lx->s[i + 1] && strchr(digits, lx->s[i + 1]))))
        i++;
    return i;
}

static int lex_number(struct lexer *lx)
{
    size_t from = lx->at, end = skip_digits(lx, from), whole = end;
    bool after_dot = from > 0 && lx->s[from - 1] == '.';
    if (!after_dot) {
        if (end + 1 < lx->n && lx->s[end] == '.' && is_digit(lx->s[end + 1]))
            end = skip_digits(lx, end + 1);
        if (end < lx->n && (lx->s[end] | 0x20) == 'e') {
            size_t exp = end + 1;
            exp += exp < lx->n && (lx->s[exp] == '+' || lx->s[exp] == '-');
            if (exp < lx->n && is_digit(lx->s[exp]))
                end = skip_digits(lx, exp);
        }
    }
    enum jtok_type type = end > whole ? JT_FLOAT : JT_INT;
    if (type == JT_INT && lx->s[from] == '0') { /* 0x1f, 0o17, 0b11, or zeros alone */
        char base = from + 1 < lx->n ? (char)(lx->s[from + 1] | 0x20) : 0;
        const char *digits = base == 'x' ? "0123456789abcdefABCDEF" : base == 'o' ? "01234567" : "01";
        end = base == 'x' || base == 'o' || base == 'b' ? skip_based(lx, from + 2, digits) : from + 2;
        if (end == from + 2)
            end = skip_based(lx, from + 1, "0");
    }
    int rc = push(lx, type, 0, lx->s + from, end - from);
    advance(lx, end - from);
    return rc;
}

static size_t name_char(const struct lexer *lx, size_t i)
{
    uint32_t cp;
    if (i >= lx->n)
        return 0;
    size_t len = utf8_next(lx->s + i, lx->n - i, &cp);
    return cp == '_' || junicode_alnum(cp) ? len : 0;
}

static int lex_name(struct lexer *lx)
{
    size_t from = lx->at, end = from;
    for (size_t len; (len = name_char(lx, end)) > 0;)
        end += len;
    int rc = push(lx, JT_NAME, 0, lx->s + from, end - from);
    advance(lx, end - from);
    return rc;
}

static int hex_value(char c)
{
    if (is_digit(c))
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The escape after a backslash, s[0..n): its bytes go to *out, which moves on. Returns what it took, or -errno. */
static int lex_escape(struct lexer *lx, const char *s, size_t n, char **out)
{
    static const char plain[] = "abfnrtv\\'\"", means[] = "\a\b\f\n\r\t\v\\'\"";
    const char *at = s[0] ? strchr(plain, s[0]) : NULL;
    uint32_t cp = 0;
    size_t used = 0;
    if (at) {
        *(*out)++ = means[at - plain];
        return 1;
    }
    if (s[0] == '\n')
        return 1;
    if (s[0] == 'N')
        return lex_fail(lx, "\\N escapes in strings are not supported");
    if (s[0] >= '0' && s[0] <= '7') {
        for (; used < 3 && used < n && s[used] >= '0' && s[used] <= '7'; used++)
            cp = cp * 8 + (uint32_t)(s[used] - '0');
    } else if (s[0] == 'x' || s[0] == 'u' || s[0] == 'U') {
        size_t digits = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : 8;
        for (used = 1; used <= digits; used++) {
            int d = used < n ? hex_value(s[used]) : -1;
            if (d < 0)
                return lex_fail(lx, "a \\%c escape in a string needs %zu hexadecimal digits", s[0], digits);
            cp = cp << 4 | (uint32_t)d;
        }
        if (cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF))
            return lex_fail(lx, "a \\%c escape in a string is no character", s[0]);
    } else { /* an unknown escape stays as it is */
        *(*out)++ = '\\';
        return 0;
    }
    *out += utf8_put(*out, cp);
    return (int)used;
}

static int lex_string(struct lexer *lx)
{
    char quote = lx->s[lx->at];
    size_t from = lx->at + 1, end = from;
    while (end < lx->n && lx->s[end] != quote)
        end += lx->s[end] == '\\' ? 2 : 1;
    if (end >= lx->n)
        return lex_fail(lx, "a string has no end");
    char *text = arena_alloc(lx->mem, end - from + 4), *to = text; /* an escape is never shorter than its bytes */
    if (!text)
        return lex_oom(lx);
    for (size_t i = from; i < end;) {
        if (lx->s[i] != '\\') {
            *to++ = lx->s[i++];
            continue;
        }
        int used = lex_escape(lx, lx->s + i + 1, end - i - 1, &to);
        if (used < 0)
            return used;
        i += 1 + (size_t)used;
    }
    int rc = push(lx, JT_STRING, 0, text, (size_t)(to - text));
    advance(lx, end + 1 - lx->at);
    return rc;
}

/* Keep count of brackets; 0 or -errno. */
static int lex_bracket(struct lexer *lx, char c)
{
    static const char open[] = "([{", close[] = ")]}";
    const char *at = strchr(open, c);
    if (at) {
        if (vec_grow(&lx->brackets, &lx->cap_brackets, lx->n_brackets + 1, 1) != 0)
            return lex_oom(lx);
        lx->brackets[lx->n_brackets++] = close[at - open];
    } else if (strchr(close, c)) {
        if (lx->n_brackets == 0)
            return lex_fail(lx, "unexpected '%c'", c);
        char due = lx->brackets[--lx->n_brackets];
        if (due != c)
            return lex_fail(lx, "unexpected '%c', expected '%c'", c, due);
    }
    return 0;
}

static int lex_operator(struct lexer *lx)
{
    static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};
    char c = peek(lx, 0);
    for (size_t i = 0; i < sizeof two / sizeof *two; i++)
        if (starts(lx, lx->at, two[i])) {
            int rc = push(lx, JT_OP, JOP2(two[i][0], two[i][1]), lx->s + lx->at, 2);
            advance(lx, 2);
            return rc;
        }
    if (!c || !strchr("+-/*%~[](){}><=.:|,;", c))
        return lex_fail(lx, "unexpected character at byte %zu", lx->at);
    int rc = lex_bracket(lx, c);
    if (rc == 0)
        rc = push(lx, JT_OP, (uint8_t)c, lx->s + lx->at, 1);
    advance(lx, 1);
    return rc;
}

/* The inside of a print or block tag and its end. A source that ends first is the parser's error to find. */
static int lex_tag(struct lexer *lx, const char *mark, enum jtok_type begin, enum jtok_type end)
{
    int rc = push(lx, begin, 0, lx->s + lx->at, 0);
    lx->n_brackets = 0;
    while (rc == 0 && lx->at < lx->n) {
        size_t close = lx->n_brackets ? 0 : close_mark(lx, mark, end == JT_BLOCK_END);
        char c = lx->s[lx->at];
        if (close) {
            rc = push(lx, end, 0, lx->s + lx->at, 0);
            end_tag(lx, close, end == JT_BLOCK_END);
            return rc;
        }
        if (space_at(lx, lx->at))
            advance(lx, space_at(lx, lx->at));
        else if (is_digit(c))
            rc = lex_number(lx);
        else if (name_char(lx, lx->at))
            rc = lex_name(lx);
        else if (c == '\'' || c == '"')
            rc = lex_string(lx);
        else
            rc = lex_operator(lx);
    }
    return rc;
}

static size_t find_tag(const struct lexer *lx)
{
    for (size_t i = lx->at; i + 1 < lx->n; i++) {
        const char *p = memchr(lx->s + i, '{', lx->n - 1 - i);
        if (!p)
            break;
        i = (size_t)(p - lx->s);
        if (p[1] == '%' || p[1] == '{' || p[1] == '#')
            return i;
    }
    return lx->n;
}

/* Text up to the next tag, then that tag. */
static int lex_next(struct lexer *lx)
{
    size_t tag = find_tag(lx), raw = 0, end = tag;
    char kind = tag < lx->n ? lx->s[tag + 1] : 0, sign = 0;
    int rc;
    if (kind == '%')
        raw = raw_tag(lx, tag, "raw", &sign);
    if (kind) {
        sign = tag + 2 < lx->n ? lx->s[tag + 2] : 0;
        end = strip_before(lx, tag, sign, kind != '{');
    }
    if (end > lx->at && (rc = push(lx, JT_TEXT, 0, lx->s + lx->at, end - lx->at)) != 0)
        return rc;
    if (!kind) {
        lx->at = lx->n;
        return 0;
    }
    advance(lx, (raw ? raw : tag + 2 + (sign == '-' || sign == '+')) - lx->at);
    if (raw)
        return lex_raw(lx);
    if (kind == '#')
        return lex_comment(lx);
    if (kind == '%')
        return lex_tag(lx, "%}", JT_BLOCK_BEGIN, JT_BLOCK_END);
    return lex_tag(lx, "}}", JT_PRINT_BEGIN, JT_PRINT_END);
}

/* Newlines become "\n" and the last one goes, as Jinja2 reads a source. */
static char *normalise(struct arena *mem, const char *source, size_t n, size_t *len)
{
    char *s = arena_alloc(mem, n + 1);
    size_t k = 0;
    for (size_t i = 0; s && i < n; i++) {
        if (source[i] == '\r' && i + 1 < n && source[i + 1] == '\n')
            continue;
        s[k++] = source[i] == '\r' ? '\n' : source[i];
    }
    *len = k > 0 && s[k - 1] == '\n' ? k - 1 : k;
    return s;
}

int jlex(struct arena *mem, const char *source, size_t n, struct jtok **out, struct err *e)
{
    struct lexer lx = {.mem = mem, .e = e, .line = 1, .line_start = true};
    int rc = 0;
    if (!utf8_valid(source, n))
        return err_set(e, EINVAL, "chat template: not UTF-8");
    lx.s = normalise(mem, source, n, &lx.n);
    if (!lx.s)
        return lex_oom(&lx);
    while (rc == 0 && lx.at < lx.n)
        rc = lex_next(&lx);
    if (rc == 0)
        rc = push(&lx, JT_END, 0, lx.s + lx.n, 0);
    if (rc == 0)
        *out = lx.tok;
    else
        free(lx.tok);
    free(lx.brackets);
    return rc;
}
