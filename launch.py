"""Trains a run: python launch.py --config=configs/digits.py [--workdir=DIR] ...

The same as `python -m rsmatch_jax.train`; --help lists the flags.
"""

from rsmatch_jax import terminal, train

if __name__ == "__main__":
    terminal.leave(train.main())
