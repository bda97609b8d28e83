-- Muster's schema, one text for SQLite and PostgreSQL. README.md in this folder says which SQL it may use.
-- On PostgreSQL every TEXT column gets COLLATE "C" when this file is applied, so that ids and prefixes compare as bytes on both.

-- ---------------------------------------------------------------- the server itself

CREATE TABLE meta (
  name TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
);

-- Work that one process at a time does: the holder renews until_ms; a lease past it is free.
CREATE TABLE lease (
  name TEXT NOT NULL PRIMARY KEY,
  holder TEXT NOT NULL,
  until_ms BIGINT NOT NULL
);

-- Secrets, AES-256-GCM under the master key, base64.
CREATE TABLE sealed (
  name TEXT NOT NULL PRIMARY KEY,
  sealed TEXT NOT NULL,
  version BIGINT NOT NULL,
  updated_at_ms BIGINT NOT NULL
);

-- The last canary of each sender: one call by which a credential that has just come is tried. state is waiting, watched or ended;
-- channel_id is null before it is called, and stays so where no channel was fit for it.
CREATE TABLE canary (
  sender TEXT NOT NULL PRIMARY KEY,
  state TEXT NOT NULL,
  starts_at_ms BIGINT NOT NULL,
  ends_at_ms BIGINT NOT NULL,
  device_id TEXT,
  channel_id TEXT,
  called_at_ms BIGINT,
  answer TEXT,
  answered_at_ms BIGINT,
  contact_at_ms BIGINT,
  contact_cause TEXT
);

CREATE TABLE alarm (
  id TEXT NOT NULL PRIMARY KEY,
  kind TEXT NOT NULL,
  subject TEXT NOT NULL,
  state TEXT NOT NULL,
  detail TEXT NOT NULL,
  opened_at_ms BIGINT NOT NULL,
  changed_at_ms BIGINT NOT NULL,
  closed_at_ms BIGINT,
  mailed_at_ms BIGINT
);
CREATE INDEX alarm_untold ON alarm (id) WHERE closed_at_ms IS NULL AND mailed_at_ms IS NULL;
CREATE UNIQUE INDEX alarm_open ON alarm (kind, subject) WHERE closed_at_ms IS NULL;

-- The outbox of mail. about is the user of an activation; body is sealed, and empty once the mail was sent. due_at_ms of a mail that is
-- being tried is when the attempt is given up.
CREATE TABLE mail (
  id TEXT NOT NULL PRIMARY KEY,
  kind TEXT NOT NULL,
  about TEXT NOT NULL,
  recipient TEXT NOT NULL,
  subject TEXT NOT NULL,
  body TEXT NOT NULL,
  state TEXT NOT NULL,
  attempts BIGINT NOT NULL,
  created_at_ms BIGINT NOT NULL,
  due_at_ms BIGINT NOT NULL,
  finished_at_ms BIGINT,
  error TEXT
);
CREATE INDEX mail_due ON mail (due_at_ms) WHERE state = 'queued';
CREATE INDEX mail_about ON mail (about, id);
CREATE INDEX mail_created ON mail (created_at_ms);
CREATE INDEX mail_finished ON mail (finished_at_ms);

-- ---------------------------------------------------------------- operators

CREATE TABLE operator (
  id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  role TEXT NOT NULL,
  password_hash TEXT,
  created_at_ms BIGINT NOT NULL,
  disabled_at_ms BIGINT
);

CREATE TABLE sign_in_link (
  hash TEXT NOT NULL PRIMARY KEY,
  operator_id TEXT NOT NULL,
  created_at_ms BIGINT NOT NULL,
  expires_at_ms BIGINT NOT NULL,
  used_at_ms BIGINT
);

CREATE TABLE session (
  hash TEXT NOT NULL PRIMARY KEY,
  operator_id TEXT NOT NULL,
  csrf TEXT NOT NULL,
  created_at_ms BIGINT NOT NULL,
  expires_at_ms BIGINT NOT NULL
);
CREATE INDEX session_operator ON session (operator_id);

