"""RSMatch on STL-10, 10 classes at 96 px, 25 labels per class, half of the unlabelled
set synthetic.

Not yet run on the real dataset: accuracy, time and memory are unknown. Unlabelled are
the 5,000 training images and the 100,000 of the split `unlabelled`, of which nobody
knows the class; they count as real. Half synthetic takes a pool of 10,500 images a
class. A device holds 2.9 GB of real images, and of the pool as much.
    python launch.py --config=configs/stl10.py
4 labels a class: --config.data.labels_per_class=4
Without a pool: --config.data.synthetic_ratio=0

The paper does not name this dataset. Values marked USB are from its FixMatch on STL-10
(config/classic_cv/fixmatch), whose other values are those of common.py.
"""

from configs import common


def get_config():
    c = common.get_config()
    c.data.name = "stl10"
    c.data.labels_per_class = 25  # USB, beside 4 and 100
    # Our choice: only images of known class can be replaced class by class.
    c.data.synthetic_mode = "add"
    c.input.resident_budget_gb = 8.0  # our choice: all images fit
    c.model.classifier = "wrn_var_37_2"  # USB
    c.model.detector = "wrn_10_1"  # our choice: the paper's on CIFAR
    c.optim.weight_decay = 5e-4  # USB
    return c
