/* test_kv8 - the bytes of kv8 against the definition of e4m3. */
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/kv/fmt_kv8.h"

#include <math.h>

/* By the definition: sign, 4 bits of exponent biased by 7, 3 of mantissa; no infinities, NaN is all ones. */
static double value_of(int byte)
{
    int exp = byte >> 3 & 15, man = byte & 7;
    double v = exp ? ldexp(8 + man, exp - 10) : ldexp(man, -9);
    return byte & 128 ? -v : v;
}

START_TEST(test_every_byte_is_the_number_that_the_definition_says)
{
    for (int b = 0; b < 256; b++) {
        float f = e4m3_to_f32((uint8_t)b);
        if ((b & 127) == 127)
            ck_assert_msg(isnan(f), "byte %d", b);
        else
            ck_assert_msg(f == value_of(b) && !!signbit(f) == b >> 7, "byte %d is %g, not %g", b, (double)f,
                          value_of(b));
    }
}
END_TEST

/* The nearest byte of those that are numbers; of two at the same distance the even one. */
static int nearest(double x)
{
    int best = 0;
    for (int b = 0; b < 127; b++) {
        double d = fabs(value_of(b) - fabs(x)), least = fabs(value_of(best) - fabs(x));
        if (d < least || (d == least && b % 2 == 0))
            best = b;
    }
    return best | (signbit(x) ? 128 : 0);
}

START_TEST(test_a_float_becomes_the_nearest_byte)
{
    uint64_t state = unit_seed("kv8");
    for (int i = 0; i < 20000; i++) {
        uint64_t r = rng_next(&state);
        float f = ldexpf((float)(int32_t)(uint32_t)r, (int)(r >> 32 & 31) - 50);
        if (i % 4 == 0) /* halfway between two bytes */
            f = (float)((value_of((int)(r >> 40 & 127) % 126) + value_of((int)(r >> 40 & 127) % 126 + 1)) / 2);
        ck_assert_msg(e4m3_from_f32(f) == nearest(f), "%a becomes %d, not %d", (double)f, e4m3_from_f32(f), nearest(f));
    }
    ck_assert_int_eq(e4m3_from_f32(INFINITY), 0x7e);
    ck_assert_int_eq(e4m3_from_f32(-1e30f), 0xfe);
    ck_assert_int_eq(e4m3_from_f32(NAN) & 0x7f, 0x7f);
}
END_TEST

START_TEST(test_a_row_is_divided_by_its_scale_and_multiplied_again)
{
    float x[5] = {0, 0.25f, -3.5f, 1000, 0.01f}, y[5];
    uint8_t row[6] = {0, 0, 0, 0, 0, 0xaa};
    kv8_put(row, x, 5, 0.125f);
    kv8_get(y, row, 5, 0.125f);
    ck_assert_uint_eq(kv8_row_bytes(5), 5);
    ck_assert_uint_eq(row[5], 0xaa);
    ck_assert(y[0] == 0 && y[1] == 0.25f && y[2] == -3.5f && y[3] == 56);
    ck_assert(fabsf(y[4] - 0.01f) <= 0.01f / 16);
}
END_TEST

UNIT_MAIN("kv8", test_every_byte_is_the_number_that_the_definition_says, test_a_float_becomes_the_nearest_byte,
          test_a_row_is_divided_by_its_scale_and_multiplied_again)
