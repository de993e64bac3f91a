"""`python -m deploy.local.flink`: starts Flink and Beam's job server, and says how a job is submitted to them."""

from __future__ import annotations

import sys

from deploy.local.flink.cluster import FlinkCluster, beam_options
from deploy.local.state import claim, default_state_dir
from schemas.errors import LocalStackError


def main() -> int:
    """Starts the cluster of the default state folder; `tidegauge down` stops it."""
    try:
        running = FlinkCluster(claim(default_state_dir())).start(report=lambda line: print(line, file=sys.stderr))
    except LocalStackError as exc:
        print(f"tidegauge: {exc}", file=sys.stderr)
        return exc.exit_code
    print("Flink runs; tidegauge down stops it. Submit a job with\n")
    print(f"  tidegauge ingest --spec ... --input ... --output ... -- {' '.join(beam_options(running))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
