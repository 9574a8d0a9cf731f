"""The recipe's keys of the conditioner. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from attrs import evolve, field, frozen, validators

from qi_core.errors import QiError
from qi_core.files import write_whole
from qi_core.release import copy_part, read_json

if TYPE_CHECKING:
    from qi_core.place import Place
    from qi_core.planning import Size
    from qi_plugins.cond_qwen25vl.conditioner import QwenConditioner

Template: TypeAlias = Literal["edit-plus", "edit"]
INDEX = "model_index.json"
EDITS: Mapping[object, Template] = {"QwenImageEditPipeline": "edit", "QwenImageEditPlusPipeline": "edit-plus"}
"""Pipelines that edit, by the class that their index names."""
RELEASED: Mapping[str, int] = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
}
"""Of Qwen2.5-VL-7B's language model."""


@frozen(kw_only=True)
class Qwen25VL:
    """Qwen2.5-VL with the templates of the released Qwen-Image models, frozen.

    A sample without reference pictures is told by the text-to-image template, one with pictures by an edit template,
    so one run can mix both. The language model is read when the run starts; the vision tower only when the first
    reference picture comes.
    """

    path: Path | None = None
    """Folder of a released model in diffusers' layout: holds text_encoder/, tokenizer/ and, for editing, processor/."""
    text_encoder: Path | None = None
    """Folder of the weights, if not <path>/text_encoder."""
    tokenizer: Path | None = None
    """Folder of the tokenizer, if not <path>/tokenizer."""
    processor: Path | None = None
    """Folder of the picture processor's settings, if not <path>/processor. Needed for reference pictures only."""
    edit_template: Template = "edit-plus"
    """How samples with references are told. edit-plus: any number of pictures at about 384x384 (Qwen-Image-Edit-2509
    and later); edit: one picture at about 1024x1024 (the first Qwen-Image-Edit)."""
    max_length: int = field(default=1024, validator=validators.gt(0))
    """Tokens that a text-to-image prompt may have after the template's prefix. Edit prompts have no limit, as in the
    released pipelines."""
    too_long: Literal["cut", "refuse"] = "cut"
    """What to do with a longer prompt: cut its end (logged, and counted in ``truncated``), or stop with an error."""
    batch: int = field(default=8, validator=validators.gt(0))
    """Prompts encoded at once; they are sorted by length first, so that little is padded."""
    cache_mib: int = field(default=1024, validator=validators.ge(0))
    """Memory of the CPU that keeps encoded prompts, least recently used leaving first; 0: keep none."""

    def build(self, place: Place) -> QwenConditioner:
        """Read the tokenizer and the language model."""
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise QiError(
                "conditioner qwen2.5-vl: the package transformers is not installed; it holds the text encoder's model; "
                "pip install qi[qwen]"
            ) from error
        from qi_plugins.cond_qwen25vl.conditioner import QwenConditioner

        return QwenConditioner(self, place)

    def plan_size(self) -> Size:
        """See ``qi_core.planning.Sized``. The language model alone: the vision tower (0.7 billion weights) comes with
        the first reference picture."""
        from qi_core.planning import Size

        try:
            found, note = read_json(self.folder("text_encoder") / "config.json", "the settings of Qwen2.5-VL"), ""
        except QiError:
            found, note = {}, "conditioner: no folder of a text encoder; taken as Qwen2.5-VL-7B"
        else:
            try:
                self._check_weights()
            except QiError as error:
                note = f"conditioner: {error}"
        config = dict(RELEASED) | found | found.get("text_config", {})
        width, layers = config["hidden_size"], config["num_hidden_layers"]
        keys = width * config["num_key_value_heads"] // config["num_attention_heads"]
        # A layer: q and o, k and v, their biases, three matrices of the MLP, two norms.
        layer = 2 * width**2 + 2 * width * keys + width + 2 * keys + 3 * width * config["intermediate_size"] + 2 * width
        return Size(width=width, parameters=config["vocab_size"] * width + layers * layer + width, note=note)

    def prompt_tokens(self, prompts: Sequence[str]) -> list[int]:
        """See ``qi_core.listing.Counting``. By the tokenizer alone."""
        folder = self.folder("tokenizer")
        from qi_plugins.cond_qwen25vl.templates import TEXT_TO_IMAGE
        from qi_plugins.cond_qwen25vl.weights import read_tokenizer

        tokenizer = read_tokenizer(folder)
        texts = [TEXT_TO_IMAGE.text(prompt, 0) for prompt in prompts]
        return [len(ids) - TEXT_TO_IMAGE.drop for ids in tokenizer(texts)["input_ids"]] if texts else []

    def folder(self, part: Literal["text_encoder", "tokenizer", "processor"]) -> Path:
        """Where a part of the checkpoint lies. Raises QiError if that is no folder."""
        own: Path | None = getattr(self, part)
        if own is None and self.path is None:
            raise QiError(
                f"conditioner qwen2.5-vl: neither path nor {part} is set; a folder of a released model was wanted; "
                f"set conditioner.path or conditioner.{part}"
            )
        folder = (own if own is not None else Path(str(self.path)) / part).expanduser()
        if not folder.is_dir():
            raise QiError(
                f"conditioner.{'path' if own is None else part}: there is no folder {folder}; a local checkpoint in "
                "diffusers' layout was wanted; correct the path or download the model first"
            )
        return folder

    def at(self, pipeline: Path) -> Qwen25VL:
        """See ``qi_core.release.Released``."""
        there = evolve(
            self,
            path=pipeline.resolve(),
            text_encoder=None,
            tokenizer=None,
            processor=None,
            edit_template=EDITS.get(_class_name(pipeline / INDEX), self.edit_template),
        )
        there.folder("tokenizer")
        there._check_weights()
        return there

    def _check_weights(self) -> None:
        """By the files' headers alone. Raises QiError for a file that cannot be read or a dtype that cannot be used."""
        from qi_core.tensorfiles import StoredTensors
        from qi_core.weights import refuse_unusable

        folder = self.folder("text_encoder")
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise QiError(f"{folder}: no safetensors files; want the weights of Qwen2.5-VL; get the checkpoint again")
        refuse_unusable(StoredTensors(files).forms, str(folder))

    def export(self, pipeline: Path) -> None:
        """See ``qi_core.release.Released``; the pipeline's index, with its class, and its scheduler come along."""
        for part in ("text_encoder", "tokenizer"):
            copy_part(self.folder(part), pipeline / part)
        processor: Path | None = None
        with suppress(QiError):  # a text-to-image model has none
            processor = self.folder("processor")
        if processor is not None:
            copy_part(processor, pipeline / "processor")
        whole = self.folder("text_encoder").parent
        if (whole / INDEX).is_file():
            write_whole(pipeline / INDEX, (whole / INDEX).read_bytes())
        if (whole / "scheduler").is_dir():
            copy_part(whole / "scheduler", pipeline / "scheduler")


def _class_name(index: Path) -> object:
    """What kind of pipeline it is; None where no index says so."""
    if not index.is_file():
        return None
    return read_json(index, "the index of a diffusers pipeline").get("_class_name")
