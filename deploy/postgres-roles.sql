-- The Postgres roles of Gatehouse. Run once per cluster and database by a superuser, in the database that Gatehouse will use:
--     psql -d gatehouse -f deploy/postgres-roles.sql
-- Safe to run again. The roles get no password here: set one each (\password gatehouse_writer), or map a client certificate or
-- a Unix user to it in pg_hba.conf. What each may do is granted by migrations/, which run as gatehouse_migrator.
--
--   gatehouse_migrator  owns the schemas; used by `gatehouse migrate` alone, never by a running gateway
--   gatehouse_writer    the audit thread: appends records, reads nothing
--   gatehouse_reader    `gatehouse audit`: reads records, no names of people
--   gatehouse_mapper    the audit thread: appends who a pseudonym is, reads nothing
--   gatehouse_identifier  looks up who a pseudonym is; keep it away from who reads records
--   gatehouse_eraser    destroys a person's keys (erasure), nothing else
--   gatehouse_store     the gateway's own data: keys, sessions, policies
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['gatehouse_migrator', 'gatehouse_writer', 'gatehouse_reader', 'gatehouse_mapper',
                                'gatehouse_identifier', 'gatehouse_eraser', 'gatehouse_store'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', name);
        END IF;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), name);
    END LOOP;
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CREATE ON DATABASE %I TO gatehouse_migrator', current_database());
END
$$;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO gatehouse_migrator; -- gatehouse_migrations lives there
