/* test_scales - the file of kv8's scales, and the scales that a model gets from a text. */
#include "tests/support/gguf_llama.h"
#include "tests/support/unit.h"

#include "engine/base/sys.h"
#include "engine/kv/fmt_kv8.h"
#include "engine/kv/scales.h"
#include "engine/machine.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

enum { LAYERS = 2, HEADS = 3, N = 2 * LAYERS * HEADS, N_IDS = 100 };

static char dir[32];
static char model[64], path[80];
static struct err e;

static void begin(void)
{
    ck_assert_int_eq(hash_init_library(), 0);
    strcpy(dir, "/tmp/hearth-scales-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(model, sizeof model, "%s/model.gguf", dir);
    ck_assert_int_eq(scales_path(path, sizeof path, model), 0);
}

static void end(void)
{
    unlink(model);
    unlink(path);
    ck_assert_int_eq(rmdir(dir), 0);
}

static void some_scales(float *s)
{
    for (int i = 0; i < N; i++)
        s[i] = ldexpf(1, i - 6);
}

START_TEST(test_what_is_written_is_read)
{
    float s[N], back[N];
    begin();
    some_scales(s);
    ck_assert_int_eq(scales_read(path, LAYERS, HEADS, back, &e), -ENOENT);
    ck_assert_int_eq(scales_write(path, LAYERS, HEADS, s, &e), 0);
    ck_assert_int_eq(scales_write(path, LAYERS, HEADS, s, &e), 0);
    ck_assert_int_eq(scales_read(path, LAYERS, HEADS, back, &e), 0);
    ck_assert_int_eq(memcmp(s, back, sizeof s), 0);
    ck_assert_int_eq(scales_read(path, LAYERS + 1, HEADS, back, &e), -EINVAL);
    ck_assert_ptr_nonnull(strstr(e.text, "2 layers of 3 KV heads, the model has 3 of 3"));
    ck_assert_int_eq(scales_read(path, LAYERS, HEADS - 1, back, &e), -EINVAL);
    end();
}
END_TEST

static void put_file(const uint8_t *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

START_TEST(test_any_damage_is_found)
{
    float s[N], back[N];
    uint8_t bytes[16 + 8 * LAYERS * HEADS + 4 + 1];
    size_t n = sizeof bytes - 1;
    begin();
    some_scales(s);
    ck_assert_int_eq(scales_write(path, LAYERS, HEADS, s, &e), 0);
    FILE *f = fopen(path, "rb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fread(bytes, 1, sizeof bytes, f), n);
    fclose(f);
    for (size_t i = 0; i < n; i++) {
        bytes[i] ^= 0x10;
        put_file(bytes, n);
        ck_assert_msg(scales_read(path, LAYERS, HEADS, back, &e) == -EINVAL, "byte %zu may change", i);
        bytes[i] ^= 0x10;
        put_file(bytes, i);
        ck_assert_msg(scales_read(path, LAYERS, HEADS, back, &e) == -EINVAL, "%zu bytes are enough", i);
    }
    bytes[n] = 0;
    put_file(bytes, n + 1);
    ck_assert_int_eq(scales_read(path, LAYERS, HEADS, back, &e), -EINVAL);
    s[N - 1] = 0;
    ck_assert_int_eq(scales_write(path, LAYERS, HEADS, s, &e), 0);
    ck_assert_int_eq(scales_read(path, LAYERS, HEADS, back, &e), -EINVAL);
    ck_assert_ptr_nonnull(strstr(e.text, "scale 11 is 0, must be above 0"));
    end();
}
END_TEST

START_TEST(test_a_scale_is_a_power_of_2_with_room_for_twice_as_much)
{
    int exp;
    for (float most = 1e-6f; most < 1e6f; most *= 1.37f) {
        float s = scale_for(most);
        ck_assert_msg(frexpf(s, &exp) == 0.5f, "%g", (double)s);
        ck_assert_msg(2 * most <= KV8_MAX * s && 2 * most > KV8_MAX * s / 2, "%g for %g", (double)s, (double)most);
    }
    ck_assert(scale_for(0) == 1);
}
END_TEST

/* -- of a model -------------------------------------------------------------------------------------------------- */

static void write_model(void)
{
    struct gguf_write w = {0};
    struct loader *l;
    struct str s = {0};
    ck_assert_int_eq(loader_open(&l, "random:tiny", &e), 0);
    gguf_llama_add(&w, l, NULL);
    gguf_write_finish(&w, &s);
    gguf_write_file(model, &s);
    str_fini(&s);
    loader_close(l);
}

static struct engine_config config_of(const char *source, uint32_t format)
{
    struct engine_config c = {.backend = "cpu", .threads = 1, .kv_bytes = 1 << 20, .kv_format = format, .max_rows = 48};
    snprintf(c.model, sizeof c.model, "%s", source);
    return c;
}

static struct hash_key fingerprint_of(uint32_t format, const float *scales)
{
    struct engine_config c = config_of(model, format);
    struct machine m;
    ck_assert_msg(machine_open(&m, &c, NULL, NULL, &e) == 0, "%s", e.text);
    const size_t row = 2 * m.layout.n_kv_heads;
    for (uint32_t i = 0; i < m.layout.n_layers; i++)
        if (scales)
            ck_assert_int_eq(memcmp(m.views[i].scale, scales + i * row, row * sizeof *scales), 0);
    struct hash_key k = m.fingerprints[m.layout.format];
    machine_close(&m);
    return k;
}

START_TEST(test_a_text_gives_a_model_its_scales_and_they_are_part_of_what_it_is)
{
    struct engine_plan plan;
    int32_t ids[N_IDS];
    char made[80];
    float scales[1024];
    begin();
    write_model();
    struct engine_config c = config_of(model, KV_FORMAT_KV8);
    for (int i = 0; i < N_IDS; i++)
        ids[i] = i * 7 % 256;
    struct hash_key without = fingerprint_of(KV_FORMAT_KV8, NULL), wide = fingerprint_of(KV_FORMAT_KV16, NULL);
    ck_assert_msg(engine_calibrate(&c, ids, N_IDS, made, sizeof made, &e) == 0, "%s", e.text);
    ck_assert_str_eq(made, path);
    ck_assert_int_eq(machine_plan(&c, &plan, &e), 0);
    struct machine m;
    ck_assert_int_eq(machine_open(&m, &c, NULL, NULL, &e), 0);
    uint32_t layers = m.layout.n_layers, heads = m.layout.n_kv_heads;
    machine_close(&m);
    ck_assert_int_eq(scales_read(path, layers, heads, scales, &e), 0);
    for (uint32_t i = 0; i < 2 * layers * heads; i++)
        ck_assert_msg(scales[i] > 1e-6f && scales[i] < 1, "scale %u is %g", i, (double)scales[i]);
    struct hash_key with = fingerprint_of(KV_FORMAT_KV8, scales), wide_still = fingerprint_of(KV_FORMAT_KV16, NULL);
    ck_assert(!hash_key_equal(&with, &without));
    ck_assert(hash_key_equal(&wide, &wide_still));
    scales[0] *= 2;
    ck_assert_int_eq(scales_write(path, layers, heads, scales, &e), 0);
    struct hash_key other = fingerprint_of(KV_FORMAT_KV8, scales);
    ck_assert(!hash_key_equal(&with, &other));
    end();
}
END_TEST

START_TEST(test_scales_of_another_model_end_the_start)
{
    struct machine m;
    float s[2] = {1, 1};
    begin();
    struct engine_config c = config_of(model, KV_FORMAT_KV8);
    write_model();
    ck_assert_int_eq(scales_write(path, 1, 1, s, &e), 0);
    ck_assert_int_eq(machine_open(&m, &c, NULL, NULL, &e), -EINVAL);
    ck_assert_ptr_nonnull(strstr(e.text, "scales for 1 layers of 1 KV heads"));
    end();
}
END_TEST

START_TEST(test_a_made_model_has_no_place_for_scales)
{
    struct engine_config c = config_of("random:tiny", KV_FORMAT_KV8);
    int32_t id = 1;
    char made[80];
    ck_assert_int_eq(engine_calibrate(&c, &id, 1, made, sizeof made, &e), -EINVAL);
    ck_assert_str_eq(e.text, "random:tiny: has no file to put scales beside; kv8 works without");
}
END_TEST

UNIT_MAIN("scales", test_what_is_written_is_read, test_any_damage_is_found,
          test_a_scale_is_a_power_of_2_with_room_for_twice_as_much,
          test_a_text_gives_a_model_its_scales_and_they_are_part_of_what_it_is,
          test_scales_of_another_model_end_the_start, test_a_made_model_has_no_place_for_scales)
