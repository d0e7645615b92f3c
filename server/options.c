/* options - see options.h. A flag is one row of the table below; flags of others are rows in options_foreign.c. */
#include "server/options.h"

#include "engine/base/version.h"
#include "server/config_value.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum flag_kind { FLAG_KEY, FLAG_ADD, FLAG_SET, FLAG_CONFIG, FLAG_HOST, FLAG_PORT, FLAG_ACTION };

struct flag {
    const char *group; /* heading in the help, where one begins */
    const char *name;
    const char *arg; /* NULL = takes no value */
    enum flag_kind kind;
    const char *key; /* of FLAG_KEY and FLAG_ADD */
    enum options_action action;
    const char *help;
};

static const struct flag flags[] = {
    {"Model", "--model", "FILE", FLAG_KEY, "model.path", 0, "GGUF file to serve"},
    {NULL, "--alias", "NAME", FLAG_ADD, "model.alias", 0, "name of the model in the API (repeatable)"},
    {NULL, "--ctx-size", "N", FLAG_KEY, "ctx_size", 0,
     "tokens of one conversation (0: what the model and memory give)"},
    {"Network", "--listen", "HOST:PORT", FLAG_ADD, "listen", 0, "address, also [IPV6]:PORT and unix:PATH (repeatable)"},
    {NULL, "--host", "HOST", FLAG_HOST, NULL, 0, "one address instead of 127.0.0.1 and ::1"},
    {NULL, "--port", "N", FLAG_PORT, NULL, 0, "port instead of 8080"},
    {NULL, "--api-key-file", "FILE", FLAG_KEY, "auth.key_file", 0, "keys that may use the API; see --hash-key"},
    {"Machine", "--backend", "NAME", FLAG_KEY, "backend", 0, "auto, cpu or cuda"},
    {NULL, "--threads", "N", FLAG_KEY, "cpu.threads", 0, "compute threads (0: all processors given to us)"},
    {"Configuration", "--config", "FILE", FLAG_CONFIG, NULL, 0, "YAML file; config/hearth.yaml shows every key"},
    {NULL, "--set", "KEY=VALUE", FLAG_SET, NULL, 0, "one key (repeatable)"},
    {NULL, "--log-level", "LEVEL", FLAG_KEY, "log.level", 0, "error, warn, info or debug"},
    {NULL, "--print-config", NULL, FLAG_ACTION, NULL, OPTIONS_PRINT_CONFIG,
     "effective values with their sources, then exit"},
    {NULL, "--help-keys", NULL, FLAG_ACTION, NULL, OPTIONS_HELP_KEYS,
     "every key with default, limits and meaning, then exit"},
    {"Instead of serving", "--check", NULL, FLAG_ACTION, NULL, OPTIONS_CHECK, "check configuration and model header"},
    {NULL, "--plan", NULL, FLAG_ACTION, NULL, OPTIONS_PLAN, "what would fit in memory; nothing is loaded"},
    {NULL, "--calibrate", NULL, FLAG_ACTION, NULL, OPTIONS_CALIBRATE,
     "read a text on stdin, write the scales of kv.format kv8 beside the model"},
    {NULL, "--hash-key", NULL, FLAG_ACTION, NULL, OPTIONS_HASH_KEY,
     "read an API key on stdin, print its line for the key file (=NAME names it)"},
    {NULL, "--version", NULL, FLAG_ACTION, NULL, OPTIONS_VERSION, "version, commit and libraries"},
    {NULL, "--help", NULL, FLAG_ACTION, NULL, OPTIONS_HELP, "this text"},
};
#define N_FLAGS (sizeof flags / sizeof *flags)

struct given { /* a flag as it stood on the command line */
    const struct flag *flag;
    const char *value;
};

struct line { /* the whole command line, taken apart */
    struct given *given;
    size_t n;
};

/* -- taking apart */

static const struct flag *find_flag(const char *name, size_t n)
{
    if (n == 2 && strncmp(name, "-h", 2) == 0)
        return find_flag("--help", 6);
    for (size_t i = 0; i < N_FLAGS; i++)
        if (strlen(flags[i].name) == n && strncmp(flags[i].name, name, n) == 0)
            return &flags[i];
    return NULL;
}

/* Is `name` (without dashes) the key `key`, with '-' or '_' where the key has '.' or '_'? */
static bool spells_key(const char *name, const char *key)
{
    for (; *name && *key; name++, key++) {
        bool both = strchr("-_.", *name) && strchr("-_.", *key);
        if (!both && *name != *key)
            return false;
    }
    return *name == *key;
}

