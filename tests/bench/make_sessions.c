/* Sessions of N persons, as the gateway would have sealed them, for bench_sso.py: one cookie a line on stdout, and in FILE the commands
 * of Redis that put them there.
 *
 *     make_sessions PEPPER_FILE N FILE
 */
#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/secret.h"
#include "base/str.h"
#include "gateway/session.h"
#include "gateway/session_seal.h"
#include "gateway/sessions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIFE_S 3600

static void put_argument(FILE *out, const void *bytes, size_t len)
{
    fprintf(out, "$%zu\r\n", len);
    fwrite(bytes, 1, len, out);
    fputs("\r\n", out);
}

int main(int argc, char **argv)
{
    auto_secret struct base_secret *pepper = NULL;
    unsigned char key[BASE_GCM_KEY_BYTES], hash[BASE_SHA256_BYTES];
    struct base_err err = {0};
    FILE *out = argc == 4 ? fopen(argv[3], "w") : NULL;

    if (out == NULL || base_secret_read_key_file(&pepper, argv[1], &err) != BASE_OK) {
        fprintf(stderr, "make_sessions PEPPER_FILE N FILE: %s\n", err.detail);
        return 2;
    }
    gw_seal_key(pepper, key);
    for (int i = 0; i < atoi(argv[2]); i++) {
        struct gw_session_record record = {.provider = "good",
                                           .sid = "a session at the provider",
                                           .from = "192.0.2.1",
                                           .email = "somebody@example.com"};
        auto_buf struct base_buf sealed = BASE_BUF_INIT(GW_SEAL_MAX);
        char token[GW_TOKEN_LEN + 1], name[128] = "gh:session:", subject[32], hint[1200], life[16];

        /* an ID token is the largest part of a real one */
        memset(hint, 'h', sizeof(hint) - 1);
        hint[sizeof(hint) - 1] = '\0';
        snprintf(subject, sizeof(subject), "person-%d", i);
        gw_principal_fill(&record.who, "https://idp.example", subject, "default", "employee");
        record.who.method = GW_AUTH_SESSION;
        snprintf(record.who.credential_id, sizeof(record.who.credential_id), "%016x", i);
        snprintf(record.name, sizeof(record.name), "Somebody number %d", i);
        record.started_us = record.seen_us = record.who.since_us = base_wall_us();
        record.expires_at_us = record.started_us + LIFE_S * INT64_C(1000000);
        record.logout_hint = hint;
        gw_token_create(pepper, GW_TOKEN_SESSION, token);
        gw_token_hash(pepper, GW_TOKEN_SESSION, token, hash);
        base_hex_encode(hash, sizeof(hash), name + strlen(name));
        if (gw_session_seal(key, hash, &record, &sealed) != BASE_OK)
            return 1;
        snprintf(life, sizeof(life), "%d", LIFE_S);
        fputs("*5\r\n", out);
        put_argument(out, "SET", 3);
        put_argument(out, name, strlen(name));
        put_argument(out, sealed.data, sealed.len);
        put_argument(out, "EX", 2);
        put_argument(out, life, strlen(life));
        puts(token);
    }
    return fclose(out) == 0 ? 0 : 1;
}
