"""Errors carry a short stable code, which `--json` prints; the message stays one line on standard error."""

import json

from fastseg.data.issues import Fault, refuse
from fastseg.errors import DataError, FastsegError, TaskError


def test_an_error_has_its_kind_as_code_unless_it_is_given_one():
    assert (FastsegError("x").code, DataError("x").code, TaskError("x", "unknown-task").code) == (
        "error",
        "data",
        "unknown-task",
    )


def test_refusing_faults_keeps_the_code_of_the_first():
    for fault, code in (
        (Fault("size mismatch", "f", "d", "r"), "size-mismatch"),
        (DataError("x", "unknown-codes"), "unknown-codes"),
    ):
        try:
            refuse([fault, fault])
        except DataError as error:
            assert error.code == code


def test_json_prints_the_code_of_a_failure(run):
    result = run("fit", "eyes", "--json", code=1)
    error = json.loads(result.out)["error"]
    assert error["code"] == "unknown-task" and error["message"] in result.err.replace("error: ", "")
    assert run("fit", "eyes", code=1).out == ""
