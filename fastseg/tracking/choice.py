"""The trackers by name; `utils.choices` has the names and their packages, for early checks."""

from __future__ import annotations

from .base import Tracker


def tracker_class(name: str) -> type[Tracker]:
    """Return the class of one of `utils.choices.TRACKERS`."""
    if name == "tensorboard":
        from .to_tensorboard import TensorBoard

        return TensorBoard
    if name == "wandb":
        from .to_wandb import WeightsAndBiases

        return WeightsAndBiases
    if name == "mlflow":
        from .to_mlflow import MLflow

        return MLflow
    from .to_trackio import Trackio

    return Trackio
