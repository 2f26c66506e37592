import io
import math
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from callbacks import (
    CodebookMap,
    CodebookUsageMonitor,
    CodebookWords,
    CodeMeaning,
    CollapseAlarm,
    Preemption,
    Reconstructions,
    TokenSheets,
)
from callbacks.collapse import Signs, likely_cause, norm_signs
from callbacks.token_sheets import Places
from skeleton_llm.geometry import nearest
from skeleton_llm.language import LanguageModel
from skeleton_llm.metrics import usage_report
from skeleton_llm.plotting import plot_poincare_disk
from small_runs import ROOT, run, stage1_arguments

SCALARS = {
    "codebook/dead_tokens", "codebook/zipf_exponent", "codebook/js_to_zipf", "codebook/tokens_alive",
    "codebook/class_information_nats", "codebook/class_information_share",
    "codebook/pair_correlation", "codebook/pair_correlation_control",
    "norms/token_spread", "norms/latent_saturation",
}  # fmt: skip
HISTOGRAMS = {
    "codebook/times_used", "codebook/token_idle_steps", "codebook/token_lifetime_steps",
    "codebook/pair_correlation", "codebook/pair_correlation_control", "norms/tokens", "norms/latents",
}  # fmt: skip
FIGURES = {"codebook/rank_frequency", "codebook/usage", "codebook/class_heat_map", "codebook/poincare_disk"}


def read(folder) -> EventAccumulator:
    events = EventAccumulator(
        str(next(folder.rglob("events*")).parent), size_guidance={"images": 0, "histograms": 0, "scalars": 0}
    )
    events.Reload()
    return events


@pytest.fixture(scope="module")
def observed(small_data, tmp_path_factory):
    """What a small run of the shipped config, watched by all, leaves in its event file."""
    folder = tmp_path_factory.mktemp("run")
    run(stage1_arguments(small_data, folder, "--model.init_args.network.tokens_per_step", "2"))
    return folder, read(folder)


def test_sentences_of_persons_and_clips_of_their_own_length_are_watched_too(small_data, tmp_path):
    more = ["--model.init_args.network.persons", "sentences", "--data.init_args.preprocess.length", "whole"]
    run(stage1_arguments(small_data, tmp_path, *more))
    events = read(tmp_path)
    assert set(events.Tags()["scalars"]) >= SCALARS
    assert all(math.isfinite(events.Scalars(tag)[-1].value) for tag in SCALARS)
    tags = events.Tags()["images"]
    assert {"codebook/class_heat_map", "codebook/poincare_disk", "reconstructions/clip_0"} <= set(tags)
    assert sum(tag.startswith("tokens/") for tag in tags) >= 6
    clips = [tag for tag in tags if tag.startswith("reconstructions/")]
    counts = [Image.open(io.BytesIO(events.Images(tag)[-1].encoded_image_string)).n_frames for tag in clips]
    assert all(1 < count <= 64 for count in counts)  # cut to the clip, thinned where it is long


@pytest.mark.filterwarnings("ignore:Encountered .nan. values", "ignore:the codebook is collapsing")
def test_a_codebook_of_nan_ends_no_run(small_data, tmp_path):
    """Every watcher after a validation whose weights are not numbers."""
    run(stage1_arguments(small_data, tmp_path, "--model.init_args.optimization.lr", "1e30"))
    assert not math.isfinite(read(tmp_path).Scalars("val/loss")[-1].value)


def test_every_number_of_a_run_is_there_at_every_validation(observed):
    _, events = observed
    tags = events.Tags()
    assert set(tags["scalars"]) >= SCALARS
    assert set(tags["histograms"]) >= HISTOGRAMS
    values = {tag: events.Scalars(tag) for tag in SCALARS}
    # as Lightning counts steps, from 0
    assert all([event.step for event in found] == [2, 5] for found in values.values())
    last = {tag: found[-1].value for tag, found in values.items()}
    assert all(math.isfinite(value) for value in last.values())
    assert 0 <= last["codebook/js_to_zipf"] <= math.log(2)
    assert 0 < last["codebook/class_information_share"] <= 1
    assert 0 < last["codebook/class_information_nats"] <= math.log(20)
    assert 0 < last["codebook/tokens_alive"] <= 32
    assert last["norms/latent_saturation"] == 0
    assert 0 <= last["norms/token_spread"] < 0.03


def test_the_monitors_divergence_is_the_modules_own(observed):
    _, events = observed
    ours, theirs = (events.Scalars(tag)[-1].value for tag in ("codebook/js_to_zipf", "val/js_to_zipf"))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert events.Scalars("codebook/dead_tokens")[-1].value == events.Scalars("val/dead_tokens")[-1].value


