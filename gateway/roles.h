/* Roles: from what a provider said of a person to the roles of the policy.
 *
 * Who: any thread; reads the runtime's policy.
 */
#ifndef GATEWAY_ROLES_H
#define GATEWAY_ROLES_H

#include "gateway/app.h"
#include "gateway/codec_sso.h"

/* Fills who->roles and is_admin by the mapping of the policy. directory_key (GW_SUBJECT_MAX): the value of the provider's
 * directory_claim, "" for none. BASE_DENIED: *ret_check says why ("signin.no_role", "signin.directory_required", "signin.roles_max"). */
enum base_code gw_roles_of_claims(const struct pol_snapshot *policy, const struct pol_provider *provider,
                                  const struct gw_sso_reply *identity, struct gw_principal *who,
                                  char *directory_key, const char **ret_check);

#endif
