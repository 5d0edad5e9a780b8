"""Means and standard deviations that the step normalises images with."""

Triple = tuple[float, float, float]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

STATISTICS: dict[str, tuple[Triple, Triple]] = {
    # USB cv_datasets/cifar.py uses ImageNet's figures for CIFAR-10 too.
    "cifar10": IMAGENET,
    # USB cv_datasets/cifar.py.
    "cifar100": (
        (129.3 / 255, 124.1 / 255, 112.4 / 255),
        (68.2 / 255, 65.4 / 255, 70.4 / 255),
    ),
    # USB cv_datasets/svhn.py; TFDS calls the same images svhn_cropped.
    "svhn": ((0.4380, 0.4440, 0.4730), (0.1751, 0.1771, 0.1744)),
    "svhn_cropped": ((0.4380, 0.4440, 0.4730), (0.1751, 0.1771, 0.1744)),
    # USB cv_datasets/stl10.py.
    "stl10": (
        (112.4 / 255, 109.1 / 255, 98.6 / 255),
        (68.4 / 255, 66.6 / 255, 68.5 / 255),
    ),
    # Measured on scikit-learn's 1,797 scans; grey, so all channels are equal.
    "digits": ((0.305, 0.305, 0.305), (0.376, 0.376, 0.376)),
}


def normalisation(name: str) -> tuple[Triple, Triple]:
    """Returns (mean, std) per channel of pixels in [0, 1]; ImageNet's by default."""
    return STATISTICS.get(name.split(":")[0].split("/")[0], IMAGENET)