def test_histograms_hold_every_token_and_every_latent(observed):
    _, events = observed
    for tag in ("codebook/times_used", "codebook/token_idle_steps", "norms/tokens"):
        assert events.Histograms(tag)[-1].histogram_value.num == 32
    alive = events.Scalars("codebook/tokens_alive")[-1].value
    assert events.Histograms("codebook/token_lifetime_steps")[-1].histogram_value.num == alive
    latents = events.Histograms("norms/latents")[-1].histogram_value
    assert latents.num == sum(latents.bucket) == events.Histograms("codebook/times_used")[-1].histogram_value.sum
    assert latents.sum / latents.num == pytest.approx(1, abs=1e-3)


def test_figures_are_pictures_of_plausible_size(observed):
    _, events = observed
    assert set(events.Tags()["images"]) >= FIGURES
    for tag in FIGURES:
        for event in events.Images(tag):
            with Image.open(io.BytesIO(event.encoded_image_string)) as image:
                assert image.size == (event.width, event.height)
                assert 300 < min(image.size) <= max(image.size) < 1500
                assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_token_sheets_show_the_most_used_tokens(observed):
    _, events = observed
    tags = [tag for tag in events.Tags()["images"] if tag.startswith("tokens/")]
    steps = [event.step for tag in tags for event in events.Images(tag)]
    assert steps.count(2) == steps.count(5) == 6
    for tag in tags:
        event = events.Images(tag)[-1]
        with Image.open(io.BytesIO(event.encoded_image_string)) as image:
            assert image.format == "PNG"
            assert image.size in {(480, 192), (480, 384)}
            assert image.convert("RGB").getcolors() is not None


def test_all_watchers_stand_in_the_shipped_config(observed):
    config = next(observed[0].rglob("config.yaml")).read_text()
    for watcher in (CodebookUsageMonitor, CollapseAlarm, CodeMeaning, CodebookMap, TokenSheets, Reconstructions):
        assert f"callbacks.{watcher.__name__}" in config


class Stub(BoringModel):
    """Validation writes the sentences and latents it is given; the codebook is given too."""

    def __init__(self, indices, latents=None, codebook=None, *, ready=True) -> None:
        super().__init__()
        codebook = torch.nn.functional.normalize(torch.randn(64, 16), dim=-1) if codebook is None else codebook
        self.num_codes = len(codebook)
        pairs = torch.arange(self.num_codes).view(-1, 2)
        quantizer = SimpleNamespace(
            codebook=lambda: codebook, ready=ready, curvature=1.0, geometry="hyperbolic", pairs=pairs
        )
        self.vqvae = SimpleNamespace(quantizer=quantizer, apart=False, num_persons=1)
        self.llm = LanguageModel()
        latents = torch.full((*indices.shape, 16), 0.25) if latents is None else latents
        self.seen = {"indices": indices, "mask": torch.ones_like(indices, dtype=torch.bool), "latents": latents}

    def training_step(self, batch, batch_idx):
        return {"loss": super().training_step(batch, batch_idx)["loss"], **self.seen}

    def validation_step(self, batch, batch_idx):
        return self.seen


def watch(folder, model, *watchers, logger=True, ckpt_path=None, **options) -> L.Trainer:
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        logger=TensorBoardLogger(folder, name="", version="") if logger else False,
        callbacks=list(watchers),
        **{"max_steps": 2, "limit_val_batches": 1, "val_check_interval": 1, **options},
    )
    trainer.fit(model, ckpt_path=ckpt_path)
    return trainer


ONE_TOKEN = torch.zeros(2, 9, dtype=torch.long)


def test_a_collapsing_codebook_is_told_in_one_sentence_and_as_text(tmp_path):
    with pytest.warns(UserWarning, match=r"collapsing at step \d: perplexity 1\.0, 1 of 64 tokens in use; .*warm-up"):
        watch(tmp_path, Stub(ONE_TOKEN), CollapseAlarm())
    events = read(tmp_path)
    texts = events.Tensors("codebook/alarm/text_summary")
    assert [event.step for event in texts] == [0, 1]
    assert b"collapsing at step 2" in texts[-1].tensor_proto.string_val[0]


@pytest.mark.parametrize("ready", [True, False])
def test_there_is_no_alarm_without_a_collapse_or_before_the_codebook_stands(tmp_path, recwarn, ready):
    watch(tmp_path, Stub(torch.arange(64)[None] if ready else ONE_TOKEN, ready=ready), CollapseAlarm())
    assert not [warning for warning in recwarn if "collapsing" in str(warning.message)]
    assert "codebook/alarm/text_summary" not in read(tmp_path).Tags()["tensors"]


class Speaker(Stub):
    """Token k is used in batches 0 to k of training."""

    def training_step(self, batch, batch_idx):
        outputs = super().training_step(batch, batch_idx)
        outputs["mask"] = outputs["indices"] >= self.global_step
        return outputs


