/* Local administrators: how to get in on the day when the identity provider is away ("break glass").
 *
 *   GET  /auth/local   a form: name, password, code
 *   POST /auth/local   password (Argon2id) and code (TOTP) --> a session with the role admin, 303 to /
 *
 * Who:  handle on a loop; hashing on two threads of its own.
 * Promises: off unless the policy says identity.break_glass, and switched off their sessions are over for good; every attempt is recorded; an unknown name costs and is answered like a
 *       known one; a code counts once; what is guessed is slowed, by name and by address, more with each failure.
 */
#ifndef GATEWAY_LOCAL_ADMIN_H
#define GATEWAY_LOCAL_ADMIN_H

#include "base/pg.h"
#include "base/secret.h"
#include "gateway/auth.h"
#include "gateway/totp.h"

#define GW_LOCAL_ISSUER        "gatehouse:local"
#define GW_LOCAL_PROVIDER      "local:admin" /* of their sessions; a policy's names hold no colon */
#define GW_LOCAL_NAME_MAX      64u
#define GW_LOCAL_PASSWORD_MIN  12u
#define GW_LOCAL_SEALED_BYTES  48u
#define GW_LOCAL_FREE_FAILURES 5u /* then each failure locks the name, for twice as long as the one before */

struct gw_local;
struct pol_snapshot; /* policy/policy.h */

struct gw_local *gw_local_new(struct gw_auth *auth);
/* After the loops have ended and before the store is freed: ends the threads. NULL is allowed. */
void gw_local_stop(struct gw_local *local);
/* After the server: what came back too late still refers to it. NULL is allowed. */
void gw_local_free(struct gw_local *local);
/* True when the path was /auth/local and has been, or will be, answered. */
bool gw_local_handle(struct gw_local *local, struct gw_http *http);

/* False: a session of this provider (gw_session_record) was started by a local administrator, and the policy no longer has them. */
bool gw_local_may_stay(const struct pol_snapshot *policy, const char *provider);
/* Ends for good, on every gateway, the sessions of those who can have one. On the loop. For when the policy no longer has them. */
void gw_local_end_all(struct gw_local *local, struct gw_loop *loop);

/* The second factor at rest: sealed with a key derived from the pepper, for this name alone. */
void gw_local_seal(const struct base_secret *pepper, const char *name,
                   const unsigned char secret[GW_TOTP_SECRET_BYTES],
                   unsigned char sealed[GW_LOCAL_SEALED_BYTES]);
enum base_code gw_local_unseal(const struct base_secret *pepper, const char *name,
                               const unsigned char sealed[GW_LOCAL_SEALED_BYTES],
                               unsigned char secret[GW_TOTP_SECRET_BYTES]);

#endif
