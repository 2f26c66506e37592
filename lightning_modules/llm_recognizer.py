"""Stage 2: a language model learns to name the actions that sentences tell of (LLM-AR section 3.3, Eq. 13)."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.optimization import Optimization
from lightning_modules.sharding import learning
from skeleton_llm.language import (
    Answers,
    Inputs,
    LanguageModel,
    LLMRecognizer,
    Prompt,
    Tuning,
    Wording,
    add_action_words,
)
from skeleton_llm.language.inputs import decoder_layer
from skeleton_llm.language.scoring import ties
from skeleton_llm.language.wording import IGNORED
from skeleton_llm.metrics import MeanClassAccuracy, NameAnswers
from skeleton_llm.networks import ActionTokenizer
from skeleton_llm.recognizer import Recognizer, read_views, score_views

_FEW = 5  # of top-5


class LitLLMRecognizer(L.LightningModule):
    """Tune a language model on action sentences; checkpoints hold what learns, never the base model.

    Args:
        tokenizer: folder of stage 1's action tokenizer, which stays frozen.
        class_names: the actions, from the data.
        layout: skeleton layout of the data; must be the tokenizer's.
        unseen: labels held out of training and validation, the only ones tested, from the data; empty for none.
        llm: the language model; must have the width that the tokenizer was made for.
        tuning: how much of it learns.
        prompt: the instruction.
        inputs: the form in which action sentences enter.
        optimization: optimiser and schedule.
        share_prefix: compute what all prompts of a batch begin with once.
        search: look in validation and test for the five likeliest names only, by best-first search, exact too and
            cheaper where names are many; without probabilities, so that no temperature is fitted.
        generate: also answer freely (greedily) in validation and test, and count names that do not exist.
        allow_unaligned: take a tokenizer whose codes were aligned with the words of another language model.
    """

    strict_loading = False  # checkpoints hold only what learns; on_load_checkpoint checks that they hold all of it

    def __init__(
        self,
        tokenizer: str,
        class_names: list[str],
        layout: str,
        llm: LanguageModel | None = None,
        tuning: Tuning | None = None,
        prompt: Prompt | None = None,
        inputs: Inputs | None = None,
        optimization: Optimization | None = None,
        *,
        unseen: list[int] | None = None,
        generate: bool = True,
        share_prefix: bool = True,
        search: bool = False,
        allow_unaligned: bool = False,
    ) -> None:
        """Check that tokenizer, data and language model fit, before the model is loaded."""
        super().__init__()
        self.unseen = unseen or []
        self.seen = [label for label in range(len(class_names)) if label not in self.unseen] if unseen else None
        self.llm, self.tuning = llm or LanguageModel(), tuning or Tuning()
        self.prompt = (prompt or Prompt()).holding_out(len(self.unseen))
        self.optimization = optimization or Optimization(
            lr=3e-3, betas=(0.9, 0.999), weight_decay=0.01, warmup_steps=100
        )
        self.inputs, self.share_prefix = inputs or Inputs(), share_prefix
        self.generate, self.search, self.class_names = generate, search, class_names
        self.tokenizer = ActionTokenizer.from_pretrained(tokenizer)
        if self.tokenizer.layout != layout:
            raise ValueError(
                f"{tokenizer}: the tokenizer reads the layout {self.tokenizer.layout}, the data have {layout};"
                " train stage 1 on such data"
            )
        read = {*self.tokenizer.info.get("dataset", {}).get("class_names", [])}
        read -= {*self.tokenizer.info.get("unseen", [])}
        if known := [class_names[label] for label in self.unseen if class_names[label] in read]:
            raise ValueError(
                f"{tokenizer} was trained on clips of {known[0]!r}, which data.init_args.unseen holds out;"
                " run stage 1 with the same overlay"
            )
        if self.tokenizer.dim != self.llm.width:
            raise ValueError(
                f"{tokenizer}: its codes are {self.tokenizer.dim} wide, the words of {self.llm.name} {self.llm.width};"
                " run stage 1 with the same LLM="
            )
        views = self.tokenizer.preprocess
        if search and (self.unseen or views.mirrored or views.turns):
            raise ValueError(
                "model.init_args.search looks at one view of a clip and at all names; set it to false where"
                f" {'data.init_args.unseen holds classes out' if self.unseen else 'preprocess has mirrored or turns'}"
            )
        if self.tuning.mode == "frozen" and not self.inputs.map:
            codes = "" if self.inputs.form != "vocabulary" else "inputs.form to codes and model.init_args."
            raise ValueError(
                "tuning.mode frozen without a map leaves nothing to learn;"
                f" set model.init_args.{codes}inputs.map to true"
            )
        outline = self.llm.outline()
        self.tuning.check_targets(outline)
        if self.inputs.layer is not None:
            decoder_layer(outline, self.inputs.layer)
        self.wording = Wording(self.llm.tokenizer(), class_names, self.prompt)
        # the test lists all classes in question, and so does every evaluation of a run that holds none out
        lists = [self.unseen, self.wording.longest_list(self.seen)] if self.seen else [None]
        for listed in lists:
            self.wording.check_room(self.inputs.repeat * self.tokenizer.longest_sentence, self.llm.context, listed)
        words, made_for = self.llm.fingerprint(), self.tokenizer.info.get("llm", {}).get("fingerprint")
        if made_for != words and not allow_unaligned:
            raise ValueError(
                f"{tokenizer} was aligned with the words of another language model of this width than {self.llm.name};"
                " run stage 1 with the same LLM=, or go on knowingly with --allow-unaligned"
            )
        self._base = f"{words} {self.llm.weights_fingerprint()}"
        self.network: LLMRecognizer | None = None
        self.measures = nn.ModuleDict()
        for split in ("val", "test"):
            self.measures[f"{split}/top1"] = MulticlassAccuracy(len(class_names), average="micro")
            self.measures[f"{split}/mean_class_accuracy"] = MeanClassAccuracy(len(class_names))
            if len(self.unseen or class_names) > _FEW:  # else all are among the best
                self.measures[f"{split}/top5"] = MulticlassAccuracy(len(class_names), average="micro", top_k=_FEW)
            if not search:
                self.measures[f"{split}/top1_length_normalised"] = MulticlassAccuracy(len(class_names), average="micro")
        self.free = nn.ModuleDict({split: NameAnswers(class_names) for split in ("val", "test")})

    def configure_model(self) -> None:
        if self.network is not None:
            return
        base, actions = self.llm.load(self.tuning.quantization), range(0)
        if self.inputs.form == "vocabulary":
            codebook = self.tokenizer.vqvae.quantizer.codebook()
            actions = add_action_words(base, self.wording.text, len(codebook), codebook)
        self.network = LLMRecognizer(
            self.tuning.apply(base, actions),
            self.wording,
            self.inputs,
            actions=actions,
            share_prefix=self.share_prefix,
        )
        if self.device_mesh is not None:
            self._sharding.split(self.network)

    def setup(self, stage: str) -> None:
        data: Any = self.trainer.datamodule
        data.preprocess, data.reader = self.tokenizer.preprocess, self.tokenizer
        if data.draws is not None and self.inputs.form == "latents":
            raise ValueError("data.init_args.draws keeps action sentences, not latents; set it to null for this form")
        named = self.wording.lengths[data.labels]  # tokens of each clip's answer
        data.lengths = self.inputs.repeat * self.tokenizer.sentence_lengths(data.data.table["length"]) + named

    def configure_optimizers(self) -> Any:
        return self.optimization.build(self.parameters(), self.trainer.max_steps)

    def on_fit_start(self) -> None:
        """Show one clip as the model sees it."""
        if self.trainer.is_global_zero and self.global_step == 0:
            data: Any = self.trainer.datamodule
            clip = {name: tensor.to(self.device) for name, tensor in data.training_sample(1).items()}
            tokens, mask = self.tokenizer.sentences(clip["joints"], clip["persons"], clip.get("lengths"))
            listed = self.wording.listings(clip["labels"], self.seen)
            read = self.inputs.repeat * tokens[mask].tolist()
            shown = self.wording.example(read, int(clip["labels"]), listed and listed[0])
            self.print(f"one training clip as the language model sees it (it learns what stands in [[ ]]):\n{shown}")

    def on_train_start(self) -> None:
        self.optimization.rule(self.trainer)
        self._network.train()  # from_pretrained leaves eval mode, in which gradient checkpointing never recomputes

    @property
    def _sharding(self) -> Any:
        """The strategy, where it is one that shards."""
        return self.trainer.strategy

    @property
    def _network(self) -> LLMRecognizer:
        assert self.network is not None, "configure_model builds it"
        return self.network

    def _views(self, batch: dict[str, Tensor], *, training: bool) -> list[tuple[Tensor, Tensor]]:
        """What the language model reads of each view of the clips (training: of the clips), and which of it counts."""
        network = self._network
        if "tokens" in batch:
            views = zip(batch["tokens"].unbind(1), batch["mask"].unbind(1), strict=True)
            return [(network.from_tokens(self.tokenizer, tokens), mask) for tokens, mask in views]
        given = (batch["joints"], batch["persons"], batch.get("lengths"))
        return [network.read(self.tokenizer, *given)] if training else read_views(self.tokenizer, network, *given)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        (sentences,) = self._views(batch, training=True)
        loss = self._network.loss(*sentences, batch["labels"], self.wording.listings(batch["labels"], self.seen))
        loss = loss * self._share(batch["labels"])
        self.log("train/loss", loss.detach())
        return loss

    def _share(self, labels: Tensor) -> Tensor | float:
        """Answer tokens of this rank over the ranks' mean: ranks' mean losses then average to that of all tokens."""
        if self.trainer.world_size == 1:
            return 1.0
        tokens = (self._network.answers[labels] != IGNORED).sum().float()
        total = tokens.clone()
        torch.distributed.all_reduce(total)  # Lightning's reduce is behind a barrier, which waits for the device
        return tokens / (total / self.trainer.world_size)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "test")

    def _in_question(self, batch: dict[str, Tensor], split: str) -> list[tuple[int, ...]] | None:
        """For each clip the classes that the prompt lists and the answer is one of; None for all.

        With classes held out these are the test's; a validation clip has as many seen ones, its own among them.
        """
        if not self.unseen:
            return None
        if split == "test":
            return self.wording.shuffled(self.unseen, batch["index"])
        return self.wording.listings(batch["labels"], self.seen, batch["index"])

    def _evaluate(self, batch: dict[str, Tensor], split: str) -> dict[str, Tensor]:
        views, listed = self._views(batch, training=False), self._in_question(batch, split)
        answers = self._few(views) if self.search else score_views(self._network, views, listed).among(listed)
        for name, metric in self.measures.items():
            if name.startswith(split):
                score = answers.normalised if name.endswith("normalised") else answers.log_likelihoods
                if len(score):  # a rank without clips only takes part in the metrics' sums
                    metric.update(score, batch["labels"])
                self.log(name, metric, prog_bar=name.endswith("top1"))
        tied = ties(answers.log_likelihoods, self._network.dtype)
        self.log(f"{split}/ties", float(tied), reduce_fx="sum", sync_dist=True, batch_size=1)
        if self.generate:
            self.free[split].update(self._network.generate(*views[0], listed), batch["labels"], listed)
        return {"scores": answers.log_likelihoods, "labels": batch["labels"], "index": batch["index"]}

    def _few(self, views: list[tuple[Tensor, Tensor]]) -> Answers:
        """The five likeliest names of the only view, -inf for all others."""
        ((sentences, mask),) = views
        found = self._network.best(sentences, mask, min(_FEW, len(self.class_names)))
        nowhere = found.log_likelihoods.new_full((len(mask), len(self.class_names)), float("-inf"))
        scores = nowhere.scatter(1, found.classes, found.log_likelihoods)
        return Answers(scores, scores / self._network.trie.lengths.to(scores.device))

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def _report(self, split: str) -> None:
        if self.generate:
            free = self.free[split]
            self.log_dict({f"{split}/greedy_{name}": value for name, value in free.compute().items()}, sync_dist=True)
            free.reset()

    def identity(self) -> dict[str, str]:
        """What a run cannot go on without: fingerprints by name."""
        return {"llm": self._base, "tokenizer": self.tokenizer.fingerprint()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = {*learning(self), "network.temperature"}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
        checkpoint["trained_on"] = self.identity()
        checkpoint["prompt"] = self.prompt.text

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for part, found in self.identity().items():
            if checkpoint.get("trained_on", {}).get(part) != found:
                raise ValueError(
                    f"the checkpoint was written with another {part}; give that one back or start a new RUN="
                )
        if self._trainer is not None and self._trainer.state.fn == "fit" and "optimizer_states" not in checkpoint:
            raise ValueError(
                "the checkpoint is one in shards, of which only trainer.strategy FSDP2 reads the optimiser's state;"
                " go on with that, or evaluate"
            )
        self.configure_model()
        asked = checkpoint.get("prompt", self.prompt.text)
        if asked != self.prompt.text:
            rank_zero_warn(
                f"the checkpoint was tuned with the prompt {asked!r}, now it is asked {self.prompt.text!r};"
                " model.init_args.prompt.text gives the first one back"
            )
        missing = learning(self) - set(checkpoint["state_dict"])
        if missing:
            raise ValueError(
                f"the checkpoint lacks {sorted(missing)[0]} and {len(missing) - 1} more; is it from another tuning?"
            )

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Write the recogniser; every rank takes part, and rank 0 writes."""
        recognizer = Recognizer(self.tokenizer, self._network)
        with self._sharding.gathered() if self.device_mesh is not None else nullcontext():
            if self.global_rank == 0:
                recognizer.save_pretrained(folder, self.llm, self.tuning, self.prompt)