def test_lifetimes_go_on_in_a_resumed_run(tmp_path):
    tokens, trained = torch.arange(8)[None], {}
    for name, steps, start in (("whole", 6, None), ("first", 3, None), ("second", 6, tmp_path / "first.ckpt")):
        monitor, model = CodebookUsageMonitor(patience=2), Speaker(tokens)
        watchers = monitor, Preemption()  # whose steps settle
        trained[name] = watch(tmp_path / name, model, *watchers, max_steps=steps, val_check_interval=3, ckpt_path=start)
        trained[name].save_checkpoint(tmp_path / f"{name}.ckpt")
    states = [
        torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["callbacks"]["CodebookUsageMonitor"]
        for name in ("whole", "second")
    ]
    assert states[0]["last_used"][:8].tolist() == [1, 2, 3, 4, 5, 6, 6, 6]
    assert states[0]["born"][:8].tolist() == [1] * 8
    for key in ("born", "last_used"):
        assert states[1][key].equal(states[0][key])
    events = read(tmp_path / "second")
    assert [(event.step, event.value) for event in events.Scalars("codebook/tokens_alive")] == [(5, 5)]
    assert events.Histograms("codebook/token_lifetime_steps")[0].histogram_value.sum == 3 + 4 + 5 + 5 + 5


def directions(count=64):
    return torch.nn.functional.normalize(torch.randn(count, 16), dim=-1)


@pytest.mark.filterwarnings("ignore:.*no sign of norms.*")  # the first validation knows no motion
def test_an_alarm_names_the_cause_it_sees(tmp_path):
    short = directions()
    short[0] *= 0.9
    with pytest.warns(UserWarning, match=r"token norms spread by 1\.\d % .*narrow network\.token_norms"):
        watch(tmp_path, Stub(ONE_TOKEN, codebook=short), CollapseAlarm(), logger=False)
    far = torch.full((2, 9, 16), 4.0)
    with pytest.warns(UserWarning, match=r"100 % of the latents sit on the ball's boundary: .*network\.latents"):
        watch(tmp_path, Stub(ONE_TOKEN, latents=far), CollapseAlarm(), logger=False)
    restless = Stub(ONE_TOKEN)
    restless.vqvae.quantizer.codebook = directions
    with pytest.warns(UserWarning, match=r"the codebook moves 1\d\d % .*lower optimization\.lr"):
        watch(tmp_path, restless, CollapseAlarm(), logger=False)


@pytest.mark.parametrize(
    ("signs", "advice"),
    [
        (Signs(0.02, 0.02, 0.9, 1.0, 1.0), "narrow network.token_norms"),
        (Signs(0.02, 0.0, 0.9, 1.0, 1.0), "or lower network.curvature"),
        (Signs(0.001, 0.0, 0.1, 0.8, 1.0), "lower optimization.lr"),
        (Signs(0.02, 0.02, 0.9, 0.0, math.nan), "the loss is nan: lower optimization.lr"),
        (Signs(0.02, -0.02, 0.1, 0.1, 1.0), "model.quantize_after"),
    ],
)
def test_likely_cause(signs, advice):
    assert likely_cause(signs).rstrip(")").endswith(advice)


def test_norm_signs_of_short_used_tokens():
    spread, shorter = norm_signs(torch.tensor([0.9, 1.0, 1.0, 1.0]), torch.tensor([True, False, False, False]))
    assert spread == pytest.approx(np.std([0.9, 1, 1, 1], ddof=1) / 0.975)
    assert shorter == pytest.approx(0.1)


@pytest.mark.parametrize(("spread", "low", "high"), [(0.0, 450, 512), (0.01, 1, 50)])
def test_a_spread_of_norms_of_one_percent_collapses_random_directions_of_width_5120(spread, low, high):
    torch.manual_seed(0)
    directions = (torch.nn.functional.normalize(torch.randn(number, 5120), dim=-1) for number in (4096, 512))
    latents, tokens = directions
    tokens *= 1 + spread * torch.randn(512, 1)
    report = usage_report(torch.bincount(nearest(latents, tokens, 1.0), minlength=512))
    assert low < report.perplexity < high


