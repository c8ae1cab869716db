/* TOTP: one-time codes of a second factor (RFC 6238: HMAC-SHA-1, 6 digits, 30 seconds).
 *
 * Who: any thread; pure.
 */
#ifndef GATEWAY_TOTP_H
#define GATEWAY_TOTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_TOTP_SECRET_BYTES 20u
#define GW_TOTP_BASE32_LEN   32u
#define GW_TOTP_STEP_S       30

/* The code of one step as six digits and a NUL. */
void gw_totp_code(const unsigned char secret[GW_TOTP_SECRET_BYTES], int64_t counter, char out[7]);
/* The step (one before, now, one after) whose code this is, if it is later than last_counter: each code counts once. 0: none. */
int64_t gw_totp_check(const unsigned char secret[GW_TOTP_SECRET_BYTES], const char *code, int64_t now_s,
                      int64_t last_counter);
/* RFC 4648 base32, as authenticator apps read it. */
void gw_totp_base32(const unsigned char secret[GW_TOTP_SECRET_BYTES], char out[GW_TOTP_BASE32_LEN + 1]);

#endif
