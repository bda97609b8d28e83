-- Storage settings that only PostgreSQL knows; run after the migrations, again and again without harm.
-- Rows that contacts and nudges rewrite keep room on their page, so that an update touches no index.
ALTER TABLE channel SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE wakes SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE task SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE feed_in SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE tally_in SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
