/* version - see version.h. The Makefile hands the texts to this object alone. */
#include "engine/base/version.h"

const char *const version_number = HEARTH_VERSION;
const char *const version_commit = HEARTH_COMMIT;
#ifdef __clang__
const char *const version_libraries = HEARTH_LIBRARIES " clang " __clang_version__;
#else
const char *const version_libraries = HEARTH_LIBRARIES " gcc " __VERSION__;
#endif
