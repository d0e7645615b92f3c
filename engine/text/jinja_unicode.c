/* jinja_unicode - case and classes of characters as Python's str has them, from tables that Python printed.
 *
 * One character maps to up to three. The one thing left out is context: a capital sigma at the end of a word becomes a
 * plain small sigma.
 */
#include "engine/text/jinja_unicode.h"

#include "engine/text/jinja_int.h"

#define COUNT(table) (sizeof(table) / sizeof *(table))

enum { ALPHA = 1, DECIMAL = 2, ALNUM = 4, UPPER = 8, LOWER = 16, TITLE = 32, PRINTABLE = 64, DIGIT = 128 };

bool junicode_space(uint32_t cp)
{
    if (cp < 0x80)
        return (cp >= 9 && cp <= 13) || (cp >= 0x1C && cp <= 0x20);
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

/* The flags of the last run that begins at or before cp. */
static bool has(uint32_t cp, unsigned flag)
{
    size_t low = 0, high = COUNT(unicode_classes);
    while (high - low > 1) {
        size_t mid = (low + high) / 2;
        if (unicode_classes[mid] >> 8 <= cp)
            low = mid;
        else
            high = mid;
    }
    return unicode_classes[low] & flag;
}

bool junicode_printable(uint32_t cp)
{
    return has(cp, PRINTABLE);
}

bool junicode_alpha(uint32_t cp)
{
    return has(cp, ALPHA);
}

bool junicode_decimal(uint32_t cp)
{
    return has(cp, DECIMAL);
}

bool junicode_digit(uint32_t cp)
{
    return has(cp, DIGIT);
}

bool junicode_alnum(uint32_t cp)
{
    return has(cp, ALNUM);
}

bool junicode_upper(uint32_t cp)
{
    return has(cp, UPPER);
}

bool junicode_lower(uint32_t cp)
{
    return has(cp, LOWER);
}

bool junicode_title(uint32_t cp)
{
    return has(cp, TITLE);
}

/* The range that may hold cp, or NULL. */
static const struct unicode_range *find(const struct unicode_range *r, size_t n, uint32_t cp)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (r[mid].last < cp)
            low = mid + 1;
        else
            high = mid;
    }
    bool in = low < n && r[low].first <= cp && (cp - r[low].first) % (uint32_t)r[low].step == 0;
    return in ? &r[low] : NULL;
}

static int map_special(enum jcase to, uint32_t cp, uint32_t out[3])
{
    for (size_t i = 0; i < COUNT(unicode_special); i++) {
        const struct unicode_special *s = &unicode_special[i];
        if (s->from != cp || s->to != to)
            continue;
        for (int n = 0; n < 3; n++)
            out[n] = s->out[n];
        return s->out[2] ? 3 : 2;
    }
    return 0;
}

int junicode_map(enum jcase to, uint32_t cp, uint32_t out[3])
{
    static const struct {
        const struct unicode_range *r;
        size_t n;
    } tables[] = {[JCASE_UPPER] = {unicode_upper, COUNT(unicode_upper)},
                  [JCASE_LOWER] = {unicode_lower, COUNT(unicode_lower)},
                  [JCASE_TITLE] = {unicode_title, COUNT(unicode_title)}};
    out[0] = cp;
    if (cp < 0x80) {
        bool upper = cp >= 'A' && cp <= 'Z', lower = cp >= 'a' && cp <= 'z';
        out[0] = (to == JCASE_LOWER ? upper : lower) ? cp ^ 0x20 : cp;
        return 1;
    }
    const struct unicode_range *r = find(tables[to].r, tables[to].n, cp);
    if (r)
        out[0] = (uint32_t)((int32_t)cp + r->delta);
    int n = r ? 0 : map_special(to, cp, out);
    return n ? n : 1;
}
