"""Pictures of a run that the report does without unless asked for."""

from rsmatch_jax.analysis import see, tsne
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.report.detail import COMMANDS, GRADCAM, TSNE, Detail

MAINS = {GRADCAM: see.main, TSNE: tsne.main}


def draw(detail: Detail):
    """Draws what is not there, or is of another step than the run's last, into its
    folder. Raises RunFailed where one cannot be drawn; the command has said why."""
    for name, main in MAINS.items():
        there = detail.pictures.get(name)
        if there is not None and there.facts.get("step") == detail.result["steps"]:
            continue
        if main([f"--workdir={detail.run.folder}"]):
            command = COMMANDS[name].format(folder=detail.run.folder)
            raise RunFailed(
                f"{detail.run.folder}/{name} was not drawn. Leave --draw out, or see "
                f"what helps: {command} --help"
            )
