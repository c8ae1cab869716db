/* Verifying: recomputes every instance's chain from what stands in the database and compares the columns with
 * the canonical bytes; then looks whether this machine's journal goes on from there. Needs no secret: only
 * the reader's rights.
 *
 * Who: one thread. What it can and cannot prove: docs/audit.md.
 */
#ifndef AUDIT_VERIFY_H
#define AUDIT_VERIFY_H

#include "audit/chain.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define AUD_PROBLEM_MAX 768

struct aud_verify_options {
    const char *reader_dsn;
    const char *instance;    /* NULL: all */
    const char *journal_dir; /* NULL: the database alone */
    void (*progress)(const char *instance, uint64_t n_records,
                     void *user); /* may be NULL; about once a second */
    void *user;
};

struct aud_verify_result {
    bool intact;
    char problem[AUD_PROBLEM_MAX]; /* when not intact: the first bad record and what that means */
    char bad_instance[33];
    int64_t bad_seq; /* -1: none */
    uint64_t n_records, n_instances;
    uint64_t n_keys_gone; /* person keys that were erased: their content is unreadable, the chain is whole */
    uint64_t n_unshipped; /* records found in the journal that follow the database's last one */
    struct aud_hash head; /* of the last instance looked at */
};

/* BASE_OK: looked at everything, see ret_result->intact. Anything else: could not check, and ret_result says
 * nothing. */
enum base_code aud_verify(const struct aud_verify_options *options, struct aud_verify_result *ret_result,
                          struct base_err *err);

#endif
