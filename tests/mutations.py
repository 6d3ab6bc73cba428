# ruff: noqa: T201
"""Break the samplers on purpose, one line at a time: each mutation must make a test fail.

    python tests/mutations.py                  # all of them
    python tests/mutations.py bound delta      # those whose name has one of these words

Works on a copy of the repository in a temporary folder. Exits with 1 if a mutation survives, does not compile
or applies no longer, or if the tests fail without any.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("samplers", "tests", "pyproject.toml")
SECONDS = 240  # for the tests of one mutation, which compile the loops anew
PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--no-header", "--tb=no", "-rfE")
PASSED = "all tests pass"
NO_SHRINKING = """
from hypothesis import Phase

settings.register_profile("mutations", deadline=None, phases=[Phase.explicit, Phase.generate])
settings.load_profile("mutations")
"""
ENGINES = ("tests/samplers/test_engines.py",)
SAMPLERS = (*ENGINES, "tests/samplers/test_neighbor_samplers.py", "tests/samplers/test_csr.py")
MULTI_HOP = ("tests/samplers/test_engines.py", "tests/samplers/test_multi_hop.py")
WALKS = ("tests/samplers/test_random_walk.py",)
NEGATIVES = ("tests/samplers/test_negative.py",)


@dataclass(frozen=True)
class Mutation:
    """A line to change, and the tests to run: those files, and of them what ``only`` names."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = SAMPLERS
    only: str = ""

    def apply(self, folder: Path) -> None:
        """Change the file in a copy of the repository.

        Raises:
            ValueError: the text to replace is not there exactly once.

        """
        path = folder / self.file
        text = path.read_text(encoding="utf-8")
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.name}: {self.file} has {count} times the text {self.old!r}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


ROWS, ONE_HOP, QUERIES = "samplers/compiled/rows.py", "samplers/compiled/one_hop.py", "samplers/queries.py"
NUMBA, TORCH = {"tests": ENGINES, "only": "numba"}, {"tests": ENGINES, "only": "torch"}

