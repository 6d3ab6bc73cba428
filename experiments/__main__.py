"""Command line: ``python -m experiments demo | main | controls | baselines | meta | report | readme``."""

import os
import sys

# Threads of OpenMP that wait by spinning slow boosted trees tenfold on a busy machine; this must be said
# before the first library that brings OpenMP is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if set(sys.argv[1:2]) & {
    "lsttm_table",
    "simulator_effects",
    "userbert_tables",
    "lurm_tables",
    "meta_profile_tables",
    "dupn_tables",
    "encoders_table",
    "frozen_users",
}:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # its jobs have one thread each

TABLES = {
    "main": "The main table: five test days, three seeds",
    "controls": "Ablations and a negative control: the last test day, one seed",
    "baselines": "Baselines without a graph: the last test day, one seed",
}
USAGE = """usage: python -m experiments COMMAND [OPTIONS]

  demo     the last test day of KuaiRand-Pure, one seed
  main     five test days, three seeds
  controls LSTTM without some of its parts, in the paper's form, and on shuffled times
  baselines the paper's baselines beside DeepFM and boosted trees: the last test day, one seed
  meta     LSTTM and DeepFM with and without temporal MAML: the last test day, one seed
  lsttm_table LSTTM, its baselines and ablations with a search for each; goes on where it stopped
  userbert_tables UserBERT and its baselines on users' tasks; goes on where it stopped
  meta_profile_tables few-shot profiles: unseen targets, masked labels, imbalance; goes on where it stopped
  dupn_tables DUPN and its baselines: tasks alone and together, transfer, new days; goes on where it stopped
  encoders_table LSTTM with each user encoder among its features, three ways; goes on where it stopped
  frozen_users the four encoders as frozen representations on the same tasks; goes on where it stopped
  lurm_tables LURM and its baselines by frozen representations of whole lives; goes on where it stopped
  simulator_effects what each part of LSTTM brings on simulated data; goes on where it stopped
  report   the page of a table that has been run: --table NAME
  readme   put the tables into README.md and docs
  daily_job train on all before a day and write the folder that graphrec.serving opens

Add --help to a command for its options; --resume goes on after a kill."""


def main(arguments: list[str]) -> int:
    """Run a command and return the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    command, rest = arguments[0], arguments[1:]
    from pathlib import Path

    import tyro

    from experiments import config
    from experiments.main_job import RESULTS, run_main
    from experiments.report import build_report, print_report

    if command == "report":

        def report(table: str = "main") -> None:
            """Make the page of a table from its result files."""
            own = Path("runs") / table / "results"
            results = own if (own / f"{table}.jsonl").exists() else RESULTS
            paths = build_report(results, table, Path("runs") / table / "report")
            print_report(results, table)
            print(f"\nPage: {paths.html.resolve()}")

        tyro.cli(report, args=rest)
        return 0
    if command == "daily_job":
        from experiments.daily_job import main as daily_job

        return daily_job(rest)
    if command == "simulator_effects":
        from experiments.effects_report import main as simulator_effects

        return simulator_effects(rest)
    if command == "userbert_tables":
        from experiments.userbert_tables import main as userbert_tables

        return userbert_tables(rest)
    if command == "meta_profile_tables":
        from experiments.meta_profile_tables import main as meta_profile_tables

        return meta_profile_tables(rest)
    if command == "lurm_tables":
        from experiments.lurm_tables import main as lurm_tables

        return lurm_tables(rest)
    if command == "dupn_tables":
        from experiments.dupn_tables import main as dupn_tables

        return dupn_tables(rest)
    if command == "encoders_table":
        from experiments.encoders_table import main as encoders_table

        return encoders_table(rest)
    if command == "frozen_users":
        from experiments.frozen_users import main as frozen_users

        return frozen_users(rest)
    if command == "readme":
        from experiments.dupn_report import update_dupn_page
        from experiments.encoders_report import update_encoders_page
        from experiments.lurm_report import update_lurm_page
        from experiments.meta_profile_report import update_meta_profile_page
        from experiments.readme import update_pages
        from experiments.userbert_report import update_userbert_page

        update_pages(Path(), RESULTS, TABLES)
        update_userbert_page(RESULTS, Path("docs/userbert.md"))
        update_dupn_page(RESULTS, Path("docs/dupn.md"))
        update_encoders_page(RESULTS, Path("docs/encoders_table.md"))
        update_lurm_page(RESULTS, Path("docs/lurm.md"))
        update_meta_profile_page(RESULTS, Path("docs/meta_profile.md"))
        return 0
    if command == "lsttm_table":
        return _lsttm_table(rest)
    named = {
        "demo": config.demo,
        "main": config.MainConfig,
        "controls": config.controls,
        "baselines": config.baselines,
        "meta": config.meta,
    }
    if command not in named:
        print(f"no command {command!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    flags = {"--resume", "--fresh"} & set(rest)
    try:
        chosen = tyro.cli(
            config.MainConfig,
            default=named[command](),
            args=[argument for argument in rest if argument not in flags],
            description="Besides the options below: --resume keeps what an earlier run has finished and "
            "goes on from its last checkpoint; --fresh deletes it (the others than the demo do not unasked).",
        )
        work = Path("runs") / chosen.table
        finished = len(list((work / "parts").glob("*.json")))
        if finished and command != "demo" and not flags:
            raise ValueError(f"{work} holds {finished} finished parts: --resume keeps, --fresh deletes them")
        # the demo's figures are the user's own: they do not go into the tables of the repository
        results = work / "results" if command == "demo" else RESULTS
        paths = run_main(chosen, resume="--resume" in flags, results=results, work=work)
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "`make demo OPTIONS=--resume` or " if command == "demo" else ""
        print(
            f"\nstopped; {again}`python -m experiments {command} --resume` goes on from here", file=sys.stderr
        )
        return 130
    print_report(results, chosen.table)
    print(f"\nPage: {paths.html.resolve()}")
    return 0


def _lsttm_table(arguments: list[str]) -> int:
    import torch
    import tyro

    from experiments.lsttm_table import LSTTMTable, TableConfig
    from experiments.resumable import run_resumable

    torch.set_num_threads(1)
    return run_resumable(lambda: LSTTMTable(tyro.cli(TableConfig, args=arguments)).run())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
