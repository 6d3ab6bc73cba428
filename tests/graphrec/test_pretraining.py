"""Pre-training: what it learns of a planted language, breaks, ``fit_until``, and the files of encoders."""

import math
import signal
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graphrec.encoders.sentences import FIRST, BehaviorWords, UserSentences
from graphrec.encoders.userbert import SentenceSizes, UserBERT, WordSizes
from graphrec.training.checkpoint import load_checkpoint
from graphrec.training.masked_words import MaskedWordModel, mask_words
from graphrec.training.pretraining import (
    PretrainingConfig,
    load_encoder,
    load_node_encoder,
    masked_word_loss,
    pretrain,
    save_encoder,
)
from tests.graphrec.toy_sentences import SIZES, random_sentences

NUM_TOPICS, NUM_WORDS = 4, 8
TOY_SIZES = SentenceSizes(words={"long": WordSizes(num_codes=(FIRST + 2 * NUM_TOPICS,), num_positions=40)})


def toy_language(num_queries, seed, *, num_words=NUM_WORDS, positions=True):
    """Each user has a topic; a word says the topic and whether its day is odd."""
    generator = torch.Generator().manual_seed(seed)
    topic = torch.randint(NUM_TOPICS, (num_queries, 1), generator=generator)
    day = torch.randint(40, (num_queries, num_words), generator=generator).sort(dim=1).values
    code = FIRST + 2 * topic + day % 2
    words = BehaviorWords(
        ptr=torch.arange(num_queries + 1) * num_words,
        position=day.flatten() if positions else torch.zeros(num_queries * num_words, dtype=torch.int64),
        action_ptr=torch.arange(num_queries * num_words + 1),
        code=code.flatten()[:, None],
    )
    return UserSentences(words={"long": words}, profile=torch.zeros(num_queries, 0, dtype=torch.int64))


def small_model(sizes=TOY_SIZES, seed=0):
    torch.manual_seed(seed)
    return MaskedWordModel(UserBERT(sizes, channels=16, num_blocks=2, num_heads=2, attribute_channels=8))


# what a word's entropy is where whether its day is odd, or nothing of it, can be known
NO_CONTEXT = {
    "no positions": ({"positions": False}, math.log(2)),
    "no positions, no other words": ({"num_words": 1, "positions": False}, math.log(2 * NUM_TOPICS)),
}


def learnt(**options):
    """Return the loss of a zeroed word on held-out sentences, and the training curve."""
    config = PretrainingConfig(epochs=5, learning_rate=5e-3, chosen_share=0.4, zeroed_share=1.0)
    model, query_time = small_model(), torch.zeros(480, dtype=torch.int64)
    curve = pretrain(
        model, toy_language(480, 1, **options), query_time, fit_until=0, config=config, log_every=30
    )
    held_out = toy_language(300, 2, **options)
    return masked_word_loss(model, held_out, zeroed_share=1.0)["long"][0], curve


def test_words_that_predict_one_another_are_learnt():
    loss, curve = learnt()
    assert loss < 0.2
    # the curve is a mean over sentences of about three chosen words each; it starts from the shares
    assert curve[0].loss / 3 > 0.7 * math.log(2 * NUM_TOPICS)
    assert curve[-1].loss < 0.3 * curve[0].loss


@pytest.mark.parametrize("name", NO_CONTEXT)
def test_without_their_context_words_stay_unknown(name):
    options, entropy = NO_CONTEXT[name]
    loss, _ = learnt(**options)
    assert entropy - 0.03 < loss < math.log(2 * NUM_TOPICS) + 0.05


# 3 divides neither the 7 batches of an epoch nor the 14 steps
CONFIG = PretrainingConfig(epochs=2, batch_size=4, learning_rate=0.01, num_sampled=4, decay=True)
CHECKPOINT_EVERY, LOG_EVERY, NUM_STEPS = 3, 4, 14
COUNTS = [(i % 4, (i * 7) % 5) for i in range(30)]  # the third in ten has no word: 28 are left


def fit(checkpoint=None, on_step=None, fit_until=10):
    model = small_model(SIZES)
    sentences = random_sentences(COUNTS)
    curve = pretrain(
        model,
        sentences,
        torch.arange(30) % 10,
        fit_until=fit_until,
        config=CONFIG,
        checkpoint=checkpoint,
        checkpoint_every=CHECKPOINT_EVERY,
        log_every=LOG_EVERY,
        on_step=on_step,
    )
    return model, curve


@pytest.fixture(scope="module")
def undisturbed():
    return fit()


class BreakError(Exception):
    """What stands for a Ctrl-C."""


def assert_same_end(result, expected):
    for name, value in expected[0].named_parameters():
        assert torch.equal(result[0].get_parameter(name), value), name
    assert result[1] == expected[1]
    assert result[0].encoder.fit_until == expected[0].encoder.fit_until == 10


