"""Image batches, read and preprocessed on CPU threads ahead of the device that wants them."""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from PIL import Image

from lenscore.images.geometry import ImageGeometry, image_geometry
from lenscore.images.image_files import ImageFile, UnreadableImageError, open_image
from lenscore.models.loading import Vlm
from storage_layouts.errors import InputError, first_line

THREADS = 4
"""Batches in preparation at a time; each thread has a processor of its own, for fast tokenizers refuse sharing."""


@dataclass(frozen=True)
class Batch:
    """Some images, ready for the model.

    `inputs` are the processor's tensors on the host, one row an image, or None where no image could be read;
    `image_ids` and `geometries` go with their rows. `unreadable` maps the ids of the others to the reason.
    """

    image_ids: tuple[int, ...]
    inputs: dict[str, Any] | None
    geometries: tuple[ImageGeometry, ...]
    unreadable: dict[int, str]


class BatchReader:
    """Turns image files into batches of a fixed size for one model and one prompt.

    Raises InputError at once if the processor does not work or the model's patch grid is not understood.
    """

    def __init__(self, vlm: Vlm, prompt: str, batch_size: int, threads: int = THREADS) -> None:
        self._vlm = vlm
        require_no_placeholder(prompt, vlm.model.config, vlm.tokenizer, getattr(vlm.processor, "image_token", None))
        self._text = prompt_with_image(vlm.processor, prompt)
        self._batch_size = batch_size
        # Labels are for training: some processors make them, and the model would compute a loss.
        self._accepted = set(inspect.signature(vlm.model.forward).parameters) - {"labels"}
        self._threads = threads
        self._processors: SimpleQueue[Any] = SimpleQueue()
        if vlm.tokenizer.pad_token is None:
            vlm.tokenizer.pad_token = vlm.tokenizer.eos_token  # padding is masked, whatever it is
        for _ in range(threads):
            self._processors.put(copy.deepcopy(vlm.processor))
        # One plain picture first: a processor that fails on it would fail on all, and blame the images.
        probe = Image.new("RGB", (64, 48))
        try:
            inputs = self._call(vlm.processor, [probe])
        except Exception as error:  # whatever a processor raises
            raise InputError(
                f"--model {vlm.name}: its processor cannot take a plain picture ({first_line(error)})"
            ) from error
        image_geometry(vlm, inputs, [probe.size])

    def read(self, images: Sequence[tuple[int, ImageFile]]) -> Iterator[Batch]:
        """The batches of (id, image) pairs, in order, each of `batch_size` images (the last may have fewer).

        Which images share a batch depends on their order alone: an unreadable one leaves a gap and moves no other.
        Errors of the preparing threads come out here. InputError for an image that changed since it was found.
        """
        groups = (images[i : i + self._batch_size] for i in range(0, len(images), self._batch_size))
        ahead: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self._threads) as pool:
            try:
                for group in groups:
                    ahead.append(pool.submit(self._prepare, group))
                    if len(ahead) > self._threads:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _prepare(self, group: Sequence[tuple[int, ImageFile]]) -> Batch:
        processor = self._processors.get()
        try:
            pictures: dict[int, Image.Image] = {}
            unreadable: dict[int, str] = {}
            for image_id, image in group:
                try:
                    pictures[image_id] = open_image(image)
                except UnreadableImageError as reason:
                    unreadable[image_id] = str(reason)
            return self._batch(processor, pictures, unreadable)
        finally:
            self._processors.put(processor)

    def batch_of(self, pictures: dict[int, Image.Image]) -> Batch:
        """One batch of pictures (RGB, by id) that are in memory already, as `read` makes it of files."""
        return self._batch(self._vlm.processor, dict(pictures), {})

    def _batch(self, processor: Any, pictures: dict[int, Image.Image], unreadable: dict[int, str]) -> Batch:
        if not pictures or (prepared := self._process(processor, pictures, unreadable)) is None:
            return Batch((), None, (), unreadable)
        inputs, geometries = prepared
        kept = {name: value for name, value in inputs.items() if name in self._accepted}
        return Batch(tuple(pictures), kept, tuple(geometries), unreadable)

    def _process(
        self, processor: Any, pictures: dict[int, Image.Image], unreadable: dict[int, str]
    ) -> tuple[Any, list[ImageGeometry]] | None:
        """The processor's outputs and the geometries; images that cannot be used move to `unreadable`.

        InputError for an image whose geometry is not understood, which is no fault of the image.
        """
        try:
            return self._together(processor, pictures)
        except InputError:
            raise
        except Exception:
            for image_id, picture in list(pictures.items()):
                try:
                    self._together(processor, {image_id: picture})
                except InputError:
                    raise
                except UnreadableImageError as reason:
                    unreadable[image_id] = str(reason)
                    del pictures[image_id]
                except Exception as error:  # whatever a processor raises at an image that it cannot take
                    unreadable[image_id] = f"the image processor refuses it: {first_line(error)}"
                    del pictures[image_id]
            return self._together(processor, pictures) if pictures else None

    def _together(self, processor: Any, pictures: dict[int, Image.Image]) -> tuple[Any, list[ImageGeometry]]:
        inputs = self._call(processor, list(pictures.values()))
        return inputs, image_geometry(self._vlm, inputs, [picture.size for picture in pictures.values()])

    def _call(self, processor: Any, pictures: list[Image.Image]) -> Any:
        begins = getattr(processor.tokenizer, "bos_token", None)
        return processor(
            images=[[picture] for picture in pictures],  # one a text: a flat list may mean many in one text
            text=[self._text] * len(pictures),
            return_tensors="pt",
            # Images of different sizes have different numbers of tokens. Behind, so that no position depends on it.
            padding=True,
            padding_side="right",
            # A chat template may have written BOS already, and two of them are one too many.
            add_special_tokens=not (begins and self._text.startswith(begins)),
        )


def require_no_placeholder(prompt: str, config: Any, tokenizer: Any, token: str | None = None) -> None:
    """InputError if the prompt holds the token that stands for the image, which comes before it by itself.

    ``token`` is what the processor calls it, where that is known.
    """
    image_id = getattr(config, "image_token_id", None)
    known = {token, None if image_id is None else tokenizer.convert_ids_to_tokens(image_id)}
    for placeholder in known - {None, ""}:
        if str(placeholder) in prompt:
            raise InputError(
                f"--prompt: holds {placeholder!r}, which stands for the image; leave it out, the image comes first"
            )


def prompt_with_image(processor: Any, prompt: str) -> str:
    """The text that goes with one image: the model's chat template, or the image token before the prompt."""
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        messages = [{"role": "user", "content": content}]
        return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return f"{processor.image_token} {prompt}".rstrip()
