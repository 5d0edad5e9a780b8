"""The checker of types and of jaxtyping's shapes; an int passes as a float."""

import beartype

check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
