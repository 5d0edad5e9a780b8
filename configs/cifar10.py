"""RSMatch on CIFAR-10, 25 labels per class, half of the unlabelled set synthetic.

Paper: 93.81 % (Table 1; best over evaluations, three seeds). Not yet run at this
length, nor measured on a GPU.
    python launch.py --config=configs/cifar10.py
"""

from configs import common


def get_config():
    c = common.get_config()
    c.data.name = "cifar10"
    return c
