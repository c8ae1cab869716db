/* Password hashes: Argon2id in PHC form.
 *
 * What: base_password_hash makes "$argon2id$v=19$m=65536,t=3,p=1$salt$hash"; verify reads such a text again.
 * Who:  a worker thread: one call takes tens of milliseconds and 64 MiB.
 * Promises: what verify spends is bounded whatever the stored text asks for; the comparison's time does not depend on the hash.
 * Source: RFC 9106; OWASP's password storage advice asks for at least m=19 MiB, t=2.
 */
#ifndef BASE_PASSWORD_H
#define BASE_PASSWORD_H

#include "base/err.h"

#define BASE_PASSWORD_HASH_MAX 128u /* with its NUL */
#define BASE_PASSWORD_MAX      1024u

enum base_code base_password_hash(const char *password, size_t len, char out[BASE_PASSWORD_HASH_MAX],
                                  struct base_err *err);
/* BASE_DENIED: another password. BASE_CORRUPT: no hash of ours, or parameters out of bounds. */
enum base_code base_password_verify(const char *hash, const char *password, size_t len);

#endif
