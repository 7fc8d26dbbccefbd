"""The parts of the re-identification study: reader, protocol, wrong labels, networks, both stages."""

import hashlib

import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from nvrm_fast import nn as noisy
from studies import StudyError
from studies.fit import endless
from studies.stochastic.methods import BASELINE, METHODS, SE_SNN
from studies.stochastic.reid import market1501, resnet, stages
from studies.stochastic.reid.market1501 import DISTRACTOR, JUNK, Pictures
from studies.stochastic.reid.stages import Stage, Task


def pictures(identities, cameras):
    return Pictures((), torch.tensor(identities), torch.tensor(cameras))


def write(folder, part, *names, size=(8, 16), color=(200, 100, 50)):
    (folder / part).mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", size, color).save(folder / part / name)


@pytest.fixture
def market(tmp_path):
    write(tmp_path, "bounding_box_train", "0002_c1s1_000451_03.jpg", "0007_c2s3_000001_01.jpg")
    write(tmp_path, "bounding_box_train", "0002_c3s1_000451_03.jpg")
    write(tmp_path, "query", "0001_c1s1_001051_00.jpg")
    write(tmp_path, "bounding_box_test", "-1_c1s1_000401_03.jpg", "0000_c6s2_000151_01.jpg", "0001_c2s1_001976_01.jpg")
    return tmp_path


def test_the_official_layout(market):
    (market / "bounding_box_train" / "Thumbs.db").write_bytes(b"as in the official archive")
    read = market1501.read(market)
    assert read.train.identities.tolist() == [2, 2, 7] and read.train.cameras.tolist() == [1, 3, 2]
    assert read.train.labels.tolist() == [0, 0, 1]
    assert read.gallery.identities.tolist() == [JUNK, DISTRACTOR, 1] and read.gallery.cameras.tolist() == [1, 6, 2]
    assert len(read.query) == 1 and read.query.paths[0].name == "0001_c1s1_001051_00.jpg"
    decoded = market1501.decode(read.train.paths, (16, 8))
    assert decoded.shape == (3, 3, 16, 8) and decoded.dtype == torch.uint8
    # JPEG of one color: a unit or two off by its own rounding.
    assert (decoded[0].flatten(1).int() - torch.tensor([[200], [100], [50]])).abs().max() <= 3
    assert market1501.decode(read.train.paths, (32, 24)).shape == (3, 3, 32, 24)


def test_folders_that_are_not_market1501(market, tmp_path):
    with pytest.raises(StudyError, match="lacks pictures in bounding_box_train"):
        market1501.read(tmp_path / "nowhere")
    write(market, "query", "-1_c1s1_001051_00.jpg")
    with pytest.raises(StudyError, match="has no identity"):
        market1501.read(market)
    (market / "query" / "-1_c1s1_001051_00.jpg").unlink()
    write(market, "query", "holiday.jpg")
    with pytest.raises(StudyError, match="holiday.jpg is not named as Market-1501's"):
        market1501.read(market)
    (market / "query" / "holiday.jpg").unlink()
    (market / "bounding_box_train" / "0007_c2s3_000001_01.jpg").unlink()
    with pytest.raises(StudyError, match="has a single identity"):
        market1501.read(market)
    (market / "query" / "0001_c1s1_001051_00.jpg").write_bytes(b"cut short")
    with pytest.raises(StudyError, match="cannot be read as a picture"):
        market1501.decode([market / "query" / "0001_c1s1_001051_00.jpg"], (16, 8))


