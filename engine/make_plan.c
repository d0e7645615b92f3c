/* make_plan - engine_make_plan: a plan's numbers, worked out where what a GPU leaves behind does no harm.
 *
 * To learn the free memory of a GPU is to make a context on it, which takes hundreds of megabytes of the card and of
 * the host. The front must have none: it outlives its engines. So unless the backend is "cpu", a child works the plan
 * out and ends; its answer lies in memory that both share. A child that dies of its look at the GPU (a broken driver)
 * is a reason like any other to do without.
 */
#include "engine/base/sys.h"
#include "engine/machine.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct answer {
    int done, ret;
    struct engine_plan plan;
    struct err e;
};

static void work_out(const struct engine_config *c, struct answer *a)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    a->ret = machine_plan(c, &a->plan, &a->e);
    a->done = 1;
    _exit(0);
}

/* Without a GPU, because of `why`. */
static int do_without(const struct engine_config *c, const char *why, struct engine_plan *out, struct err *e)
{
    struct engine_config cpu = *c;
    if (strcmp(c->backend, "cuda") == 0)
        return err_set(e, ENODEV, "backend cuda: %s", why);
    strcpy(cpu.backend, "cpu");
    int ret = machine_plan(&cpu, out, e);
    if (ret == 0 || ret == -ENOMEM)
        snprintf(out->no_gpu, sizeof out->no_gpu, "%s", why);
    return ret;
}

static int ask_child(const struct engine_config *c, struct answer *a, struct engine_plan *out, struct err *e)
{
    char why[64];
    int status = 0;
    pid_t child = fork();
    if (child == 0)
        work_out(c, a);
    if (child < 0) {
        snprintf(why, sizeof why, "no process to look for it: %.30s", strerror(errno));
        return do_without(c, why, out, e);
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (!a->done) {
        snprintf(why, sizeof why, "the process that looked for it ended by %s %d",
                 WIFSIGNALED(status) ? "signal" : "exit", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        return do_without(c, why, out, e);
    }
    if (a->ret == 0 || a->ret == -ENOMEM)
        *out = a->plan;
    if (a->ret)
        *e = a->e;
    return a->ret;
}

int engine_make_plan(const struct engine_config *c, struct engine_plan *out, struct err *e)
{
    struct answer *a;
    if (strcmp(c->backend, "cpu") == 0)
        return machine_plan(c, out, e);
    a = sys.mmap(NULL, sizeof *a, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (a == MAP_FAILED)
        return err_set(e, errno, "plan: %s", strerror(errno));
    int ret = ask_child(c, a, out, e);
    sys.munmap(a, sizeof *a);
    return ret;
}
