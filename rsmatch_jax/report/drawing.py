"""Pictures of a run that the report does without unless asked for."""

from collections.abc import Sequence

from rsmatch_jax.analysis import explain, tsne
from rsmatch_jax.report.detail import COMMANDS, GRADCAM, TSNE, Detail

MAINS = {GRADCAM: explain.main, TSNE: tsne.main}


def draw(detail: Detail, where: Sequence[str]) -> list[str]:
    """Draws what is not there, or is of another step than the run's last, into its
    folder; the commands that failed, which have said why. where: flags that say where
    the data are."""
    failed = []
    for name, main in MAINS.items():
        there = detail.pictures.get(name)
        if there is not None and there.facts.get("step") == detail.result["steps"]:
            continue
        if main([f"--workdir={detail.run.folder}", *where]):
            failed.append(COMMANDS[name].format(folder=detail.run.folder))
    return failed
