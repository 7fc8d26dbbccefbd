"""``python -m studies NAME [options]``; without a name the studies are listed."""

from __future__ import annotations

import sys

from studies import StudyError

#: A study is a class (see ``study.Study``) and one line here: its module and name, and what it shows.
STUDIES = {
    "label-noise": (
        "studies.variability.label_noise:LabelNoise",
        "SGD against NVRM-SGD on wrong labels (NVRM, Figures 3 and 10)",
    ),
    "label-noise-sweep": (
        "studies.variability.label_noise_sweep:Sweep",
        "the grid that chose the defaults of label-noise",
    ),
    "relative-noise": (
        "studies.variability.relative_noise:RelativeNoise",
        "noise relative to the size of the weights, on wrong labels: how wide is the window",
    ),
    "cycled-noise": (
        "studies.variability.cycled_noise:CycledNoise",
        "one draw for four steps against independent draws",
    ),
    "suggested-noise": (
        "studies.variability.suggested_noise:SuggestedNoise",
        "b without a sweep against the best of a sweep",
    ),
    "comparison": (
        "studies.variability.comparison:Comparison",
        "NVRM-SGD and other remedies for wrong labels, equally tuned",
    ),
    "generalization": (
        "studies.variability.generalization:Generalization",
        "gap and test accuracy by b (NVRM, Figures 2 and 9)",
    ),
    "batch-norm": (
        "studies.variability.batch_norm:BatchNorm",
        "running statistics at clean weights, of training or anew",
    ),
    "weight-perturbation": (
        "studies.variability.weight_perturbation:WeightPerturbation",
        "noise on the weights (NVRM, Figures 1 and 8)",
    ),
    "forgetting": (
        "studies.variability.forgetting:Forgetting",
        "Adam against NVRM-Adam on tasks in turn (NVRM, Figures 4, 11, 12)",
    ),
    "ewc": ("studies.variability.ewc:Ewc", "elastic weight consolidation with Adam and NVRM-Adam (NVRM, Figure 5)"),
    "denoising": (
        "studies.variability.denoising:Denoising",
        "NVRM-SGD against PSGD, which keeps its noise (NVRM, Figure 6)",
    ),
    "noise-type": (
        "studies.variability.noise_type:NoiseType",
        "Gaussian, uniform and Laplace weight noise (NVRM, Figure 7)",
    ),
    "gradient-noise": (
        "studies.variability.gradient_noise:GradientNoise",
        "large gradient noise instead (NVRM, Figure 13)",
    ),
    "stochastic-label-noise": (
        "studies.stochastic.label_noise:LabelNoise",
        "stochastic layers on wrong labels (SE-SNN, Figure 3a)",
    ),
    "stochastic-label-noise-sweeps": (
        "studies.stochastic.label_sweeps:LabelSweeps",
        "on what that depends (Figures B.1, B.3, B.4)",
    ),
    "stochastic-pruning": (
        "studies.stochastic.pruning.study:Pruning",
        "stochastic layers for pruning (SE-SNN, Tables 1 to 3)",
    ),
    "stochastic-attacks": (
        "studies.stochastic.attacks.study:Attacks",
        "stochastic layers under attack (SE-SNN, Figure 2)",
    ),
    "stochastic-reid": ("studies.stochastic.reid.study:Reid", "re-identification with wrong labels (SE-SNN, Table 4)"),
    "direction-tables": (
        "studies.direction.noise_table:NoiseTable",
        "kinds of noise by size (direction thesis, Tables 1 and 2)",
    ),
    "direction-variational": (
        "studies.direction.variational:VariationalModel",
        "the variational model (thesis, Table 3, Figure 6)",
    ),
    "direction-mean-weights": (
        "studies.direction.mean_weights:MeanWeights",
        "networks without noise (thesis, Figures 3 to 5)",
    ),
    "direction-angles": ("studies.direction.angles:Angles", "by how much each noise turns a vector (Figures 11 to 14)"),
    "direction-gradients": (
        "studies.direction.gradient_variance:GradientVariance",
        "the gradient's variance by sampling (section 4.2)",
    ),
    "injection-linear": (
        "studies.injection.linear:Linear",
        "the linear model of noise injection (Levi et al., Figure 2)",
    ),
    "injection-phases": (
        "studies.injection.phases:Phases",
        "the four phases on Fashion-MNIST (Levi et al., Figures 2 and 3)",
    ),
    "injection-decay": (
        "studies.injection.decay:Decay",
        "decay times of noise weights and losses (Levi et al., Figure 1)",
    ),
    "probe": ("studies.injection.probe_model:Probe", "the phase diagram of your own model around a noise strength"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one study; returns the exit status: 0, 2 where the user can correct something, 130 where stopped."""
    name, *options = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"  {study:30s} {what}" for study, (_, what) in STUDIES.items()]
        print("usage: python -m studies NAME [options]; NAME --help lists a study's options\n", *lines, sep="\n")
        return 0
    try:
        if name not in STUDIES:
            raise StudyError(f"there is no study {name!r}: choose one of {', '.join(STUDIES)}")
        try:
            from studies import runner
        except ModuleNotFoundError as missing:
            raise StudyError(
                f"the package {missing.name} is missing: pip install -r studies/requirements.txt"
            ) from None
        runner.main(name, STUDIES[name][0], options)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
