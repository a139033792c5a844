"""How the code comes to a machine: copied as it stands, or pulled from its origin."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.launch.conftest import NAME, RECIPE, ROOT, Fakes

URL = "https://example.org/h.git"
TPU = ("--zone=us-east5-b", RECIPE)
RECIPE_FILE = RECIPE.removeprefix("--gin_file=")
# A worker that unpacks or pulls for real, in a folder of this machine.
SSH = """
mkdir -p "$FAKE/home" && cd "$FAKE/home" || exit
for argument in "$@"; do
  case $argument in --command=*) sh -c "${argument#--command=}"; exit ;; esac
done
"""


def git(place: Path, *words: str) -> str:
    identity = {
        f"GIT_{who}_{what}": "a@b"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        ["git", "-C", str(place), *words],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **identity},
    )
    return done.stdout.strip()


@pytest.fixture
def clone(fakes: Fakes) -> Path:
    """A small checkout with the launchers: branch `main`, tag `v1`, two commits."""
    place = fakes.place / "clone"
    (place / RECIPE_FILE).parent.mkdir(parents=True)
    (place / RECIPE_FILE).write_text("first\n")
    (place / "launch").mkdir()
    for file in (ROOT / "launch").glob("*.py"):
        shutil.copy(file, place / "launch")
    git(place, "init", "--quiet", "--initial-branch=main")
    git(place, "add", ".")
    git(place, "commit", "--quiet", "--message=first")
    git(place, "tag", "v1")
    (place / RECIPE_FILE).write_text("second\n")
    git(place, "commit", "--quiet", "--all", "--message=second")
    # What is fetched from URL comes from there, here and on the "worker".
    fakes.env |= {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{place}.insteadOf",
        "GIT_CONFIG_VALUE_0": URL,
    }
    return place


def launch(fakes: Fakes, clone: Path, verb: str, *more: str) -> tuple[int, str, str]:
    return fakes.run(str(clone / "launch" / "tpu.py"), verb, *TPU, *more)


def test_edits_are_copied_and_the_checkout_is_left_as_it_is(
    fakes: Fakes, clone: Path
) -> None:
    fakes.answer(
        "gcloud*tpu-vm scp*",
        'mkdir -p "$FAKE/home" && cp "$7" "$FAKE/home/hypert5.tar.gz"',
    )
    fakes.answer("gcloud*tpu-vm ssh*on_worker*", "")
    fakes.answer("gcloud*tpu-vm ssh*", SSH)
    (clone / RECIPE_FILE).write_text("edited\n")
    (clone / ".git" / "index.lock").touch()  # another git is at work
    code, _, err = launch(fakes, clone, "setup")
    (clone / ".git" / "index.lock").unlink()
    assert code == 0, err
    copied = fakes.place / "home" / "hypert5" / RECIPE_FILE
    assert copied.read_text() == "edited\n"
    assert git(clone, "stash", "list") == ""
    assert git(clone, "diff", "--name-only") == RECIPE_FILE


@pytest.mark.parametrize("half", ["a new file of which git knows the name", "a merge"])
def test_edits_that_git_cannot_pack_are_not_left_out(
    fakes: Fakes, clone: Path, half: str
) -> None:
    if half == "a merge":
        git(clone, "checkout", "--quiet", "-b", "other", "v1")
        (clone / RECIPE_FILE).write_text("third\n")
        git(clone, "commit", "--quiet", "--all", "--message=third")
        with pytest.raises(subprocess.CalledProcessError):
            git(clone, "merge", "main")
    else:
        (clone / "new.gin").write_text("")
        git(clone, "add", "--intent-to-add", "new.gin")
        (clone / RECIPE_FILE).write_text("edited\n")
    for verb in ("until_done", "create", "run"):
        code, _, err = launch(fakes, clone, verb, "--keep")
        assert code == 2 and "cannot be copied" in err and "Traceback" not in err
    assert not fakes.calls()


@pytest.mark.parametrize(
    ("ref", "holds"), [("main", "second"), ("v1", "first"), ("v1^{commit}", "first")]
)
def test_a_ref_is_pulled_over_what_was_copied_before(
    fakes: Fakes, clone: Path, ref: str, holds: str
) -> None:
    if "^" in ref:
        ref = git(clone, "rev-parse", ref)
    there = fakes.place / "home" / "hypert5" / RECIPE_FILE
    there.parent.mkdir(parents=True)
    there.write_text("copied\n")
    fakes.answer("gcloud*tpu-vm ssh*on_worker*", "")
    fakes.answer("gcloud*tpu-vm ssh*", SSH)
    for _ in range(2):
        code, _, err = launch(
            fakes, clone, "setup", f"--git_ref={ref}", f"--git_url={URL}"
        )
        assert code == 0, err
        assert there.read_text() == f"{holds}\n"
        assert not fakes.calls("scp")


def test_a_ref_that_cannot_be_pulled_is_told_before_anything_is_rented(
    fakes: Fakes, clone: Path
) -> None:
    short = git(clone, "rev-parse", "--short", "HEAD")
    for ref, says in ((short, "40 digits"), ("mian", "no branch or tag")):
        refs = (f"--git_ref={ref}", f"--git_url={URL}")
        code, _, err = launch(fakes, clone, "create", *refs)
        assert code == 2 and says in err
    assert not fakes.calls()


def test_an_address_that_only_the_machine_can_reach_is_accepted(
    fakes: Fakes, clone: Path
) -> None:
    clone.rename(fakes.place / "moved")
    refs = ("--git_ref=main", f"--git_url={URL}")
    code, _, err = launch(fakes, fakes.place / "moved", "create", *refs)
    assert code == 0, err
    (call,) = fakes.calls()
    assert f" create {NAME} " in call