MUTATIONS = (
    Mutation(
        "bound: < is <= (numba)", ROWS,
        "return time + 1 if inclusive and time < MAX_TIME else time",
        "return time + 1 if time < MAX_TIME else time", **NUMBA,
    ),
    Mutation(
        "bound: < is <= (torch)", QUERIES,
        'return time if bound == "strict" else time + (time < _MAX_TIME)',
        "return time + (time < _MAX_TIME)", **TORCH,
    ),
    Mutation(
        "bound: <= is < (numba)", ROWS,
        "return time + 1 if inclusive and time < MAX_TIME else time", "return time", **NUMBA,
    ),
    Mutation(
        "bound: last step of a block's search takes ties (numba)", ROWS,
        "if length[k] > 0 and edge_time(edges, low[k]) < target[k]:",
        "if length[k] > 0 and edge_time(edges, low[k]) <= target[k]:", **NUMBA,
    ),
    Mutation(
        "bound: search of sampled times takes ties (numba)", ROWS,
        "if length[k] and edges.sampled_time[low[k]] < target[k]:",
        "if length[k] and edges.sampled_time[low[k]] <= target[k]:", ENGINES, "many_lengths",
    ),
    Mutation(
        "bound: search begins behind the part of the target (numba)", ROWS,
        "reached = (np.float64(block.target[k]) - first)",
        "reached = 1 + (np.float64(block.target[k]) - first)",
        ENGINES, "long_rows",
    ),
    Mutation(
        "bound: a row's last part has no samples (numba)", ROWS,
        "if part[k] + 1 < length[k] else length[k]", "if part[k] + 1 < length[k] else start",
        ENGINES, "long_rows",
    ),
    Mutation(
        "bound: last step of a single search takes ties (numba)", ROWS,
        "return low + (length == 1 and edge_time(edges, low) < time)",
        "return low + (length == 1 and edge_time(edges, low) <= time)", **NUMBA,
    ),
    Mutation(
        "bound: search takes ties (torch)", QUERIES,
        'right = ((value < target) if side == "left"', 'right = ((value <= target) if side == "left"',
        **TORCH,
    ),
    Mutation(
        "bound: the leak check takes ties", QUERIES,
        'return edge_time < time if bound == "strict" else edge_time <= time', "return edge_time <= time",
    ),
    Mutation(
        "a taken number leaves its slot to none, in a register (numba)", ONE_HOP,
        "bits |= np.uint64(bits == before) << np.uint64(count - width + slot)",
        "bits |= np.uint64(0)",
        ENGINES, "few_and_many",
    ),
    Mutation(
        "a register is thought to hold all that one word of bins does (numba)", ONE_HOP,
        "if count <= 64:  # a bit", "if count <= 128:  # a bit",
        ENGINES, "few_and_many",
    ),
    Mutation("first edge dropped (numba)", ROWS, "block.start[k] = 0\n", "block.start[k] = 1\n", **NUMBA),
    Mutation(
        "first edge dropped (torch)", QUERIES,
        "start, stop = torch.zeros_like(node), rank_at(csr, node, before)",
        "start, stop = torch.ones_like(node), rank_at(csr, node, before).clamp(min=1)", **TORCH,
    ),
    Mutation(
        "first edge dropped from degrees (numba)", ROWS,
        "    start = np.int64(0)\n    stop = rank_at(csr, row, before)\n",
        "    stop = rank_at(csr, row, before)\n    start = min(np.int64(1), stop)\n", **NUMBA,
    ),
    Mutation(
        "reseeded at each call", "samplers/one_hop.py",
        "(self._random_seed(), epoch, edge_type, hop)",
        '(self._random_seed(), __import__("time").monotonic_ns(), edge_type, hop)',
    ),
    Mutation(
        "epoch left out of the key", "samplers/one_hop.py",
        "(self._random_seed(), epoch, edge_type, hop)", "(self._random_seed(), edge_type, hop)",
    ),
    Mutation(
        "key by place in the batch (numba)", "samplers/compiled/numbers.py",
        "    if by_place:\n        return mix(state, np.int64(index))",
        "    if by_place or index > 0:\n        return mix(state, np.int64(index))", **NUMBA,
    ),
    Mutation(
        "key by place in the batch (torch)", "samplers/one_hop.py",
        "(*prefix, seed, seed_time) if generator is None else (*prefix, place)", "(*prefix, place)", **TORCH,
    ),
    Mutation(
        "time left out of the key (numba)", "samplers/compiled/numbers.py",
        "return mix(mix(state, np.int64(node)), np.int64(time))", "return mix(state, np.int64(node))",
        **NUMBA,
    ),
    Mutation(
        "ties reversed", "samplers/edge_sort.py",
        "for key in (edge_id, time, row_node):",
        "for key in (None if edge_id is None else -edge_id, time, row_node):",
    ),
    Mutation(
        "ties reversed between base and delta", "samplers/csr_delta.py",
        'return bisect_rows(base.edge_id, first_tie, after_tie, delta.edge_id.long(), side="left")',
        "return first_tie",
    ),
    Mutation(
        "window: one too short (numba)", ROWS,
        "block.target[k] = earlier_by(time[first + k], window)",
        "block.target[k] = earlier_by(time[first + k], window) + 1", **NUMBA,
    ),
    Mutation(
        "window: one too short (torch)", QUERIES,
        "rank_at(csr, node, earlier_by(time, window))", "rank_at(csr, node, earlier_by(time, window) + 1)",
        **TORCH,
    ),
    Mutation(
        "window: one too long (numba)", ROWS,
        "block.target[k] = earlier_by(time[first + k], window)",
        "block.target[k] = earlier_by(time[first + k], window) - 1", **NUMBA,
    ),
    Mutation(
        "delay ignored (numba)", ROWS,
        "return known_at(csr, position_of(csr, row, rank)) < first_unseen_time(time, inclusive)",
        "return time_at(csr, position_of(csr, row, rank)) < first_unseen_time(time, inclusive)", **NUMBA,
    ),
    Mutation(
        "delay ignored (torch)", QUERIES,
        'known_time = csr.look_up("edge_time", position) + csr.look_up("delay", position)',
        'known_time = csr.look_up("edge_time", position)', **TORCH,
    ),
    Mutation(
        "delay of appended edges ignored", "samplers/csr_delta.py",
        "max_delay=_larger_delays(csr, new)", "max_delay=csr.max_delay",
    ),
    Mutation(
        "delta forgotten (numba)", ROWS,
        "block.stop[k] += block.num_delta[k]", "block.stop[k] += 0", **NUMBA,
    ),
    Mutation(
        "delta forgotten (torch)", QUERIES,
        "for part in (csr, csr.delta):\n        if part is not None:\n            low",
        "for part in (csr,):\n        if part is not None:\n            low", **TORCH,
    ),
    Mutation(
        "delta before the base (numba)", ROWS,
        "if place < stop and csr.delta_rank[place] == rank:",
        "if place < stop and csr.delta_rank[place] >= rank:", **NUMBA,
    ),
    Mutation(
        "ranks in a delta not counted on", "samplers/csr_delta.py",
        "rank += torch.arange(delta.num_edges, device=csr.device) - delta.rowptr[row]", "rank += 0",
    ),
    Mutation(
        "next-hop bounds swapped", "samplers/multi_hop.py",
        'found.edge_time if self.next_hop_bound == "edge" else time',
        'found.edge_time if self.next_hop_bound == "seed" else time', MULTI_HOP, "tree or reference",
    ),
    Mutation(
        "hop in the key where rows are shared", "samplers/multi_hop.py",
        '"hop": 0 if self.unique_across_hops else hop', '"hop": hop', MULTI_HOP, "tree",
    ),
    Mutation(
        "rows at different times are one (numba)", "samplers/compiled/tables.py",
        "table.node[row] == node and table.time[row] == time", "table.node[row] == node", MULTI_HOP,
    ),
    Mutation(
        "rows at different times are one (torch)", "samplers/tables.py",
        "return node * len(distinct) + code", "return node", MULTI_HOP,
    ),
    Mutation(
        "padding becomes rows (numba)", "samplers/compiled/tables.py",
        "    if place < stop and mask[stop - 1]:  # most", "    if place < stop:  # most", MULTI_HOP,
    ),
    Mutation(
        "marks of other times taken for this one's (numba)", "samplers/compiled/tables.py",
        "first_mark = max(state[STATE.next_mark], np.int64(1))", "first_mark = np.int64(1)", MULTI_HOP,
    ),
    Mutation(
        "a group begun anew in each piece (numba)", "samplers/compiled/tables.py",
        "if group > state[STATE.group]:", "if True:", MULTI_HOP,
    ),
    Mutation(
        "mask of padding inverted (numba)", ONE_HOP,
        "        slots.mask[j] = 0\n", "        slots.mask[j] = 1\n", **NUMBA,
    ),
    Mutation(
        "mask of padding inverted (torch)", "samplers/recent.py",
        "return number, number >= 0", "return number, number < 0", **TORCH,
    ),
    Mutation(
        "one slot too many is real (torch)", "samplers/uniform.py",
        "mask = slot < edges.count[:, None]", "mask = slot <= edges.count[:, None]", **TORCH,
    ),
    Mutation(
        "padding keeps what it points to (torch)", "samplers/neighbors.py",
        "csr.look_up(name, position).long().where(mask, 0) for", "csr.look_up(name, position).long() for",
        **TORCH,
    ),
    Mutation(
        "one edge too few (numba)", ONE_HOP,
        "min(width, end - start), slots", "min(width, end - start - 1), slots", **NUMBA,
    ),
    Mutation(
        "degree as of now (numba)", ONE_HOP,
        "count_visible(reverse, col_at(csr, position), time, inclusive, np.int64(0))",
        "count_visible(reverse, col_at(csr, position), np.int64(2**62), inclusive, np.int64(0))", **NUMBA,
    ),
    Mutation(
        "degree as of now (torch)", "samplers/weighted.py",
        "visible_edges(self.reverse_csr, neighbor, seed_time[query], bound=self.bound)",
        "visible_edges(self.reverse_csr, neighbor, seed_time[query] + 2**62, bound=self.bound)", **TORCH,
    ),
    Mutation(
        "an edge drawn twice (numba)", ONE_HOP,
        "                drawn = last  # above", "                drawn = drawn  # above", **NUMBA,
    ),
    Mutation(
        "an edge drawn twice (torch)", "samplers/uniform.py",
        "torch.where(taken, last, drawn)", "drawn", **TORCH,
    ),
    Mutation(
        "the newest edge never drawn (numba)", ONE_HOP,
        "* (count - width + slot + 1))", "* (count - width + slot))", **NUMBA,
    ),
    Mutation(
        "the newest edge never drawn (torch)", "samplers/uniform.py",
        "scale_to_integers(uniform[:, slot], last + 1)", "scale_to_integers(uniform[:, slot], last)", **TORCH,
    ),
    Mutation(
        "weights inverted (numba)", ONE_HOP, "ring = -log2(weight)\n", "ring = log2(weight)\n", **NUMBA,
    ),
    Mutation(
        "weights inverted (torch)", "samplers/weighted.py", "else -log2(raw)\n", "else log2(raw)\n", **TORCH,
    ),
    Mutation(
        "weight of 0 drawn (numba)", ONE_HOP,
        "elif weight == 0.0:\n            continue", "elif weight == 0.0:\n            ring = 9.0", **NUMBA,
    ),
    Mutation(
        "clocks keyed by rank in the row (numba)", ONE_HOP,
        "uniform(mix(query, visible))", "uniform(mix(query, np.int64(rank)))", **NUMBA,
    ),
    Mutation(
        "the oldest events kept (torch)", "samplers/history.py",
        "expand_ranges(edges.count - count, count)", "expand_ranges(torch.zeros_like(count), count)",
        ENGINES, "histories",
    ),
    Mutation(
        "steps of equal time (numba)", "samplers/compiled/walks.py",
        "max(work.low[k], work.last_time[k] + 1)", "max(work.low[k], work.last_time[k])", WALKS,
    ),
    Mutation(
        "steps of equal time (torch)", QUERIES,
        "rank_at(csr, node, later_than + 1)", "rank_at(csr, node, later_than)", ENGINES, "walk",
    ),
    Mutation(
        "negatives exist a moment late", "samplers/negative.py",
        "torch.searchsorted(self.sorted_time, time, right=True)",
        "torch.searchsorted(self.sorted_time, time, right=False)", NEGATIVES,
    ),
    Mutation(
        "negatives by the popularity of now", "samplers/negative.py",
        "num_edges = torch.searchsorted(events.known_time, unseen)",
        "num_edges = torch.full_like(unseen, len(events.known_time))", NEGATIVES,
    ),
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run the mutations that are asked for, print a table, return the exit status."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("words", nargs="*", help="run the mutations whose names have one of these")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for the tests of one mutation")
    options = parser.parse_args(arguments)
    chosen = [m for m in MUTATIONS if not options.words or any(word in m.name for word in options.words)]
    survivors = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy_repository(ROOT, folder / "sound")
        with (folder / "sound" / "tests" / "conftest.py").open("a") as conftest:
            conftest.write(NO_SHRINKING)
        files = tuple(dict.fromkeys(file for mutation in chosen for file in mutation.tests))
        verdict, seconds = timed(run_tests, folder, folder / "sound", files, "", 4 * options.seconds)
        print(f"{'none':58} {seconds:5.0f} s  {verdict}", flush=True)
        if verdict != PASSED:
            print("the tests fail without any mutation")
            return 1
        for mutation in chosen:
            verdict, seconds = timed(run, mutation, folder, options.seconds)
            survivors += verdict.split(":")[0].isupper()
            print(f"{mutation.name:58} {seconds:5.0f} s  {verdict}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutations make a test fail")
    return int(survivors > 0)


