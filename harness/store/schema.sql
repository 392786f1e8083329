-- The index of run bundles. All of it is derived from them; a change of schema needs a new version and a new index.
-- No primary keys and no secondary indexes: a run is deleted and inserted in one transaction by a single writer.

CREATE TABLE schema_migrations (version INTEGER NOT NULL, applied_at TIMESTAMP NOT NULL);

CREATE TABLE run (
    run_id VARCHAR NOT NULL,
    bundle VARCHAR NOT NULL,        -- hash of what was indexed
    path VARCHAR NOT NULL,          -- relative to the store if it is inside
    model VARCHAR, model_digest VARCHAR, engine VARCHAR, purpose VARCHAR, evidence VARCHAR,
    status VARCHAR NOT NULL CHECK (status IN ('running', 'complete')),
    created_at TIMESTAMP NOT NULL,  -- UTC
    items BIGINT NOT NULL,
    item_set VARCHAR,
    manifest VARCHAR NOT NULL,      -- JSON
    summary VARCHAR                 -- JSON
);

CREATE TABLE run_task (
    run_id VARCHAR NOT NULL, task VARCHAR NOT NULL, version VARCHAR, fingerprint VARCHAR,
    items BIGINT NOT NULL, errors BIGINT NOT NULL
);

CREATE TABLE score (
    run_id VARCHAR NOT NULL, task VARCHAR NOT NULL, metric VARCHAR NOT NULL,
    value DOUBLE CHECK (isfinite(value)), low DOUBLE CHECK (isfinite(low)), high DOUBLE CHECK (isfinite(high)),
    n BIGINT, shots BIGINT, signature VARCHAR, main BOOLEAN NOT NULL, evidence VARCHAR, purpose VARCHAR,
    reason VARCHAR,                 -- why it is never ranked: undefined (the value is null), or too few items
    result VARCHAR NOT NULL         -- the whole result as JSON
);

CREATE TABLE sample (
    run_id VARCHAR NOT NULL, task VARCHAR NOT NULL, item_id VARCHAR NOT NULL, item_group VARCHAR, item_cluster VARCHAR,
    prompt VARCHAR, output VARCHAR, gold VARCHAR, correct DOUBLE CHECK (isfinite(correct)), status VARCHAR NOT NULL, error VARCHAR
);

CREATE TABLE item_stat (
    run_id VARCHAR NOT NULL, task VARCHAR NOT NULL, metric VARCHAR NOT NULL, item_id VARCHAR NOT NULL, item_group VARCHAR,
    item_cluster VARCHAR, stats DOUBLE[] NOT NULL
);

CREATE TABLE trial (
    study VARCHAR NOT NULL, run_id VARCHAR, method VARCHAR, family VARCHAR, seed BIGINT, lr DOUBLE, task VARCHAR, role VARCHAR,
    gain DOUBLE CHECK (isfinite(gain)), gain_low DOUBLE CHECK (isfinite(gain_low)), gain_high DOUBLE CHECK (isfinite(gain_high)),
    target VARCHAR, mitigation VARCHAR, average_drop DOUBLE, kl_base DOUBLE, trainable_parameters BIGINT, saved_bytes BIGINT,
    peak_memory BIGINT, seconds DOUBLE, status VARCHAR
);

CREATE VIEW runs AS
SELECT run_id, model, model_digest, engine, purpose, evidence, status, created_at, items, item_set, path FROM run;

CREATE VIEW scores AS
SELECT s.run_id, r.model, r.model_digest, s.task, s.metric, s.value, s.low, s.high, s.n, s.shots, r.engine, r.status, r.created_at
FROM score s JOIN run r USING (run_id);

-- Learning curves: the latest complete run of every checkpoint whose folder ends in its step (step-200, checkpoint_200).
CREATE VIEW curves AS
SELECT regexp_replace(model, '[-_.]?\d+/?$', '') AS training, try_cast(regexp_extract(model, '(\d+)/?$', 1) AS BIGINT) AS step,
       run_id, model, model_digest, task, metric, value, low, high, n, shots, engine, created_at
FROM scores
WHERE status = 'complete' AND value IS NOT NULL AND regexp_matches(lower(model), '(step|checkpoint|ckpt|iter|iteration|epoch)[-_.]?\d+/?$')
QUALIFY row_number() OVER (PARTITION BY model, task, metric, shots ORDER BY created_at DESC, run_id DESC) = 1;

CREATE VIEW samples AS
SELECT run_id, task, item_id, item_group, prompt, output, gold, correct, error FROM sample;

CREATE VIEW item_stats AS
SELECT run_id, task, metric, item_id, item_group, stats FROM item_stat;

-- Main metric of the latest complete release run per model and task, scored on all items without errors; no undefined score, and none
-- whose interval covers more than half of the scale.
CREATE VIEW leaderboard AS
SELECT * EXCLUDE (reason) FROM (
    SELECT r.model, r.model_digest, s.task, s.metric, s.value, s.low, s.high, s.n, s.shots, s.signature, t.fingerprint, r.engine,
           r.run_id, r.created_at, s.result, s.reason
    FROM score s
    JOIN run r USING (run_id)
    LEFT JOIN run_task t USING (run_id, task)
    WHERE s.main AND r.status = 'complete' AND coalesce(s.purpose, r.purpose) = 'release'
      AND coalesce(s.evidence, r.evidence) = 'complete' AND coalesce(t.errors, 0) = 0
    QUALIFY row_number() OVER (PARTITION BY r.model_digest, s.task ORDER BY r.created_at DESC, r.run_id DESC, s.metric) = 1
) WHERE reason IS NULL;

CREATE VIEW tuning AS
SELECT study, run_id, method, family, seed, lr, task, role, gain, gain_low, gain_high, target, mitigation, average_drop, kl_base,
       trainable_parameters, saved_bytes, peak_memory, seconds, status
FROM trial;
