"""Every key of every run, with unit and meaning. The other files state differences.

Values are the paper's (Table 4), or USB's if the paper has none. No value is derived
from another key, so an override never leaves a stale value behind.

A new key is added as `Later(default, neutral=value)`. A run that began before the key
existed keeps the neutral value, which computes what its version computed. Example:

    m.bn_variance = Later("unbiased", neutral="biased")
"""

import dataclasses
from typing import Any

import ml_collections
from ml_collections.config_dict import placeholder


@dataclasses.dataclass(frozen=True)
class Later:
    """The default of a key that workdirs of earlier versions lack."""

    default: Any
    neutral: Any


def get_config() -> ml_collections.ConfigDict:
    """Returns the config with all defaults."""
    config = _keys()
    _take_neutral(config)
    return config


def neutral_values() -> dict[str, Any]:
    """Returns {dotted key: neutral value} of all keys that are `Later`."""
    return _take_neutral(_keys())


def _take_neutral(group: ml_collections.ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Puts the default in the place of every Later; returns the neutral values."""
    neutral = {}
    for key, value in list(group.items()):
        if isinstance(value, ml_collections.ConfigDict):
            neutral |= _take_neutral(value, f"{prefix}{key}.")
        elif isinstance(value, Later):
            neutral[prefix + key] = value.neutral
            del group[key]  # or the type of the first value would bind the second
            group[key] = value.default
    return neutral


def _keys() -> ml_collections.ConfigDict:
    c = ml_collections.ConfigDict()
    c.seed = 0  # initial weights, order of images, views, queue draws

    c.data = d = ml_collections.ConfigDict()
    d.name = "fake"  # digits, fake, a TFDS name, or the path of a dataset folder
    d.data_dir = placeholder(str)  # where TFDS keeps its datasets; None = its default
    d.download = True  # let TFDS fetch a missing dataset
    d.cache_dir = placeholder(str)  # decoded arrays; None = ~/.cache/rsmatch_jax
    # None: images are decoded once, at the one size that they all have. N: images of
    # any sizes stay encoded; the networks see them at N px, by random-resized crops in
    # training.
    d.image_size = placeholder(int)
    # Labelled real images of each class; None = all that have a label.
    d.labels_per_class = placeholder(int)
    d.labels_per_class = 25
    d.validation_per_class = 0  # real images held out; the best step is chosen on them
    # folder; None = <data_dir>/rsmatch_pools/<name>
    d.synthetic_pool = placeholder(str)
    d.synthetic_ratio = 0.5  # r: share of the unlabelled images, 0 = none
    d.synthetic_mode = "replace"  # the real ones (paper v1); add: on top of them (v2)
    # equal parts of every generator; False: the parts that the pool has
    d.synthetic_mix = True
    d.real_only = False  # drop the synthetic part by ground truth
    d.split_seed = placeholder(int)  # choice of images; None = seed
    # Of configs/own.py, a user's pictures. labeled, test: class folders, an archive of
    # them, or a CSV with the columns path,label. unlabeled: a tree of folders, or an
    # archive, or several of these joined by commas. origins: a CSV path,origin[,label]
    # about unlabelled pictures, used for figures alone.
    d.labeled = Later(placeholder(str), neutral=None)
    d.unlabeled = Later(placeholder(str), neutral=None)
    d.test = Later(placeholder(str), neutral=None)
    # Share of each class's labelled pictures that is the test set where test is None.
    d.test_share = Later(0.2, neutral=0.2)
    d.origins = Later(placeholder(str), neutral=None)
    d.size = Later(32, neutral=32)  # px that pictures are brought to without image_size
    # Labelled and unlabelled pictures alike in compression: the less compressed ones
    # are stored once more as JPEG.
    d.same_compression = Later(False, neutral=False)

    c.input = i = ml_collections.ConfigDict()
    # resident: images on the device, views made in the step; tfdata: made by the host
    i.mode = "auto"  # resident if the images fit resident_budget_gb, else tfdata
    i.resident_budget_gb = 4.0  # GiB of each device that images may take
    i.flip = True  # random mirroring
    i.crop_pad = placeholder(int)  # pixels of reflect padding; None = image size / 8
    # Smallest share of an image in a crop; with data.image_size, instead of crop_pad.
    i.crop_area = 0.08
    i.randaugment_ops = 3  # operations, one after the other, on the strong view
    i.cutout = True  # on the strong view
    i.prefetch = 4  # batches made ahead (tfdata)

    c.model = m = ml_collections.ConfigDict()
    # wrn_<depth>_<width>, wrn_var_37_2, resnet18, resnet50, or package.module:factory,
    # a user's encoder (docs/own-encoder.md)
    m.classifier = "wrn_28_2"
    m.detector = "wrn_10_1"  # the paper says "lightweight"; this size is our choice
    # What the detector sees: rgb, or residual: beside it the image's Laplacian, a fixed
    # high-pass filter.
    m.detector_input = Later("rgb", neutral="rgb")
    # What a new run begins from: FILE.safetensors with a resnet18 or resnet50 by
    # torchvision's names, or the workdir of another run, whose EMA weights it takes.
    m.init_from = Later(placeholder(str), neutral=None)
    m.dtype = "float32"  # or bfloat16: type of computations; parameters are float32
    m.bn_momentum = 0.999  # share of the old running statistics that stays each step
    # Running variance. unbiased: n/(n-1) times that of n values, as in torch.
    m.bn_variance = Later("unbiased", neutral="biased")
    m.sync_bn = True  # batch statistics over all devices
    # In training the classifier has separate BatchNorms for images that RSMatch routes
    # synthetic; evaluation takes those of the other images.
    m.split_bn = Later(False, neutral=False)
    m.wrn_preact = "usb"  # usb: stages 2 and 3 start from the raw input; tf: activated

    c.method = a = ml_collections.ConfigDict()
    # rsmatch, fixmatch, flexmatch, freematch, softmatch, adamatch, simmatch, openmatch,
    # iomatch, scomatch, supervised
    a.name = "rsmatch"
    a.threshold = 0.95  # tau: confidence that a label needs
    a.unsup_weight = 1.0  # lambda
    a.flexmatch = x = ml_collections.ConfigDict()
    x.threshold_warmup = True  # images that were never selected lower all thresholds
    a.freematch = f = ml_collections.ConfigDict()
    f.ema_decay = 0.999  # of the threshold and of the class statistics
    f.entropy_weight = 0.001  # of the fairness loss
    f.use_quantile = False  # threshold follows the 0.8-quantile, not the mean
    f.clip_threshold = False  # at most 0.95 (USB on SVHN)
    a.softmatch = m = ml_collections.ConfigDict()
    m.ema_decay = Later(0.999, neutral=0.999)  # of confidences and predictions
    m.n_sigma = Later(2.0, neutral=2.0)  # larger: unsure images weigh less
    m.align = Later(True, neutral=True)  # weights by predictions aligned to all classes
    a.adamatch = d = ml_collections.ConfigDict()
    d.ema_decay = Later(0.999, neutral=0.999)  # of the mean predictions
    d.align = Later(True, neutral=True)  # predictions aligned to labelled images'
    a.rsmatch = r = ml_collections.ConfigDict()
    r.pseudo_label = "fixmatch"  # or another rule, with its keys above
    r.queue_length = 16  # N_q: images in the queue of one class
    r.queue_classes = 10  # P: queues updated a step (at most the number of classes)
    r.queue_push = 1  # Q: images pushed into each of them
    r.queue_sample = "distinct"  # or uniform, class_balanced: both with replacement
    r.queue_min_confidence = 0.0  # classifier confidence that a pushed image needs
    r.queue_min_score = 0.0  # synthetic score (p'_s) that a pushed image needs
    r.queue_reaugment = False  # draw another weak view of queue images
    r.detector_threshold = 0.95  # tau of Eq. 3
    r.detector_unsup_weight = 1.0  # weight of Eq. 3 in Eq. 7
    r.detector_learning_rate = placeholder(float)  # None = optim.learning_rate
    r.detector_weight_decay = placeholder(float)  # None = optim.weight_decay
    # The detector sees labelled and queue images turned and mirrored in eight ways.
    r.detector_turns = Later(False, neutral=False)
    r.fake_weight = 1.0  # weight of Eq. 6 beside Eq. 5
    # How much a synthetic image counts in Eq. 6: one (all alike), confidence (of its
    # label) or difficulty (most where the strong view is neither easy nor hard).
    r.synthetic_weight = Later("one", neutral="one")
    r.route_threshold = 0.0  # an image below this detector confidence counts as real
    r.route_warmup_steps = 0  # in which every image counts as real (= FixMatch)
    r.individual_models = True  # False: the detector is a head on the classifier
    r.classwise_queue = True  # False: one queue of K * N_q
    r.fake_head = True  # False: images that the detector calls synthetic are dropped
    # Which images count as synthetic: by the detector; by entropy, those of which the
    # classifier is surer than of half the batch; by statistics of the pictures, as
    # `rsmatch sift`, once before training; as bounds, by oracle (ground truth) and at
    # random (a coin). The detector learns and is evaluated in any case.
    r.routing = "detector"
    # Scores of the pictures' statistics, as routing=statistics has them, joined to the
    # detector's in routing, queue and screening: none or statistics.
    r.prior = Later("none", neutral="none")
    # What the detector learns beside Eq. 3: queue (Eq. 2), nnpu (that the unlabelled
    # images are labelled-like ones and others, without a queue) or queue+nnpu.
    r.detector_loss = Later("queue", neutral="queue")
    # nnPU's share of synthetic images among the unlabelled ones, above 0 and below 1.
    # None = that of train.real_rows; without it estimated at every evaluation, 0.5
    # before the first.
    r.synthetic_prior = Later(placeholder(float), neutral=None)

    a.simmatch = s = ml_collections.ConfigDict()
    s.temperature = 0.1  # T of the similarities to the labelled images
    s.smoothing = 0.9  # classifier's share in a label; 1 - share is similar images'
    s.projection_size = 128  # width of the embedding
    s.instance_weight = 1.0  # of the similarity loss
    s.da_length = 32  # batches over which distribution alignment averages
    s.warmup_steps = 1024  # steps without similarity loss and smoothing
    s.bank_decay = 0.7  # share of an image's old embedding that stays when it is seen
    s.bank_norm = "fixed"  # unit length per image; usb: per embedding entry, as in USB
    s.epass = False  # mean of three projectors, as in USB's files since March 2024

    a.iomatch = n = ml_collections.ConfigDict()
    n.q_cutoff = Later(0.5, neutral=0.5)  # confidence that a target of K + 1 needs
    n.projection_size = Later(128, neutral=128)  # width below the two open heads
    n.mb_weight = Later(1.0, neutral=1.0)  # of the one-vs-all loss
    n.open_weight = Later(1.0, neutral=1.0)  # of the loss over K + 1 classes
    # Share of the run before that loss: the authors' first of 256 epochs.
    n.open_start = Later(0.00390625, neutral=0.00390625)
    n.align = Later(False, neutral=False)  # predictions aligned to equal classes
    n.da_length = Later(128, neutral=128)  # batches that alignment averages over
    a.openmatch = p = ml_collections.ConfigDict()
    p.oem_weight = Later(0.1, neutral=0.1)  # of the entropy of the one-vs-all head
    p.socr_weight = Later(0.5, neutral=0.5)  # of its agreement on two weak views
    # Share of the run before pseudo-labels count: 10 of the authors' 512 epochs.
    p.start_fix = Later(0.01953125, neutral=0.01953125)
    p.threshold = Later(0.0, neutral=0.0)  # confidence that a selected image needs
    p.temperature = Later(1.0, neutral=1.0)  # T of the confidence
    a.scomatch = q = ml_collections.ConfigDict()
    # Images in the queue; None = 8 times the classes, at least 256.
    q.queue_length = Later(placeholder(int), neutral=None)
    q.push = Later(1, neutral=1)  # Km: images pushed into it a step
    # First confidence that a label "out" needs; counts of predictions change it.
    q.ood_threshold = Later(0.95, neutral=0.95)
    # Share of the run without the losses that teach "out" (authors: epochs).
    q.start_fix = Later(0.0, neutral=0.0)

    c.optim = o = ml_collections.ConfigDict()
    o.learning_rate = 0.03
    o.momentum = 0.9
    o.nesterov = True
    o.weight_decay = 5e-4  # on kernels only
    o.schedule = "cosine_7_16"  # lr * cos(7/16 pi t / T)
    o.warmup_steps = 0  # linear, before the schedule
    o.ema_decay = 0.999  # of the weights that are evaluated and exported
    o.ema_warmup = False  # decay = min(ema_decay, (1 + t) / (10 + t)), for short runs

    c.train = t = ml_collections.ConfigDict()
    t.num_steps = 2**20  # T
    t.batch_size = 64  # B: labelled images a step, over all devices
    t.unlabeled_ratio = 7  # mu: unlabelled images per labelled one
    # N: of a step's unlabelled images N are real and the others synthetic, whatever the
    # set's ratio; with data.real_only these N are all. A control, by ground truth.
    t.real_rows = Later(placeholder(int), neutral=None)
    # Screening: RSMatch's detector looks at so many unlabelled images per labelled one,
    # and a step trains on the likeliest real ones of them and a share of the likeliest
    # synthetic ones. None = every image is trained on.
    t.candidate_ratio = Later(placeholder(int), neutral=None)
    t.candidate_synthetic = Later(placeholder(float), neutral=None)  # None = 0.25
    t.steps_per_dispatch = 16  # maximum, with resident input; always 1 on a CPU
    t.weak_forward = "cat"  # one pass over all rows; separate: weak rows apart

    c.eval = e = ml_collections.ConfigDict()
    e.every_steps = 5120  # also after the last step
    e.batch_size = 512  # images a forward pass
    # The classifier's BatchNorm statistics in an evaluation: those of real images, the
    # labelled ones and those that the method routes so. False: those of training.
    e.real_bn = Later(False, neutral=False)

    c.checkpoint = k = ml_collections.ConfigDict()
    k.every_steps = 5120  # also after the last step
    k.keep = 2  # newest checkpoints that stay, beside the best

    c.log = g = ml_collections.ConfigDict()
    g.every_steps = 256
    g.tensorboard = True  # event files beside metrics.jsonl; False: no TensorFlow
    g.wandb = Later(placeholder(str), neutral=None)  # project at Weights & Biases
    return c
