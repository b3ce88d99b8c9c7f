from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from mllm_plugin.store.database import FILE_NAME


def test_stats_show_the_levels(mllm, mllm_json, indexed: Path) -> None:
    out = mllm("stats").stdout
    assert "documents   3" in out
    assert "level  embeddings" in out
    assert mllm_json("stats")["documents"] == 3


def test_verify_says_all_well(mllm, indexed: Path) -> None:
    assert "all well" in mllm("verify").stdout


def test_verify_exits_with_3_when_an_invariant_does_not_hold(
    mllm, mllm_json, indexed: Path, folder: Path
) -> None:
    with apsw.Connection(str(folder / FILE_NAME)) as connection:
        connection.execute("UPDATE namespaces SET live_chunks = live_chunks + 1")
    connection.close()
    assert "problem" in mllm("verify", code=3).stdout
    assert mllm_json("verify", code=3)["problems"]


def test_a_damaged_file_is_an_error_that_says_what_to_do(mllm, indexed: Path, folder: Path) -> None:
    mllm("compact")
    path = folder / FILE_NAME
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    result = mllm("verify", code=3)
    assert "is damaged" in result.stdout
    assert "restore a backup" in result.stdout
    path.write_bytes(data[:1000])
    assert "is damaged" in mllm("verify", code=3).stdout


def test_compact_reports_sizes(mllm, mllm_json, indexed: Path) -> None:
    mllm("remove", "--filter", "{}", "--yes")
    assert "before" in mllm("compact").stdout
    assert mllm_json("compact", "--regroup")["bytes_after"] > 0


def test_backup_and_restore(mllm, mllm_json, indexed: Path, tmp_path: Path) -> None:
    copy, elsewhere = tmp_path / "copy.db", tmp_path / "elsewhere"
    mllm("mask", "herons.md")
    assert "written to" in mllm("backup", copy).stdout
    assert "never overwrites" in mllm("backup", copy, code=1).stderr
    assert "no folder" in mllm("backup", tmp_path / "no" / "copy.db", code=1).stderr
    assert "3 documents, verified" in mllm("restore", copy, memory=elsewhere).stdout
    assert mllm_json("list", memory=elsewhere) == mllm_json("list")
    query = ("search", "quokkas smile")
    assert [hit["score"] for hit in mllm_json(*query, memory=elsewhere)["hits"]] == [
        hit["score"] for hit in mllm_json(*query)["hits"]
    ]
    mllm("unmask", "--all", memory=elsewhere)
    assert mllm_json("verify", memory=elsewhere)["ok"]


def test_restore_replaces_a_memory_only_when_forced(mllm, mllm_json, indexed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    mllm("backup", copy)
    mllm("remove", "herons.md", "--yes")
    assert "--force" in mllm("restore", copy, code=1).stderr
    assert len(mllm_json("list")) == 2
    mllm("restore", copy, "--force")
    assert len(mllm_json("list")) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"memory", "files", "copy.db"}


@pytest.mark.parametrize("damage", ["rubbish", "flip", "invariant"])
def test_a_bad_backup_changes_nothing(mllm, mllm_json, indexed: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "copy.db"
    mllm("backup", copy)
    if damage == "rubbish":
        copy.write_bytes(b"rubbish")
    elif damage == "flip":
        data = bytearray(copy.read_bytes())
        data[len(data) // 2] ^= 0xFF
        copy.write_bytes(data)
    else:
        connection = apsw.Connection(str(copy))
        connection.execute("UPDATE namespaces SET live_chunks = live_chunks + 1")
        connection.close()
    assert "Error:" in mllm("restore", copy, "--force", code=1).stderr
    assert len(mllm_json("list")) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"memory", "files", "copy.db"}


def test_a_restore_that_is_interrupted_keeps_the_old(
    mllm, mllm_json, indexed: Path, tmp_path, monkeypatch
) -> None:
    mllm("backup", tmp_path / "copy.db")
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    mllm("restore", tmp_path / "copy.db", "--force", code=130)
    assert len(mllm_json("list")) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"memory", "files", "copy.db"}


def test_restore_refuses_a_missing_file_and_a_folder_of_other_things(
    mllm, indexed: Path, tmp_path: Path
) -> None:
    assert "no file" in mllm("restore", tmp_path / "none.db", code=1).stderr
    mllm("backup", tmp_path / "copy.db")
    assert "holds other files" in mllm("restore", tmp_path / "copy.db", memory=indexed, code=1).stderr


def test_repair_makes_a_new_memory_and_names_what_is_lost(
    mllm, mllm_json, indexed: Path, folder: Path
) -> None:
    mllm("compact")
    expected = {one["id"] for one in mllm_json("list")}
    path = folder / FILE_NAME
    data = bytearray(path.read_bytes())
    data[5000] ^= 0xFF
    path.write_bytes(data)
    assert "is damaged" in mllm("list", code=1).stderr
    found = mllm_json("repair")
    assert (found["documents"], found["lost"]) == (len(expected), [])
    assert path.read_bytes() == data
    assert "exists" in mllm("repair", code=1).stderr
    assert "not both" in mllm("repair", "--in-place", "--to", "x", code=2).stderr
    repaired = folder.with_name(f"{folder.name}-repaired")
    assert {one["id"] for one in mllm_json("list", memory=repaired)} == expected
    other = folder.with_name("other")
    assert "3 documents in" in mllm("repair", folder, "--to", other).stdout
    repaired.rename(folder.with_name("away"))
    assert "0 documents lost" in mllm("repair", "--in-place").stdout
    assert {one["id"] for one in mllm_json("list")} == expected
    assert (folder.with_name(f"{folder.name}-damaged") / FILE_NAME).read_bytes() == data
