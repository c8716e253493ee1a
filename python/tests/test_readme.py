"""The examples of python/README.md run as they stand there."""
import re
import subprocess
import sys

from conftest import ROOT


def test_examples(tmp_path):
    text = (ROOT / "python/README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) >= 3
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    done = subprocess.run([sys.executable, "-c", "\n".join(examples)], cwd=tmp_path, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stdout