CREATE TABLE api_key (
  id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL,
  role TEXT NOT NULL,
  hash TEXT NOT NULL UNIQUE,
  created_by TEXT NOT NULL,
  created_at_ms BIGINT NOT NULL,
  revoked_at_ms BIGINT
);
-- The name is what the audit shows and what an Idempotency-Key counts under: of the keys that stand each has its own.
CREATE UNIQUE INDEX api_key_standing ON api_key (name) WHERE revoked_at_ms IS NULL;

-- ---------------------------------------------------------------- people and admission

CREATE TABLE users (
  id TEXT NOT NULL PRIMARY KEY,
  email TEXT NOT NULL,
  name TEXT NOT NULL,
  state TEXT NOT NULL,
  device_limit BIGINT,
  attributes TEXT NOT NULL,
  created_at_ms BIGINT NOT NULL,
  updated_at_ms BIGINT NOT NULL
);
CREATE UNIQUE INDEX users_email ON users (email) WHERE state <> 'deleted';

-- parent_id is the token that a device-bound one was derived from, by a policy's {{token:NAME}}.
CREATE TABLE enrollment_token (
  id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL,
  hash TEXT NOT NULL UNIQUE,
  created_by TEXT NOT NULL,
  created_at_ms BIGINT NOT NULL,
  expires_at_ms BIGINT,
  max_uses BIGINT,
  uses BIGINT NOT NULL,
  revoked_at_ms BIGINT,
  labels TEXT NOT NULL,
  user_id TEXT,
  serial TEXT,
  device_id TEXT,
  parent_id TEXT
);
CREATE INDEX enrollment_token_named ON enrollment_token (name) WHERE parent_id IS NULL;
CREATE INDEX enrollment_token_bound ON enrollment_token (parent_id, device_id) WHERE parent_id IS NOT NULL;

CREATE TABLE enrollment_use (
  bucket BIGINT NOT NULL,
  device_id TEXT NOT NULL,
  token_id TEXT NOT NULL,
  at_ms BIGINT NOT NULL,
  remote TEXT NOT NULL,
  PRIMARY KEY (bucket, device_id, token_id)
);
CREATE INDEX enrollment_use_token ON enrollment_use (token_id, at_ms);

-- ---------------------------------------------------------------- devices

CREATE TABLE device (
  bucket BIGINT NOT NULL,
  id TEXT NOT NULL,
  user_id TEXT,
  platform TEXT NOT NULL,
  app TEXT NOT NULL,
  hardware_id TEXT,
  serial TEXT,
  udid TEXT,
  model TEXT NOT NULL,
  os_version TEXT NOT NULL,
  agent_version TEXT NOT NULL,
  management_mode TEXT NOT NULL,
  state TEXT NOT NULL,
  state_since_ms BIGINT NOT NULL,
  denied TEXT,
  denied_at_ms BIGINT,
  action_done_at_ms BIGINT,
  quarantined_at_ms BIGINT,
  facts TEXT NOT NULL,
  facts_hash TEXT NOT NULL,
  facts_at_ms BIGINT,
  created_at_ms BIGINT NOT NULL,
  PRIMARY KEY (bucket, id)
);
CREATE INDEX device_user ON device (user_id);
CREATE INDEX device_state ON device (state);
CREATE INDEX device_id ON device (id);

-- What a device is found by without its id; the first insert wins. bucket is that of the key's own hash.
CREATE TABLE device_key (
  bucket BIGINT NOT NULL,
  kind TEXT NOT NULL,
  key TEXT NOT NULL,
  device_id TEXT NOT NULL,
  PRIMARY KEY (bucket, kind, key)
);

-- Lower-cased words a search finds a device by (serial, e-mail, name, model), for prefix scans.
CREATE TABLE device_term (
  bucket BIGINT NOT NULL,
  device_id TEXT NOT NULL,
  term TEXT NOT NULL,
  PRIMARY KEY (bucket, device_id, term)
);
CREATE INDEX device_term_term ON device_term (term);

