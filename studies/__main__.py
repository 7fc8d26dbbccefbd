"""``python -m studies NAME [options]``; without a name the studies are listed."""

from __future__ import annotations

import sys

from studies import StudyError

#: A study is a class (see ``study.Study``) and one line here: its name, its module and class, and what it shows.
_LIST = """
label-noise | variability.label_noise:LabelNoise | SGD against NVRM-SGD on wrong labels (NVRM, Figures 3 and 10)
label-noise-sweep | variability.label_noise_sweep:Sweep | the grid that chose the defaults of label-noise
relative-noise | variability.relative_noise:RelativeNoise | noise relative to the size of the weights, on wrong labels: how wide is the window
cycled-noise | variability.cycled_noise:CycledNoise | one draw for four steps against independent draws
suggested-noise | variability.suggested_noise:SuggestedNoise | b without a sweep against the best of a sweep
comparison | variability.comparison:Comparison | NVRM-SGD and other remedies for wrong labels, equally tuned
generalization | variability.generalization:Generalization | gap and test accuracy by b (NVRM, Figures 2 and 9)
batch-norm | variability.batch_norm:BatchNorm | running statistics at clean weights, of training or anew
weight-perturbation | variability.weight_perturbation:WeightPerturbation | noise on the weights (NVRM, Figures 1 and 8)
forgetting | variability.forgetting:Forgetting | Adam against NVRM-Adam on tasks in turn (NVRM, Figures 4, 11, 12)
ewc | variability.forgetting:Ewc | elastic weight consolidation with Adam and NVRM-Adam (NVRM, Figure 5)
denoising | variability.scales:Denoising | NVRM-SGD against PSGD, which keeps its noise (NVRM, Figure 6)
noise-type | variability.scales:NoiseType | Gaussian, uniform and Laplace weight noise (NVRM, Figure 7)
gradient-noise | variability.scales:GradientNoise | large gradient noise instead (NVRM, Figure 13)
stochastic-label-noise | stochastic.label_noise:LabelNoise | stochastic layers on wrong labels (SE-SNN, Figure 3a)
stochastic-label-noise-sweeps | stochastic.label_noise:LabelSweeps | on what that depends (Figures B.1, B.3, B.4)
stochastic-pruning | stochastic.pruning.study:Pruning | stochastic layers for pruning (SE-SNN, Tables 1 to 3)
stochastic-attacks | stochastic.attacks.study:Attacks | stochastic layers under attack (SE-SNN, Figure 2)
stochastic-reid | stochastic.reid.study:Reid | re-identification with wrong labels (SE-SNN, Table 4)
direction-tables | direction.noise_table:NoiseTable | kinds of noise by size (direction thesis, Tables 1 and 2)
direction-variational | direction.variational:VariationalModel | the variational model (thesis, Table 3, Figure 6)
direction-mean-weights | direction.mean_weights:MeanWeights | networks without noise (thesis, Figures 3 to 5)
direction-angles | direction.angles:Angles | by how much each noise turns a vector (Figures 11 to 14)
direction-gradients | direction.gradient_variance:GradientVariance | the gradient's variance by sampling (section 4.2)
injection-linear | injection.linear:Linear | the linear model of noise injection (Levi et al., Figure 2)
injection-phases | injection.phases:Phases | the four phases on Fashion-MNIST (Levi et al., Figures 2 and 3)
injection-decay | injection.decay:Decay | decay times of noise weights and losses (Levi et al., Figure 1)
injection-regularizer | injection.regularizer:Regularizer | nodes against perturbed inputs, beside dropout and L2 (Levi et al., 2023)
probe | injection.probe_model:Probe | the phase diagram of your own model around a noise strength
"""  # noqa: E501
STUDIES = {
    name: (f"studies.{where}", what) for name, where, what in (line.split(" | ") for line in _LIST.strip().splitlines())
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
