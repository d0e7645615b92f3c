/* test_json_suite - JSONTestSuite (Seriot, "Parsing JSON is a Minefield"), unpacked from shared data when that is
 * there.
 *
 * y_ files must be accepted, n_ files refused, i_ files may be either and must not crash. We differ in one thing: the
 * two y_ files whose object has a key twice are refused, for just that reason (RFC 8259 section 4 leaves it open; a
 * field that counts twice is how two readers of one request come to differ). What becomes of the documents under
 * test_transform, which the RFC leaves open too, is the table below.
 *
 * Data: data/JSONTestSuite.tar.gz of unit_shared().
 */
#include "tests/support/unit.h"

#include "engine/base/json.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* The accepted are written again, compact; the refused give their sentence. */
static const struct {
    const char *file, *becomes;
} transforms[] = {
    {"number_-9223372036854775808.json", "[-9223372036854775808]"}, /* an integer for json_int */
    {"number_-9223372036854775809.json", "[-9223372036854775809]"}, /* digits kept; for json_int none, a double */
    {"number_1.0.json", "[1.0]"},
    {"number_1.000000000000000005.json", "[1.000000000000000005]"}, /* digits kept; as a double 1.0 */
    {"number_1000000000000000.json", "[1000000000000000]"},
    {"number_10000000000000000999.json", "[10000000000000000999]"},
    {"number_1e-999.json", "[1E-999]"}, /* as a double 0 */
    {"number_1e6.json", "[1E6]"},
    {"number_9223372036854775807.json", "[9223372036854775807]"},
    {"number_9223372036854775808.json", "[9223372036854775808]"},
    /* keys are compared by code points, not by what they look like: NFC and NFD are two keys */
    {"object_key_nfc_nfd.json", "{\"\xC3\xA9\":\"NFC\",\"e\xCC\x81\":\"NFD\"}"},
    {"object_key_nfd_nfc.json", "{\"e\xCC\x81\":\"NFD\",\"\xC3\xA9\":\"NFC\"}"},
    {"object_same_key_different_values.json", "JSON, byte 7: this key stands in the object already"},
    {"object_same_key_same_value.json", "JSON, byte 7: this key stands in the object already"},
    {"object_same_key_unclear_values.json", "JSON, byte 8: this key stands in the object already"},
    {"string_1_escaped_invalid_codepoint.json",
     "JSON, byte 8: expected a \\u escape of a low surrogate after a high one, found '\"'"},
    {"string_1_invalid_codepoint.json", "JSON, byte 2: expected UTF-8, found byte 0xED"},
    {"string_2_escaped_invalid_codepoints.json",
     "JSON, byte 8: expected a \\u escape of a low surrogate after a high one, found '\\'"},
    {"string_2_invalid_codepoints.json", "JSON, byte 2: expected UTF-8, found byte 0xED"},
    {"string_3_escaped_invalid_codepoints.json",
     "JSON, byte 8: expected a \\u escape of a low surrogate after a high one, found '\\'"},
    {"string_3_invalid_codepoints.json", "JSON, byte 2: expected UTF-8, found byte 0xED"},
    {"string_with_escaped_NULL.json", "[\"A\\u0000B\"]"},
};

static char folder[64];

/* Unpack into a folder of our own; false, with the skip printed, when the data is not there. */
static bool suite_open(const char *test)
{
    char archive[512], command[1024];
    snprintf(archive, sizeof archive, "%s/data/JSONTestSuite.tar.gz", unit_shared());
    if (access(archive, R_OK)) {
        printf("SKIP %s: no shared data (JSONTestSuite.tar.gz)\n", test);
        return false;
    }
    strcpy(folder, P_tmpdir "/hearth-json-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(command, sizeof command, "tar -xzf '%s' -C '%s'", archive, folder);
    ck_assert_int_eq(system(command), 0);
    return true;
}

static void suite_close(void)
{
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0);
}

/* Parse one file; what it becomes goes to out. */
static int judge(const char *part, const char *file, struct str *out)
{
    char path[512];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s/%s", folder, part, file);
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f && !fstat(fileno(f), &st), "%s", path);
    char *bytes = malloc((size_t)st.st_size + !st.st_size); /* no byte more: a read beyond shows under ASan */
    ck_assert_uint_eq(fread(bytes, 1, (size_t)st.st_size, f), (size_t)st.st_size);
    fclose(f);
    struct json *doc = NULL;
    struct err e = {0};
    int rc = json_parse(&doc, bytes, (size_t)st.st_size, NULL, &e);
    str_cut(out, 0);
    if (rc)
        str_puts(out, e.text);
    else
        json_put_value(out, json_root(doc), false);
    json_close(doc);
    free(bytes);
    return rc;
}

static bool refused_by_rule(const char *file)
{
    return !strcmp(file, "y_object_duplicated_key.json") || !strcmp(file, "y_object_duplicated_key_and_value.json");
}

START_TEST(test_json_suite_accepts_what_is_json_and_refuses_what_is_not)
{
    if (!suite_open("test_json_suite_accepts_what_is_json_and_refuses_what_is_not"))
        return;
    char path[128];
    snprintf(path, sizeof path, "%s/test_parsing", folder);
    DIR *d = opendir(path);
    ck_assert_ptr_nonnull(d);
    int seen[128] = {0}, by_rule = 0, open_accepted = 0;
    struct str out = {0};
    for (struct dirent *entry; (entry = readdir(d));) {
        if (entry->d_name[0] == '.')
            continue;
        int rc = judge("test_parsing", entry->d_name, &out);
        char kind = entry->d_name[0];
        seen[(unsigned char)kind & 127]++;
        open_accepted += kind == 'i' && rc == 0;
        if (refused_by_rule(entry->d_name)) {
            ck_assert_ptr_nonnull(strstr(out.data, "this key stands in the object already"));
            by_rule++;
        } else if (kind == 'y' || kind == 'n') {
            ck_assert_msg((rc == 0) == (kind == 'y'), "%s: %.200s", entry->d_name, out.data);
        }
    }
    closedir(d);
    suite_close();
    str_fini(&out);
    printf("y %d (%d refused by our rule), n %d, i %d (%d accepted)\n", seen['y'], by_rule, seen['n'], seen['i'],
           open_accepted);
    ck_assert_int_eq(seen['y'], 95);
    ck_assert_int_eq(by_rule, 2);
    ck_assert_int_eq(seen['n'], 188);
    ck_assert_int_eq(seen['i'], 35);
}
END_TEST

START_TEST(test_json_suite_transforms_are_what_the_table_says)
{
    if (!suite_open("test_json_suite_transforms_are_what_the_table_says"))
        return;
    struct str out = {0};
    for (size_t i = 0; i < sizeof transforms / sizeof *transforms; i++) {
        judge("test_transform", transforms[i].file, &out);
        ck_assert_str_eq(str_text(&out), transforms[i].becomes);
    }
    suite_close();
    str_fini(&out);
}
END_TEST

UNIT_MAIN("json_suite", test_json_suite_accepts_what_is_json_and_refuses_what_is_not,
          test_json_suite_transforms_are_what_the_table_says)
