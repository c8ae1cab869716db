/* What the tests of access without a provider's page share: a gate with certificates, a policy, and a scripted gatehouse-sso
 * (sso_script.py: a token is the reply that it gets).
 *
 * In a mutation build GH_CHECK_OFF names the check to switch off; --list prints "CHECK CASE" lines. */
#ifndef TESTS_MACHINE_FIXTURE_H
#define TESTS_MACHINE_FIXTURE_H

#include "gate_private.h"
#include "tap.h"

extern struct gate *gate;
extern char folder[]; /* certificates, the policy, files of the tests' own */

/* Certificates, the gate, gatehouse-sso, and the policy with all its accounts and local administrators. */
void set_up(void);
/* The program's status, for that of tap_main. */
int tear_down(int status);

struct fixture_check {
    const char *check, *name; /* of the case that notices when it is left out */
};
/* True: the program was asked for the list, and no more. */
bool list_checks(const struct fixture_check *checks, size_t n, int argc, char **argv);

/* The policy as text; accounts: lines for the end of its service accounts. */
void make_policy(char *out, size_t size, bool break_glass, const char *accounts);
/* accounts: the one whose certificate is client.pem, too. */
void set_policy(bool break_glass, bool accounts);

struct token {
    const char *issuer, *subject, *provider, *client, *audience, *group, *more;
    int64_t issued_s, expires_s;
    bool bound;
};

/* The token that gets this reply; no two are the same. */
const char *token_of(const struct token *t);
const char *reply_token(const char *json);

/* The last line of the answer, "ok bearer ada ..." or "refused CODE". */
const char *ask_with(const char *scheme, const char *path, const char *token, const char *headers);
const char *ask(const char *token);
/* A key that was made just now is known within a second. */
const char *ask_new(const char *key);

bool begins(const char *text, const char *with);
#define GOOD(text, with)  CHECK(begins(text, with))
#define REFUSED(text, by) CHECK_STR(text, "refused " by)

/* A counter now; 0 before its first. */
long counted(const char *series);
void nap_ms(unsigned ms);

#endif
