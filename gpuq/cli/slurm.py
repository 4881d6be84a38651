"""Options of submit and run that people know from Slurm and gpuq has not: what to do instead, in one line."""

from __future__ import annotations

import click

from gpuq.cli.command import Command

_NOT_YET = "not in this version of gpuq"
_HINTS = {
    **dict.fromkeys(("-i", "--input"), "write the redirection into the job: --wrap 'CMD < FILE'"),
    **dict.fromkeys(("-s", "--oversubscribe"), "--shared --gpu-mem 20G takes part of a GPU"),
    "--pty": "gpuq run --pty runs a job on this terminal",
    **dict.fromkeys(
        ("-n", "--ntasks", "--ntasks-per-node", "--ntasks-per-gpu", "--gpus-per-task"),
        "gpuq starts the command once; start several inside the job",
    ),
    **dict.fromkeys(
        ("--mem-per-cpu", "--mem-per-gpu", "--cpus-per-gpu"), "give what the job needs in all, with -c and --mem"
    ),
    **dict.fromkeys(("-A", "--account", "-q", "--qos"), "gpuq has no accounts"),
    **dict.fromkeys(("--mail-type", "--mail-user"), "gpuq sends no mail; gpuq wait JOB returns when the job has ended"),
}


def hint(words: str) -> str | None:
    """What to do without the option that `words` begin with, if it is one of Slurm's."""
    option = words.split()[0]
    return _HINTS.get(option.partition("=")[0] if option.startswith("--") else option[:2])


class SlurmAware(Command):
    """A command that answers Slurm's options with what to do instead, and not with how others are spelled."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            instead = hint(error.option_name)
            if instead is None:
                raise
            raise click.UsageError(f"no option {error.option_name}: {instead}", ctx) from None