def run(mutation: Mutation, folder: Path, seconds: float) -> str:
    """Apply a mutation to a fresh copy and run its tests; return the test that failed, or what went wrong."""
    copy = folder / "copy"
    copy_repository(folder / "sound", copy)
    try:
        mutation.apply(copy)
    except ValueError as error:
        return f"DOES NOT APPLY: {error}"
    verdict = run_tests(folder, copy, mutation.tests, mutation.only, seconds)
    return "SURVIVED" if verdict == PASSED else verdict


def run_tests(folder: Path, copy: Path, tests: tuple[str, ...], only: str, seconds: float) -> str:
    """Run tests in a copy until one fails; return its name."""
    environment = {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "1",
        # machine code of other sources is dropped, as its stamp holds a hash of them: see compiled/jit.py
        "NUMBA_CACHE_DIR": str(folder / "numba"),
    }
    command = [sys.executable, "-m", "pytest", *PYTEST, *tests, *(["-k", only] if only else [])]
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return f"UNDECIDED: no result in {seconds:.0f} s"
    failed = re.findall(r"^(?:FAILED|ERROR) (?:\S*/)?(\S+)(?: - (.*))?", done.stdout, re.MULTILINE)
    if done.returncode == 0:
        return PASSED
    if done.returncode == 1 and failed:
        name, reason = failed[0]
        return f"DOES NOT COMPILE: {reason}" if "numba" in reason else name
    if done.returncode < 0:
        return f"a crash with signal {-done.returncode}"
    return f"UNDECIDED: pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-300:]}"


def timed(function, *arguments):
    """Return what a function returns, and the seconds that it took."""
    begin = time.perf_counter()
    return function(*arguments), time.perf_counter() - begin


def copy_repository(source: Path, copy: Path) -> None:
    """Copy what the tests of samplers need, without anything that was compiled from it."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in COPIED:
        if (source / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
            shutil.copytree(source / name, copy / name, ignore=ignored)
        else:
            shutil.copy(source / name, copy / name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
