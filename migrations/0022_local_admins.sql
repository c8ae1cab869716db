-- Break-glass administrators: for the day when the identity provider is away. Off unless the policy says identity.break_glass.
--
-- password is an Argon2id hash; totp is sealed by a key derived from the pepper, which is not in the database. gatehouse_store makes
-- them and counts; it cannot change a password, nor bring one back who was disabled.

CREATE TABLE identity.local_admins (
    name         text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9._-]{1,63}$'),
    password     text NOT NULL CHECK (password LIKE '$argon2id$%' AND octet_length(password) < 128),
    totp         bytea NOT NULL CHECK (length(totp) = 48),
    created_at   timestamptz NOT NULL DEFAULT now(),
    disabled_at  timestamptz,
    totp_used    bigint NOT NULL DEFAULT 0, -- the last step whose code was used: each counts once
    failures     integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    locked_until timestamptz
);

CREATE FUNCTION identity.local_admin_stays_disabled() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF OLD.disabled_at IS NOT NULL AND NEW.disabled_at IS DISTINCT FROM OLD.disabled_at THEN
        RAISE EXCEPTION 'a disabled administrator stays disabled';
    END IF;
    IF NEW.totp_used < OLD.totp_used THEN
        RAISE EXCEPTION 'a code counts once';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER local_admins_stay_disabled BEFORE UPDATE ON identity.local_admins
    FOR EACH ROW EXECUTE FUNCTION identity.local_admin_stays_disabled();

GRANT SELECT, INSERT ON identity.local_admins TO gatehouse_store;
GRANT UPDATE (disabled_at, totp_used, failures, locked_until) ON identity.local_admins TO gatehouse_store;
