"""The bank: names stay in its folder, files are whole, and φ of others are refused."""

import os
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.phi.files import PhiHeader, save_phi
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec, phi_shapes, share_decoder_prefix
from hypert5_jax.serving import bank as banks
from hypert5_jax.serving.bank import Bank
from tests.models import TINY, random_tree

SPEC = PrefixSpec(3)
BASE = "a" * 64


def header(spec=SPEC, base=BASE):
    return PhiHeader(spec, TINY.sites, base, "a test")


def phi(seed=0, spec=SPEC):
    return random_tree(phi_shapes(spec, TINY.sites, 1), seed)


@pytest.fixture
def bank(tmp_path):
    return Bank(str(tmp_path / "bank"), SPEC, TINY.sites, BASE)


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_what_is_put_is_found_and_read(bank):
    for number, name in enumerate(["b", "A.1_x-y", "0"]):
        stored = bank.put(name, phi(number), header())
        assert bank.find(name) == stored
        same(bank.read(stored), phi(number))
    assert bank.names() == ["0", "A.1_x-y", "b"]
    bank.delete("b")
    assert bank.names() == ["0", "A.1_x-y"]
    with pytest.raises(banks.NoSuchTask):
        bank.find("b")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", ".x", "a\0b", "a\n", "é"]
    + ["a" * 101, "-x", "_x", "a b", "~", "x\u2044y"],
)
def test_no_name_leaves_or_hides_in_the_folder(bank, name):
    for call in (bank.find, bank.delete, lambda n: bank.put(n, phi(), header())):
        with pytest.raises(banks.BadName):
            call(name)
    assert list(bank.folder.iterdir()) == []


def test_links_folders_and_pipes_are_no_tasks(bank, tmp_path):
    outside = tmp_path / "secret.safetensors"
    save_phi(str(outside), phi(), header())
    (bank.folder / "link.safetensors").symlink_to(outside)
    (bank.folder / "folder.safetensors").mkdir()
    os.mkfifo(bank.folder / "pipe.safetensors")
    (bank.folder / "README.txt").write_text("not a task")
    assert bank.names() == []
    for name in ("link", "folder", "pipe"):
        with pytest.raises(banks.NoSuchTask):
            bank.find(name)
        with pytest.raises(UserError):
            bank.delete(name)
    # Written over, the link itself gives way, never what it points to.
    before = outside.read_bytes()
    bank.put("link", phi(5), header(), replace=True)
    assert outside.read_bytes() == before
    same(bank.read(bank.find("link")), phi(5))


def test_a_name_is_taken_until_it_is_to_be_replaced(bank):
    bank.put("task", phi(1), header())
    with pytest.raises(banks.TaskExists):
        bank.put("task", phi(2), header())
    same(bank.read(bank.find("task")), phi(1))
    bank.put("task", phi(2), header(), replace=True)
    same(bank.read(bank.find("task")), phi(2))
    assert sorted(p.name for p in bank.folder.iterdir()) == ["task.safetensors"]


def test_a_phi_found_before_it_was_replaced_is_not_read_as_the_new_one(bank):
    old = bank.put("task", phi(1), header())
    new = bank.put("task", phi(2), header(), replace=True)
    with pytest.raises(banks.Replaced):
        bank.read(old)
    same(bank.read(new), phi(2))
    bank.delete("task")
    with pytest.raises(banks.Replaced):
        bank.read(new)


def test_many_replacements_are_told_apart(bank):
    seen = {bank.put("task", phi(0), header(), replace=True) for _ in range(50)}
    assert len({stored.modified for stored in seen}) == 50


def test_the_clock_that_tells_phi_apart_is_ours_not_the_file_systems(bank, monkeypatch):
    monkeypatch.setattr(banks.time, "time_ns", lambda: 1_234_567_890_123_456_789)
    assert bank.put("task", phi(), header()).modified == 1_234_567_890_123_456_789


