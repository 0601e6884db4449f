"""`label`: labels a folder with an export, and certifies their error by a random audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ..data.state import CORRECTIONS
from ..errors import DataError
from ..exports.card import CARD, MODEL, Card
from ..exports.read import opened
from ..inference.batch import predict
from ..tasks import Task
from ..tasks.converted import IMAGES
from ..utils.io import read_json, write_json, write_rows
from ..utils.locks import write_lock
from ..utils.shell import typed
from .certificate import AtBest, Certificate, Plan, at_best, certify
from .labelled import (
    CLASSES,
    MASKS,
    Predicted,
    audited_images,
    data_of,
    errors_of,
    predicted_in,
    write_start,
)

AUDIT, LABELS = "audit.json", "labels.csv"
ENDING = "_labelled"  # of the folder's name
ERROR, CONFIDENCE, SAMPLE = 0.05, 0.95, 100
CERTIFIED, AUDITED, REVIEW, OPEN = "certified", "audited", "review", "not certified yet"


@dataclass
class Labelled:
    """A labelled folder: what is left to audit, and the certificate once nothing is."""

    out: Path
    data: Path  # images, labels and task.toml, to be corrected
    plan: Plan
    left: list[str]  # images of the sample that nobody has looked at, in the order of the draw
    certificate: Certificate | None = None
    files: list[Path] = field(default_factory=list)
    at_best: AtBest | None = None  # without a certificate: what the audit can give at most


def label(
    folder: Path | str,
    task: str | Path | Task | None = None,
    export: Path | str | None = None,
    *,
    audit: int = SAMPLE,
    error: float = ERROR,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    out: Path | str | None = None,
    finish: bool = False,
    device: str | None = None,
    bs: int = 4,
    trust: bool = False,
    runtime: str = "auto",
    precision: str | None = None,
) -> Labelled:
    """Label the images in `folder` with an export, and certify the error of the labels by an audit.

    The first call predicts, and draws `audit` images at random (by `seed`, without replacement). A
    person corrects these in the data folder `Labelled.data`, with the app or any other tool. A
    later call with the same arguments takes those that the app saved, or, with `finish`, all of
    them as looked at, and states an upper bound of the mean error, see `metrics.bounds`, and which
    part has a mean error of at most `error`, both with `confidence`. The other images are left to
    review.

    Writes to `out` (default: FOLDER_labelled): the predictions, audit.json (what was drawn, and the
    certificate) and labels.csv (for each image: label, export, audited or not, certified or to be
    reviewed, expected and found error; those to review first). The labels to correct are in
    OUT/png, those of classes in OUT/classes, with images and a task.toml. Raises `DataError`
    "audit-changed" for arguments other than those of the first call, and `FastsegError` kinds.
    """
    folder = Path(folder)
    _check(folder, audit, error, confidence)
    task, source, card = opened(task, export)
    out = Path(out) if out else folder.with_name(folder.resolve().name + ENDING)
    with write_lock(out / AUDIT):
        begun = _begun(out)
        if begun is None:
            if (data_of(task, out) / CORRECTIONS).is_file():
                raise DataError(
                    f"{out}: holds corrected labels, but no {AUDIT}; choose another --out",
                    "holds-corrections",
                )
            predict(
                task,
                [folder],
                out,
                format=MASKS if task.has_masks else None,
                export=source,
                device=device,
                bs=bs,
                trust=trust,
                runtime=runtime,
                precision=precision,
            )
            write_start(task, out)
        predicted = predicted_in(task, out)
        plan = _plan(folder, source, card, predicted, audit, error, confidence, seed)
        if begun:
            _agree(plan, begun, out)
            plan = begun
        data = data_of(task, out)
        looked_at = audited_images(data) | ({*plan.sample} if finish else set())
        left = [name for name in plan.sample if name not in looked_at]
        certificate = None
        errors: dict[str, float] = {}
        if not left:
            errors = errors_of(task, out, predicted, plan.sample)
            certificate = certify(plan, predicted, errors, looked_at)
        files = [_write_labels(task, out, plan, predicted, errors, certificate, looked_at)]
        document: dict[str, Any] = {"plan": asdict(plan)}
        if certificate:
            document["certificate"] = certificate.to_json()
        foreseen = None if certificate else at_best(plan, predicted, _order(plan.images, seed))
        files.insert(0, write_json(out / AUDIT, document))
    return Labelled(out, data, plan, left, certificate, files, foreseen)


@dataclass(frozen=True)
class AuditState:
    """How far the audit of a labelled folder is."""

    out: Path
    plan: Plan
    left: list[str]  # images of the sample that nobody has looked at, in the order of the draw
    sentences: list[str]  # of the certificate; none as long as there is none

    @property
    def exporter(self) -> str:
        """The name of the export that made the labels."""
        return self.plan.source.rpartition(" ")[0] or self.plan.source

    @property
    def command(self) -> str:
        """The command that states the certificate once nothing is left: that of the first call."""
        plan = self.plan
        export = Path("exports") / self.exporter
        if not (export / CARD).is_file():  # the plan has its name only
            export = Path("PATH/OF") / export.name
        options: dict[str, tuple[str, str | None]] = {
            "--export": (str(export), None),
            "--audit": (str(plan.asked or len(plan.sample)), None),
            "--error": (f"{plan.error:g}", f"{ERROR:g}"),
            "--confidence": (f"{plan.confidence:g}", f"{CONFIDENCE:g}"),
            "--seed": (str(plan.seed), "0"),
        }
        folder = Path(plan.folder)
        if self.out.resolve() != folder.with_name(folder.resolve().name + ENDING).resolve():
            options["--out"] = (str(self.out), None)
        given = [f"{name} {typed(value)}" for name, (value, usual) in options.items()
                 if value != usual]  # fmt: skip
        return " ".join(["fastseg label", typed(folder), *given])


def audit_of(data: Path | str) -> AuditState | None:
    """Return the audit that a data folder OUT/png or OUT/classes belongs to; None if to none."""
    data, names = Path(data), (MASKS, CLASSES)
    out = data.parent if data.name in names else data.resolve().parent
    plan = _begun(out) if data.resolve().name in names else None
    if plan is None:
        return None
    done = audited_images(data)
    left = [name for name in plan.sample if name not in done]
    certificate = read_json(out / AUDIT).get("certificate") or {}
    return AuditState(out, plan, left, list(certificate.get("sentences", ())))


def left_to_audit(data: Path | str) -> list[Path]:
    """Return the images of a labelled data folder that are left to audit, in the drawn order.

    Empty if the folder is not part of an audit, or its audit is done.
    """
    audit = audit_of(data)
    return [Path(data) / IMAGES / name for name in audit.left] if audit else []


def _check(folder: Path, audit: int, error: float, confidence: float) -> None:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; check the path", "no-such-path")
    if audit < 1:
        raise DataError(f"--audit {audit} looks at no image; give at least 1", "option-range")
    if not 0 < error < 1:
        raise DataError(f"--error {error:g} is not above 0 and below 1", "option-range")
    if not 0.5 <= confidence < 1:
        raise DataError(f"--confidence {confidence:g} is not from 0.5 to below 1", "option-range")


def _plan(
    folder: Path,
    source: Path,
    card: Card,
    predicted: Sequence[Predicted],
    audit: int,
    error: float,
    confidence: float,
    seed: int,
) -> Plan:
    order = _order(len(predicted), seed)
    return Plan(
        str(folder),
        f"{source.name} {card.sha256.get(MODEL, '')[:12]}".strip(),
        len(predicted),
        error,
        confidence,
        seed,
        [predicted[i].name for i in order[:audit]],
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        audit,
    )


def _order(images: int, seed: int) -> np.ndarray:
    """Return the indices of the images in the order in which they are drawn."""
    return np.random.default_rng(seed).permutation(images)


def _begun(out: Path) -> Plan | None:
    """Return the plan of the audit that was begun in `out`; None if there is none."""
    if not (out / AUDIT).is_file():
        return None
    try:
        return Plan(**read_json(out / AUDIT)["plan"])
    except (KeyError, TypeError):
        raise DataError(
            f"{out / AUDIT}: is no audit; choose another --out", "not-an-audit"
        ) from None


def _agree(plan: Plan, begun: Plan, out: Path) -> None:
    """Raise `DataError` if the audit in `out` was begun with other arguments."""
    other = plan.conflict(begun)
    if other:
        raise DataError(
            f"{out}: holds an audit with {other}, and a promise holds only for what was decided "
            "before anyone looked; repeat its options, or choose another --out",
            "audit-changed",
        )


def _write_labels(
    task: Task,
    out: Path,
    plan: Plan,
    predicted: Sequence[Predicted],
    errors: Mapping[str, float],
    certificate: Certificate | None,
    looked_at: set[str],
) -> Path:
    """Write labels.csv: a row for each image, those to review first, by expected error."""
    ascending = sorted(range(len(predicted)), key=lambda i: predicted[i].expected_error)
    certified = {
        predicted[i].name for i in ascending[: certificate.part.size if certificate else 0]
    }

    def state(image: Predicted) -> str:
        if image.name in looked_at:
            return AUDITED
        if certificate is None:
            return OPEN
        return CERTIFIED if image.name in certified else REVIEW

    rows = [
        {
            "image": str(image.file),
            "label": image.label,
            "source": plan.source,
            "audited": image.name in looked_at,
            "in_sample": image.name in plan.sample,
            "state": state(image),
            "expected_error": image.expected_error,
            "error": errors.get(image.name, ""),
        }
        for image in (predicted[i] for i in reversed(ascending))
    ]
    order = (REVIEW, OPEN, AUDITED, CERTIFIED)
    rows.sort(key=lambda row: order.index(str(row["state"])))
    return write_rows(out / LABELS, rows)
