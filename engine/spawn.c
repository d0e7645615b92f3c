/* spawn - see spawn.h. */
#include "engine/spawn.h"

#include "engine/base/log.h"
#include "engine/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD_FDS 3 /* segment, engine's bell, front's bell: descriptors 3, 4, 5 of the child */
#define STOP_MS   5000

static void *thread_main(void *arg)
{
    engine_main(arg);
    return NULL;
}

static int start_process(struct spawn *s, const char *program, const struct boundary *b, struct err *e)
{
    const int fds[CHILD_FDS] = {b->memfd, b->wake_engine, b->wake_front};
    int high[CHILD_FDS] = {-1, -1, -1};
    char *argv[] = {"hearthd-engine", "--engine-child", NULL};
    extern char **environ;
    posix_spawn_file_actions_t act;
    int ret = posix_spawn_file_actions_init(&act);
    if (ret)
        return err_set(e, ret, "engine process: %s", strerror(ret));
    for (int i = 0; i < CHILD_FDS && !ret; i++) { /* out of the way of 3, 4, 5 first */
        high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 64);
        ret = high[i] < 0 ? errno : posix_spawn_file_actions_adddup2(&act, high[i], 3 + i);
    }
    if (!ret)
        ret = posix_spawn(&s->pid, program ? program : "/proc/self/exe", &act, NULL, argv, environ);
    for (int i = 0; i < CHILD_FDS; i++)
        if (high[i] >= 0)
            sys.close(high[i]);
    posix_spawn_file_actions_destroy(&act);
    if (ret)
        return err_set(e, ret, "engine process: %s", strerror(ret));
    s->pidfd = (int)syscall(SYS_pidfd_open, s->pid, 0);
    if (s->pidfd < 0) {
        ret = err_set(e, errno, "engine process: pidfd_open: %s", strerror(errno));
        spawn_kill(s);
        return ret;
    }
    return 0;
}

int spawn_start(struct spawn *s, enum engine_mode mode, const char *program, struct boundary *b, struct err *e)
{
    *s = (struct spawn){.mode = mode, .pid = 0, .pidfd = -1};
    int ret;
    if (mode == ENGINE_MODE_EXEC) {
        ret = start_process(s, program, b, e);
    } else {
        ret = pthread_create(&s->thread, NULL, thread_main, b);
        if (ret)
            ret = err_set(e, ret, "engine thread: %s", strerror(ret));
    }
    s->running = ret == 0;
    return ret;
}

static void reap(struct spawn *s, int *status)
{
    while (waitpid(s->pid, status, 0) < 0 && errno == EINTR)
        ;
    if (s->pidfd >= 0)
        sys.close(s->pidfd);
    s->pidfd = -1;
    s->running = false;
}

bool spawn_ended(struct spawn *s, char how[64])
{
    if (s->mode != ENGINE_MODE_EXEC || !s->running)
        return false;
    struct pollfd p = {.fd = s->pidfd, .events = POLLIN};
    if (sys.poll(&p, 1, 0) != 1)
        return false;
    int status = 0;
    reap(s, &status);
    if (WIFSIGNALED(status))
        snprintf(how, 64, "signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(how, 64, "exit status %d", WEXITSTATUS(status));
    return true;
}

void spawn_kill(struct spawn *s)
{
    int status;
    if (s->mode != ENGINE_MODE_EXEC || s->pid <= 0)
        return;
    kill(s->pid, SIGKILL);
    reap(s, &status);
}

void spawn_stop(struct spawn *s)
{
    if (!s->running)
        return;
    if (s->mode == ENGINE_MODE_THREAD) {
        pthread_join(s->thread, NULL);
        s->running = false;
        return;
    }
    struct pollfd p = {.fd = s->pidfd, .events = POLLIN};
    int status;
    if (sys.poll(&p, 1, STOP_MS) == 1) {
        reap(s, &status);
        return;
    }
    log_warn("engine stop", "pid=%d waited_ms=%d next=kill", s->pid, STOP_MS);
    spawn_kill(s);
}

int engine_child_main(int argc, char **argv)
{
    struct boundary b;
    struct err e;
    (void)argc;
    (void)argv;
    signal(SIGINT, SIG_IGN); /* Ctrl-C goes to the whole group: the front decides when the engine ends */
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, "hearth-engine");
    close_range(3 + CHILD_FDS, ~0u, 0);
    for (int fd = 3; fd < 3 + CHILD_FDS; fd++)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (boundary_attach(&b, 3, 4, 5, &e) != 0) {
        log_error("engine child", "error=\"%s\"", e.text);
        return EXIT_FAILURE;
    }
    log_set_level((enum log_level)b.head->config.log_level);
    int ret = engine_main(&b);
    boundary_close(&b);
    return ret ? EXIT_FAILURE : EXIT_SUCCESS;
}