-- One row for each way a device talks to us. Narrow, because every contact writes it.
-- Of an Apple MDM channel push_value is the token in lower-case hex, push_topic its APNs topic, push_secret its sealed PushMagic;
-- declared is the version of its declarations that it was told to fetch and said yes to. It has no desired one before there is any.
-- hold says why it is not given all of its stack, held the policies (ids between spaces) that it is not given.
CREATE TABLE channel (
  bucket BIGINT NOT NULL,
  id TEXT NOT NULL,
  device_id TEXT NOT NULL,
  kind TEXT NOT NULL,
  subject TEXT NOT NULL,
  platform TEXT NOT NULL,
  token_hash TEXT,
  fresh_token_hash TEXT,
  enrollment_token_id TEXT,
  activation BIGINT NOT NULL,
  activated_at_ms BIGINT,
  denied TEXT,
  push_provider TEXT,
  push_kind TEXT,
  push_value TEXT,
  push_topic TEXT,
  push_secret TEXT,
  push_state TEXT NOT NULL,
  push_since_ms BIGINT NOT NULL,
  -- What push_since_ms was before the address was called dead or set aside: when the device registered it.
  push_registered_ms BIGINT,
  last_contact_ms BIGINT,
  last_cause TEXT,
  last_serving_ms BIGINT,
  -- When an agent last told its facts, changed or not.
  last_facts_ms BIGINT,
  skew_ms BIGINT NOT NULL,
  label_set_id TEXT NOT NULL,
  generation BIGINT NOT NULL,
  stack_id TEXT NOT NULL,
  desired TEXT,
  desired_at_ms BIGINT NOT NULL,
  declared TEXT,
  hold TEXT,
  held TEXT NOT NULL DEFAULT '',
  reported TEXT,
  reported_at_ms BIGINT,
  applied TEXT,
  applied_at_ms BIGINT,
  details TEXT,
  -- 1 for a user of a Shared iPad who is kept waiting until it is told that everything was said.
  awaiting_configuration BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (bucket, id)
);
CREATE UNIQUE INDEX channel_device ON channel (bucket, device_id, kind, subject);
CREATE INDEX channel_moves ON channel (label_set_id, generation);
CREATE INDEX channel_stack ON channel (stack_id);
CREATE INDEX channel_quarantined ON channel (push_provider, push_since_ms) WHERE push_state = 'quarantined';

-- An Apple device's enrollment, one row a device: pending after Authenticate, enrolled after TokenUpdate, left after CheckOut.
-- identifier is the UDID or EnrollmentID, certificate_hash the SHA-256 of the pinned certificate, former_certificate_hash the one that
-- stands beside it until TokenUpdate. unlock_token and bootstrap_token are sealed. refresh_step counts the commands by which the
-- server asks a device about itself; refresh_started_ms is null while it asks nothing. renew_at_ms is when it is next given a profile
-- that renews its certificate.
CREATE TABLE apple_enrollment (
  bucket BIGINT NOT NULL,
  device_id TEXT NOT NULL,
  identifier TEXT NOT NULL,
  state TEXT NOT NULL,
  token_id TEXT,
  certificate_hash TEXT NOT NULL,
  former_certificate_hash TEXT,
  renew_at_ms BIGINT,
  topic TEXT NOT NULL,
  unlock_token TEXT,
  bootstrap_token TEXT,
  awaiting_configuration BIGINT NOT NULL,
  authenticated_at_ms BIGINT NOT NULL,
  enrolled_at_ms BIGINT,
  refresh_started_ms BIGINT,
  refresh_step BIGINT NOT NULL,
  refreshed_at_ms BIGINT,
  -- By whom the device is in lost mode: 'operator', the id of a locate task, or 'kept' where it did not take the command that ends it.
  lost_mode TEXT,
  PRIMARY KEY (bucket, device_id)
);

