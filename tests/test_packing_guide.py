"""The code of docs/packing.md runs, and says what the page says."""

from __future__ import annotations

import doctest
from pathlib import Path

GUIDE = Path(__file__).parents[1] / "docs" / "packing.md"


def test_guide() -> None:
    code = "\n".join(part.split("```")[0] for part in GUIDE.read_text(encoding="utf-8").split("```python\n")[1:])
    test = doctest.DocTestParser().get_doctest(code, {}, "packing.md", str(GUIDE), 0)
    assert len(test.examples) > 20
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(test, out=report.append)
    assert not report, "".join(report)
