"""Types of the public names, which `__init__.py` imports on first use."""

from . import tasks as tasks
from .checks.dataset import check as check
from .conversion.converting import export as export
from .corrections.audit import label as label
from .corrections.incoming import add as add
from .corrections.order import next_images as next_images
from .discovery.look import new as new
from .errors import FastsegError as FastsegError
from .evaluation.run import evaluate as evaluate
from .exports.earlier import restore as restore
from .exports.write import save as save
from .importers.conversion import convert as convert
from .importers.face_masks import make_masks as make_masks
from .importers.smp_hub import adopt as adopt
from .importers.surfaces import gather as gather
from .inference.batch import predict as predict
from .inference.loading import load as load
from .inference.photo import segment as segment
from .learners.build import unet_learner as unet_learner
from .learners.build import vision_learner as vision_learner
from .learners.preparation import learner as learner
from .measuring.run import measure as measure
from .report.browse import show as show
from .report.results import interpret as interpret
from .sharing.pack import pack as pack
from .sharing.pull import pull as pull
from .sharing.push import push as push
from .training.fit import find_lr as find_lr
from .training.fit import fit as fit
from .training.how_many import how_many as how_many
from .training.study import study as study
from .training.tune import tune as tune

__version__: str
__all__: list[str]
