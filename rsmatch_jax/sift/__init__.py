"""Which pictures are synthetic: the command, its page, its sheet and its folders."""
