/* config_value - one value of the configuration as text: what a person writes, and back. Pure, MT-safe.
 *
 * Readers take the whole string (blanks around it are the caller's to cut), return 0, -EINVAL for what is no such value
 * or -ERANGE for what does not fit, and write *out only on 0. Writers append the shortest text that reads back as the
 * same value.
 */
#ifndef HEARTH_SERVER_CONFIG_VALUE_H
#define HEARTH_SERVER_CONFIG_VALUE_H

#include "engine/base/str.h"

#include <stdbool.h>
#include <stdint.h>

/* true yes on 1 / false no off 0, in any case. */
int value_bool(const char *s, bool *out);
/* Decimal digits with an optional sign. */
int value_int(const char *s, int64_t *out);
/* A finite decimal number; an exponent is fine, hexadecimal, inf and nan are not. */
int value_float(const char *s, double *out);
/* "4096", "64MiB", "1.5GB": B; kB MB GB TB are powers of 1000; KiB MiB GiB TiB, and K M G T alone, of 1024. Any case;
 * one blank may stand before the unit. Fractions of a byte are cut. */
int value_bytes(const char *s, uint64_t *out);
/* "100ms", "30s", "5m", "2h", "1d", "1h30m", "1.5s" to milliseconds. A unit is needed, but for 0. */
int value_duration(const char *s, uint64_t *out_ms);

void value_put_bytes(struct str *s, uint64_t bytes);
void value_put_duration(struct str *s, uint64_t ms);
void value_put_float(struct str *s, double v);
/* As a YAML scalar: plain where that is safe (inside [ ], too), otherwise in double quotes. Bytes that are no UTF-8
 * can't stand in YAML: each bad part becomes U+FFFD. */
void value_put_text(struct str *s, const char *text);

/* Steps (insert, delete, replace, swap of two neighbours) that turn a into b; at most 63 bytes of each are looked at.
 */
unsigned value_distance(const char *a, const char *b);

#endif
