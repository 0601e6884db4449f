"""Errors have a short stable code, which `--json` prints; the message is one line on stderr."""

import ast
import json
import re
from collections import defaultdict
from pathlib import Path

import fastseg
from fastseg.data.issues import KINDS, Fault, refuse
from fastseg.errors import DataError, FastsegError, TaskError

# Codes that more than one module raises, and the one mistake that each stands for.
SHARED_CODES = {
    "archive-out": "an archive as the place of results",
    "access-refused": "a server does not accept the keys or the token that it is given",
    "busy": "another run writes to the place",
    "not-representable": "a label that the task's mask or table cannot hold exactly",
    "no-images": "a folder or source without images",
    "one-file-for-many": "one file as the place of several results",
    "out-of-memory": "no batch fits in the memory, as planned or in training",
    "option-range": "an option's value is out of its range",
    "same-target": "two images would have the same result file",
    "card-mismatch": "the weights or network of an export do not fit its card",
    "channels": "an image, or an export to go on from, of another number of channels",
    "damaged-checkpoint": "what an interrupted fit left cannot be read",
    "diverged": "a training whose loss is not a number",
    "folds": "a number of folds that the images cannot be divided into",
    "holds-export": "the place to write to holds an export",
    "image-array": "an array that is no image of the task",
    "no-data": "a folder without data of the kind that is expected",
    "no-epoch": "the options of a fit leave no epoch to train",
    "mask-size": "a mask that is not of its image's size",
    "no-seeds": "a number of seeds that is too small",
    "not-a-study": "the folder of a study holds something else",
    "study-changed": "the folder of a study holds one of other data or options",
    "no-export": "no export where one is read",
    "no-masks": "a task without masks where masks are needed",
    "not-the-same-model": "a converted model whose masks are not the export's",
    "no-onnx": "an export without the ONNX file that is needed",
    "no-such-column": "a table lacks a column, or has it twice",
    "no-such-image": "an image file that does not exist",
    "no-such-path": "a file or folder to read does not exist",
    "no-task-file": "no task.toml where one is read or written",
    "not-empty": "a folder to create holds files already",
    "nothing-varies": "a study or a search with one setting alone",
    "unsupported-backbone": "a backbone that cannot be built as asked",
    "time-budget": "a time budget that is too short for the least work",
    "not-fetched": "weights or an export could not be fetched from elsewhere",
    "exchanged-file": "a file of an export that is not the one that its card names",
    "not-writable": "a file or folder cannot be written",
    "one-class": "labels or masks of one class only",
    "output-in-data": "the place to write to is among the inputs",
    "output-suffix": "an output file whose suffix is not that of its format",
    "size-mismatch": "files of one image that differ in size",
    "task-group": "a pattern for groups that is no regular expression",
    "unreadable-image": "an image file that cannot be decoded",
    "unreadable-table": "a table file that cannot be read",
    "damaged-card": "a card that cannot be read, or whose definition is of no task",
    "wrong-task": "an export of another task",
    "bad-request": "a request to the app that no page makes",
    "edited-meanwhile": "a label that someone else has changed since it was opened",
    "interrupted-fit": "an interrupted fit that must be resumed or discarded",
    "mask-value": "a mask to save with values that are no class",
    "no-images-to-judge": "none of the images to judge an export by is there",
    "no-such-result": "a result of the app that is not there, or was deleted",
    "not-an-image": "a file from elsewhere that is not an image",
    "option-name": "an option whose name or value is not one that it can have",
    "outside-data": "a file outside the data folder",
    "too-large": "a file or request from elsewhere of too many bytes or pixels",
    "untrusted-pickle": "a pickle that is not opened",
}
PACKAGE = Path(fastseg.__file__).parent


def raised_codes() -> list[tuple[str, str, str | None]]:
    """Return module, line and code of each error that the package creates; None without a code.

    Codes that are computed (passed on from another error, or a fault's kind) are returned as "".
    """
    names = {kind.__name__ for kind in (FastsegError, *FastsegError.__subclasses__())}
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in names:
                given = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "code")]
                code = getattr(given[0], "value", "") if given else None
                found.append((module, node.lineno, code if isinstance(code, str | None) else ""))
    return found


def test_every_error_has_a_code():
    assert len(raised_codes()) > 150
    assert [found for found in raised_codes() if found[2] is None] == []


def test_codes_are_kebab_case():
    codes = {code for _, _, code in raised_codes() if code}
    codes |= {re.sub("[ /]", "-", kind) for kind in KINDS}  # what `refuse` makes of a fault
    assert [code for code in codes if not re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", code)] == []


def test_a_code_stands_for_one_mistake():
    modules = defaultdict(set)
    for module, _, code in raised_codes():
        if code:
            modules[code].add(module)
    assert {code for code in modules if len(modules[code]) > 1} == set(SHARED_CODES)


def test_an_error_has_its_kind_as_code_unless_it_is_given_one():
    assert (FastsegError("x").code, DataError("x").code, TaskError("x", "unknown-task").code) == (
        "error",
        "data",
        "unknown-task",
    )


def test_refusing_faults_keeps_the_code_of_the_first():
    for fault, code in (
        (Fault("size mismatch", "f", "d", "r"), "size-mismatch"),
        (Fault("0/255 mask", "f", "d", "r"), "0-255-mask"),
        (DataError("x", "unknown-codes"), "unknown-codes"),
    ):
        try:
            refuse([fault, fault, fault], "fastseg check eye")
        except DataError as error:
            assert error.code == code and re.search(r"\(2 .*fastseg check eye", str(error))


def test_json_prints_the_code_of_a_failure(run):
    result = run("fit", "eyes", "--json", code=1)
    error = json.loads(result.out)["error"]
    assert error["code"] == "unknown-task" and error["message"] in result.err.replace("error: ", "")
    assert run("fit", "eyes", code=1).out == ""
