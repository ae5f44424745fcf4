-- The views a query sees, over tables that exist in memory only (schema `stored`, filled by cache/sql_tables.py).
-- Above each view: what a row is, and an example. Attribute NULL is a row of its own, never "all attributes".
-- $heads stands for one (margin_k, weight_k) AS 'k' for each head of the widest score table, $margins for their margin_k,
-- $vector for FLOAT[D].

-- One preference pair: what was asked, which answer was chosen and which rejected, and who or what judged it.
-- `split` is the source's, `part` is fit, validation or test.
-- Example: SELECT attribute, part, count(*) AS n FROM pairs GROUP BY ALL ORDER BY ALL
CREATE VIEW pairs AS
SELECT data, split, part, pair_id, prompt_id, attribute, context, user, prompt, chosen, rejected, margin
FROM stored.pairs;

-- The lengths in tokens of a pair's texts under one features id; NULL where the pair did not fit the backbone.
-- Example: SELECT features, data, max(prompt_tokens) AS longest, count_if(trimmed) AS trimmed FROM token_counts GROUP BY ALL
CREATE VIEW token_counts AS
SELECT features, data, pair_id, prompt_tokens, chosen_tokens, rejected_tokens, trimmed
FROM stored.token_counts;

-- One rating of one response on one attribute, as the source gave it.
-- Example: SELECT attribute, avg(rating) AS mean, count(*) AS n FROM ratings GROUP BY ALL ORDER BY ALL
CREATE VIEW ratings AS
SELECT data, split, prompt_id, response_id, attribute, rating
FROM stored.ratings;

-- One column of one source of a split: what it was read as (prompt, chosen, rejected, response, attribute, context, user,
-- ... or ignored) and why. type is what it holds, rows how many of the source's rows have a value, in all its splits. Data
-- sets made before readings were kept have no rows here.
-- Example: SELECT source, "column", role, type, reason FROM columns WHERE role IN ('ignored', 'attribute') ORDER BY ALL
CREATE VIEW columns AS
SELECT data, split, source, "column", role, type, rows, reason
FROM stored.columns;

-- One stored vector for each role its text plays: prompt, context (a context and its prompt), context_only or
-- response; role NULL where no data set uses it. Loaded only when a query names it.
-- Example: SELECT features, role, count(*) AS n FROM embeddings GROUP BY ALL ORDER BY ALL
CREATE VIEW embeddings AS
SELECT features, lower(hex(key)) AS key, role, vector::$vector AS vector
FROM stored.vectors LEFT JOIN (SELECT DISTINCT features, key, role FROM stored.roles) USING (features, key);

-- One fitted model with every setting, the names it was given ([] without), its note and what its router reads. NLL in
-- nats per pair on validation prompts.
-- Example: SELECT run, method, k, lam, validation_nll FROM runs ORDER BY validation_nll LIMIT 10
CREATE VIEW runs AS
SELECT run, parent, method, data, features, k, lam, seed, settings, created, validation_nll,
       validation_accuracy, train_pairs, names, note, router_input
FROM stored.runs;

