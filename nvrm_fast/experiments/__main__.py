"""``python -m nvrm_fast.experiments STUDY [options]``; ``--help`` lists the studies."""

from __future__ import annotations

import argparse
import sys

try:
    from nvrm_fast.experiments import StudyError
    from nvrm_fast.experiments.stochastic.attacks import study as attacks
    from nvrm_fast.experiments.stochastic.labels import study as labels
    from nvrm_fast.experiments.stochastic.labels import sweeps as label_sweeps
    from nvrm_fast.experiments.stochastic.pruning import study as pruning
    from nvrm_fast.experiments.stochastic.reid import study as reid
    from nvrm_fast.experiments.variability import generalization, scales, sweep
    from nvrm_fast.experiments.variability.continual import ewc, forgetting
    from nvrm_fast.experiments.variability.perturbation import study as perturbation
except ModuleNotFoundError as missing:
    if missing.name not in ("matplotlib", "tqdm", "numpy", "PIL"):
        raise
    sys.exit(f'error: the studies need the package {missing.name}; get it by: pip install "nvrm_fast[demo]"')

# A new study is a module with HELP, add_arguments(parser) and main(arguments), and one line here.
STUDIES = {
    "label-noise-sweep": sweep,
    generalization.NAME: generalization,
    perturbation.NAME: perturbation,
    scales.denoising.NAME: scales.denoising,
    scales.noise_type.NAME: scales.noise_type,
    scales.gradient_noise.NAME: scales.gradient_noise,
    forgetting.NAME: forgetting,
    ewc.NAME: ewc,
    "stochastic-label-noise": labels,
    label_sweeps.NAME: label_sweeps,
    reid.NAME: reid,
    attacks.NAME: attacks,
    pruning.NAME: pruning,
}


def build_parser() -> argparse.ArgumentParser:
    """The command line with one sub-command a study."""
    parser = argparse.ArgumentParser(prog="python -m nvrm_fast.experiments", description="Studies of the papers.")
    commands = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    for name, study in STUDIES.items():
        command = commands.add_parser(
            name, help=study.HELP, description=study.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        study.add_arguments(command)
    return parser


def main(command_line: list[str] | None = None) -> int:
    """Run one study and return the exit status: 0, or 2 for a setting or a data set that the user can mend."""
    arguments = build_parser().parse_args(command_line)
    try:
        STUDIES[arguments.study].main(arguments)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
