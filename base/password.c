/* Password hashes. See password.h. */
#include "base/password.h"

#include "base/check.h"
#include "base/crypto.h"

#include <argon2.h>
#include <stdio.h>
#include <string.h>

#define MEMORY_KIB 65536u
#define PASSES     3u
#define LANES      1u
#define SALT_BYTES 16u
#define HASH_BYTES 32u

/* A row that somebody else wrote may ask for at most this. */
#define MEMORY_KIB_MAX (256u << 10)
#define PASSES_MAX     10u
#define LANES_MAX      4u

enum base_code base_password_hash(const char *password, size_t len, char out[BASE_PASSWORD_HASH_MAX],
                                  struct base_err *err)
{
    unsigned char salt[SALT_BYTES];
    int rc;

    if (len == 0 || len > BASE_PASSWORD_MAX)
        return base_fail(err, BASE_INVALID, 0, "a password has 1 to %u bytes", BASE_PASSWORD_MAX);
    base_random(salt, sizeof(salt));
    rc = argon2id_hash_encoded(PASSES, MEMORY_KIB, LANES, password, len, salt, sizeof(salt), HASH_BYTES, out,
                               BASE_PASSWORD_HASH_MAX);
    if (rc != ARGON2_OK)
        return base_fail(err, BASE_FULL, 0, "Argon2: %s", argon2_error_message(rc));
    return BASE_OK;
}

/* The parameters alone; the library reads the rest. */
static bool bounded(const char *hash)
{
    unsigned memory = 0, passes = 0, lanes = 0;
    int end = 0;

    if (strnlen(hash, BASE_PASSWORD_HASH_MAX) == BASE_PASSWORD_HASH_MAX ||
        sscanf(hash, "$argon2id$v=19$m=%9u,t=%9u,p=%9u$%n", &memory, &passes, &lanes, &end) != 3 || end == 0)
        return false;
    return memory >= 8 && memory <= MEMORY_KIB_MAX && passes >= 1 && passes <= PASSES_MAX && lanes >= 1 &&
           lanes <= LANES_MAX;
}

enum base_code base_password_verify(const char *hash, const char *password, size_t len)
{
    int rc;

    if (!bounded(hash))
        return BASE_CORRUPT;
    if (len == 0 || len > BASE_PASSWORD_MAX)
        return BASE_DENIED;
    rc = argon2id_verify(hash, password, len);
    if (rc != ARGON2_OK && rc != ARGON2_VERIFY_MISMATCH)
        return rc == ARGON2_MEMORY_ALLOCATION_ERROR ? BASE_FULL : BASE_CORRUPT;
    return CHECK("local.password", rc == ARGON2_OK) ? BASE_OK : BASE_DENIED;
}
