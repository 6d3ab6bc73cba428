"""Where the files of a report go: links, devices, pipes, and what is told before and while writing."""

import os
import threading
from pathlib import Path

import pytest

from graphrec.evaluation.report_files import check_outputs, write_file


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "deep").mkdir()
    target, link = tmp_path / "deep" / "e.json", tmp_path / "link"
    link.symlink_to(target)
    for text in ("first", "second"):  # without and with a target
        check_outputs({"--json": link})
        write_file(link, text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert [one.name for one in target.parent.iterdir()] == ["e.json"]


def test_a_pipe_is_written_to(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    check_outputs({"--json": path})
    found = []
    reader = threading.Thread(target=lambda: found.append(path.read_text()))
    reader.start()
    write_file(path, "text")
    reader.join(20)
    assert found == ["text"]
    assert path.is_fifo()


def test_an_open_stream_keeps_what_stands_in_it(tmp_path):
    with (tmp_path / "log").open("w") as file:
        file.write("before ")
        file.flush()
        path = Path(f"/dev/fd/{file.fileno()}")
        check_outputs({"--json": path})
        write_file(path, "between ")
        file.write("after")
    assert (tmp_path / "log").read_text() == "before between after"


def test_a_place_that_cannot_be_written_is_told_before(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "none" / "e.json")
    for name, message in (
        ("folder", "is a folder"),
        ("none/e.json", "there is no folder"),
        ("dangling", "dangling cannot be written: there is no folder .*none"),
    ):
        with pytest.raises(ValueError, match=message):
            check_outputs({"--json": tmp_path / name})
    # nobody makes files there, not even the superuser
    with pytest.raises(ValueError, match=r"/proc/e\.json cannot be written: no file can be made in /proc"):
        check_outputs({"--json": Path("/proc/e.json")})
    (tmp_path / "fixed").write_text("")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "fixed")
    with pytest.raises(ValueError, match="fixed cannot be written: it is there and may not be changed"):
        check_outputs({"--json": tmp_path / "fixed"})
    assert sorted(one.name for one in tmp_path.iterdir()) == ["dangling", "fixed", "folder"]


def test_an_error_names_the_path_that_was_given(tmp_path):
    with pytest.raises(OSError, match=r"^/proc/e\.json cannot be written: [^/]*$"):
        write_file(Path("/proc/e.json"), "text")
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="full cannot be written: No space left"):
        write_file(tmp_path / "full", "text")


def test_nothing_is_lost_where_two_outputs_are_thrown_away():
    check_outputs({"--json": Path(os.devnull), "--html": Path(os.devnull)})
    with pytest.raises(ValueError, match="--json - and --markdown /dev/stdout are one file"):
        check_outputs({"--json": Path("-"), "--markdown": Path("/dev/stdout")})
