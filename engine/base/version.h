/* version - which Hearth this is and what it was built with. Immutable, MT-safe.
 *
 * The only object that knows VERSION and the commit, so that a commit rebuilds one file.
 */
#ifndef HEARTH_BASE_VERSION_H
#define HEARTH_BASE_VERSION_H

/* "0.1.0", from the file VERSION. */
extern const char *const version_number;
/* Twelve hex digits of the commit that was built, or "unknown" outside git. */
extern const char *const version_commit;
/* "libmicrohttpd 0.9.75, yaml-0.1 0.2.5, ...": libraries and compiler of the build. */
extern const char *const version_libraries;

#endif
