/* notify - see notify.h. */
#include "server/notify.h"

#include <errno.h>

#ifdef HAVE_SYSTEMD

#include "engine/base/log.h"

#include <string.h>
#include <systemd/sd-daemon.h>

/* A manager that can't be reached is worth a line, not an end. */
static void send_state(const char *state, const char *status)
{
    int rc = status ? sd_notifyf(0, "%s\nSTATUS=%s", state, status) : sd_notify(0, state);
    if (rc < 0)
        log_warn("notify send", "error=\"%s\" next=\"go on without\"", strerror(-rc));
}

void notify_ready(const char *status)
{
    send_state("READY=1", status);
}

void notify_stopping(const char *status)
{
    send_state("STOPPING=1", status);
}

void notify_status(const char *status)
{
    int rc = sd_notifyf(0, "STATUS=%s", status);
    if (rc < 0)
        log_warn("notify send", "error=\"%s\" next=\"go on without\"", strerror(-rc));
}

void notify_watchdog(void)
{
    send_state("WATCHDOG=1", NULL);
}

uint64_t notify_watchdog_ns(void)
{
    uint64_t us = 0;
    return sd_watchdog_enabled(0, &us) > 0 ? us * 1000 / 2 : 0;
}

int notify_listen_fds(int *fds, int cap, struct err *e)
{
    int n = sd_listen_fds(1);
    if (n < 0)
        return err_set(e, -n, "LISTEN_FDS: %s", strerror(-n));
    if (n > cap)
        return err_set(e, E2BIG, "LISTEN_FDS: %d sockets were handed over, at most %d are taken", n, cap);
    for (int i = 0; i < n; i++) {
        fds[i] = SD_LISTEN_FDS_START + i;
        if (sd_is_socket(fds[i], AF_UNSPEC, SOCK_STREAM, 1) <= 0)
            return err_set(e, EINVAL,
                           "LISTEN_FDS: descriptor %d is no listening stream socket; use ListenStream=", fds[i]);
    }
    return n;
}

#else

void notify_ready(const char *status)
{
    (void)status;
}

void notify_stopping(const char *status)
{
    (void)status;
}

void notify_status(const char *status)
{
    (void)status;
}

void notify_watchdog(void)
{
}

uint64_t notify_watchdog_ns(void)
{
    return 0;
}

int notify_listen_fds(int *fds, int cap, struct err *e)
{
    (void)fds;
    (void)cap;
    (void)e;
    return 0;
}

#endif