static int unknown_flag(const char *flag, struct err *e)
{
    const char *whose, *ours = options_foreign(flag, &whose), *best = flags[0].name;
    const char *bare = flag + strspn(flag, "-");
    if (ours)
        return err_set(e, EINVAL, "%s is %s's; here: %s", flag, whose, ours);
    for (size_t i = 0; i < config_key_count(); i++)
        if (spells_key(bare, config_key_name(i)))
            return err_set(e, EINVAL, "%.100s is no flag; here: --set %s=VALUE", flag, config_key_name(i));
    for (size_t i = 1; i < N_FLAGS; i++)
        if (value_distance(flag, flags[i].name) < value_distance(flag, best))
            best = flags[i].name;
    return err_set(e, EINVAL, "%.100s is no flag; the nearest is %s (--help lists all)", flag, best);
}

/* Take argv[*i] (and its value) into *g; *i moves to the last word used. */
static int take_flag(int argc, char **argv, int *i, struct given *g, struct err *e)
{
    const char *word = argv[*i], *eq = strchr(word, '=');
    size_t n = eq ? (size_t)(eq - word) : strlen(word);
    char name[64];
    if (word[0] != '-' || !word[1])
        return err_set(e, EINVAL, "%.200s: what is this? A model is given with --model %.200s", word, word);
    snprintf(name, sizeof name, "%.*s", n < sizeof name ? (int)n : (int)sizeof name - 1, word);
    for (char *p = name; *p; p++)
        *p = *p == '_' ? '-' : *p; /* vLLM takes both */
    g->flag = find_flag(word, n);
    g->value = eq ? eq + 1 : NULL;
    if (!g->flag)
        return unknown_flag(name, e);
    if (!g->flag->arg) {
        if (eq && g->flag->action != OPTIONS_HASH_KEY)
            return err_set(e, EINVAL, "%s takes no value", g->flag->name);
        return 0;
    }
    if (!eq) {
        if (*i + 1 >= argc || strncmp(argv[*i + 1], "--", 2) == 0)
            return err_set(e, EINVAL, "%s needs a value: %s %s", g->flag->name, g->flag->name, g->flag->arg);
        g->value = argv[++*i];
    }
    return *g->value ? 0 : err_set(e, EINVAL, "%s: the value is empty", g->flag->name);
}