-- What an Apple MDM channel has said of itself: its status as merged, and the types of declarations that it supports (JSON list).
CREATE TABLE apple_status (
  bucket BIGINT NOT NULL,
  channel_id TEXT NOT NULL,
  status TEXT NOT NULL,
  supported TEXT,
  -- Where it knows no declarations: of which version it said so, the profile that it has by command, and the one that it did not take.
  refused TEXT,
  installed TEXT,
  failed TEXT,
  updated_at_ms BIGINT NOT NULL,
  PRIMARY KEY (bucket, channel_id)
);

-- One-time challenges of enrollment profiles and renewals: who shows one gets one certificate. device_id is the device whose identity
-- is renewed by it.
CREATE TABLE scep_challenge (
  hash TEXT NOT NULL PRIMARY KEY,
  token_id TEXT,
  device_id TEXT,
  created_at_ms BIGINT NOT NULL,
  expires_at_ms BIGINT NOT NULL,
  used_at_ms BIGINT
);

-- Identities that this server issued, by the SHA-256 of their DER; what they came by says whom they let in. der is base64; request_hash
-- names the request that it answers, so that a request that comes again is answered again.
CREATE TABLE certificate (
  hash TEXT NOT NULL PRIMARY KEY,
  der TEXT NOT NULL,
  request_hash TEXT NOT NULL,
  serial TEXT NOT NULL,
  token_id TEXT,
  device_id TEXT,
  issued_at_ms BIGINT NOT NULL,
  expires_at_ms BIGINT NOT NULL,
  revoked_at_ms BIGINT
);
CREATE INDEX certificate_device ON certificate (device_id);
CREATE UNIQUE INDEX certificate_request ON certificate (request_hash);
CREATE INDEX certificate_serial ON certificate (serial);

-- The whole nudge queue: at most one row a channel. lane is the rank of model::Lane, 0 the best.
-- sender '' means that no push can be sent. due_at_ms of a leased row is when its lease lapses. work_seq counts the changes, told_seq is
-- where it stood when the device was last called for them or came. leased_lane is the lane of the nudge that the lease is for, null once
-- the device has come during it; nudged_lane that of the nudge that left at nudged_at_ms.
CREATE TABLE wakes (
  bucket BIGINT NOT NULL,
  channel_id TEXT NOT NULL,
  sender TEXT NOT NULL,
  lane BIGINT NOT NULL,
  due_at_ms BIGINT NOT NULL,
  next_due_ms BIGINT,
  lease_id TEXT,
  leased_lane BIGINT,
  work_seq BIGINT NOT NULL,
  told_seq BIGINT NOT NULL DEFAULT 0,
  open_work BIGINT NOT NULL,
  urgent_open BIGINT NOT NULL,
  step BIGINT NOT NULL,
  attempt BIGINT NOT NULL,
  fruitless BIGINT NOT NULL,
  changed_at_ms BIGINT NOT NULL,
  nudged_at_ms BIGINT,
  nudged_lane BIGINT,
  unanswered BIGINT NOT NULL,
  high_day BIGINT NOT NULL,
  high_count BIGINT NOT NULL,
  gap_ms BIGINT NOT NULL,
  phase_s BIGINT NOT NULL,
  lazy BIGINT NOT NULL,
  PRIMARY KEY (bucket, channel_id)
);
CREATE INDEX wakes_due ON wakes (sender, lane, due_at_ms);
CREATE INDEX wakes_unanswered ON wakes (unanswered) WHERE unanswered > 0;

-- ---------------------------------------------------------------- jobs and tasks

-- walk is what the background still does for a job, one chunk after the other: 'make' its tasks, 'cancel' them, 'retry' them, or ''.
-- expand_after is how far it has come.
CREATE TABLE job (
  id TEXT NOT NULL PRIMARY KEY,
  kind TEXT NOT NULL,
  params TEXT NOT NULL,
  lane TEXT NOT NULL,
  selector TEXT NOT NULL,
  state TEXT NOT NULL,
  tasks BIGINT NOT NULL,
  unknown_devices TEXT NOT NULL,
  duplicate_devices TEXT NOT NULL,
  created_by TEXT NOT NULL,
  created_at_ms BIGINT NOT NULL,
  expires_at_ms BIGINT NOT NULL,
  finished_at_ms BIGINT,
  walk TEXT NOT NULL,
  walk_at_ms BIGINT NOT NULL,
  expand_after TEXT NOT NULL
);
CREATE INDEX job_walk ON job (walk) WHERE walk <> '';
CREATE INDEX job_waiting ON job (expires_at_ms) WHERE state = 'awaiting_approval';