-- What one head of one run says of one pair: its margin (positive: chosen preferred) and its mixture weight
-- (static weights are the same for every pair, a single head's is 1).
-- Example: SELECT attribute, head, avg((margin > 0)::INT) AS accuracy FROM scores GROUP BY ALL ORDER BY ALL
CREATE VIEW scores AS
SELECT run, data, split, part, pair_id, attribute, head::INTEGER AS head, margin, weight
FROM stored.scores UNPIVOT INCLUDE NULLS ((margin, weight) FOR head IN ($heads))
-- A run with fewer heads than the widest has NULL margins there: no such head.
WHERE margin IS NOT NULL;

-- How far the heads of a run disagree on one pair: P(chosen) by the head with the highest margin less that by the head
-- with the lowest, from 0 to 1; of equal heads the first. Runs of one head have no rows.
-- Example: SELECT pair_id, attribute, spread, top_head, bottom_head FROM disagreement ORDER BY spread DESC LIMIT 10
CREATE VIEW disagreement AS
SELECT run, data, split, pair_id, attribute,
       1 / (1 + exp(-highest::DOUBLE)) - 1 / (1 + exp(-lowest::DOUBLE)) AS spread,
       (list_position(margins, highest) - 1)::INTEGER AS top_head,
       (list_position(margins, lowest) - 1)::INTEGER AS bottom_head
FROM (
    SELECT run, data, split, pair_id, attribute, margins, list_max(margins) AS highest, list_min(margins) AS lowest
    FROM (SELECT run, data, split, pair_id, attribute, [$margins] AS margins FROM stored.scores)
    WHERE list_count(margins) > 1
);

-- Accuracy of one head on one attribute; low and high bound its 95 % interval.
-- Example: SELECT attribute, head, accuracy, low, high FROM head_accuracy WHERE part = 'test' ORDER BY ALL
CREATE VIEW head_accuracy AS
SELECT run, data, split, part, attribute, head, n, accuracy, low, high
FROM stored.head_accuracy;

-- Accuracy of the heads mixed by the router's weights, on one attribute, with its 95 % interval.
-- Example: SELECT run, attribute, accuracy, low, high FROM mixture_accuracy WHERE part = 'test' ORDER BY ALL
CREATE VIEW mixture_accuracy AS
SELECT run, data, split, part, attribute, n, accuracy, low, high
FROM stored.mixture_accuracy;

-- The best head for an attribute, chosen on validation prompts or, as an upper bound, by the oracle.
-- Example: SELECT run, attribute, head, accuracy FROM best_head WHERE chosen_on = 'validation' ORDER BY ALL
CREATE VIEW best_head AS
SELECT run, data, split, attribute, chosen_on, head, n, accuracy, low, high
FROM stored.best_head;

-- The router's mean weight for one head over an attribute's pairs, and the mean entropy of its weights (nats).
-- Example: SELECT attribute, head, mean_weight FROM router_weights WHERE part = 'test' ORDER BY ALL
CREATE VIEW router_weights AS
SELECT run, data, split, part, attribute, head, mean_weight, mean_entropy
FROM stored.router_weights;

-- Pairs whose likelier response was predicted with nearly the same probability (scaled as the run's): its mean, and the
-- share of pairs in which that response was chosen (ties count one half), with its 95 % interval. bin 0 begins at .5, 9
-- at .95; bins without pairs have no rows.
-- Example: SELECT attribute, bin, n, mean_probability, accuracy, low, high FROM calibration ORDER BY ALL
CREATE VIEW calibration AS
SELECT run, data, split, attribute, bin, n, mean_probability, accuracy, low, high
FROM stored.calibration;

-- How a head's margins go with the difference of a plain feature of the two texts (length, lists, hedging, ...), over
-- the n pairs that differ in it: correlation with its 95 % interval, p_value of none, and what is left of it once length
-- is taken out. NULL where fewer than 30 pairs or 10 prompts differ. Positive: the head rewards more of it.
-- Example: SELECT head, feature, n, correlation, low, high FROM head_profile ORDER BY head, abs(correlation) DESC
CREATE VIEW head_profile AS
SELECT run, data, split, head, feature, n, correlation, low, high, p_value, given_length
FROM stored.head_profile;

-- How alike the margins of two heads of a run are: correlation over n pairs, 1 where they order all alike, -1 opposite.
-- Example: SELECT run, head, other, correlation FROM head_correlation WHERE head < other ORDER BY correlation DESC
CREATE VIEW head_correlation AS
SELECT run, data, split, head, other, n, correlation
FROM stored.head_correlation;

-- What a run is worth over an evaluated single reward (reference): its accuracy less that of the reference on the n pairs
-- that both have scores for, with the 95 % interval of the paired difference.
-- Example: SELECT run, reference, attribute, n, difference, low, high FROM mixture_vs_single ORDER BY ALL
CREATE VIEW mixture_vs_single AS
SELECT run, reference, data, split, attribute, n, difference, low, high
FROM stored.mixture_vs_single
-- The evaluation of either run may have written a row.
QUALIFY row_number() OVER (PARTITION BY run, reference, data, split, attribute ORDER BY n DESC, difference) = 1;

-- One wording of a context on one attribute, with the pairs that have it; in_train: whether the train split has it too.
-- Example: SELECT split, in_train, count(DISTINCT context) AS contexts, sum(pairs) AS pairs FROM wordings GROUP BY ALL
CREATE VIEW wordings AS
SELECT data, split, attribute, context, count(*) AS pairs, coalesce(any_value(seen), false) AS in_train
FROM stored.pairs
LEFT JOIN (SELECT DISTINCT data, context, true AS seen FROM stored.pairs WHERE split = 'train') USING (data, context)
WHERE context IS NOT NULL
GROUP BY data, split, attribute, context;

-- One person, and how many pairs, distinct prompts, contexts and attributes they judged; user NULL: pairs that name nobody.
-- Example: SELECT user, pairs, prompts, attributes FROM users ORDER BY pairs DESC LIMIT 10
CREATE VIEW users AS
SELECT data, split, user, count(*) AS pairs, count(DISTINCT prompt_id) AS prompts,
       count(DISTINCT context) AS contexts, count(DISTINCT attribute) AS attributes
FROM stored.pairs
GROUP BY data, split, user;

-- The mean weight of one head over the scored pairs of one wording of a context; context NULL: pairs without one.
-- Example: SELECT context, head, n, mean_weight FROM context_weights WHERE part = 'test' ORDER BY ALL
CREATE VIEW context_weights AS
SELECT run, data, split, part, context, attribute, head, count(*) AS n, avg(weight) AS mean_weight
FROM (
    SELECT run, data, split, part, pair_id, attribute, head::INTEGER AS head, weight
    FROM stored.scores UNPIVOT INCLUDE NULLS ((margin, weight) FOR head IN ($heads))
    WHERE margin IS NOT NULL
)
JOIN (SELECT data, split, pair_id, context FROM stored.pairs) USING (data, split, pair_id)
GROUP BY run, data, split, part, context, attribute, head;

-- Accuracy on one attribute after the router was re-fitted on a budget of so many pairs of each attribute, with its 95 %
-- interval; budget 0 is the run as it was. The same pairs are scored for every size. tau is Hedge's temperature, NULL
-- where the router was left as it was.
-- Example: SELECT budget, tau, avg(accuracy) AS accuracy FROM budget_curve GROUP BY run, budget, tau ORDER BY run, budget
CREATE VIEW budget_curve AS
SELECT run, parent, data, split, seed, budget, tau, attribute, n, accuracy, low, high
FROM stored.budget_curve;

-- How well a run's heads predict people (users, attributes or contexts) once weighted for each by a few of their choices:
-- accuracy, NLL (nats per pair), overconfidence (mean probability of the likelier response less accuracy) and gain in
-- accuracy over no choices (shots 0), with 95 % intervals over users and prompts. The same pairs are scored for every
-- number of shots.
-- Example: SELECT method, shots, groups, accuracy, gain, gain_low, gain_high FROM adaptation ORDER BY run, shots
CREATE VIEW adaptation AS
SELECT run, parent, data, split, grouped_by, method, shots, groups, n, accuracy, low, high, nll, nll_low, nll_high,
       overconfidence, overconfidence_low, overconfidence_high, gain, gain_low, gain_high
FROM stored.adaptation;

-- One group's choices replayed in order by one forecaster: its summed loss (`router`, which learns nothing, log-loss and
-- fixed-share: nats; linear: 1 - P of the choice), that of the head best in hindsight, and the bound on their difference.
-- Where switches is above 0, best is the sequence of heads that changes so often at most, best_head its last.
-- Example: SELECT forecaster, count(*) AS groups, sum(regret) AS regret, sum(bound) AS bound FROM regret GROUP BY ALL
CREATE VIEW regret AS
SELECT run, data, grouped_by, group_name, forecaster, rounds, accuracy, nll, loss, best_head, best_head_loss, regret,
       switches, bound
FROM stored.regret;

-- The mean regret of one forecaster after so many rounds, over the groups that had as many, its standard error over these
-- (NULL for one) and the mean bound on it (NULL where there is none).
-- Example: SELECT forecaster, round, groups, regret, bound FROM regret_by_round WHERE round <= 5 ORDER BY ALL
CREATE VIEW regret_by_round AS
SELECT run, data, grouped_by, forecaster, round, groups, regret, regret_se, bound
FROM stored.regret_by_round;

-- One row for each run, and one for each setting of a sweep; sweep is NULL for a run of its own. restarts_agreeing is
-- the share of the other seeds whose favourite heads are those of the best seed, NULL where there are none.
-- test_accuracy is that of the mixture on the test split, which nothing is chosen by, with its 95 % interval for settings
-- of a sweep; of a run it is what `eval` found.
-- Example: SELECT * FROM leaderboard ORDER BY validation_nll LIMIT 10
CREATE VIEW leaderboard AS
SELECT run, sweep, method, data, features, k, lam, seed, validation_nll, validation_nll_se,
       validation_accuracy, validation_nll_known, validation_accuracy_known, test_accuracy, test_low, test_high,
       effective_heads, restarts_agreeing
FROM stored.runs
UNION ALL BY NAME
SELECT * FROM stored.sweep_settings;

-- One epoch of the fit of a run, or of a setting of a sweep (sweep is NULL for a run of its own): NLLs in nats per pair,
-- train_nll while the weights moved, the others after the epoch. Where parent is named it is a router that was re-fitted
-- on a budget of that run: epoch 0 is before it, train_nll is of the budget. A single reward has a step of its path of
-- penalties as its epoch.
-- Example: SELECT k, epoch, avg(validation_nll) AS nll FROM history WHERE sweep IS NOT NULL GROUP BY ALL ORDER BY ALL
CREATE VIEW history AS
SELECT run, sweep, parent, method, data, k, lam, seed, epoch, train_nll, validation_nll, validation_accuracy,
       test_accuracy
FROM stored.history;
