"""RSMatch on ImageNet (ILSVRC 2012), 10 % of the labels, half of the unlabelled set
synthetic.

Accuracy and time: not yet run. Each device holds 0.6 GB of weights, averages, momenta
and gradients and 2.4 GB of queue, before activations. Images stay encoded on disk
(144 GB, the pool as much again). The host makes the views, 250 per second and core.
    python launch.py --config=configs/imagenet.py
1 % of the labels: --config.data.labels_per_class=13

TFDS prepares imagenet2012, as tfrecord, from archives that the user has to download.
The paper's second version names this dataset without settings. Values marked USB are
from its SimMatch on ImageNet (config/classic_cv/simmatch).
"""

from configs import common


def get_config():
    c = common.get_config()
    c.data.name = "imagenet2012"
    c.data.image_size = 224  # USB
    c.data.labels_per_class = 128  # our choice: a tenth of a class, as FixMatch
    c.data.synthetic_mode = "add"  # the paper's second version adds
    c.input.cutout = False  # our choice: RandAugment alone, as FixMatch on ImageNet
    c.model.classifier = "resnet50"  # USB
    c.model.detector = "resnet18"  # our choice: the next lighter one
    c.model.dtype = "bfloat16"  # our choice: half the memory of activations
    c.model.bn_momentum = 0.9  # USB: its ResNet has torch's default
    c.method.threshold = 0.7  # USB and FixMatch
    c.method.rsmatch.detector_threshold = 0.95  # our choice: the paper's
    c.optim.weight_decay = 3e-4  # USB and FixMatch
    c.train.batch_size = 128  # USB
    c.train.unlabeled_ratio = 1  # USB
    # Our choice: an evaluation decodes the unlabelled set, millions of images, as well.
    c.eval.every_steps = 20480
    return c