-- What was let through of wipes and retirements in the last hour: the whole server's, whoever ordered and whichever process took it.
CREATE TABLE destroyed (
  id TEXT NOT NULL PRIMARY KEY,
  job_id TEXT NOT NULL,
  at_ms BIGINT NOT NULL,
  n BIGINT NOT NULL
);
CREATE INDEX destroyed_at ON destroyed (at_ms);

CREATE TABLE idempotency (
  actor TEXT NOT NULL,
  key TEXT NOT NULL,
  body_hash TEXT NOT NULL,
  job_id TEXT NOT NULL,
  expires_at_ms BIGINT NOT NULL,
  PRIMARY KEY (actor, key)
);

-- A task's id is derived from (job, channel, attempt), so the primary key keeps them unique.
-- finished_at_ms IS NULL is what "open" means. command_uuid is an Apple command's own, where the operator chose it; else the command has
-- the task's id. The conditions that are always true, here and at findings, keep these indexes for statements that say them too: an index
-- that statistics believe empty would else serve for everything, read from end to end each time.
CREATE TABLE task (
  bucket BIGINT NOT NULL,
  id TEXT NOT NULL,
  job_id TEXT NOT NULL,
  device_id TEXT NOT NULL,
  channel_id TEXT NOT NULL,
  kind TEXT NOT NULL,
  lane BIGINT NOT NULL,
  state TEXT NOT NULL,
  attempt BIGINT NOT NULL,
  created_at_ms BIGINT NOT NULL,
  expires_at_ms BIGINT NOT NULL,
  state_since_ms BIGINT NOT NULL,
  delivered_at_ms BIGINT,
  progressed_at_ms BIGINT,
  finished_at_ms BIGINT,
  progress TEXT,
  error TEXT,
  result TEXT,
  late TEXT,
  retried_by TEXT,
  command_uuid TEXT,
  PRIMARY KEY (bucket, id)
);
CREATE UNIQUE INDEX task_command ON task (bucket, channel_id, command_uuid) WHERE command_uuid IS NOT NULL;
CREATE INDEX task_open ON task (channel_id, lane, job_id, id) WHERE finished_at_ms IS NULL;
CREATE INDEX task_expiry ON task (expires_at_ms) WHERE finished_at_ms IS NULL AND expires_at_ms > 0;
CREATE INDEX task_job ON task (job_id, id);
CREATE INDEX task_device ON task (device_id, id);
CREATE INDEX task_id ON task (id);
CREATE INDEX task_open_id ON task (id) WHERE finished_at_ms IS NULL AND id > '';

-- Counts that many devices share: writers only append to tally_in, one folder at a time adds them up.
CREATE TABLE tally_in (
  id TEXT NOT NULL PRIMARY KEY,
  topic TEXT NOT NULL,
  key TEXT NOT NULL,
  n BIGINT NOT NULL
);
CREATE INDEX tally_in_topic ON tally_in (topic);
CREATE TABLE tally (
  topic TEXT NOT NULL,
  key TEXT NOT NULL,
  n BIGINT NOT NULL,
  PRIMARY KEY (topic, key)
);

-- ---------------------------------------------------------------- policies

CREATE TABLE label (
  id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  description TEXT NOT NULL,
  rule TEXT,
  created_at_ms BIGINT NOT NULL
);

-- Labels that are deleted, until the background has swept their memberships.
CREATE TABLE label_gone (
  id TEXT NOT NULL PRIMARY KEY
);

CREATE TABLE label_member (
  bucket BIGINT NOT NULL,
  device_id TEXT NOT NULL,
  label_id TEXT NOT NULL,
  added_at_ms BIGINT NOT NULL,
  PRIMARY KEY (bucket, device_id, label_id)
);
CREATE INDEX label_member_label ON label_member (label_id, device_id);

