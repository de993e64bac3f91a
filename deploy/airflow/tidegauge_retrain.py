"""Airflow DAGs of one stream (Airflow 3): retraining on a schedule, and the probation of what it promotes.

Put this file into the DAGs folder and set the environment of the workers:

    TIDEGAUGE_SPEC           the stream's spec; /etc/tidegauge/spec.yaml when left out
    TIDEGAUGE_RETRAIN_CRON   when to retrain (UTC); each Monday at 03:00 when left out
    TIDEGAUGE                how the command is called there; tidegauge when left out

A run retrains as of its own time, so one that is made up for, or done again, is of the interval that it stands for; an
interval that is done already does nothing. A task is skipped where there was nothing to do, where the candidate was
refused (the champion goes on serving; the log and the run card say why) and while a probation is not decided.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

TIDEGAUGE = os.environ.get("TIDEGAUGE", "tidegauge")
SPEC = os.environ.get("TIDEGAUGE_SPEC", "/etc/tidegauge/spec.yaml")
CRON = os.environ.get("TIDEGAUGE_RETRAIN_CRON", "0 3 * * 1")

NOTHING_TO_DO, REFUSED, UNDECIDED = 3, 4, 5
BEGINNING = datetime.fromisoformat("2025-01-01T00:00:00+00:00")

with DAG(
    "tidegauge_retrain",
    description="Retrain, gate and push the next version of a stream's model.",
    schedule=CRON,
    start_date=BEGINNING,
    catchup=False,
    max_active_runs=1,
    tags=["tidegauge"],
):
    BashOperator(
        task_id="retrain",
        bash_command=f"exec {TIDEGAUGE} retrain --spec {SPEC} --as-of '{{{{ dag_run.run_after.isoformat() }}}}'",
        skip_on_exit_code=[NOTHING_TO_DO, REFUSED],
        retries=2,  # also where another run of the stream is under way
        retry_delay=timedelta(minutes=10),
        execution_timeout=timedelta(hours=12),
    )

with DAG(
    "tidegauge_probation",
    description="Hold a new version against the one before it, and take it back if it is worse.",
    schedule="*/5 * * * *",
    start_date=BEGINNING,
    catchup=False,
    max_active_runs=1,
    tags=["tidegauge"],
):
    BashOperator(
        task_id="probation",
        bash_command=f"exec {TIDEGAUGE} probation --spec {SPEC}",
        skip_on_exit_code=[NOTHING_TO_DO, UNDECIDED],
        execution_timeout=timedelta(minutes=30),
    )
