"""ResNets by torchvision's names (torchvision/models/resnet.py): shapes and values."""

import numpy as np

BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet50": (3, 4, 6, 3),
    "resnet_basic": (1, 1),  # for quick tests; torchvision has none
    "resnet_deep": (1, 1),
}
BOTTLENECK = ("resnet50", "resnet_deep")


def shapes(name, classes=1000):
    """{name: shape} of a model's state_dict, without num_batches_tracked."""
    deep, result, width = name in BOTTLENECK, {}, 64

    def norm(module, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            result[f"{module}.{part}"] = (channels,)

    def conv(module, bn, out, inputs, size):
        result[f"{module}.weight"] = (out, inputs, size, size)
        norm(bn, out)

    conv("conv1", "bn1", 64, 3, 7)
    for i, count in enumerate(BLOCKS[name]):
        planes = 64 * 2**i
        out = planes * 4 if deep else planes
        for j in range(count):
            at = f"layer{i + 1}.{j}"
            sizes = [1, 3, 1] if deep else [3, 3]
            channels = [width, planes, planes, out] if deep else [width, planes, out]
            for n, size in enumerate(sizes, start=1):
                conv(f"{at}.conv{n}", f"{at}.bn{n}", channels[n], channels[n - 1], size)
            if j == 0 and (i > 0 or width != out):
                conv(f"{at}.downsample.0", f"{at}.downsample.1", out, width, 1)
            width = out
    result["fc.weight"], result["fc.bias"] = (classes, width), (classes,)
    return result


def state_dict(name, seed=0):
    """{name: float32 array} of random values, which keep activations near one."""
    rng, values = np.random.default_rng(seed), {}
    for key, shape in shapes(name).items():
        if key.endswith("running_var") or len(shape) == 1 and key.endswith("weight"):
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) == 4:
            value = rng.normal(0, (1 / np.prod(shape[1:])) ** 0.5, shape)
        else:
            value = rng.normal(0, 0.2, shape)
        values[key] = value.astype(np.float32)
    return values


def counters(name):
    """{name: int64 array}: what torchvision's files hold beside, of every norm."""
    return {
        key.replace("running_mean", "num_batches_tracked"): np.int64(3).reshape(())
        for key in shapes(name)
        if key.endswith("running_mean")
    }
