/* load - see load.h. */
#include "engine/model/load.h"

#include "engine/base/str.h"
#include "engine/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* Nobody knows the source: say whether it is there at all. */
static int unknown_source(const char *source, struct err *e)
{
    int fd = sys.open(source, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    if (fd < 0)
        return err_set(e, errno, "%s: %s; give the path of a .gguf file or random:SHAPE", source, strerror(errno));
    struct stat st;
    bool folder = sys.fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
    sys.close(fd);
    if (folder)
        return err_set(e, EISDIR, "%s: a folder; give the path of a model file in it", source);
    struct str names = {0};
    for (const struct loader_ops *const *o = loader_registry; *o; o++)
        str_addf(&names, "%s%s", names.len ? ", " : "", (*o)->name);
    int rc = err_set(e, ENOTSUP, "%s: not a model that a loader here knows (%s)", source, str_text(&names));
    str_fini(&names);
    return rc;
}

int loader_open(struct loader **out, const char *source, struct err *e)
{
    for (const struct loader_ops *const *o = loader_registry; *o; o++)
        if ((*o)->probe(source))
            return (*o)->open(out, source, e);
    return unknown_source(source, e);
}

void loader_close(struct loader *l)
{
    if (l)
        loader_ops(l)->close(l);
}
