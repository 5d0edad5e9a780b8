"""RSMatch on pictures of one's own: a few labelled, many of unknown origin.

    python launch.py --config=configs/own.py --config.data.labeled=photos/labelled
        --config.data.unlabeled=photos/scraped

labeled: a folder with a folder of pictures per class, an archive of it, or a CSV with
the columns path,label. unlabeled: a tree of folders, or an archive, or several of
these joined by commas. data.test names a test set; otherwise a fifth of the labelled
pictures is held out. Pictures are brought to 32 x 32 px (data.size); for larger ones
set data.image_size and model.classifier.
The network and the batches are CIFAR-10's; 20,000 steps and sampling the queue with
replacement are our choice. Not yet measured on a GPU.
"""

from configs import common


def get_config():
    c = common.get_config()
    c.data.name = "own"
    c.data.labels_per_class = None
    c.data.synthetic_ratio = 0.0
    # With replacement, because the queue of two or three classes holds few images.
    c.method.rsmatch.queue_sample = "uniform"
    c.train.num_steps = 20_000
    c.eval.every_steps = 1000
    c.checkpoint.every_steps = 1000
    c.log.every_steps = 100
    return c
