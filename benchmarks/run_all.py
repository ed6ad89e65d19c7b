"""Every benchmark, each in a process of its own, into one table: `make bench` runs the short forms.

Writes results/report.md, results/report.json and one PNG per curve. Exits 0 although goals may be missed, and
lists those; --strict exits 1. A benchmark that breaks is reported, the others still run, and the exit code is 1.

    python -m benchmarks.run_all
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reporting import Report, format_report, plot_curves, read_report

SCRIPTS = ("chunk_reuse", "embedding", "ingest", "load_build", "search", "retrieval", "swap")
RESULTS = Path(__file__).parent / "results"


def run_script(name: str, flags: Sequence[str]) -> Report | str:
    """The report of one benchmark, or why there is none."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *flags]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    # 1 with a report: a goal was missed; a crash prints none
    if finished.returncode not in (0, 1) or not finished.stdout.strip():
        return f"{name} failed with exit code {finished.returncode}:\n{finished.stderr[-2000:]}"
    return read_report(json.loads(finished.stdout))


def summarise(reports: Sequence[Report], broken: Sequence[str]) -> str:
    """All tables in one document, what was missed first."""
    missed = [f"- {report.name}: {what}" for report in reports for what in report.missed]
    judged = sum(figure.met is not None for report in reports for figure in report.figures)
    lines = ["# Benchmarks", "", f"{judged - len(missed)} of {judged} goals met."]
    lines += ["", "Missed:", *missed] if missed else []
    lines += ["", "Broken:", *(f"- {reason.splitlines()[0]}" for reason in broken)] if broken else []
    return "\n".join([*lines, "", *map(format_report, reports)])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the full forms, up to an hour, instead of the short ones")
    parser.add_argument("--only", action="append", choices=SCRIPTS, help="these alone; may be repeated")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a goal was missed")
    options = parser.parse_args(arguments)
    reports: list[Report] = []
    broken: list[str] = []
    for name in options.only or SCRIPTS:
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        began = time.monotonic()
        outcome = run_script(name, [] if options.full else ["--short"])
        print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
        if isinstance(outcome, str):
            broken.append(outcome)
            print(outcome, file=sys.stderr)
        else:
            reports.append(outcome)
    options.results.mkdir(parents=True, exist_ok=True)
    summary = summarise(reports, broken)
    (options.results / "report.md").write_text(summary, encoding="utf-8")
    (options.results / "report.json").write_text(
        json.dumps({"reports": [report.to_json() for report in reports], "broken": broken}, indent=1), encoding="utf-8"
    )
    for report in reports:
        plot_curves(report.curves, options.results, report.name)
    print(summary)
    print(f"written to {options.results}", file=sys.stderr)
    return 1 if broken or (options.strict and any(report.missed for report in reports)) else 0


if __name__ == "__main__":
    sys.exit(main())
