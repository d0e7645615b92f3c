/* fuzz_config - any bytes as configuration file: an error, or a configuration that prints and reads back as the same.
 */
#include "server/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int ok)
{
    if (!ok)
        abort();
}

static void check_round_trip(const struct config *c)
{
    struct config back;
    struct str first = {0}, again = {0};
    struct err e = {0};
    config_print(c, &first);
    must(config_init(&back, &e) == 0);
    must(config_load_yaml(&back, "printed", str_text(&first), first.len, &e) == 0);
    for (size_t i = 0; i < config_key_count(); i++) {
        str_cut(&first, 0);
        str_cut(&again, 0);
        config_put_value(c, i, &first);
        config_put_value(&back, i, &again);
        must(strcmp(str_text(&first), str_text(&again)) == 0);
    }
    config_fini(&back);
    str_fini(&first);
    str_fini(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct config c;
    struct err e = {0};
    must(config_init(&c, &e) == 0);
    if (config_load_yaml(&c, "fuzz", (const char *)data, n, &e) == 0) {
        check_round_trip(&c);
        (void)config_finish(&c, &e);
    } else {
        must(e.code > 0 && e.text[0]);
    }
    config_fini(&c);
    return 0;
}
