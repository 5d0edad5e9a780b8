"""RSMatch on 8 x 8 scans of handwritten digits: the demo.

100 labelled scans, 1,297 unlabelled images, seven in ten of which a diffusion model
drew between two classes. A minute and a half on 2 CPU cores; test accuracy 0.959,
detector balanced accuracy 0.87 (five seeds, RESULTS.md).
    python launch.py --config=configs/digits.py --workdir=runs/digits
"""

from configs import common


def get_config():
    c = common.get_config()
    c.data.name = "digits"
    c.data.labels_per_class = 10
    c.data.synthetic_ratio = 0.7
    c.input.flip = False  # a mirrored digit has another meaning
    c.model.classifier = "wrn_10_1"
    c.model.bn_momentum = 0.99
    c.optim.ema_decay = 0.99
    c.train.num_steps = 1200
    c.train.batch_size = 32
    c.train.unlabeled_ratio = 4
    c.eval.every_steps = 100
    c.checkpoint.every_steps = 400
    c.log.every_steps = 50
    return c
