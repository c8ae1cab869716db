/* Secrets: bytes that are wiped when freed and never printed.
 *
 * Who:  any thread. The owner frees it.
 * Promises: the memory is kept out of core dumps (MADV_DONTDUMP) and wiped before it is given back; no function turns
 *       a secret into text for a log.
 */
#ifndef BASE_SECRET_H
#define BASE_SECRET_H

#include "base/err.h"
#include "base/mem.h"

#define BASE_SECRET_MAX 65536u
#define BASE_KEY_BYTES  32u

struct base_secret; /* opaque: the bytes are reached by base_secret_bytes alone */

struct base_secret *base_secret_new(const void *bytes, size_t n); /* n <= BASE_SECRET_MAX */
/* Reads a file of at most BASE_SECRET_MAX bytes; refused (BASE_DENIED) when group or others may read or write it. A
 * single newline at the end is dropped. */
enum base_code base_secret_read_file(struct base_secret **ret_secret, const char *path, struct base_err *err);
/* A 32-byte key written as 64 hexadecimal digits (`openssl rand -hex 32`), with the same checks; anything else is BASE_INVALID. */
enum base_code base_secret_read_key_file(struct base_secret **ret_key, const char *path,
                                         struct base_err *err);
void base_secret_free(struct base_secret *secret); /* wipes; NULL is allowed */

const unsigned char *base_secret_bytes(const struct base_secret *secret);
size_t base_secret_len(const struct base_secret *secret);

/* Overwrites memory in a way that the compiler keeps. */
void base_wipe(void *p, size_t n);

BASE_AUTO(struct base_secret *, base_secret_free)
#define auto_secret __attribute__((cleanup(base_secret_free_cleanup)))

#endif
