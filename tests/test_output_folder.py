"""A folder is held by one process at a time, on every system."""

from __future__ import annotations

import ast
import errno
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from recbole_rawp.errors import InputError
from recbole_rawp.jobs.output_folder import held

ROOT = Path(__file__).parent.parent
MISSING_ON_WINDOWS = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty"}
HOLD = """
import pathlib, time
from recbole_rawp.jobs.output_folder import held
with held(pathlib.Path({folder!r})):
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_kill_lets_go(tmp_path):
    command = [sys.executable, "-c", HOLD.format(folder=str(tmp_path))]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="another process is at work"), held(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with held(tmp_path):
        assert (tmp_path / ".lock").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the locks of other systems")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_put_up_with(number, tmp_path, monkeypatch):
    if number != errno.ENOSYS and int(filelock.__version__.partition(".")[0]) < 4:
        pytest.skip("this filelock cannot tell: Python 3.9 has no newer one")

    def refuse(*_):
        raise OSError(number, "no locks")

    monkeypatch.setattr("fcntl.flock", refuse)
    for _ in range(2):
        with held(tmp_path):
            (tmp_path / "written").touch()


def test_what_is_no_folder_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write into"), held(tmp_path / "file"):
        pass


def test_no_file_imports_what_windows_lacks():
    for path in (ROOT / "recbole_rawp").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        found |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not found & MISSING_ON_WINDOWS, path
