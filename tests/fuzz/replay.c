/* replay - run one fuzz target over its committed corpus, without libFuzzer: each file is a test.
 *
 * Built once per tests/fuzz/fuzz_NAME.c with FUZZ_NAME. The files are tests/fuzz/corpus/NAME/... seen from the root of
 * the repository. Writes TAP to $CK_TAP_LOG_FILE_NAME as Check does, else to stdout. The name of a file is printed
 * before it runs, so that a crash shows which one it was.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Run one file from a block of just its size, so that a sanitizer sees a read beyond it. 0 or -1 (unreadable). */
static int run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END))
        return -1;
    long n = ftell(f);
    rewind(f);
    uint8_t *bytes = n < 0 ? NULL : malloc(n ? (size_t)n : 1);
    int rc = bytes && fread(bytes, 1, (size_t)n, f) == (size_t)n ? 0 : -1;
    fclose(f);
    if (rc == 0)
        LLVMFuzzerTestOneInput(bytes, (size_t)n);
    free(bytes);
    return rc;
}

int main(void)
{
    const char *tap_name = getenv("CK_TAP_LOG_FILE_NAME"), *folder = "tests/fuzz/corpus/" FUZZ_NAME;
    FILE *tap = tap_name ? fopen(tap_name, "w") : stdout;
    struct dirent **files;
    int n = scandir(folder, &files, NULL, alphasort), tests = 0, failed = 0;
    if (!tap)
        return EXIT_FAILURE;
    for (int i = 0; i < n; i++) {
        char path[512];
        if (files[i]->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s", folder, files[i]->d_name);
            printf("%s\n", path);
            fflush(stdout);
            int rc = run_file(path);
            failed += rc != 0;
            fprintf(tap, "%s %d - fuzz_%s survives %s\n", rc ? "not ok" : "ok", ++tests, FUZZ_NAME, files[i]->d_name);
        }
        free(files[i]);
    }
    if (n >= 0)
        free(files);
    if (!tests)
        fprintf(tap, "not ok 1 - fuzz_%s has seeds in %s\n", FUZZ_NAME, folder);
    fprintf(tap, "1..%d\n", tests ? tests : 1); /* last, so that who breaks off has none */
    return (fclose(tap) || failed || !tests) ? EXIT_FAILURE : EXIT_SUCCESS;
}
