/* Roles: from what a provider said of a person to the roles of the policy.
 *
 * Who: any thread; reads the runtime's policy.
 */
#ifndef GATEWAY_ROLES_H
#define GATEWAY_ROLES_H

#include "gateway/app.h"
#include "gateway/codec_sso.h"

/* Fills who->roles and is_admin by the mapping of the policy: of the provider's claims alone. directory_key (GW_SUBJECT_MAX): the value of
 * the provider's directory_claim, "" for none. BASE_DENIED: *ret_check says why ("signin.no_role", "signin.directory_required",
 * "signin.roles_max", "scim.deactivated"). Who has no role by his claims, but one by the directory, comes in. directory may be NULL. */
enum base_code gw_roles_of_claims(const struct pol_snapshot *policy, struct gw_directory *directory,
                                  const struct pol_provider *provider, const struct gw_sso_reply *identity,
                                  struct gw_principal *who, char *directory_key, const char **ret_check);

/* At each use, as gw_sessions_options.refine; app is the gw_app: adds the roles of the person's groups in the directory. BASE_DENIED: the
 * directory says that the person is gone, does not know whom it must know, or no role is left. */
enum base_code gw_roles_refine(struct gw_principal *who, const char *provider, const char *directory_key,
                               void *app);

#endif