CREATE TABLE policy (
  id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  latest BIGINT NOT NULL,
  published BIGINT,
  created_at_ms BIGINT NOT NULL,
  updated_at_ms BIGINT NOT NULL
);

CREATE TABLE policy_version (
  policy_id TEXT NOT NULL,
  n BIGINT NOT NULL,
  document TEXT NOT NULL,
  hash TEXT NOT NULL,
  message TEXT NOT NULL,
  created_by TEXT NOT NULL,
  created_at_ms BIGINT NOT NULL,
  published_at_ms BIGINT,
  PRIMARY KEY (policy_id, n)
);

-- label_id 'all' stands for every device.
CREATE TABLE assignment (
  policy_id TEXT NOT NULL,
  label_id TEXT NOT NULL,
  mode TEXT NOT NULL,
  rank BIGINT NOT NULL,
  PRIMARY KEY (policy_id, label_id)
);
CREATE INDEX assignment_label ON assignment (label_id);

-- A set of labels that devices have; every device with the same set shares its stack.
-- A channel whose generation is below its set's is stale: the mover brings it up, or its next contact does. -1: its labels changed.
-- moving counts the reasons to move channels since the last time that none was stale.
CREATE TABLE label_set (
  id TEXT NOT NULL PRIMARY KEY,
  labels TEXT NOT NULL,
  stack_id TEXT NOT NULL,
  generation BIGINT NOT NULL,
  moving BIGINT NOT NULL,
  created_at_ms BIGINT NOT NULL
);

-- id is the hash of items; immutable. items: [{"policy","name","version","rank"}], strongest first. document, version and variables are
-- the agent's; apple has the same three for Apple's MDM channels: {"device": {...}, "users": {...}}.
CREATE TABLE stack (
  id TEXT NOT NULL PRIMARY KEY,
  items TEXT NOT NULL,
  document TEXT NOT NULL,
  version TEXT NOT NULL,
  variables TEXT NOT NULL,
  apple TEXT NOT NULL,
  created_at_ms BIGINT NOT NULL
);

-- ---------------------------------------------------------------- what devices tell

CREATE TABLE event (
  bucket BIGINT NOT NULL,
  channel_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  id TEXT NOT NULL,
  device_id TEXT NOT NULL,
  type TEXT NOT NULL,
  activation BIGINT NOT NULL,
  seq BIGINT NOT NULL,
  occurred_at_ms BIGINT NOT NULL,
  claimed_at_ms BIGINT NOT NULL,
  first_attempt_at_ms BIGINT,
  received_at_ms BIGINT NOT NULL,
  attempt BIGINT NOT NULL,
  boot_id TEXT,
  uptime_ms BIGINT,
  policy_version TEXT,
  late BIGINT NOT NULL,
  data TEXT NOT NULL,
  PRIMARY KEY (bucket, channel_id, event_id)
);
CREATE INDEX event_device ON event (device_id, id);
CREATE INDEX event_id ON event (id);
CREATE INDEX event_type ON event (type, id);

-- The newest event of each subject on a channel: an older one that comes later changes no state.
CREATE TABLE event_head (
  bucket BIGINT NOT NULL,
  channel_id TEXT NOT NULL,
  subject TEXT NOT NULL,
  activation BIGINT NOT NULL,
  seq BIGINT NOT NULL,
  PRIMARY KEY (bucket, channel_id, subject)
);

CREATE TABLE finding (
  bucket BIGINT NOT NULL,
  id TEXT NOT NULL,
  device_id TEXT NOT NULL,
  kind TEXT NOT NULL,
  subject TEXT NOT NULL,
  opened_at_ms BIGINT NOT NULL,
  due_at_ms BIGINT NOT NULL,
  overdue_at_ms BIGINT,
  closed_at_ms BIGINT,
  closed_by TEXT,
  detail TEXT NOT NULL,
  PRIMARY KEY (bucket, id)
);
CREATE UNIQUE INDEX finding_open ON finding (bucket, device_id, kind, subject) WHERE closed_at_ms IS NULL;
CREATE INDEX finding_due ON finding (due_at_ms) WHERE closed_at_ms IS NULL AND overdue_at_ms IS NULL AND due_at_ms > 0;
CREATE INDEX finding_id ON finding (id);
CREATE INDEX finding_open_id ON finding (id) WHERE closed_at_ms IS NULL AND id > '';
CREATE INDEX finding_device ON finding (device_id, id);

