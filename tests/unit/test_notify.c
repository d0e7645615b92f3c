/* test_notify - a socket that stands in for the service manager hears what it must. */
#include "tests/support/unit.h"

#include "engine/base/log.h"
#include "server/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef HAVE_SYSTEMD

/* An abstract socket of our own, named in NOTIFY_SOCKET. */
static int open_manager(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    char name[64];
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    int n = snprintf(name, sizeof name, "@hearth-test-%d", (int)getpid());
    memcpy(a.sun_path + 1, name + 1, (size_t)n - 1);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n)),
                     0);
    setenv("NOTIFY_SOCKET", name, 1);
    return fd;
}

static void hears(int fd, const char *text)
{
    char buf[512] = {0};
    ck_assert_int_ge(recv(fd, buf, sizeof buf - 1, 0), 0);
    ck_assert_str_eq(buf, text);
}

START_TEST(test_the_manager_hears_ready_status_watchdog_and_stopping)
{
    int fd = open_manager();
    notify_status("loading weights, 40 %");
    hears(fd, "STATUS=loading weights, 40 %");
    notify_ready("serving tiny");
    hears(fd, "READY=1\nSTATUS=serving tiny");
    notify_watchdog();
    hears(fd, "WATCHDOG=1");
    notify_stopping("draining");
    hears(fd, "STOPPING=1\nSTATUS=draining");
    close(fd);
}
END_TEST

START_TEST(test_without_a_manager_nothing_happens)
{
    unsetenv("NOTIFY_SOCKET");
    notify_ready("x");
    notify_watchdog();
    setenv("NOTIFY_SOCKET", "/nowhere/socket", 1);
    log_set_level(LOG_ERROR);
    notify_ready("x");
    notify_stopping("x");
}
END_TEST

START_TEST(test_the_watchdog_is_fed_twice_an_interval)
{
    char pid[32];
    unsetenv("WATCHDOG_USEC");
    ck_assert_uint_eq(notify_watchdog_ns(), 0);
    setenv("WATCHDOG_USEC", "30000000", 1);
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    setenv("WATCHDOG_PID", pid, 1);
    ck_assert_uint_eq(notify_watchdog_ns(), 15000000000u);
    setenv("WATCHDOG_PID", "1", 1); /* meant for somebody else */
    ck_assert_uint_eq(notify_watchdog_ns(), 0);
}
END_TEST

/* Put fd at descriptor 3, as the manager does, and say that it is there. */
static void hand_over(int fd)
{
    char pid[32];
    dup2(fd, 3);
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    setenv("LISTEN_PID", pid, 1);
    setenv("LISTEN_FDS", "1", 1);
}

/* In a child, because descriptor 3 is Check's own here. The status says which line failed. */
static int in_child(int (*test)(void))
{
    int status = -1;
    pid_t pid = fork();
    if (pid == 0)
        _exit(test());
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int take_listener(void)
{
    int fds[4], listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct err e;
    if (bind(listener, (struct sockaddr *)&a, sizeof a) != 0 || listen(listener, 1) != 0)
        return 1;
    hand_over(listener);
    if (notify_listen_fds(fds, 4, &e) != 1 || fds[0] != 3)
        return 2;
    if (!(fcntl(3, F_GETFD) & FD_CLOEXEC))
        return 3;
    if (getenv("LISTEN_FDS") || notify_listen_fds(fds, 4, &e) != 0)
        return 4;
    hand_over(listener);
    return notify_listen_fds(fds, 0, &e) == -E2BIG ? 0 : 5;
}

static int take_something_else(void)
{
    int fds[4];
    struct err e;
    hand_over(open("/dev/null", O_RDONLY));
    if (notify_listen_fds(fds, 4, &e) != -EINVAL)
        return 1;
    return strcmp(e.text, "LISTEN_FDS: descriptor 3 is no listening stream socket; use ListenStream=") ? 2 : 0;
}

START_TEST(test_a_socket_that_is_handed_over_is_taken_once)
{
    ck_assert_int_eq(in_child(take_listener), 0);
}
END_TEST

START_TEST(test_something_else_that_is_handed_over_is_refused)
{
    ck_assert_int_eq(in_child(take_something_else), 0);
}
END_TEST

UNIT_MAIN("notify", test_the_manager_hears_ready_status_watchdog_and_stopping, test_without_a_manager_nothing_happens,
          test_the_watchdog_is_fed_twice_an_interval, test_a_socket_that_is_handed_over_is_taken_once,
          test_something_else_that_is_handed_over_is_refused)

#else

START_TEST(test_without_libsystemd_nothing_happens)
{
    int fds[4];
    struct err e;
    notify_ready("x");
    notify_stopping("x");
    ck_assert_uint_eq(notify_watchdog_ns(), 0);
    ck_assert_int_eq(notify_listen_fds(fds, 4, &e), 0);
}
END_TEST

UNIT_MAIN("notify", test_without_libsystemd_nothing_happens)

#endif
