"""The mask of a prediction is the argmax of its logits."""

import numpy as np
import pytest

from fastseg.inference.prediction import MaskPrediction
from fastseg.tasks import get


@pytest.mark.parametrize("size", [(1, 1), (31, 48), (100, 130)])
def test_each_pixel_has_the_first_class_of_the_highest_score(size):
    # Whole numbers: many pixels have two classes of the highest score.
    logits = np.random.default_rng(0).integers(0, 4, (4, *size)).astype(np.float32)
    prediction = MaskPrediction(get("eye"), np.zeros((*size, 3), np.uint8), logits, size)
    assert prediction.codes.dtype == np.uint8
    assert np.array_equal(prediction.codes, logits.argmax(0))
