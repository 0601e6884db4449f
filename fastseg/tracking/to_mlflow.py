"""MLflow: a run in the file store FOLDER/mlflow, or where MLFLOW_TRACKING_URI says.

The file store needs mlflow-skinny alone. MLflow's own default, an SQLite file, needs SQLAlchemy and
Alembic, and took 15 s to create.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from filelock import FileLock

from .base import Row, Run, State, Tracker
from .figures import printable_name

STATES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
MOST_METRICS, MOST_PARAMS, LONGEST = 1000, 100, 6000  # of one request; characters of a setting

# MLflow tries for minutes to reach a server. At the start, a person waits: 6 s if it refuses
# connections, 16 s if it says nothing.
AT_START = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "4"}


class MLflow(Tracker):
    """A run by MLflow's client, which has no global state."""

    def __init__(self, run: Run):
        super().__init__(run)
        # MLflow sends usage data unless it is told not to. It reads this when it is imported.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.tracking import MlflowClient

        self.client_class = MlflowClient
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or ""

    def start(self) -> str:
        with _set_unless_given(AT_START):
            return self._started()

    def _started(self) -> str:
        from mlflow.entities import Param

        local = self.run.folder / "mlflow"
        if self.uri:
            # It warns of each attempt to reach the server; the last one is told by `Reporting`.
            logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
            self.client = self.client_class(tracking_uri=self.uri)
        else:  # since 3.10, MLflow refuses file stores that are not asked for
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            self.client = self.client_class(tracking_uri=local.as_uri())
        if self.run.id:
            self.id = self.client.get_run(self.run.id).info.run_id
            self.client.update_run(self.id, status="RUNNING")
            return self.id
        if self.uri:
            experiment = self._experiment()
        else:
            local.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(local.with_name(".mlflow.lock")):  # runs of a study, side by side
                experiment = self._experiment()
        tags = {"group": self.run.group} if self.run.group else {}
        made = self.client.create_run(experiment, run_name=self.run.name, tags=tags)
        self.id = made.info.run_id
        params = iter(
            [
                Param(printable_name(name), str(value)[:LONGEST])
                for name, value in self.run.config.items()
            ]
        )
        while part := list(islice(params, MOST_PARAMS)):
            self.client.log_batch(self.id, params=part)
        return self.id

    def _experiment(self) -> str:
        """Return the id of the experiment, which is created if there is none of its name."""
        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.run.project
        found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self.client.create_experiment(name))

    @property
    def place(self) -> str:
        if self.uri:
            return self.uri
        folder = self.run.folder / "mlflow"
        look = f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {folder}"
        return f"{folder}; look: {look}"

    def log(self, rows: Sequence[Row]) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        found = iter(
            [
                Metric(
                    printable_name(name), value, now, row.step if row.epoch is None else row.epoch
                )
                for row in rows
                for name, value in row.values.items()
            ]
        )
        while part := list(islice(found, MOST_METRICS)):
            self.client.log_batch(self.id, metrics=part)

    def summarise(self, values: Mapping[str, float], step: int) -> None:
        self.log([Row(values, step)])

    def show(self, name: str, picture: Path, step: int) -> None:
        self.client.log_artifact(self.id, str(picture))

    def keep(self, name: str, files: Sequence[Path]) -> None:
        for file in files:
            self.client.log_artifact(self.id, str(file), "export")

    def finish(self, state: State) -> None:
        self.client.set_terminated(self.id, STATES[state])


@contextmanager
def _set_unless_given(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that are not set, in a block."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
