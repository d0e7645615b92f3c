/* config_value - see config_value.h. */
#include "server/config_value.h"

#include "engine/base/utf8.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct unit {
    const char *name;
    uint64_t factor;
};

/* Writers take the first unit that divides the value, so the order is from large to small, binary first. */
static const struct unit byte_units[] = {
    {"TiB", 1ull << 40},
    {"GiB", 1ull << 30},
    {"MiB", 1ull << 20},
    {"KiB", 1ull << 10},
    {"T", 1ull << 40},
    {"G", 1ull << 30},
    {"M", 1ull << 20},
    {"K", 1ull << 10},
    {"TB", 1000000000000},
    {"GB", 1000000000},
    {"MB", 1000000},
    {"kB", 1000},
    {"B", 1},
    {"", 1},
};
static const struct unit time_units[] = {
    {"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1},
};
#define COUNT(a) (sizeof(a) / sizeof *(a))

int value_bool(const char *s, bool *out)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (size_t i = 0; i < COUNT(words); i++)
        if (strcasecmp(s, words[i]) == 0) {
            *out = i & 1;
            return 0;
        }
    return -EINVAL;
}

int value_int(const char *s, int64_t *out)
{
    bool minus = *s == '-';
    s += *s == '-' || *s == '+';
    if (!*s)
        return -EINVAL;
    __int128 v = 0;
    for (; *s; s++) {
        if (!isdigit((unsigned char)*s))
            return -EINVAL;
        if (v <= INT64_MAX) /* beyond: keep reading, to tell "too large" from "no number" */
            v = v * 10 + (*s - '0');
    }
    v = minus ? -v : v;
    if (v > INT64_MAX || v < INT64_MIN)
        return -ERANGE;
    *out = (int64_t)v;
    return 0;
}

int value_float(const char *s, double *out)
{
    if (!*s || s[strspn(s, "0123456789+-.eE")])
        return -EINVAL;
    char *end;
    double v = strtod(s, &end);
    if (end == s || *end)
        return -EINVAL;
    if (!isfinite(v))
        return -ERANGE;
    *out = v;
    return 0;
}

/* A decimal number at *s as mantissa / 10^places; moves *s behind it. Digits beyond what fits are an -ERANGE before the
 * point and cut behind it. */
static int take_decimal(const char **s, uint64_t *mantissa, unsigned *places)
{
    const char *p = *s;
    uint64_t v = 0;
    unsigned frac = 0;
    if (!isdigit((unsigned char)*p))
        return -EINVAL;
    for (; isdigit((unsigned char)*p); p++) {
        if (v > (UINT64_MAX - 9) / 10)
            return -ERANGE;
        v = v * 10 + (uint64_t)(*p - '0');
    }
    if (*p == '.') {
        if (!isdigit((unsigned char)*++p))
            return -EINVAL;
        for (; isdigit((unsigned char)*p); p++)
            if (frac < 9 && v <= (UINT64_MAX - 9) / 10) {
                v = v * 10 + (uint64_t)(*p - '0');
                frac++;
            }
    }
    *s = p;
    *mantissa = v;
    *places = frac;
    return 0;
}

/* mantissa / 10^places * factor, cut to whole; added to *sum. */
static int add_scaled(uint64_t mantissa, unsigned places, uint64_t factor, uint64_t *sum)
{
    unsigned __int128 v = (unsigned __int128)mantissa * factor;
    while (places--)
        v /= 10;
    v += *sum;
    if (v > INT64_MAX)
        return -ERANGE;
    *sum = (uint64_t)v;
    return 0;
}

int value_bytes(const char *s, uint64_t *out)
{
    uint64_t mantissa, sum = 0;
    unsigned places;
    int rc = take_decimal(&s, &mantissa, &places);
    if (rc != 0)
        return rc;
    s += *s == ' ';
    for (size_t i = 0; i < COUNT(byte_units); i++)
        if (strcasecmp(s, byte_units[i].name) == 0) {
            rc = add_scaled(mantissa, places, byte_units[i].factor, &sum);
            if (rc == 0)
                *out = sum;
            return rc;
        }
    return -EINVAL;
}

