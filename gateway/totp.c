/* TOTP. See totp.h. */
#include "gateway/totp.h"

#include "base/check.h"
#include "base/crypto.h"
#include "base/str.h"

#include <stdio.h>
#include <string.h>

void gw_totp_code(const unsigned char secret[GW_TOTP_SECRET_BYTES], int64_t counter, char out[7])
{
    unsigned char message[8], mac[BASE_SHA1_BYTES];
    uint32_t n;

    for (int i = 0; i < 8; i++)
        message[i] = (unsigned char)((uint64_t)counter >> (56 - 8 * i));
    base_hmac_sha1(secret, GW_TOTP_SECRET_BYTES, message, sizeof(message), mac);
    n = mac[sizeof(mac) - 1] & 0xf; /* RFC 4226 section 5.3 */
    n = (uint32_t)(mac[n] & 0x7f) << 24 | (uint32_t)mac[n + 1] << 16 | (uint32_t)mac[n + 2] << 8 | mac[n + 3];
    snprintf(out, 7, "%06u", (unsigned)(n % 1000000));
}

int64_t gw_totp_check(const unsigned char secret[GW_TOTP_SECRET_BYTES], const char *code, int64_t now_s,
                      int64_t last_counter)
{
    int64_t now = now_s / GW_TOTP_STEP_S, found = 0;
    char want[7];

    if (strlen(code) != 6)
        return 0;
    for (int64_t counter = now - 1; counter <= now + 1; counter++) {
        gw_totp_code(secret, counter, want);
        if (CHECK("local.code", base_ct_equal(want, code, 6)) &&
            CHECK("local.code_once", counter > last_counter))
            found = counter;
    }
    return found;
}

void gw_totp_base32(const unsigned char secret[GW_TOTP_SECRET_BYTES], char out[GW_TOTP_BASE32_LEN + 1])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    unsigned bits = 0, held = 0, n = 0;

    for (unsigned i = 0; i < GW_TOTP_SECRET_BYTES; i++) {
        held = held << 8 | secret[i];
        for (bits += 8; bits >= 5; bits -= 5)
            out[n++] = digits[held >> (bits - 5) & 31];
    }
    out[n] = '\0';
}
