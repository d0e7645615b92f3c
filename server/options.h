/* options - the command line: flags, where they lead, and what other servers' flags are called here.
 *
 * Fills a struct config from all its sources in order: defaults, --config FILE, HEARTH_* variables, --set, flags. A
 * flag is "--name value" or "--name=value". Not MT-safe: called once, from main.
 */
#ifndef HEARTH_SERVER_OPTIONS_H
#define HEARTH_SERVER_OPTIONS_H

#include "server/config.h"

enum options_action {
    OPTIONS_SERVE,
    OPTIONS_HELP,
    OPTIONS_HELP_KEYS,
    OPTIONS_VERSION,
    OPTIONS_PRINT_CONFIG, /* config_print */
    OPTIONS_CHECK,        /* configuration and model header */
    OPTIONS_PLAN,         /* what would fit, nothing loaded */
    OPTIONS_CALIBRATE,    /* scales of kv8 from a text on stdin: app_calibrate */
    OPTIONS_HASH_KEY      /* a key on stdin to its line for the key file: auth_hash_line */
};

struct options {
    enum options_action action;
    const char *config_path; /* --config, NULL = none; points into argv */
    const char *key_name;    /* --hash-key=NAME, NULL = none; points into argv */
};

/* Read argv[1..argc) and env (as environ). c is initialised here; config_fini it whatever comes back. HELP, HELP_KEYS,
 * VERSION and HASH_KEY look at nothing but the command line. SERVE, CHECK, PLAN and CALIBRATE have a model set on
 * return.
 * 0, or -EINVAL (-ENOENT, ... of the file) with the sentence. */
int options_parse(struct options *o, struct config *c, int argc, char **argv, char *const *env, struct err *e);

/* What --help, --help-keys and --version print. */
void options_put_help(struct str *out);
void options_put_keys(struct str *out);
void options_put_version(struct str *out);

/* What a flag of another server ("--max-model-len", "-ngl") is called here, and whose it is; NULL when not known. */
const char *options_foreign(const char *flag, const char **whose);
/* The i-th of those flags, NULL after the last. */
const char *options_foreign_at(size_t i);

#endif
