"""RSMatch on Tiny-ImageNet, 200 classes of 500 images at 64 px, 25 labels per class,
half of the unlabelled set synthetic.

Accuracy and time: not yet run. A device holds 1.2 GB of images and 40 MB of queue.
    rsmatch import --layout=tiny_imagenet
        --source=tiny-imagenet-200.zip --out=DATA_DIR/tiny_imagenet/1.0.0
    python launch.py --config=configs/tiny_imagenet.py --config.data.data_dir=DATA_DIR
With ResNet-50: --config.model.classifier=resnet50 --config.model.bn_momentum=0.9

The paper's second version names this dataset without settings: differences from
CIFAR-10 are our choice, and USB's values for CIFAR-100.
"""

from configs import common


def get_config():
    c = common.get_config()
    c.data.name = "tiny_imagenet"
    c.data.synthetic_mode = "add"  # the paper's second version adds
    c.optim.weight_decay = 1e-3
    return c
