"""RSMatch on CIFAR-100, 25 labels per class, half of the unlabelled set synthetic.

Paper: 63.51 % (Table 1; best over evaluations, three seeds). Not yet run at this
length, nor measured on a GPU.
    python launch.py --config=configs/cifar100.py
"""

from configs import common


def get_config():
    c = common.get_config()
    c.data.name = "cifar100"
    c.optim.weight_decay = 1e-3
    return c