def test_resumes_to_the_same_bits_after_breaks(tmp_path, undisturbed):
    checkpoint = tmp_path / "model.pt"

    def break_at(step):
        def on_step(done, total):
            assert total == NUM_STEPS
            if done == step:
                raise BreakError

        return on_step

    for step in (2, 5, 10):  # before the first checkpoint, in the first epoch, in the second
        with pytest.raises(BreakError):
            fit(checkpoint, break_at(step))
    assert load_checkpoint(checkpoint)["step"] == 9
    seen = []
    assert_same_end(fit(checkpoint, lambda done, total: seen.append(done)), undisturbed)
    assert seen == list(range(9, NUM_STEPS + 1))
    with pytest.raises(
        ValueError, match="weights were fitted on data until 10, this encoder until 11: delete"
    ):
        fit(checkpoint, fit_until=11)


def test_every_sentence_with_a_word_comes_once_an_epoch_with_masks_of_its_own(monkeypatch):
    seen, masks = Counter(), Counter()

    def recorded(sentences, query, **options):
        batch = mask_words(sentences, query, **options)
        assert (options["chosen_share"], options["zeroed_share"]) == (0.15, 0.8)
        seen.update((options["epoch"], number) for number in query.tolist())
        owner = torch.arange(len(query)).repeat_interleave(sentences.words["short"].ptr.diff())
        words = batch.chosen["short"].word
        places = words - sentences.words["short"].ptr[owner[words]]
        masks.update(zip(query[owner[words]].tolist(), places.tolist(), strict=True))
        return batch

    monkeypatch.setattr("graphrec.training.pretraining.mask_words", recorded)
    fit()
    with_words = [number for number, counts in enumerate(COUNTS) if sum(counts)]
    assert seen == Counter({(epoch, number): 1 for epoch in (0, 1) for number in with_words})
    assert {1, 2} <= set(masks.values())  # some words are chosen in one epoch alone


@pytest.mark.slow
def test_resumes_after_sigkill(tmp_path, undisturbed):
    checkpoint = tmp_path / "model.pt"
    code = (
        "import os, signal, sys, pathlib\n"
        "from tests.graphrec.test_pretraining import fit\n"
        "kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done == 8 else None\n"
        "fit(pathlib.Path(sys.argv[1]), kill)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint)], cwd=Path(__file__).parents[2], capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert load_checkpoint(checkpoint)["step"] == 6
    assert_same_end(fit(checkpoint), undisturbed)


def test_an_encoder_comes_back_as_it_was(tmp_path, undisturbed):
    path, sentences = tmp_path / "encoder.pt", random_sentences(COUNTS)
    encoder = undisturbed[0].encoder.eval()
    save_encoder(path, encoder)
    loaded = load_encoder(path, label_start=10)
    assert (loaded.sizes, loaded.options, loaded.fit_until) == (encoder.sizes, encoder.options, 10)
    assert torch.equal(loaded(sentences), encoder(sentences))
    assert not loaded.training
    with pytest.raises(ValueError, match="pre-trained on data until 10, labels begin at 9"):
        load_encoder(path, label_start=9)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"encoder\.pt is not a whole checkpoint"):
        load_encoder(path, label_start=10)


def test_training_goes_on_with_what_was_learnt(undisturbed):
    model = MaskedWordModel(UserBERT(SIZES, channels=16, num_blocks=2, num_heads=2, attribute_channels=8))
    model.load_state_dict(undisturbed[0].state_dict())
    options = {"config": replace(CONFIG, epochs=1, learning_rate=0.0)}
    query_time = torch.arange(30) % 8
    pretrain(model, random_sentences(COUNTS), query_time, fit_until=8, **options)
    assert_same_end((model, undisturbed[1]), undisturbed)  # what it saw before counts too, biases stay
    pretrain(model, random_sentences(COUNTS), query_time, fit_until=12, **options)
    assert model.encoder.fit_until == 12


def test_what_cannot_be_trained_on_is_told():
    model, sentences = small_model(SIZES), random_sentences(COUNTS)
    with pytest.raises(ValueError, match="6 of 30 query times lie after fit_until=7, the latest at 9"):
        pretrain(model, sentences, torch.arange(30) % 10, fit_until=7)
    with pytest.raises(ValueError, match="one query time: 30 and 3"):
        pretrain(model, sentences, torch.arange(3), fit_until=7)
    with pytest.raises(ValueError, match="none of 2 sentences has a word"):
        pretrain(model, random_sentences([(0, 0)] * 2), torch.zeros(2, dtype=torch.int64), fit_until=7)
    other = replace(SIZES, profile=(1, 1, 1, 1))
    with pytest.raises(ValueError, match="code of profile field 0"):
        pretrain(small_model(other), sentences, torch.zeros(30, dtype=torch.int64), fit_until=7)
    assert model.encoder.fit_until is None
    for wrong in ({"chosen_share": 1.5}, {"chosen_share": 0.0}, {"zeroed_share": -0.1}, {"num_sampled": 0}):
        with pytest.raises(ValueError, match=f"PretrainingConfig.{next(iter(wrong))} must be"):
            PretrainingConfig(**wrong)