-- Contacts that carried something, either way.
CREATE TABLE contact (
  bucket BIGINT NOT NULL,
  id TEXT NOT NULL,
  device_id TEXT NOT NULL,
  channel_id TEXT NOT NULL,
  cause TEXT NOT NULL,
  at_ms BIGINT NOT NULL,
  after_nudge_ms BIGINT,
  results BIGINT NOT NULL,
  events BIGINT NOT NULL,
  tasks BIGINT NOT NULL,
  policy TEXT,
  PRIMARY KEY (bucket, id)
);
CREATE INDEX contact_device ON contact (device_id, id);

-- What each process saw in each five minutes.
CREATE TABLE funnel (
  slot_ms BIGINT NOT NULL,
  process TEXT NOT NULL,
  stage TEXT NOT NULL,
  n BIGINT NOT NULL,
  PRIMARY KEY (slot_ms, process, stage)
);

-- ---------------------------------------------------------------- feed

CREATE TABLE feed_in (
  bucket BIGINT NOT NULL,
  id TEXT NOT NULL,
  at_ms BIGINT NOT NULL,
  kind TEXT NOT NULL,
  actor TEXT,
  device_id TEXT,
  data TEXT NOT NULL,
  -- The sequencer takes the oldest first, whatever the backlog and the bucket.
  PRIMARY KEY (id, bucket)
);

CREATE TABLE feed (
  seq BIGINT NOT NULL PRIMARY KEY,
  id TEXT NOT NULL,
  at_ms BIGINT NOT NULL,
  kind TEXT NOT NULL,
  actor TEXT,
  device_id TEXT,
  data TEXT NOT NULL
);
CREATE INDEX feed_device ON feed (device_id, seq);
CREATE INDEX feed_actor ON feed (seq) WHERE actor IS NOT NULL;

-- ---------------------------------------------------------------- webhooks

-- Endpoints that are told of the feed, in its order. read_to is how far their deliveries are made, due_at_ms when the first that waits
-- is next tried. kinds is a JSON list, empty for all. secret and former_secret (which signs too until former_until_ms) are sealed.
CREATE TABLE webhook (
  id TEXT NOT NULL PRIMARY KEY,
  url TEXT NOT NULL,
  kinds TEXT NOT NULL,
  state TEXT NOT NULL,
  disabled_reason TEXT,
  secret TEXT NOT NULL,
  former_secret TEXT,
  former_until_ms BIGINT,
  read_to BIGINT NOT NULL,
  due_at_ms BIGINT NOT NULL,
  failing_since_ms BIGINT,
  created_by TEXT NOT NULL,
  created_at_ms BIGINT NOT NULL
);

-- id is that of the feed's entry, the same however often it is sent. state: pending, delivered, dead.
CREATE TABLE webhook_delivery (
  webhook_id TEXT NOT NULL,
  seq BIGINT NOT NULL,
  id TEXT NOT NULL,
  kind TEXT NOT NULL,
  state TEXT NOT NULL,
  body TEXT NOT NULL,
  attempts BIGINT NOT NULL,
  created_at_ms BIGINT NOT NULL,
  first_attempt_at_ms BIGINT,
  last_attempt_at_ms BIGINT,
  next_attempt_at_ms BIGINT,
  finished_at_ms BIGINT,
  status BIGINT,
  answer TEXT,
  PRIMARY KEY (webhook_id, seq)
);
CREATE INDEX webhook_delivery_pending ON webhook_delivery (webhook_id, seq) WHERE state = 'pending';
CREATE INDEX webhook_delivery_finished ON webhook_delivery (finished_at_ms);
