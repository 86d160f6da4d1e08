"""Every safety test has a mutant that it must catch."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parent.parent
LIMIT_S = 300


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_applies(mutant: Mutant) -> None:
    text = (ROOT / "hostagent" / mutant.file).read_text()
    assert text.count(mutant.old) == 1, f"{mutant.name}: its place is gone"
    assert (ROOT / mutant.test.partition("::")[0]).exists()


@pytest.mark.campaign
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_is_caught(mutant: Mutant, tmp_path: Path) -> None:
    for room in ("hostagent", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "lab", "run", "guardian", "conftest.py")
        left_out = shutil.ignore_patterns("__pycache__") if room == "hostagent" else ignored
        shutil.copytree(ROOT / room, tmp_path / room, ignore=left_out)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "hostagent" / mutant.file
    path.write_text(path.read_text().replace(mutant.old, mutant.new))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutant.test],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "HOSTAGENT_EXAMPLES": "3000"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert str(tmp_path) in ran.stdout + ran.stderr or ran.returncode == 1, ran.stdout
    assert ran.returncode == 1, f"{mutant.name} was not noticed:\n{ran.stdout[-2000:]}"
