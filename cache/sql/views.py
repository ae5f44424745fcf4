"""What a query sees: the views of views.sql over stored tables with these columns.

K heads of the widest score table, D width of the vectors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

import duckdb
import pyarrow as pa

VIEWS_FILE = Path(__file__).with_name("views.sql")
VIEW = re.compile(r"((?:^-- .*\n)+)CREATE VIEW (\w+) AS\n([^;]*);", re.MULTILINE)

_INTERVAL = "n BIGINT, accuracy DOUBLE, low DOUBLE, high DOUBLE"
_PLACE = "run VARCHAR, data VARCHAR, split VARCHAR"
_EVALUATED = f"{_PLACE}, part VARCHAR, attribute VARCHAR"
_SETTING = (
    "run VARCHAR, sweep VARCHAR, method VARCHAR, data VARCHAR, features VARCHAR, k INTEGER, lam DOUBLE, seed BIGINT"
)
_FIGURES = (
    "validation_nll DOUBLE, validation_nll_se DOUBLE, validation_accuracy DOUBLE, validation_nll_known DOUBLE, "
    "validation_accuracy_known DOUBLE, test_accuracy DOUBLE, test_low DOUBLE, test_high DOUBLE, "
    "effective_heads DOUBLE, restarts_agreeing DOUBLE"
)
COLUMNS = {
    "pairs": "data VARCHAR, split VARCHAR, part VARCHAR, pair_id VARCHAR, prompt_id VARCHAR, attribute VARCHAR, "
    "context VARCHAR, user VARCHAR, prompt VARCHAR, chosen VARCHAR, rejected VARCHAR, margin DOUBLE",
    "token_counts": "features VARCHAR, data VARCHAR, pair_id VARCHAR, prompt_tokens INTEGER, chosen_tokens INTEGER, "
    "rejected_tokens INTEGER, trimmed BOOLEAN",
    "ratings": "data VARCHAR, split VARCHAR, prompt_id VARCHAR, response_id VARCHAR, attribute VARCHAR, rating DOUBLE",
    "columns": "data VARCHAR, split VARCHAR, source VARCHAR, column VARCHAR, role VARCHAR, type VARCHAR, rows BIGINT, "
    "reason VARCHAR",
    # A list: NULL in a column of type FLOAT[D] would take as much memory as a vector.
    "vectors": "features VARCHAR, key BLOB, vector FLOAT[]",
    "roles": "features VARCHAR, key BLOB, role VARCHAR",
    "runs": f"{_SETTING}, {_FIGURES}, parent VARCHAR, settings JSON, created TIMESTAMP, train_pairs BIGINT, "
    "names VARCHAR[], note VARCHAR, router_input VARCHAR",
    "sweep_settings": f"{_SETTING}, {_FIGURES}",
    "history": "run VARCHAR, sweep VARCHAR, parent VARCHAR, method VARCHAR, data VARCHAR, k INTEGER, lam DOUBLE, "
    "seed BIGINT, epoch BIGINT, train_nll DOUBLE, validation_nll DOUBLE, validation_accuracy DOUBLE, "
    "test_accuracy DOUBLE",
    "scores": "run VARCHAR, data VARCHAR, split VARCHAR, part VARCHAR, pair_id VARCHAR, attribute VARCHAR, $scores",
    "head_accuracy": f"{_EVALUATED}, head INTEGER, {_INTERVAL}",
    "mixture_accuracy": f"{_EVALUATED}, {_INTERVAL}",
    "best_head": "run VARCHAR, data VARCHAR, split VARCHAR, attribute VARCHAR, chosen_on VARCHAR, head INTEGER, "
    f"{_INTERVAL}",
    "router_weights": f"{_EVALUATED}, head INTEGER, mean_weight DOUBLE, mean_entropy DOUBLE",
    "calibration": f"{_PLACE}, attribute VARCHAR, bin INTEGER, n BIGINT, mean_probability DOUBLE, accuracy DOUBLE, "
    "low DOUBLE, high DOUBLE",
    "head_profile": f"{_PLACE}, head INTEGER, feature VARCHAR, n BIGINT, correlation DOUBLE, low DOUBLE, high DOUBLE, "
    "p_value DOUBLE, given_length DOUBLE",
    "head_correlation": f"{_PLACE}, head INTEGER, other INTEGER, n BIGINT, correlation DOUBLE",
    "mixture_vs_single": f"{_PLACE}, reference VARCHAR, attribute VARCHAR, n BIGINT, difference DOUBLE, low DOUBLE, "
    "high DOUBLE",
    "budget_curve": "run VARCHAR, parent VARCHAR, data VARCHAR, split VARCHAR, seed BIGINT, budget BIGINT, tau DOUBLE, "
    f"attribute VARCHAR, {_INTERVAL}",
    "adaptation": "run VARCHAR, parent VARCHAR, data VARCHAR, split VARCHAR, grouped_by VARCHAR, method VARCHAR, "
    f"shots BIGINT, groups BIGINT, {_INTERVAL}, nll DOUBLE, nll_low DOUBLE, nll_high DOUBLE, "
    "overconfidence DOUBLE, overconfidence_low DOUBLE, overconfidence_high DOUBLE, gain DOUBLE, gain_low DOUBLE, "
    "gain_high DOUBLE",
    "regret": "run VARCHAR, data VARCHAR, grouped_by VARCHAR, group_name VARCHAR, forecaster VARCHAR, rounds BIGINT, "
    "accuracy DOUBLE, nll DOUBLE, loss DOUBLE, best_head INTEGER, best_head_loss DOUBLE, regret DOUBLE, "
    "switches BIGINT, bound DOUBLE",
    "regret_by_round": "run VARCHAR, data VARCHAR, grouped_by VARCHAR, forecaster VARCHAR, round BIGINT, "
    "groups BIGINT, regret DOUBLE, regret_se DOUBLE, bound DOUBLE",
}


COMPUTED = {
    "disagreement": frozenset({"run", "data", "split", "pair_id", "attribute", "margin"}),
    "wordings": frozenset({"data", "split", "attribute", "context"}),
    "mixture_vs_single": frozenset(
        {"run", "reference", "data", "split", "attribute", "n", "difference", "low", "high"}
    ),
    "users": frozenset({"data", "split", "user", "prompt_id", "context", "attribute"}),
    "context_weights": frozenset(
        {"run", "data", "split", "part", "pair_id", "context", "attribute", "head", "margin", "weight"}
    ),
}
"""Views whose columns are computed, and the stored columns they read whichever of theirs a query names."""


@dataclass(frozen=True)
class View:
    """One view as views.sql defines it."""

    name: str
    comment: str
    """The lines above it: what a row is, and an example."""
    body: str

    @property
    def tables(self) -> frozenset[str]:
        """Return the stored tables it reads."""
        return frozenset(re.findall(r"\bstored\.(\w+)", self.body))


def read_views() -> list[View]:
    """Return the views in the order of views.sql."""
    text = VIEWS_FILE.read_text(encoding="utf-8")
    return [View(name, comment, body) for comment, name, body in VIEW.findall(text)]


def create_views(
    connection: duckdb.DuckDBPyConnection, heads: int, vector: str, vectors: pa.Table | None = None
) -> None:
    """Create every stored table, empty, and the views over them, for K = `heads` and a vector of a SQL type.

    `vectors` (features, key, vector) are scanned where they lie: copying them into DuckDB takes seconds per GB.
    """
    heads = max(heads, 1)
    scores = ", ".join(f"margin_{k} FLOAT, weight_{k} FLOAT" for k in range(heads))
    connection.execute("CREATE SCHEMA stored")
    for name, columns in COLUMNS.items():
        if name == "vectors" and vectors is not None:
            # No plain identifier: a user's own table may have any of those.
            connection.register("vector rows", vectors)
            connection.execute('CREATE VIEW stored.vectors AS FROM "vector rows"')
        else:
            typed = Template(columns).substitute(scores=scores).replace("column VARCHAR", '"column" VARCHAR')
            connection.execute(f"CREATE TABLE stored.{name} ({typed})")
    pairs = ", ".join(f"(margin_{k}, weight_{k}) AS '{k}'" for k in range(heads))
    margins = ", ".join(f"margin_{k}" for k in range(heads))
    for view in read_views():
        body = Template(view.body).substitute(heads=pairs, margins=margins, vector=vector)
        connection.execute(f"CREATE VIEW {view.name} AS {body}")


def column_names(table: str) -> tuple[str, ...]:
    """Return the names of a stored table's columns; those that depend on K are not among them."""
    return tuple(column.split()[0] for column in COLUMNS[table].split(", ") if not column.startswith("$"))
