"""`make bench`: measures every piece anew and prints the table; under ten minutes on two quiet cores."""

from __future__ import annotations

import argparse
from pathlib import Path

from freelib.experiments import compiled, performance

HERE = Path(__file__).parent


def main() -> None:
    """Measure, write the records, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="cpu", help="smoke: a few seconds of work; others: full size")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results")
    parser.add_argument("--compiled", action="store_true", help="torch.compile instead; wants a C++ compiler")
    options = parser.parse_args()
    if options.compiled:
        found = compiled.run(options.profile, results=options.results, again=True)
        print(compiled.table(found, f"Compiled, profile {options.profile}."))
        print(compiled.sentence(found))
        return
    records = performance.run(options.profile, results=options.results, reference=HERE / "reference.py", again=True)
    table = performance.rows(records)
    print(performance.speed_table(table, f"Benchmark, profile {options.profile}."))
    print(performance.pool_table(records, "A round by the size of the pool."))
    print(performance.reached(table))


if __name__ == "__main__":
    main()
