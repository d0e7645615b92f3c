/* crc - CRC-32C (Castagnoli; RFC 3720 appendix B.4) for headers and index entries. MT-safe. */
#ifndef HEARTH_BASE_CRC_H
#define HEARTH_BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

/* Of n bytes; "123456789" gives 0xe3069283. By the processor's own instruction where it has one. */
uint32_t crc32c(const void *bytes, size_t n);

#endif
