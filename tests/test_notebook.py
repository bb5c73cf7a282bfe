"""The notebook in examples/ runs, and its stored outputs are small."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples/first_look.ipynb"


@pytest.mark.filterwarnings("ignore")  # of Jupyter's own packages
def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, 4)
    stored = [len(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    made = [cell.outputs[-1] for cell in notebook.cells if cell.cell_type == "code"]
    assert all(output.output_type == "execute_result" for output in made)
    assert "image/png" in made[1].data and "random real" in made[2].data["text/html"]
    assert all(stored) and NOTEBOOK.stat().st_size < 100_000  # it is shown with its outputs
