"""What differs between kinds of tasks is in their classes: no code compares `kind` with a text."""

import ast
from pathlib import Path

import pytest

import fastseg
from fastseg import tasks
from fastseg.evaluation.scores import SCORES
from fastseg.inference.outputs import OUTPUTS
from fastseg.inference.prediction import PREDICTIONS
from fastseg.report.views import VIEWS

PACKAGE = Path(fastseg.__file__).parent
KINDS = {tasks.SegmentationTask.kind, tasks.ClassificationTask.kind}
# Where the stored text of a card or of a network's description is read.
STORED = {
    "exports/card.py": 1,  # which texts a card may hold
    "models/network.py": 1,  # Spec.has_masks
}


def comparisons(source: str) -> list[str]:
    """Return each comparison, membership test or match with the text of a kind."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Compare, ast.MatchValue)):
            texts = {child.value for child in ast.walk(node) if isinstance(child, ast.Constant)}
            if texts & KINDS:
                found.append(ast.unparse(node) if isinstance(node, ast.Compare) else "case")
    return found


@pytest.mark.parametrize(
    "source",
    [
        'a if task.kind == "segment" else b',
        'x = "classify" != self.task.kind',
        'if kind in ("segment", "classify"): pass',
        'match kind:\n    case "segment": pass',
    ],
)
def test_a_comparison_is_found(source):
    assert len(comparisons(source)) == 1


def test_no_code_compares_a_kind_with_a_text():
    found = {
        path.relative_to(PACKAGE).as_posix(): len(comparisons(path.read_text()))
        for path in PACKAGE.rglob("*.py")
    }
    assert {name: count for name, count in found.items() if count} == STORED


def test_no_template_asks_for_a_kind():
    pages = list(PACKAGE.rglob("*.html"))
    assert len(pages) >= 4
    assert [page.name for page in pages if "task.kind" in page.read_text()] == []


def test_each_kind_has_one_class_for_each_purpose():
    for table in (PREDICTIONS, OUTPUTS, SCORES, VIEWS):
        assert set(table) == KINDS and len(set(table.values())) == len(KINDS)


def test_a_task_declares_what_its_kind_is_like():
    own = {"kind", "purpose", "main_figure", "imbalance_limit", "label_block", "main_value"}
    for kind in (tasks.SegmentationTask, tasks.ClassificationTask):
        assert own <= set(vars(kind))
