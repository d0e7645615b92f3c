/* model - where the default model's file is, for tests that need the real one. */
#ifndef HEARTH_TESTS_MODEL_H
#define HEARTH_TESTS_MODEL_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Path of SmolLM2-135M-Instruct.Q4_1.gguf: HEARTH_MODEL, or the last line of scripts/fetch_model.sh. A model that is
 * missing is a failed test, never a skip. */
static inline const char *model_path(void)
{
    static char path[4096];
    const char *set = getenv("HEARTH_MODEL");
    snprintf(path, sizeof path, "%s", set ? set : "");
    FILE *f = set ? NULL : popen("bash scripts/fetch_model.sh | tail -n 1", "r");
    if (f) {
        if (!fgets(path, sizeof path, f))
            path[0] = 0;
        path[strcspn(path, "\n")] = 0;
        pclose(f);
    }
    if (access(path, R_OK) != 0)
        ck_abort_msg("no model at '%s': set HEARTH_MODEL or run scripts/fetch_model.sh", path);
    return path;
}

#endif
