/* fuzz_sessions - any bytes as file of sessions: an error with nothing taken, or a table that is whole and whose own
 * file reads back as the same. The first byte says whether the CRC is made right, as a file of somebody else's could
 * have it. */
#include "engine/base/crc.h"
#include "server/sessions_file.h"

#include <stdlib.h>
#include <string.h>

#define HEAD   24 /* magic, version, CRC at 12, record bytes, count */
#define CRC_AT 12

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int ok)
{
    if (!ok)
        abort();
}

static void check_round_trip(const struct sessions_table *t)
{
    static const uint64_t sip[2] = {3, 4};
    struct sessions_table back;
    struct str first = {0}, again = {0};
    struct err e;
    sessions_put(t, &first);
    must(sessions_init(&back, 50, sip) == 0 && sessions_take(&back, first.data, first.len, &e) == 0);
    must(back.n == t->n);
    sessions_put(&back, &again);
    must(again.len == first.len);
    sessions_check(&back);
    sessions_fini(&back);
    str_fini(&first);
    str_fini(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const uint64_t sip[2] = {1, 2};
    struct sessions_table t;
    struct err e = {0};
    if (n == 0)
        return 0;
    char *bytes = malloc(n);
    must(bytes && sessions_init(&t, 50, sip) == 0);
    memcpy(bytes, data + 1, n - 1);
    if (data[0] & 1 && n - 1 >= HEAD) {
        uint32_t crc = crc32c(bytes + HEAD, n - 1 - HEAD);
        memcpy(bytes + CRC_AT, &crc, sizeof crc);
    }
    if (sessions_take(&t, bytes, n - 1, &e) == 0) {
        sessions_check(&t);
        check_round_trip(&t);
    } else {
        must(e.code > 0 && e.text[0] && t.n == 0);
    }
    sessions_fini(&t);
    free(bytes);
    return 0;
}
