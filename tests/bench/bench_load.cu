/* bench_load - matrices from a file onto the card beside what the drive reads and the bus copies.
 *
 * usage: bench_load FOLDER [GIB]      a file of that many GiB (default 4) is written there, read, and removed
 *
 * One JSON object a line. The drive: the same file with O_DIRECT, 8 threads, 4 MiB a request, into pinned memory; the
 * bus: copies of 4 MiB from pinned memory. Loading: weights of 4096 x 14336 in bfloat16, by weight_read and
 * weight_wait, from the drive (the page cache emptied of the file before) and again from the page cache. gate: 0.8 of
 * the slower.
 */
#include "cuda/cuda.cuh"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define REQUEST (4u << 20)
#define THREADS 8
#define ROWS    4096
#define COLS    14336

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static char path[512];
static uint64_t file_bytes;

struct share {
    pthread_t thread;
    int first, rc;
    void *buffer;
};

static void *read_share(void *arg)
{
    struct share *s = (struct share *)arg;
    int fd = open(path, O_RDONLY | O_DIRECT);
    for (uint64_t at = (uint64_t)s->first * REQUEST; fd >= 0 && !s->rc && at < file_bytes; at += THREADS * REQUEST)
        s->rc = pread(fd, s->buffer, REQUEST, (off_t)at) <= 0;
    s->rc |= fd < 0;
    close(fd);
    return NULL;
}

/* Bytes a second; 0 when the file system has no O_DIRECT. */
static double drive_rate(void)
{
    struct share s[THREADS] = {};
    double begin = seconds();
    int rc = 0;
    for (int i = 0; i < THREADS; i++) {
        s[i].first = i;
        CU(cudaMallocHost(&s[i].buffer, REQUEST));
    }
    begin = seconds();
    for (int i = 0; i < THREADS; i++)
        pthread_create(&s[i].thread, NULL, read_share, &s[i]);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(s[i].thread, NULL);
        rc |= s[i].rc;
    }
    double t = seconds() - begin;
    for (int i = 0; i < THREADS; i++)
        CU(cudaFreeHost(s[i].buffer));
    return rc ? 0 : (double)file_bytes / t;
}

static double bus_rate(cudaStream_t stream)
{
    void *host, *dev;
    CU(cudaMallocHost(&host, 8 * REQUEST));
    CU(cudaMalloc(&dev, 8 * REQUEST));
    double begin = 0;
    for (int i = -8; i < 512; i++) {
        if (i == 0) {
            CU(cudaStreamSynchronize(stream));
            begin = seconds();
        }
        CU(cudaMemcpyAsync((char *)dev + (i & 7) * (size_t)REQUEST, (char *)host + (i & 7) * (size_t)REQUEST, REQUEST,
                           cudaMemcpyHostToDevice, stream));
    }
    CU(cudaStreamSynchronize(stream));
    double t = seconds() - begin;
    CU(cudaFreeHost(host));
    CU(cudaFree(dev));
    return 512.0 * REQUEST / t;
}

static int write_file(const char *folder, int weights)
{
    snprintf(path, sizeof path, "%s/bench_load.bin", folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    uint64_t z = 1, *buffer = (uint64_t *)malloc(REQUEST);
    file_bytes = (uint64_t)weights * ROWS * COLS * 2;
    bool ok = fd >= 0 && buffer;
    for (uint64_t at = 0; ok && at < file_bytes; at += REQUEST) {
        for (size_t i = 0; i < REQUEST / 8; i++)
            buffer[i] = (z = z * 6364136223846793005u + 1442695040888963407u) & 0xbfffbfffbfffbfffu;
        ok = write(fd, buffer, REQUEST) == (ssize_t)REQUEST;
    }
    ok = ok && fsync(fd) == 0;
    free(buffer);
    close(fd);
    return ok ? 0 : 1;
}

static void forget(void)
{
    int fd = open(path, O_RDONLY);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

static double load(struct backend *be, int weights)
{
    struct weight *w = (struct weight *)calloc((size_t)weights, sizeof *w);
    struct err e = {};
    double begin = seconds();
    for (int i = 0; i < weights; i++) {
        struct weight_part p = {};
        p.dtype = DT_BF16;
        p.rows = ROWS;
        p.cols = COLS;
        p.row_bytes = COLS * 2;
        p.path = path;
        p.at = (uint64_t)i * ROWS * COLS * 2;
        if (cuda_weight_read(be, &w[i], &p, 1, &e))
            fprintf(stderr, "%s\n", e.text), exit(1);
    }
    if (cuda_weight_wait(be, &e))
        fprintf(stderr, "%s\n", e.text), exit(1);
    double t = seconds() - begin;
    for (int i = 0; i < weights; i++)
        cuda_weight_free(be, &w[i]);
    free(w);
    return t;
}

int main(int argc, char **argv)
{
    int weights = (int)(((argc > 2 ? atoi(argv[2]) : 4) * (1ull << 30)) / (ROWS * COLS * 2ull));
    struct backend *be;
    struct err e = {};
    struct backend_opts o = {};
    o.max_rows = 16;
    o.max_cols = COLS;
    if (argc < 2 || weights < 1 || hearth_backend_cuda.open(&be, &o, &e) != 0) {
        fprintf(stderr, "%s\n", e.code ? e.text : "usage: bench_load FOLDER [GIB]");
        return 2;
    }
    if (write_file(argv[1], weights)) {
        fprintf(stderr, "%s can't be written\n", path);
        return 1;
    }
    forget();
    double drive = drive_rate(), bus = bus_rate(cuda_of(be)->stream), slower = drive < bus ? drive : bus;
    printf("{\"probe\": \"drive\", \"GBps\": %.2f}\n{\"probe\": \"bus\", \"GBps\": %.2f}\n", drive * 1e-9, bus * 1e-9);
    forget();
    double cold = load(be, weights);
    double again = drive_rate();
    int fd = open(path, O_RDONLY); /* into the page cache */
    char *all = (char *)malloc(REQUEST);
    while (read(fd, all, REQUEST) > 0)
        ;
    free(all);
    close(fd);
    double warm = load(be, weights);
    printf("{\"figure\": \"load\", \"from\": \"drive\", \"GBps\": %.2f, \"of_slower\": %.3f, \"gate\": 0.8, "
           "\"drive_after_GBps\": %.2f}\n",
           (double)file_bytes / cold * 1e-9, (double)file_bytes / cold / slower, again * 1e-9);
    printf("{\"figure\": \"load\", \"from\": \"page cache\", \"GBps\": %.2f}\n", (double)file_bytes / warm * 1e-9);
    unlink(path);
    return 0;
}