static int take_line(struct line *l, struct arena *mem, int argc, char **argv, struct err *e)
{
    l->given = arena_array(mem, (size_t)argc + 1, sizeof *l->given);
    if (!l->given)
        return err_set(e, ENOMEM, "command line: out of memory");
    for (int i = 1; i < argc; i++) {
        int rc = take_flag(argc, argv, &i, &l->given[l->n++], e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* The value of the last flag of this kind, or NULL. */
static const char *last_of(const struct line *l, enum flag_kind kind)
{
    const char *value = NULL;
    for (size_t i = 0; i < l->n; i++)
        if (l->given[i].flag->kind == kind)
            value = l->given[i].value;
    return value;
}

static int choose_action(struct options *o, const struct line *l, struct err *e)
{
    const struct flag *first = NULL;
    o->config_path = last_of(l, FLAG_CONFIG);
    for (size_t i = 0; i < l->n; i++) {
        const struct flag *f = l->given[i].flag;
        if (f->kind != FLAG_ACTION)
            continue;
        if (f->action == OPTIONS_HELP || !first)
            o->action = f->action;
        else if (first != f && o->action != OPTIONS_HELP)
            return err_set(e, EINVAL, "%s and %s are two things to do: give one", first->name, f->name);
        if (f->action == OPTIONS_HASH_KEY)
            o->key_name = l->given[i].value;
        first = first ? first : f;
    }
    return 0;
}

/* -- applying */

static int apply_set(struct config *c, const char *pair, struct err *e)
{
    char key[128];
    const char *eq = strchr(pair, '=');
    if (!eq || eq == pair || (size_t)(eq - pair) >= sizeof key)
        return err_set(e, EINVAL, "--set %.100s: must be KEY=VALUE, such as kv.bytes=2GiB", pair);
    memcpy(key, pair, (size_t)(eq - pair));
    key[eq - pair] = 0;
    return config_set(c, key, eq + 1, CONFIG_SET, "--set", e);
}

static int add_listen(struct config *c, const char *host, const char *port, const char *where, struct err *e)
{
    char address[300];
    bool v6 = strchr(host, ':') && host[0] != '[';
    snprintf(address, sizeof address, v6 ? "[%.250s]:%.20s" : "%.250s:%.20s", host, port);
    return config_add(c, "listen", address, CONFIG_FLAG, where, e);
}

/* --host and --port are another way to write --listen. */
static int apply_host_port(struct config *c, const struct line *l, struct err *e)
{
    const char *host = last_of(l, FLAG_HOST), *port = last_of(l, FLAG_PORT);
    const char *where = host ? "--host" : "--port";
    if (!host && !port)
        return 0;
    for (size_t i = 0; i < l->n; i++)
        if (l->given[i].flag->key && strcmp(l->given[i].flag->key, "listen") == 0)
            return err_set(e, EINVAL, "%s and --listen both say where to listen: give one (--listen HOST:PORT)", where);
    int rc = add_listen(c, host ? host : "127.0.0.1", port ? port : "8080", where, e);
    return rc == 0 && !host ? add_listen(c, "::1", port, where, e) : rc;
}

static int apply_flags(struct config *c, const struct line *l, enum flag_kind kind, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < l->n && rc == 0; i++) {
        const struct flag *f = l->given[i].flag;
        const char *value = l->given[i].value;
        if (f->kind != kind)
            continue;
        if (kind == FLAG_SET)
            rc = apply_set(c, value, e);
        else if (kind == FLAG_ADD)
            rc = config_add(c, f->key, value, CONFIG_FLAG, f->name, e);
        else
            rc = config_set(c, f->key, value, CONFIG_FLAG, f->name, e);
    }
    return rc;
}

static int need_model(const struct options *o, const struct config *c, struct err *e)
{
    bool needed = o->action == OPTIONS_SERVE || o->action == OPTIONS_CHECK || o->action == OPTIONS_PLAN ||
                  o->action == OPTIONS_CALIBRATE;
    if (!needed || c->model.path || c->model.random)
        return 0;
    return err_set(e, EINVAL,
                   "no model: give --model FILE.gguf (make serve fetches a small one), or --set model.random=tiny for "
                   "random weights");
}

int options_parse(struct options *o, struct config *c, int argc, char **argv, char *const *env, struct err *e)
{
    struct line l = {0};
    *o = (struct options){.action = OPTIONS_SERVE};
    int rc = config_init(c, e);
    if (rc == 0)
        rc = take_line(&l, &c->mem, argc, argv, e);
    if (rc == 0)
        rc = choose_action(o, &l, e);
    if (rc != 0 || o->action == OPTIONS_HELP || o->action == OPTIONS_HELP_KEYS || o->action == OPTIONS_VERSION ||
        o->action == OPTIONS_HASH_KEY)
        return rc;
    if (o->config_path)
        rc = config_load_file(c, o->config_path, e);
    if (rc == 0)
        rc = config_load_env(c, env, e);
    if (rc == 0)
        rc = apply_flags(c, &l, FLAG_SET, e);
    if (rc == 0)
        rc = apply_flags(c, &l, FLAG_KEY, e);
    if (rc == 0)
        rc = apply_flags(c, &l, FLAG_ADD, e);
    if (rc == 0)
        rc = apply_host_port(c, &l, e);
    if (rc == 0)
        rc = config_finish(c, e);
    return rc == 0 ? need_model(o, c, e) : rc;
}

/* -- texts */

void options_put_help(struct str *out)
{
    str_addf(out, "hearthd %s: an OpenAI-compatible inference server\n\nusage: hearthd --model FILE [flag ...]\n",
             version_number);
    for (size_t i = 0; i < N_FLAGS; i++) {
        const struct flag *f = &flags[i];
        char left[48];
        snprintf(left, sizeof left, "%s%s%s", f->name, f->arg ? " " : "", f->arg ? f->arg : "");
        if (f->group)
            str_addf(out, "\n%s:\n", f->group);
        str_addf(out, "  %-22s %s\n", left, f->help);
    }
    str_puts(out, "\nSettings come from, each over the one before: defaults, --config FILE, HEARTH_* variables\n"
                  "(kv.bytes is HEARTH_KV_BYTES), --set KEY=VALUE, flags.\n"
                  "\nSIGTERM and SIGINT end it when what runs is answered (a second one: at once); SIGHUP reads\n"
                  "the API keys again.\n"
                  "\nFolders where KV sleeps (kv.nvme.dirs), while no daemon has them:\n"
                  "  hearthd kv-check DIR     verify every block in it\n"
                  "  hearthd kv-purge DIR     overwrite and remove all of it\n"
                  "\nExamples:\n"
                  "  hearthd --model model.gguf\n"
                  "  hearthd --model model.gguf --port 9000 --ctx-size 8192 --set kv.bytes=2GiB\n"
                  "  printf %s \"$KEY\" | hearthd --hash-key=alice >>keys.txt\n"
                  "  hearthd --model model.gguf --host 0.0.0.0 --api-key-file keys.txt\n");
}

void options_put_keys(struct str *out)
{
    str_puts(out, "Every key: name, meaning, what it accepts. In a file keys nest (kv: bytes: 2GiB);\n"
                  "as a variable kv.bytes is HEARTH_KV_BYTES; on the command line --set kv.bytes=2GiB.\n\n");
    config_print_keys(out);
}

void options_put_version(struct str *out)
{
    str_addf(out, "hearthd %s (%s)\n%s\n", version_number, version_commit, version_libraries);
}
