/* Errors: a code enum and a caller-owned record.
 *
 * What: every function that can fail returns `enum base_code` and, as its last parameter, fills a `struct base_err`
 *       that the caller owns. Nothing is allocated on the error path.
 * Who:  every folder, any thread.
 * Promises: success leaves `err` alone; failure leaves every `ret_*` alone. `err` may be NULL everywhere.
 * Not here: public texts for clients (gateway/ maps a code to one), logging (log.h).
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stddef.h>

#define BASE_DETAIL_MAX 320

enum base_code {
    BASE_OK = 0,
    BASE_INVALID,   /* the input is malformed or outside its allowed range */
    BASE_TOO_LARGE, /* the input or the result passes a named limit */
    BASE_NOT_FOUND,
    BASE_DENIED,      /* known and refused */
    BASE_EXISTS,      /* would collide with something that is there */
    BASE_UNAVAILABLE, /* a peer (database, Redis, provider) cannot be had now; a retry may work */
    BASE_TIMEOUT,
    BASE_FULL,        /* a bounded queue, journal or pool has no room */
    BASE_IO,          /* the operating system refused: see sys_errno */
    BASE_CORRUPT,     /* stored bytes do not verify */
    BASE_UNSUPPORTED, /* well formed, but a kind that this build does not do */
    BASE_CANCELLED,
    BASE_NO_MEMORY, /* an allocation whose size the input chose was refused */
    BASE_INTERNAL   /* our own bug, caught */
};

/* `detail` is for operators: it never holds a prompt, an answer, a token or a key. */
struct base_err {
    enum base_code code;
    int sys_errno; /* 0 when no system call was involved */
    char detail[BASE_DETAIL_MAX];
};

/* Fills *err (when not NULL) and returns `code`, so that a failure is one statement. `code` is never BASE_OK. */
enum base_code base_fail(struct base_err *err, enum base_code code, int sys_errno, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Puts "prefix: " before the detail already in *err; returns err->code (BASE_INTERNAL when err is NULL). */
enum base_code base_fail_prefix(struct base_err *err, enum base_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* A stable lower-case name, as it stands in logs ("too_large"). Never NULL. */
const char *base_code_name(enum base_code code);

#endif
