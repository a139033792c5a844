"""python -m hypert5_jax.report --results=DIR,DIR --output=DIR: ours beside the paper's.

Reads whatever `evaluate` and `tune` have written in the folders and below them, and
writes report.md, report.html and the figures. Empty cells name the command that fills
them, so a report of no results is the list of all commands; see docs/report.md.
"""

from collections.abc import Sequence

from hypert5_jax.config import cli
from hypert5_jax.core.errors import UserError
from hypert5_jax.reporting import claims_section, paper_report
from hypert5_jax.reporting.book import numbers_of
from hypert5_jax.reporting.judgement import UNKNOWN, judge
from hypert5_jax.reporting.paper.claims import CLAIMS
from hypert5_jax.reporting.paper.tables import TABLES
from hypert5_jax.reporting.result_files import read


def main(argv: Sequence[str]) -> None:
    """Runs the front door.

    Raises:
      UserError: a mistake of the user's.
    """
    parser = cli.command_line("report", __doc__)
    parser.add_argument(
        "--results",
        default="",
        metavar="DIR,DIR",
        help="folders that evaluate and tune wrote to, or folders above them",
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="where the report goes"
    )
    args = parser.parse_args(argv)
    if not args.output:
        raise UserError("--output is empty; expected a folder for the report")
    results, sweeps = read([folder for folder in args.results.split(",") if folder])
    numbers = numbers_of(results, sweeps)
    files = paper_report.write(paper_report.compose(numbers), args.output)

    book = numbers.book
    for claim in CLAIMS:
        for table in claims_section.places(claim, numbers):
            verdict = judge(claim, table, book)
            if verdict.outcome != UNKNOWN:
                said = claims_section.verdict_text(verdict)
                print(f"{claim.text}, {TABLES[table].label}: {said}")
    for reason in numbers.apart:
        print(f"in no table: {reason}")
    print(f"done: {', '.join(map(str, files))}")


if __name__ == "__main__":
    cli.run(main, only_prints=True)