def test_a_checkpoint_of_another_run_is_refused_and_says_what_differs(tmp_path):
    path, query_time = tmp_path / "run.pt", torch.arange(30) % 10

    def run(config=CONFIG, counts=COUNTS):
        model = small_model(SIZES)
        pretrain(model, random_sentences(counts), query_time, fit_until=10, config=config, checkpoint=path)

    run()
    for name, value, before in (
        ("learning_rate", 0.5, 0.01),
        ("random_seed", 9, 0),
        ("num_sampled", 3, 4),
        ("chosen_share", 0.5, 0.15),
        ("epochs", 3, 2),
    ):
        with pytest.raises(
            ValueError, match=f"run: config.{name} is {value}, the checkpoint has {before}. Give this run"
        ):
            run(replace(CONFIG, **{name: value}))
    with pytest.raises(ValueError, match="run: sentences is "):
        run(counts=[*COUNTS[1:], COUNTS[0]])
    save_encoder(path, small_model(SIZES).encoder)
    with pytest.raises(ValueError, match="not a checkpoint of a training: it holds"):
        run()


def test_a_short_run_that_diverges_is_told_and_saved_nowhere(tmp_path):
    path = tmp_path / "run.pt"
    config = replace(CONFIG, learning_rate=1e30, decay=False)
    with pytest.raises(ValueError, match=r"the loss is nan after|is not finite after the last step"):
        pretrain(
            small_model(SIZES),
            random_sentences(COUNTS),
            torch.arange(30) % 10,
            fit_until=10,
            config=config,
            checkpoint=path,
        )
    assert not path.exists()


def test_new_output_layers_on_a_trained_encoder_start_from_counts(undisturbed):
    query_time, config = torch.arange(30) % 10, replace(CONFIG, epochs=0)
    biases = []
    for encoder in (small_model(SIZES).encoder, deepcopy(undisturbed[0].encoder)):
        model = MaskedWordModel(encoder)
        pretrain(model, random_sentences(COUNTS), query_time, fit_until=10, config=config)
        biases.append(torch.cat([head.bias for head in model.modules_of_heads()]))
    assert torch.equal(biases[0], biases[1])
    assert bool(biases[0].any())


def test_a_file_of_something_else_is_no_encoder(tmp_path, undisturbed):
    path = tmp_path / "run.pt"
    fit(path)
    with pytest.raises(ValueError, match=r"run\.pt is not an encoder's file"):
        load_encoder(path, label_start=10)
    save_encoder(path, undisturbed[0].encoder)
    with pytest.raises(ValueError, match="holds no tokenizer"):
        load_node_encoder(path, label_start=10)


def test_mixed_precision_is_close():
    query_time = torch.zeros(30, dtype=torch.int64)
    curves = [
        pretrain(
            small_model(SIZES),
            random_sentences(COUNTS),
            query_time,
            fit_until=0,
            config=replace(CONFIG, mixed_precision=mixed, num_sampled=num_sampled),
            log_every=7,
        )
        for mixed, num_sampled in ((False, None), (True, None), (True, 4))
    ]
    exact, mixed, sampled = ([point.loss for point in curve] for curve in curves)
    assert mixed != exact
    assert mixed == pytest.approx(exact, rel=0.02)
    assert sampled == pytest.approx(exact, rel=0.1)


def test_evaluation_is_a_mean_over_chosen_words_whatever_the_batch():
    model, sentences = small_model(SIZES), random_sentences(COUNTS)
    with torch.no_grad():
        for head in model.modules_of_heads():
            head.weight.zero_()
    found = masked_word_loss(model, sentences, chosen_share=1.0, batch_size=7)
    for kind, size in SIZES.words.items():
        words = sentences.words[kind]
        for attribute, num_codes in enumerate(size.num_codes):
            present = [
                len(set(words.code[words.action_ptr[w] : words.action_ptr[w + 1], attribute].tolist()) - {0})
                for w in range(words.num_words)
            ]
            expected = sum(present) / len(present) * math.log(num_codes - 1)
            assert found[kind][attribute] == pytest.approx(expected, rel=1e-5)
    small = small_model(SIZES)
    by_batch = [masked_word_loss(small, sentences, batch_size=size)["short"] for size in (1, 30)]
    assert by_batch[0] == pytest.approx(by_batch[1], rel=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mixed_precision", [False, True])
def test_learns_on_the_gpu(mixed_precision):
    model, sentences = small_model().cuda(), toy_language(480, 1).to("cuda")
    config = PretrainingConfig(
        epochs=5, learning_rate=5e-3, chosen_share=0.4, zeroed_share=1.0, mixed_precision=mixed_precision
    )
    pretrain(model, sentences, torch.zeros(480, dtype=torch.int64), fit_until=0, config=config)
    assert masked_word_loss(model, toy_language(300, 2), zeroed_share=1.0)["long"][0] < 0.3