int value_duration(const char *s, uint64_t *out_ms)
{
    uint64_t sum = 0;
    if (strcmp(s, "0") == 0) {
        *out_ms = 0;
        return 0;
    }
    do {
        uint64_t mantissa;
        unsigned places;
        int rc = take_decimal(&s, &mantissa, &places);
        if (rc != 0)
            return rc;
        size_t n = strspn(s, "dhms"), i = 0;
        while (i < COUNT(time_units) && (strlen(time_units[i].name) != n || strncmp(s, time_units[i].name, n) != 0))
            i++;
        if (i == COUNT(time_units))
            return -EINVAL;
        rc = add_scaled(mantissa, places, time_units[i].factor, &sum);
        if (rc != 0)
            return rc;
        s += n;
    } while (*s);
    *out_ms = sum;
    return 0;
}

static void put_unit(struct str *s, uint64_t v, const struct unit *units, size_t n, const char *zero)
{
    for (size_t i = 0; i < n && v; i++)
        if (v % units[i].factor == 0 && units[i].factor > 1) {
            str_addf(s, "%llu%s", (unsigned long long)(v / units[i].factor), units[i].name);
            return;
        }
    str_addf(s, "%llu%s", (unsigned long long)v, v ? units[n - 1].name : zero);
}

void value_put_bytes(struct str *s, uint64_t bytes)
{
    put_unit(s, bytes, byte_units, COUNT(byte_units), "");
}

void value_put_duration(struct str *s, uint64_t ms)
{
    put_unit(s, ms, time_units, COUNT(time_units), "");
}

void value_put_float(struct str *s, double v)
{
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    str_puts(s, text);
}

/* Text that YAML reads back as it is, without quotes, anywhere. */
static bool is_plain(const char *text)
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-+@:";
    size_t n = strlen(text);
    bool b;
    return n && text[strspn(text, safe)] == 0 && (isalnum((unsigned char)text[0]) || strchr("/.", text[0])) &&
           text[n - 1] != ':' && value_bool(text, &b) != 0 && strcmp(text, "null") != 0;
}

/* Must it be escaped in double quotes? YAML 1.1, section 4.1.1 (c-printable), and what it folds as line breaks. */
static bool needs_escape(uint32_t cp)
{
    return cp < 0x20 || (cp >= 0x7f && cp < 0xa0) || cp == 0x2028 || cp == 0x2029 || cp == 0xfeff || cp == 0xfffe ||
           cp == 0xffff || cp == '"' || cp == '\\';
}

void value_put_text(struct str *s, const char *text)
{
    if (is_plain(text)) {
        str_puts(s, text);
        return;
    }
    str_putc(s, '"');
    for (size_t i = 0, n = strlen(text), used; i < n; i += used) {
        uint32_t cp;
        used = utf8_next(text + i, n - i, &cp);
        if (cp >= UTF8_BAD)
            str_puts(s, UTF8_REPLACEMENT_TXT);
        else if (needs_escape(cp))
            str_addf(s, "\\u%04x", (unsigned)cp);
        else
            str_add(s, text + i, used);
    }
    str_putc(s, '"');
}

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* Optimal string alignment (Levenshtein with swaps of neighbours), three rows kept. */
unsigned value_distance(const char *a, const char *b)
{
    unsigned row[3][64];
    size_t na = strnlen(a, 63), nb = strnlen(b, 63);
    for (size_t j = 0; j <= nb; j++)
        row[0][j] = (unsigned)j;
    for (size_t i = 1; i <= na; i++) {
        unsigned *now = row[i % 3], *up = row[(i + 2) % 3], *up2 = row[(i + 1) % 3];
        now[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            unsigned d = up[j - 1] + (a[i - 1] != b[j - 1]);
            d = least(d, least(up[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d = least(d, up2[j - 2] + 1);
            now[j] = d;
        }
    }
    return row[na % 3][nb];
}
