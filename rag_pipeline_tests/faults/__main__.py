"""The fault run: whole lives of an index, killed at every step and at random moments, the server stopped too.

    python -m rag_pipeline_tests.faults [--kills 100] [--stops 30] [--commands 10] [--seed N] [--minutes M]

Every life must come to the end of an undisturbed one. Exit code 1 where a promise is broken; the state is kept then.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from rag_pipeline_tests.faults.driver import BreachError
from rag_pipeline_tests.faults.run import FaultRun, Wanted


def main() -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # a killed process leaves its semaphores to Python's tracker, which says so at the end
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    parser = argparse.ArgumentParser(prog="python -m rag_pipeline_tests.faults", description=__doc__)
    times = int(os.environ.get("RAG_FAULTS", "1"))
    parser.add_argument("--kills", type=int, default=100 * times, help="of a worker, at random moments")
    parser.add_argument("--stops", type=int, default=30 * times, help="of PostgreSQL, immediate, at random moments")
    parser.add_argument("--commands", type=int, default=10 * times, help="kills of real commands")
    parser.add_argument("--no-steps", action="store_true", help="leave out the kills at every named step")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("RAG_FAULT_SEED", "0")), help="0: by chance")
    parser.add_argument("--minutes", type=float, default=60 * times, help="begin no life after so long")
    parser.add_argument("--folder", type=Path, help="where the databases are; default: a temporary folder")
    given = parser.parse_args()
    seed = given.seed or random.SystemRandom().randrange(1, 10**6)
    folder = Path(tempfile.mkdtemp(prefix="rag_faults_", dir=given.folder))
    wanted = Wanted(not given.no_steps, given.kills, given.stops, given.commands)
    replay = f"python -m rag_pipeline_tests.faults --seed {seed} {wanted.describe()}"
    print(f"seed {seed}; the same plan again: {replay}", flush=True)
    run = FaultRun(folder, seed, wanted, time.monotonic() + 60 * given.minutes, lambda text: print(text, flush=True))
    code = 0
    try:
        run.go()
    except BreachError as error:
        print(f"\nBREACH: {error}", file=sys.stderr, flush=True)
        code = 1
    print(run.report())
    if run.unspent:
        print(f"NOT DONE in the time given: {run.unspent}", file=sys.stderr)
        code = 1
    print(f"seed {seed}; the same plan again: {replay}")
    if code == 0:
        run.clean()
    return code


if __name__ == "__main__":
    sys.exit(main())
