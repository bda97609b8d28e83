-- For Citus: spreads the tables over the workers. Run it by hand, with psql, as the owner of the tables, after the migrations, and again
-- after each version that adds a table; what is spread already is left alone. Without Citus it changes nothing.
DO $$
DECLARE
  name TEXT;
  -- Rows of devices: spread by bucket, the rows of a device beside each other.
  by_bucket CONSTANT TEXT[] := ARRAY[
    'device', 'device_key', 'device_term', 'channel', 'apple_enrollment', 'apple_status', 'wakes', 'task', 'label_member',
    'enrollment_use', 'event', 'event_head', 'finding', 'contact', 'feed_in'];
  -- What the whole fleet shares and what changes rarely: a copy on every worker.
  everywhere CONSTANT TEXT[] := ARRAY[
    'meta', 'sealed', 'alarm', 'operator', 'api_key', 'users', 'enrollment_token', 'scep_challenge', 'certificate', 'job', 'label',
    'label_gone', 'policy', 'policy_version', 'assignment', 'label_set', 'stack', 'webhook'];
  -- What is written all the time and read in one place: on the coordinator.
  on_coordinator CONSTANT TEXT[] := ARRAY[
    'lease', 'session', 'sign_in_link', 'idempotency', 'tally_in', 'tally', 'funnel', 'feed', 'webhook_delivery', 'mail',
    'destroyed', 'canary'];
BEGIN
  IF to_regclass('pg_dist_partition') IS NULL THEN
    RAISE NOTICE 'Citus is not here: nothing is distributed';
    RETURN;
  END IF;
  FOREACH name IN ARRAY by_bucket LOOP
    IF NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = name::regclass) THEN
      PERFORM create_distributed_table(name::regclass, 'bucket', colocate_with => CASE name WHEN 'device' THEN 'none' ELSE 'device' END);
    END IF;
  END LOOP;
  FOREACH name IN ARRAY everywhere LOOP
    IF NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = name::regclass) THEN
      PERFORM create_reference_table(name::regclass);
    END IF;
  END LOOP;
  FOREACH name IN ARRAY on_coordinator LOOP
    IF NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = name::regclass) THEN
      PERFORM citus_add_local_table_to_metadata(name::regclass);
    END IF;
  END LOOP;
END
$$;
