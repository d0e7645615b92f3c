/* device - DEVICE_TOO: a function that nvcc compiles for the GPU as well, from the same text. C17 and C++17. */
#ifndef HEARTH_BASE_DEVICE_H
#define HEARTH_BASE_DEVICE_H

#ifdef __CUDACC__
#define DEVICE_TOO static inline __host__ __device__
#else
#define DEVICE_TOO static inline
#endif

#endif
