"""What of this checkout, or of its origin, is brought to the machine.

All of it is found out before a machine is asked for: what git refuses here costs nothing.
"""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from request import CHECKOUT, UsersMistake

# Addresses that a machine elsewhere can fetch from; git@host:path has no scheme.
_ADDRESS = re.compile(r"(https?|ssh|git)://.+|[\w.-]+@[\w.-]+:.+")
# A token or a password in an address. The user name of ssh alone is no secret.
_SECRET = re.compile(r"https?://[^/]*@|\w+://[^/]*:[^/]*@")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{4,39}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# How long the origin may take to say which refs it has.
_SECONDS = 60


def tracked_files() -> list[str]:
    """The files of the checkout that git knows."""
    return _git("ls-files").splitlines()


def as_it_stands() -> str:
    """A commit of the tracked files with their changes; no branch sees it.

    Raises:
      UsersMistake: git cannot make one, as in the middle of a merge.
    """
    author = ("-c", "user.name=launch", "-c", "user.email=launch@localhost")
    # git locks the index meanwhile; with a copy of it no other git is in the way. Its time
    # is copied, too: by it git knows what may have changed since.
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        shutil.copy2(CHECKOUT / _git("rev-parse", "--git-path", "index"), index)
        commit = _git(*author, "stash", "create", index=index)
    # Empty if nothing is changed.
    return commit or _git("rev-parse", "HEAD")


def address(url: str | None) -> str:
    """Where the machine fetches from: url, or what the checkout was cloned from.

    Raises:
      UsersMistake: a machine elsewhere cannot fetch from there, or a secret is part of
        it.
    """
    if url is None:
        # Without one git says nothing, and ends with 1.
        url = _run("config", "--get", "remote.origin.url").stdout.strip()
    if _SECRET.match(url):
        raise UsersMistake(
            "the git address holds a password or token, which would be printed and "
            "logged; pass --git_url without it, or leave out --git_ref to copy the "
            "checkout"
        )
    if not _ADDRESS.fullmatch(url):
        raise UsersMistake(
            f"--git_url, or the checkout's origin ({url or 'none'}), cannot be fetched by "
            "a machine elsewhere; pass --git_url=https://…, or leave out --git_ref to "
            "copy the checkout"
        )
    return url


def require_ref(url: str, ref: str) -> None:
    """Asks the address whether it has the ref; one that does not answer may have it.

    Raises:
      UsersMistake: it has not, or the ref is part of a commit's digits, by which nothing
        can be fetched.
    """
    if _COMMIT.fullmatch(ref):
        return
    done = _run("ls-remote", url, ref, seconds=_SECONDS)
    names = {line.split("\t")[-1] for line in done.stdout.splitlines()}
    if names & {
        ref,
        *(f"{above}/{ref}" for above in ("refs", "refs/heads", "refs/tags")),
    }:
        return
    if _SHORT_COMMIT.fullmatch(ref):
        raise UsersMistake(
            f"--git_ref={ref} is no branch or tag of {url}; if it is a commit, give all "
            "40 digits"
        )
    if done.returncode == 0:
        raise UsersMistake(
            f"--git_ref={ref} is no branch or tag of {url}; `git push` it first?"
        )


def _git(*words: str, index: Path | None = None) -> str:
    done = _run(*words, index=index)
    if done.returncode:
        said = (done.stderr + done.stdout).strip()
        raise UsersMistake(
            f"the files of {CHECKOUT} cannot be copied as they stand; `git add` new "
            "files whole and end what is half done (a merge, a rebase), or pass "
            f"--git_ref. `git {shlex.join(words)}` says:\n{said}"
        )
    return done.stdout.strip()


def _run(
    *words: str, seconds: int | None = None, index: Path | None = None
) -> subprocess.CompletedProcess[str]:
    git = ["git", "-C", str(CHECKOUT), *words]
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    if index is not None:
        env["GIT_INDEX_FILE"] = str(index)
    try:
        return subprocess.run(
            git,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            env=env,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(git, 128, "", f"no answer in {seconds} s")
    except FileNotFoundError as error:
        raise UsersMistake("git is not installed, or not on the PATH") from error
