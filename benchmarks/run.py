"""`make bench`: measures every piece anew, under ten minutes on two quiet cores; notebook 51 shows it."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from freelib.run import RecordStore
from studies.benchmark import SMALL, Size, benchmark_records

HERE = Path(__file__).parent


def main() -> None:
    """Measures, writes the records in the place of those that are there, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="cpu", help="smoke: a few seconds of work; others: full size")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results")
    options = parser.parse_args()
    size = SMALL if options.profile == "smoke" else Size()
    store = RecordStore(options.results / options.profile / "records")
    with tempfile.TemporaryDirectory() as folder:
        records = benchmark_records(size, HERE / "reference.py", folder, options.profile)
    for record in records:
        store.put(record)
        found = record["extra"]
        if found["piece"] == "round":
            print(f"a round, pool of {found['members']}: {found['seconds']:.2f} s")
            continue
        ours, plain, ratio = (found[name]["median"] for name in ("seconds", "reference_seconds", "ratio"))
        print(f"{found['piece']}, {record['precision']}: {ours:.4f} s, plain {plain:.4f} s, {ratio:.1f} times")


if __name__ == "__main__":
    main()
