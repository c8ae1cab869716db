/* Password hashes: round trip, and stored texts that ask for too much or are none of ours. */
#include "base/password.h"
#include "tap.h"

#include <stdio.h>
#include <string.h>

static void test_password__round_trip(void)
{
    char one[BASE_PASSWORD_HASH_MAX], two[BASE_PASSWORD_HASH_MAX];
    struct base_err err = {0};

    CHECK_RC(base_password_hash("correct horse", 13, one, &err), BASE_OK, &err);
    CHECK_RC(base_password_hash("correct horse", 13, two, &err), BASE_OK, &err);
    CHECK(strncmp(one, "$argon2id$v=19$m=65536,t=3,p=1$", 31) == 0);
    CHECK(strcmp(one, two) != 0); /* salted */
    CHECK_INT(base_password_verify(one, "correct horse", 13), BASE_OK);
    CHECK_INT(base_password_verify(one, "correct hors", 12), BASE_DENIED);
    CHECK_INT(base_password_verify(one, "Correct horse", 13), BASE_DENIED);
    CHECK_INT(base_password_verify(one, "", 0), BASE_DENIED);
}

static void test_password__hostile_rows(void)
{
    static const char rest[] = "c29tZXNhbHRzb21lc2FsdA$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA";
    static const char *const heads[] = {
        "$argon2id$v=19$m=4194304,t=3,p=1$",   "$argon2id$v=19$m=65536,t=4000000,p=1$",
        "$argon2id$v=19$m=65536,t=3,p=99$",    "$argon2id$v=19$m=99999999999,t=3,p=1$",
        "$argon2id$v=19$m=-1,t=3,p=1$",        "$argon2id$v=19$m=0,t=0,p=0$",
        "$argon2i$v=19$m=65536,t=3,p=1$",      "$argon2d$v=19$m=65536,t=3,p=1$",
        "$argon2id$v=16$m=65536,t=3,p=1$",     "$2b$12$",
        "$argon2id$v=19$m=65536,t=3,p=1$!!!!", "$argon2id$v=19$t=3,m=65536,p=1$"};
    char hash[256];

    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        snprintf(hash, sizeof(hash), "%s%s", heads[i], rest);
        CHECK_INT(base_password_verify(hash, "correct horse", 13), BASE_CORRUPT);
    }
    CHECK_INT(base_password_verify("", "correct horse", 13), BASE_CORRUPT);
    memset(hash, 'a', sizeof(hash));
    memcpy(hash, heads[0], strlen(heads[0]));
    hash[sizeof(hash) - 1] = '\0';
    CHECK_INT(base_password_verify(hash, "correct horse", 13), BASE_CORRUPT);
}

static void test_password__another_programs_hash(void)
{
    /* made by PHP: password_hash("correct horse", PASSWORD_ARGON2ID, ["memory_cost" => 19456, "time_cost" => 2]) */
    static const char hash[] =
        "$argon2id$v=19$m=19456,t=2,p=1$dk1lSzRqcy5yeE82cHZCdw$6ibALxSDpalayUxvr0OdEE4QgiawzePcYcdP79agKI0";

    CHECK_INT(base_password_verify(hash, "correct horse", 13), BASE_OK);
    CHECK_INT(base_password_verify(hash, "wrong horse", 11), BASE_DENIED);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {CASE(test_password__round_trip),
                                            CASE(test_password__hostile_rows),
                                            CASE(test_password__another_programs_hash)};

    return tap_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
