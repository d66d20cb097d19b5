"""Write the golden values anew: python tests/golden/make.py [CASE ...], for example bert/fibecfed; all without any.

Says which values moved; the commit that changes them says why.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.cases import CASES
from golden.pinning import commit, committed, differences, measure


def main(wanted: list[str]) -> None:
    """Run the wanted cases and commit their values to files."""
    unknown = sorted(set(wanted) - {case.id for case in CASES})
    if unknown:
        sys.exit(f"No such case: {', '.join(unknown)}. Known: {', '.join(case.id for case in CASES)}.")
    for case in CASES:
        if wanted and case.id not in wanted:
            continue
        values = measure(case)
        moved = differences(committed(case)[1], values, exact=True) if case.file.is_file() else ["all of it is new"]
        print(case.id, *(moved or ["as before"]), sep="\n  ")
        commit(case, values)


if __name__ == "__main__":
    main(sys.argv[1:])
