"""What SCOMatch refuses in a config."""

from rsmatch_jax.methods import keys


def queue_length(config: keys.Config, num_classes: int) -> int:
    """Returns method.scomatch.queue_length, the authors' length for None."""
    length = config.method.scomatch.queue_length
    return max(8 * num_classes, 256) if length is None else length


def check_data(
    config: keys.Config, num_classes: int, num_synthetic: int | None
) -> list[str]:
    """See `Method.check_data`."""
    del num_synthetic
    length, batch = queue_length(config, num_classes), config.train.batch_size
    rows = keys.unlabelled_rows(config)
    if length < batch:
        way_out = f"the queue holds {length} images and can never give train."
        way_out += f"batch_size={batch} different ones; lengthen it"
        keys.refuse(config, "method.scomatch.queue_length", way_out)
    if config.method.scomatch.push > min(length, rows):
        way_out = f"the queue holds {length} images and a step has train.batch_size * "
        way_out += f"unlabeled_ratio = {rows} unlabelled ones; push at most as many"
        keys.refuse(config, "method.scomatch.push", way_out)
    return []
