"""Experiment trackers: a fit reports to TensorBoard, Weights & Biases, MLflow or Trackio.

`base` says what a tracker is; each one is a module of its own, which alone imports its package.
`reporting` hands what a fit reports to a tracker, in a thread, and survives its failures. `figures`
makes names and numbers of settings and metrics.
"""
