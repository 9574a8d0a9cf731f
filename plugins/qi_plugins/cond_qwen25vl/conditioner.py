"""The live conditioner: prompts and reference pictures to packed text tokens.

Shapes: B prompts of one pass through the model, L tokens of the longest of them, N tokens of all pictures, W width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen
from PIL import Image
from torch import Tensor

from qi_core.data import Condition
from qi_core.errors import QiError
from qi_core.weights import NO_FLOAT16
from qi_plugins.cond_qwen25vl.cache import Cache, key_of
from qi_plugins.cond_qwen25vl.templates import EDIT, EDIT_PLUS, IMAGE, TEXT_TO_IMAGE, Template
from qi_plugins.cond_qwen25vl.vision import Eyes, check_picture, positions
from qi_plugins.cond_qwen25vl.weights import identity, read_config, read_language, read_tokenizer

if TYPE_CHECKING:
    from qi_core.place import Place
    from qi_plugins.cond_qwen25vl.component import Qwen25VL

_LOG = logging.getLogger("qi.conditioner")


@frozen(kw_only=True, eq=False)
class _Request:
    """One prompt that the cache does not hold, ready for the model."""

    key: bytes
    ids: list[int]
    """The whole template, one id a token; those of pictures repeated as often as they have tokens."""
    drop: int
    pictures: tuple[Image.Image, ...]


class QwenConditioner:
    """Gives the hidden states after the final norm, without the template's prefix."""

    def __init__(self, settings: Qwen25VL, place: Place) -> None:
        if place.dtype not in (torch.float32, torch.bfloat16):
            raise QiError(
                f"conditioner qwen2.5-vl: asked to compute in {str(place.dtype).removeprefix('torch.')}; {NO_FLOAT16}"
            )
        folder = settings.folder("text_encoder")
        self.truncated = 0
        """Times that a prompt was cut because it was too long."""
        self._settings, self._place = settings, place
        self._config = read_config(folder)
        self._tokenizer = read_tokenizer(settings.folder("tokenizer"))
        self._check_tokenizer()
        self._language: Any = read_language(folder, self._config, place.dtype).to(place.device)
        self._eyes: Eyes | None = None
        self._identity = identity(folder, place.dtype)
        self._cache = Cache(settings.cache_mib << 20)

    @property
    def width(self) -> int:
        """Values in a token."""
        return int(self._config.text_config.hidden_size)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], references: Sequence[Sequence[Tensor]] = ()) -> Condition:
        """Prompts, each with its pictures (3, H, W) uint8 -> packed tokens. A prompt met twice is computed once."""
        if references and len(references) != len(prompts):
            raise QiError(
                f"{len(prompts)} prompts with {len(references)} lists of reference pictures: one list a prompt was "
                "wanted; give an empty list where there is no picture"
            )
        shown: Sequence[Sequence[Tensor]] = references or [()] * len(prompts)
        keys: list[bytes] = []
        known: dict[bytes, Tensor] = {}
        requests: list[_Request] = []
        for prompt, pictures in zip(prompts, shown, strict=True):
            template = self._template(pictures)
            keys.append(self._key(template, prompt, pictures))
            if keys[-1] in known:
                continue
            kept = self._cache.get(keys[-1])
            if kept is None:
                requests.append(self._prepare(keys[-1], template, prompt, pictures))
                known[keys[-1]] = self._nothing()
            else:
                known[keys[-1]] = kept.to(self._place.device)
        for key, text_LW in self._run(requests):
            known[key] = text_LW
            self._cache.put(key, text_LW)
        texts = [known[key] for key in keys]
        return Condition(text=torch.cat([self._nothing(), *texts]), lengths=tuple(len(text) for text in texts))

    def _nothing(self) -> Tensor:
        return torch.empty(0, self.width, device=self._place.device, dtype=self._place.dtype)

    def _template(self, pictures: Sequence[Tensor]) -> Template:
        if not pictures:
            return TEXT_TO_IMAGE
        if self._settings.edit_template == "edit-plus":
            return EDIT_PLUS
        if len(pictures) > 1:
            raise QiError(
                f"a sample with {len(pictures)} reference pictures: the template 'edit' shows one; give one, or "
                'set conditioner.edit_template = "edit-plus" if the model knows several'
            )
        return EDIT

    def _key(self, template: Template, prompt: str, pictures: Sequence[Tensor]) -> bytes:
        for picture in pictures:
            check_picture(picture)
        try:
            return key_of(self._identity, template.name, prompt, pictures)
        except UnicodeEncodeError as error:
            raise QiError(
                f"prompt {prompt[:40]!r}: character {error.start + 1} is half of a surrogate pair; Unicode text was "
                "wanted; read the captions as UTF-8"
            ) from error

    def _prepare(self, key: bytes, template: Template, prompt: str, pictures: Sequence[Tensor]) -> _Request:
        images: tuple[Image.Image, ...] = ()
        if pictures:
            eyes = self._open_eyes()
            images = tuple(eyes.resize(picture, template) for picture in pictures)
            if IMAGE in prompt:
                raise QiError(
                    f"prompt {prompt[:40]!r}: holds the token {IMAGE}, which stands for reference pictures; "
                    "take it out of the prompt"
                )
            counts = iter([eyes.count(image) for image in images])
            image_id = self._config.image_token_id
            ids = [
                token
                for one in self._ids(template.text(prompt, len(images)))
                for token in [one] * (next(counts) if one == image_id else 1)
            ]
        else:
            ids = self._limit(self._ids(template.text(prompt, 0)), template, prompt)
        return _Request(key=key, ids=ids, drop=template.drop, pictures=images)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return ids

    def _limit(self, ids: list[int], template: Template, prompt: str) -> list[int]:
        """Cut as the released pipeline does: the end goes, with the template's own last tokens."""
        found, limit = len(ids) - template.drop, self._settings.max_length
        if found <= limit:
            return ids
        told = f"prompt {prompt[:40]!r}: {found} tokens; at most {limit} were wanted"
        if self._settings.too_long == "refuse":
            raise QiError(f'{told}; shorten it, raise conditioner.max_length or set conditioner.too_long = "cut"')
        self.truncated += 1
        _LOG.warning("%s; its end was cut (%d cut so far)", told, self.truncated)
        return ids[: template.drop + limit]

    def _run(self, requests: Sequence[_Request]) -> list[tuple[bytes, Tensor]]:
        ordered = sorted(requests, key=lambda request: (bool(request.pictures), len(request.ids)))
        made: list[tuple[bytes, Tensor]] = []
        # A frozen encoder computes in its own dtype, whatever surrounds it: else the cache would mix precisions.
        with torch.autocast(self._place.device.type, enabled=False):
            for start in range(0, len(ordered), self._settings.batch):
                part = ordered[start : start + self._settings.batch]
                hidden_BLW = self._forward(part)
                made += [(r.key, hidden_BLW[i, r.drop : len(r.ids)]) for i, r in enumerate(part)]
        return made

    def _forward(self, part: Sequence[_Request]) -> Tensor:
        """(B, L, W). Padding stands on the right, where no token of a causal model looks: no mask is needed."""
        device = self._place.device
        longest = max(len(request.ids) for request in part)
        ids_BL = torch.zeros(len(part), longest, dtype=torch.long)
        is_image_BL = torch.zeros(len(part), longest, dtype=torch.bool)
        for i, request in enumerate(part):
            ids_BL[i, : len(request.ids)] = torch.tensor(request.ids)
            if request.pictures:
                is_image_BL[i, : len(request.ids)] = ids_BL[i, : len(request.ids)] == self._config.image_token_id
        embeds_BLW = self._language.embed_tokens(ids_BL.to(device))
        positions_3BL = torch.arange(longest).expand(3, len(part), -1).clone()
        images = [image for request in part for image in request.pictures]
        if images:
            seen = self._open_eyes().see(images)
            embeds_BLW = embeds_BLW.masked_scatter(is_image_BL[..., None].to(device), seen.tokens_NW)
            # Given, not left to the model: transformers 5 falls back to plain positions 0, 1, 2 ... without a word
            # unless mm_token_type_ids are passed, and the released weights were trained with M-RoPE.
            first = 0
            for i, request in enumerate(part):
                own = seen.grids[first : first + len(request.pictures)]
                first += len(own)
                positions_3BL[:, i] = positions(is_image_BL[i].tolist(), own)
        out = self._language(inputs_embeds=embeds_BLW, position_ids=positions_3BL.to(device), use_cache=False)
        hidden_BLW: Tensor = out.last_hidden_state
        return hidden_BLW

    def _open_eyes(self) -> Eyes:
        if self._eyes is None:
            self._eyes = Eyes(self._settings, self._config, self._place)
        return self._eyes

    def _check_tokenizer(self) -> None:
        """Another tokenizer would give tokens of another meaning, and the prefix would be cut in the wrong place."""
        folder = self._settings.folder("tokenizer")
        for template in (TEXT_TO_IMAGE, EDIT):
            found = len(self._ids(template.prefix))
            if found != template.drop:
                raise QiError(
                    f"{folder}: makes {found} tokens of the prefix of the template {template.name!r}; {template.drop} "
                    "were wanted; this is not the tokenizer of Qwen2.5-VL"
                )
        found, wanted = self._tokenizer.convert_tokens_to_ids(IMAGE), self._config.image_token_id
        if found != wanted:
            raise QiError(
                f"{folder}: {IMAGE} is token {found}; the text encoder's config.json says {wanted}; "
                "take both from the same model"
            )