def test_a_phi_replaced_while_it_is_read_is_not_taken_for_the_old_one(
    bank, monkeypatch
):
    old = bank.put("task", phi(1), header())
    load = banks.files.load_phi

    def slow(*arguments):
        bank.put("task", phi(2), header(), replace=True)
        return load(*arguments)

    monkeypatch.setattr(banks.files, "load_phi", slow)
    with pytest.raises(banks.Replaced):
        bank.read(old)


def test_phi_of_another_base_other_shapes_or_no_finite_values_is_not_put(bank):
    with pytest.raises(UserError, match="bbbb.*aaaa"):
        bank.put("x", phi(), header(base="b" * 64))
    with pytest.raises(UserError, match="all φ of this bank have"):
        bank.put("x", phi(spec=PrefixSpec(4)), header(PrefixSpec(4)))
    lora = LoRASpec(2)
    with pytest.raises(UserError, match="all φ of this bank have"):
        bank.put("x", phi(spec=lora), header(lora))
    broken = phi()
    broken.encoder.self_attention.prefix.keys[0, 0, 0, 0, 0] = np.inf
    with pytest.raises(UserError, match="NaN") as refusal:
        bank.put("x", broken, header())
    assert "task 'x'" in str(refusal.value)
    assert str(bank.folder) not in str(refusal.value)
    assert list(bank.folder.iterdir()) == []


def test_foreign_files_are_refused_by_name_and_not_by_path(bank):
    files = {
        "base": lambda path: save_phi(path, phi(), header(base="c" * 64)),
        "shape": lambda path: save_phi(
            path, phi(spec=PrefixSpec(4)), header(PrefixSpec(4))
        ),
        "pickle": lambda path: Path(path).write_bytes(b"\x80\x04cos\nsystem\n"),
        "lies": lambda path: Path(path).write_bytes((1 << 40).to_bytes(8, "little")),
    }
    for name, write in files.items():
        write(str(bank.folder / f"{name}.safetensors"))
        with pytest.raises(UserError) as refusal:
            bank.read(bank.find(name))
        assert f"'{name}'" in str(refusal.value)
        assert str(bank.folder) not in str(refusal.value)


def test_writers_and_readers_never_see_half_a_phi(bank):
    """Eight threads replace one task again and again while two read it."""
    bank.put("task", phi(0), header())
    known = [jax.tree.leaves(phi(n))[0][0, 0, 0, 0, 0] for n in range(8)]
    wrong = []
    stop = time.monotonic() + 0.5

    def write(number):
        while time.monotonic() < stop:
            bank.put("task", phi(number), header(), replace=True)

    def read():
        reads = 0
        while time.monotonic() < stop or not reads:
            try:
                found = jax.tree.leaves(bank.read(bank.find("task")))
            except banks.Replaced:
                continue
            reads += 1
            number = known.index(np.asarray(found[0])[0, 0, 0, 0, 0])
            mine = jax.tree.leaves(phi(number))
            if not all(np.array_equal(a, b) for a, b in zip(found, mine)):
                wrong.append(number)
        read_counts.append(reads)

    read_counts: list[int] = []
    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    threads += [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(read_counts) == 2
    assert [p.name for p in bank.folder.iterdir()] == ["task.safetensors"]


def test_what_a_killed_writer_left_is_no_task_and_goes_after_an_hour(bank):
    left = bank.folder / ".unfinished-0.safetensors.partial"
    left.write_bytes(b"half")
    assert bank.names() == []
    Bank(str(bank.folder), SPEC, TINY.sites, BASE)
    assert left.exists()
    os.utime(left, (0, 0))
    Bank(str(bank.folder), SPEC, TINY.sites, BASE)
    assert not left.exists()


def test_a_prefix_shared_with_cross_attention_is_held_once(tmp_path):
    spec = PrefixSpec(3, cross_attention="share_decoder")
    shared = Bank(str(tmp_path), spec, TINY.sites, BASE)
    own = phi()
    shared._check_shapes(shared._own_arrays(share_decoder_prefix(own)), "it")
    same(shared._own_arrays(share_decoder_prefix(own)), own)


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="as a bank"):
        Bank(str(tmp_path / "file" / "bank"), SPEC, TINY.sites, BASE)