def test_average_precision_by_hand():
    """Right pictures at places 1 and 3: precisions 1 and 2/3 there; one place above them 1 (by rule) and 1/2."""
    official, steps = market1501.average_precisions(torch.tensor([True, False, True, False]))
    assert steps == pytest.approx((1 + 2 / 3) / 2)
    assert official == pytest.approx(((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2)
    # A single right picture at place 2: from precision 0 above it to 1/2.
    assert market1501.average_precisions(torch.tensor([False, True])) == pytest.approx((1 / 4, 1 / 2))


def test_the_protocol_by_hand():
    """One query of identity 1, camera 1; the gallery in the order of its distance: junk and its own camera's picture do
    not count, the distractor does, so that the ranking is wrong, right, wrong, right."""
    gallery = pictures([JUNK, 1, DISTRACTOR, 1, 2, 1], [2, 1, 3, 2, 1, 3])
    query = pictures([1], [1])
    features = torch.arange(1.0, 7.0)[:, None]
    assert market1501.ranking(features.flatten(), (1, 1), gallery).tolist() == [False, True, False, True]
    scores = market1501.scores(torch.zeros(1, 1), features, query, gallery)
    assert scores["mAP_steps"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert scores["mAP"] == pytest.approx(((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2)
    assert (scores["rank1"], scores["rank5"]) == (0, 1)
    with pytest.raises(StudyError, match="nothing can be found"):
        market1501.scores(torch.zeros(1, 1), features, pictures([9], [1]), gallery)


def official_average_precision(good, junk, ranked):
    """The benchmark's own evaluation, step by step as its authors' program goes through a ranking."""
    old_recall, old_precision, average, found, place = 0.0, 1.0, 0.0, 0, 0
    first = None
    for index in ranked:
        if index in junk:
            continue
        if index in good:
            found += 1
            first = place if first is None else first
        recall, precision = found / len(good), found / (place + 1)
        average += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
        place += 1
        if found == len(good):
            break
    return average, first


def test_the_protocol_against_the_benchmarks_program():
    generator = torch.Generator().manual_seed(0)
    draw = lambda low, high, count: torch.randint(low, high, (count,), generator=generator)  # noqa: E731
    gallery = Pictures((), draw(-1, 6, 90), draw(1, 4, 90))
    query = Pictures((), draw(1, 6, 20), draw(1, 4, 20))
    q, g = (torch.randn(count, 3, generator=generator, dtype=torch.float64) for count in (20, 90))
    precisions, firsts = [], []
    for own, identity, camera in zip(q, query.identities.tolist(), query.cameras.tolist()):
        ranked = (g - own).norm(dim=1).argsort().tolist()
        same = [i for i in range(90) if gallery.identities[i] == identity]
        good = {i for i in same if gallery.cameras[i] != camera}
        junk = (set(same) - good) | {i for i in range(90) if gallery.identities[i] == JUNK}
        average, first = official_average_precision(good, junk, ranked)
        precisions.append(average)
        firsts.append(first)
    scores = market1501.scores(q, g, query, gallery)
    assert scores["mAP"] == pytest.approx(sum(precisions) / 20, abs=1e-12)
    for rank in market1501.RANKS:
        assert scores[f"rank{rank}"] == pytest.approx(sum(first < rank for first in firsts) / 20)


def test_labels_flip_to_the_most_similar_other_identity():
    features = torch.tensor([[0.0, 0], [0, 1], [0, 3], [5, 0], [5, 1]])
    labels = torch.tensor([0, 0, 1, 2, 2])
    similar = stages.most_similar_other(features, labels)
    assert similar.tolist() == [2, 2, 1, 0, 1]
    few, flipped_few = stages.flip_to_similar(labels, similar, 0.4, seed=3)
    many, flipped_many = stages.flip_to_similar(labels, similar, 0.8, seed=3)
    assert (int(flipped_few.sum()), int(flipped_many.sum())) == (2, 4) and bool((flipped_many | ~flipped_few).all())
    for given, flipped in ((few, flipped_few), (many, flipped_many)):
        assert torch.equal(given != labels, flipped)
        assert torch.equal(given[flipped], labels[similar][flipped])
    assert torch.equal(stages.flip_to_similar(labels, similar, 0.0, seed=3)[0], labels)


def test_resnet50_is_torchvisions():
    """Names and shapes of all 320 tensors; the digest was taken from torchvision 0.28."""
    network = resnet.build("resnet50", 1000, seed=0)
    lines = "\n".join(f"{name} {tuple(value.shape)}" for name, value in network.state_dict().items())
    assert hashlib.sha256(lines.encode()).hexdigest() == (
        "d7e4f8bb0a5363446a59c81c3887ccf66900a11651a0ae2dec96d1bb1eb6ea81"
    )
    assert sum(p.numel() for p in network.parameters()) == 25_557_032


def test_weights_from_a_file(tmp_path):
    there, other = resnet.build("small", 7, seed=1), resnet.build("small", 3, seed=2)
    torch.save(there.state_dict(), tmp_path / "weights.pth")
    classifier = other.fc.weight.clone()
    resnet.load_weights(other, tmp_path / "weights.pth")
    assert torch.equal(other.layer4[0].conv3.weight, there.layer4[0].conv3.weight)
    assert torch.equal(other.fc.weight, classifier)  # of other identities
    (tmp_path / "text.pth").write_text("no tensors")
    torch.save({"conv1.weight": there.conv1.weight}, tmp_path / "part.pth")
    for name in ("text.pth", "part.pth"):
        with pytest.raises(StudyError, match="does not fit"):
            resnet.load_weights(other, tmp_path / name)


def small_task(classes=4, each=8):
    """Pictures whose identity is a color; a quarter of the labels is wrong."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(each)
    colors = torch.randint(60, 196, (classes, 3, 1, 1), generator=generator)
    noise = torch.randint(-40, 41, (len(labels), 3, 16, 16), generator=generator)
    flipped = torch.arange(len(labels)) % 4 == 0
    given = torch.where(flipped, (labels + 1) % classes, labels)
    return Task((colors[labels] + noise).to(torch.uint8), given, flipped, classes)


@pytest.fixture
def first():
    task = small_task()
    network = resnet.build("small", task.classes, seed=0)
    return task, stages.first_stage(network, task, Stage(6, 8, 1e-3), cross_entropy, 0, lambda: None)


def run_second(first, name, weight=0.01, steps=4, lr=1e-3, reduction="mean"):
    task, network = first
    return stages.second_stage(
        network, task, Stage(steps, 8, lr), METHODS[name], None, 0, (weight, 4.0, reduction), lambda: None
    )  # fmt: skip


def test_the_second_stage_begins_with_the_first_ones_features(first):
    task, network = first
    x = stages.standardized(task.pictures)
    counts = []
    for stochastic in (False, True):
        new = resnet.extended(network, stochastic, seed=0)
        # Folding the normalization rounds differently.
        torch.testing.assert_close(stages.over(new, task.pictures, new), network(x), rtol=1e-4, atol=1e-4)
        counts.append((sum(p.numel() for p in new.parameters()), sum(p.requires_grad for p in new.parameters())))
    assert counts[0][0] == counts[1][0]  # the baseline's parallel layer
    assert isinstance(new.last_unit[1].conv3, noisy.StochasticConv2d)
    assert not torch.equal(new(x), new(x))
    plain = noisy.to_plain(new)
    torch.testing.assert_close(plain(x), stages.over(new, task.pictures, new), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [BASELINE, SE_SNN])
def test_only_the_last_unit_and_the_classifier_are_trained(first, name):
    new, result = run_second(first, name)
    begin = resnet.extended(first[1], METHODS[name].stochastic, seed=0).state_dict()
    changed = {key for key, value in new.state_dict().items() if not torch.equal(value, begin[key])}
    assert changed == {key for key in begin if key.startswith(("layer4.0.conv3", "fc."))}
    assert result["trained"] < result["weights"] and result["loss"] > 0


def test_the_same_seed_gives_the_same_numbers_and_the_global_generator_stays(first):
    state = torch.get_rng_state()
    one = run_second(first, SE_SNN)[0].state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    again = run_second(first, SE_SNN)[0].state_dict()
    assert all(torch.equal(one[key], again[key]) for key in one)


def test_the_regularizer_raises_sigma_and_weight_0_leaves_it_out(first):
    task, _ = first
    sigma = {}
    for name, weight in ((SE_SNN, 1.0), ("SE-SNN, weight 0", 1.0)):
        network, _ = run_second(first, name, weight, steps=20, lr=1e-2)
        sigma[name] = resnet.deviations(network, stages.standardized(task.pictures))[1].mean()
    assert sigma[SE_SNN] > sigma["SE-SNN, weight 0"] + 0.2


def test_the_regularizer_is_a_mean_or_a_sum(first):
    sigma = {}
    for reduction in ("mean", "sum"):
        network, _ = run_second(first, SE_SNN, 0.01, steps=20, lr=1e-2, reduction=reduction)
        sigma[reduction] = resnet.deviations(network, stages.standardized(first[0].pictures))[1].mean()
    assert sigma["sum"] > sigma["mean"] + 0.2


def test_deviations_are_those_that_the_layer_draws_with(first):
    task, network = first
    new = resnet.extended(network, True, seed=0)
    seen = []
    conv = new.last_unit[1].conv3
    handle = conv.register_forward_hook(lambda module, given, output: seen.append((given[0], output)))
    x = stages.standardized(task.pictures[:2])
    with torch.no_grad(), noisy.noise_mode(new, "mean"):
        new(x)
    given, mean = seen.pop()
    torch.manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([conv(given) for _ in range(400)])
    handle.remove()
    # The mean over 256 channels and a position of the standard deviation of 400 draws: within 1 % of sigma's mean (its
    # own deviation is below 0.3 %).
    drawn = (draws - mean).square().mean(0).sqrt().mean((1, 2, 3))
    torch.testing.assert_close(resnet.deviations(new, x)[0], drawn, rtol=0.01, atol=0)


def test_forward_correction_takes_the_argmax_over_all_pictures(first):
    task, network = first
    with torch.no_grad():
        probabilities = network(stages.standardized(task.pictures)).softmax(1)
    rows = probabilities[probabilities.argmax(0)]
    expected = rows / rows.sum(1, keepdim=True)
    torch.testing.assert_close(stages.corruption_of(network, task), expected)


def test_batches_have_every_picture_once_a_pass():
    drawn = endless(10, 4, torch.Generator().manual_seed(0), whole=True)
    passes = [torch.cat([next(drawn), next(drawn)]) for _ in range(2)]
    assert all(len(places.unique()) == 8 for places in passes) and not torch.equal(*passes)
    assert len(next(endless(3, 32, torch.Generator(), whole=True))) == 3


def test_one_step_of_both_stages_with_the_true_resnet50():
    """The paper's graph, on two pictures of 64 x 32."""
    task = Task(torch.randint(256, (4, 3, 64, 32)).to(torch.uint8), torch.tensor([0, 1, 2, 0]), torch.zeros(4) > 0, 3)
    network = resnet.build("resnet50", 3, seed=0)
    stages.first_stage(network, task, Stage(1, 2, 3.5e-4), cross_entropy, 0, lambda: None)
    new, result = stages.second_stage(
        network, task, Stage(1, 2, 5e-4), METHODS[SE_SNN], None, 0, (1e-2, 4.0, "mean"), lambda: None
    )
    conv = new.layer4[2].conv3
    assert isinstance(conv, noisy.StochasticConv2d) and (conv.in_channels, conv.out_channels) == (512, 2048)
    assert result["trained"] == 2 * (512 * 2048 + 2048) + 3 * 2048 + 3
    assert stages.over(new, task.pictures, new.features).shape == (4, 2048)
    assert 0 < result["loss"] < 100
