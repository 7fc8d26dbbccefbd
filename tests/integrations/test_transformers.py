"""The Hugging Face Trainer with a tiny transformer: clean at evaluation and in files, resumed bit for bit."""

import os
import warnings

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

import pytest
import torch
from training import same, weights
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from nvrm_fast import NVRMSGD, NVRMAdamW
from nvrm_fast.integrations import clean_weights
from nvrm_fast.integrations.transformers import CleanWeights

STORAGES = pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
STEPS = 4  # an epoch


def make_model():
    """It writes down its weights at every forward, in training mode (True) and not (False)."""
    torch.manual_seed(0)
    # No dropout: the weights alone make runs differ.
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=11,
            n_positions=8,
            n_embd=8,
            n_layer=1,
            n_head=2,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
            bos_token_id=0,
            eos_token_id=0,
        )  # fmt: skip
    )
    model.seen = {True: [], False: []}
    model.register_forward_pre_hook(lambda model, inputs: model.seen[model.training].append(weights(model)))
    return model


def data(count=8):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 11, (count, 6), generator=generator)
    return [dict(input_ids=row, labels=row) for row in ids]


def make_trainer(folder, masters=False, clean=True, callbacks=(), model=None, cls=NVRMAdamW, **options):
    model = model or make_model()
    settings = dict(lr=1e-2, variability=0.05, master_weights=masters) if cls is NVRMAdamW else dict(lr=0.1)
    arguments = TrainingArguments(
        output_dir=folder, num_train_epochs=2, per_device_train_batch_size=2, use_cpu=True, report_to=[],
        disable_tqdm=True, logging_strategy="no", seed=0, **{"save_strategy": "no", **options},
    )  # fmt: skip
    return Trainer(
        model, arguments, train_dataset=data(), eval_dataset=data(2),
        callbacks=[*([CleanWeights()] if clean else []), *callbacks],
        optimizers=(cls(model.named_parameters(), **settings), None),
    )  # fmt: skip


def read(folder):
    """The weights as whoever uses the checkpoint gets them."""
    return weights(GPT2LMHeadModel.from_pretrained(folder))


@STORAGES
def test_clean_where_it_looks_and_noisy_where_it_trains(tmp_path, masters):
    watched = make_trainer(tmp_path / "a", masters, eval_strategy="steps", eval_steps=1, eval_on_start=True)
    quiet = make_trainer(tmp_path / "b", masters, clean=False)
    watched.train()
    quiet.train()
    seen, unwatched = watched.model.seen, quiet.model.seen
    assert len(seen[True]) == len(unwatched[True]) == 2 * STEPS
    assert all(same(a, b) for a, b in zip(seen[True], unwatched[True]))
    assert same(seen[False][0], seen[True][0])
    for noisy, clean in zip(seen[True][1:], seen[False][1:]):
        assert not same(noisy, clean)
        assert max((noisy[k] - clean[k]).abs().max() for k in noisy) < 6 * 0.05
    assert same(weights(watched.model), seen[False][-1])  # clean after training
    with clean_weights(quiet):
        assert same(weights(quiet.model), weights(watched.model))
    watched.evaluate()
    watched.predict(data(2))
    assert same(weights(watched.model), seen[False][-1])


@STORAGES
@pytest.mark.parametrize("evaluate", [False, True], ids=["saving", "saving after evaluation"])
def test_checkpoints_are_clean_and_resume_exactly(tmp_path, masters, evaluate):
    options = dict(save_strategy="steps", save_steps=1)
    if evaluate:
        options.update(eval_strategy="steps", eval_steps=1)
    straight = make_trainer(tmp_path, masters, **options)
    straight.train()
    looking = make_trainer(tmp_path / "other", masters, eval_strategy="steps", eval_steps=1)
    looking.train()
    for i in range(2 * STEPS):
        assert same(read(tmp_path / f"checkpoint-{i + 1}"), looking.model.seen[False][i])
    for at in (2, STEPS):  # in an epoch, between epochs
        resumed = make_trainer(tmp_path, masters, **{**options, "save_strategy": "no"})
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
        assert len(resumed.model.seen[True]) == 2 * STEPS - at
        assert all(same(a, b) for a, b in zip(straight.model.seen[True][at:], resumed.model.seen[True]))
        assert same(weights(straight.model), weights(resumed.model))


@STORAGES
def test_the_best_model_at_the_end(tmp_path, masters):
    """The one of the first step, by a learning rate that ruins the others; it comes back without noise."""

    def settings(folder):
        return dict(
            folder=folder, masters=masters, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
            load_best_model_at_end=True, metric_for_best_model="loss", max_steps=3,
        )  # fmt: skip

    trainer = make_trainer(**settings(tmp_path))
    trainer.optimizer.param_groups[0]["lr"] = 3.0
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best is not None and not best.endswith("-3")
    loaded = weights(trainer.model)
    assert same(loaded, read(best))
    trainer.save_model(tmp_path / "final")
    assert same(read(tmp_path / "final"), loaded)

    # Trained on, from the best weights under noise and not from the last ones; masters, too.
    before = len(trainer.model.seen[True])
    trainer.train()
    first = trainer.model.seen[True][before]
    assert not same(first, loaded)
    assert max((first[k] - loaded[k]).abs().max() for k in loaded) < 6 * 0.05


def test_a_later_callback_that_saves_is_noticed(tmp_path):
    class SavesAtTwo(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = state.global_step == 2

    late = make_trainer(tmp_path / "late", callbacks=[SavesAtTwo()])
    with pytest.warns(UserWarning, match="the checkpoint of step 2 has noisy weights.*the last of the callbacks"):
        late.train()
    early = make_trainer(tmp_path / "early", clean=False, callbacks=[SavesAtTwo(), CleanWeights()])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*noisy weights.*")
        early.train()
    assert not same(read(tmp_path / "late" / "checkpoint-2"), read(tmp_path / "early" / "checkpoint-2"))


def test_other_optimizers_are_left_alone(tmp_path):
    with_callback = make_trainer(tmp_path, cls=torch.optim.SGD, save_strategy="steps", save_steps=1)
    without = make_trainer(tmp_path / "b", cls=torch.optim.SGD, clean=False)
    with_callback.train()
    without.train()
    assert same(weights(with_callback.model), weights(without.model))


def test_by_class_and_arguments(tmp_path):
    """The Trainer makes the optimizer itself, with its groups (decay or not)."""
    model = make_model()
    arguments = TrainingArguments(
        output_dir=tmp_path, max_steps=2, per_device_train_batch_size=2, use_cpu=True, report_to=[], disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(
        model, arguments, train_dataset=data(), callbacks=[CleanWeights()],
        optimizer_cls_and_kwargs=(NVRMSGD, dict(lr=0.1, momentum=0.9, variability=0.05)),
    )  # fmt: skip
    trainer.train()
    noisy = model.seen[True][1]
    assert not same(noisy, model.seen[True][0]) and not same(noisy, weights(model))
    assert len(trainer.optimizer.param_groups) == 2