def test_empty_batches_of_a_rank_without_clips_are_watched_too(tmp_path):
    nothing = torch.empty(0, dtype=torch.long)
    codebook = torch.nn.functional.normalize(torch.randn(64, 128), dim=-1)  # as wide as words
    model = Stub(torch.empty(0, 0, dtype=torch.long), torch.empty(0, 0, 128), codebook)
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(class_names=["sit", "stand"]),
        sanity_checking=False,
        is_global_zero=True,
        loggers=[TensorBoardLogger(tmp_path, name="", version="")],
        global_step=1,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=0)),
        state=SimpleNamespace(fn="validate"),
    )
    for watcher in (
        CodebookUsageMonitor(),
        CollapseAlarm(),
        CodeMeaning(),
        CodebookMap(),
        CodebookWords(),
        TokenSheets(),
    ):
        watcher.setup(trainer, model, "validate")
        watcher.on_validation_epoch_start(trainer, model)
        watcher.on_validation_batch_end(trainer, model, model.seen, {"labels": nothing, "index": nothing}, 0)
        watcher.on_validation_epoch_end(trainer, model)
    trainer.loggers[0].experiment.flush()
    tags = read(tmp_path).Tags()
    assert set(tags["scalars"]) == {"norms/token_spread"}
    assert tags["images"] == ["codebook/poincare_disk", "codebook/poincare_disk_words"]


def picture(event) -> np.ndarray:
    """Pixels [H, W, 3] of a picture in an event file."""
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        return np.asarray(image.convert("RGB"))


def test_a_disk_in_the_event_file_has_the_nearest_words_beside_the_most_used_tokens(tmp_path):
    llm = LanguageModel()
    words = llm.words()
    names = [llm.tokenizer().decode([word]).strip() for word in range(300, 308)]
    codebook = 0.9 * torch.nn.functional.normalize((words - words.mean(0))[300:308], dim=-1)
    indices = torch.tensor([[0] * 5 + [2] * 9 + [7] * 7 + [3]])
    watch(tmp_path, Stub(indices, codebook=codebook), CodebookWords(num_tokens=3))
    events = read(tmp_path)
    assert events.Tags()["images"] == ["codebook/poincare_disk_words"]
    found = [picture(event) for event in events.Images("codebook/poincare_disk_words")]
    counts = np.bincount(indices[0], minlength=8)
    with SummaryWriter(tmp_path / "expected") as writer:
        for tag, labels in (
            ("right", {2: names[2], 7: names[7], 0: names[0]}),
            ("wrong", {2: names[7]}),
            ("none", None),
        ):
            writer.add_figure(tag, plot_poincare_disk(codebook.numpy(), counts, 1.0, labels))
    expected = read(tmp_path / "expected")
    right, wrong, none = (picture(expected.Images(tag)[0]) for tag in ("right", "wrong", "none"))
    assert len(found) == 2
    assert all(np.array_equal(image, right) for image in found)
    assert not np.array_equal(right, wrong)
    assert not np.array_equal(right, none)


def test_the_overlay_for_words_adds_one_picture_and_writes_nothing_twice(small_data, tmp_path):
    run(stage1_arguments(small_data, tmp_path, "--config", str(ROOT / "configs/watch/words.yaml")))
    events = read(tmp_path)
    for tag in ("codebook/poincare_disk", "codebook/poincare_disk_words"):
        assert [event.step for event in events.Images(tag)] == [2, 5]
    for kind, seen in (("scalars", events.Scalars), ("histograms", events.Histograms)):
        steps = {tag: [event.step for event in seen(tag)] for tag in events.Tags()[kind]}
        assert all(len(found) == len(set(found)) for found in steps.values()), steps


def test_tokens_never_used_get_no_word():
    llm = LanguageModel()
    codebook = torch.nn.functional.normalize(llm.words()[300:308], dim=-1)
    labelled = CodebookWords(num_tokens=3)._nearest_words(llm, codebook, torch.tensor([5.0, 0, 0, 0, 0, 0, 0, 0]))
    assert labelled.keys() == {0}


def test_places_keep_one_place_a_clip_and_few_clips_a_token():
    rng = np.random.default_rng(0)
    places = Places(4)
    seen: dict[int, set[int]] = {}
    for first in range(0, 100, 10):
        rows = np.stack(
            [rng.integers(0, 8, 200), first + rng.integers(0, 10, 200), np.arange(200), np.full(200, -1)], axis=1
        )
        for token, clip, _, _ in rows.tolist():
            seen.setdefault(token, set()).add(clip)
        places.add(rows)
    for token, clips in seen.items():
        kept = places.of(token)[:, 1].tolist()
        assert len(kept) == len(set(kept)) == 4
        assert set(kept) <= clips
    everywhere = {clip // 10 for token in seen for clip in places.of(token)[:, 1].tolist()}
    assert len(everywhere) > 3  # not the first clips alone


def test_settings_without_sense_are_refused_with_the_value():
    for watcher, options in (
        (CodebookUsageMonitor, {"patience": 0}),
        (CollapseAlarm, {"collapse_share": 0}),
        (CodeMeaning, {"num_tokens": 0}),
        (CodebookWords, {"num_tokens": 0}),
        (TokenSheets, {"num_clips": 0}),
    ):
        with pytest.raises(ValueError, match=str(next(iter(options.values())))):
            watcher(**options)
