"""Write the table of backbones that `fastseg backbones` lists, and run a sample of them for real.

    python scripts/backbones.py [--table FILE] [--part 0/2] [--only TEXT]
    python scripts/backbones.py --run [--size 96] [--only TEXT]

The first tries every model of timm on shapes alone, on the meta device: some 30 minutes on one
core. Rows that FILE has already are kept, so an interrupted run goes on; --quick adds the names
that it lacks, untried. The second takes the smallest model of each family of the table, and trains,
exports and predicts with it: the network's logits at two sizes, gradients of all groups of
parameters, and ONNX against torch.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

from fastseg.errors import brief
from fastseg.models.catalogue import TABLE, Backbone, examine, read_table, untried, write_table

LARGEST = 400.0  # millions of parameters of a model that is run for real


def sweep(table: Path, part: str, only: str, quick: bool) -> None:
    """Examine every model that the table lacks, families in turn, and write the table."""
    import timm

    from fastseg.models.fitting import family_of

    families = defaultdict(list)
    for name in timm.list_models():
        families[family_of(name)].append(name)
    for names in families.values():
        names.sort(key=lambda name: (len(name), name))
    turns = max(map(len, families.values()))
    names = [
        names[turn] for turn in range(turns) for names in families.values() if turn < len(names)
    ]
    index, parts = map(int, part.split("/"))
    rows = {
        row.name: row
        for row in (read_table(table) if table.is_file() else ())
        if not (only and only in row.name)
    }
    if quick:
        rows = {**{name: untried(name) for name in names}, **rows}
        write_table(list(rows.values()), table)
        return
    rows = {name: row for name, row in rows.items() if row.works is not None}
    for name in [name for name in names[index::parts] if only in name]:
        if name not in rows:
            rows[name] = examine(name)
            print(rows[name], flush=True)
            write_table(list(rows.values()), table)
    print(f"{sum(bool(row.works) for row in rows.values())} of {len(rows)} models work")
    of_family = defaultdict(set)
    for row in rows.values():
        of_family[row.family].add(bool(row.works))
    print(f"{sum(True in found for found in of_family.values())} of {len(of_family)} families work")
    print("refused:", *(row.name for row in rows.values() if not row.works))


def run(table: Path, size: int, only: str) -> None:
    """Train, export and predict with the smallest model of each family."""
    families: dict[str, list[Backbone]] = defaultdict(list)
    for row in read_table(table):
        if row.works and only in row.family:
            families[row.family].append(row)
    passed = 0
    for family, rows in sorted(families.items()):
        row = min(rows, key=lambda row: row.parameters)
        began = time.monotonic()
        try:
            if row.parameters > LARGEST:
                raise ValueError(f"{row.parameters:.0f} million parameters")
            result = _run(row.name, (size, size * 4 // 3 // 32 * 32))
            passed += 1
        except Exception as error:  # whatever a family does, the others are tried
            result = f"FAILS: {type(error).__name__} {brief(error)}"
        print(f"{family:26} {row.name:34} {result} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"{passed} of {len(families)} families passed")


def _run(name: str, size: tuple[int, int]) -> str:
    import numpy as np
    import torch

    from fastseg.exports.onnx import Session, write_onnx
    from fastseg.models.factory import segmenter
    from fastseg.models.network import parameter_groups

    torch.manual_seed(0)
    network, _ = segmenter(name, 3, "light", size=size)
    network.precision = "float32"
    network.train()(torch.rand(2, 3, *size)).square().mean().backward()
    groups = parameter_groups(network)
    with_gradient = [any(p.grad is not None for p in group) for group in groups]
    assert all(with_gradient), f"no gradient: {with_gradient}"
    head = sum(p.numel() for p in groups[2]) / 1e6
    network.eval()
    other = (size[0] + 37, size[1] - 21)
    with torch.inference_mode():
        assert network(torch.rand(1, 3, *other)).shape == (1, 3, *other)
        assert network.features(torch.rand(2, 3, *size)).ndim == 2
    card = SimpleNamespace(mean=network.mean, std=network.std, size=list(size), channels=3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        if not write_onnx(network, card, path):
            return f"head {head:.2f} M, no ONNX"
        images = np.random.default_rng(1).integers(0, 256, (1, *size, 3), dtype=np.uint8)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (network.mean, network.std))
        with torch.inference_mode():
            x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
            logits = network((x - mean) / std).numpy()
        difference = float(np.abs(Session(path)(images) - logits).max())
    return f"head {head:.2f} M, ONNX differs by {difference:.1e}"


def main() -> None:
    """Parse the arguments and do it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--part", default="0/1", help="I/N: every Nth model from the Ith")
    parser.add_argument("--only", default="", help="models (with --run: families) with this text")
    parser.add_argument("--quick", action="store_true", help="add the missing names, untried")
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--size", type=int, default=96, help="px, of the images of --run")
    given = parser.parse_args()
    if given.run:
        run(given.table, given.size, given.only)
    else:
        sweep(given.table, given.part, given.only, given.quick)


if __name__ == "__main__":
    main()
