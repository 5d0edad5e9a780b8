"""Overrides of the digits' config that are wrong, and words of their answers."""

SIMMATCH = "method.name=simmatch method.simmatch"
IOMATCH = "method.name=iomatch method.iomatch"
OPENMATCH = "method.name=openmatch"
SCOMATCH = "method.name=scomatch method.scomatch"
CASES = [
    ("data.nam=x", "data.nam | did you mean 'name'"),
    ("dota.name=x", "dota | did you mean 'data'"),
    ("seed.x=1", "seed.x"),
    ("data={'labels_per_class':3}", "config.data: | a group of keys"),
    ("seed=abc", "seed=abc: it must be a whole number"),
    ("train.num_steps=1.5", "train.num_steps | 1.5"),
    ("input.flip=maybe", "input.flip=maybe: it must be true or false"),
    ("optim.momentum=a", "momentum=a: it must be a number"),
    ("method.rsmatch=3", "config.method.rsmatch: | a group of keys"),
    ("seed=-1", "seed=-1"),
    ("seed=2147483648", "seed=2147483648 | between 0 and 2147483647"),
    # data
    ("data.labels_per_class=0", "labels_per_class=0 | 1 or more"),
    ("data.labels_per_class=127", "labels_per_class=127 | only 126"),
    ("data.validation_per_class=-1", "validation_per_class=-1"),
    ("data.validation_per_class=120", "validation_per_class=120 | only 126"),
    ("data.synthetic_ratio=-0.1", "synthetic_ratio=-0.1"),
    ("data.synthetic_ratio=1.1", "synthetic_ratio=1.1 | at most 1"),
    ("data.synthetic_ratio=nan", "synthetic_ratio=nan"),
    ("optim.learning_rate=inf", "learning_rate=inf | finite"),
    ("data.synthetic_ratio=0.95", "synthetic_ratio=0.95 | stay | most 0.922"),
    (
        "data.synthetic_ratio=1.0 data.synthetic_mode=add",
        "synthetic_ratio=1.0 | below 1",
    ),
    ("data.synthetic_ratio=0.8 data.synthetic_mode=add", "190 images | 512 are needed"),
    ("data.synthetic_mode=mix", "synthetic_mode=mix | replace"),
    ("data.synthetic_pool=/nope", "/nope | rsmatch import | generate | ratio=0"),
    ("data.synthetic_pool=fake", "class_0 | digits"),
    ("data.name=./nope", "nope | no such folder"),
    # input
    ("input.crop_pad=-1", "crop_pad=-1"),
    ("input.crop_pad=8", "crop_pad=8 | at most 7"),
    ("input.randaugment_ops=-1", "randaugment_ops=-1"),
    ("input.prefetch=0", "prefetch=0"),
    ("input.mode=host", "input.mode=host | resident | tfdata"),
    ("input.resident_budget_gb=-1", "resident_budget_gb=-1"),
    (
        "input.mode=resident input.resident_budget_gb=0",
        "input.mode=resident | resident_budget_gb=0 | tfdata",
    ),
    ("train.steps_per_dispatch=0", "steps_per_dispatch=0"),
    # model
    ("model.classifier=vgg", "model.classifier | vgg | wrn_28_2"),
    ("model.detector=wrn_11_1", "model.detector | wrn_11_1"),
    (
        "model.detector=nonets:small",
        "model.detector: 'nonets:small' | no module nonets",
    ),
    ("model.init_from=/nope", "model.init_from=/nope | does not exist | .safetensors"),
    ("model.dtype=float16", "dtype=float16 | bfloat16"),
    ("model.bn_momentum=1.5", "bn_momentum=1.5"),
    ("model.wrn_preact=both", "wrn_preact=both"),
    # method
    ("method.name=foo", "method.name=foo | rsmatch | fixmatch"),
    ("method.threshold=1.01", "threshold=1.01"),
    ("method.unsup_weight=-1", "unsup_weight=-1"),
    ("method.rsmatch.queue_length=3", "queue_length=3 | uniform"),
    ("method.rsmatch.queue_push=17", "queue_push=17 | 16"),
    (
        "method.rsmatch.queue_push=200 method.rsmatch.queue_length=300",
        "queue_push=200 | 128",
    ),
    (
        "method.rsmatch.classwise_queue=False train.unlabeled_ratio=1 "
        "train.batch_size=8",
        "queue_classes=10 | 8 unlabelled",
    ),
    ("method.rsmatch.queue_sample=best", "queue_sample=best"),
    ("method.rsmatch.queue_classes=0", "queue_classes=0"),
    (
        "method.rsmatch.pseudo_label=simmatch",
        "pseudo_label=simmatch | fixmatch | flexmatch | freematch",
    ),
    (
        "method.name=freematch method.freematch.ema_decay=1.1",
        "ema_decay=1.1 | between 0 and 1",
    ),
    (
        "method.name=freematch method.freematch.entropy_weight=-1",
        "entropy_weight=-1 | 0 or more",
    ),
    ("method.rsmatch.routing=luck", "routing=luck | oracle"),
    *(
        (
            f"method.rsmatch.routing={how} method.rsmatch.route_threshold=0.9",
            "route_threshold=0.9 | only routing=detector reads it",
        )
        for how in ("oracle", "random", "entropy", "statistics")
    ),
    *(
        (
            f"method.rsmatch.detector_loss=nnpu method.rsmatch.{key}={value}",
            f"{key}={value} | this config ignores it | detector_loss=queue or queue+",
        )
        for key, value in (
            *(("queue_length", 8), ("queue_classes", 2), ("queue_push", 2)),
            ("queue_sample", "uniform"),
        )
    ),
    *(
        (
            f"method.rsmatch.detector_loss=nnpu method.rsmatch.{key}={value}",
            f"{key}={value} | only detector_loss=queue or queue+nnpu reads it",
        )
        for key, value in (
            *(("queue_min_score", 0.1), ("queue_reaugment", True)),
            ("classwise_queue", False),
        )
    ),
    (
        "method.rsmatch.detector_loss=nnpu method.rsmatch.routing=oracle "
        "method.rsmatch.prior=statistics",
        "prior=statistics | only routing=detector or detector_loss=queue or queue+nnpu",
    ),
    (
        "method.rsmatch.fake_head=False method.rsmatch.fake_weight=0.3",
        "fake_weight=0.3 | only fake_head=True reads it; leave it 1.0",
    ),
    ("method.rsmatch.detector_loss=pu", "detector_loss=pu | queue or nnpu or queue+"),
    *(
        (
            f"method.rsmatch.detector_loss=nnpu method.rsmatch.synthetic_prior={value}",
            f"synthetic_prior={value} | {words}",
        )
        for value, words in (
            *(("0.0", "above 0"), ("-0.1", "above 0")),
            *(("1.0", "below 1"), ("1.5", "below 1")),
        )
    ),
    (
        "method.rsmatch.synthetic_prior=0.5",
        "synthetic_prior=0.5 | only detector_loss=nnpu or queue+nnpu reads it",
    ),
    (
        "method.rsmatch.detector_loss=queue+nnpu train.weak_forward=separate",
        "train.weak_forward=separate | detector_loss=queue+nnpu | weak_forward=cat",
    ),
    *(
        (
            f"method.rsmatch.detector_loss={loss} train.candidate_ratio=12",
            f"candidate_ratio=12 | detector_loss={loss} | leave it out (None)",
        )
        for loss in ("nnpu", "queue+nnpu")
    ),
    (f"{SIMMATCH}.bank_norm=torch", "bank_norm=torch | fixed or usb"),
    (f"{SIMMATCH}.temperature=0.0", "temperature=0.0 | above 0"),
    (f"{SIMMATCH}.smoothing=1.5", "smoothing=1.5 | between 0 and 1"),
    (f"{SIMMATCH}.da_length=0", "da_length=0 | 1 or more"),
    (f"{SIMMATCH}.warmup_steps=-1", "warmup_steps=-1 | 0 or more"),
    (f"{IOMATCH}.q_cutoff=1.1", "q_cutoff=1.1 | between 0 and 1"),
    (f"{IOMATCH}.open_start=-0.1", "open_start=-0.1 | between 0 and 1"),
    (f"{IOMATCH}.mb_weight=-1", "mb_weight=-1 | 0 or more"),
    (f"{IOMATCH}.open_weight=-1", "open_weight=-1 | 0 or more"),
    (f"{IOMATCH}.projection_size=0", "projection_size=0 | 1 or more"),
    (f"{IOMATCH}.da_length=0", "da_length=0 | 1 or more"),
    (f"{OPENMATCH} method.openmatch.start_fix=10", "start_fix=10 | between 0 and 1"),
    (f"{OPENMATCH} method.openmatch.temperature=0.0", "temperature=0.0 | above 0"),
    (f"{OPENMATCH} method.openmatch.oem_weight=-1", "oem_weight=-1 | 0 or more"),
    (f"{OPENMATCH} method.openmatch.socr_weight=-1", "socr_weight=-1 | 0 or more"),
    (f"{OPENMATCH} method.openmatch.threshold=1.1", "threshold=1.1 | between 0 and 1"),
    (
        f"{OPENMATCH} train.weak_forward=separate",
        "weak_forward=separate | openmatch | weak_forward=cat",
    ),
    (f"{SCOMATCH}.queue_length=0", "queue_length=0 | 1 or more"),
    (f"{SCOMATCH}.queue_length=31", "queue_length=31 | train.batch_size=32 | lengthen"),
    (f"{SCOMATCH}.push=0", "push=0 | 1 or more"),
    (f"{SCOMATCH}.push=129", "push=129 | 256 images | = 128 unlabelled"),
    (f"{SCOMATCH}.ood_threshold=1.5", "ood_threshold=1.5 | between 0 and 1"),
    (f"{SCOMATCH}.start_fix=-0.1", "start_fix=-0.1 | between 0 and 1"),
    (
        "method.name=scomatch train.batch_size=260 train.unlabeled_ratio=1",
        "scomatch.queue_length=None | 256 images | train.batch_size=260",
    ),
    (
        "method.rsmatch.individual_models=False "
        "method.rsmatch.detector_learning_rate=0.1",
        "detector_learning_rate=0.1 | individual_models",
    ),
    (
        "method.rsmatch.routing=oracle data.synthetic_ratio=0",
        "routing=oracle | data.synthetic_ratio=0 | routing=detector",
    ),
    (
        "method.rsmatch.routing=oracle data.real_only=True",
        "routing=oracle | data.real_only=True | data.real_only=False",
    ),
    # keys of another method than the chosen one
    (
        "method.simmatch.temperature=0.2 method.name=fixmatch",
        "method.simmatch.temperature=0.2 | method.name=fixmatch ignores it | "
        "belongs to method.name=simmatch",
    ),
    (
        "method.rsmatch.pseudo_label=flexmatch method.freematch.ema_decay=0.9",
        "method.freematch.ema_decay=0.9 | method.rsmatch.pseudo_label=flexmatch "
        "ignores | method.rsmatch.pseudo_label=freematch",
    ),
    (
        "method.simmatch.epass=True",
        "simmatch.epass=True | method.name=rsmatch | method.name=simmatch",
    ),
    (
        "method.name=supervised method.rsmatch.queue_push=2",
        "rsmatch.queue_push=2 | method.name=supervised | method.name=rsmatch",
    ),
    (
        "method.openmatch.oem_weight=1 method.name=fixmatch",
        "openmatch.oem_weight=1 | fixmatch ignores it | method.name=openmatch",
    ),
    (
        "method.unsup_weight=2 method.name=supervised",
        "method.unsup_weight=2 | method.name=supervised ignores | fixmatch",
    ),
    # optim, train, eval, checkpoint, log
    ("optim.learning_rate=0", "learning_rate=0"),
    ("optim.momentum=2", "momentum=2"),
    ("optim.schedule=step", "schedule=step | cosine_7_16"),
    ("optim.warmup_steps=1200", "warmup_steps=1200"),
    ("train.batch_size=0", "batch_size=0"),
    ("train.batch_size=30", "batch_size=30 | 4 devices | such as"),
    ("train.num_steps=-5", "num_steps=-5"),
    ("train.unlabeled_ratio=0", "unlabeled_ratio=0"),
    ("train.real_rows=0", "real_rows=0 | 1 or more"),
    ("train.candidate_ratio=3", "candidate_ratio=3 | train.unlabeled_ratio=4"),
    (
        "train.candidate_ratio=9 method.name=freematch",
        "candidate_ratio=9 | freematch | use rsmatch",
    ),
    ("train.candidate_ratio=9 train.real_rows=9", "candidate_ratio=9 | real_rows"),
    ("train.candidate_synthetic=0.5", "synthetic=0.5 | set train.candidate_ratio"),
    (
        "train.candidate_ratio=9 input.mode=tfdata",
        "candidate_ratio=9 | lie on the device | input.mode=resident",
    ),
    (
        "train.candidate_ratio=9 method.rsmatch.routing=entropy",
        "routing=entropy | before the step | candidate_ratio",
    ),
    (
        "train.candidate_ratio=9 method.rsmatch.individual_models=False",
        "individual_models=False | candidate_ratio",
    ),
    (
        "method.rsmatch.synthetic_weight=confidence method.rsmatch.fake_head=False",
        "synthetic_weight=confidence | only fake_head=True reads it; leave it one",
    ),
    ("method.rsmatch.prior=sift", "prior=sift | none or statistics"),
    (
        "method.rsmatch.prior=statistics data.labels_per_class=None "
        "data.synthetic_ratio=0 method.name=fixmatch",
        "prior=statistics | fixmatch ignores it",
    ),
    ("train.real_rows=129", "real_rows=129 | = 128 unlabelled images"),
    ("train.real_rows=9 method.name=supervised", "real_rows=9 | supervised | None"),
    (
        "train.real_rows=9 data.synthetic_ratio=0",
        "real_rows=9 | 119 synthetic unlabelled images | leave this control out",
    ),
    ("train.weak_forward=never", "weak_forward=never"),
    ("model.detector_input=noise", "detector_input=noise | rgb or residual"),
    (
        "model.detector_input=residual method.name=fixmatch",
        "detector_input=residual | fixmatch has no detector",
    ),
    (
        "model.detector_input=residual method.rsmatch.individual_models=False",
        "detector_input=residual | individual_models=False | leave it rgb",
    ),
    (
        "method.rsmatch.detector_turns=True method.rsmatch.individual_models=False",
        "detector_turns=True | individual_models=False | leave it False",
    ),
    (
        "method.rsmatch.detector_turns=True method.rsmatch.detector_loss=queue+nnpu",
        "detector_turns=True | detector_loss=queue+nnpu | leave it False",
    ),
    (
        "model.split_bn=True method.name=fixmatch",
        "split_bn=True | fixmatch routes no image | use rsmatch",
    ),
    (
        "model.split_bn=True method.rsmatch.routing=entropy",
        "split_bn=True | routing=entropy | leave it False",
    ),
    (
        "model.split_bn=True method.rsmatch.individual_models=False",
        "split_bn=True | individual_models=False | leave it False",
    ),
    ("model.split_bn=True model.init_from=runs/a", "split_bn=True | init_from=runs/a"),
    (
        "eval.real_bn=True method.rsmatch.routing=entropy",
        "eval.real_bn=True | routing=entropy | leave it False",
    ),
    (
        "eval.real_bn=True method.rsmatch.individual_models=False",
        "eval.real_bn=True | individual_models=False | leave it False",
    ),
    ("eval.every_steps=0", "eval.every_steps=0"),
    ("checkpoint.keep=0", "checkpoint.keep=0"),
    ("log.every_steps=0", "log.every_steps=0"),
    ("log.wandb=me/runs", "log.wandb=me/runs | WANDB_ENTITY"),
]
